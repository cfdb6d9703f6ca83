//! One-way pipes: files, commands and descriptors.

mod support;

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use migration::{
    Cancel, Failure, MigrationError, MigrationSource, Outcome, Received, Settings, Silent,
    Standing, restore_from, save_to,
};
use support::*;
use transport::{
    Address, Control, Delivered, Delivery, Intake, Sink, TransportError, open_intake, open_sink,
};

const LIMIT: Option<Duration> = Some(Duration::from_secs(10));
const BUSY: Load = Load { working_set: 60, rate: 20_000 };

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ferry-pipes-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn save(
    machine: &mut Machine,
    sink: Box<dyn Sink>,
    settings: &Settings,
) -> Result<Outcome, MigrationError> {
    save_to(machine, sink, &mut unrecorded(), settings, &mut Silent, &Cancel::new())
}

fn restore(target: &mut Target, intake: Box<dyn Intake>) -> Result<Received, MigrationError> {
    restore_from(target, intake, &mut unrecorded(), &settings(), &mut Silent, &Cancel::new())
}

#[test]
fn a_file_holds_a_guest_that_goes_on_from_it() {
    let folder = Folder::new("file");
    let address = Address::File(folder.file("guest"));
    let guests = RunningGuests::default();
    for settings in [settings(), Settings::stop_and_save()] {
        let mut machine = Machine::new(256, 90, BUSY, &guests).started();
        let sink = open_sink(&address, LIMIT).unwrap();
        let outcome = save(&mut machine, sink, &settings).unwrap();
        assert!(outcome.confirmed && !machine.is_running());
        assert_eq!(settings.live, outcome.rounds.len() > 1);
        let steps = machine.steps();
        let mut target = Target::new(&guests);
        let received = restore(&mut target, open_intake(&address, LIMIT).unwrap()).unwrap();
        assert_eq!((received.digest, received.bytes), (outcome.digest, outcome.bytes));
        let arrived = target.take();
        assert!(arrived.steps() >= steps);
        arrived.check_alive();
    }
}

#[test]
fn a_command_carries_a_guest_and_its_failure_is_judged_by_when_it_came() {
    let folder = Folder::new("exec");
    let path = folder.file("guest.bz");
    let guests = RunningGuests::default();
    let mut machine = Machine::new(256, 90, BUSY, &guests).started();
    let into = Address::Exec(format!("gzip > {}", path.display()));
    let outcome = save(&mut machine, open_sink(&into, LIMIT).unwrap(), &settings()).unwrap();
    assert!(outcome.confirmed);
    let from = Address::Exec(format!("gzip -d < {}", path.display()));
    let mut target = Target::new(&guests);
    restore(&mut target, open_intake(&from, LIMIT).unwrap()).unwrap();
    let mut machine = target.take();
    machine.check_alive();

    // It fails before the last byte: the guest goes on.
    for command in ["exit 0", "head -c 100000 >/dev/null; exit 1"] {
        let sink = open_sink(&Address::Exec(command.to_owned()), LIMIT).unwrap();
        let error = save(&mut machine, sink, &settings()).unwrap_err();
        assert_eq!(error.standing, Standing::Running, "{error}");
        machine.check_alive();
    }
    // It fails after it: nobody knows what it has done.
    let late = Address::Exec("cat >/dev/null; exit 7".to_owned());
    let error = save(&mut machine, open_sink(&late, LIMIT).unwrap(), &settings()).unwrap_err();
    assert_eq!(error.standing, Standing::Unconfirmed, "{error}");
    assert!(error.to_string().contains("ended with exit status 7"), "{error}");
    assert!(!machine.is_running());
    machine.check();

    // A reader whose command fails after a complete stream is not believed.
    let from = Address::Exec(format!("gzip -d < {}; exit 2", path.display()));
    let mut target = Target::new(&guests);
    let error = restore(&mut target, open_intake(&from, LIMIT).unwrap()).unwrap_err();
    assert!(error.to_string().contains("exit status 2"), "{error}");
    assert!(target.discarded);
}

#[test]
fn a_command_that_does_not_read_is_cancelled_at_once() {
    let guests = RunningGuests::default();
    let mut machine = Machine::new(512, 400, BUSY, &guests).started();
    let sink = open_sink(&Address::Exec("sleep 100".to_owned()), LIMIT).unwrap();
    let cancel = Cancel::new();
    let wish = cancel.clone();
    let canceller = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        wish.cancel();
    });
    let started = Instant::now();
    let error = save_to(&mut machine, sink, &mut unrecorded(), &settings(), &mut Silent, &cancel)
        .unwrap_err();
    canceller.join().unwrap();
    assert!(matches!(error.failure, Failure::Cancelled), "{error}");
    assert!(started.elapsed() < Duration::from_secs(8));
    machine.check_alive();
}

