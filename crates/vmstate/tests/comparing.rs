//! What differs, by name; and the description in QEMU's form.

mod common;

use common::{Channel, Gadget, Timer, Transfer};
use vmstate::{SavedSection, VmState};

fn differences(one: &Gadget, other: &Gadget) -> Vec<String> {
    let encode = |state| SavedSection::encode("gadget", 0, state).data;
    let found = Gadget::schema().compare(3, &encode(one), &encode(other)).unwrap();
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn differences_are_named_in_the_order_of_the_stream() {
    let one = Gadget::sample();
    let mut other = one.clone();
    other.delta = 5;
    other.mode = common::Mode::Idle;
    other.wide.b = 1;
    other.buffer[2] = 0;
    other.matrix[1][0] = 0x33;
    other.channels[1].gate = false;
    other.fifo.pop();
    other.requests[1].parts[0] = Channel { count: 12, gate: true };
    assert_eq!(
        differences(&one, &other),
        [
            "delta: -2 and 5",
            "mode: Stopped and Idle",
            "wide.b: 0x60708090a0b0c0d and 0x1",
            "buffer[2]: 0x79 and 0x0",
            "matrix[1][0]: 0x3 and 0x33",
            "channels[1].gate: true and false",
            "fifo.count: 3 and 2",
            "requests[1].parts[0].count: 0xb and 0xc",
        ]
    );
}

#[test]
fn subsections_that_are_missing_are_differences() {
    let one = Gadget::sample();
    let other = Gadget {
        transfer: Some(Transfer { retry: None, ..one.transfer.clone().unwrap() }),
        timer: None,
        ..one.clone()
    };
    assert_eq!(
        differences(&one, &other),
        [
            "gadget/transfer.transfer/retry: {deadline: 0x99} and nothing",
            "gadget/timer: {deadline: 0x77} and nothing",
        ]
    );
    assert_eq!(
        differences(&other, &one),
        [
            "gadget/transfer.transfer/retry: nothing and {deadline: 0x99}",
            "gadget/timer: nothing and {deadline: 0x77}",
        ]
    );
    let later = Gadget { timer: Some(Timer { deadline: 0x78 }), ..one.clone() };
    assert_eq!(differences(&one, &later), ["gadget/timer.deadline: 0x77 and 0x78"]);
}

#[test]
fn bodies_that_are_none_cannot_be_compared() {
    let good = SavedSection::encode("gadget", 0, &Gadget::sample()).data;
    let error = Gadget::schema().compare(3, &good, &good[1..]).unwrap_err();
    assert!(!error.to_string().is_empty());
}

#[test]
fn the_description_is_in_the_form_of_qemu() {
    let section = SavedSection::encode("gadget", 0, &Gadget::sample());
    let schema = Gadget::schema();
    let values = schema.values(3, &section.data).unwrap();
    let pieces = [
        r#"{"name":"bus/gadget \"1\"","instance_id":4,"vmsd_name":"gadget","version":3,"fields":["#,
        r#"{"name":"control","type":"uint8","size":1},"#,
        r#"{"name":"delta","type":"int16","size":2},"#,
        r#"{"name":"enabled","type":"bool","size":1},"#,
        r#"{"name":"mode","type":"uint8","size":1},"#,
        r#"{"name":"wide","type":"struct","struct":{"vmsd_name":"wide","version":1,"fields":["#,
        r#"{"name":"a","type":"uint32","size":4},{"name":"b","type":"uint64","size":8},"#,
        r#"{"name":"c","type":"int8","size":1},{"name":"d","type":"int32","size":4},"#,
        r#"{"name":"e","type":"int64","size":8}]},"size":25},"#,
        r#"{"name":"buffer","type":"buffer","size":4},"#,
        r#"{"name":"matrix","array_len":6,"type":"uint16","size":2},"#,
        r#"{"name":"channels","array_len":2,"type":"struct","struct":{"vmsd_name":"channel","#,
        r#""version":1,"fields":[{"name":"count","type":"uint16","size":2},"#,
        r#"{"name":"gate","type":"bool","size":1}]},"size":3},"#,
        r#"{"name":"fifo.count","type":"uint32","size":4},"#,
        r#"{"name":"fifo","type":"buffer","size":3},"#,
        r#"{"name":"requests.count","type":"uint32","size":4},"#,
        r#"{"name":"requests","index":0,"type":"struct","struct":{"vmsd_name":"request","#,
        r#""version":1,"fields":[{"name":"id","type":"uint32","size":4},"#,
        r#"{"name":"parts.count","type":"uint32","size":4}]},"size":8},"#,
        r#"{"name":"requests","index":1,"type":"struct","struct":{"vmsd_name":"request","#,
        r#""version":1,"fields":[{"name":"id","type":"uint32","size":4},"#,
        r#"{"name":"parts.count","type":"uint32","size":4},"#,
        r#"{"name":"parts","array_len":1,"type":"struct","struct":{"vmsd_name":"channel","#,
        r#""version":1,"fields":[{"name":"count","type":"uint16","size":2},"#,
        r#"{"name":"gate","type":"bool","size":1}]},"size":3}]},"size":11},"#,
        r#"{"name":"added","type":"uint16","size":2},"#,
        r#"{"name":"late.count","type":"uint32","size":4},"#,
        r#"{"name":"late","array_len":1,"type":"int32","size":4}],"#,
        r#""subsections":[{"vmsd_name":"gadget/transfer","version":2,"fields":["#,
        r#"{"name":"left","type":"uint32","size":4},{"name":"to_guest","type":"bool","size":1}],"#,
        r#""subsections":[{"vmsd_name":"transfer/retry","version":1,"fields":["#,
        r#"{"name":"deadline","type":"uint64","size":8}]}]},"#,
        r#"{"vmsd_name":"gadget/timer","version":1,"fields":["#,
        r#"{"name":"deadline","type":"uint64","size":8}]}]}"#,
    ];
    assert_eq!(schema.describe("bus/gadget \"1\"", 4, &values), pieces.concat());
}

#[test]
fn an_old_version_is_described_as_it_came() {
    let with = |version, cut: usize| {
        let state = Gadget { transfer: None, timer: None, ..Gadget::sample() };
        let mut data = SavedSection::encode("gadget", 0, &state).data;
        data.truncate(data.len() - cut);
        let values = Gadget::schema().values(version, &data).unwrap();
        Gadget::schema().describe("gadget", 0, &values)
    };
    assert!(with(2, 8).ends_with(r#"{"name":"added","type":"uint16","size":2}]}"#));
    assert!(!with(1, 10).contains("added"));
}
