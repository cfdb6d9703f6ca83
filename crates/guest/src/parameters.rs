//! What the host tells the guest: one block of little-endian 64-bit words at a fixed address.

use crate::layout;

/// Conditions under which the guest runs, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u64);

impl Flags {
    /// A virtio disk is in slot 23; the guest overwrites its first sectors.
    pub const DISK: Self = Self(1 << 0);
    /// An HPET is at 0xfed00000.
    pub const HPET: Self = Self(1 << 1);
    /// Time is counted in instructions: every periodic tick is checked to be in its place. This
    /// needs interrupts to be taken within half a tick, so a host that runs vCPUs in turn must
    /// give each a turn shorter than that.
    pub const EXACT_TICKS: Self = Self(1 << 2);
    /// The machine does not promise its TSC across a move: it is neither compared with the other
    /// clocks nor checked to be monotonic. The HPET takes its place as reference, if there is one.
    pub const TSC_UNPROMISED: Self = Self(1 << 3);
    /// The machine does not promise its CPUID across a move.
    pub const CPUID_UNPROMISED: Self = Self(1 << 4);
    /// There is no RTC, or it follows the host's wall clock. Without this flag its clock is
    /// compared with the others, and its periodic interrupt is taken through the i8259 pair.
    pub const RTC_UNPROMISED: Self = Self(1 << 5);
    /// The serial port has no interrupt: lines are sent by polling.
    pub const SERIAL_POLLED: Self = Self(1 << 6);
    /// There is no i8254 at port 0x40.
    pub const NO_PIT: Self = Self(1 << 7);
    /// There is no i8259 pair at ports 0x20 and 0xa0.
    pub const NO_PIC: Self = Self(1 << 8);
    /// The local APIC's timer may begin a period anew when the host is late, as KVM's does (Linux,
    /// arch/x86/kvm/lapic.c, `advance_periodic_target_expiration`). Without this flag its count is
    /// compared with the other clocks.
    pub const LAPIC_PHASE_UNPROMISED: Self = Self(1 << 9);

    const ALL: u64 = (1 << 10) - 1;

    /// No flag set.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// The flags of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every flag of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags as the guest reads them.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// The parameter block. [`Parameters::new`] gives sensible values for a machine; change what you
/// like, then [`Parameters::to_bytes`] checks and encodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Conditions under which the guest runs.
    pub flags: Flags,
    /// Bytes of memory below 4 GiB.
    pub memory_bytes: u64,
    /// First byte of the work area, page-aligned.
    pub work_address: u64,
    /// Pages of the work area, shared evenly among the vCPUs.
    pub work_pages: u64,
    /// Rounds after which the guest ends with a `PASS` line; 0 for no end.
    pub rounds: u64,
    /// Pages rewritten in a round, all vCPUs together.
    pub pages_per_round: u64,
    /// Pages verified in a round, all vCPUs together; 0 for all.
    pub checks_per_round: u64,
    /// Nanoseconds halted between rounds; rounded up to a timer tick.
    pub pause_ns: u64,
    /// Seed of everything the guest generates.
    pub seed: u64,
    /// vCPUs of the machine, 1 to 4.
    pub vcpus: u64,
    /// Frequency of the TSC in kHz; 0 to have the guest measure it against its local APIC timer.
    pub tsc_khz: u64,
    /// Nanoseconds between the ticks of each timer: local APIC timers, HPET, and, as near as its
    /// 16-bit divisor comes, PIT.
    pub tick_ns: u64,
    /// Parts in a million by which the clocks may drift against each other.
    pub drift_ppm: u64,
    /// Nanoseconds by which two clocks read at one instant may differ.
    pub clock_slack_ns: u64,
    /// Sectors of 512 bytes of the disk that the guest may overwrite.
    pub disk_sectors: u64,
    /// Iterations, in every round, of the loop that holds values in all registers.
    pub register_loops: u64,
}

/// Why a parameter block is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParametersError {
    /// The memory size is outside what the guest can use.
    #[error("memory of {0} bytes: the embedded guest needs 256 KiB to 3.5 GiB, in whole pages")]
    Memory(u64),
    /// The work area is outside memory or over the guest's own memory.
    #[error(
        "work area of {pages} pages at {address:#x} does not fit into memory of {memory} bytes"
    )]
    WorkArea {
        /// First byte of the work area.
        address: u64,
        /// Its pages.
        pages: u64,
        /// Bytes of memory.
        memory: u64,
    },
    /// The number of vCPUs is outside what the guest can use.
    #[error("{0} vcpus: the embedded guest drives 1 to 4")]
    Vcpus(u64),
    /// Some other value is out of range.
    #[error("{name} is {value}, which is outside {least} to {most}")]
    Range {
        /// The field.
        name: &'static str,
        /// Its value.
        value: u64,
        /// Least value allowed.
        least: u64,
        /// Greatest value allowed.
        most: u64,
    },
}

