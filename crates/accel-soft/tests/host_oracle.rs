//! The host's CPU as the oracle: every integer instruction that 64-bit mode offers runs once on
//! the host and once on the software CPU from the same random registers, flags and memory, at the
//! same addresses, and must leave the same behind.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod oracle;

use iced_x86::{
    Code, Encoder, FlowControl, Instruction, Mnemonic, OpCodeOperandKind as Kind, OpKind,
};
use iced_x86::{CpuidFeature, Register};
use oracle::guest::Guest;
use oracle::native::Native;
use oracle::random::Random;
use oracle::{MEMORY, Outcome, Start};

const ROUNDS: usize = 60;

/// Instructions that are no matter of registers and memory alone, or that would end the process.
fn is_elsewhere(code: Code) -> bool {
    let info = code.op_code();
    info.is_privileged()
        || code.flow_control() != FlowControl::Next
        // PREFETCH and PREFETCHW of a register: AMD's processors refuse it, Intel's do not.
        || matches!(
            code,
            Code::Reservednop_rm16_r16_0F0D
                | Code::Reservednop_rm32_r32_0F0D
                | Code::Reservednop_rm64_r64_0F0D
        )
        || matches!(
            code.mnemonic(),
            Mnemonic::Wait
                | Mnemonic::Cpuid
                | Mnemonic::Rdtsc
                | Mnemonic::Rdpmc
                | Mnemonic::Lar
                | Mnemonic::Lsl
                | Mnemonic::Verr
                | Mnemonic::Verw
                | Mnemonic::Sldt
                | Mnemonic::Str
                | Mnemonic::Sgdt
                | Mnemonic::Sidt
                | Mnemonic::Smsw
                | Mnemonic::Popf
                | Mnemonic::Popfq
                | Mnemonic::Cli
                | Mnemonic::Sti
                | Mnemonic::In
                | Mnemonic::Out
                | Mnemonic::Insb
                | Mnemonic::Insw
                | Mnemonic::Insd
                | Mnemonic::Outsb
                | Mnemonic::Outsw
                | Mnemonic::Outsd
                | Mnemonic::Lfs
                | Mnemonic::Lgs
                | Mnemonic::Lss
        )
}

fn is_integer(code: Code) -> bool {
    let offered = |feature: &CpuidFeature| {
        matches!(
            feature,
            CpuidFeature::INTEL8086
                | CpuidFeature::INTEL186
                | CpuidFeature::INTEL286
                | CpuidFeature::INTEL386
                | CpuidFeature::INTEL486
                | CpuidFeature::X64
                | CpuidFeature::CMOV
                | CpuidFeature::CX8
                | CpuidFeature::CMPXCHG16B
                | CpuidFeature::MULTIBYTENOP
                | CpuidFeature::POPCNT
        )
    };
    code.cpuid_features().iter().all(offered)
        || matches!(code.mnemonic(), Mnemonic::Movnti | Mnemonic::Crc32)
}

