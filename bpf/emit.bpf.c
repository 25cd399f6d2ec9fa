// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Events on their way to user space: header, numbers and strings in one record, or a count of its loss. */
#include "engine.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Appends string `str` of the scratch to the record under construction, after `used` bytes; returns the bytes then used. */
__noinline int emit_string(u32 slot, u32 str, u32 used)
{
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);
	struct scratch *s = scratch_at(slot);
	u64 length, offset, at = MASKED(str, ABI_STR_SLOTS - 1), end = MASKED(used, SCRATCH_MASK);

	if (!s || !space || !(s->str_present & (1U << at)))
		return used;
	if (end > SCRATCH_DATA - ABI_PATH_MAX)
		return used;
	length = s->str_length[at];
	if (length > ABI_PATH_MAX - 1)
		length = ABI_PATH_MAX - 1;
	offset = MASKED(s->str_offset[at], SCRATCH_MASK);
	if (offset > SCRATCH_DATA - ABI_PATH_MAX)
		return used;
	bpf_probe_read_kernel(&space->data[end], MASKED(length, ABI_PATH_MAX - 1), &s->data[offset]);
	space->record.str_present |= 1U << at;
	space->record.str_offset[at] = end;
	space->record.str_length[at] = length;
	return end + length;
}

static __always_inline void emit_header(struct scratch *s, struct event_header *h)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct nsproxy *ns = BPF_CORE_READ(task, nsproxy);
	u32 uid, gid;

	read_ids(&uid, &gid);
	set_num(s, NUM_PROCESS_UID, uid);
	set_num(s, NUM_PROCESS_GID, gid);
	h->abi = ABI_VERSION;
	h->type = RECORD_EVENT;
	h->time = bpf_ktime_get_boot_ns();
	h->cpu = bpf_get_smp_processor_id();
	h->event = s->event;
	h->flags = s->flags;
	h->pid = s->record.pid;
	h->tid = bpf_get_current_pid_tgid();
	h->ppid = s->record.ppid;
	h->start_time = s->record.start_time;
	h->exec_id = s->record.exec_id;
	h->parent_exec_id = s->parent_exec_id;
	h->cgroup = bpf_get_current_cgroup_id();
	h->uid = uid;
	h->gid = gid;
	h->mnt_ns = ns ? BPF_CORE_READ(ns, mnt_ns, ns.inum) : 0;
	h->pid_ns = ns ? BPF_CORE_READ(ns, pid_ns_for_children, ns.inum) : 0;
	h->net_ns = ns ? BPF_CORE_READ(ns, net_ns, ns.inum) : 0;
	h->user_ns = BPF_CORE_READ(task, cred, user_ns, ns.inum);
	h->generation = s->generation;
	h->action = s->action;
	h->error = s->error;
	h->n_verdicts = s->n_groups;
	__builtin_memcpy(h->verdicts, s->verdict, sizeof(h->verdicts));
	bpf_get_current_comm(h->comm, sizeof(h->comm));
}

/* The strings of the event itself, then the executable and the arguments, which user space could otherwise miss. */
__noinline int emit_strings(u32 slot)
{
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);
	struct scratch *s = scratch_at(slot);
	u32 used = 0;

	if (!s || !space)
		return 0;
	space->record.str_present = 0;
	numbers_load(slot);
	path_resolve(slot, 0);
	path_resolve(slot, 1);
	string_load(slot, STR_FILE_FSTYPE);
	used = emit_string(slot, STR_FILE_PATH, used);
	used = emit_string(slot, STR_FILE_NEW_PATH, used);
	used = emit_string(slot, STR_FILE_FSTYPE, used);
	used = emit_string(slot, STR_NET_PEER_IP, used);
	used = emit_string(slot, STR_NET_LOCAL_IP, used);
	used = emit_string(slot, STR_NET_UNIX_PATH, used);
	used = emit_string(slot, STR_MODULE_NAME, used);
	used = emit_string(slot, STR_MOUNT_SOURCE, used);
	used = emit_string(slot, STR_XATTR_NAME, used);
	string_load(slot, STR_PROCESS_EXE);
	used = emit_string(slot, STR_PROCESS_EXE, used);
	string_load(slot, STR_PROCESS_ARGS);
	used = emit_string(slot, STR_PROCESS_ARGS, used);
	if (s->num_present & (1ULL << NUM_TARGET_PID)) {
		string_load(slot, STR_TARGET_EXE);
		used = emit_string(slot, STR_TARGET_EXE, used);
	}
	if (used <= SCRATCH_DATA - ABI_PATH_MAX) {
		cwd_load(slot);
		used = emit_string(slot, STR_PROCESS_CWD, used);
	}
	return used;
}

/* Writes the event in the scratch to a ring buffer, or counts its loss. */
__noinline int emit_record(u32 slot, u32 to_telemetry)
{
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);
	struct scratch *s = scratch_at(slot);
	struct exec_image *image;
	u32 buffer = !!to_telemetry, event;
	u64 *sequence, id;
	u64 size;
	long failed;

	if (!s || !space)
		return 0;
	id = s->record.exec_id;
	image = bpf_map_lookup_elem(&images, &id);
	s->parent_exec_id = image ? (image->pid == s->record.pid ? image->parent_exec_id : id) : 0;
	size = emit_strings(slot);
	emit_header(s, &space->record.header);
	space->record.num_present = s->num_present;
	__builtin_memcpy(space->record.num, s->num, sizeof(space->record.num));
	space->record.reserved = 0;
	size = MASKED(size, SCRATCH_MASK) + sizeof(struct event_record);
	space->record.header.size = size;
	sequence = bpf_map_lookup_elem(&sequences, &buffer);
	if (sequence) {
		__sync_fetch_and_add(sequence, 1);
		space->record.header.sequence = *(volatile u64 *)sequence;
	}
	if (to_telemetry)
		failed = bpf_ringbuf_output(&telemetry, space, size, 0);
	else
		failed = bpf_ringbuf_output(&alerts, space, size, 0);
	if (failed) {
		event = s->event;
		sequence = bpf_map_lookup_elem(&lost, &event);
		if (sequence)
			__sync_fetch_and_add(sequence, 1);
		count(to_telemetry ? CNT_TELEMETRY_LOST : CNT_ALERT_LOST);
	} else {
		count(to_telemetry ? CNT_TELEMETRY_WRITTEN : CNT_ALERT_WRITTEN);
	}
	return 0;
}
