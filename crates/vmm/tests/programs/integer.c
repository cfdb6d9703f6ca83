/* Integer and bit algorithms, 64- and 128-bit arithmetic, and instructions that compilers seldom
 * pick. Everything printed is defined by the architecture or by the C standard. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned __int128 u128;
typedef __int128 i128;

static uint64_t state = 0x0123456789abcdefULL;

static uint64_t next(void)
{
	uint64_t word = state += 0x9e3779b97f4a7c15ULL;
	word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9ULL;
	word = (word ^ word >> 27) * 0x94d049bb133111ebULL;
	return word ^ word >> 31;
}

/* Numbers near the edges as often as numbers in the middle. */
static uint64_t interesting(void)
{
	static const uint64_t edges[] = { 0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff,
		0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, INT64_MAX, 1ULL << 63, UINT64_MAX };
	uint64_t word = next();
	return word & 1 ? edges[(word >> 1) % (sizeof edges / sizeof *edges)] : next() >> (word >> 1) % 64;
}

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

static uint32_t crc_table[256];
static uint32_t crc(const uint8_t *data, size_t length)
{
	uint32_t sum = ~0u;
	while (length--)
		sum = sum >> 8 ^ crc_table[(sum ^ *data++) & 255];
	return ~sum;
}

static void algorithms(void)
{
	for (uint32_t byte = 0; byte < 256; byte++) {
		uint32_t word = byte;
		for (int bit = 0; bit < 8; bit++)
			word = word & 1 ? word >> 1 ^ 0xedb88320 : word >> 1;
		crc_table[byte] = word;
	}
	printf("crc %08x\n", crc((const uint8_t *)"123456789", 9));
	static uint8_t sieve[50000];
	int primes = 0;
	for (int number = 2; number < 50000; number++) {
		if (sieve[number])
			continue;
		primes++;
		for (int multiple = 2 * number; multiple < 50000; multiple += number)
			sieve[multiple] = 1;
	}
	printf("primes %d\n", primes);
	uint64_t longest = 0, start = 0;
	for (uint64_t from = 1; from < 5000; from++) {
		uint64_t steps = 0;
		for (uint64_t at = from; at != 1; steps++)
			at = at & 1 ? 3 * at + 1 : at / 2;
		if (steps > longest)
			longest = steps, start = from;
	}
	printf("collatz %" PRIu64 " %" PRIu64 "\n", start, longest);
	/* Modular powers by 128-bit products, and Miller and Rabin's test with them. */
	int strong = 0;
	for (int round = 0; round < 100; round++) {
		uint64_t modulus = next() | 1, result = 1, base = 2;
		for (uint64_t exponent = modulus - 1; exponent; exponent >>= 1) {
			if (exponent & 1)
				result = (u128)result * base % modulus;
			base = (u128)base * base % modulus;
		}
		strong += result == 1;
		mix(result);
	}
	printf("fermat %d\n", strong);
	show("powers");
}

static void wide(void)
{
	for (int round = 0; round < 3000; round++) {
		u128 left = (u128)interesting() << 64 | interesting();
		u128 right = (u128)interesting() << 64 | interesting();
		u128 values[] = { left + right, left - right, left * right, left & right, left | right,
			left ^ right, ~left, left << right % 128, left >> right % 128,
			(u128)((i128)left >> right % 128), right ? left / right : 0,
			right ? left % right : 0,
			right && (i128)right != -1 ? (u128)((i128)left / (i128)right) : 0,
			right && (i128)right != -1 ? (u128)((i128)left % (i128)right) : 0,
			left < right, (i128)left < (i128)right };
		for (size_t index = 0; index < sizeof values / sizeof *values; index++)
			mix(values[index]), mix(values[index] >> 64);
	}
	show("wide");
}

#define ROUND(type, signed_type)                                                                  \
	do {                                                                                      \
		volatile type left = (type)interesting(), right = (type)interesting();            \
		int shift = right % (sizeof(type) * 8);                                           \
		mix((type)(left + right)), mix((type)(left - right)), mix((type)(left * right));  \
		mix((type)(left << shift)), mix((type)(left >> shift));                           \
		mix((type)((signed_type)left >> shift));                                          \
		mix((type)(left << shift | left >> ((sizeof(type) * 8 - shift) & (sizeof(type) * 8 - 1)))); \
		if (right)                                                                        \
			mix(left / right), mix(left % right);                                     \
		if (right && (signed_type)right != -1)                                            \
			mix((signed_type)left / (signed_type)right),                              \
				mix((signed_type)left % (signed_type)right);                      \
		mix(left < right), mix((signed_type)left < (signed_type)right);                   \
		mix(left == right), mix(-left), mix((type)~left), mix(!left);                     \
		type sum;                                                                         \
		signed_type signed_sum;                                                           \
		mix(__builtin_add_overflow(left, right, &sum)), mix(sum);                         \
		mix(__builtin_sub_overflow((signed_type)left, (signed_type)right, &signed_sum));  \
		mix(signed_sum);                                                                  \
		mix(__builtin_mul_overflow((signed_type)left, (signed_type)right, &signed_sum));  \
		mix(signed_sum);                                                                  \
	} while (0)

