//! A TLS session as two halves for two threads.
//!
//! One rustls connection does both directions, behind a lock that nobody holds while waiting for
//! the channel: the reader waits for cipher text with no lock at all, and takes the lock to decrypt
//! what has come; the writer takes it to encrypt, and writes the result holding only the writer's
//! own lock. The reader never waits for that one. So a full channel in one direction holds up
//! nobody in the other. What the reader finds that TLS itself must answer (a key update) goes out
//! with the next write, as RFC 8446 allows (section 4.6.3).

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::Connection;

use super::refusal;
use super::verifier::dns_names;
use crate::oneway::ended;
use crate::{Channel, Control};

/// Bytes that are encrypted and written at once: a slow channel is seen to move.
const CHUNK: usize = 64 * 1024;
/// Bytes of cipher text that are read at once.
const WIRE: usize = 64 * 1024;
/// How long the end waits to be said on a channel that takes nothing.
const LAST_WORD: Duration = Duration::from_millis(20);

/// Why a handshake ended.
#[derive(Debug)]
pub(super) enum Failed {
    /// TLS says no.
    Tls(rustls::Error),
    /// The channel failed.
    Io(io::Error),
    /// The peer went away.
    Closed,
    /// The peer wants TLS for something else.
    Protocol,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a thread that panicked has left is a session that fails its next check.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets reads and writes wait until then, and no longer.
pub(super) fn within(control: &dyn Control, deadline: Instant) -> Result<(), Failed> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Failed::Io(io::ErrorKind::TimedOut.into()));
    }
    control.set_read_timeout(Some(left))?;
    control.set_write_timeout(Some(left))?;
    Ok(())
}

