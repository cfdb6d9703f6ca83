# The x87 unit, the same code in ring 3 and in ring 0.

# The top of the stack as the 80 bits that it is; it is popped.
    .macro expect_top significand, exponent
    fstp tbyte ptr [SCRATCH + 0xf000]
    expect "qword ptr [SCRATCH+0xf000]", \significand
    movzx eax, word ptr [SCRATCH + 0xf008]
    expect rax, \exponent
    .endm

    .macro load_control value
    mov word ptr [SCRATCH + 0xf020], \value
    fldcw word ptr [SCRATCH + 0xf020]
    .endm

    .macro expect_status value
    fnstsw ax
    movzx eax, ax
    expect rax, \value
    .endm

    .macro load_integer value
    mov qword ptr [SCRATCH + 0xf030], \value
    fild qword ptr [SCRATCH + 0xf030]
    .endm

program x87_user
    enter_ring_3
    call x87_body
    leave_ring_3
    done

program x87_kernel
    call x87_body
    done

x87_body:
    fninit
    fnstcw word ptr [SCRATCH]
    movzx eax, word ptr [SCRATCH]
    expect rax, 0x37f
    expect_status 0
# Constants.
    fldpi
    expect_top 0xc90fdaa22168c235, 0x4000
    fldl2e
    expect_top 0xb8aa3b295c17f0bc, 0x3fff
    fldl2t
    expect_top 0xd49a784bcd1b8afe, 0x4000
    fldlg2
    expect_top 0x9a209a84fbcff799, 0x3ffd
    fldln2
    expect_top 0xb17217f7d1cf79ac, 0x3ffe
    fld1
    expect_top 0x8000000000000000, 0x3fff
    fldz
    expect_top 0, 0
# Arithmetic, precision and rounding control.
    fld1
    load_integer 3
    fdivp st(1), st
    expect_status 0x3a20
    expect_top 0xaaaaaaaaaaaaaaab, 0x3ffd
    fnclex
    load_control 0xb7f
    fld1
    load_integer 3
    fdivp st(1), st
    expect_top 0xaaaaaaaaaaaaaaab, 0x3ffd
    load_control 0x77f
    fld1
    load_integer 3
    fdivp st(1), st
    expect_top 0xaaaaaaaaaaaaaaaa, 0x3ffd
    load_control 0x27f
    fld1
    load_integer 3
    fdivp st(1), st
    expect_top 0xaaaaaaaaaaaaa800, 0x3ffd
    load_control 0x07f
    fld1
    load_integer 3
    fdivp st(1), st
    expect_top 0xaaaaab0000000000, 0x3ffd
    load_control 0x37f
    fnclex
    load_integer 2
    fsqrt
    expect_top 0xb504f333f9de6484, 0x3fff
    load_integer -7
    load_integer 2
    fxch st(1)
    fprem
    expect_top 0x8000000000000000, 0xbfff
    expect_top 0x8000000000000000, 0x4000
    load_integer 40
    load_integer 5
    fscale
    expect_top 0xa000000000000000, 0x4029
    expect_top 0xa000000000000000, 0x4004
    load_integer 40
    fxtract
    expect_top 0xa000000000000000, 0x3fff
    expect_top 0xa000000000000000, 0x4001
    fld1
    load_integer 8
    fyl2x
    expect_top 0xc000000000000000, 0x4000
    fld1
    fchs
    f2xm1
    expect_top 0x8000000000000000, 0xbffe
    fldz
    fcos
    expect_top 0x8000000000000000, 0x3fff
    fld1
    fld1
    fpatan
    expect_top 0xc90fdaa22168c235, 0x3ffe
# Integers and packed decimal, out and in.
    mov dword ptr [SCRATCH], 0x40200000
    fld dword ptr [SCRATCH]
    fist dword ptr [SCRATCH]
    mov eax, dword ptr [SCRATCH]
    expect rax, 2
    fisttp dword ptr [SCRATCH]
    mov eax, dword ptr [SCRATCH]
    expect rax, 2
    load_control 0xb7f
    mov dword ptr [SCRATCH], 0x40200000
    fld dword ptr [SCRATCH]
    frndint
    fistp qword ptr [SCRATCH]
    expect "qword ptr [SCRATCH]", 3
    load_control 0x37f
    load_integer -1234567890
    fbstp tbyte ptr [SCRATCH]
    expect "qword ptr [SCRATCH]", 0x1234567890
    movzx eax, word ptr [SCRATCH + 8]
    expect rax, 0x8000
    fbld tbyte ptr [SCRATCH]
    expect_top 0x932c05a400000000, 0xc01d
# Comparisons into the condition codes and into the flags.
    load_integer 1
    load_integer 2
    fcom st(1)
    fnstsw ax
    and eax, 0x4500
    expect rax, 0
    fcomi st, st(1)
    pushfq
    pop rax
    and eax, CF | PF | ZF
    expect rax, 0
    fxch st(1)
    fcompp
    fnstsw ax
    and eax, 0x4500
    expect rax, 0x100
    fldz
    fchs
    fxam
    fnstsw ax
    and eax, 0x4700
    expect rax, 0x4200
    ftst
    fnstsw ax
    and eax, 0x4500
    expect rax, 0x4000
    stc
    fld1
    fcmovb st, st(1)
    fxam
    fnstsw ax
    and eax, 0x4700
    expect rax, 0x4200
    fninit
# The stack: overflow and underflow give the indefinite and say which it was.
    fstp st(0)
    expect_status 0x841
    fninit
    fld1
    fld1
    fld1
    fld1
    fld1
    fld1
    fld1
    fld1
    fld1
    fnstsw ax
    movzx eax, ax
    expect rax, 0x3a41
    expect_top 0xc000000000000000, 0xffff
    fninit
# By zero, and the square root of what has none.
    fld1
    fldz
    fdivp st(1), st
    expect_top 0x8000000000000000, 0x7fff
    fld1
    fchs
    fsqrt
    expect_top 0xc000000000000000, 0xffff
    expect_status 5
# Unmasked: the next waiting instruction raises it, and what may not wait does not.
    fninit
    load_control 0x37b
    fld1
    fldz
    fdivp st(1), st
    fnstsw ax
    and eax, 0x80ff
    expect rax, 0x8084
    expect_fault VECTOR_MF, 0, fwait
    expect_fault VECTOR_MF, 0, fld1
    fnclex
    fwait
    fninit
# The environment and the whole state.
    fld1
    fldpi
    fnstenv [SCRATCH]
    movzx eax, word ptr [SCRATCH]
    expect rax, 0x37f
    movzx eax, word ptr [SCRATCH + 4]
    expect rax, 0x3000
    movzx eax, word ptr [SCRATCH + 8]
    expect rax, 0x0fff
    fldenv [SCRATCH]
    fnsave [SCRATCH]
    expect_status 0
    expect "qword ptr [SCRATCH+28]", 0xc90fdaa22168c235
    frstor [SCRATCH]
    expect_top 0xc90fdaa22168c235, 0x4000
    expect_top 0x8000000000000000, 0x3fff
# MMX shares the registers and marks them all as used; the two that it wrote look like NaNs.
    movabs rax, 0x7fff800000010002
    movq mm0, rax
    movabs rax, 0x000100010001fffe
    movq mm1, rax
    paddsw mm0, mm1
    movq rax, mm0
    expect rax, 0x7fff800100020000
    fnstenv [SCRATCH]
    movzx eax, word ptr [SCRATCH + 8]
    expect rax, 0xa
    emms
    fnstenv [SCRATCH]
    movzx eax, word ptr [SCRATCH + 8]
    expect rax, 0xffff
    fninit
    ret
