/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the way up from a folder has told, kept so that the next file in it is matched by its own name alone: the state of each automaton behind
 * the folder's path, and the followed identities on the way. Entries lie where the address of the folder's dentry puts them.
 *
 * An entry is true as long as the address means the same folder and the folder has the same path:
 *  - names and mounts: folder_version, the mount that was gone through and the mount namespace are compared;
 *  - the policies: the generation is, and since when nothing that ends an entry can have been missed (control.remembers);
 *  - the address: whoever looks at an entry holds the folder, by a file in it. A dentry that has come to its address since the entry was made
 *    has been given its inode since, which security_d_instantiate is told of: that ends the entry (folder_forget). Nobody writes one for a
 *    dentry that he does not hold, so none comes later.
 * As in known.h: whoever finds an entry half written, or somebody else writing, goes without, and where that program is not attached nothing is
 * kept.
 */
#ifndef BPFENCE_FOLDER_H
#define BPFENCE_FOLDER_H

#include "maps.h"

static __always_inline u32 folder_index(u64 dentry)
{
	return (dentry >> 6 ^ dentry >> 16) & (FOLDERS - 1);
}

static __always_inline struct folder *folder_at(u64 dentry)
{
	u32 index = folder_index(dentry);

	return bpf_map_lookup_elem(&folders, &index);
}

/* Whether an entry is about a folder, as it is seen through a mount. */
static __always_inline bool folder_alike(const struct folder *folder, u64 dentry, u64 mount, u64 mnt_ns, u64 tree, u64 since)
{
	return tree && folder->dentry == dentry && folder->mount == mount && folder->tree == tree && folder->since == since && folder->mnt_ns == mnt_ns;
}

/* The first of the QUIET_WAYS places that a note can be kept in: see quiet.h. */
static __always_inline u64 quiet_first(u64 key)
{
	return (key * 0x9e3779b97f4a7c15ULL >> 32) & (FOLDER_QUIET - 1) & ~(QUIET_WAYS - 1ULL);
}

/* The place of a note, which need not have it. */
static __always_inline u64 quiet_place(const struct folder *folder, u64 key)
{
	u64 at = quiet_first(key), place = at + (folder->begun & (QUIET_WAYS - 1)), i;

	for (i = 0; i < QUIET_WAYS; i++) {
		if (folder->quiet[MASKED(at + i, FOLDER_QUIET - 1)].key == key)
			place = at + i;
	}
	return MASKED(place, FOLDER_QUIET - 1);
}

/* A dentry gets its inode: it is not the folder that an entry was made for. */
static __always_inline void folder_forget(u64 dentry)
{
	struct folder *folder = folder_at(dentry);

	if (folder && folder->dentry == dentry)
		*(volatile u64 *)&folder->dentry = 0;
}

#endif
