/* SPDX-License-Identifier: Apache-2.0 */
/* Acts that Falco's rules are about, and the tricks that hide them; those of trigger.c are used as well.
 *
 * Linked into the trigger. Programs that are started to be seen, not to do anything, get IDLE in their environment.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "trigger.h"

/* The child becomes FILE, idle, with the given argv. */
static int idle_child(const char *file, char **argv, long uid)
{
	pid_t child = fork();

	if (child < 0)
		wrong("fork");
	if (!child) {
		if (uid && (syscall(SYS_setresgid, uid, uid, uid) || syscall(SYS_setresuid, uid, uid, uid)))
			wrong("setresuid");
		setenv(IDLE, "1", 1);
		execv(file, argv);
		_exit(errno);
	}
	errno = collect(child);
	return report(errno ? -1 : 0);
}

/* below FILE ARGV...: this process is the parent of FILE */
static int do_below(void) { return idle_child(arg(0), args + 1, 0); }
/* below-as UID FILE ARGV... */
static int do_below_as(void) { return idle_child(arg(1), args + 2, number(arg(0))); }

/* become FILE ARGV...: this process executes FILE */
static int do_become(void)
{
	setenv(IDLE, "1", 1);
	execv(arg(0), args + 1);
	return report(-1);
}

/* chdir DIRECTORY ACT... */
static int do_chdir(void)
{
	if (chdir(arg(0)))
		wrong(arg(0));
	return dispatch(args + 1);
}

/* on-tty ACT...: leader of a session of its own with a controlling terminal */
static int do_on_tty(void)
{
	int master = need_fd(posix_openpt(O_RDWR | O_NOCTTY), "posix_openpt");

	if (setsid() < 0 || grantpt(master) || unlockpt(master))
		wrong("terminal");
	int terminal = need_fd(open(ptsname(master), O_RDWR | O_NOCTTY), "terminal");

	if (ioctl(terminal, TIOCSCTTY, 0))
		wrong("TIOCSCTTY");
	return dispatch(args);
}

/* without-cap NUMBER ACT...: one capability is gone, from the bounding set too */
static int do_without_cap(void)
{
	int cap = number(arg(0));
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];

	if (prctl(PR_CAPBSET_DROP, cap) || syscall(SYS_capget, &header, data))
		wrong("capability");
	data[cap / 32].effective &= ~(1U << cap % 32);
	data[cap / 32].permitted &= ~(1U << cap % 32);
	data[cap / 32].inheritable &= ~(1U << cap % 32);
	if (syscall(SYS_capset, &header, data))
		wrong("capset");
	return dispatch(args + 1);
}

static int connected(const char *ip, const char *port)
{
	struct sockaddr_storage to;
	socklen_t size = address(ip, port, &to);
	int fd = need_fd(socket(to.ss_family, SOCK_STREAM, 0), "socket");

	if (connect(fd, (void *)&to, size))
		wrong("connect");
	return fd;
}

/* connect-wait IP PORT: until the connection is there */
static int do_connect_wait(void)
{
	struct sockaddr_storage to;
	socklen_t size = address(arg(0), arg(1), &to);
	int fd = need_fd(socket(to.ss_family, SOCK_STREAM, 0), "socket");
	int error = report(connect(fd, (void *)&to, size));

	close(fd);
	return error;
}

/* A call of the 32-bit table, from a 64-bit process: its result, or -1 and errno */
static int call32(long number, long first, long second, long third, long fourth)
{
	long result;

	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(first), "c"(second), "d"(third), "S"(fourth)
			 : "memory", "cc", "r8", "r9", "r10", "r11");
	errno = (int)result < 0 ? -(int)result : 0;
	return (int)result < 0 ? -1 : (int)result;
}

