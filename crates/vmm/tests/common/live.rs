//! Guests that run in machines with threads, and are moved while they do.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use guest::{Flags, Line, Parameters};
use machine::{HostConfig, MachineConfig};
use migration::{Cancel, MigrationError, Outcome, Ownership, Settings, Silent};
use transport::Channel;
use vmm::{Boot, Endpoints, Vm, VmTarget};

const PATIENCE: Duration = Duration::from_secs(60);

/// What the guest prints, wherever it runs.
#[derive(Clone, Default)]
pub struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Printed {
    /// A machine's outputs, of which the serial port's is kept.
    pub fn endpoints(&self) -> Endpoints {
        let mut endpoints = Endpoints::default();
        endpoints.outputs.insert("com1".to_owned(), Box::new(self.clone()));
        endpoints
    }

    /// All of it.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Numbers of the rounds that the guest has told of.
    pub fn rounds(&self) -> Vec<u64> {
        self.text()
            .lines()
            .filter_map(|line| match Line::parse(line) {
                Some(Line::Round(round)) => Some(round.round),
                _ => None,
            })
            .collect()
    }

    /// Waits until the guest has told of this many more.
    pub fn wait_for_rounds(&self, more: usize) {
        let wanted = self.rounds().len() + more;
        let started = Instant::now();
        while self.rounds().len() < wanted {
            assert!(started.elapsed() < PATIENCE, "the guest is silent:\n{}", self.text());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The embedded guest at work in a machine of this configuration.
pub fn start(config: &MachineConfig, rounds: u64, host: &HostConfig, printed: &Printed) -> Vm {
    let mut parameters = Parameters::new(config.memory_bytes, config.cpus.count.into(), rounds);
    parameters.tsc_khz = config.cpus.tsc_khz;
    parameters.drift_ppm = 10_000;
    parameters.clock_slack_ns = 1_000_000;
    parameters.pages_per_round = 64;
    parameters.checks_per_round = 512;
    for (holds, flag) in [
        (config.hpet, Flags::HPET),
        (!config.cpus.promise_tsc, Flags::TSC_UNPROMISED),
        (!config.cpus.promise_tsc, Flags::LAPIC_PHASE_UNPROMISED),
        (!config.cpus.promise_cpuid, Flags::CPUID_UNPROMISED),
    ] {
        if holds {
            parameters.flags = parameters.flags.with(flag);
        }
    }
    let boot = Boot::Embedded(Box::new(parameters));
    let vm = Vm::create(config, &boot, host, printed.endpoints()).unwrap();
    vm.resume().unwrap();
    vm
}

/// Moves a machine to a host with this configuration; the new machine, or why not, on both sides.
pub fn move_to(
    vm: &Vm,
    host: &HostConfig,
    printed: &Printed,
    settings: &Settings,
) -> (Result<Outcome, MigrationError>, Result<Vm, MigrationError>) {
    let (here, there) = Channel::pair().unwrap();
    let mut target = VmTarget::new(host.clone(), {
        let printed = printed.clone();
        move |_| printed.endpoints()
    });
    let receiving = thread::spawn(move || {
        migration::receive(
            &mut target,
            there,
            &mut Ownership::without_record(),
            &Settings::default(),
            &mut Silent,
            &Cancel::new(),
        )
        .map(|_| target.into_vm().expect("the machine was taken"))
    });
    let sent = migration::migrate(
        &mut vm.source(),
        here,
        &mut Ownership::without_record(),
        settings,
        &mut Silent,
        &Cancel::new(),
    );
    (sent, receiving.join().unwrap())
}

/// Limits for a host that is shared by several tests.
pub fn patient() -> Settings {
    Settings { downtime_limit: Duration::from_secs(3), ..Settings::default() }
}
