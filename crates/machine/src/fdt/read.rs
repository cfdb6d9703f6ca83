//! From a blob to its tree.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    BEGIN_NODE, END, END_NODE, FdtError, HEADER_BYTES, LAST_COMPATIBLE_VERSION, MAGIC, MAX_BYTES,
    MAX_DEPTH, NOP, Node, PROPERTY, RESERVATIONS_BYTES, STRUCTURE_OFFSET, VERSION, is_node_name,
    is_property_name, join, shown,
};

/// The tree of a blob. Whatever it returns, [`super::write`] turns into the same bytes again.
///
/// # Errors
/// The blob is not the one that [`super::write`] would write for any tree.
pub fn parse(blob: &[u8]) -> Result<Node, FdtError> {
    if blob.len() > MAX_BYTES {
        return Err(FdtError::TooLarge { bytes: blob.len() });
    }
    let (structure, strings) = split(blob)?;
    let mut reader =
        Reader { bytes: structure, position: 0, names: Names::new(strings, blob.len()) };

    let offset = reader.offset();
    let token = reader.u32("a node")?;
    if token != BEGIN_NODE {
        return Err(FdtError::Token { offset, token, expected: "the root node" });
    }
    let name = reader.node_name()?;
    if !name.is_empty() {
        return Err(FdtError::NodeName { path: "/".into(), name: shown(&name) });
    }
    let root = reader.node(name, "/", 1)?;
    let offset = reader.offset();
    let token = reader.u32("the end of the tree")?;
    if token != END {
        return Err(FdtError::Token { offset, token, expected: "the end of the tree" });
    }
    let Reader { bytes, position, names } = reader;
    if position != bytes.len() {
        return Err(FdtError::TrailingStructure { bytes: bytes.len() - position });
    }
    if names.next != strings.len() {
        return Err(FdtError::UnusedStrings { bytes: strings.len() - names.next });
    }
    Ok(root)
}

/// Checks header and reservations; returns the structure block and the strings block.
fn split(blob: &[u8]) -> Result<(&[u8], &[u8]), FdtError> {
    let field = |index: usize| -> Result<u32, FdtError> {
        let bytes = blob.get(index * 4..).and_then(<[u8]>::first_chunk::<4>);
        let truncated = FdtError::Truncated { offset: blob.len(), what: "the header" };
        bytes.map(|bytes| u32::from_be_bytes(*bytes)).ok_or(truncated)
    };
    let expect = |index: usize, field_name: &'static str, expected: u32| {
        let found = field(index)?;
        if found == expected {
            Ok(())
        } else {
            Err(FdtError::Header { field: field_name, found, expected })
        }
    };
    expect(0, "magic", MAGIC)?;
    expect(5, "version", VERSION)?;
    expect(6, "last_comp_version", LAST_COMPATIBLE_VERSION)?;
    expect(1, "totalsize", blob.len() as u32)?;
    expect(4, "off_mem_rsvmap", HEADER_BYTES as u32)?;
    expect(2, "off_dt_struct", STRUCTURE_OFFSET as u32)?;
    expect(7, "boot_cpuid_phys", 0)?;

    let reservations = blob
        .get(HEADER_BYTES..HEADER_BYTES + RESERVATIONS_BYTES)
        .ok_or(FdtError::Truncated { offset: blob.len(), what: "the memory reservations" })?;
    if let Some(index) = reservations.iter().position(|byte| *byte != 0) {
        return Err(FdtError::Reservation { offset: HEADER_BYTES + index });
    }

    // The structure block decides where the strings are; the strings fill the rest.
    let structure_bytes = field(9)? as usize;
    let rest = &blob[STRUCTURE_OFFSET..];
    let (structure, strings) = rest
        .split_at_checked(structure_bytes)
        .ok_or(FdtError::Truncated { offset: blob.len(), what: "the structure block" })?;
    expect(3, "off_dt_strings", (STRUCTURE_OFFSET + structure_bytes) as u32)?;
    expect(8, "size_dt_strings", strings.len() as u32)?;
    Ok((structure, strings))
}

struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    names: Names<'a>,
}

