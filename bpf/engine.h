/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the hook programs call. The functions below are global BPF functions in engine.bpf.c: the verifier checks each one once
 * by itself instead of at every call (Linux 5.6, 51c39bb1d5d1), which is what makes unbounded paths fit a 5.10 verifier. Their
 * arguments are scalars because 5.10 accepts nothing else there: they pass the number of a scratch slot.
 */
#ifndef BPFENCE_ENGINE_H
#define BPFENCE_ENGINE_H

#include "compat.h"
#include "maps.h"
#include "read.h"

#define SUBJECT_UNCONCERNED 0
#define SUBJECT_CONCERNED 1 /* a rule may concern the event */
#define SUBJECT_REFUSED 2   /* the subject cannot be computed, and an enforcing rule concerned the event when it last could be */

/* Publishes what a record says once more, after another process of these tgids has made the word void. */
int concern_again(u32 slot);

/* read_start_time by probe reads. */
u64 start_time_probed(void);

/* Computes the subject of the acting process into the scratch, and into its record. SUBJECT_*. */
int subject_load(u32 slot, u32 event);

/* Walks the diagrams of the event for the subject. 0: nothing follows. */
int decide_rules(u32 slot);

/* What has been decided is done, told and counted; the errno of a denial, or 0. */
int decide_outcome(u32 slot);

/* Decides an event that no memory could be had for: 0, or the errno of a denial where an enforcing rule concerns it. */
int decide_without_memory(u32 event);

/* The same for an event whose hook program is without the shared engine. */
int decide_without_engine(u32 event);

/* IMAGE_* features of the active image; 0 where none is. */
int image_features(void);

/* Whether any rule of the active image is about the event: for programs that are attached whether or not. */
int image_concerns(u32 event);
int counted_end(u32 tgid, u64 start_time);

/* Resolves file.path (which 0) or file.new_path (1) of the scratch, as the mount tells it that was gone through. */
int path_resolve(u32 slot, u32 which);

/* The same as the mount namespace of the acting task tells it, where that mount is none of its own. */
int path_named(u32 slot, u32 which);

/* The dentries of file.path (which 0) or file.new_path (1) into s->steps, and the followed identities on the way into their number, where the
 * image needs them. 1; 0 where it is not the usual case, and path_resolve is called for.
 */
int path_steps(u32 slot, u32 which);

/* The same by what is kept of the folder, and of the dentries the first alone. 1; 0: nothing is kept, and s->folder is the one that can be. */
int path_folder(u32 slot, u32 which);

/* Keeps for the next file in s->folder what the way up from it has told, and one state, as struct folder has it; 0: none. */
int folder_note(u32 slot, u32 which, u64 state);

/* Whether nothing follows from an event on a file, by what has been noted of others in its folder: see quiet.h. Of an open file, of a path, of a
 * name below the path of a directory, of two names there; all by their addresses. `what`: see quiet_what.
 */
int file_quiet(u64 file, u32 what);
int path_quiet(u64 path, u32 what);
int name_quiet(u64 dir, u64 dentry, u32 what);
int names_quiet(u64 dir, u64 dentry, u64 other, u32 what);

/* The same, and what has been noted of the very name: see noted.h. Where the engine is shared. */
int file_noted(u64 file, u32 what);
int path_noted(u64 path, u32 what);
int name_noted(u64 dir, u64 dentry, u32 what);
int names_noted(u64 dir, u64 dentry, u64 other, u32 what);

/* Notes that nothing has followed from the event in the scratch, for the very name of its file: see noted.h. Whether it was noted. */
int note_decided(u32 slot, u64 key);

/* Notes that nothing has followed from the event in the scratch on an open file, where that was so and lasts: see opened.h. Whether it was noted. */
int file_note_decided(u32 slot, u64 file, u32 what);

/* Notes that nothing has followed from the event in the scratch, where that was so and lasts. Whether it was noted. `layered`: the file of a layer is
 * decided on next; it is noted after that, by quiet_note_layer.
 */
int quiet_note(u32 slot, u32 what, u32 layered);

/* The same of what quiet_note was asked for as `layered`: when the file of the layer has been decided on. */
int quiet_note_layer(u32 slot);

/* Notes that nothing has followed from the event of a socket in the scratch, where that was so and lasts: see peer.h. Whether it was noted. */
int socket_note(u32 slot);

/* The number of the acting process's subject; 0: it has none, or is about to have another. SUBJECT_NOTHING: no rule concerns the event. */
#define subject_of(event) subject_concerned((event) / CONCERN_BITS, (event) % CONCERN_BITS)
#define SUBJECT_NOTHING (~0ULL)
u64 subject_concerned(u32 word, u32 bit);

