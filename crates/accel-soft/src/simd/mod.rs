//! MMX, SSE to SSE4.2: what each instruction computes, as a table from `iced_x86::Code`.
//!
//! [`lookup`] is called once, at decode time. It says where the operands of an instruction are
//! ([`Operand`]) and which function computes the result ([`Run`]); fetching, storing, paging and
//! the delivery of exceptions belong to the caller. Plain moves need no function at all: they are
//! [`Shape::Copy`]. Nothing in here touches memory, and nothing in here is `unsafe`.
//!
//! Order of work for one instruction: #UD/#NM checks (by [`SimdInstruction::xmm`] and
//! [`SimdInstruction::mmx`]), fetch (with the alignment check), `run`, the x87-to-MMX transition,
//! [`SimdEnv::unmasked`], and only then the store.

mod approximate;
mod arithmetic;
mod compare;
mod conversion;
mod element;
mod environment;
mod fxsave;
mod integer;
mod lanes;
mod moves;
mod operand;
mod rounding;
mod shifts;
mod shuffles;
mod sse4;
mod ssse3;
mod strings;
mod swar;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;

pub use environment::SimdEnv;
pub use fxsave::{check_mxcsr, load_image, store_image};
pub use operand::Operand;
pub use sse4::Blend;
pub use strings::compare_strings;

use iced_x86::{Code, Instruction, OpKind};

/// Computes the result of one instruction: `(environment, destination, source, immediate)`.
///
/// Operands are little-endian integers; a shorter operand arrives zero-extended, and of the result
/// only the destination's width counts. The function never changes `destination` itself: when
/// [`SimdEnv::unmasked`] is true afterwards, the result is to be thrown away.
pub type Run = fn(&mut SimdEnv, u128, u128, u8) -> u128;

/// How to run one SIMD instruction.
#[derive(Clone, Copy, Debug)]
pub struct SimdInstruction {
    /// What to do, and with which operands.
    pub shape: Shape,
    /// The immediate byte; 0 where the instruction has none.
    pub imm: u8,
    /// The memory operand must be 16-byte aligned, or else #GP(0) (for stores as well).
    pub aligned: bool,
    /// Uses MMX registers: needs no pending x87 exception (#MF), and makes the x87-to-MMX
    /// transition (TOP = 0, all tags valid) when it completes, and also when it ends in #XM. False
    /// for [`Shape::Emms`] (which does look for pending exceptions), and for CVTPI2PS and CVTPI2PD
    /// with a memory operand.
    pub mmx: bool,
    /// Uses XMM state: #UD unless `CR4.OSFXSR`. False for pure MMX instructions and fences.
    pub xmm: bool,
    /// May set MXCSR flags: look at [`SimdEnv::unmasked`] after `run`.
    pub may_fault_simd: bool,
}

/// What kind of work an instruction is.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// `destination ← source`, nothing computed: all loads, stores and register moves.
    Copy {
        /// Written with the low bytes of the source, the rest being zero.
        destination: Operand,
        /// Read, zero-extended.
        source: Operand,
    },
    /// `destination ← run(env, destination, source, imm)`.
    Compute {
        /// Read where it is a register, then written. Memory counts as zero.
        destination: Operand,
        /// Register, memory or [`Operand::None`].
        source: Operand,
        /// The computation.
        run: Run,
    },
    /// `destination ← run(destination, source, XMM0)`.
    Blend {
        /// Read, then written.
        destination: Operand,
        /// Register or memory.
        source: Operand,
        /// The choice.
        run: Blend,
    },
    /// `RFLAGS.{ZF,PF,CF} ← run(env, left, source, 0)`; OF, SF and AF become 0.
    Compare {
        /// The XMM register on the left.
        left: Operand,
        /// Register or memory.
        source: Operand,
        /// Its result holds ZF, PF and CF at their RFLAGS places, nothing else.
        run: Run,
    },
    /// [`compare_strings`]`(left, source, lengths, imm)`: sets CF, ZF, SF and OF, clears AF and PF,
    /// and leaves its result in ECX or XMM0.
    CompareStrings {
        /// The XMM register on the left.
        left: Operand,
        /// Register or memory.
        source: Operand,
        /// The lengths are in rAX and rDX, signed, of so many bytes; else the strings end at zeroes.
        explicit: Option<u8>,
        /// What is kept of the result.
        result: StringResult,
    },
    /// MASKMOVQ, MASKMOVDQU: byte `i` of `data` is stored at `seg:[rDI + i]` where bit 7 of byte
    /// `i` of `mask` is set ([`byte_mask`]). No alignment is asked for.
    MaskedStore {
        /// The register that holds the bytes.
        data: Operand,
        /// The register that selects them.
        mask: Operand,
        /// 8 or 16.
        bytes: u8,
    },
    /// `MXCSR ← m32`, after [`check_mxcsr`].
    LoadMxcsr,
    /// `m32 ← MXCSR`.
    StoreMxcsr,
    /// LFENCE, MFENCE, SFENCE.
    Fence,
    /// All x87 tags become empty, TOP = 0.
    Emms,
}

