//! A structure described as data: enough to walk its bytes without the Rust type.

use std::fmt;
use std::sync::Arc;

use crate::decoder::{ByteSource, Decoder};
use crate::error::DecodeError;
use crate::section::expect_end;
use crate::value::{StructValue, Value};

/// One value of an enumeration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The byte in the stream.
    pub value: u8,
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub description: &'static str,
}

/// The type of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// One byte, 0 or 1.
    Bool,
    /// One byte.
    U8,
    /// Two bytes.
    U16,
    /// Four bytes.
    U32,
    /// Eight bytes.
    U64,
    /// One byte, two's complement.
    I8,
    /// Two bytes, two's complement.
    I16,
    /// Four bytes, two's complement.
    I32,
    /// Eight bytes, two's complement.
    I64,
    /// One byte, one of the listed values.
    Enum {
        /// Name of the enumeration.
        name: &'static str,
        /// Its values.
        variants: &'static [Variant],
    },
    /// A fixed number of elements, one after the other.
    Array {
        /// Type of an element.
        element: Box<Type>,
        /// Number of elements.
        length: u32,
    },
    /// A 32-bit number of elements, then as many elements.
    List {
        /// Type of an element.
        element: Box<Type>,
        /// Largest number of elements.
        max: u32,
    },
    /// The fields of another structure, in its only version.
    Struct(Schema),
}

impl fmt::Display for Type {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => formatter.write_str("bool"),
            Self::U8 => formatter.write_str("uint8"),
            Self::U16 => formatter.write_str("uint16"),
            Self::U32 => formatter.write_str("uint32"),
            Self::U64 => formatter.write_str("uint64"),
            Self::I8 => formatter.write_str("int8"),
            Self::I16 => formatter.write_str("int16"),
            Self::I32 => formatter.write_str("int32"),
            Self::I64 => formatter.write_str("int64"),
            Self::Enum { name, variants: _ } => write!(formatter, "enum {name}"),
            Self::Array { element, length } => write!(formatter, "{element}[{length}]"),
            Self::List { element, max } => write!(formatter, "{element}[..={max}]"),
            Self::Struct(schema) => write!(formatter, "struct {}", schema.name()),
        }
    }
}

/// One field of a structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldSchema {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub description: &'static str,
    /// The first version of the structure that has it.
    pub since: u32,
    /// What older versions mean, as a Rust expression.
    pub default: Option<&'static str>,
    /// Its type.
    pub ty: Type,
}

/// An optional part of a structure, with a version of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subsection {
    /// Its name in the stream: the structure's, a slash, and its own.
    pub full_name: &'static str,
    /// Name of the field that holds it.
    pub field: &'static str,
    /// What it means, and when it is there.
    pub description: &'static str,
    /// Its content.
    pub schema: Schema,
}

/// A field that is not saved, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excused {
    /// Its name.
    pub name: &'static str,
    /// Why it need not be saved.
    pub reason: &'static str,
}

/// What a schema is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaParts {
    /// Name of the structure.
    pub name: &'static str,
    /// What the structure is.
    pub description: &'static str,
    /// The newest version.
    pub version: u32,
    /// The oldest version that is read.
    pub minimum_version: u32,
    /// Fields of all versions, in the order of the stream.
    pub fields: Vec<FieldSchema>,
    /// Subsections, in the order of the stream.
    pub subsections: Vec<Subsection>,
    /// The full names of those.
    pub subsection_names: &'static [&'static str],
    /// Fields that are not saved.
    pub excused: &'static [Excused],
}

/// The description of a structure as data: names, types, versions, subsections, and what each
/// field means. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema(Arc<SchemaParts>);

