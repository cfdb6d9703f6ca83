//! The answering side: a thread that listens, and one for each connection.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use migration::Cancel;

use crate::message::{
    MAX_LINE, MachineReport, MigrateSettings, OwnerReport, ProgressReport, Reply, Request, Status,
    Summary,
};

/// What a machine can be asked for. Errors are sentences for the operator.
pub trait Controlled: Send + Sync + 'static {
    /// What it is doing.
    fn status(&self) -> Status;
    /// Stops the guest.
    ///
    /// # Errors
    /// If it cannot be stopped.
    fn pause(&self) -> Result<(), String>;
    /// Lets the guest go on.
    ///
    /// # Errors
    /// If it cannot go on.
    fn resume(&self) -> Result<(), String>;
    /// Whether the machine may be ended.
    ///
    /// # Errors
    /// If somebody else needs what it has.
    fn check_quit(&self) -> Result<(), String>;
    /// Ends the machine.
    fn quit(&self);
    /// Lets the guest that is being moved run at the destination now.
    ///
    /// # Errors
    /// If it is not being moved, or not allowed to.
    fn post_copy(&self) -> Result<(), String>;
    /// Listens for the source of a machine that misses memory; returns where.
    ///
    /// # Errors
    /// If nothing is missing, or nobody can listen there.
    fn listen(&self, address: &str) -> Result<String, String>;
    /// Presses the power button.
    fn power_button(&self);
    /// Moves the guest away.
    ///
    /// # Errors
    /// If it did not move.
    fn migrate(
        &self,
        address: &str,
        settings: &MigrateSettings,
        progress: &mut dyn FnMut(ProgressReport),
        cancel: &Cancel,
    ) -> Result<Summary, String>;
    /// Who owns the machine.
    fn owner(&self) -> OwnerReport;
    /// What the machine is.
    ///
    /// # Errors
    /// If it cannot be said.
    fn machine(&self) -> Result<MachineReport, String>;
    /// Says what became of a grant that nobody could confirm; true if the guest is elsewhere.
    ///
    /// # Errors
    /// If nothing is in doubt, or the record says otherwise.
    fn resolve(&self, run_here: bool) -> Result<bool, String>;
    /// Called after the answer to a migration that went well, or to the word that the guest is
    /// elsewhere, was sent.
    fn after_move(&self);
}

/// A control socket. It goes away with this value.
pub struct Server {
    path: PathBuf,
}

impl Server {
    /// Listens at a path; a socket there that nobody listens at is replaced.
    ///
    /// # Errors
    /// If another machine listens there, or the socket cannot be made.
    pub fn start(path: &Path, machine: Arc<dyn Controlled>) -> io::Result<Self> {
        if path.exists() {
            if UnixStream::connect(path).is_ok() {
                let taken = "a machine of this name answers there already";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, taken));
            }
            fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        thread::Builder::new().name("control".to_owned()).spawn(move || {
            for connection in listener.incoming().flatten() {
                let machine = Arc::clone(&machine);
                // A connection that cannot have a thread is dropped, which its client sees.
                let _ = thread::Builder::new()
                    .name("control connection".to_owned())
                    .spawn(move || serve(connection, &*machine));
            }
        })?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been removed by somebody already.
        let _ = fs::remove_file(&self.path);
    }
}

fn say(to: &Mutex<UnixStream>, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    to.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
}

/// Reads requests until the client goes away. Nobody waits for an error here: a client that is
/// gone needs no answer.
fn serve(connection: UnixStream, machine: &dyn Controlled) {
    let Ok(reading) = connection.try_clone() else { return };
    let mut reader = BufReader::new(reading);
    let writer = Mutex::new(connection);
    loop {
        let mut line = String::new();
        match (&mut reader).take(MAX_LINE as u64).read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let answer = match serde_json::from_str::<Request>(&line) {
            Err(error) => Reply::Failed { reason: format!("the request makes no sense: {error}") },
            Ok(Request::Migrate { address, settings }) => {
                migrate(&mut reader, &writer, machine, &address, &settings);
                return;
            }
            Ok(Request::Quit) => {
                if let Err(reason) = machine.check_quit() {
                    if say(&writer, &Reply::Failed { reason }).is_err() {
                        return;
                    }
                    continue;
                }
                // The process may be gone before an answer that comes after.
                let _ = say(&writer, &Reply::Done);
                machine.quit();
                return;
            }
            Ok(Request::Resolve { run_here }) => match machine.resolve(run_here) {
                Ok(false) => Reply::Done,
                Ok(true) => {
                    let _ = say(&writer, &Reply::Done);
                    machine.after_move();
                    return;
                }
                Err(reason) => Reply::Failed { reason },
            },
            Ok(request) => answer(machine, &request),
        };
        if say(&writer, &answer).is_err() {
            return;
        }
    }
}

