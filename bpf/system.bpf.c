// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Kernel interfaces: the events kernel.*. */
#include <linux/elf.h>
#undef EV_NONE /* a version there */

#include "hook.h"

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

static __always_inline int decide_module(struct scratch *s, u32 slot, struct file *file, u64 image, u64 size)
{
	set_num(s, NUM_MODULE_REQUESTED, 0);
	module_name(slot, image, size);
	if (file)
		set_file(s, file);
	return decide(slot);
}

SEC("lsm/kernel_post_read_file")
int HOOK_PROG_IF(kernel_post_read_file__system, EV_KERNEL_MODULE, read_file_event(id) == EV_KERNEL_MODULE, struct file *file, char *image,
		 long size, int id, int ret)
{
	return decide_module(s, slot, file, (u64)image, size);
}

SEC("lsm/kernel_post_load_data")
int HOOK_PROG_IF(kernel_post_load_data__system, EV_KERNEL_MODULE, load_data_event(id) == EV_KERNEL_MODULE, char *image, long size, int id,
		 char *description, int ret)
{
	return decide_module(s, slot, NULL, (u64)image, size);
}

/* A module that is read is decided when its image is there. */
static __always_inline bool image_follows(u32 event, bool contents)
{
	return event == EV_KERNEL_MODULE && contents;
}

SEC("lsm/kernel_read_file")
int HOOK_PROG_IF(kernel_read_file__system, read_file_event(id), !image_follows(read_file_event(id), contents), struct file *file, int id,
		 bool contents, int ret)
{
	set_num(s, NUM_MODULE_REQUESTED, 0);
	if (file)
		set_file(s, file);
	return decide(slot);
}

SEC("lsm/kernel_load_data")
int HOOK_PROG_IF(kernel_load_data__system, load_data_event(id), !image_follows(load_data_event(id), contents), int id, bool contents,
		 int ret)
{
	set_num(s, NUM_MODULE_REQUESTED, 0);
	return decide(slot);
}

SEC("lsm/kernel_module_request")
int HOOK_PROG(kernel_module_request__system, EV_KERNEL_MODULE, char *name, int ret)
{
	set_num(s, NUM_MODULE_REQUESTED, 1);
	set_kernel_string(s, STR_MODULE_NAME, name);
	return decide(slot);
}

/* The agent itself is let through: it must be able to load the policy that would let it through again. */
static __always_inline bool is_agent(void)
{
	u32 zero = 0;
	struct control *c = bpf_map_lookup_elem(&control, &zero);

	return c && c->agent_pid == bpf_get_current_pid_tgid() >> 32;
}

SEC("lsm/bpf")
int HOOK_PROG_IF(bpf__system, EV_KERNEL_BPF, !is_agent(), int command, void *attr, unsigned int size, int ret)
{
	set_num(s, NUM_BPF_CMD, command);
	return decide(slot);
}

/* A program of type SYSCALL asks as the kernel for whoever runs it. */
static __always_inline bool kernel_asks(bool kernel)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return kernel && BPF_CORE_READ(task, flags) & PF_KTHREAD;
}

/* v6.15 (082f1db02c80): whether the kernel itself asks is passed on. */
SEC("lsm/bpf")
int HOOK_PROG_IF(bpf__system_v2, EV_KERNEL_BPF, !kernel_asks(kernel) && !is_agent(), int command, void *attr, unsigned int size,
		 bool kernel, int ret)
{
	set_num(s, NUM_BPF_CMD, command);
	return decide(slot);
}

SEC("lsm/perf_event_open")
int HOOK_PROG(perf_event_open__system, EV_KERNEL_PERF, void *attr, int type, int ret)
{
	return decide(slot);
}

/* v6.16 (cde4a7fc1e6d): the attributes are no longer passed. */
SEC("lsm/perf_event_open")
int HOOK_PROG(perf_event_open__system_v2, EV_KERNEL_PERF, int type, int ret)
{
	return decide(slot);
}

static __always_inline void set_mount_point(struct scratch *s, const struct path *path)
{
	set_path(s, 0, BPF_CORE_READ(path, dentry), BPF_CORE_READ(path, mnt));
}

SEC("lsm/sb_mount")
int HOOK_PROG(sb_mount__system, EV_KERNEL_MOUNT, const char *source, const struct path *path, const char *type, unsigned long flags,
	      void *data, int ret)
{
	set_mount_point(s, path);
	set_kernel_string(s, STR_MOUNT_SOURCE, source);
	set_kernel_string(s, STR_FILE_FSTYPE, type);
	set_num(s, NUM_MOUNT_FLAGS, flags);
	return decide(slot);
}

SEC("lsm/move_mount")
int HOOK_PROG(move_mount__system, EV_KERNEL_MOUNT, const struct path *from, const struct path *to, int ret)
{
	set_mount_point(s, to);
	return decide(slot);
}

SEC("lsm/sb_remount")
int HOOK_PROG(sb_remount__system, EV_KERNEL_MOUNT, struct super_block *sb, void *options, int ret)
{
	struct dentry *root = BPF_CORE_READ(sb, s_root);

	set_kernel_string(s, STR_FILE_FSTYPE, BPF_CORE_READ(sb, s_type, name));
	set_path(s, 0, root, (void *)engine(ENGINE_MOUNT, slot, (u64)root, 0, 0));
	/* fsconfig(2) passes no flags: what it asks for is what mount(2) calls MS_REMOUNT. */
	set_num(s, NUM_MOUNT_FLAGS, MS_REMOUNT);
	return decide(slot);
}

SEC("lsm/sb_umount")
int HOOK_PROG(sb_umount__system, EV_KERNEL_UMOUNT, struct vfsmount *mount, int flags, int ret)
{
	set_path(s, 0, BPF_CORE_READ(mount, mnt_root), mount);
	set_kernel_string(s, STR_FILE_FSTYPE, BPF_CORE_READ(mount, mnt_sb, s_type, name));
	return decide(slot);
}

SEC("lsm/sb_pivotroot")
int HOOK_PROG(sb_pivotroot__system, EV_KERNEL_PIVOT_ROOT, const struct path *old_path, const struct path *new_path, int ret)
{
	set_mount_point(s, old_path);
	set_path(s, 1, BPF_CORE_READ(new_path, dentry), BPF_CORE_READ(new_path, mnt));
	return decide(slot);
}

SEC("lsm/userns_create")
int HOOK_PROG(userns_create__system, EV_KERNEL_USERNS, const struct cred *cred, int ret)
{
	return decide(slot);
}

static __always_inline int decide_io_uring(struct scratch *s, u32 slot, u64 operation)
{
	set_num(s, NUM_IO_URING_OP, operation);
	return decide(slot);
}

SEC("lsm/uring_override_creds")
int HOOK_PROG(uring_override_creds__system, EV_KERNEL_IO_URING, const struct cred *new, int ret)
{
	return decide_io_uring(s, slot, 1);
}

SEC("lsm/uring_sqpoll")
int HOOK_PROG(uring_sqpoll__system, EV_KERNEL_IO_URING, int ret)
{
	return decide_io_uring(s, slot, 2);
}

SEC("lsm/uring_cmd")
int HOOK_PROG(uring_cmd__system, EV_KERNEL_IO_URING, void *command, int ret)
{
	return decide_io_uring(s, slot, 3);
}