/* WHAT, a pipe or an address and port connected to, becomes descriptor FD; FD is then as it was before */
static int dup_over(int by_call32)
{
	int to = number(arg(0)), ends[2], saved = dup(to);

	if (!strcmp(arg(1), "pipe")) {
		if (pipe(ends))
			wrong("pipe");
	} else
		ends[0] = connected(arg(1), arg(2));
	int result = by_call32 ? call32(63, ends[0], to, 0, 0) : dup2(ends[0], to), error = errno;

	if (saved >= 0)
		dup2(saved, to);
	errno = error;
	return report(result);
}

/* dup-over FD WHAT..., dup-over-compat FD WHAT... */
static int do_dup_over(void) { return dup_over(0); }
static int do_dup_over_compat(void) { return dup_over(1); }

/* ptrace-request NUMBER: of a process that is not traced, so it fails */
static int do_ptrace_request(void) { return report(ptrace(number(arg(0)), getppid(), NULL, NULL)); }

/* ptrace-compat NUMBER: the same by the 32-bit call */
static int do_ptrace_compat(void) { return report(call32(26, number(arg(0)), getppid(), 0, 0)); }

static int do_symlinkat(void) { return report(symlinkat(arg(0), need_fd(open(arg(1), O_PATH | O_DIRECTORY), arg(1)), arg(2))); }
static int do_linkat(void)
{
	int dir = need_fd(open(arg(0), O_PATH | O_DIRECTORY), arg(0));

	return report(linkat(dir, arg(1), dir, arg(2), 0));
}

/* linkat-unreadable FOLDER OLD: the new name is where nothing is */
static int do_linkat_unreadable(void)
{
	int dir = need_fd(open(arg(0), O_PATH | O_DIRECTORY), arg(0));

	return report(syscall(SYS_linkat, dir, arg(1), dir, 16, 0));
}

/* overlay-copy FOLDER NAME FILE ACT...: an overlay of FOLDER/lower and FOLDER/upper on FOLDER/merged, in a private mount namespace, and
 * in it a copy of FILE as NAME
 */
static int do_overlay_copy(void)
{
	char options[16384], name[8192], merged[4096];
	const char *folder = arg(0);

	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		wrong("unshare");
	snprintf(options, sizeof(options), "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", folder, folder, folder);
	snprintf(merged, sizeof(merged), "%s/merged", folder);
	snprintf(name, sizeof(name), "%s/%s", merged, arg(1));
	if (mount("overlay", merged, "overlay", 0, options))
		wrong("overlay mount");
	if (strcmp(arg(2), "-"))
		close(copy_of(arg(2), need_fd(open(name, O_WRONLY | O_CREAT | O_TRUNC, 0755), name)));
	return dispatch(args + 3);
}

/* open-compat FILE: by the 32-bit call openat, from a 64-bit process */
static int do_open_compat(void)
{
	char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

	if (low == MAP_FAILED)
		wrong("mmap");
	snprintf(low, 4096, "%s", arg(0));
	return report_fd(call32(295, AT_FDCWD, (long)low, O_RDONLY, 0));
}

struct message32 {
	uint32_t name;
	int32_t name_size;
	uint32_t parts;
	uint32_t n_parts;
	uint32_t control;
	uint32_t control_size;
	uint32_t flags;
};

/* The 32-bit call recvmsg, from a 64-bit process */
static long recvmsg32(int fd)
{
	char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	struct message32 *message = (void *)low;
	uint32_t *part = (void *)(low + 64);

	if (low == MAP_FAILED)
		wrong("mmap");
	part[0] = (long)low + 256;
	part[1] = 64;
	*message = (struct message32){
		.name = (long)low + 128,
		.name_size = sizeof(struct sockaddr_storage) / 2,
		.parts = (long)part,
		.n_parts = 1,
	};
	return call32(372, fd, (long)message, MSG_DONTWAIT, 0);
}

