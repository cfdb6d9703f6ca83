//! The guest's processor as the architecture describes it: the state of a vCPU element by element,
//! the named CPU models with their CPUID leaves, and the traits by which an accelerator runs a
//! vCPU. It never executes an instruction and never opens a host interface; nothing here depends on
//! which accelerator runs the guest.

mod accelerator;
pub mod flags;
mod model;
pub mod msr;
mod reset;
mod state;

pub use accelerator::{AcceleratorError, Bus, Exit, GeneralProtection, Ran, Signal, Vcpu};
pub use model::{CpuModel, CpuidLeaf, Feature, MODELS, Topology};
pub use state::{
    Activity, CpuState, DescriptorTable, InterruptShadow, MachineCheckBank, Msrs, MtrrRange,
    PendingEvent, Segment, SseState, X87State,
};
