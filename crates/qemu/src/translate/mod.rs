//! The state of a microvm, from QEMU's sections into Ferry's and back.
//!
//! Everything that QEMU's sections say finds a place in Ferry's, follows from what does, or is an
//! error that names the section and the field. What only one side keeps, and how it is made up for
//! on the other, is listed in `docs/qemu.md`.

mod cpu;
mod interrupts;
mod pit;
mod rtc;
mod serial;
mod virtio;
mod virtio_legacy;

pub use virtio::{BLOCK_FEATURES, BLOCK_LEGACY_FEATURES, RNG_FEATURES, RNG_LEGACY_FEATURES};

use ::cpu::CpuState;
use devices::acpi_ged::AcpiGedState;
use devices::fw_cfg::FwCfgState;
use devices::serial::SerialState;
use devices::{I8254State, I8259State, IoApicState, LapicState, RtcState};
use machine::MachineConfig;
use vmstate::{SavedSection, VmState};

use crate::layout::*;

/// A state cannot be translated: says in which section, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("section {section:?} instance {instance}: {reason}")]
pub struct TranslateError {
    /// Name of the section.
    pub section: String,
    /// Its instance.
    pub instance: u32,
    /// Why.
    pub reason: String,
}

/// Why a part of a state has no counterpart.
pub(crate) type Reason = String;

/// What the state of a machine is besides its sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant {
    /// Virtual nanoseconds since the machine started, at the pause.
    pub virtual_ns: u64,
    /// The host's wall clock at the pause, in nanoseconds since 1970. QEMU's real-time clock
    /// follows the host's, and its stream does not say what that was: whoever receives takes its
    /// own.
    pub wall_ns: i64,
}

/// A state from QEMU, as Ferry keeps it.
#[derive(Clone, Debug)]
pub struct Received {
    /// The sections of CPUs and devices. What Ferry's own machine has besides (its clock's, its
    /// scheduler's and its run state's) is for whoever builds the machine.
    pub sections: Vec<SavedSection>,
    /// Virtual nanoseconds at the pause.
    pub virtual_ns: u64,
    /// The guest was running before the migration stopped it.
    pub running: bool,
}

/// What a rule says, or an error with these words.
pub(crate) fn require(holds: bool, reason: impl Into<Reason>) -> Result<(), Reason> {
    if holds { Ok(()) } else { Err(reason.into()) }
}

fn failed(section: &str, instance: u32) -> impl FnOnce(Reason) -> TranslateError {
    let section = section.to_owned();
    move |reason| TranslateError { section, instance, reason }
}

/// The section of this name and instance, decoded.
fn decode<T: VmState>(
    sections: &[SavedSection],
    name: &str,
    instance: u32,
) -> Result<T, TranslateError> {
    let found = sections.iter().find(|of| of.name == name && of.instance == instance);
    let section = found.ok_or_else(|| failed(name, instance)("it is missing".to_owned()))?;
    section.decode().map_err(|error| failed(name, instance)(error.to_string()))
}

fn encode<T: VmState>(instance: u32, state: &T) -> SavedSection {
    SavedSection::encode(T::NAME, instance, state)
}

