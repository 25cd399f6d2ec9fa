/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* All kernel drift. Every entry: what changed, kernel commit or release, how it is told apart (by looking for the member or
 * by a constant that the loader probes, never by a version).
 */
#ifndef BPFENCE_COMPAT_H
#define BPFENCE_COMPAT_H

#include "kernel.h"

/* Constants set by the loader from its probes, before load. The verifier removes what they switch off. */
extern const volatile u32 have_rdonly_cast; /* kfunc bpf_rdonly_cast, v6.2 (a35b9af4ec2c) */
extern const volatile u32 have_task_btf;    /* helper bpf_get_current_task_btf, v5.11 (3ca1032ab7ab) */

extern const volatile u32 have_task_pt_regs; /* helper bpf_task_pt_regs, v5.15 (dd6e10fbd9fb) */

extern const volatile u32 have_iter_num; /* kfuncs bpf_iter_num_*, v6.4 (6018e1f407cc) */

extern void *bpf_rdonly_cast(const void *obj, u32 btf_id) __ksym __weak;

struct bpf_iter_num {
	u64 opaque;
};

extern int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) __ksym __weak;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) __ksym __weak;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) __ksym __weak;

/* Loops that are long come in chunks, each a call of a global function: the verifier checks that once by itself. With the kernel's iterator one
 * chunk is all.
 */
static __always_inline u32 chunks_of(u32 chunks)
{
	return have_iter_num ? 1 : chunks;
}

static __always_inline u32 rounds_of(u32 rounds, u32 chunks)
{
	return have_iter_num ? rounds * chunks : rounds;
}

/* A loop that is left after `times` rounds at the latest, for all but the hottest code:
 *
 *	repeat_begin(&repeat, times);
 *	while (repeat_next(&repeat)) {
 *		... break where it is done, never return ...
 *	}
 *	repeat_end(&repeat);
 *
 * With the kernel's iterator the verifier walks the body until nothing new is learnt, two or three times; without it, once a round. What goes
 * from round to round must not let it learn for ever: numbers that places in memory are computed from are kept in memory.
 */
struct repeat {
	struct bpf_iter_num it; /* without the kernel's iterator: how many rounds are left */
};

static __always_inline void repeat_begin(struct repeat *r, u32 times)
{
	r->it.opaque = times;
	if (have_iter_num)
		bpf_iter_num_new(&r->it, 0, times);
}

static __always_inline bool repeat_next(struct repeat *r)
{
	if (have_iter_num)
		return bpf_iter_num_next(&r->it);
	return r->it.opaque--;
}

/* The same, with the number of the round, from 0 on, which the verifier knows nothing of where the iterator is the kernel's: as a place in memory it
 * goes masked. `times`: as of repeat_begin.
 */
static __always_inline bool repeat_next_at(struct repeat *r, u32 times, u64 *at)
{
	int *number;

	if (have_iter_num) {
		number = bpf_iter_num_next(&r->it);
		if (!number)
			return false;
		*at = *(u32 *)number;
		return true;
	}
	*at = times - r->it.opaque;
	return r->it.opaque--;
}

static __always_inline void repeat_end(struct repeat *r)
{
	if (have_iter_num)
		bpf_iter_num_destroy(&r->it);
}

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* v6.15 (633488947ef6): kernfs_node.parent became __parent, read under RCU. */
struct kernfs_node___parent {
	struct kernfs_node *parent;
};

struct kernfs_node___rcu {
	struct kernfs_node *__parent;
};

/* v6.18: the mounts of a super block are a chain of struct mount, before that a list_head of mount.mnt_instance. */
struct super_block___list {
	struct list_head s_mounts;
};

struct mount___list {
	struct list_head mnt_instance;
};

struct super_block___chain {
	struct mount *s_mounts;
};

struct mount___chain {
	struct mount *mnt_next_for_sb;
};

/* v6.1 (7f203bc89eb6): the cgroups above one, by level, its own included; before that their ids. */
struct cgroup___ids {
	int level;
	u64 ancestor_ids[1];
};

struct cgroup___pointers {
	int level;
	struct cgroup *ancestors[1];
};

