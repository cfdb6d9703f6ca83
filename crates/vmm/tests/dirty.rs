//! The dirty log misses nothing: while a guest runs, a copy of its memory is kept up to date from
//! the log alone, as a migration does, and is held against the memory at random moments.
#![cfg(target_arch = "x86_64")]

mod common;
#[path = "conformance/suite/mod.rs"]
mod suite;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::Random;
use cpu::CpuModel;
use guest::{Flags, Parameters};
use machine::{AcceleratorChoice, DiskBackend, HostConfig, MachineConfig, VirtioKind};
use memory::{DirtyBitmap, GuestRam, PAGE_SIZE};
use migration::MigrationSource as _;
use suite::{image, layout, run};
use vmm::{Boot, End, Endpoints, Vm, VmSource, VmState, probe_kvm};

/// No host needs this long; a guest that hangs is ended by it.
const PATIENCE: Duration = Duration::from_secs(300);

/// The program of `suite/asm/stores.s`.
#[expect(unsafe_code, reason = "its address is a symbol of the assembly")]
mod symbol {
    // SAFETY: `asm/stores.s` defines it; only its address is used.
    unsafe extern "C" {
        pub(super) static ferry_conformance_stores: u8;
    }
}

/// Pages that a harvest has at least for it to be the one that is lost: more than what the guest
/// stores to all the time.
const WORTH_LOSING: usize = 50;

/// What a watch over a guest found.
#[derive(Debug, Default)]
struct Report {
    /// Harvests while the guest ran, and while it stood still.
    harvests: [usize; 2],
    /// Pages that the log reported.
    reported: usize,
    /// Pages that it reported while the guest stood still though they had not changed.
    unchanged: usize,
    /// Pages that changed and that it did not report.
    missed: Vec<usize>,
}

/// A guest under watch, and the copy of its memory.
struct Watch {
    source: VmSource,
    ram: GuestRam,
    copy: Vec<u8>,
    report: Report,
    /// Pretends that the log lost what it said in this harvest, counted while the guest runs.
    lose: Option<usize>,
}

impl Watch {
    /// Begins to watch a guest that stands still.
    fn begin(vm: &Vm, lose: Option<usize>) -> Self {
        let mut source = vm.source();
        source.start_dirty_log().expect("a dirty log");
        let ram = vm.ram();
        let mut copy = vec![0; ram.pages() * PAGE_SIZE];
        for page in 0..ram.pages() {
            read(&ram, page, &mut copy);
        }
        Self { source, ram, copy, report: Report::default(), lose }
    }

    fn take(&mut self, dirty: &DirtyBitmap) {
        self.report.reported += dirty.count();
        for page in dirty.iter() {
            read(&self.ram, page, &mut self.copy);
        }
    }

    /// Harvests while the guest runs; false if it has ended.
    fn harvest(&mut self) -> bool {
        let Ok(dirty) = self.source.harvest_dirty() else { return false };
        let harvest = self.report.harvests[0];
        self.report.harvests[0] += 1;
        if self.lose.is_none_or(|lost| harvest < lost || dirty.count() < WORTH_LOSING) {
            self.take(&dirty);
        } else {
            self.lose = None;
        }
        true
    }

    /// Harvests while the guest stands still, and looks for pages that the log never named; false if
    /// the guest has ended.
    fn check(&mut self) -> bool {
        let Ok(dirty) = self.source.harvest_dirty() else { return false };
        self.report.harvests[1] += 1;
        let mut now = [0; PAGE_SIZE];
        for page in 0..self.ram.pages() {
            self.ram.read_page(page, &mut now);
            let same = now[..] == self.copy[page * PAGE_SIZE..][..PAGE_SIZE];
            match (same, dirty.contains(page)) {
                (false, false) => self.report.missed.push(page),
                (true, true) => self.report.unchanged += 1,
                _ => {}
            }
        }
        self.take(&dirty);
        true
    }
}

fn read(ram: &GuestRam, page: usize, copy: &mut [u8]) {
    let into = &mut copy[page * PAGE_SIZE..][..PAGE_SIZE];
    ram.read(ram.address_of(page), into).expect("a page of RAM");
}

