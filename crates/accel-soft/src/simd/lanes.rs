//! Registers as arrays of elements, lowest first, and functions over them.

// Through byte arrays, which the compiler turns into vector code; shifts of a u128 it does not.
macro_rules! lanes {
    ($lane:ty, $count:literal, $split:ident, $join:ident, $map:ident) => {
        /// The elements of a register, lowest first.
        #[inline]
        pub(super) fn $split(value: u128) -> [$lane; $count] {
            const BYTES: usize = size_of::<$lane>();
            let bytes = value.to_le_bytes();
            std::array::from_fn(|index| {
                let mut lane = [0; BYTES];
                lane.copy_from_slice(&bytes[BYTES * index..BYTES * (index + 1)]);
                <$lane>::from_le_bytes(lane)
            })
        }

        /// The register with these elements, lowest first.
        #[inline]
        pub(super) fn $join(lanes: [$lane; $count]) -> u128 {
            const BYTES: usize = size_of::<$lane>();
            let mut bytes = [0; 16];
            for (index, lane) in lanes.iter().enumerate() {
                bytes[BYTES * index..BYTES * (index + 1)].copy_from_slice(&lane.to_le_bytes());
            }
            u128::from_le_bytes(bytes)
        }

        /// The register whose elements are `f` of the elements of two registers.
        #[inline]
        pub(super) fn $map(left: u128, right: u128, f: impl Fn($lane, $lane) -> $lane) -> u128 {
            let (left, right) = ($split(left), $split(right));
            let mut lanes = [0; $count];
            for index in 0..$count {
                lanes[index] = f(left[index], right[index]);
            }
            $join(lanes)
        }
    };
}

lanes!(u8, 16, bytes, from_bytes, map_bytes);
lanes!(u16, 8, words, from_words, map_words);
lanes!(u32, 4, dwords, from_dwords, map_dwords);
lanes!(u64, 2, qwords, from_qwords, map_qwords);
