//! Exceptions that an instruction may raise (Intel SDM volume 3, chapter 6).

/// An instruction did not complete; the details lie in the core.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trap;

/// What an instruction handler returns.
pub(crate) type Done<T = ()> = Result<T, Trap>;

/// An exception on its way to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) vector: u8,
    pub(crate) error_code: Option<u32>,
    /// For a page fault, the linear address.
    pub(crate) address: u64,
}

pub(crate) const DIVIDE: u8 = 0;
pub(crate) const DEBUG: u8 = 1;
pub(crate) const OVERFLOW: u8 = 4;
pub(crate) const BOUND: u8 = 5;
pub(crate) const UNDEFINED: u8 = 6;
pub(crate) const NO_DEVICE: u8 = 7;
pub(crate) const DOUBLE_FAULT: u8 = 8;
pub(crate) const INVALID_TSS: u8 = 10;
pub(crate) const NOT_PRESENT: u8 = 11;
pub(crate) const STACK: u8 = 12;
pub(crate) const PROTECTION: u8 = 13;
pub(crate) const PAGE: u8 = 14;
pub(crate) const MATH: u8 = 16;
pub(crate) const SIMD: u8 = 19;

impl Fault {
    /// True for the exceptions that make a double fault of a second one (Intel SDM volume 3,
    /// table 6-5).
    pub(crate) fn is_contributory(self) -> bool {
        matches!(self.vector, DIVIDE | INVALID_TSS | NOT_PRESENT | STACK | PROTECTION)
    }
}