#pragma clang attribute pop

/* The id of the cgroup of a level, not above its own, that a cgroup is below or itself. */
static __always_inline u64 compat_cgroup_at(const struct cgroup *cgroup, u32 level)
{
	const struct cgroup___pointers *since = (const void *)cgroup;
	struct cgroup *above = NULL;
	u64 id = 0;

	if (!bpf_core_field_exists(since->ancestors)) {
		bpf_probe_read_kernel(&id, sizeof(id), (void *)cgroup + bpf_core_field_offset(struct cgroup___ids, ancestor_ids) + level * sizeof(id));
		return id;
	}
	bpf_probe_read_kernel(&above, sizeof(above),
			      (void *)cgroup + bpf_core_field_offset(struct cgroup___pointers, ancestors) + level * sizeof(above));
	return BPF_CORE_READ(above, kn, id);
}

static __always_inline struct kernfs_node *compat_kernfs_parent(const struct kernfs_node *kn)
{
	const struct kernfs_node___parent *before = (const void *)kn;
	const struct kernfs_node___rcu *since = (const void *)kn;

	if (bpf_core_field_exists(since->__parent))
		return BPF_CORE_READ(since, __parent);
	return BPF_CORE_READ(before, parent);
}

/* v6.15 (58cf9c383c5c): the name inside the dentry is d_shortname, before that d_iname; at least 32 bytes both, and a name that fits
 * there, its NUL included, is nowhere else (fs/dcache.c, __d_alloc, copy_name, swap_names).
 */
#define COMPAT_INLINE_NAME 31

struct dentry___iname {
	unsigned char d_iname[32];
} __attribute__((preserve_access_index));

union shortname_store {
	unsigned char string[32];
} __attribute__((preserve_access_index));

struct dentry___shortname {
	union shortname_store d_shortname;
} __attribute__((preserve_access_index));

/* A dentry of an inode; 0 where it has none, or the kernel keeps them otherwise. */
struct inode___aliases {
	struct hlist_head i_dentry;
} __attribute__((preserve_access_index));

union dentry_lists {
	struct hlist_node d_alias;
} __attribute__((preserve_access_index));

struct dentry___aliases {
	union dentry_lists d_u;
} __attribute__((preserve_access_index));

/* v7.1 at the latest: the union has no name. */
struct dentry___alias {
	struct hlist_node d_alias;
} __attribute__((preserve_access_index));

/* Where in an inode its first dentry stands, by what compat_alias is the place of in it; 0: not known. */
static __always_inline u64 compat_aliases(void)
{
	if (!bpf_core_field_exists(struct inode___aliases, i_dentry))
		return 0;
	if (!bpf_core_field_exists(struct dentry___aliases, d_u) && !bpf_core_field_exists(struct dentry___alias, d_alias))
		return 0;
	return bpf_core_field_offset(struct inode___aliases, i_dentry);
}

static __always_inline u64 compat_alias(void)
{
	if (bpf_core_field_exists(struct dentry___aliases, d_u))
		return bpf_core_field_offset(struct dentry___aliases, d_u);
	return bpf_core_field_exists(struct dentry___alias, d_alias) ? bpf_core_field_offset(struct dentry___alias, d_alias) : 0;
}

static __always_inline u64 compat_first_alias(u64 inode)
{
	u64 node;

	if (!compat_aliases())
		return 0;
	node = (u64)BPF_CORE_READ((struct inode___aliases *)inode, i_dentry.first);
	return node ? node - compat_alias() : 0;
}

static __always_inline u64 compat_file_inode(struct file *file)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	struct address_space *mapping = BPF_CORE_READ(file, f_mapping);

	return inode && mapping && BPF_CORE_READ(inode, i_mapping) == mapping ? (u64)inode : 0;
}

/* Whether a file is one of an overlay. */
static __always_inline bool compat_overlay(struct file *file)
{
	return BPF_CORE_READ(file, f_inode, i_sb, s_magic) == OVERLAYFS_SUPER_MAGIC;
}

