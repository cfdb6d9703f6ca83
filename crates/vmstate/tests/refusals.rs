//! Everything that is refused, and the words it is refused with.

mod common;

use common::{Gadget, Request, Transfer, hex};
use vmstate::{DecodeErrorKind, SavedSection, VmState};

fn sample() -> SavedSection {
    SavedSection::encode("gadget", 7, &Gadget::sample())
}

/// The error, which decoding with and without the type must agree on.
fn refused(section: &SavedSection) -> String {
    let error = section.decode::<Gadget>().expect_err("it is refused").to_string();
    let prefix = format!("section {:?} instance {}, ", section.name, section.instance);
    let bare = error.strip_prefix(&prefix).expect("it names the section");
    let untyped = Gadget::schema().values(section.version, &section.data);
    assert_eq!(untyped.expect_err("it is refused").to_string(), bare);
    bare.to_owned()
}

fn with(offset: usize, bytes: &[u8]) -> SavedSection {
    let mut section = sample();
    section.data[offset..offset + bytes.len()].copy_from_slice(bytes);
    section
}

#[test]
fn a_boolean_is_zero_or_one() {
    assert_eq!(refused(&with(3, &[2])), "field enabled, byte 3: 2 is not a boolean");
    assert_eq!(
        refused(&with(51, &[0xff])),
        "field channels[1].gate, byte 51: 255 is not a boolean"
    );
}

#[test]
fn an_enumeration_has_its_values() {
    assert_eq!(refused(&with(4, &[2])), "field mode, byte 4: 2 is not a Mode");
}

#[test]
fn a_list_has_a_bound() {
    assert_eq!(
        refused(&with(52, &[0, 0, 0, 17])),
        "field fifo, byte 52: 17 elements where at most 16 may be"
    );
    assert_eq!(
        refused(&with(52, &[0xff; 4])),
        "field fifo, byte 52: 4294967295 elements where at most 16 may be"
    );
    assert_eq!(
        refused(&with(75, &[0, 0, 0, 3])),
        "field requests[1].parts, byte 75: 3 elements where at most 2 may be"
    );
}

#[test]
fn a_list_beyond_its_bound_is_written_and_refused() {
    let state = Gadget { fifo: vec![0; 17], ..Gadget::sample() };
    let section = SavedSection::encode("gadget", 7, &state);
    assert_eq!(refused(&section), "field fifo, byte 52: 17 elements where at most 16 may be");
}

#[test]
fn a_subsection_is_known() {
    let mut section = sample();
    section.data.extend(hex("05 08 6761646765742f78 00000001 00"));
    let at = sample().data.len();
    assert_eq!(refused(&section), format!("byte {at}: unknown subsection \"gadget/x\""));
    // Nor may it be another structure's.
    let mut section = sample();
    section.data.extend(hex("05 0e 7472616e736665722f7265747279 00000001 0000000000000099"));
    assert_eq!(refused(&section), format!("byte {at}: unknown subsection \"transfer/retry\""));
    // Nor a name that is none.
    let mut section = sample();
    section.data.extend(hex("05 02 fffe 00000001 00"));
    assert_eq!(refused(&section), format!("byte {at}: unknown subsection \"\u{fffd}\u{fffd}\""));
}

#[test]
fn a_subsection_comes_once_and_in_order() {
    let fields = Gadget { transfer: None, timer: None, ..Gadget::sample() };
    let fields = SavedSection::encode("gadget", 7, &fields);
    let end = fields.data.len();
    let timer = Gadget { transfer: None, ..Gadget::sample() };
    let timer = SavedSection::encode("gadget", 7, &timer).data.split_off(end);
    let transfer = Gadget { timer: None, ..Gadget::sample() };
    let transfer = SavedSection::encode("gadget", 7, &transfer).data.split_off(end);

    let twice = [&fields.data[..], &timer, &timer].concat();
    let at = end + timer.len();
    assert_eq!(
        refused(&SavedSection { data: twice, ..fields.clone() }),
        format!("byte {at}: subsection \"gadget/timer\" comes twice or out of order")
    );
    let swapped = [&fields.data[..], &timer, &transfer].concat();
    assert_eq!(
        refused(&SavedSection { data: swapped, ..fields.clone() }),
        format!("byte {at}: subsection \"gadget/transfer\" comes twice or out of order")
    );
    let twice = [&fields.data[..], &transfer, &transfer].concat();
    let at = end + transfer.len();
    assert_eq!(
        refused(&SavedSection { data: twice, ..fields }),
        format!(
            "field timer, byte {at}: subsection \"gadget/transfer\" comes twice or out of order"
        )
    );
}

