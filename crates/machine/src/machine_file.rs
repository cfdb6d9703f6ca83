//! The machine as a user writes it: a TOML file whose every key may be left out.
//!
//! ```toml
//! type = "ferry-1"
//! name = "web"
//! memory = "512M"
//!
//! [cpu]
//! count = 2
//!
//! [clock]
//! mode = "icount"
//! shift = 0
//!
//! [[device]]
//! kind = "block"
//! id = "disk0"
//! ```

use serde::{Deserialize, Serialize};

use crate::config::{
    ClockMode, CpuConfig, HOST_MODEL, MachineConfig, RngSource, VirtioDevice, VirtioKind,
};
use crate::error::ConfigError;
use crate::mac::{default_mac, parse_mac};
use crate::machine_type::MachineType;
use crate::size::parse_size;
use crate::uuid::parse_uuid;
use crate::virtio_interface::VirtioInterface;

const DEFAULT_NAME: &str = "ferry";
const DEFAULT_MEMORY_BYTES: u64 = 256 << 20;
const SECTOR_BYTES: u64 = 512;

/// A machine with holes, which [`MachineFile::resolve`] fills with defaults. Command-line flags
/// fill them before that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MachineFile {
    /// The machine type; the newest if left out.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub machine_type: Option<String>,
    /// The machine's name; `ferry` if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The machine's UUID; a fresh one if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Memory as a size, `512M`; 256 MiB if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Name of the serial port; `com1` if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Whether there is an HPET; there is one if left out, but in a `microvm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hpet: Option<bool>,
    /// The interface of the virtio devices, `legacy` or `modern`; modern if left out, but in a
    /// `microvm`, where it is legacy, as in QEMU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtio: Option<VirtioInterface>,
    /// The CPUs.
    #[serde(default)]
    pub cpu: CpuFile,
    /// The clock; the host's if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<ClockFile>,
    /// The virtio devices, plugged in this order from slot 23 downwards, but where one says its
    /// slot.
    #[serde(default, rename = "device", skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceFile>,
}

/// The CPUs of a [`MachineFile`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CpuFile {
    /// Name of the CPU model; `qemu64` if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How many; 1 if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Frequency of the time-stamp counter in kHz; 1,000,000 if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tsc_khz: Option<u64>,
    /// Whether the guest is promised that frequency for life; it is if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promise_tsc: Option<bool>,
    /// Whether the guest is promised the model's CPUID for life; it is if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promise_cpuid: Option<bool>,
}

/// The clock of a [`MachineFile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "mode", deny_unknown_fields, rename_all = "kebab-case")]
pub enum ClockFile {
    /// The host's clock. The braces make other keys an error.
    Host {},
    /// Counted instructions of 2^`shift` nanoseconds.
    Icount {
        /// The shift; 0 if left out.
        #[serde(default)]
        shift: u8,
    },
}

/// A virtio device of a [`MachineFile`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "kind", deny_unknown_fields, rename_all = "kebab-case")]
pub enum DeviceFile {
    /// A block device.
    #[serde(rename_all = "kebab-case")]
    Block {
        /// Name of the device.
        id: String,
        /// Serial number; none if left out.
        #[serde(default)]
        serial: String,
        /// Capacity as a size, `16M`; that of the disk's file if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<String>,
        /// Whether the guest is told not to write; not if left out.
        #[serde(default)]
        read_only: bool,
        /// The slot; the one below the device before it, and 23 for the first, if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<u8>,
    },
    /// An entropy source.
    Rng {
        /// Name of the device.
        id: String,
        /// Start of the byte generator; the host's entropy if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seed: Option<u64>,
        /// The slot; the one below the device before it, and 23 for the first, if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<u8>,
    },
    /// A console.
    Console {
        /// Name of the device.
        id: String,
        /// The slot; the one below the device before it, and 23 for the first, if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<u8>,
    },
    /// A network device.
    Net {
        /// Name of the device.
        id: String,
        /// MAC address, `02:00:00:00:00:01`; one that follows from the machine's UUID and the
        /// device's name if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mac: Option<String>,
        /// The slot; the one below the device before it, and 23 for the first, if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<u8>,
    },
}

