//! What the guest is busy with while it is moved, and how it is known that nothing was lost.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::console::Tick;
use crate::files::{Archive, GuestFiles};
use crate::guest::{Guest, PATIENCE, Span};
use crate::programs;

/// How far the guest's second may be from the host's, by the rounding of its kernel.
const CLOCK_ERROR: f64 = 0.001;
/// How precisely two clocks that are read one after the other are compared, in nanoseconds.
const CLOCK_GRAIN: i64 = 1_000;

/// Computes the digest of a file again and again.
const HASHING: &str = r#"#!/bin/sh
right=0 wrong=0
while [ ! -e /tmp/stop ]; do
    if [ "$(sha256sum </tmp/blob)" = "$1  -" ]; then
        right=$((right + 1))
    else
        wrong=$((wrong + 1))
    fi
    echo $right >/tmp/hashing.turns
done
echo "hashing right $right wrong $wrong"
"#;

/// Writes text through the page cache to the second half of a disk, piece by piece, and reads it
/// back, from the cache and from the disk.
const COPYING: &str = r#"#!/bin/sh
turn=0 wrong=0
while [ ! -e /tmp/stop ]; do
    at=$(($1 / 2 / 4096 + turn % 20 * 8))
    seq $turn $((turn + 4000)) | head -c 16384 >/tmp/piece
    dd if=/tmp/piece of=/dev/vda bs=4096 seek=$at conv=notrunc 2>/tmp/dd || wrong=$((wrong + 1))
    dd if=/dev/vda bs=4096 skip=$at count=4 2>/tmp/dd | cmp - /tmp/piece || wrong=$((wrong + 1))
    sync
    echo 1 >/proc/sys/vm/drop_caches
    dd if=/dev/vda bs=4096 skip=$at count=4 2>/tmp/dd | cmp - /tmp/piece || wrong=$((wrong + 1))
    turn=$((turn + 1))
    echo $turn >/tmp/copying.turns
done
echo "copying turns $turn wrong $wrong"
"#;

/// The guest's files with the programs of its work. Leaves what is hashed as `blob` in the folder.
pub fn with_programs(files: &GuestFiles, folder: &Path) -> GuestFiles {
    let mut archive = Archive::default();
    archive.folder("work");
    for name in ["ticks", "disk", "threads"] {
        let program = folder.join(name);
        programs::compile(name, &["-O2"], &program);
        archive.file(&format!("work/{name}"), &fs::read(&program).expect("an executable"));
    }
    archive.file("work/hashing", HASHING.as_bytes());
    archive.file("work/copying", COPYING.as_bytes());
    let mut word = 1_u32;
    let blob: Vec<u8> = (0..300_000)
        .map(|_| {
            word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (word >> 24) as u8
        })
        .collect();
    fs::write(folder.join("blob"), &blob).expect("a file to be hashed");
    archive.file("work/blob", &blob);
    let initrd = folder.join("initrd");
    archive.add_to(&files.initrd, &initrd);
    GuestFiles { kernel: files.kernel.clone(), initrd }
}

/// What the kernel's log holds at the levels of warnings and worse (printk's 0 to 4).
pub fn warnings(guest: &mut Guest) -> Vec<String> {
    let log = guest.run("dmesg -r");
    assert!(log.contains("Linux version"), "{log}");
    let level = |line: &str| line.strip_prefix('<')?.split_once('>')?.0.parse::<u32>().ok();
    let kernel = log.lines().filter(|line| level(line).is_some_and(|level| level <= 4));
    kernel.map(str::to_owned).collect()
}

/// How many interrupts of its local timer each CPU has had.
pub fn timer_interrupts(guest: &mut Guest) -> Vec<u64> {
    let line = guest.run("grep LOC: /proc/interrupts");
    line.split_ascii_whitespace().skip(1).map_while(|count| count.parse().ok()).collect()
}

/// A look at the guest's clocks.
#[derive(Clone, Copy)]
struct Look {
    monotonic: i64,
    real: i64,
    span: Span,
}

impl Look {
    fn take(guest: &mut Guest) -> Self {
        let (status, printed, span) = guest.try_run("/work/ticks once");
        assert_eq!(status, 0);
        let mut numbers = printed.split_whitespace().map(|number| number.parse().expect("a time"));
        let mut next = || numbers.next().expect("two times");
        Self { monotonic: next(), real: next(), span }
    }

