//! A channel in memory, on which something happens after a chosen byte.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use transport::{Channel, Control};

use crate::time::Changed;

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Both directions end; what was sent before arrives.
    Cut,
    /// Both directions end; what was not read yet is lost.
    Reset,
    /// Nothing passes in either direction any more, and nothing ends.
    Stall,
}

/// Where it happens: after so many bytes from the source, or from the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) from_source: bool,
    pub(super) after: u64,
    pub(super) fault: Fault,
}

#[derive(Default)]
struct Direction {
    bytes: VecDeque<u8>,
    passed: u64,
}

#[derive(Default)]
struct State {
    /// What the source sends, and what the destination sends.
    directions: [Direction; 2],
    ended: bool,
    reset: bool,
    stalled: bool,
    /// An end was shut down by its holder, who reads no more.
    shut: [bool; 2],
}

struct Wire {
    state: Mutex<State>,
    changed: Changed,
    place: Option<Place>,
}

/// For ever, for a thread that is woken by a change.
const IDLE: Duration = Duration::from_secs(3600 * 24 * 365);

impl Wire {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct End {
    wire: Arc<Wire>,
    /// 0 for the source's end, 1 for the destination's.
    side: usize,
}

impl Read for End {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.wire.lock();
        loop {
            if state.shut[self.side] {
                return Ok(0);
            }
            if state.reset {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let from = &mut state.directions[1 - self.side].bytes;
            if !from.is_empty() {
                return from.read(into);
            }
            if state.ended || state.shut[1 - self.side] {
                return Ok(0);
            }
            state = self.wire.changed.wait(|| self.wire.lock(), state, IDLE);
        }
    }
}

impl Write for End {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let mut state = self.wire.lock();
        if state.ended || state.shut[0] || state.shut[1] {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if state.stalled {
            // As far as the sender knows it is on its way.
            return Ok(from.len());
        }
        let place = self.wire.place.filter(|place| place.from_source == (self.side == 0));
        let direction = &mut state.directions[self.side];
        let room = place.map_or(u64::MAX, |place| place.after - direction.passed);
        let count = from.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        direction.bytes.extend(&from[..count]);
        direction.passed += count as u64;
        if let Some(place) = place.filter(|place| direction.passed >= place.after) {
            match place.fault {
                Fault::Cut => state.ended = true,
                Fault::Reset => {
                    state.ended = true;
                    state.reset = true;
                    state.directions.iter_mut().for_each(|side| side.bytes.clear());
                }
                Fault::Stall => state.stalled = true,
            }
        }
        drop(state);
        self.wire.changed.notify_all();
        Ok(from.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Control for End {
    fn shutdown(&self) {
        self.wire.lock().shut[self.side] = true;
        self.wire.changed.notify_all();
    }

    fn set_read_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn set_write_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

/// How many bytes have passed.
#[derive(Clone)]
pub(super) struct Passed(Arc<Wire>);

impl Passed {
    /// From the source, and from the destination.
    pub(super) fn bytes(&self) -> [u64; 2] {
        let state = self.0.lock();
        [state.directions[0].passed, state.directions[1].passed]
    }
}

/// The two ends of a connection: the source's and the destination's.
pub(super) fn pair(place: Option<Place>) -> (Channel, Channel, Passed) {
    let wire = Arc::new(Wire { state: Mutex::default(), changed: Changed::default(), place });
    if place.is_some_and(|place| place.after == 0) {
        // Nothing passes at all: the first byte finds it so.
        let mut state = wire.lock();
        let fault = place.map(|place| place.fault);
        state.ended = fault != Some(Fault::Stall);
        state.reset = fault == Some(Fault::Reset);
        state.stalled = fault == Some(Fault::Stall);
    }
    let channel = |side| {
        let end = || End { wire: wire.clone(), side };
        Channel::from_parts(Box::new(end()), Box::new(end()), Arc::new(end()), "simulated")
    };
    (channel(0), channel(1), Passed(wire.clone()))
}
