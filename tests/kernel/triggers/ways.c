/* SPDX-License-Identifier: Apache-2.0 */
/* Acts by other calls than the usual one: what coverage.yaml lists as ways of an act. Part of the trigger. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "trigger.h"

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

/* Numbers of the 32-bit table. */
enum {
	FORK32 = 2,
	EXECVE32 = 11,
	MOUNT32 = 21,
	UMOUNT32 = 52,
	IPC32 = 117,
	CLONE32 = 120,
	PTRACE32 = 26,
	BPF32 = 357,
};
enum {
	IPC_SEMOP = 1,
	IPC_SEMGET = 2,
	IPC_MSGSND = 11,
	IPC_MSGGET = 13,
	IPC_SHMAT = 21,
	IPC_SHMGET = 23,
}; /* of ipc(2) */

/* A call of the 32-bit table, from a 64-bit process: its result, or -1 and errno. Pointers have to be in the lowest 4 GiB. */
static long call32(long number, long a, long b, long c, long d, long e)
{
	long result;

	asm volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory", "cc", "r8", "r9", "r10", "r11");
	if ((int)result >= 0)
		return (int)result;
	errno = -(int)result;
	return -1;
}

/* A page that 32-bit pointers reach. */
static char *low_page(void)
{
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

	if (page == MAP_FAILED)
		wrong("mmap");
	return page;
}

/* A copy of `text` there. */
static long low_text(const char *text)
{
	char *copy = low_page();

	if (strlen(text) >= 4096) {
		errno = E2BIG;
		wrong(text);
	}
	strcpy(copy, text);
	return (long)copy;
}

/* exec32 FILE: execve(2) of the 32-bit table */
static int do_exec32(void)
{
	uint32_t *argv = (void *)low_page(), *envp = argv + 3;

	argv[0] = low_text(arg(0));
	argv[1] = low_text("ok");
	argv[2] = envp[0] = 0;
	return report(call32(EXECVE32, argv[0], (long)argv, (long)envp, 0, 0));
}

/* fork-by CALL: one child by clone3, vfork, or fork32, clone32, vfork32 of the 32-bit table; its end is waited for */
static int do_fork_by(void)
{
	struct clone_args clone3 = { .exit_signal = SIGCHLD };
	const char *how = arg(0);
	volatile long child;

	if (!strcmp(how, "vfork"))
		child = vfork();
	else if (!strcmp(how, "clone3"))
		child = syscall(SYS_clone3, &clone3, sizeof(clone3));
	else if (!strcmp(how, "fork32"))
		child = call32(FORK32, 0, 0, 0, 0, 0);
	else if (!strcmp(how, "clone32"))
		child = call32(CLONE32, SIGCHLD, 0, 0, 0, 0);
	else {
		errno = EINVAL;
		child = -1;
		wrong(how);
	}
	if (!child)
		_exit(0);
	if (child > 0)
		waitpid(child, NULL, 0);
	return report(child);
}

/* fork-into FOLDER: one child that begins in the cgroup of that folder */
static int do_fork_into(void)
{
	struct clone_args clone3 = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD };

	clone3.cgroup = need_fd(open(arg(0), O_PATH | O_DIRECTORY), arg(0));
	long child = syscall(SYS_clone3, &clone3, sizeof(clone3));

	if (child == 0)
		_exit(0);
	if (child > 0)
		waitpid(child, NULL, 0);
	return report(child);
}

/* userns-clone3: a child in a user namespace of its own */
static int do_userns_clone3(void)
{
	struct clone_args args = { .flags = CLONE_NEWUSER, .exit_signal = SIGCHLD };
	long child = syscall(SYS_clone3, &args, sizeof(args));

	if (!child)
		_exit(0);
	if (child > 0)
		waitpid(child, NULL, 0);
	return report(child);
}

/* proc-mem PID, pidfd-getfd PID, ptrace32 PID: another process's memory, its standard input, its tracer */
static int do_proc_mem(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%ld/mem", number(arg(0)));
	return report_fd(open(path, O_RDWR));
}
static int do_pidfd_getfd(void)
{
	int pidfd = need_fd(syscall(SYS_pidfd_open, number(arg(0)), 0), "pidfd_open");

	return report_fd(syscall(SYS_pidfd_getfd, pidfd, 0, 0));
}
static int do_ptrace32(void) { return report(call32(PTRACE32, PTRACE_SEIZE, number(arg(0)), 0, 0, 0)); }

