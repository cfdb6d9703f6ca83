//! The 80-bit format of the x87 unit, with its NaN rule (the larger significand), its unsupported
//! encodings and its precision control (Intel SDM volume 1, sections 4.8.3.5, 8.1.5.2 and 8.2.2).

use super::arithmetic::{F32, F64};
use super::convert::{from_signed, to_signed};
use super::number::{self, Class, EXTENDED, Format, Number, ONE, note_denormal};
use super::{Env, INVALID, OVERFLOW, PRECISION, UNDERFLOW};

/// A value of the x87 unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct F80 {
    /// Significand, the integer bit included.
    pub significand: u64,
    /// Sign in bit 15, biased exponent below.
    pub exponent: u16,
}

/// How two values compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The first is less.
    Less,
    /// They are equal.
    Equal,
    /// The first is greater.
    Greater,
    /// One is a NaN.
    Unordered,
}

/// What FPREM and FPREM1 find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remainder {
    /// The remainder, or what is left to reduce.
    pub rest: F80,
    /// The low three bits of the quotient, 0 while the reduction goes on; `None` if there is no
    /// remainder.
    pub quotient: Option<u64>,
    /// The reduction is complete.
    pub complete: bool,
}

const INTEGER: u64 = 1 << 63;
const QUIET: u64 = 1 << 62;
const TOP: u16 = 0x7fff;
const BIAS: i32 = 16383;
/// What an unmasked overflow takes off the exponent, and an unmasked underflow adds (Intel SDM
/// volume 1, sections 8.5.4 and 8.5.5).
const WRAP: i32 = 0x6000;

impl F80 {
    /// Plus zero.
    pub const ZERO: Self = Self { significand: 0, exponent: 0 };
    /// One.
    pub const ONE: Self = Self { significand: INTEGER, exponent: 0x3fff };
    /// Plus infinity.
    pub const INFINITY: Self = Self { significand: INTEGER, exponent: TOP };
    /// The default NaN.
    pub const INDEFINITE: Self = Self { significand: INTEGER | QUIET, exponent: 0xffff };

    /// The sign.
    pub fn sign(self) -> bool {
        self.exponent >> 15 != 0
    }

    /// The same value with this sign.
    #[must_use]
    pub fn with_sign(self, sign: bool) -> Self {
        Self { exponent: self.exponent & TOP | u16::from(sign) << 15, ..self }
    }

    /// An encoding that the x87 unit refuses: an integer bit of 0 where a 1 belongs.
    pub fn is_unsupported(self) -> bool {
        self.exponent & TOP != 0 && self.significand & INTEGER == 0
    }

    /// A NaN, of either kind.
    pub fn is_nan(self) -> bool {
        self.exponent & TOP == TOP && self.significand << 1 != 0 && !self.is_unsupported()
    }

    /// An infinity.
    pub fn is_infinite(self) -> bool {
        self.exponent & TOP == TOP && self.significand == INTEGER
    }

    /// A zero.
    pub fn is_zero(self) -> bool {
        self.exponent & TOP == 0 && self.significand == 0
    }

    /// A denormal or pseudo-denormal.
    pub fn is_denormal(self) -> bool {
        self.exponent & TOP == 0 && self.significand != 0
    }

    fn is_signalling(self) -> bool {
        self.is_nan() && self.significand & QUIET == 0
    }

    pub(super) fn unpack(self) -> Number {
        let sign = self.sign();
        let raw = i32::from(self.exponent & TOP);
        let significand = u128::from(self.significand) << (ONE - 63);
        if raw == i32::from(TOP) {
            let class = match self.significand << 1 {
                0 => Class::Infinity,
                _ if self.significand & QUIET != 0 => Class::Quiet,
                _ => Class::Signalling,
            };
            // The payload of a NaN lies below its first place.
            let significand = significand & !(1 << ONE);
            return Number { class, significand, ..Number::zero(sign) };
        }
        if self.significand == 0 {
            return Number::zero(sign);
        }
        let exponent = raw.max(1) - BIAS;
        Number { denormal: raw == 0, ..Number::finite(sign, exponent, significand) }
    }

