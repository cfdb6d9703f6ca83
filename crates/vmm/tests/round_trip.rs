//! Whatever state a guest reaches, another accelerator takes it and gives it back the same.
//!
//! Every program of the conformance suite is stopped at random instructions on the software CPU.
//! There the state of each vCPU makes a detour; what comes back is compared field by field, put into
//! a machine of its own, and goes on to the same end, to the bit, as a run without detours.
#![cfg(target_arch = "x86_64")]

mod common;
#[path = "conformance/suite/mod.rs"]
mod suite;

use std::io::Write as _;

use accel_kvm::{Capabilities, CpuidPolicy, KvmAccelerator, KvmVcpu};
use accel_soft::SoftAccelerator;
use common::{Random, run_to};
use cpu::{AcceleratorError, CpuModel, CpuState, Topology, Vcpu};
use machine::{AcceleratorChoice, HostConfig, MachineConfig};
use memory::{GuestRam, PAGE_SIZE};
use suite::programs::{self, Program};
use suite::run;
use vmm::{Machine, Request, Stop};
use vmstate::{SavedSection, VmState};

/// Stops in each program.
const STOPS: usize = 5;
/// Stops in the programs that walk through registers at random.
const STOPS_IN_WALKS: usize = 60;

/// Where a vCPU's state goes before it comes back.
trait Detour {
    fn there_and_back(
        &mut self,
        topology: Topology,
        state: &CpuState,
    ) -> Result<CpuState, AcceleratorError>;
}

/// A fresh software CPU.
struct Soft;

impl Detour for Soft {
    fn there_and_back(
        &mut self,
        topology: Topology,
        state: &CpuState,
    ) -> Result<CpuState, AcceleratorError> {
        let model = CpuModel::find("qemu64").expect("the default model");
        let ram = GuestRam::new(1 << 16).expect("a little memory");
        let mut vcpu = SoftAccelerator::new(ram).vcpu(model, topology);
        vcpu.set_state(state, 0)?;
        vcpu.state(0)
    }
}

/// vCPUs of the host's KVM, each used again and again. They never run.
struct Kvm(Vec<KvmVcpu>);

impl Kvm {
    fn new() -> Self {
        let model = CpuModel::find("qemu64").expect("the default model");
        let ram = GuestRam::new(1 << 16).expect("a little memory");
        let accelerator = KvmAccelerator::new(ram).expect("a VM");
        let count = 2;
        let vcpu = |apic_id| {
            accelerator
                .vcpu(model, Topology { apic_id, count }, CpuidPolicy::AsFarAsPossible)
                .expect("a vcpu")
        };
        Self((0..count).map(vcpu).collect())
    }
}

impl Detour for Kvm {
    fn there_and_back(
        &mut self,
        topology: Topology,
        state: &CpuState,
    ) -> Result<CpuState, AcceleratorError> {
        let vcpu = &mut self.0[topology.apic_id as usize];
        vcpu.set_state(state, 0)?;
        vcpu.state(0)
    }
}

/// A machine in the middle of its run, as another one with the same memory and state.
fn continued(config: &MachineConfig, from: &Machine, sections: &[SavedSection]) -> Machine {
    let mut to = Machine::build(config, &host()).expect("a machine");
    let mut page = [0; PAGE_SIZE];
    for index in 0..from.ram().pages() {
        from.ram().read_page(index, &mut page);
        if page != [0; PAGE_SIZE] {
            to.ram().write_page(index, &page);
        }
    }
    to.restore(sections).expect("the state is taken");
    to
}

fn host() -> HostConfig {
    HostConfig { accel: AcceleratorChoice::Soft, ..HostConfig::default() }
}

fn start(program: &Program, config: &MachineConfig) -> Machine {
    Machine::boot(config, &run::boot(program, config), &host()).expect("a machine")
}

fn ended(end: Option<Stop>) -> bool {
    matches!(end, Some(Stop::Request(Request::Exit(0))))
}

