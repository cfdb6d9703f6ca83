/* Threads: creation, locks, conditions, barriers, thread-local storage, and every atomic operation,
 * with sums that come out right only if none is lost. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 4, TURNS = 20000 };

static atomic_long counter;
static atomic_uchar narrow;
static _Atomic uint16_t medium;
static _Atomic uint64_t bits, exchanged;
static long guarded, spun;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static atomic_flag spin = ATOMIC_FLAG_INIT;
static __thread long mine;
static long mine_sum;
static struct { uint64_t low, high; } __attribute__((aligned(16))) pair;
static pthread_barrier_t barrier;

static void *work(void *argument)
{
	long self = (long)argument;
	pthread_barrier_wait(&barrier);
	for (long turn = 0; turn < TURNS; turn++) {
		atomic_fetch_add(&counter, 3);
		atomic_fetch_sub(&narrow, 1);
		atomic_fetch_add(&medium, 5);
		atomic_fetch_xor(&bits, 1ULL << (turn * 4 + self) % 64);
		uint64_t seen = atomic_load(&exchanged);
		while (!atomic_compare_exchange_weak(&exchanged, &seen, seen * 5 / 5 + 1))
			;
		mine += self;
		if (turn % 16 == 0) {
			pthread_mutex_lock(&mutex);
			guarded += turn;
			pthread_mutex_unlock(&mutex);
			while (atomic_flag_test_and_set(&spin))
				sched_yield();
			spun++;
			atomic_flag_clear(&spin);
		}
		/* Both halves of a pair go up together. */
		uint64_t low = pair.low, high = pair.high;
		unsigned char done = 0;
		while (!done)
			asm volatile("mov %2, %%rbx\n\tmov %3, %%rcx\n\tadd $1, %%rbx\n\tadd $2, %%rcx\n\t"
				     "lock cmpxchg16b %1\n\tsetz %0"
				     : "=q"(done), "+m"(pair), "+a"(low), "+d"(high)
				     :
				     : "rbx", "rcx", "cc", "memory");
	}
	pthread_mutex_lock(&mutex);
	mine_sum += mine;
	pthread_mutex_unlock(&mutex);
	return (void *)(self * self);
}

static pthread_cond_t not_empty = PTHREAD_COND_INITIALIZER, not_full = PTHREAD_COND_INITIALIZER;
static int queue[8], queued, head;
static long consumed;

static void *produce(void *argument)
{
	for (int turn = 0; turn < 2000; turn++) {
		pthread_mutex_lock(&mutex);
		while (queued == 8)
			pthread_cond_wait(&not_full, &mutex);
		queue[(head + queued++) % 8] = turn;
		pthread_cond_signal(&not_empty);
		pthread_mutex_unlock(&mutex);
	}
	return argument;
}

static void *consume(void *argument)
{
	for (int turn = 0; turn < 2000; turn++) {
		pthread_mutex_lock(&mutex);
		while (queued == 0)
			pthread_cond_wait(&not_empty, &mutex);
		consumed += queue[head] * (long)(turn + 1);
		head = (head + 1) % 8;
		queued--;
		pthread_cond_signal(&not_full);
		pthread_mutex_unlock(&mutex);
	}
	return argument;
}

/* Two threads hand a turn to each other: stores become visible, in order. */
static sem_t turns[2];
static volatile long data[2];
static long mismatches;
static void *pong(void *argument)
{
	for (int turn = 0; turn < 1000; turn++) {
		sem_wait(&turns[1]);
		if (data[0] != turn)
			mismatches++;
		data[1] = turn * 2;
		sem_post(&turns[0]);
	}
	return argument;
}

static pthread_key_t key;
static atomic_int destroyed;
static void destroy(void *value) { destroyed += (int)(intptr_t)value; }
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int initialised;
static void initialise(void) { initialised++; }
static void *short_life(void *argument)
{
	pthread_once(&once, initialise);
	pthread_setspecific(key, argument);
	void *memory = malloc(10000);
	memset(memory, 1, 10000);
	free(memory);
	return NULL;
}

int main(void)
{
	pthread_t threads[THREADS];
	pthread_barrier_init(&barrier, NULL, THREADS);
	for (long thread = 0; thread < THREADS; thread++)
		pthread_create(&threads[thread], NULL, work, (void *)thread);
	long results = 0;
	for (int thread = 0; thread < THREADS; thread++) {
		void *result;
		pthread_join(threads[thread], &result);
		results += (long)result;
	}
	printf("counter %ld narrow %d medium %d bits %016llx exchanged %llu\n", (long)counter, narrow, medium,
	       (unsigned long long)bits, (unsigned long long)exchanged);
	printf("guarded %ld spun %ld mine %ld pair %llu %llu results %ld\n", guarded, spun, mine_sum,
	       (unsigned long long)pair.low, (unsigned long long)pair.high, results);
	pthread_t producer, consumer;
	pthread_create(&producer, NULL, produce, NULL);
	pthread_create(&consumer, NULL, consume, NULL);
	pthread_join(producer, NULL);
	pthread_join(consumer, NULL);
	printf("consumed %ld\n", consumed);
	sem_init(&turns[0], 0, 0), sem_init(&turns[1], 0, 0);
	pthread_create(&producer, NULL, pong, NULL);
	for (int turn = 0; turn < 1000; turn++) {
		data[0] = turn;
		sem_post(&turns[1]);
		sem_wait(&turns[0]);
		mismatches += data[1] != turn * 2;
	}
	pthread_join(producer, NULL);
	printf("mismatches %ld\n", mismatches);
	pthread_key_create(&key, destroy);
	for (long turn = 0; turn < 50; turn++) {
		pthread_create(&producer, NULL, short_life, (void *)(turn + 1));
		pthread_join(producer, NULL);
	}
	printf("destroyed %d initialised %d\n", (int)destroyed, initialised);
	return 0;
}
