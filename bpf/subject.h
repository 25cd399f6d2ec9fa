/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What depends on the process alone: computed at exec and when credentials or cgroup change, kept in its record. */
#ifndef BPFENCE_SUBJECT_H
#define BPFENCE_SUBJECT_H

#include "diagram.h"

/* The lineage bits that the executable of one image gives its descendants, added to s->lineage; -1: uncertain. */
__noinline int lineage_add(u32 slot, u64 exec_id)
{
	struct scratch *s = scratch_at(slot);
	struct exec_image *image;
	u32 ref, masks, class;

	if (!s)
		return -1;
	image = bpf_map_lookup_elem(&images, &exec_id);
	if (!image)
		return -1;
	if (image->generation == s->generation) {
		s->lineage[0] |= image->self_bits[0];
		s->lineage[1] |= image->self_bits[1];
		return 0;
	}
	if (image->flags & (EXEC_EXE_UNCERTAIN | EXEC_PARENT_UNKNOWN))
		return -1;
	ref = match_word(s->generation, offsetof(struct image_header, lineage_dfa) / 4);
	masks = match_word(s->generation, offsetof(struct image_header, lineage_masks) / 4);
	s->loaded = 0;
	s->str_present &= ~STR_BIT(STR_PROCESS_EXE);
	load_image(s, STR_PROCESS_EXE, image, exec_id);
	s->str_uncertain &= ~STR_BIT(STR_PROCESS_EXE);
	if (image->exe_len && !has_str(s, STR_PROCESS_EXE))
		return -1;
	class = match_automaton(slot, ref, match_word(s->generation, offsetof(struct image_header, lineage_start) / 4), AREA_LOADED,
				image->exe_len & (ABI_PATH_MAX - 1));
	s->str_present &= ~STR_BIT(STR_PROCESS_EXE);
	masks += class * 2 * ABI_LINEAGE_WORDS;
	s->lineage[0] |= match_word(s->generation, masks) | (u64)match_word(s->generation, masks + 1) << 32;
	s->lineage[1] |= match_word(s->generation, masks + 2) | (u64)match_word(s->generation, masks + 3) << 32;
	return 0;
}

/* Lineage of the process in s->record: cached in its image, else collected along the chain. */
__noinline int lineage_load(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	struct exec_image *image, *ancestor;
	u64 id, own, own_bits[2];
	struct repeat r;
	u32 sure = 1;

	if (!s)
		return 0;
	own = s->record.exec_id;
	s->lineage[0] = 0;
	s->lineage[1] = 0;
	s->lineage_uncertain = 1;
	image = bpf_map_lookup_elem(&images, &own);
	if (!image || lineage_add(slot, own))
		return 0;
	own_bits[0] = s->lineage[0];
	own_bits[1] = s->lineage[1];
	if (image->generation != s->generation) {
		s->lineage[0] = 0;
		s->lineage[1] = 0;
		id = image->parent_exec_id;
		repeat_begin(&r, LINEAGE_DEPTH);
		while (repeat_next(&r)) {
			if (!id)
				break;
			ancestor = bpf_map_lookup_elem(&images, &id);
			if (!ancestor || lineage_add(slot, id)) {
				sure = 0;
				break;
			}
			if (ancestor->generation == s->generation) {
				s->lineage[0] |= ancestor->lineage[0];
				s->lineage[1] |= ancestor->lineage[1];
				id = 0;
				break;
			}
			id = ancestor->parent_exec_id;
		}
		repeat_end(&r);
		if (id || !sure)
			return 0;
		image->self_bits[0] = own_bits[0];
		image->self_bits[1] = own_bits[1];
		image->lineage[0] = s->lineage[0];
		image->lineage[1] = s->lineage[1];
		barrier();
		image->generation = s->generation;
	}
	s->lineage[0] = image->lineage[0];
	s->lineage[1] = image->lineage[1];
	if (image->pid != s->record.pid) {
		s->lineage[0] |= own_bits[0];
		s->lineage[1] |= own_bits[1];
	}
	s->lineage_uncertain = 0;
	return 0;
}

