//! Floating-point comparison, minimum and maximum.

use super::element::{Element, packed, scalar};
use super::environment::{DENORMAL, Elements, INVALID};
use super::{Run, SimdEnv};
use iced_x86::Code;
use std::cmp::Ordering;

const CF: u128 = 1 << 0;
const PF: u128 = 1 << 2;
const ZF: u128 = 1 << 6;

/// COMISS and its like, whose result is ZF, PF and CF; `None` when `code` is none of them.
pub(super) fn flags(code: Code) -> Option<Run> {
    Some(match code {
        Code::Comiss_xmm_xmmm32 => |env, d, s, _| to_flags::<u32>(env, d, s, true),
        Code::Comisd_xmm_xmmm64 => |env, d, s, _| to_flags::<u64>(env, d, s, true),
        Code::Ucomiss_xmm_xmmm32 => |env, d, s, _| to_flags::<u32>(env, d, s, false),
        Code::Ucomisd_xmm_xmmm64 => |env, d, s, _| to_flags::<u64>(env, d, s, false),
        _ => return None,
    })
}

fn to_flags<E: Element>(env: &mut SimdEnv, d: u128, s: u128, signalling: bool) -> u128 {
    match env.run(|env| order(env, E::lowest(d), E::lowest(s), signalling)) {
        None => ZF | PF | CF,
        Some(Ordering::Less) => CF,
        Some(Ordering::Equal) => ZF,
        Some(Ordering::Greater) => 0,
    }
}

/// The function of a comparison that leaves a mask, or of a minimum or maximum; `None` when `code`
/// is neither.
pub(super) fn run(code: Code) -> Option<Run> {
    Some(match code {
        Code::Cmpps_xmm_xmmm128_imm8 => |env, d, s, imm| packed(env, d, s, predicate::<u32>(imm)),
        Code::Cmppd_xmm_xmmm128_imm8 => |env, d, s, imm| packed(env, d, s, predicate::<u64>(imm)),
        Code::Cmpss_xmm_xmmm32_imm8 => |env, d, s, imm| scalar(env, d, s, predicate::<u32>(imm)),
        Code::Cmpsd_xmm_xmmm64_imm8 => |env, d, s, imm| scalar(env, d, s, predicate::<u64>(imm)),
        Code::Minps_xmm_xmmm128 => |env, d, s, _| packed(env, d, s, minimum::<u32>),
        Code::Minpd_xmm_xmmm128 => |env, d, s, _| packed(env, d, s, minimum::<u64>),
        Code::Minss_xmm_xmmm32 => |env, d, s, _| scalar(env, d, s, minimum::<u32>),
        Code::Minsd_xmm_xmmm64 => |env, d, s, _| scalar(env, d, s, minimum::<u64>),
        Code::Maxps_xmm_xmmm128 => |env, d, s, _| packed(env, d, s, maximum::<u32>),
        Code::Maxpd_xmm_xmmm128 => |env, d, s, _| packed(env, d, s, maximum::<u64>),
        Code::Maxss_xmm_xmmm32 => |env, d, s, _| scalar(env, d, s, maximum::<u32>),
        Code::Maxsd_xmm_xmmm64 => |env, d, s, _| scalar(env, d, s, maximum::<u64>),
        _ => return None,
    })
}

/// How two numbers are ordered; `None` when one is a NaN. A signalling comparison finds a quiet
/// NaN invalid as well.
fn order<E: Element>(env: &mut Elements, a: E, b: E, signalling: bool) -> Option<Ordering> {
    if a.is_nan() || b.is_nan() {
        if signalling || a.is_signalling() || b.is_signalling() {
            env.raise(INVALID);
        }
        return None;
    }
    let (a, b) = (operand(env, a), operand(env, b));
    // Zeros are equal, whatever their signs.
    let key = |number: E| {
        let magnitude = number.magnitude() as i64;
        if number.is_negative() { -magnitude } else { magnitude }
    };
    Some(key(a).cmp(&key(b)))
}

/// A denormal is taken as zero, or reported.
fn operand<E: Element>(env: &mut Elements, number: E) -> E {
    if !number.is_denormal() {
        number
    } else if env.denormals_are_zero() {
        number.signed_zero()
    } else {
        env.raise(DENORMAL);
        number
    }
}

/// The comparison that the low three bits of `imm` ask for.
fn predicate<E: Element>(imm: u8) -> super::element::Operation<E> {
    match imm & 7 {
        0 => |env, a, b| mask(order(env, a, b, false) == Some(Ordering::Equal)),
        1 => |env, a, b| mask(order(env, a, b, true) == Some(Ordering::Less)),
        2 => |env, a, b| mask(order(env, a, b, true).is_some_and(Ordering::is_le)),
        3 => |env, a, b| mask(order(env, a, b, false).is_none()),
        4 => |env, a, b| mask(order(env, a, b, false) != Some(Ordering::Equal)),
        5 => |env, a, b| mask(order(env, a, b, true) != Some(Ordering::Less)),
        6 => |env, a, b| mask(!order(env, a, b, true).is_some_and(Ordering::is_le)),
        _ => |env, a, b| mask(order(env, a, b, false).is_some()),
    }
}

fn mask<E: Element>(condition: bool) -> E {
    if condition { E::ALL_ONES } else { E::ZERO }
}

/// The source wins unless the destination is strictly less: when one is a NaN, when both are zero.
fn minimum<E: Element>(env: &mut Elements, a: E, b: E) -> E {
    extreme(env, a, b, Ordering::Less)
}

/// The source wins unless the destination is strictly greater.
fn maximum<E: Element>(env: &mut Elements, a: E, b: E) -> E {
    extreme(env, a, b, Ordering::Greater)
}

fn extreme<E: Element>(env: &mut Elements, a: E, b: E, wanted: Ordering) -> E {
    let winner = if order(env, a, b, true) == Some(wanted) { a } else { b };
    if env.denormals_are_zero() && winner.is_denormal() { winner.signed_zero() } else { winner }
}
