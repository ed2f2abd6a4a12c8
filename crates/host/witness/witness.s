# The witness as boot-sector code: what lab/witness does under Linux, in a few sectors that a BIOS
# loads in well under a second, also inside a machine that is emulated itself. It owns the machine
# that it runs in and writes to every writable disk there; never boot a real one from it.
#
# It writes a rising count into a ring of 2,048 slots on every disk and keeps in RAM what each slot
# must hold. Before each step it compares the slots around the head and one more part of the ring,
# so that the past must be there and the future must not. One block that is written again and again
# would not do: the write in flight at a capture is repeated after a restore and heals it. Slots and
# lines are those of the Linux witness: lab/witness/src/slot.rs and line.rs.
#
# Sectors of a disk:  0        this code, on the first disk; the BIOS loads sector 0, it the others
#                     63       read and written back at boot, to find out whether the disk is writable
#                     64       the ring, a slot a sector
# Memory:             00600    the stack, down from 07c00
#                     07c00    this code
#                     09000    variables
#                     10000    what was read from a disk: 64 slots
#                     18000    the slot to write
#                     100000   what the slots of the disks must hold: 64 bytes each, 128 KiB a disk
#                     200000   the fill, whose pages are made dirty
#
# The BIOS asks QEMU's virtio disks for no write cache, so QEMU syncs each write: what was written is
# durable, in order. The BIOS polls meanwhile, so a guest whose disks sync slowly keeps its CPU busy.
#
# Real mode, because the BIOS's disk services need it; segments 0 with a limit of 4 GiB, which
# `widen` renews after each call of the BIOS. A slot is passed by its address in EDI.

.intel_syntax noprefix
.code16

.equ CODE_SECTORS,  6
.equ PARAMETERS,    434             # in sector 0; src/witness.rs writes them
.equ CODE,          0x7c00
.equ VARIABLES,     0x9000
.equ BUFFER,        0x10000
.equ SLOT,          0x18000
.equ MIRRORS,       0x100000
.equ FILL,          0x200000

.equ MAX_DISKS,     4
.equ PROBE_SECTOR,  63
.equ RING_SECTOR,   64
.equ SLOTS,         2048
.equ BLOCK,         64              # slots that are read at once
.equ SPELT_OUT,     4               # mismatches of a disk and step that are said; the rest is counted

.bss
packet:         .skip 16            # int 13h's disk address packet
disk_error:     .skip 4             # the BIOS's reason, if it refused
disks:          .skip 4             # how many
disk:           .skip 4             # the one that is looked at
drives:         .skip MAX_DISKS     # their numbers in the BIOS
newest:         .skip 4 * MAX_DISKS # the newest count that each held at boot
boot:           .skip 8             # this boot
count:          .skip 4             # steps; 2^32 of them take 248 days at 5 ms
mismatches:     .skip 4             # since this boot
said:           .skip 4             # mismatches that were spelt out of this disk in this step
first_slot:     .skip 4             # of those that were read or written last
slots_read:     .skip 4
ticks:          .skip 4             # of the timer, one a step
waited_for:     .skip 4             # the last tick that began a step
until_status:   .skip 4             # steps
cursor:         .skip 4             # the next page of the fill
pass:           .skip 4             # walks over the fill, this one included
dirtied:        .skip 4             # pages since this boot; 2^32 of them take 48 h at 100 MB/s
dirtied_before: .skip 4             # the same when this second began
second:         .skip 4             # as the clock says it
dirty_mbps:     .skip 4             # in the last second
variables_end:

.text
.globl start
start:
    cli
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, CODE
    cld
    sti
    mov di, VARIABLES
    mov cx, offset variables_end - VARIABLES
    rep stosb
    mov eax, 1
    mov cx, CODE_SECTORS - 1
    mov bx, (CODE + 512) / 16
    call read                       # from the drive in DL, as the BIOS left it
    jnc main
    hlt                             # the code that could say something is not there

# Reads or writes CX sectors from sector EAX of drive DL on, to or from segment BX. Carry if the
# BIOS refuses; [disk_error] says why.
write:
    mov dh, 0x43
    jmp transfer
read:
    mov dh, 0x42
transfer:
    pushad
    mov word ptr [packet], 16
    mov [packet + 2], cx
    mov word ptr [packet + 4], 0
    mov [packet + 6], bx
    mov [packet + 8], eax
    mov ah, dh
    mov al, 0
    mov si, offset packet
    int 0x13
    mov [disk_error], ah
    popad

# Gives DS and ES a limit of 4 GiB: a BIOS that went to protected mode and back has cut it. Keeps
# the flags.
widen:
    pushf
    cli
    push eax
    push bx
    lgdt [table]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    mov bx, 8
    mov ds, bx
    mov es, bx
    and al, 0xfe
    mov cr0, eax
    xor bx, bx
    mov ds, bx
    mov es, bx
    pop bx
    pop eax
    popf
    ret

.balign 8
descriptors:
    .quad 0
    .quad 0x008f92000000ffff        # data from 0 to 4 GiB
table:
    .word . - descriptors - 1
    .long descriptors

.include "lines.s"

.org PARAMETERS                    # an error here: sector 0 is full
fill_pages:         .long 0         # of 4 KiB
pages_per_step:     .long 0         # to make dirty
timer_divisor:      .word 0         # of 1,193,182 Hz, for one step
steps_per_status:   .word 0
.org 510                            # between them an empty partition table, for hosts that look
    .word 0xaa55

.include "steps.s"
.include "ring.s"
.include "ram.s"

.org 512 * CODE_SECTORS            # an error here: the code needs more sectors
