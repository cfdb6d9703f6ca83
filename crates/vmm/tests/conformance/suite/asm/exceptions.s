# Exceptions and the ways back from them.

program exceptions
# #DE: by zero, and a quotient that does not fit.
    xor ebx, ebx
    mov eax, 1
    xor edx, edx
    expect_fault VECTOR_DE, 0, div rbx
    expect rax, 1
    mov edx, 5
    mov ebx, 5
    expect_fault VECTOR_DE, 0, div ebx
    mov eax, 0x80000000
    cdq
    mov ebx, -1
    expect_fault VECTOR_DE, 0, idiv ebx
    expect_fault VECTOR_UD, 0, ud2
# #GP: an address that is not canonical, and #SS through the stack's registers.
    movabs rbx, 0x0000800000000000
    expect_fault VECTOR_GP, 0, mov rax, qword ptr [rbx]
    expect_fault VECTOR_GP, 0, mov qword ptr [rbx], rax
    mov rbp, rbx
    expect_fault VECTOR_SS, 0, mov rax, qword ptr [rbp]
# Segments: past the table, not present, of the wrong kind.
    mov eax, GDT_SIZE
    expect_fault VECTOR_GP, GDT_SIZE, mov ds, eax
    mov eax, CODE
    expect_fault VECTOR_GP, CODE, mov ss, eax
    mov rax, 0x00cf73000000ffff
    mov qword ptr [GDT + SPARE_DESCRIPTORS], rax
    mov eax, SPARE_DESCRIPTORS | 3
    expect_fault VECTOR_NP, SPARE_DESCRIPTORS, mov ds, eax
    mov eax, 0x0c
    expect_fault VECTOR_GP, 0x0c, mov ds, eax
# The selectors stayed.
    mov eax, ds
    expect rax, USER_DATA
# Control registers and model-specific registers refuse what is reserved.
    mov rax, cr4
    btr rax, 5
    expect_fault VECTOR_GP, 0, mov cr4, rax
    mov rax, cr0
    btr rax, 0
    expect_fault VECTOR_GP, 0, mov cr0, rax
    mov ecx, 0x12345
    expect_fault VECTOR_GP, 0, rdmsr
    expect_fault VECTOR_GP, 0, wrmsr
# A flag is kept over a fault, and RF is in its frame.
    stc
    expect_fault VECTOR_UD, 0, ud2
    setc al
    movzx eax, al
    expect rax, 1
    mov rax, qword ptr [FAULT_CS]
    expect rax, CODE
    mov rax, qword ptr [FAULT_SS]
    expect rax, DATA
    done

# What ring 3 may not do, and the change of stack that each fault makes.
program privileges
    mov rbx, 0x1234
    enter_ring_3 0x202
    mov eax, cs
    expect rax, USER_CODE
    mov eax, ss
    expect rax, USER_DATA
    expect_fault VECTOR_GP, 0, hlt
    expect "qword ptr [FAULT_CS]", USER_CODE
    expect "qword ptr [FAULT_SS]", USER_DATA
    mov rax, qword ptr [FAULT_RSP]
    sub rax, rsp
    expect rax, 0
    expect_fault VECTOR_GP, 0, cli
    expect_fault VECTOR_GP, 0, mov rax, cr0
    expect_fault VECTOR_GP, 0, mov cr3, rax
    expect_fault VECTOR_GP, 0, rdmsr
    expect_fault VECTOR_GP, 0, wrmsr
    expect_fault VECTOR_GP, 0, invlpg byte ptr [0]
    expect_fault VECTOR_GP, 0, lgdt [TABLE_REGISTER]
    expect_fault VECTOR_GP, 0, swapgs
    mov edx, 0x80
    expect_fault VECTOR_GP, 0, out dx, al
    expect_fault VECTOR_GP, 0, in eax, dx
    expect_fault VECTOR_UD, 0, ud2
    xor ebx, ebx
    expect_fault VECTOR_DE, 0, div ebx
    mov eax, DATA
    expect_fault VECTOR_GP, DATA, mov ds, eax
    movabs rbx, 0x8000000000000000
    expect_fault VECTOR_GP, 0, mov al, byte ptr [rbx]
# POPF leaves IF and IOPL as they are, without a fault.
    push 0x3002
    popfq
    pushfq
    pop rax
    expect rax, 0x202
    leave_ring_3
    cli
# The ports that the task's bitmap allows are ring 3's: the serial port's scratch register.
    and byte ptr [TASKS + 0x68 + 0x7f], 0x7f
    mov byte ptr [TASKS + 0x68 + 0x10], 0
    enter_ring_3
    mov edx, 0x3ff
    mov al, 0x5a
    out dx, al
    xor eax, eax
    in al, dx
    expect rax, 0x5a
    mov edx, 0x3fe
    expect_fault VECTOR_GP, 0, in al, dx
# Two bytes need two bits.
    mov edx, 0x87
    expect_fault VECTOR_GP, 0, in ax, dx
    in al, dx
    leave_ring_3
    done