fn answer(machine: &dyn Controlled, request: &Request) -> Reply {
    let done = |result: Result<(), String>| match result {
        Ok(()) => Reply::Done,
        Err(reason) => Reply::Failed { reason },
    };
    match request {
        Request::Status => Reply::Status(machine.status()),
        Request::Pause => done(machine.pause()),
        Request::Resume => done(machine.resume()),
        Request::PowerButton => {
            machine.power_button();
            Reply::Done
        }
        Request::Owner => Reply::Owner(machine.owner()),
        Request::Machine => match machine.machine() {
            Ok(report) => Reply::Machine(report),
            Err(reason) => Reply::Failed { reason },
        },
        Request::PostCopy => done(machine.post_copy()),
        Request::Listen { address } => match machine.listen(address) {
            Ok(address) => Reply::Listening { address },
            Err(reason) => Reply::Failed { reason },
        },
        Request::Cancel | Request::Quit | Request::Migrate { .. } | Request::Resolve { .. } => {
            Reply::Failed { reason: "no migration runs on this connection".to_owned() }
        }
    }
}

fn migrate(
    reader: &mut BufReader<UnixStream>,
    writer: &Mutex<UnixStream>,
    machine: &dyn Controlled,
    address: &str,
    settings: &MigrateSettings,
) {
    let cancel = Cancel::new();
    thread::scope(|scope| {
        let over = {
            let cancel = cancel.clone();
            scope.spawn(move || {
                // Whatever comes now, be it a word or the end, cancels.
                let mut byte = [0];
                let _ = reader.read(&mut byte);
                cancel.cancel();
            })
        };
        let mut progress = |report| {
            if say(writer, &Reply::Progress(report)).is_err() {
                cancel.cancel();
            }
        };
        let moved = machine.migrate(address, settings, &mut progress, &cancel);
        let went_well = moved.is_ok();
        let last = match moved {
            Ok(summary) => Reply::Moved(summary),
            Err(reason) => Reply::Failed { reason },
        };
        // The client may be gone; the move stands all the same.
        let _ = say(writer, &last);
        let stream = writer.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = stream.shutdown(std::net::Shutdown::Both);
        drop(stream);
        let _ = over.join();
        if went_well {
            machine.after_move();
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::client::Client;

    #[derive(Default)]
    struct Machine {
        quit: AtomicBool,
        moved: AtomicBool,
    }

    impl Controlled for Machine {
        fn status(&self) -> Status {
            Status {
                name: "vm".into(),
                state: "running".into(),
                pid: 1,
                memory: 4096,
                cpus: 1,
                instructions: 2,
                virtual_ns: 3,
                throttle: 0,
            }
        }
        fn pause(&self) -> Result<(), String> {
            Err("it cannot".into())
        }
        fn resume(&self) -> Result<(), String> {
            Ok(())
        }
        fn check_quit(&self) -> Result<(), String> {
            Ok(())
        }
        fn post_copy(&self) -> Result<(), String> {
            Err("it is not being moved".into())
        }
        fn listen(&self, address: &str) -> Result<String, String> {
            Ok(address.to_owned())
        }
        fn quit(&self) {
            self.quit.store(true, Ordering::SeqCst);
        }
        fn power_button(&self) {}
        fn migrate(
            &self,
            address: &str,
            _: &MigrateSettings,
            progress: &mut dyn FnMut(ProgressReport),
            cancel: &Cancel,
        ) -> Result<Summary, String> {
            progress(ProgressReport {
                phase: "memory".into(),
                round: 1,
                pages_done: 1,
                pages: 2,
                bytes: 3,
                link_rate: None,
                dirty_rate: None,
                estimated_downtime_ms: None,
            });
            if address == "slow" {
                while !cancel.is_cancelled() {
                    thread::sleep(Duration::from_millis(1));
                }
                return Err("cancelled".into());
            }
            Ok(Summary {
                total_us: 1,
                downtime_us: 1,
                bytes: 3,
                rounds: vec![],
                confirmed: true,
                late_pages: 0,
            })
        }
        fn owner(&self) -> OwnerReport {
            OwnerReport {
                vm: "1".into(),
                process: "a".into(),
                place: None,
                record: None,
                unconfirmed: true,
            }
        }
        fn machine(&self) -> Result<MachineReport, String> {
            let disks = [("disk0".to_owned(), "/disk".to_owned())].into();
            Ok(MachineReport { tree: vec![0xd0, 0x0d], disks })
        }
        fn resolve(&self, run_here: bool) -> Result<bool, String> {
            Ok(!run_here)
        }
        fn after_move(&self) {
            self.moved.store(true, Ordering::SeqCst);
        }
    }

    fn served(name: &str) -> (Arc<Machine>, Server, PathBuf) {
        let path =
            std::env::temp_dir().join(format!("ferry-control-{}-{name}.sock", std::process::id()));
        let machine = Arc::new(Machine::default());
        let server = Server::start(&path, machine.clone()).unwrap();
        (machine, server, path)
    }

    fn migrate(address: &str) -> Request {
        Request::Migrate { address: address.into(), settings: MigrateSettings::default() }
    }

    #[test]
    fn questions_are_answered_in_order() {
        let (machine, server, path) = served("order");
        let mut client = Client::connect(&path).unwrap();
        assert_eq!(client.ask(&Request::Status).unwrap(), Reply::Status(machine.status()));
        assert_eq!(
            client.ask(&Request::Pause).unwrap(),
            Reply::Failed { reason: "it cannot".into() }
        );
        assert_eq!(client.ask(&Request::Resume).unwrap(), Reply::Done);
        let report = machine.machine().unwrap();
        assert_eq!(client.ask(&Request::Machine).unwrap(), Reply::Machine(report));
        assert_eq!(client.ask(&Request::Quit).unwrap(), Reply::Done);
        drop(server);
        assert!(!path.exists());
    }

    #[test]
    fn the_word_that_the_guest_is_elsewhere_ends_the_machine_after_the_answer() {
        let (machine, _server, path) = served("resolve");
        let mut client = Client::connect(&path).unwrap();
        let owner = client.ask(&Request::Owner).unwrap();
        assert_eq!(owner, Reply::Owner(machine.owner()));
        assert_eq!(client.ask(&Request::Resolve { run_here: true }).unwrap(), Reply::Done);
        assert!(!machine.moved.load(Ordering::SeqCst));
        assert_eq!(client.ask(&Request::Resolve { run_here: false }).unwrap(), Reply::Done);
        while !machine.moved.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_move_tells_of_its_progress_and_its_end() {
        let (machine, _server, path) = served("move");
        let mut client = Client::connect(&path).unwrap();
        client.send(&migrate("fast")).unwrap();
        assert!(matches!(client.reply().unwrap(), Reply::Progress(_)));
        assert!(matches!(client.reply().unwrap(), Reply::Moved(_)));
        while !machine.moved.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn any_word_cancels_a_move() {
        let (_machine, _server, path) = served("cancel");
        let mut client = Client::connect(&path).unwrap();
        client.send(&migrate("slow")).unwrap();
        assert!(matches!(client.reply().unwrap(), Reply::Progress(_)));
        client.send(&Request::Cancel).unwrap();
        assert_eq!(client.reply().unwrap(), Reply::Failed { reason: "cancelled".into() });
    }

    #[test]
    fn a_request_that_nobody_knows_is_refused() {
        let (_machine, _server, path) = served("unknown");
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"{\"ask\":\"dance\"}\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.contains("makes no sense") && line.contains("dance"), "{line}");
    }

    #[test]
    fn a_second_machine_of_the_same_name_is_refused() {
        let (_machine, _server, path) = served("twice");
        assert!(Server::start(&path, Arc::new(Machine::default())).is_err());
    }
}
