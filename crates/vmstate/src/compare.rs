//! What differs between two states of one schema.

use std::fmt;

use crate::error::DecodeError;
use crate::schema::Schema;
use crate::value::{StructValue, Value};

/// A field that two states hold differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Path of the field, such as `fifo[3].control`.
    pub path: String,
    /// What the first state holds, in words; `None` if it has no such element.
    pub left: Option<String>,
    /// What the second state holds.
    pub right: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
        write!(formatter, "{}: {} and {}", self.path, side(&self.left), side(&self.right))
    }
}

impl Schema {
    /// Lists the fields that two bodies of one version hold differently, in the order of the
    /// stream. An empty list means that they are equal to the byte.
    ///
    /// # Errors
    /// If one of them is not a body of this structure in this version.
    pub fn compare(
        &self,
        version: u32,
        left: &[u8],
        right: &[u8],
    ) -> Result<Vec<Difference>, DecodeError> {
        let (left, right) = (self.values(version, left)?, self.values(version, right)?);
        let mut differences = Vec::new();
        structs(&left, &right, String::new(), &mut differences);
        Ok(differences)
    }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn structs(left: &StructValue, right: &StructValue, path: String, into: &mut Vec<Difference>) {
    // A subsection may come in different versions.
    if left.version != right.version {
        let version = |value: &StructValue| Some(value.version.to_string());
        let path = joined(&path, "version");
        into.push(Difference { path, left: version(left), right: version(right) });
    }
    for (name, one) in &left.fields {
        if let Some((_, other)) = right.fields.iter().find(|(other, _)| other == name) {
            values(one, other, joined(&path, name), into);
        }
    }
    for (name, one) in &left.subsections {
        match right.subsections.iter().find(|(other, _)| other == name) {
            Some((_, other)) => structs(one, other, joined(&path, name), into),
            None => {
                let left = Some(one.to_string());
                into.push(Difference { path: joined(&path, name), left, right: None });
            }
        }
    }
    for (name, other) in &right.subsections {
        if !left.subsections.iter().any(|(one, _)| one == name) {
            let right = Some(other.to_string());
            into.push(Difference { path: joined(&path, name), left: None, right });
        }
    }
}

fn values(left: &Value, right: &Value, path: String, into: &mut Vec<Difference>) {
    match (left, right) {
        _ if left == right => {}
        (Value::Struct(left), Value::Struct(right)) => structs(left, right, path, into),
        (Value::Items(left), Value::Items(right)) => {
            items(left, right, &path, into, |left, right, path, into| {
                values(left, right, path, into);
            });
        }
        (Value::Bytes(left), Value::Bytes(right)) => {
            items(left, right, &path, into, |left, right, path, into| {
                let side = |byte: &u8| Some(format!("{byte:#x}"));
                if left != right {
                    into.push(Difference { path, left: side(left), right: side(right) });
                }
            });
        }
        _ => {
            let (left, right) = (Some(left.to_string()), Some(right.to_string()));
            into.push(Difference { path, left, right });
        }
    }
}

fn items<T>(
    left: &[T],
    right: &[T],
    path: &str,
    into: &mut Vec<Difference>,
    mut compare: impl FnMut(&T, &T, String, &mut Vec<Difference>),
) {
    if left.len() != right.len() {
        let length = |items: &[T]| Some(items.len().to_string());
        let path = format!("{path}.count");
        into.push(Difference { path, left: length(left), right: length(right) });
    }
    for (index, (left, right)) in left.iter().zip(right).enumerate() {
        compare(left, right, format!("{path}[{index}]"), into);
    }
}
