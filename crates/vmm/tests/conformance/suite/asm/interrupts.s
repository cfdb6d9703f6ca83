# Interrupts by the 8259A pair, the I/O APICs and the local APICs. Programs look at which interrupts
# were taken, how many and in which order; never at how long something took.

    .set LAPIC, 0xfee00000
    .set LAPIC_ID, LAPIC + 0x20
    .set LAPIC_VERSION, LAPIC + 0x30
    .set LAPIC_TPR, LAPIC + 0x80
    .set LAPIC_PPR, LAPIC + 0xa0
    .set LAPIC_EOI, LAPIC + 0xb0
    .set LAPIC_LDR, LAPIC + 0xd0
    .set LAPIC_DFR, LAPIC + 0xe0
    .set LAPIC_SVR, LAPIC + 0xf0
    .set LAPIC_ISR, LAPIC + 0x100
    .set LAPIC_TMR, LAPIC + 0x180
    .set LAPIC_IRR, LAPIC + 0x200
    .set LAPIC_ESR, LAPIC + 0x280
    .set LAPIC_ICR_LOW, LAPIC + 0x300
    .set LAPIC_ICR_HIGH, LAPIC + 0x310
    .set LAPIC_LVT_TIMER, LAPIC + 0x320
    .set LAPIC_LVT_LINT0, LAPIC + 0x350
    .set LAPIC_LVT_LINT1, LAPIC + 0x360
    .set LAPIC_LVT_ERROR, LAPIC + 0x370
    .set LAPIC_INITIAL, LAPIC + 0x380
    .set LAPIC_CURRENT, LAPIC + 0x390
    .set LAPIC_DIVIDE, LAPIC + 0x3e0
    .set LVT_MASKED, 0x10000
    .set LVT_PERIODIC, 0x20000
    .set ICR_SELF, 0x44000
    .set ICR_OTHERS, 0xc4000
    .set ICR_NMI, 0x400
    .set ICR_INIT, 0x500
    .set ICR_STARTUP, 0x600

    .set IOAPIC, 0xfec00000
    .set IOAPIC_LEVEL, 0x8000
    .set IOAPIC_MASKED, 0x10000
    .set IOAPIC_REMOTE_IRR, 0x4000
    .set PIN_PIT, 2
    .set PIN_SERIAL, 4

    .set SERIAL, 0x3f8
    .set PIC_VECTOR, 0x20
    .set VECTOR_SERIAL, 0x54
    .set VECTOR_PIT, 0x62

# The interrupts taken, in their order: how many, and the vector of each.
    .set LOG_COUNT, OWN
    .set LOG, OWN + 0x20
# What the handler of the serial port's interrupt is to leave undone, in interrupts.
    .set SERIAL_HOLDS, OWN + 8
# How many EOIs the handler is to leave undone.
    .set EOI_HOLDS, OWN + 16
# Where the last one came.
    .set LAST_RIP, OWN + 24

    .macro lapic register, value
    mov eax, LAPIC_\register
    mov dword ptr [rax], \value
    .endm

    .macro lapic_read register
    mov eax, LAPIC_\register
    mov eax, dword ptr [rax]
    .endm

    .macro write_port port, value
    mov al, \value
    .if \port > 255
    mov edx, \port
    out dx, al
    .else
    out \port, al
    .endif
    .endm

    .macro read_port port
    xor eax, eax
    .if \port > 255
    mov edx, \port
    in al, dx
    .else
    in al, \port
    .endif
    .endm

# Entry \pin of I/O APIC 0: the low half with the high half zero. Changes RAX, RCX.
    .macro ioapic pin, low
    mov ecx, IOAPIC
    mov dword ptr [rcx], 0x11 + 2 * \pin
    mov dword ptr [rcx + 0x10], 0
    mov dword ptr [rcx], 0x10 + 2 * \pin
    mov dword ptr [rcx + 0x10], \low
    .endm

    .macro ioapic_read register
    mov ecx, IOAPIC
    mov dword ptr [rcx], \register
    mov eax, dword ptr [rcx + 0x10]
    .endm

# Waits until that many interrupts were taken. Changes RAX.
    .macro wait_for count
    mov eax, \count
    call wait_for_log
    .endm

wait_for_log:
    cli
    cmp qword ptr [LOG_COUNT], rax
    jae 2f
    sti
    hlt
    jmp wait_for_log
2:  ret

