/* SSSE3, SSE4.1, SSE4.2 and POPCNT through the compiler's intrinsics, and the C library's functions
 * on strings, which choose their variants by what CPUID says. */
#include <inttypes.h>
#include <nmmintrin.h>
#include <stdio.h>
#include <string.h>

static uint64_t state = 11, hash;

static uint64_t next(void)
{
	uint64_t word = state += 0x9e3779b97f4a7c15ULL;
	word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9ULL;
	word = (word ^ word >> 27) * 0x94d049bb133111ebULL;
	return word ^ word >> 31;
}

static void mix(uint64_t value)
{
	hash = (hash ^ value) * 0x100000001b3ULL;
	hash ^= hash >> 29;
}

static void mix_vector(__m128i vector)
{
	uint64_t words[2];
	memcpy(words, &vector, 16);
	mix(words[0]), mix(words[1]);
}

static void report(const char *name)
{
	printf("%s %016" PRIx64 "\n", name, hash);
}

static __m128i integers(void) { return _mm_set_epi64x((int64_t)next(), (int64_t)next()); }

/* Characters of a small alphabet, with zeroes among them. */
static __m128i text(void)
{
	char bytes[16];
	for (int index = 0; index < 16; index++)
		bytes[index] = "abc\xe1" "abca"[next() % 8];
	if (next() % 2)
		bytes[next() % 16] = 0;
	__m128i result;
	memcpy(&result, bytes, 16);
	return result;
}

static float number(void)
{
	static const float edges[] = { 0.0f, -0.0f, 0.5f, -0.5f, 1.5f, 2.5f, -2.5f, 0.49999997f, 8388607.5f, 1e30f };
	return next() % 2 ? edges[next() % 10] : (float)(int32_t)next() / 65536.0f;
}

#define KEEP(vector) mix_vector(vector)

static void integer(void)
{
	for (int round = 0; round < 2000; round++) {
		__m128i a = integers(), b = integers();
		KEEP(_mm_shuffle_epi8(a, b)), KEEP(_mm_alignr_epi8(a, b, 5)), KEEP(_mm_alignr_epi8(a, b, 21));
		KEEP(_mm_hadd_epi16(a, b)), KEEP(_mm_hadds_epi16(a, b)), KEEP(_mm_hadd_epi32(a, b));
		KEEP(_mm_hsub_epi16(a, b)), KEEP(_mm_hsubs_epi16(a, b)), KEEP(_mm_hsub_epi32(a, b));
		KEEP(_mm_maddubs_epi16(a, b)), KEEP(_mm_mulhrs_epi16(a, b));
		KEEP(_mm_sign_epi8(a, b)), KEEP(_mm_sign_epi16(a, b)), KEEP(_mm_sign_epi32(a, b));
		KEEP(_mm_abs_epi8(a)), KEEP(_mm_abs_epi16(a)), KEEP(_mm_abs_epi32(a));
		KEEP(_mm_mullo_epi32(a, b)), KEEP(_mm_mul_epi32(a, b)), KEEP(_mm_packus_epi32(a, b));
		KEEP(_mm_min_epi8(a, b)), KEEP(_mm_max_epi8(a, b)), KEEP(_mm_min_epu16(a, b)), KEEP(_mm_max_epu16(a, b));
		KEEP(_mm_min_epi32(a, b)), KEEP(_mm_max_epi32(a, b)), KEEP(_mm_min_epu32(a, b)), KEEP(_mm_max_epu32(a, b));
		KEEP(_mm_cmpeq_epi64(a, b)), KEEP(_mm_cmpeq_epi64(a, a)), KEEP(_mm_cmpgt_epi64(a, b));
		KEEP(_mm_mpsadbw_epu8(a, b, 6)), KEEP(_mm_minpos_epu16(a));
		KEEP(_mm_cvtepi8_epi16(a)), KEEP(_mm_cvtepi8_epi64(a)), KEEP(_mm_cvtepi16_epi32(a));
		KEEP(_mm_cvtepu8_epi32(a)), KEEP(_mm_cvtepu16_epi64(a)), KEEP(_mm_cvtepu32_epi64(a));
		KEEP(_mm_blend_epi16(a, b, 0x5a)), KEEP(_mm_blendv_epi8(a, b, integers()));
		KEEP(_mm_insert_epi8(a, (int)next(), 7)), KEEP(_mm_insert_epi64(a, (int64_t)next(), 1));
		mix((uint64_t)_mm_extract_epi8(a, 9)), mix((uint64_t)_mm_extract_epi64(a, 1)), mix((uint64_t)_mm_extract_epi32(a, 2));
		mix((uint64_t)(_mm_testz_si128(a, b) | _mm_testc_si128(a, b) << 1 | _mm_testnzc_si128(a, b) << 2));
		mix((uint64_t)_mm_popcnt_u64(next())), mix((uint64_t)_mm_popcnt_u32((uint32_t)next()));
		mix(_mm_crc32_u8((uint32_t)next(), (uint8_t)next())), mix(_mm_crc32_u64(next(), next()));
		mix(_mm_crc32_u16((uint32_t)next(), (uint16_t)next())), mix(_mm_crc32_u32((uint32_t)next(), (uint32_t)next()));
	}
	report("integer");
}

