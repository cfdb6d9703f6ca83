# From the entry contract to ring 3. Ring 0 is simple integer code all through: some hosts' KVM
# interprets it instruction by instruction and knows no other.

    .code64
    .balign 16
    .globl ferry_guest_entry
    .hidden ferry_guest_entry
ferry_guest_entry:
    cli
    cld
    cmp rsi, PARAMETERS
    jne bad_parameters
    movabs rax, MAGIC
    cmp qword ptr [PARAMETER_MAGIC], rax
    jne bad_parameters
    cmp qword ptr [PARAMETER_VERSION], VERSION
    jne bad_parameters
    mov rax, qword ptr [PARAMETER_VCPUS]
    dec rax
    cmp rax, MAX_VCPUS
    jae bad_parameters
    mov esp, PER_VCPU + P_KERNEL_STACK_TOP
    call build_interrupt_table
    xor edi, edi

# RDI = index of the vCPU. Its own page is found from it, and nothing else.
vcpu_start:
    imul ebx, edi, PER_VCPU_SIZE
    add ebx, PER_VCPU
    lea rsp, [rbx + P_KERNEL_STACK_TOP]
    mov qword ptr [rbx + P_SELF], rbx
    mov qword ptr [rbx + P_INDEX], rdi
    call load_tables
    call set_control_registers
    call lapic_begin
    call slice_begin
    cmp qword ptr gs:[P_INDEX], 0
    jne 2f
    call find_reference
    call serial_begin
    call print_start
    call pic_begin
    call ioapic_begin
    call timers_begin
    call disk_begin
    call start_other_vcpus
    lea rax, [rip + worker_first]
    jmp 3f
2:  lea rax, [rip + worker_other]
3:  call lapic_timer_begin

# To ring 3 with interrupts on, at RAX.
    mov rbx, qword ptr gs:[P_SELF]
    lea rcx, [rbx + P_USER_STACK_TOP]
    push SELECTOR_USER_DATA
    push rcx
    push 0x202
    push SELECTOR_USER_CODE
    push rax
    iretq

bad_parameters:
    mov eax, CHECK_PARAMETERS
    out EXIT_PORT, al
2:  hlt
    jmp 2b

# GDT, IDT, TSS, segment bases of the vCPU whose page is at RBX.
load_tables:
    lea rax, [rip + descriptors]
    mov qword ptr [rbx + P_TEMPORARY + 2], rax
    mov word ptr [rbx + P_TEMPORARY], DESCRIPTORS_SIZE - 1
    lgdt [rbx + P_TEMPORARY]
    mov qword ptr [rbx + P_TEMPORARY + 2], INTERRUPT_TABLE
    mov word ptr [rbx + P_TEMPORARY], 256 * 16 - 1
    lidt [rbx + P_TEMPORARY]
# CS and SS by iretq: a far return would do, were it not for hosts that interpret ring 0.
    pop rdx
    mov rcx, rsp
    push SELECTOR_DATA
    push rcx
    push 2
    push SELECTOR_CODE
    lea rax, [rip + 2f]
    push rax
    iretq
2:  push rdx
    mov eax, SELECTOR_USER_DATA
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov rdx, rbx
    call msr_base_gs
    lea rdx, [rbx + P_FS_AREA]
    mov ecx, 0xc0000100
    call write_msr
# The task state segment: stacks for ring 0 and for faults that must not use it, and the ports
# that ring 3 may use: the serial port and the exit device.
    lea rax, [rbx + P_KERNEL_STACK_TOP]
    mov qword ptr [rbx + P_TASK + 0x04], rax
    lea rax, [rbx + P_FAULT_STACK_TOP]
    mov qword ptr [rbx + P_TASK + 0x24], rax
    mov word ptr [rbx + P_TASK + 0x66], P_TASK_BITMAP - P_TASK
    lea rdi, [rbx + P_TASK_BITMAP]
    mov ecx, 0x81
    mov eax, 0xff
    rep stosb
    and byte ptr [rbx + P_TASK_BITMAP + EXIT_PORT / 8], ~(1 << (EXIT_PORT % 8))
    mov byte ptr [rbx + P_TASK_BITMAP + SERIAL_PORT / 8], 0
    mov ecx, dword ptr [rbx + P_INDEX]
    shl ecx, 4
    lea rdi, [rip + descriptors + SELECTOR_TASK]
    add rdi, rcx
    lea rax, [rbx + P_TASK]
    shl rax, 16
    movabs rdx, 0x0000890000000000
    or rax, rdx
    or rax, TASK_SIZE - 1
    mov qword ptr [rdi], rax
    mov qword ptr [rdi + 8], 0
    add ecx, SELECTOR_TASK
    ltr cx
    ret

# Values that nothing uses, to be found again after a move: see held.s.
set_control_registers:
    mov eax, CONTROL_0
    mov cr0, rax
    mov eax, CONTROL_4
    mov cr4, rax
    fninit
    mov rdi, qword ptr gs:[P_INDEX]
    add rdi, qword ptr [PARAMETER_SEED]
    call mix
    movabs rdx, 0x00007fffffffffff
    and rdx, rax
    mov dr0, rdx
    rol rdx, 3
    and edx, 0x7fffffff
    mov dr1, rdx
    lea rdx, [rdx + rdx * 2]
    mov dr2, rdx
    not edx
    mov dr3, rdx
    lea rsi, [rip + held_msrs]
    mov rbx, rax
2:  mov ecx, dword ptr [rsi]
    test ecx, ecx
    jz 3f
    rol rbx, 5
    mov rdx, qword ptr [rsi + 8]
    and rdx, rbx
    call write_msr
    add rsi, 16
    jmp 2b
3:  ret

# MSR numbers, and the bits that may be set in them whatever they mean.
    .balign 8
held_msrs:
    .quad 0xc0000081, 0xfff0fff000000000
    .quad 0xc0000082, 0x00007fffffffffff
    .quad 0xc0000083, 0x00007fffffffffff
    .quad 0xc0000084, 0x00000000003f7fd5
    .quad 0xc0000102, 0x00007fffffffffff
    .quad 0x00000174, 0x000000000000fff8
    .quad 0x00000175, 0x00007fffffffffff
    .quad 0x00000176, 0x00007fffffffffff
    .quad 0

msr_base_gs:
    mov ecx, 0xc0000101
# MSR ECX = RDX.
write_msr:
    mov rax, rdx
    shr rdx, 32
    wrmsr
    ret

# The share of the work area of this vCPU: from pages * index / vcpus up to the next one's.
slice_begin:
    mov rcx, qword ptr [PARAMETER_VCPUS]
    mov rax, qword ptr [PARAMETER_WORK_PAGES]
    mov r8, rax
    mul qword ptr gs:[P_INDEX]
    div rcx
    mov rsi, rax
    mov rax, qword ptr gs:[P_INDEX]
    inc rax
    mul r8
    div rcx
    sub rax, rsi
    mov qword ptr gs:[P_SLICE_COUNT], rax
    shl rsi, 12
    add rsi, qword ptr [PARAMETER_WORK_ADDRESS]
    mov qword ptr gs:[P_SLICE_ADDRESS], rsi
    mov qword ptr gs:[P_SLICE_LAP], 1
    ret
