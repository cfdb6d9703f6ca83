# Fast system calls.

# Into ring 0 and back: registers, selectors, flags, and the mask.
program syscall
    write_msr 0xc0000081, 0x0020000800000000
    lea rax, [rip + syscall_entry]
    mov rdx, rax
    shr rdx, 32
    mov ecx, 0xc0000082
    wrmsr
    write_msr 0xc0000084, 0x400
    read_msr 0xc0000080
    or eax, 1
    wrmsr
    mov qword ptr [KERNEL_RSP], rsp
    enter_ring_3
    push 0xcd7
    popfq
    lea rbx, [rip + 2f]
    syscall
2:  pushfq
    pop r8
    mov eax, cs
    mov r9d, ss
    cld
    expect r8, 0xcd7
    expect rax, USER_CODE
    expect r9, USER_DATA
    expect rcx, 0x1111
    leave_ring_3
# Not enabled, it is undefined.
    read_msr 0xc0000080
    and eax, ~1
    wrmsr
    enter_ring_3
    expect_fault VECTOR_UD, 0, syscall
    leave_ring_3
    done

# On the stack of ring 3, since SYSCALL changes none.
syscall_entry:
    pushfq
    pop rsi
    mov rdx, rcx
    sub rcx, rbx
    mov rdi, r11
    mov r13d, cs
    mov r14d, ss
    expect rcx, 0
    expect rdi, 0xcd7
    expect rsi, 0x8d7
    expect r13, CODE
    expect r14, DATA
    mov rcx, rdx
    mov r11, rdi
    lea rax, [rip + syscall_second]
    mov rdx, rcx
    mov rcx, rax
    sysretq
# Still in ring 3: on to where SYSCALL came from.
syscall_second:
    mov eax, cs
    expect rax, USER_CODE
    mov ecx, 0x1111
    push r11
    popfq
    jmp rdx

# SYSRET alone: into ring 3, with flags from R11, and to compatibility mode.
program sysret
    write_msr 0xc0000081, 0x0020000800000000
    read_msr 0xc0000080
    or eax, 1
    wrmsr
    mov qword ptr [KERNEL_RSP], rsp
    lea rcx, [rip + 2f]
    mov r11d, 0xad7
    sysretq
2:  pushfq
    pop rbx
    mov eax, cs
    expect rax, USER_CODE
    mov eax, ss
    expect rax, USER_DATA
    expect rbx, 0xad7
    leave_ring_3
    cli
    done

# SYSENTER is not there in long mode of this vendor's processors.
program sysenter
    write_msr 0x174, CODE
    write_msr 0x176, IMAGE
    enter_ring_3
    expect_fault VECTOR_UD, 0, sysenter
    leave_ring_3
    done
