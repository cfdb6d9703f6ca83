//! The way in through the envelope.

use crate::time::Instant;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use memory::{DirtyBitmap, GuestRam};
use transport::{Channel, Control};

use super::link::DestinationLink;
use crate::cancel::Cancel;
use crate::envelope::{
    Agreement, FrameError, FromDestination, FromSource, Hello, Kind, POST_COPY,
    PagesFromDestination, PagesFromSource, Role, SourceFrame,
};
use crate::error::Failure;
use crate::handover::{Digest, OwnerId, Record};
use crate::outbound::{Framing, Interrupt, Outbound, SendError};
use crate::peer::{Ear, Heard, Silence};
use crate::postcopy::{Session, SetReader};
use crate::pulse::{Pulse, Signs};
use crate::queue::Queue;
use crate::settings::Settings;

/// How often the source hears how far the stream has come.
const PROGRESS: Duration = Duration::from_millis(200);
/// How long the source may take to hear a last word and to end the channel.
const LAST_WORD: Duration = Duration::from_secs(2);
/// Emptied buffers that wait to be filled again.
const SPARE: usize = 10;

/// A frame from the source, with a buffer of its own.
pub(super) enum Piece {
    Stream(Vec<u8>),
    /// Pages that were missing at the hand-over.
    Pages(Vec<u8>),
    Message(FromSource),
}

type Out = Outbound<Box<dyn Write + Send>>;

/// The sending half of a link, and the hold on both halves.
pub(super) struct Mouth {
    pub(super) out: Out,
    pulse: Pulse,
    control: Arc<dyn Control>,
}

impl Mouth {
    /// Ends the link, and so the thread that hears it.
    pub(super) fn end(mut self) {
        self.control.shutdown();
        self.pulse.end();
        self.out.end();
    }
}

pub(super) struct EnvelopeLink {
    out: Out,
    pulse: Pulse,
    ear: Ear<Piece>,
    control: Arc<dyn Control>,
    spare: Queue<Vec<u8>>,
    cancel: Cancel,
    settings: Settings,
    stream_bytes: u64,
    reported_at: Instant,
    /// The source has offered: the stream is complete.
    offered: bool,
    /// By which record it owns the guest.
    claim: Option<Record>,
    /// What the hellos agreed on.
    agreement: Option<Agreement>,
    /// Pages of the machine's memory, once it is built.
    memory_pages: usize,
    /// The guest is to run without these pages, or what is known of that.
    session: Option<(Session, SetReader)>,
    missing: Option<(Session, DirtyBitmap)>,
    /// The link is needed after the guest runs.
    stays: bool,
    /// The source cannot be told anything any more.
    over: bool,
}

impl EnvelopeLink {
    pub(super) fn new(
        channel: Channel,
        settings: &Settings,
        cancel: &Cancel,
    ) -> Result<Self, Failure> {
        let Channel { reader, writer, control, peer: _, stays_here: _ } = channel;
        let own = Hello::new(Role::Destination);
        // What this side says is short. It is said even if the operator wants it to end.
        let interrupt = Interrupt {
            cancel: Cancel::new(),
            peer_spoke: Arc::default(),
            committed: Arc::default(),
        };
        let out = Outbound::start(writer, Framing::Envelope, None, settings.io_timeout, interrupt)
            .map_err(Failure::Channel)?;
        let spare: Queue<Vec<u8>> = Queue::new(SPARE);
        let emptied = spare.clone();
        let take = move |kind, payload: &mut Vec<u8>| {
            Ok(Some(match SourceFrame::decode(kind, payload)? {
                // Never queued: a peer that floods them cannot fill the queue.
                SourceFrame::Message(FromSource::Alive) => return Ok(None),
                SourceFrame::Message(message) => Piece::Message(message),
                SourceFrame::Stream(_) => {
                    debug_assert_eq!(kind, Kind::Stream);
                    let next = emptied.pop(Duration::ZERO).unwrap_or_default();
                    Piece::Stream(std::mem::replace(payload, next))
                }
                SourceFrame::Pages(_) => Piece::Pages(std::mem::take(payload)),
            }))
        };
        let signs = Signs::new(settings);
        let ear = Ear::start(reader, control.clone(), own, signs.clone(), take, |_| {})
            .map_err(Failure::Channel)?;
        out.begin(own.encode().to_vec());
        let alive = FromDestination::Alive.encode();
        let pulse = Pulse::start(out.beat(), alive, signs, control.clone(), settings)
            .map_err(Failure::Channel)?;
        Ok(Self {
            out,
            pulse,
            ear,
            control,
            spare,
            cancel: cancel.clone(),
            settings: settings.clone(),
            stream_bytes: 0,
            reported_at: Instant::now(),
            offered: false,
            claim: None,
            agreement: None,
            memory_pages: 0,
            session: None,
            missing: None,
            stays: false,
            over: false,
        })
    }

