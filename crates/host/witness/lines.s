# What is said on the serial port (COM1). AX, CX, EDX and SI are lost, EBX, EBP and EDI are not.

# Says a text; the code goes on behind it.
.macro SAY text
    call say
    .asciz "\text"
.endm

say:
    pop si
1:  lodsb
    test al, al
    jz 2f
    call put
    jmp 1b
2:  jmp si

# Says the character in AL.
put:
    push dx
    push ax
    mov dx, 0x3fd
1:  in al, dx
    test al, 0x20                   # the last one has left
    jz 1b
    pop ax
    mov dx, 0x3f8
    out dx, al
    pop dx
    ret

# Says EAX in decimal.
decimal:
    xor edx, edx
    mov ecx, 10
    div ecx
    push dx
    test eax, eax
    jz 1f
    call decimal
1:  pop ax
    add al, '0'
    jmp put

# Says EAX in hexadecimal: 8 digits.
hexadecimal:
    mov cx, 8
1:  rol eax, 4
    push eax
    and al, 0xf
    cmp al, 10
    sbb al, 0x69                    # with the next, the digit of 0 to 15
    das
    or al, 0x20                     # in lower case
    call put
    pop eax
    loop 1b
    ret

# Says the quadword at EDI in hexadecimal.
quadword:
    mov eax, [edi + 4]
    call hexadecimal
    mov eax, [edi]
    jmp hexadecimal
