//! What the vCPUs of one machine share.

use std::sync::Arc;

use cpu::{CpuModel, Topology};
use memory::GuestRam;

use crate::code_cache::CodeCache;
use crate::core::Core;
use crate::run::SoftVcpu;

/// The software CPU of one machine: its RAM and the code decoded from it.
#[derive(Clone)]
pub struct SoftAccelerator {
    ram: GuestRam,
    code: Arc<CodeCache>,
}

impl SoftAccelerator {
    /// An accelerator for a machine with this RAM.
    pub fn new(ram: GuestRam) -> Self {
        let code = Arc::new(CodeCache::new(ram.pages()));
        Self { ram, code }
    }

    /// A vCPU in its reset state.
    pub fn vcpu(&self, model: &'static CpuModel, topology: Topology) -> SoftVcpu {
        SoftVcpu::new(Core::new(model, topology, self.ram.clone(), Arc::clone(&self.code)))
    }
}
