//! The named models against the CPUs of those names of a real QEMU: a few bytes of machine code
//! run there under software emulation, and say what CPUID and the model-specific registers hold.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use cpu::{CpuModel, QEMU_MODELS, Topology, msr};

const PROGRAM: &str = "qemu-system-x86_64";
/// Where the guest is loaded.
const LOAD: u32 = 0x10_0000;
/// Where it puts together an answer, and where the questions are.
const BUFFER: u32 = LOAD + 0xf0;
const QUESTIONS: u32 = LOAD + 0x100;

/// What the guest is asked: CPUID's leaf and sub-leaf, or the number of a register.
#[derive(Clone, Copy, Debug)]
enum Question {
    Cpuid(u32, u32),
    Msr(u32),
}

/// Whether QEMU is there. Where it has to be (`CI`), it is an error if it is not.
fn installed() -> bool {
    let version = Command::new(PROGRAM).arg("--version").output();
    if version.is_ok_and(|output| output.status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{PROGRAM} is not installed");
    eprintln!("left out: {PROGRAM} (package qemu-system-x86) is not installed");
    false
}

/// An ELF file that QEMU starts by the PVH protocol, in 32-bit protected mode without paging: it
/// answers each question by four words at the debug console.
fn image(questions: &[Question]) -> Vec<u8> {
    let [list, buffer] = [QUESTIONS, BUFFER].map(u32::to_le_bytes);
    let mut code = Vec::new();
    // mov esi, list
    code.push(0xbe);
    code.extend(list);
    // next: mov ebx, [esi]; mov eax, [esi + 4]; mov ecx, [esi + 8]; add esi, 12
    code.extend([0x8b, 0x1e, 0x8b, 0x46, 0x04, 0x8b, 0x4e, 0x08, 0x83, 0xc6, 0x0c]);
    // test ebx, ebx; jz end; dec ebx; jnz register; cpuid; jmp answer; register: rdmsr
    code.extend([0x85, 0xdb, 0x74, 0x2d, 0x4b, 0x75, 0x04, 0x0f, 0xa2, 0xeb, 0x02, 0x0f, 0x32]);
    // answer: mov edi, buffer
    code.push(0xbf);
    code.extend(buffer);
    // mov [edi], eax; mov [edi + 4], ebx; mov [edi + 8], ecx; mov [edi + 12], edx
    code.extend([0x89, 0x07, 0x89, 0x5f, 0x04, 0x89, 0x4f, 0x08, 0x89, 0x57, 0x0c]);
    // mov ecx, 16; mov edx, 0xe9; mov ebp, esi; mov esi, edi; rep outsb; mov esi, ebp; jmp next
    code.extend([0xb9, 16, 0, 0, 0, 0xba, 0xe9, 0, 0, 0, 0x89, 0xf5, 0x89, 0xfe, 0xf3, 0x6e]);
    code.extend([0x89, 0xee, 0xeb, 0xc4]);
    // end: xor eax, eax; out 0xf4, al; hlt
    code.extend([0x31, 0xc0, 0xe6, 0xf4, 0xf4]);
    code.resize((QUESTIONS - LOAD) as usize, 0);
    for question in questions {
        let words = match *question {
            Question::Cpuid(function, index) => [1, function, index],
            Question::Msr(number) => [2, 0, number],
        };
        code.extend(words.into_iter().flat_map(u32::to_le_bytes));
    }
    code.extend([0; 12]);
    elf(&code)
}

/// One segment to load, and the note that names its first byte as the entry point.
fn elf(code: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    const NOTE: u64 = 12 + 4 + 8;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [u64::from(LOAD), 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 64, 0, 0, 0, 0, 0]);
    let length = code.len() as u64;
    for (kind, offset, address, size) in
        [(1u64, HEADERS + NOTE, u64::from(LOAD), length), (4, HEADERS, 0, NOTE)]
    {
        file.extend((kind | 7 << 32).to_le_bytes());
        for word in [offset, address, address, size, size, 4] {
            file.extend(word.to_le_bytes());
        }
    }
    // XEN_ELFNOTE_PHYS32_ENTRY.
    for word in [4u32, 8, 18] {
        file.extend(word.to_le_bytes());
    }
    file.extend(b"Xen\0");
    file.extend(u64::from(LOAD).to_le_bytes());
    file.extend(code);
    file
}