/* Adds the events whose bits an image has at `ref`. */
static __always_inline void events_add(u64 *events, u32 generation, u32 ref)
{
	u32 word;

	for (word = 0; word < ABI_EVENT_WORDS; word++)
		events[word] |= match_wide(generation, ref + 2 * word);
}

/* The same of a row of the concern table. */
__noinline int concern_row(u32 slot, u32 ref)
{
	struct scratch *s = scratch_at(slot);

	if (!s)
		return 0;
	events_add(s->record.concern, s->generation, ref);
	events_add(s->record.enforcing, s->generation, ref + 2 * ABI_EVENT_WORDS);
	return 0;
}

/* ---- what a subject came to, kept for the next process that is alike ----
 *
 * The rows are made of the classes that the subject diagrams asked for. Where they asked for none but those of image_header.steady, and nothing was
 * uncertain, the same generation, executable, command name, ids, cgroup and workload make the same rows, whatever else differs (arguments, pid,
 * lineage): another process with these would have been asked for the same. All of them are compared whole:
 *  - of an image executable and command name never change; long executables, and those that are not known whole, are not kept;
 *  - the path of a cgroup never changes, and its id is given once (cgroup v2 has no rename, and ids have 64 bits). That the walk to the root
 *    began at the cgroup of the record is told by its version, which each move counts up, and by the cgroup that the task is in afterwards;
 *  - the class of the workload is looked up each time.
 * As in known.h: whoever finds an entry half written, or somebody else writing, goes without.
 */

static __always_inline u64 rows_ids(const struct process_record *record)
{
	return (u64)record->uid << 32 | record->gid;
}

/* Word `i` of the executable of an image, NUL behind its end. */
static __always_inline u64 exe_word(const struct exec_image *image, u64 i, u64 length)
{
	u64 word = ((const u64 *)image->exe)[MASKED(i, KNOWN_EXE_WORDS - 1)];

	return length - 8 * i < 8 ? word & ((1ULL << 8 * (length - 8 * i)) - 1) : word;
}

/* The program of the record in the scratch, where it is one that rows are kept for. */
static __always_inline struct exec_image *rows_image(const struct scratch *s)
{
	u64 id = s->record.exec_id;
	struct exec_image *image = bpf_map_lookup_elem(&images, &id);

	if (!have_rdonly_cast || !image || image->flags & EXEC_EXE_UNCERTAIN)
		return NULL;
	return image->exe_len && image->exe_len < 8 * KNOWN_EXE_WORDS ? image : NULL;
}

static __always_inline struct known_rows *rows_at(const struct scratch *s, const struct exec_image *image)
{
	u64 hash = rows_ids(&s->record) ^ s->record.cgroup << 16, length = image->exe_len, i;
	struct repeat r;
	u32 index;

	repeat_begin(&r, KNOWN_EXE_WORDS);
	while (repeat_next_at(&r, KNOWN_EXE_WORDS, &i)) {
		if (8 * i >= length)
			break;
		hash = (hash ^ exe_word(image, i, length)) * 0x9e3779b97f4a7c15ULL;
		hash ^= hash >> 32;
	}
	repeat_end(&r);
	index = hash & (KNOWN_ROWS - 1);
	return bpf_map_lookup_elem(&known_rows, &index);
}

static __always_inline bool rows_alike(const struct known_rows *rows, const struct scratch *s, const struct exec_image *image)
{
	u64 length = image->exe_len, differ, i;
	struct repeat r;

	differ = (rows->generation ^ s->generation) | (rows->workload ^ s->record.workload) | (rows->ids ^ rows_ids(&s->record)) |
		 (rows->cgroup ^ s->record.cgroup) | (rows->comm[0] ^ ((const u64 *)image->comm)[0]) |
		 (rows->comm[1] ^ ((const u64 *)image->comm)[1]) | (rows->exe_len ^ length);
	repeat_begin(&r, KNOWN_EXE_WORDS);
	while (repeat_next_at(&r, KNOWN_EXE_WORDS, &i)) {
		if (8 * i >= length)
			break;
		differ |= rows->exe[MASKED(i, KNOWN_EXE_WORDS - 1)] ^ exe_word(image, i, length);
	}
	repeat_end(&r);
	return !differ;
}

