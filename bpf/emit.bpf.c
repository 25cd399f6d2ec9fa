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

/* Folders that are looked up in the area of file.new_path: all of the event itself has been copied by now. */
static __always_inline u32 emit_folders(struct scratch *s, u32 slot, u32 used)
{
	u64 object = 1ULL << NUM_NEW_OBJECT, present = s->num_present & object, value = s->num[NUM_NEW_OBJECT];

	if (s->str_present & (1U << STR_FILE_NEW_PATH)) {
		path_aside(slot, STR_PROCESS_CWD, AT_FDCWD);
		used = emit_string(slot, STR_PROCESS_CWD, used);
	}
	if (s->num_present & (1ULL << NUM_DIRFD) && (s32)s->num[NUM_DIRFD] != AT_FDCWD) {
		path_aside(slot, STR_FILE_BASE, s->num[NUM_DIRFD]);
		used = emit_string(slot, STR_FILE_BASE, used);
	}
	s->num[NUM_NEW_OBJECT] = value;
	s->num_present = (s->num_present & ~object) | present;
	return used;
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
	load_unix_path(s, slot); /* before file.path, by way of which it goes */
	path_named(slot, 0);
	path_named(slot, 1);
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
	used = emit_string(slot, STR_LINK_TARGET, used);
	used = emit_string(slot, STR_CALL_TEXT, used);
	if (s->features & IMAGE_DETAILS) {
		ancestors_load(slot);
		used = emit_string(slot, STR_ANCESTORS, used);
		if (s->event == EV_FILE_OPEN || s->event == EV_FILE_OPEN_FAILED) {
			string_load(slot, STR_FILE_TEXT);
			used = emit_string(slot, STR_FILE_TEXT, used);
		}
	}
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
	if (s->features & IMAGE_DETAILS)
		used = emit_folders(s, slot, used);
	return used;
}

/* System calls of the 64-bit table with texts among their arguments: the registers of the first and of the second, counted from 1. */
#define TEXT(register) ((register) + 1)
#define TEXTS(first, second) (TEXT(first) | TEXT(second) << 4)

static __always_inline u32 texts_of(u32 call)
{
	switch (call) {
	case 83: /* mkdir */
	case 84: /* rmdir */
	case 87: /* unlink */
	case 90: /* chmod */
	case 92: /* chown */
	case 94: /* lchown */
	case 133: /* mknod */
	case 166: /* umount2 */
		return TEXT(0);
	case 258: /* mkdirat */
	case 259: /* mknodat */
	case 260: /* fchownat */
	case 263: /* unlinkat */
	case 268: /* fchmodat */
	case 313: /* finit_module */
	case 452: /* fchmodat2 */
		return TEXT(1);
	case 175: /* init_module */
		return TEXT(2);
	case 82: /* rename */
	case 86: /* link */
	case 88: /* symlink */
	case 165: /* mount */
		return TEXTS(0, 1);
	case 266: /* symlinkat */
		return TEXTS(0, 2);
	case 264: /* renameat */
	case 265: /* linkat */
	case 316: /* renameat2 */
		return TEXTS(1, 3);
	}
	return 0;
}

/* Appends a text of the caller's memory. It is there: the kernel has just read it. */
__noinline int emit_text(u32 slot, u32 str, u64 from, u32 used)
{
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);
	u64 at = MASKED(str, ABI_STR_SLOTS - 1), end = MASKED(used, SCRATCH_MASK);
	long n;

	if (!space || !from || end > SCRATCH_DATA - ABI_PATH_MAX)
		return used;
	n = bpf_probe_read_user_str(&space->data[end], ABI_PATH_MAX, (void *)from);
	if (n <= 0)
		return used;
	space->record.str_present |= 1U << at;
	space->record.str_offset[at] = end;
	space->record.str_length[at] = n - 1;
	return end + n - 1;
}

/* struct open_how of include/uapi/linux/openat2.h */
struct how {
	u64 flags;
	u64 mode;
	u64 resolve;
};

