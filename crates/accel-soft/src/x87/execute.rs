//! What each instruction does.
//!
//! With a masked exception the result is the architecture's default; with an unmasked one that is
//! found before the result (a stack fault, invalid, a denormal, a division by zero) registers and
//! memory stay as they are, and the next waiting instruction raises #MF.

use cpu::flags as f;

use super::lookup::{Arithmetic, Constant, Format, Operation};
use super::{C0, C1, C2, C3, INVALID, Operands, X87, X87Instruction};
use crate::softfloat::{Env, F80, Order, PRECISION, Rounding};

/// Exceptions that keep an instruction from its result when they are unmasked.
const BEFORE: u16 = 0b111;
/// Overflow and underflow: unmasked, they keep a store to memory from happening.
const RANGE: u16 = 0b11000;

impl Constant {
    fn value(self, rounding: Rounding) -> F80 {
        // Nearest significand, and whether the exact value lies above it (Intel SDM volume 1,
        // section 8.3.4).
        let (significand, exponent, above): (u64, u16, bool) = match self {
            Self::One => return F80::ONE,
            Self::Zero => return F80::ZERO,
            Self::Log2Of10 => (0xd49a_784b_cd1b_8afe, 0x4000, true),
            Self::Log2OfE => (0xb8aa_3b29_5c17_f0bc, 0x3fff, false),
            Self::Pi => (0xc90f_daa2_2168_c235, 0x4000, false),
            Self::Log10Of2 => (0x9a20_9a84_fbcf_f799, 0x3ffd, false),
            Self::LogEOf2 => (0xb172_17f7_d1cf_79ac, 0x3ffe, false),
        };
        let adjust = match rounding {
            Rounding::NearestEven => 0i64,
            Rounding::Up => i64::from(above),
            Rounding::Down | Rounding::TowardZero => -i64::from(!above),
        };
        F80 { significand: significand.wrapping_add_signed(adjust), exponent }
    }
}

/// C3, C2 and C0 for an order.
fn conditions(order: Order) -> u16 {
    match order {
        Order::Greater => 0,
        Order::Less => C0,
        Order::Equal => C3,
        Order::Unordered => C0 | C2 | C3,
    }
}

fn apply(operation: Arithmetic, left: F80, right: F80, env: &mut Env) -> F80 {
    match operation {
        Arithmetic::Add => left.add(right, env),
        Arithmetic::Subtract => left.sub(right, env),
        Arithmetic::SubtractReversed => right.sub(left, env),
        Arithmetic::Multiply => left.mul(right, env),
        Arithmetic::Divide => left.div(right, env),
        Arithmetic::DivideReversed => right.div(left, env),
    }
}

impl X87 {
    /// Runs an instruction. For one that stores, the bytes are in the operands afterwards; `false`
    /// means that nothing is to be stored.
    pub fn run(&mut self, instruction: &X87Instruction, operands: &mut Operands) -> bool {
        use Operation as Op;
        match instruction.operation {
            Op::Load => self.load(instruction.format, operands),
            Op::LoadRegister => {
                let source = instruction.opcode as u8 & 7;
                if self.is_empty(source) {
                    self.push_underflow();
                } else {
                    let value = self.read(source);
                    self.push(value);
                }
            }
            Op::LoadConstant(constant) => {
                let value = constant.value(self.environment().rounding);
                self.push(value);
            }
            Op::Store { pop } => return self.store(instruction.format, pop, false, operands),
            Op::StoreTruncated => return self.store(instruction.format, true, true, operands),
            Op::StoreRegister { pop } => self.store_register(instruction.opcode as u8 & 7, pop),
            Op::Arithmetic { operation, destination, source, pop } => {
                self.arithmetic(operation, destination, source, pop);
            }
            Op::ArithmeticMemory(operation) => {
                self.arithmetic_memory(operation, instruction.format, operands);
            }
            Op::Compare { source, pops, quiet } => {
                self.compare_registers(source, quiet);
                self.pop_after_compare(pops, quiet);
            }
            Op::CompareMemory { pop } => self.compare_memory(instruction.format, pop, operands),
            Op::CompareFlags { source, pop, quiet } => {
                self.compare_flags(source, pop, quiet, operands);
            }
            Op::Test => self.compare_with(F80::ZERO, false),
            Op::Examine => self.examine(),
            Op::ConditionalMove { source } => {
                self.conditional_move(source, instruction.condition, operands.flags);
            }
            Op::Exchange { with } => self.exchange(with),
            Op::ChangeSign => self.on_top(|value, _| value.with_sign(!value.sign())),
            Op::Absolute => self.on_top(|value, _| value.with_sign(false)),
            Op::SquareRoot => self.on_top(F80::sqrt),
            Op::RoundToInteger => self.on_top(F80::round_to_integer),
            Op::Scale => self.scale(),
            Op::Remainder { nearest } => self.remainder(nearest),
            Op::Extract => self.extract(),
            Op::PowerLess1
            | Op::YLog2X
            | Op::YLog2XPlus1
            | Op::Tangent
            | Op::ArcTangent
            | Op::Sine
            | Op::Cosine
            | Op::SineCosine => self.transcendental(instruction.operation),
            Op::IncrementStack => {
                self.set_top(self.top().wrapping_add(1));
                self.set_c1(false);
            }
            Op::DecrementStack => {
                self.set_top(self.top().wrapping_sub(1));
                self.set_c1(false);
            }
            Op::Free { register, pop } => {
                self.empty |= 1 << self.physical(register);
                if pop {
                    self.pop();
                }
            }
            Op::Nothing | Op::Wait => {}
            Op::Initialise => self.initialise(),
            Op::ClearExceptions => self.status &= !0x80ff,
            Op::StoreControl => operands.memory[..2].copy_from_slice(&self.control.to_le_bytes()),
            Op::LoadControl => {
                self.control =
                    u16::from_le_bytes([operands.memory[0], operands.memory[1]]) & 0x1f7f | 0x40;
                self.update_summary();
            }
            Op::StoreStatus => operands.memory[..2].copy_from_slice(&self.status.to_le_bytes()),
            Op::StoreStatusRegister => operands.ax = self.status,
            Op::StoreEnvironment => {
                self.store_environment(is_short(instruction.format), &mut operands.memory);
                self.control |= 0x3f;
                self.update_summary();
            }
            Op::LoadEnvironment => {
                self.load_environment(is_short(instruction.format), &operands.memory);
            }
            Op::Save => {
                self.save(is_short(instruction.format), &mut operands.memory);
                self.initialise();
            }
            Op::Restore => self.restore(is_short(instruction.format), &operands.memory),
        }
        true
    }

