//! Delivery of interrupts and exceptions through the IDT (Intel SDM volume 3, sections 6.12 to
//! 6.15), with double faults and shutdown.

use cpu::flags as f;
use cpu::{Activity, CpuState, PendingEvent, Segment};

use crate::core::{Core, RSP};
use crate::descriptor::Descriptor;
use crate::fault::{self, Done, Fault};

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A maskable interrupt or an NMI.
    External,
    /// An exception that restarts its instruction.
    Fault,
    /// An exception that follows its instruction.
    Trap,
    /// INT n, INT3, INTO: the gate's privilege is asked for.
    Software,
}

struct Gate {
    selector: u16,
    offset: u64,
    kind: u8,
    stack_table: u8,
}

impl Core {
    /// Delivers the fault that an instruction raised, and what comes of faults on the way: a
    /// double fault, or a shutdown.
    pub(crate) fn deliver_fault(&mut self) {
        let mut fault = self.fault;
        let rip = self.rip;
        loop {
            if fault.vector == fault::PAGE {
                self.cr2 = fault.address;
            }
            if self.deliver(fault.vector, fault.error_code, Source::Fault, rip).is_ok() {
                return;
            }
            let Some(next) = combine(fault, self.fault) else {
                self.activity = Activity::Shutdown;
                self.stop = true;
                return;
            };
            fault = next;
        }
    }

    /// Delivers the exception that follows an instruction; the fault is in the core.
    pub(crate) fn deliver_trap(&mut self) {
        let rip = self.rip;
        if self.deliver(self.fault.vector, None, Source::Trap, rip).is_err() {
            self.deliver_fault();
        }
    }

    /// Delivers an event that no instruction raised; a fault on the way is delivered instead.
    pub(crate) fn deliver_external(&mut self, vector: u8) {
        let rip = self.rip;
        if self.deliver(vector, None, Source::External, rip).is_err() {
            self.deliver_fault();
        }
    }

    /// Delivers what another accelerator took up and did not deliver.
    pub(crate) fn deliver_pending(&mut self) {
        let (exception, interrupt) =
            (std::mem::take(&mut self.exception), std::mem::take(&mut self.interrupt));
        if exception.present && !exception.software {
            let PendingEvent { vector, has_error_code, error_code, payload, .. } = exception;
            // The interrupt stays; it is taken when the exception's handler has been entered.
            self.interrupt = interrupt;
            let error_code = has_error_code.then_some(error_code);
            self.fault = Fault { vector, error_code, address: payload };
            if vector == fault::DEBUG {
                self.dr6 |= payload;
                self.deliver_trap();
            } else {
                self.deliver_fault();
            }
        } else if interrupt.present && !interrupt.software {
            self.deliver_external(interrupt.vector);
        }
        // An event of an INT instruction comes anew: the instruction was not passed.
    }

    /// Delivers one event; `back` is the address that the handler returns to. Nothing changes if
    /// it faults.
    pub(crate) fn deliver(
        &mut self,
        vector: u8,
        error_code: Option<u32>,
        source: Source,
        back: u64,
    ) -> Done {
        self.stop = true;
        if !self.protected() {
            return self.deliver_real(vector, back);
        }
        // Bit 0 of an error code says that the event came from outside the program.
        let external = u32::from(source != Source::Software);
        let gate = self.read_gate(vector, source, external)?;
        let selector_error = |selector: u16| u32::from(selector & !3) | external;
        if gate.selector & !3 == 0 {
            return Err(self.raise(fault::PROTECTION, Some(external)));
        }
        let code = self.read_descriptor(gate.selector, fault::PROTECTION)?;
        let long = self.long_mode();
        let long_code = code.attributes() & (Segment::LONG | Segment::BIG) == Segment::LONG;
        if !code.is_code() || code.privilege() > self.cpl || long && !long_code {
            return Err(self.raise(fault::PROTECTION, Some(selector_error(gate.selector))));
        }
        if !code.is_present() {
            return Err(self.raise(fault::NOT_PRESENT, Some(selector_error(gate.selector))));
        }
        let new_cpl = if code.is_conforming() { self.cpl } else { code.privilege() };
        let mut flags = self.rflags();
        if source == Source::Fault {
            flags |= f::RF;
        }
        let frame = Frame { error_code, flags, back };
        let code = self.mark_accessed(gate.selector, code)?;
        if long {
            self.enter_long(&gate, code, new_cpl, &frame)?;
        } else {
            self.enter_legacy(&gate, code, new_cpl, &frame)?;
        }
        let interrupt_gate = gate.kind & 1 == 0;
        let cleared = f::TF | f::NT | f::RF | f::VM | if interrupt_gate { f::IF } else { 0 };
        self.system_flags &= !cleared;
        self.activity = Activity::Running;
        Ok(())
    }

