//! Runs one x87 instruction on the host's unit, from a given state to the state after it.

use std::mem::offset_of;

/// Bytes of a memory operand: FNSAVE's are the most.
pub const MEMORY: usize = 128;

const PAGE: usize = 4096;
/// MXCSR as programs start with.
const MXCSR: u32 = 0x1f80;

/// What an instruction may read and change.
#[repr(C, align(64))]
#[derive(Clone, Debug)]
pub struct State {
    /// FXSAVE image before, and after.
    pub image: [u8; 512],
    after: [u8; 512],
    /// FNSTENV image after, which has the full tag word.
    pub environment: [u8; 32],
    /// RAX.
    pub rax: u64,
    /// RFLAGS.
    pub flags: u64,
    /// The memory operand.
    pub memory: [u8; MEMORY],
}

impl State {
    /// A state in which MXCSR is as programs have it.
    pub fn new() -> Self {
        let mut image = [0; 512];
        image[24..28].copy_from_slice(&MXCSR.to_le_bytes());
        Self { image, after: [0; 512], environment: [0; 32], rax: 0, flags: 0, memory: [0; MEMORY] }
    }
}

/// An executable page that holds one instruction and what is around it.
pub struct Native {
    page: *mut u8,
}

impl Native {
    /// Makes room.
    #[expect(unsafe_code, reason = "the page is executable")]
    pub fn new() -> Self {
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
        Self { page: page.cast() }
    }

    /// Makes `instruction` (encoded) the one that [`Native::run`] runs. Its memory operand is at
    /// [RDI].
    #[expect(unsafe_code, reason = "writes the executable page")]
    pub fn load(&mut self, instruction: &[u8]) {
        let field = |offset: usize| (offset as u32).to_le_bytes();
        let mut code = Vec::new();
        let mut put = |opcode: &[u8], operand: &[u8]| {
            code.extend_from_slice(opcode);
            code.extend_from_slice(operand);
        };
        put(&[0x48, 0x0f, 0xae, 0x8f], &field(offset_of!(State, image))); // fxrstor64 [rdi+..]
        put(&[0x48, 0x8b, 0x87], &field(offset_of!(State, rax))); // mov rax, [rdi+..]
        put(&[0xff, 0xb7], &field(offset_of!(State, flags))); // push [rdi+..]
        put(&[0x9d], &[]); // popfq
        put(&[0x57], &[]); // push rdi
        put(&[0x48, 0x8d, 0xbf], &field(offset_of!(State, memory))); // lea rdi, [rdi+..]
        put(instruction, &[]);
        put(&[0x5f], &[]); // pop rdi
        put(&[0x9c], &[]); // pushfq
        put(&[0x8f, 0x87], &field(offset_of!(State, flags))); // pop [rdi+..]
        put(&[0x48, 0x89, 0x87], &field(offset_of!(State, rax))); // mov [rdi+..], rax
        put(&[0x48, 0x0f, 0xae, 0x87], &field(offset_of!(State, after))); // fxsave64 [rdi+..]
        put(&[0xd9, 0xb7], &field(offset_of!(State, environment))); // fnstenv [rdi+..]
        put(&[0xdb, 0xe3], &[]); // fninit
        put(&[0xc3], &[]); // ret
        assert!(code.len() <= PAGE);
        // SAFETY: the page is ours, writable, and large enough.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.page, code.len()) };
    }

    /// Runs the loaded instruction. No exception may be pending before it: those that it raises
    /// itself are only noted, since what follows it does not wait.
    #[expect(unsafe_code, reason = "calls the machine code")]
    pub fn run(&self, state: &mut State) {
        let status = u16::from_le_bytes([state.image[2], state.image[3]]);
        let control = u16::from_le_bytes([state.image[0], state.image[1]]);
        assert_eq!(status & !control & 0x3f, 0, "an exception is pending");
        // SAFETY: the page holds a function of this type that keeps to the ABI: it changes only
        // caller-saved registers and `state`, and leaves the x87 unit as new.
        unsafe {
            let function: unsafe extern "sysv64" fn(*mut State) = std::mem::transmute(self.page);
            function(state);
        }
        state.image = state.after;
    }
}

impl Drop for Native {
    #[expect(unsafe_code, reason = "gives the page back")]
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nothing runs on it any more.
        unsafe { libc::munmap(self.page.cast(), PAGE) };
    }
}
