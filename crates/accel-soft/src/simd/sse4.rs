//! SSE4.1 and SSE4.2 on integers, and what moves elements of any kind: blends, insertions,
//! extractions, widening. Rounding and dot products are floating-point matters of their own.

use super::Run;
use super::lanes::{
    bytes, dwords, from_bytes, from_dwords, from_qwords, from_words, map_bytes, map_dwords,
    map_qwords, map_words, qwords, words,
};
use iced_x86::Code;

/// The function of an instruction of SSE4 that raises no exception; `None` when `code` is not one.
pub(super) fn run(code: Code) -> Option<Run> {
    arithmetic(code)
        .or_else(|| extremes(code))
        .or_else(|| widening(code))
        .or_else(|| elements(code))
        .or_else(|| {
            let run: Run = match code {
                Code::Blendps_xmm_xmmm128_imm8 => |_, d, s, imm| {
                    let (d, s) = (dwords(d), dwords(s));
                    from_dwords(std::array::from_fn(|i| pick(d[i], s[i], imm >> i & 1 != 0)))
                },
                Code::Blendpd_xmm_xmmm128_imm8 => |_, d, s, imm| {
                    let (d, s) = (qwords(d), qwords(s));
                    from_qwords(std::array::from_fn(|i| pick(d[i], s[i], imm >> i & 1 != 0)))
                },
                Code::Pblendw_xmm_xmmm128_imm8 => |_, d, s, imm| {
                    let (d, s) = (words(d), words(s));
                    from_words(std::array::from_fn(|i| pick(d[i], s[i], imm >> i & 1 != 0)))
                },
                _ => return None,
            };
            Some(run)
        })
}

/// Chooses between two registers element by element: `(destination, source, XMM0)`.
pub type Blend = fn(u128, u128, u128) -> u128;

/// The blends whose mask is XMM0: the sign of each of its elements decides; `None` when `code` is
/// none of them.
pub(super) fn blend(code: Code) -> Option<Blend> {
    Some(match code {
        Code::Pblendvb_xmm_xmmm128 => |d, s, mask| {
            let (d, s, mask) = (bytes(d), bytes(s), bytes(mask));
            from_bytes(std::array::from_fn(|i| pick(d[i], s[i], mask[i] >> 7 != 0)))
        },
        Code::Blendvps_xmm_xmmm128 => |d, s, mask| {
            let (d, s, mask) = (dwords(d), dwords(s), dwords(mask));
            from_dwords(std::array::from_fn(|i| pick(d[i], s[i], mask[i] >> 31 != 0)))
        },
        Code::Blendvpd_xmm_xmmm128 => |d, s, mask| {
            let (d, s, mask) = (qwords(d), qwords(s), qwords(mask));
            from_qwords(std::array::from_fn(|i| pick(d[i], s[i], mask[i] >> 63 != 0)))
        },
        _ => return None,
    })
}

fn pick<T>(destination: T, source: T, from_source: bool) -> T {
    if from_source { source } else { destination }
}

/// PTEST, whose result is ZF and CF; `None` when `code` is not it.
pub(super) fn flags(code: Code) -> Option<Run> {
    const CF: u128 = 1 << 0;
    const ZF: u128 = 1 << 6;
    let run: Run = |_, d, s, _| {
        let zero = if d & s == 0 { ZF } else { 0 };
        let carry = if !d & s == 0 { CF } else { 0 };
        zero | carry
    };
    (code == Code::Ptest_xmm_xmmm128).then_some(run)
}

fn arithmetic(code: Code) -> Option<Run> {
    Some(match code {
        Code::Pmuldq_xmm_xmmm128 => {
            |_, d, s, _| map_qwords(d, s, |a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64)
        }
        Code::Pmulld_xmm_xmmm128 => |_, d, s, _| map_dwords(d, s, u32::wrapping_mul),
        Code::Pcmpeqq_xmm_xmmm128 => {
            |_, d, s, _| map_qwords(d, s, |a, b| u64::from(a == b).wrapping_neg())
        }
        Code::Pcmpgtq_xmm_xmmm128 => {
            |_, d, s, _| map_qwords(d, s, |a, b| u64::from(a as i64 > b as i64).wrapping_neg())
        }
        Code::Packusdw_xmm_xmmm128 => |_, d, s, _| {
            let (d, s) = (dwords(d), dwords(s));
            from_words(std::array::from_fn(|i| {
                let lane = if i < 4 { d[i] } else { s[i - 4] };
                (lane as i32).clamp(0, u16::MAX.into()) as u16
            }))
        },
        Code::Phminposuw_xmm_xmmm128 => |_, _, s, _| {
            let lanes = words(s);
            // The first of those that are least.
            let least = (0..8).min_by_key(|index| lanes[*index]).unwrap_or(0);
            u128::from(lanes[least]) | (least as u128) << 16
        },
        Code::Mpsadbw_xmm_xmmm128_imm8 => |_, d, s, imm| {
            let (d, s) = (bytes(d), bytes(s));
            let (from, block) = (4 * usize::from(imm >> 2 & 1), 4 * usize::from(imm & 3));
            from_words(std::array::from_fn(|index| {
                (0..4).map(|i| u16::from(d[from + index + i].abs_diff(s[block + i]))).sum()
            }))
        },
        _ => return None,
    })
}

