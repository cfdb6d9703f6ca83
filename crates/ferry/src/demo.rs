//! `ferry demo`: the embedded guest runs in one process and is moved to another, and back, over TCP.
//!
//! What is believed is what the guest itself prints.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use control::{MigrateSettings, Request, Summary};
use guest::{Line, RoundLine};
use vmm::Tier;

use crate::children::{Folder, PATIENCE, Process};
use crate::cli::{DemoAccelerator, DemoOptions};
use crate::move_away::{carry_out, progress_line};
use crate::text;

const NAME: &str = "demo";
/// Milliseconds for which the guest sleeps between rounds, so that a person can follow.
const PAUSE: &str = "60";
/// Pages that it rewrites in a round.
const PAGES: &str = "1024";
/// Rounds that it does between two moves.
const ROUNDS_BETWEEN: usize = 3;
/// A demo shares its host with whatever else runs there, such as the build of Ferry itself.
const DOWNTIME_LIMIT_MS: u64 = 1_000;

/// The demo while it runs.
struct Show {
    folder: Folder,
    /// What is there of a line.
    line: Vec<u8>,
    started: usize,
    colour: bool,
    terminal: bool,
    rounds: Vec<RoundLine>,
    wrong: Vec<String>,
    accel: DemoAccelerator,
}

impl Show {
    fn new(accel: DemoAccelerator) -> Result<Self> {
        let terminal = io::stdout().is_terminal();
        Ok(Self {
            folder: Folder::new(NAME)?,
            line: Vec::new(),
            started: 0,
            colour: terminal && std::env::var_os("NO_COLOR").is_none(),
            terminal,
            rounds: Vec::new(),
            wrong: Vec::new(),
            accel,
        })
    }

    fn start(&mut self, arguments: &[&str]) -> Result<Process> {
        self.started += 1;
        Process::start(&self.folder, self.started, arguments)
    }

    fn dim(&self, text: &str) -> String {
        if self.colour { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Hears what the guest has said in this process.
    fn hear(&mut self, number: usize, process: &mut Process) -> Result<()> {
        for byte in process.serial()? {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    self.hear_line(number, String::from_utf8_lossy(&line).trim_end());
                }
                other => self.line.push(other),
            }
        }
        if !self.wrong.is_empty() {
            bail!("the guest says: {}", self.wrong.join("; "));
        }
        Ok(())
    }

    fn hear_line(&mut self, number: usize, line: &str) {
        match Line::parse(line) {
            Some(Line::Round(round)) => {
                let expected = self.rounds.last().map_or(1, |last| last.round + 1);
                if round.round != expected {
                    self.wrong.push(format!("round {} where {expected} was due", round.round));
                }
                self.rounds.push(round);
            }
            Some(Line::Fail { .. }) => self.wrong.push(line.to_owned()),
            _ => {}
        }
        if !line.is_empty() {
            let clear = if self.terminal { "\r\x1b[K" } else { "" };
            println!("{clear}  {}", self.dim(&format!("process {number} | {line}")));
        }
    }

