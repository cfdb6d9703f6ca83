//! Moves, loads and stores, and the instructions that only touch state.

use super::{Operand, Shape, StringResult};
use iced_x86::{Code, Instruction};

/// The shape of a move; `None` when `instruction` is not one.
pub(super) fn shape(instruction: &Instruction) -> Option<Shape> {
    let destination = Operand::of(instruction, 0);
    let source = Operand::of(instruction, 1);
    // A scalar load from memory clears the rest of the register, a scalar move between registers
    // leaves it.
    let scalar = |bytes| {
        if source.is_memory() {
            (destination, source)
        } else {
            (destination.low(bytes), source.low(bytes))
        }
    };
    let (destination, source) = match instruction.code() {
        Code::Movups_xmm_xmmm128
        | Code::Movupd_xmm_xmmm128
        | Code::Movaps_xmm_xmmm128
        | Code::Movapd_xmm_xmmm128
        | Code::Movdqa_xmm_xmmm128
        | Code::Movdqu_xmm_xmmm128
        | Code::Lddqu_xmm_m128
        | Code::Movups_xmmm128_xmm
        | Code::Movupd_xmmm128_xmm
        | Code::Movaps_xmmm128_xmm
        | Code::Movapd_xmmm128_xmm
        | Code::Movdqa_xmmm128_xmm
        | Code::Movdqu_xmmm128_xmm
        | Code::Movntps_m128_xmm
        | Code::Movntpd_m128_xmm
        | Code::Movntdq_m128_xmm
        | Code::Movntdqa_xmm_m128
        | Code::Movq_mm_mmm64
        | Code::Movq_mmm64_mm
        | Code::Movntq_m64_mm
        | Code::Movd_mm_rm32
        | Code::Movq_mm_rm64
        | Code::Movd_xmm_rm32
        | Code::Movq_xmm_rm64
        | Code::Movd_rm32_mm
        | Code::Movq_rm64_mm
        | Code::Movq2dq_xmm_mm => (destination, source),

        Code::Movss_xmm_xmmm32 | Code::Movss_xmmm32_xmm => scalar(4),
        Code::Movsd_xmm_xmmm64 | Code::Movsd_xmmm64_xmm => scalar(8),

        Code::Movd_rm32_xmm => (destination, source.low(4)),
        Code::Movq_rm64_xmm
        | Code::Movq_xmm_xmmm64
        | Code::Movq_xmmm64_xmm
        | Code::Movdq2q_mm_xmm => (destination, source.low(8)),

        Code::Movlps_xmm_m64 | Code::Movlpd_xmm_m64 => (destination.low(8), source),
        Code::Movhps_xmm_m64 | Code::Movhpd_xmm_m64 => (destination.high(), source),
        Code::Movlps_m64_xmm | Code::Movlpd_m64_xmm => (destination, source.low(8)),
        Code::Movhps_m64_xmm | Code::Movhpd_m64_xmm => (destination, source.high()),
        Code::Movlhps_xmm_xmm => (destination.high(), source.low(8)),
        Code::Movhlps_xmm_xmm => (destination.low(8), source.high()),

        code => return state(code, instruction).or_else(|| strings(instruction)),
    };
    Some(Shape::Copy { destination, source })
}

/// Comparisons of strings: where the lengths are, and where the result goes.
fn strings(instruction: &Instruction) -> Option<Shape> {
    let (explicit, result) = match instruction.code() {
        Code::Pcmpistri_xmm_xmmm128_imm8 => (None, StringResult::Index),
        Code::Pcmpistrm_xmm_xmmm128_imm8 => (None, StringResult::Mask),
        Code::Pcmpestri_xmm_xmmm128_imm8 => (Some(4), StringResult::Index),
        Code::Pcmpestrm_xmm_xmmm128_imm8 => (Some(4), StringResult::Mask),
        Code::Pcmpestri64_xmm_xmmm128_imm8 => (Some(8), StringResult::Index),
        Code::Pcmpestrm64_xmm_xmmm128_imm8 => (Some(8), StringResult::Mask),
        _ => return None,
    };
    let (left, source) = (Operand::of(instruction, 0), Operand::of(instruction, 1));
    Some(Shape::CompareStrings { left, source, explicit, result })
}

/// Masked stores, MXCSR, fences, EMMS.
fn state(code: Code, instruction: &Instruction) -> Option<Shape> {
    // Operand 0 of the masked stores is the implicit [rDI].
    let masked = |bytes| Shape::MaskedStore {
        data: Operand::of(instruction, 1),
        mask: Operand::of(instruction, 2),
        bytes,
    };
    Some(match code {
        Code::Maskmovq_rDI_mm_mm => masked(8),
        Code::Maskmovdqu_rDI_xmm_xmm => masked(16),
        Code::Ldmxcsr_m32 => Shape::LoadMxcsr,
        Code::Stmxcsr_m32 => Shape::StoreMxcsr,
        Code::Emms => Shape::Emms,
        // All eight values of ModRM.rm encode the same fence.
        Code::Lfence
        | Code::Lfence_E9
        | Code::Lfence_EA
        | Code::Lfence_EB
        | Code::Lfence_EC
        | Code::Lfence_ED
        | Code::Lfence_EE
        | Code::Lfence_EF
        | Code::Mfence
        | Code::Mfence_F1
        | Code::Mfence_F2
        | Code::Mfence_F3
        | Code::Mfence_F4
        | Code::Mfence_F5
        | Code::Mfence_F6
        | Code::Mfence_F7
        | Code::Sfence
        | Code::Sfence_F9
        | Code::Sfence_FA
        | Code::Sfence_FB
        | Code::Sfence_FC
        | Code::Sfence_FD
        | Code::Sfence_FE
        | Code::Sfence_FF => Shape::Fence,
        _ => return None,
    })
}
