//! The guest's processor as the architecture describes it: the state of a vCPU element by element,
//! the named CPU models with their CPUID leaves, and the traits by which an accelerator runs a
//! vCPU. It never executes an instruction and never opens a host interface; nothing here depends on
//! which accelerator runs the guest.

mod accelerator;
mod feature;
pub mod flags;
mod model;
pub mod msr;
mod offered;
mod reset;
mod state;

pub use accelerator::{AcceleratorError, Bus, Exit, GeneralProtection, Ran, Signal, Vcpu};
pub use feature::{FEATURES, Feature, feature_name};
pub use model::{CpuModel, CpuidLeaf, ListedLeaf, MODELS, QEMU_MODELS, Topology};
pub use state::{
    Activity, CpuState, DescriptorTable, InterruptShadow, MachineCheckBank, Msrs, MtrrRange,
    PendingEvent, Segment, SseState, X87State, XsaveComponent,
};
