/* SPDX-License-Identifier: Apache-2.0 */
/* Acts of processes: memory, signals, namespaces, modules. Part of the trigger. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "trigger.h"

/* ---- namespaces ---- */

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#define NR_SETNS 308
#define NR_SETNS_COMPAT 346
#define NR_KILL_COMPAT 37

static const struct {
	const char *name, *file;
	int type;
} namespaces[] = {
	{ "uts", "uts", CLONE_NEWUTS },
	{ "ipc", "ipc", CLONE_NEWIPC },
	{ "net", "net", CLONE_NEWNET },
	{ "mnt", "mnt", CLONE_NEWNS },
	{ "pid", "pid_for_children", CLONE_NEWPID },
	{ "cgroup", "cgroup", CLONE_NEWCGROUP },
	{ "user", "user", CLONE_NEWUSER },
	{ "time", "time_for_children", CLONE_NEWTIME },
};
#define NAMESPACES (sizeof(namespaces) / sizeof(namespaces[0]))

/* CLONE_NEW* of names joined by commas; `file` becomes the /proc/PID/ns name of the last one. */
static int namespace_types(const char *text, const char **file)
{
	char copy[128], *save = NULL;
	int types = 0;

	snprintf(copy, sizeof(copy), "%s", text);
	for (char *word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		size_t i = 0;

		while (i < NAMESPACES && strcmp(namespaces[i].name, word))
			i++;
		if (i == NAMESPACES) {
			errno = EINVAL;
			wrong(word);
		}
		types |= namespaces[i].type;
		*file = namespaces[i].file;
	}
	return types;
}

/* A child that has namespaces of its own of these types, and one in its new pid namespace where that is among them. */
static pid_t stranger(int types)
{
	int ready[2];
	char byte;
	pid_t child;

	if (pipe(ready))
		wrong("pipe");
	child = fork();
	if (child < 0)
		wrong("fork");
	if (!child) {
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) || unshare(types))
			_exit(1);
		/* The first process of a pid namespace says itself that it is ready: it must not outlive this one, which may be killed at once. */
		if (types & CLONE_NEWPID && fork()) {
			for (;;)
				pause();
		}
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		wrong("a child with other namespaces");
	return child;
}

static long call_int80(long number, long first, long second)
{
	long result;

	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(first), "c"(second), "d"(0L), "S"(0L), "D"(0L) : "memory", "r8", "r9", "r10", "r11");
	if (result < 0 && result > -4096) {
		errno = -result;
		return -1;
	}
	return result;
}

/* The number in the lower half of the register, something else in the upper one. */
static long call_high(long number, long first, long second)
{
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(number | (long)0x8000000000000000), "D"(first), "S"(second) : "memory", "rcx", "r11");
	if (result < 0 && result > -4096) {
		errno = -result;
		return -1;
	}
	return result;
}

/* setns-new WAY TYPES: joins the namespaces of a child that has new ones. WAY: file (and its type), any (the type is not said), pidfd (all
 * at once), int80 (through the 32-bit table), high (a number with garbage in its upper half), thread (any, while another thread has the
 * descriptors too)
 */
static int do_setns_new(void)
{
	const char *way = arg(0), *name = "uts";
	int types = namespace_types(arg(1), &name), fd;
	pid_t child = stranger(types);
	char path[64];
	long result;

	if (!strcmp(way, "pidfd")) {
		fd = need_fd(syscall(SYS_pidfd_open, child, 0), "pidfd_open");
	} else {
		snprintf(path, sizeof(path), "/proc/%d/ns/%s", child, name);
		fd = need_fd(open(path, O_RDONLY), path);
	}
	if (!strcmp(way, "int80"))
		result = call_int80(NR_SETNS_COMPAT, fd, types);
	else if (!strcmp(way, "high"))
		result = call_high(NR_SETNS, fd, types);
	else if (!strcmp(way, "any"))
		result = setns(fd, 0);
	else
		result = setns(fd, types);
	int error = errno;

	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	errno = error;
	return report(result);
}

/* in-user-ns ACT...: in a new user namespace, all capabilities in it */
static int do_in_user_ns(void)
{
	if (unshare(CLONE_NEWUSER))
		wrong("unshare");
	return dispatch(args);
}

/* with-thread ACT...: while another thread of the process waits */
static void *wait_forever(void *nothing)
{
	pause();
	return nothing;
}

static int do_with_thread(void)
{
	pthread_t other;

	if (pthread_create(&other, NULL, wait_forever, NULL)) {
		errno = EAGAIN;
		wrong("pthread_create");
	}
	return dispatch(args);
}

/* ---- cgroups ---- */

