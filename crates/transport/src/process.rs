//! `exec:`. The command runs by `/bin/sh -c` in a process group of its own, so that a Ctrl-C at
//! the terminal ends the migration by its own rules and not by breaking its pipe.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::pipe::PipeEnd;
use crate::{Address, Control, Delivered, Delivery, Intake, Sink, TransportError};

/// How long a command is given to end by itself after its pipe was closed, and again after it was
/// asked to terminate.
const GRACE: Duration = Duration::from_secs(2);
/// How often a command that should end is looked at.
const POLL: Duration = Duration::from_millis(5);

/// A command and the rule that it does not outlive its use.
struct Running {
    child: Child,
    ended: Option<ExitStatus>,
    left: bool,
    address: Address,
}

impl Running {
    fn start(command: &str, address: &Address, write: bool) -> Result<Self, TransportError> {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(command).process_group(0);
        if write {
            shell.stdin(Stdio::piped());
        } else {
            shell.stdin(Stdio::null()).stdout(Stdio::piped());
        }
        let child =
            shell.spawn().map_err(TransportError::io("cannot start the command of", address))?;
        Ok(Self { child, ended: None, left: false, address: address.clone() })
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    fn wait_for(&mut self, limit: Option<Duration>) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.poll() {
                return Some(status);
            }
            if limit.is_some_and(|limit| started.elapsed() >= limit) {
                return None;
            }
            std::thread::sleep(POLL);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It fails only if the whole group has ended.
            let _ = kill_process_group(group, signal);
        }
    }

    /// The command must have ended, and well.
    fn expect_success(&mut self, limit: Option<Duration>) -> Result<(), TransportError> {
        match self.wait_for(limit) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.failed(describe(status))),
            None => Err(self.failed("has not ended".to_owned())),
        }
    }

    /// Lets it go on by itself.
    fn leave(mut self) {
        self.left = true;
    }

    fn failed(&self, how: String) -> TransportError {
        TransportError::Command { address: self.address.clone(), how }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.left || self.wait_for(Some(GRACE)).is_some() {
            return;
        }
        self.signal(Signal::TERM);
        if self.wait_for(Some(GRACE)).is_none() {
            self.signal(Signal::KILL);
            self.wait_for(Some(GRACE));
        }
    }
}

/// Writes to the standard input of a command.
pub(crate) struct CommandSink {
    // Before the command: dropping it closes the pipe, which is what lets the command end.
    pipe: PipeEnd,
    command: Running,
    limit: Option<Duration>,
}

impl CommandSink {
    pub(crate) fn start(
        command: &str,
        address: &Address,
        limit: Option<Duration>,
    ) -> Result<Self, TransportError> {
        let mut running = Running::start(command, address, true)?;
        let stdin = running.child.stdin.take().expect("standard input was asked for");
        let pipe = PipeEnd::new(OwnedFd::from(stdin), limit, false)
            .map_err(TransportError::io("cannot write to", address))?;
        Ok(Self { pipe, command: running, limit })
    }
}

impl Write for CommandSink {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.pipe.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for CommandSink {
    fn delivery(&self) -> Delivery {
        Delivery::LastByte
    }

    fn control(&self) -> Arc<dyn Control> {
        self.pipe.control()
    }

    fn prepare(&mut self) -> Result<(), TransportError> {
        match self.command.poll() {
            None => Ok(()),
            Some(status) => {
                Err(self.command.failed(format!("{} before it had everything", describe(status))))
            }
        }
    }

    fn commit(self: Box<Self>) -> Result<Delivered, TransportError> {
        let Self { pipe, mut command, limit } = *self;
        drop(pipe);
        if command.wait_for(limit).is_none() {
            // It has everything and may be the guest's new home: it is not ended any more.
            command.leave();
            return Ok(Delivered::Unconfirmed);
        }
        command.expect_success(None)?;
        Ok(Delivered::Confirmed)
    }

    fn discard(self: Box<Self>) {}
}

/// Reads from the standard output of a command.
pub(crate) struct CommandIntake {
    pipe: PipeEnd,
    command: Running,
    limit: Option<Duration>,
}

impl CommandIntake {
    pub(crate) fn start(
        command: &str,
        address: &Address,
        limit: Option<Duration>,
    ) -> Result<Self, TransportError> {
        let mut running = Running::start(command, address, false)?;
        let stdout = running.child.stdout.take().expect("standard output was asked for");
        let pipe = PipeEnd::new(OwnedFd::from(stdout), limit, false)
            .map_err(TransportError::io("cannot read from", address))?;
        Ok(Self { pipe, command: running, limit })
    }
}

impl Read for CommandIntake {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.pipe.read(into)
    }
}

impl Intake for CommandIntake {
    fn control(&self) -> Arc<dyn Control> {
        self.pipe.control()
    }

    fn finish(&mut self) -> Result<(), TransportError> {
        self.command.expect_success(self.limit)
    }
}
