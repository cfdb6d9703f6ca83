//! SSE4.1 in floating point: rounding to integral values, and dot products.

use super::element::{Element, packed};
use super::environment::{Elements, INVALID, PRECISION};
use super::lanes::{dwords, from_dwords, from_qwords, qwords};
use super::{Run, SimdEnv};
use crate::softfloat::Rounding;
use iced_x86::Code;

/// The function of ROUND and DP instructions; `None` when `code` is neither.
pub(super) fn run(code: Code) -> Option<Run> {
    Some(match code {
        Code::Roundps_xmm_xmmm128_imm8 => |env, d, s, imm| {
            let how = How::of(env, imm);
            env.run(|env| u32::map(d, s, |_, b| round(env, b, how)))
        },
        Code::Roundpd_xmm_xmmm128_imm8 => |env, d, s, imm| {
            let how = How::of(env, imm);
            env.run(|env| u64::map(d, s, |_, b| round(env, b, how)))
        },
        Code::Roundss_xmm_xmmm32_imm8 => |env, d, s, imm| {
            let how = How::of(env, imm);
            let result = env.run(|env| round(env, s as u32, how));
            u32::with_lowest(d, result)
        },
        Code::Roundsd_xmm_xmmm64_imm8 => |env, d, s, imm| {
            let how = How::of(env, imm);
            let result = env.run(|env| round(env, s as u64, how));
            u64::with_lowest(d, result)
        },
        Code::Dpps_xmm_xmmm128_imm8 => |env, d, s, imm| {
            let products = chosen::<u32>(env, d, s, imm >> 4, u128::from(u32::MAX));
            if env.unmasked() {
                return d;
            }
            // Each element adds its neighbour first, and then what the other half has come to:
            // which of several NaNs is kept depends on the element, as on Intel's processors.
            let [p, q, r, t] = dwords(products);
            let pairs = packed(env, from_dwords([q, p, t, r]), products, u32::add);
            if env.unmasked() {
                return d;
            }
            let sums = packed(env, pairs, pairs.rotate_left(64), u32::add);
            let sums = dwords(sums);
            from_dwords(std::array::from_fn(|i| if imm >> i & 1 != 0 { sums[i] } else { 0 }))
        },
        Code::Dppd_xmm_xmmm128_imm8 => |env, d, s, imm| {
            let products = chosen::<u64>(env, d, s, imm >> 4, u128::from(u64::MAX));
            if env.unmasked() {
                return d;
            }
            let [a, b] = qwords(products);
            let sums = qwords(packed(env, products, from_qwords([b, a]), u64::add));
            from_qwords(std::array::from_fn(|i| if imm >> i & 1 != 0 { sums[i] } else { 0 }))
        },
        _ => return None,
    })
}

/// The products of the elements that `chosen` names; zero for the others, which raise nothing.
fn chosen<E: Element>(env: &mut SimdEnv, d: u128, s: u128, chosen: u8, element: u128) -> u128 {
    let width = element.count_ones();
    let mask = (0..128 / width)
        .filter(|index| chosen >> index & 1 != 0)
        .fold(0, |mask, index| mask | element << (index * width));
    packed(env, d & mask, s & mask, E::mul) & mask
}

/// How ROUND rounds.
#[derive(Clone, Copy)]
struct How {
    rounding: Rounding,
    /// Whether an inexact result is reported.
    reports: bool,
}

impl How {
    /// By the immediate: bits 0 and 1 are the rounding, unless bit 2 leaves it to MXCSR; bit 3
    /// keeps the precision exception back.
    fn of(env: &SimdEnv, imm: u8) -> Self {
        let bits = if imm & 4 != 0 { (env.mxcsr >> 13) as u16 } else { imm.into() };
        Self { rounding: Rounding::from_bits(bits), reports: imm & 8 == 0 }
    }
}

/// The integral value next to `number`. Denormal operands are not reported.
fn round<E: Element>(env: &mut Elements, number: E, how: How) -> E {
    if number.is_nan() {
        if number.is_signalling() {
            env.raise(INVALID);
        }
        return number.with_magnitude(number.magnitude() | E::QUIET);
    }
    if env.denormals_are_zero() && number.is_denormal() {
        return number.signed_zero();
    }
    let magnitude = number.magnitude();
    // The least unit of the result: a whole, seen from the exponent of the number.
    let exponent = (magnitude / E::LEAST_NORMAL) as i64 - (E::ONE / E::LEAST_NORMAL) as i64;
    let digits = i64::from(E::LEAST_NORMAL.trailing_zeros());
    if magnitude == 0 || exponent >= digits {
        return number;
    }
    let half = E::ONE - E::LEAST_NORMAL;
    let (below, above, rest) = if exponent < 0 {
        (0, E::ONE, magnitude.cmp(&half))
    } else {
        let unit = E::LEAST_NORMAL >> exponent;
        let rest = magnitude & (unit - 1);
        if rest == 0 {
            return number;
        }
        (magnitude - rest, magnitude - rest + unit, rest.cmp(&(unit / 2)))
    };
    if how.reports {
        env.raise(PRECISION);
    }
    // Whether the integer below is odd: its last digit, which an exponent of zero implies.
    let odd = match exponent {
        ..0 => false,
        0 => true,
        _ => below & E::LEAST_NORMAL >> exponent != 0,
    };
    let up = match how.rounding {
        Rounding::NearestEven => rest.is_gt() || rest.is_eq() && odd,
        Rounding::Down => number.is_negative(),
        Rounding::Up => !number.is_negative(),
        Rounding::TowardZero => false,
    };
    number.with_magnitude(if up { above } else { below })
}
