//! A machine in this process: its control socket, its console, and how it ends.

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use control::{Controlled, MigrateSettings, ProgressReport, Server, Status, Summary, socket_path};
use migration::{Cancel, Observer, Ownership, Progress};
use transport::Address;
use vmm::{End, Vm, VmState};

use crate::cli::RunOptions;
use crate::options::{self, Outputs};
use crate::signals::{self, Asked};
use crate::terminal::{self, Keys, Raw, Typed};

/// How long a destination may take to answer the call.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a pipe may take no bytes.
const PIPE_LIMIT: Duration = Duration::from_secs(60);

/// `ferry run`.
pub fn run(options: &RunOptions) -> Result<ExitCode> {
    let host = options::host(&options.host, &options.read_only_disk)?;
    let config = options::machine(options, &host)?;
    let boot = options::boot(options, &config)?;
    let outputs = Outputs::new(&options.host, &host)?;
    let (endpoints, keyboard) = outputs.open(&config)?;
    let vm = Vm::create(&config, &boot, &host, endpoints)?;
    // A name that is taken is found out before the guest does anything.
    let listening = Listening::new(&vm)?;
    if !options.paused {
        vm.resume()?;
    }
    attend(&vm, keyboard, listening)
}

/// How long a socket of the same name may take to go away: the source of a move on this host still
/// has it when the guest runs here.
const HAND_OVER: Duration = Duration::from_secs(5);

/// A machine that hears its control socket, and signals.
pub struct Listening {
    controlled: Arc<ControlledVm>,
    server: Option<Server>,
    asked: Asked,
}

impl Listening {
    /// Listens under the machine's name.
    ///
    /// # Errors
    /// If another machine has the name, or there is no place for sockets.
    pub fn new(vm: &Vm) -> Result<Self> {
        let controlled = Arc::new(ControlledVm::new(vm.clone()));
        let server = Some(serve(&controlled)?);
        Ok(Self { controlled, server, asked: hear_signals(vm)? })
    }

    /// Listens for a machine that has arrived, and runs by now: it goes on even if it cannot be
    /// spoken to.
    ///
    /// # Errors
    /// If signals cannot be handled.
    pub fn for_arrived(vm: &Vm) -> Result<Self> {
        let asked = hear_signals(vm)?;
        let controlled = Arc::new(ControlledVm::new(vm.clone()));
        let started = Instant::now();
        let server = loop {
            match serve(&controlled) {
                Ok(server) => break Some(server),
                Err(error) if started.elapsed() > HAND_OVER => {
                    eprintln!("ferry: {error:#}; the guest runs without a control socket");
                    break None;
                }
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        };
        Ok(Self { controlled, server, asked })
    }
}

fn serve(controlled: &Arc<ControlledVm>) -> Result<Server> {
    let name = &controlled.vm.config().name;
    let path = socket_path(name).context("there is no place for control sockets")?;
    Server::start(&path, controlled.clone())
        .with_context(|| format!("cannot listen at {} for the machine {name}", path.display()))
}

fn hear_signals(vm: &Vm) -> Result<Asked> {
    let vm = vm.clone();
    signals::on_end(move || vm.quit()).context("cannot handle signals")
}

/// Serves a machine's console until it ends.
pub fn attend(vm: &Vm, keyboard: Option<String>, listening: Listening) -> Result<ExitCode> {
    let name = vm.config().name.clone();
    let Listening { controlled, server, asked } = listening;
    let raw = match &keyboard {
        Some(_) => Raw::enter().context("cannot put the terminal into raw mode")?,
        None => None,
    };
    if raw.is_some() {
        eprint!("ferry: {name} runs; press Control-A h for help\r\n");
    }
    if let Some(id) = keyboard {
        let vm = vm.clone();
        thread::Builder::new().name("keyboard".to_owned()).spawn(move || type_on(&vm, &id))?;
    }
    let end = vm.wait();
    controlled.wait_for_move();
    drop(raw);
    terminal::restore();
    drop(server);
    Ok(match end {
        VmState::Gone => {
            eprintln!("ferry: {name} has moved");
            ExitCode::SUCCESS
        }
        VmState::Ended(End::Exit(code)) => ExitCode::from(code),
        VmState::Ended(End::Quit) => asked.exit_code().map_or(ExitCode::SUCCESS, ExitCode::from),
        VmState::Ended(End::PowerOff | End::Reset) => ExitCode::SUCCESS,
        VmState::Ended(End::Shutdown { vcpu }) => {
            // A guest that reboots by a triple fault looks the same as one that crashed.
            eprintln!("ferry: {name} ended with a triple fault of vcpu {vcpu}");
            ExitCode::SUCCESS
        }
        VmState::Ended(End::Failed(reason)) => {
            eprintln!("ferry: {name} cannot go on: {reason}");
            ExitCode::from(crate::cli::FAILED)
        }
        VmState::Running | VmState::Paused => unreachable!("wait returns at the end"),
    })
}

/// Reads the keyboard for the guest.
fn type_on(vm: &Vm, id: &str) {
    let mut keys = Keys::default();
    loop {
        for typed in keys.read() {
            match typed {
                Typed::Bytes(bytes) => vm.input(id, &bytes),
                Typed::Quit => vm.quit(),
                Typed::Help => {
                    // The terminal is gone if this fails.
                    let _ = write!(
                        std::io::stderr(),
                        "\r\nControl-A x: end the machine; Control-A Control-A: type Control-A\r\n"
                    );
                }
                Typed::End => return,
            }
        }
    }
}

/// A machine behind its control socket.
pub struct ControlledVm {
    vm: Vm,
    moving: Mutex<()>,
    answering: AtomicBool,
}

impl ControlledVm {
    fn new(vm: Vm) -> Self {
        Self { vm, moving: Mutex::new(()), answering: AtomicBool::new(false) }
    }

