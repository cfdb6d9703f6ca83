//! One QEMU process with the guest in it.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use guest::{Line, Parameters};

use crate::elf;

const PROGRAM: &str = "qemu-system-x86_64";
/// A run that takes longer hangs, and is ended.
const TIME_LIMIT: Duration = Duration::from_secs(120);

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
pub struct Folder(PathBuf);

impl Folder {
    /// A new, empty folder.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("ferry-guest-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a temporary folder");
        Self(path)
    }

    /// A file in it, which need not exist.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, contents: &[u8]) -> String {
        fs::write(self.path(name), contents).expect("a temporary file");
        text(&self.path(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder left behind in the temporary directory is no reason to fail a test.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.to_str().expect("a plain path").to_owned()
}

impl Qemu {
    /// The `microvm` board with time counted in instructions, one a nanosecond.
    pub fn counted() -> Self {
        Self::board(MICROVM).with(&["-icount", "shift=0,sleep=off"])
    }

    /// Another board; time is the host's.
    pub fn board(machine: &str) -> Self {
        let fixed =
            ["-M", machine, "-accel", "tcg", "-cpu", "qemu64", "-m", "64", "-rtc", "clock=vm"];
        let quiet = ["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"];
        let exit = ["-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"];
        Self { arguments: Vec::new(), disk: false }.with(&fixed).with(&quiet).with(&exit)
    }

    /// More arguments.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// A virtio 1.0 disk of 1 MiB in the last slot: the file `disk` of the folder.
    pub fn with_disk(mut self) -> Self {
        self.disk = true;
        self
    }

    /// Starts the guest. `None`, and a line that says why, if there is no QEMU here.
    pub fn start(self, parameters: &Parameters, folder: &Folder) -> Option<Running> {
        self.start_with_vcpus(parameters, folder, parameters.vcpus)
    }

    /// The same with another number of vCPUs than the guest is told.
    pub fn start_with_vcpus(
        self,
        parameters: &Parameters,
        folder: &Folder,
        vcpus: u64,
    ) -> Option<Running> {
        if !installed() {
            return None;
        }
        let block = parameters.to_bytes().expect("good parameters");
        let kernel = folder.write("guest.elf", &elf::pvh(&guest::image(), &block));
        let mut command = Command::new(PROGRAM);
        command.args(&self.arguments);
        command.args(["-smp", &vcpus.to_string(), "-kernel", &kernel]);
        if self.disk {
            if !folder.path("disk").exists() {
                folder.write("disk", &vec![0; 1 << 20]);
            }
            let disk = text(&folder.path("disk"));
            command.args(["-global", "virtio-mmio.force-legacy=false"]);
            command.args(["-drive", &format!("id=d,file={disk},format=raw,if=none")]);
            command.args(["-device", "virtio-blk-device,drive=d"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("QEMU starts");
        let printed = BufReader::new(child.stdout.take().expect("a pipe"));
        let child = Arc::new(Mutex::new(child));
        let (finished, watched) = channel();
        let watch = Arc::clone(&child);
        thread::spawn(move || watch_time(&watch, &watched));
        Some(Running { child, printed, output: String::new(), lines: Vec::new(), finished })
    }

    /// Runs the guest to its end.
    pub fn run(self, parameters: &Parameters) -> Option<Ending> {
        let folder = Folder::new();
        Some(self.start(parameters, &folder)?.finish())
    }
}

fn watch_time(child: &Mutex<Child>, finished: &Receiver<()>) {
    if finished.recv_timeout(TIME_LIMIT) == Err(RecvTimeoutError::Timeout) {
        // Nothing to do if it has just ended by itself.
        let _ = child.lock().expect("not poisoned").kill();
    }
}

/// A running QEMU, ended when dropped.
pub struct Running {
    child: Arc<Mutex<Child>>,
    printed: BufReader<ChildStdout>,
    output: String,
    lines: Vec<Line>,
    finished: Sender<()>,
}

impl Running {
    /// The guest's next line, `None` when there is no more.
    pub fn next_line(&mut self) -> Option<Line> {
        loop {
            let mut bytes = Vec::new();
            self.printed.read_until(b'\n', &mut bytes).expect("a pipe");
            if bytes.is_empty() {
                return None;
            }
            let text = String::from_utf8_lossy(&bytes);
            self.output.push_str(&text);
            if let Some(line) = Line::parse(&text) {
                self.lines.push(line);
                return Some(line);
            }
        }
    }

    /// Reads on until round `round` is done.
    pub fn until_round(&mut self, round: u64) {
        loop {
            match self.next_line() {
                Some(Line::Round(line)) if line.round == round => return,
                Some(Line::Start(_) | Line::Round(_)) => {}
                other => panic!("{other:?} before round {round}:\n{}", self.output),
            }
        }
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Ending {
        while self.next_line().is_some() {}
        let mut child = self.child.lock().expect("not poisoned");
        let mut errors = Vec::new();
        if let Some(mut pipe) = child.stderr.take() {
            pipe.read_to_end(&mut errors).expect("a pipe");
        }
        // The exit device makes QEMU end with twice the guest's code and one.
        let status = child.wait().expect("a child").code();
        drop(child);
        let printed = !self.lines.is_empty();
        let exit_code = status
            .filter(|code| code % 2 == 1 && printed)
            .and_then(|code| u8::try_from(code / 2).ok());
        let errors = String::from_utf8_lossy(&errors);
        let output = format!("{}\n{errors}\nstatus {status:?}", self.output);
        Ending { exit_code, lines: std::mem::take(&mut self.lines), output }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The watcher may be gone, and the child may have ended: both are fine.
        let _ = self.finished.send(());
        if let Ok(mut child) = self.child.lock() {
            let _ = child.kill();
            let _ = child.wait();
        }
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
