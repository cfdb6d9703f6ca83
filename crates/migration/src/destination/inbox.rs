//! Bytes of several channels, each read by a thread of its own, waiting to be asked for.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use transport::{Channel, Control, Intake, TransportError};

use crate::foreign::Callers;
use crate::migratable::Cause;

/// Bytes that are read at once.
const CHUNK: usize = 256 * 1024;
/// Buffers of one channel that are read and not yet asked for.
const DEPTH: usize = 8;
/// Channels at most.
const MAX_CHANNELS: usize = 256;

/// What was heard on a channel.
pub(super) enum Heard {
    Bytes(Vec<u8>),
    /// The end, and whether whoever wrote has ended well.
    End(Result<(), TransportError>),
    Failed(io::Error),
    /// No further channel can be had.
    Deaf(Cause),
}

/// Where the bytes of a channel come from.
pub(super) enum Way {
    Channel(Box<dyn Read + Send>),
    Pipe(Box<dyn Intake>),
}

impl Way {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Channel(reader) => reader.read(into),
            Self::Pipe(intake) => intake.read(into),
        }
    }

    fn finish(&mut self) -> Result<(), TransportError> {
        match self {
            Self::Channel(_) => Ok(()),
            Self::Pipe(intake) => intake.finish(),
        }
    }
}

#[derive(Default)]
struct State {
    waiting: Vec<VecDeque<Heard>>,
    controls: Vec<Arc<dyn Control>>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that hold the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something in, once there is room; false if nobody asks any more.
    fn push(&self, channel: usize, heard: Heard) -> bool {
        let mut state = self.lock();
        while !state.closed && state.waiting[channel].len() >= DEPTH {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return false;
        }
        state.waiting[channel].push_back(heard);
        self.changed.notify_all();
        true
    }
}

/// The receiving end of all channels.
pub(super) struct Inbox {
    shared: Arc<Shared>,
}

impl Inbox {
    /// Starts to read the first channel, and to wait for further ones if there may be any.
    pub(super) fn start(
        first: Way,
        control: Arc<dyn Control>,
        callers: Option<Callers>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        add(&shared, first, control)?;
        if let Some(callers) = callers {
            let shared = shared.clone();
            thread::Builder::new()
                .name("migration-call".to_owned())
                .spawn(move || wait_for(callers, &shared))?;
        }
        Ok(Self { shared })
    }

    /// What came first on a channel that is wanted, if anything comes within the limit.
    pub(super) fn pop(
        &self,
        limit: Duration,
        wanted: impl Fn(usize) -> bool,
    ) -> Option<(usize, Heard)> {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        loop {
            let mut channels = state.waiting.iter_mut().enumerate();
            let found = channels.find_map(|(channel, waiting)| {
                let heard = if wanted(channel) { waiting.pop_front() } else { None };
                heard.map(|heard| (channel, heard))
            });
            if found.is_some() {
                self.shared.changed.notify_all();
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends all channels.
    pub(super) fn end(&self) {
        self.shared.stop.store(true, Ordering::Release);
        let mut state = self.shared.lock();
        state.closed = true;
        state.controls.iter().for_each(|control| control.shutdown());
        self.shared.changed.notify_all();
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.end();
    }
}

fn add(shared: &Arc<Shared>, way: Way, control: Arc<dyn Control>) -> io::Result<()> {
    let mut state = shared.lock();
    let channel = state.waiting.len();
    if state.closed || channel == MAX_CHANNELS {
        control.shutdown();
        return Ok(());
    }
    state.waiting.push(VecDeque::new());
    state.controls.push(control);
    drop(state);
    let shared = shared.clone();
    thread::Builder::new()
        .name("migration-read".to_owned())
        .spawn(move || pump(way, channel, &shared))?;
    Ok(())
}

fn pump(mut way: Way, channel: usize, shared: &Shared) {
    loop {
        let mut buffer = vec![0; CHUNK];
        let heard = match way.read(&mut buffer) {
            Ok(0) => Heard::End(way.finish()),
            Ok(count) => {
                buffer.truncate(count);
                Heard::Bytes(buffer)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Heard::Failed(error),
        };
        let last = !matches!(heard, Heard::Bytes(_));
        if !shared.push(channel, heard) || last {
            return;
        }
    }
}

fn wait_for(mut callers: Callers, shared: &Arc<Shared>) {
    while !shared.stop.load(Ordering::Acquire) {
        let added = callers(&shared.stop).and_then(|channel| {
            let Channel { reader, writer: _, control, peer: _, stays_here: _ } = channel;
            Ok(add(shared, Way::Channel(reader), control)?)
        });
        if let Err(error) = added {
            if !shared.stop.load(Ordering::Acquire) {
                shared.push(0, Heard::Deaf(error));
            }
            return;
        }
    }
}
