/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The quick way past the engine: what has come to nothing for one file comes to nothing for others like it in the folder.
 *
 * Noted where a decision came to nothing and was made of nothing but what the note is kept under: the subject, by its number; the event and
 * its access or protection, of an open some of its flags, too (OPEN_FLAGS_NOTED); the class of the path, one for each of two; and followed
 * identities, of which the file had none of its own. Denials and alerts are never noted. Whether a note is about a file is told by the run of
 * one automaton over the file's own name, from the state behind its folder's path. Notes lie in the entry of the folder (map `folders`) and are
 * true as long as that is: see folder.h.
 *
 * What is executed and mapped of an overlay is decided on twice, by its own file and by the one of a layer (layer.h). The note is made where both came
 * to nothing and the second had no followed identity: it has no name, so the rest is what the note is kept under. Whoever finds it looks whether
 * that is so of the file of his layer.
 *
 * A subject has a number, so that all processes of one share what is noted: its entry of map `subjects` holds its rows, and the ids and the cgroup
 * where they depend on those. Each number is given once, so what is noted of an entry's subject before says nothing of the next.
 *
 * Included by engine.bpf.c alone, as path.h. Only where the kernel has bpf_rdonly_cast: what is read through pointers that the verifier trusts
 * takes it long, see pointer_in.
 */
#ifndef BPFENCE_QUIET_H
#define BPFENCE_QUIET_H

#include "path.h"
#include "peer.h"

#define NUMBER_BITS CONCERN_SPARE
#define NUMBERS_OF_ENTRY ((1U << NUMBER_BITS) / SUBJECTS - 1)

/* User and group that the subject of a record is for, 0 where it is for all. */
static __always_inline u64 subject_ids(const struct process_record *record)
{
	return record->flags & RECORD_DEPENDS_IDS ? (u64)record->uid << 32 | record->gid : 0;
}

/* The same of the cgroup. */
static __always_inline u64 subject_cgroup(const struct process_record *record)
{
	return record->flags & RECORD_DEPENDS_CGROUP ? record->cgroup : 0;
}

static __always_inline u32 subject_index(const struct process_record *record)
{
	u64 hash = subject_ids(record) ^ subject_cgroup(record) << 1;
	u32 group;

	for (group = 0; group < ABI_MAX_GROUPS; group++)
		hash = (hash ^ record->subject[group]) * 0x9e3779b97f4a7c15ULL;
	return hash >> 32 & (SUBJECTS - 1);
}

static __always_inline bool subject_alike(const struct known_subject *subject, const struct process_record *record)
{
	u32 group, differ = (subject->generation ^ record->generation) | (subject->flags ^ (record->flags & SUBJECT_FLAGS));

	for (group = 0; group < ABI_MAX_GROUPS; group++)
		differ |= subject->subject[group] ^ record->subject[group];
	return !differ && subject->ids == subject_ids(record) && subject->cgroup == subject_cgroup(record);
}

/* Whether other threads of the acting process may be in other cgroups, below or above its own: there are threaded ones. */
static __always_inline bool cgroup_of_threads(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct cgroup *cgroup = READ(task, cgroups, dfl_cgrp);

	return READ(cgroup, dom_cgrp) != cgroup || READ(cgroup, nr_threaded_children);
}

/* Gives the subject of the record in the scratch its number; 0: none, because nothing is noted, or somebody else is writing just now. Looks at the
 * cgroup for RECORD_CGROUPS, too: what calls this has no room on the stack for it.
 */
