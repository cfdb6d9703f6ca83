//! Transcendental functions of 80-bit values, worked out to some 120 bits and then rounded once:
//! the result is the correctly rounded one but in the rarest cases. Operands here are finite and
//! not zero; everything else is the caller's.

use super::extended::F80;
use super::number::{Class, Number};
use super::{Env, PRECISION, UNDERFLOW};

/// A constant that is `significand / 2^126 * 2^exponent`.
const fn constant(exponent: i32, significand: u128) -> Number {
    Number { sign: false, class: Class::Finite, exponent, significand, denormal: false }
}

const ONE: Number = constant(0, 1 << 126);
const LN_2: Number = constant(-1, 0x58b9_0bfb_e8e7_bcd5_e4f1_d9cc_01f9_7b58);
const LOG2_E: Number = constant(0, 0x5c55_1d94_ae0b_f85d_df43_ff68_348e_9f44);
const PI: Number = constant(1, 0x6487_ed51_10b4_611a_6263_3145_c06e_0e69);

/// Arc tangents of 1/8 to 8/8.
const ARC_TANGENTS: [Number; 8] = [
    constant(-4, 0x7f56_ea6a_b0bd_b719_644b_cc4f_9f44_477c),
    constant(-3, 0x7d6d_d7e4_b203_758a_b6e3_cf7a_fbd1_0bf3),
    constant(-2, 0x5bd8_6507_937b_c239_c551_9091_6e7f_2242),
    constant(-2, 0x76b1_9c15_86ed_3da2_b7f2_22f6_5e1d_4682),
    constant(-1, 0x4780_2eaf_7bfa_cfcd_ae41_af0b_32e2_1ba4),
    constant(-1, 0x525e_3e8c_9a7b_8492_0cd4_3f95_22be_d64f),
    constant(-1, 0x5c02_9f15_e118_cf39_e596_d2a9_0852_221f),
    constant(-1, 0x6487_ed51_10b4_611a_6263_3145_c06e_0e69),
];

/// Half of pi, of which the units of the field keep 66 bits when they reduce an angle (Intel SDM
/// volume 1, section 8.3.8): this times 2^-65.
const HALF_PI: u128 = 0x3_243f_6a88_85a3_08d3;
/// Significant bits of the square root of two.
const SQRT_2: u64 = 0xb504_f333_f9de_6484;

/// Adds terms until they are negligible. A negligible first one is still added: it tells on which
/// side of the leading term the result lies.
fn sum(leading: Number, mut next: impl FnMut(u32) -> Number) -> Number {
    let mut sum = leading.plus(next(1));
    for index in 2.. {
        let term = next(index);
        if sum.outweighs(&term) {
            break;
        }
        sum = sum.plus(term);
    }
    sum
}

/// Sums `first + first next(1) + first next(1) next(2) + ...`.
fn series(first: Number, next: impl Fn(Number, u32) -> Number) -> Number {
    let mut term = first;
    sum(first, |index| {
        term = next(term, index);
        term
    })
}

/// Sums `x + x y / 3 + x y^2 / 5 + ...`: the arc tangent with `y = -x^2`, its hyperbolic kin with
/// `y = x^2`.
fn odd_series(x: Number, y: Number) -> Number {
    let mut power = x;
    sum(x, |index| {
        power = power.times(y);
        power.over_whole(2 * index + 1)
    })
}

/// Sine and cosine for |x| up to pi / 4.
fn first_octant(x: Number) -> (Number, Number) {
    let y = x.times(x).negated();
    let sine = series(x, |term, n| term.times(y).over_whole(2 * n * (2 * n + 1)));
    let cosine = series(ONE, |term, n| term.times(y).over_whole(2 * n * (2 * n - 1)));
    (sine, cosine)
}

/// The quadrant, and what is left of an angle: up to half of one, exactly.
fn reduce(x: Number) -> (u32, Number) {
    if x.exponent < -1 {
        return (0, x);
    }
    // `rest` counts 2^-65. The operand has at most 64 bits, and half of pi 66 and is odd: no
    // angle is a multiple of it, and something is always left.
    let (mut rest, mut quadrant) = ((x.significand >> 63) << 1, 0u32);
    for step in 0..=x.exponent + 1 {
        if step > 0 {
            rest <<= 1;
            quadrant <<= 1;
        }
        if rest >= HALF_PI {
            rest -= HALF_PI;
            quadrant |= 1;
        }
    }
    // The nearest quadrant, not the one below.
    let mut sign = x.sign;
    if rest << 1 > HALF_PI {
        rest = HALF_PI - rest;
        quadrant = quadrant.wrapping_add(1);
        sign = !sign;
    }
    let quadrant = if x.sign { quadrant.wrapping_neg() } else { quadrant };
    (quadrant & 3, Number::finite(sign, 126 - 65, rest))
}

fn sine_cosine(x: Number) -> (Number, Number) {
    let (quadrant, rest) = reduce(x);
    let (sine, cosine) = first_octant(rest);
    match quadrant {
        0 => (sine, cosine),
        1 => (cosine, sine.negated()),
        2 => (sine.negated(), cosine.negated()),
        _ => (cosine.negated(), sine),
    }
}

