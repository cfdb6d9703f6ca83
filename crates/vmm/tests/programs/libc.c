/* What a C library does all day: sorting, strings, memory of every size and alignment, numbers to
 * text and back, jumps out of functions, allocation. */
#define _GNU_SOURCE
#include <ctype.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

static uint32_t random_state = 12345;
static uint32_t next(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 17;
	return random_state ^= random_state << 5;
}

static uint64_t digest(const void *data, size_t length)
{
	const uint8_t *byte = data;
	uint64_t hash = 0xcbf29ce484222325ULL;
	while (length--)
		hash = (hash ^ *byte++) * 0x100000001b3ULL;
	return hash;
}

static int by_value(const void *left, const void *right)
{
	int32_t a = *(const int32_t *)left, b = *(const int32_t *)right;
	return (a > b) - (a < b);
}

static int by_text(const void *left, const void *right)
{
	return strcmp(*(char *const *)left, *(char *const *)right);
}

static void sorting(void)
{
	static int32_t numbers[20000];
	for (int at = 0; at < 20000; at++)
		numbers[at] = (int32_t)next();
	qsort(numbers, 20000, sizeof *numbers, by_value);
	printf("sorted %d %d %d %016" PRIx64 "\n", numbers[0], numbers[10000], numbers[19999],
	       digest(numbers, sizeof numbers));
	int found = 0;
	for (int at = 0; at < 20000; at += 7)
		found += bsearch(&numbers[at], numbers, 20000, sizeof *numbers, by_value) != NULL;
	printf("found %d\n", found);
	char *words[500];
	for (int at = 0; at < 500; at++) {
		char text[32];
		snprintf(text, sizeof text, "%x%s", next() % 4096, at % 3 ? "" : "tail");
		words[at] = strdup(text);
	}
	qsort(words, 500, sizeof *words, by_text);
	for (int at = 0; at < 500; at += 83)
		printf("%s ", words[at]);
	printf("\n");
	for (int at = 0; at < 500; at++)
		free(words[at]);
}

/* Every function that has a variant for each kind of CPU, at every small size and alignment. */
static void memory(void)
{
	static uint8_t from[5000], to[5000];
	for (size_t at = 0; at < sizeof from; at++)
		from[at] = (uint8_t)next();
	uint64_t hash = 0;
	for (size_t length = 0; length < 300; length += length < 70 ? 1 : 13)
		for (size_t source = 0; source < 17; source += 3)
			for (size_t target = 0; target < 17; target++) {
				memset(to, 0xa5, 600);
				memcpy(to + target, from + source, length);
				hash = hash * 31 + digest(to, 400);
				memmove(to + target, to + source, length);
				hash = hash * 31 + digest(to, 400);
				memset(to + target, (int)length, length);
				hash = hash * 31 + digest(to, 400);
				int order = memcmp(from + source, to + target, length);
				hash = hash * 31 + (uint64_t)((order > 0) - (order < 0));
			}
	printf("memory %016" PRIx64 "\n", hash);
	for (size_t length = 1000; length < 4000; length += 333) {
		memmove(to + 3, from + 1, length);
		memmove(to + 100, to + 3, length);
		memmove(to + 1, to + 60, length);
		printf("%016" PRIx64 " ", digest(to, sizeof to));
	}
	printf("\n");
	size_t large = 3 << 20;
	uint8_t *block = malloc(large), *other = calloc(1, large);
	for (size_t at = 0; at < large; at += 8)
		memcpy(block + at, &(uint64_t){ next() }, 8);
	memcpy(other + 5, block, large - 5);
	memmove(other, other + 5, large - 5);
	printf("large %d %016" PRIx64 "\n", memcmp(block, other, large - 5), digest(other, large));
	free(block);
	free(other);
}

