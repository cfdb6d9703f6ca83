//! The host's SSE unit as the oracle: results and flags of every operation on single and double
//! precision, in every rounding, with and without flushing.
#![cfg(target_arch = "x86_64")]

use core::arch::asm;

use super::*;

/// Runs of each operation in each rounding and flushing.
const ROUNDS: usize = 5000;
/// MXCSR with all exceptions masked and none found.
const MASKED: u32 = 0x1f80;

/// SplitMix64 (Steele, Lea and Flood 2014): small, seeded, the same on every host.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// A number with this many fraction and exponent bits, often near where a range ends.
    fn number(&mut self, fraction: u32, exponent: u32) -> u64 {
        let (word, shape) = (self.word(), self.word());
        let top = (1u64 << exponent) - 1;
        let bias = top / 2;
        let raw = match shape % 10 {
            0 => 0,
            1 => top,
            2 => 1 + word % 3,
            3 => top - 1 - word % 2,
            4 => bias + 29 + word % 5,
            5 => bias + 61 + word % 5,
            6 => bias - 1 - u64::from(fraction) + word % 4,
            7 => word % (top + 1),
            _ => bias - 2 + word % 5,
        };
        let ones = (1u64 << fraction) - 1;
        let low = match shape >> 8 & 7 {
            0 => 0,
            1 => ones,
            2 => 1 << ((word >> 8) % u64::from(fraction)),
            3 => ones << ((word >> 8) % u64::from(fraction)),
            _ => word >> 11,
        };
        (shape >> 63) << (fraction + exponent) | raw << fraction | low & ones
    }
}

/// One instruction on the host, all exceptions masked: it sees operands in `{a}` and `{b}`, and
/// leaves its result in `{a}`.
macro_rules! native {
    ($template:literal, $register:ident, $a:expr, $b:expr, $mxcsr:expr) => {{
        let (control, mut host, mut found) = ($mxcsr, 0u32, 0u32);
        let mut a = $a;
        #[expect(unsafe_code, reason = "runs one instruction under another MXCSR")]
        // SAFETY: the pointers are to locals; MXCSR is put back, and all exceptions are masked.
        unsafe {
            asm!(
                "stmxcsr [{host}]",
                "ldmxcsr [{control}]",
                $template,
                "stmxcsr [{found}]",
                "ldmxcsr [{host}]",
                host = in(reg) &raw mut host,
                control = in(reg) &raw const control,
                found = in(reg) &raw mut found,
                a = inout($register) a,
                b = inout(xmm_reg) $b => _,
                options(nostack),
            );
        }
        (a, found & 0x3f)
    }};
}

/// Compares one operation over all environments.
fn check(
    name: &str,
    operands: fn(&mut Random) -> (u64, u64),
    native: impl Fn(u64, u64, u32) -> (u64, u32),
    soft: impl Fn(u64, u64, &mut Env) -> u64,
) {
    let mut random = Random::new(7);
    for rounding in 0..4u32 {
        for flushing in [0, 1 << 15, 1 << 6, 1 << 15 | 1 << 6] {
            let mxcsr = MASKED | rounding << 13 | flushing;
            for _ in 0..ROUNDS {
                let (a, b) = operands(&mut random);
                let mut env = Env::from_mxcsr(mxcsr);
                let ours = (soft(a, b, &mut env), env.flags);
                let theirs = native(a, b, mxcsr);
                assert_eq!(ours, theirs, "{name} of {a:x} and {b:x}, mxcsr {mxcsr:x}");
            }
        }
    }
}

fn singles(random: &mut Random) -> (u64, u64) {
    (random.number(23, 8), random.number(23, 8))
}

fn doubles(random: &mut Random) -> (u64, u64) {
    (random.number(52, 11), random.number(52, 11))
}

fn integers(random: &mut Random) -> (u64, u64) {
    let word = random.word() as i64;
    ((word >> (random.word() % 64)) as u64, 0)
}

macro_rules! binary {
    ($operands:ident, $bits:ident, $float:ident, $($template:literal $soft:ident;)*) => {
        $(check(
            $template,
            $operands,
            |a, b, mxcsr| {
                let (a, b) = ($float::from_bits(a as $bits), $float::from_bits(b as $bits));
                let (result, flags) = native!($template, xmm_reg, a, b, mxcsr);
                (result.to_bits().into(), flags)
            },
            |a, b, env| $soft(a as $bits, b as $bits, env).into(),
        );)*
    };
}

#[test]
fn arithmetic_is_the_hosts() {
    binary! { singles, u32, f32,
        "addss {a}, {b}" f32_add;
        "subss {a}, {b}" f32_sub;
        "mulss {a}, {b}" f32_mul;
        "divss {a}, {b}" f32_div;
    }
    binary! { doubles, u64, f64,
        "addsd {a}, {b}" f64_add;
        "subsd {a}, {b}" f64_sub;
        "mulsd {a}, {b}" f64_mul;
        "divsd {a}, {b}" f64_div;
    }
}

/// From a number in `{b}` to one of a format, or to an integer.
macro_rules! unary {
    ($operands:ident, $bits:ident, $float:ident => $to:ident, $($template:literal $soft:ident;)*) => {
        $(check(
            $template,
            $operands,
            |a, _, mxcsr| {
                let number = $float::from_bits(a as $bits);
                let (result, flags) = native!($template, xmm_reg, 0 as $to, number, mxcsr);
                (result.to_bits().into(), flags)
            },
            |a, _, env| $soft(a as $bits, env).into(),
        );)*
    };
    ($operands:ident, $bits:ident, $float:ident -> $($template:literal $soft:ident $to:ident;)*) => {
        $(check(
            $template,
            $operands,
            |a, _, mxcsr| {
                let number = $float::from_bits(a as $bits);
                let (result, flags) = native!($template, reg, 0u64, number, mxcsr);
                (u64::from(result as $to), flags)
            },
            |a, _, env| u64::from($soft(a as $bits, env) as $to),
        );)*
    };
}

#[test]
fn roots_and_conversions_are_the_hosts() {
    unary! { singles, u32, f32 => f32, "sqrtss {a}, {b}" f32_sqrt; }
    unary! { singles, u32, f32 => f64, "cvtss2sd {a}, {b}" f32_to_f64; }
    unary! { doubles, u64, f64 => f64, "sqrtsd {a}, {b}" f64_sqrt; }
    unary! { doubles, u64, f64 => f32, "cvtsd2ss {a}, {b}" f64_to_f32; }
    unary! { singles, u32, f32 ->
        "cvtss2si {a:e}, {b}" f32_to_i32 u32;
        "cvtss2si {a}, {b}" f32_to_i64 u64;
    }
    unary! { doubles, u64, f64 ->
        "cvtsd2si {a:e}, {b}" f64_to_i32 u32;
        "cvtsd2si {a}, {b}" f64_to_i64 u64;
    }
}

#[test]
fn conversions_from_integers_are_the_hosts() {
    check(
        "cvtsi2ss",
        integers,
        |a, _, mxcsr| native!("cvtsi2ss {b}, {a}\nmovd {a:e}, {b}", reg, a, 0f32, mxcsr),
        |a, _, env| i64_to_f32(a as i64, env).into(),
    );
    check(
        "cvtsi2sd",
        integers,
        |a, _, mxcsr| native!("cvtsi2sd {b}, {a}\nmovq {a}, {b}", reg, a, 0f64, mxcsr),
        |a, _, env| i64_to_f64(a as i64, env),
    );
}