# Lets in the interrupts that wait. An accelerator that interprets ring 0 may look for them only when
# the guest leaves it, as it does for a port.
    .macro open_window
    sti
    nop
    leave_guest
    cli
    .endm

    .macro leave_guest
    .rept 8
    out 0x80, al
    .endr
    .endm

    .macro expect_log index, vector
    expect "qword ptr [LOG+8*\index]", \vector
    .endm

# Every vector on; the 8259A pair's at PIC_VECTOR with every line masked; LINT0 lets it in.
interrupts_begin:
    hook log_interrupt
    lapic SVR, 0x1ff
    lapic LVT_LINT0, 0x700
    write_port 0x20, 0x11
    write_port 0xa0, 0x11
    write_port 0x21, PIC_VECTOR
    write_port 0xa1, PIC_VECTOR+8
    write_port 0x21, 4
    write_port 0xa1, 2
    write_port 0x21, 1
    write_port 0xa1, 1
    write_port 0x21, 0xff
    write_port 0xa1, 0xff
    ret

# Writes the vector into the log, quiets the device, ends the interrupt.
log_interrupt:
    mov rsi, qword ptr [rdi + FRAME_VECTOR]
    cmp esi, 32
    jae 2f
    cmp esi, VECTOR_NMI
    je 2f
    cmp qword ptr [FAULT_RESUME], 0
    je unexpected
    jmp store_fault
2:  mov rax, qword ptr [LOG_COUNT]
    mov qword ptr [LOG + 8 * rax], rsi
    inc qword ptr [LOG_COUNT]
    mov rax, qword ptr [rdi + FRAME_RIP]
    mov qword ptr [LAST_RIP], rax
    cmp esi, VECTOR_NMI
    je 9f
    cmp esi, 0xff
    je 9f
    cmp esi, PIC_VECTOR + 4
    je 3f
    cmp esi, VECTOR_SERIAL
    jne 4f
3:  cmp qword ptr [SERIAL_HOLDS], 0
    je 31f
    dec qword ptr [SERIAL_HOLDS]
    jmp 4f
31: write_port SERIAL+1, 0
    read_port SERIAL+2
4:  cmp esi, PIC_VECTOR + 8
    jne 5f
    write_port 0x70, 0x0c
    read_port 0x71
5:  cmp qword ptr [EOI_HOLDS], 0
    je 6f
    dec qword ptr [EOI_HOLDS]
    ret
6:  cmp esi, PIC_VECTOR + 16
    jae 8f
    cmp esi, PIC_VECTOR + 8
    jb 7f
    write_port 0xa0, 0x20
7:  write_port 0x20, 0x20
    ret
8:  lapic EOI, 0
9:  ret

# Channel 0 of the 8254 ends its count once, after about a millisecond.
pit_once:
    write_port 0x43, 0x30
    write_port 0x40, 0xa9
    write_port 0x40, 0x04
    ret

# The serial port's interrupt: its transmitter is empty.
    .macro serial_raise
    write_port SERIAL+1, 2
    .endm

program pic
    call interrupts_begin
# One line, from the 8254.
    write_port 0x21, 0xfe
    call pit_once
    wait_for 1
    expect_log 0, 0x20
# Without an EOI the same line and those below it wait; the request register says so.
    mov qword ptr [EOI_HOLDS], 1
    write_port 0x21, 0xee
    call pit_once
    wait_for 2
    serial_raise
    open_window
    expect "qword ptr [LOG_COUNT]", 2
    write_port 0x20, 0x0b
    read_port 0x20
    expect rax, 1
    write_port 0x20, 0x0a
    read_port 0x20
    expect rax, 0x10
    write_port 0x20, 0x60
    open_window
    expect "qword ptr [LOG_COUNT]", 3
    expect_log 2, 0x24
    write_port 0x20, 0x0b
    read_port 0x20
    expect rax, 0
# A masked line waits.
    write_port 0x21, 0xff
    serial_raise
    open_window
    expect "qword ptr [LOG_COUNT]", 3
    write_port 0x21, 0xef
    open_window
    expect "qword ptr [LOG_COUNT]", 4
    expect_log 3, 0x24
# The processor's flag holds off what the controller would let through.
    serial_raise
    nop
    expect "qword ptr [LOG_COUNT]", 4
    open_window
    expect "qword ptr [LOG_COUNT]", 5
