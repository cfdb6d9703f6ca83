//! One 8259A (Intel 231468-003).

use super::state::I8259State;

const ICW1: u8 = 1 << 4;
const ICW1_IC4: u8 = 1 << 0;
const ICW1_SINGLE: u8 = 1 << 1;
const ICW4_AUTO_EOI: u8 = 1 << 1;
const ICW4_SPECIAL_FULLY_NESTED: u8 = 1 << 4;
const OCW3: u8 = 1 << 3;
const OCW3_POLL: u8 = 1 << 2;

/// An 8259A. The trigger mode is the edge/level control register's business, as in every chipset
/// that has one; ICW1's LTIM bit has no effect.
#[derive(Clone, Debug, Default)]
pub(super) struct Chip {
    lines: u8,
    irr: u8,
    imr: u8,
    isr: u8,
    highest_priority: u8,
    vector_base: u8,
    read_isr: bool,
    poll: bool,
    special_mask: bool,
    awaited_icw: u8,
    icw4_needed: bool,
    single: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    elcr: u8,
    /// Inputs that follow a slave's output, which stays up until the slave has nothing to ask for:
    /// they are level-triggered whatever the control register says.
    cascade: u8,
}

impl Chip {
    pub(super) fn new(cascade: u8) -> Self {
        Self { cascade, ..Self::default() }
    }

    fn level_triggered(&self) -> u8 {
        self.elcr | self.cascade
    }

    /// Sets the level of an input. An edge is latched until it is acknowledged, as chipsets do:
    /// a pulse is never lost.
    pub(super) fn set_line(&mut self, line: u8, level: bool) {
        let bit = 1 << line;
        let rising = level && self.lines & bit == 0;
        self.lines = if level { self.lines | bit } else { self.lines & !bit };
        if self.level_triggered() & bit != 0 {
            self.irr = self.irr & !bit | self.lines & bit;
        } else if rising {
            self.irr |= bit;
        }
    }

    /// Position in the order of priority of the first bit that is set; 8 if none is.
    fn priority(&self, bits: u8) -> u32 {
        let turned = bits.rotate_right(u32::from(self.highest_priority));
        turned.trailing_zeros()
    }

    /// The input that is to be served now.
    pub(super) fn request(&self) -> Option<u8> {
        let asking = self.priority(self.irr & !self.imr);
        let mut nesting = self.isr;
        if self.special_mask {
            nesting &= !self.imr;
        }
        let serving = self.priority(nesting);
        // In special fully nested mode a slave may interrupt its own service routine: it asks
        // again only for an input that it puts above the one in service.
        let slave_again = asking == serving
            && self.special_fully_nested
            && asking < 8
            && self.cascade & 1 << self.input(asking) != 0;
        let nests = asking < serving || slave_again;
        (asking < 8 && nests).then(|| self.input(asking))
    }

    fn input(&self, priority: u32) -> u8 {
        (priority as u8 + self.highest_priority) & 7
    }

