// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Generic sensors: one program for each way of attaching, attached as often as there are sensors. The cookie that it was attached with says
 * which one it is at; map `sensors` says how that one's arguments are read. They come into slots of the event, and the diagrams of the event decide,
 * of which NUM_HOOK is a dimension.
 *
 * Only sensor_lsm denies: what the others return has no meaning to the kernel.
 */
#include "hook.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define GIVEN NUM_CALL_ARG0 /* where the arguments lie as they were given, without being numbers of the event */
#define GIVEN_MAX 6

static __always_inline void set_sized(struct scratch *s, u32 slot, u64 value, u32 size)
{
	u64 at = MASKED(slot, ABI_NUM_SLOTS - 1);
	u32 unused = 64 - (size & ~SENSOR_SIGNED & 15) * 8;

	if (unused < 64)
		value = size & SENSOR_SIGNED ? (u64)((s64)(value << unused) >> unused) : value << unused >> unused;
	s->num[at] = value;
	s->num_present[MASKED(at / 64, ABI_NUM_WORDS - 1)] |= NUM_BIT(at);
}

static __always_inline void set_number(struct scratch *s, u32 number, u64 value, u32 size)
{
	set_sized(s, NUM_SENSOR_0 + number, value, size);
}

/* Whether an address is one of the kernel's memory: those of processes are below. */
static __always_inline bool of_kernel(u64 address)
{
	return (s64)address < 0;
}

static __always_inline long read_text(void *to, u32 size, u64 from, u32 user)
{
	return user ? bpf_probe_read_user_str(to, size, (void *)from) : bpf_probe_read_kernel_str(to, size, (void *)from);
}

/* Whether a value is in a register that the acting process entered the kernel with: as a pointer it is the process's word, which is looked up in its
 * memory alone. Else whoever gives a function of the kernel an address of the kernel's, before that is checked, has what lies there told.
 */
static __always_inline bool of_caller(u64 value)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct pt_regs *regs;

	if (BPF_CORE_READ(task, flags) & (PF_KTHREAD | PF_IO_WORKER))
		return false;
	regs = read_user_regs();
	return value == BPF_CORE_READ(regs, di) || value == BPF_CORE_READ(regs, si) || value == BPF_CORE_READ(regs, dx) ||
	       value == BPF_CORE_READ(regs, r10) || value == BPF_CORE_READ(regs, r8) || value == BPF_CORE_READ(regs, r9);
}

/* A text that ends with a NUL, of at most SCRATCH_SLACK - 1 bytes, or ABI_PATH_MAX - 1 where it has a `room`. What is longer, and what cannot
 * be read, is uncertain: memory that is not there now may be there later.
 */
static __always_inline void set_text(struct scratch *s, u32 number, u64 from, u32 user, u32 room)
{
	u32 at = MASKED(small_take(s), SCRATCH_MASK), str = STR_SENSOR_0 + number;
	long n, most = SCRATCH_SLACK;

	if (!from)
		return;
	n = read_text(&s->data[at], SCRATCH_SLACK, from, user);
	if (n == SCRATCH_SLACK && room) {
		at = room == SENSOR_ROOM_NEW_PATH ? AREA_PATH_END : 0;
		most = ABI_PATH_MAX;
		n = read_text(&s->data[at], ABI_PATH_MAX, from, user);
	}
	if (n <= 0 || n == most)
		s->str_uncertain |= STR_BIT(str);
	if (n > 0)
		set_str(s, str, at, n - 1);
}

/* `which`: of file.path and file.new_path. */
static __always_inline void set_place(struct scratch *s, u32 which, const struct path *path)
{
	set_path(s, which, BPF_CORE_READ(path, dentry), BPF_CORE_READ(path, mnt));
}

static __always_inline void set_opened(struct scratch *s, u32 which, struct file *file)
{
	if (!file)
		return;
	if (!which)
		s->inode = (u64)BPF_CORE_READ(file, f_inode);
	set_place(s, which, __builtin_preserve_access_index(&file->f_path));
}

static __always_inline u32 address_take(struct scratch *s, const void *from)
{
	u32 at = MASKED(small_take(s), SCRATCH_MASK);

	bpf_probe_read_kernel(&s->data[at], 16, from);
	return at;
}

