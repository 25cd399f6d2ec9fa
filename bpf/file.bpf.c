// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Files: the events file.*. Path hooks where the kernel has them (CONFIG_SECURITY_PATH). */
#include "hook.h"
#include "folder.h"
#include "known.h"
#include "layer.h"
#include "opened.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline u64 access_of(unsigned int mode, unsigned int flags)
{
	u64 access = 0;

	if (mode & FMODE_READ)
		access |= ACCESS_READ;
	if (mode & FMODE_WRITE)
		access |= ACCESS_WRITE;
	if (flags & FMODE_EXEC) /* the kernel's own opens for execution have it there (fs/exec.c, do_open_execat), the mode has not */
		access |= ACCESS_EXEC;
	if (flags & O_APPEND)
		access |= ACCESS_APPEND;
	if (flags & O_TRUNC)
		access |= ACCESS_TRUNCATE;
	if (flags & O_CREAT)
		access |= ACCESS_CREATE | (mode & FMODE_CREATED ? ACCESS_CREATED : 0);
	return access;
}

/* Through a bind mount a file has another path. Rules that only report are asked again for the one that it has apart from it; those that
 * block say with `follow: object` that they mean the file and not the path. Mounts of the kernel's own, such as the layers behind an
 * overlay, are no way to a file.
 */
static __always_inline void decide_origin(struct scratch *s, u32 slot)
{
	u64 mount = s->mount[0] - bpf_core_field_offset(struct mount, mnt), whole;
	struct task_struct *task = (void *)bpf_get_current_task();

	if (BPF_CORE_READ((struct mount *)mount, mnt_ns) != BPF_CORE_READ(task, nsproxy, mnt_ns))
		return;
	whole = engine(ENGINE_MOUNT_WHOLE, slot, s->dentry[0], 0, 0);
	if (!whole)
		return;
	s->mount[0] = whole;
	s->flags |= EVENT_ORIGIN;
	forget_path(s);
	decide(slot);
}

/* Whether the mount that the file is seen through is not one of its whole file system. */
static __always_inline bool mounted_in_part(struct scratch *s)
{
	u64 root = pointer_at(s->mount[0] + bpf_core_field_offset(struct vfsmount, mnt_root));
	u64 sb = pointer_at(s->dentry[0] + bpf_core_field_offset(struct dentry, d_sb));

	return root != pointer_at(sb + bpf_core_field_offset(struct super_block, s_root));
}

/* Whether a rule about an event may hold, by bits of it: `which`, NEEDED_*. `needed`: what has been looked at. */
static __always_inline bool bits_needed(u32 which, u64 bits, u32 *needed)
{
	struct control *c;
	u32 zero = 0, generation;

	*needed = ~0U;
	c = bpf_map_lookup_elem(&control, &zero);
	if (c) {
		generation = *(volatile u32 *)&c->generation;
		*needed = *(volatile u32 *)&c->needed[NEEDED_EVENTS * (generation & 1) + which];
		if (*(volatile u32 *)&c->generation != generation) /* what has been read may be of a generation that is to come */
			*needed = ~0U;
	}
	return (bits | NEEDED_NONE) & *needed;
}

/* Most files are opened to be read, about which other subjects may have rules. */
static __always_inline bool open_needed(struct file *file)
{
	u64 access = access_of(file->f_mode, file->f_flags);
	u32 needed;

	return bits_needed(NEEDED_OPEN, access, &needed) && !(access == ACCESS_READ && reading_unconcerned(CONCERN_OPEN_READ));
}

/* What rules call access, of the mask of a hook: the same three bits in reverse. Digit n of the number is what n becomes; where the bits are tested
 * one by one, clang makes a reversal of 64 bits of it, which takes thirty instructions.
 */
static __always_inline u64 access_by_mask(u32 mask)
{
	_Static_assert(MAY_EXEC == 1 && MAY_WRITE == 2 && MAY_READ == 4, "as the digits stand");
	_Static_assert(ACCESS_READ == 1 && ACCESS_WRITE == 2 && ACCESS_EXEC == 4, "and what they are");
	return 0x73516240 >> 4 * (mask & 7) & 7;
}

/* Whether an open file has no place in the tree: a socket, or a pipe without a name. */
static __always_inline bool placeless(struct file *file)
{
	u32 type = file->f_inode->i_mode & S_IFMT;

	return type == S_IFSOCK || (type == S_IFIFO && READ(as_number(file), f_inode, i_sb, s_magic) == PIPEFS_MAGIC);
}

