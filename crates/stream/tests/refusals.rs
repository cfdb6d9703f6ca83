//! Everything that is refused, and the words it is refused with.

mod common;

use std::io::Cursor;
use std::sync::Arc;

use common::{Machine, Said, hex, page, pic, read, sample, uart, write, write_one};
use stream::{StreamErrorKind, StreamReader, StreamWriter};
use vmstate::SavedSection;

fn position(bytes: &[u8], part: &[u8]) -> usize {
    bytes.windows(part.len()).position(|one| one == part).expect("the sample has this part")
}

/// The sample with one part put in place of another; the offset of the change, and the error.
fn refused_with(part: &str, other: &str) -> (u64, String) {
    let (part, other) = (hex(part), hex(other));
    let bytes = write(&sample()).unwrap();
    let at = position(&bytes, &part);
    let bytes = [&bytes[..at], &other, &bytes[at + part.len()..]].concat();
    let error = read(&bytes[..]).expect_err("it is refused");
    let text = error.to_string();
    let prefix = format!("byte {} of the stream: ", error.offset());
    let bare = text.strip_prefix(&prefix).expect("it names the byte").to_owned();
    (error.offset() - at as u64, bare)
}

fn refused(part: &str, other: &str) -> String {
    refused_with(part, other).1
}

const MACHINE: &str = "04 00000000 07 6d616368696e65 00000000 00000001";
const RAM: &str = "01 00000001 03 72616d 00000000 00000004";
const BLOCKS: &str = "0000000000003004 03 72616d 0000000000002000 03 726f6d 0000000000001000";
const PIC_0: &str = "04 00000003 03 706963 00000000 00000001 40 00 7e 00000003";
const PIC_1: &str = "04 00000004 03 706963 00000001 00000001 40 01 7e 00000004";

#[test]
fn the_header() {
    assert_eq!(
        refused("5145564d", "5145564e"),
        "not a migration stream: it begins with 0x5145564e"
    );
    assert_eq!(
        refused_with("5145564d 00000003", "5145564d 00000002"),
        (4, "version 2 of the stream format is not known".to_owned())
    );
}

#[test]
fn the_configuration() {
    let refused = |other: &str| refused("07 00000007 66657272792d31", other);
    assert_eq!(
        refused("04 00000007 66657272792d31"),
        "expected the header and the configuration, found type 0x04"
    );
    assert_eq!(refused("07 00000000"), "the machine type has no name");
    assert_eq!(
        refused("07 ffffffff"),
        "the name of the machine type has 4294967295 bytes, and 255 are allowed"
    );
    assert_eq!(refused("07 00000007 ff657272792d31"), "the name of the machine type is not UTF-8");
    // A subsection of the configuration.
    assert_eq!(
        refused("07 00000007 66657272792d31 05 12"),
        "expected the machine section, found type 0x05"
    );
    // Another machine type of the same length is for the machine's builder to refuse; of another
    // length it does not fit its description either.
    assert!(refused("07 00000008 66657272792d3131").starts_with("the description differs"),);
}

#[test]
fn the_machine() {
    assert_eq!(
        refused(MACHINE, "04 00000001 07 6d616368696e65 00000000 00000001"),
        "section number 1 where 0 is due"
    );
    assert_eq!(
        refused(MACHINE, "04 00000000 07 4d616368696e65 00000000 00000001"),
        "section \"Machine\" instance 0: expected section \"machine\" instance 0"
    );
    assert_eq!(
        refused(MACHINE, "04 00000000 07 6d616368696e65 00000001 00000001"),
        "section \"machine\" instance 1: expected section \"machine\" instance 0"
    );
    assert_eq!(
        refused(MACHINE, "04 00000000 07 6d616368696e65 00000000 00000002"),
        "section \"machine\" instance 0: version 2 is not supported: version 1 is"
    );
    assert_eq!(refused(MACHINE, "04 00000000 00"), "a section has no name");
    assert_eq!(refused(MACHINE, "04 00000000 01 ff"), "the name of a section is not UTF-8");
    assert_eq!(refused(MACHINE, RAM), "expected the machine section, found type 0x01");
    assert_eq!(
        refused("00000004 d00dfeed", "00100001 d00dfeed"),
        "section \"machine\" instance 0, field tree, byte 0: \
         1048577 elements where at most 1048576 may be"
    );
}

