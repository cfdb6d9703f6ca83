//! Named CPU models: what CPUID says, the same whichever accelerator runs the guest.

mod named;

pub use named::{MODELS, QEMU_MODELS};

use crate::{Feature, msr};

/// The registers that CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidLeaf {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

const fn leaf(eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidLeaf {
    CpuidLeaf { eax, ebx, ecx, edx }
}

/// Where a vCPU stands among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// This vCPU's local APIC id.
    pub apic_id: u32,
    /// How many vCPUs there are. The model says how they are arranged.
    pub count: u32,
}

/// What several vCPUs are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrangement {
    /// Each is a package of its own.
    Packages,
    /// They are the cores of one package.
    Cores,
}

impl Arrangement {
    /// Cores of a package.
    fn cores(self, topology: Topology) -> u32 {
        match self {
            Self::Packages => 1,
            Self::Cores => topology.count.max(1),
        }
    }

    /// Bits of a local APIC id that tell the cores of a package apart.
    fn core_bits(self, topology: Topology) -> u32 {
        self.cores(topology).next_power_of_two().trailing_zeros()
    }

    /// Leaf 0xb: each core has one thread.
    fn leaf(self, index: u32, topology: Topology) -> CpuidLeaf {
        match index {
            0 => leaf(0, 1, 1 << 8, topology.apic_id),
            1 => leaf(self.core_bits(topology), self.cores(topology), 2 << 8 | 1, topology.apic_id),
            _ => leaf(0, 0, index & 0xff, topology.apic_id),
        }
    }
}

/// One leaf of a model that is given as a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedLeaf {
    /// The leaf.
    pub function: u32,
    /// The sub-leaf; `None` if the leaf has none.
    pub index: Option<u32>,
    /// What it says.
    pub leaf: CpuidLeaf,
}

/// A CPU model. What a name stands for never changes after its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuModel {
    name: &'static str,
    vendor: [u8; 12],
    brand: &'static str,
    signature: u32,
    features_edx: u32,
    features_ecx: u32,
    extended_edx: u32,
    extended_ecx: u32,
    physical_bits: u8,
    highest_leaf: u32,
    highest_extended: u32,
    machine_check: u64,
    microcode: u64,
    arrangement: Arrangement,
    ignores_unknown_msrs: bool,
    /// What CPUID says where it is not worked out from the fields above: a model of this host.
    listed: Option<&'static [ListedLeaf]>,
}

const HYPERVISOR: u8 = 31;
const HYPERVISOR_LEAF: u32 = 0x4000_0000;
/// Bits of leaf 1 EDX that AMD repeats in leaf 0x80000001 EDX (AMD APM volume 3, appendix D).
const AMD_ALIASES: u32 = 0x0183_f3ff;
/// Bit of leaf 1 EDX: the package has more than one logical processor.
const HTT: u32 = 1 << 28;
/// Bit of leaf 0x80000001 ECX of an AMD processor: they are cores, not threads.
const CMP_LEGACY: u32 = 1 << 1;
/// Bit of leaf 0x80000001 ECX: secure virtual machines.
const SVM: u32 = 1 << 2;

/// What a named model says of its hypervisor in leaf 0x40000000: part of the model, since guests
/// see it.
const HYPERVISOR_NAME: [u8; 12] = *b"TCGTCGTCGTCG";

