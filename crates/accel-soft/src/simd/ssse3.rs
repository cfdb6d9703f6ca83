//! SSSE3: horizontal integer arithmetic, signs and magnitudes, byte shuffles.
//!
//! The MMX form of a horizontal instruction runs the XMM form on its two registers side by side.

use super::Run;
use super::lanes::{
    bytes, dwords, from_bytes, from_dwords, from_words, map_bytes, map_dwords, map_words, words,
};
use iced_x86::Code;

/// The function of an instruction of SSSE3; `None` when `code` is not one.
pub(super) fn run(code: Code) -> Option<Run> {
    horizontal(code).or_else(|| signs(code)).or_else(|| {
        let run: Run = match code {
            Code::Pshufb_mm_mmm64 => |_, d, s, _| shuffle_bytes(d, s, 7),
            Code::Pshufb_xmm_xmmm128 => |_, d, s, _| shuffle_bytes(d, s, 15),
            Code::Palignr_mm_mmm64_imm8 => {
                |_, d, s, imm| (s | d << 64).checked_shr(8 * u32::from(imm)).unwrap_or(0)
            }
            Code::Palignr_xmm_xmmm128_imm8 => |_, d, s, imm| align(d, s, imm),
            Code::Pmaddubsw_mm_mmm64 | Code::Pmaddubsw_xmm_xmmm128 => |_, d, s, _| {
                let (d, s) = (bytes(d), bytes(s));
                let product = |index: usize| i32::from(d[index]) * i32::from(s[index] as i8);
                from_words(std::array::from_fn(|index| {
                    saturated(product(2 * index) + product(2 * index + 1))
                }))
            },
            Code::Pmulhrsw_mm_mmm64 | Code::Pmulhrsw_xmm_xmmm128 => |_, d, s, _| {
                map_words(d, s, |a, b| {
                    let product = i32::from(a as i16) * i32::from(b as i16);
                    (((product >> 14) + 1) >> 1) as u16
                })
            },
            _ => return None,
        };
        Some(run)
    })
}

fn saturated(value: i32) -> u16 {
    value.clamp(i16::MIN.into(), i16::MAX.into()) as u16
}

/// Bytes of `d` by their numbers in `s`; a number whose bit 7 is set stands for zero.
fn shuffle_bytes(d: u128, s: u128, last: u8) -> u128 {
    let from = bytes(d);
    from_bytes(bytes(s).map(
        |number| {
            if number & 0x80 == 0 { from[usize::from(number & last)] } else { 0 }
        },
    ))
}

/// Sixteen bytes of the two registers, `d` being the higher, from byte `start`.
fn align(d: u128, s: u128, start: u8) -> u128 {
    match start {
        0 => s,
        1..16 => s >> (8 * u32::from(start)) | d << (128 - 8 * u32::from(start)),
        16..32 => d >> (8 * (u32::from(start) - 16)),
        _ => 0,
    }
}

fn horizontal(code: Code) -> Option<Run> {
    Some(match code {
        Code::Phaddw_xmm_xmmm128 => |_, d, s, _| pair_words(d, s, u16::wrapping_add),
        Code::Phaddw_mm_mmm64 => |_, d, s, _| pair_words(d | s << 64, 0, u16::wrapping_add),
        Code::Phaddd_xmm_xmmm128 => |_, d, s, _| pair_dwords(d, s, u32::wrapping_add),
        Code::Phaddd_mm_mmm64 => |_, d, s, _| pair_dwords(d | s << 64, 0, u32::wrapping_add),
        Code::Phaddsw_xmm_xmmm128 => |_, d, s, _| pair_words(d, s, add_saturated),
        Code::Phaddsw_mm_mmm64 => |_, d, s, _| pair_words(d | s << 64, 0, add_saturated),
        Code::Phsubw_xmm_xmmm128 => |_, d, s, _| pair_words(d, s, u16::wrapping_sub),
        Code::Phsubw_mm_mmm64 => |_, d, s, _| pair_words(d | s << 64, 0, u16::wrapping_sub),
        Code::Phsubd_xmm_xmmm128 => |_, d, s, _| pair_dwords(d, s, u32::wrapping_sub),
        Code::Phsubd_mm_mmm64 => |_, d, s, _| pair_dwords(d | s << 64, 0, u32::wrapping_sub),
        Code::Phsubsw_xmm_xmmm128 => |_, d, s, _| pair_words(d, s, sub_saturated),
        Code::Phsubsw_mm_mmm64 => |_, d, s, _| pair_words(d | s << 64, 0, sub_saturated),
        _ => return None,
    })
}

fn add_saturated(a: u16, b: u16) -> u16 {
    (a as i16).saturating_add(b as i16) as u16
}

fn sub_saturated(a: u16, b: u16) -> u16 {
    (a as i16).saturating_sub(b as i16) as u16
}

/// `f` of each two neighbours: those of `d` first.
fn pair_words(d: u128, s: u128, f: fn(u16, u16) -> u16) -> u128 {
    let (d, s) = (words(d), words(s));
    from_words(std::array::from_fn(|index| {
        let (from, first) = if index < 4 { (&d, 2 * index) } else { (&s, 2 * index - 8) };
        f(from[first], from[first + 1])
    }))
}

fn pair_dwords(d: u128, s: u128, f: fn(u32, u32) -> u32) -> u128 {
    let (d, s) = (dwords(d), dwords(s));
    from_dwords([f(d[0], d[1]), f(d[2], d[3]), f(s[0], s[1]), f(s[2], s[3])])
}

/// Magnitudes, and numbers that take the sign of others.
fn signs(code: Code) -> Option<Run> {
    Some(match code {
        Code::Pabsb_mm_mmm64 | Code::Pabsb_xmm_xmmm128 => {
            |_, _, s, _| from_bytes(bytes(s).map(|lane| (lane as i8).unsigned_abs()))
        }
        Code::Pabsw_mm_mmm64 | Code::Pabsw_xmm_xmmm128 => {
            |_, _, s, _| from_words(words(s).map(|lane| (lane as i16).unsigned_abs()))
        }
        Code::Pabsd_mm_mmm64 | Code::Pabsd_xmm_xmmm128 => {
            |_, _, s, _| from_dwords(dwords(s).map(|lane| (lane as i32).unsigned_abs()))
        }
        Code::Psignb_mm_mmm64 | Code::Psignb_xmm_xmmm128 => {
            |_, d, s, _| map_bytes(d, s, |a, b| a.wrapping_mul((b as i8).signum() as u8))
        }
        Code::Psignw_mm_mmm64 | Code::Psignw_xmm_xmmm128 => {
            |_, d, s, _| map_words(d, s, |a, b| a.wrapping_mul((b as i16).signum() as u16))
        }
        Code::Psignd_mm_mmm64 | Code::Psignd_xmm_xmmm128 => {
            |_, d, s, _| map_dwords(d, s, |a, b| a.wrapping_mul((b as i32).signum() as u32))
        }
        _ => return None,
    })
}
