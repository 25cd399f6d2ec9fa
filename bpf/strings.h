/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Strings of an event into the scratch: paths, names, arguments, cgroups, whatever a dimension asks for.
 * Included by engine.bpf.c alone, as the headers after it. */
#ifndef BPFENCE_STRINGS_H
#define BPFENCE_STRINGS_H

#include "engine.h"
#include "match.h"
#include "path.h"

/* 8 levels of the cgroup path, upwards. */
__noinline int cgroup_walk_chunk(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	struct kernfs_node *kn;
	u32 i;

	if (!s)
		return PATH_UNCERTAIN;
	kn = (void *)s->kernfs;
	for (i = 0; i < 8; i++) {
		struct kernfs_node *parent = compat_kernfs_parent(kn);
		u32 at = s->walk_offset;
		u32 start = (AREA_LOADED + ABI_CGROUP_MAX * 2) & SCRATCH_MASK;
		long n;

		if (!parent)
			return PATH_DONE;
		/* The length of a kernfs name is not stored: read it once aside, then to its place. */
		n = bpf_probe_read_kernel_str(&s->data[start], SCRATCH_SLACK, BPF_CORE_READ(kn, name));
		if (n <= 1 || n >= SCRATCH_SLACK || at < AREA_LOADED + n + 1) /* at least one byte stays free */
			return PATH_UNCERTAIN;
		n -= 1;
		at -= n;
		bpf_probe_read_kernel(&s->data[at & SCRATCH_MASK], MASKED(n, 255), &s->data[start]);
		at -= 1;
		s->data[at & SCRATCH_MASK] = '/';
		s->walk_offset = at;
		kn = parent;
	}
	s->kernfs = (u64)kn;
	return PATH_GOING;
}

/* The cgroup of the acting process, or of the one that the event is about. */
static __always_inline void load_cgroup(struct scratch *s, u32 slot, u32 str)
{
	struct task_struct *task = str == STR_TARGET_CGROUP ? (void *)s->target : (void *)bpf_get_current_task();
	u32 end = AREA_LOADED + ABI_CGROUP_MAX, length, i;
	int status = PATH_UNCERTAIN;

	s->kernfs = (u64)BPF_CORE_READ(task, cgroups, dfl_cgrp, kn);
	s->walk_offset = end;
	if (s->kernfs) {
		for (i = 0; i < 8; i++) {
			status = cgroup_walk_chunk(slot);
			if (status != PATH_GOING)
				break;
		}
	}
	if (status == PATH_DONE && s->walk_offset == end) {
		s->walk_offset = end - 1;
		s->data[(end - 1) & SCRATCH_MASK] = '/';
	}
	if (status != PATH_DONE)
		s->str_uncertain |= STR_BIT(str);
	/* To where records and comparisons can read as many bytes as any text may have. It moves down: what overlaps is read before it is written. */
	length = MASKED(end - s->walk_offset, ABI_CGROUP_MAX - 1);
	bpf_probe_read_kernel(&s->data[AREA_LOADED], length, &s->data[MASKED(s->walk_offset, SCRATCH_MASK)]);
	set_str(s, str, AREA_LOADED, length);
}

/* The path of an executable into AREA_LOADED; -1: it is not kept. */
static __always_inline int load_exe(struct scratch *s, struct exec_image *image, u64 id, u32 length)
{
	struct long_exe *path;

	if (length < ABI_EXE_SHORT) {
		bpf_probe_read_kernel(&s->data[AREA_LOADED], MASKED(length, ABI_EXE_SHORT - 1), image->exe);
		return 0;
	}
	path = bpf_map_lookup_elem(&long_exes, &id);
	if (!path)
		return -1;
	bpf_probe_read_kernel(&s->data[AREA_LOADED], MASKED(length, ABI_PATH_MAX - 1), path->path);
	return 0;
}

