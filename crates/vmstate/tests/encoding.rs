//! The bytes, by hand.

mod common;

use common::{Gadget, Request, Timer, Transfer, hex};
use vmstate::{SavedSection, Type, Value, VmState};

/// `Gadget::sample()`, field by field.
const FIELDS: &str = "
    01                                      control
    fffe                                    delta
    01                                      enabled
    80                                      mode
    02030405 060708090a0b0c0d ff fffffffe fffffffffffffffd  wide
    7778797a                                buffer
    0001 0002 0003 0004 0005 0006           matrix
    1111 00 2222 01                         channels
    00000003 aabbcc                         fifo
    00000002 00000009 00000000 0000000a 00000001 000b 01    requests
";
const ADDED: &str = "1234";
const LATE: &str = "00000001 ffffffff";
/// Subsection marks, lengths, names, versions, bodies.
const TRANSFER: &str = "
    05 0f 6761646765742f7472616e73666572 00000002 00000010 00
    05 0e 7472616e736665722f7265747279 00000001 0000000000000099
";
const TIMER: &str = "05 0c 6761646765742f74696d6572 00000001 0000000000000077";

fn bytes(parts: &[&str]) -> Vec<u8> {
    let hexadecimal = |line: &str| {
        let words = line.split_whitespace();
        words.take_while(|word| word.bytes().all(|b| b.is_ascii_hexdigit())).collect::<String>()
    };
    // Each line ends with the field's name. `added` would be hexadecimal too, and is not named.
    parts.iter().flat_map(|part| part.lines()).flat_map(|line| hex(&hexadecimal(line))).collect()
}

fn section(version: u32, parts: &[&str]) -> SavedSection {
    SavedSection { name: "gadget".to_owned(), instance: 0, version, data: bytes(parts) }
}

#[test]
fn every_type_has_its_bytes() {
    let written = SavedSection::encode("gadget", 0, &Gadget::sample());
    let by_hand = section(3, &[FIELDS, ADDED, LATE, TRANSFER, TIMER]);
    assert_eq!(written, by_hand);
    assert_eq!(by_hand.decode::<Gadget>().unwrap(), Gadget::sample());
}

#[test]
fn subsections_are_there_or_not() {
    let without = Gadget { transfer: None, timer: None, ..Gadget::sample() };
    let by_hand = section(3, &[FIELDS, ADDED, LATE]);
    assert_eq!(SavedSection::encode("gadget", 0, &without), by_hand);
    assert_eq!(by_hand.decode::<Gadget>().unwrap(), without);

    let only_last = Gadget { transfer: None, ..Gadget::sample() };
    let by_hand = section(3, &[FIELDS, ADDED, LATE, TIMER]);
    assert_eq!(SavedSection::encode("gadget", 0, &only_last), by_hand);
    assert_eq!(by_hand.decode::<Gadget>().unwrap(), only_last);
}

#[test]
fn older_versions_mean_their_defaults() {
    let second = section(2, &[FIELDS, ADDED, TIMER]).decode::<Gadget>().unwrap();
    assert_eq!((second.added, second.late), (0x1234, vec![7]));
    let first = section(1, &[FIELDS]).decode::<Gadget>().unwrap();
    assert_eq!((first.added, first.late), (0xbeef, vec![7]));

    // A subsection has a version of its own.
    let old_transfer = "05 0f 6761646765742f7472616e73666572 00000001 00000010";
    let state = section(1, &[FIELDS, old_transfer]).decode::<Gadget>().unwrap();
    assert_eq!(state.transfer, Some(Transfer { left: 0x10, to_guest: true, retry: None }));
}

#[test]
fn what_is_excused_is_not_saved() {
    let state = Gadget { cache: 0x5555_5555, ..Gadget::sample() };
    let section = SavedSection::encode("gadget", 0, &state);
    assert_eq!(section, SavedSection::encode("gadget", 0, &Gadget::sample()));
    assert_eq!(section.decode::<Gadget>().unwrap().cache, 0);
}

#[test]
fn the_schema_says_it_all() {
    let schema = Gadget::schema();
    assert_eq!((schema.name(), schema.minimum_version(), schema.version()), ("gadget", 1, 3));
    assert_eq!(schema.description(), "Saved state of a device that has everything.");
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| format!("{} {} {}", field.name, field.ty, field.since))
        .collect();
    assert_eq!(
        fields,
        [
            "control uint8 1",
            "delta int16 1",
            "enabled bool 1",
            "mode enum Mode 1",
            "wide struct wide 1",
            "buffer uint8[4] 1",
            "matrix uint16[2][3] 1",
            "channels struct channel[2] 1",
            "fifo uint8[..=16] 1",
            "requests struct request[..=3] 1",
            "added uint16 2",
            "late int32[..=2] 3",
        ]
    );
    assert_eq!(schema.fields()[0].description, "A byte.");
    assert_eq!(schema.fields()[0].default, None);
    assert_eq!(schema.fields()[10].default, Some("0xbeef"));
    let Type::Enum { name: _, variants } = schema.fields()[3].ty else { panic!("mode is an enum") };
    let variants: Vec<_> =
        variants.iter().map(|one| (one.value, one.name, one.description)).collect();
    assert_eq!(
        variants,
        [
            (0, "Idle", "Nothing."),
            (1, "Counting", "It counts."),
            (0x80, "Stopped", "It has stopped.")
        ]
    );
    let subsections: Vec<_> = schema
        .subsections()
        .iter()
        .map(|one| (one.full_name, one.field, one.schema.name(), one.schema.version()))
        .collect();
    assert_eq!(
        subsections,
        [("gadget/transfer", "transfer", "transfer", 2), ("gadget/timer", "timer", "countdown", 1)]
    );
    let excused = schema.excused();
    assert_eq!((excused.len(), excused[0].name), (1, "cache"));
    assert_eq!(excused[0].reason, "recomputed from control by restore");
}

