/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reading the acting task. */
#ifndef BPFENCE_READ_H
#define BPFENCE_READ_H

#include "compat.h"

/* The pointer that is stored at an address of the kernel. In engine.bpf.c. */
u64 pointer_at(u64 address);

/* The member at an address: of 8 bytes, or of fewer that do not cross a multiple of 8, so that no other page is read than it lies on. */
static __always_inline u64 member_at(u64 address)
{
	return pointer_at(address & ~7ULL) >> ((address & 7) * 8);
}

/* BPF_CORE_READ of up to three members, none longer than 8 bytes, from a pointer that is a number to the verifier: by loads where the kernel has
 * them, which cost a tenth. Which of the two it is, is asked in pointer_at alone: what the verifier finds switched off here it would take out at
 * each place, and move all instructions behind it, again and again.
 */
#define READ1(from, a) \
	({ \
		typeof(from) from_a = (from); \
		(typeof(from_a->a))member_at((u64)from_a + bpf_core_field_offset(typeof(*from_a), a)); \
	})
#define READ2(from, a, b) READ1(READ1(from, a), b)
#define READ3(from, a, b, c) READ1(READ2(from, a, b), c)
#define READ(from, ...) ___bpf_apply(READ, ___bpf_narg(__VA_ARGS__))(from, __VA_ARGS__)

/* The acting task by its type. One that the verifier trusts costs it much more to load pointers from (see pointer_in); but the kernel's functions can be
 * called from one source only (see rounds.h).
 */
static __always_inline struct task_struct *task_typed(void)
{
#ifdef ENGINE_SOURCE
	if (have_rdonly_cast)
		return bpf_rdonly_cast((void *)bpf_get_current_task(), bpf_core_type_id_kernel(struct task_struct));
#endif
	return bpf_get_current_task_btf();
}

/* Effective ids of the current task in the initial user namespace. */
static __always_inline void read_ids_probed(u32 *uid, u32 *gid)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	const struct cred *cred = BPF_CORE_READ(task, cred);

	*uid = BPF_CORE_READ(cred, euid.val);
	*gid = BPF_CORE_READ(cred, egid.val);
}

/* The same by direct loads where the task comes with a type. */
static __always_inline void read_ids(u32 *uid, u32 *gid)
{
	if (have_task_btf) {
		const struct cred *cred = task_typed()->cred;

		*uid = cred->euid.val;
		*gid = cred->egid.val;
	} else {
		read_ids_probed(uid, gid);
	}
}

static __always_inline u64 read_cap_set(const kernel_cap_t *from)
{
	u64 caps = 0;

	bpf_probe_read_kernel(&caps, sizeof(caps), from);
	return caps;
}

static __always_inline u64 read_caps(const struct cred *cred)
{
	return read_cap_set(__builtin_preserve_access_index(&cred->cap_effective));
}

static __always_inline struct pid_namespace *pid_namespace_at(struct pid *pid, u32 level)
{
	u64 at = (u64)pid + bpf_core_field_offset(struct pid, numbers) + (u64)(level & 31) * bpf_core_type_size(struct upid);

	return BPF_CORE_READ((struct upid *)at, ns);
}

/* A kernel without a type of namespaces has pointers to it all the same, and nothing behind them. */
#define NS_NUMBER(proxy, member, type) (bpf_core_field_exists(struct type, ns) ? BPF_CORE_READ(proxy, member, ns.inum) : 0)

