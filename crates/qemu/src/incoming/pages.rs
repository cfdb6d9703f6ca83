//! Pages over channels of their own: QEMU's capability `multifd`.
//!
//! Each channel begins with a packet of 64 bytes that numbers it. Then come packets of pages: a
//! head of fixed length, and behind it the content of the pages that it names. A packet with the
//! mark `SYNC` ends what belongs to the section of memory that ends on the first channel: pages
//! behind it wait until all channels have come that far.

use crate::PAGE_SIZE;

use super::buffer::{Buffer, Failure, Reading, refuse};

const MAGIC: u32 = 0x1122_3344;
const VERSION: u32 = 1;
const SYNC: u32 = 1;
/// Pages of a packet: 512 KiB of them.
const PAGES: usize = 128;

/// The pages of a packet that have not been handed on.
struct Packet {
    block: usize,
    /// Offsets, in bytes; the last comes first.
    left: Vec<u64>,
    sync: bool,
}

/// One channel of pages.
#[derive(Default)]
pub(super) struct Channel {
    buffer: Buffer,
    /// Its own number, once it has said it.
    number: Option<u8>,
    packet: Option<Packet>,
    /// It has come to the end of a section of memory, and waits for the others.
    synced: bool,
}

/// Bytes that a channel keeps at most before they are taken in: more than a packet.
const ENOUGH: usize = 1 << 20;

/// All channels of pages.
pub(super) struct Channels {
    channels: Vec<Channel>,
    count: usize,
    uuid: [u8; 16],
}

/// A page that came.
pub(super) struct Page<'a> {
    pub(super) block: usize,
    pub(super) offset: u64,
    pub(super) content: &'a [u8; PAGE_SIZE],
}

impl Channels {
    /// So many channels, of a machine with this UUID.
    pub(super) fn new(count: usize, uuid: [u8; 16]) -> Self {
        Self { channels: Vec::new(), count, uuid }
    }

    pub(super) fn any(&self) -> bool {
        self.count > 0
    }

    pub(super) fn wants(&self, channel: usize) -> bool {
        self.channels.get(channel).is_none_or(|of| of.buffer.waiting().len() < ENOUGH)
    }

    fn at(&mut self, channel: usize) -> &mut Channel {
        while self.channels.len() <= channel {
            self.channels.push(Channel::default());
        }
        &mut self.channels[channel]
    }

    pub(super) fn heard(&mut self, channel: usize, bytes: &[u8]) {
        self.at(channel).buffer.add(bytes);
    }

    pub(super) fn ended(&mut self, channel: usize) {
        self.at(channel).buffer.end();
    }

    /// True if every channel has come to the end of the section, which lets all go on.
    pub(super) fn pass(&mut self) -> bool {
        let all = self.channels.len() == self.count && self.channels.iter().all(|of| of.synced);
        if all {
            self.channels.iter_mut().for_each(|of| of.synced = false);
        }
        all
    }

    /// The next page of any channel that does not wait, if one is whole. `at_end`: memory is over,
    /// and no page may come.
    pub(super) fn next(
        &mut self,
        blocks: &[(String, u64)],
        at_end: bool,
    ) -> Result<Option<Page<'_>>, (usize, u64, String)> {
        let mut found = None;
        for index in 0..self.channels.len() {
            match self.step(index, blocks) {
                Ok(true) => {
                    found = Some(index);
                    break;
                }
                Ok(false) => {}
                Err((at, reason)) => return Err((index, at, reason)),
            }
        }
        let Some(index) = found else { return Ok(None) };
        let channel = &mut self.channels[index];
        let position = channel.buffer.position();
        if at_end {
            return Err((index, position, "a page behind the end of memory".to_owned()));
        }
        Ok(channel.page())
    }

    /// Comes as far as a whole page; true if there is one.
    fn step(&mut self, index: usize, blocks: &[(String, u64)]) -> Result<bool, (u64, String)> {
        let wrong = |buffer: &Buffer, at: u64, reason: String| (buffer.position() + at, reason);
        if self.channels[index].number.is_none() {
            if self.channels.len() > self.count {
                let reason = format!(
                    "QEMU sends memory over channels of its own (multifd): say how many with \
                     --multifd (here: {}), or turn the capability off at the source",
                    self.count
                );
                return Err((0, reason));
            }
            let uuid = self.uuid;
            let channel = &mut self.channels[index];
            match channel.buffer.item(|source| greeting(source, uuid)) {
                Ok(number) => {
                    let taken = self.channels.iter().any(|of| of.number == Some(number));
                    if taken || usize::from(number) >= self.count {
                        return Err((
                            0,
                            format!("channel number {number} comes twice or too many"),
                        ));
                    }
                    self.channels[index].number = Some(number);
                }
                Err(Failure::Short) => return self.channels[index].short(),
                Err(Failure::Refused { at, reason }) => {
                    return Err(wrong(&self.channels[index].buffer, at, reason));
                }
            }
        }
        let channel = &mut self.channels[index];
        loop {
            match &channel.packet {
                Some(packet) if !packet.left.is_empty() => {
                    if channel.buffer.waiting().len() >= PAGE_SIZE {
                        return Ok(true);
                    }
                    return channel.short();
                }
                Some(packet) => {
                    channel.synced = packet.sync;
                    channel.packet = None;
                }
                None if channel.synced => return Ok(false),
                None => match channel.buffer.item(|source| packet(source, blocks)) {
                    Ok(packet) => channel.packet = Some(packet),
                    Err(Failure::Short) => return channel.short(),
                    Err(Failure::Refused { at, reason }) => {
                        return Err(wrong(&channel.buffer, at, reason));
                    }
                },
            }
        }
    }
}

