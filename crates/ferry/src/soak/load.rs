//! What the Linux guest of a soak is busy with, and the account of what it prints of it.
//!
//! Three parts run at once and print a numbered line for every turn: digests of a file in memory;
//! pieces written to the disk, brought there, and read back from there; the time since the start.
//! Whatever else comes on the console, a complaint of the kernel for instance, is wrong.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cpio::newc;

/// What the kernel has to start for [`add_to_initrd`].
pub const FIRST_PROCESS: &str = "/ferry-soak";
/// Bytes of a piece on the disk.
const PIECE: usize = 16 << 10;
/// Places for pieces on the disk.
const PLACES: u64 = 64;
/// Bytes of the disk.
pub const DISK: usize = PIECE * PLACES as usize;

/// The first process. The digest is that of the numbers from 1 to 40000, a line each.
const PROGRAM: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in virtio_ring virtio virtio_mmio virtio_blk; do
    insmod /lib/modules/$module.ko
done
until [ -b /dev/vda ]; do sleep .1; done
seq 1 40000 >/tmp/numbers
# Warnings of the kernel, and worse, come on the console from here on.
dmesg -n 5
echo "soak begin"
(
    turn=0
    while turn=$((turn + 1)); do
        digest=$(sha256sum </tmp/numbers)
        case $digest in
        4dee400da20bb6b7cfd1721c3383c86bb26571402edfe6631109445b28632130*)
            echo "soak digest $turn" ;;
        *) echo "soak digest $turn is wrong: $digest" ;;
        esac
    done
) &
(
    turn=0
    while turn=$((turn + 1)); do
        place=$((turn % 64))
        seq $turn $((turn + 4000)) | head -c 16384 >/tmp/piece
        dd if=/tmp/piece of=/dev/vda bs=16384 seek=$place conv=notrunc,fsync 2>/tmp/dd ||
            echo "soak disk $turn was not written: $(cat /tmp/dd)"
        echo 1 >/proc/sys/vm/drop_caches
        dd if=/dev/vda bs=16384 skip=$place count=1 2>/tmp/dd | cmp - /tmp/piece &&
            echo "soak disk $turn"
    done
) &
turn=0
while turn=$((turn + 1)); do
    read -r up idle </proc/uptime
    echo "soak clock $turn $up"
    sleep .1
done
"#;

/// An initrd with the program in it: a further archive behind the first, which the kernel unpacks
/// over that (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
pub fn add_to_initrd(initrd: &Path, result: &Path) -> Result<()> {
    let unreadable = || format!("cannot read the initial RAM disk {}", initrd.display());
    let mut archive = fs::read(initrd).with_context(unreadable)?;
    archive.resize(archive.len().next_multiple_of(4), 0);
    let name = FIRST_PROCESS.trim_start_matches('/');
    let entry = newc::Builder::new(name).mode(0o100_755).nlink(1);
    let mut writer = entry.write(&mut archive, PROGRAM.len() as u32);
    std::io::Write::write_all(&mut writer, PROGRAM.as_bytes())?;
    writer.finish()?;
    newc::trailer(&mut archive)?;
    fs::write(result, archive).context("there is no room for an initial RAM disk")
}

/// How the guest's clock stood when that was heard of.
#[derive(Clone, Copy, Debug)]
struct Clock {
    guest: Duration,
    heard: Instant,
}

/// What the guest has said.
#[derive(Debug, Default)]
pub struct Account {
    begun: bool,
    /// What is there of a line.
    line: Vec<u8>,
    /// The last lines, for whoever wants to know what went before.
    last_lines: Vec<String>,
    pub digests: u64,
    pub disk_turns: u64,
    pub clock_turns: u64,
    clocks: Option<(Clock, Clock)>,
    /// The first thing that is wrong.
    pub wrong: Option<String>,
}

impl Account {
    /// Whether the load has begun.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Turns of the part that has done fewest.
    pub fn least_turns(&self) -> u64 {
        self.digests.min(self.disk_turns).min(self.clock_turns)
    }

