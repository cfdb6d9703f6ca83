//! Connecting to, and listening at, sockets.

use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::channel::is_loopback;
use crate::{Address, Channel, TransportError};

/// How often a wait for a connection looks whether it was told to stop.
const STOP_POLL: Duration = Duration::from_millis(50);

fn one_way(address: &Address) -> TransportError {
    TransportError::WrongKind {
        address: address.clone(),
        is: "a one-way pipe",
        wanted: "a two-way channel",
    }
}

/// Connects to `tcp:` or `unix:`. Every address that a host name has is tried, each for `limit`.
///
/// # Errors
/// If nobody listens there, nobody answers within the limit, or the address is a one-way pipe.
pub fn connect(address: &Address, limit: Duration) -> Result<Channel, TransportError> {
    const DOING: &str = "cannot connect to";
    match address {
        Address::Tcp { host, port } => {
            let mut last = None;
            let found = (host.as_str(), *port)
                .to_socket_addrs()
                .map_err(TransportError::io("cannot find", address))?;
            for candidate in found {
                match TcpStream::connect_timeout(&candidate, limit) {
                    Ok(stream) => {
                        return Channel::tcp(stream, address.to_string())
                            .map_err(TransportError::io(DOING, address));
                    }
                    Err(error) => last = Some(error),
                }
            }
            Err(match last {
                None => TransportError::NoAddress(address.clone()),
                Some(error) if error.kind() == io::ErrorKind::TimedOut => {
                    TransportError::TimedOut { doing: DOING, address: address.clone(), limit }
                }
                Some(error) => TransportError::io(DOING, address)(error),
            })
        }
        Address::Unix(path) => UnixStream::connect(path)
            .and_then(|stream| Channel::unix(stream, address.to_string()))
            .map_err(TransportError::io(DOING, address)),
        Address::Exec(_) | Address::File(_) | Address::Fd(_) => Err(one_way(address)),
    }
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Waits for connections at `tcp:` or `unix:`. The file of a Unix socket goes with it.
pub struct Listener {
    socket: Socket,
    address: Address,
}

impl Listener {
    /// Starts to listen. A Unix socket's file that nobody listens at any more is replaced.
    ///
    /// # Errors
    /// If the address is taken or cannot be had, or is a one-way pipe.
    pub fn bind(address: &Address) -> Result<Self, TransportError> {
        let error = TransportError::io("cannot listen at", address);
        match address {
            Address::Tcp { host, port } => {
                let socket = match TcpListener::bind((host.as_str(), *port)) {
                    Ok(socket) => socket,
                    Err(source) => return Err(error(source)),
                };
                match socket
                    .local_addr()
                    .and_then(|local| socket.set_nonblocking(true).map(|()| local))
                {
                    Ok(local) => Ok(Self {
                        socket: Socket::Tcp(socket),
                        address: Address::Tcp { host: host.clone(), port: local.port() },
                    }),
                    Err(source) => Err(error(source)),
                }
            }
            Address::Unix(path) => bind_unix(path)
                .map(|socket| Self { socket: Socket::Unix(socket), address: address.clone() })
                .map_err(error),
            Address::Exec(_) | Address::File(_) | Address::Fd(_) => Err(one_way(address)),
        }
    }

    /// Where it listens: with the port that was chosen, if port 0 was asked for.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Only this host can connect: a Unix-domain socket, or a loopback address.
    pub fn stays_here(&self) -> bool {
        match &self.socket {
            Socket::Tcp(socket) => socket.local_addr().is_ok_and(is_loopback),
            Socket::Unix(_) => true,
        }
    }

    /// Waits for one connection, until `limit` has passed (`None`: for ever) or `stop` is set.
    ///
    /// # Errors
    /// If the wait ended without a connection.
    pub fn accept(
        &self,
        limit: Option<Duration>,
        stop: &AtomicBool,
    ) -> Result<Channel, TransportError> {
        const DOING: &str = "waiting at";
        let started = Instant::now();
        loop {
            if stop.load(Ordering::Acquire) {
                return Err(TransportError::Stopped(self.address.clone()));
            }
            let mut wait = STOP_POLL;
            if let Some(limit) = limit {
                match limit.checked_sub(started.elapsed()) {
                    Some(left) if !left.is_zero() => wait = wait.min(left),
                    _ => {
                        return Err(TransportError::TimedOut {
                            doing: DOING,
                            address: self.address.clone(),
                            limit,
                        });
                    }
                }
            }
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
            match poll(
                &mut [PollFd::from_borrowed_fd(self.descriptor(), PollFlags::IN)],
                Some(&timeout),
            ) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(TransportError::io(DOING, &self.address)(error.into())),
            }
            match self.try_accept() {
                Ok(channel) => return Ok(channel),
                // Whoever knocked has gone again; the next one may come.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock
                            | io::ErrorKind::Interrupted
                            | io::ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) => return Err(TransportError::io(DOING, &self.address)(error)),
            }
        }
    }

    fn try_accept(&self) -> io::Result<Channel> {
        match &self.socket {
            Socket::Tcp(socket) => {
                let (stream, peer) = socket.accept()?;
                stream.set_nonblocking(false)?;
                Channel::tcp(stream, format!("tcp:{peer}"))
            }
            Socket::Unix(socket) => {
                let (stream, _) = socket.accept()?;
                stream.set_nonblocking(false)?;
                Channel::unix(stream, self.address.to_string())
            }
        }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let socket = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        other => other?,
    };
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// True for the file of a socket whose listener is gone.
fn is_stale(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    is_socket
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let (Socket::Unix(_), Address::Unix(path)) = (&self.socket, &self.address) {
            // Nothing can be done about a file that is already gone.
            let _ = std::fs::remove_file(path);
        }
    }
}
