// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The engine behind every hook. Its parts are headers, each of which builds on the one before: strings.h, automaton.h, classes.h, diagram.h,
 * subject.h, decide.h. The maps are defined here, and the constants that the loader sets.
 */
#define BPFENCE_DEFINE_MAPS
#include "engine.h"
#include "decide.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile u32 have_rdonly_cast = 0;
const volatile u32 have_task_btf = 0;
const volatile u32 have_task_pt_regs = 0;
const volatile u32 first_spare = 0;

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
