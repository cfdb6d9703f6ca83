//! What a CPU model offers besides instructions: model-specific registers, and states that it
//! takes.

mod real_mode;

use cpu::{
    CpuModel, CpuState, DescriptorTable, Exit, MODELS, QEMU_MODELS, Segment, Vcpu, flags as f, msr,
};
use memory::GuestRam;
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

/// The vector that an instruction raises in a real-mode guest, if any.
fn fault(model: &'static CpuModel, instruction: &[u8]) -> Option<u64> {
    let mut code = instruction.to_vec();
    code.push(0xf4);
    let (mut vcpu, _, mut state) = guest(model, &code);
    state.cr4 |= f::CR4_OSFXSR | f::CR4_OSXMMEXCPT;
    vcpu.set_state(&state, 0).unwrap();
    assert_eq!(vcpu.run(&mut Nothing, 100).unwrap().exit, Exit::Idle);
    let rip = vcpu.state(0).unwrap().rip;
    (rip != CODE + code.len() as u64).then(|| {
        let vector = (rip - handler(0)) / 0x10;
        assert_eq!(rip, handler(vector as u8) + 1);
        vector
    })
}

#[test]
fn an_instruction_that_the_model_does_not_offer_is_undefined() {
    let newer: [&[u8]; 17] = [
        &[0x0f, 0x38, 0x00, 0xca],                   // pshufb mm1, mm2
        &[0x66, 0x0f, 0x38, 0x00, 0xca],             // pshufb xmm1, xmm2
        &[0x66, 0x0f, 0x38, 0x1c, 0xca],             // pabsb xmm1, xmm2
        &[0x0f, 0x3a, 0x0f, 0xca, 0x03],             // palignr mm1, mm2, 3
        &[0x66, 0x0f, 0x38, 0x10, 0xca],             // pblendvb xmm1, xmm2, xmm0
        &[0x66, 0x0f, 0x38, 0x17, 0xca],             // ptest xmm1, xmm2
        &[0x66, 0x0f, 0x38, 0x2a, 0x0e, 0x00, 0x80], // movntdqa xmm1, [0x8000]
        &[0x66, 0x0f, 0x38, 0x30, 0xca],             // pmovzxbw xmm1, xmm2
        &[0x66, 0x0f, 0x3a, 0x0a, 0xca, 0x00],       // roundss xmm1, xmm2, 0
        &[0x66, 0x0f, 0x3a, 0x15, 0xca, 0x00],       // pextrw edx, xmm1, 0
        &[0x66, 0x0f, 0x3a, 0x22, 0xca, 0x00],       // pinsrd xmm1, edx, 0
        &[0x66, 0x0f, 0x3a, 0x40, 0xca, 0xff],       // dpps xmm1, xmm2, 0xff
        &[0x66, 0x0f, 0x38, 0x37, 0xca],             // pcmpgtq xmm1, xmm2
        &[0x66, 0x0f, 0x3a, 0x60, 0xca, 0x00],       // pcmpestrm xmm1, xmm2, 0
        &[0x66, 0x0f, 0x3a, 0x63, 0xca, 0x00],       // pcmpistri xmm1, xmm2, 0
        &[0xf2, 0x0f, 0x38, 0xf1, 0xc1],             // crc32 eax, cx
        &[0xf3, 0x0f, 0xb8, 0xc1],                   // popcnt ax, cx
    ];
    let nehalem = CpuModel::find("Nehalem").unwrap();
    for instruction in newer {
        assert_eq!(fault(ours(), instruction), Some(6), "{instruction:02x?}");
        assert_eq!(fault(theirs(), instruction), Some(6), "{instruction:02x?}");
        assert_eq!(fault(nehalem, instruction), None, "{instruction:02x?}");
    }
    let others: [&[u8]; 12] = [
        &[0x66, 0x0f, 0x38, 0xdc, 0xca],       // aesenc xmm1, xmm2
        &[0x66, 0x0f, 0x3a, 0x44, 0xca, 0x00], // pclmulqdq xmm1, xmm2, 0
        &[0x0f, 0x38, 0xf0, 0x0e],             // movbe cx, [0]
        &[0x66, 0x0f, 0x38, 0xf6, 0xca],       // adcx ecx, edx
        &[0x0f, 0xc7, 0xf0],                   // rdrand ax
        &[0x0f, 0x01, 0xf9],                   // rdtscp
        &[0x0f, 0x01, 0xc8],                   // monitor
        &[0x0f, 0x01, 0xd0],                   // xgetbv
        &[0x0f, 0x01, 0xc1],                   // vmcall
        &[0x0f, 0x01, 0xd8],                   // vmrun
        &[0x0f, 0x01, 0xd9],                   // vmmcall
        &[0x0f, 0x01, 0xdc],                   // stgi
    ];
    for instruction in others {
        for model in MODELS.iter().chain(QEMU_MODELS) {
            assert_eq!(fault(model, instruction), Some(6), "{instruction:02x?}");
        }
    }
}

