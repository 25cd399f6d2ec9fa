/* SPDX-License-Identifier: Apache-2.0 */
/* The name of a folder on tmpfs in, nanoseconds per operation out.
 *
 * `workload FOLDER [ROUNDS [OPERATION...]]` prints one line "NAME NANOSECONDS" for each operation, by default for all: the median of
 * ROUNDS timed batches after a warm-up batch. Under QEMU's -icount with shift=0 a nanosecond of the guest's clock is one instruction executed, so the figures are
 * instructions, the same from run to run. `workload nothing` exits at once: it is the program that spawn starts.
 * Called by benchmarks/bench.py in a guest.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LONG_PATH 100
#define COMPONENTS 10

static char short_path[PATH_MAX], long_path[PATH_MAX], name_a[PATH_MAX], name_b[PATH_MAX], self[PATH_MAX];
static int data_fd, server_fd;
static struct sockaddr_in server;

static void fail(const char *what)
{
	fprintf(stderr, "workload: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int need(int result, const char *what)
{
	if (result < 0)
		fail(what);
	return result;
}

static void op_getppid(void) { syscall(SYS_getppid); }
static void op_pwrite(void)
{
	static const char bytes[64];

	if (pwrite(data_fd, bytes, sizeof(bytes), 0) != sizeof(bytes))
		fail("pwrite");
}
static void op_open_short(void) { close(need(open(short_path, O_RDONLY), short_path)); }
static void op_open_long(void) { close(need(open(long_path, O_RDONLY), long_path)); }
static void op_names(void)
{
	close(need(open(name_a, O_WRONLY | O_CREAT | O_EXCL, 0600), name_a));
	need(rename(name_a, name_b), "rename");
	need(unlink(name_b), "unlink");
}
static void op_connect(void)
{
	int fd = need(socket(AF_INET, SOCK_STREAM, 0), "socket");

	need(connect(fd, (struct sockaddr *)&server, sizeof(server)), "connect");
	close(need(accept(server_fd, NULL, NULL), "accept"));
	/* a reset, so that no port is left waiting */
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger));
	close(fd);
}
static void reap(pid_t child)
{
	int status;

	if (waitpid(child, &status, 0) != child || status)
		fail("child");
}
static void op_spawn(void)
{
	static char *argv[] = { self, "nothing", NULL }, *empty[] = { NULL };
	pid_t child;

	errno = posix_spawn(&child, self, NULL, NULL, argv, empty);
	if (errno)
		fail("posix_spawn");
	reap(child);
}
static void op_fork(void)
{
	pid_t child = need(fork(), "fork");

	if (!child)
		_exit(0);
	reap(child);
}

static const struct {
	const char *name;
	void (*run)(void);
	int batch;
} operations[] = {
	{ "getppid", op_getppid, 2000 },
	{ "pwrite", op_pwrite, 1000 },
	{ "open-short", op_open_short, 1000 },
	{ "open-long", op_open_long, 1000 },
	{ "create-rename-unlink", op_names, 300 },
	{ "connect", op_connect, 300 },
	{ "spawn", op_spawn, 60 },
	{ "fork", op_fork, 150 },
};

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void prepare(const char *folder)
{
	socklen_t size = sizeof(server);
	char part[PATH_MAX];

	snprintf(short_path, sizeof(short_path), "%s", "/tmp/abcd");
	close(need(open(short_path, O_WRONLY | O_CREAT, 0644), short_path));
	/* COMPONENTS components, LONG_PATH bytes in all, the folder's own included */
	int have = 0;

	for (const char *c = folder; *c; c++)
		have += *c == '/';
	snprintf(long_path, sizeof(long_path), "%s", folder);
	for (int i = have; i < COMPONENTS; i++) {
		int left = LONG_PATH - (int)strlen(long_path), width = left / (COMPONENTS - i) - 1;

		if (i == COMPONENTS - 1)
			width = left - 1;
		memset(part, 'a' + i, width);
		part[width] = 0;
		strcat(strcat(long_path, "/"), part);
		if (i < COMPONENTS - 1 && mkdir(long_path, 0755) && errno != EEXIST)
			fail(long_path);
	}
	if (strlen(long_path) != LONG_PATH)
		fail("length of the long path");
	close(need(open(long_path, O_WRONLY | O_CREAT, 0644), long_path));
	snprintf(name_a, sizeof(name_a), "%s/name-a", folder);
	snprintf(name_b, sizeof(name_b), "%s/name-b", folder);
	snprintf(part, sizeof(part), "%s/data", folder);
	data_fd = need(open(part, O_RDWR | O_CREAT, 0644), part);
	need(readlink("/proc/self/exe", self, sizeof(self) - 1), "/proc/self/exe");
	server.sin_family = AF_INET;
	server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	server_fd = need(socket(AF_INET, SOCK_STREAM, 0), "socket");
	need(bind(server_fd, (struct sockaddr *)&server, sizeof(server)), "bind");
	need(listen(server_fd, 16), "listen");
	need(getsockname(server_fd, (struct sockaddr *)&server, &size), "getsockname");
}

static int wanted(const char *name, char **names, int count)
{
	for (int i = 0; i < count; i++)
		if (!strcmp(names[i], name))
			return 1;
	return count <= 0;
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "nothing"))
		return 0;
	if (argc < 2) {
		fprintf(stderr, "usage: workload FOLDER [ROUNDS [OPERATION...]]\n");
		return 2;
	}
	int rounds = argc > 2 ? atoi(argv[2]) : 5;
	double *times = calloc(rounds > 0 ? rounds : 1, sizeof(*times));

	if (!times || rounds < 1)
		fail("rounds");
	prepare(argv[1]);
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
		if (!wanted(operations[i].name, argv + 3, argc - 3))
			continue;
		for (int n = 0; n < operations[i].batch; n++)
			operations[i].run();
		for (int round = 0; round < rounds; round++) {
			long long start = now();

			for (int n = 0; n < operations[i].batch; n++)
				operations[i].run();
			times[round] = (double)(now() - start) / operations[i].batch;
		}
		qsort(times, rounds, sizeof(*times), by_value);
		printf("%s %.0f\n", operations[i].name, times[rounds / 2]);
		fflush(stdout);
	}
	return 0;
}
