//! Integer arithmetic, comparison and logic, MMX and SSE2, and the bitwise operations of SSE.
//!
//! An MMX instruction runs the same function as its XMM form: the upper half of its operands is
//! zero and that of its result is dropped.

use super::Run;
use super::lanes::{
    bytes, from_dwords, from_qwords, map_bytes, map_dwords, map_qwords, map_words, words,
};
use super::swar::{add_bytes, equal_bytes, greater_bytes, max_bytes, min_bytes, sub_bytes};
use iced_x86::Code;

/// The function of an integer instruction; `None` when `code` is not one.
pub(super) fn run(code: Code) -> Option<Run> {
    bitwise(code).or_else(|| add_and_subtract(code)).or_else(|| compare(code)).or_else(|| {
        let run: Run = match code {
            Code::Pmullw_mm_mmm64 | Code::Pmullw_xmm_xmmm128 => {
                |_, d, s, _| map_words(d, s, u16::wrapping_mul)
            }
            Code::Pmulhw_mm_mmm64 | Code::Pmulhw_xmm_xmmm128 => {
                |_, d, s, _| map_words(d, s, |a, b| (signed_product(a, b) >> 16) as u16)
            }
            Code::Pmulhuw_mm_mmm64 | Code::Pmulhuw_xmm_xmmm128 => {
                |_, d, s, _| map_words(d, s, |a, b| ((u32::from(a) * u32::from(b)) >> 16) as u16)
            }
            Code::Pmuludq_mm_mmm64 | Code::Pmuludq_xmm_xmmm128 => {
                |_, d, s, _| map_qwords(d, s, |a, b| u64::from(a as u32) * u64::from(b as u32))
            }
            Code::Pmaddwd_mm_mmm64 | Code::Pmaddwd_xmm_xmmm128 => |_, d, s, _| {
                let (d, s) = (words(d), words(s));
                let product = |index: usize| signed_product(d[index], s[index]);
                from_dwords(std::array::from_fn(|index| {
                    // Wraps for one pair of operands only: all four words 0x8000.
                    product(2 * index).wrapping_add(product(2 * index + 1)) as u32
                }))
            },
            Code::Psadbw_mm_mmm64 | Code::Psadbw_xmm_xmmm128 => |_, d, s, _| {
                let difference = bytes(map_bytes(d, s, u8::abs_diff));
                from_qwords(std::array::from_fn(|half| {
                    difference[8 * half..8 * half + 8].iter().map(|byte| u64::from(*byte)).sum()
                }))
            },
            Code::Pavgb_mm_mmm64 | Code::Pavgb_xmm_xmmm128 => {
                |_, d, s, _| map_bytes(d, s, |a, b| ((u16::from(a) + u16::from(b) + 1) >> 1) as u8)
            }
            Code::Pavgw_mm_mmm64 | Code::Pavgw_xmm_xmmm128 => {
                |_, d, s, _| map_words(d, s, |a, b| ((u32::from(a) + u32::from(b) + 1) >> 1) as u16)
            }
            _ => return None,
        };
        Some(run)
    })
}

/// The product of two words read as signed numbers.
fn signed_product(a: u16, b: u16) -> i32 {
    i32::from(a as i16) * i32::from(b as i16)
}

fn bitwise(code: Code) -> Option<Run> {
    Some(match code {
        Code::Pxor_xmm_xmmm128
        | Code::Pxor_mm_mmm64
        | Code::Xorps_xmm_xmmm128
        | Code::Xorpd_xmm_xmmm128 => |_, d, s, _| d ^ s,
        Code::Por_xmm_xmmm128
        | Code::Por_mm_mmm64
        | Code::Orps_xmm_xmmm128
        | Code::Orpd_xmm_xmmm128 => |_, d, s, _| d | s,
        Code::Pand_xmm_xmmm128
        | Code::Pand_mm_mmm64
        | Code::Andps_xmm_xmmm128
        | Code::Andpd_xmm_xmmm128 => |_, d, s, _| d & s,
        Code::Pandn_xmm_xmmm128
        | Code::Pandn_mm_mmm64
        | Code::Andnps_xmm_xmmm128
        | Code::Andnpd_xmm_xmmm128 => |_, d, s, _| !d & s,
        _ => return None,
    })
}

