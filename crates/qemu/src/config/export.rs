//! From a machine of Ferry's to the command line that makes QEMU build it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cpu::CpuModel;
use machine::{
    ClockMode, CpuConfig, MachineConfig, MachineType, RngSource, VirtioDevice, VirtioInterface,
    VirtioKind, format_uuid,
};

use super::{ExportError, Reasons};

/// The program that the arguments are for.
pub const QEMU: &str = "qemu-system-x86_64";

/// The machine's options: every device that a microvm of Ferry's has, and no other.
const MACHINE: &str = "microvm,x-option-roms=off,pit=on,pic=on,rtc=on,isa-serial=on";
/// QEMU makes memory a multiple of so many bytes.
const MEMORY_UNIT: u64 = 8192;

/// What belongs to the host where QEMU will run.
#[derive(Clone, Copy, Debug)]
pub struct HostSide<'a> {
    /// Files behind disks, by the disks' ids.
    pub disks: &'a BTreeMap<String, PathBuf>,
    /// Where QEMU waits for the machine: its option `-incoming`.
    pub incoming: &'a str,
}

/// A machine as QEMU's arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// An option with its value, or alone, each.
    pub arguments: Vec<Vec<String>>,
    /// What there is to know of it besides, a line each.
    pub notes: Vec<String>,
}

impl Exported {
    /// For a shell: the notes as comments, and the command in one line that goes on over several.
    pub fn command_line(&self) -> String {
        let mut text = String::new();
        for note in &self.notes {
            text.push_str(&format!("# {note}\n"));
        }
        text.push_str(QEMU);
        for option in &self.arguments {
            text.push_str(" \\\n ");
            for word in option {
                text.push(' ');
                text.push_str(&quote(word));
            }
        }
        text
    }
}

/// The machine as QEMU's arguments.
///
/// # Errors
/// Every reason why QEMU has no such machine.
pub fn export(config: &MachineConfig, host: &HostSide<'_>) -> Result<Exported, ExportError> {
    let mut reasons = Reasons::default();
    let mut notes = Vec::new();
    if let Err(error) = config.validate() {
        reasons.add(error.subject, error.reason);
    }
    let MachineConfig {
        machine_type,
        name,
        uuid,
        cpus: CpuConfig { model, count, tsc_khz, promise_tsc: _, promise_cpuid: _, host_cpuid: _ },
        memory_bytes,
        clock,
        hpet,
        serial_id: _,
        virtio_interface,
        virtio,
    } = config;
    if *machine_type != MachineType::Microvm {
        reasons.add("machine", format!("QEMU has no machine type {machine_type}, only microvm"));
    }
    if machine_type.has_exit_port() {
        reasons.add("exit port", "QEMU's microvm has none");
    }
    if *hpet {
        reasons.add("hpet", "QEMU's microvm has none");
    }
    if let ClockMode::Icount { .. } = clock {
        reasons.add("clock", "it counts instructions, and its state is not QEMU's");
    }
    if CpuModel::find_of_qemu(model).is_none() {
        reasons.add("cpu", format!("QEMU has no model that is Ferry's {model}"));
    }
    if !memory_bytes.is_multiple_of(MEMORY_UNIT) {
        let reason = format!("{memory_bytes} bytes is not a multiple of {MEMORY_UNIT}");
        reasons.add("memory", reason);
    }
    notes.push(format!("The TSC of the host where it runs has to have {tsc_khz} kHz."));
    let legacy = match virtio_interface {
        VirtioInterface::Legacy => "on",
        VirtioInterface::Modern => "off",
    };
    let mut arguments: Vec<Vec<String>> = [
        &["-M", MACHINE][..],
        &["-accel", "tcg"],
        &["-cpu", model],
        &["-m", &format!("{}K", memory_bytes >> 10)],
        &["-smp", &format!("cpus={count},sockets=1,cores={count},threads=1")],
        &["-name", &format!("guest={name}")],
        &["-uuid", &format_uuid(uuid)],
        &["-nodefaults"],
        &["-no-user-config"],
        &["-nographic"],
        &["-serial", "stdio"],
        &["-global", &format!("virtio-mmio.force-legacy={legacy}")],
    ]
    .iter()
    .map(|option| option.iter().map(|word| (*word).to_owned()).collect())
    .collect();
    let mut add = |option: &str, value| arguments.push(vec![option.to_owned(), value]);
    for VirtioDevice { slot, kind } in virtio {
        let id = kind.id();
        // QEMU's own rule for ids.
        if !id.starts_with(|first: char| first.is_ascii_alphabetic()) {
            reasons.add(id, "QEMU's ids begin with a letter");
        }
        let place = format!("id={id},bus=virtio-mmio-bus.{slot}");
        match kind {
            VirtioKind::Block { id, serial, sectors: _, read_only } => {
                let file = match host.disks.get(id) {
                    Some(path) => file_name(id, path, &mut reasons),
                    None => {
                        notes.push(format!("Put the file of {id} in the place of FILE-OF-{id}."));
                        format!("FILE-OF-{id}")
                    }
                };
                let read_only = if *read_only { ",readonly=on" } else { "" };
                let file = escape(&file);
                add("-drive", format!("id=drive-{id},if=none,format=raw{read_only},file={file}"));
                let mut device = format!("virtio-blk-device,drive=drive-{id},{place}");
                if !serial.is_empty() {
                    device.push_str(&format!(",serial={}", escape(serial)));
                }
                add("-device", device);
            }
            VirtioKind::Rng { id, source } => {
                if let RngSource::Seeded { .. } = source {
                    reasons.add(id, "its bytes come from a seed, and QEMU's from the host");
                }
                add("-device", format!("virtio-rng-device,{place}"));
            }
            VirtioKind::Console { id } => {
                reasons.add(id, "QEMU's virtio console is another device than Ferry's");
            }
            VirtioKind::Net { id, .. } => {
                reasons.add(id, "QEMU's virtio network device is another one than Ferry's");
            }
        }
    }
    add("-incoming", host.incoming.to_owned());
    if reasons.0.is_empty() { Ok(Exported { arguments, notes }) } else { Err(ExportError(reasons)) }
}

