//! What a process knows of its own right to run a machine.

use std::fmt;

use super::{Arbiter, Hold, Swap, host_name};
use crate::handover::{OwnerId, Record, RecordState, SourceMachine, Start, Taking, start};
use crate::migratable::Cause;

/// How often a start whose swap was not answered looks at the record again.
const LOOKS: u32 = 3;

/// A machine cannot be started here, or its record not be changed.
#[derive(Debug, thiserror::Error)]
pub enum OwnershipError {
    /// Somebody alive has a copy of the guest, or nobody can tell.
    #[error("this machine must not be started here")]
    Held(#[source] Cause),
    /// The record cannot be read or written.
    #[error("the ownership record in {place} cannot be used")]
    Arbiter {
        /// Where it is kept.
        place: String,
        /// Why.
        source: Cause,
    },
    /// The machine was given away to where this record does not reach.
    #[error(
        "this machine must not be started here: it is {record} in {place}; \
         if it runs nowhere, --take-ownership starts it"
    )]
    Away {
        /// What the record says.
        record: Box<Record>,
        /// Where it is kept.
        place: String,
    },
    /// Another process was faster.
    #[error("this machine must not be started here: another process has just started it")]
    Lost,
}

/// A process that nobody was before: a host, and a random number.
fn fresh_owner(host: &str) -> OwnerId {
    OwnerId::new(host, crate::random::identity())
}

type Open = Box<dyn FnOnce() -> Result<Box<dyn Arbiter>, Cause> + Send>;

enum Keeper {
    /// The operator's word: no record is kept.
    None,
    Known(Box<dyn Arbiter>),
    /// The machine, and so the place of its record, is not known yet.
    Later(Open),
}

/// A process's right to run one machine: who it is, the arbiter, and the record by which it owns
/// the machine.
pub struct Ownership {
    me: OwnerId,
    keeper: Keeper,
    owned: Option<Record>,
    /// A grant that nobody could confirm.
    undecided: Option<SourceMachine>,
    by_force: bool,
}

impl fmt::Debug for Ownership {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} owns by {:?}", self.me, self.owned)
    }
}

impl Ownership {
    /// No record is kept: the grant message alone passes ownership on.
    pub fn without_record() -> Self {
        Self {
            me: fresh_owner(&host_name(&[])),
            keeper: Keeper::None,
            owned: None,
            undecided: None,
            by_force: false,
        }
    }

    /// A process that starts a machine. When it comes back the process owns the machine, and
    /// nobody alive has a copy of it. `by_force` is the operator's word that a machine that was
    /// given away out of the record's reach runs nowhere.
    ///
    /// # Errors
    /// If the machine must not be started here.
    pub fn start(mut arbiter: Box<dyn Arbiter>, by_force: bool) -> Result<Self, OwnershipError> {
        let place = arbiter.place();
        let failed = |source| OwnershipError::Arbiter { place: place.clone(), source };
        let me = fresh_owner(&arbiter.host());
        arbiter.hold(Hold::Alone { by_force }, &me).map_err(OwnershipError::Held)?;
        let mut looks = 0;
        let owned = loop {
            let found = arbiter.read().map_err(failed)?;
            match start(&me, arbiter.vm(), found.clone(), by_force) {
                Start::Mine => break found,
                Start::Away(record) => {
                    return Err(OwnershipError::Away { record: Box::new(record), place });
                }
                Start::Swap { expected, new } => {
                    match arbiter.compare_and_swap(expected.as_ref(), &new) {
                        Swap::Swapped => break Some(new),
                        // A swap of a dead process may have come in between.
                        Swap::Lost(_) if looks < LOOKS => looks += 1,
                        Swap::Lost(_) => return Err(OwnershipError::Lost),
                        Swap::Unknown(_) if looks < LOOKS => looks += 1,
                        Swap::Refused(source) | Swap::Unknown(source) => {
                            return Err(failed(source));
                        }
                    }
                }
            }
        };
        Ok(Self { me, keeper: Keeper::Known(arbiter), owned, undecided: None, by_force: false })
    }

    /// A process that waits for a machine, on a host of this name (see [`Arbiter::host`]). The
    /// arbiter is asked for once the machine is known.
    pub fn arriving(
        host: &str,
        open: impl FnOnce() -> Result<Box<dyn Arbiter>, Cause> + Send + 'static,
    ) -> Self {
        let keeper = Keeper::Later(Box::new(open));
        Self { me: fresh_owner(host), keeper, owned: None, undecided: None, by_force: false }
    }

    /// The operator's word that a machine that arrives runs nowhere but at its source, whatever
    /// this side's record says.
    #[must_use]
    pub fn by_force(mut self, by_force: bool) -> Self {
        self.by_force = by_force;
        self
    }

    /// Who this process is.
    pub fn me(&self) -> &OwnerId {
        &self.me
    }

    /// The record by which it owns the machine, if one is kept.
    pub fn owned(&self) -> Option<&Record> {
        self.owned.as_ref()
    }

    /// True if a record is kept.
    pub fn is_recorded(&self) -> bool {
        !matches!(self.keeper, Keeper::None)
    }

    /// True if a grant was not confirmed: the guest stays paused until somebody knows more.
    pub fn is_undecided(&self) -> bool {
        self.undecided.is_some()
    }

