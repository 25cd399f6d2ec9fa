// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Processes: their records, and the events process.*. */
#include "hook.h"
#include "layer.h"
#include "match.h"

/* A new process without a record, because its parent has none or there is no room: whatever an earlier process with its pid has left goes, and
 * the first hook makes a record from the task.
 */
static __always_inline int forget(u32 tgid)
{
	bpf_map_delete_elem(&processes, &tgid);
	record_changed(tgid);
	return 0;
}

/* A thread that begins in another cgroup than its maker: as cgroup_attach_task__process. */
static __always_inline int thread_begins(u32 tgid, struct task_struct *maker, struct task_struct *thread)
{
	struct process_record *record;

	if (READ(thread, cgroups) == READ(maker, cgroups))
		return 0;
	record = bpf_map_lookup_elem(&processes, &tgid);
	if (record)
		*(volatile u32 *)&record->generation = 0;
	record_changed(tgid);
	return 0;
}

/* A task ends whose end of d_move the kernel has skipped: see d_move__moved. The move is over, and in the kernel's count. */
static __always_inline void move_ends(void)
{
	u64 task = bpf_get_current_pid_tgid();
	u32 zero = 0;
	struct moves *m = bpf_map_lookup_elem(&moves, &zero);

	if (m && *(volatile u64 *)&m->begun != *(volatile u64 *)&m->ended && !bpf_map_delete_elem(&moving, &task))
		__sync_fetch_and_add(&m->ended, 1);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(sched_process_fork__process, struct task_struct *from, struct task_struct *made)
{
	struct task_struct *parent = as_number(from), *child = as_number(made);
	u32 tgid = READ(child, tgid), parent_tgid = READ(parent, tgid);
	struct process_record *record, copy;
	struct exec_image *image;
	u64 version, own_version;
	u32 generation;

	if (tgid != READ(child, pid))
		return thread_begins(tgid, parent, child);
	own_version = record_version(tgid) + 1; /* after the change below */
	record = bpf_map_lookup_elem(&processes, &parent_tgid);
	if (!record)
		return forget(tgid);
	version = record_version(parent_tgid);
	generation = *(volatile u32 *)&record->generation; /* 0: it is being changed, see record_load */
	barrier();
	copy = *record;
	barrier();
	image = bpf_map_lookup_elem(&images, &copy.exec_id);
	if (!image || copy.start_time != READ(parent, group_leader, start_boottime))
		return forget(tgid);
	__sync_fetch_and_add(&image->refs, 1);
	copy.pid = tgid;
	copy.ppid = READ(child, real_parent, tgid);
	copy.start_time = READ(child, start_boottime);
	copy.flags &= ~RECORD_FROM_ITER;
	if (image_features() & IMAGE_FORK_CHANGES)
		copy.generation = 0;
	if (copy.cgroup != read_cgroup(child)) /* CLONE_INTO_CGROUP */
		copy.generation = 0;
	/* Another thread of the parent was changing it. */
	if (!generation || copy.generation != generation || record_version(parent_tgid) != version)
		copy.generation = 0;
	if (bpf_map_update_elem(&processes, &tgid, &copy, BPF_ANY)) {
		__sync_fetch_and_add(&image->refs, -1);
		count(CNT_RECORD_FAILED);
		return forget(tgid);
	}
	record_changed(tgid);
	concern_publish(&copy, own_version, tgid);
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

	if (!s || record_exec(slot, old_id)) {
		/* No memory to look at the new program, or to keep it. The record stays, without a program: the next event makes one from the
		 * task, and knows that the lineage is not whole.
		 */
		count(CNT_RECORD_FAILED);
		if (record) {
			*(volatile u32 *)&record->generation = 0;
			record->exec_id = 0;
			image_release(old_id);
		}
		record_changed(tgid);
	}
	if (s)
		scratch_give(s, slot);
	if (!image_concerns(EV_PROCESS_EXECUTED))
		return 0;
	s = event_begin(EV_PROCESS_EXECUTED, &slot);
	/* The old program is gone, so nothing can be denied any more: what a rule would refuse dies before its first instruction. */
	if (s ? event_end(s, slot) : event_refused(slot))
		bpf_send_signal(SIGKILL);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(sched_process_exit__process, struct task_struct *ended)
{
	struct task_struct *task = as_number(ended);
	u32 tgid = READ(task, tgid), slot, zero = 0;
	struct control *c = bpf_map_lookup_elem(&control, &zero);
	struct process_record *record;
	struct scratch *s;
	u64 id;

	/* A task that ends within its system call. */
	if (held_pending())
		held_result(0, 0);
	move_ends();
	if (READ(task, signal, live.counter) != 0)
		return 0;
	s = image_concerns(EV_PROCESS_EXIT) ? event_begin(EV_PROCESS_EXIT, &slot) : NULL;
	if (s) {
		set_num(s, NUM_EXIT_CODE, READ(task, exit_code));
		event_end(s, slot);
	}
	/* A killed agent's exemption must not pass to whoever gets its pid next. */
	if (c && c->agent_pid == tgid)
		c->agent_pid = 0;
	record = bpf_map_lookup_elem(&processes, &tgid);
	if (!record)
		return 0;
	id = record->exec_id;
	if (image_features() & IMAGE_COUNTS)
		counted_end(tgid, record->start_time);
	if (!bpf_map_delete_elem(&processes, &tgid))
		image_release(id);
	record_changed(tgid);
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
	record_changed(tgid);
	return 0;
}

/* Processes older than the agent. Run twice: where a child has a smaller pid than its parent, its parent is known the second time only. */
SEC("iter/task")
int seed_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct process_record *record;
	u32 slot, tgid, ppid;
	struct scratch *s;

	if (!task)
		return 0;
	tgid = BPF_CORE_READ(task, tgid);
	if (BPF_CORE_READ(task, pid) != tgid)
		return 0;
	record = bpf_map_lookup_elem(&processes, &tgid);
	if (record) {
		ppid = BPF_CORE_READ(task, real_parent, tgid);
		record_adopt(record->exec_id, ppid, 1);
		return 0;
	}
	s = scratch_take(&slot);
	if (!s)
		return 0;
	s->features = 0;
	record_create(slot, address_of(s, task));
	scratch_give(s, slot);
	return 0;
}

static __always_inline bool is_script(struct linux_binprm *bprm)
{
	char first[2] = {};

	bpf_probe_read_kernel(first, sizeof(first), &bprm->buf);
	return first[0] == '#' && first[1] == '!';
}

SEC("lsm/bprm_check_security")
int HOOK_PROG_IF(bprm_check_security__process, EV_PROCESS_EXEC, !quiet_file(bprm->file, EV_PROCESS_EXEC), struct linux_binprm *bprm, int ret)
{
	struct file *file = bprm->file;

	set_file(s, file);
	set_num(s, NUM_FILE_ACCESS, ACCESS_EXEC);
	set_num(s, NUM_FILE_SCRIPT, is_script(bprm));
	return decide_layered(s, slot, file, EV_PROCESS_EXEC);
}

#define COUNT_STEPS 32    /* a run of tasks_count_chunk */
#define COUNT_CHUNKS 64
#define COUNT_LEVELS 64   /* upwards, from a task's cgroup to the one that is counted */
#define COUNT_DONE 0
#define COUNT_GOING 1
#define COUNT_UNKNOWN -1
#define COUNT_CLIMB 1     /* in place of a link: all below the cgroup is counted */
#define TASKS_UNKNOWN (~0ULL)

/* Where the walk of tasks_count stands: in scratch->steps, which no path of this event has used yet. */
enum tasks_walk {
	WALK_ROOT,
	WALK_AT,
	WALK_LINK,
	WALK_LIVE,
};

static __always_inline u64 cgroup_of_self(u64 css)
{
	return css - bpf_core_field_offset(struct cgroup, self);
}

static __always_inline u64 first_link(u64 cgroup)
{
	return (u64)BPF_CORE_READ((struct cgroup *)cgroup, cset_links.next);
}

/* The next steps through the cgroups below the one at WALK_ROOT, parents before children. A step is one css_set of a cgroup (there is one
 * where all controllers are on the unified hierarchy), or the way to another cgroup. The lists are the kernel's own, which change under
 * RCU: whatever is removed meanwhile still leads on.
 */
__noinline int tasks_count_chunk(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	u64 root, at, link, live;
	u32 i;

	if (!s)
		return COUNT_UNKNOWN;
	root = s->steps[WALK_ROOT];
	at = s->steps[WALK_AT];
	link = s->steps[WALK_LINK];
	live = s->steps[WALK_LIVE];
	for (i = 0; i < COUNT_STEPS; i++) {
		u64 self = at + bpf_core_field_offset(struct cgroup, self), next, parent;

		if (!at || !link)
			return COUNT_UNKNOWN;
		if (link != COUNT_CLIMB && link != at + bpf_core_field_offset(struct cgroup, cset_links)) {
			struct cgrp_cset_link *of = (void *)(link - bpf_core_field_offset(struct cgrp_cset_link, cset_link));

			live += BPF_CORE_READ(of, cset, nr_tasks);
			link = (u64)BPF_CORE_READ(of, cset_link.next);
			continue;
		}
		if (link != COUNT_CLIMB) {
			next = (u64)BPF_CORE_READ((struct cgroup *)at, self.children.next);
			if (next == self + bpf_core_field_offset(struct cgroup_subsys_state, children)) {
				link = COUNT_CLIMB;
				continue;
			}
		} else {
			if (at == root) {
				s->steps[WALK_LIVE] = live;
				return COUNT_DONE;
			}
			next = (u64)BPF_CORE_READ((struct cgroup *)at, self.sibling.next);
			parent = (u64)BPF_CORE_READ((struct cgroup *)at, self.parent);
			if (next == parent + bpf_core_field_offset(struct cgroup_subsys_state, children)) {
				at = cgroup_of_self(parent);
				continue;
			}
		}
		at = cgroup_of_self(next - bpf_core_field_offset(struct cgroup_subsys_state, sibling));
		link = first_link(at);
	}
	s->steps[WALK_AT] = at;
	s->steps[WALK_LINK] = link;
	s->steps[WALK_LIVE] = live;
	return COUNT_GOING;
}

/* Finds how many tasks live in the current task's cgroup and in all cgroups below, or in those of its ancestor of `level` where that is not 0
 * and the cgroup lies deeper. By the kernel's own counts: nothing to maintain, nothing that could drift, and no controller that would have to
 * be enabled. TASKS_UNKNOWN, which is over every limit, where that takes too many steps.
 */
__noinline int tasks_count(u32 slot, u32 level)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 cgroup = (u64)BPF_CORE_READ(task, cgroups, dfl_cgrp), live = TASKS_UNKNOWN;
	u32 own = BPF_CORE_READ((struct cgroup *)cgroup, level), up = level && own > level ? own - level : 0, i;
	struct scratch *s = scratch_at(slot);

	if (!s)
		return 0;
	for (i = 0; i < COUNT_LEVELS; i++) {
		if (i >= up)
			break;
		cgroup = cgroup_of_self((u64)BPF_CORE_READ((struct cgroup *)cgroup, self.parent));
	}
	if (up <= COUNT_LEVELS) {
		s->steps[WALK_ROOT] = cgroup;
		s->steps[WALK_AT] = cgroup;
		s->steps[WALK_LINK] = first_link(cgroup);
		s->steps[WALK_LIVE] = 0;
		for (i = 0; i < COUNT_CHUNKS; i++) {
			int status = tasks_count_chunk(slot);

			if (status == COUNT_DONE)
				live = s->steps[WALK_LIVE];
			if (status != COUNT_GOING)
				break;
		}
	}
	s->steps[WALK_LIVE] = live;
	return 0;
}

