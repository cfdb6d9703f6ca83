//! The way out through the envelope.

use crate::time::Instant;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use memory::DirtyBitmap;
use transport::{Channel, Control};

use super::link::{Answer, SourceLink};
use crate::cancel::Cancel;
use crate::envelope::{
    Agreement, FrameError, FromDestination, FromSource, Hello, POST_COPY, PagesFromSource, Role,
};
use crate::error::Failure;
use crate::handover::{Digest, OwnerId, Record};
use crate::outbound::{Framing, Interrupt, Outbound, SendError};
use crate::peer::{Arrived, Ear, Heard, Silence, hear_destination};
use crate::postcopy::{Session, parts};
use crate::pulse::{Pulse, Signs};
use crate::settings::Settings;

/// A page with its record must fit into a frame.
const LEAST_FRAME_OF_PAGES: usize = 8192;
/// How long a last word, in either direction, may take.
const LAST_WORD: Duration = Duration::from_secs(1);
/// How often a long wait looks whether the destination makes progress.
const LOOK: Duration = Duration::from_millis(250);

pub(super) struct EnvelopeLink {
    out: Outbound<Box<dyn Write + Send>>,
    pulse: Pulse,
    ear: Ear<FromDestination>,
    control: Arc<dyn Control>,
    arrived: Arrived,
    cancel: Cancel,
    committed: Arc<AtomicBool>,
    settings: Settings,
    sequence: u32,
    /// The longest payload that both sides take.
    max_frame: usize,
    /// The destination has said its last word, or cannot any more.
    over: bool,
}

/// How long a wait may last.
struct Patience {
    /// Since the destination's last sign of progress.
    idle: Duration,
    /// At the latest, and what to say then.
    until: Option<Instant>,
    cancellable: bool,
}

impl EnvelopeLink {
    pub(super) fn new(
        channel: Channel,
        settings: &Settings,
        cancel: &Cancel,
    ) -> Result<Self, Failure> {
        let Channel { reader, writer, control, peer: _, stays_here: _ } = channel;
        let features = if settings.post_copy.is_some() { POST_COPY } else { 0 };
        let own = Hello { features, ..Hello::new(Role::Source) };
        let arrived = Arrived::default();
        let committed = Arc::new(AtomicBool::new(false));
        let interrupt = Interrupt {
            cancel: cancel.clone(),
            peer_spoke: arrived.spoke(),
            committed: committed.clone(),
        };
        let out = Outbound::start(
            writer,
            Framing::Envelope,
            settings.bandwidth_limit,
            settings.io_timeout,
            interrupt,
        )
        .map_err(Failure::Channel)?;
        let signs = Signs::new(settings);
        let ear = hear_destination(reader, control.clone(), own, signs.clone(), &arrived)
            .map_err(Failure::Channel)?;
        out.begin(own.encode().to_vec());
        let alive = FromSource::Alive.encode();
        let pulse = Pulse::start(out.beat(), alive, signs, control.clone(), settings)
            .map_err(Failure::Channel)?;
        Ok(Self {
            out,
            pulse,
            ear,
            control,
            arrived,
            cancel: cancel.clone(),
            committed,
            settings: settings.clone(),
            sequence: 0,
            max_frame: 0,
            over: false,
        })
    }

    fn hear(&mut self, doing: &'static str, patience: &Patience) -> Result<Said, Failure> {
        let cancel = patience.cancellable.then_some(&self.cancel);
        let mut arrived = self.arrived.bytes();
        let mut since = Instant::now();
        loop {
            let now = Instant::now();
            let mut wait = LOOK.min(patience.idle);
            if let Some(until) = patience.until {
                wait = wait.min(until.saturating_duration_since(now));
            }
            match self.ear.hear(wait, cancel) {
                Ok(Heard::Hello(agreement)) => return Ok(Said::Hello(agreement)),
                Ok(Heard::NoAgreement(error)) => {
                    self.over = true;
                    // The peer shall see this side's hello, and find out the same.
                    self.out.settle(LAST_WORD);
                    return Err(Failure::Hello(error));
                }
                Ok(Heard::Frame(FromDestination::Refused { reason })) => {
                    self.over = true;
                    return Err(Failure::RefusedByDestination(reason));
                }
                Ok(Heard::Frame(message)) => return Ok(Said::Message(message)),
                Ok(Heard::Lost(source)) => {
                    self.over = true;
                    return Err(Failure::Link { doing, source });
                }
                Err(Silence::Over) => {
                    self.over = true;
                    return Err(Failure::Link { doing, source: FrameError::Closed });
                }
                Err(Silence::Cancelled) => return Err(Failure::Cancelled),
                Err(Silence::TimedOut) => {}
            }
            if patience.until.is_some_and(|until| Instant::now() >= until) {
                let limit = self.settings.downtime_limit;
                return Err(Failure::PauseTooLong { doing, limit });
            }
            if self.arrived.bytes() != arrived {
                arrived = self.arrived.bytes();
                since = Instant::now();
            } else if since.elapsed() >= patience.idle {
                return Err(Failure::TimedOut { doing, limit: patience.idle });
            }
        }
    }

