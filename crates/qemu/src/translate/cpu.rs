//! A CPU under software emulation.

use cpu::{
    Activity, CpuState, DescriptorTable, InterruptShadow, MachineCheckBank, Msrs, MtrrRange,
    PendingEvent, Segment, SseState, X87State, XsaveComponent, flags,
};
use devices::LapicState;

use super::{Instant, Reason, require};
use crate::layout::*;

/// Bits of `interrupt_request` that mean nothing by themselves: look at the APIC (0x02, 0x10,
/// 0x2000), leave the translated block (0x04).
const REQUEST_LOOK: u32 = 0x2016;
const REQUEST_HARD: u32 = 0x02;
const REQUEST_POLL: u32 = 0x10;
const REQUEST_NMI: u32 = 0x200;

/// Mode bits that QEMU computes from registers; `hflags` bit 3 alone is state.
const HFLAG_INHIBIT: u32 = 1 << 3;
const HFLAGS2_GLOBAL: u32 = 1 << 0;
const HFLAGS2_NMI_BLOCKED: u32 = 1 << 2;
/// Set out of reset.
const HFLAGS2_VIRTUAL_GLOBAL: u32 = 1 << 8;

const EFER_SVME: u64 = 1 << 12;

fn segment(layout: &SegmentLayout) -> Result<Segment, Reason> {
    let SegmentLayout { selector, base, limit, flags } = *layout;
    let selector = u16::try_from(selector).map_err(|_| "a selector has more than 16 bits")?;
    let attributes = (flags >> 8 & 0xff | flags >> 12 & 0xf00) as u16;
    Ok(Segment { selector, base, limit, attributes })
}

fn segment_to_qemu(segment: &Segment) -> SegmentLayout {
    let Segment { selector, base, limit, attributes } = *segment;
    let attributes = u32::from(attributes);
    let flags = (attributes & 0xff) << 8 | (attributes & 0xf00) << 12;
    SegmentLayout { selector: selector.into(), base, limit, flags }
}

/// QEMU keeps the task register as the descriptor was before it was marked busy.
fn busy(mut task: Segment) -> Segment {
    if matches!(task.attributes & 0x1f, 0x1 | 0x9) {
        task.attributes |= 2;
    }
    task
}

fn table(layout: &SegmentLayout) -> Result<DescriptorTable, Reason> {
    let SegmentLayout { selector: _, base, limit, flags: _ } = *layout;
    let limit = u16::try_from(limit).map_err(|_| "a descriptor table is longer than 64 KiB")?;
    Ok(DescriptorTable { base, limit })
}

fn table_to_qemu(table: &DescriptorTable) -> SegmentLayout {
    let DescriptorTable { base, limit } = *table;
    SegmentLayout { selector: 0, base, limit: limit.into(), flags: 0 }
}

/// The mode bits that QEMU caches, from the registers.
pub(crate) fn hflags(state: &CpuState) -> u32 {
    let bit = |on: bool, place: u32| u32::from(on) << place;
    let (code, stack) = (&state.segments[CpuState::CS], &state.segments[CpuState::SS]);
    let protected = state.cr0 & flags::CR0_PE != 0;
    let virtual_8086 = state.rflags & 1 << 17 != 0;
    let long = state.msrs.efer & flags::EFER_LMA != 0;
    let mut hflags = u32::from(stack.privilege())
        | bit(protected, 7)
        // MP, EM and TS.
        | (state.cr0 as u32 & 0xe) << 8
        | bit(state.cr4 & 1 << 9 != 0, 22)
        | bit(state.cr4 & 1 << 21 != 0, 23)
        | bit(state.cr4 & 1 << 11 != 0, 27)
        | bit(long, 14)
        | bit(stack.attributes & Segment::BIG != 0, 5);
    if long && code.attributes & Segment::LONG != 0 {
        hflags |= 1 << 4 | 1 << 15;
    } else {
        let code_32 = code.attributes & Segment::BIG != 0;
        let based = [CpuState::DS, CpuState::ES, CpuState::SS]
            .iter()
            .any(|index| state.segments[*index].base != 0);
        hflags |= bit(code_32, 4);
        hflags |= bit(!protected || virtual_8086 || !code_32 || based, 6);
    }
    if state.interrupt_shadow != InterruptShadow::None {
        hflags |= HFLAG_INHIBIT;
    }
    hflags
}