/* Rows and concern of the record in the scratch, where they are kept. */
__noinline int rows_find(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	struct exec_image *image;
	struct known_rows *rows;
	u64 ended;

	if (!s)
		return 0;
	image = rows_image(s);
	if (!image)
		return 0;
	rows = rows_at(s, image);
	if (!rows)
		return 0;
	ended = *(volatile u64 *)&rows->ended;
	barrier();
	if (!rows_alike(rows, s, image))
		return 0;
	__builtin_memcpy(s->record.concern, rows->concern, sizeof(rows->concern));
	__builtin_memcpy(s->record.enforcing, rows->enforcing, sizeof(rows->enforcing));
	__builtin_memcpy(s->record.subject, rows->subject, sizeof(rows->subject));
	barrier();
	return *(volatile u64 *)&rows->begun == ended;
}

/* Keeps them. `version`: that of the record, from before its ids and cgroup were looked at. */
__noinline int rows_note(u32 slot, u64 version)
{
	struct scratch *s = scratch_at(slot);
	struct exec_image *image;
	struct known_rows *rows;
	struct image_head *head;
	struct repeat r;
	u64 i;

	if (!s || s->flags)
		return 0;
	head = match_head(s->generation);
	if (!head || s->have_class & ~(head->header.steady[0] | (u64)head->header.steady[1] << 32))
		return 0;
	if (bpf_get_current_cgroup_id() != s->record.cgroup || record_version(s->record.pid) != version)
		return 0;
	image = rows_image(s);
	if (!image)
		return 0;
	rows = rows_at(s, image);
	if (!rows)
		return 0;
	__sync_fetch_and_add(&rows->writers, 1);
	if (*(volatile u64 *)&rows->writers == 1) {
		*(volatile u64 *)&rows->begun = rows->begun + 1;
		barrier();
		rows->generation = s->generation;
		rows->workload = s->record.workload;
		rows->ids = rows_ids(&s->record);
		rows->cgroup = s->record.cgroup;
		__builtin_memcpy(rows->comm, image->comm, sizeof(rows->comm));
		rows->exe_len = image->exe_len;
		repeat_begin(&r, KNOWN_EXE_WORDS);
		while (repeat_next_at(&r, KNOWN_EXE_WORDS, &i))
			rows->exe[MASKED(i, KNOWN_EXE_WORDS - 1)] = 8 * i < image->exe_len ? exe_word(image, i, image->exe_len) : 0;
		repeat_end(&r);
		__builtin_memcpy(rows->concern, s->record.concern, sizeof(rows->concern));
		__builtin_memcpy(rows->enforcing, s->record.enforcing, sizeof(rows->enforcing));
		__builtin_memcpy(rows->subject, s->record.subject, sizeof(rows->subject));
		barrier();
		*(volatile u64 *)&rows->ended = rows->begun;
	}
	__sync_fetch_and_add(&rows->writers, -1);
	return 0;
}

/* Computes subject rows and concern of s->record for the generation in the scratch. */
__noinline int subject_compute(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	u32 group, word;

	if (!s)
		return 0;
	__builtin_memset(s->record.concern, 0, sizeof(s->record.concern));
	__builtin_memset(s->record.enforcing, 0, sizeof(s->record.enforcing));
	if (match_word(s->generation, offsetof(struct image_header, lineage_dfa) / 4))
		lineage_load(slot);
	for (group = 0; group < ABI_MAX_GROUPS; group++) {
		u32 row, at;

		if (group >= s->n_groups)
			break;
		row = diagram_walk(s, slot, match_word(s->generation, offsetof(struct image_header, subject_root) / 4 + group));
		s->record.subject[group] = row;
		at = match_word(s->generation, offsetof(struct image_header, concern_ref) / 4 + group) + IMAGE_CONCERN_WORDS * row;
		concern_row(slot, at);
	}
	if (s->flags & CAUSE_TABLE << EVENT_CAUSES_SHIFT) /* a row that is not to be trusted: the strictest that any says */
		events_add(s->record.enforcing, s->generation, offsetof(struct image_header, enforcing_all) / 4);
	for (word = 0; word < ABI_EVENT_WORDS; word++)
		s->record.concern[word] |= s->record.enforcing[word];
	return 0;
}

