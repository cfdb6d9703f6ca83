//! From Ferry's stream to a QEMU's: a [`Sink`] for the engine.
//!
//! ```text
//! engine                        here                                     QEMU with -incoming
//! ----------------------------  ---------------------------------------  ---------------------
//!                               OPEN_RETURN_PATH, PING ---------------->
//! machine ------------------->  <--------------------------------- PONG
//! memory, in rounds ---------->  memory, in rounds -------------------->  fills its memory
//! (stops the guest)
//! sections, digest, end ------>  sections, PING ----------------------->  loads them
//! prepare()                     <--------------------------------- PONG
//! (lets go of the disks)
//! commit() ------------------->  end mark, description ---------------->  takes the disks, runs
//!                               <--------------------------------- SHUT
//! ```
//!
//! QEMU answers a PING once it has taken in everything before it: so all sections are loaded there
//! before the step that cannot be taken back, which is the end mark. A QEMU that does not take a
//! section ends instead, and the guest goes on here. On a one-way pipe nobody answers, and the
//! rules of the pipe hold.

use std::io::{self, BufWriter, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use devices::firmware::FirmwareState;
use machine::{MachineConfig, MachineType};
use memory::GuestRam;
use migration::SharedSchemas;
use stream::{Event, StreamReader};
use transport::{Channel, Control, Delivered, Delivery, Sink, TransportError};
use vmstate::SavedSection;

use super::blocks::Blocks;
use super::{Parts, Split};
use crate::PAGE_SIZE;
use crate::layout::layouts;
use crate::send::Sender;
use crate::translate::{Instant, to_qemu};

/// Pieces of Ferry's stream that wait to be translated.
const DEPTH: usize = 4;
const BUFFER: usize = 256 * 1024;
/// Numbers of the two questions.
const FIRST: u32 = 1;
const LAST: u32 = 2;
/// Messages of the return path.
const SHUT: u16 = 1;
const PONG: u16 = 2;
const GONE: &str = "it has ended the connection; its own standard error says why";

/// What is to leave.
pub struct Departure {
    /// The machine.
    pub config: MachineConfig,
    /// Its sections in Ferry's stream.
    pub schemas: SharedSchemas,
    /// Its memory: pages of a stream are numbers of its pages.
    pub ram: GuestRam,
    /// Its firmware's tables, which never change.
    pub firmware: FirmwareState,
    /// Takes its state apart.
    pub split: Split,
    /// The host's wall clock, in nanoseconds since 1970.
    pub wall_clock_ns: fn() -> i64,
    /// How long QEMU may take to answer.
    pub limit: Duration,
    /// How long it may take to load the state, while the guest stands still.
    pub pause_limit: Duration,
}

/// Where QEMU's stream goes.
enum Output {
    Channel { writer: Box<dyn Write + Send>, reader: Box<dyn Read + Send> },
    Pipe(Box<dyn Sink>),
}

impl Write for Output {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Channel { writer, .. } => writer.write(from),
            Self::Pipe(sink) => sink.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Channel { writer, .. } => writer.flush(),
            Self::Pipe(sink) => sink.flush(),
        }
    }
}

impl Output {
    /// Waits for QEMU's answer to a PING.
    fn expect_pong(&mut self, number: u32) -> Result<(), String> {
        let Self::Channel { reader, .. } = self else { return Ok(()) };
        match message(reader)? {
            (PONG, value) if value == number => Ok(()),
            (SHUT, code) => Err(format!("it does not take the guest (code {code})")),
            (kind, value) => Err(format!("message {kind} with {value} is no answer to a PING")),
        }
    }
}

fn message(reader: &mut dyn Read) -> Result<(u16, u32), String> {
    let mut bytes = [0; 8];
    reader.read_exact(&mut bytes).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => "it does not answer".to_owned(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => GONE.to_owned(),
        _ => error.to_string(),
    })?;
    let [k0, k1, l0, l1, value @ ..] = bytes;
    match (u16::from_be_bytes([k0, k1]), u16::from_be_bytes([l0, l1])) {
        (kind @ (SHUT | PONG), 4) => Ok((kind, u32::from_be_bytes(value))),
        (kind, length) => Err(format!("message {kind} of {length} bytes is not known")),
    }
}

/// A stream that is all there but for its end.
struct Ready(Sender<BufWriter<Output>>);

/// A QEMU that is sent a machine.
pub struct ToQemu {
    input: Option<SyncSender<Vec<u8>>>,
    done: Receiver<Result<Ready, String>>,
    ready: Option<Ready>,
    /// Why nothing more can be sent.
    failure: Arc<Mutex<Option<String>>>,
    control: Arc<dyn Control>,
    peer: String,
    limit: Duration,
}

