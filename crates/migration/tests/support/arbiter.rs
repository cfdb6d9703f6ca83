//! A record in memory, whose keeper can be made to fail.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use migration::Cause;
use migration::arbiter::{Arbiter, Hold, Ownership, Swap, host_name};
use migration::handover::{OwnerId, Record, VmId};

pub const VM: VmId = [3; 16];

/// How a swap fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapFault {
    /// Nothing is changed, and that is said.
    Refused,
    /// It is carried out, and nobody hears of it.
    DoneUnheard,
    /// It is not carried out, and nobody hears of that.
    LostUnheard,
    /// It goes well, and then nobody can read or swap any more.
    DoneThenDown,
}

#[derive(Default)]
struct State {
    record: Option<Record>,
    /// What befalls the next swaps, in order; `None` for nothing.
    faults: VecDeque<Option<SwapFault>>,
    down: bool,
    swaps: u32,
}

/// The keeper of one record; clones are the same.
#[derive(Clone, Default)]
pub struct Keeper(Arc<Mutex<State>>);

impl Keeper {
    pub fn record(&self) -> Option<Record> {
        self.0.lock().unwrap().record.clone()
    }

    pub fn fail_next(&self, faults: &[Option<SwapFault>]) {
        self.0.lock().unwrap().faults.extend(faults);
    }

    pub fn set_down(&self, down: bool) {
        self.0.lock().unwrap().down = down;
    }

    pub fn swaps(&self) -> u32 {
        self.0.lock().unwrap().swaps
    }

    pub fn owner(&self) -> Ownership {
        Ownership::start(Box::new(self.clone()), false).unwrap()
    }

    pub fn arriving(&self) -> Ownership {
        let keeper = self.clone();
        Ownership::arriving(&host_name(&[]), move || Ok(Box::new(keeper) as Box<dyn Arbiter>))
    }
}

impl Arbiter for Keeper {
    fn vm(&self) -> VmId {
        VM
    }

    fn read(&mut self) -> Result<Option<Record>, Cause> {
        let state = self.0.lock().unwrap();
        if state.down { Err("the keeper is down".into()) } else { Ok(state.record.clone()) }
    }

    fn compare_and_swap(&mut self, expected: Option<&Record>, new: &Record) -> Swap {
        let mut state = self.0.lock().unwrap();
        if state.down {
            return Swap::Unknown("the keeper is down".into());
        }
        state.swaps += 1;
        let fault = state.faults.pop_front().flatten();
        match fault {
            Some(SwapFault::Refused) => return Swap::Refused("the keeper's disk is full".into()),
            Some(SwapFault::LostUnheard) => return Swap::Unknown("no answer".into()),
            _ => {}
        }
        if state.record.as_ref() != expected {
            return Swap::Lost(state.record.clone());
        }
        state.record = Some(new.clone());
        match fault {
            Some(SwapFault::DoneUnheard) => Swap::Unknown("no answer".into()),
            Some(SwapFault::DoneThenDown) => {
                state.down = true;
                Swap::Swapped
            }
            _ => Swap::Swapped,
        }
    }

    fn hold(&mut self, _: Hold, _: &OwnerId) -> Result<(), Cause> {
        Ok(())
    }

    fn let_go(&mut self) {}

    fn another(&self) -> Box<dyn Arbiter> {
        Box::new(self.clone())
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }
}

/// True if a source has let go of its disks and has not taken them again.
pub fn has_released(source: &super::Machine) -> bool {
    let last = source.calls.iter().rev().find(|call| ["release", "retake"].contains(call));
    last == Some(&"release")
}
