//! Hosts that are folders, and processes on them.

#![allow(dead_code, reason = "each test program uses its part")]

pub mod linux;
pub mod relay;

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

/// A host of its own: a folder for its sockets and files.
pub struct Host {
    pub folder: PathBuf,
}

impl Host {
    pub fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("ferry-test-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self { folder }
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
        Running { child, lines }
    }

    pub fn guest(&self) -> Running {
        self.start(&["run", "--guest", "--name", "vm", "--memory", "8M", "--pause", "20"])
    }

    /// A receiver, and where it listens.
    pub fn receiver(&self, arguments: &[&str]) -> (Running, String) {
        let mut receiver = self.start(&[&["receive", "tcp:127.0.0.1:0"], arguments].concat());
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
}

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

    /// The number of the next round that the guest tells of.
    pub fn round(&mut self) -> u64 {
        let line = self.line("pages ok");
        line.split([' ', ':']).nth(1).unwrap().parse().unwrap()
    }
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
