# The steps: compare, write the next count to every disk in turn, say how far we are, wait.

main:
    call widen
    call find_disks
    call choose_boot
    call start_timer
    call fill_ram
    call learn
    SAY "WITNESS ready boot="
    mov edi, offset boot
    call quadword
    SAY " disks="
    mov eax, [disks]
    call decimal
    cmp dword ptr [count], 0
    jne 1f
    SAY " from=fresh"
    jmp 2f
1:  SAY " from=cold"
2:  SAY " count="
    mov eax, [count]
    call decimal
    SAY "\n"

# The comparison opens a step and the wait comes just before it: a guest that was captured asleep
# compares first when it wakes, before a write could heal anything.
step:
    mov dword ptr [disk], 0
1:  call compare_disk
    call next_disk
    jb 1b
    inc dword ptr [count]
    mov dword ptr [disk], 0
2:  call write_count
    call next_disk
    jb 2b
    call make_dirty
    call status
3:  cli                             # no tick between the look and the halt
    mov eax, [ticks]
    cmp eax, [waited_for]
    jne 4f
    sti
    hlt
    jmp 3b
4:  sti
    mov [waited_for], eax
    jmp step

# Carry while there is a next disk.
next_disk:
    inc dword ptr [disk]
    mov eax, [disk]
    cmp eax, [disks]
    ret

status:
    cmp dword ptr [until_status], 0
    jne 1f
    movzx eax, word ptr [steps_per_status]
    mov [until_status], eax
    SAY "WITNESS boot="
    mov edi, offset boot
    call quadword
    SAY " count="
    mov eax, [count]
    call decimal
    SAY " mismatches="
    mov eax, [mismatches]
    call decimal
    SAY " dirty_mbps="
    mov eax, [dirty_mbps]
    call decimal
    SAY " dirty_pages="
    mov eax, [dirtied]
    call decimal
    SAY "\n"
1:  dec dword ptr [until_status]
    ret

# Finds the writable disks among the first 16 of the BIOS: one sector can be written back.
find_disks:
    mov dl, 0x80
1:  mov eax, PROBE_SECTOR
    mov cx, 1
    mov bx, SLOT / 16
    call read
    jc 2f
    call write
    jc 2f
    mov bx, [disks]
    mov [drives + bx], dl
    inc word ptr [disks]
    cmp word ptr [disks], MAX_DISKS
    je 3f
2:  inc dl
    cmp dl, 0x90
    jb 1b
    cmp word ptr [disks], 0
    je no_disk
3:  ret

no_disk:
    SAY "WITNESS fatal no disk\n"
    # Falls through.

# Switches the machine off; if the BIOS does not know how, stops here for ever.
power_off:
    mov ax, 0x5307
    mov bx, 1
    mov cx, 3
    int 0x15
    cli
1:  hlt
    jmp 1b

# Chooses a number that no other boot has: the time of day and how many cycles the machine has run,
# which differs by many thousands from boot to boot.
choose_boot:
    mov edi, SLOT
    call clear_slot
    rdtsc
    mov [edi], eax
    mov [edi + 4], edx
    mov cx, 10                      # the clock's registers: seconds to year
1:  mov al, cl
    dec al
    out 0x70, al
    in al, 0x71
    movzx ebx, cx
    mov [edi + ebx + 8], al
    loop 1b
    call hash
    mov [boot], eax
    mov [boot + 4], edx
    ret

# One tick a step instead of the BIOS's 18 a second.
start_timer:
    cli
    mov word ptr [8 * 4], offset tick
    mov word ptr [8 * 4 + 2], 0
    mov al, 0x34
    out 0x43, al
    mov ax, [timer_divisor]
    out 0x40, al
    mov al, ah
    out 0x40, al
    sti
    ret

tick:
    push ax
    inc dword ptr cs:[ticks]
    mov al, 0x20
    out 0x20, al
    pop ax
    iret