/// Cipher text that has come and is not decrypted yet.
struct Wire {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Wire {
    fn new() -> Self {
        Self { bytes: vec![0; WIRE].into(), start: 0, end: 0 }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Reads once into the empty buffer; false at the end of the channel.
    fn fill(&mut self, from: &mut dyn Read) -> io::Result<bool> {
        loop {
            match from.read(&mut self.bytes) {
                Ok(count) => {
                    (self.start, self.end) = (0, count);
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Hands some of it to the connection, which looks at it.
    fn feed(&mut self, connection: &mut Connection) -> Result<(), Failed> {
        let taken = connection.read_tls(&mut &self.bytes[self.start..self.end])?;
        if taken == 0 {
            // TLS has seen its end.
            return Err(Failed::Closed);
        }
        self.start += taken;
        connection.process_new_packets().map_err(Failed::Tls)?;
        Ok(())
    }
}

/// The way out: cipher text leaves in the order in which it was made.
struct Out {
    writer: Box<dyn Write + Send>,
    wire: Vec<u8>,
    /// Set once cipher text was lost on its way: nothing can follow it.
    failed: Option<io::ErrorKind>,
}

impl Out {
    /// Takes all cipher text out of the connection.
    fn collect(&mut self, connection: &mut Connection) -> io::Result<()> {
        while connection.wants_write() {
            connection.write_tls(&mut self.wire)?;
        }
        Ok(())
    }

    /// Writes what was collected.
    fn push(&mut self) -> io::Result<()> {
        let written = self.writer.write_all(&self.wire).and_then(|()| self.writer.flush());
        self.wire.clear();
        if let Err(error) = &written {
            self.failed = Some(error.kind());
        }
        written
    }
}

/// A session that is about to begin.
pub(super) struct Session {
    reader: Box<dyn Read + Send>,
    wire: Wire,
    out: Out,
    connection: Connection,
    control: Arc<dyn Control>,
    peer: String,
    stays_here: bool,
}

impl Session {
    pub(super) fn new(channel: Channel, mut connection: Connection) -> Self {
        let Channel { reader, writer, control, peer, stays_here } = channel;
        // Everything is taken out as soon as it is put in.
        connection.set_buffer_limit(None);
        let out = Out { writer, wire: Vec::new(), failed: None };
        Self { reader, wire: Wire::new(), out, connection, control, peer, stays_here }
    }

    /// Exchanges messages until both sides have what they need, or one says why not.
    pub(super) fn shake_hands(&mut self, deadline: Instant) -> Result<(), Failed> {
        let shaken = self.exchange(deadline);
        if let Err(Failed::Tls(_)) = shaken {
            // The alert that tells the peer. It may be gone.
            let _ = self.out.collect(&mut self.connection).and_then(|()| self.out.push());
        }
        shaken
    }

    fn exchange(&mut self, deadline: Instant) -> Result<(), Failed> {
        loop {
            within(&*self.control, deadline)?;
            self.out.collect(&mut self.connection)?;
            self.out.push()?;
            if !self.connection.is_handshaking() {
                return Ok(self.control.set_read_timeout(None)?);
            }
            if !self.wire.fill(&mut self.reader)? {
                return Err(Failed::Closed);
            }
            while !self.wire.is_empty() && self.connection.is_handshaking() {
                self.wire.feed(&mut self.connection)?;
            }
        }
    }

    /// What the two sides want to speak.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    /// Who the peer is, by its address.
    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    /// The names in the certificate that the peer has shown and that was verified.
    pub(super) fn names(&self) -> Option<String> {
        dns_names(self.connection.peer_certificates()?.first()?)
    }

    /// Ends the channel.
    pub(super) fn end(&self) {
        self.control.shutdown();
    }

    /// The session as a channel.
    pub(super) fn into_channel(self, peer: String) -> Channel {
        let Self { reader, wire, out, connection, control, peer: _, stays_here } = self;
        let connection = Arc::new(Mutex::new(connection));
        let out = Arc::new(Mutex::new(out));
        let both = Both { connection, out, control };
        let channel = Channel::from_parts(
            Box::new(ReadHalf { reader, wire, over: false, both: both.clone() }),
            Box::new(WriteHalf(both.clone())),
            Arc::new(both),
            peer,
        );
        Channel { stays_here, ..channel }
    }
}

/// What the halves share.
#[derive(Clone)]
struct Both {
    connection: Arc<Mutex<Connection>>,
    out: Arc<Mutex<Out>>,
    control: Arc<dyn Control>,
}

impl Both {
    /// Sends what TLS itself has to say, if the writer is not at work.
    fn try_push(&self) {
        if let Ok(mut out) = self.out.try_lock() {
            let collected = out.collect(&mut lock(&self.connection));
            // It is a last word: who does not hear it sees the end.
            let _ = self.control.set_write_timeout(Some(LAST_WORD));
            let _ = collected.and_then(|()| out.push());
            out.failed.get_or_insert(io::ErrorKind::ConnectionAborted);
        }
    }
}

impl Control for Both {
    fn shutdown(&self) {
        lock(&self.connection).send_close_notify();
        self.try_push();
        self.control.shutdown();
    }

    fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.control.set_read_timeout(limit)
    }

    fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.control.set_write_timeout(limit)
    }

    fn wait_delivered(&self, limit: Duration) -> io::Result<()> {
        self.control.wait_delivered(limit)
    }
}

struct ReadHalf {
    reader: Box<dyn Read + Send>,
    wire: Wire,
    /// The channel has ended.
    over: bool,
    both: Both,
}

impl ReadHalf {
    /// Decrypts until something is there, or more must be read; `None` then.
    fn decrypt(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        let mut connection = lock(&self.both.connection);
        loop {
            match connection.reader().read(into) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Whoever ends a session in order says so inside it.
                Err(error) => return Err(io::Error::new(error.kind(), "the connection was cut")),
            }
            if self.wire.is_empty() {
                if !self.over {
                    return Ok(None);
                }
                // Makes the next read say how it ended.
                connection.read_tls(&mut io::empty())?;
                connection.process_new_packets().map_err(broken)?;
                continue;
            }
            match self.wire.feed(&mut connection) {
                Ok(()) => {}
                Err(Failed::Tls(error)) => {
                    drop(connection);
                    self.both.try_push();
                    return Err(broken(error));
                }
                Err(Failed::Io(error)) => return Err(error),
                Err(Failed::Closed | Failed::Protocol) => return Err(ended()),
            }
        }
    }
}

fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Broken(error))
}

/// A session that TLS has ended.
#[derive(Debug)]
pub(super) struct Broken(rustls::Error);

impl std::fmt::Display for Broken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&refusal::sentence(&self.0))
    }
}

impl std::error::Error for Broken {}

impl Read for ReadHalf {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(count) = self.decrypt(into)? {
                return Ok(count);
            }
            self.over = !self.wire.fill(&mut self.reader)?;
        }
    }
}

struct WriteHalf(Both);

impl Write for WriteHalf {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let mut out = lock(&self.0.out);
        if let Some(kind) = out.failed {
            return Err(kind.into());
        }
        let now = &from[..from.len().min(CHUNK)];
        {
            let mut connection = lock(&self.0.connection);
            connection.writer().write_all(now)?;
            out.collect(&mut connection)?;
        }
        out.push()?;
        Ok(now.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