impl Channel {
    fn short(&self) -> Result<bool, (u64, String)> {
        let between = self.packet.is_none() && self.buffer.waiting().is_empty();
        if self.buffer.is_ended() && !between {
            return Err((self.buffer.position(), "it is cut short".to_owned()));
        }
        Ok(false)
    }

    fn page(&mut self) -> Option<Page<'_>> {
        let packet = self.packet.as_mut()?;
        let (block, offset) = (packet.block, packet.left.pop()?);
        self.buffer.take(PAGE_SIZE);
        let content = self.buffer.last_taken();
        Some(Page { block, offset, content })
    }
}

type Input<'a, 'b> = &'a mut crate::source::Source<&'b [u8]>;

fn mark(source: Input<'_, '_>) -> Result<(), Reading> {
    let (magic, version) = (source.u32()?, source.u32()?);
    if (magic, version) != (MAGIC, VERSION) {
        return refuse(format!(
            "a channel begins with {magic:#010x}, {version}, and is none of multifd"
        ));
    }
    Ok(())
}

fn greeting(source: Input<'_, '_>, uuid: [u8; 16]) -> Result<u8, Reading> {
    mark(source)?;
    let theirs: [u8; 16] = source.array()?;
    let number = source.u8()?;
    let unused: [u8; 39] = source.array()?;
    // Without a UUID of its own QEMU's is all zeroes.
    if theirs != [0; 16] && theirs != uuid {
        return refuse("a channel is of a machine with another UUID");
    }
    if unused != [0; 39] {
        return refuse("unused bytes of a channel's greeting are used");
    }
    Ok(number)
}

fn packet(source: Input<'_, '_>, blocks: &[(String, u64)]) -> Result<Packet, Reading> {
    mark(source)?;
    let (flags, allocated, pages) = (source.u32()?, source.u32()?, source.u32()?);
    // The number tells only in which order packets were made, on all channels.
    let (length, _number) = (source.u32()?, source.u64()?);
    let unused: [u8; 32] = source.array()?;
    let name: [u8; 256] = source.array()?;
    let mut offsets = [0; PAGES];
    for offset in &mut offsets {
        *offset = source.u64()?;
    }
    if flags & !SYNC != 0 {
        return refuse(format!(
            "a packet of pages with flags {flags:#x}: compression of memory is not supported; \
             set multifd-compression to none at the source"
        ));
    }
    if unused != [0; 32] {
        return refuse(
            "a packet of pages counts pages of zeroes: set zero-page-detection to legacy at the \
             source",
        );
    }
    let count = pages as usize;
    // The length in a packet without pages is that of an earlier one, as are offsets behind the last.
    let fits = count == 0 || length as usize == count * PAGE_SIZE;
    if allocated as usize > PAGES || pages > allocated || !fits {
        return refuse(format!("a packet of {pages} pages of {allocated}, in {length} bytes"));
    }
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    let block = blocks.iter().position(|(of, _)| of.as_bytes() == &name[..end]);
    let (block, size) = match block {
        Some(block) => (block, blocks[block].1),
        // A packet without pages may name none.
        None if count == 0 => (0, 0),
        None => {
            let name = String::from_utf8_lossy(&name[..end]);
            return refuse(format!("pages of RAM block {name:?}, which there is not"));
        }
    };
    let mut left = offsets[..count].to_vec();
    if let Some(bad) = left.iter().find(|at| **at >= size || **at % PAGE_SIZE as u64 != 0) {
        return refuse(format!("a page at {bad:#x} of RAM block {:?}", blocks[block].0));
    }
    left.reverse();
    Ok(Packet { block, left, sync: flags & SYNC != 0 })
}
