/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Parts of record.bpf.c, details.bpf.c and emit.bpf.c that go in rounds of repeat_begin: functions of the kernel can be called from one source only,
 * as bpftool links them from no more ("failed to resolve size of underlying type"). Included by engine.bpf.c alone.
 */
#ifndef BPFENCE_ROUNDS_H
#define BPFENCE_ROUNDS_H

#include "engine.h"

/* ---- records ---- */

/* How many ancestors at most go at once with an image that was the last to hold each of them. */
#define BURIED_TOGETHER 64

/* Forgets one image: its parent where that has no other holder, else 0. */
static __always_inline u64 forget_one(u64 exec_id)
{
	struct exec_image *image = bpf_map_lookup_elem(&images, &exec_id);
	u64 parent;

	if (!image)
		return 0;
	parent = image->parent_exec_id;
	if (image->exe_len >= ABI_EXE_SHORT)
		bpf_map_delete_elem(&long_exes, &exec_id);
	if (image->args_len >= ABI_ARGS_SHORT)
		bpf_map_delete_elem(&long_args, &exec_id);
	if (bpf_map_delete_elem(&images, &exec_id) || !parent)
		return 0;
	image = bpf_map_lookup_elem(&images, &parent);
	if (!image)
		return 0;
	__sync_fetch_and_add(&image->refs, -1);
	return *(volatile u32 *)&image->refs ? 0 : parent;
}

/* Forgets a dead image that has left the graveyard, and the ancestors that nobody else holds; the next one after too many takes its place. */
__noinline int image_forget(u64 exec_id)
{
	struct repeat r;

	repeat_begin(&r, BURIED_TOGETHER);
	while (repeat_next(&r)) {
		exec_id = forget_one(exec_id);
		if (!exec_id)
			break;
	}
	repeat_end(&r);
	if (exec_id)
		bpf_map_push_elem(&graveyard, &exec_id, 0);
	return 0;
}

/* ---- details ---- */

#define ANCESTORS_MASK 31 /* no less than ABI_ANCESTORS_MAX - 1 */

__noinline int ancestors_load(u32 slot)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct scratch *s = scratch_at(slot);
	struct repeat r;
	u32 n = 0;
	u64 i;

	if (!s)
		return 0;
	if (s->loaded > 0)
		s->str_present &= ~STR_BIT(s->loaded - 1);
	s->loaded = 0;
	task = BPF_CORE_READ(task, group_leader);
	repeat_begin(&r, ABI_ANCESTORS_MAX);
	while (repeat_next_at(&r, ABI_ANCESTORS_MAX, &i)) {
		struct process_record *record;
		struct ancestor *ancestor;
		u32 pid;

		task = read_parent(task);
		if (!task)
			break;
		pid = BPF_CORE_READ(task, tgid);
		record = bpf_map_lookup_elem(&processes, &pid);
		ancestor = (void *)&s->data[AREA_LOADED + MASKED(i, ANCESTORS_MASK) * sizeof(*ancestor)];
		ancestor->exec_id = record ? record->exec_id : 0;
		ancestor->pid = pid;
		n = (i + 1) * sizeof(*ancestor);
	}
	repeat_end(&r);
	if (n)
		set_str(s, STR_ANCESTORS, AREA_LOADED, n);
	return 0;
}

/* ---- what is emitted ---- */

/* Numbers of bits: of the lowest one that is set in `bits`, which is not 0. A multiplication by a de Bruijn sequence brings the 64 cases to
 * 64 places; bpf has no instruction for it.
 */
#define DE_BRUIJN 0x022fdd63cc95386dULL

static const u8 bit_of_place[64] = {
	0, 1, 2, 53, 3, 7, 54, 27, 4, 38, 41, 8, 34, 55, 48, 28,
	62, 5, 39, 46, 44, 42, 22, 9, 24, 35, 59, 56, 49, 18, 29, 11,
	63, 52, 6, 26, 37, 40, 33, 47, 61, 45, 43, 21, 23, 58, 17, 10,
	51, 25, 36, 32, 60, 20, 57, 16, 50, 31, 19, 15, 30, 14, 13, 12
};

static __always_inline u64 lowest_bit(u64 bits)
{
	return bit_of_place[((bits & -bits) * DE_BRUIJN) >> 58];
}

/* Appends the numbers of one word of the present ones, 8 bytes each, after `at` bytes of the body; returns the bytes then used. */
__noinline int emit_wide(u32 slot, u32 word, u32 at)
{
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);
	struct scratch *s = scratch_at(slot);
	u64 left, begin = AT_BODY(at), base = MASKED(word, ABI_NUM_WORDS - 1), i;
	struct repeat r;
	u32 n = 0;

	if (!s || !space || begin > BODY_MAX)
		return at;
	left = s->num_present[base];
	repeat_begin(&r, 64);
	while (repeat_next_at(&r, 64, &i)) {
		if (!left)
			break;
		store_word(&space->data[begin + MASKED(i, 63) * 8], s->num[base * 64 + lowest_bit(left)]);
		left &= left - 1;
		n = i + 1;
	}
	repeat_end(&r);
	return begin + n * 8;
}

/* The same, 4 bytes each. */
__noinline int emit_narrow(u32 slot, u32 word, u32 at)
{
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);
	struct scratch *s = scratch_at(slot);
	u64 left, begin = AT_BODY(at), base = MASKED(word, ABI_NUM_WORDS - 1), i;
	struct repeat r;
	u32 n = 0;

	if (!s || !space || begin > BODY_MAX)
		return at;
	left = s->num_present[base];
	if (!base)
		left &= ~0ULL << ABI_NUM_IN_HEADER;
	repeat_begin(&r, 64);
	while (repeat_next_at(&r, 64, &i)) {
		if (!left)
			break;
		store_half(&space->data[begin + MASKED(i, 63) * 4], s->num[base * 64 + lowest_bit(left)]);
		left &= left - 1;
		n = i + 1;
	}
	repeat_end(&r);
	return begin + n * 4;
}

#endif
