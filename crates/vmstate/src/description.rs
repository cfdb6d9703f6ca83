//! The JSON description of an encoded structure, in the form in which QEMU writes it behind a
//! stream and its tools read it: name, type and size of each field, in the order of the bytes.
//!
//! What QEMU has no word for is put in its words: a list is a field `NAME.count` and an array, an
//! enumeration is its byte, and arrays of arrays are one long array.

use std::fmt::Write;

use crate::schema::{Schema, Type};
use crate::value::{StructValue, Value};

impl Schema {
    /// The entry of one section in the description of a stream, as a JSON object. `values` are
    /// those of the section: the description says how long its lists are and which subsections
    /// are there.
    pub fn describe(&self, section: &str, instance: u32, values: &StructValue) -> String {
        let mut json = String::new();
        json.push_str("{\"name\":");
        push_string(&mut json, section);
        push(&mut json, format_args!(",\"instance_id\":{instance},"));
        self.push_body(&mut json, self.name(), values);
        json.push('}');
        json
    }

    fn push_body(&self, json: &mut String, name: &str, values: &StructValue) {
        json.push_str("\"vmsd_name\":");
        push_string(json, name);
        push(json, format_args!(",\"version\":{},\"fields\":[", values.version));
        let start = json.len();
        for (field, (_, value)) in self.fields_of(values.version).zip(&values.fields) {
            push_field(json, start, field.name, &field.ty, value);
        }
        json.push(']');
        if !values.subsections.is_empty() {
            json.push_str(",\"subsections\":[");
            let start = json.len();
            for (name, value) in &values.subsections {
                let of = self.subsections().iter().find(|of| of.full_name == *name);
                if let Some(of) = of {
                    separate(json, start);
                    json.push('{');
                    of.schema.push_body(json, name, value);
                    json.push('}');
                }
            }
            json.push(']');
        }
    }
}

/// Appends a string as JSON writes it.
pub(crate) fn push_string(json: &mut String, string: &str) {
    json.push('"');
    for character in string.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            control if control < ' ' => push(json, format_args!("\\u{:04x}", u32::from(control))),
            other => json.push(other),
        }
    }
    json.push('"');
}

fn push(json: &mut String, what: std::fmt::Arguments<'_>) {
    json.write_fmt(what).expect("a string takes everything");
}

/// A comma, unless this is the first of the list that began at `start`.
fn separate(json: &mut String, start: usize) {
    if json.len() > start {
        json.push(',');
    }
}

fn push_field(json: &mut String, start: usize, name: &str, ty: &Type, value: &Value) {
    match (ty, value) {
        (Type::Array { element: _, length: _ }, Value::Bytes(bytes)) => {
            push_buffer(json, start, name, bytes.len());
        }
        (Type::Array { element, length: _ }, Value::Items(items)) => {
            let items: Vec<_> = items.iter().collect();
            push_array(json, start, name, element, &items);
        }
        (Type::List { element, max: _ }, value) => {
            separate(json, start);
            json.push_str("{\"name\":");
            push_string(json, &format!("{name}.count"));
            json.push_str(",\"type\":\"uint32\",\"size\":4}");
            match value {
                Value::Bytes(bytes) => push_buffer(json, start, name, bytes.len()),
                Value::Items(items) => {
                    let items: Vec<_> = items.iter().collect();
                    push_array(json, start, name, element, &items);
                }
                _ => {}
            }
        }
        _ => push_element(json, start, name, "", ty, value),
    }
}

fn push_buffer(json: &mut String, start: usize, name: &str, length: usize) {
    separate(json, start);
    json.push_str("{\"name\":");
    push_string(json, name);
    push(json, format_args!(",\"type\":\"buffer\",\"size\":{length}}}"));
}

/// Elements one after the other: one entry if they all look alike, and one each if not.
fn push_array(json: &mut String, start: usize, name: &str, element: &Type, items: &[&Value]) {
    let count = items.len();
    match (element, items.first()) {
        (_, None) => {}
        // Arrays in arrays of bytes are one buffer.
        (Type::Array { .. }, Some(Value::Bytes(bytes))) => {
            push_buffer(json, start, name, bytes.len() * count);
        }
        (Type::Array { element, length: _ }, Some(_)) => {
            let flat = items.iter().flat_map(|item| match item {
                Value::Items(items) => items.as_slice(),
                _ => &[],
            });
            push_array(json, start, name, element, &flat.collect::<Vec<_>>());
        }
        (_, Some(first)) if is_rigid(element) => {
            let index = format!("\"array_len\":{count},");
            push_element(json, start, name, &index, element, first);
        }
        _ => {
            for (index, item) in items.iter().enumerate() {
                let index = format!("\"index\":{index},");
                push_element(json, start, name, &index, element, item);
            }
        }
    }
}

fn push_element(
    json: &mut String,
    start: usize,
    name: &str,
    index: &str,
    ty: &Type,
    value: &Value,
) {
    separate(json, start);
    json.push_str("{\"name\":");
    push_string(json, name);
    push(json, format_args!(",{index}\"type\":\"{}\"", type_name(ty)));
    if let (Type::Struct(schema), Value::Struct(values)) = (ty, value) {
        json.push_str(",\"struct\":{");
        schema.push_body(json, schema.name(), values);
        json.push('}');
    }
    push(json, format_args!(",\"size\":{}}}", size(ty, value)));
}

fn type_name(ty: &Type) -> &'static str {
    match ty {
        Type::Bool => "bool",
        Type::U8 | Type::Enum { .. } => "uint8",
        Type::U16 => "uint16",
        Type::U32 => "uint32",
        Type::U64 => "uint64",
        Type::I8 => "int8",
        Type::I16 => "int16",
        Type::I32 => "int32",
        Type::I64 => "int64",
        Type::Array { .. } | Type::List { .. } => "buffer",
        Type::Struct(_) => "struct",
    }
}

/// True if all values of the type have the same layout.
fn is_rigid(ty: &Type) -> bool {
    match ty {
        Type::List { .. } => false,
        Type::Array { element, length: _ } => is_rigid(element),
        Type::Struct(schema) => {
            schema.subsections().is_empty()
                && schema.fields().iter().all(|field| is_rigid(&field.ty))
        }
        _ => true,
    }
}

/// Encoded size in bytes.
fn size(ty: &Type, value: &Value) -> usize {
    let items = |element: &Type, value: &Value| match value {
        Value::Bytes(bytes) => bytes.len(),
        Value::Items(items) => items.iter().map(|item| size(element, item)).sum(),
        _ => 0,
    };
    match ty {
        Type::Bool | Type::U8 | Type::I8 | Type::Enum { .. } => 1,
        Type::U16 | Type::I16 => 2,
        Type::U32 | Type::I32 => 4,
        Type::U64 | Type::I64 => 8,
        Type::Array { element, length: _ } => items(element, value),
        Type::List { element, max: _ } => 4 + items(element, value),
        Type::Struct(schema) => match value {
            Value::Struct(values) => body_size(schema, values),
            _ => 0,
        },
    }
}

/// Bytes of a structure with its subsections.
fn body_size(schema: &Schema, values: &StructValue) -> usize {
    let fields = schema
        .fields_of(values.version)
        .zip(&values.fields)
        .map(|(field, (_, value))| size(&field.ty, value));
    let subsections = values.subsections.iter().map(|(name, value)| {
        let of = schema.subsections().iter().find(|of| of.full_name == *name);
        // Mark, length of the name, name, version.
        of.map_or(0, |of| 1 + 1 + name.len() + 4 + body_size(&of.schema, value))
    });
    fields.chain(subsections).sum()
}
