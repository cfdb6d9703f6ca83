//! What the guest checks, by the number it writes to the exit device and the name it prints.

macro_rules! checks {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal;)*) => {
        /// A check of the guest. The discriminant is the exit code of a guest that failed it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Check {
            $($(#[$doc])* $variant = $code,)*
        }

        impl Check {
            /// All checks in the order of their codes, which run from 1 without a gap.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in the guest's `FAIL` line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The check with this name in a `FAIL` line.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|check| check.name() == name)
            }

            /// The check with this exit code.
            pub fn from_exit_code(code: u8) -> Option<Self> {
                Self::ALL.iter().copied().find(|check| *check as u8 == code)
            }
        }
    };
}

checks! {
    /// The parameter block is not one for this guest.
    Parameters = 1, "parameters";
    /// An exception that the guest did not provoke. At: RIP; expected: error code; found: vector.
    Exception = 2, "exception";
    /// An interrupt on a vector that nothing uses.
    StrayInterrupt = 3, "stray-interrupt";
    /// A word of the work area is not what was written. At: its address.
    Memory = 4, "memory";
    /// The mapped window shows another page than the one it was mapped to.
    Window = 5, "window";
    /// A general register or XMM register changed. At: its number.
    Register = 6, "register";
    /// An XMM register held since the last round changed. At: its number.
    Vector = 7, "vector";
    /// An x87 register held since the last round changed. At: its number.
    X87 = 8, "x87";
    /// Carry was lost, or the x87 control word or MXCSR changed.
    Control = 9, "control";
    /// A provoked exception was not delivered as it should. At: which; halves of expected and
    /// found: vector, error code.
    Fault = 10, "fault";
    /// Rewritten code ran as it was before.
    ModifiedCode = 11, "modified-code";
    /// A processor or device register changed. At: its place in the guest's table.
    HeldRegister = 12, "held-register";
    /// Too many ticks, or, with exact ticks, one that is lost or out of place. At: the
    /// timer: 0 local APIC, 1 PIT, 2 HPET, 3 RTC.
    Ticks = 13, "ticks";
    /// A timer stopped. At: the timer, as for `Ticks`.
    TimerStopped = 14, "timer-stopped";
    /// A clock went backwards or disagrees with the TSC. At: the clock, numbered as for `Ticks`.
    Clock = 15, "clock";
    /// The TSC went backwards.
    Tsc = 16, "tsc";
    /// An interprocessor interrupt was lost or doubled. At: vector.
    Ipi = 17, "ipi";
    /// Another vCPU did not start or stopped working. At: its number.
    Vcpu = 18, "vcpu";
    /// An atomic counter shared by the vCPUs is wrong.
    Atomic = 19, "atomic";
    /// A disk request failed, was lost, or was completed twice.
    DiskRequest = 20, "disk-request";
    /// A sector does not hold what was written. At: byte offset in the disk.
    DiskData = 21, "disk-data";
    /// The disk completed a request without an interrupt, or does not answer.
    DiskInterrupt = 22, "disk-interrupt";
    /// The serial port stopped taking bytes.
    Serial = 23, "serial";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_has_the_same_names_in_the_same_order() {
        let mut table = Vec::new();
        for (index, check) in Check::ALL.iter().enumerate() {
            assert_eq!(*check as usize, index + 1);
            assert_eq!(Check::from_name(check.name()), Some(*check));
            assert_eq!(Check::from_exit_code(*check as u8), Some(*check));
            table.extend(check.name().bytes());
            table.push(0);
        }
        assert!(crate::code::bytes().windows(table.len()).any(|bytes| bytes == table));
        assert_eq!(Check::from_exit_code(0), None);
        assert_eq!(Check::from_name("memories"), None);
    }

    #[test]
    fn the_guest_has_the_same_codes() {
        let constants = include_str!("asm/constants.s");
        for check in Check::ALL {
            let name = check.name().to_uppercase().replace('-', "_");
            let line = format!("    .set CHECK_{name}, {}\n", *check as u8);
            assert!(constants.contains(&line), "{line}");
        }
    }
}
