//! The legacy virtio slots of a real QEMU and Ferry's, driven side by side: what a driver reads,
//! what it finds in its rings, and the states of both.
//!
//! Needs Debian's `qemu-system-x86`.

mod common;
mod live;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{microvm, receive};
use devices::virtio::{
    BlockConfig, BlockKind, EmptySlot, FileDisk, Interface, RngSource, VirtioBlock,
    VirtioBlockState, VirtioMmio, VirtioRng, VirtioRngState, VirtioSlot,
};
use live::{Store, wall_ns};
use machine::{MachineConfig, VirtioInterface};
use memory::GuestRam;
use qemu::layout::layouts;
use qemu::send::Sender;
use qemu::translate::{self, Received, from_qemu, to_qemu};
use vmstate::{SavedSection, VmState};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const DISK_BYTES: u64 = 4 << 20;
const MEMORY_BYTES: usize = 64 << 20;
const SLOTS: [u64; 3] = [0xfeb0_2e00, 0xfeb0_2c00, 0xfeb0_2a00];
const BLOCK: usize = 0;
const RNG: usize = 1;
const EMPTY: usize = 2;

fn installed() -> bool {
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
struct Qemu {
    child: Child,
    bus: BufReader<UnixStream>,
    monitor: BufReader<UnixStream>,
    folder: PathBuf,
}

impl Qemu {
    fn start(folder: &Path, interface: VirtioInterface, incoming: Option<&Path>) -> Self {
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

    fn save(&mut self) -> Vec<u8> {
        let file = self.folder.join("stream");
        let uri = format!("exec:cat >{}", file.display());
        let bandwidth = serde_json::json!({ "max-bandwidth": 10_000_000_000_u64 });
        self.ask("migrate-set-parameters", bandwidth);
        self.ask("migrate", serde_json::json!({ "uri": uri }));
        self.wait_for_migration();
        std::fs::read(&file).unwrap()
    }

    /// One command to the bus; gives what the answer says behind `OK`.
    fn bus(&mut self, command: &str) -> String {
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

    fn read(&mut self, address: u64, data: &mut [u8]) {
        let letter = match data.len() {
            1 => 'b',
            2 => 'w',
            _ => 'l',
        };
        let answer = self.bus(&format!("read{letter} {address:#x}"));
        let value = u64::from_str_radix(answer.trim_start_matches("0x"), 16).unwrap();
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
    }

    fn load(&mut self, address: u64, length: usize) -> Vec<u8> {
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

/// The two machines. Whatever is done is done to both.
struct Pair {
    qemu: Qemu,
    ram: GuestRam,
    block: VirtioMmio<VirtioBlock>,
    rng: VirtioMmio<VirtioRng>,
    folder: PathBuf,
}

fn ours(folder: &Path, ram: &GuestRam) -> (VirtioMmio<VirtioBlock>, VirtioMmio<VirtioRng>) {
    let config = BlockConfig {
        sectors: DISK_BYTES / 512,
        read_only: false,
        id: String::new(),
        kind: BlockKind::Qemu,
    };
    let disk = FileDisk::open(&folder.join("our-disk"), false).unwrap();
    let block = VirtioBlock::new(config, Box::new(disk)).unwrap();
    let rng = VirtioRng::new(RngSource::host().unwrap());
    (
        VirtioMmio::new_legacy(SLOTS[BLOCK], block, ram.clone()),
        VirtioMmio::new_legacy(SLOTS[RNG], rng, ram.clone()),
    )
}

impl Pair {
    fn new(name: &str) -> Self {
        let id = std::process::id();
        let folder = std::env::temp_dir().join(format!("ferry-registers-{id}-{name}"));
        std::fs::create_dir_all(&folder).unwrap();
        for disk in ["disk", "our-disk"] {
            std::fs::write(folder.join(disk), vec![0; DISK_BYTES as usize]).unwrap();
        }
        let ram = GuestRam::new(MEMORY_BYTES as u64).unwrap();
        let (block, rng) = ours(&folder, &ram);
        let qemu = Qemu::start(&folder, VirtioInterface::Legacy, None);
        Self { qemu, ram, block, rng, folder }
    }

    fn slot(&mut self, slot: usize) -> &mut dyn VirtioSlot {
        if slot == BLOCK { &mut self.block } else { &mut self.rng }
    }

    fn set(&mut self, slot: usize, register: u64, value: u32) {
        self.qemu.bus(&format!("writel {:#x} {value:#x}", SLOTS[slot] + register));
        if slot != EMPTY {
            self.slot(slot).write(0, register, &value.to_le_bytes());
        }
    }

    /// What the guests read: in QEMU, and here.
    fn get<const N: usize>(&mut self, slot: usize, register: u64) -> ([u8; N], [u8; N]) {
        let (mut theirs, mut ours) = ([0; N], [0; N]);
        self.qemu.read(SLOTS[slot] + register, &mut theirs);
        match slot {
            EMPTY => EmptySlot::read(Interface::Legacy, register, &mut ours),
            _ => self.slot(slot).read(0, register, &mut ours),
        }
        (theirs, ours)
    }

    fn same<const N: usize>(&mut self, slot: usize, register: u64, what: &str) {
        let (theirs, ours) = self.get::<N>(slot, register);
        assert_eq!(theirs, ours, "{what}: slot {slot} register {register:#x}, {N} bytes");
    }

    fn store(&mut self, address: u64, bytes: &[u8]) {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.qemu.bus(&format!("write {address:#x} {:#x} 0x{digits}", bytes.len()));
        self.ram.write(address, bytes).unwrap();
    }

    fn loaded(&mut self, address: u64, length: usize) -> (Vec<u8>, Vec<u8>) {
        let mut ours = vec![0; length];
        self.ram.read(address, &mut ours).unwrap();
        (self.qemu.load(address, length), ours)
    }

    /// Waits until QEMU, which serves requests when it comes to it, has what is here.
    fn settle(&mut self, address: u64, length: usize) {
        let end = Instant::now() + PATIENCE;
        loop {
            let (theirs, ours) = self.loaded(address, length);
            if theirs == ours {
                return;
            }
            assert!(Instant::now() < end, "at {address:#x}: {theirs:?} there, {ours:?} here");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Numbers that are the same in every run (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

const REGISTERS: [u64; 28] = [
    0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x18, 0x20, 0x24, 0x28, 0x30, 0x34, 0x38, 0x3c, 0x40, 0x44,
    0x48, 0x50, 0x60, 0x64, 0x70, 0x80, 0x84, 0xa4, 0xb0, 0xb4, 0xb8, 0xfc,
];

/// Everything that a driver can read of the slots. What QEMU makes of its image is left out:
/// geometry and topology of the disk.
fn compare(pair: &mut Pair, what: &str) {
    for slot in [BLOCK, RNG, EMPTY] {
        for register in REGISTERS {
            pair.same::<4>(slot, register, what);
        }
        for register in [0x100, 0x104, 0x108, 0x10c, 0x114, 0x120, 0x124, 0x134, 0x138] {
            pair.same::<4>(slot, register, what);
        }
    }
}

#[test]
fn a_driver_reads_in_both_what_it_reads_in_qemu() {
    if !installed() {
        return;
    }
    let mut pair = Pair::new("registers");
    compare(&mut pair, "at reset");
    for register in [0x00, 0x04, 0x10, 0x70, 0x138, 0x139, 0x1ff] {
        pair.same::<1>(BLOCK, register, "a byte");
    }
    for register in [0x02, 0x70, 0x136, 0x138, 0x1fe] {
        pair.same::<2>(BLOCK, register, "two bytes");
    }
    let mut numbers = Numbers(0x5eed);
    for step in 0..1500 {
        let slot = numbers.of(&[BLOCK, RNG]);
        let (register, value) = match numbers.below(12) {
            0 => (0x14, numbers.of(&[0, 1, 2, u32::MAX])),
            1 => (0x24, numbers.of(&[0, 0, 1, 7])),
            2 => (0x20, numbers.of(&[0, u32::MAX, 0x3000_6e54, 1 << 29, 0x2100_0000])),
            3 => (0x28, numbers.of(&[0, 1, 4096, 8192, 0x3000, 1 << 31])),
            4 => (0x30, numbers.of(&[0, 0, 0, 1, 1023, 1024, u32::MAX])),
            5 => (0x38, numbers.of(&[0, 8, 256, 1024, 1025, u32::MAX])),
            6 => (0x3c, numbers.of(&[0, 64, 4096, 1 << 16])),
            7 => (0x40, numbers.of(&[0, 0x100, 0x234, 0x3000])),
            8 => (0x70, numbers.below(256) as u32),
            9 => (0x70, numbers.of(&[0, 1, 3, 7, 7, 0xf, 0x40])),
            10 => (0x50, numbers.of(&[0, 1, 1023, 1024, u32::MAX])),
            _ => (numbers.of(&REGISTERS), numbers.below(1 << 32) as u32),
        };
        // Rings anywhere would hold anything: a page of one byte, or a far one, is for the others.
        let page_bytes = 1_u64 << pair.rng.save().legacy.unwrap().page_shift;
        let far = |value: u32| u64::from(value) * page_bytes >= MEMORY_BYTES as u64 / 2;
        if register == 0x40 && value != 0 && (value % 4 != 0 || far(value)) {
            continue;
        }
        pair.set(slot, register, value);
        for register in REGISTERS {
            let what = format!("step {step}, {register:#x} <- {value:#x}");
            pair.same::<4>(slot, register, &what);
        }
    }
    compare(&mut pair, "at the end");
}

const RINGS: [u64; 2] = [0x10_0000, 0x20_0000];
const BUFFERS: u64 = 0x30_0000;
const SIZE: u16 = 64;

/// A driver that has one request at a time.
struct Driver {
    slot: usize,
    next: u16,
}

impl Driver {
    const fn available(&self) -> u64 {
        RINGS[self.slot] + 16 * SIZE as u64
    }

    const fn used(&self) -> u64 {
        RINGS[self.slot] + 0x1000
    }

    fn set_up(pair: &mut Pair, slot: usize, features: u32, status: u32) -> Self {
        let driver = Self { slot, next: 0 };
        pair.set(slot, 0x28, 4096);
        for value in [0, 1, 3] {
            pair.set(slot, 0x70, value);
        }
        pair.store(RINGS[slot], &[0; 0x2000]);
        for (register, value) in [
            (0x20, features),
            (0x30, 0),
            (0x38, SIZE.into()),
            (0x3c, 4096),
            (0x40, (RINGS[slot] / 4096) as u32),
            (0x70, status),
        ] {
            pair.set(slot, register, value);
        }
        driver
    }

    /// Makes a request available and tells the device; `parts` are bytes for it or room from it.
    fn request(&mut self, pair: &mut Pair, flags: u16, event: u16, parts: &[(&[u8], bool)]) {
        let mut address = BUFFERS;
        for (index, (bytes, writable)) in parts.iter().enumerate() {
            let more = u16::from(index + 1 < parts.len());
            let mut descriptor = [0; 16];
            descriptor[..8].copy_from_slice(&address.to_le_bytes());
            descriptor[8..12].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
            let kind = more | u16::from(*writable) << 1;
            descriptor[12..14].copy_from_slice(&kind.to_le_bytes());
            descriptor[14..].copy_from_slice(&(index as u16 + 1).to_le_bytes());
            pair.store(RINGS[self.slot] + 16 * index as u64, &descriptor);
            pair.store(address, bytes);
            address += 0x1000;
        }
        let available = self.available();
        pair.store(available + 4 + 2 * u64::from(self.next % SIZE), &[0; 2]);
        pair.store(available + 4 + 2 * u64::from(SIZE), &event.to_le_bytes());
        pair.store(available, &flags.to_le_bytes());
        self.next = self.next.wrapping_add(1);
        pair.store(available + 2, &self.next.to_le_bytes());
        pair.set(self.slot, 0x50, 0);
    }

    /// Waits for the answer, and looks at all of it and at the interrupt.
    fn answered(&self, pair: &mut Pair, what: &str) {
        let used = self.used();
        pair.settle(used + 2, 2);
        let mut index = [0; 2];
        pair.ram.read(used + 2, &mut index).unwrap();
        assert_eq!(index, self.next.to_le_bytes(), "{what}");
        let (theirs, ours) = pair.loaded(used, 4 + 8 * usize::from(SIZE) + 2);
        // An index that says nothing without its feature is anything.
        let events = if self.events(pair) { 2 } else { 0 };
        let end = theirs.len() - 2 + events;
        assert_eq!(theirs[..end], ours[..end], "{what}");
        self.interrupted(pair, what);
        pair.set(self.slot, 0x64, 1);
        pair.same::<4>(self.slot, 0x60, what);
    }

    /// Waits for the same interrupt status: QEMU changes it after the index.
    fn interrupted(&self, pair: &mut Pair, what: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let (theirs, ours) = pair.get::<4>(self.slot, 0x60);
            if theirs == ours {
                return;
            }
            assert!(Instant::now() < end, "{what}: {theirs:?} there, {ours:?} here");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn events(&self, pair: &mut Pair) -> bool {
        let features = match self.slot {
            BLOCK => pair.block.save().transport.driver_features,
            _ => pair.rng.save().transport.driver_features,
        };
        features & 1 << 29 != 0
    }
}

fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    bytes
}

#[test]
fn requests_have_the_same_answers_as_in_qemu() {
    if !installed() {
        return;
    }
    let mut pair = Pair::new("requests");
    let mut numbers = Numbers(77);
    let (events, on_empty) = (1 << 29, 1 << 24);
    // A driver may use a disk before it says that it does.
    for (features, status) in [(0, 7), (0, 3), (events, 7), (on_empty, 7), (events | on_empty, 3)] {
        let mut driver = Driver::set_up(&mut pair, BLOCK, features, status);
        for round in 0..40 {
            let sector = numbers.of(&[0, 1, 2, 3, 8191]);
            let text = [numbers.below(256) as u8; 512];
            // What differs between two disks' answers to a sector that is not there is how many
            // bytes of it were written before they found out.
            let parts: &[(&[u8], bool)] = match numbers.below(5) {
                0 | 1 => &[(&header(1, sector), false), (&text, false), (&[9], true)],
                2 => &[(&header(0, sector), false), (&[9; 512], true), (&[9], true)],
                3 => &[(&header(4, 0), false), (&[9], true)],
                _ => &[
                    (&header(0, sector)[..7], false),
                    (&header(0, sector)[7..], false),
                    (&[9; 512], true),
                    (&[9], true),
                ],
            };
            // QEMU interrupts after the first answer in any case.
            let event = match round {
                0 => driver.next,
                _ => driver.next.wrapping_add(numbers.below(3) as u16).wrapping_sub(1),
            };
            driver.request(&mut pair, numbers.below(2) as u16, event, parts);
            let what = format!("features {features:#x}, round {round}");
            driver.answered(&mut pair, &what);
            for part in 0..parts.len() as u64 {
                pair.settle(BUFFERS + part * 0x1000, 512);
            }
        }
    }
    // Bytes from an entropy source are not the same.
    let mut driver = Driver::set_up(&mut pair, RNG, events, 7);
    for round in 0..20 {
        driver.request(&mut pair, 0, round, &[(&[0; 64], true)]);
        driver.answered(&mut pair, "entropy");
        let (theirs, ours) = pair.loaded(BUFFERS, 64);
        assert!(theirs != [0; 64] && ours != [0; 64]);
    }
}

/// QEMU's state, in Ferry's terms.
fn translated(stream: &[u8], config: &MachineConfig) -> (Store, Result<Received, String>) {
    let mut memory = Store::default();
    let sections = receive(stream, &layouts(config), &mut memory).unwrap();
    let received = from_qemu(&sections, config, wall_ns(), &|ring| memory.used_index(ring));
    (memory, received.map_err(|error| error.to_string()))
}

fn state<T: VmState>(sections: &[SavedSection], name: &str) -> T {
    let found = sections.iter().find(|of| of.name.ends_with(name)).unwrap();
    found.decode().unwrap()
}

/// What the two have been told makes the same states, and each goes on where the other was.
#[test]
fn a_state_is_the_same_in_both_and_goes_both_ways() {
    if !installed() {
        return;
    }
    let config = microvm("reset");
    let mut pair = Pair::new("states");
    type Prepare = fn(&mut Pair) -> Vec<Driver>;
    let cases: [(&str, Prepare); 6] = [
        ("both run", |pair| {
            let mut block = Driver::set_up(pair, BLOCK, 1 << 29, 7);
            let mut rng = Driver::set_up(pair, RNG, 0, 7);
            for event in [0, 9, 9] {
                block.request(pair, 0, event, &[(&header(4, 0), false), (&[9], true)]);
                block.answered(pair, "before");
                rng.request(pair, 0, 0, &[(&[0; 8], true)]);
                rng.answered(pair, "before");
            }
            vec![block, rng]
        }),
        ("an interrupt is not acknowledged", |pair| {
            let mut block = Driver::set_up(pair, BLOCK, 0, 7);
            block.request(pair, 0, 0, &[(&header(4, 0), false), (&[9], true)]);
            pair.settle(block.used() + 2, 2);
            block.interrupted(pair, "before");
            vec![block]
        }),
        ("a driver has broken a rule", |pair| {
            let mut block = Driver::set_up(pair, BLOCK, 0, 7);
            // A request with no place for its status, and one that is not looked at any more.
            block.request(pair, 0, 0, &[(&header(4, 0), false)]);
            block.request(pair, 0, 0, &[(&header(4, 0), false), (&[9], true)]);
            Vec::new()
        }),
        ("a disk is in use before the driver says so", |pair| {
            let mut block = Driver::set_up(pair, BLOCK, 1 << 24, 3);
            block.request(pair, 0, 0, &[(&header(4, 0), false), (&[9], true)]);
            block.answered(pair, "before");
            vec![block]
        }),
        ("half set up, with odd registers", |pair| {
            for (register, value) in
                [(0x28, 8192), (0x70, 0xb3), (0x14, 5), (0x24, 1), (0x30, 7), (0x3c, 128)]
            {
                pair.set(RNG, register, value);
                pair.set(BLOCK, register, value);
            }
            pair.set(RNG, 0x30, 0);
            pair.set(RNG, 0x38, 32);
            pair.set(RNG, 0x3c, 64);
            Vec::new()
        }),
        ("after a reset", |pair| {
            for slot in [BLOCK, RNG] {
                Driver::set_up(pair, slot, 1 << 29, 7);
                pair.set(slot, 0x70, 0);
            }
            Vec::new()
        }),
    ];
    for (name, prepare) in cases {
        let mut drivers = prepare(&mut pair);
        // QEMU sends the configuration space as it was read last.
        pair.get::<4>(BLOCK, 0x100);
        let (memory, received) = translated(&pair.qemu.save(), &config);
        let received = received.unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut block: VirtioBlockState = state(&received.sections, "virtio-blk");
        let mut rng: VirtioRngState = state(&received.sections, "virtio-rng");
        for transport in [&mut block.transport, &mut rng.transport] {
            // What QEMU looks at again is looked at here.
            transport.queues[0].unfinished = false;
        }
        let mut expected = pair.block.save();
        for state in [&mut block, &mut expected] {
            // What QEMU makes of its image.
            state.transport.config[16..20].fill(0);
            state.transport.config[24..32].fill(0);
        }
        if block.legacy.as_ref().is_some_and(|legacy| legacy.broken) {
            // Nobody looks at a queue any more.
            block.transport.queues.clone_from(&expected.transport.queues);
        }
        assert_eq!(block, expected, "{name}");
        assert_eq!(rng, pair.rng.save(), "{name}");

        // Here: a device that was saved there.
        let (mut our_block, mut our_rng) = ours(&pair.folder, &pair.ram);
        for section in &received.sections {
            if section.name == our_block.section_name() {
                our_block.restore_section(section).unwrap();
            } else if section.name == our_rng.section_name() {
                our_rng.restore_section(section).unwrap();
            }
        }
        our_block.advance(0);
        our_rng.advance(0);
        (pair.block, pair.rng) = (our_block, our_rng);

        // There: a device that was saved here.
        let mut sections = received.sections.clone();
        for section in &mut sections {
            if section.name == pair.block.section_name() {
                *section = pair.block.save_section();
            } else if section.name == pair.rng.section_name() {
                *section = pair.rng.save_section();
            }
        }
        let now = translate::Instant { virtual_ns: received.virtual_ns, wall_ns: wall_ns() };
        let sections = to_qemu(&sections, &config, now, received.running).unwrap();
        let mut sender = Sender::new(Vec::new()).unwrap();
        sender.begin_memory(&memory.blocks).unwrap();
        sender.begin_round(true).unwrap();
        for ((block, offset), content) in &memory.pages {
            sender.page(*block, *offset, content).unwrap();
        }
        sender.end_round().unwrap();
        sender.sections(&sections, &layouts(&config)).unwrap();
        let moved = sender.finish().unwrap();
        let file = pair.folder.join("moved");
        std::fs::write(&file, moved).unwrap();
        pair.qemu = Qemu::start(&pair.folder, VirtioInterface::Legacy, Some(&file));
        compare(&mut pair, name);
        for driver in &mut drivers {
            pair.set(driver.slot, 0x64, 1);
            let parts: &[(&[u8], bool)] = match driver.slot {
                BLOCK => &[(&header(8, 0), false), (&[9; 20], true), (&[9], true)],
                _ => &[(&[0; 8], true)],
            };
            driver.request(&mut pair, 0, driver.next, parts);
            driver.answered(&mut pair, name);
        }
        for slot in [BLOCK, RNG] {
            pair.set(slot, 0x70, 0);
        }
        compare(&mut pair, name);
    }
}

#[test]
fn qemu_offers_the_features_that_it_is_said_to() {
    if !installed() {
        return;
    }
    for (interface, block, rng) in [
        (VirtioInterface::Legacy, translate::BLOCK_LEGACY_FEATURES, translate::RNG_LEGACY_FEATURES),
        (VirtioInterface::Modern, translate::BLOCK_FEATURES, translate::RNG_FEATURES),
    ] {
        let folder = std::env::temp_dir().join(format!("ferry-features-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("disk"), vec![0; DISK_BYTES as usize]).unwrap();
        let mut qemu = Qemu::start(&folder, interface, None);
        for (slot, features) in [(BLOCK, block), (RNG, rng)] {
            for (word, right) in [(0, features as u32), (1, (features >> 32) as u32)] {
                qemu.bus(&format!("writel {:#x} {word}", SLOTS[slot] + 0x14));
                let mut found = [0; 4];
                qemu.read(SLOTS[slot] + 0x10, &mut found);
                assert_eq!(u32::from_le_bytes(found), right, "{interface} {slot} {word}");
            }
        }
        drop(qemu);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