static __always_inline bool permission_needed(struct file *file, u32 mask)
{
	u64 access = access_by_mask(mask);
	u32 needed;

	return bits_needed(NEEDED_PERMISSION, access, &needed) && !(access == ACCESS_READ && reading_unconcerned(CONCERN_PERMISSION_READ)) &&
	       (needed & NEEDED_PLACELESS || !placeless(file));
}

/* The same of mmap(2) and mprotect(2). */
static __always_inline bool map_needed(u32 which, u64 prot, bool shared)
{
	u32 needed;

	return bits_needed(which, prot | (shared ? NEEDED_SHARED : 0), &needed);
}

static __always_inline u32 quiet_open(struct file *file)
{
	u32 flags = file->f_flags;

	_Static_assert(OPEN_FLAGS_NOTED == (O_DIRECTORY | O_APPEND | O_TRUNC | O_CREAT), "all but the first are told by the access");
	return quiet_what(EV_FILE_OPEN, access_of(file->f_mode, flags) | (flags & O_DIRECTORY ? ACCESS_CREATED << 1 : 0));
}

SEC("lsm/file_open")
int HOOK_PROG_IF(file_open__file, EV_FILE_OPEN, open_needed(file) && !quiet_file(file, quiet_open(file)), struct file *file, int ret)
{
	int error;

	set_file(s, file);
	set_num(s, NUM_FILE_FLAGS, file->f_flags);
	set_num(s, NUM_FILE_ACCESS, access_of(file->f_mode, file->f_flags));
	error = decide(slot);
	if (error || s->report & (REPORT_SUCCESS | REPORT_FAILURE))
		return error;
	if (s->features & IMAGE_DETAILS && mounted_in_part(s))
		decide_origin(s, slot);
	else
		quiet(slot, quiet_open(file));
	return 0;
}

static __always_inline u32 quiet_permission(u32 mask)
{
	return quiet_what(EV_FILE_PERMISSION, access_by_mask(mask));
}

/* Whether notes of open files (opened.h) stand in place of those of inodes (known.h). */
static __always_inline bool have_file_notes(void)
{
#ifdef ENGINE_SHARED
	return have_notes();
#else
	return false;
#endif
}

static __always_inline bool access_noted(struct file *file, u32 mask)
{
	return have_file_notes() ? file_note_holds(file, EV_FILE_PERMISSION, quiet_permission(mask)) : access_known(file, mask, EV_FILE_PERMISSION);
}

/* Reads and writes on descriptors, those opened before the policy included. */
SEC("lsm/file_permission")
int HOOK_PROG_IF(file_permission__file, EV_FILE_PERMISSION,
		 permission_needed(file, mask) && !access_noted(file, mask) && !quiet_file(file, quiet_permission(mask)),
		 struct file *file, int mask, int ret)
{
	int error;

	known_prepare(s);
	set_file(s, file);
	set_num(s, NUM_FILE_FLAGS, file->f_flags);
	set_num(s, NUM_FILE_ACCESS, access_by_mask(mask));
	error = decide(slot);
	if (error)
		return error;
	if (have_file_notes())
		engine(ENGINE_FILE_NOTE, slot, quiet_permission(mask), number_of(file), 0);
	else
		known_note(s, file, mask);
	quiet(slot, quiet_permission(mask)); /* for the next file of the name, and others like it */
	return 0;
}

/* What ends the truth of maps `known_files`, `file_notes` and `folders`. A dentry of anything but a directory never has one below it that would
 * look for its entry.
 */
SEC("lsm/d_instantiate")
int BPF_PROG(d_instantiate__known, struct dentry *dentry, struct inode *inode)
{
	bool folder = inode && (inode->i_mode & S_IFMT) == S_IFDIR;
	u64 address;

	if (have_file_notes()) {
		address = number_of(dentry);
		file_note_forget(address);
		if (folder)
			folder_forget(address);
		return 0;
	}
	/* As a number: 5.10 to 7.3 "pointer arithmetic with >>= operator prohibited". */
	if (folder && !bpf_probe_read_kernel(&address, sizeof(address), &ctx[0]))
		folder_forget(address);
	known_forget(inode);
	return 0;
}

/* The kernel counts every rename in one sequence (rename_lock), and on a busy machine there is always one. Those of a file change no folder's
 * path: they are counted here, for folder_version to take off.
 *
 * A rename counts as begun before the kernel's count goes up, and as ended when it is over; in between nothing that is kept of folders is
 * used. What is not seen to begin is not seen to end, so it stays in the kernel's count, as if a folder had been renamed: that is why the
 * end is attached before the start, and taken away after it. A start whose end the kernel has skipped is made up for by the task's next
 * rename, or by its end. Other functions than d_move move names, too: they stay in that count.
 */
