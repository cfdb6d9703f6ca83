//! From a tree to the configuration's choices in it. What else is in the tree is judged by the
//! comparison that follows.

use crate::board;
use crate::config::{ClockMode, CpuConfig, MachineConfig, RngSource, VirtioDevice, VirtioKind};
use crate::error::{MachineError, UnknownMachineType};
use crate::fdt::{Node, join};
use crate::hex;
use crate::machine_type::MachineType;
use crate::uuid::parse_uuid;
use crate::virtio_interface::VirtioInterface;

use super::build::{
    BLOCK, CLOCK_HOST, CLOCK_ICOUNT, CONSOLE, HPET_NODE_PREFIX, MEMORY_NODE, NET, RNG, SERIAL_NODE,
    TYPE_PREFIX, VIRTIO_INTERFACE, VIRTIO_NODE_PREFIX, virtio_node_name,
};

pub(super) fn extract(root: &Node) -> Result<MachineConfig, MachineError> {
    let root = Place { node: root, path: "/".to_owned() };
    // The type first: a tree of a later release may look different in all the rest.
    let machine_type = machine_type(&root)?;
    let uuid = parse_uuid(root.string("ferry,uuid")?)
        .map_err(|_| root.malformed("ferry,uuid", "a UUID"))?;
    let soc = root.child("soc")?;
    Ok(MachineConfig {
        machine_type,
        name: root.string("ferry,name")?.to_owned(),
        uuid,
        cpus: cpus(&root.child("cpus")?)?,
        memory_bytes: memory_bytes(&root.child(MEMORY_NODE)?)?,
        clock: clock(&root.child("clock")?)?,
        hpet: soc.node.children.iter().any(|child| child.name.starts_with(HPET_NODE_PREFIX)),
        serial_id: root.child("isa")?.child(SERIAL_NODE)?.string("ferry,id")?.to_owned(),
        virtio_interface: virtio_interface(machine_type, &soc)?,
        virtio: virtio(machine_type, &soc)?,
    })
}

fn machine_type(root: &Place) -> Result<MachineType, MachineError> {
    let compatible = root.first_string("compatible")?;
    match compatible.strip_prefix(TYPE_PREFIX) {
        Some(name) => Ok(name.parse()?),
        None => Err(UnknownMachineType::new(compatible).into()),
    }
}

fn cpus(cpus: &Place) -> Result<CpuConfig, MachineError> {
    let tsc_hz = cpus.u64("timebase-frequency")?;
    if !tsc_hz.is_multiple_of(1000) {
        return Err(cpus.malformed("timebase-frequency", "a whole number of kHz"));
    }
    Ok(CpuConfig {
        model: cpus.string("ferry,model")?.to_owned(),
        // The comparison looks at what these children are.
        count: cpus.node.children.len() as u32,
        tsc_khz: tsc_hz / 1000,
        promise_tsc: cpus.flag("ferry,promise-tsc")?,
        promise_cpuid: cpus.flag("ferry,promise-cpuid")?,
        host_cpuid: match cpus.node.property("ferry,host-cpuid") {
            None => None,
            Some(_) => Some(
                hex::parse(cpus.string("ferry,host-cpuid")?)
                    .ok_or_else(|| cpus.malformed("ferry,host-cpuid", "64 hexadecimal digits"))?,
            ),
        },
    })
}

fn memory_bytes(memory: &Place) -> Result<u64, MachineError> {
    let malformed = || memory.malformed("reg", "one or two ranges of 64-bit address and length");
    let reg = memory.value("reg")?;
    if !matches!(reg.len(), 16 | 32) {
        return Err(malformed());
    }
    let mut bytes = 0u64;
    for range in reg.chunks_exact(16) {
        let length = range.last_chunk::<8>().ok_or_else(malformed)?;
        bytes = bytes.checked_add(u64::from_be_bytes(*length)).ok_or_else(malformed)?;
    }
    Ok(bytes)
}

fn clock(clock: &Place) -> Result<ClockMode, MachineError> {
    match clock.first_string("compatible")? {
        CLOCK_HOST => Ok(ClockMode::Host),
        CLOCK_ICOUNT => {
            let shift = clock.u32("ferry,shift")?;
            let shift =
                u8::try_from(shift).map_err(|_| clock.malformed("ferry,shift", "0 to 10"))?;
            Ok(ClockMode::Icount { shift })
        }
        compatible => Err(MachineError::UnknownDevice {
            path: clock.path.clone(),
            compatible: compatible.to_owned(),
        }),
    }
}