/* What else the record says of the subject. */
__noinline int subject_complete(u32 slot)
{
	struct scratch *s = scratch_at(slot);

	if (!s)
		return 0;
	count(CNT_SUBJECT_COMPUTED);
	s->record.flags = (s->record.flags & RECORD_FROM_ITER) | s->flags >> EVENT_CAUSES_SHIFT << RECORD_CAUSES_SHIFT;
	if (s->features & IMAGE_SUBJECT_IDS)
		s->record.flags |= RECORD_DEPENDS_IDS;
	if (s->features & IMAGE_SUBJECT_CGROUP)
		s->record.flags |= RECORD_DEPENDS_CGROUP;
	if (s->features & IMAGE_NEEDS_OBJECTS)
		s->record.flags |= RECORD_FOLLOWS;
	s->record.generation = s->generation;
	subject_number(slot);
	return 0;
}

static __always_inline int scratch_generation(struct scratch *s)
{
	struct image_head *head;

	s->generation = active_generation();
	head = match_head(s->generation);
	if (!head)
		return -1;
	s->features = head->header.features;
	s->n_groups = head->header.n_groups;
	return 0;
}

/* Keeps the subject in the record of the process, and what hooks may know without it. `version`: the one that it was computed at. */
__noinline int subject_store(u32 slot, u64 version)
{
	struct scratch *s = scratch_at(slot);
	struct process_record *record;
	u32 tgid;

	if (!s)
		return 0;
	tgid = s->record.pid;
	record = bpf_map_lookup_elem(&processes, &tgid);
	if (!record || record->exec_id != s->record.exec_id)
		return 0;
	/* A move to another cgroup meanwhile: the next event computes it again. One that comes from here on changes the version once more, so that
	 * the word published below is void; and the record is compared with the cgroup whenever it is used.
	 */
	if (record_version(tgid) != version)
		return 0;
	*(volatile u32 *)&record->generation = 0;
	record_changed(tgid);
	record->uid = s->record.uid;
	record->gid = s->record.gid;
	record->cgroup = s->record.cgroup;
	record->flags = s->record.flags;
	record->workload = s->record.workload;
	__builtin_memcpy(record->concern, s->record.concern, sizeof(record->concern));
	__builtin_memcpy(record->enforcing, s->record.enforcing, sizeof(record->enforcing));
	__builtin_memcpy(record->subject, s->record.subject, sizeof(record->subject));
	record->number = s->record.number;
	barrier();
	*(volatile u32 *)&record->generation = s->generation;
	record_changed(tgid);
	concern_publish(&s->record, version + 2, tgid);
	return 0;
}

/* The class of the container that a task is in: of the cgroups above its own, and that itself, the deepest that is a container's
 * counts. From the top down: what a container makes below its cgroup, however deep, hides nothing.
 */
__noinline u32 workload_of(u32 generation, u64 of)
{
	struct task_struct *task = (void *)of;
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	u32 own = BPF_CORE_READ(cgroup, level), class = WORKLOAD_UNKNOWN, level;

	for (level = 1; level <= WORKLOAD_LEVELS; level++) {
		struct workload *found;
		u64 id;

		if (level > own)
			break;
		id = compat_cgroup_at(cgroup, level);
		found = bpf_map_lookup_elem(&workloads, &id);
		if (found && found->class[generation & 1] != WORKLOAD_UNKNOWN)
			class = found->class[generation & 1];
	}
	return class;
}

/* What the record says of the subject holds only for these ids, this cgroup and this generation. Storing a new subject is safe
 * only where no other thread of the process can hold other ids: a single-threaded process; the others compute it each time.
 */
