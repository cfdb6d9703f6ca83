//! A real QEMU with a Linux guest that says what it does, and tells of all that goes wrong.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);
/// QEMU ends by itself after so many seconds, whatever became of the test.
const LIFETIME: &str = "1200";

/// Bytes a second that a migration does not come to.
const UNLIMITED: u64 = 100_000_000_000;

/// A QEMU's process, with its monitor and its guest's serial port.
pub struct Qemu {
    child: Child,
    monitor: BufReader<UnixStream>,
    serial: UnixStream,
    folder: PathBuf,
    socket: PathBuf,
}

/// Whether Debian's `qemu-system-x86` is there; where it is not, says so.
///
/// # Panics
/// If it is not installed where CI is set.
pub fn has_qemu() -> bool {
    let version = Command::new("qemu-system-x86_64").arg("--version").output();
    let found = version.is_ok_and(|of| of.status.success());
    if !found {
        assert!(std::env::var_os("CI").is_none(), "the package qemu-system-x86 is needed");
        eprintln!("left out: the package qemu-system-x86 is not installed");
    }
    found
}

/// Whether a migration has come to an end, by what the monitor says of it.
fn is_over(answer: &Value) -> bool {
    matches!(answer["status"].as_str(), Some("completed" | "failed" | "cancelled"))
}

fn connect(path: &Path) -> UnixStream {
    let end = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) if Instant::now() > end => panic!("{}: {error}", path.display()),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

