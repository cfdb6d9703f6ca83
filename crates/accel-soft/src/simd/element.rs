//! Floating-point elements of a register, and how an operation runs over all of them or over the
//! lowest.

use super::SimdEnv;
use super::environment::Elements;
use super::lanes::{dwords, from_dwords, from_qwords, qwords};
use crate::softfloat;

/// An operation on two elements: `(environment, destination, source)`.
pub(super) type Operation<E> = fn(&mut Elements, E, E) -> E;

/// The bits of a floating-point number: single precision in `u32`, double in `u64`.
pub(super) trait Element: Copy + PartialEq {
    /// Zero.
    const ZERO: Self;
    /// The result of a comparison that is true.
    const ALL_ONES: Self;

    /// Replaces every element of a register.
    fn map(left: u128, right: u128, f: impl FnMut(Self, Self) -> Self) -> u128;
    /// The lowest element.
    fn lowest(register: u128) -> Self;
    /// `register` with another lowest element.
    fn with_lowest(register: u128, element: Self) -> u128;

    /// The sign is set.
    fn is_negative(self) -> bool;
    /// The number with its sign cleared, as an integer: in order of magnitude.
    fn magnitude(self) -> u64;
    /// The magnitude of infinity.
    const INFINITY: u64;
    /// The magnitude of the least normal number.
    const LEAST_NORMAL: u64;
    /// The fraction bit that makes a NaN quiet.
    const QUIET: u64;
    /// The magnitude of one.
    const ONE: u64;
    /// A zero with the sign of this number.
    fn signed_zero(self) -> Self;
    /// A number of this sign with another magnitude.
    fn with_magnitude(self, magnitude: u64) -> Self;

    /// Sum.
    fn add(env: &mut Elements, a: Self, b: Self) -> Self;
    /// Difference.
    fn sub(env: &mut Elements, a: Self, b: Self) -> Self;
    /// Product.
    fn mul(env: &mut Elements, a: Self, b: Self) -> Self;
    /// Quotient.
    fn div(env: &mut Elements, a: Self, b: Self) -> Self;
    /// Square root.
    fn sqrt(env: &mut Elements, a: Self) -> Self;
    /// The nearest number, by the environment's rounding.
    fn from_integer(env: &mut Elements, integer: i64) -> Self;
    /// A signed 32-bit integer; 2^31 and the invalid exception where there is none.
    fn to_dword(self, env: &mut Elements) -> u32;
    /// A signed 64-bit integer; 2^63 and the invalid exception where there is none.
    fn to_qword(self, env: &mut Elements) -> u64;

    /// Not a number.
    fn is_nan(self) -> bool {
        self.magnitude() > Self::INFINITY
    }

    /// A NaN that signals.
    fn is_signalling(self) -> bool {
        self.is_nan() && self.magnitude() & Self::QUIET == 0
    }

    /// The significand: a number between one and two that has the same digits. Zeros, infinities
    /// and NaNs stay what they are.
    fn significand(self) -> Self {
        let magnitude = self.magnitude();
        if magnitude == 0 || magnitude >= Self::INFINITY {
            return self;
        }
        let mut fraction = magnitude % Self::LEAST_NORMAL;
        if magnitude < Self::LEAST_NORMAL {
            while fraction < Self::LEAST_NORMAL {
                fraction <<= 1;
            }
            fraction -= Self::LEAST_NORMAL;
        }
        self.with_magnitude(Self::ONE + fraction)
    }

    /// Zero, or normal and not among the least of these: raises nothing as an operand, and as a
    /// result other than zero nothing but the precision exception.
    fn is_plain(self) -> bool {
        let magnitude = self.magnitude();
        magnitude == 0 || (2 * Self::LEAST_NORMAL..Self::INFINITY).contains(&magnitude)
    }

    /// Not zero, but smaller than any normal number.
    fn is_denormal(self) -> bool {
        self.magnitude() != 0 && self.magnitude() < Self::LEAST_NORMAL
    }
}

