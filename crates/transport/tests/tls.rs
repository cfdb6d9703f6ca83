//! Secured channels: what they carry, and whom they refuse.

mod authority;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use authority::{Authority, Valid};
use transport::tls::{Identity, PeerName, Pem};
use transport::{Channel, TransportError};

const LIMIT: Duration = Duration::from_secs(20);

fn name(text: &str) -> PeerName {
    text.parse().unwrap()
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

fn channels() -> (Channel, Channel) {
    let (near, far) = tcp_pair();
    (Channel::tcp(near, "far").unwrap(), Channel::tcp(far, "near").unwrap())
}

fn identity(pem: &Pem) -> Identity {
    Identity::new(pem, &[]).unwrap()
}

type Both = (Result<Channel, TransportError>, Result<Channel, TransportError>);

/// Shakes hands on two threads.
fn shake(caller: &Identity, called: &Identity, wanted: &str) -> Both {
    let (near, far) = channels();
    thread::scope(|scope| {
        let far = scope.spawn(|| called.accept(far, LIMIT));
        let near = caller.connect(near, &name(wanted), LIMIT);
        (near, far.join().unwrap())
    })
}

fn joined() -> (Channel, Channel) {
    let authority = Authority::new();
    let (a, b) = (authority.issue("alpha.test"), authority.issue("beta.test"));
    let (near, far) = shake(&identity(&a), &identity(&b), "beta.test");
    (near.unwrap(), far.unwrap())
}

/// Bytes that tell their place.
fn pattern(at: usize) -> u8 {
    (at ^ at >> 8 ^ at >> 16) as u8
}

#[test]
fn each_side_knows_the_other_and_the_end_is_clean() {
    let (mut near, mut far) = joined();
    assert_eq!((near.peer.as_str(), far.peer.as_str()), ("far (beta.test)", "near (alpha.test)"));
    near.writer.write_all(b"ahoy").unwrap();
    let mut word = [0; 4];
    far.reader.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"ahoy");
    far.writer.write_all(b"aye!").unwrap();
    far.control.shutdown();
    let mut all = Vec::new();
    near.reader.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"aye!");
    assert!(far.writer.write_all(b"more").is_err());
}

#[test]
fn a_cut_is_not_taken_for_the_end() {
    let authority = Authority::new();
    let (a, b) = (identity(&authority.issue("a.test")), identity(&authority.issue("b.test")));
    let (near, far) = tcp_pair();
    let knife = near.try_clone().unwrap();
    let mut far = thread::scope(|scope| {
        let near = Channel::tcp(near, "far").unwrap();
        scope.spawn(|| a.connect(near, &name("b.test"), LIMIT).unwrap());
        b.accept(Channel::tcp(far, "near").unwrap(), LIMIT).unwrap()
    });
    knife.shutdown(std::net::Shutdown::Both).unwrap();
    let error = far.reader.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(error.to_string(), "the connection was cut");
}

#[test]
fn both_directions_can_be_full_at_once() {
    const BYTES: usize = 48 << 20;
    let (near, far) = joined();
    let written = [AtomicUsize::new(0), AtomicUsize::new(0)];
    thread::scope(|scope| {
        for (side, channel) in [near, far].into_iter().enumerate() {
            let Channel { mut reader, mut writer, control, .. } = channel;
            let written = &written;
            scope.spawn(move || {
                let chunk: Vec<u8> = (0..1 << 20).map(pattern).collect();
                let mut at = 0;
                while at < BYTES {
                    let count = writer.write(&chunk[at % chunk.len()..]).unwrap();
                    at += count;
                    written[side].store(at, Ordering::Release);
                }
                assert_eq!(at, BYTES);
            });
            scope.spawn(move || {
                // Nobody reads before both writers have stood still for a while.
                loop {
                    let seen = written.each_ref().map(|count| count.load(Ordering::Acquire));
                    thread::sleep(Duration::from_millis(200));
                    let now = written.each_ref().map(|count| count.load(Ordering::Acquire));
                    if seen == now && now.iter().all(|count| *count > 0) {
                        break;
                    }
                }
                let mut buffer = vec![0; 100_000];
                let mut at = 0;
                while at < BYTES {
                    let count = reader.read(&mut buffer).unwrap();
                    assert_ne!(count, 0);
                    for (index, byte) in buffer[..count].iter().enumerate() {
                        assert_eq!(*byte, pattern((at + index) % (1 << 20)));
                    }
                    at += count;
                }
                drop(control);
            });
        }
    });
}