impl From<SchemaParts> for Schema {
    fn from(parts: SchemaParts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Schema {
    /// Name of the structure.
    pub fn name(&self) -> &str {
        self.0.name
    }

    /// What the structure is.
    pub fn description(&self) -> &str {
        self.0.description
    }

    /// The newest version: the one that is written.
    pub fn version(&self) -> u32 {
        self.0.version
    }

    /// The oldest version that is read.
    pub fn minimum_version(&self) -> u32 {
        self.0.minimum_version
    }

    /// The fields of all versions, in the order of the stream.
    pub fn fields(&self) -> &[FieldSchema] {
        &self.0.fields
    }

    /// The fields of one version, in the order of the stream.
    pub fn fields_of(&self, version: u32) -> impl Iterator<Item = &FieldSchema> {
        self.0.fields.iter().filter(move |field| field.since <= version)
    }

    /// The subsections, in the order of the stream.
    pub fn subsections(&self) -> &[Subsection] {
        &self.0.subsections
    }

    /// The fields that are not saved.
    pub fn excused(&self) -> &[Excused] {
        self.0.excused
    }

    /// Reads exactly one body from a source that cannot go back. Looks one byte ahead at most, and
    /// only where a subsection may come.
    ///
    /// # Errors
    /// If the bytes are not the encoding of this structure in this version.
    pub fn read_body(
        &self,
        version: u32,
        input: &mut dyn ByteSource,
    ) -> Result<Vec<u8>, DecodeError> {
        self.read(version, input).map(|(data, _)| data)
    }

    /// As [`read_body`](Self::read_body), and gives the values too.
    ///
    /// # Errors
    /// As [`read_body`](Self::read_body).
    pub fn read(
        &self,
        version: u32,
        input: &mut dyn ByteSource,
    ) -> Result<(Vec<u8>, StructValue), DecodeError> {
        let mut decoder = Decoder::recording(input);
        let values = self.decode_whole(&mut decoder, version)?;
        Ok((decoder.into_record(), values))
    }

    /// The values of the fields in the data of one body.
    ///
    /// # Errors
    /// If the data is not, to the last byte, the encoding of this structure in this version.
    pub fn values(&self, version: u32, data: &[u8]) -> Result<StructValue, DecodeError> {
        let mut rest = data;
        let mut decoder = Decoder::new(&mut rest);
        let values = self.decode_whole(&mut decoder, version)?;
        let offset = decoder.offset();
        expect_end(rest, offset)?;
        Ok(values)
    }

    fn decode_whole(
        &self,
        decoder: &mut Decoder<'_>,
        version: u32,
    ) -> Result<StructValue, DecodeError> {
        decoder.check_version(self.name(), version, self.minimum_version(), self.version())?;
        let values = self.decode_values(decoder, version)?;
        decoder.end_of_body()?;
        Ok(values)
    }

    fn decode_values(
        &self,
        decoder: &mut Decoder<'_>,
        version: u32,
    ) -> Result<StructValue, DecodeError> {
        let mut fields = Vec::with_capacity(self.0.fields.len());
        for field in self.fields_of(version) {
            let value = field.ty.decode(decoder).map_err(|error| error.within(field.name))?;
            fields.push((field.name, value));
        }
        let mut subsections = Vec::new();
        let names = self.0.subsection_names;
        for (index, subsection) in self.0.subsections.iter().enumerate() {
            let within = |error: DecodeError| error.within(subsection.field);
            let Some(version) = decoder.subsection_version(names, index).map_err(within)? else {
                continue;
            };
            let schema = &subsection.schema;
            let value = decoder
                .check_version(names[index], version, schema.minimum_version(), schema.version())
                .and_then(|()| schema.decode_values(decoder, version))
                .map_err(within)?;
            subsections.push((subsection.full_name, value));
        }
        if !names.is_empty() {
            decoder.end_of_subsections(names)?;
        }
        Ok(StructValue { name: self.0.name, version, fields, subsections })
    }
}

impl Type {
    fn decode(&self, decoder: &mut Decoder<'_>) -> Result<Value, DecodeError> {
        Ok(match self {
            Self::Bool => Value::Bool(decoder.boolean()?),
            Self::U8 => Value::Unsigned(u8::from_be_bytes(decoder.array()?).into()),
            Self::U16 => Value::Unsigned(u16::from_be_bytes(decoder.array()?).into()),
            Self::U32 => Value::Unsigned(u32::from_be_bytes(decoder.array()?).into()),
            Self::U64 => Value::Unsigned(u64::from_be_bytes(decoder.array()?)),
            Self::I8 => Value::Signed(i8::from_be_bytes(decoder.array()?).into()),
            Self::I16 => Value::Signed(i16::from_be_bytes(decoder.array()?).into()),
            Self::I32 => Value::Signed(i32::from_be_bytes(decoder.array()?).into()),
            Self::I64 => Value::Signed(i64::from_be_bytes(decoder.array()?)),
            Self::Enum { name, variants } => {
                Value::Enum(variants[decoder.variant(name, variants)?])
            }
            Self::Array { element, length } => element.decode_all(decoder, *length)?,
            Self::List { element, max } => {
                let count = decoder.count(*max)?;
                element.decode_all(decoder, count)?
            }
            Self::Struct(schema) => Value::Struct(schema.decode_values(decoder, schema.version())?),
        })
    }

    fn decode_all(&self, decoder: &mut Decoder<'_>, count: u32) -> Result<Value, DecodeError> {
        if *self == Self::U8 {
            let mut bytes = Vec::new();
            decoder.append(&mut bytes, count as usize)?;
            return Ok(Value::Bytes(bytes));
        }
        let mut values = Vec::with_capacity(count.min(1024) as usize);
        for index in 0..count as usize {
            values.push(self.decode(decoder).map_err(|error| error.at_index(index))?);
        }
        Ok(Value::Items(values))
    }
}
