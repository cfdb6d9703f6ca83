//! Hearing the peer: a thread of its own reads the hello and then frames, so that whoever waits
//! can wait with a limit and be cancelled, whatever the channel is.

use crate::time::Instant;
use crate::time::JoinHandle;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use transport::Control;

use crate::cancel::Cancel;
use crate::envelope::{
    Agreement, FrameError, FrameReader, FromDestination, HELLO_LENGTH, Hello, HelloError, Kind,
    is_tls,
};
use crate::pulse::{Noting, Signs};
use crate::queue::{Queue, QueueError};

/// How often a wait looks whether the operator wants it to end.
const LOOK: Duration = Duration::from_millis(50);
/// Frames that are read and not yet looked at.
const DEPTH: usize = 8;
/// For ever, for a thread that is ended through its queue.
const IDLE: Duration = Duration::from_secs(3600 * 24);

/// What was heard.
#[derive(Debug)]
pub(crate) enum Heard<F> {
    /// The hellos fit together.
    Hello(Agreement),
    /// They do not.
    NoAgreement(HelloError),
    /// A frame.
    Frame(F),
    /// Nothing more will be heard.
    Lost(FrameError),
}

/// A wait that ended without anything heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// The operator wants it to end.
    Cancelled,
    /// The time is over.
    TimedOut,
    /// The thread is gone, and has said so before.
    Over,
}

/// The receiving end of a channel, at either side.
pub(crate) struct Ear<F> {
    queue: Queue<Heard<F>>,
    control: Arc<dyn Control>,
    thread: Option<JoinHandle<()>>,
}

impl<F: Send + 'static> Ear<F> {
    /// Starts the reading thread. `take` turns each frame into what is queued; what it keeps to
    /// itself (`None`) is not queued. `spoke` is called before something is queued.
    pub(crate) fn start(
        input: Box<dyn Read + Send>,
        control: Arc<dyn Control>,
        own: Hello,
        signs: Arc<Signs>,
        mut take: impl FnMut(Kind, &mut Vec<u8>) -> Result<Option<F>, FrameError> + Send + 'static,
        mut before: impl FnMut(&Heard<F>) + Send + 'static,
    ) -> io::Result<Self> {
        let queue = Queue::new(DEPTH);
        let into = queue.clone();
        let mut input = Noting { input, signs: signs.clone() };
        let listen = move || {
            let mut say = move |heard: Heard<F>| {
                before(&heard);
                let last = matches!(heard, Heard::NoAgreement(_) | Heard::Lost(_));
                // A queue that is closed means that nobody listens any more.
                let heard = into.push(heard, IDLE).is_ok();
                if last {
                    into.close();
                }
                heard && !last
            };
            let agreement = match read_hello(&mut input) {
                Ok(bytes) => Hello::decode(&bytes).and_then(|peer| own.agree(&peer)),
                Err(error) => {
                    say(Heard::Lost(signs.explain(error)));
                    return;
                }
            };
            let agreement = match agreement {
                Ok(agreement) => agreement,
                Err(error) => {
                    say(Heard::NoAgreement(error));
                    return;
                }
            };
            if !say(Heard::Hello(agreement)) {
                return;
            }
            let mut frames = FrameReader::new(input, agreement.max_frame);
            let mut payload = Vec::new();
            loop {
                let taken = frames.next(&mut payload).and_then(|kind| take(kind, &mut payload));
                let going_on = match taken {
                    Ok(Some(frame)) => say(Heard::Frame(frame)),
                    Ok(None) => true,
                    Err(error) => say(Heard::Lost(signs.explain(error))),
                };
                if !going_on {
                    return;
                }
            }
        };
        let thread = crate::time::spawn("migration-hear", listen)?;
        Ok(Self { queue, control, thread: Some(thread) })
    }

    /// Waits for the next thing to be heard.
    pub(crate) fn hear(
        &self,
        limit: Duration,
        cancel: Option<&Cancel>,
    ) -> Result<Heard<F>, Silence> {
        let deadline = Instant::now() + limit;
        loop {
            if cancel.is_some_and(Cancel::is_cancelled) {
                return Err(Silence::Cancelled);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.queue.pop(left.min(LOOK)) {
                Ok(heard) => return Ok(heard),
                Err(QueueError::Closed) => return Err(Silence::Over),
                Err(QueueError::TimedOut) => {}
            }
            if left.is_zero() {
                return Err(Silence::TimedOut);
            }
        }
    }

    /// Ends the channel and the thread.
    pub(crate) fn end(&mut self) {
        self.queue.abandon();
        self.control.shutdown();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has been heard of already.
            let _ = thread.join();
        }
    }
}

impl<F> Drop for Ear<F> {
    fn drop(&mut self) {
        self.queue.abandon();
        self.control.shutdown();
    }
}

fn read_hello(input: &mut impl Read) -> Result<[u8; HELLO_LENGTH], FrameError> {
    let mut bytes = [0; HELLO_LENGTH];
    let mut have = 0;
    while have < HELLO_LENGTH {
        match input.read(&mut bytes[have..]) {
            Ok(0) if have == 0 => return Err(FrameError::Closed),
            Ok(0) if is_tls(&bytes[..have]) => break,
            Ok(0) => return Err(FrameError::Truncated),
            Ok(more) => have += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FrameError::Io(error)),
        }
    }
    Ok(bytes)
}

/// What the source's thread keeps to itself: the signs of life.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrived {
    bytes: Arc<AtomicU64>,
    spoke: Arc<AtomicBool>,
}

impl Arrived {
    /// Bytes of stream that the destination has said to have.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Set when the destination said something that ends the migration, or was lost.
    pub(crate) fn spoke(&self) -> Arc<AtomicBool> {
        self.spoke.clone()
    }
}

/// Starts to hear a destination.
pub(crate) fn hear_destination(
    input: Box<dyn Read + Send>,
    control: Arc<dyn Control>,
    own: Hello,
    signs: Arc<Signs>,
    arrived: &Arrived,
) -> io::Result<Ear<FromDestination>> {
    let (bytes, spoke) = (arrived.bytes.clone(), arrived.spoke.clone());
    let take = move |kind, payload: &mut Vec<u8>| {
        let message = FromDestination::decode(kind, payload)?;
        Ok(match message {
            // Never queued: a peer that floods them cannot fill the queue.
            FromDestination::Alive => None,
            FromDestination::Progress { stream_bytes } => {
                bytes.store(stream_bytes, Ordering::Release);
                None
            }
            FromDestination::Synced { stream_bytes, .. } => {
                bytes.store(stream_bytes, Ordering::Release);
                Some(message)
            }
            other => Some(other),
        })
    };
    let before = move |heard: &Heard<FromDestination>| {
        let ends = match heard {
            Heard::Hello(_) => false,
            Heard::NoAgreement(_) | Heard::Lost(_) => true,
            Heard::Frame(message) => {
                matches!(
                    message,
                    FromDestination::Refused { .. } | FromDestination::RunFailed { .. }
                )
            }
        };
        if ends {
            spoke.store(true, Ordering::Release);
        }
    };
    Ear::start(input, control, own, signs, take, before)
}
