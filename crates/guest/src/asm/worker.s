# The rounds. Ring 3.

# The command in memory, on this vCPU. Changes what a called function may.
do_command:
    mov eax, dword ptr [rip + command]
    cmp eax, COMMAND_WRITE
    jb command_fill
    je command_write
    cmp eax, COMMAND_CHECK_ALL
    jb command_check
    je command_check_all
    ret

command_fill:
    mov rax, qword ptr gs:[P_SELF]
    mov qword ptr fs:[0], rax
    mov rax, qword ptr [PARAMETER_SEED]
    mov qword ptr gs:[P_SOAK], rax
    call fill_slice
    call patterns_load
    service SERVICE_HELD_RECORD
    ret

command_write:
    call patterns_check
    inc qword ptr gs:[P_GENERATION]
    call patterns_load
    call hold_registers
    call provoke_faults
    call modify_code
    call ipis_to_self
    mov ecx, 64
2:  lock inc qword ptr [rip + atomic]
    dec ecx
    jnz 2b
    jmp write_slice

# Another vCPU's slice in every round.
command_check:
    mov rax, qword ptr [PARAMETER_CHECKS_PER_ROUND]
    call check_some_slice
    service SERVICE_HELD_COMPARE
    push rbx
    push r12
    mov rbx, qword ptr gs:[P_SELF]
    add rbx, P_TICK
    mov r12d, TIMER_LAPIC
    call check_ticks
    pop r12
    pop rbx
    ret

command_check_all:
    call patterns_check
    call patterns_load
    xor eax, eax

# RAX pages (0: all) of the slice of vCPU (this one + round) modulo their number.
check_some_slice:
    push rbx
    push rax
    mov rax, qword ptr gs:[P_INDEX]
    add rax, qword ptr [rip + round]
    xor edx, edx
    div qword ptr [PARAMETER_VCPUS]
    imul ebx, edx, PER_VCPU_SIZE
    add ebx, PER_VCPU
    pop rax
    call check_slice
    call check_window
    pop rbx
    ret

worker_first:
    mov edi, COMMAND_FILL
    call run_command
2:  inc qword ptr [rip + round]
    mov edi, COMMAND_WRITE
    call run_command
    mov edi, COMMAND_NOTHING
    call run_command
    mov edi, COMMAND_CHECK
    call run_command
    call check_atomic
    call disk_round
    call check_time
    call print_round
    call pause_round
    mov rax, qword ptr [rip + round]
    cmp rax, qword ptr [PARAMETER_ROUNDS]
    jne 2b
    mov edi, COMMAND_CHECK_ALL
    call run_command
    call print_pass
    xor eax, eax
    out EXIT_PORT, al
3:  pause
    jmp 3b

# 64 increments on each vCPU in every round.
check_atomic:
    mov rax, qword ptr [rip + round]
    mul qword ptr [PARAMETER_VCPUS]
    shl rax, 6
    mov rcx, qword ptr [rip + atomic]
    mov rdx, rax
    lea rsi, [rip + atomic]
    cmp rcx, rdx
    jne 2f
    ret
2:  failing CHECK_ATOMIC

# Writes this round's block of the disk and reads it back; reads and verifies an older one.
disk_round:
    test dword ptr [PARAMETER_FLAGS], FLAG_DISK
    jz 4f
    push rbx
    push r12
    mov rbx, qword ptr [rip + round]
    mov rdi, rbx
    call disk_block
    mov r9d, DISK_BUFFER
    call fill_scalar
    mov rsi, r12
    mov edi, 1
    service SERVICE_DISK
    call clear_disk_buffer
    call verify_disk_block
# Any of the last rounds, as many as there are blocks: round - mix(round) % min(round, blocks).
    mov rdi, rbx
    call mix
    mov rcx, qword ptr [rip + disk_blocks]
    cmp rcx, rbx
    jb 2f
    mov rcx, rbx
2:  xor edx, edx
    div rcx
    sub rbx, rdx
    call verify_disk_block
    pop r12
    pop rbx
4:  ret

# For round RDI: R12 = block; words RAX + i * RDX.
disk_block:
    mov rax, rdi
    xor edx, edx
    div qword ptr [rip + disk_blocks]
    mov r12, rdx
    mov rsi, rdi
    movabs rdi, DISK_PAGE
    add rdi, r12
    jmp page_words

clear_disk_buffer:
    mov edi, DISK_BUFFER
    xor eax, eax
    mov ecx, 512
    rep stosq
    ret

# Reads the block that round RBX wrote and verifies it.
verify_disk_block:
    mov rdi, rbx
    call disk_block
    push rax
    push rdx
    mov rsi, r12
    xor edi, edi
    service SERVICE_DISK
    pop rdx
    pop rax
    mov r9d, DISK_BUFFER
    call check_words
    jc 2f
    inc qword ptr [rip + disk_blocks_ok]
    ret
2:  mov rsi, r12
    shl rsi, 12
    sub r9, DISK_BUFFER
    add rsi, r9
    failing CHECK_DISK_DATA

# Halts until the pause is over; a timer tick ends each HLT.
pause_round:
    mov rax, qword ptr [PARAMETER_PAUSE_NS]
    test rax, rax
    jz 4f
    push rbx
    mov rbx, qword ptr gs:[P_TICK + TICK_COUNT]
    mul qword ptr [rip + reference_hz]
    mov ecx, 1000000000
    div rcx
    mov rcx, rax
    call read_reference
    add rcx, rax
2:  mov rdi, qword ptr gs:[P_SELF]
    add rdi, P_TICK + TICK_COUNT
    mov rsi, qword ptr [rdi]
    push rcx
    service SERVICE_HALT
    pop rcx
    cmp dword ptr [rip + reference], REFERENCE_NONE
    je 5f
    call read_reference
    cmp rax, rcx
    jb 2b
3:  pop rbx
4:  ret
# No reference: by ticks.
5:  mov rax, qword ptr [PARAMETER_PAUSE_NS]
    xor edx, edx
    div qword ptr [PARAMETER_TICK_NS]
    add rax, rbx
    cmp qword ptr gs:[P_TICK + TICK_COUNT], rax
    jb 2b
    jmp 3b
