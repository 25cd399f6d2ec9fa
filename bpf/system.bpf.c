// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Kernel interfaces: the events kernel.*. */
#include <linux/elf.h>
#undef EV_NONE /* a version there */

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

/* ---- modules: decided when the kernel has read the image and before it looks at it, because the image holds the name ---- */

#define SECTIONS_CHUNK 32
#define SECTIONS_CHUNKS 64
#define SECTIONS_GOING 0
#define SECTIONS_FOUND 1
#define SECTIONS_UNKNOWN -1

/* What is known of an image: in scratch->steps, which no path of this event has used yet. */
enum module_image {
	IMAGE_START,
	IMAGE_SIZE,
	IMAGE_SECTIONS,      /* offset of the section headers */
	IMAGE_COUNT,
	IMAGE_STRINGS,       /* offset of the sections' names */
	IMAGE_NEXT,
};

static const union {
	char text[32];
	u64 word[4];
} this_module = { ".gnu.linkonce.this_module" };

/* Looks for the section that becomes the struct module among the next ones, as the kernel does (kernel/module/main.c, find_sec): the first
 * one of the name that is allocated. Where it is found its offset is in IMAGE_NEXT.
 */
__noinline int module_sections_chunk(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	u64 start, size, at, count, next;
	u32 i;

	if (!s)
		return SECTIONS_UNKNOWN;
	start = s->steps[IMAGE_START];
	size = s->steps[IMAGE_SIZE];
	count = s->steps[IMAGE_COUNT];
	next = s->steps[IMAGE_NEXT];
	for (i = 0; i < SECTIONS_CHUNK; i++, next++) {
		Elf64_Shdr section = {};
		u64 name[4] = {};

		if (next >= count)
			return SECTIONS_UNKNOWN;
		at = s->steps[IMAGE_SECTIONS] + next * sizeof(section);
		if (at >= size || bpf_probe_read_kernel(&section, sizeof(section), (void *)(start + at)))
			return SECTIONS_UNKNOWN;
		if (!(section.sh_flags & SHF_ALLOC))
			continue;
		at = s->steps[IMAGE_STRINGS] + section.sh_name;
		if (at >= size || bpf_probe_read_kernel(name, sizeof(".gnu.linkonce.this_module"), (void *)(start + at)))
			continue;
		if (name[0] == this_module.word[0] && name[1] == this_module.word[1] && name[2] == this_module.word[2] &&
		    name[3] == this_module.word[3]) {
			s->steps[IMAGE_NEXT] = section.sh_offset;
			return SECTIONS_FOUND;
		}
	}
	s->steps[IMAGE_NEXT] = next;
	return SECTIONS_GOING;
}

/* Where the sections and their names are. */
static __always_inline bool module_header(struct scratch *s, u64 start, u64 size)
{
	Elf64_Ehdr header = {};
	Elf64_Shdr strings = {};
	u64 at;

	if (size < sizeof(header) || bpf_probe_read_kernel(&header, sizeof(header), (void *)start))
		return false;
	if (*(u32 *)header.e_ident != (0x7f | 'E' << 8 | 'L' << 16 | 'F' << 24) || header.e_shentsize != sizeof(strings))
		return false;
	at = header.e_shoff + (u64)header.e_shstrndx * sizeof(strings);
	if (at >= size || bpf_probe_read_kernel(&strings, sizeof(strings), (void *)(start + at)))
		return false;
	s->steps[IMAGE_START] = start;
	s->steps[IMAGE_SIZE] = size;
	s->steps[IMAGE_SECTIONS] = header.e_shoff;
	s->steps[IMAGE_COUNT] = header.e_shnum;
	s->steps[IMAGE_STRINGS] = strings.sh_offset;
	s->steps[IMAGE_NEXT] = 1;
	return true;
}

/* Sets the name that a module has in its image: what lsmod shows. Uncertain where it is not there to be read: the image is compressed, or
 * none that the kernel would take.
 */
__noinline int module_name(u32 slot, u64 start, u64 size)
{
	struct scratch *s = scratch_at(slot);
	int status = SECTIONS_UNKNOWN;
	u64 offset;
	u32 i;

	if (!s)
		return 0;
	if (module_header(s, start, size)) {
		for (i = 0; i < SECTIONS_CHUNKS; i++) {
			status = module_sections_chunk(slot);
			if (status != SECTIONS_GOING)
				break;
		}
	}
	offset = s->steps[IMAGE_NEXT] + bpf_core_field_offset(struct module, name);
	if (status == SECTIONS_FOUND && offset < size)
		set_kernel_string(s, STR_MODULE_NAME, (void *)(start + offset));
	if (!has_str(s, STR_MODULE_NAME))
		s->str_uncertain |= STR_BIT(STR_MODULE_NAME);
	return 0;
}

static __always_inline int module_event(struct file *file, u64 image, u64 size)
{
	struct scratch *s;
	u32 slot;

	s = event_begin(EV_KERNEL_MODULE, &slot);
	if (!s)
		return event_refused(slot);
	set_num(s, NUM_MODULE_REQUESTED, 0);
	module_name(slot, image, size);
	if (file)
		set_file(s, file);
	return event_end(s, slot);
}

SEC("lsm/kernel_post_read_file")
int BPF_PROG(kernel_post_read_file__system, struct file *file, char *image, long size, int id, int ret)
{
	HONOUR(ret);
	return read_file_event(id) == EV_KERNEL_MODULE ? module_event(file, (u64)image, size) : 0;
}

SEC("lsm/kernel_post_load_data")
int BPF_PROG(kernel_post_load_data__system, char *image, long size, int id, char *description, int ret)
{
	HONOUR(ret);
	return load_data_event(id) == EV_KERNEL_MODULE ? module_event(NULL, (u64)image, size) : 0;
}

SEC("lsm/kernel_read_file")
int BPF_PROG(kernel_read_file__system, struct file *file, int id, bool contents, int ret)
{
	u32 event = read_file_event(id), slot;
	struct scratch *s;

	HONOUR(ret);
	if (event == EV_NONE || (event == EV_KERNEL_MODULE && contents))
		return 0;
	s = event_begin(event, &slot);
	if (!s)
		return event_refused(slot);
	set_num(s, NUM_MODULE_REQUESTED, 0);
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
	if (event == EV_NONE || (event == EV_KERNEL_MODULE && contents))
		return 0;
	s = event_begin(event, &slot);
	if (!s)
		return event_refused(slot);
	set_num(s, NUM_MODULE_REQUESTED, 0);
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
	set_num(s, NUM_MODULE_REQUESTED, 1);
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
	struct task_struct *task = (void *)bpf_get_current_task();

	HONOUR(ret);
	/* A program of type SYSCALL asks as the kernel for whoever runs it. */
	if (kernel && BPF_CORE_READ(task, flags) & PF_KTHREAD)
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
