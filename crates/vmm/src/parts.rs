//! A machine's state in parts: for whoever brings it from another monitor's machine, or takes it
//! there, and knows vCPUs and devices only.

use std::collections::BTreeMap;

use devices::firmware::FirmwareState;
use machine::MachineConfig;
use stream::Schemas;
use vmstate::{SavedSection, VmState};

use crate::clock::ClockState;
use crate::schemas::MachineSchemas;
use crate::state::{RunState, SchedulerState, StateError};

/// The state of a machine with firmware that follows the host's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateParts {
    /// Sections of vCPUs and devices.
    pub sections: Vec<SavedSection>,
    /// Its firmware.
    pub firmware: FirmwareState,
    /// Virtual nanoseconds since it started.
    pub virtual_ns: u64,
    /// Wall-clock nanoseconds since 1970 at the pause.
    pub paused_at_ns: i64,
    /// Whether the guest is to run on.
    pub running: bool,
}

/// The sections of a machine from its parts, in the order of the stream.
///
/// # Errors
/// If one is missing, or there is one too many.
pub fn join_state(
    config: &MachineConfig,
    parts: StateParts,
) -> Result<Vec<SavedSection>, StateError> {
    let StateParts { sections, firmware, virtual_ns, paused_at_ns, running } = parts;
    let clock =
        ClockState { virtual_ns, instructions: 0, skipped_ns: 0, paused_at_ns, missed_ns: 0 };
    let own = [
        SavedSection::encode(RunState::NAME, 0, &RunState { running }),
        SavedSection::encode(ClockState::NAME, 0, &clock),
        // Whoever's turn it is has all of it.
        SavedSection::encode(SchedulerState::NAME, 0, &SchedulerState { turn: 0, slice_left: 0 }),
        SavedSection::encode(FirmwareState::NAME, 0, &firmware),
    ];
    let mut left = BTreeMap::new();
    for section in own.into_iter().chain(sections) {
        let key = (section.name.clone(), section.instance);
        if let Some(SavedSection { name, instance, .. }) = left.insert(key, section) {
            return Err(StateError::Unexpected { name, instance });
        }
    }
    let mut ordered = Vec::with_capacity(left.len());
    for (name, instance) in MachineSchemas::new(config).expected() {
        match left.remove(&(name.clone(), instance)) {
            Some(section) => ordered.push(section),
            None => return Err(StateError::Missing { name, instance }),
        }
    }
    match left.into_keys().next() {
        None => Ok(ordered),
        Some((name, instance)) => Err(StateError::Unexpected { name, instance }),
    }
}

/// The parts of a state.
///
/// # Errors
/// If a section of its own is missing or is not what it should be.
pub fn split_state(sections: &[SavedSection]) -> Result<StateParts, StateError> {
    let run: RunState = own(sections)?;
    let clock: ClockState = own(sections)?;
    // Any vCPU may have the next turn, elsewhere.
    let _: SchedulerState = own(sections)?;
    let firmware: FirmwareState = own(sections)?;
    let names = [RunState::NAME, ClockState::NAME, SchedulerState::NAME, FirmwareState::NAME];
    let others = sections.iter().filter(|of| !names.contains(&of.name.as_str()));
    Ok(StateParts {
        sections: others.cloned().collect(),
        firmware,
        virtual_ns: clock.virtual_ns,
        paused_at_ns: clock.paused_at_ns,
        running: run.running,
    })
}

fn own<T: VmState>(sections: &[SavedSection]) -> Result<T, StateError> {
    let found = sections.iter().find(|of| of.name == T::NAME && of.instance == 0);
    let missing = || StateError::Missing { name: T::NAME.to_owned(), instance: 0 };
    Ok(found.ok_or_else(missing)?.decode()?)
}
