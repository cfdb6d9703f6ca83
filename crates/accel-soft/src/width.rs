//! Operand widths, and how a register of each width lies in the register file.

use crate::core::Core;

/// Set in a register number to mean AH, CH, DH or BH.
pub(crate) const HIGH_BYTE: u8 = 0x80;

/// An operand of 8, 16, 32 or 64 bits.
pub(crate) trait Width: Copy + Eq + 'static {
    const BITS: u32;
    const BYTES: usize;
    fn of(value: u64) -> Self;
    fn zero_extended(self) -> u64;
    fn sign_extended(self) -> u64;
    fn get(core: &Core, register: u8) -> Self;
    /// Writes a register as instructions do: 32 bits clear the upper half, less leave it.
    fn set(core: &mut Core, register: u8, value: Self);
    #[expect(unsafe_code, reason = "guest memory is reached through host pointers")]
    /// Reads from a host address that need not be aligned.
    ///
    /// # Safety
    /// The address must be good for a read of this width.
    unsafe fn load(from: *const u8) -> Self;
    #[expect(unsafe_code, reason = "guest memory is reached through host pointers")]
    /// Writes to a host address that need not be aligned.
    ///
    /// # Safety
    /// The address must be good for a write of this width.
    unsafe fn store(to: *mut u8, value: Self);
}

macro_rules! width {
    ($type:ty, $signed:ty, $get:expr, $set:expr) => {
        impl Width for $type {
            const BITS: u32 = <$type>::BITS;
            const BYTES: usize = size_of::<$type>();

            #[inline(always)]
            fn of(value: u64) -> Self {
                value as $type
            }

            #[inline(always)]
            fn zero_extended(self) -> u64 {
                u64::from(self)
            }

            #[inline(always)]
            fn sign_extended(self) -> u64 {
                self as $signed as i64 as u64
            }

            #[inline(always)]
            fn get(core: &Core, register: u8) -> Self {
                let get: fn(&Core, u8) -> $type = $get;
                get(core, register)
            }

            #[inline(always)]
            fn set(core: &mut Core, register: u8, value: Self) {
                let set: fn(&mut Core, u8, $type) = $set;
                set(core, register, value);
            }

            #[inline(always)]
            #[expect(unsafe_code, reason = "guest memory is reached through host pointers")]
            unsafe fn load(from: *const u8) -> Self {
                // SAFETY: the caller promises that the address is readable.
                unsafe { from.cast::<$type>().read_unaligned() }
            }

            #[inline(always)]
            #[expect(unsafe_code, reason = "guest memory is reached through host pointers")]
            unsafe fn store(to: *mut u8, value: Self) {
                // SAFETY: the caller promises that the address is writable.
                unsafe { to.cast::<$type>().write_unaligned(value) }
            }
        }
    };
}

width!(
    u8,
    i8,
    |core, register| {
        if register & HIGH_BYTE == 0 {
            core.register(register) as u8
        } else {
            (core.register(register & 3) >> 8) as u8
        }
    },
    |core, register, value| {
        if register & HIGH_BYTE == 0 {
            let old = core.register(register);
            core.set_register(register, old & !0xff | u64::from(value));
        } else {
            let old = core.register(register & 3);
            core.set_register(register & 3, old & !0xff00 | u64::from(value) << 8);
        }
    }
);
width!(u16, i16, |core, register| core.register(register) as u16, |core, register, value| {
    let old = core.register(register);
    core.set_register(register, old & !0xffff | u64::from(value));
});
width!(u32, i32, |core, register| core.register(register) as u32, |core, register, value| core
    .set_register(register, u64::from(value)));
width!(u64, i64, |core, register| core.register(register), |core, register, value| core
    .set_register(register, value));