fn ask(model: &str, cpus: u32, questions: &[Question]) -> Vec<[u32; 4]> {
    let id = std::process::id();
    let path = |name: &str| -> PathBuf {
        std::env::temp_dir().join(format!("ferry-cpuid-{id}-{model}-{cpus}-{name}"))
    };
    let (kernel, answers) = (path("guest"), path("answers"));
    fs::write(&kernel, image(questions)).unwrap();
    let status = Command::new("timeout")
        .args(["60", PROGRAM, "-M", "microvm,x-option-roms=off,pit=on,pic=on,rtc=on,isa-serial=on"])
        .args(["-accel", "tcg", "-cpu", model, "-smp", &cpus.to_string(), "-m", "64"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
        .args(["-chardev", &format!("file,id=answers,path={}", answers.display())])
        .args(["-device", "isa-debugcon,iobase=0xe9,chardev=answers"])
        .arg("-kernel")
        .arg(&kernel)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1), "the guest did not come to its end");
    let bytes = fs::read(&answers).unwrap();
    fs::remove_file(kernel).unwrap();
    fs::remove_file(answers).unwrap();
    bytes
        .chunks_exact(16)
        .map(|answer| {
            std::array::from_fn(|word| {
                u32::from_le_bytes(answer[4 * word..4 * word + 4].try_into().unwrap())
            })
        })
        .collect()
}

/// What a guest of this model is to be told.
fn expected(model: &CpuModel, place: Topology, question: Question) -> [u32; 4] {
    match question {
        Question::Cpuid(function, index) => {
            let leaf = model.cpuid(function, index, place);
            [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
        }
        Question::Msr(number) => {
            let value = match number {
                msr::MCG_CAP => model.machine_check_capabilities(),
                msr::MICROCODE_REVISION => model.microcode_revision(),
                msr::CORE_THREAD_COUNT => model.core_thread_count(place),
                msr::PERFORMANCE_STATUS => msr::PERFORMANCE_STATUS_VALUE,
                msr::MTRR_CAPABILITIES => msr::MTRR_CAPABILITIES_VALUE,
                msr::MISC_ENABLE => cpu::CpuState::at_reset(model, 0).msrs.misc_enable,
                msr::PAT => cpu::CpuState::at_reset(model, 0).msrs.pat,
                // Not one that anybody knows.
                _ => {
                    assert!(model.ignores_unknown_msrs());
                    0
                }
            };
            // EBX and ECX say which question this was.
            [value as u32, 1, number, (value >> 32) as u32]
        }
    }
}

fn compare(name: &str) {
    if !installed() {
        return;
    }
    let model = CpuModel::find_of_qemu(name).unwrap();
    let functions = (0..=0x21)
        .chain(0x4000_0000..=0x4000_0003)
        .chain(0x8000_0000..=0x8000_0021)
        .chain([0x4000_0100, 0x2000_0000, 0x9000_0000, 0xc000_0000, 0xc000_0001, u32::MAX]);
    let registers = [
        msr::MCG_CAP,
        msr::MICROCODE_REVISION,
        msr::CORE_THREAD_COUNT,
        msr::PERFORMANCE_STATUS,
        msr::MTRR_CAPABILITIES,
        msr::MISC_ENABLE,
        msr::PAT,
        // Of other processors, or of none.
        0x17,
        0x3a,
        0xce,
        0x140,
        0x12345,
    ];
    let questions: Vec<Question> = functions
        .flat_map(|function| (0..6).map(move |index| Question::Cpuid(function, index)))
        .chain(registers.map(Question::Msr))
        .collect();
    for count in [1, 2, 3, 4, 16] {
        let answers = ask(name, count, &questions);
        assert_eq!(answers.len(), questions.len());
        let place = Topology { apic_id: 0, count };
        for (question, answer) in questions.iter().zip(answers) {
            let expected = expected(model, place, *question);
            assert_eq!(expected, answer, "{name}, {count} vcpus, {question:x?}: {answer:x?}");
        }
    }
}

#[test]
fn qemu64_is_qemus() {
    compare("qemu64");
}

#[test]
fn nehalem_is_qemus() {
    compare("Nehalem");
}

#[test]
fn every_model_is_compared() {
    let names: Vec<&str> = QEMU_MODELS.iter().map(CpuModel::name).collect();
    assert_eq!(names, ["qemu64", "Nehalem"]);
}