static __always_inline void set_sock(struct scratch *s, struct sock *sk)
{
	u16 family;

	if (!sk)
		return;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	set_num(s, NUM_NET_FAMILY, family);
	set_num(s, NUM_NET_TYPE, BPF_CORE_READ(sk, sk_type));
	set_num(s, NUM_NET_PROTOCOL, BPF_CORE_READ(sk, sk_protocol));
	set_num(s, NUM_NET_STATE, BPF_CORE_READ(sk, __sk_common.skc_state));
	if (family != AF_INET && family != AF_INET6)
		return;
	set_num(s, NUM_NET_LOCAL_PORT, BPF_CORE_READ(sk, __sk_common.skc_num));
	set_num(s, NUM_NET_PEER_PORT, port_of(BPF_CORE_READ(sk, __sk_common.skc_dport)));
	if (family == AF_INET) {
		set_ip4(s, STR_NET_LOCAL_IP, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
		set_ip4(s, STR_NET_PEER_IP, BPF_CORE_READ(sk, __sk_common.skc_daddr));
		return;
	}
	set_ip6(s, STR_NET_LOCAL_IP, address_take(s, __builtin_preserve_access_index(&sk->__sk_common.skc_v6_rcv_saddr)));
	set_ip6(s, STR_NET_PEER_IP, address_take(s, __builtin_preserve_access_index(&sk->__sk_common.skc_v6_daddr)));
}

#define SOCKADDR_IP4 8  /* bytes of struct sockaddr_in up to the end of the address, which is its last 4 */
#define SOCKADDR_IP6 24 /* the same of struct sockaddr_in6, where it is 16 */

static __always_inline void set_sockaddr(struct scratch *s, u64 from, bool user)
{
	u32 at = MASKED(small_take(s), SCRATCH_MASK);
	struct sockaddr_in6 *address = (void *)&s->data[at];
	struct sockaddr_in *short_one = (void *)address;
	u16 family = 0;
	long failed;

	if (!from)
		return;
	/* As much as is there: an address may end where its page does. */
	failed = user ? bpf_probe_read_user(&family, sizeof(family), (void *)from) : bpf_probe_read_kernel(&family, sizeof(family), (void *)from);
	if (!failed && family == AF_INET6)
		failed = user ? bpf_probe_read_user(address, SOCKADDR_IP6, (void *)from) : bpf_probe_read_kernel(address, SOCKADDR_IP6, (void *)from);
	else if (!failed && family == AF_INET)
		failed = user ? bpf_probe_read_user(address, SOCKADDR_IP4, (void *)from) : bpf_probe_read_kernel(address, SOCKADDR_IP4, (void *)from);
	if (failed) {
		set_num_uncertain(s, NUM_NET_FAMILY);
		set_num_uncertain(s, NUM_NET_PEER_PORT);
		s->str_uncertain |= STR_BIT(STR_NET_PEER_IP);
		return;
	}
	set_num(s, NUM_NET_FAMILY, family);
	if (family != AF_INET && family != AF_INET6)
		return;
	set_num(s, NUM_NET_PEER_PORT, port_of(short_one->sin_port));
	if (family == AF_INET)
		set_str(s, STR_NET_PEER_IP, at + 4, 4);
	else
		set_ip6(s, STR_NET_PEER_IP, at + 8);
}

/* Bytes, as set_text has texts: of more than there is room for the first ones, and they are uncertain. */
static __always_inline void set_bytes(struct scratch *s, u32 number, u64 from, u64 length, u32 user, u32 room)
{
	u32 at = MASKED(small_take(s), SCRATCH_MASK), str = STR_SENSOR_0 + number, most = SCRATCH_SLACK - 1;
	u64 size = length;
	long failed;

	set_number(s, number, length, 0);
	if (!from)
		return;
	if (room && size > most) {
		at = room == SENSOR_ROOM_NEW_PATH ? AREA_PATH_END : 0;
		most = ABI_PATH_MAX - 1;
	}
	if (size > most) {
		size = most;
		s->str_uncertain |= STR_BIT(str);
	}
	size = MASKED(size, ABI_PATH_MAX - 1);
	failed = user ? bpf_probe_read_user(&s->data[at], size, (void *)from) : bpf_probe_read_kernel(&s->data[at], size, (void *)from);
	if (failed)
		s->str_uncertain |= STR_BIT(str);
	else
		set_str(s, str, at, size);
}

static __always_inline void set_cred(struct scratch *s, u32 number, const struct cred *cred)
{
	u32 at = MASKED(small_take(s), SCRATCH_MASK);
	struct sensor_cred *told = (void *)&s->data[at];

	if (!cred)
		return;
	told->uid = BPF_CORE_READ(cred, uid.val);
	told->gid = BPF_CORE_READ(cred, gid.val);
	told->suid = BPF_CORE_READ(cred, suid.val);
	told->sgid = BPF_CORE_READ(cred, sgid.val);
	told->euid = BPF_CORE_READ(cred, euid.val);
	told->egid = BPF_CORE_READ(cred, egid.val);
	told->fsuid = BPF_CORE_READ(cred, fsuid.val);
	told->fsgid = BPF_CORE_READ(cred, fsgid.val);
	told->securebits = BPF_CORE_READ(cred, securebits);
	told->user_ns = BPF_CORE_READ(cred, user_ns, ns.inum);
	bpf_probe_read_kernel(&told->permitted, sizeof(told->permitted), __builtin_preserve_access_index(&cred->cap_permitted));
	bpf_probe_read_kernel(&told->effective, sizeof(told->effective), __builtin_preserve_access_index(&cred->cap_effective));
	bpf_probe_read_kernel(&told->inheritable, sizeof(told->inheritable), __builtin_preserve_access_index(&cred->cap_inheritable));
	set_str(s, STR_SENSOR_WHOLE_0 + number, at, sizeof(*told));
}

static __always_inline void set_user_ns(struct scratch *s, u32 number, const struct user_namespace *ns)
{
	u32 at = MASKED(small_take(s), SCRATCH_MASK);
	struct sensor_user_ns *told = (void *)&s->data[at];

	if (!ns)
		return;
	told->level = BPF_CORE_READ(ns, level);
	told->uid = BPF_CORE_READ(ns, owner.val);
	told->gid = BPF_CORE_READ(ns, group.val);
	told->inum = BPF_CORE_READ(ns, ns.inum);
	set_str(s, STR_SENSOR_WHOLE_0 + number, at, sizeof(*told));
}

static __always_inline void sock_fill(struct sensor_sock *told, struct sock *sk)
{
	told->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	told->type = BPF_CORE_READ(sk, sk_type);
	told->protocol = BPF_CORE_READ(sk, sk_protocol);
	told->state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (told->family != AF_INET && told->family != AF_INET6)
		return;
	told->source_port = BPF_CORE_READ(sk, __sk_common.skc_num);
	told->destination_port = port_of(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (told->family == AF_INET) {
		bpf_probe_read_kernel(told->source, 4, __builtin_preserve_access_index(&sk->__sk_common.skc_rcv_saddr));
		bpf_probe_read_kernel(told->destination, 4, __builtin_preserve_access_index(&sk->__sk_common.skc_daddr));
	} else {
		bpf_probe_read_kernel(told->source, 16, __builtin_preserve_access_index(&sk->__sk_common.skc_v6_rcv_saddr));
		bpf_probe_read_kernel(told->destination, 16, __builtin_preserve_access_index(&sk->__sk_common.skc_v6_daddr));
	}
}

#define IP4_BYTES 20
#define IP4_FRAGMENT 0xff1f /* the offset of a fragment in its first datagram, as it lies in memory */
#define IP6_BYTES 40

/* By the headers of the network and of what is above it, where they are there and in the packet's linear part: a packet that has not come so far, or
 * is of something else than IP, has a length alone. Behind extension headers of IPv6 no ports are looked for.
 */
static __always_inline void skb_fill(struct sensor_sock *told, struct sk_buff *skb)
{
	u64 head = (u64)BPF_CORE_READ(skb, head), network = BPF_CORE_READ(skb, network_header), tail = BPF_CORE_READ(skb, tail), ports;
	u16 fragment = 0;
	u8 version = 0, protocol = 0;

	told->length = BPF_CORE_READ(skb, len);
	if (!network || network + IP4_BYTES > tail || bpf_probe_read_kernel(&version, 1, (void *)(head + network)))
		return;
	if (version >> 4 == 4) {
		told->family = AF_INET;
		ports = network + (version & 15) * 4;
		bpf_probe_read_kernel(&protocol, 1, (void *)(head + network + 9));
		bpf_probe_read_kernel(&fragment, 2, (void *)(head + network + 6));
		bpf_probe_read_kernel(told->source, 4, (void *)(head + network + 12));
		bpf_probe_read_kernel(told->destination, 4, (void *)(head + network + 16));
	} else if (version >> 4 == 6 && network + IP6_BYTES <= tail) {
		told->family = AF_INET6;
		ports = network + IP6_BYTES;
		bpf_probe_read_kernel(&protocol, 1, (void *)(head + network + 6));
		bpf_probe_read_kernel(told->source, 16, (void *)(head + network + 8));
		bpf_probe_read_kernel(told->destination, 16, (void *)(head + network + 24));
	} else {
		return;
	}
	told->protocol = protocol;
	if (fragment & IP4_FRAGMENT || ports + 4 > tail || (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP && protocol != IPPROTO_SCTP))
		return;
	bpf_probe_read_kernel(&told->source_port, 2, (void *)(head + ports));
	bpf_probe_read_kernel(&told->destination_port, 2, (void *)(head + ports + 2));
	told->source_port = port_of(told->source_port);
	told->destination_port = port_of(told->destination_port);
}

/* A socket or a packet as a structure; a packet that is not wanted `whole` as what conditions are about. */
__noinline int sensor_sock(u32 slot, u32 number, u32 read, u64 value)
{
	struct scratch *s = scratch_at(slot);
	struct sensor_sock *told;
	u32 at;

	if (!s || !value || number >= SENSOR_ARGS)
		return 0;
	at = MASKED(small_take(s), SCRATCH_MASK);
	told = (void *)&s->data[at];
	__builtin_memset(told, 0, sizeof(*told));
	if (read == SENSOR_SOCKET_WHOLE)
		value = (u64)BPF_CORE_READ((struct socket *)value, sk);
	if (read != SENSOR_SKB && read != SENSOR_SKB_WHOLE) {
		if (value)
			sock_fill(told, (void *)value);
	} else {
		skb_fill(told, (void *)value);
	}
	if (read != SENSOR_SKB) {
		set_str(s, STR_SENSOR_WHOLE_0 + number, at, sizeof(*told));
		return 0;
	}
	set_number(s, number, told->length, 0);
	if (!told->family)
		return 0;
	set_num(s, NUM_NET_FAMILY, told->family);
	set_num(s, NUM_NET_PROTOCOL, told->protocol);
	if (told->source_port || told->destination_port) {
		set_num(s, NUM_NET_LOCAL_PORT, told->source_port);
		set_num(s, NUM_NET_PEER_PORT, told->destination_port);
	}
	if (told->family == AF_INET) {
		set_str(s, STR_NET_LOCAL_IP, at + offsetof(struct sensor_sock, source), 4);
		set_str(s, STR_NET_PEER_IP, at + offsetof(struct sensor_sock, destination), 4);
	} else {
		set_ip6(s, STR_NET_LOCAL_IP, at + offsetof(struct sensor_sock, source));
		set_ip6(s, STR_NET_PEER_IP, at + offsetof(struct sensor_sock, destination));
	}
	return 0;
}

#define BPF_ATTR_INSTRUCTIONS 4 /* offsets in union bpf_attr, of BPF_PROG_LOAD: include/uapi/linux/bpf.h */
#define BPF_ATTR_PROG_NAME 48
#define PERF_TYPE_MAX 6 /* types from here on are numbers of dynamic sources of events */

/* What is told of a program or map of BPF, and of an event of perf. */
__noinline int sensor_bpf(u32 slot, u32 number, u32 read, u64 value)
{
	struct scratch *s = scratch_at(slot);
	struct sensor_perf *perf;
	struct sensor_bpf *told;
	u32 at;

	if (!s || !value || number >= SENSOR_ARGS)
		return 0;
	at = MASKED(small_take(s), SCRATCH_MASK);
	told = (void *)&s->data[at];
	perf = (void *)told;
	if (read == SENSOR_PERF_EVENT) {
		const struct perf_event *event = (void *)value;

		__builtin_memset(perf, 0, sizeof(*perf));
		perf->type = BPF_CORE_READ(event, attr.type);
		perf->config = BPF_CORE_READ(event, attr.config);
		if (perf->type >= PERF_TYPE_MAX) {
			perf->offset = BPF_CORE_READ(event, attr.probe_offset);
			bpf_probe_read_user_str(perf->function, sizeof(perf->function), (void *)BPF_CORE_READ(event, attr.kprobe_func));
		}
		set_str(s, STR_SENSOR_WHOLE_0 + number, at, sizeof(*perf));
		return 0;
	}
	__builtin_memset(told, 0, sizeof(*told));
	if (read == SENSOR_BPF_MAP) {
		const struct bpf_map *map = (void *)value;

		told->type = BPF_CORE_READ(map, map_type);
		told->size = BPF_CORE_READ(map, key_size);
		told->value_size = BPF_CORE_READ(map, value_size);
		told->max_entries = BPF_CORE_READ(map, max_entries);
		bpf_probe_read_kernel_str(told->name, sizeof(told->name), __builtin_preserve_access_index(&map->name));
	} else if (read == SENSOR_BPF_PROG) {
		const struct bpf_prog *prog = (void *)value;
		const struct bpf_prog_aux *aux = BPF_CORE_READ(prog, aux);

		told->type = BPF_CORE_READ(prog, type);
		told->size = BPF_CORE_READ(prog, len);
		bpf_probe_read_kernel_str(told->name, sizeof(told->name), __builtin_preserve_access_index(&aux->name));
	} else {
		bpf_probe_read_kernel(&told->type, 4, (void *)value);
		bpf_probe_read_kernel(&told->size, 4, (void *)(value + BPF_ATTR_INSTRUCTIONS));
		bpf_probe_read_kernel_str(told->name, sizeof(told->name), (void *)(value + BPF_ATTR_PROG_NAME));
	}
	set_str(s, STR_SENSOR_WHOLE_0 + number, at, sizeof(*told));
	return 0;
}

/* Argument `number` as it was given into the slots of the event. `flags`: of struct sensor, with `size` in the second byte, and in the third which
 * argument has the length; `base`: where a tracepoint's record is.
 */
__noinline int sensor_argument(u32 slot, u32 number, u32 read, u32 flags, u64 base)
{
	struct scratch *s = scratch_at(slot);
	u32 size = flags >> 8 & 0xff, user = flags & SENSOR_USER, which = size >> SENSOR_SECOND_SHIFT & 1;
	u64 value, length, text = 0;

	if (!s || number >= SENSOR_ARGS)
		return 0;
	value = s->num[MASKED(GIVEN + number, ABI_NUM_SLOTS - 1)];
	length = s->num[MASKED(GIVEN + GIVEN_MAX + (flags >> 16 & 7), ABI_NUM_SLOTS - 1)];
	if (flags & SENSOR_LENGTH_INT << (16 - SENSOR_LENGTH_SHIFT))
		length = (u32)length;
	if (read == SENSOR_SOCKADDR || read == SENSOR_BYTES || read == SENSOR_TEXT)
		user = user || !of_kernel(value) || of_caller(value);
	switch (read) {
	case SENSOR_SYSCALL:
		set_number(s, number, read_compat() ? (u32)value | CALL_COMPAT : (u32)value & ~X32_SYSCALL_BIT, 0);
		return 0;
	case SENSOR_FD:
		set_opened(s, which, read_fd(value)); /* fall through */
	case SENSOR_NUMBER:
		set_number(s, number, value, size);
		return 0;
	case SENSOR_CAPS:
		if (value)
			set_number(s, number, read_cap_set((void *)value), 0);
		return 0;
	case SENSOR_FILE:
		set_opened(s, which, (void *)value);
		return 0;
	case SENSOR_BINPRM:
		set_opened(s, which, BPF_CORE_READ((struct linux_binprm *)value, file));
		return 0;
	case SENSOR_PATH:
		if (value)
			set_place(s, which, (void *)value);
		return 0;
	case SENSOR_SOCKET:
		value = value ? (u64)BPF_CORE_READ((struct socket *)value, sk) : 0; /* fall through */
	case SENSOR_SOCK:
		set_sock(s, (void *)value);
		return 0;
	case SENSOR_SKB:
	case SENSOR_SOCK_WHOLE:
	case SENSOR_SOCKET_WHOLE:
	case SENSOR_SKB_WHOLE:
		sensor_sock(slot, number, read, value);
		return 0;
	case SENSOR_BPF_ATTR:
	case SENSOR_BPF_PROG:
	case SENSOR_BPF_MAP:
	case SENSOR_PERF_EVENT:
		sensor_bpf(slot, number, read, value);
		return 0;
	case SENSOR_SOCKADDR:
		set_sockaddr(s, value, user);
		return 0;
	case SENSOR_CRED:
		set_cred(s, number, (void *)value);
		return 0;
	case SENSOR_USER_NS:
		set_user_ns(s, number, (void *)value);
		return 0;
	case SENSOR_BYTES:
		set_bytes(s, number, value, length, user, size);
		return 0;
	case SENSOR_NET_DEVICE:
		text = value ? (u64)__builtin_preserve_access_index(&((struct net_device *)value)->name) : 0;
		user = 0;
		break;
	case SENSOR_FILENAME:
		text = value ? (u64)BPF_CORE_READ((struct filename *)value, name) : 0;
		user = 0;
		break;
	case SENSOR_MODULE:
		text = value ? (u64)__builtin_preserve_access_index(&((struct module *)value)->name) : 0;
		user = 0;
		break;
	case SENSOR_TEXT:
		text = value;
		break;
	case SENSOR_DATA_LOC:
		text = base + (value & 0xffff);
		user = 0;
		break;
	case SENSOR_TEXT_HERE:
		text = base;
		user = 0;
		break;
	}
	set_text(s, number, text, user, size);
	return 0;
}

/* Which arguments are wanted of those given, in the order of the sensor's own. */
static __always_inline void sensor_pick(struct scratch *s, const struct sensor *sensor, const u64 *given)
{
	u32 i;

#pragma unroll
	for (i = 0; i < GIVEN_MAX; i++)
		s->num[GIVEN + GIVEN_MAX + i] = given[i];
#pragma unroll
	for (i = 0; i < SENSOR_ARGS; i++) {
		u64 at = sensor->at[i] & 0xff;

		if (at >= GIVEN_MAX)
			at = 0;
		s->num[GIVEN + i] = s->num[MASKED(GIVEN + GIVEN_MAX + at, ABI_NUM_SLOTS - 1)];
	}
}

/* What a caller has given a system call. */
static __always_inline void sensor_caller(u64 *given, struct pt_regs *caller)
{
	given[0] = BPF_CORE_READ(caller, di);
	given[1] = BPF_CORE_READ(caller, si);
	given[2] = BPF_CORE_READ(caller, dx);
	given[3] = BPF_CORE_READ(caller, r10);
	given[4] = BPF_CORE_READ(caller, r8);
	given[5] = BPF_CORE_READ(caller, r9);
}

/* The registers that a function has its arguments in; of a system call those of the caller. */
static __always_inline void sensor_registers(struct scratch *s, const struct sensor *sensor, struct pt_regs *regs)
{
	u64 given[GIVEN_MAX];

	if (sensor->flags & SENSOR_CALL) {
		sensor_caller(given, (void *)regs->di);
	} else {
		given[0] = regs->di;
		given[1] = regs->si;
		given[2] = regs->dx;
		given[3] = regs->cx;
		given[4] = regs->r8;
		given[5] = regs->r9;
	}
	sensor_pick(s, sensor, given);
}

static __always_inline void sensor_read(struct scratch *s, u32 slot, const struct sensor *sensor, u64 base, bool recorded)
{
	u32 i;

#pragma unroll
	for (i = 0; i < SENSOR_ARGS; i++) {
		u32 read = sensor->read[i], at = sensor->at[i], flags = (sensor->flags & 0xff) | (u32)sensor->size[i] << 8;

		if (!read || (!recorded && at & SENSOR_AT_RETURN))
			continue;
		if (!recorded)
			sensor_argument(slot, i, read, flags | at >> SENSOR_LENGTH_SHIFT << 16, 0);
		else
			sensor_argument(slot, i, read, flags, read == SENSOR_TEXT_HERE ? base + at : base);
	}
}

/* Starts the event of the sensor that a program was attached for, whose number is the lower half of the cookie. NULL: nothing concerns it. */
static __always_inline struct scratch *sensor_begin(void *ctx, u32 event, struct sensor **sensor, u64 *cookie, u32 *slot)
{
	struct scratch *s;
	u64 number;

	if (!may_concern(event))
		return NULL;
	*cookie = bpf_get_attach_cookie(ctx);
	number = (u32)*cookie;
	*sensor = bpf_map_lookup_elem(&sensors, &number);
	s = *sensor ? event_begin(event, slot) : NULL;
	if (s)
		set_num(s, NUM_HOOK, number);
	return s;
}

/* Where arguments in processes are. */
#include "user.h"

static __always_inline void sensor_given(struct scratch *s, u32 slot, const struct sensor *sensor, struct pt_regs *ctx, u64 cookie, bool user)
{
	if (user) {
		user_read(s, slot, sensor, ctx, cookie);
		return;
	}
	sensor_registers(s, sensor, ctx);
	sensor_read(s, slot, sensor, 0, false);
}

/* The event of a call. `user`: the function is one of a process. */
static __always_inline int sensor_passed(struct pt_regs *ctx, u32 event, bool user)
{
	struct sensor *sensor;
	struct scratch *s;
	u64 cookie;
	u32 slot;

	s = sensor_begin(ctx, event, &sensor, &cookie, &slot);
	if (!s)
		return 0;
	sensor_given(s, slot, sensor, ctx, cookie, user);
	decide(slot);
	scratch_give(s, slot);
	return 0;
}

SEC("kprobe")
int sensor_kprobe(struct pt_regs *ctx)
{
	return sensor_passed(ctx, EV_SENSOR_KPROBE, false);
}

/* ---- returns ---- */

/* The numbers of a frame, each with its place. No table of constants: they would lie elsewhere in the object without a shared engine. */
#define FRAME_EACH_NUMBER(DO) \
	DO(0, NUM_NET_FAMILY) \
	DO(1, NUM_NET_TYPE) \
	DO(2, NUM_NET_PROTOCOL) \
	DO(3, NUM_NET_LOCAL_PORT) \
	DO(4, NUM_NET_PEER_PORT) \
	DO(5, NUM_FILE_MODE) \
	DO(6, NUM_FILE_MEMFD) \
	DO(7, NUM_SENSOR_0) \
	DO(8, NUM_SENSOR_1) \
	DO(9, NUM_SENSOR_2) \
	DO(10, NUM_SENSOR_3) \
	DO(11, NUM_SENSOR_4) \
	DO(12, NUM_NET_STATE)

/* The string slot of text `i` of a frame: both paths, both addresses, the texts and the structures of arguments. */
static __always_inline u32 frame_text(u32 i)
{
	if (i < 2)
		return STR_FILE_PATH + i;
	return i < 4 ? STR_NET_PEER_IP + i - 2 : STR_SENSOR_0 + i - 4;
}

_Static_assert(offsetof(struct emit_space, data) % 8 == 0 && sizeof(struct frame_space) <= BODY_MAX, "a frame has room in an emit_space");

/* Where the event's frame is put together: programs of uprobes may be preempted, so none of the processor's would do. */
static __always_inline struct frame_space *frame_space(u32 slot)
{
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);

	return space ? (struct frame_space *)space->data : NULL;
}

static __always_inline u64 thread_start(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, start_boottime);
}