/* The folder of the cgroup that the caller was in first. */
static const char *own_group(void)
{
	static char own[2048];
	char line[2048];

	if (!own[0]) {
		FILE *file = fopen("/proc/self/cgroup", "r");

		while (file && fgets(line, sizeof(line), file))
			if (!strncmp(line, "0::/", 4))
				snprintf(own, sizeof(own), "/sys/fs/cgroup%.*s", (int)strcspn(line + 3, "\n"), line + 3);
		if (!own[0])
			wrong("/proc/self/cgroup");
		fclose(file);
	}
	return own;
}

/* cgroup.procs of a cgroup named relative to that one, made where missing, open for writing. */
static int group(const char *name)
{
	char path[4096];

	for (size_t n = 1; n <= strlen(name); n++)
		if (name[n] == '/' || !name[n]) {
			snprintf(path, sizeof(path), "%s/%.*s", own_group(), (int)n, name);
			mkdir(path, 0755);
		}
	snprintf(path, sizeof(path), "%s/%s/cgroup.procs", own_group(), name);
	return need_fd(open(path, O_WRONLY), path);
}

/* Whether cgroups that have been removed are still there for the kernel. */
static bool groups_dying(void)
{
	char path[4096], line[256];
	bool dying = false;
	FILE *file;

	snprintf(path, sizeof(path), "%s/cgroup.stat", own_group());
	file = fopen(path, "r");
	if (!file)
		wrong(path);
	while (fgets(line, sizeof(line), file))
		if (!strncmp(line, "nr_dying_descendants ", 21))
			dying = strtol(line + 21, NULL, 10) > 0;
	fclose(file);
	return dying;
}

/* among N ACT...: with N empty child cgroups, which go afterwards */
static int do_among(void)
{
	long wanted = number(arg(0));
	char path[4096];
	int result;

	for (long n = 0; n < wanted; n++) {
		snprintf(path, sizeof(path), "%s/empty%ld", own_group(), n);
		if (mkdir(path, 0755) && errno != EEXIST)
			wrong(path);
	}
	result = dispatch(args + 1);
	for (long n = 0; n < wanted; n++) {
		snprintf(path, sizeof(path), "%s/empty%ld", own_group(), n);
		rmdir(path);
	}
	for (int tenth = 0; tenth < 300 && groups_dying(); tenth++)
		usleep(100000);
	return result;
}

/* in-group GROUP ACT...: moves into this cgroup, then acts there */
static int do_in_group(void)
{
	int procs = group(arg(0));

	if (write(procs, "0", 1) != 1)
		wrong(arg(0));
	close(procs);
	return dispatch(args + 1);
}

/* crowd N GROUP...: N children in each of these cgroups, then all end; prints how many there were */
static int do_crowd(void)
{
	long wanted = number(arg(0)), made = 0;
	int gate[2], error = 0;

	if (pipe(gate))
		wrong("pipe");
	for (int n = 1; args[n] && !error; n++) {
		int procs = group(args[n]);

		for (long child = 0; child < wanted && !error; child++) {
			char byte, text[16];
			pid_t pid = fork();

			if (!pid) {
				close(gate[1]);
				_exit(read(gate[0], &byte, 1) < 0);
			}
			if (pid < 0) {
				error = errno;
				break;
			}
			made++;
			if (write(procs, text, snprintf(text, sizeof(text), "%d", pid)) < 0)
				wrong(args[n]);
		}
		close(procs);
	}
	close(gate[1]);
	for (long n = 0; n < made; n++)
		wait(NULL);
	printf("%s %ld\n", error ? strerrorname_np(error) : "OK", made);
	return error;
}

/* ---- memory ---- */

#define PAGE 4096

static int prot_of(const char *text)
{
	return (strchr(text, 'r') ? PROT_READ : 0) | (strchr(text, 'w') ? PROT_WRITE : 0) | (strchr(text, 'x') ? PROT_EXEC : 0);
}

static void *need_map(void *area, const char *what)
{
	if (area == MAP_FAILED)
		wrong(what);
	return area;
}

/* memory-map PROT [private|shared|huge|zero|memfd|hugefd]: new memory with this protection */
static int do_memory_map(void)
{
	const char *kind = opt(1, "private");
	int flags = MAP_PRIVATE | MAP_ANONYMOUS, fd = -1;
	size_t size = PAGE;

	if (!strcmp(kind, "shared"))
		flags = MAP_SHARED | MAP_ANONYMOUS;
	if (!strcmp(kind, "zero") || !strcmp(kind, "memfd")) {
		fd = need_fd(kind[0] == 'z' ? open("/dev/zero", O_RDWR) : memfd_create("trigger", 0), kind);
		if (kind[0] == 'm' && ftruncate(fd, PAGE))
			wrong("ftruncate");
		flags = kind[0] == 'z' ? MAP_PRIVATE : MAP_SHARED;
	}
	return report(mmap(NULL, size, prot_of(arg(0)), flags, fd, 0) == MAP_FAILED ? -1 : 0);
}

