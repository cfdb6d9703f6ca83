//! A small stream, byte by byte, by hand.

mod common;

use common::{Said, hex, page, read, sample, write};

const DESCRIPTION: &str = concat!(
    r#"{"configuration":{"vmsd_name":"configuration","version":1,"fields":["#,
    r#"{"name":"len","type":"uint32","size":4},{"name":"name","type":"buffer","size":7}]},"#,
    r#""page_size":4096,"devices":["#,
    r#"{"name":"machine","instance_id":0,"vmsd_name":"machine","version":1,"fields":["#,
    r#"{"name":"tree.count","type":"uint32","size":4},{"name":"tree","type":"buffer","size":4}]},"#,
    r#"{"name":"bus@10/uart","instance_id":0,"vmsd_name":"uart","version":2,"fields":["#,
    r#"{"name":"divisor","type":"uint16","size":2},{"name":"lines","type":"uint8","size":1},"#,
    r#"{"name":"fifo.count","type":"uint32","size":4},{"name":"fifo","type":"buffer","size":2}],"#,
    r#""subsections":[{"vmsd_name":"uart/timer","version":1,"fields":["#,
    r#"{"name":"deadline","type":"uint64","size":8}]}]},"#,
    r#"{"name":"pic","instance_id":0,"vmsd_name":"pic","version":1,"fields":["#,
    r#"{"name":"requests","type":"uint8","size":1},{"name":"poll","type":"bool","size":1}]},"#,
    r#"{"name":"pic","instance_id":1,"vmsd_name":"pic","version":1,"fields":["#,
    r#"{"name":"requests","type":"uint8","size":1},{"name":"poll","type":"bool","size":1}]},"#,
    r#"{"name":"digest","instance_id":0,"vmsd_name":"digest","version":1,"fields":["#,
    r#"{"name":"algorithm","type":"uint8","size":1},{"name":"memory","type":"buffer","size":32},"#,
    r#"{"name":"sections","type":"buffer","size":32}]}]}"#,
);

/// `sample()`.
fn by_hand() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |text: &str| bytes.extend(hex(text));
    // Header: magic, version. Configuration: length and name of the machine type.
    put("5145564d 00000003");
    put("07 00000007 66657272792d31");
    // Machine: FULL, number 0, name, instance 0, version 1; length, tree; footer.
    put("04 00000000 07 6d616368696e65 00000000 00000001");
    put("00000004 d00dfeed");
    put("7e 00000000");
    // RAM blocks: START, number 1, name, instance 0, version 4; total and flag 4; blocks; end.
    put("01 00000001 03 72616d 00000000 00000004");
    put("0000000000003004");
    put("03 72616d 0000000000002000");
    put("03 726f6d 0000000000001000");
    put("0000000000000010 7e 00000001");
    // First round: a page of `ram`, a zero page of the same block, a page of `rom`.
    put("02 00000001");
    put("0000000000000008 03 72616d");
    bytes.extend_from_slice(&*page(1));
    let mut put = |text: &str| bytes.extend(hex(text));
    put("0000000000001022 00");
    put("0000000000000008 03 726f6d");
    bytes.extend_from_slice(&*page(2));
    let mut put = |text: &str| bytes.extend(hex(text));
    put("0000000000000010 7e 00000001");
    // Second round: the same block as the last record of the first one.
    put("02 00000001");
    put("0000000000000022 00");
    put("0000000000000010 7e 00000001");
    // Last round.
    put("03 00000001");
    put("0000000000001008 03 72616d");
    bytes.extend_from_slice(&*page(3));
    let mut put = |text: &str| bytes.extend(hex(text));
    put("0000000000000010 7e 00000001");
    // Device sections.
    put("04 00000002 0b 6275734031302f75617274 00000000 00000002");
    put("000c 03 00000002 6162");
    put("05 0a 756172742f74696d6572 00000001 0000000011223344");
    put("7e 00000002");
    put("04 00000003 03 706963 00000000 00000001  40 00  7e 00000003");
    put("04 00000004 03 706963 00000001 00000001  40 01  7e 00000004");
    // Digest.
    put("04 00000005 06 646967657374 00000000 00000001 01");
    bytes.extend_from_slice(&[0x6d; 32]);
    bytes.extend_from_slice(&[0x73; 32]);
    bytes.extend(hex("7e 00000005"));
    // End mark, description.
    bytes.extend(hex("00 06"));
    bytes.extend_from_slice(&(DESCRIPTION.len() as u32).to_be_bytes());
    bytes.extend_from_slice(DESCRIPTION.as_bytes());
    bytes
}

#[test]
fn the_writer_writes_it() {
    assert_eq!(
        write(&sample()).unwrap().escape_ascii().to_string(),
        by_hand().escape_ascii().to_string()
    );
}

#[test]
fn the_reader_reads_it() {
    assert_eq!(read(&by_hand()[..]).unwrap(), sample());
}

#[test]
fn a_block_may_be_named_where_it_need_not_be() {
    let bytes = by_hand();
    let at = bytes.windows(9).position(|one| one == hex("0000000000001022 00")).unwrap();
    let named = [&bytes[..at], &hex("0000000000001002 03 72616d 00"), &bytes[at + 9..]].concat();
    assert_eq!(read(&named[..]).unwrap(), sample());
}

#[test]
fn an_older_section_is_read_as_it_came() {
    let mut said = sample();
    let Said::Section(uart) = &mut said[11] else { panic!("the serial port is the first device") };
    uart.version = 1;
    uart.data = hex("000c 00000002 6162");
    let bytes = write(&said).unwrap();
    assert_eq!(read(&bytes[..]).unwrap(), said);
    let Said::Section(uart) = &said[11] else { panic!("it still is") };
    assert_eq!(uart.decode::<common::Uart>().unwrap().lines, 0);
}