    /// What the guest printed last, a line each.
    pub fn last_lines(&self) -> String {
        self.last_lines.join("\n")
    }

    /// Takes what came on the console.
    pub fn hear(&mut self, bytes: &[u8], now: Instant) {
        for byte in bytes {
            match byte {
                b'\n' => {
                    let line = String::from_utf8_lossy(&self.line).into_owned();
                    self.line.clear();
                    self.hear_line(&line, now);
                    if self.last_lines.len() == 20 {
                        self.last_lines.remove(0);
                    }
                    self.last_lines.push(line);
                }
                b'\r' => {}
                other => self.line.push(*other),
            }
        }
    }

    fn hear_line(&mut self, line: &str, now: Instant) {
        if !self.begun {
            self.begun = line == "soak begin";
            return;
        }
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().ok();
        let right = match words[..] {
            ["soak", "digest", turn] => Self::next(&mut self.digests, number(turn)),
            ["soak", "disk", turn] => Self::next(&mut self.disk_turns, number(turn)),
            ["soak", "clock", turn, up] => {
                Self::next(&mut self.clock_turns, number(turn)) && self.clock(up, now)
            }
            _ => false,
        };
        if !right && self.wrong.is_none() {
            self.wrong = Some(format!(
                "{line:?} after digest {}, disk {} and clock {}",
                self.digests, self.disk_turns, self.clock_turns
            ));
        }
    }

    fn next(turns: &mut u64, turn: Option<u64>) -> bool {
        *turns += 1;
        turn == Some(*turns)
    }

    fn clock(&mut self, up: &str, heard: Instant) -> bool {
        let Some(guest) = up.parse().ok().and_then(|up| Duration::try_from_secs_f64(up).ok())
        else {
            return false;
        };
        let now = Clock { guest, heard };
        let (first, last) = self.clocks.unwrap_or((now, now));
        self.clocks = Some((first, now));
        guest >= last.guest
    }

    /// How long the load has run, by the guest's clock and by this process's.
    pub fn time(&self) -> Option<(Duration, Duration)> {
        let (first, last) = self.clocks?;
        Some((last.guest - first.guest, last.heard - first.heard))
    }

    /// Whether the guest's clock went on as the host's, but for the time it stood still.
    pub fn check_time(&self, stood_still: Duration) -> Result<(), String> {
        /// From when the guest reads its clock to when that is heard here.
        const SLACK: Duration = Duration::from_secs(1);
        let (guest, host) = self.time().ok_or("the guest never told the time")?;
        let error = SLACK + host / 1000;
        if guest > host + error || guest + stood_still + error < host {
            return Err(format!(
                "{:.2} s passed in the guest while {:.2} s passed here, of which it stood still \
                 for {:.2} s",
                guest.as_secs_f64(),
                host.as_secs_f64(),
                stood_still.as_secs_f64()
            ));
        }
        Ok(())
    }

    /// Whether the disk holds what the guest says that it wrote. A piece that nobody has told of
    /// yet may be there as well, and one may be half written.
    pub fn check_disk(&self, disk: &[u8]) -> Result<(), String> {
        let mut half_written = None;
        for (place, found) in (0..PLACES).zip(disk.chunks(PIECE)) {
            // The last turn that was told of here, if there was one.
            let told = (0..=self.disk_turns).rev().take_while(|turn| *turn > 0);
            let told = told.take(PLACES as usize).find(|turn| turn % PLACES == place);
            let turn = String::from_utf8_lossy(found).lines().next().unwrap_or_default().parse();
            let right = match (turn, told) {
                (Ok(turn), _) => {
                    let new_enough = turn >= told.unwrap_or(1);
                    let told_of_soon = turn <= self.disk_turns + PLACES;
                    turn % PLACES == place && new_enough && told_of_soon && found == piece(turn)
                }
                (Err(_), None) => found.iter().all(|byte| *byte == 0),
                (Err(_), Some(_)) => false,
            };
            if !right && let Some(other) = half_written.replace(place) {
                return Err(format!("the disk is wrong at pieces {other} and {place}"));
            }
        }
        match half_written {
            // The guest told of nothing behind it, so it was being written.
            Some(place) if self.disk_turns % PLACES == place && self.disk_turns > 0 => {
                Err(format!("the disk is wrong at piece {place}, which was told of last"))
            }
            _ => Ok(()),
        }
    }
}

