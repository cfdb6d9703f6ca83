//! One instruction on the host's CPU.
#![expect(unsafe_code, reason = "runs machine code on the host")]

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use super::{MAPPING, MEMORY, MEMORY_LENGTH, Outcome, Start};

/// The page with the registers before and after, behind the code.
const STATE: usize = 0x1000;
const FLAGS: usize = STATE + 0x80;
const HOST_RSP: usize = STATE + 0x88;
const REGISTERS_AFTER: usize = STATE + 0x90;
const FLAGS_AFTER: usize = STATE + 0x110;

static RESUME: AtomicU64 = AtomicU64::new(0);
static VECTOR: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_fault(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let resume = RESUME.load(Ordering::SeqCst);
    if resume == 0 {
        std::process::abort();
    }
    // SAFETY: installed with SA_SIGINFO, so the kernel passes a valid ucontext; its trap number is
    // the exception's vector.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let vector = context.uc_mcontext.gregs[libc::REG_TRAPNO as usize];
        VECTOR.store(vector as i32, Ordering::SeqCst);
        context.uc_mcontext.gregs[libc::REG_RIP as usize] = resume as i64;
    }
}

/// A mapping whose first page runs, and handlers for the faults of what runs there.
pub struct Native {
    base: *mut u8,
}

impl Native {
    /// Maps the pages and installs the handlers, for the rest of the process's life.
    pub fn new() -> Self {
        // SAFETY: a fresh anonymous mapping; a fresh alternate stack; handlers that touch atomics
        // and their own context only.
        unsafe {
            let base = libc::mmap(
                std::ptr::null_mut(),
                MAPPING,
                libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(base, libc::MAP_FAILED);
            let stack = Box::leak(vec![0u8; 1 << 16].into_boxed_slice());
            let alternate = libc::stack_t {
                ss_sp: stack.as_mut_ptr().cast(),
                ss_flags: 0,
                ss_size: stack.len(),
            };
            assert_eq!(libc::sigaltstack(&alternate, std::ptr::null_mut()), 0);
            for signal in [libc::SIGFPE, libc::SIGSEGV, libc::SIGILL, libc::SIGBUS, libc::SIGTRAP] {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_fault as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
            }
            Self { base: base.cast() }
        }
    }

    /// Address of the mapping.
    pub fn base(&self) -> u64 {
        self.base as u64
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= MAPPING);
        // SAFETY: inside the mapping, which is ours.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(offset), bytes.len())
        };
    }

    fn word(&self, offset: usize) -> u64 {
        assert!(offset + 8 <= MAPPING);
        // SAFETY: inside the mapping, which is ours.
        unsafe { self.base.add(offset).cast::<u64>().read_unaligned() }
    }

    /// Runs an instruction from a state.
    pub fn run(&mut self, instruction: &[u8], start: &Start) -> Outcome {
        for (index, value) in start.registers.iter().enumerate() {
            self.put(STATE + 8 * index, &value.to_le_bytes());
        }
        self.put(FLAGS, &start.flags.to_le_bytes());
        self.put(MEMORY as usize, &start.memory());

        let mut code: Vec<u8> = vec![0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57];
        // RIP-relative operands: the displacement counts from the end of the instruction.
        let relative = |code: &mut Vec<u8>, opcode: &[u8], target: usize| {
            code.extend_from_slice(opcode);
            let displacement = target as i32 - (code.len() as i32 + 4);
            code.extend_from_slice(&displacement.to_le_bytes());
        };
        let load = |register: usize| {
            [0x48 | (register as u8 >> 3) << 2, 0x8b, 5 | (register as u8 & 7) << 3]
        };
        let store = |register: usize| {
            [0x48 | (register as u8 >> 3) << 2, 0x89, 5 | (register as u8 & 7) << 3]
        };
        relative(&mut code, &store(4), HOST_RSP);
        relative(&mut code, &[0xff, 0x35], FLAGS);
        code.push(0x9d);
        for register in 0..16 {
            relative(&mut code, &load(register), STATE + 8 * register);
        }
        code.extend_from_slice(instruction);
        let landing = code.len();
        for register in 0..16 {
            relative(&mut code, &store(register), REGISTERS_AFTER + 8 * register);
        }
        relative(&mut code, &load(4), HOST_RSP);
        code.push(0x9c);
        relative(&mut code, &[0x8f, 0x05], FLAGS_AFTER);
        code.extend_from_slice(&[
            0xfc, 0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3,
        ]);
        assert!(code.len() <= STATE);
        self.put(0, &code);

        VECTOR.store(-1, Ordering::SeqCst);
        RESUME.store(self.base() + landing as u64, Ordering::SeqCst);
        // SAFETY: the page holds a function of this type that keeps callee-saved registers and the
        // stack; the instruction reaches the mapping's memory only, or faults, and a fault goes on
        // at the landing.
        unsafe {
            let function: unsafe extern "sysv64" fn() = std::mem::transmute(self.base);
            function();
        }
        RESUME.store(0, Ordering::SeqCst);
        let vector = VECTOR.load(Ordering::SeqCst);
        let memory = (0..MEMORY_LENGTH / 8)
            .flat_map(|index| self.word(MEMORY as usize + 8 * index).to_le_bytes())
            .collect();
        Outcome {
            fault: u8::try_from(vector).ok(),
            registers: std::array::from_fn(|index| self.word(REGISTERS_AFTER + 8 * index)),
            flags: self.word(FLAGS_AFTER),
            memory,
        }
    }
}