/// Watches a running guest until `more` says that it was enough; it stands still afterwards.
/// `more` gets a random number and is asked between two looks; `words` are the guest's own on why it
/// ended, if it does.
fn watch(
    vm: &Vm,
    seed: u64,
    lose: Option<usize>,
    mut more: impl FnMut(u64) -> bool,
    words: impl Fn() -> String,
) -> Report {
    let mut random = Random(seed);
    let mut watch = Watch::begin(vm, lose);
    let started = Instant::now();
    vm.resume().expect("the guest runs");
    while more(random.below(u64::MAX)) {
        thread::sleep(Duration::from_micros(random.below(3000)));
        let looked = if random.below(6) == 0 {
            vm.pause().is_ok() && watch.check() && vm.resume().is_ok()
        } else {
            watch.harvest()
        };
        let state = vm.status().state;
        assert!(looked && state == VmState::Running, "the guest: {state:?}: {}", words());
        assert!(started.elapsed() < PATIENCE, "the guest is too slow");
    }
    vm.pause().expect("the guest stands still");
    assert!(watch.check(), "the last harvest");
    watch.report
}

/// A machine that any KVM may run.
fn unpromised(name: &str, memory: u64) -> MachineConfig {
    let mut config = MachineConfig::new(name, [4; 16], memory);
    config.cpus.promise_tsc = false;
    config.cpus.promise_cpuid = false;
    config
}

/// A machine with the program of `asm/stores.s`, its page tables in memory.
fn storing_machine(accel: AcceleratorChoice) -> Vm {
    let memory = layout::STORES_AREA + layout::STORES_AREA_SIZE;
    let config = unpromised("stores", memory);
    let model = CpuModel::find(&config.cpus.model).expect("the default model");
    let code = image::guest_address(&raw const symbol::ferry_conformance_stores);
    let mut segments = image::segments();
    const USER: u64 = 7;
    let tables = layout::STORES_AREA_SIZE >> 21;
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let pages: Vec<u64> = (0..layout::STORES_AREA_SIZE / 4096)
        .map(|page| (layout::STORES_AREA + 4096 * page) | USER)
        .collect();
    let directory: Vec<u64> =
        (0..tables).map(|table| (layout::STORES_TABLES + 4096 * table) | USER).collect();
    segments.extend([
        (layout::PAGE_TABLES + 8 * (layout::WINDOW >> 39), words(&[layout::SPARE_TABLES | USER])),
        (layout::SPARE_TABLES, words(&[(layout::SPARE_TABLES + 0x1000) | USER])),
        (layout::SPARE_TABLES + 0x1000, words(&directory)),
        (layout::STORES_TABLES, words(&pages)),
    ]);
    let boot = Boot::Flat { segments, state: Box::new(image::entry(model, code)) };
    let host = HostConfig { accel, ..HostConfig::default() };
    Vm::create(&config, &boot, &host, Endpoints::default()).expect("a machine")
}

/// Watches so many stores.
fn stores(accel: AcceleratorChoice, stores: u64, seed: u64, lose: Option<usize>) -> Report {
    let vm = storing_machine(accel);
    let ram = vm.ram();
    let word = |address| {
        let mut bytes = [0; 8];
        ram.read(address, &mut bytes).expect("inside memory");
        u64::from_le_bytes(bytes)
    };
    let allow = |stores: u64| {
        ram.write(layout::STORES_BUDGET, &stores.to_le_bytes()).expect("inside memory");
    };
    let mut allowed = 0;
    let report = watch(
        &vm,
        seed,
        lose,
        |random| {
            let ahead = allowed - word(layout::STORES_DONE);
            if ahead < 20_000 {
                allowed = (allowed + random % 8_000).min(layout::STORES_TOTAL);
                allow(allowed);
            }
            word(layout::STORES_DONE) < stores
        },
        || run::unexpected(&ram),
    );
    if stores == layout::STORES_TOTAL {
        allow(layout::STORES_TOTAL + 1);
        vm.resume().expect("the guest goes on");
        assert_eq!(vm.wait(), VmState::Ended(End::Exit(0)));
    } else {
        vm.quit();
    }
    report
}

