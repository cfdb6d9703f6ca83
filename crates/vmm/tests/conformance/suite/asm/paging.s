# Paging: faults and their error codes, rights, accessed and dirty bits, sizes. SPARE_TABLES is a
# page table that maps the 2 MiB from WINDOW on; programs map 4 KiB pages of SCRATCH there.

    .set WINDOW, 0x40000000000
    .set WINDOW_POINTERS, SPARE_TABLES
    .set WINDOW_DIRECTORY, SPARE_TABLES + 0x1000
    .set WINDOW_TABLE, SPARE_TABLES + 0x2000
    .set WINDOW_PML4_ENTRY, PAGE_TABLES + 8 * 8
# Entries.
    .set P, 1
    .set W, 2
    .set U, 4
    .set A, 0x20
    .set D, 0x40
    .set PS, 0x80
    .set G, 0x100
# Error codes.
    .set E_P, 1
    .set E_W, 2
    .set E_U, 4
    .set E_RSVD, 8
    .set E_I, 16

# Maps page \page of the window to SCRATCH + \page * 4096 with rights; changes RAX, RBX.
    .macro map page, rights
    mov qword ptr [WINDOW_TABLE + 8 * \page], SCRATCH + 0x1000 * \page + (\rights)
    mov rbx, WINDOW + 0x1000 * \page
    invlpg byte ptr [rbx]
    .endm

window_begin:
    mov qword ptr [WINDOW_PML4_ENTRY], WINDOW_POINTERS + (P | W | U)
    mov qword ptr [WINDOW_POINTERS], WINDOW_DIRECTORY + (P | W | U)
    mov qword ptr [WINDOW_DIRECTORY], WINDOW_TABLE + (P | W | U)
    mov rax, cr3
    mov cr3, rax
    ret

program page_faults
    call window_begin
# Not present, at each level, read and written.
    mov rbx, WINDOW
    expect_page_fault 0, WINDOW, mov rax, qword ptr [rbx]
    expect_page_fault E_W, WINDOW+8, mov qword ptr [rbx+8], rax
    movabs rcx, WINDOW+0x200000
    expect_page_fault 0, WINDOW+0x200000, mov rax, qword ptr [rcx]
    movabs rcx, WINDOW+0x40000000
    expect_page_fault E_W, WINDOW+0x40000000, mov byte ptr [rcx], 1
    movabs rcx, 0x700000000000
    expect_page_fault 0, 0x700000000000, mov al, byte ptr [rcx]
    movabs rcx, -8
    expect_page_fault 0, -8, mov al, byte ptr [rcx]
# A page that appears is seen without INVLPG.
    mov qword ptr [WINDOW_TABLE], SCRATCH + (P | W | U)
    mov qword ptr [rbx], 77
    expect "qword ptr [SCRATCH]", 77
# Read-only, in ring 0 with and without CR0.WP.
    map 1, P
    expect_page_fault E_P|E_W, WINDOW+0x1010, mov qword ptr [rbx+16], rax
    mov rax, cr0
    btr rax, 16
    mov cr0, rax
    mov qword ptr [rbx + 16], 88
    mov rax, cr0
    bts rax, 16
    mov cr0, rax
    expect "qword ptr [SCRATCH+0x1010]", 88
    expect_page_fault E_P|E_W, WINDOW+0x1010, mov qword ptr [rbx+16], rax
# A read-modify-write instruction faults as a write.
    expect_page_fault E_P|E_W, WINDOW+0x1010, inc qword ptr [rbx+16]
    expect_page_fault E_P|E_W, WINDOW+0x1010, lock xadd qword ptr [rbx+16], rax
    expect "qword ptr [SCRATCH+0x1010]", 88
# Rights of the upper levels count.
    map 2, P|W|U
    mov qword ptr [WINDOW_DIRECTORY], WINDOW_TABLE + (P | U)
    mov rax, cr3
    mov cr3, rax
    expect_page_fault E_P|E_W, WINDOW+0x2000, mov byte ptr [rbx], 1
    mov qword ptr [WINDOW_DIRECTORY], WINDOW_TABLE + (P | W | U)
    mov rax, cr3
    mov cr3, rax
    mov byte ptr [rbx], 1
