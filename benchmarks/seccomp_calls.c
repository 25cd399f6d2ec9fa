/* SPDX-License-Identifier: Apache-2.0 */
/* A place for results, a root directory and a command in it in, nanoseconds per operation out.
 *
 * `seccomp_calls RESULTS ROUNDS ROOT COMMAND…` changes its root and writes one line "NAME NANOSECONDS" for each operation: the median of ROUNDS timed batches after a
 * warm-up batch. Under QEMU's -icount with shift=0 a nanosecond of the guest's clock is one instruction executed. Whatever filter this
 * program was started under, the operations and what they start are under it, too. Called by benchmarks/seccomp.py in a guest.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char **command;
extern char **environ;

static void op_getppid(void) { syscall(SYS_getppid); }

static void op_open(void)
{
	if (close(open("/file", O_RDONLY)))
		exit(3);
}

static void op_socket(void)
{
	if (close(socket(AF_UNIX, SOCK_STREAM, 0)))
		exit(3);
}

static void op_command(void)
{
	int status;
	pid_t pid;

	if (posix_spawn(&pid, command[0], NULL, NULL, command, environ) || waitpid(pid, &status, 0) != pid || status)
		exit(4);
}

static const struct {
	const char *name;
	void (*run)(void);
	int batch;
} operations[] = { { "getppid", op_getppid, 20000 }, { "open", op_open, 3000 }, { "socket", op_socket, 3000 }, { "python", op_command, 4 } };

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	int rounds = argc > 4 ? atoi(argv[2]) : 0, round, n;
	double *times = calloc(rounds > 0 ? rounds : 1, sizeof(*times));
	FILE *results;
	size_t i;

	if (rounds < 1 || !times || !(results = fopen(argv[1], "we")))
		return 2;
	if (chroot(argv[3]) || chdir("/"))
		return 3;
	command = argv + 4;
	for (i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
		for (n = 0; n < operations[i].batch; n++)
			operations[i].run();
		for (round = 0; round < rounds; round++) {
			long long start = now();

			for (n = 0; n < operations[i].batch; n++)
				operations[i].run();
			times[round] = (double)(now() - start) / operations[i].batch;
		}
		qsort(times, rounds, sizeof(*times), by_value);
		fprintf(results, "%s %.0f\n", operations[i].name, times[rounds / 2]);
	}
	return fclose(results) ? 2 : 0;
}
