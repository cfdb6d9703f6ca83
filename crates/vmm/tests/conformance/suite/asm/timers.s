# Timers: that they fire, how often, in which order; never how fast.

# The 8254: one shot, rate generator, latched and read-back counts, channel 2 through port 0x61.
program pit
    call interrupts_begin
    ioapic PIN_PIT, VECTOR_PIT
    call pit_once
    wait_for 1
# Mode 0 fires once.
    mov ebx, 3
2:  write_port 0x43, 0xe2
    read_port 0x40
    and eax, 0x80
    jz 2b
    expect rax, 0x80
    open_window
    expect "qword ptr [LOG_COUNT]", 1
# Mode 2: again and again.
    write_port 0x43, 0x34
    write_port 0x40, 0xa9
    write_port 0x40, 0x04
    wait_for 6
# A latched count stays until both bytes were read, and is at most the reload value.
    write_port 0x43, 0x00
    read_port 0x40
    mov ebx, eax
    read_port 0x40
    shl eax, 8
    or ebx, eax
    xor eax, eax
    dec ebx
    cmp ebx, 0x4a9
    setb al
    expect rax, 1
# Its mode and access bits in the status.
    write_port 0x43, 0xe2
    read_port 0x40
    and eax, 0x3f
    expect rax, 0x34
    write_port 0x43, 0x30
    ioapic PIN_PIT, IOAPIC_MASKED
# Channel 2: gate and output are bits of port 0x61.
    read_port 0x61
    and al, 0xfc
    out 0x61, al
    write_port 0x43, 0xb0
    write_port 0x42, 0xff
    write_port 0x42, 0x00
    read_port 0x61
    and eax, 0x23
    expect rax, 0
# The gate is off: the count stands still.
    write_port 0x43, 0x80
    read_port 0x42
    mov ebx, eax
    read_port 0x42
    shl eax, 8
    or ebx, eax
    write_port 0x43, 0x80
    read_port 0x42
    mov ecx, eax
    read_port 0x42
    shl eax, 8
    or ecx, eax
    sub rbx, rcx
    expect rbx, 0
    read_port 0x61
    or al, 1
    out 0x61, al
3:  read_port 0x61
    test al, 0x20
    jz 3b
    and eax, 0x23
    expect rax, 0x21
    done

# The local APIC's timer: one shot, periodic, stopped, masked, and the divider.
program lapic_timer
    call interrupts_begin
    lapic DIVIDE, 0xb
    lapic_read DIVIDE
    expect rax, 0xb
    lapic LVT_TIMER, 0x45
    lapic INITIAL, 100000
    lapic_read INITIAL
    expect rax, 100000
    wait_for 1
    expect_log 0, 0x45
# One shot is one shot, and the count stays at zero.
    lapic_read CURRENT
    expect rax, 0
    open_window
    expect "qword ptr [LOG_COUNT]", 1
# Periodic until it is stopped by a count of zero.
    lapic LVT_TIMER, LVT_PERIODIC|0x46
    lapic INITIAL, 100000
    wait_for 6
    expect_log 1, 0x46
    lapic INITIAL, 0
    lapic_read CURRENT
    expect rax, 0
    open_window
    mov rbx, qword ptr [LOG_COUNT]
    mov ecx, 10000
2:  loop 2b
    open_window
    sub rbx, qword ptr [LOG_COUNT]
    expect rbx, 0
# Masked it counts and does not interrupt.
    lapic LVT_TIMER, LVT_MASKED|0x47
    lapic INITIAL, 1000
3:  lapic_read CURRENT
    test eax, eax
    jnz 3b
    mov rbx, qword ptr [LOG_COUNT]
    open_window
    sub rbx, qword ptr [LOG_COUNT]
    expect rbx, 0
# It counts down from what was written.
    lapic DIVIDE, 0xa
    lapic INITIAL, 0x7fffffff
    lapic_read CURRENT
    mov ebx, eax
    lapic_read CURRENT
    cmp ebx, eax
    setae cl
    movzx ecx, cl
    expect rcx, 1
    mov ecx, 100000
4:  loop 4b
    lapic_read CURRENT
    cmp ebx, eax
    seta cl
    movzx ecx, cl
    expect rcx, 1
    done

    .set HPET, 0xfed00000

# The HPET: one shot and periodic, to pins that it says it can reach.
program hpet
    call interrupts_begin
    mov ebx, HPET
    mov eax, dword ptr [rbx]
    expect rax, 0x8086a201
    mov eax, dword ptr [rbx + 4]
    expect rax, 10000000
