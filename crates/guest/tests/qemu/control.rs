//! QEMU's control socket, as far as a migration to a file needs it.

use std::io::{BufRead, BufReader, Error, Result, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Saves the running machine to a file and ends the process. An error if the process ends before.
pub fn save_and_quit(socket: &Path, file: &str) -> Result<()> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    let mut ask = |text: &str| {
        writer.write_all(text.as_bytes())?;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(Error::other(format!("no answer to {text}")));
            }
            if line.contains("\"error\"") {
                return Err(Error::other(line));
            }
            // The greeting and events come in between.
            if line.contains("\"return\"") {
                return Ok(line);
            }
        }
    };
    ask("{\"execute\":\"qmp_capabilities\"}")?;
    let arguments = format!("{{\"uri\":\"exec:cat > '{file}'\"}}");
    ask(&format!("{{\"execute\":\"migrate\",\"arguments\":{arguments}}}"))?;
    loop {
        let answer = ask("{\"execute\":\"query-migrate\"}")?;
        if answer.contains("\"completed\"") {
            break;
        }
        if answer.contains("\"failed\"") {
            return Err(Error::other(answer));
        }
        thread::sleep(Duration::from_millis(10));
    }
    // It may end before it answers.
    let _ = ask("{\"execute\":\"quit\"}");
    Ok(())
}
