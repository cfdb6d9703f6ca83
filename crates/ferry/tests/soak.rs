//! The soak, as a user runs it, for a few moves. Needs the guest of `tools/linux-guest`.

mod common;

use common::linux::{guest_files, wanted};
use common::{Host, text};

#[test]
fn a_linux_guest_that_works_is_moved_and_nothing_is_lost() {
    let Some([kernel, initrd]) = wanted(guest_files()) else { return };
    let (kernel, initrd) = (kernel.display().to_string(), initrd.display().to_string());
    let files = ["soak", "--kernel", &kernel, "--initrd", &initrd, "--accel", "soft"];
    // A test shares its host with others.
    let more = ["--moves", "3", "--memory", "192M", "--cpus", "2", "--downtime-limit", "30000"];
    let soaked = Host::new("soak").ferry(&[&files[..], &more].concat());
    let said = text(&soaked);
    assert!(soaked.status.success(), "{said}");
    for line in ["move 3: ", " downtime ", "    total ", "3 moves, and nothing was lost: "] {
        assert!(said.contains(line), "{said}");
    }
}

#[test]
fn a_guest_that_cannot_start_is_a_failure() {
    let Some([kernel, _]) = wanted(guest_files()) else { return };
    let host = Host::new("soak-fails");
    let (kernel, initrd) = (kernel.display().to_string(), host.path("empty"));
    std::fs::write(&initrd, []).unwrap();
    let soaked = host.ferry(&[
        "soak", "--kernel", &kernel, "--initrd", &initrd, "--accel", "soft", "--moves", "1",
    ]);
    let said = text(&soaked);
    assert!(!soaked.status.success(), "{said}");
    assert!(said.contains("the guest's process ended"), "{said}");
}
