/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Automata over bytes: run over a string in the scratch, or over the names of dentries where they lie. */
#ifndef BPFENCE_AUTOMATON_H
#define BPFENCE_AUTOMATON_H

#include "strings.h"

#define DFA_CHUNK 128

#define DFA_GOING -1

/* Runs the automaton over the next DFA_CHUNK bytes of scratch->data, from where the scratch says; the accept class at the end. */
__noinline int match_automaton_chunk(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	struct image_page *page, *class_page;
	u32 i, state, position, end, classes;

	if (!s)
		return CLASS_UNCERTAIN;
	state = s->dfa_state;
	position = s->dfa_position;
	end = s->dfa_end;
	classes = (s->dfa_classes & (IMAGE_PAGE_WORDS - 1)) * 4;
	class_page = match_page(s->generation, s->dfa_classes);
	page = match_page(s->generation, state);
	if (!page || !class_page)
		return CLASS_UNCERTAIN;
	for (i = 0; i < DFA_CHUNK; i++) {
		u32 byte_class, row, cell, next;

		if (position >= end)
			goto done;
		byte_class = ((u8 *)class_page)[(classes + s->data[position & SCRATCH_MASK]) & (IMAGE_PAGE_BYTES - 1)];
		position++;
		row = state & (IMAGE_PAGE_WORDS - 2);
		cell = (row + 2 * byte_class) & (IMAGE_PAGE_WORDS - 2);
		if (page->word[cell] != state) {
			if (page->word[row] & DFA_STOP)
				goto done;
			cell = row;
		}
		next = page->word[cell + 1];
		if ((next ^ state) >= IMAGE_PAGE_WORDS) {
			page = match_page(s->generation, next);
			if (!page)
				return CLASS_UNCERTAIN;
		}
		state = next;
	}
	if (position < end) {
		s->dfa_state = state;
		s->dfa_position = position;
		return DFA_GOING;
	}
done:
	return page->word[state & (IMAGE_PAGE_WORDS - 2)] & DFA_CLASS_MASK;
}

/* The accept class of data[offset .. offset + length). */
static __always_inline u32 match_automaton(u32 slot, u32 classes, u32 start, u32 offset, u32 length)
{
	struct scratch *s = scratch_at(slot);
	u32 i;

	if (!s)
		return CLASS_UNCERTAIN;
	s->dfa_state = start;
	s->dfa_classes = classes;
	s->dfa_position = offset;
	s->dfa_end = offset + length;
	for (i = 0; i < (ABI_PATH_MAX + SCRATCH_SLACK) / DFA_CHUNK + 1; i++) {
		int class = match_automaton_chunk(slot);

		if (class != DFA_GOING)
			return class;
	}
	return CLASS_UNCERTAIN;
}

/* Where a run of an automaton stands: `page` holds the row of `state`. In hot code numbers are 64 bits wide: -mcpu=v2 has no others, and
 * pays two instructions to cut one down.
 */
struct automaton {
	struct image_page *page;
	u64 state;
	u64 generation;
};

/* One byte, by its class, further; false where the run is at its end. */
static __always_inline bool automaton_step(struct automaton *a, u64 byte_class)
{
	u64 row = a->state & (IMAGE_PAGE_WORDS - 2), cell = (row + 2 * byte_class) & (IMAGE_PAGE_WORDS - 2), next;

	if (a->page->word[cell] != a->state) {
		if (a->page->word[row] & DFA_STOP)
			return false;
		cell = row;
	}
	next = a->page->word[cell + 1];
	if ((next ^ a->state) >= IMAGE_PAGE_WORDS) {
		a->page = match_page(a->generation, next);
		if (!a->page)
			return false;
	}
	a->state = next;
	return true;
}

/* One byte of a word of a name; clang 14 does not unroll the loop of them. */
#define NAME_BYTE(n) \
	if (!length) \
		return PATH_GOING; \
	if (!automaton_step(a, class_of_byte[(word >> (8 * (n))) & 0xff])) \
		return PATH_DONE; \
	length--

/* "/name" of a dentry further. PATH_DONE: the run is at its end; PATH_UNCERTAIN: the name does not lie in the dentry. */
static __always_inline int automaton_name(struct automaton *a, const u8 *class_of_byte, u64 dentry)
{
	u64 length = path_dentry(dentry)->d_name.len, name = compat_inline_name(dentry), word, i;

	if (length > COMPAT_INLINE_NAME)
		return PATH_UNCERTAIN;
	if (!automaton_step(a, class_of_byte['/']))
		return PATH_DONE;
	for (i = 0; i < (COMPAT_INLINE_NAME + 7) / 8; i++) {
		word = path_words(name + 8 * i)->tv_sec;
		NAME_BYTE(0);
		NAME_BYTE(1);
		NAME_BYTE(2);
		NAME_BYTE(3);
		NAME_BYTE(4);
		NAME_BYTE(5);
		NAME_BYTE(6);
		NAME_BYTE(7);
	}
	return PATH_GOING;
}

static __always_inline u32 automaton_class(const struct automaton *a)
{
	return a->page ? a->page->word[a->state & (IMAGE_PAGE_WORDS - 2)] & DFA_CLASS_MASK : CLASS_UNCERTAIN;
}

#define DFA_CLASSES_LAST (IMAGE_PAGE_BYTES - 256)

/* Number `step` of the steps, from s->dfa_state on; its class where the run ends there. */
__noinline int automaton_name_step(u32 slot, u32 step)
{
	struct scratch *s = scratch_at(slot);
	struct image_page *class_page;
	struct automaton a;
	int status;
	u64 classes;

	if (!have_rdonly_cast || !s)
		return CLASS_UNCERTAIN;
	a.state = s->dfa_state;
	a.generation = s->generation;
	classes = (s->dfa_classes & (IMAGE_PAGE_WORDS - 1)) * 4;
	class_page = match_page(s->generation, s->dfa_classes);
	a.page = match_page(s->generation, a.state);
	if (!class_page || !a.page || classes > DFA_CLASSES_LAST)
		return CLASS_UNCERTAIN;
	status = automaton_name(&a, (u8 *)class_page + classes, s->steps[step & (PATH_STEPS - 1)]);
	if (status == PATH_DONE)
		return automaton_class(&a);
	s->dfa_state = a.state;
	return status == PATH_GOING ? DFA_GOING : CLASS_UNCERTAIN;
}

#endif
