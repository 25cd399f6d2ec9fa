// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Kernel interfaces: the events kernel.*. */
#include "engine.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* enum kernel_read_file_id and kernel_load_data_id are one list: the values since v4.18 (16c267aac86b), shifted by later entries
 * of no interest here; resolved by CO-RE by name.
 */
enum kernel_read_file_id {
	READING_MODULE = 2,
	READING_KEXEC_IMAGE = 3,
	READING_KEXEC_INITRAMFS = 4,
};

enum kernel_load_data_id {
	LOADING_MODULE = 2,
	LOADING_KEXEC_IMAGE = 3,
	LOADING_KEXEC_INITRAMFS = 4,
};

static __always_inline u32 read_file_event(int id)
{
	if (id == (int)bpf_core_enum_value(enum kernel_read_file_id, READING_MODULE))
		return EV_KERNEL_MODULE;
	if (id == (int)bpf_core_enum_value(enum kernel_read_file_id, READING_KEXEC_IMAGE) ||
	    id == (int)bpf_core_enum_value(enum kernel_read_file_id, READING_KEXEC_INITRAMFS))
		return EV_KERNEL_KEXEC;
	return EV_NONE;
}

static __always_inline u32 load_data_event(int id)
{
	if (id == (int)bpf_core_enum_value(enum kernel_load_data_id, LOADING_MODULE))
		return EV_KERNEL_MODULE;
	if (id == (int)bpf_core_enum_value(enum kernel_load_data_id, LOADING_KEXEC_IMAGE) ||
	    id == (int)bpf_core_enum_value(enum kernel_load_data_id, LOADING_KEXEC_INITRAMFS))
		return EV_KERNEL_KEXEC;
	return EV_NONE;
}

SEC("lsm/kernel_read_file")
int BPF_PROG(kernel_read_file__system, struct file *file, int id, bool contents, int ret)
{
	u32 event = read_file_event(id), slot;
	struct scratch *s;

	HONOUR(ret);
	if (event == EV_NONE)
		return 0;
	s = event_begin(event, &slot);
	if (!s)
		return event_refused(slot);
	if (file)
		set_file(s, file);
	return event_end(s, slot);
}

SEC("lsm/kernel_load_data")
int BPF_PROG(kernel_load_data__system, int id, bool contents, int ret)
{
	u32 event = load_data_event(id), slot;
	struct scratch *s;

	HONOUR(ret);
	if (event == EV_NONE)
		return 0;
	s = event_begin(event, &slot);
	if (!s)
		return event_refused(slot);
	return event_end(s, slot);
}

SEC("lsm/kernel_module_request")
int BPF_PROG(kernel_module_request__system, char *name, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_KERNEL_MODULE, &slot);
	if (!s)
		return event_refused(slot);
	set_kernel_string(s, STR_MODULE_NAME, name);
	return event_end(s, slot);
}

/* The agent itself is let through: it must be able to load the policy that would let it through again. */
static __always_inline int bpf_event(int command)
{
	u32 slot, zero = 0, tgid = bpf_get_current_pid_tgid() >> 32;
	struct control *c = bpf_map_lookup_elem(&control, &zero);
	struct scratch *s;

	if (c && c->agent_pid == tgid)
		return 0;
	s = event_begin(EV_KERNEL_BPF, &slot);
	if (!s)
		return event_refused(slot);
	set_num(s, NUM_BPF_CMD, command);
	return event_end(s, slot);
}

SEC("lsm/bpf")
int BPF_PROG(bpf__system, int command, void *attr, unsigned int size, int ret)
{
	HONOUR(ret);
	return bpf_event(command);
}

/* v6.15 (082f1db02c80): whether the kernel itself asks is passed on. */
SEC("lsm/bpf")
int BPF_PROG(bpf__system_v2, int command, void *attr, unsigned int size, bool kernel, int ret)
{
	HONOUR(ret);
	if (kernel)
		return 0;
	return bpf_event(command);
}

static __always_inline int plain_event(u32 event)
{
	struct scratch *s;
	u32 slot;

	s = event_begin(event, &slot);
	if (!s)
		return event_refused(slot);
	return event_end(s, slot);
}

