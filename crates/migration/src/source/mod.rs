//! The side that has the guest: does what [`SourceMachine`] says, and tells it what happened.

mod envelope;
mod link;
mod pipe;
mod rounds;
mod serving;
mod settle;

use crate::time::Instant;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::Duration;

use memory::{DirtyBitmap, GuestRam};
use transport::{Channel, Sink};

use crate::arbiter::{Ownership, Swap};
use crate::cancel::Cancel;
use crate::convergence::{Convergence, RoundStats};
use crate::error::{Failure, MigrationError, Outcome, Standing, sentence};
use crate::handover::{Digest, Record, SourceAction, SourceEvent, SourceMachine, SourceState};
use crate::migratable::{Cause, MigrationSource};
use crate::observer::{Observer, Phase, Progress};
use crate::postcopy::{Key, Session};
use crate::settings::{Settings, Verify};
use crate::state_writer::StateWriter;

use envelope::EnvelopeLink;
use link::{Answer, SourceLink};
use pipe::PipeLink;

pub use serving::{Served, Serving};
pub use settle::{Settled, Word, settle};

/// Moves a machine to a destination that answers.
///
/// Returns once the guest runs there; if it runs without all of its memory, the outcome has what
/// this side still owes. On any failure before the grant the guest goes on here, as
/// if nothing had been tried; the error says why the migration failed, and where the guest is.
///
/// # Errors
/// If the guest did not move, or nobody said that it did.
pub fn migrate(
    source: &mut dyn MigrationSource,
    channel: Channel,
    ownership: &mut Ownership,
    settings: &Settings,
    observer: &mut dyn Observer,
    cancel: &Cancel,
) -> Result<Outcome, MigrationError> {
    let started = Instant::now();
    match EnvelopeLink::new(channel, settings, cancel) {
        Ok(link) => Engine::new(source, link, ownership, settings, observer, started).run(),
        Err(failure) => Err(not_begun(source, failure)),
    }
}

/// Writes a machine to a one-way pipe, where nobody answers.
///
/// Returns once everything is delivered. Until the delivering step (the last byte of a command's
/// or a descriptor's stream, the durable name of a file) any failure lets the guest go on here;
/// after it the guest is never let go on by itself.
///
/// # Errors
/// If the state was not delivered, or nobody knows whether it was.
pub fn save_to(
    source: &mut dyn MigrationSource,
    sink: Box<dyn Sink>,
    ownership: &mut Ownership,
    settings: &Settings,
    observer: &mut dyn Observer,
    cancel: &Cancel,
) -> Result<Outcome, MigrationError> {
    let started = Instant::now();
    match PipeLink::new(sink, settings, cancel) {
        Ok(link) => Engine::new(source, link, ownership, settings, observer, started).run(),
        Err(failure) => Err(not_begun(source, failure)),
    }
}

fn not_begun(source: &dyn MigrationSource, failure: Failure) -> MigrationError {
    let standing = if source.was_running() { Standing::Running } else { Standing::PausedAsBefore };
    MigrationError { failure, standing, rounds: Box::default(), owed: None }
}

/// Between two looks at a record that could not be read.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What the record says, as an event.
fn read(ownership: &mut Ownership) -> SourceEvent {
    match ownership.read() {
        Ok(found) => SourceEvent::Found(found),
        Err(error) => SourceEvent::Unreadable(sentence(error.as_ref())),
    }
}

/// The stream's writer and this engine both need the way out.
struct Port<L>(Rc<RefCell<L>>);

impl<L: SourceLink> Write for Port<L> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().out().write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Engine<'a, L: SourceLink> {
    source: &'a mut dyn MigrationSource,
    ownership: &'a mut Ownership,
    settings: &'a Settings,
    observer: &'a mut dyn Observer,
    link: Rc<RefCell<L>>,
    writer: StateWriter<Port<L>>,
    machine: SourceMachine,
    ram: GuestRam,
    was_running: bool,
    convergence: Convergence,
    rounds: Vec<RoundStats>,
    pending: memory::DirtyBitmap,
    harvested_at: Instant,
    logging: bool,
    started: Instant,
    paused_at: Option<Instant>,
    reported_at: Instant,
    downtime: Option<Duration>,
    confirmed: bool,
    digest: Digest,
    failure: Option<Failure>,
    not_resumed: Option<String>,
    /// The guest is to go without the pages that are left.
    post_copy: bool,
    /// Which they were at the pause, and the random number of this move.
    missing: Option<(Session, DirtyBitmap)>,
    /// When the record was first asked.
    asking_since: Option<Instant>,
}