fn virtio_interface(
    machine_type: MachineType,
    soc: &Place,
) -> Result<VirtioInterface, MachineError> {
    if !machine_type.has_legacy_virtio() {
        return Ok(VirtioInterface::Modern);
    }
    VirtioInterface::from_name(soc.string(VIRTIO_INTERFACE)?)
        .ok_or_else(|| soc.malformed(VIRTIO_INTERFACE, "\"legacy\" or \"modern\""))
}

/// The devices in the order in which they were plugged: the tree's order reversed.
fn virtio(machine_type: MachineType, soc: &Place) -> Result<Vec<VirtioDevice>, MachineError> {
    let mut devices = Vec::new();
    for node in &soc.node.children {
        if !node.name.starts_with(VIRTIO_NODE_PREFIX) {
            continue;
        }
        let place = Place { node, path: join(&soc.path, &node.name) };
        let kind = virtio_kind(&place)?;
        let slot = (0..board::VIRTIO_SLOTS)
            .find(|slot| virtio_node_name(*slot) == node.name)
            .ok_or(MachineError::UnknownNode { path: place.path, machine_type })?;
        devices.push(VirtioDevice { slot, kind });
    }
    devices.sort_by_key(|device| std::cmp::Reverse(device.slot));
    Ok(devices)
}

fn virtio_kind(device: &Place) -> Result<VirtioKind, MachineError> {
    let compatible = device.first_string("compatible")?;
    let id = || device.string("ferry,id").map(str::to_owned);
    match compatible {
        BLOCK => Ok(VirtioKind::Block {
            id: id()?,
            serial: match device.node.property("ferry,serial") {
                None => String::new(),
                Some(_) => device.string("ferry,serial")?.to_owned(),
            },
            sectors: device.u64("ferry,sectors")?,
            read_only: device.flag("ferry,read-only")?,
        }),
        RNG => Ok(VirtioKind::Rng {
            id: id()?,
            source: match device.node.property("ferry,seed") {
                None => RngSource::Host,
                Some(_) => RngSource::Seeded { seed: device.u64("ferry,seed")? },
            },
        }),
        CONSOLE => Ok(VirtioKind::Console { id: id()? }),
        NET => Ok(VirtioKind::Net {
            id: id()?,
            mac: device
                .value("local-mac-address")?
                .try_into()
                .map_err(|_| device.malformed("local-mac-address", "six bytes"))?,
        }),
        unknown => Err(MachineError::UnknownDevice {
            path: device.path.clone(),
            compatible: unknown.to_owned(),
        }),
    }
}

/// A node and where it is.
struct Place<'a> {
    node: &'a Node,
    path: String,
}

impl<'a> Place<'a> {
    fn child(&self, name: &str) -> Result<Place<'a>, MachineError> {
        let path = join(&self.path, name);
        match self.node.child(name) {
            Some(node) => Ok(Place { node, path }),
            None => Err(MachineError::MissingNode { path }),
        }
    }

    fn malformed(&self, property: &str, expected: &'static str) -> MachineError {
        MachineError::Malformed { path: self.path.clone(), property: property.to_owned(), expected }
    }

    fn value(&self, property: &str) -> Result<&'a [u8], MachineError> {
        self.node.property(property).ok_or_else(|| MachineError::MissingProperty {
            path: self.path.clone(),
            property: property.to_owned(),
        })
    }

    /// The first of a property's strings.
    fn first_string(&self, property: &str) -> Result<&'a str, MachineError> {
        let value = self.value(property)?;
        value
            .split_inclusive(|byte| *byte == 0)
            .next()
            .and_then(|string| string.strip_suffix(&[0]))
            .filter(|string| string.is_ascii())
            .and_then(|string| std::str::from_utf8(string).ok())
            .ok_or_else(|| self.malformed(property, "a string"))
    }

    /// The one string of a property.
    fn string(&self, property: &str) -> Result<&'a str, MachineError> {
        let string = self.first_string(property)?;
        if self.value(property)?.len() != string.len() + 1 {
            return Err(self.malformed(property, "one string"));
        }
        Ok(string)
    }

    fn u32(&self, property: &str) -> Result<u32, MachineError> {
        let value = <[u8; 4]>::try_from(self.value(property)?);
        value.map(u32::from_be_bytes).map_err(|_| self.malformed(property, "a 32-bit number"))
    }

    fn u64(&self, property: &str) -> Result<u64, MachineError> {
        let value = <[u8; 8]>::try_from(self.value(property)?);
        value.map(u64::from_be_bytes).map_err(|_| self.malformed(property, "a 64-bit number"))
    }

    fn flag(&self, property: &str) -> Result<bool, MachineError> {
        match self.node.property(property) {
            None => Ok(false),
            Some([]) => Ok(true),
            Some(_) => Err(self.malformed(property, "empty")),
        }
    }
}
