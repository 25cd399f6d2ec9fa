// SPDX-License-Identifier: Apache-2.0
/* seccomp(2) for Python: put filters on a new command or on this process, and answer a listener.
 *
 * Between clone and exec only system calls and stores are made, nothing of the C library that takes a lock. Failures do not go through a
 * pipe but through a shared page: the new filter may deny write(2), and even exit_group(2).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif

enum {
	STAGE_NONE,
	STAGE_HELD,
	STAGE_CGROUP,
	STAGE_NO_NEW_PRIVS,
	STAGE_FILTER,
	STAGE_EXEC,
};

struct bpfence_filter {
	const char *instructions; /* struct sock_filter, one after another */
	unsigned int count;
	unsigned int flags;
};

struct bpfence_launch {
	const struct bpfence_filter *filters;
	unsigned int n_filters;
	int listener;        /* which filter gets a listener; -1: none */
	int hold;            /* waits for bpfence_progress_release first */
	int cgroup;          /* cgroup.procs to join; -1: none */
	char *const *paths;  /* tried in order, as execvp(3) does */
	char *const *argv;
	char *const *envp;
};

/* Written by the child, read by the parent, apart from `go`. */
struct bpfence_progress {
	int stage;
	int error;
	int listener; /* -1: not there yet */
	int held;     /* all is prepared; waits for `go` */
	int go;
};

#define SPINS (1L << 28) /* some seconds: whoever should say go is gone */

static void note(struct bpfence_progress *progress, int stage, int error)
{
	progress->error = error;
	__atomic_store_n(&progress->stage, stage, __ATOMIC_RELEASE);
}

static int set_filter(const struct bpfence_filter *filter, int listener)
{
	struct sock_fprog program = {
		.len = (unsigned short)filter->count,
		.filter = (struct sock_filter *)filter->instructions,
	};
	unsigned long flags = filter->flags;
	long result;

	if (listener) {
		flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER;
		/* Both give a number back; the kernel takes them together only when a thread that cannot follow is ESRCH. */
		if (flags & SECCOMP_FILTER_FLAG_TSYNC)
			flags |= SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
	}
	result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
	if (result > 0 && !listener) {
		/* TSYNC: the id of a thread that could not follow. */
		errno = ESRCH;
		return -1;
	}
	return (int)result;
}

/* Handlers do not outlive exec but may run before it; Python ignores SIGPIPE and SIGXFSZ, and what is ignored stays ignored. */
static void reset_signals(void)
{
	struct sigaction action;
	int number;

	for (number = 1; number < NSIG; number++) {
		if (sigaction(number, NULL, &action))
			continue;
		if (action.sa_handler == SIG_DFL || (action.sa_handler == SIG_IGN && number != SIGPIPE && number != SIGXFSZ))
			continue;
		memset(&action, 0, sizeof(action));
		action.sa_handler = SIG_DFL;
		sigaction(number, &action, NULL);
	}
}

/* Without a system call: the next one that is made has to be the command's own. */
static int hold(struct bpfence_progress *progress)
{
	long spins;

	__atomic_store_n(&progress->held, 1, __ATOMIC_RELEASE);
	for (spins = 0; spins < SPINS; spins++) {
		if (__atomic_load_n(&progress->go, __ATOMIC_ACQUIRE))
			return 0;
#if defined(__x86_64__)
		__builtin_ia32_pause();
#else
		asm volatile("yield" ::: "memory");
#endif
	}
	return -1;
}

static void __attribute__((noreturn)) leave(void)
{
	/* Whatever the filter thinks of exit_group. */
	syscall(SYS_exit_group, 127);
	syscall(SYS_exit, 127);
	for (;;)
		__builtin_trap();
}

/* execvp(3)'s rules: a file that may not be executed is remembered while later ones are tried. */
static int exec_first(const struct bpfence_launch *launch)
{
	int denied = 0;
	char *const *path;

	errno = ENOENT;
	for (path = launch->paths; *path; path++) {
		execve(*path, launch->argv, launch->envp);
		if (errno == EACCES)
			denied = 1;
		else if (errno != ENOENT && errno != ENOTDIR)
			return errno;
	}
	return denied ? EACCES : errno;
}

static void __attribute__((noreturn))
become(const struct bpfence_launch *launch, struct bpfence_progress *progress, const sigset_t *mask)
{
	unsigned int i;
	int fd;

	reset_signals();
	sigprocmask(SIG_SETMASK, mask, NULL);
	if (launch->cgroup >= 0 && write(launch->cgroup, "0", 1) != 1) {
		note(progress, STAGE_CGROUP, errno);
		leave();
	}
	if (launch->n_filters && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) {
		note(progress, STAGE_NO_NEW_PRIVS, errno);
		leave();
	}
	for (i = 0; i < launch->n_filters; i++) {
		fd = set_filter(&launch->filters[i], (int)i == launch->listener);
		if (fd < 0) {
			note(progress, STAGE_FILTER, errno);
			leave();
		}
		if ((int)i == launch->listener)
			__atomic_store_n(&progress->listener, fd, __ATOMIC_RELEASE);
	}
	if (launch->hold && hold(progress)) {
		note(progress, STAGE_HELD, ETIMEDOUT);
		leave();
	}
	note(progress, STAGE_EXEC, exec_first(launch));
	leave();
}