    /// Pushes a value; a full stack gives the default NaN instead.
    pub(super) fn push(&mut self, value: F80) {
        if !self.is_empty(7) {
            if !self.stack_fault(true) {
                self.set_top(self.top().wrapping_sub(1));
                self.write(0, F80::INDEFINITE);
            }
            return;
        }
        self.set_c1(false);
        self.set_top(self.top().wrapping_sub(1));
        self.write(0, value);
    }

    fn push_underflow(&mut self) {
        if !self.stack_fault(false) {
            self.set_top(self.top().wrapping_sub(1));
            self.write(0, F80::INDEFINITE);
        }
    }

    /// Enters what a computation found. False if its result is not to be used.
    pub(super) fn finish(&mut self, env: &Env) -> bool {
        let exceptions = env.flags as u16;
        let withheld = exceptions & !self.control & BEFORE != 0;
        let entered = if withheld { exceptions & BEFORE } else { exceptions };
        self.set_c1(!withheld && env.rounded_up && entered & PRECISION as u16 != 0);
        self.raise(entered);
        !withheld
    }

    /// Replaces the top of the stack by a function of it.
    fn on_top(&mut self, function: impl FnOnce(F80, &mut Env) -> F80) {
        if self.is_empty(0) {
            if !self.stack_fault(false) {
                self.write(0, F80::INDEFINITE);
            }
            return;
        }
        let mut env = self.environment();
        let result = function(self.read(0), &mut env);
        if self.finish(&env) {
            self.write(0, result);
        }
    }

    fn memory_value(format: Format, memory: &[u8; 128], env: &mut Env) -> F80 {
        let word = u64::from_le_bytes(memory[..8].try_into().expect("eight bytes"));
        match format {
            Format::Single => F80::from_f32(word as u32, env),
            Format::Double => F80::from_f64(word, env),
            Format::Extended => {
                F80 { significand: word, exponent: u16::from_le_bytes([memory[8], memory[9]]) }
            }
            Format::Integer(16) => F80::from_integer(i64::from(word as i16)),
            Format::Integer(32) => F80::from_integer(i64::from(word as i32)),
            Format::Decimal => F80::from_decimal(memory[..10].try_into().expect("ten bytes")),
            _ => F80::from_integer(word as i64),
        }
    }

    fn load(&mut self, format: Format, operands: &Operands) {
        let mut env = self.environment();
        let value = Self::memory_value(format, &operands.memory, &mut env);
        if !self.is_empty(7) {
            if !self.stack_fault(true) {
                self.set_top(self.top().wrapping_sub(1));
                self.write(0, F80::INDEFINITE);
            }
            return;
        }
        if self.finish(&env) {
            self.push(value);
        }
    }

