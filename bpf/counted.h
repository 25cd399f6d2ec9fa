/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Rules that count: how many events of a rule its subject has made within a window.
 *
 * A diagram asks DIM_COUNT behind all else, where the rest of the rule's condition holds: asking counts. Each rule and subject has an entry with
 * the number of all its events, to which each adds one, and for the last COUNTED_STEPS steps of the clock what that number was when the step's
 * first event came. What counts are the events since the oldest of these steps began. So all that is counted has happened within the window,
 * and of what has, only the part that is older than the window without one step may be left out.
 *
 * Nothing is locked, and 5.10 has no atomic operation that returns what it has found. So the number is read, then the step's mark is looked at,
 * and written where it is of an older step, and only then one is added. Whoever writes a mark has read the number before anybody added for
 * that step, or as it was even earlier: no event of a step is lost, and several CPUs at once count their events before they look how many there
 * are. Of as many events as that, one may be taken to be a later one than it was, never an earlier. Stores and loads keep their order on x86-64.
 * Who is preempted between looking at a mark and writing it for more than a window takes away what others have counted for that window.
 */
#ifndef BPFENCE_COUNTED_H
#define BPFENCE_COUNTED_H

#include "strings.h"

/* The id of the cgroup of the container that the acting task is in, as workload_of finds its class; 0: it is in none. */
static __always_inline u64 counted_container(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	u32 own = BPF_CORE_READ(cgroup, level), level;
	u64 found = 0;

	for (level = 1; level <= WORKLOAD_LEVELS; level++) {
		u64 id;

		if (level > own)
			break;
		id = compat_cgroup_at(cgroup, level);
		if (bpf_map_lookup_elem(&workloads, &id))
			found = id;
	}
	return found;
}

/* Sets whom is counted for in the key in the scratch; 0: it is not known. */
__noinline int counted_subject(u32 slot, u32 by)
{
	struct scratch *s = scratch_at(slot);
	struct exec_image *image;
	u32 uid, gid;
	u64 id;

	if (!s)
		return 0;
	s->count_key.one = 0;
	s->count_key.other = 0;
	switch (by) {
	case COUNT_BY_PROCESS:
		s->count_key.one = s->record.pid;
		s->count_key.other = s->record.start_time;
		return 1;
	case COUNT_BY_EXE:
		id = s->record.exec_id;
		image = bpf_map_lookup_elem(&images, &id);
		if (!image)
			return 0;
		s->count_key.one = image->exe_ino;
		s->count_key.other = image->exe_dev;
		return 1;
	case COUNT_BY_USER:
		read_ids(&uid, &gid);
		s->count_key.one = uid;
		return 1;
	case COUNT_BY_CONTAINER:
		s->count_key.one = counted_container();
		return 1;
	}
	return by == COUNT_BY_HOST;
}

/* The counter of the key in the scratch; NULL: there is no room for it. */
static __always_inline struct counted *counted_of(struct scratch *s)
{
	struct counted *found = bpf_map_lookup_elem(&counted, &s->count_key);

	if (found)
		return found;
	__builtin_memset(&s->count_new, 0, sizeof(s->count_new));
	bpf_map_update_elem(&counted, &s->count_key, &s->count_new, BPF_NOEXIST); /* or another CPU has made it just now */
	return bpf_map_lookup_elem(&counted, &s->count_key);
}

/* Counts one event in the step of that number, and returns how many count with it. */
static __always_inline u32 counted_add(struct counted *c, u32 step)
{
	volatile u64 *mark = &c->mark[step & (COUNTED_STEPS - 1)];
	u32 total = *(volatile u64 *)&c->total, most = 0, i;

	barrier();
	if (*mark >> 32 != step)
		*mark = (u64)step << 32 | total;
	barrier();
	__sync_fetch_and_add(&c->total, 1);
	total = *(volatile u64 *)&c->total;
	for (i = 0; i < COUNTED_STEPS; i++) {
		u64 begun = *(volatile u64 *)&c->mark[i];
		u32 since = total - (u32)begun;

		if (step - (u32)(begun >> 32) < COUNTED_STEPS && since > most)
			most = since;
	}
	return most;
}

/* Class of dimension `dim`, of DIM_COUNT. */
__noinline int class_counted(u32 slot, u32 dim)
{
	u64 number = MASKED(dim, ABI_MAX_DIMS - 1), now, length, at;
	struct scratch *s = scratch_at(slot);
	struct image_head *head;
	struct image_dim *d;
	struct counted *c;
	u32 step, n;

	if (!s)
		return CLASS_UNCERTAIN;
	if (s->have_class & (1ULL << number)) /* diagram_fast does not look */
		return s->class[number];
	if (s->flags & EVENT_ORIGIN) /* the same act was counted by its own name */
		return CLASS_NONE;
	head = match_head(s->generation);
	if (!head)
		return CLASS_UNCERTAIN;
	d = &head->dims[number];
	length = d->value_hi * 1000ULL;
	s->count_key.rule = d->mask_lo | (u64)d->mask_hi << 32;
	if (!length || !counted_subject(slot, d->slot >> COUNT_BY_SHIFT & COUNT_BY_MASK))
		return CLASS_UNCERTAIN;
	c = counted_of(s);
	if (!c)
		return CLASS_UNCERTAIN;
	now = bpf_ktime_get_boot_ns();
	*(volatile u64 *)&c->ends = now + COUNTED_STEPS * length;
	step = now / length + 2 * COUNTED_STEPS; /* what has no mark has one of step 0 */
	n = counted_add(c, step);
	if (n < d->value_lo)
		return CLASS_NONE;
	if (d->slot & COUNT_ONCE) {
		u64 told = *(volatile u64 *)&c->told;

		if (told && step - (u32)told < COUNTED_STEPS)
			return CLASS_NONE;
		*(volatile u64 *)&c->told = step;
	}
	at = MASKED(NUM_COUNT_0 + (d->slot & COUNT_NUMBER_MASK), ABI_NUM_SLOTS - 1);
	s->num[at] = n;
	s->num_present[at / 64] |= NUM_BIT(at);
	return 2;
}

/* A process ends: so does what was counted for it, by the rules that are in force. */
__noinline int counted_end(u32 tgid, u64 start_time)
{
	u32 generation = active_generation(), dim;
	struct image_head *head = generation ? match_head(generation) : NULL;
	struct count_key key = { .one = tgid, .other = start_time };
	u64 counts;

	if (!head)
		return 0;
	counts = head->header.counts[0] | (u64)head->header.counts[1] << 32;
	for (dim = 0; dim < ABI_MAX_DIMS; dim++) {
		struct image_dim *d = &head->dims[dim];

		if (!(counts >> dim))
			break;
		if (counts >> dim & 1 && (d->slot >> COUNT_BY_SHIFT & COUNT_BY_MASK) == COUNT_BY_PROCESS) {
			key.rule = d->mask_lo | (u64)d->mask_hi << 32;
			bpf_map_delete_elem(&counted, &key);
		}
	}
	return 0;
}

#endif