# Reserved bits: the page-size bit of the top level.
    mov rax, qword ptr [WINDOW_PML4_ENTRY]
    or eax, PS
    mov qword ptr [WINDOW_PML4_ENTRY], rax
    mov rax, cr3
    mov cr3, rax
    expect_page_fault E_P|E_RSVD, WINDOW+0x2000, mov al, byte ptr [rbx]
    mov rax, qword ptr [WINDOW_PML4_ENTRY]
    and eax, ~PS
    mov qword ptr [WINDOW_PML4_ENTRY], rax
    mov rax, cr3
    mov cr3, rax
    mov al, byte ptr [rbx]
# A string instruction stops where it faults, and goes on there.
    mov qword ptr [WINDOW_TABLE + 8 * 3], 0
    invlpg byte ptr [rbx + 0x1000]
    lea rdi, [rbx + 0xff0]
    mov ecx, 0x20
    mov al, 0x3c
    expect_page_fault E_W, WINDOW+0x3000, rep stosb
    expect rcx, 0x10
    mov rax, rdi
    mov rdx, WINDOW + 0x3000
    sub rax, rdx
    expect rax, 0
    expect "qword ptr [SCRATCH+0x2ff8]", 0x3c3c3c3c3c3c3c3c
    done

# A store over a page's end changes nothing if the second page faults, whose address is given.
program page_ends
    call window_begin
    map 2, P|W|U
    enter_ring_3
    call page_ends_fault
    expect "qword ptr [FAULT_ERROR]", E_U|E_W
    leave_ring_3
    map 3, P|W|U
    enter_ring_3
    call page_ends_store
    leave_ring_3
    done

program page_ends_kernel
    call window_begin
    map 2, P|W|U
    call page_ends_fault
    expect "qword ptr [FAULT_ERROR]", E_W
    map 3, P|W|U
    call page_ends_store
    done

page_ends_fault:
    mov rbx, WINDOW + 0x2000
    mov qword ptr [SCRATCH + 0x2ff8], 0
    movabs rax, 0x1122334455667788
    call fault_begin
    .quad 3f - 2f
2:  mov qword ptr [rbx + 0xffc], rax
3:  call fault_end
    expect "qword ptr [FAULT_VECTOR]", VECTOR_PF
    expect "qword ptr [FAULT_ADDRESS]", WINDOW+0x3000
    expect "qword ptr [SCRATCH+0x2ff8]", 0
    ret

page_ends_store:
    mov rbx, WINDOW + 0x2000
    movabs rax, 0x1122334455667788
    mov qword ptr [rbx + 0xffc], rax
    mov rcx, qword ptr [rbx + 0xffc]
    expect rcx, 0x1122334455667788
    expect "qword ptr [SCRATCH+0x3000]", 0x11223344
    ret

# Ring 3: supervisor pages, writes, fetches, no-execute.
program user_pages
    call window_begin
    map 0, P|W
    map 1, P|U
    map 2, P|W|U
    mov byte ptr [SCRATCH], 0xc3
    mov byte ptr [SCRATCH + 0x1000], 0xc3
    mov byte ptr [SCRATCH + 0x2000], 0xc3
    mov rbx, WINDOW
    enter_ring_3
    expect_page_fault E_P|E_U, WINDOW, mov al, byte ptr [rbx]
    expect_page_fault E_P|E_U|E_W, WINDOW+4, mov byte ptr [rbx+4], 1
    mov al, byte ptr [rbx + 0x1000]
    expect_page_fault E_P|E_U|E_W, WINDOW+0x1001, mov byte ptr [rbx+0x1001], 1
    mov byte ptr [rbx + 0x2001], 1
    expect_page_fault E_U, WINDOW+0x3000, mov al, byte ptr [rbx+0x3000]
    expect_page_fault E_U|E_W, WINDOW+0x3000, mov byte ptr [rbx+0x3000], al
    leave_ring_3
# A supervisor level above makes a user page a supervisor's.
    mov qword ptr [WINDOW_DIRECTORY], WINDOW_TABLE + (P | W)
    mov rax, cr3
    mov cr3, rax
    enter_ring_3
    expect_page_fault E_P|E_U, WINDOW+0x2000, mov al, byte ptr [rbx+0x2000]
    leave_ring_3
    mov qword ptr [WINDOW_DIRECTORY], WINDOW_TABLE + (P | W | U)
    mov rax, cr3
    mov cr3, rax
    done

