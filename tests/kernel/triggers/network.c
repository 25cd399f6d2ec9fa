/* SPDX-License-Identifier: Apache-2.0 */
/* Acts on sockets. Part of the trigger. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/io_uring.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "trigger.h"

#define IPPROTO_SCTP_NUMBER 132
#define IPPROTO_MPTCP_NUMBER 262
#define AF_RXRPC_NUMBER 33
#define AF_SMC_NUMBER 43
#define SCTP_SOCKOPT_BINDX_ADD 100
#define SCTP_SOCKOPT_CONNECTX 110
#define SOL_SCTP_NUMBER 132
/* Operations of io_uring that the headers of older distributions lack. */
#define URING_SOCKET 45
#define URING_SEND_ZC 47
#define URING_BIND 56

/* What the network itself answers is a success of the act: nothing listens there, or no route leads there. */
static int gone_out(long result)
{
	static const int answers[] = { ECONNREFUSED, EINPROGRESS, ENETUNREACH, EHOSTUNREACH, ECONNRESET };

	for (size_t i = 0; result < 0 && i < sizeof(answers) / sizeof(answers[0]); i++)
		if (errno == answers[i])
			result = 0;
	return report(result);
}

static long uring(const struct io_uring_sqe *request)
{
	int result = uring_request(request);

	if (result >= 0)
		return result;
	errno = -result;
	return -1;
}

/* One byte to an address by one of the ways of sending; -1 and errno. */
static long send_by(const char *how, int fd, void *to, socklen_t size, int flags)
{
	struct iovec byte = { "x", 1 };
	struct msghdr message = { .msg_name = to, .msg_namelen = size, .msg_iov = &byte, .msg_iovlen = 1 };

	if (!strcmp(how, "sendto"))
		return sendto(fd, "x", 1, flags, to, size);
	if (!strcmp(how, "sendmsg"))
		return sendmsg(fd, &message, flags);
	if (!strcmp(how, "sendmmsg")) {
		struct mmsghdr one = { .msg_hdr = message };

		return sendmmsg(fd, &one, 1, flags);
	}
	if (!strcmp(how, "uring-sendmsg"))
		return uring(&(struct io_uring_sqe){ .opcode = IORING_OP_SENDMSG, .fd = fd, .addr = (unsigned long)&message, .len = 1, .msg_flags = flags });
	if (!strcmp(how, "uring-send-zc")) {
		struct io_uring_sqe sqe = { .opcode = URING_SEND_ZC, .fd = fd, .addr = (unsigned long)"x", .len = 1, .msg_flags = flags };

		sqe.off = (unsigned long)to;     /* addr2 */
		sqe.splice_fd_in = (unsigned short)size; /* addr_len */
		return uring(&sqe);
	}
	errno = EINVAL;
	wrong(how);
	return -1;
}

/* fastopen HOW PROTOCOL IP PORT: data in the first packet of a connection that no connect(2) began */
static int do_fastopen(void)
{
	struct sockaddr_storage to;
	socklen_t size = address(arg(2), arg(3), &to);
	int family = to.ss_family, protocol = 0;

	if (!strcmp(arg(1), "mptcp"))
		protocol = IPPROTO_MPTCP_NUMBER;
	else if (!strcmp(arg(1), "smc"))
		family = AF_SMC_NUMBER;
	int fd = need_fd(socket(family, SOCK_STREAM | SOCK_NONBLOCK, protocol), "socket");

	return gone_out(send_by(arg(0), fd, &to, size, MSG_FASTOPEN));
}

/* fastopen-connect IP PORT: connect(2) that waits for the first message */
static int do_fastopen_connect(void)
{
	struct sockaddr_storage to;
	socklen_t size = address(arg(0), arg(1), &to);
	int fd = need_fd(socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0), "socket");

	if (setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &(int){ 1 }, sizeof(int)))
		wrong("TCP_FASTOPEN_CONNECT");
	if (connect(fd, (void *)&to, size))
		return gone_out(-1);
	return gone_out(send(fd, "x", 1, 0));
}

/* stream-connect PROTOCOL IP PORT: connect(2) of a socket of mptcp, sctp, or smc */
static int do_stream_connect(void)
{
	struct sockaddr_storage to;
	socklen_t size = address(arg(1), arg(2), &to);
	int family = to.ss_family, protocol = 0;

	if (!strcmp(arg(0), "mptcp"))
		protocol = IPPROTO_MPTCP_NUMBER;
	if (!strcmp(arg(0), "sctp"))
		protocol = IPPROTO_SCTP_NUMBER;
	if (!strcmp(arg(0), "smc"))
		family = AF_SMC_NUMBER;
	return gone_out(connect(need_fd(socket(family, SOCK_STREAM | SOCK_NONBLOCK, protocol), "socket"), (void *)&to, size));
}

