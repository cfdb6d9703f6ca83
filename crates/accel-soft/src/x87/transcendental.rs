//! Transcendental functions, by series in the unit's own 64-bit arithmetic.
//!
//! Results are within a few units in the last place of the 64-bit significand, which is what the
//! manual promises of processors (Intel SDM volume 1, section 8.3.10), but not always the bits that
//! one of them gives. They hang on nothing but the operands: the same on every host.

use super::lookup::Operation;
use super::{C2, X87};
use crate::softfloat::{DENORMAL, Env, F80, INVALID, PRECISION, Rounding, ZERO_DIVIDE};

/// Terms of a series at most; each converges well before.
const TERMS: i64 = 40;

const LN_2: F80 = F80 { significand: 0xb172_17f7_d1cf_79ac, exponent: 0x3ffe };
/// 1 / ln 2.
const LOG2_E: F80 = F80 { significand: 0xb8aa_3b29_5c17_f0bc, exponent: 0x3fff };
/// pi / 2 in two parts: what processors of the field reduce by has 66 bits, so the second part has
/// two bits.
const HALF_PI: F80 = F80 { significand: 0xc90f_daa2_2168_c234, exponent: 0x3fff };
const HALF_PI_LOW: F80 = F80 { significand: 0xc000_0000_0000_0000, exponent: 0x3fff - 64 };
const PI: F80 = F80 { significand: 0xc90f_daa2_2168_c235, exponent: 0x4000 };
const QUARTER_PI: F80 = F80 { significand: 0xc90f_daa2_2168_c235, exponent: 0x3ffe };
const SQRT_2: F80 = F80 { significand: 0xb504_f333_f9de_6484, exponent: 0x3fff };
const HALF: F80 = F80 { significand: 1 << 63, exponent: 0x3ffe };
const INFINITY: F80 = F80 { significand: 1 << 63, exponent: 0x7fff };

/// Arithmetic to nearest with flags that nobody looks at.
fn quiet() -> Env {
    Env::from_x87(0x37f)
}

fn add(left: F80, right: F80) -> F80 {
    left.add(right, &mut quiet())
}

fn sub(left: F80, right: F80) -> F80 {
    left.sub(right, &mut quiet())
}

fn mul(left: F80, right: F80) -> F80 {
    left.mul(right, &mut quiet())
}

fn div(left: F80, right: F80) -> F80 {
    left.div(right, &mut quiet())
}

fn negated(value: F80) -> F80 {
    value.with_sign(!value.sign())
}

fn less(left: F80, right: F80) -> bool {
    left.compare(right, true, &mut quiet()) == crate::softfloat::Order::Less
}

/// Sums `first * (1 + next(1) + next(1) next(2) + ...)`.
fn series(first: F80, next: impl Fn(i64) -> F80) -> F80 {
    let (mut sum, mut term) = (first, first);
    for index in 1..TERMS {
        term = mul(term, next(index));
        let grown = add(sum, term);
        if grown == sum {
            break;
        }
        sum = grown;
    }
    sum
}

/// Sine for |x| up to pi / 4.
fn sine(x: F80) -> F80 {
    let minus_square = negated(mul(x, x));
    series(x, |n| div(minus_square, F80::from_integer(2 * n * (2 * n + 1))))
}

/// Cosine for |x| up to pi / 4.
fn cosine(x: F80) -> F80 {
    let minus_square = negated(mul(x, x));
    series(F80::ONE, |n| div(minus_square, F80::from_integer(2 * n * (2 * n - 1))))
}

/// Reduces to |x| up to pi / 4; the quadrant, and what is left.
fn reduce(x: F80) -> (i64, F80) {
    let mut env = quiet();
    let quotient = div(x, HALF_PI).to_integer(64, &mut env).unwrap_or(0);
    let mut rest = x;
    // Take the multiple away in parts that are exact: its high and low 32 bits.
    for part in [quotient >> 32 << 32, quotient & 0xffff_ffff] {
        let part = F80::from_integer(part);
        let (high, low) = product(part, HALF_PI);
        rest = sub(sub(rest, high), low);
        rest = sub(rest, mul(part, HALF_PI_LOW));
    }
    (quotient, rest)
}

/// A product as the sum of two values: Dekker's splitting in 32-bit halves.
fn product(left: F80, right: F80) -> (F80, F80) {
    let split = |value: F80| {
        let high = F80 { significand: value.significand & !0xffff_ffff, ..value };
        (high, sub(value, high))
    };
    let whole = mul(left, right);
    let ((a, b), (c, d)) = (split(left), split(right));
    let error = add(add(add(sub(mul(a, c), whole), mul(a, d)), mul(b, c)), mul(b, d));
    (whole, error)
}