/* Gives the subject of the record in the scratch its number: see quiet.h. */
int subject_number(u32 slot);

/* What names are told by: changes whenever a name in any directory, or a mount, is moved, made or removed; 0: it is changing just now, or
 * cannot be had.
 */
u64 tree_version(void);

/* What the names of folders are told by: the same but for renames of files, as far as the programs on d_move have counted them. */
u64 folder_version(void);

/* Gives the process of a task (its address), or the acting one, its record and image. 0 or -1. */
int record_create(u32 slot, u64 task);
int record_exec(u32 slot, u64 parent_exec_id);
int image_release(u64 exec_id);
int record_adopt(u64 exec_id, u32 ppid, u32 whole);
int arguments_load(u32 slot, u64 exec_id);

/* A mount (struct vfsmount) in the namespace of the acting task through which a dentry can be seen; 0: none among the first MOUNTS_TRIED. */
u64 mount_of(u64 dentry);

/* The same where the whole file system is mounted, not a part of it. */
u64 mount_of_whole(u64 dentry);

/* Parts of image_release and emit_build that go in rounds: see rounds.h. */
int image_forget(u64 exec_id);
int emit_wide(u32 slot, u32 word, u32 at);
int emit_narrow(u32 slot, u32 word, u32 at);

/* Puts the record of the event together in emit_spaces[slot]; its size. */
int emit_build(u32 slot);

/* Reports a decision: now, or when the system call returns. */
int report(u32 slot);

/* The end of a system call that a record may be held for; whether one was. */
int held_result(s64 result, u32 known);

/* Details of the acting process: numbers NUM_CALL to NUM_PARENT_START, and what string slot STR_ANCESTORS holds. */
int details_load(u32 slot);
int ancestors_load(u32 slot);
int path_aside(u32 slot, u32 str, int dirfd);
int tty_load(u32 slot);
int namespaces_load(u32 slot);
int caps_load(u32 slot);
int changes_load(u32 slot);
int exe_load(u32 slot);
int entered_load(u32 slot);
u32 workload_of(u32 generation, u64 of);
int proc_load(u32 slot);

/* Names of ancestors as bits of DIM_ANCESTORS into s->names; -1: not all are known. */
int names_load(u32 slot);

/* Make sure that a string, the working directory, the numbers of the event's file are in the scratch. */
int string_load(u32 slot, u32 str);
int cwd_load(u32 slot);
int numbers_load(u32 slot);

/* Ancestors that a lineage is collected from. */
#define LINEAGE_DEPTH 64

/* A hook's return value from a positive errno. The verifier wants to see [-4095, 0] for LSM programs from v6.12 on
 * (5d99e198be27: "At program exit the register R0 has smin=... should have been in [-4095, 0]"); a plain negation is opaque
 * to it, a subtraction is not.
 */
static __always_inline int deny_value(int error)
{
	u64 bounded = (u32)error & 0xfff;
	s64 value;

	asm volatile("%[v] = 0\n\t%[v] -= %[b]" : [v] "=&r"(value) : [b] "r"(bounded));
	return value;
}

/* What an earlier program on the same hook returned is kept. */
#define HONOUR(ret) \
	do { \
		if (ret) \
			return deny_value(-(ret)); \
	} while (0)

#define SCRATCH_OWN 2 /* slots of a CPU: one for a hook, one for a hook in an interrupt of it */

extern const volatile u32 first_spare; /* set by the loader */

/* Takes another slot than the first of the CPU; 0: none is left. */
int scratch_another(void);

/* Takes one of the CPU's own slots, or NULL. The add-then-read works without the fetching atomics that only v5.12 has (5ca419f2864a): two
 * takers who both see 2 both go on to the next slot.
 */
static __always_inline struct scratch *scratch_lock(u32 slot)
{
	struct scratch *s = scratch_at(slot);

	if (!s)
		return NULL;
	__sync_fetch_and_add(&s->lock, 1);
	if (*(volatile u64 *)&s->lock == 1)
		return s;
	__sync_fetch_and_add(&s->lock, -1);
	return NULL;
}

/* Takes a scratch slot: of the CPU's own where one is free. Programs may be preempted (they run with migration, not preemption, disabled); where
 * more tasks are preempted in hooks than the CPU has slots, spare ones serve. NULL: none is left.
 */
static __always_inline struct scratch *scratch_take(u32 *slot)
{
	struct scratch *s;

	*slot = bpf_get_smp_processor_id() * SCRATCH_OWN;
	s = scratch_lock(*slot);
	if (s)
		return s;
	*slot = scratch_another();
	return *slot ? scratch_at(*slot) : NULL;
}

