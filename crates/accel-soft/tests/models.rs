//! What a CPU model offers besides instructions: model-specific registers, and states that it
//! takes.

mod real_mode;

use cpu::{CpuModel, CpuState, Exit, Vcpu, msr};
use real_mode::{CODE, Nothing, guest, handler};

/// Writes a model-specific register in a guest, where a value is given, and then reads it; `None`
/// if it raised #GP.
fn access(model: &'static CpuModel, number: u32, write: Option<u64>) -> Option<u64> {
    let mut code = Vec::new();
    // mov ecx, number
    code.extend([0x66, 0xb9]);
    code.extend(number.to_le_bytes());
    if write.is_some() {
        // wrmsr
        code.extend([0x0f, 0x30]);
    }
    // rdmsr; hlt
    code.extend([0x0f, 0x32, 0xf4]);
    let (mut vcpu, _, mut state) = guest(model, &code);
    let value = write.unwrap_or(0);
    (state.general[0], state.general[2]) = (value & 0xffff_ffff, value >> 32);
    vcpu.set_state(&state, 0).unwrap();
    assert_eq!(vcpu.run(&mut Nothing, 100).unwrap().exit, Exit::Idle);
    let state = vcpu.state(0).unwrap();
    if state.rip == CODE + code.len() as u64 {
        return Some(state.general[2] << 32 | state.general[0]);
    }
    assert_eq!(state.rip, handler(13) + 1, "msr {number:#x}");
    None
}

fn ours() -> &'static CpuModel {
    CpuModel::find("qemu64").unwrap()
}

fn theirs() -> &'static CpuModel {
    CpuModel::find_of_qemu("qemu64").unwrap()
}

#[test]
fn secure_virtual_machines_are_shown_and_turned_off() {
    let model = theirs();
    assert_eq!(access(model, msr::VM_CONTROL, None), Some(0x18));
    assert_eq!(access(model, msr::VM_CONTROL, Some(0)), Some(0x18));
    assert_eq!(access(model, msr::EFER, Some(1 << 12)), None);
    assert_eq!(access(model, msr::EFER, Some(1)), Some(1));
    assert_eq!(access(model, msr::VM_HOST_SAVE, Some(0)), Some(0));
    assert_eq!(access(model, msr::VM_HOST_SAVE, Some(0x1000)), None);
    assert_eq!(access(ours(), msr::VM_CONTROL, None), None);
    assert_eq!(access(ours(), msr::EFER, Some(1 << 12)), None);
}

#[test]
fn an_unknown_register_is_zero_under_qemus_models_only() {
    for number in [0x3a, 0xce, 0x140, 0x12345, 0x429, 0x17f, 0xc001_001f] {
        assert_eq!(access(theirs(), number, None), Some(0), "{number:#x}");
        assert_eq!(access(theirs(), number, Some(5)), Some(0), "{number:#x}");
        assert_eq!(access(ours(), number, None), None, "{number:#x}");
        assert_eq!(access(ours(), number, Some(5)), None, "{number:#x}");
    }
    assert_eq!(access(theirs(), msr::CORE_THREAD_COUNT, None), Some(0x2_0002));
    assert_eq!(access(theirs(), msr::PERFORMANCE_STATUS, None), Some(0x400_0000_03e8));
    assert_eq!(access(theirs(), msr::TSC_AUX, Some(0x1_0000_0005)), Some(0x1_0000_0005));
    assert_eq!(access(ours(), msr::TSC_AUX, None), None);
    // A register that is known refuses what it never holds.
    assert_eq!(access(theirs(), msr::LSTAR, Some(1 << 60)), None);
    assert_eq!(access(theirs(), msr::MCG_CAP, None), Some(0x100_010a));
    assert_eq!(access(ours(), msr::MCG_CAP, None), Some(0x10a));
}

#[test]
fn a_state_of_another_model_is_refused_by_name_and_changes_nothing() {
    let (mut vcpu, _, good) = guest(ours(), &[0xf4]);
    vcpu.set_state(&good, 0).unwrap();
    let mut refuse = |expected: &str, change: fn(&mut CpuState)| {
        let mut state = good.clone();
        state.general[3] = 7;
        change(&mut state);
        let error = vcpu.set_state(&state, 0).unwrap_err().to_string();
        assert_eq!(error, format!("vcpu 0: {expected}"));
        assert_eq!(vcpu.state(0).unwrap(), good);
    };
    refuse("cr4.smep is set, and cpu model qemu64 does not offer it (feature smep)", |state| {
        state.cr4 |= 1 << 20
    });
    refuse("xcr0 bit 1 is set, and cpu model qemu64 has none", |state| state.xcr0 = 7);
    refuse(
        "efer.svme is set: the guest uses SVM, which is not run for cpu model qemu64",
        |state| state.msrs.efer |= 1 << 12,
    );
    refuse("mcg_capabilities is 0x100010a, and cpu model qemu64 has 0x10a", |state| {
        state.msrs.mcg_capabilities |= 1 << 24;
    });
}
