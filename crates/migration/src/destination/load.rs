//! From the bytes of the stream to a machine that holds what they say.

use std::ops::Range;
use std::time::Duration;

use memory::{GuestRam, PAGE_SIZE, Userfault};
use stream::Event;
use vmstate::SavedSection;

use super::filling::Filling;
use super::link::DestinationLink;
use super::placer::Placer;
use super::{Engine, Inlet};
use crate::digest::{RecordLog, SectionsDigest, difference, state_digest, total_digest};
use crate::error::Failure;
use crate::observer::Phase;
use crate::settings::Verify;

/// Sections that a machine may have. Each is some kilobytes at most.
const MAX_SECTIONS: usize = 65_536;
/// How often the observer hears of progress.
const REPORT: Duration = Duration::from_millis(100);
/// Pages between two looks at the clock.
const LOOK: u64 = 256;

/// What the stream's reader said, unless its input knows better.
fn stream_failure<L>(inlet: &mut Inlet<L>, error: stream::StreamError) -> Failure {
    inlet.failure.take().unwrap_or_else(|| Failure::Stream(Box::new(error)))
}

fn wrong(what: impl Into<String>) -> Failure {
    Failure::Stream(what.into().into())
}

/// Everything that came after the machine, but for memory, which is placed.
type Came = (Vec<SavedSection>, RecordLog, stream::Digest);

impl<L: DestinationLink> Engine<'_, L> {
    /// Reads the machine section and builds from it.
    pub(super) fn build(&mut self) -> Result<(), Failure> {
        self.report(Phase::Building, None);
        let inlet = self.inlet.clone();
        let mut failed = |error| stream_failure(&mut *inlet.borrow_mut(), error);
        let machine_type = match self.reader.next().map_err(&mut failed)? {
            Event::Configuration { machine_type } => machine_type,
            _ => return Err(wrong("it does not begin with the machine type")),
        };
        let machine = match self.reader.next().map_err(&mut failed)? {
            Event::Machine(machine) => machine,
            _ => return Err(wrong("the machine section is missing")),
        };
        self.sections_digest = SectionsDigest::new(&machine_type, &machine);
        if self.inlet.borrow().link.post_copy() {
            self.userfault = Some(Userfault::open()?);
        }
        self.target.build(&machine_type, &machine).map_err(Failure::Refused)?;
        self.inlet.borrow_mut().link.set_memory(&self.target.ram());
        self.reader.set_schemas(self.target.schemas());
        self.inlet.borrow_mut().placer = Some(Placer::start(self.target.ram())?);
        Ok(())
    }

    /// Reads everything else, loads it, and checks that this side holds what the source holds.
    pub(super) fn load(&mut self) -> Result<(), Failure> {
        let ram = self.target.ram();
        let (sections, records, theirs) = self.read(&ram)?;
        self.report(Phase::SwitchOver, Some(ram.pages() as u64));

        let mut placer = self.inlet.borrow_mut().placer.take().ok_or_else(|| wrong("no memory"))?;
        let mut pages = placer.finish()?;
        self.inlet.borrow_mut().placer = Some(placer);
        let missing = self.inlet.borrow_mut().link.take_missing()?;
        if let (Some((session, missing)), Some(fault)) = (missing, self.userfault.take()) {
            // From here on memory is as the guest will find it.
            let filling = Filling::arm(fault, &ram, session, missing, &self.settings)?;
            self.filling = Some(filling);
        }

        // Pages that were placed are marked; what is marked from here on was stored to by loading.
        ram.harvest();
        self.target.load(&sections).map_err(Failure::Refused)?;
        let held = self
            .target
            .save()
            .map_err(|source| Failure::Machine { doing: "save what was loaded", source })?;
        same_sections(&sections, &held)?;
        if let Some(page) = self.filling.as_ref().and_then(Filling::touched) {
            let address = ram.address_of(page);
            return Err(Failure::Digest(format!(
                "loading the sections touched memory at guest address {address:#x}, which comes \
                 after the hand-over"
            )));
        }
        if let Some(page) = ram.harvest().iter().next() {
            let address = ram.address_of(page);
            return Err(Failure::Digest(format!(
                "loading the sections stored to memory at guest address {address:#x}"
            )));
        }
        if self.verify == Verify::Full
            && let Some((first, count)) =
                pages.differing(&ram, self.filling.as_ref().map(|filling| filling.missing().1))
        {
            let address = ram.address_of(first);
            return Err(Failure::Digest(format!(
                "{count} pages of memory, the first at guest address {address:#x}, \
                 changed after they were placed"
            )));
        }

        // What was just found to be held, byte for byte.
        let memory = match &self.filling {
            None => pages.memory(&ram, &records),
            Some(filling) => {
                let (session, missing) = filling.missing();
                pages.memory_in_part(&ram, &records, session, missing)
            }
        };
        let ours = state_digest(memory, self.sections_digest.finish(&sections));
        match difference(&ours, &theirs, &ram) {
            Some(difference) => Err(Failure::Digest(difference)),
            None => {
                self.digest = total_digest(&ours);
                if let Some(filling) = &self.filling {
                    filling.agreed(&self.digest);
                }
                Ok(())
            }
        }
    }

    fn read(&mut self, ram: &GuestRam) -> Result<Came, Failure> {
        let memory_pages = ram.pages() as u64;
        let inlet = self.inlet.clone();
        let mut blocks = Vec::new();
        let mut sections: Vec<SavedSection> = Vec::new();
        let mut digest = None;
        let mut records = RecordLog::default();
        let mut placed = 0u64;
        loop {
            let event = self
                .reader
                .next()
                .map_err(|error| stream_failure(&mut *inlet.borrow_mut(), error))?;
            match event {
                Event::RamBlocks(came) => blocks = check_blocks(&came, ram)?,
                Event::Page { block, offset, data } => {
                    let page = page_of(&blocks, block, offset)?;
                    let mut inlet = inlet.borrow_mut();
                    let placer = inlet.placer.as_mut().ok_or_else(|| wrong("no memory"))?;
                    placer.place(page, data)?;
                    records.record(false, block, offset);
                    placed += 1;
                }
                Event::ZeroPage { block, offset } => {
                    let page = page_of(&blocks, block, offset)?;
                    let mut inlet = inlet.borrow_mut();
                    let placer = inlet.placer.as_mut().ok_or_else(|| wrong("no memory"))?;
                    placer.place_zero(page)?;
                    records.record(true, block, offset);
                    placed += 1;
                }
                Event::RamRoundEnd => records.round_end(),
                Event::RamEnd => {}
                Event::Section(section) => {
                    if sections.len() == MAX_SECTIONS {
                        return Err(wrong(format!("more than {MAX_SECTIONS} sections")));
                    }
                    sections.push(section);
                }
                Event::Digest(came) => digest = Some(came),
                Event::End => break,
                Event::Configuration { .. } | Event::Machine(_) => {
                    return Err(wrong("a second machine"));
                }
            }
            if placed.is_multiple_of(LOOK) && self.reported_at.elapsed() >= REPORT {
                self.report(Phase::Memory, Some(memory_pages));
            }
        }
        self.reader
            .expect_end_of_input()
            .map_err(|error| stream_failure(&mut *inlet.borrow_mut(), error))?;
        let digest = digest.ok_or_else(|| wrong("the digest section is missing"))?;
        Ok((sections, records, digest))
    }
}