#[test]
fn footers() {
    assert_eq!(
        refused_with("7e 00000003", "7f 00000003"),
        (0, "section \"pic\" instance 0: no footer where the section ends: found 0x7f".to_owned())
    );
    assert_eq!(
        refused_with("7e 00000003", "7e 00000004"),
        (1, "section \"pic\" instance 0: the footer names section 4 and ends section 3".to_owned())
    );
    // One byte of state too many.
    assert_eq!(
        refused("40 00 7e 00000003", "40 00 00 7e 00000003"),
        "section \"pic\" instance 0: no footer where the section ends: found 0x00"
    );
    // One too few.
    assert_eq!(
        refused("40 00 7e 00000003", "40 7e 00000003"),
        "section \"pic\" instance 0, field poll, byte 1: 126 is not a boolean"
    );
}

#[test]
fn the_list_of_ram_blocks() {
    assert_eq!(refused(RAM, PIC_0), "expected the list of RAM blocks, found type 0x04");
    assert_eq!(
        refused(RAM, "01 00000001 03 72616d 00000000 00000003"),
        "section \"ram\" instance 0: version 3 is not supported: version 4 is"
    );
    let refused = |other: &str| {
        let text = refused(BLOCKS, other);
        text.strip_prefix("section \"ram\" instance 0: ").expect("it names the section").to_owned()
    };
    assert_eq!(refused("0000000000003008"), "the list of RAM blocks begins with 0x3008");
    assert_eq!(refused("0000000000000004"), "there are no RAM blocks");
    assert_eq!(refused("0000000000003004 00"), "a RAM block has no name");
    assert_eq!(refused("0000000000003004 01 ff"), "the name of a RAM block is not UTF-8");
    assert_eq!(
        refused("0000000000003004 03 72616d 0000000000004000"),
        "with RAM block \"ram\" of 16384 bytes there are more than the 12288 announced"
    );
    assert_eq!(
        refused("0000000000003004 03 72616d 0000000000000800"),
        "RAM block \"ram\" has 2048 bytes, which is not a number of pages"
    );
    assert_eq!(
        refused("0000000000003004 03 72616d 0000000000000000"),
        "RAM block \"ram\" has 0 bytes, which is not a number of pages"
    );
    assert_eq!(
        refused("0000000000003004 03 72616d 0000000000002000 03 72616d 0000000000001000"),
        "RAM block \"ram\" comes twice"
    );
    let longer = "0000000000003004 03 72616d 0000000000002000 03 726f6d 0000000000001000
                  0000000000001010";
    assert_eq!(refused(longer), "the end of the RAM section has the offset 0x1000");
    let flags = "0000000000003004 03 72616d 0000000000002000 03 726f6d 0000000000001000
                  0000000000000008";
    assert_eq!(refused(flags), "RAM record with flags 0x008");
}

#[test]
fn pages() {
    let first = "02 00000001 0000000000000008 03 72616d";
    assert_eq!(
        refused(first, "02 00000002"),
        "section \"ram\" instance 0: section number 2 where 1 is due"
    );
    assert_eq!(
        refused(first, "04 00000002"),
        "expected the beginning of a round of pages, found type 0x04"
    );
    let refused = |other: &str| {
        let text = refused(first, other);
        text.strip_prefix("section \"ram\" instance 0: ").expect("it names the section").to_owned()
    };
    for flags in
        ["001", "004", "00a", "018", "030", "040", "048", "080", "100", "200", "000", "020"]
    {
        let record = format!("02 00000001 0000000000000{flags} 03 72616d");
        assert_eq!(refused(&record), format!("RAM record with flags 0x{flags}"));
    }
    assert_eq!(
        refused("02 00000001 0000000000000028 03 72616d"),
        "a page of the same RAM block as the page before, and there was none"
    );
    assert_eq!(
        refused("02 00000001 0000000000000008 03 72616e"),
        "a page of an unknown RAM block \"ran\""
    );
    assert_eq!(refused("02 00000001 0000000000000008 00"), "a RAM block has no name");
    assert_eq!(
        refused("02 00000001 0000000000002008 03 72616d"),
        "a page at 0x2000 of RAM block \"ram\", which has 0x2000 bytes"
    );
    assert_eq!(
        refused("02 00000001 fffffffffffff008 03 72616d"),
        "a page at 0xfffffffffffff000 of RAM block \"ram\", which has 0x2000 bytes"
    );
    assert_eq!(
        refused("02 00000001 0000000000000002 03 72616d 01"),
        "a page of zeroes is filled with 0x01"
    );
    assert_eq!(
        refused("02 00000001 0000000000001010"),
        "the end of the RAM section has the offset 0x1000"
    );
}

