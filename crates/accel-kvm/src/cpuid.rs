//! A CPU model as KVM is told it, and what stands between a host and a model.

use cpu::{CpuModel, CpuidLeaf, Topology, feature_name};
use kvm_bindings::{
    CpuId, KVM_CAP_TSC_DEADLINE_TIMER, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES,
    kvm_cpuid_entry2,
};
use kvm_ioctls::{Kvm, VcpuFd};

use crate::{KvmError, calls, capabilities};

/// What to do where the host's KVM does not give the guest the model's CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuidPolicy {
    /// Refuse, feature by feature.
    Exact,
    /// Go on: the machine does not promise its CPU model.
    AsFarAsPossible,
}

const LEAF_1: u32 = 1;
const ECX: u8 = 2;
const EDX: u8 = 3;
const HYPERVISOR: u32 = 1 << 31;
const TSC_DEADLINE: u32 = 1 << 24;
/// Bits of leaf 1 EDX that AMD repeats in leaf 0x80000001 EDX (AMD APM volume 3, appendix D).
const AMD_ALIASES: u32 = 0x0183_f3ff;
/// The registers whose bits are features, by leaf and sub-leaf.
const FEATURE_WORDS: [(u32, u32, u8); 9] = [
    (LEAF_1, 0, ECX),
    (LEAF_1, 0, EDX),
    (7, 0, 1),
    (7, 0, ECX),
    (7, 0, EDX),
    (0xd, 1, 0),
    (0x8000_0001, 0, ECX),
    (0x8000_0001, 0, EDX),
    (0x8000_0008, 0, 1),
];

fn register(leaf: CpuidLeaf, number: u8) -> u32 {
    [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx][usize::from(number & 3)]
}

/// Bits that follow live state and say nothing about the model.
pub(crate) fn live_bits(function: u32, index: u32, number: u8) -> u32 {
    match (function, index, number) {
        // OSXSAVE, and MONITOR, which follows IA32_MISC_ENABLE.
        (LEAF_1, _, ECX) => 1 << 27 | 1 << 3,
        // The APIC's enable.
        (LEAF_1, _, EDX) => 1 << 9,
        // OSPKE.
        (7, 0, ECX) => 1 << 4,
        // Bytes of the components that are enabled.
        (0xd, 0 | 1, 1) => u32::MAX,
        _ => 0,
    }
}

/// The leaves of a model as KVM takes them.
pub(crate) fn entries(model: &CpuModel, topology: Topology) -> Result<CpuId, KvmError> {
    let entries: Vec<kvm_cpuid_entry2> = model
        .leaves(topology)
        .into_iter()
        .map(|listed| {
            let CpuidLeaf { eax, ebx, ecx, edx } = listed.leaf;
            kvm_cpuid_entry2 {
                function: listed.function,
                index: listed.index.unwrap_or(0),
                flags: listed.index.map_or(0, |_| KVM_CPUID_FLAG_SIGNIFCANT_INDEX),
                eax,
                ebx,
                ecx,
                edx,
                ..kvm_cpuid_entry2::default()
            }
        })
        .collect();
    CpuId::from_entries(&entries)
        .map_err(|_| KvmError::State("the model has too many CPUID leaves".to_owned()))
}