fn extremes(code: Code) -> Option<Run> {
    Some(match code {
        Code::Pminsb_xmm_xmmm128 => {
            |_, d, s, _| map_bytes(d, s, |a, b| (a as i8).min(b as i8) as u8)
        }
        Code::Pmaxsb_xmm_xmmm128 => {
            |_, d, s, _| map_bytes(d, s, |a, b| (a as i8).max(b as i8) as u8)
        }
        Code::Pminuw_xmm_xmmm128 => |_, d, s, _| map_words(d, s, u16::min),
        Code::Pmaxuw_xmm_xmmm128 => |_, d, s, _| map_words(d, s, u16::max),
        Code::Pminsd_xmm_xmmm128 => {
            |_, d, s, _| map_dwords(d, s, |a, b| (a as i32).min(b as i32) as u32)
        }
        Code::Pmaxsd_xmm_xmmm128 => {
            |_, d, s, _| map_dwords(d, s, |a, b| (a as i32).max(b as i32) as u32)
        }
        Code::Pminud_xmm_xmmm128 => |_, d, s, _| map_dwords(d, s, u32::min),
        Code::Pmaxud_xmm_xmmm128 => |_, d, s, _| map_dwords(d, s, u32::max),
        _ => return None,
    })
}

/// The low elements of the source, each extended to twice, four or eight times its width.
fn widening(code: Code) -> Option<Run> {
    Some(match code {
        Code::Pmovsxbw_xmm_xmmm64 => {
            |_, _, s, _| from_words(std::array::from_fn(|i| bytes(s)[i] as i8 as u16))
        }
        Code::Pmovsxbd_xmm_xmmm32 => {
            |_, _, s, _| from_dwords(std::array::from_fn(|i| bytes(s)[i] as i8 as u32))
        }
        Code::Pmovsxbq_xmm_xmmm16 => {
            |_, _, s, _| from_qwords(std::array::from_fn(|i| bytes(s)[i] as i8 as u64))
        }
        Code::Pmovsxwd_xmm_xmmm64 => {
            |_, _, s, _| from_dwords(std::array::from_fn(|i| words(s)[i] as i16 as u32))
        }
        Code::Pmovsxwq_xmm_xmmm32 => {
            |_, _, s, _| from_qwords(std::array::from_fn(|i| words(s)[i] as i16 as u64))
        }
        Code::Pmovsxdq_xmm_xmmm64 => {
            |_, _, s, _| from_qwords(std::array::from_fn(|i| dwords(s)[i] as i32 as u64))
        }
        Code::Pmovzxbw_xmm_xmmm64 => {
            |_, _, s, _| from_words(std::array::from_fn(|i| bytes(s)[i].into()))
        }
        Code::Pmovzxbd_xmm_xmmm32 => {
            |_, _, s, _| from_dwords(std::array::from_fn(|i| bytes(s)[i].into()))
        }
        Code::Pmovzxbq_xmm_xmmm16 => {
            |_, _, s, _| from_qwords(std::array::from_fn(|i| bytes(s)[i].into()))
        }
        Code::Pmovzxwd_xmm_xmmm64 => {
            |_, _, s, _| from_dwords(std::array::from_fn(|i| words(s)[i].into()))
        }
        Code::Pmovzxwq_xmm_xmmm32 => {
            |_, _, s, _| from_qwords(std::array::from_fn(|i| words(s)[i].into()))
        }
        Code::Pmovzxdq_xmm_xmmm64 => {
            |_, _, s, _| from_qwords(std::array::from_fn(|i| dwords(s)[i].into()))
        }
        _ => return None,
    })
}

/// Single elements, to and from general registers and memory.
fn elements(code: Code) -> Option<Run> {
    Some(match code {
        Code::Pinsrb_xmm_r32m8_imm8 | Code::Pinsrb_xmm_r64m8_imm8 => |_, d, s, imm| {
            let mut lanes = bytes(d);
            lanes[usize::from(imm & 15)] = s as u8;
            from_bytes(lanes)
        },
        Code::Pinsrd_xmm_rm32_imm8 => |_, d, s, imm| {
            let mut lanes = dwords(d);
            lanes[usize::from(imm & 3)] = s as u32;
            from_dwords(lanes)
        },
        Code::Pinsrq_xmm_rm64_imm8 => |_, d, s, imm| {
            let mut lanes = qwords(d);
            lanes[usize::from(imm & 1)] = s as u64;
            from_qwords(lanes)
        },
        Code::Pextrb_r32m8_xmm_imm8 | Code::Pextrb_r64m8_xmm_imm8 => {
            |_, _, s, imm| bytes(s)[usize::from(imm & 15)].into()
        }
        Code::Pextrw_r32m16_xmm_imm8 | Code::Pextrw_r64m16_xmm_imm8 => {
            |_, _, s, imm| words(s)[usize::from(imm & 7)].into()
        }
        Code::Pextrd_rm32_xmm_imm8
        | Code::Extractps_rm32_xmm_imm8
        | Code::Extractps_r64m32_xmm_imm8 => |_, _, s, imm| dwords(s)[usize::from(imm & 3)].into(),
        Code::Pextrq_rm64_xmm_imm8 => |_, _, s, imm| qwords(s)[usize::from(imm & 1)].into(),
        // Where the source is memory, its only element is the lowest.
        Code::Insertps_xmm_xmmm32_imm8 => |_, d, s, imm| {
            let mut lanes = dwords(d);
            lanes[usize::from(imm >> 4 & 3)] = dwords(s)[usize::from(imm >> 6)];
            from_dwords(std::array::from_fn(|i| pick(lanes[i], 0, imm >> i & 1 != 0)))
        },
        _ => return None,
    })
}