/* At most 64 bytes by one of the ways of receiving, without waiting; with the sender's address, but for "recv" and "read" */
static long receive_by(const char *how, int fd)
{
	struct sockaddr_storage from;
	socklen_t size = sizeof(from);
	char data[64];
	struct iovec part = { data, sizeof(data) };
	struct mmsghdr one[2] = {
		{ .msg_hdr = { .msg_name = &from, .msg_namelen = size, .msg_iov = &part, .msg_iovlen = 1 } },
		{ .msg_hdr = { .msg_iov = &part, .msg_iovlen = 1 } },
	};

	if (!strcmp(how, "recvfrom"))
		return recvfrom(fd, data, sizeof(data), MSG_DONTWAIT, (void *)&from, &size);
	if (!strcmp(how, "recvmsg"))
		return recvmsg(fd, &one[0].msg_hdr, MSG_DONTWAIT);
	if (!strcmp(how, "recvmmsg"))
		return recvmmsg(fd, one, 2, MSG_DONTWAIT, NULL);
	if (!strcmp(how, "recvmsg32"))
		return recvmsg32(fd);
	if (!strcmp(how, "recv"))
		return recv(fd, data, sizeof(data), MSG_DONTWAIT);
	if (!strcmp(how, "read"))
		return read(fd, data, sizeof(data));
	if (!strcmp(how, "recvmsg-uring")) {
		int result = uring_request(&(struct io_uring_sqe){
			.opcode = IORING_OP_RECVMSG,
			.fd = fd,
			.addr = (unsigned long)&one[0].msg_hdr,
			.len = 1,
		});

		errno = result < 0 ? -result : 0;
		return result < 0 ? -1 : result;
	}
	errno = EINVAL;
	wrong(how);
	return -1;
}

static int bound(const char *ip, const char *port)
{
	struct sockaddr_storage at;
	socklen_t size = address(ip, port, &at);
	int fd = need_fd(socket(at.ss_family, SOCK_DGRAM, 0), "socket");

	if (bind(fd, (void *)&at, size))
		wrong("bind");
	return fd;
}

/* receive HOW IP PORT FROM [connected|nothing]: a datagram from IP FROM to IP PORT is received; by a connected socket; or there is none */
static int do_receive(void)
{
	struct sockaddr_storage to, from;
	socklen_t size = address(arg(1), arg(2), &to);
	int fd = bound(arg(1), arg(2)), sender = bound(arg(1), arg(3));

	address(arg(1), arg(3), &from);
	if (!strcmp(opt(4, ""), "connected") && connect(fd, (void *)&from, size))
		wrong("connect");
	if (strcmp(opt(4, ""), "nothing") && sendto(sender, "hello", 5, 0, (void *)&to, size) != 5)
		wrong("sendto");
	return report(receive_by(arg(0), fd));
}

/* setid CALL A [B [C]]: setuid, setreuid, setresuid, setgid, setregid, setresgid; NAME32 and NAME16 by the 32-bit table */
static int do_setid(void)
{
	static const struct {
		const char *name;
		int number, number32, number16;
	} calls[] = {
		{ "setuid", SYS_setuid, 213, 23 },
		{ "setreuid", SYS_setreuid, 203, 70 },
		{ "setresuid", SYS_setresuid, 208, 164 },
		{ "setgid", SYS_setgid, 214, 46 },
		{ "setregid", SYS_setregid, 204, 71 },
		{ "setresgid", SYS_setresgid, 210, 170 },
	};
	long a = number(arg(1)), b = number(opt(2, "0")), c = number(opt(3, "0"));

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		size_t n = strlen(calls[i].name);

		if (strncmp(arg(0), calls[i].name, n))
			continue;
		if (!arg(0)[n])
			return report(syscall(calls[i].number, a, b, c));
		return report(call32(strcmp(arg(0) + n, "16") ? calls[i].number32 : calls[i].number16, a, b, c, 0));
	}
	errno = EINVAL;
	wrong(arg(0));
	return 0;
}

/* socketpair: two sockets, and their numbers */
static int do_socketpair(void)
{
	int pair[2] = { -1, -1 }, result = socketpair(AF_UNIX, SOCK_STREAM, 0, pair);

	printf("%d %d\n", pair[0], pair[1]);
	return report(result);
}