/* memory-protect BEFORE AFTER [private|shared|file FILE|pkey]: memory that is written, then gets another protection. Of a file it is a
 * private mapping.
 */
static int do_memory_protect(void)
{
	const char *kind = opt(2, "private");
	bool file = !strcmp(kind, "file");
	int fd = file ? need_fd(open(arg(3), O_RDONLY), arg(3)) : -1;
	int flags = file ? MAP_PRIVATE : MAP_ANONYMOUS | (!strcmp(kind, "shared") ? MAP_SHARED : MAP_PRIVATE);
	char *area = need_map(mmap(NULL, PAGE, prot_of(arg(0)), flags, fd, 0), "mmap");

	if (prot_of(arg(0)) & PROT_WRITE)
		*(volatile char *)area = (char)0xc3;
	if (!strcmp(kind, "pkey"))
		return report(syscall(SYS_pkey_mprotect, area, PAGE, prot_of(arg(1)), -1));
	return report(mprotect(area, PAGE, prot_of(arg(1))));
}

/* memory-shm: a System V segment attached with SHM_EXEC */
static int do_memory_shm(void)
{
	int id = need_fd(shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0700), "shmget");
	int error = report(shmat(id, NULL, SHM_EXEC) == (void *)-1 ? -1 : 0);

	shmctl(id, IPC_RMID, NULL);
	return error;
}

/* memory-implied ACT...: with READ_IMPLIES_EXEC */
static int do_memory_implied(void)
{
	if (personality(READ_IMPLIES_EXEC) < 0)
		wrong("personality");
	return dispatch(args);
}

/* memory-of PID|self: writes a byte through /proc/PID/mem */
static int do_memory_of(void)
{
	static char mark = 'x';
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%s/mem", arg(0));
	fd = open(path, O_RDWR);
	return report(fd < 0 ? -1 : pwrite(fd, &mark, 1, (off_t)(uintptr_t)&mark));
}

/* vm-writev PID|self */
static int do_vm_writev(void)
{
	static char mark = 'x';
	pid_t target = strcmp(arg(0), "self") ? number(arg(0)) : getpid();
	struct iovec local = { &mark, 1 }, remote = { &mark, 1 };

	return report(syscall(SYS_process_vm_writev, target, &local, 1UL, &remote, 1UL, 0UL));
}

/* ---- signals ---- */

/* signal-by WAY PID NUMBER: tkill, sigqueue, tgsigqueue, pidfd, int80 */
static int do_signal_by(void)
{
	const char *way = arg(0);
	pid_t target = number(arg(1));
	int which = number(arg(2));
	siginfo_t info = { .si_signo = which, .si_code = SI_QUEUE };

	if (!strcmp(way, "tkill"))
		return report(syscall(SYS_tkill, target, which));
	if (!strcmp(way, "sigqueue"))
		return report(syscall(SYS_rt_sigqueueinfo, target, which, &info));
	if (!strcmp(way, "tgsigqueue"))
		return report(syscall(SYS_rt_tgsigqueueinfo, target, target, which, &info));
	if (!strcmp(way, "pidfd"))
		return report(syscall(SYS_pidfd_send_signal, need_fd(syscall(SYS_pidfd_open, target, 0), "pidfd_open"), which, NULL, 0));
	return report(call_int80(NR_KILL_COMPAT, target, which));
}

/* Whether a process is gone, or waits to be collected. */
static bool has_ended(pid_t pid)
{
	char path[64], text[512], *state;
	ssize_t length;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return true;
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[length > 0 ? length : 0] = 0;
	state = strrchr(text, ')');
	return !state || state[2] == 'Z' || state[2] == 'X';
}

/* signal-io PID|child|self NUMBER: the kernel sends the signal when a descriptor becomes readable; EPERM where it does not arrive within a
 * second
 */
static int do_signal_io(void)
{
	bool self = !strcmp(arg(0), "self"), child = !strcmp(arg(0), "child");
	int which = number(arg(1)), ends[2], ready[2];
	sigset_t wanted;
	pid_t target;

	sigemptyset(&wanted);
	sigaddset(&wanted, which);
	sigprocmask(SIG_BLOCK, &wanted, NULL);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) || pipe(ready))
		wrong("socketpair");
	target = self ? getpid() : (child ? fork() : number(arg(0)));
	if (!target) {
		struct timespec second = { .tv_sec = 1 };

		close(ready[0]);
		close(ready[1]);
		_exit(sigtimedwait(&wanted, NULL, &second) < 0 ? EPERM : 0);
	}
	if (fcntl(ends[0], F_SETOWN, target) || fcntl(ends[0], F_SETSIG, which) || fcntl(ends[0], F_SETFL, O_ASYNC | O_NONBLOCK))
		wrong("fcntl");
	if (write(ends[1], "x", 1) != 1)
		wrong("write");
	if (child) {
		errno = collect(target);
		return report(errno ? -1 : 0);
	}
	if (self) {
		struct timespec second = { .tv_sec = 1 };

		errno = sigtimedwait(&wanted, NULL, &second) < 0 ? EPERM : 0;
		return report(errno ? -1 : 0);
	}
	for (int tenth = 0; tenth < 10; tenth++) {
		if (has_ended(target))
			return report(0);
		usleep(100000);
	}
	errno = EPERM;
	return report(-1);
}

