# Start-up of the other vCPUs: from the start-up IPI in real mode to 64-bit mode. It has to be the
# first page of the image. No stack is used: several vCPUs may be here at once.

    .section .rodata.ferry_guest, "a", @progbits
    .balign 4096
    .globl ferry_guest_start
    .hidden ferry_guest_start
ferry_guest_start:
    .code16
trampoline:
    cli
    cld
    mov ax, cs
    mov ds, ax
# lgdt [trampoline_table], an offset in the page that CS and DS name.
    .byte 0x0f, 0x01, 0x16
    .word trampoline_table - ferry_guest_start
    mov eax, cr0
    or al, 1
    mov cr0, eax
# Far jump with a 32-bit offset.
    .byte 0x66, 0xea
    .long trampoline_32 - ferry_guest_start + IMAGE
    .word SELECTOR_CODE_32

    .balign 4
trampoline_table:
    .word DESCRIPTORS_SIZE - 1
    .long descriptors - ferry_guest_start + IMAGE

    .code32
trampoline_32:
    mov eax, SELECTOR_DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, CONTROL_4
    mov cr4, eax
    mov eax, PAGE_TABLES
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, CONTROL_0
    mov cr0, eax
    .byte 0xea
    .long trampoline_64 - ferry_guest_start + IMAGE
    .word SELECTOR_CODE

    .code64
trampoline_64:
    mov edi, 1
    lock xadd qword ptr [rip + vcpus_started], rdi
    cmp rdi, qword ptr [PARAMETER_VCPUS]
    jb vcpu_start
# A vCPU that the parameters do not count.
2:  hlt
    jmp 2b
