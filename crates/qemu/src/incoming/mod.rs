//! Reads the stream of a QEMU microvm strictly, in one pass: by the layouts that are known, not by
//! the description at its end, so that it can come through a socket. What is not known is an error
//! that names it. Memory is handed on record by record; sections are kept, and come in any order,
//! as newer QEMUs send theirs.

use std::io::{self, Read};

use vmstate::{ByteSource, SavedSection};

use crate::layout::Layout;
use crate::source::Source;

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;
/// The machine type that is read.
pub const MICROVM: &str = "microvm";
/// The largest description that is read over.
const MAX_DESCRIPTION: u32 = 32 << 20;

const COMMAND: u8 = 0x08;
const COMMANDS: [&str; 12] = [
    "0",
    "OPEN_RETURN_PATH",
    "PING",
    "POSTCOPY_ADVISE",
    "POSTCOPY_LISTEN",
    "POSTCOPY_RUN",
    "POSTCOPY_RAM_DISCARD",
    "PACKAGED",
    "ENABLE_COLO",
    "POSTCOPY_RESUME",
    "RECV_BITMAP",
    "SWITCHOVER_START",
];

/// Where memory goes.
pub trait Memory {
    /// Takes the list of RAM blocks: names, and lengths in bytes.
    ///
    /// # Errors
    /// If this machine's are others; the text names the one that differs.
    fn blocks(&mut self, blocks: &[(String, u64)]) -> Result<(), String>;
    /// Takes the content of a page: block by its place in the list, offset in bytes.
    fn write(&mut self, block: usize, offset: u64, content: &[u8; PAGE_SIZE]);
    /// Gives the content of a page, which a difference is to be applied to.
    fn read(&self, block: usize, offset: u64) -> [u8; PAGE_SIZE];
}

/// Why a stream is refused.
#[derive(Debug, thiserror::Error)]
#[error("byte {offset} of QEMU's stream: {reason}")]
pub struct ReceiveError {
    /// Where, in bytes from its start.
    pub offset: u64,
    /// Why.
    pub reason: String,
}

/// Reads a whole stream, to the last byte of the description. Gives the sections in the order in
/// which they came.
///
/// # Errors
/// If any byte of it is not what a microvm with these sections sends. Memory may have been written
/// to by then.
pub fn receive(
    input: impl Read,
    layouts: &[Layout],
    memory: &mut dyn Memory,
) -> Result<Vec<SavedSection>, ReceiveError> {
    let mut receiver = Receiver {
        source: Source::new(input),
        layouts,
        memory,
        blocks: Vec::new(),
        last: None,
        ram: None,
        ram_ended: false,
        sections: Vec::new(),
    };
    receiver.run().map_err(|failure| ReceiveError {
        offset: receiver.source.position(),
        reason: match failure {
            Failure::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "it is cut short".to_owned()
            }
            Failure::Io(error) => error.to_string(),
            Failure::Refused(reason) => reason,
        },
    })?;
    Ok(receiver.sections)
}

enum Failure {
    Io(io::Error),
    Refused(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn refuse<T>(reason: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Refused(reason.into()))
}

struct Receiver<'a, R> {
    source: Source<R>,
    layouts: &'a [Layout],
    memory: &'a mut dyn Memory,
    blocks: Vec<(String, u64)>,
    /// The block of the record before.
    last: Option<usize>,
    /// Number of the RAM section.
    ram: Option<u32>,
    ram_ended: bool,
    sections: Vec<SavedSection>,
}

