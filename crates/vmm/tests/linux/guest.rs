//! A Linux guest that is typed to and moved, whichever machine it is in.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use machine::{CharacterBackend, DiskBackend, HostConfig, MachineConfig, RngSource, VirtioKind};
use migration::{
    Cancel, Failure, MigrationError, Observer, Outcome, Ownership, Phase, Progress, Settings,
    Silent, Standing,
};
use testkit::{Faults, Side};
use transport::{Address, Listener};
use vmm::{Boot, Endpoints, Vm, VmState, VmTarget};

use crate::console::Screen;
use crate::files::GuestFiles;

/// How long anything may take; far more than it takes on a slow and busy host.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// The id of the virtio console.
const CONSOLE: &str = "con0";

/// A machine with 256 MiB.
pub fn configuration(name: &str, cpus: u32) -> MachineConfig {
    let mut config = MachineConfig::new(name, [0x4c; 16], 256 << 20);
    config.cpus.count = cpus;
    config
}

/// Gives the machine a disk that is this file, on a host where it is.
pub fn add_disk(config: &mut MachineConfig, host: &mut HostConfig, file: &Path) {
    let length = file.metadata().expect("the disk's file").len();
    config
        .plug(VirtioKind::Block {
            id: "disk0".into(),
            serial: "ferry".into(),
            sectors: length / 512,
            read_only: false,
        })
        .expect("a slot is left");
    host.disk.insert("disk0".into(), DiskBackend { path: file.to_owned() });
}

/// Gives the machine a console and an entropy source.
pub fn add_console_and_entropy(config: &mut MachineConfig, host: &mut HostConfig) {
    config.plug(VirtioKind::Console { id: CONSOLE.into() }).expect("a slot is left");
    host.console.insert(CONSOLE.into(), CharacterBackend::Null);
    let entropy = VirtioKind::Rng { id: "rng0".into(), source: RngSource::Host };
    config.plug(entropy).expect("a slot is left");
}

/// When something on the host began and ended.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub began: Instant,
    pub ended: Instant,
}

/// A guest at its shell.
pub struct Guest {
    vm: Vm,
    pub screen: Screen,
    pub second_screen: Screen,
    host: HostConfig,
    commands: u32,
}

fn endpoints(config: &MachineConfig, screens: &[Screen; 2]) -> Endpoints {
    let [serial, console] = screens.clone();
    let mut endpoints = Endpoints::default();
    endpoints.outputs.insert(config.serial_id.clone(), Box::new(serial));
    endpoints.outputs.insert(CONSOLE.into(), Box::new(console));
    endpoints
}

/// Settings under which a slow host moves the guest too, if with a longer pause.
fn patient() -> Settings {
    Settings {
        downtime_limit: Duration::from_secs(2),
        allow_longer_pause: true,
        hello_timeout: PATIENCE,
        build_timeout: PATIENCE,
        io_timeout: PATIENCE,
        switchover_timeout: PATIENCE,
        ..Settings::default()
    }
}

impl Guest {
    /// Boots to the shell.
    pub fn boot(config: &MachineConfig, host: &HostConfig, files: &GuestFiles) -> Self {
        let boot = Boot::Linux {
            kernel: files.kernel.clone(),
            initrd: Some(files.initrd.clone()),
            command_line: "console=ttyS0 reboot=t panic=-1".into(),
        };
        let screens = [Screen::default(), Screen::default()];
        let vm = Vm::create(config, &boot, host, endpoints(config, &screens)).expect("a machine");
        vm.resume().expect("it runs");
        let [screen, second_screen] = screens;
        let mut guest = Self { vm, screen, second_screen, host: host.clone(), commands: 0 };
        let started = Instant::now();
        guest.expect("ferry-linux: userland after ");
        guest.expect("# ");
        // Nothing comes in the middle of a line that is printed: neither the terminal's own echo
        // nor a message of the kernel.
        guest.run("stty -echo; dmesg -n 1");
        println!("{}: a shell after {:.1} s", config.name, started.elapsed().as_secs_f64());
        guest
    }