impl ToQemu {
    /// Over a channel to a QEMU that waits with `-incoming`.
    ///
    /// # Errors
    /// If QEMU has no such machine, or it cannot be spoken to.
    pub fn over(channel: Channel, departure: Departure) -> Result<Self, TransportError> {
        let Channel { reader, writer, control, peer, stays_here: _ } = channel;
        let set = control
            .set_read_timeout(Some(departure.limit))
            .and_then(|()| control.set_write_timeout(Some(departure.limit)));
        set.map_err(|error| failed(&peer, error.to_string()))?;
        Self::new(Output::Channel { writer, reader }, control, peer, departure)
    }

    /// Into a pipe that a QEMU reads some day.
    ///
    /// # Errors
    /// If QEMU has no such machine.
    pub fn into_pipe(sink: Box<dyn Sink>, departure: Departure) -> Result<Self, TransportError> {
        let control = sink.control();
        Self::new(Output::Pipe(sink), control, "QEMU".to_owned(), departure)
    }

    fn new(
        output: Output,
        control: Arc<dyn Control>,
        peer: String,
        departure: Departure,
    ) -> Result<Self, TransportError> {
        check(&departure.config).map_err(|why| failed(&peer, why))?;
        let limit = departure.pause_limit;
        let (input, pieces) = sync_channel(DEPTH);
        let (say, done) = channel();
        let failure = Arc::new(Mutex::new(None));
        let reason = failure.clone();
        let translate = move || {
            let pieces = Pieces { pieces, piece: Vec::new(), used: 0 };
            let translated = translate(pieces, output, &departure);
            if let Err(why) = &translated {
                *reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
            }
            // Nobody may be waiting any more.
            let _ = say.send(translated);
        };
        thread::Builder::new()
            .name("migration-qemu".to_owned())
            .spawn(translate)
            .map_err(|error| failed(&peer, error.to_string()))?;
        Ok(Self { input: Some(input), done, ready: None, failure, control, peer, limit })
    }
}

fn failed(peer: &str, why: impl Into<String>) -> TransportError {
    TransportError::Peer { peer: peer.to_owned(), why: why.into() }
}

/// Whether QEMU has such a machine.
///
/// # Errors
/// What it lacks, by name.
pub fn check(config: &MachineConfig) -> Result<(), String> {
    if config.machine_type == MachineType::Microvm {
        return Ok(());
    }
    let mut lacks = vec!["the exit port".to_owned()];
    if config.hpet {
        lacks.push("the HPET".to_owned());
    }
    lacks.extend(config.virtio.iter().map(|of| format!("{} as it is here", of.kind.id())));
    Err(format!(
        "a machine of type {} cannot run there: QEMU's microvm lacks {}",
        config.machine_type,
        lacks.join(", ")
    ))
}