impl<R: Read> Receiver<'_, R> {
    fn run(&mut self) -> Result<(), Failure> {
        self.configuration()?;
        loop {
            match self.source.u8()? {
                0x00 => break,
                0x01 => self.ram_start()?,
                kind @ (0x02 | 0x03) => self.ram_part(kind == 0x03)?,
                0x04 => self.section()?,
                COMMAND => {
                    let number = self.source.u16()?;
                    let name = COMMANDS.get(usize::from(number)).unwrap_or(&"unknown");
                    return refuse(format!(
                        "command {number} ({name}): return path and post-copy are not supported; \
                         turn the capability off at the source"
                    ));
                }
                other => return refuse(format!("{other:#04x} is the type of no section")),
            }
        }
        self.complete()?;
        self.description()
    }

    fn configuration(&mut self) -> Result<(), Failure> {
        let magic = self.source.u32()?;
        if magic != 0x5145_564d {
            return refuse(format!("it begins with {magic:#010x}, and not as a migration stream"));
        }
        let version = self.source.u32()?;
        if version != 3 {
            return refuse(format!("version {version} of the stream format is not supported"));
        }
        if self.source.u8()? != 0x07 {
            return refuse("the configuration is missing");
        }
        let length = self.source.u32()?;
        if length > 255 {
            return refuse(format!("the name of the machine type has {length} bytes"));
        }
        let mut name = vec![0; length as usize];
        self.source.read_exact(&mut name)?;
        if name != MICROVM.as_bytes() {
            let name = String::from_utf8_lossy(&name);
            return refuse(format!("machine type {name:?} is not {MICROVM:?}"));
        }
        if self.source.peek()? == Some(0x05) {
            self.source.u8()?;
            let name = self.source.short_text()?;
            return refuse(format!(
                "{name:?} is not supported; turn the capability off at the source"
            ));
        }
        Ok(())
    }

    /// Number, name, instance and version of a section.
    fn head(&mut self) -> Result<(u32, String, u32, u32), Failure> {
        let id = self.source.u32()?;
        let name = self.source.short_text()?;
        Ok((id, name, self.source.u32()?, self.source.u32()?))
    }

    fn footer(&mut self, id: u32, name: &str) -> Result<(), Failure> {
        let (mark, found) = (self.source.u8()?, self.source.u32()?);
        if (mark, found) == (0x7e, id) {
            return Ok(());
        }
        refuse(format!("section {name:?} does not end where it should"))
    }

    fn ram_start(&mut self) -> Result<(), Failure> {
        let (id, name, instance, version) = self.head()?;
        if (name.as_str(), instance, version) != ("ram", 0, 4) || self.ram.is_some() {
            return refuse(format!(
                "section {name:?} instance {instance} version {version} comes in parts, and is \
                 not the memory of a microvm"
            ));
        }
        let total = self.source.u64()?;
        if total & 0xfff != 0x04 {
            return refuse(format!("the list of RAM blocks begins with {total:#x}"));
        }
        let (total, mut sum) = (total & !0xfff, 0u64);
        while sum < total {
            let name = self.source.short_text()?;
            let length = self.source.u64()?;
            sum = sum.saturating_add(length);
            if sum > total || length == 0 || length % PAGE_SIZE as u64 != 0 {
                return refuse(format!("RAM block {name:?} has {length} bytes"));
            }
            if self.blocks.iter().any(|(other, _)| *other == name) {
                return refuse(format!("RAM block {name:?} comes twice"));
            }
            self.blocks.push((name, length));
        }
        self.memory.blocks(&self.blocks).map_err(Failure::Refused)?;
        if self.source.u64()? != 0x10 {
            return refuse("the list of RAM blocks does not end");
        }
        self.ram = Some(id);
        self.footer(id, "ram")
    }

    fn ram_part(&mut self, end: bool) -> Result<(), Failure> {
        let id = self.source.u32()?;
        if self.ram != Some(id) || self.ram_ended {
            return refuse(format!("a part of section number {id}, which is not the memory"));
        }
        self.ram_ended = end;
        loop {
            let word = self.source.u64()?;
            let (offset, flags) = (word & !0xfff, word & 0xfff);
            if word == 0x10 {
                return self.footer(id, "ram");
            }
            if !matches!(flags & !0x20, 0x02 | 0x08 | 0x40) {
                return refuse(format!(
                    "a RAM record with flags {flags:#05x}: pages, pages of zeroes and XBZRLE are \
                     supported"
                ));
            }
            let block = self.block(flags & 0x20 != 0)?;
            let (name, length) = &self.blocks[block];
            if offset >= *length {
                return refuse(format!("a page at {offset:#x} of RAM block {name:?}"));
            }
            let mut page = [0; PAGE_SIZE];
            match flags & !0x20 {
                0x02 => {
                    let fill = self.source.u8()?;
                    if fill != 0 {
                        return refuse(format!("a page of zeroes is filled with {fill:#04x}"));
                    }
                }
                0x08 => self.source.read_exact(&mut page)?,
                _ => {
                    page = self.memory.read(block, offset);
                    self.difference(&mut page)?;
                }
            }
            self.memory.write(block, offset, &page);
        }
    }

    fn block(&mut self, same: bool) -> Result<usize, Failure> {
        if !same {
            let name = self.source.short_text()?;
            let found = self.blocks.iter().position(|(other, _)| *other == name);
            let Some(found) = found else {
                return refuse(format!("a page of RAM block {name:?}, which there is not"));
            };
            self.last = Some(found);
        }
        match self.last {
            Some(block) => Ok(block),
            None => refuse("a page of the same RAM block as before, and there was none"),
        }
    }

    /// Applies an XBZRLE record: runs of bytes that stay and of bytes that change by turns.
    fn difference(&mut self, page: &mut [u8; PAGE_SIZE]) -> Result<(), Failure> {
        let (mark, length) = (self.source.u8()?, self.source.u16()?);
        if mark != 1 || usize::from(length) > PAGE_SIZE {
            return refuse("an XBZRLE record is malformed");
        }
        let mut delta = vec![0; length.into()];
        self.source.read_exact(&mut delta)?;
        match apply(&delta, page) {
            Some(()) => Ok(()),
            None => refuse("an XBZRLE record is malformed"),
        }
    }

    fn section(&mut self) -> Result<(), Failure> {
        let (id, name, instance, version) = self.head()?;
        if !self.ram_ended {
            return refuse(format!("section {name:?} comes before the end of memory"));
        }
        let known = self.layouts.iter().find(|of| of.name == name && of.instance == instance);
        let Some(layout) = known else {
            return refuse(format!(
                "section {name:?} instance {instance} is of a device that this machine does not \
                 have"
            ));
        };
        if self.sections.iter().any(|of| of.name == name && of.instance == instance) {
            return refuse(format!("section {name:?} instance {instance} comes twice"));
        }
        let data = layout
            .schema
            .read_body(version, &mut self.source)
            .map_err(|error| Failure::Refused(error.in_section(&name, instance).to_string()))?;
        self.footer(id, &name)?;
        self.sections.push(SavedSection { name, instance, version, data });
        Ok(())
    }

    fn complete(&self) -> Result<(), Failure> {
        let came = |layout: &&Layout| {
            let same = |of: &SavedSection| of.name == layout.name && of.instance == layout.instance;
            !self.sections.iter().any(same)
        };
        let missing: Vec<_> = self
            .layouts
            .iter()
            .filter(came)
            .map(|layout| format!("{:?} {}", layout.name, layout.instance))
            .collect();
        if missing.is_empty() { Ok(()) } else { refuse(format!("missing: {}", missing.join(", "))) }
    }

    /// Reads over the description, which an older or a newer QEMU words as it likes.
    fn description(&mut self) -> Result<(), Failure> {
        if self.source.u8()? != 0x06 {
            return refuse("there is no description behind the end");
        }
        let length = self.source.u32()?;
        if length > MAX_DESCRIPTION {
            return refuse(format!("the description has {length} bytes"));
        }
        let mut chunk = [0; 4096];
        let mut left = length as usize;
        while left > 0 {
            let now = left.min(chunk.len());
            self.source.read_exact(&mut chunk[..now])?;
            left -= now;
        }
        Ok(())
    }
}

