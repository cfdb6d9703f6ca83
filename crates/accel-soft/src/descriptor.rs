//! Descriptors in the guest's tables (Intel SDM volume 3, sections 3.4 and 5.8).

use cpu::{CpuState, Segment};

use crate::core::Core;
use crate::fault::{self, Done, Trap};

const ACCESSED: u64 = 1 << 40;
const BUSY: u64 = 1 << 41;

/// A descriptor's first eight bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor(pub(crate) u64);

impl Descriptor {
    pub(crate) fn attributes(self) -> u16 {
        (self.0 >> 40) as u16 & 0xff | (self.0 >> 44) as u16 & 0xf00
    }

    pub(crate) fn is_present(self) -> bool {
        self.attributes() & Segment::PRESENT != 0
    }

    pub(crate) fn privilege(self) -> u8 {
        (self.0 >> 45) as u8 & 3
    }

    /// Type and S bit: 0 to 15 for system segments, 16 to 31 for code and data.
    pub(crate) fn kind(self) -> u8 {
        (self.0 >> 40) as u8 & 0x1f
    }

    pub(crate) fn is_code(self) -> bool {
        self.kind() & 0x18 == 0x18
    }

    pub(crate) fn is_conforming(self) -> bool {
        self.kind() & 0x1c == 0x1c
    }

    pub(crate) fn is_writable_data(self) -> bool {
        self.kind() & 0x1a == 0x12
    }

    /// Data, or code that may be read.
    pub(crate) fn is_readable(self) -> bool {
        self.kind() & 0x18 == 0x10 || self.kind() & 0x1a == 0x1a
    }

    fn base(self) -> u64 {
        self.0 >> 16 & 0xff_ffff | self.0 >> 32 & 0xff00_0000
    }

    pub(crate) fn limit(self) -> u32 {
        let raw = (self.0 & 0xffff | self.0 >> 32 & 0xf_0000) as u32;
        if self.0 >> 55 & 1 != 0 { raw << 12 | 0xfff } else { raw }
    }

    /// The hidden part of a register that holds `selector`.
    pub(crate) fn segment(self, selector: u16) -> Segment {
        Segment {
            selector,
            base: self.base(),
            limit: self.limit(),
            attributes: self.attributes() & 0xfff,
        }
    }
}

impl Core {
    /// A fault about a selector.
    pub(crate) fn selector_fault(&mut self, vector: u8, selector: u16) -> Trap {
        self.raise(vector, Some(u32::from(selector & !3)))
    }

    /// The linear address of a selector's descriptor of `size` bytes, if inside its table.
    fn descriptor_address(&self, selector: u16, size: u64) -> Option<u64> {
        let offset = u64::from(selector & !7);
        let (base, limit) = if selector & 4 != 0 {
            if !self.ldt.is_present() {
                return None;
            }
            (self.ldt.base, u64::from(self.ldt.limit))
        } else {
            (self.gdt.base, u64::from(self.gdt.limit))
        };
        (offset + size - 1 <= limit).then(|| base.wrapping_add(offset))
    }

    /// Reads a descriptor; outside its table is a fault with the selector.
    pub(crate) fn read_descriptor(&mut self, selector: u16, vector: u8) -> Done<Descriptor> {
        let Some(address) = self.descriptor_address(selector, 8) else {
            return Err(self.selector_fault(vector, selector));
        };
        let mut bytes = [0; 8];
        self.load_system(address, &mut bytes)?;
        Ok(Descriptor(u64::from_le_bytes(bytes)))
    }

    /// As [`Self::read_descriptor`], but `None` for null and out-of-table selectors (LAR and kin).
    pub(crate) fn try_descriptor(&mut self, selector: u16) -> Done<Option<Descriptor>> {
        if selector & !3 == 0 || self.descriptor_address(selector, 8).is_none() {
            return Ok(None);
        }
        self.read_descriptor(selector, fault::PROTECTION).map(Some)
    }

    /// Reads a system descriptor: sixteen bytes in long mode.
    pub(crate) fn read_system_descriptor(&mut self, selector: u16) -> Done<(Descriptor, Segment)> {
        let size = if self.long_mode() { 16 } else { 8 };
        let Some(address) = self.descriptor_address(selector, size) else {
            return Err(self.selector_fault(fault::PROTECTION, selector));
        };
        let mut bytes = [0; 16];
        self.load_system(address, &mut bytes[..size as usize])?;
        let low = Descriptor(u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")));
        let mut segment = low.segment(selector);
        segment.base |= u64::from(u32::from_le_bytes(bytes[8..12].try_into().expect("four"))) << 32;
        Ok((low, segment))
    }

    /// Sets a descriptor's accessed bit.
    pub(crate) fn mark_accessed(
        &mut self,
        selector: u16,
        descriptor: Descriptor,
    ) -> Done<Descriptor> {
        if descriptor.0 & ACCESSED != 0 {
            return Ok(descriptor);
        }
        let marked = Descriptor(descriptor.0 | ACCESSED);
        self.write_descriptor(selector, marked)?;
        Ok(marked)
    }

    /// Sets a TSS descriptor's busy bit.
    pub(crate) fn mark_busy(&mut self, selector: u16, descriptor: Descriptor) -> Done {
        self.write_descriptor(selector, Descriptor(descriptor.0 | BUSY))
    }

    fn write_descriptor(&mut self, selector: u16, descriptor: Descriptor) -> Done {
        let address = self.descriptor_address(selector, 8).expect("it was read from there");
        // The access byte is all that changes.
        self.store_system(address.wrapping_add(5), &[(descriptor.0 >> 40) as u8])
    }

    /// Loads ES, DS, FS, GS or SS as MOV, POP and the far-pointer loads do.
    pub(crate) fn load_segment(&mut self, index: usize, selector: u16) -> Done {
        if !self.protected() {
            let old = self.segments[index];
            let segment = Segment { selector, base: u64::from(selector) << 4, ..old };
            self.set_segment(index, segment);
            return Ok(());
        }
        let stack = index == CpuState::SS;
        let requested = selector as u8 & 3;
        if selector & !3 == 0 {
            if stack && (self.mode.bits != 64 || self.cpl == 3 || requested != self.cpl) {
                return Err(self.protection(0));
            }
            // A null SS keeps the privilege level in its attributes.
            let attributes = if stack { u16::from(self.cpl) << 5 } else { 0 };
            self.set_segment(index, Segment { selector, base: 0, limit: 0, attributes });
            return Ok(());
        }
        let descriptor = self.read_descriptor(selector, fault::PROTECTION)?;
        let privilege = descriptor.privilege();
        let allowed = if stack {
            descriptor.is_writable_data() && requested == self.cpl && privilege == self.cpl
        } else {
            descriptor.is_readable()
                && (descriptor.is_conforming() || privilege >= requested.max(self.cpl))
        };
        if !allowed {
            return Err(self.protection(selector));
        }
        if !descriptor.is_present() {
            let vector = if stack { fault::STACK } else { fault::NOT_PRESENT };
            return Err(self.selector_fault(vector, selector));
        }
        let descriptor = self.mark_accessed(selector, descriptor)?;
        self.set_segment(index, descriptor.segment(selector));
        Ok(())
    }
}
