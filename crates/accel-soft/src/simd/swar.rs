//! Sixteen bytes at once in one wide integer ("SIMD within a register"), for the operations that
//! string functions live on: an array of bytes would be taken apart and put together again.

/// Bit 7 of every byte.
const SIGNS: u128 = u128::from_le_bytes([0x80; 16]);

/// Sums of bytes, without carries between them.
pub(super) fn add_bytes(a: u128, b: u128) -> u128 {
    ((a & !SIGNS) + (b & !SIGNS)) ^ (a ^ b) & SIGNS
}

/// Differences of bytes, without borrows between them.
pub(super) fn sub_bytes(a: u128, b: u128) -> u128 {
    ((a | SIGNS) - (b & !SIGNS)) ^ !(a ^ b) & SIGNS
}

/// 0xff where the bytes are equal.
pub(super) fn equal_bytes(a: u128, b: u128) -> u128 {
    let difference = a ^ b;
    // Bit 7 of the sum is set where any of the seven low bits is.
    fill(!(((difference & !SIGNS) + !SIGNS) | difference) & SIGNS)
}

/// 0xff where `a >= b`, unsigned.
pub(super) fn not_below_bytes(a: u128, b: u128) -> u128 {
    // Bit 7 stays set where the low bits need no borrow; it decides where the high bits are equal.
    let low = (a | SIGNS) - (b & !SIGNS);
    fill((a & !b | !(a ^ b) & low) & SIGNS)
}

/// 0xff where `a > b`, signed.
pub(super) fn greater_bytes(a: u128, b: u128) -> u128 {
    !not_below_bytes(b ^ SIGNS, a ^ SIGNS)
}

/// The lesser of each pair of bytes, unsigned.
pub(super) fn min_bytes(a: u128, b: u128) -> u128 {
    let swap = not_below_bytes(a, b);
    a & !swap | b & swap
}

/// The greater of each pair of bytes, unsigned.
pub(super) fn max_bytes(a: u128, b: u128) -> u128 {
    let keep = not_below_bytes(a, b);
    a & keep | b & !keep
}

/// 0xff for every byte whose bit 7 is set; no other bit may be.
fn fill(signs: u128) -> u128 {
    let ones = signs >> 7;
    (ones << 8).wrapping_sub(ones)
}