impl Qemu {
    /// Starts one. Its sockets and what it says on its standard error are in the folder.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(folder: &Path, name: &str, arguments: &[String]) -> Self {
        let path = |what: &str| folder.join(format!("{name}.{what}"));
        let (monitor, serial) = (path("monitor"), path("serial"));
        let _ = fs::remove_file(&monitor);
        let _ = fs::remove_file(&serial);
        let errors = fs::File::create(path("stderr")).expect("there is room for a file");
        let child = Command::new("timeout")
            .args([LIFETIME, "qemu-system-x86_64", "-serial"])
            .arg(format!("unix:{},server=on,wait=off", serial.display()))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()))
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("a process can be started");
        let serial = connect(&serial);
        serial.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit can be set");
        let socket = monitor.clone();
        let monitor = BufReader::new(connect(&monitor));
        monitor.get_ref().set_read_timeout(Some(PATIENCE)).expect("a limit can be set");
        let mut qemu = Self { child, monitor, serial, folder: path("stderr"), socket };
        let mut greeting = String::new();
        qemu.monitor.read_line(&mut greeting).expect("its monitor speaks first");
        qemu.ask("qmp_capabilities", json!({}));
        // One monitor serves one client at a time; whoever wants to ask too finds it free.
        qemu
    }

    /// Where its monitor is.
    pub fn monitor(&self) -> &Path {
        &self.socket
    }

    /// Gives the monitor to somebody else while `other` runs.
    ///
    /// # Panics
    /// If it cannot be had again.
    pub fn lend_monitor<T>(&mut self, other: impl FnOnce(&Path) -> T) -> T {
        let _ = self.monitor.get_ref().shutdown(std::net::Shutdown::Both);
        let (nobody, _) = UnixStream::pair().expect("sockets can be had");
        self.monitor = BufReader::new(nobody);
        let given = other(&self.socket);
        self.monitor = BufReader::new(connect(&self.socket));
        self.monitor.get_ref().set_read_timeout(Some(PATIENCE)).expect("a limit can be set");
        let mut greeting = String::new();
        self.monitor.read_line(&mut greeting).expect("its monitor speaks first");
        self.ask("qmp_capabilities", json!({}));
        given
    }

    /// Asks its monitor.
    ///
    /// # Panics
    /// If the answer is an error.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.monitor.get_mut(), "{request}").expect("it hears");
        loop {
            let mut line = String::new();
            self.monitor.read_line(&mut line).expect("it answers");
            let answer: Value = serde_json::from_str(&line)
                .unwrap_or_else(|error| panic!("{command}: {error}: {line:?}; {}", self.errors()));
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            if let Some(answer) = answer.get("return") {
                return answer.clone();
            }
        }
    }

    /// Sends a line to its guest's serial port.
    ///
    /// # Panics
    /// If it cannot.
    pub fn type_line(&mut self, line: &str) {
        self.serial.write_all(format!("{line}\n").as_bytes()).expect("the serial port is there");
    }

    /// What its guest has said since the last call; waits a moment if that is nothing.
    pub fn hear(&mut self) -> String {
        let mut bytes = [0; 16384];
        match self.serial.read(&mut bytes) {
            Ok(count) => String::from_utf8_lossy(&bytes[..count]).into_owned(),
            Err(_) => String::new(),
        }
    }

    /// Everything it has said on its standard error.
    pub fn errors(&self) -> String {
        fs::read_to_string(&self.folder).unwrap_or_default()
    }

    /// What it is doing, as its monitor says.
    pub fn state(&mut self) -> String {
        self.ask("query-status", json!({}))["status"].as_str().unwrap_or_default().to_owned()
    }

    /// Turns a capability of migration on.
    pub fn enable(&mut self, capability: &str) {
        let on = json!({ "capabilities": [{ "capability": capability, "state": true }] });
        self.ask("migrate-set-capabilities", on);
    }

    /// The TCP port at which it waits for a migration, if it was told to wait at port 0.
    ///
    /// # Panics
    /// If it does not wait.
    pub fn incoming_port(&mut self) -> u16 {
        let answer = self.ask("query-migrate", json!({}));
        let port = answer["socket-address"][0]["port"].as_str().and_then(|port| port.parse().ok());
        port.unwrap_or_else(|| panic!("it waits for no migration: {answer}"))
    }

    /// Begins to migrate, as fast as it goes.
    pub fn migrate(&mut self, uri: &str) {
        self.ask("migrate-set-parameters", json!({ "max-bandwidth": UNLIMITED }));
        self.ask("migrate", json!({ "uri": uri }));
    }

    /// Begins to migrate, and lets QEMU stop the guest only once it has sent memory in some rounds,
    /// as over a slow link. A guest that stands still already has one round.
    ///
    /// # Panics
    /// If it comes to no end.
    pub fn migrate_in_rounds(&mut self, uri: &str) {
        const ROUNDS: u64 = 5;
        let slowly = json!({ "max-bandwidth": 300_000_000, "downtime-limit": 1 });
        self.ask("migrate-set-parameters", slowly);
        self.ask("migrate", json!({ "uri": uri }));
        self.wait_for_migration(|answer| {
            // It counts how often it has looked which pages were written.
            is_over(answer) || answer["ram"]["dirty-sync-count"].as_u64() >= Some(ROUNDS)
        });
        let on = json!({ "max-bandwidth": UNLIMITED, "downtime-limit": 2000 });
        self.ask("migrate-set-parameters", on);
    }

    /// Waits for a migration to end, and gives what its monitor says of it.
    ///
    /// # Panics
    /// If it does not end.
    pub fn migrated(&mut self) -> Value {
        self.wait_for_migration(is_over)
    }

    fn wait_for_migration(&mut self, until: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask("query-migrate", json!({}));
            if until(&answer) {
                return answer;
            }
            assert!(Instant::now() < end, "{answer}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it.
    pub fn quit(mut self) {
        let _ = writeln!(self.monitor.get_mut(), "{{\"execute\":\"quit\"}}");
        let _ = self.child.wait();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = writeln!(self.monitor.get_mut(), "{{\"execute\":\"quit\"}}");
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A microvm that Ferry's machine of that name is like. `legacy`: the interface of its virtio
/// slots.
pub struct Microvm<'a> {
    /// Number of CPUs.
    pub cpus: u32,
    /// QEMU's name of the CPU model.
    pub cpu: &'a str,
    /// Memory in MiB.
    pub memory: u32,
    /// Whether the virtio slots have the legacy interface.
    pub legacy: bool,
    /// A file that backs a disk.
    pub disk: &'a Path,
    /// Folder of the guest's kernel (`vmlinuz`) and initial RAM disk (`initrd.gz`).
    pub guest: &'a Path,
}

impl Microvm<'_> {
    /// QEMU's arguments.
    ///
    /// # Errors
    /// If the host does not say how fast its processor is.
    pub fn arguments(&self) -> io::Result<Vec<String>> {
        // Linux finds no timer on this board to measure its time-stamp counter by.
        let info = fs::read_to_string("/proc/cpuinfo")?;
        let mhz = info.lines().find_map(|line| line.strip_prefix("cpu MHz")?.split(": ").nth(1));
        let mhz: f64 = mhz.and_then(|mhz| mhz.parse().ok()).unwrap_or_default();
        let drive = format!("id=d,file={},format=raw,if=none", self.disk.display());
        let append = format!(
            "console=ttyS0 quiet panic=-1 tsc_early_khz={} tsc=reliable",
            (mhz * 1000.0) as u64
        );
        let path = |name: &str| self.guest.join(name).display().to_string();
        let legacy = if self.legacy { "true" } else { "false" };
        Ok([
            &["-M", "microvm,x-option-roms=off,pit=on,pic=on,rtc=on,isa-serial=on"][..],
            &["-accel", "tcg", "-cpu", self.cpu, "-m", &self.memory.to_string()],
            &[
                "-name",
                "guest",
                "-smp",
                &self.cpus.to_string(),
                "-nodefaults",
                "-no-user-config",
                "-nographic",
            ],
            &["-global", &format!("virtio-mmio.force-legacy={legacy}"), "-drive", &drive],
            &["-device", "virtio-blk-device,drive=d", "-device", "virtio-rng-device"],
            &["-kernel", &path("vmlinuz"), "-initrd", &path("initrd.gz"), "-append", &append],
        ]
        .concat()
        .iter()
        .map(|argument| (*argument).to_owned())
        .collect())
    }
}

/// What a guest does, given to its shell line by line: digests of one text, which must always be
/// the same, and of what its disk gives back; each round it says `tick`, its uptime in seconds and
/// the number of rounds. It ends once `/tmp/stop` is there.
pub const WORK: [&str; 2] = [
    "stty -echo; good=$(sha256sum </bin/busybox); n=0",
    "while [ ! -e /tmp/stop ]; do [ \"$(sha256sum </bin/busybox)\" = \"$good\" ] || \
     echo WR''ONG digest; echo $n >/tmp/n; dd if=/tmp/n of=/dev/vda bs=512 seek=$((n%1000)) \
     conv=sync,notrunc 2>/dev/null; sync; echo 3 >/proc/sys/vm/drop_caches; \
     read m <<X\n$(dd if=/dev/vda bs=512 skip=$((n%1000)) count=1 2>/dev/null | tr -d '\\0')\nX\n\
     [ \"$m\" = $n ] || echo WR''ONG disk; n=$((n+1)); \
     echo ti''ck $(cut -d. -f1 /proc/uptime) $n; done &",
];

/// Ends the guest's work, and has it say what its kernel complains of.
pub const CHECK: &str = "touch /tmp/stop; wait; dmesg -s 9999999 | grep -iE \
                         'error|BUG|stall|unstable|oops'; echo al''l done";

/// Words that no guest may say.
pub const BAD: [&str; 8] =
    ["WRONG", "BUG", "stall", "Oops", "unstable", "I/O error", "panic", "segfault"];