/// What the tag word says of each register: QEMU keeps only whether it is in use.
fn tags(in_use: u16, significands: &[u64; 8], exponents: &[u16; 8]) -> u16 {
    (0..8).fold(0, |tags, index| {
        let (significand, exponent) = (significands[index], exponents[index] & 0x7fff);
        let tag = match (in_use >> index & 1, exponent, significand) {
            (0, ..) => 3,
            (_, 0, 0) => 1,
            (_, 1..=0x7ffe, _) if significand >> 63 == 1 => 0,
            _ => 2,
        };
        tags | tag << (2 * index)
    })
}

/// Refuses what a guest under software emulation, on a CPU model without SVM and AVX, cannot be in.
fn check(layout: &CpuLayout) -> Result<(), Reason> {
    let none = [
        (layout.vm_hsave, "vm_hsave"),
        (layout.vm_vmcb, "vm_vmcb"),
        (layout.tsc_offset, "tsc_offset"),
        (layout.intercept, "intercept"),
        (layout.intercept_cr_read.into(), "intercept_cr_read"),
        (layout.intercept_cr_write.into(), "intercept_cr_write"),
        (layout.intercept_dr_read.into(), "intercept_dr_read"),
        (layout.intercept_dr_write.into(), "intercept_dr_write"),
        (layout.intercept_exceptions.into(), "intercept_exceptions"),
        (layout.v_tpr.into(), "v_tpr"),
        (layout.efer & EFER_SVME, "efer.svme"),
    ];
    for (value, name) in none {
        require(value == 0, format!("{name} is not 0: the guest uses SVM, which is not offered"))?;
    }
    let kvm = [
        (layout.tsc, "tsc"),
        (layout.mp_state.into(), "mp_state"),
        (layout.xstate_bv, "xstate_bv"),
        (layout.system_time_msr, "system_time_msr"),
        (layout.wall_clock_msr, "wall_clock_msr"),
        (layout.soft_interrupt.into(), "soft_interrupt"),
        (layout.nmi_injected.into(), "nmi_injected"),
        (layout.nmi_pending.into(), "nmi_pending"),
        (layout.has_error_code.into(), "has_error_code"),
        (layout.sipi_vector.into(), "sipi_vector"),
    ];
    for (value, name) in kvm {
        require(
            value == 0,
            format!("{name} is {value:#x}: the guest ran under KVM, and not under tcg"),
        )?;
    }
    require(layout.interrupt_injected == -1, "interrupt_injected is not -1")?;
    require(layout.exception_nr == -1, "exception_nr is not -1")?;
    require(layout.a20_mask == -1, "a20_mask is not -1: line A20 is off")?;
    require(layout.fpregs_format == 0, "fpregs_format is not 0")?;
    require(layout.dr[4] == 0 && layout.dr[5] == 0, "dr[4] or dr[5] is not 0")?;
    let reserved =
        layout.hflags2 & !(HFLAGS2_GLOBAL | HFLAGS2_NMI_BLOCKED | HFLAGS2_VIRTUAL_GLOBAL);
    require(reserved == 0, format!("hflags2 has bits {reserved:#x}"))?;
    require(layout.msr_tsc_adjust.is_none(), "subsection cpu/msr_tsc_adjust is not supported")?;
    require(layout.msr_tscdeadline.is_none(), "subsection cpu/msr_tscdeadline is not supported")?;
    let poll = layout.poll_control_msr.as_ref().map_or(1, |of| of.value);
    require(poll == 0, "poll_control_msr is not 0: the guest ran under KVM")
}

/// Number of the XSAVE component that holds the upper halves of the AVX registers.
const AVX: u8 = 2;

fn components(upper_halves: &[[u64; 2]; 16]) -> Vec<XsaveComponent> {
    if *upper_halves == [[0; 2]; 16] {
        return Vec::new();
    }
    let bytes = upper_halves.iter().flatten().flat_map(|half| half.to_le_bytes()).collect();
    vec![XsaveComponent { number: AVX, bytes }]
}

