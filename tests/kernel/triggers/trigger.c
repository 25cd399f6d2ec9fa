/* SPDX-License-Identifier: Apache-2.0 */
/* One system call in, its errno out: the acts that kernel cases are made of.
 *
 * `trigger NAME ARGS...` does exactly the act NAME and, where the act needs something first (a socket, a child), that and no more.
 * Exit code: 0 when the act succeeded, its errno (1..133) when it failed, 200 when the trigger itself was called wrongly or a
 * preparation failed. Standard output: "OK" or the errno's name, then what a case may want to compare. `trigger list` names all acts.
 *
 * Linked statically, without exec of anything else, so an act causes no file accesses beyond its own.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "trigger.h"

void wrong(const char *what)
{
	fprintf(stderr, "trigger: %s: %s\n", what, strerror(errno));
	exit(EXIT_WRONG);
}

int report(long result)
{
	int error = result < 0 ? errno : 0;

	puts(error ? strerrorname_np(error) : "OK");
	return error;
}

/* For acts that yield a descriptor: it is closed, so that an act can be repeated. */
int report_fd(int fd)
{
	int error = report(fd);

	if (fd >= 0)
		close(fd);
	return error;
}

char **args;

const char *arg(int n)
{
	for (int i = 0; i <= n; i++)
		if (!args[i]) {
			errno = EINVAL;
			wrong("argument missing");
		}
	return args[n];
}

const char *opt(int n, const char *otherwise)
{
	for (int i = 0; i <= n; i++)
		if (!args[i])
			return otherwise;
	return args[n];
}

long number(const char *text)
{
	char *end;
	long value = strtol(text, &end, 0);

	if (*end || end == text) {
		errno = EINVAL;
		wrong(text);
	}
	return value;
}

int open_flags(const char *text)
{
	static const struct {
		const char *name;
		int flag;
	} names[] = {
		{ "rdonly", O_RDONLY },
		{ "wronly", O_WRONLY },
		{ "rdwr", O_RDWR },
		{ "creat", O_CREAT },
		{ "excl", O_EXCL },
		{ "trunc", O_TRUNC },
		{ "append", O_APPEND },
		{ "path", O_PATH },
		{ "directory", O_DIRECTORY },
		{ "nofollow", O_NOFOLLOW },
		{ "tmpfile", O_TMPFILE },
	};
	char copy[128], *save = NULL;
	int flags = 0;

	snprintf(copy, sizeof(copy), "%s", text);
	for (char *word = strtok_r(copy, "|", &save); word; word = strtok_r(NULL, "|", &save)) {
		size_t i = 0;

		while (i < sizeof(names) / sizeof(names[0]) && strcmp(names[i].name, word))
			i++;
		if (i == sizeof(names) / sizeof(names[0])) {
			errno = EINVAL;
			wrong(word);
		}
		flags |= names[i].flag;
	}
	return flags;
}

int need_fd(int fd, const char *what)
{
	if (fd < 0)
		wrong(what);
	return fd;
}