static __always_inline void scratch_give(struct scratch *s, u32 slot)
{
	if (slot >= first_spare)
		bpf_map_push_elem(&spares, &slot, 0);
	else
		__sync_fetch_and_add(&s->lock, -1);
}

/* Local storage of inodes: v5.10 (8ea636848aca), for LSM programs. Where they are fmod_ret programs the loader makes known_files another map,
 * and the verifier removes what would call for it.
 */
extern const volatile u32 have_inode_storage;

/* Whether maps `known_files` and `folders` may be used: what ends the truth of an entry is seen. Not 0: since when, as struct control has it. */
static __always_inline u32 remembers(void)
{
	u32 zero = 0, since;
	struct control *c = bpf_map_lookup_elem(&control, &zero);

	if (!have_inode_storage || !c)
		return 0;
	since = *(volatile u32 *)&c->remembers;
	return since & 1 ? since : 0;
}

/* 64 bits wide, as all numbers of the way in: see struct automaton. */
static __always_inline u64 active_generation(void)
{
	u32 zero = 0;
	struct control *c = bpf_map_lookup_elem(&control, &zero);

	return c ? *(volatile u32 *)&c->generation : 0;
}

#define EVENT_BIT(event) (1ULL << ((event) & 63))

/* Of process_record.concern or .enforcing, and what has their form in an image. */
static __always_inline bool event_in(const u64 *words, u64 event)
{
	return words[MASKED(event / 64, ABI_EVENT_WORDS - 1)] & EVENT_BIT(event);
}

#define GENERATIONS_APART 0x9e37 /* odd: each generation has a tag of its own until CONCERN_TAG_MASK comes round */
#define CONCERN_MASK ((1ULL << CONCERN_BITS) - 1)
#define CONCERN_LAST ((CONCERN_WORDS - 1) * CONCERN_BITS) /* the first event of the last word */
#define CONCERN_READING (1ULL << (CONCERN_OPEN_READ - CONCERN_LAST) | 1ULL << (CONCERN_PERMISSION_READ - CONCERN_LAST))
#define CONCERN_EVENTS_LAST (CONCERN_MASK >> CONCERN_SPARE & ~(CONCERN_READING | CONCERN_UNFOLLOWED | CONCERN_EVERY))

/* Generations are far apart in it: with as many changes of the record as there were swaps the words of before would be taken for those of now. */
static __always_inline u64 concern_tag(u64 generation, u64 version, u64 tgid)
{
	return ((generation * GENERATIONS_APART + version) & CONCERN_TAG_MASK) << CONCERN_BITS | (tgid / CONCERN_ENTRIES) << (CONCERN_BITS + CONCERN_TAG_BITS);
}

/* CONCERN_BITS bits of four words, from those of event `first` on, which is a constant. */
static __always_inline u64 concern_bits(const u64 *concern, u32 first)
{
	u64 bits = concern[first / 64] >> (first & 63);

	if ((first & 63) > 64 - CONCERN_BITS && first / 64 + 1 < ABI_EVENT_WORDS)
		bits |= concern[first / 64 + 1] << (64 - (first & 63));
	return ~bits & CONCERN_MASK;
}

static __always_inline struct concern *concern_of(u64 tgid)
{
	u32 index = tgid & (CONCERN_ENTRIES - 1);

	return bpf_map_lookup_elem(&concerns, &index);
}

static __always_inline u64 record_version(u32 tgid)
{
	struct concern *concern = concern_of(tgid);

	return concern ? *(volatile u64 *)&concern->version : 0;
}

static __always_inline void concern_void(struct concern *concern)
{
	u32 i;

	for (i = 0; i < CONCERN_WORDS; i++)
		*(volatile u64 *)&concern->word[i] = 0;
}

/* event / CONCERN_BITS of an event that the compiler does not know, without a division. */
static __always_inline u64 concern_word_of(u32 event)
{
	_Static_assert(CONCERN_BITS == 40, "205 / 2^13 is the least that is no less than 1 / 40 and errs by less than 1 / 256 below 256");
	return (event & 0xff) * 205 >> 13;
}

/* The fast way out, in front of every hook: nothing is loaded, or no rule can concern this event of this process. */
static __always_inline bool subject_unconcerned(const struct concern *concern, u32 event, u64 generation, u64 tgid)
{
	u64 at = __builtin_constant_p(event) ? event / CONCERN_BITS : MASKED(concern_word_of(event), CONCERN_WORDS);
	u64 word = *(volatile const u64 *)&concern->word[at], version = *(volatile const u64 *)&concern->version;
	u64 bit = 1ULL << (event - at * CONCERN_BITS), wanted = concern_tag(generation, version, tgid) | bit;

	return !generation || !((word ^ wanted) & (~CONCERN_MASK | bit));
}

