//! `ferry verify`: whether a saved stream is whole, and what can be said of it.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use machine::{MAX_MEMORY_BYTES, MachineConfig};
use stream::{Event, PAGE_SIZE, StreamReader, digest_input, machine_digest_input};

use crate::cli::FAILED;
use crate::{saved, text};

/// `ferry verify FILE`.
pub fn verify(path: &Path) -> Result<ExitCode> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let bad = || format!("{} is no whole stream", path.display());
    if saved::is_ferrys(&mut file)? {
        let summary = verify_ferrys(BufReader::with_capacity(1 << 20, file)).with_context(bad)?;
        println!("{summary}");
        println!("every section is what this release reads, and the digests agree");
        return Ok(ExitCode::SUCCESS);
    }
    let stream = qemu::walk::walk(file).with_context(bad)?;
    println!(
        "machine type {}, QEMU's format, {}, {} device sections",
        stream.machine_type,
        text::bytes(stream.length),
        stream.sections.len()
    );
    saved::print_blocks(&stream);
    for line in &stream.unchecked {
        println!("cannot be checked: {line}");
    }
    if !stream.whole {
        println!("not whole: it could not be read to its end");
        return Ok(ExitCode::from(FAILED));
    }
    println!("every section and field is where the stream's own description has it");
    Ok(ExitCode::SUCCESS)
}

/// Memory as the digest section hashes it (docs/stream.md, section 8): what pages hold at the end,
/// and the records they came in.
#[derive(Default)]
struct Memory {
    blocks: Vec<(String, u64)>,
    /// The first 16 bytes of each page's BLAKE3 digest, block by block.
    pages: Vec<Vec<[u8; 16]>>,
    records: crc32fast::Hasher,
}

fn page_digest(page: &[u8; PAGE_SIZE]) -> [u8; 16] {
    blake3::hash(page).as_bytes()[..16].try_into().expect("sixteen of 32 bytes")
}

impl Memory {
    fn new(blocks: Vec<(String, u64)>) -> Result<Self> {
        let total: u64 = blocks.iter().map(|(_, length)| length).sum();
        if total > MAX_MEMORY_BYTES {
            bail!("the RAM blocks have {}", text::bytes(total));
        }
        let zero = page_digest(&[0; PAGE_SIZE]);
        let pages = blocks.iter().map(|(_, length)| vec![zero; *length as usize / PAGE_SIZE]);
        let pages = pages.collect();
        Ok(Self { blocks, pages, records: crc32fast::Hasher::new() })
    }

    fn record(&mut self, block: u16, offset: u64, page: Option<&[u8; PAGE_SIZE]>) {
        self.records.update(&(offset | u64::from(page.is_none())).to_be_bytes());
        self.records.update(&u64::from(block).to_be_bytes());
        self.pages[usize::from(block)][offset as usize / PAGE_SIZE] =
            page_digest(page.unwrap_or(&[0; PAGE_SIZE]));
    }

    fn digest(&self) -> [u8; 32] {
        let mut hash = blake3::Hasher::new();
        hash.update(b"ferry memory 1\n").update(&self.records.clone().finalize().to_be_bytes());
        for ((name, length), pages) in self.blocks.iter().zip(&self.pages) {
            hash.update(&(name.len() as u64).to_be_bytes()).update(name.as_bytes());
            hash.update(&length.to_be_bytes()).update(pages.as_flattened());
        }
        *hash.finalize().as_bytes()
    }
}

/// Reads a whole stream of Ferry's and computes its digests again. A line about it.
fn verify_ferrys(input: impl Read) -> Result<String> {
    let mut reader = StreamReader::new(input);
    let mut sections = blake3::Hasher::new();
    let mut memory = Memory::default();
    let (mut named, mut count) = (String::new(), 0);
    loop {
        let mut found = None;
        match reader.next()? {
            Event::Configuration { machine_type } => named = machine_type,
            Event::Machine(tree) => {
                let config = MachineConfig::from_fdt(&tree).context("the machine section")?;
                found = Some(vmm::schemas(&config));
                machine_digest_input(&named, &tree, &mut |bytes| {
                    sections.update(bytes);
                });
            }
            Event::RamBlocks(blocks) => memory = Memory::new(blocks)?,
            Event::Page { block, offset, data } => memory.record(block, offset, Some(data)),
            Event::ZeroPage { block, offset } => memory.record(block, offset, None),
            Event::RamRoundEnd => memory.records.update(b"round"),
            Event::RamEnd => {}
            Event::Section(section) => {
                count += 1;
                digest_input(&section, &mut |bytes| {
                    sections.update(bytes);
                });
            }
            Event::Digest(digest) => {
                if digest.memory != memory.digest() {
                    bail!("memory does not hold what the stream's digest says");
                }
                if digest.sections != *sections.finalize().as_bytes() {
                    bail!("the sections are not those of the stream's digest");
                }
            }
            Event::End => break,
        }
        if let Some(found) = found {
            reader.set_schemas(found);
        }
    }
    reader.expect_end_of_input()?;
    let total: u64 = memory.blocks.iter().map(|(_, length)| length).sum();
    let position = text::bytes(reader.position());
    Ok(format!(
        "machine type {named}, {position}, {} of memory, {count} device sections",
        text::bytes(total)
    ))
}