#[test]
fn vectors_are_refused_while_the_system_does_not_save_them() {
    let nehalem = CpuModel::find("Nehalem").unwrap();
    // pshufb xmm1, xmm2; pcmpistri xmm1, xmm2, 0; pblendvb xmm1, xmm2
    for code in [
        &[0x66, 0x0f, 0x38, 0x00, 0xca, 0xf4][..],
        &[0x66, 0x0f, 0x3a, 0x63, 0xca, 0x00, 0xf4],
        &[0x66, 0x0f, 0x38, 0x10, 0xca, 0xf4],
    ] {
        for (cr0, cr4, vector) in
            [(0, 0, 6), (f::CR0_EM, f::CR4_OSFXSR, 6), (f::CR0_TS, f::CR4_OSFXSR, 7)]
        {
            let (mut vcpu, _, mut state) = guest(nehalem, code);
            state.cr0 |= cr0;
            state.cr4 |= cr4;
            vcpu.set_state(&state, 0).unwrap();
            assert_eq!(vcpu.run(&mut Nothing, 100).unwrap().exit, Exit::Idle);
            assert_eq!(vcpu.state(0).unwrap().rip, handler(vector) + 1);
        }
    }
}

/// SYSENTER in long mode, and then the instruction at its entry point; the state after each, if
/// the guest lived.
fn enter_and_leave(model: &'static CpuModel, leave: &[u8]) -> Option<[CpuState; 2]> {
    const TABLES: u64 = 0x3000;
    const ENTRY: u64 = 0x7000;
    // sysenter
    let (mut vcpu, ram, mut state) = guest(model, &[0x0f, 0x34]);
    for (level, entry) in [TABLES + 0x1007, TABLES + 0x2007, 0x87].into_iter().enumerate() {
        ram.write(TABLES + 0x1000 * level as u64, &u64::to_le_bytes(entry)).unwrap();
    }
    ram.write(ENTRY, leave).unwrap();
    let data = Segment { selector: 0x33, base: 0, limit: u32::MAX, attributes: 0xcf3 };
    state.segments = [data; 6];
    state.segments[CpuState::CS] = Segment { selector: 0x3b, attributes: 0xafb, ..data };
    state.idt = DescriptorTable::default();
    state.cr0 = f::CR0_PE | f::CR0_PG | f::CR0_ET | f::CR0_NE;
    state.cr3 = TABLES;
    state.cr4 = f::CR4_PAE;
    state.msrs.efer = f::EFER_LME | f::EFER_LMA;
    state.msrs.sysenter_cs = 0x10;
    state.msrs.sysenter_esp = 0xffff_8000_0000_1000;
    state.msrs.sysenter_eip = ENTRY;
    state.rflags |= f::IF;
    (state.general[1], state.general[2]) = (0x1_2345_6788, 0x1_0000_2000);
    vcpu.set_state(&state, 0).unwrap();
    let mut states = Vec::new();
    for _ in 0..2 {
        if vcpu.run(&mut Nothing, 1).unwrap().exit == Exit::Shutdown {
            return None;
        }
        states.push(vcpu.state(0).unwrap());
    }
    states.try_into().ok()
}

