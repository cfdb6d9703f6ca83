# Timers and clocks: finding the reference clock, arming the periodic timers, reading every clock.

# RAX = the reference clock: the TSC, or the HPET's counter where the machine does not promise its
# TSC. Changes RDX. In ring 0 and ring 3.
read_reference:
    cmp dword ptr [rip + reference], REFERENCE_HPET
    je 2f
    rdtsc
    shl rdx, 32
    or rax, rdx
    ret
2:  push rcx
    push rbx
    mov ebx, HPET
3:  mov ecx, dword ptr [rbx + 0xf4]
    mov eax, dword ptr [rbx + 0xf0]
    mov edx, dword ptr [rbx + 0xf4]
    cmp ecx, edx
    jne 3b
    shl rdx, 32
    or rax, rdx
    pop rbx
    pop rcx
    ret

find_reference:
    mov rax, qword ptr [PARAMETER_TSC_KHZ]
    test rax, rax
    jnz 2f
    call measure_tsc
2:  mov qword ptr [rip + tsc_khz], rax
    mov ecx, REFERENCE_TSC
    test dword ptr [PARAMETER_FLAGS], FLAG_HPET
    jz 3f
# The HPET's period is in femtoseconds.
    mov ecx, HPET_PERIOD
    mov ecx, dword ptr [rcx]
    movabs rax, 1000000000000000
    xor edx, edx
    div rcx
    mov qword ptr [rip + hpet_hz], rax
    mov ecx, HPET_CONFIGURATION
    mov dword ptr [rcx], 0
    mov edx, HPET_COUNTER
    mov dword ptr [rdx], 0
    mov edx, HPET_COUNTER_HIGH
    mov dword ptr [rdx], 0
    mov dword ptr [rcx], 1
3:  mov rax, qword ptr [rip + tsc_khz]
    imul rax, rax, 1000
    mov ecx, REFERENCE_TSC
    test dword ptr [PARAMETER_FLAGS], FLAG_TSC_UNPROMISED
    jz 4f
    mov rax, qword ptr [rip + hpet_hz]
    mov ecx, REFERENCE_HPET
    test dword ptr [PARAMETER_FLAGS], FLAG_HPET
    jnz 4f
    mov eax, 1
    mov ecx, REFERENCE_NONE
4:  mov qword ptr [rip + reference_hz], rax
    mov dword ptr [rip + reference], ecx
    ret

# RAX = TSC frequency in kHz, against 50 ms of the local APIC timer.
measure_tsc:
    push rbx
    push r12
    mov eax, LAPIC_TIMER_INITIAL
    mov dword ptr [rax], 0xffffffff
    call sample_tsc
    mov rbx, rax
    mov r12, rcx
2:  call sample_tsc
    mov rdx, r12
    sub rdx, rcx
    cmp rdx, 50000000
    jb 2b
    sub rax, rbx
    mov rcx, rdx
    mov edx, LAPIC_HZ / 1000
    mul rdx
    div rcx
    mov ecx, LAPIC_TIMER_INITIAL
    mov dword ptr [rcx], 0
    pop r12
    pop rbx
    ret

# RAX = TSC, RCX = timer count read at nearly the same instant: the closest of eight tries.
sample_tsc:
    mov r8d, 8
    mov r9, -1
    mov edi, LAPIC_TIMER_CURRENT
2:  rdtsc
    shl rdx, 32
    lea rsi, [rax + rdx]
    mov r10d, dword ptr [rdi]
    rdtsc
    shl rdx, 32
    or rax, rdx
    sub rax, rsi
    cmp rax, r9
    jae 3f
    mov r9, rax
    shr rax, 1
    lea r11, [rsi + rax]
    mov rcx, r10
3:  dec r8d
    jnz 2b
    mov rax, r11
    ret

# Waits for EDI nanoseconds of the local APIC timer.
delay:
    mov eax, LAPIC_TIMER_INITIAL
    mov dword ptr [rax], 0xffffffff
    mov eax, LAPIC_TIMER_CURRENT
    not edi
2:  cmp dword ptr [rax], edi
    ja 2b
    mov eax, LAPIC_TIMER_INITIAL
    mov dword ptr [rax], 0
    ret

