//! Whether a host can run a machine, and if not, every reason why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::config::{ClockMode, CpuConfig, MachineConfig, VirtioDevice, VirtioKind};
use crate::error::KnownTypes;
use crate::machine_type::MachineType;
use crate::size::format_size;

/// What a host has for a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostOffer {
    /// Machine types that it can run.
    pub machine_types: Vec<MachineType>,
    /// CPU models that it knows.
    pub cpu_models: Vec<CpuModelOffer>,
    /// Most CPUs of one machine.
    pub max_cpus: u32,
    /// Which time-stamp counter frequencies its accelerator can keep.
    pub tsc: TscOffer,
    /// Whether its accelerator can count instructions (`clock=icount`).
    pub icount: bool,
    /// Memory that a machine may have, in bytes.
    pub memory_available_bytes: u64,
    /// Disks that the host configuration names, by id.
    pub disks: BTreeMap<String, DiskOffer>,
    /// Serial ports that the host configuration names.
    pub serial_ports: BTreeSet<String>,
    /// Consoles that the host configuration names.
    pub consoles: BTreeSet<String>,
}

/// A CPU model on an accelerator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuModelOffer {
    /// The model's name.
    pub name: String,
    /// Features of the model that this accelerator cannot give a guest.
    pub missing_features: Vec<String>,
}

/// Which time-stamp counter frequencies an accelerator can keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TscOffer {
    /// Any: it computes or scales the counter.
    Any,
    /// The host's own alone, in kHz.
    Fixed(u64),
}

/// A disk on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOffer {
    /// The file, as messages name it.
    pub path: String,
    /// What it holds, in whole sectors of 512 bytes.
    pub sectors: u64,
    /// Whether it can be written.
    pub writable: bool,
}

/// One thing that a machine needs and a host does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The configuration breaks a limit of its own.
    Invalid {
        /// What [`MachineConfig::validate`] says.
        reason: String,
    },
    /// The host does not run this machine type.
    MachineType {
        /// The type.
        name: String,
        /// Those that it runs.
        known: Vec<MachineType>,
    },
    /// The host does not know the CPU model.
    CpuModel {
        /// The model.
        name: String,
        /// Those that it knows.
        known: Vec<String>,
    },
    /// The accelerator cannot give the guest a feature of the CPU model.
    CpuFeature {
        /// The model.
        model: String,
        /// The feature.
        feature: String,
    },
    /// The machine has more CPUs than the host runs.
    Cpus {
        /// What the machine has.
        needed: u32,
        /// What the host runs at most.
        offered: u32,
    },
    /// The accelerator cannot keep the promised time-stamp counter frequency.
    Tsc {
        /// What is promised, in kHz.
        promised_khz: u64,
        /// What the accelerator has, in kHz.
        offered_khz: u64,
    },
    /// The accelerator cannot count instructions.
    Icount,
    /// The machine has more memory than the host gives.
    Memory {
        /// What the machine has, in bytes.
        needed: u64,
        /// What the host gives, in bytes.
        offered: u64,
    },
    /// The host configuration names no file for a disk.
    DiskMissing {
        /// The disk.
        id: String,
    },
    /// A disk's file has another capacity than the guest knows.
    DiskCapacity {
        /// The disk.
        id: String,
        /// The file.
        path: String,
        /// Sectors that the guest knows.
        promised: u64,
        /// Sectors that the file holds.
        held: u64,
    },
    /// The guest may write a disk whose file cannot be written.
    DiskReadOnly {
        /// The disk.
        id: String,
        /// The file.
        path: String,
    },
    /// The host configuration names nothing for the serial port.
    SerialMissing {
        /// The port.
        id: String,
    },
    /// The host configuration names nothing for a console.
    ConsoleMissing {
        /// The console.
        id: String,
    },
    /// The host configuration names something that the machine does not have: a misspelt id, or
    /// the wrong host configuration.
    Unused {
        /// The host configuration's entry: `disk.disk1`.
        entry: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Invalid { reason } => f.write_str(reason),
            Difference::MachineType { name, known } => {
                let known = KnownTypes(known.clone());
                write!(f, "machine type {name:?} is unknown here; known: {known}")
            }
            Difference::CpuModel { name, known } if known.is_empty() => {
                write!(f, "cpu model {name:?} is unknown here; known: none")
            }
            Difference::CpuModel { name, known } => {
                write!(f, "cpu model {name:?} is unknown here; known: {}", known.join(", "))
            }
            Difference::CpuFeature { model, feature } => {
                write!(f, "cpu model {model}: this accelerator cannot offer feature {feature}")
            }
            Difference::Cpus { needed, offered } => {
                write!(f, "cpus: the machine has {needed}, this host runs at most {offered}")
            }
            Difference::Tsc { promised_khz, offered_khz } => write!(
                f,
                "tsc: the machine promises {promised_khz} kHz, this accelerator has {offered_khz} \
                 kHz and cannot scale it"
            ),
            Difference::Icount => {
                f.write_str("clock: the machine counts instructions, this accelerator cannot")
            }
            Difference::Memory { needed, offered } => {
                let (mut need, mut offer) = (format_size(*needed), format_size(*offered));
                if need == offer {
                    (need, offer) = (format!("{needed} bytes"), format!("{offered} bytes"));
                }
                write!(f, "memory: the machine needs {need}, this host offers {offer}")
            }
            Difference::DiskMissing { id } => {
                write!(f, "{id}: this host configuration names no file for it")
            }
            Difference::DiskCapacity { id, path, promised, held } => write!(
                f,
                "{id}: the machine promises {promised} sectors, the file {path} holds {held}"
            ),
            Difference::DiskReadOnly { id, path } => {
                write!(f, "{id}: the machine writes it, and the file {path} cannot be written")
            }
            Difference::SerialMissing { id } => {
                write!(f, "{id}: this host configuration names no back end for the serial port")
            }
            Difference::ConsoleMissing { id } => {
                write!(f, "{id}: this host configuration names no back end for the console")
            }
            Difference::Unused { entry } => {
                write!(f, "{entry}: this host configuration names it, and the machine has none")
            }
        }
    }
}

