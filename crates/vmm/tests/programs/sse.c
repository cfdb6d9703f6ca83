/* SSE, SSE2 and SSE3 through the compiler's intrinsics: arithmetic, conversions in every rounding
 * mode, comparisons, shuffles, shifts, saturation, exception flags, and MXCSR's modes. */
#include <inttypes.h>
#include <pmmintrin.h>
#include <stdio.h>
#include <string.h>

static uint64_t state = 7, hash;

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

static uint64_t double_bits(void)
{
	static const double edges[] = { 0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 0.1, 1e308, -1e308, 1e-308, 5e-324,
		-1e-320, 2147483647.0, 2147483648.0, -2147483648.5, 9.3e18, 1e19, 4294967295.5 };
	uint64_t word = next(), bits;
	switch (word % 8) {
	case 0: return next();
	case 1: return 0x7ff0000000000000ULL | (next() & 1) << 63;
	case 2: return 0x7ff8000000000000ULL | next() >> 13 | (next() & 1) << 63;
	case 3: return 0x7ff0000000000000ULL | (next() >> 13 | 1);
	default: memcpy(&bits, &edges[next() % 20], 8); return bits;
	}
}

static uint32_t float_bits(void)
{
	static const float edges[] = { 0.0f, -0.0f, 1.0f, -1.0f, 0.5f, 2.5f, -3.5f, 0.1f, 3e38f, -3e38f, 1e-38f, 1e-45f,
		16777217.0f, 2147483648.0f, -2147483904.0f, 9.3e18f };
	uint64_t word = next();
	uint32_t bits;
	switch (word % 8) {
	case 0: return (uint32_t)next();
	case 1: return 0x7f800000 | (uint32_t)(next() & 1) << 31;
	case 2: return 0x7fc00000 | (uint32_t)(next() >> 42);
	case 3: return 0x7f800000 | (uint32_t)(next() >> 42 | 1);
	default: memcpy(&bits, &edges[next() % 16], 4); return bits;
	}
}

static __m128d doubles(void) { return _mm_castsi128_pd(_mm_set_epi64x((int64_t)double_bits(), (int64_t)double_bits())); }
static __m128 floats(void)
{
	return _mm_castsi128_ps(_mm_set_epi32((int)float_bits(), (int)float_bits(), (int)float_bits(), (int)float_bits()));
}
static __m128i integers(void) { return _mm_set_epi64x((int64_t)next(), (int64_t)next()); }

/* The result, and the exception flags that it leaves. */
#define KEEP(vector)                                                                              \
	do {                                                                                      \
		_mm_setcsr(control);                                                              \
		__m128i result = vector;                                                          \
		asm volatile("" : "+x"(result) : : "memory");                                     \
		unsigned flags = _mm_getcsr() & 0x3f;                                             \
		mix_vector(result), mix(flags);                                                   \
	} while (0)
#define PD(text) KEEP(_mm_castpd_si128(text))
#define PS(text) KEEP(_mm_castps_si128(text))
#define WORD(text) KEEP(_mm_set_epi64x(0, (int64_t)(text)))

