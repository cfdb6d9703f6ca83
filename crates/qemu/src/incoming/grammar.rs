//! The smallest parts of a stream: heads, footers, lists and names.

use crate::PAGE_SIZE;
use crate::source::Source;

use super::MAX_NAMES;
use super::buffer::{Reading, refuse};

/// A part of the configuration that comes with a capability.
pub(super) fn subsection(source: &mut Source<&[u8]>, uuid: [u8; 16]) -> Result<(), Reading> {
    source.u8()?;
    let name = source.short_text()?;
    let version = source.u32()?;
    match (name.as_str(), version) {
        ("configuration/uuid", 1) => {
            let theirs: [u8; 16] = source.array()?;
            if theirs == uuid { Ok(()) } else { refuse("it is a machine with another UUID") }
        }
        ("configuration/capabilities", 1) => {
            let count = source.u32()? as usize;
            if count > MAX_NAMES {
                return refuse(format!("{count} capabilities"));
            }
            let names: Vec<_> =
                (0..count).map(|_| source.short_text()).collect::<Result<_, _>>()?;
            refuse(format!(
                "the capabilities {} are not supported; turn them off at the source",
                names.join(", ")
            ))
        }
        _ => refuse(format!("{name:?} version {version} is not supported")),
    }
}

/// Number, name, instance and version of a section.
pub(super) fn head(source: &mut Source<&[u8]>) -> Result<(u32, String, u32, u32), Reading> {
    let id = source.u32()?;
    let name = source.short_text()?;
    Ok((id, name, source.u32()?, source.u32()?))
}

pub(super) fn footer(source: &mut Source<&[u8]>, id: u32, name: &str) -> Result<(), Reading> {
    let (mark, found) = (source.u8()?, source.u32()?);
    if (mark, found) == (0x7e, id) {
        return Ok(());
    }
    refuse(format!("section {name:?} does not end where it should"))
}

pub(super) fn block_list(
    source: &mut Source<&[u8]>,
    total: u64,
) -> Result<Vec<(String, u64)>, Reading> {
    let (mut blocks, mut sum) = (Vec::new(), 0u64);
    while sum < total {
        let name = source.short_text()?;
        let length = source.u64()?;
        sum = sum.saturating_add(length);
        if sum > total || length == 0 || length % PAGE_SIZE as u64 != 0 {
            return refuse(format!("RAM block {name:?} has {length} bytes"));
        }
        if blocks.iter().any(|(other, _)| *other == name) || blocks.len() == MAX_NAMES {
            return refuse(format!("RAM block {name:?} comes twice, or there are too many"));
        }
        blocks.push((name, length));
    }
    Ok(blocks)
}

pub(super) fn block_of(
    source: &mut Source<&[u8]>,
    blocks: &[(String, u64)],
    last: &mut Option<usize>,
    same: bool,
) -> Result<usize, Reading> {
    if !same {
        let name = source.short_text()?;
        let found = blocks.iter().position(|(other, _)| *other == name);
        let Some(found) = found else {
            return refuse(format!("a page of RAM block {name:?}, which there is not"));
        };
        // A record that is not whole yet is read again, with the same name.
        *last = Some(found);
    }
    match *last {
        Some(block) => Ok(block),
        None => refuse("a page of the same RAM block as before, and there was none"),
    }
}
