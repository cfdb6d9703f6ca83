//! What interrupt messages between I/O APICs, local APICs and processors have in common.

/// Delivery mode of an interrupt message (Intel SDM volume 3, section 10.6.1; 82093AA, section
/// 3.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DeliveryMode {
    /// To every local APIC of the destination.
    Fixed = 0,
    /// To the one local APIC of the destination with the lowest priority.
    LowestPriority = 1,
    /// System management interrupt.
    Smi = 2,
    /// Non-maskable interrupt.
    Nmi = 4,
    /// INIT.
    Init = 5,
    /// Start-up; only from a local APIC.
    Startup = 6,
    /// As if by the 8259 pair, which gives the vector; only from an I/O APIC or a local input.
    ExtInt = 7,
}

impl DeliveryMode {
    /// Its three bits.
    pub fn bits(self) -> u8 {
        self as u8
    }

    /// The mode by its three bits; `None` for the reserved ones.
    pub(crate) fn from_bits(bits: u32) -> Option<Self> {
        match bits & 7 {
            0 => Some(Self::Fixed),
            1 => Some(Self::LowestPriority),
            2 => Some(Self::Smi),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::Startup),
            7 => Some(Self::ExtInt),
            _ => None,
        }
    }
}
