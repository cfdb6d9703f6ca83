//! From bytes to blocks: iced-x86 decodes, [`crate::lower`] chooses the handlers.

use std::sync::Arc;

use cpu::{CpuState, Segment};
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};

use crate::block::Block;
use crate::core::Core;
use crate::fault::Done;
use crate::lower::Lowering;
use crate::tlb::Access;

/// Instructions in a block at most.
const LONGEST: usize = 48;
/// Bytes of an instruction at most (Intel SDM volume 2, section 2.3.11).
const INSTRUCTION: usize = 15;

/// The models that we offer know neither LZCNT, TZCNT, WBNOINVD, MPX nor CET: their
/// encodings mean the older instruction or a hint. Where AMD's and Intel's processors take an
/// encoding differently, it is taken as by AMD's: QEMU does the same under every model.
const OPTIONS: u32 = DecoderOptions::AMD
    | DecoderOptions::NO_MPFX_0FBC
    | DecoderOptions::NO_MPFX_0FBD
    | DecoderOptions::NO_WBNOINVD
    | DecoderOptions::FORCE_RESERVED_NOP;

/// Why there is no block to run.
pub(crate) enum NoBlock {
    /// The fetch faulted; the fault is in the core.
    Trap,
    /// The guest runs into a device or nothing at all.
    NotRam(u64),
}

impl From<crate::fault::Trap> for NoBlock {
    fn from(_: crate::fault::Trap) -> Self {
        Self::Trap
    }
}

impl Core {
    /// The linear address of an instruction at `rip`.
    #[inline(always)]
    pub(crate) fn code_linear(&self, rip: u64) -> u64 {
        if self.mode.bits == 64 {
            rip
        } else {
            self.segment_base[CpuState::CS].wrapping_add(rip) & 0xffff_ffff
        }
    }

    fn fetch_physical(&mut self, linear: u64) -> Done<u64> {
        if self.mode.bits == 64 && !Self::canonical(linear) {
            return Err(self.protection(0));
        }
        if let Some(page) = self.tlbs.find(Access::Fetch, linear, 1) {
            return Ok(page | linear & 0xfff);
        }
        let user = self.cpl == 3;
        let found = self.walk(linear, Access::Fetch, user)?;
        self.tlbs.insert(Access::Fetch, linear, found.physical & !0xfff, found.large);
        Ok(found.physical)
    }

    /// The block at RIP, from the cache or newly decoded.
    pub(crate) fn find_block(&mut self) -> Result<Arc<Block>, NoBlock> {
        let linear = self.code_linear(self.rip);
        let code = self.segments[CpuState::CS];
        let limited = self.mode.bits != 64;
        if limited && self.rip > u64::from(code.limit) || !code_segment(&code) {
            return Err(self.protection(0).into());
        }
        let physical = self.fetch_physical(linear)?;
        let Some(page) = self.ram.page_of(physical) else {
            return Err(NoBlock::NotRam(physical));
        };
        let offset = (physical & 0xfff) as u16;
        if let Some(block) = self.code.find(page, offset, self.mode) {
            let Some(second) = block.second_page else { return Ok(block) };
            let next = self.fetch_physical((linear | 0xfff).wrapping_add(1))?;
            if self.ram.page_of(next) == Some(second) {
                return Ok(block);
            }
        }
        self.decode_block(linear, physical, page)
    }

    fn decode_block(
        &mut self,
        linear: u64,
        physical: u64,
        page: usize,
    ) -> Result<Arc<Block>, NoBlock> {
        let code = Arc::clone(&self.code);
        code.watch(&self.ram, page);
        let offset = physical as usize & 0xfff;
        let here = (0x1000 - offset).min(LONGEST * INSTRUCTION);
        let mut bytes = [0; LONGEST * INSTRUCTION];
        self.ram.read(physical, &mut bytes[..here]).expect("the page is RAM");
        let mut lowering = Lowering::new(self.mode, self.extensions);
        let mut decoder =
            Decoder::with_ip(u32::from(self.mode.bits), &bytes[..here], self.rip, OPTIONS);
        let mut instruction = Instruction::default();
        let mut used = 0;
        while lowering.len() < LONGEST && decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            if decoder.last_error() == DecoderError::NoMoreBytes {
                break;
            }
            let start = used;
            used += instruction.len().max(1);
            if lowering.add(&instruction, &bytes[start..used], self.rip, used) {
                break;
            }
        }
        let mut second_page = None;
        if lowering.len() == 0 {
            // The only instruction crosses the page's end: read it from both pages.
            let next = self.fetch_physical((linear | 0xfff).wrapping_add(1))?;
            let Some(other) = self.ram.page_of(next) else {
                return Err(NoBlock::NotRam(next));
            };
            code.watch(&self.ram, other);
            let all = &mut bytes[..here + INSTRUCTION];
            self.ram.read(next, &mut all[here..]).expect("the page is RAM");
            let mut decoder = Decoder::with_ip(u32::from(self.mode.bits), all, self.rip, OPTIONS);
            decoder.decode_out(&mut instruction);
            used = instruction.len().max(here + 1);
            lowering.add(&instruction, all, self.rip, used);
            second_page = Some(other);
        }
        let block = Arc::new(lowering.finish(used, second_page));
        code.insert(page, offset as u16, &block);
        self.note_watch();
        Ok(block)
    }

    /// Drops write translations if a page became code since they were made.
    pub(crate) fn note_watch(&mut self) {
        let now = self.code.watch_generation();
        if self.watch_seen != now {
            self.watch_seen = now;
            self.tlbs.flush();
        }
    }
}

fn code_segment(code: &Segment) -> bool {
    code.is_present()
}
