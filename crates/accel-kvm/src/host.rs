//! The CPU model `host`: what this host's KVM offers, less what a state could not carry.

use std::sync::OnceLock;

use cpu::{CpuModel, CpuidLeaf, ListedLeaf};
use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};

use crate::{KvmError, calls, capabilities, cpuid};

/// The model's name.
const NAME: &str = "host";
/// Machine-check banks of the model, and the register that enables their reports: ten, as most
/// hosts and other models have.
const MACHINE_CHECK: u64 = 10 | 1 << 8;

/// Features that come with registers or modes which the neutral state has no place for, by leaf,
/// sub-leaf, register and bits.
const NOT_CARRIED: [(u32, u32, u8, u32); 9] = [
    // MONITOR, VMX, SMX, PDCM, x2APIC, TSC deadline.
    (1, 0, 2, 1 << 3 | 1 << 5 | 1 << 6 | 1 << 15 | 1 << 21 | 1 << 24),
    // SGX, MPX, processor trace.
    (7, 0, 1, 1 << 2 | 1 << 14 | 1 << 25),
    // Protection keys of supervisor mode, WAITPKG, shadow stacks, key locker, bus-lock detection,
    // ENQCMD, SGX launch.
    (7, 0, 2, 1 << 5 | 1 << 7 | 1 << 23 | 1 << 24 | 1 << 29 | 1 << 30 | 1 << 31),
    // SGX keys, user interrupts, RTM control, architectural LBR, IBT, tiles, speculation controls.
    (
        7,
        0,
        3,
        1 << 1
            | 1 << 5
            | 1 << 11
            | 1 << 13
            | 1 << 19
            | 1 << 20
            | 1 << 22
            | 1 << 24
            | 1 << 25
            | 0xfc00_0000,
    ),
    // XSAVES and XFD.
    (0xd, 1, 0, 1 << 3 | 1 << 4),
    // SVM, IBS, SKINIT, watchdog, LWP, node id, performance counters, breakpoint extension, MONITORX.
    (
        0x8000_0001,
        0,
        2,
        1 << 2
            | 1 << 10
            | 1 << 12
            | 1 << 13
            | 1 << 15
            | 1 << 19
            | 1 << 23
            | 1 << 24
            | 1 << 26
            | 1 << 27
            | 1 << 28
            | 1 << 29,
    ),
    // RDPRU, speculation controls.
    (
        0x8000_0008,
        0,
        1,
        1 << 4 | 1 << 12 | 1 << 14 | 1 << 15 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 24 | 1 << 25,
    ),
    // Further features of leaf 7 come with registers of their own.
    (7, 1, 3, u32::MAX),
    (7, 2, 3, u32::MAX),
];

/// Leaves that say nothing here: performance counters, SGX, processor trace, tiles, nested paging
/// and what KVM says of itself.
fn left_out(function: u32) -> bool {
    matches!(
        function,
        0xa | 0x12 | 0x14 | 0x19 | 0x1c..=0x1e | 0x20..=0x24 | 0x8000_000a | 0x8000_001b..=0x8000_0022
    ) || function & 0xf000_0000 == 0x4000_0000
}

fn without(function: u32, index: u32, leaf: CpuidLeaf) -> CpuidLeaf {
    let mut words = [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx];
    for (of, at, register, bits) in NOT_CARRIED {
        if (of, at) == (function, index) {
            words[usize::from(register)] &= !bits;
        }
    }
    let [eax, ebx, mut ecx, edx] = words;
    if function == 1 {
        // The guest runs under a hypervisor.
        ecx |= 1 << 31;
    }
    CpuidLeaf { eax, ebx, ecx, edx }
}

fn leaf(entry: &kvm_cpuid_entry2) -> CpuidLeaf {
    CpuidLeaf { eax: entry.eax, ebx: entry.ebx, ecx: entry.ecx, edx: entry.edx }
}

/// A leaf without the bits that follow live state; the APIC is there.
fn still(entry: &kvm_cpuid_entry2) -> CpuidLeaf {
    let mut words = [entry.eax, entry.ebx, entry.ecx, entry.edx];
    for (number, word) in (0..).zip(&mut words) {
        let live = cpuid::live_bits(entry.function, entry.index, number);
        *word &= !live;
        if (entry.function, number) == (1, 3) {
            *word |= live;
        }
    }
    let [eax, ebx, ecx, edx] = words;
    CpuidLeaf { eax, ebx, ecx, edx }
}

/// The model of this host: what its KVM supports, without what a state could not carry to another
/// process. Two hosts have the same model if [`CpuModel::fingerprint`] says so.
///
/// # Errors
/// If the host's KVM cannot be asked.
pub fn host_model() -> Result<&'static CpuModel, KvmError> {
    static MODEL: OnceLock<CpuModel> = OnceLock::new();
    if let Some(model) = MODEL.get() {
        return Ok(model);
    }
    let kvm = capabilities::open()?;
    let list = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(KvmError::call("KVM_GET_SUPPORTED_CPUID"))?;
    let entries: Vec<kvm_cpuid_entry2> = list
        .as_slice()
        .iter()
        .filter(|entry| !left_out(entry.function))
        .map(|entry| {
            let CpuidLeaf { eax, ebx, ecx, edx } =
                without(entry.function, entry.index, leaf(entry));
            kvm_cpuid_entry2 { eax, ebx, ecx, edx, ..*entry }
        })
        .collect();
    // What a guest then sees counts: some hosts do not let their own bits be masked.
    let vm = kvm.create_vm().map_err(KvmError::call("KVM_CREATE_VM"))?;
    let vcpu = vm.create_vcpu(0).map_err(KvmError::call("KVM_CREATE_VCPU"))?;
    let leaves: Vec<ListedLeaf> = cpuid::read_back(&vcpu, &entries)?
        .iter()
        .map(|entry| {
            let indexed = entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
            let index = indexed.then_some(entry.index);
            ListedLeaf { function: entry.function, index, leaf: still(entry) }
        })
        .collect();
    let offered = calls::machine_check_capabilities(&kvm)?;
    let banks = calls::machine_check_banks(&kvm).min(MACHINE_CHECK & 0xff);
    let machine_check = banks | (offered & MACHINE_CHECK & !0xff);
    Ok(MODEL.get_or_init(|| CpuModel::from_list(NAME, leaves.leak(), machine_check)))
}
