//! `ferry soak`: a Linux guest that works is moved between processes, over TCP, again and again.
//!
//! It fails as soon as anything is lost: a move, a turn of the guest's work, a piece on its disk,
//! time. At its end it prints how downtime and total time are distributed.

mod load;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use control::{MigrateSettings, Request, Summary};
use vmm::Tier;

use crate::children::{Folder, PATIENCE, Process};
use crate::cli::{DemoAccelerator, SoakOptions};
use crate::move_away::{carry_out, progress_line};
use crate::text;
use load::Account;

const NAME: &str = "soak";
/// How long Linux may take to start, on a slow and busy host.
const BOOT: Duration = Duration::from_secs(300);
/// Turns that each part of the load does between two moves.
const TURNS_BETWEEN: u64 = 1;

/// The soak while it runs.
struct Soak {
    folder: Folder,
    started: usize,
    accel: DemoAccelerator,
    disk: PathBuf,
    account: Account,
}

impl Soak {
    fn new(options: &SoakOptions) -> Result<Self> {
        let folder = Folder::new(NAME)?;
        let disk = folder.path().join("disk.img");
        fs::write(&disk, vec![0; load::DISK]).context("there is no room for a disk")?;
        Ok(Self { folder, started: 0, accel: options.accel, disk, account: Account::default() })
    }

    /// Starts a process with the arguments that all of them have.
    fn start(&mut self, arguments: &[&str]) -> Result<Process> {
        let accel = self.accel.of_process(self.started as u32);
        self.started += 1;
        let disk = self.disk.display().to_string();
        let same = ["--accel", accel, "--disk", &disk];
        Process::start(&self.folder, self.started, &[arguments, &same].concat())
    }

    fn boot(&mut self, options: &SoakOptions) -> Result<Process> {
        let initrd = self.folder.path().join("initrd");
        load::add_to_initrd(&options.initrd, &initrd)?;
        let (kernel, initrd) = (options.kernel.display().to_string(), initrd.display().to_string());
        let append = format!(
            "console=ttyS0 quiet reboot=t panic=-1 rdinit={} {}",
            load::FIRST_PROCESS,
            options.append
        );
        let cpus = options.cpus.to_string();
        let mut here = self.start(&[
            "run",
            "--name",
            NAME,
            "--memory",
            &options.memory,
            "--cpus",
            &cpus,
            "--kernel",
            &kernel,
            "--initrd",
            &initrd,
            "--append",
            append.trim_end(),
        ])?;
        self.until(&mut here, "the guest's work", BOOT, |account| {
            account.has_begun() && account.least_turns() > 0
        })?;
        Ok(here)
    }

    /// Hears what the guest has said in this process.
    fn hear(&mut self, here: &mut Process) -> Result<()> {
        self.account.hear(&here.serial()?, Instant::now());
        match &self.account.wrong {
            Some(wrong) => bail!("the guest's console is wrong: {wrong}"),
            None => Ok(()),
        }
    }

    /// Hears the guest, which is in this process, until a condition holds.
    fn until(
        &mut self,
        here: &mut Process,
        what: &str,
        patience: Duration,
        holds: impl Fn(&Account) -> bool,
    ) -> Result<()> {
        let started = Instant::now();
        loop {
            self.hear(here)?;
            if holds(&self.account) {
                return Ok(());
            }
            if !here.lives()? {
                bail!("the guest's process ended: {}", here.errors());
            }
            if started.elapsed() > patience {
                bail!("{what} does not come; the guest said last:\n{}", self.account.last_lines());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until every part of the load has gone on.
    fn goes_on(&mut self, here: &mut Process) -> Result<()> {
        let wanted = [self.account.digests, self.account.disk_turns, self.account.clock_turns]
            .map(|turns| turns + TURNS_BETWEEN);
        self.until(here, "the guest's next turn", PATIENCE, |account| {
            let now = [account.digests, account.disk_turns, account.clock_turns];
            now.iter().zip(&wanted).all(|(now, wanted)| now >= wanted)
        })
    }

    /// Moves the machine from one process to a new one.
    fn move_on(&mut self, from: &mut Process, options: &SoakOptions) -> Result<(Process, Summary)> {
        let mut to = self.start(&["receive", "tcp:127.0.0.1:0"])?;
        let address = to.line("listening at ")?;
        let settings = MigrateSettings {
            downtime_limit_ms: Some(options.downtime_limit),
            ..MigrateSettings::default()
        };
        let terminal = io::stdout().is_terminal();
        let summary = carry_out(&mut from.connect(NAME)?, NAME, &address, settings, |report| {
            if terminal {
                print!("\r{}\x1b[K", progress_line(report));
                // A terminal that is gone is noticed by the next line.
                let _ = io::stdout().flush();
            }
        });
        if terminal {
            print!("\r\x1b[K");
        }
        let summary = summary.with_context(|| format!("the destination: {}", to.errors()))?;
        from.wait()?;
        self.hear(from)?;
        Ok((to, summary))
    }

    /// Ends the guest, and checks what can only be checked then.
    fn end(mut self, mut here: Process, moves: &[Summary]) -> Result<Account> {
        here.connect(NAME)?.ask(&Request::Quit)?;
        here.wait()?;
        self.hear(&mut here)?;
        let stood_still =
            Duration::from_micros(moves.iter().map(|summary| summary.downtime_us).sum());
        let time = self.account.check_time(stood_still);
        let disk = self.account.check_disk(&fs::read(&self.disk)?);
        time.and(disk).map_err(anyhow::Error::msg)?;
        Ok(self.account)
    }
}

/// `ferry soak`.
pub fn soak(options: &SoakOptions) -> Result<ExitCode> {
    if matches!(options.accel, DemoAccelerator::Kvm | DemoAccelerator::Both)
        && vmm::probe_kvm().tier() != Some(Tier::Full)
    {
        bail!("KVM here does not run Linux (see `ferry doctor`); use --accel soft");
    }
    println!(
        "Linux with {} and {} vCPU(s) that computes digests, writes and reads its disk and looks \
         at its clock, moved {} times over TCP.",
        options.memory, options.cpus, options.moves
    );
    let mut soak = Soak::new(options)?;
    let booting = Instant::now();
    let mut here = soak.boot(options)?;
    println!("It works after {:.1} s.", booting.elapsed().as_secs_f64());
    let mut moves = Vec::new();
    for number in 1..=options.moves {
        let moved = soak.move_on(&mut here, options).and_then(|(mut there, summary)| {
            soak.goes_on(&mut there)?;
            Ok((there, summary))
        });
        let (there, summary) = moved.with_context(|| format!("move {number}"))?;
        here = there;
        println!(
            "move {number}: {} in all, {} downtime, {} in {} rounds",
            text::time(summary.total_us),
            text::time(summary.downtime_us),
            text::bytes(summary.bytes),
            summary.rounds.len()
        );
        moves.push(summary);
    }
    let account = soak.end(here, &moves)?;
    print!("\n{}", text::distributions(&moves.iter().collect::<Vec<_>>()));
    let (guest, host) = account.time().context("the guest never told the time")?;
    println!(
        "\n{} moves, and nothing was lost: {} digests were right, {} pieces were written to the \
         disk and\nare there, the guest's clock went on by {:.1} s in {:.1} s.",
        moves.len(),
        account.digests,
        account.disk_turns,
        guest.as_secs_f64(),
        host.as_secs_f64()
    );
    Ok(ExitCode::SUCCESS)
}
