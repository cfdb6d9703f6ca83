//! Damage of every kind: an error or another meaning, and never a panic or a hang.

mod common;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Read;
use std::rc::Rc;
use std::sync::Arc;

use common::{Machine, Said, page, pic, read, sample, uart, write};
use proptest::prelude::*;
use stream::{PAGE_SIZE, StreamErrorKind, StreamReader, StreamWriter};
use vmstate::DecodeErrorKind;

#[test]
fn a_stream_cut_anywhere_is_refused() {
    let bytes = write(&sample()).unwrap();
    for length in 0..bytes.len() {
        let error = read(&bytes[..length]).expect_err("it is cut");
        let cut = match error.kind() {
            StreamErrorKind::CutShort => true,
            StreamErrorKind::Section(error) => matches!(error.kind(), DecodeErrorKind::Truncated),
            _ => false,
        };
        assert!(cut, "{length}: {error}");
        assert!(error.offset() <= length as u64, "{length}: {error}");
    }
}

#[test]
fn no_damaged_byte_goes_unnoticed() {
    let said = sample();
    let bytes = write(&said).unwrap();
    let pages: Vec<std::ops::Range<usize>> = [1, 2, 3]
        .iter()
        .map(|seed| {
            let page = page(*seed);
            let start = bytes.windows(PAGE_SIZE).position(|one| one == *page).unwrap();
            start..start + PAGE_SIZE
        })
        .collect();
    let mut damaged = bytes.clone();
    let mut check = |at: usize, damage: u8| {
        damaged[at] ^= damage;
        match read(&damaged[..]) {
            Ok(other) => assert_ne!(other, said, "byte {at} ^ {damage:#x}"),
            Err(error) => assert!(error.offset() <= bytes.len() as u64, "{error}"),
        }
        damaged[at] ^= damage;
    };
    for at in 0..bytes.len() {
        if pages.iter().any(|page| page.contains(&at)) {
            check(at, 0xff);
        } else {
            for bit in 0..8 {
                check(at, 1 << bit);
            }
            check(at, 0xff);
        }
    }
}

/// A pipe with nothing in it but what was written: whoever reads further would wait for ever.
#[derive(Clone, Default)]
struct Pipe(Rc<RefCell<VecDeque<u8>>>);

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let mut pipe = self.0.borrow_mut();
        assert!(!pipe.is_empty(), "a read that would wait for ever");
        pipe.read(into)
    }
}

impl std::io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_reader_never_waits_for_what_it_does_not_need() {
    let pipe = Pipe::default();
    let mut writer = StreamWriter::new(pipe.clone(), Arc::new(Machine::new()));
    let mut reader = StreamReader::new(pipe.clone());
    reader.set_schemas(Arc::new(Machine::new()));
    for (index, said) in sample().iter().enumerate() {
        match index {
            3 | 7 => writer.begin_ram_part().unwrap(),
            9 => writer.begin_ram_end().unwrap(),
            _ => {}
        }
        common::write_one(&mut writer, said).unwrap();
        assert_eq!(Said::from(reader.next().unwrap()), *said);
        assert!(pipe.0.borrow().is_empty(), "all that was written is read");
        assert_eq!(reader.position(), writer.position());
    }
}

/// A reader that gives one byte at a time.
struct Dripping<R>(R);

impl<R: Read> Read for Dripping<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let one = into.len().min(1);
        self.0.read(&mut into[..one])
    }
}

fn round(blocks: u16) -> impl Strategy<Value = Vec<Said>> {
    let one =
        (0..blocks, 0..4u64, any::<bool>(), any::<u8>()).prop_map(|(block, index, zero, seed)| {
            let offset = index * PAGE_SIZE as u64;
            if zero { Said::ZeroPage(block, offset) } else { Said::Page(block, offset, page(seed)) }
        });
    prop::collection::vec(one, 0..6)
}

prop_compose! {
    /// Any stream of the small machine.
    fn said()(
        machine_type in "[a-z0-9.\"\\\\ \u{1}é-]{1,20}",
        tree in prop::collection::vec(any::<u8>(), 0..64),
        names in prop::collection::hash_set("[a-z@/.]{1,255}", 1..4),
    )(
        rounds in prop::collection::vec(round(names.len() as u16), 1..4),
        machine_type in Just(machine_type),
        tree in Just(tree),
        names in Just(names),
        order in Just([uart(), pic(0), pic(1)].to_vec()).prop_shuffle(),
        timer in prop::option::of(any::<u64>()),
    ) -> Vec<Said> {
        let blocks = names.into_iter().map(|name| (name, 4 * PAGE_SIZE as u64)).collect();
        let mut said =
            vec![Said::Configuration(machine_type), Said::Machine(tree), Said::RamBlocks(blocks)];
        let last = rounds.len() - 1;
        for (index, round) in rounds.into_iter().enumerate() {
            said.extend(round);
            said.push(if index == last { Said::RamEnd } else { Said::RamRoundEnd });
        }
        said.extend(order.into_iter().map(Said::Section));
        said.extend(timer.map(|deadline| {
            Said::Section(vmstate::SavedSection::encode("timer", 0, &common::Timer { deadline }))
        }));
        said.push(Said::Digest(common::digest()));
        said.push(Said::End);
        said
    }
}

proptest! {
    #[test]
    fn what_is_said_is_heard(said in said()) {
        let bytes = write(&said).unwrap();
        prop_assert_eq!(&read(&bytes[..]).unwrap(), &said);
        prop_assert_eq!(&read(Dripping(&bytes[..])).unwrap(), &said);
    }

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&bytes[..]).is_err());
    }

    /// Random bytes behind a good beginning, so that they reach every part of the reader.
    #[test]
    fn random_bytes_behind_a_beginning_are_refused(
        cut: prop::sample::Index,
        bytes in prop::collection::vec(any::<u8>(), 1..300),
    ) {
        let whole = write(&sample()).unwrap();
        let cut = cut.index(whole.len());
        let spliced = [&whole[..cut], &bytes[..]].concat();
        if let Ok(said) = read(&spliced[..]) {
            prop_assert_ne!(said, sample());
        }
    }

    /// Pieces of a good stream cut out, doubled, moved and overwritten.
    #[test]
    fn shuffled_streams_do_no_harm(
        said in said(),
        changes in prop::collection::vec(
            (0..4u8, any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..40usize, any::<u8>()),
            1..5,
        ),
    ) {
        let good = write(&said).unwrap();
        let mut bytes = good.clone();
        for (what, from, to, length, byte) in changes {
            if bytes.is_empty() {
                break;
            }
            let from = from.index(bytes.len());
            let piece = from..(from + length).min(bytes.len());
            match what {
                0 => drop(bytes.drain(piece)),
                1 => {
                    let piece = bytes[piece].to_vec();
                    let to = to.index(bytes.len() + 1);
                    drop(bytes.splice(to..to, piece));
                }
                2 => bytes[piece].fill(byte),
                _ => bytes[from] = byte,
            }
        }
        match read(&bytes[..]) {
            Ok(heard) => prop_assert_eq!(heard == said, bytes == good),
            Err(error) => prop_assert!(error.offset() <= bytes.len() as u64),
        }
    }
}
