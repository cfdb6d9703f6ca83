# Moves, addresses, stack, strings, bits, conditions and far transfers.

program data
# Division.
    movabs rax, 0xfedcba9876543210
    mov edx, 5
    mov ebx, 7
    div rbx
    expect rax, 0xdb441aa810e774dd
    expect rdx, 5
    mov rax, -100
    cqo
    mov rbx, 7
    idiv rbx
    expect rax, 0xfffffffffffffff2
    expect rdx, 0xfffffffffffffffe
    movabs rax, 0x1111111100001234
    movabs rdx, 0x2222222200000001
    mov ebx, 0x10
    div ebx
    expect rax, 0x10000123
    expect rdx, 4
    movabs rax, 0xaaaaaaaaaaaa00ff
    mov bl, 0x10
    div bl
    expect rax, 0xaaaaaaaaaaaa0f0f
    movabs rax, 0xaaaaaaaaaaaaff9c
    mov bl, 7
    idiv bl
    expect rax, 0xaaaaaaaaaaaafef2

# Addresses: base, index and scale, displacement, RIP, 32-bit.
    movabs rbx, 0xfffffffffffffff0
    mov esi, 0x1000
    lea rax, [rbx + rsi * 8 + 0x20]
    expect rax, 0x8010
    lea eax, [rbx + rsi * 4 - 1]
    expect rax, 0x3fef
    lea rax, [ebx + 0x20]
    expect rax, 0x10
    lea rax, [rip + ferry_conformance_start]
    expect rax, IMAGE

# Bits.
    mov ebx, 0x00f01000
    bsf eax, ebx
    expect rax, 12
    bsr eax, ebx
    expect rax, 23
    xor ebx, ebx
    bsf rcx, rbx
    setz al
    movzx eax, al
    expect rax, 1
# Of a bit string in memory, past the operand.
    mov qword ptr [SCRATCH + 8], 0
    mov ecx, 77
    bts qword ptr [SCRATCH], rcx
    expect "qword ptr [SCRATCH+8]", 0x2000
    mov rcx, -3
    mov qword ptr [SCRATCH + 8], -1
    btr qword ptr [SCRATCH + 16], rcx
    expect "qword ptr [SCRATCH+8]", 0xdfffffffffffffff

# Compare and exchange.
    mov qword ptr [SCRATCH], 5
    mov eax, 5
    mov ebx, 9
    lock cmpxchg qword ptr [SCRATCH], rbx
    setz cl
    movzx ecx, cl
    expect rcx, 1
    expect "qword ptr [SCRATCH]", 9
    lock cmpxchg qword ptr [SCRATCH], rsi
    setz cl
    movzx ecx, cl
    expect rcx, 0
    expect rax, 9
    mov rdx, 0x11
    mov rax, 0x22
    mov rcx, 0x33
    mov rbx, 0x44
    mov rdi, 0x0000001100000022
    mov qword ptr [SCRATCH], rdi
    cmpxchg8b qword ptr [SCRATCH]
    expect "qword ptr [SCRATCH]", 0x0000003300000044
    cmpxchg8b qword ptr [SCRATCH]
    expect rax, 0x44
    expect rdx, 0x33
    mov ebx, 1
    lock xadd qword ptr [SCRATCH], rbx
    expect rbx, 0x0000003300000044
    expect "qword ptr [SCRATCH]", 0x0000003300000045

# Stack.
    mov rsi, rsp
    push 0x12345678
    push -1
    pop rax
    pop rcx
    expect rax, 0xffffffffffffffff
    expect rcx, 0x12345678
    movabs rax, 0x1122334455667788
    push rax
    push ax
    pop cx
    pop rdx
    movzx ecx, cx
    expect rcx, 0x7788
    expect rdx, 0x1122334455667788
    push rsp
    pop rax
    sub rax, rsi
    expect rax, 0
    mov rbp, 0x55
    enter 0x20, 0
    mov rax, rsi
    sub rax, rsp
    expect rax, 0x28
    leave
    expect rbp, 0x55
    sub rsi, rsp
    expect rsi, 0

