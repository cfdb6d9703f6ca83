//! What each instruction does.
//!
//! With a masked exception the result is the architecture's default; with an unmasked one that is
//! found before the result (a stack fault, invalid, a denormal, a division by zero) registers and
//! memory stay as they are, and the next waiting instruction raises #MF.

use super::lookup::{Arithmetic, Constant, Format, Operation};
use super::{Operands, X87, X87Instruction};
use crate::softfloat::{self, DENORMAL, Env, F80, PRECISION, Rounding};

/// An operand, exactly, and whether it was a denormal in its own format.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) value: F80,
    denormal: bool,
}

impl Source {
    pub(super) fn exact(value: F80) -> Self {
        Self { value, denormal: false }
    }

    fn from_memory(format: Format, memory: &[u8; 128]) -> Self {
        let word = u64::from_le_bytes(memory[..8].try_into().expect("eight bytes"));
        let (value, denormal) = match format {
            Format::Single => F80::from_f32(word as u32),
            Format::Double => F80::from_f64(word),
            Format::Extended => {
                let exponent = u16::from_le_bytes([memory[8], memory[9]]);
                (F80 { significand: word, exponent }, false)
            }
            Format::Integer(16) => (F80::from_integer(i64::from(word as i16)), false),
            Format::Integer(32) => (F80::from_integer(i64::from(word as i32)), false),
            Format::Decimal => {
                (F80::from_decimal(memory[..10].try_into().expect("ten bytes")), false)
            }
            _ => (F80::from_integer(word as i64), false),
        };
        Self { value, denormal }
    }

    /// Enters that this operand was a denormal, unless something was found that comes first.
    pub(super) fn note_denormal(&self, other: F80, env: &mut Env) {
        let first = env.flags & (softfloat::INVALID | softfloat::ZERO_DIVIDE) != 0;
        if self.denormal && !first && !other.is_nan() {
            env.flags |= DENORMAL;
        }
    }
}

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
            Op::StoreRegisterUnchecked => {
                if self.is_empty(0) {
                    self.set_c1(false);
                    self.pop();
                } else {
                    self.store_register(instruction.opcode as u8 & 7, true);
                }
            }
            Op::Arithmetic { operation, destination, source, pop } => {
                self.arithmetic(operation, destination, source, pop);
            }
            Op::ArithmeticMemory(operation) => {
                self.arithmetic_memory(operation, instruction.format, operands);
            }
            Op::Compare { source, pops, quiet } => {
                let source = self.register(source);
                self.compare(source, pops, quiet);
            }
            Op::CompareMemory { pop } => {
                let source = Source::from_memory(instruction.format, &operands.memory);
                self.compare(Some(source), u8::from(pop), false);
            }
            Op::CompareFlags { source, pop, quiet } => {
                self.compare_flags(source, pop, quiet, operands);
            }
            Op::Test => self.compare(Some(Source::exact(F80::ZERO)), 0, false),
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
                self.set_c1(false);
                self.empty |= 1 << self.physical(register);
                if pop {
                    self.pop();
                }
            }
            Op::Nothing | Op::Ignored | Op::Wait => {}
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
        let withheld = (env.flags & env.unmasked) as u16 & BEFORE != 0;
        let entered = if withheld { exceptions & BEFORE } else { exceptions };
        self.set_c1(!withheld && env.rounded_up && entered & PRECISION as u16 != 0);
        self.raise(entered);
        !withheld
    }

    /// Replaces the top of the stack by a function of it.
    pub(super) fn on_top(&mut self, function: impl FnOnce(F80, &mut Env) -> F80) {
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

    fn load(&mut self, format: Format, operands: &Operands) {
        let source = Source::from_memory(format, &operands.memory);
        if !self.is_empty(7) {
            self.push(F80::INDEFINITE);
            return;
        }
        let mut env = self.environment();
        // An 80-bit value is only moved: nothing is found in it.
        let value = match format {
            Format::Extended => source.value,
            _ => source.value.quieted(&mut env),
        };
        if source.denormal {
            env.flags |= DENORMAL;
        }
        // A denormal one is loaded even where that exception is not masked.
        env.unmasked &= !DENORMAL;
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
        let (left, right) = (self.read(0), Source::from_memory(format, &operands.memory));
        let result = apply(operation, left, right.value, &mut env);
        right.note_denormal(left, &mut env);
        if self.finish(&env) {
            self.write(0, result);
        }
    }
}

fn is_short(format: Format) -> bool {
    matches!(format, Format::Environment { short: true } | Format::State { short: true })
}