/* The same of arguments. */
static __always_inline int load_arguments(struct scratch *s, struct exec_image *image, u64 id, u32 length)
{
	struct long_args *arguments;

	if (length < ABI_ARGS_SHORT) {
		bpf_probe_read_kernel(&s->data[AREA_LOADED], MASKED(length, 2 * ABI_ARGS_SHORT - 1), image->args);
		return 0;
	}
	arguments = bpf_map_lookup_elem(&long_args, &id);
	if (!arguments)
		return -1;
	bpf_probe_read_kernel(&s->data[AREA_LOADED], MASKED(length, 2 * ABI_ARGS_MAX - 1), arguments->args);
	return 0;
}

/* Loads a member of an exec image into AREA_LOADED. */
static __always_inline void load_image(struct scratch *s, u32 str, struct exec_image *image, u64 id)
{
	u32 length;

	if (str == STR_PROCESS_ARGS || str == STR_PROCESS_ARGV || str == STR_PARENT_ARGS) {
		length = image->args_len;
		if (length > ABI_ARGS_MAX)
			length = ABI_ARGS_MAX;
		if (load_arguments(s, image, id, length)) {
			s->str_uncertain |= STR_BIT(str);
			return;
		}
		/* Of programs older than the agent the arguments are not known. */
		if (image->flags & EXEC_ARGS_TRUNCATED || (str == STR_PARENT_ARGS && image->flags & EXEC_FROM_ITER && !length))
			s->str_uncertain |= STR_BIT(str);
	} else {
		length = image->exe_len;
		if (length > ABI_PATH_MAX - 1)
			length = ABI_PATH_MAX - 1;
		if (load_exe(s, image, id, length)) {
			s->str_uncertain |= STR_BIT(str);
			return;
		}
		if (image->flags & EXEC_EXE_UNCERTAIN)
			s->str_uncertain |= STR_BIT(str);
	}
	if (length)
		set_str(s, str & (ABI_STR_SLOTS - 1), AREA_LOADED, length);
}

static __always_inline void load_name(struct scratch *s, u32 str, struct exec_image *image)
{
	long n = bpf_probe_read_kernel_str(&s->data[AREA_LOADED], ABI_COMM_LEN, image->comm);

	if (n > 1)
		set_str(s, str, AREA_LOADED, n - 1);
}

/* The name that is being opened. */
static __always_inline void load_text(struct scratch *s)
{
	int dirfd = 0;
	u64 text;
	long n;

	if (s->event == EV_FILE_OPEN_FAILED) {
		text = s->text;
	} else if (s->event == EV_FILE_OPEN) {
		text = compat_opened_name((void *)bpf_get_current_task(), &dirfd);
		set_num(s, NUM_DIRFD, (s64)dirfd);
	} else {
		return;
	}
	if (!text)
		return;
	n = bpf_probe_read_kernel_str(&s->data[AREA_LOADED], ABI_PATH_MAX, (void *)text);
	if (n > 0)
		set_str(s, STR_FILE_TEXT, AREA_LOADED, n - 1);
}

static __always_inline void load_fstype(struct scratch *s)
{
	struct inode *inode = (void *)s->inode;

	if (inode && !has_str(s, STR_FILE_FSTYPE))
		set_kernel_string(s, STR_FILE_FSTYPE, BPF_CORE_READ(inode, i_sb, s_type, name));
}

/* The exec_id of the image that a string is about; 0: it is not known, or, with `none`, there is no such program. The parent's name and
 * arguments are those of the parent as it is now.
 */