    pub(super) fn pack(number: &Number, bits: u32, env: &mut Env) -> Self {
        let sign = u16::from(number.sign) << 15;
        match number.class {
            Class::Zero => Self { significand: 0, exponent: sign },
            Class::Infinity => Self { significand: INTEGER, exponent: sign | TOP },
            Class::Quiet | Class::Signalling => Self {
                significand: (number.significand >> (ONE - 63)) as u64 | INTEGER | QUIET,
                exponent: sign | TOP,
            },
            Class::Finite => {
                let rounded = match number.wrapped(bits, env) {
                    Some(wrapped) => wrapped.round(&EXTENDED, bits, env),
                    None => return Self::far_out(number, env),
                };
                let raw = if rounded.infinite {
                    TOP
                } else if rounded.denormal {
                    0
                } else {
                    (rounded.exponent + BIAS) as u16
                };
                Self { significand: rounded.significand, exponent: sign | raw }
            }
        }
    }

    /// What FSCALE gives where not even a wrapped exponent is in range.
    fn far_out(number: &Number, env: &mut Env) -> Self {
        env.flags |= PRECISION;
        env.rounded_up = number.exponent > 0;
        let result = if env.rounded_up { Self::INFINITY } else { Self::ZERO };
        result.with_sign(number.sign)
    }

    /// The NaN that an operation on these gives, if one of them is one, or is unsupported.
    fn propagate(left: Self, right: Self, env: &mut Env) -> Option<Self> {
        if left.is_unsupported() || right.is_unsupported() {
            env.flags |= INVALID;
            return Some(Self::INDEFINITE);
        }
        if left.is_signalling() || right.is_signalling() {
            env.flags |= INVALID;
        }
        let quiet = |value: Self| Self { significand: value.significand | QUIET, ..value };
        match (left.is_nan(), right.is_nan()) {
            (true, true) => {
                // A signalling NaN yields to a quiet one; else the larger significand wins, and of
                // equal ones the positive.
                let key = |value: Self| (!value.is_signalling(), value.significand, !value.sign());
                let mixed = left.is_signalling() != right.is_signalling();
                let first = if mixed {
                    key(left) >= key(right)
                } else {
                    (left.significand, !left.sign()) >= (right.significand, !right.sign())
                };
                Some(quiet(if first { left } else { right }))
            }
            (true, false) => Some(quiet(left)),
            (false, true) => Some(quiet(right)),
            (false, false) => None,
        }
    }

    fn binary(
        left: Self,
        right: Self,
        env: &mut Env,
        operation: impl FnOnce(&Number, &Number, &mut Env) -> Number,
    ) -> Self {
        if let Some(nan) = Self::propagate(left, right, env) {
            return nan;
        }
        let result = operation(&left.unpack(), &right.unpack(), env);
        let bits = env.precision;
        Self::pack(&result, bits, env)
    }

    /// Adds.
    #[must_use]
    pub fn add(self, other: Self, env: &mut Env) -> Self {
        Self::binary(self, other, env, number::add)
    }

    /// Subtracts.
    #[must_use]
    pub fn sub(self, other: Self, env: &mut Env) -> Self {
        Self::binary(self, other, env, |left, right, env| {
            number::add(left, &Number { sign: !right.sign, ..*right }, env)
        })
    }

    /// Multiplies.
    #[must_use]
    pub fn mul(self, other: Self, env: &mut Env) -> Self {
        Self::binary(self, other, env, number::multiply)
    }

    /// Divides.
    #[must_use]
    pub fn div(self, other: Self, env: &mut Env) -> Self {
        Self::binary(self, other, env, number::divide)
    }

    /// The square root.
    #[must_use]
    pub fn sqrt(self, env: &mut Env) -> Self {
        Self::binary(self, self, env, |number, _, env| number::square_root(number, env))
    }

    /// Compares. A quiet comparison is invalid for signalling NaNs only.
    pub fn compare(self, other: Self, quiet: bool, env: &mut Env) -> Order {
        if self.is_unsupported() || other.is_unsupported() {
            env.flags |= INVALID;
            return Order::Unordered;
        }
        if self.is_nan() || other.is_nan() {
            if !quiet || self.is_signalling() || other.is_signalling() {
                env.flags |= INVALID;
            }
            return Order::Unordered;
        }
        let (left, right) = (self.unpack(), other.unpack());
        note_denormal(env, &[&left, &right]);
        let key = |value: &Number| {
            let size = match value.class {
                Class::Zero => (i32::MIN, 0),
                Class::Infinity => (i32::MAX, 0),
                _ => (value.exponent, value.significand),
            };
            (value.sign && value.class != Class::Zero, size)
        };
        let ((left_negative, left_size), (right_negative, right_size)) = (key(&left), key(&right));
        let order = match (left_negative, right_negative) {
            (false, true) => std::cmp::Ordering::Greater,
            (true, false) => std::cmp::Ordering::Less,
            (false, false) => left_size.cmp(&right_size),
            (true, true) => right_size.cmp(&left_size),
        };
        match order {
            std::cmp::Ordering::Less => Order::Less,
            std::cmp::Ordering::Equal => Order::Equal,
            std::cmp::Ordering::Greater => Order::Greater,
        }
    }

