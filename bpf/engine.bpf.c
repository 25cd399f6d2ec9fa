// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The engine behind every hook: strings, classes, diagrams, the subject, the decision. The maps are defined here, and the constants that
 * the loader sets.
 */
#define BPFENCE_DEFINE_MAPS
#include "engine.h"
#include "match.h"
#include "path.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile u32 have_rdonly_cast = 0;
const volatile u32 have_task_btf = 0;
const volatile u32 have_task_pt_regs = 0;
const volatile u32 first_spare = 0;

/* ---- memory ---- */

__noinline int scratch_another(void)
{
	u32 spare = bpf_get_smp_processor_id() * SCRATCH_OWN + 1;

	if (scratch_lock(spare))
		return spare;
	if (bpf_map_pop_elem(&spares, &spare))
		return 0;
	count(CNT_SPARE_TAKEN);
	return spare;
}

/* ---- strings ---- */

/* 8 levels of the cgroup path, upwards. */
__noinline int cgroup_walk_chunk(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	struct kernfs_node *kn;
	u32 i;

	if (!s)
		return PATH_UNCERTAIN;
	kn = (void *)s->kernfs;
	for (i = 0; i < 8; i++) {
		struct kernfs_node *parent = compat_kernfs_parent(kn);
		u32 at = s->walk_offset;
		u32 start = (AREA_LOADED + ABI_CGROUP_MAX * 2) & SCRATCH_MASK;
		long n;

		if (!parent)
			return PATH_DONE;
		/* The length of a kernfs name is not stored: read it once aside, then to its place. */
		n = bpf_probe_read_kernel_str(&s->data[start], SCRATCH_SLACK, BPF_CORE_READ(kn, name));
		if (n <= 1 || n >= SCRATCH_SLACK || at < AREA_LOADED + n)
			return PATH_UNCERTAIN;
		n -= 1;
		at -= n;
		bpf_probe_read_kernel(&s->data[at & SCRATCH_MASK], MASKED(n, 255), &s->data[start]);
		at -= 1;
		s->data[at & SCRATCH_MASK] = '/';
		s->walk_offset = at;
		kn = parent;
	}
	s->kernfs = (u64)kn;
	return PATH_GOING;
}

static __always_inline void load_cgroup(struct scratch *s, u32 slot)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u32 end = AREA_LOADED + ABI_CGROUP_MAX, i;
	int status = PATH_UNCERTAIN;

	s->kernfs = (u64)BPF_CORE_READ(task, cgroups, dfl_cgrp, kn);
	s->walk_offset = end;
	if (s->kernfs) {
		for (i = 0; i < 8; i++) {
			status = cgroup_walk_chunk(slot);
			if (status != PATH_GOING)
				break;
		}
	}
	if (status == PATH_DONE && s->walk_offset == end) {
		s->walk_offset = end - 1;
		s->data[(end - 1) & SCRATCH_MASK] = '/';
	}
	if (status != PATH_DONE)
		s->str_uncertain |= 1U << STR_PROCESS_CGROUP;
	set_str(s, STR_PROCESS_CGROUP, s->walk_offset, end - s->walk_offset);
}

/* The path of an executable into AREA_LOADED; -1: it is not kept. */
static __always_inline int load_exe(struct scratch *s, struct exec_image *image, u64 id, u32 length)
{
	struct long_exe *path;

	if (length < ABI_EXE_SHORT) {
		bpf_probe_read_kernel(&s->data[AREA_LOADED], MASKED(length, ABI_EXE_SHORT - 1), image->exe);
		return 0;
	}
	path = bpf_map_lookup_elem(&long_exes, &id);
	if (!path)
		return -1;
	bpf_probe_read_kernel(&s->data[AREA_LOADED], MASKED(length, ABI_PATH_MAX - 1), path->path);
	return 0;
}

/* Loads a member of an exec image into AREA_LOADED. */
static __always_inline void load_image(struct scratch *s, u32 str, struct exec_image *image, u64 id)
{
	u32 length;

	if (str == STR_PROCESS_ARGS || str == STR_PARENT_ARGS) {
		length = image->args_len;
		if (length > ABI_ARGS_MAX)
			length = ABI_ARGS_MAX;
		bpf_probe_read_kernel(&s->data[AREA_LOADED], MASKED(length, 2 * ABI_ARGS_MAX - 1), image->args);
		/* Of programs older than the agent the arguments are not known. */
		if (image->flags & EXEC_ARGS_TRUNCATED || (str == STR_PARENT_ARGS && image->flags & EXEC_FROM_ITER && !length))
			s->str_uncertain |= 1U << (str & 31);
	} else {
		length = image->exe_len;
		if (length > ABI_PATH_MAX - 1)
			length = ABI_PATH_MAX - 1;
		if (load_exe(s, image, id, length)) {
			s->str_uncertain |= 1U << (str & 31);
			return;
		}
		if (image->flags & EXEC_EXE_UNCERTAIN)
			s->str_uncertain |= 1U << (str & 31);
	}
	if (length)
		set_str(s, str & (ABI_STR_SLOTS - 1), AREA_LOADED, length);
}

static __always_inline void load_name(struct scratch *s, u32 str, struct exec_image *image)
{
	long n = bpf_probe_read_kernel_str(&s->data[AREA_LOADED], ABI_COMM_LEN, image->comm);

	if (n > 1)
		set_str(s, str, AREA_LOADED, n - 1);
}

/* The name that is being opened. */
static __always_inline void load_text(struct scratch *s)
{
	int dirfd = 0;
	u64 text;
	long n;

	if (s->event == EV_FILE_OPEN_FAILED) {
		text = s->text;
	} else if (s->event == EV_FILE_OPEN) {
		text = compat_opened_name((void *)bpf_get_current_task(), &dirfd);
		set_num(s, NUM_DIRFD, (s64)dirfd);
	} else {
		return;
	}
	if (!text)
		return;
	n = bpf_probe_read_kernel_str(&s->data[AREA_LOADED], ABI_PATH_MAX, (void *)text);
	if (n > 0)
		set_str(s, STR_FILE_TEXT, AREA_LOADED, n - 1);
}

static __always_inline void load_fstype(struct scratch *s)
{
	struct inode *inode = (void *)s->inode;

	if (inode && !(s->str_present & (1U << STR_FILE_FSTYPE)))
		set_kernel_string(s, STR_FILE_FSTYPE, BPF_CORE_READ(inode, i_sb, s_type, name));
}

/* The exec_id of the image that a string is about; 0: it is not known, or, with `none`, there is no such program. The parent's name and
 * arguments are those of the parent as it is now.
 */
static __always_inline u64 string_image(struct scratch *s, u32 str, bool *none)
{
	u64 id = s->record.exec_id;
	struct exec_image *image;

	if (str == STR_TARGET_EXE) {
		u32 pid = s->num[NUM_TARGET_PID];
		struct process_record *target = bpf_map_lookup_elem(&processes, &pid);

		return target ? target->exec_id : 0;
	}
	if (str == STR_PARENT_EXE) {
		image = bpf_map_lookup_elem(&images, &id);
		if (image && image->pid == s->record.pid) {
			if (image->flags & EXEC_PARENT_UNKNOWN)
				s->str_uncertain |= 1U << STR_PARENT_EXE;
			id = image->parent_exec_id;
			*none = !id;
		}
	} else if (str == STR_PARENT_NAME || str == STR_PARENT_ARGS) {
		struct task_struct *task = (void *)bpf_get_current_task();
		u32 pid = BPF_CORE_READ(task, group_leader, real_parent, tgid);
		struct process_record *parent = bpf_map_lookup_elem(&processes, &pid);

		return parent ? parent->exec_id : 0;
	}
	return id;
}