/// What a comparison of strings leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringResult {
    /// An index, in ECX.
    Index,
    /// A mask, in XMM0.
    Mask,
}

/// ZF, PF and CF at their places in RFLAGS: what [`Shape::Compare`] may change, with
/// OF, SF and AF, which it clears.
pub const COMPARE_FLAGS: u64 = 0x8d5;

/// Bit `i` is bit 7 of byte `i`: the byte selection of MASKMOVQ and MASKMOVDQU, and PMOVMSKB.
pub fn byte_mask(value: u128) -> u16 {
    // The product brings bit 0 of every byte together in the highest byte, lowest first.
    let gather =
        |half: u64| (half >> 7 & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    (gather(value as u64) | gather((value >> 64) as u64) << 8) as u16
}

/// How to run `instruction`; `None` when it is not MMX or SSE up to SSE4.2, or is one of those that
/// are not SIMD computations (PREFETCHh, MOVNTI, FISTTP, FXSAVE, FXRSTOR, CRC32).
pub fn lookup(instruction: &Instruction) -> Option<SimdInstruction> {
    let code = instruction.code();
    let (shape, may_fault_simd) = shape(instruction)?;
    let operands = match shape {
        Shape::Copy { destination, source }
        | Shape::Compute { destination, source, .. }
        | Shape::Blend { destination, source, .. }
        | Shape::Compare { left: destination, source, .. }
        | Shape::CompareStrings { left: destination, source, .. } => [destination, source],
        Shape::MaskedStore { data, mask, .. } => [data, mask],
        Shape::LoadMxcsr | Shape::StoreMxcsr | Shape::Fence | Shape::Emms => [Operand::None; 2],
    };
    let memory_bytes = operands.iter().find_map(|operand| match operand {
        Operand::Memory { bytes } => Some(*bytes),
        _ => None,
    });
    let unaligned = matches!(
        code,
        Code::Movups_xmm_xmmm128
            | Code::Movupd_xmm_xmmm128
            | Code::Movdqu_xmm_xmmm128
            | Code::Movups_xmmm128_xmm
            | Code::Movupd_xmmm128_xmm
            | Code::Movdqu_xmmm128_xmm
            | Code::Lddqu_xmm_m128
    ) || matches!(shape, Shape::CompareStrings { .. });
    let last = instruction.op_count().saturating_sub(1);
    Some(SimdInstruction {
        shape,
        imm: match instruction.try_op_kind(last) {
            // The memory operand of INSERTPS is one element; the immediate chooses none of it.
            Ok(OpKind::Immediate8)
                if code == Code::Insertps_xmm_xmmm32_imm8 && memory_bytes.is_some() =>
            {
                instruction.immediate8() & 0x3f
            }
            Ok(OpKind::Immediate8) => instruction.immediate8(),
            _ => 0,
        },
        aligned: memory_bytes == Some(16) && !unaligned,
        mmx: operands.iter().any(Operand::is_mmx),
        xmm: operands.iter().any(Operand::is_xmm)
            || matches!(shape, Shape::LoadMxcsr | Shape::StoreMxcsr),
        may_fault_simd,
    })
}

/// The shape, and whether its function may raise a SIMD floating-point exception.
fn shape(instruction: &Instruction) -> Option<(Shape, bool)> {
    if let Some(shape) = moves::shape(instruction) {
        return Some((shape, false));
    }
    let code = instruction.code();
    let (destination, source) = (Operand::of(instruction, 0), Operand::of(instruction, 1));
    if let Some(run) = compare::flags(code) {
        return Some((Shape::Compare { left: destination, source, run }, true));
    }
    if let Some(run) = sse4::flags(code) {
        return Some((Shape::Compare { left: destination, source, run }, false));
    }
    if let Some(run) = sse4::blend(code) {
        return Some((Shape::Blend { destination, source, run }, false));
    }
    let quiet = integer::run(code)
        .or_else(|| shuffles::run(code))
        .or_else(|| shifts::run(code))
        .or_else(|| ssse3::run(code))
        .or_else(|| sse4::run(code))
        .or_else(|| approximate::run(code))
        .map(|run| (run, false));
    let (run, may_fault) = quiet
        .or_else(|| {
            let run = arithmetic::run(code).or_else(|| compare::run(code));
            run.or_else(|| rounding::run(code)).map(|run| (run, true))
        })
        .or_else(|| conversion::run(code))?;
    Some((Shape::Compute { destination, source, run }, may_fault))
}
