//! Shuffles, interleaving, packing, duplication, and the exchange of single elements with general
//! registers.

use super::lanes::{dwords, from_bytes, from_dwords, from_qwords, from_words, qwords, words};
use super::{Run, byte_mask};
use iced_x86::Code;

/// The function of a shuffle; `None` when `code` is not one.
pub(super) fn run(code: Code) -> Option<Run> {
    interleave(code).or_else(|| pack(code)).or_else(|| element(code)).or_else(|| {
        let run: Run = match code {
            Code::Pshufd_xmm_xmmm128_imm8 => {
                |_, _, s, imm| from_dwords(select(dwords(s), dwords(s), imm))
            }
            Code::Shufps_xmm_xmmm128_imm8 => {
                |_, d, s, imm| from_dwords(select(dwords(d), dwords(s), imm))
            }
            Code::Shufpd_xmm_xmmm128_imm8 => |_, d, s, imm| {
                from_qwords([qwords(d)[usize::from(imm & 1)], qwords(s)[usize::from(imm >> 1 & 1)]])
            },
            Code::Pshufw_mm_mmm64_imm8 => |_, _, s, imm| shuffle_four_words(s as u64, imm).into(),
            Code::Pshuflw_xmm_xmmm128_imm8 => |_, _, s, imm| {
                let [low, high] = qwords(s);
                from_qwords([shuffle_four_words(low, imm), high])
            },
            Code::Pshufhw_xmm_xmmm128_imm8 => |_, _, s, imm| {
                let [low, high] = qwords(s);
                from_qwords([low, shuffle_four_words(high, imm)])
            },
            Code::Movddup_xmm_xmmm64 => |_, _, s, _| from_qwords([s as u64; 2]),
            Code::Movsldup_xmm_xmmm128 => |_, _, s, _| {
                let lanes = dwords(s);
                from_dwords([lanes[0], lanes[0], lanes[2], lanes[2]])
            },
            Code::Movshdup_xmm_xmmm128 => |_, _, s, _| {
                let lanes = dwords(s);
                from_dwords([lanes[1], lanes[1], lanes[3], lanes[3]])
            },
            _ => return None,
        };
        Some(run)
    })
}

/// Field `index` of an immediate made of four two-bit fields.
fn field(imm: u8, index: u32) -> usize {
    usize::from(imm >> (2 * index) & 3)
}

/// The two low elements of the result come from `first`, the two high ones from `second`.
fn select(first: [u32; 4], second: [u32; 4], imm: u8) -> [u32; 4] {
    [first[field(imm, 0)], first[field(imm, 1)], second[field(imm, 2)], second[field(imm, 3)]]
}

fn shuffle_four_words(value: u64, imm: u8) -> u64 {
    (0..4).fold(0, |result, index| {
        let word = value >> (16 * field(imm, index)) & 0xffff;
        result | word << (16 * index)
    })
}

fn interleave(code: Code) -> Option<Run> {
    Some(match code {
        Code::Punpcklbw_mm_mmm32 | Code::Punpcklbw_xmm_xmmm128 => {
            |_, d, s, _| interleave_bytes(d as u64, s as u64)
        }
        Code::Punpcklwd_mm_mmm32 | Code::Punpcklwd_xmm_xmmm128 => {
            |_, d, s, _| interleave_words(d as u64, s as u64)
        }
        Code::Punpckldq_mm_mmm32 | Code::Punpckldq_xmm_xmmm128 | Code::Unpcklps_xmm_xmmm128 => {
            |_, d, s, _| interleave_dwords(d as u64, s as u64)
        }
        Code::Punpcklqdq_xmm_xmmm128 | Code::Unpcklpd_xmm_xmmm128 => {
            |_, d, s, _| from_qwords([d as u64, s as u64])
        }
        Code::Punpckhbw_xmm_xmmm128 => {
            |_, d, s, _| interleave_bytes((d >> 64) as u64, (s >> 64) as u64)
        }
        Code::Punpckhwd_xmm_xmmm128 => {
            |_, d, s, _| interleave_words((d >> 64) as u64, (s >> 64) as u64)
        }
        Code::Punpckhdq_xmm_xmmm128 | Code::Unpckhps_xmm_xmmm128 => {
            |_, d, s, _| interleave_dwords((d >> 64) as u64, (s >> 64) as u64)
        }
        Code::Punpckhqdq_xmm_xmmm128 | Code::Unpckhpd_xmm_xmmm128 => {
            |_, d, s, _| from_qwords([(d >> 64) as u64, (s >> 64) as u64])
        }
        // The high half of an MMX register is 32 bits.
        Code::Punpckhbw_mm_mmm64 => |_, d, s, _| interleave_bytes(d as u64 >> 32, s as u64 >> 32),
        Code::Punpckhwd_mm_mmm64 => |_, d, s, _| interleave_words(d as u64 >> 32, s as u64 >> 32),
        Code::Punpckhdq_mm_mmm64 => |_, d, s, _| interleave_dwords(d as u64 >> 32, s as u64 >> 32),
        _ => return None,
    })
}

