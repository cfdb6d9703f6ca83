//! RCPPS, RSQRTPS and their scalar forms.
//!
//! The architecture asks for a relative error of at most 1.5 * 2^-12 and lets every processor give
//! other bits, so that a guest can tell one processor from another by them. Ferry computes:
//!
//! - reciprocal: `1 / x`, rounded to nearest in single precision; a result that would be denormal
//!   is a zero of its sign;
//! - reciprocal square root: the square root of `x` in double precision, 1 divided by it in double
//!   precision, rounded to single precision, each to nearest; negative numbers give the default
//!   NaN.
//!
//! A denormal operand counts as a zero of its sign, and a zero gives the infinity of its sign. A NaN
//! comes back quiet. MXCSR is neither read nor written.
//! Source: Intel SDM volume 2, RCPPS and RSQRTPS.

use super::Run;
use super::element::Element;
use iced_x86::Code;

/// The quiet NaN that stands for an undefined result.
const DEFAULT_NAN: u32 = 0xffc0_0000;
const QUIET: u32 = 0x0040_0000;

/// The function of an approximate instruction; `None` when `code` is not one.
pub(super) fn run(code: Code) -> Option<Run> {
    Some(match code {
        Code::Rcpps_xmm_xmmm128 => |_, d, s, _| u32::map(d, s, |_, x| reciprocal(x)),
        Code::Rcpss_xmm_xmmm32 => |_, d, s, _| u32::with_lowest(d, reciprocal(s as u32)),
        Code::Rsqrtps_xmm_xmmm128 => |_, d, s, _| u32::map(d, s, |_, x| reciprocal_root(x)),
        Code::Rsqrtss_xmm_xmmm32 => |_, d, s, _| u32::with_lowest(d, reciprocal_root(s as u32)),
        _ => return None,
    })
}

fn reciprocal(x: u32) -> u32 {
    if x.is_nan() {
        return x | QUIET;
    }
    flush(f32::to_bits(1.0 / f32::from_bits(flush(x))))
}

fn reciprocal_root(x: u32) -> u32 {
    if x.is_nan() {
        return x | QUIET;
    }
    let x = flush(x);
    if x.is_negative() && x.magnitude() != 0 {
        return DEFAULT_NAN;
    }
    // The square root of a zero keeps its sign, and so does the infinity made of it.
    f32::to_bits((1.0 / f64::from(f32::from_bits(x)).sqrt()) as f32)
}

/// A denormal becomes a zero of its sign.
fn flush(x: u32) -> u32 {
    if x.is_denormal() { x.signed_zero() } else { x }
}
