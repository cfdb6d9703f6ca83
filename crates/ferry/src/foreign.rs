//! Machines that come from QEMU, and go to it.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use devices::firmware::FirmwareState;
use machine::{HostConfig, MachineConfig, MachineType};
use migration::{Cancel, Cause, ForeignWay, Settings, Silent};
use qemu::peer::{Arrival, Departure, FromQemu, Parts, ToQemu};
use qemu::translate::Received;
use transport::{Address, Listener, Sink};
use vmm::{StateParts, Vm};
use vmstate::SavedSection;

use crate::arbiter::Chosen;
use crate::cli::ReceiveOptions;
use crate::confinement;
use crate::options::{self, Outputs};
use crate::receive::{self, finish};
use crate::secure::{self, Guard};

fn wall_clock_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// The machine that QEMU is to send.
fn machine(file: &Path, host: &HostConfig) -> Result<MachineConfig> {
    let config = options::resolve(&options::machine_file(file)?, &options::files(host))?;
    if config.machine_type != MachineType::Microvm {
        bail!(
            "{}: a machine of type {} cannot come from QEMU; `ferry import-config` writes one that \
             can",
            file.display(),
            config.machine_type
        );
    }
    Ok(config)
}

/// What is wrong with a guest that ran; see `docs/qemu.md`.
const RAN: &str = "the guest ran while QEMU sent it, and without KVM QEMU leaves out memory that a \
                   guest writes meanwhile (before release 9.0): tell it to `stop` before `migrate`, \
                   and receive with --resume";

/// What is expected of QEMU. `ran` is set if the guest ran while QEMU sent it.
fn arrival(config: &MachineConfig, options: &ReceiveOptions, ran: &Arc<AtomicBool>) -> Arrival {
    let (of, resume, ran) = (config.clone(), options.resume, Arc::clone(ran));
    let join = move |received: Received, firmware: FirmwareState| {
        let Received { sections, virtual_ns, running } = received;
        if running && resume {
            return Err(RAN.to_owned());
        }
        ran.store(running, Ordering::Release);
        let running = running || resume;
        let parts =
            StateParts { sections, firmware, virtual_ns, paused_at_ns: wall_clock_ns(), running };
        vmm::join_state(&of, parts).map_err(|error| error.to_string())
    };
    Arrival {
        schemas: vmm::schemas(config),
        config: config.clone(),
        join: Box::new(join),
        channels: usize::from(options.multifd.unwrap_or(0)),
        wall_clock_ns,
    }
}

/// `ferry receive --from qemu`.
///
/// # Errors
/// If the guest does not run here.
pub fn receive(options: &ReceiveOptions, file: &Path) -> Result<ExitCode> {
    let address: Address = options.address.parse()?;
    let host = options::host(&options.host, &[])?;
    let config = machine(file, &host)?;
    Outputs::new(&options.host, &host)?;
    let chosen = Chosen::new(&options.host.arbiter)?;
    let ran = Arc::default();
    let source = Box::new(FromQemu::new(arrival(&config, options, &ran)));
    let deaf = source.deaf();
    let (mut target, keyboard) = receive::target(options)?;
    let mut ownership = chosen.arriving(&options.host, target.config(), host.clone())?;
    let cancel = Cancel::new();
    let (way, settings) = if address.is_two_way() {
        let guard = Guard::new(&options.tls, &options.tls_peer)?;
        let listener = Listener::bind(&address)?;
        guard.check(&listener)?;
        confinement::enter(options, &address, &host, &chosen)?;
        println!("listening at {}", listener.address());
        std::io::stdout().flush()?;
        let channel = guard.accept(&listener, cancel.flag())?;
        // Further callers are heard even if none are wanted: what they are is worth a sentence.
        let more = move |stop: &AtomicBool| -> Result<_, Cause> {
            guard.accept(&listener, stop).map_err(|error| format!("{error:#}").into())
        };
        let settings = match options.idle_timeout {
            None => Settings::default(),
            Some(limit) => {
                Settings { io_timeout: Duration::from_millis(limit), ..Settings::default() }
            }
        };
        (ForeignWay::Channel(channel, Some(Box::new(more))), settings)
    } else {
        secure::check_one_way(&address, options.tls.tls_cert.is_some())?;
        if options.multifd.is_some() {
            bail!("{address}: --multifd is for tcp: and unix:, where further channels can come");
        }
        let intake = transport::open_intake(&address, None)?;
        confinement::enter(options, &address, &host, &chosen)?;
        (ForeignWay::Pipe(intake), Settings::stop_and_save())
    };
    let received = migration::receive_foreign(
        &mut target,
        source,
        way,
        &mut ownership,
        &settings,
        &mut Silent,
        &cancel,
    );
    if received.is_err() && address.is_two_way() && deaf.load(Ordering::Acquire) {
        eprintln!(
            "ferry: QEMU hears no refusal without its return path (capability return-path): if it \
             says that the migration completed, `cont` lets the guest go on there"
        );
    }
    if received.is_ok() {
        say_how_it_was_sent(ran.load(Ordering::Acquire), options.resume, &config.name);
    }
    finish(received, target, &keyboard, ownership, &host, None)
}

/// What the operator has to know of a guest that has arrived.
fn say_how_it_was_sent(ran: bool, resume: bool, name: &str) {
    if ran {
        eprintln!("ferry: {RAN}");
    } else if !resume {
        eprintln!(
            "ferry: QEMU was told to stop the guest, so it is paused here too: `ferry resume {name}` \
             lets it go on (--resume does so at once)"
        );
    }
}

/// The way out of a machine to a QEMU.
///
/// # Errors
/// If QEMU has no such machine, or cannot be spoken to.
pub fn sink(
    vm: &Vm,
    address: &Address,
    route: &crate::secure::Route,
    settings: &Settings,
    limits: (Duration, Duration),
) -> Result<Box<dyn Sink>> {
    let config = vm.config().clone();
    let firmware = vm.firmware()?.unwrap_or_default();
    let split = |sections: &[SavedSection]| {
        let parts = vmm::split_state(sections).map_err(|error| error.to_string())?;
        let StateParts { sections, firmware, virtual_ns, paused_at_ns: _, running } = parts;
        Ok(Parts { sections, firmware, virtual_ns, running })
    };
    let departure = Departure {
        schemas: vmm::schemas(&config),
        config,
        ram: vm.ram(),
        firmware,
        split: Box::new(split),
        wall_clock_ns,
        limit: settings.switchover_timeout,
        pause_limit: if settings.allow_longer_pause {
            settings.switchover_timeout
        } else {
            settings.downtime_limit
        },
    };
    // What QEMU does not have is said before it is called.
    qemu::peer::check(&departure.config)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("{} cannot move to QEMU", vm.config().name))?;
    let (connect_limit, pipe_limit) = limits;
    Ok(if address.is_two_way() {
        Box::new(ToQemu::over(route.open(address, connect_limit)?, departure)?)
    } else {
        let sink = transport::open_sink(address, Some(pipe_limit))?;
        Box::new(ToQemu::into_pipe(sink, departure)?)
    })
}
