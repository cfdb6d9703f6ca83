//! Comparisons, examination and what moves by conditions.

use cpu::flags as f;

use super::execute::Source;
use super::{C0, C1, C2, C3, Operands, X87};
use crate::softfloat::{F80, Order};

/// C3, C2 and C0 for an order.
fn conditions(order: Order) -> u16 {
    match order {
        Order::Greater => 0,
        Order::Less => C0,
        Order::Equal => C3,
        Order::Unordered => C0 | C2 | C3,
    }
}

impl X87 {
    /// A register as an operand; `None` if it is empty.
    pub(super) fn register(&self, index: u8) -> Option<Source> {
        (!self.is_empty(index)).then(|| Source::exact(self.read(index)))
    }

    /// How the top compares with a value, `None` being that of an empty register; false if an
    /// exception was found that is not masked. The order stands even then.
    fn order(&mut self, with: Option<Source>, quiet: bool) -> (Order, bool) {
        let (Some(top), Some(with)) = (self.register(0), with) else {
            return (Order::Unordered, !self.stack_fault(false));
        };
        let mut env = self.environment();
        let order = top.value.compare(with.value, quiet, &mut env);
        with.note_denormal(top.value, &mut env);
        (order, self.finish(&env))
    }

    /// Compares; an unmasked exception keeps the stack as it is.
    pub(super) fn compare(&mut self, with: Option<Source>, pops: u8, quiet: bool) {
        let (order, pop) = self.order(with, quiet);
        self.set_condition(conditions(order));
        for _ in 0..if pop { pops } else { 0 } {
            self.pop();
        }
    }

    /// Compares into RFLAGS.
    pub(super) fn compare_flags(
        &mut self,
        source: u8,
        pop: bool,
        quiet: bool,
        operands: &mut Operands,
    ) {
        // C1 is only told about a stack fault.
        let c1 = self.status & C1;
        let source = self.register(source);
        let empty = self.is_empty(0) || source.is_none();
        let (order, done) = self.order(source, quiet);
        if !empty {
            self.status |= c1;
        }
        let bits = match order {
            Order::Greater => 0,
            Order::Less => f::CF,
            Order::Equal => f::ZF,
            Order::Unordered => f::ZF | f::PF | f::CF,
        };
        operands.flags = operands.flags & !f::ARITHMETIC | bits;
        if pop && done {
            self.pop();
        }
    }

    pub(super) fn examine(&mut self) {
        let value = self.read(0);
        self.set_c1(value.sign());
        self.set_condition(if self.is_empty(0) {
            C3 | C0
        } else if value.is_unsupported() {
            0
        } else if value.is_nan() {
            C0
        } else if value.is_infinite() {
            C2 | C0
        } else if value.is_zero() {
            C3
        } else if value.is_denormal() {
            C3 | C2
        } else {
            C2
        });
    }

    pub(super) fn conditional_move(&mut self, source: u8, condition: u8, flags: u64) {
        if self.is_empty(0) || self.is_empty(source) {
            if !self.stack_fault(false) {
                self.write(0, F80::INDEFINITE);
            }
            return;
        }
        if crate::lazy_flags::LazyFlags::from_bits(flags).condition(condition) {
            let value = self.read(source);
            self.write(0, value);
        }
    }

    pub(super) fn exchange(&mut self, with: u8) {
        if self.is_empty(0) || self.is_empty(with) {
            if self.stack_fault(false) {
                return;
            }
            for register in [0, with] {
                if self.is_empty(register) {
                    self.write(register, F80::INDEFINITE);
                }
            }
        } else {
            self.set_c1(false);
        }
        let (top, other) = (self.read(0), self.read(with));
        self.write(0, other);
        self.write(with, top);
    }
}
