//! One vCPU: how it runs, and how it takes what reaches it from outside.

use std::sync::Arc;

use cpu::{AcceleratorError, Bus, CpuModel, CpuState, Exit, Ran, Signal, Topology, Vcpu};
use kvm_bindings::{
    KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, kvm_enable_cap,
    kvm_mp_state,
};
use kvm_ioctls::VcpuFd;

use crate::dirty::{RING_BYTES, Ring};
use crate::exits::{self, Handled};
use crate::extended::Layout;
use crate::kick::Kicker;
use crate::msrs::Offered;
use crate::state::Retained;
use crate::vm::Shared;
use crate::{CpuidPolicy, DirtyLogKind, KvmError, calls, cpuid, msrs, tsc};

/// Bytes of an instruction, at most.
const INSTRUCTION: usize = 15;
/// Data of a message that asks for INIT, level asserted, and for a start-up IPI.
const MESSAGE_INIT: u32 = 5 << 8 | 1 << 14;
const MESSAGE_STARTUP: u32 = 6 << 8 | 1 << 14;
/// Address of messages to a local APIC by its id.
const MESSAGE_ADDRESS: u64 = 0xfee0_0000;

/// One vCPU of a [`crate::KvmAccelerator`]. Any thread may have it, one at a time.
pub struct KvmVcpu {
    pub(crate) fd: VcpuFd,
    pub(crate) shared: Arc<Shared>,
    pub(crate) model: &'static CpuModel,
    pub(crate) topology: Topology,
    pub(crate) layout: Layout,
    pub(crate) offered: Offered,
    pub(crate) retained: Retained,
    pub(crate) frequency: tsc::Frequency,
    /// KVM's TSC is set and read; elsewhere the guest sees the host's.
    pub(crate) keeps_tsc: bool,
    /// A triple fault ended the vCPU.
    pub(crate) shutdown: bool,
    /// What the shared page says of interrupts is from before the state was set.
    pub(crate) stale: bool,
    /// The kernel has an instruction to finish.
    pub(crate) pending_io: bool,
    kicker: Kicker,
    /// A signal that could not be passed on: the next run fails for it.
    failed: Option<KvmError>,
}

impl KvmVcpu {
    pub(crate) fn new(
        shared: Arc<Shared>,
        model: &'static CpuModel,
        topology: Topology,
        policy: CpuidPolicy,
    ) -> Result<Self, KvmError> {
        let fd = shared
            .vm
            .create_vcpu(u64::from(topology.apic_id))
            .map_err(KvmError::call("KVM_CREATE_VCPU"))?;
        let entries = cpuid::entries(model, topology)?;
        fd.set_cpuid2(&entries).map_err(KvmError::call("KVM_SET_CPUID2"))?;
        if policy == CpuidPolicy::Exact {
            let reasons = cpuid::deviations(&fd, model, topology)?;
            if !reasons.is_empty() {
                return Err(KvmError::Model { model: model.name(), reasons });
            }
        }
        if shared.capabilities.pv_enforcement {
            let mut cap = kvm_enable_cap {
                cap: KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
                ..kvm_enable_cap::default()
            };
            cap.args[0] = 1;
            fd.enable_cap(&cap).map_err(KvmError::call("KVM_ENABLE_CAP"))?;
        }
        if shared.capabilities.msr_filter {
            msrs::confine(&shared.vm, model)?;
        }
        msrs::set_constants(&fd, model)?;
        calls::set_up_machine_check(&fd, model.machine_check_capabilities())?;
        let frequency = *shared.tsc();
        if frequency.is_scaled() {
            let khz = u32::try_from(frequency.khz()).unwrap_or(u32::MAX);
            fd.set_tsc_khz(khz).map_err(KvmError::call("KVM_SET_TSC_KHZ"))?;
        }
        if shared.log().kind == DirtyLogKind::Ring {
            let ring = Ring::of(&fd, RING_BYTES)?;
            shared.log().rings.push(ring);
        }
        let keeps_tsc = shared.capabilities.tsc_offset && tsc::write_is_seen();
        let reset = CpuState::at_reset(model, topology.apic_id);
        let mut vcpu = Self {
            fd,
            model,
            topology,
            layout: Layout::of(&shared.kvm, &shared.capabilities)?,
            offered: Offered::by(model),
            retained: Retained::of(&reset, 0),
            frequency,
            keeps_tsc,
            shutdown: false,
            stale: true,
            pending_io: false,
            kicker: Kicker::new()?,
            failed: None,
            shared,
        };
        vcpu.write_state(&reset, 0)?;
        vcpu.announce()?;
        Ok(vcpu)
    }

