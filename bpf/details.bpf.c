// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What records say of the acting process beyond its program: the system call, sessions, credentials, the executable's file, ancestors. Read
 * when a record is written, or when a diagram asks.
 */
#include "engine.h"

/* The sets of capabilities beside the effective one. */
__noinline int caps_load(u32 slot)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	const struct cred *cred = BPF_CORE_READ(task, cred);
	struct scratch *s = scratch_at(slot);

	if (!s)
		return 0;
	set_num(s, NUM_CAPS_PERMITTED, read_cap_set(__builtin_preserve_access_index(&cred->cap_permitted)));
	set_num(s, NUM_CAPS_INHERITABLE, read_cap_set(__builtin_preserve_access_index(&cred->cap_inheritable)));
	set_num(s, NUM_CAPS_BOUNDING, read_cap_set(__builtin_preserve_access_index(&cred->cap_bset)));
	return 0;
}

static __always_inline u64 pid_number(struct pid *pid)
{
	return BPF_CORE_READ(pid, numbers[0].nr);
}

/* In the pid namespace of the process itself. */
static __always_inline u64 pid_own_number(struct pid *pid)
{
	u32 level = BPF_CORE_READ(pid, level) & 31; /* MAX_PID_NS_LEVEL is 32 */
	u64 at = (u64)pid + bpf_core_field_offset(struct pid, numbers) + (u64)level * bpf_core_type_size(struct upid);

	return BPF_CORE_READ((struct upid *)at, nr);
}

/* The number that user space has for the device: new_encode_dev of include/linux/kdev_t.h. */
__noinline int tty_load(u32 slot)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct scratch *s = scratch_at(slot);
	struct tty_struct *tty;
	u32 major, minor;

	if (!s || has_num(s, NUM_TTY))
		return 0;
	tty = BPF_CORE_READ(task, signal, tty);
	if (!tty) {
		set_num(s, NUM_TTY, 0);
		return 0;
	}
	major = BPF_CORE_READ(tty, driver, major);
	minor = BPF_CORE_READ(tty, driver, minor_start) + BPF_CORE_READ(tty, index);
	set_num(s, NUM_TTY, (minor & 0xff) | major << 8 | (minor & ~0xffU) << 12);
	return 0;
}

/* The acting task's namespaces, and which of them are those of the first process of the host: it is the one that the outermost pid namespace,
 * which every process has a number in, is reaped by.
 */
__noinline int namespaces_load(u32 slot)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct scratch *s = scratch_at(slot);
	u32 own[NAMESPACES] = {}, first[NAMESPACES] = {}, i;
	struct pid_namespace *outermost;
	struct task_struct *init;
	bool known, hosts;
	u64 same = 0;

	if (!s || has_num(s, NUM_NS_HOST) || num_is_uncertain(s, NUM_NS_HOST))
		return 0;
	known = namespaces_read(own, task);
	outermost = known ? pid_namespace_at(BPF_CORE_READ(task, thread_pid), 0) : NULL;
	init = BPF_CORE_READ(outermost, child_reaper);
	hosts = init && namespaces_read(first, init);
#pragma unroll
	for (i = 0; i < NAMESPACES; i++) {
		if (known)
			set_num(s, NUM_NS_UTS + i, own[i]);
		else
			set_num_uncertain(s, NUM_NS_UTS + i);
		same |= (u64)(own[i] == first[i]) << i;
	}
	if (hosts)
		set_num(s, NUM_NS_HOST, same);
	else
		set_num_uncertain(s, NUM_NS_HOST);
	return 0;
}

/* What is other than when the task's program was executed. */
__noinline int changes_load(u32 slot)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	const struct cred *cred = BPF_CORE_READ(task, cred);
	struct scratch *s = scratch_at(slot);
	u32 now[NAMESPACES] = {}, i;
	struct exec_image *image;
	u64 id, changed = 0;

	if (!s || has_num(s, NUM_NS_CHANGED))
		return 0;
	id = s->record.exec_id;
	image = bpf_map_lookup_elem(&images, &id);
	if (!image || !image->namespaces[0] || !namespaces_read(now, task)) {
		set_num_uncertain(s, NUM_NS_CHANGED);
		set_num_uncertain(s, NUM_CAPS_CHANGED);
		set_num_uncertain(s, NUM_CAPS_PERMITTED_CHANGED);
		set_num_uncertain(s, NUM_CAPS_INHERITABLE_CHANGED);
		return 0;
	}
