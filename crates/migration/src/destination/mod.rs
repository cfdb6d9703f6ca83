//! The side that will have the guest: does what [`DestinationMachine`] says, and tells it what
//! happened.

mod envelope;
mod filling;
mod foreign;
mod inbox;
mod link;
mod load;
mod pipe;
mod placer;

use crate::time::Instant;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::rc::Rc;
use std::time::Duration;

use memory::Userfault;
use transport::{Channel, Intake};

use crate::arbiter::{Ownership, Prepared, Swap};
use crate::cancel::Cancel;
use crate::digest::SectionsDigest;
use crate::error::{Failure, MigrationError, Received, Standing, sentence};
use crate::foreign::{Callers, ForeignSource};
use crate::handover::{
    DestinationAction, DestinationEvent, DestinationMachine, DestinationState, Digest, Record,
};
use crate::migratable::MigrationTarget;
use crate::observer::{Observer, Phase, Progress};
use crate::settings::{Settings, Verify};

use envelope::EnvelopeLink;
use foreign::ForeignLink;
use link::DestinationLink;
use pipe::PipeLink;
use placer::Placer;

pub use filling::Filling;

/// Receives a machine from a source that waits for answers.
///
/// Returns once the guest runs here; if it runs without all of its memory, what fills the rest
/// comes with it. On any failure before the grant everything is discarded, and
/// the source is told why.
///
/// # Errors
/// If the guest does not run here; the error says why, and whether this side owns it.
pub fn receive(
    target: &mut dyn MigrationTarget,
    channel: Channel,
    ownership: &mut Ownership,
    settings: &Settings,
    observer: &mut dyn Observer,
    cancel: &Cancel,
) -> Result<Received, MigrationError> {
    let started = Instant::now();
    match EnvelopeLink::new(channel, settings, cancel) {
        Ok(link) => Engine::new(target, link, ownership, settings, observer, cancel, started).run(),
        Err(failure) => Err(not_begun(failure)),
    }
}

/// Receives a machine from a one-way pipe. A complete stream that holds what it says is the grant.
///
/// # Errors
/// If the guest does not run here; the error says why.
pub fn restore_from(
    target: &mut dyn MigrationTarget,
    intake: Box<dyn Intake>,
    ownership: &mut Ownership,
    settings: &Settings,
    observer: &mut dyn Observer,
    cancel: &Cancel,
) -> Result<Received, MigrationError> {
    let started = Instant::now();
    match PipeLink::new(intake, settings, cancel) {
        Ok(link) => Engine::new(target, link, ownership, settings, observer, cancel, started).run(),
        Err(failure) => Err(not_begun(failure)),
    }
}

/// Where a machine comes from that another monitor sends.
pub enum ForeignWay {
    /// Somebody who may hear answers, and may have further channels.
    Channel(Channel, Option<Callers>),
    /// A pipe, where a complete stream is the grant.
    Pipe(Box<dyn Intake>),
}

/// Receives a machine from another monitor, whose language `source` knows.
///
/// # Errors
/// If the guest does not run here; the error says why.
pub fn receive_foreign(
    target: &mut dyn MigrationTarget,
    source: Box<dyn ForeignSource>,
    way: ForeignWay,
    ownership: &mut Ownership,
    settings: &Settings,
    observer: &mut dyn Observer,
    cancel: &Cancel,
) -> Result<Received, MigrationError> {
    let started = Instant::now();
    let link = match way {
        ForeignWay::Channel(channel, callers) => {
            ForeignLink::two_way(source, channel, callers, settings, cancel)
        }
        ForeignWay::Pipe(intake) => ForeignLink::one_way(source, intake, settings, cancel),
    };
    match link {
        Ok(link) => Engine::new(target, link, ownership, settings, observer, cancel, started).run(),
        Err(failure) => Err(not_begun(failure)),
    }
}

/// Between two looks at a record that could not be read.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

fn not_begun(failure: Failure) -> MigrationError {
    MigrationError { failure, standing: Standing::Discarded, rounds: Box::default(), owed: None }
}

/// The stream's bytes, taken from the link as the stream's reader asks for them.
struct Inlet<L> {
    link: L,
    chunk: Vec<u8>,
    used: usize,
    bytes: u64,
    /// Hashes what is placed, once there is memory.
    placer: Option<Placer>,
    /// Why a read failed. The reader of the stream only knows that it did.
    failure: Option<Failure>,
}

impl<L: DestinationLink> Inlet<L> {
    fn fill(&mut self) -> Result<bool, Failure> {
        let placer = &mut self.placer;
        let mut placed = || placer.as_mut().map_or(Ok(()), Placer::drain);
        self.used = 0;
        let more = self.link.next_chunk(&mut self.chunk, &mut placed)?;
        if !more {
            self.chunk.clear();
        }
        self.bytes += self.chunk.len() as u64;
        Ok(more)
    }
}

