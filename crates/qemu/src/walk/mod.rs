//! Reads a migration stream of any machine type by the description that it ends with.
//!
//! QEMU's sections have no length: only the description, behind the end of the stream, says where
//! each of them ends. So this needs a file, and reads its end first. It checks what can be checked:
//! that every byte belongs to something, that sections, fields and footers are where the
//! description has them, and that pages are of blocks that there are. It says what it cannot check:
//! QEMU's streams have no checksum, and what a device means by its numbers is the device's.

mod body;
mod description;
mod error;
mod input;
mod ram;

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek};

pub use body::{Field, FieldValue, Structure};
use description::{Description, SectionDescription};
pub use error::{WalkError, WalkErrorKind};
use input::Input;
use ram::Ram;

/// RAM blocks that a machine may have.
pub const MAX_BLOCKS: usize = 1 << 16;

const MAGIC: u32 = 0x5145_564d;
const VERSION: u32 = 3;
const EOF: u8 = 0x00;
const START: u8 = 0x01;
const PART: u8 = 0x02;
const END: u8 = 0x03;
const FULL: u8 = 0x04;
const SUBSECTION: u8 = 0x05;
const DESCRIPTION: u8 = 0x06;
const CONFIGURATION: u8 = 0x07;
const COMMAND: u8 = 0x08;
const FOOTER: u8 = 0x7e;
const COMMAND_PACKAGED: u16 = 7;
/// The largest description that is looked for. QEMU's largest machines stay below a tenth of it.
const MAX_DESCRIPTION: u64 = 32 << 20;

/// A part of the configuration that QEMU sends only if told to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigurationPart {
    /// Capabilities that both sides must have.
    Capabilities(Vec<String>),
    /// The machine's identity.
    Uuid([u8; 16]),
    /// Bits of an address within a page.
    PageBits(u32),
}

/// What a page holds at the end of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Zeroes.
    Zero,
    /// Something: the first 16 bytes of its BLAKE3 digest.
    Content([u8; 16]),
    /// Something that is sent compressed or as a difference, and is not decoded here.
    Unchecked,
}

/// A RAM block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// Its guest-physical address, where the stream has it.
    pub address: Option<u64>,
    /// Records about pages of it.
    pub records: u64,
    /// What its pages hold at the end, by their number; those that never came are not here.
    pub pages: BTreeMap<u64, Page>,
}

/// A device section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its number in the stream.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its instance.
    pub instance: u32,
    /// Version of its body.
    pub version: u32,
    /// Where its body begins, in bytes from the start of the stream.
    pub offset: u64,
    /// Bytes of its body.
    pub length: u64,
    /// The body.
    pub body: Structure,
}

/// A command that is no part of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its number.
    pub number: u16,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// All that a stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Bytes of the file.
    pub length: u64,
    /// Everything was read, to the end mark and the description behind it.
    pub whole: bool,
    /// The machine type.
    pub machine_type: String,
    /// Parts of the configuration that do not always come.
    pub configuration: Vec<ConfigurationPart>,
    /// Bytes of a page.
    pub page_size: u64,
    /// RAM blocks, in order.
    pub blocks: Vec<Block>,
    /// Sections with records about memory.
    pub ram_sections: u64,
    /// Device sections, in order.
    pub sections: Vec<Section>,
    /// Commands, in order.
    pub commands: Vec<Command>,
    /// What could not be checked, in words.
    pub unchecked: Vec<String>,
}

/// Walks a stream from its first byte to its last.
///
/// # Errors
/// If a byte is not where it belongs. What merely cannot be checked is in [`Stream::unchecked`].
pub fn walk(input: impl Read + Seek) -> Result<Stream, WalkError> {
    let failed = |error| WalkError { offset: 0, section: None, kind: WalkErrorKind::Io(error) };
    let mut input = Input::new(input).map_err(failed)?;
    let mut unchecked = Vec::new();
    let (description, description_at) = match find_description(&mut input).map_err(failed)? {
        Some((Ok(description), at)) => (Some(description), Some(at)),
        Some((Err(problem), at)) => {
            unchecked.push(format!("the description at byte {at} cannot be used: {problem}"));
            (None, Some(at))
        }
        None => (None, None),
    };
    Walker {
        known: HashMap::new(),
        next: 0,
        opaque: BTreeMap::new(),
        stream: Stream {
            length: input.length(),
            whole: false,
            machine_type: String::new(),
            configuration: Vec::new(),
            page_size: description.as_ref().and_then(|of| of.page_size).unwrap_or(4096),
            blocks: Vec::new(),
            ram_sections: 0,
            sections: Vec::new(),
            commands: Vec::new(),
            unchecked,
        },
        sections: description.map(|description| description.sections),
        description_at,
        input,
    }
    .walk()
}

