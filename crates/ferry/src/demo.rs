//! `ferry demo`: the embedded guest runs in one process and is moved to another, and back, over TCP.
//!
//! Every process is this same program. The receiving ones know nothing of the machine. All of them
//! are children of the demo, and are ended by it if they do not end by themselves.

use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use control::{Client, MigrateSettings, Request, Summary};
use guest::{Line, RoundLine};
use vmm::Tier;

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
const PATIENCE: Duration = Duration::from_secs(60);
/// A demo shares its host with whatever else runs there, such as the build of Ferry itself.
const DOWNTIME_LIMIT_MS: u64 = 1_000;

/// A line that one of the processes printed.
struct Said {
    process: usize,
    line: String,
}

/// A child process, ended with this value.
struct Process {
    child: Child,
    runtime: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already, if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn socket(&self) -> PathBuf {
        self.runtime.join("ferry").join(format!("{NAME}.sock"))
    }

    fn connect(&self) -> Result<Client> {
        let started = Instant::now();
        loop {
            match Client::connect(&self.socket()) {
                Ok(client) => return Ok(client),
                Err(error) if started.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn wait(&mut self) -> Result<()> {
        let started = Instant::now();
        while self.child.try_wait()?.is_none() {
            if started.elapsed() > PATIENCE {
                bail!("a process that gave its machine away does not end");
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// A folder that goes away with this value.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is the system's to clean.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn read_lines(process: usize, from: ChildStdout, to: Sender<Said>) {
    for line in BufReader::new(from).split(b'\n') {
        let Ok(line) = line else { return };
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if to.send(Said { process, line }).is_err() {
            return;
        }
    }
}

/// The demo while it runs.
struct Show {
    folder: Folder,
    said: Receiver<Said>,
    to: Sender<Said>,
    started: usize,
    colour: bool,
    terminal: bool,
    rounds: Vec<RoundLine>,
    listening: Option<(usize, String)>,
    wrong: Vec<String>,
    accel: DemoAccelerator,
}

impl Show {
    fn new(accel: DemoAccelerator) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("ferry-demo-{}", std::process::id()));
        fs::create_dir_all(&folder).context("there is no room for a temporary folder")?;
        let (to, said) = channel();
        let terminal = io::stdout().is_terminal();
        Ok(Self {
            folder: Folder(folder),
            said,
            to,
            started: 0,
            colour: terminal && std::env::var_os("NO_COLOR").is_none(),
            terminal,
            rounds: Vec::new(),
            listening: None,
            wrong: Vec::new(),
            accel,
        })
    }

    fn start(&mut self, arguments: &[&str]) -> Result<Process> {
        self.started += 1;
        let runtime = self.folder.0.join(self.started.to_string());
        fs::create_dir_all(&runtime)?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .env("XDG_RUNTIME_DIR", &runtime)
            .env("XDG_STATE_HOME", &self.folder.0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start another process of this program")?;
        let (output, number, to) =
            (child.stdout.take().context("no output")?, self.started, self.to.clone());
        thread::spawn(move || read_lines(number, output, to));
        Ok(Process { child, runtime })
    }

    fn dim(&self, text: &str) -> String {
        if self.colour { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn hear(&mut self, said: &Said) {
        if let Some(address) = said.line.strip_prefix("listening at ") {
            self.listening = Some((said.process, address.to_owned()));
            return;
        }
        match Line::parse(&said.line) {
            Some(Line::Round(round)) => {
                let expected = self.rounds.last().map_or(1, |last| last.round + 1);
                if round.round != expected {
                    self.wrong.push(format!("round {} where {expected} was due", round.round));
                }
                self.rounds.push(round);
            }
            Some(Line::Fail { .. }) => self.wrong.push(said.line.clone()),
            _ => {}
        }
        if !said.line.is_empty() {
            let clear = if self.terminal { "\r\x1b[K" } else { "" };
            println!("{clear}  {}", self.dim(&format!("process {} | {}", said.process, said.line)));
        }
    }

    /// Hears what comes until a condition holds.
    fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Result<()> {
        let started = Instant::now();
        while !holds(self) {
            if !self.wrong.is_empty() {
                bail!("the guest says: {}", self.wrong.join("; "));
            }
            match self.said.recv_timeout(Duration::from_millis(100)) {
                Ok(said) => self.hear(&said),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("every process has ended"),
            }
            if started.elapsed() > PATIENCE {
                bail!("{what} does not come");
            }
        }
        Ok(())
    }

    fn more_rounds(&mut self, more: usize) -> Result<()> {
        let wanted = self.rounds.len() + more;
        self.until("the guest's next round", |show| show.rounds.len() >= wanted)
    }

    /// Moves the machine from one process to a new one.
    fn move_on(&mut self, from: &mut Process) -> Result<(Process, Summary)> {
        let accel = self.accel.of_process(self.started as u32);
        let to = self.start(&["receive", "tcp:127.0.0.1:0", "--accel", accel])?;
        let number = self.started;
        self.until("the receiver's address", |show| {
            show.listening.as_ref().is_some_and(|(process, _)| *process == number)
        })?;
        let (_, address) = self.listening.take().context("no address")?;
        let mut client = from.connect()?;
        let settings = MigrateSettings {
            downtime_limit_ms: Some(DOWNTIME_LIMIT_MS),
            ..MigrateSettings::default()
        };
        let summary = carry_out(&mut client, NAME, &address, settings, |report| {
            while let Ok(said) = self.said.try_recv() {
                self.hear(&said);
            }
            if self.terminal {
                print!("\r{}\x1b[K", progress_line(report));
                // A terminal that is gone is noticed by the next line.
                let _ = io::stdout().flush();
            }
        })?;
        if self.terminal {
            print!("\r\x1b[K");
        }
        from.wait()?;
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
    show.more_rounds(ROUNDS_BETWEEN)?;
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
        show.more_rounds(ROUNDS_BETWEEN)?;
        moves.push((summary, show.rounds.len()));
    }
    here.connect()?.ask(&Request::Quit)?;
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
