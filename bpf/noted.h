/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The quickest way past the engine: what has come to nothing for a name in a folder comes to nothing again. It stands in front of quiet.h, whose
 * notes are for all names of a folder that are alike, which takes a run of an automaton to find out. Here the name is compared whole.
 *
 * A note says that a decision has come to nothing that quiet.h may note, or that a note of it has held: for the subject, by its number; the event and
 * what rules may look at of it (quiet_what); an entry of map `folders`, by its id; and the name. It is true as long as that entry is, which is
 * looked at each time. Where policies follow identities, whether the file that has the name now may be one is looked at each time, too. Rules may
 * have asked for the path in any way: it is the same one.
 *
 * The name that was decided on, or was alike, is the one that is noted, and the folder the one that it was in: there was no rename, of whatever,
 * between two looks at the kernel's count of them, one before both were looked at, and one after what is noted has been read.
 *
 * Two names of one folder are noted as one, the half of the room for each. Not where the file of a layer is decided on, too. Only where the
 * engine is shared: with an own one the programs have no room for it on the stack. As in known.h, whoever finds a note half written, or
 * somebody else writing, goes without.
 *
 * Included by engine.bpf.c alone, as quiet.h.
 */
#ifndef BPFENCE_NOTED_H
#define BPFENCE_NOTED_H

#include "quiet.h"
#include "opened.h"

#ifdef ENGINE_SHARED

/* What a note is about, from the look for it on. */
struct noted {
	u64 key;     /* 0: nothing can be noted */
	u64 folder;
	u64 name[NOTED_WORDS];
	u64 renames;
	u64 tree;    /* tree_version at that time */
	u64 version; /* of the record that the key was made of */
};

static __always_inline struct name_note *name_note_at(const struct noted *n)
{
	u64 hash = n->name[0] ^ n->name[1] << 7 ^ n->name[2] << 14 ^ n->name[3] << 21 ^ n->key << 29 ^ n->folder << 40;
	u32 index;

	hash = (hash ^ hash >> 32) * 0x9e3779b97f4a7c15ULL;
	index = hash >> 40 & (NAME_NOTES - 1);
	return bpf_map_lookup_elem(&name_notes, &index);
}

static __always_inline bool name_note_alike(const struct name_note *note, const struct noted *n)
{
	u64 differ = (note->key ^ n->key) | (note->folder ^ n->folder);
	u32 i;

	for (i = 0; i < NOTED_WORDS; i++)
		differ |= note->name[i] ^ n->name[i];
	return !differ;
}

/* The bytes of a word that are a part of a name of `length` bytes, `at` of them before it. */
static __always_inline u64 noted_part(u64 name, u64 length, u64 at)
{
	u64 bits = 64 - 8 * (length & 7); /* that are not of the name in its last word, 64: all */

	if (length >= at + 8)
		return word_at(name + at);
	return length > at ? word_at(name + at) << bits >> bits : 0;
}

/* The name of a dentry, and of another one in the same folder, or 0; false where they are too long. */
static __always_inline bool noted_name(struct noted *n, u64 dentry, u64 other)
{
	u64 name = compat_inline_name(dentry), length = path_dentry(dentry)->d_name.len;

	if (length > (other ? NOTED_HALF : COMPAT_INLINE_NAME))
		return false;
	n->name[0] = noted_part(name, length, 0);
	n->name[1] = length > 8 ? noted_part(name, length, 8) : 0;
	n->name[2] = n->name[3] = 0;
	if (other) {
		name = compat_inline_name(other);
		length = path_dentry(other)->d_name.len;
		if (length > NOTED_HALF)
			return false;
		n->name[2] = noted_part(name, length, 0);
		n->name[3] = noted_part(name, length, 8);
	} else if (length > 16) {
		n->name[2] = noted_part(name, length, 16);
		n->name[3] = noted_part(name, length, 24);
	}
	return true;
}

/* Whether nothing follows from an event of the acting process on a dentry in a folder that is seen through a mount: because no rule concerns it, or by what has
 * been noted. Where not, *n is for note_name.
 */
