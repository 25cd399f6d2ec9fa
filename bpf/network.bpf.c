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

/* 4 bytes for IPv4 and v4-mapped IPv6, else 16. */
static __always_inline void set_ip(struct scratch *s, u32 str, const void *address, u32 length)
{
	u32 at = small_take(s) & SCRATCH_MASK;
	const u8 *bytes = &s->data[at];
	u32 i, mapped = 1;

	if (length == 4) {
		bpf_probe_read_kernel(&s->data[at], 4, address);
		set_str(s, str, at, 4);
		return;
	}
	bpf_probe_read_kernel(&s->data[at], 16, address);
#pragma unroll
	for (i = 0; i < 10; i++)
		mapped &= bytes[i] == 0;
	mapped &= bytes[10] == 0xff && bytes[11] == 0xff;
	set_str(s, str, mapped ? at + 12 : at, mapped ? 4 : 16);
}

static __always_inline void set_unix(struct scratch *s, const void *address, int length)
{
	u32 at = small_take(s) & SCRATCH_MASK, n;
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

/* A sockaddr of `length` bytes in kernel memory, as one side of the connection. */
static __always_inline void set_address(struct scratch *s, const void *address, int length, u32 side)
{
	u16 family = 0, port = 0;

	if (!address || length < 2 || bpf_probe_read_kernel(&family, 2, address))
		return;
	if (family == AF_UNIX) {
		set_unix(s, address, length);
		return;
	}
	if (family != AF_INET && family != AF_INET6)
		return;
	bpf_probe_read_kernel(&port, 2, address + 2);
	set_num(s, side == PEER ? NUM_NET_PEER_PORT : NUM_NET_LOCAL_PORT, port_of(port));
	set_ip(s, side == PEER ? STR_NET_PEER_IP : STR_NET_LOCAL_IP, address + (family == AF_INET ? 4 : 8), family == AF_INET ? 4 : 16);
}

static __always_inline void set_socket(struct scratch *s, struct socket *socket)
{
	struct sock *sk = BPF_CORE_READ(socket, sk);

	set_num(s, NUM_NET_TYPE, BPF_CORE_READ(socket, type));
	if (!sk)
		return;
	set_num(s, NUM_NET_FAMILY, BPF_CORE_READ(sk, __sk_common.skc_family));
	set_num(s, NUM_NET_PROTOCOL, BPF_CORE_READ_BITFIELD_PROBED(sk, sk_protocol));
}

/* The own side as the socket has it. */
static __always_inline void set_socket_local(struct scratch *s, struct socket *socket)
{
	struct sock *sk = BPF_CORE_READ(socket, sk);
	u16 family;

	if (!sk)
		return;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family != AF_INET && family != AF_INET6)
		return;
	set_num(s, NUM_NET_LOCAL_PORT, BPF_CORE_READ(sk, __sk_common.skc_num));
	if (family == AF_INET)
		set_ip(s, STR_NET_LOCAL_IP, __builtin_preserve_access_index(&sk->__sk_common.skc_rcv_saddr), 4);
	else
		set_ip(s, STR_NET_LOCAL_IP, __builtin_preserve_access_index(&sk->__sk_common.skc_v6_rcv_saddr), 16);
}

static __always_inline void set_socket_peer(struct scratch *s, struct socket *socket)
{
	struct sock *sk = BPF_CORE_READ(socket, sk);
	u16 family;

	if (!sk)
		return;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family != AF_INET && family != AF_INET6)
		return;
	set_num(s, NUM_NET_PEER_PORT, port_of(BPF_CORE_READ(sk, __sk_common.skc_dport)));
	if (family == AF_INET)
		set_ip(s, STR_NET_PEER_IP, __builtin_preserve_access_index(&sk->__sk_common.skc_daddr), 4);
	else
		set_ip(s, STR_NET_PEER_IP, __builtin_preserve_access_index(&sk->__sk_common.skc_v6_daddr), 16);
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
		return 0;
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
		return 0;
	set_socket(s, socket);
	set_address(s, address, length, LOCAL);
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
		return 0;
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
		return 0;
	set_socket(s, socket);
	set_socket_local(s, socket);
	set_address(s, address, length, PEER);
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
		return 0;
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
		return 0;
	set_socket(s, socket);
	set_socket_local(s, socket);
	name = BPF_CORE_READ(message, msg_name);
	if (name)
		set_address(s, name, BPF_CORE_READ(message, msg_namelen), PEER);
	else
		set_socket_peer(s, socket);
	return event_end(s, slot);
}