static int sctp_socket(int type) { return need_fd(socket(AF_INET, type, IPPROTO_SCTP_NUMBER), "socket"); }

/* sctp-send HOW IP PORT: the message begins the association */
static int do_sctp_send(void)
{
	struct sockaddr_storage to;
	socklen_t size = address(arg(1), arg(2), &to);

	return gone_out(send_by(arg(0), sctp_socket(SOCK_SEQPACKET), &to, size, 0));
}

/* Addresses on one port, packed as sctp_connectx(3) passes them: PORT COUNT FIRST LAST is COUNT addresses from FIRST on, then LAST. */
static int sctp_addresses(int option, int type)
{
	static struct sockaddr_in packed[64];
	struct sockaddr_storage one;
	int count = number(arg(1));

	if (count < 0 || count >= 64)
		wrong(arg(1));
	for (int i = 0; i <= count; i++) {
		address(i < count ? arg(2) : arg(3), arg(0), &one);
		memcpy(&packed[i], &one, sizeof(packed[i]));
		if (i < count)
			packed[i].sin_addr.s_addr = htonl(ntohl(packed[i].sin_addr.s_addr) + i);
	}
	return setsockopt(sctp_socket(type), SOL_SCTP_NUMBER, option, packed, (count + 1) * sizeof(packed[0]));
}
static int do_sctp_connectx(void) { return gone_out(sctp_addresses(SCTP_SOCKOPT_CONNECTX, SOCK_STREAM | SOCK_NONBLOCK)); }
static int do_sctp_bindx(void) { return report(sctp_addresses(SCTP_SOCKOPT_BINDX_ADD, SOCK_STREAM)); }

/* vsock-connect CID PORT: to nobody, so that the kernel's own answer is a success of the act */
static int do_vsock_connect(void)
{
	struct sockaddr_vm to = { .svm_family = AF_VSOCK, .svm_cid = number(arg(0)), .svm_port = number(arg(1)) };
	int result = connect(need_fd(socket(AF_VSOCK, SOCK_STREAM, 0), "socket"), (void *)&to, sizeof(to));

	return gone_out(result && (errno == ENODEV || errno == ETIMEDOUT) ? 0 : result);
}

/* rxrpc-connect IP PORT: where the calls of an AF_RXRPC socket go */
static int do_rxrpc_connect(void)
{
	struct {
		unsigned short family, service, transport_type, transport_length;
		struct sockaddr_in transport;
		char rest[12];
	} to = { .family = AF_RXRPC_NUMBER, .service = 1, .transport_type = SOCK_DGRAM, .transport_length = sizeof(to.transport) };
	struct sockaddr_storage ip;

	address(arg(0), arg(1), &ip);
	memcpy(&to.transport, &ip, sizeof(to.transport));
	return gone_out(connect(need_fd(socket(AF_RXRPC_NUMBER, SOCK_DGRAM, AF_INET), "socket"), (void *)&to, sizeof(to)));
}

/* icmp-send raw|ping IP: an echo request by a raw socket, or by one of those that need no privilege */
static int do_icmp_send(void)
{
	struct icmphdr echo = { .type = ICMP_ECHO };
	struct sockaddr_storage to;
	socklen_t size = address(arg(1), "0", &to);
	int fd, groups;

	if (!strcmp(arg(0), "ping")) {
		groups = need_fd(open("/proc/sys/net/ipv4/ping_group_range", O_WRONLY), "ping_group_range");
		if (write(groups, "0 0", 3) != 3)
			wrong("ping_group_range");
	}
	fd = need_fd(socket(AF_INET, !strcmp(arg(0), "ping") ? SOCK_DGRAM : SOCK_RAW, IPPROTO_ICMP), "socket");
	return gone_out(sendto(fd, &echo, sizeof(echo), 0, (void *)&to, size));
}

/* udp-send-by HOW IP PORT */
static int do_udp_send_by(void)
{
	struct sockaddr_storage to;
	socklen_t size = address(arg(1), arg(2), &to);

	return gone_out(send_by(arg(0), need_fd(socket(to.ss_family, SOCK_DGRAM, 0), "socket"), &to, size, 0));
}

