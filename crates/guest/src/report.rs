//! Reads the lines that the guest prints on its serial port.

use crate::Check;

/// Ticks taken so far, by timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TickCounts {
    /// Local APIC timers of all vCPUs.
    pub lapic: u64,
    /// PIT channel 0.
    pub pit: u64,
    /// HPET timer 0.
    pub hpet: u64,
    /// RTC, periodic, through the i8259 pair.
    pub rtc: u64,
}

impl TickCounts {
    /// All of them.
    pub const fn total(self) -> u64 {
        self.lapic.wrapping_add(self.pit).wrapping_add(self.hpet).wrapping_add(self.rtc)
    }
}

/// What the guest was told, as it says at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartLine {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// First byte of the work area.
    pub work_address: u64,
    /// Pages of the work area.
    pub work_pages: u64,
    /// vCPUs.
    pub vcpus: u64,
    /// Rounds to do; 0 for no end.
    pub rounds: u64,
    /// Seed of the generator.
    pub seed: u64,
    /// TSC frequency in kHz, as given or as measured.
    pub tsc_khz: u64,
}

/// What the guest has checked so far; all counts are since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundLine {
    /// Rounds done.
    pub round: u64,
    /// Pages verified.
    pub pages: u64,
    /// Timer interrupts.
    pub ticks: TickCounts,
    /// Interprocessor interrupts, to the vCPU itself and to others.
    pub ipis: u64,
    /// Disk requests done, of 1 KiB each.
    pub disk: u64,
    /// Exceptions provoked and delivered as they should.
    pub faults: u64,
    /// The first vCPU's TSC when the line was made.
    pub tsc: u64,
}

/// The last line of a guest that found nothing wrong: the same counts.
pub type PassLine = RoundLine;

/// A line of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// The first line.
    Start(StartLine),
    /// One for each round.
    Round(RoundLine),
    /// All rounds are done and nothing was wrong.
    Pass(PassLine),
    /// Something was wrong; the guest has stopped.
    Fail {
        /// Round in which it was found.
        round: u64,
        /// vCPU that found it.
        vcpu: u64,
        /// What was wrong.
        check: Check,
        /// Where: see [`Check`].
        at: u64,
        /// What should have been there.
        expected: u64,
        /// What was there.
        found: u64,
    },
}

impl Line {
    /// Reads one line, without or with its end. `None` for anything the guest does not print.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_end_matches(['\r', '\n']);
        let mut words = Words { rest: text };
        let line = if words.skip("ferry guest 1: ").is_some() {
            Self::Start(words.start()?)
        } else if words.skip("round ").is_some() {
            Self::Round(words.counts()?)
        } else if words.skip("PASS rounds ").is_some() {
            Self::Pass(words.counts()?)
        } else if words.skip("FAIL round ").is_some() {
            words.fail()?
        } else {
            return None;
        };
        words.rest.is_empty().then_some(line)
    }
}

struct Words<'a> {
    rest: &'a str,
}