/// What a file need not say and this crate cannot know.
pub struct FreshFacts<'a> {
    /// A new UUID, for a file that has none.
    pub uuid: [u8; 16],
    /// The capacity in sectors of the file behind a disk, by the disk's id, for a disk that has
    /// no size; `None` if the host names no file for it.
    pub disk_sectors: &'a dyn Fn(&str) -> Option<u64>,
    /// The digest of what CPUID says on this host, for the model `host`; `None` if no accelerator
    /// here has that model.
    pub host_cpuid: Option<[u8; 32]>,
}

impl MachineFile {
    /// Reads a file's text.
    ///
    /// # Errors
    /// No TOML, or a key that there is not; the message has line and column.
    pub fn from_toml(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// The file's text.
    ///
    /// # Errors
    /// None is known; it is the writer that can fail.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// The machine, with every default filled in.
    ///
    /// # Errors
    /// What [`MachineConfig::validate`] refuses, text that cannot be read as what it has to be,
    /// and a disk whose capacity nobody says.
    pub fn resolve(&self, fresh: &FreshFacts<'_>) -> Result<MachineConfig, ConfigError> {
        let MachineFile {
            machine_type,
            name,
            uuid,
            memory,
            serial,
            hpet,
            virtio,
            cpu: CpuFile { model, count, tsc_khz, promise_tsc, promise_cpuid },
            clock,
            devices,
        } = self;
        let uuid = match uuid {
            None => fresh.uuid,
            Some(text) => parse_uuid(text).map_err(|error| reason("uuid", &error))?,
        };
        let memory_bytes = match memory {
            None => DEFAULT_MEMORY_BYTES,
            Some(text) => parse_size(text).map_err(|error| reason("memory", &error))?,
        };
        let name = name.as_deref().unwrap_or(DEFAULT_NAME);
        let mut config = MachineConfig::new(name, uuid, memory_bytes);
        if let Some(text) = machine_type {
            config.machine_type =
                text.parse::<MachineType>().map_err(|error| reason("type", &error))?;
        }
        if let Some(id) = serial {
            config.serial_id.clone_from(id);
        }
        config.hpet = hpet.unwrap_or(config.machine_type == MachineType::Ferry1);
        config.virtio_interface = virtio.unwrap_or(match config.machine_type {
            MachineType::Ferry1 => VirtioInterface::Modern,
            MachineType::Microvm => VirtioInterface::Legacy,
        });
        let default = CpuConfig::default();
        let model = model.clone().unwrap_or(default.model);
        config.cpus = CpuConfig {
            host_cpuid: if model == HOST_MODEL { fresh.host_cpuid } else { None },
            model,
            count: count.unwrap_or(default.count),
            tsc_khz: tsc_khz.unwrap_or(default.tsc_khz),
            promise_tsc: promise_tsc.unwrap_or(default.promise_tsc),
            promise_cpuid: promise_cpuid.unwrap_or(default.promise_cpuid),
        };
        config.clock = match clock {
            None | Some(ClockFile::Host {}) => ClockMode::Host,
            Some(ClockFile::Icount { shift }) => ClockMode::Icount { shift: *shift },
        };
        for device in devices {
            let kind = device.kind(fresh, &uuid)?;
            match device.slot() {
                None => {
                    config.plug(kind)?;
                }
                Some(slot) => config.virtio.push(VirtioDevice { slot, kind }),
            }
        }
        config.validate()?;
        Ok(config)
    }
}

impl DeviceFile {
    /// The slot that the file asks for.
    fn slot(&self) -> Option<u8> {
        match self {
            DeviceFile::Block { slot, .. }
            | DeviceFile::Rng { slot, .. }
            | DeviceFile::Console { slot, .. }
            | DeviceFile::Net { slot, .. } => *slot,
        }
    }