impl CpuModel {
    /// The model of this name in a machine of Ferry's own.
    pub fn find(name: &str) -> Option<&'static Self> {
        MODELS.iter().find(|model| model.name == name)
    }

    /// The model of this name as QEMU's own machines have it.
    pub fn find_of_qemu(name: &str) -> Option<&'static Self> {
        QEMU_MODELS.iter().find(|model| model.name == name)
    }

    /// A model that says what a list says, such as one made from what a host offers. Leaves 1, 0xb
    /// and 0x1f are adjusted to the vCPU's place.
    pub fn from_list(
        name: &'static str,
        leaves: &'static [ListedLeaf],
        machine_check: u64,
    ) -> Self {
        let find = |function| find_listed(leaves, function, 0).unwrap_or_default();
        let (basic, extended) = (find(0), find(0x8000_0000));
        let mut vendor = [0; 12];
        for (part, word) in vendor.chunks_exact_mut(4).zip([basic.ebx, basic.edx, basic.ecx]) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        let physical_bits = match find(0x8000_0008).eax as u8 {
            0 => 36,
            bits => bits,
        };
        Self {
            name,
            vendor,
            brand: "",
            signature: find(1).eax,
            features_edx: find(1).edx,
            features_ecx: find(1).ecx,
            extended_edx: find(0x8000_0001).edx,
            extended_ecx: find(0x8000_0001).ecx,
            physical_bits,
            highest_leaf: basic.eax,
            highest_extended: extended.eax,
            machine_check,
            microcode: msr::MICROCODE_REVISION_OF_AMD,
            arrangement: Arrangement::Packages,
            ignores_unknown_msrs: false,
            listed: Some(leaves),
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Family, model and stepping as in leaf 1 EAX, and in EDX after reset.
    pub fn signature(&self) -> u32 {
        self.signature
    }

    /// Width of a guest-physical address in bits.
    pub fn physical_bits(&self) -> u8 {
        self.physical_bits
    }

    /// The machine-check capabilities register.
    pub fn machine_check_capabilities(&self) -> u64 {
        self.machine_check
    }

    /// What the register of the microcode's revision reads as.
    pub fn microcode_revision(&self) -> u64 {
        self.microcode
    }

    /// True if a model-specific register that is not known reads as zero and takes every value, as
    /// QEMU has it, instead of raising #GP.
    pub fn ignores_unknown_msrs(&self) -> bool {
        self.ignores_unknown_msrs
    }

    /// MSR_CORE_THREAD_COUNT: cores of the package in the upper half, threads in the lower.
    pub fn core_thread_count(&self, topology: Topology) -> u64 {
        let cores = u64::from(self.arrangement.cores(topology));
        cores << 16 | cores
    }

    /// True if CPUID shows SVM. It is turned off all the same ([`msr::VM_CONTROL_VALUE`]).
    pub fn shows_svm(&self) -> bool {
        self.extended_ecx & SVM != 0
    }

    /// True if the processor is one of Intel's.
    pub fn is_intel(&self) -> bool {
        self.vendor == named::INTEL
    }

    /// True if the model reports this feature.
    pub fn has(&self, feature: &Feature) -> bool {
        let leaf = self.cpuid(feature.leaf, 0, Topology { apic_id: 0, count: 1 });
        let register = [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx][usize::from(feature.register)];
        register & (1 << feature.bit) != 0
    }

    /// What CPUID returns for a leaf and sub-leaf. The bits that follow live state (OSXSAVE, the
    /// APIC enable) are the accelerator's to adjust.
    pub fn cpuid(&self, function: u32, index: u32, topology: Topology) -> CpuidLeaf {
        let mut function = function;
        // Leaves past the highest answer as the highest basic one does (Intel SDM volume 2, CPUID).
        if function & 0xf000_0000 == HYPERVISOR_LEAF {
            if self.listed.is_none() && function > HYPERVISOR_LEAF + 1 {
                function = self.highest_leaf;
            }
        } else if function >= 0x8000_0000 {
            if function > self.highest_extended {
                function = self.highest_leaf;
            }
        } else if function > self.highest_leaf {
            function = self.highest_leaf;
        }
        if let Some(leaves) = self.listed {
            return listed_leaf(leaves, function, index, topology);
        }
        let word = |text: &[u8; 12], range: std::ops::Range<usize>| {
            u32::from_le_bytes(text[range].try_into().expect("four bytes"))
        };
        let vendor = |range| word(&self.vendor, range);
        let hypervisor = |range| word(&HYPERVISOR_NAME, range);
        let cores = self.arrangement.cores(topology);
        match function {
            0 => leaf(self.highest_leaf, vendor(0..4), vendor(8..12), vendor(4..8)),
            1 => {
                // CLFLUSH line of 64 bytes.
                let mut ebx = topology.apic_id << 24 | 8 << 8;
                let mut edx = self.features_edx;
                if cores > 1 {
                    ebx |= cores << 16;
                    edx |= HTT;
                }
                leaf(self.signature, ebx, self.features_ecx | 1 << HYPERVISOR, edx)
            }
            2 if self.is_intel() => leaf(1, 0, 0x4d, 0x002c_307d),
            4 if self.is_intel() => self.cache_leaf(index, topology),
            5 => leaf(0, 0, 3, 0),
            0xb => self.arrangement.leaf(index, topology),
            HYPERVISOR_LEAF => {
                leaf(HYPERVISOR_LEAF + 1, hypervisor(0..4), hypervisor(4..8), hypervisor(8..12))
            }
            0x8000_0000 => leaf(self.highest_extended, vendor(0..4), vendor(8..12), vendor(4..8)),
            0x8000_0001 => {
                let (mut ecx, mut edx) = (self.extended_ecx, self.extended_edx);
                if !self.is_intel() {
                    edx |= self.features_edx & AMD_ALIASES;
                    if cores > 1 {
                        ecx |= CMP_LEGACY;
                    }
                }
                leaf(self.signature, 0, ecx, edx)
            }
            0x8000_0002..=0x8000_0004 => self.brand_leaf(function - 0x8000_0002),
            0x8000_0005 => leaf(0x01ff_01ff, 0x01ff_01ff, 0x4002_0140, 0x4002_0140),
            0x8000_0006 => leaf(0, 0x4200_4200, 0x0200_8140, 0x0080_8140),
            0x8000_0008 => {
                let ecx = self.arrangement.core_bits(topology) << 12 | (cores - 1);
                leaf(u32::from(self.physical_bits) | 48 << 8, 0, ecx, 0)
            }
            // Revision 1, sixteen address spaces, no extension.
            0x8000_000a if self.shows_svm() => leaf(1, 16, 0, 0),
            _ => CpuidLeaf::default(),
        }
    }

    /// Leaf 4 of an Intel processor: first-level caches of 32 KiB, a second level of 4 MiB, and a
    /// third of 16 MiB that the cores share (Intel SDM volume 2, CPUID).
    fn cache_leaf(&self, index: u32, topology: Topology) -> CpuidLeaf {
        let cores = (self.arrangement.cores(topology) - 1) << 26;
        let shared = ((1 << self.arrangement.core_bits(topology)) - 1) << 14;
        match index {
            0 => leaf(cores | 0x121, 0x01c0_003f, 0x3f, 1),
            1 => leaf(cores | 0x122, 0x01c0_003f, 0x3f, 1),
            2 => leaf(cores | 0x143, 0x03c0_003f, 0xfff, 1),
            3 => leaf(cores | shared | 0x163, 0x03c0_003f, 0x3fff, 6),
            _ => CpuidLeaf::default(),
        }
    }

    /// Every leaf and sub-leaf that the model has an answer of its own for, at this place: what an
    /// accelerator is told that answers CPUID by itself.
    pub fn leaves(&self, topology: Topology) -> Vec<ListedLeaf> {
        let entry = |function, index: Option<u32>| ListedLeaf {
            function,
            index,
            leaf: self.cpuid(function, index.unwrap_or(0), topology),
        };
        if let Some(leaves) = self.listed {
            return leaves.iter().map(|listed| entry(listed.function, listed.index)).collect();
        }
        let functions = (0..=self.highest_leaf)
            .chain(HYPERVISOR_LEAF..=HYPERVISOR_LEAF + 1)
            .chain(0x8000_0000..=self.highest_extended);
        functions
            .flat_map(|function| {
                let indices = match function {
                    4 if self.is_intel() => (0..5).map(Some).collect(),
                    0xb => (0..3).map(Some).collect(),
                    _ => vec![None],
                };
                indices.into_iter().map(move |index| entry(function, index))
            })
            .collect()
    }

    /// A hash of all that CPUID says and of the machine-check capabilities: two hosts whose models
    /// have the same fingerprint look the same to a guest.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.machine_check.to_be_bytes());
        for ListedLeaf { function, index, leaf } in self.leaves(Topology { apic_id: 0, count: 1 }) {
            let CpuidLeaf { eax, ebx, ecx, edx } = leaf;
            // A leaf without sub-leaves is told from one that has its first only.
            let kind = u32::from(index.is_some());
            for word in [function, kind, index.unwrap_or(0), eax, ebx, ecx, edx] {
                hasher.update(&word.to_be_bytes());
            }
        }
        *hasher.finalize().as_bytes()
    }

    fn brand_leaf(&self, part: u32) -> CpuidLeaf {
        let mut text = [0; 48];
        text[..self.brand.len()].copy_from_slice(self.brand.as_bytes());
        let word = |index: usize| {
            let start = part as usize * 16 + index * 4;
            u32::from_le_bytes(text[start..start + 4].try_into().expect("four bytes"))
        };
        leaf(word(0), word(1), word(2), word(3))
    }
}

