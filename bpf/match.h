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


static __always_inline struct image_page *match_page(u32 generation, u32 ref)
{
	u32 key = generation & 1, page = ref / IMAGE_PAGE_WORDS;
	void *image = bpf_map_lookup_elem(&tables, &key);

	return image ? bpf_map_lookup_elem(image, &page) : NULL;
}

static __always_inline struct image_head *match_head(u32 generation)
{
	return (void *)match_page(generation, 0);
}

static __always_inline u32 match_word(u32 generation, u32 ref)
{
	struct image_page *page = match_page(generation, ref);

	return page ? page->word[ref & (IMAGE_PAGE_WORDS - 1)] : 0;
}

#endif
