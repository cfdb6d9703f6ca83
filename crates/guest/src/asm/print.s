# Lines for the serial port: built in a buffer, sent by interrupt or by polling. Used in both rings.

serial_begin:
    mov edx, SERIAL_PORT + 1
    xor eax, eax
    out dx, al
    mov edx, SERIAL_PORT + 3
    mov al, 0x80
    out dx, al
    mov edx, SERIAL_PORT
    mov al, 1
    out dx, al
    mov edx, SERIAL_PORT + 1
    xor eax, eax
    out dx, al
    mov edx, SERIAL_PORT + 3
    mov al, 0x03
    out dx, al
    mov edx, SERIAL_PORT + 2
    mov al, 0x07
    out dx, al
    mov edx, SERIAL_PORT + 4
    mov al, 0x0b
    out dx, al
    mov edx, SERIAL_PORT + 7
    mov al, 0x5a
    out dx, al
    ret

# RDI is the end of the line being built, and moves on.
line_begin:
    lea rdi, [rip + line]
    ret

# Text at RSI, ended by a zero byte.
put_text:
    mov al, byte ptr [rsi]
    test al, al
    jz 2f
    mov byte ptr [rdi], al
    inc rsi
    inc rdi
    jmp put_text
2:  ret

# RAX in decimal.
put_decimal:
    push rbx
    mov ebx, 10
    xor ecx, ecx
2:  xor edx, edx
    div rbx
    add edx, '0'
    push rdx
    inc ecx
    test rax, rax
    jnz 2b
3:  pop rdx
    mov byte ptr [rdi], dl
    inc rdi
    dec ecx
    jnz 3b
    pop rbx
    ret

# RAX as 0x and its hexadecimal digits.
put_hexadecimal:
    mov word ptr [rdi], 0x7830
    add rdi, 2
    mov ecx, 16
2:  cmp ecx, 1
    je 3f
    rol rax, 4
    dec ecx
    test al, 0x0f
    jz 2b
    ror rax, 4
    inc ecx
3:  rol rax, 4
    mov edx, eax
    and edx, 0x0f
    cmp edx, 10
    jb 4f
    add edx, 'a' - '0' - 10
4:  add edx, '0'
    mov byte ptr [rdi], dl
    inc rdi
    dec ecx
    jnz 3b
    ret

# Ends the line at RDI and sends it without interrupts.
line_send_polled:
    lea rsi, [rip + line]
# The same for a line that begins at RSI.
line_send_from:
    mov byte ptr [rdi], 0x0a
    inc rdi
2:  mov edx, SERIAL_PORT + 5
3:  in al, dx
    test al, 0x20
    jz 3b
    mov edx, SERIAL_PORT
    mov al, byte ptr [rsi]
    out dx, al
    inc rsi
    cmp rsi, rdi
    jb 2b
    ret

# Ends the line at RDI and sends it: the transmitter's interrupt does the work, ring 3 waits for it.
line_send:
    test dword ptr [PARAMETER_FLAGS], FLAG_SERIAL_POLLED
    jnz line_send_polled
    push rbx
    push r12
    mov byte ptr [rdi], 0x0a
    inc rdi
    lea rsi, [rip + line]
    mov qword ptr [rip + serial_next], rsi
    mov qword ptr [rip + serial_end], rdi
    mov edx, SERIAL_PORT + 1
    mov al, 2
    out dx, al
    mov ebx, WAKE_LIMIT
2:  mov rsi, qword ptr [rip + serial_next]
    mov r12, rsi
    cmp rsi, qword ptr [rip + serial_end]
    jae 4f
    lea rdi, [rip + serial_next]
    service SERVICE_HALT
    cmp r12, qword ptr [rip + serial_next]
    jne 3f
    dec ebx
    jnz 2b
    mov rdx, qword ptr [rip + serial_end]
    mov rcx, r12
    lea rsi, [rip + line]
    failing CHECK_SERIAL
3:  mov ebx, WAKE_LIMIT
    jmp 2b
4:  pop r12
    pop rbx
    ret

    .macro text string
    lea rsi, [rip + 771f]
    call put_text
    jmp 772f
