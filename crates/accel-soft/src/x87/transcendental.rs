//! Transcendental instructions: which operands they take, and what they leave on the stack. The
//! functions themselves hang on nothing but their operands, so they are the same on every host;
//! processors differ from them, and from each other, in the last place (Intel SDM volume 1,
//! section 8.3.10).

use super::lookup::Operation;
use super::{C2, X87};
use crate::softfloat::{DENORMAL, Env, F80, INVALID, PRECISION, ZERO_DIVIDE};

/// Biased exponents of one, and of the first angle that is not reduced.
const EXPONENT_OF_ONE: u16 = 0x3fff;
const EXPONENT_OUT_OF_RANGE: u16 = EXPONENT_OF_ONE + 63;

/// What a NaN or an unsupported operand gives; else enters a denormal.
fn special(value: F80, env: &mut Env) -> Option<F80> {
    if value.is_unsupported() || value.is_nan() {
        return Some(value.quieted(env));
    }
    if value.is_denormal() {
        env.flags |= DENORMAL;
    }
    None
}

fn invalid(env: &mut Env) -> F80 {
    env.flags |= INVALID;
    F80::INDEFINITE
}

/// Whether an angle is too large to be reduced.
fn is_out_of_range(value: F80) -> bool {
    let exponent = value.exponent & 0x7fff;
    exponent >= EXPONENT_OUT_OF_RANGE && exponent != 0x7fff && !value.is_unsupported()
}

/// A trigonometric function: of infinity it is invalid, of zero it is `zero`.
fn of_angle<T>(
    value: F80,
    env: &mut Env,
    both: fn(F80) -> T,
    zero: T,
    function: impl FnOnce(F80, &mut Env) -> T,
) -> T {
    if let Some(special) = special(value, env) {
        both(special)
    } else if value.is_infinite() {
        both(invalid(env))
    } else if value.is_zero() {
        zero
    } else {
        function(value, env)
    }
}

fn power_less_1(value: F80, env: &mut Env) -> F80 {
    if let Some(special) = special(value, env) {
        return special;
    }
    if value.is_infinite() {
        return if value.sign() { F80::ONE.with_sign(true) } else { value };
    }
    // Outside -1 to 1 the manuals leave the result open.
    let magnitude = value.with_sign(false);
    let out = magnitude.exponent >= EXPONENT_OF_ONE && magnitude != F80::ONE;
    if out {
        env.flags |= PRECISION;
    }
    if value.is_zero() || out { value } else { value.power_less_1(env) }
}

fn y_log2_x(y: F80, x: F80, env: &mut Env) -> F80 {
    if x.is_zero() {
        if y.is_zero() {
            return invalid(env);
        }
        if !y.is_infinite() {
            env.flags |= ZERO_DIVIDE;
        }
        return F80::INFINITY.with_sign(!y.sign());
    }
    if x.sign() {
        return invalid(env);
    }
    let below_one = x.exponent < EXPONENT_OF_ONE;
    if x.is_infinite() || y.is_infinite() {
        let undefined = if x.is_infinite() { y.is_zero() } else { x == F80::ONE };
        if undefined {
            return invalid(env);
        }
        return F80::INFINITY.with_sign(y.sign() != below_one);
    }
    if y.is_zero() {
        return y.with_sign(y.sign() != below_one);
    }
    y.times_log2(x, env)
}

fn y_log2_x_plus_1(y: F80, x: F80, env: &mut Env) -> F80 {
    let undefined = if x.is_infinite() { x.sign() || y.is_zero() } else { false };
    if undefined || y.is_infinite() && x.is_zero() {
        return invalid(env);
    }
    let sign = x.sign() != y.sign();
    if x.is_infinite() || y.is_infinite() {
        return F80::INFINITY.with_sign(sign);
    }
    if x.is_zero() || y.is_zero() {
        return F80::ZERO.with_sign(sign);
    }
    // From -1 down the manuals leave the result open.
    if x.sign() && x.exponent & 0x7fff >= EXPONENT_OF_ONE {
        env.flags |= PRECISION;
        return x;
    }
    y.times_log2_plus_1(x, env)
}

fn arc_tangent(y: F80, x: F80, env: &mut Env) -> F80 {
    let quarters = if y.is_infinite() && x.is_infinite() {
        if x.sign() { 3 } else { 1 }
    } else if y.is_zero() || x.is_infinite() {
        if x.sign() { 4 } else { 0 }
    } else if x.is_zero() || y.is_infinite() {
        2
    } else {
        return y.atan2(x, env);
    };
    match quarters {
        0 => F80::ZERO.with_sign(y.sign()),
        _ => F80::quarters_of_pi(quarters, y.sign(), env),
    }
}

impl X87 {
    pub(super) fn transcendental(&mut self, operation: Operation) {
        match operation {
            Operation::Sine => {
                self.one_angle(|value, env| of_angle(value, env, |v| v, value, F80::sin));
            }
            Operation::Cosine => {
                self.one_angle(|value, env| of_angle(value, env, |v| v, F80::ONE, F80::cos));
            }
            Operation::SineCosine => self.two_results(|value, env| {
                of_angle(value, env, |v| (v, v), (value, F80::ONE), F80::sin_cos)
            }),
            Operation::Tangent => self.two_results(|value, env| {
                let tangent = |value: F80, env: &mut Env| (value.tan(env), F80::ONE);
                of_angle(value, env, |v| (v, v), (value, F80::ONE), tangent)
            }),
            Operation::PowerLess1 => self.on_top(power_less_1),
            Operation::ArcTangent => self.two_to_one(arc_tangent),
            Operation::YLog2XPlus1 => self.two_to_one(y_log2_x_plus_1),
            _ => self.two_to_one(y_log2_x),
        }
    }

    /// FSIN and FCOS.
    fn one_angle(&mut self, function: impl FnOnce(F80, &mut Env) -> F80) {
        self.status &= !C2;
        if !self.is_empty(0) && is_out_of_range(self.read(0)) {
            self.status |= C2;
            self.set_c1(false);
            return;
        }
        self.on_top(function);
    }

    /// FSINCOS and FPTAN.
    fn two_results(&mut self, function: impl FnOnce(F80, &mut Env) -> (F80, F80)) {
        self.status &= !C2;
        if self.is_empty(0) || !self.is_empty(7) {
            let overflow = !self.is_empty(0);
            if !self.stack_fault(overflow) {
                self.write(0, F80::INDEFINITE);
                self.set_top(self.top().wrapping_sub(1));
                self.write(0, F80::INDEFINITE);
            }
            return;
        }
        let value = self.read(0);
        if is_out_of_range(value) {
            self.status |= C2;
            self.set_c1(false);
            return;
        }
        let mut env = self.environment();
        let (first, second) = function(value, &mut env);
        if self.finish(&env) {
            self.write(0, first);
            self.set_top(self.top().wrapping_sub(1));
            self.write(0, second);
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
            let result = function(y, x, &mut env);
            let first = env.flags & (INVALID | ZERO_DIVIDE) != 0;
            if (x.is_denormal() || y.is_denormal()) && !first {
                env.flags |= DENORMAL;
            }
            result
        };
        if self.finish(&env) {
            self.write(1, result);
            self.pop();
        }
    }
}
