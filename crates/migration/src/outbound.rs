//! Bytes on their way out. One thread fills frames, a second one checksums and writes them.

use crate::time::Instant;
use crate::time::JoinHandle;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::bandwidth::Bucket;
use crate::cancel::Cancel;
use crate::envelope::StreamFrame;
use crate::queue::{Queue, QueueError};

/// Bytes of stream in one frame, and in one write.
const CHUNK: usize = 256 * 1024;
/// Frames that are filled and not yet written: enough to keep both threads busy.
const DEPTH: usize = 8;
/// How often a blocked sender looks whether somebody wants it to end.
const LOOK: Duration = Duration::from_millis(20);
/// How long the writing thread waits for work before it looks again.
const IDLE: Duration = Duration::from_secs(3600);
/// With a cap on bandwidth, a frame takes no longer than this part of a second.
const CAPPED_FRAMES_A_SECOND: u64 = 20;
const LEAST_CHUNK: u64 = 4096;

enum Item {
    Stream(StreamFrame),
    Message(Vec<u8>),
}

/// How the bytes look on the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// In the frames of the envelope.
    Envelope,
    /// As they are.
    Bare,
}

/// Why nothing more goes out.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The channel failed.
    Io(io::Error),
    /// The channel took nothing for this long.
    TimedOut(Duration),
    /// The guest stands still for as long as it may.
    Overdue,
    /// Somebody wants the migration to end.
    Interrupted,
}

struct Written {
    bytes: AtomicU64,
    error: Mutex<Option<io::Error>>,
}

impl Written {
    fn check(&self) -> Result<(), SendError> {
        match self.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            None => Ok(()),
            Some(error) => Err(SendError::Io(error)),
        }
    }
}

/// A wait that lasts as long as the channel moves.
struct Patience {
    seen: u64,
    since: Instant,
}

impl Patience {
    fn new(written: &Written) -> Self {
        Self { seen: written.bytes.load(Ordering::Acquire), since: Instant::now() }
    }

    fn look(
        &mut self,
        written: &Written,
        limit: Duration,
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        let now = Instant::now();
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Err(SendError::Overdue);
        }
        let seen = written.bytes.load(Ordering::Acquire);
        if seen != self.seen {
            (self.seen, self.since) = (seen, now);
        } else if now.duration_since(self.since) > limit {
            return Err(SendError::TimedOut(limit));
        }
        Ok(())
    }
}

/// What makes a blocked sender give up: the operator, or a message from the peer.
pub(crate) struct Interrupt {
    pub(crate) cancel: Cancel,
    /// Set by the thread that reads what the peer says.
    pub(crate) peer_spoke: Arc<AtomicBool>,
    /// Set once ownership has been given up: nothing interrupts any more.
    pub(crate) committed: Arc<AtomicBool>,
}

impl Interrupt {
    pub(crate) fn wanted(&self) -> bool {
        !self.committed.load(Ordering::Acquire)
            && (self.cancel.is_cancelled() || self.peer_spoke.load(Ordering::Acquire))
    }
}

/// Sends a frame when nothing was sent for a while.
pub(crate) struct Beat {
    queue: Queue<Item>,
    written: Arc<Written>,
    seen: u64,
}

impl Beat {
    /// Sends the frame, if nothing was sent since the last call and nothing waits to be.
    pub(crate) fn give(&mut self, frame: &[u8]) {
        let seen = self.written.bytes.load(Ordering::Acquire);
        if seen == std::mem::replace(&mut self.seen, seen) && self.queue.is_empty() {
            // A queue that has just been filled, or closed, needs no sign of life.
            let _ = self.queue.push(Item::Message(frame.to_vec()), Duration::ZERO);
        }
    }
}

/// The sending end of a channel. Stream bytes go in through [`Write`].
pub(crate) struct Outbound<W> {
    queue: Queue<Item>,
    spare: Queue<StreamFrame>,
    filling: StreamFrame,
    chunk: usize,
    written: Arc<Written>,
    thread: Option<JoinHandle<W>>,
    interrupt: Interrupt,
    limit: Duration,
    deadline: Option<Instant>,
    stream_bytes: u64,
    failed: Option<SendError>,
}

