// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Events on their way to user space: header, strings and numbers in one record, or a count of its loss.
 *
 *   emit_build  strings into the body; numbers stay in the scratch
 *   held_put    the record waits for the result of its system call, with its numbers; held_take brings it back
 *   emit_pack   what is present of the numbers behind the strings, and the header
 *   emit_write  to its ring buffer
 */
#include "engine.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Notes that string `str` ends the text of the record so far, `used` bytes before it and `length` of its own; returns the bytes then used. */
static __always_inline u32 emit_noted(struct emit_space *space, u64 str, u32 used, u32 length)
{
	u64 n = space->header.n_strings;

	space->string[MASKED(n, ABI_STR_SLOTS - 1)] = str | length << STRING_LENGTH_SHIFT;
	space->header.n_strings = n + 1;
	return used + length;
}

/* Appends string `str` of the scratch to the record under construction, after `used` bytes; returns the bytes then used. */
__noinline int emit_string(u32 slot, u32 str, u32 used)
{
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);
	struct scratch *s = scratch_at(slot);
	u64 length, offset, at = MASKED(str, ABI_STR_SLOTS - 1), end = MASKED(used, SCRATCH_MASK);

	if (!s || !space || !has_str(s, at))
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
	return emit_noted(space, at, end, length);
}

static __always_inline void emit_header(struct scratch *s, struct event_header *h)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct nsproxy *ns = BPF_CORE_READ(task, nsproxy);
	u32 uid, gid;

	read_ids(&uid, &gid);
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
	h->workload = s->record.workload;
	bpf_get_current_comm(h->comm, sizeof(h->comm));
}

/* Folders that are looked up in the area of file.new_path: all of the event itself has been copied by now. */
static __always_inline u32 emit_folders(struct scratch *s, u32 slot, u32 used)
{
	bool present = has_num(s, NUM_NEW_OBJECT);
	u64 value = s->num[NUM_NEW_OBJECT];

	if (has_str(s, STR_FILE_NEW_PATH)) {
		path_aside(slot, STR_PROCESS_CWD, AT_FDCWD);
		used = emit_string(slot, STR_PROCESS_CWD, used);
	}
	if (has_num(s, NUM_DIRFD) && (s32)s->num[NUM_DIRFD] != AT_FDCWD) {
		path_aside(slot, STR_FILE_BASE, s->num[NUM_DIRFD]);
		used = emit_string(slot, STR_FILE_BASE, used);
	}
	forget_num(s, NUM_NEW_OBJECT);
	if (present)
		set_num(s, NUM_NEW_OBJECT, value);
	return used;
}

/* The texts and structures of a sensor. */
__noinline int emit_sensor(u32 slot, u32 used)
{
	u32 i;

	for (i = 0; i < 2 * SENSOR_ARGS; i++)
		used = emit_string(slot, STR_SENSOR_0 + i, used);
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
	space->header.n_strings = 0;
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
	if (s->event >= EV_SENSOR)
		used = emit_sensor(slot, used);
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
	if (has_num(s, NUM_TARGET_PID)) {
		string_load(slot, STR_TARGET_EXE);
		used = emit_string(slot, STR_TARGET_EXE, used);
		string_load(slot, STR_TARGET_CGROUP);
		used = emit_string(slot, STR_TARGET_CGROUP, used);
	}
	if (used <= SCRATCH_DATA - ABI_PATH_MAX) {
		cwd_load(slot);
		used = emit_string(slot, STR_PROCESS_CWD, used);
	}
	if (s->features & IMAGE_DETAILS)
		used = emit_folders(s, slot, used);
	return used;
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
	return emit_noted(space, at, end, n - 1);
}

/* struct open_how of include/uapi/linux/openat2.h */
struct how {
	u64 flags;
	u64 mode;
	u64 resolve;
};

#define NR_OPENAT2 437

/* An argument of the current system call, counted from 1. */
static __always_inline u64 emit_argument(struct scratch *s, u32 number)
{
	return s->num[MASKED(NUM_CALL_ARG0 - 1 + number, ABI_NUM_SLOTS - 1)];
}

/* What the caller wrote, where the hook has seen only what that led to. The last strings of a record: they may find no room. */
__noinline int emit_given(u32 slot, u32 used)
{
	struct scratch *s = scratch_at(slot);
	struct call *call;
	struct how how;
	u32 number;

	if (!s)
		return used;
	number = s->num[NUM_CALL];
	if (!has_num(s, NUM_CALL) || number & CALL_COMPAT)
		return used;
	if (s->event == EV_FILE_OPEN || s->event == EV_FILE_OPEN_FAILED) {
		if (number == NR_OPENAT2 && !bpf_probe_read_user(&how, sizeof(how), (void *)s->num[NUM_CALL_ARG2])) {
			set_num(s, NUM_HOW_MODE, how.mode);
			set_num(s, NUM_HOW_RESOLVE, how.resolve);
		}
		return used;
	}
	if (s->event >= EV_DONE)
		return used;
	call = bpf_map_lookup_elem(&calls, &number);
	if (!call || !event_in(call->events, s->event))
		return used;
	if (call->text[0])
		used = emit_text(slot, STR_CALL_TEXT, emit_argument(s, call->text[0]), used);
	if (call->text[1])
		used = emit_text(slot, STR_CALL_TEXT_2, emit_argument(s, call->text[1]), used);
	return used;
}

