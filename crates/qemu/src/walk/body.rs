//! The body of a section, read by its description.

use std::io::{Read, Seek};

use super::description::{FieldDescription, StructureDescription};
use super::error::{WalkError, WalkErrorKind};
use super::input::Input;

const SUBSECTION: u8 = 0x05;

/// A structure with its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Structure {
    /// QEMU's name of the structure.
    pub name: String,
    /// Its version, where the description gives one.
    pub version: Option<u32>,
    /// The fields, in the order of the bytes.
    pub fields: Vec<Field>,
    /// The subsections that came, in order; named in full.
    pub subsections: Vec<Structure>,
}

/// A field with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its type, in QEMU's words.
    pub ty: String,
    /// What it holds.
    pub value: FieldValue,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldValue {
    /// A number without a sign.
    Unsigned(u64),
    /// A number with a sign.
    Signed(i64),
    /// Bytes whose meaning the description does not give, and buffers.
    Bytes(Vec<u8>),
    /// Several of one kind.
    Items(Vec<FieldValue>),
    /// A structure.
    Structure(Structure),
}

impl std::fmt::Display for FieldValue {
    /// Numbers in hexadecimal (signed ones in decimal), bytes without separators.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsigned(value) => write!(formatter, "{value:#x}"),
            Self::Signed(value) => write!(formatter, "{value}"),
            Self::Bytes(bytes) => bytes.iter().try_for_each(|byte| write!(formatter, "{byte:02x}")),
            Self::Items(items) => {
                formatter.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(formatter, "{comma}{item}")?;
                }
                formatter.write_str("]")
            }
            Self::Structure(structure) => {
                formatter.write_str("{")?;
                for (index, field) in structure.fields.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(formatter, "{comma}{}: {}", field.name, field.value)?;
                }
                formatter.write_str("}")
            }
        }
    }
}

/// Types whose bytes a description does not explain, with how many bytes came in each.
pub(super) type Opaque = std::collections::BTreeMap<String, u64>;

/// Reads a structure's fields and subsections.
pub(super) fn read<R: Read + Seek>(
    input: &mut Input<R>,
    description: &StructureDescription,
    path: &str,
    opaque: &mut Opaque,
) -> Result<Structure, WalkError> {
    let mut fields: Vec<Field> = Vec::with_capacity(description.fields.len());
    for field in &description.fields {
        let name = field_name(&fields, field);
        let path = join(path, &name);
        let value = match field.array {
            None => element(input, field, &path, opaque)?,
            // Nothing is there to be read, however many there are said to be.
            Some(_) if field.size == 0 => FieldValue::Items(Vec::new()),
            Some(count) => {
                if count.checked_mul(field.size).is_none_or(|bytes| bytes > input.left()) {
                    return Err(input.error(WalkErrorKind::CutShort));
                }
                let items = (0..count)
                    .map(|index| element(input, field, &format!("{path}[{index}]"), opaque));
                FieldValue::Items(items.collect::<Result<_, _>>()?)
            }
        };
        fields.push(Field { name, ty: field.ty.clone(), value });
    }
    let mut subsections = Vec::with_capacity(description.subsections.len());
    for subsection in &description.subsections {
        subsections.push(read_subsection(input, subsection, path, opaque)?);
    }
    Ok(Structure {
        name: description.name.clone(),
        version: description.version,
        fields,
        subsections,
    })
}

fn read_subsection<R: Read + Seek>(
    input: &mut Input<R>,
    description: &StructureDescription,
    path: &str,
    opaque: &mut Opaque,
) -> Result<Structure, WalkError> {
    let path = join(path, &description.name);
    let at = input.position();
    let problem = |problem: String| WalkError {
        offset: at,
        section: None,
        kind: WalkErrorKind::Field { path: path.clone(), problem },
    };
    let mark = input.u8()?;
    if mark != SUBSECTION {
        return Err(problem(format!("is described as a subsection, and {mark:#04x} comes")));
    }
    let name = input.short_text()?;
    if name != description.name {
        return Err(problem(format!("is described, and subsection {name:?} comes")));
    }
    let version = input.u32()?;
    if description.version.is_some_and(|described| described != version) {
        return Err(problem(format!("has version {version}, and another in the description")));
    }
    read(input, description, &path, opaque)
}

/// The field's name, told apart from those of the same name before it: QEMU repeats the name for
/// elements that it describes one by one, and calls every unused field `unused`.
fn field_name(before: &[Field], field: &FieldDescription) -> String {
    let name = match field.index {
        Some(index) => format!("{}[{index}]", field.name),
        None => field.name.clone(),
    };
    let taken = |name: &str| before.iter().any(|field| field.name == name);
    if !taken(&name) {
        return name;
    }
    let mut numbered = (2..).map(|number| format!("{name}#{number}"));
    numbered.find(|name| !taken(name)).expect("there are more numbers than fields")
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn element<R: Read + Seek>(
    input: &mut Input<R>,
    field: &FieldDescription,
    path: &str,
    opaque: &mut Opaque,
) -> Result<FieldValue, WalkError> {
    let start = input.position();
    if let Some(structure) = &field.structure {
        let value = read(input, structure, path, opaque)?;
        let taken = input.position() - start;
        if taken != field.size {
            let problem = format!("has {taken} bytes by its parts, and {} in all", field.size);
            let kind = WalkErrorKind::Field { path: path.to_owned(), problem };
            return Err(WalkError { offset: start, section: None, kind });
        }
        return Ok(FieldValue::Structure(value));
    }
    // "int32 equal" and the like are numbers with a rule.
    let kind = field.ty.split(' ').next().unwrap_or_default();
    let signed = matches!(kind, "int8" | "int16" | "int32" | "int64" | "timer");
    let unsigned = matches!(kind, "uint8" | "uint16" | "uint32" | "uint64" | "bool");
    if (signed || unsigned) && matches!(field.size, 1 | 2 | 4 | 8) {
        let bytes = input.bytes(field.size)?;
        let value = bytes.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        let shift = 64 - 8 * field.size as u32;
        return Ok(if signed {
            FieldValue::Signed((value << shift) as i64 >> shift)
        } else {
            FieldValue::Unsigned(value)
        });
    }
    if !matches!(kind, "buffer" | "unused_buffer") {
        *opaque.entry(field.ty.clone()).or_default() += field.size;
    }
    input.bytes(field.size).map(FieldValue::Bytes)
}
