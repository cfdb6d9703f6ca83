//! A Linux guest that runs under QEMU and, between two QEMUs, through Ferry's translation: received
//! strictly, put into Ferry's terms, put back, written anew. It computes digests, reads and writes
//! its disk and counts seconds all the while.
//!
//! Needs Debian's `qemu-system-x86` and what `tools/linux-guest` makes.

mod common;
mod live;

use common::{microvm, receive};
use live::{Guest, Store, installed, wall_ns};
use qemu::layout::layouts;
use qemu::send::Sender;
use qemu::translate::{Instant, from_qemu, to_qemu};

/// Sends a stream through Ferry's terms.
fn translate(stream: &[u8], name: &str) -> Vec<u8> {
    let config = microvm(name);
    let layouts = layouts(&config);
    let mut memory = Store::default();
    let sections = receive(stream, &layouts, &mut memory).unwrap();
    let received =
        from_qemu(&sections, &config, wall_ns(), &|ring| memory.used_index(ring)).unwrap();
    let now = Instant { virtual_ns: received.virtual_ns, wall_ns: wall_ns() };
    let sections = to_qemu(&received.sections, &config, now, true).unwrap();
    let mut sender = Sender::new(Vec::new()).unwrap();
    sender.begin_memory(&memory.blocks).unwrap();
    sender.begin_round(true).unwrap();
    for ((block, offset), content) in &memory.pages {
        sender.page(*block, *offset, content).unwrap();
    }
    sender.end_round().unwrap();
    sender.sections(&sections, &layouts).unwrap();
    sender.finish().unwrap()
}

fn hops(name: &str, count: usize) {
    let Some(folder) = installed() else { return };
    let mut guest = Guest::boot(&folder, name, &microvm(name));
    guest.work();
    let mut counted = guest.tick();
    let mut at = std::time::Instant::now();
    for hop in 0..count {
        let moved = translate(&guest.save(), name);
        guest = guest.load(&moved);
        let next = guest.tick();
        // A guest that stands still in between cannot have lived longer than the world.
        let most = counted.seconds + at.elapsed().as_secs() + 2;
        assert!(
            (counted.seconds..=most).contains(&next.seconds),
            "hop {hop}: the guest's clock went from {} to {} s, {:?} later",
            counted.seconds,
            next.seconds,
            at.elapsed()
        );
        assert!(next.rounds >= counted.rounds, "hop {hop}");
        at = std::time::Instant::now();
        counted = next;
    }
    guest.check();
}

#[test]
fn a_guest_with_one_cpu_goes_through_ten_translations() {
    hops("idle", 10);
}

/// The virtio interface that QEMU's microvm has by default.
#[test]
fn a_guest_with_legacy_devices_goes_through_five_translations() {
    hops("linux1", 5);
}

#[test]
fn a_guest_with_two_cpus_goes_through_translations() {
    hops("linux2", 3);
}
