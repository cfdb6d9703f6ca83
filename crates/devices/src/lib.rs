//! Models of the board's devices: registers, behaviour, and the state that is saved and restored.
//!
//! A device here is a plain value. It never starts a thread, never reads a clock and never calls
//! anybody back: the time (virtual nanoseconds since the machine started, one clock for all
//! devices) is an argument of every access, output lines are looked at by the board after every
//! access, and [`deadline`](I8254::deadline) says when the board has to call again. What a device
//! does is therefore a function of its state, the time and the guest's accesses, and of nothing
//! else; two devices with equal states behave alike for ever. A `restore` checks the whole state
//! before it changes anything.

pub mod acpi_ged;
mod error;
pub mod exit_device;
pub mod firmware;
pub mod fw_cfg;
pub mod hpet;
pub mod i8254;
pub mod i8259;
pub mod ioapic;
pub mod lapic;
pub mod mc146818;
mod message;
pub mod serial;
mod ticks;
#[cfg(test)]
mod twin;
pub mod virtio;

pub use error::RestoreError;
pub use hpet::{HPET_SIZE, Hpet, HpetState, HpetTimerState};
pub use i8254::{I8254, I8254State, PIT_PORTS, PitChannelState, PitPhase};
pub use i8259::{I8259State, PicPair};
pub use ioapic::{IOAPIC_PINS, IOAPIC_SIZE, IoApic, IoApicMessage, IoApicState};
pub use lapic::{ApicBaseError, Ipi, LAPIC_REGISTERS, LAPIC_SIZE, Lapic, LapicState, Shorthand};
pub use mc146818::{RTC_PORTS, Rtc, RtcState};
pub use message::DeliveryMode;
