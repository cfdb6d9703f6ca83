# A driver for one virtio disk over virtio-mmio version 2 (Virtio 1.2, sections 2.7, 4.2, 5.2):
# four requests of 1 KiB in flight at a time, completion by interrupt.

    .set DISK_QUEUE_SIZE, 16
    .set DISK_AVAILABLE, DISK_QUEUE + 0x100
    .set DISK_USED, DISK_QUEUE + 0x180
    .set DISK_HEADERS, DISK_QUEUE + 0x280
    .set DISK_STATUS, DISK_QUEUE + 0x2c0
    .set DISK_REQUESTS, 4
    .set DISK_REQUEST_BYTES, 1024
    .set BLOCK_SECTORS, 8

disk_begin:
    test dword ptr [PARAMETER_FLAGS], FLAG_DISK
    jz 3f
    mov edi, DISK_REGISTERS
    mov edx, 0x74726976
    mov ecx, dword ptr [rdi]
    cmp ecx, edx
    jne disk_absent
    mov edx, 2
    mov ecx, dword ptr [rdi + 0x04]
    cmp ecx, edx
    jne disk_absent
    mov ecx, dword ptr [rdi + 0x08]
    cmp ecx, edx
    jne disk_absent
# Reset, acknowledge, driver; of the features only VERSION_1.
    mov dword ptr [rdi + 0x70], 0
    mov dword ptr [rdi + 0x70], 1
    mov dword ptr [rdi + 0x70], 3
    mov dword ptr [rdi + 0x24], 0
    mov dword ptr [rdi + 0x20], 0
    mov dword ptr [rdi + 0x24], 1
    mov dword ptr [rdi + 0x20], 1
    mov dword ptr [rdi + 0x70], 0xb
    mov edx, 0xb
    mov ecx, dword ptr [rdi + 0x70]
    cmp ecx, edx
    jne disk_absent
    mov dword ptr [rdi + 0x30], 0
    mov dword ptr [rdi + 0x38], DISK_QUEUE_SIZE
    mov dword ptr [rdi + 0x80], DISK_QUEUE
    mov dword ptr [rdi + 0x84], 0
    mov dword ptr [rdi + 0x90], DISK_AVAILABLE
    mov dword ptr [rdi + 0x94], 0
    mov dword ptr [rdi + 0xa0], DISK_USED
    mov dword ptr [rdi + 0xa4], 0
    mov dword ptr [rdi + 0x44], 1
    mov dword ptr [rdi + 0x70], 0xf
# Blocks of 4 KiB to use: what the disk has and what the parameters allow.
    mov eax, dword ptr [rdi + 0x100]
    mov ecx, dword ptr [rdi + 0x104]
    shl rcx, 32
    or rax, rcx
    cmp rax, qword ptr [PARAMETER_DISK_SECTORS]
    jbe 2f
    mov rax, qword ptr [PARAMETER_DISK_SECTORS]
2:  shr rax, 3
    mov qword ptr [rip + disk_blocks], rax
    xor edx, edx
    mov ecx, eax
    test rax, rax
    jz disk_absent
3:  ret

disk_absent:
    mov esi, DISK_REGISTERS
    failing CHECK_DISK_INTERRUPT

# RDI = 0 to read, 1 to write; RSI = block. Data in the disk buffer.
service_disk:
    push rbx
    push r12
    mov ebx, edi
    shl rsi, 3
    mov r12, rsi
# Descriptors 3i, 3i+1, 3i+2 of request i: header, data, status.
    xor ecx, ecx
2:  mov eax, ecx
    shl eax, 4
    lea r8d, [rax + DISK_HEADERS]
    mov qword ptr [r8], rbx
    lea rdx, [r12 + rcx * 2]
    mov qword ptr [r8 + 8], rdx
    lea r9d, [rcx + rcx * 2]
    mov r10d, r9d
    shl r10d, 4
    add r10d, DISK_QUEUE
    mov qword ptr [r10], r8
    mov dword ptr [r10 + 8], 16
    mov word ptr [r10 + 12], 1
    lea eax, [r9 + 1]
    mov word ptr [r10 + 14], ax
    mov eax, ecx
    shl eax, 10
    add eax, DISK_BUFFER
    mov qword ptr [r10 + 16], rax
    mov dword ptr [r10 + 24], DISK_REQUEST_BYTES
    mov eax, ebx
    xor eax, 1
    lea eax, [rax * 2 + 1]
    mov word ptr [r10 + 28], ax
    lea eax, [r9 + 2]
    mov word ptr [r10 + 30], ax
    lea eax, [rcx + DISK_STATUS]
    mov byte ptr [rax], 0xff
    mov qword ptr [r10 + 32], rax
    mov dword ptr [r10 + 40], 1
    mov word ptr [r10 + 44], 2
    mov word ptr [r10 + 46], 0
    movzx eax, word ptr [DISK_AVAILABLE + 2]
    add eax, ecx
    and eax, DISK_QUEUE_SIZE - 1
    mov word ptr [rax * 2 + DISK_AVAILABLE + 4], r9w
    inc ecx
    cmp ecx, DISK_REQUESTS
    jb 2b
    mov r12, qword ptr [rip + disk_interrupts]
    lock add word ptr [DISK_AVAILABLE + 2], DISK_REQUESTS
    mov eax, DISK_REGISTERS + 0x50
    mov dword ptr [rax], 0
# Halted until all are used. Other interrupts wake up too: those are counted.
    mov r8d, WAKE_LIMIT
3:  cli
    mov ax, word ptr [DISK_AVAILABLE + 2]
    cmp ax, word ptr [DISK_USED + 2]
    je 4f
    sti
    hlt
    dec r8d
    jnz 3b
    movzx edx, word ptr [DISK_AVAILABLE + 2]
    movzx ecx, word ptr [DISK_USED + 2]
    mov rsi, qword ptr [DISK_HEADERS + 8]
    failing CHECK_DISK_REQUEST
# The interrupt that said so.
4:  sti
    mov r8d, SPIN_LIMIT
5:  cmp r12, qword ptr [rip + disk_interrupts]
    jne 6f
    pause
    dec r8d
    jnz 5b
    mov rsi, qword ptr [DISK_HEADERS + 8]
    mov rdx, r12
    mov rcx, r12
    inc rdx
    failing CHECK_DISK_INTERRUPT
# Every request once, each with a good status.
6:  xor r8d, r8d
    xor ecx, ecx
7:  inc ecx
    movzx eax, word ptr [DISK_USED + 2]
    sub eax, ecx
    and eax, DISK_QUEUE_SIZE - 1
    mov eax, dword ptr [rax * 8 + DISK_USED + 4]
    and eax, 31
    bts r8d, eax
    lea eax, [rcx + DISK_STATUS - 1]
    movzx eax, byte ptr [rax]
    test eax, eax
    jnz 8f
    cmp ecx, DISK_REQUESTS
    jb 7b
    mov edx, 0x249
    mov ecx, r8d
    cmp ecx, edx
    jne 9f
    add qword ptr [rip + disk_requests], DISK_REQUESTS
    pop r12
    pop rbx
    ret
8:  xor edx, edx
    mov ecx, eax
9:  mov rsi, qword ptr [DISK_HEADERS + 8]
    failing CHECK_DISK_REQUEST
