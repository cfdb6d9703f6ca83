//! The way in through a one-way pipe: a complete stream, checked, is the grant.

use std::io::{self, Read};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use transport::{Control, Intake, TransportError};

use super::link::DestinationLink;
use crate::cancel::Cancel;
use crate::error::Failure;
use crate::handover::{Digest, OwnerId};
use crate::queue::{Queue, QueueError};
use crate::settings::Settings;

/// Bytes that are read at once.
const CHUNK: usize = 256 * 1024;
/// Buffers that are read and not yet looked at.
const DEPTH: usize = 8;
/// How often a wait looks whether the operator wants it to end.
const LOOK: Duration = Duration::from_millis(50);
/// For ever, for a thread that is ended through its queue.
const IDLE: Duration = Duration::from_secs(3600 * 24);
const DOING: &str = "receiving the state stream";

enum Piece {
    Bytes(Vec<u8>),
    /// The end was read, and whoever wrote has ended well, or not.
    End(Result<(), TransportError>),
    Failed(io::Error),
}

pub(super) struct PipeLink {
    queue: Queue<Piece>,
    spare: Queue<Vec<u8>>,
    control: Arc<dyn Control>,
    thread: Option<JoinHandle<()>>,
    cancel: Cancel,
    limit: Duration,
    ended: bool,
}

impl PipeLink {
    pub(super) fn new(
        intake: Box<dyn Intake>,
        settings: &Settings,
        cancel: &Cancel,
    ) -> Result<Self, Failure> {
        let control = intake.control();
        let (queue, spare) = (Queue::new(DEPTH), Queue::new(DEPTH + 2));
        let (into, emptied) = (queue.clone(), spare.clone());
        let thread = std::thread::Builder::new()
            .name("migration-read".to_owned())
            .spawn(move || pump(intake, &into, &emptied))
            .map_err(Failure::Channel)?;
        Ok(Self {
            queue,
            spare,
            control,
            thread: Some(thread),
            cancel: cancel.clone(),
            limit: settings.io_timeout,
            ended: false,
        })
    }
}

fn pump(mut intake: Box<dyn Intake>, into: &Queue<Piece>, emptied: &Queue<Vec<u8>>) {
    loop {
        let mut buffer = emptied.pop(Duration::ZERO).unwrap_or_default();
        buffer.resize(CHUNK, 0);
        let piece = match intake.read(&mut buffer) {
            Ok(0) => Piece::End(intake.finish()),
            Ok(count) => {
                buffer.truncate(count);
                Piece::Bytes(buffer)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Piece::Failed(error),
        };
        let last = !matches!(piece, Piece::Bytes(_));
        if into.push(piece, IDLE).is_err() || last {
            return;
        }
    }
}

impl DestinationLink for PipeLink {
    fn next_chunk(
        &mut self,
        chunk: &mut Vec<u8>,
        _placed: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let mut waited = Duration::ZERO;
        loop {
            if self.ended {
                return Ok(false);
            }
            if self.cancel.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            match self.queue.pop(LOOK) {
                Ok(Piece::Bytes(bytes)) => {
                    let used = std::mem::replace(chunk, bytes);
                    // No room among the spare buffers only means that there are enough.
                    let _ = self.spare.push(used, Duration::ZERO);
                    return Ok(true);
                }
                Ok(Piece::End(result)) => {
                    self.ended = true;
                    result?;
                }
                Ok(Piece::Failed(error)) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(Failure::TimedOut { doing: DOING, limit: self.limit });
                }
                Ok(Piece::Failed(error)) => return Err(Failure::Channel(error)),
                Err(QueueError::Closed) => {
                    return Err(Failure::Channel(io::ErrorKind::BrokenPipe.into()));
                }
                Err(QueueError::TimedOut) => {
                    waited += LOOK;
                    if waited >= self.limit {
                        return Err(Failure::TimedOut { doing: DOING, limit: self.limit });
                    }
                }
            }
        }
    }

    fn ready(
        &mut self,
        own: Digest,
        me: &OwnerId,
        _shared: bool,
    ) -> Result<(Digest, OwnerId), Failure> {
        if self.cancel.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        Ok((own, me.clone()))
    }

    fn finish(&mut self) {
        self.queue.abandon();
        self.control.shutdown();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has closed the queue, which was heard of.
            let _ = thread.join();
        }
    }
}
