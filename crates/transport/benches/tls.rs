//! What encryption costs: bytes over a loopback socket as they are, and through TLS, in turns.
//!
//! `cargo bench -p transport`; the argument is the number of MiB (default 1024).

#[path = "../tests/authority/mod.rs"]
mod authority;

use std::io::{Read, Write};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use authority::Authority;
use transport::tls::Identity;
use transport::{Channel, Listener, connect};

const LIMIT: Duration = Duration::from_secs(10);
const CHUNK: usize = 256 * 1024;
const TURNS: usize = 3;

fn pair(secured: Option<(&Identity, &Identity)>) -> (Channel, Channel) {
    let listener = Listener::bind(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
    let near = connect(listener.address(), LIMIT).unwrap();
    let far = listener.accept(Some(LIMIT), &AtomicBool::new(false)).unwrap();
    let Some((caller, called)) = secured else { return (near, far) };
    thread::scope(|scope| {
        let far = scope.spawn(|| called.accept(far, LIMIT).unwrap());
        let near = caller.connect(near, &"beta.test".parse().unwrap(), LIMIT).unwrap();
        (near, far.join().unwrap())
    })
}

/// MiB a second.
fn rate(mebibytes: usize, (mut near, mut far): (Channel, Channel)) -> f64 {
    let started = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            let chunk = vec![1; CHUNK];
            for _ in 0..(mebibytes << 20) / CHUNK {
                near.writer.write_all(&chunk).unwrap();
            }
            near.control.shutdown();
        });
        let mut chunk = vec![0; CHUNK];
        while far.reader.read(&mut chunk).unwrap() > 0 {}
    });
    mebibytes as f64 / started.elapsed().as_secs_f64()
}

fn main() {
    let mebibytes = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(1024);
    let authority = Authority::new();
    let identity = |name| Identity::new(&authority.issue(name), &[]).unwrap();
    let (caller, called) = (identity("alpha.test"), identity("beta.test"));
    for _ in 0..TURNS {
        let raw = rate(mebibytes, pair(None));
        let tls = rate(mebibytes, pair(Some((&caller, &called))));
        println!("raw {raw:.0} MiB/s, TLS {tls:.0} MiB/s: {:.2} of it", tls / raw);
    }
    let mut shakes = 0u32;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(1) {
        pair(Some((&caller, &called)));
        shakes += 1;
    }
    println!(
        "a handshake takes {:.1} ms",
        started.elapsed().as_secs_f64() * 1e3 / f64::from(shakes)
    );
}
