//! `ferry inspect` against an independent reading: a walker written from QEMU's grammar that knows
//! no schema and no layout, and reads a stream by nothing but the description behind its end, as
//! the tools of QEMU's world do. Both must find the same fields with the same values, in streams
//! that Ferry wrote and in streams that QEMU wrote.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;

use common::{Host, text};
use serde_json::Value;

/// A field's value, in as many bytes as the stream has for it.
type Fields = BTreeMap<String, Vec<u8>>;

struct Walker<'a> {
    rest: &'a [u8],
    fields: Fields,
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

    /// The fields of one structure; `inside` says whether its bytes are part of the stream.
    fn body(&mut self, description: &Value, path: &str) {
        let empty = Vec::new();
        for field in description["fields"].as_array().unwrap_or(&empty) {
            let name = field["name"].as_str().unwrap();
            let count = field["array_len"].as_u64();
            let at = match field["index"].as_u64() {
                Some(index) => format!("{path}/{name}[{index}]"),
                None => format!("{path}/{name}"),
            };
            for index in 0..count.unwrap_or(1) {
                let at = if count.is_some() { format!("{at}/{index}") } else { at.clone() };
                if field["struct"].is_object() {
                    self.body(&field["struct"], &at);
                } else if field["fields"].is_array() {
                    // Fields of a helper's own.
                    self.body(field, &at);
                } else {
                    let value = self.take(field["size"].as_u64().unwrap() as usize).to_vec();
                    assert!(self.fields.insert(at.clone(), value).is_none(), "{at} twice");
                }
            }
        }
        for subsection in description["subsections"].as_array().unwrap_or(&empty) {
            assert_eq!(self.number(1), 5);
            let name = self.name();
            assert_eq!(subsection["vmsd_name"], name);
            assert_eq!(subsection["version"], self.number(4));
            self.body(subsection, &format!("{path}/{name}"));
        }
    }

    /// Records of memory up to the end of a section; gives how many are of pages.
    fn memory(&mut self) -> u64 {
        let mut records = 0;
        loop {
            let word = self.number(8);
            if word == 0x10 {
                return records;
            }
            let flags = word & 0xfff;
            if flags & 0x20 == 0 {
                self.name();
            }
            match flags & !0x20 {
                2 => assert_eq!(self.number(1), 0),
                8 => drop(self.take(4096)),
                other => panic!("a record with flags {other:#x}"),
            }
            records += 1;
        }
    }
}

/// Everything that a stream says, by its description: fields by section, and how many pages came.
fn walk(bytes: &[u8]) -> (BTreeMap<String, Fields>, u64) {
    let mut ends = bytes.windows(2).enumerate().filter(|(_, pair)| *pair == [0, 6]);
    let (_, description) = ends
        .find_map(|(at, _)| {
            let json = bytes.get(at + 6..)?;
            let length = u32::from_be_bytes(bytes[at + 2..at + 6].try_into().unwrap());
            let whole = length as usize == json.len();
            whole.then(|| (at, serde_json::from_slice::<Value>(json).unwrap()))
        })
        .unwrap();
    let mut walker = Walker { rest: bytes, fields: Fields::new() };
    assert_eq!((walker.number(4), walker.number(4), walker.number(1)), (0x5145_564d, 3, 7));
    let length = walker.number(4) as usize;
    walker.take(length);
    let (mut sections, mut records) = (BTreeMap::new(), 0);
    loop {
        let kind = walker.number(1);
        if kind == 0 {
            break;
        }
        let id = walker.number(4);
        match kind {
            1 => {
                assert_eq!(
                    (walker.name().as_str(), walker.number(4), walker.number(4)),
                    ("ram", 0, 4)
                );
                let (total, mut sum) = (walker.number(8) & !0xfff, 0);
                while sum < total {
                    walker.name();
                    sum += walker.number(8);
                }
                assert_eq!(walker.number(8), 0x10);
            }
            2 | 3 => records += walker.memory(),
            4 => {
                let (name, instance) = (walker.name(), walker.number(4));
                let version = walker.number(4);
                let devices = description["devices"].as_array().unwrap();
                let device = devices
                    .iter()
                    .find(|of| of["name"] == name.as_str() && of["instance_id"] == instance)
                    .unwrap_or_else(|| panic!("{name} {instance} is not described"));
                assert_eq!(device["version"], version, "{name}");
                walker.body(device, "");
                let fields = std::mem::take(&mut walker.fields);
                assert!(sections.insert(format!("{name} {instance}"), fields).is_none());
            }
            other => panic!("a section of type {other}"),
        }
        assert_eq!((walker.number(1), walker.number(4)), (0x7e, id));
    }
    (sections, records)
}

fn flat(of: &Value) -> Vec<&Value> {
    match of {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        other => vec![other],
    }
}

