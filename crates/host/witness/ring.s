# The rings on the disks, and what RAM says that they hold.

# EDI: what slot EAX of the disk must hold.
mirror:
    and eax, SLOTS - 1
    mov edi, [disk]
    shl edi, 11
    add edi, eax
    shl edi, 6
    add edi, MIRRORS
    ret

clear_slot:                         # at EDI
    push edi
    xor eax, eax
    mov ecx, 64 / 4
    addr32 rep stosd
    pop edi
    ret

# EDX:EAX: FNV-1a of the 32 bytes at EDI. The prime is 2^40 + 0x1b3.
hash:
    mov eax, 0x84222325
    mov edx, 0xcbf29ce4
    xor ecx, ecx
1:  xor al, [edi + ecx]
    mov ebx, eax
    imul esi, edx, 0x1b3
    mov edx, 0x1b3
    mul edx
    add edx, esi
    shl ebx, 8
    add edx, ebx
    inc ecx
    cmp ecx, 32
    jb 1b
    ret

# AL: what is at EDI: an 'e'ntry of this disk, 'n'othing, one of an'o'ther disk, or 'g'arbage.
decode:
    cmp dword ptr [edi], 0x52544956     # "VITR"
    jne 1f
    cmp dword ptr [edi + 4], 0x01544957 # "WIT", version 1
    jne 2f
    push ebx
    call hash
    pop ebx
    cmp eax, [edi + 32]
    jne 2f
    cmp edx, [edi + 36]
    jne 2f
    mov eax, [disk]
    cmp eax, [edi + 24]
    mov al, 'e'
    je 3f
    mov al, 'o'
    ret
1:  push edi
    xor eax, eax
    mov ecx, 64 / 4
    addr32 repe scasd
    pop edi
    mov al, 'n'
    je 3f
2:  mov al, 'g'
3:  ret

# Reads CX slots from slot EAX on into the buffer; carry if that fails, which is said. The first
# is then in [first_slot], their number in [slots_read].
read_slots:
    mov [first_slot], eax
    mov [slots_read], cx
    add eax, RING_SECTOR
    mov bx, BUFFER / 16
    call drive
    call read
    jc failed
    ret

drive:                              # DL: the disk's number in the BIOS
    mov si, [disk]
    mov dl, [si + drives]
    ret

# Says that the disk failed at slot [first_slot]. Returns with carry.
failed:
    inc dword ptr [mismatches]
    mov eax, [first_slot]
    call say_place
    SAY " expected=done found=error-"
    movzx eax, byte ptr [disk_error]
    call hexadecimal
    SAY "\n"
    stc
    ret

# Compares the ring of the disk with RAM: the slots around the head, which hold the nearest past and
# the oldest, in two parts if they wrap, and each fourth step one block more, so that 128 steps compare
# the whole ring. Not more often: the BIOS waits for a disk without rest.
compare_disk:
    mov dword ptr [said], 0
    mov eax, [count]
    sub eax, BLOCK / 2 - 1
    and eax, SLOTS - 1
    mov cx, SLOTS
    sub cx, ax
    cmp cx, BLOCK
    jb 1f
    mov cx, BLOCK
1:  push cx
    call compare_slots
    pop dx
    xor eax, eax
    mov cx, BLOCK
    sub cx, dx
    jz 2f
    call compare_slots
2:  mov eax, [count]
    test al, 3
    jnz 3f
    shl eax, 4
    and eax, SLOTS - BLOCK
    mov cx, BLOCK
    # Falls through.

# Compares CX slots from slot EAX on.
compare_slots:
    call read_slots
    jc 3f
    mov eax, [first_slot]
    call mirror
    mov ebx, edi
    mov ebp, BUFFER
    mov cx, [slots_read]
1:  push cx
    mov esi, ebp
    mov edi, ebx
    mov ecx, 64 / 4
    addr32 repe cmpsd
    je 2f
    call say_difference
2:  pop cx
    add ebx, 64
    add ebp, 512
    loop 1b
3:  ret

# Counts that the slot at EBP should be as the one at EBX, and says the first few such.
say_difference:
    call may_say
    jae 1f
    mov eax, ebp
    sub eax, BUFFER
    shr eax, 9
    add eax, [first_slot]
    call say_place
    SAY " expected="
    mov edi, ebx
    call say_slot
    SAY " found="
    mov edi, ebp
    call say_slot
    SAY "\n"
1:  ret

# Counts a mismatch; carry if it is to be spelt out.
may_say:
    inc dword ptr [mismatches]
    inc dword ptr [said]
    cmp dword ptr [said], SPELT_OUT + 1
    ret

say_place:                          # slot EAX of the disk
    push eax
    SAY "WITNESS MISMATCH disk=vd"
    call drive
    mov al, dl
    add al, 'a' - 0x80
    call put
    SAY " slot="
    pop eax
    jmp decimal

