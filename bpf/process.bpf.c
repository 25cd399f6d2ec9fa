// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Processes: their records, and the events process.*. */
#include "layer.h"

SEC("tp_btf/sched_process_fork")
int BPF_PROG(sched_process_fork__process, struct task_struct *parent, struct task_struct *child)
{
	u32 tgid = BPF_CORE_READ(child, tgid), parent_tgid = BPF_CORE_READ(parent, tgid);
	struct process_record *record, copy;
	struct exec_image *image;
	u64 version;

	if (tgid != BPF_CORE_READ(child, pid))
		return 0;
	record = bpf_map_lookup_elem(&processes, &parent_tgid);
	if (!record)
		return 0;
	version = record_version(parent_tgid);
	copy = *record;
	barrier();
	image = bpf_map_lookup_elem(&images, &copy.exec_id);
	if (!image)
		return 0;
	__sync_fetch_and_add(&image->refs, 1);
	copy.pid = tgid;
	copy.ppid = BPF_CORE_READ(child, real_parent, tgid);
	copy.start_time = BPF_CORE_READ(child, start_boottime);
	copy.flags &= ~RECORD_FROM_ITER;
	if (image_features() & IMAGE_FORK_CHANGES)
		copy.generation = 0;
	if (copy.cgroup != read_cgroup(child)) /* CLONE_INTO_CGROUP */
		copy.generation = 0;
	/* Another thread of the parent was changing it. */
	if (record_version(parent_tgid) != version)
		copy.generation = 0;
	if (bpf_map_update_elem(&processes, &tgid, &copy, BPF_ANY)) {
		__sync_fetch_and_add(&image->refs, -1);
		count(CNT_RECORD_FAILED);
		copy.generation = 0;
	}
	record_changed(tgid, copy.flags & RECORD_DEPENDS_IDS || !copy.generation ? 0 : concern_word(copy.concern) | concern_tag(copy.generation, tgid));
	return 0;
}

/* After the point of no return: the executable is mapped, the arguments are on the new stack. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(sched_process_exec__process, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32, slot;
	struct process_record *record = bpf_map_lookup_elem(&processes, &tgid);
	u64 old_id = record ? record->exec_id : 0;
	struct scratch *s = scratch_take(&slot);

	if (!s) {
		/* No memory to look at the new program: the record goes, and the next hook makes one from the task. */
		bpf_map_delete_elem(&processes, &tgid);
		record_changed(tgid, 0);
		count(CNT_RECORD_FAILED);
		return 0;
	}
	if (record_exec(slot, old_id)) {
		bpf_map_delete_elem(&processes, &tgid);
		record_changed(tgid, 0);
	}
	scratch_give(s);
	if (!image_concerns(EV_PROCESS_EXECUTED))
		return 0;
	s = event_begin(EV_PROCESS_EXECUTED, &slot);
	if (s)
		event_end(s, slot);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(sched_process_exit__process, struct task_struct *task)
{
	u32 tgid = BPF_CORE_READ(task, tgid), slot, zero = 0;
	struct control *c = bpf_map_lookup_elem(&control, &zero);
	struct process_record *record;
	struct scratch *s;
	u64 id;

	/* A task that ends within its system call. */
	if (held_pending())
		held_result(0, 0);
	if (BPF_CORE_READ(task, signal, live.counter) != 0)
		return 0;
	s = image_concerns(EV_PROCESS_EXIT) ? event_begin(EV_PROCESS_EXIT, &slot) : NULL;
	if (s) {
		set_num(s, NUM_EXIT_CODE, BPF_CORE_READ(task, exit_code));
		event_end(s, slot);
	}
	/* A killed agent's exemption must not pass to whoever gets its pid next. */
	if (c && c->agent_pid == tgid)
		c->agent_pid = 0;
	record = bpf_map_lookup_elem(&processes, &tgid);
	if (!record)
		return 0;
	id = record->exec_id;
	if (!bpf_map_delete_elem(&processes, &tgid))
		image_release(id);
	record_changed(tgid, 0);
	return 0;
}

/* A process that is moved to another cgroup has another subject from the moment on at which the move returns. */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(cgroup_attach_task__process, struct cgroup *to, const char *path, struct task_struct *task, bool threadgroup)
{
	u32 tgid = BPF_CORE_READ(task, tgid);
	struct process_record *record;

	record = bpf_map_lookup_elem(&processes, &tgid);
	if (record) {
		*(volatile u32 *)&record->generation = 0;
		if (threadgroup)
			record->cgroup = BPF_CORE_READ(to, kn, id);
	}
	record_changed(tgid, 0);
	return 0;
}

/* Processes older than the agent. */
SEC("iter/task")
int seed_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct scratch *s;
	u32 slot, tgid;

	if (!task)
		return 0;
	tgid = BPF_CORE_READ(task, tgid);
	if (BPF_CORE_READ(task, pid) != tgid || bpf_map_lookup_elem(&processes, &tgid))
		return 0;
	s = scratch_take(&slot);
	if (!s)
		return 0;
	s->features = 0;
	s->kernfs = (u64)task;
	record_create(slot);
	scratch_give(s);
	return 0;
}

SEC("lsm/bprm_check_security")
int BPF_PROG(bprm_check_security__process, struct linux_binprm *bprm, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_PROCESS_EXEC, &slot);
	if (!s)
		return event_refused(slot);
	set_file(s, bprm->file);
	set_num(s, NUM_FILE_ACCESS, ACCESS_EXEC);
	return event_end_layered(s, slot, bprm->file);
}

