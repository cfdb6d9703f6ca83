//! One VM of the host's KVM: its memory, its interrupt routes, its dirty log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cpu::{CpuModel, Topology};
use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DISABLE_QUIRKS2,
    KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_SPLIT_IRQCHIP,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_IRQ_ROUTING_MSI, KVM_MEM_LOG_DIRTY_PAGES,
    KVM_X86_QUIRK_LINT0_REENABLED, KvmIrqRouting, kvm_enable_cap, kvm_irq_routing_entry, kvm_msi,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VmFd};
use memory::GuestRam;

use crate::dirty::{DirtyLog, RING_BYTES};
use crate::{
    Capabilities, CpuidPolicy, DirtyLogKind, EventFd, KvmError, KvmVcpu, capabilities, cpuid, tsc,
};

/// Interrupt routes that the kernel keeps: two I/O APICs of 24 pins.
const ROUTES: u64 = 48;
/// Guest-physical address of the page and the three pages behind it that KVM may need for itself on
/// Intel's processors: no device and no RAM of any machine lies there.
const IDENTITY_MAP: u64 = 0xfeff_c000;
const TASK_STATE: usize = 0xfeff_d000;

/// The message that an interrupt line sends: the kernel watches the routes to know which ends of
/// interrupts the I/O APICs must hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiRoute {
    /// The line, below 48.
    pub gsi: u32,
    /// The message's address.
    pub address: u64,
    /// The message's data.
    pub data: u32,
}

/// One VM. Clones are handles on the same VM.
#[derive(Clone)]
pub struct KvmAccelerator {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) vm: VmFd,
    pub(crate) ram: GuestRam,
    pub(crate) capabilities: Capabilities,
    pub(crate) tsc: Mutex<tsc::Frequency>,
    log: Mutex<DirtyLog>,
    pub(crate) kvm: Kvm,
}