fn apply(mut delta: &[u8], page: &mut [u8; PAGE_SIZE]) -> Option<()> {
    let mut at = 0;
    while !delta.is_empty() {
        at += run_length(&mut delta)?;
        let count = run_length(&mut delta)?;
        if count == 0 {
            return None;
        }
        page.get_mut(at..at + count)?.copy_from_slice(delta.get(..count)?);
        delta = &delta[count..];
        at += count;
    }
    Some(())
}

/// One or two bytes of LEB128.
fn run_length(delta: &mut &[u8]) -> Option<usize> {
    let (value, rest) = match **delta {
        [low, ref rest @ ..] if low < 0x80 => (usize::from(low), rest),
        [low, high, ref rest @ ..] if high < 0x80 => {
            (usize::from(low & 0x7f) | usize::from(high) << 7, rest)
        }
        _ => return None,
    };
    *delta = rest;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_changes_what_it_names() {
        let mut page = [7; PAGE_SIZE];
        assert_eq!(apply(&[0xfe, 0x1f, 2, 1, 2], &mut page), Some(()));
        assert_eq!(page[4093..], [7, 1, 2]);
        assert_eq!(apply(&[0, 1, 9, 3, 1, 8], &mut page), Some(()));
        assert_eq!(page[..5], [9, 7, 7, 7, 8]);
        for bad in [&[0xff, 0x1f, 2, 1, 1][..], &[0, 3, 1, 1], &[5], &[0x80, 0x80, 1], &[3, 0]] {
            assert_eq!(apply(bad, &mut page), None, "{bad:?}");
        }
    }
}
