//! A vCPU's whole state, read from KVM and brought back into it.

use cpu::{Activity, CpuState, InterruptShadow, msr};
use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED, kvm_mp_state, kvm_xcr, kvm_xcrs,
};

use crate::{KvmError, KvmVcpu, events, host_tsc, msrs, registers, tsc};

/// Parts of a state that KVM has no place for. They go back as they came for as long as the guest
/// cannot have changed them.
#[derive(Clone, Debug)]
pub(crate) struct Retained {
    /// There is no system-management mode to change it in.
    smbase: u32,
    /// The x87 pointers and their selectors, which a 64-bit XSAVE area leaves out: good as long as
    /// opcode and addresses are the same.
    pointers: Pointers,
    /// Registers that the model does not offer to the guest.
    tsc_aux: u64,
    tsc_adjust: u64,
    mcg_control: u64,
    /// Of a timer that takes its deadline only once it is in that mode.
    pub(crate) tsc_deadline: u64,
    /// AMD's processors do not tell the kinds apart.
    shadow: InterruptShadow,
    /// This vCPU's TSC less the machine's.
    tsc_offset: u64,
    /// KVM's offset that stands for it, once it was set.
    kvm_tsc_offset: Option<u64>,
    /// Where KVM keeps no XCR0.
    xcr0: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pointers {
    opcode: u16,
    instruction: u64,
    instruction_selector: u16,
    operand: u64,
    operand_selector: u16,
}

impl Retained {
    pub(crate) fn of(state: &CpuState, tsc: u64) -> Self {
        Self {
            smbase: state.smbase,
            pointers: Pointers {
                opcode: state.x87.last_opcode,
                instruction: state.x87.last_instruction,
                instruction_selector: state.x87.last_instruction_selector,
                operand: state.x87.last_operand,
                operand_selector: state.x87.last_operand_selector,
            },
            tsc_aux: state.msrs.tsc_aux,
            tsc_adjust: state.msrs.tsc_adjust,
            mcg_control: state.msrs.mcg_control,
            tsc_deadline: state.msrs.tsc_deadline,
            shadow: state.interrupt_shadow,
            tsc_offset: state.tsc.wrapping_sub(tsc),
            kvm_tsc_offset: None,
            xcr0: state.xcr0,
        }
    }
}

impl KvmVcpu {
    /// Reads the whole state. `tsc` is the machine's counter.
    pub(crate) fn read_state(&self, tsc: u64) -> Result<CpuState, KvmError> {
        // The order matters: KVM works off INIT and SIPI when it is asked for the MP state, and
        // without payloads it moves a fault's address to CR2 when it is asked for the events.
        let activity = self.read_activity()?;
        let events = self.fd.get_vcpu_events().map_err(KvmError::call("KVM_GET_VCPU_EVENTS"))?;
        let regs = self.fd.get_regs().map_err(KvmError::call("KVM_GET_REGS"))?;
        let sregs = self.fd.get_sregs().map_err(KvmError::call("KVM_GET_SREGS"))?;
        let debug = self.fd.get_debug_regs().map_err(KvmError::call("KVM_GET_DEBUGREGS"))?;
        let area = self.layout.read(&self.fd)?;

        // Every field is filled in below; those that are not are not KVM's to fill.
        let mut state = CpuState::at_reset(self.model, self.topology.apic_id);
        state.general = registers::general_from(&regs);
        state.rip = regs.rip;
        state.rflags = regs.rflags;
        registers::special_from(&sregs, &mut state);
        registers::debug_from(&debug, &mut state);
        self.layout.decode(&area, &mut state);
        self.restore_pointers(&mut state);
        state.xcr0 = self.read_xcr0()?;
        msrs::get_all(&self.fd, self.offered, &mut state)?;
        state.msrs.mcg_capabilities = msrs::read(&self.fd, msr::MCG_CAP)?;
        if !self.offered.tsc_aux {
            state.msrs.tsc_aux = self.retained.tsc_aux;
        }
        if !self.offered.tsc_adjust {
            state.msrs.tsc_adjust = self.retained.tsc_adjust;
        }
        if state.msrs.mcg_capabilities & 1 << 8 == 0 {
            state.msrs.mcg_control = self.retained.mcg_control;
        }
        state.msrs.tsc_deadline = if self.offered.tsc_deadline {
            msrs::deadline(&self.fd)?
        } else {
            self.retained.tsc_deadline
        };
        state.tsc = tsc.wrapping_add(self.tsc_offset()?);
        state.smbase = self.retained.smbase;
        state.activity = activity;
        events::from(&events, self.retained.shadow, &mut state);
        Ok(state)
    }

    fn restore_pointers(&self, state: &mut CpuState) {
        let Pointers { opcode, instruction, instruction_selector, operand, operand_selector } =
            self.retained.pointers;
        let x87 = &mut state.x87;
        if (x87.last_opcode, x87.last_instruction, x87.last_operand)
            == (opcode, instruction, operand)
        {
            x87.last_instruction_selector = instruction_selector;
            x87.last_operand_selector = operand_selector;
        }
    }