    /// True if a grant was not confirmed, and the record can still tell what became of it.
    pub fn is_in_dispute(&self) -> bool {
        self.undecided.as_ref().is_some_and(SourceMachine::is_in_dispute)
    }

    /// Who can be asked about the record while a migration has this.
    pub fn witness(&self) -> Witness {
        let arbiter = match &self.keeper {
            Keeper::Known(arbiter) => Some(arbiter.another()),
            Keeper::None | Keeper::Later(_) => None,
        };
        Witness { me: self.me.clone(), arbiter }
    }

    /// What the record says now.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&mut self) -> Result<Option<Record>, Cause> {
        match &mut self.keeper {
            Keeper::Known(arbiter) => arbiter.read(),
            Keeper::None | Keeper::Later(_) => Ok(None),
        }
    }

    pub(crate) fn swap(&mut self, expected: Option<&Record>, new: &Record) -> Swap {
        match &mut self.keeper {
            Keeper::Known(arbiter) => arbiter.compare_and_swap(expected, new),
            Keeper::None | Keeper::Later(_) => Swap::Refused("no record is kept".into()),
        }
    }

    /// A destination's first look at its own record: what it says, and nobody else here has a copy
    /// (other than the source, if it has claimed the machine by this same record).
    pub(crate) fn prepare(&mut self, claim: Option<&Record>) -> Result<Prepared, Cause> {
        if let Keeper::Later(_) = self.keeper
            && let Keeper::Later(open) = std::mem::replace(&mut self.keeper, Keeper::None)
        {
            self.keeper = Keeper::Known(open()?);
        }
        let Keeper::Known(arbiter) = &mut self.keeper else {
            return Err("no record is kept".into());
        };
        let vm = arbiter.vm();
        if claim.is_some_and(|claim| claim.vm != vm) {
            return Err("the source's ownership record is of another machine".into());
        }
        let found = arbiter.read()?;
        let shared = Taking::new(&self.me, vm, claim, found).is_shared();
        let by_force = self.by_force;
        let hold = if shared { Hold::Beside } else { Hold::Alone { by_force } };
        arbiter.hold(hold, &self.me)?;
        // Nobody can start it any more; whoever did just before is seen now.
        let found = arbiter.read()?;
        if !shared && found.as_ref() == claim && claim.is_some() {
            return Err("the ownership record changes while it is being read".into());
        }
        Ok(Prepared { vm, found })
    }

    /// This process owns the machine by this record.
    pub(crate) fn set_owned(&mut self, owned: Option<Record>) {
        self.owned = owned;
    }

    pub(crate) fn set_undecided(&mut self, machine: SourceMachine) {
        self.undecided = Some(machine);
    }

    pub(crate) fn take_undecided(&mut self) -> Option<SourceMachine> {
        self.undecided.take()
    }

    /// The guest is somebody else's, or nothing of it is left here.
    pub(crate) fn let_go(&mut self) {
        self.owned = None;
        if let Keeper::Known(arbiter) = &mut self.keeper {
            arbiter.let_go();
        }
    }

    /// By the operator's word, whatever the record says.
    pub(crate) fn seize(&mut self) -> Result<(), Cause> {
        let Keeper::Known(arbiter) = &mut self.keeper else { return Ok(()) };
        self.owned = None;
        let found = arbiter.read()?;
        match start(&self.me, arbiter.vm(), found.clone(), true) {
            Start::Mine => self.owned = found,
            Start::Away(_) => {}
            Start::Swap { expected, new } => {
                match arbiter.compare_and_swap(expected.as_ref(), &new) {
                    Swap::Swapped => self.owned = Some(new),
                    Swap::Lost(_) => return Err("the ownership record was changed".into()),
                    Swap::Refused(error) | Swap::Unknown(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// The machine has ended in order: anybody may start it.
    ///
    /// # Errors
    /// If the record cannot be changed. Whoever starts the machine then finds that its owner is no
    /// more.
    pub fn end(mut self) -> Result<(), Cause> {
        let result = match self.owned.take() {
            None => Ok(()),
            // It may be somebody else's.
            Some(_) if self.undecided.is_some() => Ok(()),
            Some(owned) => {
                let free = owned.next(self.me.clone(), RecordState::Free);
                match self.swap(Some(&owned), &free) {
                    Swap::Swapped => Ok(()),
                    Swap::Lost(_) => Err("somebody else has changed it".into()),
                    Swap::Refused(error) | Swap::Unknown(error) => Err(error),
                }
            }
        };
        self.let_go();
        result
    }
}

/// Says what the record says, and changes nothing.
pub struct Witness {
    me: OwnerId,
    arbiter: Option<Box<dyn Arbiter>>,
}

impl Witness {
    /// Who this process is.
    pub fn me(&self) -> &OwnerId {
        &self.me
    }

    /// Where the record is kept, if it is.
    pub fn place(&self) -> Option<String> {
        self.arbiter.as_ref().map(|arbiter| arbiter.place())
    }

    /// What the record says now.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&mut self) -> Result<Option<Record>, Cause> {
        self.arbiter.as_mut().map_or(Ok(None), |arbiter| arbiter.read())
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} in {:?}", self.me, self.place())
    }
}

/// What a destination finds when it looks at its own record.
pub(crate) struct Prepared {
    pub(crate) vm: [u8; 16],
    pub(crate) found: Option<Record>,
}
