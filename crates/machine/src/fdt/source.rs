//! Trees as text: device-tree source, version 1 (Devicetree Specification 0.4, chapter 6).

use std::fmt::Write;

use super::{FdtError, Node, parse};

/// A blob as device-tree source text, which `dtc` compiles to the same tree.
///
/// Types are not in a blob: what looks like strings is shown as strings, else what has whole cells
/// as cells, else as bytes. Values are the same either way.
///
/// # Errors
/// Those of [`parse`].
pub fn to_source(blob: &[u8]) -> Result<String, FdtError> {
    let root = parse(blob)?;
    let mut text = String::from("/dts-v1/;\n\n");
    node_source(&mut text, &root, 0);
    Ok(text)
}

fn node_source(text: &mut String, node: &Node, depth: usize) {
    let indent = "\t".repeat(depth);
    let name = if node.name.is_empty() { "/" } else { &node.name };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{indent}{name} {{");
    for (name, value) in &node.properties {
        let _ = match value.is_empty() {
            true => writeln!(text, "{indent}\t{name};"),
            false => writeln!(text, "{indent}\t{name} = {};", format_value(value)),
        };
    }
    for (index, child) in node.children.iter().enumerate() {
        if index > 0 || !node.properties.is_empty() {
            text.push('\n');
        }
        node_source(text, child, depth + 1);
    }
    let _ = writeln!(text, "{indent}}};");
}

/// A property's value in source notation: `"a", "b"`, `<0x1 0x2>`, `[ab cd ef]`; nothing for an
/// empty one.
pub fn format_value(value: &[u8]) -> String {
    if value.is_empty() {
        return String::new();
    }
    if let Some(strings) = as_strings(value) {
        let quoted: Vec<String> = strings
            .iter()
            .map(|string| format!("\"{}\"", string.replace('\\', "\\\\").replace('"', "\\\"")))
            .collect();
        return quoted.join(", ");
    }
    if value.len().is_multiple_of(4) {
        let cells: Vec<String> = value
            .chunks_exact(4)
            .map(|cell| {
                format!("{:#x}", cell.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
            })
            .collect();
        return format!("<{}>", cells.join(" "));
    }
    let bytes: Vec<String> = value.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("[{}]", bytes.join(" "))
}

/// The strings of a value that consists of printable, non-empty, terminated strings alone.
fn as_strings(value: &[u8]) -> Option<Vec<&str>> {
    let body = value.strip_suffix(&[0])?;
    body.split(|byte| *byte == 0)
        .map(|string| {
            let printable =
                !string.is_empty() && string.iter().all(|byte| matches!(byte, b' '..=b'~'));
            if printable { std::str::from_utf8(string).ok() } else { None }
        })
        .collect()
}