# No-execute and fetches: the fault is at the address that cannot be fetched.
program no_execute
    call window_begin
    map 0, P|W|U
    map 1, P|W|U
    map 2, P|W
    mov byte ptr [SCRATCH], 0xc3
    mov byte ptr [SCRATCH + 0x1000], 0xc3
    mov byte ptr [SCRATCH + 0x2000], 0xc3
    bts qword ptr [WINDOW_TABLE + 8], 63
    mov rbx, WINDOW
    invlpg byte ptr [rbx + 0x1000]
    call rbx
    lea rcx, [rbx + 0x1000]
    call call_and_catch
    expect "qword ptr [FAULT_ERROR]", E_P|E_I
    expect "qword ptr [FAULT_ADDRESS]", WINDOW+0x1000
    lea rcx, [rbx + 0x3000]
    call call_and_catch
    expect "qword ptr [FAULT_ERROR]", E_I
    mov al, byte ptr [rbx + 0x1000]
    enter_ring_3
    call rbx
    lea rcx, [rbx + 0x1000]
    call call_and_catch
    expect "qword ptr [FAULT_ERROR]", E_P|E_U|E_I
    lea rcx, [rbx + 0x2000]
    call call_and_catch
    expect "qword ptr [FAULT_ERROR]", E_P|E_U|E_I
    expect "qword ptr [FAULT_RIP]", WINDOW+0x2000
# An instruction that goes over the end of a page that can be fetched.
    mov word ptr [rbx + 0xffe], 0xb890
    lea rcx, [rbx + 0xffe]
    call call_and_catch
    expect "qword ptr [FAULT_ERROR]", E_P|E_U|E_I
    expect "qword ptr [FAULT_ADDRESS]", WINDOW+0x1000
    expect "qword ptr [FAULT_RIP]", WINDOW+0xfff
    leave_ring_3
    done

# Calls RCX, from where a fault comes back here with the return address off the stack.
call_and_catch:
    lea rax, [rip + 2f]
    mov qword ptr [FAULT_RESUME], rax
    mov qword ptr [FAULT_VECTOR], -1
    mov rdx, rsp
    call rcx
2:  mov rsp, rdx
    mov qword ptr [FAULT_RESUME], 0
    ret

# Accessed and dirty bits, at every level.
program accessed_and_dirty
    call window_begin
    map 0, P|W|U
    mov rax, qword ptr [WINDOW_PML4_ENTRY]
    and eax, A | D
    expect rax, 0
    mov rax, qword ptr [rbx]
    mov rax, qword ptr [WINDOW_PML4_ENTRY]
    and eax, A | D
    expect rax, A
    mov rax, qword ptr [WINDOW_POINTERS]
    and eax, A | D
    expect rax, A
    mov rax, qword ptr [WINDOW_DIRECTORY]
    and eax, A | D
    expect rax, A
    mov rax, qword ptr [WINDOW_TABLE]
    and eax, A | D
    expect rax, A
    mov qword ptr [rbx], rax
    mov rax, qword ptr [WINDOW_TABLE]
    and eax, A | D
    expect rax, A|D
# Bits that are cleared come back once the translation is dropped.
    and dword ptr [WINDOW_TABLE], ~(A | D)
    invlpg byte ptr [rbx]
    mov rax, qword ptr [rbx]
    mov rax, qword ptr [WINDOW_TABLE]
    and eax, A | D
    expect rax, A
    and dword ptr [WINDOW_TABLE], ~(A | D)
    mov rax, cr3
    mov cr3, rax
    mov byte ptr [rbx + 7], 1
    mov rax, qword ptr [WINDOW_TABLE]
    and eax, A | D
    expect rax, A|D
# A store that faults for its rights leaves the page clean.
    map 1, P
    expect_page_fault E_P|E_W, WINDOW+0x1000, mov byte ptr [rbx], 1
    mov rax, qword ptr [WINDOW_TABLE + 8]
    and eax, D
    expect rax, 0
