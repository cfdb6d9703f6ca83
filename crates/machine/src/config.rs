//! The machine configuration: all that decides what a guest sees.

use std::collections::BTreeSet;

use crate::board;
use crate::error::ConfigError;
use crate::mac::format_mac;
use crate::machine_type::MachineType;
use crate::virtio_interface::VirtioInterface;

/// The CPU model that is the processor of the host where the machine started.
pub const HOST_MODEL: &str = "host";
/// Most CPUs of a machine.
pub const MAX_CPUS: u32 = 16;
/// Least memory of a machine, in bytes.
pub const MIN_MEMORY_BYTES: u64 = 64 << 10;
/// Least memory of a `microvm`, in bytes.
const MIN_MICROVM_BYTES: u64 = 2 << 20;
/// Most memory of a machine, in bytes.
pub const MAX_MEMORY_BYTES: u64 = 64 << 30;
/// Longest name of a machine, a device or a CPU model, in characters.
pub const MAX_NAME_LENGTH: usize = 64;
/// Longest serial number of a virtio block device, in bytes (virtio 1.2, section 5.2.6: the string
/// of `VIRTIO_BLK_T_GET_ID`).
pub const MAX_SERIAL_LENGTH: usize = 20;
/// Largest `icount` shift.
pub const MAX_ICOUNT_SHIFT: u8 = 10;

const PAGE_BYTES: u64 = 4096;
const SECTOR_BYTES: u64 = 512;
const MIN_TSC_KHZ: u64 = 1_000;
const MAX_TSC_KHZ: u64 = 10_000_000;

/// A machine, as far as its guest can see it. What is not here is fixed by the machine type.
///
/// The fields are open; [`MachineConfig::validate`] says whether they make a machine, and every
/// function of this crate that turns a configuration into something else asks it first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineConfig {
    /// The promise that fixes all the rest.
    pub machine_type: MachineType,
    /// The machine's name: 1 to 64 characters of `[A-Za-z0-9._-]`.
    pub name: String,
    /// The machine's identity, for its whole life and wherever it runs.
    pub uuid: [u8; 16],
    /// The CPUs.
    pub cpus: CpuConfig,
    /// Memory in bytes: a multiple of 4096, from [`MIN_MEMORY_BYTES`] to [`MAX_MEMORY_BYTES`].
    pub memory_bytes: u64,
    /// What the machine's time is counted in.
    pub clock: ClockMode,
    /// Whether there is an HPET.
    pub hpet: bool,
    /// Name of the serial port, by which a host configuration gives it a back end.
    pub serial_id: String,
    /// By which interface the guest reaches the virtio devices: [`MachineType::has_legacy_virtio`]
    /// says whether there is a choice.
    pub virtio_interface: VirtioInterface,
    /// The virtio devices, in the order in which they are plugged: slots strictly descending.
    pub virtio: Vec<VirtioDevice>,
}

/// The CPUs of a machine. CPU `n` has local APIC id `n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuConfig {
    /// Name of the CPU model, such as `qemu64`; same characters as a machine's name.
    pub model: String,
    /// How many: 1 to [`MAX_CPUS`].
    pub count: u32,
    /// Frequency of the time-stamp counter in kHz: 1,000 to 10,000,000.
    pub tsc_khz: u64,
    /// Whether the guest is promised that this frequency holds for its whole life, so that a host
    /// that cannot keep it is refused.
    pub promise_tsc: bool,
    /// Whether the guest is promised that CPUID says what the model says, no more and no less, so
    /// that a host that cannot keep it is refused.
    pub promise_cpuid: bool,
    /// For the model [`HOST_MODEL`], and for it alone: a digest of what CPUID says on the host
    /// where the machine started.
    pub host_cpuid: Option<[u8; 32]>,
}

/// What the machine's time is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockMode {
    /// The host's monotonic clock.
    Host,
    /// Instructions: each takes 2^`shift` nanoseconds. A run is reproducible bit for bit.
    Icount {
        /// 0 to [`MAX_ICOUNT_SHIFT`].
        shift: u8,
    },
}

/// A virtio device in its virtio-mmio slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtioDevice {
    /// The slot: 0 to 23. It decides address and interrupt.
    pub slot: u8,
    /// The device.
    pub kind: VirtioKind,
}

/// What a virtio device is, as far as the guest sees it. Every `id` has the characters of a
/// machine's name and is unique in the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VirtioKind {
    /// A block device.
    Block {
        /// Name of the device, by which a host configuration gives it a file.
        id: String,
        /// Serial number that the guest reads: up to 20 printable ASCII characters, or none.
        serial: String,
        /// Capacity in sectors of 512 bytes.
        sectors: u64,
        /// Whether the guest is told that it must not write.
        read_only: bool,
    },
    /// An entropy source.
    Rng {
        /// Name of the device.
        id: String,
        /// Where the bytes come from.
        source: RngSource,
    },
    /// A console with one port.
    Console {
        /// Name of the device, by which a host configuration gives it a back end.
        id: String,
    },
    /// A network device.
    Net {
        /// Name of the device, by which a host configuration gives it a back end.
        id: String,
        /// MAC address: that of a single station, and no other device's.
        mac: [u8; 6],
    },
}

/// Where the bytes of an entropy source come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RngSource {
    /// The host's own entropy.
    Host,
    /// A generator started from `seed`: the same bytes in each run. For `icount` machines only
    /// this one is valid.
    Seeded {
        /// The seed.
        seed: u64,
    },
}

impl VirtioKind {
    /// Name of the device.
    pub fn id(&self) -> &str {
        match self {
            VirtioKind::Block { id, .. }
            | VirtioKind::Rng { id, .. }
            | VirtioKind::Console { id }
            | VirtioKind::Net { id, .. } => id,
        }
    }
}

impl Default for CpuConfig {
    /// One `qemu64` at 1 GHz, with every promise.
    fn default() -> Self {
        CpuConfig {
            model: "qemu64".to_owned(),
            count: 1,
            tsc_khz: 1_000_000,
            promise_tsc: true,
            promise_cpuid: true,
            host_cpuid: None,
        }
    }
}

impl MachineConfig {
    /// A machine of the newest type with one CPU, the host's clock, an HPET, a serial port `com1`
    /// and no virtio device; its slots have the modern interface.
    pub fn new(name: impl Into<String>, uuid: [u8; 16], memory_bytes: u64) -> Self {
        MachineConfig {
            machine_type: MachineType::NEWEST,
            name: name.into(),
            uuid,
            cpus: CpuConfig::default(),
            memory_bytes,
            clock: ClockMode::Host,
            hpet: true,
            serial_id: "com1".to_owned(),
            virtio_interface: VirtioInterface::Modern,
            virtio: Vec::new(),
        }
    }

    /// Plugs a device into the highest slot below those in use (23 for the first) and returns the
    /// slot.
    ///
    /// # Errors
    /// No slot is left.
    pub fn plug(&mut self, kind: VirtioKind) -> Result<u8, ConfigError> {
        let lowest = self.virtio.iter().map(|device| device.slot).min();
        let slot = lowest.unwrap_or(board::VIRTIO_SLOTS).checked_sub(1).ok_or_else(|| {
            ConfigError::new(kind.id(), "no virtio slot is left (a machine has 24)")
        })?;
        self.virtio.push(VirtioDevice { slot, kind });
        Ok(slot)
    }

    /// Where memory that the guest can reach lies in guest-physical space
    /// ([`board::memory_ranges`]).
    pub fn memory_ranges(&self) -> Vec<std::ops::Range<u64>> {
        if self.machine_type.has_firmware() {
            board::microvm_memory_ranges(self.memory_bytes)
        } else {
            board::memory_ranges(self.memory_bytes)
        }
    }

