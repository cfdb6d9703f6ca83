//! `ferry import-config`: the machine of a QEMU that runs here.

use std::io::{self, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use qemu::config::{self, Ask, Given, Imported, Monitor};

use crate::cli::ImportOptions;
use crate::options;
use crate::tsc;

/// How long a monitor may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A monitor, and whether it is on this host.
type Connected = (Box<dyn Ask>, bool);

/// `ferry import-config`.
pub fn import_config(options: &ImportOptions) -> Result<ExitCode> {
    let (mut monitor, here) = connect(&options.qmp)?;
    let (tsc_khz, how) = match options.tsc_khz {
        Some(khz) => (khz, "as given".to_owned()),
        None if here => {
            let measured = tsc::measure()?;
            (measured.khz, measured.to_string())
        }
        None => bail!(
            "{} is on another host, and its guest sees the time-stamp counter there: give \
             --tsc-khz, or run this command there",
            options.qmp
        ),
    };
    let name = options.name.as_deref();
    let given = Given { name, uuid: options::fresh_uuid()?, tsc_khz };
    let Imported { file, notes } = config::import(&mut *monitor, &given)?;
    let mut text = String::from("# A machine of QEMU's, by `ferry import-config`.\n");
    for note in &notes {
        text.push_str(&format!("# - {note}\n"));
    }
    text.push_str(&format!("# - tsc-khz: {how}\n"));
    text.push_str(&file.to_toml()?);
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn connect(address: &str) -> Result<Connected> {
    let cannot = || {
        format!(
            "no monitor of QEMU's answers at {address} (start QEMU with -qmp \
             unix:PATH,server=on,wait=off; it answers to one connection at a time)"
        )
    };
    if let Some(host) = address.strip_prefix("tcp:") {
        let stream = TcpStream::connect(host).with_context(cannot)?;
        let here = stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback());
        stream.set_read_timeout(Some(PATIENCE))?;
        // Every request waits for its answer.
        stream.set_nodelay(true)?;
        let monitor = Monitor::new(BufReader::new(stream.try_clone()?), stream);
        return Ok((Box::new(monitor.with_context(cannot)?), here));
    }
    let path = address.strip_prefix("unix:").unwrap_or(address);
    let stream = UnixStream::connect(path).with_context(cannot)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let monitor = Monitor::new(BufReader::new(stream.try_clone()?), stream);
    Ok((Box::new(monitor.with_context(cannot)?), true))
}
