//! Running one instruction on the host and in a guest, at the same addresses.

pub mod guest;
pub mod native;
pub mod random;

use random::Random;

/// Where the operand memory starts within the mapping; code lies before it.
pub const MEMORY: u64 = 0x2000;
/// Bytes of operand memory.
pub const MEMORY_LENGTH: usize = 0x4000;
/// Bytes of the whole mapping.
pub const MAPPING: usize = MEMORY as usize + MEMORY_LENGTH;

/// What an instruction starts from.
#[derive(Clone, Debug)]
pub struct Start {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub registers: [u64; 16],
    /// Flags; interrupts enabled, as the host has them.
    pub flags: u64,
    /// Seed of the operand memory.
    pub seed: u64,
}

impl Start {
    /// Random registers and flags, many of them small or at the edges.
    pub fn random(random: &mut Random) -> Self {
        Self {
            registers: std::array::from_fn(|_| random.edgy()),
            flags: random.word() & 0xcd5 | 0x202,
            seed: random.word(),
        }
    }

    /// The operand memory.
    pub fn memory(&self) -> Vec<u8> {
        let mut random = Random::new(self.seed);
        (0..MEMORY_LENGTH / 8).flat_map(|_| random.edgy().to_le_bytes()).collect()
    }
}

/// What an instruction left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Vector of the exception, if there was one.
    pub fault: Option<u8>,
    /// The registers; those before the instruction if it faulted.
    pub registers: [u64; 16],
    /// The flags.
    pub flags: u64,
    /// The operand memory.
    pub memory: Vec<u8>,
}
