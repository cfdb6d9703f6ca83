//! virtio-rng, the entropy device (virtio 1.2, section 5.4).

use std::fs::File;
use std::io::{self, Read};

use memory::GuestMemory;
use vmstate::VmState;

use super::VirtioDevice;
use super::legacy::{LegacyDevice, VirtioLegacyState};
use super::queue::{QueueError, Virtqueue};
use super::state::VirtioMmioState;

/// Most bytes given for one request; the driver asks again for more.
const REQUEST_MAX: usize = 64 << 10;

/// Where the bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, VmState)]
#[repr(u8)]
pub enum RngKind {
    /// From the host: nobody can tell them beforehand, and no two runs are the same.
    Host = 0,
    /// From a seed: the same in every run, and no secret.
    Seeded = 1,
}

/// A source of random bytes.
///
/// The seeded one is xoshiro256** 1.0 (Blackman and Vigna), its state filled from the seed by
/// SplitMix64, its words taken least significant byte first. What is left of the last word of a
/// request is dropped, so that its state alone says what comes next.
#[derive(Debug)]
pub enum RngSource {
    /// The host's `/dev/urandom`.
    Host(File),
    /// xoshiro256** and its state.
    Seeded([u64; 4]),
}

impl RngSource {
    /// The host's random bytes.
    ///
    /// # Errors
    /// If the host has none.
    pub fn host() -> io::Result<Self> {
        File::open("/dev/urandom").map(Self::Host)
    }

    /// Bytes that follow from `seed`.
    pub fn seeded(mut seed: u64) -> Self {
        Self::Seeded(std::array::from_fn(|_| {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = seed;
            word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ word >> 31
        }))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Host(file) => file.read_exact(bytes),
            Self::Seeded(state) => {
                for part in bytes.chunks_mut(8) {
                    part.copy_from_slice(&next_word(state).to_le_bytes()[..part.len()]);
                }
                Ok(())
            }
        }
    }

    fn kind(&self) -> RngKind {
        match self {
            Self::Host(_) => RngKind::Host,
            Self::Seeded(_) => RngKind::Seeded,
        }
    }
}

fn next_word(state: &mut [u64; 4]) -> u64 {
    let word = state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
    let shifted = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= shifted;
    state[3] = state[3].rotate_left(45);
    word
}

/// Saved state of a virtio-rng slot.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "virtio-rng", version = 1)]
pub struct VirtioRngState {
    /// The transport.
    pub transport: VirtioMmioState,
    /// Where the bytes come from; the destination must have the same.
    pub kind: RngKind,
    /// State of the seeded generator; zero if the bytes come from the host.
    pub generator: [u64; 4],
    /// There if the slot has the legacy interface, and only then; never in `ferry-1`.
    #[vmstate(subsection = "legacy")]
    pub legacy: Option<VirtioLegacyState>,
}

/// A virtio-rng device.
#[derive(Debug)]
pub struct VirtioRng {
    source: RngSource,
}

impl VirtioRng {
    /// A device that gives the bytes of `source`.
    pub fn new(source: RngSource) -> Self {
        Self { source }
    }
}

impl VirtioDevice for VirtioRng {
    type State = VirtioRngState;
    const NAME: &'static str = "virtio-rng";
    const DEVICE_ID: u32 = 4;
    const QUEUES: usize = 1;

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn process(
        &mut self,
        index: usize,
        queues: &mut [Virtqueue],
        memory: &GuestMemory,
    ) -> Result<(), QueueError> {
        queues[index].serve(memory, |chain| {
            let mut bytes = vec![0; chain.writable_length().min(REQUEST_MAX as u64) as usize];
            // No bytes are better than bytes that are not random.
            if self.source.fill(&mut bytes).is_err() {
                return Ok(0);
            }
            Ok(chain.write(memory, 0, &bytes) as u32)
        })
    }

    fn reset(&mut self) {}

    fn save(&self, transport: VirtioMmioState) -> VirtioRngState {
        let Self { source } = self;
        let generator = match source {
            RngSource::Host(_) => [0; 4],
            RngSource::Seeded(state) => *state,
        };
        VirtioRngState { transport, kind: source.kind(), generator, legacy: None }
    }

    fn transport(state: &VirtioRngState) -> &VirtioMmioState {
        let VirtioRngState { transport, kind: _, generator: _, legacy: _ } = state;
        transport
    }

    fn legacy(state: &VirtioRngState) -> Option<&VirtioLegacyState> {
        let VirtioRngState { transport: _, kind: _, generator: _, legacy } = state;
        legacy.as_ref()
    }

    fn check(&self, state: &VirtioRngState) -> Result<(), String> {
        let VirtioRngState { transport: _, kind, generator, legacy: _ } = state;
        if *kind != self.source.kind() {
            return Err(format!("source is {kind:?}, here it is {:?}", self.source.kind()));
        }
        // xoshiro256** never leaves the state of zeroes, and never comes to it.
        if (*generator == [0; 4]) != (*kind == RngKind::Host) {
            return Err("generator state does not fit the source".to_owned());
        }
        Ok(())
    }

    fn restore(&mut self, state: &VirtioRngState) {
        let VirtioRngState { transport: _, kind: _, generator, legacy: _ } = state;
        if let RngSource::Seeded(own) = &mut self.source {
            *own = *generator;
        }
    }
}

impl LegacyDevice for VirtioRng {
    /// As in QEMU.
    const QUEUE_SIZE: u16 = 8;

    fn put_legacy(state: &mut VirtioRngState, legacy: VirtioLegacyState) {
        state.legacy = Some(legacy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first words of the reference implementation (prng.di.unimi.it) for SplitMix64 from 0,
    /// and of xoshiro256** from the state 1, 2, 3, 4.
    #[test]
    fn the_generators_give_their_published_words() {
        let RngSource::Seeded(state) = RngSource::seeded(0) else { unreachable!() };
        assert_eq!(state[..2], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
        let mut state = [1, 2, 3, 4];
        let words: Vec<u64> = (0..4).map(|_| next_word(&mut state)).collect();
        assert_eq!(words, [11520, 0, 1509978240, 1215971899390074240]);
    }

    #[test]
    fn a_request_drops_the_rest_of_its_last_word() {
        let mut one = RngSource::seeded(7);
        let mut other = RngSource::seeded(7);
        let (mut short, mut long) = ([0; 3], [0; 8]);
        one.fill(&mut short).unwrap();
        other.fill(&mut long).unwrap();
        assert_eq!(short, long[..3]);
        one.fill(&mut long).unwrap();
        let first = long;
        other.fill(&mut long).unwrap();
        assert_eq!(first, long);
    }
}