fn find(list: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<CpuidLeaf> {
    let significant = |entry: &kvm_cpuid_entry2| {
        entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX == 0 || entry.index == index
    };
    list.iter()
        .find(|entry| entry.function == function && significant(entry))
        .map(|entry| CpuidLeaf { eax: entry.eax, ebx: entry.ebx, ecx: entry.ecx, edx: entry.edx })
}

/// What the guest on this vCPU would see otherwise than the model says.
pub(crate) fn deviations(
    vcpu: &VcpuFd,
    model: &CpuModel,
    topology: Topology,
) -> Result<Vec<String>, KvmError> {
    let list = vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(KvmError::call("KVM_GET_CPUID2"))?;
    let list = list.as_slice();
    let mut reasons = Vec::new();
    let leaves = model.leaves(topology);
    for listed in &leaves {
        let index = listed.index.unwrap_or(0);
        let there = find(list, listed.function, index).unwrap_or_default();
        compare(listed.function, index, listed.leaf, there, &mut reasons);
    }
    for entry in list {
        let known = leaves.iter().any(|listed| {
            listed.function == entry.function && listed.index.is_none_or(|own| own == entry.index)
        });
        if !known {
            let leaf = CpuidLeaf { eax: entry.eax, ebx: entry.ebx, ecx: entry.ecx, edx: entry.edx };
            compare(entry.function, entry.index, CpuidLeaf::default(), leaf, &mut reasons);
        }
    }
    Ok(reasons)
}

fn compare(
    function: u32,
    index: u32,
    wanted: CpuidLeaf,
    there: CpuidLeaf,
    reasons: &mut Vec<String>,
) {
    for number in 0..4 {
        let ignored = live_bits(function, index, number);
        let wanted = register(wanted, number) & !ignored;
        let there = register(there, number) & !ignored;
        if wanted == there {
            continue;
        }
        if FEATURE_WORDS.contains(&(function, index, number)) {
            for bit in 0..32 {
                let name = feature_name(function, index, number, bit);
                match (wanted >> bit & 1, there >> bit & 1) {
                    (1, 0) => note(reasons, format!("feature {name} is missing")),
                    (0, 1) => note(reasons, format!("bit {name} cannot be masked")),
                    _ => {}
                }
            }
        } else {
            let name = ["eax", "ebx", "ecx", "edx"][usize::from(number)];
            let text =
                format!("cpuid {function:#x}.{index} {name} would be {there:#x}, not {wanted:#x}");
            note(reasons, text);
        }
    }
}

fn note(reasons: &mut Vec<String>, reason: String) {
    if !reasons.contains(&reason) {
        reasons.push(reason);
    }
}

/// What stands between this host and a model; see [`crate::KvmAccelerator::missing_features`].
pub(crate) fn missing_features(model: &CpuModel) -> Result<Vec<String>, KvmError> {
    let kvm = capabilities::open()?;
    let vm = kvm.create_vm().map_err(KvmError::call("KVM_CREATE_VM"))?;
    let vcpu = vm.create_vcpu(0).map_err(KvmError::call("KVM_CREATE_VCPU"))?;
    let mut reasons = unsupported(&kvm, &vcpu, model)?;
    reasons.extend(beyond_cpuid(model).into_iter().map(str::to_owned));
    let topology = Topology { apic_id: 0, count: 1 };
    let entries = entries(model, topology)?;
    vcpu.set_cpuid2(&entries).map_err(KvmError::call("KVM_SET_CPUID2"))?;
    for reason in deviations(&vcpu, model, topology)? {
        note(&mut reasons, reason);
    }
    Ok(reasons)
}

/// What of a model's promises KVM cannot keep on any host, however its CPUID looks.
fn beyond_cpuid(model: &CpuModel) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    if model.shows_svm() {
        reasons.push("svm cannot be shown and be turned off");
    }
    if model.ignores_unknown_msrs() {
        reasons.push("unknown model-specific registers raise #GP");
    }
    reasons
}

/// Tells a scratch vCPU these leaves and returns what its guest would see.
pub(crate) fn read_back(
    vcpu: &VcpuFd,
    entries: &[kvm_cpuid_entry2],
) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
    let told = CpuId::from_entries(entries)
        .map_err(|_| KvmError::State("there are too many CPUID leaves".to_owned()))?;
    vcpu.set_cpuid2(&told).map_err(KvmError::call("KVM_SET_CPUID2"))?;
    let list = vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(KvmError::call("KVM_GET_CPUID2"))?;
    Ok(list.as_slice().to_vec())
}