static __always_inline void subject_refresh(struct scratch *s, u32 slot, u64 version)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 cgroup = bpf_get_current_cgroup_id();
	bool same_subject;
	u32 uid, gid;

	read_ids(&uid, &gid);
	same_subject = s->record.uid == uid && s->record.gid == gid && s->record.cgroup == cgroup;
	s->record.uid = uid;
	s->record.gid = gid;
	s->record.cgroup = cgroup;
	s->record.workload = workload_of(s->generation, bpf_get_current_task());
	set_process(s);
	set_num(s, NUM_WORKLOAD, s->record.workload);
	set_num(s, NUM_PROCESS_UID, uid);
	set_num(s, NUM_PROCESS_GID, gid);
	if (!rows_find(slot)) {
		subject_compute(slot);
		rows_note(slot, version);
	}
	subject_complete(slot);
	if (s->has_record && (same_subject || BPF_CORE_READ(task, signal, nr_threads) == 1))
		subject_store(slot, version);
}

__noinline u64 start_time_probed(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, group_leader, start_boottime);
}

__noinline int concern_again(u32 slot)
{
	struct scratch *s = scratch_at(slot);

	if (s)
		concern_publish(&s->record, s->record_version, s->record.pid);
	return 0;
}

/* The record of the acting process; none that an earlier process with its pid has left. */
static __always_inline struct process_record *record_begun(u32 tgid, u64 start_time)
{
	struct process_record *record = bpf_map_lookup_elem(&processes, &tgid);

	return record && record->start_time == start_time ? record : NULL;
}

static __always_inline struct process_record *record_own(u32 tgid)
{
	return record_begun(tgid, read_start_time());
}

static __always_inline void count_refused(u32 event, u32 counter);

/* There are no tables to compute the subject with: what was known of it last counts. */
static __always_inline int subject_unknown(const struct process_record *record, u32 event)
{
	count(CNT_UNCERTAIN_TABLE);
	if (!record || !event_in(record->enforcing, event))
		return SUBJECT_UNCONCERNED;
	count_refused(event, CNT_REFUSED_TABLE);
	return SUBJECT_REFUSED;
}

__noinline int subject_load(u32 slot, u32 event)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct scratch *s = scratch_at(slot);
	struct process_record *record;
	u64 version;

	if (!s)
		return SUBJECT_UNCONCERNED;
	scratch_clear(s, event);
	s->record_version = RECORD_OWN;
	record = record_own(tgid);
	if (scratch_generation(s))
		return subject_unknown(record, event);
	if (!record || !record->exec_id) {
		record_create(slot, bpf_get_current_task());
		record = record_own(tgid);
	}
	version = record_version(tgid);
	s->has_record = record != NULL;
	if (record)
		s->record = *record;
	subject_refresh(s, slot, version);
	scratch_clear(s, event); /* the subject's strings share memory with the event's */
	set_process(s);
	return event_in(s->record.concern, event) ? SUBJECT_CONCERNED : SUBJECT_UNCONCERNED;
}

/* An event is denied that nothing could be looked up for. There is no record of it: it counts as a lost one. */
static __always_inline void count_refused(u32 event, u32 counter)
{
	count(counter);
	count(CNT_DENIED);
	count_lost(event, RING_DECISIONS);
}

/* By what is known of the process when nothing more can be looked up. The counters tell what stood in the way. Every hook program has this in
 * it, and the verifier takes long for what is read through pointers that have types: see pointer_in.
 */
static __always_inline int decide_without(u32 event, u32 uncertain, u32 refused)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	u64 generation = active_generation(), start_time = start_time_probed();
	struct process_record *record = record_begun(tgid, start_time);
	struct image_head *head = match_head(generation);
	bool enforcing;

	count(uncertain);
	if (event >= EV_SENSOR && event != EV_SENSOR_LSM) { /* nothing can be denied there */
		count_lost(event, RING_DECISIONS);
		return 0;
	}
	if (head && !(record && record_fits(record, generation, start_time, false)))
		enforcing = image_event_in(head->header.enforcing_all, event);
	else
		enforcing = record && event_in(record->enforcing, event);
	if (!enforcing)
		return 0;
	count_refused(event, refused);
	return EPERM;
}

__noinline int decide_without_memory(u32 event)
{
	return decide_without(event, CNT_UNCERTAIN_MEMORY, CNT_REFUSED_MEMORY);
}

__noinline int decide_without_engine(u32 event)
{
	return decide_without(event, CNT_UNCERTAIN_ENGINE, CNT_REFUSED_ENGINE);
}

#endif