# Reads of the mask, and automatic EOI.
    read_port 0x21
    expect rax, 0xef
    write_port 0x20, 0x11
    write_port 0x21, PIC_VECTOR
    write_port 0x21, 4
    write_port 0x21, 3
    write_port 0x21, 0xef
    mov qword ptr [EOI_HOLDS], 1
    serial_raise
    open_window
    expect "qword ptr [LOG_COUNT]", 6
    write_port 0x20, 0x0b
    read_port 0x20
    expect rax, 0
    serial_raise
    open_window
    expect "qword ptr [LOG_COUNT]", 7
# LINT0 masked: the controller is cut off from the processor.
    lapic LVT_LINT0, 0x10700
    serial_raise
    open_window
    expect "qword ptr [LOG_COUNT]", 7
    lapic LVT_LINT0, 0x700
    open_window
    expect "qword ptr [LOG_COUNT]", 8
    done

# Both controllers: lines that wait are taken by priority; the second controller's sit between the
# first one's lines 1 and 3.
program pic_cascade
    call interrupts_begin
    write_port 0x21, 0xea
    write_port 0xa1, 0xfe
# The real-time clock's periodic interrupt at 1024 Hz, until one waits.
    write_port 0x70, 0x0a
    write_port 0x71, 0x26
    write_port 0x70, 0x0b
    write_port 0x71, 0x42
    call pit_once
    serial_raise
2:  write_port 0xa0, 0x0a
    read_port 0xa0
    test al, 1
    jz 2b
3:  write_port 0x20, 0x0a
    read_port 0x20
    test al, 1
    jz 3b
    write_port 0x70, 0x0b
    write_port 0x71, 0x02
    write_port 0x20, 0x0a
    read_port 0x20
    expect rax, 0x15
    open_window
    expect "qword ptr [LOG_COUNT]", 3
    expect_log 0, 0x20
    expect_log 1, 0x28
    expect_log 2, 0x24
    done

# Edges and levels through the I/O APIC.
program ioapic
    call interrupts_begin
    ioapic_read 1
    expect rax, 0x170020
# The 8254's line reaches pin 2, as edges.
    ioapic PIN_PIT, VECTOR_PIT
    call pit_once
    wait_for 1
    expect_log 0, VECTOR_PIT
    ioapic PIN_PIT, IOAPIC_MASKED
# A level: again until the handler has quieted its device, and no more.
    ioapic PIN_SERIAL, VECTOR_SERIAL|IOAPIC_LEVEL
    serial_raise
    open_window
    expect_log 1, VECTOR_SERIAL
    mov rbx, qword ptr [LOG_COUNT]
    open_window
    sub rbx, qword ptr [LOG_COUNT]
    expect rbx, 0
# A level that is up while its pin is masked is delivered when it is not.
    ioapic PIN_SERIAL, VECTOR_SERIAL|IOAPIC_LEVEL|IOAPIC_MASKED
    mov qword ptr [LOG_COUNT], 0
    serial_raise
    open_window
    expect "qword ptr [LOG_COUNT]", 0
    ioapic PIN_SERIAL, VECTOR_SERIAL|IOAPIC_LEVEL
    open_window
    expect_log 0, VECTOR_SERIAL
    cmp qword ptr [LOG_COUNT], 0
    setne al
    movzx eax, al
    expect rax, 1
# The same line as an edge: once, whether it is held or not.
    mov qword ptr [LOG_COUNT], 0
    ioapic PIN_SERIAL, VECTOR_SERIAL
    mov qword ptr [SERIAL_HOLDS], 1
    serial_raise
    open_window
    expect "qword ptr [LOG_COUNT]", 1
    write_port SERIAL+1, 0
    serial_raise
    open_window
    expect "qword ptr [LOG_COUNT]", 2
# By logical destination, and to a processor that is not there.
    lapic LDR, 0x04000000
    mov ecx, IOAPIC
    mov dword ptr [rcx], 0x11 + 2 * PIN_SERIAL
    mov dword ptr [rcx + 0x10], 0x0c000000
    mov dword ptr [rcx], 0x10 + 2 * PIN_SERIAL
    mov dword ptr [rcx + 0x10], VECTOR_SERIAL | 0x800
    serial_raise
    open_window
    expect "qword ptr [LOG_COUNT]", 3
    mov ecx, IOAPIC
    mov dword ptr [rcx], 0x11 + 2 * PIN_SERIAL
    mov dword ptr [rcx + 0x10], 0x08000000
    write_port SERIAL+1, 0
    serial_raise
    open_window
    expect "qword ptr [LOG_COUNT]", 3
    ioapic_read 0x19
    expect rax, 0x08000000
    done

# Levels are counted: one interrupt for each EOI while the line is up.
program levels
    call interrupts_begin
