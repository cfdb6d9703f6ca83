//! The destination's side of a lost link: whoever misses memory listens for who has it.

use std::process::ExitCode;
use std::sync::OnceLock;
use std::thread::{self, Builder};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use control::{Reply, Request};
use migration::{Cancel, Filling};
use transport::Listener;

use crate::move_away::connect;
use crate::secure::Guard;

/// Between two looks whether anything is missing still.
const LOOK: Duration = Duration::from_millis(250);

/// Who may speak to the machine of this process: whoever might move one here.
static GUARD: OnceLock<Guard> = OnceLock::new();

/// Has every connection looked at by the guard that let the machine in.
pub fn guard_by(guard: Guard) {
    // A process receives one machine only.
    let _ = GUARD.set(guard);
}

/// Refuses an address at which the guard would let in nobody.
///
/// # Errors
/// If it does, or there is no guard, as the machine was not received.
pub fn check(listener: &Listener) -> Result<()> {
    GUARD.get().context("this machine was not received")?.check(listener)
}

/// Takes connections until nothing is missing and the source knows it. A connection that is not the
/// source's is refused.
pub fn listen(name: String, listener: Listener, filling: Filling) {
    let over = Cancel::new();
    let (watched, address, stop) = (filling.clone(), listener.address().clone(), over.clone());
    let (watched_name, started) = (name.clone(), Builder::new().name("recovery".to_owned()));
    let listen = move || {
        let Some(guard) = GUARD.get() else { return };
        while !over.is_cancelled() {
            // Whoever was not let in was named by the guard; the end comes by the flag.
            let Ok(channel) = guard.accept(&listener, over.flag()) else {
                thread::sleep(LOOK);
                continue;
            };
            if let Err(failure) = filling.recover(channel, &over) {
                eprintln!("ferry: a connection for {name} was refused: {}", failure.sentence());
            }
        }
    };
    let watch = move || {
        let (name, filling) = (watched_name, watched);
        let mut linked = filling.is_linked();
        while !filling.is_released() {
            thread::sleep(LOOK);
            let was_linked = std::mem::replace(&mut linked, filling.is_linked());
            if was_linked && !linked && !filling.is_complete() {
                eprintln!(
                    "ferry: {name} waits for the source: {} pages missing ({}); \
                     `ferry migrate --recover {name} {}` there goes on",
                    filling.left(),
                    filling.trouble().unwrap_or_default(),
                    address
                );
            }
        }
        stop.cancel();
    };
    // Without these threads another address can be given by `ferry receive --recover`.
    let both = started
        .spawn(listen)
        .and_then(|_| Builder::new().name("recovery-watch".to_owned()).spawn(watch));
    if let Err(error) = both {
        eprintln!("ferry: a lost link cannot be recovered at this address: {error}");
    }
}

/// `ferry receive --recover VM ADDRESS`.
pub fn recover(vm: &str, address: &str) -> Result<ExitCode> {
    match connect(vm)?.ask(&Request::Listen { address: address.to_owned() })? {
        Reply::Listening { address } => {
            println!("{vm} listens at {address}");
            Ok(ExitCode::SUCCESS)
        }
        Reply::Failed { reason } => bail!("{vm}: {reason}"),
        _ => bail!("{vm} gives an answer to another question"),
    }
}