/// What the guest writes in a turn.
fn piece(turn: u64) -> Vec<u8> {
    let mut text = String::new();
    for number in turn.. {
        text.push_str(&number.to_string());
        text.push('\n');
        if text.len() >= PIECE {
            break;
        }
    }
    let mut bytes = text.into_bytes();
    bytes.truncate(PIECE);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> Account {
        let mut account = Account::default();
        // In pieces, as it comes.
        for part in text.as_bytes().chunks(7) {
            account.hear(part, Instant::now());
        }
        account
    }

    #[test]
    fn every_turn_is_counted() {
        let account = heard(
            "[    1.0] noise\r\nsoak begin\r\nsoak clock 1 2.50\r\nsoak disk 1\r\n\
             soak digest 1\r\nsoak clock 2 2.61\r\nsoak digest 2\r\nsoak dig",
        );
        assert_eq!(account.wrong, None);
        assert_eq!((account.digests, account.disk_turns, account.clock_turns), (2, 1, 2));
        assert_eq!(account.least_turns(), 1);
        assert_eq!(account.time().unwrap().0, Duration::from_millis(110));
    }

    #[test]
    fn whatever_is_lost_or_said_besides_is_wrong() {
        for lines in [
            "soak digest 2",
            "soak disk 1\nsoak disk 1",
            "soak digest 1 is wrong: 00",
            "soak disk 1 was not written: no space",
            "cmp: - /tmp/piece differ: char 1, line 1",
            "[   12.0] BUG: soft lockup",
            "soak clock 1 3.00\nsoak clock 2 2.99",
            "soak clock 1 never",
        ] {
            let account = heard(&format!("soak begin\n{lines}\n"));
            assert!(account.wrong.is_some(), "{lines}");
        }
    }

    #[test]
    fn a_clock_that_jumps_is_noticed() {
        let mut account = heard("soak begin\n");
        let (second, now) = (Duration::from_secs(1), Instant::now());
        account.hear(b"soak clock 1 10.00\n", now);
        account.hear(b"soak clock 2 15.00\n", now + 8 * second);
        assert!(account.check_time(Duration::ZERO).unwrap_err().contains("5.00 s passed"));
        account.check_time(3 * second).unwrap();
        account.hear(b"soak clock 3 25.00\n", now + 9 * second);
        assert!(account.check_time(second).is_err());
    }

    #[test]
    fn the_disk_holds_what_the_guest_told_of() {
        let mut disk = vec![0; DISK];
        let write = |disk: &mut [u8], turn: u64| {
            let at = (turn % PLACES) as usize * PIECE;
            disk[at..at + PIECE].copy_from_slice(&piece(turn));
        };
        let account = |turns| Account { disk_turns: turns, ..Account::default() };
        account(0).check_disk(&disk).unwrap();
        for turn in 1..=100 {
            write(&mut disk, turn);
        }
        // It may be further than it told, with one piece half written.
        for told in [100, 99, 90] {
            account(told).check_disk(&disk).unwrap();
        }
        let half = (101 % PLACES) as usize * PIECE;
        disk[half..half + 100].copy_from_slice(&piece(101)[..100]);
        account(100).check_disk(&disk).unwrap();

        assert!(account(102).check_disk(&disk).is_err());
        let mut damaged = disk.clone();
        damaged[(50 % PLACES) as usize * PIECE + 9_000] ^= 1;
        assert!(account(100).check_disk(&damaged).unwrap_err().contains("pieces 37 and 50"));
        write(&mut disk, 101);
        disk[(100 % PLACES) as usize * PIECE + 5_000] ^= 1;
        assert!(account(100).check_disk(&disk).unwrap_err().contains("told of last"));
    }
}