fn interleave_bytes(d: u64, s: u64) -> u128 {
    let (d, s) = (d.to_le_bytes(), s.to_le_bytes());
    from_bytes(std::array::from_fn(|i| if i % 2 == 0 { d[i / 2] } else { s[i / 2] }))
}

fn interleave_words(d: u64, s: u64) -> u128 {
    let (d, s) = (words(d.into()), words(s.into()));
    from_words(std::array::from_fn(|i| if i % 2 == 0 { d[i / 2] } else { s[i / 2] }))
}

fn interleave_dwords(d: u64, s: u64) -> u128 {
    from_dwords([d as u32, s as u32, (d >> 32) as u32, (s >> 32) as u32])
}

fn pack(code: Code) -> Option<Run> {
    Some(match code {
        Code::Packsswb_xmm_xmmm128 => |_, d, s, _| pack_words(d, s, signed_byte),
        Code::Packuswb_xmm_xmmm128 => |_, d, s, _| pack_words(d, s, unsigned_byte),
        Code::Packssdw_xmm_xmmm128 => pack_dwords_xmm,
        // Two MMX registers side by side are one XMM register.
        Code::Packsswb_mm_mmm64 => |_, d, s, _| pack_words(d | s << 64, 0, signed_byte),
        Code::Packuswb_mm_mmm64 => |_, d, s, _| pack_words(d | s << 64, 0, unsigned_byte),
        Code::Packssdw_mm_mmm64 => |env, d, s, imm| pack_dwords_xmm(env, d | s << 64, 0, imm),
        _ => return None,
    })
}

fn signed_byte(word: u16) -> u8 {
    (word as i16).clamp(i8::MIN.into(), i8::MAX.into()) as u8
}

fn unsigned_byte(word: u16) -> u8 {
    (word as i16).clamp(0, u8::MAX.into()) as u8
}

fn pack_words(d: u128, s: u128, saturate: fn(u16) -> u8) -> u128 {
    let (d, s) = (words(d), words(s));
    from_bytes(std::array::from_fn(|i| saturate(if i < 8 { d[i] } else { s[i - 8] })))
}

fn pack_dwords_xmm(_: &mut super::SimdEnv, d: u128, s: u128, _: u8) -> u128 {
    let (d, s) = (dwords(d), dwords(s));
    from_words(std::array::from_fn(|i| {
        let lane = if i < 4 { d[i] } else { s[i - 4] };
        (lane as i32).clamp(i16::MIN.into(), i16::MAX.into()) as u16
    }))
}

/// Elements and masks to and from general registers.
fn element(code: Code) -> Option<Run> {
    Some(match code {
        Code::Pinsrw_xmm_r32m16_imm8 | Code::Pinsrw_xmm_r64m16_imm8 => {
            |_, d, s, imm| insert_word(d, s, imm & 7)
        }
        Code::Pinsrw_mm_r32m16_imm8 | Code::Pinsrw_mm_r64m16_imm8 => {
            |_, d, s, imm| insert_word(d, s, imm & 3)
        }
        Code::Pextrw_r32_xmm_imm8 | Code::Pextrw_r64_xmm_imm8 => {
            |_, _, s, imm| words(s)[usize::from(imm & 7)].into()
        }
        Code::Pextrw_r32_mm_imm8 | Code::Pextrw_r64_mm_imm8 => {
            |_, _, s, imm| words(s)[usize::from(imm & 3)].into()
        }
        Code::Pmovmskb_r32_xmm
        | Code::Pmovmskb_r64_xmm
        | Code::Pmovmskb_r32_mm
        | Code::Pmovmskb_r64_mm => |_, _, s, _| byte_mask(s).into(),
        Code::Movmskps_r32_xmm | Code::Movmskps_r64_xmm => {
            |_, _, s, _| (0..4).fold(0, |mask, i| mask | (s >> (32 * i + 31) & 1) << i)
        }
        Code::Movmskpd_r32_xmm | Code::Movmskpd_r64_xmm => {
            |_, _, s, _| (s >> 63 & 1) | (s >> 127 << 1)
        }
        _ => return None,
    })
}

fn insert_word(register: u128, word: u128, index: u8) -> u128 {
    let mut lanes = words(register);
    lanes[usize::from(index)] = word as u16;
    from_words(lanes)
}
