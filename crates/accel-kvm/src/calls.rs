//! The calls that kvm-ioctls has no wrapper for (Linux, Documentation/virt/kvm/api.rst).

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_CAP_MCE, KVMIO, kvm_clear_dirty_log, kvm_device_attr, kvm_dirty_log, kvm_signal_mask,
    kvm_xsave,
};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::ioctl::{
    ioctl, ioctl_with_mut_ptr, ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref,
};
use vmm_sys_util::{ioctl_io_nr, ioctl_ior_nr, ioctl_iow_nr, ioctl_iowr_nr};

use crate::KvmError;

ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
ioctl_iow_nr!(KVM_X86_SETUP_MCE, KVMIO, 0x9c, u64);
ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, KVMIO, 0x8b, kvm_signal_mask);
ioctl_ior_nr!(KVM_X86_GET_MCE_CAP_SUPPORTED, KVMIO, 0x9d, u64);
ioctl_ior_nr!(KVM_GET_XSAVE, KVMIO, 0xa4, kvm_xsave);
ioctl_iow_nr!(KVM_SET_XSAVE, KVMIO, 0xa5, kvm_xsave);
ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);
ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);
ioctl_ior_nr!(KVM_GET_XSAVE2, KVMIO, 0xcf, kvm_xsave);
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);
ioctl_iow_nr!(KVM_HAS_DEVICE_ATTR, KVMIO, 0xe3, kvm_device_attr);

fn done(call: &'static str, result: libc::c_int) -> Result<(), KvmError> {
    if result < 0 { Err(KvmError::last(call)) } else { Ok(()) }
}

/// What machine-check features the host's KVM can give a guest; the number of banks is left out.
#[expect(unsafe_code, reason = "an ioctl on a raw pointer")]
pub(crate) fn machine_check_capabilities(kvm: &kvm_ioctls::Kvm) -> Result<u64, KvmError> {
    let mut value = 0u64;
    // SAFETY: the call writes eight bytes to the reference.
    let result = unsafe { ioctl_with_mut_ref(kvm, KVM_X86_GET_MCE_CAP_SUPPORTED(), &mut value) };
    done("KVM_X86_GET_MCE_CAP_SUPPORTED", result)?;
    Ok(value)
}

/// How many machine-check banks the host's KVM can give a vCPU.
pub(crate) fn machine_check_banks(kvm: &kvm_ioctls::Kvm) -> u64 {
    u64::try_from(kvm.check_extension_raw(u64::from(KVM_CAP_MCE))).unwrap_or(0)
}

/// Gives a vCPU its machine-check banks.
#[expect(unsafe_code, reason = "an ioctl on a raw pointer")]
pub(crate) fn set_up_machine_check(vcpu: &VcpuFd, capabilities: u64) -> Result<(), KvmError> {
    // SAFETY: the call reads eight bytes from the reference.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_X86_SETUP_MCE(), &capabilities) };
    done("KVM_X86_SETUP_MCE", result)
}

/// Reads the extended state into `words`, which has the size that the host needs.
#[expect(unsafe_code, reason = "an ioctl on a raw pointer")]
pub(crate) fn get_xsave(vcpu: &VcpuFd, words: &mut [u32], large: bool) -> Result<(), KvmError> {
    assert!(words.len() >= 1024, "an XSAVE area has at least a page");
    let number = if large { KVM_GET_XSAVE2() } else { KVM_GET_XSAVE() };
    // SAFETY: KVM_GET_XSAVE writes one page; KVM_GET_XSAVE2 writes as many bytes as
    // KVM_CAP_XSAVE2 says, which is how long the caller made the buffer.
    let result = unsafe { ioctl_with_mut_ptr(vcpu, number, words.as_mut_ptr()) };
    done("KVM_GET_XSAVE2", result)
}

/// Sets the extended state from `words`, which has the size that the host needs.
#[expect(unsafe_code, reason = "an ioctl on a raw pointer")]
pub(crate) fn set_xsave(vcpu: &VcpuFd, words: &[u32]) -> Result<(), KvmError> {
    assert!(words.len() >= 1024, "an XSAVE area has at least a page");
    // SAFETY: the call reads at most as many bytes as KVM_CAP_XSAVE2 says, which is how long the
    // caller made the buffer.
    let result = unsafe { ioctl_with_ptr(vcpu, KVM_SET_XSAVE(), words.as_ptr()) };
    done("KVM_SET_XSAVE", result)
}

/// Reads a 64-bit attribute of a vCPU.
#[expect(unsafe_code, reason = "an ioctl on a raw pointer")]
pub(crate) fn get_attribute(vcpu: &VcpuFd, group: u32, attr: u64) -> Result<u64, KvmError> {
    let mut value = 0u64;
    let attribute =
        kvm_device_attr { flags: 0, group, attr, addr: (&raw mut value) as usize as u64 };
    // SAFETY: the attribute is eight bytes long, and `value` outlives the call.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attribute) };
    done("KVM_GET_DEVICE_ATTR", result)?;
    Ok(value)
}

