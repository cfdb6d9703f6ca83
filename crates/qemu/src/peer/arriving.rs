//! From a QEMU's stream to Ferry's, piece by piece.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use machine::MachineConfig;
use memory::GuestRam;
use migration::{Cause, ForeignSource, Piece, SharedSchemas, StateWriter};
use vmstate::SavedSection;

use super::Join;
use super::blocks::{Blocks, Place};
use crate::PAGE_SIZE;
use crate::incoming::{Event, Expected, Incoming, apply};
use crate::layout::layouts;
use crate::translate::from_qemu;

/// Bytes of a piece, about.
const PIECE: usize = 256 * 1024;

/// What is to arrive.
pub struct Arrival {
    /// The machine, which QEMU does not describe.
    pub config: MachineConfig,
    /// Its sections in Ferry's stream.
    pub schemas: SharedSchemas,
    /// Makes its state of what came.
    pub join: Join,
    /// Channels of pages (QEMU's capability `multifd`).
    pub channels: usize,
    /// The host's wall clock, in nanoseconds since 1970.
    pub wall_clock_ns: fn() -> i64,
}

/// What waits until everything before it is in memory.
enum Held {
    Difference { block: usize, offset: u64, delta: Vec<u8> },
    Sections(Vec<SavedSection>),
}

/// A QEMU that sends a machine.
pub struct FromQemu {
    arrival: Arrival,
    incoming: Incoming,
    writer: StateWriter<Vec<u8>>,
    blocks: Option<Blocks>,
    begun: bool,
    in_round: bool,
    held: Option<Held>,
    over: bool,
    deaf: Arc<AtomicBool>,
}

impl FromQemu {
    /// Of whom nothing was heard yet.
    pub fn new(arrival: Arrival) -> Self {
        let incoming = Incoming::new(Expected {
            layouts: layouts(&arrival.config),
            uuid: arrival.config.uuid,
            channels: arrival.channels,
        });
        let pages = (arrival.config.memory_bytes / PAGE_SIZE as u64) as usize;
        Self {
            writer: StateWriter::new(Vec::new(), arrival.schemas.clone(), pages),
            arrival,
            incoming,
            blocks: None,
            begun: false,
            in_round: false,
            held: None,
            over: false,
            deaf: Arc::default(),
        }
    }

    /// Set once this QEMU sends memory, if it hears no answers.
    pub fn deaf(&self) -> Arc<AtomicBool> {
        self.deaf.clone()
    }

    fn begin(&mut self) -> Result<(), Cause> {
        let config = &self.arrival.config;
        self.writer.machine(config.machine_type.name(), &config.to_fdt()?)?;
        self.begun = true;
        Ok(())
    }

    /// Writes a page into the stream.
    fn page(
        &mut self,
        ram: &GuestRam,
        block: usize,
        offset: u64,
        content: &[u8; PAGE_SIZE],
    ) -> Result<(), Cause> {
        let blocks = self.blocks.as_mut().ok_or("pages come before the list of RAM blocks")?;
        match blocks.place(block, offset) {
            Place::Table(table, at) => blocks.table_page(table, at).copy_from_slice(content),
            Place::OutOfReach if *content == [0; PAGE_SIZE] => {}
            Place::OutOfReach => {
                return Err(format!(
                    "the page at {offset:#x} of RAM block {:?}, which lies under firmware and out \
                     of the guest's reach, is not empty",
                    blocks.list()[block].0
                )
                .into());
            }
            Place::Memory(address) => {
                let page = ram
                    .page_of(address)
                    .ok_or_else(|| format!("there is no memory at {address:#x}"))?;
                if !self.in_round {
                    self.writer.begin_round()?;
                    self.in_round = true;
                }
                // There is one block, of all pages in order.
                self.writer.page(page, 0, (page * PAGE_SIZE) as u64, content)?;
            }
        }
        Ok(())
    }

    fn end_round(&mut self) -> Result<(), Cause> {
        if std::mem::take(&mut self.in_round) {
            self.writer.end_round()?;
        }
        Ok(())
    }

