# Registers of the processor and of the devices that keep their value once the guest is set up:
# each is recorded once, and compared in every round. A row of a table: kind, flags that must be
# set, flags that must not be set (as words), address, mask of the bits that do not change.

    .set HELD_END, 0
    .set HELD_MSR, 1
    .set HELD_MMIO, 2
    .set HELD_PORT, 3
    .set HELD_IOAPIC_FIRST, 4
    .set HELD_IOAPIC_SECOND, 5
    .set HELD_CMOS, 6
    .set HELD_PIT, 7
    .set HELD_CPUID, 8
    .set HELD_SYSTEM, 9

    .macro held kind, address, mask=-1, with=0, without=0
    .word \kind, \with, \without, 0
    .quad \address, \mask
    .endm

    .balign 8
held_vcpu:
    held HELD_SYSTEM, 0
    held HELD_SYSTEM, 1
    held HELD_SYSTEM, 2
    held HELD_SYSTEM, 3
    held HELD_SYSTEM, 4
    held HELD_SYSTEM, 5
    held HELD_SYSTEM, 6
    held HELD_SYSTEM, 7
    held HELD_SYSTEM, 8
    held HELD_SYSTEM, 9
    held HELD_SYSTEM, 10
    held HELD_SYSTEM, 11
    held HELD_MSR, 0xc0000080
    held HELD_MSR, 0xc0000081
    held HELD_MSR, 0xc0000082
    held HELD_MSR, 0xc0000083
    held HELD_MSR, 0xc0000084
    held HELD_MSR, 0xc0000100
    held HELD_MSR, 0xc0000101
    held HELD_MSR, 0xc0000102
    held HELD_MSR, 0x174
    held HELD_MSR, 0x175
    held HELD_MSR, 0x176
    held HELD_MSR, 0x1b
    held HELD_MSR, 0x277
    held HELD_MMIO, LAPIC_ID
    held HELD_MMIO, LAPIC_VERSION
    held HELD_MMIO, LAPIC_TPR
    held HELD_MMIO, LAPIC_LDR
    held HELD_MMIO, LAPIC_DFR
    held HELD_MMIO, LAPIC_SVR
    held HELD_MMIO, LAPIC_LVT_TIMER, ~0x1000
    held HELD_MMIO, LAPIC_LVT_LINT0, ~0x1000
    held HELD_MMIO, LAPIC_LVT_LINT1, ~0x1000
    held HELD_MMIO, LAPIC_LVT_ERROR, ~0x1000
    held HELD_MMIO, LAPIC_TIMER_INITIAL
    held HELD_MMIO, LAPIC_TIMER_DIVIDE
    held HELD_CPUID, 0, -1, 0, FLAG_CPUID_UNPROMISED
    held HELD_CPUID, 1, -1, 0, FLAG_CPUID_UNPROMISED
    held HELD_CPUID, 7, -1, 0, FLAG_CPUID_UNPROMISED
    held HELD_CPUID, 0x80000000, -1, 0, FLAG_CPUID_UNPROMISED
    held HELD_CPUID, 0x80000001, -1, 0, FLAG_CPUID_UNPROMISED
    held HELD_CPUID, 0x80000002, -1, 0, FLAG_CPUID_UNPROMISED
    held HELD_CPUID, 0x80000003, -1, 0, FLAG_CPUID_UNPROMISED
    held HELD_CPUID, 0x80000004, -1, 0, FLAG_CPUID_UNPROMISED
    held HELD_CPUID, 0x80000008, -1, 0, FLAG_CPUID_UNPROMISED
    held HELD_END, 0

# Redirection entries: both halves, without delivery status and remote IRR.
held_board:
    held HELD_IOAPIC_FIRST, 0x00
    held HELD_IOAPIC_FIRST, 0x01
    .set ioapic_register, 0x10
    .rept 24
    held HELD_IOAPIC_FIRST, ioapic_register, ~0x5000
    held HELD_IOAPIC_FIRST, ioapic_register+1
    .set ioapic_register, ioapic_register + 2
    .endr
    held HELD_IOAPIC_SECOND, 0x01, -1, FLAG_DISK
    .set ioapic_register, 0x10
    .rept 24
    held HELD_IOAPIC_SECOND, ioapic_register, ~0x5000, FLAG_DISK
    held HELD_IOAPIC_SECOND, ioapic_register+1, -1, FLAG_DISK
    .set ioapic_register, ioapic_register + 2
    .endr
    held HELD_PORT, 0x21, -1, 0, FLAG_NO_PIC
    held HELD_PORT, 0xa1, -1, 0, FLAG_NO_PIC
    held HELD_PORT, SERIAL_PORT+3
    held HELD_PORT, SERIAL_PORT+4
    held HELD_PORT, SERIAL_PORT+7
    held HELD_PORT, 0x61, 0x03, 0, FLAG_NO_PIT
    held HELD_PIT, 0xe2, 0x3f, 0, FLAG_NO_PIT
    held HELD_PIT, 0xe8, 0x3f, 0, FLAG_NO_PIT
    held HELD_CMOS, 0x0a, 0x7f, 0, FLAG_RTC_UNPROMISED
    held HELD_CMOS, 0x0b, -1, 0, FLAG_RTC_UNPROMISED
    held HELD_CMOS, 0x0d, -1, 0, FLAG_RTC_UNPROMISED
    held HELD_CMOS, 0x5f, -1, 0, FLAG_RTC_UNPROMISED
    held HELD_MMIO, HPET_CAPABILITIES, -1, FLAG_HPET
    held HELD_MMIO, HPET_PERIOD, -1, FLAG_HPET
    held HELD_MMIO, HPET_CONFIGURATION, -1, FLAG_HPET
    held HELD_MMIO, HPET_TIMER, -1, FLAG_HPET
    held HELD_MMIO, HPET_TIMER_ROUTES, -1, FLAG_HPET
    held HELD_MMIO, DISK_REGISTERS, -1, FLAG_DISK
    held HELD_MMIO, DISK_REGISTERS+0x04, -1, FLAG_DISK
    held HELD_MMIO, DISK_REGISTERS+0x08, -1, FLAG_DISK
    held HELD_MMIO, DISK_REGISTERS+0x34, -1, FLAG_DISK
    held HELD_MMIO, DISK_REGISTERS+0x44, -1, FLAG_DISK
    held HELD_MMIO, DISK_REGISTERS+0x70, -1, FLAG_DISK
    held HELD_MMIO, DISK_REGISTERS+0x100, -1, FLAG_DISK
    held HELD_MMIO, DISK_REGISTERS+0x104, -1, FLAG_DISK
    held HELD_END, 0

