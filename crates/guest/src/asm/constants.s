# Numbers: those in braces come from the Rust side, which is their only home.
# Intel syntax. Numeric labels avoid 0 and 1, which would read as binary literals.

    .set PARAMETERS, {parameters}
    .set CODE_SLOTS, {code_slots}
    .set IMAGE, {image}
    .set PAGE_TABLES, {page_tables}
    .set WINDOW_TABLES, {window_tables}
    .set INTERRUPT_TABLE, {interrupt_table}
    .set DISK_QUEUE, {disk_queue}
    .set DISK_BUFFER, {disk_buffer}
    .set PER_VCPU, {per_vcpu}
    .set PER_VCPU_SIZE, {per_vcpu_size}
    .set MAX_VCPUS, {max_vcpus}
    .set WINDOW, {window}
    .set UNMAPPED, {unmapped}
    .set SERIAL_PORT, {serial_port}
    .set EXIT_PORT, {exit_port}
    .set DISK_REGISTERS, {disk_registers}
    .set CONTROL_0, {cr0}
    .set CONTROL_4, {cr4}
    .set MAGIC, {magic}
    .set VERSION, {version}
    .set PAGE_FACTOR, {page_factor}
    .set LAP_FACTOR, {lap_factor}
    .set MIX_FIRST, {mix_first}
    .set MIX_SECOND, {mix_second}
    .set STRIDE, {stride}
    .set DISK_PAGE, {disk_page}

# The parameter block: the order of `Parameters::to_bytes`.
    .set PARAMETER_MAGIC, PARAMETERS
    .set PARAMETER_VERSION, PARAMETERS + 0x08
    .set PARAMETER_FLAGS, PARAMETERS + 0x10
    .set PARAMETER_MEMORY_BYTES, PARAMETERS + 0x18
    .set PARAMETER_WORK_ADDRESS, PARAMETERS + 0x20
    .set PARAMETER_WORK_PAGES, PARAMETERS + 0x28
    .set PARAMETER_ROUNDS, PARAMETERS + 0x30
    .set PARAMETER_PAGES_PER_ROUND, PARAMETERS + 0x38
    .set PARAMETER_CHECKS_PER_ROUND, PARAMETERS + 0x40
    .set PARAMETER_PAUSE_NS, PARAMETERS + 0x48
    .set PARAMETER_SEED, PARAMETERS + 0x50
    .set PARAMETER_VCPUS, PARAMETERS + 0x58
    .set PARAMETER_TSC_KHZ, PARAMETERS + 0x60
    .set PARAMETER_TICK_NS, PARAMETERS + 0x68
    .set PARAMETER_PIT_DIVISOR, PARAMETERS + 0x70
    .set PARAMETER_DRIFT_PPM, PARAMETERS + 0x78
    .set PARAMETER_CLOCK_SLACK_NS, PARAMETERS + 0x80
    .set PARAMETER_DISK_SECTORS, PARAMETERS + 0x88
    .set PARAMETER_REGISTER_LOOPS, PARAMETERS + 0x90

# Flags: `Flags`.
    .set FLAG_DISK, 1 << 0
    .set FLAG_HPET, 1 << 1
    .set FLAG_EXACT_TICKS, 1 << 2
    .set FLAG_TSC_UNPROMISED, 1 << 3
    .set FLAG_CPUID_UNPROMISED, 1 << 4
    .set FLAG_RTC_UNPROMISED, 1 << 5
    .set FLAG_SERIAL_POLLED, 1 << 6
    .set FLAG_NO_PIT, 1 << 7
    .set FLAG_NO_PIC, 1 << 8
    .set FLAG_LAPIC_PHASE_UNPROMISED, 1 << 9

# Checks: `Check`.
    .set CHECK_PARAMETERS, 1
    .set CHECK_EXCEPTION, 2
    .set CHECK_STRAY_INTERRUPT, 3
    .set CHECK_MEMORY, 4
    .set CHECK_WINDOW, 5
    .set CHECK_REGISTER, 6
    .set CHECK_VECTOR, 7
    .set CHECK_X87, 8
    .set CHECK_CONTROL, 9
    .set CHECK_FAULT, 10
    .set CHECK_MODIFIED_CODE, 11
    .set CHECK_HELD_REGISTER, 12
    .set CHECK_TICKS, 13
    .set CHECK_TIMER_STOPPED, 14
    .set CHECK_CLOCK, 15
    .set CHECK_TSC, 16
    .set CHECK_IPI, 17
    .set CHECK_VCPU, 18
    .set CHECK_ATOMIC, 19
    .set CHECK_DISK_REQUEST, 20
    .set CHECK_DISK_DATA, 21
    .set CHECK_DISK_INTERRUPT, 22
    .set CHECK_SERIAL, 23