static __always_inline bool is_folder(struct dentry *dentry)
{
	struct inode *inode = READ(as_number(dentry), d_inode);

	return inode && (READ(inode, i_mode) & S_IFMT) == S_IFDIR;
}

SEC("fexit/d_move")
int BPF_PROG(d_move__moved, struct dentry *dentry, struct dentry *target)
{
	u64 task = bpf_get_current_pid_tgid();
	u32 zero = 0;
	struct moves *m = bpf_map_lookup_elem(&moves, &zero);

	if (m && !bpf_map_delete_elem(&moving, &task))
		__sync_fetch_and_add(&m->ended, 1);
	return 0;
}

SEC("fentry/d_move")
int BPF_PROG(d_move__moves, struct dentry *dentry, struct dentry *target)
{
	u64 task = bpf_get_current_pid_tgid();
	u32 zero = 0;
	struct moves *m = bpf_map_lookup_elem(&moves, &zero);

	if (m && !is_folder(dentry) && !is_folder(target) && !bpf_map_update_elem(&moving, &task, &zero, BPF_NOEXIST))
		__sync_fetch_and_add(&m->begun, 1);
	return 0;
}

/* What a mapping can do to its file. */
static __always_inline u64 map_access(u64 prot, u64 shared)
{
	return (prot & PROT_READ ? ACCESS_READ : 0) | (prot & PROT_EXEC ? ACCESS_EXEC : 0) |
	       (prot & PROT_WRITE && shared ? ACCESS_WRITE : 0);
}

static __always_inline bool mapped_shared(unsigned long flags)
{
	return (flags & 0xf) == MAP_SHARED || (flags & 0xf) == MAP_SHARED_VALIDATE;
}

/* `type`: what kind of mapping it is, in four bits. */
static __always_inline u32 quiet_map(u32 event, u64 prot, u64 type)
{
	return quiet_what(event, (prot & PROT_USUAL) << 4 | type);
}

static __always_inline int decide_mmap(struct scratch *s, u32 slot, struct file *file, unsigned long prot, unsigned long flags)
{
	set_file(s, file);
	set_num(s, NUM_FILE_PROT, prot);
	set_num(s, NUM_FILE_MAP_SHARED, mapped_shared(flags));
	set_num(s, NUM_MAP_FLAGS, (u32)flags);
	set_num(s, NUM_FILE_ACCESS, map_access(prot, flags & MAP_SHARED));
	return decide_layered(s, slot, file, prot & ~PROT_USUAL ? 0 : quiet_map(EV_FILE_MMAP, prot, flags & 0xf));
}

static __always_inline bool mmap_needed(struct file *file, unsigned long prot, unsigned long flags)
{
	return file && map_needed(NEEDED_MMAP, prot, mapped_shared(flags));
}

static __always_inline bool quiet_mmap(struct file *file, unsigned long prot, unsigned long flags)
{
	return !(prot & ~PROT_USUAL) && quiet_file(file, quiet_map(EV_FILE_MMAP, prot, flags & 0xf));
}

SEC("lsm/mmap_file")
int HOOK_PROG_IF(mmap_file__file, EV_FILE_MMAP, mmap_needed(file, prot, flags) && !quiet_mmap(file, prot, flags), struct file *file,
		 unsigned long reqprot, unsigned long prot, unsigned long flags, int ret)
{
	return decide_mmap(s, slot, file, prot, flags);
}

/* security_mmap_file, for fmod_ret: the protection that the caller asked for is all there is yet. */
SEC("lsm/mmap_file")
int HOOK_PROG_IF(mmap_file__file_v2, EV_FILE_MMAP, mmap_needed(file, mmap_prot(prot), flags), struct file *file, unsigned long prot, unsigned long flags, int ret)
{
	return decide_mmap(s, slot, file, mmap_prot(prot), flags);
}

/* What a mapping is of: of an overlay's file it has the file of the layer, whose inode is returned. The name is that of the overlay's. */
static __always_inline u64 set_mapped_file(struct scratch *s, struct file *file)
{
	struct path *user = compat_user_path(address_of(s, file));
	u64 layer = pointer_in(s, file, f_inode);
	struct dentry *dentry;
	struct inode *inode;

	set_file(s, file);
	if (user)
		set_path(s, 0, BPF_CORE_READ(user, dentry), BPF_CORE_READ(user, mnt));
	dentry = (void *)s->dentry[0];
	inode = BPF_CORE_READ(dentry, d_inode);
	if (!inode || (u64)inode == s->inode)
		return 0;
	s->inode = (u64)inode;
	return layer;
}

