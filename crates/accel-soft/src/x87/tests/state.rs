//! The unit's state as others see it: images in memory, pointers, MMX registers, pending faults.

use iced_x86::{Decoder, DecoderOptions};

use super::super::{MemoryUse, Operands, X87, X87Instruction, lookup};
use super::native::{Native, State};
use super::operands::Random;
use super::{host_is_amd, word};
use crate::softfloat::F80;

/// FNSTENV, FLDENV, FNSAVE and FRSTOR at [RDI], long form; the short form has a prefix of 0x66.
const FNSTENV: [u8; 2] = [0xd9, 0x37];
const FLDENV: [u8; 2] = [0xd9, 0x27];
const FNSAVE: [u8; 2] = [0xdd, 0x37];
const FRSTOR: [u8; 2] = [0xdd, 0x27];

fn instruction(bytes: &[u8]) -> X87Instruction {
    let decoded = Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode();
    let at = bytes.len() - 2;
    let opcode = u16::from(bytes[at] & 7) << 8 | u16::from(bytes[at + 1]);
    lookup(&decoded, opcode).expect("an x87 instruction")
}

fn run(unit: &mut X87, bytes: &[u8], memory: [u8; 128]) -> Operands {
    let mut operands = Operands { memory, flags: 0x202, ax: 0 };
    unit.run(&instruction(bytes), &mut operands);
    operands
}

/// A unit whose pointers fit every image.
fn unit(random: &mut Random) -> X87 {
    X87 {
        last_opcode: random.word() as u16 & 0x7ff,
        last_instruction: random.word() & 0xffff_ffff,
        last_instruction_selector: random.word() as u16,
        last_operand: random.word() & 0xffff_ffff,
        last_operand_selector: random.word() as u16,
        ..random.unit()
    }
}

#[test]
fn saving_and_restoring_changes_nothing() {
    let mut random = Random::new(5);
    for _ in 0..500 {
        let before = unit(&mut random);

        let mut image = [0; 512];
        before.to_fxsave(&mut image, false);
        let mut after = X87::default();
        after.load_fxsave(&image, false);
        assert_eq!(after, before);

        // The form with 64-bit pointers has no selectors.
        let mut long = before.clone();
        long.last_instruction |= 0xffff_8000_0000_0000;
        (long.last_instruction_selector, long.last_operand_selector) = (0, 0);
        long.to_fxsave(&mut image, true);
        let mut after = X87::default();
        after.load_fxsave(&image, true);
        assert_eq!(after, long);

        let mut saved = before.clone();
        let operands = run(&mut saved, &FNSAVE, [0; 128]);
        assert_eq!((saved.control, saved.status, saved.empty), (0x37f, 0, 0xff));
        let mut after = X87::default();
        run(&mut after, &FRSTOR, operands.memory);
        assert_eq!(after, before);
    }
}

#[test]
fn an_environment_has_its_fields_where_the_manual_says() {
    let mut unit = X87 {
        control: 0x37f,
        status: 0x3800,
        empty: 0x7f,
        last_opcode: 0x5aa,
        last_instruction: 0x1234_5678,
        last_instruction_selector: 0x10,
        last_operand: 0x9abc_def0,
        last_operand_selector: 0x18,
        ..X87::default()
    };
    unit.registers[7] = F80::ONE;
    let long = run(&mut unit, &FNSTENV, [0; 128]).memory;
    let dword = |index: usize| {
        u32::from_le_bytes(long[4 * index..4 * index + 4].try_into().expect("four bytes"))
    };
    assert_eq!([0, 1, 2].map(dword), [0xffff_037f, 0xffff_3800, 0xffff_3fff]);
    assert_eq!([3, 4].map(dword), [0x1234_5678, 0x05aa_0010]);
    assert_eq!([5, 6].map(dword), [0x9abc_def0, 0xffff_0018]);

    let short = run(&mut unit, &[0x66, 0xd9, 0x37], [0; 128]).memory;
    let words = [0, 2, 4, 6, 8, 10, 12].map(|at| word(&short, at));
    assert_eq!(words, [0x37f, 0x3800, 0x3fff, 0x5678, 0x10, 0xdef0, 0x18]);
}

#[test]
fn loaded_pointers_are_those_of_the_host() {
    // AMD's units show pointers while an unmasked exception is pending, and zeros otherwise.
    if !host_is_amd() {
        return;
    }
    let mut native = Native::new();
    let mut random = Random::new(6);
    let mut seen = 0;
    for bytes in [&FLDENV[..], &FRSTOR, &[0x66, 0xd9, 0x27], &[0x66, 0xdd, 0x27]] {
        native.load(bytes);
        let MemoryUse::Load(size) = instruction(bytes).memory else { panic!("it loads") };
        for _ in 0..500 {
            let mut state = State::new();
            let mut unit = X87::default();
            unit.to_fxsave(&mut state.image, true);
            random.memory(size, &mut state.memory);
            run(&mut unit, bytes, state.memory);
            native.run(&mut state);
            if !unit.math_fault() {
                continue;
            }
            seen += 1;
            let mut ours = [0; 512];
            unit.to_fxsave(&mut ours, true);
            assert_eq!(ours[..24], state.image[..24], "{bytes:02x?} of {:02x?}", state.memory);
        }
    }
    assert!(seen > 100);
}

#[test]
fn a_fault_waits_for_the_next_instruction_that_waits() {
    // 1 / 0 with the exception unmasked: FLD1, FLDZ, FDIVP.
    let mut unit = X87 { control: 0x37b, ..X87::default() };
    for bytes in [[0xd9, 0xe8], [0xd9, 0xee]] {
        run(&mut unit, &bytes, [0; 128]);
    }
    assert!(!unit.math_fault());
    run(&mut unit, &[0xde, 0xf9], [0; 128]);
    assert!(unit.math_fault());
    assert_eq!(unit.status & 0x80ff, 0x8084, "busy, summary and zero divide");
    assert_eq!((unit.top(), unit.empty), (6, 0x3f), "the operands are still there");

    let waits = [[0xd9, 0xe8], [0xd9, 0xd0], [0xd9, 0x2f], [0xd9, 0x27], [0xdd, 0x27]];
    assert!(waits.iter().all(|bytes| instruction(bytes).waits));
    let does_not = [[0xdb, 0xe2], [0xdb, 0xe3], [0xd9, 0x3f], [0xd9, 0x37], [0xdd, 0x37]];
    assert!(does_not.iter().all(|bytes| !instruction(bytes).waits));
    assert!(!instruction(&[0xdf, 0xe0]).waits);

    // Masking it through FLDCW, or clearing it, ends the wait.
    let mut masked = unit.clone();
    let mut memory = [0; 128];
    memory[..2].copy_from_slice(&0x37fu16.to_le_bytes());
    run(&mut masked, &[0xd9, 0x2f], memory);
    assert!(!masked.math_fault());
    run(&mut unit, &[0xdb, 0xe2], [0; 128]);
    assert!(!unit.math_fault());
}

#[test]
fn mmx_registers_are_significands() {
    let mut unit = X87 { status: 0x2800, ..X87::default() };
    unit.enter_mmx();
    unit.mmx_write(3, 0x0123_4567_89ab_cdef);
    assert_eq!(unit.mmx_read(3), 0x0123_4567_89ab_cdef);
    assert_eq!(unit.registers[3].exponent, 0xffff);
    assert_eq!((unit.top(), unit.empty), (0, 0));
    unit.emms();
    assert_eq!(unit.tags(), 0xffff);
}