/// Base-2 logarithm of a positive number: its whole part, and the rest, which is zero for a power
/// of two.
fn log2(x: Number) -> (i32, Number) {
    let mut exponent = x.exponent;
    let mut part = Number { exponent: 0, ..x };
    if (part.significand >> 63) as u64 > SQRT_2 {
        exponent += 1;
        part.exponent = -1;
    }
    let less = part.plus(ONE.negated());
    if less.class == Class::Zero {
        return (exponent, less);
    }
    (exponent, twice_artanh(less.over(part.plus(ONE))).times(LOG2_E))
}

fn twice_artanh(z: Number) -> Number {
    odd_series(z, z.times(z)).scaled(1)
}

/// Arc tangent of `small / large`, both positive, small not above large.
fn arc_tangent(small: Number, large: Number) -> Number {
    let quotient = small.over(large);
    // The nearest eighth.
    let eighths = match quotient.exponent {
        -5.. => ((quotient.significand >> (122 - quotient.exponent)) as usize).div_ceil(2),
        _ => 0,
    };
    let Some(known) = eighths.checked_sub(1).map(|index| ARC_TANGENTS[index]) else {
        return odd_series(quotient, quotient.times(quotient).negated());
    };
    let near = Number::whole(eighths as i64).scaled(-3);
    // tan(a - b) = (tan a - tan b) / (1 + tan a tan b)
    let rise = small.plus(large.times(near).negated());
    if rise.class == Class::Zero {
        return known;
    }
    let rest = rise.over(large.plus(small.times(near)));
    known.plus(odd_series(rest, rest.times(rest).negated()))
}

/// Rounds what is never exact.
fn inexact(number: Number, env: &mut Env) -> F80 {
    F80::pack(&Number { significand: number.significand | 1, ..number }, 64, env)
}

/// Rounds what is exact by chance: the units of the field call it inexact like the rest.
fn exact(number: &Number, env: &mut Env) -> F80 {
    let result = F80::pack(number, 64, env);
    env.flags |= PRECISION;
    if result.is_denormal() {
        env.flags |= UNDERFLOW;
    }
    result
}

impl F80 {
    /// Sine, of an angle below 2^63.
    #[must_use]
    pub fn sin(self, env: &mut Env) -> Self {
        inexact(sine_cosine(self.unpack()).0, env)
    }

    /// Cosine, likewise.
    #[must_use]
    pub fn cos(self, env: &mut Env) -> Self {
        inexact(sine_cosine(self.unpack()).1, env)
    }

    /// Sine and cosine.
    #[must_use]
    pub fn sin_cos(self, env: &mut Env) -> (Self, Self) {
        let (sine, cosine) = sine_cosine(self.unpack());
        (inexact(sine, env), inexact(cosine, env))
    }

    /// Tangent.
    #[must_use]
    pub fn tan(self, env: &mut Env) -> Self {
        let (sine, cosine) = sine_cosine(self.unpack());
        inexact(sine.over(cosine), env)
    }

    /// `2^x - 1` for |x| up to 1.
    #[must_use]
    pub fn power_less_1(self, env: &mut Env) -> Self {
        let x = self.unpack();
        if x.exponent == 0 {
            // 2^1 - 1 and 2^-1 - 1.
            let half = if x.sign { -1 } else { 0 };
            return exact(&Number { sign: x.sign, ..ONE.scaled(half) }, env);
        }
        let t = x.times(LN_2);
        inexact(series(t, |term, n| term.times(t).over_whole(n + 1)), env)
    }

    /// `self * log2(x)` for a positive x.
    #[must_use]
    pub fn times_log2(self, x: Self, env: &mut Env) -> Self {
        self.times_log2_of(x.unpack(), env)
    }

    /// `self * log2(1 + x)` for an x above -1.
    #[must_use]
    pub fn times_log2_plus_1(self, x: Self, env: &mut Env) -> Self {
        let x = x.unpack();
        if x.exponent >= -2 {
            return self.times_log2_of(x.plus(ONE), env);
        }
        let logarithm = twice_artanh(x.over(x.plus(ONE.scaled(1)))).times(LOG2_E);
        inexact(self.unpack().times(logarithm), env)
    }

    fn times_log2_of(self, x: Number, env: &mut Env) -> Self {
        let (whole, part) = log2(x);
        let logarithm = Number::whole(whole.into()).plus(part);
        if logarithm.class == Class::Zero {
            return Self::ZERO.with_sign(self.sign());
        }
        let result = self.unpack().times(logarithm);
        if part.class == Class::Zero {
            return exact(&result, env);
        }
        inexact(result, env)
    }

    /// The angle of the point (x, `self`).
    #[must_use]
    pub fn atan2(self, x: Self, env: &mut Env) -> Self {
        let (y, x) = (self.unpack(), x.unpack());
        let (rise, run) = (Number { sign: false, ..y }, Number { sign: false, ..x });
        let steep = (rise.exponent, rise.significand) > (run.exponent, run.significand);
        let acute = if steep {
            PI.scaled(-1).plus(arc_tangent(run, rise).negated())
        } else {
            arc_tangent(rise, run)
        };
        let angle = if x.sign { PI.plus(acute.negated()) } else { acute };
        inexact(Number { sign: y.sign, ..angle }, env)
    }

    /// This many quarters of pi.
    #[must_use]
    pub fn quarters_of_pi(quarters: u32, sign: bool, env: &mut Env) -> Self {
        let angle = Number::whole(quarters.into()).times(PI.scaled(-2));
        inexact(Number { sign, ..angle }, env)
    }
}
