//! Whether QEMU sends what it holds. Its streams have no digest, so one is recorded, and compared
//! with the memory that QEMU still has afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::thread;

use machine::{FreshFacts, MachineConfig, MachineFile};
use qemu::PAGE_SIZE;
use qemu::incoming::{Event, Expected, Incoming};
use qemu::layout::layouts;
use serde_json::json;

use crate::traveller::Traveller;

/// Where firmware lies over memory, and the monitor shows firmware.
const FIRMWARE: std::ops::Range<u64> = 0xc_0000..0x10_0000;

fn config(guest: &Traveller) -> MachineConfig {
    let file = MachineFile::from_toml(&fs::read_to_string(guest.config()).unwrap()).unwrap();
    let fresh = FreshFacts { uuid: [0; 16], disk_sectors: &|_| None, host_cpuid: None };
    file.resolve(&fresh).unwrap()
}

/// What a stream says of memory at its end, by address.
fn memory_of(stream: &[u8], config: &MachineConfig) -> BTreeMap<u64, [u8; PAGE_SIZE]> {
    let (uuid, channels) = (config.uuid, 0);
    let mut incoming = Incoming::new(Expected { layouts: layouts(config), uuid, channels });
    incoming.heard(0, stream);
    incoming.ended(0);
    let (mut memory, mut ram) = (BTreeMap::new(), None);
    loop {
        match incoming.next().unwrap().expect("the stream is whole") {
            Event::Blocks(blocks) => {
                ram = blocks.iter().position(|(name, _)| name == "microvm.ram");
            }
            Event::Page { block, offset, content } if Some(block) == ram => {
                memory.insert(offset, *content);
            }
            Event::Complete(_) => return memory,
            Event::Page { .. } | Event::RoundEnd => {}
            Event::Difference { .. } => panic!("XBZRLE is off"),
        }
    }
}

/// Sends the guest's state to nobody, and gives the addresses of the pages that the stream has
/// otherwise than QEMU. The guest then stands still, and can go on.
fn left_out(guest: &mut Traveller) -> Vec<u64> {
    let config = config(guest);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    let reader = thread::spawn(move || {
        let mut stream = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut stream).unwrap();
        stream
    });
    guest.qemu().migrate_in_rounds(&address);
    assert_eq!(guest.qemu().migrated()["status"], "completed");
    let sent = memory_of(&reader.join().unwrap(), &config);
    let file = guest.host.path("memory");
    let what = json!({ "val": 0, "size": config.memory_bytes, "filename": file });
    guest.qemu().ask("pmemsave", what);
    let held = fs::read(&file).unwrap();
    let pages = (0..).step_by(PAGE_SIZE).zip(held.chunks(PAGE_SIZE));
    let other = |(address, held): &(u64, &[u8])| {
        sent.get(address).unwrap_or(&[0; PAGE_SIZE])[..] != **held && !FIRMWARE.contains(address)
    };
    pages.filter(other).map(|(address, _)| address).collect()
}

/// Why the other tests stop the guest before QEMU sends it: only then is what it sends what it holds.
/// What it leaves out of a running guest's memory is printed: a QEMU that leaves out nothing is no
/// worse.
#[test]
fn what_qemu_sends_of_a_stopped_guest_is_what_it_holds() {
    let Some(mut guest) = Traveller::boot("memory", 1, "qemu64", false) else { return };
    for turn in 1..=5 {
        let running = left_out(&mut guest);
        println!("memory: turn {turn}: of a running guest QEMU left out {} pages", running.len());
        guest.qemu().ask("cont", json!({}));
        guest.tick();
        guest.qemu().ask("stop", json!({}));
        let stopped = left_out(&mut guest);
        assert!(stopped.is_empty(), "turn {turn}: {stopped:x?}");
        guest.qemu().ask("cont", json!({}));
        guest.tick();
    }
}