impl<W: Write + Send + 'static> Outbound<W> {
    /// Starts the writing thread.
    pub(crate) fn start(
        output: W,
        framing: Framing,
        bandwidth: Option<u64>,
        limit: Duration,
        interrupt: Interrupt,
    ) -> io::Result<Self> {
        let queue = Queue::new(DEPTH);
        let spare = Queue::new(DEPTH + 2);
        let written = Arc::new(Written { bytes: AtomicU64::new(0), error: Mutex::new(None) });
        let mut chunk = CHUNK;
        if let Some(rate) = bandwidth {
            chunk = chunk.min((rate / CAPPED_FRAMES_A_SECOND).max(LEAST_CHUNK) as usize);
        }
        let writer = Writer {
            output,
            framing,
            bucket: bandwidth.map(Bucket::new),
            queue: queue.clone(),
            spare: spare.clone(),
            written: written.clone(),
        };
        let thread = crate::time::spawn("migration-send", move || writer.run())?;
        Ok(Self {
            queue,
            spare,
            filling: StreamFrame::default(),
            chunk,
            written,
            thread: Some(thread),
            interrupt,
            limit,
            deadline: None,
            stream_bytes: 0,
            failed: None,
        })
    }

    /// What gives signs of life in between.
    pub(crate) fn beat(&self) -> Beat {
        Beat { queue: self.queue.clone(), written: self.written.clone(), seen: 0 }
    }

    /// Keeps frames within what the peer takes. Called before the first stream byte.
    pub(crate) fn set_max_frame(&mut self, max_frame: u32) {
        self.chunk = self.chunk.min(max_frame as usize);
    }

    /// Bytes of payload that a frame is to have at most.
    pub(crate) fn chunk(&self) -> usize {
        self.chunk
    }

    /// No call waits longer than until then.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Takes back the last byte that was handed in.
    pub(crate) fn hold_back_last(&mut self) -> Option<u8> {
        self.filling.pop()
    }

    /// Bytes of stream that were handed in.
    pub(crate) fn stream_bytes(&self) -> u64 {
        self.stream_bytes
    }

    /// True if the operator or the peer wants the migration to end.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupt.wanted()
    }

    /// Why the last call failed. Asked once.
    pub(crate) fn take_failure(&mut self) -> Option<SendError> {
        self.failed.take()
    }

    fn push(&mut self, item: Item) -> Result<(), SendError> {
        self.push_by(item, Queue::push)
    }

    fn push_by(
        &mut self,
        mut item: Item,
        push: impl Fn(&Queue<Item>, Item, Duration) -> Result<(), (Item, QueueError)>,
    ) -> Result<(), SendError> {
        let mut patience = Patience::new(&self.written);
        loop {
            if self.interrupt.wanted() {
                return Err(SendError::Interrupted);
            }
            match push(&self.queue, item, LOOK) {
                Ok(()) => return Ok(()),
                Err((_, QueueError::Closed)) => return Err(self.error()),
                Err((back, QueueError::TimedOut)) => item = back,
            }
            patience.look(&self.written, self.limit, self.deadline)?;
        }
    }

    fn error(&self) -> SendError {
        match self.written.check() {
            Err(error) => error,
            Ok(()) => SendError::Io(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn push_filled(&mut self) -> Result<(), SendError> {
        if self.filling.is_empty() {
            return Ok(());
        }
        let mut next = self.spare.pop(Duration::ZERO).unwrap_or_default();
        next.clear();
        let filled = std::mem::replace(&mut self.filling, next);
        self.push(Item::Stream(filled))
    }

    /// Sends the stream bytes that wait to fill a frame.
    pub(crate) fn push_out(&mut self) -> Result<(), SendError> {
        self.push_filled()
    }

    /// Sends the first bytes, whoever wants the migration to end: without a hello nothing that is
    /// said later is understood.
    pub(crate) fn begin(&self, hello: Vec<u8>) {
        self.queue.replace(Item::Message(hello), |_| true);
    }

    /// Sends a message behind the stream bytes so far. `frame` is a whole frame.
    pub(crate) fn send(&mut self, frame: Vec<u8>) -> Result<(), SendError> {
        self.push_filled()?;
        self.push(Item::Message(frame))
    }

    /// Sends a message before everything that is not written yet. `frame` is a whole frame.
    pub(crate) fn send_first(&mut self, frame: Vec<u8>) -> Result<(), SendError> {
        self.push_by(Item::Message(frame), Queue::push_first)
    }

    /// Sends a short message and does not wait for room.
    pub(crate) fn send_at_once(&self, frame: Vec<u8>) {
        self.queue.replace(Item::Message(frame), |_| true);
    }

    /// Sends a last message in place of all stream bytes that were not written yet.
    pub(crate) fn send_instead(&mut self, frame: Vec<u8>) {
        self.filling.clear();
        self.queue.replace(Item::Message(frame), |item| matches!(item, Item::Message(_)));
    }

    /// Waits until everything is written.
    pub(crate) fn drain(&mut self) -> Result<(), SendError> {
        let mut patience = Patience::new(&self.written);
        loop {
            match self.queue.drain(LOOK) {
                Ok(()) => return self.written.check(),
                Err(QueueError::Closed) => return Err(self.error()),
                Err(QueueError::TimedOut) => {}
            }
            if self.interrupt.wanted() {
                return Err(SendError::Interrupted);
            }
            patience.look(&self.written, self.limit, self.deadline)?;
        }
    }

    /// Waits for what was sent to be written, whoever wants the migration to end; true if it was.
    pub(crate) fn settle(&mut self, limit: Duration) -> bool {
        self.queue.drain(limit).is_ok()
    }

    /// Ends the writing thread and gives the channel back, once. Whoever calls it has made sure
    /// that the thread is not blocked in a write.
    pub(crate) fn end(&mut self) -> Option<W> {
        self.queue.abandon();
        self.thread.take().and_then(|thread| thread.join().ok())
    }
}

impl<W: Write + Send + 'static> Write for Outbound<W> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        // A full frame leaves when the next byte comes, so that the last byte is always at hand.
        if self.filling.len() >= self.chunk
            && let Err(error) = self.push_filled()
        {
            self.failed = Some(error);
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let room = self.chunk - self.filling.len();
        let now = &from[..from.len().min(room)];
        self.filling.extend(now);
        self.stream_bytes += now.len() as u64;
        Ok(now.len())
    }

    /// Does nothing: when bytes leave is decided by [`Outbound::push_out`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W> Drop for Outbound<W> {
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

struct Writer<W> {
    output: W,
    framing: Framing,
    bucket: Option<Bucket>,
    queue: Queue<Item>,
    spare: Queue<StreamFrame>,
    written: Arc<Written>,
}

impl<W: Write> Writer<W> {
    fn run(mut self) -> W {
        loop {
            match self.queue.pop(IDLE) {
                Ok(item) => {
                    if let Err(error) = self.write(item) {
                        *self.written.error.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some(error);
                        self.queue.abandon();
                        return self.output;
                    }
                }
                Err(QueueError::TimedOut) => {}
                Err(QueueError::Closed) => return self.output,
            }
        }
    }

    fn write(&mut self, item: Item) -> io::Result<()> {
        let bytes = match item {
            Item::Message(frame) => {
                self.write_counted(&frame)?;
                frame.len()
            }
            Item::Stream(mut frame) => {
                let bytes = match self.framing {
                    Framing::Envelope => frame.finish(),
                    Framing::Bare => frame.payload(),
                };
                let length = bytes.len();
                self.write_counted(bytes)?;
                // No room among the spare frames only means that there are enough.
                let _ = self.spare.push(frame, Duration::ZERO);
                length
            }
        };
        self.output.flush()?;
        if let Some(bucket) = &mut self.bucket {
            let wait = bucket.after(bytes, Instant::now());
            self.queue.closed_within(wait);
        }
        Ok(())
    }

    /// Writes all, and counts each part at once, so that a slow channel is seen to move.
    fn write_counted(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.output.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.written.bytes.fetch_add(count as u64, Ordering::AcqRel);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
