//! One state that has everything a state can have.
#![allow(dead_code, reason = "each test file uses a part")]

use proptest::prelude::*;
use vmstate::{Invalid, VmState};

/// Saved state of a device that has everything.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "gadget", version = 3, validate = "Gadget::check")]
pub struct Gadget {
    /// A byte.
    pub control: u8,
    /// A signed number.
    pub delta: i16,
    /// A switch.
    pub enabled: bool,
    /// What it does.
    pub mode: Mode,
    /// Numbers of every other width.
    pub wide: Wide,
    /// Recomputed.
    #[vmstate(excused = "recomputed from control by restore")]
    pub cache: u32,
    /// Raw bytes.
    pub buffer: [u8; 4],
    /// Arrays in an array.
    pub matrix: [[u16; 2]; 3],
    /// Structs in an array.
    pub channels: [Channel; 2],
    /// Bytes that wait.
    #[vmstate(max = 16)]
    pub fifo: Vec<u8>,
    /// Requests that wait.
    #[vmstate(max = LONGEST)]
    pub requests: Vec<Request>,
    /// Added in version 2.
    #[vmstate(since = 2, default = "0xbeef")]
    pub added: u16,
    /// Added in version 3, with a bound.
    #[vmstate(since = 3, max = 2, default = "vec![7]")]
    pub late: Vec<i32>,
    /// There while a transfer is under way.
    #[vmstate(subsection = "transfer")]
    pub transfer: Option<Transfer>,
    /// There while the timer is armed.
    #[vmstate(subsection = "timer")]
    pub timer: Option<Timer>,
}

const LONGEST: u32 = 3;

impl Gadget {
    fn check(&self) -> Result<(), Invalid> {
        if self.enabled && self.control == 0xff {
            return Err(Invalid::new("enabled without a control word"));
        }
        Ok(())
    }
}

/// What it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, VmState)]
#[repr(u8)]
pub enum Mode {
    /// Nothing.
    #[default]
    Idle = 0,
    /// It counts.
    Counting = 1,
    /// It has stopped.
    Stopped = 0x80,
}

/// Wide numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "wide", version = 1)]
pub struct Wide {
    /// 32 bits.
    pub a: u32,
    /// 64 bits.
    pub b: u64,
    /// 8 bits, signed.
    pub c: i8,
    /// 32 bits, signed.
    pub d: i32,
    /// 64 bits, signed.
    pub e: i64,
}

/// One channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "channel", version = 1)]
pub struct Channel {
    /// Counter.
    pub count: u16,
    /// Gate.
    pub gate: bool,
}

/// One request.
#[derive(Clone, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "request", version = 1)]
pub struct Request {
    /// Its number.
    pub id: u32,
    /// Its parts.
    #[vmstate(max = 2)]
    pub parts: Vec<Channel>,
}

/// A transfer under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "transfer", version = 2)]
pub struct Transfer {
    /// Bytes left.
    pub left: u32,
    /// Direction.
    #[vmstate(since = 2, default = "true")]
    pub to_guest: bool,
    /// There while it is being retried.
    #[vmstate(subsection = "retry")]
    pub retry: Option<Timer>,
}

/// A timer.
#[derive(Clone, Debug, Default, PartialEq, Eq, VmState)]
#[vmstate(name = "countdown", version = 1)]
pub struct Timer {
    /// When it fires, in nanoseconds.
    pub deadline: u64,
}

impl Gadget {
    /// A state in which every field can be told from every other.
    pub fn sample() -> Self {
        Self {
            control: 0x01,
            delta: -2,
            enabled: true,
            mode: Mode::Stopped,
            wide: Wide { a: 0x0203_0405, b: 0x0607_0809_0a0b_0c0d, c: -1, d: -2, e: -3 },
            cache: 0,
            buffer: *b"wxyz",
            matrix: [[1, 2], [3, 4], [5, 6]],
            channels: [
                Channel { count: 0x1111, gate: false },
                Channel { count: 0x2222, gate: true },
            ],
            fifo: vec![0xaa, 0xbb, 0xcc],
            requests: vec![
                Request { id: 9, parts: vec![] },
                Request { id: 10, parts: vec![Channel { count: 11, gate: true }] },
            ],
            added: 0x1234,
            late: vec![-1],
            transfer: Some(Transfer {
                left: 0x10,
                to_guest: false,
                retry: Some(Timer { deadline: 0x99 }),
            }),
            timer: Some(Timer { deadline: 0x77 }),
        }
    }
}

prop_compose! {
    fn channel()(count: u16, gate: bool) -> Channel {
        Channel { count, gate }
    }
}

prop_compose! {
    fn request()(id: u32, parts in prop::collection::vec(channel(), 0..=2)) -> Request {
        Request { id, parts }
    }
}

prop_compose! {
    fn timer()(deadline: u64) -> Timer {
        Timer { deadline }
    }
}

prop_compose! {
    fn transfer()(left: u32, to_guest: bool, retry in prop::option::of(timer())) -> Transfer {
        Transfer { left, to_guest, retry }
    }
}

prop_compose! {
    fn registers()(
        control in 0..0xffu8,
        delta: i16,
        enabled: bool,
        mode in prop::sample::select(vec![Mode::Idle, Mode::Counting, Mode::Stopped]),
        (a, b, c, d, e) in any::<(u32, u64, i8, i32, i64)>(),
        buffer: [u8; 4],
        matrix: [[u16; 2]; 3],
        channels in [channel(), channel()],
    ) -> Gadget {
        let wide = Wide { a, b, c, d, e };
        Gadget { control, delta, enabled, mode, wide, buffer, matrix, channels, ..Gadget::sample() }
    }
}

prop_compose! {
    /// Any valid state.
    pub fn gadget()(
        registers in registers(),
        fifo in prop::collection::vec(any::<u8>(), 0..=16),
        requests in prop::collection::vec(request(), 0..=3),
        added: u16,
        late in prop::collection::vec(any::<i32>(), 0..=2),
        transfer in prop::option::of(transfer()),
        timer in prop::option::of(timer()),
    ) -> Gadget {
        Gadget { fifo, requests, added, late, transfer, timer, ..registers }
    }
}

/// Bytes written as hexadecimal, with spaces anywhere.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|character| !character.is_whitespace())
        .map(|digit| digit.to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