/// Sine and cosine of any |x| below 2^63.
fn sine_cosine(x: F80) -> (F80, F80) {
    let (quadrant, rest) = reduce(x);
    let (s, c) = (sine(rest), cosine(rest));
    match quadrant & 3 {
        0 => (s, c),
        1 => (c, negated(s)),
        2 => (negated(s), negated(c)),
        _ => (negated(c), s),
    }
}

/// 2 * artanh(z) for small z.
fn twice_artanh(z: F80) -> F80 {
    let square = mul(z, z);
    let first = add(z, z);
    let (mut sum, mut power) = (first, first);
    for index in 1..2 * TERMS {
        power = mul(power, square);
        let grown = add(sum, div(power, F80::from_integer(2 * index + 1)));
        if grown == sum {
            break;
        }
        sum = grown;
    }
    sum
}

/// Base-2 logarithm of a positive finite number, as an integer and a part.
fn log2(x: F80) -> (i64, F80) {
    let (exponent, significand) = x.extract();
    let mut exponent = i64::from(exponent);
    let mut part = significand;
    if less(SQRT_2, part) {
        exponent += 1;
        part = mul(part, HALF);
    }
    let z = div(sub(part, F80::ONE), add(part, F80::ONE));
    (exponent, mul(twice_artanh(z), LOG2_E))
}

/// Arc tangent for x from 0 to 1.
fn arc_tangent(x: F80) -> F80 {
    // Halve the angle twice, then the series.
    let halve = |x: F80| {
        let root = add(F80::ONE, mul(x, x)).sqrt(&mut quiet());
        div(x, add(F80::ONE, root))
    };
    let small = halve(halve(x));
    let minus_square = negated(mul(small, small));
    let (mut sum, mut power) = (small, small);
    for index in 1..2 * TERMS {
        power = mul(power, minus_square);
        let grown = add(sum, div(power, F80::from_integer(2 * index + 1)));
        if grown == sum {
            break;
        }
        sum = grown;
    }
    mul(sum, F80::from_integer(4))
}

/// Arc tangent of y / x over the whole circle, neither a NaN.
fn arc_tangent_2(y: F80, x: F80) -> F80 {
    let angle = if y.is_infinite() && x.is_infinite() {
        if x.sign() { sub(PI, QUARTER_PI) } else { QUARTER_PI }
    } else if y.is_zero() || x.is_infinite() {
        if x.sign() { PI } else { F80::ZERO }
    } else if x.is_zero() || y.is_infinite() {
        add(HALF_PI, HALF_PI_LOW)
    } else {
        let (rise, run) = (y.with_sign(false), x.with_sign(false));
        let first = if less(run, rise) {
            sub(add(HALF_PI, HALF_PI_LOW), arc_tangent(div(run, rise)))
        } else {
            arc_tangent(div(rise, run))
        };
        if x.sign() { sub(PI, first) } else { first }
    };
    angle.with_sign(y.sign())
}

/// 2^x - 1 for |x| up to 1.
fn power_less_1(x: F80) -> F80 {
    let t = mul(x, LN_2);
    series(t, |n| div(t, F80::from_integer(n + 1)))
}

impl X87 {
    pub(super) fn transcendental(&mut self, operation: Operation) {
        match operation {
            Operation::Sine | Operation::Cosine => self.one_angle(operation == Operation::Sine),
            Operation::SineCosine | Operation::Tangent => {
                self.two_results(operation == Operation::Tangent);
            }
            Operation::PowerLess1 => self.power_less_1(),
            Operation::ArcTangent => self.two_to_one(|y, x, env| {
                env.flags |= PRECISION;
                arc_tangent_2(y, x)
            }),
            Operation::YLog2XPlus1 => self.two_to_one(|y, x, env| {
                env.flags |= PRECISION;
                let z = div(x, add(x, F80::from_integer(2)));
                mul(y, mul(twice_artanh(z), LOG2_E))
            }),
            _ => self.two_to_one(y_log2_x),
        }
    }

    /// The operand of a trigonometric function; `None` if it is out of range (C2 says so), or
    /// something else has been done with it.
    fn angle(&mut self) -> Option<F80> {
        self.status &= !C2;
        let value = self.read(0);
        let exponent = value.exponent & 0x7fff;
        if exponent >= 0x3fff + 63 && exponent != 0x7fff {
            self.status |= C2;
            self.set_c1(false);
            return None;
        }
        Some(value)
    }