SEC("lsm/perf_event_open")
int BPF_PROG(perf_event_open__system, void *attr, int type, int ret)
{
	HONOUR(ret);
	return plain_event(EV_KERNEL_PERF);
}

/* v6.16 (cde4a7fc1e6d): the attributes are no longer passed. */
SEC("lsm/perf_event_open")
int BPF_PROG(perf_event_open__system_v2, int type, int ret)
{
	HONOUR(ret);
	return plain_event(EV_KERNEL_PERF);
}

static __always_inline void set_mount_point(struct scratch *s, const struct path *path)
{
	set_path(s, 0, BPF_CORE_READ(path, dentry), BPF_CORE_READ(path, mnt));
}

SEC("lsm/sb_mount")
int BPF_PROG(sb_mount__system, const char *source, const struct path *path, const char *type, unsigned long flags, void *data, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_KERNEL_MOUNT, &slot);
	if (!s)
		return event_refused(slot);
	set_mount_point(s, path);
	set_kernel_string(s, STR_MOUNT_SOURCE, source);
	set_kernel_string(s, STR_FILE_FSTYPE, type);
	set_num(s, NUM_MOUNT_FLAGS, flags);
	return event_end(s, slot);
}

SEC("lsm/move_mount")
int BPF_PROG(move_mount__system, const struct path *from, const struct path *to, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_KERNEL_MOUNT, &slot);
	if (!s)
		return event_refused(slot);
	set_mount_point(s, to);
	return event_end(s, slot);
}

SEC("lsm/sb_remount")
int BPF_PROG(sb_remount__system, struct super_block *sb, void *options, int ret)
{
	struct dentry *root;
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_KERNEL_MOUNT, &slot);
	if (!s)
		return event_refused(slot);
	root = BPF_CORE_READ(sb, s_root);
	set_kernel_string(s, STR_FILE_FSTYPE, BPF_CORE_READ(sb, s_type, name));
	set_path(s, 0, root, (void *)mount_of((u64)root));
	/* fsconfig(2) passes no flags: what it asks for is what mount(2) calls MS_REMOUNT. */
	set_num(s, NUM_MOUNT_FLAGS, MS_REMOUNT);
	return event_end(s, slot);
}

SEC("lsm/sb_umount")
int BPF_PROG(sb_umount__system, struct vfsmount *mount, int flags, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_KERNEL_UMOUNT, &slot);
	if (!s)
		return event_refused(slot);
	set_path(s, 0, BPF_CORE_READ(mount, mnt_root), mount);
	set_kernel_string(s, STR_FILE_FSTYPE, BPF_CORE_READ(mount, mnt_sb, s_type, name));
	return event_end(s, slot);
}

SEC("lsm/sb_pivotroot")
int BPF_PROG(sb_pivotroot__system, const struct path *old_path, const struct path *new_path, int ret)
{
	struct scratch *s;
	u32 slot;

	HONOUR(ret);
	s = event_begin(EV_KERNEL_PIVOT_ROOT, &slot);
	if (!s)
		return event_refused(slot);
	set_mount_point(s, old_path);
	set_path(s, 1, BPF_CORE_READ(new_path, dentry), BPF_CORE_READ(new_path, mnt));
	return event_end(s, slot);
}

SEC("lsm/userns_create")
int BPF_PROG(userns_create__system, const struct cred *cred, int ret)
{
	HONOUR(ret);
	return plain_event(EV_KERNEL_USERNS);
}

static __always_inline int io_uring_event(u64 operation)
{
	struct scratch *s;
	u32 slot;

	s = event_begin(EV_KERNEL_IO_URING, &slot);
	if (!s)
		return event_refused(slot);
	set_num(s, NUM_IO_URING_OP, operation);
	return event_end(s, slot);
}

SEC("lsm/uring_override_creds")
int BPF_PROG(uring_override_creds__system, const struct cred *new, int ret)
{
	HONOUR(ret);
	return io_uring_event(1);
}

SEC("lsm/uring_sqpoll")
int BPF_PROG(uring_sqpoll__system, int ret)
{
	HONOUR(ret);
	return io_uring_event(2);
}

SEC("lsm/uring_cmd")
int BPF_PROG(uring_cmd__system, void *command, int ret)
{
	HONOUR(ret);
	return io_uring_event(3);
}
