//! `docs/stream.md` says what the code does: its whole stream is what the writer writes, and its
//! recipe for the digest gives the digest in it.

use std::sync::Arc;

use stream::{BLAKE3, Digest, Event, PAGE_SIZE, Schemas, StreamReader, StreamWriter};
use vmstate::{SavedSection, Schema, VmState};

/// A serial port.
#[derive(Debug, VmState)]
#[vmstate(name = "uart", version = 2)]
struct Uart {
    /// Divisor of the clock.
    divisor: u16,
    /// True if it is on.
    #[vmstate(since = 2, default = "true")]
    enabled: bool,
    /// Bytes that wait.
    #[vmstate(max = 16)]
    fifo: Vec<u8>,
    /// There while the timer is armed.
    #[vmstate(subsection = "timer")]
    timer: Option<Timer>,
}

/// A timer.
#[derive(Debug, VmState)]
#[vmstate(name = "timer", version = 1)]
struct Timer {
    /// When it fires, in nanoseconds.
    deadline: u64,
}

struct Machine(Schema);

impl Schemas for Machine {
    fn schema(&self, name: &str, instance: u32) -> Option<&Schema> {
        ((name, instance) == ("serial", 0)).then_some(&self.0)
    }

    fn expected(&self) -> Vec<(String, u32)> {
        vec![("serial".to_owned(), 0)]
    }
}

const TREE: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];
const FIRST: [u8; PAGE_SIZE] = [0x61; PAGE_SIZE];
const LAST: [u8; PAGE_SIZE] = [0x62; PAGE_SIZE];
const ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

fn counted(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_be_bytes()[..], bytes].concat()
}

/// Section 8 of the document, for the machine of section 11.
fn digest(serial: &SavedSection) -> Digest {
    let mut records = crc32fast::Hasher::new();
    let mut record = |offset: u64| {
        records.update(&offset.to_be_bytes());
        records.update(&0u64.to_be_bytes());
    };
    record(0);
    record(0x1000 | 1);
    records.update(b"round");
    let mut records_after = records.clone();
    records_after.update(&[0; 16]);

    let mut memory = b"ferry memory 1\n".to_vec();
    memory.extend(records_after.finalize().to_be_bytes());
    memory.extend(counted(b"ram"));
    memory.extend(0x2000u64.to_be_bytes());
    for page in [&LAST, &ZEROES] {
        memory.extend_from_slice(&blake3::hash(page).as_bytes()[..16]);
    }

    let mut sections = [counted(b"ferry-1"), counted(&TREE), counted(b"serial")].concat();
    sections.extend(0u32.to_be_bytes());
    sections.extend(2u32.to_be_bytes());
    sections.extend(counted(&serial.data));
    Digest {
        algorithm: BLAKE3,
        memory: *blake3::hash(&memory).as_bytes(),
        sections: *blake3::hash(&sections).as_bytes(),
    }
}

fn written() -> Vec<u8> {
    let state = Uart {
        divisor: 12,
        enabled: true,
        fifo: vec![0x61, 0x62],
        timer: Some(Timer { deadline: 0x1122_3344 }),
    };
    let serial = SavedSection::encode("serial", 0, &state);
    let mut writer = StreamWriter::new(Vec::new(), Arc::new(Machine(Uart::schema())));
    writer.configuration("ferry-1").unwrap();
    writer.machine(&TREE).unwrap();
    writer.ram_blocks(&[("ram".to_owned(), 0x2000)]).unwrap();
    writer.begin_ram_part().unwrap();
    writer.page(0, 0, &FIRST).unwrap();
    writer.zero_page(0, 0x1000).unwrap();
    writer.end_ram_part().unwrap();
    writer.begin_ram_end().unwrap();
    writer.page(0, 0, &LAST).unwrap();
    writer.end_ram_end().unwrap();
    writer.section(&serial).unwrap();
    writer.digest(&digest(&serial)).unwrap();
    writer.end().unwrap();
    writer.into_inner()
}

fn fenced<'a>(document: &'a str, language: &str) -> &'a str {
    let start = format!("```{language}\n");
    let from = document.find(&start).expect("the document has such a block") + start.len();
    &document[from..from + document[from..].find("```").expect("the block ends")]
}

/// The stream of section 11.
fn documented() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/stream.md");
    let document = std::fs::read_to_string(path).expect("the document is there");
    let mut bytes = Vec::new();
    for line in fenced(&document, "hex").lines() {
        let line = line.split(';').next().unwrap_or_default();
        for word in line.split_whitespace() {
            let (count, digits) = match word.split_once('*') {
                Some((count, digits)) => (count.parse().expect("a number"), digits),
                None => (1, word),
            };
            for _ in 0..count {
                for at in (0..digits.len()).step_by(2) {
                    bytes.push(u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal"));
                }
            }
        }
    }
    let json = fenced(&document, "json");
    bytes.extend(json.lines().flat_map(|line| line.trim().bytes()));
    bytes
}

#[test]
fn the_documented_stream_is_the_one_that_is_written() {
    let (written, documented) = (written(), documented());
    assert_eq!(documented.escape_ascii().to_string(), written.escape_ascii().to_string());
}

#[test]
fn the_documented_stream_is_read() {
    let documented = documented();
    let mut reader = StreamReader::new(&documented[..]);
    reader.set_schemas(Arc::new(Machine(Uart::schema())));
    let mut found = None;
    loop {
        match reader.next().unwrap() {
            Event::Section(section) => found = Some(section),
            Event::Digest(theirs) => assert_eq!(theirs, digest(found.as_ref().unwrap())),
            Event::End => break,
            _ => {}
        }
    }
    reader.expect_end_of_input().unwrap();
    let state: Uart = found.unwrap().decode().unwrap();
    assert_eq!((state.divisor, state.enabled, state.fifo.as_slice()), (12, true, &b"ab"[..]));
    assert_eq!(state.timer.unwrap().deadline, 0x1122_3344);
}
