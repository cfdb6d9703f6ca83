//! The hardware accelerator: a whole guest on the host's KVM, its state in the same neutral
//! elements as the software CPU's. The local APICs run in the kernel; every other device stays the
//! machine's own model, reached through [`cpu::Bus`]. It hands no structure of KVM's to anybody,
//! and never takes a state in silence that KVM does not hold exactly. What each field of a state is
//! kept in, and in which order a state is restored, is written down in `docs/kvm.md`.

#[doc(hidden)]
pub mod bare;
mod calls;
mod capabilities;
mod cpuid;
mod dirty;
mod error;
mod events;
mod exits;
mod extended;
mod host;
mod kick;
mod lapic;
mod msrs;
mod probe;
mod registers;
mod settle;
mod state;
mod tsc;
mod unseen;
mod vcpu;
mod vm;

pub use capabilities::Capabilities;
pub use cpuid::CpuidPolicy;
pub use dirty::DirtyLogKind;
pub use error::KvmError;
pub use host::host_model;
pub use kick::Kicker;
pub use lapic::ApicPage;
pub use probe::{Finding, Probe, Tier};
pub use settle::{PROMPT_NS, Reading};
pub use tsc::{host_tsc, host_tsc_in_order, write_is_seen as tsc_write_is_seen};
pub use vcpu::KvmVcpu;
pub use vm::{KvmAccelerator, MsiRoute};
pub use vmm_sys_util::eventfd::EventFd;
