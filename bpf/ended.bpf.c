// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Ends of functions that decide. Programs there share no engine by extension (see shared.bpf.c): each of these has its own. */
#include "ended.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* What the ends of system calls in calls.bpf.c come to. Never attached: it has the type of what it is attached to in map `ended_calls`. */
SEC("fexit/__x64_sys_dup")
int BPF_PROG(calls__ended, const void *regs, long result)
{
	u64 task = bpf_get_current_pid_tgid();
	u32 *told = bpf_map_lookup_elem(&ended, &task), what;

	if (!told)
		return 0;
	what = *told;
	bpf_map_delete_elem(&ended, &task);
	decide_ended(what, result);
	return 0;
}

/* The function of setsid(2) itself has no type information on some kernels; this one takes nothing. */
SEC("fexit/ksys_setsid")
int RETURN_PROG(ksys_setsid__call, EV_PROCESS_SETSID, int result)
{
	set_call(s, result);
	return decide(slot);
}

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