service_held_record:
    xor r9d, r9d
    jmp held

service_held_compare:
    mov r9d, 1

# R9 = 0 to record, 1 to compare. The board belongs to the first vCPU.
held:
    push rbx
    lea rsi, [rip + held_vcpu]
    mov r8, qword ptr gs:[P_SELF]
    add r8, P_HELD
    call held_walk
    cmp qword ptr gs:[P_INDEX], 0
    jne 2f
    lea rsi, [rip + held_board]
    lea r8, [rip + held_board_values]
    call held_walk
2:  pop rbx
    ret

# Table at RSI, values at R8.
held_walk:
    mov eax, dword ptr [PARAMETER_FLAGS]
    movzx r10d, word ptr [rsi]
    test r10d, r10d
    jz 6f
    mov ecx, eax
    not ecx
    test word ptr [rsi + 2], cx
    jnz 5f
    test word ptr [rsi + 4], ax
    jnz 5f
    mov rdi, qword ptr [rsi + 8]
    cli
    call held_read
    sti
    and rax, qword ptr [rsi + 16]
    test r9d, r9d
    jnz 3f
    mov qword ptr [r8], rax
3:  mov rdx, qword ptr [r8]
    cmp rax, rdx
    je 4f
    mov rcx, rax
    mov rsi, qword ptr [rsi + 8]
    failing CHECK_HELD_REGISTER
4:  add r8, 8
5:  add rsi, 24
    jmp held_walk
6:  ret

# RAX = register RDI of kind R10. System registers: 0 CR0, 1 CR3, 2 CR4, 3 DR7, 4 to 7 DR0 to DR3,
# 8 and 9 the bases of GDT and IDT, 10 TR, 11 LDTR.
held_read:
    cmp r10d, HELD_MMIO
    je held_mmio
    jb held_msr
    cmp r10d, HELD_IOAPIC_FIRST
    jb held_port
    je held_ioapic_first
    cmp r10d, HELD_CMOS
    jb held_ioapic_second
    je held_cmos
    cmp r10d, HELD_CPUID
    jb held_pit
    je held_cpuid
    cmp edi, 4
    jb held_system_control
    cmp edi, 8
    jb held_system_debug
    sub rsp, 16
    cmp edi, 9
    jb 2f
    je 3f
    cmp edi, 11
    jb 4f
    sldt eax
    movzx eax, ax
    jmp 5f
2:  sgdt [rsp]
    mov rax, qword ptr [rsp + 2]
    jmp 5f
3:  sidt [rsp]
    mov rax, qword ptr [rsp + 2]
    jmp 5f
4:  str eax
    movzx eax, ax
5:  add rsp, 16
    ret

held_system_control:
    cmp edi, 1
    jb 2f
    je 3f
    cmp edi, 3
    jb 4f
    mov rax, dr7
    ret
2:  mov rax, cr0
    ret
3:  mov rax, cr3
    ret
4:  mov rax, cr4
    ret

held_system_debug:
    cmp edi, 5
    jb 2f
    je 3f
    cmp edi, 7
    jb 4f
    mov rax, dr3
    ret
2:  mov rax, dr0
    ret
3:  mov rax, dr1
    ret
4:  mov rax, dr2
    ret

held_msr:
    mov ecx, edi
    rdmsr
    shl rdx, 32
    or rax, rdx
    ret

held_mmio:
    mov eax, dword ptr [rdi]
    ret

held_port:
    mov edx, edi
    xor eax, eax
    in al, dx
    ret

held_ioapic_first:
    mov edx, IOAPIC_FIRST
    jmp 2f
held_ioapic_second:
    mov edx, IOAPIC_SECOND
2:  mov dword ptr [rdx], edi
    mov eax, dword ptr [rdx + 0x10]
    ret

held_cmos:
    mov eax, edi
    out 0x70, al
    xor eax, eax
    in al, 0x71
    ret

# Read-back command RDI: the status of one channel, read at that channel's port. Command 0xe2 is
# channel 0, 0xe8 channel 2.
held_pit:
    mov eax, edi
    out 0x43, al
    xor eax, eax
    cmp edi, 0xe2
    jne 2f
    in al, 0x40
    ret
2:  in al, 0x42
    ret

# All four registers of a leaf in one number; a leaf above the greatest is 0.
held_cpuid:
    mov eax, edi
    and eax, 0x80000000
    cpuid
    mov ecx, eax
    xor eax, eax
    cmp edi, ecx
    ja 2f
    mov eax, edi
    xor ecx, ecx
    cpuid
    rol rax, 13
    xor rax, rbx
    rol rax, 13
    xor rax, rcx
    rol rax, 13
    xor rax, rdx
2:  ret