#[test]
fn sysenter_in_long_mode_is_for_intels_processors() {
    assert!(enter_and_leave(ours(), &[0x90]).is_none());
    let nehalem = CpuModel::find("Nehalem").unwrap();
    let segment = |state: &CpuState, index: usize| {
        (state.segments[index].selector, state.segments[index].attributes)
    };
    // sysexitq
    let [inside, outside] = enter_and_leave(nehalem, &[0x48, 0x0f, 0x35]).unwrap();
    assert_eq!(segment(&inside, CpuState::CS), (0x10, 0xa9b));
    assert_eq!(segment(&inside, CpuState::SS), (0x18, 0xc93));
    assert_eq!((inside.rip, inside.general[4]), (0x7000, 0xffff_8000_0000_1000));
    assert_eq!(inside.rflags & f::IF, 0);
    assert_eq!(segment(&outside, CpuState::CS), (0x33, 0xafb));
    assert_eq!(segment(&outside, CpuState::SS), (0x3b, 0xcf3));
    assert_eq!((outside.rip, outside.general[4]), (0x1_0000_2000, 0x1_2345_6788));
    // sysexit
    let [_, outside] = enter_and_leave(nehalem, &[0x0f, 0x35]).unwrap();
    assert_eq!(segment(&outside, CpuState::CS), (0x23, 0xcfb));
    assert_eq!(segment(&outside, CpuState::SS), (0x2b, 0xcf3));
    assert_eq!((outside.rip, outside.general[4]), (0x2000, 0x2345_6788));
}

/// Runs one instruction of a Nehalem with these registers; the state after it, unless it faulted,
/// and its memory.
fn run_vector(instruction: &[u8], xmm: [u128; 3]) -> (Result<CpuState, u8>, GuestRam) {
    let mut code = instruction.to_vec();
    code.push(0xf4);
    let (mut vcpu, ram, mut state) = guest(CpuModel::find("Nehalem").unwrap(), &code);
    let bytes: Vec<u8> = (0..0x7000u64).map(|at| (at ^ at >> 8) as u8).collect();
    ram.write(0x9000, &bytes).unwrap();
    state.cr4 |= f::CR4_OSFXSR | f::CR4_OSXMMEXCPT;
    (state.general[0], state.general[2]) = (0xffff_ffff_ffff_fffd, 5);
    state.general[1] = u64::MAX;
    state.rflags |= 0x8d5;
    for (register, value) in state.sse.xmm.iter_mut().zip(xmm) {
        *register = [value as u64, (value >> 64) as u64];
    }
    vcpu.set_state(&state, 0).unwrap();
    assert_eq!(vcpu.run(&mut Nothing, 100).unwrap().exit, Exit::Idle);
    let state = vcpu.state(0).unwrap();
    let end = CODE + code.len() as u64;
    if state.rip == end {
        (Ok(state), ram)
    } else {
        (Err(((state.rip - handler(0)) >> 4) as u8), ram)
    }
}

