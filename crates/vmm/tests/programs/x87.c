/* The x87: long double arithmetic, its control and status words, its stack, and instructions that
 * compilers seldom pick. Its transcendental instructions are left to math.c, which prints fewer
 * digits. */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* A digest for each operation, so that a difference has a name. */
static struct { const char *name; uint64_t hash; } operations[100];
static uint64_t state = 99, *hash;

static void operation(const char *name)
{
	size_t at = 0;
	while (operations[at].name && strcmp(operations[at].name, name) != 0)
		at++;
	operations[at].name = name;
	hash = &operations[at].hash;
}

static uint64_t next(void)
{
	uint64_t word = state += 0x9e3779b97f4a7c15ULL;
	word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9ULL;
	word = (word ^ word >> 27) * 0x94d049bb133111ebULL;
	return word ^ word >> 31;
}

static void mix(uint64_t value)
{
	*hash = (*hash ^ value) * 0x100000001b3ULL;
	*hash ^= *hash >> 29;
}

static void mix_long(long double value)
{
	uint64_t mantissa;
	uint16_t exponent;
	memcpy(&mantissa, &value, 8);
	memcpy(&exponent, (char *)&value + 8, 2);
	mix(mantissa), mix(exponent);
}

static long double number(void)
{
	static const long double edges[] = { 0.0L, -0.0L, 1.0L, -1.0L, 0.5L, 2.5L, -3.5L, 0.1L, 1e4932L, -1e4932L,
		1e-4932L, 1e-4945L, 9.3e18L, 32767.5L, 2147483647.5L, -2147483648.75L, 1e17L, 123456789012345678.0L };
	struct { uint64_t mantissa; uint16_t exponent; } parts = { next() | 1ULL << 63, 0 };
	uint64_t word = next();
	long double value = 0;
	switch (word % 8) {
	case 0: parts.exponent = (uint16_t)next(); break;
	case 1: parts.exponent = 0x7fff, parts.mantissa = 1ULL << 63; break;
	case 2: parts.exponent = 0xffff, parts.mantissa |= 3ULL << 62; break;
	case 3: parts.exponent = (uint16_t)(0x3fff + (int)(word >> 8) % 70 - 5); break;
	case 4: parts.exponent = (uint16_t)(next() & 0x8000), parts.mantissa = next() >> 1; break;
	default: return edges[next() % (sizeof edges / sizeof *edges)];
	}
	memcpy(&value, &parts, 10);
	return value;
}

/* The result and the status word without its stack fields: C1 is defined where it says how an inexact
 * result was rounded, which is held against the host elsewhere. */
#define EXCEPTIONS 0x3f
#define ONE(text)                                                                                 \
	do {                                                                                      \
		operation(text);                                                                   \
		long double value = number();                                                     \
		uint16_t status;                                                                  \
		asm volatile("fclex\n\t" text "\n\tfstsw %1" : "+t"(value), "=a"(status));        \
		mix_long(value), mix(status & EXCEPTIONS);                                        \
	} while (0)
#define TWO(text)                                                                                 \
	do {                                                                                      \
		operation(text);                                                                   \
		long double value = number(), other = number();                                   \
		uint16_t status;                                                                  \
		asm volatile("fclex\n\t" text "\n\tfstsw %1" : "+t"(value), "=a"(status)          \
			     : "u"(other));                                                       \
		mix_long(value), mix(status & EXCEPTIONS);                                        \
	} while (0)
#define STORE(type, text)                                                                         \
	do {                                                                                      \
		operation(text);                                                                   \
		long double value = number();                                                     \
		type stored = 0;                                                                  \
		uint16_t status;                                                                  \
		asm volatile("fclex\n\t" text "\n\tfstsw %1"                                      \
			     : "=m"(stored), "=a"(status) : "t"(value) : "st");                   \
		uint64_t bits = 0;                                                                \
		memcpy(&bits, &stored, sizeof stored);                                            \
		mix(bits), mix(status & EXCEPTIONS);                                              \
	} while (0)
