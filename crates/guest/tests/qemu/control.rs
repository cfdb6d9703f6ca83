//! QEMU's control socket, as far as a migration to a file needs it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Saves the running machine to a file and ends the process.
pub fn save_and_quit(socket: &Path, file: &str) {
    let stream = UnixStream::connect(socket).expect("QEMU listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    let mut writer = stream;
    let mut ask = |text: &str| {
        writeln!(writer, "{text}").expect("a socket");
        loop {
            let mut line = String::new();
            assert_ne!(reader.read_line(&mut line).expect("a socket"), 0, "no answer to {text}");
            // The greeting and events come in between.
            if line.contains("\"return\"") || line.contains("\"error\"") {
                return line;
            }
        }
    };
    ask("{\"execute\":\"qmp_capabilities\"}");
    let migrate =
        format!("{{\"execute\":\"migrate\",\"arguments\":{{\"uri\":\"exec:cat > '{file}'\"}}}}");
    let answer = ask(&migrate);
    assert!(!answer.contains("error"), "{answer}");
    loop {
        let answer = ask("{\"execute\":\"query-migrate\"}");
        if answer.contains("\"completed\"") {
            break;
        }
        assert!(!answer.contains("\"failed\""), "{answer}");
        thread::sleep(Duration::from_millis(10));
    }
    ask("{\"execute\":\"quit\"}");
}