    /// Does what waited for everything before it.
    fn release_held(&mut self, ram: &GuestRam, held: Held) -> Result<(), Cause> {
        match held {
            Held::Difference { block, offset, delta } => {
                let mut content = [0; PAGE_SIZE];
                let blocks = self.blocks.as_mut().ok_or("no RAM blocks")?;
                match blocks.place(block, offset) {
                    Place::Memory(address) => {
                        ram.read(address, &mut content)?;
                    }
                    Place::Table(table, at) => {
                        content.copy_from_slice(blocks.table_page(table, at));
                    }
                    Place::OutOfReach => {}
                }
                apply(&delta, &mut content).ok_or_else(|| {
                    format!("the difference (XBZRLE) of the page at {offset:#x} is malformed")
                })?;
                self.page(ram, block, offset, &content)
            }
            Held::Sections(sections) => {
                self.end_round()?;
                self.writer.end_memory()?;
                let wall_ns = (self.arrival.wall_clock_ns)();
                // The index field is behind the flags (virtio 1.2, section 2.7.8).
                let used_index = |ring: u64| {
                    let mut index = [0; 2];
                    ram.read(ring.checked_add(2)?, &mut index).ok()?;
                    Some(u16::from_le_bytes(index))
                };
                let state = from_qemu(&sections, &self.arrival.config, wall_ns, &used_index)?;
                let blocks = self.blocks.as_ref().ok_or("no RAM blocks")?;
                let whole = (self.arrival.join)(state, blocks.firmware())?;
                self.writer.finish(ram, &whole)?;
                self.over = true;
                Ok(())
            }
        }
    }

    /// Takes one thing in; false if more bytes are needed.
    fn step(&mut self, ram: &GuestRam) -> Result<bool, Cause> {
        // The event borrows what it came from; what is done with it needs the rest of `self`.
        let mut content = [0; PAGE_SIZE];
        match self.incoming.next()? {
            None => return Ok(false),
            Some(Event::Blocks(list)) => {
                self.blocks = Some(Blocks::named(list, &self.arrival.config)?);
                self.writer.ram_blocks(ram)?;
                self.deaf.store(!self.incoming.has_return_path(), Ordering::Release);
            }
            Some(Event::Page { block, offset, content: came }) => {
                content.copy_from_slice(came);
                self.page(ram, block, offset, &content)?;
            }
            Some(Event::Difference { block, offset, delta }) => {
                self.held = Some(Held::Difference { block, offset, delta: delta.to_vec() });
            }
            Some(Event::RoundEnd) => self.end_round()?,
            Some(Event::Complete(sections)) => self.held = Some(Held::Sections(sections)),
        }
        Ok(true)
    }
}

impl ForeignSource for FromQemu {
    fn wants(&self, channel: usize) -> bool {
        self.incoming.wants(channel)
    }

    fn heard(&mut self, channel: usize, bytes: &[u8]) {
        self.incoming.heard(channel, bytes);
    }

    fn ended(&mut self, channel: usize) {
        self.incoming.ended(channel);
    }

    fn next(&mut self, ram: Option<&GuestRam>, into: &mut Vec<u8>) -> Result<Piece, Cause> {
        // Whatever was there was taken in by now.
        std::mem::swap(self.writer.output(), into);
        self.writer.output().clear();
        let more = self.fill(ram)?;
        std::mem::swap(self.writer.output(), into);
        Ok(match (into.is_empty(), more) {
            (false, _) => Piece::Made,
            (true, true) => Piece::Over,
            (true, false) => Piece::Wanting,
        })
    }

    fn replies(&mut self) -> Vec<u8> {
        self.incoming.replies()
    }

    fn accept(&mut self) -> Result<(), Cause> {
        Ok(self.incoming.accept()?)
    }

    fn is_released(&self) -> bool {
        self.incoming.is_released()
    }

    fn refuse(&mut self) {
        self.incoming.refuse();
    }
}

impl FromQemu {
    /// Writes a piece of the stream; true if there will be no more.
    fn fill(&mut self, ram: Option<&GuestRam>) -> Result<bool, Cause> {
        let Some(ram) = ram else {
            if self.begun {
                return Err("the machine was not built".into());
            }
            return self.begin().map(|()| false);
        };
        if self.over {
            return Ok(true);
        }
        if let Some(held) = self.held.take() {
            self.release_held(ram, held)?;
        }
        while !self.over && self.held.is_none() && self.writer.output().len() < PIECE {
            if !self.step(ram)? {
                return Ok(false);
            }
            // With nothing written everything before is in memory.
            if self.writer.output().is_empty()
                && let Some(held) = self.held.take()
            {
                self.release_held(ram, held)?;
            }
        }
        Ok(false)
    }
}
