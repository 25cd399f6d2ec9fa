/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What has been decided about reads and writes of an open file, so that the next one costs little: each inode remembers for which process, by
 * which name of it, no rule has anything to say about which accesses. Denials and alerts are never remembered.
 *
 * A note is true as long as nothing that the decision was made of can have changed:
 *  - the policies and the process: their generation, the version of the process's record, which each change of it counts up, and the ids and
 *    the cgroup that the task acts with;
 *  - the name: the dentry, the mount and the mount namespace by their addresses, and tree_version for what is renamed or mounted. An address
 *    can go to another name of the same inode when the dentry is gone; before a dentry has an inode, security_d_instantiate is called, and
 *    that forgets all of the inode's (known_forget). So addresses are compared only with those of dentries that have been there since;
 *  - all else that was looked at is of a kind that lasts (image_header.lasting).
 * Whoever finds a note half written, or somebody else writing, goes without. Stores and loads keep their order on x86-64.
 */
#ifndef BPFENCE_KNOWN_H
#define BPFENCE_KNOWN_H

#include "engine.h"

#define ACCESS_BITS (MAY_EXEC | MAY_WRITE | MAY_READ)

static __always_inline u64 known_namespace(void)
{
	struct task_struct *task;

	if (have_task_btf)
		return (u64)bpf_get_current_task_btf()->nsproxy->mnt_ns;
	task = (void *)bpf_get_current_task();
	return (u64)BPF_CORE_READ(task, nsproxy, mnt_ns);
}

static __always_inline u64 known_ids(void)
{
	u32 uid, gid;

	read_ids(&uid, &gid);
	return (u64)uid << 32 | gid;
}

/* Whether a note is of this process and name. `process`, `version`: see struct known_access. */
static __always_inline bool known_alike(const struct known_access *known, struct file *file, u64 process, u64 version, u64 tree)
{
	return known->process == process && known->version == version && known->tree == tree && known->ids == known_ids() &&
	       known->cgroup == bpf_get_current_cgroup_id() &&
	       known->dentry == (u64)file->f_path.dentry && known->mount == (u64)file->f_path.mnt && known->mnt_ns == known_namespace();
}

/* Whether the access that an event is about needs no decision. Otherwise event_begin is called for. */
static __always_inline bool access_known(struct file *file, u64 mask, u32 event)
{
	u64 generation = active_generation(), tgid = bpf_get_current_pid_tgid() >> 32, ended, tree;
	struct concern *concern = concern_of(tgid);
	struct known_access *way;
	struct known_file *known;
	bool alike;

	if (!concern || subject_unconcerned(concern, event, generation, tgid))
		return true;
	if (!remembers())
		return false;
	known = bpf_inode_storage_get(&known_files, file->f_inode, NULL, 0);
	if (!known)
		return false;
	tree = tree_version();
	way = &known->of[tgid & (KNOWN_WAYS - 1)];
	ended = *(volatile u64 *)&way->ended;
	barrier();
	alike = tree && known_alike(way, file, generation << 32 | tgid, *(volatile u64 *)&concern->version, tree) &&
		way->accesses >> (mask & ACCESS_BITS) & 1 && file->f_path.dentry->d_inode == file->f_inode;
	barrier();
	return alike && *(volatile u64 *)&way->begun == ended;
}

/* Before an event is decided that may be remembered. */
static __always_inline void known_prepare(struct scratch *s)
{
	if (remembers())
		s->tree = tree_version();
}

/* Whether what was decided about the event in the scratch may be remembered. What is uncertain about the process stays so until its record
 * changes.
 */
static __always_inline bool known_lasts(const struct scratch *s, const struct file *file)
{
	u32 of_process = s->record.flags >> RECORD_CAUSES_SHIFT << EVENT_CAUSES_SHIFT;

	return s->tree && !s->report && !(s->flags & ~of_process) && !(s->have_class & ~s->lasting) && s->record_version != RECORD_OWN &&
	       file->f_path.dentry->d_inode == file->f_inode;
}

/* After it, where it was not denied. */
static __always_inline void known_note(struct scratch *s, struct file *file, u64 mask)
{
	u64 bit = 1ULL << (mask & ACCESS_BITS), process = (u64)s->generation << 32 | s->record.pid;
	struct known_access *way;
	struct known_file *known;

	if (!have_inode_storage || !known_lasts(s, file))
		return;
	known = bpf_inode_storage_get(&known_files, file->f_inode, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!known)
		return;
	way = &known->of[s->record.pid & (KNOWN_WAYS - 1)];
	__sync_fetch_and_add(&way->writers, 1);
	if (*(volatile u64 *)&way->writers == 1) {
		if (known_alike(way, file, process, s->record_version, s->tree))
			bit |= way->accesses;
		*(volatile u64 *)&way->begun = way->begun + 1;
		barrier();
		way->process = process;
		way->version = s->record_version;
		way->ids = known_ids();
		way->cgroup = bpf_get_current_cgroup_id();
		way->dentry = (u64)file->f_path.dentry;
		way->mount = (u64)file->f_path.mnt;
		way->mnt_ns = known_namespace();
		way->tree = s->tree;
		way->accesses = bit;
		barrier();
		*(volatile u64 *)&way->ended = way->begun;
	}
	__sync_fetch_and_add(&way->writers, -1);
}

/* An inode gets another name. */
static __always_inline void known_forget(struct inode *inode)
{
	struct known_file *known;
	u32 i;

	if (!have_inode_storage || !inode)
		return;
	known = bpf_inode_storage_get(&known_files, inode, NULL, 0);
	if (!known)
		return;
	for (i = 0; i < KNOWN_WAYS; i++)
		*(volatile u64 *)&known->of[i].dentry = 0;
}

#endif
