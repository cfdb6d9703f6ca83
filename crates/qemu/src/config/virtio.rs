//! The devices that a user plugs: disks and entropy sources in virtio-mmio slots.

use std::collections::BTreeSet;

use machine::{DeviceFile, MAX_NAME_LENGTH, MAX_SERIAL_LENGTH, board, exact_size};
use serde_json::Value;

use super::Reasons;
use super::import::Notes;
use super::monitor::MonitorError;
use super::qom::{Qom, Table, Want, shorten};

const SECTOR_BYTES: u64 = 512;
/// Sectors that one request may discard, or write zeroes to.
const RANGE_SECTORS: i64 = (1 << 22) - 1;

/// Properties of the board's virtio-blk devices. What errors do, how much may be written at once and
/// whose thread does it are the host's affair. Geometry follows from the disk's content, and is
/// state: it comes in the stream.
const BLOCK: Table = &[
    ("account-failed", Want::Any),
    ("account-invalid", Want::Any),
    // QEMU takes it from a disk on the legacy interface, and on the other no guest sees it.
    ("any_layout", Want::Any),
    ("backend_defaults", Want::Any),
    ("bootindex", Want::Any),
    ("config-wce", Want::Flag(true)),
    ("cyls", Want::Any),
    ("discard", Want::Flag(true)),
    ("discard_granularity", Want::Number(u32::MAX as i64)),
    ("drive", Want::Any),
    ("event_idx", Want::Flag(true)),
    ("heads", Want::Any),
    ("indirect_desc", Want::Flag(true)),
    ("iommu_platform", Want::Flag(false)),
    ("iothread", Want::Any),
    ("lcyls", Want::Any),
    ("lheads", Want::Any),
    ("logical_block_size", Want::Number(SECTOR_BYTES as i64)),
    ("lsecs", Want::Any),
    ("max-discard-sectors", Want::Number(RANGE_SECTORS)),
    ("max-write-zeroes-sectors", Want::Number(RANGE_SECTORS)),
    ("min_io_size", Want::Number(0)),
    ("notify_on_empty", Want::Flag(true)),
    ("num-queues", Want::Number(1)),
    ("opt_io_size", Want::Number(0)),
    ("packed", Want::Flag(false)),
    ("physical_block_size", Want::Number(SECTOR_BYTES as i64)),
    ("queue-size", Want::Number(256)),
    ("queue_reset", Want::Flag(true)),
    ("report-discard-granularity", Want::Flag(true)),
    ("request-merging", Want::Any),
    ("rerror", Want::Any),
    ("scsi", Want::Flag(false)),
    ("secs", Want::Any),
    ("seg-max-adjust", Want::Flag(true)),
    ("serial", Want::Any),
    ("share-rw", Want::Any),
    ("use-disabled-flag", Want::Flag(true)),
    ("use-started", Want::Flag(true)),
    ("werror", Want::Any),
    // Whether the host may cache is state: the guest can change it.
    ("write-cache", Want::Any),
    ("write-zeroes", Want::Flag(true)),
    ("x-disable-legacy-check", Want::Any),
    ("x-enable-wce-if-config-wce", Want::Flag(true)),
];

/// The same of virtio-rng devices.
const RNG: Table = &[
    ("any_layout", Want::Flag(true)),
    ("event_idx", Want::Flag(true)),
    ("indirect_desc", Want::Flag(true)),
    ("iommu_platform", Want::Flag(false)),
    ("max-bytes", Want::Any),
    ("notify_on_empty", Want::Flag(true)),
    ("packed", Want::Flag(false)),
    ("period", Want::Any),
    ("queue_reset", Want::Flag(true)),
    ("rng", Want::Any),
    ("use-disabled-flag", Want::Flag(true)),
    ("use-started", Want::Flag(true)),
    ("x-disable-legacy-check", Want::Any),
];

/// A device that was found, before every device has a name.
struct Plugged {
    slot: u8,
    id: Option<String>,
    path: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block,
    Rng,
}

/// The devices, from the highest slot downwards.
pub(super) fn check(
    qom: &mut Qom<'_>,
    notes: &mut Notes,
    reasons: &mut Reasons,
) -> Result<Vec<DeviceFile>, MonitorError> {
    let mut plugged = find(qom, reasons)?;
    plugged.sort_by_key(|device| std::cmp::Reverse(device.slot));
    let mut taken: BTreeSet<String> =
        plugged.iter().filter_map(|device| device.id.clone()).collect();
    let block_answer = qom.query("query-block")?;
    let mut devices = Vec::new();
    let mut next = board::VIRTIO_SLOTS.checked_sub(1);
    for device in plugged {
        let Plugged { slot, id, path, kind } = device;
        let name = id.unwrap_or_else(|| fresh_name(kind, &mut taken));
        // Only a gap has to be written down.
        let place = (next != Some(slot)).then_some(slot);
        next = slot.checked_sub(1);
        devices.push(match kind {
            Kind::Rng => {
                qom.check(&name, &path, RNG, reasons)?;
                DeviceFile::Rng { id: name, seed: None, slot: place }
            }
            Kind::Block => {
                qom.check(&name, &path, BLOCK, reasons)?;
                let serial = qom.text(&path, "serial")?;
                if serial.len() > MAX_SERIAL_LENGTH {
                    let reason =
                        format!("its serial number is longer than {MAX_SERIAL_LENGTH} bytes");
                    reasons.add(&name, reason);
                }
                let medium = medium(&block_answer, &path);
                let (size, read_only) = match medium {
                    Some(medium) => check_medium(&name, medium, notes, reasons)?,
                    None => {
                        reasons.add(&name, "QEMU has no image in it");
                        (0, false)
                    }
                };
                let size = Some(exact_size(size));
                DeviceFile::Block { id: name, serial, size, read_only, slot: place }
            }
        });
    }
    Ok(devices)
}