/// An instruction of this code with random operands; `memory` asks for the memory form.
fn instruction(code: Code, memory: bool, random: &mut Random) -> Option<Instruction> {
    let info = code.op_code();
    let mut made = Instruction::default();
    made.set_code(code);
    let mut has_memory = false;
    // Only RBX, RSI and RDI point into memory; RSP is left to the instructions that imply it.
    let general =
        |random: &mut Random| random.pick(&[0, 1, 2, 3, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15]);
    for index in 0..info.op_count() {
        let kind = info.op_kind(index);
        let register = |made: &mut Instruction, register: Register| {
            made.set_op_kind(index, OpKind::Register);
            made.set_op_register(index, register);
        };
        let immediate = |made: &mut Instruction, kind: OpKind, value: u64| {
            made.set_op_kind(index, kind);
            match kind {
                OpKind::Immediate8 => made.set_immediate8(value as u8),
                OpKind::Immediate8_2nd => made.set_immediate8_2nd(value as u8),
                OpKind::Immediate16 => made.set_immediate16(value as u16),
                OpKind::Immediate32 => made.set_immediate32(value as u32),
                OpKind::Immediate64 => made.set_immediate64(value),
                OpKind::Immediate8to16 => made.set_immediate8to16(value as i16),
                OpKind::Immediate8to32 => made.set_immediate8to32(value as i32),
                OpKind::Immediate8to64 => made.set_immediate8to64(value as i64),
                _ => made.set_immediate32to64(value as i64),
            }
        };
        match kind {
            Kind::r8_or_mem
            | Kind::r16_or_mem
            | Kind::r32_or_mem
            | Kind::r64_or_mem
            | Kind::mem
                if memory || kind == Kind::mem =>
            {
                made.set_op_kind(index, OpKind::Memory);
                made.set_memory_base(Register::RBX);
                made.set_memory_displ_size(4);
                made.set_memory_displacement64(random.below(64));
                if code.mnemonic() == Mnemonic::Cmpxchg16b {
                    made.set_memory_displacement64(random.below(64) & !15);
                }
                has_memory = true;
            }
            Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode => {
                let high = [Register::AH, Register::CH, Register::DH, Register::BH];
                let low = Register::AL as u32 + general(random) as u32;
                let choice = if random.below(4) == 0 {
                    random.pick(&high)
                } else {
                    Register::values().nth(low as usize).unwrap_or(Register::AL)
                };
                let choice = if matches!(choice, Register::SPL) { Register::AL } else { choice };
                register(&mut made, choice);
            }
            Kind::r16_or_mem
            | Kind::r16_reg
            | Kind::r16_rm
            | Kind::r16_opcode
            | Kind::r16_reg_mem => {
                register(&mut made, nth(Register::AX, general(random)));
            }
            Kind::r32_or_mem
            | Kind::r32_reg
            | Kind::r32_rm
            | Kind::r32_opcode
            | Kind::r32_reg_mem => {
                register(&mut made, nth(Register::EAX, general(random)));
            }
            Kind::r64_or_mem
            | Kind::r64_reg
            | Kind::r64_rm
            | Kind::r64_opcode
            | Kind::r64_reg_mem => {
                register(&mut made, nth(Register::RAX, general(random)));
            }
            Kind::al => register(&mut made, Register::AL),
            Kind::cl => register(&mut made, Register::CL),
            Kind::ax => register(&mut made, Register::AX),
            Kind::dx => register(&mut made, Register::DX),
            Kind::eax => register(&mut made, Register::EAX),
            Kind::rax => register(&mut made, Register::RAX),
            Kind::imm8_const_1 => immediate(&mut made, OpKind::Immediate8, 1),
            Kind::imm8 if index == 1 && code.mnemonic() == Mnemonic::Enter => {
                immediate(&mut made, OpKind::Immediate8_2nd, random.below(4));
            }
            Kind::imm8 => immediate(&mut made, OpKind::Immediate8, random.word()),
            Kind::imm16 if code.mnemonic() == Mnemonic::Enter => {
                immediate(&mut made, OpKind::Immediate16, random.below(128));
            }
            Kind::imm16 => immediate(&mut made, OpKind::Immediate16, random.word()),
            Kind::imm32 => immediate(&mut made, OpKind::Immediate32, random.word()),
            Kind::imm64 => immediate(&mut made, OpKind::Immediate64, random.word()),
            Kind::imm8sex16 => {
                immediate(&mut made, OpKind::Immediate8to16, random.word() as i8 as u64)
            }
            Kind::imm8sex32 => {
                immediate(&mut made, OpKind::Immediate8to32, random.word() as i8 as u64)
            }
            Kind::imm8sex64 => {
                immediate(&mut made, OpKind::Immediate8to64, random.word() as i8 as u64)
            }
            Kind::imm32sex64 => {
                immediate(&mut made, OpKind::Immediate32to64, random.word() as i32 as u64);
            }
            Kind::seg_rSI => {
                made.set_op_kind(index, OpKind::MemorySegRSI);
                made.set_memory_base(Register::None);
            }
            Kind::es_rDI => made.set_op_kind(index, OpKind::MemoryESRDI),
            Kind::seg_rBX_al => {
                made.set_op_kind(index, OpKind::Memory);
                made.set_memory_base(Register::RBX);
                made.set_memory_index(Register::AL);
            }
            _ => return None,
        }
    }
    if memory && !has_memory {
        return None;
    }
    if has_memory && info.can_use_lock_prefix() && random.below(3) == 0 {
        made.set_has_lock_prefix(true);
    }
    if info.can_use_rep_prefix() && made.is_string_instruction() && random.below(2) == 0 {
        if random.below(2) == 0 {
            made.set_has_rep_prefix(true);
        } else if info.can_use_repne_prefix() {
            made.set_has_repne_prefix(true);
        }
    }
    Some(made)
}

fn nth(first: Register, number: u8) -> Register {
    Register::values().nth(first as usize + usize::from(number)).expect("a register")
}