static void strings(void)
{
	static char text[400], copy[500];
	uint64_t hash = 0;
	for (size_t start = 0; start < 33; start++)
		for (size_t length = 0; length < 100; length += 1 + length / 9) {
			memset(text, 'x', sizeof text);
			for (size_t at = 0; at < length; at++)
				text[start + at] = (char)('a' + (at * 7 + length) % 26);
			text[start + length] = 0;
			const char *string = text + start;
			char *found;
			hash = hash * 31 + strlen(string);
			hash = hash * 31 + strnlen(string, 50);
			found = strchr(string, 'q');
			hash = hash * 31 + (found ? (uint64_t)(found - string) : 999);
			found = strrchr(string, 'e');
			hash = hash * 31 + (found ? (uint64_t)(found - string) : 999);
			found = memchr(string, 'z', length);
			hash = hash * 31 + (found ? (uint64_t)(found - string) : 999);
			hash = hash * 31 + (uint64_t)(strchrnul(string, 'k') - string);
			hash = hash * 31 + strcspn(string, "zyx") + strspn(string, "abcdefhov");
			found = strpbrk(string, "jkl");
			hash = hash * 31 + (found ? (uint64_t)(found - string) : 999);
			hash = hash * 31 + (uint64_t)((char *)rawmemchr(string, 0) - string);
			strcpy(copy, string);
			strcat(copy, string);
			strncat(copy, string, 5);
			hash = hash * 31 + digest(copy, strlen(copy) + 1);
			found = strstr(copy, "hov");
			hash = hash * 31 + (found ? (uint64_t)(found - copy) : 999);
			hash = hash * 31 + (uint64_t)(stpcpy(copy, string) - copy);
			strncpy(copy, string, 60);
			hash = hash * 31 + digest(copy, 60);
			copy[length / 2]++;
			int order = strcmp(copy, string), some = strncmp(copy, string, 10);
			hash = hash * 31 + (uint64_t)(order > 0) + 2 * (some > 0) + 4 * (some < 0);
			hash = hash * 31 + (uint64_t)(strcasecmp(copy, string) > 0);
		}
	printf("strings %016" PRIx64 "\n", hash);
	char line[] = "one, two;three  four,,five";
	char *rest = line;
	for (char *word = strtok_r(line, " ,;", &rest); word; word = strtok_r(NULL, " ,;", &rest))
		printf("<%s>", word);
	wchar_t wide[64];
	swprintf(wide, 64, L"%d %ls", 42, L"wide");
	printf(" %zu %zu\n", wcslen(wide), wcscspn(wide, L"w"));
	for (int byte = 0, alpha = 0; byte < 256; byte++) {
		alpha += (isalpha(byte) != 0) + 300 * (isspace(byte) != 0) + 9000 * (isxdigit(byte) != 0);
		if (byte == 255)
			printf("classes %d\n", alpha);
	}
}

static void numbers(void)
{
	printf("%ld %ld %lu %ld\n", strtol("-123456", NULL, 10), strtol("7fffFFFFffffFFFF", NULL, 16),
	       strtoul("777777777", NULL, 8), strtol("99999999999999999999", NULL, 10));
	printf("%+d|%-8d|%08d|% d|%x|%#X|%o|%hhd|%" PRId64 "|%zu|%c|%10.4s|\n", 5, -42, 42, 7, 0xbeef,
	       0xbeef, 511, (signed char)300, INT64_MIN, (size_t)-1, '*', "truncated");
	int year, month;
	char word[20];
	double value;
	int got = sscanf("2024-03 word 6.25e-3", "%d-%d %19s %lf", &year, &month, word, &value);
	printf("%d %d %d %s %.17g\n", got, year, month, word, value);
	time_t moment = 1700000000;
	struct tm parts;
	gmtime_r(&moment, &parts);
	char date[64];
	strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S day %j", &parts);
	printf("%s %lld\n", date, (long long)timegm(&parts));
}

static jmp_buf back;
static int depth;
static void dive(int levels)
{
	volatile int local = levels;
	depth++;
	if (levels == 0)
		longjmp(back, 7);
	if (levels > 0)
		dive(levels - 1);
	depth += local;
}

static void jumps(void)
{
	for (volatile int turn = 0; turn < 20; turn++) {
		double volatile kept = turn * 1.5;
		int value = setjmp(back);
		if (value == 0)
			dive(turn * 3);
		printf("%d:%g ", value + depth, kept);
	}
	printf("\n");
	volatile int signals_kept = 0;
	sigjmp_buf place;
	if (sigsetjmp(place, 1) < 5) {
		signals_kept++;
		siglongjmp(place, signals_kept);
	}
	printf("returned %d times\n", signals_kept);
}

static long sum(int count, ...)
{
	va_list arguments;
	long total = 0;
	va_start(arguments, count);
	for (int at = 0; at < count; at++)
		total += at % 3 == 2 ? (long)va_arg(arguments, double) : va_arg(arguments, long);
	va_end(arguments);
	return total;
}

static void allocation(void)
{
	void *blocks[300] = { 0 };
	size_t sizes[300] = { 0 };
	int bad = 0;
	for (int turn = 0; turn < 20000; turn++) {
		int at = (int)(next() % 300);
		for (size_t byte = 0; byte < sizes[at]; byte += 61)
			bad += ((uint8_t *)blocks[at])[byte] != (uint8_t)at;
		sizes[at] = next() % (turn % 50 == 0 ? 300000 : 700);
		blocks[at] = realloc(blocks[at], sizes[at] + 1);
		memset(blocks[at], at, sizes[at]);
	}
	for (int at = 0; at < 300; at++)
		free(blocks[at]);
	printf("allocation %d\n", bad);
}

int main(void)
{
	sorting();
	memory();
	strings();
	numbers();
	jumps();
	printf("sum %ld\n", sum(9, 1L, 2L, 3.5, 4L, 5L, 6.5, 7L, 8L, 9.5));
	allocation();
	return 0;
}