__noinline int subject_number(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	struct known_subject *subject;
	u32 number, index, group;

	if (!s)
		return 0;
	s->record.number = 0;
	if (s->features & IMAGE_SUBJECT_CGROUP && cgroup_of_threads())
		s->record.flags |= RECORD_CGROUPS;
	if (!have_rdonly_cast || !have_inode_storage)
		return 0;
	for (group = 0; group < ABI_MAX_GROUPS; group++) {
		if (group >= s->n_groups)
			s->record.subject[group] = 0;
	}
	index = subject_index(&s->record);
	subject = bpf_map_lookup_elem(&subjects, &index);
	if (!subject)
		return 0;
	number = *(volatile u32 *)&subject->number;
	barrier();
	if (number && subject_alike(subject, &s->record)) {
		barrier();
		if (*(volatile u32 *)&subject->number == number)
			s->record.number = number;
		return 0;
	}
	__sync_fetch_and_add(&subject->writers, 1);
	if (*(volatile u64 *)&subject->writers == 1 && subject->given < NUMBERS_OF_ENTRY) {
		*(volatile u32 *)&subject->number = 0;
		barrier();
		subject->given++;
		subject->generation = s->record.generation;
		subject->flags = s->record.flags & SUBJECT_FLAGS;
		subject->ids = subject_ids(&s->record);
		subject->cgroup = subject_cgroup(&s->record);
		subject->objects = !!(s->features & IMAGE_NEEDS_OBJECTS);
		for (group = 0; group < ABI_MAX_GROUPS; group++)
			subject->subject[group] = s->record.subject[group];
		barrier();
		number = subject->given * SUBJECTS + index;
		*(volatile u32 *)&subject->number = number;
		s->record.number = number;
	}
	__sync_fetch_and_add(&subject->writers, -1);
	return 0;
}

/* The pointer that is stored at an address, as a number, which is what functions are given and what can be shifted. */
static __always_inline u64 word_at(u64 address)
{
	return path_words(address)->tv_sec;
}

static __always_inline u64 parent_of(u64 dentry)
{
	return word_at(dentry + bpf_core_field_offset(struct dentry, d_parent));
}

static __always_inline u64 mount_of_path(u64 path)
{
	return word_at(path + bpf_core_field_offset(struct path, mnt));
}

static __always_inline u64 dentry_of_path(u64 path)
{
	return word_at(path + bpf_core_field_offset(struct path, dentry));
}

static __always_inline struct task_struct *quiet_task(void)
{
	return bpf_rdonly_cast((void *)bpf_get_current_task(), bpf_core_type_id_kernel(struct task_struct));
}

/* Whether the acting task has what the subject depends on. */
static __always_inline bool subject_holds(const struct known_subject *subject, const struct task_struct *task)
{
	if (subject->flags & RECORD_DEPENDS_IDS && subject->ids != ((u64)task->cred->euid.val << 32 | task->cred->egid.val))
		return false;
	return !(subject->flags & RECORD_DEPENDS_CGROUP) || subject->cgroup == bpf_get_current_cgroup_id();
}

/* The key of a note. */
static __always_inline u64 quiet_key(u64 number, u32 what)
{
	return number << 32 | what;
}

/* Whether the name of a dentry is in the class that struct quiet_note has; `state` is as struct folder has it, where the run begins. */
__noinline int name_in_class(u64 generation, u64 state, u64 dentry, u32 wanted)
{
	struct image_page *first = match_page(generation, 0), *class_page;
	u64 dim = (wanted & 0xff) - 1, classes;
	struct image_dim *d;
	struct automaton a;
	int status;

	if (!have_rdonly_cast || !first || state >> 32 != (wanted & 0xff))
		return 0;
	d = &((struct image_head *)first)->dims[MASKED(dim, ABI_MAX_DIMS - 1)];
	classes = (d->ref & (IMAGE_PAGE_WORDS - 1)) * 4;
	class_page = match_page_near(first, generation, d->ref);
	a.state = (u32)state;
	a.generation = generation;
	a.page = match_page_near(first, generation, a.state);
	if (!class_page || !a.page || classes > DFA_CLASSES_LAST)
		return 0;
	status = automaton_name(&a, (u8 *)class_page + classes, dentry, false);
	return (status == PATH_DONE || status == PATH_GOING) && automaton_class(&a) == wanted >> 8;
}

/* The same of a dentry in a folder. 0 in place of a class: no dimension was asked. */
static __always_inline bool name_alike(const struct folder *folder, u64 generation, u64 dentry, u32 wanted)
{
	u64 dim = (wanted & 0xff) - 1;

	return !wanted || (dentry && name_in_class(generation, folder->state[MASKED(dim, FOLDER_STATES - 1)], dentry, wanted));
}