/* Puts header and strings of the record of the event together in emit_spaces[slot]. */
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
	emit_header(s, &space->header);
	space->header.text_size = size;
	__builtin_memcpy(space->verdict, s->verdict, sizeof(space->verdict));
	return 0;
}

/* The verdicts, and what strings there are. */
__noinline int emit_tail(u32 slot, u32 at)
{
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);
	u64 begin = AT_BODY(at), n;
	u32 i;

	if (!space || begin > BODY_MAX)
		return at;
	n = space->header.n_verdicts;
	for (i = 0; i < ABI_MAX_GROUPS; i++) {
		if (i >= n)
			break;
		store_half(&space->data[begin + i * 4], space->verdict[i]);
	}
	begin = AT_BODY(begin + n * 4);
	if (begin > BODY_MAX)
		return at;
	n = space->header.n_strings;
	for (i = 0; i < ABI_STR_SLOTS; i++) {
		if (i >= n)
			break;
		store_half(&space->data[begin + i * 4], space->string[i]);
	}
	return begin + n * 4;
}

/* Everything behind the strings, from the scratch's numbers; sets the size. The order is told in abi.h. */
__noinline int emit_pack(u32 slot)
{
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);
	struct scratch *s = scratch_at(slot);
	u32 word, words = 0, at;
	u64 begin;

	if (!s || !space)
		return 0;
	begin = MASKED(space->header.text_size, SCRATCH_MASK);
	for (word = 0; word < ABI_NUM_WORDS; word++) {
		u64 present = s->num_present[word];

		if (!word)
			present &= ~0ULL << ABI_NUM_IN_HEADER;
		if (!present)
			continue;
		words |= 1U << word;
		store_word(&space->data[MASKED(begin, BODY_MASK / 2)], present);
		begin += sizeof(present);
	}
	at = begin;
	for (word = ABI_NUM_WIDE / 64; word < ABI_NUM_WORDS; word++) {
		if (words & (1U << word))
			at = emit_wide(slot, word, at);
	}
	for (word = 0; word < ABI_NUM_WIDE / 64; word++) {
		if (words & (1U << word))
			at = emit_narrow(slot, word, at);
	}
	at = emit_tail(slot, at);
	space->header.num_words = words;
	space->header.size = sizeof(struct event_header) + at;
	return 0;
}

/* Which ring buffer a record is for: that of the strictest rule that it speaks for. What waited for a result did so for those that are confirmed,
 * mostly.
 */
static __always_inline u32 emit_ring(u32 report, bool result)
{
	if (report & TO_CANDIDATES && (result || !(report & TO_DECISIONS)))
		return RING_CANDIDATES;
	return report & TO_DECISIONS ? RING_DECISIONS : RING_TELEMETRY;
}

/* Writes a record to its ring buffer, or counts its loss. `slot` is a scratch that the caller holds: the record's stream. */
static __always_inline void emit_write(struct emit_space *space, u32 slot, u32 ring)
{
	struct sequence *sequence = bpf_map_lookup_elem(&sequences, &slot);
	u64 size;
	long lost;

	emit_pack(slot);
	size = MASKED(space->header.size - sizeof(struct event_header), BODY_MASK);
	if (size > BODY_MAX)
		size = BODY_MAX;
	size += sizeof(struct event_header);
	space->header.cpu = bpf_get_smp_processor_id();
	space->header.stream = slot;
	if (sequence) {
		u64 *last = &sequence->last[ring < RINGS ? ring : 0];

		*last += 1;
		space->header.sequence = *last;
	}
	if (ring == RING_DECISIONS)
		lost = bpf_ringbuf_output(&decisions, &space->header, size, 0);
	else if (ring == RING_CANDIDATES)
		lost = bpf_ringbuf_output(&candidates, &space->header, size, 0);
	else
		lost = bpf_ringbuf_output(&telemetry, &space->header, size, 0);
	if (lost)
		count_lost(space->header.event, ring);
	else
		count(CNT_DECISIONS_WRITTEN + ring);
}

#define ADDRESS 16