static __always_inline u32 level_bit(u32 num)
{
	return num >= NUM_FORK_LIVE_1 && num < NUM_FORK_LIVE_1 + FORK_LEVELS ? 2U << (num - NUM_FORK_LIVE_1) : 0;
}

/* The levels that some rule asks for: bit n is level n. */
__noinline int levels_asked(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	struct image_head *head;
	u32 i, levels = 0;

	if (!s)
		return 0;
	head = match_head(s->generation);
	if (!head)
		return 0;
	for (i = 0; i < ABI_MAX_DIMS; i++) {
		u32 kind = head->dims[i].kind;

		if (i >= head->header.n_dims)
			break;
		if (kind == DIM_RANGE || kind == DIM_PRESENT || kind == DIM_NUMBERS)
			levels |= level_bit(head->dims[i].slot);
		if (kind == DIM_NUMBERS)
			levels |= level_bit(head->dims[i].mask_lo);
	}
	return levels;
}

static __always_inline void set_live_tasks(struct scratch *s, u32 slot)
{
	u32 levels = levels_asked(slot), level;

	tasks_count(slot, 0);
	set_num(s, NUM_FORK_LIVE, s->steps[WALK_LIVE]);
#pragma unroll
	for (level = 1; level <= FORK_LEVELS; level++) {
		if (levels & (1U << level)) {
			tasks_count(slot, level);
			set_num(s, NUM_FORK_LIVE_1 + level - 1, s->steps[WALK_LIVE]);
		}
	}
}