/* The texts of the event into the frame: one for which there is no room is uncertain. */
__noinline int frame_put_texts(u32 slot)
{
	struct frame_space *space = frame_space(slot);
	struct scratch *s = scratch_at(slot);
	u32 i, used = 0;

	if (!s || !space)
		return 0;
	for (i = 0; i < FRAME_TEXTS; i++) {
		u64 str = MASKED((u64)frame_text(i), ABI_STR_SLOTS - 1), from, size;

		if (s->str_uncertain & STR_BIT(str))
			space->frame.text_uncertain |= 1U << i;
		if (!has_str(s, str))
			continue;
		from = MASKED((u64)s->str_offset[str], SCRATCH_MASK);
		size = s->str_length[str];
		if (size >= FRAME_TEXT || used + size >= FRAME_DATA) {
			space->frame.text_uncertain |= 1U << i;
			continue;
		}
		used = MASKED(used, FRAME_DATA - 1);
		bpf_probe_read_kernel(&space->frame.data[used], MASKED(size, FRAME_TEXT - 1), &s->data[from]);
		space->frame.text_present |= 1U << i;
		space->frame.offset[i] = used;
		space->frame.size[i] = size;
		used += size;
	}
	return 0;
}

/* What the event has come by so far, into the frame. */
static __always_inline void frame_put(struct scratch *s, u32 slot, struct frame *frame, const struct sensor *sensor)
{
	u32 i;

	frame->present = frame->uncertain = frame->text_present = frame->text_uncertain = 0;
#define PUT(i, slot_) \
	frame->num[i] = s->num[slot_]; \
	frame->present |= (u32)has_num(s, slot_) << i; \
	frame->uncertain |= (u32) !!num_is_uncertain(s, slot_) << i;
	FRAME_EACH_NUMBER(PUT)
#undef PUT
#pragma unroll
	for (i = 0; i < SENSOR_ARGS; i++) {
		frame->pointer[i] = s->num[GIVEN + i];
		frame->length[i] = s->num[MASKED(GIVEN + GIVEN_MAX + (sensor->at[i] >> SENSOR_LENGTH_SHIFT & 7), ABI_NUM_SLOTS - 1)];
	}
	frame_put_texts(slot);
}