/* Makes sure that a string is in the scratch: file paths and what the hook set stay, the rest shares AREA_LOADED. */
__noinline int string_load(u32 slot, u32 str)
{
	struct scratch *s = scratch_at(slot);
	struct exec_image *image;
	bool none = false;
	u64 id;

	if (!s)
		return 0;
	if (str == STR_FILE_FSTYPE) {
		load_fstype(s);
		return 0;
	}
	if (str > STR_PROCESS_CWD && str != STR_TARGET_EXE && str != STR_PARENT_NAME && str != STR_PARENT_ARGS && str != STR_FILE_TEXT)
		return 0;
	if (s->loaded == str + 1 || (str == STR_TARGET_EXE && s->str_tried & (1U << STR_TARGET_EXE)))
		return 0;
	if (s->loaded > 0)
		s->str_present &= ~(1U << ((s->loaded - 1) & 31));
	s->loaded = str + 1;
	if (str == STR_PROCESS_CGROUP) {
		load_cgroup(s, slot);
		return 0;
	}
	if (str == STR_FILE_TEXT) {
		load_text(s);
		return 0;
	}
	id = string_image(s, str, &none);
	if (none)
		return 0;
	if (str == STR_PROCESS_ARGS)
		arguments_load(id);
	image = bpf_map_lookup_elem(&images, &id);
	if (!image) {
		s->str_uncertain |= 1U << (str & 31);
		return 0;
	}
	if (str == STR_PROCESS_NAME || str == STR_PARENT_NAME)
		load_name(s, str, image);
	else
		load_image(s, str, image, id);
	return 0;
}

/* process.cwd: resolved through the area of file.new_path when that is free, else uncertain. */
__noinline int cwd_load(u32 slot)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct scratch *s = scratch_at(slot);

	if (!s || s->str_tried & (1U << STR_PROCESS_CWD))
		return 0;
	s->str_tried |= 1U << STR_PROCESS_CWD;
	if (s->dentry[1])
		path_resolve(slot, 1);
	if (s->str_present & (1U << STR_FILE_NEW_PATH)) {
		s->str_uncertain |= 1U << STR_PROCESS_CWD;
		return 0;
	}
	s->dentry[1] = (u64)BPF_CORE_READ(task, fs, pwd.dentry);
	s->mount[1] = (u64)BPF_CORE_READ(task, fs, pwd.mnt);
	s->str_tried &= ~(1U << STR_FILE_NEW_PATH);
	path_resolve(slot, 1);
	s->dentry[1] = 0;
	s->num_present &= ~(1ULL << NUM_NEW_OBJECT);
	if (s->str_uncertain & (1U << STR_FILE_NEW_PATH))
		s->str_uncertain |= 1U << STR_PROCESS_CWD;
	if (s->str_present & (1U << STR_FILE_NEW_PATH))
		set_str(s, STR_PROCESS_CWD, s->str_offset[STR_FILE_NEW_PATH], s->str_length[STR_FILE_NEW_PATH]);
	s->str_present &= ~(1U << STR_FILE_NEW_PATH);
	s->str_uncertain &= ~(1U << STR_FILE_NEW_PATH);
	return 0;
}

/* ---- classes and diagrams ---- */

#define DFA_CHUNK 128

#define DFA_GOING -1

/* Runs the automaton over the next DFA_CHUNK bytes of scratch->data, from where the scratch says; the accept class at the end. */
__noinline int match_automaton_chunk(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	struct image_page *page, *class_page;
	u32 i, state, position, end, classes;

	if (!s)
		return CLASS_UNCERTAIN;
	state = s->dfa_state;
	position = s->dfa_position;
	end = s->dfa_end;
	classes = (s->dfa_classes & (IMAGE_PAGE_WORDS - 1)) * 4;
	class_page = match_page(s->generation, s->dfa_classes);
	page = match_page(s->generation, state);
	if (!page || !class_page)
		return CLASS_UNCERTAIN;
	for (i = 0; i < DFA_CHUNK; i++) {
		u32 byte_class, row, cell, next;

		if (position >= end)
			goto done;
		byte_class = ((u8 *)class_page)[(classes + s->data[position & SCRATCH_MASK]) & (IMAGE_PAGE_BYTES - 1)];
		position++;
		row = state & (IMAGE_PAGE_WORDS - 2);
		cell = (row + 2 * byte_class) & (IMAGE_PAGE_WORDS - 2);
		if (page->word[cell] != state) {
			if (page->word[row] & DFA_STOP)
				goto done;
			cell = row;
		}
		next = page->word[cell + 1];
		if ((next ^ state) >= IMAGE_PAGE_WORDS) {
			page = match_page(s->generation, next);
			if (!page)
				return CLASS_UNCERTAIN;
		}
		state = next;
	}
	if (position < end) {
		s->dfa_state = state;
		s->dfa_position = position;
		return DFA_GOING;
	}
done:
	return page->word[state & (IMAGE_PAGE_WORDS - 2)] & DFA_CLASS_MASK;
}

/* The accept class of data[offset .. offset + length). */
static __always_inline u32 match_automaton(u32 slot, u32 classes, u32 start, u32 offset, u32 length)
{
	struct scratch *s = scratch_at(slot);
	u32 i;

	if (!s)
		return CLASS_UNCERTAIN;
	s->dfa_state = start;
	s->dfa_classes = classes;
	s->dfa_position = offset;
	s->dfa_end = offset + length;
	for (i = 0; i < (ABI_PATH_MAX + SCRATCH_SLACK) / DFA_CHUNK + 1; i++) {
		int class = match_automaton_chunk(slot);

		if (class != DFA_GOING)
			return class;
	}
	return CLASS_UNCERTAIN;
}

#define BSEARCH_STEPS 17

/* Class of a value among n ascending lower bounds: binary search for the last one <= value. The limits live in map memory,
 * where the verifier knows nothing of them: in registers it follows every sequence of halvings ("BPF program is too large.
 * Processed 1000001 insn", every kernel).
 */
__noinline int class_range(u32 slot, u32 ref, u64 value)
{
	struct scratch *s = scratch_at(slot);
	volatile u32 *low, *high;
	u32 i;

	if (!s)
		return 0;
	low = &s->low;
	high = &s->high;
	*low = 0;
	*high = match_word(s->generation, ref);
	for (i = 0; i < BSEARCH_STEPS; i++) {
		u32 middle = (*low + *high) / 2;
		u32 at = ref + 1 + 3 * middle;
		u64 bound = (u64)match_word(s->generation, at + 1) << 32 | match_word(s->generation, at);

		if (*high - *low <= 1)
			break;
		if (bound <= value)
			*low = middle;
		else
			*high = middle;
	}
	return match_word(s->generation, ref + 1 + 3 * *low + 2);
}

