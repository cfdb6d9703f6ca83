//! Streams that QEMU 7.2 wrote, read by their own description. `golden/` has them with most pages
//! left out: `tools/qemu-golden` says how they are made.

mod common;

use std::io::Cursor;

use common::{NAMES, golden};
use qemu::compare::compare;
use qemu::walk::{FieldValue, Page, Stream, Structure, WalkErrorKind, walk};

fn walked(name: &str) -> Stream {
    walk(Cursor::new(golden(name))).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A second reading of the description that shares nothing with the first: the size of each
/// section is the sum over its entries, subsections have a header of their own.
fn size(of: &serde_json::Value) -> u64 {
    let list = |key: &str| of[key].as_array().cloned().unwrap_or_default();
    let fields = list("fields").into_iter().map(|field| {
        let each = field["size"].as_u64().unwrap();
        each * field["array_len"].as_u64().unwrap_or(1)
    });
    let header = |of: &serde_json::Value| 6 + of["vmsd_name"].as_str().unwrap().len() as u64;
    let subsections = list("subsections");
    let subsections = subsections.iter().map(|of| header(of) + size(of));
    fields.sum::<u64>() + subsections.sum::<u64>()
}

/// Every value with its path, by nothing but the description: names, types and sizes in order.
fn flatten(of: &serde_json::Value, bytes: &mut &[u8], path: &str, into: &mut Vec<(String, u64)>) {
    let empty = Vec::new();
    for field in of["fields"].as_array().unwrap_or(&empty) {
        let index = field["index"].as_u64().map(|index| format!("[{index}]")).unwrap_or_default();
        let name = format!("{path}/{}{index}", field["name"].as_str().unwrap());
        for _ in 0..field["array_len"].as_u64().unwrap_or(1) {
            if field["struct"].is_object() {
                flatten(&field["struct"], bytes, &name, into);
                continue;
            }
            let count = field["size"].as_u64().unwrap() as usize;
            let (these, rest) = bytes.split_at(count);
            *bytes = rest;
            if matches!(count, 1 | 2 | 4 | 8) {
                let value = these.iter().fold(0, |sum, byte| sum * 256 + u64::from(*byte));
                into.push((name.clone(), value));
            }
        }
    }
    for subsection in of["subsections"].as_array().unwrap_or(&empty) {
        let name = subsection["vmsd_name"].as_str().unwrap();
        *bytes = &bytes[2 + name.len() + 4..];
        flatten(subsection, bytes, &format!("{path}/{name}"), into);
    }
}

fn ours(of: &Structure, path: &str, into: &mut Vec<(String, u64)>) {
    for field in &of.fields {
        let name = field.name.split('#').next().unwrap();
        value(&field.ty, &field.value, &format!("{path}/{name}"), into);
    }
    for subsection in &of.subsections {
        ours(subsection, &format!("{path}/{}", subsection.name), into);
    }
}

fn value(ty: &str, of: &FieldValue, path: &str, into: &mut Vec<(String, u64)>) {
    let narrow = |value: i64| match ty {
        "int8" => u64::from(value as u8),
        "int16" => u64::from(value as u16),
        _ if ty.starts_with("int32") => u64::from(value as u32),
        _ => value as u64,
    };
    match of {
        FieldValue::Unsigned(number) => into.push((path.to_owned(), *number)),
        FieldValue::Signed(number) => into.push((path.to_owned(), narrow(*number))),
        FieldValue::Items(items) => items.iter().for_each(|item| value(ty, item, path, into)),
        FieldValue::Structure(structure) if ty == "tmp" => {
            // The description of a helper's fields is not read by the second reading.
            assert_eq!(structure.fields.len(), 2);
        }
        FieldValue::Structure(structure) => ours(structure, path, into),
        FieldValue::Bytes(bytes) if matches!(bytes.len(), 1 | 2 | 4 | 8) => {
            let number = bytes.iter().fold(0, |sum, byte| sum * 256 + u64::from(*byte));
            into.push((path.to_owned(), number));
        }
        FieldValue::Bytes(_) => {}
    }
}

#[test]
fn every_field_is_what_a_second_reading_of_the_description_says() {
    for name in NAMES {
        let bytes = golden(name);
        let stream = walked(name);
        let end = bytes.windows(2).rposition(|pair| pair == [0, 6]).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&bytes[end + 6..]).unwrap();
        let devices = json["devices"].as_array().unwrap();
        assert_eq!(devices.len(), stream.sections.len(), "{name}");
        let mut fields = 0;
        for (device, section) in devices.iter().zip(&stream.sections) {
            assert_eq!(device["name"].as_str().unwrap(), section.name);
            assert_eq!(device["instance_id"].as_u64().unwrap(), u64::from(section.instance));
            assert_eq!(size(device), section.length, "{name}: {}", section.name);
            let start = section.offset as usize;
            let mut body = &bytes[start..start + section.length as usize];
            let (mut second, mut first) = (Vec::new(), Vec::new());
            flatten(device, &mut body, "", &mut second);
            assert!(body.is_empty());
            ours(&section.body, "", &mut first);
            fields += second.len();
            assert_eq!(first, second, "{name}: {}", section.name);
        }
        assert!(fields > 400, "{name}: {fields}");
    }
}

