//! QEMU as a peer: reads the migration streams that QEMU writes, of any machine type, by the
//! description of their fields that each of them ends with. All that Ferry knows of QEMU's formats
//! is here. The crate runs no machine, opens no socket, and takes nothing for right because QEMU
//! would: what it cannot check it says so of.

pub mod compare;
pub mod layout;
pub mod receive;
pub mod send;
mod source;
pub mod translate;
pub mod walk;
