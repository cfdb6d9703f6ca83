/* Floating-point numbers to text and back: exact in glibc, by long arithmetic on their bits. */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state = 42;
static uint64_t next(void)
{
	uint64_t word = state += 0x9e3779b97f4a7c15ULL;
	word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9ULL;
	word = (word ^ word >> 27) * 0x94d049bb133111ebULL;
	return word ^ word >> 31;
}

int main(void)
{
	static const double doubles[] = { 0.0, -0.0, 1.0, -1.5, 0.1, 1.0 / 3, 1e-5, 123456789.125, 1e22, 1e23,
		DBL_MAX, DBL_MIN, DBL_TRUE_MIN, DBL_EPSILON, 2.5, 3.5, 0.5, 9.995, INFINITY, -INFINITY };
	for (size_t at = 0; at < sizeof doubles / sizeof *doubles; at++)
		printf("%g %.17g %e %.3f %a %10.2e|%-12.1f|%+.0f\n", doubles[at], doubles[at], doubles[at],
		       fabs(doubles[at]) < 1e30 ? doubles[at] : 0, doubles[at], doubles[at],
		       fabs(doubles[at]) < 1e30 ? doubles[at] : 0, fabs(doubles[at]) < 1e30 ? doubles[at] : 0);
	static const long double longs[] = { 0.0L, -0.0L, 1.0L, 0.1L, 1.0L / 3, 1e4000L, 1e-4000L, LDBL_MAX,
		LDBL_MIN, LDBL_TRUE_MIN, LDBL_EPSILON, 18446744073709551615.0L, 1234567890123456789.5L };
	for (size_t at = 0; at < sizeof longs / sizeof *longs; at++)
		printf("%Lg %.21Lg %La %.4Le\n", longs[at], longs[at], longs[at], longs[at]);
	int bad = 0;
	for (int turn = 0; turn < 3000; turn++) {
		uint64_t bits = next();
		double value, again;
		memcpy(&value, &bits, 8);
		char text[64];
		if (!isfinite(value))
			continue;
		snprintf(text, sizeof text, "%.17g", value);
		again = strtod(text, NULL);
		bad += memcmp(&value, &again, 8) != 0;
		if (turn % 100 == 0)
			printf("%s %.5g %a %.9g\n", text, value, value, (double)(float)value);
		struct { uint64_t mantissa; uint16_t exponent; } parts = { next() | 1ULL << 63, (uint16_t)next() };
		long double wide = 0, wide_again;
		if ((parts.exponent & 0x7fff) == 0x7fff || (parts.exponent & 0x7fff) == 0)
			continue;
		memcpy(&wide, &parts, 10);
		snprintf(text, sizeof text, "%.21Lg", wide);
		wide_again = strtold(text, NULL);
		bad += wide != wide_again;
		if (turn % 100 == 1)
			printf("%s %La %g\n", text, wide, (double)wide);
	}
	printf("bad %d\n", bad);
	static const char *const texts[] = { "1e400", "-1e-400", "0x1.8p3", "inf", "nan", "1.7976931348623159e308",
		"2.2250738585072011e-308", "9007199254740993", "0.30000000000000004", ".5e1x", "4.9e-324", "2.4e-324" };
	for (size_t at = 0; at < sizeof texts / sizeof *texts; at++) {
		char *end;
		double value = strtod(texts[at], &end);
		float narrow = strtof(texts[at], NULL);
		long double wide = strtold(texts[at], NULL);
		printf("%s %.17g %.9g %.21Lg %s\n", texts[at], value, narrow, wide, end);
	}
	return 0;
}