/* The frame's values into an event that has none yet. Its texts have the place of file.path's, which is none that could be walked any more. */
__noinline int frame_take(u32 slot)
{
	struct frame_space *space = frame_space(slot);
	struct scratch *s = scratch_at(slot);
	u32 i;

	if (!s || !space)
		return 0;
	bpf_probe_read_kernel(s->data, FRAME_DATA, space->frame.data);
#define TAKE(i, slot_) \
	if (space->frame.present & 1U << i) \
		set_num(s, slot_, space->frame.num[i]); \
	if (space->frame.uncertain & 1U << i) \
		set_num_uncertain(s, slot_);
	FRAME_EACH_NUMBER(TAKE)
#undef TAKE
#pragma unroll
	for (i = 0; i < FRAME_TEXTS; i++) {
		s->str_tried |= STR_BIT(frame_text(i));
		if (space->frame.text_present & 1U << i)
			set_str(s, frame_text(i), space->frame.offset[i], space->frame.size[i]);
		if (space->frame.text_uncertain & 1U << i)
			s->str_uncertain |= STR_BIT(frame_text(i));
	}
	if (s->str_uncertain & STR_BIT(STR_FILE_PATH))
		s->flags |= EVENT_PATH_UNCERTAIN;
	if (s->str_uncertain & STR_BIT(STR_FILE_NEW_PATH))
		s->flags |= EVENT_NEW_PATH_UNCERTAIN;
	return 0;
}