static __always_inline bool mprotect_needed(struct vm_area_struct *vma, unsigned long prot)
{
	return vma->vm_file && map_needed(NEEDED_MPROTECT, prot, vma->vm_flags & VM_SHARED);
}

static __always_inline bool quiet_mprotect(struct vm_area_struct *vma, unsigned long prot)
{
	return !(prot & ~PROT_USUAL) && quiet_file(vma->vm_file, quiet_map(EV_FILE_MPROTECT, prot, !!(vma->vm_flags & VM_SHARED)));
}

SEC("lsm/file_mprotect")
int HOOK_PROG_IF(file_mprotect__file, EV_FILE_MPROTECT, mprotect_needed(vma, prot) && !quiet_mprotect(vma, prot), struct vm_area_struct *vma,
		 unsigned long reqprot, unsigned long prot, int ret)
{
	struct file *file = vma->vm_file;
	u64 shared, layer;
	int error;

	if (!file) /* another load than the condition's: the verifier knows nothing of it yet */
		return 0;
	layer = set_mapped_file(s, file);
	shared = !!(vma->vm_flags & VM_SHARED);
	set_num(s, NUM_FILE_PROT, prot);
	set_num(s, NUM_FILE_MAP_SHARED, shared);
	set_num(s, NUM_FILE_ACCESS, map_access(prot, shared));
	error = decide(slot);
	if (error)
		return error;
	return decide_second(s, slot, layer || compat_overlay(file), layer, prot & ~PROT_USUAL ? 0 : quiet_map(EV_FILE_MPROTECT, prot, shared));
}

/* Of an event that has nothing but names. */
static __always_inline int decide_quiet(struct scratch *s, u32 slot, u32 event)
{
	int error = decide(slot);

	if (!error)
		quiet(slot, quiet_what(event, 0));
	return error;
}

/* A name below a directory: what is there now, or what is about to be. */
static __always_inline void set_name(struct scratch *s, const struct path *dir, struct dentry *dentry)
{
	u64 mount = pointer_in(s, dir, mnt);

	set_path(s, 0, dentry, (void *)mount);
	s->inode = pointer_in(s, dentry, d_inode);
}

SEC("lsm/path_mknod")
int HOOK_PROG_IF(path_mknod__file, EV_FILE_CREATE, !quiet_name(dir, dentry, EV_FILE_CREATE), const struct path *dir, struct dentry *dentry, unsigned short mode, unsigned int dev,
		 int ret)
{
	set_name(s, dir, dentry);
	set_num(s, NUM_FILE_MODE, mode);
	return decide_quiet(s, slot, EV_FILE_CREATE);
}

SEC("lsm/path_mkdir")
int HOOK_PROG_IF(path_mkdir__file, EV_FILE_MKDIR, !quiet_name(dir, dentry, EV_FILE_MKDIR), const struct path *dir, struct dentry *dentry, unsigned short mode, int ret)
{
	set_name(s, dir, dentry);
	set_num(s, NUM_FILE_MODE, mode);
	return decide_quiet(s, slot, EV_FILE_MKDIR);
}

SEC("lsm/path_rmdir")
int HOOK_PROG_IF(path_rmdir__file, EV_FILE_RMDIR, !quiet_name(dir, dentry, EV_FILE_RMDIR), const struct path *dir, struct dentry *dentry, int ret)
{
	set_name(s, dir, dentry);
	return decide_quiet(s, slot, EV_FILE_RMDIR);
}

SEC("lsm/path_unlink")
int HOOK_PROG_IF(path_unlink__file, EV_FILE_UNLINK, !quiet_name(dir, dentry, EV_FILE_UNLINK), const struct path *dir, struct dentry *dentry, int ret)
{
	set_name(s, dir, dentry);
	return decide_quiet(s, slot, EV_FILE_UNLINK);
}

SEC("lsm/path_symlink")
int HOOK_PROG(path_symlink__file, EV_FILE_SYMLINK, const struct path *dir, struct dentry *dentry, const char *old_name, int ret)
{
	set_name(s, dir, dentry);
	set_kernel_string(s, STR_LINK_TARGET, old_name);
	return decide(slot);
}

SEC("lsm/path_link")
int HOOK_PROG(path_link__file, EV_FILE_LINK, struct dentry *old_dentry, const struct path *new_dir, struct dentry *new_dentry, int ret)
{
	/* Both names lie on one mount, or the call fails with EXDEV later. */
	set_name(s, new_dir, old_dentry);
	set_path(s, 1, new_dentry, BPF_CORE_READ(new_dir, mnt));
	return decide(slot);
}

