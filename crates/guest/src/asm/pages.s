# Pages: what each has to hold, writing it in several ways, verifying it. Ring 3. `generator.rs` is
# the same arithmetic in Rust.

# RAX = mix(RDI) of splitmix64. Changes RDI and R8.
mix:
    mov rax, rdi
    shr rax, 30
    xor rax, rdi
    movabs r8, MIX_FIRST
    imul rax, r8
    mov rdi, rax
    shr rdi, 27
    xor rax, rdi
    movabs r8, MIX_SECOND
    imul rax, r8
    mov rdi, rax
    shr rdi, 31
    xor rax, rdi
    ret

# Page number RDI in lap RSI: word i is RAX + i * RDX. Changes RCX, RDI, RSI, R8.
page_words:
    movabs rax, PAGE_FACTOR
    imul rdi, rax
    movabs rcx, LAP_FACTOR
    imul rsi, rcx
    add rdi, rsi
    add rdi, qword ptr [PARAMETER_SEED]
    lea rsi, [rdi + rax]
    call mix
    mov rcx, rax
    mov rdi, rsi
    call mix
    mov rdx, rax
    or rdx, 1
    mov rax, rcx
    ret

# Fills the page at R9 with words RAX + i * RDX, by the page's number in one of four ways: aligned
# SSE stores, scalar stores, unaligned SSE stores, or a string copy from the scratch page.
fill_words:
    mov ecx, r9d
    shr ecx, 12
    and ecx, 3
    cmp ecx, 1
    je fill_scalar
    ja 3f
    call vector_words
    lea rcx, [r9 + 4096]
2:  movdqa xmmword ptr [r9], xmm0
    paddq xmm0, xmm1
    movdqa xmmword ptr [r9 + 16], xmm0
    paddq xmm0, xmm1
    movdqa xmmword ptr [r9 + 32], xmm0
    paddq xmm0, xmm1
    movdqa xmmword ptr [r9 + 48], xmm0
    paddq xmm0, xmm1
    add r9, 64
    cmp r9, rcx
    jb 2b
    ret
3:  cmp ecx, 3
    je 5f
# Unaligned: one word, 255 pairs, one word.
    mov qword ptr [r9], rax
    add rax, rdx
    call vector_words
    lea rcx, [r9 + 4080]
    add r9, 8
4:  movdqu xmmword ptr [r9], xmm0
    paddq xmm0, xmm1
    add r9, 16
    cmp r9, rcx
    jb 4b
    movq qword ptr [r9], xmm0
    ret
5:  mov r10, r9
    mov r9, qword ptr gs:[P_SELF]
    add r9, P_SCRATCH
    mov rsi, r9
    call fill_scalar
    mov rdi, r10
    mov ecx, 512
    rep movsq
    ret

fill_scalar:
    lea rcx, [r9 + 4096]
2:  mov qword ptr [r9], rax
    add rax, rdx
    mov qword ptr [r9 + 8], rax
    add rax, rdx
    add r9, 16
    cmp r9, rcx
    jb 2b
    ret

# XMM0 = words RAX and RAX + RDX; XMM1 = two steps in both halves. Changes R8.
vector_words:
    movq xmm0, rax
    lea r8, [rax + rdx]
    movq xmm2, r8
    punpcklqdq xmm0, xmm2
    lea r8, [rdx + rdx]
    movq xmm1, r8
    punpcklqdq xmm1, xmm1
    ret

# Verifies that the page at R9 holds words RAX + i * RDX. Returns if so; else R9 = address of the
# first other word, RDX = expected, RCX = found, and carry set.
check_words:
    mov r10, r9
    call vector_words
    pxor xmm3, xmm3
    lea rcx, [r9 + 4096]
2:  movdqa xmm2, xmmword ptr [r9]
    pxor xmm2, xmm0
    por xmm3, xmm2
    paddq xmm0, xmm1
    movdqa xmm2, xmmword ptr [r9 + 16]
    pxor xmm2, xmm0
    por xmm3, xmm2
    paddq xmm0, xmm1
    movdqa xmm2, xmmword ptr [r9 + 32]
    pxor xmm2, xmm0
    por xmm3, xmm2
    paddq xmm0, xmm1
    movdqa xmm2, xmmword ptr [r9 + 48]
    pxor xmm2, xmm0
    por xmm3, xmm2
    paddq xmm0, xmm1
    add r9, 64
    cmp r9, rcx
    jb 2b
    pxor xmm2, xmm2
    pcmpeqb xmm3, xmm2
    pmovmskb r8d, xmm3
    cmp r8d, 0xffff
    jne 3f
    clc
    ret
3:  mov r9, r10
    mov r8d, 512
4:  mov r11, qword ptr [r9]
    cmp r11, rax
    jne 5f
    add rax, rdx
    add r9, 8
    dec r8d
    jnz 4b
# All words are right now: the difference came and went.
    mov r11, rax
5:  mov rdx, rax
    mov rcx, r11
    stc
    ret

