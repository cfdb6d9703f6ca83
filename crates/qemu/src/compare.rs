//! What differs between two streams.

use std::collections::BTreeMap;
use std::fmt;

use crate::walk::{Block, Field, FieldValue, Page, Section, Stream, Structure};

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What differs: a field's path with its section before it, a RAM block, or a section.
    pub what: String,
    /// What the first stream has; `None` if it has no such thing.
    pub left: Option<String>,
    /// What the second has.
    pub right: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
        write!(formatter, "{}: {} and {}", self.what, side(&self.left), side(&self.right))
    }
}

/// Everything that two streams say differently: machine type, RAM blocks and their pages at the
/// end, sections, fields. Not compared is how the streams came to it: rounds, section numbers,
/// commands.
pub fn compare(left: &Stream, right: &Stream) -> Vec<Difference> {
    let mut found = Vec::new();
    differ(&mut found, "machine type", &left.machine_type, &right.machine_type);
    let parts = |stream: &Stream| format!("{:?}", stream.configuration);
    differ(&mut found, "configuration", &parts(left), &parts(right));
    differ(&mut found, "page size", &left.page_size, &right.page_size);
    let by_name = |stream: &Stream| -> BTreeMap<String, Block> {
        stream.blocks.iter().map(|block| (block.name.clone(), block.clone())).collect()
    };
    pair(
        &mut found,
        &by_name(left),
        &by_name(right),
        |name| format!("RAM block {name:?}"),
        |_| "there".to_owned(),
        |found, what, left, right| {
            differ(found, &format!("{what} length"), &left.length, &right.length);
            if let Some((pages, first)) = differing_pages(left, right) {
                found.push(Difference {
                    what: format!("{what}: {pages} pages differ, the first at {:#x}", first * 4096),
                    left: left.pages.get(&first).map(page),
                    right: right.pages.get(&first).map(page),
                });
            }
        },
    );
    let by_key = |stream: &Stream| -> BTreeMap<(String, u32), Section> {
        let key = |section: &Section| (section.name.clone(), section.instance);
        stream.sections.iter().map(|section| (key(section), section.clone())).collect()
    };
    pair(
        &mut found,
        &by_key(left),
        &by_key(right),
        |(name, instance)| format!("{name} {instance}"),
        |section| format!("version {}", section.version),
        |found, what, left, right| {
            differ(found, &format!("{what} version"), &left.version, &right.version);
            structures(found, what, &left.body, &right.body);
        },
    );
    found
}

fn differ<T: PartialEq + fmt::Display>(
    found: &mut Vec<Difference>,
    what: &str,
    left: &T,
    right: &T,
) {
    if left != right {
        let (left, right) = (Some(left.to_string()), Some(right.to_string()));
        found.push(Difference { what: what.to_owned(), left, right });
    }
}

/// Compares what both have, and names what only one has.
fn pair<K: Ord, V>(
    found: &mut Vec<Difference>,
    left: &BTreeMap<K, V>,
    right: &BTreeMap<K, V>,
    name: impl Fn(&K) -> String,
    show: impl Fn(&V) -> String,
    mut compare: impl FnMut(&mut Vec<Difference>, &str, &V, &V),
) {
    for (key, one) in left {
        match right.get(key) {
            Some(other) => compare(found, &name(key), one, other),
            None => {
                found.push(Difference { what: name(key), left: Some(show(one)), right: None });
            }
        }
    }
    for (key, other) in right.iter().filter(|(key, _)| !left.contains_key(key)) {
        found.push(Difference { what: name(key), left: None, right: Some(show(other)) });
    }
}

fn page(page: &Page) -> String {
    match page {
        Page::Zero => "zeroes".to_owned(),
        Page::Content(digest) => {
            digest[..4].iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "..."
        }
        Page::Unchecked => "not decoded".to_owned(),
    }
}

/// How many pages differ, and the first of them. A page that never came is one of zeroes.
fn differing_pages(left: &Block, right: &Block) -> Option<(u64, u64)> {
    let of = |block: &Block, page: u64| block.pages.get(&page).copied().unwrap_or(Page::Zero);
    let mut numbers: Vec<u64> = left.pages.keys().chain(right.pages.keys()).copied().collect();
    numbers.sort_unstable();
    numbers.dedup();
    let differs = |number: &u64| {
        let (one, other) = (of(left, *number), of(right, *number));
        one != other || one == Page::Unchecked
    };
    let mut differing = numbers.into_iter().filter(differs);
    let first = differing.next()?;
    Some((1 + differing.count() as u64, first))
}

fn structures(found: &mut Vec<Difference>, path: &str, left: &Structure, right: &Structure) {
    let fields = |of: &Structure| -> BTreeMap<String, Field> {
        of.fields.iter().map(|field| (field.name.clone(), field.clone())).collect()
    };
    pair(
        found,
        &fields(left),
        &fields(right),
        |name| format!("{path}.{name}"),
        |field| field.value.to_string(),
        |found, path, left, right| values(found, path, &left.value, &right.value),
    );
    let subsections = |of: &Structure| -> BTreeMap<String, Structure> {
        of.subsections.iter().map(|of| (of.name.clone(), of.clone())).collect()
    };
    pair(
        found,
        &subsections(left),
        &subsections(right),
        |name| format!("{path}.{name}"),
        |of| FieldValue::Structure(of.clone()).to_string(),
        structures,
    );
}

fn values(found: &mut Vec<Difference>, path: &str, left: &FieldValue, right: &FieldValue) {
    match (left, right) {
        _ if left == right => {}
        (FieldValue::Structure(left), FieldValue::Structure(right)) => {
            structures(found, path, left, right);
        }
        (FieldValue::Items(left), FieldValue::Items(right)) if left.len() == right.len() => {
            for (index, (left, right)) in left.iter().zip(right).enumerate() {
                values(found, &format!("{path}[{index}]"), left, right);
            }
        }
        (FieldValue::Bytes(left), FieldValue::Bytes(right)) if left.len() == right.len() => {
            for (index, (left, right)) in left.iter().zip(right).enumerate() {
                let hex = |byte: &u8| format!("{byte:#x}");
                differ(found, &format!("{path}[{index}]"), &hex(left), &hex(right));
            }
        }
        _ => differ(found, path, &left.to_string(), &right.to_string()),
    }
}
