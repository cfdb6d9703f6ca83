//! System instructions: control and debug registers, descriptor tables, model-specific registers,
//! ports, CPUID, time, HLT and the interrupt flag.

use cpu::flags as f;
use cpu::{Bus, CpuState, DescriptorTable, InterruptShadow, Segment, msr};

use crate::block::Op;
use crate::core::{Core, RAX, RBX, RCX, RDX};
use crate::fault::{self, Done};
use crate::ops::operand::Source;
use crate::width::Width;

/// Changes of these CR4 bits drop translations.
const CR4_PAGING: u64 = f::CR4_PSE | f::CR4_PAE | f::CR4_PGE;

impl Core {
    /// Asks for the right to use a port: IOPL, then the bitmap of the TSS.
    pub(crate) fn check_port(&mut self, port: u16, size: u8) -> Done {
        if !self.protected() || self.cpl <= self.iopl() {
            return Ok(());
        }
        let limit = u64::from(self.tr.limit);
        if self.tr.attributes & 8 == 0 || limit < 0x67 {
            return Err(self.protection(0));
        }
        let mut word = [0; 2];
        self.load_system(self.tr.base.wrapping_add(0x66), &mut word)?;
        let place = u64::from(u16::from_le_bytes(word)) + u64::from(port / 8);
        if place + 1 > limit {
            return Err(self.protection(0));
        }
        self.load_system(self.tr.base.wrapping_add(place), &mut word)?;
        let wanted = ((1u16 << size) - 1) << (port % 8);
        if u16::from_le_bytes(word) & wanted != 0 {
            return Err(self.protection(0));
        }
        Ok(())
    }

    fn read_msr(&mut self, bus: &mut dyn Bus, number: u32) -> Option<u64> {
        let at = self.at();
        let msrs = &self.msrs;
        Some(match number {
            msr::TSC => bus.tsc(at).wrapping_add(self.tsc_offset),
            msr::APIC_BASE => bus.apic_base(),
            msr::MICROCODE_REVISION => self.model.microcode_revision(),
            msr::TSC_AUX if self.model.has_tsc_aux() => msrs.tsc_aux,
            msr::VM_CONTROL if self.model.shows_svm() => msr::VM_CONTROL_VALUE,
            msr::VM_HOST_SAVE if self.model.shows_svm() => 0,
            msr::SYSTEM_CONFIGURATION | msr::INTERRUPT_PENDING => 0,
            msr::MTRR_CAPABILITIES => msr::MTRR_CAPABILITIES_VALUE,
            msr::SYSENTER_CS => msrs.sysenter_cs,
            msr::SYSENTER_ESP => msrs.sysenter_esp,
            msr::SYSENTER_EIP => msrs.sysenter_eip,
            msr::MCG_CAP => msrs.mcg_capabilities,
            msr::MCG_STATUS => msrs.mcg_status,
            msr::MCG_CTL => msrs.mcg_control,
            msr::MISC_ENABLE => msrs.misc_enable,
            msr::PAT => msrs.pat,
            msr::MTRR_DEFAULT_TYPE => msrs.mtrr_default_type,
            msr::EFER => msrs.efer,
            msr::STAR => msrs.star,
            msr::LSTAR => msrs.lstar,
            msr::CSTAR => msrs.cstar,
            msr::SYSCALL_MASK => msrs.syscall_mask,
            msr::FS_BASE => self.segments[CpuState::FS].base,
            msr::GS_BASE => self.segments[CpuState::GS].base,
            msr::KERNEL_GS_BASE => msrs.kernel_gs_base,
            0x200..=0x20f => {
                let range = msrs.mtrr_variable[(number as usize - 0x200) / 2];
                if number & 1 == 0 { range.base } else { range.mask }
            }
            msr::MC0_CTL..0x480 => {
                let bank = (number - msr::MC0_CTL) as usize / 4;
                let Some(bank) = msrs.machine_check_banks.get(bank) else {
                    return self.read_unknown_msr(number);
                };
                [bank.control, bank.status, bank.address, bank.miscellaneous]
                    [(number - msr::MC0_CTL) as usize % 4]
            }
            _ => match msr::MTRR_FIXED.iter().position(|known| *known == number) {
                Some(fixed) => msrs.mtrr_fixed[fixed],
                None => return self.read_unknown_msr(number),
            },
        })
    }