#define MEMORY(type, text)                                                                        \
	do {                                                                                      \
		operation(text);                                                                   \
		long double value = number();                                                     \
		type operand;                                                                     \
		uint64_t bits = next();                                                           \
		memcpy(&operand, &bits, sizeof operand);                                          \
		uint16_t status;                                                                  \
		asm volatile("fclex\n\t" text "\n\tfstsw %1"                                      \
			     : "+t"(value), "=a"(status) : "m"(operand));                         \
		mix_long(value), mix(status & EXCEPTIONS);                                        \
	} while (0)

static void arithmetic(void)
{
	for (int round = 0; round < 300; round++) {
		TWO("fadd %%st(1), %%st"); TWO("fsub %%st(1), %%st"); TWO("fsubr %%st(1), %%st");
		TWO("fmul %%st(1), %%st"); TWO("fdiv %%st(1), %%st"); TWO("fdivr %%st(1), %%st");
		ONE("fsqrt"); ONE("frndint"); ONE("fabs"); ONE("fchs"); ONE("fadd %%st, %%st"); ONE("fmul %%st, %%st");
		STORE(int16_t, "fistps %0"); STORE(int32_t, "fistpl %0"); STORE(int64_t, "fistpll %0");
		STORE(int16_t, "fisttps %0"); STORE(int32_t, "fisttpl %0"); STORE(int64_t, "fisttpll %0");
		STORE(float, "fstps %0"); STORE(double, "fstpl %0");
		MEMORY(float, "fadds %2"); MEMORY(double, "fmull %2"); MEMORY(int16_t, "fiadds %2");
		MEMORY(int32_t, "fidivl %2"); MEMORY(int32_t, "fisubrl %2"); MEMORY(double, "fdivrl %2"); MEMORY(float, "fsubs %2");
		
		/* Comparisons, to the status word and to the flags. */
		long double value = number(), other = number();
		uint16_t status;
		operation("fucom");
		asm volatile("fclex\n\tfucom %%st(1)\n\tfstsw %0" : "=a"(status) : "t"(value), "u"(other));
		mix(status & 0x453f);
		operation("fcom");
		asm volatile("fclex\n\tfcom %%st(1)\n\tfstsw %0" : "=a"(status) : "t"(value), "u"(other));
		mix(status & 0x453f);
		operation("ftst");
		asm volatile("fclex\n\tftst\n\tfstsw %0" : "=a"(status) : "t"(value));
		mix(status & 0x453f);
		operation("fxam");
		asm volatile("fxam\n\tfstsw %0" : "=a"(status) : "t"(value));
		mix(status & 0x4700);
		uint64_t flags;
		operation("fcomi");
		asm volatile("fcomi %%st(1), %%st\n\tpushf\n\tpop %0" : "=r"(flags) : "t"(value), "u"(other) : "cc");
		mix(flags & 0x45);
		operation("fucomi");
		asm volatile("fucomi %%st(1), %%st\n\tpushf\n\tpop %0" : "=r"(flags) : "t"(value), "u"(other) : "cc");
		mix(flags & 0x45);
		operation("fcmovbe");
		asm volatile("cmp %2, %3\n\tfcmovbe %%st(1), %%st" : "+t"(value) : "u"(other), "r"(round % 7), "r"(3) : "cc");
		mix_long(value);
		operation("fbstp");
		uint8_t decimal[10];
		asm volatile("fbstp %0" : "=m"(decimal) : "t"(number()) : "st");
		for (int at = 0; at < 10; at++)
			mix(decimal[at]);
		operation("fbld");
		for (int at = 0; at < 9; at++)
			decimal[at] = (uint8_t)((next() % 10) << 4 | next() % 10);
		decimal[9] = (uint8_t)(next() << 7);
		asm volatile("fbld %1" : "=t"(value) : "m"(decimal));
		mix_long(value);
		operation("fxtract");
		value = number();
		long double exponent;
		asm volatile("fxtract" : "=t"(value), "=u"(exponent) : "0"(value));
		mix_long(value), mix_long(exponent);
		operation("fscale");
		value = number();
		asm volatile("fscale" : "+t"(value) : "u"((long double)(int)(next() % 200) - 100));
		mix_long(value);
		operation("fprem");
		value = number(), other = number();
		for (int turn = 0; turn < 600; turn++) {
			asm volatile("fprem\n\tfstsw %1" : "+t"(value), "=a"(status) : "u"(other));
			if (!(status & 0x400))
				break;
		}
		mix_long(value), mix(isnan(value) ? 0 : status & 0x4700);
		operation("fprem1");
		value = number(), other = number();
		for (int turn = 0; turn < 600; turn++) {
			asm volatile("fprem1\n\tfstsw %1" : "+t"(value), "=a"(status) : "u"(other));
			if (!(status & 0x400))
				break;
		}
		mix_long(value);
	}
}

