//! From options and files to configurations.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use devices::virtio::{BlockBackend, FileDisk};
use guest::{Flags, Parameters};
use machine::{
    CharacterBackend, ClockFile, ClockMode, DeviceFile, DiskBackend, FreshFacts, HOST_MODEL,
    HostConfig, MachineConfig, MachineFile, NetBackend,
};
use vmm::{Boot, Endpoints};

use crate::cli::{HostOptions, RunOptions};

pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The host's side: the host file, and what options add to it. `more` are the images of further
/// disks.
pub fn host(options: &HostOptions, more: &[String]) -> Result<HostConfig> {
    let mut host = match &options.host {
        Some(path) => HostConfig::from_toml(&read_text(path)?)
            .with_context(|| format!("{} is no host file", path.display()))?,
        None => HostConfig::default(),
    };
    if let Some(accel) = options.accel {
        host.accel = accel;
    }
    for (id, path) in disk_files(options.disk.iter().chain(more))? {
        if host.disk.insert(id.clone(), DiskBackend { path }).is_some() {
            bail!("{id} has a file twice");
        }
    }
    for (index, net) in options.net.iter().enumerate() {
        let (id, what) = match net.split_once('=') {
            Some((id, what)) => (id.to_owned(), what),
            None => (format!("net{index}"), net.as_str()),
        };
        let backend = match what.split_once(':') {
            Some(("tap", name)) => NetBackend::Tap { name: name.to_owned() },
            None if what == "null" => NetBackend::Null {},
            _ => bail!("--net {net}: tap:NAME or null"),
        };
        if host.net.insert(id.clone(), backend).is_some() {
            bail!("{id} has a back end twice");
        }
    }
    Ok(host)
}

/// The files of disks by their ids, each given as `ID=FILE`, or as `FILE` for disk0, disk1, ....
///
/// # Errors
/// If a disk has two files.
pub fn disk_files<'a>(
    given: impl Iterator<Item = &'a String>,
) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for (index, disk) in given.enumerate() {
        let (id, path) = match disk.split_once('=') {
            Some((id, path)) => (id.to_owned(), path),
            None => (format!("disk{index}"), disk.as_str()),
        };
        if files.insert(id.clone(), PathBuf::from(path)).is_some() {
            bail!("{id} has a file twice");
        }
    }
    Ok(files)
}

fn clock(text: &str) -> Result<ClockFile> {
    match text.split_once('=') {
        None if text == "host" => Ok(ClockFile::Host {}),
        None if text == "icount" => Ok(ClockFile::Icount { shift: 0 }),
        Some(("icount", shift)) => Ok(ClockFile::Icount {
            shift: shift.parse().with_context(|| format!("{shift:?} is no shift"))?,
        }),
        _ => bail!("{text:?} is no clock: host, icount or icount=SHIFT"),
    }
}

/// Sixteen bytes that nobody else has.
pub fn fresh_uuid() -> Result<[u8; 16]> {
    let mut uuid = [0; 16];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut uuid))?;
    Ok(uuid)
}

/// What a machine file says.
///
/// # Errors
/// If it cannot be read, or is none.
pub fn machine_file(path: &Path) -> Result<MachineFile> {
    MachineFile::from_toml(&read_text(path)?)
        .with_context(|| format!("{} is no machine file", path.display()))
}

/// The machine: from its file, or from options.
pub fn machine(options: &RunOptions, host: &HostConfig) -> Result<MachineConfig> {
    let mut file = match &options.machine {
        Some(path) => machine_file(path)?,
        None => MachineFile {
            name: options.name.clone(),
            memory: options.memory.clone(),
            hpet: options.no_hpet.then_some(false),
            clock: options.clock.as_deref().map(clock).transpose()?,
            ..MachineFile::default()
        },
    };
    if options.machine.is_none() {
        file.cpu.model = options.cpu.clone();
        file.cpu.count = options.cpus;
        file.cpu.promise_tsc = options.no_promise_tsc.then_some(false);
        file.cpu.promise_cpuid = options.no_promise_cpuid.then_some(false);
        let writable = options.host.disk.len();
        for index in 0..writable + options.read_only_disk.len() {
            file.devices.push(DeviceFile::Block {
                id: format!("disk{index}"),
                serial: String::new(),
                size: None,
                read_only: index >= writable,
                slot: None,
            });
        }
        if options.rng {
            let seed = matches!(file.clock, Some(ClockFile::Icount { .. })).then_some(0);
            file.devices.push(DeviceFile::Rng { id: "rng0".to_owned(), seed, slot: None });
        }
        if options.console {
            file.devices.push(DeviceFile::Console { id: "con0".to_owned(), slot: None });
        }
        for index in 0..options.host.net.len() {
            file.devices.push(DeviceFile::Net { id: format!("net{index}"), mac: None, slot: None });
        }
    }
    let arbiter = options.host.arbiter.arbiter.as_deref().unwrap_or_default();
    if file.uuid.is_none() && arbiter.starts_with("etcd://") {
        eprintln!(
            "ferry: warning: this machine has no uuid of its own (in --machine FILE): each start is \
             another machine to etcd, which then keeps no two from the same disks"
        );
    }
    resolve(&file, &files(host))
}

/// The files behind the disks of a host.
pub fn files(host: &HostConfig) -> BTreeMap<String, PathBuf> {
    host.disk.iter().map(|(id, disk)| (id.clone(), disk.path.clone())).collect()
}

