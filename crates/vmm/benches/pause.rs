//! How long a guest stands still for its state alone, on each accelerator, phase by phase: stop the
//! vCPUs, save every section, put the sections into another machine, let that one run. Memory is
//! not moved here; `cargo bench -p migration` measures that.

use std::time::{Duration, Instant};

use guest::{Flags, Parameters};
use machine::{AcceleratorChoice, HostConfig, MachineConfig};
use vmm::{Boot, Endpoints, Machine, Vm, probe_kvm};

const ROUNDS: usize = 60;
const MEMORY: u64 = 16 << 20;
const PHASES: [&str; 4] = ["pause", "save", "restore", "resume"];

fn configuration(cpus: u32) -> MachineConfig {
    let mut config = MachineConfig::new("bench", [1; 16], MEMORY);
    config.cpus.count = cpus;
    config.cpus.promise_tsc = false;
    config.cpus.promise_cpuid = false;
    config
}

fn boot(config: &MachineConfig) -> Boot {
    let mut parameters = Parameters::new(config.memory_bytes, config.cpus.count.into(), 0);
    parameters.tsc_khz = config.cpus.tsc_khz;
    parameters.flags = Flags::HPET
        .with(Flags::TSC_UNPROMISED)
        .with(Flags::CPUID_UNPROMISED)
        .with(Flags::LAPIC_PHASE_UNPROMISED);
    parameters.drift_ppm = 10_000;
    parameters.clock_slack_ns = 1_000_000;
    Boot::Embedded(Box::new(parameters))
}

fn copy_memory(from: &Vm, to: &Machine) {
    let mut page = [0; memory::PAGE_SIZE];
    for index in 0..from.ram().pages() {
        from.ram().read_page(index, &mut page);
        to.ram().write(to.ram().address_of(index), &page).expect("the same memory");
    }
}

/// One pause and all that follows, in the order of [`PHASES`]; and the machine that runs on.
fn once(vm: &Vm, host: &HostConfig) -> ([Duration; 4], Vm) {
    let mut took = [Duration::ZERO; 4];
    let mut timed = |phase: usize, started: Instant| took[phase] = started.elapsed();
    let started = Instant::now();
    vm.pause().expect("it pauses");
    timed(0, started);
    let started = Instant::now();
    let sections = vm.save().expect("it is saved");
    timed(1, started);
    // A destination has built its machine before the source pauses.
    let mut machine = Machine::build(vm.config(), host).expect("a machine");
    copy_memory(vm, &machine);
    let started = Instant::now();
    machine.restore(&sections).expect("it is restored");
    timed(2, started);
    let next = Vm::adopt(machine, Endpoints::default());
    let started = Instant::now();
    next.resume().expect("it runs");
    timed(3, started);
    vm.quit();
    vm.wait();
    (took, next)
}

fn measure(accel: AcceleratorChoice, name: &str, cpus: u32) {
    let host = HostConfig { accel, ..HostConfig::default() };
    let config = configuration(cpus);
    let mut vm = match Vm::create(&config, &boot(&config), &host, Endpoints::default()) {
        Ok(vm) => vm,
        Err(error) => return println!("{name:<6} {cpus:>5}  not measured: {error}"),
    };
    vm.resume().expect("it runs");
    let mut all: [Vec<Duration>; 4] = Default::default();
    for _ in 0..ROUNDS {
        std::thread::sleep(Duration::from_millis(5));
        let (took, next) = once(&vm, &host);
        vm = next;
        for (phase, took) in all.iter_mut().zip(took) {
            phase.push(took);
        }
    }
    vm.quit();
    print!("{name:<6} {cpus:>5} ");
    let mut sum = Duration::ZERO;
    for phase in &mut all {
        phase.sort();
        let middle = phase[phase.len() / 2];
        sum += middle;
        print!(" {:>7.3} /{:>7.3}", ms(middle), ms(phase[phase.len() - 1]));
    }
    println!("  {:>7.3}", ms(sum));
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn main() {
    match probe_kvm().tier() {
        Some(tier) => println!("kvm tier: {tier:?}"),
        None => println!("kvm tier: none"),
    }
    println!("milliseconds, median / longest of {ROUNDS}");
    print!("{:<6} {:>5} ", "ACCEL", "VCPUS");
    for phase in PHASES {
        print!(" {phase:>16}");
    }
    println!("  {:>7}", "sum");
    for cpus in [1, 2] {
        measure(AcceleratorChoice::Soft, "soft", cpus);
        measure(AcceleratorChoice::Kvm, "kvm", cpus);
    }
}