/// Features that the host's KVM does not say it can give, whatever it lets itself be told.
///
/// There are hosts that force the processor's own bits on a guest without saying that they support
/// them: a guest that is told of no feature at all shows which.
fn unsupported(kvm: &Kvm, vcpu: &VcpuFd, model: &CpuModel) -> Result<Vec<String>, KvmError> {
    let list = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(KvmError::call("KVM_GET_SUPPORTED_CPUID"))?;
    let list = list.as_slice();
    let mut featureless = list.to_vec();
    for entry in &mut featureless {
        for (function, index, number) in FEATURE_WORDS {
            if (entry.function, entry.index) == (function, index) {
                match number {
                    0 => entry.eax = 0,
                    1 => entry.ebx = 0,
                    2 => entry.ecx = 0,
                    _ => entry.edx = 0,
                }
            }
        }
    }
    let forced = read_back(vcpu, &featureless)?;
    let topology = Topology { apic_id: 0, count: 1 };
    let mut reasons = Vec::new();
    for (function, index, number) in FEATURE_WORDS {
        let wanted = register(model.cpuid(function, index, topology), number);
        let supported =
            |function| register(find(list, function, index).unwrap_or_default(), number);
        let mut offered = supported(function) | live_bits(function, index, number);
        offered |= register(find(&forced, function, index).unwrap_or_default(), number);
        match (function, number) {
            (LEAF_1, ECX) => {
                offered |= HYPERVISOR;
                if kvm.check_extension_raw(u64::from(KVM_CAP_TSC_DEADLINE_TIMER)) > 0 {
                    offered |= TSC_DEADLINE;
                }
            }
            // Intel's processors leave the repetition out; KVM gives it all the same.
            (0x8000_0001, EDX) => offered |= supported(LEAF_1) & AMD_ALIASES,
            _ => {}
        }
        for bit in (0..32).filter(|bit| wanted & !offered & 1 << bit != 0) {
            let name = feature_name(function, index, number, bit);
            note(&mut reasons, format!("feature {name} is missing"));
        }
    }
    let bits = find(list, 0x8000_0008, 0).unwrap_or_default().eax as u8;
    if bits < model.physical_bits() {
        reasons.push(format!(
            "physical addresses have {bits} bits instead of {}",
            model.physical_bits()
        ));
    }
    let lacks = model.machine_check_capabilities() & !calls::machine_check_capabilities(kvm)?;
    if lacks & !0xff != 0 {
        reasons.push(format!("machine-check capabilities {:#x} are missing", lacks & !0xff));
    }
    let (banks, wanted) =
        (calls::machine_check_banks(kvm), model.machine_check_capabilities() & 0xff);
    if banks < wanted {
        reasons.push(format!("there are {banks} machine-check banks instead of {wanted}"));
    }
    Ok(reasons)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidLeaf {
        CpuidLeaf { eax, ebx, ecx, edx }
    }

    #[test]
    fn what_differs_is_named_feature_by_feature() {
        let mut reasons = Vec::new();
        // The model has CX16 and SSE3; the host forces AES and lacks CX16. OSXSAVE does not count.
        compare(
            1,
            0,
            leaf(1, 0, 1 | 1 << 13, 0),
            leaf(1, 0, 1 | 1 << 25 | 1 << 27, 0),
            &mut reasons,
        );
        assert_eq!(reasons, ["feature cx16 is missing", "bit aes cannot be masked"]);
        reasons.clear();
        compare(4, 2, leaf(5, 0, 0, 0), leaf(6, 0, 0, 0), &mut reasons);
        assert_eq!(reasons, ["cpuid 0x4.2 eax would be 0x6, not 0x5"]);
        reasons.clear();
        compare(7, 0, leaf(0, 0, 0, 0), leaf(0, 1 << 6, 1 << 4, 0), &mut reasons);
        assert_eq!(reasons, ["bit fdp_excptn_only cannot be masked"]);
    }

    #[test]
    fn qemus_models_promise_what_kvm_does_not_keep() {
        assert!(beyond_cpuid(CpuModel::find("qemu64").unwrap()).is_empty());
        assert_eq!(
            beyond_cpuid(CpuModel::find_of_qemu("qemu64").unwrap()),
            ["svm cannot be shown and be turned off", "unknown model-specific registers raise #GP"]
        );
    }

    #[test]
    fn every_leaf_of_a_model_is_told() {
        let place = Topology { apic_id: 3, count: 4 };
        for model in cpu::MODELS {
            let list = entries(model, place).unwrap();
            let highest = |function| model.cpuid(function, 0, place).eax;
            let (basic, extended) = (0..=highest(0), 0x8000_0000..=highest(0x8000_0000));
            for function in basic.chain([0x4000_0000]).chain(extended) {
                for index in 0..2 {
                    let told = find(list.as_slice(), function, index);
                    assert_eq!(told, Some(model.cpuid(function, index, place)), "{function:#x}");
                }
            }
        }
    }
}
