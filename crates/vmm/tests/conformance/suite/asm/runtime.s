# What every program stands on: macros, interrupt entry, records. Ring 0 is simple integer code all
# through: some hosts' KVM interprets it instruction by instruction and knows no other.
# Intel syntax. Numeric labels avoid 0 and 1, which would read as binary literals.

    .set IDT, {idt}
    .set GDT, {gdt}
    .set TASKS, {tasks}
    .set TASK_SIZE, {task_size}
    .set PAGE_TABLES, {page_tables}
    .set SPARE_TABLES, {spare_tables}
    .set VARIABLES, {variables}
    .set IMAGE, {image}
    .set STACKS, {stacks}
    .set STACK_SIZE, {stack_size}
    .set SCRATCH, {scratch}
    .set RESULTS, {results}
    .set RECORDS, {records}
    .set RECORD_SIZE, {record_size}
    .set RESULTS_END, {results_end}
    .set LARGE, {large}
    .set CODE, {code}
    .set DATA, {data}
    .set CODE_32, {code_32}
    .set USER_CODE_32, {user_code_32}
    .set USER_DATA, {user_data}
    .set USER_CODE, {user_code}
    .set TASK, {task}
    .set SPARE_DESCRIPTORS, {spare_descriptors}
    .set GDT_SIZE, {gdt_size}

    .set EXIT_PORT, 0xf4
    .set EXIT_DONE, 0
    .set EXIT_UNEXPECTED, 0xee
    .set EXIT_FULL, 0xef

# Stacks of vCPU 0.
    .set STACK_TOP, STACKS + 0x1000
    .set RING_0_STACK_TOP, STACKS + 0x2000
    .set FAULT_STACK_TOP, STACKS + 0x3000
    .set USER_STACK_TOP, STACKS + 0x4000

# Variables.
    .set HOOK, VARIABLES
    .set FAULT_RESUME, VARIABLES + 0x08
    .set KERNEL_RSP, VARIABLES + 0x10
    .set AP_ENTRY, VARIABLES + 0x18
    .set TABLE_REGISTER, VARIABLES + 0x20
    .set FAULT_VECTOR, VARIABLES + 0x40
    .set FAULT_ERROR, VARIABLES + 0x48
    .set FAULT_RIP, VARIABLES + 0x50
    .set FAULT_CS, VARIABLES + 0x58
    .set FAULT_RFLAGS, VARIABLES + 0x60
    .set FAULT_RSP, VARIABLES + 0x68
    .set FAULT_SS, VARIABLES + 0x70
    .set FAULT_ADDRESS, VARIABLES + 0x78
# Programs' own, zero at the start.
    .set OWN, VARIABLES + 0x100
# How often each vector was taken, counted by the hooks below.
    .set TAKEN, VARIABLES + 0x800

# An interrupt's frame as hooks see it, at RDI.
    .set FRAME_VECTOR, 0x00
    .set FRAME_ERROR, 0x08
    .set FRAME_RIP, 0x10
    .set FRAME_CS, 0x18
    .set FRAME_RFLAGS, 0x20
    .set FRAME_RSP, 0x28
    .set FRAME_SS, 0x30

    .set SERVICE_LEAVE, 0x1eaf

# Vectors.
    .set VECTOR_DE, 0
    .set VECTOR_DB, 1
    .set VECTOR_NMI, 2
    .set VECTOR_BP, 3
    .set VECTOR_OF, 4
    .set VECTOR_UD, 6
    .set VECTOR_NM, 7
    .set VECTOR_DF, 8
    .set VECTOR_NP, 11
    .set VECTOR_SS, 12
    .set VECTOR_GP, 13
    .set VECTOR_PF, 14
    .set VECTOR_MF, 16
    .set VECTOR_XM, 19

# Flags.
    .set CF, 0x001
    .set PF, 0x004
    .set AF, 0x010
    .set ZF, 0x040
    .set SF, 0x080
    .set IF, 0x200
    .set DF, 0x400
    .set OF, 0x800

# A program: code that ends with `done`.
    .macro program name
    .balign 16
    .globl ferry_conformance_\name
    .hidden ferry_conformance_\name
ferry_conformance_\name:
    .endm

    .macro done
    jmp finish
    .endm

# Records \actual (a 64-bit register or memory) and that it is to be \wanted (a constant). Changes
# nothing but the stack below RSP. The text of both follows the call, for whoever reads a failure.
    .macro expect actual, wanted
    push \actual
    push rax
    movabs rax, \wanted
    xchg rax, qword ptr [rsp]
    call record_expectation
    jmp .Lexpect\@
    .asciz "\actual == \wanted"
.Lexpect\@:
    .endm

# Records \actual: the harness knows what it is to be, or compares the accelerators.
    .macro observe actual
    push \actual
    push rax
    call record_observation
    jmp .Lobserve\@
    .asciz "\actual"
