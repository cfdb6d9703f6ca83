//! A number taken apart, and rounded back into a format.

use super::{DENORMAL, Env, INVALID, OVERFLOW, PRECISION, Rounding, UNDERFLOW};

/// What a bit pattern stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Zero,
    Finite,
    Infinity,
    /// A NaN; its payload is in the significand's top bits.
    Quiet,
    Signalling,
}

/// A number: for a finite one `significand / 2^126 * 2^exponent`, bit 126 set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    pub(super) sign: bool,
    pub(super) class: Class,
    pub(super) exponent: i32,
    pub(super) significand: u128,
    pub(super) denormal: bool,
}

/// Bit of the significand that stands for one.
pub(super) const ONE: u32 = 126;

/// A binary format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    /// Significant bits, the leading one counted.
    pub(super) precision: u32,
    /// Least and greatest exponent of a normal number.
    pub(super) least: i32,
    pub(super) greatest: i32,
}

pub(super) const SINGLE: Format = Format { precision: 24, least: -126, greatest: 127 };
pub(super) const DOUBLE: Format = Format { precision: 53, least: -1022, greatest: 1023 };
pub(super) const EXTENDED: Format = Format { precision: 64, least: -16382, greatest: 16383 };

/// A rounded finite result: the significand has the format's precision, or is shorter for a
/// denormal one; an exponent past the greatest stands for infinity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounded {
    pub(super) significand: u64,
    pub(super) exponent: i32,
    pub(super) denormal: bool,
    pub(super) infinite: bool,
}

/// Shifts right; what falls out is or-ed into the lowest bit.
pub(super) fn shift_sticky(value: u128, by: u32) -> u128 {
    if by == 0 {
        value
    } else if by > 127 {
        u128::from(value != 0)
    } else {
        value >> by | u128::from(value << (128 - by) != 0)
    }
}

/// Rounds to `bits` significant bits with bit 126 as the leading place. Returns the significand (it
/// may have carried into one bit more), and whether it is inexact and went up.
fn round_bits(significand: u128, bits: u32, sign: bool, rounding: Rounding) -> (u128, bool, bool) {
    let drop = ONE + 1 - bits;
    let rest = significand & ((1 << drop) - 1);
    let kept = significand >> drop;
    let half = 1u128 << (drop - 1);
    let up = match rounding {
        Rounding::NearestEven => rest > half || rest == half && kept & 1 != 0,
        Rounding::Down => sign && rest != 0,
        Rounding::Up => !sign && rest != 0,
        Rounding::TowardZero => false,
    };
    (kept + u128::from(up), rest != 0, up)
}

impl Number {
    pub(super) fn zero(sign: bool) -> Self {
        Self { sign, class: Class::Zero, exponent: 0, significand: 0, denormal: false }
    }

    pub(super) fn infinity(sign: bool) -> Self {
        Self { class: Class::Infinity, ..Self::zero(sign) }
    }

    /// A finite number from any nonzero significand.
    pub(super) fn finite(sign: bool, exponent: i32, significand: u128) -> Self {
        let shift = significand.leading_zeros() as i32 - 1;
        let significand =
            if shift >= 0 { significand << shift } else { shift_sticky(significand, 1) };
        Self {
            sign,
            class: Class::Finite,
            exponent: exponent - shift,
            significand,
            denormal: false,
        }
    }

    /// Takes a 32- or 64-bit pattern apart: `fraction` bits, then the exponent, then the sign.
    pub(super) fn unpack(bits: u64, fraction: u32, exponent_bits: u32, env: &Env) -> Self {
        let sign = bits >> (fraction + exponent_bits) & 1 != 0;
        let raw = (bits >> fraction & ((1 << exponent_bits) - 1)) as i32;
        let low = bits & ((1 << fraction) - 1);
        let bias = (1 << (exponent_bits - 1)) - 1;
        let place = ONE - fraction;
        if raw == (1 << exponent_bits) - 1 {
            let class = match low {
                0 => Class::Infinity,
                _ if low >> (fraction - 1) & 1 != 0 => Class::Quiet,
                _ => Class::Signalling,
            };
            let significand = u128::from(low) << place;
            return Self { class, significand, ..Self::zero(sign) };
        }
        if raw == 0 {
            if low == 0 || env.denormals_are_zero {
                return Self::zero(sign);
            }
            let number = Self::finite(sign, 1 - bias, u128::from(low) << place);
            return Self { denormal: true, ..number };
        }
        let significand = u128::from(low | 1 << fraction) << place;
        Self { sign, class: Class::Finite, exponent: raw - bias, significand, denormal: false }
    }

    pub(super) fn is_nan(&self) -> bool {
        matches!(self.class, Class::Quiet | Class::Signalling)
    }

    /// The exponent after rounding to `bits` bits, were there no end to the range.
    pub(super) fn rounded_exponent(&self, bits: u32, rounding: Rounding) -> i32 {
        let (wide, _, _) = round_bits(self.significand, bits, self.sign, rounding);
        self.exponent + i32::from(wide >> bits != 0)
    }

