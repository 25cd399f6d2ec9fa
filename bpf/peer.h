/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* That nothing follows from what is done with a socket: what is noted, and under what.
 *
 * A decision on a connection, a message, a socket that is put to use came to nothing, was made of nothing but the subject and what struct
 * socket_facts holds, and none of it was uncertain: then it comes to nothing again for the same subject and the same facts. Denials and alerts are
 * never noted.
 *  - The subject is told by its number, which stands for one generation of the policies, one row a group, and the ids and the cgroup that those
 *    depend on; each number is given once (quiet.h). A reload, an exec, other ids, another cgroup or another class of a workload come with another.
 *  - The facts that are noted are those that the event was filled from, so no other thread can bind or connect the socket in between and have one
 *    thing decided and another noted. They are read anew for each message, by the same functions as for the event, so there is nothing to end
 *    where a socket is bound or connected anew. But for ports they are compared whole, not by a hash.
 *  - Of ports the classes are compared: of each port those are noted that the dimensions which were asked put into one class with it. Clients'
 *    ports differ from connection to connection.
 *  - That the diagrams asked for nothing else is told by image_header.addressed. What they would have asked for next was not asked for then either.
 *    So the number of bytes of a message is not looked at: where a rule asks for it nothing is noted.
 *  - The peer of a message is the one that it names, as the event has it: AF_UNSPEC on an IPv4 socket is IPv4, on others no name; what is v4-mapped
 *    is IPv4; an IPv4 name on an IPv6 socket is one. Without a name it is the socket's own. The name is the kernel's copy, which stays as it is.
 *  - Of sockets of other families there is the type, the family and the protocol, to the event as well as here: netlink, packet sockets, vsock.
 *    Raw sockets have their protocol. A unix socket has the path of its peer, too (image_header.named): where that was asked for, nothing is noted.
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
#define FACTS_LONG ((u64)FACTS_IP6 << FACTS_LOCAL_SHIFT | (u64)FACTS_IP6 << FACTS_PEER_SHIFT)

/* In struct socket_facts.ports. */
#define FACTS_LOCAL_PORT 32
#define FACTS_PEER_PORT 48

#define CLIENTS_PORTS 0x8000 /* those from here on have one place in socket_notes: clients get them (net.ipv4.ip_local_port_range) */

static __always_inline u64 facts_port(const struct socket_facts *facts, u32 shift)
{
	return facts->ports >> shift & 0xffff;
}

static __always_inline u64 facts_place(const struct socket_facts *facts)
{
	u64 own = facts_port(facts, FACTS_LOCAL_PORT), peer = facts_port(facts, FACTS_PEER_PORT), hash;

	barrier_var(own); /* else clang looks at bits of them */
	barrier_var(peer);
	if (own > CLIENTS_PORTS)
		own = CLIENTS_PORTS;
	if (peer > CLIENTS_PORTS)
		peer = CLIENTS_PORTS;
	hash = (facts->of ^ (u32)facts->ports ^ own << 16 ^ peer << 40) * 0x9e3779b97f4a7c15ULL;
	hash ^= hash >> 32 ^ facts->peer[0] ^ facts->local[0] << 32;
	if (facts->of & FACTS_LONG)
		hash ^= facts->peer[1] << 1 ^ facts->local[1];
	return hash * 0x9e3779b97f4a7c15ULL >> 32 & (SOCKET_NOTES - 1);
}

/* Of what has no IPv6 address the second words are 0. */
static __always_inline bool facts_alike(const struct socket_note *note, const struct socket_facts *facts)
{
	const struct socket_facts *noted = &note->facts;
	u64 own = facts_port(facts, FACTS_LOCAL_PORT), peer = facts_port(facts, FACTS_PEER_PORT);

	if ((noted->of ^ facts->of) | ((u32)noted->ports ^ (u32)facts->ports) | (noted->local[0] ^ facts->local[0]) | (noted->peer[0] ^ facts->peer[0]))
		return false;
	if (facts->of & FACTS_LONG && (noted->local[1] ^ facts->local[1]) | (noted->peer[1] ^ facts->peer[1]))
		return false;
	return own >= note->own_first && own <= note->own_last && peer >= note->peer_first && peer <= note->peer_last;
}

static __always_inline struct socket_note *socket_note_at(const struct socket_facts *facts)
{
	u32 index = facts_place(facts);

	return bpf_map_lookup_elem(&socket_notes, &index);
}

#endif
