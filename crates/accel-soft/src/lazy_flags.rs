//! The six arithmetic flags, kept as a result and a carry vector until somebody asks.
//!
//! `result` is the last result, sign-extended to 64 bits: zero and sign follow from it. `aux` holds
//! carries: bit 63 the carry out of the top bit, bit 62 the carry into it, bit 3 the carry out of
//! bit 3. Flags that no result could give (after POPF) are had by two corrections in `aux`: bit 0
//! inverts the sign, bits 8 to 15 are XORed into the byte whose parity counts.

use cpu::flags as f;

use crate::width::Width;

const CARRY_OUT: u64 = 1 << 63;
const CARRY_IN: u64 = 1 << 62;
const HALF_CARRY: u64 = 1 << 3;
const SIGN_INVERTED: u64 = 1;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LazyFlags {
    result: u64,
    aux: u64,
}

impl LazyFlags {
    #[inline(always)]
    fn carries<T: Width>(carry: u64) -> u64 {
        carry & HALF_CARRY | (carry << (64 - T::BITS)) & (CARRY_OUT | CARRY_IN)
    }

    /// After `left + right (+ carry) = result`.
    #[inline(always)]
    pub(crate) fn set_add<T: Width>(&mut self, left: T, right: T, result: T) {
        let (left, right) = (left.zero_extended(), right.zero_extended());
        let carry = left & right | (left | right) & !result.zero_extended();
        self.aux = Self::carries::<T>(carry);
        self.result = result.sign_extended();
    }

    /// After `left - right (- borrow) = result`.
    #[inline(always)]
    pub(crate) fn set_sub<T: Width>(&mut self, left: T, right: T, result: T) {
        let (left, right) = (left.zero_extended(), right.zero_extended());
        let carry = !left & right | (!left | right) & result.zero_extended();
        self.aux = Self::carries::<T>(carry);
        self.result = result.sign_extended();
    }

    /// After a logical operation: carry and overflow clear.
    #[inline(always)]
    pub(crate) fn set_logic<T: Width>(&mut self, result: T) {
        self.aux = 0;
        self.result = result.sign_extended();
    }

    /// Result flags from `result`, the others as given.
    #[inline(always)]
    pub(crate) fn set_parts<T: Width>(
        &mut self,
        result: T,
        carry: bool,
        overflow: bool,
        half: bool,
    ) {
        self.result = result.sign_extended();
        self.aux = u64::from(half) << 3;
        self.set_carry_overflow(carry, overflow);
    }

    /// Changes carry and overflow only.
    #[inline(always)]
    pub(crate) fn set_carry_overflow(&mut self, carry: bool, overflow: bool) {
        self.aux = self.aux & !(CARRY_OUT | CARRY_IN)
            | u64::from(carry) << 63
            | u64::from(carry ^ overflow) << 62;
    }

    /// Changes carry only.
    #[inline(always)]
    pub(crate) fn set_carry(&mut self, carry: bool) {
        let overflow = self.overflow();
        self.set_carry_overflow(carry, overflow);
    }

    #[inline(always)]
    pub(crate) fn carry(self) -> bool {
        self.aux & CARRY_OUT != 0
    }

    #[inline(always)]
    pub(crate) fn overflow(self) -> bool {
        (self.aux ^ self.aux << 1) & CARRY_OUT != 0
    }

    #[inline(always)]
    pub(crate) fn half_carry(self) -> bool {
        self.aux & HALF_CARRY != 0
    }

    #[inline(always)]
    pub(crate) fn zero(self) -> bool {
        self.result == 0
    }

    #[inline(always)]
    pub(crate) fn sign(self) -> bool {
        (self.result >> 63 ^ self.aux) & 1 != 0
    }

    #[inline(always)]
    pub(crate) fn parity(self) -> bool {
        ((self.result ^ self.aux >> 8) as u8).count_ones() & 1 == 0
    }

    /// The flags in their places in RFLAGS.
    pub(crate) fn to_bits(self) -> u64 {
        let bit = |set: bool, flag: u64| if set { flag } else { 0 };
        bit(self.carry(), f::CF)
            | bit(self.parity(), f::PF)
            | bit(self.half_carry(), f::AF)
            | bit(self.zero(), f::ZF)
            | bit(self.sign(), f::SF)
            | bit(self.overflow(), f::OF)
    }

    /// Flags that give back these bits of RFLAGS.
    pub(crate) fn from_bits(bits: u64) -> Self {
        // A zero result has even parity and sign 0, a result of 2 odd parity and sign 0.
        let result: u64 = if bits & f::ZF != 0 { 0 } else { 2 };
        let parity_now = result == 0;
        let mut aux = 0;
        if parity_now != (bits & f::PF != 0) {
            aux |= 1 << 8;
        }
        if bits & f::SF != 0 {
            aux |= SIGN_INVERTED;
        }
        if bits & f::AF != 0 {
            aux |= HALF_CARRY;
        }
        let mut flags = Self { result, aux };
        flags.set_carry_overflow(bits & f::CF != 0, bits & f::OF != 0);
        flags
    }

    /// A condition code as in the low four bits of Jcc, SETcc and CMOVcc.
    #[inline(always)]
    pub(crate) fn condition(self, code: u8) -> bool {
        let met = match code >> 1 {
            0 => self.overflow(),
            1 => self.carry(),
            2 => self.zero(),
            3 => self.carry() || self.zero(),
            4 => self.sign(),
            5 => self.parity(),
            6 => self.sign() != self.overflow(),
            _ => self.zero() || self.sign() != self.overflow(),
        };
        met != (code & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_survives() {
        for number in 0..64u64 {
            let bit = |index: u64, flag: u64| if number >> index & 1 != 0 { flag } else { 0 };
            let bits = bit(0, f::CF)
                | bit(1, f::PF)
                | bit(2, f::AF)
                | bit(3, f::ZF)
                | bit(4, f::SF)
                | bit(5, f::OF);
            assert_eq!(LazyFlags::from_bits(bits).to_bits(), bits);
        }
    }

    #[test]
    fn sums_and_differences_of_bytes_give_the_flags_of_the_manual() {
        for left in 0..=255u8 {
            for right in 0..=255u8 {
                let mut flags = LazyFlags::default();
                let (sum, carry) = left.overflowing_add(right);
                flags.set_add(left, right, sum);
                assert_eq!(flags.carry(), carry);
                assert_eq!(flags.overflow(), (left as i8).checked_add(right as i8).is_none());
                assert_eq!(flags.half_carry(), (left & 15) + (right & 15) > 15);
                let (difference, borrow) = left.overflowing_sub(right);
                flags.set_sub(left, right, difference);
                assert_eq!(flags.carry(), borrow);
                assert_eq!(flags.overflow(), (left as i8).checked_sub(right as i8).is_none());
                assert_eq!(flags.half_carry(), left & 15 < right & 15);
                assert_eq!(flags.zero(), difference == 0);
                assert_eq!(flags.sign(), difference > 127);
                assert_eq!(flags.parity(), difference.count_ones() % 2 == 0);
                assert_eq!(flags.condition(0xc), (left as i8) < right as i8);
                assert_eq!(flags.condition(0x7), left > right);
            }
        }
    }
}