# A level that stays up comes again after each EOI.
    mov qword ptr [SERIAL_HOLDS], 2
    ioapic PIN_SERIAL, VECTOR_SERIAL|IOAPIC_LEVEL
    serial_raise
    open_window
    expect "qword ptr [LOG_COUNT]", 3
    expect_log 1, VECTOR_SERIAL
    expect_log 2, VECTOR_SERIAL
# Until then the entry waits for the EOI, and the trigger mode register says level.
    mov qword ptr [SERIAL_HOLDS], 1
    mov qword ptr [EOI_HOLDS], 1
    serial_raise
    open_window
    expect "qword ptr [LOG_COUNT]", 4
    ioapic_read 0x18
    and eax, 0x1c0ff
    expect rax, VECTOR_SERIAL|IOAPIC_LEVEL|IOAPIC_REMOTE_IRR
    mov eax, LAPIC_TMR + 0x20
    mov eax, dword ptr [rax]
    expect rax, 0x100000
    lapic EOI, 0
    open_window
    expect "qword ptr [LOG_COUNT]", 5
    ioapic_read 0x18
    and eax, 0x1c0ff
    expect rax, VECTOR_SERIAL|IOAPIC_LEVEL
    done

# Self-IPIs, priorities, TPR and CR8, in-service and request registers, NMI.
program lapic
    call interrupts_begin
    lapic_read ID
    expect rax, 0
    lapic_read VERSION
    expect rax, 0x50014
    lapic_read SVR
    expect rax, 0x1ff
    read_msr 0x1b
    expect rax, 0xfee00900
# Two that wait are taken by priority.
    lapic ICR_LOW, ICR_SELF|0x71
    lapic ICR_LOW, ICR_SELF|0x93
    mov eax, LAPIC_IRR + 0x30
    mov eax, dword ptr [rax]
    expect rax, 0x20000
    mov eax, LAPIC_IRR + 0x40
    mov eax, dword ptr [rax]
    expect rax, 0x80000
    open_window
    expect "qword ptr [LOG_COUNT]", 2
    expect_log 0, 0x93
    expect_log 1, 0x71
# Twice the same one is one.
    lapic ICR_LOW, ICR_SELF|0x71
    lapic ICR_LOW, ICR_SELF|0x71
    open_window
    expect "qword ptr [LOG_COUNT]", 3
# The task priority holds off its class and those below.
    lapic TPR, 0x70
    lapic ICR_LOW, ICR_SELF|0x7f
    open_window
    expect "qword ptr [LOG_COUNT]", 3
    lapic ICR_LOW, ICR_SELF|0x81
    open_window
    expect "qword ptr [LOG_COUNT]", 4
    expect_log 3, 0x81
    lapic_read PPR
    expect rax, 0x70
    mov rax, cr8
    expect rax, 7
    mov eax, 6
    mov cr8, rax
    open_window
    expect "qword ptr [LOG_COUNT]", 5
    expect_log 4, 0x7f
    lapic_read TPR
    expect rax, 0x60
    mov eax, 15
    mov cr8, rax
    lapic ICR_LOW, ICR_SELF|0xf1
    open_window
    expect "qword ptr [LOG_COUNT]", 5
    xor eax, eax
    mov cr8, rax
    open_window
    expect "qword ptr [LOG_COUNT]", 6
# To itself by its id, by everyone including itself, and by a logical name.
    mov eax, LAPIC_ICR_HIGH
    mov dword ptr [rax], 0
    lapic ICR_LOW, 0x4072
    open_window
    expect "qword ptr [LOG_COUNT]", 7
    lapic ICR_LOW, 0x84073
    open_window
    expect "qword ptr [LOG_COUNT]", 8
    lapic LDR, 0x02000000
    lapic ICR_HIGH, 0x02000000
    lapic ICR_LOW, 0x4874
    open_window
    expect "qword ptr [LOG_COUNT]", 9
    expect_log 6, 0x72
    expect_log 7, 0x73
    expect_log 8, 0x74
# Switched off by software, it takes nothing; local entries are masked.
    lapic SVR, 0xff
    lapic ICR_LOW, ICR_SELF|0x75
    open_window
    expect "qword ptr [LOG_COUNT]", 9
    lapic_read LVT_LINT0
    expect rax, 0x10700
    lapic SVR, 0x1ff
    done

