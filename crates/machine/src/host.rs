//! The host configuration: what backs the devices here. It never enters a stream.
//!
//! ```toml
//! accel = "auto"
//! memory-limit = "2G"
//!
//! [disk.disk0]
//! path = "/var/lib/vm/disk.img"
//!
//! [serial.com1]
//! kind = "stdio"
//!
//! [console.con0]
//! kind = "file"
//! path = "console.log"
//!
//! [net.net0]
//! kind = "tap"
//! name = "ferry0"
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::ConfigError;
use crate::size::parse_size;

/// Back ends by the ids of the devices that they serve, and this host's limits. Relative paths
/// are relative to the process's directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HostConfig {
    /// Which accelerator runs the CPUs.
    #[serde(default)]
    pub accel: AcceleratorChoice,
    /// Most memory that a machine may have here, as a size: `2G`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
    /// Files behind disks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub disk: BTreeMap<String, DiskBackend>,
    /// What is behind the serial port.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub serial: BTreeMap<String, CharacterBackend>,
    /// What is behind consoles.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub console: BTreeMap<String, CharacterBackend>,
    /// What is behind network devices.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub net: BTreeMap<String, NetBackend>,
}

/// Which accelerator runs the CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcceleratorChoice {
    /// The fastest that works here.
    #[default]
    Auto,
    /// The host's own CPU.
    Kvm,
    /// The software CPU.
    Soft,
}

impl FromStr for AcceleratorChoice {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(AcceleratorChoice::Auto),
            "kvm" => Ok(AcceleratorChoice::Kvm),
            "soft" => Ok(AcceleratorChoice::Soft),
            _ => Err(ConfigError::new("accel", format!("{text:?} is none of auto, kvm, soft"))),
        }
    }
}

/// The file behind a disk.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DiskBackend {
    /// The file: the disk's sectors, one after the other.
    pub path: PathBuf,
}

/// What is behind a line of characters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "CharacterTable", into = "CharacterTable")]
pub enum CharacterBackend {
    /// The terminal of the process.
    Stdio,
    /// Nothing: output is dropped, input never comes.
    Null,
    /// A file that output is appended to; input never comes.
    File {
        /// The file.
        path: PathBuf,
    },
    /// A pair of named pipes (FIFOs).
    Pipe {
        /// Where the guest's input is read from.
        input: PathBuf,
        /// Where the guest's output is written to.
        output: PathBuf,
    },
    /// A Unix socket that waits for one peer at a time.
    Socket {
        /// The socket.
        path: PathBuf,
    },
}

/// [`CharacterBackend`] as it stands in the file. An enum with a tag would let a `stdio` table
/// have any other key too.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct CharacterTable {
    kind: CharacterKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<PathBuf>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum CharacterKind {
    Stdio,
    Null,
    File,
    Pipe,
    Socket,
}

impl TryFrom<CharacterTable> for CharacterBackend {
    type Error = &'static str;

    fn try_from(table: CharacterTable) -> Result<Self, Self::Error> {
        let CharacterTable { kind, path, input, output } = table;
        match (kind, path, input, output) {
            (CharacterKind::Stdio, None, None, None) => Ok(CharacterBackend::Stdio),
            (CharacterKind::Null, None, None, None) => Ok(CharacterBackend::Null),
            (CharacterKind::File, Some(path), None, None) => Ok(CharacterBackend::File { path }),
            (CharacterKind::Socket, Some(path), None, None) => {
                Ok(CharacterBackend::Socket { path })
            }
            (CharacterKind::Pipe, None, Some(input), Some(output)) => {
                Ok(CharacterBackend::Pipe { input, output })
            }
            (CharacterKind::Stdio, ..) => Err("kind stdio takes no other key"),
            (CharacterKind::Null, ..) => Err("kind null takes no other key"),
            (CharacterKind::File, ..) => Err("kind file takes the key path and no other"),
            (CharacterKind::Socket, ..) => Err("kind socket takes the key path and no other"),
            (CharacterKind::Pipe, ..) => Err("kind pipe takes the keys input and output"),
        }
    }
}

impl From<CharacterBackend> for CharacterTable {
    fn from(backend: CharacterBackend) -> Self {
        let table = |kind, path| CharacterTable { kind, path, input: None, output: None };
        match backend {
            CharacterBackend::Stdio => table(CharacterKind::Stdio, None),
            CharacterBackend::Null => table(CharacterKind::Null, None),
            CharacterBackend::File { path } => table(CharacterKind::File, Some(path)),
            CharacterBackend::Socket { path } => table(CharacterKind::Socket, Some(path)),
            CharacterBackend::Pipe { input, output } => CharacterTable {
                kind: CharacterKind::Pipe,
                path: None,
                input: Some(input),
                output: Some(output),
            },
        }
    }
}