# The counter stands still until it is enabled, and can be written then.
    mov rax, qword ptr [rbx + 0xf0]
    mov rcx, qword ptr [rbx + 0xf0]
    sub rax, rcx
    expect rax, 0
    mov qword ptr [rbx + 0xf0], 0
# Timer 0 to pin 16, one shot, 32 bits, after 1 ms.
    ioapic 16, 0x76
    mov dword ptr [rbx + 0x100], 16 << 9 | 0x104
    mov dword ptr [rbx + 0x108], 100000
    mov dword ptr [rbx + 0x10], 1
    wait_for 1
    expect_log 0, 0x76
    mov rax, qword ptr [rbx + 0xf0]
    cmp rax, 100000
    setae cl
    movzx ecx, cl
    expect rcx, 1
# Stopped: the counter stands again.
    mov dword ptr [rbx + 0x10], 0
    mov rax, qword ptr [rbx + 0xf0]
    mov rcx, qword ptr [rbx + 0xf0]
    sub rax, rcx
    expect rax, 0
# Periodic, as a level: the status bit is set until it is written.
    mov qword ptr [rbx + 0xf0], 0
    ioapic 16, IOAPIC_MASKED
    mov dword ptr [rbx + 0x100], 16 << 9 | 0x14e
    mov dword ptr [rbx + 0x108], 100000
    mov dword ptr [rbx + 0x108], 100000
    mov dword ptr [rbx + 0x10], 1
2:  test byte ptr [rbx + 0x20], 1
    jz 2b
    mov dword ptr [rbx + 0x20], 1
3:  test byte ptr [rbx + 0x20], 1
    jz 3b
    mov eax, dword ptr [rbx + 0x20]
    expect rax, 1
    mov dword ptr [rbx + 0x10], 0
    mov dword ptr [rbx + 0x20], 1
    mov eax, dword ptr [rbx + 0x20]
    expect rax, 0
# Periodic, as edges.
    mov qword ptr [rbx + 0xf0], 0
    ioapic 16, 0x77
    mov dword ptr [rbx + 0x100], 16 << 9 | 0x14c
    mov dword ptr [rbx + 0x108], 100000
    mov dword ptr [rbx + 0x108], 100000
    mov dword ptr [rbx + 0x10], 1
    wait_for 6
    expect_log 5, 0x77
    mov dword ptr [rbx + 0x10], 0
# In place of the 8254: legacy replacement, by pin 2.
    mov dword ptr [rbx + 0x100], 0x104
    mov rax, qword ptr [rbx + 0xf0]
    add eax, 100000
    mov dword ptr [rbx + 0x108], eax
    ioapic PIN_PIT, VECTOR_PIT
    mov qword ptr [LOG_COUNT], 0
    mov dword ptr [rbx + 0x10], 3
    wait_for 1
    expect_log 0, VECTOR_PIT
    done

# Three timers armed in the opposite order of their times fire in the order of their times.
program timer_order
    call interrupts_begin
    mov ebx, HPET
    ioapic 16, 0x76
    ioapic 17, 0x87
    ioapic 18, 0x98
    mov dword ptr [rbx + 0x100], 16 << 9 | 0x104
    mov dword ptr [rbx + 0x120], 17 << 9 | 0x104
    mov dword ptr [rbx + 0x140], 18 << 9 | 0x104
    mov dword ptr [rbx + 0x108], 6000000
    mov dword ptr [rbx + 0x128], 4000000
    mov dword ptr [rbx + 0x148], 2000000
    mov qword ptr [rbx + 0xf0], 0
    mov dword ptr [rbx + 0x10], 1
    wait_for 3
    expect_log 0, 0x98
    expect_log 1, 0x87
    expect_log 2, 0x76
    done

# Every clock goes on, and never back.
program clocks
    mov ebx, HPET
    mov dword ptr [rbx + 0x10], 1
    mov ecx, 1000
    xor esi, esi
    xor edi, edi
    xor r9d, r9d
2:  rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, rsi
    adc r9, 0
    mov rsi, rax
    mov rax, qword ptr [rbx + 0xf0]
    cmp rax, rdi
    adc r9, 0
    mov rdi, rax
    loop 2b
    expect r9, 0
    xor eax, eax
    test rdi, rdi
    setnz al
    expect rax, 1
# RDTSC in ring 3, and the flag that forbids it.
    enter_ring_3
    rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, rsi
    setae al
    movzx eax, al
    expect rax, 1
    leave_ring_3
    done

# CR4.TSD keeps ring 3 from the counter.
program tsc_forbidden
    mov rax, cr4
    or eax, 4
    mov cr4, rax
    rdtsc
    enter_ring_3
    expect_fault VECTOR_GP, 0, rdtsc
    leave_ring_3
    done
