//! A grant that nobody could confirm, later: the record is asked again, or the operator decides.

use std::collections::VecDeque;

use super::read;
use crate::arbiter::{Ownership, Swap};
use crate::error::sentence;
use crate::handover::{SourceAction, SourceEvent, SourceMachine, SourceState};
use crate::migratable::{Cause, MigrationSource};

/// The operator's word on where a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Nowhere else: it shall run here.
    RunHere,
    /// Elsewhere.
    Gone,
}

/// What became of a guest that was in doubt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is this side's, and goes on here (if it ran before).
    Here,
    /// It is this side's, paused, as it could not be resumed for this reason.
    NotResumed(String),
    /// It is somebody else's: nothing of it may run here again.
    Gone,
    /// Nobody can say yet, for this reason.
    Undecided(String),
}

struct Settling<'a> {
    source: &'a mut dyn MigrationSource,
    ownership: &'a mut Ownership,
    resume: bool,
    /// Why nothing is known yet.
    why: String,
    not_resumed: Option<Cause>,
}

/// Asks the record what became of a grant that was not confirmed, and acts on the answer; `resume`:
/// whether the guest ran before. The operator's word counts where no record does: if none is kept
/// that the destination reads too, or if it cannot be read.
pub fn settle(
    source: &mut dyn MigrationSource,
    ownership: &mut Ownership,
    resume: bool,
    word: Option<Word>,
) -> Settled {
    let Some(mut machine) = ownership.take_undecided() else {
        return Settled::Undecided("there is no grant in doubt".to_owned());
    };
    let why = "no record that can be read here says what the destination did".to_owned();
    let mut settling = Settling { source, ownership, resume, why, not_resumed: None };
    settling.follow(&mut machine, SourceEvent::Waited);
    if *machine.state() == SourceState::Unconfirmed {
        match word {
            None => {}
            Some(Word::Gone) => settling.follow(&mut machine, SourceEvent::RunsElsewhere),
            Some(Word::RunHere) => settling.seize(&mut machine),
        }
    }
    let Settling { ownership, why, not_resumed, .. } = settling;
    match machine.state() {
        SourceState::Gone => {
            ownership.let_go();
            Settled::Gone
        }
        SourceState::Kept => match not_resumed {
            None => Settled::Here,
            Some(error) => Settled::NotResumed(sentence(error.as_ref())),
        },
        _ => {
            ownership.set_undecided(machine);
            Settled::Undecided(why)
        }
    }
}

impl Settling<'_> {
    /// Runs the guest here by the operator's word. The record follows if it can be written; if it
    /// cannot, the word is what counts.
    fn seize(&mut self, machine: &mut SourceMachine) {
        let seized = self.ownership.seize();
        let owned = self.ownership.owned().cloned();
        self.follow(machine, SourceEvent::RunHere);
        self.ownership.set_owned(owned.filter(|_| seized.is_ok()));
    }

    fn follow(&mut self, machine: &mut SourceMachine, event: SourceEvent) {
        let mut todo = VecDeque::from(machine.step(event));
        while let Some(action) = todo.pop_front() {
            if let Some(event) = self.perform(action) {
                // What was still to be done belonged to the state before.
                todo = machine.step(event).into();
            }
        }
        if *machine.state() == SourceState::Kept {
            self.ownership.set_owned(machine.owned().cloned());
        }
    }

    fn perform(&mut self, action: SourceAction) -> Option<SourceEvent> {
        match action {
            SourceAction::Read => {
                let event = read(self.ownership);
                if let SourceEvent::Unreadable(reason) = &event {
                    self.why.clone_from(reason);
                }
                Some(event)
            }
            SourceAction::Swap { expected, new } => {
                Some(match self.ownership.swap(expected.as_ref(), &new) {
                    Swap::Swapped => SourceEvent::Swapped,
                    Swap::Lost(_) => SourceEvent::SwapLost,
                    Swap::Refused(error) | Swap::Unknown(error) => {
                        self.why = sentence(error.as_ref());
                        SourceEvent::SwapUnknown(self.why.clone())
                    }
                })
            }
            // Whoever asked may ask again.
            SourceAction::Wait => Some(SourceEvent::Failed(self.why.clone())),
            SourceAction::Retake => {
                self.not_resumed = self.source.retake().err();
                None
            }
            SourceAction::Resume => {
                if self.resume && self.not_resumed.is_none() {
                    self.not_resumed = self.source.resume().err();
                }
                None
            }
            // There is no link, and nothing else is done about a grant.
            _ => None,
        }
    }
}