    /// What a NaN, an infinity or an unsupported operand gives; enters a denormal.
    fn special(value: F80, env: &mut Env) -> Option<F80> {
        if value.is_unsupported() || value.is_nan() {
            return Some(value.add(value, env));
        }
        if value.is_infinite() {
            env.flags |= INVALID;
            return Some(F80::INDEFINITE);
        }
        if value.is_denormal() {
            env.flags |= DENORMAL;
        }
        None
    }

    fn one_angle(&mut self, want_sine: bool) {
        if self.is_empty(0) {
            if !self.stack_fault(false) {
                self.write(0, F80::INDEFINITE);
            }
            return;
        }
        let Some(value) = self.angle() else { return };
        let mut env = self.environment();
        let result = Self::special(value, &mut env).unwrap_or_else(|| {
            if value.is_zero() {
                return if want_sine { value } else { F80::ONE };
            }
            env.flags |= PRECISION;
            let (sine, cosine) = sine_cosine(value);
            if want_sine { sine } else { cosine }
        });
        if self.finish(&env) {
            self.write(0, result);
        }
    }

    /// FSINCOS, and FPTAN, whose second result is one.
    fn two_results(&mut self, tangent: bool) {
        if self.is_empty(0) || !self.is_empty(7) {
            let overflow = !self.is_empty(0);
            self.status &= !C2;
            if !self.stack_fault(overflow) {
                self.write(0, F80::INDEFINITE);
                self.set_top(self.top().wrapping_sub(1));
                self.write(0, F80::INDEFINITE);
            }
            return;
        }
        let Some(value) = self.angle() else { return };
        let mut env = self.environment();
        let (first, second) = match Self::special(value, &mut env) {
            Some(special) => (special, special),
            None if value.is_zero() => (value, F80::ONE),
            None => {
                env.flags |= PRECISION;
                let (sine, cosine) = sine_cosine(value);
                if tangent { (div(sine, cosine), F80::ONE) } else { (sine, cosine) }
            }
        };
        if self.finish(&env) {
            self.write(0, first);
            self.push(second);
        }
    }

    fn power_less_1(&mut self) {
        if self.is_empty(0) {
            if !self.stack_fault(false) {
                self.write(0, F80::INDEFINITE);
            }
            return;
        }
        let value = self.read(0);
        let mut env = self.environment();
        let result = if value.is_infinite() {
            if value.sign() { F80::ONE.with_sign(true) } else { value }
        } else {
            Self::special(value, &mut env).unwrap_or_else(|| {
                if value.is_zero() {
                    return value;
                }
                env.flags |= PRECISION;
                power_less_1(value)
            })
        };
        if self.finish(&env) {
            self.write(0, result);
        }
    }

    /// A function of ST(1) and ST(0) that replaces ST(1) and pops.
    fn two_to_one(&mut self, function: impl FnOnce(F80, F80, &mut Env) -> F80) {
        if self.is_empty(0) || self.is_empty(1) {
            if self.stack_fault(false) {
                return;
            }
            self.write(1, F80::INDEFINITE);
            self.pop();
            return;
        }
        let (x, y) = (self.read(0), self.read(1));
        let mut env = self.environment();
        let odd = |value: F80| value.is_unsupported() || value.is_nan();
        let result = if odd(x) || odd(y) {
            y.add(x, &mut env)
        } else {
            if x.is_denormal() || y.is_denormal() {
                env.flags |= DENORMAL;
            }
            function(y, x, &mut env)
        };
        if self.finish(&env) {
            self.write(1, result);
            self.pop();
        }
    }
}

fn y_log2_x(y: F80, x: F80, env: &mut Env) -> F80 {
    let invalid = |env: &mut Env| {
        env.flags |= INVALID;
        F80::INDEFINITE
    };
    if x.is_zero() {
        if y.is_zero() {
            return invalid(env);
        }
        if !y.is_infinite() {
            env.flags |= ZERO_DIVIDE;
        }
        return INFINITY.with_sign(!y.sign());
    }
    if x.sign() {
        return invalid(env);
    }
    if x.is_infinite() {
        return if y.is_zero() { invalid(env) } else { INFINITY.with_sign(y.sign()) };
    }
    let (whole, part) = log2(x);
    if whole == 0 && part.is_zero() {
        return if y.is_infinite() { invalid(env) } else { F80::ZERO.with_sign(y.sign()) };
    }
    if y.is_infinite() {
        let negative = whole < 0 || whole == 0 && part.sign();
        return INFINITY.with_sign(y.sign() != negative);
    }
    if !part.is_zero() {
        env.flags |= PRECISION;
    }
    let mut rounding = Env { rounding: Rounding::NearestEven, ..*env };
    let logarithm = add(F80::from_integer(whole), part);
    let result = y.mul(logarithm, &mut rounding);
    env.flags |= rounding.flags;
    result
}
