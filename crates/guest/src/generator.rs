//! The guest's generator in plain Rust: what every page and every sector has to hold. The same
//! arithmetic is in `asm/pages.s`; a test compares memory of a guest that ran with this model.

use crate::layout::PAGE_SIZE;

/// Multiplies a page number in the seed (2^64 divided by the golden ratio).
pub(crate) const PAGE_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// Multiplies a lap number in the seed.
pub(crate) const LAP_FACTOR: u64 = 0xd134_2543_de82_ef95;
/// First and second multiplier of the mixing function (splitmix64, Steele, Lea and Flood 2014).
pub(crate) const MIX_FIRST: u64 = 0xbf58_476d_1ce4_e5b9;
/// See [`MIX_FIRST`].
pub(crate) const MIX_SECOND: u64 = 0x94d0_49bb_1331_11eb;
/// A prime larger than any slice: multiplying by it modulo the slice's size is a permutation.
pub(crate) const STRIDE: u64 = 2_654_435_761;
/// Stands for the page number in the seed of a disk block, with the block added: pages of memory
/// never have such numbers.
pub(crate) const DISK_PAGE: u64 = 1 << 52;

const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(MIX_FIRST);
    let value = (value ^ (value >> 27)).wrapping_mul(MIX_SECOND);
    value ^ (value >> 31)
}

const fn word(seed: u64, page: u64, lap: u64, index: u64) -> u64 {
    let seed = seed
        .wrapping_add(page.wrapping_mul(PAGE_FACTOR))
        .wrapping_add(lap.wrapping_mul(LAP_FACTOR));
    let first = mix(seed);
    let step = mix(seed.wrapping_add(PAGE_FACTOR)) | 1;
    first.wrapping_add(step.wrapping_mul(index))
}

/// 64-bit word `index` (0 to 511) of the page at `address`, written in lap `lap`.
pub const fn page_word(seed: u64, address: u64, lap: u64, index: u64) -> u64 {
    word(seed, address / PAGE_SIZE, lap, index)
}

/// 64-bit word `index` (0 to 511) of block `block` (4096 bytes) of the disk, written in `round`.
pub const fn disk_block_word(seed: u64, block: u64, round: u64, index: u64) -> u64 {
    word(seed, DISK_PAGE + block, round, index)
}

/// Place within a slice of `count` pages of the page that is written `turn`th in a lap.
pub const fn page_position(turn: u64, count: u64) -> u64 {
    (turn as u128 * STRIDE as u128 % count as u128) as u64
}

/// One vCPU's share of the work area after some rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceState {
    /// Address of its first page.
    pub address: u64,
    /// Its pages.
    pub count: u64,
    /// Lap in progress; 0 filled the slice, so the first round is in lap 1.
    pub lap: u64,
    /// Pages already written in this lap.
    pub cursor: u64,
}

impl SliceState {
    /// The share of `vcpu` in a machine with these parameters, after `rounds` rounds.
    pub fn after(parameters: &crate::Parameters, vcpu: u64, rounds: u64) -> Self {
        let (pages, vcpus) = (parameters.work_pages, parameters.vcpus);
        let first = pages * vcpu / vcpus;
        let count = pages * (vcpu + 1) / vcpus - first;
        let written = rounds * parameters.pages_per_round.div_ceil(vcpus);
        Self {
            address: parameters.work_address + first * PAGE_SIZE,
            count,
            lap: 1 + written / count,
            cursor: written % count,
        }
    }

    /// Address of the page written `turn`th in each lap, and the lap that wrote it last.
    pub const fn page(&self, turn: u64) -> (u64, u64) {
        let lap = if turn < self.cursor { self.lap } else { self.lap - 1 };
        (self.address + page_position(turn, self.count) * PAGE_SIZE, lap)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::Parameters;

    #[test]
    fn slices_share_the_work_area_and_each_lap_writes_every_page_once() {
        for (pages, vcpus) in [(32, 1), (33, 2), (4097, 3), (7, 4)] {
            let mut parameters = Parameters::new(64 << 20, vcpus, 0);
            parameters.work_pages = pages;
            let mut addresses = BTreeSet::new();
            for vcpu in 0..vcpus {
                let slice = SliceState::after(&parameters, vcpu, 0);
                assert_eq!((slice.lap, slice.cursor), (1, 0));
                for turn in 0..slice.count {
                    let (address, lap) = slice.page(turn);
                    assert_eq!(lap, 0, "filled before the first round");
                    assert!(addresses.insert(address), "{address:#x} twice");
                }
            }
            assert_eq!(addresses.len() as u64, pages);
            assert_eq!(addresses.first(), Some(&parameters.work_address));
            assert_eq!(
                addresses.last(),
                Some(&(parameters.work_address + (pages - 1) * PAGE_SIZE))
            );
        }
    }

    #[test]
    fn laps_follow_the_rounds() {
        let mut parameters = Parameters::new(256 << 10, 1, 0);
        parameters.pages_per_round = 10;
        let slice = SliceState::after(&parameters, 0, 7);
        assert_eq!((slice.lap, slice.cursor), (3, 6));
        assert_eq!(slice.page(5).1, 3);
        assert_eq!(slice.page(6).1, 2);
    }

    #[test]
    fn pages_laps_and_seeds_differ() {
        let words: BTreeSet<_> =
            [(1, 0x2_0000, 0), (2, 0x2_0000, 0), (1, 0x2_1000, 0), (1, 0x2_0000, 1)]
                .into_iter()
                .flat_map(|(seed, address, lap)| {
                    (0..512).map(move |index| page_word(seed, address, lap, index))
                })
                .collect();
        assert_eq!(words.len(), 4 * 512);
        assert_ne!(disk_block_word(1, 0, 0, 0), page_word(1, 0, 0, 0));
    }
}
