/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Automata over bytes: run over a string in the scratch, or over the names of dentries where they lie. */
#ifndef BPFENCE_AUTOMATON_H
#define BPFENCE_AUTOMATON_H

#include "strings.h"

/* match_page where another page is seldom needed. A look-up is inlined by the verifier, and each time it copies all it knows of the program. */
static __noinline struct image_page *match_page_far(u64 generation, u64 ref)
{
	return match_page(generation, ref);
}

static __always_inline struct image_page *match_page_near(struct image_page *first, u64 generation, u64 ref)
{
	return ref < IMAGE_PAGE_WORDS ? first : match_page_far(generation, ref);
}

#define DFA_GOING -1

/* Where a run of an automaton stands: `page` holds the row of `state`. In hot code numbers are 64 bits wide: -mcpu=v2 has no others, and
 * pays two instructions to cut one down.
 */
struct automaton {
	struct image_page *page;
	u64 state;
	u64 generation;
	u64 left; /* bytes that are to be read, where it has stopped for another page */
};

#define STEP_ON 0
#define STEP_END 1
#define STEP_FAR 2 /* the row of the state is on another page */

/* One byte, by its class, further. */
static __always_inline int automaton_step_near(struct automaton *a, u64 byte_class)
{
	u64 row = a->state & (IMAGE_PAGE_WORDS - 2), cell = (row + 2 * byte_class) & (IMAGE_PAGE_WORDS - 2), next;

	if (a->page->word[cell] != a->state) {
		if (a->page->word[row] & DFA_STOP)
			return STEP_END;
		cell = row;
	}
	next = a->page->word[cell + 1];
	if ((next ^ a->state) >= IMAGE_PAGE_WORDS) {
		a->state = next;
		return STEP_FAR;
	}
	a->state = next;
	return STEP_ON;
}

/* The same from page to page; false where the run is at its end. */
static __always_inline bool automaton_step(struct automaton *a, u64 byte_class)
{
	int status = automaton_step_near(a, byte_class);

	if (status == STEP_FAR) {
		a->page = match_page(a->generation, a->state);
		return a->page;
	}
	return status == STEP_ON;
}

static __always_inline u32 automaton_class(const struct automaton *a)
{
	return a->page ? a->page->word[a->state & (IMAGE_PAGE_WORDS - 2)] & DFA_CLASS_MASK : CLASS_UNCERTAIN;
}

#define DFA_CLASSES_LAST (IMAGE_PAGE_BYTES - 256)

/* Finds the pages of a run that goes on from s->dfa_state; the classes of bytes, or NULL. */
static __always_inline u8 *automaton_begin(struct automaton *a, const struct scratch *s)
{
	u64 classes = (s->dfa_classes & (IMAGE_PAGE_WORDS - 1)) * 4;
	struct image_page *class_page;

	a->state = s->dfa_state;
	a->generation = s->generation;
	class_page = match_page(a->generation, s->dfa_classes);
	a->page = match_page(a->generation, a->state);
	return class_page && a->page && classes <= DFA_CLASSES_LAST ? (u8 *)class_page + classes : NULL;
}

#define DFA_ROUND 8
#define DFA_ROUNDS 8
#define DFA_CHUNKS ((ABI_PATH_MAX + SCRATCH_SLACK) / (DFA_ROUND * DFA_ROUNDS) + 1)

/* At most DFA_ROUND bytes of scratch->data further, from where the scratch says; STEP_*. The position stays in memory: it is part of addresses. */
static __always_inline int automaton_round(struct automaton *a, struct scratch *s, const u8 *class_of_byte)
{
	u32 i;

	for (i = 0; i < DFA_ROUND; i++) {
		u32 position = *(volatile u32 *)&s->dfa_position;
		int status;

		if (position >= s->dfa_end)
			return STEP_END;
		*(volatile u32 *)&s->dfa_position = position + 1;
		status = automaton_step_near(a, class_of_byte[s->data[position & SCRATCH_MASK]]);
		if (status != STEP_ON)
			return status;
	}
	return STEP_ON;
}

/* Runs the automaton over a chunk of scratch->data, from where the scratch says; the accept class at the end. */
__noinline int match_automaton_chunk(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	int status = STEP_ON;
	struct automaton a;
	struct repeat r;
	u8 *class_of_byte;

	if (!s)
		return CLASS_UNCERTAIN;
	class_of_byte = automaton_begin(&a, s);
	if (!class_of_byte)
		return CLASS_UNCERTAIN;
	repeat_begin(&r, rounds_of(DFA_ROUNDS, DFA_CHUNKS));
	while (repeat_next(&r)) {
		status = automaton_round(&a, s, class_of_byte);
		if (status == STEP_FAR)
			a.page = match_page(a.generation, a.state);
		if (status == STEP_END || !a.page)
			break;
	}
	repeat_end(&r);
	if (status == STEP_END || !a.page || s->dfa_position >= s->dfa_end)
		return automaton_class(&a);
	s->dfa_state = a.state;
	return DFA_GOING;
}

