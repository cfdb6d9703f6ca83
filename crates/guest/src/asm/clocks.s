# What time may look like. Ring 3: the arithmetic is here, ring 0 only reads registers.

# RAX = units of a clock of RCX Hz that pass in RAX units of the reference. Changes RDX.
from_reference:
    mul rcx
    div qword ptr [rip + reference_hz]
    ret

# RAX = what RAX may be off by drift. Changes RDX, R8.
drift_of:
    mul qword ptr [PARAMETER_DRIFT_PPM]
    mov r8d, 1000000
    div r8
    ret

# The periodic timer at RBX, which is number R12, of this vCPU.
#
# Always: never more ticks than periods since it was armed, and one that was due already. Ticks
# may be missing, because a host that is late may merge them.
# With exact ticks: the tick's number times the period is when it came, to half a period.
check_ticks:
    cmp dword ptr [rip + reference], REFERENCE_NONE
    je 4f
2:  mov r9, qword ptr [rbx + TICK_COUNT]
    mov r10, qword ptr [rbx + TICK_STAMP]
    cmp r9, qword ptr [rbx + TICK_COUNT]
    jne 2b
    test r9, r9
    jz 4f
    mov rax, r10
    sub rax, qword ptr [rbx + TICK_ARMED]
    mov rcx, qword ptr [rbx + TICK_HZ]
    call from_reference
    mov rcx, rax
    call drift_of
    add rax, rcx
    xor edx, edx
    div qword ptr [rbx + TICK_MODULUS]
    lea rdx, [rax + 2]
    mov rcx, r9
    cmp rcx, rdx
    ja 5f
    test dword ptr [PARAMETER_FLAGS], FLAG_EXACT_TICKS
    jz 4f
    mov rax, r10
    sub rax, qword ptr [rbx + TICK_FIRST]
    mov rcx, qword ptr [rbx + TICK_HZ]
    call from_reference
    mov rcx, qword ptr [rbx + TICK_MODULUS]
    mov rdx, rcx
    shr rdx, 1
    add rax, rdx
    xor edx, edx
    div rcx
    lea rdx, [rax + 1]
    mov rcx, r9
    cmp rcx, rdx
    jne 5f
4:  ret
5:  mov rsi, r12
    failing CHECK_TICKS

# The timer at RBX, number R12, still ticks: RAX is how often other timers did. All have nearly the
# same period, so 64 of theirs with none of this one's is proof, however slow the host.
check_alive:
    mov rcx, qword ptr [rbx + TICK_COUNT]
    cmp rcx, qword ptr [rbx + TICK_SEEN]
    je 2f
    mov qword ptr [rbx + TICK_SEEN], rcx
    mov qword ptr [rbx + TICK_OTHERS], rax
2:  sub rax, qword ptr [rbx + TICK_OTHERS]
    cmp rax, 64
    ja 3f
    ret
3:  mov rsi, r12
    mov rdx, rcx
    inc rdx
    failing CHECK_TIMER_STOPPED

# Once a round, on the first vCPU: the board's timers, then every clock against the reference.
check_time:
    push rbx
    push r12
    push r13
    mov r13, qword ptr gs:[P_TICK + TICK_COUNT]
    test dword ptr [PARAMETER_FLAGS], FLAG_NO_PIT
    jnz 2f
    lea rbx, [rip + pit_tick]
    mov r12d, TIMER_PIT
    call check_ticks
    mov rax, r13
    call check_alive
    lea rbx, [rip + lapic_alive]
    mov rax, qword ptr gs:[P_TICK + TICK_COUNT]
    mov qword ptr [rbx + TICK_COUNT], rax
    mov r12d, TIMER_LAPIC
    mov rax, qword ptr [rip + pit_tick + TICK_COUNT]
    call check_alive
2:  test dword ptr [PARAMETER_FLAGS], FLAG_HPET
    jz 3f
    lea rbx, [rip + hpet_tick]
    mov r12d, TIMER_HPET
    call check_ticks
    mov rax, r13
    call check_alive