#define ROUND(how)                                                                                 \
	do {                                                                                       \
		_mm_setcsr(control);                                                               \
		__m128 rounded = _mm_round_ps(a, how);                                             \
		asm volatile("" : "+x"(rounded) : : "memory");                                     \
		mix(_mm_getcsr() & 0x3f);                                                          \
		KEEP(_mm_castps_si128(rounded));                                                   \
		KEEP(_mm_castpd_si128(_mm_round_pd(_mm_cvtps_pd(a), how)));                        \
	} while (0)

static void floating(void)
{
	for (int round = 0; round < 4000; round++) {
		unsigned control = 0x1f80 | (unsigned)(next() & 3) << 13;
		__m128 a = _mm_set_ps(number(), number(), number(), number());
		__m128 b = _mm_set_ps(number(), number(), number(), number());
		ROUND(_MM_FROUND_TO_NEAREST_INT);
		ROUND(_MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
		ROUND(_MM_FROUND_TO_POS_INF);
		ROUND(_MM_FROUND_TO_ZERO);
		ROUND(_MM_FROUND_CUR_DIRECTION);
		_mm_setcsr(control);
		KEEP(_mm_castps_si128(_mm_dp_ps(a, b, 0xf5))), KEEP(_mm_castps_si128(_mm_dp_ps(a, b, 0x7f)));
		KEEP(_mm_castpd_si128(_mm_dp_pd(_mm_cvtps_pd(a), _mm_cvtps_pd(b), 0x31)));
		KEEP(_mm_castps_si128(_mm_insert_ps(a, b, 0x98))), KEEP(_mm_castps_si128(_mm_blend_ps(a, b, 6)));
		KEEP(_mm_castps_si128(_mm_blendv_ps(a, b, _mm_castsi128_ps(integers()))));
		mix((uint64_t)_mm_extract_ps(a, 3));
		_mm_setcsr(0x1f80);
	}
	report("floating");
}

#define STRINGS(how)                                                                               \
	do {                                                                                       \
		mix((uint64_t)_mm_cmpistri(a, b, how)), KEEP(_mm_cmpistrm(a, b, how));             \
		mix((uint64_t)(_mm_cmpistrc(a, b, how) | _mm_cmpistrz(a, b, how) << 1 |            \
			       _mm_cmpistrs(a, b, how) << 2 | _mm_cmpistro(a, b, how) << 3));      \
		mix((uint64_t)_mm_cmpestri(a, first, b, second, how));                             \
		KEEP(_mm_cmpestrm(a, first, b, second, how));                                      \
		mix((uint64_t)(_mm_cmpestra(a, first, b, second, how)));                           \
	} while (0)

static void strings(void)
{
	for (int round = 0; round < 4000; round++) {
		__m128i a = text(), b = text();
		int first = (int)(next() % 40) - 20, second = (int)(next() % 40) - 20;
		STRINGS(0x00); STRINGS(0x04); STRINGS(0x08); STRINGS(0x0c); STRINGS(0x1a); STRINGS(0x3a);
		STRINGS(0x44); STRINGS(0x7c); STRINGS(0x09); STRINGS(0x4d); STRINGS(0x12); STRINGS(0x57);
	}
	report("strings");
}

static void library(void)
{
	static char one[400], other[400];
	for (int round = 0; round < 3000; round++) {
		size_t length = next() % 300, start = next() % 32;
		for (size_t index = 0; index < length; index++)
			one[start + index] = "abcdefgh"[next() % 8];
		one[start + length] = 0;
		size_t skip = length ? next() % length : 0;
		strcpy(other, one + start + skip);
		if (length > skip)
			other[next() % (length - skip)] = 'z';
		mix(strlen(one + start)), mix(strspn(one + start, "abcd")), mix(strcspn(one + start, "gh"));
		mix((uint64_t)(strpbrk(one + start, "h") ? strpbrk(one + start, "h") - one : -1));
		mix((uint64_t)(strstr(one + start, "abc") ? strstr(one + start, "abc") - one : -1));
		mix((uint64_t)((strcmp(one + start + skip, other) > 0) - (strcmp(one + start + skip, other) < 0)));
		mix((uint64_t)(strcasecmp(one + start + skip, other) != 0));
		mix((uint64_t)(memcmp(one + start, one + start + skip, length - skip) != 0));
		memmove(one + (next() % 32), one + start, length), one[399] = 0;
		mix(strnlen(one, 399));
	}
	report("library");
}

int main(void)
{
	integer();
	floating();
	strings();
	library();
	return 0;
}
