//! The embedded guest: a few kilobytes of x86-64 code that checks itself, carried inside the host
//! binary. It rewrites memory from a seeded generator and verifies it, takes timer interrupts and
//! counts them, compares the clocks with each other, sends interrupts between vCPUs, drives a
//! virtio disk, and prints one line a round on the serial port. This crate holds that code as
//! bytes, says how a vCPU enters it ([`EntryState`]) and how it is told what to do
//! ([`Parameters`]), models its page generator in plain Rust, and reads the lines it prints
//! ([`Line`]). It never runs the guest and knows no virtual machine monitor.

mod check;
mod code;
mod entry;
mod generator;
mod image;
pub mod layout;
mod parameters;
mod report;

pub use check::Check;
pub use entry::{EntryState, EntryTable, SegmentState};
pub use generator::{SliceState, disk_block_word, page_position, page_word};
pub use image::{GuestImage, ImageSegment, image};
pub use parameters::{Flags, Parameters, ParametersError};
pub use report::{Line, PassLine, RoundLine, StartLine, TickCounts};