/* Waits for a child; its exit code, or 128 + the signal that ended it. */
int collect(pid_t child)
{
	int status;

	if (waitpid(child, &status, 0) < 0)
		wrong("waitpid");
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* ---- files ---- */
static int do_open(void) { return report_fd(open(arg(0), open_flags(opt(1, "rdonly")), 0644)); }
static int do_open_syscall(void) { return report_fd(syscall(SYS_open, arg(0), open_flags(opt(1, "rdonly")), 0644)); }
static int do_creat(void) { return report_fd(creat(arg(0), 0644)); }

/* openat DIRECTORY NAME FLAGS: relative to a descriptor of DIRECTORY */
static int do_openat(void)
{
	int dir = need_fd(open(arg(0), O_PATH | O_DIRECTORY), arg(0));

	return report_fd(openat(dir, arg(1), open_flags(opt(2, "rdonly")), 0644));
}

static int do_openat2(void)
{
	struct open_how how = { .flags = open_flags(opt(1, "rdonly")) };

	if (how.flags & O_CREAT)
		how.mode = 0644;
	return report_fd(syscall(SYS_openat2, AT_FDCWD, arg(0), &how, sizeof(how)));
}

/* open-chdir DIRECTORY NAME FLAGS: a relative name after chdir */
static int do_open_chdir(void)
{
	if (chdir(arg(0)))
		wrong("chdir");
	return report_fd(open(arg(1), open_flags(opt(2, "rdonly")), 0644));
}

/* open-chroot DIRECTORY NAME FLAGS: inside a chroot */
static int do_open_chroot(void)
{
	if (chroot(arg(0)) || chdir("/"))
		wrong("chroot");
	return report_fd(open(arg(1), open_flags(opt(2, "rdonly")), 0644));
}

/* open-proc-fd FILE FLAGS: reopened through /proc/self/fd of an O_PATH descriptor */
static int do_open_proc_fd(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", need_fd(open(arg(0), O_PATH), arg(0)));
	return report_fd(open(path, open_flags(opt(1, "rdonly"))));
}

/* open-private-ns FILE FLAGS: from a new mount namespace */
static int do_open_private_ns(void)
{
	if (unshare(CLONE_NEWNS))
		wrong("unshare");
	return report_fd(open(arg(0), open_flags(opt(1, "rdonly")), 0644));
}

/* A ring of one entry, set up by hand; the request is submitted and its result returned as -errno or a value. `fixed`: a buffer to register. */
int uring_request_with(const struct io_uring_sqe *request, const struct iovec *fixed)
{
	struct io_uring_params params = { 0 };
	int fd = syscall(SYS_io_uring_setup, 4, &params);

	need_fd(fd, "io_uring_setup");
	size_t sq_size = params.sq_off.array + params.sq_entries * sizeof(__u32);
	size_t cq_size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
	char *sq = mmap(NULL, sq_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQ_RING);
	char *cq = mmap(NULL, cq_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_CQ_RING);
	struct io_uring_sqe *sqes = mmap(NULL, params.sq_entries * sizeof(*sqes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQES);

	if (sq == MAP_FAILED || cq == MAP_FAILED || sqes == MAP_FAILED)
		wrong("mmap of the ring");
	sqes[0] = *request;
	if (fixed && syscall(SYS_io_uring_register, fd, IORING_REGISTER_BUFFERS, fixed, 1))
		wrong("io_uring_register");
	((__u32 *)(sq + params.sq_off.array))[0] = 0;
	__atomic_store_n((__u32 *)(sq + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		wrong("io_uring_enter");
	return ((struct io_uring_cqe *)(cq + params.cq_off.cqes))[0].res;
}

int uring_request(const struct io_uring_sqe *request) { return uring_request_with(request, NULL); }

static int do_open_uring(void)
{
	struct io_uring_sqe sqe = { .opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (unsigned long)arg(0), .len = 0644 };

	sqe.open_flags = open_flags(opt(1, "rdonly"));
	if (!strcmp(opt(2, "self"), "worker"))
		sqe.flags = IOSQE_ASYNC;
	int result = uring_request(&sqe);

	errno = result < 0 ? -result : 0;
	return report(result < 0 ? -1 : 0);
}

/* uring-sqpoll: a ring with a kernel thread that polls */
static int do_uring_sqpoll(void)
{
	struct io_uring_params params = { .flags = IORING_SETUP_SQPOLL, .sq_thread_idle = 1 };

	return report_fd(syscall(SYS_io_uring_setup, 4, &params));
}

static int do_uring_setup(void)
{
	struct io_uring_params params = { 0 };

	return report_fd(syscall(SYS_io_uring_setup, 4, &params));
}

/* open-handle FILE FLAGS: by file handle, so without any path walk */
static int do_open_handle(void)
{
	struct {
		struct file_handle handle;
		unsigned char bytes[MAX_HANDLE_SZ];
	} h = { .handle.handle_bytes = MAX_HANDLE_SZ };
	int mount_id, root = need_fd(open(opt(2, "/"), O_RDONLY | O_DIRECTORY), "mount");

	if (name_to_handle_at(AT_FDCWD, arg(0), &h.handle, &mount_id, 0))
		wrong("name_to_handle_at");
	return report_fd(open_by_handle_at(root, &h.handle, open_flags(opt(1, "rdonly"))));
}

static int do_truncate(void) { return report(truncate(arg(0), number(opt(1, "0")))); }

static int do_rename(void) { return report(rename(arg(0), arg(1))); }
static int do_exchange(void) { return report(renameat2(AT_FDCWD, arg(0), AT_FDCWD, arg(1), RENAME_EXCHANGE)); }
static int do_unlink(void) { return report(unlink(arg(0))); }
static int do_unlinkat(void)
{
	int dir = need_fd(open(arg(0), O_PATH | O_DIRECTORY), arg(0));

	return report(unlinkat(dir, arg(1), 0));
}
static int do_rmdir(void) { return report(rmdir(arg(0))); }
static int do_mkdir(void) { return report(mkdir(arg(0), 0755)); }
static int do_link(void) { return report(link(arg(0), arg(1))); }
static int do_symlink(void) { return report(symlink(arg(0), arg(1))); }
static int do_mknod(void) { return report(mknod(arg(0), S_IFIFO | 0644, 0)); }
static int do_mkdev(void) { return report(mknod(arg(0), S_IFCHR | 0600, (1 << 8) | 3)); }

static int do_link_fd(void)
{
	int fd = need_fd(open(arg(0), O_RDONLY), arg(0));

	return report(linkat(fd, "", AT_FDCWD, arg(1), AT_EMPTY_PATH));
}

/* link-tmpfile DIRECTORY NAME: an O_TMPFILE given a name */
static int do_link_tmpfile(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", need_fd(open(arg(0), O_TMPFILE | O_WRONLY, 0644), arg(0)));
	return report(linkat(AT_FDCWD, path, AT_FDCWD, arg(1), AT_SYMLINK_FOLLOW));
}

static int do_chmod(void) { return report(chmod(arg(0), number(opt(1, "0600")))); }
static int do_fchmodat(void) { return report(fchmodat(AT_FDCWD, arg(0), number(opt(1, "0600")), 0)); }
static int do_chown(void) { return report(chown(arg(0), number(opt(1, "12")), number(opt(2, "12")))); }
static int do_lchown(void) { return report(lchown(arg(0), number(opt(1, "12")), number(opt(2, "12")))); }
static int do_setxattr(void) { return report(setxattr(arg(0), opt(1, "trusted.trigger"), "1", 1, 0)); }
static int do_removexattr(void) { return report(removexattr(arg(0), opt(1, "trusted.trigger"))); }
static int do_utimens(void) { return report(utimensat(AT_FDCWD, arg(0), NULL, 0)); }
static int do_stat(void)
{
	struct stat st;

	return report(stat(arg(0), &st));
}

/* read FILE, write FILE: open and one byte; the errno is the first failure's */
static int do_read(void)
{
	int fd = open(arg(0), O_RDONLY);
	char byte;

	return report(fd < 0 ? -1 : read(fd, &byte, 1));
}
static int do_write(void)
{
	int fd = open(arg(0), O_WRONLY);

	return report(fd < 0 ? -1 : write(fd, "x", 1));
}

static int prot_flags(const char *text)
{
	return (strchr(text, 'r') ? PROT_READ : 0) | (strchr(text, 'w') ? PROT_WRITE : 0) | (strchr(text, 'x') ? PROT_EXEC : 0);
}

/* mmap FILE PROT shared|private */
static int do_mmap(void)
{
	int prot = prot_flags(opt(1, "r")), shared = !strcmp(opt(2, "private"), "shared");
	int fd = need_fd(open(arg(0), prot & PROT_WRITE && shared ? O_RDWR : O_RDONLY), arg(0));

	return report(mmap(NULL, 4096, prot, shared ? MAP_SHARED : MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0);
}

/* mprotect FILE PROT-BEFORE PROT-AFTER shared|private */
static int do_mprotect(void)
{
	int shared = !strcmp(opt(3, "private"), "shared");
	int fd = need_fd(open(arg(0), shared ? O_RDWR : O_RDONLY), arg(0));
	void *area = mmap(NULL, 4096, prot_flags(arg(1)), shared ? MAP_SHARED : MAP_PRIVATE, fd, 0);

	if (area == MAP_FAILED)
		wrong("mmap");
	return report(mprotect(area, 4096, prot_flags(arg(2))));
}

/* ---- programs: the act is the exec itself; on success the new program is `trigger ok` ---- */
static char *const *program(const char *path)
{
	static char *argv[4];

	argv[0] = (char *)path;
	argv[1] = "ok";
	return argv;
}
static int do_ok(void) { return report(0); }
static int do_exec(void)
{
	execve(arg(0), args[1] ? args : program(arg(0)), environ);
	return report(-1);
}
/* exec-as FILE ARGV0 ARGS...: the name shown is not the file's */
static int do_exec_as(void)
{
	execve(arg(0), args + 1, environ);
	return report(-1);
}
static int do_exec_chdir(void)
{
	if (chdir(arg(0)))
		wrong("chdir");
	execve(arg(1), program(arg(1)), environ);
	return report(-1);
}
static int do_execveat(void)
{
	int dir = need_fd(open(arg(0), O_PATH | O_DIRECTORY), arg(0));

	syscall(SYS_execveat, dir, arg(1), program(arg(1)), environ, 0);
	return report(-1);
}
static int do_fexecve(void)
{
	int fd = need_fd(open(arg(0), O_PATH), arg(0));

	syscall(SYS_execveat, fd, "", program(arg(0)), environ, AT_EMPTY_PATH);
	return report(-1);
}
static int do_exec_proc_fd(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", need_fd(open(arg(0), O_PATH), arg(0)));
	execve(path, program(path), environ);
	return report(-1);
}

int copy_of(const char *from, int to)
{
	int fd = need_fd(open(from, O_RDONLY), from);
	char buffer[65536];
	ssize_t n;

	while ((n = read(fd, buffer, sizeof(buffer))) > 0)
		if (write(to, buffer, n) != n)
			wrong("copy");
	close(fd);
	return to;
}

/* exec-memfd FILE: a copy of FILE in an anonymous file */
static int do_exec_memfd(void)
{
	int fd = copy_of(arg(0), need_fd(memfd_create("payload", MFD_CLOEXEC), "memfd_create"));

	syscall(SYS_execveat, fd, "", program(arg(0)), environ, AT_EMPTY_PATH);
	return report(-1);
}

/* exec-deleted FILE: FILE is copied to FILE.gone, which is unlinked while a descriptor keeps it, then executed */
static int do_exec_deleted(void)
{
	char name[4096];

	snprintf(name, sizeof(name), "%s.gone", arg(0));
	close(copy_of(arg(0), need_fd(open(name, O_WRONLY | O_CREAT | O_TRUNC, 0755), name)));
	int fd = need_fd(open(name, O_PATH), name);

	if (unlink(name))
		wrong("unlink");
	syscall(SYS_execveat, fd, "", program(name), environ, AT_EMPTY_PATH);
	return report(-1);
}

/* then FILE ARGS...: forks, the child executes; lineage cases. The code is the child's. */
static int do_then(void)
{
	fflush(stdout);
	pid_t child = fork();

	if (child < 0)
		wrong("fork");
	if (!child) {
		execve(arg(0), args, environ);
		int error = report(-1);

		fflush(stdout);
		_exit(error);
	}
	return collect(child);
}

/* ---- processes ---- */
/* fork N: N children that stay until all were asked for; prints how many there were */
static int do_fork(void)
{
	long wanted = number(arg(0)), made = 0;
	int gate[2], error = 0;

	if (pipe(gate))
		wrong("pipe");
	for (; made < wanted; made++) {
		pid_t child = fork();

		if (child < 0) {
			error = errno;
			break;
		}
		if (!child) {
			char byte;

			close(gate[1]);
			_exit(read(gate[0], &byte, 1) < 0);
		}
	}
	close(gate[1]);
	for (long i = 0; i < made; i++)
		wait(NULL);
	printf("%s %ld\n", error ? strerrorname_np(error) : "OK", made);
	return error;
}

/* The second time nothing is left to wait for. */
static void *wait_at(void *gate)
{
	char byte;

	return read(*(int *)gate, &byte, 1) < 0 || read(*(int *)gate, &byte, 1) < 0 ? gate : NULL;
}

/* How many threads of this process sleep. */
static long sleeping(void)
{
	DIR *tasks = opendir("/proc/self/task");
	struct dirent *task;
	long found = 0;

	if (!tasks)
		wrong("opendir");
	while ((task = readdir(tasks))) {
		char path[300], state = 0;
		FILE *file;

		snprintf(path, sizeof(path), "/proc/self/task/%s/stat", task->d_name);
		file = fopen(path, "r");
		if (!file)
			continue;
		if (fscanf(file, "%*d (%*[^)]) %c", &state) == 1)
			found += state == 'S';
		fclose(file);
	}
	closedir(tasks);
	return found;
}

static int do_threads(void)
{
	long wanted = number(arg(0)), made = 0;
	pthread_t *threads = calloc(wanted, sizeof(*threads));
	int gate[2], error = 0;

	if (!threads || pipe(gate))
		wrong("pipe");
	for (; made < wanted && !error; made += !error)
		error = pthread_create(&threads[made], NULL, wait_at, &gate[0]);
	while (sleeping() < made)
		usleep(10000);
	close(gate[1]);
	for (long i = 0; i < made; i++)
		pthread_join(threads[i], NULL);
	printf("%s %ld\n", error ? strerrorname_np(error) : "OK", made);
	return error;
}

static pid_t sleeper(void)
{
	int ready[2];
	pid_t child;

	if (pipe(ready))
		wrong("pipe");
	child = fork();
	if (child < 0)
		wrong("fork");
	if (!child) {
		close(ready[0]);
		close(ready[1]);
		for (;;)
			pause();
	}
	close(ready[1]);
	char byte;

	if (read(ready[0], &byte, 1) < 0)
		wrong("pipe");
	return child;
}

static int finish(pid_t child, long result)
{
	int error = report(result);

	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return error;
}

/* signal PID|child NUMBER */
static int do_signal(void)
{
	int which = number(opt(1, "0"));

	if (strcmp(arg(0), "child"))
		return report(kill(number(arg(0)), which));
	pid_t child = sleeper();
	int error = report(kill(child, which));

	/* under a policy that denies signals the child cannot be killed from here: it dies with its cgroup */
	if (!error)
		kill(child, SIGKILL);
	return error;
}
static int do_tgkill(void) { return report(syscall(SYS_tgkill, number(arg(0)), number(arg(0)), number(opt(1, "0")))); }

static int do_ptrace_attach(void)
{
	pid_t target = strcmp(arg(0), "child") ? number(arg(0)) : sleeper();
	long result = ptrace(PTRACE_SEIZE, target, NULL, NULL);

	return strcmp(arg(0), "child") ? report(result) : finish(target, result);
}

/* the parent becomes the tracer; the errno of the child's call is the code */
static int do_ptrace_traceme(void)
{
	pid_t child = fork();

	if (child < 0)
		wrong("fork");
	if (!child)
		_exit(ptrace(PTRACE_TRACEME, 0, NULL, NULL) ? errno : 0);
	errno = collect(child);
	return report(errno ? -1 : 0);
}

static int do_vm_readv(void)
{
	static char mark = 'x';
	char byte;
	pid_t target = strcmp(arg(0), "child") ? number(arg(0)) : sleeper();
	struct iovec local = { &byte, 1 }, remote = { &mark, 1 };
	long result = process_vm_readv(target, &local, 1, &remote, 1, 0);

	return strcmp(arg(0), "child") ? report(result) : finish(target, result);
}

static int do_proc_mem(void)
{
	char path[64], link[64];
	pid_t target = strcmp(arg(0), "child") ? number(arg(0)) : sleeper();

	snprintf(path, sizeof(path), "/proc/%d/root", target);
	long result = readlink(path, link, sizeof(link));

	return strcmp(arg(0), "child") ? report(result) : finish(target, result);
}

/* The raw calls: the C library would also try every thread. */
static int do_setuid(void) { return report(syscall(SYS_setuid, number(arg(0)))); }
static int do_setresuid(void) { return report(syscall(SYS_setresuid, number(arg(0)), number(arg(0)), number(arg(0)))); }
static int do_setgid(void) { return report(syscall(SYS_setgid, number(arg(0)))); }
static int do_setgroups(void)
{
	gid_t group = number(arg(0));

	return report(syscall(SYS_setgroups, 1, &group));
}
/* capable: an act that needs CAP_SYS_NICE (21 is SYS_ADMIN, 23 SYS_NICE, 26 SYS_TTY_CONFIG): a negative nice value */
static int do_nice(void)
{
	errno = 0;
	return report(nice(-1) == -1 && errno ? -1 : 0);
}
static int do_sethostname(void)
{
	char name[256];

	if (gethostname(name, sizeof(name)))
		wrong("gethostname");
	return report(sethostname(name, strlen(name)));
}
static int do_exit(void) { return number(arg(0)); }

/* as UID ACT ARGS...: becomes UID, then acts */
static int do_as(void)
{
	long uid = number(arg(0));

	if (syscall(SYS_setresgid, uid, uid, uid) || syscall(SYS_setresuid, uid, uid, uid))
		wrong("setresuid");
	return dispatch(args + 1);
}

/* stay ACT...: acts when a line comes in; prints "ready" first */
static int do_stay(void)
{
	char byte;

	puts("ready");
	fflush(stdout);
	if (read(0, &byte, 1) < 0)
		wrong("standard input");
	return dispatch(args);
}

/* repeat N ACT...: N times; the code is the last failure's, or 0; "OK n" counts successes */
static int do_repeat(void)
{
	long n = number(arg(0)), good = 0;
	int error = 0;
	char **rest = args + 1;

	for (long i = 0; i < n; i++) {
		int code = dispatch(rest);

		good += !code;
		error = code ? code : error;
	}
	printf("good %ld of %ld\n", good, n);
	return error;
}

/* pace N MILLISECONDS ACT...: N times with a pause before each */
static int do_pace(void)
{
	long n = number(arg(0)), pause_ms = number(arg(1));
	int error = 0;
	char **rest = args + 2;

	for (long i = 0; i < n; i++) {
		usleep(pause_ms * 1000);
		int code = dispatch(rest);

		error = code ? code : error;
	}
	return error;
}

/* each: one act a line of standard input, words separated by tabs; one line of output each */
static int do_each(void)
{
	char *line = NULL, *words[16], *save;
	size_t size = 0;

	while (getline(&line, &size, stdin) > 0) {
		int n = 0;

		line[strcspn(line, "\n")] = 0;
		for (char *word = strtok_r(line, "\t", &save); word && n < 15; word = strtok_r(NULL, "\t", &save))
			words[n++] = word;
		words[n] = NULL;
		dispatch(words);
		fflush(stdout);
	}
	free(line);
	return 0;
}

/* ---- network ---- */
socklen_t address(const char *ip, const char *port, struct sockaddr_storage *out)
{
	struct sockaddr_in *v4 = (void *)out;
	struct sockaddr_in6 *v6 = (void *)out;

	memset(out, 0, sizeof(*out));
	if (inet_pton(AF_INET, ip, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(number(port));
		return sizeof(*v4);
	}
	if (inet_pton(AF_INET6, ip, &v6->sin6_addr) != 1) {
		errno = EINVAL;
		wrong(ip);
	}
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons(number(port));
	return sizeof(*v6);
}

/* What the network itself answers is a success of the act: nothing listens there, or no route leads there. */
static int went_out(int result)
{
	if (result < 0 && (errno == ECONNREFUSED || errno == EINPROGRESS || errno == ENETUNREACH || errno == EHOSTUNREACH))
		return 0;
	return result;
}

/* connect IP PORT */
static int do_connect(void)
{
	struct sockaddr_storage to;
	socklen_t size = address(arg(0), arg(1), &to);
	int fd = need_fd(socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0), "socket");
	int result = connect(fd, (void *)&to, size);

	result = report(went_out(result));
	close(fd);
	return result;
}
static int do_connect_uring(void)
{
	struct sockaddr_storage to;
	socklen_t size = address(arg(0), arg(1), &to);
	int fd = need_fd(socket(to.ss_family, SOCK_STREAM, 0), "socket");
	struct io_uring_sqe sqe = { .opcode = IORING_OP_CONNECT, .fd = fd, .addr = (unsigned long)&to, .off = size };
	int result = uring_request(&sqe);

	errno = -result;
	return report(went_out(result));
}
static int do_udp_send(void)
{
	struct sockaddr_storage to;
	socklen_t size = address(arg(0), arg(1), &to);
	int fd = need_fd(socket(to.ss_family, SOCK_DGRAM, 0), "socket");

	return report(went_out(sendto(fd, "x", 1, 0, (void *)&to, size)));
}
/* udp-send-unspec IP PORT: IPv4, with AF_UNSPEC in the address, which udp_sendmsg takes for AF_INET */
static int do_udp_send_unspec(void)
{
	struct sockaddr_storage to;
	socklen_t size = address(arg(0), arg(1), &to);
	int fd = need_fd(socket(AF_INET, SOCK_DGRAM, 0), "socket");

	to.ss_family = AF_UNSPEC;
	return report(went_out(sendto(fd, "x", 1, 0, (void *)&to, size)));
}
static int do_udp_connect(void)
{
	struct sockaddr_storage to;
	socklen_t size = address(arg(0), arg(1), &to);
	int fd = need_fd(socket(to.ss_family, SOCK_DGRAM, 0), "socket");

	return report(went_out(connect(fd, (void *)&to, size)));
}
static int do_bind(void)
{
	struct sockaddr_storage own;
	socklen_t size = address(arg(0), arg(1), &own);
	int fd = need_fd(socket(own.ss_family, SOCK_STREAM, 0), "socket");

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
	return report(bind(fd, (void *)&own, size));
}
static int listener(const char *ip, const char *port)
{
	struct sockaddr_storage own;
	socklen_t size = address(ip, port, &own);
	int fd = need_fd(socket(own.ss_family, SOCK_STREAM, 0), "socket");

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
	if (bind(fd, (void *)&own, size))
		wrong("bind");
	return fd;
}
static int do_listen(void) { return report(listen(listener(arg(0), arg(1)), 4)); }

/* accept IP PORT: a child connects, the act is the accept */
static int do_accept(void)
{
	int fd = listener(arg(0), arg(1));

	if (listen(fd, 4))
		wrong("listen");
	pid_t child = fork();

	if (child < 0)
		wrong("fork");
	if (!child) {
		struct sockaddr_storage to;
		socklen_t size = address(arg(0), arg(1), &to);
		int peer = socket(to.ss_family, SOCK_STREAM, 0);

		_exit(peer < 0 || connect(peer, (void *)&to, size));
	}
	int result = accept(fd, NULL, NULL), error = errno;

	waitpid(child, NULL, 0);
	errno = error;
	return report(result);
}

static socklen_t unix_address(const char *path, struct sockaddr_un *out)
{
	memset(out, 0, sizeof(*out));
	out->sun_family = AF_UNIX;
	if (path[0] == '@') {
		memcpy(out->sun_path + 1, path + 1, strlen(path) - 1);
		return offsetof(struct sockaddr_un, sun_path) + strlen(path);
	}
	snprintf(out->sun_path, sizeof(out->sun_path), "%s", path);
	return sizeof(*out);
}
static int do_unix_connect(void)
{
	struct sockaddr_un to;
	socklen_t size = unix_address(arg(0), &to);
	int server = need_fd(socket(AF_UNIX, SOCK_STREAM, 0), "socket"), fd = need_fd(socket(AF_UNIX, SOCK_STREAM, 0), "socket");

	if (to.sun_path[0])
		unlink(to.sun_path);
	if (bind(server, (void *)&to, size) || listen(server, 1))
		wrong("bind");
	return report(connect(fd, (void *)&to, size));
}
static int do_unix_bind(void)
{
	struct sockaddr_un own;
	socklen_t size = unix_address(arg(0), &own);

	return report(bind(need_fd(socket(AF_UNIX, SOCK_STREAM, 0), "socket"), (void *)&own, size));
}
static int do_socket(void)
{
	const char *kind = arg(0);

	if (!strcmp(kind, "tcp"))
		return report_fd(socket(AF_INET, SOCK_STREAM, 0));
	if (!strcmp(kind, "udp"))
		return report_fd(socket(AF_INET, SOCK_DGRAM, 0));
	if (!strcmp(kind, "raw"))
		return report_fd(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
	if (!strcmp(kind, "packet"))
		return report_fd(socket(AF_PACKET, SOCK_RAW, htons(3)));
	if (!strcmp(kind, "unix"))
		return report_fd(socket(AF_UNIX, SOCK_STREAM, 0));
	errno = EINVAL;
	wrong(kind);
	return EXIT_WRONG;
}

/* ---- System V ---- */
static int do_shmget(void)
{
	int id = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600), result = report(id);

	if (id >= 0)
		shmctl(id, IPC_RMID, NULL);
	return result;
}
static int do_shmat(void)
{
	int id = need_fd(shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600), "shmget");
	int error = report(shmat(id, NULL, 0) == (void *)-1 ? -1 : 0);

	shmctl(id, IPC_RMID, NULL);
	return error;
}
/* shm-use KEY: the segment of another program */
static int do_shm_use(void) { return report(shmget(number(arg(0)), 0, 0600)); }
static int do_shm_make(void) { return report(shmget(number(arg(0)), 4096, IPC_CREAT | number(opt(1, "0600")))); }
static int do_msgsnd(void)
{
	struct {
		long type;
		char text[8];
	} message = { 1, "x" };
	int id = need_fd(msgget(IPC_PRIVATE, IPC_CREAT | 0600), "msgget");
	int error = report(msgsnd(id, &message, sizeof(message.text), IPC_NOWAIT));

	msgctl(id, IPC_RMID, NULL);
	return error;
}
static int do_semop(void)
{
	int id = need_fd(semget(IPC_PRIVATE, 1, IPC_CREAT | 0600), "semget");
	struct sembuf up = { 0, 1, 0 };
	int error = report(semop(id, &up, 1));

	semctl(id, 0, IPC_RMID);
	return error;
}

/* ---- kernel ---- */
/* Garbage as a module or a kernel: the kernel's own answer is ENOEXEC, which is reported as OK: the act got that far. */
static int garbage(long result) { return report(result < 0 && errno == ENOEXEC ? 0 : result); }
static int do_init_module(void)
{
	static char junk[4096] = "garbage";

	return garbage(syscall(SYS_init_module, junk, sizeof(junk), ""));
}
static int do_finit_module(void) { return garbage(syscall(SYS_finit_module, need_fd(open(arg(0), O_RDONLY), arg(0)), "", 0)); }
static int do_kexec_file(void)
{
	int fd = need_fd(open(arg(0), O_RDONLY), arg(0));

	return garbage(syscall(SYS_kexec_file_load, fd, -1, 0UL, NULL, 4UL /* KEXEC_FILE_NO_INITRAMFS */));
}
static int do_kexec(void)
{
	long result = syscall(SYS_kexec_load, 0UL, 0UL, NULL, 0UL);

	return report(result);
}
static int do_bpf(void)
{
	union bpf_attr attr = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1 };

	return report_fd(syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr)));
}
static int do_bpf_get_next(void)
{
	union bpf_attr attr = { .start_id = 0 };
	long result = syscall(SYS_bpf, BPF_MAP_GET_NEXT_ID, &attr, sizeof(attr));

	return report(result && errno == ENOENT ? 0 : result);
}
/* bpf-prog-load: an empty program; the kernel's own answer (EINVAL, E2BIG, before 6.12 EFAULT for the missing licence) is reported as OK:
 * the act got that far
 */
static int do_bpf_prog_load(void)
{
	union bpf_attr attr = { .prog_type = BPF_PROG_TYPE_SOCKET_FILTER };
	long result = syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));

	return report(result < 0 && (errno == EINVAL || errno == E2BIG || errno == EFAULT) ? 0 : result);
}
static int do_perf(void)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE, .size = sizeof(attr), .config = PERF_COUNT_SW_CPU_CLOCK, .disabled = 1 };

	return report_fd(syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0UL));
}
void private_mounts(void)
{
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		wrong("unshare");
}
/* mount-tmpfs DIRECTORY: in the namespace it was started in; a case unshares with `in-mount-ns` */
static int do_mount_tmpfs(void) { return report(mount("trigger", arg(0), "tmpfs", 0, "size=64k")); }
static int do_bind_mount(void) { return report(mount(arg(0), arg(1), NULL, MS_BIND, NULL)); }
static int do_remount(void) { return report(mount(NULL, arg(0), NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL)); }
static int do_fsmount(void)
{
#ifdef SYS_fsopen
	int fs = need_fd(syscall(SYS_fsopen, "tmpfs", 0), "fsopen");

	if (syscall(SYS_fsconfig, fs, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0))
		wrong("fsconfig");
	int mnt = need_fd(syscall(SYS_fsmount, fs, 0, 0), "fsmount");

	return report(syscall(SYS_move_mount, mnt, "", AT_FDCWD, arg(0), 4 /* MOVE_MOUNT_F_EMPTY_PATH */));
#else
	errno = ENOSYS;
	return report(-1);
#endif
}
static int do_umount(void) { return report(umount2(arg(0), MNT_DETACH)); }
/* in-mount-ns ACT...: in a private mount namespace */
static int do_in_mount_ns(void)
{
	private_mounts();
	return dispatch(args);
}
/* in-bare-ns ACT...: in a new mount namespace whose mounts stay as shared as they were */
static int do_in_bare_ns(void)
{
	if (unshare(CLONE_NEWNS))
		wrong("unshare");
	return dispatch(args);
}
/* via-bind FROM TO ACT...: FROM is bound over TO in a private mount namespace first */
static int do_via_bind(void)
{
	private_mounts();
	if (mount(arg(0), arg(1), NULL, MS_BIND, NULL))
		wrong("bind mount");
	return dispatch(args + 2);
}
/* via-overlay LOWER TO ACT...: LOWER is the lower layer of an overlay mounted on TO, an empty folder, in a private mount namespace */
static int do_via_overlay(void)
{
	char options[8192];

	private_mounts();
	snprintf(options, sizeof(options), "lowerdir=%s:%s", arg(0), arg(1));
	if (mount("overlay", arg(1), "overlay", MS_RDONLY, options))
		wrong("overlay mount");
	return dispatch(args + 2);
}
/* after-rename FROM TO ACT...: FROM is renamed to TO first, and back afterwards */
static int do_after_rename(void)
{
	const char *from = arg(0), *to = arg(1);
	int result;

	if (rename(from, to))
		wrong("rename");
	result = dispatch(args + 2);
	if (rename(to, from))
		wrong("rename back");
	return result;
}
/* after-umount DIRECTORY: mounts, then the act is the umount */
static int do_after_mount_umount(void)
{
	private_mounts();
	if (mount("trigger", arg(0), "tmpfs", 0, "size=64k"))
		wrong("mount");
	return report(umount2(arg(0), 0));
}
static int do_pivot_root(void)
{
	char put_old[4096];

	private_mounts();
	if (mount("trigger", arg(0), "tmpfs", 0, "size=64k"))
		wrong("mount");
	snprintf(put_old, sizeof(put_old), "%s/old", arg(0));
	if (mkdir(put_old, 0755))
		wrong("mkdir");
	return report(syscall(SYS_pivot_root, arg(0), put_old));
}
static int do_userns(void) { return report(unshare(CLONE_NEWUSER)); }
static int do_userns_clone(void)
{
	pid_t child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);

	if (!child)
		_exit(0);
	int error = errno;

	if (child > 0)
		collect(child);
	errno = error;
	return report(child);
}
static int do_unshare_net(void) { return report(unshare(CLONE_NEWUTS)); }
/* setns FILE TYPE: joins the namespace FILE names */
static int do_setns(void)
{
	int fd = need_fd(open(arg(0), O_RDONLY), arg(0));

	return report(setns(fd, number(opt(1, "0"))));
}