    fn hear(&mut self, doing: &'static str, limit: Duration) -> Result<Heard<Piece>, Failure> {
        match self.ear.hear(limit, Some(&self.cancel)) {
            Ok(Heard::Lost(source)) => {
                self.over = true;
                Err(Failure::Link { doing, source })
            }
            Ok(Heard::Frame(Piece::Message(FromSource::Cancel { reason }))) => {
                Err(Failure::CancelledBySource(reason))
            }
            Ok(heard) => Ok(heard),
            Err(Silence::Cancelled) => Err(Failure::Cancelled),
            Err(Silence::TimedOut) => Err(Failure::TimedOut { doing, limit }),
            Err(Silence::Over) => {
                self.over = true;
                Err(Failure::Link { doing, source: FrameError::Closed })
            }
        }
    }

    fn send(&mut self, message: &FromDestination, doing: &'static str) -> Result<(), Failure> {
        self.out.send(message.encode()).map_err(|error| match error {
            SendError::Io(source) => Failure::Send { doing, source },
            SendError::TimedOut(limit) => Failure::TimedOut { doing, limit },
            SendError::Interrupted | SendError::Overdue => Failure::Cancelled,
        })
    }

    /// Says something that no answer is expected to, and lets the source end the channel.
    fn last_word(&mut self, message: &FromDestination) {
        if self.over {
            return;
        }
        self.over = true;
        self.out.send_instead(message.encode());
        if !self.out.settle(LAST_WORD) {
            return;
        }
        // A channel that is closed with unread bytes in it may lose what was said last.
        let until = Instant::now() + LAST_WORD;
        while Instant::now() < until {
            match self.ear.hear(until.saturating_duration_since(Instant::now()), None) {
                Ok(Heard::Frame(_) | Heard::Hello(_)) => {}
                Ok(Heard::Lost(_) | Heard::NoAgreement(_)) | Err(_) => return,
            }
        }
    }
}

impl EnvelopeLink {
    /// Says something about pages.
    pub(super) fn say(
        &mut self,
        message: PagesFromDestination,
        doing: &'static str,
    ) -> Result<(), Failure> {
        self.send(&FromDestination::Pages(message), doing)
    }

    /// The next message, where nothing else may come.
    pub(super) fn next_message(&mut self, doing: &'static str) -> Result<FromSource, Failure> {
        match self.hear(doing, self.settings.io_timeout)? {
            Heard::Frame(Piece::Message(message)) => Ok(message),
            other => Err(unexpected(&other, doing)),
        }
    }

    /// Bytes of a part of a set of pages that fit into a frame.
    pub(super) fn longest_part(&self) -> usize {
        self.agreement.map_or(1, |agreed| agreed.max_frame as usize - 1)
    }

    /// The hearing half, and all that the sending half needs.
    pub(super) fn into_halves(self) -> (Ear<Piece>, Mouth) {
        (self.ear, Mouth { out: self.out, pulse: self.pulse, control: self.control })
    }

    /// The source says something about the pages that are to be missing.
    fn hear_of_missing(&mut self, message: PagesFromSource) -> Result<(), Failure> {
        let allowed = self.post_copy();
        match (message, &mut self.session) {
            (PagesFromSource::Session { session, pages }, None) if allowed => {
                if pages != self.memory_pages as u64 {
                    return Err(Failure::Protocol(format!(
                        "the source speaks of {pages} pages of memory, and the machine has {}",
                        self.memory_pages
                    )));
                }
                self.session = Some((session, SetReader::new(self.memory_pages)));
                Ok(())
            }
            (PagesFromSource::MissingSet { last, part }, Some((session, reader)))
                if self.missing.is_none() =>
            {
                self.missing = reader.part(last, &part)?.map(|missing| (*session, missing));
                Ok(())
            }
            (other, _) => {
                Err(Failure::Protocol(format!("{other:?} came while receiving the state stream")))
            }
        }
    }
}

fn message_name(message: &FromSource) -> &'static str {
    match message {
        FromSource::Sync { .. } => "Sync",
        FromSource::Offered { .. } => "Offered",
        FromSource::Grant { .. } => "Grant",
        FromSource::Cancel { .. } => "Cancel",
        FromSource::Alive => "Alive",
        FromSource::Pages(PagesFromSource::Session { .. }) => "Session",
        FromSource::Pages(PagesFromSource::MissingSet { .. }) => "MissingSet",
        FromSource::Pages(PagesFromSource::AllSent) => "AllSent",
        FromSource::Pages(PagesFromSource::Released) => "Released",
        FromSource::Pages(PagesFromSource::Recover(_)) => "Recover",
        FromSource::Pages(PagesFromSource::Proof(_)) => "Proof",
    }
}