SEC("lsm/task_alloc")
int HOOK_PROG(task_alloc__process, EV_PROCESS_FORK, struct task_struct *task, unsigned long clone_flags, int ret)
{
	set_num(s, NUM_CLONE_FLAGS, clone_flags);
	set_live_tasks(s, slot);
	return decide(slot);
}

/* Memory that becomes executable and that no named file backs as it is: what is anonymous, what a process has written or may write, what
 * no name leads to (memfd, System V and shared anonymous memory, deleted files).
 */
static __always_inline bool memory_is_code(struct file *file, u64 prot, bool written)
{
	if (!(prot & PROT_EXEC))
		return false;
	return !file || written || prot & PROT_WRITE || !BPF_CORE_READ(file, f_inode, i_nlink) ||
	       (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFREG;
}

static __always_inline int memory_event(struct file *file, u64 prot, u64 shared)
{
	struct scratch *s;
	u32 slot;

	s = event_begin(EV_PROCESS_MEMORY, &slot);
	if (!s)
		return event_refused(slot);
	if (file) {
		set_path(s, 0, BPF_CORE_READ(file, f_path.dentry), BPF_CORE_READ(file, f_path.mnt));
		s->inode = (u64)BPF_CORE_READ(file, f_inode);
	}
	set_num(s, NUM_FILE_PROT, prot);
	set_num(s, NUM_FILE_MAP_SHARED, shared);
	return event_end(s, slot);
}

static __always_inline int mmap_memory(struct file *file, u64 prot, u64 flags)
{
	if (!memory_is_code(file, prot, false))
		return 0;
	return memory_event(file, prot, (flags & 0xf) == MAP_SHARED || (flags & 0xf) == MAP_SHARED_VALIDATE);
}

SEC("lsm/mmap_file")
int BPF_PROG(mmap_file__memory, struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags, int ret)
{
	HONOUR(ret);
	return mmap_memory(file, prot, flags);
}

/* security_mmap_file, for fmod_ret: the protection that the caller asked for is all there is yet. */
SEC("lsm/mmap_file")
int BPF_PROG(mmap_file__memory_v2, struct file *file, unsigned long prot, unsigned long flags, int ret)
{
	HONOUR(ret);
	return mmap_memory(file, mmap_prot(prot), flags);
}

/* mprotect and pkey_mprotect. Private pages that have been written since they were mapped have an anon_vma. */
SEC("lsm/file_mprotect")
int BPF_PROG(file_mprotect__memory, struct vm_area_struct *vma, unsigned long reqprot, unsigned long prot, int ret)
{
	struct file *file;

	HONOUR(ret);
	if (!(prot & PROT_EXEC))
		return 0;
	file = BPF_CORE_READ(vma, vm_file);
	if (!memory_is_code(file, prot, BPF_CORE_READ(vma, anon_vma) != NULL))
		return 0;
	return memory_event(file, prot, !!(BPF_CORE_READ(vma, vm_flags) & VM_SHARED));
}

static __always_inline void set_target(struct scratch *s, struct task_struct *target)
{
	s->target = (u64)target;
	set_num(s, NUM_TARGET_PID, BPF_CORE_READ(target, tgid));
	set_num(s, NUM_TARGET_UID, BPF_CORE_READ(target, real_cred, euid.val));
	/* A process that has ended and waits to be reaped runs no program: its executable is absent, not uncertain. */
	if (!BPF_CORE_READ(target, signal, live.counter))
		s->str_tried |= STR_BIT(STR_TARGET_EXE);
}

SEC("lsm/task_kill")
int HOOK_PROG(task_kill__process, EV_PROCESS_SIGNAL, struct task_struct *target, void *info, int sig, const struct cred *cred, int ret)
{
	set_target(s, target);
	set_num(s, NUM_SIGNAL, sig);
	return decide(slot);
}

/* Who has made a file signal somebody (F_SETOWN, FIOSETOWN) last, key: address of the struct file; written by
 * security_file_set_fowner__call, read when the signal is sent. What has been closed is pushed out by what comes later.
 */
struct file_owner {
	u64 start_time;
	u32 tgid;
	u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, struct file_owner);
} file_owners SEC(".maps");