/// A machine file's machine, on a host where disks have these files.
///
/// # Errors
/// If it is no machine, or needs what this host has not.
pub fn resolve(file: &MachineFile, disks: &BTreeMap<String, PathBuf>) -> Result<MachineConfig> {
    let sectors = |id: &str| {
        let path = disks.get(id)?;
        FileDisk::open(path, true).ok().map(|disk| disk.sectors())
    };
    let is_host = file.cpu.model.as_deref() == Some(HOST_MODEL);
    let fresh = FreshFacts {
        uuid: fresh_uuid()?,
        disk_sectors: &sectors,
        host_cpuid: if is_host { vmm::host_cpuid() } else { None },
    };
    if is_host && fresh.host_cpuid.is_none() {
        bail!("cpu model host: there is no KVM here that runs guests, and only KVM has the model");
    }
    Ok(file.resolve(&fresh)?)
}

/// What the machine boots.
pub fn boot(options: &RunOptions, config: &MachineConfig) -> Result<Boot> {
    if let Some(kernel) = &options.kernel {
        return Ok(Boot::Linux {
            kernel: kernel.clone(),
            initrd: options.initrd.clone(),
            command_line: options.append.clone(),
        });
    }
    let mut parameters =
        Parameters::new(config.memory_bytes, config.cpus.count.into(), options.rounds);
    parameters.tsc_khz = config.cpus.tsc_khz;
    parameters.pause_ns = options.pause * 1_000_000;
    if let Some(pages) = options.pages_per_round {
        parameters.pages_per_round = pages;
        parameters.checks_per_round = (8 * pages).min(parameters.work_pages);
    }
    for (holds, flag) in [
        (config.hpet, Flags::HPET),
        (!config.cpus.promise_tsc, Flags::LAPIC_PHASE_UNPROMISED),
        (!config.cpus.promise_tsc, Flags::TSC_UNPROMISED),
        (!config.cpus.promise_cpuid, Flags::CPUID_UNPROMISED),
    ] {
        if holds {
            parameters.flags = parameters.flags.with(flag);
        }
    }
    let disk_in_first_slot = matches!(
        config.virtio.first(),
        Some(device) if matches!(device.kind, machine::VirtioKind::Block { read_only: false, .. })
    );
    if disk_in_first_slot {
        parameters.flags = parameters.flags.with(Flags::DISK);
    }
    match config.clock {
        ClockMode::Icount { .. } => {
            parameters.flags = parameters.flags.with(Flags::EXACT_TICKS);
        }
        ClockMode::Host => {
            // The host may be late by as much as it likes; its guests' clocks still agree.
            parameters.drift_ppm = 10_000;
            parameters.clock_slack_ns = 1_000_000;
        }
    }
    Ok(Boot::Embedded(Box::new(parameters)))
}

/// Where a device's characters go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Output {
    Terminal,
    Nowhere,
    File(PathBuf),
}

/// The outputs of a machine, opened; and the device that the keyboard types on, if any.
pub struct Outputs {
    serial: Output,
    consoles: Vec<(String, Output)>,
    serial_id: Option<String>,
}

fn output(backend: &CharacterBackend, id: &str) -> Result<Output> {
    Ok(match backend {
        CharacterBackend::Stdio => Output::Terminal,
        CharacterBackend::Null => Output::Nowhere,
        CharacterBackend::File { path } => Output::File(path.clone()),
        CharacterBackend::Pipe { .. } | CharacterBackend::Socket { .. } => {
            bail!(
                "{id}: back ends of kind pipe and socket are not offered yet; use stdio, null or file"
            )
        }
    })
}

fn open_output(path: &Path) -> Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))
}

impl Outputs {
    /// From options and the host file.
    pub fn new(options: &HostOptions, host: &HostConfig) -> Result<Self> {
        let named = match options.serial.as_deref() {
            None => None,
            Some("stdio") => Some(Output::Terminal),
            Some("null") => Some(Output::Nowhere),
            Some(text) => match text.strip_prefix("file:") {
                Some(path) => Some(Output::File(PathBuf::from(path))),
                None => bail!("--serial {text}: stdio, null or file:PATH"),
            },
        };
        let mut from_file = host.serial.iter();
        let first = from_file.next();
        if first.is_some() && named.is_some() {
            bail!("--serial and the host file both say where the serial port goes");
        }
        let (serial_id, serial) = match (first, named) {
            (Some((id, backend)), _) => (Some(id.clone()), output(backend, id)?),
            (None, named) => (None, named.unwrap_or(Output::Terminal)),
        };
        let consoles = host
            .console
            .iter()
            .map(|(id, backend)| Ok((id.clone(), output(backend, id)?)))
            .collect::<Result<_>>()?;
        Ok(Self { serial, consoles, serial_id })
    }

    /// The files that characters go to, made if they are not there.
    ///
    /// # Errors
    /// If one cannot be written.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let outputs = std::iter::once(&self.serial).chain(self.consoles.iter().map(|(_, to)| to));
        let mut files = Vec::new();
        for output in outputs {
            if let Output::File(path) = output {
                open_output(path)?;
                files.push(path.clone());
            }
        }
        Ok(files)
    }

    /// Opens the outputs of a machine.
    pub fn open(&self, config: &MachineConfig) -> Result<(Endpoints, Option<String>)> {
        let mut endpoints = Endpoints::default();
        let mut keyboard = None;
        if let Some(id) = &self.serial_id
            && *id != config.serial_id
        {
            return Err(anyhow!("the machine has no serial port {id}"));
        }
        let serial = (config.serial_id.clone(), self.serial.clone());
        for (id, output) in std::iter::once(serial).chain(self.consoles.iter().cloned()) {
            let writer: Box<dyn Write + Send> = match output {
                Output::Nowhere => continue,
                Output::Terminal => {
                    keyboard.get_or_insert_with(|| id.clone());
                    Box::new(io::stdout())
                }
                Output::File(path) => Box::new(open_output(&path)?),
            };
            endpoints.outputs.insert(id, writer);
        }
        Ok((endpoints, keyboard))
    }
}