/* One side of a socket, put behind the strings of the record; its port is for the caller to set. */
static __always_inline void held_side(struct emit_space *space, u32 family, u32 str, const void *ip4, const void *ip6)
{
	u64 at = MASKED(space->header.text_size, SCRATCH_MASK);
	u32 length = family == AF_INET ? 4 : ADDRESS;

	if (at > SCRATCH_DATA - ADDRESS)
		return;
	if (family == AF_INET)
		bpf_probe_read_kernel(&space->data[at], 4, ip4);
	else
		bpf_probe_read_kernel(&space->data[at], ADDRESS, ip6);
	space->header.text_size = emit_noted(space, str, at, length);
}

static __always_inline bool held_string(const struct emit_space *space, u32 str)
{
	u32 i;

	for (i = 0; i < ABI_STR_SLOTS; i++) {
		if (i >= space->header.n_strings)
			return false;
		if ((space->string[i] & STRING_SLOT_MASK) == str)
			return true;
	}
	return false;
}

/* Both sides of the socket of a descriptor as they are now; what the caller asked to connect to stays. */
static __always_inline void held_sides(struct scratch *s, struct emit_space *space, struct sock *sk)
{
	u16 family = BPF_CORE_READ(sk, __sk_common.skc_family), port;

	if (family != AF_INET && family != AF_INET6)
		return;
	held_side(space, family, STR_NET_LOCAL_IP, __builtin_preserve_access_index(&sk->__sk_common.skc_rcv_saddr),
		  __builtin_preserve_access_index(&sk->__sk_common.skc_v6_rcv_saddr));
	set_num(s, NUM_NET_LOCAL_PORT, BPF_CORE_READ(sk, __sk_common.skc_num));
	port = __builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (!port || held_string(space, STR_NET_PEER_IP))
		return;
	held_side(space, family, STR_NET_PEER_IP, __builtin_preserve_access_index(&sk->__sk_common.skc_daddr),
		  __builtin_preserve_access_index(&sk->__sk_common.skc_v6_daddr));
	set_num(s, NUM_NET_PEER_PORT, port);
}

#define NR_SOCKETPAIR 53

/* The two descriptors that a call has made. */
static __always_inline void held_pair(struct scratch *s)
{
	u32 pair[2];

	if (s->num[NUM_CALL] != NR_SOCKETPAIR || bpf_probe_read_user(pair, sizeof(pair), (void *)s->num[NUM_CALL_ARG3]))
		return;
	set_num(s, NUM_PAIR_0, pair[0]);
	set_num(s, NUM_PAIR_1, pair[1]);
}

/* What the result of a call adds to the record of a socket. */
__noinline int held_socket(u32 slot, s64 result)
{
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);
	struct scratch *s = scratch_at(slot);
	struct sock *sk;
	u32 event;

	if (!s || !space)
		return 0;
	event = space->header.event;
	if (event == EV_NET_CREATE && result >= 0)
		held_pair(s);
	if (event < EV_NET_BIND || event > EV_NET_SEND)
		return 0;
	if (event == EV_NET_ACCEPT) {
		sk = read_sock(read_fd((s32)s->num[NUM_CALL_ARG0]));
		if (sk) {
			set_num(s, NUM_QUEUE_LENGTH, BPF_CORE_READ(sk, sk_ack_backlog));
			set_num(s, NUM_QUEUE_MAX, BPF_CORE_READ(sk, sk_max_ack_backlog));
		}
	}
	sk = read_sock(read_fd(event == EV_NET_ACCEPT ? (s32)result : (s32)s->num[NUM_CALL_ARG0]));
	if (sk)
		held_sides(s, space, sk);
	return 0;
}

/* Brings a record that was held back into emit_spaces[slot], and its numbers into the scratch. */
static __always_inline void held_take(struct scratch *s, struct emit_space *space, const struct held_record *record)
{
	u64 size = MASKED(record->header.text_size, SCRATCH_MASK);

	if (size > HELD_TEXT)
		size = HELD_TEXT;
	__builtin_memcpy(s->num_present, record->num_present, sizeof(s->num_present));
	bpf_probe_read_kernel(s->num, sizeof(s->num), record->num);
	bpf_probe_read_kernel(space->string, sizeof(space->string), record->string);
	__builtin_memcpy(space->verdict, record->verdict, sizeof(space->verdict));
	__builtin_memcpy(&space->header, &record->header, sizeof(space->header));
	bpf_probe_read_kernel(space->data, size, record->text);
}

/* Writes the record that is held for the task, of a call that has not returned or whose end was not seen. What is in the scratch is lost. */
__noinline int held_flush(u32 slot)
{
	u64 key = bpf_get_current_pid_tgid();
	struct held_record *record = bpf_map_lookup_elem(&held, &key);
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);
	struct scratch *s = scratch_at(slot);

	if (!s || !space || !record)
		return 0;
	held_take(s, space, record);
	space->header.flags |= EVENT_AT_ONCE;
	emit_write(space, slot, emit_ring(record->results, true));
	return 0;
}