# One in service holds off its class and those below until its EOI.
program in_service
    call interrupts_begin
    mov qword ptr [EOI_HOLDS], 1
    lapic ICR_LOW, ICR_SELF|0x85
    open_window
    expect "qword ptr [LOG_COUNT]", 1
    mov eax, LAPIC_ISR + 0x40
    mov eax, dword ptr [rax]
    expect rax, 0x20
    lapic_read PPR
    expect rax, 0x80
    lapic ICR_LOW, ICR_SELF|0x8f
    lapic ICR_LOW, ICR_SELF|0x95
    open_window
    expect "qword ptr [LOG_COUNT]", 2
    expect_log 1, 0x95
    lapic EOI, 0
    open_window
    expect "qword ptr [LOG_COUNT]", 3
    expect_log 2, 0x8f
    done

# NMIs: one waits while one is served, until IRET.
program nmi
    hook nmi_hook
    lapic SVR, 0x1ff
    lapic ICR_HIGH, 0
    mov qword ptr [OWN], 0
    lapic ICR_LOW, ICR_NMI|0x4000
    leave_guest
    expect "qword ptr [OWN]", 1
    expect "qword ptr [OWN+8]", 0
    done

nmi_hook:
    cmp qword ptr [rdi + FRAME_VECTOR], VECTOR_NMI
    jne unexpected
    inc qword ptr [OWN]
    ret

# A second NMI while the first is served comes after its IRET, once.
program nmi_blocking
    hook nmi_blocking_hook
    lapic SVR, 0x1ff
    lapic ICR_HIGH, 0
    lapic ICR_LOW, ICR_NMI|0x4000
    leave_guest
    expect "qword ptr [OWN]", 2
    expect "qword ptr [OWN+8]", 1
    done

nmi_blocking_hook:
    cmp qword ptr [rdi + FRAME_VECTOR], VECTOR_NMI
    jne unexpected
    inc qword ptr [OWN]
    cmp qword ptr [OWN], 1
    jne 2f
    lapic ICR_LOW, ICR_NMI|0x4000
    lapic ICR_LOW, ICR_NMI|0x4000
    leave_guest
# Still one: it waits.
    push qword ptr [OWN]
    pop qword ptr [OWN + 8]
2:  ret

# Shadows: after STI one instruction runs before an interrupt is taken.
program shadows
    call interrupts_begin
    lapic ICR_LOW, ICR_SELF|0x71
    lea rbx, [rip + 2f]
    sti
    nop
2:  nop
    cli
    expect "qword ptr [LOG_COUNT]", 1
    sub rbx, qword ptr [LAST_RIP]
    expect rbx, 0
# STI followed by CLI lets nothing in.
    lapic ICR_LOW, ICR_SELF|0x71
    sti
    cli
    nop
    expect "qword ptr [LOG_COUNT]", 1
    open_window
    expect "qword ptr [LOG_COUNT]", 2
# An interrupt that waits when POPF and IRET set the flag comes at once.
    lapic ICR_LOW, ICR_SELF|0x71
    push 0x202
    popfq
    nop
    expect "qword ptr [LOG_COUNT]", 3
    cli
    lapic ICR_LOW, ICR_SELF|0x71
    enter_ring_3 0x202
    nop
    expect "qword ptr [LOG_COUNT]", 4
    leave_ring_3
    cli
    done

# HLT: woken by an interrupt that comes later, and at once by one that waits.
program halt
    call interrupts_begin
    ioapic PIN_PIT, VECTOR_PIT
    call pit_once
    lea rbx, [rip + 2f]
    sti
    hlt
2:  cli
    expect "qword ptr [LOG_COUNT]", 1
    sub rbx, qword ptr [LAST_RIP]
    expect rbx, 0
    lapic ICR_LOW, ICR_SELF|0x71
    sti
    hlt
    cli
    expect "qword ptr [LOG_COUNT]", 2
    expect_log 0, VECTOR_PIT
    expect_log 1, 0x71
# An NMI wakes a processor that has interrupts off.
    ioapic PIN_PIT, 0x400
    call pit_once
    lea rbx, [rip + 3f]
    hlt
3:  expect "qword ptr [LOG_COUNT]", 3
    expect_log 2, VECTOR_NMI
    sub rbx, qword ptr [LAST_RIP]
    expect rbx, 0
    done

# Two processors: INIT and start-up, messages both ways, NMI to the other.
    .set AP_COUNT, OWN + 0x400
    .set AP_SEEN, OWN + 0x408
    .set AP_ID, OWN + 0x410
    .set AP_NMI, OWN + 0x418

