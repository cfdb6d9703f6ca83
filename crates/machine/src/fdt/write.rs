//! From a tree to its blob.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    BEGIN_NODE, END, END_NODE, FdtError, HEADER_BYTES, LAST_COMPATIBLE_VERSION, MAGIC, MAX_BYTES,
    MAX_DEPTH, Node, PROPERTY, RESERVATIONS_BYTES, STRUCTURE_OFFSET, VERSION, is_node_name,
    is_property_name, join, shown,
};

/// The one blob of a tree.
///
/// # Errors
/// The root has a name; a name is not one; a name appears twice in a node; the tree is too deep
/// or the blob too large.
pub fn write(root: &Node) -> Result<Vec<u8>, FdtError> {
    if !root.name.is_empty() {
        return Err(FdtError::NodeName { path: "/".into(), name: shown(&root.name) });
    }
    let mut writer = Writer::default();
    writer.node(root, "/", 1)?;
    writer.u32(END);
    let Writer { structure, strings, offsets: _ } = writer;

    let total = STRUCTURE_OFFSET + structure.len() + strings.len();
    if total > MAX_BYTES {
        return Err(FdtError::TooLarge { bytes: total });
    }
    let header = [
        MAGIC,
        total as u32,
        STRUCTURE_OFFSET as u32,
        (STRUCTURE_OFFSET + structure.len()) as u32,
        HEADER_BYTES as u32,
        VERSION,
        LAST_COMPATIBLE_VERSION,
        0,
        strings.len() as u32,
        structure.len() as u32,
    ];
    let mut blob = Vec::with_capacity(total);
    blob.extend(header.iter().flat_map(|field| field.to_be_bytes()));
    blob.extend([0; RESERVATIONS_BYTES]);
    blob.extend(structure);
    blob.extend(strings);
    Ok(blob)
}

#[derive(Default)]
struct Writer {
    structure: Vec<u8>,
    strings: Vec<u8>,
    offsets: BTreeMap<String, u32>,
}

impl Writer {
    fn u32(&mut self, value: u32) {
        self.structure.extend(value.to_be_bytes());
    }

    fn pad(&mut self) {
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }

    fn node(&mut self, node: &Node, path: &str, depth: usize) -> Result<(), FdtError> {
        if depth > MAX_DEPTH {
            return Err(FdtError::TooDeep { path: path.to_owned() });
        }
        self.u32(BEGIN_NODE);
        self.structure.extend(node.name.as_bytes());
        self.structure.push(0);
        self.pad();

        let mut names = BTreeSet::new();
        for (name, value) in &node.properties {
            if !is_property_name(name) {
                return Err(FdtError::PropertyName { path: path.to_owned(), name: shown(name) });
            }
            if !names.insert(name.as_str()) {
                return Err(FdtError::DuplicateProperty {
                    path: path.to_owned(),
                    name: shown(name),
                });
            }
            self.property(name, value)?;
        }
        let mut names = BTreeSet::new();
        for child in &node.children {
            if !is_node_name(&child.name) {
                return Err(FdtError::NodeName { path: path.to_owned(), name: shown(&child.name) });
            }
            let path = join(path, &child.name);
            if !names.insert(child.name.as_str()) {
                return Err(FdtError::DuplicateNode { path });
            }
            self.node(child, &path, depth + 1)?;
        }
        self.u32(END_NODE);
        Ok(())
    }

    fn property(&mut self, name: &str, value: &[u8]) -> Result<(), FdtError> {
        // Keeps every length and offset within 32 bits; the whole is judged at the end.
        let bytes = self.structure.len() + value.len();
        if bytes > MAX_BYTES {
            return Err(FdtError::TooLarge { bytes });
        }
        let offset = match self.offsets.get(name) {
            Some(offset) => *offset,
            None => {
                let offset = self.strings.len() as u32;
                self.strings.extend(name.as_bytes());
                self.strings.push(0);
                self.offsets.insert(name.to_owned(), offset);
                offset
            }
        };
        self.u32(PROPERTY);
        self.u32(value.len() as u32);
        self.u32(offset);
        self.structure.extend(value);
        self.pad();
        Ok(())
    }
}