/* Child of a sparse node for a class: binary search, as above. */
__noinline int diagram_sparse_child(u32 slot, u32 node, u32 class)
{
	struct scratch *s = scratch_at(slot);
	volatile u32 *low, *high;
	u32 i;

	if (!s)
		return 0;
	low = &s->low;
	high = &s->high;
	/* See diagram_few. */
	i = match_word(s->generation, node + 3) == CLASS_UNCERTAIN ? node + 5 : node + 3;
	if (match_word(s->generation, i) == class && match_word(s->generation, node + 1) > 1)
		return match_word(s->generation, i + 1);
	*low = 0;
	*high = match_word(s->generation, node + 1);
	for (i = 0; i < BSEARCH_STEPS; i++) {
		u32 middle = (*low + *high) / 2;
		u32 at = node + 3 + 2 * middle;
		u32 found;

		if (*low >= *high)
			break;
		found = match_word(s->generation, at);
		if (found == class)
			return match_word(s->generation, at + 1);
		if (found < class)
			*low = middle + 1;
		else
			*high = middle;
	}
	return match_word(s->generation, node + 2);
}

/* The bits that the command name of one program gives its descendants, added to s->names; -1: it is not known. */
__noinline int names_add(u32 slot, u64 exec_id)
{
	struct scratch *s = scratch_at(slot);
	struct exec_image *image;
	u32 masks;
	long n;

	if (!s)
		return -1;
	image = bpf_map_lookup_elem(&images, &exec_id);
	if (!image)
		return -1;
	if (image->names_generation != s->generation) {
		if (s->loaded > 0)
			s->str_present &= ~(1U << ((s->loaded - 1) & 31));
		s->loaded = 0;
		n = bpf_probe_read_kernel_str(&s->data[AREA_LOADED], ABI_COMM_LEN, image->comm);
		if (n <= 0)
			return -1;
		masks = match_word(s->generation, offsetof(struct image_header, names_masks) / 4) +
			2 * match_automaton(slot, match_word(s->generation, offsetof(struct image_header, names_dfa) / 4),
					    match_word(s->generation, offsetof(struct image_header, names_start) / 4), AREA_LOADED, n - 1);
		*(volatile u32 *)&image->names_generation = 0;
		image->name_bits = match_word(s->generation, masks) | (u64)match_word(s->generation, masks + 1) << 32;
		barrier();
		image->names_generation = s->generation;
	}
	s->names |= image->name_bits;
	return 0;
}

/* Of all processes that the acting one descends from now. -1: not all of them are known. */
__noinline int names_load(u32 slot)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct scratch *s = scratch_at(slot);
	u32 i, bit = 1U << STR_ANCESTORS;

	if (!s)
		return -1;
	if (s->str_tried & bit)
		return s->names_status;
	s->str_tried |= bit;
	s->names = 0;
	s->names_status = -1;
	task = BPF_CORE_READ(task, group_leader);
	for (i = 0; i < ABI_ANCESTORS_MAX; i++) {
		struct process_record *record;
		u32 pid;

		task = read_parent(task);
		if (!task) {
			s->names_status = 0;
			return 0;
		}
		pid = BPF_CORE_READ(task, tgid);
		record = bpf_map_lookup_elem(&processes, &pid);
		if (!record || names_add(slot, record->exec_id))
			return -1;
	}
	return -1;
}

/* Whatever way a string comes into the scratch. */
static __always_inline void text_load(struct scratch *s, u32 slot, u32 str)
{
	if (str == STR_FILE_PATH || str == STR_FILE_NEW_PATH)
		path_named(slot, str == STR_FILE_NEW_PATH);
	else if (str == STR_PROCESS_CWD)
		cwd_load(slot);
	else if (str == STR_NET_UNIX_PATH)
		load_unix_path(s, slot);
	else
		string_load(slot, str);
}

static __always_inline void set_missing(struct scratch *s, u32 num, u64 value)
{
	if (!(s->num_present & (1ULL << num)))
		set_num(s, num, value);
}

/* The numbers of the event's file; what the hook itself set (the new mode of a chmod) stays. */
__noinline int numbers_load(u32 slot)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct scratch *s = scratch_at(slot);
	struct inode *inode;

	if (!s)
		return 0;
	set_missing(s, NUM_PROCESS_CAPS, read_caps(BPF_CORE_READ(task, cred)));
	inode = (void *)s->inode;
	if (!inode)
		return 0;
	set_missing(s, NUM_FILE_MODE, BPF_CORE_READ(inode, i_mode));
	set_missing(s, NUM_FILE_UID, BPF_CORE_READ(inode, i_uid.val));
	set_missing(s, NUM_FILE_GID, BPF_CORE_READ(inode, i_gid.val));
	set_missing(s, NUM_FILE_INO, BPF_CORE_READ(inode, i_ino));
	set_missing(s, NUM_FILE_DEV, BPF_CORE_READ(inode, i_sb, s_dev));
	set_missing(s, NUM_FILE_DELETED, BPF_CORE_READ(inode, i_nlink) == 0);
	return 0;
}

static __always_inline void class_prepare(struct scratch *s, u32 slot, u32 num)
{
	if (num == NUM_TTY)
		tty_load(slot);
	else if (num == NUM_EXE_FLAGS)
		exe_load(slot);
	else if (num == NUM_DIRFD)
		string_load(slot, STR_FILE_TEXT);
	if (num == NUM_PROCESS_CAPS || (num >= NUM_FILE_MODE && num <= NUM_FILE_DELETED))
		numbers_load(slot);
	if (num == NUM_FILE_OBJECT || num == NUM_FILE_MEMFD || num == NUM_NEW_OBJECT)
		path_named(slot, num == NUM_NEW_OBJECT);
}

/* How two numbers of the event compare. The ids of the process are those of its subject, which an event does not have with it. */
__noinline int class_numbers(u32 slot, u32 one, u32 other)
{
	struct scratch *s = scratch_at(slot);
	u64 both, a, b;
	u32 uid, gid;

	if (!s || one >= ABI_NUM_SLOTS || other >= ABI_NUM_SLOTS)
		return CLASS_UNCERTAIN;
	both = 1ULL << one | 1ULL << other;
	if (both & (1ULL << NUM_PROCESS_UID | 1ULL << NUM_PROCESS_GID)) {
		read_ids(&uid, &gid);
		set_num(s, NUM_PROCESS_UID, uid);
		set_num(s, NUM_PROCESS_GID, gid);
	}
	if (s->num_uncertain & both)
		return CLASS_UNCERTAIN;
	if ((s->num_present & both) != both)
		return CLASS_NONE;
	a = s->num[MASKED(one, ABI_NUM_SLOTS - 1)];
	b = s->num[MASKED(other, ABI_NUM_SLOTS - 1)];
	return a < b ? CLASS_LESS : a == b ? CLASS_SAME : CLASS_GREATER;
}

#define TEXTS_CHUNK 128
#define TEXTS_ALIKE 0
#define TEXTS_APART 1
#define TEXTS_GOING -1

