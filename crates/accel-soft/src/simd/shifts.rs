//! Shifts. A count is the low 64 bits of the source register, or the immediate.

use super::Run;
use super::lanes::{dwords, from_dwords, from_qwords, from_words, qwords, words};
use iced_x86::Code;

/// The function of a shift; `None` when `code` is not one.
pub(super) fn run(code: Code) -> Option<Run> {
    Some(match code {
        Code::Psllw_mm_mmm64 | Code::Psllw_xmm_xmmm128 => |_, d, s, _| left_words(d, s as u64),
        Code::Psllw_mm_imm8 | Code::Psllw_xmm_imm8 => |_, d, _, imm| left_words(d, imm.into()),
        Code::Pslld_mm_mmm64 | Code::Pslld_xmm_xmmm128 => |_, d, s, _| left_dwords(d, s as u64),
        Code::Pslld_mm_imm8 | Code::Pslld_xmm_imm8 => |_, d, _, imm| left_dwords(d, imm.into()),
        Code::Psllq_mm_mmm64 | Code::Psllq_xmm_xmmm128 => |_, d, s, _| left_qwords(d, s as u64),
        Code::Psllq_mm_imm8 | Code::Psllq_xmm_imm8 => |_, d, _, imm| left_qwords(d, imm.into()),

        Code::Psrlw_mm_mmm64 | Code::Psrlw_xmm_xmmm128 => |_, d, s, _| right_words(d, s as u64),
        Code::Psrlw_mm_imm8 | Code::Psrlw_xmm_imm8 => |_, d, _, imm| right_words(d, imm.into()),
        Code::Psrld_mm_mmm64 | Code::Psrld_xmm_xmmm128 => |_, d, s, _| right_dwords(d, s as u64),
        Code::Psrld_mm_imm8 | Code::Psrld_xmm_imm8 => |_, d, _, imm| right_dwords(d, imm.into()),
        Code::Psrlq_mm_mmm64 | Code::Psrlq_xmm_xmmm128 => |_, d, s, _| right_qwords(d, s as u64),
        Code::Psrlq_mm_imm8 | Code::Psrlq_xmm_imm8 => |_, d, _, imm| right_qwords(d, imm.into()),

        Code::Psraw_mm_mmm64 | Code::Psraw_xmm_xmmm128 => |_, d, s, _| signed_words(d, s as u64),
        Code::Psraw_mm_imm8 | Code::Psraw_xmm_imm8 => |_, d, _, imm| signed_words(d, imm.into()),
        Code::Psrad_mm_mmm64 | Code::Psrad_xmm_xmmm128 => |_, d, s, _| signed_dwords(d, s as u64),
        Code::Psrad_mm_imm8 | Code::Psrad_xmm_imm8 => |_, d, _, imm| signed_dwords(d, imm.into()),

        Code::Pslldq_xmm_imm8 => |_, d, _, imm| d.checked_shl(8 * u32::from(imm)).unwrap_or(0),
        Code::Psrldq_xmm_imm8 => |_, d, _, imm| d.checked_shr(8 * u32::from(imm)).unwrap_or(0),
        _ => return None,
    })
}

/// A count that is at least as large as any element is wide, where `count` does not fit.
fn clamp(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn left_words(value: u128, count: u64) -> u128 {
    from_words(words(value).map(|lane| lane.checked_shl(clamp(count)).unwrap_or(0)))
}

fn left_dwords(value: u128, count: u64) -> u128 {
    from_dwords(dwords(value).map(|lane| lane.checked_shl(clamp(count)).unwrap_or(0)))
}

fn left_qwords(value: u128, count: u64) -> u128 {
    from_qwords(qwords(value).map(|lane| lane.checked_shl(clamp(count)).unwrap_or(0)))
}

fn right_words(value: u128, count: u64) -> u128 {
    from_words(words(value).map(|lane| lane.checked_shr(clamp(count)).unwrap_or(0)))
}

fn right_dwords(value: u128, count: u64) -> u128 {
    from_dwords(dwords(value).map(|lane| lane.checked_shr(clamp(count)).unwrap_or(0)))
}

fn right_qwords(value: u128, count: u64) -> u128 {
    from_qwords(qwords(value).map(|lane| lane.checked_shr(clamp(count)).unwrap_or(0)))
}

fn signed_words(value: u128, count: u64) -> u128 {
    from_words(words(value).map(|lane| (lane as i16 >> count.min(15)) as u16))
}

fn signed_dwords(value: u128, count: u64) -> u128 {
    from_dwords(dwords(value).map(|lane| (lane as i32 >> count.min(31)) as u32))
}
