//! Which arbiter keeps the record of a machine's owner, and `ferry owner`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail};
use control::{OwnerReport, Reply, Request};
use machine::{HostConfig, MachineConfig, VirtioKind, format_uuid, parse_uuid};
use migration::arbiter::{Arbiter, EtcdArbiter, FileArbiter, Ownership, host_name};
use migration::handover::VmId;

use crate::cli::{ArbiterOptions, HostOptions, OwnerOptions};
use crate::move_away;

/// Who keeps the record.
#[derive(Clone, Debug)]
enum Keeper {
    File,
    Etcd(String),
    None,
}

/// The arbiter that an operator has chosen, before the machine is known.
#[derive(Clone, Debug)]
pub struct Chosen {
    keeper: Keeper,
    state: Option<PathBuf>,
}

impl Chosen {
    /// From options.
    ///
    /// # Errors
    /// If there is no such arbiter.
    pub fn new(options: &ArbiterOptions) -> Result<Self> {
        let keeper = match options.arbiter.as_deref() {
            None | Some("file") => Keeper::File,
            Some("none") => Keeper::None,
            Some(address) if address.starts_with("etcd://") => Keeper::Etcd(address.to_owned()),
            Some(other) => bail!("--arbiter {other}: file, etcd://HOST:PORT or none"),
        };
        Ok(Self { keeper, state: options.state_dir.clone() })
    }

    /// The folder for records and locks that are of no disk.
    fn state_folder(&self) -> Result<PathBuf> {
        if let Some(folder) = &self.state {
            return Ok(folder.clone());
        }
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let base = match (set("XDG_STATE_HOME"), set("HOME")) {
            (Some(base), _) => PathBuf::from(base),
            (None, Some(home)) => PathBuf::from(home).join(".local/state"),
            (None, None) => bail!("there is no home folder to keep records in; use --state-dir"),
        };
        Ok(base.join("ferry"))
    }

    /// The folders in which records and locks of a machine that is to arrive may be kept.
    ///
    /// # Errors
    /// If there is no place for them.
    pub fn folders(&self, host: &HostConfig) -> Result<Vec<PathBuf>> {
        if let Keeper::None = self.keeper {
            return Ok(Vec::new());
        }
        let state = self.state_folder()?;
        fs::create_dir_all(&state)
            .with_context(|| format!("cannot keep records in {}", state.display()))?;
        let mut folders = vec![state];
        if let Keeper::File = self.keeper {
            let files = host.disk.values().filter_map(|disk| disk.path.canonicalize().ok());
            folders.extend(
                files
                    .filter(|path| path.is_file())
                    .filter_map(|path| path.parent().map(Path::to_owned)),
            );
        }
        Ok(folders)
    }

    /// The keeper of a machine's record, if one is kept.
    fn open(&self, vm: VmId, disk: Option<&Path>) -> Result<Option<Box<dyn Arbiter>>> {
        let in_folder = || -> Result<FileArbiter> {
            let folder = self.state_folder()?;
            FileArbiter::in_folder(vm, &folder)
                .with_context(|| format!("cannot keep records in {}", folder.display()))
        };
        Ok(match &self.keeper {
            Keeper::None => None,
            Keeper::Etcd(address) => {
                let arbiter = EtcdArbiter::new(vm, address, &self.state_folder()?);
                Some(Box::new(arbiter.map_err(anyhow::Error::from_boxed)?))
            }
            Keeper::File => Some(Box::new(match disk {
                Some(disk) => FileArbiter::beside_disk(vm, disk),
                None => in_folder()?,
            })),
        })
    }

    /// The right to start a machine here.
    ///
    /// # Errors
    /// If it must not be started here.
    pub fn start(
        &self,
        options: &HostOptions,
        config: &MachineConfig,
        host: &HostConfig,
    ) -> Result<Ownership> {
        let arbiter = self.open(config.uuid, first_disk(config, host))?;
        Ok(match arbiter {
            None => Ownership::without_record(),
            Some(arbiter) => Ownership::start(arbiter, options.take_ownership)?,
        })
    }