impl Reader<'_> {
    /// Where the reader stands, counted from the blob's start.
    fn offset(&self) -> usize {
        STRUCTURE_OFFSET + self.position
    }

    fn take(&mut self, count: usize, what: &'static str) -> Result<&[u8], FdtError> {
        let rest = &self.bytes[self.position..];
        let bytes = rest
            .get(..count)
            .ok_or(FdtError::Truncated { offset: STRUCTURE_OFFSET + self.bytes.len(), what })?;
        self.position += count;
        Ok(bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, FdtError> {
        let mut value = [0; 4];
        value.copy_from_slice(self.take(4, what)?);
        Ok(u32::from_be_bytes(value))
    }

    fn padding(&mut self) -> Result<(), FdtError> {
        let offset = self.offset();
        let count = self.position.next_multiple_of(4) - self.position;
        let padding = self.take(count, "padding")?;
        match padding.iter().position(|byte| *byte != 0) {
            None => Ok(()),
            Some(index) => Err(FdtError::Padding { offset: offset + index, found: padding[index] }),
        }
    }

    /// A name with its zero byte and padding. Bytes that are not UTF-8 become a name that is none.
    fn node_name(&mut self) -> Result<String, FdtError> {
        let rest = &self.bytes[self.position..];
        let length = rest.iter().position(|byte| *byte == 0).ok_or(FdtError::Truncated {
            offset: STRUCTURE_OFFSET + self.bytes.len(),
            what: "a node name",
        })?;
        let name = String::from_utf8_lossy(&rest[..length]).into_owned();
        self.position += length + 1;
        self.padding()?;
        Ok(name)
    }

    /// The rest of a node whose name has been read.
    fn node(&mut self, name: String, path: &str, depth: usize) -> Result<Node, FdtError> {
        if depth > MAX_DEPTH {
            return Err(FdtError::TooDeep { path: path.to_owned() });
        }
        let mut node = Node::new(name);
        let mut properties = BTreeSet::new();
        let mut children = BTreeSet::new();
        loop {
            let offset = self.offset();
            match self.u32("a node")? {
                PROPERTY if node.children.is_empty() => {
                    let (name, value) = self.property(path)?;
                    if !properties.insert(name.clone()) {
                        return Err(FdtError::DuplicateProperty { path: path.to_owned(), name });
                    }
                    node.properties.push((name, value));
                }
                BEGIN_NODE => {
                    let name = self.node_name()?;
                    if !is_node_name(&name) {
                        return Err(FdtError::NodeName {
                            path: path.to_owned(),
                            name: shown(&name),
                        });
                    }
                    let path = join(path, &name);
                    if !children.insert(name.clone()) {
                        return Err(FdtError::DuplicateNode { path });
                    }
                    node.children.push(self.node(name, &path, depth + 1)?);
                }
                END_NODE => return Ok(node),
                token => {
                    let expected = match token {
                        PROPERTY => "a node or the end of one (properties come before nodes)",
                        NOP => "anything but a NOP",
                        _ => "a property, a node or the end of one",
                    };
                    return Err(FdtError::Token { offset, token, expected });
                }
            }
        }
    }

    fn property(&mut self, path: &str) -> Result<(String, Vec<u8>), FdtError> {
        let length = self.u32("a property")? as usize;
        let offset = self.offset();
        let name_offset = self.u32("a property")? as usize;
        let name = self.names.resolve(name_offset, offset)?;
        if !is_property_name(&name) {
            return Err(FdtError::PropertyName { path: path.to_owned(), name: shown(&name) });
        }
        // take() checks the length before anything is copied.
        let value = self.take(length, "a property's value")?.to_vec();
        self.padding()?;
        Ok((name, value))
    }
}

/// The strings block, whose strings have to be there in order of first use.
struct Names<'a> {
    strings: &'a [u8],
    /// Names met so far, by offset.
    known: BTreeMap<usize, String>,
    seen: BTreeSet<String>,
    /// Where the next new name has to be.
    next: usize,
    /// Where the blob ends, for messages.
    end: usize,
}

impl<'a> Names<'a> {
    fn new(strings: &'a [u8], end: usize) -> Self {
        Names { strings, known: BTreeMap::new(), seen: BTreeSet::new(), next: 0, end }
    }

    fn resolve(&mut self, found: usize, offset: usize) -> Result<String, FdtError> {
        if let Some(name) = self.known.get(&found) {
            return Ok(name.clone());
        }
        if found != self.next {
            return Err(FdtError::NameOffset { offset, found, next: self.next });
        }
        let rest = &self.strings[self.next..];
        let length = rest
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(FdtError::Truncated { offset: self.end, what: "the strings block" })?;
        let name = String::from_utf8_lossy(&rest[..length]).into_owned();
        if !self.seen.insert(name.clone()) {
            return Err(FdtError::DuplicateString { name: shown(&name) });
        }
        self.known.insert(found, name.clone());
        self.next += length + 1;
        Ok(name)
    }
}
