/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The quickest way past the engine: what has come to nothing for a name in a folder comes to nothing again. It stands in front of quiet.h, whose
 * notes are for all names of a folder that are alike, which takes a run of an automaton to find out. Here the name is compared whole.
 *
 * A note says that a decision has come to nothing that quiet.h may note, or that a note of it has held: for the subject, by its number; the event and
 * what rules may look at of it (quiet_what); an entry of map `folders`, by its id; and the name. It is true as long as that entry is, which is
 * looked at each time. Whether the file that has the name now is a followed identity is looked at each time, too. Rules may have asked for the
 * path in any way: it is the same one.
 *
 * The name that was decided on, or was alike, is the one that is noted, and the folder the one that it was in: there was no rename, of whatever,
 * between two looks at the kernel's count of them, one before both were looked at, and one after what is noted has been read.
 *
 * Not for two names, and not where the file of a layer is decided on, too. Only where the engine is shared: with an own one the programs have no
 * room for it on the stack. As in known.h, whoever finds a note half written, or somebody else writing, goes without.
 *
 * Included by engine.bpf.c alone, as quiet.h.
 */
#ifndef BPFENCE_NOTED_H
#define BPFENCE_NOTED_H

#include "quiet.h"

#ifdef ENGINE_SHARED

/* What a note is about, from the look for it on. */
struct noted {
	u64 key;     /* 0: nothing can be noted */
	u64 folder;
	u64 name[NOTED_WORDS];
	u64 renames;
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

/* The name of a dentry; false where it is too long. */
static __always_inline bool noted_name(struct noted *n, u64 dentry)
{
	u64 name = compat_inline_name(dentry), length = path_dentry(dentry)->d_name.len, bits;

	if (length > COMPAT_INLINE_NAME)
		return false;
	bits = 64 - 8 * (length & 7); /* that are not of the name in the last word, 64: all */
	n->name[0] = n->name[1] = n->name[2] = n->name[3] = 0;
	n->name[0] = word_at(name);
	if (length < 8) {
		n->name[0] = length ? n->name[0] << bits >> bits : 0;
		return true;
	}
	n->name[1] = word_at(name + 8);
	if (length < 16) {
		n->name[1] = length & 7 ? n->name[1] << bits >> bits : 0;
		return true;
	}
	n->name[2] = word_at(name + 16);
	if (length < 24) {
		n->name[2] = length & 7 ? n->name[2] << bits >> bits : 0;
		return true;
	}
	n->name[3] = word_at(name + 24);
	n->name[3] = length & 7 ? n->name[3] << bits >> bits : 0;
	return true;
}

/* Whether nothing follows from an event of the acting process on a dentry in a folder that is seen through a mount: because no rule concerns it, or by what has
 * been noted. Where not, *n is for note_name.
 */
static __always_inline bool noted(struct noted *n, u64 dentry, u64 parent, u64 mount, u32 what)
{
	u64 tgid = bpf_get_current_pid_tgid() >> 32, generation, tree, since, ended;
	struct concern *concern = concern_of(tgid);
	const struct known_subject *subject;
	const struct task_struct *task;
	struct object_filter *filter;
	u32 zero = 0, number, index;
	struct name_note *note;
	struct folder *folder;
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
	subject = subject_in(concern, concern_tag(generation, *(volatile u64 *)&concern->version, tgid), &number);
	if (!subject || !(since & 1))
		return false;
	barrier();
	task = quiet_task();
	folder = folder_at(parent);
	if (!subject_holds(subject, task) || !folder)
		return false;
	tree = folder_version_at(&n->renames);
	ended = *(volatile u64 *)&folder->ended;
	barrier();
	n->folder = folder->id;
	if (!folder_alike(folder, parent, mount, (u64)task->nsproxy->mnt_ns, tree, since) || parent_of(dentry) != parent)
		return false; /* the second: it has left the folder before renames were counted */
	barrier();
	if (*(volatile u64 *)&folder->begun != ended || dentry == parent || dentry == (u64)path_vfsmount(mount)->mnt_root || !noted_name(n, dentry))
		return false;
	n->key = quiet_key(number, what);
	if (subject->objects) {
		index = generation & 1;
		filter = bpf_map_lookup_elem(&object_filters, &index);
		if (!filter || path_filtered(filter, dentry))
			return false;
	}
	note = name_note_at(n);
	if (!note)
		return false;
	ended = *(volatile u32 *)&note->ended;
	barrier();
	alike = name_note_alike(note, n);
	barrier();
	return alike && *(volatile u32 *)&note->begun == ended && *(volatile u32 *)&subject->number == number &&
	       rename_count() == n->renames; /* parent and name were read in one piece */
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
	if (!file_layered(path, inode, what & 0xff) && word_at(dentry + bpf_core_field_offset(struct dentry, d_inode)) == inode &&
	    noted(&n, dentry, parent, mount_of_path(path), what))
		return 1;
	if (!engine(ENGINE_FILE_QUIET, what, file, 0, 0))
		return 0;
	note_name(&n);
	return 1;
}

__noinline int path_noted(u64 path, u32 what)
{
	struct noted n;
	u64 dentry;

	if (!have_rdonly_cast)
		return 0;
	dentry = dentry_of_path(path);
	if (noted(&n, dentry, parent_of(dentry), mount_of_path(path), what))
		return 1;
	if (!engine(ENGINE_PATH_QUIET, what, path, 0, 0))
		return 0;
	note_name(&n);
	return 1;
}

__noinline int name_noted(u64 dir, u64 dentry, u32 what)
{
	struct noted n;

	if (!have_rdonly_cast)
		return 0;
	if (noted(&n, dentry, parent_of(dentry), mount_of_path(dir), what))
		return 1;
	if (!engine(ENGINE_NAME_QUIET, what, dir, dentry, 0))
		return 0;
	note_name(&n);
	return 1;
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
	if (*(volatile u64 *)&folder->begun != ended || !noted_name(&n, s->dentry[0]))
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

#endif

#endif
