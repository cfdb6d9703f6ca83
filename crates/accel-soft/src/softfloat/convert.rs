//! Conversions between single, double and integers.

use super::arithmetic::{F32, F64, Layout};
use super::number::{Class, Number, ONE, note_denormal};
use super::{Env, INVALID};

fn convert(from: Layout, to: Layout, bits: u64, env: &mut Env) -> u64 {
    let number = from.unpack(bits, env);
    if number.class == Class::Signalling {
        env.flags |= INVALID;
    }
    note_denormal(env, &[&number]);
    number.pack(&to.format, env)
}

/// Widens.
pub fn f32_to_f64(bits: u32, env: &mut Env) -> u64 {
    convert(F32, F64, bits.into(), env)
}

/// Narrows.
pub fn f64_to_f32(bits: u64, env: &mut Env) -> u32 {
    convert(F64, F32, bits, env) as u32
}

/// A number as an integer of `bits` bits; `None`, with the invalid flag, if it does not fit.
pub(super) fn to_signed(number: &Number, bits: u32, env: &mut Env) -> Option<i64> {
    let before = env.flags;
    let magnitude = match number.class {
        Class::Zero | Class::Finite => number.to_integer(env),
        _ => None,
    };
    let limit = (1u128 << (bits - 1)) - u128::from(!number.sign);
    match magnitude.filter(|magnitude| *magnitude <= limit) {
        Some(magnitude) if number.sign => Some((magnitude as i64).wrapping_neg()),
        Some(magnitude) => Some(magnitude as i64),
        None => {
            env.flags = before | INVALID;
            env.rounded_up = false;
            None
        }
    }
}

/// An integer as a number.
pub(super) fn from_signed(value: i64) -> Number {
    if value == 0 {
        return Number::zero(false);
    }
    Number::finite(value < 0, ONE as i32, u128::from(value.unsigned_abs()))
}

/// To a 32-bit integer; the least one, with the invalid flag, if it does not fit.
pub fn f32_to_i32(bits: u32, env: &mut Env) -> i32 {
    let number = F32.unpack(bits.into(), env);
    to_signed(&number, 32, env).map_or(i32::MIN, |value| value as i32)
}

/// To a 64-bit integer.
pub fn f32_to_i64(bits: u32, env: &mut Env) -> i64 {
    let number = F32.unpack(bits.into(), env);
    to_signed(&number, 64, env).unwrap_or(i64::MIN)
}

/// To a 32-bit integer.
pub fn f64_to_i32(bits: u64, env: &mut Env) -> i32 {
    let number = F64.unpack(bits, env);
    to_signed(&number, 32, env).map_or(i32::MIN, |value| value as i32)
}

/// To a 64-bit integer.
pub fn f64_to_i64(bits: u64, env: &mut Env) -> i64 {
    let number = F64.unpack(bits, env);
    to_signed(&number, 64, env).unwrap_or(i64::MIN)
}

/// From an integer.
pub fn i64_to_f32(value: i64, env: &mut Env) -> u32 {
    from_signed(value).pack(&F32.format, env) as u32
}

/// From an integer.
pub fn i64_to_f64(value: i64, env: &mut Env) -> u64 {
    from_signed(value).pack(&F64.format, env)
}
