//! What this host can offer a machine, measured when a machine asks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileTypeExt;

use devices::virtio::{BlockBackend, FileDisk, SECTOR_SIZE};
use machine::{DiskOffer, HostConfig, HostOffer, MachineConfig, MachineType, NetBackend, NetOffer};

use crate::accelerator;

/// Memory that the host's kernel says can be had without swapping (proc_meminfo(5)).
fn memory_available() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.trim().strip_suffix(" kB"))
        .and_then(|number| number.trim().parse::<u64>().ok())
        .map_or(u64::MAX, |kibibytes| kibibytes * 1024)
}

fn disk(path: &std::path::Path) -> Option<DiskOffer> {
    let writable = OpenOptions::new().read(true).write(true).open(path).is_ok();
    let is_disk = fs::metadata(path)
        .is_ok_and(|found| found.is_file() || found.file_type().is_block_device());
    if !is_disk {
        return None;
    }
    let sectors = FileDisk::open(path, !writable).ok()?.sectors();
    debug_assert_eq!(SECTOR_SIZE, 512, "capacities are counted in sectors of 512 bytes");
    Some(DiskOffer { path: path.display().to_string(), sectors, writable })
}

/// What this host offers under a host configuration, on the accelerator that it would choose for
/// this machine. A serial port that the host configuration does not name is offered all the same:
/// its characters are thrown away.
pub fn host_offer(config: &MachineConfig, host: &HostConfig) -> HostOffer {
    let available = memory_available();
    let limit = host.memory_limit_bytes().ok().flatten().unwrap_or(available);
    let disks: BTreeMap<String, DiskOffer> = host
        .disk
        .iter()
        .filter_map(|(id, backend)| Some((id.clone(), disk(&backend.path)?)))
        .collect();
    let mut serial_ports: BTreeSet<String> = host.serial.keys().cloned().collect();
    serial_ports.insert(config.serial_id.clone());
    HostOffer {
        machine_types: MachineType::ALL.to_vec(),
        accelerator: accelerator::offer(
            config.machine_type,
            accelerator::candidate(config, host.accel),
        ),
        memory_available_bytes: limit.min(available),
        disks,
        serial_ports,
        consoles: host.console.keys().cloned().collect(),
        nets: host
            .net
            .iter()
            .map(|(id, backend)| {
                let offer = match backend {
                    NetBackend::Null {} => NetOffer::Null,
                    NetBackend::Tap { .. } => NetOffer::Network,
                };
                (id.clone(), offer)
            })
            .collect(),
    }
}