#define NR_OPENAT2 437

/* What the caller wrote, where the hook has seen only what that led to. The last strings of a record: they may find no room. */
__noinline int emit_given(u32 slot, u32 used)
{
	struct scratch *s = scratch_at(slot);
	struct how how;
	u32 texts;
	u64 call;

	if (!s)
		return used;
	call = s->num[NUM_CALL];
	if (!(s->num_present & (1ULL << NUM_CALL)) || call & CALL_COMPAT)
		return used;
	if (s->event == EV_FILE_OPEN || s->event == EV_FILE_OPEN_FAILED) {
		if (call == NR_OPENAT2 && !bpf_probe_read_user(&how, sizeof(how), (void *)s->num[NUM_CALL_ARG2])) {
			set_num(s, NUM_HOW_MODE, how.mode);
			set_num(s, NUM_HOW_RESOLVE, how.resolve);
		}
		return used;
	}
	if (s->event >= EV_PROCESS_EXECUTED)
		return used;
	texts = texts_of(call);
	if (texts)
		used = emit_text(slot, STR_CALL_TEXT, s->num[NUM_CALL_ARG0 + ((texts - 1) & 3)], used);
	if (texts >> 4)
		used = emit_text(slot, STR_CALL_TEXT_2, s->num[NUM_CALL_ARG0 + (((texts >> 4) - 1) & 3)], used);
	return used;
}

__noinline int emit_build(u32 slot)
{
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);
	struct scratch *s = scratch_at(slot);
	struct exec_image *image;
	u64 id, size;

	if (!s || !space)
		return 0;
	id = s->record.exec_id;
	image = bpf_map_lookup_elem(&images, &id);
	s->parent_exec_id = image ? (image->pid == s->record.pid ? image->parent_exec_id : id) : 0;
	if (s->features & IMAGE_DETAILS)
		details_load(slot);
	size = emit_strings(slot);
	if (s->features & IMAGE_DETAILS)
		size = emit_given(slot, size);
	emit_header(s, &space->record.header);
	space->record.num_present = s->num_present;
	__builtin_memcpy(space->record.num, s->num, sizeof(space->record.num));
	space->record.reserved = 0;
	size = MASKED(size, SCRATCH_MASK) + sizeof(struct event_record);
	space->record.header.size = size;
	return size;
}

/* Writes a record to the ring buffer of alerts, or counts its loss. `slot` is a scratch that the caller holds: the record's stream. */
static __always_inline void emit_write(struct emit_space *space, u32 slot)
{
	u64 size = MASKED(space->record.header.size - sizeof(struct event_record), SCRATCH_MASK) + sizeof(struct event_record), *sequence;

	space->record.header.cpu = bpf_get_smp_processor_id();
	space->record.header.stream = slot;
	sequence = bpf_map_lookup_elem(&sequences, &slot);
	if (sequence) {
		*sequence += 1;
		space->record.header.sequence = *sequence;
	}
	if (bpf_ringbuf_output(&alerts, space, size, 0))
		count_lost(space->record.header.event);
	else
		count(CNT_ALERT_WRITTEN);
}

/* The same for who holds no scratch. */
static __always_inline void emit_write_held(struct emit_space *space)
{
	struct scratch *s;
	u32 slot;

	s = scratch_take(&slot);
	if (!s) {
		count_lost(space->record.header.event);
		return;
	}
	emit_write(space, slot);
	scratch_give(s, slot);
}

#define ADDRESS 16

/* One side of a socket, put behind what the record holds. */
static __always_inline void held_side(struct emit_space *space, struct sock *sk, u32 str, u32 num, u32 port, const void *ip4, const void *ip6)
{
	u64 at = MASKED(space->record.header.size - sizeof(struct event_record), SCRATCH_MASK);
	u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	if (at > SCRATCH_DATA - ADDRESS)
		return;
	if (family == AF_INET)
		bpf_probe_read_kernel(&space->data[at], 4, ip4);
	else
		bpf_probe_read_kernel(&space->data[at], ADDRESS, ip6);
	space->record.str_offset[str] = at;
	space->record.str_length[str] = family == AF_INET ? 4 : ADDRESS;
	space->record.str_present |= 1U << str;
	space->record.num[num] = port;
	space->record.num_present |= 1ULL << num;
	space->record.header.size += ADDRESS;
}

