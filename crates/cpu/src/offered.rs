//! Whether a CPU model offers what a state uses: how a state of another model is noticed.

use crate::{CpuModel, CpuState, Feature, feature_name, flags};

/// A bit of a control register, its name, and the feature by which CPUID offers it (leaf, register,
/// bit; Intel SDM volume 3, section 2.5; AMD APM volume 2, section 3.1).
type Offer = (u8, &'static str, (u32, u8, u8));

const EDX: u8 = 3;
const ECX: u8 = 2;
const EBX: u8 = 1;
const EXTENDED: u32 = 0x8000_0001;

const CR4: [Offer; 24] = [
    (0, "vme", (1, EDX, 1)),
    (1, "pvi", (1, EDX, 1)),
    (2, "tsd", (1, EDX, 4)),
    (3, "de", (1, EDX, 2)),
    (4, "pse", (1, EDX, 3)),
    (5, "pae", (1, EDX, 6)),
    (6, "mce", (1, EDX, 7)),
    (7, "pge", (1, EDX, 13)),
    // RDPMC has no bit of its own: whoever has RDMSR has it.
    (8, "pce", (1, EDX, 5)),
    (9, "osfxsr", (1, EDX, 24)),
    (10, "osxmmexcpt", (1, EDX, 25)),
    (11, "umip", (7, ECX, 2)),
    (12, "la57", (7, ECX, 16)),
    (13, "vmxe", (1, ECX, 5)),
    (14, "smxe", (1, ECX, 6)),
    (16, "fsgsbase", (7, EBX, 0)),
    (17, "pcide", (1, ECX, 17)),
    (18, "osxsave", (1, ECX, 26)),
    (19, "kl", (7, ECX, 23)),
    (20, "smep", (7, EBX, 7)),
    (21, "smap", (7, EBX, 20)),
    (22, "pke", (7, ECX, 3)),
    (23, "cet", (7, ECX, 7)),
    (24, "pks", (7, ECX, 31)),
];
const EFER: [Offer; 6] = [
    (0, "sce", (EXTENDED, EDX, 11)),
    (8, "lme", (EXTENDED, EDX, 29)),
    (10, "lma", (EXTENDED, EDX, 29)),
    (11, "nxe", (EXTENDED, EDX, 20)),
    (14, "ffxsr", (EXTENDED, EDX, 25)),
    (15, "tce", (EXTENDED, ECX, 17)),
];
const XSAVE: (u32, u8, u8) = (1, ECX, 26);
const RDTSCP: (u32, u8, u8) = (EXTENDED, EDX, 27);
const RDPID: (u32, u8, u8) = (7, ECX, 22);
const TSC_ADJUST: (u32, u8, u8) = (7, EBX, 1);
const TSC_DEADLINE: (u32, u8, u8) = (1, ECX, 24);

impl CpuModel {
    fn offers(&self, (leaf, register, bit): (u32, u8, u8)) -> bool {
        self.has(&Feature { name: "", leaf, register, bit })
    }

    fn offered(&self, table: &[Offer]) -> u64 {
        let offered = table.iter().filter(|(_, _, feature)| self.offers(*feature));
        offered.fold(0, |bits, (bit, ..)| bits | 1 << bit)
    }

    /// The bits of CR4 that the model has.
    pub fn cr4_bits(&self) -> u64 {
        self.offered(&CR4)
    }

    /// The bits of EFER that the model has. Never SVME: nobody here nests, and where CPUID shows
    /// SVM, firmware has turned it off ([`crate::msr::VM_CONTROL_VALUE`]).
    pub fn efer_bits(&self) -> u64 {
        self.offered(&EFER)
    }

    /// True if the model has the register that RDTSCP and RDPID read. QEMU lets every guest reach
    /// it.
    pub fn has_tsc_aux(&self) -> bool {
        self.offers(RDTSCP) || self.offers(RDPID) || self.ignores_unknown_msrs()
    }

    /// The bits of XCR0 that the model has (Intel SDM volume 1, section 13.3).
    fn xcr0_bits(&self) -> u64 {
        if !self.offers(XSAVE) {
            return 1;
        }
        let leaf = self.cpuid(0xd, 0, crate::Topology { apic_id: 0, count: 1 });
        u64::from(leaf.edx) << 32 | u64::from(leaf.eax)
    }
}

impl CpuState {
    /// Refuses what no vCPU of this model can be in, besides what [`Self::check`] refuses.
    ///
    /// # Errors
    /// A sentence that names the first thing that the model does not offer, and the model.
    pub fn check_model(&self, model: &CpuModel) -> Result<(), String> {
        let name = model.name();
        let bit = |register: &str, value: u64, offered: u64, table: &[Offer]| {
            let extra = value & !offered;
            if extra == 0 {
                return Ok(());
            }
            let number = extra.trailing_zeros();
            let known = table.iter().find(|(bit, ..)| u32::from(*bit) == number);
            Err(match known {
                Some((_, bit, (leaf, part, place))) => format!(
                    "{register}.{bit} is set, and cpu model {name} does not offer it (feature {})",
                    feature_name(*leaf, 0, *part, *place)
                ),
                None => format!("{register} bit {number} is set, and cpu model {name} has none"),
            })
        };
        if self.msrs.efer & flags::EFER_SVME != 0 {
            return Err(format!(
                "efer.svme is set: the guest uses SVM, which is not run for cpu model {name}"
            ));
        }
        bit("cr4", self.cr4, model.cr4_bits(), &CR4)?;
        bit("efer", self.msrs.efer, model.efer_bits(), &EFER)?;
        bit("xcr0", self.xcr0, model.xcr0_bits(), &[])?;
        let capabilities = model.machine_check_capabilities();
        if self.msrs.mcg_capabilities != capabilities {
            return Err(format!(
                "mcg_capabilities is {:#x}, and cpu model {name} has {capabilities:#x}",
                self.msrs.mcg_capabilities
            ));
        }
        let banks = self.msrs.machine_check_banks.len();
        if banks as u64 != capabilities & 0xff {
            return Err(format!(
                "there are {banks} machine-check banks, and cpu model {name} has {}",
                capabilities & 0xff
            ));
        }
        let registers = [
            ("tsc_aux", self.msrs.tsc_aux, model.has_tsc_aux()),
            ("tsc_adjust", self.msrs.tsc_adjust, model.offers(TSC_ADJUST)),
            ("tsc_deadline", self.msrs.tsc_deadline, model.offers(TSC_DEADLINE)),
        ];
        for (register, value, offered) in registers {
            if value != 0 && !offered {
                return Err(format!(
                    "{register} is {value:#x}, and cpu model {name} does not offer it"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> &'static CpuModel {
        CpuModel::find(name).unwrap()
    }

    #[test]
    fn each_bit_that_a_model_does_not_offer_is_refused_by_name() {
        type Change = fn(&mut CpuState);
        let cases: [(Change, &str); 11] = [
            (
                |state| state.cr4 |= 1 << 20,
                "cr4.smep is set, and cpu model qemu64 does not offer it (feature smep)",
            ),
            (
                |state| state.cr4 |= 1 << 18,
                "cr4.osxsave is set, and cpu model qemu64 does not offer it (feature xsave)",
            ),
            (
                |state| state.cr4 |= 1,
                "cr4.vme is set, and cpu model qemu64 does not offer it (feature vme)",
            ),
            (|state| state.cr4 |= 1 << 40, "cr4 bit 40 is set, and cpu model qemu64 has none"),
            (
                |state| state.msrs.efer |= 1 << 12,
                "efer.svme is set: the guest uses SVM, which is not run for cpu model qemu64",
            ),
            (
                |state| state.msrs.efer |= 1 << 14,
                "efer.ffxsr is set, and cpu model qemu64 does not offer it (feature fxsr_opt)",
            ),
            (|state| state.msrs.efer |= 1 << 1, "efer bit 1 is set, and cpu model qemu64 has none"),
            (|state| state.xcr0 |= 4, "xcr0 bit 2 is set, and cpu model qemu64 has none"),
            (
                |state| state.msrs.mcg_capabilities |= 1 << 24,
                "mcg_capabilities is 0x100010a, and cpu model qemu64 has 0x10a",
            ),
            (
                |state| state.msrs.machine_check_banks.truncate(9),
                "there are 9 machine-check banks, and cpu model qemu64 has 10",
            ),
            (
                |state| state.msrs.tsc_aux = 3,
                "tsc_aux is 0x3, and cpu model qemu64 does not offer it",
            ),
        ];
        for (change, expected) in cases {
            let mut state = CpuState::at_reset(model("qemu64"), 0);
            state.check_model(model("qemu64")).unwrap();
            change(&mut state);
            assert_eq!(state.check_model(model("qemu64")).unwrap_err(), expected);
        }
    }

    #[test]
    fn all_that_a_model_offers_is_taken() {
        for model in crate::MODELS.iter().chain(crate::QEMU_MODELS) {
            let mut state = CpuState::at_reset(model, 0);
            state.cr4 = model.cr4_bits();
            state.msrs.efer = model.efer_bits();
            state.check_model(model).unwrap();
        }
        assert_eq!(model("qemu64").cr4_bits(), 0x7fc);
        assert_eq!(model("qemu64").efer_bits(), 0xd01);
    }

    #[test]
    fn a_state_of_qemus_qemu64_is_not_one_of_ours() {
        let theirs = CpuModel::find_of_qemu("qemu64").unwrap();
        let state = CpuState::at_reset(theirs, 0);
        let error = state.check_model(model("qemu64")).unwrap_err();
        assert_eq!(error, "mcg_capabilities is 0x100010a, and cpu model qemu64 has 0x10a");
        let mut state = CpuState::at_reset(theirs, 0);
        state.msrs.tsc_aux = 1;
        state.check_model(theirs).unwrap();
        state.msrs.efer |= flags::EFER_SVME;
        let error = state.check_model(theirs).unwrap_err();
        assert!(error.starts_with("efer.svme is set"), "{error}");
    }
}