    /// Waits for the guest to print this; returns what it printed before.
    pub fn expect(&mut self, pattern: &str) -> String {
        self.screen.expect(pattern, PATIENCE, || match self.vm.status().state {
            VmState::Running => Ok(()),
            other => Err(format!("the machine does not run: {other:?}")),
        })
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) {
        self.vm.input(&self.vm.config().serial_id, format!("{line}\n").as_bytes());
    }

    /// Runs a command in the guest's shell; returns its exit status, what it printed, and when it
    /// cannot have begun and ended earlier and later.
    pub fn try_run(&mut self, command: &str) -> (i32, String, Span) {
        self.commands += 1;
        let number = self.commands;
        let began = Instant::now();
        // The shell echoes what is typed; with the quotes that is not what `echo` prints.
        self.type_line(&format!(
            "echo '<be''gin {number}>'; {command}; echo '<en''d {number}' $?."
        ));
        self.expect(&format!("<begin {number}>\r\n"));
        let printed = self.expect(&format!("<end {number} "));
        let ended = Instant::now();
        let status = self.expect(".\r\n");
        let status = status.parse().expect("an exit status is a number");
        (status, printed.replace("\r\n", "\n"), Span { began, ended })
    }

    /// Runs a command that must succeed; returns what it printed.
    pub fn run(&mut self, command: &str) -> String {
        let (status, printed, _) = self.try_run(command);
        assert_eq!(status, 0, "{command:?} printed {printed:?}");
        printed
    }

    /// Tries to move the guest over TCP to a host with this configuration, while it runs.
    fn try_move(
        &self,
        host: HostConfig,
        faults: Faults,
        observer: &mut dyn Observer,
        cancel: &Cancel,
    ) -> Result<(Outcome, Vm), MigrationError> {
        let any: Address = "tcp:127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind(&any).expect("a port");
        let address = listener.address().clone();
        let screens = self.screens();
        let target = thread::spawn(move || {
            let never = AtomicBool::new(false);
            let channel = listener.accept(Some(PATIENCE), &never).expect("the source connects");
            let mut target = VmTarget::new(host, move |config| endpoints(config, &screens));
            let cancel = Cancel::new();
            let received = migration::receive(
                &mut target,
                channel,
                &mut Ownership::without_record(),
                &patient(),
                &mut Silent,
                &cancel,
            );
            (received, target.into_vm())
        });
        let channel = transport::connect(&address, PATIENCE).expect("the target listens");
        let (channel, _) = testkit::faulty(channel, faults);
        let sent = migration::migrate(
            &mut self.vm.source(),
            channel,
            &mut Ownership::without_record(),
            &patient(),
            observer,
            cancel,
        );
        let (received, arrived) = target.join().expect("the target does not panic");
        match (sent, received) {
            (Ok(outcome), Ok(_)) => Ok((outcome, arrived.expect("what was received is there"))),
            (Err(error), Err(there)) => {
                assert_eq!(there.standing, Standing::Discarded, "{there}");
                println!("{}: did not move: {error}", self.vm.config().name);
                Err(error)
            }
            (sent, received) => panic!("source: {sent:?}\ndestination: {received:?}"),
        }
    }

    /// Moves the guest over TCP to another machine, while it runs. Returns for how long it stood
    /// still at most.
    pub fn move_over_tcp(&mut self) -> Duration {
        let none = Faults::default();
        let (outcome, arrived) = self
            .try_move(self.host.clone(), none, &mut Silent, &Cancel::new())
            .unwrap_or_else(|error| panic!("{error}"));
        assert!(outcome.confirmed);
        self.vm.set_gone();
        assert_eq!(self.vm.wait(), VmState::Gone);
        self.vm = arrived;
        println!("{}: moved over TCP: {}", self.vm.config().name, summary(&outcome));
        outcome.downtime
    }

