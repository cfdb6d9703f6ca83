# Local APIC, both IOAPICs, and the i8259 pair, which passes on the RTC's interrupt alone.

lapic_begin:
    mov eax, LAPIC_ID
    mov eax, dword ptr [rax]
    shr eax, 24
    mov qword ptr gs:[P_APIC_ID], rax
    mov eax, LAPIC_TPR
    mov dword ptr [rax], 0
    mov eax, LAPIC_DFR
    mov dword ptr [rax], 0xffffffff
    mov ecx, dword ptr gs:[P_INDEX]
    mov edx, 0x1000000
    shl edx, cl
    mov eax, LAPIC_LDR
    mov dword ptr [rax], edx
    mov eax, LAPIC_SVR
    mov dword ptr [rax], 0x100 | VECTOR_SPURIOUS
    mov eax, LAPIC_LVT_LINT0
    mov dword ptr [rax], LVT_MASKED | VECTOR_MASKED
    mov eax, LAPIC_LVT_LINT1
    mov dword ptr [rax], LVT_MASKED | 0x400
    mov eax, LAPIC_LVT_ERROR
    mov dword ptr [rax], LVT_MASKED | VECTOR_LAPIC_ERROR
    mov eax, LAPIC_TIMER_DIVIDE
    mov dword ptr [rax], 0xb
    mov eax, LAPIC_LVT_TIMER
    mov dword ptr [rax], LVT_MASKED | VECTOR_LAPIC_TIMER
    ret

pic_begin:
    test dword ptr [PARAMETER_FLAGS], FLAG_NO_PIC
    jnz 2f
    mov al, 0x11
    out 0x20, al
    out 0xa0, al
    mov al, VECTOR_PIC
    out 0x21, al
    mov al, VECTOR_PIC + 8
    out 0xa1, al
    mov al, 4
    out 0x21, al
    mov al, 2
    out 0xa1, al
    mov al, 1
    out 0x21, al
    out 0xa1, al
    mov al, 0xff
    out 0x21, al
    out 0xa1, al
    test dword ptr [PARAMETER_FLAGS], FLAG_RTC_UNPROMISED
    jnz 2f
# The slave's first input, the master's third, and this vCPU's LINT0.
    mov al, 0xfb
    out 0x21, al
    mov al, 0xfe
    out 0xa1, al
    mov eax, LAPIC_LVT_LINT0
    mov dword ptr [rax], LVT_EXTERNAL
2:  ret

# Every pin masked, with a vector that tells it apart; then the pins in use.
ioapic_begin:
    mov r8d, IOAPIC_FIRST
    call ioapic_mask
    mov r8d, IOAPIC_FIRST
    test dword ptr [PARAMETER_FLAGS], FLAG_NO_PIT
    jnz 2f
    mov edi, 2
    mov esi, VECTOR_PIT
    call ioapic_route
2:  test dword ptr [PARAMETER_FLAGS], FLAG_SERIAL_POLLED
    jnz 3f
    mov edi, 4
    mov esi, VECTOR_SERIAL
    call ioapic_route
3:  test dword ptr [PARAMETER_FLAGS], FLAG_DISK
    jz 4f
    mov r8d, IOAPIC_SECOND
    call ioapic_mask
    mov edi, 47 - 24
    mov esi, VECTOR_DISK | IOAPIC_LEVEL
    call ioapic_route
4:  ret

ioapic_mask:
    xor edi, edi
2:  lea esi, [rdi + LVT_MASKED + VECTOR_MASKED]
    call ioapic_route
    inc edi
    cmp edi, 24
    jb 2b
    ret

# Pin EDI of the IOAPIC at R8 sends ESI (vector, trigger mode, mask) to this vCPU.
ioapic_route:
    lea eax, [rdi * 2 + 0x11]
    mov dword ptr [r8], eax
    mov eax, dword ptr gs:[P_APIC_ID]
    shl eax, 24
    mov dword ptr [r8 + 0x10], eax
    lea eax, [rdi * 2 + 0x10]
    mov dword ptr [r8], eax
    mov dword ptr [r8 + 0x10], esi
    ret