/// Frequency of the i8254's input clock.
const PIT_HZ: u64 = 1_193_182;

impl Parameters {
    /// First word of the block.
    pub const MAGIC: u64 = u64::from_le_bytes(*b"FERRYGST");
    /// Layout of the block: second word.
    pub const VERSION: u64 = 1;
    /// Words in the block.
    pub const WORDS: usize = 19;
    /// Bytes of the block.
    pub const SIZE: usize = Self::WORDS * 8;

    /// Parameters for a machine of this size: the whole memory as work area, of which a
    /// sixteenth is rewritten and all is verified in each of `rounds` rounds, with no pause.
    pub fn new(memory_bytes: u64, vcpus: u64, rounds: u64) -> Self {
        let memory_bytes = memory_bytes.min(layout::MEMORY_MAX);
        let (work_address, end) = if memory_bytes >= 2 * layout::WORK_AREA_HIGH {
            (layout::WORK_AREA_HIGH, memory_bytes)
        } else {
            (layout::WORK_AREA_MIN, memory_bytes.min(layout::WORK_AREA_LOW_END))
        };
        let work_pages = end.saturating_sub(work_address) / layout::PAGE_SIZE;
        Self {
            flags: Flags::empty(),
            memory_bytes,
            work_address,
            work_pages,
            rounds,
            pages_per_round: work_pages.div_ceil(16),
            checks_per_round: 0,
            pause_ns: 0,
            seed: 0x4665_7272_7947_7565,
            vcpus,
            tsc_khz: 1_000_000,
            tick_ns: 5_000_000,
            drift_ppm: 1,
            clock_slack_ns: 2_000,
            disk_sectors: 1_024,
            register_loops: 1_000,
        }
    }

    /// Checks the parameters and encodes them as the guest reads them at [`layout::PARAMETERS`].
    pub fn to_bytes(&self) -> Result<[u8; Self::SIZE], ParametersError> {
        self.validate()?;
        let Self {
            flags,
            memory_bytes,
            work_address,
            work_pages,
            rounds,
            pages_per_round,
            checks_per_round,
            pause_ns,
            seed,
            vcpus,
            tsc_khz,
            tick_ns,
            drift_ppm,
            clock_slack_ns,
            disk_sectors,
            register_loops,
        } = *self;
        let pit_divisor = (tick_ns * PIT_HZ / 1_000_000_000).clamp(2, 0xffff);
        let words: [u64; Self::WORDS] = [
            Self::MAGIC,
            Self::VERSION,
            flags.0,
            memory_bytes,
            work_address,
            work_pages,
            rounds,
            pages_per_round,
            checks_per_round,
            pause_ns,
            seed,
            vcpus,
            tsc_khz,
            tick_ns,
            pit_divisor,
            drift_ppm,
            clock_slack_ns,
            disk_sectors,
            register_loops,
        ];
        let mut bytes = [0; Self::SIZE];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        Ok(bytes)
    }