    /// The destination has no file for the disk.
    pub fn is_refused_without_disk(&mut self) -> Standing {
        let mut host = self.host.clone();
        assert!(host.disk.remove("disk0").is_some());
        let error = self
            .try_move(host, Faults::default(), &mut Silent, &Cancel::new())
            .map(drop)
            .expect_err("it has a disk");
        assert!(matches!(error.failure, Failure::RefusedByDestination(_)), "{error}");
        assert!(error.to_string().contains("disk0"), "{error}");
        error.standing
    }

    /// The operator changes his mind while memory flows.
    pub fn is_called_back(&mut self) -> Standing {
        struct Changeable(Cancel);
        impl Observer for Changeable {
            fn progress(&mut self, progress: &Progress) {
                if progress.phase == Phase::Memory && progress.round_pages_done > 0 {
                    self.0.cancel();
                }
            }
        }
        let cancel = Cancel::new();
        let mut observer = Changeable(cancel.clone());
        // Slow enough for him to say so in time.
        let sent = Side { bytes_per_second: Some(32 << 20), ..Side::default() };
        let faults = Faults { sent, ..Faults::default() };
        let error = self
            .try_move(self.host.clone(), faults, &mut observer, &cancel)
            .map(drop)
            .expect_err("it was cancelled");
        assert!(matches!(error.failure, Failure::Cancelled), "{error}");
        error.standing
    }

    /// The link is lost after this many bytes.
    pub fn loses_its_link(&mut self, bytes: u64) -> Standing {
        let sent = Side { cut_after: Some(bytes), ..Side::default() };
        let faults = Faults { sent, ..Faults::default() };
        let error = self
            .try_move(self.host.clone(), faults, &mut Silent, &Cancel::new())
            .map(drop)
            .expect_err("the link is lost");
        error.standing
    }

    /// Saves the guest to a file, and goes on with it from there. Returns for how long it stood
    /// still at most.
    pub fn move_through_file(&mut self, file: &Path) -> Duration {
        let began = Instant::now();
        let address = Address::File(file.to_owned());
        let sink = transport::open_sink(&address, Some(PATIENCE)).expect("the file");
        let outcome = migration::save_to(
            &mut self.vm.source(),
            sink,
            &mut Ownership::without_record(),
            &Settings { io_timeout: PATIENCE, ..Settings::stop_and_save() },
            &mut Silent,
            &Cancel::new(),
        )
        .unwrap_or_else(|error| panic!("{error}"));
        self.vm.set_gone();
        assert_eq!(self.vm.wait(), VmState::Gone);
        let intake = transport::open_intake(&address, Some(PATIENCE)).expect("the file");
        let screens = self.screens();
        let mut target =
            VmTarget::new(self.host.clone(), move |config| endpoints(config, &screens));
        migration::restore_from(
            &mut target,
            intake,
            &mut Ownership::without_record(),
            &patient(),
            &mut Silent,
            &Cancel::new(),
        )
        .unwrap_or_else(|error| panic!("{error}"));
        self.vm = target.into_vm().expect("what was restored is there");
        println!("{}: moved through a file: {}", self.vm.config().name, summary(&outcome));
        began.elapsed()
    }

    fn screens(&self) -> [Screen; 2] {
        [self.screen.clone(), self.second_screen.clone()]
    }

    /// Ends the guest.
    pub fn end(self) {
        self.vm.quit();
        self.vm.wait();
    }
}

fn summary(outcome: &Outcome) -> String {
    let mut text = String::new();
    let _ = write!(
        text,
        "{:.2} s, downtime {:.0} ms, {:.1} MiB, {} rounds",
        outcome.total.as_secs_f64(),
        outcome.downtime.as_secs_f64() * 1e3,
        outcome.bytes as f64 / f64::from(1 << 20),
        outcome.rounds.len(),
    );
    text
}