    /// Rounds a finite number to `bits` bits within the range of a format, and enters the flags.
    pub(super) fn round(&self, format: &Format, bits: u32, env: &mut Env) -> Rounded {
        let (wide, inexact, up) = round_bits(self.significand, bits, self.sign, env.rounding);
        let carried = wide >> bits != 0;
        let exponent = self.exponent + i32::from(carried);
        if exponent < format.least {
            return self.round_tiny(format, bits, env);
        }
        env.rounded_up = up;
        if inexact {
            env.flags |= PRECISION;
        }
        if exponent > format.greatest {
            env.flags |= OVERFLOW | PRECISION;
            let to_infinity = match env.rounding {
                Rounding::NearestEven => true,
                Rounding::Down => self.sign,
                Rounding::Up => !self.sign,
                Rounding::TowardZero => false,
            };
            env.rounded_up = to_infinity;
            let largest = (u128::MAX >> (128 - bits)) << (format.precision - bits);
            return Rounded {
                significand: if to_infinity { 1 << (format.precision - 1) } else { largest as u64 },
                exponent: format.greatest,
                denormal: false,
                infinite: to_infinity,
            };
        }
        let kept = if carried { wide >> 1 } else { wide };
        Rounded {
            significand: (kept << (format.precision - bits)) as u64,
            exponent,
            denormal: false,
            infinite: false,
        }
    }

    /// A result below the normal range: its lowest place is the format's own.
    fn round_tiny(&self, format: &Format, bits: u32, env: &mut Env) -> Rounded {
        if env.flush_to_zero {
            env.flags |= UNDERFLOW | PRECISION;
            env.rounded_up = false;
            return Rounded {
                significand: 0,
                exponent: format.least,
                denormal: true,
                infinite: false,
            };
        }
        let by = (format.least - self.exponent).unsigned_abs();
        let shifted = shift_sticky(self.significand, by);
        let (kept, inexact, up) = round_bits(shifted, bits, self.sign, env.rounding);
        env.rounded_up = up;
        if inexact {
            env.flags |= UNDERFLOW | PRECISION;
        }
        let significand = (kept << (format.precision - bits)) as u64;
        // Rounding may bring it back to the least normal number.
        let denormal = significand >> (format.precision - 1) == 0;
        Rounded { significand, exponent: format.least, denormal, infinite: false }
    }

    /// Rounds into a 32- or 64-bit pattern.
    pub(super) fn pack(&self, format: &Format, env: &mut Env) -> u64 {
        let fraction = format.precision - 1;
        let bias = format.greatest;
        let top = (2 * bias as u64 + 1) << fraction;
        let sign = u64::from(self.sign) << if *format == SINGLE { 31 } else { 63 };
        sign | match self.class {
            Class::Zero => 0,
            Class::Infinity => top,
            Class::Quiet | Class::Signalling => {
                let payload = (self.significand >> (ONE - fraction)) as u64;
                top | 1 << (fraction - 1) | payload & ((1 << fraction) - 1)
            }
            Class::Finite => {
                let rounded = self.round(format, format.precision, env);
                if rounded.infinite {
                    top
                } else if rounded.denormal {
                    rounded.significand
                } else {
                    let raw = (rounded.exponent + bias) as u64;
                    raw << fraction | rounded.significand & ((1 << fraction) - 1)
                }
            }
        }
    }

    /// Rounds to an integer: magnitude and whether it is inexact. `None` if it is 2^127 or more.
    pub(super) fn to_integer(self, env: &mut Env) -> Option<u128> {
        if self.class == Class::Zero {
            return Some(0);
        }
        if self.exponent > 126 {
            return None;
        }
        let by = ONE as i32 - self.exponent;
        let (whole, rest, half) = if by > 127 {
            (0, self.significand, u128::MAX)
        } else if by == 0 {
            (self.significand, 0, 1)
        } else {
            (self.significand >> by, self.significand & ((1 << by) - 1), 1 << (by - 1))
        };
        let up = match env.rounding {
            Rounding::NearestEven => rest > half || rest == half && whole & 1 != 0,
            Rounding::Down => self.sign && rest != 0,
            Rounding::Up => !self.sign && rest != 0,
            Rounding::TowardZero => false,
        };
        if rest != 0 {
            env.flags |= PRECISION;
        }
        env.rounded_up = up;
        Some(whole + u128::from(up))
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.precision == other.precision
    }
}

/// The default NaN: negative, quiet, no payload.
pub(super) fn default_nan(env: &mut Env) -> Number {
    env.flags |= INVALID;
    let significand = 1 << (ONE - 1);
    Number { class: Class::Quiet, significand, ..Number::zero(true) }
}

/// Enters that an operand is denormal.
pub(super) fn note_denormal(env: &mut Env, operands: &[&Number]) {
    if operands.iter().any(|operand| operand.denormal) {
        env.flags |= DENORMAL;
    }
}

