//! The host's CPU as the oracle: every instruction of the table, on special and random operands.

mod approximation;
mod enumeration;
mod image;
mod model;
mod native;
mod operands;

use super::{SimdInstruction, lookup};
use enumeration::{Form, forms};
use iced_x86::{Code, Mnemonic};
use model::Model;
use native::{MEMORY, Native};
use operands::Random;

/// Runs of each instruction in each of its forms.
const ROUNDS: usize = 1500;

fn simd(form: &Form) -> SimdInstruction {
    lookup(&form.instruction)
        .unwrap_or_else(|| panic!("no entry for {:?} ({:?})", form.code, form.instruction))
}

/// Approximate instructions have a test of their own.
fn is_approximate(code: Code) -> bool {
    matches!(
        code,
        Code::Rcpps_xmm_xmmm128
            | Code::Rcpss_xmm_xmmm32
            | Code::Rsqrtps_xmm_xmmm128
            | Code::Rsqrtss_xmm_xmmm32
    )
}

#[test]
fn every_instruction_of_the_instruction_sets_is_in_the_table() {
    let missing: Vec<Code> = forms()
        .iter()
        .filter(|form| lookup(&form.instruction).is_none())
        .map(|form| form.code)
        .collect();
    assert!(missing.is_empty(), "no entry for {missing:?}");
}

#[test]
fn instructions_of_other_sets_are_not_in_the_table() {
    for code in [Code::Aesenc_xmm_xmmm128, Code::D3NOW_Pfadd_mm_mmm64] {
        let form = enumeration::form(code, false).expect("has a register form");
        assert!(lookup(&form.instruction).is_none(), "{code:?}");
    }
}

#[test]
fn every_instruction_computes_what_the_host_computes() {
    let mut native = Native::new();
    let mut random = Random::new(1);
    let mut wrong = Vec::new();
    for form in forms().iter().filter(|form| !is_approximate(form.code)) {
        let simd = simd(form);
        native.load(&form.bytes);
        let rounds = if form.immediate { ROUNDS / 20 } else { ROUNDS };
        for _ in 0..rounds {
            let before = Model::random(&mut random, form.code);
            let mut ours = before.clone();
            let our_fault = ours.run(&simd, 16);
            let (mut theirs, their_fault) = before.run_native(&mut native, 16);
            // In which order products are added is the processor's own matter, and with it which
            // of several NaNs is kept.
            if matches!(form.code.mnemonic(), Mnemonic::Dpps | Mnemonic::Dppd) {
                ours.forget_payloads(form.code);
                theirs.forget_payloads(form.code);
            }
            if our_fault != their_fault || ours != theirs {
                wrong.push(format!(
                    "{:?} {:02x?}: mxcsr {:#x}, operands {:032x} {:032x} (or [rdi] {:02x?}); \
                     fault: host {their_fault:?}, here {our_fault:?}; {}",
                    form.code,
                    form.bytes,
                    before.mxcsr,
                    before.xmm[1],
                    before.xmm[2],
                    &before.memory[16..32],
                    theirs.differences(&ours).join("; "),
                ));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn alignment_is_asked_for_where_the_host_asks_for_it() {
    let mut native = Native::new();
    let mut random = Random::new(2);
    for form in forms().iter().filter(|form| form.memory) {
        let simd = simd(form);
        native.load(&form.bytes);
        let mut before = Model::random(&mut random, form.code);
        before.mxcsr |= 0x1f80;
        if form.code == Code::Ldmxcsr_m32 {
            before.memory = [0; MEMORY];
        }
        for offset in 0..MEMORY - 15 {
            let (_, fault) = before.run_native(&mut native, offset);
            let refused = fault == Some(libc::SIGSEGV);
            assert_eq!(refused, simd.aligned && offset % 16 != 0, "{:?} at {offset}", form.code);
        }
    }
}
