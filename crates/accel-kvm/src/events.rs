//! Events on their way into the guest, between KVM's structure and the neutral state.

use cpu::{CpuState, InterruptShadow, PendingEvent};
use kvm_bindings::{
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_PAYLOAD, KVM_VCPUEVENT_VALID_SHADOW,
    KVM_X86_SHADOW_INT_MOV_SS, KVM_X86_SHADOW_INT_STI, kvm_vcpu_events,
};

use crate::KvmError;

const DEBUG: u8 = 1;
const PAGE_FAULT: u8 = 14;

/// Events as KVM takes them. An exception goes in as one that waits, with its payload, where KVM
/// tells the two apart.
pub(crate) fn to(state: &CpuState, payloads: bool) -> Result<kvm_vcpu_events, KvmError> {
    let mut events = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..kvm_vcpu_events::default()
    };
    let PendingEvent { present, vector, software, has_error_code, error_code, payload } =
        state.exception;
    if present {
        // KVM lets the instruction raise such an exception again instead.
        if software {
            return Err(KvmError::State("a software exception waits for delivery".to_owned()));
        }
        events.exception.nr = vector;
        events.exception.has_error_code = u8::from(has_error_code);
        events.exception.error_code = error_code;
        let loaded = vector == PAGE_FAULT || (vector == DEBUG && payload != 0);
        if payloads {
            events.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
            events.exception.pending = 1;
            events.exception_has_payload = u8::from(loaded);
            events.exception_payload = if loaded { payload } else { 0 };
        } else if loaded && vector == PAGE_FAULT && payload == state.cr2 {
            events.exception.injected = 1;
        } else if loaded {
            return Err(KvmError::State("an exception waits with a payload of its own".to_owned()));
        } else {
            events.exception.injected = 1;
        }
    }
    if state.interrupt.present {
        if state.interrupt.software {
            return Err(KvmError::State("a software interrupt waits for delivery".to_owned()));
        }
        events.interrupt.injected = 1;
        events.interrupt.nr = state.interrupt.vector;
    }
    events.interrupt.shadow = match state.interrupt_shadow {
        InterruptShadow::None => 0,
        InterruptShadow::Sti => KVM_X86_SHADOW_INT_STI as u8,
        InterruptShadow::MovSs => KVM_X86_SHADOW_INT_MOV_SS as u8,
    };
    events.nmi.pending = u8::from(state.nmi_pending);
    events.nmi.masked = u8::from(state.nmi_blocked);
    Ok(events)
}

/// Reads the events into a state whose control and debug registers are there already. `shadow` is
/// the kind to assume where the host does not tell the two apart.
pub(crate) fn from(events: &kvm_vcpu_events, shadow: InterruptShadow, state: &mut CpuState) {
    let exception = &events.exception;
    if exception.pending != 0 || exception.injected != 0 {
        let payload = if exception.pending != 0 && events.exception_has_payload != 0 {
            events.exception_payload
        } else if exception.nr == PAGE_FAULT {
            // It is in CR2 already.
            state.cr2
        } else {
            0
        };
        state.exception = PendingEvent {
            present: true,
            vector: exception.nr,
            software: false,
            has_error_code: exception.has_error_code != 0,
            error_code: if exception.has_error_code != 0 { exception.error_code } else { 0 },
            payload,
        };
    }
    if events.interrupt.injected != 0 {
        state.interrupt = PendingEvent {
            present: true,
            vector: events.interrupt.nr,
            software: events.interrupt.soft != 0,
            ..PendingEvent::default()
        };
    }
    let (sti, mov_ss) = (
        u32::from(events.interrupt.shadow) & KVM_X86_SHADOW_INT_STI != 0,
        u32::from(events.interrupt.shadow) & KVM_X86_SHADOW_INT_MOV_SS != 0,
    );
    state.interrupt_shadow = match (sti, mov_ss) {
        (false, false) => InterruptShadow::None,
        (true, false) => InterruptShadow::Sti,
        (false, true) => InterruptShadow::MovSs,
        // AMD's processors know one kind only.
        (true, true) if shadow == InterruptShadow::MovSs => InterruptShadow::MovSs,
        (true, true) => InterruptShadow::Sti,
    };
    // One in the middle of its delivery is delivered anew, whatever it has masked by then.
    let delivering = events.nmi.injected != 0;
    state.nmi_pending = events.nmi.pending != 0 || delivering;
    state.nmi_blocked = events.nmi.masked != 0 && !delivering;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle() -> CpuState {
        CpuState::at_reset(cpu::CpuModel::find("qemu64").unwrap(), 0)
    }

    #[test]
    fn an_exception_that_was_injected_has_its_address_in_cr2() {
        let mut events = kvm_vcpu_events::default();
        events.exception.injected = 1;
        events.exception.nr = PAGE_FAULT;
        events.exception.has_error_code = 1;
        events.exception.error_code = 6;
        let mut state = CpuState { cr2: 0x1234, ..idle() };
        from(&events, InterruptShadow::None, &mut state);
        let wanted = PendingEvent {
            present: true,
            vector: PAGE_FAULT,
            software: false,
            has_error_code: true,
            error_code: 6,
            payload: 0x1234,
        };
        assert_eq!(state.exception, wanted);
        // It goes in as one that waits, or as it was where KVM has no payloads.
        let waiting = to(&state, true).unwrap();
        assert_eq!((waiting.exception.pending, waiting.exception_payload), (1, 0x1234));
        let injected = to(&state, false).unwrap();
        assert_eq!((injected.exception.pending, injected.exception.injected), (0, 1));
        state.cr2 = 0;
        assert!(to(&state, false).is_err(), "nowhere to put the address");
    }

    #[test]
    fn an_nmi_in_the_middle_of_its_delivery_waits() {
        let mut events = kvm_vcpu_events::default();
        events.nmi.injected = 1;
        events.nmi.masked = 1;
        let mut state = idle();
        from(&events, InterruptShadow::None, &mut state);
        assert!(state.nmi_pending && !state.nmi_blocked);
    }

    #[test]
    fn a_shadow_of_no_kind_is_of_the_kind_that_was_set() {
        let mut events = kvm_vcpu_events::default();
        events.interrupt.shadow = (KVM_X86_SHADOW_INT_STI | KVM_X86_SHADOW_INT_MOV_SS) as u8;
        for (set, read) in [
            (InterruptShadow::None, InterruptShadow::Sti),
            (InterruptShadow::Sti, InterruptShadow::Sti),
            (InterruptShadow::MovSs, InterruptShadow::MovSs),
        ] {
            let mut state = idle();
            from(&events, set, &mut state);
            assert_eq!(state.interrupt_shadow, read);
        }
    }
}