/* The inode in a layer that a file of an overlay has its contents in; 0: the file is not one of an overlay. Up to v6.12 private_data is the
 * layer's file, then a structure whose first member that is (fs/overlayfs/file.c, struct ovl_file). Of a module's types the kernel's BTF knows
 * nothing: that it is a file is seen by its having the mapping of its inode.
 */
static __always_inline u64 compat_layer(struct file *file)
{
	struct file *layer;
	u64 inode;

	if (!compat_overlay(file))
		return 0;
	layer = BPF_CORE_READ(file, private_data);
	inode = compat_file_inode(layer);
	if (inode)
		return inode;
	bpf_probe_read_kernel(&layer, sizeof(layer), layer);
	return compat_file_inode(layer);
}

/* v6.7 (def3ae83da02): what is read and mapped in a layer is a struct backing_file, and the path that was opened stands behind the file; before,
 * that is the file's own path. There only where the file is on a mount of the kernel's own, and the path makes sense.
 */
struct backing_file {
	struct path user_path;
} __attribute__((preserve_access_index));

static __always_inline struct path *compat_user_path(u64 file)
{
	u64 mount = (u64)BPF_CORE_READ((struct file *)file, f_path.mnt) - bpf_core_field_offset(struct mount, mnt);
	struct super_block *sb;
	struct path *path;

	if (!bpf_core_field_exists(struct backing_file, user_path) || (u64)BPF_CORE_READ((struct mount *)mount, mnt_ns) < (u64)-4095)
		return NULL;
	path = (void *)(file + bpf_core_field_offset(struct backing_file, user_path));
	sb = BPF_CORE_READ(path, dentry, d_sb);
	return sb && sb == BPF_CORE_READ(path, mnt, mnt_sb) && sb == BPF_CORE_READ(sb, s_root, d_sb) ? path : NULL;
}

static __always_inline u64 compat_inline_name(u64 dentry)
{
	if (bpf_core_field_exists(struct dentry___shortname, d_shortname))
		return dentry + bpf_core_field_offset(struct dentry___shortname, d_shortname);
	return dentry + bpf_core_field_offset(struct dentry___iname, d_iname);
}

/* The name that is being opened, as the kernel has copied it, and the descriptor of the directory that it is relative to. 6.19 has the
 * text at hand in `pathname`.
 */
struct nameidata___name {
	struct filename *name;
	int dfd;
} __attribute__((preserve_access_index));

static __always_inline u64 compat_opened_name(struct task_struct *task, int *dirfd)
{
	struct nameidata___name *nd = (void *)BPF_CORE_READ(task, nameidata);

	if (!nd)
		return 0;
	*dirfd = BPF_CORE_READ(nd, dfd);
	return (u64)BPF_CORE_READ(nd, name, name);
}

/* Times of an inode: v6.6 (13bc24457850) renamed i_ctime, v6.11 (3aa63a569c64) split the times in seconds and ns. */
struct inode___timespec {
	struct timespec64 i_mtime;
	struct timespec64 i_ctime;
} __attribute__((preserve_access_index));

struct inode___renamed {
	struct timespec64 __i_mtime;
	struct timespec64 __i_ctime;
} __attribute__((preserve_access_index));

struct inode___split {
	s64 i_mtime_sec;
	s64 i_ctime_sec;
	u32 i_mtime_nsec;
	u32 i_ctime_nsec;
} __attribute__((preserve_access_index));

#define NSEC_PER_SEC 1000000000ULL

static __always_inline u64 compat_mtime(struct inode *inode)
{
	if (bpf_core_field_exists(struct inode___split, i_mtime_sec))
		return BPF_CORE_READ((struct inode___split *)inode, i_mtime_sec) * NSEC_PER_SEC +
		       BPF_CORE_READ((struct inode___split *)inode, i_mtime_nsec);
	if (bpf_core_field_exists(struct inode___renamed, __i_mtime))
		return BPF_CORE_READ((struct inode___renamed *)inode, __i_mtime.tv_sec) * NSEC_PER_SEC +
		       BPF_CORE_READ((struct inode___renamed *)inode, __i_mtime.tv_nsec);
	return BPF_CORE_READ((struct inode___timespec *)inode, i_mtime.tv_sec) * NSEC_PER_SEC +
	       BPF_CORE_READ((struct inode___timespec *)inode, i_mtime.tv_nsec);
}