program two_processors
    call interrupts_begin
    hook two_processors_hook
    lea rax, [rip + two_processors_other]
    mov qword ptr [AP_ENTRY], rax
    lapic ICR_HIGH, 0x01000000
    lapic ICR_LOW, ICR_INIT|0xc500
    lapic ICR_LOW, ICR_INIT|0x8500
    lapic ICR_LOW, ICR_STARTUP|0x4000|(IMAGE/4096)
    mov ecx, 1
    call wait_for_other
    expect "qword ptr [AP_ID]", 1
# A start-up IPI means nothing to a processor that runs.
    lapic ICR_LOW, ICR_STARTUP|0x4000|(IMAGE/4096)
# A hundred messages, each answered.
    mov ebx, 100
2:  mov r15, qword ptr [OWN]
    lapic ICR_LOW, 0x4081
3:  cli
    cmp qword ptr [OWN], r15
    jne 4f
    sti
    hlt
    jmp 3b
4:  dec ebx
    jnz 2b
    expect "qword ptr [OWN]", 100
    expect "qword ptr [AP_SEEN]", 100
# NMI to the other; all but oneself.
    lapic ICR_LOW, ICR_NMI|0x4000
5:  cmp qword ptr [AP_NMI], 1
    jb 5b
    lapic ICR_LOW, ICR_OTHERS|0x82
    mov ecx, 2
    call wait_for_other
    expect "qword ptr [AP_NMI]", 1
# INIT and start-up again: from the beginning.
    lapic ICR_LOW, ICR_INIT|0xc500
    lapic ICR_LOW, ICR_STARTUP|0x4000|(IMAGE/4096)
    mov ecx, 3
    call wait_for_other
    expect "qword ptr [AP_COUNT]", 3
    done

# Waits until the other processor has counted to ECX.
wait_for_other:
    pause
    cmp qword ptr [AP_COUNT], rcx
    jb wait_for_other
    ret

two_processors_other:
    lapic SVR, 0x1ff
    lapic_read ID
    shr eax, 24
    mov qword ptr [AP_ID], rax
    lock inc qword ptr [AP_COUNT]
2:  sti
    hlt
    cli
    jmp 2b

# 0x80: an answer. 0x81: a message to be answered. 0x82: the last.
two_processors_hook:
    mov rsi, qword ptr [rdi + FRAME_VECTOR]
    cmp esi, VECTOR_NMI
    je 2f
    cmp esi, 0x80
    je 3f
    cmp esi, 0x81
    je 4f
    cmp esi, 0x82
    jne unexpected
    lock inc qword ptr [AP_COUNT]
    lapic EOI, 0
    ret
2:  lock inc qword ptr [AP_NMI]
    ret
3:  lock inc qword ptr [OWN]
    lapic EOI, 0
    ret
4:  lock inc qword ptr [AP_SEEN]
    lapic EOI, 0
    lapic ICR_HIGH, 0
    lapic ICR_LOW, 0x4080
    ret

# Atomic instructions of two processors on one word lose nothing; each in ring 3.
program two_counters
    lea rax, [rip + two_counters_other]
    mov qword ptr [AP_ENTRY], rax
    lapic SVR, 0x1ff
    lapic ICR_HIGH, 0x01000000
    lapic ICR_LOW, ICR_INIT|0xc500
    lapic ICR_LOW, ICR_STARTUP|0x4000|(IMAGE/4096)
    mov ecx, 1
    call wait_for_other
    enter_ring_3
    call count_together
    leave_ring_3
    mov ecx, 2
    call wait_for_other
    expect "qword ptr [SCRATCH]", 60000
    expect "qword ptr [SCRATCH+8]", 60000
    expect "qword ptr [SCRATCH+16]", 60000
    done

two_counters_other:
    lock inc qword ptr [AP_COUNT]
    push USER_DATA
    push USER_STACK_TOP + STACK_SIZE
    push 2
    push USER_CODE
    lea rax, [rip + 2f]
    push rax
    iretq
2:  call count_together
    lock inc qword ptr [AP_COUNT]
3:  pause
    jmp 3b

count_together:
    mov ecx, 30000
2:  lock inc qword ptr [SCRATCH]
    mov eax, 1
    lock xadd qword ptr [SCRATCH + 8], rax
    mov rax, qword ptr [SCRATCH + 16]
3:  lea rdx, [rax + 1]
    lock cmpxchg qword ptr [SCRATCH + 16], rdx
    jne 3b
    dec ecx
    jnz 2b
    ret