impl Shared {
    pub(crate) fn log(&self) -> MutexGuard<'_, DirtyLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tsc(&self) -> MutexGuard<'_, tsc::Frequency> {
        self.tsc.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn harvest(&self) -> Result<(), KvmError> {
        self.log().harvest(&self.vm, &self.ram)
    }

    #[expect(unsafe_code, reason = "gives the kernel a range of the process's memory")]
    fn set_slots(&self, flags: u32) -> Result<(), KvmError> {
        for (slot, region) in self.ram.regions().enumerate() {
            let slot = kvm_userspace_memory_region {
                slot: slot as u32,
                flags,
                guest_phys_addr: region.guest_start,
                memory_size: region.length,
                userspace_addr: region.host as u64,
            };
            // SAFETY: the range is a whole mapping of guest memory, which `self.ram` keeps alive
            // for as long as the VM; whoever shares it expects the guest's stores.
            unsafe { self.vm.set_user_memory_region(slot) }
                .map_err(KvmError::call("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }
}

impl KvmAccelerator {
    /// A VM with this RAM and no vCPU. The dirty log is off.
    ///
    /// # Errors
    /// If the host's KVM is not there or lacks what there is no substitute for.
    pub fn new(ram: GuestRam) -> Result<Self, KvmError> {
        let capabilities = Capabilities::read()?;
        let kind = if capabilities.manual_dirty_clear {
            DirtyLogKind::ClearBitmap
        } else {
            DirtyLogKind::Bitmap
        };
        Self::build(ram, kind, capabilities)
    }

    /// The same with a dirty log of this kind.
    ///
    /// # Errors
    /// As [`Self::new`], or if the host offers no log of the kind.
    pub fn new_with(ram: GuestRam, kind: DirtyLogKind) -> Result<Self, KvmError> {
        Self::build(ram, kind, Capabilities::read()?)
    }

    fn build(
        ram: GuestRam,
        kind: DirtyLogKind,
        capabilities: Capabilities,
    ) -> Result<Self, KvmError> {
        capabilities.require()?;
        let kvm = capabilities::open()?;
        let vm = kvm.create_vm().map_err(KvmError::call("KVM_CREATE_VM"))?;
        vm.set_identity_map_address(IDENTITY_MAP)
            .map_err(KvmError::call("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(TASK_STATE).map_err(KvmError::call("KVM_SET_TSS_ADDR"))?;
        enable(&vm, KVM_CAP_SPLIT_IRQCHIP, ROUTES)?;
        // LINT0 of a local APIC that was reset is masked, as the architecture has it.
        let quirk = KVM_X86_QUIRK_LINT0_REENABLED;
        if capabilities.quirks & quirk != 0 {
            enable(&vm, KVM_CAP_DISABLE_QUIRKS2, u64::from(quirk))?;
        }
        if capabilities.exception_payload {
            enable(&vm, KVM_CAP_EXCEPTION_PAYLOAD, 1)?;
        }
        match kind {
            DirtyLogKind::Bitmap => {}
            DirtyLogKind::ClearBitmap if capabilities.manual_dirty_clear => enable(
                &vm,
                KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                u64::from(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE),
            )?,
            DirtyLogKind::Ring if capabilities.dirty_ring_bytes >= RING_BYTES => {
                let bytes = u64::from(RING_BYTES);
                // Newer kernels know the ring by the name that promises more.
                enable(&vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, bytes)
                    .or_else(|_| enable(&vm, KVM_CAP_DIRTY_LOG_RING, bytes))?;
            }
            DirtyLogKind::ClearBitmap => return Err(KvmError::Missing("a log cleared by hand")),
            DirtyLogKind::Ring => return Err(KvmError::Missing("a dirty ring")),
        }
        let shared = Shared {
            vm,
            ram,
            tsc: Mutex::new(tsc::Frequency::host(capabilities.tsc_khz)),
            capabilities,
            log: Mutex::new(DirtyLog::new(kind)),
            kvm,
        };
        shared.set_slots(0)?;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What the host offers.
    pub fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    /// A vCPU in its reset state. Set the TSC's frequency first.
    ///
    /// # Errors
    /// Under [`CpuidPolicy::Exact`], if the guest would see another CPUID than the model's; or if
    /// the host makes no such vCPU.
    pub fn vcpu(
        &self,
        model: &'static CpuModel,
        topology: Topology,
        cpuid: CpuidPolicy,
    ) -> Result<KvmVcpu, KvmError> {
        KvmVcpu::new(Arc::clone(&self.shared), model, topology, cpuid)
    }

    /// What stands between this host and a CPU model: `feature X is missing`, `bit X cannot be
    /// masked`. Empty if the host can be the model exactly.
    ///
    /// # Errors
    /// If the host's KVM cannot be asked.
    pub fn missing_features(model: &CpuModel) -> Result<Vec<String>, KvmError> {
        cpuid::missing_features(model)
    }

    /// The frequency of the guest's TSC in kHz: the host's, unless another was set.
    pub fn tsc_khz(&self) -> u64 {
        self.shared.tsc().khz()
    }

    /// True if the guest's TSC can be given any frequency and any value.
    pub fn can_set_tsc(&self) -> bool {
        let capabilities = &self.shared.capabilities;
        capabilities.tsc_control && capabilities.tsc_offset && tsc::write_is_seen()
    }

    /// Sets the frequency of the TSC of every vCPU that is made from now on.
    ///
    /// # Errors
    /// If it is not the host's, and the host knows no other.
    pub fn set_tsc_khz(&self, khz: u64) -> Result<(), KvmError> {
        let capabilities = &self.shared.capabilities;
        let frequency = tsc::Frequency::new(khz, capabilities.tsc_khz, capabilities.vendor);
        if frequency.is_scaled() && !capabilities.tsc_control {
            return Err(KvmError::TscFrequency { wanted: khz, host: capabilities.tsc_khz });
        }
        *self.shared.tsc() = frequency;
        Ok(())
    }

    /// Sends a message-signalled interrupt. False if no local APIC took it.
    ///
    /// # Errors
    /// If the host refuses the message.
    pub fn send_message(&self, address: u64, data: u32) -> Result<bool, KvmError> {
        self.shared.send_message(address, data)
    }

    /// Tells the kernel what each interrupt line sends; the routes before are forgotten.
    ///
    /// # Errors
    /// If the host refuses a route.
    pub fn set_routes(&self, routes: &[MsiRoute]) -> Result<(), KvmError> {
        let entries: Vec<kvm_irq_routing_entry> = routes
            .iter()
            .map(|route| {
                let mut entry = kvm_irq_routing_entry {
                    gsi: route.gsi,
                    type_: KVM_IRQ_ROUTING_MSI,
                    ..kvm_irq_routing_entry::default()
                };
                entry.u.msi.address_lo = route.address as u32;
                entry.u.msi.address_hi = (route.address >> 32) as u32;
                entry.u.msi.data = route.data;
                entry
            })
            .collect();
        let routing = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| KvmError::State("there are too many interrupt routes".to_owned()))?;
        self.shared.vm.set_gsi_routing(&routing).map_err(KvmError::call("KVM_SET_GSI_ROUTING"))
    }

    /// Lets a file descriptor send what the line's route says.
    ///
    /// # Errors
    /// If the line has no route, or the descriptor is attached already.
    pub fn attach_irqfd(&self, fd: &EventFd, gsi: u32) -> Result<(), KvmError> {
        self.shared.vm.register_irqfd(fd, gsi).map_err(KvmError::call("KVM_IRQFD"))
    }

    /// Ends what [`Self::attach_irqfd`] began.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn detach_irqfd(&self, fd: &EventFd, gsi: u32) -> Result<(), KvmError> {
        self.shared.vm.unregister_irqfd(fd, gsi).map_err(KvmError::call("KVM_IRQFD"))
    }

    /// Lets the guest's 32-bit stores to a guest-physical address, of one value or of any, signal
    /// a file descriptor instead of ending the run.
    ///
    /// # Errors
    /// If something is attached there already.
    pub fn attach_ioevent(
        &self,
        fd: &EventFd,
        address: u64,
        value: Option<u32>,
    ) -> Result<(), KvmError> {
        let at = IoEventAddress::Mmio(address);
        match value {
            Some(value) => self.shared.vm.register_ioevent(fd, &at, value),
            None => self.shared.vm.register_ioevent(fd, &at, NoDatamatch),
        }
        .map_err(KvmError::call("KVM_IOEVENTFD"))
    }

    /// Ends what [`Self::attach_ioevent`] began.
    ///
    /// # Errors
    /// If nothing is attached there.
    pub fn detach_ioevent(
        &self,
        fd: &EventFd,
        address: u64,
        value: Option<u32>,
    ) -> Result<(), KvmError> {
        let at = IoEventAddress::Mmio(address);
        match value {
            Some(value) => self.shared.vm.unregister_ioevent(fd, &at, value),
            None => self.shared.vm.unregister_ioevent(fd, &at, NoDatamatch),
        }
        .map_err(KvmError::call("KVM_IOEVENTFD"))
    }

    /// Starts to log the guest's stores; pages stored to before are not in the log.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn start_dirty_log(&self) -> Result<(), KvmError> {
        let mut log = self.shared.log();
        if log.on {
            return Ok(());
        }
        log.collect(&self.shared.vm, None)?;
        self.shared.set_slots(KVM_MEM_LOG_DIRTY_PAGES)?;
        log.on = true;
        Ok(())
    }

    /// Stops to log. If the host refuses, the log goes on, which costs speed and no more.
    pub fn stop_dirty_log(&self) {
        let mut log = self.shared.log();
        if log.on && self.shared.set_slots(0).is_ok() {
            log.on = false;
        }
    }

    /// Marks every page that was logged since the last harvest in guest memory's own log, and logs
    /// it anew. A store that runs beside the harvest is in this log or in the next, and in what is
    /// read of the page after it either way. A harvest that must be complete is done while no vCPU
    /// runs.
    ///
    /// # Errors
    /// If the host refuses; the log is then incomplete.
    pub fn harvest(&self) -> Result<(), KvmError> {
        self.shared.harvest()
    }
}

impl Shared {
    pub(crate) fn send_message(&self, address: u64, data: u32) -> Result<bool, KvmError> {
        let message = kvm_msi {
            address_lo: address as u32,
            address_hi: (address >> 32) as u32,
            data,
            ..kvm_msi::default()
        };
        let taken = self.vm.signal_msi(message).map_err(KvmError::call("KVM_SIGNAL_MSI"))?;
        Ok(taken > 0)
    }
}

fn enable(vm: &VmFd, capability: u32, argument: u64) -> Result<(), KvmError> {
    let mut cap = kvm_enable_cap { cap: capability, ..kvm_enable_cap::default() };
    cap.args[0] = argument;
    vm.enable_cap(&cap).map_err(KvmError::call("KVM_ENABLE_CAP"))
}
