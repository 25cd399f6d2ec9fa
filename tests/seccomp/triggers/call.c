// SPDX-License-Identifier: Apache-2.0
/* One system call by any of the doors that x86-64 has, and what came of it on standard output.
 *
 *   call x86_64|i386|x32 NUMBER [ARGUMENT…]   "-1" or any other value that the kernel returned
 *   call thread NUMBER                        in a second thread; then the first says "alive"
 *   call trap NUMBER                          with a handler for SIGSYS, which says "SIGSYS NUMBER"
 *   call forever NUMBER                       again and again, a millisecond apart
 *   call tracer COMMAND…                      as its tracer: "TRACE DATA" for each call that seccomp hands over, which then returns 77
 *
 * int 0x80 works in 64-bit programs, so no 32-bit libraries are needed; arguments are cut to 32 bits there.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define X32_BIT 0x40000000

static long native(long number, const long *a)
{
	long result;
	register long r10 asm("r10") = a[3], r8 asm("r8") = a[4], r9 asm("r9") = a[5];

	asm volatile("syscall"
		     : "=a"(result)
		     : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
		     : "rcx", "r11", "memory");
	return result;
}

static long compat(long number, const long *a)
{
	int result;

	asm volatile("int $0x80"
		     : "=a"(result)
		     : "a"((int)number), "b"((int)a[0]), "c"((int)a[1]), "d"((int)a[2]), "S"((int)a[3]), "D"((int)a[4])
		     : "memory", "r8", "r9", "r10", "r11");
	return result;
}

static void *in_thread(void *number)
{
	static const long none[6];

	printf("%ld\n", native((long)number, none));
	fflush(stdout);
	return NULL;
}

static void on_sigsys(int signal, siginfo_t *info, void *context)
{
	char text[64];
	int length = snprintf(text, sizeof(text), "SIGSYS %d\n", info->si_syscall);

	(void)signal, (void)context;
	if (write(1, text, length) < 0)
		_exit(9);
}

static int trace(char **command)
{
	unsigned long data;
	struct user_regs_struct registers;
	int status, code = 1;
	pid_t first = fork(), pid;

	if (!first) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		execvp(command[0], command);
		_exit(127);
	}
	waitpid(first, &status, 0);
	ptrace(PTRACE_SETOPTIONS, first, 0,
	       PTRACE_O_TRACESECCOMP | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL);
	ptrace(PTRACE_CONT, first, 0, 0);
	while ((pid = waitpid(-1, &status, __WALL)) > 0) {
		int pass = 0;

		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			if (pid == first)
				code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
			continue;
		}
		if (status >> 8 == (SIGTRAP | PTRACE_EVENT_SECCOMP << 8)) {
			ptrace(PTRACE_GETEVENTMSG, pid, 0, &data);
			printf("TRACE %lu\n", data);
			fflush(stdout);
			ptrace(PTRACE_GETREGS, pid, 0, &registers);
			registers.orig_rax = -1;
			registers.rax = 77;
			ptrace(PTRACE_SETREGS, pid, 0, &registers);
		} else if (!(status >> 16) && WSTOPSIG(status) != SIGTRAP && WSTOPSIG(status) != SIGSTOP) {
			pass = WSTOPSIG(status);
		}
		ptrace(PTRACE_CONT, pid, 0, pass);
	}
	return code;
}

int main(int argc, char **argv)
{
	long a[6] = {0}, number;
	int i;

	if (argc < 3)
		return 2;
	if (!strcmp(argv[1], "tracer"))
		return trace(argv + 2);
	number = strtol(argv[2], NULL, 0);
	for (i = 3; i < argc && i < 9; i++)
		a[i - 3] = strtoul(argv[i], NULL, 0);
	if (!strcmp(argv[1], "x86_64")) {
		printf("%ld\n", native(number, a));
	} else if (!strcmp(argv[1], "i386")) {
		printf("%ld\n", compat(number, a));
	} else if (!strcmp(argv[1], "x32")) {
		printf("%ld\n", native(number | X32_BIT, a));
	} else if (!strcmp(argv[1], "trap")) {
		struct sigaction action = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO};

		sigaction(SIGSYS, &action, NULL);
		native(number, a);
	} else if (!strcmp(argv[1], "forever")) {
		for (;;) {
			native(number, a);
			usleep(1000);
		}
	} else if (!strcmp(argv[1], "thread")) {
		pthread_t thread;

		pthread_create(&thread, NULL, in_thread, (void *)number);
		/* A thread that was killed cannot be joined by its own word: wait for its id to go. */
		usleep(300000);
		printf("alive\n");
		fflush(stdout);
		_exit(0);
	} else {
		return 2;
	}
	return 0;
}