# Strings, both directions, with and without a count.
    movabs rax, 0x0807060504030201
    mov qword ptr [SCRATCH], rax
    mov qword ptr [SCRATCH + 8], 0
    mov esi, SCRATCH
    mov edi, SCRATCH + 8
    mov ecx, 3
    rep movsb
    expect "qword ptr [SCRATCH+8]", 0x030201
    expect rsi, SCRATCH+3
    expect rdi, SCRATCH+11
    expect rcx, 0
    std
    mov esi, SCRATCH + 6
    mov edi, SCRATCH + 14
    mov ecx, 2
    rep movsw
    cld
    expect "qword ptr [SCRATCH+8]", 0x0807060500030201
    expect rsi, SCRATCH+2
    mov eax, 0xa5a5a5a5
    mov edi, SCRATCH + 0x100
    mov ecx, 5
    rep stosd
    stosq
    expect rdi, SCRATCH+0x11c
    expect "qword ptr [SCRATCH+0x110]", 0x00000000a5a5a5a5|0xa5a5a5a500000000
    expect "qword ptr [SCRATCH+0x118]", 0
    mov esi, SCRATCH
    lodsw
    movzx eax, ax
    expect rax, 0x0201
    mov edi, SCRATCH
    mov ecx, 8
    mov al, 5
    repne scasb
    expect rcx, 3
    expect rdi, SCRATCH+5
    mov esi, SCRATCH
    mov edi, SCRATCH + 0x200
    mov ecx, 8
    rep movsb
    mov byte ptr [SCRATCH + 0x205], 0
    mov esi, SCRATCH
    mov edi, SCRATCH + 0x200
    mov ecx, 8
    repe cmpsb
    seta al
    movzx eax, al
    expect rcx, 2
    expect rax, 1
    xor ecx, ecx
    mov edi, SCRATCH + 0x200
    rep stosb
    expect rdi, SCRATCH+0x200

# Conditions: every one after comparisons that tell them apart.
    .macro condition suffix
    cmp r8, r9
    set\suffix al
    movzx eax, al
    cmp r8, r9
    mov r11d, 2
    mov r12d, 4
    cmov\suffix r11, r12
    cmp r8, r9
    mov r12d, 8
    j\suffix 2f
    mov r12d, 0
2:  or rax, r11
    or rax, r12
    shl r10, 1
    cmp rax, 13
    sete al
    movzx eax, al
    or r10, rax
    .endm
    .macro conditions first, second, wanted
    mov r8, \first
    mov r9, \second
    xor r10d, r10d
    condition o
    condition no
    condition b
    condition ae
    condition e
    condition ne
    condition be
    condition a
    condition s
    condition ns
    condition p
    condition np
    condition l
    condition ge
    condition le
    condition g
    expect r10, \wanted
    .endm
    conditions 5, 5, 0b0101101001100110
    conditions 5, 7, 0b0110011010011010
    conditions 7, 5, 0b0101010101010101
    conditions -1, 1, 0b0101010110011010
    mov rax, 1
    shl rax, 63
    conditions rax, 1, 0b1001010101101010

# Loops.
    mov ecx, 5
    xor eax, eax
2:  inc eax
    loop 2b
    expect rax, 5
    mov ecx, 5
    xor eax, eax
2:  inc eax
    cmp eax, 3
    loopne 2b
    expect rax, 3
    expect rcx, 2
    xor ecx, ecx
    mov eax, 1
    jrcxz 2f
    mov eax, 2
2:  expect rax, 1

# Flags as a byte and whole.
    mov ah, 0xff
    sahf
    lahf
    movzx eax, ah
    expect rax, 0xd7
    push 0x8d7
    popfq
    pushfq
    pop rax
    expect rax, 0x8d7
    cmc
    setc al
    stc
    setc ah
    movzx eax, ax
    expect rax, 0x100
    mov ebx, SCRATCH
    mov eax, 3
    xlatb
    movzx eax, al
    expect rax, 4

# Calls through registers and memory.
    lea rax, [rip + 3f]
    xor ebx, ebx
    call rax
    mov qword ptr [SCRATCH], rax
    call qword ptr [SCRATCH]
    expect rbx, 2
    jmp 4f
3:  inc ebx
    ret
4:
# Code that stores into itself.
    mov byte ptr [rip + 5f + 1], 0x77
    jmp 5f
5:  mov eax, 0x11
    expect rax, 0x77
    mov ecx, 3