#[test]
fn memory_operands_are_as_long_as_the_instruction_says() {
    let value = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_01f0;
    let stored = |instruction: &[u8], place: u64| {
        let (state, ram) = run_vector(instruction, [0, value, 0]);
        state.unwrap();
        let mut bytes = [0; 12];
        ram.read(place - 2, &mut bytes).unwrap();
        bytes
    };
    let around = |place: u64, new: &[u8]| {
        let mut bytes: [u8; 12] = std::array::from_fn(|at| {
            let at = place - 2 - 0x9000 + at as u64;
            (at ^ at >> 8) as u8
        });
        bytes[2..2 + new.len()].copy_from_slice(new);
        bytes
    };
    // pextrb, pextrw, pextrd, extractps: to an address over a page's end.
    let place = 0x9fff;
    for (opcode, number, new) in [
        (0x14, 11, &[0x0b][..]),
        (0x15, 3, &[0x06, 0x07]),
        (0x16, 2, &[0x08, 0x09, 0x0a, 0x0b]),
        (0x17, 0, &[0xf0, 0x01, 0x02, 0x03]),
    ] {
        let code = [0x66, 0x0f, 0x3a, opcode, 0x0e, 0xff, 0x9f, number];
        assert_eq!(stored(&code, place), around(place, new), "{opcode:#x}");
    }
    // The last byte of the segment can be stored and fetched, one behind it cannot.
    let last = |opcode: &[u8], more: &[u8]| {
        let code = [&[0x66, 0x0f], opcode, &[0x0e, 0xff, 0xff], more].concat();
        run_vector(&code, [0, value, 0]).0.map(|state| state.sse.xmm[1])
    };
    assert!(last(&[0x3a, 0x14], &[0]).is_ok());
    assert_eq!(last(&[0x3a, 0x15], &[0]), Err(13));
    assert_eq!(last(&[0x3a, 0x20], &[1]), Ok([0x0706_0504_0302_90f0, 0x0f0e_0d0c_0b0a_0908]));
    assert_eq!(last(&[0x38, 0x32], &[]), Err(13));
    // pmovzxbq xmm1, [0x9fff]
    let (state, _) = run_vector(&[0x66, 0x0f, 0x38, 0x32, 0x0e, 0xff, 0x9f], [0, value, 0]);
    assert_eq!(state.unwrap().sse.xmm[1], [0xf0, 0x10]);
}

#[test]
fn strings_may_lie_anywhere_and_other_operands_may_not() {
    let at = |place: u64| {
        let bytes = std::array::from_fn(|index| {
            let at = place - 0x9000 + index as u64;
            (at ^ at >> 8) as u8
        });
        u128::from_le_bytes(bytes)
    };
    let same = at(0x9ff9);
    // pcmpistri xmm1, [0x9ff9], 0x18: the first difference, where there is none.
    let (state, _) = run_vector(&[0x66, 0x0f, 0x3a, 0x63, 0x0e, 0xf9, 0x9f, 0x18], [0, same, 0]);
    let state = state.unwrap();
    assert_eq!((state.general[1], state.rflags & 0x8d5), (16, 0));
    // pcmpestrm xmm1, [0x9ff9], 0x40: which of five bytes are among three.
    let (state, _) = run_vector(&[0x66, 0x0f, 0x3a, 0x60, 0x0e, 0xf9, 0x9f, 0x40], [7, same, 0]);
    let state = state.unwrap();
    assert_eq!((state.sse.xmm[0], state.rflags & 0x8d5), ([0xff_ffff, 0], 0x8c1));
    assert_eq!(state.general[1], u64::MAX);
    // pshufb, pblendvb, ptest, movntdqa, pminsd, roundps of memory that is not aligned.
    for (code, more) in [
        (&[0x38, 0x00][..], &[][..]),
        (&[0x38, 0x10], &[]),
        (&[0x38, 0x17], &[]),
        (&[0x38, 0x2a], &[]),
        (&[0x38, 0x39], &[]),
        (&[0x3a, 0x08], &[4]),
    ] {
        let code = |low: u8| [&[0x66, 0x0f], code, &[0x0e, low, 0x9f], more].concat();
        assert_eq!(run_vector(&code(0xf8), [0; 3]).0.unwrap_err(), 13, "{:02x?}", code(0xf8));
        assert!(run_vector(&code(0xf0), [0; 3]).0.is_ok(), "{:02x?}", code(0xf0));
    }
    // pblendvb xmm1, [0x9ff0]: XMM0 chooses.
    let (state, _) = run_vector(&[0x66, 0x0f, 0x38, 0x10, 0x0e, 0xf0, 0x9f], [0x80_7f00, 0, 0]);
    assert_eq!(state.unwrap().sse.xmm[1], [(at(0x9ff0) & 0xff_0000) as u64, 0]);
}