#[test]
fn values_are_read_without_the_type() {
    let section = SavedSection::encode("gadget", 0, &Gadget::sample());
    let values = Gadget::schema().values(3, &section.data).unwrap();
    assert_eq!(
        values.to_string(),
        "{control: 0x1, delta: -2, enabled: true, mode: Stopped, \
         wide: {a: 0x2030405, b: 0x60708090a0b0c0d, c: -1, d: -2, e: -3}, buffer: 7778797a, \
         matrix: [[0x1, 0x2], [0x3, 0x4], [0x5, 0x6]], \
         channels: [{count: 0x1111, gate: false}, {count: 0x2222, gate: true}], fifo: aabbcc, \
         requests: [{id: 0x9, parts: []}, {id: 0xa, parts: [{count: 0xb, gate: true}]}], \
         added: 0x1234, late: [-1], \
         gadget/transfer: {left: 0x10, to_guest: false, transfer/retry: {deadline: 0x99}}, \
         gadget/timer: {deadline: 0x77}}"
    );
    assert_eq!(values.fields[8], ("fifo", Value::Bytes(vec![0xaa, 0xbb, 0xcc])));
}

/// A reader that counts what is taken and what is looked at.
struct Pipe<'a> {
    rest: &'a [u8],
    looked: usize,
}

impl vmstate::ByteSource for Pipe<'_> {
    fn read_exact(&mut self, into: &mut [u8]) -> std::io::Result<()> {
        self.rest.read_exact(into)
    }

    fn peek(&mut self) -> std::io::Result<Option<u8>> {
        self.looked += 1;
        self.rest.peek()
    }
}

#[test]
fn a_body_is_taken_from_a_pipe_to_the_byte() {
    for state in [
        Gadget::sample(),
        Gadget { transfer: None, timer: None, ..Gadget::sample() },
        Gadget { timer: None, ..Gadget::sample() },
    ] {
        let section = SavedSection::encode("gadget", 0, &state);
        let mut stream = section.data.clone();
        stream.extend_from_slice(&[0x7e, 1, 2, 3]);
        let mut pipe = Pipe { rest: &stream, looked: 0 };
        assert_eq!(Gadget::schema().read_body(3, &mut pipe).unwrap(), section.data);
        assert_eq!(pipe.rest, [0x7e, 1, 2, 3]);
    }
}

#[test]
fn nobody_looks_ahead_within_fields() {
    let section = SavedSection::encode("request", 0, &Request { id: 5, parts: vec![] });
    let mut pipe = Pipe { rest: &section.data, looked: 0 };
    Request::schema().read_body(1, &mut pipe).unwrap();
    // Once, behind the end.
    assert_eq!(pipe.looked, 1);
}

#[test]
fn a_struct_with_subsections_can_be_the_last_field() {
    /// Saved state around a transfer.
    #[derive(Clone, Debug, PartialEq, Eq, VmState)]
    #[vmstate(name = "outer", version = 1)]
    struct Outer {
        /// Before it.
        first: u8,
        /// In it.
        inner: Inner,
        /// Behind it.
        #[vmstate(subsection = "more")]
        more: Option<Timer>,
    }
    /// Saved state with an optional part.
    #[derive(Clone, Debug, PartialEq, Eq, VmState)]
    #[vmstate(name = "inner", version = 1)]
    struct Inner {
        /// A byte.
        byte: u8,
        /// Its optional part.
        #[vmstate(subsection = "part")]
        part: Option<Timer>,
    }
    let timer = Some(Timer { deadline: 1 });
    for (part, more) in
        [(None, None), (timer.clone(), None), (None, timer.clone()), (timer.clone(), timer)]
    {
        let state = Outer { first: 5, inner: Inner { byte: 5, part }, more };
        let section = SavedSection::encode("outer", 0, &state);
        assert_eq!(section.decode::<Outer>().unwrap(), state);
        assert_eq!(Outer::schema().read_body(1, &mut &section.data[..]).unwrap(), section.data);
    }
    let all = Outer {
        first: 5,
        inner: Inner { byte: 5, part: Some(Timer { deadline: 1 }) },
        more: Some(Timer { deadline: 2 }),
    };
    assert_eq!(
        SavedSection::encode("outer", 0, &all).data,
        hex("05 05
             05 0a 696e6e65722f70617274 00000001 0000000000000001
             05 0a 6f757465722f6d6f7265 00000001 0000000000000002")
    );
}

#[test]
fn a_state_may_be_empty() {
    /// Saved state of a device without registers.
    #[derive(Debug, PartialEq, Eq, VmState)]
    #[vmstate(name = "stone", version = 1)]
    struct Stone {}
    let section = SavedSection::encode("stone", 0, &Stone {});
    assert_eq!(section.data, []);
    assert_eq!(section.decode::<Stone>().unwrap(), Stone {});
}
