//! A real etcd on loopback, with a folder of its own, that can be killed, stopped, restarted and
//! out of space.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// One member, and its process.
#[derive(Debug)]
pub struct Etcd {
    child: Child,
    folder: PathBuf,
    client: SocketAddr,
    peer: SocketAddr,
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound")
}

impl Etcd {
    /// Starts one and waits until it answers. Where Debian's etcd-server is not installed: none,
    /// with a line that says so.
    ///
    /// # Panics
    /// If it is not installed where CI is set, or does not start.
    pub fn start(name: &str) -> Option<Self> {
        if Command::new("etcd").arg("--version").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "the package etcd-server is needed");
            eprintln!("left out: the package etcd-server is not installed");
            return None;
        }
        let folder = std::env::temp_dir().join(format!("etcd-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("there is room for a folder");
        let (client, peer) = (free_address(), free_address());
        let child = spawn(&folder, client, peer);
        let etcd = Self { child, folder, client, peer };
        etcd.wait();
        Some(etcd)
    }

    /// Where clients reach it: `etcd://HOST:PORT`.
    pub fn address(&self) -> String {
        format!("etcd://{}", self.client)
    }

    /// A folder that goes away with it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Starts it again, with the data that it had, and waits until it answers.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        self.child = spawn(&self.folder, self.client, self.peer);
        self.wait();
    }

    /// Puts it into the state in which its database has no space left: reading goes on, and whatever
    /// stores is refused until [`Self::empty`].
    ///
    /// # Panics
    /// If it does not answer.
    pub fn fill(&self) {
        self.alarm("ACTIVATE");
    }

    /// It has space again.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn empty(&self) {
        self.alarm("DEACTIVATE");
    }

    fn alarm(&self, action: &str) {
        let body = format!("{{\"action\":\"{action}\",\"alarm\":\"NOSPACE\"}}");
        let length = body.len();
        let answer = self.ask(&format!(
            "POST /v3/maintenance/alarm HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        assert!(answer.as_ref().is_ok_and(|answer| answer.contains("\"NOSPACE\"")), "{answer:?}");
    }

    fn wait(&self) {
        let started = Instant::now();
        while !self.is_healthy().unwrap_or(false) {
            assert!(started.elapsed() < Duration::from_secs(60), "etcd does not answer");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_healthy(&self) -> io::Result<bool> {
        Ok(self.ask("GET /health HTTP/1.0\r\n\r\n")?.contains("\"health\":\"true\""))
    }

    /// Sends a request, and gives all that is answered.
    fn ask(&self, request: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.client)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

fn spawn(folder: &Path, client: SocketAddr, peer: SocketAddr) -> Child {
    let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
    Command::new("etcd")
        .args(["--name", "test", "--data-dir"])
        .arg(folder.join("data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("test={peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd can be started")
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
