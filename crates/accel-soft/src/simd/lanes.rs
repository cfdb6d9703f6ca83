//! Registers as arrays of elements, lowest first, and functions over them.

macro_rules! lanes {
    ($lane:ty, $count:literal, $split:ident, $join:ident, $map:ident) => {
        /// The elements of a register, lowest first.
        pub(super) fn $split(value: u128) -> [$lane; $count] {
            std::array::from_fn(|index| (value >> (index as u32 * <$lane>::BITS)) as $lane)
        }

        /// The register with these elements, lowest first.
        pub(super) fn $join(lanes: [$lane; $count]) -> u128 {
            lanes.iter().rev().fold(0, |value, lane| value << <$lane>::BITS | u128::from(*lane))
        }

        /// The register whose elements are `f` of the elements of two registers.
        pub(super) fn $map(left: u128, right: u128, f: impl Fn($lane, $lane) -> $lane) -> u128 {
            let (left, right) = ($split(left), $split(right));
            $join(std::array::from_fn(|index| f(left[index], right[index])))
        }
    };
}

lanes!(u8, 16, bytes, from_bytes, map_bytes);
lanes!(u16, 8, words, from_words, map_words);
lanes!(u32, 4, dwords, from_dwords, map_dwords);
lanes!(u64, 2, qwords, from_qwords, map_qwords);
