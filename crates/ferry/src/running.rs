//! A machine in this process: its control socket, its console, and how it ends.

use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use control::{Controlled, Server, socket_path};
use machine::HostConfig;
use migration::Ownership;
use vmm::{Choice, End, Vm, VmState};

use crate::arbiter::Chosen;
use crate::cli::RunOptions;
use crate::controlled::ControlledVm;
use crate::options::{self, Outputs};
use crate::signals::{self, Asked};
use crate::terminal::{self, Keys, Raw, Typed};

/// `ferry run`.
pub fn run(options: &RunOptions) -> Result<ExitCode> {
    let host = options::host(&options.host, &options.read_only_disk)?;
    let config = options::machine(options, &host)?;
    let boot = options::boot(options, &config)?;
    let outputs = Outputs::new(&options.host, &host)?;
    let (endpoints, keyboard) = outputs.open(&config)?;
    // Nobody else has this machine, from here on.
    let ownership = Chosen::new(&options.host.arbiter)?.start(&options.host, &config, &host)?;
    let vm = match Vm::create(&config, &boot, &host, endpoints) {
        Ok(vm) => vm,
        Err(error) => {
            give_back(ownership);
            return Err(error.into());
        }
    };
    say_accelerator(&vm);
    // A name that is taken is found out before the guest does anything.
    let listening = Listening::new(&vm, ownership, &host)?;
    if !options.paused {
        vm.resume()?;
    }
    attend(&vm, keyboard, listening)
}

/// Says what runs the vCPUs, and why.
pub fn say_accelerator(vm: &Vm) {
    let Choice { accelerator, reason, .. } = vm.accelerator();
    eprintln!("ferry: accelerator {accelerator} ({reason})");
}

/// How long a socket of the same name may take to go away before that is said: the source of a move
/// on this host still has it when the guest runs here, and for as long as it has pages to serve.
const HAND_OVER: Duration = Duration::from_secs(5);
/// Between two attempts to have the name.
const LOOK: Duration = Duration::from_millis(10);

/// The control socket of a machine, once it has one.
#[derive(Default)]
struct Socket {
    server: Option<Server>,
    /// The machine has ended, and needs none any more.
    over: bool,
}

/// A machine that hears its control socket, and signals.
pub struct Listening {
    controlled: Arc<ControlledVm>,
    socket: Arc<Mutex<Socket>>,
    asked: Asked,
}

fn locked(socket: &Mutex<Socket>) -> MutexGuard<'_, Socket> {
    socket.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Listening {
    /// Listens under the machine's name.
    ///
    /// # Errors
    /// If another machine has the name, or there is no place for sockets.
    pub fn new(vm: &Vm, ownership: Ownership, host: &HostConfig) -> Result<Self> {
        let controlled = ControlledVm::new(vm.clone(), ownership, host);
        let server = match serve(&controlled) {
            Ok(server) => Some(server),
            Err(error) => {
                give_back(controlled.take_ownership());
                return Err(error);
            }
        };
        let asked = hear_signals(&controlled)?;
        let socket = Arc::new(Mutex::new(Socket { server, over: false }));
        Ok(Self { controlled, socket, asked })
    }

    /// The guest could not be started, perhaps for want of its disks.
    pub fn set_without_disks(&self) {
        self.controlled.set_without_disks();
    }

    /// Listens for a machine that has arrived, and runs by now: it goes on even if it cannot be
    /// spoken to.
    ///
    /// # Errors
    /// If signals cannot be handled.
    pub fn for_arrived(vm: &Vm, ownership: Ownership, host: &HostConfig) -> Result<Self> {
        let controlled = ControlledVm::new(vm.clone(), ownership, host);
        let asked = hear_signals(&controlled)?;
        let socket = Arc::<Mutex<Socket>>::default();
        let (waiting, wanted) = (controlled.clone(), socket.clone());
        let wait = move || wait_for_name(&waiting, &wanted);
        if let Err(error) = thread::Builder::new().name("control name".to_owned()).spawn(wait) {
            eprintln!("ferry: {error}; the guest runs without a control socket");
        }
        Ok(Self { controlled, socket, asked })
    }
}

/// Listens as soon as nobody else has the machine's name.
fn wait_for_name(controlled: &Arc<ControlledVm>, socket: &Mutex<Socket>) {
    let started = Instant::now();
    let mut said = false;
    loop {
        let mut socket = locked(socket);
        if socket.over {
            return;
        }
        match serve(controlled) {
            Ok(server) => {
                socket.server = Some(server);
                return;
            }
            Err(error) if !said && started.elapsed() > HAND_OVER => {
                eprintln!("ferry: {error:#}; the guest runs, and can be spoken to once that works");
                said = true;
            }
            Err(_) => {}
        }
        drop(socket);
        thread::sleep(LOOK);
    }
}

fn serve(controlled: &Arc<ControlledVm>) -> Result<Server> {
    let name = &controlled.vm().config().name;
    let path = socket_path(name).context("there is no place for control sockets")?;
    Server::start(&path, controlled.clone())
        .with_context(|| format!("cannot listen at {} for the machine {name}", path.display()))
}

fn hear_signals(controlled: &Arc<ControlledVm>) -> Result<Asked> {
    let controlled = Arc::clone(controlled);
    let end = move || match controlled.check_quit() {
        Ok(()) => controlled.quit(),
        Err(reason) => eprintln!("ferry: {reason}; another signal ends this process all the same"),
    };
    signals::on_end(end).context("cannot handle signals")
}

/// The machine has ended here, in order.
fn give_back(ownership: Ownership) {
    if let Err(error) = ownership.end() {
        // Whoever starts it next finds that its owner is no more.
        eprintln!("ferry: the ownership record was not freed: {error}");
    }
}

/// Serves a machine's console until it ends.
pub fn attend(vm: &Vm, keyboard: Option<String>, listening: Listening) -> Result<ExitCode> {
    let name = vm.config().name.clone();
    let Listening { controlled, socket, asked } = listening;
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
    give_back(controlled.take_ownership());
    drop(raw);
    terminal::restore();
    let mut socket = locked(&socket);
    socket.over = true;
    drop(socket.server.take());
    drop(socket);
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