static int do_list(void);
/* A hundred rows. */
/* clang-format off */
static const struct act acts[] = {
	{"list", do_list}, {"ok", do_ok},
	{"open", do_open}, {"open-syscall", do_open_syscall}, {"creat", do_creat}, {"openat", do_openat}, {"openat2", do_openat2},
	{"open-chdir", do_open_chdir}, {"open-chroot", do_open_chroot}, {"open-proc-fd", do_open_proc_fd}, {"open-private-ns", do_open_private_ns},
	{"open-uring", do_open_uring}, {"open-handle", do_open_handle}, {"read", do_read}, {"write", do_write}, {"truncate", do_truncate},
	{"rename", do_rename}, {"exchange", do_exchange}, {"unlink", do_unlink}, {"unlinkat", do_unlinkat}, {"rmdir", do_rmdir}, {"mkdir", do_mkdir},
	{"link", do_link}, {"link-fd", do_link_fd}, {"link-tmpfile", do_link_tmpfile}, {"symlink", do_symlink}, {"mknod", do_mknod}, {"mkdev", do_mkdev},
	{"chmod", do_chmod}, {"fchmodat", do_fchmodat}, {"chown", do_chown}, {"lchown", do_lchown}, {"setxattr", do_setxattr},
	{"removexattr", do_removexattr}, {"utimens", do_utimens}, {"stat", do_stat}, {"mmap", do_mmap}, {"mprotect", do_mprotect},
	{"exec", do_exec}, {"exec-as", do_exec_as}, {"exec-chdir", do_exec_chdir}, {"execveat", do_execveat}, {"fexecve", do_fexecve},
	{"exec-proc-fd", do_exec_proc_fd}, {"exec-memfd", do_exec_memfd}, {"exec-deleted", do_exec_deleted}, {"then", do_then},
	{"fork", do_fork}, {"threads", do_threads}, {"signal", do_signal}, {"tgkill", do_tgkill}, {"ptrace-attach", do_ptrace_attach},
	{"ptrace-traceme", do_ptrace_traceme}, {"vm-readv", do_vm_readv}, {"proc-root", do_proc_mem}, {"setuid", do_setuid}, {"setresuid", do_setresuid},
	{"setgid", do_setgid}, {"setgroups", do_setgroups}, {"nice", do_nice}, {"sethostname", do_sethostname}, {"exit", do_exit}, {"as", do_as},
	{"stay", do_stay}, {"repeat", do_repeat}, {"pace", do_pace}, {"each", do_each},
	{"connect", do_connect}, {"connect-uring", do_connect_uring}, {"udp-send", do_udp_send}, {"udp-send-unspec", do_udp_send_unspec}, {"udp-connect", do_udp_connect}, {"bind", do_bind},
	{"listen", do_listen}, {"accept", do_accept}, {"unix-connect", do_unix_connect}, {"unix-bind", do_unix_bind}, {"socket", do_socket},
	{"shmget", do_shmget}, {"shmat", do_shmat}, {"shm-use", do_shm_use}, {"shm-make", do_shm_make}, {"msgsnd", do_msgsnd}, {"semop", do_semop},
	{"init-module", do_init_module}, {"finit-module", do_finit_module}, {"kexec-load", do_kexec}, {"kexec-file", do_kexec_file}, {"bpf", do_bpf},
	{"bpf-next-id", do_bpf_get_next}, {"bpf-prog-load", do_bpf_prog_load}, {"perf", do_perf}, {"mount-tmpfs", do_mount_tmpfs}, {"bind-mount", do_bind_mount}, {"remount", do_remount},
	{"fsmount", do_fsmount}, {"umount", do_umount}, {"in-mount-ns", do_in_mount_ns}, {"in-bare-ns", do_in_bare_ns}, {"via-bind", do_via_bind},
	{"via-overlay", do_via_overlay}, {"after-rename", do_after_rename},
	{"mount-umount", do_after_mount_umount}, {"pivot-root", do_pivot_root}, {"userns", do_userns}, {"userns-clone", do_userns_clone},
	{"unshare-uts", do_unshare_net}, {"setns", do_setns}, {"uring-setup", do_uring_setup}, {"uring-sqpoll", do_uring_sqpoll}, {NULL, NULL},
};
/* clang-format on */

static const struct act *const tables[] = { acts, cgroup_acts, falco_acts, file_acts, hammer_acts, mount_acts, network_acts, process_acts, ways_acts, NULL };

static int do_list(void)
{
	for (const struct act *const *table = tables; *table; table++)
		for (const struct act *act = *table; act->name; act++)
			puts(act->name);
	return 0;
}

int dispatch(char **argv)
{
	if (!argv[0]) {
		errno = EINVAL;
		wrong("no act named");
	}
	for (const struct act *const *table = tables; *table; table++)
		for (const struct act *act = *table; act->name; act++)
			if (!strcmp(act->name, argv[0])) {
				args = argv + 1;
				return act->act();
			}
	errno = EINVAL;
	wrong(argv[0]);
	return EXIT_WRONG;
}

int main(int argc, char **argv)
{
	(void)argc;
	return getenv(IDLE) ? 0 : dispatch(argv + 1);
}
