# What is written: on pages of its own, apart from code, because a store to a page of code costs a
# software CPU its translations.

    .balign 4096
descriptors:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cff3000000ffff
    .quad 0x00affb000000ffff
    .quad 0x00cf9b000000ffff
    .fill MAX_VCPUS * 2, 8, 0

vcpus_started:
    .quad 1
vcpus_online:
    .quad 0
failed:
    .quad 0
round:
    .quad 0
tsc_khz:
    .quad 0
hpet_hz:
    .quad 0
reference_hz:
    .quad 1
reference:
    .long 0
clocks_sampled:
    .long 0
commands:
    .quad 0
command:
    .long 0, 0
atomic:
    .quad 0
serial_next:
    .quad 0
serial_end:
    .quad 0
disk_interrupts:
    .quad 0
disk_requests:
    .quad 0
disk_blocks:
    .quad 0
disk_blocks_ok:
    .quad 0

    .balign 64
pit_tick:
    .fill TICK_SIZE, 1, 0
hpet_tick:
    .fill TICK_SIZE, 1, 0
rtc_tick:
    .fill TICK_SIZE, 1, 0
# Only the fields that check_alive uses.
lapic_alive:
    .fill TICK_SIZE, 1, 0

clocks:
lapic_clock:
    .fill CLOCK_SIZE, 1, 0
pit_clock:
    .fill CLOCK_SIZE, 1, 0
hpet_clock:
    .fill CLOCK_SIZE, 1, 0
rtc_clock:
    .fill CLOCK_SIZE, 1, 0

line:
    .fill 256, 1, 0
fail_line:
    .fill 256, 1, 0
held_board_values:
    .fill 168, 8, 0
    .balign 16
    .globl ferry_guest_end
    .hidden ferry_guest_end
ferry_guest_end:
