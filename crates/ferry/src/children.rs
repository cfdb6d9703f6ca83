//! Further processes of this program, between which a machine is moved to show or to try it.
//!
//! The receiving ones know nothing of the machine. All of them are ended with their parent's value
//! if they do not end by themselves.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use control::Client;

/// For how long a process may be silent where it has to say or do something.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A folder that goes away with this value.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one for temporary files.
    pub fn new(purpose: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("ferry-{purpose}-{}", std::process::id()));
        fs::create_dir_all(&folder).context("there is no room for a temporary folder")?;
        Ok(Self(folder))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is the system's to clean.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A child process, ended with this value.
pub struct Process {
    child: Child,
    runtime: PathBuf,
    serial: File,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already, if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts one, the `number`th of those that share a folder. Its machine can be found in a
    /// folder of its own only, and its guest's serial port is read by [`Self::serial`].
    pub fn start(folder: &Folder, number: usize, arguments: &[&str]) -> Result<Self> {
        let runtime = folder.path().join(number.to_string());
        fs::create_dir_all(&runtime)?;
        let serial = runtime.join("serial");
        File::create(&serial)?;
        let child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .args(["--serial", &format!("file:{}", serial.display())])
            .env("XDG_RUNTIME_DIR", &runtime)
            .env("XDG_STATE_HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(runtime.join("errors"))?)
            .spawn()
            .context("cannot start another process of this program")?;
        Ok(Self { child, runtime, serial: File::open(serial)? })
    }

    /// What its guest has sent by the serial port since this was last called. A line may begin
    /// here and end in the process that the guest is moved to.
    pub fn serial(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.serial.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The first line that it prints itself with this at its beginning, without that. Only once.
    pub fn line(&mut self, beginning: &str) -> Result<String> {
        let output = self.child.stdout.take().context("its output is taken")?;
        let mut lines = BufReader::new(output).lines();
        while let Some(line) = lines.next().transpose()? {
            if let Some(rest) = line.strip_prefix(beginning) {
                // What more it says is read too, so that it need not wait for a reader.
                thread::spawn(move || lines.for_each(drop));
                return Ok(rest.to_owned());
            }
        }
        bail!("a process ended: {}", self.errors())
    }

    /// What it has complained of.
    pub fn errors(&self) -> String {
        let errors = fs::read_to_string(self.runtime.join("errors")).unwrap_or_default();
        if errors.trim().is_empty() { "no word".to_owned() } else { errors.trim().to_owned() }
    }

    /// Reaches the machine of this name.
    pub fn connect(&self, machine: &str) -> Result<Client> {
        let socket = self.runtime.join("ferry").join(format!("{machine}.sock"));
        let started = Instant::now();
        loop {
            match Client::connect(&socket) {
                Ok(client) => return Ok(client),
                Err(error) if started.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Whether it has not ended yet.
    pub fn lives(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for it to end well.
    pub fn wait(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("a process ended with {status}: {}", self.errors()),
                None if started.elapsed() > PATIENCE => {
                    bail!("a process that gave its machine away does not end")
                }
                None => thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}
