// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Sockets: the events net.*. Addresses are read from the kernel's copy of the argument, never from user memory. */
#include "hook.h"
#include "peer.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PEER 0
#define LOCAL 1
#define SENDER 2 /* the other side, as the message itself names it */

/* The address of a unix socket in kernel memory, as text. */
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

/* net.unix.path from where a unix socket is bound: its place in the tree, as the mount namespace of whoever bound it calls it, so that
 * no spelling, link or mount of whoever looks for it makes another path; or its abstract name. Where that mount is gone, one of the
 * acting task's; without any the path is uncertain. The kernel's own fields: path and address are set together, and stay (unix_bind).
 */
static __always_inline void set_unix_bound(struct scratch *s, struct sock *sk)
{
	struct unix_sock *bound = (void *)sk;
	struct unix_address *address;
	u64 dentry, mount, ns;

	if (!sk)
		return;
	dentry = (u64)BPF_CORE_READ(bound, path.dentry);
	if (dentry) {
		mount = (u64)BPF_CORE_READ(bound, path.mnt);
		ns = (u64)BPF_CORE_READ((struct mount *)(mount - bpf_core_field_offset(struct mount, mnt)), mnt_ns);
		if (!ns)
			mount = engine(ENGINE_MOUNT, 0, dentry, 0, 0);
		set_path(s, 0, (void *)dentry, (void *)mount);
		s->mnt_ns = ns;
		return;
	}
	address = BPF_CORE_READ(bound, addr);
	if (address)
		set_unix(s, __builtin_preserve_access_index(&address->name), BPF_CORE_READ(address, len));
}

/* struct sockaddr_in and sockaddr_in6 in one, as they begin. */
struct ip_address {
	u16 family;
	u16 port;
	u32 v4;
	u64 v6[2];
};

#define LOOPBACK4 0x0100007f /* 127.0.0.1, and below the last byte of ::1, as they lie in memory, little-endian */
#define LOOPBACK6 (1ULL << 56)

/* Whoever asks for the address that means any gets this host: where the socket is bound, else its loopback address
 * (ip_route_output_key_hash_rcu, tcp_v6_connect, udpv6_sendmsg).
 */
static __always_inline void peer_of_any(struct ip_address *ip, u16 family, u32 own)
{
	if (!own)
		own = LOOPBACK4;
	if (family == AF_INET) {
		if (!ip->v4)
			ip->v4 = own;
	} else if (!ip->v6[0]) {
		if (!ip->v6[1])
			ip->v6[1] = LOOPBACK6;
		else if (ip->v6[1] == 0xffff0000)
			ip->v6[1] |= (u64)own << 32;
	}
}

#define RXRPC_TRANSPORT 8 /* struct sockaddr_rxrpc: the address below it */

/* A sockaddr of `length` bytes in kernel memory, as one side of the connection. More than was given may be read: it is kernel memory all
 * the same, and protocols refuse an address that is too short. `unspecified`: the family that the socket's protocol takes AF_UNSPEC for;
 * `own`: where the socket is bound, which a peer of 0.0.0.0 stands for.
 */