fn tell(what: &str, accel: AcceleratorChoice, report: &Report) {
    let Report { harvests: [running, still], reported, unchanged, missed } = report;
    let missed = missed.len();
    let _ = writeln!(
        std::io::stderr(),
        "dirty log: {what} on {accel:?}: {running} harvests of a running guest, {still} of one \
         that stood still; {reported} pages reported, {unchanged} of them unchanged, {missed} missed"
    );
}

/// The accelerators that run guests here.
fn accelerators() -> Vec<AcceleratorChoice> {
    match probe_kvm().tier() {
        Some(_) => vec![AcceleratorChoice::Soft, AcceleratorChoice::Kvm],
        None => {
            let _ = writeln!(io::stderr(), "dirty log: no KVM runs a guest here: not run on it");
            vec![AcceleratorChoice::Soft]
        }
    }
}

#[test]
fn a_million_stores_are_all_logged() {
    for accel in accelerators() {
        let report = stores(accel, layout::STORES_TOTAL, 1, None);
        tell("a million stores", accel, &report);
        assert!(report.harvests.iter().all(|harvests| *harvests > 20), "{report:?}");
        assert!(report.missed.is_empty(), "{report:?}");
    }
}

#[test]
fn a_harvest_that_is_lost_is_noticed() {
    for accel in accelerators() {
        let report = stores(accel, 300_000, 2, Some(5));
        tell("stores less one harvest", accel, &report);
        assert!(!report.missed.is_empty(), "{report:?}");
    }
}

/// What a guest prints.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Printed {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    fn lines(&self) -> usize {
        self.0.lock().unwrap().iter().filter(|byte| **byte == b'\n').count()
    }
}

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The embedded guest: it rewrites memory and page tables, and a disk reads into its memory.
fn embedded_guest(accel: AcceleratorChoice) -> Report {
    let disk = std::env::temp_dir().join(format!("ferry-dirty-{}-{accel:?}", std::process::id()));
    std::fs::write(&disk, vec![0; 1 << 20]).expect("a disk");
    let mut config = unpromised("devices", 16 << 20);
    config.cpus.count = 2;
    config
        .plug(VirtioKind::Block {
            id: "disk0".to_owned(),
            serial: String::new(),
            sectors: 2048,
            read_only: false,
        })
        .expect("a slot");
    let mut parameters = Parameters::new(config.memory_bytes, 2, u64::MAX);
    parameters.tsc_khz = config.cpus.tsc_khz;
    parameters.drift_ppm = 100_000;
    parameters.clock_slack_ns = 10_000_000;
    parameters.pages_per_round = 16;
    parameters.checks_per_round = 16;
    parameters.disk_sectors = 2048;
    parameters.flags = Flags::DISK
        .with(Flags::TSC_UNPROMISED)
        .with(Flags::CPUID_UNPROMISED)
        .with(Flags::LAPIC_PHASE_UNPROMISED);
    let mut host = HostConfig { accel, ..HostConfig::default() };
    host.disk.insert("disk0".to_owned(), DiskBackend { path: disk.clone() });
    let boot = Boot::Embedded(Box::new(parameters));
    let printed = Printed::default();
    let mut endpoints = Endpoints::default();
    endpoints.outputs.insert("com1".to_owned(), Box::new(printed.clone()));
    let vm = Vm::create(&config, &boot, &host, endpoints).expect("a machine");
    // Each of the guest's rounds, of which it prints a line, writes to the disk and reads it back.
    let report = watch(&vm, 3, None, |_| printed.lines() < 100, || printed.text());
    vm.quit();
    std::fs::remove_file(&disk).expect("the disk goes");
    report
}

#[test]
fn what_devices_store_is_logged() {
    for accel in accelerators() {
        let report = embedded_guest(accel);
        tell("the embedded guest with a disk", accel, &report);
        assert!(report.missed.is_empty(), "{report:?}");
    }
}
