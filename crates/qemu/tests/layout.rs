//! The layouts of a microvm's sections against what QEMU 7.2 wrote, and against its descriptions.

mod common;

use std::collections::BTreeMap;
use std::io::Cursor;

use common::{MICROVMS, Memory, golden, microvm, receive, receive_in};
use qemu::PAGE_SIZE;
use qemu::incoming::{Event, Expected, Incoming};
use qemu::layout::layouts;
use qemu::walk::{self, FieldValue, Structure};
use vmstate::{StructValue, Value};

/// Memory that counts what comes.
#[derive(Default)]
struct Counter {
    blocks: Vec<(String, u64)>,
    pages: usize,
}

impl Memory for Counter {
    fn blocks(&mut self, blocks: &[(String, u64)]) {
        self.blocks = blocks.to_vec();
    }

    fn write(&mut self, _: usize, _: u64, _: &[u8; PAGE_SIZE]) {
        self.pages += 1;
    }

    fn read(&self, _: usize, _: u64) -> [u8; PAGE_SIZE] {
        [0; PAGE_SIZE]
    }
}

fn refused(name: &str, bytes: &[u8]) -> String {
    receive(bytes, &layouts(&microvm(name)), &mut Counter::default()).unwrap_err().to_string()
}

/// Every number in order; bytes one by one.
fn ours(of: &StructValue, into: &mut Vec<u64>) {
    fn value(of: &Value, into: &mut Vec<u64>) {
        match of {
            Value::Bool(value) => into.push((*value).into()),
            Value::Unsigned(value) => into.push(*value),
            Value::Signed(value) => into.push(*value as u64),
            Value::Enum(variant) => into.push(variant.value.into()),
            Value::Bytes(bytes) => into.extend(bytes.iter().map(|byte| u64::from(*byte))),
            Value::Items(items) => items.iter().for_each(|item| value(item, into)),
            Value::Struct(inner) => ours(inner, into),
        }
    }
    of.fields.iter().for_each(|(_, of)| value(of, into));
    of.subsections.iter().for_each(|(_, of)| ours(of, into));
}

fn described(of: &Structure, into: &mut Vec<u64>) {
    fn value(of: &FieldValue, into: &mut Vec<u64>) {
        match of {
            FieldValue::Unsigned(value) => into.push(*value),
            FieldValue::Signed(value) => into.push(*value as u64),
            FieldValue::Bytes(bytes) => into.extend(bytes.iter().map(|byte| u64::from(*byte))),
            FieldValue::Items(items) => items.iter().for_each(|item| value(item, into)),
            FieldValue::Structure(inner) => described(inner, into),
        }
    }
    of.fields.iter().for_each(|field| value(&field.value, into));
    of.subsections.iter().for_each(|of| described(of, into));
}

#[test]
fn every_section_is_what_its_layout_and_qemus_description_say() {
    for name in MICROVMS {
        let layouts = layouts(&microvm(name));
        let mut memory = Counter::default();
        let bytes = golden(name);
        let sections = receive(&bytes[..], &layouts, &mut memory)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let walked = walk::walk(Cursor::new(&bytes)).unwrap();
        let pages: usize = walked.blocks.iter().map(|block| block.pages.len()).sum();
        assert_eq!(memory.pages, pages);
        assert_eq!(memory.blocks[0].0, "microvm.ram");
        assert_eq!(sections.len(), walked.sections.len());
        for ((section, other), layout) in sections.iter().zip(&walked.sections).zip(&layouts) {
            assert_eq!(section.name, layout.name, "{name}: the order is QEMU's");
            let values = layout.schema.values(section.version, &section.data).unwrap();
            if section.name.starts_with("virtio") {
                continue;
            }
            let (mut first, mut second) = (Vec::new(), Vec::new());
            ours(&values, &mut first);
            described(&other.body, &mut second);
            assert_eq!(first, second, "{name}: {}", section.name);
            let names = |of: &StructValue| -> Vec<String> {
                of.subsections.iter().map(|(name, _)| (*name).to_owned()).collect()
            };
            let theirs: Vec<_> = other.body.subsections.iter().map(|of| of.name.clone()).collect();
            if section.name != "serial" {
                assert_eq!(names(&values), theirs, "{name}: {}", section.name);
            }
        }
    }
}