    /// Makes the kernel look at all local APICs anew: it finds the one of a vCPU that was just made
    /// by its id only from the next change of any of them on, and till then drops what is sent to
    /// it.
    fn announce(&self) -> Result<(), KvmError> {
        let page = self.fd.get_lapic().map_err(KvmError::call("KVM_GET_LAPIC"))?;
        self.fd.set_lapic(&page).map_err(KvmError::call("KVM_SET_LAPIC"))
    }

    /// Makes this vCPU leave the guest, from any thread.
    pub fn kicker(&self) -> Kicker {
        self.kicker.clone()
    }

    /// Lets this vCPU's TSC run on from what its state holds, where the host can set it: the
    /// machine's counter stood at `tsc` when the host's stood at `host_tsc`. Call it for every vCPU
    /// with one and the same pair when a paused machine goes on: all of them then agree to the
    /// tick. Elsewhere it does nothing.
    ///
    /// # Errors
    /// If the host does not take it.
    pub fn start_clock(&mut self, tsc: u64, host_tsc: u64) -> Result<(), AcceleratorError> {
        self.start_tsc(tsc, host_tsc).map_err(|error| self.refuse(&error))
    }

    /// A failure to read or to set a state.
    pub(crate) fn refuse(&self, error: &KvmError) -> AcceleratorError {
        AcceleratorError::State { vcpu: self.topology.apic_id, reason: error.sentence() }
    }

    /// A failure to go on, with the instruction at which it happened.
    fn stopped(&self, reason: &str) -> AcceleratorError {
        let vcpu = self.topology.apic_id;
        let Ok(regs) = self.fd.get_regs() else {
            return AcceleratorError::Run { vcpu, rip: 0, reason: reason.to_owned() };
        };
        let bytes = self.instruction_at(regs.rip);
        let text: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let reason = if text.is_empty() {
            reason.to_owned()
        } else {
            format!("{reason}: {}", text.join(" "))
        };
        AcceleratorError::Run { vcpu, rip: regs.rip, reason }
    }

    /// The bytes at the instruction pointer, as many as can be read.
    fn instruction_at(&self, rip: u64) -> Vec<u8> {
        (0..INSTRUCTION as u64).map_while(|offset| self.code_at(rip.wrapping_add(offset))).collect()
    }

    /// A byte of code, if it can be read.
    pub(crate) fn code_at(&self, rip: u64) -> Option<u8> {
        let base = self.fd.get_sregs().map_or(0, |sregs| sregs.cs.base);
        let translation = self.fd.translate_gva(base.wrapping_add(rip)).ok()?;
        let mut byte = [0];
        let readable = translation.valid != 0
            && self.shared.ram.read(translation.physical_address, &mut byte).is_ok();
        readable.then_some(byte[0])
    }

    fn run_loop(&mut self, bus: &mut dyn Bus) -> Result<(), AcceleratorError> {
        if let Some(error) = self.failed.take() {
            return Err(self.stopped(&error.sentence()));
        }
        loop {
            if self.shutdown {
                return Ok(());
            }
            let kicked = self.kicker.take();
            if kicked || bus.attention() {
                return self.finish_access(bus);
            }
            self.offer_interrupt(bus)?;
            self.enter(bus)?;
        }
    }

    /// One KVM_RUN. True if it ended with an exit, false if something interrupted it.
    pub(crate) fn enter(&mut self, bus: &mut dyn Bus) -> Result<bool, AcceleratorError> {
        self.stale = false;
        // The kernel takes the result of the access before on every entry.
        self.pending_io = false;
        match self.fd.run() {
            Ok(_) => {}
            Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => {
                self.fd.set_kvm_immediate_exit(0);
                return Ok(false);
            }
            Err(error) => return Err(self.stopped(&KvmError::call("KVM_RUN")(error).sentence())),
        }
        match exits::serve(&mut self.fd, bus) {
            Handled::Done => {}
            Handled::Access => self.pending_io = true,
            Handled::RingFull => {
                if let Err(error) = self.shared.harvest() {
                    return Err(self.stopped(&error.sentence()));
                }
            }
            Handled::Shutdown => self.shutdown = true,
            Handled::Failed(reason) => return Err(self.stopped(&reason)),
        }
        Ok(true)
    }

    /// Lets the kernel finish an instruction whose access was served, without entering the guest.
    /// An instruction of several accesses exits once for each.
    pub(crate) fn finish_access(&mut self, bus: &mut dyn Bus) -> Result<(), AcceleratorError> {
        while self.pending_io {
            self.fd.set_kvm_immediate_exit(1);
            self.enter(bus)?;
        }
        self.fd.set_kvm_immediate_exit(0);
        Ok(())
    }