impl Words<'_> {
    fn skip(&mut self, text: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(text)?;
        Some(())
    }

    /// The number at the front: decimal, or hexadecimal after `0x`.
    fn number(&mut self) -> Option<u64> {
        let (digits, radix) = match self.rest.strip_prefix("0x") {
            Some(digits) => (digits, 16),
            None => (self.rest, 10),
        };
        let end = digits.find(|digit: char| !digit.is_digit(radix)).unwrap_or(digits.len());
        let (number, rest) = digits.split_at(end);
        self.rest = rest;
        u64::from_str_radix(number, radix).ok()
    }

    /// A number with this text before it.
    fn after(&mut self, text: &str) -> Option<u64> {
        self.skip(text)?;
        self.number()
    }

    fn start(&mut self) -> Option<StartLine> {
        Some(StartLine {
            memory_bytes: self.after("memory ")?,
            work_address: self.after(", work area ")?,
            work_pages: self.after(" pages ")?,
            vcpus: self.after(", vcpus ")?,
            rounds: self.after(", rounds ")?,
            seed: self.after(", seed ")?,
            tsc_khz: self.after(", tsc khz ")?,
        })
    }

    fn counts(&mut self) -> Option<RoundLine> {
        let round = self.number()?;
        let pages = self.after(": ")?;
        let total = self.after(" pages ok, ticks ")?;
        let ticks = TickCounts {
            lapic: self.after(" lapic ")?,
            pit: self.after(" pit ")?,
            hpet: self.after(" hpet ")?,
            rtc: self.after(" rtc ")?,
        };
        // The sum is printed from a later reading of the counters than the parts may be.
        let line = RoundLine {
            round,
            pages,
            ticks,
            ipis: self.after(", ipis ")?,
            disk: self.after(", disk ")?,
            faults: self.after(", faults ")?,
            tsc: self.after(", tsc ")?,
        };
        (total <= ticks.total()).then_some(line)
    }

    fn fail(&mut self) -> Option<Line> {
        let round = self.number()?;
        let vcpu = self.after(" vcpu ")?;
        self.skip(" check ")?;
        let (name, rest) = self.rest.split_once(':')?;
        let check = Check::from_name(name)?;
        self.rest = rest;
        Some(Line::Fail {
            round,
            vcpu,
            check,
            at: self.after(" at ")?,
            expected: self.after(" expected ")?,
            found: self.after(" found ")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: &str = "round 7: 13328 pages ok, ticks 177 lapic 96 pit 47 hpet 0 rtc 34, \
                         ipis 156, disk 84, faults 84, tsc 0x3798f1db";

    #[test]
    fn reads_every_kind_of_line() {
        let counts = RoundLine {
            round: 7,
            pages: 13_328,
            ticks: TickCounts { lapic: 96, pit: 47, hpet: 0, rtc: 34 },
            ipis: 156,
            disk: 84,
            faults: 84,
            tsc: 0x3798_f1db,
        };
        assert_eq!(Line::parse(ROUND), Some(Line::Round(counts)));
        assert_eq!(Line::parse(&format!("{ROUND}\r\n")), Some(Line::Round(counts)));
        let pass = ROUND.replace("round 7", "PASS rounds 7");
        assert_eq!(Line::parse(&pass), Some(Line::Pass(counts)));
        let start = "ferry guest 1: memory 262144, work area 0x20000 pages 32, vcpus 2, \
                     rounds 0, seed 0xff, tsc khz 1000000";
        let expected = StartLine {
            memory_bytes: 262_144,
            work_address: 0x2_0000,
            work_pages: 32,
            vcpus: 2,
            rounds: 0,
            seed: 0xff,
            tsc_khz: 1_000_000,
        };
        assert_eq!(Line::parse(start), Some(Line::Start(expected)));
        let fail = "FAIL round 3 vcpu 1 check disk-data: at 0x10 expected 0xa found 0xb";
        let expected = Line::Fail {
            round: 3,
            vcpu: 1,
            check: Check::DiskData,
            at: 0x10,
            expected: 0xa,
            found: 0xb,
        };
        assert_eq!(Line::parse(fail), Some(expected));
    }

    #[test]
    fn takes_nothing_else() {
        for text in ["", "round", "round 7", "PASS", "FAIL round 1 vcpu 0 check nothing: at 0x0"] {
            assert_eq!(Line::parse(text), None, "{text}");
        }
        for end in 0..=ROUND.find("0x").unwrap() {
            assert_eq!(Line::parse(&ROUND[..end]), None, "cut at {end}");
        }
        assert_eq!(Line::parse(&format!("{ROUND} ")), None);
        assert_eq!(Line::parse(&ROUND.replace("177", "178")), None, "more ticks than their parts");
        assert_eq!(Line::parse(&ROUND.replace("13328", "99999999999999999999")), None);
    }
}
