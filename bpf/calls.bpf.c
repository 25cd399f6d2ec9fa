// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Ends of system calls: the results that records are held for, and the events that exist only then. One program a function, attached only
 * where a rule asks for that call's result: nothing here is paid by any other call.
 */
#include "hook.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* ---- results that records wait for ---- */

#define RESULT_OF(call) \
	SEC("fexit/__x64_sys_" #call) \
	int BPF_PROG(call##__result, const void *regs, long result) \
	{ \
		if (held_pending()) \
			held_result(result, 1); \
		return 0; \
	}

RESULT_OF(open)
RESULT_OF(openat)
RESULT_OF(openat2)
RESULT_OF(creat)
RESULT_OF(open_by_handle_at)
RESULT_OF(clone)
RESULT_OF(clone3)
RESULT_OF(fork)
RESULT_OF(vfork)
RESULT_OF(socket)
RESULT_OF(socketpair)
RESULT_OF(bind)
RESULT_OF(connect)
RESULT_OF(listen)
RESULT_OF(accept)
RESULT_OF(accept4)
RESULT_OF(sendto)
RESULT_OF(sendmsg)
RESULT_OF(sendmmsg)
RESULT_OF(rename)
RESULT_OF(renameat)
RESULT_OF(renameat2)
RESULT_OF(unlink)
RESULT_OF(unlinkat)
RESULT_OF(rmdir)
RESULT_OF(link)
RESULT_OF(linkat)
RESULT_OF(symlink)
RESULT_OF(symlinkat)
RESULT_OF(mkdir)
RESULT_OF(mkdirat)
RESULT_OF(chmod)
RESULT_OF(fchmod)
RESULT_OF(fchmodat)
RESULT_OF(chown)
RESULT_OF(lchown)
RESULT_OF(fchown)
RESULT_OF(fchownat)
RESULT_OF(mknod)
RESULT_OF(mknodat)
RESULT_OF(kill)
RESULT_OF(tkill)
RESULT_OF(tgkill)
RESULT_OF(process_vm_readv)
RESULT_OF(process_vm_writev)
RESULT_OF(mount)
RESULT_OF(umount)
RESULT_OF(bpf)
RESULT_OF(init_module)
RESULT_OF(finit_module)
RESULT_OF(pivot_root)

/* ---- events after the act ---- */

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
	u64 from = s->num[argument];
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

/* One program for each of the two tables: what can be called by `int $0x80` must not be hidden by it. */
#define CALL_EVENT_OF(function, program, event, text) \
	SEC("fexit/" function) \
	int RETURN_PROG(program, event, const void *regs, long result) \
	{ \
		set_call(s, result); \
		if (text) \
			set_call_text(s, text); \
		return decide(slot); \
	}

#define CALL_EVENT_TEXT(call, event, text) \
	CALL_EVENT_OF("__x64_sys_" #call, call##__call, event, text) \
	CALL_EVENT_OF("__ia32_sys_" #call, call##__call32, event, text)

#define CALL_EVENT(call, event) CALL_EVENT_TEXT(call, event, 0)

CALL_EVENT_OF("__x64_sys_ptrace", ptrace__call, EV_PROCESS_TRACE, 0)
CALL_EVENT_OF("__ia32_compat_sys_ptrace", ptrace__call32, EV_PROCESS_TRACE, 0)
CALL_EVENT(unshare, EV_PROCESS_UNSHARE)
CALL_EVENT(setns, EV_PROCESS_SETNS)
CALL_EVENT_TEXT(prctl, EV_PROCESS_PRCTL, NUM_CALL_ARG1)
CALL_EVENT(capset, EV_PROCESS_CAPSET)
CALL_EVENT_TEXT(chroot, EV_PROCESS_CHROOT, NUM_CALL_ARG0)
CALL_EVENT_TEXT(chdir, EV_PROCESS_CHDIR, NUM_CALL_ARG0)
CALL_EVENT(fchdir, EV_PROCESS_CHDIR)
CALL_EVENT_TEXT(memfd_create, EV_KERNEL_MEMFD, NUM_CALL_ARG0)
CALL_EVENT(userfaultfd, EV_KERNEL_USERFAULTFD)
CALL_EVENT_TEXT(fsconfig, EV_KERNEL_FSCONFIG, NUM_CALL_ARG2)

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

#define RING_EVENT_OF(function, program) \
	SEC("fexit/" function) \
	int RETURN_PROG(program, EV_KERNEL_IO_URING_SETUP, const void *regs, long result) \
	{ \
		set_call(s, result); \
		set_ring(s); \
		return decide(slot); \
	}

RING_EVENT_OF("__x64_sys_io_uring_setup", io_uring_setup__call)
RING_EVENT_OF("__ia32_sys_io_uring_setup", io_uring_setup__call32)

/* The function of setsid(2) itself has no type information on some kernels; this one takes nothing. */
SEC("fexit/ksys_setsid")
int RETURN_PROG(ksys_setsid__call, EV_PROCESS_SETSID, int result)
{
	set_call(s, result);
	return decide(slot);
}

/* A program that runs has been reported by the tracepoint; its registers are not the caller's any more. */
#define EXEC_FAILED(function, program, text) \
	SEC("fexit/" function) \
	int RETURN_PROG_IF(program, EV_PROCESS_EXEC_FAILED, result < 0, const void *regs, long result) \
	{ \
		set_call(s, result); \
		set_call_text(s, text); \
		return decide(slot); \
	}

EXEC_FAILED("__x64_sys_execve", execve__call, NUM_CALL_ARG0)
EXEC_FAILED("__ia32_compat_sys_execve", execve__call32, NUM_CALL_ARG0)
EXEC_FAILED("__x64_sys_execveat", execveat__call, NUM_CALL_ARG1)
EXEC_FAILED("__ia32_compat_sys_execveat", execveat__call32, NUM_CALL_ARG1)

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

#define DUP_EVENT_OF(function, program) \
	SEC("fexit/" function) \
	int RETURN_PROG(program, EV_FILE_DUP, const void *regs, long result) \
	{ \
		set_call(s, result); \
		set_duplicate(s, result); \
		return decide(slot); \
	}

#define DUP_EVENT(call) \
	DUP_EVENT_OF("__x64_sys_" #call, call##__call) \
	DUP_EVENT_OF("__ia32_sys_" #call, call##__call32)

DUP_EVENT(dup)
DUP_EVENT(dup2)
DUP_EVENT(dup3)

/* ---- changes of user and group ids ---- */

/* What is not permitted fails before its hook. Where a record has passed that, it tells the failure: both in one program, because the order
 * of two on one function is that in which they were attached.
 */
static __always_inline bool setid_failed(long result)
{
	return !(held_pending() && held_result(result, 1)) && result < 0;
}

#define SETID_OF(function, program) \
	SEC("fexit/" function) \
	int RETURN_PROG_IF(program, EV_PROCESS_SETID_FAILED, setid_failed(result), const void *regs, long result) \
	{ \
		set_call(s, result); \
		return decide(slot); \
	}

/* The 32-bit table has two of each: with ids of 32 bits, and the old ones of 16. */
#define SETID(call) \
	SETID_OF("__x64_sys_" #call, call##__call) \
	SETID_OF("__ia32_sys_" #call, call##__call32) \
	SETID_OF("__ia32_sys_" #call "16", call##16__call32)

SETID(setuid)
SETID(setreuid)
SETID(setresuid)
SETID(setgid)
SETID(setregid)
SETID(setresgid)

/* ---- files that cannot be opened ---- */

/* Whether it has passed its hook: then that is what is reported, with the object's path. */
static __always_inline bool open_held(void)
{
	u64 key = bpf_get_current_pid_tgid();
	struct held_record *record = held_pending() ? bpf_map_lookup_elem(&held, &key) : NULL;

	return record && record->header.event == EV_FILE_OPEN;
}

/* -EAGAIN is io_uring's first try, without waiting. */
static __always_inline bool open_failed(long file)
{
	return (u64)file >= (u64)-4095 && file != -EAGAIN && !open_held();
}

/* The name is the kernel's copy: what the file system looked for. */
static __always_inline int decide_open(struct scratch *s, u32 slot, int dirfd, const struct filename *name, const struct open_flags *how,
				       long file)
{
	int mode = how->acc_mode;
	u64 access = 0;

	s->text = (u64)name->name;
	set_num(s, NUM_DIRFD, (s64)dirfd);
	set_num(s, NUM_RESULT, file);
	set_num(s, NUM_FILE_FLAGS, how->open_flag);
	if (mode & MAY_READ)
		access |= ACCESS_READ;
	if (mode & MAY_WRITE)
		access |= ACCESS_WRITE;
	if (how->open_flag & O_CREAT)
		access |= ACCESS_CREATE;
	set_num(s, NUM_FILE_ACCESS, access);
	return decide(slot);
}

SEC("fexit/do_filp_open")
int RETURN_PROG_IF(do_filp_open__call, EV_FILE_OPEN_FAILED, open_failed(file), int dirfd, struct filename *name,
		   const struct open_flags *how, long file)
{
	return decide_open(s, slot, dirfd, name, how, file);
}

/* v6.19: its new name. */
SEC("fexit/do_file_open")
int RETURN_PROG_IF(do_file_open__call, EV_FILE_OPEN_FAILED, open_failed(file), int dirfd, struct filename *name,
		   const struct open_flags *how, long file)
{
	return decide_open(s, slot, dirfd, name, how, file);
}