struct Port<L>(Rc<RefCell<Inlet<L>>>);

impl<L: DestinationLink> Read for Port<L> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut inlet = self.0.borrow_mut();
        if inlet.used == inlet.chunk.len() {
            match inlet.fill() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(failure) => {
                    inlet.failure.get_or_insert(failure);
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
        }
        let rest = &inlet.chunk[inlet.used..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        inlet.used += count;
        Ok(count)
    }
}

struct Engine<'a, L: DestinationLink> {
    target: &'a mut dyn MigrationTarget,
    ownership: &'a mut Ownership,
    observer: &'a mut dyn Observer,
    inlet: Rc<RefCell<Inlet<L>>>,
    reader: stream::StreamReader<Port<L>>,
    machine: DestinationMachine,
    sections_digest: SectionsDigest,
    verify: Verify,
    started: Instant,
    reported_at: Instant,
    ran: Duration,
    digest: Digest,
    failure: Option<Failure>,
    cancel: Cancel,
    settings: Settings,
    /// Had as soon as the source says that it may be needed.
    userfault: Option<Userfault>,
    /// The guest runs without all of its memory.
    filling: Option<Filling>,
}

impl<'a, L: DestinationLink> Engine<'a, L> {
    fn new(
        target: &'a mut dyn MigrationTarget,
        link: L,
        ownership: &'a mut Ownership,
        settings: &Settings,
        observer: &'a mut dyn Observer,
        cancel: &Cancel,
        started: Instant,
    ) -> Self {
        let inlet =
            Inlet { link, chunk: Vec::new(), used: 0, bytes: 0, placer: None, failure: None };
        let inlet = Rc::new(RefCell::new(inlet));
        let machine = DestinationMachine::new(ownership.me().clone(), ownership.is_recorded());
        Self {
            target,
            ownership,
            observer,
            reader: stream::StreamReader::new(Port(inlet.clone())),
            inlet,
            machine,
            cancel: cancel.clone(),
            settings: settings.clone(),
            userfault: None,
            filling: None,
            sections_digest: SectionsDigest::default(),
            verify: settings.verify,
            started,
            reported_at: started,
            ran: Duration::ZERO,
            digest: [0; 32],
            failure: None,
        }
    }

    fn run(mut self) -> Result<Received, MigrationError> {
        self.report(Phase::Greeting, None);
        let greeted = self.inlet.borrow_mut().link.greet();
        let event = self.event(greeted.map(|()| DestinationEvent::Greeted));
        let mut todo = VecDeque::from(self.machine.step(event));
        while let Some(action) = todo.pop_front() {
            if let Some(event) = self.perform(action) {
                // What was still to be done belonged to the state before.
                todo = self.machine.step(event).into();
            }
        }
        self.end()
    }

    /// What a failure is for the state machine; the failure itself is kept for the end.
    fn event(&mut self, result: Result<DestinationEvent, Failure>) -> DestinationEvent {
        result.unwrap_or_else(|failure| {
            let event = match &failure {
                Failure::CancelledBySource(reason) => DestinationEvent::Cancelled(reason.clone()),
                failure => DestinationEvent::Failed(failure.sentence()),
            };
            self.failure.get_or_insert(failure);
            event
        })
    }

