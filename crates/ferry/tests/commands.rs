//! The commands on a machine in processes of its own: status, refusals, a file, and back.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

struct Host {
    folder: PathBuf,
}

impl Host {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("ferry-test-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self { folder }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferry"));
        command.args(arguments).env("XDG_RUNTIME_DIR", &self.folder).stdin(Stdio::null());
        command
    }

    fn ferry(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn start(&self, arguments: &[&str]) -> Running {
        let mut child =
            self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines }
    }

    fn guest(&self) -> Running {
        self.start(&["run", "--guest", "--name", "vm", "--memory", "8M", "--pause", "20"])
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// The next line with this in it.
    fn line(&mut self, with: &str) -> String {
        self.lines
            .by_ref()
            .map(|line| line.unwrap())
            .find(|line| line.contains(with))
            .unwrap_or_else(|| panic!("it ended without {with:?}"))
    }

    /// The number of the next round that the guest tells of.
    fn round(&mut self) -> u64 {
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

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_machine_is_listed_paused_saved_inspected_and_restored() {
    let host = Host::new("file");
    let mut running = host.guest();
    running.round();
    let listed = text(&host.ferry(&["ps"]));
    assert!(listed.contains("vm") && listed.contains("running"), "{listed}");
    assert!(host.ferry(&["pause", "vm"]).status.success());
    assert!(text(&host.ferry(&["ps"])).contains("paused"));
    assert!(host.ferry(&["resume", "vm"]).status.success());
    let file = host.path("vm.ferry");
    let saved = host.ferry(&["migrate", "vm", &format!("file:{file}")]);
    assert!(saved.status.success(), "{}", text(&saved));
    assert!(running.child.wait().unwrap().success());
    let last = running.lines.by_ref().map(|line| line.unwrap()).filter(|l| l.contains("pages ok"));
    let last: u64 =
        last.last().map_or(1, |line| line.split([' ', ':']).nth(1).unwrap().parse().unwrap());

    let inspected = text(&host.ferry(&["inspect", &file]));
    for part in ["ferry,ferry-1", "cpu 0 version 1", "rip = ", "RAM block ram", "memory digest"] {
        assert!(inspected.contains(part), "{part} is not in\n{inspected}");
    }
    let json = host.ferry(&["inspect", "--json", &file]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["machine_type"], "ferry-1");

    let mut restored = host.start(&["restore", &format!("file:{file}")]);
    assert_eq!(restored.round(), last + 1);
    assert!(host.ferry(&["quit", "vm"]).status.success());
    assert!(restored.child.wait().unwrap().success());

    let damaged = host.path("damaged.ferry");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let refused = host.ferry(&["restore", &format!("file:{damaged}")]);
    assert!(!refused.status.success());
    assert!(text(&refused).contains("ferry: "), "{}", text(&refused));
}

#[test]
fn a_refusal_is_said_on_both_sides_and_the_guest_goes_on() {
    let (here, there) = (Host::new("here"), Host::new("there"));
    let mut source = here.guest();
    source.round();
    let limits = there.path("host.toml");
    fs::write(&limits, "memory-limit = \"4M\"\n").unwrap();
    let mut receiver = there.start(&["receive", "tcp:127.0.0.1:0", "--host", &limits]);
    let address = receiver.line("listening at ").replace("listening at ", "");
    let refused = here.ferry(&["migrate", "vm", &address]);
    assert!(!refused.status.success());
    assert!(text(&refused).contains("memory"), "{}", text(&refused));
    assert!(!receiver.child.wait().unwrap().success());
    let mut said = String::new();
    std::io::Read::read_to_string(&mut receiver.child.stderr.take().unwrap(), &mut said).unwrap();
    assert!(said.contains("memory"), "{said}");
    let round = source.round();
    assert!(source.round() > round);

    // And a receiver that offers enough takes it.
    let mut receiver = there.start(&["receive", "tcp:127.0.0.1:0"]);
    let address = receiver.line("listening at ").replace("listening at ", "");
    let moved = here.ferry(&["migrate", "vm", &address, "--downtime-limit", "2000"]);
    assert!(moved.status.success(), "{}", text(&moved));
    receiver.round();
    assert!(there.ferry(&["quit", "vm"]).status.success());
}

#[test]
fn what_is_wrong_with_a_command_line_is_said() {
    let host = Host::new("words");
    for (arguments, expected) in [
        (vec!["run"], "--kernel"),
        (vec!["run", "--guest", "--memory", "lots"], "lots"),
        (vec!["run", "--guest", "--clock", "sundial"], "sundial"),
        (vec!["run", "--guest", "--cpu", "pentium"], "pentium"),
        (vec!["run", "--kernel", "/nonexistent"], "/nonexistent"),
        (vec!["migrate", "nobody", "tcp:127.0.0.1:1"], "nobody"),
        (vec!["receive", "carrier-pigeon:1"], "carrier-pigeon"),
        (vec!["inspect", "/dev/null"], "/dev/null"),
        // It would be written to where the machine says that the disk can be.
        (vec!["run", "--guest", "--machine", "m", "--read-only-disk", "d"], "cannot be used with"),
        (vec!["receive", "tcp:127.0.0.1:0", "--read-only-disk", "d"], "--read-only-disk"),
        (vec!["restore", "file:x", "--read-only-disk", "d"], "--read-only-disk"),
    ] {
        let output = host.ferry(&arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(text(&output).contains(expected), "{arguments:?}: {}", text(&output));
    }
}
