# Random walks through registers: short snippets of integer, SSE and x87 instructions in an order
# that a generator decides, in ring 3; between them ring 0 fills system registers from it. What is
# left at the end is the same wherever it ran. The approximations, the transcendental functions and
# the x87 unit's last addresses are left out: they may differ from one processor to another.

    .set WALK_ROUNDS, 24
    .set WALK_SNIPPETS, 160
    .set WALK_AREA, SCRATCH
    .set WALK_STATE, SCRATCH + 0x2000

program walk
    write_msr 0xc0000101, SCRATCH+0x800
    movabs r15, 0x2545f4914f6cdd1d
    mov r13d, WALK_AREA
# The area holds numbers of every kind, and a few of the greatest and least magnitude.
    mov edi, WALK_AREA
    mov ecx, 0x200
2:  call walk_random
    mov qword ptr [rdi], r15
    add rdi, 8
    loop 2b
    mov dword ptr [OWN + 8], WALK_ROUNDS
3:  call walk_system
    mov r14d, WALK_SNIPPETS
    enter_ring_3
    call walk_next
    leave_ring_3
    dec dword ptr [OWN + 8]
    jnz 3b
    enter_ring_3
    call walk_observe
    leave_ring_3
    read_msr 0xc0000082
    observe rax
    mov rax, dr1
    observe rax
    done

# The same in ring 0.
program walk_kernel
    movabs r15, 0x9e3779b97f4a7c15
    mov r13d, WALK_AREA
    mov edi, WALK_AREA
    mov ecx, 0x200
2:  call walk_random
    mov qword ptr [rdi], r15
    add rdi, 8
    loop 2b
    mov r14d, 2000
    call walk_next
    call walk_observe
    done

# xorshift64 in R15. Changes R12.
walk_random:
    mov r12, r15
    shl r12, 13
    xor r15, r12
    mov r12, r15
    shr r12, 7
    xor r15, r12
    mov r12, r15
    shl r12, 17
    xor r15, r12
    ret

# Registers that only ring 0 has, with what may be in them.
walk_system:
    call walk_random
    mov rax, r15
    sar rax, 17
    mov rbx, rax
    mov rdx, rax
    shr rdx, 32
    mov eax, eax
    mov ecx, 0xc0000082
    wrmsr
    mov ecx, 0xc0000102
    wrmsr
    mov ecx, 0xc0000100
    wrmsr
    mov ecx, 0x175
    wrmsr
    mov ecx, 0xc0000084
    mov eax, ebx
    and eax, 0x3f7fd5
    xor edx, edx
    wrmsr
    mov ecx, 0x174
    mov eax, ebx
    and eax, 0xfff8
    wrmsr
    mov dr1, rbx
    rol rbx, 1
    mov cr2, rbx
    ret

walk_next:
    dec r14
    jz 9f
    call walk_random
    mov r12, r15
    shr r12, 40
    and r12d, 63
    lea r11, [rip + walk_snippets]
    movsxd r12, dword ptr [r11 + 4 * r12]
    add r12, r11
    jmp r12
9:  ret

# Everything but the generator, the stack and the addresses within the image.
walk_observe:
    observe rax
    observe rbx
    observe rcx
    observe rdx
    observe rsi
    observe rdi
    observe rbp
    observe r8
    observe r9
    observe r10
    observe r15
    fxsave64 [WALK_STATE]
    mov eax, dword ptr [WALK_STATE]
    observe rax
    movzx eax, byte ptr [WALK_STATE + 4]
    observe rax
    mov eax, dword ptr [WALK_STATE + 24]
    observe rax
# Empty registers of the x87 unit may hold what they like, but these hold what was in them.
    mov ebx, WALK_STATE + 32
2:  observe "qword ptr [rbx]"
    add ebx, 8
    cmp ebx, WALK_STATE + 416
    jb 2b
    mov ebx, WALK_AREA
3:  observe "qword ptr [rbx]"
    add ebx, 8
    cmp ebx, WALK_AREA + 0x1000
    jb 3b
    ret

    .macro snippet
    .long .Lsnippet\@ - walk_snippets
    .pushsection .rodata.ferry_conformance, "a", @progbits
    .subsection 1
.Lsnippet\@:
    .endm

    .macro end_snippet
    jmp walk_next
    .popsection
    .endm

# There are 64.
    .balign 4