#[test]
fn what_is_damaged_foreign_or_not_supported_is_refused_by_name() {
    let good = golden("idle");
    assert!(refused("idle", &golden("pc")).contains("machine type \"pc-i440fx-7.2\""));
    assert!(refused("linux2", &good).contains("missing: \"cpu_common\" 1, \"cpu\" 1, \"apic\" 1"));
    let two = refused("idle", &golden("linux2"));
    assert!(two.contains("section \"cpu_common\" instance 1 is of a device"), "{two}");
    let find = |what: &[u8]| good.windows(what.len()).position(|bytes| bytes == what).unwrap();
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        refused("idle", &bytes)
    };
    let timer = find(b"\x05timer\0\0\0\0");
    assert!(changed(timer + 13, 3).contains("\"timer\""), "another version");
    let cpu = find(b"cpu/poll_control_msr");
    let unknown = changed(cpu + 4, b'q');
    assert!(unknown.contains("cpu/qoll_control_msr"), "{unknown}");
    let footer = find(b"\x7e\0\0\0\x05");
    assert!(changed(footer + 4, 9).contains("does not end where it should"));
    for (command, word) in [(3, "postcopy-ram"), (7, "PACKAGED"), (9, "POSTCOPY_RESUME")] {
        let mut bytes = good[..20].to_vec();
        bytes.extend([8, 0, command, 0, 0]);
        let said = refused("idle", &bytes);
        assert!(said.contains(word), "{said}");
    }
    let configured = |more: &[u8]| {
        let mut bytes = good[..20].to_vec();
        bytes.extend(more);
        bytes.extend(&good[20..]);
        receive(&bytes, &layouts(&microvm("idle")), &mut Counter::default())
    };
    let uuid = b"\x05\x12configuration/uuid\0\0\0\x01";
    assert!(configured(&[&uuid[..], &[0; 16]].concat()).is_ok(), "it is this machine's");
    let said = configured(&[&uuid[..], &[7; 16]].concat()).unwrap_err().to_string();
    assert!(said.contains("another UUID"), "{said}");
    let capabilities = b"\x05\x1aconfiguration/capabilities\0\0\0\x01\0\0\0\x01\x0fx-ignore-shared";
    let said = configured(capabilities).unwrap_err().to_string();
    assert!(said.contains("x-ignore-shared"), "{said}");
    let trailing = [&good[..], b"!"].concat();
    assert!(refused("idle", &trailing).contains("bytes follow"));
}

#[test]
fn it_does_not_matter_how_many_bytes_come_at_once() {
    let (good, layouts) = (golden("idle"), layouts(&microvm("idle")));
    let whole = receive(&good, &layouts, &mut Counter::default()).unwrap();
    for at_once in [97, 4096] {
        let mut memory = Counter::default();
        let sections = receive_in(&good, at_once, &layouts, &mut memory).unwrap();
        assert!(sections == whole && memory.pages > 0, "{at_once}");
    }
}

#[test]
fn damage_and_cuts_never_panic_and_never_pass_for_whole() {
    let good = golden("linux1");
    let layouts = layouts(&microvm("linux1"));
    for end in (0..good.len()).step_by(509) {
        let cut = receive(&good[..end], &layouts, &mut Counter::default());
        assert!(cut.is_err(), "{end}");
    }
    let mut refused = 0;
    for at in (0..good.len()).step_by(311) {
        let mut damaged = good.clone();
        damaged[at] ^= 0x41;
        refused += usize::from(receive(&damaged[..], &layouts, &mut Counter::default()).is_err());
    }
    assert!(refused > 0);
}

/// The stream of a QEMU that was told to send memory over three channels of its own.
#[test]
fn pages_come_over_channels_of_their_own() {
    let streams: Vec<_> = (0..4).map(|channel| golden(&format!("multifd{channel}"))).collect();
    let layouts = layouts(&microvm("idle"));
    let expected = || Expected { layouts: layouts.clone(), uuid: [0; 16], channels: 3 };
    // Whichever channel is ahead, it waits for the others, and memory is the same.
    let mut right = None;
    for first in 0..4 {
        for at_once in [700, 1 << 20] {
            let mut memory = BTreeMap::new();
            let mut incoming = Incoming::new(expected());
            let mut pieces: Vec<_> = streams.iter().map(|bytes| bytes.chunks(at_once)).collect();
            let mut pages = 0;
            loop {
                match incoming.next().unwrap() {
                    Some(Event::Page { block, offset, content }) => {
                        memory.insert((block, offset), *content);
                        pages += 1;
                    }
                    Some(Event::Complete(sections)) => {
                        assert_eq!(sections.len(), layouts.len());
                        break;
                    }
                    Some(_) => {}
                    None => {
                        let mut order = (0..4).map(|index| (first + index) % 4);
                        let next = order.find_map(|channel| {
                            let wanted = incoming.wants(channel);
                            let piece = if wanted { pieces[channel].next() } else { None };
                            piece.map(|piece| (channel, piece))
                        });
                        match next {
                            Some((channel, piece)) => incoming.heard(channel, piece),
                            None => (0..4).for_each(|channel| incoming.ended(channel)),
                        }
                    }
                }
            }
            assert_eq!(pages, (128 << 20) / PAGE_SIZE + 2 + 16 + 1, "first {first}");
            assert!(right.get_or_insert_with(|| memory.clone()) == &memory, "first {first}");
        }
    }
    // QEMU writes what ends a part of memory, and keeps the footer until it has more to send.
    let mut incoming = Incoming::new(expected());
    let footer = streams[0].windows(5).position(|bytes| bytes == [0x7e, 0, 0, 0, 2]).unwrap();
    incoming.heard(0, &streams[0][..footer]);
    (1..4).for_each(|channel| incoming.heard(channel, &streams[channel]));
    let mut pages = 0;
    while let Some(event) = incoming.next().unwrap() {
        pages += usize::from(matches!(event, Event::Page { .. }));
    }
    assert!(pages > 0, "what follows on the other channels is taken in");
    let mut unexpected = Incoming::new(Expected { channels: 0, ..expected() });
    unexpected.heard(0, &streams[0][..4096]);
    while unexpected.next().unwrap().is_some() {}
    unexpected.heard(1, &streams[1]);
    let said = unexpected.next().unwrap_err().to_string();
    assert!(said.contains("say how many with --multifd"), "{said}");
}
