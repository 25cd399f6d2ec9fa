/* SPDX-License-Identifier: Apache-2.0 */
/* One act by many processes on one processor, as fast as they can, each result counted. Part of the trigger. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "trigger.h"

#define ERRNOS 134

/* In memory that all processes of one hammer share. by_errno[0]: the acts that succeeded. */
struct tally {
	atomic_long attempts, by_errno[ERRNOS];
	atomic_bool enough;
};

/* Each performs its act once and returns 0 or the errno. */
static int hammer_open(void)
{
	int fd = open(arg(0), O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return errno;
	close(fd);
	return 0;
}

/* The child shares this process's memory and runs while it waits (vfork), so it can say why it could not become FILE. */
static int hammer_exec(void)
{
	char *argv[] = { (char *)arg(0), NULL }, *env[] = { IDLE "=1", NULL };
	volatile int error = 0;
	pid_t child = vfork();

	if (child < 0)
		wrong("vfork");
	if (!child) {
		execve(argv[0], argv, env);
		error = errno;
		_exit(1);
	}
	waitpid(child, NULL, 0);
	return error;
}

static int hammer_connect(void)
{
	struct sockaddr_storage to;
	socklen_t size = address(arg(0), arg(1), &to);
	int fd = need_fd(socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
	int error = connect(fd, (void *)&to, size) ? errno : 0;

	close(fd);
	return error == ECONNREFUSED ? 0 : error; /* nobody listens, but it left */
}

static int hammer_fork(void)
{
	pid_t child = fork();

	if (child < 0)
		return errno;
	if (!child)
		_exit(0);
	waitpid(child, NULL, 0);
	return 0;
}

/* A process that has just begun opens FILE; the errno of that. Without a child: that of fork. */
static int hammer_fork_open(void)
{
	int status;
	pid_t child = fork();

	if (child < 0)
		return errno;
	if (!child)
		_exit(hammer_open());
	if (waitpid(child, &status, 0) < 0 || !WIFEXITED(status))
		wrong("a child of the hammer");
	return WEXITSTATUS(status);
}

static const struct act hammered[] = {
	{ "open", hammer_open }, { "exec", hammer_exec }, { "connect", hammer_connect }, { "fork", hammer_fork }, { "fork-open", hammer_fork_open }
};

static const struct act *hammered_act(const char *name)
{
	for (size_t i = 0; i < sizeof(hammered) / sizeof(hammered[0]); i++)
		if (!strcmp(hammered[i].name, name))
			return &hammered[i];
	errno = EINVAL;
	wrong(name);
	return NULL;
}

static void on_one_processor(void)
{
	cpu_set_t allowed, one;
	int cpu = 0;

	if (sched_getaffinity(0, sizeof(allowed), &allowed))
		wrong("sched_getaffinity");
	while (!CPU_ISSET(cpu, &allowed))
		cpu++;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		wrong("sched_setaffinity");
}

/* One process of the hammer: as `uid` if that is not 0, it waits until nobody holds the other end of `gate` open, then acts `rounds` times, or
 * until it is enough where `rounds` is 0.
 */
static void hammer_process(const struct act *act, long rounds, long uid, int gate, struct tally *tally)
{
	char byte;

	if (uid && (syscall(SYS_setresgid, uid, uid, uid) || syscall(SYS_setresuid, uid, uid, uid)))
		wrong("setresuid");
	if (read(gate, &byte, 1))
		wrong("gate");
	for (long round = 0; rounds ? round < rounds : !atomic_load(&tally->enough); round++) {
		int error;

		atomic_fetch_add(&tally->attempts, 1);
		error = act->act();
		atomic_fetch_add(&tally->by_errno[error < ERRNOS ? error : ERRNOS - 1], 1);
	}
	_exit(0);
}

static void hammer_print(const struct tally *tally)
{
	struct rusage usage;

	if (getrusage(RUSAGE_CHILDREN, &usage))
		wrong("getrusage");
	printf("attempts %ld\nok %ld\n", tally->attempts, tally->by_errno[0]);
	for (int error = 1; error < ERRNOS; error++)
		if (tally->by_errno[error])
			printf("%s %ld\n", strerrorname_np(error), tally->by_errno[error]);
	printf("preempted %ld\n", usage.ru_nivcsw);
}

/* hammer PROCS ROUNDS [as UID] open FILE|exec FILE|connect IP PORT|fork|fork-open FILE: PROCS processes, all on the first processor that
 * this one may use, and with UID where one is given, act ROUNDS times each. It prints "ready", and they begin together when a line comes in.
 * Where ROUNDS is 0 they go on until standard input is closed. Then it prints "attempts N", "ok N", the number for each errno, and how
 * often they lost the processor. The code is 0 whatever the acts' results were.
 */
static int do_hammer(void)
{
	long procs = number(arg(0)), rounds = number(arg(1)), uid = strcmp(arg(2), "as") ? 0 : number(arg(3));
	const struct act *act = hammered_act(arg(uid ? 4 : 2));
	struct tally *tally = mmap(NULL, sizeof(*tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int gate[2];
	char byte;

	args += uid ? 5 : 3;
	if (tally == MAP_FAILED || pipe(gate))
		wrong("gate");
	on_one_processor();
	for (long i = 0; i < procs; i++) {
		pid_t child = fork();

		if (child < 0)
			wrong("fork");
		if (!child) {
			close(gate[1]);
			hammer_process(act, rounds, uid, gate[0], tally);
		}
	}
	puts("ready");
	fflush(stdout);
	if (read(0, &byte, 1) < 0)
		wrong("standard input");
	close(gate[1]);
	while (!rounds && read(0, &byte, 1) > 0)
		;
	atomic_store(&tally->enough, true);
	for (long i = 0; i < procs; i++) {
		int status;

		if (wait(&status) < 0 || status) {
			errno = ECHILD;
			wrong("a process of the hammer");
		}
	}
	hammer_print(tally);
	return 0;
}

const struct act hammer_acts[] = { { "hammer", do_hammer }, { NULL, NULL } };