static void stack(void)
{
	struct { uint32_t words[7]; uint8_t registers[80]; } image;
	asm volatile("fninit\n\tfld1\n\tfldpi\n\tfldl2e\n\tfldl2t\n\tfldlg2\n\tfldln2\n\tfldz\n\tfld1\n\tfchs\n\t"
		     "fxch %%st(3)\n\tfdecstp\n\tffree %%st(5)\n\tfincstp\n\tfnsave %0" : "=m"(image) : : "memory");
	printf("control %04x status %04x tags %04x\n", image.words[0] & 0xffff, image.words[1] & 0xffff, image.words[2] & 0xffff);
	for (int at = 0; at < 8; at++) {
		for (int byte = 9; byte >= 0; byte--)
			printf("%02x", image.registers[at * 10 + byte]);
		printf(at == 7 ? "\n" : " ");
	}
	/* What overflows and underflows. */
	asm volatile("fninit\n\tfld1\n\tfld1\n\tfld1\n\tfld1\n\tfld1\n\tfld1\n\tfld1\n\tfld1\n\tfld1\n\tfnsave %0"
		     : "=m"(image) : : "memory");
	printf("overflow status %04x tags %04x\n", image.words[1] & 0xffff, image.words[2] & 0xffff);
	asm volatile("fninit\n\tfld1\n\tfaddp\n\tfnsave %0" : "=m"(image) : : "memory");
	printf("underflow status %04x tags %04x\n", image.words[1] & 0xffff, image.words[2] & 0xffff);
	image.words[1] = 0x3800, image.words[2] = 0x5555;
	long double value;
	asm volatile("frstor %1\n\tfstpt %0\n\tfninit" : "=m"(value) : "m"(image) : "memory");
	printf("restored %Lg\n", value);
	static _Alignas(16) uint8_t area[512];
	asm volatile("fninit\n\tfldpi\n\tfld1\n\tfxsave %0\n\tfninit" : "+m"(area));
	printf("fxsave control %02x%02x status %02x%02x tags %02x\n", area[1], area[0], area[3], area[2], area[4]);
	for (int at = 32; at < 64; at++)
		printf("%02x", area[at]);
	asm volatile("fxrstor %1\n\tfaddp\n\tfstpt %0\n\tfninit" : "=m"(value) : "m"(area) : "memory");
	printf(" %.20Lg\n", value);
}

int main(void)
{
	for (unsigned precision = 0; precision < 4; precision++) {
		if (precision == 1) /* reserved */
			continue;
		for (unsigned rounding = 0; rounding < 4; rounding++) {
			uint16_t control = (uint16_t)(0x7f | precision << 8 | rounding << 10), usual = 0x37f;
			memset(operations, 0, sizeof operations);
			asm volatile("fldcw %0" : : "m"(control));
			arithmetic();
			asm volatile("fldcw %0" : : "m"(usual));
			printf("precision %u rounding %u\n", precision, rounding);
			for (size_t at = 0; operations[at].name; at++)
				printf("%s %016" PRIx64 "\n", operations[at].name, operations[at].hash);
		}
	}
	stack();
	/* Long double as the compiler uses it. */
	long double sum = 0, product = 1;
	for (int turn = 1; turn < 2000; turn++) {
		sum += 1.0L / ((long double)turn * turn);
		product *= 1 + 1.0L / ((long double)turn * turn * 3);
	}
	printf("%.21Lg %.21Lg %La\n", sum, product, sum * product - 1);
	for (int turn = 0; turn < 40; turn++) {
		long double value = number();
		if (fabsl(value) < 1e9L)
			printf("%d %ld %u %.9g %.17g|", (int)value, (long)value, (unsigned)fabsl(value), (float)value, (double)value);
	}
	printf("\n%" PRIu64 " %.21Lg\n", (uint64_t)1.2e19L, (long double)UINT64_MAX);
	return 0;
}