macro_rules! element {
    ($bits:ident, $native:ident, $split:ident, $join:ident,
     $add:ident, $sub:ident, $mul:ident, $div:ident, $sqrt:ident,
     $from_integer:ident, $to_dword:ident, $to_qword:ident) => {
        impl Element for $bits {
            const ZERO: $bits = 0;
            const ALL_ONES: $bits = $bits::MAX;
            const INFINITY: u64 = $native::INFINITY.to_bits() as u64;
            const LEAST_NORMAL: u64 = $native::MIN_POSITIVE.to_bits() as u64;
            const ONE: u64 = (1.0 as $native).to_bits() as u64;
            const QUIET: u64 = 1 << ($native::MANTISSA_DIGITS - 2);

            fn map(left: u128, right: u128, mut f: impl FnMut($bits, $bits) -> $bits) -> u128 {
                let (left, right) = ($split(left), $split(right));
                $join(std::array::from_fn(|index| f(left[index], right[index])))
            }

            fn lowest(register: u128) -> $bits {
                register as $bits
            }

            fn with_lowest(register: u128, element: $bits) -> u128 {
                register & !u128::from($bits::MAX) | u128::from(element)
            }

            fn is_negative(self) -> bool {
                self >> ($bits::BITS - 1) != 0
            }

            fn magnitude(self) -> u64 {
                (self & ($bits::MAX >> 1)).into()
            }

            fn signed_zero(self) -> $bits {
                self & !($bits::MAX >> 1)
            }

            fn with_magnitude(self, magnitude: u64) -> $bits {
                self.signed_zero() | magnitude as $bits
            }

            fn add(env: &mut Elements, a: $bits, b: $bits) -> $bits {
                if env.native_is_exact() && a.is_plain() && b.is_plain() {
                    let result = ($native::from_bits(a) + $native::from_bits(b)).to_bits();
                    if result.is_plain() && result.magnitude() != 0 {
                        return result;
                    }
                }
                let (x, y) = smaller(a, b);
                env.rounded(|env| softfloat::$add(a, b, env), |env| softfloat::$add(x, y, env))
            }

            fn sub(env: &mut Elements, a: $bits, b: $bits) -> $bits {
                if env.native_is_exact() && a.is_plain() && b.is_plain() {
                    let result = ($native::from_bits(a) - $native::from_bits(b)).to_bits();
                    if result.is_plain() && result.magnitude() != 0 {
                        return result;
                    }
                }
                let (x, y) = smaller(a, b);
                env.rounded(|env| softfloat::$sub(a, b, env), |env| softfloat::$sub(x, y, env))
            }

            fn mul(env: &mut Elements, a: $bits, b: $bits) -> $bits {
                if env.native_is_exact() && a.is_plain() && b.is_plain() {
                    let result = ($native::from_bits(a) * $native::from_bits(b)).to_bits();
                    if result.is_plain() && result.magnitude() != 0 {
                        return result;
                    }
                }
                env.rounded(
                    |env| softfloat::$mul(a, b, env),
                    |env| softfloat::$mul(a.significand(), b.significand(), env),
                )
            }

            fn div(env: &mut Elements, a: $bits, b: $bits) -> $bits {
                if env.native_is_exact() && a.is_plain() && b.is_plain() {
                    let result = ($native::from_bits(a) / $native::from_bits(b)).to_bits();
                    if result.is_plain() && result.magnitude() != 0 {
                        return result;
                    }
                }
                env.rounded(
                    |env| softfloat::$div(a, b, env),
                    |env| softfloat::$div(a.significand(), b.significand(), env),
                )
            }

            fn sqrt(env: &mut Elements, a: $bits) -> $bits {
                if env.native_is_exact() && a.is_plain() && !a.is_negative() {
                    return $native::from_bits(a).sqrt().to_bits();
                }
                env.simple(|env| softfloat::$sqrt(a, env))
            }

            fn from_integer(env: &mut Elements, integer: i64) -> $bits {
                env.simple(|env| softfloat::$from_integer(integer, env))
            }

            fn to_dword(self, env: &mut Elements) -> u32 {
                env.simple(|env| softfloat::$to_dword(self, env)) as u32
            }

            fn to_qword(self, env: &mut Elements) -> u64 {
                env.simple(|env| softfloat::$to_qword(self, env)) as u64
            }
        }
    };
}

element!(
    u32,
    f32,
    dwords,
    from_dwords,
    f32_add,
    f32_sub,
    f32_mul,
    f32_div,
    f32_sqrt,
    i64_to_f32,
    f32_to_i32,
    f32_to_i64
);
element!(
    u64,
    f64,
    qwords,
    from_qwords,
    f64_add,
    f64_sub,
    f64_mul,
    f64_div,
    f64_sqrt,
    i64_to_f64,
    f64_to_i32,
    f64_to_i64
);

/// Two numbers by a quarter smaller, whose sum is inexact exactly where that of `a` and `b` is:
/// where that sum overflows, or is tiny (and then exact).
fn smaller<E: Element>(a: E, b: E) -> (E, E) {
    if a.magnitude().max(b.magnitude()) < E::ONE {
        return (E::ZERO, E::ZERO);
    }
    // A number too small to be divided adds nothing but inexactness to one that overflows.
    let quarter = |number: E| match number.magnitude().checked_sub(2 * E::LEAST_NORMAL) {
        Some(magnitude) if magnitude >= E::LEAST_NORMAL => number.with_magnitude(magnitude),
        _ => number,
    };
    (quarter(a), quarter(b))
}

/// Runs `operation` on all elements; their exceptions are raised together.
pub(super) fn packed<E: Element>(
    env: &mut SimdEnv,
    destination: u128,
    source: u128,
    operation: Operation<E>,
) -> u128 {
    env.run(|env| E::map(destination, source, |a, b| operation(env, a, b)))
}

/// Runs `operation` on the lowest elements; the others are the destination's.
pub(super) fn scalar<E: Element>(
    env: &mut SimdEnv,
    destination: u128,
    source: u128,
    operation: Operation<E>,
) -> u128 {
    let (a, b) = (E::lowest(destination), E::lowest(source));
    let result = env.run(|env| operation(env, a, b));
    E::with_lowest(destination, result)
}