    fn read_activity(&self) -> Result<Activity, KvmError> {
        let state = self.fd.get_mp_state().map_err(KvmError::call("KVM_GET_MP_STATE"))?;
        if self.shutdown {
            return Ok(Activity::Shutdown);
        }
        match state.mp_state {
            KVM_MP_STATE_RUNNABLE | KVM_MP_STATE_SIPI_RECEIVED => Ok(Activity::Running),
            KVM_MP_STATE_HALTED => Ok(Activity::Halted),
            KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => Ok(Activity::WaitForStartup),
            other => Err(KvmError::State(format!("KVM's MP state {other} has no name"))),
        }
    }

    fn read_xcr0(&self) -> Result<u64, KvmError> {
        if !self.shared.capabilities.xcrs {
            return Ok(self.retained.xcr0);
        }
        let xcrs = self.fd.get_xcrs().map_err(KvmError::call("KVM_GET_XCRS"))?;
        let count = (xcrs.nr_xcrs as usize).min(xcrs.xcrs.len());
        let found = xcrs.xcrs[..count].iter().find(|xcr| xcr.xcr == 0);
        Ok(found.map_or(1, |xcr| xcr.value))
    }

    /// This vCPU's TSC less the machine's: what was set, and what the guest has added by writing
    /// to its TSC, where the host lets it.
    fn tsc_offset(&self) -> Result<u64, KvmError> {
        let Some(set) = self.retained.kvm_tsc_offset else {
            return Ok(self.retained.tsc_offset);
        };
        let moved = tsc::offset(&self.fd)?.wrapping_sub(set);
        Ok(self.retained.tsc_offset.wrapping_add(moved))
    }

    /// Brings a state into KVM, in the order that `docs/kvm.md` gives reasons for, and holds what
    /// KVM then has against it, field by field.
    pub(crate) fn write_state(&mut self, state: &CpuState, tsc: u64) -> Result<(), KvmError> {
        self.stale = true;
        self.pending_io = false;
        self.retained = Retained::of(state, tsc);
        self.shutdown = state.activity == Activity::Shutdown;
        // An event of the state before must not meet the registers of this one.
        let quiet = CpuState::at_reset(self.model, self.topology.apic_id);
        self.write_events(&quiet)?;
        self.write_special(state)?;
        let regs = registers::general_to(state);
        self.fd.set_regs(&regs).map_err(KvmError::call("KVM_SET_REGS"))?;
        if self.shared.capabilities.xcrs {
            let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
            xcrs.xcrs[0] = kvm_xcr { xcr: 0, value: state.xcr0, ..kvm_xcr::default() };
            self.fd.set_xcrs(&xcrs).map_err(KvmError::call("KVM_SET_XCRS"))?;
        }
        let mut area = self.layout.read(&self.fd)?;
        self.layout.encode(state, &mut area)?;
        self.layout.write(&self.fd, &area)?;
        msrs::set_all(&self.fd, self.offered, state)?;
        self.start_tsc(tsc, host_tsc())?;
        if self.offered.tsc_deadline {
            msrs::set_deadline(&self.fd, state.msrs.tsc_deadline)?;
        }
        let debug = registers::debug_to(state);
        self.fd.set_debug_regs(&debug).map_err(KvmError::call("KVM_SET_DEBUGREGS"))?;
        let mp_state = match state.activity {
            Activity::Running | Activity::Shutdown => KVM_MP_STATE_RUNNABLE,
            Activity::Halted => KVM_MP_STATE_HALTED,
            Activity::WaitForStartup => KVM_MP_STATE_INIT_RECEIVED,
        };
        self.fd
            .set_mp_state(kvm_mp_state { mp_state })
            .map_err(KvmError::call("KVM_SET_MP_STATE"))?;
        self.write_events(state)?;
        self.check(state, tsc)
    }

    fn write_special(&self, state: &CpuState) -> Result<(), KvmError> {
        let now = self.fd.get_sregs().map_err(KvmError::call("KVM_GET_SREGS"))?;
        let sregs = registers::special_to(state, &now);
        self.fd.set_sregs(&sregs).map_err(KvmError::call("KVM_SET_SREGS"))
    }

    fn write_events(&self, state: &CpuState) -> Result<(), KvmError> {
        let events = events::to(state, self.shared.capabilities.exception_payload)?;
        self.fd.set_vcpu_events(&events).map_err(KvmError::call("KVM_SET_VCPU_EVENTS"))
    }

    /// Lets the TSC run from the machine's `tsc` at the instant when the host's stood at `host`.
    pub(crate) fn start_tsc(&mut self, tsc: u64, host: u64) -> Result<(), KvmError> {
        if !self.keeps_tsc {
            return Ok(());
        }
        // What the guest has written to its TSC since stays in force.
        let own = self.tsc_offset()?;
        let wanted = tsc.wrapping_add(own).wrapping_sub(self.frequency.scale(host));
        tsc::set_offset(&self.fd, wanted)?;
        self.retained.tsc_offset = own;
        self.retained.kvm_tsc_offset = Some(wanted);
        Ok(())
    }

    /// Compares what KVM has with what it was given.
    fn check(&self, state: &CpuState, tsc: u64) -> Result<(), KvmError> {
        let mut there = self.read_state(tsc)?;
        // It waits for the local APIC's mode.
        there.msrs.tsc_deadline = state.msrs.tsc_deadline;
        let differences = state.differences(&there);
        match differences.first() {
            None => Ok(()),
            Some(_) => Err(KvmError::State(format!(
                "KVM does not hold the state (wanted, held): {}",
                differences.join("; ")
            ))),
        }
    }
}