/* `user`: the function is one of a process. */
static __always_inline int sensor_called(struct pt_regs *ctx, u32 event, bool user)
{
	struct frame_space *space;
	struct frame_key *key;
	struct sensor *sensor;
	struct inode *inode;
	struct scratch *s;
	u64 cookie;
	u32 slot;

	s = sensor_begin(ctx, event, &sensor, &cookie, &slot);
	if (!s)
		return 0;
	space = frame_space(slot);
	if (!space)
		goto end;
	s->features = 0;
	sensor_given(s, slot, sensor, ctx, cookie, user);
	engine(ENGINE_PATH_NAMED, slot, 0, 0, 0);
	engine(ENGINE_PATH_NAMED, slot, 1, 0, 0);
	inode = (void *)s->inode;
	if (inode)
		set_num(s, NUM_FILE_MODE, BPF_CORE_READ(inode, i_mode));
	key = &space->frame.key;
	key->thread = bpf_get_current_pid_tgid();
	key->stack = ctx->sp;
	key->cookie = cookie;
	space->frame.start = thread_start();
	space->frame.end = key->stack;
	frame_put(s, slot, &space->frame, sensor);
	if (bpf_map_lookup_elem(&frames, key))
		count(CNT_RETURNS_MISSED);
	if (bpf_map_update_elem(&frames, key, &space->frame, BPF_ANY))
		count(CNT_RETURNS_MISSED);
end:
	scratch_give(s, slot);
	return 0;
}