    fn message(
        &mut self,
        doing: &'static str,
        patience: &Patience,
    ) -> Result<FromDestination, Failure> {
        match self.hear(doing, patience)? {
            Said::Message(message) => Ok(message),
            Said::Hello(_) => Err(Failure::Protocol("a second hello".to_owned())),
        }
    }

    fn send(&mut self, message: &FromSource, doing: &'static str) -> Result<(), Failure> {
        self.out.send(message.encode()).map_err(|error| self.explain(error, doing))
    }

    /// The guest runs at the destination: what follows may be interrupted again, and takes as long
    /// as it takes.
    pub(super) fn serve_from_here(&mut self) {
        self.out.set_deadline(None);
        self.over = false;
    }

    /// Lets the destination hear the last word, and end the channel.
    pub(super) fn await_end(&mut self) {
        if !self.out.settle(LAST_WORD) {
            return;
        }
        let until = Instant::now() + LAST_WORD;
        while let Ok(Heard::Frame(_)) =
            self.ear.hear(until.saturating_duration_since(Instant::now()), None)
        {}
    }

    /// The next thing that is heard, whatever it is.
    pub(super) fn listen(&self, wait: Duration) -> Result<Heard<FromDestination>, Silence> {
        self.ear.hear(wait, None)
    }

    /// The answer to what was said last.
    pub(super) fn answer(&mut self, doing: &'static str) -> Result<FromDestination, Failure> {
        let patience = Patience { idle: self.settings.io_timeout, until: None, cancellable: true };
        self.message(doing, &patience)
    }

    pub(super) fn say(
        &mut self,
        message: PagesFromSource,
        doing: &'static str,
    ) -> Result<(), Failure> {
        self.send(&FromSource::Pages(message), doing)
    }

    /// Sends a whole frame behind the others.
    pub(super) fn send_frame(
        &mut self,
        frame: Vec<u8>,
        doing: &'static str,
    ) -> Result<(), Failure> {
        self.out.send(frame).map_err(|error| self.explain(error, doing))
    }

    /// Sends a whole frame before the others.
    pub(super) fn send_page_first(
        &mut self,
        frame: Vec<u8>,
        doing: &'static str,
    ) -> Result<(), Failure> {
        self.out.send_first(frame).map_err(|error| self.explain(error, doing))
    }
}

impl std::fmt::Debug for EnvelopeLink {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("EnvelopeLink").field("over", &self.over).finish_non_exhaustive()
    }
}

enum Said {
    Hello(Agreement),
    Message(FromDestination),
}

fn unexpected(message: &FromDestination, doing: &str) -> Failure {
    Failure::Protocol(format!("{message:?} came while {doing}"))
}

impl SourceLink for EnvelopeLink {
    type Output = Box<dyn Write + Send>;

    fn out(&mut self) -> &mut Outbound<Self::Output> {
        &mut self.out
    }

    fn explain(&mut self, error: SendError, doing: &'static str) -> Failure {
        let own = match error {
            SendError::TimedOut(limit) => return Failure::TimedOut { doing, limit },
            SendError::Overdue => {
                return Failure::PauseTooLong { doing, limit: self.settings.downtime_limit };
            }
            SendError::Interrupted if self.cancel.is_cancelled() => return Failure::Cancelled,
            SendError::Interrupted => None,
            SendError::Io(error) => Some(error),
        };
        // The channel failed because the destination ended it, most often, and then it has said
        // why just before.
        let patience = Patience { idle: LAST_WORD, until: None, cancellable: false };
        for _ in 0..8 {
            match self.message(doing, &patience) {
                Ok(_) => {}
                Err(Failure::Link { .. } | Failure::TimedOut { .. }) if own.is_some() => break,
                Err(failure) => return failure,
            }
        }
        match own {
            Some(source) => Failure::Send { doing, source },
            None => Failure::Link { doing, source: FrameError::Closed },
        }
    }

