//! Arithmetic of single and double precision, with the NaN rules of SSE: the first operand's NaN
//! if it is one, else the second's (Intel SDM volume 1, table 4-7).

use super::number::{self, Class, DOUBLE, Format, Number, SINGLE};
use super::{Env, INVALID};

/// How a pattern is laid out: fraction and exponent bits, and its format.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) fraction: u32,
    pub(super) exponent: u32,
    pub(super) format: Format,
}

pub(super) const F32: Layout = Layout { fraction: 23, exponent: 8, format: SINGLE };
pub(super) const F64: Layout = Layout { fraction: 52, exponent: 11, format: DOUBLE };

impl Layout {
    pub(super) fn unpack(&self, bits: u64, env: &Env) -> Number {
        Number::unpack(bits, self.fraction, self.exponent, env)
    }
}

/// The NaN that an operation on NaNs gives.
fn propagate(left: &Number, right: &Number, env: &mut Env) -> Option<Number> {
    if left.class == Class::Signalling || right.class == Class::Signalling {
        env.flags |= INVALID;
    }
    [left, right].into_iter().find(|operand| operand.is_nan()).copied()
}

fn binary(
    layout: Layout,
    left: u64,
    right: u64,
    env: &mut Env,
    operation: fn(&Number, &Number, &mut Env) -> Number,
) -> u64 {
    let (left, right) = (layout.unpack(left, env), layout.unpack(right, env));
    let result = propagate(&left, &right, env).unwrap_or_else(|| operation(&left, &right, env));
    result.pack(&layout.format, env)
}

fn subtract(left: &Number, right: &Number, env: &mut Env) -> Number {
    let negated = Number { sign: !right.sign, ..*right };
    number::add(left, &negated, env)
}

fn root(layout: Layout, bits: u64, env: &mut Env) -> u64 {
    let operand = layout.unpack(bits, env);
    let result =
        propagate(&operand, &operand, env).unwrap_or_else(|| number::square_root(&operand, env));
    result.pack(&layout.format, env)
}

macro_rules! binary_operations {
    ($($name:ident, $type:ty, $layout:expr, $operation:expr, $doc:literal;)*) => {
        $(
            #[doc = $doc]
            pub fn $name(left: $type, right: $type, env: &mut Env) -> $type {
                binary($layout, left.into(), right.into(), env, $operation) as $type
            }
        )*
    };
}

binary_operations! {
    f32_add, u32, F32, number::add, "Adds.";
    f32_sub, u32, F32, subtract, "Subtracts.";
    f32_mul, u32, F32, number::multiply, "Multiplies.";
    f32_div, u32, F32, number::divide, "Divides.";
    f64_add, u64, F64, number::add, "Adds.";
    f64_sub, u64, F64, subtract, "Subtracts.";
    f64_mul, u64, F64, number::multiply, "Multiplies.";
    f64_div, u64, F64, number::divide, "Divides.";
}

/// The square root.
pub fn f32_sqrt(bits: u32, env: &mut Env) -> u32 {
    root(F32, bits.into(), env) as u32
}

/// The square root.
pub fn f64_sqrt(bits: u64, env: &mut Env) -> u64 {
    root(F64, bits, env)
}
