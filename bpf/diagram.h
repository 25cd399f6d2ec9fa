/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Decision diagrams: from a root down to a leaf, a class at each node. */
#ifndef BPFENCE_DIAGRAM_H
#define BPFENCE_DIAGRAM_H

#include "classes.h"

/* Child of a sparse node that lies whole in `page`, at `at`, for a class. */
static __always_inline u32 sparse_near(const struct image_page *page, u64 at, u64 n, u64 class)
{
	u64 low = 0, step, pairs = at + 3;

	for (step = NEAR_FIRST(n); step; step /= 2) {
		u64 next = low + step;

		low += step & less_mask(next, n) & ~less_mask(class, page->word[MASKED(pairs + 2 * next, IMAGE_PAGE_WORDS - 1)]);
	}
	pairs += 2 * low;
	if (page->word[MASKED(pairs, IMAGE_PAGE_WORDS - 1)] == class)
		return page->word[MASKED(pairs + 1, IMAGE_PAGE_WORDS - 1)];
	return page->word[MASKED(at + 2, IMAGE_PAGE_WORDS - 1)];
}

/* Child of a sparse node for a class: binary search, as class_range. */
__noinline int diagram_sparse_child(u32 slot, u32 node, u32 class)
{
	struct scratch *s = scratch_at(slot);
	struct image_page *page;
	volatile u32 *low, *high;
	struct repeat r;
	u32 i, child;
	u64 at, n;

	if (!s)
		return 0;
	page = match_page(s->generation, node);
	if (!page)
		return 0;
	at = MASKED(node, IMAGE_PAGE_WORDS - 1);
	n = MASKED(at + 1, IMAGE_PAGE_WORDS - 1);
	n = page->word[n];
	if (n && n <= NEAR_WORDS && at + 3 + 2 * n <= IMAGE_PAGE_WORDS)
		return sparse_near(page, at, n, class);
	low = &s->low;
	high = &s->high;
	/* See diagram_sparse. */
	i = match_word(s->generation, node + 3) == CLASS_UNCERTAIN ? node + 5 : node + 3;
	if (match_word(s->generation, i) == class && match_word(s->generation, node + 1) > 1)
		return match_word(s->generation, i + 1);
	*low = 0;
	*high = match_word(s->generation, node + 1);
	child = node + 2;
	repeat_begin(&r, BSEARCH_STEPS);
	while (repeat_next(&r)) {
		u32 middle = (*low + *high) / 2;
		u32 at = node + 3 + 2 * middle;
		u32 found;

		if (*low >= *high)
			break;
		found = match_word(s->generation, at);
		if (found == class) {
			child = at + 1;
			break;
		}
		if (found < class)
			*low = middle + 1;
		else
			*high = middle;
	}
	repeat_end(&r);
	return match_word(s->generation, child);
}

#define DIAGRAM_CHUNK 8
#define DIAGRAM_GOING -1

/* DIAGRAM_CHUNK nodes down from s->node. */
__noinline int diagram_walk_chunk(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	u32 i, node;

	if (!s)
		return 0;
	node = s->node;
	for (i = 0; i < DIAGRAM_CHUNK; i++) {
		struct image_page *page;
		u32 word, class, child;
		u64 dim;

		if (node & IMAGE_LEAF)
			return node & ~IMAGE_LEAF;
		page = node ? match_page(s->generation, node) : NULL; /* 0, where the header is, is what a missing page leads to */
		if (!page) {
			set_uncertain(s, CAUSE_TABLE);
			return 0;
		}
		word = page->word[node & (IMAGE_PAGE_WORDS - 1)];
		dim = MASKED(word, ABI_MAX_DIMS - 1);
		if (s->have_class & (1ULL << dim))
			class = s->class[dim];
		else
			class = class_of(slot, dim);
		child = node + 2 + class;
		if (((word >> 8) & 0xff) == NODE_SPARSE)
			node = diagram_sparse_child(slot, node, class);
		else if ((child ^ node) < IMAGE_PAGE_WORDS)
			node = page->word[child & (IMAGE_PAGE_WORDS - 1)];
		else
			node = match_word(s->generation, child);
	}
	s->node = node;
	return DIAGRAM_GOING;
}