    fn greet(&mut self) -> Result<(), Failure> {
        const DOING: &str = "greeting the destination";
        let patience =
            Patience { idle: self.settings.hello_timeout, until: None, cancellable: true };
        match self.hear(DOING, &patience)? {
            Said::Hello(agreement) => {
                self.out.set_max_frame(agreement.max_frame);
                self.max_frame = agreement.max_frame as usize;
                if self.settings.post_copy.is_some() && self.max_frame < LEAST_FRAME_OF_PAGES {
                    return Err(Failure::Protocol(format!(
                        "the destination takes no frames of {LEAST_FRAME_OF_PAGES} bytes, as \
                         post-copy needs them"
                    )));
                }
                Ok(())
            }
            Said::Message(message) => Err(unexpected(&message, DOING)),
        }
    }

    fn machine_accepted(&mut self) -> Result<(), Failure> {
        const DOING: &str = "the destination builds the machine";
        let patience =
            Patience { idle: self.settings.build_timeout, until: None, cancellable: true };
        match self.message(DOING, &patience)? {
            FromDestination::MachineAccepted => Ok(()),
            other => Err(unexpected(&other, DOING)),
        }
    }

    fn sync(&mut self) -> Result<(), Failure> {
        const DOING: &str = "the destination takes memory in";
        self.sequence = self.sequence.wrapping_add(1);
        self.send(&FromSource::Sync { sequence: self.sequence }, DOING)?;
        let patience = Patience { idle: self.settings.io_timeout, until: None, cancellable: true };
        match self.message(DOING, &patience)? {
            FromDestination::Synced { sequence, stream_bytes }
                if sequence == self.sequence && stream_bytes == self.out.stream_bytes() =>
            {
                Ok(())
            }
            other => Err(unexpected(&other, DOING)),
        }
    }

    fn offer(
        &mut self,
        _own: Digest,
        claim: Option<Record>,
        until: Option<Instant>,
    ) -> Result<Answer, Failure> {
        const DOING: &str = "the destination loads and checks the state";
        let stream_bytes = self.out.stream_bytes();
        self.send(&FromSource::Offered { stream_bytes, claim }, DOING)?;
        let patience =
            Patience { idle: self.settings.switchover_timeout, until, cancellable: true };
        match self.message(DOING, &patience)? {
            FromDestination::Ready { digest, claimant, shared } => {
                Ok(Answer { digest, claimant, shared })
            }
            other => Err(unexpected(&other, DOING)),
        }
    }

    fn commit(&mut self) {
        self.committed.store(true, Ordering::Release);
    }

    fn grant(&mut self, digest: Digest, claimant: &OwnerId) -> Result<bool, Failure> {
        const DOING: &str = "the destination starts the guest";
        self.send(&FromSource::Grant { digest, claimant: claimant.clone() }, DOING)?;
        let patience =
            Patience { idle: self.settings.switchover_timeout, until: None, cancellable: false };
        match self.message(DOING, &patience)? {
            FromDestination::Running { claimant: who } if who == *claimant => {
                self.over = true;
                Ok(true)
            }
            FromDestination::RunFailed { reason } => {
                self.over = true;
                Err(Failure::NotStarted(reason))
            }
            other => Err(unexpected(&other, DOING)),
        }
    }

    fn send_missing(&mut self, session: &Session, missing: &DirtyBitmap) -> Result<(), Failure> {
        const DOING: &str = "saying which pages are missing";
        let (session, pages) = (*session, missing.pages() as u64);
        self.say(PagesFromSource::Session { session, pages }, DOING)?;
        for (last, part) in parts(missing, self.max_frame - 1) {
            self.say(PagesFromSource::MissingSet { last, part }, DOING)?;
        }
        Ok(())
    }

    fn into_envelope(self) -> Option<EnvelopeLink> {
        Some(self)
    }

    fn cancel(&mut self, reason: &str) {
        if self.over {
            return;
        }
        self.out.send_instead(FromSource::Cancel { reason: reason.to_owned() }.encode());
        if !self.out.settle(LAST_WORD) {
            return;
        }
        // Its answer shows that it heard. A channel that is closed before may lose the message.
        let until = Instant::now() + LAST_WORD;
        while !self.over && Instant::now() < until {
            let patience = Patience { idle: LAST_WORD, until: Some(until), cancellable: false };
            if self.message("ending the migration", &patience).is_err() {
                break;
            }
        }
    }

    fn finish(&mut self) {
        self.pulse.end();
        self.control.shutdown();
        self.ear.end();
        self.out.end();
    }
}