    fn read_gate(&mut self, vector: u8, source: Source, external: u32) -> Done<Gate> {
        let long = self.long_mode();
        let size = if long { 16 } else { 8 };
        let place = u64::from(vector) * size;
        let error = u32::from(vector) << 3 | 2 | external;
        if place + size - 1 > u64::from(self.idt.limit) {
            return Err(self.raise(fault::PROTECTION, Some(error)));
        }
        let mut bytes = [0; 16];
        self.load_system(self.idt.base.wrapping_add(place), &mut bytes[..size as usize])?;
        let low = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        let high = u64::from_le_bytes(bytes[8..].try_into().expect("eight bytes"));
        let descriptor = Descriptor(low);
        let kind = descriptor.kind();
        let known = matches!(kind, 0xe | 0xf) || !long && matches!(kind, 6 | 7);
        let denied = source == Source::Software && descriptor.privilege() < self.cpl;
        if !known || denied {
            return Err(self.raise(fault::PROTECTION, Some(error)));
        }
        if !descriptor.is_present() {
            return Err(self.raise(fault::NOT_PRESENT, Some(error)));
        }
        let offset = low & 0xffff | low >> 32 & 0xffff_0000;
        Ok(Gate {
            selector: (low >> 16) as u16,
            offset: if long { offset | high << 32 } else { offset },
            kind,
            stack_table: if long { (low >> 32) as u8 & 7 } else { 0 },
        })
    }

    fn enter_long(&mut self, gate: &Gate, code: Descriptor, new_cpl: u8, frame: &Frame) -> Done {
        let inner = new_cpl < self.cpl;
        let top = if gate.stack_table != 0 {
            self.long_stack(28 + 8 * u64::from(gate.stack_table))?
        } else if inner {
            self.long_stack(4 + 8 * u64::from(new_cpl))?
        } else {
            self.register(RSP)
        };
        if !Self::canonical(gate.offset) {
            return Err(self.raise(fault::PROTECTION, Some(0)));
        }
        let old_stack = self.segments[CpuState::SS];
        let mut words = Vec::with_capacity(6);
        if let Some(code) = frame.error_code {
            words.push(u64::from(code));
        }
        words.extend([
            frame.back,
            u64::from(self.segments[CpuState::CS].selector),
            frame.flags,
            self.register(RSP),
            u64::from(old_stack.selector),
        ]);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let pointer = (top & !15).wrapping_sub(bytes.len() as u64);
        self.store_system(pointer, &bytes)?;
        self.set_register(RSP, pointer);
        if inner {
            let attributes = u16::from(new_cpl) << 5;
            let null = Segment { selector: u16::from(new_cpl), base: 0, limit: 0, attributes };
            self.set_segment(CpuState::SS, null);
        }
        let selector = gate.selector & !3 | u16::from(new_cpl);
        self.set_segment(CpuState::CS, code.segment(selector));
        self.set_cpl(new_cpl);
        self.rip = gate.offset;
        Ok(())
    }

    /// A stack pointer out of the 64-bit TSS.
    fn long_stack(&mut self, offset: u64) -> Done<u64> {
        if offset + 7 > u64::from(self.tr.limit) {
            let selector = self.tr.selector;
            return Err(self.selector_fault(fault::INVALID_TSS, selector));
        }
        let mut bytes = [0; 8];
        self.load_system(self.tr.base.wrapping_add(offset), &mut bytes)?;
        let pointer = u64::from_le_bytes(bytes);
        if !Self::canonical(pointer) {
            return Err(self.raise(fault::STACK, Some(0)));
        }
        Ok(pointer)
    }

