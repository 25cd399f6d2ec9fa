/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Programs that make one event. What all of them do stands here; each says its name, its event, its arguments and the lines that differ:
 *
 *	SEC("lsm/path_mkdir")
 *	int HOOK_PROG(path_mkdir__file, EV_FILE_MKDIR, const struct path *dir, struct dentry *dentry, unsigned short mode, int ret)
 *	{
 *		set_name(s, dir, dentry);
 *		set_num(s, NUM_FILE_MODE, mode);
 *		return decide(slot);
 *	}
 *
 * The body runs where a rule may concern the event. Besides the arguments it has `s`, the scratch of the event, and `slot`, its number: taken
 * before and given back after it. It returns what decide does, 0 or a positive errno.
 *
 * Where that is not for every call, a condition of the arguments comes before them:
 *
 *	int HOOK_PROG_IF(socket_create__network, EV_NET_CREATE, !kern, int family, int type, int protocol, int kern, int ret)
 *
 * The event, too, may be an expression of the arguments; EV_NONE is none. Programs that begin more than one event, or whose body needs what
 * it costs to find out whether there is one, are written out: BPF_PROG, HONOUR, event_begin, event_end.
 */
#ifndef BPFENCE_HOOK_H
#define BPFENCE_HOOK_H

#include "engine.h"

/* `earlier`: what the hook has returned so far; `answer`: what the program returns for an errno.
 *
 * The body is a BPF_PROG too: its ctx is made here, the hook's arguments behind `s` and `slot`. They are loaded once, before the event begins:
 * loaded again, a pointer that the condition has found not to be NULL would be one that may be NULL to the verifier, and the hook's ctx would
 * take a register all the way. Without the barrier clang 14 lets the body begin twice, by how event_begin has come by the subject.
 */
#define EVENT_PROG(name, event, condition, earlier, answer, args...) \
	name(unsigned long long *ctx); \
	static __always_inline int body_of_##name(unsigned long long *ctx); \
	int BPF_PROG(name, args) \
	{ \
		unsigned long long given[2 + ___bpf_narg(args)]; \
		struct scratch *s; \
		u32 number, slot; \
		int error; \
\
		__builtin_memcpy(&given[2], ctx, sizeof(given) - 2 * sizeof(given[0])); \
		if (earlier) \
			return answer(-(earlier)); \
		if (!(condition)) \
			return 0; \
		number = (event); \
		if (number == EV_NONE) \
			return 0; \
		s = event_begin(number, &slot); \
		if (!s) \
			return answer(slot); \
		barrier(); \
		given[0] = (u64)s; \
		given[1] = slot; \
		error = body_of_##name(given); \
		scratch_give(s, slot); \
		return answer(error); \
	} \
	static __always_inline int BPF_PROG(body_of_##name, struct scratch *s, u32 slot, args)

/* A program of an LSM hook, in both flavours: it may deny. The last argument, `ret`, is what an earlier program on the hook has returned:
 * that is kept.
 */
#define HOOK_PROG(name, event, args...) EVENT_PROG(name, event, true, ret, deny_value, args)
#define HOOK_PROG_IF(name, event, condition, args...) EVENT_PROG(name, event, condition, ret, deny_value, args)

/* A program at the end of a function, whose result is the last argument. It is over, so nothing can be refused, and the verifier wants 0
 * (v6.12, 5d99e198be27: "should have been in [0, 0]").
 */
#define RETURN_PROG(name, event, args...) EVENT_PROG(name, event, true, 0, no_answer, args)
#define RETURN_PROG_IF(name, event, condition, args...) EVENT_PROG(name, event, condition, 0, no_answer, args)

static __always_inline int no_answer(int error)
{
	return 0;
}

/* Whether event_begin may begin the event: for a condition that costs more than that. */
static __always_inline bool may_concern(u32 event)
{
	u64 generation = active_generation(), tgid = bpf_get_current_pid_tgid() >> 32;
	struct concern *concern = concern_of(tgid);

	return concern && !subject_unconcerned(concern, event, generation, tgid);
}

/* Whether this kernel lets anything be noted. */
static __always_inline bool have_notes(void)
{
	return have_rdonly_cast && have_inode_storage;
}

/* Whether it is known that nothing follows from an event of the acting process on a file: no rule concerns it, or that has been noted, of its name
 * (noted.h) or in its folder (quiet.h). `what`: see quiet_what; an event alone is one.
 */

#ifdef ENGINE_SHARED
#define QUIET_FILE file_noted
#define QUIET_PATH path_noted
#define QUIET_NAME name_noted
#define QUIET_NAMES(dir, dentry, other, what) names_noted(dir, dentry, other, what)
#else
#define QUIET_FILE file_quiet
#define QUIET_PATH path_quiet
#define QUIET_NAME name_quiet
#define QUIET_NAMES(dir, dentry, other, what) (may_concern((what) & 0xff) && engine(ENGINE_NAMES_QUIET, what, dir, dentry, other))
#endif

static __always_inline bool quiet_file(struct file *file, u32 what)
{
	return have_notes() && QUIET_FILE(number_of(file), what);
}

static __always_inline bool quiet_path(const struct path *path, u32 what)
{
	return have_notes() && QUIET_PATH(number_of(path), what);
}

static __always_inline bool quiet_name(const struct path *dir, struct dentry *dentry, u32 what)
{
	return have_notes() && QUIET_NAME(number_of(dir), number_of(dentry), what);
}

static __always_inline bool quiet_names(const struct path *dir, struct dentry *dentry, struct dentry *other, u32 what)
{
	return have_notes() && QUIET_NAMES(number_of(dir), number_of(dentry), number_of(other), what);
}

#endif