static void widths(void)
{
	for (int round = 0; round < 3000; round++) {
		ROUND(uint8_t, int8_t);
		ROUND(uint16_t, int16_t);
		ROUND(uint32_t, int32_t);
		ROUND(uint64_t, int64_t);
	}
	show("widths");
	for (int round = 0; round < 3000; round++) {
		uint64_t word = interesting();
		mix(__builtin_popcountll(word)), mix(__builtin_parityll(word));
		mix(__builtin_bswap64(word)), mix(__builtin_bswap32(word)), mix(__builtin_bswap16(word));
		if (word)
			mix(__builtin_clzll(word)), mix(__builtin_ctzll(word));
		mix(__builtin_ffsll(word)), mix(__builtin_clrsbll(word));
	}
	show("bits");
}

/* CF, PF, AF, ZF, SF and OF as far as the instruction defines them. */
enum { CF = 1, PF = 4, AF = 16, ZF = 64, SF = 128, OF = 2048, ALL = CF | PF | AF | ZF | SF | OF };

#define FLAGS_OF(text, type, defined)                                                             \
	do {                                                                                      \
		type left = (type)interesting(), right = (type)interesting();                     \
		uint64_t flags = interesting() & CF;                                              \
		asm volatile("push %2\n\tpopf\n\t" text "\n\tpushf\n\tpop %2"                     \
			     : "+q"(left), "+q"(right), "+r"(flags)                               \
			     :                                                                    \
			     : "cc", "memory");                                                   \
		mix(left), mix(right), mix(flags & (defined));                                    \
	} while (0)
#define EACH(text, defined)                                                                       \
	FLAGS_OF(text, uint8_t, defined);                                                         \
	FLAGS_OF(text, uint16_t, defined);                                                        \
	FLAGS_OF(text, uint32_t, defined);                                                        \
	FLAGS_OF(text, uint64_t, defined)

/* The red zone must not be below the stack pointer where flags are pushed. */
__attribute__((noinline)) static void flags(void)
{
	for (int round = 0; round < 500; round++) {
		EACH("add %1, %0", ALL);
		EACH("adc %1, %0", ALL);
		EACH("sub %1, %0", ALL);
		EACH("sbb %1, %0", ALL);
		EACH("cmp %1, %0", ALL);
		EACH("and %1, %0", ALL & ~AF);
		EACH("or %1, %0", ALL & ~AF);
		EACH("xor %1, %0", ALL & ~AF);
		EACH("test %1, %0", ALL & ~AF);
		EACH("inc %0", ALL);
		EACH("dec %0", ALL);
		EACH("neg %0", ALL);
		EACH("not %0", ALL);
		EACH("xadd %1, %0", ALL);
		EACH("xchg %1, %0", ALL);
		EACH("shl $1, %0", ALL & ~AF);
		EACH("shr $1, %0", ALL & ~AF);
		EACH("sar $1, %0", ALL & ~AF);
		EACH("shl $5, %0", ALL & ~AF & ~OF);
		EACH("sar $7, %0", ALL & ~AF & ~OF);
		EACH("rol $1, %0", ALL & ~AF);
		EACH("ror $1, %0", ALL & ~AF);
		EACH("rcl $1, %0", ALL & ~AF);
		EACH("rcr $1, %0", ALL & ~AF);
		EACH("rcl $3, %0", CF);
		EACH("rcr $6, %0", CF);
		FLAGS_OF("imul %1, %0", uint16_t, CF | OF);
		FLAGS_OF("imul %1, %0", uint32_t, CF | OF);
		FLAGS_OF("imul %1, %0", uint64_t, CF | OF);
		FLAGS_OF("bt %1, %0", uint32_t, CF);
		FLAGS_OF("bts %1, %0", uint64_t, CF);
		FLAGS_OF("btr %1, %0", uint16_t, CF);
		FLAGS_OF("btc %1, %0", uint64_t, CF);
		FLAGS_OF("shld $9, %1, %0", uint32_t, CF | PF | ZF | SF);
		FLAGS_OF("shrd $13, %1, %0", uint64_t, CF | PF | ZF | SF);
		FLAGS_OF("shld $1, %1, %0", uint16_t, ALL & ~AF);
		FLAGS_OF("clc\n\tcmc\n\tcmovc %1, %0", uint64_t, CF);
		FLAGS_OF("setl %b0\n\tsetbe %b1", uint64_t, CF);
		FLAGS_OF("bswap %0", uint64_t, CF);
	}
	show("flags");
	for (int round = 0; round < 2000; round++) {
		uint64_t a = interesting(), b = interesting(), c = interesting() % (b ? b : 1);
		uint64_t low, high, quotient, rest;
		asm("mulq %3" : "=a"(low), "=d"(high) : "0"(a), "r"(b) : "cc");
		mix(low), mix(high);
		asm("imulq %3" : "=a"(low), "=d"(high) : "0"(a), "r"(b) : "cc");
		mix(low), mix(high);
		if (b) {
			asm("divq %4" : "=a"(quotient), "=d"(rest) : "0"(a), "1"(c), "r"(b) : "cc");
			mix(quotient), mix(rest);
		}
		asm("cqo" : "=d"(high) : "a"(a));
		mix(high);
		uint16_t word = (uint16_t)a;
		asm("lahf\n\tsahf" : "+a"(word) : : "cc");
		mix(word & 0xff);
		uint8_t table[256], byte = (uint8_t)a;
		for (int at = 0; at < 256; at++)
			table[at] = (uint8_t)(at * 7 + round);
		asm("xlat" : "+a"(byte) : "b"(table), "m"(table));
		mix(byte);
	}
	show("accumulator");
}

