//! What the attributes and doc comments say.

use proc_macro2::Span;
use syn::meta::ParseNestedMeta;
use syn::spanned::Spanned;
use syn::{Attribute, Expr, ExprLit, Generics, Lit, LitInt, LitStr, Meta, Result};

/// An error at a place.
pub(crate) fn error<T>(at: Span, message: &str) -> Result<T> {
    Err(syn::Error::new(at, message))
}

/// The text of the doc comments: lines joined by spaces, empty lines between paragraphs dropped.
pub(crate) fn description(attributes: &[Attribute]) -> String {
    let mut words = Vec::new();
    for attribute in attributes {
        if let Meta::NameValue(meta) = &attribute.meta
            && meta.path.is_ident("doc")
            && let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = &meta.value
        {
            words.extend(text.value().split_whitespace().map(str::to_owned));
        }
    }
    words.join(" ")
}

fn each(
    attributes: &[Attribute],
    mut take: impl FnMut(ParseNestedMeta<'_>) -> Result<()>,
) -> Result<()> {
    for attribute in attributes {
        if attribute.path().is_ident("vmstate") {
            attribute.parse_nested_meta(&mut take)?;
        }
    }
    Ok(())
}

fn once<T>(meta: &ParseNestedMeta<'_>, slot: &mut Option<T>, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(meta.error("given twice")),
    }
}

fn version(meta: &ParseNestedMeta<'_>) -> Result<(u32, Span)> {
    let literal: LitInt = meta.value()?.parse()?;
    Ok((literal.base10_parse()?, literal.span()))
}

/// A version that something was added in.
fn later_version(meta: &ParseNestedMeta<'_>) -> Result<(u32, Span)> {
    let (value, span) = version(meta)?;
    if value == 0 {
        return error(span, "versions begin at 1");
    }
    Ok((value, span))
}

fn string(meta: &ParseNestedMeta<'_>) -> Result<LitStr> {
    meta.value()?.parse()
}

