// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Records of processes and of the programs they have executed: made at fork, exec and first sight, buried after the last holder. */
#include "engine.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define BURIAL_TRIES 4

/* One holder less; the last one buries the image, and where the graveyard is full, the longest dead makes room. */
__noinline int image_release(u64 exec_id)
{
	struct exec_image *image = bpf_map_lookup_elem(&images, &exec_id);
	u64 oldest;
	u32 i;

	if (!image)
		return 0;
	__sync_fetch_and_add(&image->refs, -1);
	if (*(volatile u32 *)&image->refs)
		return 0;
	for (i = 0; i < BURIAL_TRIES; i++) {
		if (!bpf_map_push_elem(&graveyard, &exec_id, 0))
			return 0;
		if (!bpf_map_pop_elem(&graveyard, &oldest))
			image_forget(oldest);
	}
	/* Others took the room each time: it is forgotten at once. */
	image_forget(exec_id);
	return 0;
}

#define IMAGE_DEPTH_SHIFT 16

/* Puts an image together in image_spaces[slot] from a task, with its executable's path resolved. */
static __always_inline struct exec_image *image_collect(struct scratch *s, u32 slot, struct task_struct *task)
{
	struct exec_image *image = bpf_map_lookup_elem(&image_spaces, &slot);
	struct file *file = READ(task, mm, exe_file);
	const struct cred *cred;
	u32 length;

	if (!image)
		return NULL;
	image->time = bpf_ktime_get_boot_ns();
	image->lineage[0] = 0;
	image->lineage[1] = 0;
	image->self_bits[0] = 0;
	image->self_bits[1] = 0;
	image->refs = 1;
	image->generation = 0;
	image->name_bits = 0;
	image->names_generation = 0;
	image->flags = 0;
	image->exe_len = 0;
	image->args_len = 0;
	image->exe_ino = 0;
	image->exe_dev = 0;
	image->pid = READ(task, tgid);
	image->uid = READ(task, cred, euid.val);
	image->gid = READ(task, cred, egid.val);
	cred = READ(task, cred);
	image->caps[0] = read_caps(cred);
	image->caps[1] = read_cap_set(__builtin_preserve_access_index(&cred->cap_permitted));
	image->caps[2] = read_cap_set(__builtin_preserve_access_index(&cred->cap_inheritable));
	__builtin_memset(image->namespaces, 0, sizeof(image->namespaces));
	namespaces_read(image->namespaces, task);
	bpf_probe_read_kernel_str(image->comm, sizeof(image->comm), &task->comm);
	if (!file)
		return image;
	set_path(s, 0, READ(file, f_path.dentry), READ(file, f_path.mnt));
	s->mnt_ns = (u64)READ(task, nsproxy, mnt_ns);
	path_named(slot, 0);
	if (!has_str(s, STR_FILE_PATH))
		return image;
	image->exe_ino = READ(file, f_inode, i_ino);
	image->exe_dev = READ(file, f_inode, i_sb, s_dev);
	if (!READ(file, f_inode, i_nlink))
		image->flags |= EXEC_EXE_DELETED;
	if (has_num(s, NUM_FILE_MEMFD))
		image->flags |= EXEC_EXE_MEMFD;
	if (s->str_uncertain & STR_BIT(STR_FILE_PATH))
		image->flags |= EXEC_EXE_UNCERTAIN;
	length = s->str_length[STR_FILE_PATH];
	if (length > ABI_PATH_MAX - 1)
		length = ABI_PATH_MAX - 1;
	image->exe_len = length;
	if (length < ABI_EXE_SHORT)
		bpf_probe_read_kernel(image->exe, MASKED(length, ABI_EXE_SHORT - 1), &s->data[s->str_offset[STR_FILE_PATH] & 8191]);
	return image;
}

/* Arguments that do not fit into the image, from AREA_LOADED to where they are kept. Without room they are not known. */
static __always_inline void arguments_store(struct scratch *s, u64 id, struct exec_image *image, u32 length)
{
	if (length >= ABI_ARGS_SHORT && bpf_map_update_elem(&long_args, &id, &s->data[AREA_LOADED], BPF_ANY)) {
		image->flags |= EXEC_ARGS_TRUNCATED;
		length = 0;
		count(CNT_RECORD_FAILED);
	}
	barrier();
	*(volatile u32 *)&image->args_len = length;
}

