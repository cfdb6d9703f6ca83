//! A relay between two hosts that cuts, resets or stalls the connection at a chosen place.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Where it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Before the first frame of this type (docs/migration.md).
    Frame(u8),
    /// After so many bytes from the source.
    Sent(u64),
    /// After so many bytes from the destination.
    Answered(u64),
    /// Nowhere.
    Never,
}

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Both ways end, as if each side had ended it.
    Cut,
    /// Both ends are reset: what they have not read may be lost.
    Reset,
    /// Nothing passes any more, either way, and nothing ends.
    Stall,
}

/// Relays one connection to `tcp:HOST:PORT`.
pub struct Relay {
    /// Where the source is to connect.
    pub address: String,
    sent: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
}

const HELLO: usize = 32;
const HEADER: usize = 5;
const TRAILER: usize = 4;

/// How many bytes of what was collected may pass, and whether the end is reached before the rest.
fn before_frame(seen: &[u8], greeted: &mut bool, kind: u8) -> (usize, bool) {
    let mut at = 0;
    loop {
        let rest = &seen[at..];
        if !*greeted {
            if rest.len() < HELLO {
                return (at, false);
            }
            *greeted = true;
            at += HELLO;
            continue;
        }
        if rest.len() < HEADER {
            return (at, false);
        }
        if rest[0] == kind {
            return (at, true);
        }
        let length = rest[1..HEADER].iter().fold(0usize, |n, byte| n << 8 | usize::from(*byte));
        let whole = HEADER + length + TRAILER;
        if rest.len() < whole {
            return (at, false);
        }
        at += whole;
    }
}

/// One direction of the relay.
struct Pump {
    from: TcpStream,
    to: TcpStream,
    cut: Cut,
    fault: Fault,
    most: u64,
    passed: Arc<AtomicU64>,
    /// Nothing passes any more, in either direction.
    stalled: Arc<AtomicBool>,
}

impl Pump {
    fn run(mut self) {
        let (mut seen, mut greeted) = (Vec::new(), false);
        let mut buffer = [0; 65536];
        let failed = loop {
            let count = match self.from.read(&mut buffer) {
                Ok(0) | Err(_) => break false,
                Ok(count) => count,
            };
            seen.extend_from_slice(&buffer[..count]);
            let (mut pass, mut end) = match self.cut {
                Cut::Frame(kind) => before_frame(&seen, &mut greeted, kind),
                _ => (seen.len(), false),
            };
            let room = self.most - self.passed.load(Ordering::Acquire);
            if pass as u64 >= room {
                (pass, end) = (room as usize, true);
            }
            if self.stalled.load(Ordering::Acquire) {
                seen.clear();
                continue;
            }
            if self.to.write_all(&seen[..pass]).is_err() {
                break false;
            }
            self.passed.fetch_add(pass as u64, Ordering::AcqRel);
            seen.drain(..pass);
            match (end, self.fault) {
                (true, Fault::Stall) => self.stalled.store(true, Ordering::Release),
                (true, Fault::Cut | Fault::Reset) => break true,
                (false, _) => {}
            }
        };
        for stream in [&self.from, &self.to] {
            if failed && self.fault == Fault::Reset {
                // Disconnecting resets (connect(2), tcp(7)).
                let _ = rustix::net::connect_unspec(stream);
            }
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Relay {
    pub fn start(to: &str, cut: Cut, fault: Fault) -> Self {
        let to = to.strip_prefix("tcp:").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tcp:{}", listener.local_addr().unwrap());
        let (sent, answered) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let (out, back) = (sent.clone(), answered.clone());
        thread::spawn(move || {
            let Ok((source, _)) = listener.accept() else { return };
            let Ok(destination) = TcpStream::connect(&to) else { return };
            let (mut most_out, mut most_back) = (u64::MAX, u64::MAX);
            match cut {
                Cut::Sent(bytes) => most_out = bytes,
                Cut::Answered(bytes) => most_back = bytes,
                Cut::Frame(_) | Cut::Never => {}
            }
            let stalled = Arc::<AtomicBool>::default();
            let pump = |from: &TcpStream, to: &TcpStream, most, passed| {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                Pump { from, to, cut, fault, most, passed, stalled: stalled.clone() }
            };
            let there = pump(&source, &destination, most_out, out);
            let back = pump(&destination, &source, most_back, back);
            thread::scope(|scope| {
                scope.spawn(|| there.run());
                back.run();
            });
        });
        Self { address, sent, answered }
    }

    /// Bytes that have passed, from the source and from the destination.
    pub fn passed(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Acquire), self.answered.load(Ordering::Acquire))
    }
}
