//! The virtio devices of a machine, each in its slot, and what backs them on this host.

use std::io;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use devices::fw_cfg::FwCfgError;
use devices::virtio::{
    BlockBackend, BlockConfig, BlockError, BlockKind, FileDisk, LegacyDevice, NetBackend, NullNet,
    RngSource, Tap, Transport, VirtioBlock, VirtioConsole, VirtioMmio, VirtioNet, VirtioRng,
    VirtioSlot,
};
use machine::{
    ClockMode, HostConfig, MachineConfig, MachineType, NetBackend as Network, RngSource as Entropy,
    VirtioInterface, VirtioKind, board,
};
use memory::GuestRam;

/// A device has no back end on this host, or not the right one.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The host configuration names no file for a disk.
    #[error("{0}: this host configuration names no file for it")]
    NoFile(String),
    /// A disk's file cannot be used.
    #[error("{id}: cannot use {}", path.display())]
    Disk {
        /// The disk.
        id: String,
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A disk's file is not what the configuration promises.
    #[error("{id}")]
    Block {
        /// The disk.
        id: String,
        /// What is wrong.
        source: BlockError,
    },
    /// A disk's lock could not be had, or its writes not be made durable.
    #[error("{id}: the disk is in use elsewhere or cannot be written")]
    Lock {
        /// The disk.
        id: String,
        /// Why.
        source: io::Error,
    },
    /// The host configuration names no back end for a network device.
    #[error("{0}: this host configuration names no back end for the network device")]
    NoNet(String),
    /// A network device of a machine that counts instructions has a network behind it.
    #[error("{0}: an icount machine needs the null back end for a network device")]
    NotReproducible(String),
    /// A tap interface cannot be used.
    #[error("{id}: cannot use tap interface {name}")]
    Tap {
        /// The device.
        id: String,
        /// The interface.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The host has no entropy.
    #[error("{id}: this host gives no random bytes")]
    Entropy {
        /// The device.
        id: String,
        /// Why.
        source: io::Error,
    },
    /// The firmware configuration cannot be built.
    #[error("the firmware configuration cannot be built")]
    FwCfg(#[source] FwCfgError),
}

/// What is in a slot.
pub enum SlotDevice {
    /// A disk.
    Block(Box<VirtioMmio<VirtioBlock>>),
    /// An entropy source.
    Rng(Box<VirtioMmio<VirtioRng>>),
    /// A console.
    Console(Box<VirtioMmio<VirtioConsole>>),
    /// A network device.
    Net(Box<VirtioMmio<VirtioNet>>),
}

impl Deref for SlotDevice {
    type Target = dyn VirtioSlot;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Block(device) => &**device,
            Self::Rng(device) => &**device,
            Self::Console(device) => &**device,
            Self::Net(device) => &**device,
        }
    }
}

impl DerefMut for SlotDevice {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::Block(device) => &mut **device,
            Self::Rng(device) => &mut **device,
            Self::Console(device) => &mut **device,
            Self::Net(device) => &mut **device,
        }
    }
}

/// A virtio slot with a device in it.
pub struct Slot {
    /// Its number on the board.
    pub number: u8,
    /// The device's name in the configuration.
    pub id: String,
    /// The device.
    pub device: SlotDevice,
}

impl Slot {
    fn disk(&mut self) -> Option<&mut dyn BlockBackend> {
        match &mut self.device {
            SlotDevice::Block(device) => Some(device.device_mut().backend_mut()),
            SlotDevice::Rng(_) | SlotDevice::Console(_) | SlotDevice::Net(_) => None,
        }
    }

    fn on_disk(
        &mut self,
        action: impl FnOnce(&mut dyn BlockBackend) -> io::Result<()>,
    ) -> Result<(), BackendError> {
        let Some(disk) = self.disk() else { return Ok(()) };
        action(disk).map_err(|source| BackendError::Lock { id: self.id.clone(), source })
    }

    /// Takes the lock of the disk in this slot, if there is one.
    pub(crate) fn lock(&mut self) -> Result<(), BackendError> {
        self.on_disk(|disk| disk.lock())
    }

    /// Gives the lock back.
    pub(crate) fn unlock(&mut self) -> Result<(), BackendError> {
        self.on_disk(|disk| disk.unlock())
    }