/* Puts a text that is in the scratch aside, where the record is put together later: many texts come to the same place, one after the other.
 * 0: it cannot be.
 */
__noinline int text_aside(u32 slot, u32 str)
{
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);
	struct scratch *s = scratch_at(slot);
	u32 offset;

	if (!s || !space)
		return 0;
	str &= ABI_STR_SLOTS - 1;
	offset = MASKED(s->str_offset[str], SCRATCH_MASK);
	if (s->str_length[str] >= ABI_PATH_MAX || offset > SCRATCH_DATA + SCRATCH_SLACK - ABI_PATH_MAX)
		return 0;
	bpf_probe_read_kernel(space->data, MASKED(s->str_length[str], ABI_PATH_MAX - 1), &s->data[offset]);
	return 1;
}

/* The next TEXTS_CHUNK bytes of two texts, from where the scratch says. */
__noinline int texts_chunk(u32 slot)
{
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);
	struct scratch *s = scratch_at(slot);
	u32 i, one, other, left, blank;

	if (!s || !space)
		return TEXTS_APART;
	one = s->text_one;
	other = s->text_other;
	left = s->text_left;
	blank = s->text_blank;
	for (i = 0; i < TEXTS_CHUNK; i++) {
		u32 a, b;

		if (i >= left)
			return TEXTS_ALIKE;
		a = space->data[(one + i) & (ABI_PATH_MAX - 1)];
		b = s->data[(other + i) & SCRATCH_MASK];
		if (a != b && (a ? a : blank) != (b ? b : blank))
			return TEXTS_APART;
	}
	s->text_one = one + TEXTS_CHUNK;
	s->text_other = other + TEXTS_CHUNK;
	s->text_left = left - TEXTS_CHUNK;
	return TEXTS_GOING;
}

static __always_inline bool is_arguments(u32 str)
{
	return str == STR_PROCESS_ARGS || str == STR_PARENT_ARGS;
}

/* How two texts compare, of which the first has been put aside and the other is in the scratch. Arguments are kept separated by NUL, and
 * told separated by blanks.
 */
__noinline int class_texts(u32 slot, u32 one, u32 other, u32 ends)
{
	struct scratch *s = scratch_at(slot);
	u32 first, second, shorter, i;
	int status = TEXTS_GOING;

	if (!s)
		return CLASS_UNCERTAIN;
	one &= ABI_STR_SLOTS - 1;
	other &= ABI_STR_SLOTS - 1;
	first = s->str_length[one];
	second = s->str_length[other];
	shorter = first < second ? first : second;
	s->text_one = ends ? first - shorter : 0;
	s->text_other = s->str_offset[other] + (ends ? second - shorter : 0);
	s->text_left = shorter;
	s->text_blank = is_arguments(one) || is_arguments(other) ? ' ' : 0;
	for (i = 0; i <= ABI_PATH_MAX / TEXTS_CHUNK; i++) {
		status = texts_chunk(slot);
		if (status != TEXTS_GOING)
			break;
	}
	if (status != TEXTS_ALIKE)
		return status == TEXTS_APART ? CLASS_APART : CLASS_UNCERTAIN;
	return first < second ? CLASS_LESS : first == second ? CLASS_SAME : CLASS_GREATER;
}

/* What a text that has been loaded comes to by itself: CLASS_UNCERTAIN, CLASS_NONE, or 2 where it is there. */
static __always_inline u32 class_text(struct scratch *s, u32 str)
{
	if (s->str_uncertain & (1U << str))
		return CLASS_UNCERTAIN;
	return s->str_present & (1U << str) ? 2 : CLASS_NONE;
}

/* CAUSE_* of a dimension that is uncertain. */
static __always_inline u32 cause_of(u32 kind, u32 slot)
{
	if (kind == DIM_LINEAGE || kind == DIM_ANCESTORS)
		return CAUSE_LINEAGE;
	if (kind == DIM_PRESENT && slot >= ABI_NUM_SLOTS)
		slot -= ABI_NUM_SLOTS;
	else if (kind != DIM_STRING && kind != DIM_TEXTS)
		return CAUSE_PATH; /* objects that a path leads to */
	if (slot == STR_FILE_PATH || slot == STR_FILE_NEW_PATH || slot == STR_PROCESS_CWD)
		return CAUSE_PATH;
	return slot <= STR_PARENT_EXE || slot == STR_TARGET_EXE ? CAUSE_RECORD : CAUSE_VALUE;
}

/* Class of dimension `dim` for the event in the scratch. */
__noinline int class_of(u32 slot, u32 dim)
{
	struct scratch *s = scratch_at(slot);
	u32 kind, num, class = CLASS_UNCERTAIN;
	u64 mask, wanted, value, number = MASKED(dim, ABI_MAX_DIMS - 1);
	struct image_head *head;
	struct image_dim *d;

	if (!s)
		return CLASS_UNCERTAIN;
	head = match_head(s->generation);
	if (!head)
		return CLASS_UNCERTAIN;
	d = &head->dims[number];
	kind = d->kind;
	num = d->slot;
	if (kind == DIM_STRING || kind == DIM_TEXTS || (kind == DIM_PRESENT && num >= ABI_NUM_SLOTS)) {
		u32 str = num & (ABI_STR_SLOTS - 1);

		text_load(s, slot, str);
		class = class_text(s, str);
		if (class < 2 || kind == DIM_PRESENT)
			goto out;
		if (kind == DIM_STRING) {
			class = match_automaton(slot, d->ref, d->start, s->str_offset[str], s->str_length[str]);
			goto out;
		}
		class = CLASS_UNCERTAIN;
		if (!text_aside(slot, str))
			goto out;
		num = d->mask_lo & (ABI_STR_SLOTS - 1);
		text_load(s, slot, num);
		class = class_text(s, num);
		if (class == 2)
			class = class_texts(slot, str, num, d->value_lo);
		goto out;
	}
	if (kind == DIM_LINEAGE) {
		if (s->lineage_uncertain)
			goto out;
		class = (s->lineage[(num >> 6) & 1] >> (num & 63)) & 1 ? 2 : CLASS_NONE;
		goto out;
	}
	if (kind == DIM_ANCESTORS) {
		if (!names_load(slot))
			class = (s->names >> (num & 63)) & 1 ? 2 : CLASS_NONE;
		goto out;
	}
	if (num >= ABI_NUM_SLOTS)
		goto out;
	class_prepare(s, slot, num);
	if (kind == DIM_NUMBERS) {
		class_prepare(s, slot, d->mask_lo);
		class = class_numbers(slot, num, d->mask_lo);
		goto out;
	}
	if (num == NUM_FILE_OBJECT && s->flags & EVENT_PATH_UNCERTAIN)
		goto out;
	if (num == NUM_NEW_OBJECT && s->flags & EVENT_NEW_PATH_UNCERTAIN)
		goto out;
	if (s->num_uncertain & (1ULL << num))
		goto out;
	class = CLASS_NONE;
	if (!(s->num_present & (1ULL << num)))
		goto out;
	if (kind == DIM_PRESENT) {
		class = 2;
		goto out;
	}
	value = s->num[MASKED(num, 63)];
	mask = d->mask_lo | (u64)d->mask_hi << 32;
	wanted = d->value_lo | (u64)d->value_hi << 32;
	if (kind == DIM_BITS)
		class = value & mask ? 2 : CLASS_NONE;
	else if (kind == DIM_MASKED)
		class = (value & mask) == wanted ? 2 : CLASS_NONE;
	else
		class = class_range(slot, d->ref, value);
out:
	if (class == CLASS_UNCERTAIN)
		set_uncertain(s, cause_of(kind, num));
	s->class[number] = class;
	s->have_class |= 1ULL << number;
	return class;
}

