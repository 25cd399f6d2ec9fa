// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Which system calls one command and its descendants use. An object of its own: it decides nothing and needs no LSM, so it loads where
 * the engine does not. It shares no map with the engine.
 *
 * A raw tracepoint runs for every process of the machine, so the first thing a program does is to find out whether it is concerned.
 * There is no event for each call: a byte per call is set, once.
 */
#include "kernel.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The order is that of kernel/syscall_recorder.py. */
enum abi {
	ABI_NATIVE,
	ABI_COMPAT, /* i386 on x86-64, arm on arm64 */
	ABI_X32,
	ABI_COUNT,
};

#define MAX_CALLS 1024
#define TIF_32BIT (1UL << 22)
#define ENTRIES 65536
#define MAX_FAMILIES 64 /* AF_MAX is 46 in v6.18 */

/* The number of socket(2), the same for the machine's own calls and x32's. Set by the loader before load. */
const volatile u32 socket_number = ~0U;

/* The command's cgroup, at index 0; written by the loader before the command starts. By descriptor and not by id and level: in a cgroup
 * namespace the loader cannot know the level.
 */
struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} cgroup SEC(".maps");

/* Written here, read by the loader when the command has ended; the only variable, so that its layout is this one. One byte a call and not
 * one bit: setting a byte again is harmless, where two processors could lose each other's bits of one word.
 */
struct {
	u8 seen[ABI_COUNT][MAX_CALLS];
	u64 out_of_range; /* calls whose number has no room above: private ones of arm, or nonsense */
	u64 tree_full;    /* processes that found no room in the tree: their calls are missing */
	u8 families[MAX_FAMILIES]; /* first arguments of socket(2), but for compat calls */
	u64 families_beyond;       /* … that have no room above */
} result;

/* Thread group ids, where there is no cgroup to tell by. Written here on fork and exit, and by the loader for the first. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ENTRIES);
	__type(key, u32);
	__type(value, u8);
} tree SEC(".maps");

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct thread_info___seccomp {
	unsigned long flags;
	u32 status; /* x86 only */
};

struct task_struct___seccomp {
	struct thread_info___seccomp thread_info;
};

struct pt_regs___seccomp {
	unsigned long di; /* x86 */
	unsigned long long regs[31]; /* arm64 */
};

#pragma clang attribute pop

/* As syscall_get_arch() of arch/…/include/asm/syscall.h tells it to seccomp. */
static __always_inline bool is_compat(void)
{
	struct task_struct___seccomp *task = (void *)bpf_get_current_task();

#if defined(__TARGET_ARCH_arm64)
	return BPF_CORE_READ(task, thread_info.flags) & TIF_32BIT;
#else
	return BPF_CORE_READ(task, thread_info.status) & TS_COMPAT;
#endif
}

static __always_inline u32 first_argument(const struct pt_regs___seccomp *regs)
{
#if defined(__TARGET_ARCH_arm64)
	return BPF_CORE_READ(regs, regs[0]);
#else
	return BPF_CORE_READ(regs, di);
#endif
}

static __always_inline void record_family(u32 family)
{
	if (family < MAX_FAMILIES)
		/* The comparison is of a shifted copy, and the verifier loses it (6.18, clang 14: "R2 unbounded memory access"). */
		result.families[MASKED(family, MAX_FAMILIES - 1)] = 1;
	else
		__sync_fetch_and_add(&result.families_beyond, 1);
}

static __always_inline void record(const void *regs, u64 number)
{
	u32 abi = is_compat() ? ABI_COMPAT : ABI_NATIVE;
	u8 *byte;

	/* Bit 30 is x32's on x86-64; no number of arm64 comes near. */
	if (abi == ABI_NATIVE && number >> 30 == 1) {
		abi = ABI_X32;
		number &= ~X32_SYSCALL_BIT;
	}
	if (number >= MAX_CALLS) {
		if ((s32)number != -1)
			__sync_fetch_and_add(&result.out_of_range, 1);
		return;
	}
	byte = &result.seen[abi][number];
	/* Reading first keeps the line shared between processors. */
	if (!*byte)
		*byte = 1;
	if (number == socket_number && abi != ABI_COMPAT)
		record_family(first_argument(regs));
}

SEC("raw_tp/sys_enter")
int sys_enter__cgroup(struct bpf_raw_tracepoint_args *ctx)
{
	if (bpf_current_task_under_cgroup(&cgroup, 0) != 1)
		return 0;
	record((const void *)ctx->args[0], ctx->args[1]);
	return 0;
}

SEC("raw_tp/sys_enter")
int sys_enter__tree(struct bpf_raw_tracepoint_args *ctx)
{
	u32 process = bpf_get_current_pid_tgid() >> 32;

	if (!bpf_map_lookup_elem(&tree, &process))
		return 0;
	record((const void *)ctx->args[0], ctx->args[1]);
	return 0;
}

SEC("raw_tp/sched_process_fork")
int sched_process_fork__tree(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *parent = (void *)ctx->args[0], *child = (void *)ctx->args[1];
	u32 from = BPF_CORE_READ(parent, tgid), process = BPF_CORE_READ(child, tgid);
	u8 one = 1;

	if (from == process || !bpf_map_lookup_elem(&tree, &from))
		return 0;
	if (bpf_map_update_elem(&tree, &process, &one, BPF_ANY))
		__sync_fetch_and_add(&result.tree_full, 1);
	return 0;
}

/* The leader's exit alone does not end a process: other threads may go on. */
SEC("raw_tp/sched_process_exit")
int sched_process_exit__tree(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)ctx->args[0];
	u32 process = BPF_CORE_READ(task, tgid);

	if (BPF_CORE_READ(task, signal, live.counter) <= 0)
		bpf_map_delete_elem(&tree, &process);
	return 0;
}
