//! A channel that is cut, stalled, slowed or corrupted at a chosen byte.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use transport::{Channel, Control};

/// What goes wrong with the bytes of one direction. Offsets count from the first byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// The channel ends, both ways, after this many bytes have passed.
    pub cut_after: Option<u64>,
    /// After this many bytes nothing passes any more, and nothing ends.
    pub stall_after: Option<u64>,
    /// These bits of the byte at this offset are flipped.
    pub flip: Option<(u64, u8)>,
    /// No more than this many bytes pass in a second.
    pub bytes_per_second: Option<u64>,
    /// The limit above holds only from this byte on.
    pub slow_after: u64,
}

/// What goes wrong with a channel, seen from whoever holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// With what it sends.
    pub sent: Side,
    /// With what it gets.
    pub received: Side,
}

/// Bytes that have passed, whatever became of the channel.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
}

impl Traffic {
    /// Bytes sent by whoever holds the channel.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    /// Bytes that it got.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }
}

#[derive(Default)]
struct Ended {
    flag: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Ended {
    fn set(&self) {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.flag.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Waits until the channel was ended from outside.
    fn wait(&self) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.flag.load(Ordering::Acquire) {
            guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

struct FaultyControl {
    inner: Arc<dyn Control>,
    ended: Arc<Ended>,
}

impl Control for FaultyControl {
    fn shutdown(&self) {
        self.ended.set();
        self.inner.shutdown();
    }

    fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.inner.set_read_timeout(limit)
    }

    fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.inner.set_write_timeout(limit)
    }
}

struct Half<H> {
    inner: H,
    side: Side,
    passed: Arc<AtomicU64>,
    control: Arc<dyn Control>,
    ended: Arc<Ended>,
}

impl<H> Half<H> {
    /// How many of `wanted` bytes may pass now.
    fn admit(&self, wanted: usize) -> io::Result<usize> {
        let at = self.passed.load(Ordering::Acquire);
        let mut allowed = wanted as u64;
        if let Some(cut) = self.side.cut_after {
            if at >= cut {
                self.control.shutdown();
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            allowed = allowed.min(cut - at);
        }
        if let Some(stall) = self.side.stall_after {
            if at >= stall {
                self.ended.wait();
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            allowed = allowed.min(stall - at);
        }
        if let Some(rate) = self.side.bytes_per_second
            && at >= self.side.slow_after
        {
            allowed = allowed.min((rate / 50).max(1));
            thread::sleep(Duration::from_secs_f64(allowed as f64 / rate as f64));
        }
        Ok(usize::try_from(allowed).unwrap_or(usize::MAX))
    }

    /// Where in the next `length` bytes a byte is flipped, and how.
    fn flipped(&self, length: usize) -> Option<(usize, u8)> {
        let (offset, mask) = self.side.flip?;
        let within = offset.checked_sub(self.passed.load(Ordering::Acquire))?;
        let within = usize::try_from(within).ok()?;
        (within < length).then_some((within, mask))
    }

    fn pass(&self, length: usize) {
        let passed = self.passed.fetch_add(length as u64, Ordering::AcqRel) + length as u64;
        if self.side.cut_after.is_some_and(|cut| passed >= cut) {
            self.control.shutdown();
        }
    }
}

impl<R: Read> Read for Half<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let allowed = self.admit(into.len())?;
        let count = self.inner.read(&mut into[..allowed])?;
        if let Some((at, mask)) = self.flipped(count) {
            into[at] ^= mask;
        }
        self.pass(count);
        Ok(count)
    }
}

impl<W: Write> Write for Half<W> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let allowed = self.admit(from.len())?;
        let count = match self.flipped(allowed) {
            Some((at, mask)) => {
                let mut changed = from[..allowed].to_vec();
                changed[at] ^= mask;
                self.inner.write(&changed)?
            }
            None => self.inner.write(&from[..allowed])?,
        };
        self.pass(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Puts faults on a channel. The counters tell how far each direction came.
pub fn faulty(channel: Channel, faults: Faults) -> (Channel, Traffic) {
    let traffic = Traffic::default();
    let ended = Arc::new(Ended::default());
    let control: Arc<dyn Control> =
        Arc::new(FaultyControl { inner: channel.control, ended: ended.clone() });
    let reader = Half {
        inner: channel.reader,
        side: faults.received,
        passed: traffic.received.clone(),
        control: control.clone(),
        ended: ended.clone(),
    };
    let writer = Half {
        inner: channel.writer,
        side: faults.sent,
        passed: traffic.sent.clone(),
        control: control.clone(),
        ended,
    };
    (Channel::from_parts(Box::new(reader), Box::new(writer), control, channel.peer), traffic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(sent: Side) -> (Channel, Channel, Traffic) {
        let (left, right) = Channel::pair().unwrap();
        let (left, traffic) = faulty(left, Faults { sent, ..Faults::default() });
        (left, right, traffic)
    }

    #[test]
    fn a_cut_lets_exactly_its_bytes_pass() {
        for cut in 0..5 {
            let (mut left, mut right, traffic) =
                pair(Side { cut_after: Some(cut), ..Side::default() });
            assert!(
                left.writer.write_all(b"12345").and_then(|()| left.writer.write_all(b"6")).is_err()
            );
            let mut got = Vec::new();
            right.reader.read_to_end(&mut got).unwrap();
            assert_eq!(got, &b"12345"[..cut as usize]);
            assert_eq!(traffic.sent(), cut);
        }
    }

    #[test]
    fn one_byte_is_flipped_wherever_the_writes_are_split() {
        let (mut left, mut right, _) = pair(Side { flip: Some((3, 0x81)), ..Side::default() });
        left.writer.write_all(&[0; 2]).unwrap();
        left.writer.write_all(&[0; 4]).unwrap();
        let mut got = [9; 6];
        right.reader.read_exact(&mut got).unwrap();
        assert_eq!(got, [0, 0, 0, 0x81, 0, 0]);
    }

    #[test]
    fn a_stall_ends_with_a_shutdown() {
        let (mut left, _right, traffic) = pair(Side { stall_after: Some(4), ..Side::default() });
        let control = left.control.clone();
        let blocked = thread::spawn(move || left.writer.write_all(&[0; 8]).is_err());
        while traffic.sent() < 4 {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(20));
        assert!(!blocked.is_finished());
        control.shutdown();
        assert!(blocked.join().unwrap());
    }
}
