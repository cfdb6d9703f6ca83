# Integer arithmetic: each routine of the table runs on each pair of operands, with the carry flag
# clear and set. RAX, RBX, RCX, RDX hold the operands; RAX, RDX and the flags under the row's mask
# are what it leaves. The harness has the same table and knows what each row gives.

    .set ALL, CF | PF | AF | ZF | SF | OF
    .set LOGIC, CF | PF | ZF | SF | OF
    .set SHIFT, CF | PF | ZF | SF
    .set ROTATE, CF

program integer
    lea rsi, [rip + integer_table]
2:  lea rdi, [rip + integer_operands]
3:  xor ebp, ebp
4:  movsxd r8, dword ptr [rsi]
    lea rax, [rip + integer_table]
    add r8, rax
    mov rax, qword ptr [rdi]
    mov rbx, qword ptr [rdi + 8]
    mov rcx, rbx
    mov rdx, qword ptr [rdi + 16]
# Carry in, and the other flags known.
    lea r9, [rbp + 2]
    push r9
    popfq
    call r8
    pushfq
    pop r9
    and r9d, dword ptr [rsi + 4]
    observe rax
    observe rdx
    observe r9
    inc ebp
    cmp ebp, 2
    jb 4b
    add rdi, 24
    lea rax, [rip + integer_operands_end]
    cmp rdi, rax
    jb 3b
    add rsi, 8
    lea rax, [rip + integer_table_end]
    cmp rsi, rax
    jb 2b
    done

    .balign 8
integer_operands:
    .quad 0, 0, 0
    .quad 1, 1, 0xffffffffffffffff
    .quad 0xffffffffffffffff, 1, 0x5555555555555555
    .quad 0x7fffffff7fff7f7f, 0x0000000100010101, 0
    .quad 0x8000000080008080, 0x8000000080008080, 0x1111111111111111
    .quad 0x0123456789abcdef, 0xfedcba9876543210, 0x0f0f0f0f0f0f0f0f
    .quad 0x00000000ffffffff, 0xffffffff0000001f, 0x8000000000000000
    .quad 0xaaaaaaaaaaaaaa0f, 0x3333333333333307, 0x7777777777777777
    .quad 0x000000000000000a, 0x000000000000003f, 0x0000000000000003
integer_operands_end:

# Routines: an instruction at each width, and its row.
    .macro row mask, instruction:vararg
    .long .Lrow\@ - integer_table, \mask
    .pushsection .rodata.ferry_conformance, "a", @progbits
    .subsection 1
.Lrow\@:
    \instruction
    ret
    .popsection
    .endm

    .macro pair operation, mask
    row \mask, \operation al, bl
    row \mask, \operation ax, bx
    row \mask, \operation eax, ebx
    row \mask, \operation rax, rbx
    .endm

    .macro wide operation, mask
    row \mask, \operation ax, bx
    row \mask, \operation eax, ebx
    row \mask, \operation rax, rbx
    .endm

    .macro single operation, mask
    row \mask, \operation al
    row \mask, \operation ax
    row \mask, \operation eax
    row \mask, \operation rax
    .endm

    .macro by_count operation, mask
    row \mask, \operation al, cl
    row \mask, \operation ax, cl
    row \mask, \operation eax, cl
    row \mask, \operation rax, cl
    .endm

    .macro by_one operation, mask
    row \mask, \operation al, 1
    row \mask, \operation ax, 1
    row \mask, \operation eax, 1
    row \mask, \operation rax, 1
    .endm

    .balign 8
integer_table:
    pair add, ALL
    pair adc, ALL
    pair sub, ALL
    pair sbb, ALL
    pair and, LOGIC
    pair or, LOGIC
    pair xor, LOGIC
    pair cmp, ALL
    pair test, LOGIC
    single inc, ALL
    single dec, ALL
    single neg, ALL
    single not, ALL
    by_count shl, SHIFT
    by_count shr, SHIFT
    by_count sar, SHIFT
    by_count rol, ROTATE
    by_count ror, ROTATE
    by_count rcl, ROTATE
    by_count rcr, ROTATE
    by_one shl, LOGIC
    by_one shr, LOGIC
    by_one sar, LOGIC
    by_one rol, ROTATE | OF
    by_one ror, ROTATE | OF
    by_one rcl, ROTATE | OF
    by_one rcr, ROTATE | OF
    row SHIFT, shld eax, ebx, 7
    row SHIFT, shld rax, rbx, 7
    row SHIFT, shrd eax, ebx, 7
    row SHIFT, shrd rax, rbx, 7
    row CF | OF, mul bl
    row CF | OF, mul bx
    row CF | OF, mul ebx
    row CF | OF, mul rbx
    row CF | OF, imul bl
    row CF | OF, imul bx
    row CF | OF, imul ebx
    row CF | OF, imul rbx
    wide imul, CF | OF
    pair xadd, ALL
    pair xchg, ALL
    wide bt, CF
    wide bts, CF
    wide btr, CF
    wide btc, CF
    row ALL, bswap eax
    row ALL, bswap rax
    row ALL, cbw
    row ALL, cwde
    row ALL, cdqe
    row ALL, cwd
    row ALL, cdq
    row ALL, cqo
    row ALL, movzx eax, bl
    row ALL, movzx rax, bx
    row ALL, movsx eax, bl
    row ALL, movsx rax, bx
    row ALL, movsxd rax, ebx
integer_table_end:
