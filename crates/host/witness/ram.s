# The fill: RAM with content that does not compress, walked through in order, one mark a page, so
# that pages of different instants are found out. A mark is the pass and the page: at any instant the
# pages before the cursor carry this pass and those from it on the one before.

fill_ram:
    mov dword ptr [pass], 1
    mov edi, FILL
    mov edx, 0x9e3779b9
    xor ebx, ebx
1:  cmp ebx, [fill_pages]
    je 3f
    mov [edi], ebx
    mov dword ptr [edi + 4], 0
    mov ecx, 8
2:  mov eax, edx                    # xorshift32
    shl eax, 13
    xor edx, eax
    mov eax, edx
    shr eax, 17
    xor edx, eax
    mov eax, edx
    shl eax, 5
    xor edx, eax
    mov [edi + ecx], edx
    add ecx, 4
    cmp ecx, 4096
    jb 2b
    add edi, 4096
    inc ebx
    jmp 1b
3:  ret

# Checks the marks of the next pages and puts this pass's in their place.
make_dirty:
    mov dword ptr [said], 0
    mov ebp, [pages_per_step]
1:  sub ebp, 1
    jc rate
    mov ebx, [cursor]
    mov edi, ebx
    shl edi, 12
    add edi, FILL
    mov eax, [pass]
    dec eax
    cmp [edi], ebx
    jne 2f
    cmp [edi + 4], eax
    je 3f
2:  call say_torn
3:  mov eax, [pass]
    mov [edi], ebx
    mov [edi + 4], eax
    inc dword ptr [dirtied]
    inc ebx
    cmp ebx, [fill_pages]
    jb 4f
    xor ebx, ebx
    inc dword ptr [pass]
4:  mov [cursor], ebx
    jmp 1b

say_torn:
    call may_say
    jae 1f
    SAY "WITNESS MISMATCH ram page="
    mov eax, ebx
    call decimal
    SAY " expected="
    mov eax, [pass]
    dec eax
    call hexadecimal
    mov eax, ebx
    call hexadecimal
    SAY " found="
    call quadword
    SAY "\n"
1:  ret

# Says what was made dirty whenever the clock's second has changed.
rate:
    mov al, 0
    out 0x70, al
    in al, 0x71
    cmp al, [second]
    je 1f
    mov [second], al
    mov eax, [dirtied]
    xchg eax, [dirtied_before]
    neg eax
    add eax, [dirtied]
    mov ecx, 4096
    mul ecx
    mov ecx, 1000000
    div ecx
    mov [dirty_mbps], eax
1:  ret