#[test]
fn a_microvm_is_read_to_its_last_field() {
    let stream = walked("linux2");
    assert_eq!(stream.machine_type, "microvm");
    let blocks: Vec<_> =
        stream.blocks.iter().map(|block| (block.name.as_str(), block.length)).collect();
    assert_eq!(
        blocks,
        [
            ("microvm.ram", 192 << 20),
            ("/rom@etc/acpi/tables", 4096),
            ("pc.bios", 65536),
            ("/rom@etc/table-loader", 4096),
            ("/rom@etc/acpi/rsdp", 4096),
        ]
    );
    assert!(stream.blocks[0].pages.values().any(|page| matches!(page, Page::Content(_))));
    let names: Vec<_> = stream
        .sections
        .iter()
        .map(|section| format!("{} {}", section.name, section.instance))
        .collect();
    for expected in ["cpu 0", "cpu 1", "apic 1", "ioapic 1", "mc146818rtc 0", "globalstate 0"] {
        assert!(names.iter().any(|name| name == expected), "{expected} in {names:?}");
    }
    assert!(stream.unchecked.iter().any(|line| line.contains("\"virtio\"")));
    assert!(stream.unchecked.iter().any(|line| line.contains("no digest")));
}

#[test]
fn a_machine_of_another_type_is_read_too() {
    let stream = walked("pc");
    assert!(stream.machine_type.starts_with("pc-i440fx-"), "{}", stream.machine_type);
    for name in ["hpet", "0000:00:02.0/vga", "0000:00:05.0/xhci", "0000:00:06.0/ich9_ahci"] {
        assert!(stream.sections.iter().any(|section| section.name == name), "{name}");
    }
}

#[test]
fn differences_are_named_by_section_and_field() {
    let (idle, busy) = (walked("idle"), walked("linux1"));
    assert_eq!(compare(&idle, &idle), []);
    let found = compare(&idle, &busy);
    let has = |what: &str| found.iter().any(|difference| difference.what.contains(what));
    assert!(has("cpu 0.env.regs[0]") && has("RAM block \"microvm.ram\": "), "{found:?}");
    let found = compare(&walked("reset"), &walked("pc"));
    let one_sided = |what: &str| {
        found.iter().any(|difference| difference.what == what && difference.left.is_none())
    };
    assert!(one_sided("hpet 0") && one_sided("RAM block \"pc.ram\""), "{found:?}");
    let [first, ..] = &found[..] else { panic!("no difference") };
    assert_eq!(first.what, "machine type");
}

#[test]
fn a_stream_cut_anywhere_is_never_whole() {
    let whole = golden("reset");
    assert!(walked("reset").whole);
    for end in (0..whole.len()).step_by(101) {
        let walked = walk(Cursor::new(&whole[..end]));
        assert!(!walked.is_ok_and(|stream| stream.whole), "{end} is taken for whole");
    }
}

#[test]
fn damage_never_panics_and_structure_is_checked() {
    let whole = golden("linux1");
    let mut refused = 0;
    for at in (0..whole.len()).step_by(1009) {
        for bit in [0x01, 0x80] {
            let mut damaged = whole.clone();
            damaged[at] ^= bit;
            refused += usize::from(walk(Cursor::new(damaged)).is_err());
        }
    }
    assert!(refused > 0);
    let mut footer = whole.clone();
    let section = walked("linux1").sections[3].clone();
    let at = (section.offset + section.length) as usize;
    footer[at + 4] ^= 1;
    let error = walk(Cursor::new(footer)).unwrap_err();
    assert!(matches!(error.kind, WalkErrorKind::FooterId { .. }), "{error}");
    assert_eq!(error.section, Some((section.name, section.instance)));
}

#[test]
fn a_stream_without_its_description_says_what_it_hides() {
    let whole = golden("idle");
    let end = whole.windows(2).rposition(|pair| pair == [0, 6]).unwrap();
    let stream = walk(Cursor::new(&whole[..=end])).unwrap();
    assert!(!stream.whole && stream.sections.is_empty());
    assert_eq!(stream.blocks.len(), 5);
    assert!(stream.unchecked[0].contains("has no description at its end"), "{stream:?}");
}
