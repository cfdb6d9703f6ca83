//! Arithmetic that keeps some 120 significant bits: what the transcendental functions are made of.

use super::number::{self, Number, ONE};
use super::{Env, Rounding};

/// An environment for intermediate results, whose flags nobody looks at.
fn scratch() -> Env {
    Env { rounding: Rounding::NearestEven, ..Env::from_x87(0x37f) }
}

impl Number {
    /// A whole number.
    pub(super) fn whole(value: i64) -> Self {
        if value == 0 {
            return Self::zero(false);
        }
        Self::finite(value < 0, ONE as i32, u128::from(value.unsigned_abs()))
    }

    /// The same number with the other sign.
    pub(super) fn negated(self) -> Self {
        Self { sign: !self.sign, ..self }
    }

    /// Sum.
    pub(super) fn plus(self, other: Self) -> Self {
        number::add(&self, &other, &mut scratch())
    }

    /// Product of finite numbers that are not zero.
    pub(super) fn times(self, other: Self) -> Self {
        let halves = |value: u128| (value >> 64, value & u128::from(u64::MAX));
        let ((a, b), (c, d)) = (halves(self.significand), halves(other.significand));
        // The low halves' own low half is below what is kept.
        let middle = a * d + b * c + ((b * d) >> 64);
        let product = ((a * c) << 2) + (middle >> 62);
        Self::finite(self.sign != other.sign, self.exponent + other.exponent, product)
    }

    /// Quotient of finite numbers that are not zero; an inexact one is odd.
    pub(super) fn over(self, other: Self) -> Self {
        let (mut rest, mut quotient) = (self.significand, 0u128);
        for _ in 0..=ONE {
            quotient <<= 1;
            if rest >= other.significand {
                rest -= other.significand;
                quotient |= 1;
            }
            rest <<= 1;
        }
        let quotient = quotient | u128::from(rest != 0);
        Self::finite(self.sign != other.sign, self.exponent - other.exponent, quotient)
    }

    /// Quotient by a small whole number.
    pub(super) fn over_whole(self, by: u32) -> Self {
        let by = u128::from(by);
        let (high, rest) = (self.significand / by, self.significand % by);
        let room = high.leading_zeros() - 1;
        let significand = high << room | ((rest << 64) / by) >> (64 - room);
        Self { exponent: self.exponent - room as i32, significand, ..self }
    }

    /// The same number times a power of two.
    pub(super) fn scaled(self, by: i32) -> Self {
        Self { exponent: self.exponent + by, ..self }
    }

    /// Whether adding `term` to this changes nothing that is kept.
    pub(super) fn outweighs(&self, term: &Self) -> bool {
        self.exponent - term.exponent > ONE as i32 + 1
    }
}
