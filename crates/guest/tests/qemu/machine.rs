//! One run of QEMU.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use guest::{Line, Parameters};

use crate::elf;

const PROGRAM: &str = "qemu-system-x86_64";

/// The board that this project's machine resembles.
pub const MICROVM: &str = "microvm,x-option-roms=off,pit=on,pic=on,rtc=on,isa-serial=on";

/// How the machine is started.
pub struct Qemu {
    arguments: Vec<String>,
    disk: bool,
}

/// How a run ended.
pub struct Ending {
    /// Exit code that the guest wrote, if it wrote one.
    pub exit_code: Option<u8>,
    /// What the guest printed, as far as it is one of its lines.
    pub lines: Vec<Line>,
    output: String,
}

impl Ending {
    /// Everything that was printed, for a failure's message.
    pub fn text(&self) -> &str {
        &self.output
    }
}

/// Files of one run, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("ferry-guest-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a temporary folder");
        Self(path)
    }

    fn file(&self, name: &str, contents: &[u8]) -> String {
        let path = self.0.join(name);
        fs::write(&path, contents).expect("a temporary file");
        path.to_str().expect("a plain path").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder left behind in the temporary directory is no reason to fail a test.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Qemu {
    /// The `microvm` board with time counted in instructions, one a nanosecond.
    pub fn counted() -> Self {
        Self::board("microvm,x-option-roms=off,pit=on,pic=on,rtc=on,isa-serial=on").with(&[
            "-icount",
            "shift=0,sleep=off",
            "-rtc",
            "clock=vm",
        ])
    }

    /// Another board; time is the host's.
    pub fn board(machine: &str) -> Self {
        let fixed = [
            "-M",
            machine,
            "-accel",
            "tcg",
            "-cpu",
            "qemu64",
            "-m",
            "64",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=1",
        ];
        Self { arguments: Vec::new(), disk: false }.with(&fixed)
    }

    /// More arguments.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// A virtio 1.0 disk of 1 MiB in the last slot.
    pub fn with_disk(mut self) -> Self {
        self.disk = true;
        self
    }

    /// Runs the guest to its end. `None`, and a line that says why, if there is no QEMU here.
    pub fn run(self, parameters: &Parameters) -> Option<Ending> {
        let folder = Folder::new();
        let block = parameters.to_bytes().expect("good parameters");
        let kernel = folder.file("guest.elf", &elf::pvh(&guest::image(), &block));
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "120", PROGRAM]).args(&self.arguments);
        command.args(["-smp", &parameters.vcpus.to_string(), "-kernel", &kernel]);
        if self.disk {
            let disk = folder.file("disk", &vec![0; 1 << 20]);
            command.args(["-global", "virtio-mmio.force-legacy=false"]);
            command.args(["-drive", &format!("id=d,file={disk},format=raw,if=none")]);
            command.args(["-device", "virtio-blk-device,drive=d"]);
        }
        if !installed() {
            return None;
        }
        let output = command.stdin(Stdio::null()).output().expect("QEMU starts");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = printed.lines().filter_map(Line::parse).collect();
        // The exit device makes QEMU end with twice the guest's code and one.
        let status = output.status.code();
        let exit_code = status
            .filter(|code| code % 2 == 1 && *code < 124)
            .and_then(|code| u8::try_from(code / 2).ok())
            .filter(|_| !printed.is_empty());
        let errors = String::from_utf8_lossy(&output.stderr);
        let output = format!("{printed}\n{errors}\nstatus {status:?}");
        Some(Ending { exit_code, lines, output })
    }
}

fn installed() -> bool {
    match Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).status() {
        Ok(status) if status.success() => true,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            assert!(std::env::var_os("CI").is_none(), "{PROGRAM} is not installed");
            println!("skipped: {PROGRAM} is not installed");
            false
        }
        other => panic!("{PROGRAM} does not run: {other:?}"),
    }
}