#define DIAGRAM_CHUNK 8
#define DIAGRAM_GOING -1

/* DIAGRAM_CHUNK nodes down from s->node. */
__noinline int diagram_walk_chunk(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	u32 i, node;

	if (!s)
		return 0;
	node = s->node;
	for (i = 0; i < DIAGRAM_CHUNK; i++) {
		struct image_page *page;
		u32 word, class, child;
		u64 dim;

		if (node & IMAGE_LEAF)
			return node & ~IMAGE_LEAF;
		page = match_page(s->generation, node);
		if (!page) {
			set_uncertain(s, CAUSE_TABLE);
			return 0;
		}
		word = page->word[node & (IMAGE_PAGE_WORDS - 1)];
		dim = MASKED(word, ABI_MAX_DIMS - 1);
		if (s->have_class & (1ULL << dim))
			class = s->class[dim];
		else
			class = class_of(slot, dim);
		child = node + 2 + class;
		if (((word >> 8) & 0xff) == NODE_SPARSE)
			node = diagram_sparse_child(slot, node, class);
		else if ((child ^ node) < IMAGE_PAGE_WORDS)
			node = page->word[child & (IMAGE_PAGE_WORDS - 1)];
		else
			node = match_word(s->generation, child);
	}
	s->node = node;
	return DIAGRAM_GOING;
}

/* Where a run of an automaton stands: `page` holds the row of `state`. In hot code numbers are 64 bits wide: -mcpu=v2 has no others, and
 * pays two instructions to cut one down.
 */
struct automaton {
	struct image_page *page;
	u64 state;
	u64 generation;
};

/* One byte, by its class, further; false where the run is at its end. */
static __always_inline bool automaton_step(struct automaton *a, u64 byte_class)
{
	u64 row = a->state & (IMAGE_PAGE_WORDS - 2), cell = (row + 2 * byte_class) & (IMAGE_PAGE_WORDS - 2), next;

	if (a->page->word[cell] != a->state) {
		if (a->page->word[row] & DFA_STOP)
			return false;
		cell = row;
	}
	next = a->page->word[cell + 1];
	if ((next ^ a->state) >= IMAGE_PAGE_WORDS) {
		a->page = match_page(a->generation, next);
		if (!a->page)
			return false;
	}
	a->state = next;
	return true;
}

/* One byte of a word of a name; clang 14 does not unroll the loop of them. */
#define NAME_BYTE(n) \
	if (!length) \
		return PATH_GOING; \
	if (!automaton_step(a, class_of_byte[(word >> (8 * (n))) & 0xff])) \
		return PATH_DONE; \
	length--

/* "/name" of a dentry further. PATH_DONE: the run is at its end; PATH_UNCERTAIN: the name does not lie in the dentry. */
static __always_inline int automaton_name(struct automaton *a, const u8 *class_of_byte, u64 dentry)
{
	u64 length = path_dentry(dentry)->d_name.len, name = compat_inline_name(dentry), word, i;

	if (length > COMPAT_INLINE_NAME)
		return PATH_UNCERTAIN;
	if (!automaton_step(a, class_of_byte['/']))
		return PATH_DONE;
	for (i = 0; i < (COMPAT_INLINE_NAME + 7) / 8; i++) {
		word = path_words(name + 8 * i)->tv_sec;
		NAME_BYTE(0); NAME_BYTE(1); NAME_BYTE(2); NAME_BYTE(3);
		NAME_BYTE(4); NAME_BYTE(5); NAME_BYTE(6); NAME_BYTE(7);
	}
	return PATH_GOING;
}

static __always_inline u32 automaton_class(const struct automaton *a)
{
	return a->page ? a->page->word[a->state & (IMAGE_PAGE_WORDS - 2)] & DFA_CLASS_MASK : CLASS_UNCERTAIN;
}

#define DFA_CLASSES_LAST (IMAGE_PAGE_BYTES - 256)

/* Number `step` of the steps, from s->dfa_state on; its class where the run ends there. */
__noinline int automaton_name_step(u32 slot, u32 step)
{
	struct scratch *s = scratch_at(slot);
	struct image_page *class_page;
	struct automaton a;
	int status;
	u64 classes;

	if (!have_rdonly_cast || !s)
		return CLASS_UNCERTAIN;
	a.state = s->dfa_state;
	a.generation = s->generation;
	classes = (s->dfa_classes & (IMAGE_PAGE_WORDS - 1)) * 4;
	class_page = match_page(s->generation, s->dfa_classes);
	a.page = match_page(s->generation, a.state);
	if (!class_page || !a.page || classes > DFA_CLASSES_LAST)
		return CLASS_UNCERTAIN;
	status = automaton_name(&a, (u8 *)class_page + classes, s->steps[step & (PATH_STEPS - 1)]);
	if (status == PATH_DONE)
		return automaton_class(&a);
	s->dfa_state = a.state;
	return status == PATH_GOING ? DFA_GOING : CLASS_UNCERTAIN;
}

#define NAMES_INLINE 2

/* Class of file.path by `d`, read from the dentries themselves, so that nothing is copied, and nothing looked at behind the byte that
 * decides. The first names are looked at here, which is where most paths end to be of interest. CLASS_UNCERTAIN where that cannot be
 * done: class_of does it.
 */
static __always_inline u32 class_path_steps(struct scratch *s, u32 slot, struct image_page *first, struct image_dim *d)
{
	struct automaton a = { .state = d->start, .generation = s->generation };
	u64 n, classes = (d->ref & (IMAGE_PAGE_WORDS - 1)) * 4, i;
	struct image_page *class_page;
	int status, class;

	if (classes > DFA_CLASSES_LAST || !path_steps(s))
		return CLASS_UNCERTAIN;
	class_page = match_page_near(first, s->generation, d->ref);
	a.page = match_page_near(first, s->generation, a.state);
	n = s->n_steps;
	if (!class_page || !a.page || !n) /* 0: the root itself */
		return CLASS_UNCERTAIN;
	for (i = 1; i <= NAMES_INLINE; i++) {
		if (i > n)
			return automaton_class(&a);
		status = automaton_name(&a, (u8 *)class_page + classes, s->steps[MASKED(n - i, PATH_STEPS - 1)]);
		if (status != PATH_GOING)
			return status == PATH_DONE ? automaton_class(&a) : CLASS_UNCERTAIN;
	}
	s->dfa_classes = d->ref;
	s->dfa_state = a.state;
	for (i = NAMES_INLINE + 1; i <= PATH_STEPS; i++) {
		if (i > n)
			break;
		class = automaton_name_step(slot, n - i);
		if (class != DFA_GOING)
			return class;
	}
	return match_word(s->generation, s->dfa_state) & DFA_CLASS_MASK;
}

