// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The engine as one program that all hook programs share: the verifier walks it once for each type of program instead of once for each
 * program. Hook programs call engine(), which is empty; the loader loads one of the programs below as an extension (BPF_PROG_TYPE_EXT) and puts it into
 * the place of engine() in each of them, by a link of its own, before they are attached to their hooks (Linux 5.10, 4a1e7c0c63e0; before, an
 * extension had one target only). Programs at the ends of functions cannot be extended ("Cannot extend fentry/fexit"): those of system calls go
 * on in one that has the engine, see calls.bpf.c, where the kernel lets them. Those of ended.bpf.c have the engine in them here, too. The others are
 * loaded from bpfence.bpf.o, with the engine in them. So are all where the probe `extensions` says no.
 *
 * Only shared.bpf.o has this source in it.
 */
#include "engine.h"

/* What a hook program does without the engine, say because its link was removed: it has nothing to decide with, so what an enforcing rule
 * concerns is denied. No name is found, and no mount. In a source of its own, so that the
 * compiler sees no more of it in the hook programs than the verifier does.
 */
__noinline u64 engine(u32 what, u32 slot, u64 a, u64 b, u64 c)
{
	struct scratch *s = scratch_at(slot);

	if (what == ENGINE_BEGIN)
		return BEGIN_UNCONCERNED | decide_without_engine(a);
	if (what == ENGINE_DECIDE && s) /* it was taken out between the two */
		return decide_without_engine(s->event);
	return 0;
}

/* One for each type of program that is extended: LSM or fmod_ret, and tp_btf. */
SEC("freplace/engine")
u64 engine_for_hooks(u32 what, u32 slot, u64 a, u64 b, u64 c)
{
	return engine_own(what, slot, a, b, c);
}

SEC("freplace/engine")
u64 engine_for_tracepoints(u32 what, u32 slot, u64 a, u64 b, u64 c)
{
	return engine_own(what, slot, a, b, c);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