/* Starts the command; its pid and, in *pidfd, its descriptor. The progress page is the caller's, see bpfence_progress_free. -errno.
 *
 * With a listener the child shares this process's table of descriptors until exec unshares it: so the listener is here at the moment it
 * is made, without a system call that the filter could deny and without rights over the child.
 */
static int bpfence_launch(const struct bpfence_launch *launch, struct bpfence_progress **result, int *pidfd)
{
	unsigned long flags = SIGCHLD | CLONE_PIDFD | (launch->listener >= 0 ? CLONE_FILES : 0);
	struct bpfence_progress *progress;
	sigset_t all, mask;
	long pid;

	progress = mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (progress == MAP_FAILED)
		return -errno;
	progress->listener = -1;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &mask);
	pid = syscall(SYS_clone, flags, NULL, pidfd, NULL, NULL);
	if (!pid)
		become(launch, progress, &mask);
	if (pid < 0) {
		pid = -errno;
		munmap(progress, sizeof(*progress));
		progress = NULL;
	}
	sigprocmask(SIG_SETMASK, &mask, NULL);
	*result = progress;
	return (int)pid;
}

static int bpfence_progress_stage(const struct bpfence_progress *progress, int *error)
{
	int stage = __atomic_load_n(&progress->stage, __ATOMIC_ACQUIRE);

	*error = progress->error;
	return stage;
}

static int bpfence_progress_listener(const struct bpfence_progress *progress)
{
	return __atomic_load_n(&progress->listener, __ATOMIC_ACQUIRE);
}

static int bpfence_progress_held(const struct bpfence_progress *progress)
{
	return __atomic_load_n(&progress->held, __ATOMIC_ACQUIRE);
}

static void bpfence_progress_release(struct bpfence_progress *progress)
{
	__atomic_store_n(&progress->go, 1, __ATOMIC_RELEASE);
}

static void bpfence_progress_free(struct bpfence_progress *progress)
{
	munmap(progress, sizeof(*progress));
}

/* Puts filters on this process, on all its threads where a filter has TSYNC. -errno. */
static int bpfence_apply(const struct bpfence_filter *filters, unsigned int n)
{
	unsigned int i;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	for (i = 0; i < n; i++)
		if (set_filter(&filters[i], 0) < 0)
			return -errno;
	return 0;
}

/* Whether the kernel knows this action. -errno. */
static int bpfence_action_available(unsigned int action)
{
	return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) ? -errno : 0;
}

/* The flags of `wanted` that the kernel knows: with a bad address a known flag is EFAULT, an unknown one EINVAL. */
static unsigned int bpfence_flags_available(unsigned int wanted)
{
	unsigned int bit, known = 0;

	for (bit = 1; bit && bit <= wanted; bit <<= 1) {
		unsigned int needs = bit == SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0;

		if (wanted & bit && syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, bit | needs, NULL) && errno == EFAULT)
			known |= bit;
	}
	return known;
}

#define NOTIFICATION_ROOM 4096

static size_t sizes[2]; /* of struct seccomp_notif and seccomp_notif_resp as the kernel has them */

static int learn_sizes(void)
{
	struct seccomp_notif_sizes found;

	if (sizes[0])
		return 0;
	if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &found))
		return -errno;
	if (found.seccomp_notif > NOTIFICATION_ROOM || found.seccomp_notif_resp > NOTIFICATION_ROOM)
		return -E2BIG;
	sizes[1] = found.seccomp_notif_resp;
	sizes[0] = found.seccomp_notif;
	return 0;
}

/* Waits for the next notification. -ENOENT: the caller of the system call is gone or was interrupted; -EINTR: a signal. */
static int bpfence_notification_receive(int listener, struct seccomp_notif *notification)
{
	_Alignas(8) char room[NOTIFICATION_ROOM]; /* the kernel writes its own size, and wants zeros there */
	int result = learn_sizes();

	if (result)
		return result;
	memset(room, 0, sizes[0]);
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, room))
		return -errno;
	memcpy(notification, room, sizeof(*notification));
	return 0;
}

/* Answers: an errno, or with `proceed` that the kernel carries the call out. -ENOENT: nobody waits for it any more. */
static int bpfence_notification_answer(int listener, unsigned long long id, int error, int proceed)
{
	_Alignas(8) char room[NOTIFICATION_ROOM];
	struct seccomp_notif_resp *answer = (void *)room;
	int result = learn_sizes();

	if (result)
		return result;
	memset(room, 0, sizes[1]);
	answer->id = id;
	answer->error = proceed ? 0 : -error;
	answer->flags = proceed ? SECCOMP_USER_NOTIF_FLAG_CONTINUE : 0;
	return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, room) ? -errno : 0;
}

/* Whether the call is still waiting, so that its pid is still that process. -errno. */
static int bpfence_notification_valid(int listener, unsigned long long id)
{
	return ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) ? -errno : 0;
}
