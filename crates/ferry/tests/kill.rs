//! Processes that are killed or stopped, and storage or an etcd that is full, at random moments of a move:
//! never two guests, never none after the documented recovery, and the disk holds what it must.
//!
//! `FERRY_KILL_RUNS` says how often (a few by default), `FERRY_KILL_SEED` where the random numbers
//! begin. A run is named by its seed and can be repeated, as far as a race can be. The guests are
//! the embedded one, on the software CPU and on KVM where that runs it, and Linux.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::linux::{guest_files, wanted, with_entries};
use common::{Host, accelerators, text};
use testkit::Etcd;

/// Rounds of the guest, at 20 ms each and more.
const ROUNDS: &str = "40";
/// What Linux does: as many rounds, each with a piece for the disk; whoever starts it again has the
/// same disk in the end.
const LINUX: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in virtio_ring virtio virtio_mmio virtio_blk; do
    insmod /lib/modules/$module.ko
done
until [ -b /dev/vda ]; do sleep .1; done
for round in $(seq 1 40); do
    seq $round $((round + 4000)) | head -c 16384 >/tmp/piece
    dd if=/tmp/piece of=/dev/vda bs=16384 seek=$round conv=notrunc,fsync 2>/tmp/dd ||
        echo "FAIL: $(cat /tmp/dd)"
    echo "round $round: written"
    sleep .02
done
echo 1 >/proc/sys/vm/drop_caches
for round in $(seq 1 40); do
    seq $round $((round + 4000)) | head -c 16384 >/tmp/piece
    dd if=/dev/vda bs=16384 skip=$round count=1 2>/tmp/dd | cmp - /tmp/piece ||
        echo "FAIL: round $round is not on the disk"
    echo "read $round"
done
echo "PASS"
sleep .5
poweroff -f
"#;
const DISK: usize = 1 << 20;
/// How long nothing may be said by anybody: a busy host is slow, and a guest that goes on is well.
const PATIENCE: Duration = Duration::from_secs(120);
/// What each side takes for silence.
const IDLE: &str = "1500";

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Source,
    Destination,
    Etcd,
    /// The file system that the record is on is full for a while.
    Storage,
    /// etcd's database is.
    EtcdStorage,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    victim: Victim,
    /// After how long the victim is killed, or stopped, or the storage filled.
    at: Duration,
    /// It is stopped, for so long; or killed.
    stopped_for: Option<Duration>,
}

impl Case {
    fn new(random: &mut Random, etcd: bool, storage: bool, move_takes: Duration) -> Self {
        let victim = match random.below(8) {
            0..=2 => Victim::Source,
            3..=5 => Victim::Destination,
            6 if etcd => Victim::Etcd,
            _ if etcd => Victim::EtcdStorage,
            _ if storage => Victim::Storage,
            _ => Victim::Destination,
        };
        let at = move_takes.mul_f64(random.below(1300) as f64 / 1000.0);
        let full = matches!(victim, Victim::Storage | Victim::EtcdStorage);
        let stops = full || random.below(3) == 0;
        // Some for longer than what is taken for silence.
        let length = Duration::from_millis(50 + random.below(2500));
        Self { victim, at, stopped_for: stops.then_some(length) }
    }

    /// What is done, without the times.
    fn name(&self) -> String {
        match (self.victim, self.stopped_for) {
            (Victim::Storage | Victim::EtcdStorage, _) => format!("{:?} full", self.victim),
            (_, Some(_)) => format!("{:?} stopped", self.victim),
            (_, None) => format!("{:?} killed", self.victim),
        }
    }
}

/// A process whose lines are read as they come.
struct Watched {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Watched {
    fn start(host: &Host, arguments: &[&str]) -> Self {
        let mut child =
            host.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (to, lines) = channel();
        let both: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in both {
            let to = to.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if to.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    fn look(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.seen.push(line);
        }
    }

    /// Waits for a line with this in it.
    fn line(&mut self, with: &str) -> String {
        loop {
            if let Some(line) = self.seen.iter().find(|line| line.contains(with)) {
                return line.clone();
            }
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line),
                Err(_) => panic!("{with:?} never came: {:#?}", self.seen),
            }
        }
    }

    fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Every line, once it has ended.
    fn all(&mut self) -> &[String] {
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(5)) {
            self.seen.push(line);
        }
        &self.seen
    }

    /// The numbers of the rounds that its guest has told of.
    fn rounds(&self) -> Vec<u64> {
        let number = |line: &String| line.strip_prefix("round ")?.split(':').next()?.parse().ok();
        self.seen.iter().filter_map(number).collect()
    }

    fn passed(&self) -> bool {
        self.seen.iter().any(|line| line.starts_with("PASS"))
    }

    fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(process: u32, name: &str) {
    // It may have ended just before.
    let _ = Command::new("kill").args(["-s", name, &process.to_string()]).status();
}

/// A folder on a file system of its own, small enough to be filled.
struct Small {
    at: std::path::PathBuf,
    mounted: bool,
}

impl Small {
    fn new(at: std::path::PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        let size = format!("size={}k", DISK / 1024 + 64);
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).output();
        let mounted = mount.is_ok_and(|output| output.status.success());
        Self { at, mounted }
    }

    fn fill(&self) {
        // As much as there is room for.
        let _ = fs::write(self.at.join("fill"), vec![1; DISK]);
    }

    fn empty(&self) {
        fs::remove_file(self.at.join("fill")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        }
    }
}

fn digest(disk: &Path) -> u64 {
    // FNV-1a, enough to tell two disks apart.
    fs::read(disk).unwrap().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A guest, and on what it runs.
struct Guest {
    /// The machine, but for its UUID.
    machine: String,
    /// What `run` needs for it.
    run: Vec<String>,
    /// On what it runs, wherever it is.
    accel: &'static str,
}

/// A machine that is the same one whenever it is started in a run. Whoever ends while etcd is away
/// leaves a record that counts until its lease ends, and is not to disturb the next run.
fn uuid(seed: u64) -> String {
    format!("6b1f0c1e-3f5a-4f0e-9c57-{seed:012x}")
}

impl Guest {
    fn new(memory: &str, promises: &str, run: &[&str], accel: &'static str) -> Self {
        let machine = format!(
            "name = \"vm\"\nmemory = \"{memory}\"\n{promises}\
             [[device]]\nkind = \"block\"\nid = \"disk0\"\n"
        );
        let run = run.iter().map(|argument| (*argument).to_owned()).collect();
        Self { machine, run, accel }
    }

    fn embedded(accel: &'static str) -> Self {
        let promises = match accel {
            "kvm" => "[cpu]\npromise-tsc = false\npromise-cpuid = false\n",
            _ => "",
        };
        Self::new("8M", promises, &["--guest", "--pause", "20", "--rounds", ROUNDS], accel)
    }

    /// Linux, with its initial RAM disk in this folder.
    fn linux(folder: &Host) -> Option<Self> {
        let [kernel, initrd] = wanted(guest_files())?;
        let with = folder.folder.join("initrd");
        with_entries(&initrd, &[("kill", 0o100_755, LINUX.as_bytes())], &with);
        let (kernel, initrd) = (kernel.display().to_string(), with.display().to_string());
        let append = "console=ttyS0 quiet reboot=t panic=-1 rdinit=/kill";
        let run = ["--kernel", &kernel, "--initrd", &initrd, "--append", append];
        Some(Self::new("128M", "", &run, "soft"))
    }

    /// Starts it on a host.
    fn start(&self, host: &Host, uuid: &str, disk: &str, arbiter: &[&str]) -> Watched {
        let file = host.path("machine.toml");
        fs::write(&file, format!("uuid = \"{uuid}\"\n{}", self.machine)).unwrap();
        let mut all = vec!["run", "--machine", &file, "--disk", disk, "--accel", self.accel];
        all.extend(self.run.iter().map(String::as_str));
        all.extend(arbiter);
        Watched::start(host, &all)
    }

    /// A host that waits for it, and where.
    fn receiver(&self, host: &Host, disk: &str, more: &[&str]) -> (Watched, String) {
        let same = ["receive", "tcp:127.0.0.1:0", "--disk", disk, "--accel", self.accel];
        let mut receiver = Watched::start(host, &[&same, more].concat());
        let address = receiver.line("listening at ").replace("listening at ", "");
        (receiver, address)
    }
}

fn write_disk(path: &Path) {
    // Not sparse: the guest's own writes always have room.
    fs::write(path, vec![0; DISK]).unwrap();
}

/// What the guest's disk holds after an undisturbed run, and how long a move takes here.
struct Reference {
    digest: u64,
    move_takes: Duration,
}

fn reference(guest: &Guest, name: &str) -> Reference {
    let (here, there) =
        (Host::new(&format!("kill-{name}-here")), Host::new(&format!("kill-{name}-there")));
    let disk = here.folder.join("disk.img");
    write_disk(&disk);
    let disk_name = disk.display().to_string();
    let mut source = guest.start(&here, &uuid(0), &disk_name, &[]);
    source.line("round 3:");
    let (mut receiver, address) = guest.receiver(&there, &disk_name, &[]);
    let started = Instant::now();
    let moved = here.ferry(&["migrate", "vm", &address, "--downtime-limit", "3000"]);
    let move_takes = started.elapsed();
    assert!(moved.status.success(), "{}", text(&moved));
    receiver.line("PASS");
    assert!(receiver.child.wait().unwrap().success());
    Reference { digest: digest(&disk), move_takes }
}

fn record(host: &Host, what: &str, arbiter: &[&str]) -> String {
    let said = host.ferry(&[&["owner", what], arbiter].concat());
    let said = text(&said);
    let found = said.lines().find_map(|line| line.strip_prefix("record"));
    found.unwrap_or_else(|| panic!("{said}")).trim().to_owned()
}

/// One move with one failure; says which, and how it ended.
fn one(guest: &Guest, seed: u64, etcd: Option<&mut Etcd>, reference: &Reference) -> String {
    let mut random = Random(seed);
    let uuid = uuid(seed);
    let name = |side| format!("kill-{}-{seed}-{side}", guest.accel);
    let (here, there) = (Host::new(&name("here")), Host::new(&name("there")));
    let small = Small::new(here.folder.join("storage"));
    let case = Case::new(&mut random, etcd.is_some(), small.mounted, reference.move_takes);
    let what = format!("seed {seed}: {case:?}");
    let disk_path = small.at.join("disk.img");
    write_disk(&disk_path);
    let disk = disk_path.display().to_string();
    // Both hosts are this one, and share the locks of this host.
    let state = here.path("state");
    let address = etcd.as_ref().map(|etcd| etcd.address());
    let arbiter: Vec<&str> = match &address {
        Some(address) => vec!["--arbiter", address, "--state-dir", &state],
        None => vec![],
    };
    let mut source = guest.start(&here, &uuid, &disk, &arbiter);
    source.line("round 3:");
    let owner = text(&here.ferry(&["owner", "vm"]));
    let field = |name| {
        let line = owner.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{what}: {owner}")).trim().to_owned()
    };
    let process = field("process");
    let more = [&["--idle-timeout", IDLE], &arbiter[..]].concat();
    let (mut receiver, listening) = guest.receiver(&there, &disk, &more);
    let migrate = ["migrate", "vm", &listening, "--downtime-limit", "3000", "--idle-timeout", IDLE];
    let mut moving = Watched::start(&here, &migrate);

    thread::sleep(case.at);
    let mut etcd = etcd;
    let victim = match case.victim {
        Victim::Source => Some(source.child.id()),
        Victim::Destination => Some(receiver.child.id()),
        Victim::Etcd => etcd.as_ref().map(|etcd| etcd.id()),
        Victim::Storage | Victim::EtcdStorage => None,
    };
    match (victim, case.stopped_for) {
        (None, length) => {
            let full = etcd.as_deref().filter(|_| case.victim == Victim::EtcdStorage);
            full.map_or_else(|| small.fill(), Etcd::fill);
            thread::sleep(length.unwrap_or_default());
            full.map_or_else(|| small.empty(), Etcd::empty);
        }
        (Some(victim), Some(length)) => {
            signal(victim, "STOP");
            thread::sleep(length);
            signal(victim, "CONT");
        }
        (Some(_), None) => match case.victim {
            Victim::Source => source.signal("KILL"),
            Victim::Destination => receiver.signal("KILL"),
            Victim::Etcd | Victim::Storage | Victim::EtcdStorage => {
                let etcd = etcd.as_mut().expect("it is the victim");
                etcd.kill();
                thread::sleep(Duration::from_millis(random.below(1500)));
                etcd.restart();
            }
        },
    }

    // What happens by itself.
    let (mut until, mut heard) = (Instant::now() + PATIENCE, 0);
    let mut alone_since = None;
    while source.lives() || receiver.lives() {
        source.look();
        receiver.look();
        moving.look();
        let said = source.seen.len() + receiver.seen.len() + moving.seen.len();
        if said > heard {
            (until, heard) = (Instant::now() + PATIENCE, said);
        }
        assert!(
            Instant::now() < until,
            "{what}: here {:?} {:#?}, there {:?} {:#?}, migrate {:#?}, {}",
            here.state("vm"),
            source.seen,
            there.state("vm"),
            receiver.seen,
            moving.seen,
            record(&here, if etcd.is_some() { &uuid } else { &disk }, &arbiter)
        );
        if !source.lives() && !moving.lives() && there.state("vm").is_none() {
            // A receiver that nobody has called before the source was killed waits on, as it
            // should; one that was called says so within a few seconds, one way or the other.
            let since = *alone_since.get_or_insert_with(Instant::now);
            if since.elapsed() > Duration::from_secs(20) {
                receiver.signal("KILL");
            }
        } else {
            alone_since = None;
        }
        thread::sleep(Duration::from_millis(50));
    }
    source.all();
    receiver.all();
    let (here_rounds, there_rounds) = (source.rounds(), receiver.rounds());
    for round in &there_rounds {
        assert!(!here_rounds.contains(round), "{what}: round {round} ran twice");
    }
    let failed = [&source, &receiver]
        .iter()
        .any(|side| side.seen.iter().any(|line| line.starts_with("FAIL")));
    assert!(!failed, "{what}: {:#?} {:#?}", source.seen, receiver.seen);

    let end = match (source.passed(), receiver.passed()) {
        (true, true) => panic!("{what}: the guest ended twice"),
        (true, false) => "stayed",
        (false, true) => "moved",
        (false, false) => {
            // The documented recovery: whoever owned it was killed, and it is started again.
            assert!(case.stopped_for.is_none(), "{what}: {:#?} {:#?}", source.seen, receiver.seen);
            let found = record(&here, if etcd.is_some() { &uuid } else { &disk }, &arbiter);
            let here_killed = case.victim == Victim::Source;
            assert!(found.starts_with("owned by"), "{what}: {found}");
            assert_eq!(found.contains(&process), here_killed, "{what}: {found}");
            let mut again = guest.start(&here, &uuid, &disk, &arbiter);
            again.line("PASS");
            assert!(again.child.wait().unwrap().success(), "{what}");
            "booted again"
        }
    };
    assert_eq!(digest(&disk_path), reference.digest, "{what}: {end}, and the disk is wrong");
    format!("{}: {end}", case.name())
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn survives(guest: &Guest, name: &str, runs: u64) {
    let runs = number("FERRY_KILL_RUNS", runs);
    let first = number("FERRY_KILL_SEED", 1);
    let reference = reference(guest, name);
    let mut etcd = Etcd::start(&format!("kill-{name}"));
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    for seed in first..first + runs {
        let end = match &mut etcd {
            Some(etcd) if seed % 2 == 0 => one(guest, seed, Some(etcd), &reference),
            _ => one(guest, seed, None, &reference),
        };
        println!("{name}: seed {seed}: {end}");
        *ends.entry(end).or_default() += 1;
    }
    println!("{name}: {runs} runs, a move takes {:?}: {ends:#?}", reference.move_takes);
    assert_eq!(u64::from(ends.values().sum::<u32>()), runs);
}

#[test]
fn one_guest_survives_whatever_is_killed() {
    survives(&Guest::embedded("soft"), "embedded", 6);
}

#[test]
fn one_guest_on_kvm_survives_whatever_is_killed() {
    if accelerators("kills").contains(&"kvm") {
        survives(&Guest::embedded("kvm"), "kvm", 4);
    }
}

#[test]
fn one_linux_survives_whatever_is_killed() {
    let folder = Host::new("kill-linux");
    if let Some(guest) = Guest::linux(&folder) {
        survives(&guest, "linux", 2);
    }
}