static __always_inline void set_rename(struct scratch *s, const struct path *old_dir, struct dentry *old_dentry, const struct path *new_dir,
				       struct dentry *new_dentry)
{
	struct inode *replaced;

	set_name(s, old_dir, old_dentry);
	set_path(s, 1, new_dentry, BPF_CORE_READ(new_dir, mnt));
	replaced = BPF_CORE_READ(new_dentry, d_inode);
	set_num(s, NUM_NEW_INO, replaced ? BPF_CORE_READ(replaced, i_ino) : 0);
	set_num(s, NUM_NEW_DEV, replaced ? BPF_CORE_READ(replaced, i_sb, s_dev) : 0);
}

/* Another event of the same act. */
static __always_inline void event_again(struct scratch *s, u32 event)
{
	scratch_clear(s, event);
	set_process(s);
}

SEC("lsm/path_rename")
int HOOK_PROG_IF(path_rename__file, EV_FILE_RENAME, !quiet_names(old_dir, old_dentry, new_dentry, EV_FILE_RENAME), const struct path *old_dir,
		 struct dentry *old_dentry, const struct path *new_dir, struct dentry *new_dentry, int ret)
{
	set_rename(s, old_dir, old_dentry, new_dir, new_dentry);
	return decide_quiet(s, slot, EV_FILE_RENAME);
}

/* v5.19 (100f59d96405): the flags of renameat2 are passed on, and an exchange, which moves both names, is asked about once, no longer in both
 * directions. security_path_rename, for fmod_ret, has always been called once.
 */
SEC("lsm/path_rename")
int HOOK_PROG_IF(path_rename__file_v2, EV_FILE_RENAME, flags &RENAME_EXCHANGE || !quiet_names(old_dir, old_dentry, new_dentry, EV_FILE_RENAME),
		 const struct path *old_dir, struct dentry *old_dentry, const struct path *new_dir, struct dentry *new_dentry, unsigned int flags,
		 int ret)
{
	if (flags & RENAME_EXCHANGE) {
		int error;

		set_rename(s, new_dir, new_dentry, old_dir, old_dentry);
		error = decide(slot);
		if (error)
			return error;
		event_again(s, EV_FILE_RENAME);
	}
	set_rename(s, old_dir, old_dentry, new_dir, new_dentry);
	return decide_quiet(s, slot, EV_FILE_RENAME);
}

static __always_inline void set_at(struct scratch *s, const struct path *path)
{
	u64 dentry = pointer_in(s, path, dentry), mount = pointer_in(s, path, mnt);

	set_path(s, 0, (void *)dentry, (void *)mount);
	s->inode = (u64)READ((struct dentry *)dentry, d_inode);
}

SEC("lsm/path_chmod")
int HOOK_PROG_IF(path_chmod__file, EV_FILE_CHMOD, !quiet_path(path, EV_FILE_CHMOD), const struct path *path, unsigned short mode, int ret)
{
	set_at(s, path);
	set_num(s, NUM_FILE_MODE, mode);
	return decide_quiet(s, slot, EV_FILE_CHMOD);
}

SEC("lsm/path_chown")
int HOOK_PROG_IF(path_chown__file, EV_FILE_CHOWN, !quiet_path(path, EV_FILE_CHOWN), const struct path *path, u64 uid, u64 gid, int ret)
{
	set_at(s, path);
	if ((u32)uid != (u32)-1)
		set_num(s, NUM_FILE_UID, (u32)uid);
	if ((u32)gid != (u32)-1)
		set_num(s, NUM_FILE_GID, (u32)gid);
	return decide_quiet(s, slot, EV_FILE_CHOWN);
}

/* Whether the acting task works under other credentials than its own, as overlayfs does on its layers for whoever acts on a file of the
 * overlay. io_uring does so, too, for whoever registered credentials; what changes attributes it leaves to its workers.
 */
static __always_inline bool stacked(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return READ(task, cred) != READ(task, real_cred) && !(READ(task, flags) & PF_IO_WORKER);
}

/* Whether a file of a layer, in s->dentry[0], is one that rules follow, or may be. */
static __always_inline bool layer_followed(struct scratch *s, u32 slot)
{
	s->features = image_features();
	if (!(s->features & IMAGE_NEEDS_OBJECTS))
		return false;
	engine(ENGINE_PATH, slot, 0, 0, 0);
	return s->num[NUM_FILE_OBJECT] || s->str_uncertain & STR_BIT(STR_FILE_PATH);
}

