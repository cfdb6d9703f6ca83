//! A QEMU that is installed, by its bus.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use machine::VirtioInterface;

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn installed() -> bool {
    let version = Command::new("qemu-system-x86_64").arg("--version").output();
    if version.is_ok_and(|of| of.status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "qemu-system-x86_64 is not installed");
    eprintln!("left out: qemu-system-x86_64 (package qemu-system-x86) is not installed");
    false
}

fn connect(path: &Path) -> BufReader<UnixStream> {
    let end = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return BufReader::new(stream);
            }
            Err(error) if Instant::now() > end => panic!("{}: {error}", path.display()),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Firmware that stops the CPU for good: `cli; hlt; jmp` back, where the CPU begins.
fn firmware() -> Vec<u8> {
    let mut bytes = vec![0; 64 << 10];
    let at = bytes.len() - 16;
    bytes[at..at + 4].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
    bytes
}

/// A QEMU whose guest does nothing: its bus is driven from here.
pub struct Qemu {
    child: Child,
    bus: BufReader<UnixStream>,
    monitor: BufReader<UnixStream>,
    folder: PathBuf,
}

impl Qemu {
    pub fn start(folder: &Path, interface: VirtioInterface, incoming: Option<&Path>) -> Self {
        let path = |name: &str| folder.join(name).display().to_string();
        for name in ["bus", "monitor"] {
            let _ = std::fs::remove_file(folder.join(name));
        }
        std::fs::write(folder.join("firmware"), firmware()).unwrap();
        let force_legacy = interface == VirtioInterface::Legacy;
        let mut command = Command::new("timeout");
        command
            .args(["300", "qemu-system-x86_64", "-accel", "tcg", "-m", "64"])
            .args(["-M", "microvm,x-option-roms=off,pit=on,pic=on,rtc=on,isa-serial=on"])
            .args(["-cpu", "qemu64", "-nodefaults", "-no-user-config", "-nographic"])
            .args(["-serial", "null", "-qtest-log", "none"])
            .arg("-bios")
            .arg(path("firmware"))
            .arg("-global")
            .arg(format!("virtio-mmio.force-legacy={force_legacy}"))
            .arg("-drive")
            .arg(format!("id=d,file={},format=raw,if=none", path("disk")))
            .args(["-device", "virtio-blk-device,drive=d", "-device", "virtio-rng-device"])
            .arg("-qtest")
            .arg(format!("unix:{},server=on,wait=off", path("bus")))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", path("monitor")))
            .stdin(Stdio::null());
        if let Some(stream) = incoming {
            command.arg("-incoming").arg(format!("exec:cat {}", stream.display()));
        }
        let child = command.spawn().unwrap();
        let (bus, monitor) = (connect(&folder.join("bus")), connect(&folder.join("monitor")));
        let mut qemu = Self { child, bus, monitor, folder: folder.to_owned() };
        qemu.monitor.read_line(&mut String::new()).unwrap();
        qemu.ask("qmp_capabilities", serde_json::json!({}));
        if incoming.is_some() {
            qemu.wait_for_migration();
            let end = Instant::now() + PATIENCE;
            while qemu.ask("query-status", serde_json::json!({}))["status"] != "running" {
                assert!(Instant::now() < end, "QEMU does not go on");
            }
        }
        qemu
    }

    fn ask(&mut self, command: &str, arguments: serde_json::Value) -> serde_json::Value {
        let request = serde_json::json!({ "execute": command, "arguments": arguments });
        writeln!(self.monitor.get_mut(), "{request}").unwrap();
        loop {
            let mut line = String::new();
            self.monitor.read_line(&mut line).unwrap();
            let answer: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            if let Some(answer) = answer.get("return") {
                return answer.clone();
            }
        }
    }

    fn wait_for_migration(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let state = self.ask("query-migrate", serde_json::json!({}));
            match state["status"].as_str() {
                Some("completed") => return,
                Some("failed") => panic!("{state}"),
                _ if Instant::now() > end => panic!("{state}"),
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    pub fn save(&mut self) -> Vec<u8> {
        let file = self.folder.join("stream");
        let uri = format!("exec:cat >{}", file.display());
        let bandwidth = serde_json::json!({ "max-bandwidth": 10_000_000_000_u64 });
        self.ask("migrate-set-parameters", bandwidth);
        self.ask("migrate", serde_json::json!({ "uri": uri }));
        self.wait_for_migration();
        std::fs::read(&file).unwrap()
    }

    /// One command to the bus; gives what the answer says behind `OK`.
    pub fn bus(&mut self, command: &str) -> String {
        writeln!(self.bus.get_mut(), "{command}").unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(self.bus.read_line(&mut line).unwrap(), 0, "{command}: QEMU has ended");
            if let Some(answer) = line.strip_prefix("OK") {
                return answer.trim().to_owned();
            }
            assert!(line.starts_with("IRQ"), "{command}: {line}");
        }
    }

    pub fn read(&mut self, address: u64, data: &mut [u8]) {
        let letter = match data.len() {
            1 => 'b',
            2 => 'w',
            _ => 'l',
        };
        let answer = self.bus(&format!("read{letter} {address:#x}"));
        let value = u64::from_str_radix(answer.trim_start_matches("0x"), 16).unwrap();
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
    }

    pub fn store(&mut self, address: u64, bytes: &[u8]) {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.bus(&format!("write {address:#x} {:#x} 0x{digits}", bytes.len()));
    }

    pub fn load(&mut self, address: u64, length: usize) -> Vec<u8> {
        let answer = self.bus(&format!("read {address:#x} {length:#x}"));
        let digits = answer.trim_start_matches("0x").as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        digits.chunks(2).map(|pair| byte(pair).unwrap()).collect()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = writeln!(self.monitor.get_mut(), "{{\"execute\":\"quit\"}}");
        let _ = self.child.wait();
    }
}