    /// Stores the top of the stack. False if nothing is stored.
    fn store(
        &mut self,
        format: Format,
        pop: bool,
        truncate: bool,
        operands: &mut Operands,
    ) -> bool {
        let mut env = self.environment();
        if truncate {
            env.rounding = Rounding::TowardZero;
        }
        let empty = self.is_empty(0);
        let value = if empty { F80::INDEFINITE } else { self.read(0) };
        if empty && self.stack_fault(false) {
            return false;
        }
        let memory = &mut operands.memory;
        match format {
            Format::Single => memory[..4].copy_from_slice(&value.to_f32(&mut env).to_le_bytes()),
            Format::Double => memory[..8].copy_from_slice(&value.to_f64(&mut env).to_le_bytes()),
            Format::Extended => {
                memory[..8].copy_from_slice(&value.significand.to_le_bytes());
                memory[8..10].copy_from_slice(&value.exponent.to_le_bytes());
            }
            Format::Decimal => {
                let indefinite = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];
                let bytes = value.to_decimal(&mut env).unwrap_or(indefinite);
                memory[..10].copy_from_slice(&bytes);
            }
            Format::Integer(bits) => {
                let least = i64::MIN >> (64 - u32::from(bits));
                let whole = value.to_integer(u32::from(bits), &mut env).unwrap_or(least);
                memory[..8].copy_from_slice(&whole.to_le_bytes());
            }
            Format::Control | Format::Environment { .. } | Format::State { .. } => {
                unreachable!("no number is stored so")
            }
        }
        if !empty {
            let range = env.flags as u16 & !self.control & RANGE != 0;
            if !self.finish(&env) || range {
                return false;
            }
        }
        if pop {
            self.pop();
        }
        true
    }

    fn store_register(&mut self, to: u8, pop: bool) {
        if self.is_empty(0) {
            if self.stack_fault(false) {
                return;
            }
            self.write(to, F80::INDEFINITE);
        } else {
            self.set_c1(false);
            let value = self.read(0);
            self.write(to, value);
        }
        if pop {
            self.pop();
        }
    }

    fn arithmetic(&mut self, operation: Arithmetic, to: u8, from: u8, pop: bool) {
        if self.is_empty(to) || self.is_empty(from) {
            if self.stack_fault(false) {
                return;
            }
            self.write(to, F80::INDEFINITE);
        } else {
            let mut env = self.environment();
            let result = apply(operation, self.read(to), self.read(from), &mut env);
            if !self.finish(&env) {
                return;
            }
            self.write(to, result);
        }
        if pop {
            self.pop();
        }
    }

    fn arithmetic_memory(&mut self, operation: Arithmetic, format: Format, operands: &Operands) {
        if self.is_empty(0) {
            if !self.stack_fault(false) {
                self.write(0, F80::INDEFINITE);
            }
            return;
        }
        let mut env = self.environment();
        let right = Self::memory_value(format, &operands.memory, &mut env);
        let result = apply(operation, self.read(0), right, &mut env);
        if self.finish(&env) {
            self.write(0, result);
        }
    }

    /// Compares the top with a value; an unmasked exception leaves the conditions.
    fn compare_with(&mut self, with: F80, quiet: bool) {
        if self.is_empty(0) {
            if !self.stack_fault(false) {
                self.set_condition(conditions(Order::Unordered));
            }
            return;
        }
        let mut env = self.environment();
        let order = self.read(0).compare(with, quiet, &mut env);
        if self.finish(&env) {
            self.set_condition(conditions(order));
        }
    }

    fn compare_registers(&mut self, source: u8, quiet: bool) {
        if self.is_empty(0) || self.is_empty(source) {
            if !self.stack_fault(false) {
                self.set_condition(conditions(Order::Unordered));
            }
            return;
        }
        let value = self.read(source);
        self.compare_with(value, quiet);
    }

    /// Pops, unless an unmasked exception kept the comparison from its result.
    fn pop_after_compare(&mut self, pops: u8, _: bool) {
        if self.status & !self.control & BEFORE != 0 {
            return;
        }
        for _ in 0..pops {
            self.pop();
        }
    }

    fn compare_memory(&mut self, format: Format, pop: bool, operands: &Operands) {
        let mut env = self.environment();
        let value = Self::memory_value(format, &operands.memory, &mut env);
        if self.is_empty(0) {
            if self.stack_fault(false) {
                return;
            }
            self.set_condition(conditions(Order::Unordered));
        } else {
            let order = self.read(0).compare(value, false, &mut env);
            if !self.finish(&env) {
                return;
            }
            self.set_condition(conditions(order));
        }
        if pop {
            self.pop();
        }
    }

    fn compare_flags(&mut self, source: u8, pop: bool, quiet: bool, operands: &mut Operands) {
        let order = if self.is_empty(0) || self.is_empty(source) {
            if self.stack_fault(false) {
                return;
            }
            Order::Unordered
        } else {
            let mut env = self.environment();
            let order = self.read(0).compare(self.read(source), quiet, &mut env);
            if !self.finish(&env) {
                return;
            }
            order
        };
        let bits = match order {
            Order::Greater => 0,
            Order::Less => f::CF,
            Order::Equal => f::ZF,
            Order::Unordered => f::ZF | f::PF | f::CF,
        };
        operands.flags = operands.flags & !f::ARITHMETIC | bits;
        if pop {
            self.pop();
        }
    }

    fn examine(&mut self) {
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

    fn conditional_move(&mut self, source: u8, condition: u8, flags: u64) {
        if self.is_empty(0) || self.is_empty(source) {
            if !self.stack_fault(false) {
                self.write(0, F80::INDEFINITE);
            }
            return;
        }
        self.set_c1(false);
        if crate::lazy_flags::LazyFlags::from_bits(flags).condition(condition) {
            let value = self.read(source);
            self.write(0, value);
        }
    }

    fn exchange(&mut self, with: u8) {
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

    /// Runs a function of the top two registers that replaces the top. `None`: nothing to do.
    pub(super) fn on_two(&mut self, function: impl FnOnce(F80, F80, &mut Env) -> F80) {
        if self.is_empty(0) || self.is_empty(1) {
            if !self.stack_fault(false) {
                self.write(0, F80::INDEFINITE);
            }
            return;
        }
        let mut env = self.environment();
        let result = function(self.read(0), self.read(1), &mut env);
        if self.finish(&env) {
            self.write(0, result);
        }
    }

    fn scale(&mut self) {
        self.on_two(|value, by, env| {
            if value.is_unsupported() || by.is_unsupported() || value.is_nan() || by.is_nan() {
                return value.add(by, env);
            }
            if by.is_infinite() {
                let (undefined, result) = if by.sign() {
                    (value.is_infinite(), F80::ZERO)
                } else {
                    (value.is_zero(), F80 { significand: 1 << 63, exponent: 0x7fff })
                };
                if undefined {
                    env.flags |= u32::from(INVALID);
                    return F80::INDEFINITE;
                }
                return result.with_sign(value.sign());
            }
            if value.is_denormal() || by.is_denormal() {
                env.flags |= crate::softfloat::DENORMAL;
            }
            let mut truncating = Env { rounding: Rounding::TowardZero, ..Env::from_x87(0x37f) };
            let limit = if by.sign() { -0x10000 } else { 0x10000 };
            let whole = by.to_integer(32, &mut truncating).unwrap_or(limit);
            value.scale(whole.clamp(-0x10000, 0x10000) as i32, env)
        });
    }

    fn remainder(&mut self, nearest: bool) {
        let mut condition = 0;
        self.on_two(|value, by, env| {
            let (rest, quotient, complete) = value.remainder(by, nearest, env);
            if complete {
                // C0, C3, C1 hold bits 2, 1, 0 of the quotient.
                condition |= if quotient & 4 != 0 { C0 } else { 0 };
                condition |= if quotient & 2 != 0 { C3 } else { 0 };
                condition |= if quotient & 1 != 0 { C1 } else { 0 };
            } else {
                condition |= C2;
            }
            rest
        });
        self.set_condition(condition & !C1);
        if condition & C1 != 0 {
            self.set_c1(true);
        }
    }

    fn extract(&mut self) {
        if self.is_empty(0) || !self.is_empty(7) {
            let overflow = !self.is_empty(0);
            if !self.stack_fault(overflow) {
                self.write(0, F80::INDEFINITE);
                self.set_top(self.top().wrapping_sub(1));
                self.write(0, F80::INDEFINITE);
            }
            return;
        }
        let value = self.read(0);
        let mut env = self.environment();
        let infinity = F80 { significand: 1 << 63, exponent: 0x7fff };
        let (exponent, significand) = if value.is_unsupported() || value.is_nan() {
            let nan = value.add(value, &mut env);
            (nan, nan)
        } else if value.is_infinite() {
            (infinity, value)
        } else if value.is_zero() {
            env.flags |= crate::softfloat::ZERO_DIVIDE;
            (infinity.with_sign(true), value)
        } else {
            if value.is_denormal() {
                env.flags |= crate::softfloat::DENORMAL;
            }
            let (exponent, significand) = value.extract();
            (F80::from_integer(i64::from(exponent)), significand)
        };
        if self.finish(&env) {
            self.write(0, exponent);
            self.push(significand);
        }
    }
}

fn is_short(format: Format) -> bool {
    matches!(format, Format::Environment { short: true } | Format::State { short: true })
}
