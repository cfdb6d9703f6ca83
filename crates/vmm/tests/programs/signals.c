/* Faults that become signals, and going on after them. */
#define _GNU_SOURCE
#include <fenv.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile int signal_seen, code_seen;
static volatile intptr_t address_seen, error_seen, trap_seen;
static uint8_t *page;

static void note(int number, siginfo_t *information, void *context)
{
	ucontext_t *machine = context;
	signal_seen = number;
	code_seen = information->si_code;
	address_seen = (intptr_t)information->si_addr;
	error_seen = machine->uc_mcontext.gregs[REG_ERR];
	trap_seen = machine->uc_mcontext.gregs[REG_TRAPNO];
	siglongjmp(back, 1);
}

#define EXPECT(name, action)                                                                      \
	do {                                                                                      \
		signal_seen = 0;                                                                  \
		if (sigsetjmp(back, 1) == 0) {                                                    \
			action;                                                                   \
			printf("%s: nothing\n", name);                                            \
		} else {                                                                          \
			printf("%s: signal %d code %d trap %d error %d", name, signal_seen,       \
			       code_seen, (int)trap_seen, (int)error_seen);                       \
			if (signal_seen == SIGSEGV && address_seen >= (intptr_t)page &&           \
			    address_seen < (intptr_t)page + 3 * 4096)                             \
				printf(" at page+%d", (int)(address_seen - (intptr_t)page));      \
			printf("\n");                                                             \
		}                                                                                 \
	} while (0)

static void with_handler(int number, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };
	sigemptyset(&action.sa_mask);
	sigaction(number, &action, NULL);
}

static volatile int zero;
static volatile double nought, huge = 1e308;
static volatile long double long_nought;

static volatile int repaired;
static void repair(int number, siginfo_t *information, void *context)
{
	(void)number, (void)context;
	repaired++;
	mprotect((void *)((uintptr_t)information->si_addr & ~4095UL), 4096, PROT_READ | PROT_WRITE);
}

static void skip_instruction(int number, siginfo_t *information, void *context)
{
	(void)number, (void)information;
	ucontext_t *machine = context;
	/* ud2 is two bytes long. */
	machine->uc_mcontext.gregs[REG_RIP] += 2;
	machine->uc_mcontext.gregs[REG_RAX] += 5;
}

static volatile int steps;
static void step(int number, siginfo_t *information, void *context)
{
	(void)number, (void)context;
	steps += information->si_code == TRAP_TRACE;
}

static volatile int alarms;
static void on_alarm(int number)
{
	(void)number;
	alarms++;
}