/// A file's name as QEMU takes it for one, and not for an image behind a protocol.
fn file_name(id: &str, path: &Path, reasons: &mut Reasons) -> String {
    let Some(name) = path.to_str() else {
        reasons.add(id, format!("QEMU's options cannot name {}", path.display()));
        return String::new();
    };
    if name.starts_with('/') { name.to_owned() } else { format!("./{name}") }
}

/// A value among a QEMU option's: there a comma is written twice.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

/// A word as a shell reads it.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn microvm() -> MachineConfig {
        let mut config = MachineConfig::new("web", [0x11; 16], 128 << 20);
        (config.machine_type, config.hpet) = (MachineType::Microvm, false);
        config.cpus.count = 2;
        config.virtio_interface = VirtioInterface::Legacy;
        let block = |id: &str, serial: &str, read_only| VirtioKind::Block {
            id: id.into(),
            serial: serial.into(),
            sectors: 8,
            read_only,
        };
        config.plug(block("disk0", "a,b c'd", false)).unwrap();
        config.virtio.push(VirtioDevice { slot: 7, kind: block("disk1", "", true) });
        let rng = VirtioKind::Rng { id: "rng0".into(), source: RngSource::Host };
        config.plug(rng).unwrap();
        config
    }

    fn exported(config: &MachineConfig) -> Result<Exported, ExportError> {
        let disks = BTreeMap::from([("disk0".to_owned(), PathBuf::from("my, disk:0.img"))]);
        export(config, &HostSide { disks: &disks, incoming: "tcp:127.0.0.1:4444" })
    }

    #[test]
    fn a_microvm_is_a_command_line() {
        let expected = "\
# The TSC of the host where it runs has to have 1000000 kHz.
# Put the file of disk1 in the place of FILE-OF-disk1.
qemu-system-x86_64 \\
  -M microvm,x-option-roms=off,pit=on,pic=on,rtc=on,isa-serial=on \\
  -accel tcg \\
  -cpu qemu64 \\
  -m 131072K \\
  -smp cpus=2,sockets=1,cores=2,threads=1 \\
  -name guest=web \\
  -uuid 11111111-1111-1111-1111-111111111111 \\
  -nodefaults \\
  -no-user-config \\
  -nographic \\
  -serial stdio \\
  -global virtio-mmio.force-legacy=on \\
  -drive 'id=drive-disk0,if=none,format=raw,file=./my,, disk:0.img' \\
  -device 'virtio-blk-device,drive=drive-disk0,id=disk0,bus=virtio-mmio-bus.23,serial=a,,b c'\\''d' \\
  -drive id=drive-disk1,if=none,format=raw,readonly=on,file=FILE-OF-disk1 \\
  -device virtio-blk-device,drive=drive-disk1,id=disk1,bus=virtio-mmio-bus.7 \\
  -device virtio-rng-device,id=rng0,bus=virtio-mmio-bus.6 \\
  -incoming tcp:127.0.0.1:4444";
        assert_eq!(exported(&microvm()).unwrap().command_line(), expected);
    }

    #[test]
    fn what_qemu_has_not_is_named_all_at_once() {
        let mut config = MachineConfig::new("web", [0; 16], 4096 * 33);
        config.clock = ClockMode::Icount { shift: 0 };
        config.cpus.model = "pentium".to_owned();
        let source = RngSource::Seeded { seed: 1 };
        config.plug(VirtioKind::Rng { id: "0rng".into(), source }).unwrap();
        config.plug(VirtioKind::Console { id: "con0".into() }).unwrap();
        let mac = [2, 0, 0, 0, 0, 1];
        config.plug(VirtioKind::Net { id: "net0".into(), mac }).unwrap();
        let ExportError(Reasons(reasons)) = exported(&config).unwrap_err();
        let subjects: Vec<&str> = reasons.iter().map(|reason| reason.subject.as_str()).collect();
        let expected = [
            "machine",
            "exit port",
            "hpet",
            "clock",
            "cpu",
            "memory",
            "0rng",
            "0rng",
            "con0",
            "net0",
        ];
        assert_eq!(subjects, expected);
        let error = exported(&config).unwrap_err().to_string();
        assert!(error.contains("\n  cpu: QEMU has no model that is Ferry's pentium\n"), "{error}");
        config.memory_bytes = 1;
        assert!(exported(&config).unwrap_err().to_string().contains("not a multiple of 4096"));
    }
}
