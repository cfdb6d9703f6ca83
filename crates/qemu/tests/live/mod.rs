//! A Linux guest under a QEMU that is installed.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use machine::{MachineConfig, VirtioInterface};
use qemu::PAGE_SIZE;

use crate::common::Memory;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

pub fn wall_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

/// All memory of a stream, page by page.
#[derive(Default)]
pub struct Store {
    pub blocks: Vec<(String, u64)>,
    pub pages: BTreeMap<(usize, u64), Box<[u8; PAGE_SIZE]>>,
}

impl Store {
    pub fn used_index(&self, ring: u64) -> Option<u16> {
        let page = self.pages.get(&(0, ring & !0xfff))?;
        let offset = (ring & 0xfff) as usize;
        Some(u16::from_le_bytes([page[offset + 2], page[offset + 3]]))
    }
}

impl Memory for Store {
    fn blocks(&mut self, blocks: &[(String, u64)]) {
        self.blocks = blocks.to_vec();
    }

    fn write(&mut self, block: usize, offset: u64, content: &[u8; PAGE_SIZE]) {
        self.pages.insert((block, offset), Box::new(*content));
    }

    fn read(&self, block: usize, offset: u64) -> [u8; PAGE_SIZE] {
        self.pages.get(&(block, offset)).map_or([0; PAGE_SIZE], |page| **page)
    }
}

/// The folder with the guest's kernel, if that and QEMU are there. Where they have to be (`CI`), it
/// is an error if they are not.
pub fn installed() -> Option<PathBuf> {
    let target = std::env::var("CARGO_TARGET_DIR")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../target").to_owned());
    let folder = PathBuf::from(target).join("linux-guest");
    let version = Command::new("qemu-system-x86_64").arg("--version").output();
    let missing = if !version.is_ok_and(|of| of.status.success()) {
        "qemu-system-x86_64 (package qemu-system-x86)"
    } else if !folder.join("vmlinuz").exists() {
        "the guest's kernel (tools/linux-guest)"
    } else {
        return Some(folder);
    };
    assert!(std::env::var_os("CI").is_none(), "{missing} is not installed");
    eprintln!("left out: {missing} is not installed");
    None
}

/// What the guest says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Its uptime.
    pub seconds: u64,
    /// Rounds of its work.
    pub rounds: u64,
}

/// A QEMU with a guest in it.
pub struct Guest {
    child: Child,
    monitor: BufReader<UnixStream>,
    serial: UnixStream,
    said: String,
    /// Where in `said` nobody has looked yet.
    looked: usize,
    folder: PathBuf,
    arguments: Vec<String>,
}

fn connect(path: &Path) -> UnixStream {
    let end = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) if Instant::now() > end => panic!("{}: {error}", path.display()),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

