//! The 80-bit format of the x87 unit, with its NaN rule (the larger significand), its unsupported
//! encodings and its precision control (Intel SDM volume 1, sections 4.8.3.5, 8.1.5.2 and 8.2.2).

use super::arithmetic::{F32, F64};
use super::convert::{from_signed, to_signed};
use super::number::{self, Class, EXTENDED, Number, ONE, note_denormal};
use super::{Env, INVALID};

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

const INTEGER: u64 = 1 << 63;
const QUIET: u64 = 1 << 62;
const TOP: u16 = 0x7fff;
const BIAS: i32 = 16383;

impl F80 {
    /// Plus zero.
    pub const ZERO: Self = Self { significand: 0, exponent: 0 };
    /// One.
    pub const ONE: Self = Self { significand: INTEGER, exponent: 0x3fff };
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

    fn unpack(self) -> Number {
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

    fn pack(number: &Number, bits: u32, env: &mut Env) -> Self {
        let sign = u16::from(number.sign) << 15;
        match number.class {
            Class::Zero => Self { significand: 0, exponent: sign },
            Class::Infinity => Self { significand: INTEGER, exponent: sign | TOP },
            Class::Quiet | Class::Signalling => Self {
                significand: (number.significand >> (ONE - 63)) as u64 | INTEGER | QUIET,
                exponent: sign | TOP,
            },
            Class::Finite => {
                let rounded = number.round(&EXTENDED, bits, env);
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

    /// From single precision.
    pub fn from_f32(bits: u32, env: &mut Env) -> Self {
        Self::widen(&F32.unpack(bits.into(), env), env)
    }

    /// From double precision.
    pub fn from_f64(bits: u64, env: &mut Env) -> Self {
        Self::widen(&F64.unpack(bits, env), env)
    }

    fn widen(number: &Number, env: &mut Env) -> Self {
        if number.class == Class::Signalling {
            env.flags |= INVALID;
        }
        note_denormal(env, &[number]);
        Self::pack(number, 64, env)
    }

    fn narrowed(self, env: &mut Env) -> Option<Number> {
        if self.is_unsupported() {
            env.flags |= INVALID;
            return None;
        }
        if self.is_signalling() {
            env.flags |= INVALID;
        }
        Some(self.unpack())
    }

    /// To single precision.
    pub fn to_f32(self, env: &mut Env) -> u32 {
        self.narrowed(env).map_or(0xffc0_0000, |number| number.pack(&F32.format, env) as u32)
    }

    /// To double precision.
    pub fn to_f64(self, env: &mut Env) -> u64 {
        self.narrowed(env).map_or(0xfff8_0000_0000_0000, |number| number.pack(&F64.format, env))
    }

    /// The remainder of FPREM (`nearest` false) and FPREM1: the partial remainder, the low three
    /// bits of the quotient, and whether the reduction is complete.
    pub fn remainder(self, other: Self, nearest: bool, env: &mut Env) -> (Self, u64, bool) {
        if let Some(nan) = Self::propagate(self, other, env) {
            return (nan, 0, true);
        }
        let (left, right) = (self.unpack(), other.unpack());
        if left.class == Class::Infinity || right.class == Class::Zero {
            env.flags |= INVALID;
            return (Self::INDEFINITE, 0, true);
        }
        note_denormal(env, &[&left, &right]);
        if left.class == Class::Zero || right.class == Class::Infinity {
            return (self, 0, true);
        }
        let difference = left.exponent - right.exponent;
        if difference < -1 || difference < 0 && !nearest {
            return (self, 0, true);
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
            let part = Self::from_rest(left.sign, rest, exponent, env);
            return (part, 0, false);
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
        if rest == 0 {
            return (Self::ZERO.with_sign(left.sign), quotient & 7, true);
        }
        (Self::from_rest(sign, rest, exponent, env), quotient & 7, true)
    }

    fn from_rest(sign: bool, rest: u128, exponent: i32, env: &mut Env) -> Self {
        if rest == 0 {
            return Self::ZERO.with_sign(sign);
        }
        // The rest is exact, and so is its rounding.
        let flags = env.flags;
        let packed = Self::pack(&Number::finite(sign, exponent, rest << 63), 64, env);
        env.flags |= flags;
        packed
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
