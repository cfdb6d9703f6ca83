//! A stream walked as the tools of QEMU's world walk it: with the description behind its end and
//! nothing else. Written from the grammar, and knows no schema.

mod common;

use std::collections::BTreeMap;

use common::{pic, sample, uart, write};
use serde_json::Value;

struct Walker<'a> {
    rest: &'a [u8],
    values: BTreeMap<String, Vec<u8>>,
}

impl<'a> Walker<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }

    fn number(&mut self, length: usize) -> u64 {
        self.take(length).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn name(&mut self) -> String {
        let length = self.number(1) as usize;
        String::from_utf8(self.take(length).to_vec()).unwrap()
    }

    /// Fields and subsections of a description, and where they are noted.
    fn body(&mut self, description: &Value, path: &str) {
        for field in description["fields"].as_array().unwrap() {
            let path = format!("{path}.{}", field["name"].as_str().unwrap());
            for index in 0..field["array_len"].as_u64().unwrap_or(1) {
                let index = field["index"].as_u64().unwrap_or(index);
                if field["type"] == "struct" {
                    let before = self.rest.len();
                    self.body(&field["struct"], &format!("{path}[{index}]"));
                    assert_eq!(field["size"], before - self.rest.len());
                } else {
                    let value = self.take(field["size"].as_u64().unwrap() as usize).to_vec();
                    self.values.insert(format!("{path}[{index}]"), value);
                }
            }
        }
        for subsection in description["subsections"].as_array().into_iter().flatten() {
            assert_eq!(self.number(1), 5);
            let name = self.name();
            assert_eq!(subsection["vmsd_name"], name);
            assert_eq!(subsection["version"], self.number(4));
            self.body(subsection, &format!("{path}/{name}"));
        }
    }

    /// Pages up to the end of a RAM section.
    fn ram(&mut self) {
        loop {
            let word = self.number(8);
            match word & 0xfff {
                0x04 => {
                    let mut left = word & !0xfff;
                    while left > 0 {
                        self.name();
                        left -= self.number(8);
                    }
                }
                0x10 => return,
                flags => {
                    if flags & 0x20 == 0 {
                        self.name();
                    }
                    self.take(if flags & 0x08 == 0 { 1 } else { 4096 });
                }
            }
        }
    }

    fn sections(&mut self, description: &Value) {
        assert_eq!(self.take(8), b"QEVM\0\0\0\x03");
        loop {
            match self.number(1) {
                0 => return,
                7 => self.body(&description["configuration"], "configuration"),
                kind @ 1..=4 => {
                    let id = self.number(4);
                    if matches!(kind, 2 | 3) {
                        self.ram();
                    } else {
                        let (name, instance, version) =
                            (self.name(), self.number(4), self.number(4));
                        if name == "ram" {
                            self.ram();
                        } else {
                            let devices = description["devices"].as_array().unwrap();
                            let device = devices
                                .iter()
                                .find(|one| one["name"] == name && one["instance_id"] == instance)
                                .unwrap();
                            assert_eq!(device["version"], version);
                            self.body(device, &format!("{name} {instance}"));
                        }
                    }
                    assert_eq!((self.number(1), self.number(4)), (0x7e, id));
                }
                other => panic!("type {other}"),
            }
        }
    }
}

#[test]
fn the_description_is_enough_to_walk_a_stream() {
    let bytes = write(&sample()).unwrap();
    // The description begins behind the last byte that is zero, as JSON has none.
    let zero = bytes.iter().rposition(|byte| *byte == 0).unwrap();
    let start = zero + bytes[zero..].iter().position(|byte| *byte == b'{').unwrap();
    let length = u32::from_be_bytes(bytes[start - 4..start].try_into().unwrap());
    assert_eq!((bytes[start - 5], length as usize), (6, bytes.len() - start));
    let description: Value = serde_json::from_slice(&bytes[start..]).unwrap();
    assert_eq!(description["page_size"], 4096);

    let mut walker = Walker { rest: &bytes, values: BTreeMap::new() };
    walker.sections(&description);
    assert_eq!(walker.rest.len(), bytes.len() - (start - 5));

    let value = |path: &str| walker.values.get(path).unwrap_or_else(|| panic!("{path}")).as_slice();
    assert_eq!(value("configuration.name[0]"), b"ferry-1");
    assert_eq!(value("machine 0.tree[0]"), [0xd0, 0x0d, 0xfe, 0xed]);
    let uart: common::Uart = uart().decode().unwrap();
    assert_eq!(value("bus@10/uart 0.divisor[0]"), uart.divisor.to_be_bytes());
    assert_eq!(value("bus@10/uart 0.fifo[0]"), uart.fifo);
    let deadline = uart.timer.unwrap().deadline;
    assert_eq!(value("bus@10/uart 0/uart/timer.deadline[0]"), deadline.to_be_bytes());
    assert_eq!(value("pic 1.requests[0]"), &pic(1).data[..1]);
    assert_eq!(value("digest 0.memory[0]"), common::digest().memory);
}
