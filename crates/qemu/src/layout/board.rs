//! Everything on the board but CPUs, the serial port and virtio.

use vmstate::VmState;

/// Section `timer`: virtual time and the time-stamp counter at the pause.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "timer", version = 2, minimum_version = 2)]
pub struct TimerLayout {
    /// The time-stamp counter of the CPUs, under software emulation.
    pub cpu_ticks_offset: i64,
    /// Not used.
    pub unused: [u8; 8],
    /// Virtual nanoseconds.
    pub cpu_clock_offset: i64,
}

/// Section `fw_cfg`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "fw_cfg", version = 2, minimum_version = 2)]
pub struct FwCfgLayout {
    /// Key of the selected item.
    pub cur_entry: u16,
    /// Bytes of it that were read.
    pub cur_offset: u32,
    /// There if the device has DMA.
    #[vmstate(subsection = "dma")]
    pub dma: Option<FwCfgDmaLayout>,
    /// There if the machine has ACPI tables.
    #[vmstate(subsection = "acpi_mr")]
    pub acpi_mr: Option<FwCfgAcpiLayout>,
}

/// Subsection `fw_cfg/dma`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "dma", version = 0, minimum_version = 0)]
pub struct FwCfgDmaLayout {
    /// What was written of the address of a request.
    pub dma_addr: u64,
}

/// Subsection `fw_cfg/acpi_mr`: lengths in bytes of the tables that firmware was given.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "acpi_mr", version = 1)]
pub struct FwCfgAcpiLayout {
    /// `etc/acpi/tables`.
    pub table_mr_size: u64,
    /// `etc/table-loader`.
    pub linker_mr_size: u64,
    /// `etc/acpi/rsdp`.
    pub rsdp_mr_size: u64,
}

/// Section `ioapic`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "ioapic", version = 3, minimum_version = 3)]
pub struct IoApicLayout {
    /// APIC ID.
    pub id: u8,
    /// Register select.
    pub ioregsel: u8,
    /// Not used.
    pub unused: [u8; 8],
    /// Requests of the pins.
    pub irr: u32,
    /// Redirection table.
    pub ioredtbl: [u64; 24],
}

/// Section `acpi-ged`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "acpi-ged", version = 1)]
pub struct GedLayout {
    /// Events that have happened.
    pub sel: u32,
    /// There with memory hot-plug, which the device has even if the machine has not.
    #[vmstate(subsection = "memhp")]
    pub memhp: Option<GedMemoryLayout>,
}

/// Subsection `acpi-ged/memhp`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "memhp", version = 1)]
pub struct GedMemoryLayout {
    /// The selected memory slot.
    pub selector: u32,
}

/// Section `i8259`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "i8259", version = 1)]
pub struct I8259Layout {
    /// Levels of the edge-triggered inputs.
    pub last_irr: u8,
    /// Interrupt request register.
    pub irr: u8,
    /// Interrupt mask register.
    pub imr: u8,
    /// In-service register.
    pub isr: u8,
    /// The input of the highest priority.
    pub priority_add: u8,
    /// Vector of input 0.
    pub irq_base: u8,
    /// Reads give ISR.
    pub read_reg_select: u8,
    /// The next read is a poll.
    pub poll: u8,
    /// Special mask mode.
    pub special_mask: u8,
    /// How far initialisation is: 0 done, 1 awaits ICW2, 2 ICW3, 3 ICW4.
    pub init_state: u8,
    /// Automatic end of interrupt.
    pub auto_eoi: u8,
    /// Rotate on it.
    pub rotate_on_auto_eoi: u8,
    /// Special fully nested mode.
    pub special_fully_nested_mode: u8,
    /// An ICW4 follows.
    pub init4: u8,
    /// No cascade.
    pub single_mode: u8,
    /// Level-triggered inputs.
    pub elcr: u8,
}

