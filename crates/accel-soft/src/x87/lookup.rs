//! Which x87 instruction an encoding is.

use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind, Register};

/// What an instruction does with its memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryUse {
    /// It has none.
    None,
    /// Reads this many bytes.
    Load(u8),
    /// Writes this many bytes.
    Store(u8),
}

/// How a memory operand is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Single,
    Double,
    Extended,
    Integer(u8),
    Decimal,
    Control,
    /// Environment or full state; 16-bit form or not.
    Environment {
        short: bool,
    },
    State {
        short: bool,
    },
}

/// An arithmetic operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    SubtractReversed,
    Multiply,
    Divide,
    DivideReversed,
}

/// Constants of FLD1 and its kin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Constant {
    One,
    Log2Of10,
    Log2OfE,
    Pi,
    Log10Of2,
    LogEOf2,
    Zero,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Load,
    LoadRegister,
    LoadConstant(Constant),
    Store {
        pop: bool,
    },
    StoreTruncated,
    StoreRegister {
        pop: bool,
    },
    /// FSTPNCE, which finds no stack fault.
    StoreRegisterUnchecked,
    /// `destination = destination op source`, in registers.
    Arithmetic {
        operation: Arithmetic,
        destination: u8,
        source: u8,
        pop: bool,
    },
    ArithmeticMemory(Arithmetic),
    Compare {
        source: u8,
        pops: u8,
        quiet: bool,
    },
    CompareMemory {
        pop: bool,
    },
    CompareFlags {
        source: u8,
        pop: bool,
        quiet: bool,
    },
    Test,
    Examine,
    ConditionalMove {
        source: u8,
    },
    Exchange {
        with: u8,
    },
    ChangeSign,
    Absolute,
    SquareRoot,
    Scale,
    Remainder {
        nearest: bool,
    },
    RoundToInteger,
    Extract,
    PowerLess1,
    YLog2X,
    YLog2XPlus1,
    Tangent,
    ArcTangent,
    Sine,
    Cosine,
    SineCosine,
    IncrementStack,
    DecrementStack,
    Free {
        register: u8,
        pop: bool,
    },
    /// FNOP, which only moves the instruction pointer.
    Nothing,
    /// Instructions of the 8087 and 80287 that later units take and pass over.
    Ignored,
    Initialise,
    ClearExceptions,
    StoreControl,
    LoadControl,
    StoreStatus,
    StoreStatusRegister,
    StoreEnvironment,
    LoadEnvironment,
    Save,
    Restore,
    Wait,
}

/// How to run one x87 instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X87Instruction {
    /// What happens to its memory operand.
    pub memory: MemoryUse,
    /// It raises #MF first if an unmasked exception waits.
    pub waits: bool,
    /// It leaves instruction and operand pointers alone.
    pub control: bool,
    /// The opcode as the unit keeps it, 11 bits.
    pub opcode: u16,
    /// The condition of FCMOVcc, as in Jcc.
    pub condition: u8,
    pub(super) format: Format,
    pub(super) operation: Operation,
}

/// The condition of FCMOVcc; the decoder names those of Jcc, SETcc and CMOVcc only.
fn condition(mnemonic: Mnemonic) -> u8 {
    use Mnemonic as M;
    match mnemonic {
        M::Fcmovb => 2,
        M::Fcmovnb => 3,
        M::Fcmove => 4,
        M::Fcmovne => 5,
        M::Fcmovbe => 6,
        M::Fcmovnbe => 7,
        M::Fcmovu => 10,
        M::Fcmovnu => 11,
        // No other instruction of the unit has one.
        _ => 0,
    }
}