/* Both sides of the socket of a descriptor as they are now; what the caller asked to connect to stays. */
static __always_inline void held_sides(struct emit_space *space, struct sock *sk)
{
	u16 family = BPF_CORE_READ(sk, __sk_common.skc_family), port = BPF_CORE_READ(sk, __sk_common.skc_num);

	if (family != AF_INET && family != AF_INET6)
		return;
	held_side(space, sk, STR_NET_LOCAL_IP, NUM_NET_LOCAL_PORT, port, __builtin_preserve_access_index(&sk->__sk_common.skc_rcv_saddr),
		  __builtin_preserve_access_index(&sk->__sk_common.skc_v6_rcv_saddr));
	port = __builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (!port || space->record.str_present & (1U << STR_NET_PEER_IP))
		return;
	held_side(space, sk, STR_NET_PEER_IP, NUM_NET_PEER_PORT, port, __builtin_preserve_access_index(&sk->__sk_common.skc_daddr),
		  __builtin_preserve_access_index(&sk->__sk_common.skc_v6_daddr));
}

static __always_inline void held_num(struct emit_space *space, u32 num, u64 value)
{
	space->record.num[num] = value;
	space->record.num_present |= 1ULL << num;
}

#define NR_SOCKETPAIR 53

/* The two descriptors that a call has made. */
static __always_inline void held_pair(struct emit_space *space)
{
	u32 pair[2];

	if (space->record.num[NUM_CALL] != NR_SOCKETPAIR || bpf_probe_read_user(pair, sizeof(pair), (void *)space->record.num[NUM_CALL_ARG3]))
		return;
	held_num(space, NUM_PAIR_0, pair[0]);
	held_num(space, NUM_PAIR_1, pair[1]);
}

static __always_inline void held_socket(struct emit_space *space, s64 result)
{
	u32 event = space->record.header.event;
	struct sock *sk;

	if (event == EV_NET_CREATE && result >= 0)
		held_pair(space);
	if (event < EV_NET_BIND || event > EV_NET_SEND)
		return;
	if (event == EV_NET_ACCEPT) {
		sk = read_sock(read_fd((s32)space->record.num[NUM_CALL_ARG0]));
		if (sk) {
			held_num(space, NUM_QUEUE_LENGTH, BPF_CORE_READ(sk, sk_ack_backlog));
			held_num(space, NUM_QUEUE_MAX, BPF_CORE_READ(sk, sk_max_ack_backlog));
		}
	}
	sk = read_sock(read_fd(event == EV_NET_ACCEPT ? (s32)result : (s32)space->record.num[NUM_CALL_ARG0]));
	if (sk)
		held_sides(space, sk);
}

/* `known` 0: the task ends without having returned. 1: there was a record. */
__noinline int held_result(s64 result, u32 known)
{
	u64 key = bpf_get_current_pid_tgid();
	u32 index = key & (PENDING_ENTRIES - 1), *number;
	struct emit_space *space = bpf_map_lookup_elem(&held, &key);

	if (!space)
		return 0;
	if (!known) {
		space->record.header.flags |= EVENT_AT_ONCE;
		emit_write_held(space);
	} else if (space->record.reserved & (result < 0 ? REPORT_FAILURE : REPORT_SUCCESS)) {
		space->record.num[NUM_RESULT] = result;
		space->record.num_present |= 1ULL << NUM_RESULT;
		space->record.header.time = bpf_ktime_get_boot_ns();
		held_socket(space, result);
		emit_write_held(space);
	}
	bpf_map_delete_elem(&held, &key);
	number = bpf_map_lookup_elem(&pending, &index);
	if (number)
		__sync_fetch_and_add(number, -1);
	return 1;
}

