//! Handlers of a family, by the width and the place of their operands.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::{from, wide};
use crate::block::{Handler, Op};
use crate::ops::arithmetic as alu;
use crate::ops::operand::{Immediate, Memory, Register};
use crate::ops::{bits, control, multiply, shift};

pub(super) fn variant(op: &mut Op, value: u8, handler: Handler) -> Handler {
    op.variant = value;
    handler
}

pub(super) fn two<A: alu::Alu>(i: &Instruction, size: usize) -> Handler {
    if i.op0_kind() == OpKind::Memory {
        return match i.op1_kind() {
            OpKind::Register => wide!(size, |T| alu::to_memory::<A, T, Register>),
            _ => wide!(size, |T| alu::to_memory::<A, T, Immediate>),
        };
    }
    from!(i.op1_kind(), |S| wide!(size, |T| alu::to_register::<A, T, S>))
}

pub(super) fn one<U: alu::Unary>(memory: bool, size: usize) -> Handler {
    if memory {
        wide!(size, |T| alu::unary_memory::<U, T>)
    } else {
        wide!(size, |T| alu::unary_register::<U, T>)
    }
}

pub(super) fn multiply_one(i: &Instruction, op: &mut Op, size: usize) -> Handler {
    op.second = op.first;
    let kind = i.op0_kind();
    match i.mnemonic() {
        Mnemonic::Mul => from!(kind, |S| wide!(size, |T| multiply::unsigned::<T, S>)),
        Mnemonic::Imul => from!(kind, |S| wide!(size, |T| multiply::signed::<T, S>)),
        Mnemonic::Div => from!(kind, |S| wide!(size, |T| multiply::divide::<T, S>)),
        _ => from!(kind, |S| wide!(size, |T| multiply::signed_divide::<T, S>)),
    }
}

pub(super) fn shifted<S: shift::Shift>(i: &Instruction, op: &mut Op, size: usize) -> Handler {
    op.variant = u8::from(i.op1_kind() == OpKind::Register);
    if i.op0_kind() == OpKind::Memory {
        wide!(size, |T| shift::memory::<S, T>)
    } else {
        wide!(size, |T| shift::register::<S, T>)
    }
}

pub(super) fn double<const RIGHT: bool>(i: &Instruction, op: &mut Op, size: usize) -> Handler {
    op.variant = u8::from(i.op2_kind() == OpKind::Register);
    if i.op0_kind() == OpKind::Memory {
        wide!(size, |T| shift::double_memory::<T, RIGHT>)
    } else {
        wide!(size, |T| shift::double_register::<T, RIGHT>)
    }
}

pub(super) fn bit<const WHAT: u8>(i: &Instruction, op: &mut Op, size: usize) -> Handler {
    let by_register = i.op1_kind() == OpKind::Register;
    op.variant = u8::from(by_register);
    match (i.op0_kind() == OpKind::Memory, by_register) {
        (true, true) => wide!(size, |T| bits::memory::<WHAT, T, Register>),
        (true, false) => wide!(size, |T| bits::memory::<WHAT, T, Immediate>),
        (false, true) => wide!(size, |T| bits::register::<WHAT, T, Register>),
        (false, false) => wide!(size, |T| bits::register::<WHAT, T, Immediate>),
    }
}

pub(super) fn jump_if(condition: u8) -> Handler {
    macro_rules! table {
        ($($code:literal)*) => {
            [$(control::jump_if::<$code> as Handler),*]
        };
    }
    table!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)[usize::from(condition & 15)]
}