    /// Rounds to a whole number.
    #[must_use]
    pub fn round_to_integer(self, env: &mut Env) -> Self {
        if let Some(nan) = Self::propagate(self, self, env) {
            return nan;
        }
        let number = self.unpack();
        note_denormal(env, &[&number]);
        if number.class != Class::Finite || number.exponent >= 63 {
            return self;
        }
        let whole = number.to_integer(env).expect("it is below 2^63");
        if whole == 0 {
            return Self::ZERO.with_sign(number.sign);
        }
        let up = env.rounded_up;
        let packed = Self::pack(&Number::finite(number.sign, ONE as i32, whole), 64, env);
        env.rounded_up = up;
        packed
    }

    /// To an integer of 16, 32 or 64 bits; `None`, with the invalid flag, if it does not fit.
    pub fn to_integer(self, bits: u32, env: &mut Env) -> Option<i64> {
        if self.is_unsupported() {
            env.flags |= INVALID;
            return None;
        }
        to_signed(&self.unpack(), bits, env)
    }

    /// From an integer; exact.
    pub fn from_integer(value: i64) -> Self {
        let mut env = Env::from_x87(0x37f);
        Self::pack(&from_signed(value), 64, &mut env)
    }

    /// From single precision, exactly: a signalling NaN still signals. Also tells whether it was a
    /// denormal, which no longer shows.
    pub fn from_f32(bits: u32) -> (Self, bool) {
        Self::widen(&F32.unpack(bits.into(), &Env::from_x87(0x37f)))
    }

    /// From double precision, likewise.
    pub fn from_f64(bits: u64) -> (Self, bool) {
        Self::widen(&F64.unpack(bits, &Env::from_x87(0x37f)))
    }

    fn widen(number: &Number) -> (Self, bool) {
        let mut value = Self::pack(number, 64, &mut Env::from_x87(0x37f));
        if number.class == Class::Signalling {
            value.significand &= !QUIET;
        }
        (value, number.denormal)
    }

    /// The same value, quiet if it was a signalling NaN; then, or if it is not supported, it is
    /// invalid.
    #[must_use]
    pub fn quieted(self, env: &mut Env) -> Self {
        Self::propagate(self, self, env).unwrap_or(self)
    }

    fn narrowed(self, format: &Format, env: &mut Env) -> u64 {
        let number = self.quieted(env).unpack();
        let result = number.pack(format, env);
        if number.class == Class::Finite {
            // A store with an unmasked overflow or underflow does not happen, so it is not inexact;
            // an unmasked underflow is a tiny number, even an exact one.
            let exponent = number.rounded_exponent(format.precision, env.rounding);
            if env.unmasked & UNDERFLOW != 0 && exponent < format.least {
                env.flags |= UNDERFLOW;
            }
            if env.flags & env.unmasked & (OVERFLOW | UNDERFLOW) != 0 {
                env.flags &= !PRECISION;
                env.rounded_up = false;
            }
        }
        result
    }

    /// To single precision.
    pub fn to_f32(self, env: &mut Env) -> u32 {
        self.narrowed(&F32.format, env) as u32
    }

    /// To double precision.
    pub fn to_f64(self, env: &mut Env) -> u64 {
        self.narrowed(&F64.format, env)
    }

