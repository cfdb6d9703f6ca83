//! How long Debian's kernel takes from its first instruction to a shell on the software CPU, beside
//! QEMU's TCG in the same run where `qemu-system-x86_64` is installed.

use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use machine::{HostConfig, MachineConfig};
use vmm::{Boot, Endpoints, Vm};

const MEMORY: u64 = 512 << 20;
const COMMAND_LINE: &str = "console=ttyS0 reboot=t panic=-1";
/// What the guest's first process prints.
const USERLAND: &str = "ferry-linux: userland";
const PATIENCE: Duration = Duration::from_secs(120);

struct Lines {
    line: Vec<u8>,
    to: Sender<String>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte == b'\n' {
                let _ = self.to.send(String::from_utf8_lossy(&self.line).into_owned());
                self.line.clear();
            } else {
                self.line.push(*byte);
            }
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn ferry(kernel: PathBuf, initrd: PathBuf) -> Option<(Duration, f64)> {
    let config = MachineConfig::new("bench", [1; 16], MEMORY);
    let (to, lines) = channel();
    let mut endpoints = Endpoints::default();
    endpoints.outputs.insert("com1".to_owned(), Box::new(Lines { line: Vec::new(), to }));
    let boot = Boot::Linux { kernel, initrd: Some(initrd), command_line: COMMAND_LINE.to_owned() };
    let vm = Vm::create(&config, &boot, &HostConfig::default(), endpoints).expect("a machine");
    let started = Instant::now();
    vm.resume().expect("it runs");
    let there = loop {
        let line = lines.recv_timeout(PATIENCE).ok()?;
        if line.contains(USERLAND) {
            break started.elapsed();
        }
    };
    vm.pause().expect("it pauses");
    let instructions = vm.status().instructions;
    vm.quit();
    Some((there, instructions as f64 / there.as_secs_f64() / 1e6))
}

fn qemu(kernel: &PathBuf, initrd: &PathBuf) -> Option<Duration> {
    let started = Instant::now();
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-M", "microvm,x-option-roms=off,pit=on,pic=on,rtc=on,isa-serial=on"])
        .args(["-accel", "tcg", "-cpu", "qemu64", "-m", "512"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", COMMAND_LINE, "-nodefaults", "-no-user-config", "-nographic"])
        .args(["-serial", "stdio"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let output = BufReader::new(child.stdout.take()?);
    let (to, found) = channel();
    thread::spawn(move || {
        for line in output.split(b'\n').map_while(Result::ok) {
            if String::from_utf8_lossy(&line).contains(USERLAND) {
                let _ = to.send(started.elapsed());
                return;
            }
        }
    });
    let there = found.recv_timeout(PATIENCE).ok();
    let _ = child.kill();
    let _ = child.wait();
    there
}

fn main() {
    let target = std::env::var("CARGO_TARGET_DIR")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../target").to_owned());
    let folder = PathBuf::from(target).join("linux-guest");
    let (kernel, initrd) = (folder.join("vmlinuz"), folder.join("initrd.gz"));
    if !kernel.exists() {
        println!("linux: not measured, tools/linux-guest has not brought the kernel");
        return;
    }
    match ferry(kernel.clone(), initrd.clone()) {
        Some((time, speed)) => println!(
            "linux, start to shell, ferry's software cpu: {:.2} s ({speed:.0} million \
             instructions a second)",
            time.as_secs_f64()
        ),
        None => println!("linux, start to shell, ferry's software cpu: not within two minutes"),
    }
    match qemu(&kernel, &initrd) {
        Some(time) => {
            println!("linux, start to shell, qemu's tcg: {:.2} s", time.as_secs_f64());
        }
        None => println!(
            "linux, start to shell, qemu's tcg: qemu-system-x86_64 is not installed, or did not \
             get there within two minutes"
        ),
    }
}
