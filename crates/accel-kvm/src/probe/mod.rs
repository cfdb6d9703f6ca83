//! Whether the host's KVM runs our guests: found by running small ones, not by asking.
//!
//! There are hosts whose KVM has no hardware behind it: it runs ring 3 as it is and takes ring 0
//! apart instruction by instruction, as far as it knows them. A guest that keeps ring 0 simple runs
//! there, an operating system does not.

mod programs;

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use cpu::{Activity, Bus, CpuModel, CpuState, Exit, GeneralProtection, Topology, Vcpu};
use memory::GuestRam;

use crate::{CpuidPolicy, Kicker, KvmAccelerator, KvmError, KvmVcpu, bare, tsc};

/// The port that a probe puts its result out to, and the one that ends it.
const RESULT: u16 = 0xe9;
const END: u16 = 0xf4;
const BREAKPOINT: u8 = 3;
/// The vector of the interrupt that a guest sends itself.
const INTERRUPT: u8 = 0x41;
/// Where in a program its handler starts.
const HANDLER: u64 = 16;
/// How long a probe may take.
const LIMIT: Duration = Duration::from_secs(2);
/// How often a probe that is over its time is told so.
const REMINDER: Duration = Duration::from_millis(20);
/// What the long loop takes at most where it runs as it is.
const NATIVE: Duration = Duration::from_millis(10);

/// How much of a guest the host's KVM runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Guests whose ring 0 is simple integer code.
    Basic,
    /// Every guest.
    Full,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// The tier that needs it.
    pub tier: Tier,
    /// True if it did what it must.
    pub works: bool,
    /// What came of it, in words.
    pub detail: String,
}

/// What came of all probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// One by one.
    pub findings: Vec<Finding>,
}

impl Probe {
    /// Runs the probes, each in a VM of its own and for two seconds at most. If the first fails,
    /// the others are left out.
    pub fn run() -> Self {
        let mut findings = vec![finding("64-bit loop, stores, OUT and HLT", Tier::Basic, basic())];
        if findings.iter().all(|finding| finding.works) {
            findings.extend(full());
        }
        Self { findings }
    }

    /// The highest tier all of whose probes worked; `None` if there is no KVM that is of use.
    pub fn tier(&self) -> Option<Tier> {
        let works = |tier| {
            let mut of = self.findings.iter().filter(|finding| finding.tier == tier).peekable();
            of.peek().is_some() && of.all(|finding| finding.works)
        };
        match (works(Tier::Basic), works(Tier::Full)) {
            (false, _) => None,
            (true, false) => Some(Tier::Basic),
            (true, true) => Some(Tier::Full),
        }
    }
}

fn finding(name: &'static str, tier: Tier, result: Result<String, String>) -> Finding {
    let works = result.is_ok();
    Finding { name, tier, works, detail: result.unwrap_or_else(|reason| reason) }
}

fn full() -> Vec<Finding> {
    let plain = |program: &[u8], wanted| ring_0(program, wanted).map(|_| "right".to_owned());
    let list: [(&'static str, Result<String, String>); 11] = [
        ("movd in ring 0", plain(programs::movd(), 0x1234_5678)),
        ("paddd in ring 0", plain(programs::paddd(), 82)),
        ("fwait in ring 0", plain(programs::fwait(), 7)),
        ("popcnt in ring 0", plain(programs::popcnt(), 8)),
        ("cmpxchg16b in ring 0", plain(programs::cmpxchg16b(), 99)),
        ("int3 through the IDT", plain(programs::breakpoint(), 33)),
        ("SYSCALL from ring 3", syscall()),
        ("interrupts stay in service until their end", plain(programs::in_service(), 2)),
        ("a write to the TSC is seen", seen(tsc::write_is_seen())),
        ("CPUID can be masked", masked()),
        ("speed of ring 0", speed()),
    ];
    list.into_iter().map(|(name, result)| finding(name, Tier::Full, result)).collect()
}

fn seen(seen: bool) -> Result<String, String> {
    if seen { Ok("right".to_owned()) } else { Err("the guest sees the host's TSC".to_owned()) }
}

fn masked() -> Result<String, String> {
    let model = model()?;
    let missing = KvmAccelerator::missing_features(model).map_err(|error| error.sentence())?;
    let forced: Vec<String> =
        missing.into_iter().filter(|reason| reason.ends_with("cannot be masked")).collect();
    if forced.is_empty() { Ok("right".to_owned()) } else { Err(forced.join(", ")) }
}

fn syscall() -> Result<String, String> {
    let model = model()?;
    let mut state = bare::ring_3(model);
    state.msrs.lstar = bare::CODE + HANDLER;
    run(programs::syscall(), &state, u32::from(bare::KERNEL_CODE)).map(|_| "right".to_owned())
}

fn speed() -> Result<String, String> {
    let state = bare::ring_0(model()?);
    let (mut vcpu, mut port) = start(programs::long_loop(), &state)?;
    let watchdog = Watchdog::new(vcpu.kicker(), 5 * NATIVE);
    let began = Instant::now();
    let result = finish(&mut vcpu, &mut port, 0);
    let took = began.elapsed();
    drop(watchdog);
    let text = format!("300,000 turns of a loop: {} µs", took.as_micros());
    match result {
        Ok(()) if took < NATIVE => Ok(text),
        Ok(()) => Err(text),
        Err(reason) => Err(format!("{text}, {reason}")),
    }
}

fn model() -> Result<&'static CpuModel, String> {
    CpuModel::find("qemu64").ok_or_else(|| "there is no model to probe with".to_owned())
}

