//! What flows between two Ferry processes, beside and around the state stream.
//!
//! Each side first sends one [`Hello`] of fixed length, then frames:
//!
//! ```text
//! u8 type | be32 length of payload | payload | be32 CRC-32 of type, length and payload
//! ```
//!
//! Frames of type `Stream` carry the state stream, cut anywhere; the others are the messages of
//! the return path and of the hand-over. An unknown type, a length past its bound, a wrong
//! checksum, a feature that is not known, a byte too many or too few: each ends the migration with
//! an error that names it. The CRC is that of ISO 3309, as in Ethernet.

mod frame;
mod hello;
mod message;
mod pages;

pub use frame::{FrameError, FrameReader, Kind, StreamFrame, encode_frame};
pub(crate) use hello::is_tls;
pub use hello::{Agreement, HELLO_LENGTH, Hello, HelloError, POST_COPY, Role};
pub use message::{FromDestination, FromSource, MAX_REASON, SourceFrame};
pub use pages::{PageRecords, PagesFromDestination, PagesFromSource, RECORD_HEADER, put_record};