# Selectors of the GDT in variables.s.
    .set SELECTOR_CODE, 0x08
    .set SELECTOR_DATA, 0x10
    .set SELECTOR_USER_DATA, 0x1b
    .set SELECTOR_USER_CODE, 0x23
    .set SELECTOR_CODE_32, 0x28
    .set SELECTOR_TASK, 0x30
    .set DESCRIPTORS_SIZE, SELECTOR_TASK + 16 * MAX_VCPUS

# Interrupt vectors. VECTOR_DONE has one vector for each vCPU so that two never merge.
    .set VECTOR_PIC, 0x20
    .set VECTOR_RTC, VECTOR_PIC + 8
    .set VECTOR_LAPIC_TIMER, 0x30
    .set VECTOR_PIT, 0x31
    .set VECTOR_HPET, 0x32
    .set VECTOR_SERIAL, 0x33
    .set VECTOR_DISK, 0x34
    .set VECTOR_SELF, 0x40
    .set VECTOR_COMMAND, 0x41
    .set VECTOR_DONE, 0x50
    .set VECTOR_MASKED, 0x60
    .set VECTOR_LAPIC_ERROR, 0xfe
    .set VECTOR_SPURIOUS, 0xff

# Local APIC registers (Intel SDM volume 3, table 11-1).
    .set LAPIC, 0xfee00000
    .set LAPIC_ID, LAPIC + 0x20
    .set LAPIC_VERSION, LAPIC + 0x30
    .set LAPIC_TPR, LAPIC + 0x80
    .set LAPIC_EOI, LAPIC + 0xb0
    .set LAPIC_LDR, LAPIC + 0xd0
    .set LAPIC_DFR, LAPIC + 0xe0
    .set LAPIC_SVR, LAPIC + 0xf0
    .set LAPIC_ICR_LOW, LAPIC + 0x300
    .set LAPIC_ICR_HIGH, LAPIC + 0x310
    .set LAPIC_LVT_TIMER, LAPIC + 0x320
    .set LAPIC_LVT_LINT0, LAPIC + 0x350
    .set LAPIC_LVT_LINT1, LAPIC + 0x360
    .set LAPIC_LVT_ERROR, LAPIC + 0x370
    .set LAPIC_TIMER_INITIAL, LAPIC + 0x380
    .set LAPIC_TIMER_CURRENT, LAPIC + 0x390
    .set LAPIC_TIMER_DIVIDE, LAPIC + 0x3e0
    .set LVT_MASKED, 0x10000
    .set LVT_EXTERNAL, 0x700
    .set LVT_PERIODIC, 0x20000
    .set ICR_SELF, 0x44000
    .set ICR_OTHERS, 0xc4000

    .set IOAPIC_FIRST, 0xfec00000
    .set IOAPIC_SECOND, 0xfec10000
    .set IOAPIC_LEVEL, 0x8000

    .set HPET, 0xfed00000
    .set HPET_CAPABILITIES, HPET
    .set HPET_PERIOD, HPET + 0x04
    .set HPET_CONFIGURATION, HPET + 0x10
    .set HPET_COUNTER, HPET + 0xf0
    .set HPET_COUNTER_HIGH, HPET + 0xf4
    .set HPET_TIMER, HPET + 0x100
    .set HPET_TIMER_ROUTES, HPET + 0x104
    .set HPET_TIMER_COMPARATOR, HPET + 0x108

# Frequencies in Hz. The local APIC timer counts a bus clock of 1 GHz on this board.
    .set LAPIC_HZ, 1000000000
    .set PIT_HZ, 1193182
    .set RTC_HZ, 32768
# The RTC's periodic interrupt: rate 9, 128 Hz.
    .set RTC_RATE, 9
    .set RTC_DIVISOR, 256
    .set RTC_PERIOD_NS, 7812500

