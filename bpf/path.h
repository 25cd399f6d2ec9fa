/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a dentry and a mount to the path that the acting task's mount namespace calls the object: up to the namespace's root, not to a chroot.
 * A mount that is in no namespace (detached, or not attached yet) or in another one says nothing of that: the object is named by a mount of
 * the task's own namespace that holds it, and is uncertain where there is none.
 *
 * Two ways to read the same members: where the kernel has the kfunc bpf_rdonly_cast, direct loads (the JIT guards them); before
 * that, probe reads. Walks go in chunks, each a call of a global function that the verifier checks once, so any depth up to
 * PATH_MAX works on every kernel.
 */
/* Included by engine.bpf.c alone: of the objects that bpftool links only one may call a kfunc ("failed to resolve size of underlying
 * type", libbpf 1.1).
 */
#ifndef BPFENCE_PATH_H
#define BPFENCE_PATH_H

#include "engine.h"
#include "folder.h"

#define PATH_CHUNK 32
#define PATH_CHUNKS 130 /* 4160 steps: a path of ABI_PATH_MAX bytes has at most 2048 components, plus mounts */
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

/* Where the kernel counts what changes names: odd while a change is being made. Set by the loader; 0 where it could not be found out. */
extern const volatile u64 rename_lock_address;
extern const volatile u64 mount_lock_address;

static __always_inline u64 read_sequence(u64 seqlock)
{
	u32 sequence;

	if (have_rdonly_cast)
		return ((struct seqcount *)bpf_rdonly_cast((void *)seqlock, bpf_core_type_id_kernel(struct seqcount)))->sequence;
	return bpf_probe_read_kernel(&sequence, sizeof(sequence), (void *)seqlock) ? 1 : sequence;
}

/* The kernel's count of renames; odd while there is one, or where it cannot be had. */
static __always_inline u64 rename_count(void)
{
	return rename_lock_address ? read_sequence(rename_lock_address) : 1;
}

/* folder_version, and rename_count at that time. No move of a file was being made from the first look to the last, so all that have been counted are
 * two steps of the kernel's count.
 */
