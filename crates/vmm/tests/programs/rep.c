/* The repeated string instructions, in every width and both directions, over page boundaries, with
 * overlap, and cut short by a fault. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

static uint64_t hash;
static void mix(uint64_t value)
{
	hash = (hash ^ value) * 0x100000001b3ULL;
	hash ^= hash >> 29;
}
static void show(const char *name)
{
	printf("%s %016" PRIx64 "\n", name, hash);
	hash = 0;
}

static uint8_t *area; /* four pages, then one that is not there */
enum { PAGES = 4, SIZE = PAGES * 4096 };

static void refill(void)
{
	uint32_t word = 1;
	for (int at = 0; at < SIZE; at++) {
		word = word * 1664525 + 1013904223;
		area[at] = (uint8_t)(word >> 24);
	}
}
static void mix_area(void)
{
	for (int at = 0; at < SIZE; at += 8) {
		uint64_t word;
		memcpy(&word, area + at, 8);
		mix(word);
	}
}

#define MOVE(text, target, source, times)                                                         \
	do {                                                                                      \
		uint8_t *to = area + (target), *from = area + (source);                           \
		uint64_t left = (times);                                                         \
		asm volatile(text "\n\tcld" : "+D"(to), "+S"(from), "+c"(left) : : "memory", "cc"); \
		mix((uint64_t)(to - area)), mix((uint64_t)(from - area)), mix(left);             \
	} while (0)
#define SET(text, target, times)                                                                  \
	do {                                                                                      \
		uint8_t *to = area + (target);                                                    \
		uint64_t left = (times);                                                         \
		asm volatile(text "\n\tcld" : "+D"(to), "+c"(left)                               \
			     : "a"(0x1122334455667788UL) : "memory", "cc");                       \
		mix((uint64_t)(to - area)), mix(left);                                           \
	} while (0)
#define SCAN(text, target, what, times)                                                           \
	do {                                                                                      \
		uint8_t *to = area + (target);                                                    \
		uint64_t left = (times), flags;                                                  \
		asm volatile("cmp %%eax, %%eax\n\t" text "\n\tpushf\n\tpop %2\n\tcld"              \
			     : "+D"(to), "+c"(left), "=r"(flags) : "a"((uint64_t)(what)) : "memory", "cc"); \
		mix((uint64_t)(to - area)), mix(left), mix(flags & 0x8d5);                       \
	} while (0)
#define COMPARE(text, target, source, times)                                                      \
	do {                                                                                      \
		uint8_t *to = area + (target), *from = area + (source);                           \
		uint64_t left = (times), flags;                                                  \
		asm volatile("cmp %%ecx, %%ecx\n\t" text "\n\tpushf\n\tpop %3\n\tcld"              \
			     : "+D"(to), "+S"(from), "+c"(left), "=r"(flags) : : "memory", "cc"); \
		mix((uint64_t)(to - area)), mix((uint64_t)(from - area)), mix(left), mix(flags & 0x8d5); \
	} while (0)

static sigjmp_buf back;
static void note(int number, siginfo_t *information, void *context)
{
	ucontext_t *machine = context;
	greg_t *registers = machine->uc_mcontext.gregs;
	/* RSI says nothing where it has no part in the instruction. */
	static int faults;
	int source = ++faults <= 3 ? (int)((uint8_t *)registers[REG_RSI] - area) : 0;
	printf("signal %d at %d: rdi %d rsi %d rcx %d\n", number, (int)((uint8_t *)information->si_addr - area),
	       (int)((uint8_t *)registers[REG_RDI] - area), source, (int)registers[REG_RCX]);
	siglongjmp(back, 1);
}

int main(void)
{
	area = mmap(NULL, SIZE + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(area + SIZE, 4096, PROT_NONE);
	refill();
	for (uint64_t count = 0; count < 600; count += count < 40 ? 1 : 97) {
		MOVE("rep movsb", 4096 - 50, 100, count);
		MOVE("rep movsw", 4096 - 51, 300, count);
		MOVE("rep movsl", 8192 - 7, 4096 - 3, count);
		MOVE("rep movsq", 8192 - 13, 50, count);
		MOVE("rep movsb", 2001, 2000, count); /* the first byte spreads */
		MOVE("rep movsq", 3004, 3001, count);
		MOVE("std\n\trep movsb", 4100, 9000, count);
		MOVE("std\n\trep movsq", 9000, 8990, count);
		MOVE("std\n\trep movsl", 8194, 12000, count);
		SET("rep stosb", 4090, count);
		SET("rep stosw", 8191, count);
		SET("rep stosl", 12286, count);
		SET("rep stosq", 5000, count);
		SET("std\n\trep stosq", 9005, count);
	}
	mix_area();
	show("moves");
	refill();
	for (int what = 0; what < 256; what += 5) {
		SCAN("repne scasb", 77, what, 3000);
		SCAN("repe scasb", 77, what, 3000);
		SCAN("repne scasw", 78, what * 257, 2000);
		SCAN("std\n\trepne scasb", 7000, what, 3000);
		SCAN("repne scasl", 79, what * 0x01010101u, 3000);
		SCAN("repne scasq", 80, what, 200);
		SCAN("repne scasb", 80, what, 0);
	}
	memcpy(area + 9000, area + 100, 3000);
	for (int at = 0; at < 3000; at += 111) {
		area[9000 + at] ^= 1;
		COMPARE("repe cmpsb", 100, 9000, 3000);
		COMPARE("repe cmpsw", 100, 9000, 1500);
		COMPARE("repe cmpsl", 100, 9000, 750);
		COMPARE("repe cmpsq", 100, 9000, 375);
		COMPARE("repne cmpsb", 101, 9000, 3000);
		COMPARE("std\n\trepe cmpsb", 3099, 11999, 3000);
		area[9000 + at] ^= 1;
	}
	uint64_t word = 0;
	const uint8_t *from = area + 4090;
	for (int turn = 0; turn < 20; turn++) {
		asm volatile("lodsb" : "+S"(from), "+a"(word) : : "memory");
		mix(word);
		asm volatile("lodsw" : "+S"(from), "+a"(word) : : "memory");
		mix(word);
		asm volatile("lodsl" : "+S"(from), "+a"(word) : : "memory");
		mix(word);
		asm volatile("lodsq" : "+S"(from), "+a"(word) : : "memory");
		mix(word);
	}
	show("scans");

	struct sigaction action = { .sa_sigaction = note, .sa_flags = SA_SIGINFO };
	sigaction(SIGSEGV, &action, NULL);
	if (sigsetjmp(back, 1) == 0)
		MOVE("rep movsb", SIZE - 100, 50, 200);
	if (sigsetjmp(back, 1) == 0)
		MOVE("rep movsq", SIZE - 100, 50, 200);
	if (sigsetjmp(back, 1) == 0)
		MOVE("rep movsl", 50, SIZE - 41, 200);
	if (sigsetjmp(back, 1) == 0)
		SCAN("repne scasl", SIZE - 66, 0x99999999, 200);
	if (sigsetjmp(back, 1) == 0)
		SCAN("repne scasw", SIZE - 33, 0x123456, 200);
	if (sigsetjmp(back, 1) == 0) {
		uint8_t *to = area + SIZE - 4000;
		asm volatile("rep stosb" : : "D"(to), "S"(area), "c"(5000), "a"(0) : "memory");
	}
	mix_area();
	show("faults");
	return 0;
}