/* The same, with memory of its own. */
static __always_inline void held_write(const struct held_record *record)
{
	struct scratch *s;
	u32 slot;

	s = scratch_take(&slot);
	if (!s) {
		count_lost(record->header.event, emit_ring(record->results, true));
		return;
	}
	held_flush(slot);
	scratch_give(s, slot);
}

/* Writes the record that is held for the task now that its call has returned. What is in the scratch is lost. */
__noinline int held_finish(u32 slot, s64 result)
{
	u64 key = bpf_get_current_pid_tgid();
	struct held_record *record = bpf_map_lookup_elem(&held, &key);
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);
	struct scratch *s = scratch_at(slot);

	if (!s || !space || !record)
		return 0;
	held_take(s, space, record);
	set_num(s, NUM_RESULT, result);
	space->header.time = bpf_ktime_get_boot_ns();
	held_socket(slot, result);
	emit_write(space, slot, emit_ring(record->results, true));
	return 0;
}

/* `known` 0: the task ends without having returned. 1: there was a record. */
__noinline int held_result(s64 result, u32 known)
{
	u64 key = bpf_get_current_pid_tgid();
	u32 index = key & (PENDING_ENTRIES - 1), *number, slot;
	struct held_record *record = bpf_map_lookup_elem(&held, &key);
	struct scratch *s;

	if (!record)
		return 0;
	if (!known) {
		held_write(record);
	} else if (record->results & (result < 0 ? REPORT_FAILURE : REPORT_SUCCESS)) {
		s = scratch_take(&slot);
		if (!s) {
			count_lost(record->header.event, emit_ring(record->results, true));
		} else {
			held_finish(slot, result);
			scratch_give(s, slot);
		}
	}
	bpf_map_delete_elem(&held, &key);
	number = bpf_map_lookup_elem(&pending, &index);
	if (number)
		__sync_fetch_and_add(number, -1);
	return 1;
}

/* Whether a task's earlier record is of another call, whose end was not seen: its program went, or another tool's came to the same function in
 * between. Of several in one call the last is kept.
 */
static __always_inline bool held_other(const struct held_record *earlier, const struct scratch *s)
{
	return earlier->header.event != s->event || earlier->num[NUM_CALL] != s->num[NUM_CALL];
}

/* Keeps the built record until the system call returns; -1: there is no room. */
static __always_inline int held_put(struct scratch *s, struct emit_space *space)
{
	u64 key = bpf_get_current_pid_tgid();
	u32 index = key & (PENDING_ENTRIES - 1), *number = bpf_map_lookup_elem(&pending, &index);
	struct held_record *earlier;

	if (!number)
		return -1;
	if (space->header.text_size > HELD_TEXT) {
		count(CNT_HELD_FULL);
		return -1;
	}
	space->results = s->report;
	space->header.flags |= EVENT_RESULT;
	__builtin_memcpy(space->num_present, s->num_present, sizeof(space->num_present));
	bpf_probe_read_kernel(space->num, sizeof(space->num), s->num);
	earlier = bpf_map_lookup_elem(&held, &key);
	if (earlier) {
		if (held_other(earlier, s))
			held_write(earlier);
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
	struct call *entry;
	u32 number;

	if (event == EV_PROCESS_EXIT || event == EV_PROCESS_EXECUTED)
		return s->report & REPORT_SUCCESS ? WAY_NOW : WAY_NONE;
	if (event >= EV_DONE) {
		bool failed = (s64)s->num[NUM_RESULT] < 0;

		if (!(s->report & (failed ? REPORT_FAILURE : REPORT_SUCCESS)))
			return WAY_NONE;
		if (!within)
			return WAY_NOW;
	}
	call = read_call();
	if (call == NO_CALL || call_number(call) == NR_IO_URING_ENTER)
		return WAY_ASYNC;
	if (call & CALL_COMPAT)
		return WAY_AT_ONCE;
	number = call;
	entry = bpf_map_lookup_elem(&calls, &number);
	if (!entry || !event_in(entry->events, event))
		return WAY_NONE;
	if (within)
		return WAY_NOW;
	return entry->flags & CALL_SENSED ? WAY_HOLD : WAY_AT_ONCE;
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
	if (way == WAY_HOLD && held_put(s, space))
		way = WAY_AT_ONCE;
	if (way == WAY_NOW)
		flags |= EVENT_RESULT;
	else if (way == WAY_AT_ONCE)
		flags |= EVENT_RESULT | EVENT_AT_ONCE;
	else if (way == WAY_ASYNC)
		flags |= EVENT_RESULT | EVENT_AT_ONCE | EVENT_ASYNC;
	if (flags) {
		space->header.flags = s->flags | flags;
		emit_write(space, slot, emit_ring(s->report, !(flags & EVENT_DECISION)));
	}
	return 0;
}