# In ring 3 too.
    map 2, P|W|U
    map 3, P|W|U
    enter_ring_3
    mov rbx, WINDOW
    mov al, byte ptr [rbx + 0x2000]
    mov byte ptr [rbx + 0x3000], 1
    leave_ring_3
    mov rax, qword ptr [WINDOW_TABLE + 16]
    and eax, A | D
    expect rax, A
    mov rax, qword ptr [WINDOW_TABLE + 24]
    and eax, A | D
    expect rax, A|D
    done

# 2 MiB pages, two addresses of one page, and the same page through both sizes.
program large_pages
    call window_begin
    mov qword ptr [WINDOW_DIRECTORY + 8], LARGE + (P | W | U | PS)
    mov rbx, WINDOW + 0x200000
    mov qword ptr [rbx + 0x123450], 0x5a5a
    expect "qword ptr [LARGE+0x123450]", 0x5a5a
    mov rax, qword ptr [WINDOW_DIRECTORY + 8]
    and eax, A | D
    expect rax, A|D
    mov qword ptr [WINDOW_TABLE], LARGE + 0x123000 + (P | W | U)
    mov rcx, WINDOW
    mov rax, qword ptr [rcx + 0x450]
    expect rax, 0x5a5a
    mov qword ptr [rcx + 0x458], 0x77
    mov rax, qword ptr [rbx + 0x123458]
    expect rax, 0x77
# From a large page to a small one of the same address.
    mov qword ptr [SCRATCH + 0x3000], 0x99
    mov qword ptr [WINDOW_TABLE + 8 * 3], SCRATCH + 0x3000 + (P | W | U)
    mov qword ptr [WINDOW_DIRECTORY + 8], WINDOW_TABLE + (P | W | U)
    mov rax, cr3
    mov cr3, rax
    mov rax, qword ptr [rbx + 0x3000]
    expect rax, 0x99
# Read-only large pages.
    mov qword ptr [WINDOW_DIRECTORY + 8], LARGE + (P | U | PS)
    mov rax, cr3
    mov cr3, rax
    expect_page_fault E_P|E_W, WINDOW+0x200123, mov byte ptr [rbx+0x123], 1
    mov al, byte ptr [rbx + 0x123]
    done

# Translations that stay until they are dropped, one by one, all, and the global ones.
program translations
    call window_begin
    mov rax, cr4
    or eax, 0x80
    mov cr4, rax
    mov qword ptr [SCRATCH], 1
    mov qword ptr [SCRATCH + 0x1000], 2
    mov qword ptr [SCRATCH + 0x2000], 3
    map 0, P|W|U|G
    mov rax, qword ptr [rbx]
    expect rax, 1
    mov qword ptr [WINDOW_TABLE], SCRATCH + 0x1000 + (P | W | U | G)
    invlpg byte ptr [rbx + 0x123]
    mov rax, qword ptr [rbx]
    expect rax, 2
    mov qword ptr [WINDOW_TABLE], SCRATCH + 0x2000 + (P | W | U | G)
# CR4.PGE cleared drops the global ones too.
    mov rax, cr4
    and eax, ~0x80
    mov cr4, rax
    mov rax, qword ptr [rbx]
    expect rax, 3
    mov qword ptr [WINDOW_TABLE], SCRATCH + (P | W | U)
    mov rax, cr3
    mov cr3, rax
    mov rax, qword ptr [rbx]
    expect rax, 1
# A page table that another address space brings.
    mov qword ptr [SPARE_TABLES + 0x3000], PAGE_TABLES + 0x1000 + (P | W | U)
    mov qword ptr [SPARE_TABLES + 0x3000 + 64], SPARE_TABLES + 0x4000 + (P | W | U)
    mov qword ptr [SPARE_TABLES + 0x4000], PAGE_TABLES + 0x2000 + (P | W | U)
    mov rcx, cr3
    mov eax, SPARE_TABLES + 0x3000
    mov cr3, rax
    mov rax, qword ptr [rbx + SCRATCH + 0x1000]
    expect rax, 2
    mov rax, cr3
    expect rax, SPARE_TABLES+0x3000
    mov cr3, rcx
    mov rax, qword ptr [rbx]
    expect rax, 1
    done