    /// Whether these fields make a machine.
    ///
    /// # Errors
    /// The first limit that is broken, with the name of the thing that breaks it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let MachineConfig {
            machine_type,
            name,
            uuid: _,
            cpus: CpuConfig { model, count, tsc_khz, promise_tsc: _, promise_cpuid: _, host_cpuid },
            memory_bytes,
            clock,
            hpet,
            serial_id,
            virtio_interface,
            virtio,
        } = self;
        check_name("name", name)?;
        check_name("cpu model", model)?;
        check_name("serial port", serial_id)?;
        if (model == HOST_MODEL) != host_cpuid.is_some() {
            return Err(ConfigError::new(
                "cpu model",
                "the model host, and no other, goes with the digest of a host's processor",
            ));
        }
        if !(1..=MAX_CPUS).contains(count) {
            return Err(ConfigError::new("cpus", format!("{count} is not 1 to {MAX_CPUS}")));
        }
        if !(MIN_TSC_KHZ..=MAX_TSC_KHZ).contains(tsc_khz) {
            return Err(ConfigError::new(
                "tsc frequency",
                format!("{tsc_khz} kHz is not {MIN_TSC_KHZ} to {MAX_TSC_KHZ} kHz"),
            ));
        }
        if !memory_bytes.is_multiple_of(PAGE_BYTES) {
            return Err(ConfigError::new(
                "memory",
                format!("{memory_bytes} bytes is not a multiple of {PAGE_BYTES}"),
            ));
        }
        if !(MIN_MEMORY_BYTES..=MAX_MEMORY_BYTES).contains(memory_bytes) {
            return Err(ConfigError::new(
                "memory",
                format!("{memory_bytes} bytes is not 64 KiB to 64 GiB"),
            ));
        }
        if let ClockMode::Icount { shift } = clock
            && *shift > MAX_ICOUNT_SHIFT
        {
            return Err(ConfigError::new(
                "clock",
                format!("icount shift {shift} is not 0 to {MAX_ICOUNT_SHIFT}"),
            ));
        }
        if *virtio_interface == VirtioInterface::Legacy && !machine_type.has_legacy_virtio() {
            return Err(ConfigError::new(
                "virtio",
                format!("machine type {machine_type} has the modern interface alone"),
            ));
        }
        if *machine_type == MachineType::Microvm {
            check_microvm(*memory_bytes, *clock, *hpet, virtio)?;
        }
        let mut ids = BTreeSet::from([serial_id.as_str()]);
        let mut macs = BTreeSet::new();
        let mut above = board::VIRTIO_SLOTS;
        for VirtioDevice { slot, kind } in virtio {
            check_kind(kind, *clock)?;
            if !ids.insert(kind.id()) {
                return Err(ConfigError::new(kind.id(), "two devices have this id"));
            }
            if let VirtioKind::Net { id, mac } = kind
                && !macs.insert(mac)
            {
                let reason = format!("another device has its MAC address {}", format_mac(mac));
                return Err(ConfigError::new(id, reason));
            }
            if *slot >= board::VIRTIO_SLOTS {
                return Err(ConfigError::new(
                    kind.id(),
                    format!("slot {slot} is not 0 to {}", board::VIRTIO_SLOTS - 1),
                ));
            }
            if *slot >= above {
                return Err(ConfigError::new(
                    kind.id(),
                    format!("slot {slot} is not below slot {above} of the device before it"),
                ));
            }
            above = *slot;
        }
        Ok(())
    }
}

/// What a machine type of QEMU's does not have.
fn check_microvm(
    memory_bytes: u64,
    clock: ClockMode,
    hpet: bool,
    virtio: &[VirtioDevice],
) -> Result<(), ConfigError> {
    let lacks = |subject: &str, what: &str| {
        Err(ConfigError::new(subject, format!("machine type microvm has {what}")))
    };
    if memory_bytes < MIN_MICROVM_BYTES {
        return lacks("memory", "2 MiB at least");
    }
    if hpet {
        return lacks("hpet", "none");
    }
    if clock != ClockMode::Host {
        return lacks("clock", "the host's");
    }
    for VirtioDevice { slot: _, kind } in virtio {
        match kind {
            VirtioKind::Block { .. } | VirtioKind::Rng { source: RngSource::Host, .. } => {}
            VirtioKind::Rng { id, source: RngSource::Seeded { .. } } => {
                return lacks(id, "the host's entropy, and no seed");
            }
            VirtioKind::Console { id } => return lacks(id, "no virtio console here"),
            VirtioKind::Net { id, .. } => return lacks(id, "no virtio network device here"),
        }
    }
    Ok(())
}