static void exchanges(void)
{
	_Alignas(16) uint64_t memory[4] = { 1, 2, 3, 4 };
	for (int round = 0; round < 500; round++) {
		uint64_t low = round & 1 ? memory[0] : next(), high = round & 2 ? memory[1] : next();
		uint64_t new_low = next(), new_high = next();
		uint8_t equal;
		asm volatile("lock cmpxchg16b %1\n\tsetz %0"
			     : "=q"(equal), "+m"(*(u128 *)memory), "+a"(low), "+d"(high)
			     : "b"(new_low), "c"(new_high)
			     : "cc");
		mix(equal), mix(low), mix(high), mix(memory[0]), mix(memory[1]);
		uint32_t low32 = round & 4 ? (uint32_t)memory[2] : 5, high32 = (uint32_t)(memory[2] >> 32);
		asm volatile("lock cmpxchg8b %1\n\tsetz %0"
			     : "=q"(equal), "+m"(memory[2]), "+a"(low32), "+d"(high32)
			     : "b"((uint32_t)new_low), "c"((uint32_t)new_high)
			     : "cc");
		mix(equal), mix(low32), mix(high32), mix(memory[2]);
		uint64_t expected = round & 8 ? memory[3] : 0;
		mix(__atomic_compare_exchange_n(&memory[3], &expected, next(), 0, __ATOMIC_SEQ_CST,
						__ATOMIC_SEQ_CST));
		mix(expected);
		mix(__atomic_fetch_add(&memory[3], 7, __ATOMIC_SEQ_CST));
		mix(__atomic_fetch_xor(&memory[3], 0x55, __ATOMIC_SEQ_CST));
		mix(__atomic_exchange_n((uint16_t *)memory + 13, (uint16_t)round, __ATOMIC_SEQ_CST));
		/* A bit string is addressed beyond its first word. */
		asm volatile("lock btsq %1, %0" : "+m"(*(uint64_t(*)[4])memory) : "r"((uint64_t)(round % 256)) : "cc");
		mix(memory[0] ^ memory[1] ^ memory[2] ^ memory[3]);
	}
	show("exchanges");
}

static int64_t calls(int depth, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f, int64_t g)
{
	if (depth == 0)
		return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g;
	int64_t (*volatile self)(int, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t) = calls;
	return self(depth - 1, b, c, d, e, f, g, a + depth) ^ depth;
}

static const char *choose(int what)
{
	switch (what) {
	case 0: return "nought";
	case 1: return "one";
	case 2: return "two";
	case 3: return "three";
	case 4: return "four";
	case 5: return "five";
	case 9: return "nine";
	default: return "many";
	}
}

int main(void)
{
	algorithms();
	wide();
	widths();
	flags();
	exchanges();
	printf("calls %" PRId64 "\n", calls(500, 1, 2, 3, 4, 5, 6, 7));
	for (int what = 0; what < 11; what++)
		printf("%s ", choose(what));
	printf("\n");
	return 0;
}