771:
    .asciz "\string"
772:
    .endm

    .macro decimal value
    mov rax, \value
    call put_decimal
    .endm

    .macro hexadecimal value
    mov rax, \value
    call put_hexadecimal
    .endm

print_start:
    call line_begin
    text "ferry guest 1: memory "
    decimal "qword ptr [PARAMETER_MEMORY_BYTES]"
    text ", work area "
    hexadecimal "qword ptr [PARAMETER_WORK_ADDRESS]"
    text " pages "
    decimal "qword ptr [PARAMETER_WORK_PAGES]"
    text ", vcpus "
    decimal "qword ptr [PARAMETER_VCPUS]"
    text ", rounds "
    decimal "qword ptr [PARAMETER_ROUNDS]"
    text ", seed "
    hexadecimal "qword ptr [PARAMETER_SEED]"
    text ", tsc khz "
    decimal "qword ptr [rip + tsc_khz]"
    jmp line_send_polled

# The counts at the end of every line: ticks, interprocessor interrupts, disk, TSC.
put_counts:
    push rbx
    push r12
    xor ebx, ebx
    mov r12, qword ptr [PARAMETER_VCPUS]
    mov ecx, PER_VCPU
2:  add rbx, qword ptr [rcx + P_TICK + TICK_COUNT]
    add rcx, PER_VCPU_SIZE
    dec r12
    jnz 2b
    text "ticks "
    mov rax, rbx
    add rax, qword ptr [rip + pit_tick + TICK_COUNT]
    add rax, qword ptr [rip + hpet_tick + TICK_COUNT]
    add rax, qword ptr [rip + rtc_tick + TICK_COUNT]
    call put_decimal
    text " lapic "
    decimal rbx
    text " pit "
    decimal "qword ptr [rip + pit_tick + TICK_COUNT]"
    text " hpet "
    decimal "qword ptr [rip + hpet_tick + TICK_COUNT]"
    text " rtc "
    decimal "qword ptr [rip + rtc_tick + TICK_COUNT]"
    text ", ipis "
    call count_ipis
    call put_decimal
    text ", disk "
    decimal "qword ptr [rip + disk_requests]"
    text ", faults "
    call count_faults
    call put_decimal
    text ", tsc "
    rdtsc
    shl rdx, 32
    or rax, rdx
    call put_hexadecimal
    pop r12
    pop rbx
    ret

# RAX = IPIs received by all vCPUs.
count_ipis:
    xor eax, eax
    mov ecx, PER_VCPU
    mov edx, dword ptr [PARAMETER_VCPUS]
2:  add rax, qword ptr [rcx + P_SELF_RECEIVED]
    add rax, qword ptr [rcx + P_COMMANDS]
    add rax, qword ptr [rcx + P_DONES + 8]
    add rax, qword ptr [rcx + P_DONES + 16]
    add rax, qword ptr [rcx + P_DONES + 24]
    add ecx, PER_VCPU_SIZE
    dec edx
    jnz 2b
    ret

# RAX = provoked exceptions of all vCPUs.
count_faults:
    xor eax, eax
    mov ecx, PER_VCPU
    mov edx, dword ptr [PARAMETER_VCPUS]
2:  add rax, qword ptr [rcx + P_FAULTS]
    add ecx, PER_VCPU_SIZE
    dec edx
    jnz 2b
    ret

# RAX = pages verified by all vCPUs.
count_pages:
    xor eax, eax
    mov ecx, PER_VCPU
    mov edx, dword ptr [PARAMETER_VCPUS]
2:  add rax, qword ptr [rcx + P_PAGES_OK]
    add ecx, PER_VCPU_SIZE
    dec edx
    jnz 2b
    ret

print_round:
    call line_begin
    text "round "
    decimal "qword ptr [rip + round]"
    text ": "
    call count_pages
    call put_decimal
    text " pages ok, "
    call put_counts
    jmp line_send

print_pass:
    call line_begin
    text "PASS rounds "
    decimal "qword ptr [rip + round]"
    text ": "
    call count_pages
    call put_decimal
    text " pages ok, "
    call put_counts
    jmp line_send