/* The accept class of data[offset .. offset + length). */
static __always_inline u32 match_automaton(u32 slot, u32 classes, u32 start, u32 offset, u32 length)
{
	struct scratch *s = scratch_at(slot);
	u32 i, chunks = chunks_of(DFA_CHUNKS);

	if (!s)
		return CLASS_UNCERTAIN;
	s->dfa_state = start;
	s->dfa_classes = classes;
	s->dfa_position = offset;
	s->dfa_end = offset + length;
	for (i = 0; i < chunks; i++) {
		int class = match_automaton_chunk(slot);

		if (class != DFA_GOING)
			return class;
	}
	return CLASS_UNCERTAIN;
}

#define PATH_FAR 4 /* the automaton goes on with another page */

/* One byte of a word of a name; clang 14 does not unroll the loop of them. No call in it: what it works on stays in registers. */
#define NAME_BYTE() \
	if (!length) \
		return PATH_GOING; \
	length--; \
	status = automaton_step_near(a, class_of_byte[word & 0xff]); \
	if (status != STEP_ON) { \
		a->left = length; \
		return status == STEP_FAR ? PATH_FAR : PATH_DONE; \
	} \
	word >>= 8

/* "/name" of a dentry further, or "name" where it stands alone. PATH_DONE: the run is at its end; PATH_UNCERTAIN: the name does not lie in the
 * dentry; PATH_FAR: a->left bytes of it are left to automaton_name_rest.
 */
static __always_inline int automaton_name(struct automaton *a, const u8 *class_of_byte, u64 dentry, bool alone)
{
	u64 length = path_dentry(dentry)->d_name.len, name = compat_inline_name(dentry), word, i;
	int status;

	if (length > COMPAT_INLINE_NAME)
		return PATH_UNCERTAIN;
	if (!alone) {
		status = automaton_step_near(a, class_of_byte['/']);
		if (status != STEP_ON) {
			a->left = length;
			return status == STEP_FAR ? PATH_FAR : PATH_DONE;
		}
	}
	for (i = 0; i < (COMPAT_INLINE_NAME + 7) / 8; i++) {
		word = path_words(name + 8 * i)->tv_sec;
		NAME_BYTE();
		NAME_BYTE();
		NAME_BYTE();
		NAME_BYTE();
		NAME_BYTE();
		NAME_BYTE();
		NAME_BYTE();
		NAME_BYTE();
	}
	return PATH_GOING;
}

/* The last `left` bytes of the name of a step, from s->dfa_state on; the class where the run ends there. */
__noinline int automaton_name_rest(u32 slot, u32 step, u32 left)
{
	struct scratch *s = scratch_at(slot);
	int status = PATH_GOING;
	u64 dentry, name, rest;
	struct automaton a;
	struct repeat r;
	u8 *class_of_byte;

	if (!have_rdonly_cast || !s)
		return CLASS_UNCERTAIN;
	class_of_byte = automaton_begin(&a, s);
	if (!class_of_byte)
		return CLASS_UNCERTAIN;
	dentry = s->steps[step & (PATH_STEPS - 1)];
	name = compat_inline_name(dentry) + path_dentry(dentry)->d_name.len - left;
	rest = left;
	repeat_begin(&r, COMPAT_INLINE_NAME);
	while (repeat_next(&r)) {
		if (!rest)
			break;
		rest--;
		if (!automaton_step(&a, class_of_byte[path_words(name)->tv_sec & 0xff])) {
			status = PATH_DONE;
			break;
		}
		name++;
	}
	repeat_end(&r);
	s->dfa_state = a.state;
	return status == PATH_DONE ? automaton_class(&a) : DFA_GOING;
}

#define NAME_ALONE PATH_STEPS /* added to the number of a step: without '/' in front */

/* Number `step` of the steps, from s->dfa_state on; its class where the run ends there. */
__noinline int automaton_name_step(u32 slot, u32 step)
{
	struct scratch *s = scratch_at(slot);
	struct automaton a;
	u8 *class_of_byte;
	int status;

	if (!have_rdonly_cast || !s)
		return CLASS_UNCERTAIN;
	class_of_byte = automaton_begin(&a, s);
	if (!class_of_byte)
		return CLASS_UNCERTAIN;
	status = automaton_name(&a, class_of_byte, s->steps[step & (PATH_STEPS - 1)], step & NAME_ALONE);
	s->dfa_state = a.state;
	if (status == PATH_DONE)
		return automaton_class(&a);
	if (status == PATH_FAR)
		return automaton_name_rest(slot, step, a.left);
	return status == PATH_GOING ? DFA_GOING : CLASS_UNCERTAIN;
}

#endif