/* The hook of that name returns nothing, so that fmod_ret could not have it: its caller has an end in both flavours. */
SEC("fexit/security_file_set_fowner")
int BPF_PROG(security_file_set_fowner__call, struct file *file)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct file_owner owner = { .start_time = BPF_CORE_READ(task, group_leader, start_boottime), .tgid = BPF_CORE_READ(task, tgid) };
	u64 key = (u64)file;

	bpf_map_update_elem(&file_owners, &key, &owner, BPF_ANY);
	return 0;
}

/* Whether a process has asked for its own signals, as nearly all do. Where it is not known who has (before the agent, or there have been
 * too many since), the signal must be for the acting process itself.
 */
static __always_inline bool asked_itself(struct task_struct *target, struct fown_struct *fown)
{
	u32 tgid = BPF_CORE_READ(target, tgid);
	u64 key = compat_fown_file(fown);
	struct file_owner *owner = bpf_map_lookup_elem(&file_owners, &key);

	if (!owner)
		return tgid == bpf_get_current_pid_tgid() >> 32;
	return owner->tgid == tgid && owner->start_time == BPF_CORE_READ(target, group_leader, start_boottime);
}

/* SIGIO and what F_SETSIG puts in its place. The acting process is the one whose reading or writing makes the kernel send it: whoever has
 * asked for it may be gone.
 */