    fn enter_legacy(&mut self, gate: &Gate, code: Descriptor, new_cpl: u8, frame: &Frame) -> Done {
        let wide = gate.kind & 8 != 0;
        let old_stack = self.segments[CpuState::SS];
        let old_pointer = self.register(RSP);
        let inner = new_cpl < self.cpl;
        let (stack, pointer) =
            if inner { self.legacy_stack(new_cpl)? } else { (old_stack, old_pointer) };
        let mut words = Vec::with_capacity(6);
        if let Some(code) = frame.error_code {
            words.push(u64::from(code));
        }
        words.extend([frame.back, u64::from(self.segments[CpuState::CS].selector), frame.flags]);
        if inner {
            words.extend([old_pointer, u64::from(old_stack.selector)]);
        }
        let bytes: Vec<u8> = words
            .iter()
            .flat_map(|word| word.to_le_bytes().into_iter().take(if wide { 4 } else { 2 }))
            .collect();
        let mask = if stack.attributes & Segment::BIG != 0 { 0xffff_ffff } else { 0xffff };
        let new_pointer = pointer.wrapping_sub(bytes.len() as u64) & mask;
        self.store_system(stack.base.wrapping_add(new_pointer) & 0xffff_ffff, &bytes)?;
        if inner {
            self.set_segment(CpuState::SS, stack);
        }
        let selector = gate.selector & !3 | u16::from(new_cpl);
        self.set_segment(CpuState::CS, code.segment(selector));
        self.set_cpl(new_cpl);
        self.set_stack_pointer(new_pointer);
        self.rip = gate.offset & if wide { 0xffff_ffff } else { 0xffff };
        Ok(())
    }

    /// A stack out of the 32-bit TSS.
    fn legacy_stack(&mut self, cpl: u8) -> Done<(Segment, u64)> {
        let offset = 4 + 8 * u64::from(cpl);
        let tss = self.tr.selector;
        if self.tr.attributes & 8 == 0 || offset + 5 > u64::from(self.tr.limit) {
            return Err(self.selector_fault(fault::INVALID_TSS, tss));
        }
        let mut bytes = [0; 6];
        self.load_system(self.tr.base.wrapping_add(offset), &mut bytes)?;
        let pointer = u64::from(u32::from_le_bytes(bytes[..4].try_into().expect("four bytes")));
        let selector = u16::from_le_bytes([bytes[4], bytes[5]]);
        let descriptor = self.read_descriptor(selector, fault::INVALID_TSS)?;
        let fits = descriptor.is_writable_data()
            && descriptor.privilege() == cpl
            && selector as u8 & 3 == cpl;
        if !fits {
            return Err(self.selector_fault(fault::INVALID_TSS, selector));
        }
        if !descriptor.is_present() {
            return Err(self.selector_fault(fault::STACK, selector));
        }
        Ok((descriptor.segment(selector), pointer))
    }

    fn deliver_real(&mut self, vector: u8, back: u64) -> Done {
        let mut entry = [0; 4];
        self.load_system(self.idt.base + 4 * u64::from(vector), &mut entry)?;
        let words = [back as u16, self.segments[CpuState::CS].selector, self.rflags() as u16];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let pointer = self.register(RSP).wrapping_sub(6) & 0xffff;
        self.store_system(self.segment_base[CpuState::SS] + pointer, &bytes)?;
        self.set_stack_pointer(pointer);
        self.system_flags &= !(f::IF | f::TF | f::AC | f::RF);
        let selector = u16::from_le_bytes([entry[2], entry[3]]);
        let old = self.segments[CpuState::CS];
        self.set_segment(CpuState::CS, Segment { selector, base: u64::from(selector) << 4, ..old });
        self.rip = u64::from(u16::from_le_bytes([entry[0], entry[1]]));
        self.activity = Activity::Running;
        Ok(())
    }
}

struct Frame {
    error_code: Option<u32>,
    flags: u64,
    back: u64,
}

/// What a second fault during the delivery of a first makes; `None` is a shutdown (Intel SDM
/// volume 3, table 6-5).
fn combine(first: Fault, second: Fault) -> Option<Fault> {
    if first.vector == fault::DOUBLE_FAULT {
        return None;
    }
    let double = first.is_contributory() && second.is_contributory()
        || first.vector == fault::PAGE
            && (second.vector == fault::PAGE || second.is_contributory());
    if double {
        Some(Fault { vector: fault::DOUBLE_FAULT, error_code: Some(0), address: 0 })
    } else {
        Some(second)
    }
}