/// Makes Ferry's sections from QEMU's. `used_index` reads the index field of a virtio queue's used
/// ring from guest memory, by the ring's address: QEMU leaves it there.
///
/// # Errors
/// If QEMU's state holds something that Ferry's machine cannot be in.
pub fn from_qemu(
    sections: &[SavedSection],
    config: &MachineConfig,
    wall_ns: i64,
    used_index: &dyn Fn(u64) -> Option<u16>,
) -> Result<Received, TranslateError> {
    let timer: TimerLayout = decode(sections, "timer", 0)?;
    let (virtual_ns, tsc) = time(&timer).map_err(failed("timer", 0))?;
    let now = Instant { virtual_ns, wall_ns };
    let mut into = Vec::new();
    for index in 0..config.cpus.count {
        let common: CpuCommonLayout = decode(sections, "cpu_common", index)?;
        let layout: CpuLayout = decode(sections, "cpu", index)?;
        let apic: ApicLayout = decode(sections, "apic", index)?;
        let state: CpuState =
            cpu::from_qemu(&common, &layout, &apic, tsc).map_err(failed("cpu", index))?;
        let lapic: LapicState =
            interrupts::lapic_from_qemu(&apic, now).map_err(failed("apic", index))?;
        into.push(encode(index, &state));
        into.push(encode(index, &lapic));
    }
    let patch: TprOptLayout = decode(sections, "kvm-tpr-opt", 0)?;
    no_patch(&patch).map_err(failed("kvm-tpr-opt", 0))?;
    let pics: [I8259Layout; 2] = [decode(sections, "i8259", 0)?, decode(sections, "i8259", 1)?];
    let lines = u32::from(pics[0].last_irr | pics[0].irr & pics[0].elcr)
        | u32::from(pics[1].last_irr | pics[1].irr & pics[1].elcr) << 8;
    for instance in 0..2 {
        let layout: IoApicLayout = decode(sections, "ioapic", instance)?;
        let lines = if instance == 0 { interrupts::pins_of_lines(lines) } else { 0 };
        let state: IoApicState =
            interrupts::ioapic_from_qemu(&layout, lines).map_err(failed("ioapic", instance))?;
        into.push(encode(instance, &state));
    }
    for (instance, layout) in (0..).zip(&pics) {
        let state: I8259State =
            interrupts::pic_from_qemu(layout).map_err(failed("i8259", instance))?;
        into.push(encode(instance, &state));
    }
    let layout: I8254Layout = decode(sections, "i8254", 0)?;
    let state: I8254State = pit::from_qemu(&layout, now).map_err(failed("i8254", 0))?;
    into.push(encode(0, &state));
    let layout: RtcLayout = decode(sections, "mc146818rtc", 0)?;
    let state: RtcState = rtc::from_qemu(&layout, now).map_err(failed("mc146818rtc", 0))?;
    into.push(encode(0, &state));
    let layout: SerialLayout = decode(sections, "serial", 0)?;
    let state: SerialState = serial::from_qemu(&layout, now).map_err(failed("serial", 0))?;
    into.push(encode(0, &state));
    let layout: GedLayout = decode(sections, "acpi-ged", 0)?;
    into.push(encode(0, &ged_from_qemu(&layout).map_err(failed("acpi-ged", 0))?));
    let layout: FwCfgLayout = decode(sections, "fw_cfg", 0)?;
    into.push(encode(0, &fw_cfg_from_qemu(&layout).map_err(failed("fw_cfg", 0))?));
    for device in &config.virtio {
        into.push(virtio::from_qemu(sections, config.virtio_interface, device, used_index)?);
    }
    let state: GlobalStateLayout = decode(sections, "globalstate", 0)?;
    let running = running(&state).map_err(failed("globalstate", 0))?;
    Ok(Received { sections: into, virtual_ns, running })
}

/// Makes QEMU's sections from Ferry's, in the order in which QEMU 7.2 writes them.
///
/// # Errors
/// If Ferry's state holds something that QEMU's machine cannot be in.
pub fn to_qemu(
    sections: &[SavedSection],
    config: &MachineConfig,
    now: Instant,
    running: bool,
) -> Result<Vec<SavedSection>, TranslateError> {
    let cpus: Vec<CpuState> = (0..config.cpus.count)
        .map(|index| decode(sections, CpuState::NAME, index))
        .collect::<Result<_, _>>()?;
    let pics: [I8259State; 2] =
        [decode(sections, I8259State::NAME, 0)?, decode(sections, I8259State::NAME, 1)?];
    let mut into = Vec::new();
    let mut add = |name: &str, instance: u32, section: SavedSection| {
        into.push(SavedSection { name: name.to_owned(), ..section });
        debug_assert_eq!(into.last().map(|of| of.instance), Some(instance));
    };
    let timer = cpu::timer(&cpus, now).map_err(failed("timer", 0))?;
    add("timer", 0, encode(0, &timer));
    let fw_cfg: FwCfgState = decode(sections, FwCfgState::NAME, 0)?;
    add("fw_cfg", 0, encode(0, &fw_cfg_to_qemu(&fw_cfg)));
    for (index, state) in (0..).zip(&cpus) {
        let lapic: LapicState = decode(sections, LapicState::NAME, index)?;
        let pic_asks = pics[0].irr & !pics[0].imr != 0;
        let common = cpu::common(state, &lapic, pic_asks).map_err(failed("cpu", index))?;
        add("cpu_common", index, encode(index, &common));
        add("cpu", index, encode(index, &cpu::to_qemu(state).map_err(failed("cpu", index))?));
        if index == 0 {
            add("kvm-tpr-opt", 0, encode(0, &empty_patch()));
        }
        let apic = interrupts::lapic_to_qemu(&lapic, state).map_err(failed("lapic", index))?;
        add("apic", index, encode(index, &apic));
    }
    for instance in 0..2 {
        let state: IoApicState = decode(sections, IoApicState::NAME, instance)?;
        add("ioapic", instance, encode(instance, &interrupts::ioapic_to_qemu(&state)));
    }
    let ged: AcpiGedState = decode(sections, AcpiGedState::NAME, 0)?;
    let ged = ged_to_qemu(&ged).map_err(failed("acpi-ged", 0))?;
    add("acpi-ged", 0, encode(0, &ged));
    for (instance, state) in (0..).zip(&pics) {
        add("i8259", instance, encode(instance, &interrupts::pic_to_qemu(state)));
    }
    let state: I8254State = decode(sections, I8254State::NAME, 0)?;
    add("i8254", 0, encode(0, &pit::to_qemu(&state, now).map_err(failed("i8254", 0))?));
    let state: RtcState = decode(sections, RtcState::NAME, 0)?;
    add("mc146818rtc", 0, encode(0, &rtc::to_qemu(&state, now)));
    let state: SerialState = decode(sections, SerialState::NAME, 0)?;
    add("serial", 0, encode(0, &serial::to_qemu(&state)));
    for device in &config.virtio {
        let section = virtio::to_qemu(sections, config.virtio_interface, device)?;
        let name = section.name.clone();
        add(&name, 0, section);
    }
    add("globalstate", 0, encode(0, &run_state(running)));
    Ok(into)
}

