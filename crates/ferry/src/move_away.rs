//! Commands that speak to a running machine: `migrate`, `postcopy`, `ps`, `pause`, `resume`, `quit`.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, bail};
use control::{Client, MigrateSettings, ProgressReport, Reply, Request, Summary, socket_path};
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

use crate::cli::{MigrateOptions, Peer, ResolveOptions};
use crate::secure;
use crate::text;

const BAR: usize = 30;

pub fn connect(vm: &str) -> Result<Client> {
    Client::connect(&socket_path(vm)?)
        .with_context(|| format!("there is no machine {vm} (see `ferry ps`)"))
}

/// Sends a request that is answered at once.
pub fn tell(vm: &str, request: &Request) -> Result<ExitCode> {
    match connect(vm)?.ask(request)? {
        Reply::Failed { reason } => bail!("{vm}: {reason}"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// `ferry resolve`.
pub fn resolve(options: &ResolveOptions) -> Result<ExitCode> {
    tell(&options.vm, &Request::Resolve { run_here: options.run_here })
}

/// `ferry ps`.
pub fn list() -> Result<ExitCode> {
    println!(
        "{:<16} {:<11} {:>8} {:>10} {:>5} {:>14}",
        "NAME", "STATE", "PID", "MEMORY", "CPUS", "INSTRUCTIONS"
    );
    for found in control::running()? {
        let status = found.status;
        // KVM counts none.
        let instructions = match status.instructions {
            0 => "-".to_owned(),
            count => count.to_string(),
        };
        println!(
            "{:<16} {:<11} {:>8} {:>10} {:>5} {:>14}",
            status.name,
            status.state,
            status.pid,
            text::bytes(status.memory),
            status.cpus,
            instructions
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// `ferry migrate`.
pub fn migrate(options: &MigrateOptions) -> Result<ExitCode> {
    let bandwidth = options.bandwidth.as_deref().map(machine::parse_size).transpose()?;
    if options.tls.insecure {
        eprintln!("ferry: {}", secure::WARNING);
    }
    let settings = MigrateSettings {
        tls: secure::settings(&options.tls, options.tls_peer.as_ref())?,
        insecure: options.tls.insecure,
        downtime_limit_ms: options.downtime_limit,
        bandwidth,
        throttle: options.throttle,
        verify_full: options.verify_full,
        max_rounds: options.max_rounds,
        allow_longer_pause: options.allow_longer_pause,
        idle_timeout_ms: options.idle_timeout,
        post_copy: options.postcopy || options.postcopy_after.is_some() || options.allow_postcopy,
        post_copy_after: options.postcopy_after.or(options.postcopy.then_some(1)),
        recover: options.recover,
        to_qemu: options.to == Peer::Qemu,
    };
    let mut client = connect(&options.vm)?;
    let mut second = client.second()?;
    let mut signals = Signals::new([SIGINT])?;
    let handle = signals.handle();
    let waiting = thread::spawn(move || {
        if signals.forever().next().is_some() {
            eprintln!("\nferry: cancelling; a guest that has not gone yet stays where it is");
            // Any word on the connection cancels; if it is gone, so is the migration.
            let _ = second.write_all(b"cancel\n");
        }
    });
    let show = !options.json && io::stderr().is_terminal();
    let moved = carry_out(&mut client, &options.vm, &options.address, settings, |report| {
        if show {
            eprint!("\r{}\x1b[K", progress_line(report));
        }
    });
    handle.close();
    let _ = waiting.join();
    if show {
        eprint!("\r\x1b[K");
    }
    let summary = moved?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        print_summary(options, &summary);
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks for a migration and follows it to its end.
pub fn carry_out(
    client: &mut Client,
    vm: &str,
    address: &str,
    settings: MigrateSettings,
    mut progress: impl FnMut(&ProgressReport),
) -> Result<Summary> {
    client.send(&Request::Migrate { address: address.to_owned(), settings })?;
    loop {
        match client.reply()? {
            Reply::Progress(report) => progress(&report),
            Reply::Moved(summary) => return Ok(summary),
            Reply::Failed { reason } => bail!("the move of {vm} to {address} failed: {reason}"),
            Reply::Done
            | Reply::Status(_)
            | Reply::Owner(_)
            | Reply::Machine(_)
            | Reply::Listening { .. } => {
                bail!("{vm} gives an answer to another question")
            }
        }
    }
}

/// A line that says how far a migration has come.
pub fn progress_line(report: &ProgressReport) -> String {
    if report.phase == "postcopy" {
        return format!(
            "{} the guest runs there; {} of {} missing pages sent",
            text::bar(report.pages_done, report.pages, BAR),
            report.pages_done,
            report.pages
        );
    }
    let rate = report.link_rate.map_or(String::new(), |rate| format!(", {}/s", text::bytes(rate)));
    format!(
        "{} round {} {} of {} pages, {}{rate}",
        text::bar(report.pages_done, report.pages, BAR),
        report.round,
        report.pages_done,
        report.pages,
        text::bytes(report.bytes)
    )
}

fn print_summary(options: &MigrateOptions, summary: &Summary) {
    if options.verbose {
        println!(
            "{:>5} {:>10} {:>10} {:>12} {:>10} {:>10}",
            "ROUND", "PAGES", "ZERO", "BYTES", "TIME", "DIRTIED"
        );
        for round in &summary.rounds {
            println!(
                "{:>5} {:>10} {:>10} {:>12} {:>10} {:>10}{}",
                round.round,
                round.pages,
                round.zero_pages,
                text::bytes(round.bytes),
                text::time(round.duration_us),
                round.dirtied,
                if round.paused { " (guest stopped)" } else { "" }
            );
        }
    }
    if options.recover {
        println!(
            "{} is all at {}: {} pages had been missing",
            options.vm, options.address, summary.late_pages
        );
        return;
    }
    println!(
        "{} moved to {}: {} in all, {} downtime, {} in {} rounds{}{}",
        options.vm,
        options.address,
        text::time(summary.total_us),
        text::time(summary.downtime_us),
        text::bytes(summary.bytes),
        summary.rounds.len(),
        match summary.late_pages {
            0 => String::new(),
            pages => format!(", {pages} pages after the guest"),
        },
        if summary.confirmed { "" } else { "; nobody said that it arrived" }
    );
}
