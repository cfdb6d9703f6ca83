//! Saved device state as fixed-width, big-endian bytes: a derive turns a struct into an encoder, a
//! strict decoder and a description of itself as data. The encoding is that of the bodies of
//! QEMU's migration stream. One state has one encoding, and whatever is not exactly that encoding
//! is refused by name. The crate knows no device and no stream, reads and writes no file, and
//! ignores nothing that it reads.
//!
//! ```
//! use vmstate::{SavedSection, VmState};
//!
//! /// Saved state of one interval timer.
//! #[derive(Clone, Debug, PartialEq, Eq, VmState)]
//! #[vmstate(name = "timer", version = 2)]
//! struct TimerState {
//!     /// Value the counter starts from.
//!     reload: u16,
//!     /// The gate input.
//!     #[vmstate(since = 2, default = "true")]
//!     gate: bool,
//! }
//!
//! let state = TimerState { reload: 0x1234, gate: false };
//! let section = SavedSection::encode("timer", 0, &state);
//! assert_eq!(section.data, [0x12, 0x34, 0x00]);
//! assert_eq!(section.decode::<TimerState>()?, state);
//!
//! let old = SavedSection { version: 1, data: vec![0x12, 0x34], ..section };
//! assert!(old.decode::<TimerState>()?.gate);
//! # Ok::<(), vmstate::DecodeError>(())
//! ```

mod compare;
mod decoder;
mod description;
mod error;
mod field;
mod schema;
mod section;
mod value;

pub use compare::Difference;
pub use decoder::{ByteSource, Decoder, MAX_BODY};
pub use error::{DecodeError, DecodeErrorKind, Invalid};
pub use field::{Field, VmState};
pub use schema::{Excused, FieldSchema, Schema, Subsection, Type, Variant};
pub use section::SavedSection;
pub use value::{StructValue, Value};
pub use vmstate_derive::VmState;

/// What the derived code calls. Not for people.
#[doc(hidden)]
pub mod private {
    pub use crate::field::{decode_list, encode_list};
    pub use crate::schema::SchemaParts;
}