static __always_inline u64 folder_version_at(u64 *count)
{
	u32 zero = 0, renames, mounts;
	struct moves *m = bpf_map_lookup_elem(&moves, &zero);
	u64 ended;

	*count = 1;
	if (!m || !rename_lock_address || !mount_lock_address)
		return 0;
	ended = *(volatile u64 *)&m->ended;
	barrier();
	renames = read_sequence(rename_lock_address);
	mounts = read_sequence(mount_lock_address);
	barrier();
	*count = renames;
	if ((renames | mounts) & 1 || *(volatile u64 *)&m->begun != ended)
		return 0;
	renames -= 2 * ended;
	return (u64)renames << 32 | mounts;
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

static __always_inline u64 path_mount_namespace(u64 vfsmount)
{
	u64 address = vfsmount - bpf_core_field_offset(struct mount, mnt);

	if (have_rdonly_cast)
		return (u64)path_mount(address)->mnt_ns;
	return (u64)BPF_CORE_READ((struct mount *)address, mnt_ns);
}

/* MNT_NS_INTERNAL is an error pointer. */
static __always_inline bool path_mount_internal(u64 vfsmount)
{
	return path_mount_namespace(vfsmount) >= (u64)-4095;
}

/* The mount namespace of the acting task; 0 of one that is ending and has left it. */
static __always_inline u64 path_namespace(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	if (have_rdonly_cast)
		return (u64)((struct task_struct *)bpf_rdonly_cast(task, bpf_core_type_id_kernel(struct task_struct)))->nsproxy->mnt_ns;
	return (u64)BPF_CORE_READ(task, nsproxy, mnt_ns);
}

/* The followed identities that a dentry's inode belongs to. The key is put together in the scratch: stack is short here. */
static __always_inline u64 path_objects(struct scratch *s, u64 address)
{
	struct inode *inode = BPF_CORE_READ((struct dentry *)address, d_inode);
	u32 side = s->generation & 1;
	u64 *mask;
	void *of;

	if (!inode)
		return 0;
	of = bpf_map_lookup_elem(&objects, &side);
	if (!of)
		return 0;
	s->object.ino = BPF_CORE_READ(inode, i_ino);
	s->object.dev = BPF_CORE_READ(inode, i_sb, s_dev);
	s->object.generation = s->generation;
	mask = bpf_map_lookup_elem(of, &s->object);
	return mask ? *mask : 0;
}

/* Two words of any kernel memory, read by loads that the JIT guards: zeros where there is none. */
static __always_inline struct timespec64 *path_words(u64 address)
{
	return bpf_rdonly_cast((void *)address, bpf_core_type_id_kernel(struct timespec64));
}

/* The bit of an inode in an object_filter. With its device: the roots of all tmpfs mounts have one number. */
static __always_inline u64 object_bit(u64 ino, u64 dev)
{
	return (ino ^ dev << 32) * 0x9e3779b97f4a7c15ULL >> 48;
}

/* The followed identities of s->walk_dentry added to those of the walk. */
__noinline int path_object_add(u32 slot)
{
	struct scratch *s = scratch_at(slot);

	if (s)
		s->walk_objects |= path_objects(s, s->walk_dentry);
	return 0;
}

static __always_inline bool path_filtered(const struct object_filter *filter, u64 dentry)
{
	struct inode *inode = path_inode((u64)path_dentry(dentry)->d_inode);
	u64 bit = object_bit(inode->i_ino, inode->i_sb->s_dev);

	return filter->word[MASKED(bit / 64, OBJECT_FILTER_WORDS - 1)] >> (bit & 63) & 1;
}

static __always_inline struct object_filter *object_filter(const struct scratch *s)
{
	u32 key = s->generation & 1;

	return s->features & IMAGE_NEEDS_OBJECTS ? bpf_map_lookup_elem(&object_filters, &key) : NULL;
}

#define LEVELS_ABOVE 32

/* Followed identities above s->walk_dentry, the root of a mount that is one of a folder: see path_objects_chunk. 0: there are too many levels. */
__noinline int path_objects_above(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	struct object_filter *filter;
	struct repeat r;
	u64 dentry, parent;
	int whole = 0;

	if (!have_rdonly_cast || !s)
		return 0;
	filter = object_filter(s);
	if (!filter)
		return 0;
	dentry = s->walk_dentry;
	repeat_begin(&r, LEVELS_ABOVE);
	while (repeat_next(&r)) {
		parent = (u64)path_dentry(dentry)->d_parent;
		if (parent == dentry)
			whole = 1;
		if (parent == dentry || !parent)
			break;
		dentry = parent;
		if (path_filtered(filter, dentry)) {
			s->walk_dentry = dentry;
			path_object_add(slot);
		}
	}
	repeat_end(&r);
	return whole;
}

/* A file outside the tree, such as a pipe or a socket: it has at most a name that the kernel made. Not one in memory, which has a number. */
static __always_inline int path_steps_pseudo(struct scratch *s, u64 dentry, u64 mount, u32 which)
{
	u64 length = path_dentry(dentry)->d_name.len;

	if (s->n_steps || !path_mount_internal(mount) || (length && (u8)path_words((u64)path_dentry(dentry)->d_name.name)->tv_sec == 'm'))
		return 0;
	s->steps[0] = dentry;
	s->n_steps = length ? 1 : 0;
	s->steps_of = STEPS_OF(which) + STEPS_PSEUDO;
	return 1;
}

static __always_inline void set_objects(struct scratch *s, u32 which)
{
	if (which)
		set_num(s, NUM_NEW_OBJECT, s->walk_objects);
	else
		set_num(s, NUM_FILE_OBJECT, s->walk_objects);
}

/* The way up of path_steps, but for the followed identities, which are left in s->walk_objects. The usual case is a file in the tree, with few
 * components. Only where the kernel has bpf_rdonly_cast. The number of steps is kept in memory, where the verifier knows nothing of it: in a
 * register it follows every number with every step ("BPF program is too large. Processed 1000001 insn", 6.12). Walked by the kernel's iterator,
 * since most files are found by what is kept of their folder: unrolled it is two fifths of what the verifier walks of the engine.
 */
static __always_inline int path_steps_up(struct scratch *s, u32 slot, u32 which, const struct object_filter *filter)
{
	u64 dentry = s->dentry[which], mount = s->mount[which], root, above, parent, offset = bpf_core_field_offset(struct mount, mnt);
	struct mnt_namespace *own;
	volatile u64 *number = &s->n_steps;
	struct mount *m;
	struct repeat r;
	bool first = true;
	int found = 0;
	u64 n;

	/* Before the loop: for each load of such a pointer that it walks, the verifier looks through the names of all types. */
	own = (struct mnt_namespace *)path_namespace();
	root = (u64)path_vfsmount(mount)->mnt_root;
	repeat_begin(&r, PATH_STEPS + PATH_STEPS_MOUNTS);
	while (repeat_next(&r)) {
		if (filter && path_filtered(filter, dentry)) {
			s->walk_dentry = dentry;
			path_object_add(slot);
		}
		parent = (u64)path_dentry(dentry)->d_parent;
		if (dentry == root) {
			if (filter && parent != dentry) {
				s->walk_dentry = dentry;
				if (!path_objects_above(slot))
					break;
			}
			m = path_mount(mount - offset);
			above = (u64)m->mnt_parent + offset;
			if (above == mount) {
				s->steps_of = STEPS_OF(which);
				found = m->mnt_ns == own;
				break;
			}
			dentry = (u64)m->mnt_mountpoint;
			mount = above;
			root = (u64)path_vfsmount(mount)->mnt_root;
		} else {
			if (parent == dentry) {
				found = path_steps_pseudo(s, dentry, mount, which);
				break;
			}
			n = *number;
			if (!parent || n >= PATH_STEPS)
				break;
			s->steps[MASKED(n, PATH_STEPS - 1)] = dentry;
			*number = n + 1;
			dentry = parent;
		}
		if (first) { /* until path_steps puts them right, the file's own stand in the place of those above it */
			first = false;
			s->folder_objects = s->walk_objects;
			s->walk_objects = 0;
			if (dentry != s->folder) /* the file has been moved since path_folder looked: this is the way up from another one */
				s->folder = 0;
		}
	}
	repeat_end(&r);
	return found;
}

/* Whether there may be a way of steps up from the path. */
static __always_inline bool path_steps_begin(struct scratch *s, u32 which)
{
	s->steps_of = STEPS_NONE;
	s->n_steps = 0;
	s->walk_objects = 0;
	return s->dentry[which] && s->mount[which] > MOUNT_OF_LAYER && !s->mnt_ns &&
	       !(s->str_tried & STR_BIT(which ? STR_FILE_NEW_PATH : STR_FILE_PATH));
}

/* Whether the followed identities are not those of the dentry: see path_objects_start. */
static __always_inline bool path_is_alias(struct scratch *s, u32 which)
{
	return !which && s->inode && s->inode != (u64)path_dentry(s->dentry[0])->d_inode;
}

__noinline int path_steps(u32 slot, u32 which)
{
	struct scratch *s = scratch_at(slot);
	struct object_filter *filter;

	which &= 1;
	if (!have_rdonly_cast || !s || !path_steps_begin(s, which))
		return 0;
	s->folder_objects = 0;
	filter = object_filter(s);
	if (filter && path_is_alias(s, which))
		return 0;
	if (!path_steps_up(s, slot, which, filter)) {
		s->steps_of = STEPS_NONE;
		s->folder = 0;
		return 0;
	}
	if (filter) {
		u64 above = s->walk_objects;

		s->walk_objects |= s->folder_objects;
		s->folder_objects = above;
		set_objects(s, which);
	}
	return 1;
}

/* What is kept of s->folder into the scratch; false: nothing that is true. */
static __always_inline bool folder_find(struct scratch *s, u32 which)
{
	struct folder *folder = folder_at(s->folder);
	u64 ended, i;

	if (!folder)
		return false;
	ended = *(volatile u64 *)&folder->ended;
	barrier();
	if (!folder_alike(folder, s->folder, s->mount[which], path_namespace(), s->folder_tree, s->folder_since))
		return false;
	s->folder_objects = folder->objects;
	for (i = 0; i < FOLDER_STATES; i++)
		s->folder_states[i] = folder->state[i];
	barrier();
	return *(volatile u64 *)&folder->begun == ended;
}

__noinline int folder_note(u32 slot, u32 which, u64 state)
{
	struct scratch *s = scratch_at(slot);
	struct folder *folder;
	u64 mnt_ns, i;

	if (!have_rdonly_cast || !s || !s->folder || !s->folder_tree)
		return 0;
	folder = folder_at(s->folder);
	if (!folder)
		return 0;
	which &= 1;
	mnt_ns = path_namespace();
	__sync_fetch_and_add(&folder->writers, 1);
	if (*(volatile u64 *)&folder->writers == 1) {
		bool alike = folder_alike(folder, s->folder, s->mount[which], mnt_ns, s->folder_tree, s->folder_since);

		*(volatile u64 *)&folder->begun = folder->begun + 1;
		barrier();
		if (!alike) {
			for (i = 0; i < FOLDER_STATES; i++)
				folder->state[i] = 0;
			for (i = 0; i < FOLDER_QUIET; i++)
				folder->quiet[i].key = 0;
			folder->id = folder->id ? folder->id + FOLDERS : FOLDERS + folder_index(s->folder);
			folder->dentry = s->folder;
			folder->mount = s->mount[which];
			folder->mnt_ns = mnt_ns;
			folder->tree = s->folder_tree;
			folder->since = s->folder_since;
			folder->objects = s->folder_objects;
		}
		i = (state >> 32) - 1;
		if (state)
			folder->state[MASKED(i, FOLDER_STATES - 1)] = state;
		if (s->quiet) {
			u64 at = quiet_place(folder, s->quiet);

			folder->quiet[at].key = s->quiet;
			folder->quiet[at].path[0] = s->path_asked[0];
			folder->quiet[at].path[1] = s->path_asked[1];
		}
		barrier();
		*(volatile u64 *)&folder->ended = folder->begun;
	}
	__sync_fetch_and_add(&folder->writers, -1);
	return 0;
}

__noinline int path_folder(u32 slot, u32 which)
{
	struct scratch *s = scratch_at(slot);
	struct object_filter *filter;
	u64 dentry, parent, since;

	which &= 1;
	if (!have_rdonly_cast || !s)
		return 0;
	s->folder = 0;
	since = remembers();
	if (!since || !path_steps_begin(s, which))
		return 0;
	dentry = s->dentry[which];
	parent = (u64)path_dentry(dentry)->d_parent;
	if (parent == dentry || dentry == (u64)path_vfsmount(s->mount[which])->mnt_root)
		return 0;
	s->folder = parent;
	s->folder_tree = folder_version_at(&s->renames);
	s->folder_since = (u64)s->generation << 32 | since;
	if (!folder_find(s, which))
		return 0;
	filter = object_filter(s);
	s->walk_objects = s->folder_objects;
	if (filter) {
		if (path_is_alias(s, which))
			return 0;
		if (path_filtered(filter, dentry)) {
			s->walk_dentry = dentry;
			path_object_add(slot);
		}
		set_objects(s, which);
	}
	s->steps[0] = dentry;
	s->n_steps = 1;
	s->steps_of = STEPS_OF(which) + STEPS_LAST;
	return 1;
}

#define PATH_NAME_WORDS 32 /* bytes of a name that are copied by loads; longer ones take the helper */

/* A name, copied word by word from its end: what this writes in front of it is overwritten by the next component, or lies before the
 * path.
 */
static __always_inline void path_copy_words(struct scratch *s, u64 name_end, u64 end, u32 length)
{
	struct timespec64 *words = path_words(name_end - 16);

	store_word(&s->data[MASKED(end - 8, SCRATCH_MASK)], words->tv_nsec);
	if (length <= 8)
		return;
	store_word(&s->data[MASKED(end - 16, SCRATCH_MASK)], words->tv_sec);
	if (length <= 16)
		return;
	words = path_words(name_end - 32);
	store_word(&s->data[MASKED(end - 24, SCRATCH_MASK)], words->tv_nsec);
	store_word(&s->data[MASKED(end - 32, SCRATCH_MASK)], words->tv_sec);
}

/* Puts "/name" in front of what was collected from `end` on; returns the new beginning, 0 where it does not fit. */
static __always_inline u64 path_prepend(struct scratch *s, u64 name, u64 length, u64 end, u64 limit)
{
	if (length > 255 || end < limit + length + 1)
		return 0;
	if (have_rdonly_cast && length <= PATH_NAME_WORDS)
		path_copy_words(s, name + length, end, length);
	else if (bpf_probe_read_kernel(&s->data[MASKED(end - length, SCRATCH_MASK)], MASKED(length, 255), (void *)name))
		return 0;
	end -= length + 1;
	s->data[MASKED(end, SCRATCH_MASK)] = '/';
	return end;
}

/* The followed identities on a chunk of steps up, from s->walk_dentry on s->walk_mount. Up to the root of each file system, not of the
 * mount: no path leads through the folders above that, but a bind mount of a folder's folder must not lose what is said of the folder.
 */
__noinline int path_objects_chunk(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	u64 mount, dentry, parent, mountpoint;
	int status = PATH_GOING;
	struct repeat r;

	if (!s)
		return PATH_UNCERTAIN;
	mount = s->walk_mount;
	dentry = s->walk_dentry;
	repeat_begin(&r, rounds_of(PATH_CHUNK, PATH_CHUNKS));
	while (repeat_next(&r)) {
		s->walk_objects |= path_objects(s, dentry);
		parent = (u64)BPF_CORE_READ((struct dentry *)dentry, d_parent);
		if (!parent || parent == dentry) {
			status = PATH_DONE;
			if (mount == MOUNT_OF_LAYER)
				break;
			path_read_mount(mount, &parent, &mountpoint);
			if (!parent || parent == mount)
				break;
			status = PATH_GOING;
			mount = parent;
			parent = mountpoint;
		}
		dentry = parent;
	}
	repeat_end(&r);
	s->walk_mount = mount;
	s->walk_dentry = dentry;
	return status;
}

/* Where the walk of a path stands: at a dentry of a mount with this root. */
struct path_walk {
	u64 dentry;
	u64 mount;
	u64 root;
};

/* One step up: over the root of a mount, or a name more in front of s->walk_offset. */
static __always_inline int path_walk_step(struct scratch *s, struct path_walk *w, u64 limit)
{
	struct path_step step;
	u64 at;

	if (w->dentry == w->root) {
		u64 parent = 0, mountpoint = 0;

		path_read_mount(w->mount, &parent, &mountpoint);
		if (!parent || parent == w->mount)
			return PATH_DONE;
		w->dentry = mountpoint;
		w->mount = parent;
		w->root = path_mount_root(parent);
		return PATH_GOING;
	}
	path_read_dentry(w->dentry, &step);
	if (!step.parent)
		return PATH_UNCERTAIN;
	if (step.parent == w->dentry)
		return PATH_PSEUDO;
	/* In memory the verifier knows nothing of the offset, and need not follow every combination of lengths. */
	at = path_prepend(s, step.name, step.length, *(volatile u32 *)&s->walk_offset, limit);
	if (!at)
		return PATH_UNCERTAIN;
	*(volatile u32 *)&s->walk_offset = at;
	w->dentry = step.parent;
	return PATH_GOING;
}

/* A chunk of steps up. */
__noinline int path_walk_chunk(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	int status = PATH_GOING;
	struct path_walk w;
	struct repeat r;
	u64 limit;

	if (!s)
		return PATH_UNCERTAIN;
	w.dentry = s->walk_dentry;
	w.mount = s->walk_mount;
	w.root = path_mount_root(w.mount);
	limit = s->walk_limit;
	repeat_begin(&r, rounds_of(PATH_CHUNK, PATH_CHUNKS));
	while (repeat_next(&r)) {
		status = path_walk_step(s, &w, limit);
		if (status != PATH_GOING)
			break;
	}
	repeat_end(&r);
	s->walk_dentry = w.dentry;
	s->walk_mount = w.mount;
	return status;
}

/* A file outside the tree: memfd:NAME, pipe, socket. Only a name that the kernel itself made has no '/' in front. */
static __always_inline int path_pseudo(struct scratch *s, u32 end)
{
	struct path_step step;
	u64 at;

	if (s->walk_offset != end || !path_mount_internal(s->walk_mount))
		return PATH_UNCERTAIN; /* the walk left its mount: a lost race with a move, or a mount that does not hold the file */
	path_read_dentry(s->walk_dentry, &step);
	at = path_prepend(s, step.name, step.length, end, s->walk_limit);
	if (!at)
		return PATH_UNCERTAIN;
	s->walk_offset = at + 1;
	return PATH_PSEUDO;
}

/* Where the walk for followed identities begins. The file that overlayfs opens in a layer has, on 5.10 and 6.1, the overlay's path, and only
 * its inode is the layer's.
 */
static __always_inline u64 path_objects_start(struct scratch *s, u32 which)
{
	u64 dentry = s->dentry[which & 1], alias;

	if (which || !s->inode || (u64)BPF_CORE_READ((struct dentry *)dentry, d_inode) == s->inode)
		return dentry;
	alias = compat_first_alias(s->inode);
	return alias ? alias : dentry;
}

#define MOUNT_LEVELS 32
#define MOUNT_STEPS 128 /* mounts, and MOUNT_LEVELS up from the dentry to see whether one holds it */

/* Whether the mount (not the vfsmount) in s->walk_mount is one of the namespace that paths are told in and holds a dentry; s->walk_dentry is
 * where the way up from that stands, 0: not begun. Calls nothing: where a record is put together it is the eighth call ("the call stack of 8
 * frames is too deep").
 */
__noinline int path_mount_chunk(u32 slot, u64 dentry)
{
	u64 ns = path_namespace(), root, at, parent;
	struct scratch *s = scratch_at(slot);
	struct mount *mount;
	u32 i;

	if (!s)
		return PATH_UNCERTAIN;
	if (s->mnt_ns)
		ns = s->mnt_ns;
	mount = (void *)s->walk_mount;
	if (!ns || (u64)BPF_CORE_READ(mount, mnt_ns) != ns)
		return PATH_UNCERTAIN;
	root = (u64)BPF_CORE_READ(mount, mnt.mnt_root);
	at = s->walk_dentry ? s->walk_dentry : dentry;
	for (i = 0; i < MOUNT_LEVELS; i++) {
		if (at == root)
			return PATH_DONE;
		parent = (u64)BPF_CORE_READ((struct dentry *)at, d_parent);
		if (!parent || parent == at)
			return PATH_UNCERTAIN;
		at = parent;
	}
	s->walk_dentry = at;
	return PATH_GOING;
}

/* The vfsmount of the namespace that paths are told in through which the dentry of a path can be seen; 0: none. */
__noinline u64 path_mount_own(u32 slot, u32 which)
{
	struct scratch *s = scratch_at(slot);
	struct super_block *sb;
	u64 dentry, found = 0;
	struct repeat r;
	int status;

	if (!s)
		return 0;
	dentry = s->dentry[which & 1];
	sb = BPF_CORE_READ((struct dentry *)dentry, d_sb);
	s->walk_mount = compat_first_mount(sb);
	s->walk_dentry = 0;
	repeat_begin(&r, MOUNT_STEPS);
	while (repeat_next(&r)) {
		u64 mount = *(volatile u64 *)&s->walk_mount;

		if (!mount)
			break;
		status = path_mount_chunk(slot, dentry);
		if (status == PATH_DONE) {
			found = mount + bpf_core_field_offset(struct mount, mnt);
			break;
		}
		if (status == PATH_GOING)
			continue;
		s->walk_dentry = 0;
		*(volatile u64 *)&s->walk_mount = compat_next_mount((u64)sb, mount);
	}
	repeat_end(&r);
	return found;
}

/* Whether the walk has ended at the root of something else than the namespace that paths are told in. */
__noinline int path_foreign(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	u64 ns;

	if (!s)
		return 0;
	ns = path_mount_namespace(s->walk_mount);
	return ns < (u64)-4095 && ns != (s->mnt_ns ? s->mnt_ns : path_namespace());
}

__noinline int path_resolve(u32 slot, u32 which)
{
	struct scratch *s = scratch_at(slot);
	u32 str = which ? STR_FILE_NEW_PATH : STR_FILE_PATH;
	u32 end = which ? AREA_NEW_PATH_END : AREA_PATH_END;
	int status = PATH_UNCERTAIN, objects = PATH_DONE;
	u32 i, chunks = chunks_of(PATH_CHUNKS);

	if (!s || s->str_tried & STR_BIT(str))
		return 0;
	s->str_tried |= STR_BIT(str);
	if (!s->dentry[which & 1])
		return 0;
	s->walk_objects = 0;
	if (s->mount[which & 1] && s->features & IMAGE_NEEDS_OBJECTS) {
		s->walk_dentry = path_objects_start(s, which);
		s->walk_mount = s->mount[which & 1];
		for (i = 0; i < chunks; i++) {
			objects = path_objects_chunk(slot);
			if (objects != PATH_GOING)
				break;
		}
	}
	if (s->mount[which & 1] == MOUNT_OF_LAYER && objects == PATH_DONE) {
		set_objects(s, which);
		return 0;
	}
	s->walk_dentry = s->dentry[which & 1];
	s->walk_mount = s->mount[which & 1];
	s->walk_offset = end;
	s->walk_limit = end - ABI_PATH_MAX;
	if (s->walk_mount > MOUNT_OF_LAYER) {
		for (i = 0; i < chunks; i++) {
			status = path_walk_chunk(slot);
			if (status != PATH_GOING)
				break;
		}
	}
	if (status == PATH_DONE && path_foreign(slot)) {
		s->foreign |= STR_BIT(str);
		status = PATH_UNCERTAIN;
	}
	set_objects(s, which);
	if (objects != PATH_DONE)
		status = PATH_UNCERTAIN;
	/* A place on a mount of the kernel's own, such as the layers that overlayfs opens behind the file that was asked for: it has no
	 * name in any namespace. The access by name was decided when the overlay's file was opened.
	 */
	if ((status == PATH_DONE || (status == PATH_PSEUDO && s->walk_offset != end)) && path_mount_internal(s->walk_mount))
		return 0;
	if (status == PATH_PSEUDO)
		status = path_pseudo(s, end); /* what is opened by handle, its folders not being in the cache, ends here too */
	if (status == PATH_DONE && s->walk_offset == end) {
		s->walk_offset = end - 1;
		s->data[(end - 1) & SCRATCH_MASK] = '/';
	}
	if (status == PATH_PSEUDO && !which && end - s->walk_offset > 6 &&
	    s->data[s->walk_offset & SCRATCH_MASK] == 'm' && s->data[(s->walk_offset + 5) & SCRATCH_MASK] == ':')
		set_num(s, NUM_FILE_MEMFD, 1);
	if (status == PATH_PSEUDO && s->walk_offset == end)
		return 0; /* a pipe or socket: no name */
	if (status != PATH_DONE && status != PATH_PSEUDO) {
		s->str_uncertain |= STR_BIT(str);
		s->flags |= which ? EVENT_NEW_PATH_UNCERTAIN : EVENT_PATH_UNCERTAIN;
		count(CNT_PATH_UNCERTAIN);
	}
	set_str(s, str, s->walk_offset, end - s->walk_offset);
	return 0;
}

/* The namespace of the mount that the way up from a named pipe has ended at, 0: it is something else. A named pipe holds nothing: one that has no
 * name in the task's namespace is called what its own calls it. runc's process in a container, whose root is another by then, opens the pipe
 * that it waits at outside of it.
 */
__noinline u64 path_elsewhere(u32 slot, u32 which)
{
	struct scratch *s = scratch_at(slot);
	u64 dentry, mount;

	if (!s)
		return 0;
	dentry = s->dentry[which & 1];
	mount = s->walk_mount - bpf_core_field_offset(struct mount, mnt);
	/* By a read: what a direct load gives is no number, which global functions return. */
	return (BPF_CORE_READ((struct dentry *)dentry, d_inode, i_mode) & S_IFMT) == S_IFIFO ? (u64)BPF_CORE_READ((struct mount *)mount, mnt_ns) : 0;
}

__noinline int path_named(u32 slot, u32 which)
{
	struct scratch *s = scratch_at(slot);
	u64 bit = STR_BIT(which ? STR_FILE_NEW_PATH : STR_FILE_PATH);
	u64 ns, mount;

	path_resolve(slot, which);
	if (!s || !(s->foreign & bit))
		return 0;
	s->foreign &= ~bit;
	ns = path_elsewhere(slot, which);
	mount = path_mount_own(slot, which);
	if (!mount && !ns)
		return 0;
	if (mount)
		s->mount[which & 1] = mount;
	else
		s->mnt_ns = ns; /* nothing is noted of the event, then */
	s->str_tried &= ~bit;
	s->str_present &= ~bit;
	s->str_uncertain &= ~bit;
	s->flags &= ~(which ? EVENT_NEW_PATH_UNCERTAIN : EVENT_PATH_UNCERTAIN);
	path_resolve(slot, which);
	return 0;
}

#define MOUNTS_TRIED 128
#define LEVELS_TRIED 64

/* Whether a dentry is `root` or lies below it. */
__noinline int dentry_below(u64 dentry, u64 root)
{
	struct repeat r;
	int below = 0;

	repeat_begin(&r, LEVELS_TRIED);
	while (repeat_next(&r)) {
		u64 parent;

		if (dentry == root) {
			below = 1;
			break;
		}
		parent = (u64)BPF_CORE_READ((struct dentry *)dentry, d_parent);
		if (!parent || parent == dentry)
			break;
		dentry = parent;
	}
	repeat_end(&r);
	return below;
}

__noinline u64 mount_of_whole(u64 dentry)
{
	struct super_block *sb = BPF_CORE_READ((struct dentry *)dentry, d_sb);
	u64 mount = compat_first_mount(sb), whole = (u64)BPF_CORE_READ(sb, s_root), wanted = path_namespace(), found = 0;
	struct repeat r;

	repeat_begin(&r, MOUNTS_TRIED);
	while (repeat_next(&r)) {
		if (!mount || !wanted)
			break;
		if ((u64)BPF_CORE_READ((struct mount *)mount, mnt_ns) == wanted &&
		    (u64)BPF_CORE_READ((struct mount *)mount, mnt.mnt_root) == whole) {
			found = mount + bpf_core_field_offset(struct mount, mnt);
			break;
		}
		mount = compat_next_mount((u64)sb, mount);
	}
	repeat_end(&r);
	return found;
}

/* A mount of the whole file system; else the first bind mount that holds the dentry. Kernels differ in whether the oldest or the newest mount
 * comes first: one that somebody makes of a folder must not give it another name.
 */
__noinline u64 mount_of(u64 dentry)
{
	struct super_block *sb = BPF_CORE_READ((struct dentry *)dentry, d_sb);
	u64 mount = compat_first_mount(sb), found = mount_of_whole(dentry), wanted = path_namespace();
	struct repeat r;

	if (found)
		return found;
	repeat_begin(&r, MOUNTS_TRIED);
	while (repeat_next(&r)) {
		if (!mount || !wanted)
			break;
		if ((u64)BPF_CORE_READ((struct mount *)mount, mnt_ns) == wanted &&
		    dentry_below(dentry, (u64)BPF_CORE_READ((struct mount *)mount, mnt.mnt_root))) {
			found = mount + bpf_core_field_offset(struct mount, mnt);
			break;
		}
		mount = compat_next_mount((u64)sb, mount);
	}
	repeat_end(&r);
	return found;
}

#endif