#define CSETS_COUNTED 16

/* Live tasks of the current cgroup, by the kernel's own count: a cgroup's tasks are spread over its css_sets, of which there is
 * one where all controllers are on the unified hierarchy. Nothing to maintain, nothing that could drift.
 */
static __always_inline u64 live_tasks(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	u64 head = (u64)cgroup + bpf_core_field_offset(struct cgroup, cset_links), live = 0;
	u64 at = (u64)BPF_CORE_READ(cgroup, cset_links.next);
	u32 i;

	for (i = 0; i < CSETS_COUNTED; i++) {
		struct cgrp_cset_link *link;

		if (!at || at == head)
			break;
		link = (void *)(at - bpf_core_field_offset(struct cgrp_cset_link, cset_link));
		live += BPF_CORE_READ(link, cset, nr_tasks);
		at = (u64)BPF_CORE_READ(link, cset_link.next);
	}
	return live;
}

SEC("lsm/task_alloc")
int BPF_PROG(task_alloc__process, struct task_struct *task, unsigned long clone_flags, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_PROCESS_FORK, &slot);
	if (!s)
		return event_refused(slot);
	set_num(s, NUM_CLONE_FLAGS, clone_flags);
	set_num(s, NUM_FORK_LIVE, live_tasks());
	return event_end(s, slot);
}

static __always_inline void set_target(struct scratch *s, struct task_struct *target)
{
	set_num(s, NUM_TARGET_PID, BPF_CORE_READ(target, tgid));
	set_num(s, NUM_TARGET_UID, BPF_CORE_READ(target, real_cred, euid.val));
	/* A process that has ended and waits to be reaped runs no program: its executable is absent, not uncertain. */
	if (!BPF_CORE_READ(target, signal, live.counter))
		s->str_tried |= 1U << STR_TARGET_EXE;
}

SEC("lsm/task_kill")
int BPF_PROG(task_kill__process, struct task_struct *target, void *info, int sig, const struct cred *cred, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_PROCESS_SIGNAL, &slot);
	if (!s)
		return event_refused(slot);
	set_target(s, target);
	set_num(s, NUM_SIGNAL, sig);
	return event_end(s, slot);
}

SEC("lsm/ptrace_access_check")
int BPF_PROG(ptrace_access_check__process, struct task_struct *child, unsigned int mode, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_PROCESS_PTRACE, &slot);
	if (!s)
		return event_refused(slot);
	set_target(s, child);
	set_num(s, NUM_PTRACE_MODE, mode);
	return event_end(s, slot);
}

SEC("lsm/ptrace_traceme")
int BPF_PROG(ptrace_traceme__process, struct task_struct *parent, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_PROCESS_PTRACE, &slot);
	if (!s)
		return event_refused(slot);
	/* The parent becomes the tracer: the acting process offers itself. */
	set_num(s, NUM_TARGET_PID, s->record.pid);
	set_num(s, NUM_TARGET_UID, s->record.uid);
	set_num(s, NUM_PTRACE_MODE, 2);
	return event_end(s, slot);
}

SEC("lsm/task_fix_setuid")
int BPF_PROG(task_fix_setuid__process, struct cred *new, const struct cred *old, int flags, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_PROCESS_SETUID, &slot);
	if (!s)
		return event_refused(slot);
	set_num(s, NUM_SET_UID, new->euid.val);
	return event_end(s, slot);
}

SEC("lsm/task_fix_setgid")
int BPF_PROG(task_fix_setgid__process, struct cred *new, const struct cred *old, int flags, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_PROCESS_SETGID, &slot);
	if (!s)
		return event_refused(slot);
	set_num(s, NUM_SET_GID, new->egid.val);
	return event_end(s, slot);
}

/* setns(2) has no LSM hook and, without error injection, nothing else to stop it by: every namespace type asks for a capability
 * first, so the event is decided there. The namespaces joined are those of the second argument, 0: whatever the descriptor is.
 */
static __always_inline int setns_event(struct pt_regs *regs)
{
	struct scratch *s;
	u32 slot;

	s = event_begin(EV_KERNEL_SETNS, &slot);
	if (!s)
		return event_refused(slot);
	set_num(s, NUM_NS_FLAGS, (u32)BPF_CORE_READ(regs, si));
	return event_end(s, slot);
}

SEC("lsm/capable")
int BPF_PROG(capable__setns, const struct cred *cred, struct user_namespace *ns, int cap, unsigned int opts, int ret)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct concern *concern = concern_of(tgid);
	struct pt_regs *regs;

	HONOUR(ret);
	if (!concern || subject_unconcerned(concern, EV_KERNEL_SETNS, active_generation(), tgid))
		return 0;
	regs = read_user_regs();
	if (BPF_CORE_READ(regs, orig_ax) != NR_SETNS)
		return 0;
	return setns_event(regs);
}

SEC("lsm/capable")
int BPF_PROG(capable__process, const struct cred *cred, struct user_namespace *ns, int cap, unsigned int opts, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_PROCESS_CAPABLE, &slot);
	if (!s)
		return event_refused(slot);
	set_num(s, NUM_CAPABILITY, cap);
	return event_end(s, slot);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
