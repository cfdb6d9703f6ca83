//! A CPU and its local APIC.

use vmstate::VmState;

/// Section `cpu_common`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "cpu_common", version = 1)]
pub struct CpuCommonLayout {
    /// The CPU waits: for an interrupt, or to be started.
    pub halted: u32,
    /// What QEMU has to look at before the next instruction, as bits.
    pub interrupt_request: u32,
}

/// An x87 register.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "fpreg", version = 1)]
pub struct FpRegisterLayout {
    /// Significand.
    pub mantissa: u64,
    /// Sign and exponent.
    pub exponent: u16,
}

/// A segment register.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "segment", version = 1)]
pub struct SegmentLayout {
    /// Selector.
    pub selector: u32,
    /// Base.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// The upper half of the descriptor.
    pub flags: u32,
}

/// A variable MTRR.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "mtrr_var", version = 1)]
pub struct MtrrLayout {
    /// Base and type.
    pub base: u64,
    /// Mask and valid bit.
    pub mask: u64,
}

/// Section `cpu`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "cpu", version = 12, minimum_version = 12)]
pub struct CpuLayout {
    /// General registers.
    pub regs: [u64; 16],
    /// Address of the next instruction.
    pub eip: u64,
    /// Flags.
    pub eflags: u64,
    /// QEMU's cache of mode bits.
    pub hflags: u32,
    /// x87 control word.
    pub fpuc: u16,
    /// x87 status word.
    pub fpus: u16,
    /// x87 registers in use, one bit each.
    pub fptag: u16,
    /// 0: extended precision.
    pub fpregs_format: u16,
    /// x87 registers, physical.
    pub fpregs: [FpRegisterLayout; 8],
    /// ES, CS, SS, DS, FS, GS.
    pub segs: [SegmentLayout; 6],
    /// Local descriptor table.
    pub ldt: SegmentLayout,
    /// Task register.
    pub tr: SegmentLayout,
    /// Global descriptor table.
    pub gdt: SegmentLayout,
    /// Interrupt descriptor table.
    pub idt: SegmentLayout,
    /// SYSENTER code segment.
    pub sysenter_cs: u32,
    /// SYSENTER stack.
    pub sysenter_esp: u64,
    /// SYSENTER entry.
    pub sysenter_eip: u64,
    /// Control register 0.
    pub cr0: u64,
    /// Page-fault address.
    pub cr2: u64,
    /// Page-table base.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Debug registers.
    pub dr: [u64; 8],
    /// -1 while line A20 is on.
    pub a20_mask: i32,
    /// SSE control and status.
    pub mxcsr: u32,
    /// SSE registers.
    pub xmm: [[u64; 2]; 16],
    /// EFER.
    pub efer: u64,
    /// STAR.
    pub star: u64,
    /// LSTAR.
    pub lstar: u64,
    /// CSTAR.
    pub cstar: u64,
    /// SYSCALL mask.
    pub fmask: u64,
    /// Kernel GS base.
    pub kernelgsbase: u64,
    /// System-management base.
    pub smbase: u32,
    /// Page attribute table.
    pub pat: u64,
    /// More mode bits: 0 interrupts enabled globally (SVM), 2 NMIs blocked, 8 virtual GIF.
    pub hflags2: u32,
    /// Of SVM.
    pub vm_hsave: u64,
    /// Of SVM.
    pub vm_vmcb: u64,
    /// Of SVM.
    pub tsc_offset: u64,
    /// Of SVM.
    pub intercept: u64,
    /// Of SVM.
    pub intercept_cr_read: u16,
    /// Of SVM.
    pub intercept_cr_write: u16,
    /// Of SVM.
    pub intercept_dr_read: u16,
    /// Of SVM.
    pub intercept_dr_write: u16,
    /// Of SVM.
    pub intercept_exceptions: u32,
    /// Of SVM.
    pub v_tpr: u8,
    /// Fixed MTRRs.
    pub mtrr_fixed: [u64; 11],
    /// MTRR default type.
    pub mtrr_deftype: u64,
    /// Variable MTRRs.
    pub mtrr_var: [MtrrLayout; 8],
    /// Vector of an interrupt on its way in, under KVM; -1 if none.
    pub interrupt_injected: i32,
    /// KVM's run state.
    pub mp_state: u32,
    /// Time-stamp counter, under KVM.
    pub tsc: u64,
    /// Vector of an exception on its way in, under KVM; -1 if none.
    pub exception_nr: i32,
    /// It comes from an instruction.
    pub soft_interrupt: u8,
    /// An NMI is on its way in, under KVM.
    pub nmi_injected: u8,
    /// An NMI waits, under KVM.
    pub nmi_pending: u8,
    /// The exception has an error code.
    pub has_error_code: u8,
    /// Start-up vector, under KVM.
    pub sipi_vector: u32,
    /// Machine-check capabilities.
    pub mcg_cap: u64,
    /// Machine-check status.
    pub mcg_status: u64,
    /// Machine-check control.
    pub mcg_ctl: u64,
    /// Machine-check banks: control, status, address, miscellaneous.
    pub mce_banks: [u64; 40],
    /// TSC_AUX.
    pub tsc_aux: u64,
    /// Of kvmclock.
    pub system_time_msr: u64,
    /// Of kvmclock.
    pub wall_clock_msr: u64,
    /// XCR0.
    pub xcr0: u64,
    /// XSAVE components in use, under KVM.
    pub xstate_bv: u64,
    /// Upper halves of the AVX registers.
    pub ymmh: [[u64; 2]; 16],
    /// There unless it is 1.
    #[vmstate(subsection = "poll_control_msr")]
    pub poll_control_msr: Option<PollControlLayout>,
    /// There unless all zero.
    #[vmstate(subsection = "fpop_ip_dp")]
    pub fpop_ip_dp: Option<FpLastLayout>,
    /// There unless zero.
    #[vmstate(subsection = "msr_tsc_adjust")]
    pub msr_tsc_adjust: Option<TscAdjustLayout>,
    /// There unless zero.
    #[vmstate(subsection = "msr_tscdeadline")]
    pub msr_tscdeadline: Option<TscDeadlineLayout>,
    /// There unless 1.
    #[vmstate(subsection = "msr_ia32_misc_enable")]
    pub msr_ia32_misc_enable: Option<MiscEnableLayout>,
}

