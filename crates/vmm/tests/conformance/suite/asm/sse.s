# SSE to SSE3, the same code in ring 3 and in ring 0.

    .macro expect_xmm register, low, high
    movdqu xmmword ptr [SCRATCH + 0xf000], \register
    expect "qword ptr [SCRATCH+0xf000]", \low
    expect "qword ptr [SCRATCH+0xf008]", \high
    .endm

    .macro load_xmm register, low, high
    movabs rax, \low
    mov qword ptr [SCRATCH + 0xf010], rax
    movabs rax, \high
    mov qword ptr [SCRATCH + 0xf018], rax
    movdqu \register, xmmword ptr [SCRATCH + 0xf010]
    .endm

    .macro set_mxcsr value
    mov dword ptr [SCRATCH + 0xf020], \value
    ldmxcsr dword ptr [SCRATCH + 0xf020]
    .endm

    .macro expect_mxcsr value
    stmxcsr dword ptr [SCRATCH + 0xf020]
    mov eax, dword ptr [SCRATCH + 0xf020]
    expect rax, \value
    .endm

program sse_user
    enter_ring_3
    call sse_body
    leave_ring_3
    done

program sse_kernel
    call sse_body
    done

sse_body:
# Moves and shuffles.
    load_xmm xmm0, 0x0706050403020100, 0x0f0e0d0c0b0a0908
    load_xmm xmm1, 0x1716151413121110, 0x1f1e1d1c1b1a1918
    movdqa xmm15, xmm0
    expect_xmm xmm15, 0x0706050403020100, 0x0f0e0d0c0b0a0908
    movq xmm2, xmm0
    expect_xmm xmm2, 0x0706050403020100, 0
    movd eax, xmm0
    expect rax, 0x03020100
    movq rax, xmm1
    expect rax, 0x1716151413121110
    movss xmm2, xmm1
    expect_xmm xmm2, 0x0706050413121110, 0
    movhlps xmm2, xmm1
    expect_xmm xmm2, 0x1f1e1d1c1b1a1918, 0
    pshufd xmm3, xmm0, 0x1b
    expect_xmm xmm3, 0x0b0a09080f0e0d0c, 0x0302010007060504
    pshuflw xmm3, xmm0, 0x1b
    expect_xmm xmm3, 0x0100030205040706, 0x0f0e0d0c0b0a0908
    shufps xmm3, xmm1, 0x4e
    expect_xmm xmm3, 0x0f0e0d0c0b0a0908, 0x1716151413121110
    punpcklbw xmm0, xmm1
    expect_xmm xmm0, 0x1303120211011000, 0x1707160615051404
    movdqa xmm0, xmm15
    pmovmskb eax, xmm1
    expect rax, 0
    pcmpeqb xmm4, xmm4
    pmovmskb eax, xmm4
    expect rax, 0xffff
    pinsrw xmm0, eax, 3
    pextrw eax, xmm0, 3
    expect rax, 0xffff
    movdqa xmm0, xmm15
# Integers: wrapping, saturating, products, packing, shifts.
    load_xmm xmm5, 0x7fff80000001ffff, 0x7f80ff01807f00ff
    load_xmm xmm6, 0x0001ffff7fff0001, 0x0101010101010101
    movdqa xmm7, xmm5
    paddw xmm7, xmm6
    expect_xmm xmm7, 0x80007fff80000000, 0x8081000281800200
    movdqa xmm7, xmm5
    paddsw xmm7, xmm6
    expect_xmm xmm7, 0x7fff80007fff0000, 0x7fff000281800200
    movdqa xmm7, xmm5
    paddusb xmm7, xmm6
    expect_xmm xmm7, 0x7fffffff7fffffff, 0x8081ff02818001ff
    movdqa xmm7, xmm5
    psubb xmm7, xmm6
    expect_xmm xmm7, 0x7ffe81018102fffe, 0x7e7ffe007f7efffe
    movdqa xmm7, xmm5
    pmullw xmm7, xmm6
    expect_xmm xmm7, 0x7fff80007fffffff, 0xff800001ff7fffff
    movdqa xmm7, xmm5
    pmulhw xmm7, xmm6
    expect_xmm xmm7, 0x000000000000ffff, 0x007fffffff7f0000
    movdqa xmm7, xmm5
    pmaddwd xmm7, xmm6
    expect_xmm xmm7, 0x0000ffff00007ffe, 0x007eff81ff80ff7e
    movdqa xmm7, xmm5
    pmuludq xmm7, xmm6
    expect_xmm xmm7, 0x0000fffd8002ffff, 0x00810000ff7effff
    movdqa xmm7, xmm5
    packsswb xmm7, xmm6
    expect_xmm xmm7, 0x7f80807f7f8001ff, 0x7f7f7f7f01ff7f01
    movdqa xmm7, xmm5
    packuswb xmm7, xmm6
    expect_xmm xmm7, 0xff0000ffff000100, 0xffffffff0100ff01
    movdqa xmm7, xmm5
    psllq xmm7, 4
    expect_xmm xmm7, 0xfff80000001ffff0, 0xf80ff01807f00ff0
    movdqa xmm7, xmm5
    pslldq xmm7, 3
    expect_xmm xmm7, 0x000001ffff000000, 0x01807f00ff7fff80
    movdqa xmm7, xmm5
    psraw xmm7, 2
    expect_xmm xmm7, 0x1fffe0000000ffff, 0x1fe0ffc0e01f003f
    movdqa xmm7, xmm5
    psadbw xmm7, xmm6
    expect_xmm xmm7, 0x675, 0x3f7
    movdqa xmm7, xmm5
    pmaxub xmm7, xmm6
    expect_xmm xmm7, 0x7fffffff7fffffff, 0x7f80ff01807f01ff
    movdqa xmm7, xmm5
    pminsw xmm7, xmm6
    expect_xmm xmm7, 0x000180000001ffff, 0x0101ff01807f00ff
    movdqa xmm7, xmm5
    pavgb xmm7, xmm6
    expect_xmm xmm7, 0x4080c08040808080, 0x4041800141400180
    movdqa xmm7, xmm5
    pcmpgtw xmm7, xmm6
    expect_xmm xmm7, 0xffff000000000000, 0xffff000000000000
