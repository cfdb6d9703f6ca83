//! The state of a whole machine, as sections, and back.
//!
//! Every section is decoded and checked before the first device changes; a machine that refuses a
//! state is as it was.

use cpu::CpuState;
use devices::acpi_ged::AcpiGedState;
use devices::exit_device::ExitState;
use devices::firmware::FirmwareState;
use devices::fw_cfg::{FwCfgError, FwCfgState};
use devices::serial::SerialState;
use devices::{HpetState, I8254State, I8259State, IoApicState, LapicState, RestoreError, RtcState};
use memory::PAGE_SIZE;
use vmstate::{DecodeError, Invalid, SavedSection, VmState};

use crate::clock::ClockState;
use crate::machine::{Machine, lock};

/// Whether the guest runs.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "run_state", version = 1)]
pub struct RunState {
    /// True if the guest was running before the migration paused it, and is to run on.
    pub running: bool,
}

/// Whose turn it is among the vCPUs.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "scheduler", version = 1)]
pub struct SchedulerState {
    /// The vCPU whose turn it is.
    pub turn: u32,
    /// Instructions that are left of its turn.
    pub slice_left: u64,
}

/// A machine's state could not be saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A section is not what it should be.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A section is missing.
    #[error("section {name} {instance} is missing")]
    Missing {
        /// Its name.
        name: String,
        /// Its instance.
        instance: u32,
    },
    /// A section that this machine does not have, or a second one.
    #[error("section {name} {instance} is not one of this machine's, or comes twice")]
    Unexpected {
        /// Its name.
        name: String,
        /// Its instance.
        instance: u32,
    },
    /// A device does not take its state.
    #[error(transparent)]
    Device(#[from] RestoreError),
    /// A vCPU does not take its state, or cannot be asked.
    #[error(transparent)]
    Vcpu(#[from] cpu::AcceleratorError),
    /// The firmware's files make no directory.
    #[error(transparent)]
    Firmware(#[from] FwCfgError),
    /// The clock does not take its state.
    #[error("section clock")]
    Clock(#[source] Invalid),
    /// The scheduler's state names a vCPU that is not there.
    #[error("section scheduler: there is no vcpu {0}")]
    Turn(u32),
}

/// Sections that are taken one by one; what is left over is an error.
struct Sections<'a> {
    left: Vec<Option<&'a SavedSection>>,
}

impl<'a> Sections<'a> {
    fn take(&mut self, name: &str, instance: u32) -> Result<&'a SavedSection, StateError> {
        self.left
            .iter_mut()
            .find(|slot| slot.is_some_and(|s| s.name == name && s.instance == instance))
            .and_then(Option::take)
            .ok_or_else(|| StateError::Missing { name: name.to_owned(), instance })
    }

    fn decode<T: VmState>(&mut self, instance: u32) -> Result<T, StateError> {
        Ok(self.take(T::NAME, instance)?.decode()?)
    }

    fn finish(self) -> Result<(), StateError> {
        match self.left.into_iter().flatten().next() {
            None => Ok(()),
            Some(section) => Err(StateError::Unexpected {
                name: section.name.clone(),
                instance: section.instance,
            }),
        }
    }
}

fn encode<T: VmState>(instance: u32, state: &T) -> SavedSection {
    SavedSection::encode(T::NAME, instance, state)
}

impl Machine {
    /// The state of a paused machine. It says that the guest is to run on; see
    /// [`Self::set_run_state`].
    ///
    /// # Errors
    /// If a vCPU cannot be asked.
    pub fn save(&mut self) -> Result<Vec<SavedSection>, StateError> {
        let board = &*lock(&self.board);
        let (scheduler, cpus) = self.cpus.save(board)?;
        let mut sections = vec![
            encode(0, &RunState { running: true }),
            encode(0, &board.clock.save()),
            encode(0, &scheduler),
        ];
        for (index, (cpu, lapic)) in (0..).zip(&cpus) {
            sections.push(encode(index, cpu));
            sections.push(encode(index, lapic));
        }
        for (index, ioapic) in board.interrupts.ioapics.iter().enumerate() {
            sections.push(encode(index as u32, &ioapic.save()));
        }
        for (index, state) in board.interrupts.pics.save().iter().enumerate() {
            sections.push(encode(index as u32, state));
        }
        sections.push(encode(0, &board.pit.save()));
        if let Some(hpet) = &board.hpet {
            sections.push(encode(0, &hpet.save()));
        }
        sections.push(encode(0, &board.rtc.save()));
        sections.push(encode(0, &board.serial.save()));
        sections.push(encode(0, &board.ged.save()));
        sections.push(encode(0, &board.fw_cfg.save()));
        if let Some(exit) = &board.exit {
            sections.push(encode(0, &exit.save()));
        }
        if let Some(firmware) = &board.firmware {
            sections.push(encode(0, &firmware.save()));
        }
        for slot in &board.slots {
            sections.push(slot.device.save_section());
        }
        Ok(sections)
    }

    /// BLAKE3 over every section and all of memory: two machines with the same digest are the same
    /// to their guests. Call it while paused.
    ///
    /// # Errors
    /// If a vCPU cannot be asked.
    pub fn digest(&mut self) -> Result<[u8; 32], StateError> {
        let mut hash = blake3::Hasher::new();
        for section in self.save()? {
            stream::digest_input(&section, &mut |bytes| {
                hash.update(bytes);
            });
        }
        let mut page = [0; PAGE_SIZE];
        for index in 0..self.ram.pages() {
            self.ram.read_page(index, &mut page);
            hash.update(&page);
        }
        Ok(*hash.finalize().as_bytes())
    }

    /// Writes whether the guest is to run on into a saved state.
    pub fn set_run_state(sections: &mut [SavedSection], running: bool) {
        let state = encode(0, &RunState { running });
        if let Some(section) = sections.iter_mut().find(|section| section.name == RunState::NAME) {
            *section = state;
        }
    }

    /// Takes a whole state. Returns whether the guest is to run on.
    ///
    /// # Errors
    /// If any section is missing, unknown, twice there, or not one that this machine can take. The
    /// machine is then to be thrown away.
    pub fn restore(&mut self, sections: &[SavedSection]) -> Result<bool, StateError> {
        let mut left = Sections { left: sections.iter().map(Some).collect() };
        let run: RunState = left.decode(0)?;
        let clock: ClockState = left.decode(0)?;
        let scheduler: SchedulerState = left.decode(0)?;
        let count = self.config.cpus.count;
        let board = &mut *lock(&self.board);
        let mut cpus: Vec<(CpuState, LapicState)> = Vec::new();
        for index in 0..count {
            cpus.push((left.decode(index)?, left.decode(index)?));
        }
        let ioapics: [IoApicState; 2] = [left.decode(0)?, left.decode(1)?];
        let pics: [I8259State; 2] = [left.decode(0)?, left.decode(1)?];
        let pit: I8254State = left.decode(0)?;
        let hpet: Option<HpetState> =
            if board.hpet.is_some() { Some(left.decode(0)?) } else { None };
        let rtc: RtcState = left.decode(0)?;
        let serial: SerialState = left.decode(0)?;
        let ged: AcpiGedState = left.decode(0)?;
        let fw_cfg: FwCfgState = left.decode(0)?;
        let exit: Option<ExitState> =
            if board.exit.is_some() { Some(left.decode(0)?) } else { None };
        let firmware: Option<FirmwareState> =
            if board.firmware.is_some() { Some(left.decode(0)?) } else { None };
        let mut slots = Vec::new();
        for slot in &board.slots {
            slots.push(left.take(&slot.device.section_name(), 0)?);
        }
        left.finish()?;
        board.clock.accepts(&clock).map_err(StateError::Clock)?;
        if scheduler.turn >= count {
            return Err(StateError::Turn(scheduler.turn));
        }

        board.clock.restore(&clock);
        self.cpus.restore(board, &cpus, &scheduler)?;
        for (ioapic, state) in board.interrupts.ioapics.iter_mut().zip(&ioapics) {
            ioapic.restore(state)?;
        }
        board.interrupts.pics.restore(&pics)?;
        board.pit.restore(&pit)?;
        if let (Some(hpet), Some(state)) = (&mut board.hpet, &hpet) {
            hpet.restore(state)?;
        }
        board.rtc.restore(&rtc)?;
        board.serial.restore(&serial)?;
        board.ged.restore(&ged)?;
        if let (Some(firmware), Some(state)) = (&mut board.firmware, &firmware) {
            firmware.restore(state)?;
            board.fw_cfg = crate::board::fw_cfg(&self.config, state.files(), &self.ram)?;
        }
        board.fw_cfg.restore(&fw_cfg)?;
        if let (Some(exit), Some(state)) = (&mut board.exit, &exit) {
            exit.restore(state)?;
        }
        for (slot, section) in board.slots.iter_mut().zip(slots) {
            slot.device.restore_section(section)?;
        }
        board.interrupts.restored();
        Ok(run.running)
    }
}
