//! Conversions between single, double and integers.
//!
//! A number that no integer of the wanted width equals gives the "integer indefinite" value, the
//! least negative one, and the invalid exception. Denormal operands are reported by conversions
//! between precisions only. Source: Intel SDM volume 1, 11.4.1.6 and appendix E.

use super::element::Element;
use super::environment::Elements;
use super::lanes::{dwords, from_dwords, from_qwords, qwords};
use super::{Run, SimdEnv};
use crate::softfloat::{self, Rounding};
use iced_x86::Code;

/// The function of a conversion, and whether it may raise an exception; `None` when `code` is not
/// one.
pub(super) fn run(code: Code) -> Option<(Run, bool)> {
    let exact: Run = match code {
        Code::Cvtdq2pd_xmm_xmmm64 | Code::Cvtpi2pd_xmm_mmm64 => |env, _, s, _| {
            let [a, b, ..] = dwords(s);
            env.run(|env| from_qwords([a, b].map(|lane| u64::from_integer(env, signed(lane)))))
        },
        Code::Cvtsi2sd_xmm_rm32 => |env, d, s, _| from_integer::<u64>(env, d, signed(s as u32)),
        code => return rounding(code).map(|run| (run, true)),
    };
    Some((exact, false))
}

fn rounding(code: Code) -> Option<Run> {
    precision(code).or_else(|| to_general_register(code)).or_else(|| {
        let run: Run = match code {
            Code::Cvtdq2ps_xmm_xmmm128 => |env, _, s, _| {
                let lanes = dwords(s);
                env.run(|env| from_dwords(lanes.map(|lane| u32::from_integer(env, signed(lane)))))
            },
            Code::Cvtpi2ps_xmm_mmm64 => |env, d, s, _| {
                let ([a, b, ..], [_, _, c, d]) = (dwords(s), dwords(d));
                env.run(|env| {
                    let [a, b] = [a, b].map(|lane| u32::from_integer(env, signed(lane)));
                    from_dwords([a, b, c, d])
                })
            },
            Code::Cvtsi2ss_xmm_rm32 => |env, d, s, _| from_integer::<u32>(env, d, signed(s as u32)),
            Code::Cvtsi2ss_xmm_rm64 => |env, d, s, _| from_integer::<u32>(env, d, s as i64),
            Code::Cvtsi2sd_xmm_rm64 => |env, d, s, _| from_integer::<u64>(env, d, s as i64),

            Code::Cvtps2dq_xmm_xmmm128 => |env, _, s, _| four_singles(env, s, None),
            Code::Cvttps2dq_xmm_xmmm128 => |env, _, s, _| four_singles(env, s, TRUNCATE),
            Code::Cvtps2pi_mm_xmmm64 => |env, _, s, _| four_singles(env, low(s), None),
            Code::Cvttps2pi_mm_xmmm64 => |env, _, s, _| four_singles(env, low(s), TRUNCATE),
            Code::Cvtpd2dq_xmm_xmmm128 | Code::Cvtpd2pi_mm_xmmm128 => {
                |env, _, s, _| two_doubles(env, s, None)
            }
            Code::Cvttpd2dq_xmm_xmmm128 | Code::Cvttpd2pi_mm_xmmm128 => {
                |env, _, s, _| two_doubles(env, s, TRUNCATE)
            }
            _ => return None,
        };
        Some(run)
    })
}

/// Between single and double precision.
fn precision(code: Code) -> Option<Run> {
    Some(match code {
        Code::Cvtps2pd_xmm_xmmm64 => |env, _, s, _| {
            let [a, b, ..] = dwords(s);
            env.run(|env| from_qwords([a, b].map(|lane| widen(env, lane))))
        },
        Code::Cvtpd2ps_xmm_xmmm128 => |env, _, s, _| {
            let lanes = qwords(s);
            env.run(|env| {
                let [a, b] = lanes.map(|lane| narrow(env, lane));
                from_dwords([a, b, 0, 0])
            })
        },
        Code::Cvtss2sd_xmm_xmmm32 => |env, d, s, _| {
            let result = env.run(|env| widen(env, s as u32));
            u64::with_lowest(d, result)
        },
        Code::Cvtsd2ss_xmm_xmmm64 => |env, d, s, _| {
            let result = env.run(|env| narrow(env, s as u64));
            u32::with_lowest(d, result)
        },
        _ => return None,
    })
}

