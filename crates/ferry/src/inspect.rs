//! `ferry inspect`: what a saved stream holds.

use std::fs::File;
use std::io::BufReader;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use machine::MachineConfig;
use serde_json::{Map, Value as Json, json};
use stream::{Event, Schemas, StreamReader};
use vmstate::{SavedSection, StructValue, Value};

use crate::cli::InspectOptions;
use crate::{saved, text};

/// A RAM block and its pages, as the stream has them.
struct Block {
    name: String,
    length: u64,
    pages: u64,
    zero_pages: u64,
}

/// All that a stream holds.
#[derive(Default)]
struct Contents {
    machine_type: String,
    tree: Vec<u8>,
    blocks: Vec<Block>,
    rounds: u64,
    sections: Vec<(SavedSection, StructValue)>,
    digest: Option<stream::Digest>,
}

/// `ferry inspect FILE`.
pub fn inspect(options: &InspectOptions) -> Result<ExitCode> {
    let mut file = File::open(&options.file)
        .with_context(|| format!("cannot read {}", options.file.display()))?;
    if !saved::is_ferrys(&mut file)? {
        return saved::inspect(&options.file, file, options.json);
    }
    let contents = read(BufReader::with_capacity(1 << 20, file))
        .with_context(|| format!("{} is no whole stream", options.file.display()))?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&as_json(&contents)?)?);
    } else {
        print(&contents)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read(input: impl std::io::Read) -> Result<Contents> {
    let mut reader = StreamReader::new(input);
    let mut contents = Contents::default();
    let mut schemas: Option<Arc<dyn Schemas + Send + Sync>> = None;
    loop {
        let mut found = None;
        match reader.next()? {
            Event::Configuration { machine_type } => contents.machine_type = machine_type,
            Event::Machine(tree) => {
                let config = MachineConfig::from_fdt(&tree).context("the machine section")?;
                found = Some(vmm::schemas(&config));
                contents.tree = tree;
            }
            Event::RamBlocks(blocks) => {
                contents.blocks = blocks
                    .into_iter()
                    .map(|(name, length)| Block { name, length, pages: 0, zero_pages: 0 })
                    .collect();
            }
            Event::Page { block, .. } => contents.blocks[usize::from(block)].pages += 1,
            Event::ZeroPage { block, .. } => contents.blocks[usize::from(block)].zero_pages += 1,
            Event::RamRoundEnd | Event::RamEnd => contents.rounds += 1,
            Event::Section(section) => {
                let schema = schemas
                    .as_ref()
                    .and_then(|schemas| schemas.schema(&section.name, section.instance))
                    .context("a section before the machine")?;
                let values = schema.values(section.version, &section.data)?;
                contents.sections.push((section, values));
            }
            Event::Digest(digest) => contents.digest = Some(digest),
            Event::End => break,
        }
        if let Some(found) = found {
            reader.set_schemas(found.clone());
            schemas = Some(found);
        }
    }
    reader.expect_end_of_input()?;
    Ok(contents)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn print(contents: &Contents) -> Result<()> {
    println!("machine type {}\n", contents.machine_type);
    println!("{}", machine::fdt::to_source(&contents.tree)?);
    for block in &contents.blocks {
        println!(
            "RAM block {}: {}, {} pages sent whole and {} as zeroes in {} rounds",
            block.name,
            text::bytes(block.length),
            block.pages,
            block.zero_pages,
            contents.rounds
        );
    }
    for (section, values) in &contents.sections {
        println!("\n{} {} version {}", section.name, section.instance, section.version);
        print_fields(values, 1);
    }
    if let Some(digest) = &contents.digest {
        println!("\nmemory digest {}", hex(&digest.memory));
        println!("state digest {}", hex(&digest.sections));
    }
    Ok(())
}

fn print_fields(values: &StructValue, depth: usize) {
    let indent = "  ".repeat(depth);
    for (name, value) in &values.fields {
        match value {
            Value::Struct(inner) => {
                println!("{indent}{name}:");
                print_fields(inner, depth + 1);
            }
            value => println!("{indent}{name} = {value}"),
        }
    }
    for (name, inner) in &values.subsections {
        println!("{indent}subsection {name}:");
        print_fields(inner, depth + 1);
    }
}

fn value_as_json(value: &Value) -> Json {
    match value {
        Value::Struct(inner) => fields_as_json(inner),
        Value::Items(items) => Json::Array(items.iter().map(value_as_json).collect()),
        Value::Enum(variant) => json!({ "name": variant.name, "value": variant.value }),
        value => Json::String(value.to_string()),
    }
}

fn fields_as_json(values: &StructValue) -> Json {
    let mut object = Map::new();
    for (name, value) in &values.fields {
        object.insert((*name).to_owned(), value_as_json(value));
    }
    for (name, inner) in &values.subsections {
        object.insert((*name).to_owned(), fields_as_json(inner));
    }
    Json::Object(object)
}

fn node_as_json(node: &machine::fdt::Node) -> Json {
    let mut object = Map::new();
    for (name, value) in &node.properties {
        object.insert(name.clone(), Json::String(machine::fdt::format_value(value)));
    }
    for child in &node.children {
        object.insert(child.name.clone(), node_as_json(child));
    }
    Json::Object(object)
}

fn as_json(contents: &Contents) -> Result<Json> {
    let tree = machine::fdt::parse(&contents.tree)?;
    let blocks: Vec<Json> = contents
        .blocks
        .iter()
        .map(|block| {
            json!({
                "name": block.name,
                "length": block.length,
                "pages": block.pages,
                "zero_pages": block.zero_pages,
            })
        })
        .collect();
    let sections: Vec<Json> = contents
        .sections
        .iter()
        .map(|(section, values)| {
            json!({
                "name": section.name,
                "instance": section.instance,
                "version": section.version,
                "fields": fields_as_json(values),
            })
        })
        .collect();
    Ok(json!({
        "machine_type": contents.machine_type,
        "machine": node_as_json(&tree),
        "ram": { "rounds": contents.rounds, "blocks": blocks },
        "sections": sections,
        "digest": contents.digest.as_ref().map(|digest| json!({
            "memory": hex(&digest.memory),
            "sections": hex(&digest.sections),
        })),
    }))
}
