/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* That nothing follows from a connection: what is noted, and under what.
 *
 * A decision on a connection came to nothing, was made of nothing but the subject and what struct socket_facts holds, and none of it
 * was uncertain: then it comes to nothing again for the same subject and the same facts. Denials and alerts are never noted.
 *  - The subject is told by its number, which stands for one generation of the policies, one row a group, and the ids and the cgroup that those
 *    depend on; each number is given once (quiet.h). A reload, an exec, other ids, another cgroup or another class of a workload come with another.
 *  - The facts that are noted are those that the event was filled from, so no other thread can bind or connect the socket in between and have one
 *    thing decided and another noted. They are compared whole, not by a hash.
 *  - That the diagrams asked for nothing else is told by image_header.addressed. What they would have asked for next was not asked for then either.
 * As in known.h: whoever finds a note half written, or somebody else writing, goes without.
 */
#ifndef BPFENCE_PEER_H
#define BPFENCE_PEER_H

#include "engine.h"

#define FACTS_TYPE_SHIFT 8
#define FACTS_TYPE_MASK 15 /* there are 11 (SOCK_MAX) */
#define FACTS_LOCAL_SHIFT 12
#define FACTS_PEER_SHIFT 14
#define FACTS_SOCK (1ULL << 16)
#define FACTS_NUMBER_SHIFT 32

/* What an address is in the facts. */
#define FACTS_NONE 0
#define FACTS_IP4 1
#define FACTS_IP6 2

static __always_inline u64 facts_place(const struct socket_facts *facts)
{
	u64 hash = facts->of;

	hash = (hash ^ facts->ports) * 0x9e3779b97f4a7c15ULL;
	hash = (hash ^ hash >> 32 ^ facts->peer[0]) * 0x9e3779b97f4a7c15ULL;
	hash = (hash ^ facts->peer[1] ^ facts->local[0] << 1 ^ facts->local[1]) * 0x9e3779b97f4a7c15ULL;
	return hash >> 32 & (SOCKET_NOTES - 1);
}

static __always_inline bool facts_alike(const struct socket_facts *a, const struct socket_facts *b)
{
	return !((a->of ^ b->of) | (a->ports ^ b->ports) | (a->local[0] ^ b->local[0]) | (a->local[1] ^ b->local[1]) | (a->peer[0] ^ b->peer[0]) |
		 (a->peer[1] ^ b->peer[1]));
}

static __always_inline struct socket_note *socket_note_at(const struct socket_facts *facts)
{
	u32 index = facts_place(facts);

	return bpf_map_lookup_elem(&socket_notes, &index);
}

#endif