# Single precision.
    set_mxcsr 0x1f80
    load_xmm xmm5, 0xc01000003fc00000, 0x501502f940400000
    load_xmm xmm6, 0x408000003f000000, 0x40000000bf800000
    movdqa xmm7, xmm5
    addps xmm7, xmm6
    expect_xmm xmm7, 0x3fe0000040000000, 0x501502f940000000
    movdqa xmm7, xmm5
    subps xmm7, xmm6
    expect_xmm xmm7, 0xc0c800003f800000, 0x501502f940800000
    movdqa xmm7, xmm5
    mulps xmm7, xmm6
    expect_xmm xmm7, 0xc11000003f400000, 0x509502f9c0400000
    movdqa xmm7, xmm5
    divps xmm7, xmm6
    expect_xmm xmm7, 0xbf10000040400000, 0x4f9502f9c0400000
    movdqa xmm7, xmm5
    minps xmm7, xmm6
    expect_xmm xmm7, 0xc01000003f000000, 0x40000000bf800000
    movdqa xmm7, xmm5
    maxps xmm7, xmm6
    expect_xmm xmm7, 0x408000003fc00000, 0x501502f940400000
    movdqa xmm7, xmm5
    haddps xmm7, xmm6
    expect_xmm xmm7, 0x501502f9bf400000, 0x3f80000040900000
    movdqa xmm7, xmm5
    addsubps xmm7, xmm6
    expect_xmm xmm7, 0x3fe000003f800000, 0x501502f940800000
    movdqa xmm7, xmm5
    cmpltps xmm7, xmm6
    expect_xmm xmm7, 0xffffffff00000000, 0
    movdqa xmm7, xmm5
    addss xmm7, xmm6
    expect_xmm xmm7, 0xc010000040000000, 0x501502f940400000
    movdqa xmm7, xmm5
    andnps xmm7, xmm6
    expect_xmm xmm7, 0x80000000000000, 0xbf800000
    movmskps eax, xmm5
    expect rax, 2
    load_xmm xmm5, 0x4010000040800000, 0x3e80000041100000
    sqrtps xmm7, xmm5
    expect_xmm xmm7, 0x3fc0000040000000, 0x3f00000040400000
# Double precision, conversions, rounding.
    load_xmm xmm5, 0x3ff0000000000000, 0x4000000000000000
    load_xmm xmm6, 0x4008000000000000, 0x4000000000000000
    movdqa xmm7, xmm5
    divpd xmm7, xmm6
    expect_xmm xmm7, 0x3fd5555555555555, 0x3ff0000000000000
    sqrtpd xmm7, xmm6
    expect_xmm xmm7, 0x3ffbb67ae8584caa, 0x3ff6a09e667f3bcd
    expect_mxcsr 0x1fa0
    set_mxcsr 0x5f80
    movdqa xmm7, xmm5
    divsd xmm7, xmm6
    expect_xmm xmm7, 0x3fd5555555555556, 0x4000000000000000
    set_mxcsr 0x1f80
    load_xmm xmm5, 0x4004000000000000, 0xc00c000000000000
    cvtsd2si rax, xmm5
    expect rax, 2
    cvttsd2si rax, xmm5
    expect rax, 2
    set_mxcsr 0x5f80
    cvtsd2si rax, xmm5
    expect rax, 3
    cvtpd2dq xmm7, xmm5
    expect_xmm xmm7, 0xfffffffd00000003, 0
    set_mxcsr 0x1f80
    cvtpd2ps xmm7, xmm5
    expect_xmm xmm7, 0xc060000040200000, 0
    cvtps2pd xmm7, xmm7
    expect_xmm xmm7, 0x4004000000000000, 0xc00c000000000000
    mov rax, -7
    cvtsi2sd xmm7, rax
    expect_xmm xmm7, 0xc01c000000000000, 0xc00c000000000000
    movabs rax, 0x7e37e43c8800759c
    movq xmm6, rax
    cvttsd2si rax, xmm6
    expect rax, 0x8000000000000000
    cvtsd2ss xmm7, xmm6
    movd eax, xmm7
    expect rax, 0x7f800000
