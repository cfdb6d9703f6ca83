//! Wraps the guest as an ELF file that QEMU starts by the PVH protocol: 32-bit protected mode
//! without paging, from where a stub makes the guest's entry contract true.

use guest::{GuestImage, ImageSegment};

/// Where the file is loaded. The firmware uses lower memory, so the stub copies the guest down.
const LOAD: u32 = 0x10_0000;

#[expect(unsafe_code, reason = "the stub is assembly; it runs in the guest only")]
mod stub {
    use super::LOAD;

    std::arch::global_asm!(
        r#"
    .pushsection .rodata.pvh_stub, "a", @progbits
    .globl pvh_stub_start, pvh_stub_code, pvh_stub_end
pvh_stub_start:
# CR0, CR3, CR4, EFER, RIP, RSI, and the list of segments, as the test fills them in.
    .quad 0, 0, 0, 0, 0, 0, 0
# GDTR, then the descriptors.
    .word 0x17
    .long {load} + 0x40
    .word 0
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
    .code32
pvh_stub_code:
    cli
    cld
    mov ebx, {load}
    mov ebp, [ebx + 0x30]
# Segments: source, target, length; a length of 0 ends the list.
2:  mov esi, [ebp]
    mov edi, [ebp + 4]
    mov ecx, [ebp + 8]
    add ebp, 12
    test ecx, ecx
    jz 3f
    rep movsb
    jmp 2b
3:  lgdt [ebx + 0x38]
    mov eax, [ebx + 0x10]
    mov cr4, eax
    mov eax, [ebx + 0x08]
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, [ebx + 0x18]
    xor edx, edx
    wrmsr
    mov eax, [ebx]
    mov cr0, eax
    .byte 0xea
    .long {load} + pvh_stub_64 - pvh_stub_start
    .word 0x08
    .code64
pvh_stub_64:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov rsi, [rbx + 0x28]
    jmp [rbx + 0x20]
pvh_stub_end:
    .popsection
"#,
        load = const LOAD,
    );

    // SAFETY: defined by the assembly above; only their addresses and the bytes between are used.
    unsafe extern "C" {
        static pvh_stub_start: u8;
        static pvh_stub_code: u8;
        static pvh_stub_end: u8;
    }

    /// The stub, and the offset of its first instruction.
    pub(super) fn bytes() -> (Vec<u8>, usize) {
        let start = &raw const pvh_stub_start;
        let length = (&raw const pvh_stub_end).addr() - start.addr();
        // SAFETY: the two symbols bound one run of initialised, read-only bytes.
        let bytes = unsafe { std::slice::from_raw_parts(start, length) };
        (bytes.to_vec(), (&raw const pvh_stub_code).addr() - start.addr())
    }
}

fn narrow(value: usize) -> u32 {
    u32::try_from(value).expect("fits into 32 bits")
}

/// Stub, list of segments, and segments, as they lie in memory from [`LOAD`] up; and the offset of
/// the first instruction.
fn contents(image: &GuestImage, parameters: &[u8]) -> (Vec<u8>, usize) {
    let (mut bytes, code) = stub::bytes();
    let entry = &image.entry;
    let list = u64::from(LOAD) + bytes.len() as u64;
    let table = [entry.cr0, entry.cr3, entry.cr4, entry.efer, entry.rip, entry.rsi, list];
    for (place, word) in bytes.chunks_exact_mut(8).zip(table) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    let mut segments = image.segments.clone();
    segments.push(ImageSegment { address: entry.rsi, bytes: parameters.to_vec().into() });
    let mut source = bytes.len() + 12 * (segments.len() + 1);
    for segment in &segments {
        bytes.extend((LOAD + narrow(source)).to_le_bytes());
        bytes.extend(u32::try_from(segment.address).expect("below 4 GiB").to_le_bytes());
        bytes.extend(narrow(segment.bytes.len()).to_le_bytes());
        source += segment.bytes.len();
    }
    bytes.extend([0; 12]);
    for segment in &segments {
        bytes.extend_from_slice(&segment.bytes);
    }
    (bytes, code)
}

/// The whole ELF file: one segment to load, one note that names the entry point.
pub fn pvh(image: &GuestImage, parameters: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    const NOTE: u64 = 12 + 4 + 8;
    let (contents, code) = contents(image, parameters);
    let length = contents.len() as u64;
    let mut file = Vec::new();
    // ELF header: 64-bit, little-endian, executable, x86-64.
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [u64::from(LOAD), 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 64, 0, 0, 0, 0, 0]);
    // Program headers: type, flags, offset, virtual and physical address, sizes, alignment.
    let load = u64::from(LOAD);
    for (kind, offset, address, size) in
        [(1u64, HEADERS + NOTE, load, length), (4, HEADERS, 0, NOTE)]
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
    file.extend((load + code as u64).to_le_bytes());
    file.extend(contents);
    file
}