static __always_inline u64 compat_ctime(struct inode *inode)
{
	if (bpf_core_field_exists(struct inode___split, i_ctime_sec))
		return BPF_CORE_READ((struct inode___split *)inode, i_ctime_sec) * NSEC_PER_SEC +
		       BPF_CORE_READ((struct inode___split *)inode, i_ctime_nsec);
	if (bpf_core_field_exists(struct inode___renamed, __i_ctime))
		return BPF_CORE_READ((struct inode___renamed *)inode, __i_ctime.tv_sec) * NSEC_PER_SEC +
		       BPF_CORE_READ((struct inode___renamed *)inode, __i_ctime.tv_nsec);
	return BPF_CORE_READ((struct inode___timespec *)inode, i_ctime.tv_sec) * NSEC_PER_SEC +
	       BPF_CORE_READ((struct inode___timespec *)inode, i_ctime.tv_nsec);
}

/* The file that a struct fown_struct belongs to: v6.12 (1934b212615d) took it out of struct file. */
struct fown_struct___apart {
	struct file *file;
} __attribute__((preserve_access_index));

struct fown_struct;

struct file___fown {
	struct fown_struct___within {
		int signum;
	} f_owner;
} __attribute__((preserve_access_index));

static __always_inline u64 compat_fown_file(const struct fown_struct *fown)
{
	const struct fown_struct___apart *apart = (const void *)fown;

	if (bpf_core_field_exists(apart->file))
		return (u64)BPF_CORE_READ(apart, file);
	return (u64)fown - bpf_core_field_offset(struct file___fown, f_owner);
}

/* The type (CLONE_NEW*) of a namespace: v6.18 keeps it in the namespace itself, before that in its operations. */
struct ns_common___typed {
	u32 ns_type;
} __attribute__((preserve_access_index));

struct proc_ns_operations {
	int type;
} __attribute__((preserve_access_index));

struct ns_common___ops {
	const struct proc_ns_operations *ops;
} __attribute__((preserve_access_index));

static __always_inline u32 compat_ns_type(const void *ns)
{
	const struct ns_common___typed *since = ns;
	const struct ns_common___ops *before = ns;

	if (bpf_core_field_exists(since->ns_type))
		return BPF_CORE_READ(since, ns_type);
	return BPF_CORE_READ(before, ops, type);
}

/* First mount of a super block, and the next one; 0 at the end. */
static __always_inline u64 compat_first_mount(const struct super_block *sb)
{
	const struct super_block___chain *chain = (const void *)sb;
	const struct super_block___list *list = (const void *)sb;

	if (bpf_core_field_exists(struct mount___chain, mnt_next_for_sb))
		return (u64)BPF_CORE_READ(chain, s_mounts);
	return (u64)BPF_CORE_READ(list, s_mounts.next) - bpf_core_field_offset(struct mount___list, mnt_instance);
}

/* A function of its own: inlined, clang moves the relocations of this branch in front of the caller's loop, where the verifier
 * meets them on kernels that lack the members (7.3, clang 14: "<invalid CO-RE relocation>").
 */
static __noinline u64 compat_next_in_list(u64 sb, u64 mount)
{
	const struct mount___list *list = (const void *)mount;
	u64 next = (u64)BPF_CORE_READ(list, mnt_instance.next);

	if (next == sb + bpf_core_field_offset(struct super_block___list, s_mounts))
		return 0;
	return next - bpf_core_field_offset(struct mount___list, mnt_instance);
}

static __always_inline u64 compat_next_mount(u64 sb, u64 mount)
{
	const struct mount___chain *chain = (const void *)mount;

	if (bpf_core_field_exists(struct mount___chain, mnt_next_for_sb))
		return (u64)BPF_CORE_READ(chain, mnt_next_for_sb);
	return compat_next_in_list(sb, mount);
}

#endif
