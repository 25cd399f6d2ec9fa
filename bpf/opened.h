/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What has come to nothing for an open file, so that the next access costs next to nothing. It stands in front of noted.h, which looks for the name.
 *
 * A note says that nothing followed from an event (quiet_what) of a subject, by its number, on the file of a dentry that is seen through a mount
 * in a mount namespace. All that the decision was made of lasts (image_header.lasting), and stays as it is as long as
 *  - the number is the acting task's. Each is given once, for one generation of the policies; followed identities go with the generation, too;
 *  - nothing is renamed or mounted: tree_version is compared. So dentry, mount and namespace have the names that they had, and a mount or
 *    namespace that has gone has not left its address to another;
 *  - the dentry is the same one. Whoever looks for a note, or writes one, holds it by an open file. A dentry that has come to its address since
 *    has been given its inode since, which security_d_instantiate is told of: that ends the note (file_note_forget). The file's inode is
 *    compared, too: a file may have another one than its dentry.
 * Where the program on d_instantiate is or was not attached, nothing counts: control.remembers is compared.
 *
 * As in known.h, whose notes these are in place of where the engine is shared and names are noted: whoever finds a note half written, or
 * somebody else writing, goes without.
 */
#ifndef BPFENCE_OPENED_H
#define BPFENCE_OPENED_H

#include "engine.h"

static __always_inline struct file_note *file_note_at(u64 dentry)
{
	u32 index = (dentry >> 6 ^ dentry >> 17) & (FILE_NOTES - 1);

	return bpf_map_lookup_elem(&file_notes, &index);
}

/* A dentry gets its inode: it is not the one that a note was made for. */
static __always_inline void file_note_forget(u64 dentry)
{
	struct file_note *note = file_note_at(dentry);

	if (note && note->dentry == dentry)
		*(volatile u64 *)&note->dentry = 0;
}

/* Whether nothing follows from an event of the acting process on an open file: because no rule concerns it, or by a note. `what`: see quiet_what,
 * `event`: which that is.
 */
static __always_inline bool file_note_holds(struct file *file, u32 event, u32 what)
{
	u64 generation, tgid = bpf_get_current_pid_tgid() >> 32, number, key;
	struct control *c;
	struct concern *concern = concern_of(tgid);
	struct task_struct *task;
	struct file_note *note;
	u32 zero = 0, ended, i;
	bool alike = false;

	c = bpf_map_lookup_elem(&control, &zero);
	if (!c || !concern)
		return true;
	generation = *(volatile u32 *)&c->generation;
	if (subject_unconcerned(concern, event, generation, tgid))
		return true;
	number = NUMBER_IN(word_acting(concern, concern_tag(generation, *(volatile u64 *)&concern->version, tgid)));
	note = file_note_at(number_of(file->f_path.dentry));
	if (!number || !note)
		return false;
	key = number << 32 | what;
	task = bpf_get_current_task_btf();
	ended = *(volatile u32 *)&note->ended;
	barrier();
	if (note->dentry != (u64)file->f_path.dentry || note->inode != (u64)file->f_inode || note->mount != (u64)file->f_path.mnt)
		return false;
	if (note->mnt_ns != (u64)task->nsproxy->mnt_ns || note->since != *(volatile u32 *)&c->remembers || !(note->since & 1))
		return false;
	for (i = 0; i < FILE_NOTE_KEYS; i++)
		alike |= note->key[i] == key;
	if (!alike || note->tree != tree_version())
		return false;
	barrier();
	return *(volatile u32 *)&note->begun == ended;
}

#endif
