// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Ends of system calls: the results that records are held for, and the events that exist only then. One program a function, attached only
 * where a rule asks for that call's result: nothing here is paid by any other call.
 */
#include "ended.h"

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

/* Where a rule may concern the event. In bpfence.bpf.o each of these programs decides by an engine of its own. In shared.bpf.o none has one:
 * programs at ends of functions cannot share it as an extension, but all that are attached to functions of one type (BTF's id of the prototype)
 * can go on in one program as their tail; of another type, newer kernels refuse that. It is given the registers' place and the result alone, so
 * what has ended is told through map `ended`.
 */
#ifdef ENGINE_SHARED
static __always_inline void call_ended(void *ctx, u32 what, long result)
{
	u64 task = bpf_get_current_pid_tgid();

	/* This program may be attached for another event, and the one that it would go on in not be there. */
	if (!may_concern(what & ENDED_EVENT) || !image_concerns(what & ENDED_EVENT))
		return;
	if (!bpf_map_update_elem(&ended, &task, &what, BPF_ANY)) {
		bpf_tail_call(ctx, &ended_calls, 0);
		bpf_map_delete_elem(&ended, &task);
	}
	count_lost(what & ENDED_EVENT, RING_DECISIONS); /* nothing goes on with it */
}
#else
static __always_inline void call_ended(void *ctx, u32 what, long result)
{
	decide_ended(what, result);
}
#endif

/* One program for each of the two tables: what can be called by `int $0x80` must not be hidden by it. */
#define CALL_EVENT_OF(function, program, event, what) \
	SEC("fexit/" function) \
	int BPF_PROG(program, const void *regs, long result) \
	{ \
		call_ended(ctx, (event) | (what), result); \
		return 0; \
	}

#define CALL_EVENT_WITH(call, event, what) \
	CALL_EVENT_OF("__x64_sys_" #call, call##__call, event, what) \
	CALL_EVENT_OF("__ia32_sys_" #call, call##__call32, event, what)

#define CALL_EVENT_TEXT(call, event, argument) CALL_EVENT_WITH(call, event, ENDED_TEXT(argument))
#define CALL_EVENT(call, event) CALL_EVENT_WITH(call, event, 0)

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

CALL_EVENT_WITH(io_uring_setup, EV_KERNEL_IO_URING_SETUP, ENDED_RING)

/* A program that runs has been reported by the tracepoint; its registers are not the caller's any more. */
#define EXEC_FAILED(function, program, text) \
	SEC("fexit/" function) \
	int BPF_PROG(program, const void *regs, long result) \
	{ \
		if (result < 0) \
			call_ended(ctx, EV_PROCESS_EXEC_FAILED | ENDED_TEXT(text), result); \
		return 0; \
	}

EXEC_FAILED("__x64_sys_execve", execve__call, NUM_CALL_ARG0)
EXEC_FAILED("__ia32_compat_sys_execve", execve__call32, NUM_CALL_ARG0)
EXEC_FAILED("__x64_sys_execveat", execveat__call, NUM_CALL_ARG1)
EXEC_FAILED("__ia32_compat_sys_execveat", execveat__call32, NUM_CALL_ARG1)

CALL_EVENT_WITH(dup, EV_FILE_DUP, ENDED_DUP)
CALL_EVENT_WITH(dup2, EV_FILE_DUP, ENDED_DUP)
CALL_EVENT_WITH(dup3, EV_FILE_DUP, ENDED_DUP)

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
	int BPF_PROG(program, const void *regs, long result) \
	{ \
		if (setid_failed(result)) \
			call_ended(ctx, EV_PROCESS_SETID_FAILED, result); \
		return 0; \
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
