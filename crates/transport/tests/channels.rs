//! Channels, pipes and files as their users meet them.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use transport::{
    Address, Channel, Delivered, Delivery, Listener, TransportError, connect, open_intake,
    open_sink,
};

const LIMIT: Duration = Duration::from_secs(10);

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("ferry-transport-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn talk(address: &Address) {
    let listener = Listener::bind(address).unwrap();
    let at = listener.address().clone();
    if let Address::Tcp { port, .. } = at {
        assert_ne!(port, 0);
    }
    let client = thread::spawn(move || {
        let mut channel = connect(&at, LIMIT).unwrap();
        channel.writer.write_all(b"ahoy").unwrap();
        let mut answer = [0; 4];
        channel.reader.read_exact(&mut answer).unwrap();
        answer
    });
    let mut channel = listener.accept(Some(LIMIT), &AtomicBool::new(false)).unwrap();
    let mut asked = [0; 4];
    channel.reader.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"ahoy");
    channel.writer.write_all(b"aye!").unwrap();
    assert_eq!(&client.join().unwrap(), b"aye!");
}

#[test]
fn sockets_carry_bytes_both_ways() {
    let folder = Folder::new("talk");
    talk(&"tcp:127.0.0.1:0".parse().unwrap());
    let path = folder.file("socket");
    talk(&Address::Unix(path.clone()));
    assert!(!path.exists(), "the listener takes its file with it");
}