/* Before and after every change of a process's record: the end of all copies, and of what hooks know without it. The words go, too: of the
 * version they hold a few bits only, and after enough changes these would be the same again.
 */
static __always_inline void record_changed(u32 tgid)
{
	struct concern *concern = concern_of(tgid);

	if (!concern)
		return;
	__sync_fetch_and_add(&concern->version, 1);
	concern_void(concern);
}

/* Lets hooks know without the record what it says. `version`: the one that the record was computed at; a change since then, also one that
 * comes between this look and this store, makes the word void, and whoever stored it late takes it back.
 */
static __always_inline void concern_publish(const struct process_record *record, u64 version, u32 tgid)
{
	struct concern *concern = concern_of(tgid);
	u64 tag, shown = ~0ULL, more = 0, bits;
	u32 i;

	if (!concern || !record->generation)
		return;
	if (record->flags & RECORD_DEPENDS_IDS || (record->flags & RECORD_DEPENDS_CGROUP && record->flags & RECORD_CGROUPS)) {
		if (!record->number)
			return;
		shown = 0;
	}
	/* Of a cgroup, too, that all threads are in: where the kernel skips the program on moves between them, notes look for themselves. */
	if (!(record->flags & (RECORD_DEPENDS_IDS | RECORD_DEPENDS_CGROUP)))
		more |= CONCERN_EVERY;
	if (!(record->flags & RECORD_FOLLOWS))
		more |= CONCERN_UNFOLLOWED;
	more |= concern_bits(record->concern, CONCERN_LAST) & CONCERN_READING;
	tag = concern_tag(record->generation, version, tgid);
	for (i = 0; i < CONCERN_WORDS; i++) {
		bits = concern_bits(record->concern, i * CONCERN_BITS) & shown;
		if (i == CONCERN_WORDS - 1)
			bits = (bits & CONCERN_EVENTS_LAST) | more | (u64)record->number << (CONCERN_BITS - CONCERN_SPARE);
		*(volatile u64 *)&concern->word[i] = bits | tag;
	}
	/* The store is seen by all before the version is looked at. In assembly: of an addition of 0 clang makes a fetch, which 5.10 does not
	 * know ("BPF_STX uses reserved fields").
	 */
	asm volatile("lock *(u64 *)(%0 + 0) += %1" : : "r"(&concern->version), "r"(0ULL) : "memory");
	if (*(volatile u64 *)&concern->version != version)
		concern_void(concern);
}

/* Whether a number is that of the acting task's subject, which depends on the ids or the cgroup that it acts with. */
static __always_inline bool subject_is(u64 number)
{
	u32 index = number & (SUBJECTS - 1), uid, gid;
	struct known_subject *subject = bpf_map_lookup_elem(&subjects, &index);

	if (!number || !subject || *(volatile u32 *)&subject->number != number)
		return false;
	barrier();
	read_ids(&uid, &gid);
	if (subject->flags & RECORD_DEPENDS_IDS && subject->ids != ((u64)uid << 32 | gid))
		return false;
	if (subject->flags & RECORD_DEPENDS_CGROUP && subject->cgroup != bpf_get_current_cgroup_id())
		return false;
	barrier();
	return *(volatile u32 *)&subject->number == number;
}

/* The number of a subject in the last word of map `concerns`. */
#define NUMBER_IN(word) ((word) >> (CONCERN_BITS - CONCERN_SPARE))

/* The last word of the acting process, without its tag, where it tells the acting task's subject; else 0. `tag`: of concern_tag, just now. */
static __always_inline u64 word_acting(const struct concern *concern, u64 tag)
{
	u64 word = *(volatile const u64 *)&concern->word[CONCERN_WORDS - 1] ^ tag;

	return word & ~CONCERN_MASK || (!(word & CONCERN_EVERY) && !subject_is(NUMBER_IN(word))) ? 0 : word;
}

/* Whether no rule is about the acting task's reading: CONCERN_OPEN_READ or CONCERN_PERMISSION_READ. */
static __always_inline bool reading_unconcerned(u32 what)
{
	u64 generation = active_generation(), tgid = bpf_get_current_pid_tgid() >> 32;
	struct concern *concern = concern_of(tgid);

	return concern && word_acting(concern, concern_tag(generation, *(volatile u64 *)&concern->version, tgid)) >> (what - CONCERN_LAST) & 1;
}

/* When the acting process began: what tells its record from that of an earlier process with its pid. */
static __always_inline u64 read_start_time(void)
{
	if (have_task_btf) {
		struct task_struct *task = bpf_get_current_task_btf();

		return task->group_leader->start_boottime;
	}
	return start_time_probed();
}