#define SHORT_STRING 16 /* an IPv6 address */

/* Class by `d` of a short string that is in the scratch. */
static __always_inline u32 class_short(struct scratch *s, struct image_page *first, struct image_dim *d, u64 offset, u64 length)
{
	struct automaton a = { .state = d->start, .generation = s->generation };
	u64 classes = (d->ref & (IMAGE_PAGE_WORDS - 1)) * 4, i;
	struct image_page *class_page;
	u8 *class_of_byte;

	if (classes > DFA_CLASSES_LAST)
		return CLASS_UNCERTAIN;
	class_page = match_page_near(first, s->generation, d->ref);
	a.page = match_page_near(first, s->generation, a.state);
	if (!class_page || !a.page)
		return CLASS_UNCERTAIN;
	class_of_byte = (u8 *)class_page + classes;
	for (i = 0; i < SHORT_STRING; i++) {
		if (i >= length || !automaton_step(&a, class_of_byte[s->data[MASKED(offset + i, SCRATCH_MASK)]]))
			break;
	}
	return automaton_class(&a);
}

#define FEW_CHILDREN 4

/* Child of a sparse node for a class; 0 where it has too many to look through. */
static __always_inline u64 diagram_few(struct image_page *first, u64 generation, u64 node, u64 class)
{
	u64 count = match_word_near(first, generation, node + 1), i;

	/* Of many the one that is asked for most, what no pattern matches, is the first or follows CLASS_UNCERTAIN. */
	if (count > FEW_CHILDREN) {
		i = match_word_near(first, generation, node + 3) == CLASS_UNCERTAIN ? node + 5 : node + 3;
		return match_word_near(first, generation, i) == class ? match_word_near(first, generation, i + 1) : 0;
	}
	for (i = 0; i < FEW_CHILDREN; i++) {
		if (i >= count)
			break;
		if (match_word_near(first, generation, node + 3 + 2 * i) == class)
			return match_word_near(first, generation, node + 4 + 2 * i);
	}
	return match_word_near(first, generation, node + 2);
}

/* Where a node leads with `class` of its dimension, which is noted; the node itself where diagram_few cannot tell. */
static __always_inline u64 diagram_next(struct scratch *s, struct image_page *first, u64 node, u64 word, u64 class)
{
	u64 dim = MASKED(word, ABI_MAX_DIMS - 1), child;

	s->class[dim] = class;
	s->have_class |= 1ULL << dim;
	if (((word >> 8) & 0xff) == NODE_DENSE)
		return match_word_near(first, s->generation, node + 2 + class);
	child = diagram_few(first, s->generation, node, class);
	return child ? child : node;
}

/* Class of a dimension that needs no call: bits and short strings that the hook has set. CLASS_UNCERTAIN: it is another. */
static __always_inline u64 class_fast(struct scratch *s, struct image_page *first, struct image_dim *d)
{
	u64 num = d->slot, at;

	if (d->kind == DIM_BITS && num < ABI_NUM_SLOTS && s->num_present & (1ULL << num))
		return s->num[MASKED(num, 63)] & (d->mask_lo | (u64)d->mask_hi << 32) ? 2 : CLASS_NONE;
	if (d->kind != DIM_STRING || num >= ABI_STR_SLOTS || !((s->str_present & ~s->str_uncertain) & (1U << num)))
		return CLASS_UNCERTAIN;
	at = MASKED(num, ABI_STR_SLOTS - 1);
	if (s->str_length[at] > SHORT_STRING)
		return CLASS_UNCERTAIN;
	return class_short(s, first, d, s->str_offset[at], s->str_length[at]);
}

#define DIAGRAM_FAST 4

/* The first nodes of an event's diagram without a call for each: those of class_fast, then file.path. Stops at whatever else it meets;
 * returns where it stands.
 */
__noinline int diagram_fast(u32 slot, u32 root)
{
	struct scratch *s = scratch_at(slot);
	struct image_page *first;
	struct image_head *head;
	struct image_dim *d;
	u64 i, node = root, word, class;

	if (!have_rdonly_cast)
		return root;
	if (!s)
		return IMAGE_LEAF;
	first = match_page(s->generation, 0);
	if (!first) {
		set_uncertain(s, CAUSE_TABLE);
		return IMAGE_LEAF;
	}
	head = (void *)first;
	for (i = 0; i < DIAGRAM_FAST; i++) {
		if (node >= IMAGE_PAGE_WORDS) /* a leaf, or on another page */
			return node;
		word = first->word[MASKED(node, IMAGE_PAGE_WORDS - 1)];
		class = class_fast(s, first, &head->dims[MASKED(word, ABI_MAX_DIMS - 1)]);
		if (class == CLASS_UNCERTAIN)
			break;
		node = diagram_next(s, first, node, word, class);
	}
	if (node >= IMAGE_PAGE_WORDS)
		return node;
	word = first->word[MASKED(node, IMAGE_PAGE_WORDS - 1)];
	d = &head->dims[MASKED(word, ABI_MAX_DIMS - 1)];
	if (d->kind != DIM_STRING || d->slot != STR_FILE_PATH || s->str_tried & (1U << STR_FILE_PATH))
		return node;
	class = class_path_steps(s, slot, first, d);
	return class == CLASS_UNCERTAIN ? node : diagram_next(s, first, node, word, class);
}

/* Follows a diagram from `node` to its leaf; returns the leaf's number. */
static __always_inline u32 diagram_walk(struct scratch *s, u32 slot, u32 node)
{
	u32 i;
	int leaf;

	if (node & IMAGE_LEAF)
		return node & ~IMAGE_LEAF;
	s->node = node;
	for (i = 0; i <= ABI_MAX_DIMS / DIAGRAM_CHUNK; i++) {
		leaf = diagram_walk_chunk(slot);
		if (leaf != DIAGRAM_GOING)
			return leaf;
	}
	set_uncertain(s, CAUSE_TABLE);
	return 0;
}

__noinline int image_features(void)
{
	u32 generation = active_generation();
	struct image_head *head = generation ? match_head(generation) : NULL;

	return head ? head->header.features : 0;
}

__noinline int image_concerns(u32 event)
{
	u32 generation = active_generation();
	struct image_head *head = generation ? match_head(generation) : NULL;
	u64 all;

	if (!head)
		return 0;
	all = head->header.concern_all[0] | (u64)head->header.concern_all[1] << 32;
	return (all >> (event & 63)) & 1;
}

/* ---- subject ---- */

