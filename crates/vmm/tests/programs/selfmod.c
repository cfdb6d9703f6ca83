/* Code that is written while the program runs: called, changed in place, changed by itself, over a
 * page boundary, through a second mapping, and in the middle of a loop. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef uint64_t (*function)(uint64_t, uint64_t);

static uint8_t *code;

/* mov $value, %eax; ret */
static void write_constant(uint8_t *at, uint32_t value)
{
	*at = 0xb8;
	memcpy(at + 1, &value, 4);
	at[5] = 0xc3;
}

/* A translator of small programs, in Polish notation behind their operands, to machine code. */
static uint8_t *translate(uint8_t *at, const char *program)
{
	for (; *program; program++) {
		static const struct { char name; uint8_t length, bytes[10]; } operations[] = {
			{ 'a', 1, { 0x57 } },                              /* push %rdi */
			{ 'b', 1, { 0x56 } },                              /* push %rsi */
			{ '1', 2, { 0x6a, 1 } },                           /* push $1 */
			{ '7', 2, { 0x6a, 7 } },
			{ '+', 5, { 0x58, 0x48, 0x01, 0x04, 0x24 } },      /* pop %rax; add %rax, (%rsp) */
			{ '-', 5, { 0x58, 0x48, 0x29, 0x04, 0x24 } },
			{ '^', 5, { 0x58, 0x48, 0x31, 0x04, 0x24 } },
			{ '*', 7, { 0x58, 0x59, 0x48, 0x0f, 0xaf, 0xc1, 0x50 } }, /* imul %rcx, %rax */
			{ '<', 6, { 0x59, 0x48, 0xd3, 0x24, 0x24, 0x90 } },       /* shlq %cl, (%rsp) */
		};
		for (size_t which = 0; which < sizeof operations / sizeof *operations; which++)
			if (operations[which].name == *program) {
				memcpy(at, operations[which].bytes, operations[which].length);
				at += operations[which].length;
			}
	}
	*at++ = 0x58; /* pop %rax */
	*at++ = 0xc3;
	return at;
}

int main(void)
{
	code = mmap(NULL, 16384, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t total = 0;
	for (uint32_t turn = 0; turn < 5000; turn++) {
		write_constant(code, turn);
		total += ((function)code)(0, 0);
	}
	printf("rewritten %llu\n", (unsigned long long)total);

	/* One byte of the constant at a time, and at another place in the page. */
	total = 0;
	for (int turn = 0; turn < 2000; turn++) {
		code[1 + turn % 4] = (uint8_t)turn;
		code[200 + turn % 100] = (uint8_t)turn;
		total = total * 3 + ((function)code)(0, 0);
	}
	printf("bytes %llu\n", (unsigned long long)total);

	/* Over a page boundary, each side changed in turn. */
	for (int offset = 1; offset < 6; offset++) {
		uint8_t *at = code + 4096 - offset;
		write_constant(at, 0x01020304);
		uint64_t before = ((function)at)(0, 0);
		at[1] ^= 0x10;
		uint64_t first = ((function)at)(0, 0);
		at[4] ^= 0x20;
		printf("%llx %llx %llx, ", (unsigned long long)before, (unsigned long long)first,
		       (unsigned long long)((function)at)(0, 0));
	}
	printf("\n");

	static const char *const programs[] = { "ab+", "ab-", "ab*7+", "aa*bb*-", "ab^1<", "a7*b1+*a-", "ab+ab-*ab^+" };
	for (size_t which = 0; which < sizeof programs / sizeof *programs; which++) {
		translate(code + 8192, programs[which]);
		total = 0;
		for (uint64_t turn = 0; turn < 300; turn++)
			total = total * 31 + ((function)(code + 8192))(turn * 12345, turn + 5);
		printf("%s %llu\n", programs[which], (unsigned long long)total);
	}

	/* A loop that changes the instruction just behind the store:
	 *     xor %eax, %eax
	 *  1: movb %dil, 2f+2(%rip)
	 *  2: add $0, %rax       (its last byte is what was stored)
	 *     dec %edi; jnz 1b; ret */
	static const uint8_t loop[] = { 0x31, 0xc0, 0x40, 0x88, 0x3d, 0x03, 0, 0, 0, 0x48, 0x83, 0xc0, 0x00, 0xff, 0xcf,
		0x75, 0xf1, 0xc3 };
	memcpy(code + 512, loop, sizeof loop);
	printf("by itself %llu\n", (unsigned long long)((function)(code + 512))(100, 0));
	/* The same over a page boundary: the store is on the first page. */
	memcpy(code + 4096 - 9, loop, sizeof loop);
	printf("by itself, apart %llu\n", (unsigned long long)((function)(code + 4096 - 9))(100, 0));

	/* Through a second mapping of the same memory, one to write and one to run. */
	int file = memfd_create("code", 0);
	if (file < 0 || ftruncate(file, 4096) != 0)
		return 1;
	uint8_t *write = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	uint8_t *run = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
	total = 0;
	for (uint32_t turn = 0; turn < 1000; turn++) {
		write_constant(write + 64, turn * 7);
		total += ((function)(run + 64))(0, 0);
	}
	/* Written by the kernel. */
	for (uint32_t turn = 0; turn < 100; turn++) {
		uint8_t constant[6];
		write_constant(constant, turn * 11);
		if (pwrite(file, constant, 6, 64) != 6)
			return 1;
		total += ((function)(run + 64))(0, 0);
	}
	printf("second mapping %llu\n", (unsigned long long)total);

	/* Other memory at an address where code has run. */
	total = 0;
	for (uint32_t turn = 0; turn < 50; turn++) {
		uint8_t *page = mmap(code, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		write_constant(page + 32, turn);
		mprotect(page, 4096, PROT_READ | PROT_EXEC);
		total += ((function)(page + 32))(0, 0);
	}
	printf("remapped %llu\n", (unsigned long long)total);

	/* A copy-on-write of code: the child's change stays its own. */
	mprotect(code, 16384, PROT_READ | PROT_WRITE | PROT_EXEC);
	write_constant(code + 32, 1000);
	int ends[2];
	if (pipe(ends) != 0)
		return 1;
	fflush(stdout);
	if (fork() == 0) {
		write_constant(code + 32, 2000);
		uint64_t value = ((function)(code + 32))(0, 0);
		_exit(dprintf(ends[1], "%llu", (unsigned long long)value) < 0);
	}
	char text[32] = { 0 };
	if (read(ends[0], text, sizeof text - 1) <= 0)
		return 1;
	printf("child %s parent %llu\n", text, (unsigned long long)((function)(code + 32))(0, 0));
	return 0;
}
