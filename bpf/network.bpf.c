// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Sockets: the events net.*. Addresses are read from the kernel's copy of the argument, never from user memory. */
#include "engine.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PEER 0
#define LOCAL 1

static __always_inline u64 port_of(u16 network_order)
{
	return __builtin_bswap16(network_order);
}

static __always_inline void set_ip4(struct scratch *s, u32 str, u32 address)
{
	u32 at = MASKED(small_take(s), SCRATCH_MASK);

	store_word(&s->data[at], address);
	set_str(s, str, at, 4);
}

/* 16 bytes in the scratch as an address: 4 of them where it is v4-mapped. */
static __always_inline void set_ip6(struct scratch *s, u32 str, u32 at)
{
	u64 *words = (void *)&s->data[at & SCRATCH_MASK];
	bool mapped = !words[0] && (u32)words[1] == 0xffff0000; /* as they lie in memory, little-endian */

	set_str(s, str, mapped ? at + 12 : at, mapped ? 4 : 16);
}

static __always_inline void set_unix(struct scratch *s, const void *address, int length)
{
	u32 at = MASKED(small_take(s), SCRATCH_MASK), n;
	long got;

	if (length <= 2 || length > (int)sizeof(struct sockaddr_un))
		return;
	n = (length - 2) & 127;
	if (bpf_probe_read_kernel(&s->data[at], n, address + 2))
		return;
	if (!s->data[at]) {
		s->data[at] = '@';
		set_str(s, STR_NET_UNIX_PATH, at, n);
		return;
	}
	s->data[(at + n) & SCRATCH_MASK] = 0;
	got = bpf_probe_read_kernel_str(&s->data[(at + 128) & SCRATCH_MASK], 128, &s->data[at]);
	if (got > 1)
		set_str(s, STR_NET_UNIX_PATH, at, got - 1);
}

/* struct sockaddr_in and sockaddr_in6 in one, as they begin. */
struct ip_address {
	u16 family;
	u16 port;
	u32 v4;
	u64 v6[2];
};

/* A sockaddr of `length` bytes in kernel memory, as one side of the connection. More than was given may be read: it is kernel memory all
 * the same, and protocols refuse an address that is too short. `unspecified`: the family that the socket's protocol takes AF_UNSPEC for.
 */
static __always_inline void set_address(struct scratch *s, const void *address, int length, u32 side, u16 unspecified)
{
	u32 at = MASKED(small_take(s), SCRATCH_MASK), str = side == PEER ? STR_NET_PEER_IP : STR_NET_LOCAL_IP;
	struct ip_address *ip = (void *)&s->data[at];
	u16 family;

	if (!address || length < 2 || bpf_probe_read_kernel(ip, sizeof(*ip), address))
		return;
	family = ip->family ? ip->family : unspecified;
	if (family == AF_UNIX) {
		set_unix(s, address, length);
		return;
	}
	if (family != AF_INET && family != AF_INET6)
		return;
	set_num(s, side == PEER ? NUM_NET_PEER_PORT : NUM_NET_LOCAL_PORT, port_of(ip->port));
	if (family == AF_INET)
		set_str(s, str, at + offsetof(struct ip_address, v4), 4);
	else
		set_ip6(s, str, at + offsetof(struct ip_address, v6));
}

/* What the hook is given comes with a type: these are loads, not calls. */
static __always_inline void set_socket(struct scratch *s, struct socket *socket)
{
	struct sock *sk = socket->sk;

	set_num(s, NUM_NET_TYPE, socket->type);
	if (!sk)
		return;
	set_num(s, NUM_NET_FAMILY, sk->__sk_common.skc_family);
	set_num(s, NUM_NET_PROTOCOL, sk->sk_protocol);
}

/* IPv4 sockets take AF_UNSPEC in an address for AF_INET. */
static __always_inline u16 inet_unspecified(struct socket *socket)
{
	struct sock *sk = socket->sk;

	return sk && sk->__sk_common.skc_family == AF_INET ? AF_INET : 0;
}

static __always_inline void set_sock_ip6(struct scratch *s, u32 str, const struct in6_addr *address)
{
	u32 at = MASKED(small_take(s), SCRATCH_MASK);

	if (!bpf_probe_read_kernel(&s->data[at], sizeof(*address), address))
		set_ip6(s, str, at);
}

