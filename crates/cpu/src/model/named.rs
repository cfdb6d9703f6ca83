//! The models that have a name of their own, as QEMU 7.2 reports them under software emulation:
//! every leaf was read from a guest of it.

use super::{Arrangement, CpuModel, SVM};
use crate::msr;

pub(super) const AMD: [u8; 12] = *b"AuthenticAMD";
pub(super) const INTEL: [u8; 12] = *b"GenuineIntel";

/// Software error recovery, of the machine-check capabilities (Intel SDM volume 3, section 16.3.1).
const RECOVERY: u64 = 1 << 24;

/// Every model of Ferry's own machines.
pub const MODELS: &[CpuModel] = &[QEMU64, NEHALEM];

/// Every model of the machines that are QEMU's, with all that QEMU's guests see: the vCPUs are the
/// cores of one package, and a model-specific register that is not known reads as zero.
pub const QEMU_MODELS: &[CpuModel] = &[
    as_in_qemu(CpuModel {
        extended_ecx: QEMU64.extended_ecx | SVM,
        machine_check: QEMU64.machine_check | RECOVERY,
        ..QEMU64
    }),
    as_in_qemu(NEHALEM),
];

const fn as_in_qemu(model: CpuModel) -> CpuModel {
    CpuModel { arrangement: Arrangement::Cores, ignores_unknown_msrs: true, ..model }
}

const fn bits(list: &[u8]) -> u32 {
    let mut value = 0;
    let mut index = 0;
    while index < list.len() {
        value |= 1 << list[index];
        index += 1;
    }
    value
}

/// Leaf 1 EDX of every model: FPU, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, MCA,
/// CMOV, PAT, PSE36, CLFLUSH, MMX, FXSR, SSE, SSE2.
const FEATURES_EDX: u32 =
    bits(&[0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26]);
/// Leaf 0x80000001 EDX of every model: SYSCALL, NX, LM.
const EXTENDED_EDX: u32 = bits(&[11, 20, 29]);

/// `qemu64` without SVM, which neither accelerator nests.
const QEMU64: CpuModel = CpuModel {
    name: "qemu64",
    vendor: AMD,
    brand: "QEMU Virtual CPU version 2.5+",
    // Family 15, model 107, stepping 1.
    signature: 0x0006_0fb1,
    features_edx: FEATURES_EDX,
    // SSE3, CX16.
    features_ecx: bits(&[0, 13]),
    extended_edx: EXTENDED_EDX,
    // LAHF in 64-bit mode.
    extended_ecx: bits(&[0]),
    physical_bits: 40,
    highest_leaf: 0xd,
    highest_extended: 0x8000_000a,
    // Ten banks, MCG_CTL present, software error recovery not offered.
    machine_check: 10 | 1 << 8,
    microcode: msr::MICROCODE_REVISION_OF_AMD,
    arrangement: Arrangement::Packages,
    ignores_unknown_msrs: false,
    listed: None,
};

/// `Nehalem`: what x86-64-v2 asks for, and little more.
const NEHALEM: CpuModel = CpuModel {
    name: "Nehalem",
    vendor: INTEL,
    brand: "Intel Core i7 9xx (Nehalem Core i7, IBRS update)",
    // Family 6, model 26, stepping 3.
    signature: 0x0001_06a3,
    features_edx: FEATURES_EDX,
    // SSE3, SSSE3, CX16, SSE4.1, SSE4.2, POPCNT.
    features_ecx: bits(&[0, 9, 13, 19, 20, 23]),
    extended_edx: EXTENDED_EDX,
    extended_ecx: bits(&[0]),
    physical_bits: 40,
    highest_leaf: 0xb,
    highest_extended: 0x8000_0008,
    machine_check: 10 | 1 << 8 | RECOVERY,
    microcode: msr::MICROCODE_REVISION_OF_INTEL,
    arrangement: Arrangement::Packages,
    ignores_unknown_msrs: false,
    listed: None,
};