SEC("kprobe")
int sensor_entry(struct pt_regs *ctx)
{
	return sensor_called(ctx, EV_SENSOR_KRETPROBE, false);
}

static __always_inline struct frame *frame_at(struct frame_key *key, u64 stack)
{
	key->stack = stack;
	return bpf_map_lookup_elem(&frames, key);
}

/* The frame of a call that returns, out of the map and into the space. What kernels tell of the stack is up to two words above where the return
 * address was.
 */
static __always_inline bool frame_found(struct frame_space *space, u64 cookie, u64 stack)
{
	struct frame_key key = { bpf_get_current_pid_tgid(), 0, cookie };
	struct frame *frame = frame_at(&key, stack - 8);

	if (!frame)
		frame = frame_at(&key, stack);
	if (!frame)
		frame = frame_at(&key, stack - 16);
	if (!frame)
		return false;
	bpf_probe_read_kernel(&space->frame, sizeof(space->frame), frame);
	bpf_map_delete_elem(&frames, &key);
	return space->frame.key.thread == key.thread && space->frame.key.stack == key.stack && space->frame.key.cookie == cookie &&
	       space->frame.end == key.stack && space->frame.start == thread_start();
}

static __always_inline int sensor_returned(struct pt_regs *ctx, u32 event)
{
	u64 cookie, result = ctx->ax;
	struct frame_space *space;
	struct sensor *sensor;
	struct scratch *s;
	u32 slot, i;

	s = sensor_begin(ctx, event, &sensor, &cookie, &slot);
	if (!s)
		return 0;
	space = frame_space(slot);
	if (!space || !frame_found(space, cookie, ctx->sp)) { /* its place was needed */
		count(CNT_RETURNS_MISSED);
		scratch_give(s, slot);
		return 0;
	}
	frame_take(slot);
	set_sized(s, NUM_SENSOR_RETURN, result, sensor->result);
	if (sensor->returned)
		sensor_sock(slot, sensor->returned_to, sensor->returned, result);
	result = s->num[NUM_SENSOR_RETURN];
#pragma unroll
	for (i = 0; i < SENSOR_ARGS; i++) {
		u32 at = sensor->at[i], which = at >> SENSOR_LENGTH_SHIFT & 7, flags = (sensor->flags & 0xff) | (u32)sensor->size[i] << 8;
		u64 length = at & SENSOR_LENGTH_INT ? (u32)space->frame.length[i] : space->frame.length[i];

		if (!(at & SENSOR_AT_RETURN) || (s64)result <= 0)
			continue;
		s->num[GIVEN + i] = space->frame.pointer[i];
		s->num[MASKED(GIVEN + GIVEN_MAX + which, ABI_NUM_SLOTS - 1)] = result < length ? result : length;
		sensor_argument(slot, i, SENSOR_BYTES, flags | which << 16, 0);
	}
	decide(slot);
	scratch_give(s, slot);
	return 0;
}