fn find_listed(leaves: &[ListedLeaf], function: u32, index: u32) -> Option<CpuidLeaf> {
    leaves
        .iter()
        .find(|listed| listed.function == function && listed.index.is_none_or(|own| own == index))
        .map(|listed| listed.leaf)
}

fn listed_leaf(leaves: &[ListedLeaf], function: u32, index: u32, topology: Topology) -> CpuidLeaf {
    let found = find_listed(leaves, function, index);
    match function {
        1 => {
            let CpuidLeaf { eax, ebx, ecx, edx } = found.unwrap_or_default();
            leaf(eax, topology.apic_id << 24 | ebx & 0xff00, ecx, edx)
        }
        0xb | 0x1f => Arrangement::Packages.leaf(index, topology),
        _ => found.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Topology = Topology { apic_id: 0, count: 1 };

    #[test]
    fn qemu64_reports_what_the_field_knows_it_by() {
        let model = CpuModel::find("qemu64").unwrap();
        assert_eq!(model.cpuid(1, 0, ALONE).edx, 0x078b_fbfd);
        assert_eq!(model.cpuid(1, 0, ALONE).ecx, 0x8000_2001);
        assert_eq!(model.cpuid(0x8000_0001, 0, ALONE).edx, 0x2193_fbfd);
        let text: Vec<u8> = (0x8000_0002..=0x8000_0004)
            .flat_map(|function| {
                let leaf = model.cpuid(function, 0, ALONE);
                [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
            })
            .flat_map(u32::to_le_bytes)
            .collect();
        assert!(text.starts_with(b"QEMU Virtual CPU version 2.5+\0"));
        let vendor = model.cpuid(0, 0, ALONE);
        let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat();
        assert_eq!(name, b"AuthenticAMD");
    }

    #[test]
    fn qemus_models_are_cores_of_one_package() {
        let pair = Topology { apic_id: 1, count: 2 };
        let qemu64 = CpuModel::find_of_qemu("qemu64").unwrap();
        assert_eq!(qemu64.cpuid(1, 0, pair), leaf(0x60fb1, 0x0102_0800, 0x8000_2001, 0x178b_fbfd));
        assert_eq!(qemu64.cpuid(0xb, 1, pair), leaf(1, 2, 0x201, 1));
        assert_eq!(qemu64.cpuid(0x8000_0001, 0, pair).ecx, 7);
        assert_eq!(qemu64.cpuid(0x8000_0008, 0, pair).ecx, 0x1001);
        assert_eq!(qemu64.cpuid(0x8000_000a, 0, pair), leaf(1, 16, 0, 0));
        let nehalem = CpuModel::find_of_qemu("Nehalem").unwrap();
        assert_eq!(nehalem.cpuid(1, 0, ALONE), leaf(0x106a3, 0x800, 0x8098_2201, 0x078b_fbfd));
        assert_eq!(nehalem.cpuid(4, 3, pair), leaf(0x0400_4163, 0x03c0_003f, 0x3fff, 6));
        assert_eq!(nehalem.cpuid(0x8000_0001, 0, pair), leaf(0x106a3, 0, 1, 0x2010_0800));
        // In a machine of Ferry's own each is a package.
        let ours = CpuModel::find("Nehalem").unwrap();
        assert_eq!(ours.cpuid(4, 3, pair), leaf(0x163, 0x03c0_003f, 0x3fff, 6));
        assert_eq!(ours.cpuid(1, 0, pair).edx, 0x078b_fbfd);
    }

    #[test]
    fn leaves_past_the_end_answer_as_the_highest_basic_one() {
        let model = CpuModel::find("qemu64").unwrap();
        assert_eq!(model.cpuid(0x20, 0, ALONE), model.cpuid(0xd, 0, ALONE));
        assert_eq!(model.cpuid(0x8000_1000, 0, ALONE), model.cpuid(0xd, 0, ALONE));
        assert!(CpuModel::find("host").is_none());
    }
    #[test]
    fn a_listed_model_says_what_its_list_says() {
        let qemu64 = CpuModel::find("qemu64").unwrap();
        let list: &'static [ListedLeaf] = qemu64.leaves(ALONE).leak();
        let copy = CpuModel::from_list("copy", list, qemu64.machine_check_capabilities());
        let second = Topology { apic_id: 1, count: 2 };
        for function in (0..=0xd).chain([0x4000_0000]).chain(0x8000_0000..=0x8000_000a) {
            for index in 0..3 {
                let (one, other) =
                    (qemu64.cpuid(function, index, second), copy.cpuid(function, index, second));
                assert_eq!(one, other, "{function:#x}.{index}");
            }
        }
        assert_eq!(copy.fingerprint(), qemu64.fingerprint());
        let other = CpuModel::from_list("copy", list, 0);
        assert_ne!(other.fingerprint(), qemu64.fingerprint());
    }
}