# R9 = address of the page that is RDI'th in a lap of the slice of the vCPU at RBX. Changes RAX, RDX.
page_address:
    mov eax, STRIDE
    mul rdi
    div qword ptr [rbx + P_SLICE_COUNT]
    shl rdx, 12
    add rdx, qword ptr [rbx + P_SLICE_ADDRESS]
    mov r9, rdx
    ret

# Fills the RDI'th page of the slice of the vCPU at RBX for lap RSI.
fill_page:
    call page_address
    mov rdi, r9
    shr rdi, 12
    call page_words
    jmp fill_words

# Verifies the RDI'th page of the slice at RBX against the lap that wrote it last.
check_page:
    mov rsi, qword ptr [rbx + P_SLICE_LAP]
    cmp rdi, qword ptr [rbx + P_SLICE_CURSOR]
    jb 2f
    dec rsi
2:  call page_address
    mov rdi, r9
    shr rdi, 12
    call page_words
    call check_words
    jc 3f
    inc qword ptr gs:[P_PAGES_OK]
    jmp check_tsc
3:  mov rsi, r9
    failing CHECK_MEMORY

# The TSC never goes backwards on this vCPU.
check_tsc:
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov rdx, qword ptr gs:[P_TSC_LAST]
    mov qword ptr gs:[P_TSC_LAST], rax
    cmp rax, rdx
    jae 2f
    test dword ptr [PARAMETER_FLAGS], FLAG_TSC_UNPROMISED
    jnz 2f
    mov rcx, rax
    xor esi, esi
    failing CHECK_TSC
2:  ret

# Writes the whole slice of this vCPU: lap 0.
fill_slice:
    push rbx
    push r12
    mov rbx, qword ptr gs:[P_SELF]
    xor r12d, r12d
2:  mov rdi, r12
    xor esi, esi
    call fill_page
    inc r12
    cmp r12, qword ptr [rbx + P_SLICE_COUNT]
    jb 2b
    pop r12
    pop rbx
    ret

# Rewrites this round's share of the slice of this vCPU, each page verified just before.
write_slice:
    push rbx
    push r12
    mov rbx, qword ptr gs:[P_SELF]
    mov rax, qword ptr [PARAMETER_PAGES_PER_ROUND]
    call share
    mov r12, rax
2:  mov rdi, qword ptr [rbx + P_SLICE_CURSOR]
    call check_page
    mov rdi, qword ptr [rbx + P_SLICE_CURSOR]
    mov rsi, qword ptr [rbx + P_SLICE_LAP]
    call fill_page
    mov rax, qword ptr [rbx + P_SLICE_CURSOR]
    inc rax
    cmp rax, qword ptr [rbx + P_SLICE_COUNT]
    jb 3f
    inc qword ptr [rbx + P_SLICE_LAP]
    xor eax, eax
3:  mov qword ptr [rbx + P_SLICE_CURSOR], rax
    dec r12
    jnz 2b
    pop r12
    pop rbx
    ret

# Verifies this round's share, RAX pages (0: all), of the slice of the vCPU at RBX.
check_slice:
    push r12
    test rax, rax
    jz 2f
    call share
    cmp rax, qword ptr [rbx + P_SLICE_COUNT]
    jb 3f
2:  mov rax, qword ptr [rbx + P_SLICE_COUNT]
3:  mov r12, rax
4:  mov rdi, qword ptr [rbx + P_SLICE_CHECKED]
    lea rax, [rdi + 1]
    cmp rax, qword ptr [rbx + P_SLICE_COUNT]
    jb 5f
    xor eax, eax
5:  mov qword ptr [rbx + P_SLICE_CHECKED], rax
    call check_page
    dec r12
    jnz 4b
    pop r12
    ret

# RAX divided among the vCPUs, rounded up.
share:
    mov rcx, qword ptr [PARAMETER_VCPUS]
    lea rax, [rax + rcx - 1]
    xor edx, edx
    div rcx
    ret

# One page of the slice at RBX, seen through the window.
check_window:
    mov rdi, qword ptr [rbx + P_SLICE_CHECKED]
    push rdi
    call page_address
    pop rdi
    mov rsi, qword ptr [rbx + P_SLICE_LAP]
    cmp rdi, qword ptr [rbx + P_SLICE_CURSOR]
    jb 2f
    dec rsi
2:  push r9
    mov rdi, r9
    shr rdi, 12
    call page_words
    pop rdi
    push rax
    push rdx
    service SERVICE_MAP_WINDOW
    mov r9, rax
    pop rdx
    pop rax
    call check_words
    jc 3f
# The page walker has marked the page as read and not as written; writing a word as it was marks it.
    mov rcx, qword ptr gs:[P_INDEX]
    lea r10, [rcx * 8 + WINDOW_TABLES + 0x1000]
    mov edx, 0x20
    mov rcx, qword ptr [r10]
    and ecx, 0x60
    cmp ecx, edx
    jne 4f
    mov rax, qword ptr [r9 - 8]
    mov qword ptr [r9 - 8], rax
    mov edx, 0x60
    mov rcx, qword ptr [r10]
    and ecx, edx
    cmp ecx, edx
    jne 4f
    ret
3:  mov rsi, r9
    failing CHECK_WINDOW
4:  mov rsi, r10
    failing CHECK_WINDOW