/// What is behind a network device.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "kind", deny_unknown_fields, rename_all = "kebab-case")]
pub enum NetBackend {
    /// Nothing: what is sent is dropped, nothing ever comes. The braces make other keys an error.
    Null {},
    /// A persistent tap interface of this host.
    Tap {
        /// The interface.
        name: String,
    },
}

impl HostConfig {
    /// Reads a file's text.
    ///
    /// # Errors
    /// No TOML, or a key that there is not; the message has line and column.
    pub fn from_toml(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// The memory limit in bytes, if there is one.
    ///
    /// # Errors
    /// It is not a size.
    pub fn memory_limit_bytes(&self) -> Result<Option<u64>, ConfigError> {
        self.memory_limit
            .as_deref()
            .map(parse_size)
            .transpose()
            .map_err(|error| ConfigError::new("memory-limit", error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostConfig {
        HostConfig {
            accel: AcceleratorChoice::Soft,
            memory_limit: Some("2G".into()),
            disk: BTreeMap::from([("disk0".into(), DiskBackend { path: "a/b.img".into() })]),
            serial: BTreeMap::from([("com1".into(), CharacterBackend::Stdio)]),
            console: BTreeMap::from([
                ("a".into(), CharacterBackend::Null),
                ("b".into(), CharacterBackend::File { path: "log".into() }),
                ("c".into(), CharacterBackend::Socket { path: "sock".into() }),
                ("d".into(), CharacterBackend::Pipe { input: "in".into(), output: "out".into() }),
            ]),
            net: BTreeMap::from([
                ("net0".into(), NetBackend::Tap { name: "ferry0".into() }),
                ("net1".into(), NetBackend::Null {}),
            ]),
        }
    }

    #[test]
    fn every_key_is_read() {
        let text = r#"
            accel = "soft"
            memory-limit = "2G"
            [disk.disk0]
            path = "a/b.img"
            [serial.com1]
            kind = "stdio"
            [console.a]
            kind = "null"
            [console.b]
            kind = "file"
            path = "log"
            [console.c]
            kind = "socket"
            path = "sock"
            [console.d]
            kind = "pipe"
            input = "in"
            output = "out"
            [net.net0]
            kind = "tap"
            name = "ferry0"
            [net.net1]
            kind = "null"
        "#;
        assert_eq!(HostConfig::from_toml(text), Ok(host()));
        assert_eq!(host().memory_limit_bytes(), Ok(Some(2 << 30)));
        assert_eq!(HostConfig::from_toml(""), Ok(HostConfig::default()));
        assert_eq!(HostConfig::default().memory_limit_bytes(), Ok(None));
    }

    #[test]
    fn a_host_survives_being_written() {
        let text = toml::to_string(&host()).unwrap();
        assert_eq!(HostConfig::from_toml(&text), Ok(host()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("acel = \"soft\"", "acel"),
            ("accel = \"xen\"", "xen"),
            ("[disk.disk0]\nfile = \"x\"", "file"),
            ("[disk.disk0]", "path"),
            ("[nets.net0]\nkind = \"null\"", "nets"),
            ("[net.net0]\nname = \"x\"", "kind"),
            ("[net.net0]\nkind = \"tap\"", "name"),
            ("[net.net0]\nkind = \"null\"\nname = \"x\"", "name"),
            ("[net.net0]\nkind = \"user\"", "user"),
            ("[serial.com1]\nkind = \"stdio\"\nspeed = 9600", "speed"),
            ("[serial.com1]\nkind = \"stdio\"\npath = \"x\"", "kind stdio takes no other key"),
            ("[serial.com1]\nkind = \"file\"", "kind file takes the key path"),
            ("[serial.com1]\nkind = \"pipe\"\ninput = \"x\"", "kind pipe takes the keys"),
            ("[serial.com1]\nkind = \"modem\"", "modem"),
        ] {
            let error = HostConfig::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        let host = HostConfig { memory_limit: Some("x".into()), ..HostConfig::default() };
        let error = host.memory_limit_bytes().unwrap_err().to_string();
        assert!(error.starts_with("memory-limit: \"x\" is not a size"), "{error}");
    }
}
