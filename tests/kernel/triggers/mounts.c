/* SPDX-License-Identifier: Apache-2.0 */
/* Acts on files by way of mounts that no mount namespace, or another one, holds. Part of the trigger. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "trigger.h"

#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#define TREE_CLONE 1           /* OPEN_TREE_CLONE */
#define TREE_RECURSIVE 0x8000  /* AT_RECURSIVE */

/* A copy of the mount that holds `folder`, in no namespace. */
static int detached(const char *folder)
{
	return need_fd(syscall(SYS_open_tree, AT_FDCWD, folder, TREE_CLONE | TREE_RECURSIVE | O_CLOEXEC), "open_tree");
}

/* A folder of a mount that has been taken away since it was opened. */
static int unmounted(const char *folder, const char *over)
{
	int fd;

	private_mounts();
	if (mount(folder, over, NULL, MS_BIND, NULL))
		wrong("bind mount");
	fd = need_fd(open(over, O_PATH | O_DIRECTORY), over);
	if (umount2(over, MNT_DETACH))
		wrong("umount");
	return fd;
}

/* A file system of its own that is mounted nowhere yet; a tmpfs with a file NAME in it. */
static int unattached(const char *name, const char *type)
{
	int fs = need_fd(syscall(SYS_fsopen, type, 0), "fsopen");
	int mnt;

	if (syscall(SYS_fsconfig, fs, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0))
		wrong("fsconfig");
	mnt = need_fd(syscall(SYS_fsmount, fs, 0, 0), "fsmount");
	if (!strcmp(type, "tmpfs") && mknodat(mnt, name, 0100644, 0))
		wrong(name);
	return mnt;
}

/* A folder of a file system that only another mount namespace has, with a file NAME in it: a child's, which
 * lives as long as this process.
 */
static int foreign(const char *over, const char *name)
{
	char root[64];
	int ready[2], go[2], there;
	pid_t child;
	char byte;

	if (pipe(ready) || pipe(go))
		wrong("pipe");
	child = fork();
	if (child < 0)
		wrong("fork");
	if (!child) {
		private_mounts();
		if (mount("trigger", over, "tmpfs", 0, "size=64k"))
			wrong("mount");
		there = need_fd(open(over, O_PATH | O_DIRECTORY), over);
		if (mknodat(there, name, 0100644, 0) || write(ready[1], "r", 1) != 1)
			wrong(name);
		close(go[1]);
		(void)!read(go[0], &byte, 1);
		_exit(0);
	}
	if (read(ready[0], &byte, 1) != 1)
		wrong("the other namespace");
	snprintf(root, sizeof(root), "/proc/%d/root", child);
	there = need_fd(open(root, O_PATH | O_DIRECTORY), root);
	return need_fd(openat(there, over + 1, O_PATH | O_DIRECTORY), over);
}

static int do_open_detached(void) { return report_fd(openat(detached(arg(0)), arg(1), open_flags(opt(2, "rdonly")))); }
static int do_exec_detached(void)
{
	char *argv[] = { "ok", "ok", NULL };

	execveat(detached(arg(0)), arg(1), argv, environ, 0);
	return report(-1);
}
static int do_unlink_detached(void) { return report(unlinkat(detached(arg(0)), arg(1), 0)); }
static int do_open_unmounted(void) { return report_fd(openat(unmounted(arg(0), arg(1)), arg(2), open_flags(opt(3, "rdonly")))); }
/* open-unattached NAME [TYPE [FLAGS]] */
static int do_open_unattached(void)
{
	return report_fd(openat(unattached(arg(0), opt(1, "tmpfs")), arg(0), open_flags(opt(2, "rdonly"))));
}
static int do_open_foreign(void) { return report_fd(openat(foreign(arg(0), arg(1)), arg(1), O_RDONLY)); }

/* among-binds N FOLDER ACT...: N bind mounts of FOLDER are there, older and newer than anything that ACT mounts */
static int do_among_binds(void)
{
	int count = atoi(arg(0));

	private_mounts();
	for (int i = 0; i < count; i++)
		if (mount(arg(1), arg(1), NULL, MS_BIND, NULL))
			wrong("bind mount");
	return dispatch(args + 2);
}

const struct act mount_acts[] = {
	{ "among-binds", do_among_binds },
	{ "open-detached", do_open_detached },
	{ "exec-detached", do_exec_detached },
	{ "unlink-detached", do_unlink_detached },
	{ "open-unmounted", do_open_unmounted },
	{ "open-unattached", do_open_unattached },
	{ "open-foreign", do_open_foreign },
	{ NULL, NULL },
};