6:  mov byte ptr [rip + 7f + 1], cl
7:  mov eax, 0
    add rbx, rax
    loop 6b
    expect rbx, 8
# 80 bits and back of segment registers.
    mov eax, USER_DATA
    mov ds, eax
    mov ecx, ds
    expect rcx, USER_DATA
    xor eax, eax
    mov es, eax
    mov ecx, es
    expect rcx, 0
    mov eax, DATA
    mov ds, eax
    mov es, eax
    done

# Segment bases of FS and GS, and SWAPGS.
program bases
    write_msr 0xc0000100, SCRATCH
    write_msr 0xc0000101, SCRATCH+0x100
    write_msr 0xc0000102, SCRATCH+0x200
    mov qword ptr [SCRATCH + 0x18], 1
    mov qword ptr [SCRATCH + 0x118], 2
    mov qword ptr [SCRATCH + 0x218], 3
    expect "qword ptr fs:[0x18]", 1
    expect "qword ptr gs:[0x18]", 2
    swapgs
    expect "qword ptr gs:[0x18]", 3
    read_msr 0xc0000102
    expect rax, SCRATCH+0x100
    swapgs
# A selector brings its descriptor's base, and the null one none.
    mov eax, DATA
    mov fs, eax
    read_msr 0xc0000100
    expect rax, 0
    enter_ring_3
    expect "qword ptr gs:[0x18]", 2
    mov eax, USER_DATA
    mov gs, eax
    mov eax, SCRATCH
    expect "qword ptr gs:[rax+0x18]", 1
    leave_ring_3
    done

# Compatibility mode: 32-bit code under long mode, and back by a fault. It runs in ring 3.
program compatibility
    mov qword ptr [KERNEL_RSP], rsp
    hook leave_32
    lea rax, [rip + compatibility_32]
    push USER_DATA
    push USER_STACK_TOP
    push 2
    push USER_CODE_32
    push rax
    iretq
    .code32
compatibility_32:
    mov eax, USER_DATA
    mov ds, eax
    mov es, eax
# Addresses and registers have 32 bits, the one-byte INC and DEC are back, and so is PUSHA.
    mov eax, 0xffffffff
    inc eax
    mov dword ptr [SCRATCH], eax
    mov ebx, 0xffffffff
    mov byte ptr [ebx + SCRATCH + 0x21], 0x5a
    mov ecx, 0x11
    mov edx, 0x22
    pushad
    add dword ptr [esp + 0x18], 0x33
    popad
    mov dword ptr [SCRATCH + 4], ecx
    mov dword ptr [SCRATCH + 12], esp
    ud2
    .code64
    expect "qword ptr [SCRATCH]", 0x0000004400000000
    mov eax, dword ptr [SCRATCH + 12]
    expect rax, USER_STACK_TOP
    movzx eax, byte ptr [SCRATCH + 0x20]
    expect rax, 0x5a
    done

# From the UD2 of 32-bit code in ring 3 to the code of ring 0 behind it.
leave_32:
    cmp qword ptr [rdi + FRAME_VECTOR], VECTOR_UD
    jne unexpected
    cmp qword ptr [rdi + FRAME_CS], USER_CODE_32
    jne unexpected
    mov qword ptr [rdi + FRAME_CS], CODE
    mov qword ptr [rdi + FRAME_SS], DATA
    mov rax, qword ptr [KERNEL_RSP]
    mov qword ptr [rdi + FRAME_RSP], rax
    add qword ptr [rdi + FRAME_RIP], 2
    ret

# Decimal adjustment, which only 32-bit code has.
program decimal
    mov qword ptr [KERNEL_RSP], rsp
    hook leave_32
    lea rax, [rip + decimal_32]
    push USER_DATA
    push USER_STACK_TOP
    push 2
    push USER_CODE_32
    push rax
    iretq
    .code32
decimal_32:
    mov eax, 0x79
    add al, 0x35
    daa
    setc ah
    mov ebx, eax
    mov eax, 0x0205
    sub al, 0x07
    aas
    mov ecx, eax
    mov eax, 0x0037
    aam
    mov edx, eax
    aad
    mov esi, eax
    ud2
    .code64
    expect rbx, 0x0114
    expect rcx, 0x0108
    expect rdx, 0x0505
    expect rsi, 0x37
    done