/* The lineage bits that the executable of one image gives its descendants, added to s->lineage; -1: uncertain. */
__noinline int lineage_add(u32 slot, u64 exec_id)
{
	struct scratch *s = scratch_at(slot);
	struct exec_image *image;
	u32 ref, masks, class;

	if (!s)
		return -1;
	image = bpf_map_lookup_elem(&images, &exec_id);
	if (!image)
		return -1;
	if (image->generation == s->generation) {
		s->lineage[0] |= image->self_bits[0];
		s->lineage[1] |= image->self_bits[1];
		return 0;
	}
	if (image->flags & (EXEC_EXE_UNCERTAIN | EXEC_PARENT_UNKNOWN))
		return -1;
	ref = match_word(s->generation, offsetof(struct image_header, lineage_dfa) / 4);
	masks = match_word(s->generation, offsetof(struct image_header, lineage_masks) / 4);
	s->loaded = 0;
	s->str_present &= ~(1U << STR_PROCESS_EXE);
	load_image(s, STR_PROCESS_EXE, image, exec_id);
	s->str_uncertain &= ~(1U << STR_PROCESS_EXE);
	if (image->exe_len && !(s->str_present & (1U << STR_PROCESS_EXE)))
		return -1;
	class = match_automaton(slot, ref, match_word(s->generation, offsetof(struct image_header, lineage_start) / 4), AREA_LOADED,
				image->exe_len & (ABI_PATH_MAX - 1));
	s->str_present &= ~(1U << STR_PROCESS_EXE);
	masks += class * 2 * ABI_LINEAGE_WORDS;
	s->lineage[0] |= match_word(s->generation, masks) | (u64)match_word(s->generation, masks + 1) << 32;
	s->lineage[1] |= match_word(s->generation, masks + 2) | (u64)match_word(s->generation, masks + 3) << 32;
	return 0;
}

/* Lineage of the process in s->record: cached in its image, else collected along the chain. */
__noinline int lineage_load(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	struct exec_image *image, *ancestor;
	u64 id, own, own_bits[2];
	u32 i;

	if (!s)
		return 0;
	own = s->record.exec_id;
	s->lineage[0] = 0;
	s->lineage[1] = 0;
	s->lineage_uncertain = 1;
	image = bpf_map_lookup_elem(&images, &own);
	if (!image || lineage_add(slot, own))
		return 0;
	own_bits[0] = s->lineage[0];
	own_bits[1] = s->lineage[1];
	if (image->generation != s->generation) {
		s->lineage[0] = 0;
		s->lineage[1] = 0;
		id = image->parent_exec_id;
		for (i = 0; i < LINEAGE_DEPTH; i++) {
			if (!id)
				break;
			ancestor = bpf_map_lookup_elem(&images, &id);
			if (!ancestor || lineage_add(slot, id))
				return 0;
			if (ancestor->generation == s->generation) {
				s->lineage[0] |= ancestor->lineage[0];
				s->lineage[1] |= ancestor->lineage[1];
				id = 0;
				break;
			}
			id = ancestor->parent_exec_id;
		}
		if (id)
			return 0;
		image->self_bits[0] = own_bits[0];
		image->self_bits[1] = own_bits[1];
		image->lineage[0] = s->lineage[0];
		image->lineage[1] = s->lineage[1];
		barrier();
		image->generation = s->generation;
	}
	s->lineage[0] = image->lineage[0];
	s->lineage[1] = image->lineage[1];
	if (image->pid != s->record.pid) {
		s->lineage[0] |= own_bits[0];
		s->lineage[1] |= own_bits[1];
	}
	s->lineage_uncertain = 0;
	return 0;
}

/* Computes subject rows and concern of s->record for the generation in the scratch. */
__noinline int subject_compute(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	u32 group;

	if (!s)
		return 0;
	count(CNT_SUBJECT_COMPUTED);
	s->record.concern = 0;
	s->record.enforcing = 0;
	if (match_word(s->generation, offsetof(struct image_header, lineage_dfa) / 4))
		lineage_load(slot);
	for (group = 0; group < ABI_MAX_GROUPS; group++) {
		u32 row, at;

		if (group >= s->n_groups)
			break;
		row = diagram_walk(s, slot, match_word(s->generation, offsetof(struct image_header, subject_root) / 4 + group));
		s->record.subject[group] = row;
		at = match_word(s->generation, offsetof(struct image_header, concern_ref) / 4 + group) + IMAGE_CONCERN_WORDS * row;
		s->record.concern |= match_wide(s->generation, at);
		s->record.enforcing |= match_wide(s->generation, at + 2);
	}
	if (s->flags & CAUSE_TABLE << EVENT_CAUSES_SHIFT) /* a row that is not to be trusted: the strictest that any says */
		s->record.enforcing |= match_wide(s->generation, offsetof(struct image_header, enforcing_all) / 4);
	s->record.concern |= s->record.enforcing;
	s->record.flags = (s->record.flags & RECORD_FROM_ITER) | s->flags >> EVENT_CAUSES_SHIFT << RECORD_CAUSES_SHIFT;
	if (s->features & IMAGE_SUBJECT_IDS)
		s->record.flags |= RECORD_DEPENDS_IDS;
	if (s->features & IMAGE_SUBJECT_CGROUP)
		s->record.flags |= RECORD_DEPENDS_CGROUP;
	s->record.generation = s->generation;
	return 0;
}

static __always_inline int scratch_generation(struct scratch *s)
{
	struct image_head *head;

	s->generation = active_generation();
	head = match_head(s->generation);
	if (!head)
		return -1;
	s->features = head->header.features;
	s->n_groups = head->header.n_groups;
	return 0;
}

/* Keeps the subject in the record of the process, and what hooks may know without it. `version`: the one that it was computed at. */
__noinline int subject_store(u32 slot, u64 version)
{
	struct scratch *s = scratch_at(slot);
	struct process_record *record;
	u32 tgid;

	if (!s)
		return 0;
	tgid = s->record.pid;
	record = bpf_map_lookup_elem(&processes, &tgid);
	if (!record || record->exec_id != s->record.exec_id)
		return 0;
	/* A move to another cgroup meanwhile: the next event computes it again. One that comes from here on changes the version once more, so that
	 * the word published below is void; and the record is compared with the cgroup whenever it is used.
	 */
	if (record_version(tgid) != version)
		return 0;
	*(volatile u32 *)&record->generation = 0;
	record_changed(tgid);
	record->uid = s->record.uid;
	record->gid = s->record.gid;
	record->cgroup = s->record.cgroup;
	record->flags = s->record.flags;
	record->concern = s->record.concern;
	record->enforcing = s->record.enforcing;
	__builtin_memcpy(record->subject, s->record.subject, sizeof(record->subject));
	barrier();
	*(volatile u32 *)&record->generation = s->generation;
	record_changed(tgid);
	concern_publish(&s->record, version + 2, tgid);
	return 0;
}

/* What the record says of the subject holds only for these ids, this cgroup and this generation. Storing a new subject is safe
 * only where no other thread of the process can hold other ids: a single-threaded process; the others compute it each time.
 */
static __always_inline void subject_refresh(struct scratch *s, u32 slot, u64 version)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 cgroup = bpf_get_current_cgroup_id();
	bool same_subject;
	u32 uid, gid;

	read_ids(&uid, &gid);
	same_subject = s->record.uid == uid && s->record.gid == gid && s->record.cgroup == cgroup;
	s->record.uid = uid;
	s->record.gid = gid;
	s->record.cgroup = cgroup;
	set_process(s);
	set_num(s, NUM_PROCESS_UID, uid);
	set_num(s, NUM_PROCESS_GID, gid);
	subject_compute(slot);
	if (s->has_record && (same_subject || BPF_CORE_READ(task, signal, nr_threads) == 1))
		subject_store(slot, version);
}

