//! Floating-point arithmetic: add, subtract, multiply, divide, square root, and their horizontal
//! and alternating forms.

use super::element::{Element, packed, scalar};
use super::lanes::{dwords, from_dwords, from_qwords, qwords};
use super::{Run, SimdEnv};
use iced_x86::Code;

/// The function of an arithmetic instruction; `None` when `code` is not one.
pub(super) fn run(code: Code) -> Option<Run> {
    horizontal(code).or_else(|| {
        let run: Run = match code {
            Code::Addps_xmm_xmmm128 => |env, d, s, _| packed(env, d, s, u32::add),
            Code::Addpd_xmm_xmmm128 => |env, d, s, _| packed(env, d, s, u64::add),
            Code::Addss_xmm_xmmm32 => |env, d, s, _| scalar(env, d, s, u32::add),
            Code::Addsd_xmm_xmmm64 => |env, d, s, _| scalar(env, d, s, u64::add),
            Code::Subps_xmm_xmmm128 => |env, d, s, _| packed(env, d, s, u32::sub),
            Code::Subpd_xmm_xmmm128 => |env, d, s, _| packed(env, d, s, u64::sub),
            Code::Subss_xmm_xmmm32 => |env, d, s, _| scalar(env, d, s, u32::sub),
            Code::Subsd_xmm_xmmm64 => |env, d, s, _| scalar(env, d, s, u64::sub),
            Code::Mulps_xmm_xmmm128 => |env, d, s, _| packed(env, d, s, u32::mul),
            Code::Mulpd_xmm_xmmm128 => |env, d, s, _| packed(env, d, s, u64::mul),
            Code::Mulss_xmm_xmmm32 => |env, d, s, _| scalar(env, d, s, u32::mul),
            Code::Mulsd_xmm_xmmm64 => |env, d, s, _| scalar(env, d, s, u64::mul),
            Code::Divps_xmm_xmmm128 => |env, d, s, _| packed(env, d, s, u32::div),
            Code::Divpd_xmm_xmmm128 => |env, d, s, _| packed(env, d, s, u64::div),
            Code::Divss_xmm_xmmm32 => |env, d, s, _| scalar(env, d, s, u32::div),
            Code::Divsd_xmm_xmmm64 => |env, d, s, _| scalar(env, d, s, u64::div),
            Code::Sqrtps_xmm_xmmm128 => |env, d, s, _| packed(env, d, s, |e, _, b| u32::sqrt(e, b)),
            Code::Sqrtpd_xmm_xmmm128 => |env, d, s, _| packed(env, d, s, |e, _, b| u64::sqrt(e, b)),
            Code::Sqrtss_xmm_xmmm32 => |env, d, s, _| scalar(env, d, s, |e, _, b| u32::sqrt(e, b)),
            Code::Sqrtsd_xmm_xmmm64 => |env, d, s, _| scalar(env, d, s, |e, _, b| u64::sqrt(e, b)),
            _ => return None,
        };
        Some(run)
    })
}

/// SSE3: neighbours added or subtracted, and subtraction and addition in turn.
fn horizontal(code: Code) -> Option<Run> {
    Some(match code {
        Code::Haddps_xmm_xmmm128 => |env, d, s, _| {
            let (even, odd) = single_neighbours(d, s);
            packed(env, even, odd, u32::add)
        },
        Code::Hsubps_xmm_xmmm128 => |env, d, s, _| {
            let (even, odd) = single_neighbours(d, s);
            packed(env, even, odd, u32::sub)
        },
        Code::Haddpd_xmm_xmmm128 => |env, d, s, _| {
            let (even, odd) = double_neighbours(d, s);
            packed(env, even, odd, u64::add)
        },
        Code::Hsubpd_xmm_xmmm128 => |env, d, s, _| {
            let (even, odd) = double_neighbours(d, s);
            packed(env, even, odd, u64::sub)
        },
        Code::Addsubps_xmm_xmmm128 => |env, d, s, _| subtract_and_add::<u32>(env, d, s),
        Code::Addsubpd_xmm_xmmm128 => |env, d, s, _| subtract_and_add::<u64>(env, d, s),
        _ => return None,
    })
}

/// The even elements of both registers, and the odd ones.
fn single_neighbours(d: u128, s: u128) -> (u128, u128) {
    let (d, s) = (dwords(d), dwords(s));
    (from_dwords([d[0], d[2], s[0], s[2]]), from_dwords([d[1], d[3], s[1], s[3]]))
}

fn double_neighbours(d: u128, s: u128) -> (u128, u128) {
    let (d, s) = (qwords(d), qwords(s));
    (from_qwords([d[0], s[0]]), from_qwords([d[1], s[1]]))
}

/// Even elements are subtracted, odd ones added.
fn subtract_and_add<E: Element>(env: &mut SimdEnv, d: u128, s: u128) -> u128 {
    env.run(|env| {
        let mut odd = true;
        E::map(d, s, |a, b| {
            odd = !odd;
            if odd { E::add(env, a, b) } else { E::sub(env, a, b) }
        })
    })
}
