//! The software CPU: an x86-64 interpreter that runs a whole guest where there is no KVM. Code is
//! decoded once into blocks of operations ready to run; guest memory is reached through a software
//! TLB of host pointers; flags are computed when somebody asks. It knows no device: everything
//! outside a vCPU is behind [`cpu::Bus`]. A later JIT takes the place of [`block::Handler`]s: it
//! has the same blocks as its input, the same core as its state.

mod accelerator;
mod access;
mod block;
mod code_cache;
mod core;
mod decode;
mod deliver;
mod descriptor;
mod extensions;
mod fault;
mod float;
mod lazy_flags;
mod lower;
mod ops;
mod paging;
mod run;
mod simd;
mod softfloat;
mod tlb;
mod vector;
mod width;
mod x87;

pub use accelerator::SoftAccelerator;
pub use run::SoftVcpu;