static __always_inline bool noted(struct noted *n, u64 dentry, u64 other, u64 parent, u64 mount, u32 what)
{
	u64 tgid = bpf_get_current_pid_tgid() >> 32, generation, tree, since, ended, word;
	struct concern *concern = concern_of(tgid);
	struct object_filter *filter;
	struct name_note *note;
	struct folder *folder;
	u32 zero = 0, index;
	struct control *c;
	bool alike;

	n->key = 0;
	c = bpf_map_lookup_elem(&control, &zero);
	if (!c || !concern)
		return true;
	generation = *(volatile u32 *)&c->generation;
	if (subject_unconcerned(concern, what & 0xff, generation, tgid))
		return true;
	since = generation << 32 | *(volatile u32 *)&c->remembers;
	n->version = *(volatile u64 *)&concern->version;
	word = word_acting(concern, concern_tag(generation, n->version, tgid));
	folder = folder_at(parent);
	if (!NUMBER_IN(word) || !(since & 1) || !folder)
		return false;
	tree = folder_version_at(&n->renames);
	n->tree = n->renames << 32 | (u32)tree;
	ended = *(volatile u64 *)&folder->ended;
	barrier();
	n->folder = folder->id;
	if (!folder_alike(folder, parent, mount, (u64)quiet_task()->nsproxy->mnt_ns, tree, since))
		return false;
	if (parent_of(dentry) != parent || (other && parent_of(other) != parent))
		return false; /* it has left the folder before renames were counted */
	barrier();
	if (*(volatile u64 *)&folder->begun != ended || dentry == parent || dentry == (u64)path_vfsmount(mount)->mnt_root || !noted_name(n, dentry, other))
		return false;
	n->key = quiet_key(NUMBER_IN(word), what);
	if (!(word & CONCERN_UNFOLLOWED)) {
		index = generation & 1;
		filter = bpf_map_lookup_elem(&object_filters, &index);
		if (!filter || path_filtered(filter, dentry) || (other && path_filtered(filter, other)))
			return false;
	}
	note = name_note_at(n);
	if (!note)
		return false;
	ended = *(volatile u32 *)&note->ended;
	barrier();
	alike = name_note_alike(note, n);
	barrier();
	return alike && *(volatile u32 *)&note->begun == ended && rename_count() == n->renames; /* parent and name were read in one piece */
}

/* Whether the acting process has still the subject that the key was made of, and not another one in between. */
static __always_inline bool noted_still(const struct noted *n)
{
	return n->key && record_version(bpf_get_current_pid_tgid() >> 32) == n->version;
}

/* Notes what has been found to come to nothing. Whether it was not in vain. */
static __always_inline bool note_name(const struct noted *n)
{
	struct name_note *note;
	u32 i;

	if (!n->key || n->renames & 1 || rename_count() != n->renames)
		return false;
	note = name_note_at(n);
	if (!note)
		return false;
	__sync_fetch_and_add(&note->writers, 1);
	if (*(volatile u32 *)&note->writers == 1) {
		*(volatile u32 *)&note->begun = note->begun + 1;
		barrier();
		note->key = n->key;
		note->folder = n->folder;
		for (i = 0; i < NOTED_WORDS; i++)
			note->name[i] = n->name[i];
		barrier();
		*(volatile u32 *)&note->ended = note->begun;
	}
	__sync_fetch_and_add(&note->writers, -1);
	return true;
}

/* Of what is executed and mapped of an overlay the file of the layer is decided on, too. */
static __always_inline bool file_layered(u64 path, u64 inode, u32 event)
{
	if (event != EV_PROCESS_EXEC && event != EV_FILE_MMAP && event != EV_FILE_MPROTECT)
		return false;
	return quiet_overlay(inode) || path_mount_internal(mount_of_path(path));
}

/* Keeps that nothing follows from an event on an open file. `tree`: from before that was found out. */
static __always_inline bool file_note_keep(u64 file, u64 key, u64 tree)
{
	u64 path = file + bpf_core_field_offset(struct file, f_path), dentry = dentry_of_path(path), mount = mount_of_path(path);
	u64 inode = word_at(file + bpf_core_field_offset(struct file, f_inode)), mnt_ns = (u64)quiet_task()->nsproxy->mnt_ns;
	struct file_note *note = file_note_at(dentry);
	u32 since = remembers(), i;

	if (!note || !since || !tree)
		return false;
	__sync_fetch_and_add(&note->writers, 1);
	if (*(volatile u32 *)&note->writers == 1) {
		bool same = note->dentry == dentry && note->mount == mount && note->mnt_ns == mnt_ns && note->inode == inode && note->tree == tree &&
			    note->since == since;

		*(volatile u32 *)&note->begun = note->begun + 1;
		barrier();
		if (!same) {
			for (i = 0; i < FILE_NOTE_KEYS; i++)
				note->key[i] = 0;
			note->mount = mount;
			note->mnt_ns = mnt_ns;
			note->inode = inode;
			note->tree = tree;
			note->since = since;
			note->dentry = dentry;
		}
		note->key[MASKED(note->begun, FILE_NOTE_KEYS - 1)] = key;
		barrier();
		*(volatile u32 *)&note->ended = note->begun;
	}
	__sync_fetch_and_add(&note->writers, -1);
	return true;
}