# Flags of the comparison; a NaN is unordered.
    ucomisd xmm5, xmm5
    pushfq
    pop rax
    and eax, CF | PF | AF | ZF | SF | OF
    expect rax, ZF
    pcmpeqd xmm4, xmm4
    ucomisd xmm5, xmm4
    pushfq
    pop rax
    and eax, CF | PF | AF | ZF | SF | OF
    expect rax, CF|PF|ZF
# Exceptions are sticky: by zero, overflow, underflow, denormal, invalid.
    set_mxcsr 0x1f80
    xorps xmm4, xmm4
    movdqa xmm7, xmm5
    divsd xmm7, xmm4
    expect_mxcsr 0x1f84
    movq rax, xmm7
    expect rax, 0x7ff0000000000000
    mulsd xmm6, xmm6
    expect_mxcsr 0x1fac
    mov eax, 1
    movq xmm6, rax
    mulsd xmm6, xmm6
    expect_mxcsr 0x1fbe
    divsd xmm4, xmm4
    expect_mxcsr 0x1fbf
    movq rax, xmm4
    expect rax, 0xfff8000000000000
# Unmasked it is #XM, and the destination stays.
    set_mxcsr 0x1d80
    movdqa xmm7, xmm5
    xorps xmm4, xmm4
    expect_fault VECTOR_XM, 0, divsd xmm7, xmm4
    expect_xmm xmm7, 0x4004000000000000, 0xc00c000000000000
    expect_mxcsr 0x1d84
    set_mxcsr 0x1f80
# Stores under a mask, and past the cache.
    load_xmm xmm5, 0x1122334455667788, 0x99aabbccddeeff00
    load_xmm xmm6, 0x80008000800080ff, 0x0000000000000080
    mov qword ptr [SCRATCH], 0
    mov qword ptr [SCRATCH + 8], 0
    mov edi, SCRATCH
    maskmovdqu xmm5, xmm6
    expect "qword ptr [SCRATCH]", 0x1100330055007788
    expect "qword ptr [SCRATCH+8]", 0
    movntdq xmmword ptr [SCRATCH], xmm5
    sfence
    expect "qword ptr [SCRATCH+8]", 0x99aabbccddeeff00
# The area of FXSAVE, and back.
    fninit
    load_xmm xmm8, 0x0123456789abcdef, 0xfedcba9876543210
    mov qword ptr [SCRATCH + 0x100], 0
    fxsave64 [SCRATCH + 0x100]
    expect "qword ptr [SCRATCH+0x100]", 0x37f
# The mask of MXCSR beside it is the processor's own.
    mov eax, dword ptr [SCRATCH + 0x118]
    expect rax, 0x1f80
    expect "qword ptr [SCRATCH+0x220]", 0x0123456789abcdef
    expect "qword ptr [SCRATCH+0x228]", 0xfedcba9876543210
    pxor xmm8, xmm8
    set_mxcsr 0x1fbf
    fxrstor64 [SCRATCH + 0x100]
    expect_xmm xmm8, 0x0123456789abcdef, 0xfedcba9876543210
    expect_mxcsr 0x1f80
    ret

# Memory operands of 16 bytes are aligned, but for those that say otherwise; MXCSR has reserved bits.
program sse_alignment
    enter_ring_3
    mov ebx, SCRATCH + 1
    expect_fault VECTOR_GP, 0, movdqa xmm7, xmmword ptr [rbx]
    expect_fault VECTOR_GP, 0, addps xmm7, xmmword ptr [rbx]
    movdqu xmm7, xmmword ptr [rbx]
    lddqu xmm7, xmmword ptr [rbx]
    mov dword ptr [SCRATCH], 0x10000
    expect_fault VECTOR_GP, 0, ldmxcsr dword ptr [SCRATCH]
    leave_ring_3
    done