# Every vCPU's own timer. RAX is kept.
lapic_timer_begin:
    push rax
    mov rbx, qword ptr gs:[P_SELF]
    mov qword ptr [rbx + P_TICK + TICK_HZ], LAPIC_HZ
    mov rcx, qword ptr [PARAMETER_TICK_NS]
    mov qword ptr [rbx + P_TICK + TICK_MODULUS], rcx
    mov eax, LAPIC_LVT_TIMER
    mov dword ptr [rax], LVT_PERIODIC | VECTOR_LAPIC_TIMER
    call read_reference
    mov qword ptr [rbx + P_TICK + TICK_ARMED], rax
    mov edx, LAPIC_TIMER_INITIAL
    mov dword ptr [rdx], ecx
    cmp qword ptr [rbx + P_INDEX], 0
    jne 2f
    test dword ptr [PARAMETER_FLAGS], FLAG_LAPIC_PHASE_UNPROMISED
    jnz 2f
    lea rdi, [rip + lapic_clock]
    mov esi, LAPIC_HZ
    mov rdx, rcx
    xor ecx, ecx
    call clock_begin
2:  pop rax
    ret

# Clock RDI: rate ESI, modulus RDX, ECX units of slack besides those of the parameters.
clock_begin:
    mov qword ptr [rdi + CLOCK_HZ], rsi
    mov qword ptr [rdi + CLOCK_MODULUS], rdx
    mov rax, qword ptr [PARAMETER_CLOCK_SLACK_NS]
    mul rsi
    push rcx
    mov ecx, 1000000000
    div rcx
    pop rcx
    lea rax, [rax + rcx + 1]
    mov qword ptr [rdi + CLOCK_SLACK], rax
    ret

timers_begin:
    test dword ptr [PARAMETER_FLAGS], FLAG_NO_PIT
    jnz 2f
# Channel 2 stands still with a count of its own: gate off, speaker off.
    in al, 0x61
    and al, 0xfc
    out 0x61, al
    mov al, 0xb4
    out 0x43, al
    mov al, 0xef
    out 0x42, al
    mov al, 0xbe
    out 0x42, al
# Channel 0: rate generator.
    lea rbx, [rip + pit_tick]
    mov qword ptr [rbx + TICK_HZ], PIT_HZ
    mov rcx, qword ptr [PARAMETER_PIT_DIVISOR]
    mov qword ptr [rbx + TICK_MODULUS], rcx
    call read_reference
    mov qword ptr [rbx + TICK_ARMED], rax
    mov al, 0x34
    out 0x43, al
    mov eax, ecx
    out 0x40, al
    mov al, ah
    out 0x40, al
    lea rdi, [rip + pit_clock]
    mov esi, PIT_HZ
    mov rdx, rcx
    mov ecx, 2
    call clock_begin
2:  test dword ptr [PARAMETER_FLAGS], FLAG_HPET
    jz 3f
    call hpet_timer_begin
3:  test dword ptr [PARAMETER_FLAGS], FLAG_RTC_UNPROMISED
    jnz 4f
# 24-hour mode; a byte of its battery-backed memory; seconds of the day are the clock.
    mov al, 0x0b
    out 0x70, al
    in al, 0x71
    or al, 0x02
    mov ah, al
    mov al, 0x0b
    out 0x70, al
    mov al, ah
    out 0x71, al
    mov al, 0x5f
    out 0x70, al
    mov al, 0xa7
    out 0x71, al
    lea rdi, [rip + rtc_clock]
    mov esi, 1
    mov edx, 86400
    mov ecx, 1
    call clock_begin
    test dword ptr [PARAMETER_FLAGS], FLAG_NO_PIC
    jnz 4f
# Its periodic interrupt: the rate, then the enable bit, then whatever was pending is read away.
    lea rbx, [rip + rtc_tick]
    mov qword ptr [rbx + TICK_HZ], RTC_HZ
    mov qword ptr [rbx + TICK_MODULUS], RTC_DIVISOR
    call read_reference
    mov qword ptr [rbx + TICK_ARMED], rax
    mov al, 0x0a
    out 0x70, al
    mov al, 0x20 | RTC_RATE
    out 0x71, al
    mov al, 0x0b
    out 0x70, al
    in al, 0x71
    or al, 0x40
    mov ah, al
    mov al, 0x0b
    out 0x70, al
    mov al, ah
    out 0x71, al
    mov al, 0x0c
    out 0x70, al
    in al, 0x71
4:  ret

# Timer 0, periodic, edge-triggered, to the lowest pin from 16 up that it may use.
hpet_timer_begin:
    mov edx, HPET_TIMER_ROUTES
    mov eax, dword ptr [rdx]
    mov edi, 16
2:  bt eax, edi
    jc 3f
    inc edi
    cmp edi, 24
    jb 2b
# None: the timer stays off, and the tick check sees a timer that stopped.
    ret