static void floating(unsigned control)
{
	for (int round = 0; round < 300; round++) {
		volatile __m128d vd = doubles(), vd2 = doubles();
		volatile __m128 vf = floats(), vf2 = floats();
		__m128d a = vd, b = vd2;
		__m128 f = vf, g = vf2;
		PD(_mm_add_pd(a, b)); PD(_mm_sub_pd(a, b)); PD(_mm_mul_pd(a, b)); PD(_mm_div_pd(a, b));
		PD(_mm_sqrt_pd(a)); PD(_mm_min_pd(a, b)); PD(_mm_max_pd(a, b));
		PD(_mm_add_sd(a, b)); PD(_mm_sub_sd(a, b)); PD(_mm_mul_sd(a, b)); PD(_mm_div_sd(a, b));
		PD(_mm_sqrt_sd(a, b)); PD(_mm_min_sd(a, b)); PD(_mm_max_sd(a, b));
		PS(_mm_add_ps(f, g)); PS(_mm_sub_ps(f, g)); PS(_mm_mul_ps(f, g)); PS(_mm_div_ps(f, g));
		PS(_mm_sqrt_ps(f)); PS(_mm_min_ps(f, g)); PS(_mm_max_ps(f, g));
		PS(_mm_add_ss(f, g)); PS(_mm_mul_ss(f, g)); PS(_mm_div_ss(f, g)); PS(_mm_sqrt_ss(f));
		PD(_mm_hadd_pd(a, b)); PD(_mm_hsub_pd(a, b)); PD(_mm_addsub_pd(a, b));
		PS(_mm_hadd_ps(f, g)); PS(_mm_hsub_ps(f, g)); PS(_mm_addsub_ps(f, g));
		PD(_mm_cmpeq_pd(a, b)); PD(_mm_cmplt_pd(a, b)); PD(_mm_cmple_pd(a, b)); PD(_mm_cmpunord_pd(a, b));
		PD(_mm_cmpneq_pd(a, b)); PD(_mm_cmpnlt_pd(a, b)); PD(_mm_cmpnle_pd(a, b)); PD(_mm_cmpord_pd(a, b));
		PS(_mm_cmpeq_ps(f, g)); PS(_mm_cmplt_ss(f, g)); PS(_mm_cmpnle_ss(f, g)); PS(_mm_cmpord_ps(f, g));
		WORD(_mm_comilt_sd(a, b)); WORD(_mm_ucomieq_sd(a, b)); WORD(_mm_comige_ss(f, g)); WORD(_mm_ucomigt_ss(f, g));
		KEEP(_mm_cvtpd_epi32(a)); KEEP(_mm_cvttpd_epi32(a)); KEEP(_mm_cvtps_epi32(f)); KEEP(_mm_cvttps_epi32(f));
		PS(_mm_cvtpd_ps(a)); PD(_mm_cvtps_pd(f)); PS(_mm_cvtsd_ss(f, a)); PD(_mm_cvtss_sd(a, f));
		WORD(_mm_cvtsd_si32(a)); WORD(_mm_cvttsd_si32(a)); WORD(_mm_cvtsd_si64(a)); WORD(_mm_cvttsd_si64(a));
		WORD(_mm_cvtss_si32(f)); WORD(_mm_cvttss_si32(f)); WORD(_mm_cvtss_si64(f)); WORD(_mm_cvttss_si64(f));
		__m128i n = integers();
		PD(_mm_cvtepi32_pd(n)); PS(_mm_cvtepi32_ps(n));
		PD(_mm_cvtsi64_sd(a, (int64_t)next())); PS(_mm_cvtsi64_ss(f, (int64_t)next()));
		PD(_mm_cvtsi32_sd(a, (int)next())); PS(_mm_cvtsi32_ss(f, (int)next()));
		PD(_mm_cvtpi32_pd(_mm_cvtsi64_m64((int64_t)next()))); KEEP(_mm_set_epi64x(0, _mm_cvtm64_si64(_mm_cvttpd_pi32(a))));
		KEEP(_mm_set_epi64x(0, _mm_cvtm64_si64(_mm_cvtps_pi32(f))));
		_mm_empty();
	}
}

