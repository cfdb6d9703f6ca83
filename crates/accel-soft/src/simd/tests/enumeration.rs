//! Every MMX, SSE, SSE2 and SSE3 instruction that Ferry's decoder knows, encoded.

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, Encoder, Instruction, MemoryOperand, MemorySize,
    OpCodeOperandKind, Register,
};

/// One instruction with its operands chosen: XMM1 or MM1 first, XMM2 or MM2 second, RAX, [RDI].
pub struct Form {
    pub code: Code,
    pub instruction: Instruction,
    pub bytes: Vec<u8>,
    /// Has an explicit memory operand.
    pub memory: bool,
}

/// Not SIMD computations: the integer core or the x87 unit runs these.
fn is_elsewhere(code: Code) -> bool {
    matches!(
        code,
        Code::Fisttp_m16int
            | Code::Fisttp_m32int
            | Code::Fisttp_m64int
            | Code::Prefetchnta_m8
            | Code::Prefetcht0_m8
            | Code::Prefetcht1_m8
            | Code::Prefetcht2_m8
            | Code::Movnti_m32_r32
            | Code::Movnti_m64_r64
    )
}

/// All forms of all instructions; immediates come in several values.
pub fn forms() -> Vec<Form> {
    let sets = [CpuidFeature::MMX, CpuidFeature::SSE, CpuidFeature::SSE2, CpuidFeature::SSE3];
    let forms: Vec<Form> = Code::values()
        .filter(|code| code.cpuid_features().iter().any(|feature| sets.contains(feature)))
        .filter(|code| !is_elsewhere(*code))
        .flat_map(|code| {
            let found: Vec<Form> =
                [false, true].iter().filter_map(|memory| form(code, *memory)).collect();
            assert!(!found.is_empty(), "cannot encode {code:?}");
            found
        })
        .flat_map(with_immediates)
        .collect();
    assert!(forms.len() > 600, "only {} forms", forms.len());
    forms
}

/// `code` with registers only or with a memory operand; `None` where it has no such form.
pub fn form(code: Code, memory: bool) -> Option<Form> {
    use OpCodeOperandKind as Kind;
    let address = MemoryOperand::with_base(Register::RDI);
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    let mut memory_used = false;
    let kinds: Vec<Kind> = code.op_code().op_kinds().to_vec();
    for (index, kind) in kinds.iter().enumerate() {
        let first = index == 0;
        let register = match kind {
            Kind::xmm_reg | Kind::xmm_rm => {
                if first {
                    Register::XMM1
                } else {
                    Register::XMM2
                }
            }
            Kind::mm_reg | Kind::mm_rm => {
                if first {
                    Register::MM1
                } else {
                    Register::MM2
                }
            }
            Kind::r32_reg => Register::EAX,
            Kind::r64_reg => Register::RAX,
            Kind::imm8 => {
                instruction.set_op_kind(index as u32, iced_x86::OpKind::Immediate8);
                continue;
            }
            Kind::seg_rDI => {
                instruction.set_op_kind(index as u32, iced_x86::OpKind::MemorySegRDI);
                continue;
            }
            Kind::mem => Register::None,
            either if memory => {
                let _ = either;
                Register::None
            }
            Kind::xmm_or_mem => {
                if first {
                    Register::XMM1
                } else {
                    Register::XMM2
                }
            }
            Kind::mm_or_mem => {
                if first {
                    Register::MM1
                } else {
                    Register::MM2
                }
            }
            Kind::r32_or_mem => Register::EAX,
            Kind::r64_or_mem => Register::RAX,
            other => panic!("{code:?} has an operand of kind {other:?}"),
        };
        if register == Register::None {
            memory_used = true;
            instruction.set_op_kind(index as u32, iced_x86::OpKind::Memory);
            instruction.set_memory_base(address.base);
        } else {
            instruction.set_op_kind(index as u32, iced_x86::OpKind::Register);
            instruction.set_op_register(index as u32, register);
        }
    }
    if memory != memory_used {
        return None;
    }
    Some(encode(code, &instruction, memory))
}

fn encode(code: Code, instruction: &Instruction, memory: bool) -> Form {
    let mut encoder = Encoder::new(64);
    encoder.encode(instruction, 0).unwrap_or_else(|error| panic!("{code:?}: {error}"));
    let bytes = encoder.take_buffer();
    let instruction = Decoder::new(64, &bytes, DecoderOptions::NONE).decode();
    assert_eq!(instruction.code(), code, "{bytes:x?}");
    assert!(memory || instruction.memory_size() == MemorySize::Unknown || has_either(code));
    Form { code, instruction, bytes, memory }
}

fn has_either(code: Code) -> bool {
    code.op_code().op_kinds().len() > 1
}

/// The same form with other immediates, where it has one.
fn with_immediates(form: Form) -> Vec<Form> {
    let has_immediate = form.code.op_code().op_kinds().contains(&OpCodeOperandKind::imm8);
    if !has_immediate {
        return vec![form];
    }
    let values = (0..40).chain([0x40, 0x4e, 0x7f, 0x80, 0x81, 0xb1, 0xd8, 0xe4, 0xfe, 0xff]);
    values
        .map(|value| {
            let mut instruction = form.instruction;
            instruction.set_immediate8(value);
            encode(form.code, &instruction, form.memory)
        })
        .collect()
}