static __always_inline u64 string_image(struct scratch *s, u32 str, bool *none)
{
	u64 id = s->record.exec_id;
	struct exec_image *image;

	if (str == STR_TARGET_EXE) {
		u32 pid = s->num[NUM_TARGET_PID];
		struct process_record *target = bpf_map_lookup_elem(&processes, &pid);

		return target ? target->exec_id : 0;
	}
	if (str == STR_PARENT_EXE) {
		image = bpf_map_lookup_elem(&images, &id);
		if (image && image->pid == s->record.pid) {
			if (image->flags & EXEC_PARENT_UNKNOWN)
				s->str_uncertain |= STR_BIT(STR_PARENT_EXE);
			id = image->parent_exec_id;
			*none = !id;
		}
	} else if (str == STR_PARENT_NAME || str == STR_PARENT_ARGS) {
		struct task_struct *task = (void *)bpf_get_current_task();
		u32 pid = BPF_CORE_READ(task, group_leader, real_parent, tgid);
		struct process_record *parent = bpf_map_lookup_elem(&processes, &pid);

		return parent ? parent->exec_id : 0;
	}
	return id;
}

/* Makes sure that a string is in the scratch: file paths and what the hook set stay, the rest shares AREA_LOADED. */
__noinline int string_load(u32 slot, u32 str)
{
	struct scratch *s = scratch_at(slot);
	struct exec_image *image;
	bool none = false;
	u64 id;

	if (!s)
		return 0;
	if (str == STR_FILE_FSTYPE) {
		load_fstype(s);
		return 0;
	}
	if (str > STR_PROCESS_CWD && str != STR_TARGET_EXE && str != STR_PARENT_NAME && str != STR_PARENT_ARGS && str != STR_FILE_TEXT &&
	    str != STR_PROCESS_ARGV && str != STR_TARGET_CGROUP)
		return 0;
	if (s->loaded == str + 1 || (str == STR_TARGET_EXE && s->str_tried & STR_BIT(STR_TARGET_EXE)))
		return 0;
	if (s->loaded > 0)
		s->str_present &= ~STR_BIT(s->loaded - 1);
	s->loaded = str + 1;
	if (str == STR_PROCESS_CGROUP || str == STR_TARGET_CGROUP) {
		load_cgroup(s, slot, str);
		return 0;
	}
	if (str == STR_FILE_TEXT) {
		load_text(s);
		return 0;
	}
	id = string_image(s, str, &none);
	if (none)
		return 0;
	if (str == STR_PROCESS_ARGS || str == STR_PROCESS_ARGV)
		arguments_load(slot, id);
	image = bpf_map_lookup_elem(&images, &id);
	if (!image) {
		s->str_uncertain |= STR_BIT(str);
		return 0;
	}
	if (str == STR_PROCESS_NAME || str == STR_PARENT_NAME)
		load_name(s, str, image);
	else
		load_image(s, str, image, id);
	return 0;
}

/* process.cwd: resolved through the area of file.new_path when that is free, else uncertain. */
__noinline int cwd_load(u32 slot)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct scratch *s = scratch_at(slot);

	if (!s || s->str_tried & STR_BIT(STR_PROCESS_CWD))
		return 0;
	s->str_tried |= STR_BIT(STR_PROCESS_CWD);
	if (s->dentry[1])
		path_resolve(slot, 1);
	if (has_str(s, STR_FILE_NEW_PATH)) {
		s->str_uncertain |= STR_BIT(STR_PROCESS_CWD);
		return 0;
	}
	s->dentry[1] = (u64)BPF_CORE_READ(task, fs, pwd.dentry);
	s->mount[1] = (u64)BPF_CORE_READ(task, fs, pwd.mnt);
	s->str_tried &= ~STR_BIT(STR_FILE_NEW_PATH);
	path_resolve(slot, 1);
	s->dentry[1] = 0;
	forget_num(s, NUM_NEW_OBJECT);
	if (s->str_uncertain & STR_BIT(STR_FILE_NEW_PATH))
		s->str_uncertain |= STR_BIT(STR_PROCESS_CWD);
	if (has_str(s, STR_FILE_NEW_PATH))
		set_str(s, STR_PROCESS_CWD, s->str_offset[STR_FILE_NEW_PATH], s->str_length[STR_FILE_NEW_PATH]);
	s->str_present &= ~STR_BIT(STR_FILE_NEW_PATH);
	s->str_uncertain &= ~STR_BIT(STR_FILE_NEW_PATH);
	return 0;
}

#endif