impl<'a, L: SourceLink> Engine<'a, L> {
    fn new(
        source: &'a mut dyn MigrationSource,
        link: L,
        ownership: &'a mut Ownership,
        settings: &'a Settings,
        observer: &'a mut dyn Observer,
        started: Instant,
    ) -> Self {
        let link = Rc::new(RefCell::new(link));
        let ram = source.ram();
        let writer = StateWriter::new(Port(link.clone()), source.schemas(), ram.pages());
        let machine = SourceMachine::new(ownership.owned().cloned());
        Self {
            ownership,
            settings,
            observer,
            writer,
            link,
            machine,
            was_running: source.was_running(),
            convergence: Convergence::new(settings),
            rounds: Vec::new(),
            pending: memory::DirtyBitmap::all(ram.pages()),
            harvested_at: started,
            logging: false,
            started,
            paused_at: None,
            reported_at: started,
            downtime: None,
            confirmed: false,
            digest: [0; 32],
            failure: None,
            not_resumed: None,
            post_copy: false,
            missing: None,
            asking_since: None,
            source,
            ram,
        }
    }

    fn run(mut self) -> Result<Outcome, MigrationError> {
        self.report(Phase::Greeting, 0, 0);
        let greeted = self.link.borrow_mut().greet();
        let event = self.event(greeted.map(|()| SourceEvent::Greeted));
        let mut todo = VecDeque::from(self.machine.step(event));
        while let Some(action) = todo.pop_front() {
            if let Some(event) = self.perform(action) {
                // What was still to be done belonged to the state before.
                todo = self.machine.step(event).into();
            }
        }
        self.downtime = self.paused_at.map(|at| at.elapsed());
        self.end()
    }

    /// What a failure is for the state machine; the failure itself is kept for the end.
    fn event(&mut self, result: Result<SourceEvent, Failure>) -> SourceEvent {
        result.unwrap_or_else(|failure| {
            let event = match &failure {
                Failure::NotStarted(reason) => SourceEvent::RunFailed(reason.clone()),
                failure => SourceEvent::Failed(failure.sentence()),
            };
            self.failure.get_or_insert(failure);
            event
        })
    }

    fn perform(&mut self, action: SourceAction) -> Option<SourceEvent> {
        let result = match action {
            SourceAction::SendMachine => self.send_machine(),
            SourceAction::Stream => self.stream(),
            SourceAction::Pause => self.pause(),
            SourceAction::SendRest => self.send_rest(),
            SourceAction::SendOffered => self.offer(),
            SourceAction::Release => {
                self.link.borrow_mut().commit();
                self.source
                    .release()
                    .map(|()| SourceEvent::Released)
                    .map_err(|source| Failure::Machine { doing: "bring the disks to rest", source })
            }
            SourceAction::Swap { expected, new } => {
                return Some(self.swap(expected.as_ref(), &new));
            }
            SourceAction::Read => return Some(read(self.ownership)),
            SourceAction::Wait => return Some(self.wait()),
            SourceAction::SendGrant { digest, claimant } => {
                self.report(Phase::Granting, 0, 0);
                let granted = self.link.borrow_mut().grant(digest, &claimant);
                granted.map(|confirmed| {
                    self.confirmed = confirmed;
                    SourceEvent::Running(claimant)
                })
            }
            SourceAction::Retake => {
                self.retake();
                return None;
            }
            SourceAction::Resume => {
                self.resume();
                return None;
            }
            SourceAction::SendCancel(reason) => {
                self.end_log();
                self.failure.get_or_insert_with(|| Failure::Protocol(reason.clone()));
                self.link.borrow_mut().cancel(&reason);
                return None;
            }
            SourceAction::Finish => return None,
        };
        Some(self.event(result))
    }