#[test]
fn a_version_is_one_that_is_known() {
    for version in [0, 4, u32::MAX] {
        assert_eq!(
            refused(&SavedSection { version, ..sample() }),
            format!(
                "byte 0: version {version} of \"gadget\" is not supported: versions 1 to 3 are"
            )
        );
    }
    let fields = Gadget { transfer: None, timer: None, ..Gadget::sample() };
    let mut section = SavedSection::encode("gadget", 7, &fields);
    let at = section.data.len() + 2 + 15 + 4;
    section.data.extend(hex("05 0f 6761646765742f7472616e73666572 00000003"));
    assert_eq!(
        refused(&section),
        format!(
            "field transfer, byte {at}: version 3 of \"gadget/transfer\" is not supported: \
             versions 1 to 2 are"
        )
    );

    /// Saved state that has left its first version behind.
    #[derive(Debug, VmState)]
    #[vmstate(name = "modern", version = 3, minimum_version = 2)]
    struct Modern {
        /// A byte.
        byte: u8,
    }
    let old = SavedSection { name: "modern".to_owned(), instance: 0, version: 1, data: vec![1] };
    let error = old.decode::<Modern>().unwrap_err();
    assert!(error.to_string().ends_with("not supported: versions 2 to 3 are"), "{error}");
    assert_eq!(SavedSection { version: 2, ..old }.decode::<Modern>().unwrap().byte, 1);
}

#[test]
fn nothing_follows() {
    let mut section = sample();
    section.data.push(0);
    let at = sample().data.len();
    assert_eq!(refused(&section), format!("byte {at}: 1 bytes too many"));
}

#[test]
fn nothing_is_cut() {
    let whole = sample();
    // Three of the prefixes are states without a subsection.
    let mut complete = Vec::new();
    for length in 0..whole.data.len() {
        let cut = SavedSection { data: whole.data[..length].to_vec(), ..whole.clone() };
        match cut.decode::<Gadget>() {
            Ok(_) => complete.push(length),
            Err(error) => {
                assert!(matches!(error.kind(), DecodeErrorKind::Truncated), "{length}: {error}");
                assert!(error.offset() <= length as u64);
                refused(&cut);
            }
        }
    }
    let without = |state: Gadget| SavedSection::encode("gadget", 7, &state).data.len();
    let transfer = Transfer { retry: None, ..Gadget::sample().transfer.unwrap() };
    assert_eq!(
        complete,
        [
            without(Gadget { transfer: None, timer: None, ..Gadget::sample() }),
            without(Gadget { transfer: Some(transfer), timer: None, ..Gadget::sample() }),
            without(Gadget { timer: None, ..Gadget::sample() }),
        ]
    );
}

#[test]
fn a_state_is_validated() {
    let error = with(0, &[0xff]).decode::<Gadget>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "section \"gadget\" instance 7, byte 0: invalid state: enabled without a control word"
    );
    assert_eq!((error.section(), error.path()), (Some(("gadget", 7)), ""));
}

#[test]
fn a_state_within_a_state_is_validated_with_its_path() {
    fn check(state: &Even) -> Result<(), vmstate::Invalid> {
        if state.number.is_multiple_of(2) { Ok(()) } else { Err(vmstate::Invalid::new("odd")) }
    }
    /// A number.
    #[derive(Debug, VmState)]
    #[vmstate(name = "even", version = 1, validate = "check")]
    struct Even {
        /// An even number.
        number: u16,
    }
    /// Numbers.
    #[derive(Debug, VmState)]
    #[vmstate(name = "numbers", version = 1)]
    struct Numbers {
        /// Even numbers.
        all: [Even; 2],
    }
    let section = SavedSection {
        name: "numbers".to_owned(),
        instance: 0,
        version: 1,
        data: vec![0, 2, 0, 3],
    };
    let error = section.decode::<Numbers>().unwrap_err();
    assert_eq!((error.path(), error.offset()), ("all[1]", 2));
    assert_eq!(
        error.to_string(),
        "section \"numbers\" instance 0, field all[1], byte 2: invalid state: odd"
    );
    let section = SavedSection { data: vec![0, 2, 0, 4], ..section };
    let numbers = section.decode::<Numbers>().unwrap();
    assert_eq!(numbers.all.map(|even| even.number), [2, 4]);
}

#[test]
fn a_source_that_fails_is_named() {
    struct Broken;
    impl vmstate::ByteSource for Broken {
        fn read_exact(&mut self, _: &mut [u8]) -> std::io::Result<()> {
            Err(std::io::Error::other("unplugged"))
        }
        fn peek(&mut self) -> std::io::Result<Option<u8>> {
            Err(std::io::Error::other("unplugged"))
        }
    }
    let error = Request::schema().read_body(1, &mut Broken).unwrap_err();
    assert_eq!(error.to_string(), "field id, byte 0: the data cannot be read");
    let cause = std::error::Error::source(&error).expect("it has a cause");
    assert_eq!(cause.to_string(), "unplugged");
}

#[test]
fn a_body_has_an_end() {
    /// Saved state without a sensible bound.
    #[derive(Debug, VmState)]
    #[vmstate(name = "huge", version = 1)]
    struct Huge {
        /// Too many bytes.
        #[vmstate(max = u32::MAX)]
        bytes: Vec<u8>,
    }
    struct Endless;
    impl vmstate::ByteSource for Endless {
        fn read_exact(&mut self, into: &mut [u8]) -> std::io::Result<()> {
            into.fill(0xff);
            Ok(())
        }
        fn peek(&mut self) -> std::io::Result<Option<u8>> {
            Ok(Some(0xff))
        }
    }
    let error = Huge::schema().read_body(1, &mut Endless).unwrap_err();
    assert_eq!(error.path(), "bytes");
    assert!(matches!(error.kind(), DecodeErrorKind::TooLong(vmstate::MAX_BODY)), "{error}");
}