    /// Gives the vCPU the interrupt of the 8259 pair if it can take one now; asks to be told when it
    /// can, if not.
    fn offer_interrupt(&mut self, bus: &mut dyn Bus) -> Result<(), AcceleratorError> {
        if !bus.interrupt_pending() {
            self.fd.get_kvm_run().request_interrupt_window = 0;
            return Ok(());
        }
        if self.stale {
            // An entry that ends at once brings the shared page up to date.
            self.fd.set_kvm_immediate_exit(1);
            self.enter(bus)?;
            self.fd.set_kvm_immediate_exit(0);
        }
        if self.takes_interrupt() {
            // The interrupt comes behind the instruction, which may say otherwise once it is over.
            self.finish_access(bus)?;
            if self.takes_interrupt()
                && !self.shutdown
                && let Some(vector) = bus.acknowledge_interrupt(0)
            {
                self.inject(vector).map_err(|error| self.stopped(&error.sentence()))?;
            }
        }
        let more = bus.interrupt_pending();
        self.fd.get_kvm_run().request_interrupt_window = u8::from(more);
        Ok(())
    }

    /// What the shared page says of the vCPU as it left the kernel.
    fn takes_interrupt(&mut self) -> bool {
        let run = self.fd.get_kvm_run();
        run.ready_for_interrupt_injection != 0 && run.if_flag != 0
    }

    /// Puts an external interrupt where the state has it: an interrupt that was acknowledged and
    /// waits for delivery. KVM_INTERRUPT would put it where nothing can read it back before it is
    /// delivered, and a vCPU that is stopped in between would lose it.
    fn inject(&mut self, vector: u8) -> Result<(), KvmError> {
        let mut events =
            self.fd.get_vcpu_events().map_err(KvmError::call("KVM_GET_VCPU_EVENTS"))?;
        events.flags = 0;
        events.interrupt.injected = 1;
        events.interrupt.nr = vector;
        events.interrupt.soft = 0;
        self.fd.set_vcpu_events(&events).map_err(KvmError::call("KVM_SET_VCPU_EVENTS"))?;
        // It wakes a vCPU from HLT, which KVM looks for among its own interrupts only.
        let state = self.fd.get_mp_state().map_err(KvmError::call("KVM_GET_MP_STATE"))?;
        if state.mp_state == KVM_MP_STATE_HALTED {
            self.fd
                .set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE })
                .map_err(KvmError::call("KVM_SET_MP_STATE"))?;
        }
        Ok(())
    }

    fn pass_on(&self, signal: Signal) -> Result<(), KvmError> {
        let address = MESSAGE_ADDRESS | u64::from(self.topology.apic_id) << 12;
        match signal {
            Signal::Nmi => self.fd.nmi().map_err(KvmError::call("KVM_NMI")),
            Signal::Init => self.shared.send_message(address, MESSAGE_INIT).map(drop),
            Signal::Startup(vector) => {
                let data = MESSAGE_STARTUP | u32::from(vector);
                self.shared.send_message(address, data).map(drop)
            }
        }
    }
}

impl Vcpu for KvmVcpu {
    /// The budget is not KVM's to keep: the vCPU runs until something ends the run.
    fn run(&mut self, bus: &mut dyn Bus, _: u64) -> Result<Ran, AcceleratorError> {
        let byte = &raw mut self.fd.get_kvm_run().immediate_exit;
        let entered = self.kicker.enter(byte);
        let result = self.run_loop(bus);
        drop(entered);
        result?;
        self.deliver_unseen(bus)?;
        // What an access asked for in the end counts more than a kick.
        let exit = match (self.shutdown, bus.attention()) {
            (true, _) => Exit::Shutdown,
            (false, true) => Exit::Attention,
            (false, false) => Exit::Budget,
        };
        Ok(Ran { exit, instructions: 0 })
    }

    fn state(&self, tsc: u64) -> Result<CpuState, AcceleratorError> {
        self.read_state(tsc).map_err(|error| self.refuse(&error))
    }

    fn set_state(&mut self, state: &CpuState, tsc: u64) -> Result<(), AcceleratorError> {
        if let Err(invalid) = state.check() {
            return Err(self.refuse(&KvmError::State(invalid.to_string())));
        }
        let before = self.state(tsc)?;
        if let Err(error) = self.write_state(state, tsc) {
            // What was there before was KVM's own, so it takes it back.
            let refusal = self.refuse(&error);
            self.write_state(&before, tsc).map_err(|error| self.refuse(&error))?;
            return Err(refusal);
        }
        Ok(())
    }

    fn signal(&mut self, signal: Signal) {
        if let Err(error) = self.pass_on(signal) {
            self.failed = Some(error);
        }
    }

    /// HLT is the kernel's.
    fn is_idle(&self) -> bool {
        false
    }

    fn wakes(&self, _: bool) -> bool {
        false
    }

    /// The log itself protects the pages again.
    fn forget_dirty(&mut self) {}
}
