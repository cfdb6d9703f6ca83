//! Flattened device trees (Devicetree Specification 0.4, chapter 5), strictly: for each tree there
//! is exactly one blob, and the reader takes no other.
//!
//! The one blob is: a version-17 header, an empty memory reservation block, the structure block,
//! the strings block with each property name once in order of first use; nothing between them,
//! nothing after them, no NOP tokens, padding zero, boot CPU 0. A blob has at most [`MAX_BYTES`]
//! bytes and [`MAX_DEPTH`] levels; names follow the specification (section 2.2.1 and 2.2.4).
//!
//! What the properties mean is not this module's business.

mod read;
mod source;
mod write;

pub use read::parse;
pub use source::{format_value, to_source};
pub use write::write;

use thiserror::Error;

/// Largest blob, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Most levels of nodes; the root is the first.
pub const MAX_DEPTH: usize = 16;

/// Longest property name, longest node name before the `@`, longest unit address after it.
const MAX_NAME: usize = 31;

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const LAST_COMPATIBLE_VERSION: u32 = 16;
const HEADER_BYTES: usize = 40;
/// The terminating entry alone.
const RESERVATIONS_BYTES: usize = 16;
const STRUCTURE_OFFSET: usize = HEADER_BYTES + RESERVATIONS_BYTES;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// A node of a device tree, with its properties and children in the order of the blob.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Name with unit address: `cpu@0`; empty for the root.
    pub name: String,
    /// Names and values, big-endian as they stand in the blob.
    pub properties: Vec<(String, Vec<u8>)>,
    /// The nodes below this one.
    pub children: Vec<Node>,
}

impl Node {
    /// A node with neither properties nor children.
    pub fn new(name: impl Into<String>) -> Self {
        Node { name: name.into(), properties: Vec::new(), children: Vec::new() }
    }

    /// The value of a property.
    pub fn property(&self, name: &str) -> Option<&[u8]> {
        self.properties.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    /// The child of this name.
    pub fn child(&self, name: &str) -> Option<&Node> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The same node with one more property.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.properties.push((name.to_owned(), value.into()));
        self
    }

    /// The same node with one more property that has no value: true because it is there.
    #[must_use]
    pub fn with_flag(self, name: &str) -> Self {
        self.with(name, [])
    }

    /// The same node with one more property of 32-bit cells.
    #[must_use]
    pub fn with_cells(self, name: &str, cells: &[u32]) -> Self {
        let value: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.with(name, value)
    }

    /// The same node with one more property of one 64-bit number.
    #[must_use]
    pub fn with_u64(self, name: &str, value: u64) -> Self {
        self.with(name, value.to_be_bytes())
    }

    /// The same node with one more property of strings; a string ends at its first zero byte.
    #[must_use]
    pub fn with_strings(self, name: &str, strings: &[&str]) -> Self {
        let mut value = Vec::new();
        for string in strings {
            value.extend(string.bytes().take_while(|byte| *byte != 0));
            value.push(0);
        }
        self.with(name, value)
    }

    /// The same node with one more child.
    #[must_use]
    pub fn with_child(mut self, child: Node) -> Self {
        self.children.push(child);
        self
    }
}

/// Why bytes are not a blob of ours, or a tree has no blob. Offsets count from the blob's start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FdtError {
    /// Above [`MAX_BYTES`].
    #[error("{bytes} bytes are more than the {MAX_BYTES} that a tree may have")]
    TooLarge {
        /// The size.
        bytes: usize,
    },
    /// The blob ends inside something.
    #[error("the blob ends at byte {offset}, inside {what}")]
    Truncated {
        /// Where it ends.
        offset: usize,
        /// Inside what: `the header`.
        what: &'static str,
    },
    /// A header field with a value that our writer would not write.
    #[error("header field {field} is {found:#x}, not {expected:#x}")]
    Header {
        /// The field, by its name in the specification.
        field: &'static str,
        /// Its value.
        found: u32,
        /// The right one.
        expected: u32,
    },
    /// A memory reservation: our trees have none.
    #[error("byte {offset}: a memory reservation, where none may be")]
    Reservation {
        /// Where.
        offset: usize,
    },
    /// A token that is unknown or may not stand there.
    #[error("byte {offset}: token {token:#x}, where {expected} belongs")]
    Token {
        /// Where.
        offset: usize,
        /// The token.
        token: u32,
        /// What belongs there.
        expected: &'static str,
    },
    /// Padding that is not zero.
    #[error("byte {offset}: padding is {found:#04x}, not zero")]
    Padding {
        /// Where.
        offset: usize,
        /// The byte.
        found: u8,
    },
    /// A node name that the specification does not allow.
    #[error("{path}: {name:?} is not a node name")]
    NodeName {
        /// The node above.
        path: String,
        /// The name.
        name: String,
    },
    /// A property name that the specification does not allow.
    #[error("{path}: {name:?} is not a property name")]
    PropertyName {
        /// The node.
        path: String,
        /// The name.
        name: String,
    },
    /// Two children of one name.
    #[error("{path}: node appears twice")]
    DuplicateNode {
        /// The node.
        path: String,
    },
    /// Two properties of one name.
    #[error("{path}: property {name:?} appears twice")]
    DuplicateProperty {
        /// The node.
        path: String,
        /// The name.
        name: String,
    },
    /// More than [`MAX_DEPTH`] levels.
    #[error("{path}: nodes lie deeper than {MAX_DEPTH} levels")]
    TooDeep {
        /// The node that is too deep.
        path: String,
    },
    /// A property whose name is not where the canonical strings block has it.
    #[error(
        "byte {offset}: name offset {found:#x} is neither a known name's nor the next, {next:#x}"
    )]
    NameOffset {
        /// Where the reference stands.
        offset: usize,
        /// The offset into the strings block.
        found: usize,
        /// Where the next new name would be.
        next: usize,
    },
    /// The strings block has one string twice.
    #[error("the strings block has {name:?} twice")]
    DuplicateString {
        /// The string.
        name: String,
    },
    /// The strings block has bytes that no property names.
    #[error("{bytes} bytes at the end of the strings block belong to no property")]
    UnusedStrings {
        /// How many.
        bytes: usize,
    },
    /// The structure block goes on after its end.
    #[error("{bytes} bytes follow the end of the structure block")]
    TrailingStructure {
        /// How many.
        bytes: usize,
    },
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b',' | b'.' | b'_' | b'+' | b'-')
}

/// Devicetree Specification 0.4, section 2.2.1. The root's empty name is not a node name here.
fn is_node_name(name: &str) -> bool {
    let part = |part: &str| (1..=MAX_NAME).contains(&part.len()) && part.bytes().all(is_name_byte);
    let (base, unit) = name.split_once('@').map_or((name, None), |(base, unit)| (base, Some(unit)));
    part(base) && base.as_bytes()[0].is_ascii_alphabetic() && unit.is_none_or(part)
}

/// Devicetree Specification 0.4, section 2.2.4.1.
fn is_property_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| is_name_byte(byte) || matches!(byte, b'?' | b'#'))
}

/// As much of a name as a message shows.
fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}

/// The path of the child `name` of the node at `path`.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path == "/" { format!("/{name}") } else { format!("{path}/{name}") }
}