#[test]
fn unknown_sections() {
    let (offset, text) =
        refused_with(PIC_1, "04 00000004 03 706963 00000002 00000001 40 01 7e 00000004");
    assert_eq!(text, "section \"pic\" instance 2: the machine has no such section");
    assert_eq!(offset, 5);
    assert_eq!(
        refused(PIC_1, "04 00000004 03 706964 00000001 00000001 40 01 7e 00000004"),
        "section \"pid\" instance 1: the machine has no such section"
    );
    // A second machine, RAM as a device.
    let device = MACHINE.replacen("00000000", "00000004", 1);
    assert_eq!(refused(PIC_1, &device), "section \"machine\" instance 0: the section comes twice");
    assert_eq!(
        refused(PIC_1, "04 00000004 03 72616d 00000000 00000004"),
        "section \"ram\" instance 0: the section comes twice"
    );
    assert_eq!(
        refused(PIC_1, "04 00000004 06 646967657374 00000001 00000001"),
        "section \"digest\" instance 1: the machine has no such section"
    );
    // A command, which QEMU has and Ferry's stream has not.
    assert_eq!(
        refused(PIC_1, "08 0001 0000"),
        "expected a device section or the digest, found type 0x08"
    );
}

#[test]
fn sections_twice_or_missing() {
    assert_eq!(
        refused_with(PIC_1, "04 00000004 03 706963 00000000 00000001"),
        (5, "section \"pic\" instance 0: the section comes twice".to_owned())
    );
    let digest = "04 00000004 06 646967657374 00000000 00000001 01";
    assert_eq!(refused(PIC_1, digest), "missing: section \"pic\" 1");
    assert_eq!(
        refused(PIC_0, &digest.replacen("00000004", "00000003", 1)),
        "missing: section \"pic\" 0, section \"pic\" 1"
    );
    // The end without a digest.
    assert_eq!(
        refused("04 00000005 06 646967657374", "00 06"),
        "expected a device section or the digest, found type 0x00"
    );
}

#[test]
fn the_number_of_a_section() {
    assert_eq!(
        refused_with(PIC_0, "04 00000004 03 706963 00000000 00000001"),
        (1, "section number 4 where 3 is due".to_owned())
    );
}

#[test]
fn versions_of_sections() {
    assert_eq!(
        refused(PIC_0, "04 00000003 03 706963 00000000 00000002 40 00 7e 00000003"),
        "section \"pic\" instance 0, byte 0: version 2 of \"pic\" is not supported: \
         versions 1 to 1 are"
    );
}

#[test]
fn fields_and_subsections() {
    let (offset, text) = refused_with("40 01 7e 00000004", "40 03 7e 00000004");
    assert_eq!(text, "section \"pic\" instance 1, field poll, byte 1: 3 is not a boolean");
    assert_eq!(offset, 1);
    assert_eq!(
        refused("05 0a 756172742f74696d6572", "05 0a 756172742f74696d6573"),
        "section \"bus@10/uart\" instance 0, byte 9: unknown subsection \"uart/times\""
    );
    assert_eq!(
        refused("000c 03 00000002 6162", "000c 03 00000005 6162"),
        "section \"bus@10/uart\" instance 0, field fifo, byte 3: \
         5 elements where at most 4 may be"
    );
    let error = {
        let bytes = write(&sample()).unwrap();
        let at = position(&bytes, &hex("40 01 7e 00000004"));
        let mut bytes = bytes.clone();
        bytes[at + 1] = 3;
        read(&bytes[..]).unwrap_err()
    };
    assert_eq!((error.section(), error.field()), (Some(("pic", 1)), Some("poll")));
}

#[test]
fn the_digest() {
    assert_eq!(
        refused("646967657374 00000000 00000001 01", "646967657374 00000000 00000001 02"),
        "section \"digest\" instance 0, byte 0: invalid state: unknown hash function 2"
    );
    let after = format!("7e 00000005 {}", PIC_1.replacen("00000004", "00000006", 1));
    assert_eq!(refused("7e 00000005", &after), "expected the end mark, found type 0x04");
}

