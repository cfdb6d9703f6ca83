# Registers of ring 3 that a move has to carry: XMM8 to XMM15 and the x87 stack hold a pattern from
# one round to the next, and a loop holds one in every other register. Ring 3.

# RBX = what the patterns of this vCPU's generation are made from. Changes RAX, RDX.
pattern_begin:
    movabs rax, PAGE_FACTOR
    mov rbx, qword ptr gs:[P_INDEX]
    not rbx
    imul rbx, rax
    movabs rax, LAP_FACTOR
    mov rdx, qword ptr gs:[P_GENERATION]
    imul rdx, rax
    add rbx, rdx
    add rbx, qword ptr [PARAMETER_SEED]
    ret

# RAX = next value.
pattern_next:
    movabs rax, PAGE_FACTOR
    add rbx, rax
    mov rdi, rbx
    jmp mix

# EAX = x87 control word of this generation: every rounding mode, two precisions.
pattern_x87_control:
    mov eax, dword ptr gs:[P_GENERATION]
    mov ecx, eax
    and eax, 3
    shl eax, 10
    and ecx, 4
    shl ecx, 6
    xor ecx, 0x37f
    or eax, ecx
    ret

# EAX = MXCSR of this generation: every rounding mode.
pattern_mxcsr:
    mov eax, dword ptr gs:[P_GENERATION]
    not eax
    and eax, 3
    shl eax, 13
    or eax, 0x1f80
    ret

# RAX to the temporary place as an 80-bit normal number.
pattern_extended:
    mov rcx, rax
    rol rcx, 20
    and ecx, 0x80ff
    or ecx, 0x3f00
    bts rax, 63
    mov qword ptr gs:[P_TEMPORARY], rax
    mov word ptr gs:[P_TEMPORARY + 8], cx
    ret

# Loads the patterns of the present generation.
patterns_load:
    push rbx
    call pattern_mxcsr
    mov dword ptr gs:[P_TEMPORARY], eax
    ldmxcsr dword ptr gs:[P_TEMPORARY]
    call pattern_begin
    .irp number, 8, 9, 10, 11, 12, 13, 14, 15
    call pattern_next
    movq xmm\number, rax
    call pattern_next
    movq xmm0, rax
    punpcklqdq xmm\number, xmm0
    .endr
    fninit
    call pattern_x87_control
    mov word ptr gs:[P_TEMPORARY], ax
    fldcw word ptr gs:[P_TEMPORARY]
    .rept 7
    call pattern_next
    call pattern_extended
    fld tbyte ptr gs:[P_TEMPORARY]
    .endr
    pop rbx
    ret

# Verifies the patterns of the present generation, and that arithmetic works.
patterns_check:
    push rbx
    push r12
    stmxcsr dword ptr gs:[P_TEMPORARY]
    call pattern_mxcsr
    mov edx, eax
    mov ecx, dword ptr gs:[P_TEMPORARY]
    and ecx, 0xffc0
    mov esi, 1
    cmp ecx, edx
    jne 7f
    fnstcw word ptr gs:[P_TEMPORARY]
    call pattern_x87_control
    mov edx, eax
    movzx ecx, word ptr gs:[P_TEMPORARY]
    mov esi, 2
    cmp ecx, edx
    jne 7f
    call pattern_begin
    .irp number, 8, 9, 10, 11, 12, 13, 14, 15
    mov r12d, \number
    call pattern_next
    movq rcx, xmm\number
    cmp rax, rcx
    jne 8f
    call pattern_next
    movdqa xmm0, xmm\number
    psrldq xmm0, 8
    movq rcx, xmm0
    cmp rax, rcx
    jne 8f
    .endr
# Square and square root give the generation back, in either unit.
    mov rdx, qword ptr gs:[P_GENERATION]
    add edx, 3
    cvtsi2sd xmm0, rdx
    mulsd xmm0, xmm0
    sqrtsd xmm0, xmm0
    cvtsd2si rcx, xmm0
    mov esi, 16
    cmp rcx, rdx
    jne 7f
    mov qword ptr gs:[P_TEMPORARY], rdx
    fild qword ptr gs:[P_TEMPORARY]
    fmul st(0), st(0)
    fsqrt
    fistp qword ptr gs:[P_TEMPORARY + 16]
    mov rcx, qword ptr gs:[P_TEMPORARY + 16]
    mov r12d, 8
    mov rax, rdx
    cmp rcx, rax
    jne 9f
