//! IEEE 754 arithmetic as x86 processors do it: rounding, exception flags, denormals and NaNs, in
//! 32, 64 and 80 bits, computed with integers alone.
//!
//! Every operation enters what happened into [`Env::flags`] and gives the masked response; only
//! 80-bit results that overflow or underflow look at [`Env::unmasked`], since they then keep their
//! digits and wrap their exponent.

mod arithmetic;
mod convert;
mod extended;
mod number;
#[cfg(test)]
pub(crate) mod tests;
mod transcendental;
mod wide;

pub use arithmetic::{
    f32_add, f32_div, f32_mul, f32_sqrt, f32_sub, f64_add, f64_div, f64_mul, f64_sqrt, f64_sub,
};
pub use convert::{
    f32_to_f64, f32_to_i32, f32_to_i64, f64_to_f32, f64_to_i32, f64_to_i64, i64_to_f32, i64_to_f64,
};
pub use extended::{F80, Order, Remainder};

/// Invalid operation.
pub const INVALID: u32 = 1 << 0;
/// Denormal operand.
pub const DENORMAL: u32 = 1 << 1;
/// Division by zero.
pub const ZERO_DIVIDE: u32 = 1 << 2;
/// Overflow.
pub const OVERFLOW: u32 = 1 << 3;
/// Underflow: the result is tiny after rounding, and inexact.
pub const UNDERFLOW: u32 = 1 << 4;
/// Precision: the result is inexact.
pub const PRECISION: u32 = 1 << 5;

/// Where results go that do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest; halves to the even one.
    NearestEven,
    /// Towards minus infinity.
    Down,
    /// Towards plus infinity.
    Up,
    /// Towards zero.
    TowardZero,
}

impl Rounding {
    /// The rounding that a two-bit control field names (Intel SDM volume 1, table 4-8).
    pub fn from_bits(bits: u16) -> Self {
        match bits & 3 {
            0 => Self::NearestEven,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::TowardZero,
        }
    }
}

/// How an operation rounds, and what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Env {
    /// Rounding.
    pub rounding: Rounding,
    /// Exceptions found so far, in MXCSR's order.
    pub flags: u32,
    /// Tiny results become zero.
    pub flush_to_zero: bool,
    /// Denormal operands count as zero.
    pub denormals_are_zero: bool,
    /// Significant bits of an 80-bit result: 24, 53 or 64.
    pub precision: u32,
    /// The last rounding went away from zero (the x87 unit's C1).
    pub rounded_up: bool,
    /// Exceptions that are not masked. They only change what 80-bit operations and stores of the
    /// x87 unit give; the unit of SSE sees to its own.
    pub unmasked: u32,
}

impl Env {
    /// The environment that a value of MXCSR asks for; no flags.
    pub fn from_mxcsr(mxcsr: u32) -> Self {
        Self {
            rounding: Rounding::from_bits((mxcsr >> 13) as u16),
            flags: 0,
            flush_to_zero: mxcsr & 1 << 15 != 0,
            denormals_are_zero: mxcsr & 1 << 6 != 0,
            precision: 64,
            rounded_up: false,
            unmasked: 0,
        }
    }

    /// The environment that a value of the x87 control word asks for; no flags.
    pub fn from_x87(control: u16) -> Self {
        Self {
            rounding: Rounding::from_bits(control >> 10),
            flags: 0,
            flush_to_zero: false,
            denormals_are_zero: false,
            precision: match control >> 8 & 3 {
                0 => 24,
                2 => 53,
                _ => 64,
            },
            rounded_up: false,
            unmasked: u32::from(!control & 0x3f),
        }
    }
}
