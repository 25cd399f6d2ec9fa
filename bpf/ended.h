/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Events at the ends of functions: what they are filled with, and their decision. For programs that have an engine of their own. */
#ifndef BPFENCE_ENDED_H
#define BPFENCE_ENDED_H

#include "hook.h"

/* Arguments and result of a system call that has returned. The registers are looked for where the task entered the kernel: of the
 * function's own argument 5.10 may know no type ("func '__x64_sys_memfd_create' arg0 type FWD is not a struct").
 */
static __always_inline void set_call(struct scratch *s, long result)
{
	set_num(s, NUM_RESULT, result);
	set_call_arguments(s);
}

/* A text argument, as the caller's memory has it now; at most 254 bytes of it. */
static __always_inline void set_call_text(struct scratch *s, u32 argument)
{
	u32 at = small_take(s);
	u64 from = argument < ABI_NUM_SLOTS ? s->num[argument] : 0;
	long n;

	if (!from)
		return;
	n = bpf_probe_read_user_str(&s->data[MASKED(at, SCRATCH_MASK)], SCRATCH_SLACK, (void *)from);
	if (n <= 0)
		return;
	set_str(s, STR_CALL_TEXT, at, n - 1);
	if (n == SCRATCH_SLACK)
		s->str_uncertain |= STR_BIT(STR_CALL_TEXT);
}

/* What io_uring_setup(2) was asked for, and what it has answered, stand in one structure of the caller's. */
static __always_inline void set_ring(struct scratch *s)
{
	u32 params[RING_PARAMS], i;

	if (bpf_probe_read_user(params, sizeof(params), (void *)s->num[NUM_CALL_ARG1]))
		return;
#pragma unroll
	for (i = 0; i < RING_PARAMS; i++)
		set_num(s, NUM_RING_PARAM_0 + i, params[i]);
}

/* What a new descriptor stands for, where it is a socket. */
static __always_inline void set_duplicate(struct scratch *s, long result)
{
	struct sock *sk = read_sock(read_fd(result));
	u32 at;
	u16 family;

	if (!sk)
		return;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	set_num(s, NUM_NET_FAMILY, family);
	set_num(s, NUM_NET_PROTOCOL, BPF_CORE_READ(sk, sk_protocol));
	if (family != AF_INET && family != AF_INET6)
		return;
	set_num(s, NUM_NET_LOCAL_PORT, BPF_CORE_READ(sk, __sk_common.skc_num));
	set_num(s, NUM_NET_PEER_PORT, __builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport)));
	at = MASKED(small_take(s), SCRATCH_MASK);
	if (family == AF_INET) {
		store_word(&s->data[at], BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
		store_word(&s->data[at + 16], BPF_CORE_READ(sk, __sk_common.skc_daddr));
	} else {
		bpf_probe_read_kernel(&s->data[at], 16, __builtin_preserve_access_index(&sk->__sk_common.skc_v6_rcv_saddr));
		bpf_probe_read_kernel(&s->data[at + 16], 16, __builtin_preserve_access_index(&sk->__sk_common.skc_v6_daddr));
	}
	set_str(s, STR_NET_LOCAL_IP, at, family == AF_INET ? 4 : 16);
	set_str(s, STR_NET_PEER_IP, at + 16, family == AF_INET ? 4 : 16);
}

/* A system call that has ended. `what`: as in map `ended`. */
static __always_inline void decide_ended(u32 what, long result)
{
	u32 slot, text = what >> ENDED_TEXT_SHIFT & 0xff;
	struct scratch *s = event_begin(what & ENDED_EVENT, &slot);

	if (!s)
		return;
	set_call(s, result);
	if (text)
		set_call_text(s, text);
	if (what & ENDED_RING)
		set_ring(s);
	if (what & ENDED_DUP)
		set_duplicate(s, result);
	decide(slot);
	scratch_give(s, slot);
}

#endif