    fn perform(&mut self, action: DestinationAction) -> Option<DestinationEvent> {
        let result = match action {
            DestinationAction::Build => self.build().map(|()| DestinationEvent::Built),
            DestinationAction::SendMachineAccepted => {
                let accepted = self.inlet.borrow_mut().link.accept();
                return accepted.err().map(|failure| self.event(Err(failure)));
            }
            DestinationAction::Load => self.load().map(|()| DestinationEvent::Loaded {
                digest: self.digest,
                claim: self.inlet.borrow().link.claim(),
            }),
            DestinationAction::Prepare(claim) => {
                let prepared = self.ownership.prepare(claim.as_ref());
                prepared
                    .map(|Prepared { vm, found }| DestinationEvent::Prepared { vm, found })
                    .map_err(|source| Failure::Ownership {
                        doing: "this machine cannot be had here",
                        source,
                    })
            }
            DestinationAction::SendReady { digest, claimant, shared } => {
                self.report(Phase::Granting, None);
                let granted = self.inlet.borrow_mut().link.ready(digest, &claimant, shared);
                granted.map(|(digest, claimant)| DestinationEvent::Grant { digest, claimant })
            }
            DestinationAction::Swap { expected, new } => {
                return Some(self.swap(expected.as_ref(), &new));
            }
            DestinationAction::Read => {
                return Some(match self.ownership.read() {
                    Ok(found) => DestinationEvent::Found(found),
                    Err(error) => DestinationEvent::Unreadable(sentence(error.as_ref())),
                });
            }
            DestinationAction::Wait => {
                if self.machine.can_be_cancelled() && self.cancel.is_cancelled() {
                    Err(Failure::Cancelled)
                } else {
                    crate::time::sleep(LOOK_AGAIN);
                    Ok(DestinationEvent::Waited)
                }
            }
            DestinationAction::Run => self.start().map(|()| DestinationEvent::Started),
            DestinationAction::SendRunning(me) => {
                self.inlet.borrow_mut().link.running(&me);
                return None;
            }
            DestinationAction::SendRunFailed(reason) => {
                self.inlet.borrow_mut().link.run_failed(&reason);
                return None;
            }
            DestinationAction::Discard => {
                if let Some(filling) = self.filling.take() {
                    filling.abandon();
                }
                self.target.discard();
                self.ownership.let_go();
                return None;
            }
            DestinationAction::SendRefused(reason) => {
                self.failure.get_or_insert_with(|| Failure::Protocol(reason.clone()));
                self.inlet.borrow_mut().link.refuse(&reason);
                return None;
            }
            DestinationAction::Finish => return None,
        };
        Some(self.event(result))
    }

    fn swap(&mut self, expected: Option<&Record>, new: &Record) -> DestinationEvent {
        const DOING: &str = "ownership could not be taken over";
        match self.ownership.swap(expected, new) {
            Swap::Swapped => DestinationEvent::Swapped,
            Swap::Lost(_) => DestinationEvent::SwapLost,
            Swap::Refused(source) => {
                let failure = Failure::Ownership { doing: DOING, source };
                let reason = failure.sentence();
                self.failure.get_or_insert(failure);
                DestinationEvent::NotSwapped(reason)
            }
            Swap::Unknown(source) => {
                let failure = Failure::Ownership { doing: DOING, source };
                DestinationEvent::SwapUnknown(failure.sentence())
            }
        }
    }

    fn start(&mut self) -> Result<(), Failure> {
        if let Some(filling) = &self.filling {
            self.inlet.borrow_mut().link.stay();
            self.target.filling(filling);
        }
        self.target
            .run()
            .map_err(|source| Failure::Machine { doing: "start the guest", source })?;
        self.ran = self.started.elapsed();
        Ok(())
    }

    fn report(&mut self, phase: Phase, memory_pages: Option<u64>) {
        let inlet = self.inlet.borrow();
        let (pages, zero_pages) =
            inlet.placer.as_ref().map_or((0, 0), |placer| (placer.pages, placer.zero_pages));
        let progress = Progress {
            phase,
            round: 0,
            round_pages_done: pages + zero_pages,
            round_pages: 0,
            memory_pages: memory_pages.unwrap_or(0),
            bytes: inlet.bytes,
            elapsed: self.started.elapsed(),
            link_rate: None,
            dirty_rate: None,
            estimated_downtime: None,
            throttle: 0,
        };
        self.reported_at = Instant::now();
        self.observer.progress(&progress);
    }

    fn end(mut self) -> Result<Received, MigrationError> {
        self.report(Phase::Over, None);
        self.ownership.set_owned(self.machine.owned().cloned());
        // The stream's reader holds the way in too.
        drop(self.reader);
        let Some(mut inlet) = Rc::into_inner(self.inlet).map(RefCell::into_inner) else {
            unreachable!("nobody else holds the way in")
        };
        let standing = match self.machine.state() {
            DestinationState::Running => {
                let (pages, zero_pages) = inlet
                    .placer
                    .as_ref()
                    .map_or((0, 0), |placer| (placer.pages, placer.zero_pages));
                match &self.filling {
                    None => inlet.link.finish(),
                    Some(filling) => {
                        if let Some(link) = inlet.link.into_envelope() {
                            filling.attach(link);
                        }
                    }
                }
                return Ok(Received {
                    total: self.ran,
                    bytes: inlet.bytes,
                    pages,
                    zero_pages,
                    digest: self.digest,
                    filling: self.filling,
                });
            }
            DestinationState::Stuck => Standing::Stuck,
            _ => Standing::Discarded,
        };
        inlet.link.finish();
        let failure = self.failure.unwrap_or_else(|| {
            Failure::Protocol("the destination ended without a reason".to_owned())
        });
        Err(MigrationError { failure, standing, rounds: Box::default(), owed: None })
    }
}
