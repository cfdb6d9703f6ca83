//! MXCSR while one instruction runs: rounding, flushing, and which exceptions are unmasked.

/// Exceptions found before anything is computed: invalid, denormal operand, divide by zero.
const BEFORE: u32 = 0b000111;
/// All exception flags: invalid, denormal, zero divide, overflow, underflow, precision.
const FLAGS: u32 = 0b111111;
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

    /// Enters the exceptions of all elements of one operation into MXCSR.
    ///
    /// An unmasked exception that is found before the operation is carried out (IE, DE, ZE) keeps
    /// the later ones (OE, UE, PE) from being looked for, in every element.
    /// Source: Intel SDM volume 1, 11.5.3 and appendix E.4.
    pub(super) fn raise(&mut self, flags: u32) {
        let unmasked = !(self.mxcsr >> MASK_SHIFT) & FLAGS;
        let before = flags & BEFORE;
        let raised = if before & unmasked != 0 { before } else { flags & FLAGS };
        self.mxcsr |= raised;
        self.unmasked |= raised & unmasked != 0;
    }
}