/// Runs a program with detours. Returns how many states made one; what differed is appended.
fn detours_of(
    program: &Program,
    stops: usize,
    detour: &mut dyn Detour,
    random: &mut Random,
    wrong: &mut Vec<String>,
) -> usize {
    let config = run::configuration(program, AcceleratorChoice::Soft, true);
    let mut still = start(program, &config);
    assert!(ended(run_to(&mut still, u64::MAX)), "{} does not end", program.name);
    let length = still.instructions();
    let mut points: Vec<u64> = (0..stops).map(|_| random.below(length)).collect();
    points.sort_unstable();
    let mut moving = start(program, &config);
    let mut states = 0;
    for point in points {
        assert!(run_to(&mut moving, point).is_none(), "{} ends early", program.name);
        let mut sections = moving.save().expect("the state");
        for section in &mut sections {
            if section.name != CpuState::NAME {
                continue;
            }
            let before: CpuState = section.decode().expect("a vcpu's state");
            let topology = Topology { apic_id: section.instance, count: program.vcpus };
            let what = format!("{} at {point}, vcpu {}", program.name, section.instance);
            match detour.there_and_back(topology, &before) {
                Ok(after) => {
                    let different = before.differences(&after);
                    wrong.extend(different.iter().map(|field| format!("{what}: {field}")));
                    *section = SavedSection::encode(CpuState::NAME, section.instance, &after);
                }
                Err(error) => wrong.push(format!("{what}: {error}")),
            }
            states += 1;
        }
        if wrong.is_empty() {
            moving = continued(&config, &moving, &sections);
        }
    }
    if wrong.is_empty() {
        assert!(ended(run_to(&mut moving, u64::MAX)), "{} does not end", program.name);
        assert_eq!(moving.instructions(), length, "{}", program.name);
        assert_eq!(moving.digest().unwrap(), still.digest().unwrap(), "{}", program.name);
    }
    states
}

/// Detours in every program.
fn detours(name: &str, detour: &mut dyn Detour, seed: u64) {
    let mut random = Random(seed);
    let mut wrong = Vec::new();
    let mut states = 0;
    for program in programs::all() {
        let stops = if program.name.contains("walk") { STOPS_IN_WALKS } else { STOPS };
        states += detours_of(&program, stops, detour, &mut random, &mut wrong);
    }
    let different = wrong.len();
    wrong.truncate(40);
    assert!(
        wrong.is_empty(),
        "seed {seed}: {different} differences after a detour by {name}:\n{}",
        wrong.join("\n")
    );
    let _ = writeln!(
        std::io::stderr(),
        "round trip: {states} states (seed {seed}) from the software CPU by {name} and back: equal \
         in every field, and their programs end the same"
    );
}

/// Where the stops come from: a number of one's own in FERRY_SEED finds others.
fn seed() -> u64 {
    std::env::var("FERRY_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

#[test]
fn another_software_cpu_gives_every_state_back() {
    detours("another software CPU", &mut Soft, seed());
}

#[test]
fn kvm_gives_every_state_back() {
    match Capabilities::read() {
        Ok(_) => detours("KVM", &mut Kvm::new(), seed()),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "round trip: not run by KVM: {error}");
        }
    }
}

/// Loses what is in the lowest bit of the highest vector register.
struct Lossy;

impl Detour for Lossy {
    fn there_and_back(
        &mut self,
        _: Topology,
        state: &CpuState,
    ) -> Result<CpuState, AcceleratorError> {
        let mut after = state.clone();
        after.sse.xmm[15][0] ^= 1;
        Ok(after)
    }
}

#[test]
fn a_detour_that_changes_one_bit_is_noticed() {
    let programs = programs::all();
    let program = programs.first().expect("a program");
    let mut wrong = Vec::new();
    assert_eq!(detours_of(program, 1, &mut Lossy, &mut Random(1), &mut wrong), 1);
    assert!(wrong.len() == 1 && wrong[0].contains("sse.xmm"), "{wrong:?}");
}
