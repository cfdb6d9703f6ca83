//! Loads and stores of guest memory by linear address.
//!
//! The fast path is a hit in the software TLB: a host pointer. Everything else (a walk, a store to
//! a page with code, an access over a page's end, a device) is the slow path.

use cpu::Bus;

use crate::block::Op;
use crate::core::Core;
use crate::fault::{self, Done, Fault, Trap};
use crate::tlb::Access;
use crate::width::Width;

/// The segment through which an access goes decides between #GP and #SS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    Data,
    Stack,
}

/// Where bytes of one page lie.
#[derive(Clone, Copy)]
enum Spot {
    Host(*mut u8),
    /// RAM with decoded code: every store must be noticed.
    Code(*mut u8, u64),
    Device(u64),
}

/// A place that was found writable and will be read and then written.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    first: Spot,
    /// The part past a page's end, and how many bytes lie before it.
    second: Option<(Spot, usize)>,
}

impl Core {
    fn not_canonical(&mut self, through: Through) -> Trap {
        let vector = if through == Through::Stack { fault::STACK } else { fault::PROTECTION };
        self.fault = Fault { vector, error_code: Some(0), address: 0 };
        Trap
    }

    /// Finds one page's worth for an access by the current privilege, and remembers it.
    #[cold]
    fn locate(&mut self, linear: u64, access: Access, through: Through) -> Done<Spot> {
        let user = self.cpl == 3;
        self.locate_as(linear, access, through, user)
    }

    fn locate_as(
        &mut self,
        linear: u64,
        access: Access,
        through: Through,
        user: bool,
    ) -> Done<Spot> {
        if self.long_mode() && !Self::canonical(linear) {
            return Err(self.not_canonical(through));
        }
        let found = self.walk(linear, access, user)?;
        let Some(page) = self.ram.page_pointer(found.physical) else {
            return Ok(Spot::Device(found.physical));
        };
        let page_index = self.ram.page_of(found.physical).expect("RAM has a page number");
        let pointer = page.wrapping_add(found.physical as usize & 0xfff);
        let addend = (page as u64).wrapping_sub(linear & !0xfff);
        let remember = user == (self.cpl == 3);
        if access == Access::Write {
            if self.code.is_code(page_index) {
                return Ok(Spot::Code(pointer, found.physical));
            }
            self.ram.mark_page(page_index);
            if found.writable && remember {
                self.tlbs.insert(Access::Write, linear, addend, found.large);
            }
        } else if remember {
            self.tlbs.insert(Access::Read, linear, addend, found.large);
        }
        Ok(Spot::Host(pointer))
    }

    /// Loads from a linear address.
    #[inline(always)]
    #[expect(unsafe_code, reason = "guest memory is reached through host pointers")]
    pub(crate) fn load_linear<T: Width>(
        &mut self,
        bus: &mut dyn Bus,
        linear: u64,
        through: Through,
    ) -> Done<T> {
        if let Some(addend) = self.tlbs.find(Access::Read, linear, T::BYTES) {
            // SAFETY: a TLB entry's addend turns any address of its page into a pointer into guest
            // RAM, which stays mapped while the core holds its handle; `find` checked that all
            // bytes lie in the page.
            return Ok(unsafe { T::load(linear.wrapping_add(addend) as *const u8) });
        }
        let mut bytes = [0; 8];
        self.load_slow(bus, linear, &mut bytes[..T::BYTES], through)?;
        Ok(T::of(u64::from_le_bytes(bytes)))
    }

    /// Stores to a linear address.
    #[inline(always)]
    #[expect(unsafe_code, reason = "guest memory is reached through host pointers")]
    pub(crate) fn store_linear<T: Width>(
        &mut self,
        bus: &mut dyn Bus,
        linear: u64,
        value: T,
        through: Through,
    ) -> Done {
        if let Some(addend) = self.tlbs.find(Access::Write, linear, T::BYTES) {
            // SAFETY: as in `load_linear`; write entries exist only for pages that are marked dirty
            // and hold no code.
            unsafe { T::store(linear.wrapping_add(addend) as *mut u8, value) };
            return Ok(());
        }
        let bytes = value.zero_extended().to_le_bytes();
        self.store_slow(bus, linear, &bytes[..T::BYTES], through)
    }

    /// Loads any number of bytes up to a page.
    #[cold]
    pub(crate) fn load_slow(
        &mut self,
        bus: &mut dyn Bus,
        linear: u64,
        into: &mut [u8],
        through: Through,
    ) -> Done {
        let before_end = (0x1000 - (linear & 0xfff) as usize).min(into.len());
        let first = self.locate(linear, Access::Read, through)?;
        let second = if before_end < into.len() {
            Some(self.locate(self.wrap(linear, before_end), Access::Read, through)?)
        } else {
            None
        };
        let (head, tail) = into.split_at_mut(before_end);
        self.fetch_spot(bus, first, head);
        if let Some(second) = second {
            self.fetch_spot(bus, second, tail);
        }
        Ok(())
    }