/* Whether no followed identity is on the way up from a file of a layer, by its inode, to the root of its file system: decide_layer. */
__noinline int layer_unfollowed(u64 inode, u64 generation)
{
	struct object_filter *filter;
	u32 index = generation & 1, i;
	u64 dentry, parent;

	if (!have_rdonly_cast)
		return 0;
	filter = bpf_map_lookup_elem(&object_filters, &index);
	dentry = word_at(inode + compat_aliases());
	if (!filter || !dentry || !compat_aliases())
		return 0;
	dentry -= compat_alias();
	for (i = 0; i < LEVELS_ABOVE; i++) {
		if (path_filtered(filter, dentry))
			return 0;
		parent = parent_of(dentry);
		if (parent == dentry)
			return 1;
		dentry = parent;
	}
	return 0;
}

/* The subject of a process, where its word in map `concerns` tells the number of one; `tag`: of concern_tag, just now. What is read of the subject is its own as long as it has that
 * number afterwards.
 */
static __always_inline struct known_subject *subject_in(const struct concern *concern, u64 tag, u32 *number)
{
	u64 word = *(volatile const u64 *)&concern->word[CONCERN_WORDS - 1];
	struct known_subject *subject;
	u32 index;

	if ((word ^ tag) & ~CONCERN_MASK)
		return NULL;
	*number = (word & CONCERN_MASK) >> (CONCERN_BITS - CONCERN_SPARE);
	index = *number & (SUBJECTS - 1);
	subject = bpf_map_lookup_elem(&subjects, &index);
	return *number && subject && *(volatile u32 *)&subject->number == *number ? subject : NULL;
}

/* The same of the acting process; `since`: what an entry of map `folders` must have. */
static __always_inline struct known_subject *subject_current(u64 *since, u32 *number)
{
	u32 zero = 0, tgid = bpf_get_current_pid_tgid() >> 32;
	struct control *c = bpf_map_lookup_elem(&control, &zero);
	struct concern *concern = concern_of(tgid);
	u64 generation;

	if (!c || !concern)
		return NULL;
	generation = *(volatile u32 *)&c->generation;
	*since = generation << 32 | *(volatile u32 *)&c->remembers;
	return subject_in(concern, concern_tag(generation, *(volatile u64 *)&concern->version, tgid), number);
}

/* See subject_of. Looks once at what may_concern and subject_current look at. */
__noinline u64 subject_concerned(u32 word, u32 bit)
{
	u64 generation = active_generation(), tgid = bpf_get_current_pid_tgid() >> 32, at = MASKED(word, CONCERN_WORDS), tag, bits;
	struct concern *concern = concern_of(tgid);

	if (!generation || !concern)
		return SUBJECT_NOTHING;
	tag = concern_tag(generation, *(volatile u64 *)&concern->version, tgid);
	bits = *(volatile u64 *)&concern->word[at] ^ tag;
	if (bits & ~CONCERN_MASK)
		return 0;
	return bits >> (bit & 63) & 1 ? SUBJECT_NOTHING : NUMBER_IN(word_acting(concern, tag));
}

/* Whether nothing follows from an event of the acting process on a file, by its dentry and the mount that it is seen through; and, where `other` is
 * not 0, on another name in the same folder. `layer`: the inode of the file of a layer that is decided on, too, or 0.
 */