impl Write for ToQemu {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let sent = self.input.as_ref().map(|input| input.send(from.to_vec()));
        match sent {
            Some(Ok(())) => Ok(from.len()),
            _ => {
                let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                Err(io::Error::other(match &*failure {
                    Some(why) => format!("{}: {why}", self.peer),
                    None => format!("{}: the translation has ended", self.peer),
                }))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for ToQemu {
    fn delivery(&self) -> Delivery {
        Delivery::Commit
    }

    fn control(&self) -> Arc<dyn Control> {
        self.control.clone()
    }

    fn prepare(&mut self) -> Result<(), TransportError> {
        // The translation ends with the stream.
        self.input = None;
        let done = match self.done.recv_timeout(self.limit) {
            Ok(done) => done,
            Err(RecvTimeoutError::Timeout) => Err(format!(
                "it has not taken the state in after {} ms; use a larger --downtime-limit, or allow \
                 a longer pause",
                self.limit.as_millis()
            )),
            Err(RecvTimeoutError::Disconnected) => Err("the translation has failed".to_owned()),
        };
        let mut ready = done.map_err(|why| failed(&self.peer, why))?;
        if let Output::Pipe(sink) = ready.0.output().get_mut() {
            sink.prepare()?;
        }
        self.ready = Some(ready);
        Ok(())
    }

    fn commit(mut self: Box<Self>) -> Result<Delivered, TransportError> {
        let wrong = |why: String| failed(&self.peer, why);
        let Some(Ready(sender)) = self.ready.take() else {
            return Err(wrong("nothing was prepared".to_owned()));
        };
        let output = sender.finish().map_err(|error| wrong(error.to_string()))?;
        let output = output.into_inner().map_err(|error| wrong(error.to_string()))?;
        match output {
            Output::Pipe(sink) => sink.commit(),
            Output::Channel { writer, mut reader } => {
                let heard = message(&mut reader).map_err(wrong)?;
                drop(writer);
                match heard {
                    (SHUT, 0) => Ok(Delivered::Confirmed),
                    (SHUT, code) => Err(wrong(format!("it failed at the end (code {code})"))),
                    (kind, value) => Err(wrong(format!("message {kind} with {value} at the end"))),
                }
            }
        }
    }

    fn discard(mut self: Box<Self>) {
        self.control.shutdown();
        self.input = None;
        let ready = self.ready.take().or_else(|| self.done.recv_timeout(self.limit).ok()?.ok());
        if let Some(Ready(mut sender)) = ready
            && let Output::Pipe(sink) = std::mem::replace(
                sender.output().get_mut(),
                Output::Channel { writer: Box::new(io::sink()), reader: Box::new(io::empty()) },
            )
        {
            sink.discard();
        }
    }
}

/// Ferry's stream as it was handed in.
struct Pieces {
    pieces: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    used: usize,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.used == self.piece.len() {
            match self.pieces.recv() {
                Ok(piece) => (self.piece, self.used) = (piece, 0),
                Err(_) => return Ok(0),
            }
        }
        let rest = &self.piece[self.used..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.used += count;
        Ok(count)
    }
}

fn translate(pieces: Pieces, output: Output, departure: &Departure) -> Result<Ready, String> {
    let mut reader = StreamReader::new(pieces);
    reader.set_schemas(departure.schemas.clone());
    let blocks = Blocks::of(&departure.config, &departure.firmware);
    let text = |error: crate::send::SendError| match error {
        crate::send::SendError::Io(error) => match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => GONE.to_owned(),
            _ => format!("it takes nothing more: {error}"),
        },
        other => other.to_string(),
    };
    let mut sender = Sender::new(BufWriter::with_capacity(BUFFER, output)).map_err(text)?;
    if let Output::Channel { .. } = sender.output().get_ref() {
        sender.open_return_path().map_err(text)?;
        sender.ping(FIRST).map_err(text)?;
        sender.output().get_mut().expect_pong(FIRST)?;
    }
    sender.begin_memory(blocks.list()).map_err(text)?;
    let mut sections = Vec::new();
    let mut in_round = false;
    loop {
        let event = reader.next().map_err(|error| error.to_string())?;
        let (offset, content) = match event {
            Event::Page { block: 0, offset, data } => (offset, data),
            Event::ZeroPage { block: 0, offset } => (offset, &[0; PAGE_SIZE]),
            Event::Page { .. } | Event::ZeroPage { .. } => {
                return Err("a page of a second block of memory".to_owned());
            }
            Event::RamRoundEnd => {
                if std::mem::take(&mut in_round) {
                    sender.end_round().map_err(text)?;
                }
                continue;
            }
            Event::Section(section) => {
                sections.push(section);
                continue;
            }
            // The machine was checked before; the digest is of what this process itself has read.
            Event::Configuration { .. }
            | Event::Machine(_)
            | Event::RamBlocks(_)
            | Event::RamEnd
            | Event::Digest(_) => continue,
            Event::End => break,
        };
        if !std::mem::replace(&mut in_round, true) {
            sender.begin_round(false).map_err(text)?;
        }
        let address = departure.ram.address_of((offset / PAGE_SIZE as u64) as usize);
        let (block, offset) = blocks.holder(address);
        sender.page(block, offset, content).map_err(text)?;
    }
    reader.expect_end_of_input().map_err(|error| error.to_string())?;
    sender.begin_round(true).map_err(text)?;
    for (block, offset, content) in blocks.table_pages() {
        sender.page(block, offset, content).map_err(text)?;
    }
    sender.end_round().map_err(text)?;
    let theirs = state(&sections, departure)?;
    sender.sections(&theirs, &layouts(&departure.config)).map_err(text)?;
    if let Output::Channel { .. } = sender.output().get_ref() {
        sender.ping(LAST).map_err(text)?;
        sender.output().get_mut().expect_pong(LAST)?;
    } else {
        sender.output().flush().map_err(|error| text(error.into()))?;
    }
    Ok(Ready(sender))
}

/// QEMU's sections of a whole state.
fn state(sections: &[SavedSection], departure: &Departure) -> Result<Vec<SavedSection>, String> {
    let Parts { sections, firmware, virtual_ns, running } = (departure.split)(sections)?;
    if firmware != departure.firmware {
        return Err("the firmware's tables have changed".to_owned());
    }
    let now = Instant { virtual_ns, wall_ns: (departure.wall_clock_ns)() };
    to_qemu(&sections, &departure.config, now, running).map_err(|error| error.to_string())
}