say_slot:                           # what is at EDI
    call decode
    cmp al, 'e'
    je 1f
    cmp al, 'n'
    je 2f
    cmp al, 'o'
    je 3f
    SAY "garbage"
    ret
1:  mov eax, [edi + 8]
    call decimal
    mov al, '@'
    call put
    push edi
    add edi, 16
    call quadword
    pop edi
    ret
2:  SAY "empty"
    ret
3:  SAY "slot-of-disk-"
    mov eax, [edi + 24]
    jmp decimal

# Writes the count through to the disk, then remembers it.
write_count:
    mov edi, SLOT
    call clear_slot
    mov dword ptr [edi], 0x52544956
    mov dword ptr [edi + 4], 0x01544957
    mov eax, [count]
    mov [edi + 8], eax
    mov eax, [boot]
    mov [edi + 16], eax
    mov eax, [boot + 4]
    mov [edi + 20], eax
    mov eax, [disk]
    mov [edi + 24], eax
    call hash
    mov [edi + 32], eax
    mov [edi + 36], edx
    mov eax, [count]
    and eax, SLOTS - 1
    mov [first_slot], eax
    add eax, RING_SECTOR
    mov cx, 1
    mov bx, SLOT / 16
    call drive
    call write
    jnc 1f
    call failed
1:  mov eax, [count]
    call mirror
    mov esi, SLOT
    # Falls through.

copy_slot:                          # from ESI to EDI
    mov ecx, 64 / 4
    addr32 rep movsd
    ret

# Learns all rings as they are at boot, judges them, and sets the count to the last that every disk
# holds.
learn:
    mov dword ptr [disk], 0
    mov dword ptr [count], -1
1:  call learn_disk
    call judge_disk
    mov bx, [disk]
    shl bx, 2
    mov [bx + newest], eax
    cmp eax, [count]
    jae 2f
    mov [count], eax
2:  call next_disk
    jb 1b

# Disks are written in order: at any instant their counts fall by one in all, at one place, or not
# at all. That is so if none is larger than the one before and the last is at most one behind.
    mov bx, [disks]
    shl bx, 2
    mov edx, [newest]
    dec edx                         # the least that they may hold; -1 is less than 0
3:  sub bx, 4
    jz 4f
    mov eax, [bx + newest]
    cmp eax, edx
    jl torn_disks
    cmp eax, [bx + newest - 4]
    jbe 3b
torn_disks:
    inc dword ptr [mismatches]
    SAY "WITNESS MISMATCH disks expected=one-instant found="
    xor bx, bx
5:  mov eax, [bx + newest]
    call decimal
    add bx, 4
    mov ax, bx
    shr ax, 2
    cmp ax, [disks]
    je 6f
    mov al, ','
    call put
    jmp 5b
6:  SAY "\n"
4:  ret

# Takes the entries on the disk into RAM. What is none is nothing there.
learn_disk:
    xor eax, eax
1:  mov cx, BLOCK
    call read_slots
    jc unreadable
    mov eax, [first_slot]
    call mirror
    mov ebx, edi
    mov ebp, BUFFER
    mov cx, BLOCK
2:  push cx
    mov edi, ebp
    call decode
    mov edi, ebx
    cmp al, 'e'
    je 3f
    call clear_slot
    jmp 4f
3:  mov esi, ebp
    call copy_slot
4:  pop cx
    add ebx, 64
    add ebp, 512
    loop 2b
    mov eax, [first_slot]
    add eax, BLOCK
    cmp eax, SLOTS
    jb 1b
    ret

unreadable:
    SAY "WITNESS fatal cannot read a disk\n"
    jmp power_off

# Judges whether the disk holds a gapless past: the newest count and those before it, each in its
# place. EAX: the newest.
judge_disk:
    mov dword ptr [said], 0
    xor ebx, ebx
    xor eax, eax
    call mirror
    mov cx, SLOTS
1:  cmp ebx, [edi + 8]
    jae 2f
    mov ebx, [edi + 8]
2:  add edi, 64
    loop 1b
    xor ebp, ebp
3:  mov eax, ebx                    # the count that belongs in slot EBP
    sub eax, ebp
    and eax, SLOTS - 1
    sub eax, ebx
    neg eax
    jns 4f
    xor eax, eax
4:  mov ecx, eax
    mov eax, ebp
    call mirror
    cmp ecx, [edi + 8]
    je 5f
    call may_say
    jae 5f
    push ecx
    mov eax, ebp
    call say_place
    SAY " expected="
    pop eax
    call decimal
    SAY " found="
    call say_slot
    SAY "\n"
5:  inc ebp
    cmp ebp, SLOTS
    jb 3b
    mov eax, ebx
    ret