    /// What a register reads as that holds no state; `None` raises #GP.
    fn read_unknown_msr(&self, number: u32) -> Option<u64> {
        self.model.ignores_unknown_msrs().then(|| match number {
            msr::CORE_THREAD_COUNT => self.model.core_thread_count(self.topology),
            msr::PERFORMANCE_STATUS => msr::PERFORMANCE_STATUS_VALUE,
            _ => 0,
        })
    }

    fn write_msr(&mut self, bus: &mut dyn Bus, number: u32, value: u64) -> Option<()> {
        let at = self.at();
        let canonical = |value: u64| Self::canonical(value).then_some(value);
        let memory_types = |value: u64| {
            value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4 | 5 | 6 | 7))
        };
        let msrs = &mut self.msrs;
        match number {
            msr::TSC => self.tsc_offset = value.wrapping_sub(bus.tsc(at)),
            msr::APIC_BASE => {
                bus.set_apic_base(at, value).ok()?;
                self.stop = true;
            }
            // The processor ignores a write of a microcode address that a hypervisor owns.
            msr::MICROCODE_REVISION => {}
            msr::TSC_AUX if self.model.has_tsc_aux() => msrs.tsc_aux = value,
            // Locked.
            msr::VM_CONTROL if self.model.shows_svm() => {}
            msr::VM_HOST_SAVE if self.model.shows_svm() => return (value == 0).then_some(()),
            msr::SYSTEM_CONFIGURATION | msr::INTERRUPT_PENDING if value == 0 => {}
            msr::SYSENTER_CS => msrs.sysenter_cs = value & 0xffff,
            msr::SYSENTER_ESP => msrs.sysenter_esp = canonical(value)?,
            msr::SYSENTER_EIP => msrs.sysenter_eip = canonical(value)?,
            msr::MCG_STATUS => msrs.mcg_status = value,
            msr::MCG_CTL => msrs.mcg_control = value,
            msr::MISC_ENABLE => msrs.misc_enable = value,
            msr::PAT => msrs.pat = Some(value).filter(|value| memory_types(*value))?,
            msr::MTRR_DEFAULT_TYPE => {
                msrs.mtrr_default_type = Some(value).filter(|value| value & !0xcff == 0)?;
            }
            msr::EFER => return self.write_efer(value),
            msr::STAR => msrs.star = value,
            msr::LSTAR => msrs.lstar = canonical(value)?,
            msr::CSTAR => msrs.cstar = canonical(value)?,
            msr::SYSCALL_MASK => msrs.syscall_mask = value & 0xffff_ffff,
            msr::FS_BASE | msr::GS_BASE => {
                let index = if number == msr::FS_BASE { CpuState::FS } else { CpuState::GS };
                self.segments[index].base = canonical(value)?;
                self.segment_base[index] = value;
            }
            msr::KERNEL_GS_BASE => msrs.kernel_gs_base = canonical(value)?,
            0x200..=0x20f => {
                let range = &mut msrs.mtrr_variable[(number as usize - 0x200) / 2];
                *(if number & 1 == 0 { &mut range.base } else { &mut range.mask }) = value;
            }
            msr::MC0_CTL..0x480 => {
                let place = (number - msr::MC0_CTL) as usize;
                let Some(bank) = msrs.machine_check_banks.get_mut(place / 4) else {
                    return self.model.ignores_unknown_msrs().then_some(());
                };
                match place % 4 {
                    // All or nothing is what control registers take (Intel SDM volume 3, 16.3.2).
                    0 if value == 0 || value == u64::MAX => bank.control = value,
                    0 => return None,
                    1 if value == 0 => bank.status = value,
                    1 => return None,
                    2 => bank.address = value,
                    _ => bank.miscellaneous = value,
                }
            }
            _ => {
                let Some(fixed) = msr::MTRR_FIXED.iter().position(|known| *known == number) else {
                    return self.model.ignores_unknown_msrs().then_some(());
                };
                msrs.mtrr_fixed[fixed] = Some(value).filter(|value| memory_types(*value))?;
            }
        }
        Some(())
    }

    fn write_efer(&mut self, value: u64) -> Option<()> {
        let old = self.msrs.efer;
        let offered = self.model.efer_bits();
        if value & !offered != 0 {
            return None;
        }
        if self.paging() && (value ^ old) & f::EFER_LME != 0 {
            return None;
        }
        // LMA follows paging, not what is written.
        self.msrs.efer = value & !f::EFER_LMA | old & f::EFER_LMA;
        self.tlbs.flush();
        self.stop = true;
        Some(())
    }

    fn write_cr0(&mut self, value: u64) -> Done {
        let paging = value & f::CR0_PG != 0;
        let impossible = paging && value & f::CR0_PE == 0
            || value & f::CR0_NW != 0 && value & f::CR0_CD == 0
            || value >> 32 != 0;
        if impossible {
            return Err(self.protection(0));
        }
        let value = value & f::CR0_DEFINED | f::CR0_ET;
        let was_paging = self.paging();
        let mut efer = self.msrs.efer;
        if paging && !was_paging && efer & f::EFER_LME != 0 {
            let long_code = self.segments[CpuState::CS].attributes & Segment::LONG != 0;
            if self.cr4 & f::CR4_PAE == 0 || long_code {
                return Err(self.protection(0));
            }
            efer |= f::EFER_LMA;
        } else if !paging && was_paging {
            if self.mode.bits == 64 {
                return Err(self.protection(0));
            }
            efer &= !f::EFER_LMA;
        }
        let changed = self.cr0 ^ value;
        self.cr0 = value;
        self.msrs.efer = efer;
        if changed & (f::CR0_PG | f::CR0_WP | f::CR0_PE) != 0 {
            self.tlbs.flush();
        }
        if !self.protected() {
            self.set_cpl(0);
        }
        self.update_mode();
        Ok(())
    }

    fn write_cr4(&mut self, value: u64) -> Done {
        let loses_pae = self.long_mode() && value & f::CR4_PAE == 0;
        if value & !self.model.cr4_bits() != 0 || loses_pae {
            return Err(self.protection(0));
        }
        let changed = self.cr4 ^ value;
        self.cr4 = value;
        if changed & CR4_PAGING != 0 {
            self.tlbs.flush();
        }
        self.stop = true;
        Ok(())
    }
}

