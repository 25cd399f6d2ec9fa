/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a dentry and a mount to the path that the object's mount namespace calls it: up to the namespace's root, not to a chroot.
 *
 * Two ways to read the same members: where the kernel has the kfunc bpf_rdonly_cast, direct loads (the JIT guards them); before
 * that, probe reads. Walks go in chunks, each a call of a global function that the verifier checks once, so any depth up to
 * PATH_MAX works on every kernel.
 */
#ifndef BPFENCE_PATH_H
#define BPFENCE_PATH_H

#include "engine.h"

#define PATH_CHUNK 16
#define PATH_CHUNKS 260 /* 4160 steps: a path of ABI_PATH_MAX bytes has at most 2048 components, plus mounts */
#define PATH_GOING 0
#define PATH_DONE 1
#define PATH_UNCERTAIN 2
#define PATH_PSEUDO 3 /* memfd, pipe, socket: no place in the tree */

static __always_inline struct dentry *path_dentry(u64 address)
{
	return bpf_rdonly_cast((void *)address, bpf_core_type_id_kernel(struct dentry));
}

static __always_inline struct vfsmount *path_vfsmount(u64 address)
{
	return bpf_rdonly_cast((void *)address, bpf_core_type_id_kernel(struct vfsmount));
}

static __always_inline struct mount *path_mount(u64 address)
{
	return bpf_rdonly_cast((void *)address, bpf_core_type_id_kernel(struct mount));
}

static __always_inline struct inode *path_inode(u64 address)
{
	return bpf_rdonly_cast((void *)address, bpf_core_type_id_kernel(struct inode));
}

struct path_step {
	u64 parent;
	u64 name;
	u32 length;
};

static __always_inline void path_read_dentry(u64 address, struct path_step *step)
{
	if (have_rdonly_cast) {
		struct dentry *dentry = path_dentry(address);

		step->parent = (u64)dentry->d_parent;
		step->name = (u64)dentry->d_name.name;
		step->length = dentry->d_name.len;
	} else {
		struct dentry *dentry = (void *)address;

		step->parent = (u64)BPF_CORE_READ(dentry, d_parent);
		step->name = (u64)BPF_CORE_READ(dentry, d_name.name);
		step->length = BPF_CORE_READ(dentry, d_name.len);
	}
}

static __always_inline u64 path_mount_root(u64 vfsmount)
{
	if (have_rdonly_cast)
		return (u64)path_vfsmount(vfsmount)->mnt_root;
	return (u64)BPF_CORE_READ((struct vfsmount *)vfsmount, mnt_root);
}

/* struct mount holds the vfsmount that the rest of the kernel is given. */
static __always_inline void path_read_mount(u64 vfsmount, u64 *parent_vfsmount, u64 *mountpoint)
{
	u64 address = vfsmount - bpf_core_field_offset(struct mount, mnt);
	u64 parent;

	if (have_rdonly_cast) {
		struct mount *mount = path_mount(address);

		parent = (u64)mount->mnt_parent;
		*mountpoint = (u64)mount->mnt_mountpoint;
	} else {
		struct mount *mount = (void *)address;

		parent = (u64)BPF_CORE_READ(mount, mnt_parent);
		*mountpoint = (u64)BPF_CORE_READ(mount, mnt_mountpoint);
	}
	*parent_vfsmount = parent + bpf_core_field_offset(struct mount, mnt);
}

/* MNT_NS_INTERNAL is an error pointer. */
static __always_inline bool path_mount_internal(u64 vfsmount)
{
	u64 address = vfsmount - bpf_core_field_offset(struct mount, mnt), ns;

	if (have_rdonly_cast)
		ns = (u64)path_mount(address)->mnt_ns;
	else
		ns = (u64)BPF_CORE_READ((struct mount *)address, mnt_ns);
	return ns >= (u64)-4095;
}

/* The followed identities that a dentry's inode belongs to. The key is put together in the scratch: stack is short here. */
static __always_inline u64 path_objects(struct scratch *s, u64 address)
{
	struct inode *inode = BPF_CORE_READ((struct dentry *)address, d_inode);
	u64 *mask;

	if (!inode)
		return 0;
	s->object.ino = BPF_CORE_READ(inode, i_ino);
	s->object.dev = BPF_CORE_READ(inode, i_sb, s_dev);
	s->object.generation = s->generation;
	mask = bpf_map_lookup_elem(&objects, &s->object);
	return mask ? *mask : 0;
}

#endif