/* Whether a record is the acting process's and still tells the truth: same generation, and where the subject looks at them, same effective
 * ids and cgroup.
 */
static __always_inline bool record_fits(const struct process_record *record, u64 generation, u64 start_time, bool hot)
{
	u32 uid, gid;

	if (record->generation != generation || record->start_time != start_time)
		return false;
	if (record->flags & RECORD_DEPENDS_CGROUP && record->cgroup != bpf_get_current_cgroup_id())
		return false;
	if (record->flags & RECORD_DEPENDS_IDS) {
		if (hot)
			read_ids(&uid, &gid);
		else
			read_ids_probed(&uid, &gid);
		return record->uid == uid && record->gid == gid;
	}
	return true;
}

static __always_inline bool record_fresh(const struct process_record *record, u64 generation)
{
	return record_fits(record, generation, read_start_time(), true);
}

/* Numbers whose slot is known to the compiler are found without arithmetic: others go through num_word. */
#define NUM_BIT(num) (1ULL << ((num) & 63))

static __always_inline u64 num_word(const u64 *words, u64 num)
{
	return __builtin_constant_p(num) ? words[num / 64] : words[MASKED(num / 64, ABI_NUM_WORDS - 1)];
}

static __always_inline bool has_num(const struct scratch *s, u64 num)
{
	return num_word(s->num_present, num) & NUM_BIT(num);
}

static __always_inline bool num_is_uncertain(const struct scratch *s, u64 num)
{
	return num_word(s->num_uncertain, num) & NUM_BIT(num);
}

static __always_inline void forget_num(struct scratch *s, u32 num)
{
	s->num_present[num / 64] &= ~NUM_BIT(num);
}

#define STR_BIT(str) (1ULL << ((str) & (ABI_STR_SLOTS - 1)))

static __always_inline bool has_str(const struct scratch *s, u32 str)
{
	return s->str_present & STR_BIT(str);
}

/* `num` is a constant. What has 32 bits in a record has no more in a decision. */
static __always_inline void set_num(struct scratch *s, u32 num, u64 value)
{
	s->num[num] = num < ABI_NUM_WIDE ? (u32)value : value;
	s->num_present[num / 64] |= NUM_BIT(num);
}

/* There is a number, and it cannot be told which: its class is CLASS_UNCERTAIN. */
static __always_inline void set_num_uncertain(struct scratch *s, u32 num)
{
	s->num_uncertain[num / 64] |= NUM_BIT(num);
}

/* The protection that a mapping gets of what mmap(2) is asked for, where the hook comes too early to know: with READ_IMPLIES_EXEC more than
 * that, but for files on a noexec mount (mm/util.c, mmap_prot), which counts as more here, too.
 */
static __always_inline u64 mmap_prot(u64 prot)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return prot & PROT_READ && BPF_CORE_READ(task, personality) & READ_IMPLIES_EXEC ? prot | PROT_EXEC : prot;
}

/* Clears what an earlier event left; data and the numbers themselves stay, nothing refers to them. */
static __always_inline void scratch_clear(struct scratch *s, u32 event)
{
	s->event = event;
	s->flags = 0;
	s->have_class = 0;
	__builtin_memset(s->num_present, 0, sizeof(s->num_present));
	__builtin_memset(s->num_uncertain, 0, sizeof(s->num_uncertain));
	s->str_present = 0;
	s->str_tried = 0;
	s->str_uncertain = 0;
	s->foreign = 0;
	s->small = AREA_SMALL;
	s->loaded = 0;
	s->dentry[0] = 0; /* without it the mount and, but for a failed open, the text are not looked at */
	s->dentry[1] = 0;
	s->inode = 0;
	s->mnt_ns = 0;
	s->steps_of = STEPS_NONE;
	s->tree = 0;
	s->path_asked[0] = 0;
	s->path_asked[1] = 0;
	s->paths_asked = 0;
}

static __always_inline void set_process(struct scratch *s)
{
	set_num(s, NUM_PROCESS_PID, s->record.pid);
	set_num(s, NUM_PARENT_PID, s->record.ppid);
}

/* The record of process `tgid` in the scratch, still there from the last event on this CPU where that was the same process's. False:
 * there is none, or it has to be computed.
 */