# A vCPU's own page, at the base of GS in every ring.
    .set P_SELF, 0x00
    .set P_INDEX, 0x08
    .set P_APIC_ID, 0x10
    .set P_SLICE_ADDRESS, 0x18
    .set P_SLICE_COUNT, 0x20
    .set P_SLICE_LAP, 0x28
    .set P_SLICE_CURSOR, 0x30
    .set P_SLICE_CHECKED, 0x38
    .set P_PAGES_OK, 0x40
    .set P_SELF_SENT, 0x48
    .set P_SELF_RECEIVED, 0x50
    .set P_COMMANDS, 0x58
    .set P_DONE, 0x60
    .set P_DONE_TSC, 0x68
    .set P_TSC_LAST, 0x70
    .set P_GENERATION, 0x78
    .set P_FAULT_RESUME, 0x80
    .set P_FAULT_VECTOR, 0x88
    .set P_FAULT_ERROR, 0x90
    .set P_FAULT_ADDRESS, 0x98
    .set P_FAULTS, 0xa0
    .set P_SAVED_RSP, 0xa8
    .set P_SOAK, 0xb0
    .set P_TICK, 0xc0
    .set P_DONES, 0x100
    .set P_TEMPORARY, 0x140
    .set P_REGISTERS, 0x180
    .set P_HELD, 0x280
    .set P_FS_AREA, 0x7c0
    .set P_TASK, 0x800
    .set P_TASK_BITMAP, 0x868
    .set P_FAULT_STACK_TOP, 0x1000
    .set P_USER_STACK_TOP, 0x1800
    .set P_KERNEL_STACK_TOP, 0x2000
    .set P_SCRATCH, 0x2000

# Ports up to 0x3ff are in the task's I/O bitmap, and one byte of ones ends it.
    .set TASK_SIZE, 0x68 + 0x80 + 1

# A periodic timer as its interrupt handler and the tick check see it.
    .set TICK_COUNT, 0x00
    .set TICK_STAMP, 0x08
    .set TICK_FIRST, 0x10
    .set TICK_ARMED, 0x18
    .set TICK_HZ, 0x20
    .set TICK_MODULUS, 0x28
    .set TICK_SEEN, 0x30
    .set TICK_OTHERS, 0x38
    .set TICK_SIZE, 0x40

# A clock: its rate, and three samples, each the reference before, the clock, the reference after.
    .set CLOCK_HZ, 0x00
    .set CLOCK_MODULUS, 0x08
    .set CLOCK_SLACK, 0x10
    .set CLOCK_NOW, 0x18
    .set CLOCK_LAST, 0x30
    .set CLOCK_FIRST, 0x48
    .set CLOCK_SIZE, 0x60
    .set SAMPLE_BEFORE, 0x00
    .set SAMPLE_VALUE, 0x08
    .set SAMPLE_AFTER, 0x10

# What the tick and clock checks name in `FAIL` lines.
    .set TIMER_LAPIC, 0
    .set TIMER_PIT, 1
    .set TIMER_HPET, 2
    .set TIMER_RTC, 3
    .set CLOCKS, 4

# Where time is read: `reference`.
    .set REFERENCE_TSC, 0
    .set REFERENCE_HPET, 1
    .set REFERENCE_NONE, 2

# Services of ring 0, asked for with int3.
    .set SERVICE_HALT, 0
    .set SERVICE_HELD_RECORD, 1
    .set SERVICE_HELD_COMPARE, 2
    .set SERVICE_SAMPLE_CLOCKS, 3
    .set SERVICE_MAP_WINDOW, 4
    .set SERVICE_DISK, 5
    .set SERVICES, 6

# What the first vCPU has the others do.
    .set COMMAND_FILL, 0
    .set COMMAND_WRITE, 1
    .set COMMAND_CHECK, 2
    .set COMMAND_CHECK_ALL, 3
    .set COMMAND_NOTHING, 4

# Iterations after which an interrupt that was sent at once counts as lost, and wake-ups from HLT
# after which one that another thread of the host may have to send does.
    .set SPIN_LIMIT, 1 << 25
    .set WAKE_LIMIT, 1 << 14

    .macro service number
    mov eax, \number
    int3
    .endm

    .macro failing check
    mov edi, \check
    jmp fail
    .endm
