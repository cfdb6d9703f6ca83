//! `ferry export-config`: a machine of Ferry's as QEMU's command line.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use control::{MachineReport, Reply, Request};
use machine::MachineConfig;
use qemu::config::{HostSide, export};

use crate::cli::ExportOptions;
use crate::move_away::connect;
use crate::options;

/// `ferry export-config`.
pub fn export_config(options: &ExportOptions) -> Result<ExitCode> {
    let given = options::disk_files(options.disk.iter())?;
    let (config, disks) = match (&options.machine, &options.vm) {
        (Some(path), _) => {
            let file = options::machine_file(path)?;
            (options::resolve(&file, &given)?, given)
        }
        (None, Some(vm)) => {
            let (config, mut disks) = ask(vm)?;
            disks.extend(given);
            (config, disks)
        }
        (None, None) => bail!("neither a machine nor a machine file"),
    };
    let unknown = disks.keys().find(|id| !config.virtio.iter().any(|at| at.kind.id() == *id));
    if let Some(id) = unknown {
        bail!("the machine has no disk {id}");
    }
    let host = HostSide { disks: &disks, incoming: &options.incoming };
    println!("{}", export(&config, &host)?.command_line());
    Ok(ExitCode::SUCCESS)
}

/// Asks a machine that runs here what it is.
fn ask(vm: &str) -> Result<(MachineConfig, BTreeMap<String, PathBuf>)> {
    let MachineReport { tree, disks } = match connect(vm)?.ask(&Request::Machine)? {
        Reply::Machine(report) => report,
        Reply::Failed { reason } => bail!("{vm}: {reason}"),
        _ => bail!("{vm} gives an answer to another question"),
    };
    let config = MachineConfig::from_fdt(&tree).with_context(|| format!("{vm}: its tree"))?;
    Ok((config, disks.into_iter().map(|(id, path)| (id, PathBuf::from(path))).collect()))
}
