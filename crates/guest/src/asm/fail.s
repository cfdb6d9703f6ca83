# The end of a guest that found something wrong: one line, the exit device, and nothing more.

# EDI = check, RSI = where, RDX = expected, RCX = found. Never returns. In either ring; the first
# vCPU that comes here speaks, the others stop.
fail:
    mov r8d, 1
    xchg qword ptr [rip + failed], r8
    test r8, r8
    jnz 3f
    mov r9d, edi
    mov r10, rsi
    mov r11, rdx
    mov rbx, rcx
    xor eax, eax
    mov qword ptr [rip + serial_end], rax
# A buffer of its own, and a line of its own: another line may be half sent.
    lea rdi, [rip + fail_line]
    mov byte ptr [rdi], 0x0a
    inc rdi
    text "FAIL round "
    decimal "qword ptr [rip + round]"
    text " vcpu "
    decimal "qword ptr gs:[P_INDEX]"
    text " check "
    lea rsi, [rip + check_names]
    mov ecx, r9d
2:  dec ecx
    jz 4f
5:  inc rsi
    cmp byte ptr [rsi - 1], 0
    jne 5b
    jmp 2b
4:  call put_text
    text ": at "
    hexadecimal r10
    text " expected "
    hexadecimal r11
    text " found "
    hexadecimal rbx
    lea rsi, [rip + fail_line]
    call line_send_from
    mov eax, r9d
    out EXIT_PORT, al
3:  pause
    jmp 3b

# In the order of their numbers.
check_names:
    .asciz "parameters"
    .asciz "exception"
    .asciz "stray-interrupt"
    .asciz "memory"
    .asciz "window"
    .asciz "register"
    .asciz "vector"
    .asciz "x87"
    .asciz "control"
    .asciz "fault"
    .asciz "modified-code"
    .asciz "held-register"
    .asciz "ticks"
    .asciz "timer-stopped"
    .asciz "clock"
    .asciz "tsc"
    .asciz "ipi"
    .asciz "vcpu"
    .asciz "atomic"
    .asciz "disk-request"
    .asciz "disk-data"
    .asciz "disk-interrupt"
    .asciz "serial"
