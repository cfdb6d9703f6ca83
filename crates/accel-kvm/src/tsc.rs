//! The guest's time-stamp counter: its frequency, and the offset that makes it the machine's.

use std::sync::OnceLock;

use cpu::msr;
use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, Msrs, kvm_msr_entry, kvm_userspace_memory_region,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use memory::GuestRam;

use crate::{KvmError, calls, capabilities};

/// KVM takes a frequency this close to the host's, in millionths, for the host's own.
const TOLERANCE_PPM: u64 = 250;

/// The host's time-stamp counter now.
#[expect(unsafe_code, reason = "an instruction")]
pub fn host_tsc() -> u64 {
    // SAFETY: RDTSC is there on every x86-64 processor, and user mode may use it on every system
    // that has KVM.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The same, read after all that is before it in the program, and before all that is behind it
/// (Intel SDM volume 2, RDTSC).
#[expect(unsafe_code, reason = "instructions")]
pub fn host_tsc_in_order() -> u64 {
    // SAFETY: as above; LFENCE is part of SSE2, which every x86-64 processor has.
    unsafe {
        core::arch::x86_64::_mm_lfence();
        let ticks = core::arch::x86_64::_rdtsc();
        core::arch::x86_64::_mm_lfence();
        ticks
    }
}

/// How fast the guest's TSC runs, as KVM works it out (Linux, arch/x86/kvm/x86.c, `set_tsc_khz`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frequency {
    khz: u64,
    /// The guest's ticks for each of the host's, and how many of its bits are after the point.
    ratio: Option<(u64, u32)>,
}

impl Frequency {
    pub(crate) fn host(khz: u64) -> Self {
        Self { khz, ratio: None }
    }

    pub(crate) fn new(khz: u64, host: u64, vendor: &str) -> Self {
        if khz.abs_diff(host) <= host * TOLERANCE_PPM / 1_000_000 {
            return Self { khz, ratio: None };
        }
        let fraction = if vendor == "vmx" { 48 } else { 32 };
        let ratio = (u128::from(khz) << fraction) / u128::from(host.max(1));
        Self { khz, ratio: Some((u64::try_from(ratio).unwrap_or(u64::MAX), fraction)) }
    }

    pub(crate) fn khz(&self) -> u64 {
        self.khz
    }

    pub(crate) fn is_scaled(&self) -> bool {
        self.ratio.is_some()
    }

    /// The guest's ticks, without offset, when the host's counter stands at `host`.
    pub(crate) fn scale(&self, host: u64) -> u64 {
        match self.ratio {
            None => host,
            Some((ratio, fraction)) => ((u128::from(host) * u128::from(ratio)) >> fraction) as u64,
        }
    }
}

pub(crate) fn offset(vcpu: &VcpuFd) -> Result<u64, KvmError> {
    calls::get_attribute(vcpu, KVM_VCPU_TSC_CTRL, u64::from(KVM_VCPU_TSC_OFFSET))
}

pub(crate) fn set_offset(vcpu: &VcpuFd, value: u64) -> Result<(), KvmError> {
    calls::set_attribute(vcpu, KVM_VCPU_TSC_CTRL, u64::from(KVM_VCPU_TSC_OFFSET), value)
}

/// True if a guest's RDTSC shows what was written to its TSC: found once, by a guest of two
/// instructions.
pub fn write_is_seen() -> bool {
    static SEEN: OnceLock<bool> = OnceLock::new();
    *SEEN.get_or_init(|| matches!(try_write(), Ok(true)))
}

/// What the scratch guest's TSC is set to: no host has been up for so long.
const FAR: u64 = 1 << 60;

#[expect(unsafe_code, reason = "gives the kernel a range of the process's memory")]
fn try_write() -> Result<bool, KvmError> {
    let ram = GuestRam::new(0x1_0000)
        .map_err(|error| KvmError::State(format!("no memory for a scratch guest: {error}")))?;
    // rdtsc; hlt
    ram.write(0x1000, &[0x0f, 0x31, 0xf4]).map_err(|error| KvmError::State(error.to_string()))?;
    let kvm = capabilities::open()?;
    let vm = kvm.create_vm().map_err(KvmError::call("KVM_CREATE_VM"))?;
    for region in ram.regions() {
        let slot = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: region.guest_start,
            memory_size: region.length,
            userspace_addr: region.host as u64,
        };
        // SAFETY: the range is a mapping that outlives the VM, which is dropped before `ram`.
        unsafe { vm.set_user_memory_region(slot) }
            .map_err(KvmError::call("KVM_SET_USER_MEMORY_REGION"))?;
    }
    let mut vcpu = vm.create_vcpu(0).map_err(KvmError::call("KVM_CREATE_VCPU"))?;
    let mut sregs = vcpu.get_sregs().map_err(KvmError::call("KVM_GET_SREGS"))?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs).map_err(KvmError::call("KVM_SET_SREGS"))?;
    let mut regs = vcpu.get_regs().map_err(KvmError::call("KVM_GET_REGS"))?;
    regs.rip = 0x1000;
    vcpu.set_regs(&regs).map_err(KvmError::call("KVM_SET_REGS"))?;
    let far = kvm_msr_entry { index: msr::TSC, data: FAR, ..kvm_msr_entry::default() };
    let msrs = Msrs::from_entries(&[far])
        .map_err(|_| KvmError::State("one register is too many".to_owned()))?;
    vcpu.set_msrs(&msrs).map_err(KvmError::call("KVM_SET_MSRS"))?;
    // Without local APICs in the kernel, HLT ends the run.
    let exit = vcpu.run().map_err(KvmError::call("KVM_RUN"))?;
    if !matches!(exit, VcpuExit::Hlt) {
        return Ok(false);
    }
    let regs = vcpu.get_regs().map_err(KvmError::call("KVM_GET_REGS"))?;
    let seen = regs.rdx << 32 | regs.rax & 0xffff_ffff;
    Ok(seen.wrapping_sub(FAR) < 1 << 48)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frequency_near_the_hosts_is_the_hosts() {
        assert!(!Frequency::new(2_596_150, 2_596_150, "vmx").is_scaled());
        assert!(!Frequency::new(2_596_700, 2_596_150, "vmx").is_scaled());
        assert!(Frequency::new(2_597_000, 2_596_150, "vmx").is_scaled());
    }

    #[test]
    fn ticks_are_scaled_with_the_processors_precision() {
        for vendor in ["vmx", "svm"] {
            let half = Frequency::new(1_000_000, 2_000_000, vendor);
            assert_eq!(half.scale(u64::MAX), u64::MAX / 2);
            // One and a half, exactly; and a ratio that is cut off after 48 or 32 bits.
            assert_eq!(Frequency::new(3_000_000, 2_000_000, vendor).scale(1 << 40), 3 << 39);
            let third = Frequency::new(1_000_000, 3_000_000, vendor).scale(3 << 48);
            assert_eq!(third, (1 << 48) - if vendor == "vmx" { 1 } else { 1 << 16 });
        }
        assert_eq!(Frequency::host(5).scale(77), 77);
    }
}
