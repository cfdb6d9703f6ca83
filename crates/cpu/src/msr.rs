//! Numbers of the model-specific registers that a CPU model may offer (Intel SDM volume 4; AMD APM
//! volume 2, appendix A).

/// Time-stamp counter.
pub const TSC: u32 = 0x10;
/// APIC base and enable.
pub const APIC_BASE: u32 = 0x1b;
/// Microcode revision (Intel: BIOS_SIGN_ID; AMD: PATCH_LEVEL).
pub const MICROCODE_REVISION: u32 = 0x8b;
/// What it reads as under a model of an AMD processor: the answer that guests of other monitors get.
pub const MICROCODE_REVISION_OF_AMD: u64 = 0x0100_0065;
/// The same of an Intel processor.
pub const MICROCODE_REVISION_OF_INTEL: u64 = 1 << 32;
/// Cores and threads of the package (Intel).
pub const CORE_THREAD_COUNT: u32 = 0x35;
/// Performance status: the present ratio of the clocks (Intel).
pub const PERFORMANCE_STATUS: u32 = 0x198;
/// What it reads as where it is offered.
pub const PERFORMANCE_STATUS_VALUE: u64 = 1000 | 0x400 << 32;
/// MTRR capabilities.
pub const MTRR_CAPABILITIES: u32 = 0xfe;
/// What it reads as under every model: eight variable ranges, fixed ranges, write combining.
pub const MTRR_CAPABILITIES_VALUE: u64 = 8 | 1 << 8 | 1 << 10;
/// Code segment for SYSENTER.
pub const SYSENTER_CS: u32 = 0x174;
/// Stack pointer for SYSENTER.
pub const SYSENTER_ESP: u32 = 0x175;
/// Entry point for SYSENTER.
pub const SYSENTER_EIP: u32 = 0x176;
/// TSC adjustment.
pub const TSC_ADJUST: u32 = 0x3b;
/// TSC deadline of the local APIC's timer.
pub const TSC_DEADLINE: u32 = 0x6e0;
/// Machine-check capabilities.
pub const MCG_CAP: u32 = 0x179;
/// Machine-check status.
pub const MCG_STATUS: u32 = 0x17a;
/// Machine-check control.
pub const MCG_CTL: u32 = 0x17b;
/// Miscellaneous enables.
pub const MISC_ENABLE: u32 = 0x1a0;
/// First of the variable MTRR pairs.
pub const MTRR_VARIABLE_BASE: u32 = 0x200;
/// The fixed MTRRs in the order of their ranges.
pub const MTRR_FIXED: [u32; 11] =
    [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
/// Page attribute table.
pub const PAT: u32 = 0x277;
/// MTRR default type.
pub const MTRR_DEFAULT_TYPE: u32 = 0x2ff;
/// First register of the machine-check banks.
pub const MC0_CTL: u32 = 0x400;
/// Extended features.
pub const EFER: u32 = 0xc000_0080;
/// Segments for SYSCALL and SYSRET.
pub const STAR: u32 = 0xc000_0081;
/// SYSCALL entry, 64-bit mode.
pub const LSTAR: u32 = 0xc000_0082;
/// SYSCALL entry, compatibility mode.
pub const CSTAR: u32 = 0xc000_0083;
/// Flags that SYSCALL clears.
pub const SYSCALL_MASK: u32 = 0xc000_0084;
/// FS base.
pub const FS_BASE: u32 = 0xc000_0100;
/// GS base.
pub const GS_BASE: u32 = 0xc000_0101;
/// The GS base that SWAPGS brings.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// What RDTSCP brings in ECX.
pub const TSC_AUX: u32 = 0xc000_0103;
/// AMD's system configuration: memory-type details of the chipset, none of them offered.
pub const SYSTEM_CONFIGURATION: u32 = 0xc001_0010;
/// AMD's interrupt-pending message: the C1E state of family 0xf, not offered.
pub const INTERRUPT_PENDING: u32 = 0xc001_0055;
/// AMD's switches of secure virtual machines.
pub const VM_CONTROL: u32 = 0xc001_0114;
/// What it reads as where CPUID shows them: firmware has turned them off (SVMDIS) and locked that
/// (AMD APM volume 2, section 15.30.1).
pub const VM_CONTROL_VALUE: u64 = 1 << 3 | 1 << 4;
/// Where a secure virtual machine's host is saved.
pub const VM_HOST_SAVE: u32 = 0xc001_0117;