static __always_inline void set_address(struct scratch *s, const void *address, int length, u32 side, u16 unspecified, u32 own)
{
	u32 at = MASKED(small_take(s), SCRATCH_MASK), str = side == LOCAL ? STR_NET_LOCAL_IP : STR_NET_PEER_IP;
	struct ip_address *ip = (void *)&s->data[at];
	u16 family;

	if (!address || length < 2 || bpf_probe_read_kernel(ip, sizeof(*ip), address))
		return;
	if (ip->family == AF_RXRPC && bpf_probe_read_kernel(ip, sizeof(*ip), address + RXRPC_TRANSPORT))
		return;
	family = ip->family ? ip->family : unspecified;
	if (family != AF_INET && family != AF_INET6)
		return;
	set_num(s, side == LOCAL ? NUM_NET_LOCAL_PORT : NUM_NET_PEER_PORT, port_of(ip->port));
	if (side == PEER)
		peer_of_any(ip, family, own);
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

/* The same from the socket's inner half, where a hook is given no other. */
static __always_inline void set_sock(struct scratch *s, struct sock *sk)
{
	set_num(s, NUM_NET_TYPE, sk->sk_type);
	set_num(s, NUM_NET_FAMILY, sk->__sk_common.skc_family);
	set_num(s, NUM_NET_PROTOCOL, sk->sk_protocol);
}

static __always_inline bool is_unix(struct socket *socket)
{
	struct sock *sk = socket->sk;

	return sk && sk->__sk_common.skc_family == AF_UNIX;
}

/* IPv4 sockets take AF_UNSPEC in an address for AF_INET. */
static __always_inline u16 inet_unspecified(struct socket *socket)
{
	struct sock *sk = socket->sk;

	return sk && sk->__sk_common.skc_family == AF_INET ? AF_INET : 0;
}

/* The IPv4 address that the socket is bound to; 0: none. */
static __always_inline u32 inet_own(struct socket *socket)
{
	struct sock *sk = socket->sk;
	u16 family = sk ? sk->__sk_common.skc_family : 0;

	return family == AF_INET || family == AF_INET6 ? sk->__sk_common.skc_rcv_saddr : 0;
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

/* Whether the current task is in this system call, by its numbers: of the 64-bit table, of the 32-bit one, and there of socketcall(2). */
#define CALL_OTHER 0
#define CALL_THIS 1
#define CALL_UNKNOWN 2 /* io_uring, which has no number for each of its works */

static __always_inline u32 in_call(u32 number, u32 number32, u32 socketcall)
{
	u64 call = read_call();
	struct pt_regs *regs;

	if (call == NO_CALL || call_number(call) == NR_IO_URING_ENTER)
		return CALL_UNKNOWN;
	if (!(call & CALL_COMPAT))
		return call == number;
	if (call_number(call) != NR32_SOCKETCALL)
		return call_number(call) == number32;
	regs = read_user_regs();
	return (u32)BPF_CORE_READ(regs, bx) == socketcall;
}

/* The name of a unix socket that a call asks for is text, and what it leads to is decided where the kernel has found or made that. Here
 * begin the records that wait for the call's result, since it may lead nowhere: nothing but those (EVENT_ORIGIN). Where the kernel finds
 * the object, the record of that event takes the place of this one.
 */
static __always_inline int unix_asked(u32 event, struct socket *socket, const void *address, int length)
{
	struct scratch *s;
	u64 call;
	u32 slot;

	if (!may_concern(event) || !(image_features() & IMAGE_DETAILS))
		return 0;
	call = read_call();
	if (call == NO_CALL || call_number(call) == NR_IO_URING_ENTER) /* without a result to wait for: one record, of the object */
		return 0;
	s = event_begin(event, &slot);
	if (!s)
		return event_refused(slot);
	s->flags |= EVENT_ORIGIN;
	set_socket(s, socket);
	if (address)
		set_unix(s, address, length);
	decide(slot);
	scratch_give(s, slot);
	return 0;
}

/* event_end for a hook that decides more than one event: a positive errno, or 0, which deny_value makes the hook's answer at its end. */
static __always_inline int event_error(struct scratch *s, u32 slot)
{
	int error = decide(slot);

	scratch_give(s, slot);
	return error;
}

/* A connection to, or a message for, a unix socket that the kernel has found. A positive errno, or 0. */
static __always_inline int unix_event(u32 event, struct sock *sk, struct sock *other)
{
	struct scratch *s;
	u32 slot;

	s = event_begin(event, &slot);
	if (!s)
		return slot;
	set_sock(s, sk);
	set_unix_bound(s, other);
	return event_error(s, slot);
}

/* The protocol that a socket gets where 0 was asked for. It is known before: the stream and datagram protocols of IP are permanent and the
 * first of their type (net/ipv4/af_inet.c, inetsw_array; INET_PROTOSW_PERMANENT of tcpv6 and udpv6), the other two types have one protocol,
 * raw sockets none; other families have no choice to make. So a denial comes before the kernel loads a module for the protocol, which
 * socket_post_create would be too late for.
 */
static __always_inline int protocol_of(int family, int type, int protocol)
{
	if (protocol || (family != AF_INET && family != AF_INET6))
		return protocol;
	if (type == SOCK_STREAM)
		return IPPROTO_TCP;
	if (type == SOCK_DGRAM)
		return IPPROTO_UDP;
	if (type == SOCK_SEQPACKET)
		return IPPROTO_SCTP;
	return type == SOCK_DCCP ? IPPROTO_DCCP : 0;
}

SEC("lsm/socket_create")
int HOOK_PROG_IF(socket_create__network, EV_NET_CREATE, !kern, int family, int type, int protocol, int kern, int ret)
{
	type &= 0xf;
	set_num(s, NUM_NET_FAMILY, family);
	set_num(s, NUM_NET_TYPE, family == AF_UNIX && type == SOCK_RAW ? SOCK_DGRAM : type); /* unix_create */
	set_num(s, NUM_NET_PROTOCOL, protocol_of(family, type, protocol));
	return decide(slot);
}

SEC("lsm/socket_bind")
int BPF_PROG(socket_bind__network, struct socket *socket, struct sockaddr *address, int length, int ret)
{
	struct scratch *s;
	char first = 0;
	u32 slot;

	HONOUR(ret);
	if (is_unix(socket)) {
		bpf_probe_read_kernel(&first, sizeof(first), (void *)address + 2);
		if (length > 2 && first)
			return unix_asked(EV_NET_BIND, socket, address, length); /* path_mknod */
	}
	s = event_begin(EV_NET_BIND, &slot);
	if (!s)
		return event_refused(slot);
	set_socket(s, socket);
	if (is_unix(socket))
		set_unix(s, address, length);
	else
		set_address(s, address, length, LOCAL, inet_unspecified(socket), 0); /* inet_bind */
	return event_end(s, slot);
}

/* mknod(2) makes a name without a socket. */
static __always_inline bool node_of_socket(u32 mode)
{
	return (mode & S_IFMT) == S_IFSOCK && in_call(NR_MKNOD, NR32_MKNOD, 0) != CALL_THIS &&
	       in_call(NR_MKNODAT, NR32_MKNODAT, 0) != CALL_THIS;
}

/* The node of a unix socket that is being bound. Of the socket itself the hook is given nothing: its type is that of what the descriptor
 * stands for, and not known of binds by io_uring or in the 32-bit table.
 */
static __always_inline int decide_node(struct scratch *s, u32 slot, struct dentry *dentry, u64 mount)
{
	u32 call = in_call(NR_BIND, NR32_BIND, SOCKETCALL_BIND); /* io_uring's may be done in whatever call its task is in */
	struct pt_regs *regs;
	struct sock *sk;

	set_num(s, NUM_NET_FAMILY, AF_UNIX);
	regs = read_user_regs();
	sk = call == CALL_THIS && !read_compat() ? read_sock(read_fd(BPF_CORE_READ(regs, di))) : NULL;
	if (sk)
		set_num(s, NUM_NET_TYPE, BPF_CORE_READ(sk, sk_type));
	if (!mount)
		mount = engine(ENGINE_MOUNT, slot, address_of(s, dentry), 0, 0);
	set_path(s, 0, dentry, (void *)mount);
	return decide(slot);
}

SEC("lsm/path_mknod")
int HOOK_PROG_IF(path_mknod__network, EV_NET_BIND, node_of_socket(mode), const struct path *dir, struct dentry *dentry, unsigned short mode,
		 unsigned int dev, int ret)
{
	return decide_node(s, slot, dentry, (u64)BPF_CORE_READ(dir, mnt));
}

/* Kernels without CONFIG_SECURITY_PATH. */
SEC("lsm/inode_mknod")
int HOOK_PROG_IF(inode_mknod__network, EV_NET_BIND, node_of_socket(mode), struct inode *dir, struct dentry *dentry, unsigned short mode,
		 unsigned int dev, int ret)
{
	return decide_node(s, slot, dentry, 0);
}

SEC("lsm/socket_listen")
int HOOK_PROG(socket_listen__network, EV_NET_LISTEN, struct socket *socket, int backlog, int ret)
{
	set_socket(s, socket);
	set_socket_local(s, socket);
	return decide(slot);
}

/* ---- what connections are decided on: see peer.h ---- */

static __always_inline u32 facts_shift(u32 side)
{
	return side == LOCAL ? FACTS_LOCAL_SHIFT : FACTS_PEER_SHIFT;
}

static __always_inline u32 facts_port_shift(u32 side)
{
	return side == LOCAL ? FACTS_LOCAL_PORT : FACTS_PEER_PORT;
}

static __always_inline bool facts_have(const struct socket_facts *facts, u32 side)
{
	return facts->of >> facts_shift(side) & 3;
}

/* One side: its address as it lies in memory, 4 or 16 bytes; of a v4-mapped one the last 4. */
static __always_inline void facts_side(struct socket_facts *facts, u32 side, u16 family, u64 port, u64 low, u64 high)
{
	u64 kind = FACTS_IP4, *to = side == LOCAL ? facts->local : facts->peer;

	if (family == AF_INET6) {
		if (!low && (u32)high == 0xffff0000) {
			low = high >> 32;
			high = 0;
		} else {
			kind = FACTS_IP6;
		}
	}
	to[0] = low;
	to[1] = high;
	facts->ports |= port << facts_port_shift(side);
	facts->of |= kind << facts_shift(side);
}

/* A side of an internet socket as that has it, by loads: its address is `v4` or `v6`. */
#define facts_own_side(facts, side, family, port, v4, v6) \
	do { \
		if ((family) == AF_INET) \
			facts_side(facts, side, family, port, v4, 0); \
		else \
			facts_side(facts, side, family, port, WORDS((v6).in6_u.u6_addr32, 0), WORDS((v6).in6_u.u6_addr32, 2)); \
	} while (0)
#define WORDS(words, i) ((u64)(words)[(i) + 1] << 32 | (words)[i])

/* The event, and what the socket is and is bound to. */
static __always_inline void facts_of_socket(struct socket_facts *facts, u32 event, struct socket *socket)
{
	struct sock *sk = socket->sk;
	u16 family;

	__builtin_memset(facts, 0, sizeof(*facts));
	facts->of = event | (u64)(socket->type & FACTS_TYPE_MASK) << FACTS_TYPE_SHIFT;
	if (!sk)
		return;
	family = sk->__sk_common.skc_family;
	facts->of |= FACTS_SOCK;
	facts->ports = family | (u64)sk->sk_protocol << 16;
	if (family == AF_INET || family == AF_INET6)
		facts_own_side(facts, LOCAL, family, sk->__sk_common.skc_num, sk->__sk_common.skc_rcv_saddr,
			       sk->__sk_common.skc_v6_rcv_saddr);
}

/* The beginning of an address in kernel memory, by loads where that is aligned. Where the family is IPv4's, no more than that has. */
static __always_inline bool read_address(struct ip_address *ip, const void *address)
{
	u64 at = (u64)address, word;

	if (!have_rdonly_cast)
		return !bpf_probe_read_kernel(ip, sizeof(*ip), address);
	asm volatile("" : "+r"(at)); /* not before that: 5.10 "R2 bitwise operator &= on pointer prohibited" */
	if (at & 7)
		return !bpf_probe_read_kernel(ip, sizeof(*ip), address);
	word = pointer_at(at);
	ip->family = word;
	ip->port = word >> 16;
	ip->v4 = word >> 32;
	ip->v6[0] = 0;
	ip->v6[1] = 0;
	if (ip->family != AF_INET) {
		ip->v6[0] = pointer_at(at + offsetof(struct ip_address, v6));
		ip->v6[1] = pointer_at(at + offsetof(struct ip_address, v6) + 8);
	}
	return true;
}

/* The other side, by a sockaddr as set_address has it. */
static __always_inline void facts_of_peer(struct socket_facts *facts, const void *address, int length, u16 unspecified, u32 own)
{
	struct ip_address ip;
	u16 family;

	if (!address || length < 2 || !read_address(&ip, address))
		return;
	if (ip.family == AF_RXRPC && !read_address(&ip, address + RXRPC_TRANSPORT))
		return;
	family = ip.family ? ip.family : unspecified;
	if (family != AF_INET && family != AF_INET6)
		return;
	peer_of_any(&ip, family, own);
	facts_side(facts, PEER, family, port_of(ip.port), family == AF_INET ? ip.v4 : ip.v6[0], family == AF_INET ? 0 : ip.v6[1]);
}

/* One side into the event. */
static __always_inline void set_side(struct scratch *s, const struct socket_facts *facts, u32 side)
{
	const u64 *from = side == LOCAL ? facts->local : facts->peer;
	u64 kind = facts->of >> facts_shift(side) & 3;
	u32 at;

	if (kind == FACTS_NONE)
		return;
	set_num(s, side == LOCAL ? NUM_NET_LOCAL_PORT : NUM_NET_PEER_PORT, facts->ports >> facts_port_shift(side) & 0xffff);
	at = MASKED(small_take(s), SCRATCH_MASK);
	store_word(&s->data[at], from[0]);
	store_word(&s->data[at + 8], from[1]);
	set_str(s, side == LOCAL ? STR_NET_LOCAL_IP : STR_NET_PEER_IP, at, kind == FACTS_IP4 ? 4 : 16);
}

static __always_inline void set_facts(struct scratch *s)
{
	const struct socket_facts *facts = &s->facts;

	set_num(s, NUM_NET_TYPE, facts->of >> FACTS_TYPE_SHIFT & FACTS_TYPE_MASK);
	if (facts->of & FACTS_SOCK) {
		set_num(s, NUM_NET_FAMILY, facts->ports & 0xffff);
		set_num(s, NUM_NET_PROTOCOL, facts->ports >> 16 & 0xffff);
	}
	set_side(s, facts, LOCAL);
	set_side(s, facts, PEER);
}

/* Whether nothing follows from an event of the subject with this number, by what has been noted of others like it. */
static __always_inline bool socket_quiet(struct socket_facts *facts, u64 number)
{
	struct socket_note *note;
	u64 ended;
	bool alike;

	facts->of |= number << FACTS_NUMBER_SHIFT;
	note = socket_note_at(facts);
	if (!note)
		return false;
	ended = *(volatile u64 *)&note->ended;
	barrier();
	alike = facts_alike(note, facts);
	barrier();
	return alike && *(volatile u64 *)&note->begun == ended;
}

/* event_error for what has been looked up by socket_quiet. */
static __always_inline int socket_decided(struct scratch *s, u32 slot)
{
	int error = decide(slot);

	if (!error && have_notes())
		engine(ENGINE_SOCKET_NOTE, slot, 0, 0, 0);
	scratch_give(s, slot);
	return error;
}

static __always_inline void facts_of_connect(struct socket_facts *facts, struct socket *socket, const void *address, int length)
{
	facts_of_socket(facts, EV_NET_CONNECT, socket);
	facts_of_peer(facts, address, length, 0, inet_own(socket)); /* AF_UNSPEC: an end of the connection, to nowhere */
}

/* Functions of their own: a hook's frame is the first of eight, and there is no room for the facts. What is decided on where nothing has been
 * noted is read anew. Only where there are notes.
 */
static __noinline int connect_quiet(struct socket *socket, const void *address, int length)
{
	u64 number = subject_of(EV_NET_CONNECT);
	struct socket_facts facts;

	if (number == SUBJECT_NOTHING)
		return true;
	if (!number)
		return false;
	facts_of_connect(&facts, socket, address, length);
	return socket_quiet(&facts, number);
}

/* A positive errno, or 0. */
static __always_inline int connect_event(struct socket *socket, const void *address, int length)
{
	struct scratch *s;
	u32 slot;

	if (have_notes() && connect_quiet(socket, address, length))
		return 0;
	s = event_begin(EV_NET_CONNECT, &slot);
	if (!s)
		return slot;
	facts_of_connect(&s->facts, socket, address, length);
	set_facts(s);
	set_num(s, NUM_NET_ADDRLEN, (u32)length);
	return socket_decided(s, slot);
}

SEC("lsm/socket_connect")
int BPF_PROG(socket_connect__network, struct socket *socket, struct sockaddr *address, int length, int ret)
{
	HONOUR(ret);
	if (is_unix(socket))
		return unix_asked(EV_NET_CONNECT, socket, address, length);
	return deny_value(connect_event(socket, as_number(address), length));
}

/* connect(2) of unix stream and seqpacket sockets, where the listening one is found. */
SEC("lsm/unix_stream_connect")
int BPF_PROG(unix_stream_connect__network, struct sock *sk, struct sock *other, struct sock *child, int ret)
{
	HONOUR(ret);
	return deny_value(unix_event(EV_NET_CONNECT, sk, other));
}

/* Datagrams to unix sockets, and connect(2) that sets where they go: one hook, told apart by the system call. Of io_uring's work both are
 * decided.
 */
SEC("lsm/unix_may_send")
int BPF_PROG(unix_may_send__network, struct socket *socket, struct socket *other, int ret)
{
	struct sock *sk, *to;
	int error = 0;
	u32 connects;

	HONOUR(ret);
	if (socket->type != SOCK_DGRAM) /* the others are decided at socket_sendmsg */
		return 0;
	sk = socket->sk;
	to = other->sk;
	if (!sk || !to) /* there are both; 6.12 wants to see it ("R4 invalid mem access 'trusted_ptr_or_null_'") */
		return 0;
	if (!may_concern(EV_NET_CONNECT) && !may_concern(EV_NET_SEND))
		return 0;
	connects = in_call(NR_CONNECT, NR32_CONNECT, SOCKETCALL_CONNECT);
	if (connects != CALL_OTHER)
		error = unix_event(EV_NET_CONNECT, sk, to);
	if (!error && connects != CALL_THIS)
		error = unix_event(EV_NET_SEND, sk, to);
	return deny_value(error);
}

#define SCTP_ADDRESSES 32 /* of one call; further ones are uncertain */
#define SOCKADDR_IN_SIZE 16 /* the kernel's; our types have the members that are read */
#define SOCKADDR_IN6_SIZE 28

/* Begins the event of the scratch anew for the address at `from`, number `i` of its call: where that lies behind it, 0: too many. A function of
 * its own, because the hook's frame is the first of eight.
 */
__noinline u64 sctp_address(u32 slot, u64 from, u32 i)
{
	struct scratch *s = scratch_at(slot);
	u32 event, type, side;
	u64 family, protocol;
	u16 of = 0;

	if (!s)
		return 0;
	event = s->event;
	side = event == EV_NET_BIND ? LOCAL : PEER;
	type = s->num[NUM_NET_TYPE];
	family = s->num[NUM_NET_FAMILY];
	protocol = s->num[NUM_NET_PROTOCOL];
	scratch_clear(s, event);
	set_process(s);
	set_num(s, NUM_NET_TYPE, type);
	set_num(s, NUM_NET_FAMILY, family);
	set_num(s, NUM_NET_PROTOCOL, protocol);
	if (i >= SCTP_ADDRESSES) {
		s->str_uncertain |= STR_BIT(side == LOCAL ? STR_NET_LOCAL_IP : STR_NET_PEER_IP);
		return 0;
	}
	set_address(s, (void *)from, SOCKADDR_IN_SIZE, side, 0, 0);
	bpf_probe_read_kernel(&of, sizeof(of), (void *)from);
	return from + (of == AF_INET6 ? SOCKADDR_IN6_SIZE : SOCKADDR_IN_SIZE);
}

static __always_inline u32 sctp_event(int optname)
{
	if (optname == SCTP_SOCKOPT_CONNECTX || optname == SCTP_SENDMSG_CONNECT)
		return EV_NET_CONNECT;
	return optname == SCTP_SOCKOPT_BINDX_ADD ? EV_NET_BIND : EV_NONE;
}

/* sctp_connectx(3), sctp_bindx(3), and the association that a message to an address begins: an event for each address, until one is
 * refused. The address comes as a number, so that places behind it can be counted. What the other side of an association asks for
 * (SCTP_PARAM_*) is in no task's name.
 */
SEC("lsm/sctp_bind_connect")
int HOOK_PROG(sctp_bind_connect__network, sctp_event(optname), struct sock *sk, int optname, struct sockaddr *address, int length, int ret)
{
	int error = 0;
	u64 from, end;
	u32 i;

	set_sock(s, sk);
	from = address_of(s, address);
	end = from + (u32)length;
	for (i = 0; i <= SCTP_ADDRESSES; i++) {
		if (error || !from || from >= end)
			break;
		from = sctp_address(slot, from, i);
		error = decide(slot);
	}
	return error;
}

static __noinline int accept_quiet(struct socket *socket)
{
	u64 number = subject_of(EV_NET_ACCEPT);
	struct socket_facts facts;

	if (number == SUBJECT_NOTHING)
		return true;
	if (!number)
		return false;
	facts_of_socket(&facts, EV_NET_ACCEPT, socket);
	return socket_quiet(&facts, number);
}

SEC("lsm/socket_accept")
int BPF_PROG(socket_accept__network, struct socket *socket, struct socket *new, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	if (have_notes() && accept_quiet(socket))
		return 0;
	s = event_begin(EV_NET_ACCEPT, &slot);
	if (!s)
		return event_refused(slot);
	facts_of_socket(&s->facts, EV_NET_ACCEPT, socket);
	set_facts(s);
	return deny_value(socket_decided(s, slot));
}

/* A connection that a message begins: nothing is noted of it. A positive errno, or 0. */
static __always_inline int message_connects(struct socket *socket, const void *address, int length)
{
	struct scratch *s;
	u32 slot;

	s = event_begin(EV_NET_CONNECT, &slot);
	if (!s)
		return slot;
	set_socket(s, socket);
	set_socket_local(s, socket);
	set_address(s, address, length, PEER, 0, inet_own(socket)); /* AF_UNSPEC: an end of the connection, to nowhere */
	return event_error(s, slot);
}

static __always_inline void facts_of_message(struct socket_facts *facts, struct socket *socket, struct msghdr *message)
{
	struct sock *sk = socket->sk;
	u16 family = sk ? sk->__sk_common.skc_family : 0;
	void *name;

	facts_of_socket(facts, EV_NET_SEND, socket);
	if (family == AF_UNIX)
		return;
	name = message->msg_name;
	/* A number to the verifier, on each kernel: what is loaded of a member "void *" is one to 6.12, and untrusted memory to 7.3. */
	if (name && have_rdonly_cast)
		name = (void *)pointer_at(number_of(message) + bpf_core_field_offset(struct msghdr, msg_name));
	if (name)
		facts_of_peer(facts, name, message->msg_namelen, inet_unspecified(socket), inet_own(socket)); /* udp_sendmsg, raw_sendmsg */
	/* Without a name; or AF_UNSPEC on an IPv6 socket, which means the same (udpv6_sendmsg). */
	if (sk && (family == AF_INET || family == AF_INET6) && !facts_have(facts, PEER))
		facts_own_side(facts, PEER, family, port_of(sk->__sk_common.skc_dport), sk->__sk_common.skc_daddr, sk->__sk_common.skc_v6_daddr);
}

/* The same in short where an IPv4 socket's message has no name. */
static __always_inline bool facts_of_connected(struct socket_facts *facts, struct socket *socket, struct msghdr *message)
{
	struct sock *sk = socket->sk;

	if (!sk || sk->__sk_common.skc_family != AF_INET || message->msg_name)
		return false;
	facts->of = EV_NET_SEND | (u64)(socket->type & FACTS_TYPE_MASK) << FACTS_TYPE_SHIFT | FACTS_SOCK | FACTS_IP4 << FACTS_LOCAL_SHIFT |
		    FACTS_IP4 << FACTS_PEER_SHIFT;
	facts->ports = AF_INET | (u64)sk->sk_protocol << 16 | (u64)sk->__sk_common.skc_num << FACTS_LOCAL_PORT |
		       port_of(sk->__sk_common.skc_dport) << FACTS_PEER_PORT;
	facts->local[0] = sk->__sk_common.skc_rcv_saddr;
	facts->local[1] = 0;
	facts->peer[0] = sk->__sk_common.skc_daddr;
	facts->peer[1] = 0;
	return true;
}

/* See connect_quiet. */
static __noinline int send_quiet(struct socket *socket, struct msghdr *message)
{
	u64 number = subject_of(EV_NET_SEND);
	struct socket_facts facts;

	if (number == SUBJECT_NOTHING)
		return true;
	if (!number)
		return false;
	if (facts_of_connected(&facts, socket, message))
		return socket_quiet(&facts, number);
	facts_of_message(&facts, socket, message);
	return socket_quiet(&facts, number);
}

/* A positive errno, or 0. */
static __always_inline int send_event(struct socket *socket, struct msghdr *message, u32 size)
{
	struct sock *sk = socket->sk;
	struct scratch *s;
	u32 slot;

	if (have_notes() && send_quiet(socket, message))
		return 0;
	s = event_begin(EV_NET_SEND, &slot);
	if (!s)
		return slot;
	facts_of_message(&s->facts, socket, message);
	set_facts(s);
	set_num(s, NUM_NET_SIZE, size);
	if (sk && sk->__sk_common.skc_family == AF_UNIX)
		set_unix_bound(s, BPF_CORE_READ((struct unix_sock *)sk, peer));
	return socket_decided(s, slot);
}

/* With MSG_FASTOPEN a message begins the connection to its address (TCP, MPTCP, and SMC by way of TCP). Whatever state the socket is in:
 * on a connected one that fails, and the state may be another by the time the kernel looks. A connection that TCP_FASTOPEN_CONNECT puts
 * off until the first message was decided at connect(2).
 */
SEC("lsm/socket_sendmsg")
int BPF_PROG(socket_sendmsg__network, struct socket *socket, struct msghdr *message, int size, int ret)
{
	int error = 0;

	HONOUR(ret);
	if (is_unix(socket)) {
		if (socket->type == SOCK_DGRAM)
			return unix_asked(EV_NET_SEND, socket, message->msg_name, message->msg_namelen); /* unix_may_send */
	} else if (message->msg_flags & MSG_FASTOPEN && message->msg_name && socket->type == SOCK_STREAM) {
		error = message_connects(socket, message->msg_name, message->msg_namelen);
	}
	if (!error)
		error = send_event(socket, message, size);
	return deny_value(error);
}

/* What was no message: the first try of io_uring, without waiting, and the end of the messages of one recvmmsg(2). */
static __always_inline bool only_tried(int result)
{
	u32 call;

	if (result >= 0)
		return false;
	call = in_call(NR_RECVMMSG, NR32_RECVMMSG, SOCKETCALL_RECVMMSG);
	if (call == CALL_UNKNOWN)
		return result == -EAGAIN;
	return call == CALL_THIS || read_call() == (NR32_RECVMMSG_TIME64 | CALL_COMPAT);
}

/* What an internet socket has received, or why not, by whatever call: behind the hook, which comes before there is a message. The protocol has
 * written the sender's address into the kernel's own copy, where the caller wants to know it.
 */
static __always_inline int decide_recv(struct scratch *s, u32 slot, struct socket *socket, struct msghdr *message, u64 size, int result)
{
	struct sock *sk = socket->sk;
	void *name;

	set_num(s, NUM_RESULT, (s64)result);
	set_socket(s, socket);
	set_socket_local(s, socket);
	set_num(s, NUM_NET_SIZE, size);
	set_num(s, NUM_NET_CONNECTED, sk && sk->__sk_common.skc_dport);
	name = message->msg_name;
	if (result >= 0 && name && message->msg_namelen > 0)
		set_address(s, name, message->msg_namelen, SENDER, 0, 0);
	if (s->num[NUM_NET_CONNECTED] && !has_num(s, NUM_NET_PEER_PORT))
		set_socket_peer(s, socket);
	return decide(slot);
}

SEC("fexit/inet_recvmsg")
int RETURN_PROG_IF(inet_recvmsg__call, EV_NET_RECV, may_concern(EV_NET_RECV) && !only_tried(result), struct socket *socket,
		   struct msghdr *message, unsigned long size, int flags, int result)
{
	return decide_recv(s, slot, socket, message, size, result);
}

SEC("fexit/inet6_recvmsg")
int RETURN_PROG_IF(inet6_recvmsg__call, EV_NET_RECV, may_concern(EV_NET_RECV) && !only_tried(result), struct socket *socket,
		   struct msghdr *message, unsigned long size, int flags, int result)
{
	return decide_recv(s, slot, socket, message, size, result);
}
