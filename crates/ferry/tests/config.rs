//! The configuration of machines between Ferry and a QEMU that is installed.

mod common;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Host, text};
use machine::{DeviceFile, MachineFile, VirtioInterface};

/// How long QEMU may take to listen on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const MICROVM: &str = "microvm,x-option-roms=off,pit=on,pic=on,rtc=on,isa-serial=on";
const COMMON: [&str; 9] = [
    "-accel",
    "tcg",
    "-m",
    "64",
    "-nodefaults",
    "-no-user-config",
    "-nographic",
    "-serial",
    "null",
];

/// Whether QEMU is there. Where it has to be (`CI`), it is an error if it is not.
fn installed() -> bool {
    let version = Command::new("qemu-system-x86_64").arg("--version").output();
    if version.is_ok_and(|of| of.status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "qemu-system-x86_64 is not installed");
    eprintln!("left out: qemu-system-x86_64 (package qemu-system-x86) is not installed");
    false
}

/// A QEMU whose guest does not run.
struct Qemu {
    child: Child,
    monitor: PathBuf,
}

impl Qemu {
    fn start(host: &Host, arguments: &[&str]) -> Self {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(COMMON).args(arguments);
        Self::spawn(host, command, "")
    }

    /// One whose command line a shell reads.
    fn start_by_shell(host: &Host, line: &str) -> Self {
        Self::spawn(host, Command::new("sh"), line)
    }

