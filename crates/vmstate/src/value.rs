//! Decoded fields without the Rust type.

use std::fmt;

use crate::schema::Variant;

/// The value of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A boolean.
    Bool(bool),
    /// An unsigned integer of any width.
    Unsigned(u64),
    /// A signed integer of any width.
    Signed(i64),
    /// A value of an enumeration.
    Enum(Variant),
    /// An array or list of bytes.
    Bytes(Vec<u8>),
    /// An array or list of anything else.
    Items(Vec<Value>),
    /// A structure.
    Struct(StructValue),
}

/// The values of a structure's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StructValue {
    /// Name of the structure.
    pub name: &'static str,
    /// Version that the values were read in.
    pub version: u32,
    /// The fields of that version, by name, in order.
    pub fields: Vec<(&'static str, Value)>,
    /// The subsections that are there, by full name, in order.
    pub subsections: Vec<(&'static str, StructValue)>,
}

fn comma_separated<T>(
    formatter: &mut fmt::Formatter<'_>,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut fmt::Formatter<'_>, T) -> fmt::Result,
) -> fmt::Result {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            formatter.write_str(", ")?;
        }
        write(formatter, item)?;
    }
    Ok(())
}

impl fmt::Display for Value {
    /// One line: numbers in hexadecimal (signed ones in decimal), bytes without separators.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(formatter, "{value}"),
            Self::Unsigned(value) => write!(formatter, "{value:#x}"),
            Self::Signed(value) => write!(formatter, "{value}"),
            Self::Enum(variant) => formatter.write_str(variant.name),
            Self::Bytes(bytes) => bytes.iter().try_for_each(|byte| write!(formatter, "{byte:02x}")),
            Self::Items(items) => {
                formatter.write_str("[")?;
                comma_separated(formatter, items, |formatter, item| write!(formatter, "{item}"))?;
                formatter.write_str("]")
            }
            Self::Struct(value) => write!(formatter, "{value}"),
        }
    }
}

impl fmt::Display for StructValue {
    /// One line: `{field: value, ..., subsection: {...}}`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("{")?;
        comma_separated(formatter, &self.fields, |formatter, (name, value)| {
            write!(formatter, "{name}: {value}")
        })?;
        if !self.fields.is_empty() && !self.subsections.is_empty() {
            formatter.write_str(", ")?;
        }
        comma_separated(formatter, &self.subsections, |formatter, (name, value)| {
            write!(formatter, "{name}: {value}")
        })?;
        formatter.write_str("}")
    }
}
