//! A relay between two hosts that cuts the connection at a chosen place.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Where it cuts.
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

fn pump(mut from: TcpStream, mut to: TcpStream, cut: Cut, most: u64, passed: &AtomicU64) {
    let (mut seen, mut greeted) = (Vec::new(), false);
    let mut buffer = [0; 65536];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        seen.extend_from_slice(&buffer[..count]);
        let (mut pass, mut end) = match cut {
            Cut::Frame(kind) => before_frame(&seen, &mut greeted, kind),
            _ => (seen.len(), false),
        };
        let room = most - passed.load(Ordering::Acquire);
        if pass as u64 >= room {
            (pass, end) = (room as usize, true);
        }
        if to.write_all(&seen[..pass]).is_err() {
            break;
        }
        passed.fetch_add(pass as u64, Ordering::AcqRel);
        seen.drain(..pass);
        if end {
            break;
        }
    }
    for stream in [&from, &to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

impl Relay {
    pub fn start(to: &str, cut: Cut) -> Self {
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
            let pair = (source, destination);
            let clones = || (pair.0.try_clone().unwrap(), pair.1.try_clone().unwrap());
            thread::scope(|scope| {
                let (source, destination) = clones();
                scope.spawn(|| pump(source, destination, cut, most_out, &out));
                let (source, destination) = clones();
                pump(destination, source, cut, most_back, &back);
            });
        });
        Self { address, sent, answered }
    }

    /// Bytes that have passed, from the source and from the destination.
    pub fn passed(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Acquire), self.answered.load(Ordering::Acquire))
    }
}