SEC("kretprobe")
int sensor_return(struct pt_regs *ctx)
{
	return sensor_returned(ctx, EV_SENSOR_KRETPROBE);
}

/* A hook of the LSM as a sensor, which may refuse what it is asked about: the one program of a sensor that does. It is loaded anew for each, and
 * aimed at its hook or at the function that asks it; where it says here is a place for the compiler alone.
 */
SEC("lsm/settime")
int sensor_lsm(void *ctx)
{
	u64 given[GIVEN_MAX], number, base;
	struct sensor *sensor;
	struct scratch *s;
	u32 slot, i;
	int error;

	if (!may_concern(EV_SENSOR_LSM))
		return 0;
	number = (u32)bpf_get_attach_cookie(ctx);
	sensor = bpf_map_lookup_elem(&sensors, &number);
	if (!sensor)
		return 0;
	/* About one system call that asks the hook: what it was given, not what the hook is. */
	if (sensor->flags & SENSOR_CALL && read_call() != sensor->flags >> SENSOR_CALL_SHIFT)
		return 0;
	s = event_begin(EV_SENSOR_LSM, &slot);
	if (!s)
		return event_refused(slot);
	set_num(s, NUM_HOOK, number);
	base = address_of(s, ctx);
	if (sensor->flags & SENSOR_CALL) {
		sensor_caller(given, read_user_regs());
	} else {
		/* The hook has as many as it has: the loader has looked that none of others is asked for. */
#pragma unroll
		for (i = 0; i < GIVEN_MAX; i++) {
			given[i] = 0;
			bpf_probe_read_kernel(&given[i], sizeof(given[i]), (void *)(base + i * sizeof(given[i])));
		}
	}
	sensor_pick(s, sensor, given);
	sensor_read(s, slot, sensor, 0, false);
	error = decide(slot);
	scratch_give(s, slot);
	return deny_value(error);
}