#define FEW_CHILDREN 4
#define SPARSE_NEAR (IMAGE_PAGE_WORDS - 5 - 2 * FEW_CHILDREN) /* from there on a node may not lie whole in its page, as far as it is looked at here */

/* Child of a sparse node for a class. */
static __always_inline u64 diagram_sparse(struct image_page *first, u32 slot, u64 node, u64 class)
{
	const u32 *at;
	u64 count, i;

	if (node >= SPARSE_NEAR)
		return diagram_sparse_child(slot, node, class);
	at = &first->word[MASKED(node, IMAGE_PAGE_WORDS - 1)];
	count = at[1];
	/* Of many the one that is asked for most, what no pattern matches, is the first or follows CLASS_UNCERTAIN. */
	if (count > FEW_CHILDREN) {
		i = at[3] == CLASS_UNCERTAIN ? 5 : 3;
		return at[i] == class ? at[i + 1] : diagram_sparse_child(slot, node, class);
	}
	for (i = 0; i < FEW_CHILDREN; i++) {
		if (i >= count)
			break;
		if (at[3 + 2 * i] == class)
			return at[4 + 2 * i];
	}
	return at[2];
}

/* Where a node leads with `class` of its dimension, which is noted. */
static __always_inline u64 diagram_next(struct scratch *s, u32 slot, struct image_page *first, u64 node, u64 word, u64 class)
{
	u64 dim = MASKED(word, ABI_MAX_DIMS - 1);

	s->class[dim] = class;
	s->have_class |= 1ULL << dim;
	class = *(volatile u32 *)&s->class[dim]; /* by whichever way it has been found, to the verifier it is any number from here on */
	if (((word >> 8) & 0xff) == NODE_DENSE)
		return match_word_near(first, s->generation, node + 2 + class);
	return diagram_sparse(first, slot, node, class);
}

#define DIAGRAM_FAST 8

/* The first nodes of an event's diagram, as far as they lie in page 0; returns where it stands. */
static __always_inline u64 diagram_fast(struct scratch *s, u32 slot, struct image_page *first, u64 root)
{
	struct image_head *head = (void *)first;
	u64 i, node = root, word, class, dim;

	for (i = 0; i < DIAGRAM_FAST; i++) {
		if (!node || node >= IMAGE_PAGE_WORDS) /* nowhere, a leaf, or on another page */
			return node;
		word = first->word[MASKED(node, IMAGE_PAGE_WORDS - 1)];
		dim = MASKED(word, ABI_MAX_DIMS - 1);
		class = class_fast(s, slot, &head->dims[dim], dim);
		node = diagram_next(s, slot, first, node, word, class);
	}
	return node;
}

/* Follows a diagram from `node` to its leaf; returns the leaf's number. */
static __always_inline u32 diagram_walk(struct scratch *s, u32 slot, u32 node)
{
	u32 i;
	int leaf;

	if (node & IMAGE_LEAF)
		return node & ~IMAGE_LEAF;
	s->node = node;
	for (i = 0; i <= ABI_MAX_DIMS / DIAGRAM_CHUNK; i++) {
		leaf = diagram_walk_chunk(slot);
		if (leaf != DIAGRAM_GOING)
			return leaf;
	}
	set_uncertain(s, CAUSE_TABLE);
	return 0;
}

__noinline int image_features(void)
{
	u32 generation = active_generation();
	struct image_head *head = generation ? match_head(generation) : NULL;

	return head ? head->header.features : 0;
}

__noinline int image_concerns(u32 event)
{
	u32 generation = active_generation();
	struct image_head *head = generation ? match_head(generation) : NULL;

	return head && image_event_in(head->header.concern_all, event);
}

#endif