/// The description at the end of the file, and where it begins.
fn find_description<R: Read + Seek>(
    input: &mut Input<R>,
) -> std::io::Result<Option<(Result<Description, String>, u64)>> {
    let mut count: u64 = 1 << 20;
    loop {
        let tail = input.tail(count)?;
        let start = input.length() - tail.len() as u64;
        let mut problem = None;
        for at in (1..tail.len().saturating_sub(5)).rev() {
            let [EOF, DESCRIPTION, a, b, c, d, b'{', ..] = tail[at - 1..] else { continue };
            let rest = &tail[at + 5..];
            if u32::from_be_bytes([a, b, c, d]) as usize != rest.len() {
                continue;
            }
            match Description::parse(rest) {
                Ok(description) => return Ok(Some((Ok(description), start + at as u64))),
                Err(found) => problem = problem.or(Some((Err(found), start + at as u64))),
            }
        }
        if problem.is_some() || count >= input.length() || count >= MAX_DESCRIPTION {
            return Ok(problem);
        }
        count *= 4;
    }
}

struct Walker<R> {
    input: Input<R>,
    sections: Option<Vec<SectionDescription>>,
    description_at: Option<u64>,
    /// Place in `sections` of the next device section.
    next: usize,
    /// Sections that come in parts, by number.
    known: HashMap<u32, (String, u32)>,
    opaque: BTreeMap<String, u64>,
    stream: Stream,
}

/// Whether the walk can go on.
enum Progress {
    More,
    /// The end mark came.
    Ended,
    /// Nobody knows where the section ends.
    Lost,
}

impl<R: Read + Seek> Walker<R> {
    fn walk(mut self) -> Result<Stream, WalkError> {
        self.configuration()?;
        let has = |name: &str| {
            self.stream.configuration.iter().any(|part| {
                matches!(part, ConfigurationPart::Capabilities(names) if names.iter().any(|n| n == name))
            })
        };
        let mapped = has("mapped-ram");
        let mut ram = Ram::new(self.stream.page_size, has("x-ignore-shared"));
        if mapped {
            self.lost("memory, which lies at fixed places of the file (mapped-ram)");
            return Ok(self.stream);
        }
        let ended = loop {
            match self.item(&mut ram)? {
                Progress::More => {}
                Progress::Ended => break true,
                Progress::Lost => break false,
            }
        };
        self.stream.blocks = ram.blocks;
        if ended {
            self.end()?;
            self.stream.whole = self.sections.is_some();
        }
        self.conclude();
        Ok(self.stream)
    }

    fn lost(&mut self, what: &str) {
        let at = self.input.position();
        let rest = self.input.left();
        self.stream.unchecked.push(format!("from byte {at} on, {rest} bytes: {what}"));
    }

    fn configuration(&mut self) -> Result<(), WalkError> {
        let input = &mut self.input;
        let magic = input.u32()?;
        if magic != MAGIC {
            let kind = WalkErrorKind::Magic(magic);
            return Err(WalkError { offset: 0, section: None, kind });
        }
        let version = input.u32()?;
        if version != VERSION {
            let kind = WalkErrorKind::Version(version);
            return Err(WalkError { offset: 4, section: None, kind });
        }
        if input.peek()? != Some(CONFIGURATION) {
            self.stream.unchecked.push("the machine type, which the stream does not name".into());
            return Ok(());
        }
        input.u8()?;
        let length = input.u32()?;
        self.stream.machine_type = input.text(length.into())?;
        while input.peek()? == Some(SUBSECTION) {
            input.u8()?;
            let name = input.short_text()?;
            let _version = input.u32()?;
            let part = match name.as_str() {
                "configuration/capabilities" => {
                    let count = input.u32()?;
                    let names = (0..count).map(|_| input.short_text()).collect::<Result<_, _>>()?;
                    ConfigurationPart::Capabilities(names)
                }
                "configuration/uuid" => ConfigurationPart::Uuid(input.array()?),
                "configuration/target-page-bits" => ConfigurationPart::PageBits(input.u32()?),
                _ => return Err(input.error(WalkErrorKind::ConfigurationSubsection(name))),
            };
            self.stream.configuration.push(part);
        }
        Ok(())
    }

    fn item(&mut self, ram: &mut Ram) -> Result<Progress, WalkError> {
        let at = self.input.position();
        match self.input.u8()? {
            EOF => Ok(Progress::Ended),
            kind @ (START | FULL) => self.section(kind, ram),
            PART | END => {
                let id = self.input.u32()?;
                let Some(section) = self.known.get(&id).cloned() else {
                    let kind = WalkErrorKind::UnknownSectionId(id);
                    return Err(WalkError { offset: at, section: None, kind });
                };
                self.ram(ram, id, &section)
            }
            COMMAND => {
                let (number, length) = (self.input.u16()?, self.input.u16()?);
                let payload = self.input.bytes(length.into())?;
                // The items of a package follow as if they stood alone.
                if number == COMMAND_PACKAGED && length != 4 {
                    return Err(self.input.error(WalkErrorKind::CutShort));
                }
                self.stream.commands.push(Command { number, payload });
                Ok(Progress::More)
            }
            found => {
                let kind = WalkErrorKind::Type { found };
                Err(WalkError { offset: at, section: None, kind })
            }
        }
    }

