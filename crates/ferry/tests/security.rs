//! Who gets in, and who is turned away: with processes, certificates and a guest.

#[path = "../../transport/tests/authority/mod.rs"]
mod authority;
mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::process::ChildStderr;
use std::thread::{self, JoinHandle};

use authority::{Authority, Valid};
use common::{Host, Running, text};
use transport::tls::Pem;

/// Options that name the files of an identity, which are written.
fn options(host: &Host, name: &str, pem: &Pem) -> Vec<String> {
    let parts = [("cert", &pem.certificate), ("key", &pem.key), ("ca", &pem.authorities)];
    let mut options = Vec::new();
    for (part, text) in parts {
        let path = host.path(&format!("{name}-{part}"));
        fs::write(&path, text).unwrap();
        options.extend([format!("--tls-{part}"), path]);
    }
    options
}

fn words(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

fn goes_on(source: &mut Running) {
    let round = source.round();
    assert_eq!(source.round(), round + 1);
}

/// What a process says of those it turns away.
fn complaints(receiver: &mut Running) -> BufReader<ChildStderr> {
    BufReader::new(receiver.child.stderr.take().unwrap())
}

fn next(complaints: &mut BufReader<ChildStderr>) -> String {
    let mut line = String::new();
    complaints.read_line(&mut line).unwrap();
    line
}

/// Passes one connection on, and keeps what came from its caller.
fn recorder(to: &str) -> (String, JoinHandle<Vec<u8>>) {
    let to = to.strip_prefix("tcp:").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    let record = thread::spawn(move || {
        let (mut caller, _) = listener.accept().unwrap();
        let mut called = TcpStream::connect(to).unwrap();
        let (mut back_from, mut back_to) =
            (called.try_clone().unwrap(), caller.try_clone().unwrap());
        let back = thread::spawn(move || {
            let _ = std::io::copy(&mut back_from, &mut back_to);
            let _ = back_to.shutdown(Shutdown::Write);
        });
        let mut record = Vec::new();
        let mut buffer = vec![0; 65536];
        while let Ok(count @ 1..) = caller.read(&mut buffer) {
            record.extend_from_slice(&buffer[..count]);
            if called.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = called.shutdown(Shutdown::Write);
        back.join().unwrap();
        record
    });
    (address, record)
}

/// Sends what was recorded, and gives what is answered.
fn play(address: &str, record: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address.strip_prefix("tcp:").unwrap()).unwrap();
    let mut from = stream.try_clone().unwrap();
    let answers = thread::spawn(move || {
        let mut answers = Vec::new();
        let _ = from.read_to_end(&mut answers);
        answers
    });
    // Whoever refuses does not read to the end.
    let _ = stream.write_all(record);
    let _ = stream.shutdown(Shutdown::Write);
    answers.join().unwrap()
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

#[test]
fn certificates_from_the_command_move_a_guest_in_cipher_text() {
    let host = Host::new("tls-moves");
    let folder = host.path("ca");
    let made = host.ferry(&["make-test-ca", &folder]);
    assert!(made.status.success(), "{}", text(&made));
    assert!(text(&made).contains("trying out only"));
    assert!(!host.ferry(&["make-test-ca", &folder]).status.success(), "it overwrote keys");
    let files = |name: &str| -> Vec<String> {
        let file = |suffix: &str| format!("{folder}/{name}.{suffix}");
        [
            "--tls-cert",
            &file("pem"),
            "--tls-key",
            &file("key"),
            "--tls-ca",
            &format!("{folder}/ca.pem"),
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let mut source = host.guest();
    source.round();
    let there = Host::new("tls-moves-there");
    let (mut receiver, address) =
        there.receiver(&[&words(&files("beta"))[..], &["--tls-peer", "alpha"]].concat());
    let (relayed, record) = recorder(&address);
    let alpha = files("alpha");
    let arguments = [
        &["migrate", "vm", "--downtime-limit", "20000", &relayed, "--tls-peer", "beta"],
        &words(&alpha)[..],
    ]
    .concat();
    let moved = host.ferry(&arguments);
    assert!(moved.status.success(), "{}", text(&moved));
    receiver.round();
    let record = record.join().unwrap();
    assert!(record.len() > 100_000);
    for clear in [&b"FER\r\n"[..], b"QEVM", b"machine", b"alpha"] {
        assert!(
            !holds(&record, clear),
            "{:?} crossed in the clear",
            String::from_utf8_lossy(clear)
        );
    }

    // And further, from a process that was itself a receiver.
    let again = Host::new("tls-moves-again");
    let (mut last, address) = again.receiver(&words(&alpha));
    let beta = files("beta");
    let arguments = [
        &["migrate", "vm", "--downtime-limit", "20000", &address, "--tls-peer", "alpha"],
        &words(&beta)[..],
    ]
    .concat();
    let moved = there.ferry(&arguments);
    assert!(moved.status.success(), "{}", text(&moved));
    last.round();
    assert!(again.ferry(&["quit", "vm"]).status.success());
}

#[test]
fn whoever_is_not_the_right_one_gets_nothing_and_the_guest_goes_on() {
    let (here, there) = (Host::new("tls-wrong"), Host::new("tls-wrong-there"));
    let (ours, theirs) = (Authority::new(), Authority::new());
    let mut source = here.guest();
    source.round();
    let good = options(&here, "good", &ours.issue("alpha.test"));
    let foreign = Pem { authorities: ours.pem(), ..theirs.issue("alpha.test") };
    let beta = options(&there, "beta", &ours.issue("beta.test"));
    let (mut receiver, address) =
        there.receiver(&[&words(&beta)[..], &["--tls-peer", "alpha.test"]].concat());
    let mut said = complaints(&mut receiver);

    let expect_beta = ["--tls-peer", "beta.test"];
    for (name, pem, peer, here_says, there_says) in [
        (
            "foreign",
            foreign,
            "beta.test",
            "of no authority that is trusted there",
            "of no authority that is trusted here",
        ),
        (
            "ended",
            ours.issue_valid("alpha.test", Valid::Ended),
            "beta.test",
            "has expired or is not valid yet",
            "has expired",
        ),
        (
            "later",
            ours.issue_valid("alpha.test", Valid::Later),
            "beta.test",
            "refuses this host",
            "is not valid yet",
        ),
        (
            "stranger",
            ours.issue("gamma.test"),
            "beta.test",
            "refuses this host",
            "says it is gamma.test: its certificate is for none of the names",
        ),
        (
            "mistaken",
            ours.issue("alpha.test"),
            "delta.test",
            "not for delta.test",
            "refuses this host",
        ),
    ] {
        let files = options(&here, name, &pem);
        let refused = here.ferry(
            &[&["migrate", "vm", &address, "--tls-peer", peer], &words(&files)[..]].concat(),
        );
        assert_eq!(refused.status.code(), Some(1), "{name}");
        let refused = text(&refused);
        assert!(
            refused.contains(here_says) && refused.contains("the guest goes on here"),
            "{name}: {refused}"
        );
        let line = next(&mut said);
        assert!(line.contains(there_says) && line.contains("tcp:127.0.0.1"), "{name}: {line}");
        goes_on(&mut source);
    }

    // Without any certificate: a source in plain text, and something that is no source at all.
    let refused = here.ferry(&["migrate", "vm", &address]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("the peer speaks TLS"), "{}", text(&refused));
    assert!(next(&mut said).contains("does not speak TLS"));
    goes_on(&mut source);
    let answer = play(&address, b"GET / HTTP/1.0\r\n\r\n");
    assert!(answer.len() <= 7 && !holds(&answer, b"FER"), "{answer:02x?}");
    assert!(next(&mut said).contains("does not speak TLS"));
    // Nor does one who says nothing keep the others waiting.
    let _silent = TcpStream::connect(address.strip_prefix("tcp:").unwrap()).unwrap();

    // A source that wants TLS, and a receiver that does not speak it.
    let (mut plain, plain_address) = there.receiver(&[]);
    let refused = here
        .ferry(&[&["migrate", "vm", &plain_address], &expect_beta[..], &words(&good)[..]].concat());
    assert!(text(&refused).contains("does not speak TLS"), "{}", text(&refused));
    assert!(plain.failure().contains("speaks TLS"));
    goes_on(&mut source);

    // After all of that the right one is let in.
    let moved = here.ferry(
        &[
            &["migrate", "vm", "--downtime-limit", "20000", &address],
            &expect_beta[..],
            &words(&good)[..],
        ]
        .concat(),
    );
    assert!(moved.status.success(), "{}", text(&moved));
    receiver.round();
    assert!(there.ferry(&["quit", "vm"]).status.success());
}

#[test]
fn a_recorded_move_is_not_taken_again() {
    let (here, there) = (Host::new("replay"), Host::new("replay-there"));
    let ours = Authority::new();
    let alpha = options(&here, "alpha", &ours.issue("alpha.test"));
    let beta = options(&there, "beta", &ours.issue("beta.test"));
    for (called, caller) in [
        (words(&beta), [&words(&alpha)[..], &["--tls-peer", "beta.test"]].concat()),
        (vec![], vec![]),
    ] {
        let mut source = here.guest();
        source.round();
        let (mut receiver, address) = there.receiver(&called);
        let (relayed, record) = recorder(&address);
        let moved = here.ferry(
            &[&["migrate", "vm", "--downtime-limit", "20000", &relayed], &caller[..]].concat(),
        );
        assert!(moved.status.success(), "{}", text(&moved));
        receiver.round();
        assert!(there.ferry(&["quit", "vm"]).status.success());
        drop(receiver);
        let record = record.join().unwrap();

        let (mut again, address) = there.receiver(&called);
        if called.is_empty() {
            // In plain text the grant names the receiver that it was for, which is gone for ever.
            play(&address, &record);
            let said = again.failure();
            assert!(said.contains("grant"), "{said}");
        } else {
            let mut said = complaints(&mut again);
            play(&address, &record);
            assert!(next(&mut said).contains("refused: no secure channel with"));
        }
        assert_eq!(there.state("vm"), None);
    }
}

#[test]
fn plain_text_does_not_leave_the_host_unless_the_operator_says_so() {
    let (here, there) = (Host::new("plain"), Host::new("plain-there"));
    let refused = there.ferry(&["receive", "tcp:0.0.0.0:0"]);
    assert_eq!(refused.status.code(), Some(1));
    let refused = text(&refused);
    assert!(
        refused.contains("in plain text is refused") && refused.contains("--insecure"),
        "{refused}"
    );
    assert!(!refused.contains("listening at"), "{refused}");

    // An address of this host that others could have; nothing is sent to find it.
    let outside = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let Some(own) = outside.ok().filter(|own| !own.ip().is_loopback()) else {
        println!("left out in part: this host has no address but loopback");
        return;
    };
    let mut receiver = there.start(&["receive", "tcp:0.0.0.0:0", "--insecure"]);
    let port = receiver.line("listening at ").rsplit(':').next().unwrap().to_owned();
    let address = format!("tcp:{}:{port}", own.ip());
    let mut source = here.guest();
    source.round();
    let silent = TcpListener::bind((own.ip(), 0)).unwrap();
    let not_there = format!("tcp:{}", silent.local_addr().unwrap());
    let refused = here.ferry(&["migrate", "vm", &not_there]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("plain text is refused"), "{}", text(&refused));
    let mut heard = Vec::new();
    silent.accept().unwrap().0.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"", "something was said in the clear");
    goes_on(&mut source);

    let moved = here.ferry(&["migrate", "vm", "--downtime-limit", "20000", &address, "--insecure"]);
    assert!(moved.status.success(), "{}", text(&moved));
    assert!(text(&moved).contains("warning: --insecure"), "{}", text(&moved));
    receiver.round();
    assert!(there.ferry(&["quit", "vm"]).status.success());
    let mut said = String::new();
    receiver.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("warning: --insecure"), "{said}");
}

#[test]
fn frames_that_are_too_long_are_refused_before_they_are_read() {
    let there = Host::new("oversize");
    let mut hello = b"FER\r\n\x1a\0Y\0\0\0\x01\0\x01\0\x01".to_vec();
    hello.extend(u32::MAX.to_be_bytes());
    hello.extend([0; 8]);
    hello.extend(crc32fast::hash(&hello).to_be_bytes());
    for (frame, sentence) in [
        (&[0x01, 0xff, 0xff, 0xff, 0xff][..], "4294967295 bytes long"),
        (&[0x01, 0, 0x10, 0, 1][..], "1048577 bytes long"),
        (&[0x05, 0, 0, 0x40, 1][..], "16385 bytes long"),
        (&[0x7e, 0, 0, 0, 0][..], "unknown frame type 0x7e"),
    ] {
        let (mut receiver, address) = there.receiver(&[]);
        play(&address, &[&hello[..], frame].concat());
        let said = receiver.failure();
        assert!(said.contains(sentence), "{said}");
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let host = Host::new("tls-options");
    let pem = Authority::new().issue("alpha.test");
    let files = options(&host, "alpha", &pem);
    let other = options(&host, "other", &Authority::new().issue("alpha.test"));
    let files = words(&files);
    let mut source = host.guest();
    source.round();
    let file = format!("file:{}", host.path("saved"));
    let socket = format!("unix:{}", host.path("socket"));
    for (arguments, code, sentence) in [
        ([&["receive", "tcp:127.0.0.1:0"], &files[..4]].concat(), 2, "--tls-ca"),
        ([&["receive", "tcp:127.0.0.1:0", "--insecure"], &files[..]].concat(), 2, "--insecure"),
        (vec!["receive", "tcp:127.0.0.1:0", "--tls-peer", "x.test"], 2, "--tls-cert"),
        (vec!["migrate", "vm", "tcp:127.0.0.1:1", "--tls-peer", "no name"], 2, "no name"),
        (
            [&["receive", "tcp:127.0.0.1:0"], &files[..2], &words(&other)[2..4], &files[4..]]
                .concat(),
            1,
            "cannot be used",
        ),
        ([&["restore", &file], &files[..]].concat(), 1, "is for tcp: and unix:"),
        ([&["migrate", "vm", &file], &files[..]].concat(), 1, "is for tcp: and unix:"),
        ([&["migrate", "vm", &socket], &files[..]].concat(), 1, "--tls-peer must say"),
    ] {
        let refused = host.ferry(&arguments);
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}: {}", text(&refused));
        assert!(text(&refused).contains(sentence), "{arguments:?}: {}", text(&refused));
    }
    goes_on(&mut source);
}

#[test]
fn a_receiver_gives_up_its_rights_before_the_first_byte_and_can_still_move_on() {
    let (here, there) = (Host::new("sandbox"), Host::new("sandbox-there"));
    let kept = there.path("kept");
    fs::create_dir_all(&kept).unwrap();
    let mut source = here.guest();
    source.round();
    let (mut receiver, address) = there.receiver(&["--sandbox-folder", &kept]);
    let status = fs::read_to_string(format!("/proc/{}/status", receiver.child.id())).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    let moved = here.ferry(&["migrate", "vm", "--downtime-limit", "20000", &address]);
    assert!(moved.status.success(), "{}", text(&moved));
    receiver.round();

    let outside = format!("file:{}", there.path("outside"));
    for (to, sentence) in [
        ("exec:cat", "in the sandbox, where no command can be started"),
        (&outside, "in the sandbox, where that folder cannot be used"),
    ] {
        let refused = there.ferry(&["migrate", "vm", to]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(text(&refused).contains(sentence), "{}", text(&refused));
        goes_on(&mut receiver);
    }
    let saved = format!("file:{kept}/saved");
    let moved = there.ferry(&["migrate", "vm", &saved]);
    assert!(moved.status.success(), "{}", text(&moved));
    let mut restored = there.start(&["restore", &saved]);
    restored.round();
    assert!(there.ferry(&["quit", "vm"]).status.success());

    let (open, _) = there.receiver(&["--no-sandbox"]);
    let status = fs::read_to_string(format!("/proc/{}/status", open.child.id())).unwrap();
    assert!(status.contains("Seccomp:\t0"), "{status}");
}