    /// Waits until the answer to a migration that is over has been sent.
    fn wait_for_move(&self) {
        while self.answering.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

struct Report<'a>(&'a mut dyn FnMut(ProgressReport));

impl Observer for Report<'_> {
    fn progress(&mut self, progress: &Progress) {
        (self.0)(progress.into());
    }
}

impl Controlled for ControlledVm {
    fn status(&self) -> Status {
        let config = self.vm.config();
        let status = self.vm.status();
        Status {
            name: config.name.clone(),
            state: match status.state {
                VmState::Running => "running".to_owned(),
                VmState::Paused => "paused".to_owned(),
                VmState::Gone => "gone".to_owned(),
                VmState::Ended(end) => format!("{end:?}").to_lowercase(),
            },
            pid: std::process::id(),
            memory: config.memory_bytes,
            cpus: config.cpus.count,
            instructions: status.instructions,
            virtual_ns: status.virtual_ns,
            throttle: status.throttle,
        }
    }

    fn pause(&self) -> Result<(), String> {
        let _idle = self.moving.try_lock().map_err(|_| "a migration is under way".to_owned())?;
        self.vm.pause().map_err(|error| error.to_string())
    }

    fn resume(&self) -> Result<(), String> {
        let _idle = self.moving.try_lock().map_err(|_| "a migration is under way".to_owned())?;
        self.vm.resume().map_err(|error| error.to_string())
    }

    fn quit(&self) {
        self.vm.quit();
    }

    fn power_button(&self) {
        self.vm.press_power_button();
    }

    fn migrate(
        &self,
        address: &str,
        settings: &MigrateSettings,
        progress: &mut dyn FnMut(ProgressReport),
        cancel: &Cancel,
    ) -> Result<Summary, String> {
        let _moving =
            self.moving.try_lock().map_err(|_| "a migration is under way already".to_owned())?;
        let address: Address = address.parse().map_err(|error| format!("{error}"))?;
        let settings = settings.resolve(address.is_two_way());
        let mut source = self.vm.source();
        let mut ownership = Ownership::without_record();
        let mut report = Report(progress);
        let sentence = |error: &dyn std::error::Error| {
            let mut text = error.to_string();
            let mut next = error.source();
            while let Some(cause) = next {
                text = format!("{text}: {cause}");
                next = cause.source();
            }
            text
        };
        let outcome = if address.is_two_way() {
            let channel = transport::connect(&address, CONNECT_LIMIT)
                .map_err(|error| format!("{}; the guest goes on here", sentence(&error)))?;
            migration::migrate(&mut source, channel, &mut ownership, &settings, &mut report, cancel)
        } else {
            let sink = transport::open_sink(&address, Some(PIPE_LIMIT))
                .map_err(|error| format!("{}; the guest goes on here", sentence(&error)))?;
            migration::save_to(&mut source, sink, &mut ownership, &settings, &mut report, cancel)
        };
        let outcome = outcome.map_err(|error| error.to_string())?;
        self.answering.store(true, Ordering::Release);
        Ok((&outcome).into())
    }

    fn after_move(&self) {
        self.vm.set_gone();
        self.answering.store(false, Ordering::Release);
    }
}