#define SAME(text) mix_vector(text)
static void packed(void)
{
	for (int round = 0; round < 300; round++) {
		__m128i a = integers(), b = integers(), count = _mm_cvtsi64_si128((int64_t)(next() % 70));
		SAME(_mm_add_epi8(a, b)); SAME(_mm_add_epi16(a, b)); SAME(_mm_add_epi32(a, b)); SAME(_mm_add_epi64(a, b));
		SAME(_mm_sub_epi8(a, b)); SAME(_mm_sub_epi16(a, b)); SAME(_mm_sub_epi32(a, b)); SAME(_mm_sub_epi64(a, b));
		SAME(_mm_adds_epi8(a, b)); SAME(_mm_adds_epi16(a, b)); SAME(_mm_adds_epu8(a, b)); SAME(_mm_adds_epu16(a, b));
		SAME(_mm_subs_epi8(a, b)); SAME(_mm_subs_epi16(a, b)); SAME(_mm_subs_epu8(a, b)); SAME(_mm_subs_epu16(a, b));
		SAME(_mm_mullo_epi16(a, b)); SAME(_mm_mulhi_epi16(a, b)); SAME(_mm_mulhi_epu16(a, b)); SAME(_mm_mul_epu32(a, b));
		SAME(_mm_madd_epi16(a, b)); SAME(_mm_sad_epu8(a, b)); SAME(_mm_avg_epu8(a, b)); SAME(_mm_avg_epu16(a, b));
		SAME(_mm_min_epi16(a, b)); SAME(_mm_max_epi16(a, b)); SAME(_mm_min_epu8(a, b)); SAME(_mm_max_epu8(a, b));
		SAME(_mm_and_si128(a, b)); SAME(_mm_or_si128(a, b)); SAME(_mm_xor_si128(a, b)); SAME(_mm_andnot_si128(a, b));
		SAME(_mm_cmpeq_epi8(a, b)); SAME(_mm_cmpeq_epi16(a, _mm_shuffle_epi32(a, 0x1b))); SAME(_mm_cmpeq_epi32(a, a));
		SAME(_mm_cmpgt_epi8(a, b)); SAME(_mm_cmpgt_epi16(a, b)); SAME(_mm_cmpgt_epi32(a, b));
		SAME(_mm_sll_epi16(a, count)); SAME(_mm_sll_epi32(a, count)); SAME(_mm_sll_epi64(a, count));
		SAME(_mm_srl_epi16(a, count)); SAME(_mm_srl_epi32(a, count)); SAME(_mm_srl_epi64(a, count));
		SAME(_mm_sra_epi16(a, count)); SAME(_mm_sra_epi32(a, count));
		SAME(_mm_slli_epi16(a, 3)); SAME(_mm_srli_epi32(a, 31)); SAME(_mm_srai_epi16(a, 20)); SAME(_mm_slli_epi64(a, 64));
		SAME(_mm_slli_si128(a, 5)); SAME(_mm_srli_si128(a, 11)); SAME(_mm_slli_si128(a, 16));
		SAME(_mm_packs_epi16(a, b)); SAME(_mm_packs_epi32(a, b)); SAME(_mm_packus_epi16(a, b));
		SAME(_mm_unpacklo_epi8(a, b)); SAME(_mm_unpackhi_epi8(a, b)); SAME(_mm_unpacklo_epi16(a, b)); SAME(_mm_unpackhi_epi16(a, b));
		SAME(_mm_unpacklo_epi32(a, b)); SAME(_mm_unpackhi_epi32(a, b)); SAME(_mm_unpacklo_epi64(a, b)); SAME(_mm_unpackhi_epi64(a, b));
		SAME(_mm_shuffle_epi32(a, 0x4e)); SAME(_mm_shufflelo_epi16(a, 0x93)); SAME(_mm_shufflehi_epi16(a, 0x2d));
		SAME(_mm_castps_si128(_mm_shuffle_ps(_mm_castsi128_ps(a), _mm_castsi128_ps(b), 0xb1)));
		SAME(_mm_castpd_si128(_mm_shuffle_pd(_mm_castsi128_pd(a), _mm_castsi128_pd(b), 1)));
		SAME(_mm_castps_si128(_mm_movehl_ps(_mm_castsi128_ps(a), _mm_castsi128_ps(b))));
		SAME(_mm_castps_si128(_mm_movehdup_ps(_mm_castsi128_ps(a)))); SAME(_mm_castps_si128(_mm_moveldup_ps(_mm_castsi128_ps(a))));
		SAME(_mm_castpd_si128(_mm_movedup_pd(_mm_castsi128_pd(a))));
		SAME(_mm_insert_epi16(a, (int)round, 5)); mix((uint64_t)_mm_extract_epi16(a, 3));
		mix((uint64_t)_mm_movemask_epi8(a)); mix((uint64_t)_mm_movemask_ps(_mm_castsi128_ps(a)));
		mix((uint64_t)_mm_movemask_pd(_mm_castsi128_pd(a)));
		uint8_t bytes[48] __attribute__((aligned(16)));
		memset(bytes, round, sizeof bytes);
		_mm_storeu_si128((__m128i *)(bytes + 7), a);
		_mm_maskmoveu_si128(b, a, (char *)bytes + 21);
		_mm_storel_epi64((__m128i *)(bytes + 3), b), _mm_storeh_pd((double *)(bytes + 32), _mm_castsi128_pd(a));
		_mm_stream_si128((__m128i *)bytes, _mm_loadu_si128((const __m128i *)(bytes + 9)));
		_mm_sfence();
		SAME(_mm_lddqu_si128((const __m128i *)(bytes + 13))); SAME(_mm_load_si128((const __m128i *)bytes));
		__m64 m = _mm_cvtsi64_m64((int64_t)next()), k = _mm_cvtsi64_m64((int64_t)next());
		mix((uint64_t)_mm_cvtm64_si64(_mm_add_pi16(m, k))); mix((uint64_t)_mm_cvtm64_si64(_mm_madd_pi16(m, k)));
		mix((uint64_t)_mm_cvtm64_si64(_mm_packs_pi32(m, k))); mix((uint64_t)_mm_cvtm64_si64(_mm_unpackhi_pi8(m, k)));
		mix((uint64_t)_mm_cvtm64_si64(_mm_avg_pu8(m, k))); mix((uint64_t)_mm_cvtm64_si64(_mm_sad_pu8(m, k)));
		mix((uint64_t)_mm_cvtm64_si64(_mm_shuffle_pi16(m, 0x1e))); mix((uint64_t)_mm_movemask_pi8(k));
		_mm_empty();
	}
}

int main(void)
{
	for (unsigned rounding = 0; rounding < 4; rounding++)
		for (unsigned mode = 0; mode < 4; mode++) {
			/* Rounding control is bits 13 and 14; denormals are zeroes is bit 6, flush to zero bit 15. */
			unsigned control = 0x1f80 | rounding << 13 | (mode & 1) << 6 | (mode & 2) << 14;
			hash = 0;
			floating(control);
			_mm_setcsr(0x1f80);
			printf("rounding %u mode %u %016" PRIx64 "\n", rounding, mode, hash);
		}
	hash = 0;
	packed();
	printf("packed %016" PRIx64 "\n", hash);
	return 0;
}