/// The leaves of what `inspect` printed, by path.
fn leaves(of: &Value, path: &str, into: &mut BTreeMap<String, String>) {
    match of {
        Value::Object(fields) if fields.get("value").is_some_and(Value::is_number) => {
            into.insert(path.to_owned(), format!("{:#x}", fields["value"].as_u64().unwrap()));
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(name, of)| leaves(of, &format!("{path}/{name}"), into));
        }
        Value::Array(items) => {
            // How many there are is a field of its own; arrays of arrays are described as one.
            into.insert(format!("{path}.count"), format!("{:#x}", items.len()));
            for (index, of) in items.iter().flat_map(flat).enumerate() {
                leaves(of, &format!("{path}/{index}"), into);
            }
        }
        Value::String(value) => {
            // Bytes are printed as two digits each, and may have a length of their own too.
            into.insert(format!("{path}.count"), format!("{:#x}", value.len() / 2));
            into.insert(path.to_owned(), value.clone());
        }
        other => panic!("{path} is {other}"),
    }
}

/// Whether a printed value is what these bytes hold.
fn says(printed: &str, bytes: &[u8]) -> bool {
    let number = || bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let width = 64 - 8 * bytes.len().min(8) as u32;
    if let Some(digits) = printed.strip_prefix("0x") {
        return bytes.len() <= 8 && u64::from_str_radix(digits, 16) == Ok(number());
    }
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    match printed {
        _ if printed == hex => true,
        "true" => bytes == [1],
        "false" => bytes == [0],
        _ => {
            let signed = (number() << width) as i64 >> width;
            bytes.len() <= 8 && printed.parse() == Ok(signed)
        }
    }
}

/// Holds what `inspect` says of a stream against the second reading; gives the number of fields.
fn agree(host: &Host, file: &str) -> usize {
    let (second, records) = walk(&fs::read(file).unwrap());
    let inspected = host.ferry(&["inspect", "--json", file]);
    assert!(inspected.status.success(), "{}", text(&inspected));
    let first: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    let listed = first["sections"].as_array().unwrap();
    let own = ["machine", "digest"];
    let named = |of: &&Value| {
        format!("{} {}", of["name"].as_str().unwrap(), of["instance"].as_u64().unwrap())
    };
    let mut count = 0;
    for section in listed {
        let name = named(&section);
        let fields = second.get(&name).unwrap_or_else(|| panic!("only inspect has {name}"));
        let mut printed = BTreeMap::new();
        leaves(&section["fields"], "", &mut printed);
        // An empty list has nothing to print, and no bytes.
        let fields: BTreeMap<_, _> = fields.iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
        printed.retain(|path, value| {
            fields.contains_key(path) || !value.is_empty() && !path.ends_with(".count")
        });
        let only_printed = printed.keys().filter(|path| !fields.contains_key(path));
        let only_walked = fields.keys().filter(|path| !printed.contains_key(**path));
        let differing = (only_printed.collect::<Vec<_>>(), only_walked.collect::<Vec<_>>());
        assert_eq!(differing, (vec![], vec![]), "{name}");
        for (path, bytes) in fields {
            assert!(says(&printed[path], bytes), "{name}{path}: {} of {bytes:?}", printed[path]);
            count += 1;
        }
    }
    // Ferry's machine and digest are shown at places of their own.
    let others = second.keys().filter(|name| !own.iter().any(|of| name.starts_with(of)));
    assert_eq!(
        others.count(),
        listed.iter().filter(|of| !own.contains(&of["name"].as_str().unwrap())).count()
    );
    let blocks = first["ram"]["blocks"].as_array().unwrap();
    let came = |block: &Value| {
        let pages = || block["pages"].as_u64().unwrap() + block["zero_pages"].as_u64().unwrap();
        block["records"].as_u64().unwrap_or_else(pages)
    };
    assert_eq!(records, blocks.iter().map(came).sum::<u64>());
    count
}

#[test]
fn inspect_and_a_second_reading_agree_on_a_stream_of_ferrys() {
    let host = Host::new("agree-ferry");
    let mut running = host.guest();
    running.round();
    let file = host.path("stream");
    let saved = host.ferry(&["migrate", "vm", &format!("file:{file}")]);
    assert!(saved.status.success(), "{}", text(&saved));
    let fields = agree(&host, &file);
    println!("a stream of Ferry's: {fields} fields agree");
    assert!(fields > 300, "{fields}");
}

#[test]
fn inspect_and_a_second_reading_agree_on_streams_of_qemus() {
    let host = Host::new("agree-qemu");
    for name in ["idle", "linux1", "linux2", "firmware", "pc"] {
        let packed = format!("{}/../qemu/tests/golden/{name}.gz", env!("CARGO_MANIFEST_DIR"));
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(fs::File::open(packed).unwrap())
            .read_to_end(&mut bytes)
            .unwrap();
        let file = host.path(name);
        fs::write(&file, bytes).unwrap();
        let fields = agree(&host, &file);
        println!("{name}, a stream of QEMU's: {fields} fields agree");
        assert!(fields > 400, "{fields}");
    }
}