    /// The right to a machine that is to arrive.
    ///
    /// # Errors
    /// If there is no place for locks.
    pub fn arriving(
        &self,
        options: &HostOptions,
        config: Arc<OnceLock<MachineConfig>>,
        host: HostConfig,
    ) -> Result<Ownership> {
        let host_name = match self.keeper {
            Keeper::None => return Ok(Ownership::without_record()),
            Keeper::File => host_name(&[]),
            Keeper::Etcd(_) => {
                let folder = self.state_folder()?;
                EtcdArbiter::host_of(&folder)
                    .with_context(|| format!("cannot keep locks in {}", folder.display()))?
            }
        };
        let chosen = self.clone();
        let open = move || {
            let config = config.get().ok_or("the machine is not known yet")?;
            let arbiter = chosen.open(config.uuid, first_disk(config, &host));
            let arbiter = arbiter.map_err(|error| format!("{error:#}"))?;
            Ok(arbiter.ok_or("no record is kept")?)
        };
        Ok(Ownership::arriving(&host_name, open).by_force(options.take_ownership))
    }
}

/// The file of the first disk that the machine may write, if it is one: beside a block device
/// there is no place that outlives the host.
fn first_disk<'a>(config: &MachineConfig, host: &'a HostConfig) -> Option<&'a Path> {
    let id = config.virtio.iter().find_map(|device| match &device.kind {
        VirtioKind::Block { id, read_only: false, .. } => Some(id),
        _ => None,
    })?;
    let path = host.disk.get(id)?.path.as_path();
    fs::metadata(path).is_ok_and(|found| found.is_file()).then_some(path)
}

/// `ferry owner`.
///
/// # Errors
/// If there is no such machine, or its record cannot be read.
pub fn owner(options: &OwnerOptions) -> Result<ExitCode> {
    let report = match move_away::connect(&options.vm) {
        Ok(mut client) => match client.ask(&Request::Owner)? {
            Reply::Owner(report) => report,
            _ => bail!("{} gives an answer to another question", options.vm),
        },
        Err(error) => match kept(options)? {
            Some(report) => report,
            None => return Err(error),
        },
    };
    let OwnerReport { vm, process, place, record, unconfirmed } = report;
    println!("{:<9} {vm}", "machine");
    if !process.is_empty() {
        println!("{:<9} {process}", "process");
    }
    println!("{:<9} {}", "kept in", place.as_deref().unwrap_or("no record is kept"));
    println!("{:<9} {}", "record", record.as_deref().unwrap_or("none"));
    if unconfirmed {
        println!("{:<9} paused here, and perhaps granted away: see `ferry resolve`", "guest");
    }
    Ok(ExitCode::SUCCESS)
}

/// The record of a machine that does not run here.
fn kept(options: &OwnerOptions) -> Result<Option<OwnerReport>> {
    let chosen = Chosen::new(&options.arbiter)?;
    let path = Path::new(&options.vm);
    let arbiter = match parse_uuid(&options.vm) {
        Ok(vm) => chosen.open(vm, None)?,
        Err(_) if path.is_file() => {
            // The machine is in the record.
            Some(Box::new(FileArbiter::beside_disk([0; 16], path)) as Box<dyn Arbiter>)
        }
        Err(_) => None,
    };
    let Some(mut arbiter) = arbiter else { return Ok(None) };
    let record = arbiter.read().map_err(anyhow::Error::from_boxed)?;
    Ok(Some(OwnerReport {
        vm: format_uuid(&record.as_ref().map_or(arbiter.vm(), |record| record.vm)),
        process: String::new(),
        place: Some(arbiter.place()),
        record: record.map(|record| record.to_string()),
        unconfirmed: false,
    }))
}