/* udp-write IP PORT: an association, then write(2) */
static int do_udp_write(void)
{
	struct sockaddr_storage to;
	socklen_t size = address(arg(0), arg(1), &to);
	int fd = need_fd(socket(to.ss_family, SOCK_DGRAM, 0), "socket");

	if (connect(fd, (void *)&to, size))
		wrong("connect");
	return gone_out(write(fd, "x", 1));
}

/* connect-unspec IP PORT: an association of a datagram socket, ended again */
static int do_connect_unspec(void)
{
	struct sockaddr nowhere = { .sa_family = AF_UNSPEC };
	struct sockaddr_storage to;
	socklen_t size = address(arg(0), arg(1), &to);
	int fd = need_fd(socket(to.ss_family, SOCK_DGRAM, 0), "socket");

	if (connect(fd, (void *)&to, size))
		wrong("connect");
	return report(connect(fd, &nowhere, sizeof(nowhere)));
}

static int word_of(const char *word, const char *const *words, const int *numbers)
{
	for (int i = 0; words[i]; i++)
		if (!strcmp(words[i], word))
			return numbers[i];
	return number(word);
}

static int family_of(const char *word)
{
	return word_of(word, (const char *const[]){ "inet", "inet6", "unix", "netlink", "packet", NULL },
		       (const int[]){ AF_INET, AF_INET6, AF_UNIX, AF_NETLINK, AF_PACKET });
}

static int type_of(const char *word)
{
	return word_of(word, (const char *const[]){ "stream", "dgram", "raw", "seqpacket", "dccp", NULL },
		       (const int[]){ SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, 6 });
}

/* socket-of FAMILY TYPE PROTOCOL [uring|pair]: prints the type and the protocol that the socket has */
static int do_socket_of(void)
{
	int family = family_of(arg(0)), type = type_of(arg(1)), protocol = number(arg(2)), fd, pair[2];
	socklen_t size = sizeof(int);

	if (!strcmp(opt(3, ""), "pair")) {
		fd = socketpair(family, type, protocol, pair) ? -1 : pair[0];
	} else if (!strcmp(opt(3, ""), "uring")) {
		struct io_uring_sqe sqe = { .opcode = URING_SOCKET, .fd = family, .off = type, .len = protocol };

		fd = uring(&sqe);
	} else {
		fd = socket(family, type, protocol);
	}
	if (fd < 0)
		return report(-1);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) || getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size))
		wrong("getsockopt");
	printf("%d %d ", type, protocol);
	return report(0);
}

/* ---- unix sockets by other spellings ---- */

static socklen_t unix_path(const char *path, struct sockaddr_un *out)
{
	memset(out, 0, sizeof(*out));
	out->sun_family = AF_UNIX;
	if (strlen(path) >= sizeof(out->sun_path)) {
		errno = ENAMETOOLONG;
		wrong(path);
	}
	strcpy(out->sun_path, path);
	if (path[0] != '@')
		return sizeof(*out);
	out->sun_path[0] = 0;
	return offsetof(struct sockaddr_un, sun_path) + strlen(path);
}

/* Another way to write `path`, prepared where it has to be. */
static const char *spelled(const char *spelling, const char *path)
{
	static char out[sizeof(((struct sockaddr_un *)0)->sun_path)];
	char first[4096], second[4096], *folder, *name;

	snprintf(first, sizeof(first), "%s", path);
	snprintf(second, sizeof(second), "%s", path);
	folder = dirname(first);
	name = basename(second);
	if (!strcmp(spelling, "plain"))
		return path;
	if (!strcmp(spelling, "relative")) {
		if (chdir(folder))
			wrong("chdir");
		snprintf(out, sizeof(out), "%s", name);
	} else if (!strcmp(spelling, "dots")) {
		snprintf(out, sizeof(out), "%s/.//../%s/%s", folder, strrchr(folder, '/') + 1, name);
	} else if (!strcmp(spelling, "symlink")) {
		snprintf(out, sizeof(out), "%s.link", path);
		unlink(out);
		if (symlink(path, out))
			wrong("symlink");
	} else if (!strcmp(spelling, "hardlink")) {
		snprintf(out, sizeof(out), "%s.hard", path);
		unlink(out);
		if (link(path, out))
			wrong("link");
	} else if (!strcmp(spelling, "folder-fd")) {
		snprintf(out, sizeof(out), "/proc/self/fd/%d/%s", need_fd(open(folder, O_PATH | O_DIRECTORY), folder), name);
	} else if (!strcmp(spelling, "fd")) {
		snprintf(out, sizeof(out), "/proc/self/fd/%d", need_fd(open(path, O_PATH), path));
	} else if (!strcmp(spelling, "chroot")) {
		if (chroot(folder))
			wrong("chroot");
		snprintf(out, sizeof(out), "/%s", name);
	} else if (!strcmp(spelling, "bind-mount")) {
		snprintf(out, sizeof(out), "%s.bound", path);
		if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
			wrong("unshare");
		close(need_fd(open(out, O_WRONLY | O_CREAT, 0600), out));
		if (mount(path, out, NULL, MS_BIND, NULL))
			wrong("bind mount");
	} else {
		errno = EINVAL;
		wrong(spelling);
	}
	return out;
}

