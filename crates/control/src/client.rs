//! The asking side.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::message::{MAX_LINE, Reply, Request};

/// A machine could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no machine answers at {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the machine broke")]
    Io(#[from] io::Error),
    /// The machine's process went away without an answer.
    #[error("the machine went away without an answer")]
    Gone,
    /// An answer that this release does not know.
    #[error("the machine's answer makes no sense")]
    Answer(#[source] serde_json::Error),
}

/// A connection to a machine.
pub struct Client {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Client {
    /// Connects to a socket.
    ///
    /// # Errors
    /// If nobody listens at it.
    pub fn connect(path: &Path) -> Result<Self, ControlError> {
        let connect = || {
            let writer = UnixStream::connect(path)?;
            Ok(Self { reader: BufReader::new(writer.try_clone()?), writer })
        };
        connect().map_err(|source| ControlError::Connect { path: path.to_owned(), source })
    }

    /// A second hold on the connection, to send [`Request::Cancel`] by.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn second(&self) -> io::Result<UnixStream> {
        self.writer.try_clone()
    }

    /// Sends a request.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn send(&mut self, request: &Request) -> Result<(), ControlError> {
        send(&mut self.writer, request)
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    /// If none comes.
    pub fn reply(&mut self) -> Result<Reply, ControlError> {
        let mut line = String::new();
        let read = (&mut self.reader).take(MAX_LINE as u64).read_line(&mut line)?;
        if read == 0 {
            return Err(ControlError::Gone);
        }
        serde_json::from_str(&line).map_err(ControlError::Answer)
    }

    /// Sends a request and waits for the one reply.
    ///
    /// # Errors
    /// If none comes.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, ControlError> {
        self.send(request)?;
        self.reply()
    }
}

/// Sends a request on any stream.
///
/// # Errors
/// If it is broken.
pub(crate) fn send(writer: &mut UnixStream, request: &Request) -> Result<(), ControlError> {
    let mut line = serde_json::to_vec(request).map_err(ControlError::Answer)?;
    line.push(b'\n');
    writer.write_all(&line)?;
    Ok(())
}