/// MOV from CR0, CR2, CR3, CR4 or CR8, which `second` names.
pub(crate) fn read_control(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    core.need_ring_0()?;
    let value = match op.second {
        0 => core.cr0,
        2 => core.cr2,
        3 => core.cr3,
        4 => core.cr4,
        8 => u64::from(bus.task_priority()),
        _ => return Err(core.undefined()),
    };
    if core.mode.bits == 64 {
        core.set(op.first, value);
    } else {
        core.set(op.first, value as u32);
    }
    Ok(())
}

/// MOV to a control register, which `first` names.
pub(crate) fn write_control(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    core.need_ring_0()?;
    let raw = core.register(op.second);
    let value = if core.mode.bits == 64 { raw } else { raw & 0xffff_ffff };
    match op.first {
        0 => core.write_cr0(value),
        2 => {
            core.cr2 = value;
            Ok(())
        }
        3 => {
            if core.long_mode() && value >> core.model.physical_bits() != 0 {
                return Err(core.protection(0));
            }
            core.cr3 = value;
            core.tlbs.flush();
            core.stop = true;
            Ok(())
        }
        4 => core.write_cr4(value),
        8 => {
            if value & !15 != 0 {
                return Err(core.protection(0));
            }
            let at = core.at();
            bus.set_task_priority(at, value as u8);
            core.stop = true;
            Ok(())
        }
        _ => Err(core.undefined()),
    }
}

/// Numbers 4 and 5 mean 6 and 7 unless CR4.DE is set.
fn debug_register(core: &mut Core, number: u8) -> Done<u8> {
    core.need_ring_0()?;
    match number {
        4 | 5 if core.cr4 & f::CR4_DE != 0 => Err(core.undefined()),
        4 | 5 => Ok(number + 2),
        0..=7 => Ok(number),
        _ => Err(core.undefined()),
    }
}

pub(crate) fn read_debug(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    let value = match debug_register(core, op.second)? {
        6 => core.dr6,
        7 => core.dr7,
        number => core.breakpoints[usize::from(number & 3)],
    };
    if core.mode.bits == 64 {
        core.set(op.first, value);
    } else {
        core.set(op.first, value as u32);
    }
    Ok(())
}

