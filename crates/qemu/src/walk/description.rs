//! The JSON description behind a stream, as types.

use serde_json::{Map, Value as Json};

/// A section, as the description has it.
#[derive(Clone, Debug)]
pub(super) struct SectionDescription {
    pub(super) name: String,
    pub(super) instance: u32,
    pub(super) body: StructureDescription,
}

/// A structure: the body of a section, of a subsection, or a field.
#[derive(Clone, Debug)]
pub(super) struct StructureDescription {
    pub(super) name: String,
    pub(super) version: Option<u32>,
    pub(super) fields: Vec<FieldDescription>,
    pub(super) subsections: Vec<StructureDescription>,
}

/// One entry of a structure's list of fields: a field, or several of one size.
#[derive(Clone, Debug)]
pub(super) struct FieldDescription {
    pub(super) name: String,
    /// Elements; `None` for a field that is no array.
    pub(super) array: Option<u64>,
    /// Place of this element in an array whose elements are described one by one.
    pub(super) index: Option<u64>,
    pub(super) ty: String,
    /// Bytes of one element.
    pub(super) size: u64,
    pub(super) structure: Option<StructureDescription>,
}

/// The whole description.
#[derive(Clone, Debug)]
pub(super) struct Description {
    /// Bytes of a page; QEMU always says so.
    pub(super) page_size: Option<u64>,
    pub(super) sections: Vec<SectionDescription>,
}

/// The description cannot be used: the place in it and what is wrong.
pub(super) type Problem = String;

fn text(object: &Map<String, Json>, key: &str) -> Result<String, Problem> {
    match object.get(key) {
        Some(Json::String(text)) => Ok(text.clone()),
        _ => Err(format!("{key:?} is no text")),
    }
}

fn number(object: &Map<String, Json>, key: &str) -> Result<Option<u64>, Problem> {
    match object.get(key) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| format!("{key:?} is no number")),
    }
}

fn small(object: &Map<String, Json>, key: &str) -> Result<Option<u32>, Problem> {
    let value = number(object, key)?;
    value.map(u32::try_from).transpose().map_err(|_| format!("{key:?} is out of range"))
}

fn list<'a>(object: &'a Map<String, Json>, key: &str) -> Result<&'a [Json], Problem> {
    match object.get(key) {
        None => Ok(&[]),
        Some(Json::Array(items)) => Ok(items),
        Some(_) => Err(format!("{key:?} is no list")),
    }
}

fn object(value: &Json) -> Result<&Map<String, Json>, Problem> {
    value.as_object().ok_or_else(|| "an entry is no object".to_owned())
}

fn each<T>(
    items: &[Json],
    parse: impl Fn(&Map<String, Json>) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    items.iter().map(|item| parse(object(item)?)).collect()
}

impl Description {
    pub(super) fn parse(json: &[u8]) -> Result<Self, Problem> {
        let json: Json = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let top = object(&json)?;
        let page_size = number(top, "page_size")?;
        if page_size.is_some_and(|size| !size.is_power_of_two() || !(1024..=65536).contains(&size))
        {
            return Err("\"page_size\" is no size of a page".to_owned());
        }
        let sections = each(list(top, "devices")?, |device| {
            let name = text(device, "name")?;
            let in_section = |problem: Problem| format!("section {name:?}: {problem}");
            let instance = small(device, "instance_id").map_err(in_section)?;
            // A device that registers no description has one field, `data`, and no structure.
            let body = structure(device).map_err(in_section)?;
            Ok(SectionDescription {
                instance: instance.ok_or_else(|| in_section("no instance_id".to_owned()))?,
                body,
                name,
            })
        })?;
        Ok(Self { page_size, sections })
    }
}

fn structure(of: &Map<String, Json>) -> Result<StructureDescription, Problem> {
    Ok(StructureDescription {
        name: of.get("vmsd_name").and_then(Json::as_str).unwrap_or_default().to_owned(),
        version: small(of, "version")?,
        fields: each(list(of, "fields")?, field)?,
        subsections: each(list(of, "subsections")?, structure)?,
    })
}

fn field(of: &Map<String, Json>) -> Result<FieldDescription, Problem> {
    let name = text(of, "name")?;
    let in_field = |problem: Problem| format!("field {name:?}: {problem}");
    let ty = text(of, "type").map_err(in_field)?;
    let nested = match of.get("struct") {
        Some(nested) => Some(object(nested).map_err(in_field)?),
        // A helper's fields stand directly in the entry.
        None if ty == "tmp" && of.contains_key("fields") => Some(of),
        None => None,
    };
    Ok(FieldDescription {
        array: number(of, "array_len").map_err(in_field)?,
        index: number(of, "index").map_err(in_field)?,
        size: number(of, "size")
            .map_err(in_field)?
            .ok_or_else(|| in_field("no size".to_owned()))?,
        structure: nested.map(structure).transpose().map_err(in_field)?,
        ty,
        name,
    })
}