/// One channel of the 8254.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "pit-channel", version = 1)]
pub struct PitChannelLayout {
    /// Count that was written last.
    pub count: i32,
    /// Latched count.
    pub latched_count: u16,
    /// Which bytes of the latched count are to be read: 0 none, 1 low, 2 high, 3 low then high, 4 high after low.
    pub count_latched: u8,
    /// A status is latched.
    pub status_latched: u8,
    /// It.
    pub status: u8,
    /// Which byte is read next; as `count_latched`.
    pub read_state: u8,
    /// Which byte is written next.
    pub write_state: u8,
    /// Low byte that was written.
    pub write_latch: u8,
    /// Access bits of the control word.
    pub rw_mode: u8,
    /// Mode.
    pub mode: u8,
    /// Counts in BCD.
    pub bcd: u8,
    /// Gate input.
    pub gate: u8,
    /// Virtual nanoseconds at which counting began.
    pub count_load_time: i64,
    /// Virtual nanoseconds of the next transition of the output.
    pub next_transition_time: i64,
}

/// Section `i8254`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "i8254", version = 3, minimum_version = 3)]
pub struct I8254Layout {
    /// An HPET has taken channel 0's interrupt.
    pub irq_disabled: u32,
    /// The channels.
    pub channels: [PitChannelLayout; 3],
    /// Channel 0's, again.
    pub next_transition_time: i64,
}

/// Section `mc146818rtc`. Times of its own clock are nanoseconds since 1970 on the host's.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "mc146818rtc", version = 3, minimum_version = 3)]
pub struct RtcLayout {
    /// The memory.
    pub cmos_data: [u8; 128],
    /// Index register.
    pub cmos_index: u8,
    /// Not used.
    pub unused0: [u8; 28],
    /// When the periodic timer fires; -1 if it is off.
    pub periodic_timer: i64,
    /// When the next periodic interrupt is due.
    pub next_periodic_time: i64,
    /// Not used.
    pub unused1: [u8; 24],
    /// Periodic interrupts that were missed.
    pub irq_coalesced: u32,
    /// Period in ticks of 32,768 Hz.
    pub period: u32,
    /// The clock's time at `last_update`: seconds since 1970.
    pub base_rtc: u64,
    /// When that was.
    pub last_update: u64,
    /// Nanoseconds within the second at `last_update`.
    pub offset: i64,
    /// When the update timer fires; -1 if it is off.
    pub update_timer: i64,
    /// When the next alarm is due.
    pub next_alarm_time: u64,
}

/// Section `globalstate`: what the guest was doing before the migration stopped it.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "globalstate", version = 1)]
pub struct GlobalStateLayout {
    /// Bytes of the name with its NUL.
    pub size: u32,
    /// Name, padded with NULs.
    pub runstate: [u8; 100],
}

/// Entry points of a patch that speeds up 32-bit Windows under KVM.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "kvmvapic-handlers", version = 1)]
pub struct TprHandlersLayout {
    /// Address.
    pub set_tpr: u32,
    /// Address.
    pub set_tpr_eax: u32,
    /// Addresses.
    pub get_tpr: [u32; 8],
    /// Address.
    pub get_tpr_stack: u32,
}

/// Section `kvm-tpr-opt`: that patch. All zeroes unless firmware has installed it.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "kvm-tpr-opt", version = 1)]
pub struct TprOptLayout {
    /// Not used.
    pub unused: [u8; 8],
    /// Of the patch.
    pub vaddr: u32,
    /// Of the patch.
    pub fixup_start: u32,
    /// Of the patch.
    pub fixup_end: u32,
    /// Of the patch.
    pub vapic_vaddr: u32,
    /// Of the patch.
    pub vapic_size: u32,
    /// Of the patch.
    pub vcpu_shift: u32,
    /// Of the patch.
    pub rom_real_tpr_addr: u32,
    /// For one CPU.
    pub up: TprHandlersLayout,
    /// For several.
    pub mp: TprHandlersLayout,
    /// Of the patch.
    pub state: u32,
    /// Of the patch.
    pub real_tpr_addr: u32,
    /// Of the patch.
    pub rom_state_vaddr: u32,
    /// Of the patch.
    pub vapic_paddr: u32,
    /// Of the patch.
    pub rom_state_paddr: u32,
}
