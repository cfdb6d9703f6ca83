//! The grammar of the migration stream: bytes in, typed events out ([`StreamReader`]), and back
//! ([`StreamWriter`]), over any [`Read`](std::io::Read) and [`Write`](std::io::Write). It keeps to
//! QEMU's grammar, version 3, and to `docs/stream.md`, byte by byte, and refuses everything else by
//! name and offset. It knows no device and no socket, looks no further ahead than the one byte
//! that tells a subsection, skips nothing, and never decides what a section means.
//!
//! The order of a stream, with what the writer is called with and what the reader says:
//!
//! | part | writer | event |
//! | --- | --- | --- |
//! | header and machine type | `configuration` | `Configuration` |
//! | device tree | `machine` | `Machine` |
//! | list of RAM blocks | `ram_blocks` | `RamBlocks` |
//! | a round of pages, any number of times | `begin_ram_part`, `page`, `zero_page`, `end_ram_part` | `Page`, `ZeroPage`, `RamRoundEnd` |
//! | the last round | `begin_ram_end`, `page`, `zero_page`, `end_ram_end` | `Page`, `ZeroPage`, `RamEnd` |
//! | each device | `section` | `Section` |
//! | digest | `digest` | `Digest` |
//! | end mark and description | `end` | `End` |

mod description;
mod digest;
mod error;
mod input;
mod ram;
mod reader;
mod schemas;
mod wire;
mod writer;

pub use digest::{BLAKE3, Digest, digest_input, machine_digest_input};
pub use error::{Part, StreamError, StreamErrorKind};
pub use reader::{Event, StreamReader};
pub use schemas::Schemas;
pub use wire::{MAX_MACHINE, MAX_MACHINE_TYPE, MAX_RAM_BLOCKS, PAGE_SIZE};
pub use writer::StreamWriter;
