//! A Linux guest that is moved between QEMU and Ferry, and what it says on the way.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use testkit::qemu::{BAD, CHECK, Microvm, Qemu, WORK};

use crate::common::linux::{guest_files, wanted};
use crate::common::{Host, Running, text};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);
/// Bytes of the disk.
const DISK: u64 = 4 << 20;

/// What the guest says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Its uptime.
    pub seconds: u64,
    /// Rounds of its work.
    pub rounds: u64,
}

/// How a QEMU sends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sending {
    /// Capabilities that are turned on.
    pub capabilities: &'static [&'static str],
    /// Channels of multifd.
    pub channels: u8,
}

enum Place {
    Qemu(Qemu),
    Ferry { process: Running, serial: PathBuf, read: u64 },
}

/// The guest, wherever it is.
pub struct Traveller {
    pub host: Host,
    place: Option<Place>,
    pub said: String,
    looked: usize,
    /// How QEMU is started.
    pub arguments: Vec<String>,
    processes: u32,
    last: Option<(Tick, Instant)>,
}

impl Traveller {
    /// Boots the guest under QEMU, and lets it work; nothing where something is not installed.
    pub fn boot(name: &str, cpus: u32, cpu: &str, legacy: bool) -> Option<Self> {
        Self::boot_with(name, cpus, cpu, legacy, None)
    }

    /// The same with a configuration that may name another CPU model than QEMU has.
    pub fn boot_with(
        name: &str,
        cpus: u32,
        cpu: &str,
        legacy: bool,
        said: Option<&str>,
    ) -> Option<Self> {
        let [kernel, _] = wanted(guest_files())?;
        if !testkit::qemu::has_qemu() {
            return None;
        }
        let host = Host::new(name);
        let disk = host.folder.join("disk");
        File::create(&disk).unwrap().set_len(DISK).unwrap();
        let guest = kernel.parent().unwrap();
        let memory = 128 + 64 * (cpus - 1);
        let microvm = Microvm { cpus, cpu, memory, legacy, disk: &disk, guest };
        let arguments = microvm.arguments().unwrap();
        if let Some(said) = said {
            let other = Microvm { cpu: said, ..microvm }.arguments().unwrap();
            import(&host, &mut Qemu::start(&host.folder, "other", &other));
        }
        let mut qemu = Qemu::start(&host.folder, "qemu0", &arguments);
        if said.is_none() {
            import(&host, &mut qemu);
        }
        let mut traveller = Self {
            host,
            place: Some(Place::Qemu(qemu)),
            said: String::new(),
            looked: 0,
            arguments,
            processes: 1,
            last: None,
        };
        traveller.wait("userland after");
        for line in WORK {
            traveller.qemu().type_line(line);
        }
        traveller.tick();
        Some(traveller)
    }

    pub fn qemu(&mut self) -> &mut Qemu {
        match &mut self.place {
            Some(Place::Qemu(qemu)) => qemu,
            _ => panic!("the guest is not under QEMU"),
        }
    }

    pub fn config(&self) -> String {
        self.host.path("guest.toml")
    }

    fn name(&mut self) -> String {
        self.processes += 1;
        format!("process{}", self.processes)
    }

    fn hear(&mut self) {
        match self.place.as_mut().expect("it is somewhere") {
            Place::Qemu(qemu) => self.said.push_str(&qemu.hear()),
            Place::Ferry { serial, read, .. } => {
                let mut new = String::new();
                if let Ok(mut file) = File::open(serial) {
                    file.seek(SeekFrom::Start(*read)).unwrap();
                    let mut bytes = Vec::new();
                    file.read_to_end(&mut bytes).unwrap();
                    *read += bytes.len() as u64;
                    new = String::from_utf8_lossy(&bytes).into_owned();
                }
                if new.is_empty() {
                    std::thread::sleep(Duration::from_millis(50));
                }
                self.said.push_str(&new);
            }
        }
    }

    /// Waits for the guest to say this from now on; gives the rest of the line, once it is whole.
    pub fn wait(&mut self, words: &str) -> String {
        self.wait_for(words, PATIENCE).unwrap_or_else(|| {
            let tail: String = self.said.chars().rev().take(800).collect();
            let tail: String = tail.chars().rev().collect();
            panic!("the guest does not say {words:?}; it said {tail}")
        })
    }

    /// The same for so long at most.
    pub fn wait_for(&mut self, words: &str, patience: Duration) -> Option<String> {
        let end = Instant::now() + patience;
        loop {
            let new = &self.said[self.looked..];
            if let Some(at) = new.find(words) {
                let rest = &new[at + words.len()..];
                if let Some(length) = rest.find('\n') {
                    let line = rest[..length].trim().to_owned();
                    self.looked += at + words.len() + length;
                    return Some(line);
                }
            }
            if Instant::now() >= end {
                return None;
            }
            self.hear();
        }
    }