static __always_inline bool record_load(struct scratch *s, const struct concern *concern, u64 generation, u64 tgid)
{
	u64 version = *(volatile const u64 *)&concern->version;
	struct process_record *record;
	u32 key = tgid;

	if (s->record_version != version || s->record.pid != tgid) {
		s->record_version = RECORD_OWN;
		record = bpf_map_lookup_elem(&processes, &key);
		if (!record || *(volatile u32 *)&record->generation != generation)
			return false;
		s->record = *record;
		barrier();
		/* It may have changed under the copy, or its memory may have gone to another process: then it is not believed. Whoever
		 * changes it in place takes the generation away, counts up, writes, puts the generation back and counts up again; whoever
		 * replaces or removes it counts up when that is done.
		 */
		if (s->record.pid != tgid || *(volatile u32 *)&record->generation != generation || *(volatile const u64 *)&concern->version != version)
			return false;
		s->record_version = version;
	}
	return record_fresh(&s->record, generation);
}

/* Takes a scratch and the subject for an event that may concern the process. NULL: it does not, or it is refused; `slot` is the errno then. */
static __always_inline struct scratch *event_load(u32 event, u64 generation, u64 tgid, struct concern *concern, u32 *slot)
{
	struct scratch *s = scratch_take(slot);

	if (!s) {
		*slot = decide_without_memory(event);
		return NULL;
	}
	if (record_load(s, concern, generation, tgid)) {
		if (event_in(s->record.concern, event)) {
			scratch_clear(s, event);
			s->generation = generation;
			set_process(s);
			return s;
		}
		if (!(s->record.flags & RECORD_DEPENDS_IDS))
			concern_again(*slot);
	} else {
		switch (subject_load(*slot, event)) {
		case SUBJECT_CONCERNED:
			return s;
		case SUBJECT_REFUSED:
			scratch_give(s, *slot);
			*slot = EPERM;
			return NULL;
		}
	}
	scratch_give(s, *slot);
	*slot = 0;
	return NULL;
}

/* ---- what hook programs ask the engine for: `what` of engine() ----
 *
 * `slot` is that of the event's scratch, where there is one.
 */

#define ENGINE_BEGIN 0       /* event_load of event a: the slot, BEGIN_UNCONCERNED or BEGIN_REFUSED */
#define ENGINE_DECIDE 1      /* decides on the event in the scratch and writes what must be reported: 0 or a positive errno */
#define ENGINE_PATH 2        /* path_resolve; a is which */
#define ENGINE_MOUNT 3       /* mount_of; a is the dentry */
#define ENGINE_MOUNT_WHOLE 4 /* mount_of_whole */
#define ENGINE_QUIET 5       /* quiet_note; a is `what`, b `layered` */
#define ENGINE_QUIET_LAYER 11 /* quiet_note_layer */
#define ENGINE_SOCKET_NOTE 10 /* socket_note */
#define ENGINE_PATH_NAMED 13 /* path_named; a is which */
#define ENGINE_FILE_NOTE 12 /* file_note_decided; a is `what`, b the file */
/* In place of the slot stands `what`. */
#define ENGINE_FILE_QUIET 6  /* file_quiet of file a */
#define ENGINE_PATH_QUIET 7  /* path_quiet of path a */
#define ENGINE_NAME_QUIET 8  /* name_quiet of a directory's path and a dentry */
#define ENGINE_NAMES_QUIET 9 /* names_quiet of a directory's path and two dentries */

#define BEGIN_UNCONCERNED (1ULL << 32)
#define BEGIN_REFUSED (BEGIN_UNCONCERNED | EPERM)

static __always_inline u64 engine_begin(u32 event)
{
	u64 generation = active_generation(), tgid = bpf_get_current_pid_tgid() >> 32;
	struct concern *concern = concern_of(tgid);
	u32 slot = 0;

	if (concern && event_load(event, generation, tgid, concern, &slot))
		return slot;
	return BEGIN_UNCONCERNED | slot;
}

/* The engine as a part of the program that calls it. */
static __always_inline u64 engine_own(u32 what, u32 slot, u64 a, u64 b, u64 c)
{
	switch (what) {
	case ENGINE_BEGIN:
		return engine_begin(a);
	case ENGINE_DECIDE:
		return decide_rules(slot) ? decide_outcome(slot) : 0;
	case ENGINE_PATH:
		return path_resolve(slot, a);
	case ENGINE_PATH_NAMED:
		return path_named(slot, a);
	case ENGINE_MOUNT:
		return mount_of(a);
	case ENGINE_MOUNT_WHOLE:
		return mount_of_whole(a);
	case ENGINE_QUIET:
		return quiet_note(slot, a, b);
	case ENGINE_QUIET_LAYER:
		return quiet_note_layer(slot);
	case ENGINE_SOCKET_NOTE:
		return socket_note(slot);
	case ENGINE_FILE_NOTE:
		return file_note_decided(slot, b, a);
	case ENGINE_FILE_QUIET:
		return file_quiet(a, slot);
	case ENGINE_PATH_QUIET:
		return path_quiet(a, slot);
	case ENGINE_NAME_QUIET:
		return name_quiet(a, b, slot);
	case ENGINE_NAMES_QUIET:
		return names_quiet(a, b, c, slot);
	}
	return 0;
}