fn widen(env: &mut Elements, single: u32) -> u64 {
    env.simple(|env| softfloat::f32_to_f64(single, env))
}

fn narrow(env: &mut Elements, double: u64) -> u32 {
    env.rounded(
        |env| softfloat::f64_to_f32(double, env),
        |env| softfloat::f64_to_f32(double.significand(), env),
    )
}

fn to_general_register(code: Code) -> Option<Run> {
    Some(match code {
        Code::Cvtss2si_r32_xmmm32 => |env, _, s, _| to_integer(env, s as u32, Width::Dword, None),
        Code::Cvtss2si_r64_xmmm32 => |env, _, s, _| to_integer(env, s as u32, Width::Qword, None),
        Code::Cvtsd2si_r32_xmmm64 => |env, _, s, _| to_integer(env, s as u64, Width::Dword, None),
        Code::Cvtsd2si_r64_xmmm64 => |env, _, s, _| to_integer(env, s as u64, Width::Qword, None),
        Code::Cvttss2si_r32_xmmm32 => {
            |env, _, s, _| to_integer(env, s as u32, Width::Dword, TRUNCATE)
        }
        Code::Cvttss2si_r64_xmmm32 => {
            |env, _, s, _| to_integer(env, s as u32, Width::Qword, TRUNCATE)
        }
        Code::Cvttsd2si_r32_xmmm64 => {
            |env, _, s, _| to_integer(env, s as u64, Width::Dword, TRUNCATE)
        }
        Code::Cvttsd2si_r64_xmmm64 => {
            |env, _, s, _| to_integer(env, s as u64, Width::Qword, TRUNCATE)
        }
        _ => return None,
    })
}

/// The rounding of a conversion: MXCSR's, or this one.
type Round = Option<Rounding>;

const TRUNCATE: Round = Some(Rounding::TowardZero);

fn with_rounding(env: &mut SimdEnv, round: Round, f: impl FnOnce(&mut Elements) -> u128) -> u128 {
    env.run(|env| {
        if let Some(rounding) = round {
            env.set_rounding(rounding);
        }
        f(env)
    })
}

/// The lowest two of four single-precision numbers; the others become zero, which raises nothing.
fn low(register: u128) -> u128 {
    u128::from(register as u64)
}

fn four_singles(env: &mut SimdEnv, s: u128, round: Round) -> u128 {
    with_rounding(env, round, |env| from_dwords(dwords(s).map(|lane| lane.to_dword(env))))
}

fn two_doubles(env: &mut SimdEnv, s: u128, round: Round) -> u128 {
    with_rounding(env, round, |env| {
        let [a, b] = qwords(s).map(|lane| lane.to_dword(env));
        from_dwords([a, b, 0, 0])
    })
}

#[derive(Clone, Copy)]
enum Width {
    Dword,
    Qword,
}

fn to_integer<E: Element>(env: &mut SimdEnv, source: E, width: Width, round: Round) -> u128 {
    with_rounding(env, round, |env| match width {
        Width::Dword => source.to_dword(env).into(),
        Width::Qword => source.to_qword(env).into(),
    })
}

fn from_integer<E: Element>(env: &mut SimdEnv, d: u128, integer: i64) -> u128 {
    let result = env.run(|env| E::from_integer(env, integer));
    E::with_lowest(d, result)
}

fn signed(dword: u32) -> i64 {
    i64::from(dword as i32)
}
