//! What a record means for whoever reads it: pure functions, used by the two state machines and by
//! whoever starts a machine.

use super::record::{OwnerId, Record, RecordState, VmId};

/// What is to be done about a record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This side owns the guest: it may run it.
    Mine,
    /// Somebody else owns the guest, or did last.
    Theirs,
    /// Nobody can say yet: this swap decides. Whoever wins it is the owner.
    Swap {
        /// What was read.
        expected: Option<Record>,
        /// What is to take its place.
        new: Record,
    },
    /// The record does not belong to this move: somebody must look.
    Unclear(String),
}

/// A source that has tried to give a machine away and does not know what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dispute {
    /// The record under which this side owned the machine.
    owned: Record,
    /// The record that was, or may have been, put in its place.
    granted: Record,
}

impl Dispute {
    /// The grant of what is owned by `owned` to somebody who can read the same record (`shared`) or
    /// has to be told.
    pub fn new(owned: &Record, to: &OwnerId, shared: bool) -> Self {
        let from = owned.owner.clone();
        let state = if shared { RecordState::Granted { from } } else { RecordState::Away { from } };
        Self { owned: owned.clone(), granted: owned.next(to.clone(), state) }
    }

    /// The record before the grant.
    pub fn owned(&self) -> &Record {
        &self.owned
    }

    /// The record that grants.
    pub fn granted(&self) -> &Record {
        &self.granted
    }

    /// What a record means for the source. `Mine` is said only of a record that is newer than the
    /// one the grant was to replace: an earlier swap of this side whose answer was lost may still
    /// be on its way, and must find that it comes too late.
    pub fn verdict(&self, found: Option<&Record>) -> Verdict {
        let me = &self.owned.owner;
        let Some(found) = found else {
            return Verdict::Unclear("the ownership record is gone".to_owned());
        };
        if found.is_owned_by(me) && found.epoch > self.owned.epoch {
            return Verdict::Mine;
        }
        if *found == self.owned || *found == self.granted {
            let new = found.next(me.clone(), RecordState::Owned);
            return Verdict::Swap { expected: Some(found.clone()), new };
        }
        if found.epoch > self.granted.epoch {
            return Verdict::Theirs;
        }
        Verdict::Unclear(format!("the ownership record says: {found}"))
    }
}

/// A destination that is to take a machine over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Taking {
    /// What must be there to be replaced, if anything.
    expected: Option<Record>,
    /// What is put in its place.
    taken: Record,
    /// The source can read the same record.
    shared: bool,
}

impl Taking {
    /// A destination `me`, for the machine that the source owns by the record `claim` (if it keeps
    /// one), having `found` what its own arbiter says.
    pub fn new(me: &OwnerId, vm: VmId, claim: Option<&Record>, found: Option<Record>) -> Self {
        let claim = claim.filter(|claim| claim.vm == vm && claim.state == RecordState::Owned);
        if let Some(claim) = claim.filter(|claim| found.as_ref() == Some(claim)) {
            let granted = Dispute::new(claim, me, true).granted;
            let taken = granted.next(me.clone(), RecordState::Owned);
            return Self { expected: Some(granted), taken, shared: true };
        }
        let epoch = |record: Option<&Record>| record.map_or(0, |record| record.epoch);
        let epoch = epoch(claim).max(epoch(found.as_ref())) + 1;
        let taken = Record { vm, epoch, owner: me.clone(), state: RecordState::Owned };
        Self { expected: found, taken, shared: false }
    }

    /// True if the source and this side read the same record.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// The record under which this side will own the machine.
    pub fn taken(&self) -> &Record {
        &self.taken
    }

    /// The swap that takes it.
    pub fn swap(&self) -> (Option<Record>, Record) {
        (self.expected.clone(), self.taken.clone())
    }

    /// What a record means for the destination. Only the grant to this side, and to no other
    /// attempt, is worth a swap.
    pub fn verdict(&self, found: Option<&Record>) -> Verdict {
        if found == Some(&self.taken) {
            return Verdict::Mine;
        }
        if found != self.expected.as_ref() {
            return Verdict::Theirs;
        }
        let (expected, new) = self.swap();
        Verdict::Swap { expected, new }
    }
}

/// A machine that is to be started from its disks, or from a file, by whoever has made sure that
/// nobody lives who has a copy of it in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// This swap makes the process the owner.
    Swap {
        /// What was read.
        expected: Option<Record>,
        /// What is to take its place.
        new: Record,
    },
    /// The record is this process's already.
    Mine,
    /// The machine was given away, and this record does not know what became of it.
    Away(Record),
}

/// What a record means for `me`, who wants to start the machine. `by_force` is the operator's word
/// that it runs nowhere else.
pub fn start(me: &OwnerId, vm: VmId, found: Option<Record>, by_force: bool) -> Start {
    let new = match &found {
        None => Record::first(vm, me.clone()),
        Some(found) if found.vm == vm && found.is_owned_by(me) => return Start::Mine,
        Some(found) if matches!(found.state, RecordState::Away { .. }) && !by_force => {
            return Start::Away(found.clone());
        }
        // The disk's last machine may have been another one.
        Some(found) => Record { vm, ..found.next(me.clone(), RecordState::Owned) },
    };
    Start::Swap { expected: found, new }
}
