//! RCPPS and RSQRTPS: no two makes of processor agree on their bits, but all on their bounds.

use super::enumeration::form;
use super::model::Model;
use super::native::Native;
use super::operands::Random;
use super::{ROUNDS, is_approximate, simd};
use iced_x86::Code;

/// What the architecture allows: 1.5 * 2^-12.
const BOUND: f64 = 1.5 / 4096.0;
const LEAST_NORMAL: f32 = f32::MIN_POSITIVE;

fn exact(code: Code, operand: f32) -> f64 {
    match code {
        Code::Rcpps_xmm_xmmm128 | Code::Rcpss_xmm_xmmm32 => 1.0 / f64::from(operand),
        _ => 1.0 / f64::from(operand).sqrt(),
    }
}

/// Whether `value` may stand for `exact`.
fn is_close(value: f32, exact: f64) -> bool {
    (f64::from(value) - exact).abs() <= BOUND * exact.abs()
}

#[test]
fn approximations_keep_to_the_bound_and_agree_with_the_host_on_special_operands() {
    let mut native = Native::new();
    let mut random = Random::new(3);
    for (code, memory) in
        Code::values().filter(|code| is_approximate(*code)).flat_map(|c| [(c, false), (c, true)])
    {
        let form = form(code, memory).expect("has both forms");
        let simd = simd(&form);
        native.load(&form.bytes);
        for _ in 0..20 * ROUNDS {
            let mut before = Model::random(&mut random, code);
            let operand = random.single();
            before.xmm[2] = operand.into();
            before.memory[16..20].copy_from_slice(&operand.to_le_bytes());
            let mut ours = before.clone();
            assert_eq!(ours.run(&simd, 16), None, "raises nothing");
            let (theirs, fault) = before.run_native(&mut native, 16);
            assert_eq!((fault, theirs.mxcsr, ours.mxcsr), (None, before.mxcsr, before.mxcsr));

            let (ours, theirs) = (ours.xmm[1] as u32, theirs.xmm[1] as u32);
            let number = f32::from_bits(operand);
            let exact = exact(code, number);
            let ordinary = number.is_normal() && !exact.is_nan();
            if !ordinary {
                assert_eq!(ours, theirs, "{code:?} of {operand:#x}");
            } else if exact.abs() < f64::from(LEAST_NORMAL) {
                // Tiny: a zero of its sign.
                assert_eq!(ours, operand & 1 << 31, "{code:?} of {operand:#x}");
            } else {
                let value = f32::from_bits(ours);
                assert!(is_close(value, exact), "{code:?} of {operand:#x}: {ours:#x}");
                let host = f32::from_bits(theirs);
                assert!(is_close(host, exact), "{code:?} of {operand:#x}: host {theirs:#x}");
            }
        }
    }
}

#[test]
fn packed_approximations_are_the_scalar_ones_of_each_element() {
    let mut random = Random::new(4);
    for (packed, scalar) in [
        (Code::Rcpps_xmm_xmmm128, Code::Rcpss_xmm_xmmm32),
        (Code::Rsqrtps_xmm_xmmm128, Code::Rsqrtss_xmm_xmmm32),
    ] {
        let [packed, scalar] =
            [packed, scalar].map(|code| simd(&form(code, false).expect("register form")));
        for _ in 0..ROUNDS {
            let before = Model::random(&mut random, Code::Nopd);
            let mut all = before.clone();
            all.run(&packed, 16);
            for lane in 0..4 {
                let mut one = before.clone();
                one.xmm[2] >>= 32 * lane;
                one.run(&scalar, 16);
                assert_eq!(one.xmm[1] as u32, (all.xmm[1] >> (32 * lane)) as u32);
                assert_eq!(one.xmm[1] >> 32, before.xmm[1] >> 32, "the rest stays");
            }
        }
    }
}