fn find(qom: &mut Qom<'_>, reasons: &mut Reasons) -> Result<Vec<Plugged>, MonitorError> {
    let mut plugged = Vec::new();
    for (place, named) in [("/machine/peripheral", true), ("/machine/peripheral-anon", false)] {
        for property in qom.list(place)? {
            let Some(kind) = property.child() else { continue };
            let path = format!("{place}/{}", property.name);
            let subject = if named { property.name.clone() } else { kind.to_owned() };
            let kind = match kind {
                "virtio-blk-device" => Kind::Block,
                "virtio-rng-device" => Kind::Rng,
                _ => {
                    let kind = shorten(kind);
                    let reason = format!(
                        "Ferry's microvm has no {kind}: only virtio-blk-device and virtio-rng-device"
                    );
                    reasons.add(shorten(&subject), reason);
                    continue;
                }
            };
            let bus = qom.text(&path, "parent_bus")?;
            let slot = bus
                .rsplit_once("/virtio-mmio-bus.")
                .and_then(|(_, number)| number.parse().ok())
                .filter(|slot| *slot < board::VIRTIO_SLOTS);
            let Some(slot) = slot else {
                reasons.add(
                    shorten(&subject),
                    format!("it is in no slot of Ferry's: {}", shorten(&bus)),
                );
                continue;
            };
            let id = named.then_some(property.name).filter(|id| is_name(id));
            plugged.push(Plugged { slot, id, path, kind });
        }
    }
    Ok(plugged)
}

/// Whether a machine or a device can have this name in Ferry.
pub(super) fn is_name(id: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MAX_NAME_LENGTH).contains(&id.len()) && id.bytes().all(good)
}

fn fresh_name(kind: Kind, taken: &mut BTreeSet<String>) -> String {
    let kind = match kind {
        Kind::Block => "disk",
        Kind::Rng => "rng",
    };
    let name = (0..).map(|number| format!("{kind}{number}")).find(|name| !taken.contains(name));
    let name = name.unwrap_or_default();
    taken.insert(name.clone());
    name
}

/// What is in a drive, by QEMU's list of them: there a device goes by its id, or by its path if it
/// has none.
fn medium<'a>(drives: &'a Value, path: &str) -> Option<&'a Value> {
    let id = path.strip_prefix("/machine/peripheral/");
    let drive = drives.as_array()?.iter().find(|drive| {
        let device = drive.get("qdev").and_then(Value::as_str);
        device.is_some() && (device == id || device == Some(path))
    })?;
    drive.get("inserted")
}

/// Capacity in bytes, and whether it is read-only.
fn check_medium(
    name: &str,
    medium: &Value,
    notes: &mut Notes,
    reasons: &mut Reasons,
) -> Result<(u64, bool), MonitorError> {
    let misunderstood = || MonitorError::Answer { command: "query-block".to_owned() };
    let word = |pointer| medium.pointer(pointer).and_then(Value::as_str).ok_or_else(misunderstood);
    let size = medium.pointer("/image/virtual-size").and_then(Value::as_u64);
    let size = size.ok_or_else(misunderstood)?;
    let read_only = medium.get("ro").and_then(Value::as_bool).ok_or_else(misunderstood)?;
    let (driver, file) = (word("/drv")?, word("/image/filename")?);
    if !["raw", "file", "host_device"].contains(&driver) {
        let driver = shorten(driver);
        reasons.add(name, format!("its image is of format {driver}, and Ferry's disks are raw"));
    } else if !is_file(file) {
        let file = shorten(file);
        reasons.add(name, format!("Ferry's disks are files, and {file} is none"));
    }
    if size == 0 || !size.is_multiple_of(SECTOR_BYTES) {
        reasons.add(name, format!("{size} bytes are no disk of whole sectors"));
    }
    notes.add(&format!("{name} is QEMU's {}", shorten(file).escape_debug()));
    Ok((size, read_only))
}

/// Whether QEMU's name of an image is that of a file, and not of a protocol with its options.
fn is_file(name: &str) -> bool {
    match name.split_once(':') {
        None => !name.is_empty(),
        Some((before, _)) => before.contains('/'),
    }
}
