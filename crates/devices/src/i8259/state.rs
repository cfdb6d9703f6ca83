//! The saved state of one 8259A.

use vmstate::{Invalid, VmState};

/// Saved state of one 8259A: section instance 0 is the master, 1 the slave.
#[derive(Clone, Debug, PartialEq, Eq, VmState)]
#[vmstate(name = "i8259", version = 1, validate = "check")]
pub struct I8259State {
    /// Levels of the inputs, one bit each. The master's bit 2 is the slave's output.
    pub lines: u8,
    /// Interrupt request register.
    pub irr: u8,
    /// Interrupt mask register.
    pub imr: u8,
    /// In-service register.
    pub isr: u8,
    /// The input of the highest priority.
    pub highest_priority: u8,
    /// Vector of input 0 (ICW2), a multiple of 8.
    pub vector_base: u8,
    /// OCW3: reads of the even port give ISR, not IRR.
    pub read_isr: bool,
    /// OCW3: the next read is a poll.
    pub poll: bool,
    /// Special mask mode.
    pub special_mask: bool,
    /// Initialisation command word awaited: 0 none, else 2 to 4.
    pub awaited_icw: u8,
    /// ICW1: an ICW4 follows.
    pub icw4_needed: bool,
    /// ICW1: there is no cascade, hence no ICW3.
    pub single: bool,
    /// ICW4: automatic end of interrupt.
    pub auto_eoi: bool,
    /// Rotate on automatic end of interrupt.
    pub rotate_on_auto_eoi: bool,
    /// ICW4: special fully nested mode.
    pub special_fully_nested: bool,
    /// Edge/level control register: a set bit makes the input level-triggered.
    pub elcr: u8,
}

fn check(state: &I8259State) -> Result<(), Invalid> {
    state.check().map_err(Invalid::new)
}

impl I8259State {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let rules = [
            (self.highest_priority < 8, "highest_priority is not an input"),
            (self.vector_base & 7 == 0, "vector_base is not a multiple of 8"),
            (matches!(self.awaited_icw, 0 | 2..=4), "awaited_icw is not 0 or 2 to 4"),
            (self.awaited_icw != 3 || !self.single, "awaited_icw is 3 without a cascade"),
            (self.awaited_icw != 4 || self.icw4_needed, "awaited_icw is 4 and none is needed"),
            (
                self.irr & self.elcr == self.lines & self.elcr,
                "irr is not the level-triggered lines",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, broken)) => Err(broken),
            None => Ok(()),
        }
    }
}