pub(crate) fn write_debug(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    let number = debug_register(core, op.first)?;
    let raw = core.register(op.second);
    let value = if core.mode.bits == 64 { raw } else { raw & 0xffff_ffff };
    if number >= 6 && value >> 32 != 0 {
        return Err(core.protection(0));
    }
    match number {
        6 => core.dr6 = value & 0xe00f | 0xffff_0ff0,
        7 => core.dr7 = value & 0xffff_2fff | 0x400,
        _ => core.breakpoints[usize::from(number & 3)] = value,
    }
    Ok(())
}

/// LMSW: the low four bits; PE cannot be cleared.
pub(crate) fn load_status_word<S: Source>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    core.need_ring_0()?;
    let value: u16 = S::get(core, bus, op)?;
    let kept = core.cr0 & !0xe;
    core.write_cr0(kept | u64::from(value) & 0xf)
}

/// SMSW to a register.
pub(crate) fn store_status_word_register<T: Width>(
    core: &mut Core,
    _: &mut dyn Bus,
    op: &Op,
) -> Done {
    core.set(op.first, T::of(core.cr0));
    Ok(())
}

/// SMSW to memory.
pub(crate) fn store_status_word_memory(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let linear = core.address(op, 2, true)?;
    core.store_linear(bus, linear, core.cr0 as u16, op.through())
}

/// CLTS.
pub(crate) fn clear_task_switched(core: &mut Core, _: &mut dyn Bus, _: &Op) -> Done {
    core.need_ring_0()?;
    core.cr0 &= !f::CR0_TS;
    Ok(())
}

/// INVD, WBINVD.
pub(crate) fn invalidate_caches(core: &mut Core, _: &mut dyn Bus, _: &Op) -> Done {
    core.need_ring_0()
}

/// INVLPG.
pub(crate) fn invalidate_page(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    core.need_ring_0()?;
    let offset = core.offset(op);
    let linear = core.segment_base[usize::from(op.segment & 7)].wrapping_add(offset);
    core.tlbs.flush_page(if core.long_mode() { linear } else { linear & 0xffff_ffff });
    core.stop = true;
    Ok(())
}

/// LGDT and LIDT (`variant` 1).
pub(crate) fn load_table(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    core.need_ring_0()?;
    let long = core.mode.bits == 64;
    let linear = core.address(op, if long { 10 } else { 6 }, false)?;
    let limit: u16 = core.load_linear(bus, linear, op.through())?;
    let place = linear.wrapping_add(2);
    let base = if long {
        core.load_linear::<u64>(bus, place, op.through())?
    } else {
        let base: u32 = core.load_linear(bus, place, op.through())?;
        u64::from(if op.operand_size == 2 { base & 0xff_ffff } else { base })
    };
    if long && !Core::canonical(base) {
        return Err(core.protection(0));
    }
    let table = DescriptorTable { base, limit };
    *(if op.variant == 1 { &mut core.idt } else { &mut core.gdt }) = table;
    Ok(())
}

/// SGDT and SIDT (`variant` 1).
pub(crate) fn store_table(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let table = if op.variant == 1 { core.idt } else { core.gdt };
    let size = if core.mode.bits == 64 { 10 } else { 6 };
    let linear = core.address(op, size, true)?;
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&table.base.to_le_bytes());
    core.store_slow(bus, linear, &bytes[..size], op.through())
}

/// LLDT.
pub(crate) fn load_local_table<S: Source>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    if !core.protected() {
        return Err(core.undefined());
    }
    core.need_ring_0()?;
    let selector: u16 = S::get(core, bus, op)?;
    if selector & !3 == 0 {
        core.ldt = Segment { selector, ..Segment::default() };
        return Ok(());
    }
    let (descriptor, segment) = core.read_system_descriptor(selector)?;
    if selector & 4 != 0 || descriptor.kind() != 2 {
        return Err(core.protection(selector));
    }
    if !descriptor.is_present() {
        return Err(core.selector_fault(fault::NOT_PRESENT, selector));
    }
    core.ldt = segment;
    Ok(())
}

/// LTR.
pub(crate) fn load_task<S: Source>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    if !core.protected() {
        return Err(core.undefined());
    }
    core.need_ring_0()?;
    let selector: u16 = S::get(core, bus, op)?;
    if selector & !3 == 0 {
        return Err(core.protection(0));
    }
    let (descriptor, mut segment) = core.read_system_descriptor(selector)?;
    let available = descriptor.kind() == 9 || descriptor.kind() == 1 && !core.long_mode();
    if selector & 4 != 0 || !available {
        return Err(core.protection(selector));
    }
    if !descriptor.is_present() {
        return Err(core.selector_fault(fault::NOT_PRESENT, selector));
    }
    core.mark_busy(selector, descriptor)?;
    segment.attributes |= 2;
    core.tr = segment;
    Ok(())
}

