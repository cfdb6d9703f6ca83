//! A link between a QEMU and a Ferry on which one thing is changed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

/// Relays one connection to `tcp:HOST:PORT`, and gives the address at which it waits for it. The
/// first place where the source's bytes are `old` they become `new`, of the same length.
pub fn meddle(to: &str, old: &'static [u8], new: &'static [u8]) -> String {
    assert_eq!(old.len(), new.len());
    let to = to.strip_prefix("tcp:").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (source, _) = listener.accept().unwrap();
        let destination = TcpStream::connect(to).unwrap();
        let (back, ahead) = (destination.try_clone().unwrap(), source.try_clone().unwrap());
        thread::spawn(move || pass(back, ahead, &[], &[]));
        pass(source, destination, old, new);
    });
    address
}

fn pass(mut from: TcpStream, mut to: TcpStream, old: &[u8], new: &[u8]) {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 65536];
    let mut done = old.is_empty();
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        kept.extend_from_slice(&buffer[..count]);
        if !done && let Some(at) = kept.windows(old.len()).position(|bytes| bytes == old) {
            kept[at..at + old.len()].copy_from_slice(new);
            done = true;
        }
        // The place may lie across two reads; but a pause of the source must not hold anything up.
        let more = !done && count == buffer.len();
        let ready = if more { kept.len() - kept.len().min(old.len() - 1) } else { kept.len() };
        if to.write_all(&kept[..ready]).is_err() {
            break;
        }
        kept.drain(..ready);
    }
    let _ = to.write_all(&kept);
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