#[test]
fn the_description() {
    // "deadline" becomes "deadlinf": the peer means another field by the same bytes.
    let (_, text) = refused_with("646561646c696e65", "646561646c696e66");
    assert!(text.starts_with("the description differs from what was read; expected `"), "{text}");
    assert!(text.contains("deadline") && text.contains("deadlinf"), "{text}");

    let bytes = write(&sample()).unwrap();
    let error = read(&bytes[..bytes.len() - 1]).unwrap_err();
    assert!(matches!(error.kind(), StreamErrorKind::CutShort), "{error}");
    let mut without = bytes.clone();
    let at = position(&bytes, b"{\"configuration\"");
    without.truncate(at - 5);
    assert!(matches!(read(&without[..]).unwrap_err().kind(), StreamErrorKind::CutShort));
    without.extend(hex("07"));
    assert_eq!(
        read(&without[..]).unwrap_err().to_string(),
        format!("byte {} of the stream: expected the end mark, found type 0x07", at - 5)
    );
    let length = (bytes.len() - at) as u32;
    let mut longer = bytes;
    longer[at - 4..at].copy_from_slice(&(length + 1).to_be_bytes());
    longer.push(b' ');
    let error = read(&longer[..]).unwrap_err();
    assert_eq!(error.offset(), at as u64 - 4);
    let StreamErrorKind::DescriptionLength { expected, found } = error.kind() else {
        panic!("{error}")
    };
    assert_eq!((*expected as u32, *found), (length, length + 1));
}

#[test]
fn bytes_after_the_end() {
    let mut bytes = write(&sample()).unwrap();
    let end = bytes.len();
    bytes.push(0);
    let error = read(&bytes[..]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("byte {end} of the stream: bytes after the end of the stream")
    );
}

#[test]
fn sections_before_schemas() {
    let bytes = write(&sample()).unwrap();
    let mut reader = StreamReader::new(&bytes[..]);
    let error = loop {
        if let Err(error) = reader.next() {
            break error;
        }
    };
    assert!(matches!(error.kind(), StreamErrorKind::NoSchemas), "{error}");
    // An error is the end.
    let error = reader.next().unwrap_err();
    assert!(matches!(error.kind(), StreamErrorKind::ReadAfterEnd), "{error}");
}

#[test]
fn the_end_comes_once() {
    let bytes = write(&sample()).unwrap();
    let mut reader = StreamReader::new(&bytes[..]);
    reader.set_schemas(Arc::new(Machine::new()));
    assert!(reader.expect_end_of_input().is_err());
    while !matches!(reader.next().unwrap(), stream::Event::End) {}
    assert_eq!(reader.position(), bytes.len() as u64);
    reader.expect_end_of_input().unwrap();
    assert!(matches!(reader.next().unwrap_err().kind(), StreamErrorKind::ReadAfterEnd));
}

#[test]
fn a_channel_that_fails_is_the_cause() {
    struct Unplugged;
    impl std::io::Read for Unplugged {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("unplugged"))
        }
    }
    let bytes = write(&sample()).unwrap();
    for cut in 0..=bytes.len() {
        let input = std::io::Read::chain(Cursor::new(&bytes[..cut]), Unplugged);
        let error: &dyn std::error::Error = &read(input).expect_err("it fails");
        let cause = error.source().unwrap_or_else(|| panic!("{cut}: {error}"));
        assert_eq!(cause.to_string(), "unplugged");
    }
}

/// A writer that has written the first `count` things of the sample.
fn writer_after(count: usize) -> StreamWriter<Vec<u8>> {
    let mut writer = StreamWriter::new(Vec::new(), Arc::new(Machine::new()));
    for (index, said) in sample()[..count].iter().enumerate() {
        match index {
            3 | 7 => writer.begin_ram_part().unwrap(),
            9 => writer.begin_ram_end().unwrap(),
            _ => {}
        }
        write_one(&mut writer, said).unwrap();
    }
    writer
}

/// True if this may be said after the first `count` things of the sample.
fn is_due(count: usize, said: &Said) -> bool {
    let pages = matches!(count, 4..=6 | 8 | 10);
    match said {
        Said::Configuration(_) => count == 0,
        Said::Machine(_) => count == 1,
        Said::RamBlocks(_) => count == 2,
        Said::Page(..) | Said::ZeroPage(..) => pages,
        Said::RamRoundEnd => pages && count != 10,
        Said::RamEnd => count == 10,
        Said::Section(section) => {
            (11..=14).contains(&count)
                && !sample()[..count].contains(&Said::Section(section.clone()))
        }
        Said::Digest(_) => count == 14,
        Said::End => count == 15,
    }
}