/* Keeps what image_collect put together; the long ones of `arguments` are in AREA_LOADED. */
static __always_inline int image_store(struct scratch *s, u64 id, struct exec_image *image, u32 arguments)
{
	if (image->exe_len >= ABI_EXE_SHORT &&
	    bpf_map_update_elem(&long_exes, &id, &s->data[s->str_offset[STR_FILE_PATH] & 8191], BPF_ANY)) {
		image->flags |= EXEC_EXE_UNCERTAIN;
		count(CNT_RECORD_FAILED);
	}
	arguments_store(s, id, image, arguments);
	if (!bpf_map_update_elem(&images, &id, image, BPF_ANY))
		return 0;
	if (image->exe_len >= ABI_EXE_SHORT)
		bpf_map_delete_elem(&long_exes, &id);
	if (image->args_len >= ABI_ARGS_SHORT)
		bpf_map_delete_elem(&long_args, &id);
	return -1;
}

/* The arguments of the current process, from its own stack, into the image or AREA_LOADED; their length. */
static __always_inline u32 image_arguments(struct scratch *s, struct exec_image *image, struct task_struct *task)
{
	u64 start = READ(task, mm, arg_start);
	u64 length = READ(task, mm, arg_end) - start;

	if (!length)
		return 0;
	if (length > ABI_ARGS_MAX) {
		length = ABI_ARGS_MAX;
		image->flags |= EXEC_ARGS_TRUNCATED;
	}
	if (length <= ABI_ARGS_SHORT ? !bpf_probe_read_user(image->args, MASKED(length, 2 * ABI_ARGS_SHORT - 1), (void *)start)
				     : !bpf_probe_read_user(&s->data[AREA_LOADED], MASKED(length, 2 * ABI_ARGS_MAX - 1), (void *)start))
		return length - 1;
	image->flags |= EXEC_ARGS_TRUNCATED;
	return 0;
}

/* The arguments of the acting process where it is older than its record: only it can read them. */
__noinline int arguments_load(u32 slot, u64 exec_id)
{
	struct exec_image *image = bpf_map_lookup_elem(&images, &exec_id);
	struct task_struct *task = (void *)bpf_get_current_task();
	struct scratch *s = scratch_at(slot);

	if (s && image && image->flags & EXEC_FROM_ITER && !image->args_len)
		arguments_store(s, exec_id, image, image_arguments(s, image, task));
	return 0;
}

static __always_inline void record_fill(struct scratch *s, struct task_struct *task, u64 exec_id)
{
	struct task_struct *leader = READ(task, group_leader);

	s->record_version = RECORD_OWN;
	__builtin_memset(s->record.concern, 0, sizeof(s->record.concern));
	s->record.workload = WORKLOAD_UNKNOWN;
	s->record.generation = 0;
	s->record.uid = READ(task, cred, euid.val);
	s->record.gid = READ(task, cred, egid.val);
	s->record.flags = 0;
	s->record.cgroup = read_cgroup(task);
	s->record.exec_id = exec_id;
	s->record.start_time = READ(leader, start_boottime);
	s->record.pid = READ(task, tgid);
	s->record.ppid = READ(task, real_parent, tgid);
}

/* What rules could deny to the process before, from its earlier record; nothing where it had none. */
static __always_inline void record_enforcing(struct scratch *s, const struct process_record *earlier)
{
	if (earlier)
		__builtin_memcpy(s->record.enforcing, earlier->enforcing, sizeof(s->record.enforcing));
	else
		__builtin_memset(s->record.enforcing, 0, sizeof(s->record.enforcing));
}

/* The program of a process becomes the parent of an image that has none yet. `whole`: nothing that we know of was between the two. */
__noinline int record_adopt(u64 exec_id, u32 ppid, u32 whole)
{
	struct exec_image *image = bpf_map_lookup_elem(&images, &exec_id), *parent_image;
	struct process_record *parent;
	u64 parent_id;

	if (!image || image->parent_exec_id || !(image->flags & EXEC_PARENT_UNKNOWN))
		return 0;
	parent = bpf_map_lookup_elem(&processes, &ppid);
	if (!parent)
		return 0;
	parent_id = parent->exec_id;
	parent_image = bpf_map_lookup_elem(&images, &parent_id);
	if (!parent_image || parent_id == exec_id)
		return 0;
	__sync_fetch_and_add(&parent_image->refs, 1);
	image->parent_exec_id = parent_id;
	if (whole)
		image->flags &= ~EXEC_PARENT_UNKNOWN;
	return 0;
}

/* A record for a process that was there before us, whose fork we missed, or whose program there was no memory for: `at` is the
 * address of its task.
 */