    fn section(&mut self, kind: u8, ram: &mut Ram) -> Result<Progress, WalkError> {
        let id = self.input.u32()?;
        let name = self.input.short_text()?;
        let instance = self.input.u32()?;
        let version = self.input.u32()?;
        let section = (name, instance);
        let within = |mut error: WalkError| {
            error.section = Some(section.clone());
            error
        };
        if kind == START {
            self.known.insert(id, section.clone());
            return self.ram(ram, id, &section);
        }
        let Some(described) = &self.sections else {
            let why = match self.description_at {
                Some(_) => "its description cannot be used",
                None => "the stream has no description at its end",
            };
            let (name, instance) = &section;
            self.lost(&format!(
                "section {name:?} instance {instance} and what follows, since {why}"
            ));
            return Ok(Progress::Lost);
        };
        let offset = self.input.position();
        let description = match described.get(self.next) {
            Some(of) if (&of.name, of.instance) == (&section.0, section.1) => of,
            other => {
                let described = other.map(|of| (of.name.clone(), of.instance));
                let kind = WalkErrorKind::Described { described };
                return Err(within(WalkError { offset, section: None, kind }));
            }
        };
        self.next += 1;
        let body =
            body::read(&mut self.input, &description.body, "", &mut self.opaque).map_err(within)?;
        let length = self.input.position() - offset;
        self.footer(id).map_err(within)?;
        if body.version.is_some_and(|described| described != version) {
            let kind = WalkErrorKind::Field {
                path: "version".into(),
                problem: format!("is {version}, and another in the description"),
            };
            return Err(within(WalkError { offset, section: None, kind }));
        }
        let (name, instance) = section;
        self.stream.sections.push(Section { id, name, instance, version, offset, length, body });
        Ok(Progress::More)
    }

    fn ram(
        &mut self,
        ram: &mut Ram,
        id: u32,
        section: &(String, u32),
    ) -> Result<Progress, WalkError> {
        let (name, instance) = section;
        if name != "ram" {
            self.lost(&format!(
                "section {name:?} instance {instance} and what follows: it comes in parts, in a \
                 format of its own"
            ));
            return Ok(Progress::Lost);
        }
        let within = |mut error: WalkError| {
            error.section = Some(section.clone());
            error
        };
        ram.read(&mut self.input).map_err(within)?;
        self.stream.ram_sections += 1;
        self.footer(id).map_err(within)?;
        Ok(Progress::More)
    }

    fn footer(&mut self, expected: u32) -> Result<(), WalkError> {
        let at = self.input.position();
        let failed = |kind| WalkError { offset: at, section: None, kind };
        let mark = self.input.u8()?;
        if mark != FOOTER {
            return Err(failed(WalkErrorKind::NoFooter(mark)));
        }
        let found = self.input.u32()?;
        if found != expected {
            return Err(failed(WalkErrorKind::FooterId { expected, found }));
        }
        Ok(())
    }

    /// What follows the end mark.
    fn end(&mut self) -> Result<(), WalkError> {
        if let Some(missing) = self.sections.as_ref().and_then(|all| all.get(self.next)) {
            let kind = WalkErrorKind::Undelivered {
                name: missing.name.clone(),
                instance: missing.instance,
            };
            return Err(self.input.error(kind));
        }
        if self.description_at != Some(self.input.position()) && self.input.left() > 0 {
            self.lost("they are behind the end of the stream, and are no description of it");
        }
        Ok(())
    }

    /// Says what a walk cannot know.
    fn conclude(&mut self) {
        let unchecked = &mut self.stream.unchecked;
        for block in &self.stream.blocks {
            let pages = block.length.div_ceil(self.stream.page_size);
            let missing = pages - (block.pages.len() as u64).min(pages);
            if missing > 0 {
                unchecked.push(format!(
                    "RAM block {:?}: {missing} of {pages} pages did not come in this stream",
                    block.name
                ));
            }
            let packed = block.pages.values().filter(|page| **page == Page::Unchecked).count();
            if packed > 0 {
                unchecked.push(format!(
                    "RAM block {:?}: {packed} pages came compressed or as differences, and were \
                     not decoded",
                    block.name
                ));
            }
        }
        for (ty, bytes) in &self.opaque {
            unchecked.push(format!(
                "{bytes} bytes in fields of type {ty:?}, which the description does not explain"
            ));
        }
        // A stream of Ferry's has a digest of itself.
        if !self.stream.sections.iter().any(|section| section.name == "digest") {
            unchecked.push("what memory and fields hold: the stream has no digest".into());
        }
    }
}