/* Keeps the built record until the system call returns; -1: there is no room. */
static __always_inline int held_put(struct emit_space *space, u32 slot, u32 results)
{
	u64 key = bpf_get_current_pid_tgid();
	u32 index = key & (PENDING_ENTRIES - 1), *number = bpf_map_lookup_elem(&pending, &index);
	struct emit_space *earlier;

	if (!number)
		return -1;
	space->record.reserved = results;
	space->record.header.flags |= EVENT_RESULT;
	earlier = bpf_map_lookup_elem(&held, &key);
	if (earlier) {
		/* Of several in one call the last is kept. One of another call is there where that call's end was not seen, because its
		 * program went, or another tool's came to the same function, in between.
		 */
		if (earlier->record.header.event != space->record.header.event || earlier->record.num[NUM_CALL] != space->record.num[NUM_CALL]) {
			earlier->record.header.flags |= EVENT_AT_ONCE;
			emit_write(earlier, slot);
		}
		return bpf_map_update_elem(&held, &key, space, BPF_EXIST) ? -1 : 0;
	}
	if (bpf_map_update_elem(&held, &key, space, BPF_NOEXIST)) {
		count(CNT_HELD_FULL);
		return -1;
	}
	__sync_fetch_and_add(number, 1);
	return 0;
}

#define WAY_NONE 0  /* the result is not asked for, or the event is none of its system call */
#define WAY_NOW 1   /* the result is known */
#define WAY_HOLD 2
#define WAY_AT_ONCE 3 /* it will not be */
#define WAY_ASYNC 4

static __always_inline u32 result_way(struct scratch *s)
{
	u64 call, event = s->event;
	bool within = event == EV_FILE_OPEN_FAILED || event == EV_NET_RECV; /* a system call, at the end of a function that it calls */
	u64 *what;
	u32 number;

	if (event == EV_PROCESS_EXIT || event == EV_PROCESS_EXECUTED)
		return s->report & REPORT_SUCCESS ? WAY_NOW : WAY_NONE;
	if (event > EV_PROCESS_EXECUTED) {
		bool failed = (s64)s->num[NUM_RESULT] < 0;

		if (!(s->report & (failed ? REPORT_FAILURE : REPORT_SUCCESS)))
			return WAY_NONE;
		if (!within)
			return WAY_NOW;
	}
	call = read_call();
	if (call == NO_CALL || (u32)call == NR_IO_URING_ENTER)
		return WAY_ASYNC;
	if (call & CALL_COMPAT)
		return WAY_AT_ONCE;
	number = call;
	what = bpf_map_lookup_elem(&calls, &number);
	if (!what || !(*what & (1ULL << (event & 63))))
		return WAY_NONE;
	if (within)
		return WAY_NOW;
	return *what & CALL_SENSED ? WAY_HOLD : WAY_AT_ONCE;
}

__noinline int report(u32 slot)
{
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);
	struct scratch *s = scratch_at(slot);
	u32 way = WAY_NONE, flags = 0;

	if (!s || !space)
		return 0;
	if (s->report & (REPORT_SUCCESS | REPORT_FAILURE))
		way = result_way(s);
	if (s->report & REPORT_DECISION)
		flags |= EVENT_DECISION;
	if (way == WAY_NONE && !flags)
		return 0;
	emit_build(slot);
	if (way == WAY_HOLD && held_put(space, slot, s->report))
		way = WAY_AT_ONCE;
	if (way == WAY_NOW)
		flags |= EVENT_RESULT;
	else if (way == WAY_AT_ONCE)
		flags |= EVENT_RESULT | EVENT_AT_ONCE;
	else if (way == WAY_ASYNC)
		flags |= EVENT_RESULT | EVENT_AT_ONCE | EVENT_ASYNC;
	if (flags) {
		space->record.header.flags = s->flags | flags;
		emit_write(space, slot);
	}
	return 0;
}