/* The inode hooks see no mount: the path is resolved through a mount of the file system in the acting task's namespace. What overlayfs does to
 * its layers has no name there, as when it opens them. The overlay's own file was asked about before, and a layer's is an event only where rules
 * follow it: whoever opens a file for writing has it copied up, with its owner, mode and times, and does not change them. False: it is no
 * event.
 */
static __always_inline bool set_without_mount(struct scratch *s, u32 slot, struct dentry *dentry)
{
	s->inode = (u64)BPF_CORE_READ(dentry, d_inode);
	if (!stacked()) {
		set_path(s, 0, dentry, (void *)engine(ENGINE_MOUNT, slot, address_of(s, dentry), 0, 0));
		return true;
	}
	set_path(s, 0, dentry, (void *)MOUNT_OF_LAYER);
	return layer_followed(s, slot);
}

static __always_inline void set_new_owner(struct scratch *s, struct iattr *attr)
{
	u32 valid = attr->ia_valid;

	if (valid & ATTR_UID)
		set_num(s, NUM_FILE_UID, BPF_CORE_READ(attr, ia_uid.val));
	if (valid & ATTR_GID)
		set_num(s, NUM_FILE_GID, BPF_CORE_READ(attr, ia_gid.val));
}

static __always_inline bool owner_given(struct iattr *attr)
{
	return attr->ia_valid & (ATTR_UID | ATTR_GID);
}

static __always_inline int decide_owner(struct scratch *s, u32 slot, struct dentry *dentry, struct iattr *attr)
{
	if (!set_without_mount(s, slot, dentry))
		return 0;
	set_new_owner(s, attr);
	return decide(slot);
}

/* Where path_chown cannot be attached: before v6.0 (720e6a435194) the verifier refuses a structure passed by value
 * ("The function bpf_lsm_path_chown arg1 type STRUCT is unsupported").
 */
SEC("lsm/inode_setattr")
int HOOK_PROG_IF(inode_setattr__file, EV_FILE_CHOWN, owner_given(attr), struct dentry *dentry, struct iattr *attr, int ret)
{
	return decide_owner(s, slot, dentry, attr);
}

/* The idmap comes first, as for the xattr hooks. */
SEC("lsm/inode_setattr")
int HOOK_PROG_IF(inode_setattr__file_v2, EV_FILE_CHOWN, owner_given(attr), void *idmap, struct dentry *dentry, struct iattr *attr, int ret)
{
	return decide_owner(s, slot, dentry, attr);
}

/* The times as such: those of utimensat(2) and its like, given or now, and none that change with something else, as with a write or a change
 * of mode. And what is done to a file of an overlay: that is done to the one of its upper layer here, and has no other hook there.
 */
static __always_inline u32 setattr_event(struct iattr *attr)
{
	u32 valid = attr->ia_valid;

	if (valid & (ATTR_TIMES_SET | ATTR_TOUCH | ATTR_ATIME_SET | ATTR_MTIME_SET))
		return EV_FILE_SETATTR;
	if (!(valid & (ATTR_SIZE | ATTR_UID | ATTR_GID | ATTR_MODE)) || !stacked())
		return EV_NONE;
	if (valid & (ATTR_UID | ATTR_GID))
		return EV_FILE_CHOWN; /* which takes set-user-id bits away, too */
	return valid & ATTR_SIZE ? EV_FILE_TRUNCATE : EV_FILE_CHMOD;
}

static __always_inline int decide_setattr(struct scratch *s, u32 slot, struct dentry *dentry, struct iattr *attr)
{
	if (!set_without_mount(s, slot, dentry))
		return 0;
	if (s->event == EV_FILE_CHMOD)
		set_num(s, NUM_FILE_MODE, BPF_CORE_READ(attr, ia_mode));
	if (s->event == EV_FILE_CHOWN)
		set_new_owner(s, attr);
	return decide(slot);
}

SEC("lsm/inode_setattr")
int HOOK_PROG(inode_setattr__times, setattr_event(attr), struct dentry *dentry, struct iattr *attr, int ret)
{
	return decide_setattr(s, slot, dentry, attr);
}

SEC("lsm/inode_setattr")
int HOOK_PROG(inode_setattr__times_v2, setattr_event(attr), void *idmap, struct dentry *dentry, struct iattr *attr, int ret)
{
	return decide_setattr(s, slot, dentry, attr);
}

/* v6.17 (file_setattr(2)). Where ioctl(2) came here, the same is known from its descriptor, with the mount; what overlayfs then does to a layer
 * is not.
 */