    /// The next thing that the guest says of itself, which must follow from the last.
    pub fn tick(&mut self) -> Tick {
        let line = self.wait("tick ");
        let mut numbers = line.split(' ').map(|number| number.parse().unwrap());
        let tick = Tick { seconds: numbers.next().unwrap(), rounds: numbers.next().unwrap() };
        if let Some((last, at)) = self.last {
            // A guest that stands still in between cannot have lived longer than the world.
            let most = last.seconds + at.elapsed().as_secs() + 2;
            assert!(
                (last.seconds..=most).contains(&tick.seconds) && tick.rounds == last.rounds + 1,
                "after {last:?} came {tick:?}, {:?} later",
                at.elapsed()
            );
        }
        self.last = Some((tick, Instant::now()));
        tick
    }

    /// So many of them.
    pub fn ticks(&mut self, count: usize) {
        for _ in 0..count {
            self.tick();
        }
    }

    /// What the guest has said where it was, to the last byte.
    fn hear_out(&mut self) {
        let mut before = usize::MAX;
        while before != self.said.len() {
            before = self.said.len();
            self.hear();
        }
    }

    fn serial(&mut self) -> PathBuf {
        let name = self.name();
        self.host.folder.join(format!("{name}.serial"))
    }

    /// The arguments of a Ferry that takes the guest from QEMU.
    fn receiving<'a>(&self, how: &[&'a str], serial: &'a str, disk: &'a str) -> Vec<String> {
        let more = ["--from", "qemu", "--machine", &self.config(), "--disk", disk, "--serial"];
        how.iter().chain(&more).chain(&[serial]).map(|word| (*word).to_owned()).collect()
    }

    /// From QEMU to Ferry over TCP, while the guest stands still: QEMU 7.2 now and then leaves out
    /// what a guest writes while it is sent (see `docs/qemu.md`). Gives for how long it stood still
    /// under QEMU.
    pub fn move_to_ferry(&mut self, sending: Sending) -> Duration {
        let stopped = Instant::now();
        self.qemu().ask("stop", serde_json::json!({}));
        self.send_to_ferry(sending, &["--resume"]);
        stopped.elapsed()
    }

    /// The same with a guest that runs meanwhile. Gives what QEMU says of it.
    pub fn move_to_ferry_live(&mut self, sending: Sending) -> serde_json::Value {
        self.send_to_ferry(sending, &[])
    }

    fn send_to_ferry(&mut self, sending: Sending, more: &[&str]) -> serde_json::Value {
        let serial = self.serial();
        let (to, disk) = (format!("file:{}", serial.display()), self.disk());
        let mut arguments = self.receiving(&["receive", "tcp:127.0.0.1:0"], &to, &disk);
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        if sending.channels > 0 {
            arguments.extend(["--multifd".to_owned(), sending.channels.to_string()]);
        }
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut process = self.host.start(&arguments);
        let address = process.line("listening at ").replace("listening at ", "");
        for capability in sending.capabilities {
            self.qemu().enable(capability);
        }
        if sending.channels > 0 {
            let channels = serde_json::json!({ "multifd-channels": sending.channels });
            self.qemu().ask("migrate-set-parameters", channels);
        }
        self.qemu().migrate(&address);
        let answer = self.qemu().migrated();
        assert_eq!(answer["status"], "completed", "{answer} {}", said(process));
        self.arrive(Place::Ferry { process, serial, read: 0 });
        answer
    }

    /// From QEMU to Ferry by a file. The guest is paused under Ferry, as it was under QEMU, until
    /// its operator lets it go on.
    pub fn move_to_ferry_by_file(&mut self) {
        let file = self.host.path("stream");
        self.qemu().ask("stop", serde_json::json!({}));
        self.qemu().migrate(&format!("exec:cat >{file}"));
        assert_eq!(self.qemu().migrated()["status"], "completed");
        self.verify(&file);
        let serial = self.serial();
        let (to, disk) = (format!("file:{}", serial.display()), self.disk());
        let address = format!("file:{file}");
        let arguments = self.receiving(&["restore", &address], &to, &disk);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let process = self.host.start(&arguments);
        self.arrive(Place::Ferry { process, serial, read: 0 });
        let end = Instant::now() + PATIENCE;
        while self.host.state("guest").is_none_or(|state| state != "paused") {
            assert!(Instant::now() < end, "it has not arrived");
            std::thread::sleep(Duration::from_millis(50));
        }
        let resumed = self.host.ferry(&["resume", "guest"]);
        assert!(resumed.status.success(), "{}", text(&resumed));
    }

    /// Whether a guest that was moved goes on, and has found nothing wrong. Prints how it fares.
    pub fn goes_on(&mut self) -> bool {
        let alive = (0..3).all(|_| self.wait_for("tick ", Duration::from_secs(60)).is_some());
        let well = alive && !BAD.iter().any(|bad| self.said.contains(bad));
        if well {
            println!("the guest goes on");
        } else {
            println!("the guest is broken; it said {}", self.said);
        }
        well
    }

    /// Ends the Ferry that has the guest, and gives what it has said.
    pub fn end_ferry(self) -> String {
        match self.place {
            Some(Place::Ferry { process, .. }) => said(process),
            _ => panic!("the guest is not under Ferry"),
        }
    }

    fn disk(&self) -> String {
        format!("disk0={}", self.host.path("disk"))
    }

    /// A fresh QEMU that waits for the guest.
    pub fn waiting_qemu(&mut self, incoming: &str) -> Qemu {
        let name = self.name();
        let mut arguments = self.arguments.clone();
        arguments.extend(["-incoming".to_owned(), incoming.to_owned()]);
        Qemu::start(&self.host.folder, &name, &arguments)
    }

    /// From Ferry to a fresh QEMU, live, over TCP. Gives what Ferry says of it.
    pub fn move_to_qemu(&mut self) -> String {
        let mut qemu = self.waiting_qemu("tcp:127.0.0.1:0");
        let address = format!("tcp:127.0.0.1:{}", qemu.incoming_port());
        let said = self.leave(&address);
        self.arrive(Place::Qemu(qemu));
        said
    }

    /// From QEMU to a fresh QEMU, live, over TCP, in several rounds.
    pub fn move_past_ferry(&mut self) {
        let mut qemu = self.waiting_qemu("tcp:127.0.0.1:0");
        let address = format!("tcp:127.0.0.1:{}", qemu.incoming_port());
        self.qemu().enable("return-path");
        self.qemu().migrate_in_rounds(&address);
        let answer = self.qemu().migrated();
        assert_eq!(answer["status"], "completed", "{answer} {}", qemu.errors());
        self.arrive(Place::Qemu(qemu));
    }

    /// From Ferry to a fresh QEMU by a file.
    pub fn move_to_qemu_by_file(&mut self) {
        let file = self.host.path("stream");
        self.leave(&format!("file:{file}"));
        self.verify(&file);
        let qemu = self.waiting_qemu(&format!("exec:cat {file}"));
        self.arrive(Place::Qemu(qemu));
    }

    /// A stream can be read by its own description, whoever wrote it.
    fn verify(&self, file: &str) {
        let verified = self.host.ferry(&["verify", file]);
        assert!(verified.status.success(), "{}", text(&verified));
    }

    /// However long the pause is on a busy machine.
    fn leave(&mut self, address: &str) -> String {
        let moved =
            self.host.ferry(&["migrate", "guest", address, "--to", "qemu", "--allow-longer-pause"]);
        assert!(moved.status.success(), "{}", text(&moved));
        text(&moved)
    }

    /// The guest is there; what it said where it was is read to the end.
    fn arrive(&mut self, place: Place) {
        self.hear_out();
        match self.place.replace(place).expect("it was somewhere") {
            Place::Qemu(qemu) => qemu.quit(),
            Place::Ferry { mut process, .. } => assert!(process.child.wait().unwrap().success()),
        }
    }

    /// Everything that the guest computed was right, and its kernel has no complaint.
    pub fn check(mut self) {
        self.qemu().type_line(CHECK);
        self.wait("all done");
        for line in self.said.lines() {
            assert!(!BAD.iter().any(|bad| line.contains(bad)), "{line}");
        }
        assert!(self.said.contains("tick "), "it worked");
        let disk = fs::read(self.host.folder.join("disk")).unwrap();
        let (last, _) = self.last.unwrap();
        holds_the_rounds(&disk, last.rounds);
    }
}

/// The machine's configuration is given once, as QEMU's monitor says it.
fn import(host: &Host, qemu: &mut Qemu) {
    let imported = qemu.lend_monitor(|socket| {
        host.ferry(&["import-config", "--qmp", &socket.display().to_string()])
    });
    assert!(imported.status.success(), "{}", text(&imported));
    fs::write(host.folder.join("guest.toml"), &imported.stdout).unwrap();
}

/// The disk's block of each round holds its number.
fn holds_the_rounds(disk: &[u8], rounds: u64) {
    for round in rounds.saturating_sub(1000)..rounds {
        let at = (round % 1000 * 512) as usize;
        let block = &disk[at..at + 512];
        let end = block.iter().position(|byte| *byte == 0).unwrap();
        let number = String::from_utf8_lossy(&block[..end]);
        let written: u64 = number.trim().parse().unwrap();
        // The guest may have gone on since what it said last.
        assert!(written == round || written == round + 1000, "block {at}: {number}");
    }
}

/// What a process that is to end has said.
pub fn said(mut process: Running) -> String {
    let _ = process.child.kill();
    let mut words = String::new();
    if let Some(mut errors) = process.child.stderr.take() {
        let _ = errors.read_to_string(&mut words);
    }
    words
}
