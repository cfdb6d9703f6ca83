//! A machine without an accelerator: a thread that stores to memory by a rule that can be checked
//! afterwards, and two sections of state.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use memory::{DirtyBitmap, GuestRam, PAGE_SIZE};
use migration::{
    Cancel, Cause, MigrationError, MigrationSource, MigrationTarget, Outcome, Ownership, Received,
    Refusal, Settings, SharedSchemas, Silent, migrate, receive,
};
use transport::Channel;
use vmstate::SavedSection;

pub mod arbiter;
mod sections;

pub use sections::{ClockState, GuestState};

/// How many of all guests of one test run at this moment. More than one of the same guest is what
/// must never be.
#[derive(Clone, Debug, Default)]
pub struct RunningGuests(Arc<AtomicUsize>);

impl RunningGuests {
    fn start(&self) {
        assert_eq!(self.0.fetch_add(1, Ordering::SeqCst), 0, "the guest runs twice");
    }

    fn stop(&self) {
        assert_eq!(self.0.fetch_sub(1, Ordering::SeqCst), 1);
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// How the guest behaves.
#[derive(Clone, Debug)]
pub struct Load {
    /// Pages that it stores to, from the first on; the others hold what they held at the start.
    pub working_set: usize,
    /// Pages a second.
    pub rate: u64,
}

/// The guest's registers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Registers {
    steps: u64,
    random: u64,
    /// A sum over all pages' contents, kept up to date by the guest itself.
    sum: u64,
}

struct Shared {
    ram: GuestRam,
    load: Load,
    registers: Mutex<Registers>,
    run: AtomicBool,
    end: AtomicBool,
    throttle: AtomicUsize,
}

/// What a page adds to the sum.
fn weight(page: usize, content: &[u8; PAGE_SIZE]) -> u64 {
    content.chunks_exact(8).enumerate().fold(0u64, |sum, (at, word)| {
        let value = word.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        sum.wrapping_add(value.wrapping_mul((page * 512 + at) as u64 | 1))
    })
}

fn sum_of(ram: &GuestRam) -> u64 {
    let mut content = [0; PAGE_SIZE];
    (0..ram.pages()).fold(0, |sum, page| {
        ram.read_page(page, &mut content);
        sum.wrapping_add(weight(page, &content))
    })
}

impl Shared {
    /// One step: a page of the working set gets new content.
    fn step(&self, registers: &mut Registers) {
        registers.steps += 1;
        registers.random = registers
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let page = (registers.random >> 33) as usize % self.load.working_set;
        let mut content = [0; PAGE_SIZE];
        self.ram.read_page(page, &mut content);
        registers.sum = registers.sum.wrapping_sub(weight(page, &content));
        if registers.steps.is_multiple_of(16) {
            content = [0; PAGE_SIZE];
        } else {
            for at in [0, 1000, 4088] {
                content[at..at + 8].copy_from_slice(&registers.random.to_be_bytes());
            }
        }
        self.ram.write_page(page, &content);
        registers.sum = registers.sum.wrapping_add(weight(page, &content));
    }

