//! MXCSR while one instruction runs: rounding, flushing, and which exceptions are unmasked.

use super::element::Element;
use crate::softfloat::{Env, Rounding};

/// Exceptions found before anything is computed: invalid, denormal operand, divide by zero.
const BEFORE: u32 = 0b000111;
/// An operand that the operation has no result for.
pub(super) const INVALID: u32 = 1 << 0;
/// A denormal operand.
pub(super) const DENORMAL: u32 = 1 << 1;
const OVERFLOW: u32 = 1 << 3;
const UNDERFLOW: u32 = 1 << 4;
/// An inexact result.
pub(super) const PRECISION: u32 = 1 << 5;
/// All exception flags: invalid, denormal, zero divide, overflow, underflow, precision.
const FLAGS: u32 = 0b111111;
/// The rounding control; zero is to nearest.
const ROUNDING: u32 = 0b11 << 13;
/// How far the masks are above the flags.
const MASK_SHIFT: u32 = 7;

/// The environment of one SIMD instruction.
///
/// Set `mxcsr` from the vCPU, call `run`, write `mxcsr` back, then look at
/// [`unmasked`](SimdEnv::unmasked): when true, leave the destination alone and raise #XM (or #UD
/// while `CR4.OSXMMEXCPT` is clear).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimdEnv {
    /// The control and status register; `run` sets flags in it.
    pub mxcsr: u32,
    unmasked: bool,
}

impl SimdEnv {
    /// An environment in which nothing has been raised yet.
    pub fn new(mxcsr: u32) -> SimdEnv {
        SimdEnv { mxcsr, unmasked: false }
    }

    /// Whether an unmasked SIMD floating-point exception was raised since [`SimdEnv::new`].
    pub fn unmasked(&self) -> bool {
        self.unmasked
    }

    /// Runs an operation on all its elements and enters their exceptions together.
    pub(super) fn run<T>(&mut self, operation: impl FnOnce(&mut Elements) -> T) -> T {
        let mut elements = Elements::new(self.mxcsr);
        let result = operation(&mut elements);
        self.raise(elements.flags);
        result
    }

    /// Enters the exceptions of all elements of one operation into MXCSR.
    ///
    /// An unmasked exception that is found before the operation is carried out (IE, DE, ZE) keeps
    /// the later ones (OE, UE, PE) from being looked for, in every element.
    /// Source: Intel SDM volume 1, 11.5.3 and appendix E.4.
    fn raise(&mut self, flags: u32) {
        let unmasked = !(self.mxcsr >> MASK_SHIFT) & FLAGS;
        let before = flags & BEFORE;
        let raised = if before & unmasked != 0 { before } else { flags & FLAGS };
        self.mxcsr |= raised;
        self.unmasked |= raised & unmasked != 0;
    }
}

/// The environment of the elements of one operation, which share their control bits and report
/// their exceptions together.
pub(super) struct Elements {
    soft: Env,
    /// OE and UE, where unmasked.
    unmasked: u32,
    /// What has been raised, as MXCSR has it.
    flags: u32,
    native_is_exact: bool,
}

impl Elements {
    fn new(mxcsr: u32) -> Elements {
        let unmasked = !(mxcsr >> MASK_SHIFT) & FLAGS;
        let mut soft = Env::from_mxcsr(mxcsr);
        // Flushing is a part of the masked response to underflow.
        soft.flush_to_zero &= unmasked & UNDERFLOW == 0;
        Elements {
            soft,
            unmasked,
            flags: 0,
            native_is_exact: mxcsr & (ROUNDING | PRECISION << MASK_SHIFT | PRECISION)
                == PRECISION << MASK_SHIFT | PRECISION,
        }
    }

    /// Whether Rust's own arithmetic, which rounds to nearest and reports nothing, does what this
    /// environment asks for: the rounding is the same, and an inexact result changes nothing, since
    /// that flag is masked and already set. Operands and result have to be plain.
    pub(super) fn native_is_exact(&self) -> bool {
        self.native_is_exact
    }

    /// Denormal operands count as zeros.
    pub(super) fn denormals_are_zero(&self) -> bool {
        self.soft.denormals_are_zero
    }

    /// Rounds otherwise than MXCSR says.
    pub(super) fn set_rounding(&mut self, rounding: Rounding) {
        self.soft.rounding = rounding;
    }

    /// Raises exceptions.
    pub(super) fn raise(&mut self, flags: u32) {
        self.flags |= flags;
    }

    /// One operation on one element that cannot overflow or underflow.
    pub(super) fn simple<T>(&mut self, operation: impl FnOnce(&mut Env) -> T) -> T {
        self.soft.flags = 0;
        let result = operation(&mut self.soft);
        self.flags |= self.soft.flags;
        result
    }

    /// One operation on one element whose result is rounded to `E`, and one with the same digits
    /// whose exponents stay in range.
    ///
    /// An unmasked underflow is a tiny result, exact or not, where a masked one is tiny and
    /// inexact. With an unmasked overflow or underflow, the result is inexact when it does not fit
    /// the digits of `E`, whatever its exponent. Source: Intel SDM volume 1, 4.9.1.4 to 4.9.1.6.
    pub(super) fn rounded<E: Element>(
        &mut self,
        operation: impl FnOnce(&mut Env) -> E,
        in_range: impl FnOnce(&mut Env) -> E,
    ) -> E {
        self.soft.flags = 0;
        let result = operation(&mut self.soft);
        let mut flags = self.soft.flags;
        if result.is_denormal() {
            flags |= UNDERFLOW & self.unmasked;
        }
        if flags & self.unmasked & (OVERFLOW | UNDERFLOW) != 0 {
            self.soft.flags = 0;
            in_range(&mut self.soft);
            flags = flags & !PRECISION | self.soft.flags & PRECISION;
        }
        self.flags |= flags;
        result
    }
}