# Breakpoints from ring 3: a trap, with the address after it.
program breakpoints
    hook breakpoints_hook
    enter_ring_3
    lea rbx, [rip + 2f]
    xor eax, eax
    int3
2:  sub rbx, qword ptr [FAULT_RIP]
    expect rbx, 0
    expect "qword ptr [FAULT_VECTOR]", VECTOR_BP
    expect "qword ptr [FAULT_CS]", USER_CODE
    leave_ring_3
    done

breakpoints_hook:
    push qword ptr [rdi + FRAME_RIP]
    pop qword ptr [FAULT_RESUME]
    jmp store_fault

# Breakpoints and INT n in ring 0 and 3.
program software_interrupts
    hook breakpoints_hook
    lea rbx, [rip + 2f]
    int3
2:  sub rbx, qword ptr [FAULT_RIP]
    expect rbx, 0
    expect "qword ptr [FAULT_VECTOR]", VECTOR_BP
    lea rbx, [rip + 3f]
    int 0x80
3:  sub rbx, qword ptr [FAULT_RIP]
    expect rbx, 0
    expect "qword ptr [FAULT_VECTOR]", 0x80
    unhook
# Ring 3 may use only gates that let it: the error code names the gate.
    enter_ring_3
    expect_fault VECTOR_GP, 0x80*8+2, int 0x80
    leave_ring_3
    done

# The trap flag: after each instruction that it is set for.
program single_step
    hook single_step_hook
    mov qword ptr [OWN], 0
    pushfq
    or qword ptr [rsp], 0x100
    popfq
    nop
    nop
    pushfq
    and qword ptr [rsp], ~0x100
    popfq
    nop
    unhook
# Two NOPs, PUSHF, AND; POPF clears the flag before its own trap would come, which comes still.
    expect "qword ptr [OWN]", 5
    expect "qword ptr [OWN+8]", 0x4000
    mov rax, dr6
    and eax, 0xe00f
    expect rax, 0x4000
    done

single_step_hook:
    cmp qword ptr [rdi + FRAME_VECTOR], VECTOR_DB
    jne unexpected
    inc qword ptr [OWN]
    mov rax, dr6
    and eax, 0xe00f
    mov qword ptr [OWN + 8], rax
    ret

# Faults whose handler cannot be called.
program missing_gate
# No gate for #UD: its delivery is a #NP that names the gate and that an event was being delivered.
# It is contributory, but #UD is not: no double fault.
    mov rax, qword ptr [IDT + 16 * VECTOR_UD]
    mov qword ptr [OWN], rax
    btr rax, 47
    mov qword ptr [IDT + 16 * VECTOR_UD], rax
    expect_fault VECTOR_NP, VECTOR_UD*8+3, ud2
    done

program double_fault
# No gate for #GP: #NP upon it is a double fault.
    mov rax, qword ptr [IDT + 16 * VECTOR_GP]
    btr rax, 47
    mov qword ptr [IDT + 16 * VECTOR_GP], rax
    hook double_fault_hook
    lea rax, [rip + 2f]
    mov qword ptr [FAULT_RESUME], rax
    movabs rbx, 0x8000000000000000
    mov rax, qword ptr [rbx]
2:  expect "qword ptr [FAULT_VECTOR]", VECTOR_DF
    expect "qword ptr [FAULT_ERROR]", 0
    expect "qword ptr [OWN+8]", FAULT_STACK_TOP-0x38
    done

double_fault_hook:
    mov qword ptr [OWN + 8], rdi
    jmp store_fault

# IRET: same ring with another stack, flags, data segments that ring 3 may not keep.
program iret
    mov rsi, rsp
    push DATA
    push SCRATCH + 0x1000
    push 0x8d7
    push CODE
    lea rax, [rip + 2f]
    push rax
    iretq
2:  mov rbx, rsp
    pushfq
    pop rcx
    mov rsp, rsi
    expect rbx, SCRATCH+0x1000
    expect rcx, 0x8d7
# A null stack selector is good in ring 0 of 64-bit mode.
    push 0
    push rsi
    push 2
    push CODE
    lea rax, [rip + 2f]
    push rax
    iretq
2:  mov eax, ss
    expect rax, 0
    mov eax, DATA
    mov ss, eax
# To ring 3: a segment of ring 0 becomes the null one.
    mov eax, DATA
    mov ds, eax
    enter_ring_3
    mov eax, ds
    expect rax, 0
    leave_ring_3
    done

# IRET leaves the segments that ring 3 may keep. Its faults: selectors of the wrong kind and privilege,
# NT; the frame stays where it is.
program iret_checks
    mov eax, USER_DATA
    mov es, eax
    enter_ring_3
    mov eax, es
    expect rax, USER_DATA
    leave_ring_3
    mov rsi, rsp
    push DATA
    push rsi
    push 2
    push DATA
    push rax
    expect_fault VECTOR_GP, DATA, iretq
    mov rsp, rsi
    push DATA
    push rsi
    push 2
    push USER_CODE
    push rax
    expect_fault VECTOR_GP, DATA, iretq
    mov rsp, rsi
    push DATA
    push rsi
    push 2
    push CODE
    movabs rax, 0x8000000000000000
    push rax
    mov qword ptr [OWN], rax
    lea rax, [rip + 3f]
    mov qword ptr [FAULT_RESUME], rax