/// Subsection `cpu/poll_control_msr`: MSR of KVM's halt polling.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "poll_control_msr", version = 1)]
pub struct PollControlLayout {
    /// The register.
    pub value: u64,
}

/// Subsection `cpu/fpop_ip_dp`: The last x87 instruction.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "fpop_ip_dp", version = 1)]
pub struct FpLastLayout {
    /// Opcode.
    pub fpop: u16,
    /// Address.
    pub fpip: u64,
    /// Address of its operand.
    pub fpdp: u64,
}

/// Subsection `cpu/msr_tsc_adjust`: TSC_ADJUST.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "msr_tsc_adjust", version = 1)]
pub struct TscAdjustLayout {
    /// The register.
    pub value: u64,
}

/// Subsection `cpu/msr_tscdeadline`: TSC_DEADLINE.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "msr_tscdeadline", version = 1)]
pub struct TscDeadlineLayout {
    /// The register.
    pub value: u64,
}

/// Subsection `cpu/msr_ia32_misc_enable`: MISC_ENABLE.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "msr_ia32_misc_enable", version = 1)]
pub struct MiscEnableLayout {
    /// The register.
    pub value: u64,
}

/// Section `apic`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "apic", version = 3, minimum_version = 3)]
pub struct ApicLayout {
    /// APIC base register.
    pub apicbase: u32,
    /// APIC ID.
    pub id: u8,
    /// Arbitration ID.
    pub arb_id: u8,
    /// Task priority.
    pub tpr: u8,
    /// Spurious-interrupt vector register.
    pub spurious_vec: u32,
    /// Logical destination.
    pub log_dest: u8,
    /// Destination format.
    pub dest_mode: u8,
    /// In-service register.
    pub isr: [u32; 8],
    /// Trigger-mode register.
    pub tmr: [u32; 8],
    /// Interrupt-request register.
    pub irr: [u32; 8],
    /// Timer, thermal, performance, LINT0, LINT1, error.
    pub lvt: [u32; 6],
    /// Error status.
    pub esr: u32,
    /// Interrupt command.
    pub icr: [u32; 2],
    /// Timer divide configuration.
    pub divide_conf: u32,
    /// What it comes to, as a power of two.
    pub count_shift: i32,
    /// Timer initial count.
    pub initial_count: u32,
    /// Virtual nanoseconds at which it was written.
    pub initial_count_load_time: i64,
    /// Virtual nanoseconds at which the timer fires next.
    pub next_time: i64,
    /// The same; -1 if it is off.
    pub timer_expiry: i64,
    /// There while the CPU waits to be started.
    #[vmstate(subsection = "/apic_sipi")]
    pub sipi: Option<SipiLayout>,
}

/// Subsection `apic_sipi`.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "apic_sipi", version = 1)]
pub struct SipiLayout {
    /// Start-up vector.
    pub sipi_vector: i32,
    /// The CPU waits to be started.
    pub wait_for_sipi: i32,
}
