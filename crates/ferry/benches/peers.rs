//! The same guest, with the same memory, moved QEMU to QEMU and Ferry to Ferry, in turn, over TCP on
//! loopback, beside what a plain socket carries in the same run.
//!
//! A Linux guest boots under QEMU and fills part of its memory with what does not compress; its
//! state is saved once, and every move begins with fresh processes that go on from it.
//!
//! `FERRY_BENCH_MOVES` moves of each kind (5 unless set). Needs Debian's `qemu-system-x86` and what
//! `tools/linux-guest` makes.

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::linux::guest_files;
use common::{Host, text};
use serde_json::Value;
use testkit::qemu::{Microvm, Qemu};

/// Memory of the guest in MiB, and how much of it is filled.
const MEMORY: u32 = 512;
const FILLED: u32 = 256;
const MIB: f64 = (1 << 20) as f64;

/// What one move took.
struct Move {
    /// From the order to the word that the guest runs there, in seconds.
    total: f64,
    /// In milliseconds, as the sender says.
    downtime: f64,
    /// Bytes on the link.
    bytes: f64,
}

fn main() {
    let count = std::env::var("FERRY_BENCH_MOVES").ok().and_then(|text| text.parse().ok());
    let count: usize = count.unwrap_or(5);
    if !testkit::qemu::has_qemu() {
        return;
    }
    let [kernel, _] = match guest_files() {
        Ok(files) => files,
        Err(missing) => return eprintln!("left out: {missing}"),
    };
    let host = Host::new("peers");
    let disk = host.folder.join("disk");
    File::create(&disk).unwrap().set_len(4 << 20).unwrap();
    let guest = kernel.parent().unwrap();
    let microvm =
        Microvm { cpus: 1, cpu: "qemu64", memory: MEMORY, legacy: false, disk: &disk, guest };
    let arguments = microvm.arguments().unwrap();
    let stream = prepare(&host, &arguments);
    let bytes = fs::metadata(&stream).unwrap().len();
    println!("a Linux guest of {MEMORY} MiB, {} MiB as a stream\n", bytes >> 20);
    let (mut qemu, mut ferry, mut socket) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..count {
        qemu.push(qemu_to_qemu(&host, &arguments, &stream, turn));
        ferry.push(ferry_to_ferry(&host, &stream));
        socket.push(plain_socket(bytes));
    }
    println!("{:<16} {:>10} {:>12} {:>14}", "", "TOTAL", "DOWNTIME", "THROUGHPUT");
    for (name, moves) in [("QEMU to QEMU", &qemu), ("Ferry to Ferry", &ferry)] {
        let of = |figure: fn(&Move) -> f64| median(moves.iter().map(figure));
        let (total, downtime) = (of(|of| of.total), of(|of| of.downtime));
        let rate = of(|of| of.bytes / of.total / MIB);
        println!("{name:<16} {total:>8.3} s {downtime:>9.1} ms {rate:>8.0} MiB/s");
    }
    let rate = median(socket.iter().map(|seconds| bytes as f64 / seconds / MIB));
    let seconds = median(socket);
    println!("{:<16} {seconds:>8.3} s {:>12} {rate:>8.0} MiB/s", "a plain socket", "");
    let ratio = |figure: fn(&Move) -> f64| {
        median(qemu.iter().zip(&ferry).map(|(qemu, ferry)| figure(ferry) / figure(qemu)))
    };
    println!(
        "\nFerry's beside QEMU's, turn by turn: total {:.2}, downtime {:.2} (median of {count})",
        ratio(|of| of.total),
        ratio(|of| of.downtime)
    );
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn hear(qemu: &mut Qemu, words: &str) {
    let end = Instant::now() + Duration::from_secs(300);
    let mut said = String::new();
    while !said.contains(words) {
        assert!(Instant::now() < end, "the guest does not say {words:?}: {said}");
        said.push_str(&qemu.hear());
    }
}

/// The guest's state, in a file; its configuration beside it.
fn prepare(host: &Host, arguments: &[String]) -> String {
    let mut qemu = Qemu::start(&host.folder, "first", arguments);
    let imported = qemu.lend_monitor(|socket| {
        host.ferry(&["import-config", "--qmp", &socket.display().to_string()])
    });
    assert!(imported.status.success(), "{}", text(&imported));
    fs::write(host.path("guest.toml"), &imported.stdout).unwrap();
    hear(&mut qemu, "userland after");
    // The shell shows its prompt a moment later.
    thread::sleep(Duration::from_secs(1));
    qemu.type_line(&format!("dd if=/dev/urandom of=/tmp/f bs=1M count={FILLED}; echo fil''led"));
    hear(&mut qemu, "filled\r\n");
    let file = host.path("stream");
    qemu.migrate(&format!("exec:cat >{file}"));
    assert_eq!(qemu.migrated()["status"], "completed");
    qemu.quit();
    file
}

fn waiting(host: &Host, name: &str, arguments: &[String], incoming: &str) -> Qemu {
    let more = ["-incoming".to_owned(), incoming.to_owned()];
    Qemu::start(&host.folder, name, &[arguments, &more].concat())
}

fn until_it_runs(qemu: &mut Qemu) {
    while qemu.state() != "running" {
        thread::sleep(Duration::from_millis(1));
    }
}

fn qemu_to_qemu(host: &Host, arguments: &[String], stream: &str, turn: usize) -> Move {
    let mut source = waiting(host, &format!("a{turn}"), arguments, &format!("exec:cat {stream}"));
    until_it_runs(&mut source);
    let mut destination = waiting(host, &format!("b{turn}"), arguments, "tcp:127.0.0.1:0");
    let address = format!("tcp:127.0.0.1:{}", destination.incoming_port());
    source.enable("return-path");
    let began = Instant::now();
    source.migrate(&address);
    let answer = source.migrated();
    until_it_runs(&mut destination);
    let total = began.elapsed().as_secs_f64();
    assert_eq!(answer["status"], "completed", "{answer}");
    let number = |of: &Value| of.as_f64().unwrap();
    let (downtime, bytes) = (number(&answer["downtime"]), number(&answer["ram"]["transferred"]));
    source.quit();
    destination.quit();
    Move { total, downtime, bytes }
}

fn ferry_to_ferry(host: &Host, stream: &str) -> Move {
    let disk = format!("disk0={}", host.path("disk"));
    let (from, config) = (format!("file:{stream}"), host.path("guest.toml"));
    let restore = ["restore", &from, "--from", "qemu", "--machine", &config, "--serial", "null"];
    let mut source = host.start(&[&restore[..], &["--disk", &disk]].concat());
    while host.state("guest").as_deref() != Some("running") {
        thread::sleep(Duration::from_millis(5));
    }
    // A host of its own for the destination: its machine has the same name.
    let other = Host::new("peers-destination");
    let (destination, address) = other.receiver(&["--disk", &disk, "--serial", "null"]);
    let began = Instant::now();
    let moved = host.ferry(&["migrate", "guest", &address, "--json"]);
    let total = began.elapsed().as_secs_f64();
    assert!(moved.status.success(), "{}", text(&moved));
    assert!(source.child.wait().unwrap().success());
    let summary: Value = serde_json::from_slice(&moved.stdout).unwrap();
    drop(destination);
    let number = |name: &str| summary[name].as_f64().unwrap();
    Move { total, downtime: number("downtime_us") / 1000.0, bytes: number("bytes") }
}

/// Seconds for as many bytes through a socket on loopback, with nothing done to them.
fn plain_socket(bytes: u64) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let reader = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 256 * 1024];
        let mut count = 0u64;
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => return count,
                more => count += more as u64,
            }
        }
    });
    let mut stream = TcpStream::connect(address).unwrap();
    let buffer = vec![0x5a; 256 * 1024];
    let began = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let now = left.min(buffer.len() as u64);
        stream.write_all(&buffer[..now as usize]).unwrap();
        left -= now;
    }
    drop(stream);
    assert_eq!(reader.join().unwrap(), bytes);
    began.elapsed().as_secs_f64()
}