    fn send_machine(&mut self) -> Result<SourceEvent, Failure> {
        const DOING: &str = "the machine section is sent";
        self.report(Phase::Building, 0, 0);
        let (machine_type, machine) = (self.source.machine_type(), self.source.machine());
        let written = self.writer.machine(&machine_type, &machine);
        self.wrote(written, DOING)?;
        self.push_out(DOING)?;
        self.link.borrow_mut().machine_accepted()?;
        let written = self.writer.ram_blocks(&self.ram);
        self.wrote(written, DOING)?;
        Ok(SourceEvent::MachineAccepted)
    }

    fn pause(&mut self) -> Result<SourceEvent, Failure> {
        let at = Instant::now();
        self.source
            .pause()
            .map_err(|source| Failure::Machine { doing: "stop the guest", source })?;
        self.paused_at = Some(at);
        let until = self.pause_ends();
        self.link.borrow_mut().out().set_deadline(until);
        Ok(SourceEvent::Paused)
    }

    fn resume(&mut self) {
        self.link.borrow_mut().out().set_deadline(None);
        self.paused_at = None;
        if self.was_running
            && self.not_resumed.is_none()
            && let Err(error) = self.source.resume()
        {
            self.not_resumed = Some(sentence(error.as_ref()));
        }
    }

    /// When the guest has stood still for as long as it may, if there is a limit.
    fn pause_ends(&self) -> Option<Instant> {
        let limited = self.was_running && self.settings.live && !self.settings.allow_longer_pause;
        self.paused_at.filter(|_| limited).map(|at| at + self.settings.downtime_limit)
    }

    fn check_pause(&self, doing: &'static str) -> Result<(), Failure> {
        match self.pause_ends() {
            Some(until) if Instant::now() >= until => {
                Err(Failure::PauseTooLong { doing, limit: self.settings.downtime_limit })
            }
            _ => Ok(()),
        }
    }

    /// Everything after memory: sections, digest, the end of the stream.
    fn send_state(&mut self) -> Result<(), Failure> {
        const DOING: &str = "the state of the devices is sent";
        if self.settings.verify == Verify::Full
            && let Some((first, count)) =
                self.writer.differing(&self.ram, self.missing.as_ref().map(|(_, missing)| missing))
        {
            let address = self.ram.address_of(first);
            return Err(Failure::Digest(format!(
                "{count} pages of memory, the first at guest address {address:#x}, \
                 changed without being logged"
            )));
        }
        let sections = self.source.save().map_err(|source| Failure::Machine {
            doing: "save the state of the devices",
            source,
        })?;
        let written = self.writer.finish_in_part(&self.ram, &sections, self.missing.as_ref());
        self.digest = self.wrote(written, DOING)?;
        self.check_pause(DOING)
    }

    fn offer(&mut self) -> Result<SourceEvent, Failure> {
        let until = self.pause_ends();
        let claim = self.machine.owned().cloned();
        let Answer { digest, claimant, shared } =
            self.link.borrow_mut().offer(self.digest, claim, until)?;
        if digest != self.digest {
            let differs = "what the destination holds is not what was sent".to_owned();
            self.failure = Some(Failure::Digest(differs));
        }
        Ok(SourceEvent::Ready { digest, claimant, shared })
    }

    fn swap(&mut self, expected: Option<&Record>, new: &Record) -> SourceEvent {
        let swap = self.ownership.swap(expected, new);
        let source: Cause = match swap {
            Swap::Swapped => return SourceEvent::Swapped,
            Swap::Lost(Some(ref record)) => format!("the record says: {record}").into(),
            Swap::Lost(None) => "the record is gone".into(),
            Swap::Refused(_) | Swap::Unknown(_) => {
                let (doing, source, known) = match swap {
                    Swap::Refused(source) => ("the grant could not be recorded", source, true),
                    Swap::Unknown(source) => {
                        ("it is not known whether the grant was recorded", source, false)
                    }
                    Swap::Swapped | Swap::Lost(_) => unreachable!("matched above"),
                };
                let failure = Failure::Ownership { doing, source };
                let reason = failure.sentence();
                self.failure.get_or_insert(failure);
                return if known {
                    SourceEvent::NotSwapped(reason)
                } else {
                    SourceEvent::SwapUnknown(reason)
                };
            }
        };
        let doing = "somebody else has changed the ownership record";
        self.failure.get_or_insert(Failure::Ownership { doing, source });
        SourceEvent::SwapLost
    }