__noinline u64 start_time_probed(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, group_leader, start_boottime);
}

__noinline int concern_again(u32 slot)
{
	struct scratch *s = scratch_at(slot);

	if (s)
		concern_publish(&s->record, s->record_version, s->record.pid);
	return 0;
}

/* The record of the acting process; none that an earlier process with its pid has left. */
static __always_inline struct process_record *record_own(u32 tgid)
{
	struct process_record *record = bpf_map_lookup_elem(&processes, &tgid);

	return record && record->start_time == read_start_time() ? record : NULL;
}

static __always_inline void count_refused(u32 event, u32 counter);

/* There are no tables to compute the subject with: what was known of it last counts. */
static __always_inline int subject_unknown(const struct process_record *record, u32 event)
{
	count(CNT_UNCERTAIN_TABLE);
	if (!record || !(record->enforcing >> (event & 63) & 1))
		return SUBJECT_UNCONCERNED;
	count_refused(event, CNT_REFUSED_TABLE);
	return SUBJECT_REFUSED;
}

__noinline int subject_load(u32 slot, u32 event)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct scratch *s = scratch_at(slot);
	struct process_record *record;
	u64 version;

	if (!s)
		return SUBJECT_UNCONCERNED;
	scratch_clear(s, event);
	s->record_version = RECORD_OWN;
	record = record_own(tgid);
	if (scratch_generation(s))
		return subject_unknown(record, event);
	if (!record || !record->exec_id) {
		s->kernfs = bpf_get_current_task();
		record_create(slot);
		record = record_own(tgid);
	}
	version = record_version(tgid);
	s->has_record = record != NULL;
	if (record)
		s->record = *record;
	subject_refresh(s, slot, version);
	scratch_clear(s, event); /* the subject's strings share memory with the event's */
	set_process(s);
	return s->record.concern & (1ULL << (event & 63)) ? SUBJECT_CONCERNED : SUBJECT_UNCONCERNED;
}

/* An event is denied that nothing could be looked up for. There is no record of it: it counts as a lost one. */
static __always_inline void count_refused(u32 event, u32 counter)
{
	count(counter);
	count(CNT_DENIED);
	count_lost(event);
}

__noinline int decide_without_memory(u32 event)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	u64 generation = active_generation(), enforcing;
	struct process_record *record = record_own(tgid);
	struct image_head *head = match_head(generation);

	count(CNT_UNCERTAIN_MEMORY);
	if (record && record_fresh(record, generation))
		enforcing = record->enforcing;
	else if (head)
		enforcing = head->header.enforcing_all[0] | (u64)head->header.enforcing_all[1] << 32;
	else
		enforcing = record ? record->enforcing : 0;
	if (!(enforcing >> (event & 63) & 1))
		return 0;
	count_refused(event, CNT_REFUSED_MEMORY);
	return EPERM;
}

/* ---- the decision ---- */

static __always_inline void decide_leaf(struct scratch *s, struct image_head *head, u32 leaf)
{
	u32 at = head->header.verdicts_ref + leaf * IMAGE_VERDICT_WORDS;
	u32 action = match_word(s->generation, at), first = match_word(s->generation, at + 3);

	if (action > s->action || (action == s->action && first < s->first)) {
		s->action = action;
		s->error = match_word(s->generation, at + 1);
		s->first = first;
	}
	s->report |= match_word(s->generation, at + 2);
}

/* The diagram of the event for the subject in one group. */
static __always_inline u64 decide_root(struct scratch *s, struct image_page *first, u64 group)
{
	struct image_head *head = (void *)first;

	return match_word_near(first, s->generation, head->header.roots_ref[group] + s->record.subject[group] * ABI_MAX_EVENTS + s->event);
}

/* One more of each cause of the event, in the counters from `first` on. */
static __always_inline void count_causes(struct scratch *s, u32 first)
{
	u32 i;

	for (i = 0; i < CAUSES; i++) {
		if (s->flags >> EVENT_CAUSES_SHIFT & (1U << i))
			count(first + i);
	}
}

/* Something was uncertain. The compiler has put the strictest of the alternatives under each class that is uncertain, so only a walk that did
 * not come to its end is denied here.
 */
static __always_inline int decide_uncertain(struct scratch *s)
{
	count_causes(s, CNT_UNCERTAIN_MEMORY);
	if (s->action >= ACTION_DENY || !(s->flags & CAUSE_TABLE << EVENT_CAUSES_SHIFT) || !(s->record.enforcing >> (s->event & 63) & 1))
		return 0;
	count_refused(s->event, CNT_REFUSED_TABLE);
	return EPERM;
}

/* The process is to be killed. The kernel refuses that for its own threads, the first process, and tasks that are ending already. These are
 * denied, but where a new program is in place already.
 */
static __always_inline void decide_kill(struct scratch *s)
{
	if (bpf_send_signal(SIGKILL)) {
		s->action = s->event == EV_PROCESS_EXECUTED ? ACTION_AUDIT : ACTION_DENY;
		s->flags |= EVENT_KILL_REFUSED;
		count(CNT_KILL_REFUSED);
	} else {
		count(CNT_KILLED);
	}
}

__noinline int decide(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	struct image_page *first;
	struct image_head *head;
	u64 group, node;

	if (!s)
		return 0;
	first = match_page(s->generation, 0);
	if (!first) {
		set_uncertain(s, CAUSE_TABLE);
		return decide_uncertain(s);
	}
	head = (void *)first;
	s->features = head->header.features;
	s->n_groups = head->header.n_groups;
	/* The first leaf that says something sets error and first with the action; of the verdicts only n_groups are looked at. */
	s->action = ACTION_NONE;
	s->report = 0;
	node = decide_root(s, first, 0);
	if (node < IMAGE_PAGE_WORDS)
		node = diagram_fast(slot, node);
	for (group = 0; group < ABI_MAX_GROUPS; group++) {
		u32 leaf;

		if (group >= s->n_groups)
			break;
		if (group > 0)
			node = decide_root(s, first, group);
		leaf = diagram_walk(s, slot, node);
		s->verdict[group] = leaf;
		if (leaf)
			decide_leaf(s, head, leaf);
	}
	s->flags |= s->record.flags >> RECORD_CAUSES_SHIFT << EVENT_CAUSES_SHIFT;
	if (s->flags >> EVENT_CAUSES_SHIFT) {
		int error = decide_uncertain(s);

		if (error)
			return error;
	}
	if (!s->report && s->action < ACTION_DENY)
		return 0;
	if (s->flags & EVENT_ORIGIN) {
		s->report &= ~REPORT_DECISION;
		s->action = ACTION_NONE;
		s->error = 0;
	}
	if (s->action == ACTION_KILL)
		decide_kill(s);
	if (s->report)
		report(slot);
	if (s->action < ACTION_DENY) {
		if (s->report & REPORT_DECISION)
			count(CNT_AUDITED);
		return 0;
	}
	if (s->flags >> EVENT_CAUSES_SHIFT)
		count_causes(s, CNT_REFUSED_MEMORY);
	count(CNT_DENIED);
	return s->error ? s->error : EPERM;
}
