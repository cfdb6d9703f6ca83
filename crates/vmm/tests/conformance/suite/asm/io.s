# Ports and memory that is not RAM: every width, strings, and nobody there.

    .set FW_CFG, 0x510
    .set SLOT_23, 0xfeb02e00

program ports
# Bytes: a register that keeps what is written.
    mov edx, 0x3ff
    mov al, 0xa5
    out dx, al
    mov eax, 0x11223344
    in al, dx
    expect rax, 0x112233a5
# 16 and 32 bits: the selector, and the signature of the DMA register.
    mov edx, FW_CFG
    xor eax, eax
    out dx, ax
    mov edx, FW_CFG + 1
    mov eax, 0x55667700
    in al, dx
    expect rax, 0x55667751
    mov edx, FW_CFG + 4
    mov rax, -1
    in eax, dx
    expect rax, 0x554d4551
    mov rax, -1
    in ax, dx
    expect rax, 0xffffffffffff4551
    mov edx, FW_CFG + 8
    in eax, dx
    expect rax, 0x47464320
# Nobody: ones. The upper half goes with a 32-bit read only.
    mov edx, 0x5678
    mov rax, 0x1234567812340000
    in al, dx
    expect rax, 0x12345678123400ff
    in ax, dx
    expect rax, 0x123456781234ffff
    in eax, dx
    expect rax, 0xffffffff
    out dx, eax
    in eax, 0x80
    expect rax, 0xffffffff
# Strings, in both directions and of every width.
    mov edx, FW_CFG
    xor eax, eax
    out dx, ax
    mov edx, FW_CFG + 1
    mov edi, SCRATCH
    mov ecx, 4
    rep insb
    mov byte ptr [rdi], 0
    mov eax, dword ptr [SCRATCH]
    expect rax, 0x554d4551
    expect rcx, 0
    expect rdi, SCRATCH+4
    mov edx, 0x5678
    mov qword ptr [SCRATCH + 8], 0
    mov edi, SCRATCH + 8
    insw
    expect "qword ptr [SCRATCH+8]", 0xffff
    insd
    expect "qword ptr [SCRATCH+8]", 0xffffffffffff
    mov edx, 0x3ff
    mov esi, SCRATCH
    mov ecx, 3
    rep outsb
    expect rsi, SCRATCH+3
    xor eax, eax
    in al, dx
    expect rax, 0x4d
    std
    mov esi, SCRATCH + 2
    mov ecx, 2
    rep outsb
    cld
    expect rsi, SCRATCH
    in al, dx
    expect rax, 0x45
    xor ecx, ecx
    mov esi, SCRATCH
    rep outsb
    expect rsi, SCRATCH
# A count of more than a page's worth, into memory.
    mov edx, 0x3ff
    in al, dx
    mov edi, SCRATCH + 0x1001
    mov ecx, 5000
    rep insb
    expect rdi, SCRATCH+0x1001+5000
    mov eax, dword ptr [SCRATCH + 0x1001 + 4997]
    expect rax, 0x454545
    done

# The data of DMA requests: by a device into memory.
program fw_cfg_dma
    mov dword ptr [SCRATCH], 0x0a000000
    mov dword ptr [SCRATCH + 4], 0x04000000
    movabs rax, 0x0001060000000000
    mov qword ptr [SCRATCH + 8], rax
    mov qword ptr [SCRATCH + 0x100], 0
    mov edx, FW_CFG + 4
    xor eax, eax
    out dx, eax
    mov edx, FW_CFG + 8
    mov eax, SCRATCH
    bswap eax
    out dx, eax
    expect "qword ptr [SCRATCH+0x100]", 0x554d4551
    mov eax, dword ptr [SCRATCH]
    expect rax, 0
    done

program memory_mapped
# A slot of virtio-mmio without a device: 32 bits are answered.
    mov ebx, SLOT_23
    mov eax, dword ptr [rbx]
    expect rax, 0x74726976
    mov eax, dword ptr [rbx + 8]
    expect rax, 0
    movzx eax, byte ptr [rbx]
    expect rax, 0
    movzx eax, word ptr [rbx]
    expect rax, 0
    mov rax, qword ptr [rbx]
    expect rax, 0
    mov dword ptr [rbx], 1
    mov byte ptr [rbx], 1
# Registers of 64 bits, whole and in halves.
    mov ebx, HPET
    movabs rax, 0x1122334455667788
    mov qword ptr [rbx + 0xf0], rax
    mov rax, qword ptr [rbx + 0xf0]
    expect rax, 0x1122334455667788
    mov eax, dword ptr [rbx + 0xf4]
    expect rax, 0x11223344
    mov dword ptr [rbx + 0xf4], 0x55
    mov rax, qword ptr [rbx + 0xf0]
    expect rax, 0x5555667788
# Instructions that read, change and write; compare; exchange; test; move with extension.
    mov dword ptr [rbx + 0xf0], 5
    mov dword ptr [rbx + 0xf4], 0
    add dword ptr [rbx + 0xf0], 7
    mov eax, dword ptr [rbx + 0xf0]
    expect rax, 12
    inc dword ptr [rbx + 0xf0]
    cmp dword ptr [rbx + 0xf0], 13
    sete al
    movzx eax, al
    expect rax, 1
    mov eax, 99
    xchg dword ptr [rbx + 0xf0], eax
    expect rax, 13
    mov eax, 99
    mov ecx, 100
    cmpxchg dword ptr [rbx + 0xf0], ecx
    mov eax, dword ptr [rbx + 0xf0]
    expect rax, 100
    test dword ptr [rbx + 0xf0], 0x64
    setnz al
    movzx eax, al
    expect rax, 1
    push qword ptr [rbx + 0xf0]
    pop rax
    expect rax, 100
    movsxd rax, dword ptr [rbx + 0xf0]
    expect rax, 100
# Strings from a device and to it.
    mov esi, HPET + 0xf0
    mov edi, SCRATCH
    mov ecx, 2
    rep movsd
    expect "qword ptr [SCRATCH]", 100
    mov dword ptr [SCRATCH], 77
    mov esi, SCRATCH
    mov edi, HPET + 0xf0
    movsd
    mov eax, dword ptr [rbx + 0xf0]
    expect rax, 77
    mov edi, HPET + 0xf0
    mov eax, 55
    stosd
    mov rax, qword ptr [rbx + 0xf0]
    expect rax, 55
# Nobody: ones.
    mov ebx, 0xd0000000
    mov rax, qword ptr [rbx]
    expect rax, -1
    mov qword ptr [rbx], rax
    mov al, byte ptr [rbx + 3]
    movzx eax, al
    expect rax, 0xff
# From ring 3, with SSE too.
    enter_ring_3
    mov ebx, HPET
    mov eax, dword ptr [rbx + 4]
    expect rax, 10000000
    mov qword ptr [rbx + 0xf0], 123
    mov rax, qword ptr [rbx + 0xf0]
    expect rax, 123
    leave_ring_3
    done

# A store past the end of RAM, and code that runs in the last page of it.
program end_of_memory
    mov ebx, 0x7ffffc
    mov rax, 0x1122334455667788
    mov qword ptr [rbx], rax
    mov rax, qword ptr [rbx]
    expect rax, 0xffffffff55667788
    mov byte ptr [rbx + 3], 0xc3
    lea rax, [rbx + 3]
    call rax
    done