walk_snippets:
    snippet
    add rax, rbx
    adc rcx, rdx
    end_snippet
    snippet
    sub rdx, rsi
    sbb rdi, r8
    end_snippet
    snippet
    imul rax, r9
    imul ebx, ecx, 0x12345
    end_snippet
    snippet
    mul rbx
    end_snippet
    snippet
    imul rcx
    end_snippet
    snippet
    mov rcx, r10
    rol rax, cl
    ror ebx, cl
    shl r8w, cl
    end_snippet
    snippet
    bswap r8
    xchg r8, r9
    xchg al, bh
    end_snippet
    snippet
    shld rbx, rax, 13
    shrd rsi, rdi, 29
    end_snippet
    snippet
    xor edx, edx
    or r9, 1
    mov rax, r10
    div r9
    end_snippet
    snippet
    mov eax, esi
    cdq
    or ebp, 1
    and ebp, 0x7fffffff
    idiv ebp
    end_snippet
    snippet
    lea r10, [rax + rbx * 4 + 0x123]
    lea ebp, [rcx + rdx * 8 - 7]
    end_snippet
    snippet
    neg rcx
    not rdx
    inc rsi
    dec edi
    end_snippet
    snippet
    or rbx, 1
    bsf rax, rbx
    bsr rcx, rbx
    end_snippet
    snippet
    movsx rax, bl
    movzx ecx, dx
    movsxd rsi, edi
    cqo
    cwde
    end_snippet
    snippet
    push rax
    push rbx
    push cx
    pop dx
    pop rax
    pop rbx
    end_snippet
    snippet
    bts rax, rcx
    btr rbx, 17
    btc edx, eax
    setc sil
    end_snippet
    snippet
    mov qword ptr [r13 + 8], rax
    mov rbx, qword ptr [r13 + 16]
    xchg qword ptr [r13 + 24], rcx
    end_snippet
    snippet
    lock xadd qword ptr [r13 + 32], rdx
    lock cmpxchg qword ptr [r13 + 40], rsi
    lock sub dword ptr [r13 + 45], eax
    end_snippet
    snippet
    lea rsi, [r13 + 3]
    lea rdi, [r13 + 0x100]
    mov ecx, 37
    rep movsb
    end_snippet
    snippet
    std
    lea rdi, [r13 + 0x200]
    mov ecx, 9
    repne scasw
    cld
    end_snippet
    snippet
    cmp rax, rbx
    setl cl
    cmovb rdx, rsi
    cmovg rdi, r8
    end_snippet
    snippet
    sar rax, 1
    rcr rbx, 1
    rcl ecx, 1
    end_snippet
    snippet
    call walk_leaf
    end_snippet
    snippet
    and eax, 0x8d5
    or eax, 2
    push rax
    popfq
    lahf
    pushfq
    pop r9
    and r9d, 0x8d5
    end_snippet
    snippet
    mov ecx, 5
2:  add rax, rcx
    loop 2b
    end_snippet
    snippet
    lock cmpxchg16b xmmword ptr [r13 + 64]
    setz r8b
    end_snippet
    snippet
    movnti qword ptr [r13 + 0x88], rax
    mov rbp, qword ptr gs:[0x20]
    end_snippet
    snippet
    enter 16, 0
    mov qword ptr [rbp - 8], rcx
    mov rcx, qword ptr [rbp - 16]
    mov qword ptr [rbp - 16], 0
    leave
    xor ecx, ecx
    end_snippet