SEC("lsm/file_send_sigiotask")
int HOOK_PROG_IF(file_send_sigiotask__process, EV_PROCESS_SIGNAL, !asked_itself(target, fown), struct task_struct *target,
		 struct fown_struct *fown, int sig, int ret)
{
	set_target(s, target);
	set_num(s, NUM_SIGNAL, sig ? sig : SIGIO);
	return decide(slot);
}

SEC("lsm/ptrace_access_check")
int HOOK_PROG(ptrace_access_check__process, EV_PROCESS_PTRACE, struct task_struct *child, unsigned int mode, int ret)
{
	set_target(s, child);
	set_num(s, NUM_PTRACE_MODE, mode);
	return decide(slot);
}

SEC("lsm/ptrace_traceme")
int HOOK_PROG(ptrace_traceme__process, EV_PROCESS_PTRACE, struct task_struct *parent, int ret)
{
	/* The parent becomes the tracer: the acting process offers itself. */
	s->target = bpf_get_current_task();
	set_num(s, NUM_TARGET_PID, s->record.pid);
	set_num(s, NUM_TARGET_UID, s->record.uid);
	set_num(s, NUM_PTRACE_MODE, 2);
	return decide(slot);
}

SEC("lsm/task_fix_setuid")
int HOOK_PROG(task_fix_setuid__process, EV_PROCESS_SETUID, struct cred *new, const struct cred *old, int flags, int ret)
{
	set_num(s, NUM_SET_UID, new->euid.val);
	return decide(slot);
}

SEC("lsm/task_fix_setgid")
int HOOK_PROG(task_fix_setgid__process, EV_PROCESS_SETGID, struct cred *new, const struct cred *old, int flags, int ret)
{
	set_num(s, NUM_SET_GID, new->egid.val);
	return decide(slot);
}

/* Types of the namespaces that setns(2) is about to join: its second argument, or where that is 0 the type of the one that the first
 * stands for. Another task with the same descriptors may have exchanged that since: then it cannot be told.
 */
static __always_inline void set_namespaces(struct scratch *s, bool compat)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct pt_regs *regs = read_user_regs();
	u32 types = compat ? BPF_CORE_READ(regs, cx) : BPF_CORE_READ(regs, si);

	if (!types) {
		struct file *file = read_fd(compat ? BPF_CORE_READ(regs, bx) : BPF_CORE_READ(regs, di));

		if (!file || BPF_CORE_READ(task, files, count.counter) != 1 || BPF_CORE_READ(file, f_inode, i_sb, s_magic) != NSFS_MAGIC) {
			set_num_uncertain(s, NUM_NS_FLAGS);
			return;
		}
		types = compat_ns_type(BPF_CORE_READ(file, f_inode, i_private));
	}
	set_num(s, NUM_NS_FLAGS, types);
}

/* setns(2) has no LSM hook and, without error injection, nothing else to stop it by: every namespace type asks for a capability
 * first, so the event is decided there.
 */
static __always_inline int setns_event(bool compat)
{
	struct scratch *s;
	u32 slot;

	s = event_begin(EV_KERNEL_SETNS, &slot);
	if (!s)
		return event_refused(slot);
	set_namespaces(s, compat);
	return event_end(s, slot);
}

SEC("lsm/capable")
int BPF_PROG(capable__setns, const struct cred *cred, struct user_namespace *ns, int cap, unsigned int opts, int ret)
{
	u64 call;

	HONOUR(ret);
	if (!may_concern(EV_KERNEL_SETNS))
		return 0;
	call = read_call();
	if (call != NR_SETNS && call != (NR_SETNS_COMPAT | CALL_COMPAT))
		return 0;
	return setns_event(call & CALL_COMPAT);
}

SEC("lsm/capable")
int HOOK_PROG(capable__process, EV_PROCESS_CAPABLE, const struct cred *cred, struct user_namespace *ns, int cap, unsigned int opts, int ret)
{
	set_num(s, NUM_CAPABILITY, cap);
	return decide(slot);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