__noinline int folder_quiet(u64 dentry, u64 other, u64 mount, u64 layer, u32 what)
{
	struct known_subject *subject;
	struct object_filter *filter;
	struct task_struct *task;
	u64 since, key, parent, ended, tree, generation, at;
	struct folder *folder;
	u32 index, number;

	if (!have_rdonly_cast || !have_inode_storage)
		return 0;
	subject = subject_current(&since, &number);
	if (!subject || !(since & 1))
		return 0;
	barrier();
	task = quiet_task();
	if (!subject_holds(subject, task))
		return 0;
	tree = folder_version();
	parent = parent_of(dentry);
	folder = folder_at(parent);
	if (!folder)
		return 0;
	generation = since >> 32;
	key = quiet_key(number, what);
	ended = *(volatile u64 *)&folder->ended;
	barrier();
	at = quiet_place(folder, key);
	if (folder->quiet[at].key != key || !folder_alike(folder, parent, mount, (u64)task->nsproxy->mnt_ns, tree, since))
		return 0;
	if (parent == dentry || dentry == (u64)path_vfsmount(mount)->mnt_root)
		return 0;
	if (subject->objects) {
		index = generation & 1;
		filter = bpf_map_lookup_elem(&object_filters, &index);
		if (!filter || path_filtered(filter, dentry) || (other && path_filtered(filter, other)) || (layer && !layer_unfollowed(layer, generation)))
			return 0;
	}
	if (!name_alike(folder, generation, dentry, folder->quiet[at].path[0]) || !name_alike(folder, generation, other, folder->quiet[at].path[1]))
		return 0;
	if (parent_of(dentry) != parent) /* it has been moved before its name was read */
		return 0;
	barrier();
	return *(volatile u64 *)&folder->begun == ended && *(volatile u32 *)&subject->number == number;
}

/* compat_overlay, compat_layer and compat_user_path by loads. */
static __always_inline bool quiet_overlay(u64 inode)
{
	return word_at(word_at(inode + bpf_core_field_offset(struct inode, i_sb)) + bpf_core_field_offset(struct super_block, s_magic)) ==
	       OVERLAYFS_SUPER_MAGIC;
}

static __always_inline u64 quiet_file_inode(u64 file)
{
	u64 inode = word_at(file + bpf_core_field_offset(struct file, f_inode));
	u64 mapping = word_at(file + bpf_core_field_offset(struct file, f_mapping));

	return mapping && word_at(inode + bpf_core_field_offset(struct inode, i_mapping)) == mapping ? inode : 0;
}

static __always_inline u64 quiet_layer(u64 file)
{
	u64 layer = word_at(file + bpf_core_field_offset(struct file, private_data)), inode = quiet_file_inode(layer);

	return inode ? inode : quiet_file_inode(word_at(layer));
}

static __always_inline u64 quiet_user_path(u64 file)
{
	u64 path = file + bpf_core_field_offset(struct backing_file, user_path), sb;

	sb = word_at(dentry_of_path(path) + bpf_core_field_offset(struct dentry, d_sb));
	if (!sb || sb != word_at(word_at(sb + bpf_core_field_offset(struct super_block, s_root)) + bpf_core_field_offset(struct dentry, d_sb)))
		return 0;
	return sb == word_at(mount_of_path(path) + bpf_core_field_offset(struct vfsmount, mnt_sb)) ? path : 0;
}

/* What is executed or mapped of an overlay is decided on by the file of the layer, too. Of what is mapped there is only that file, and behind it
 * the path that was opened.
 */
__noinline int file_quiet(u64 file, u32 what)
{
	u64 path = file + bpf_core_field_offset(struct file, f_path), dentry, inode, layer = 0;
	u32 event = what & 0xff;

	if (!have_rdonly_cast)
		return 0;
	inode = word_at(file + bpf_core_field_offset(struct file, f_inode));
	if (event == EV_FILE_MPROTECT && bpf_core_field_exists(struct backing_file, user_path) && path_mount_internal(mount_of_path(path))) {
		path = quiet_user_path(file);
		if (!path)
			return 0;
		layer = inode;
		inode = word_at(dentry_of_path(path) + bpf_core_field_offset(struct dentry, d_inode));
		if (!quiet_overlay(inode))
			return 0;
	} else if ((event == EV_PROCESS_EXEC || event == EV_FILE_MMAP) && quiet_overlay(inode)) {
		layer = quiet_layer(file);
		if (!layer)
			return 0;
	}
	dentry = dentry_of_path(path);
	if (word_at(dentry + bpf_core_field_offset(struct dentry, d_inode)) != inode)
		return 0;
	return folder_quiet(dentry, 0, mount_of_path(path), layer, what);
}