    /// Stores any number of bytes up to a page; nothing is stored if any of them faults.
    #[cold]
    pub(crate) fn store_slow(
        &mut self,
        bus: &mut dyn Bus,
        linear: u64,
        from: &[u8],
        through: Through,
    ) -> Done {
        let place = self.place_slow(linear, from.len(), through)?;
        self.put_bytes(bus, &place, from);
        Ok(())
    }

    fn wrap(&self, linear: u64, offset: usize) -> u64 {
        let sum = linear.wrapping_add(offset as u64);
        if self.long_mode() { sum } else { sum & 0xffff_ffff }
    }

    #[cold]
    pub(crate) fn place_slow(&mut self, linear: u64, size: usize, through: Through) -> Done<Place> {
        let before_end = (0x1000 - (linear & 0xfff) as usize).min(size);
        let first = self.locate(linear, Access::Write, through)?;
        let second = if before_end < size {
            Some((self.locate(self.wrap(linear, before_end), Access::Write, through)?, before_end))
        } else {
            None
        };
        Ok(Place { first, second })
    }

    /// Finds a place to read and write, or faults as a store would.
    #[inline(always)]
    pub(crate) fn place<T: Width>(&mut self, linear: u64, through: Through) -> Done<Place> {
        if let Some(addend) = self.tlbs.find(Access::Write, linear, T::BYTES) {
            let pointer = linear.wrapping_add(addend) as *mut u8;
            return Ok(Place { first: Spot::Host(pointer), second: None });
        }
        self.place_slow(linear, T::BYTES, through)
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "guest memory is reached through host pointers")]
    pub(crate) fn load_place<T: Width>(&mut self, bus: &mut dyn Bus, place: &Place) -> T {
        if let Place { first: Spot::Host(pointer), second: None } = *place {
            // SAFETY: `place` found all bytes inside one page of guest RAM.
            return unsafe { T::load(pointer) };
        }
        let mut bytes = [0; 8];
        self.get_bytes(bus, place, &mut bytes[..T::BYTES]);
        T::of(u64::from_le_bytes(bytes))
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "guest memory is reached through host pointers")]
    pub(crate) fn store_place<T: Width>(&mut self, bus: &mut dyn Bus, place: &Place, value: T) {
        if let Place { first: Spot::Host(pointer), second: None } = *place {
            // SAFETY: as in `load_place`, and the page is marked dirty and holds no code.
            unsafe { T::store(pointer, value) };
            return;
        }
        self.put_bytes(bus, place, &value.zero_extended().to_le_bytes()[..T::BYTES]);
    }

    pub(crate) fn get_bytes(&mut self, bus: &mut dyn Bus, place: &Place, into: &mut [u8]) {
        match place.second {
            None => self.fetch_spot(bus, place.first, into),
            Some((second, before_end)) => {
                let (head, tail) = into.split_at_mut(before_end);
                self.fetch_spot(bus, place.first, head);
                self.fetch_spot(bus, second, tail);
            }
        }
    }

    pub(crate) fn put_bytes(&mut self, bus: &mut dyn Bus, place: &Place, from: &[u8]) {
        match place.second {
            None => self.put_spot(bus, place.first, from),
            Some((second, before_end)) => {
                let (head, tail) = from.split_at(before_end);
                self.put_spot(bus, place.first, head);
                self.put_spot(bus, second, tail);
            }
        }
    }

    #[expect(unsafe_code, reason = "guest memory is reached through host pointers")]
    fn fetch_spot(&mut self, bus: &mut dyn Bus, spot: Spot, into: &mut [u8]) {
        match spot {
            Spot::Host(pointer) | Spot::Code(pointer, _) => {
                // SAFETY: the spot is in one page of guest RAM, from `pointer` to at most its end.
                unsafe { std::ptr::copy_nonoverlapping(pointer, into.as_mut_ptr(), into.len()) };
            }
            Spot::Device(address) => {
                let at = self.at();
                for (index, part) in into.chunks_mut(8).enumerate() {
                    bus.mmio_read(at, address + 8 * index as u64, part);
                }
                self.stop = true;
            }
        }
    }

    #[expect(unsafe_code, reason = "guest memory is reached through host pointers")]
    fn put_spot(&mut self, bus: &mut dyn Bus, spot: Spot, from: &[u8]) {
        match spot {
            Spot::Host(pointer) => {
                // SAFETY: as in `fetch_spot`.
                unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), pointer, from.len()) };
            }
            Spot::Code(_, physical) => self.store_physical(physical, from),
            Spot::Device(address) => {
                let at = self.at();
                for (index, part) in from.chunks(8).enumerate() {
                    bus.mmio_write(at, address + 8 * index as u64, part);
                }
                self.stop = true;
            }
        }
    }

    /// Stores to guest-physical memory, logged, and drops decoded code that it changes. Bytes that
    /// are not RAM are dropped, as a page table outside RAM would be.
    pub(crate) fn store_physical(&mut self, physical: u64, from: &[u8]) {
        if self.ram.write(physical, from).is_err() {
            return;
        }
        let Some(page) = self.ram.page_of(physical) else { return };
        if self.code.is_code(page) {
            let offset = physical as usize & 0xfff;
            if self.code.stored(&self.ram, page, offset, from.len()) {
                self.stop = true;
            }
        }
    }

    /// Loads as the supervisor whatever the CPL, for descriptor tables and the TSS.
    #[expect(unsafe_code, reason = "guest memory is reached through host pointers")]
    pub(crate) fn load_system(&mut self, linear: u64, into: &mut [u8]) -> Done {
        for (index, byte) in into.iter_mut().enumerate() {
            let address = self.wrap(linear, index);
            let spot = self.locate_as(address, Access::Read, Through::Data, false)?;
            *byte = match spot {
                // SAFETY: the spot is a byte of guest RAM.
                Spot::Host(pointer) | Spot::Code(pointer, _) => unsafe { pointer.read() },
                Spot::Device(_) => 0xff,
            };
        }
        Ok(())
    }

    /// Stores as the supervisor whatever the CPL: descriptors' accessed and busy bits, and frames
    /// pushed on a more privileged stack.
    pub(crate) fn store_system(&mut self, linear: u64, from: &[u8]) -> Done {
        let mut places = Vec::with_capacity(2);
        let mut done = 0;
        while done < from.len() {
            let address = self.wrap(linear, done);
            let length = (0x1000 - (address & 0xfff) as usize).min(from.len() - done);
            let found = self.walk_system(address)?;
            places.push((found, done, length));
            done += length;
        }
        for (physical, start, length) in places {
            self.store_physical(physical, &from[start..start + length]);
        }
        Ok(())
    }

    fn walk_system(&mut self, linear: u64) -> Done<u64> {
        if self.long_mode() && !Self::canonical(linear) {
            return Err(self.not_canonical(Through::Stack));
        }
        Ok(self.walk(linear, Access::Write, false)?.physical)
    }

    /// The linear address of an operation's memory operand.
    #[inline(always)]
    pub(crate) fn address(&mut self, op: &Op, size: usize, write: bool) -> Done<u64> {
        let sum = self
            .register(op.base)
            .wrapping_add(self.register(op.index) << (op.scale & 3))
            .wrapping_add(op.displacement as u64);
        if op.plain_address {
            return Ok(sum);
        }
        self.address_slow(op, sum, size, write)
    }

    /// The offset part of an address, as LEA gives it.
    #[inline(always)]
    pub(crate) fn offset(&self, op: &Op) -> u64 {
        let sum = self
            .register(op.base)
            .wrapping_add(self.register(op.index) << (op.scale & 3))
            .wrapping_add(op.displacement as u64);
        if op.plain_address { sum } else { sum & op.address_mask() }
    }

    fn address_slow(&mut self, op: &Op, sum: u64, size: usize, write: bool) -> Done<u64> {
        let offset = sum & op.address_mask();
        self.segment_address(op.segment, offset, size, write)
    }

    /// Adds the segment's base, and outside 64-bit mode checks its limit and type.
    pub(crate) fn segment_address(
        &mut self,
        segment: u8,
        offset: u64,
        size: usize,
        write: bool,
    ) -> Done<u64> {
        let base = self.segment_base[usize::from(segment & 7)];
        if self.mode.bits == 64 {
            // Only FS and GS have a base there.
            return Ok(if segment < cpu::CpuState::FS as u8 {
                offset
            } else {
                base.wrapping_add(offset)
            });
        }
        if usize::from(segment) < self.segments.len() {
            let checked = self.segments[usize::from(segment)];
            let last = offset.wrapping_add(size as u64 - 1);
            let kind = checked.attributes & 0xf;
            let code = kind & 8 != 0;
            let expand_down = !code && kind & 4 != 0;
            let in_limit = if expand_down {
                let top = if checked.attributes & cpu::Segment::BIG != 0 {
                    u64::from(u32::MAX)
                } else {
                    0xffff
                };
                offset > u64::from(checked.limit) && last <= top
            } else {
                last <= u64::from(checked.limit) && last >= offset
            };
            let allowed = if write { !code && kind & 2 != 0 } else { !code || kind & 2 != 0 };
            // In real mode the types are not looked at.
            let allowed = allowed || !self.protected();
            if !checked.is_present() || !in_limit || !allowed {
                let through = if usize::from(segment) == cpu::CpuState::SS {
                    Through::Stack
                } else {
                    Through::Data
                };
                return Err(self.not_canonical(through));
            }
        }
        Ok(base.wrapping_add(offset) & 0xffff_ffff)
    }
}