/* The own side as the socket has it. */
static __always_inline void set_socket_local(struct scratch *s, struct socket *socket)
{
	struct sock *sk = socket->sk;
	u16 family;

	if (!sk)
		return;
	family = sk->__sk_common.skc_family;
	if (family != AF_INET && family != AF_INET6)
		return;
	set_num(s, NUM_NET_LOCAL_PORT, sk->__sk_common.skc_num);
	if (family == AF_INET)
		set_ip4(s, STR_NET_LOCAL_IP, sk->__sk_common.skc_rcv_saddr);
	else
		set_sock_ip6(s, STR_NET_LOCAL_IP, __builtin_preserve_access_index(&sk->__sk_common.skc_v6_rcv_saddr));
}

static __always_inline void set_socket_peer(struct scratch *s, struct socket *socket)
{
	struct sock *sk = socket->sk;
	u16 family;

	if (!sk)
		return;
	family = sk->__sk_common.skc_family;
	if (family != AF_INET && family != AF_INET6)
		return;
	set_num(s, NUM_NET_PEER_PORT, port_of(sk->__sk_common.skc_dport));
	if (family == AF_INET)
		set_ip4(s, STR_NET_PEER_IP, sk->__sk_common.skc_daddr);
	else
		set_sock_ip6(s, STR_NET_PEER_IP, __builtin_preserve_access_index(&sk->__sk_common.skc_v6_daddr));
}

SEC("lsm/socket_create")
int BPF_PROG(socket_create__network, int family, int type, int protocol, int kern, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	if (kern)
		return 0;
	s = event_begin(EV_NET_CREATE, &slot);
	if (!s)
		return event_refused(slot);
	set_num(s, NUM_NET_FAMILY, family);
	set_num(s, NUM_NET_TYPE, type & 0xf);
	set_num(s, NUM_NET_PROTOCOL, protocol);
	return event_end(s, slot);
}

SEC("lsm/socket_bind")
int BPF_PROG(socket_bind__network, struct socket *socket, struct sockaddr *address, int length, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_NET_BIND, &slot);
	if (!s)
		return event_refused(slot);
	set_socket(s, socket);
	set_address(s, address, length, LOCAL, inet_unspecified(socket)); /* inet_bind */
	return event_end(s, slot);
}

SEC("lsm/socket_listen")
int BPF_PROG(socket_listen__network, struct socket *socket, int backlog, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_NET_LISTEN, &slot);
	if (!s)
		return event_refused(slot);
	set_socket(s, socket);
	set_socket_local(s, socket);
	return event_end(s, slot);
}

SEC("lsm/socket_connect")
int BPF_PROG(socket_connect__network, struct socket *socket, struct sockaddr *address, int length, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_NET_CONNECT, &slot);
	if (!s)
		return event_refused(slot);
	set_socket(s, socket);
	set_socket_local(s, socket);
	set_address(s, address, length, PEER, 0); /* AF_UNSPEC: an end of the connection, to nowhere */
	return event_end(s, slot);
}

SEC("lsm/socket_accept")
int BPF_PROG(socket_accept__network, struct socket *socket, struct socket *new, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_NET_ACCEPT, &slot);
	if (!s)
		return event_refused(slot);
	set_socket(s, socket);
	set_socket_local(s, socket);
	return event_end(s, slot);
}

SEC("lsm/socket_sendmsg")
int BPF_PROG(socket_sendmsg__network, struct socket *socket, struct msghdr *message, int size, int ret)
{
	struct scratch *s;
	void *name;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_NET_SEND, &slot);
	if (!s)
		return event_refused(slot);
	set_socket(s, socket);
	set_socket_local(s, socket);
	name = message->msg_name;
	if (name)
		set_address(s, name, message->msg_namelen, PEER, inet_unspecified(socket)); /* udp_sendmsg, raw_sendmsg */
	if (!(s->num_present & (1ULL << NUM_NET_PEER_PORT)))
		set_socket_peer(s, socket); /* without a name; or AF_UNSPEC on an IPv6 socket, which means the same (udpv6_sendmsg) */
	return event_end(s, slot);
}
