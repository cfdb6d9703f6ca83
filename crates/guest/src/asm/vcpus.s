# Several vCPUs: starting them, giving them work, and counting every interrupt between them.

# Ring 0, first vCPU: INIT, then two start-up IPIs, to all others.
start_other_vcpus:
    mov rax, qword ptr [PARAMETER_VCPUS]
    mov qword ptr [rip + vcpus_online], 1
    cmp rax, 1
    je 4f
    mov esi, 0xc4500
    call send_ipi_others
    mov edi, 10000000
    call delay
    mov esi, 0xc4600 | (IMAGE / 4096)
    call send_ipi_others
    mov edi, 200000
    call delay
    mov esi, 0xc4600 | (IMAGE / 4096)
    call send_ipi_others
    mov ecx, SPIN_LIMIT
    mov rdx, qword ptr [PARAMETER_VCPUS]
2:  cmp qword ptr [rip + vcpus_online], rdx
    je 4f
    pause
    dec ecx
    jnz 2b
    mov rcx, qword ptr [rip + vcpus_online]
    mov rsi, rcx
    failing CHECK_VCPU
4:  ret

# ICR low half ESI, to a shorthand destination.
send_ipi_others:
    mov eax, LAPIC_ICR_HIGH
    mov dword ptr [rax], 0
    mov eax, LAPIC_ICR_LOW
    mov dword ptr [rax], esi
    ret

# Ring 3. Interrupts to this vCPU itself, one at a time: each has to arrive once.
ipis_to_self:
    push rbx
    mov ebx, 8
2:  inc qword ptr gs:[P_SELF_SENT]
    mov esi, ICR_SELF | VECTOR_SELF
    call send_ipi_others
    mov ecx, SPIN_LIMIT
    mov rdx, qword ptr gs:[P_SELF_SENT]
3:  cmp qword ptr gs:[P_SELF_RECEIVED], rdx
    je 4f
    pause
    dec ecx
    jnz 3b
    mov rcx, qword ptr gs:[P_SELF_RECEIVED]
    mov esi, VECTOR_SELF
    failing CHECK_IPI
4:  dec ebx
    jnz 2b
    pop rbx
    ret

# Ring 3, first vCPU: all vCPUs do command EDI; returns when the last is done.
run_command:
    push rbx
    push r12
    push r13
    mov dword ptr [rip + command], edi
    inc qword ptr [rip + commands]
    cmp qword ptr [PARAMETER_VCPUS], 1
    je 2f
    mov esi, ICR_OTHERS | VECTOR_COMMAND
    call send_ipi_others
2:  call do_command
    mov ebx, 1
3:  cmp rbx, qword ptr [PARAMETER_VCPUS]
    jae 4f
    call wait_done
    inc ebx
    jmp 3b
4:  pop r13
    pop r12
    pop rbx
    ret

# Waits until vCPU RBX has done the last command and has said so by exactly one interrupt.
wait_done:
    mov r12d, WAKE_LIMIT
    imul r13d, ebx, PER_VCPU_SIZE
    add r13d, PER_VCPU
    xor r9d, r9d
2:  mov rdi, qword ptr gs:[P_SELF]
    lea rdi, [rdi + rbx * 8 + P_DONES]
    mov rsi, qword ptr [rdi]
    mov rdx, qword ptr [rip + commands]
    cmp rsi, rdx
    je 5f
    ja 4f
    push r9
    service SERVICE_HALT
    pop r9
# Wake-ups are counted while it shows no life: it takes timer interrupts as long as it runs. Once
# it is done, only its interrupt is waited for.
    mov rax, qword ptr [r13 + P_TICK + TICK_COUNT]
    mov rdx, qword ptr [rip + commands]
    cmp qword ptr [r13 + P_DONE], rdx
    jne 3f
    mov rax, -1
3:  cmp rax, r9
    mov r9, rax
    jne 6f
    dec r12d
    jnz 2b
    mov rdx, qword ptr [rip + commands]
    cmp qword ptr [r13 + P_DONE], rdx
    je 4f
    mov rcx, qword ptr [r13 + P_DONE]
    mov rsi, rbx
    failing CHECK_VCPU
6:  mov r12d, WAKE_LIMIT
    jmp 2b
4:  mov rcx, qword ptr gs:[rbx * 8 + P_DONES]
    lea rsi, [rbx + VECTOR_DONE]
    failing CHECK_IPI
# What it did last, it did before now.
5:  rdtsc
    shl rdx, 32
    or rax, rdx
    mov rdx, qword ptr [r13 + P_DONE_TSC]
    cmp rax, rdx
    jae 7f
    test dword ptr [PARAMETER_FLAGS], FLAG_TSC_UNPROMISED
    jnz 7f
    mov rcx, rax
    mov rsi, rbx
    failing CHECK_TSC
7:  ret

# Ring 3, other vCPUs: does what the first one says, for ever.
worker_other:
    lock inc qword ptr [rip + vcpus_online]
    xor ebx, ebx
2:  lea rdi, [rip + commands]
    mov rsi, rbx
    cmp qword ptr [rdi], rsi
    jne 3f
    service SERVICE_HALT
    jmp 2b
3:  inc rbx
# The command is in memory; its interrupt has to come too.
    mov r12d, WAKE_LIMIT
4:  mov rsi, qword ptr gs:[P_COMMANDS]
    cmp rsi, rbx
    je 6f
    ja 5f
    mov rdi, qword ptr gs:[P_SELF]
    add rdi, P_COMMANDS
    service SERVICE_HALT
    dec r12d
    jnz 4b
5:  mov rcx, qword ptr gs:[P_COMMANDS]
    mov rdx, rbx
    mov esi, VECTOR_COMMAND
    failing CHECK_IPI
6:  call do_command
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov qword ptr gs:[P_DONE_TSC], rax
    mov qword ptr gs:[P_DONE], rbx
# To the first vCPU alone.
    mov ecx, PER_VCPU
    mov ecx, dword ptr [rcx + P_APIC_ID]
    shl ecx, 24
    mov eax, LAPIC_ICR_HIGH
    mov dword ptr [rax], ecx
    mov ecx, dword ptr gs:[P_INDEX]
    add ecx, 0x4000 | VECTOR_DONE
    mov eax, LAPIC_ICR_LOW
    mov dword ptr [rax], ecx
    jmp 2b
