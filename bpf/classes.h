/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The class that an event has in a dimension: of numbers by ranges, of strings by automata, of two fields by comparing them. */
#ifndef BPFENCE_CLASSES_H
#define BPFENCE_CLASSES_H

#include "automaton.h"
#include "counted.h"

#define BSEARCH_STEPS 17

/* All bits where a < b, else none: by the borrow of a subtraction, which clang may not see through. Of a search that branches the verifier walks
 * every way through it.
 */
static __always_inline u64 less_mask(u64 a, u64 b)
{
	u64 borrow = (~a & b) | ((~a | b) & (a - b));

	asm volatile("%0 s>>= 63" : "+r"(borrow));
	return borrow;
}

#define NEAR_WORDS 512 /* as many are searched where they lie: those of nearly all tables */
#define NEAR_FIRST(n) ((n) <= 8 ? 4 : NEAR_WORDS / 2)

/* Class of a value among the n ascending lower bounds of a table that lies whole in `page`, at `at`. */
static __always_inline u32 range_near(const struct image_page *page, u64 at, u64 n, u64 value)
{
	u64 low = 0, step;

	for (step = NEAR_FIRST(n); step; step /= 2) {
		u64 next = low + step, bound = page->word[MASKED(at + 3 * next, IMAGE_PAGE_WORDS - 1)];

		bound |= (u64)page->word[MASKED(at + 3 * next + 1, IMAGE_PAGE_WORDS - 1)] << 32;
		low += step & less_mask(next, n) & ~less_mask(value, bound);
	}
	return page->word[MASKED(at + 3 * low + 2, IMAGE_PAGE_WORDS - 1)];
}

/* Class of a value among n ascending lower bounds: binary search for the last one <= value. The limits live in map memory,
 * where the verifier knows nothing of them: in registers it follows every sequence of halvings ("BPF program is too large.
 * Processed 1000001 insn", every kernel).
 */