    /// A moment before the next look at the record, unless there were enough.
    fn wait(&mut self) -> SourceEvent {
        let since = *self.asking_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.settings.decide_timeout {
            return SourceEvent::Failed("the ownership record cannot be read".to_owned());
        }
        crate::time::sleep(LOOK_AGAIN.min(self.settings.decide_timeout));
        SourceEvent::Waited
    }

    fn retake(&mut self) {
        if let Err(error) = self.source.retake() {
            self.not_resumed = Some(sentence(error.as_ref()));
        }
    }

    /// Leaves the machine as it was found, but for its being paused or not.
    fn end_log(&mut self) {
        if self.convergence.throttle() > 0 {
            // A machine that cannot be sped up again says so itself; the guest runs either way.
            let _ = self.source.throttle(0);
        }
        if std::mem::take(&mut self.logging) {
            self.source.stop_dirty_log();
        }
    }

    fn wrote<T>(
        &mut self,
        result: Result<T, stream::StreamError>,
        doing: &'static str,
    ) -> Result<T, Failure> {
        result.map_err(|error| {
            let mut link = self.link.borrow_mut();
            match link.out().take_failure() {
                Some(failure) => link.explain(failure, doing),
                None => Failure::StreamWrite(Box::new(error)),
            }
        })
    }

    fn push_out(&mut self, doing: &'static str) -> Result<(), Failure> {
        let mut link = self.link.borrow_mut();
        let pushed = link.out().push_out();
        pushed.map_err(|error| link.explain(error, doing))
    }

    fn report(&mut self, phase: Phase, done: u64, of: u64) {
        let last = self.rounds.last();
        let progress = Progress {
            phase,
            round: self.rounds.len() as u32 + u32::from(of > 0),
            round_pages_done: done,
            round_pages: of,
            memory_pages: self.ram.pages() as u64,
            bytes: self.link.borrow_mut().out().stream_bytes(),
            elapsed: self.started.elapsed(),
            link_rate: self.convergence.link_rate(),
            dirty_rate: last.map(RoundStats::dirty_bytes_per_second),
            estimated_downtime: last.map(|stats| self.convergence.estimate(stats.dirtied)),
            throttle: self.convergence.throttle(),
        };
        self.reported_at = Instant::now();
        self.observer.progress(&progress);
    }

    fn end(mut self) -> Result<Outcome, MigrationError> {
        self.report(Phase::Over, 0, 0);
        let bytes = self.link.borrow_mut().out().stream_bytes();
        self.ownership.set_owned(self.machine.owned().cloned());
        let kept = matches!(self.machine.state(), SourceState::Kept);
        let missing = self.missing.take().filter(|_| !kept);
        // The stream's writer holds the link too.
        drop(self.writer);
        let link = Rc::into_inner(self.link).map(RefCell::into_inner);
        let owed = match (link, missing) {
            (Some(mut link), None) => {
                link.finish();
                None
            }
            (Some(mut link), Some((session, missing))) => {
                let key = Key::new(&session, &self.digest);
                // On a link on which nobody said that the guest runs, nobody asks for pages.
                let link = if self.confirmed {
                    link.into_envelope()
                } else {
                    link.finish();
                    None
                };
                Some(Serving::new(self.ram, missing, key, link, self.settings))
            }
            (None, _) => unreachable!("nobody else holds the link"),
        };
        let standing = match self.machine.state() {
            SourceState::Gone => {
                self.ownership.let_go();
                return Ok(Outcome {
                    total: self.started.elapsed(),
                    downtime: self.downtime.unwrap_or(Duration::ZERO),
                    bytes,
                    rounds: self.rounds,
                    confirmed: self.confirmed,
                    digest: self.digest,
                    owed,
                });
            }
            SourceState::Kept => match self.not_resumed {
                Some(reason) => Standing::NotResumed(reason),
                None if self.was_running => Standing::Running,
                None => Standing::PausedAsBefore,
            },
            _ => {
                self.ownership.set_undecided(self.machine);
                Standing::Unconfirmed
            }
        };
        let failure = self
            .failure
            .unwrap_or_else(|| Failure::Protocol("the source ended without a reason".to_owned()));
        Err(MigrationError { failure, standing, rounds: self.rounds.into(), owed })
    }
}