.Lobserve\@:
    .endm

# Runs one instruction that is to fault at its own address with this vector and error code, and
# goes on after it. Changes only what the instruction does.
    .macro expect_fault vector, error, instruction:vararg
    call fault_begin
    .quad .Lafter\@ - .Lhere\@
.Lhere\@:
    \instruction
.Lafter\@:
    call fault_end
    expect "qword ptr [FAULT_VECTOR]", \vector
    expect "qword ptr [FAULT_ERROR]", \error
    push rax
    pushfq
    lea rax, [rip + .Lhere\@]
    sub rax, qword ptr [FAULT_RIP]
    expect rax, 0
    popfq
    pop rax
    .endm

# As above, for a page fault at this address.
    .macro expect_page_fault error, address, instruction:vararg
    expect_fault VECTOR_PF, \error, \instruction
    expect "qword ptr [FAULT_ADDRESS]", \address
    .endm

# Goes on in ring 3 with these flags, and back. Both change RAX.
    .macro enter_ring_3 flags=2
    mov qword ptr [KERNEL_RSP], rsp
    push USER_DATA
    push USER_STACK_TOP
    push \flags
    push USER_CODE
    lea rax, [rip + .Lring3\@]
    push rax
    iretq
.Lring3\@:
    .endm

    .macro leave_ring_3
    mov eax, SERVICE_LEAVE
    int3
    .endm

# Interrupts and exceptions go to a routine with the frame at RDI; it may change RAX, RCX, RDX, RSI,
# RDI, R8 to R11. Changes RAX.
    .macro hook routine
    lea rax, [rip + \routine]
    mov qword ptr [HOOK], rax
    .endm

    .macro unhook
    mov qword ptr [HOOK], 0
    .endm

# MSR \number = \value; changes RAX, RCX, RDX.
    .macro write_msr number, value
    mov ecx, \number
    movabs rax, \value
    mov rdx, rax
    shr rdx, 32
    wrmsr
    .endm

# RAX = MSR \number; changes RCX, RDX.
    .macro read_msr number
    mov ecx, \number
    rdmsr
    shl rdx, 32
    mov eax, eax
    or rax, rdx
    .endm

    .text
    .section .rodata.ferry_conformance, "a", @progbits
    .balign 4096
    .globl ferry_conformance_start
    .hidden ferry_conformance_start
ferry_conformance_start:
# Start-up of the second vCPU, from the start-up IPI in real mode to 64-bit mode at AP_ENTRY.
    .code16
trampoline:
    cli
    cld
    mov ax, cs
    mov ds, ax
# lgdt [trampoline_table], an offset in the page that CS and DS name.
    .byte 0x0f, 0x01, 0x16
    .word trampoline_table - ferry_conformance_start
    mov eax, cr0
    or al, 1
    mov cr0, eax
# Far jump with a 32-bit offset.
    .byte 0x66, 0xea
    .long trampoline_32 - ferry_conformance_start + IMAGE
    .word CODE_32

    .balign 4
trampoline_table:
    .word GDT_SIZE - 1
    .long GDT

    .code32
trampoline_32:
    mov eax, DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, 0x620
    mov cr4, eax
    mov eax, PAGE_TABLES
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, 0x80010033
    mov cr0, eax
    .byte 0xea
    .long trampoline_64 - ferry_conformance_start + IMAGE
    .word CODE

    .code64
trampoline_64:
    mov esp, STACK_TOP + STACK_SIZE
    mov word ptr [TABLE_REGISTER], 256 * 16 - 1
    mov qword ptr [TABLE_REGISTER + 2], IDT
    lidt [TABLE_REGISTER]
# The task is busy if this is not the first start.
    mov byte ptr [GDT + TASK + 16 + 5], 0x89
    mov eax, TASK + 16
    ltr ax
    jmp qword ptr [AP_ENTRY]

# The end of every program: all went as the program wanted to go on, which is not to say that every
# record is right.
finish:
    mov al, EXIT_DONE
    out EXIT_PORT, al
2:  hlt
    jmp 2b

# On the stack: return address, then RAX or the value wanted, then the actual value, all removed.
record_observation:
    push rax
    push rdi
    pushfq
    cld
    mov rdi, qword ptr [RESULTS]
    inc qword ptr [RESULTS]
    shl rdi, 5
    add rdi, RECORDS
    cmp rdi, RESULTS_END - RECORD_SIZE
    jae no_room
    mov rax, qword ptr [rsp + 24]
    mov qword ptr [rdi], rax
    mov qword ptr [rdi + 8], 0
    mov rax, qword ptr [rsp + 40]
    mov qword ptr [rdi + 16], rax
    mov qword ptr [rdi + 24], 0
    popfq
    pop rdi
    pop rax
    ret 16

