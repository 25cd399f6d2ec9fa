/* SPDX-License-Identifier: Apache-2.0 */
/* Acts of a process that changes its cgroup. Part of the trigger. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "trigger.h"

static volatile bool done;

/* Opens something harmless all the time, so that the kernel's programs keep asking who this process is. */
static void *asker(void *file)
{
	while (!done)
		close(open(file, O_RDONLY));
	return NULL;
}

static void move(const char *procs)
{
	int fd = need_fd(open(procs, O_WRONLY), procs);

	if (write(fd, "0", 1) != 1)
		wrong(procs);
	close(fd);
}

/* hop INSIDE OUTSIDE FILE OTHER ROUNDS: moves into one cgroup and out to another, and opens FILE after each move: that must fail inside and
 * succeed outside. Meanwhile threads open OTHER. Prints how often it was not so.
 */
static int do_hop(void)
{
	const char *inside = arg(0), *outside = arg(1), *file = arg(2);
	long rounds = number(arg(4)), wrongly = 0;
	pthread_t threads[4];

	for (size_t i = 0; i < sizeof(threads) / sizeof(*threads); i++)
		if (pthread_create(&threads[i], NULL, asker, (void *)arg(3)))
			wrong("pthread_create");
	for (long i = 0; i < rounds; i++) {
		int fd;

		move(inside);
		fd = open(file, O_RDONLY);
		wrongly += fd >= 0;
		close(fd);
		move(outside);
		fd = open(file, O_RDONLY);
		wrongly += fd < 0;
		close(fd);
	}
	done = true;
	for (size_t i = 0; i < sizeof(threads) / sizeof(*threads); i++)
		pthread_join(threads[i], NULL);
	printf("%s %ld wrong of %ld\n", wrongly ? "EBADE" : "OK", wrongly, 2 * rounds);
	return wrongly ? EBADE : 0;
}

const struct act cgroup_acts[] = {
	{ "hop", do_hop },
	{ NULL, NULL },
};