fn system_selector(core: &Core, op: &Op) -> u16 {
    if op.variant == 1 { core.tr.selector } else { core.ldt.selector }
}

/// SLDT and STR (`variant` 1) to a register.
pub(crate) fn store_selector_register<T: Width>(core: &mut Core, _: &mut dyn Bus, op: &Op) -> Done {
    if !core.protected() {
        return Err(core.undefined());
    }
    let selector = system_selector(core, op);
    core.set(op.first, T::of(u64::from(selector)));
    Ok(())
}

/// SLDT and STR (`variant` 1) to memory.
pub(crate) fn store_selector_memory(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    if !core.protected() {
        return Err(core.undefined());
    }
    let selector = system_selector(core, op);
    let linear = core.address(op, 2, true)?;
    core.store_linear(bus, linear, selector, op.through())
}

fn set_zero_flag(core: &mut Core, zero: bool) {
    let others = core.flags.to_bits() & !f::ZF;
    core.flags = crate::lazy_flags::LazyFlags::from_bits(others | if zero { f::ZF } else { 0 });
}

/// VERR and VERW (`variant` 1).
pub(crate) fn verify<S: Source>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    if !core.protected() {
        return Err(core.undefined());
    }
    let selector: u16 = S::get(core, bus, op)?;
    let usable = core.try_descriptor(selector)?.is_some_and(|descriptor| {
        let level = core.cpl.max(selector as u8 & 3);
        let reachable = descriptor.is_conforming() || descriptor.privilege() >= level;
        let right =
            if op.variant == 1 { descriptor.is_writable_data() } else { descriptor.is_readable() };
        descriptor.kind() & 0x10 != 0 && right && reachable
    });
    set_zero_flag(core, usable);
    Ok(())
}

/// LAR and LSL (`variant` 1).
pub(crate) fn load_rights<T: Width, S: Source>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    if !core.protected() {
        return Err(core.undefined());
    }
    let selector: u16 = S::get(core, bus, op)?;
    let limit = op.variant == 1;
    let long = core.long_mode();
    let found = core.try_descriptor(selector)?.filter(|descriptor| {
        let kind = descriptor.kind();
        let known = kind & 0x10 != 0
            || match kind {
                2 | 9 | 0xb => true,
                0xc => !limit,
                1 | 3 => !long,
                4 | 5 => !long && !limit,
                _ => false,
            };
        let level = core.cpl.max(selector as u8 & 3);
        known && (descriptor.is_conforming() || descriptor.privilege() >= level)
    });
    if let Some(descriptor) = found {
        let value =
            if limit { u64::from(descriptor.limit()) } else { descriptor.0 >> 32 & 0x00ff_ff00 };
        core.set(op.first, T::of(value));
    }
    set_zero_flag(core, found.is_some());
    Ok(())
}

/// ARPL on a register or memory; `S` gives the destination's old value.
pub(crate) fn adjust_privilege<const MEMORY: bool>(
    core: &mut Core,
    bus: &mut dyn Bus,
    op: &Op,
) -> Done {
    if !core.protected() {
        return Err(core.undefined());
    }
    let source: u16 = core.get(op.second);
    if MEMORY {
        let linear = core.address(op, 2, true)?;
        let place = core.place::<u16>(linear, op.through())?;
        let old: u16 = core.load_place(bus, &place);
        let raised = old & 3 < source & 3;
        core.store_place(bus, &place, if raised { old & !3 | source & 3 } else { old });
        set_zero_flag(core, raised);
    } else {
        let old: u16 = core.get(op.first);
        let raised = old & 3 < source & 3;
        if raised {
            core.set(op.first, old & !3 | source & 3);
        }
        set_zero_flag(core, raised);
    }
    Ok(())
}

/// RDMSR.
pub(crate) fn read_msr(core: &mut Core, bus: &mut dyn Bus, _: &Op) -> Done {
    core.need_ring_0()?;
    let number: u32 = core.get(RCX);
    let Some(value) = core.read_msr(bus, number) else {
        return Err(core.protection(0));
    };
    core.set(RAX, value as u32);
    core.set(RDX, (value >> 32) as u32);
    Ok(())
}