fn format(size: MemorySize) -> Format {
    match size {
        MemorySize::Float32 => Format::Single,
        MemorySize::Float64 => Format::Double,
        MemorySize::Float80 => Format::Extended,
        MemorySize::Int16 => Format::Integer(16),
        MemorySize::Int32 => Format::Integer(32),
        MemorySize::Int64 => Format::Integer(64),
        MemorySize::Bcd => Format::Decimal,
        MemorySize::FpuEnv14 => Format::Environment { short: true },
        MemorySize::FpuEnv28 => Format::Environment { short: false },
        MemorySize::FpuState94 => Format::State { short: true },
        MemorySize::FpuState108 => Format::State { short: false },
        _ => Format::Control,
    }
}

fn stack_index(register: Register) -> u8 {
    register.number() as u8
}

/// How to run `instruction`; `None` if it is no x87 instruction. `opcode` gives the two opcode
/// bytes, the low three bits of the first above the second.
pub fn lookup(instruction: &Instruction, opcode: u16) -> Option<X87Instruction> {
    use Mnemonic as M;
    use Operation as Op;
    let memory = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Memory;
    let (first, second) = (instruction.op0_register(), instruction.op1_register());
    let last = if instruction.op_count() > 1 { second } else { first };
    let arithmetic = |operation, pop| {
        if memory {
            Op::ArithmeticMemory(operation)
        } else {
            let destination = stack_index(first);
            Op::Arithmetic { operation, destination, source: stack_index(second), pop }
        }
    };
    let compare = |pops, quiet| {
        if memory {
            Op::CompareMemory { pop: pops > 0 }
        } else {
            Op::Compare { source: stack_index(last), pops, quiet }
        }
    };
    let flags = |pop, quiet| Op::CompareFlags { source: stack_index(second), pop, quiet };
    let constant = Op::LoadConstant;
    let operation = match instruction.mnemonic() {
        M::Fld if !memory => Op::LoadRegister,
        M::Fld | M::Fild | M::Fbld => Op::Load,
        M::Fld1 => constant(Constant::One),
        M::Fldl2t => constant(Constant::Log2Of10),
        M::Fldl2e => constant(Constant::Log2OfE),
        M::Fldpi => constant(Constant::Pi),
        M::Fldlg2 => constant(Constant::Log10Of2),
        M::Fldln2 => constant(Constant::LogEOf2),
        M::Fldz => constant(Constant::Zero),
        M::Fst if !memory => Op::StoreRegister { pop: false },
        M::Fstp if !memory => Op::StoreRegister { pop: true },
        M::Fstpnce => Op::StoreRegisterUnchecked,
        M::Fst | M::Fist => Op::Store { pop: false },
        M::Fstp | M::Fistp | M::Fbstp => Op::Store { pop: true },
        M::Fisttp => Op::StoreTruncated,
        M::Fadd | M::Fiadd => arithmetic(Arithmetic::Add, false),
        M::Faddp => arithmetic(Arithmetic::Add, true),
        M::Fsub | M::Fisub => arithmetic(Arithmetic::Subtract, false),
        M::Fsubp => arithmetic(Arithmetic::Subtract, true),
        M::Fsubr | M::Fisubr => arithmetic(Arithmetic::SubtractReversed, false),
        M::Fsubrp => arithmetic(Arithmetic::SubtractReversed, true),
        M::Fmul | M::Fimul => arithmetic(Arithmetic::Multiply, false),
        M::Fmulp => arithmetic(Arithmetic::Multiply, true),
        M::Fdiv | M::Fidiv => arithmetic(Arithmetic::Divide, false),
        M::Fdivp => arithmetic(Arithmetic::Divide, true),
        M::Fdivr | M::Fidivr => arithmetic(Arithmetic::DivideReversed, false),
        M::Fdivrp => arithmetic(Arithmetic::DivideReversed, true),
        M::Fcom | M::Ficom => compare(0, false),
        M::Fcomp | M::Ficomp => compare(1, false),
        M::Fcompp => Op::Compare { source: 1, pops: 2, quiet: false },
        M::Fucom => compare(0, true),
        M::Fucomp => compare(1, true),
        M::Fucompp => Op::Compare { source: 1, pops: 2, quiet: true },
        M::Fcomi => flags(false, false),
        M::Fcomip => flags(true, false),
        M::Fucomi => flags(false, true),
        M::Fucomip => flags(true, true),
        M::Ftst => Op::Test,
        M::Fxam => Op::Examine,
        M::Fcmovb
        | M::Fcmove
        | M::Fcmovbe
        | M::Fcmovu
        | M::Fcmovnb
        | M::Fcmovne
        | M::Fcmovnbe
        | M::Fcmovnu => Op::ConditionalMove { source: stack_index(second) },
        M::Fxch => Op::Exchange { with: stack_index(last) },
        M::Fchs => Op::ChangeSign,
        M::Fabs => Op::Absolute,
        M::Fsqrt => Op::SquareRoot,
        M::Fscale => Op::Scale,
        M::Fprem => Op::Remainder { nearest: false },
        M::Fprem1 => Op::Remainder { nearest: true },
        M::Frndint => Op::RoundToInteger,
        M::Fxtract => Op::Extract,
        M::F2xm1 => Op::PowerLess1,
        M::Fyl2x => Op::YLog2X,
        M::Fyl2xp1 => Op::YLog2XPlus1,
        M::Fptan => Op::Tangent,
        M::Fpatan => Op::ArcTangent,
        M::Fsin => Op::Sine,
        M::Fcos => Op::Cosine,
        M::Fsincos => Op::SineCosine,
        M::Fincstp => Op::IncrementStack,
        M::Fdecstp => Op::DecrementStack,
        M::Ffree => Op::Free { register: stack_index(first), pop: false },
        M::Ffreep => Op::Free { register: stack_index(first), pop: true },
        M::Fnop => Op::Nothing,
        M::Fneni | M::Fndisi | M::Fnsetpm => Op::Ignored,
        M::Fninit => Op::Initialise,
        M::Fnclex => Op::ClearExceptions,
        M::Fnstcw => Op::StoreControl,
        M::Fldcw => Op::LoadControl,
        M::Fnstsw if memory => Op::StoreStatus,
        M::Fnstsw => Op::StoreStatusRegister,
        M::Fnstenv => Op::StoreEnvironment,
        M::Fldenv => Op::LoadEnvironment,
        M::Fnsave => Op::Save,
        M::Frstor => Op::Restore,
        M::Wait => Op::Wait,
        _ => return None,
    };
    let waits = !matches!(
        operation,
        Op::Initialise
            | Op::ClearExceptions
            | Op::StoreControl
            | Op::StoreStatus
            | Op::StoreStatusRegister
            | Op::StoreEnvironment
            | Op::Save
    );
    let control = !waits
        || matches!(
            operation,
            Op::LoadControl | Op::LoadEnvironment | Op::Restore | Op::Wait | Op::Ignored
        );
    let stores = matches!(
        operation,
        Op::Store { .. }
            | Op::StoreTruncated
            | Op::StoreControl
            | Op::StoreStatus
            | Op::StoreEnvironment
            | Op::Save
    );
    let bytes = if memory { instruction.memory_size().size() as u8 } else { 0 };
    let use_of_memory = match (memory, stores) {
        (false, _) => MemoryUse::None,
        (true, true) => MemoryUse::Store(bytes),
        (true, false) => MemoryUse::Load(bytes),
    };
    Some(X87Instruction {
        memory: use_of_memory,
        waits,
        control,
        opcode: opcode & 0x7ff,
        condition: condition(instruction.mnemonic()),
        format: format(instruction.memory_size()),
        operation,
    })
}

impl X87Instruction {
    /// WAIT itself.
    pub fn is_wait(&self) -> bool {
        self.operation == Operation::Wait
    }

    /// It brings ZF, PF and CF.
    pub fn sets_flags(&self) -> bool {
        matches!(self.operation, Operation::CompareFlags { .. })
    }
}
