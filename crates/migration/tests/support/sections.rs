//! The state of the synthetic machine.

use std::sync::Arc;

use migration::SharedSchemas;
use vmstate::{Schema, VmState};

/// Registers of the guest.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "guest", version = 1)]
pub struct GuestState {
    /// Steps so far.
    pub steps: u64,
    /// State of its random numbers.
    pub random: u64,
    /// Sum over memory.
    pub sum: u64,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "clock", version = 1)]
pub struct ClockState {
    /// Ticks so far.
    pub ticks: u64,
    /// Whether it is armed.
    pub armed: bool,
    /// What it has to say.
    #[vmstate(max = 16)]
    pub queue: Vec<u8>,
}

struct Known {
    guest: Schema,
    clock: Schema,
}

impl stream::Schemas for Known {
    fn schema(&self, name: &str, instance: u32) -> Option<&Schema> {
        match (name, instance) {
            ("guest", 0) => Some(&self.guest),
            ("clock", 0 | 1) => Some(&self.clock),
            _ => None,
        }
    }

    fn expected(&self) -> Vec<(String, u32)> {
        [("guest", 0), ("clock", 0), ("clock", 1)]
            .map(|(name, instance)| (name.to_owned(), instance))
            .into()
    }
}

pub fn schemas() -> SharedSchemas {
    Arc::new(Known { guest: GuestState::schema(), clock: ClockState::schema() })
}
