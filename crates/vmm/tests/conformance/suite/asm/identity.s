# What the processor says of itself.

# Leaves and sub-leaves, from the tables below: the harness knows the model.
    .macro identify table, end
    lea r12, [rip + \table]
2:  mov eax, dword ptr [r12]
    mov ecx, dword ptr [r12 + 4]
    cpuid
    mov eax, eax
    observe rax
    observe rbx
    observe rcx
    observe rdx
    add r12, 8
    lea rax, [rip + \end]
    cmp r12, rax
    jb 2b
    .endm

program cpuid
    identify cpuid_leaves, cpuid_leaves_end
    done

program cpuid_user
    enter_ring_3
    identify cpuid_leaves, cpuid_leaves_end
    leave_ring_3
    done

# The leaves that some hosts' KVM forces to the host's own bits, and those that answer like the
# highest one, which is among these.
program cpuid_features
    identify cpuid_feature_leaves, cpuid_feature_leaves_end
# OSXSAVE follows CR4, which this model has no such bit of; the local APIC's bit follows its base.
    read_msr 0x1b
    and eax, ~0x800
    wrmsr
    mov eax, 1
    cpuid
    and edx, 0x200
    expect rdx, 0
    done

    .balign 8
cpuid_leaves:
    .long 0, 0, 2, 0, 3, 0, 4, 0, 4, 1, 4, 2, 5, 0, 6, 0, 8, 0, 9, 0, 10, 0, 11, 0, 11, 1, 11, 2
    .long 12, 0, 0x40000000, 0, 0x40000001, 0, 0x80000000, 0, 0x80000002, 0, 0x80000003, 0
    .long 0x80000004, 0, 0x80000005, 0, 0x80000006, 0, 0x80000007, 0, 0x80000008, 0, 0x80000009, 0
    .long 0x8000000a, 0
cpuid_leaves_end:
cpuid_feature_leaves:
    .long 1, 0, 7, 0, 7, 1, 13, 0, 13, 1, 13, 2, 14, 0, 0x20, 0, 0x80000001, 0, 0x8000000b, 0
    .long 0x80001000, 0
cpuid_feature_leaves_end:

# Model-specific registers keep what they are given.
    .macro keeps number, value
    write_msr \number, \value
    read_msr \number
    expect rax, \value
    .endm

    .macro refuses number, value
    mov ecx, \number
    movabs rax, \value
    mov rdx, rax
    shr rdx, 32
    expect_fault VECTOR_GP, 0, wrmsr
    .endm

program msrs
    keeps 0xc0000081, 0x0020000812345678
    keeps 0xc0000082, 0xffff800012345678
    keeps 0xc0000083, 0x00007fff12345678
    keeps 0xc0000084, 0x00047700
    keeps 0xc0000100, 0xffff888812345678
    keeps 0xc0000101, 0x0000123412345678
    keeps 0xc0000102, 0xffffffff12345678
    keeps 0x174, 0x10
    keeps 0x175, 0xffff800012345000
    keeps 0x176, 0xffff800012346000
    keeps 0x277, 0x0007010600070106
    keeps 0x200, 0x40000006
    keeps 0x201, 0xffc0000800
    keeps 0x20f, 0
    keeps 0x250, 0x0606060606060606
    keeps 0x26f, 0x0505050505050505
    keeps 0x2ff, 0xc06
    keeps 0x17a, 0
    keeps 0x17b, 0xffffffffffffffff
    keeps 0x400, 0
    keeps 0x404, 0xffffffffffffffff
    keeps 0x405, 0
    read_msr 0x277
    expect rax, 0x0007010600070106
    read_msr 0xc0000080
    expect rax, 0xd00
    read_msr 0xfe
    expect rax, 0x508
    read_msr 0x179
    expect rax, 0x10a
# What is reserved or is no canonical address is refused, and so are registers that are not there.
# A processor that has 5-level paging takes addresses of 57 bits here, whether it is on or not (Intel
# SDM volume 3, section 4.5.3), and KVM on such a host does: these are none of either kind.
    refuses 0xc0000082, 0x4000000000000000
    refuses 0xc0000100, 0x8000000000000000
    refuses 0xc0000102, 0x0100000000000000
    refuses 0x2ff, 0x1000
    refuses 0xc0000080, 0x10000
    refuses 0x12345, 0
    mov ecx, 0x12345
    expect_fault VECTOR_GP, 0, rdmsr
    mov ecx, 0xc0001234
    expect_fault VECTOR_GP, 0, rdmsr
# Long mode cannot be left under paging.
    refuses 0xc0000080, 0x800
    read_msr 0xc0000082
    expect rax, 0xffff800012345678
    done

# Memory types that there are not.
program memory_types
    refuses 0x277, 0x0000000000000002
    refuses 0x277, 0x0300000000000000
    read_msr 0x277
    expect rax, 0x0007040600070406
    done

# The time-stamp counter can be written.
program tsc_write
    write_msr 0x10, 0x1000000000000
    rdtsc
    shl rdx, 32
    or rax, rdx
    shr rax, 40
    expect rax, 0x100
    read_msr 0x10
    shr rax, 40
    expect rax, 0x100
    done