/// What the manual leaves open: flags, and results of shifts that are longer than the operand.
fn open_flags(made: &Instruction, start: &Start) -> Option<u64> {
    let bits = [
        (iced_x86::RflagsBits::OF, 11),
        (iced_x86::RflagsBits::SF, 7),
        (iced_x86::RflagsBits::ZF, 6),
        (iced_x86::RflagsBits::AF, 4),
        (iced_x86::RflagsBits::CF, 0),
        (iced_x86::RflagsBits::PF, 2),
    ];
    let mut open = bits
        .iter()
        .filter(|(bit, _)| made.rflags_undefined() & bit != 0)
        .fold(0u64, |flags, (_, place)| flags | 1 << place);
    let shifts = matches!(
        made.mnemonic(),
        Mnemonic::Shl
            | Mnemonic::Sal
            | Mnemonic::Shr
            | Mnemonic::Sar
            | Mnemonic::Rol
            | Mnemonic::Ror
            | Mnemonic::Rcl
            | Mnemonic::Rcr
            | Mnemonic::Shld
            | Mnemonic::Shrd
    );
    if shifts {
        let last = made.op_count() - 1;
        let size = match made.op0_kind() {
            OpKind::Register => made.op0_register().size(),
            _ => made.memory_size().size(),
        } as u64
            * 8;
        let raw = if made.op_kind(last) == OpKind::Register {
            start.registers[1]
        } else {
            made.immediate(last)
        };
        let count = raw & if size == 64 { 63 } else { 31 };
        let double = matches!(made.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd);
        if double && count > size {
            return None;
        }
        if count != 1 {
            open |= 1 << 11;
        }
        if count >= size && !matches!(made.mnemonic(), Mnemonic::Rol | Mnemonic::Ror) {
            open |= 1;
        }
        if count == 0 {
            open = 0;
        } else {
            open |= 1 << 4;
        }
    }
    Some(open)
}

#[test]
fn every_integer_instruction_does_what_the_host_does() {
    let mut native = Native::new();
    let mut guest = Guest::new(native.base());
    let mut random = Random::new(0x5eed);
    let (mut forms, mut runs, mut faults) = (0, 0, 0);
    for code in Code::values() {
        let info = code.op_code();
        if !info.is_instruction() || !info.mode64() || !is_integer(code) || is_elsewhere(code) {
            continue;
        }
        for memory in [false, true] {
            let mut made_any = false;
            for _ in 0..ROUNDS {
                let Some(made) = instruction(code, memory, &mut random) else { break };
                let mut encoder = Encoder::new(64);
                let Ok(length) = encoder.encode(&made, native.base()) else { continue };
                made_any = true;
                let bytes = encoder.take_buffer();
                assert_eq!(bytes.len(), length);
                let start = start(&made, native.base(), &mut random);
                let Some(open) = open_flags(&made, &start) else { continue };
                let expected = native.run(&bytes, &start);
                let got = guest.run(&bytes, &start);
                runs += 1;
                faults += usize::from(expected.fault.is_some());
                compare(&made, &bytes, &start, open, &expected, &got);
            }
            forms += usize::from(made_any);
        }
    }
    println!("{forms} forms, {runs} runs, of which {faults} faulted alike");
    assert!(forms > 400, "only {forms} forms could be made");
}

fn start(made: &Instruction, base: u64, random: &mut Random) -> Start {
    let mut start = Start::random(random);
    start.registers[3] = base + MEMORY + 0xf80 + random.below(64);
    start.registers[4] = base + MEMORY + 0x3800 + 8 * random.below(64);
    start.registers[5] = base + MEMORY + 0x3900 + 8 * random.below(64);
    if made.mnemonic() == Mnemonic::Cmpxchg16b {
        start.registers[3] &= !15;
    }
    if made.is_string_instruction() {
        for pointer in [6, 7] {
            start.registers[pointer] = base + MEMORY + 0xf80 + random.below(128);
        }
        start.registers[1] = random.below(20);
    }
    // A bit number in a register reaches up to its own size away.
    if matches!(made.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
        && made.op0_kind() == OpKind::Memory
        && made.op1_kind() == OpKind::Register
    {
        let register = made.op1_register().number();
        if !matches!(register, 3 | 4) {
            start.registers[register] = (random.below(2048) as i64 - 1024) as u64;
        }
    }
    start
}

fn compare(
    made: &Instruction,
    bytes: &[u8],
    start: &Start,
    open: u64,
    expected: &Outcome,
    got: &Outcome,
) {
    let context = || format!("{made:?}\nbytes {bytes:02x?}\nstart {start:x?}");
    assert_eq!(expected.fault, got.fault, "fault of {}", context());
    assert_eq!(expected.registers, got.registers, "registers after {}", context());
    let status = 0xcd5 & !open;
    if expected.fault.is_none() {
        assert_eq!(
            expected.flags & status,
            got.flags & status,
            "flags {:#x} and {:#x} (open {open:#x}) after {}",
            expected.flags,
            got.flags,
            context()
        );
    }
    assert!(expected.memory == got.memory, "memory after {}", context());
}
