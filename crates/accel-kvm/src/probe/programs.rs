//! The guests of the probes. Each puts what it found out to port 0xe9 and ends with a store to
//! port 0xf4.

#![expect(unsafe_code, reason = "machine code from the assembler")]

macro_rules! programs {
    ($($(#[$doc:meta])* $name:ident = [$($line:literal),* $(,)?];)*) => {
        $(
            $(#[$doc])*
            pub(super) fn $name() -> &'static [u8] {
                let (start, end): (*const u8, *const u8);
                // SAFETY: jumps over the guest's program and takes the addresses of its two ends.
                unsafe {
                    std::arch::asm!(
                        "lea {start}, [rip + 90f]",
                        "lea {end}, [rip + 91f]",
                        "jmp 91f",
                        "90:",
                        $($line,)*
                        "mov dx, 0xf4",
                        "out dx, al",
                        "cli",
                        "hlt",
                        "91:",
                        start = out(reg) start,
                        end = out(reg) end,
                        options(nomem, nostack, preserves_flags),
                    );
                }
                // SAFETY: the addresses enclose the program, which nobody writes to.
                unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
            }
        )*
    };
}

programs! {
    /// The sum of 1 to 10,000, each partial sum stored.
    sum = [
        "mov ecx, 10000",
        "xor eax, eax",
        "mov edi, 0x30000",
        "2: add eax, ecx",
        "mov [rdi], eax",
        "dec ecx",
        "jnz 2b",
        "mov eax, [rdi]",
        "mov dx, 0xe9",
        "out dx, eax",
    ];
    /// 300,000 turns of a loop.
    long_loop = [
        "mov ecx, 300000",
        "2: dec ecx",
        "jnz 2b",
        "mov eax, ecx",
        "mov dx, 0xe9",
        "out dx, eax",
    ];
    /// A move into an SSE register and back.
    movd = [
        "mov eax, 0x12345678",
        "movd xmm1, eax",
        "xor eax, eax",
        "movd eax, xmm1",
        "mov dx, 0xe9",
        "out dx, eax",
    ];
    /// An addition in SSE registers.
    paddd = [
        "mov edi, 0x30000",
        "mov dword ptr [rdi], 41",
        "movdqu xmm0, [rdi]",
        "paddd xmm0, xmm0",
        "movdqu [rdi], xmm0",
        "mov eax, [rdi]",
        "mov dx, 0xe9",
        "out dx, eax",
    ];
    /// Waits for the x87 unit.
    fwait = [
        "fwait",
        "mov eax, 7",
        "mov dx, 0xe9",
        "out dx, eax",
    ];
    /// Counts bits.
    popcnt = [
        "mov ecx, 0xf0f0",
        "popcnt eax, ecx",
        "mov dx, 0xe9",
        "out dx, eax",
    ];
    /// Exchanges 16 bytes that are what is expected.
    cmpxchg16b = [
        "mov edi, 0x30000",
        "xor eax, eax",
        "xor edx, edx",
        "mov ebx, 99",
        "xor ecx, ecx",
        "mov [rdi], rax",
        "mov [rdi + 8], rax",
        "lock cmpxchg16b [rdi]",
        "mov eax, [rdi]",
        "mov dx, 0xe9",
        "out dx, eax",
    ];
    /// A breakpoint. The handler is 16 bytes into the program.
    breakpoint = [
        "jmp 3f",
        ".skip 14, 0x90",
        "mov eax, 33",
        "mov dx, 0xe9",
        "out dx, eax",
        "iretq",
        "3: int3",
    ];
    /// An interrupt that the guest sends itself: what the local APIC says to be in service while
    /// it is handled. The handler is 16 bytes into the program.
    in_service = [
        "jmp 3f",
        ".skip 14, 0x90",
        "mov eax, [rbx + 0x120]",
        "mov dx, 0xe9",
        "out dx, eax",
        "jmp 4f",
        "3: mov ebx, 0xfee00000",
        "mov dword ptr [rbx + 0xf0], 0x1ff",
        "mov dword ptr [rbx + 0x300], 0x44041",
        "sti",
        "2: jmp 2b",
        "4:",
    ];
    /// SYSCALL from ring 3. The entry is 16 bytes into the program.
    syscall = [
        "jmp 3f",
        ".skip 14, 0x90",
        "mov eax, cs",
        "mov dx, 0xe9",
        "out dx, eax",
        "jmp 4f",
        "3: syscall",
        "4:",
    ];
}
