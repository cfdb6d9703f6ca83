//! Whether a host can run a machine, and if not, every reason why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::config::{ClockMode, CpuConfig, HOST_MODEL, MachineConfig, VirtioDevice, VirtioKind};
use crate::error::KnownTypes;
use crate::machine_type::MachineType;
use crate::size::format_size;

/// What a host has for a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostOffer {
    /// Machine types that it can run.
    pub machine_types: Vec<MachineType>,
    /// What the accelerator that would run the machine gives.
    pub accelerator: AcceleratorOffer,
    /// Memory that a machine may have, in bytes.
    pub memory_available_bytes: u64,
    /// Disks that the host configuration names, by id.
    pub disks: BTreeMap<String, DiskOffer>,
    /// Serial ports that the host configuration names.
    pub serial_ports: BTreeSet<String>,
    /// Consoles that the host configuration names.
    pub consoles: BTreeSet<String>,
    /// Network devices that the host configuration names, by id.
    pub nets: BTreeMap<String, NetOffer>,
}

/// What an accelerator gives a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceleratorOffer {
    /// CPU models that it knows.
    pub cpu_models: Vec<CpuModelOffer>,
    /// Most CPUs of one machine.
    pub max_cpus: u32,
    /// What CPUID says on this host, as a digest, if the accelerator has the model `host`.
    pub host_cpuid: Option<[u8; 32]>,
    /// Which time-stamp counter frequencies it can keep.
    pub tsc: TscOffer,
    /// Whether it can count instructions (`clock=icount`).
    pub icount: bool,
}

/// A CPU model on an accelerator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuModelOffer {
    /// The model's name.
    pub name: String,
    /// What of the model's CPUID this accelerator cannot keep, each in words: `feature cx16 is
    /// missing`, `bit avx2 cannot be masked`.
    pub lacks: Vec<String>,
}

/// Which time-stamp counter frequencies an accelerator can keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TscOffer {
    /// Any: it computes or scales the counter.
    Any,
    /// The host's own alone, in kHz.
    Fixed(u64),
    /// None: guests see the host's counter as it is.
    HostCounter,
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

/// What is behind a network device on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetOffer {
    /// Nothing: no frame ever comes.
    Null,
    /// A network, whose frames come when they like.
    Network,
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
    /// The accelerator cannot keep what the CPU model says of a feature.
    CpuFeature {
        /// The model.
        model: String,
        /// What it cannot.
        lack: String,
    },
    /// The machine has the processor of the host where it started.
    HostCpu {
        /// Whether the accelerator here gives guests its host's processor at all.
        offered: bool,
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
    /// The accelerator cannot set the time-stamp counter, which is promised.
    TscValue,
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
    /// The host configuration names nothing for a network device.
    NetMissing {
        /// The device.
        id: String,
    },
    /// The machine counts instructions, and a network device has a network.
    NetNotReproducible {
        /// The device.
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
            Difference::CpuFeature { model, lack } => {
                write!(f, "cpu model {model}: {lack}")
            }
            Difference::HostCpu { offered: false } => {
                f.write_str("cpu model host: this accelerator has no such model")
            }
            Difference::HostCpu { offered: true } => f.write_str(
                "cpu model host: the machine has the processor of the host where it started, \
                 and this one has another",
            ),
            Difference::Cpus { needed, offered } => {
                write!(f, "cpus: the machine has {needed}, this host runs at most {offered}")
            }
            Difference::Tsc { promised_khz, offered_khz } => write!(
                f,
                "tsc: the machine promises {promised_khz} kHz, this accelerator has {offered_khz} \
                 kHz and cannot scale it"
            ),
            Difference::TscValue => f.write_str(
                "tsc: the machine promises its time-stamp counter, this accelerator cannot set it",
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
            Difference::NetMissing { id } => {
                write!(f, "{id}: this host configuration names no back end for the network device")
            }
            Difference::NetNotReproducible { id } => write!(
                f,
                "{id}: an icount machine needs the null back end: frames of a network would make \
                 no run like another"
            ),
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
        virtio_interface: _, // what a machine type has, every host has
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
    check_processors(cpus, *clock, &host.accelerator, &mut differences);
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
        check_device(kind, *clock, host, &mut differences);
    }
    check_unused(config, host, &mut differences);
    differences
}

/// Every reason why an accelerator cannot run this machine; none if it can.
pub fn check_accelerator(config: &MachineConfig, offer: &AcceleratorOffer) -> Vec<Difference> {
    let mut differences = Vec::new();
    check_processors(&config.cpus, config.clock, offer, &mut differences);
    differences
}

fn check_processors(
    cpus: &CpuConfig,
    clock: ClockMode,
    host: &AcceleratorOffer,
    differences: &mut Vec<Difference>,
) {
    let CpuConfig { model, count, tsc_khz, promise_tsc, promise_cpuid, host_cpuid } = cpus;
    match host.cpu_models.iter().find(|offer| offer.name == *model) {
        _ if model == HOST_MODEL => {
            if host.host_cpuid.is_none() || host.host_cpuid != *host_cpuid {
                let offered = host.host_cpuid.is_some();
                differences.push(Difference::HostCpu { offered });
            }
        }
        None => differences.push(Difference::CpuModel {
            name: model.clone(),
            known: host.cpu_models.iter().map(|offer| offer.name.clone()).collect(),
        }),
        Some(_) if !promise_cpuid => {}
        Some(offer) => {
            differences.extend(
                offer.lacks.iter().map(|lack| Difference::CpuFeature {
                    model: model.clone(),
                    lack: lack.clone(),
                }),
            );
        }
    }
    if *count > host.max_cpus {
        differences.push(Difference::Cpus { needed: *count, offered: host.max_cpus });
    }
    match host.tsc {
        TscOffer::Fixed(offered_khz) if *promise_tsc && offered_khz != *tsc_khz => {
            differences.push(Difference::Tsc { promised_khz: *tsc_khz, offered_khz });
        }
        TscOffer::HostCounter if *promise_tsc => differences.push(Difference::TscValue),
        TscOffer::Any | TscOffer::Fixed(_) | TscOffer::HostCounter => {}
    }
    if matches!(clock, ClockMode::Icount { .. }) && !host.icount {
        differences.push(Difference::Icount);
    }
}

fn check_device(
    kind: &VirtioKind,
    clock: ClockMode,
    host: &HostOffer,
    differences: &mut Vec<Difference>,
) {
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
        VirtioKind::Net { id, mac: _ } => match (host.nets.get(id), clock) {
            (None, _) => differences.push(Difference::NetMissing { id: id.clone() }),
            (Some(NetOffer::Network), ClockMode::Icount { .. }) => {
                differences.push(Difference::NetNotReproducible { id: id.clone() });
            }
            (Some(NetOffer::Network), ClockMode::Host) | (Some(NetOffer::Null), _) => {}
        },
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
    let nets = host
        .nets
        .keys()
        .filter(|id| !has(|kind| matches!(kind, VirtioKind::Net { .. }), id))
        .map(|id| format!("net.{id}"));
    differences.extend(
        disks
            .chain(serial_ports)
            .chain(consoles)
            .chain(nets)
            .map(|entry| Difference::Unused { entry }),
    );
}