int main(void)
{
	static uint8_t alternate[65536];
	stack_t stack = { .ss_sp = alternate, .ss_size = sizeof alternate };
	sigaltstack(&stack, NULL);
	int numbers[] = { SIGSEGV, SIGFPE, SIGILL, SIGBUS, SIGTRAP };
	for (int at = 0; at < 5; at++)
		with_handler(numbers[at], note, SA_ONSTACK);
	page = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(page, 0xc3, 3 * 4096); /* ret */
	mprotect(page + 4096, 4096, PROT_NONE);
	mprotect(page + 8192, 4096, PROT_READ);

	EXPECT("read of null", (void)*(volatile int *)(uintptr_t)zero);
	EXPECT("read of nothing", (void)*(volatile uint8_t *)(page + 4096 + 17));
	EXPECT("write of nothing", page[4096 + 18] = 1);
	EXPECT("write of read-only", *(volatile uint32_t *)(page + 8192 + 400) = 1);
	EXPECT("write across pages", *(volatile uint64_t *)(page + 4092) = 1);
	EXPECT("run of data", ((void (*)(void))(page + 8192 + 64))());
	EXPECT("run of nothing", ((void (*)(void))(page + 4096 + 64))());
	EXPECT("not canonical", (void)*(volatile int *)(0x8000000000000000UL + (uintptr_t)zero));
	EXPECT("not canonical by the stack",
	       asm volatile("mov %%rsp, %%rbx\n\tmov %0, %%rsp\n\tpop %%rax\n\tmov %%rbx, %%rsp"
			    : : "r"(0x8000000000000000UL) : "rax", "rbx", "memory"));
	EXPECT("kernel memory", (void)*(volatile int *)0xffffffff81000000UL);
	EXPECT("32-bit division by zero", zero = 5 / zero);
	EXPECT("64-bit quotient too large",
	       asm volatile("divq %0" : : "r"(1UL), "a"(0UL), "d"(2UL)));
	EXPECT("signed quotient too large",
	       asm volatile("idivl %0" : : "r"(-1), "a"(0x80000000), "d"(-1)));
	EXPECT("ud2", asm volatile("ud2"));
	EXPECT("hlt", asm volatile("hlt"));
	EXPECT("in", asm volatile("inb $0x80, %%al" : : : "rax"));
	EXPECT("cli", asm volatile("cli"));
	EXPECT("rdmsr", asm volatile("rdmsr" : : "c"(0x10) : "rax", "rdx"));
	EXPECT("mov to cr3", asm volatile("mov %0, %%cr3" : : "r"(0UL)));
	EXPECT("int3", asm volatile("int3"));
	EXPECT("int 0x33", asm volatile("int $0x33"));
	EXPECT("movaps of odd", asm volatile("movaps (%0), %%xmm0" : : "r"(page + 1) : "xmm0"));
	EXPECT("pand of odd", asm volatile("pand 4(%0), %%xmm0" : : "r"(page) : "xmm0"));
	EXPECT("fxrstor of bad mxcsr", {
		static _Alignas(16) uint8_t image[512];
		asm volatile("fxsave %0" : "+m"(image));
		image[26] = 1;
		asm volatile("fxrstor %0" : : "m"(image));
	});
	EXPECT("segment that is not", asm volatile("mov %0, %%es" : : "r"(0x7ff8)));

	/* Unmasked floating-point exceptions, of both kinds. */
	int kinds[] = { FE_DIVBYZERO, FE_OVERFLOW, FE_INVALID, FE_INEXACT, FE_UNDERFLOW };
	for (volatile int at = 0; at < 5; at++) {
		feenableexcept(kinds[at]);
		EXPECT("sse division", { double by = nought; asm volatile("divsd %1, %0" : "+x"(by) : "x"(nought)); });
		fedisableexcept(FE_ALL_EXCEPT), feclearexcept(FE_ALL_EXCEPT), feenableexcept(kinds[at]);
		EXPECT("sse one by zero", { double by = 1; asm volatile("divsd %1, %0" : "+x"(by) : "x"(nought)); });
		fedisableexcept(FE_ALL_EXCEPT), feclearexcept(FE_ALL_EXCEPT), feenableexcept(kinds[at]);
		EXPECT("sse square", { double by = huge; asm volatile("mulsd %0, %0" : "+x"(by)); });
		fedisableexcept(FE_ALL_EXCEPT), feclearexcept(FE_ALL_EXCEPT), feenableexcept(kinds[at]);
		EXPECT("sse thirds", { float by = 1; asm volatile("divss %1, %0" : "+x"(by) : "x"(3.0f)); });
		fedisableexcept(FE_ALL_EXCEPT), feclearexcept(FE_ALL_EXCEPT), feenableexcept(kinds[at]);
		EXPECT("x87 one by zero", asm volatile("fld1\n\tfldz\n\tfdivrp\n\tfwait\n\tfstp %%st(0)" : : : "st"));
		fedisableexcept(FE_ALL_EXCEPT), feclearexcept(FE_ALL_EXCEPT), feenableexcept(kinds[at]);
		EXPECT("x87 root", asm volatile("fld1\n\tfchs\n\tfsqrt\n\tfwait\n\tfstp %%st(0)" : : : "st"));
		fedisableexcept(FE_ALL_EXCEPT), feclearexcept(FE_ALL_EXCEPT), feenableexcept(kinds[at]);
		EXPECT("x87 thirds", long_nought = (1.0L + zero) / (3.0L + zero); asm volatile("fwait"));
		fedisableexcept(FE_ALL_EXCEPT), feclearexcept(FE_ALL_EXCEPT);
		asm volatile("fninit");
	}

	/* Handlers that return. */
	with_handler(SIGSEGV, repair, SA_ONSTACK);
	page[4096 + 5] = 42;
	*(volatile uint64_t *)(page + 8192 - 4) = 0x1122334455667788UL;
	printf("repaired %d, %d %02x %02x\n", repaired, page[4096 + 5], page[8191], page[8192]);
	with_handler(SIGILL, skip_instruction, 0);
	long value = 1;
	double before = 1.25, after = before;
	asm volatile("ud2\n\tud2\n\tud2" : "+a"(value), "+x"(after));
	printf("skipped %ld %g\n", value, after);
	with_handler(SIGTRAP, step, SA_ONSTACK);
	asm volatile("pushf\n\torl $0x100, (%%rsp)\n\tpopf\n\tnop\n\tnop\n\tmov $5, %%ecx\n"
		     "1:\tloop 1b\n\tpushf\n\tandl $0xfffffeff, (%%rsp)\n\tpopf\n\tnop"
		     : : : "rcx", "cc", "memory");
	printf("steps %d\n", steps);

	/* Asynchronous ones, which come in the middle of floating-point work. */
	signal(SIGALRM, on_alarm);
	struct itimerval timer = { { 0, 2000 }, { 0, 2000 } };
	setitimer(ITIMER_REAL, &timer, NULL);
	double total = 0;
	long double long_total = 0;
	for (int turn = 1; turn < 400000 || alarms < 5; turn++) {
		if (turn >= 400000)
			continue;
		total += 1.0 / turn;
		long_total += 1.0L / turn;
	}
	timer.it_interval = timer.it_value = (struct timeval){ 0, 0 };
	setitimer(ITIMER_REAL, &timer, NULL);
	printf("harmonic %.17g %.20Lg\n", total, long_total);

	/* Children that fault for good, and one that gets its parent's memory. */
	volatile int shared = 7;
	fflush(stdout);
	for (int kind = 0; kind < 3; kind++) {
		pid_t child = fork();
		if (child == 0) {
			shared = 8;
			signal(SIGFPE, SIG_DFL), signal(SIGILL, SIG_DFL);
			if (kind == 0)
				zero = 5 / zero;
			if (kind == 1)
				asm volatile("ud2");
			_exit(shared);
		}
		int status;
		waitpid(child, &status, 0);
		printf("child signal %d status %d mine %d\n",
		       WIFSIGNALED(status) ? WTERMSIG(status) : 0,
		       WIFEXITED(status) ? WEXITSTATUS(status) : 0, shared);
	}
	return 0;
}
