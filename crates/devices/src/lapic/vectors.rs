//! A register with a bit for each of the 256 vectors (ISR, TMR, IRR).

/// Eight words of 32 vectors each, as the guest reads them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vectors(pub(super) [u32; 8]);

impl Vectors {
    pub(super) fn set(&mut self, vector: u8, value: bool) {
        let word = &mut self.0[usize::from(vector / 32)];
        let bit = 1 << (vector % 32);
        *word = if value { *word | bit } else { *word & !bit };
    }

    pub(super) fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector / 32)] & 1 << (vector % 32) != 0
    }

    /// The highest vector that is set.
    pub(super) fn highest(&self) -> Option<u8> {
        let index = self.0.iter().rposition(|word| *word != 0)?;
        Some((32 * index as u32 + self.0[index].ilog2()) as u8)
    }
}
