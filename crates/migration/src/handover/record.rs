//! The record of who owns a machine: one small text that changes by compare-and-swap only.

use std::fmt::{self, Write};

use machine::{format_uuid, parse_uuid};

/// A machine's identity, for its whole life and wherever it runs.
pub type VmId = [u8; 16];

/// Longest name of a host, in characters.
const MAX_HOST: usize = 64;
/// Longest record, in bytes of text.
pub const MAX_RECORD: usize = 1024;
const FIRST_LINE: &str = "ferry ownership 1";

/// One process that has a machine, or is to have one: made anew for every start and every attempt
/// to receive, so that nobody is ever mistaken for somebody who was there before.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerId {
    host: String,
    instance: [u8; 16],
}

impl OwnerId {
    /// Longest text of one, in bytes.
    pub const MAX_LENGTH: usize = MAX_HOST + 1 + 36;

    /// A process on a host. Characters of the name other than `[A-Za-z0-9._-]` are replaced, and
    /// those past the 64th are cut off.
    pub fn new(host: &str, instance: [u8; 16]) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        Self { host: host.chars().take(MAX_HOST).map(plain).collect(), instance }
    }

    /// The host's name: it stays the same when a process is started again.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What no other process has.
    pub fn instance(&self) -> &[u8; 16] {
        &self.instance
    }

    /// Reads what [`Display`](fmt::Display) writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, instance) = text.split_once('/')?;
        let instance = parse_uuid(instance).ok()?;
        let id = Self::new(host, instance);
        (id.host == host).then_some(id)
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.host, format_uuid(&self.instance))
    }
}

impl fmt::Debug for OwnerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// What a record says of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RecordState {
    /// The owner may run the guest.
    Owned,
    /// Nobody may run the guest. The owner may make it [`Owned`](Self::Owned), and so may `from`
    /// (for itself): whichever swap comes first.
    Granted {
        /// Who has given it up.
        from: OwnerId,
    },
    /// The machine was given to the owner by word of mouth, to a place from where this record
    /// cannot be read. What became of it there, this record does not know.
    Away {
        /// Who has given it up.
        from: OwnerId,
    },
    /// The machine has ended in order, or lies in a file. Whoever comes may have it.
    Free,
}

/// The record. Every change raises the epoch by one at least, so that no record that once was is
/// ever there again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// The machine.
    pub vm: VmId,
    /// The number of this record among all that there were.
    pub epoch: u64,
    /// Who has the machine, or is to have it.
    pub owner: OwnerId,
    /// What that means.
    pub state: RecordState,
}

/// A text that is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Too long, or not text.
    #[error("the ownership record is not a text of at most {MAX_RECORD} bytes")]
    Text,
    /// Another format.
    #[error("the ownership record does not begin with {FIRST_LINE:?}")]
    FirstLine,
    /// The text changed by itself.
    #[error("the checksum of the ownership record is wrong")]
    Checksum,
    /// A line that is missing, in excess or wrong.
    #[error("the line {0:?} of the ownership record is missing or wrong")]
    Line(&'static str),
}

impl Record {
    /// The record of a machine that starts and that no record was kept of.
    pub fn first(vm: VmId, owner: OwnerId) -> Self {
        Self { vm, epoch: 1, owner, state: RecordState::Owned }
    }

    /// The record that follows this one.
    pub fn next(&self, owner: OwnerId, state: RecordState) -> Self {
        Self { vm: self.vm, epoch: self.epoch + 1, owner, state }
    }

    /// True if this one may run the guest.
    pub fn is_owned_by(&self, id: &OwnerId) -> bool {
        self.state == RecordState::Owned && self.owner == *id
    }

    /// The record as it is kept: lines of text, the last one a checksum (CRC-32 of ISO 3309) over
    /// the others.
    pub fn to_text(&self) -> String {
        let (state, from) = match &self.state {
            RecordState::Owned => ("owned", None),
            RecordState::Granted { from } => ("granted", Some(from)),
            RecordState::Away { from } => ("away", Some(from)),
            RecordState::Free => ("free", None),
        };
        let mut text = format!(
            "{FIRST_LINE}\nvm {}\nepoch {}\nstate {state}\nowner {}\n",
            format_uuid(&self.vm),
            self.epoch,
            self.owner
        );
        // Writing to a String cannot fail.
        if let Some(from) = from {
            let _ = writeln!(text, "from {from}");
        }
        let checksum = crc32fast::hash(text.as_bytes());
        let _ = writeln!(text, "crc32 {checksum:08x}");
        text
    }