fn check_kind(kind: &VirtioKind, clock: ClockMode) -> Result<(), ConfigError> {
    check_name("device", kind.id())?;
    match kind {
        VirtioKind::Block { id, serial, sectors, read_only: _ } => {
            if serial.len() > MAX_SERIAL_LENGTH {
                return Err(ConfigError::new(
                    id,
                    format!("a serial number has up to {MAX_SERIAL_LENGTH} bytes"),
                ));
            }
            if !serial.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
                return Err(ConfigError::new(
                    id,
                    format!("serial number {serial:?} is not printable ASCII"),
                ));
            }
            if *sectors == 0 {
                return Err(ConfigError::new(id, "a disk has at least one sector"));
            }
            // The guest and the device models count bytes in 64 bits.
            if *sectors > i64::MAX as u64 / SECTOR_BYTES {
                return Err(ConfigError::new(
                    id,
                    format!("{sectors} sectors are more than a disk can have"),
                ));
            }
        }
        VirtioKind::Rng { id, source } => {
            if matches!(clock, ClockMode::Icount { .. }) && matches!(source, RngSource::Host) {
                return Err(ConfigError::new(
                    id,
                    "an icount machine needs a seeded entropy source: the host's would make no \
                     run like another",
                ));
            }
        }
        VirtioKind::Console { id: _ } => {}
        VirtioKind::Net { id, mac } => {
            // The lowest bit of the first byte sent marks a group (IEEE 802, section 8.2.2).
            if mac[0] & 1 != 0 || *mac == [0; 6] {
                let reason = format!("{} is no station's MAC address", format_mac(mac));
                return Err(ConfigError::new(id, reason));
            }
        }
    }
    Ok(())
}