__noinline int path_quiet(u64 path, u32 what)
{
	return have_rdonly_cast ? folder_quiet(dentry_of_path(path), 0, mount_of_path(path), 0, what) : 0;
}

__noinline int name_quiet(u64 dir, u64 dentry, u32 what)
{
	return have_rdonly_cast ? folder_quiet(dentry, 0, mount_of_path(dir), 0, what) : 0;
}

/* The same of two names of one folder. */
__noinline int names_quiet(u64 dir, u64 dentry, u64 other, u32 what)
{
	if (!have_rdonly_cast || parent_of(dentry) != parent_of(other))
		return 0;
	return folder_quiet(dentry, other, mount_of_path(dir), 0, what);
}

/* Whether the file has no followed identity that is not one of its folder's, too. */
static __always_inline bool objects_of_folder(const struct scratch *s, u32 num)
{
	return !has_num(s, num) || s->num[num] == s->folder_objects;
}

__noinline int quiet_note(u32 slot, u32 what, u32 layered)
{
	u64 paths = STR_BIT(STR_FILE_PATH) | STR_BIT(STR_FILE_NEW_PATH);
	struct scratch *s = scratch_at(slot);
	int done = 0;

	if (!have_rdonly_cast || !s || s->report || s->flags || s->have_class & ~s->lasting || s->str_tried & paths || s->mnt_ns)
		return 0;
	if (s->paths_asked && (layered || s->dentry[1])) /* which names alike are, one dimension alone can tell */
		return 0;
	if (!steps_load(s, slot, !!(s->steps_of & STEPS_OF(1))) || s->steps_of & STEPS_PSEUDO)
		return 0;
	if (!s->folder || s->folder != (u64)path_dentry(s->dentry[0])->d_parent)
		return 0;
	if (s->dentry[1] && (s->folder != (u64)path_dentry(s->dentry[1])->d_parent || s->mount[0] != s->mount[1]))
		return 0;
	if (s->features & IMAGE_NEEDS_OBJECTS && !(objects_of_folder(s, NUM_FILE_OBJECT) && objects_of_folder(s, NUM_NEW_OBJECT)))
		return 0;
	subject_number(slot); /* another subject may have taken its place since */
	if (!s->record.number)
		return 0;
	s->quiet = s->paths_asked ? 0 : quiet_key(s->record.number, what);
	if (layered) {
		s->quiet_layer = s->quiet;
		s->quiet_folder = s->folder;
		s->quiet_mount = s->mount[0];
	} else {
		folder_note(slot, 0, 0);
		done = note_decided(slot, quiet_key(s->record.number, what));
	}
	done |= !s->paths_asked;
	s->quiet = 0;
	if (s->record_version != RECORD_OWN)
		concern_again(slot);
	return done;
}

/* What path_asked and the rest of what is kept of the folder say stays as it is: the file of a layer has neither path nor folder. */
__noinline int quiet_note_layer(u32 slot)
{
	struct scratch *s = scratch_at(slot);

	if (!have_rdonly_cast || !s || s->report || s->flags || s->have_class & ~s->lasting || (has_num(s, NUM_FILE_OBJECT) && s->num[NUM_FILE_OBJECT]))
		return 0;
	s->quiet = s->quiet_layer;
	s->folder = s->quiet_folder;
	s->mount[0] = s->quiet_mount;
	folder_note(slot, 0, 0);
	s->quiet = 0;
	return 1;
}

/* The bound of entry `i` of a table of ranges. */
static __always_inline u64 range_bound(u32 generation, u32 ref, u32 i)
{
	return match_wide(generation, ref + 1 + 3 * i);
}

