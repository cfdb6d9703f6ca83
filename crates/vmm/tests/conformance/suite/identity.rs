//! What `asm/identity.s` is to find: the leaves of the machine's CPU model.

use cpu::{CpuModel, Topology};
use machine::MachineConfig;

use super::layout;
use super::programs::Observations;

/// Leaves and sub-leaves, in the order of the table in the assembly.
const LEAVES: [(u32, u32); 27] = [
    (0, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (4, 1),
    (4, 2),
    (5, 0),
    (6, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 0),
    (11, 1),
    (11, 2),
    (12, 0),
    (0x4000_0000, 0),
    (0x4000_0001, 0),
    (0x8000_0000, 0),
    (0x8000_0002, 0),
    (0x8000_0003, 0),
    (0x8000_0004, 0),
    (0x8000_0005, 0),
    (0x8000_0006, 0),
    (0x8000_0007, 0),
    (0x8000_0008, 0),
    (0x8000_0009, 0),
    (0x8000_000a, 0),
];

const FEATURE_LEAVES: [(u32, u32); 11] = [
    (1, 0),
    (7, 0),
    (7, 1),
    (13, 0),
    (13, 1),
    (13, 2),
    (14, 0),
    (0x20, 0),
    (0x8000_0001, 0),
    (0x8000_000b, 0),
    (0x8000_1000, 0),
];

fn answers(leaves: &[(u32, u32)]) -> Observations {
    let config = MachineConfig::new("conformance", [3; 16], layout::MEMORY);
    let model = CpuModel::find(&config.cpus.model).expect("the default model");
    leaves
        .iter()
        .flat_map(|(function, index)| {
            let leaf = model.cpuid(*function, *index, Topology { apic_id: 0, count: 1 });
            let name = format!("leaf {function:#x}.{index}");
            [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx].map(|value| (name.clone(), u64::from(value)))
        })
        .collect()
}

/// The leaves that every KVM honours.
pub fn leaves() -> Observations {
    answers(&LEAVES)
}

/// The leaves that some force to the host's bits.
pub fn feature_leaves() -> Observations {
    answers(&FEATURE_LEAVES)
}