/// Names end up in messages, file names and tree properties: a small, safe alphabet.
fn check_name(subject: &str, name: &str) -> Result<(), ConfigError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=MAX_NAME_LENGTH).contains(&name.len()) && name.bytes().all(good) {
        return Ok(());
    }
    let shown: String = name.chars().take(MAX_NAME_LENGTH).collect();
    Err(ConfigError::new(
        subject,
        format!("{shown:?} is not a name of 1 to {MAX_NAME_LENGTH} characters of [A-Za-z0-9._-]"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> MachineConfig {
        MachineConfig::new("vm1", [7; 16], 1 << 20)
    }

    fn refusal(change: impl FnOnce(&mut MachineConfig)) -> String {
        let mut config = machine();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    fn disk(sectors: u64, serial: &str) -> VirtioKind {
        VirtioKind::Block { id: "disk0".into(), serial: serial.into(), sectors, read_only: false }
    }

    #[test]
    fn limits_are_inclusive() {
        let mut config = machine();
        for (memory, cpus, shift) in [(MIN_MEMORY_BYTES, 1, 0), (MAX_MEMORY_BYTES, 16, 10)] {
            config.memory_bytes = memory;
            config.cpus.count = cpus;
            config.clock = ClockMode::Icount { shift };
            assert_eq!(config.validate(), Ok(()));
        }
        config.virtio = vec![VirtioDevice { slot: 0, kind: disk(i64::MAX as u64 / 512, "") }];
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn a_microvm_has_either_interface() {
        let mut config = machine();
        config.machine_type = MachineType::Microvm;
        (config.hpet, config.memory_bytes) = (false, 2 << 20);
        for interface in VirtioInterface::ALL {
            config.virtio_interface = *interface;
            assert_eq!(config.validate(), Ok(()));
        }
    }

    #[test]
    fn what_breaks_a_limit_is_named() {
        assert_eq!(
            refusal(|c| c.name = "a b".into()),
            "name: \"a b\" is not a name of 1 to 64 characters of [A-Za-z0-9._-]"
        );
        assert!(refusal(|c| c.name = "x".repeat(65)).starts_with("name: "));
        assert!(refusal(|c| c.name.clear()).starts_with("name: "));
        assert!(refusal(|c| c.cpus.model = "a\0".into()).starts_with("cpu model: "));
        assert!(refusal(|c| c.serial_id = "é".into()).starts_with("serial port: "));
        assert_eq!(refusal(|c| c.cpus.count = 0), "cpus: 0 is not 1 to 16");
        assert_eq!(refusal(|c| c.cpus.count = 17), "cpus: 17 is not 1 to 16");
        assert!(refusal(|c| c.cpus.tsc_khz = 0).starts_with("tsc frequency: 0 kHz"));
        assert_eq!(
            refusal(|c| c.memory_bytes = 100),
            "memory: 100 bytes is not a multiple of 4096"
        );
        assert_eq!(
            refusal(|c| c.memory_bytes = 4096),
            "memory: 4096 bytes is not 64 KiB to 64 GiB"
        );
        assert!(refusal(|c| c.memory_bytes = MAX_MEMORY_BYTES + 4096).starts_with("memory: "));
        assert_eq!(
            refusal(|c| c.virtio_interface = VirtioInterface::Legacy),
            "virtio: machine type ferry-1 has the modern interface alone"
        );
        assert_eq!(
            refusal(|c| c.clock = ClockMode::Icount { shift: 11 }),
            "clock: icount shift 11 is not 0 to 10"
        );
    }

    #[test]
    fn devices_that_cannot_be_are_named() {
        let with =
            |slot, kind| move |c: &mut MachineConfig| c.virtio.push(VirtioDevice { slot, kind });
        assert_eq!(refusal(with(24, disk(1, ""))), "disk0: slot 24 is not 0 to 23");
        assert_eq!(refusal(with(23, disk(0, ""))), "disk0: a disk has at least one sector");
        assert!(refusal(with(23, disk(u64::MAX, ""))).starts_with("disk0: 18446744073709551615"));
        assert!(refusal(with(23, disk(1, "123456789012345678901"))).starts_with("disk0: a serial"));
        assert!(refusal(with(23, disk(1, "a\n"))).starts_with("disk0: serial number"));
        let rng = VirtioKind::Rng { id: "rng0".into(), source: RngSource::Host };
        assert!(
            refusal(|c| {
                c.clock = ClockMode::Icount { shift: 0 };
                c.plug(rng).unwrap();
            })
            .starts_with("rng0: an icount machine needs a seeded entropy source")
        );
        let console = |id: &str| VirtioKind::Console { id: id.into() };
        assert_eq!(refusal(with(3, console("com1"))), "com1: two devices have this id");
        let net = |id: &str, mac| VirtioKind::Net { id: id.into(), mac };
        for (mac, text) in
            [([1, 0, 0, 0, 0, 2], "01:00:00:00:00:02"), ([0; 6], "00:00:00:00:00:00")]
        {
            assert_eq!(
                refusal(with(3, net("net0", mac))),
                format!("net0: {text} is no station's MAC address")
            );
        }
        assert_eq!(
            refusal(|c| {
                c.plug(net("net0", [2, 0, 0, 0, 0, 1])).unwrap();
                c.plug(net("net1", [2, 0, 0, 0, 0, 1])).unwrap();
            }),
            "net1: another device has its MAC address 02:00:00:00:00:01"
        );
        assert_eq!(
            refusal(|c| {
                c.virtio = vec![
                    VirtioDevice { slot: 3, kind: console("a") },
                    VirtioDevice { slot: 3, kind: console("b") },
                ];
            }),
            "b: slot 3 is not below slot 3 of the device before it"
        );
    }

    #[test]
    fn slots_are_given_from_the_top() {
        let mut config = machine();
        for slot in (0..24).rev() {
            let kind = VirtioKind::Console { id: format!("con{slot}") };
            assert_eq!(config.plug(kind), Ok(slot));
        }
        assert_eq!(config.validate(), Ok(()));
        let error = config.plug(VirtioKind::Console { id: "one-more".into() }).unwrap_err();
        assert_eq!(error.to_string(), "one-more: no virtio slot is left (a machine has 24)");
    }
}