3:  mov esi, VECTOR_HPET
    mov r8d, IOAPIC_FIRST
    mov r9d, edi
    call ioapic_route
    lea rbx, [rip + hpet_tick]
    mov rcx, qword ptr [rip + hpet_hz]
    mov qword ptr [rbx + TICK_HZ], rcx
    mov rax, qword ptr [PARAMETER_TICK_NS]
    mul rcx
    mov ecx, 1000000000
    div rcx
    mov rcx, rax
    mov qword ptr [rbx + TICK_MODULUS], rcx
    call read_reference
    mov qword ptr [rbx + TICK_ARMED], rax
# 32-bit, periodic, enabled; the first write to the comparator is the first tick, the second the
# period. The counter goes on from where it is: it may be the reference.
    mov edi, HPET_CONFIGURATION
    mov dword ptr [rdi], 0
    mov edi, HPET_TIMER
    mov eax, r9d
    shl eax, 9
    or eax, 0x14c
    mov dword ptr [rdi], eax
    mov edi, HPET_COUNTER
    mov eax, dword ptr [rdi]
    add eax, ecx
    mov edi, HPET_TIMER_COMPARATOR
    mov dword ptr [rdi], eax
    mov dword ptr [rdi], ecx
    mov edi, HPET_CONFIGURATION
    mov dword ptr [rdi], 1
    lea rdi, [rip + hpet_clock]
    mov rsi, qword ptr [rip + hpet_hz]
    movabs rdx, 0x100000000
    mov ecx, 1
    jmp clock_begin

# Reads every clock between two readings of the reference, with interrupts off.
service_sample_clocks:
    cli
    push rbx
    lea rbx, [rip + lapic_clock]
    call sample_before
    mov ecx, LAPIC_TIMER_CURRENT
    mov edx, dword ptr [rcx]
    mov rax, qword ptr [rbx + CLOCK_MODULUS]
    sub rax, rdx
    call sample_after
    test dword ptr [PARAMETER_FLAGS], FLAG_NO_PIT
    jnz 2f
    lea rbx, [rip + pit_clock]
    call sample_before
    xor eax, eax
    out 0x43, al
    in al, 0x40
    movzx edx, al
    in al, 0x40
    movzx eax, al
    shl eax, 8
    or edx, eax
    mov rax, qword ptr [rbx + CLOCK_MODULUS]
    sub rax, rdx
    call sample_after
2:  test dword ptr [PARAMETER_FLAGS], FLAG_HPET
    jz 3f
    lea rbx, [rip + hpet_clock]
    call sample_before
    mov ecx, HPET_COUNTER
    mov eax, dword ptr [rcx]
    call sample_after
3:  test dword ptr [PARAMETER_FLAGS], FLAG_RTC_UNPROMISED
    jnz 4f
    lea rbx, [rip + rtc_clock]
    call sample_before
    call read_rtc
    call sample_after
4:  pop rbx
    sti
    ret

sample_before:
    call read_reference
    mov qword ptr [rbx + CLOCK_NOW + SAMPLE_BEFORE], rax
    ret

# RAX = what was read; the modulus itself is 0.
sample_after:
    cmp rax, qword ptr [rbx + CLOCK_MODULUS]
    jb 2f
    sub rax, qword ptr [rbx + CLOCK_MODULUS]
2:  mov qword ptr [rbx + CLOCK_NOW + SAMPLE_VALUE], rax
    call read_reference
    mov qword ptr [rbx + CLOCK_NOW + SAMPLE_AFTER], rax
    ret

# RAX = second of the day. Two equal readings with no update between them.
read_rtc:
    push r12
2:  call read_rtc_once
    mov r12d, eax
    call read_rtc_once
    cmp eax, r12d
    jne 2b
    pop r12
    ret

read_rtc_once:
    mov al, 0x0a
    out 0x70, al
    in al, 0x71
    test al, 0x80
    jnz read_rtc_once
    mov ecx, 4
    call read_rtc_field
    imul r8d, eax, 3600
    mov ecx, 2
    call read_rtc_field
    imul eax, eax, 60
    add r8d, eax
    xor ecx, ecx
    call read_rtc_field
    add eax, r8d
    ret

# EAX = field CL, from binary-coded decimal if register B says so.
read_rtc_field:
    mov al, cl
    out 0x70, al
    in al, 0x71
    movzx edx, al
    mov al, 0x0b
    out 0x70, al
    in al, 0x71
    test al, 4
    mov eax, edx
    jnz 2f
    and eax, 0x0f
    shr edx, 4
    imul edx, edx, 10
    add eax, edx
2:  ret