    /// Whether what has passed in the guest since an earlier look can have passed at the host,
    /// given for how long it stood still in between.
    fn check(&self, earlier: &Look, paused: Duration, what: &str) {
        let most = self.span.ended - earlier.span.began;
        let least = (self.span.began - earlier.span.ended).saturating_sub(paused);
        let most = most.as_nanos() as f64 * (1.0 + CLOCK_ERROR);
        let least = least.as_nanos() as f64 * (1.0 - CLOCK_ERROR);
        for (clock, now, then) in [
            ("monotonic", self.monotonic, earlier.monotonic),
            ("real-time", self.real, earlier.real),
        ] {
            let passed = (now - then) as f64;
            assert!(
                (least..=most).contains(&passed),
                "{what}: {passed} ns on the guest's {clock} clock, {least} to {most} on the host's"
            );
        }
    }
}

/// The guest's work in progress.
pub struct Work {
    first: Look,
    paused: Duration,
    with_devices: bool,
}

impl Work {
    /// Starts it: counting on the console; hashing; and, with a disk of this many bytes, counting
    /// on the virtio console too, and writing and reading the disk.
    pub fn start(guest: &mut Guest, digest: &str, disk: Option<u64>) -> Self {
        guest.run("cp /work/blob /tmp/blob && grep -q ' /tmp tmpfs ' /proc/mounts");
        let first = Look::take(guest);
        let second = if disk.is_some() { "/dev/hvc0" } else { "" };
        guest.run(&format!("/work/ticks {second} >/dev/ttyS0 & true"));
        guest.run(&format!("/work/hashing {digest} >/tmp/hashing 2>&1 & true"));
        if let Some(bytes) = disk {
            guest.run(&format!("/work/disk /dev/vda {} >/tmp/disk 2>&1 & true", bytes / 2));
            guest.run(&format!("/work/copying {bytes} >/tmp/copying 2>&1 & true"));
        }
        let work = Self { first, paused: Duration::ZERO, with_devices: disk.is_some() };
        work.expect_turns(guest);
        work
    }

    /// Does something to the guest in the middle of its work that makes it stand still for the time
    /// that is returned, and sees that the work goes on and no time was lost or won.
    pub fn goes_on(
        &mut self,
        guest: &mut Guest,
        what: &str,
        action: impl FnOnce(&mut Guest) -> Duration,
    ) {
        let before = Look::take(guest);
        let paused = action(guest);
        Look::take(guest).check(&before, paused, what);
        self.paused += paused;
        self.expect_turns(guest);
    }

    /// Waits until every part of the work has gone on.
    fn expect_turns(&self, guest: &mut Guest) {
        guest.screen.expect_ticks(guest.screen.ticks().len() + 10, PATIENCE);
        for part in ["hashing", "copying"] {
            if part == "hashing" || self.with_devices {
                guest.run(&format!(
                    "f=/tmp/{part}.turns; until [ -e $f ]; do sleep .1; done; n=$(cat $f); \
                     until [ $(cat $f) -gt $((n + 1)) ]; do sleep .1; done"
                ));
            }
        }
    }

    /// Ends the work and checks all of it.
    pub fn finish(self, guest: &mut Guest) {
        guest.run("touch /tmp/stop; wait");
        Look::take(guest).check(&self.first, self.paused, "in all");

        let ticks = guest.screen.ticks();
        for (number, tick) in ticks.iter().enumerate() {
            assert_eq!(tick.number, number as u64, "a count is missing, or comes again");
        }
        let later =
            |pair: &[Tick]| pair[0].monotonic < pair[1].monotonic && pair[0].real < pair[1].real;
        assert!(ticks.windows(2).all(later), "{ticks:?}");
        let verdict = guest.screen.everything();
        let verdict = verdict.lines().find(|line| line.starts_with("ticks "));
        let counted = numbers(verdict.expect("the counter ends with a verdict"));
        let [count, backwards, early, apart, longest] = counted[..] else { panic!("{verdict:?}") };
        assert_eq!(count, ticks.len() as i64);
        assert_eq!((backwards, early), (0, 0), "{verdict:?}");
        assert!(apart <= CLOCK_GRAIN, "real time jumped against monotonic time: {verdict:?}");
        println!("{count} ticks, the longest time between two looks {} ms", longest / 1_000_000);

        let hashing = guest.run("cat /tmp/hashing");
        let [right, wrong] = numbers(&hashing)[..] else { panic!("{hashing}") };
        assert!(right > 3 && wrong == 0, "{hashing}");
        print!("{hashing}");
        if self.with_devices {
            let disk = guest.run("cat /tmp/disk");
            let [written, wrong] = numbers(&disk)[..] else { panic!("{disk}") };
            assert!(written > 50 && wrong == 0, "{disk}");
            let copying = guest.run("cat /tmp/copying");
            let [turns, wrong] = numbers(&copying)[..] else { panic!("{copying}") };
            assert!(turns > 3 && wrong == 0, "{copying}");
            print!("{disk}{copying}");
        }
    }
}

fn numbers(line: &str) -> Vec<i64> {
    line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}
