//! One-way pipes: where bytes go, or come from, with nobody to answer.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::{Address, Control, TransportError, file, pipe, process};

/// What makes the bytes that were written available to whoever reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The last byte: the reader may act as soon as it has it.
    LastByte,
    /// [`Sink::commit`]: nobody sees anything before it.
    Commit,
}

/// How much is known about the fate of what was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// It has arrived, durably or by the reader's own word.
    Confirmed,
    /// It was written, and nobody says what became of it.
    Unconfirmed,
}

/// A one-way pipe to write to. Not buffered. It ends with one of [`commit`](Self::commit) and
/// [`discard`](Self::discard).
pub trait Sink: Write + Send {
    /// What delivers the bytes.
    fn delivery(&self) -> Delivery;

    /// The hold on it from other threads.
    fn control(&self) -> Arc<dyn Control>;

    /// Called once before the delivering step: makes sure of all that can be made sure of. A file
    /// is brought to the disk, a command must still be running.
    ///
    /// # Errors
    /// If something is wrong; nothing was delivered.
    fn prepare(&mut self) -> Result<(), TransportError>;

    /// Ends the pipe with everything in it. A file gets its name, durably; a command is waited for.
    ///
    /// # Errors
    /// If the reader failed, or it is not known what became of the bytes.
    fn commit(self: Box<Self>) -> Result<Delivered, TransportError>;

    /// Ends the pipe without a use for what was written: the file is removed, the command ended.
    fn discard(self: Box<Self>);
}

/// A one-way pipe to read from. Not buffered.
pub trait Intake: Read + Send {
    /// The hold on it from other threads.
    fn control(&self) -> Arc<dyn Control>;

    /// Called after the end was read: a command must have ended well.
    ///
    /// # Errors
    /// If it did not.
    fn finish(&mut self) -> Result<(), TransportError>;
}

fn two_way(address: &Address) -> TransportError {
    TransportError::WrongKind {
        address: address.clone(),
        is: "a two-way channel",
        wanted: "a one-way pipe",
    }
}

/// Opens `exec:`, `file:` or `fd:` for writing. A write that finds no room for `limit` fails.
///
/// # Errors
/// If it cannot be opened, or the address is a two-way channel.
pub fn open_sink(
    address: &Address,
    limit: Option<Duration>,
) -> Result<Box<dyn Sink>, TransportError> {
    match address {
        Address::File(path) => Ok(Box::new(file::FileSink::create(path, address)?)),
        Address::Exec(command) => {
            Ok(Box::new(process::CommandSink::start(command, address, limit)?))
        }
        Address::Fd(number) => Ok(Box::new(pipe::DescriptorSink::take(*number, address, limit)?)),
        Address::Tcp { .. } | Address::Unix(_) => Err(two_way(address)),
    }
}

/// Opens `exec:`, `file:` or `fd:` for reading. A read that gets nothing for `limit` fails.
///
/// # Errors
/// If it cannot be opened, or the address is a two-way channel.
pub fn open_intake(
    address: &Address,
    limit: Option<Duration>,
) -> Result<Box<dyn Intake>, TransportError> {
    match address {
        Address::File(path) => Ok(Box::new(file::FileIntake::open(path, address)?)),
        Address::Exec(command) => {
            Ok(Box::new(process::CommandIntake::start(command, address, limit)?))
        }
        Address::Fd(number) => Ok(Box::new(pipe::DescriptorIntake::take(*number, address, limit)?)),
        Address::Tcp { .. } | Address::Unix(_) => Err(two_way(address)),
    }
}

/// The error of a call on something that was ended from another thread.
pub(crate) fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "ended from this side")
}
