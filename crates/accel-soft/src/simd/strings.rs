//! SSE4.2's comparisons of strings: PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (Intel SDM volume
//! 2, section 4.1).

use super::lanes::{bytes, from_bytes, from_words, words};

/// What a comparison of strings found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Number of the first or last element that was found, or how many there are: for ECX.
    pub index: u8,
    /// Which elements were found, as bits or as elements of ones: for XMM0.
    pub mask: u128,
    /// CF, ZF, SF and OF at their places in RFLAGS.
    pub flags: u64,
}

/// Up to sixteen characters, as numbers.
struct Text {
    elements: [i32; 16],
    length: usize,
}

impl Text {
    /// The characters of a register; `length` is that of a register, or up to the first zero.
    fn of(register: u128, imm: u8, length: Option<i64>) -> Self {
        let mut elements = [0; 16];
        let count = characters(imm);
        for (index, element) in elements.iter_mut().enumerate().take(count) {
            *element = match imm & 3 {
                0 => bytes(register)[index].into(),
                1 => words(register)[index].into(),
                2 => i32::from(bytes(register)[index] as i8),
                _ => i32::from(words(register)[index] as i16),
            };
        }
        let length = match length {
            // A length is a magnitude, and stops at the end of the register.
            Some(length) => length.unsigned_abs().min(count as u64) as usize,
            None => elements[..count].iter().position(|element| *element == 0).unwrap_or(count),
        };
        Self { elements, length }
    }

    fn has(&self, index: usize) -> bool {
        index < self.length
    }
}

/// How many characters a register holds.
fn characters(imm: u8) -> usize {
    if imm & 1 == 0 { 16 } else { 8 }
}

/// Whether the character `at` of the second string is one that is looked for.
fn matches(first: &Text, second: &Text, count: usize, at: usize, imm: u8) -> bool {
    let character = second.elements[at];
    match imm >> 2 & 3 {
        // Any of a set.
        0 => second.has(at) && first.elements[..first.length].contains(&character),
        // In one of the ranges that pairs of characters bound.
        1 => {
            let ranges = first.elements[..first.length].chunks_exact(2);
            let mut inside = ranges.map(|range| (range[0]..=range[1]).contains(&character));
            second.has(at) && inside.any(|inside| inside)
        }
        // The same at the same place, ends included.
        2 => match (first.has(at), second.has(at)) {
            (true, true) => first.elements[at] == character,
            (one, other) => one == other,
        },
        // The first string begins here.
        _ => (0..count - at).all(|index| {
            !first.has(index)
                || second.has(at + index) && first.elements[index] == second.elements[at + index]
        }),
    }
}

/// Compares the strings in two registers; `lengths` are theirs where they are given, else each
/// ends at its first zero.
pub fn compare_strings(first: u128, second: u128, lengths: Option<[i64; 2]>, imm: u8) -> Found {
    let count = characters(imm);
    let [first_length, second_length] = lengths.map_or([None; 2], |lengths| lengths.map(Some));
    let first = Text::of(first, imm, first_length);
    let second = Text::of(second, imm, second_length);
    let all = (1u32 << count) - 1;
    let mut found = (0..count)
        .filter(|at| matches(&first, &second, count, *at, imm))
        .fold(0u32, |found, at| found | 1 << at);
    match imm >> 4 & 3 {
        1 => found ^= all,
        3 => found ^= (1u32 << second.length) - 1,
        _ => {}
    }
    let last = imm & 0x40 != 0;
    let index = match (found, last) {
        (0, _) => count as u8,
        (_, false) => found.trailing_zeros() as u8,
        (_, true) => 31 - found.leading_zeros() as u8,
    };
    let whole = |at: usize| found >> at & 1 != 0;
    let mask = match (last, count) {
        (false, _) => found.into(),
        (true, 16) => from_bytes(std::array::from_fn(|at| if whole(at) { u8::MAX } else { 0 })),
        (true, _) => from_words(std::array::from_fn(|at| if whole(at) { u16::MAX } else { 0 })),
    };
    let flag = |set: bool, place: u32| u64::from(set) << place;
    let flags = flag(found != 0, 0)
        | flag(second.length < count, 6)
        | flag(first.length < count, 7)
        | flag(found & 1 != 0, 11);
    Found { index, mask, flags }
}