#[test]
fn a_dead_listeners_socket_is_replaced_and_a_live_ones_is_not() {
    let folder = Folder::new("stale");
    let path = folder.file("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = Listener::bind(&Address::Unix(path.clone())).unwrap();
    assert!(matches!(
        Listener::bind(&Address::Unix(path)),
        Err(TransportError::Io { source, .. }) if source.kind() == ErrorKind::AddrInUse
    ));
    drop(listener);
    let plain = folder.file("plain");
    fs::write(&plain, "precious").unwrap();
    assert!(Listener::bind(&Address::Unix(plain.clone())).is_err());
    assert_eq!(fs::read(plain).unwrap(), b"precious");
}

#[test]
fn waits_end_at_their_limit_or_when_told_to() {
    let listener = Listener::bind(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
    let soon = Duration::from_millis(80);
    let never = AtomicBool::new(false);
    assert!(matches!(listener.accept(Some(soon), &never), Err(TransportError::TimedOut { .. })));
    let stop = Arc::new(AtomicBool::new(false));
    let stopper = stop.clone();
    let thread = thread::spawn(move || {
        thread::sleep(soon);
        stopper.store(true, Ordering::Release);
    });
    assert!(matches!(listener.accept(None, &stop), Err(TransportError::Stopped(_))));
    thread.join().unwrap();

    let (mut left, _right) = Channel::pair().unwrap();
    left.control.set_read_timeout(Some(soon)).unwrap();
    assert_eq!(left.reader.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
    left.control.set_write_timeout(Some(soon)).unwrap();
    let block = vec![0; 1 << 20];
    let error = (0..100).find_map(|_| left.writer.write_all(&block).err()).unwrap();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[test]
fn a_shutdown_wakes_a_blocked_reader_and_the_peer() {
    let (mut left, mut right) = Channel::pair().unwrap();
    let control = left.control.clone();
    let reader = thread::spawn(move || left.reader.read(&mut [0; 16]).unwrap_or(0));
    thread::sleep(Duration::from_millis(50));
    control.shutdown();
    assert_eq!(reader.join().unwrap(), 0);
    assert_eq!(right.reader.read(&mut [0; 16]).unwrap(), 0);
}

#[test]
fn kinds_are_not_mixed_up() {
    assert!(matches!(connect(&Address::Fd(3), LIMIT), Err(TransportError::WrongKind { .. })));
    let tcp = "tcp:127.0.0.1:1".parse().unwrap();
    assert!(matches!(open_sink(&tcp, None), Err(TransportError::WrongKind { .. })));
    assert!(matches!(open_intake(&tcp, None), Err(TransportError::WrongKind { .. })));
    assert!(connect(&tcp, LIMIT).is_err());
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let folder = Folder::new("file");
    let path = folder.file("state");
    let address = Address::File(path.clone());
    let mut sink = open_sink(&address, None).unwrap();
    assert_eq!(sink.delivery(), Delivery::Commit);
    sink.write_all(b"half").unwrap();
    assert!(open_sink(&address, None).is_err(), "two writers of one file");
    sink.discard();
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);

    // What a killed process left behind is no hindrance.
    fs::write(folder.file("state.partial"), "some rest of another time").unwrap();
    let mut sink = open_sink(&address, None).unwrap();
    sink.write_all(b"whole").unwrap();
    sink.prepare().unwrap();
    assert!(!path.exists());
    assert_eq!(sink.commit().unwrap(), Delivered::Confirmed);
    let mut back = Vec::new();
    let mut intake = open_intake(&address, None).unwrap();
    intake.read_to_end(&mut back).unwrap();
    intake.finish().unwrap();
    assert_eq!(back, b"whole");
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    assert!(open_sink(&Address::File(folder.0.clone()), None).is_err(), "a directory");
}

#[test]
fn a_command_is_fed_waited_for_and_judged() {
    let folder = Folder::new("exec");
    let path = folder.file("out");
    let into = Address::Exec(format!("cat > {}", path.display()));
    let mut sink = open_sink(&into, Some(LIMIT)).unwrap();
    sink.write_all(&[7; 300_000]).unwrap();
    sink.prepare().unwrap();
    assert_eq!(sink.commit().unwrap(), Delivered::Confirmed);
    assert_eq!(fs::read(&path).unwrap(), [7; 300_000]);

    let sink = open_sink(&Address::Exec("cat >/dev/null; exit 3".to_owned()), Some(LIMIT)).unwrap();
    let error = sink.commit().unwrap_err().to_string();
    assert!(error.ends_with("ended with exit status 3"), "{error}");

    let mut intake =
        open_intake(&Address::Exec("printf hello; exit 4".to_owned()), Some(LIMIT)).unwrap();
    let mut text = String::new();
    intake.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    assert!(intake.finish().is_err());

    let mut sink = open_sink(&Address::Exec("exit 0".to_owned()), Some(LIMIT)).unwrap();
    while sink.prepare().is_ok() {
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(sink.write_all(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn a_command_that_does_not_read_is_noticed_and_can_be_ended() {
    let started = Instant::now();
    let mut sink =
        open_sink(&Address::Exec("sleep 60".to_owned()), Some(Duration::from_millis(100))).unwrap();
    let error = sink.write_all(&[0; 1 << 20]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let control = sink.control();
    control.set_write_timeout(None).unwrap();
    let thread = thread::spawn(move || {
        let kind = sink.write_all(&[0; 1 << 20]).unwrap_err().kind();
        sink.discard();
        kind
    });
    thread::sleep(Duration::from_millis(50));
    control.shutdown();
    assert_eq!(thread.join().unwrap(), ErrorKind::ConnectionAborted);
    assert!(started.elapsed() < Duration::from_secs(30), "the command was not waited out");
}

#[test]
fn an_inherited_descriptor_is_taken_over() {
    let (reader, writer) = std::io::pipe().unwrap();
    let (reader, writer) = (Address::Fd(reader.into_raw_fd()), Address::Fd(writer.into_raw_fd()));
    let mut sink = open_sink(&writer, Some(LIMIT)).unwrap();
    let mut intake = open_intake(&reader, Some(LIMIT)).unwrap();
    let thread = thread::spawn(move || {
        sink.write_all(&[3; 200_000]).unwrap();
        assert_eq!(sink.delivery(), Delivery::LastByte);
        sink.commit().unwrap()
    });
    let mut back = Vec::new();
    // The end is seen only if no copy of the writing end stayed open.
    intake.read_to_end(&mut back).unwrap();
    assert_eq!(back.len(), 200_000);
    assert_eq!(thread.join().unwrap(), Delivered::Unconfirmed);
    assert!(open_sink(&Address::Fd(987), None).is_err());
}

#[test]
fn what_a_peer_that_has_left_does_not_take_in_is_not_delivered() {
    let pair = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        (Channel::tcp(stream, "peer").unwrap(), peer)
    };
    let (mut channel, mut peer) = pair();
    channel.writer.write_all(b"word").unwrap();
    channel.control.wait_delivered(LIMIT).unwrap();
    let mut word = [0; 4];
    peer.read_exact(&mut word).unwrap();
    drop(peer);
    // An end in order after the word was taken in takes nothing back.
    assert_eq!(channel.reader.read(&mut [0; 8]).unwrap(), 0);
    channel.control.wait_delivered(LIMIT).unwrap();

    for leave in [
        |peer: TcpStream| drop(peer),
        |peer: TcpStream| {
            peer.shutdown(Shutdown::Both).unwrap();
            std::mem::forget(peer);
        },
    ] {
        let (mut channel, peer) = pair();
        leave(peer);
        assert_eq!(channel.reader.read(&mut [0; 8]).unwrap(), 0);
        // The first word after the end may be written, and is answered by a reset.
        channel.writer.write_all(b"word").unwrap();
        assert!(channel.control.wait_delivered(LIMIT).is_err());
    }
}
