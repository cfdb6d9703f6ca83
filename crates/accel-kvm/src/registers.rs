//! General, segment, control and debug registers, between KVM's structures and the neutral state.

use cpu::{CpuState, DescriptorTable, Segment};
use kvm_bindings::{kvm_debugregs, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

pub(crate) fn general_to(state: &CpuState) -> kvm_regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] =
        state.general;
    kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: state.rip,
        rflags: state.rflags,
    }
}

pub(crate) fn general_from(regs: &kvm_regs) -> [u64; 16] {
    [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8,
        regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ]
}

fn segment_to(segment: &Segment) -> kvm_segment {
    let bit = |number: u16| (segment.attributes >> number & 1) as u8;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: (segment.attributes & 0xf) as u8,
        present: bit(7),
        dpl: segment.privilege(),
        db: bit(10),
        s: bit(4),
        l: bit(9),
        g: bit(11),
        avl: bit(8),
        unusable: u8::from(segment.attributes == 0),
        padding: 0,
    }
}

fn segment_from(segment: &kvm_segment) -> Segment {
    let bit = |value: u8, number: u16| u16::from(value & 1) << number;
    let attributes = u16::from(segment.type_ & 0xf)
        | bit(segment.s, 4)
        | u16::from(segment.dpl & 3) << 5
        | bit(segment.present, 7)
        | bit(segment.avl, 8)
        | bit(segment.l, 9)
        | bit(segment.db, 10)
        | bit(segment.g, 11);
    Segment {
        selector: segment.selector,
        base: segment.base,
        limit: segment.limit,
        attributes: if segment.unusable != 0 { 0 } else { attributes },
    }
}

fn table_to(table: DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, padding: [0; 3] }
}

fn table_from(table: &kvm_dtable) -> DescriptorTable {
    DescriptorTable { base: table.base, limit: table.limit }
}

/// Puts the state's registers into what KVM holds now: the APIC base and CR8 are the local APIC's
/// and stay.
pub(crate) fn special_to(state: &CpuState, now: &kvm_sregs) -> kvm_sregs {
    let [es, cs, ss, ds, fs, gs] = state.segments.each_ref().map(segment_to);
    kvm_sregs {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr: segment_to(&state.tr),
        ldt: segment_to(&state.ldt),
        gdt: table_to(state.gdt),
        idt: table_to(state.idt),
        cr0: state.cr0,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        cr8: now.cr8,
        efer: state.msrs.efer,
        apic_base: now.apic_base,
        // An interrupt on its way is among the events.
        interrupt_bitmap: [0; 4],
    }
}

pub(crate) fn special_from(sregs: &kvm_sregs, state: &mut CpuState) {
    state.segments =
        [&sregs.es, &sregs.cs, &sregs.ss, &sregs.ds, &sregs.fs, &sregs.gs].map(segment_from);
    state.ldt = segment_from(&sregs.ldt);
    state.tr = segment_from(&sregs.tr);
    state.gdt = table_from(&sregs.gdt);
    state.idt = table_from(&sregs.idt);
    state.cr0 = sregs.cr0;
    state.cr2 = sregs.cr2;
    state.cr3 = sregs.cr3;
    state.cr4 = sregs.cr4;
    state.msrs.efer = sregs.efer;
}

pub(crate) fn debug_to(state: &CpuState) -> kvm_debugregs {
    kvm_debugregs {
        db: state.breakpoints,
        dr6: state.dr6,
        dr7: state.dr7,
        ..kvm_debugregs::default()
    }
}

pub(crate) fn debug_from(debug: &kvm_debugregs, state: &mut CpuState) {
    state.breakpoints = debug.db;
    state.dr6 = debug.dr6;
    state.dr7 = debug.dr7;
}