fn add_and_subtract(code: Code) -> Option<Run> {
    Some(match code {
        Code::Paddb_mm_mmm64 | Code::Paddb_xmm_xmmm128 => |_, d, s, _| add_bytes(d, s),
        Code::Paddw_mm_mmm64 | Code::Paddw_xmm_xmmm128 => {
            |_, d, s, _| map_words(d, s, u16::wrapping_add)
        }
        Code::Paddd_mm_mmm64 | Code::Paddd_xmm_xmmm128 => {
            |_, d, s, _| map_dwords(d, s, u32::wrapping_add)
        }
        Code::Paddq_mm_mmm64 | Code::Paddq_xmm_xmmm128 => {
            |_, d, s, _| map_qwords(d, s, u64::wrapping_add)
        }
        Code::Psubb_mm_mmm64 | Code::Psubb_xmm_xmmm128 => |_, d, s, _| sub_bytes(d, s),
        Code::Psubw_mm_mmm64 | Code::Psubw_xmm_xmmm128 => {
            |_, d, s, _| map_words(d, s, u16::wrapping_sub)
        }
        Code::Psubd_mm_mmm64 | Code::Psubd_xmm_xmmm128 => {
            |_, d, s, _| map_dwords(d, s, u32::wrapping_sub)
        }
        Code::Psubq_mm_mmm64 | Code::Psubq_xmm_xmmm128 => {
            |_, d, s, _| map_qwords(d, s, u64::wrapping_sub)
        }
        Code::Paddusb_mm_mmm64 | Code::Paddusb_xmm_xmmm128 => {
            |_, d, s, _| map_bytes(d, s, u8::saturating_add)
        }
        Code::Paddusw_mm_mmm64 | Code::Paddusw_xmm_xmmm128 => {
            |_, d, s, _| map_words(d, s, u16::saturating_add)
        }
        Code::Psubusb_mm_mmm64 | Code::Psubusb_xmm_xmmm128 => {
            |_, d, s, _| map_bytes(d, s, u8::saturating_sub)
        }
        Code::Psubusw_mm_mmm64 | Code::Psubusw_xmm_xmmm128 => {
            |_, d, s, _| map_words(d, s, u16::saturating_sub)
        }
        Code::Paddsb_mm_mmm64 | Code::Paddsb_xmm_xmmm128 => {
            |_, d, s, _| map_bytes(d, s, |a, b| (a as i8).saturating_add(b as i8) as u8)
        }
        Code::Paddsw_mm_mmm64 | Code::Paddsw_xmm_xmmm128 => {
            |_, d, s, _| map_words(d, s, |a, b| (a as i16).saturating_add(b as i16) as u16)
        }
        Code::Psubsb_mm_mmm64 | Code::Psubsb_xmm_xmmm128 => {
            |_, d, s, _| map_bytes(d, s, |a, b| (a as i8).saturating_sub(b as i8) as u8)
        }
        Code::Psubsw_mm_mmm64 | Code::Psubsw_xmm_xmmm128 => {
            |_, d, s, _| map_words(d, s, |a, b| (a as i16).saturating_sub(b as i16) as u16)
        }
        _ => return None,
    })
}

/// Comparisons (all ones where true), minima and maxima.
fn compare(code: Code) -> Option<Run> {
    Some(match code {
        Code::Pcmpeqb_mm_mmm64 | Code::Pcmpeqb_xmm_xmmm128 => |_, d, s, _| equal_bytes(d, s),
        Code::Pcmpeqw_mm_mmm64 | Code::Pcmpeqw_xmm_xmmm128 => {
            |_, d, s, _| map_words(d, s, |a, b| u16::from(a == b).wrapping_neg())
        }
        Code::Pcmpeqd_mm_mmm64 | Code::Pcmpeqd_xmm_xmmm128 => {
            |_, d, s, _| map_dwords(d, s, |a, b| u32::from(a == b).wrapping_neg())
        }
        Code::Pcmpgtb_mm_mmm64 | Code::Pcmpgtb_xmm_xmmm128 => |_, d, s, _| greater_bytes(d, s),
        Code::Pcmpgtw_mm_mmm64 | Code::Pcmpgtw_xmm_xmmm128 => {
            |_, d, s, _| map_words(d, s, |a, b| u16::from(a as i16 > b as i16).wrapping_neg())
        }
        Code::Pcmpgtd_mm_mmm64 | Code::Pcmpgtd_xmm_xmmm128 => {
            |_, d, s, _| map_dwords(d, s, |a, b| u32::from(a as i32 > b as i32).wrapping_neg())
        }
        Code::Pminub_mm_mmm64 | Code::Pminub_xmm_xmmm128 => |_, d, s, _| min_bytes(d, s),
        Code::Pmaxub_mm_mmm64 | Code::Pmaxub_xmm_xmmm128 => |_, d, s, _| max_bytes(d, s),
        Code::Pminsw_mm_mmm64 | Code::Pminsw_xmm_xmmm128 => {
            |_, d, s, _| map_words(d, s, |a, b| (a as i16).min(b as i16) as u16)
        }
        Code::Pmaxsw_mm_mmm64 | Code::Pmaxsw_xmm_xmmm128 => {
            |_, d, s, _| map_words(d, s, |a, b| (a as i16).max(b as i16) as u16)
        }
        _ => return None,
    })
}