record_expectation:
    push rax
    push rdi
    pushfq
    mov rdi, qword ptr [RESULTS]
    inc qword ptr [RESULTS]
    shl rdi, 5
    add rdi, RECORDS
    cmp rdi, RESULTS_END - RECORD_SIZE
    jae no_room
    mov rax, qword ptr [rsp + 24]
    mov qword ptr [rdi], rax
    mov qword ptr [rdi + 8], 1
    mov rax, qword ptr [rsp + 40]
    mov qword ptr [rdi + 16], rax
    mov rax, qword ptr [rsp + 32]
    mov qword ptr [rdi + 24], rax
    popfq
    pop rdi
    pop rax
    ret 16

no_room:
    mov al, EXIT_FULL
    out EXIT_PORT, al
2:  hlt
    jmp 2b

# After the call: how far it is from the instruction, which follows, to where to go on.
fault_begin:
    push rax
    push rbx
    pushfq
    mov qword ptr [FAULT_VECTOR], -1
    mov qword ptr [FAULT_ERROR], -1
    mov qword ptr [FAULT_ADDRESS], -1
    mov rbx, qword ptr [rsp + 24]
    mov rax, qword ptr [rbx]
    add rbx, 8
    add rax, rbx
    mov qword ptr [FAULT_RESUME], rax
    mov qword ptr [rsp + 24], rbx
    popfq
    pop rbx
    pop rax
    ret

fault_end:
    mov qword ptr [FAULT_RESUME], 0
    ret

# Entry of every vector: 16 bytes each, with the frame of `FRAME_VECTOR` and on.
    .balign 16
    .globl ferry_conformance_vectors
    .hidden ferry_conformance_vectors
ferry_conformance_vectors:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17)
    .else
    push 0
    .endif
    push vector
    jmp interrupt
    .set vector, vector + 1
    .endr

    .balign 16
interrupt:
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    cld
    lea rdi, [rsp + 9 * 8]
# From ring 3 by int3: back to ring 0, if that is what it asks for.
    cmp qword ptr [rdi + FRAME_VECTOR], VECTOR_BP
    jne 2f
    cmp rax, SERVICE_LEAVE
    jne 2f
    test byte ptr [rdi + FRAME_CS], 3
    jz 2f
    mov qword ptr [rdi + FRAME_CS], CODE
    mov qword ptr [rdi + FRAME_SS], DATA
    mov rax, qword ptr [KERNEL_RSP]
    mov qword ptr [rdi + FRAME_RSP], rax
    jmp interrupt_return
2:  cmp qword ptr [HOOK], 0
    je 3f
    call qword ptr [HOOK]
    jmp interrupt_return
3:  cmp qword ptr [FAULT_RESUME], 0
    je unexpected
    call store_fault
interrupt_return:
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq

# Keeps what happened and goes on where `fault_begin` was told to.
store_fault:
    mov rax, qword ptr [rdi + FRAME_VECTOR]
    mov qword ptr [FAULT_VECTOR], rax
    mov rax, qword ptr [rdi + FRAME_ERROR]
    mov qword ptr [FAULT_ERROR], rax
    mov rax, qword ptr [rdi + FRAME_RIP]
    mov qword ptr [FAULT_RIP], rax
    mov rax, qword ptr [rdi + FRAME_CS]
    mov qword ptr [FAULT_CS], rax
    mov rax, qword ptr [rdi + FRAME_RFLAGS]
    mov qword ptr [FAULT_RFLAGS], rax
    mov rax, qword ptr [rdi + FRAME_RSP]
    mov qword ptr [FAULT_RSP], rax
    mov rax, qword ptr [rdi + FRAME_SS]
    mov qword ptr [FAULT_SS], rax
    mov rax, cr2
    mov qword ptr [FAULT_ADDRESS], rax
    mov rax, qword ptr [FAULT_RESUME]
    mov qword ptr [rdi + FRAME_RIP], rax
    mov qword ptr [FAULT_RESUME], 0
    ret

# Nobody asked for it: the frame goes where the harness looks.
unexpected:
    mov rax, qword ptr [rdi + FRAME_VECTOR]
    mov qword ptr [RESULTS + 0x08], rax
    mov rax, qword ptr [rdi + FRAME_ERROR]
    mov qword ptr [RESULTS + 0x10], rax
    mov rax, qword ptr [rdi + FRAME_RIP]
    mov qword ptr [RESULTS + 0x18], rax
    mov rax, cr2
    mov qword ptr [RESULTS + 0x20], rax
    mov rax, qword ptr [rdi + FRAME_CS]
    mov qword ptr [RESULTS + 0x28], rax
    mov rax, qword ptr [rdi + FRAME_SS]
    mov qword ptr [RESULTS + 0x30], rax
    mov al, EXIT_UNEXPECTED
    out EXIT_PORT, al
2:  hlt
    jmp 2b
