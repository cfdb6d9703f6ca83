# A million random stores, for the dirty log: of several sizes, over the ends of pages, in ring 3 and
# in ring 0, by a device, and by the page walker. It is no program of the suite: `tests/dirty.rs`
# maps 16 MiB at WINDOW in pages of 4 KiB, and lets it go on by raising STORES_BUDGET.

    .set STORES_TABLES, {stores_tables}
    .set STORES_AREA, {stores_area}
    .set STORES_BUDGET, {stores_budget}
    .set STORES_DONE, {stores_done}
    .set STORES_TOTAL, {stores_total}
# Windows of 64 pages in which it stores for a while; the last is left out, so that a store over the
# end of one stays inside.
    .set STORES_WINDOW, 0x40000
    .set STORES_WINDOWS, 63

program stores
    movabs r12, 0x9e3779b97f4a7c15
    movabs r13, WINDOW
    xor r14d, r14d
2:  enter_ring_3
    mov ebx, 3000
    call stores_burst
    leave_ring_3
    mov ebx, 1000
    call stores_burst
    call stores_by_device
    call stores_forget_accesses
    cmp r14, STORES_TOTAL
    jb 2b
# The last look at the log is before the end.
3:  pause
    cmp r14, qword ptr [STORES_BUDGET]
    jae 3b
    done

# RBX stores. R12: generator. R13: where the window begins. R14: stores so far.
stores_burst:
    cmp r14, STORES_TOTAL
    jae 9f
2:  cmp r14, qword ptr [STORES_BUDGET]
    jb 3f
    pause
    jmp 2b
# xorshift64.
3:  mov rax, r12
    shl rax, 13
    xor r12, rax
    mov rax, r12
    shr rax, 7
    xor r12, rax
    mov rax, r12
    shl rax, 17
    xor r12, rax
    mov rdi, r12
    shr rdi, 20
    and edi, STORES_WINDOW - 1
# One in four in the last bytes of its page.
    test r12d, 0x300
    jnz 4f
    or edi, 0xffa
4:  add rdi, r13
    mov ecx, r12d
    and ecx, 7
    lea rax, [rip + stores_kinds]
    movsxd rcx, dword ptr [rax + 4 * rcx]
    add rcx, rax
    mov rax, r12
    jmp rcx

    .balign 4
stores_kinds:
    .long 11f - stores_kinds, 12f - stores_kinds, 13f - stores_kinds, 14f - stores_kinds
    .long 15f - stores_kinds, 16f - stores_kinds, 17f - stores_kinds, 18f - stores_kinds
11: mov byte ptr [rdi], ah
    jmp 5f
12: mov word ptr [rdi], ax
    jmp 5f
13: mov dword ptr [rdi], eax
    jmp 5f
14: mov qword ptr [rdi], rax
    jmp 5f
# The register came from memory that the guest stored to before.
15: mov qword ptr [SCRATCH + 8], rax
    movdqu xmm0, xmmword ptr [SCRATCH]
    movdqu xmmword ptr [rdi], xmm0
    jmp 5f
16: lock xadd qword ptr [rdi], rax
    jmp 5f
17: mov ecx, eax
    shr ecx, 8
    and ecx, 63
    rep stosb
    jmp 5f
18: mov rdx, rsp
    lea rsp, [rdi + 8]
    push rax
    mov rsp, rdx

5:  inc r14
    mov qword ptr [STORES_DONE], r14
    test r14b, r14b
    jnz 6f
    mov rax, r12
    shr rax, 8
    xor edx, edx
    mov ecx, STORES_WINDOWS
    div rcx
    imul r13, rdx, STORES_WINDOW
    movabs rax, WINDOW
    add r13, rax
6:  dec ebx
    jnz stores_burst
9:  ret

# The firmware's signature and zeroes, by DMA to somewhere in the window.
stores_by_device:
    mov rax, r12
    shr rax, 11
    and eax, STORES_WINDOW - 1
    add rax, r13
    movabs rcx, WINDOW - STORES_AREA
    sub rax, rcx
    bswap rax
    mov qword ptr [SCRATCH + 0x108], rax
    mov dword ptr [SCRATCH + 0x100], 0x0a000000
    mov dword ptr [SCRATCH + 0x104], 0x10000000
    mov edx, FW_CFG + 4
    xor eax, eax
    out dx, eax
    mov edx, FW_CFG + 8
    mov eax, SCRATCH + 0x100
    bswap eax
    out dx, eax
    ret

# Clears the accessed and dirty bits of one page table, for the page walker to set anew.
stores_forget_accesses:
    mov rax, r12
    shr rax, 33
    and eax, 7
    shl eax, 12
    add eax, STORES_TABLES
    mov ecx, 512
2:  and qword ptr [rax], ~(A | D)
    add rax, 8
    dec ecx
    jnz 2b
    mov rax, cr3
    mov cr3, rax
    ret