/* unix-reach HOW SPELLING PATH: a socket bound to PATH is there first. HOW: stream, seqpacket, dgram: connect; stream-uring: by io_uring;
 * send: a datagram without an association; write: on an association; stream-write: on a connection
 */
static int do_unix_reach(void)
{
	const char *how = arg(0), *path = arg(2);
	bool dgram = !strcmp(how, "dgram") || !strcmp(how, "send") || !strcmp(how, "write");
	int type = dgram ? SOCK_DGRAM : (!strcmp(how, "seqpacket") ? SOCK_SEQPACKET : SOCK_STREAM);
	int server = need_fd(socket(AF_UNIX, type, 0), "socket"), fd = need_fd(socket(AF_UNIX, type, 0), "socket");
	struct sockaddr_un to;
	socklen_t size = unix_path(path, &to);

	if (path[0] != '@')
		unlink(path);
	if (bind(server, (void *)&to, size) || (!dgram && listen(server, 1)))
		wrong("bind");
	size = unix_path(spelled(arg(1), path), &to);
	if (!strcmp(how, "send"))
		return report(sendto(fd, "x", 1, 0, (void *)&to, size));
	if (!strcmp(how, "stream-uring"))
		return report(uring(&(struct io_uring_sqe){ .opcode = IORING_OP_CONNECT, .fd = fd, .addr = (unsigned long)&to, .off = size }));
	int result = connect(fd, (void *)&to, size);

	if (strcmp(how, "write") && strcmp(how, "stream-write"))
		return report(result);
	if (result)
		wrong("connect");
	return report(write(fd, "x", 1));
}

/* unix-bind-by HOW SPELLING PATH: HOW: bind, uring */
static int do_unix_bind_by(void)
{
	int fd = need_fd(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
	struct sockaddr_un own;
	socklen_t size = unix_path(spelled(arg(1), arg(2)), &own);

	unlink(arg(2));
	if (!strcmp(arg(0), "uring"))
		return report(uring(&(struct io_uring_sqe){ .opcode = URING_BIND, .fd = fd, .addr = (unsigned long)&own, .off = size }));
	return report(bind(fd, (void *)&own, size));
}

/* mksock PATH: the name of a socket without one */
static int do_mksock(void)
{
	unlink(arg(0));
	return report(mknod(arg(0), S_IFSOCK | 0600, 0));
}

/* unix-dial PATH: connects to whoever listens there */
static int do_unix_dial(void)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };

	snprintf(to.sun_path, sizeof(to.sun_path), "%s", arg(0));
	return report(connect(need_fd(socket(AF_UNIX, SOCK_STREAM, 0), "socket"), (void *)&to, sizeof(to)));
}

const struct act network_acts[] = {
	{ "fastopen", do_fastopen },
	{ "fastopen-connect", do_fastopen_connect },
	{ "stream-connect", do_stream_connect },
	{ "sctp-send", do_sctp_send },
	{ "sctp-connectx", do_sctp_connectx },
	{ "sctp-bindx", do_sctp_bindx },
	{ "vsock-connect", do_vsock_connect },
	{ "rxrpc-connect", do_rxrpc_connect },
	{ "icmp-send", do_icmp_send },
	{ "udp-send-by", do_udp_send_by },
	{ "udp-write", do_udp_write },
	{ "connect-unspec", do_connect_unspec },
	{ "socket-of", do_socket_of },
	{ "unix-reach", do_unix_reach },
	{ "unix-dial", do_unix_dial },
	{ "unix-bind-by", do_unix_bind_by },
	{ "mksock", do_mksock },
	{ NULL, NULL },
};