fn upper_halves(components: &[XsaveComponent]) -> Result<[[u64; 2]; 16], Reason> {
    let mut halves = [[0; 2]; 16];
    for XsaveComponent { number, bytes } in components {
        require(
            *number == AVX && bytes.len() == 256,
            format!("component {number} of the extended state has no translation"),
        )?;
        for (into, from) in halves.as_flattened_mut().iter_mut().zip(bytes.chunks_exact(8)) {
            *into = u64::from_le_bytes(from.try_into().expect("eight bytes"));
        }
    }
    Ok(halves)
}

fn activity(common: &CpuCommonLayout, apic: &ApicLayout) -> Result<Activity, Reason> {
    let waits = match &apic.sipi {
        None => false,
        Some(SipiLayout { sipi_vector: _, wait_for_sipi }) => *wait_for_sipi != 0,
    };
    match (common.halted, waits) {
        (0, false) => Ok(Activity::Running),
        (1, false) => Ok(Activity::Halted),
        (1, true) => Ok(Activity::WaitForStartup),
        (halted, _) => Err(format!("halted is {halted}, and the apic does not agree")),
    }
}

/// A CPU from QEMU. `tsc` is what the machine's time-stamp counter shows: under software emulation
/// each CPU's is the same.
pub(super) fn from_qemu(
    common: &CpuCommonLayout,
    layout: &CpuLayout,
    apic: &ApicLayout,
    tsc: u64,
) -> Result<CpuState, Reason> {
    check(layout)?;
    let pending = common.interrupt_request & !(REQUEST_LOOK | REQUEST_NMI);
    require(
        pending == 0,
        format!("interrupt_request {pending:#x}: an SMI, INIT, SIPI or machine check is pending"),
    )?;
    let mut segments = [Segment::default(); 6];
    for (into, from) in segments.iter_mut().zip(&layout.segs) {
        *into = segment(from)?;
    }
    let banks = (layout.mcg_cap & 0xff) as usize;
    require(banks <= 10, "mcg_cap names more than 10 banks")?;
    let mut machine_check_banks = Vec::with_capacity(banks);
    for (index, bank) in layout.mce_banks.chunks_exact(4).enumerate() {
        let [control, status, address, miscellaneous] = [bank[0], bank[1], bank[2], bank[3]];
        if index < banks {
            let bank = MachineCheckBank { control, status, address, miscellaneous };
            machine_check_banks.push(bank);
        }
    }
    let last = layout.fpop_ip_dp.clone().unwrap_or(FpLastLayout { fpop: 0, fpip: 0, fpdp: 0 });
    let significands = layout.fpregs.clone().map(|register| register.mantissa);
    let exponents = layout.fpregs.clone().map(|register| register.exponent);
    let state = CpuState {
        general: layout.regs,
        rip: layout.eip,
        rflags: layout.eflags,
        segments,
        ldt: segment(&layout.ldt)?,
        tr: busy(segment(&layout.tr)?),
        gdt: table(&layout.gdt)?,
        idt: table(&layout.idt)?,
        cr0: layout.cr0,
        cr2: layout.cr2,
        cr3: layout.cr3,
        cr4: layout.cr4,
        xcr0: layout.xcr0,
        breakpoints: [layout.dr[0], layout.dr[1], layout.dr[2], layout.dr[3]],
        dr6: layout.dr[6],
        dr7: layout.dr[7],
        msrs: Msrs {
            efer: layout.efer,
            star: layout.star,
            lstar: layout.lstar,
            cstar: layout.cstar,
            syscall_mask: layout.fmask,
            kernel_gs_base: layout.kernelgsbase,
            sysenter_cs: layout.sysenter_cs.into(),
            sysenter_esp: layout.sysenter_esp,
            sysenter_eip: layout.sysenter_eip,
            pat: layout.pat,
            mtrr_fixed: layout.mtrr_fixed,
            mtrr_default_type: layout.mtrr_deftype,
            mtrr_variable: layout
                .mtrr_var
                .clone()
                .map(|MtrrLayout { base, mask }| MtrrRange { base, mask }),
            misc_enable: layout.msr_ia32_misc_enable.as_ref().map_or(1, |of| of.value),
            tsc_aux: layout.tsc_aux,
            tsc_adjust: 0,
            tsc_deadline: 0,
            mcg_capabilities: layout.mcg_cap,
            mcg_status: layout.mcg_status,
            mcg_control: layout.mcg_ctl,
            machine_check_banks,
        },
        tsc,
        x87: X87State {
            control: layout.fpuc,
            status: layout.fpus,
            tags: tags(layout.fptag, &significands, &exponents),
            last_opcode: last.fpop,
            last_instruction_selector: 0,
            last_instruction: last.fpip,
            last_operand_selector: 0,
            last_operand: last.fpdp,
            significands,
            exponents,
        },
        sse: SseState { mxcsr: layout.mxcsr, xmm: layout.xmm },
        components: components(&layout.ymmh),
        smbase: layout.smbase,
        activity: activity(common, apic)?,
        interrupt_shadow: if layout.hflags & HFLAG_INHIBIT != 0 {
            InterruptShadow::Sti
        } else {
            InterruptShadow::None
        },
        nmi_pending: common.interrupt_request & REQUEST_NMI != 0,
        nmi_blocked: layout.hflags2 & HFLAGS2_NMI_BLOCKED != 0,
        exception: PendingEvent::default(),
        interrupt: PendingEvent::default(),
    };
    state.check().map_err(|invalid| invalid.to_string())?;
    // QEMU goes by its cache: where it disagrees with the registers, one of them is damaged.
    let computed = hflags(&state);
    require(
        layout.hflags == computed,
        format!(
            "hflags {:#x} disagrees with the registers, which make it {computed:#x}",
            layout.hflags
        ),
    )?;
    Ok(state)
}