#[test]
fn the_writer_keeps_the_order() {
    let sample = sample();
    for count in 0..=sample.len() {
        for said in &sample {
            let mut writer = writer_after(count);
            let written = writer.position();
            let result = write_one(&mut writer, said);
            assert_eq!(result.is_ok(), is_due(count, said), "{said:?} after {count}: {result:?}");
            let Err(error) = result else { continue };
            assert!(
                matches!(
                    error.kind(),
                    StreamErrorKind::OutOfOrder { .. }
                        | StreamErrorKind::RepeatedSection
                        | StreamErrorKind::MissingSections(_)
                ),
                "{said:?} after {count}: {error}"
            );
            assert_eq!(writer.position(), written, "nothing was written");
        }
    }
    assert!(writer_after(4).begin_ram_part().is_err());
    assert!(writer_after(4).end_ram_end().is_err());
    assert!(writer_after(11).begin_ram_end().is_err());
    assert_eq!(
        writer_after(2).section(&uart()).unwrap_err().to_string(),
        format!(
            "byte {} of the stream: a device section was written where the list of RAM blocks \
             is due",
            writer_after(2).position()
        )
    );
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let refused = |count: usize, said: &Said| {
        let mut writer = writer_after(count);
        let written = writer.position();
        let error = write_one(&mut writer, said).expect_err("it is refused");
        assert_eq!((writer.position(), error.offset()), (written, written));
        let text = error.to_string();
        text.strip_prefix(&format!("byte {written} of the stream: ")).unwrap().to_owned()
    };
    assert_eq!(refused(0, &Said::Configuration(String::new())), "the machine type has no name");
    assert_eq!(
        refused(0, &Said::Configuration("x".repeat(256))),
        "the name of the machine type has 256 bytes, and 255 are allowed"
    );
    assert_eq!(
        refused(1, &Said::Machine(vec![0; (1 << 20) + 1])),
        "the device tree has 1048577 bytes, and 1048576 are allowed"
    );
    let blocks = |blocks: &[(&str, u64)]| {
        Said::RamBlocks(blocks.iter().map(|(name, length)| ((*name).to_owned(), *length)).collect())
    };
    assert_eq!(refused(2, &blocks(&[])), "there are no RAM blocks");
    assert_eq!(refused(2, &blocks(&[("", 4096)])), "a RAM block has no name");
    assert_eq!(
        refused(2, &blocks(&[(&"x".repeat(256), 4096)])),
        "the name of a RAM block has 256 bytes, and 255 are allowed"
    );
    assert_eq!(
        refused(2, &blocks(&[("ram", 4095)])),
        "RAM block \"ram\" has 4095 bytes, which is not a number of pages"
    );
    assert_eq!(
        refused(2, &blocks(&[("ram", 4096), ("ram", 4096)])),
        "RAM block \"ram\" comes twice"
    );
    let huge = u64::MAX - 4095;
    assert!(refused(2, &blocks(&[("one", huge), ("two", huge)])).contains("\"two\""));
    assert_eq!(refused(4, &Said::Page(2, 0, page(0))), "a page of RAM block 2, which there is not");
    assert_eq!(
        refused(4, &Said::ZeroPage(0, 0x2000)),
        "a page at 0x2000 of RAM block \"ram\", which has 0x2000 bytes"
    );
    assert_eq!(refused(4, &Said::ZeroPage(0, 0x800)), "a page at 0x800, where no page begins");
    assert_eq!(
        refused(11, &Said::Section(SavedSection { name: "none".to_owned(), ..uart() })),
        "section \"none\" instance 0: the machine has no such section"
    );
    let digest = SavedSection::encode("digest", 0, &common::digest());
    assert_eq!(
        refused(11, &Said::Section(digest)),
        "section \"digest\" instance 0: the machine has no such section"
    );
    assert_eq!(
        refused(13, &Said::Section(pic(0))),
        "section \"pic\" instance 0: the section comes twice"
    );
    let mut long = uart();
    long.data = hex("000c 03 00000005 6162636465");
    let mut writer = writer_after(11);
    let written = writer.position();
    assert!(writer.section(&long).unwrap_err().to_string().ends_with(
        "section \"bus@10/uart\" instance 0, field fifo, byte 3: \
             5 elements where at most 4 may be"
    ));
    assert_eq!(writer.position(), written);
    // After a refusal the right thing may still be written.
    writer.section(&uart()).unwrap();
    assert_eq!(
        refused(12, &Said::Digest(common::digest())),
        "missing: section \"pic\" 0, section \"pic\" 1"
    );
}

#[test]
fn a_writer_whose_output_failed_writes_nothing_more() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            if taken == 0 { Err(std::io::Error::other("full")) } else { Ok(taken) }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut writer = StreamWriter::new(Full(10), Arc::new(Machine::new()));
    let error = writer.configuration("ferry-1").unwrap_err();
    assert!(matches!(error.kind(), StreamErrorKind::Io(_)), "{error}");
    *writer.get_mut() = Full(1000);
    assert!(matches!(
        writer.configuration("ferry-1").unwrap_err().kind(),
        StreamErrorKind::OutOfOrder { .. }
    ));
    assert!(writer.machine(&[]).is_err());
}