# The stack comes back in reverse.
    movabs rax, PAGE_FACTOR
    imul rax, rax, 7
    add rbx, rax
    mov r12d, 7
2:  mov rdi, rbx
    call mix
    call pattern_extended
    movabs rcx, PAGE_FACTOR
    sub rbx, rcx
    fstp tbyte ptr gs:[P_TEMPORARY + 16]
    mov rax, qword ptr gs:[P_TEMPORARY]
    mov rcx, qword ptr gs:[P_TEMPORARY + 16]
    cmp rax, rcx
    jne 9f
    movzx eax, word ptr gs:[P_TEMPORARY + 8]
    movzx ecx, word ptr gs:[P_TEMPORARY + 24]
    cmp eax, ecx
    jne 9f
    dec r12d
    jnz 2b
    pop r12
    pop rbx
    ret
7:  failing CHECK_CONTROL
8:  mov esi, r12d
    mov rdx, rax
    failing CHECK_VECTOR
9:  mov esi, r12d
    mov rdx, rax
    failing CHECK_X87

# Holds a pattern in fourteen general registers, in XMM0 to XMM7, and in the carry flag for a while.
# Each register is the one before, rotated by seven.
hold_registers:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov rdi, qword ptr gs:[P_SOAK]
    call mix
    mov qword ptr gs:[P_SOAK], rax
    mov qword ptr gs:[P_SAVED_RSP], rsp
    mov rbx, rax
    rol rbx, 7
    mov rdx, rbx
    rol rdx, 7
    mov rsi, rdx
    rol rsi, 7
    mov rdi, rsi
    rol rdi, 7
    mov rbp, rdi
    rol rbp, 7
    mov r8, rbp
    rol r8, 7
    mov r9, r8
    rol r9, 7
    mov r10, r9
    rol r10, 7
    mov r11, r10
    rol r11, 7
    mov r12, r11
    rol r12, 7
    mov r13, r12
    rol r13, 7
    mov r14, r13
    rol r14, 7
    mov r15, r14
    rol r15, 7
    movq xmm0, rax
    movq xmm1, rbx
    movq xmm2, rdx
    movq xmm3, rsi
    movq xmm4, rdi
    movq xmm5, rbp
    movq xmm6, r8
    movq xmm7, r9
    mov rcx, qword ptr [PARAMETER_REGISTER_LOOPS]
    stc
# DEC leaves the carry flag alone.
2:  dec rcx
    jnz 2b
    jnc 5f
    .set number, P_REGISTERS
    .irp register, rax, rbx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
    mov qword ptr gs:[number], \register
    .set number, number + 8
    .endr
    .irp register, xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7
    movq qword ptr gs:[number], \register
    .set number, number + 8
    .endr
    xor esi, esi
    mov rdx, qword ptr gs:[P_SAVED_RSP]
    mov rcx, rsp
    cmp rcx, rdx
    jne 6f
    mov rdx, qword ptr gs:[P_SOAK]
3:  mov rcx, qword ptr gs:[rsi * 8 + P_REGISTERS]
    cmp rcx, rdx
    jne 6f
    rol rdx, 7
    inc esi
    cmp esi, 14
    jne 4f
    mov rdx, qword ptr gs:[P_SOAK]
4:  cmp esi, 22
    jb 3b
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
# FS still has the base that boot.s gave it.
    mov rdx, qword ptr gs:[P_SELF]
    mov rcx, qword ptr fs:[0]
    mov esi, 22
    cmp rcx, rdx
    jne 6f
    ret
5:  xor esi, esi
    mov edx, 1
    xor ecx, ecx
    failing CHECK_CONTROL
6:  failing CHECK_REGISTER