    /// The remainder of FPREM (`nearest` false) and FPREM1.
    pub fn remainder(self, other: Self, nearest: bool, env: &mut Env) -> Remainder {
        let without = |rest| Remainder { rest, quotient: None, complete: true };
        if let Some(nan) = Self::propagate(self, other, env) {
            return without(nan);
        }
        let (left, right) = (self.unpack(), other.unpack());
        if left.class == Class::Infinity || right.class == Class::Zero {
            env.flags |= INVALID;
            return without(Self::INDEFINITE);
        }
        note_denormal(env, &[&left, &right]);
        let difference = left.exponent - right.exponent;
        if left.class == Class::Zero
            || right.class == Class::Infinity
            || difference < -1
            || difference < 0 && !nearest
        {
            return Remainder {
                rest: Self::pack(&left, 64, env),
                quotient: Some(0),
                complete: true,
            };
        }
        // One go reduces the exponent by less than 64.
        let complete = difference < 64;
        let steps = if complete { difference } else { 32 + difference % 32 };
        let divisor = right.significand >> 63;
        let mut rest = left.significand >> 63;
        let mut quotient = 0u64;
        for _ in 0..steps.max(0) {
            quotient <<= 1;
            if rest >= divisor {
                rest -= divisor;
                quotient |= 1;
            }
            rest <<= 1;
        }
        quotient <<= 1;
        let mut exponent = left.exponent - steps.max(0);
        if !complete {
            // The divisor times a power of two was taken away; the quotient is not told.
            if rest >= divisor {
                rest -= divisor;
            }
            let rest = Self::from_rest(left.sign, rest, exponent, env);
            return Remainder { rest, quotient: Some(0), complete };
        }
        if difference >= 0 && rest >= divisor {
            rest -= divisor;
            quotient |= 1;
        }
        let mut sign = left.sign;
        if nearest {
            // Compare twice the rest with the divisor, both at the divisor's exponent.
            let twice = if difference < 0 { rest } else { rest << 1 };
            if twice > divisor || twice == divisor && quotient & 1 != 0 {
                rest = if difference < 0 { (divisor << 1) - rest } else { divisor - rest };
                quotient = quotient.wrapping_add(1);
                sign = !sign;
            }
        }
        if difference < 0 {
            exponent = left.exponent;
        }
        let sign = if rest == 0 { left.sign } else { sign };
        let rest = Self::from_rest(sign, rest, exponent, env);
        Remainder { rest, quotient: Some(quotient & 7), complete }
    }

    fn from_rest(sign: bool, rest: u128, exponent: i32, env: &mut Env) -> Self {
        if rest == 0 {
            return Self::ZERO.with_sign(sign);
        }
        // The rest is exact, and so is its rounding.
        Self::pack(&Number::finite(sign, exponent, rest << 63), 64, env)
    }

    /// Multiplies by a power of two.
    #[must_use]
    pub fn scale(self, by: i32, env: &mut Env) -> Self {
        let number = self.unpack();
        if number.class != Class::Finite {
            return self;
        }
        let scaled = Number { exponent: number.exponent.saturating_add(by), ..number };
        Self::pack(&scaled, 64, env)
    }

    /// Exponent and significand of a finite number that is not zero.
    pub fn extract(self) -> (i32, Self) {
        let number = self.unpack();
        let mut env = Env::from_x87(0x37f);
        let significand = Self::pack(&Number { exponent: 0, ..number }, 64, &mut env);
        (number.exponent, significand)
    }

    /// The integer that a packed decimal of 18 digits holds.
    pub fn from_decimal(bytes: &[u8; 10]) -> Self {
        let digits = bytes[..9].iter().rev().fold(0i64, |value, byte| {
            value * 100 + i64::from(byte >> 4) * 10 + i64::from(byte & 15)
        });
        Self::from_integer(digits).with_sign(bytes[9] & 0x80 != 0)
    }

    /// As a packed decimal of 18 digits; `None`, with the invalid flag, if it does not fit.
    pub fn to_decimal(self, env: &mut Env) -> Option<[u8; 10]> {
        let before = env.flags;
        let value = self.to_integer(64, env);
        let Some(mut rest) = value.map(i64::unsigned_abs).filter(|value| *value < 10u64.pow(18))
        else {
            env.flags = before | INVALID;
            return None;
        };
        let mut bytes = [0; 10];
        for byte in &mut bytes[..9] {
            let pair = (rest % 100) as u8;
            *byte = (pair / 10) << 4 | (pair % 10);
            rest /= 100;
        }
        bytes[9] = u8::from(self.sign()) << 7;
        Some(bytes)
    }
}

impl Number {
    /// The number with its exponent wrapped around if it overflows or underflows and that is not
    /// masked; `None` if that does not bring it into range.
    fn wrapped(&self, bits: u32, env: &mut Env) -> Option<Self> {
        let exponent = self.rounded_exponent(bits, env.rounding);
        let (flag, wrap) = if exponent > EXTENDED.greatest {
            (OVERFLOW, -WRAP)
        } else if exponent < EXTENDED.least {
            (UNDERFLOW, WRAP)
        } else {
            return Some(*self);
        };
        if env.unmasked & flag == 0 {
            return Some(*self);
        }
        env.flags |= flag;
        (EXTENDED.least..=EXTENDED.greatest)
            .contains(&(exponent + wrap))
            .then_some(Self { exponent: self.exponent + wrap, ..*self })
    }
}
