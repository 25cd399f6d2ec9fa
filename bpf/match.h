/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Walking the image: automata, classes, diagrams. The layout is documented in abi.h; the same walk in Python is
 * bpfence/compiler/image.py.
 */
#ifndef BPFENCE_MATCH_H
#define BPFENCE_MATCH_H

#include "engine.h"

/* Page 0 as it begins. */
struct image_head {
	struct image_header header;
	struct image_dim dims[ABI_MAX_DIMS];
};

static __always_inline struct image_page *match_page(u64 generation, u64 ref)
{
	u32 key = (generation & 1) * IMAGE_MAX_PAGES + ((ref / IMAGE_PAGE_WORDS) & (IMAGE_MAX_PAGES - 1)), zero = 0;
	void *page = bpf_map_lookup_elem(&tables, &key);

	return page ? bpf_map_lookup_elem(page, &zero) : NULL;
}

static __always_inline struct image_head *match_head(u32 generation)
{
	return (void *)match_page(generation, 0);
}

/* 0 where there is no such page. In engine.bpf.c. */
u32 match_word(u64 generation, u64 ref);

static __always_inline u64 match_wide(u64 generation, u64 ref)
{
	return match_word(generation, ref) | (u64)match_word(generation, ref + 1) << 32;
}

/* Whether an event's bit is set in words of an image's header. */
static __always_inline bool image_event_in(const u32 *words, u64 event)
{
	return words[MASKED(event / 32, 2 * ABI_EVENT_WORDS - 1)] >> (event & 31) & 1;
}

/* The same where page 0, in which small images lie whole, is at hand. */
static __always_inline u32 match_word_near(struct image_page *first, u64 generation, u64 ref)
{
	return ref < IMAGE_PAGE_WORDS ? first->word[MASKED(ref, IMAGE_PAGE_WORDS - 1)] : match_word(generation, ref);
}

#endif