static __always_inline bool known_from_ioctl(void)
{
	u64 call = read_call();

	return (call == NR_IOCTL || call == NR_IOCTL_X32 || call == (NR_IOCTL_COMPAT | CALL_COMPAT)) && !stacked();
}

SEC("lsm/inode_file_setattr")
int HOOK_PROG_IF(inode_file_setattr__file, EV_FILE_SETATTR, !known_from_ioctl(), struct dentry *dentry, void *attributes, int ret)
{
	if (!set_without_mount(s, slot, dentry))
		return 0;
	return decide(slot);
}

/* What ioctl(2) changes: attributes, by whatever descriptor, or contents, where there is no other hook. */
static __always_inline u32 ioctl_event(u32 command)
{
	switch (command) {
	case FS_IOC_SETFLAGS:
	case FS_IOC32_SETFLAGS:
	case FS_IOC_FSSETXATTR:
	case FS_IOC_SETVERSION:
	case FS_IOC32_SETVERSION:
	case EXT4_IOC_SETVERSION:
	case EXT4_IOC32_SETVERSION:
	case FS_IOC_SET_ENCRYPTION_POLICY:
	case FS_IOC_ENABLE_VERITY:
	case FAT_IOCTL_SET_ATTRIBUTES:
		return EV_FILE_SETATTR;
	case XFS_IOC_ALLOCSP: /* up to v5.16 */
	case XFS_IOC_FREESP:
	case XFS_IOC_ALLOCSP64:
	case XFS_IOC_FREESP64:
	case EXT4_IOC_MOVE_EXT:
	case EXT4_IOC_SWAP_BOOT:
		return EV_FILE_PERMISSION;
	}
	return EV_NONE;
}

static __always_inline int decide_ioctl(struct scratch *s, u32 slot, struct file *file)
{
	set_file(s, file);
	if (s->event == EV_FILE_PERMISSION) {
		set_num(s, NUM_FILE_FLAGS, file->f_flags);
		set_num(s, NUM_FILE_ACCESS, ACCESS_WRITE);
	}
	return decide(slot);
}

SEC("lsm/file_ioctl")
int HOOK_PROG(file_ioctl__file, ioctl_event(command), struct file *file, unsigned int command, unsigned long argument, int ret)
{
	return decide_ioctl(s, slot, file);
}

/* v6.8 (f1bb47a31dff), and stable updates of older kernels: calls of the 32-bit table have a hook of their own. */
SEC("lsm/file_ioctl_compat")
int HOOK_PROG(file_ioctl_compat__file, ioctl_event(command), struct file *file, unsigned int command, unsigned long argument, int ret)
{
	return decide_ioctl(s, slot, file);
}

SEC("lsm/path_truncate")
int HOOK_PROG_IF(path_truncate__file, EV_FILE_TRUNCATE, !quiet_path(path, EV_FILE_TRUNCATE), const struct path *path, int ret)
{
	set_at(s, path);
	return decide_quiet(s, slot, EV_FILE_TRUNCATE);
}

/* v6.2 (3350607dc564): ftruncate got a hook of its own. */
SEC("lsm/file_truncate")
int HOOK_PROG_IF(file_truncate__file, EV_FILE_TRUNCATE, !quiet_file(file, EV_FILE_TRUNCATE), struct file *file, int ret)
{
	set_file(s, file);
	return decide_quiet(s, slot, EV_FILE_TRUNCATE);
}

static __always_inline int decide_xattr(struct scratch *s, u32 slot, struct dentry *dentry, const char *name)
{
	if (!set_without_mount(s, slot, dentry))
		return 0;
	set_kernel_string(s, STR_XATTR_NAME, name);
	return decide(slot);
}

SEC("lsm/inode_setxattr")
int HOOK_PROG(inode_setxattr__file, EV_FILE_SETXATTR, struct dentry *dentry, const char *name, const void *value, unsigned long size,
	      int flags, int ret)
{
	return decide_xattr(s, slot, dentry, name);
}

/* v5.12 (71bc356f93a1): a user namespace, since v6.3 (39f60c1ccee7) an idmap, comes first. */
SEC("lsm/inode_setxattr")
int HOOK_PROG(inode_setxattr__file_v2, EV_FILE_SETXATTR, void *idmap, struct dentry *dentry, const char *name, const void *value,
	      unsigned long size, int flags, int ret)
{
	return decide_xattr(s, slot, dentry, name);
}

SEC("lsm/inode_removexattr")
int HOOK_PROG(inode_removexattr__file, EV_FILE_SETXATTR, struct dentry *dentry, const char *name, int ret)
{
	return decide_xattr(s, slot, dentry, name);
}

