//! Saved streams that are read by the description at their end: QEMU's, of any machine type, and
//! Ferry's where two are compared.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use qemu::walk::{Block, ConfigurationPart, FieldValue, Page, Stream, Structure};
use serde_json::{Map, Value as Json, json};

use crate::cli::FAILED;
use crate::text;

/// Whether a stream begins as Ferry's do, with the machine in its first section. Goes back to the
/// start of the file.
pub fn is_ferrys(file: &mut File) -> io::Result<bool> {
    // Magic, version, configuration, a machine type of up to 255 bytes, and a section's name.
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(512).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(0))?;
    let Some(length) = head.get(9..13) else { return Ok(false) };
    let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
    let section = head.get(13..).and_then(|rest| rest.get(length..)).unwrap_or(&[]);
    Ok(section.starts_with(b"\x04\0\0\0\0\x07machine"))
}

/// Reads a stream by its description.
pub fn walk(path: &Path) -> Result<Stream> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    qemu::walk::walk(file).with_context(|| format!("{} is no whole stream", path.display()))
}

/// Prints what a stream of QEMU's holds.
pub fn inspect(path: &Path, file: File, json: bool) -> Result<ExitCode> {
    let stream =
        qemu::walk::walk(file).with_context(|| format!("{} is no whole stream", path.display()))?;
    if json {
        println!("{}", serde_json::to_string_pretty(&as_json(&stream))?);
    } else {
        print(&stream);
    }
    Ok(if stream.whole { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// `ferry diff A B`.
pub fn diff(left: &Path, right: &Path) -> Result<ExitCode> {
    let (left, right) = (walk(left)?, walk(right)?);
    let found = qemu::compare::compare(&left, &right);
    for difference in &found {
        println!("{difference}");
    }
    let whole = left.whole && right.whole;
    if !whole {
        println!("not compared: what could not be read (`ferry verify` says what)");
    }
    Ok(if found.is_empty() && whole { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn configuration(part: &ConfigurationPart) -> String {
    match part {
        ConfigurationPart::Capabilities(names) => format!("capabilities {}", names.join(", ")),
        ConfigurationPart::Uuid(uuid) => format!("uuid {}", machine::format_uuid(uuid)),
        ConfigurationPart::PageBits(bits) => format!("{bits} bits of an address within a page"),
    }
}

/// Pages with something in them, and pages of zeroes.
fn pages(block: &Block) -> (usize, usize) {
    let zero = block.pages.values().filter(|page| **page == Page::Zero).count();
    (block.pages.len() - zero, zero)
}

/// Prints the RAM blocks of a stream.
pub fn print_blocks(stream: &Stream) {
    for block in &stream.blocks {
        let (full, zero) = pages(block);
        println!(
            "RAM block {}: {}, {full} pages with content and {zero} of zeroes, from {} records",
            block.name,
            text::bytes(block.length),
            block.records
        );
    }
}

fn print(stream: &Stream) {
    println!("machine type {}, QEMU's format\n", stream.machine_type);
    for part in &stream.configuration {
        println!("configuration: {}", configuration(part));
    }
    print_blocks(stream);
    for section in &stream.sections {
        println!(
            "\n{} {} version {}: {} bytes",
            section.name, section.instance, section.version, section.length
        );
        print_structure(&section.body, 1);
    }
    println!();
    for line in &stream.unchecked {
        println!("cannot be checked: {line}");
    }
}

fn print_structure(structure: &Structure, depth: usize) {
    let indent = "  ".repeat(depth);
    for field in &structure.fields {
        match &field.value {
            FieldValue::Structure(inner) => {
                println!("{indent}{}:", field.name);
                print_structure(inner, depth + 1);
            }
            value => println!("{indent}{} = {value}", field.name),
        }
    }
    for inner in &structure.subsections {
        println!("{indent}subsection {}:", inner.name);
        print_structure(inner, depth + 1);
    }
}

fn value_as_json(value: &FieldValue) -> Json {
    match value {
        FieldValue::Structure(inner) => structure_as_json(inner),
        FieldValue::Items(items) => Json::Array(items.iter().map(value_as_json).collect()),
        value => Json::String(value.to_string()),
    }
}

fn structure_as_json(structure: &Structure) -> Json {
    let fields = structure.fields.iter().map(|of| (of.name.clone(), value_as_json(&of.value)));
    let inner = structure.subsections.iter().map(|of| (of.name.clone(), structure_as_json(of)));
    Json::Object(fields.chain(inner).collect::<Map<_, _>>())
}

fn as_json(stream: &Stream) -> Json {
    let blocks = stream.blocks.iter().map(|block| {
        let (full, zero) = pages(block);
        json!({
            "name": block.name,
            "length": block.length,
            "pages": full,
            "zero_pages": zero,
            "records": block.records,
        })
    });
    let sections = stream.sections.iter().map(|section| {
        json!({
            "name": section.name,
            "instance": section.instance,
            "version": section.version,
            "bytes": section.length,
            "fields": structure_as_json(&section.body),
        })
    });
    json!({
        "machine_type": stream.machine_type,
        "configuration": stream.configuration.iter().map(configuration).collect::<Vec<_>>(),
        "ram": { "blocks": blocks.collect::<Vec<_>>() },
        "sections": sections.collect::<Vec<_>>(),
        "unchecked": stream.unchecked,
        "whole": stream.whole,
    })
}
