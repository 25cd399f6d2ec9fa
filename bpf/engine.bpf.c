// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The engine behind every hook. Its parts are headers, each of which builds on the one before: strings.h, automaton.h, classes.h, diagram.h,
 * subject.h, decide.h. The maps are defined here, and the constants that the loader sets.
 */
#define BPFENCE_DEFINE_MAPS
#define ENGINE_SOURCE
#include "engine.h"
#include "decide.h"
#include "noted.h"
#include "rounds.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile u32 have_rdonly_cast = 0;
const volatile u32 have_iter_num = 0;
const volatile u32 have_task_btf = 0;
const volatile u32 have_task_pt_regs = 0;
const volatile u32 have_inode_storage = 0;
const volatile u32 first_spare = 0;

const volatile u64 rename_lock_address = 0;
const volatile u64 mount_lock_address = 0;

__noinline u64 tree_version(void)
{
	u64 renames, mounts;

	if (!rename_lock_address || !mount_lock_address)
		return 0;
	renames = read_sequence(rename_lock_address);
	mounts = read_sequence(mount_lock_address);
	return (renames | mounts) & 1 ? 0 : renames << 32 | mounts;
}

__noinline u64 folder_version(void)
{
	u64 renames;

	return folder_version_at(&renames);
}

/* ---- what is called from many places ---- */

/* As the first member of a type whose first member is a number of 64 bits: a pointer could not be returned. */
__noinline u64 pointer_at(u64 address)
{
	u64 pointer = 0;

	if (have_rdonly_cast)
		return ((struct timespec64 *)bpf_rdonly_cast((void *)address, bpf_core_type_id_kernel(struct timespec64)))->tv_sec;
	bpf_probe_read_kernel(&pointer, sizeof(pointer), (void *)address);
	return pointer;
}

__noinline u32 match_word(u64 generation, u64 ref)
{
	struct image_page *page = match_page(generation, ref);

	return page ? page->word[ref & (IMAGE_PAGE_WORDS - 1)] : 0;
}

__noinline int count(u32 counter)
{
	u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		__sync_fetch_and_add(value, 1);
	return 0;
}

__noinline int count_lost(u32 event, u32 ring)
{
	u64 *value = bpf_map_lookup_elem(&lost, &event);

	if (value)
		__sync_fetch_and_add(value, 1);
	count(CNT_DECISIONS_LOST + ring);
	return 0;
}

/* ---- memory ---- */

__noinline int scratch_another(void)
{
	u32 spare = bpf_get_smp_processor_id() * SCRATCH_OWN + 1;

	if (scratch_lock(spare))
		return spare;
	if (bpf_map_pop_elem(&spares, &spare))
		return 0;
	count(CNT_SPARE_TAKEN);
	return spare;
}