/* linger ACT...: this process is still there until its standard input ends */
static int do_linger(void)
{
	int result = dispatch(args);
	char byte;

	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	return result;
}

static atomic_int swapping = 1;
static volatile char *swapped;
static char swap_from, swap_to;

static void *swap(void *unused)
{
	unsigned int n = 0;

	while (swapping) {
		*swapped = n++ & 1 ? swap_to : swap_from;
		for (volatile int i = 0; i < (int)(n * 7 % 400); i++)
			;
	}
	return unused;
}

/* swap FILE OTHER COUNT: opens one buffer while another thread changes it between the two names, which differ in one byte, until FILE was
 * what the kernel opened COUNT times; prints how often it was, and how often not
 */
static int do_swap(void)
{
	const char *file = arg(0), *other = arg(1);
	long wanted = number(arg(2)), got = 0, missed = 0;
	char path[4096];
	size_t at = 0;
	struct stat is, opened;
	pthread_t thread;

	while (file[at] && file[at] == other[at])
		at++;
	if (strlen(file) != strlen(other) || !file[at] || strcmp(file + at + 1, other + at + 1) || stat(file, &is)) {
		errno = EINVAL;
		wrong("names");
	}
	snprintf(path, sizeof(path), "%s", file);
	swapped = path + at;
	swap_from = file[at];
	swap_to = other[at];
	if (pthread_create(&thread, NULL, swap, NULL))
		wrong("pthread_create");
	while (got < wanted && missed < 100000) {
		int fd = need_fd(open(path, O_RDONLY), path);

		if (fstat(fd, &opened))
			wrong("fstat");
		close(fd);
		if (opened.st_dev == is.st_dev && opened.st_ino == is.st_ino) {
			got++;
			usleep(5000);
		} else
			missed++;
	}
	swapping = 0;
	pthread_join(thread, NULL);
	printf("%ld %ld\n", got, missed);
	return got < wanted ? ETIME : 0;
}

/* open-list LIST ROUNDS: opens and closes every file that LIST names, one a line; prints how many opens succeeded and failed */
static int do_open_list(void)
{
	long rounds = number(arg(1)), good = 0, bad = 0;
	int fd = need_fd(open(arg(0), O_RDONLY), arg(0));
	struct stat st;

	if (fstat(fd, &st))
		wrong("fstat");
	char *text = malloc(st.st_size + 1);

	if (!text || read(fd, text, st.st_size) != st.st_size)
		wrong("list");
	text[st.st_size] = 0;
	for (char *c = text; *c; c++)
		if (*c == '\n')
			*c = 0;
	for (long round = 0; round < rounds; round++)
		for (char *name = text; name < text + st.st_size; name += strlen(name) + 1) {
			int opened = open(name, O_RDONLY | O_CLOEXEC);

			if (opened >= 0) {
				close(opened);
				good++;
			} else
				bad++;
		}
	printf("%ld %ld\n", good, bad);
	return 0;
}

const struct act falco_acts[] = {
	{ "below", do_below },
	{ "below-as", do_below_as },
	{ "become", do_become },
	{ "chdir", do_chdir },
	{ "linger", do_linger },
	{ "on-tty", do_on_tty },
	{ "without-cap", do_without_cap },
	{ "connect-wait", do_connect_wait },
	{ "dup-over", do_dup_over },
	{ "dup-over-compat", do_dup_over_compat },
	{ "ptrace-compat", do_ptrace_compat },
	{ "ptrace-request", do_ptrace_request },
	{ "symlinkat", do_symlinkat },
	{ "linkat", do_linkat },
	{ "linkat-unreadable", do_linkat_unreadable },
	{ "overlay-copy", do_overlay_copy },
	{ "open-compat", do_open_compat },
	{ "receive", do_receive },
	{ "setid", do_setid },
	{ "socketpair", do_socketpair },
	{ "swap", do_swap },
	{ "open-list", do_open_list },
	{ NULL, NULL },
};
