/* Writes blocks past the page cache to the first half of a disk, several at once, and reads others
 * back. Ends when /tmp/stop is there, with a verdict. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 3, BLOCK = 16384 };

static const char *path;
static long blocks;
static long written[THREADS], wrong[THREADS];

static void fill(uint64_t *block, uint64_t number, uint64_t version)
{
	uint64_t word = number * 0x9e3779b97f4a7c15ULL + version;
	for (size_t at = 0; at < BLOCK / 8; at++) {
		word ^= word << 13;
		word ^= word >> 7;
		word ^= word << 17;
		block[at] = word;
	}
}

static void *work(void *argument)
{
	long self = (long)argument;
	int disk = open(path, O_RDWR | O_DIRECT);
	uint64_t *block = aligned_alloc(4096, BLOCK), *expected = aligned_alloc(4096, BLOCK);
	/* Each thread has every THREADSth block; versions start at one. */
	uint64_t *version = calloc(blocks, sizeof *version);
	if (disk < 0 || !block || !expected || !version)
		exit(1);
	uint64_t random = self + 1;
	for (long turn = 0; access("/tmp/stop", F_OK) != 0; turn++) {
		random = random * 6364136223846793005ULL + 1442695040888963407ULL;
		long number = (long)((random >> 33) % (blocks / THREADS)) * THREADS + self;
		fill(block, number, ++version[number]);
		if (pwrite(disk, block, BLOCK, (off_t)number * BLOCK) != BLOCK)
			wrong[self]++;
		written[self]++;
		random = random * 6364136223846793005ULL + 1442695040888963407ULL;
		number = (long)((random >> 33) % (blocks / THREADS)) * THREADS + self;
		if (version[number] != 0) {
			fill(expected, number, version[number]);
			if (pread(disk, block, BLOCK, (off_t)number * BLOCK) != BLOCK ||
			    memcmp(block, expected, BLOCK) != 0)
				wrong[self]++;
		}
		if (turn % 16 == 0 && fdatasync(disk) != 0)
			wrong[self]++;
		usleep(5000);
	}
	return NULL;
}

int main(int count, char **arguments)
{
	if (count != 3)
		return 2;
	path = arguments[1];
	blocks = atol(arguments[2]) / BLOCK;
	pthread_t threads[THREADS];
	for (long thread = 0; thread < THREADS; thread++)
		pthread_create(&threads[thread], NULL, work, (void *)thread);
	long all_written = 0, all_wrong = 0;
	for (int thread = 0; thread < THREADS; thread++) {
		pthread_join(threads[thread], NULL);
		all_written += written[thread];
		all_wrong += wrong[thread];
	}
	printf("disk written %ld wrong %ld\n", all_written, all_wrong);
	return 0;
}
