//! Two-way channels.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// A hold on a channel from any thread, whoever is reading or writing it.
pub trait Control: Send + Sync {
    /// Ends the channel: every blocked call returns at once and every later one fails or reads
    /// the end. Calling it again changes nothing.
    fn shutdown(&self);

    /// How long a read waits for its first byte before it fails with
    /// [`io::ErrorKind::TimedOut`]; `None` waits for ever.
    ///
    /// # Errors
    /// If the operating system refuses.
    fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()>;

    /// How long a write waits for room before it fails with [`io::ErrorKind::TimedOut`]; `None`
    /// waits for ever.
    ///
    /// # Errors
    /// If the operating system refuses.
    fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()>;

    /// Comes back when everything that was written has reached the peer's host, as far as the
    /// channel can tell: a peer that ends a connection without having taken it in is noticed.
    ///
    /// # Errors
    /// If it has not, within the limit.
    fn wait_delivered(&self, limit: Duration) -> io::Result<()> {
        let _ = limit;
        Ok(())
    }
}

/// A two-way channel, as two halves that can be used on two threads. Neither half is buffered.
pub struct Channel {
    /// What the peer sends.
    pub reader: Box<dyn Read + Send>,
    /// What is sent to the peer.
    pub writer: Box<dyn Write + Send>,
    /// The hold on both halves.
    pub control: Arc<dyn Control>,
    /// Who the peer is, for messages to the operator.
    pub peer: String,
    /// The bytes are known to stay on this host: a Unix-domain socket, or a loopback address.
    pub stays_here: bool,
}

impl Channel {
    /// A channel out of its parts: how encryption, and tests, put their own halves in. Where its
    /// bytes go is not known.
    pub fn from_parts(
        reader: Box<dyn Read + Send>,
        writer: Box<dyn Write + Send>,
        control: Arc<dyn Control>,
        peer: impl Into<String>,
    ) -> Self {
        Self { reader, writer, control, peer: peer.into(), stays_here: false }
    }

    /// A channel over a connected TCP socket. Small messages are sent at once.
    ///
    /// # Errors
    /// If the socket's options cannot be set.
    pub fn tcp(stream: TcpStream, peer: impl Into<String>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let stays_here = is_loopback(stream.peer_addr()?) && is_loopback(stream.local_addr()?);
        let half = Half(stream.try_clone()?);
        let channel = Self::from_parts(
            Box::new(half),
            Box::new(Half(stream.try_clone()?)),
            Arc::new(stream),
            peer,
        );
        Ok(Self { stays_here, ..channel })
    }

    /// A channel over a connected Unix-domain socket.
    ///
    /// # Errors
    /// If the socket cannot be duplicated.
    pub fn unix(stream: UnixStream, peer: impl Into<String>) -> io::Result<Self> {
        let half = Half(stream.try_clone()?);
        let channel = Self::from_parts(
            Box::new(half),
            Box::new(Half(stream.try_clone()?)),
            Arc::new(stream),
            peer,
        );
        Ok(Self { stays_here: true, ..channel })
    }

    /// Two channels joined to each other inside this process.
    ///
    /// # Errors
    /// If the operating system has no more sockets.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (left, right) = UnixStream::pair()?;
        Ok((Self::unix(left, "pair:left")?, Self::unix(right, "pair:right")?))
    }
}

/// True for an address that no other host can reach or claim.
pub(crate) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

impl fmt::Debug for Channel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Channel").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// One half of a socket. An expired socket time limit shows as "would block"; whoever asked for
/// a time limit wants to hear that it expired.
struct Half<S>(S);

fn expired(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        io::Error::from(io::ErrorKind::TimedOut)
    } else {
        error
    }
}

impl<S: Read> Read for Half<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).map_err(expired)
    }
}

impl<S: Write> Write for Half<S> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.write(from).map_err(expired)
    }

    fn write_vectored(&mut self, from: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(from).map_err(expired)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

macro_rules! socket_control {
    ($socket:ty $(, $delivered:path)?) => {
        impl Control for $socket {
            fn shutdown(&self) {
                // The only failure is a socket that the peer has already ended.
                let _ = <$socket>::shutdown(self, Shutdown::Both);
            }

            fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
                <$socket>::set_read_timeout(self, limit)
            }

            fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
                <$socket>::set_write_timeout(self, limit)
            }

            $(fn wait_delivered(&self, limit: Duration) -> io::Result<()> {
                $delivered(self, limit)
            })?
        }
    };
}

socket_control!(TcpStream, crate::delivered::wait);
socket_control!(UnixStream);