# The fault is IRET's own, though some processors raise it at the new address.
    iretq
3:  mov rsp, rsi
    expect "qword ptr [FAULT_VECTOR]", VECTOR_GP
    expect "qword ptr [FAULT_ERROR]", 0
    push 0x4002
    popfq
    push DATA
    push rsi
    push 2
    push CODE
    push rax
    expect_fault VECTOR_GP, 0, iretq
    mov rsp, rsi
    push 2
    popfq
    done

# Far transfers: RETF to ring 0 and 3, far JMP and CALL through memory, 32 bits and back.
program far_transfers
    mov rsi, rsp
    push CODE
    lea rax, [rip + 2f]
    push rax
    retfq
2:  sub rsi, rsp
    expect rsi, 0
    lea rax, [rip + 3f]
    mov dword ptr [SCRATCH], eax
    mov dword ptr [SCRATCH + 4], CODE
    jmp fword ptr [SCRATCH]
3:  lea rax, [rip + 4f]
    mov dword ptr [SCRATCH], eax
    mov rbx, rsp
    call fword ptr [SCRATCH]
    expect rbx, STACK_TOP
    jmp 5f
4:  mov rcx, rbx
    sub rcx, rsp
    expect rcx, 8
    mov eax, dword ptr [rsp + 4]
    expect rax, CODE
    retf
5:  done

# The registers that only ring 0 has.
program system_registers
    sgdt [SCRATCH]
    movzx eax, word ptr [SCRATCH]
    expect rax, GDT_SIZE-1
    expect "qword ptr [SCRATCH+2]", GDT
    sidt [SCRATCH]
    movzx eax, word ptr [SCRATCH]
    expect rax, 0xfff
    expect "qword ptr [SCRATCH+2]", IDT
    xor eax, eax
    str ax
    expect rax, TASK
    xor eax, eax
    sldt ax
    expect rax, 0
    mov word ptr [SCRATCH], GDT_SIZE - 1
    mov qword ptr [SCRATCH + 2], GDT
    lgdt [SCRATCH]
# A busy task cannot be loaded; one that is free becomes busy.
    movabs rax, 0x0000890000000067 | TASKS << 16
    mov qword ptr [GDT + SPARE_DESCRIPTORS], rax
    mov qword ptr [GDT + SPARE_DESCRIPTORS + 8], 0
    mov eax, SPARE_DESCRIPTORS
    ltr ax
    mov rax, qword ptr [GDT + SPARE_DESCRIPTORS]
    shr rax, 40
    and eax, 0xff
    expect rax, 0x8b
    mov eax, SPARE_DESCRIPTORS
    expect_fault VECTOR_GP, SPARE_DESCRIPTORS, ltr ax
# A local table with one segment.
    movabs rax, 0x000082000000000f | SCRATCH << 16
    mov qword ptr [GDT + SPARE_DESCRIPTORS + 16], rax
    mov qword ptr [GDT + SPARE_DESCRIPTORS + 24], 0
    mov eax, SPARE_DESCRIPTORS + 16
    lldt ax
    movabs rax, 0x00cff3000000ffff
    mov qword ptr [SCRATCH + 8], rax
    mov eax, 0xf
    mov es, eax
    mov eax, 0x17
    expect_fault VECTOR_GP, 0x14, mov es, eax
    mov eax, es
    expect rax, 0xf
# Control and debug registers read back.
    mov rax, cr0
    expect rax, 0x80010033
    or eax, 8
    mov cr0, rax
    mov rax, cr0
    expect rax, 0x8001003b
    clts
    mov rax, cr0
    expect rax, 0x80010033
    mov rax, cr4
    expect rax, 0x620
    mov rax, 0x123456789abc
    mov cr2, rax
    mov rax, cr2
    expect rax, 0x123456789abc
    mov rax, 0x7fff12345678
    mov dr0, rax
    mov dr3, rax
    mov rax, dr3
    expect rax, 0x7fff12345678
    mov rax, dr7
    expect rax, 0x400
    smsw eax
    and eax, 0xffff
    expect rax, 0x33
    done

# The unit not available: #NM, and #UD without OSFXSR.
program fpu_not_available
    enter_ring_3
    pxor xmm0, xmm0
    leave_ring_3
    mov rax, cr0
    or eax, 8
    mov cr0, rax
    enter_ring_3
    expect_fault VECTOR_NM, 0, pxor xmm0, xmm0
    expect_fault VECTOR_NM, 0, fld1
    expect_fault VECTOR_NM, 0, fwait
    leave_ring_3
    mov rax, cr0
    and eax, ~8
    or eax, 4
    mov cr0, rax
    enter_ring_3
    expect_fault VECTOR_NM, 0, fld1
    expect_fault VECTOR_UD, 0, pxor xmm0, xmm0
    leave_ring_3
    done
