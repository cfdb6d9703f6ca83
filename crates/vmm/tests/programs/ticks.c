/* Counts, looks at the clocks all the time, and prints a line for each count, on a second terminal
 * too if it is given one: "[tick NUMBER MONOTONIC REALTIME]". Ends when /tmp/stop is there, with a verdict. */
#include <fcntl.h>
#include <stdio.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int64_t clock_ns(clockid_t clock)
{
	struct timespec time;
	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int count, char **arguments)
{
	if (count > 1 && strcmp(arguments[1], "once") == 0) {
		int64_t monotonic = clock_ns(CLOCK_MONOTONIC);
		printf("%lld %lld\n", (long long)monotonic, (long long)clock_ns(CLOCK_REALTIME));
		return 0;
	}
	int second = count > 1 ? open(arguments[1], O_WRONLY) : -1;
	if (count > 1 && second < 0)
		return 1;
	int64_t last_monotonic = 0, last_real = 0, last_boot = 0;
	/* Real time less monotonic time is a constant, whatever the scheduler does in between:
	 * every look narrows the interval in which it must lie. */
	int64_t low = INT64_MIN, high = INT64_MAX, longest = 0;
	long backwards = 0, early = 0, number = 0;
	while (access("/tmp/stop", F_OK) != 0) {
		for (int look = 0; look < 100; look++) {
			int64_t before = clock_ns(CLOCK_MONOTONIC);
			int64_t real = clock_ns(CLOCK_REALTIME);
			int64_t boot = clock_ns(CLOCK_BOOTTIME);
			int64_t after = clock_ns(CLOCK_MONOTONIC);
			backwards += before < last_monotonic || after < before;
			backwards += real < last_real || boot < last_boot;
			if (last_monotonic != 0 && before - last_monotonic > longest)
				longest = before - last_monotonic;
			if (real - after > low)
				low = real - after;
			if (real - before < high)
				high = real - before;
			last_monotonic = after;
			last_real = real;
			last_boot = boot;
		}
		char line[100];
		int length = snprintf(line, sizeof line, "[tick %ld %lld %lld]\n", number++,
				      (long long)last_monotonic, (long long)last_real);
		if (write(1, line, length) != length || (second >= 0 && write(second, line, length) != length))
			return 1;
		struct timespec nap = { 0, 20000000 };
		int64_t asleep = clock_ns(CLOCK_MONOTONIC);
		nanosleep(&nap, NULL);
		last_monotonic = clock_ns(CLOCK_MONOTONIC);
		early += last_monotonic - asleep < nap.tv_nsec;
	}
	printf("ticks %ld backwards %ld early %ld apart %lld longest %lld\n", number, backwards,
	       early, (long long)(low - high), (long long)longest);
	return 0;
}
