//! Instructions that work on exponents: FSCALE, FXTRACT, and the remainders.

use super::{C0, C2, C3, X87};
use crate::softfloat::{self, DENORMAL, Env, F80, Remainder, Rounding};

impl X87 {
    /// Runs a function of the top two registers that replaces the top.
    pub(super) fn on_two(&mut self, function: impl FnOnce(F80, F80, &mut Env) -> F80) {
        if self.is_empty(0) || self.is_empty(1) {
            if !self.stack_fault(false) {
                self.write(0, F80::INDEFINITE);
            }
            return;
        }
        let mut env = self.environment();
        let result = function(self.read(0), self.read(1), &mut env);
        if self.finish(&env) {
            self.write(0, result);
        }
    }

    pub(super) fn scale(&mut self) {
        self.on_two(|value, by, env| {
            if value.is_unsupported() || by.is_unsupported() || value.is_nan() || by.is_nan() {
                return value.add(by, env);
            }
            if value.is_denormal() || by.is_denormal() {
                env.flags |= DENORMAL;
            }
            if by.is_infinite() {
                let (undefined, result) = if by.sign() {
                    (value.is_infinite(), F80::ZERO)
                } else {
                    (value.is_zero(), F80::INFINITY)
                };
                if undefined {
                    env.flags |= softfloat::INVALID;
                    return F80::INDEFINITE;
                }
                return result.with_sign(value.sign());
            }
            let mut truncating = Env { rounding: Rounding::TowardZero, ..Env::from_x87(0x37f) };
            let limit = if by.sign() { -0x10000 } else { 0x10000 };
            let whole = by.to_integer(32, &mut truncating).unwrap_or(limit);
            value.scale(whole.clamp(-0x10000, 0x10000) as i32, env)
        });
    }

    pub(super) fn remainder(&mut self, nearest: bool) {
        // Without a result C0 and C3 stay.
        let mut condition = self.status & (C0 | C3);
        let mut odd = false;
        self.on_two(|value, by, env| {
            let Remainder { rest, quotient, complete } = value.remainder(by, nearest, env);
            if let Some(quotient) = quotient.filter(|_| env.flags & env.unmasked & DENORMAL == 0) {
                // C0, C3, C1 hold bits 2, 1, 0 of the quotient.
                condition = if complete { 0 } else { C2 };
                condition |= if quotient & 4 != 0 { C0 } else { 0 };
                condition |= if quotient & 2 != 0 { C3 } else { 0 };
                odd = quotient & 1 != 0;
            }
            rest
        });
        self.set_condition(condition);
        if odd {
            self.set_c1(true);
        }
    }

    pub(super) fn extract(&mut self) {
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
        let mut env = self.environment();
        let infinity = F80::INFINITY;
        let (exponent, significand) = if value.is_unsupported() || value.is_nan() {
            let nan = value.add(value, &mut env);
            (nan, nan)
        } else if value.is_infinite() {
            (infinity, value)
        } else if value.is_zero() {
            env.flags |= softfloat::ZERO_DIVIDE;
            (infinity.with_sign(true), value)
        } else {
            if value.is_denormal() {
                env.flags |= DENORMAL;
            }
            let (exponent, significand) = value.extract();
            (F80::from_integer(i64::from(exponent)), significand)
        };
        if self.finish(&env) {
            self.write(0, exponent);
            self.push(significand);
        }
    }
}