fn time(timer: &TimerLayout) -> Result<(u64, u64), Reason> {
    let TimerLayout { cpu_ticks_offset, unused, cpu_clock_offset } = timer;
    require(*unused == [0; 8], "unused bytes are used")?;
    let positive = |value: i64, name: &str| {
        u64::try_from(value).map_err(|_| format!("{name} is negative: the clock runs backwards"))
    };
    Ok((
        positive(*cpu_clock_offset, "cpu_clock_offset")?,
        positive(*cpu_ticks_offset, "cpu_ticks_offset")?,
    ))
}

fn running(state: &GlobalStateLayout) -> Result<bool, Reason> {
    let GlobalStateLayout { size, runstate } = state;
    let end = runstate.iter().position(|byte| *byte == 0).ok_or("the run state has no end")?;
    let name = String::from_utf8_lossy(&runstate[..end]);
    require(*size as usize == end + 1, "size is not that of the run state")?;
    match &*name {
        "running" => Ok(true),
        "paused" | "prelaunch" | "postmigrate" => Ok(false),
        _ => Err(format!("run state {name:?} is not supported")),
    }
}

fn run_state(running: bool) -> GlobalStateLayout {
    let name: &[u8] = if running { b"running" } else { b"paused" };
    let mut runstate = [0; 100];
    runstate[..name.len()].copy_from_slice(name);
    GlobalStateLayout { size: name.len() as u32 + 1, runstate }
}

fn no_patch(patch: &TprOptLayout) -> Result<(), Reason> {
    // The patch is in an option ROM that a microvm does not load.
    require(*patch == empty_patch(), "firmware has installed a patch of the task priority")
}

fn empty_patch() -> TprOptLayout {
    let none = TprHandlersLayout { set_tpr: 0, set_tpr_eax: 0, get_tpr: [0; 8], get_tpr_stack: 0 };
    TprOptLayout {
        unused: [0; 8],
        vaddr: 0,
        fixup_start: 0,
        fixup_end: 0,
        vapic_vaddr: 0,
        vapic_size: 0,
        vcpu_shift: 0,
        rom_real_tpr_addr: 0,
        up: none.clone(),
        mp: none,
        state: 0,
        real_tpr_addr: 0,
        rom_state_vaddr: 0,
        vapic_paddr: 0,
        rom_state_paddr: 0,
    }
}

fn ged_from_qemu(layout: &GedLayout) -> Result<AcpiGedState, Reason> {
    let GedLayout { sel, memhp } = layout;
    let slot = memhp.as_ref().map_or(0, |GedMemoryLayout { selector }| *selector);
    require(slot == 0, "a memory slot is selected, and the machine has none")?;
    Ok(AcpiGedState { pending: *sel, off_requested: false, reset_requested: false })
}

fn ged_to_qemu(state: &AcpiGedState) -> Result<GedLayout, Reason> {
    let AcpiGedState { pending, off_requested, reset_requested } = state;
    require(!off_requested && !reset_requested, "the guest has asked to be switched off or reset")?;
    Ok(GedLayout { sel: *pending, memhp: Some(GedMemoryLayout { selector: 0 }) })
}

fn fw_cfg_from_qemu(layout: &FwCfgLayout) -> Result<FwCfgState, Reason> {
    // The tables' lengths concern firmware, which has used them: each is in a block of its own.
    let FwCfgLayout { cur_entry, cur_offset, dma, acpi_mr: _ } = layout;
    let Some(FwCfgDmaLayout { dma_addr }) = dma else {
        return Err("the device has no DMA".to_owned());
    };
    Ok(FwCfgState { selected: *cur_entry, offset: *cur_offset, dma_address: *dma_addr })
}

fn fw_cfg_to_qemu(state: &FwCfgState) -> FwCfgLayout {
    let FwCfgState { selected, offset, dma_address } = state;
    FwCfgLayout {
        cur_entry: *selected,
        cur_offset: *offset,
        dma: Some(FwCfgDmaLayout { dma_addr: *dma_address }),
        // QEMU leaves it out where each has a whole number of pages.
        acpi_mr: None,
    }
}