    fn validate(&self) -> Result<(), ParametersError> {
        let memory = self.memory_bytes;
        if !(layout::MEMORY_MIN..=layout::MEMORY_MAX).contains(&memory)
            || !memory.is_multiple_of(layout::PAGE_SIZE)
        {
            return Err(ParametersError::Memory(memory));
        }
        if !(1..=layout::MAX_VCPUS).contains(&self.vcpus) {
            return Err(ParametersError::Vcpus(self.vcpus));
        }
        let end = self
            .work_pages
            .checked_mul(layout::PAGE_SIZE)
            .and_then(|bytes| bytes.checked_add(self.work_address));
        if self.work_address < layout::WORK_AREA_MIN
            || !self.work_address.is_multiple_of(layout::PAGE_SIZE)
            || self.work_pages < self.vcpus
            || end.is_none_or(|end| end > memory)
        {
            let (address, pages) = (self.work_address, self.work_pages);
            return Err(ParametersError::WorkArea { address, pages, memory });
        }
        for (name, value, least, most) in [
            ("flags", self.flags.0, 0, Flags::ALL),
            ("pages_per_round", self.pages_per_round, 1, self.work_pages),
            ("checks_per_round", self.checks_per_round, 0, self.work_pages),
            ("pause_ns", self.pause_ns, 0, 3_600_000_000_000),
            ("tsc_khz", self.tsc_khz, 0, 10_000_000),
            ("tick_ns", self.tick_ns, 10_000, 1_000_000_000),
            ("drift_ppm", self.drift_ppm, 1, 100_000),
            ("clock_slack_ns", self.clock_slack_ns, 0, 1_000_000_000),
            ("disk_sectors", self.disk_sectors, 8, 1 << 40),
            ("register_loops", self.register_loops, 1, 1 << 32),
        ] {
            if !(least..=most).contains(&value) {
                return Err(ParametersError::Range { name, value, least, most });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_gives_good_parameters() {
        for shift in 18..=36 {
            for vcpus in 1..=layout::MAX_VCPUS {
                let parameters = Parameters::new(1 << shift, vcpus, 3);
                let bytes = parameters.to_bytes().expect("good parameters");
                let word = |index: usize| {
                    u64::from_le_bytes(bytes[8 * index..8 * index + 8].try_into().unwrap())
                };
                assert_eq!(word(0), Parameters::MAGIC);
                assert_eq!(word(1), Parameters::VERSION);
                assert_eq!(word(3), parameters.memory_bytes);
                assert_eq!(word(6), 3);
                assert_eq!(word(11), vcpus);
                assert_eq!(word(14), 5_965, "5 ms of the PIT");
                assert_eq!(word(18), parameters.register_loops);
            }
        }
    }

    #[test]
    fn the_guest_has_the_same_layout() {
        let constants = include_str!("asm/constants.s");
        for (name, flag) in [
            ("DISK", Flags::DISK),
            ("HPET", Flags::HPET),
            ("EXACT_TICKS", Flags::EXACT_TICKS),
            ("TSC_UNPROMISED", Flags::TSC_UNPROMISED),
            ("CPUID_UNPROMISED", Flags::CPUID_UNPROMISED),
            ("RTC_UNPROMISED", Flags::RTC_UNPROMISED),
            ("SERIAL_POLLED", Flags::SERIAL_POLLED),
            ("NO_PIT", Flags::NO_PIT),
            ("NO_PIC", Flags::NO_PIC),
            ("LAPIC_PHASE_UNPROMISED", Flags::LAPIC_PHASE_UNPROMISED),
        ] {
            let line = format!("    .set FLAG_{name}, 1 << {}\n", flag.bits().trailing_zeros());
            assert!(constants.contains(&line), "{line}");
        }
        let last = format!("PARAMETERS + {:#x}\n", Parameters::SIZE - 8);
        assert!(constants.contains(&format!("    .set PARAMETER_REGISTER_LOOPS, {last}")));
    }

    #[test]
    fn bad_parameters_are_refused_by_name() {
        let good = Parameters::new(1 << 20, 2, 0);
        let refused = |change: fn(&mut Parameters)| {
            let mut parameters = good.clone();
            change(&mut parameters);
            parameters.to_bytes().expect_err("refused").to_string()
        };
        assert!(refused(|it| it.memory_bytes = 1 << 17).contains("131072 bytes"));
        assert!(refused(|it| it.memory_bytes += 1).contains("whole pages"));
        assert!(refused(|it| it.vcpus = 5).contains("5 vcpus"));
        assert!(refused(|it| it.vcpus = 0).contains("0 vcpus"));
        for work_area in [
            refused(|it| it.work_address = 0x1_f000),
            refused(|it| it.work_address += 8),
            refused(|it| it.work_pages = 1),
            refused(|it| it.work_pages = 1 << 20),
            refused(|it| it.work_pages = u64::MAX),
        ] {
            assert!(work_area.starts_with("work area"), "{work_area}");
        }
        assert!(refused(|it| it.tick_ns = 1).starts_with("tick_ns is 1"));
        assert!(refused(|it| it.drift_ppm = 0).starts_with("drift_ppm is 0"));
        assert!(refused(|it| it.pages_per_round = 0).starts_with("pages_per_round"));
        assert!(refused(|it| it.flags = Flags(1 << 20)).starts_with("flags"));
    }
}