__noinline int file_noted(u64 file, u32 what)
{
	u64 path = file + bpf_core_field_offset(struct file, f_path), dentry, parent, inode;
	struct noted n;

	if (!have_rdonly_cast)
		return 0;
	dentry = dentry_of_path(path);
	parent = parent_of(dentry);
	if (parent == dentry)
		return 0;
	inode = word_at(file + bpf_core_field_offset(struct file, f_inode));
	n.key = 0;
	if (!(!file_layered(path, inode, what & 0xff) && word_at(dentry + bpf_core_field_offset(struct dentry, d_inode)) == inode &&
	      noted(&n, dentry, 0, parent, mount_of_path(path), what))) {
		if (!engine(ENGINE_FILE_QUIET, what, file, 0, 0))
			return 0;
		if (!noted_still(&n) || !note_name(&n))
			return 1;
	}
	if (n.key && (what & 0xff) == EV_FILE_PERMISSION)
		file_note_keep(file, n.key, n.tree);
	return 1;
}

__noinline int path_noted(u64 path, u32 what)
{
	struct noted n;
	u64 dentry;

	if (!have_rdonly_cast)
		return 0;
	dentry = dentry_of_path(path);
	if (noted(&n, dentry, 0, parent_of(dentry), mount_of_path(path), what))
		return 1;
	if (!engine(ENGINE_PATH_QUIET, what, path, 0, 0))
		return 0;
	if (noted_still(&n))
		note_name(&n);
	return 1;
}

__noinline int name_noted(u64 dir, u64 dentry, u32 what)
{
	struct noted n;

	if (!have_rdonly_cast)
		return 0;
	if (noted(&n, dentry, 0, parent_of(dentry), mount_of_path(dir), what))
		return 1;
	if (!engine(ENGINE_NAME_QUIET, what, dir, dentry, 0))
		return 0;
	if (noted_still(&n))
		note_name(&n);
	return 1;
}

__noinline int names_noted(u64 dir, u64 dentry, u64 other, u32 what)
{
	struct noted n;
	u64 parent;

	if (!have_rdonly_cast)
		return 0;
	n.key = 0;
	parent = parent_of(dentry);
	if (parent_of(other) == parent && noted(&n, dentry, other, parent, mount_of_path(dir), what))
		return 1;
	if (!engine(ENGINE_NAMES_QUIET, what, dir, dentry, other))
		return 0;
	if (noted_still(&n))
		note_name(&n);
	return 1;
}

/* Of what the event was about all that lasts is looked at here, and not by name: files outside of the tree have none, and names may be long. */
__noinline int file_note_decided(u32 slot, u64 file, u32 what)
{
	struct scratch *s = scratch_at(slot);

	if (!have_rdonly_cast || !s || !s->tree || s->report || s->flags || s->have_class & ~s->lasting || s->mnt_ns)
		return 0;
	subject_number(slot); /* another subject may have taken its place since */
	if (!s->record.number)
		return 0;
	if (s->record_version != RECORD_OWN)
		concern_again(slot);
	return file_note_keep(file, quiet_key(s->record.number, what), s->tree);
}

__noinline int note_decided(u32 slot, u64 key)
{
	struct scratch *s = scratch_at(slot);
	struct folder *folder;
	struct noted n;
	u64 ended;

	if (!have_rdonly_cast || !s || s->dentry[1])
		return 0;
	folder = folder_at(s->folder);
	if (!folder)
		return 0;
	ended = *(volatile u64 *)&folder->ended;
	barrier();
	n.folder = folder->id;
	if (!folder_alike(folder, s->folder, s->mount[0], path_namespace(), s->folder_tree, s->folder_since))
		return 0;
	barrier();
	if (*(volatile u64 *)&folder->begun != ended || !noted_name(&n, s->dentry[0], 0))
		return 0;
	n.key = key;
	n.renames = s->renames;
	return note_name(&n);
}

#else

__noinline int note_decided(u32 slot, u64 key)
{
	return 0;
}

__noinline int file_note_decided(u32 slot, u64 file, u32 what)
{
	return 0;
}

#endif

#endif
