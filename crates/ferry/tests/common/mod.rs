//! Hosts that are folders, and processes on them.

#![allow(dead_code, reason = "each test program uses its part")]

pub mod linux;
pub mod relay;

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

/// The accelerators that run the embedded guest here. Says which was tried, and why not KVM.
pub fn accelerators(what: &str) -> Vec<&'static str> {
    match vmm::probe_kvm().tier() {
        None => {
            println!("no kvm that runs guests: {what} on kvm not run");
            vec!["soft"]
        }
        Some(tier) => {
            println!("kvm tier {tier:?}: {what} on kvm ran");
            vec!["soft", "kvm"]
        }
    }
}

/// A host of its own: a folder for its sockets and files.
pub struct Host {
    pub folder: PathBuf,
    /// What runs guests here.
    accel: &'static str,
}

impl Host {
    pub fn new(name: &str) -> Self {
        Self::on(name, "soft")
    }

    /// A host with an accelerator.
    pub fn on(name: &str, accel: &'static str) -> Self {
        let own = format!("ferry-test-{}-{name}-{accel}", std::process::id());
        let folder = std::env::temp_dir().join(own);
        fs::create_dir_all(&folder).unwrap();
        Self { folder, accel }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferry"));
        command
            .args(arguments)
            .env("XDG_RUNTIME_DIR", &self.folder)
            .env("XDG_STATE_HOME", self.folder.join("state"))
            .stdin(Stdio::null());
        command
    }

    pub fn ferry(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub fn start(&self, arguments: &[&str]) -> Running {
        let mut child =
            self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines, next: None }
    }

    /// How the embedded guest is started here.
    pub fn run<'a>(&self, more: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["run", "--guest", "--name", "vm", "--memory", "8M", "--pause", "20"];
        all.extend(["--accel", self.accel]);
        if self.accel == "kvm" {
            // What not every KVM can promise.
            all.extend(["--no-promise-tsc", "--no-promise-cpuid"]);
        }
        all.extend(more);
        all
    }

    pub fn guest(&self) -> Running {
        self.start(&self.run(&[]))
    }

    /// A receiver, and where it listens.
    pub fn receiver(&self, arguments: &[&str]) -> (Running, String) {
        let all = ["receive", "tcp:127.0.0.1:0", "--accel", self.accel];
        let mut receiver = self.start(&[&all, arguments].concat());
        let address = receiver.line("listening at ").replace("listening at ", "");
        (receiver, address)
    }

    /// What a machine of this host is doing, as `ferry ps` says; `None` if it is not there.
    pub fn state(&self, name: &str) -> Option<String> {
        let listed = text(&self.ferry(&["ps"]));
        let line = listed.lines().find(|line| line.split_whitespace().next() == Some(name))?;
        line.split_whitespace().nth(1).map(str::to_owned)
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A process that runs until it ends or is dropped.
pub struct Running {
    pub child: Child,
    pub lines: Lines<BufReader<ChildStdout>>,
    /// A round that is known to be the next.
    next: Option<u64>,
}

/// What the end of each line has that the guest prints of a round.
const END_OF_ROUND: &str = ", tsc 0x";

impl Running {
    /// The next line with this in it.
    pub fn line(&mut self, with: &str) -> String {
        self.lines
            .by_ref()
            .map(|line| line.unwrap())
            .find(|line| line.contains(with))
            .unwrap_or_else(|| panic!("it ended without {with:?}"))
    }

    /// Waits for it to fail, and gives what it said of it.
    pub fn failure(&mut self) -> String {
        assert!(!self.child.wait().unwrap().success());
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// The number of the next round that the guest tells of. A line may begin at a source; it is
    /// this process's if it ends here.
    pub fn round(&mut self) -> u64 {
        if let Some(next) = self.next.take() {
            return next;
        }
        if let Some(round) = round(&self.line(END_OF_ROUND)) {
            return round;
        }
        let next = round(&self.line(END_OF_ROUND)).expect("a whole line follows");
        self.next = Some(next);
        next - 1
    }

    /// The last round that the guest told of at a process that has ended, if it did since what
    /// was read.
    pub fn last_round(&mut self) -> Option<u64> {
        let lines = self.lines.by_ref().map(|line| line.unwrap());
        lines.filter(|line| line.contains(END_OF_ROUND)).last().map(|line| round(&line).unwrap())
    }
}

/// The number in a line that the guest prints of a round, if its beginning is there.
fn round(line: &str) -> Option<u64> {
    line.strip_prefix("round ")?.split(':').next()?.parse().ok()
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that a command said.
pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