__noinline int record_create(u32 slot, u64 at)
{
	struct scratch *s = scratch_at(slot);
	struct process_record *earlier, *enforcing = NULL;
	struct exec_image *image;
	struct task_struct *task;
	u32 pid, ppid, arguments = 0;
	u64 id;

	if (!s)
		return -1;
	task = (void *)at;
	scratch_clear(s, EV_NONE);
	pid = READ(task, tgid);
	ppid = READ(task, real_parent, tgid);
	id = read_exec_id(READ(task, group_leader, start_boottime), pid);
	image = image_collect(s, slot, task);
	if (!image)
		return -1;
	image->flags |= EXEC_FROM_ITER;
	image->parent_exec_id = 0;
	/* Nothing is before the first process and the kernel's threads. */
	if (ppid && ppid != pid)
		image->flags |= EXEC_PARENT_UNKNOWN;
	if (pid == bpf_get_current_pid_tgid() >> 32)
		arguments = image_arguments(s, image, task);
	record_fill(s, task, id);
	earlier = bpf_map_lookup_elem(&processes, &pid);
	if (earlier && earlier->start_time == s->record.start_time) {
		if (earlier->exec_id)
			return 0; /* another thread was faster */
		enforcing = earlier;
	}
	record_enforcing(s, enforcing);
	s->record.flags = RECORD_FROM_ITER;
	/* An earlier record of the same process has the same id; what was long of its program would be left behind. */
	bpf_map_delete_elem(&long_exes, &id);
	bpf_map_delete_elem(&long_args, &id);
	if (image_store(s, id, image, arguments)) {
		count(CNT_RECORD_FAILED);
		return -1;
	}
	/* The iterator sees the processes that were there before us. Others have a record from their fork on: where one is missed, programs
	 * that the process has executed may be missed too.
	 */
	record_adopt(id, ppid, pid != bpf_get_current_pid_tgid() >> 32);
	if (bpf_map_update_elem(&processes, &pid, &s->record, BPF_ANY)) {
		image_release(id);
		count(CNT_RECORD_FAILED);
		return -1;
	}
	record_changed(pid);
	return 0;
}

/* Whether a program is the same file as the one that it was executed from. */
static __always_inline bool image_repeats(const struct exec_image *image)
{
	u64 parent_id = image->parent_exec_id;
	struct exec_image *parent = bpf_map_lookup_elem(&images, &parent_id);

	return parent && image->exe_ino && parent->exe_ino == image->exe_ino && parent->exe_dev == image->exe_dev &&
	       parent->exe_len == image->exe_len && !((parent->flags | image->flags) & EXEC_EXE_UNCERTAIN);
}

/* A new image and a changed record for the current process, which has just executed a program. */
__noinline int record_exec(u32 slot, u64 old_id)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct scratch *s = scratch_at(slot);
	struct process_record *record;
	struct exec_image *image, *old;
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	u32 depth = 0, arguments;
	u64 id;

	if (!s)
		return -1;
	scratch_clear(s, EV_NONE);
	s->features = 0;
	image = image_collect(s, slot, task);
	if (!image)
		return -1;
	arguments = image_arguments(s, image, task);
	id = read_exec_id(image->time, pid);
	image->parent_exec_id = old_id;
	old = bpf_map_lookup_elem(&images, &old_id);
	if (old) {
		depth = (old->flags >> IMAGE_DEPTH_SHIFT) + 1;
		if (depth > LINEAGE_DEPTH) {
			/* Too long a chain: the last program is left out of it, which loses nothing where it is the one before it again, as of
			 * daemons that reload by executing themselves.
			 */
			depth = LINEAGE_DEPTH;
			if (!image_repeats(old))
				image->flags |= EXEC_PARENT_UNKNOWN;
			image->parent_exec_id = old->parent_exec_id;
		}
	}
	image->flags |= depth << IMAGE_DEPTH_SHIFT;
	if (!old)
		image->flags |= EXEC_PARENT_UNKNOWN;
	if (image_store(s, id, image, arguments))
		return -1;
	if (image->parent_exec_id) {
		u64 parent_id = image->parent_exec_id;
		struct exec_image *parent = bpf_map_lookup_elem(&images, &parent_id);

		if (parent)
			__sync_fetch_and_add(&parent->refs, 1);
	}
	record = bpf_map_lookup_elem(&processes, &pid);
	record_enforcing(s, record);
	record_fill(s, task, id);
	if (bpf_map_update_elem(&processes, &pid, &s->record, BPF_ANY)) {
		image_release(id);
		return -1;
	}
	record_changed(pid);
	if (old)
		image_release(old_id);
	return 0;
}