/// Every reason why this host cannot run this machine; none if it can.
pub fn check(config: &MachineConfig, host: &HostOffer) -> Vec<Difference> {
    let MachineConfig {
        machine_type,
        name: _,
        uuid: _,
        cpus,
        memory_bytes,
        clock,
        hpet: _, // every machine type has one to offer
        serial_id,
        virtio,
    } = config;
    let mut differences = Vec::new();
    if let Err(error) = config.validate() {
        differences.push(Difference::Invalid { reason: error.to_string() });
    }
    if !host.machine_types.contains(machine_type) {
        differences.push(Difference::MachineType {
            name: machine_type.to_string(),
            known: host.machine_types.clone(),
        });
    }
    check_cpus(cpus, host, &mut differences);
    if matches!(clock, ClockMode::Icount { .. }) && !host.icount {
        differences.push(Difference::Icount);
    }
    if *memory_bytes > host.memory_available_bytes {
        differences.push(Difference::Memory {
            needed: *memory_bytes,
            offered: host.memory_available_bytes,
        });
    }
    if !host.serial_ports.contains(serial_id) {
        differences.push(Difference::SerialMissing { id: serial_id.clone() });
    }
    for VirtioDevice { slot: _, kind } in virtio {
        check_device(kind, host, &mut differences);
    }
    check_unused(config, host, &mut differences);
    differences
}

fn check_cpus(cpus: &CpuConfig, host: &HostOffer, differences: &mut Vec<Difference>) {
    let CpuConfig { model, count, tsc_khz, promise_tsc } = cpus;
    match host.cpu_models.iter().find(|offer| offer.name == *model) {
        None => differences.push(Difference::CpuModel {
            name: model.clone(),
            known: host.cpu_models.iter().map(|offer| offer.name.clone()).collect(),
        }),
        Some(offer) => {
            differences.extend(offer.missing_features.iter().map(|feature| {
                Difference::CpuFeature { model: model.clone(), feature: feature.clone() }
            }));
        }
    }
    if *count > host.max_cpus {
        differences.push(Difference::Cpus { needed: *count, offered: host.max_cpus });
    }
    if let TscOffer::Fixed(offered_khz) = host.tsc
        && *promise_tsc
        && offered_khz != *tsc_khz
    {
        differences.push(Difference::Tsc { promised_khz: *tsc_khz, offered_khz });
    }
}

fn check_device(kind: &VirtioKind, host: &HostOffer, differences: &mut Vec<Difference>) {
    match kind {
        VirtioKind::Block { id, serial: _, sectors, read_only } => {
            let Some(DiskOffer { path, sectors: held, writable }) = host.disks.get(id) else {
                differences.push(Difference::DiskMissing { id: id.clone() });
                return;
            };
            if held != sectors {
                differences.push(Difference::DiskCapacity {
                    id: id.clone(),
                    path: path.clone(),
                    promised: *sectors,
                    held: *held,
                });
            }
            if !read_only && !writable {
                differences.push(Difference::DiskReadOnly { id: id.clone(), path: path.clone() });
            }
        }
        // Every host has entropy, and a seeded source needs none.
        VirtioKind::Rng { id: _, source: _ } => {}
        VirtioKind::Console { id } => {
            if !host.consoles.contains(id) {
                differences.push(Difference::ConsoleMissing { id: id.clone() });
            }
        }
    }
}

fn check_unused(config: &MachineConfig, host: &HostOffer, differences: &mut Vec<Difference>) {
    let has = |wanted: fn(&VirtioKind) -> bool, id: &String| {
        config.virtio.iter().any(|device| wanted(&device.kind) && device.kind.id() == id)
    };
    let disks = host
        .disks
        .keys()
        .filter(|id| !has(|kind| matches!(kind, VirtioKind::Block { .. }), id))
        .map(|id| format!("disk.{id}"));
    let serial_ports = host
        .serial_ports
        .iter()
        .filter(|id| **id != config.serial_id)
        .map(|id| format!("serial.{id}"));
    let consoles = host
        .consoles
        .iter()
        .filter(|id| !has(|kind| matches!(kind, VirtioKind::Console { .. }), id))
        .map(|id| format!("console.{id}"));
    differences.extend(
        disks.chain(serial_ports).chain(consoles).map(|entry| Difference::Unused { entry }),
    );
}