SEC("tracepoint")
int sensor_tracepoint(void *ctx)
{
	struct sensor *sensor;
	struct scratch *s;
	u64 cookie, base;
	u32 slot, i;

	s = sensor_begin(ctx, EV_SENSOR_TRACEPOINT, &sensor, &cookie, &slot);
	if (!s)
		return 0;
	base = address_of(s, ctx);
#pragma unroll
	for (i = 0; i < SENSOR_ARGS; i++) {
		u32 read = sensor->read[i], size = sensor->size[i] & 15;
		u64 value = 0;

		if (read == SENSOR_DATA_LOC)
			size = sizeof(u32);
		else if ((read != SENSOR_NUMBER && read != SENSOR_FD && read != SENSOR_SYSCALL) || size > sizeof(value))
			size = sizeof(value);
		bpf_probe_read_kernel(&value, size, (void *)(base + sensor->at[i]));
		s->num[GIVEN + i] = value;
	}
	sensor_read(s, slot, sensor, base, true);
	decide(slot);
	scratch_give(s, slot);
	return 0;
}

SEC("kprobe")
int sensor_uprobe(struct pt_regs *ctx)
{
	return sensor_passed(ctx, EV_SENSOR_UPROBE, true);
}

SEC("kprobe")
int sensor_usdt(struct pt_regs *ctx)
{
	return sensor_passed(ctx, EV_SENSOR_USDT, true);
}

SEC("kprobe")
int sensor_uentry(struct pt_regs *ctx)
{
	return sensor_called(ctx, EV_SENSOR_URETPROBE, true);
}

SEC("kretprobe")
int sensor_ureturn(struct pt_regs *ctx)
{
	return sensor_returned(ctx, EV_SENSOR_URETPROBE);
}