/// A name that goes into the stream.
pub(crate) fn check_name(name: &LitStr) -> Result<()> {
    let text = name.value();
    if text.is_empty() {
        return error(name.span(), "the name is empty");
    }
    if text.len() > 255 {
        return error(name.span(), "the name is longer than 255 bytes");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    if !text.bytes().all(allowed) {
        return error(
            name.span(),
            "a name is made of ASCII letters, digits, `-`, `_`, `.` and `@`",
        );
    }
    Ok(())
}

/// `#[vmstate(...)]` on a struct.
pub(crate) struct StructAttributes {
    pub(crate) name: LitStr,
    pub(crate) version: u32,
    pub(crate) minimum_version: u32,
    pub(crate) validate: Option<Expr>,
}

impl StructAttributes {
    pub(crate) fn parse(attributes: &[Attribute], whole: Span) -> Result<Self> {
        let (mut name, mut version, mut minimum_version, mut validate) = (None, None, None, None);
        each(attributes, |meta| {
            if meta.path.is_ident("name") {
                once(&meta, &mut name, string(&meta)?)
            } else if meta.path.is_ident("version") {
                once(&meta, &mut version, self::version(&meta)?)
            } else if meta.path.is_ident("minimum_version") {
                once(&meta, &mut minimum_version, self::version(&meta)?)
            } else if meta.path.is_ident("validate") {
                once(&meta, &mut validate, string(&meta)?.parse()?)
            } else {
                Err(meta.error(
                    "unknown: `name`, `version`, `minimum_version` and `validate` are known",
                ))
            }
        })?;
        let (Some(name), Some((version, _))) = (name, version) else {
            return error(whole, "say `#[vmstate(name = \"...\", version = N)]`");
        };
        check_name(&name)?;
        let (minimum_version, at) = minimum_version.unwrap_or((1, whole));
        if minimum_version > version {
            return error(at, "the minimum version is above the version");
        }
        Ok(Self { name, version, minimum_version, validate })
    }
}

/// What older streams mean.
pub(crate) struct DefaultValue {
    pub(crate) text: LitStr,
    pub(crate) expression: Expr,
}

/// How a field is saved.
pub(crate) enum Saved {
    /// Always.
    Plain,
    /// From a version on; older streams mean the expression.
    Since { version: u32, at: Span, default: DefaultValue },
    /// As a subsection of this name.
    Subsection(LitStr),
    /// Not at all, for this reason.
    Excused(LitStr),
}

/// `#[vmstate(...)]` on a field.
pub(crate) struct FieldAttributes {
    pub(crate) saved: Saved,
    pub(crate) max: Option<Expr>,
}

impl FieldAttributes {
    pub(crate) fn parse(attributes: &[Attribute]) -> Result<Self> {
        let (mut since, mut default, mut max) = (None, None, None);
        let (mut subsection, mut excused) = (None, None);
        each(attributes, |meta| {
            if meta.path.is_ident("since") {
                once(&meta, &mut since, later_version(&meta)?)
            } else if meta.path.is_ident("default") {
                let text = string(&meta)?;
                let expression = text.parse()?;
                once(&meta, &mut default, DefaultValue { text, expression })
            } else if meta.path.is_ident("max") {
                once(&meta, &mut max, meta.value()?.parse::<Expr>()?)
            } else if meta.path.is_ident("subsection") {
                once(&meta, &mut subsection, string(&meta)?)
            } else if meta.path.is_ident("excused") {
                once(&meta, &mut excused, string(&meta)?)
            } else {
                Err(meta.error(
                    "unknown: `since`, `default`, `max`, `subsection` and `excused` are known",
                ))
            }
        })?;
        let saved = match (since, default, subsection, excused) {
            (None, None, None, None) => Saved::Plain,
            (Some((version, at)), Some(default), None, None) => {
                Saved::Since { version, at, default }
            }
            (Some((_, at)), None, None, None) => {
                return error(at, "say what older streams mean: `default = \"expression\"`");
            }
            (None, Some(default), None, None) => {
                return error(default.text.span(), "a default is for a field with `since = N`");
            }
            (None, None, Some(name), None) if max.is_none() => {
                let own = name.value();
                check_name(&LitStr::new(own.strip_prefix('/').unwrap_or(&own), name.span()))?;
                Saved::Subsection(name)
            }
            (None, None, None, Some(reason)) if max.is_none() => {
                if reason.value().trim().is_empty() {
                    return error(reason.span(), "say why this field need not be saved");
                }
                Saved::Excused(reason)
            }
            (_, _, Some(name), _) => {
                return error(name.span(), "a subsection has no further attributes");
            }
            (_, _, None, Some(reason)) => {
                return error(reason.span(), "an excused field has no further attributes");
            }
        };
        Ok(Self { saved, max })
    }
}

/// Saved state is one concrete type.
pub(crate) fn check_no_generics(generics: &Generics) -> Result<()> {
    if generics.params.is_empty() && generics.where_clause.is_none() {
        return Ok(());
    }
    error(generics.span(), "saved state has no type parameters")
}

/// The name of an enum, if one is given.
pub(crate) fn enum_name(attributes: &[Attribute]) -> Result<Option<LitStr>> {
    let mut name = None;
    each(attributes, |meta| {
        if meta.path.is_ident("name") {
            once(&meta, &mut name, string(&meta)?)
        } else {
            Err(meta.error("unknown: `name` is known on an enum"))
        }
    })?;
    if let Some(name) = &name {
        check_name(name)?;
    }
    Ok(name)
}

/// True if the type has this one-byte representation.
pub(crate) fn is_repr_u8(attributes: &[Attribute]) -> Result<bool> {
    let mut found = false;
    for attribute in attributes {
        if attribute.path().is_ident("repr") {
            attribute.parse_nested_meta(|meta| {
                found |= meta.path.is_ident("u8");
                Ok(())
            })?;
        }
    }
    Ok(found)
}