impl Guest {
    /// Boots Linux on this machine, and waits for its shell.
    pub fn boot(guest: &Path, name: &str, config: &MachineConfig) -> Self {
        let id = std::process::id();
        let cpus = config.cpus.count;
        let folder = std::env::temp_dir().join(format!("ferry-qemu-{id}-{name}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("disk"), vec![0; 4 << 20]).unwrap();
        // Linux finds no timer on this board to measure its time-stamp counter by.
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let line = info.lines().find(|line| line.starts_with("cpu MHz")).unwrap();
        let mhz: f64 = line.split(": ").nth(1).unwrap().parse().unwrap();
        let path = |name: &str| guest.join(name).display().to_string();
        let memory = if cpus == 2 { "192" } else { "128" };
        let drive = format!("id=d,file={},format=raw,if=none", folder.join("disk").display());
        let append = format!(
            "console=ttyS0 quiet panic=-1 tsc_early_khz={} tsc=reliable",
            (mhz * 1000.0) as u64
        );
        let force_legacy = match config.virtio_interface {
            VirtioInterface::Legacy => "virtio-mmio.force-legacy=true",
            VirtioInterface::Modern => "virtio-mmio.force-legacy=false",
        };
        let arguments: Vec<String> = [
            &["-M", "microvm,x-option-roms=off,pit=on,pic=on,rtc=on,isa-serial=on"][..],
            &["-accel", "tcg", "-cpu", "qemu64", "-m", memory, "-smp", &cpus.to_string()],
            &["-nodefaults", "-no-user-config", "-nographic"],
            &["-global", force_legacy, "-drive", &drive],
            &["-device", "virtio-blk-device,drive=d", "-device", "virtio-rng-device"],
            &["-kernel", &path("vmlinuz"), "-initrd", &path("initrd.gz"), "-append", &append],
        ]
        .concat()
        .iter()
        .map(|argument| (*argument).to_owned())
        .collect();
        let mut guest = Self::start(folder, arguments, &[]);
        guest.wait("userland after");
        guest
    }

    fn start(folder: PathBuf, arguments: Vec<String>, more: &[&str]) -> Self {
        let (monitor, serial) = (folder.join("monitor"), folder.join("serial"));
        let _ = std::fs::remove_file(&monitor);
        let _ = std::fs::remove_file(&serial);
        let child = Command::new("timeout")
            .args(["600", "qemu-system-x86_64", "-serial"])
            .arg(format!("unix:{},server=on,wait=off", serial.display()))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()))
            .args(&arguments)
            .args(more)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let serial = connect(&serial);
        serial.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let monitor = BufReader::new(connect(&monitor));
        monitor.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        let said = String::new();
        let mut guest = Self { child, monitor, serial, said, looked: 0, folder, arguments };
        let mut greeting = String::new();
        guest.monitor.read_line(&mut greeting).unwrap();
        guest.ask("qmp_capabilities", serde_json::json!({}));
        guest
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

    fn hear(&mut self) {
        let mut bytes = [0; 4096];
        if let Ok(count) = self.serial.read(&mut bytes) {
            self.said.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }

    /// Waits for the guest to say this from now on; gives the rest of the line, once it is whole.
    fn wait(&mut self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let new = &self.said[self.looked..];
            if let Some(at) = new.find(text) {
                let rest = &new[at + text.len()..];
                if let Some(length) = rest.find('\n') {
                    let line = rest[..length].trim().to_owned();
                    self.looked += at + text.len() + length;
                    return line;
                }
            }
            let tail: String = self.said.chars().rev().take(600).collect();
            let tail: String = tail.chars().rev().collect();
            assert!(Instant::now() < end, "the guest does not say {text:?}; it said {tail}");
            self.hear();
        }
    }

    fn type_line(&mut self, line: &str) {
        self.serial.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Begins the guest's work: digests of one text, which must always be the same, and of what the
    /// disk gives back.
    pub fn work(&mut self) {
        self.type_line("stty -echo; good=$(sha256sum </bin/busybox); n=0");
        self.type_line(
            "while [ ! -e /tmp/stop ]; do [ \"$(sha256sum </bin/busybox)\" = \"$good\" ] || \
             echo WR''ONG digest; echo $n >/tmp/n; dd if=/tmp/n of=/dev/vda bs=512 seek=$((n%1000)) \
             conv=sync,notrunc 2>/dev/null; sync; echo 3 >/proc/sys/vm/drop_caches; \
             read m <<X\n$(dd if=/dev/vda bs=512 skip=$((n%1000)) count=1 2>/dev/null | tr -d '\\0')\nX\n\
             [ \"$m\" = $n ] || echo WR''ONG disk; n=$((n+1)); \
             echo ti''ck $(cut -d. -f1 /proc/uptime) $n; done &",
        );
    }

    /// The next thing that the guest says of itself.
    pub fn tick(&mut self) -> Tick {
        let line = self.wait("tick ");
        let mut numbers = line.split(' ').map(|number| number.parse().unwrap());
        Tick { seconds: numbers.next().unwrap(), rounds: numbers.next().unwrap() }
    }

    /// Saves the guest, which stands still from then on.
    pub fn save(&mut self) -> Vec<u8> {
        let file = self.folder.join("stream");
        self.ask("stop", serde_json::json!({}));
        self.ask(
            "migrate-set-parameters",
            serde_json::json!({ "max-bandwidth": 10_000_000_000u64 }),
        );
        let uri = format!("exec:cat >{}", file.display());
        self.ask("migrate", serde_json::json!({ "uri": uri }));
        loop {
            let state = self.ask("query-migrate", serde_json::json!({}));
            match state["status"].as_str() {
                Some("completed") => break,
                Some("failed") => panic!("{state}"),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        std::fs::read(&file).unwrap()
    }

    /// A new QEMU that goes on from a stream.
    pub fn load(mut self, stream: &[u8]) -> Self {
        for _ in 0..3 {
            self.hear();
        }
        self.end();
        let file = self.folder.join("moved");
        std::fs::write(&file, stream).unwrap();
        let incoming = format!("exec:cat {}", file.display());
        let (said, folder) = (self.said.clone(), self.folder.clone());
        let mut next = Self::start(folder, self.arguments.clone(), &["-incoming", &incoming]);
        // A line may have been cut in two.
        next.looked = said.len();
        next.said = said;
        next
    }

    fn end(&mut self) {
        let _ = writeln!(self.monitor.get_mut(), "{{\"execute\":\"quit\"}}");
        let _ = self.child.wait();
    }

    /// Everything that the guest computed was right, and its kernel has no complaint.
    pub fn check(mut self) {
        self.type_line("touch /tmp/stop; wait; dmesg -s 9999999 | grep -iE 'error|BUG|stall|unstable|oops'; echo al''l done");
        self.wait("all done");
        let bad = ["WRONG", "BUG", "stall", "Oops", "unstable", "I/O error"];
        for line in self.said.lines() {
            assert!(!bad.iter().any(|bad| line.contains(bad)), "{line}");
        }
        self.end();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = writeln!(self.monitor.get_mut(), "{{\"execute\":\"quit\"}}");
        std::thread::sleep(Duration::from_millis(100));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
