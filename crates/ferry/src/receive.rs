//! `ferry receive` and `ferry restore`: a machine that comes from elsewhere.

use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use machine::HostConfig;
use migration::{Cancel, MigrationError, Ownership, Received, Settings, Silent, Standing};
use transport::{Address, Listener};
use vmm::{Endpoints, VmTarget};

use crate::arbiter::Chosen;
use crate::cli::{Peer, ReceiveOptions};
use crate::confinement;
use crate::foreign;
use crate::options::{self, Outputs};
use crate::recovery;
use crate::running::{self, Listening};
use crate::secure::{self, Guard};

/// `ferry receive ADDRESS`.
pub fn receive(options: &ReceiveOptions) -> Result<ExitCode> {
    if let Some(vm) = &options.recover {
        return recovery::recover(vm, &options.address);
    }
    match (options.from, &options.machine) {
        (Peer::Qemu, Some(file)) => return foreign::receive(options, file),
        (Peer::Ferry, None) => {}
        _ => bail!("--machine goes with --from qemu: from Ferry the machine comes in the stream"),
    }
    let address: Address = options.address.parse()?;
    if !address.is_two_way() {
        return take(options, &address);
    }
    // What is wrong with this host is said before anybody connects.
    let host = options::host(&options.host, &[])?;
    Outputs::new(&options.host, &host)?;
    let chosen = Chosen::new(&options.host.arbiter)?;
    let guard = Guard::new(&options.tls, &options.tls_peer)?;
    let listener = Listener::bind(&address)?;
    guard.check(&listener)?;
    let (mut target, keyboard) = target(options)?;
    let mut ownership = chosen.arriving(&options.host, target.config(), host.clone())?;
    confinement::enter(options, &address, &host, &chosen)?;
    // A script reads this line to learn the port.
    println!("listening at {}", listener.address());
    std::io::stdout().flush()?;
    let cancel = Cancel::new();
    let channel = guard.accept(&listener, cancel.flag())?;
    let settings = match options.idle_timeout {
        None => Settings::default(),
        Some(limit) => Settings::default().with_idle_timeout(Duration::from_millis(limit)),
    };
    let received =
        migration::receive(&mut target, channel, &mut ownership, &settings, &mut Silent, &cancel);
    finish(received, target, &keyboard, ownership, &host, Some((listener, guard)))
}

/// `ferry restore ADDRESS`.
pub fn restore(options: &ReceiveOptions) -> Result<ExitCode> {
    if let (Peer::Qemu, Some(file)) = (options.from, &options.machine) {
        return foreign::receive(options, file);
    }
    take(options, &options.address.parse()?)
}

fn take(options: &ReceiveOptions, address: &Address) -> Result<ExitCode> {
    secure::check_one_way(address, options.tls.tls_cert.is_some())?;
    let host = options::host(&options.host, &[])?;
    let chosen = Chosen::new(&options.host.arbiter)?;
    let intake = transport::open_intake(address, None)?;
    let (mut target, keyboard) = target(options)?;
    let mut ownership = chosen.arriving(&options.host, target.config(), host.clone())?;
    confinement::enter(options, address, &host, &chosen)?;
    let received = migration::restore_from(
        &mut target,
        intake,
        &mut ownership,
        &Settings::stop_and_save(),
        &mut Silent,
        &Cancel::new(),
    );
    finish(received, target, &keyboard, ownership, &host, None)
}

/// How the keyboard's device was found, once it is known.
pub type Keyboard = Arc<Mutex<Result<Option<String>>>>;

/// A target that opens its outputs once it knows the machine.
pub fn target(options: &ReceiveOptions) -> Result<(VmTarget, Keyboard)> {
    let host = options::host(&options.host, &[])?;
    let outputs = Outputs::new(&options.host, &host)?;
    let keyboard: Keyboard = Arc::new(Mutex::new(Ok(None)));
    let found = Arc::clone(&keyboard);
    let target = VmTarget::new(host, move |config| {
        let (endpoints, name) = match outputs.open(config) {
            Ok((endpoints, name)) => (endpoints, Ok(name)),
            Err(error) => (Endpoints::default(), Err(error)),
        };
        *found.lock().unwrap_or_else(PoisonError::into_inner) = name;
        endpoints
    });
    Ok((target, keyboard))
}

/// Goes on with a machine that has arrived, to its end.
pub fn finish(
    received: Result<Received, MigrationError>,
    target: VmTarget,
    keyboard: &Keyboard,
    ownership: Ownership,
    host: &HostConfig,
    door: Option<(Listener, Guard)>,
) -> Result<ExitCode> {
    let stuck = match received {
        Ok(_) => None,
        // It is nowhere else by now: it must not end with this process.
        Err(error) if error.standing == Standing::Stuck => Some(error),
        Err(error) => return Err(anyhow!("{error}")),
    };
    let vm = target.into_vm().context("the machine was not taken over")?;
    if let Some((filling, (listener, guard))) = vm.filling().zip(door) {
        recovery::guard_by(guard);
        recovery::listen(vm.config().name.clone(), listener, filling.clone());
    }
    running::say_accelerator(&vm);
    let mut kept = keyboard.lock().unwrap_or_else(PoisonError::into_inner);
    let keyboard = std::mem::replace(&mut *kept, Ok(None));
    drop(kept);
    // The guest runs here by now; an output that cannot be opened does not stop it.
    let keyboard = keyboard.unwrap_or_else(|error| {
        eprintln!("ferry: {error:#}");
        None
    });
    let listening = Listening::for_arrived(&vm, ownership, host)?;
    if let Some(error) = stuck {
        eprintln!("ferry: {error}; `ferry resume {}` tries again", vm.config().name);
        listening.set_without_disks();
    }
    running::attend(&vm, keyboard, listening)
}