    fn live(&self) {
        let started = Instant::now();
        let mut done = 0u64;
        while !self.end.load(Ordering::Acquire) {
            {
                let mut registers = self.registers.lock().unwrap();
                if self.run.load(Ordering::Acquire) && self.load.rate > 0 {
                    let percent = 100 - self.throttle.load(Ordering::Acquire) as u64;
                    let due = started.elapsed().as_micros() as u64 * self.load.rate * percent
                        / 100_000_000;
                    // Time in which it stood still is not made up for.
                    done = done.max(due.saturating_sub(256)).min(due);
                    while done < due {
                        self.step(&mut registers);
                        done += 1;
                    }
                }
            }
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// A guest, running or paused.
pub struct Machine {
    shared: Arc<Shared>,
    running: bool,
    guests: RunningGuests,
    thread: Option<JoinHandle<()>>,
    pub calls: Vec<&'static str>,
    pub omit: Option<&'static str>,
    pub unlogged: Option<usize>,
    pub longest_pause: Duration,
    pub pauses: u32,
    paused_at: Option<Instant>,
}

pub const TYPE: &str = "synthetic-1";

impl Machine {
    fn assemble(ram: GuestRam, load: Load, registers: Registers, guests: &RunningGuests) -> Self {
        let shared = Arc::new(Shared {
            ram,
            load,
            registers: Mutex::new(registers),
            run: AtomicBool::new(false),
            end: AtomicBool::new(false),
            throttle: AtomicUsize::new(0),
        });
        // A guest that stores to nothing needs nobody who does.
        let thread = (shared.load.rate > 0).then(|| {
            let guest = shared.clone();
            thread::spawn(move || guest.live())
        });
        Self {
            shared,
            running: false,
            guests: guests.clone(),
            thread,
            calls: Vec::new(),
            omit: None,
            unlogged: None,
            longest_pause: Duration::ZERO,
            pauses: 0,
            paused_at: None,
        }
    }

    /// A machine of so many pages, paused. `filled` pages in the middle hold something.
    pub fn new(pages: usize, filled: usize, load: Load, guests: &RunningGuests) -> Self {
        let ram = GuestRam::new((pages * PAGE_SIZE) as u64).unwrap();
        let mut content = [0; PAGE_SIZE];
        for page in (pages / 4..pages).take(filled) {
            for (at, byte) in content.iter_mut().enumerate() {
                *byte = (page * 31 + at * 7) as u8;
            }
            ram.write_page(page, &content);
        }
        let sum = sum_of(&ram);
        Self::assemble(ram, load, Registers { steps: 0, random: 42, sum }, guests)
    }

    pub fn started(mut self) -> Self {
        self.set_running(true);
        self
    }

    fn set_running(&mut self, run: bool) {
        if run == self.running {
            return;
        }
        // Taking the lock is the safe point: no step is under way.
        let guard = self.shared.registers.lock().unwrap();
        if run {
            self.guests.start();
            if let Some(at) = self.paused_at.take() {
                self.longest_pause = self.longest_pause.max(at.elapsed());
            }
        } else {
            self.guests.stop();
            self.paused_at = Some(Instant::now());
            self.pauses += 1;
        }
        self.shared.run.store(run, Ordering::Release);
        drop(guard);
        self.running = run;
    }

    pub fn is_running(&self) -> bool {
        self.running
    }

    pub fn steps(&self) -> u64 {
        self.shared.registers.lock().unwrap().steps
    }

    /// Memory is what the guest made of it.
    pub fn check(&self) {
        let registers = self.shared.registers.lock().unwrap();
        assert_eq!(sum_of(&self.shared.ram), registers.sum, "memory is not what the guest wrote");
    }

    /// The guest goes on and its memory stays right.
    pub fn check_alive(&self) {
        assert!(self.running);
        if self.shared.load.rate > 0 {
            let before = self.steps();
            let until = Instant::now() + Duration::from_secs(10);
            while self.steps() == before {
                assert!(Instant::now() < until, "the guest does not go on");
                thread::sleep(Duration::from_millis(1));
            }
        }
        self.check();
    }

    fn device_tree(&self) -> Vec<u8> {
        let mut tree = Vec::new();
        tree.extend((self.shared.ram.pages() as u64).to_be_bytes());
        tree.extend((self.shared.load.working_set as u64).to_be_bytes());
        tree.extend(self.shared.load.rate.to_be_bytes());
        tree
    }

    fn sections(&self) -> Vec<SavedSection> {
        let registers = self.shared.registers.lock().unwrap().clone();
        let Registers { steps, random, sum } = registers;
        let guest = GuestState { steps, random, sum };
        let clock = ClockState { ticks: steps * 3, armed: steps % 2 == 0, queue: vec![1, 2, 3] };
        vec![
            SavedSection::encode("guest", 0, &guest),
            SavedSection::encode("clock", 0, &clock),
            SavedSection::encode("clock", 1, &clock),
        ]
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if self.running {
            self.guests.stop();
        }
    }
}

impl MigrationSource for Machine {
    fn machine_type(&self) -> String {
        TYPE.to_owned()
    }

    fn machine(&self) -> Vec<u8> {
        self.device_tree()
    }

    fn schemas(&self) -> SharedSchemas {
        sections::schemas()
    }

    fn ram(&self) -> GuestRam {
        self.shared.ram.clone()
    }

    fn was_running(&self) -> bool {
        self.running
    }

    fn start_dirty_log(&mut self) -> Result<(), Cause> {
        self.calls.push("start_dirty_log");
        self.shared.ram.harvest();
        Ok(())
    }

    fn stop_dirty_log(&mut self) {
        self.calls.push("stop_dirty_log");
    }

    fn harvest_dirty(&mut self) -> Result<DirtyBitmap, Cause> {
        let _guard = self.shared.registers.lock().unwrap();
        let mut dirty = self.shared.ram.harvest();
        if let Some(page) = self.unlogged {
            dirty.remove(page);
        }
        Ok(dirty)
    }

    fn pause(&mut self) -> Result<(), Cause> {
        self.calls.push("pause");
        self.set_running(false);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Cause> {
        self.calls.push("resume");
        self.set_running(true);
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<SavedSection>, Cause> {
        assert!(!self.running, "the state of a running guest is asked for");
        let mut sections = self.sections();
        sections.retain(|section| self.omit != Some(section.name.as_str()));
        Ok(sections)
    }

    fn release(&mut self) -> Result<(), Cause> {
        assert!(!self.running, "the disks of a running guest are let go of");
        self.calls.push("release");
        Ok(())
    }

    fn retake(&mut self) -> Result<(), Cause> {
        self.calls.push("retake");
        Ok(())
    }

    fn throttle(&mut self, percent: u8) -> Result<(), Cause> {
        self.calls.push("throttle");
        self.shared.throttle.store(percent.into(), Ordering::Release);
        Ok(())
    }
}

/// A process that waits for a machine.
pub struct Target {
    pub guests: RunningGuests,
    pub machine: Option<Machine>,
    pub refuse: Option<String>,
    pub fail_run: Option<String>,
    pub spoil_page: Option<usize>,
    pub needs: Option<&'static str>,
    pub build_takes: Duration,
    /// Whether memory is compared with the guest's own sum before it runs: it takes a while.
    pub check_on_run: bool,
    pub discarded: bool,
}

impl Target {
    pub fn new(guests: &RunningGuests) -> Self {
        Self {
            guests: guests.clone(),
            machine: None,
            refuse: None,
            fail_run: None,
            spoil_page: None,
            needs: None,
            build_takes: Duration::ZERO,
            check_on_run: true,
            discarded: false,
        }
    }

    fn built(&self) -> &Machine {
        self.machine.as_ref().expect("a machine was built")
    }

    pub fn take(&mut self) -> Machine {
        self.machine.take().expect("a machine was received")
    }
}

impl MigrationTarget for Target {
    fn build(&mut self, machine_type: &str, machine: &[u8]) -> Result<(), Refusal> {
        if machine_type != TYPE {
            return Err(Refusal::new(format!("machine type `{machine_type}` is not known")));
        }
        if let Some(reason) = self.refuse.take() {
            return Err(Refusal::new(reason));
        }
        thread::sleep(self.build_takes);
        let words: Vec<u64> = machine
            .chunks(8)
            .map(|word| word.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
            .collect();
        let [pages, working_set, rate] = words[..] else {
            return Err(Refusal::new("the device tree has a wrong length"));
        };
        if pages > 1 << 20 {
            return Err(Refusal::new(format!("not enough memory for {pages} pages")));
        }
        let ram = GuestRam::new(pages * PAGE_SIZE as u64)
            .map_err(|error| Refusal::new(error.to_string()))?;
        let load = Load { working_set: working_set as usize, rate };
        let registers = Registers { steps: 0, random: 0, sum: 0 };
        self.machine = Some(Machine::assemble(ram, load, registers, &self.guests));
        Ok(())
    }

    fn schemas(&self) -> SharedSchemas {
        sections::schemas()
    }

    fn ram(&self) -> GuestRam {
        self.built().shared.ram.clone()
    }

    fn load(&mut self, sections: &[SavedSection]) -> Result<(), Refusal> {
        let needed = [("guest", 0), ("clock", 0), ("clock", 1)];
        let missing: Vec<_> = needed
            .iter()
            .copied()
            .chain(self.needs.map(|name| (name, 0)))
            .filter(|(name, instance)| {
                !sections.iter().any(|has| has.name == *name && has.instance == *instance)
            })
            .map(|(name, instance)| format!("section `{name}` {instance} is missing"))
            .collect();
        if let Some(refusal) = Refusal::from_reasons(missing) {
            return Err(refusal);
        }
        let refused = |error: vmstate::DecodeError| Refusal::new(error.to_string());
        let GuestState { steps, random, sum } = sections[0].decode().map_err(refused)?;
        for clock in &sections[1..] {
            let ClockState { ticks, .. } = clock.decode().map_err(refused)?;
            if ticks != steps.wrapping_mul(3) {
                return Err(Refusal::new("the clock is not the guest's"));
            }
        }
        let built = self.built();
        *built.shared.registers.lock().unwrap() = Registers { steps, random, sum };
        if let Some(page) = self.spoil_page {
            built.shared.ram.write_page(page, &[0xee; PAGE_SIZE]);
        }
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<SavedSection>, Cause> {
        Ok(self.built().sections())
    }

    fn run(&mut self) -> Result<(), Cause> {
        if let Some(reason) = self.fail_run.take() {
            return Err(reason.into());
        }
        let machine = self.machine.as_mut().expect("a machine was built");
        if self.check_on_run {
            machine.check();
        }
        machine.set_running(true);
        Ok(())
    }

    fn discard(&mut self) {
        assert!(!self.discarded, "discarded twice");
        self.discarded = true;
        self.machine = None;
    }
}

/// Settings for tests: the same rules, shorter waits, and a pause that a busy host can keep.
pub fn settings() -> Settings {
    Settings {
        downtime_limit: Duration::from_secs(3),
        hello_timeout: Duration::from_secs(5),
        build_timeout: Duration::from_secs(5),
        io_timeout: Duration::from_secs(5),
        switchover_timeout: Duration::from_secs(5),
        ..Settings::default()
    }
}

/// One move: what each side says about it.
pub type Ends = (Result<Outcome, MigrationError>, Result<Received, MigrationError>);

/// Moves a machine over a channel whose two ends are given.
pub fn move_over(
    machine: &mut Machine,
    target: &mut Target,
    (near, far): (Channel, Channel),
    settings: &Settings,
    cancel: &Cancel,
) -> Ends {
    thread::scope(|scope| {
        let far = scope.spawn(|| {
            receive(target, far, &mut unrecorded(), settings, &mut Silent, &Cancel::new())
        });
        let near = migrate(machine, near, &mut unrecorded(), settings, &mut Silent, cancel);
        (near, far.join().unwrap())
    })
}

/// Moves a machine inside this process, which must work.
pub fn move_well(
    machine: &mut Machine,
    guests: &RunningGuests,
    settings: &Settings,
) -> (Machine, Outcome) {
    let mut target = Target::new(guests);
    let pair = Channel::pair().unwrap();
    let (near, far) = move_over(machine, &mut target, pair, settings, &Cancel::new());
    let (near, far) = (near.unwrap(), far.unwrap());
    assert_eq!(near.digest, far.digest);
    (target.take(), near)
}

/// A right to a machine of which no record is kept.
pub fn unrecorded() -> Ownership {
    Ownership::without_record()
}
