//! Runs one instruction on the host's CPU, from a given state to the state after it.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of the memory operand's surroundings that a run may see and change.
pub const MEMORY: usize = 48;

const PAGE: usize = 4096;
/// RFLAGS before the instruction: all status flags set, IF as the host has it.
const FLAGS: u32 = 0xad7;

/// What an instruction may read and change.
#[repr(C, align(64))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// FXSAVE image.
    pub image: [u8; 512],
    after: [u8; 512],
    /// RAX.
    pub rax: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RFLAGS after the instruction.
    pub flags: u64,
    host_mxcsr: u32,
    /// Where [RDI] points; the operand starts at the offset given to [`Native::run`].
    pub memory: Memory,
}

/// A memory operand and what is around it, 16-byte aligned.
#[repr(C, align(16))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory(pub [u8; MEMORY]);

impl State {
    /// All zero.
    pub fn new() -> State {
        State {
            image: [0; 512],
            after: [0; 512],
            rax: 0,
            rcx: 0,
            rdx: 0,
            flags: 0,
            host_mxcsr: 0,
            memory: Memory([0; MEMORY]),
        }
    }
}

/// Where the handler sends a faulting run; 0 while none is under way.
static RESUME: AtomicU64 = AtomicU64::new(0);
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

extern "C" fn on_fault(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let resume = RESUME.load(Ordering::SeqCst);
    if resume == 0 {
        std::process::abort();
    }
    SIGNAL.store(signal, Ordering::SeqCst);
    #[expect(unsafe_code, reason = "a signal handler finds the interrupted registers by pointer")]
    // SAFETY: installed with SA_SIGINFO, so the kernel passes a valid ucontext.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        context.uc_mcontext.gregs[libc::REG_RIP as usize] = resume as i64;
    }
}

/// An executable page, and handlers for the faults of what runs on it.
pub struct Native {
    page: *mut u8,
    landing: u64,
    previous: [(i32, libc::sigaction); 2],
    _alone: MutexGuard<'static, ()>,
}

impl Native {
    /// Takes the host's CPU, waiting for another test that has it.
    #[expect(unsafe_code, reason = "the page is executable, and faults are caught by signals")]
    pub fn new() -> Native {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: a fresh anonymous mapping.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(page, libc::MAP_FAILED);
        let previous = [libc::SIGFPE, libc::SIGSEGV].map(|signal| {
            // SAFETY: sigaction is plain data, for which zero is a valid value; the handler only
            // touches atomics and its own context.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                let mut previous: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_fault as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                assert_eq!(libc::sigaction(signal, &action, &mut previous), 0);
                (signal, previous)
            }
        });
        Native { page: page.cast(), landing: 0, previous, _alone: alone }
    }

    /// Makes `instruction` (encoded) the one that [`Native::run`] runs. It may use RAX, RCX, RDX,
    /// [RDI] and all vector registers.
    #[expect(unsafe_code, reason = "writes the executable page")]
    pub fn load(&mut self, instruction: &[u8]) {
        let field = |offset: usize| (offset as u32).to_le_bytes();
        let mut code = Vec::new();
        let mut put = |opcode: &[u8], operand: &[u8]| {
            code.extend_from_slice(opcode);
            code.extend_from_slice(operand);
            code.len()
        };
        // RDI is the memory operand, RSI the state.
        put(&[0x0f, 0xae, 0x9e], &field(std::mem::offset_of!(State, host_mxcsr))); // stmxcsr
        put(&[0x48, 0x0f, 0xae, 0x8e], &field(std::mem::offset_of!(State, image))); // fxrstor64
        put(&[0x48, 0x8b, 0x86], &field(std::mem::offset_of!(State, rax))); // mov rax, [..]
        put(&[0x48, 0x8b, 0x8e], &field(std::mem::offset_of!(State, rcx))); // mov rcx, [..]
        put(&[0x48, 0x8b, 0x96], &field(std::mem::offset_of!(State, rdx))); // mov rdx, [..]
        put(&[0x68], &FLAGS.to_le_bytes()); // push
        put(&[0x9d], &[]); // popfq
        let landing = put(instruction, &[]);
        put(&[0x48, 0x89, 0x8e], &field(std::mem::offset_of!(State, rcx))); // mov [..], rcx
        put(&[0x48, 0x89, 0x96], &field(std::mem::offset_of!(State, rdx))); // mov [..], rdx
        put(&[0x9c, 0x59], &[]); // pushfq, pop rcx
        put(&[0x48, 0x89, 0x8e], &field(std::mem::offset_of!(State, flags))); // mov [..], rcx
        put(&[0x48, 0x89, 0x86], &field(std::mem::offset_of!(State, rax))); // mov [..], rax
        put(&[0x48, 0x0f, 0xae, 0x86], &field(std::mem::offset_of!(State, after))); // fxsave64
        put(&[0xdb, 0xe3], &[]); // fninit
        put(&[0x0f, 0xae, 0x96], &field(std::mem::offset_of!(State, host_mxcsr))); // ldmxcsr
        put(&[0xc3], &[]); // ret
        assert!(code.len() <= PAGE);
        // SAFETY: the page is ours, writable, and large enough.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.page, code.len()) };
        self.landing = self.page as u64 + landing as u64;
    }

    /// Runs the loaded instruction with its memory operand `offset` bytes into the state's memory.
    /// Returns the signal of a fault, if there was one; the state is then that at the fault.
    #[expect(unsafe_code, reason = "calls the machine code")]
    pub fn run(&mut self, state: &mut State, offset: usize) -> Option<i32> {
        assert!(self.landing != 0 && offset <= MEMORY - 16);
        SIGNAL.store(0, Ordering::SeqCst);
        RESUME.store(self.landing, Ordering::SeqCst);
        let state: *mut State = state;
        // SAFETY: the page holds a function of this type that keeps to the ABI: it changes only
        // caller-saved registers, `state`, and up to 16 bytes of the state's memory, and puts MXCSR
        // and the x87 unit back. A fault goes on at the landing.
        unsafe {
            let memory = (&raw mut (*state).memory.0).cast::<u8>().add(offset);
            let function: unsafe extern "sysv64" fn(*mut u8, *mut State) =
                std::mem::transmute(self.page);
            function(memory, state);
            (*state).image = (*state).after;
        }
        RESUME.store(0, Ordering::SeqCst);
        let signal = SIGNAL.load(Ordering::SeqCst);
        (signal != 0).then_some(signal)
    }
}

impl Drop for Native {
    #[expect(unsafe_code, reason = "gives the page and the handlers back")]
    fn drop(&mut self) {
        for (signal, previous) in &self.previous {
            // SAFETY: what sigaction returned at the start.
            unsafe { libc::sigaction(*signal, previous, std::ptr::null_mut()) };
        }
        // SAFETY: mapped by `new`, and nothing runs on it any more.
        unsafe { libc::munmap(self.page.cast(), PAGE) };
    }
}
