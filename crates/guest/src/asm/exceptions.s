# The IDT, exceptions, and the services that ring 3 asks for with int3. Neither SYSCALL nor int n
# is used: hosts that interpret ring 0 have neither.

build_interrupt_table:
# 32 exceptions, each with a stub of 16 bytes.
    lea rsi, [rip + exception_stubs]
    xor ecx, ecx
    mov edi, INTERRUPT_TABLE
2:  mov rax, rsi
    mov edx, 0x8e00
    call set_gate
    add rsi, 16
    inc ecx
    cmp ecx, 32
    jb 2b
# All others are strays until the table of handlers says otherwise.
3:  lea rax, [rip + stray_interrupt]
    mov edx, 0x8e00
    call set_gate
    inc ecx
    cmp ecx, 256
    jb 3b
    lea rsi, [rip + interrupt_handlers]
4:  mov ecx, dword ptr [rsi]
    mov eax, dword ptr [rsi + 4]
    add rsi, 8
    add eax, IMAGE
    mov edx, 0x8e00
    call set_gate
    cmp dword ptr [rsi], 0
    jne 4b
# Breakpoints: a trap gate that ring 3 may use and that leaves interrupts on.
    lea rax, [rip + service_entry]
    mov ecx, 3
    mov edx, 0xef00
    call set_gate
# NMI, double fault and machine check on a stack of their own.
    lea rsi, [rip + exception_stubs]
    mov ecx, 2
    lea rax, [rsi + 2 * 16]
    mov edx, 0x8e01
    call set_gate
    mov ecx, 8
    lea rax, [rsi + 8 * 16]
    call set_gate
    mov ecx, 18
    lea rax, [rsi + 18 * 16]

# Gate ECX of the table at RDI: handler RAX (below 64 KiB), attributes and stack number EDX.
set_gate:
    mov r8d, edx
    shl r8, 32
    or rax, r8
    or rax, SELECTOR_CODE << 16
    mov r8d, ecx
    shl r8d, 4
    mov qword ptr [rdi + r8], rax
    mov qword ptr [rdi + r8 + 8], 0
    ret

# Vectors 8, 10 to 14, 17, 21, 29 and 30 push an error code; the others get 0 for one.
    .balign 16
exception_stubs:
    .set vector_number, 0
    .rept 32
    .balign 16
    .if (0x60227d00 >> vector_number) & 1
    .else
    push 0
    .endif
    push vector_number
    jmp exception_common
    .set vector_number, vector_number + 1
    .endr
    .balign 16

# On the stack: vector, error code, RIP, CS, RFLAGS, RSP, SS. If ring 3 provoked it, what it was
# is written down, and ring 3 goes on where it said.
exception_common:
    push rax
    test byte ptr [rsp + 0x20], 3
    jz unexpected_exception
    mov rax, qword ptr gs:[P_FAULT_RESUME]
    test rax, rax
    jz unexpected_exception
    mov qword ptr [rsp + 0x18], rax
    mov rax, qword ptr [rsp + 0x08]
    mov qword ptr gs:[P_FAULT_VECTOR], rax
    mov rax, qword ptr [rsp + 0x10]
    mov qword ptr gs:[P_FAULT_ERROR], rax
    mov rax, cr2
    mov qword ptr gs:[P_FAULT_ADDRESS], rax
    mov qword ptr gs:[P_FAULT_RESUME], 0
    inc qword ptr gs:[P_FAULTS]
    pop rax
    add rsp, 0x10
    iretq

unexpected_exception:
    mov rsi, qword ptr [rsp + 0x18]
    mov rdx, qword ptr [rsp + 0x10]
    mov rcx, qword ptr [rsp + 0x08]
    failing CHECK_EXCEPTION

# EAX = service. It may change what a called function may: RAX, RCX, RDX, RSI, RDI, R8 to R11.
service_entry:
    cmp eax, SERVICES
    jae 2f
    lea r11, [rip + trampoline]
    lea rcx, [rip + services]
    mov eax, dword ptr [rcx + rax * 4]
    add rax, r11
    call rax
    iretq
2:  mov rsi, qword ptr [rsp]
    xor edx, edx
    mov ecx, 3
    failing CHECK_EXCEPTION

    .balign 4
services:
    .long service_halt - ferry_guest_start
    .long service_held_record - ferry_guest_start
    .long service_held_compare - ferry_guest_start
    .long service_sample_clocks - ferry_guest_start
    .long service_map_window - ferry_guest_start
    .long service_disk - ferry_guest_start

# Halts unless the counter at RDI is no longer RSI. A wake-up between the look and the HLT is not
# lost: STI takes effect after HLT has begun.
service_halt:
    cli
    cmp qword ptr [rdi], rsi
    jne 2f
    sti
    hlt
2:  sti
    ret

# Maps the page at RDI at this vCPU's place in the window; returns that place.
service_map_window:
    mov rcx, qword ptr gs:[P_INDEX]
    or rdi, 7
    mov qword ptr [rcx * 8 + WINDOW_TABLES + 0x1000], rdi
    shl ecx, 12
    movabs rax, WINDOW
    add rax, rcx
    invlpg [rax]
    ret
