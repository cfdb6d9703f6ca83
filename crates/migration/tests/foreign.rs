//! A source that speaks another language: the guest runs here once that has given it away, and not
//! before.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use memory::GuestRam;
use migration::{
    Cancel, Cause, Failure, ForeignSource, ForeignWay, MigrationError, Piece, Received, Settings,
    Silent, Standing, receive_foreign, save_to,
};
use support::*;
use transport::{Address, Channel, open_sink};

const WANTED: u8 = b'w';
const NOT_WANTED: u8 = b'n';

/// A language that is Ferry's own, but for the last words: `w` asks for the guest, and the end of
/// the channel gives it away.
struct Parrot {
    heard: Vec<u8>,
    given: usize,
    length: usize,
    ended: bool,
    accepted: bool,
    replies: Vec<u8>,
}

impl ForeignSource for Parrot {
    fn wants(&self, _channel: usize) -> bool {
        true
    }

    fn heard(&mut self, _channel: usize, bytes: &[u8]) {
        self.heard.extend(bytes);
    }

    fn ended(&mut self, _channel: usize) {
        self.ended = true;
    }

    fn next(&mut self, _ram: Option<&GuestRam>, into: &mut Vec<u8>) -> Result<Piece, Cause> {
        if self.given == self.length {
            return Ok(Piece::Over);
        }
        if self.given < self.heard.len() {
            into.extend(&self.heard[self.given..]);
            self.given = self.heard.len();
            return Ok(Piece::Made);
        }
        if self.ended { Err("it has left".into()) } else { Ok(Piece::Wanting) }
    }

    fn replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.replies)
    }

    fn accept(&mut self) -> Result<(), Cause> {
        if self.ended {
            return Err("it has left before it was asked".into());
        }
        self.accepted = true;
        self.replies.push(WANTED);
        Ok(())
    }

    fn is_released(&self) -> bool {
        self.accepted && self.ended
    }

    fn refuse(&mut self) {
        self.replies.push(NOT_WANTED);
    }
}

/// The stream of a guest.
fn stream(guests: &RunningGuests) -> Vec<u8> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("ferry-foreign-{}-{count}", std::process::id()));
    let sink = open_sink(&Address::File(file.clone()), None).unwrap();
    let load = Load { working_set: 60, rate: 20_000 };
    let mut machine = Machine::new(1000, 300, load, guests).started();
    let settings = Settings::stop_and_save();
    save_to(&mut machine, sink, &mut unrecorded(), &settings, &mut Silent, &Cancel::new()).unwrap();
    let bytes = fs::read(&file).unwrap();
    fs::remove_file(file).unwrap();
    bytes
}

/// What becomes of a guest whose source does this with its stream.
fn received(
    guests: &RunningGuests,
    target: &mut Target,
    settings: &Settings,
    source: impl FnOnce(Channel, Vec<u8>, RunningGuests) + Send + 'static,
) -> Result<Received, MigrationError> {
    let (here, there) = Channel::pair().unwrap();
    let bytes = stream(guests);
    let parrot = Parrot {
        heard: Vec::new(),
        given: 0,
        length: bytes.len(),
        ended: false,
        accepted: false,
        replies: Vec::new(),
    };
    let watched = guests.clone();
    let peer = thread::spawn(move || source(there, bytes, watched));
    let way = ForeignWay::Channel(here, None);
    let (ownership, cancel) = (&mut unrecorded(), Cancel::new());
    let received =
        receive_foreign(target, Box::new(parrot), way, ownership, settings, &mut Silent, &cancel);
    peer.join().unwrap();
    received
}

fn asked(channel: &mut Channel) -> u8 {
    let mut word = [0];
    channel.reader.read_exact(&mut word).unwrap();
    word[0]
}

#[test]
fn a_guest_runs_once_its_source_has_given_it_away() {
    let guests = RunningGuests::default();
    let mut target = Target::new(&guests);
    let done = received(&guests, &mut target, &settings(), |mut channel, bytes, guests| {
        channel.writer.write_all(&bytes).unwrap();
        assert_eq!(asked(&mut channel), WANTED);
        assert_eq!(guests.count(), 0, "it is not given away yet");
    });
    done.unwrap();
    assert_eq!(guests.count(), 1);
    target.take().check_alive();
}

#[test]
fn a_source_that_leaves_before_it_was_asked_has_kept_the_guest() {
    let guests = RunningGuests::default();
    let mut target = Target::new(&guests);
    let done = received(&guests, &mut target, &settings(), |mut channel, bytes, _| {
        channel.writer.write_all(&bytes).unwrap();
    });
    let error = done.unwrap_err();
    assert!(error.to_string().contains("it has left"), "{error}");
    assert_eq!((error.standing, guests.count()), (Standing::Discarded, 0));
}

#[test]
fn a_source_that_says_nothing_more_has_not_given_the_guest_away() {
    let guests = RunningGuests::default();
    let mut target = Target::new(&guests);
    let settings = Settings { switchover_timeout: Duration::from_millis(200), ..settings() };
    let done = received(&guests, &mut target, &settings, |mut channel, bytes, guests| {
        channel.writer.write_all(&bytes).unwrap();
        assert_eq!(asked(&mut channel), WANTED);
        // It hears that the guest is not taken, and keeps it.
        assert_eq!(asked(&mut channel), NOT_WANTED);
        assert_eq!(guests.count(), 0);
    });
    let error = done.unwrap_err();
    assert!(matches!(error.failure, Failure::NotGivenAway(_)), "{error}");
    assert_eq!((error.standing, guests.count()), (Standing::Discarded, 0));
}

#[test]
fn a_stream_that_is_damaged_is_refused_and_the_source_hears_of_it() {
    let guests = RunningGuests::default();
    let mut target = Target::new(&guests);
    let done = received(&guests, &mut target, &settings(), |mut channel, mut bytes, _| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let sent = channel.writer.write_all(&bytes);
        // It may hear of it before everything is written.
        if sent.is_ok() {
            assert_eq!(asked(&mut channel), NOT_WANTED);
        }
    });
    assert_eq!(done.unwrap_err().standing, Standing::Discarded);
    assert_eq!(guests.count(), 0);
}