#pragma unroll
	for (i = 0; i < NAMESPACES; i++)
		changed |= (u64)(now[i] != image->namespaces[i]) << i;
	set_num(s, NUM_NS_CHANGED, changed);
	set_num(s, NUM_CAPS_CHANGED, image->caps[0] ^ read_caps(cred));
	set_num(s, NUM_CAPS_PERMITTED_CHANGED, image->caps[1] ^ read_cap_set(__builtin_preserve_access_index(&cred->cap_permitted)));
	set_num(s, NUM_CAPS_INHERITABLE_CHANGED, image->caps[2] ^ read_cap_set(__builtin_preserve_access_index(&cred->cap_inheritable)));
	return 0;
}

/* An overlay's inode is followed by the dentry in the upper layer, where there is one: struct ovl_inode of fs/overlayfs/ovl_entry.h, which
 * is a module's and so not among the kernel's own types.
 */
static __always_inline u64 exe_layer(struct inode *inode)
{
	u64 upper = 0;

	if (BPF_CORE_READ(inode, i_sb, s_magic) != OVERLAYFS_SUPER_MAGIC)
		return 0;
	bpf_probe_read_kernel(&upper, sizeof(upper), (void *)inode + bpf_core_type_size(struct inode));
	return upper ? EXE_UPPER : EXE_LOWER;
}

static __always_inline u64 exe_writable(struct task_struct *task, struct inode *inode)
{
	const struct cred *cred = BPF_CORE_READ(task, cred);
	u32 mode = BPF_CORE_READ(inode, i_mode);

	if (read_caps(cred) & (1ULL << CAP_DAC_OVERRIDE))
		return EXE_WRITABLE;
	if (BPF_CORE_READ(cred, euid.val) == BPF_CORE_READ(inode, i_uid.val))
		return mode & S_IWUSR ? EXE_WRITABLE : 0;
	if (BPF_CORE_READ(cred, egid.val) == BPF_CORE_READ(inode, i_gid.val))
		return mode & S_IWGRP ? EXE_WRITABLE : 0;
	return mode & S_IWOTH ? EXE_WRITABLE : 0;
}

__noinline int exe_load(u32 slot)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct scratch *s = scratch_at(slot);
	struct exec_image *image;
	struct inode *inode;
	u64 id, flags;

	if (!s || has_num(s, NUM_EXE_FLAGS))
		return 0;
	inode = BPF_CORE_READ(task, mm, exe_file, f_inode);
	if (!inode)
		return 0;
	flags = exe_layer(inode) | exe_writable(task, inode);
	id = s->record.exec_id;
	image = bpf_map_lookup_elem(&images, &id);
	if (image && image->flags & EXEC_EXE_MEMFD)
		flags |= EXE_MEMFD;
	set_num(s, NUM_EXE_FLAGS, flags);
	set_num(s, NUM_EXE_INO, BPF_CORE_READ(inode, i_ino));
	set_num(s, NUM_EXE_CTIME, compat_ctime(inode));
	set_num(s, NUM_EXE_MTIME, compat_mtime(inode));
	return 0;
}

/* A folder /proc/PID is of the process that its inode names, and so is all below it, the folders of threads too. A process that has ended is
 * none any more.
 */
__noinline int proc_load(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	struct inode *inode;
	u64 first;
	u32 tgid;

	if (!s || has_num(s, NUM_FILE_PROC_PID))
		return 0;
	inode = (void *)s->inode;
	if (!inode || BPF_CORE_READ(inode, i_sb, s_magic) != PROC_SUPER_MAGIC)
		return 0;
	inode = (void *)inode - bpf_core_field_offset(struct proc_inode, vfs_inode);
	first = (u64)BPF_CORE_READ((struct proc_inode *)inode, pid, tasks[PIDTYPE_PID].first);
	if (!first)
		return 0;
	first -= bpf_core_field_offset(struct task_struct, pid_links);
	tgid = BPF_CORE_READ((struct task_struct *)first, tgid);
	if (tgid)
		set_num(s, NUM_FILE_PROC_PID, tgid);
	return 0;
}

#define ENTERED_DEPTH 64

