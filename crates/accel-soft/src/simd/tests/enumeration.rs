//! Every instruction of MMX and of SSE to SSE4.2 that Ferry's decoder knows, encoded.

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, Encoder, Instruction, OpCodeOperandKind as Kind,
    OpKind, Register,
};

/// One instruction with its operands chosen: XMM1 or MM1 first, XMM2 or MM2 second, RAX, [RDI].
pub struct Form {
    pub code: Code,
    pub instruction: Instruction,
    pub bytes: Vec<u8>,
    /// Has an explicit memory operand.
    pub memory: bool,
    /// One of many that differ in their immediate only.
    pub immediate: bool,
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
            | Code::Crc32_r32_rm8
            | Code::Crc32_r64_rm8
            | Code::Crc32_r32_rm16
            | Code::Crc32_r32_rm32
            | Code::Crc32_r64_rm64
    )
}

/// All forms of all instructions; immediates come in several values.
pub fn forms() -> Vec<Form> {
    let sets = [
        CpuidFeature::MMX,
        CpuidFeature::SSE,
        CpuidFeature::SSE2,
        CpuidFeature::SSE3,
        CpuidFeature::SSSE3,
        CpuidFeature::SSE4_1,
        CpuidFeature::SSE4_2,
    ];
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
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    let mut has_memory = false;
    for (index, kind) in (0..).zip(code.op_code().op_kinds()) {
        let kind = match operand(*kind, index == 0, memory) {
            Place::Register(register) => {
                instruction.set_op_register(index, register);
                OpKind::Register
            }
            Place::Memory => {
                has_memory = true;
                instruction.set_memory_base(Register::RDI);
                OpKind::Memory
            }
            Place::Other(kind) => kind,
        };
        instruction.set_op_kind(index, kind);
    }
    (memory == has_memory).then(|| encode(code, &instruction, memory))
}

enum Place {
    Register(Register),
    Memory,
    Other(OpKind),
}

fn operand(kind: Kind, first: bool, memory: bool) -> Place {
    let xmm = if first { Register::XMM1 } else { Register::XMM2 };
    let mm = if first { Register::MM1 } else { Register::MM2 };
    match kind {
        Kind::imm8 => Place::Other(OpKind::Immediate8),
        Kind::seg_rDI => Place::Other(OpKind::MemorySegRDI),
        Kind::mem => Place::Memory,
        Kind::xmm_or_mem | Kind::mm_or_mem | Kind::r32_or_mem | Kind::r64_or_mem if memory => {
            Place::Memory
        }
        Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_or_mem => Place::Register(xmm),
        Kind::mm_reg | Kind::mm_rm | Kind::mm_or_mem => Place::Register(mm),
        Kind::r32_reg | Kind::r32_or_mem => Place::Register(Register::EAX),
        Kind::r64_reg | Kind::r64_or_mem => Place::Register(Register::RAX),
        other => panic!("no operand of kind {other:?}"),
    }
}

fn encode(code: Code, instruction: &Instruction, memory: bool) -> Form {
    let mut encoder = Encoder::new(64);
    encoder.encode(instruction, 0).unwrap_or_else(|error| panic!("{code:?}: {error}"));
    let bytes = encoder.take_buffer();
    let instruction = Decoder::new(64, &bytes, DecoderOptions::NONE).decode();
    assert_eq!(instruction.code(), code, "{bytes:x?}");
    Form { code, instruction, bytes, memory, immediate: has_immediate(code) }
}

/// The same form with other immediates, where it has one.
fn with_immediates(form: Form) -> Vec<Form> {
    if !form.immediate {
        return vec![form];
    }
    // The immediates of SSE4 are made of fields, each of which has a meaning.
    let fields = form
        .code
        .cpuid_features()
        .iter()
        .any(|set| matches!(set, CpuidFeature::SSE4_1 | CpuidFeature::SSE4_2));
    let some = [0x40, 0x4e, 0x7f, 0x80, 0x81, 0xb1, 0xd8, 0xe4, 0xfe, 0xff];
    let values: Vec<u8> = if fields { (0..=255).collect() } else { (0..40).chain(some).collect() };
    values
        .into_iter()
        .map(|value| {
            let mut instruction = form.instruction;
            instruction.set_immediate8(value);
            encode(form.code, &instruction, form.memory)
        })
        .collect()
}

fn has_immediate(code: Code) -> bool {
    code.op_code().op_kinds().contains(&Kind::imm8)
}