/* Every source is compiled twice. In bpfence.bpf.o each program has the whole engine in it, which the verifier walks for each anew. In
 * shared.bpf.o (ENGINE_SHARED) engine() is an empty place that the loader puts the engine into, which the verifier has walked once: see
 * shared.bpf.c.
 */
#ifdef ENGINE_SHARED
u64 engine(u32 what, u32 slot, u64 a, u64 b, u64 c);
#else
#define engine engine_own
#endif

/* The rest of event_begin: where the engine is shared, this is its part as well. */
static __always_inline struct scratch *event_taken(u32 event, u64 generation, u64 tgid, struct concern *concern, u32 *slot)
{
#ifdef ENGINE_SHARED
	u64 begun = engine(ENGINE_BEGIN, 0, event, 0, 0);

	*slot = begun;
	return begun & BEGIN_UNCONCERNED ? NULL : scratch_at(*slot);
#else
	return event_load(event, generation, tgid, concern, slot);
#endif
}

static __always_inline int decide(u32 slot)
{
	return engine(ENGINE_DECIDE, slot, 0, 0, 0);
}

/* Starts an event: takes a scratch and the subject. NULL: nothing concerns it, or it is refused; event_refused tells. */
static __always_inline struct scratch *event_begin(u32 event, u32 *slot)
{
	u64 generation = active_generation(), tgid = bpf_get_current_pid_tgid() >> 32;
	struct concern *concern = concern_of(tgid);

	*slot = 0;
	if (!concern || subject_unconcerned(concern, event, generation, tgid))
		return NULL;
	return event_taken(event, generation, tgid, concern, slot);
}

/* What a hook returns for which event_begin gave NULL: `slot` then holds the errno of a refusal, or 0. */
static __always_inline int event_refused(u32 slot)
{
	return deny_value(slot);
}

/* Whether a record may be held for the current task. */
static __always_inline bool held_pending(void)
{
	u32 index = bpf_get_current_pid_tgid() & (PENDING_ENTRIES - 1);
	u32 *number = bpf_map_lookup_elem(&pending, &index);

	return number && *(volatile u32 *)number;
}

/* What a note is kept under, apart from the subject: the event, and of it the one number that rules may look at, of at most 24 bits. */
static __always_inline u32 quiet_what(u32 event, u32 value)
{
	return event | value << 8;
}

/* Notes what has come to nothing, for the next file in the folder. */
static __always_inline bool quiet(u32 slot, u32 what)
{
	return have_rdonly_cast && have_inode_storage && engine(ENGINE_QUIET, slot, what, 0, 0);
}

static __always_inline int event_end(struct scratch *s, u32 slot)
{
	int error = decide(slot);

	scratch_give(s, slot);
	return deny_value(error);
}

/* Room for a string of at most 255 bytes: returns its offset. There is room for eight; no hook sets more than four. */
static __always_inline u32 small_take(struct scratch *s)
{
	u32 at = s->small;

	if (at < AREA_SMALL || at >= AREA_LOADED)
		at = AREA_SMALL;
	s->small = at + 256;
	return at;
}

static __always_inline void set_str(struct scratch *s, u32 str, u32 offset, u32 length)
{
	u64 at = MASKED(str, ABI_STR_SLOTS - 1);

	s->str_offset[at] = offset;
	s->str_length[at] = length;
	s->str_present |= STR_BIT(at);
}

/* Something about the event could not be known completely. */
static __always_inline void set_uncertain(struct scratch *s, u32 cause)
{
	s->flags |= EVENT_UNCERTAIN | cause << EVENT_CAUSES_SHIFT;
}

/* A NUL-terminated kernel string of at most 255 bytes; longer ones are uncertain. */
static __always_inline void set_kernel_string(struct scratch *s, u32 str, const void *from)
{
	u32 at = small_take(s);
	long n;

	if (!from)
		return;
	n = bpf_probe_read_kernel_str(&s->data[MASKED(at, SCRATCH_MASK)], SCRATCH_SLACK, from);
	if (n <= 0)
		return;
	set_str(s, str, at, n - 1);
	if (n == SCRATCH_SLACK)
		s->str_uncertain |= STR_BIT(str);
}

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