__noinline int class_range(u32 slot, u32 ref, u64 value)
{
	struct scratch *s = scratch_at(slot);
	struct image_page *page;
	volatile u32 *low, *high;
	struct repeat r;
	u64 at, n;

	if (!s)
		return 0;
	page = match_page(s->generation, ref);
	if (!page)
		return CLASS_UNCERTAIN;
	at = MASKED(ref, IMAGE_PAGE_WORDS - 1);
	n = page->word[at];
	if (n <= NEAR_WORDS && at + 1 + 3 * n <= IMAGE_PAGE_WORDS)
		return range_near(page, at + 1, n, value);
	low = &s->low;
	high = &s->high;
	*low = 0;
	*high = n;
	repeat_begin(&r, BSEARCH_STEPS);
	while (repeat_next(&r)) {
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
	repeat_end(&r);
	return match_word(s->generation, ref + 1 + 3 * *low + 2);
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
			s->str_present &= ~STR_BIT(s->loaded - 1);
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
	u64 bit = STR_BIT(STR_ANCESTORS);
	struct repeat r;

	if (!s)
		return -1;
	if (s->str_tried & bit)
		return s->names_status;
	s->str_tried |= bit;
	s->names = 0;
	s->names_status = -1;
	task = BPF_CORE_READ(task, group_leader);
	repeat_begin(&r, ABI_ANCESTORS_MAX);
	while (repeat_next(&r)) {
		struct process_record *record;
		u32 pid;

		task = read_parent(task);
		if (!task) {
			s->names_status = 0;
			break;
		}
		pid = BPF_CORE_READ(task, tgid);
		record = bpf_map_lookup_elem(&processes, &pid);
		if (!record || names_add(slot, record->exec_id))
			break;
	}
	repeat_end(&r);
	return s->names_status;
}

static __always_inline bool is_path(u32 str)
{
	return str == STR_FILE_PATH || str == STR_FILE_NEW_PATH;
}

/* Whatever way a string comes into the scratch. */
static __always_inline void text_load(struct scratch *s, u32 slot, u32 str)
{
	if (is_path(str))
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
	if (!has_num(s, num))
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

/* Begins a run of the automaton of dimension `dim`, that is `*d` then: the classes of bytes, or NULL. */
static __always_inline u8 *automaton_of(struct automaton *a, const struct scratch *s, u64 dim, struct image_dim **d)
{
	struct image_page *class_page, *first;
	u64 classes;

	a->generation = s->generation;
	first = match_page(a->generation, 0);
	if (!first)
		return NULL;
	*d = &((struct image_head *)first)->dims[MASKED(dim, ABI_MAX_DIMS - 1)];
	a->state = (*d)->start;
	classes = ((*d)->ref & (IMAGE_PAGE_WORDS - 1)) * 4;
	class_page = match_page_near(first, a->generation, (*d)->ref);
	a->page = match_page_near(first, a->generation, a->state);
	return class_page && a->page && classes <= DFA_CLASSES_LAST ? (u8 *)class_page + classes : NULL;
}

#define NAMES_INLINE 2
#define NAME_WHOLE (~0U)

/* Class by dimension `dim` of the path whose steps are in the scratch, where the first names, which is where most paths end to be of interest,
 * tell it; else DFA_GOING, and class_of_rest goes on. CLASS_UNCERTAIN: as class_of_path.
 */
__noinline int class_of_first(u32 slot, u32 dim)
{
	struct scratch *s = scratch_at(slot);
	struct image_dim *d;
	struct automaton a;
	u8 *class_of_byte;
	u64 n, i;
	int status;

	if (!have_rdonly_cast || !s)
		return CLASS_UNCERTAIN;
	class_of_byte = automaton_of(&a, s, dim, &d);
	if (!class_of_byte)
		return CLASS_UNCERTAIN;
	n = s->n_steps;
	s->dfa_classes = d->ref;
	for (i = 1; i <= NAMES_INLINE; i++) {
		if (i > n)
			return automaton_class(&a);
		s->dfa_folder = a.state;
		status = automaton_name(&a, class_of_byte, s->steps[MASKED(n - i, PATH_STEPS - 1)], false);
		if (status == PATH_FAR)
			break;
		if (status != PATH_GOING) {
			/* Decided before the last component: the state of any file in the folder. By masks, see less_mask. */
			s->dfa_folder ^= (s->dfa_folder ^ a.state) & less_mask(i, n);
			return status == PATH_DONE ? automaton_class(&a) : CLASS_UNCERTAIN;
		}
	}
	s->dfa_state = a.state;
	s->steps_left = n - (i - 1);
	s->name_left = i <= NAMES_INLINE ? a.left : NAME_WHOLE;
	return s->steps_left ? DFA_GOING : automaton_class(&a);
}

/* Goes on where class_of_first has stopped. */
__noinline int class_of_rest(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	u32 i, left;
	int class;

	if (!s)
		return CLASS_UNCERTAIN;
	left = s->steps_left;
	if (s->name_left != NAME_WHOLE) {
		left--;
		class = automaton_name_rest(slot, left, s->name_left);
		if (class != DFA_GOING) {
			if (left)
				s->dfa_folder = s->dfa_state;
			return class;
		}
	}
	for (i = 0; i < PATH_STEPS; i++) {
		if (!left)
			break;
		left--;
		s->dfa_folder = s->dfa_state;
		class = automaton_name_step(slot, left);
		if (class != DFA_GOING) {
			if (left)
				s->dfa_folder = s->dfa_state;
			return class;
		}
	}
	return match_word(s->generation, s->dfa_state) & DFA_CLASS_MASK;
}

/* Class by dimension `dim` of a path that is one name, or none. */
__noinline int class_of_pseudo(u32 slot, u32 dim)
{
	struct scratch *s = scratch_at(slot);
	struct image_head *head;
	struct image_dim *d;
	int class;

	if (!have_rdonly_cast || !s)
		return CLASS_UNCERTAIN;
	head = match_head(s->generation);
	if (!head)
		return CLASS_UNCERTAIN;
	if (!s->n_steps)
		return CLASS_NONE;
	d = &head->dims[MASKED(dim, ABI_MAX_DIMS - 1)];
	s->dfa_classes = d->ref;
	s->dfa_state = d->start;
	class = automaton_name_step(slot, NAME_ALONE);
	return class != DFA_GOING ? class : match_word(s->generation, s->dfa_state) & DFA_CLASS_MASK;
}

/* Class by dimension `dim` of a path whose last component is in the scratch, and the state before that in folder_states. */
__noinline int class_of_last(u32 slot, u32 dim)
{
	struct scratch *s = scratch_at(slot);
	struct image_head *head;
	int class;

	if (!have_rdonly_cast || !s)
		return CLASS_UNCERTAIN;
	head = match_head(s->generation);
	if (!head)
		return CLASS_UNCERTAIN;
	s->dfa_classes = head->dims[MASKED(dim, ABI_MAX_DIMS - 1)].ref;
	s->dfa_state = s->folder_states[MASKED(dim, FOLDER_STATES - 1)];
	class = automaton_name_step(slot, 0);
	if (s->folder != (u64)path_dentry(s->steps[0])->d_parent) /* it has been moved before its name was read */
		return CLASS_UNCERTAIN;
	return class != DFA_GOING ? class : match_word(s->generation, s->dfa_state) & DFA_CLASS_MASK;
}

/* Makes sure that the steps in the scratch are those of file.path (which 0) or file.new_path (1), all or the last. False: there are none. */
static __always_inline bool steps_load(struct scratch *s, u32 slot, u32 which)
{
	if ((s->steps_of & ~(STEPS_PSEUDO | STEPS_LAST)) == STEPS_OF(which) || path_folder(slot, which))
		return true;
	if (!path_steps(slot, which))
		return false;
	if (s->folder && s->features & IMAGE_NEEDS_OBJECTS)
		folder_note(slot, which, 0);
	return true;
}

/* Class of a path by dimension `dim`, noting that it was asked for. */
static __always_inline u32 class_asked(struct scratch *s, u32 which, u32 dim, u32 class)
{
	if (s->path_asked[which & 1])
		s->paths_asked = 1;
	s->path_asked[which & 1] = (dim + 1) | class << 8;
	return class;
}

/* Class of file.path (which 0) or file.new_path (1) by dimension `dim`, read from the dentries themselves, so that nothing is copied, and nothing
 * looked at behind the byte that decides. CLASS_UNCERTAIN where that cannot be done: class_of does it.
 */
static __always_inline u32 class_of_path(struct scratch *s, u32 slot, u32 which, u32 dim)
{
	int class;

	if (!have_rdonly_cast)
		return CLASS_UNCERTAIN;
	if (!steps_load(s, slot, which))
		return CLASS_UNCERTAIN;
	if (s->steps_of & STEPS_PSEUDO)
		return class_of_pseudo(slot, dim);
	if (s->steps_of & STEPS_LAST) {
		if (s->folder_states[MASKED(dim, FOLDER_STATES - 1)] >> 32 == dim + 1)
			return class_of_last(slot, dim);
		if (!path_steps(slot, which))
			return CLASS_UNCERTAIN;
	}
	if (!s->n_steps) /* the root itself */
		return CLASS_UNCERTAIN;
	class = class_of_first(slot, dim);
	if (class == DFA_GOING)
		class = class_of_rest(slot);
	if (s->folder && class != CLASS_UNCERTAIN)
		folder_note(slot, which, (u64)(dim + 1) << 32 | s->dfa_folder);
	return class;
}

/* Whether the way up from a path tells what `num` is about: followed identities are in their number then, and the file is none in memory. */
static __always_inline bool path_tells(struct scratch *s, u32 slot, u32 num)
{
	if (num != NUM_FILE_OBJECT && num != NUM_NEW_OBJECT && num != NUM_FILE_MEMFD)
		return false;
	return steps_load(s, slot, num == NUM_NEW_OBJECT);
}

static __always_inline void class_prepare(struct scratch *s, u32 slot, u32 num)
{
	if (num == NUM_TTY)
		tty_load(slot);
	else if (num >= NUM_NS_UTS && num <= NUM_NS_HOST)
		namespaces_load(slot);
	else if (num >= NUM_NS_CHANGED && num <= NUM_CAPS_INHERITABLE_CHANGED)
		changes_load(slot);
	else if (num >= NUM_CAPS_PERMITTED && num <= NUM_CAPS_BOUNDING)
		caps_load(slot);
	else if (num == NUM_EXE_FLAGS)
		exe_load(slot);
	else if (num == NUM_DIRFD)
		string_load(slot, STR_FILE_TEXT);
	else if (num == NUM_FILE_PROC_PID)
		proc_load(slot);
	else if (num == NUM_ENTERED)
		entered_load(slot);
	else if (num == NUM_TARGET_REGISTERED && has_num(s, NUM_TARGET_PID))
		set_num(s, NUM_TARGET_REGISTERED, workload_of(s->generation, s->target) != WORKLOAD_UNKNOWN);
	if (num == NUM_PROCESS_CAPS || num == NUM_FILE_INO || (num >= NUM_FILE_MODE && num <= NUM_FILE_DELETED))
		numbers_load(slot);
	if ((num == NUM_FILE_OBJECT || num == NUM_FILE_MEMFD || num == NUM_NEW_OBJECT) && !path_tells(s, slot, num))
		path_named(slot, num == NUM_NEW_OBJECT);
}

static __always_inline bool is_id(u32 num)
{
	return num == NUM_PROCESS_UID || num == NUM_PROCESS_GID;
}

/* How two numbers of the event compare. The ids of the process are those of its subject, which an event does not have with it. */
__noinline int class_numbers(u32 slot, u32 one, u32 other)
{
	struct scratch *s = scratch_at(slot);
	u64 a, b;
	u32 uid, gid;

	if (!s || one >= ABI_NUM_SLOTS || other >= ABI_NUM_SLOTS)
		return CLASS_UNCERTAIN;
	if (is_id(one) || is_id(other)) {
		read_ids(&uid, &gid);
		set_num(s, NUM_PROCESS_UID, uid);
		set_num(s, NUM_PROCESS_GID, gid);
	}
	if (num_is_uncertain(s, one) || num_is_uncertain(s, other))
		return CLASS_UNCERTAIN;
	if (!has_num(s, one) || !has_num(s, other))
		return CLASS_NONE;
	a = s->num[MASKED(one, ABI_NUM_SLOTS - 1)];
	b = s->num[MASKED(other, ABI_NUM_SLOTS - 1)];
	return a < b ? CLASS_LESS : (a == b ? CLASS_SAME : CLASS_GREATER);
}

#define TEXTS_CHUNK 32
#define TEXTS_CHUNKS (ABI_PATH_MAX / TEXTS_CHUNK + 1)
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

/* The next byte of two texts, from where the scratch says. The places stay in memory: they are parts of addresses. */
static __always_inline int texts_step(struct scratch *s, const struct emit_space *space, u32 blank)
{
	u32 one = *(volatile u32 *)&s->text_one, other = *(volatile u32 *)&s->text_other, left = *(volatile u32 *)&s->text_left, a, b;

	if (!left)
		return TEXTS_ALIKE;
	a = space->data[one & (ABI_PATH_MAX - 1)];
	b = s->data[other & SCRATCH_MASK];
	if (a != b && (a ? a : blank) != (b ? b : blank))
		return TEXTS_APART;
	*(volatile u32 *)&s->text_one = one + 1;
	*(volatile u32 *)&s->text_other = other + 1;
	*(volatile u32 *)&s->text_left = left - 1;
	return TEXTS_GOING;
}

/* The next chunk of two texts. */
__noinline int texts_chunk(u32 slot)
{
	struct emit_space *space = bpf_map_lookup_elem(&emit_spaces, &slot);
	struct scratch *s = scratch_at(slot);
	int status = TEXTS_GOING;
	struct repeat r;

	if (!s || !space)
		return TEXTS_APART;
	repeat_begin(&r, rounds_of(TEXTS_CHUNK, TEXTS_CHUNKS));
	while (repeat_next(&r)) {
		status = texts_step(s, space, s->text_blank);
		if (status != TEXTS_GOING)
			break;
	}
	repeat_end(&r);
	return status;
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
	u32 first, second, shorter, i, chunks = chunks_of(TEXTS_CHUNKS);
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
	for (i = 0; i < chunks; i++) {
		status = texts_chunk(slot);
		if (status != TEXTS_GOING)
			break;
	}
	if (status != TEXTS_ALIKE)
		return status == TEXTS_APART ? CLASS_APART : CLASS_UNCERTAIN;
	return first < second ? CLASS_LESS : (first == second ? CLASS_SAME : CLASS_GREATER);
}

/* What a text that has been loaded comes to by itself: CLASS_UNCERTAIN, CLASS_NONE, or 2 where it is there. */
static __always_inline u32 class_text(struct scratch *s, u32 str)
{
	if (s->str_uncertain & STR_BIT(str))
		return CLASS_UNCERTAIN;
	return has_str(s, str) ? 2 : CLASS_NONE;
}

/* CAUSE_* of a dimension that is uncertain. */
static __always_inline u32 cause_of(u32 kind, u32 slot)
{
	if (kind == DIM_LINEAGE || kind == DIM_ANCESTORS)
		return CAUSE_LINEAGE;
	if (kind == DIM_COUNT)
		return CAUSE_COUNT;
	if (kind == DIM_PRESENT && slot >= ABI_NUM_SLOTS)
		slot -= ABI_NUM_SLOTS;
	else if (kind != DIM_STRING && kind != DIM_TEXTS) { /* or objects that a path leads to */
		if (slot >= NUM_NS_CHANGED && slot <= NUM_CAPS_INHERITABLE_CHANGED)
			return CAUSE_RECORD;
		return slot == NUM_NET_FAMILY || slot == NUM_NET_PEER_PORT || (slot >= NUM_NS_UTS && slot <= NUM_NS_HOST) ? CAUSE_VALUE : CAUSE_PATH;
	}
	if (slot == STR_FILE_PATH || slot == STR_FILE_NEW_PATH || slot == STR_PROCESS_CWD)
		return CAUSE_PATH;
	return slot <= STR_PARENT_EXE || slot == STR_TARGET_EXE ? CAUSE_RECORD : CAUSE_VALUE;
}

/* Class of dimension `dim`, that is `d`, over a string. `*str`: the one that it is uncertain by, where it is. */
static __always_inline u32 class_of_text(struct scratch *s, u32 slot, struct image_dim *d, u32 dim, u32 *str)
{
	u32 first = *str & (ABI_STR_SLOTS - 1), class;

	if (d->kind == DIM_STRING && is_path(first) && !(s->str_tried & STR_BIT(first))) {
		class = class_of_path(s, slot, first == STR_FILE_NEW_PATH, dim);
		if (class != CLASS_UNCERTAIN)
			return class_asked(s, first == STR_FILE_NEW_PATH, dim, class);
	}
	text_load(s, slot, first);
	class = class_text(s, first);
	if (class < 2 || d->kind == DIM_PRESENT)
		return class;
	if (d->kind == DIM_STRING)
		return match_automaton(slot, d->ref, d->start, s->str_offset[first], s->str_length[first]);
	if (!text_aside(slot, first))
		return CLASS_UNCERTAIN;
	*str = d->mask_lo & (ABI_STR_SLOTS - 1);
	text_load(s, slot, *str);
	class = class_text(s, *str);
	return class == 2 ? class_texts(slot, first, *str, d->value_lo) : class;
}

/* Class of a dimension over a number. */
static __always_inline u32 class_of_number(struct scratch *s, u32 slot, struct image_dim *d, u32 num)
{
	u64 mask, wanted, value;

	class_prepare(s, slot, num);
	if (d->kind == DIM_NUMBERS) {
		class_prepare(s, slot, d->mask_lo);
		return class_numbers(slot, num, d->mask_lo);
	}
	if ((num == NUM_FILE_OBJECT && s->flags & EVENT_PATH_UNCERTAIN) || (num == NUM_NEW_OBJECT && s->flags & EVENT_NEW_PATH_UNCERTAIN))
		return CLASS_UNCERTAIN;
	if (num_is_uncertain(s, num))
		return CLASS_UNCERTAIN;
	if (!has_num(s, num))
		return CLASS_NONE;
	value = s->num[MASKED(num, ABI_NUM_SLOTS - 1)];
	mask = d->mask_lo | (u64)d->mask_hi << 32;
	wanted = d->value_lo | (u64)d->value_hi << 32;
	switch (d->kind) {
	case DIM_PRESENT:
		return 2;
	case DIM_BITS:
		return value & mask ? 2 : CLASS_NONE;
	case DIM_MASKED:
		return (value & mask) == wanted ? 2 : CLASS_NONE;
	}
	return class_range(slot, d->ref, value);
}

/* Class of dimension `dim` for the event in the scratch. */
__noinline int class_of(u32 slot, u32 dim)
{
	struct scratch *s = scratch_at(slot);
	u32 kind, num, class = CLASS_UNCERTAIN;
	u64 number = MASKED(dim, ABI_MAX_DIMS - 1);
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
		class = class_of_text(s, slot, d, number, &num);
	} else if (kind == DIM_LINEAGE) {
		if (!s->lineage_uncertain)
			class = (s->lineage[(num >> 6) & 1] >> (num & 63)) & 1 ? 2 : CLASS_NONE;
	} else if (kind == DIM_ANCESTORS) {
		if (!names_load(slot))
			class = (s->names >> (num & 63)) & 1 ? 2 : CLASS_NONE;
	} else if (kind == DIM_COUNT) {
		class = class_counted(slot, number);
	} else if (num < ABI_NUM_SLOTS) {
		class = class_of_number(s, slot, d, num);
	}
	if (class == CLASS_UNCERTAIN)
		set_uncertain(s, cause_of(kind, num));
	s->class[number] = class;
	s->have_class |= 1ULL << number;
	return class;
}

#define SHORT_STRING 16 /* an IPv6 address */

/* Class by dimension `dim` of a short string that is in the scratch. CLASS_UNCERTAIN where class_of has to tell. */
__noinline u32 class_short(u32 slot, u32 dim)
{
	struct scratch *s = scratch_at(slot);
	u64 offset, length, at, i;
	struct automaton a;
	struct image_dim *d;
	u8 *class_of_byte;
	int status;

	if (!s)
		return CLASS_UNCERTAIN;
	class_of_byte = automaton_of(&a, s, dim, &d);
	if (!class_of_byte)
		return CLASS_UNCERTAIN;
	at = MASKED(d->slot, ABI_STR_SLOTS - 1);
	offset = s->str_offset[at];
	length = s->str_length[at];
	for (i = 0; i < SHORT_STRING; i++) {
		if (i >= length)
			break;
		status = automaton_step_near(&a, class_of_byte[s->data[MASKED(offset + i, SCRATCH_MASK)]]);
		if (status == STEP_FAR)
			return CLASS_UNCERTAIN;
		if (status == STEP_END)
			break;
	}
	return automaton_class(&a);
}

/* Class by dimension `dim` of a number that the hook has set. CLASS_UNCERTAIN where class_of has to tell. */
__noinline u32 class_number(u32 slot, u32 dim)
{
	struct scratch *s = scratch_at(slot);
	struct image_head *head;
	struct image_dim *d;
	u64 num, value;

	if (!s)
		return CLASS_UNCERTAIN;
	head = match_head(s->generation);
	if (!head)
		return CLASS_UNCERTAIN;
	d = &head->dims[MASKED(dim, ABI_MAX_DIMS - 1)];
	num = MASKED(d->slot, ABI_NUM_SLOTS - 1);
	if (num_is_uncertain(s, num))
		return CLASS_UNCERTAIN;
	value = s->num[num];
	switch (d->kind) {
	case DIM_RANGE:
		return class_range(slot, d->ref, value);
	case DIM_MASKED:
		return (value & (d->mask_lo | (u64)d->mask_hi << 32)) == (d->value_lo | (u64)d->value_hi << 32) ? 2 : CLASS_NONE;
	}
	return CLASS_UNCERTAIN;
}

/* Class of dimension `dim`, that is `d`: numbers and short strings that the hook has set come cheap. Only calls for the rest: where this is called
 * from, the verifier walks it many times.
 */
static __always_inline u64 class_fast(struct scratch *s, u32 slot, struct image_dim *d, u64 dim)
{
	u64 num = d->slot, class = CLASS_UNCERTAIN;

	if (num < ABI_NUM_SLOTS && has_num(s, num)) {
		if (d->kind == DIM_BITS && !(s->flags & (EVENT_PATH_UNCERTAIN | EVENT_NEW_PATH_UNCERTAIN)))
			return s->num[MASKED(num, ABI_NUM_SLOTS - 1)] & (d->mask_lo | (u64)d->mask_hi << 32) ? 2 : CLASS_NONE;
		if (d->kind == DIM_RANGE || d->kind == DIM_MASKED)
			class = class_number(slot, dim);
	} else if (d->kind == DIM_STRING && num < ABI_STR_SLOTS && (s->str_present & ~s->str_uncertain) & STR_BIT(num) &&
		   s->str_length[MASKED(num, ABI_STR_SLOTS - 1)] <= SHORT_STRING) {
		class = class_short(slot, dim);
	}
	return class == CLASS_UNCERTAIN ? class_of(slot, dim) : class;
}

#endif