/// QEMU's clocks: one time-stamp counter for all CPUs.
pub(super) fn timer(cpus: &[CpuState], now: Instant) -> Result<TimerLayout, Reason> {
    let first = cpus.first().map_or(0, |cpu| cpu.tsc);
    require(
        cpus.iter().all(|cpu| cpu.tsc == first),
        "the CPUs' time-stamp counters differ, and QEMU has one for all",
    )?;
    let signed = |value: u64| i64::try_from(value).map_err(|_| "a clock is past QEMU's range");
    Ok(TimerLayout {
        cpu_ticks_offset: signed(first)?,
        unused: [0; 8],
        cpu_clock_offset: signed(now.virtual_ns)?,
    })
}

/// Section `cpu_common`. QEMU looks at the APIC by itself if it is told to; the 8259's output it has
/// to be told of.
pub(super) fn common(
    state: &CpuState,
    lapic: &LapicState,
    pic_asks: bool,
) -> Result<CpuCommonLayout, Reason> {
    let halted = match state.activity {
        Activity::Running => 0,
        Activity::Halted | Activity::WaitForStartup => 1,
        Activity::Shutdown => return Err("a triple fault has ended the CPU".to_owned()),
    };
    let enabled = lapic.apic_base & 1 << 11 != 0;
    // LINT0 is open, in ExtINT mode.
    let through = !enabled || lapic.lvt[3] & 0x1_0700 == 0x700;
    let mut interrupt_request = REQUEST_POLL;
    if pic_asks && through {
        interrupt_request |= REQUEST_HARD;
    }
    if state.nmi_pending {
        interrupt_request |= REQUEST_NMI;
    }
    Ok(CpuCommonLayout { halted, interrupt_request })
}