#[test]
fn time_limits_hold_and_leave_the_session_whole() {
    let (mut near, mut far) = joined();
    far.control.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
    assert_eq!(far.reader.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
    near.writer.write_all(b"x").unwrap();
    let mut byte = [0];
    far.control.set_read_timeout(Some(LIMIT)).unwrap();
    far.reader.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");

    near.control.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let error = loop {
        if let Err(error) = near.writer.write(&[0; 65536]) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    // What was lost on its way cannot be made good.
    assert!(near.writer.write(b"x").is_err());
}

#[test]
fn a_shutdown_wakes_whoever_waits() {
    let (near, far) = joined();
    let Channel { mut reader, mut writer, control, .. } = near;
    let started = Instant::now();
    thread::scope(|scope| {
        let reading = scope.spawn(move || reader.read(&mut [0]));
        let writing = scope.spawn(move || {
            loop {
                if let Err(error) = writer.write(&[0; 65536]) {
                    return error;
                }
            }
        });
        thread::sleep(Duration::from_millis(300));
        control.shutdown();
        assert!(!matches!(reading.join().unwrap(), Ok(1..)));
        writing.join().unwrap();
    });
    assert!(started.elapsed() < LIMIT);
    drop(far);
}

/// The sentences of a handshake that fails on both sides.
fn refusal(caller: &Identity, called: &Identity, wanted: &str) -> (String, String) {
    let (near, far) = shake(caller, called, wanted);
    (near.unwrap_err().to_string(), far.unwrap_err().to_string())
}

fn says(said: &(String, String), caller: &str, called: &str) {
    assert!(said.0.contains(caller), "the caller says {:?}, not {caller:?}", said.0);
    assert!(said.1.contains(called), "the called says {:?}, not {called:?}", said.1);
}

#[test]
fn certificates_that_are_not_good_are_refused_on_either_side() {
    let ours = Authority::new();
    let theirs = Authority::new();
    let (good, host) = (identity(&ours.issue("alpha.test")), identity(&ours.issue("beta.test")));
    // Vouched for by somebody else, and trusting who is trusted here.
    let stranger = |dns| {
        let pem = theirs.issue(dns);
        identity(&Pem { authorities: ours.pem(), ..pem })
    };
    let said = refusal(&stranger("alpha.test"), &host, "beta.test");
    says(
        &said,
        "it refuses this host",
        "which says it is alpha.test: its certificate is of no authority",
    );
    let said = refusal(&good, &stranger("beta.test"), "beta.test");
    says(&said, "its certificate is of no authority", "of no authority that is trusted there");

    for (valid, wrong) in [(Valid::Ended, "has expired"), (Valid::Later, "is not valid yet")] {
        let bad = |dns| identity(&ours.issue_valid(dns, valid));
        let said = refusal(&bad("alpha.test"), &host, "beta.test");
        says(&said, "it refuses this host: the certificate shown", wrong);
        let said = refusal(&good, &bad("beta.test"), "beta.test");
        says(&said, wrong, "it refuses this host: the certificate shown");
    }

    let said = refusal(&good, &host, "gamma.test");
    says(&said, "its certificate is not for gamma.test", "it refuses this host");
    let choosy =
        Identity::new(&ours.issue("beta.test"), &[name("x.test"), name("y.test")]).unwrap();
    let said = refusal(&good, &choosy, "beta.test");
    says(
        &said,
        "it refuses this host",
        "says it is alpha.test: its certificate is for none of the names",
    );
    let listed = Identity::new(&ours.issue("beta.test"), &[name("alpha.test")]).unwrap();
    let (near, far) = shake(&good, &listed, "beta.test");
    assert!(near.is_ok() && far.is_ok());

    let address = identity(&ours.issue("127.0.0.1"));
    let (near, far) = shake(&good, &address, "127.0.0.1");
    assert!(near.is_ok() && far.is_ok());
}

/// A caller built with rustls alone, as a stranger would have one.
fn stranger(ours: &Authority, protocols: &[&[u8]], own: Option<&Pem>) -> rustls::ClientConfig {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ours.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(pem) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(pem.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

#[test]
fn a_caller_without_a_certificate_or_with_another_purpose_hears_nothing() {
    let ours = Authority::new();
    let host = identity(&ours.issue("beta.test"));
    let own = ours.issue("alpha.test");
    for (protocols, own, wrong) in [
        (&[&b"ferry-migration"[..]][..], None, "it shows no certificate"),
        (&[&b"h2"[..]][..], Some(&own), "it speaks TLS, but not to move a machine"),
        (&[][..], Some(&own), "it speaks TLS, but not to move a machine"),
    ] {
        let (near, far) = tcp_pair();
        let config = Arc::new(stranger(&ours, protocols, own));
        let said = thread::scope(|scope| {
            let said = scope.spawn(|| {
                host.accept(Channel::tcp(far, "near").unwrap(), LIMIT).unwrap_err().to_string()
            });
            let wanted = "beta.test".try_into().unwrap();
            let client = rustls::ClientConnection::new(config, wanted).unwrap();
            let mut stream = rustls::StreamOwned::new(client, near);
            let mut heard = Vec::new();
            let _ = stream.write_all(b"hello?");
            let _ = stream.read_to_end(&mut heard);
            assert_eq!(heard, b"", "{wrong}");
            said.join().unwrap()
        });
        assert!(said.contains(wrong), "{said}");
    }
}

/// What `called` answers to bytes in the clear, and what it says of them.
fn answer_to(called: &Identity, bytes: &[u8]) -> (Vec<u8>, String) {
    let (mut near, far) = tcp_pair();
    thread::scope(|scope| {
        let said = scope.spawn(|| {
            let accepted = called.accept(Channel::tcp(far, "near").unwrap(), LIMIT);
            accepted.unwrap_err().to_string()
        });
        // It may have been cut off before everything is written.
        let _ = near.write_all(bytes);
        let _ = near.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = near.read_to_end(&mut answer);
        (answer, said.join().unwrap())
    })
}

#[test]
fn what_is_no_tls_is_refused_with_an_alert_at_most() {
    let host = identity(&Authority::new().issue("beta.test"));
    let envelope = [&b"FER\r\n\x1a\0Y\0\0\0\x01\0\x01\0\x01"[..], &[0; 16]].concat();
    let long = [&[0x16, 3, 1, 0xff, 0xff][..], &[1; 70_000]].concat();
    for (bytes, wrong) in [
        (&envelope[..], "it does not speak TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", "it does not speak TLS"),
        (&long, "it sent a record that is longer than TLS allows"),
        (b"", "it ended the connection"),
        (&[0x16, 3, 1, 0, 200, 1], "it ended the connection"),
        (&[0x15, 3, 3, 0, 2, 1, 0], "it ended the connection"),
    ] {
        let (answer, said) = answer_to(&host, bytes);
        assert!(said.contains(wrong), "{:02x?}: {said}", &bytes[..bytes.len().min(16)]);
        // A fatal alert is a record of seven bytes (RFC 8446, sections 5.1 and 6).
        assert!(answer.is_empty() || (answer.len() == 7 && answer[0] == 0x15), "{answer:02x?}");
    }

    // The other way round: a caller whose peer speaks in the clear, or not at all.
    let caller = identity(&Authority::new().issue("alpha.test"));
    for (bytes, wrong) in [(&envelope[..], "does not speak TLS"), (b"", "not done within 0.3 s")] {
        let (near, mut far) = tcp_pair();
        far.write_all(bytes).unwrap();
        let near = Channel::tcp(near, "far").unwrap();
        let limit = Duration::from_millis(300);
        let said = caller.connect(near, &name("beta.test"), limit).unwrap_err().to_string();
        assert!(said.contains(wrong), "{said}");
        let mut sent = Vec::new();
        let _ = far.read_to_end(&mut sent);
        assert!(!sent.windows(3).any(|window| window == b"FER"));
    }
}

/// Passes bytes on, and gives those that came from the caller.
fn recorded(caller: &Identity, called: &Identity, wanted: &str, said: &[u8]) -> Vec<u8> {
    let (near, mut relay_near) = tcp_pair();
    let (mut relay_far, far) = tcp_pair();
    thread::scope(|scope| {
        let (mut back_from, mut back_to) =
            (relay_far.try_clone().unwrap(), relay_near.try_clone().unwrap());
        scope.spawn(move || {
            let _ = io::copy(&mut back_from, &mut back_to);
            let _ = back_to.shutdown(std::net::Shutdown::Write);
        });
        let record = scope.spawn(move || {
            let mut record = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = relay_near.read(&mut buffer) {
                record.extend_from_slice(&buffer[..count]);
                let _ = relay_far.write_all(&buffer[..count]);
            }
            let _ = relay_far.shutdown(std::net::Shutdown::Write);
            record
        });
        let far = scope.spawn(|| {
            let mut far = called.accept(Channel::tcp(far, "near").unwrap(), LIMIT).unwrap();
            let mut heard = Vec::new();
            far.reader.read_to_end(&mut heard).unwrap();
            far.control.shutdown();
            heard
        });
        let near = Channel::tcp(near, "far").unwrap();
        let mut near = caller.connect(near, &name(wanted), LIMIT).unwrap();
        near.writer.write_all(said).unwrap();
        near.control.shutdown();
        assert_eq!(far.join().unwrap(), said);
        record.join().unwrap()
    })
}

#[test]
fn a_session_that_is_played_again_or_damaged_is_refused() {
    let ours = Authority::new();
    let (caller, called) =
        (identity(&ours.issue("alpha.test")), identity(&ours.issue("beta.test")));
    let record = recorded(&caller, &called, "beta.test", b"a machine, and all of its memory");
    let (_, said) = answer_to(&called, &record);
    assert!(said.contains("no secure channel with near"), "{said}");
    for (at, bit) in (0..record.len()).step_by(3).zip((0..8).cycle()) {
        let mut damaged = record.clone();
        damaged[at] ^= 1 << bit;
        answer_to(&called, &damaged);
    }
}

#[test]
fn a_byte_that_changes_on_the_way_ends_the_session() {
    let authority = Authority::new();
    let (a, b) = (identity(&authority.issue("a.test")), identity(&authority.issue("b.test")));
    let (near, far) = tcp_pair();
    let mut forger = near.try_clone().unwrap();
    let mut far = thread::scope(|scope| {
        let near = Channel::tcp(near, "far").unwrap();
        scope.spawn(|| a.connect(near, &name("b.test"), LIMIT).unwrap());
        b.accept(Channel::tcp(far, "near").unwrap(), LIMIT).unwrap()
    });
    // A record of application data that nobody has encrypted.
    forger.write_all(&[&[0x17, 3, 3, 0, 32][..], &[7; 32]].concat()).unwrap();
    let error = far.reader.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.to_string(), "a record was changed on the way");
}

#[test]
fn identities_that_make_no_sense_are_refused_with_a_reason() {
    let ours = Authority::new();
    let good = ours.issue("alpha.test");
    let other = ours.issue("beta.test");
    for (pem, wrong) in [
        (Pem { certificate: String::new(), ..good.clone() }, "the certificate holds none"),
        (Pem { key: "no key".to_owned(), ..good.clone() }, "the key cannot be read"),
        (Pem { key: other.key, ..good.clone() }, "cannot be used"),
        (
            Pem { authorities: "none".to_owned(), ..good.clone() },
            "the list of authorities holds none",
        ),
        (Pem { certificate: good.key.clone(), ..good.clone() }, "the certificate holds none"),
    ] {
        let said = Identity::new(&pem, &[]).unwrap_err().to_string();
        assert!(said.contains(wrong), "{said}");
    }
    assert!("no name at all".parse::<PeerName>().is_err());
    assert_eq!(format!("{good:?}"), "Pem(..)");
    assert_eq!(name("::1").to_string(), "::1");
}