    fn kind(&self, fresh: &FreshFacts<'_>, uuid: &[u8; 16]) -> Result<VirtioKind, ConfigError> {
        Ok(match self {
            DeviceFile::Block { id, serial, size, read_only, slot: _ } => VirtioKind::Block {
                id: id.clone(),
                serial: serial.clone(),
                sectors: match size {
                    Some(text) => sectors(id, text)?,
                    None => (fresh.disk_sectors)(id).ok_or_else(|| {
                        ConfigError::new(id, "it has no size, and no file to take one from")
                    })?,
                },
                read_only: *read_only,
            },
            DeviceFile::Rng { id, seed, slot: _ } => VirtioKind::Rng {
                id: id.clone(),
                source: match seed {
                    None => RngSource::Host,
                    Some(seed) => RngSource::Seeded { seed: *seed },
                },
            },
            DeviceFile::Console { id, slot: _ } => VirtioKind::Console { id: id.clone() },
            DeviceFile::Net { id, mac, slot: _ } => VirtioKind::Net {
                id: id.clone(),
                mac: match mac {
                    None => default_mac(uuid, id),
                    Some(text) => parse_mac(text).map_err(|error| reason(id, &error))?,
                },
            },
        })
    }
}

fn sectors(id: &str, text: &str) -> Result<u64, ConfigError> {
    let bytes = parse_size(text).map_err(|error| reason(id, &error))?;
    if !bytes.is_multiple_of(SECTOR_BYTES) {
        return Err(ConfigError::new(id, format!("size {text} is not whole sectors of 512 bytes")));
    }
    Ok(bytes / SECTOR_BYTES)
}

fn reason(subject: &str, error: &dyn std::error::Error) -> ConfigError {
    ConfigError::new(subject, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: [u8; 16] = [9; 16];

    fn resolve(text: &str) -> Result<MachineConfig, String> {
        let file = MachineFile::from_toml(text).map_err(|error| error.to_string())?;
        let sectors = |id: &str| (id == "disk0").then_some(2048);
        file.resolve(&FreshFacts { uuid: UUID, disk_sectors: &sectors, host_cpuid: Some([3; 32]) })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_is_a_machine() {
        assert_eq!(resolve("").unwrap(), MachineConfig::new("ferry", UUID, 256 << 20));
    }

    #[test]
    fn a_full_file_says_everything() {
        let config = resolve(
            r#"
            type = "ferry-1"
            name = "web"
            uuid = "00000000-0000-0000-0000-000000000001"
            memory = "1G"
            serial = "tty"
            hpet = false
            virtio = "modern"
            [cpu]
            model = "qemu64"
            count = 4
            tsc-khz = 2000000
            promise-tsc = true
            promise-cpuid = false
            [clock]
            mode = "icount"
            shift = 3
            [[device]]
            kind = "block"
            id = "disk0"
            serial = "S1"
            read-only = true
            [[device]]
            kind = "block"
            id = "disk1"
            size = "1M"
            [[device]]
            kind = "rng"
            id = "rng0"
            seed = 5
            [[device]]
            kind = "console"
            id = "con0"
            [[device]]
            kind = "net"
            id = "net0"
            mac = "02:00:5e:10:00:01"
            [[device]]
            kind = "net"
            id = "net1"
            "#,
        )
        .unwrap();
        let mut uuid = [0; 16];
        uuid[15] = 1;
        let block = |id: &str, serial: &str, read_only| VirtioKind::Block {
            id: id.into(),
            serial: serial.into(),
            sectors: 2048,
            read_only,
        };
        let rng = VirtioKind::Rng { id: "rng0".into(), source: RngSource::Seeded { seed: 5 } };
        let net = |id: &str, mac| VirtioKind::Net { id: id.into(), mac };
        let expected = MachineConfig {
            machine_type: MachineType::Ferry1,
            name: "web".into(),
            uuid,
            cpus: CpuConfig {
                model: "qemu64".into(),
                count: 4,
                tsc_khz: 2_000_000,
                promise_tsc: true,
                promise_cpuid: false,
                host_cpuid: None,
            },
            memory_bytes: 1 << 30,
            clock: ClockMode::Icount { shift: 3 },
            hpet: false,
            serial_id: "tty".into(),
            virtio_interface: VirtioInterface::Modern,
            virtio: vec![
                VirtioDevice { slot: 23, kind: block("disk0", "S1", true) },
                VirtioDevice { slot: 22, kind: block("disk1", "", false) },
                VirtioDevice { slot: 21, kind: rng },
                VirtioDevice { slot: 20, kind: VirtioKind::Console { id: "con0".into() } },
                VirtioDevice { slot: 19, kind: net("net0", [2, 0, 0x5e, 0x10, 0, 1]) },
                VirtioDevice { slot: 18, kind: net("net1", default_mac(&uuid, "net1")) },
            ],
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn a_device_is_where_the_file_says_or_below_the_one_before() {
        let device =
            |id: &str, slot: &str| format!("[[device]]\nkind = \"rng\"\nid = \"{id}\"\n{slot}\n");
        let text = device("a", "slot = 20") + &device("b", "") + &device("c", "slot = 3");
        let slots: Vec<u8> = resolve(&text).unwrap().virtio.iter().map(|at| at.slot).collect();
        assert_eq!(slots, [20, 19, 3]);
        let error = resolve(&(device("a", "") + &device("b", "slot = 23"))).unwrap_err();
        assert_eq!(error, "b: slot 23 is not below slot 23 of the device before it");
        let error = resolve(&device("a", "slot = 24")).unwrap_err();
        assert_eq!(error, "a: slot 24 is not 0 to 23");
        assert!(resolve(&(device("a", "slot = 0") + &device("b", ""))).is_err());
    }

    #[test]
    fn virtio_is_modern_unless_the_type_or_the_file_says_otherwise() {
        for (text, interface) in [
            ("", VirtioInterface::Modern),
            ("virtio = \"modern\"", VirtioInterface::Modern),
            ("type = \"microvm\"", VirtioInterface::Legacy),
            ("type = \"microvm\"\nvirtio = \"legacy\"", VirtioInterface::Legacy),
            ("type = \"microvm\"\nvirtio = \"modern\"", VirtioInterface::Modern),
        ] {
            assert_eq!(resolve(text).unwrap().virtio_interface, interface, "{text}");
        }
    }

    #[test]
    fn a_key_that_there_is_not_is_named() {
        for (text, key) in [
            ("memroy = \"1G\"", "memroy"),
            ("[cpu]\ncuont = 1", "cuont"),
            ("virtio = \"transitional\"", "transitional"),
            ("[clock]\nmode = \"host\"\nshift = 1", "shift"),
            ("[clock]\nmode = \"guest\"", "guest"),
            ("[[device]]\nkind = \"console\"\nid = \"a\"\nsize = \"1M\"", "size"),
            ("[[device]]\nkind = \"gpu\"\nid = \"a\"", "gpu"),
        ] {
            let error = resolve(text).unwrap_err();
            assert!(error.contains(key), "{text}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (text, message) in [
            (
                "type = \"ferry-9\"",
                "type: machine type \"ferry-9\" is unknown here; known: ferry-1, microvm",
            ),
            ("uuid = \"1\"", "uuid: \"1\" is not a UUID"),
            ("memory = \"big\"", "memory: \"big\" is not a size"),
            ("memory = \"1K\"", "memory: 1024 bytes is not a multiple of 4096"),
            ("virtio = \"legacy\"", "virtio: machine type ferry-1 has the modern interface alone"),
            ("[cpu]\ncount = 99", "cpus: 99 is not 1 to 16"),
            (
                "[[device]]\nkind = \"block\"\nid = \"disk7\"",
                "disk7: it has no size, and no file to take one from",
            ),
            (
                "[[device]]\nkind = \"block\"\nid = \"disk7\"\nsize = \"513\"",
                "disk7: size 513 is not whole sectors of 512 bytes",
            ),
            (
                "[[device]]\nkind = \"net\"\nid = \"net0\"\nmac = \"02:00\"",
                "net0: \"02:00\" is not a MAC address",
            ),
        ] {
            let error = resolve(text).unwrap_err();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_survives_being_written() {
        let file = MachineFile {
            memory: Some("64K".into()),
            virtio: Some(VirtioInterface::Legacy),
            clock: Some(ClockFile::Host {}),
            devices: vec![
                DeviceFile::Rng { id: "rng0".into(), seed: None, slot: Some(9) },
                DeviceFile::Block {
                    id: "disk0".into(),
                    serial: String::new(),
                    size: None,
                    read_only: true,
                    slot: None,
                },
            ],
            ..MachineFile::default()
        };
        let text = file.to_toml().unwrap();
        assert_eq!(MachineFile::from_toml(&text), Ok(file));
    }
}
