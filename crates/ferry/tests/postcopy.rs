//! Post-copy between processes: a guest goes before its memory, the link is lost on the way, and a
//! new one brings the rest.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Host, Running, accelerators, text};
use memory::Userfault;

const PATIENCE: Duration = Duration::from_secs(60);

/// False, with a word, on a host that does not let this process catch faults.
fn possible() -> bool {
    match Userfault::open() {
        Ok(_) => true,
        Err(error) => {
            println!("not tested here: {error}");
            false
        }
    }
}

/// Rounds that a guest has done before it is moved.
const ROUNDS: u64 = 8;

/// A guest with something in most of its 8 MiB.
fn guest(host: &Host) -> Running {
    let mut guest = host.start(&host.run(&["--pages-per-round", "400"]));
    for _ in 0..ROUNDS {
        guest.round();
    }
    guest
}

/// A way to a receiver that can be cut.
struct Road {
    address: String,
    sockets: Arc<Mutex<Vec<TcpStream>>>,
}

impl Road {
    fn to(receiver: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tcp:{}", listener.local_addr().unwrap());
        let receiver = receiver.strip_prefix("tcp:").unwrap().to_owned();
        let sockets: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let kept = Arc::clone(&sockets);
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let far = TcpStream::connect(&receiver).unwrap();
                for (mut from, mut to) in [
                    (near.try_clone().unwrap(), far.try_clone().unwrap()),
                    (far.try_clone().unwrap(), near.try_clone().unwrap()),
                ] {
                    thread::spawn(move || {
                        let mut bytes = [0; 4096];
                        while let Ok(count @ 1..) = from.read(&mut bytes) {
                            if to.write_all(&bytes[..count]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                kept.lock().unwrap().extend([near, far]);
            }
        });
        Self { address, sockets }
    }

    fn cut(&self) {
        for socket in self.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Waits until `ferry ps` on a host says this.
fn wait_for_state(host: &Host, wanted: &str) -> String {
    let started = Instant::now();
    loop {
        let listed = text(&host.ferry(&["ps"]));
        if listed.contains(wanted) {
            return listed;
        }
        assert!(started.elapsed() < PATIENCE, "{wanted:?} is not in\n{listed}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_guest_goes_before_its_memory() {
    if !possible() {
        return;
    }
    let accels = accelerators("post-copy");
    let hows = [&["--postcopy"][..], &["--postcopy-after", "0"]];
    for (accel, how) in accels.iter().flat_map(|accel| hows.map(|how| (accel, how))) {
        let (here, there) = (Host::on("post-here", accel), Host::on("post-there", accel));
        let mut source = guest(&here);
        let (mut receiver, address) = there.receiver(&["--serial", "stdio"]);
        let moved = here.ferry(&[&["migrate", "vm", &address][..], how].concat());
        assert!(moved.status.success(), "{}", text(&moved));
        assert!(text(&moved).contains("pages after the guest"), "{}", text(&moved));
        assert!(source.child.wait().unwrap().success());
        let last = source.last_round().unwrap_or(ROUNDS);
        assert_eq!(receiver.round(), last + 1);
        wait_for_state(&there, "running ");
        assert!(there.ferry(&["pause", "vm"]).status.success());
        assert!(there.ferry(&["quit", "vm"]).status.success());
    }
}

/// Both processes are of one user of one host: the name is the source's until it has served all.
#[test]
fn a_guest_that_stays_on_its_host_can_be_spoken_to_once_its_memory_is_there() {
    if !possible() {
        return;
    }
    let host = Host::new("post-same");
    let mut source = guest(&host);
    let (mut receiver, address) = host.receiver(&[]);
    // It takes longer than a name is waited for in silence.
    let slowly = ["--postcopy-after", "0", "--bandwidth", "1M"];
    let moved = host.ferry(&[&["migrate", "vm", &address][..], &slowly].concat());
    assert!(moved.status.success(), "{}", text(&moved));
    assert!(source.child.wait().unwrap().success());
    wait_for_state(&host, "running ");
    assert!(host.ferry(&["quit", "vm"]).status.success());
    assert!(receiver.child.wait().unwrap().success());
    assert!(!text(&host.ferry(&["ps"])).contains("vm"));
}

#[test]
fn a_lost_link_is_replaced_and_the_guest_goes_on() {
    if !possible() {
        return;
    }
    for accel in accelerators("the recovery of post-copy") {
        a_lost_link_is_replaced(accel);
    }
}

fn a_lost_link_is_replaced(accel: &'static str) {
    let (here, there) = (Host::on("lost-here", accel), Host::on("lost-there", accel));
    let mut source = guest(&here);
    let (mut receiver, address) = there.receiver(&["--serial", "stdio"]);
    let road = Road::to(&address);
    let mut migrating = here
        .command(&["migrate", "vm", &road.address, "--postcopy-after", "0", "--bandwidth", "1M"])
        .spawn()
        .unwrap();
    wait_for_state(&here, "moved, ");
    wait_for_state(&there, "pages to come");
    // What needs all of the machine has to wait, and what has the rest must stay.
    for (host, command) in [(&there, ["pause", "vm"]), (&here, ["resume", "vm"])] {
        assert!(!host.ferry(&command).status.success(), "{command:?}");
    }
    let away = there.ferry(&["migrate", "vm", "file:/dev/null"]);
    assert!(text(&away).contains("have not arrived yet"), "{}", text(&away));
    road.cut();
    assert!(!migrating.wait().unwrap().success());
    wait_for_state(&there, "waiting for the source, ");
    wait_for_state(&here, "link lost, ");
    let quit = here.ferry(&["quit", "vm"]);
    assert!(text(&quit).contains("--recover"), "{}", text(&quit));
    let resumed = here.ferry(&["resume", "vm"]);
    assert!(text(&resumed).contains("its guest has moved"), "{}", text(&resumed));

    // Once more, over a link that is lost too; by another address this time.
    let listening = there.ferry(&["receive", "--recover", "vm", "tcp:127.0.0.1:0"]);
    let said = text(&listening);
    let other = said.trim().strip_prefix("vm listens at ").unwrap_or_else(|| panic!("{said}"));
    let second = Road::to(other);
    let mut again = here.command(&["migrate", "--recover", "vm", &second.address]).spawn().unwrap();
    wait_for_state(&there, "pages to come");
    second.cut();
    assert!(!again.wait().unwrap().success());
    wait_for_state(&there, "waiting for the source, ");

    // Nobody else can take its place.
    let strangers = Host::new("lost-strangers");
    let _other = guest(&strangers);
    let refused = strangers.ferry(&["migrate", "vm", &address]);
    assert!(!refused.status.success(), "{}", text(&refused));
    wait_for_state(&strangers, "running ");

    let recovered = here.ferry(&["migrate", "--recover", "vm", &address]);
    assert!(recovered.status.success(), "{}", text(&recovered));
    assert!(source.child.wait().unwrap().success());
    let last = source.last_round().unwrap_or(ROUNDS);
    assert_eq!(receiver.round(), last + 1);
    for round in 2..6 {
        assert_eq!(receiver.round(), last + round);
    }
    wait_for_state(&there, "running ");
    assert!(there.ferry(&["quit", "vm"]).status.success());
}

#[test]
fn a_migration_under_way_goes_on_by_post_copy_upon_a_word() {
    if !possible() {
        return;
    }
    let (here, there) = (Host::new("word-here"), Host::new("word-there"));
    let _source = guest(&here);
    let refused = here.ferry(&["postcopy", "vm"]);
    assert!(text(&refused).contains("--allow-postcopy"), "{}", text(&refused));
    let (mut receiver, address) = there.receiver(&["--serial", "stdio"]);
    // At this rate the first round alone takes ten seconds.
    let mut migrating = here
        .command(&["migrate", "vm", &address, "--allow-postcopy", "--bandwidth", "600K"])
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !here.ferry(&["postcopy", "vm"]).status.success() {
        assert!(started.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(10));
    }
    wait_for_state(&there, "pages to come");
    receiver.round();
    assert!(migrating.wait().unwrap().success());
    assert!(there.ferry(&["quit", "vm"]).status.success());
}
