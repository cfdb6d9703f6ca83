//! QEMU as a peer: reads the migration streams that QEMU writes, of any machine type, by the
//! description of their fields that each of them ends with; and knows the sections of a microvm to
//! the byte, in Ferry's terms and back. All that Ferry knows of QEMU's formats is here. The crate
//! runs no machine, opens no socket, and takes nothing for right because QEMU would: what it cannot
//! check it says so of, and what it cannot translate it refuses by name.
//!
//! | to | see |
//! | --- | --- |
//! | read a file, whatever machine it is of | [`walk`], [`compare`] |
//! | read and write the stream of a microvm | [`incoming`], [`send`], with [`layout`] |
//! | turn its state into Ferry's sections and back | [`translate`] |
//! | take a machine from a QEMU, and send it one | [`peer`] |
//! | get the machine's configuration from QEMU, and give it back | [`config`] |

pub mod compare;
pub mod config;
pub mod incoming;
pub mod layout;
pub mod peer;
pub mod send;
mod source;
pub mod translate;
pub mod walk;
mod xbzrle;

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;
/// The machine type that is known to the byte.
pub const MICROVM: &str = "microvm";
