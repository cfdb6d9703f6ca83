# Exceptions that ring 3 provokes, each with its vector, error code and address; and code that
# rewrites itself. Ring 3.

    .macro provoke
    lea rax, [rip + 773f]
    mov qword ptr gs:[P_FAULT_RESUME], rax
    .endm

# Local label 773 is where the provoked exception goes on.
    .macro provoked vector, error, number
773:
    mov ecx, \vector
    mov edx, \error
    mov esi, \number
    call check_fault
    .endm

provoke_faults:
    push rbx
# Invalid opcode.
    provoke
    ud2
    provoked 6, 0, 1
# Division by zero.
    provoke
    xor edx, edx
    mov eax, 1
    xor ecx, ecx
    div ecx
    provoked 0, 0, 2
# Reads and writes of memory that is not mapped, at another address every time.
    mov rbx, qword ptr gs:[P_GENERATION]
    and ebx, 0xfff
    movabs rax, UNMAPPED
    lea rbx, [rax + rbx * 8]
    provoke
    mov rax, qword ptr [rbx]
    provoked 14, 4, 3
    mov rcx, qword ptr gs:[P_FAULT_ADDRESS]
    mov rdx, rbx
    cmp rcx, rdx
    jne 2f
    provoke
    mov qword ptr [rbx + 4], rax
    provoked 14, 6, 4
    mov rcx, qword ptr gs:[P_FAULT_ADDRESS]
    lea rdx, [rbx + 4]
    cmp rcx, rdx
    jne 2f
# A privileged instruction, and a port that the task may not use.
    provoke
    hlt
    provoked 13, 0, 5
    provoke
    out 0x80, al
    provoked 13, 0, 6
    pop rbx
    ret
2:  mov esi, 14
    failing CHECK_FAULT

# The last exception was vector ECX with error code EDX, and there was one. ESI names the case.
check_fault:
    cmp qword ptr gs:[P_FAULT_RESUME], 0
    jne 2f
    shl rcx, 32
    or rdx, rcx
    mov rcx, qword ptr gs:[P_FAULT_VECTOR]
    shl rcx, 32
    or rcx, qword ptr gs:[P_FAULT_ERROR]
    cmp rcx, rdx
    jne 3f
    ret
2:  mov rcx, -1
3:  failing CHECK_FAULT

# mov eax, imm32; ret: run, changed, run again.
modify_code:
    push rbx
    mov ebx, dword ptr gs:[P_INDEX]
    shl ebx, 6
    add ebx, CODE_SLOTS
    mov ecx, dword ptr gs:[P_GENERATION]
    imul ecx, ecx, 0x9e3779b1
    mov esi, 2
2:  mov byte ptr [rbx], 0xb8
    mov dword ptr [rbx + 1], ecx
    mov byte ptr [rbx + 5], 0xc3
    call rbx
    cmp eax, ecx
    jne 3f
    not ecx
    dec esi
    jnz 2b
    pop rbx
    ret
3:  mov edx, ecx
    mov ecx, eax
    mov rsi, rbx
    failing CHECK_MODIFIED_CODE