/* mount32 DIRECTORY, umount32 DIRECTORY: a tmpfs, by the 32-bit table */
static int do_mount32(void)
{
	return report(call32(MOUNT32, low_text("trigger"), low_text(arg(0)), low_text("tmpfs"), 0, low_text("size=64k")));
}
static int do_umount32(void) { return report(call32(UMOUNT32, low_text(arg(0)), 0, 0, 0, 0)); }

/* open-tree-move FROM TO: a detached copy of FROM's mount put on TO */
static int do_open_tree_move(void)
{
	int tree = need_fd(syscall(SYS_open_tree, AT_FDCWD, arg(0), 1 /* OPEN_TREE_CLONE */ | O_CLOEXEC), "open_tree");

	return report(syscall(SYS_move_mount, tree, "", AT_FDCWD, arg(1), 4 /* MOVE_MOUNT_F_EMPTY_PATH */));
}

/* fsconfig-remount DIRECTORY: a tmpfs mounted there, in a mount namespace of its own, becomes read-only by fspick(2) and fsconfig(2) */
static int do_fsconfig_remount(void)
{
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("trigger", arg(0), "tmpfs", 0, "size=64k"))
		wrong("mount");
	int fs = need_fd(syscall(SYS_fspick, AT_FDCWD, arg(0), 0), "fspick");

	if (syscall(SYS_fsconfig, fs, 0 /* FSCONFIG_SET_FLAG */, "ro", NULL, 0))
		wrong("fsconfig");
	return report(syscall(SYS_fsconfig, fs, 7 /* FSCONFIG_CMD_RECONFIGURE */, NULL, NULL, 0));
}

/* bpf32: a map, by the 32-bit table */
static int do_bpf32(void)
{
	union bpf_attr *attr = (void *)low_page();

	attr->map_type = BPF_MAP_TYPE_ARRAY;
	attr->key_size = attr->value_size = 4;
	attr->max_entries = 1;
	return report_fd(call32(BPF32, BPF_MAP_CREATE, (long)attr, sizeof(*attr), 0, 0));
}

/* sem32, msg32, shm32: an object is used, by ipc(2) of the 32-bit table; msg-receive: by msgrcv(2) */
static int do_sem32(void)
{
	struct {
		unsigned short number;
		short by, flags;
	} *up = (void *)low_page();
	int id = need_fd(call32(IPC32, IPC_SEMGET, IPC_PRIVATE, 1, IPC_CREAT | 0600, 0), "semget");

	up->by = 1;
	int error = report(call32(IPC32, IPC_SEMOP, id, 1, 0, (long)up));

	syscall(SYS_semctl, id, 0, IPC_RMID, 0);
	return error;
}
static int do_msg32(void)
{
	struct {
		int type;
		char text[8];
	} *message = (void *)low_page();
	int id = need_fd(call32(IPC32, IPC_MSGGET, IPC_PRIVATE, IPC_CREAT | 0600, 0, 0), "msgget");

	message->type = 1;
	int error = report(call32(IPC32, IPC_MSGSND, id, sizeof(message->text), IPC_NOWAIT, (long)message));

	msgctl(id, IPC_RMID, NULL);
	return error;
}
static int do_shm32(void)
{
	int id = need_fd(call32(IPC32, IPC_SHMGET, IPC_PRIVATE, 4096, IPC_CREAT | 0600, 0), "shmget");
	int error = report(call32(IPC32, IPC_SHMAT, id, 0, (long)low_page(), 0));

	syscall(SYS_shmctl, id, IPC_RMID, NULL);
	return error;
}
static int do_msg_receive(void)
{
	struct {
		long type;
		char text[8];
	} message;
	int id = need_fd(msgget(IPC_PRIVATE, IPC_CREAT | 0600), "msgget");
	long result = msgrcv(id, &message, sizeof(message.text), 0, IPC_NOWAIT);
	int error = report(result < 0 && errno == ENOMSG ? 0 : result);

	msgctl(id, IPC_RMID, NULL);
	return error;
}

const struct act ways_acts[] = {
	{ "exec32", do_exec32 },
	{ "fork-by", do_fork_by },
	{ "fork-into", do_fork_into },
	{ "userns-clone3", do_userns_clone3 },
	{ "proc-mem", do_proc_mem },
	{ "pidfd-getfd", do_pidfd_getfd },
	{ "ptrace32", do_ptrace32 },
	{ "mount32", do_mount32 },
	{ "umount32", do_umount32 },
	{ "open-tree-move", do_open_tree_move },
	{ "fsconfig-remount", do_fsconfig_remount },
	{ "bpf32", do_bpf32 },
	{ "sem32", do_sem32 },
	{ "msg32", do_msg32 },
	{ "shm32", do_shm32 },
	{ "msg-receive", do_msg_receive },
	{ NULL, NULL },
};