static __always_inline struct upid *own_upid(struct task_struct *leader)
{
	struct pid *pid = BPF_CORE_READ(leader, thread_pid);
	u32 level = BPF_CORE_READ(pid, level) & 31; /* MAX_PID_NS_LEVEL is 32 */

	return (void *)((u64)pid + bpf_core_field_offset(struct pid, numbers) + (u64)level * bpf_core_type_size(struct upid));
}

/* Whoever has a parent in another pid namespace and another cgroup, and is not the first of its own, was put there from outside, as
 * `kubectl exec` does it; what descends from it has come in with it. The first process of a namespace ends the way up, unless it belongs to
 * the container as its parent does.
 */
__noinline int entered_load(u32 slot)
{
	struct task_struct *task = (void *)bpf_get_current_task(), *parent;
	struct scratch *s = scratch_at(slot);
	struct upid *own, *other;
	u32 i;

	if (!s || has_num(s, NUM_ENTERED))
		return 0;
	task = BPF_CORE_READ(task, group_leader);
	for (i = 0; i < ENTERED_DEPTH; i++) {
		parent = read_parent(task);
		if (!parent)
			break;
		own = own_upid(task);
		other = own_upid(parent);
		if (BPF_CORE_READ(own, ns) != BPF_CORE_READ(other, ns) && read_cgroup(task) != read_cgroup(parent)) {
			set_num(s, NUM_ENTERED, BPF_CORE_READ(own, nr) != 1);
			return 0;
		}
		task = parent;
	}
	set_num(s, NUM_ENTERED, 0);
	if (i == ENTERED_DEPTH)
		set_num_uncertain(s, NUM_ENTERED);
	return 0;
}

static __always_inline void call_load(struct scratch *s)
{
	u64 call = read_call();

	if (call == NO_CALL)
		return;
	set_num(s, NUM_CALL, call);
	if (!has_num(s, NUM_CALL_ARG0))
		set_call_arguments(s);
}

__noinline int details_load(u32 slot)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct signal_struct *signal = BPF_CORE_READ(task, signal);
	struct scratch *s = scratch_at(slot);
	struct pid *pid;

	if (!s)
		return 0;
	call_load(s);
	tty_load(slot);
	exe_load(slot);
	pid = BPF_CORE_READ(signal, pids[PIDTYPE_SID]);
	set_num(s, NUM_SID, pid_number(pid));
	pid = BPF_CORE_READ(signal, pids[PIDTYPE_PGID]);
	set_num(s, NUM_PGID, pid_number(pid));
	set_num(s, NUM_VPGID, pid_own_number(pid));
	pid = BPF_CORE_READ(signal, pids[PIDTYPE_TGID]);
	set_num(s, NUM_VPID, pid_own_number(pid));
	pid = BPF_CORE_READ(task, thread_pid);
	set_num(s, NUM_VTID, pid_own_number(pid));
	if (bpf_core_field_exists(task->loginuid))
		set_num(s, NUM_LOGINUID, BPF_CORE_READ(task, loginuid.val));
	caps_load(slot);
	set_num(s, NUM_PARENT_START, BPF_CORE_READ(task, group_leader, real_parent, group_leader, start_boottime));
	return 0;
}

/* String `str`: the path of a directory descriptor, or of the working directory, by way of the area of file.new_path. */
__noinline int path_aside(u32 slot, u32 str, int dirfd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct scratch *s = scratch_at(slot);
	u64 area = STR_BIT(STR_FILE_NEW_PATH);
	struct file *file;

	if (!s)
		return 0;
	s->str_present &= ~area;
	if (dirfd == AT_FDCWD) {
		s->dentry[1] = (u64)BPF_CORE_READ(task, fs, pwd.dentry);
		s->mount[1] = (u64)BPF_CORE_READ(task, fs, pwd.mnt);
	} else {
		file = read_fd(dirfd);
		if (!file)
			return 0;
		s->dentry[1] = (u64)BPF_CORE_READ(file, f_path.dentry);
		s->mount[1] = (u64)BPF_CORE_READ(file, f_path.mnt);
	}
	s->str_tried &= ~area;
	s->str_uncertain &= ~area;
	path_resolve(slot, 1);
	s->dentry[1] = 0;
	if (s->str_present & ~s->str_uncertain & area)
		set_str(s, str & (ABI_STR_SLOTS - 1), s->str_offset[STR_FILE_NEW_PATH], s->str_length[STR_FILE_NEW_PATH]);
	s->str_present &= ~area;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
