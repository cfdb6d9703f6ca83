# The last of the image.
    .section .rodata.ferry_conformance, "a", @progbits
    .subsection 2
    .balign 16
    .globl ferry_conformance_end
    .hidden ferry_conformance_end
ferry_conformance_end:
    .text
