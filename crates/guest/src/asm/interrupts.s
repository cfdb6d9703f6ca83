# Interrupt handlers. Each changes only what it saves, never a vector register, and counts.

    .balign 4
interrupt_handlers:
    .long VECTOR_RTC, rtc_interrupt - ferry_guest_start
    .long VECTOR_LAPIC_TIMER, lapic_timer_interrupt - ferry_guest_start
    .long VECTOR_PIT, pit_interrupt - ferry_guest_start
    .long VECTOR_HPET, hpet_interrupt - ferry_guest_start
    .long VECTOR_SERIAL, serial_interrupt - ferry_guest_start
    .long VECTOR_DISK, disk_interrupt - ferry_guest_start
    .long VECTOR_SELF, self_interrupt - ferry_guest_start
    .long VECTOR_COMMAND, command_interrupt - ferry_guest_start
    .long VECTOR_DONE + 1, done_interrupt_1 - ferry_guest_start
    .long VECTOR_DONE + 2, done_interrupt_2 - ferry_guest_start
    .long VECTOR_DONE + 3, done_interrupt_3 - ferry_guest_start
    .long VECTOR_SPURIOUS, spurious_interrupt - ferry_guest_start
    .long 0, 0

# A tick of the timer at RDI. Changes RAX, RDX.
count_tick:
    call read_reference
    inc qword ptr [rdi + TICK_COUNT]
    mov qword ptr [rdi + TICK_STAMP], rax
    cmp qword ptr [rdi + TICK_COUNT], 1
    jne 2f
    mov qword ptr [rdi + TICK_FIRST], rax
2:  ret

lapic_timer_interrupt:
    push rdi
    mov rdi, qword ptr gs:[P_SELF]
    add rdi, P_TICK
    jmp tick

pit_interrupt:
    push rdi
    lea rdi, [rip + pit_tick]
    jmp tick

hpet_interrupt:
    push rdi
    lea rdi, [rip + hpet_tick]

tick:
    push rax
    push rdx
    call count_tick
    pop rdx
    mov eax, LAPIC_EOI
    mov dword ptr [rax], 0
    pop rax
    pop rdi
    iretq

# By way of both i8259s; the RTC holds its line until register C is read.
rtc_interrupt:
    push rax
    push rdx
    push rdi
    lea rdi, [rip + rtc_tick]
    call count_tick
    mov al, 0x0c
    out 0x70, al
    in al, 0x71
    mov al, 0x20
    out 0xa0, al
    out 0x20, al
    pop rdi
    pop rdx
    pop rax
    iretq

    .macro counting_interrupt name, counter
\name:
    push rax
    inc qword ptr gs:[\counter]
    mov eax, LAPIC_EOI
    mov dword ptr [rax], 0
    pop rax
    iretq
    .endm

    counting_interrupt self_interrupt, P_SELF_RECEIVED
    counting_interrupt command_interrupt, P_COMMANDS
    counting_interrupt done_interrupt_1, P_DONES + 8
    counting_interrupt done_interrupt_2, P_DONES + 16
    counting_interrupt done_interrupt_3, P_DONES + 24

# The local APIC sets no in-service bit for it, so there is nothing to end.
spurious_interrupt:
    iretq

stray_interrupt:
    mov rsi, qword ptr [rsp]
    xor edx, edx
    xor ecx, ecx
    failing CHECK_STRAY_INTERRUPT

# The transmitter is empty: up to a FIFO's worth of the line being sent.
serial_interrupt:
    push rax
    push rcx
    push rdx
    push rsi
    mov edx, SERIAL_PORT + 2
    in al, dx
    mov edx, SERIAL_PORT + 5
    in al, dx
    test al, 0x20
    jz 4f
    mov rsi, qword ptr [rip + serial_next]
    mov ecx, 16
2:  cmp rsi, qword ptr [rip + serial_end]
    jae 3f
    mov edx, SERIAL_PORT
    mov al, byte ptr [rsi]
    out dx, al
    inc rsi
    dec ecx
    jnz 2b
3:  mov qword ptr [rip + serial_next], rsi
    cmp rsi, qword ptr [rip + serial_end]
    jb 4f
    mov edx, SERIAL_PORT + 1
    xor eax, eax
    out dx, al
4:  mov eax, LAPIC_EOI
    mov dword ptr [rax], 0
    pop rsi
    pop rdx
    pop rcx
    pop rax
    iretq

disk_interrupt:
    push rax
    push rdx
    mov edx, DISK_REGISTERS
    mov eax, dword ptr [rdx + 0x60]
    mov dword ptr [rdx + 0x64], eax
    test al, 1
    jz 2f
    inc qword ptr [rip + disk_interrupts]
2:  mov eax, LAPIC_EOI
    mov dword ptr [rax], 0
    pop rdx
    pop rax
    iretq
