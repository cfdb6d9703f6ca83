//! The host's unit as the oracle: every encoding from D8 to DF, on special and random operands,
//! with every rounding, precision and set of masks.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod native;
mod operands;
mod state;
mod transcendental;

use iced_x86::{Decoder, DecoderOptions, Mnemonic};

use super::{MemoryUse, Operands, X87, X87Instruction, lookup};
use cpu::flags as f;
use native::{Native, State};
use operands::Random;

/// Runs of each encoding.
const ROUNDS: usize = 2000;

struct Encoding {
    bytes: Vec<u8>,
    mnemonic: Mnemonic,
    instruction: Option<X87Instruction>,
}

/// Every x87 encoding with a memory operand at [RDI], with and without an operand-size prefix, and
/// every one without a memory operand.
fn encodings() -> Vec<Encoding> {
    let mut found = Vec::new();
    for first in 0xd8..=0xdfu8 {
        let memory = (0..8).map(|extension| 7 | extension << 3);
        for second in memory.chain(0xc0..=0xff) {
            for prefix in [&[][..], &[0x66]] {
                if !prefix.is_empty() && second >= 0xc0 {
                    continue;
                }
                let bytes = [prefix, &[first, second]].concat();
                let decoded = Decoder::with_ip(64, &bytes, 0, DecoderOptions::NONE).decode();
                if decoded.is_invalid() {
                    continue;
                }
                let opcode = u16::from(first & 7) << 8 | u16::from(second);
                let instruction = lookup(&decoded, opcode);
                found.push(Encoding { bytes, mnemonic: decoded.mnemonic(), instruction });
            }
        }
    }
    found
}

/// Everything of a unit that an instruction may change, in words that can be compared. Pointers
/// are not here: they are the caller's business.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    control: u16,
    status: u16,
    tags: u16,
    registers: [(u16, u64); 8],
    memory: [u8; 128],
    ax: u16,
    flags: u64,
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

impl Outcome {
    fn native(state: &State) -> Self {
        let status = word(&state.image, 2);
        let top = usize::from(status >> 11 & 7);
        let mut registers = [(0, 0); 8];
        for index in 0..8 {
            let at = 32 + 16 * index;
            let low = state.image[at..at + 8].try_into().expect("eight bytes");
            registers[(top + index) & 7] = (word(&state.image, at + 8), u64::from_le_bytes(low));
        }
        Self {
            control: word(&state.image, 0),
            status,
            tags: word(&state.environment, 8),
            registers,
            memory: state.memory,
            ax: state.rax as u16,
            flags: state.flags & f::ARITHMETIC,
        }
    }

    fn ours(unit: &X87, operands: &Operands) -> Self {
        Self {
            control: unit.control,
            status: unit.status,
            tags: unit.tags(),
            registers: unit.registers.map(|value| (value.exponent, value.significand)),
            memory: operands.memory,
            ax: operands.ax,
            flags: operands.flags & f::ARITHMETIC,
        }
    }
}

/// Runs one instruction on both; what the host got, and what we got.
fn both(
    native: &Native,
    instruction: &X87Instruction,
    unit: &X87,
    memory: &[u8; 128],
    flags: u64,
) -> (Outcome, Outcome) {
    let mut state = State::new();
    unit.to_fxsave(&mut state.image, true);
    state.memory = *memory;
    state.rax = 0x1234;
    state.flags = flags;
    native.run(&mut state);

    let mut ours = unit.clone();
    let mut operands = Operands { memory: *memory, flags, ax: 0x1234 };
    let stored = ours.run(instruction, &mut operands);
    // The caller stores as many bytes as the instruction has, if it stores.
    let bytes = match instruction.memory {
        MemoryUse::Store(bytes) if stored => usize::from(bytes),
        _ => 0,
    };
    operands.memory[bytes..].copy_from_slice(&memory[bytes..]);
    (Outcome::native(&state), Outcome::ours(&ours, &operands))
}

/// The modelled CPU is AMD's, and so are the answers where the manuals leave one open. On another
/// maker's CPU only what both promise is compared: masked responses, and no C1 where one of them
/// has it undefined, nor the pace of FPREM.
fn host_is_amd() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

fn is_left_open(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Fcmovb
            | M::Fcmove
            | M::Fcmovbe
            | M::Fcmovu
            | M::Fcmovnb
            | M::Fcmovne
            | M::Fcmovnbe
            | M::Fcmovnu
            | M::Fcomi
            | M::Fcomip
            | M::Fucomi
            | M::Fucomip
            | M::Ffree
            | M::Ffreep
            | M::Fprem
            | M::Fprem1
            | M::Fstpnce
    )
}

fn is_transcendental(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::F2xm1
            | Mnemonic::Fyl2x
            | Mnemonic::Fyl2xp1
            | Mnemonic::Fptan
            | Mnemonic::Fpatan
            | Mnemonic::Fsin
            | Mnemonic::Fcos
            | Mnemonic::Fsincos
    )
}

#[test]
fn every_encoding_is_known() {
    let unknown: Vec<String> = encodings()
        .iter()
        .filter(|encoding| encoding.instruction.is_none())
        .map(|encoding| format!("{:02x?} {:?}", encoding.bytes, encoding.mnemonic))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn every_instruction_does_what_the_host_does() {
    let mut native = Native::new();
    let mut random = Random::new(1);
    let mut wrong = Vec::new();
    let all = host_is_amd();
    for encoding in encodings() {
        let Some(instruction) = &encoding.instruction else { continue };
        if is_transcendental(encoding.mnemonic) || !all && is_left_open(encoding.mnemonic) {
            continue;
        }
        native.load(&encoding.bytes);
        for _ in 0..ROUNDS {
            let mut unit = random.unit();
            if !all {
                unit.control |= 0x3f;
            }
            let mut memory = [0; 128];
            let bytes = match instruction.memory {
                MemoryUse::Load(bytes) | MemoryUse::Store(bytes) => bytes,
                MemoryUse::None => 0,
            };
            random.memory(bytes, &mut memory);
            let flags = random.word() & f::ARITHMETIC | 0x202;
            let (theirs, ours) = both(&native, instruction, &unit, &memory, flags);
            if theirs != ours {
                wrong.push(format!(
                    "{:02x?} {:?} from {unit:x?}\n  memory {:02x?} flags {flags:x}\n  host {}\n  \
                     here {}",
                    encoding.bytes,
                    encoding.mnemonic,
                    &memory[..bytes.into()],
                    difference(&theirs, &ours),
                    difference(&ours, &theirs)
                ));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{} encodings differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// What of an outcome is not as in another.
fn difference(outcome: &Outcome, other: &Outcome) -> String {
    let mut text = Vec::new();
    let mut word = |name: &str, ours: u64, theirs: u64| {
        if ours != theirs {
            text.push(format!("{name} {ours:x}"));
        }
    };
    word("control", outcome.control.into(), other.control.into());
    word("status", outcome.status.into(), other.status.into());
    word("tags", outcome.tags.into(), other.tags.into());
    word("ax", outcome.ax.into(), other.ax.into());
    word("flags", outcome.flags, other.flags);
    for (index, (ours, theirs)) in outcome.registers.iter().zip(&other.registers).enumerate() {
        if ours != theirs {
            text.push(format!("r{index} {:04x}.{:016x}", ours.0, ours.1));
        }
    }
    if outcome.memory != other.memory {
        text.push(format!("memory {:02x?}", &outcome.memory[..108]));
    }
    text.join(", ")
}