#[test]
fn a_descriptor_carries_a_guest_and_nobody_confirms() {
    let (reader, writer) = io::pipe().unwrap();
    let (reader, writer) = (Address::Fd(reader.into_raw_fd()), Address::Fd(writer.into_raw_fd()));
    let guests = RunningGuests::default();
    let mut machine = Machine::new(128, 90, BUSY, &guests).started();
    let mut target = Target::new(&guests);
    let outcome = thread::scope(|scope| {
        let intake = open_intake(&reader, LIMIT).unwrap();
        let far = scope.spawn(|| restore(&mut target, intake));
        let outcome = save(&mut machine, open_sink(&writer, LIMIT).unwrap(), &settings()).unwrap();
        far.join().unwrap().unwrap();
        outcome
    });
    assert!(!outcome.confirmed);
    target.take().check_alive();
}

/// Bytes in memory, as a pipe to read from.
struct Bytes(io::Cursor<Vec<u8>>);

struct Nothing;

impl Control for Nothing {
    fn shutdown(&self) {}

    fn set_read_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn set_write_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Bytes {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Intake for Bytes {
    fn control(&self) -> Arc<dyn Control> {
        Arc::new(Nothing)
    }

    fn finish(&mut self) -> Result<(), TransportError> {
        Ok(())
    }
}

fn saved(folder: &Folder, guests: &RunningGuests) -> Vec<u8> {
    let path = folder.file("guest");
    let idle = Load { working_set: 1, rate: 0 };
    let mut machine = Machine::new(6, 1, idle, guests).started();
    let sink = open_sink(&Address::File(path.clone()), LIMIT).unwrap();
    save(&mut machine, sink, &Settings::stop_and_save()).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn a_file_cut_at_any_byte_or_with_any_byte_changed_starts_no_guest() {
    let folder = Folder::new("damage");
    let guests = RunningGuests::default();
    let bytes = saved(&folder, &guests);
    let try_it = |bytes: Vec<u8>| {
        let mut target = Target::new(&guests);
        let result = restore(&mut target, Box::new(Bytes(io::Cursor::new(bytes))));
        assert!(result.is_ok() || target.discarded);
        result
    };
    try_it(bytes.clone()).unwrap();
    for at in 0..bytes.len() {
        let error = try_it(bytes[..at].to_vec()).unwrap_err();
        assert_eq!(error.standing, Standing::Discarded, "cut at {at}: {error}");
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        let error = try_it(changed).expect_err(&format!("byte {at} of {}", bytes.len()));
        assert_eq!(error.standing, Standing::Discarded, "byte {at}: {error}");
    }
    let longer = [bytes.as_slice(), b"\0"].concat();
    try_it(longer).unwrap_err();
}

/// A pipe that fails after so many bytes, or at one of its steps.
struct Failing {
    room: usize,
    prepare: bool,
    commit: bool,
}

impl Write for Failing {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        if self.room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let count = from.len().min(self.room);
        self.room -= count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn no(what: &str) -> TransportError {
    TransportError::Command { address: Address::Exec("test".to_owned()), how: what.to_owned() }
}

impl Sink for Failing {
    fn delivery(&self) -> Delivery {
        Delivery::LastByte
    }

    fn control(&self) -> Arc<dyn Control> {
        Arc::new(Nothing)
    }

    fn prepare(&mut self) -> Result<(), TransportError> {
        if self.prepare { Err(no("was gone")) } else { Ok(()) }
    }

    fn commit(self: Box<Self>) -> Result<Delivered, TransportError> {
        if self.commit { Err(no("failed")) } else { Ok(Delivered::Confirmed) }
    }

    fn discard(self: Box<Self>) {}
}

#[test]
fn a_pipe_that_fails_before_its_last_byte_gives_nothing_away() {
    let folder = Folder::new("room");
    let guests = RunningGuests::default();
    let whole = saved(&folder, &guests).len();
    let idle = Load { working_set: 1, rate: 0 };
    let mut machine = Machine::new(6, 1, idle, &guests).started();
    let stop = Settings::stop_and_save();
    for room in (0..whole).step_by(173).chain([whole - 2]) {
        let sink = Failing { room, prepare: false, commit: false };
        let error = save(&mut machine, Box::new(sink), &stop).unwrap_err();
        assert_eq!(error.standing, Standing::Running, "room for {room} of {whole}: {error}");
        machine.check_alive();
    }
    let gone = Failing { room: usize::MAX, prepare: true, commit: false };
    let error = save(&mut machine, Box::new(gone), &stop).unwrap_err();
    assert_eq!(error.standing, Standing::Running);
    machine.check_alive();
    // The last byte itself, and what comes after it.
    for (room, commit) in [(whole - 1, false), (usize::MAX, true)] {
        let sink = Failing { room, prepare: false, commit };
        let error = save(&mut machine, Box::new(sink), &stop).unwrap_err();
        assert_eq!(error.standing, Standing::Unconfirmed, "{error}");
        assert!(!machine.is_running());
        machine.resume().unwrap();
    }
    save(&mut machine, Box::new(Failing { room: whole, prepare: false, commit: false }), &stop)
        .unwrap();
}
