/* The mathematical library, on ordinary and on extreme arguments.
 *
 * Results in double are glibc's own arithmetic and printed to the bit. Results in long double come
 * partly from x87 instructions whose last bits differ between makers of CPUs: of those fewer digits
 * are printed. */
#include <complex.h>
#include <fenv.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static double arguments[] = { 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, 3.25, -7.125, 1e-10, 1e-300, 1e-310, 0.1, 0.7,
	1.1, 10.0, 100.5, 709.5, 710.5, -745.0, -746.5, 1e5, 1e15, 1e22, 1e300, 3.14159265358979, 1.5707963267948966,
	INFINITY, -INFINITY };
enum { COUNT = sizeof arguments / sizeof *arguments };

static uint64_t hash;
static void mix(double value)
{
	uint64_t bits;
	if (isnan(value))
		bits = 0x7ff8;
	else
		memcpy(&bits, &value, 8);
	hash = (hash ^ bits) * 0x100000001b3ULL;
	hash ^= hash >> 29;
}

#define ONE(function)                                                                             \
	do {                                                                                      \
		hash = 0;                                                                         \
		feclearexcept(FE_ALL_EXCEPT);                                                     \
		for (int at = 0; at < COUNT; at++)                                                \
			mix(function(arguments[at]));                                             \
		for (double at = -30; at < 30; at += 0.37)                                        \
			mix(function(at));                                                        \
		printf("%s %.17g %.17g %016" PRIx64 " %x\n", #function, function(arguments[13]),  \
		       function(arguments[7]), hash,                                              \
		       fetestexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW));                    \
	} while (0)
#define TWO(function)                                                                             \
	do {                                                                                      \
		hash = 0;                                                                         \
		for (int left = 0; left < COUNT; left++)                                          \
			for (int right = 0; right < COUNT; right++)                               \
				mix(function(arguments[left], arguments[right]));                 \
		printf("%s %.17g %016" PRIx64 "\n", #function, function(2.75, 1.3), hash);        \
	} while (0)
#define FLOAT(function)                                                                           \
	do {                                                                                      \
		hash = 0;                                                                         \
		for (float at = -20; at < 20; at += 0.173f)                                       \
			mix(function(at));                                                        \
		printf("%s %.9g %016" PRIx64 "\n", #function, function(0.8f), hash);              \
	} while (0)
#define LONG(function)                                                                            \
	printf("%s %.15Lg %.15Lg %.15Lg\n", #function, function(0.3L), function(0.875L), function(1.75L))

static double scaled(double value) { return scalbn(value, 13) + ldexp(value, -900) + ilogb(value + 1e-9); }
static double split(double value)
{
	int exponent = 0;
	double whole = 0, fraction = isfinite(value) ? frexp(value, &exponent) : 0;
	return fraction + exponent + modf(value, &whole) + (isfinite(whole) ? whole : 0);
}
static double integers(double value)
{
	if (!(fabs(value) < 1e15))
		return 0;
	return lrint(value) * 3.0 + llround(value) * 5.0 + (double)(long)value + (double)(float)value;
}

int main(void)
{
	int modes[] = { FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO };
	ONE(sin); ONE(cos); ONE(tan); ONE(asin); ONE(acos); ONE(atan);
	ONE(sinh); ONE(cosh); ONE(tanh); ONE(asinh); ONE(acosh); ONE(atanh);
	ONE(exp); ONE(exp2); ONE(expm1); ONE(log); ONE(log2); ONE(log10); ONE(log1p);
	ONE(sqrt); ONE(cbrt); ONE(erf); ONE(erfc); ONE(tgamma); ONE(lgamma); ONE(j0); ONE(y1);
	ONE(logb); ONE(scaled); ONE(split);
	for (int mode = 0; mode < 4; mode++) {
		fesetround(modes[mode]);
		printf("rounding %d\n", mode);
		ONE(floor); ONE(ceil); ONE(trunc); ONE(round); ONE(rint); ONE(nearbyint); ONE(integers); ONE(sqrt);
	}
	fesetround(FE_TONEAREST);
	TWO(pow); TWO(atan2); TWO(fmod); TWO(remainder); TWO(hypot); TWO(fdim); TWO(fmax); TWO(nextafter); TWO(copysign);
	hash = 0;
	for (int left = 0; left < COUNT; left++)
		for (int right = 0; right < COUNT; right++)
			mix(fma(arguments[left], arguments[right], arguments[(left + right) % COUNT]));
	printf("fma %016" PRIx64 "\n", hash);
	FLOAT(sinf); FLOAT(cosf); FLOAT(tanf); FLOAT(expf); FLOAT(exp2f); FLOAT(logf); FLOAT(log2f); FLOAT(atanf); FLOAT(sqrtf); FLOAT(cbrtf);
	LONG(sinl); LONG(cosl); LONG(tanl); LONG(asinl); LONG(atanl); LONG(expl); LONG(exp2l); LONG(expm1l);
	LONG(logl); LONG(log2l); LONG(log10l); LONG(log1pl); LONG(sinhl); LONG(tanhl); LONG(cbrtl); LONG(tgammal);
	printf("%.15Lg %.15Lg %.20Lg %.20Lg %.20Lg\n", powl(1.7L, 3.3L), atan2l(1, 3), fmodl(1e30L, 7),
	       remainderl(1e30L, 7), sqrtl(2));
	for (int mode = 0; mode < 4; mode++) {
		fesetround(modes[mode]);
		printf("%.20Lg %.20Lg %.20Lg %ld %lld\n", rintl(-2.5L), nearbyintl(1e15L / 7), sqrtl(3), lrintl(2.5L),
		       llrintl(-1e18L / 3));
	}
	fesetround(FE_TONEAREST);
	double complex root = csqrt(-3 + 4 * I), power = cexp(0.5 + 1 * I);
	printf("%.17g %.17g %.17g %.17g\n", creal(root), cimag(root), creal(power), cimag(power));
	return 0;
}