fn magnitude_cmp(left: &Number, right: &Number) -> std::cmp::Ordering {
    (left.exponent, left.significand).cmp(&(right.exponent, right.significand))
}

/// Adds two numbers, neither of them a NaN.
pub(super) fn add(left: &Number, right: &Number, env: &mut Env) -> Number {
    match (left.class, right.class) {
        (Class::Infinity, Class::Infinity) if left.sign != right.sign => return default_nan(env),
        (Class::Infinity, _) => {
            note_denormal(env, &[right]);
            return *left;
        }
        (_, Class::Infinity) => {
            note_denormal(env, &[left]);
            return *right;
        }
        _ => {}
    }
    note_denormal(env, &[left, right]);
    match (left.class, right.class) {
        (Class::Zero, Class::Zero) => {
            let down = env.rounding == Rounding::Down;
            return Number::zero(if left.sign == right.sign { left.sign } else { down });
        }
        (Class::Zero, _) => return *right,
        (_, Class::Zero) => return *left,
        _ => {}
    }
    let (large, small) =
        if magnitude_cmp(left, right).is_lt() { (right, left) } else { (left, right) };
    let by = (large.exponent - small.exponent).unsigned_abs();
    let aligned = shift_sticky(small.significand, by);
    if large.sign == small.sign {
        return Number::finite(large.sign, large.exponent, large.significand + aligned);
    }
    let difference = large.significand - aligned;
    if difference == 0 {
        return Number::zero(env.rounding == Rounding::Down);
    }
    Number::finite(large.sign, large.exponent, difference)
}

/// Multiplies two numbers, neither of them a NaN. Significands have at most 64 bits.
pub(super) fn multiply(left: &Number, right: &Number, env: &mut Env) -> Number {
    let sign = left.sign != right.sign;
    match (left.class, right.class) {
        (Class::Infinity, Class::Zero) | (Class::Zero, Class::Infinity) => return default_nan(env),
        (Class::Infinity, _) | (_, Class::Infinity) => {
            note_denormal(env, &[left, right]);
            return Number::infinity(sign);
        }
        _ => {}
    }
    note_denormal(env, &[left, right]);
    if left.class == Class::Zero || right.class == Class::Zero {
        return Number::zero(sign);
    }
    let product = (left.significand >> 63) * (right.significand >> 63);
    Number::finite(sign, left.exponent + right.exponent, product)
}

/// Divides two numbers, neither of them a NaN. Significands have at most 64 bits.
pub(super) fn divide(left: &Number, right: &Number, env: &mut Env) -> Number {
    let sign = left.sign != right.sign;
    match (left.class, right.class) {
        (Class::Infinity, Class::Infinity) | (Class::Zero, Class::Zero) => {
            return default_nan(env);
        }
        (Class::Infinity, _) => {
            note_denormal(env, &[right]);
            return Number::infinity(sign);
        }
        (_, Class::Infinity) => {
            note_denormal(env, &[left]);
            return Number::zero(sign);
        }
        (_, Class::Zero) => {
            env.flags |= super::ZERO_DIVIDE;
            return Number::infinity(sign);
        }
        _ => {}
    }
    note_denormal(env, &[left, right]);
    if left.class == Class::Zero {
        return Number::zero(sign);
    }
    let (dividend, divisor) = (left.significand >> 63, right.significand >> 63);
    let first = (dividend << 63) / divisor;
    let rest = (dividend << 63) % divisor;
    let second = (rest << 63) / divisor;
    let sticky = u128::from((rest << 63) % divisor != 0);
    // `first` has 63 or 64 bits and stands for the quotient times 2^63.
    let quotient = (first << 63) + second;
    Number::finite(sign, left.exponent - right.exponent, quotient | sticky)
}

/// The square root of a number that is no NaN.
pub(super) fn square_root(number: &Number, env: &mut Env) -> Number {
    match (number.class, number.sign) {
        (Class::Zero, _) | (Class::Infinity, false) => return *number,
        (_, true) => return default_nan(env),
        _ => {}
    }
    note_denormal(env, &[number]);
    // Make the exponent even; the radicand is then in [1, 4).
    let odd = number.exponent.rem_euclid(2);
    let radicand = number.significand << odd;
    let exponent = (number.exponent - odd) / 2;
    // Two bits of the radicand give one of the root: 64 from it, the others from zeros.
    let (mut root, mut rest) = (0u128, 0u128);
    for step in 0..70 {
        let pair = if step < 64 { radicand >> (126 - 2 * step) & 3 } else { 0 };
        rest = rest << 2 | pair;
        let trial = root << 2 | 1;
        root <<= 1;
        if rest >= trial {
            rest -= trial;
            root |= 1;
        }
    }
    let sticky = u128::from(rest != 0);
    // The root's 70 bits start at its first place, which is one.
    Number::finite(false, exponent, (root << (ONE + 1 - 70)) | sticky)
}