/// The page of guest memory that a record speaks of.
fn page_of(blocks: &[Range<usize>], block: u16, offset: u64) -> Result<usize, Failure> {
    let pages =
        blocks.get(usize::from(block)).ok_or_else(|| wrong("pages before the RAM blocks"))?;
    usize::try_from(offset / PAGE_SIZE as u64)
        .ok()
        .and_then(|within| pages.start.checked_add(within))
        .filter(|page| pages.contains(page))
        .ok_or_else(|| wrong(format!("offset {offset:#x} is past the end of its RAM block")))
}

/// The blocks that come must be the blocks that are here; gives the pages of each.
fn check_blocks(blocks: &[(String, u64)], ram: &GuestRam) -> Result<Vec<Range<usize>>, Failure> {
    let here = ram.blocks();
    let mut first = 0;
    let mut pages = Vec::with_capacity(here.len());
    for (index, (name, length)) in blocks.iter().enumerate() {
        match here.get(index) {
            Some(block) if block.name == *name && block.length == *length => {}
            Some(block) => {
                return Err(wrong(format!(
                    "RAM block {index} is `{name}` of {length} bytes, \
                     and the machine has `{}` of {} bytes",
                    block.name, block.length
                )));
            }
            None => return Err(wrong(format!("the machine has no RAM block `{name}`"))),
        }
        let end = first + *length as usize / PAGE_SIZE;
        pages.push(first..end);
        first = end;
    }
    match here.get(blocks.len()) {
        Some(missing) => Err(wrong(format!("RAM block `{}` is missing", missing.name))),
        None => Ok(pages),
    }
}

/// What is held must be what came: the same sections, in the same order, with the same bytes. A
/// section that came in an older version is held in today's, and its bytes say nothing.
fn same_sections(came: &[SavedSection], held: &[SavedSection]) -> Result<(), Failure> {
    let named = |section: &SavedSection| format!("`{}` {}", section.name, section.instance);
    let has = |list: &[SavedSection], section: &SavedSection| {
        list.iter().any(|other| other.name == section.name && other.instance == section.instance)
    };
    if let Some(missing) = held.iter().find(|section| !has(came, section)) {
        return Err(Failure::Digest(format!("section {} did not come", named(missing))));
    }
    if let Some(extra) = came.iter().find(|section| !has(held, section)) {
        return Err(Failure::Digest(format!("section {} was not taken in", named(extra))));
    }
    for (came, held) in came.iter().zip(held) {
        if came.name != held.name || came.instance != held.instance {
            return Err(Failure::Digest(format!(
                "section {} came where {} belongs",
                named(came),
                named(held)
            )));
        }
        if came.version < held.version {
            continue;
        }
        if came.version != held.version {
            return Err(Failure::Digest(format!(
                "section {} came in version {} and is held in version {}",
                named(came),
                came.version,
                held.version
            )));
        }
        if came.data != held.data {
            let at =
                came.data.iter().zip(&held.data).take_while(|(one, other)| one == other).count();
            return Err(Failure::Digest(format!(
                "section {} is held differently from byte {at} on",
                named(came)
            )));
        }
    }
    if came.len() != held.len() {
        return Err(Failure::Digest(format!(
            "{} sections came and {} are held",
            came.len(),
            held.len()
        )));
    }
    Ok(())
}