    /// Hears the guest in the newest process until it has done so many rounds more.
    fn more_rounds(&mut self, here: &mut Process, more: usize) -> Result<()> {
        let wanted = self.rounds.len() + more;
        let started = Instant::now();
        while self.rounds.len() < wanted {
            let lives = here.lives()?;
            self.hear(self.started, here)?;
            if !lives {
                bail!("the guest's process ended: {}", here.errors());
            }
            if started.elapsed() > PATIENCE {
                bail!("the guest's next round does not come");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Moves the machine from one process to a new one.
    fn move_on(&mut self, from: &mut Process) -> Result<(Process, Summary)> {
        let accel = self.accel.of_process(self.started as u32);
        let number = self.started;
        let mut to = self.start(&["receive", "tcp:127.0.0.1:0", "--accel", accel])?;
        let address = to.line("listening at ")?;
        let mut client = from.connect(NAME)?;
        let settings = MigrateSettings {
            downtime_limit_ms: Some(DOWNTIME_LIMIT_MS),
            ..MigrateSettings::default()
        };
        let mut heard = Ok(());
        let summary = carry_out(&mut client, NAME, &address, settings, |report| {
            if heard.is_ok() {
                heard = self.hear(number, from);
            }
            if self.terminal {
                print!("\r{}\x1b[K", progress_line(report));
                // A terminal that is gone is noticed by the next line.
                let _ = io::stdout().flush();
            }
        })
        .with_context(|| format!("the destination: {}", to.errors()))?;
        if self.terminal {
            print!("\r\x1b[K");
        }
        heard?;
        from.wait()?;
        self.hear(number, from)?;
        Ok((to, summary))
    }
}

/// `ferry demo`.
pub fn demo(options: &DemoOptions) -> Result<ExitCode> {
    let mut show = Show::new(options.accel)?;
    let cpus = options.cpus.to_string();
    println!(
        "{}",
        show.bold(&format!(
            "A guest with {} and {} vCPU(s) that checks itself, moved {} times over TCP.",
            options.memory, options.cpus, options.moves
        ))
    );
    let mut arguments = vec![
        "run",
        "--guest",
        "--name",
        NAME,
        "--memory",
        &options.memory,
        "--cpus",
        &cpus,
        "--pause",
        PAUSE,
        "--pages-per-round",
        PAGES,
        "--accel",
        options.accel.of_process(0),
    ];
    if matches!(options.accel, DemoAccelerator::Kvm | DemoAccelerator::Both)
        && vmm::probe_kvm().tier() != Some(Tier::Full)
    {
        println!(
            "KVM here shows guests the host's own time-stamp counter and CPUID: not promised."
        );
        arguments.extend(["--no-promise-tsc", "--no-promise-cpuid"]);
    }
    let mut here = show.start(&arguments)?;
    show.more_rounds(&mut here, ROUNDS_BETWEEN)?;
    let mut moves = Vec::new();
    for number in 1..=options.moves {
        println!(
            "{}",
            show.bold(&format!(
                "move {number}: process {} to a new process {}",
                show.started,
                show.started + 1
            ))
        );
        let (there, summary) = show.move_on(&mut here)?;
        println!(
            "  {} in all, {} downtime, {} in {} rounds",
            text::time(summary.total_us),
            text::time(summary.downtime_us),
            text::bytes(summary.bytes),
            summary.rounds.len()
        );
        here = there;
        show.more_rounds(&mut here, ROUNDS_BETWEEN)?;
        moves.push((summary, show.rounds.len()));
    }
    here.connect(NAME)?.ask(&Request::Quit)?;
    here.wait()?;
    table(&show, &moves);
    Ok(if show.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(crate::cli::FAILED) })
}

fn table(show: &Show, moves: &[(Summary, usize)]) {
    println!();
    println!(
        "{}",
        show.bold(&format!(
            "{:>5} {:>11} {:>11} {:>11} {:>7} {:>13}",
            "MOVE", "TOTAL", "DOWNTIME", "BYTES", "ROUNDS", "GUEST ROUNDS"
        ))
    );
    for (index, (summary, guest_rounds)) in moves.iter().enumerate() {
        println!(
            "{:>5} {:>11} {:>11} {:>11} {:>7} {:>13}",
            index + 1,
            text::time(summary.total_us),
            text::time(summary.downtime_us),
            text::bytes(summary.bytes),
            summary.rounds.len(),
            guest_rounds
        );
    }
    let summaries: Vec<&Summary> = moves.iter().map(|(summary, _)| summary).collect();
    print!("\n{}", text::distributions(&summaries));
    println!();
    if let Some(last) = show.rounds.last() {
        println!(
            "The guest did {} rounds without a gap. It verified {} pages, took {} timer \
             interrupts,\n{} inter-processor interrupts and {} provoked exceptions, and held its \
             registers and clocks\nagainst what they must be in every round.",
            last.round,
            last.pages,
            last.ticks.total(),
            last.ipis,
            last.faults
        );
    }
    if show.wrong.is_empty() {
        println!("{}", show.bold("It found nothing wrong."));
    } else {
        println!("{}", show.bold(&format!("It found: {}", show.wrong.join("; "))));
    }
}