    /// The interrupt acknowledge sequence for an input that [`Self::request`] gave.
    pub(super) fn acknowledge(&mut self, input: u8) {
        let bit = 1 << input;
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.highest_priority = (input + 1) & 7;
            }
        } else {
            self.isr |= bit;
        }
        // A level-triggered request stands as long as its line is up.
        if self.level_triggered() & bit == 0 {
            self.irr &= !bit;
        }
    }

    pub(super) fn vector(&self, input: u8) -> u8 {
        self.vector_base + input
    }

    pub(super) fn read(&mut self, odd: bool) -> u8 {
        if std::mem::take(&mut self.poll) {
            return match self.request() {
                Some(input) => {
                    self.acknowledge(input);
                    0x80 | input
                }
                None => 0,
            };
        }
        match (odd, self.read_isr) {
            (true, _) => self.imr,
            (false, true) => self.isr,
            (false, false) => self.irr,
        }
    }

    pub(super) fn write(&mut self, odd: bool, value: u8) {
        if odd {
            self.write_odd(value);
        } else if value & ICW1 != 0 {
            self.initialise(value);
        } else if value & OCW3 != 0 {
            self.write_ocw3(value);
        } else {
            self.write_ocw2(value);
        }
    }

    fn initialise(&mut self, icw1: u8) {
        // "The edge sense circuit is reset": what was latched is forgotten, levels are not.
        self.irr &= self.level_triggered();
        self.imr = 0;
        self.isr = 0;
        self.highest_priority = 0;
        self.read_isr = false;
        self.poll = false;
        self.special_mask = false;
        self.auto_eoi = false;
        self.rotate_on_auto_eoi = false;
        self.special_fully_nested = false;
        self.awaited_icw = 2;
        self.icw4_needed = icw1 & ICW1_IC4 != 0;
        self.single = icw1 & ICW1_SINGLE != 0;
    }

    fn write_odd(&mut self, value: u8) {
        let last = if self.icw4_needed { 4 } else { 0 };
        match self.awaited_icw {
            2 => {
                self.vector_base = value & 0xf8;
                self.awaited_icw = if self.single { last } else { 3 };
            }
            // The wiring of the cascade is the board's.
            3 => self.awaited_icw = last,
            4 => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                self.special_fully_nested = value & ICW4_SPECIAL_FULLY_NESTED != 0;
                self.awaited_icw = 0;
            }
            _ => self.imr = value,
        }
    }

    fn write_ocw3(&mut self, value: u8) {
        if value & OCW3_POLL != 0 {
            self.poll = true;
        }
        match value & 3 {
            2 => self.read_isr = false,
            3 => self.read_isr = true,
            _ => (),
        }
        match value >> 5 & 3 {
            2 => self.special_mask = false,
            3 => self.special_mask = true,
            _ => (),
        }
    }

    fn write_ocw2(&mut self, value: u8) {
        let named = value & 7;
        match value >> 5 {
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            command @ (1 | 5) => {
                // In special mask mode a non-specific EOI leaves masked inputs in service.
                let served = if self.special_mask { self.isr & !self.imr } else { self.isr };
                let priority = self.priority(served);
                if priority < 8 {
                    let input = self.input(priority);
                    self.isr &= !(1 << input);
                    if command == 5 {
                        self.highest_priority = (input + 1) & 7;
                    }
                }
            }
            3 => self.isr &= !(1 << named),
            6 => self.highest_priority = (named + 1) & 7,
            7 => {
                self.isr &= !(1 << named);
                self.highest_priority = (named + 1) & 7;
            }
            _ => (),
        }
    }

    pub(super) fn elcr(&self) -> u8 {
        self.elcr
    }

    /// Sets the trigger mode of the inputs.
    pub(super) fn set_elcr(&mut self, elcr: u8) {
        let changed = self.elcr ^ elcr;
        self.elcr = elcr;
        // Inputs that are now level-triggered follow their lines, others start with no edge seen.
        let level = changed & elcr;
        self.irr = self.irr & !changed | self.lines & level;
    }

    pub(super) fn save(&self) -> I8259State {
        let Self {
            lines,
            irr,
            imr,
            isr,
            highest_priority,
            vector_base,
            read_isr,
            poll,
            special_mask,
            awaited_icw,
            icw4_needed,
            single,
            auto_eoi,
            rotate_on_auto_eoi,
            special_fully_nested,
            elcr,
            // The board's wiring.
            cascade: _,
        } = *self;
        I8259State {
            lines,
            irr,
            imr,
            isr,
            highest_priority,
            vector_base,
            read_isr,
            poll,
            special_mask,
            awaited_icw,
            icw4_needed,
            single,
            auto_eoi,
            rotate_on_auto_eoi,
            special_fully_nested,
            elcr,
        }
    }

    /// The chip of a state that has been checked.
    pub(super) fn restored(state: &I8259State, cascade: u8) -> Self {
        let I8259State {
            lines,
            irr,
            imr,
            isr,
            highest_priority,
            vector_base,
            read_isr,
            poll,
            special_mask,
            awaited_icw,
            icw4_needed,
            single,
            auto_eoi,
            rotate_on_auto_eoi,
            special_fully_nested,
            elcr,
        } = *state;
        Self {
            lines,
            irr,
            imr,
            isr,
            highest_priority,
            vector_base,
            read_isr,
            poll,
            special_mask,
            awaited_icw,
            icw4_needed,
            single,
            auto_eoi,
            rotate_on_auto_eoi,
            special_fully_nested,
            elcr,
            cascade,
        }
    }
}