/* The address that a pointer holds as a number, which is what global functions take: 5.10 to 7.3 "R1 is not a scalar". */
static __always_inline u64 address_of(struct scratch *s, const void *pointer)
{
	*(volatile u64 *)&s->walk_dentry = (u64)pointer;
	return *(volatile u64 *)&s->walk_dentry;
}

/* The same where no event has begun: the difference of two pointers is a number to the verifier. Only where the kernel has bpf_rdonly_cast. */
static __always_inline u64 number_of(const void *pointer)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u64 number = (u64)pointer;

	asm volatile("%0 -= %1" : "+r"(number) : "r"(task));
	return number + bpf_get_current_task();
}

/* The same for kernels without it: read from where it lies on the stack. */
static __always_inline u64 number_probed(const void *pointer)
{
	u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &pointer);
	return number;
}

/* A pointer that the verifier knows nothing of. */
#define as_number(pointer) ((typeof(pointer))(have_rdonly_cast ? number_of(pointer) : number_probed(pointer)))

/* A member that is a pointer, of what a hook's argument points to, as a number. Where the verifier would trust it, it looks up names of its own
 * in all of the kernel's types, one type after the other, for each such load (v6.3, 57539b1c0ac2): near twenty million instructions. Where
 * it has bpf_rdonly_cast, which came before that, pointer_at loads what it does not trust.
 */
#define pointer_in(s, pointer, member) \
	(have_rdonly_cast ? pointer_at(address_of(s, pointer) + bpf_core_field_offset(typeof(*(pointer)), member)) \
			  : number_probed((pointer)->member))

/* The registers of the current system call: those of its table. */
static __always_inline void set_call_arguments(struct scratch *s)
{
	struct pt_regs *regs = read_user_regs();

	if (read_compat()) {
		set_num(s, NUM_CALL_ARG0, (u32)BPF_CORE_READ(regs, bx));
		set_num(s, NUM_CALL_ARG1, (u32)BPF_CORE_READ(regs, cx));
		set_num(s, NUM_CALL_ARG2, (u32)BPF_CORE_READ(regs, dx));
		set_num(s, NUM_CALL_ARG3, (u32)BPF_CORE_READ(regs, si));
		set_num(s, NUM_CALL_ARG4, (u32)BPF_CORE_READ(regs, di));
		set_num(s, NUM_CALL_ARG5, (u32)BPF_CORE_READ(regs, bp));
		return;
	}
	set_num(s, NUM_CALL_ARG0, BPF_CORE_READ(regs, di));
	set_num(s, NUM_CALL_ARG1, BPF_CORE_READ(regs, si));
	set_num(s, NUM_CALL_ARG2, BPF_CORE_READ(regs, dx));
	set_num(s, NUM_CALL_ARG3, BPF_CORE_READ(regs, r10));
	set_num(s, NUM_CALL_ARG4, BPF_CORE_READ(regs, r8));
	set_num(s, NUM_CALL_ARG5, BPF_CORE_READ(regs, r9));
}

/* In place of a vfsmount: the file is one of a layer, say of an overlay. It has no name; identities are followed up to the root of its file
 * system.
 */
#define MOUNT_OF_LAYER 1

static __always_inline void set_path(struct scratch *s, u32 which, const void *dentry, const void *mount)
{
	s->dentry[which & 1] = (u64)dentry;
	s->mount[which & 1] = (u64)mount;
	s->steps_of = STEPS_NONE;
}

/* Everything about an open file, which is the hook's own argument. */
static __always_inline void set_file(struct scratch *s, struct file *file)
{
	set_path(s, 0, (void *)pointer_in(s, file, f_path.dentry), (void *)pointer_in(s, file, f_path.mnt));
	s->inode = pointer_in(s, file, f_inode);
}

/* The path of a unix socket, where the hook has set its place: by way of file.path, which no other event of sockets has. */
static __always_inline void load_unix_path(struct scratch *s, u32 slot)
{
	u64 file = STR_BIT(STR_FILE_PATH), path = STR_BIT(STR_NET_UNIX_PATH);

	if (s->event < EV_NET_BIND || s->event > EV_NET_SEND || !s->dentry[0] || s->str_tried & path)
		return;
	s->str_tried |= path;
	path_named(slot, 0);
	if (s->str_present & file)
		set_str(s, STR_NET_UNIX_PATH, s->str_offset[STR_FILE_PATH], s->str_length[STR_FILE_PATH]);
	if (s->str_uncertain & file)
		s->str_uncertain |= path;
	s->str_present &= ~file;
	s->str_uncertain &= ~file;
	forget_num(s, NUM_FILE_OBJECT);
	forget_num(s, NUM_FILE_MEMFD);
	s->mnt_ns = 0; /* whoever bound the socket set it */
}

#endif
