//! The layout of every section of `ferry-1`, against the one in `docs/sections.md`: a field that
//! is added, moved, renamed or retyped shows here. What was released changes only by a new version.
//!
//! `FERRY_WRITE_GOLDEN=1 cargo test -p vmm --test sections` writes the file anew.

use std::fmt::Write;
use std::path::Path;

use machine::{MachineConfig, RngSource, VirtioKind};
use vmstate::{Schema, Type};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/sections.md");

const HEAD: &str = "\
# The sections of `ferry-1`

Every section of a machine with one of each device, in the order of the stream. Numbers are
big-endian; `type[N]` is N elements one after the other, `type[..=N]` a 32-bit number of elements,
at most N, and then as many; an enumeration is one byte. A structure within has its fields in place.
`docs/stream.md` says how sections stand in the stream.

This file is compared with the code by a test (`crates/vmm/tests/sections.rs`).
";

/// A machine with one of each device.
fn everything() -> MachineConfig {
    let mut config = MachineConfig::new("everything", [1; 16], 64 << 20);
    config.hpet = true;
    for kind in [
        VirtioKind::Block {
            id: "disk0".into(),
            serial: String::new(),
            sectors: 1,
            read_only: false,
        },
        VirtioKind::Rng { id: "rng0".into(), source: RngSource::Host },
        VirtioKind::Console { id: "con0".into() },
        VirtioKind::Net { id: "net0".into(), mac: [2, 0, 0, 0, 0, 1] },
    ] {
        config.plug(kind).unwrap();
    }
    config
}

fn inner(ty: &Type) -> Option<&Schema> {
    match ty {
        Type::Struct(schema) => Some(schema),
        Type::Array { element, .. } | Type::List { element, .. } => inner(element),
        _ => None,
    }
}

fn variants(ty: &Type) -> String {
    match ty {
        Type::Enum { variants, .. } => {
            let listed: Vec<String> = variants
                .iter()
                .map(|variant| format!("{} {}", variant.value, variant.name))
                .collect();
            format!(" ({})", listed.join(", "))
        }
        Type::Array { element, .. } | Type::List { element, .. } => variants(element),
        _ => String::new(),
    }
}

fn rows(text: &mut String, schema: &Schema, prefix: &str) {
    for field in schema.fields() {
        let since =
            if field.since > 1 { format!(" (since {})", field.since) } else { String::new() };
        let description = field.description.replace('|', "\\|").replace('\n', " ");
        writeln!(
            text,
            "| `{prefix}{}`{since} | {}{} | {description} |",
            field.name,
            field.ty,
            variants(&field.ty)
        )
        .unwrap();
        if let Some(schema) = inner(&field.ty) {
            rows(text, schema, &format!("{prefix}{}.", field.name));
        }
    }
    for subsection in schema.subsections() {
        writeln!(
            text,
            "| subsection `{}` version {} | | {} |",
            subsection.full_name,
            subsection.schema.version(),
            subsection.description.replace('\n', " ")
        )
        .unwrap();
        rows(text, &subsection.schema, &format!("{prefix}{}.", subsection.field));
    }
}

fn rendered() -> String {
    let schemas = vmm::schemas(&everything());
    let mut text = HEAD.to_owned();
    for (name, instance) in schemas.expected() {
        let schema = schemas.schema(&name, instance).unwrap();
        if instance > 0 {
            writeln!(text, "\n`{name}`, instance {instance}: the same.").unwrap();
            continue;
        }
        writeln!(text, "\n## `{name}` version {}\n", schema.version()).unwrap();
        writeln!(text, "{}\n", schema.description()).unwrap();
        text.push_str("| field | type | meaning |\n| --- | --- | --- |\n");
        rows(&mut text, schema, "");
    }
    text
}

#[test]
fn the_layout_is_the_one_that_is_written_down() {
    let now = rendered();
    if std::env::var_os("FERRY_WRITE_GOLDEN").is_some() {
        std::fs::write(Path::new(GOLDEN), &now).unwrap();
    }
    let golden = std::fs::read_to_string(GOLDEN).unwrap();
    for (line, (golden, now)) in golden.lines().zip(now.lines()).enumerate() {
        assert_eq!(golden, now, "docs/sections.md, line {}", line + 1);
    }
    assert_eq!(golden.lines().count(), now.lines().count());
}