/* The ports that a table of ranges puts into one class with one: the first | the last << 32. Searches as class_range. */
__noinline u64 ports_around(u32 slot, u32 ref, u32 port)
{
	struct scratch *s = scratch_at(slot);
	volatile u32 *low, *high;
	u64 first, next = 0x10000;
	struct repeat r;
	u32 n;

	if (!have_rdonly_cast || !s)
		return 0;
	n = match_word(s->generation, ref);
	low = &s->low;
	high = &s->high;
	*low = 0;
	*high = n;
	repeat_begin(&r, BSEARCH_STEPS);
	while (repeat_next(&r)) {
		u32 middle = (*low + *high) / 2;

		if (*high - *low <= 1)
			break;
		if (range_bound(s->generation, ref, middle) <= port)
			*low = middle;
		else
			*high = middle;
	}
	repeat_end(&r);
	first = range_bound(s->generation, ref, *low);
	if (*low + 1 < n)
		next = range_bound(s->generation, ref, *low + 1);
	if (!n || first > port || next <= port)
		return port | (u64)port << 32;
	return first | (next > 0x10000 ? 0xffff : next - 1) << 32;
}

/* What the dimension `dim`, which was asked, lets be noted of the ports in the scratch. */
__noinline int ports_narrow(u32 slot, u32 dim)
{
	u64 number = MASKED(dim, ABI_MAX_DIMS - 1), around;
	struct scratch *s = scratch_at(slot);
	struct image_head *head;
	struct image_dim *d;
	u32 port, side;

	if (!have_rdonly_cast || !s)
		return 0;
	head = match_head(s->generation);
	if (!head)
		return 0;
	d = &head->dims[number];
	if (d->kind == DIM_STRING || d->kind == DIM_PRESENT || (d->slot != NUM_NET_PEER_PORT && d->slot != NUM_NET_LOCAL_PORT))
		return 0;
	side = d->slot == NUM_NET_PEER_PORT;
	port = facts_port(&s->facts, side ? FACTS_PEER_PORT : FACTS_LOCAL_PORT);
	around = d->kind == DIM_RANGE ? ports_around(slot, d->ref, port) : port | (u64)port << 32;
	if ((u32)around > s->port_first[side])
		s->port_first[side] = around;
	if (around >> 32 < s->port_last[side])
		s->port_last[side] = around >> 32;
	return 0;
}

__noinline int ports_of_note(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	u32 dim;

	if (!have_rdonly_cast || !s)
		return 0;
	s->port_first[0] = s->port_first[1] = 0;
	s->port_last[0] = s->port_last[1] = 0xffff;
	for (dim = 0; dim < ABI_MAX_DIMS; dim++) {
		u64 rest = s->have_class >> dim;

		if (!rest)
			break;
		if (rest & 1)
			ports_narrow(slot, dim);
	}
	return 0;
}

__noinline int socket_note(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	struct image_head *head;
	struct socket_note *note;
	u64 addressed;

	if (!have_rdonly_cast || !s || s->report || s->flags)
		return 0;
	head = match_head(s->generation);
	if (!head)
		return 0;
	addressed = head->header.addressed[0] | (u64)head->header.addressed[1] << 32;
	if ((u16)s->facts.ports == AF_UNIX)
		addressed &= ~(head->header.named[0] | (u64)head->header.named[1] << 32);
	if (s->have_class & ~addressed)
		return 0;
	subject_number(slot); /* another subject may have taken its place since */
	if (!s->record.number)
		return 0;
	ports_of_note(slot);
	s->facts.of = (u32)s->facts.of | (u64)s->record.number << FACTS_NUMBER_SHIFT;
	note = socket_note_at(&s->facts);
	if (!note)
		return 0;
	__sync_fetch_and_add(&note->writers, 1);
	if (*(volatile u64 *)&note->writers == 1) {
		*(volatile u64 *)&note->begun = note->begun + 1;
		barrier();
		note->facts = s->facts;
		note->own_first = s->port_first[0];
		note->own_last = s->port_last[0];
		note->peer_first = s->port_first[1];
		note->peer_last = s->port_last[1];
		barrier();
		*(volatile u64 *)&note->ended = note->begun;
	}
	__sync_fetch_and_add(&note->writers, -1);
	if (s->record_version != RECORD_OWN)
		concern_again(slot);
	return 1;
}

#endif