# SSE.
    snippet
    movq xmm0, rax
    movq xmm1, rbx
    punpcklqdq xmm0, xmm1
    end_snippet
    snippet
    movdqu xmm2, xmmword ptr [r13 + 0x41]
    paddd xmm2, xmm0
    psubw xmm3, xmm2
    end_snippet
    snippet
    pmullw xmm1, xmm2
    pmulhuw xmm2, xmm3
    pmaddwd xmm4, xmm1
    end_snippet
    snippet
    packsswb xmm5, xmm0
    packuswb xmm6, xmm1
    packssdw xmm7, xmm2
    end_snippet
    snippet
    pshufd xmm8, xmm0, 0x93
    pshufhw xmm9, xmm8, 0x2d
    punpckhbw xmm10, xmm9
    end_snippet
    snippet
    pcmpgtd xmm3, xmm8
    pandn xmm3, xmm4
    por xmm5, xmm3
    pxor xmm6, xmm10
    end_snippet
    snippet
    movd xmm11, ecx
    psllw xmm12, xmm11
    psrlq xmm0, 5
    psrad xmm1, 3
    pslldq xmm2, 5
    end_snippet
    snippet
    movups xmm12, xmmword ptr [r13 + 0x150]
    addps xmm12, xmm0
    mulps xmm13, xmm12
    subps xmm14, xmm13
    end_snippet
    snippet
    movupd xmm15, xmmword ptr [r13 + 0x168]
    divpd xmm15, xmm12
    addpd xmm0, xmm15
    mulsd xmm1, xmm0
    end_snippet
    snippet
    sqrtps xmm3, xmm12
    sqrtsd xmm4, xmm15
    maxps xmm5, xmm13
    minpd xmm6, xmm14
    end_snippet
    snippet
    cvtdq2ps xmm7, xmm0
    cvtps2dq xmm8, xmm12
    cvttpd2dq xmm9, xmm15
    cvtps2pd xmm10, xmm13
    end_snippet
    snippet
    cvtsd2si rax, xmm15
    cvttss2si ebx, xmm12
    cvtsi2sd xmm11, rcx
    cvtsi2ss xmm11, edx
    end_snippet
    snippet
    cmpltps xmm13, xmm12
    cmpunordpd xmm14, xmm15
    ucomisd xmm0, xmm15
    seta cl
    comiss xmm1, xmm12
    setp dl
    end_snippet
    snippet
    haddpd xmm2, xmm0
    hsubps xmm3, xmm1
    addsubpd xmm4, xmm2
    movsldup xmm5, xmm3
    end_snippet
    snippet
    movmskps eax, xmm12
    pmovmskb ebx, xmm0
    movmskpd ecx, xmm15
    pextrw edx, xmm1, 5
    end_snippet
    snippet
    mov rax, r15
    and eax, 0xe040
    or eax, 0x1f80
    mov dword ptr [r13 + 0x700], eax
    ldmxcsr dword ptr [r13 + 0x700]
    end_snippet
    snippet
    movdqu xmmword ptr [r13 + 0x180], xmm8
    movlps qword ptr [r13 + 0x190], xmm9
    movhpd qword ptr [r13 + 0x198], xmm10
    movss dword ptr [r13 + 0x1a0], xmm11
    end_snippet
    snippet
    shufps xmm0, xmm12, 0x4b
    unpcklpd xmm1, xmm15
    movhlps xmm2, xmm13
    movsd xmm3, xmm14
    end_snippet
# x87 and MMX.
    snippet
    fild qword ptr [r13 + 0x08]
    end_snippet
    snippet
    fld qword ptr [r13 + 0x50]
    end_snippet
    snippet
    fld dword ptr [r13 + 0x5c]
    fadd st, st(1)
    end_snippet
    snippet
    fmul st, st(2)
    fsubr st(1), st
    end_snippet
    snippet
    fdiv st(1), st
    fxch st(3)
    end_snippet
    snippet
    fabs
    fsqrt
    fchs
    end_snippet
    snippet
    fstp qword ptr [r13 + 0x210]
    end_snippet
    snippet
    fist dword ptr [r13 + 0x220]
    fisttp qword ptr [r13 + 0x228]
    end_snippet
    snippet
    frndint
    fstp tbyte ptr [r13 + 0x230]
    fld tbyte ptr [r13 + 0x230]
    end_snippet
    snippet
    mov rax, r15
    and eax, 0xf00
    or eax, 0x7f
    mov word ptr [r13 + 0x708], ax
    test ah, 3
    jnz 2f
    or byte ptr [r13 + 0x709], 3
2:  fldcw word ptr [r13 + 0x708]
    end_snippet
    snippet
    fcomi st, st(1)
    seta al
    fnstsw ax
    end_snippet
    snippet
    ffree st(5)
    fincstp
    end_snippet
    snippet
    fld1
    fldpi
    faddp st(1), st
    end_snippet
    snippet
    fprem
    fnclex
    end_snippet
    snippet
    fxtract
    fstp st(4)
    end_snippet
    snippet
    movq mm0, rax
    movq mm3, qword ptr [r13 + 0x60]
    paddusw mm3, mm0
    pmullw mm0, mm3
    movq qword ptr [r13 + 0x240], mm0
    emms
    end_snippet
    snippet
    fbstp tbyte ptr [r13 + 0x250]
    end_snippet
    snippet
    fninit
    end_snippet

walk_leaf:
    add rbx, rsi
    xor rcx, rbx
    ret
