//! What the host's KVM offers.

use std::fs;

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DISABLE_QUIRKS2,
    KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_IMMEDIATE_EXIT,
    KVM_CAP_IOEVENTFD, KVM_CAP_IRQFD, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_MAX_VCPUS,
    KVM_CAP_MCE, KVM_CAP_NESTED_STATE, KVM_CAP_NR_MEMSLOTS, KVM_CAP_SIGNAL_MSI,
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_TSC_CONTROL, KVM_CAP_X86_MSR_FILTER, KVM_CAP_XCRS,
    KVM_CAP_XSAVE, KVM_CAP_XSAVE2, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET,
};
use kvm_ioctls::Kvm;

use crate::{KvmError, calls};

/// What the host's KVM offers: read once, by asking, without running a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The API's version; 12 is the only one there has ever been.
    pub api_version: i32,
    /// Local APICs in the kernel with the other interrupt controllers outside.
    pub split_irqchip: bool,
    /// The dirty bitmap can be read and cleared in two steps.
    pub manual_dirty_clear: bool,
    /// The largest dirty ring of a vCPU in bytes; 0 if there are none.
    pub dirty_ring_bytes: u32,
    /// The guest's TSC can have another frequency than the host's.
    pub tsc_control: bool,
    /// The host's TSC frequency in kHz.
    pub tsc_khz: u64,
    /// A vCPU's TSC offset can be read and set.
    pub tsc_offset: bool,
    /// Bytes of an XSAVE area by KVM_GET_XSAVE2; 0 if only the older call is there.
    pub xsave2_bytes: u32,
    /// The extended state can be read and set.
    pub xsave: bool,
    /// XCR0 can be read and set.
    pub xcrs: bool,
    /// A guest's store can signal a file descriptor.
    pub ioeventfd: bool,
    /// A file descriptor can raise an interrupt.
    pub irqfd: bool,
    /// A message-signalled interrupt can be sent by hand.
    pub signal_msi: bool,
    /// KVM_RUN can be made to return before it enters the guest.
    pub immediate_exit: bool,
    /// A pending exception's payload is told apart from CR2 and DR6.
    pub exception_payload: bool,
    /// A guest can be kept from model-specific registers.
    pub msr_filter: bool,
    /// A guest can be kept from registers of KVM's own.
    pub pv_enforcement: bool,
    /// The quirks that can be switched off, as KVM's bits.
    pub quirks: u32,
    /// The state of nested guests can be saved.
    pub nested_state: bool,
    /// Machine-check banks of a vCPU.
    pub machine_check_banks: u32,
    /// The most vCPUs of a machine.
    pub max_vcpus: u32,
    /// The most memory slots of a machine.
    pub memory_slots: u32,
    /// What stands behind it: `vmx`, `svm`, or `pvm` where the processor offers neither.
    pub vendor: &'static str,
}

impl Capabilities {
    /// Asks the host.
    ///
    /// # Errors
    /// If `/dev/kvm` cannot be opened or makes no VM with a vCPU.
    pub fn read() -> Result<Self, KvmError> {
        let kvm = open()?;
        let vm = kvm.create_vm().map_err(KvmError::call("KVM_CREATE_VM"))?;
        let vcpu = vm.create_vcpu(0).map_err(KvmError::call("KVM_CREATE_VCPU"))?;
        let number = |capability: u32| {
            u32::try_from(vm.check_extension_raw(u64::from(capability))).unwrap_or(0)
        };
        let offered = |capability| number(capability) != 0;
        Ok(Self {
            api_version: kvm.get_api_version(),
            split_irqchip: offered(KVM_CAP_SPLIT_IRQCHIP),
            manual_dirty_clear: offered(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2),
            dirty_ring_bytes: number(KVM_CAP_DIRTY_LOG_RING)
                .max(number(KVM_CAP_DIRTY_LOG_RING_ACQ_REL)),
            tsc_control: offered(KVM_CAP_TSC_CONTROL),
            tsc_khz: u64::from(vcpu.get_tsc_khz().unwrap_or(0)),
            tsc_offset: calls::has_attribute(
                &vcpu,
                KVM_VCPU_TSC_CTRL,
                u64::from(KVM_VCPU_TSC_OFFSET),
            ),
            xsave2_bytes: number(KVM_CAP_XSAVE2),
            xsave: offered(KVM_CAP_XSAVE),
            xcrs: offered(KVM_CAP_XCRS),
            ioeventfd: offered(KVM_CAP_IOEVENTFD),
            irqfd: offered(KVM_CAP_IRQFD),
            signal_msi: offered(KVM_CAP_SIGNAL_MSI),
            immediate_exit: offered(KVM_CAP_IMMEDIATE_EXIT),
            exception_payload: offered(KVM_CAP_EXCEPTION_PAYLOAD),
            msr_filter: offered(KVM_CAP_X86_MSR_FILTER),
            pv_enforcement: offered(KVM_CAP_ENFORCE_PV_FEATURE_CPUID),
            quirks: number(KVM_CAP_DISABLE_QUIRKS2),
            nested_state: offered(KVM_CAP_NESTED_STATE),
            machine_check_banks: number(KVM_CAP_MCE),
            max_vcpus: number(KVM_CAP_MAX_VCPUS),
            memory_slots: number(KVM_CAP_NR_MEMSLOTS),
            vendor: vendor(),
        })
    }

    /// Refuses a host that lacks what there is no substitute for.
    pub(crate) fn require(&self) -> Result<(), KvmError> {
        let needs = [
            (self.api_version == 12, "version 12 of its API"),
            (self.split_irqchip, "local APICs without the other interrupt controllers"),
            (self.signal_msi, "message-signalled interrupts"),
            (self.immediate_exit, "an immediate exit"),
            (self.xsave, "the extended state"),
        ];
        match needs.iter().find(|(there, _)| !there) {
            Some((_, what)) => Err(KvmError::Missing(what)),
            None => Ok(()),
        }
    }
}

pub(crate) fn open() -> Result<Kvm, KvmError> {
    Kvm::new().map_err(|error| KvmError::Open(error.into()))
}

/// What the processor's flags say; a guess, good for a report and for nothing else.
fn vendor() -> &'static str {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |name| flags.split_whitespace().any(|flag| flag == name);
    if has("vmx") {
        "vmx"
    } else if has("svm") {
        "svm"
    } else {
        "pvm"
    }
}
