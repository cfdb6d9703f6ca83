//! The extensions of the instruction set that not every CPU model offers.

use cpu::{CpuModel, FEATURES};
use iced_x86::{CpuidFeature, Instruction};

/// Which of them a model offers: an instruction of any other raises #UD.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extensions {
    ssse3: bool,
    sse4_1: bool,
    sse4_2: bool,
    popcnt: bool,
    intel: bool,
}

impl Extensions {
    pub(crate) fn of(model: &CpuModel) -> Self {
        let has =
            |name: &str| FEATURES.iter().any(|feature| feature.name == name && model.has(feature));
        Self {
            ssse3: has("ssse3"),
            sse4_1: has("sse4_1"),
            sse4_2: has("sse4_2"),
            popcnt: has("popcnt"),
            intel: model.is_intel(),
        }
    }

    /// Whether the model offers what the instruction belongs to, as far as models differ in it.
    pub(crate) fn offer(&self, instruction: &Instruction) -> bool {
        instruction.cpuid_features().iter().all(|feature| match feature {
            CpuidFeature::SSSE3 => self.ssse3,
            CpuidFeature::SSE4_1 => self.sse4_1,
            CpuidFeature::SSE4_2 => self.sse4_2,
            CpuidFeature::POPCNT => self.popcnt,
            _ => true,
        })
    }

    /// Whether SYSENTER and SYSEXIT are there in long mode, as on Intel's processors alone.
    pub(crate) fn long_sysenter(&self) -> bool {
        self.intel
    }
}