    /// Makes all writes durable.
    pub(crate) fn flush(&mut self) -> Result<(), BackendError> {
        self.on_disk(|disk| disk.flush())
    }
}

/// Opens every back end and plugs the devices in.
///
/// # Errors
/// If a back end is missing or is not what the configuration promises.
pub fn plug(
    config: &MachineConfig,
    host: &HostConfig,
    ram: &GuestRam,
) -> Result<Vec<Slot>, BackendError> {
    let (transport, disks) = match config.machine_type {
        MachineType::Ferry1 => (Transport::FERRY_1, BlockKind::Ferry1),
        MachineType::Microvm => (Transport::MICROVM, BlockKind::Qemu),
    };
    config
        .virtio
        .iter()
        .map(|plugged| {
            let base = board::virtio_region(plugged.slot).base;
            let id = plugged.kind.id().to_owned();
            let device = match &plugged.kind {
                VirtioKind::Block { id, serial, sectors, read_only } => {
                    let backend = open_disk(id, *read_only, host)?;
                    let promised = BlockConfig {
                        sectors: *sectors,
                        read_only: *read_only,
                        id: serial.clone(),
                        kind: disks,
                    };
                    let device = VirtioBlock::new(promised, backend)
                        .map_err(|source| BackendError::Block { id: id.clone(), source })?;
                    SlotDevice::Block(with_interface(config, base, transport, device, ram))
                }
                VirtioKind::Rng { id, source } => {
                    let source = match source {
                        Entropy::Seeded { seed } => RngSource::seeded(*seed),
                        Entropy::Host => RngSource::host()
                            .map_err(|source| BackendError::Entropy { id: id.clone(), source })?,
                    };
                    let device = VirtioRng::new(source);
                    SlotDevice::Rng(with_interface(config, base, transport, device, ram))
                }
                VirtioKind::Console { .. } => {
                    let device = VirtioConsole::new();
                    SlotDevice::Console(Box::new(VirtioMmio::new(
                        base,
                        transport,
                        device,
                        ram.clone(),
                    )))
                }
                VirtioKind::Net { id, mac } => {
                    let device = VirtioNet::new(*mac, open_net(id, config.clock, host)?);
                    SlotDevice::Net(Box::new(VirtioMmio::new(base, transport, device, ram.clone())))
                }
            };
            Ok(Slot { number: plugged.slot, id, device })
        })
        .collect()
}

/// Plugs in a device that can have either interface. Consoles and network devices have the modern
/// one alone, and no valid configuration asks for another.
fn with_interface<D: LegacyDevice>(
    config: &MachineConfig,
    base: u64,
    transport: Transport,
    device: D,
    ram: &GuestRam,
) -> Box<VirtioMmio<D>> {
    Box::new(match config.virtio_interface {
        VirtioInterface::Legacy => VirtioMmio::new_legacy(base, device, ram.clone()),
        VirtioInterface::Modern => VirtioMmio::new(base, transport, device, ram.clone()),
    })
}

fn open_disk(
    id: &str,
    read_only: bool,
    host: &HostConfig,
) -> Result<Box<dyn BlockBackend>, BackendError> {
    let Some(backend) = host.disk.get(id) else {
        return Err(BackendError::NoFile(id.to_owned()));
    };
    let disk = FileDisk::open(&backend.path, read_only).map_err(|source| BackendError::Disk {
        id: id.to_owned(),
        path: backend.path.clone(),
        source,
    })?;
    Ok(Box::new(disk))
}

fn open_net(
    id: &str,
    clock: ClockMode,
    host: &HostConfig,
) -> Result<Box<dyn NetBackend>, BackendError> {
    match (host.net.get(id), clock) {
        (None, _) => Err(BackendError::NoNet(id.to_owned())),
        (Some(Network::Null {}), _) => Ok(Box::new(NullNet)),
        (Some(Network::Tap { .. }), ClockMode::Icount { .. }) => {
            Err(BackendError::NotReproducible(id.to_owned()))
        }
        (Some(Network::Tap { name }), ClockMode::Host) => {
            let tap = Tap::open(name).map_err(|source| BackendError::Tap {
                id: id.to_owned(),
                name: name.clone(),
                source,
            })?;
            Ok(Box::new(tap))
        }
    }
}