    /// Reads a record.
    ///
    /// # Errors
    /// If the text is none, down to the last byte.
    pub fn from_text(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD {
            return Err(RecordError::Text);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| RecordError::Text)?;
        let mut lines = text.split_inclusive('\n');
        if lines.next().and_then(|line| line.strip_suffix('\n')) != Some(FIRST_LINE) {
            return Err(RecordError::FirstLine);
        }
        let at = text.rfind("crc32 ").ok_or(RecordError::Checksum)?;
        if text[at..] != format!("crc32 {:08x}\n", crc32fast::hash(&bytes[..at])) {
            return Err(RecordError::Checksum);
        }
        let mut line = |name: &'static str| {
            let value = lines.next().and_then(|line| line.strip_suffix('\n'));
            value
                .and_then(|line| line.strip_prefix(name))
                .and_then(|line| line.strip_prefix(' '))
                .ok_or(RecordError::Line(name))
        };
        let vm = parse_uuid(line("vm")?).map_err(|_| RecordError::Line("vm"))?;
        let epoch = line("epoch")?.parse().map_err(|_| RecordError::Line("epoch"))?;
        // Room for every change that is still to come.
        if !(1..=u64::MAX / 2).contains(&epoch) {
            return Err(RecordError::Line("epoch"));
        }
        let state = line("state")?;
        let mut owner = |name| OwnerId::parse(line(name)?).ok_or(RecordError::Line(name));
        let id = owner("owner")?;
        let state = match state {
            "owned" => RecordState::Owned,
            "granted" => RecordState::Granted { from: owner("from")? },
            "away" => RecordState::Away { from: owner("from")? },
            "free" => RecordState::Free,
            _ => return Err(RecordError::Line("state")),
        };
        let record = Self { vm, epoch, owner: id, state };
        // One meaning per byte: there is one text for each record.
        if record.to_text() == text { Ok(record) } else { Err(RecordError::Line("crc32")) }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vm: _, epoch, owner, state } = self;
        match state {
            RecordState::Owned => write!(formatter, "owned by {owner}")?,
            RecordState::Granted { from } => {
                write!(formatter, "granted by {from} to {owner}, who has not taken it yet")?;
            }
            RecordState::Away { from } => {
                write!(formatter, "given by {from} to {owner}, out of reach of this record")?;
            }
            RecordState::Free => write!(formatter, "free, last owned by {owner}")?,
        }
        write!(formatter, " (epoch {epoch})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(number: u8) -> OwnerId {
        OwnerId::new("alpha.example", [number; 16])
    }

    #[test]
    fn records_survive_and_every_flipped_bit_is_noticed() {
        let states = [
            RecordState::Owned,
            RecordState::Granted { from: owner(2) },
            RecordState::Away { from: owner(3) },
            RecordState::Free,
        ];
        for state in states {
            let record = Record { vm: [7; 16], epoch: 12, owner: owner(1), state };
            let bytes = record.to_text().into_bytes();
            assert_eq!(Record::from_text(&bytes), Ok(record));
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(Record::from_text(&damaged).is_err(), "bit {bit}");
            }
            for cut in 0..bytes.len() {
                assert!(Record::from_text(&bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
    }

    /// A text with a right checksum.
    fn sealed(lines: &str) -> Vec<u8> {
        format!("{lines}crc32 {:08x}\n", crc32fast::hash(lines.as_bytes())).into_bytes()
    }

    #[test]
    fn what_is_no_record_is_refused_even_with_a_right_checksum() {
        let good = Record::first([7; 16], owner(1)).to_text();
        let lines = &good[..good.rfind("crc32").unwrap()];
        assert!(Record::from_text(&sealed(lines)).is_ok());
        for (part, other) in [
            ("ferry ownership 1", "ferry ownership 2"),
            ("epoch 1", "epoch 0"),
            ("epoch 1", "epoch 01"),
            ("epoch 1", "epoch 18446744073709551615"),
            ("state owned", "state asleep"),
            ("state owned", "state granted"),
            ("alpha.example/", "alpha example/"),
            ("owner ", "owner  "),
        ] {
            assert_ne!(lines.replace(part, other), lines);
            assert!(Record::from_text(&sealed(&lines.replace(part, other))).is_err(), "{other}");
        }
        assert!(Record::from_text(&sealed(&format!("{lines}more\n"))).is_err());
        assert_eq!(Record::from_text(&[b'x'; MAX_RECORD + 1]), Err(RecordError::Text));
    }

    #[test]
    fn names_of_hosts_are_made_plain_and_short() {
        assert_eq!(OwnerId::new("a b/\u{e4}\n", [0; 16]).host(), "a_b___");
        assert_eq!(OwnerId::new(&"x".repeat(100), [0; 16]).host().len(), MAX_HOST);
    }
}