/* The inode numbers of a task's namespaces, in the order of NUM_NS_UTS and its kin; false: it is ending, and has none. */
static __always_inline bool namespaces_read(u32 *to, struct task_struct *task)
{
	struct nsproxy *ns = BPF_CORE_READ(task, nsproxy);
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	struct pid_namespace *own;

	if (!ns || !pid)
		return false;
	own = pid_namespace_at(pid, BPF_CORE_READ(pid, level));
	to[NUM_NS_UTS - NUM_NS_UTS] = NS_NUMBER(ns, uts_ns, uts_namespace);
	to[NUM_NS_IPC - NUM_NS_UTS] = NS_NUMBER(ns, ipc_ns, ipc_namespace);
	to[NUM_NS_MNT - NUM_NS_UTS] = NS_NUMBER(ns, mnt_ns, mnt_namespace);
	to[NUM_NS_PID - NUM_NS_UTS] = BPF_CORE_READ(own, ns.inum);
	to[NUM_NS_PID_FOR_CHILDREN - NUM_NS_UTS] = NS_NUMBER(ns, pid_ns_for_children, pid_namespace);
	to[NUM_NS_NET - NUM_NS_UTS] = NS_NUMBER(ns, net_ns, net);
	to[NUM_NS_TIME - NUM_NS_UTS] = NS_NUMBER(ns, time_ns, time_namespace);
	to[NUM_NS_TIME_FOR_CHILDREN - NUM_NS_UTS] = NS_NUMBER(ns, time_ns_for_children, time_namespace);
	to[NUM_NS_CGROUP - NUM_NS_UTS] = NS_NUMBER(ns, cgroup_ns, cgroup_namespace);
	to[NUM_NS_USER - NUM_NS_UTS] = BPF_CORE_READ(task, cred, user_ns, ns.inum);
	return true;
}

/* The process that a process was started by, or was given to when that ended; NULL at the end of the chain. */
static __always_inline struct task_struct *read_parent(struct task_struct *leader)
{
	struct task_struct *parent = BPF_CORE_READ(leader, real_parent, group_leader);

	return parent == leader || !BPF_CORE_READ(parent, tgid) ? NULL : parent;
}

static __always_inline u64 read_cgroup(struct task_struct *task)
{
	return READ(READ(task, cgroups, dfl_cgrp, kn), id);
}

/* The registers that the current task entered the kernel with (x86-64: at the top of its kernel stack). */
static __always_inline struct pt_regs *read_user_regs(void)
{
	struct task_struct *task;

	if (have_task_btf && have_task_pt_regs)
		return (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	task = (void *)bpf_get_current_task();
	return BPF_CORE_READ(task, stack) + THREAD_SIZE - SIZEOF_PT_REGS;
}

/* Whether the current system call is one of the 32-bit table, whatever the program is: `int $0x80` works in 64-bit ones too. */
static __always_inline bool read_compat(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return READ(task, thread_info.status) & TS_COMPAT;
}

#define NO_CALL (~0ULL)

/* The system call that the current task is in: its number in the 64-bit table, or with CALL_COMPAT in the 32-bit one. NO_CALL: a thread of
 * the kernel or of io_uring.
 */
static __always_inline u64 read_call(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct pt_regs *regs;
	u64 number;

	if (READ(task, flags) & (PF_KTHREAD | PF_IO_WORKER))
		return NO_CALL;
	regs = read_user_regs();
	/* The number is the lower half, an int since v5.14 ("Sign-extend system calls on entry to int"): the upper one is the caller's to fill. */
	number = BPF_CORE_READ(regs, orig_ax);
	if ((s32)number < 0)
		return NO_CALL;
	if (read_compat())
		return (u32)number | CALL_COMPAT;
	return (u32)number & ~X32_SYSCALL_BIT;
}

static __always_inline u32 call_number(u64 call)
{
	return call & CALL_NUMBER_MASK;
}

/* What a descriptor of the current task stands for now. */
static __always_inline struct file *read_fd(s32 fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file *file = NULL;

	if (fd < 0 || !table || (u32)fd >= BPF_CORE_READ(table, max_fds))
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), BPF_CORE_READ(table, fd) + fd);
	return file;
}

static __always_inline struct sock *read_sock(struct file *file)
{
	struct socket *socket;

	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return NULL;
	socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

/* Unique for two years of uptime: 2^14 ns is less than an exec takes, and a pid has 22 bits at most. */
static __always_inline u64 read_exec_id(u64 boot_ns, u32 pid)
{
	return (boot_ns >> 14) << 22 | (pid & 0x3fffff);
}

#endif