fn ring_0(program: &[u8], wanted: u32) -> Result<Duration, String> {
    run(program, &bare::ring_0(model()?), wanted)
}

/// The probe of the lower tier: after its result, the guest comes to rest in HLT.
fn basic() -> Result<String, String> {
    let state = bare::ring_0(model()?);
    let (mut vcpu, mut port) = start(programs::sum(), &state)?;
    let watchdog = Watchdog::new(vcpu.kicker(), LIMIT);
    finish(&mut vcpu, &mut port, 50_005_000)?;
    drop(watchdog);
    // The kernel keeps a halted vCPU to itself: look again and again until it is seen there.
    let began = Instant::now();
    port.ended = false;
    while began.elapsed() < LIMIT {
        let watchdog = Watchdog::new(vcpu.kicker(), REMINDER);
        vcpu.run(&mut port, 0).map_err(|error| error.to_string())?;
        drop(watchdog);
        if vcpu.state(0).map_err(|error| error.to_string())?.activity == Activity::Halted {
            return Ok("right".to_owned());
        }
    }
    Err("the guest does not come to rest".to_owned())
}

/// Runs a program to its end in a VM of its own.
fn run(program: &[u8], state: &CpuState, wanted: u32) -> Result<Duration, String> {
    let (mut vcpu, mut port) = start(program, state)?;
    let _watchdog = Watchdog::new(vcpu.kicker(), LIMIT);
    let began = Instant::now();
    finish(&mut vcpu, &mut port, wanted)?;
    Ok(began.elapsed())
}

fn start(program: &[u8], state: &CpuState) -> Result<(KvmVcpu, Port), String> {
    let build = || -> Result<KvmVcpu, KvmError> {
        let no_room = |error: memory::MemoryError| KvmError::State(error.to_string());
        let ram = GuestRam::new(bare::RAM_BYTES).map_err(no_room)?;
        bare::lay_out(&ram, program).map_err(no_room)?;
        // Whatever else goes wrong is a triple fault.
        for vector in [BREAKPOINT, INTERRUPT] {
            bare::set_gate(&ram, vector, bare::CODE + HANDLER).map_err(no_room)?;
        }
        let place = Topology { apic_id: 0, count: 1 };
        let model = model().map_err(KvmError::State)?;
        KvmAccelerator::new(ram)?.vcpu(model, place, CpuidPolicy::AsFarAsPossible)
    };
    let mut vcpu = build().map_err(|error| error.sentence())?;
    vcpu.set_state(state, 0).map_err(|error| error.to_string())?;
    Ok((vcpu, Port::default()))
}

fn finish(vcpu: &mut KvmVcpu, port: &mut Port, wanted: u32) -> Result<(), String> {
    let ran = vcpu.run(port, 0).map_err(|error| error.to_string())?;
    match (ran.exit, port.results.as_slice()) {
        (Exit::Attention, [result]) if *result == wanted => Ok(()),
        (Exit::Attention, results) => Err(format!("wrong: {results:x?} instead of {wanted:#x}")),
        (Exit::Budget, _) => Err("its time was up".to_owned()),
        _ => Err("triple fault".to_owned()),
    }
}

/// Kicks a vCPU once its time is up, and goes on until it is dropped: a kick that came between two
/// runs does not count.
struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watchdog {
    fn new(kicker: Kicker, limit: Duration) -> Self {
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || {
            let mut wait = limit;
            while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                kicker.kick();
                wait = REMINDER;
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It does nothing that can panic.
            let _ = thread.join();
        }
    }
}

/// The whole machine of a probe: two ports.
#[derive(Default)]
struct Port {
    results: Vec<u32>,
    ended: bool,
}

impl Bus for Port {
    fn port_in(&mut self, _: u64, _: u16, _: u8) -> u32 {
        u32::MAX
    }

    fn port_out(&mut self, _: u64, port: u16, _: u8, value: u32) {
        match port {
            RESULT if self.results.len() < 16 => self.results.push(value),
            END => self.ended = true,
            _ => {}
        }
    }

    fn mmio_read(&mut self, _: u64, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&mut self, _: u64, _: u64, _: &[u8]) {}

    fn tsc(&mut self, _: u64) -> u64 {
        0
    }

    fn apic_base(&mut self) -> u64 {
        0
    }

    fn set_apic_base(&mut self, _: u64, _: u64) -> Result<(), GeneralProtection> {
        Err(GeneralProtection)
    }

    fn task_priority(&mut self) -> u8 {
        0
    }

    fn set_task_priority(&mut self, _: u64, _: u8) {}

    fn interrupt_pending(&mut self) -> bool {
        false
    }

    fn acknowledge_interrupt(&mut self, _: u64) -> Option<u8> {
        None
    }

    fn end_of_interrupt(&mut self, _: u8) {}

    fn attention(&mut self) -> bool {
        self.ended
    }
}