fn unexpected(heard: &Heard<Piece>, doing: &str) -> Failure {
    let what = match heard {
        Heard::Hello(_) | Heard::NoAgreement(_) => "a hello",
        Heard::Frame(Piece::Stream(_)) => "bytes of stream",
        Heard::Frame(Piece::Pages(_)) => "pages",
        Heard::Frame(Piece::Message(message)) => message_name(message),
        Heard::Lost(_) => "the end",
    };
    Failure::Protocol(format!("{what} came while {doing}"))
}

impl DestinationLink for EnvelopeLink {
    fn greet(&mut self) -> Result<(), Failure> {
        const DOING: &str = "greeting the source";
        match self.hear(DOING, self.settings.hello_timeout)? {
            Heard::Hello(agreement) => {
                self.agreement = Some(agreement);
                Ok(())
            }
            Heard::NoAgreement(error) => {
                // The source shall see this side's hello, and find out the same.
                self.over = true;
                self.out.settle(LAST_WORD);
                Err(Failure::Hello(error))
            }
            other => Err(unexpected(&other, DOING)),
        }
    }

    fn next_chunk(
        &mut self,
        chunk: &mut Vec<u8>,
        placed: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        const DOING: &str = "receiving the state stream";
        loop {
            if self.offered {
                return Ok(false);
            }
            match self.hear(DOING, self.settings.io_timeout)? {
                Heard::Frame(Piece::Stream(bytes)) => {
                    self.stream_bytes += bytes.len() as u64;
                    let emptied = std::mem::replace(chunk, bytes);
                    // No room among the spare buffers only means that there are enough.
                    let _ = self.spare.push(emptied, Duration::ZERO);
                    if self.reported_at.elapsed() >= PROGRESS {
                        self.reported_at = Instant::now();
                        let stream_bytes = self.stream_bytes;
                        self.send(&FromDestination::Progress { stream_bytes }, DOING)?;
                    }
                    return Ok(true);
                }
                Heard::Frame(Piece::Message(FromSource::Sync { sequence })) => {
                    placed()?;
                    let stream_bytes = self.stream_bytes;
                    self.send(&FromDestination::Synced { sequence, stream_bytes }, DOING)?;
                }
                Heard::Frame(Piece::Message(FromSource::Pages(message))) => {
                    self.hear_of_missing(message)?;
                }
                Heard::Frame(Piece::Message(FromSource::Offered { stream_bytes, claim })) => {
                    if stream_bytes != self.stream_bytes {
                        return Err(Failure::Protocol(format!(
                            "the source offers {stream_bytes} bytes of stream, and {} came",
                            self.stream_bytes
                        )));
                    }
                    self.offered = true;
                    self.claim = claim;
                }
                other => return Err(unexpected(&other, DOING)),
            }
        }
    }

    fn accept(&mut self) -> Result<(), Failure> {
        self.send(&FromDestination::MachineAccepted, "accepting the machine")
    }

    fn claim(&self) -> Option<Record> {
        self.claim.clone()
    }

    fn ready(
        &mut self,
        own: Digest,
        me: &OwnerId,
        shared: bool,
    ) -> Result<(Digest, OwnerId), Failure> {
        const DOING: &str = "waiting for the grant";
        let ready = FromDestination::Ready { digest: own, claimant: me.clone(), shared };
        self.send(&ready, DOING)?;
        // Twice as long as the source waits for this side: who gives up first is the one that may.
        match self.hear(DOING, self.settings.switchover_timeout * 2)? {
            Heard::Frame(Piece::Message(FromSource::Grant { digest, claimant })) => {
                Ok((digest, claimant))
            }
            other => Err(unexpected(&other, DOING)),
        }
    }

    fn running(&mut self, me: &OwnerId) {
        let running = FromDestination::Running { claimant: me.clone() };
        if self.stays {
            // If it cannot be said, the link is lost, which whoever goes on with it finds out.
            self.out.send_at_once(running.encode());
        } else {
            self.last_word(&running);
        }
    }

    fn post_copy(&self) -> bool {
        self.agreement.is_some_and(|agreed| agreed.features & POST_COPY != 0)
    }

    fn set_memory(&mut self, ram: &GuestRam) {
        self.memory_pages = ram.pages();
    }

    fn take_missing(&mut self) -> Result<Option<(Session, DirtyBitmap)>, Failure> {
        if self.session.is_some() && self.missing.is_none() {
            return Err(Failure::Protocol("the set of missing pages is not complete".to_owned()));
        }
        Ok(self.missing.take())
    }

    fn stay(&mut self) {
        self.stays = true;
    }

    fn into_envelope(self) -> Option<EnvelopeLink> {
        Some(self)
    }

    fn run_failed(&mut self, reason: &str) {
        self.last_word(&FromDestination::RunFailed { reason: reason.to_owned() });
    }

    fn refuse(&mut self, reason: &str) {
        self.last_word(&FromDestination::Refused { reason: reason.to_owned() });
    }

    fn finish(&mut self) {
        self.pulse.end();
        self.control.shutdown();
        self.ear.end();
        self.out.end();
    }
}