/// True if a vCPU has an attribute.
#[expect(unsafe_code, reason = "an ioctl on a raw pointer")]
pub(crate) fn has_attribute(vcpu: &VcpuFd, group: u32, attr: u64) -> bool {
    let attribute = kvm_device_attr { flags: 0, group, attr, addr: 0 };
    // SAFETY: the call reads the reference and nothing that it points to.
    unsafe { ioctl_with_ref(vcpu, KVM_HAS_DEVICE_ATTR(), &attribute) == 0 }
}

/// Sets a 64-bit attribute of a vCPU.
#[expect(unsafe_code, reason = "an ioctl on a raw pointer")]
pub(crate) fn set_attribute(
    vcpu: &VcpuFd,
    group: u32,
    attr: u64,
    value: u64,
) -> Result<(), KvmError> {
    let attribute =
        kvm_device_attr { flags: 0, group, attr, addr: (&raw const value) as usize as u64 };
    // SAFETY: the attribute is eight bytes long, and `value` outlives the call.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attribute) };
    done("KVM_SET_DEVICE_ATTR", result)
}

/// Reads a slot's dirty bitmap; without manual protection, also clears it. `words` has a bit for
/// each page of the slot.
#[expect(unsafe_code, reason = "an ioctl on a raw pointer")]
pub(crate) fn get_dirty_log(vm: &VmFd, slot: u32, words: &mut [u64]) -> Result<(), KvmError> {
    let mut log = kvm_dirty_log { slot, ..kvm_dirty_log::default() };
    log.__bindgen_anon_1.dirty_bitmap = words.as_mut_ptr().cast();
    // SAFETY: the call writes one bit for each page of the slot, rounded up to 64, which is how
    // long the caller made the buffer.
    let result = unsafe { ioctl_with_ref(vm, KVM_GET_DIRTY_LOG(), &log) };
    done("KVM_GET_DIRTY_LOG", result)
}

/// Clears and write-protects the pages that are set in `words`. `pages` is the slot's length.
#[expect(unsafe_code, reason = "an ioctl on a raw pointer")]
pub(crate) fn clear_dirty_log(
    vm: &VmFd,
    slot: u32,
    first_page: u64,
    pages: u32,
    words: &mut [u64],
) -> Result<(), KvmError> {
    let mut log = kvm_clear_dirty_log {
        slot,
        num_pages: pages,
        first_page,
        ..kvm_clear_dirty_log::default()
    };
    assert!(words.len() * 64 >= pages as usize, "one bit for each page");
    log.__bindgen_anon_1.dirty_bitmap = words.as_mut_ptr().cast();
    // SAFETY: the call reads one bit for each of the pages, and the buffer has as many.
    let result = unsafe { ioctl_with_mut_ref(vm, KVM_CLEAR_DIRTY_LOG(), &mut log) };
    done("KVM_CLEAR_DIRTY_LOG", result)
}

/// Protects again the pages whose ring entries were collected.
#[expect(unsafe_code, reason = "an ioctl")]
pub(crate) fn reset_dirty_rings(vm: &VmFd) -> Result<(), KvmError> {
    // SAFETY: the call takes no argument and touches only the kernel's and the rings' memory.
    let result = unsafe { ioctl(vm, KVM_RESET_DIRTY_RINGS()) };
    done("KVM_RESET_DIRTY_RINGS", result)
}

/// Maps `bytes` of a file descriptor at `offset`, shared.
#[expect(unsafe_code, reason = "a mapping of a device")]
pub(crate) fn map(file: &impl AsRawFd, bytes: usize, offset: u64) -> Result<*mut u8, KvmError> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let (flags, fd) = (libc::MAP_SHARED, file.as_raw_fd());
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let pointer = unsafe {
        libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, offset.cast_signed())
    };
    if pointer == libc::MAP_FAILED {
        let source = io::Error::last_os_error();
        return Err(KvmError::Call { call: "mmap of a dirty ring", source });
    }
    Ok(pointer.cast())
}

/// The signals that are blocked while a vCPU runs, as the kernel's 64 bits; `None`: the thread's.
#[expect(unsafe_code, reason = "an ioctl on a raw pointer")]
pub(crate) fn set_signal_mask(vcpu: &VcpuFd, mask: Option<u64>) -> Result<(), KvmError> {
    /// `kvm_signal_mask` with the kernel's set behind it.
    #[repr(C, packed)]
    struct Mask {
        bytes: u32,
        set: u64,
    }
    let result = match mask {
        Some(set) => {
            let mask = Mask { bytes: 8, set };
            // SAFETY: the call reads the length, and then as many bytes as it says.
            unsafe { ioctl_with_ptr(vcpu, KVM_SET_SIGNAL_MASK(), &raw const mask) }
        }
        // SAFETY: a null pointer stands for no mask.
        None => unsafe { ioctl_with_ptr(vcpu, KVM_SET_SIGNAL_MASK(), std::ptr::null::<Mask>()) },
    };
    done("KVM_SET_SIGNAL_MASK", result)
}

/// Sends this thread a signal.
#[expect(unsafe_code, reason = "a signal to this thread")]
pub(crate) fn raise(signal: libc::c_int) {
    // SAFETY: the thread is this one; the signal has a handler, and is blocked besides.
    unsafe { libc::pthread_kill(libc::pthread_self(), signal) };
}