    fn spawn(host: &Host, mut command: Command, line: &str) -> Self {
        let monitor = host.folder.join("monitor");
        let _ = fs::remove_file(&monitor);
        let own = format!("unix:{},server=on,wait=off", monitor.display());
        if line.is_empty() {
            command.args(["-S", "-qmp", &own]);
        } else {
            let (notes, program) = line.split_at(line.find("qemu-system").unwrap());
            command.args(["-c", &format!("{notes}exec {program} -S -qmp {own}")]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let mut qemu = Self { child, monitor };
        let end = Instant::now() + PATIENCE;
        while UnixStream::connect(&qemu.monitor).is_err() {
            let status = qemu.child.try_wait().unwrap();
            assert!(status.is_none() && Instant::now() < end, "QEMU does not listen: {status:?}");
            thread::sleep(Duration::from_millis(20));
        }
        qemu
    }

    /// What `ferry import-config` says, and whether it went well.
    fn import(&self, host: &Host, more: &[&str]) -> (bool, String) {
        let monitor = self.monitor.display().to_string();
        let output = host.ferry(&[&["import-config", "--qmp", &monitor][..], more].concat());
        assert!(output.status.success() || output.stdout.is_empty());
        (output.status.success(), text(&output))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn disk(host: &Host, name: &str) -> String {
    let path = host.path(name);
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    path
}

/// What `ferry export-config` says of a machine file's machine.
fn export(host: &Host, file: &str, more: &[&str]) -> (bool, String) {
    let path = host.path("guest.toml");
    fs::write(&path, file).unwrap();
    let command = ["export-config", "--qemu", "--machine", &path, "--incoming", "defer"];
    let output = host.ferry(&[&command[..], more].concat());
    (output.status.success(), text(&output))
}

#[test]
fn a_machine_goes_to_ferry_and_back_as_the_same() {
    if !installed() {
        return;
    }
    for (name, cpus, legacy) in
        [("one-legacy", 1, true), ("one", 1, false), ("two-legacy", 2, true), ("two", 2, false)]
    {
        let host = Host::new(&format!("config-{name}"));
        let image = disk(&host, "it's, a disk");
        let drive = format!("id=d,if=none,format=raw,file={}", image.replace(',', ",,"));
        let smp = cpus.to_string();
        let interface = format!("virtio-mmio.force-legacy={legacy}");
        let qemu = Qemu::start(
            &host,
            &[
                &["-M", MICROVM, "-cpu", "qemu64", "-smp", &smp, "-global", &interface][..],
                &["-name", "web", "-uuid", "00112233-4455-6677-8899-aabbccddeeff"],
                &["-drive", &drive, "-device", "virtio-blk-device,drive=d,serial=A,,1 b"],
                &["-device", "virtio-rng-device,id=entropy"],
            ]
            .concat(),
        );
        let (well, file) = qemu.import(&host, &["--tsc-khz", "2500000"]);
        assert!(well, "{file}");
        drop(qemu);
        let found = MachineFile::from_toml(&file).unwrap();
        assert_eq!(found.machine_type.as_deref(), Some("microvm"));
        assert_eq!(found.name.as_deref(), Some("web"));
        assert_eq!(found.uuid.as_deref(), Some("00112233-4455-6677-8899-aabbccddeeff"));
        assert_eq!(found.memory.as_deref(), Some("64M"));
        assert_eq!(found.cpu.model.as_deref(), Some("qemu64"));
        assert_eq!((found.cpu.count, found.cpu.tsc_khz), (Some(cpus), Some(2_500_000)));
        let interface = if legacy { VirtioInterface::Legacy } else { VirtioInterface::Modern };
        assert_eq!(found.virtio, Some(interface));
        let expected = [
            DeviceFile::Block {
                id: "disk0".to_owned(),
                serial: "A,1 b".to_owned(),
                size: Some("1M".to_owned()),
                read_only: false,
                slot: None,
            },
            DeviceFile::Rng { id: "entropy".to_owned(), seed: None, slot: None },
        ];
        assert_eq!(found.devices, expected);
        assert!(file.contains(&format!("# - disk0 is QEMU's {}", image.escape_debug())), "{file}");

        let (well, line) = export(&host, &file, &["--disk", &image]);
        assert!(well, "{line}");
        let qemu = Qemu::start_by_shell(&host, line.trim_end());
        let (well, again) = qemu.import(&host, &["--tsc-khz", "2500000"]);
        assert!(well, "{again}");
        assert_eq!(again, file);
    }
}

#[test]
fn slots_with_gaps_and_read_only_disks_stay_as_they_are() {
    if !installed() {
        return;
    }
    let host = Host::new("config-gaps");
    let (first, second) = (disk(&host, "first"), disk(&host, "second"));
    let first_drive = format!("driver=file,node-name=a,filename={first},read-only=on");
    let second_drive = format!("id=b,if=none,format=raw,file={second}");
    let qemu = Qemu::start(
        &host,
        &[
            // Some of it lies above 4 GiB.
            "-m",
            "3200",
            "-M",
            MICROVM,
            "-cpu",
            "qemu64",
            "-blockdev",
            &first_drive,
            "-drive",
            &second_drive,
            "-device",
            "virtio-blk-device,drive=a,id=root,bus=virtio-mmio-bus.2",
            "-device",
            "virtio-rng-device,bus=virtio-mmio-bus.22",
            "-device",
            "virtio-blk-device,drive=b,id=data,bus=virtio-mmio-bus.1",
        ],
    );
    let (well, file) = qemu.import(&host, &["--tsc-khz", "2500000", "--name", "gaps"]);
    assert!(well, "{file}");
    drop(qemu);
    let found = MachineFile::from_toml(&file).unwrap();
    assert_eq!(found.name.as_deref(), Some("gaps"));
    assert_eq!(found.memory.as_deref(), Some("3200M"));
    let places: Vec<_> = found
        .devices
        .iter()
        .map(|device| match device {
            DeviceFile::Block { id, read_only, slot, .. } => (id.as_str(), *read_only, *slot),
            DeviceFile::Rng { id, slot, .. } => (id.as_str(), false, *slot),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [("rng0", false, Some(22)), ("root", true, Some(2)), ("data", false, None)];
    assert_eq!(places, expected);
    let disks = [format!("root={first}"), format!("data={second}")];
    let (well, line) = export(&host, &file, &["--disk", &disks[0], "--disk", &disks[1]]);
    assert!(well, "{line}");
    let qemu = Qemu::start_by_shell(&host, line.trim_end());
    let (well, again) = qemu.import(&host, &["--tsc-khz", "2500000"]);
    assert!(well, "{again}");
    // QEMU says less of how it came by a name and a UUID, once it is told them.
    assert_eq!(MachineFile::from_toml(&again), Ok(found));
}

#[test]
fn a_machine_as_qemu_builds_it_if_told_little_gets_a_name_a_uuid_and_a_frequency() {
    if !installed() {
        return;
    }
    let host = Host::new("config-little");
    let qemu = Qemu::start(&host, &["-M", MICROVM, "-cpu", "Nehalem", "-smp", "4"]);
    let (well, file) = qemu.import(&host, &[]);
    assert!(well, "{file}");
    for note in ["QEMU has no name for it", "this one is new", "tsc-khz: measured"] {
        assert!(file.contains(note), "{note} is not in\n{file}");
    }
    let found = MachineFile::from_toml(&file).unwrap();
    assert_eq!((found.cpu.model.as_deref(), found.cpu.count), (Some("Nehalem"), Some(4)));
    assert!(found.cpu.tsc_khz.unwrap() > 100_000, "{file}");
    let (_, again) = qemu.import(&host, &[]);
    assert_ne!(again, file, "a UUID that was made up is new each time");
    drop(qemu);
    let (well, line) = export(&host, &file, &[]);
    assert!(well, "{line}");
    let qemu = Qemu::start_by_shell(&host, line.trim_end());
    let khz = found.cpu.tsc_khz.unwrap().to_string();
    let (well, again) = qemu.import(&host, &["--tsc-khz", &khz]);
    assert!(well, "{again}");
    assert_eq!(MachineFile::from_toml(&again), Ok(found));
}

#[test]
fn a_machine_that_ferry_has_not_is_refused_with_every_reason() {
    if !installed() {
        return;
    }
    let host = Host::new("config-refused");
    let no_pit = MICROVM.replace("pit=on", "pit=off");
    let no_acpi = format!("{MICROVM},acpi=off");
    let image = disk(&host, "image");
    let drive = format!("id=d,if=none,format=raw,file={image}");
    let cases: [(&[&str], &[&str]); 8] = [
        (&["-M", "q35"], &["machine: its type is pc-q35-7.2, and has to be microvm"]),
        (
            &["-M", MICROVM, "-cpu", "qemu64", "-device", "virtio-serial-device,id=con"],
            &["con: Ferry's microvm has no virtio-serial-device"],
        ),
        (
            &["-M", MICROVM, "-cpu", "qemu64", "-device", "isa-debug-exit"],
            &["isa-debug-exit: Ferry's microvm has no isa-debug-exit"],
        ),
        (
            &["-M", &no_pit, "-cpu", "qemu64"],
            &["machine: pit is \"off\"", "isa-pit: QEMU has 0 of them"],
        ),
        (
            &["-M", &no_acpi, "-cpu", "qemu64"],
            &["machine: acpi is \"off\"", "acpi-ged-x86: ", "virtio-mmio: QEMU has 8 of them"],
        ),
        (
            &["-M", "microvm,usb=on,pcie=on", "-cpu", "max", "-m", "64,slots=2,maxmem=1G"],
            &[
                "usb is true",
                "pcie is \"on\"",
                "x-option-roms is true",
                "memory: more of it can be plugged",
                "cpu: Ferry has no model \"max\"",
                "sysbus-xhci: Ferry's microvm has no such device",
                "gpex-pcihost: Ferry's microvm has no such device",
            ],
        ),
        (
            &["-M", MICROVM, "-cpu", "qemu64,+aes,-nx", "-smp", "1,maxcpus=2"],
            &["has the feature aes", "has no feature nx", "cpus: 1 are there and 2 can be"],
        ),
        (
            &[
                "-M",
                MICROVM,
                "-cpu",
                "qemu64",
                "-drive",
                &drive,
                "-device",
                "virtio-blk-device,id=root,drive=d,num-queues=2,queue-size=128,discard=off,\
                 logical_block_size=4096,physical_block_size=4096,packed=on",
            ],
            &[
                "root: num-queues is 2, and has to be 1",
                "root: queue-size is 128",
                "root: discard is false",
                "root: logical_block_size is 4096",
                "root: packed is true",
            ],
        ),
    ];
    for (arguments, expected) in cases {
        let qemu = Qemu::start(&host, arguments);
        let (well, reasons) = qemu.import(&host, &["--tsc-khz", "2500000"]);
        assert!(!well, "{arguments:?}: {reasons}");
        for reason in expected {
            assert!(reasons.contains(reason), "{arguments:?}: {reason} is not in\n{reasons}");
        }
    }
}

#[test]
fn what_is_no_monitor_is_said() {
    let host = Host::new("config-monitor");
    for monitor in ["/nonexistent/monitor", "tcp:127.0.0.1:1"] {
        let output = host.ferry(&["import-config", "--qmp", monitor]);
        assert!(!output.status.success());
        let said = text(&output);
        assert!(said.contains("no monitor of QEMU's") && said.contains(monitor), "{said}");
    }
}

#[test]
fn a_machine_that_qemu_has_not_is_refused_with_every_reason() {
    let host = Host::new("config-export");
    let mut running = host.guest();
    running.round();
    let output = host.ferry(&["export-config", "vm", "--qemu"]);
    let said = text(&output);
    assert!(!output.status.success() && output.stdout.is_empty());
    let reasons = ["QEMU has no machine type ferry-1", "exit port: ", "hpet: QEMU's microvm has"];
    for reason in reasons {
        assert!(said.contains(reason), "{reason} is not in\n{said}");
    }
    assert!(host.ferry(&["quit", "vm"]).status.success());
    assert!(running.child.wait().unwrap().success());
    let gone = host.ferry(&["export-config", "vm", "--qemu"]);
    assert!(text(&gone).contains("there is no machine vm"), "{}", text(&gone));

    let without = host.ferry(&["export-config", "vm"]);
    assert!(!without.status.success() && text(&without).contains("--qemu"), "{}", text(&without));
    let file = "type = \"microvm\"\n[[device]]\nkind = \"console\"\nid = \"con0\"";
    let (well, said) = export(&host, file, &[]);
    assert!(!well && said.contains("con0"), "{said}");
    let file = "type = \"microvm\"\n[[device]]\nkind = \"block\"\nid = \"disk0\"\nsize = \"1M\"";
    let (well, said) = export(&host, file, &[]);
    assert!(well && said.contains("FILE-OF-disk0") && said.contains("-incoming defer"), "{said}");
    let (well, said) = export(&host, file, &["--disk", "disk7=x"]);
    assert!(!well && said.contains("the machine has no disk disk7"), "{said}");
}