SEC("lsm/inode_removexattr")
int HOOK_PROG(inode_removexattr__file_v2, EV_FILE_SETXATTR, void *idmap, struct dentry *dentry, const char *name, int ret)
{
	return decide_xattr(s, slot, dentry, name);
}

/* v6.2: access control lists left the two hooks above. The user namespace (v6.3: idmap) comes first from the start. */
SEC("lsm/inode_set_acl")
int HOOK_PROG(inode_set_acl__file, EV_FILE_SETXATTR, void *idmap, struct dentry *dentry, const char *name, void *acl, int ret)
{
	return decide_xattr(s, slot, dentry, name);
}

SEC("lsm/inode_remove_acl")
int HOOK_PROG(inode_remove_acl__file, EV_FILE_SETXATTR, void *idmap, struct dentry *dentry, const char *name, int ret)
{
	return decide_xattr(s, slot, dentry, name);
}

/* Kernels without CONFIG_SECURITY_PATH: the same events from the inode hooks, which see no mount. */
static __always_inline int decide_inode(struct scratch *s, u32 slot, struct dentry *dentry, u32 mode)
{
	if (!set_without_mount(s, slot, dentry))
		return 0;
	if (mode)
		set_num(s, NUM_FILE_MODE, mode);
	return decide(slot);
}

SEC("lsm/inode_mknod")
int HOOK_PROG(inode_mknod__file, EV_FILE_CREATE, struct inode *dir, struct dentry *dentry, unsigned short mode, unsigned int dev, int ret)
{
	return decide_inode(s, slot, dentry, mode);
}

SEC("lsm/inode_create")
int HOOK_PROG(inode_create__file, EV_FILE_CREATE, struct inode *dir, struct dentry *dentry, unsigned short mode, int ret)
{
	return decide_inode(s, slot, dentry, mode);
}

SEC("lsm/inode_mkdir")
int HOOK_PROG(inode_mkdir__file, EV_FILE_MKDIR, struct inode *dir, struct dentry *dentry, unsigned short mode, int ret)
{
	return decide_inode(s, slot, dentry, mode);
}

SEC("lsm/inode_rmdir")
int HOOK_PROG(inode_rmdir__file, EV_FILE_RMDIR, struct inode *dir, struct dentry *dentry, int ret)
{
	return decide_inode(s, slot, dentry, 0);
}

SEC("lsm/inode_unlink")
int HOOK_PROG(inode_unlink__file, EV_FILE_UNLINK, struct inode *dir, struct dentry *dentry, int ret)
{
	return decide_inode(s, slot, dentry, 0);
}

SEC("lsm/inode_symlink")
int HOOK_PROG(inode_symlink__file, EV_FILE_SYMLINK, struct inode *dir, struct dentry *dentry, const char *old_name, int ret)
{
	if (!set_without_mount(s, slot, dentry))
		return 0;
	set_kernel_string(s, STR_LINK_TARGET, old_name);
	return decide(slot);
}

static __always_inline int decide_two_names(struct scratch *s, u32 slot, struct dentry *old_dentry, struct dentry *new_dentry)
{
	if (!set_without_mount(s, slot, old_dentry))
		return 0;
	set_path(s, 1, new_dentry, (void *)s->mount[0]);
	return decide(slot);
}

SEC("lsm/inode_link")
int HOOK_PROG(inode_link__file, EV_FILE_LINK, struct dentry *old_dentry, struct inode *dir, struct dentry *new_dentry, int ret)
{
	return decide_two_names(s, slot, old_dentry, new_dentry);
}

SEC("lsm/inode_rename")
int HOOK_PROG(inode_rename__file, EV_FILE_RENAME, struct inode *old_dir, struct dentry *old_dentry, struct inode *new_dir,
	      struct dentry *new_dentry, int ret)
{
	return decide_two_names(s, slot, old_dentry, new_dentry);
}

/* security_inode_rename, for fmod_ret, has the flags too, and asks its hook in both directions. */
SEC("lsm/inode_rename")
int HOOK_PROG(inode_rename__file_v2, EV_FILE_RENAME, struct inode *old_dir, struct dentry *old_dentry, struct inode *new_dir,
	      struct dentry *new_dentry, unsigned int flags, int ret)
{
	if (flags & RENAME_EXCHANGE) {
		int error = decide_two_names(s, slot, new_dentry, old_dentry);

		if (error)
			return error;
		event_again(s, EV_FILE_RENAME);
	}
	return decide_two_names(s, slot, old_dentry, new_dentry);
}
