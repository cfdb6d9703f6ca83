//! A small machine, what it says, and what was said of it.
#![allow(dead_code, reason = "each test file uses a part")]

use std::io::Read;
use std::sync::Arc;

use stream::{Digest, Event, PAGE_SIZE, Schemas, StreamError, StreamReader, StreamWriter};
use vmstate::{SavedSection, Schema, VmState};

/// Saved state of a serial port.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "uart", version = 2)]
pub struct Uart {
    /// Divisor of the clock.
    pub divisor: u16,
    /// Added later: the modem lines.
    #[vmstate(since = 2, default = "0")]
    pub lines: u8,
    /// Bytes that wait.
    #[vmstate(max = 4)]
    pub fifo: Vec<u8>,
    /// There while the timer is armed.
    #[vmstate(subsection = "timer")]
    pub timer: Option<Timer>,
}

/// A timer.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "timer", version = 1)]
pub struct Timer {
    /// When it fires, in nanoseconds.
    pub deadline: u64,
}

/// Saved state of an interrupt controller.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "pic", version = 1)]
pub struct Pic {
    /// Requests.
    pub requests: u8,
    /// True while it is polled.
    pub poll: bool,
}

/// Sections of a machine: some that it must have, and one that it may have.
pub struct Machine {
    pub needed: Vec<(&'static str, u32, Schema)>,
    pub allowed: Vec<(&'static str, u32, Schema)>,
}

impl Machine {
    pub fn new() -> Self {
        let (uart, pic) = (Uart::schema(), Pic::schema());
        Self {
            needed: vec![("bus@10/uart", 0, uart), ("pic", 0, pic.clone()), ("pic", 1, pic)],
            allowed: vec![("timer", 0, Timer::schema())],
        }
    }
}

impl Schemas for Machine {
    fn schema(&self, name: &str, instance: u32) -> Option<&Schema> {
        let mut all = self.needed.iter().chain(&self.allowed);
        all.find(|section| (section.0, section.1) == (name, instance)).map(|section| &section.2)
    }

    fn expected(&self) -> Vec<(String, u32)> {
        self.needed.iter().map(|(name, instance, _)| ((*name).to_owned(), *instance)).collect()
    }
}

/// An event that owns its page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Configuration(String),
    Machine(Vec<u8>),
    RamBlocks(Vec<(String, u64)>),
    Page(u16, u64, Box<[u8; PAGE_SIZE]>),
    ZeroPage(u16, u64),
    RamRoundEnd,
    RamEnd,
    Section(SavedSection),
    Digest(Digest),
    End,
}

impl From<Event<'_>> for Said {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Configuration { machine_type } => Self::Configuration(machine_type),
            Event::Machine(tree) => Self::Machine(tree),
            Event::RamBlocks(blocks) => Self::RamBlocks(blocks),
            Event::Page { block, offset, data } => Self::Page(block, offset, Box::new(*data)),
            Event::ZeroPage { block, offset } => Self::ZeroPage(block, offset),
            Event::RamRoundEnd => Self::RamRoundEnd,
            Event::RamEnd => Self::RamEnd,
            Event::Section(section) => Self::Section(section),
            Event::Digest(digest) => Self::Digest(digest),
            Event::End => Self::End,
        }
    }
}

/// Everything that a stream says, to the end of the input.
pub fn read(input: impl Read) -> Result<Vec<Said>, StreamError> {
    let mut reader = StreamReader::new(input);
    let mut said = Vec::new();
    loop {
        let event = Said::from(reader.next()?);
        match event {
            Said::Machine(_) => reader.set_schemas(Arc::new(Machine::new())),
            Said::End => {
                reader.expect_end_of_input()?;
                said.push(event);
                return Ok(said);
            }
            _ => {}
        }
        said.push(event);
    }
}

/// Says one thing to a writer. `last` is true for what is in the last round of pages.
pub fn write_one<W: std::io::Write>(
    writer: &mut StreamWriter<W>,
    said: &Said,
) -> Result<(), StreamError> {
    match said {
        Said::Configuration(machine_type) => writer.configuration(machine_type),
        Said::Machine(tree) => writer.machine(tree),
        Said::RamBlocks(blocks) => writer.ram_blocks(blocks),
        Said::Page(block, offset, content) => writer.page(*block, *offset, content),
        Said::ZeroPage(block, offset) => writer.zero_page(*block, *offset),
        Said::RamRoundEnd => writer.end_ram_part(),
        Said::RamEnd => writer.end_ram_end(),
        Said::Section(section) => writer.section(section),
        Said::Digest(digest) => writer.digest(digest),
        Said::End => writer.end(),
    }
}

/// The stream that says this. Rounds begin where they have to.
pub fn write(said: &[Said]) -> Result<Vec<u8>, StreamError> {
    let mut writer = StreamWriter::new(Vec::new(), Arc::new(Machine::new()));
    for (index, one) in said.iter().enumerate() {
        if index > 0 && matches!(said[index - 1], Said::RamBlocks(_) | Said::RamRoundEnd) {
            begin_round(&mut writer, &said[index..])?;
        }
        write_one(&mut writer, one)?;
    }
    assert_eq!(writer.position(), writer.get_mut().len() as u64);
    Ok(writer.into_inner())
}

fn begin_round(writer: &mut StreamWriter<Vec<u8>>, rest: &[Said]) -> Result<(), StreamError> {
    match rest.iter().find(|one| matches!(one, Said::RamRoundEnd | Said::RamEnd)) {
        Some(Said::RamRoundEnd) => writer.begin_ram_part(),
        Some(_) => writer.begin_ram_end(),
        None => Ok(()),
    }
}

pub fn page(seed: u8) -> Box<[u8; PAGE_SIZE]> {
    Box::new(std::array::from_fn(|index| seed.wrapping_add((index / 7) as u8)))
}

pub fn uart() -> SavedSection {
    let state = Uart {
        divisor: 12,
        lines: 3,
        fifo: vec![0x61, 0x62],
        timer: Some(Timer { deadline: 0x1122_3344 }),
    };
    SavedSection::encode("bus@10/uart", 0, &state)
}

pub fn pic(instance: u32) -> SavedSection {
    SavedSection::encode("pic", instance, &Pic { requests: 0x40, poll: instance == 1 })
}

pub fn digest() -> Digest {
    Digest { algorithm: stream::BLAKE3, memory: [0x6d; 32], sections: [0x73; 32] }
}

/// A whole small stream: what it says.
pub fn sample() -> Vec<Said> {
    vec![
        Said::Configuration("ferry-1".to_owned()),
        Said::Machine(vec![0xd0, 0x0d, 0xfe, 0xed]),
        Said::RamBlocks(vec![("ram".to_owned(), 0x2000), ("rom".to_owned(), 0x1000)]),
        Said::Page(0, 0, page(1)),
        Said::ZeroPage(0, 0x1000),
        Said::Page(1, 0, page(2)),
        Said::RamRoundEnd,
        Said::ZeroPage(1, 0),
        Said::RamRoundEnd,
        Said::Page(0, 0x1000, page(3)),
        Said::RamEnd,
        Said::Section(uart()),
        Said::Section(pic(0)),
        Said::Section(pic(1)),
        Said::Digest(digest()),
        Said::End,
    ]
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