/// WRMSR.
pub(crate) fn write_msr(core: &mut Core, bus: &mut dyn Bus, _: &Op) -> Done {
    core.need_ring_0()?;
    let number: u32 = core.get(RCX);
    let value = u64::from(core.get::<u32>(RDX)) << 32 | u64::from(core.get::<u32>(RAX));
    core.write_msr(bus, number, value).ok_or(()).map_err(|()| core.protection(0))
}

/// RDTSC.
pub(crate) fn read_time(core: &mut Core, bus: &mut dyn Bus, _: &Op) -> Done {
    if core.cr4 & f::CR4_TSD != 0 && core.cpl > 0 {
        return Err(core.protection(0));
    }
    let at = core.at();
    let value = bus.tsc(at).wrapping_add(core.tsc_offset);
    core.set(RAX, value as u32);
    core.set(RDX, (value >> 32) as u32);
    Ok(())
}

/// RDPMC: there are no counters.
pub(crate) fn read_counter(core: &mut Core, _: &mut dyn Bus, _: &Op) -> Done {
    Err(core.protection(0))
}

/// CPUID.
pub(crate) fn identify(core: &mut Core, bus: &mut dyn Bus, _: &Op) -> Done {
    let (function, index): (u32, u32) = (core.get(RAX), core.get(RCX));
    let mut leaf = core.model.cpuid(function, index, core.topology);
    if matches!(function, 1 | 0x8000_0001) && bus.apic_base() & 1 << 11 == 0 {
        leaf.edx &= !(1 << 9);
    }
    core.set(RAX, leaf.eax);
    core.set(RBX, leaf.ebx);
    core.set(RCX, leaf.ecx);
    core.set(RDX, leaf.edx);
    Ok(())
}

/// SWAPGS.
pub(crate) fn swap_gs(core: &mut Core, _: &mut dyn Bus, _: &Op) -> Done {
    core.need_ring_0()?;
    let old = core.segment_base[CpuState::GS];
    let new = core.msrs.kernel_gs_base;
    core.segments[CpuState::GS].base = new;
    core.segment_base[CpuState::GS] = new;
    core.msrs.kernel_gs_base = old;
    Ok(())
}

/// CLI.
pub(crate) fn disable_interrupts(core: &mut Core, _: &mut dyn Bus, _: &Op) -> Done {
    if core.protected() && core.cpl > core.iopl() {
        return Err(core.protection(0));
    }
    core.system_flags &= !f::IF;
    Ok(())
}

/// STI: interrupts are held off for one more instruction.
pub(crate) fn enable_interrupts(core: &mut Core, _: &mut dyn Bus, _: &Op) -> Done {
    if core.protected() && core.cpl > core.iopl() {
        return Err(core.protection(0));
    }
    if !core.flag(f::IF) {
        core.system_flags |= f::IF;
        core.shadow = InterruptShadow::Sti;
        core.stop = true;
    }
    Ok(())
}

/// HLT.
pub(crate) fn halt(core: &mut Core, _: &mut dyn Bus, _: &Op) -> Done {
    core.need_ring_0()?;
    core.activity = cpu::Activity::Halted;
    core.stop = true;
    Ok(())
}

/// PAUSE: lets another vCPU run.
pub(crate) fn pause(core: &mut Core, _: &mut dyn Bus, _: &Op) -> Done {
    if core.topology.count > 1 {
        core.yielded = true;
        core.stop = true;
    }
    Ok(())
}

fn port(core: &Core, op: &Op) -> u16 {
    if op.variant == 1 { core.register(RDX) as u16 } else { op.immediate as u16 & 0xff }
}

/// IN; the port is DX if `variant` is 1, else the immediate.
pub(crate) fn input<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let port = port(core, op);
    core.check_port(port, T::BYTES as u8)?;
    let at = core.at();
    let value = bus.port_in(at, port, T::BYTES as u8);
    core.set(RAX, T::of(u64::from(value)));
    core.stop = true;
    Ok(())
}

/// OUT.
pub(crate) fn output<T: Width>(core: &mut Core, bus: &mut dyn Bus, op: &Op) -> Done {
    let port = port(core, op);
    core.check_port(port, T::BYTES as u8)?;
    let at = core.at();
    let value: T = core.get(RAX);
    bus.port_out(at, port, T::BYTES as u8, value.zero_extended() as u32);
    core.stop = true;
    Ok(())
}