3:  test dword ptr [PARAMETER_FLAGS], FLAG_RTC_UNPROMISED | FLAG_NO_PIC
    jnz 9f
    lea rbx, [rip + rtc_tick]
    mov r12d, TIMER_RTC
    call check_ticks
# Its period is its own: the others' ticks in units of it.
    mov rax, r13
    mul qword ptr [PARAMETER_TICK_NS]
    mov ecx, RTC_PERIOD_NS
    div rcx
    call check_alive
9:  cmp dword ptr [rip + reference], REFERENCE_NONE
    je 7f
    service SERVICE_SAMPLE_CLOCKS
    lea rbx, [rip + clocks]
    xor r12d, r12d
4:  cmp qword ptr [rbx + CLOCK_HZ], 0
    je 6f
    cmp dword ptr [rip + clocks_sampled], 0
    je 5f
    lea rdi, [rbx + CLOCK_LAST]
    call check_clock
    lea rdi, [rbx + CLOCK_FIRST]
    call check_clock
    jmp 8f
5:  lea rdi, [rbx + CLOCK_FIRST]
    call keep_sample
8:  lea rdi, [rbx + CLOCK_LAST]
    call keep_sample
6:  add rbx, CLOCK_SIZE
    inc r12d
    cmp r12d, CLOCKS
    jb 4b
    mov dword ptr [rip + clocks_sampled], 1
7:  pop r13
    pop r12
    pop rbx
    ret

keep_sample:
    mov rax, qword ptr [rbx + CLOCK_NOW + SAMPLE_BEFORE]
    mov qword ptr [rdi + SAMPLE_BEFORE], rax
    mov rax, qword ptr [rbx + CLOCK_NOW + SAMPLE_VALUE]
    mov qword ptr [rdi + SAMPLE_VALUE], rax
    mov rax, qword ptr [rbx + CLOCK_NOW + SAMPLE_AFTER]
    mov qword ptr [rdi + SAMPLE_AFTER], rax
    ret

# The clock at RBX, number R12, against its earlier sample at RDI. The reference says how far it
# went at least and at most, from the readings around each sample; the clock says how far modulo
# its period. Some whole number of periods has to make the two agree.
check_clock:
    push r13
    push r14
    mov rcx, qword ptr [rbx + CLOCK_HZ]
    mov rax, qword ptr [rbx + CLOCK_NOW + SAMPLE_BEFORE]
    sub rax, qword ptr [rdi + SAMPLE_AFTER]
    jae 2f
# The reference itself went backwards.
    mov rcx, qword ptr [rbx + CLOCK_NOW + SAMPLE_BEFORE]
    mov rdx, qword ptr [rdi + SAMPLE_AFTER]
    mov esi, 1
    failing CHECK_TSC
2:  call from_reference
    mov r9, rax
    call drift_of
    add rax, qword ptr [rbx + CLOCK_SLACK]
    sub r9, rax
    jae 3f
    xor r9d, r9d
3:  mov rax, qword ptr [rbx + CLOCK_NOW + SAMPLE_AFTER]
    sub rax, qword ptr [rdi + SAMPLE_BEFORE]
    call from_reference
    lea r10, [rax + 1]
    mov rax, r10
    call drift_of
    add r10, rax
    add r10, qword ptr [rbx + CLOCK_SLACK]
# R9 = least, R10 = most, R13 = how far modulo the period.
    mov r13, qword ptr [rbx + CLOCK_NOW + SAMPLE_VALUE]
    sub r13, qword ptr [rdi + SAMPLE_VALUE]
    jae 4f
    add r13, qword ptr [rbx + CLOCK_MODULUS]
4:  mov rax, r10
    sub rax, r13
    jb 5f
    xor edx, edx
    div qword ptr [rbx + CLOCK_MODULUS]
    mul qword ptr [rbx + CLOCK_MODULUS]
    add rax, r13
    cmp rax, r9
    jb 5f
    pop r14
    pop r13
    ret
5:  mov rsi, r12
    mov rdx, r10
    mov rcx, r13
    failing CHECK_CLOCK
