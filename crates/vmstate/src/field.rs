//! The types a saved field can have, and the traits the derive implements.

use crate::decoder::Decoder;
use crate::error::DecodeError;
use crate::schema::{Schema, Type};

/// A struct that is saved: the body of a section, of a subsection, or a part of one. Implemented
/// by `#[derive(VmState)]` only.
pub trait VmState: Sized {
    /// Name of the structure: prefix of its subsections' names, and the usual name of its section.
    const NAME: &'static str;
    /// The version that is written, and the newest that is read.
    const VERSION: u32;
    /// The oldest version that is read.
    const MINIMUM_VERSION: u32;

    /// The description of all versions, as data.
    fn schema() -> Schema;

    /// Appends the newest version of the encoding.
    fn encode_body(&self, out: &mut Vec<u8>);

    /// Reads one body and validates the state. The version must be in range.
    ///
    /// # Errors
    /// If the bytes are not the encoding of a valid state.
    fn decode_body(decoder: &mut Decoder<'_>, version: u32) -> Result<Self, DecodeError>;
}

/// A type that a saved field can have: `u8` to `u64`, `i8` to `i64`, `bool`, arrays of such types,
/// and structs and `#[repr(u8)]` enums that derive `VmState`. A `Vec` needs a bound
/// (`#[vmstate(max = N)]`), an `Option` is a subsection (`#[vmstate(subsection = "...")]`).
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no fixed meaning in a stream and cannot be saved",
    label = "not a type for saved state",
    note = "use u8..u64, i8..i64, bool, arrays of them, or types that derive `VmState`; a `Vec` \
            needs `#[vmstate(max = N)]`, an `Option` `#[vmstate(subsection = \"name\")]`, and a \
            field that is not saved `#[vmstate(excused = \"reason\")]`"
)]
pub trait Field: Sized {
    /// True if subsections may follow the fields: nothing but the end can come after it.
    #[doc(hidden)]
    const OPEN_ENDED: bool = false;
    /// False if something open-ended is repeated in it.
    #[doc(hidden)]
    const SOUND: bool = true;
    /// True if it has more than one version.
    #[doc(hidden)]
    const VERSIONED: bool = false;
    /// True if its encoding may have no bytes.
    #[doc(hidden)]
    const EMPTY: bool = false;

    /// The type, as data.
    #[doc(hidden)]
    fn ty() -> Type;

    /// Appends the encoding.
    #[doc(hidden)]
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads one value.
    #[doc(hidden)]
    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError>;

    /// Appends the encoding of several values.
    #[doc(hidden)]
    fn encode_all(values: &[Self], out: &mut Vec<u8>) {
        for value in values {
            value.encode(out);
        }
    }

    /// Reads several values.
    #[doc(hidden)]
    fn decode_all(decoder: &mut Decoder<'_>, count: usize) -> Result<Vec<Self>, DecodeError> {
        // What is announced is believed only as far as it comes.
        let mut values = Vec::with_capacity(count.min(1024));
        for index in 0..count {
            values.push(Self::decode(decoder).map_err(|error| error.at_index(index))?);
        }
        Ok(values)
    }
}

impl Field for u8 {
    fn ty() -> Type {
        Type::U8
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.array::<1>().map(|[value]| value)
    }

    fn encode_all(values: &[Self], out: &mut Vec<u8>) {
        out.extend_from_slice(values);
    }

    fn decode_all(decoder: &mut Decoder<'_>, count: usize) -> Result<Vec<Self>, DecodeError> {
        let mut values = Vec::new();
        decoder.append(&mut values, count)?;
        Ok(values)
    }
}

macro_rules! integer {
    ($($type:ty => $name:ident),*) => {$(
        impl Field for $type {
            fn ty() -> Type {
                Type::$name
            }

            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
                decoder.array().map(Self::from_be_bytes)
            }
        }
    )*};
}

integer!(u16 => U16, u32 => U32, u64 => U64, i8 => I8, i16 => I16, i32 => I32, i64 => I64);

impl Field for bool {
    fn ty() -> Type {
        Type::Bool
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.boolean()
    }
}

impl<T: Field, const N: usize> Field for [T; N] {
    const SOUND: bool = !T::OPEN_ENDED && T::SOUND && N <= u32::MAX as usize;
    const VERSIONED: bool = T::VERSIONED;
    const EMPTY: bool = N == 0 || T::EMPTY;

    fn ty() -> Type {
        Type::Array { element: Box::new(T::ty()), length: N as u32 }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        T::encode_all(self, out);
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let values = T::decode_all(decoder, N)?;
        let Ok(array) = values.try_into() else { unreachable!("N elements were decoded") };
        Ok(array)
    }
}

/// Appends a counted list. One that is longer than its bound is written all the same, and refused
/// by whoever reads it (the stream's writer does, before anything is sent): saving never panics.
pub fn encode_list<T: Field>(values: &[T], out: &mut Vec<u8>) {
    let count = u32::try_from(values.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&count.to_be_bytes());
    T::encode_all(values, out);
}

/// Reads a counted list.
pub fn decode_list<T: Field>(decoder: &mut Decoder<'_>, max: u32) -> Result<Vec<T>, DecodeError> {
    let count = decoder.count(max)?;
    T::decode_all(decoder, count as usize)
}