/// Section `cpu`.
pub(super) fn to_qemu(state: &CpuState) -> Result<CpuLayout, Reason> {
    let CpuState {
        general,
        rip,
        rflags,
        segments,
        ldt,
        tr,
        gdt,
        idt,
        cr0,
        cr2,
        cr3,
        cr4,
        xcr0,
        breakpoints,
        dr6,
        dr7,
        msrs,
        // In section `timer`.
        tsc: _,
        x87,
        sse,
        components,
        smbase,
        // In sections `cpu_common` and `apic`.
        activity: _,
        interrupt_shadow: _,
        nmi_pending: _,
        nmi_blocked,
        exception,
        interrupt,
    } = state;
    require(
        !exception.present && !interrupt.present,
        "an exception or interrupt is on its way in: let the guest run a little",
    )?;
    require(msrs.tsc_adjust == 0, "tsc_adjust is not 0")?;
    require(msrs.tsc_deadline == 0, "tsc_deadline is not 0")?;
    let sysenter_cs =
        u32::try_from(msrs.sysenter_cs).map_err(|_| "sysenter_cs has more than 32 bits")?;
    require(msrs.machine_check_banks.len() <= 10, "more than 10 machine-check banks")?;
    let mut mce_banks = [0; 40];
    for (into, bank) in mce_banks.chunks_exact_mut(4).zip(&msrs.machine_check_banks) {
        into.copy_from_slice(&[bank.control, bank.status, bank.address, bank.miscellaneous]);
    }
    let in_use =
        (0..8).fold(0, |bits, index| bits | u16::from(x87.tags >> (2 * index) & 3 != 3) << index);
    let last =
        FpLastLayout { fpop: x87.last_opcode, fpip: x87.last_instruction, fpdp: x87.last_operand };
    let [dr0, dr1, dr2, dr3] = *breakpoints;
    Ok(CpuLayout {
        regs: *general,
        eip: *rip,
        eflags: *rflags,
        hflags: hflags(state),
        fpuc: x87.control,
        fpus: x87.status,
        fptag: in_use,
        fpregs_format: 0,
        fpregs: std::array::from_fn(|index| FpRegisterLayout {
            mantissa: x87.significands[index],
            exponent: x87.exponents[index],
        }),
        segs: segments.map(|of| segment_to_qemu(&of)),
        ldt: segment_to_qemu(ldt),
        tr: segment_to_qemu(tr),
        gdt: table_to_qemu(gdt),
        idt: table_to_qemu(idt),
        sysenter_cs,
        sysenter_esp: msrs.sysenter_esp,
        sysenter_eip: msrs.sysenter_eip,
        cr0: *cr0,
        cr2: *cr2,
        cr3: *cr3,
        cr4: *cr4,
        dr: [dr0, dr1, dr2, dr3, 0, 0, *dr6, *dr7],
        a20_mask: -1,
        mxcsr: sse.mxcsr,
        xmm: sse.xmm,
        efer: msrs.efer,
        star: msrs.star,
        lstar: msrs.lstar,
        cstar: msrs.cstar,
        fmask: msrs.syscall_mask,
        kernelgsbase: msrs.kernel_gs_base,
        smbase: *smbase,
        pat: msrs.pat,
        hflags2: HFLAGS2_GLOBAL
            | HFLAGS2_VIRTUAL_GLOBAL
            | if *nmi_blocked { HFLAGS2_NMI_BLOCKED } else { 0 },
        vm_hsave: 0,
        vm_vmcb: 0,
        tsc_offset: 0,
        intercept: 0,
        intercept_cr_read: 0,
        intercept_cr_write: 0,
        intercept_dr_read: 0,
        intercept_dr_write: 0,
        intercept_exceptions: 0,
        v_tpr: 0,
        mtrr_fixed: msrs.mtrr_fixed,
        mtrr_deftype: msrs.mtrr_default_type,
        mtrr_var: msrs.mtrr_variable.map(|MtrrRange { base, mask }| MtrrLayout { base, mask }),
        interrupt_injected: -1,
        mp_state: 0,
        tsc: 0,
        exception_nr: -1,
        soft_interrupt: 0,
        nmi_injected: 0,
        nmi_pending: 0,
        has_error_code: 0,
        sipi_vector: 0,
        mcg_cap: msrs.mcg_capabilities,
        mcg_status: msrs.mcg_status,
        mcg_ctl: msrs.mcg_control,
        mce_banks,
        tsc_aux: msrs.tsc_aux,
        system_time_msr: 0,
        wall_clock_msr: 0,
        xcr0: *xcr0,
        xstate_bv: 0,
        ymmh: upper_halves(components)?,
        poll_control_msr: Some(PollControlLayout { value: 0 }),
        fpop_ip_dp: (last != FpLastLayout { fpop: 0, fpip: 0, fpdp: 0 }).then_some(last),
        msr_tsc_adjust: None,
        msr_tscdeadline: None,
        msr_ia32_misc_enable: (msrs.misc_enable != 1)
            .then_some(MiscEnableLayout { value: msrs.misc_enable }),
    })
}