/* ---- daemons ---- */

/* elder FOLDER: leaves its parent by two forks, then does in a child what each line of the fifo FOLDER/go says, and writes the child's code to
 * the fifo FOLDER/done. An empty line ends it.
 */
static int do_elder(void)
{
	char go[4096], done[4096], line[4096], *words[32], *save;

	snprintf(go, sizeof(go), "%s/go", arg(0));
	snprintf(done, sizeof(done), "%s/done", arg(0));
	if (fork())
		return 0;
	setsid();
	if (fork())
		_exit(0);
	for (int fd = 0; fd < 3; fd++)
		dup2(need_fd(open("/dev/null", O_RDWR), "/dev/null"), fd);
	for (;;) {
		int fd = need_fd(open(go, O_RDONLY), go), code, count = 0;
		ssize_t length = read(fd, line, sizeof(line) - 1);

		close(fd);
		if (length <= 1)
			_exit(0);
		line[length] = 0;
		for (char *word = strtok_r(line, " \n", &save); word && count < 31; word = strtok_r(NULL, " \n", &save))
			words[count++] = word;
		words[count] = NULL;
		pid_t child = fork();

		if (!child)
			_exit(dispatch(words));
		code = child < 0 ? errno : collect(child);
		fd = need_fd(open(done, O_WRONLY), done);
		dprintf(fd, "%d\n", code);
		close(fd);
	}
}

/* ---- formats of programs ---- */

/* binfmt-register DIRECTORY: mounts binfmt_misc there and registers a format, which goes at once. binfmt-status reads. */
static int format_file(const char *name, int flags)
{
	char path[4096];

	if (mount("trigger", arg(0), "binfmt_misc", 0, NULL))
		wrong("mount");
	snprintf(path, sizeof(path), "%s/%s", arg(0), name);
	return open(path, flags);
}

static int do_binfmt_register(void)
{
	static const char format[] = ":trigger:M::trigger\\x00::/nonexistent:";
	int fd = format_file("register", O_WRONLY), entry, error;
	char path[4096];

	error = report(fd < 0 ? -1 : write(fd, format, sizeof(format) - 1));
	snprintf(path, sizeof(path), "%s/trigger", arg(0));
	entry = open(path, O_WRONLY);
	if (!error && write(entry, "-1", 2) != 2)
		wrong(path);
	return error;
}

static int do_binfmt_status(void)
{
	int fd = format_file("status", O_RDONLY);
	char byte;

	return report(fd < 0 ? -1 : read(fd, &byte, 1));
}

/* ---- modules ---- */

static int unload(const char *name) { return syscall(SYS_delete_module, name, O_NONBLOCK); }

/* load-module init|finit FILE NAME: loads the image, and takes the module away again */
static int do_load_module(void)
{
	int fd = need_fd(open(arg(1), O_RDONLY), arg(1)), error;
	struct stat st;
	long result;

	if (!strcmp(arg(0), "finit")) {
		result = syscall(SYS_finit_module, fd, "", 0);
	} else {
		if (fstat(fd, &st))
			wrong("fstat");
		void *image = need_map(mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0), "mmap");

		result = syscall(SYS_init_module, image, st.st_size, "");
	}
	error = report(result);
	if (!error && unload(arg(2)))
		wrong("delete_module");
	return error;
}

/* unload-module NAME: it may be gone already */
static int do_unload_module(void) { return report(unload(arg(0)) && errno != ENOENT ? -1 : 0); }

const struct act process_acts[] = {
	{ "setns-new", do_setns_new },
	{ "in-user-ns", do_in_user_ns },
	{ "with-thread", do_with_thread },
	{ "in-group", do_in_group },
	{ "crowd", do_crowd },
	{ "among", do_among },
	{ "memory-map", do_memory_map },
	{ "memory-protect", do_memory_protect },
	{ "memory-shm", do_memory_shm },
	{ "memory-implied", do_memory_implied },
	{ "memory-of", do_memory_of },
	{ "vm-writev", do_vm_writev },
	{ "load-module", do_load_module },
	{ "unload-module", do_unload_module },
	{ "signal-by", do_signal_by },
	{ "signal-io", do_signal_io },
	{ "elder", do_elder },
	{ "binfmt-register", do_binfmt_register },
	{ "binfmt-status", do_binfmt_status },
	{ NULL, NULL },
};
