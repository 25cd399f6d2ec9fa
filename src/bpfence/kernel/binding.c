// SPDX-License-Identifier: Apache-2.0
/* What libbpf's own functions do not give Python in one call. Compiled into bpfence.kernel._libbpf by build_ffi.py, which declares
 * these functions to cffi; documented in _libbpf.pyi. Everything that fails returns a negative errno.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>

/* ---- libbpf's messages: collected per thread, the newest LOG_LIMIT bytes kept ---- */

#define LOG_LIMIT (1 << 20)

static __thread struct {
	char *data;
	size_t length;
} message_log;

static int log_debug;

static int log_print(enum libbpf_print_level level, const char *format, va_list arguments)
{
	size_t room;
	va_list again;
	int length;
	char *at;

	if (level == LIBBPF_DEBUG && !log_debug)
		return 0;
	if (!message_log.data && !(message_log.data = malloc(2 * LOG_LIMIT)))
		return 0;
	if (message_log.length > LOG_LIMIT) {
		memmove(message_log.data, message_log.data + message_log.length - LOG_LIMIT / 2, LOG_LIMIT / 2);
		message_log.length = LOG_LIMIT / 2;
	}
	room = 2 * LOG_LIMIT - message_log.length;
	at = message_log.data + message_log.length;
	va_copy(again, arguments);
	length = vsnprintf(at, room, format, arguments);
	if (length >= 0 && (size_t)length >= room) {
		/* One message longer than the room, a verifier log: its end is what matters. */
		char *whole = malloc((size_t)length + 1);

		if (whole) {
			vsnprintf(whole, (size_t)length + 1, format, again);
			memcpy(at, whole + length - (room - 1), room - 1);
			free(whole);
		}
		length = (int)(room - 1);
	}
	va_end(again);
	if (length > 0)
		message_log.length += (size_t)length;
	return 0;
}

void bpfence_log_start(int debug)
{
	log_debug = debug;
	libbpf_set_print(log_print);
	message_log.length = 0;
}

size_t bpfence_log_length(void)
{
	return message_log.length;
}

const char *bpfence_log_text(void)
{
	return message_log.data;
}

/* ---- objects ---- */

/* An extension is loaded for one function of a program that is loaded already; libbpf wants that program's descriptor before it loads any.
 * Where it is one of the same object, it is there by the time the extension's turn has come.
 */
#define AIMS 4

static __thread struct {
	const struct bpf_program *extension, *target;
	int target_fd; /* where there is no `target` in the object */
	unsigned int function;
} aims[AIMS];

static int aim_prepare(struct bpf_program *program, struct bpf_prog_load_opts *options, long cookie)
{
	int i;

	(void)cookie;
	for (i = 0; i < AIMS; i++) {
		if (aims[i].extension != program)
			continue;
		options->attach_prog_fd = aims[i].target ? bpf_program__fd(aims[i].target) : aims[i].target_fd;
		options->attach_btf_id = aims[i].function;
		return options->attach_prog_fd < 0 ? -ENOENT : 0;
	}
	return -ENOENT;
}

/* Aims an extension at a function of a program of the same object, or of one by its descriptor. For the next load in this thread. */
int bpfence_aim(const struct bpf_program *extension, const struct bpf_program *target, int target_fd, unsigned int function)
{
	int i;

	for (i = 0; i < AIMS; i++) {
		if (aims[i].extension)
			continue;
		aims[i].extension = extension;
		aims[i].target = target;
		aims[i].target_fd = target_fd;
		aims[i].function = function;
		return 0;
	}
	return -E2BIG;
}

int bpfence_load(struct bpf_object *object)
{
	int result = bpf_object__load(object);

	memset(aims, 0, sizeof(aims));
	return result;
}

/* Puts a loaded extension into the place of a function of a program: the link, or a negative errno. */
int bpfence_extend(int extension_fd, int target_fd, unsigned int function)
{
	LIBBPF_OPTS(bpf_link_create_opts, options, .target_btf_id = function);

	return bpf_link_create(extension_fd, target_fd, 0, &options);
}

static int register_extensions(void)
{
	LIBBPF_OPTS(libbpf_prog_handler_opts, options, .prog_prepare_load_fn = aim_prepare);
	static int registered;

	if (registered <= 0)
		registered = libbpf_register_prog_handler("freplace/", BPF_PROG_TYPE_EXT, 0, &options);
	return registered;
}

/* A file with type information about nothing, on a descriptor that stays open; its path. */
static const char *no_types(void)
{
	static char path[32];
	struct btf *btf;
	const void *data;
	unsigned int size;
	int fd;

	if (path[0])
		return path;
	btf = btf__new_empty();
	data = btf ? btf__raw_data(btf, &size) : NULL;
	fd = data ? memfd_create("bpfence-no-types", MFD_CLOEXEC) : -1;
	if (fd >= 0 && write(fd, data, size) == (ssize_t)size)
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	btf__free(btf);
	return path[0] ? path : NULL;
}

/* ---- the kernel's types, for relocation ----
 *
 * For each type that an object's programs name, libbpf goes through all of the kernel's types, and works out the name of each that is of its
 * kind: three million instructions a name. It is given a copy in which only types of those names have one, and which ends behind the last
 * type that is no function: these are most, and stand at the end where pahole has put them there. Numbers of types stay what they are.
 */

#define KERNEL_TYPES "/sys/kernel/btf/vmlinux"
#define NAMES 1024
/* A type that some kernels have in a module: where the kernel itself does not, libbpf must look into the modules, which it does without a copy. */
#define IN_MODULE "unix_sock"

struct names {
	const char *name[NAMES];
	unsigned int length[NAMES];
};

/* The hash of a name up to what makes it a variant ("___"), whose length is set. */
static unsigned int name_hash(const char *name, unsigned int *length)
{
	unsigned int hash = 5381, at;

	for (at = 0; name[at]; at++) {
		if (name[at] == '_' && at && name[at + 1] == '_' && name[at + 2] == '_' && name[at + 3])
			break;
		hash = hash * 33 + (unsigned char)name[at];
	}
	*length = at;
	return hash;
}

/* The place of a name, or the one where it would be. */
static unsigned int name_place(const struct names *names, const char *name, unsigned int *length)
{
	unsigned int place = name_hash(name, length) % NAMES;

	while (names->name[place] && (names->length[place] != *length || memcmp(names->name[place], name, *length)))
		place = (place + 1) % NAMES;
	return place;
}

/* The names of the structures and unions of an object. -E2BIG: too many. */
static int names_of(const struct btf *btf, struct names *names)
{
	unsigned int count = btf ? btf__type_cnt(btf) : 0, id, n = 0, length;

	for (id = 1; id < count; id++) {
		const struct btf_type *type = btf__type_by_id(btf, id);
		const char *name = btf__name_by_offset(btf, type->name_off);
		unsigned int place;

		if (!btf_is_composite(type) || !name || !name[0])
			continue;
		place = name_place(names, name, &length);
		if (names->name[place])
			continue;
		if (++n > NAMES / 2)
			return -E2BIG;
		names->name[place] = name;
		names->length[place] = length;
	}
	return 0;
}

/* Bytes of a type in BTF; 0: of a kind that is not known. */
static size_t type_size(const struct btf_type *type)
{
	size_t many = btf_vlen(type);

	switch (btf_kind(type)) {
	case BTF_KIND_PTR:
	case BTF_KIND_FWD:
	case BTF_KIND_TYPEDEF:
	case BTF_KIND_VOLATILE:
	case BTF_KIND_CONST:
	case BTF_KIND_RESTRICT:
	case BTF_KIND_FUNC:
	case BTF_KIND_FLOAT:
	case BTF_KIND_TYPE_TAG:
		return sizeof(*type);
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case BTF_KIND_DECL_TAG:
		return sizeof(*type) + 4;
	case BTF_KIND_ARRAY:
		return sizeof(*type) + sizeof(struct btf_array);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		return sizeof(*type) + many * sizeof(struct btf_member);
	case BTF_KIND_ENUM:
		return sizeof(*type) + many * sizeof(struct btf_enum);
	case BTF_KIND_FUNC_PROTO:
		return sizeof(*type) + many * sizeof(struct btf_param);
	case BTF_KIND_DATASEC:
		return sizeof(*type) + many * sizeof(struct btf_var_secinfo);
	case BTF_KIND_ENUM64:
		return sizeof(*type) + many * 12;
	}
	return 0;
}

/* The largest number of a type that a type refers to. */
static unsigned int type_refers(const struct btf_type *type)
{
	unsigned int most = 0, i, many = btf_vlen(type);

	switch (btf_kind(type)) {
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		for (i = 0; i < many; i++)
			most = btf_members(type)[i].type > most ? btf_members(type)[i].type : most;
		return most;
	case BTF_KIND_FUNC_PROTO:
		for (i = 0, most = type->type; i < many; i++)
			most = btf_params(type)[i].type > most ? btf_params(type)[i].type : most;
		return most;
	case BTF_KIND_DATASEC:
		for (i = 0; i < many; i++)
			most = btf_var_secinfos(type)[i].type > most ? btf_var_secinfos(type)[i].type : most;
		return most;
	case BTF_KIND_ARRAY:
		return btf_array(type)->type > btf_array(type)->index_type ? btf_array(type)->type : btf_array(type)->index_type;
	case BTF_KIND_INT:
	case BTF_KIND_FLOAT:
	case BTF_KIND_ENUM:
	case BTF_KIND_ENUM64:
	case BTF_KIND_FWD:
		return 0;
	}
	return type->type;
}

static bool type_is_function(const struct btf_type *type)
{
	switch (btf_kind(type)) {
	case BTF_KIND_FUNC:
	case BTF_KIND_FUNC_PROTO:
	case BTF_KIND_DECL_TAG:
	case BTF_KIND_VAR:
	case BTF_KIND_DATASEC:
	case BTF_KIND_PTR:
	case BTF_KIND_CONST:
	case BTF_KIND_VOLATILE:
	case BTF_KIND_RESTRICT:
	case BTF_KIND_ARRAY:
	case BTF_KIND_TYPE_TAG:
		return true;
	}
	return false;
}

static char *read_whole(const char *path, size_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat about;
	char *data = NULL;
	ssize_t done;

	*size = 0;
	if (fd < 0)
		return NULL;
	if (!fstat(fd, &about) && about.st_size > 0)
		data = malloc(about.st_size);
	while (data && *size < (size_t)about.st_size && (done = read(fd, data + *size, about.st_size - *size)) > 0)
		*size += done;
	close(fd);
	return data;
}

/* Takes the names of what has none of `names`, and finds the end: bytes of the types that are kept, or a negative errno. */
static long types_cut(char *types, size_t size, const char *text, size_t text_size, const struct names *names)
{
	unsigned int id = 0, last = 0, length;
	bool in_kernel = false;
	size_t at, step;

	for (at = 0; at < size; at += step) {
		struct btf_type *type = (struct btf_type *)(types + at);

		id++;
		step = size - at < sizeof(*type) ? 0 : type_size(type);
		if (!step || step > size - at || type->name_off >= text_size)
			return -EINVAL;
		if (!type_is_function(type))
			last = id;
		if (!btf_is_composite(type) || !type->name_off)
			continue;
		if (!names->name[name_place(names, text + type->name_off, &length)])
			type->name_off = 0;
		else if (!strcmp(text + type->name_off, IN_MODULE))
			in_kernel = true;
	}
	if (!in_kernel)
		return -ENOENT;
	for (at = 0, id = 1; id <= last && at < size; id++) {
		struct btf_type *type = (struct btf_type *)(types + at);
		unsigned int refers = type_refers(type);

		last = refers > last ? refers : last;
		at += type_size(type);
	}
	return at;
}

/* Writes the copy for an object to a file: 0, or a negative errno. */
static int types_for(const struct bpf_object *object, int fd)
{
	struct names *names = calloc(1, sizeof(*names));
	struct btf_header *header = NULL;
	size_t size = 0, whole;
	int result = -EINVAL;
	long kept;

	if (!names || names_of(bpf_object__btf(object), names) || !(header = (void *)read_whole(KERNEL_TYPES, &size)))
		goto end;
	if (size < sizeof(*header) || header->magic != BTF_MAGIC || header->hdr_len < sizeof(*header) || header->hdr_len > size)
		goto end;
	whole = size - header->hdr_len;
	if (header->type_off || header->type_len > whole || header->str_off > whole || header->str_len > whole - header->str_off ||
	    !header->str_len || ((char *)header)[header->hdr_len + header->str_off + header->str_len - 1])
		goto end;

	char *types = (char *)header + header->hdr_len, *text = types + header->str_off;

	kept = types_cut(types, header->type_len, text, header->str_len, names);
	if (kept < 0)
		goto end;
	header->type_len = kept;
	header->str_off = kept;

	struct iovec parts[] = {
		{ .iov_base = header, .iov_len = header->hdr_len },
		{ .iov_base = types, .iov_len = kept },
		{ .iov_base = text, .iov_len = header->str_len },
	};

	result = writev(fd, parts, 3) == (ssize_t)(header->hdr_len + kept + header->str_len) ? 0 : -EIO;
end:
	free(header);
	free(names);
	return result;
}

static struct bpf_object *open_with(const char *path, const char *name, const char *types)
{
	LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = name, .btf_custom_path = types);

	return bpf_object__open_file(path, &options);
}

/* `types`: a descriptor that is to be closed with the object, -1 where there is none. `maps_only`: no program of it is going to be loaded.
 * libbpf relocates the functions that programs share all the same; with no types, it finds nothing and goes on.
 */
int bpfence_open(const char *path, const char *name, int maps_only, struct bpf_object **object, int *types)
{
	int registered = register_extensions(), made;
	char place[32];

	*types = -1;
	memset(aims, 0, sizeof(aims)); /* of an object that was closed without a load */
	if (registered < 0)
		return registered;
	if (!maps_only) {
		/* The file that libbpf is to read when it loads is told when it opens, and what stands in it depends on the object. */
		*types = memfd_create("bpfence-types", MFD_CLOEXEC);
		snprintf(place, sizeof(place), "/proc/self/fd/%d", *types);
	}
	*object = open_with(path, name, maps_only ? no_types() : *types < 0 ? NULL
									    : place);
	if (!*object) {
		made = -errno;
	} else if (*types < 0 || !types_for(*object, *types)) {
		return 0;
	} else {
		bpf_object__close(*object);
		*object = open_with(path, name, NULL);
		made = *object ? 0 : -errno;
	}
	if (*types >= 0)
		close(*types);
	*types = -1;
	return made;
}

int bpfence_map_create(unsigned int type, const char *name, unsigned int key_size, unsigned int value_size, unsigned int entries,
		       unsigned int flags)
{
	LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = flags);

	return bpf_map_create(type, name, key_size, value_size, entries, &options);
}

int bpfence_write_entries(int fd, const char *keys, size_t key_size, const char *values, size_t value_size, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		int result = bpf_map_update_elem(fd, keys + i * key_size, values + i * value_size, BPF_ANY);

		if (result)
			return result;
	}
	return 0;
}

int bpfence_delete_entries(int fd, const char *keys, size_t key_size, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		int result = bpf_map_delete_elem(fd, keys + i * key_size);

		if (result && result != -ENOENT)
			return result;
	}
	return 0;
}

/* Keys of a hash map, at most `limit`. A key that vanishes under the walk restarts it, so some may come twice. */
int bpfence_read_keys(int fd, char *keys, size_t key_size, unsigned int limit)
{
	const void *previous = NULL;
	unsigned int n;

	for (n = 0; n < limit; n++) {
		int result = bpf_map_get_next_key(fd, previous, keys + n * key_size);

		if (result == -ENOENT)
			return (int)n;
		if (result)
			return result;
		previous = keys + n * key_size;
	}
	return (int)n;
}

void bpfence_store_u32(void *address, unsigned int value)
{
	__atomic_store_n((unsigned int *)address, value, __ATOMIC_SEQ_CST);
}

unsigned int bpfence_load_u32(const void *address)
{
	return __atomic_load_n((const unsigned int *)address, __ATOMIC_SEQ_CST);
}

int bpfence_object_info(int fd, struct bpf_map_info *map_info)
{
	unsigned int size = sizeof(*map_info);

	memset(map_info, 0, size);
	return bpf_obj_get_info_by_fd(fd, map_info, &size);
}

/* Attaches a loaded program to an event of perf's: a tracepoint by its id, or a kprobe or uprobe by the name of the function or file and an offset,
 * with a cookie. The descriptor of the link.
 */
int bpfence_attach_event(int program_fd, unsigned int type, unsigned long long config, const char *name, unsigned long long offset,
			 unsigned long long cookie)
{
	LIBBPF_OPTS(bpf_link_create_opts, options, .perf_event.bpf_cookie = cookie);
	struct perf_event_attr event = {
		.size = sizeof(event),
		.type = type,
		.config = config,
		.sample_period = 1,
		.wakeup_events = 1,
	};
	int fd, link;

	if (name) {
		event.config1 = (unsigned long long)name;
		event.config2 = offset;
	}
	/* Of tracepoints an event of one processor is enough: its program runs on all. */
	fd = syscall(SYS_perf_event_open, &event, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		return -errno;
	link = bpf_link_create(program_fd, fd, BPF_PERF_EVENT, &options);
	close(fd);
	return link;
}

/* Attaches a loaded LSM or fmod_ret program where it was aimed at, with a cookie. The descriptor of the link, or a negative errno. */
int bpfence_attach_aimed(int program_fd, unsigned int attach_type, unsigned long long cookie)
{
	LIBBPF_OPTS(bpf_link_create_opts, options, .tracing.cookie = cookie);

	return bpf_link_create(program_fd, 0, attach_type, &options);
}

/* The program of a link: a descriptor, or a negative errno. */
int bpfence_link_program(int link_fd)
{
	struct bpf_link_info info = { 0 };
	unsigned int size = sizeof(info);
	int error = bpf_obj_get_info_by_fd(link_fd, &info, &size);

	return error ? error : bpf_prog_get_fd_by_id(info.prog_id);
}

/* How often the kernel has not run a program because it was at work on that CPU already; -1 where the kernel does not do that, or not tell.
 * Linux 5.12: 9ed9e9ba2337.
 */
long long bpfence_program_misses(int fd)
{
	struct bpf_prog_info info = { 0 };
	unsigned int size = sizeof(info);

	if (bpf_obj_get_info_by_fd(fd, &info, &size) || size < offsetof(struct bpf_prog_info, recursion_misses) + sizeof(info.recursion_misses))
		return -1;
	return info.recursion_misses;
}

/* How often a program has run and for how many nanoseconds in all, as far as the kernel kept statistics (bpf_stats_enabled). 0, or a negative
 * errno. Linux 5.1: 492ecee892c2.
 */
int bpfence_program_runs(int fd, unsigned long long *runs, unsigned long long *nanoseconds)
{
	struct bpf_prog_info info = { 0 };
	unsigned int size = sizeof(info);
	int error = bpf_obj_get_info_by_fd(fd, &info, &size);

	*runs = info.run_cnt;
	*nanoseconds = info.run_time_ns;
	return error;
}

/* One value on a stack, whose maps have no keys. */
int bpfence_stack_push(int fd, const void *value)
{
	return bpf_map_update_elem(fd, NULL, value, BPF_ANY);
}

/* ---- probes ---- */

/* Loads (attaches nothing) the two instructions "return 0". A descriptor, or a negative errno. */
int bpfence_probe_load(unsigned int type, unsigned int attach_type, unsigned int btf_id, char *log, size_t log_size)
{
	struct bpf_insn program[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = attach_type, .attach_btf_id = btf_id, .log_buf = log,
		    .log_size = log_size, .log_level = log ? 1 : 0);

	return bpf_prog_load(type, "bpfence_probe", "GPL", program, 2, &options);
}

/* Whether a function of such a program can be replaced: loads, attaches nothing. 0, or a negative errno. */
int bpfence_probe_extension(unsigned int type, unsigned int attach_type, unsigned int btf_id)
{
	struct bpf_insn target[] = {
		{ .code = BPF_JMP | BPF_CALL, .src_reg = BPF_PSEUDO_CALL, .imm = 2 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	struct bpf_func_info functions[2] = { { .insn_off = 0 }, { .insn_off = 3 } };
	LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = attach_type, .attach_btf_id = btf_id, .func_info = functions,
		    .func_info_cnt = 2, .func_info_rec_size = sizeof(functions[0]));
	LIBBPF_OPTS(bpf_prog_load_opts, extending, .func_info = functions, .func_info_cnt = 1, .func_info_rec_size = sizeof(functions[0]));
	struct btf *btf = btf__new_empty();
	int number, prototype, main, place, fd = -ENOMEM, extension = -ENOMEM;

	if (!btf)
		return -ENOMEM;
	number = btf__add_int(btf, "int", 4, BTF_INT_SIGNED);
	prototype = btf__add_func_proto(btf, number);
	main = btf__add_func(btf, "probe", BTF_FUNC_GLOBAL, prototype);
	place = btf__add_func(btf, "place", BTF_FUNC_GLOBAL, prototype);
	if (number < 0 || prototype < 0 || main < 0 || place < 0)
		goto end;
	fd = btf__load_into_kernel(btf);
	if (fd)
		goto end;
	functions[0].type_id = main;
	functions[1].type_id = place;
	options.prog_btf_fd = extending.prog_btf_fd = btf__fd(btf);
	fd = bpf_prog_load(type, "bpfence_probe", "GPL", target, 5, &options);
	if (fd < 0)
		goto end;
	extending.attach_prog_fd = fd;
	extending.attach_btf_id = place;
	extension = bpf_prog_load(BPF_PROG_TYPE_EXT, "bpfence_probe", "GPL", target + 1, 2, &extending);
	if (extension >= 0)
		close(extension);
	close(fd);
	fd = extension < 0 ? extension : 0;
end:
	btf__free(btf);
	return fd;
}

#define SYMBOL_ROOM 32
#define STACK_STORE(at, value) { .code = BPF_ST | BPF_MEM | BPF_W, .dst_reg = 10, .off = (at), .imm = (value) }

/* The address of a symbol of the kernel, by a program that is run once: 0, or a negative errno (Linux 5.16, d6aef08a872b). */
int bpfence_symbol(const char *name, unsigned long long *address)
{
	LIBBPF_OPTS(bpf_prog_load_opts, options, .prog_flags = BPF_F_SLEEPABLE);
	LIBBPF_OPTS(bpf_test_run_opts, run, .ctx_in = address, .ctx_size_in = sizeof(*address));
	unsigned int word[SYMBOL_ROOM / 4] = { 0 }, size = strlen(name) + 1;
	int fd, result;

	if (size > SYMBOL_ROOM)
		return -EINVAL;
	memcpy(word, name, size);

	struct bpf_insn program[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 6, .src_reg = 1 },
		STACK_STORE(-32, word[0]),
		STACK_STORE(-28, word[1]),
		STACK_STORE(-24, word[2]),
		STACK_STORE(-20, word[3]),
		STACK_STORE(-16, word[4]),
		STACK_STORE(-12, word[5]),
		STACK_STORE(-8, word[6]),
		STACK_STORE(-4, word[7]),
		{ .code = BPF_ST | BPF_MEM | BPF_DW, .dst_reg = 10, .off = -40 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 1, .src_reg = 10 },
		{ .code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = 1, .imm = -32 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 2, .imm = size },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 4, .src_reg = 10 },
		{ .code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = 4, .imm = -40 },
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_kallsyms_lookup_name },
		{ .code = BPF_LDX | BPF_MEM | BPF_DW, .dst_reg = 1, .src_reg = 10, .off = -40 },
		{ .code = BPF_STX | BPF_MEM | BPF_DW, .dst_reg = 6, .src_reg = 1 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};

	*address = 0;
	fd = bpf_prog_load(BPF_PROG_TYPE_SYSCALL, "bpfence_symbol", "GPL", program, sizeof(program) / sizeof(program[0]), &options);
	if (fd < 0)
		return fd;
	result = bpf_prog_test_run_opts(fd, &run);
	close(fd);
	return result;
}

int bpfence_run(int fd, unsigned int repeat)
{
	LIBBPF_OPTS(bpf_test_run_opts, options);
	unsigned int i;

	for (i = 0; i < repeat; i++) {
		int result = bpf_prog_test_run_opts(fd, &options);

		if (result)
			return result;
	}
	return 0;
}

/* The ids of the types of one kind whose name starts with `prefix`: how many there are; at most `limit` are stored. */
unsigned int bpfence_btf_list(const struct btf *btf, unsigned int kind, const char *prefix, unsigned int *ids, unsigned int limit)
{
	unsigned int count = btf__type_cnt(btf), length = strlen(prefix), id, n = 0;

	for (id = 1; id < count; id++) {
		const struct btf_type *type = btf__type_by_id(btf, id);
		const char *name;

		if (btf_kind(type) != kind)
			continue;
		name = btf__name_by_offset(btf, type->name_off);
		if (!name || strncmp(name, prefix, length))
			continue;
		if (n < limit)
			ids[n] = id;
		n++;
	}
	return n;
}

/* Offset and size of a variable in a data section of an object's BTF; offset < 0: there is none. */
int bpfence_btf_variable(const struct btf *btf, const char *section, const char *name, unsigned int *offset, unsigned int *size)
{
	const struct btf_var_secinfo *variable;
	int id = btf__find_by_name_kind(btf, section, BTF_KIND_DATASEC), i;
	const struct btf_type *type;

	if (id < 0)
		return id;
	type = btf__type_by_id(btf, id);
	variable = btf_var_secinfos(type);
	for (i = 0; i < btf_vlen(type); i++, variable++) {
		const struct btf_type *named = btf__type_by_id(btf, variable->type);
		const char *text = named ? btf__name_by_offset(btf, named->name_off) : NULL;

		if (!text || strcmp(text, name))
			continue;
		*offset = variable->offset;
		*size = variable->size;
		return 0;
	}
	return -ENOENT;
}

/* The numbers of the active LSMs (Linux 6.8, ad4aff9ec25f), at most `limit`. */
int bpfence_lsm_list(unsigned long long *ids, unsigned int limit)
{
	unsigned int size = limit * sizeof(*ids);
	long count = syscall(461, ids, &size, 0);

	return count < 0 ? -errno : (int)count;
}

/* Reads a small file of a file system that is mounted nowhere: through a mount of its own that no name space sees (Linux 5.2). */
int bpfence_read_unmounted(const char *type, const char *path, char *data, size_t size)
{
	int context, mount = -1, fd = -1, result;

	context = syscall(430 /* fsopen */, type, 1 /* FSOPEN_CLOEXEC */);
	if (context < 0)
		return -errno;
	if (!syscall(431 /* fsconfig */, context, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0))
		mount = syscall(432 /* fsmount */, context, 1 /* FSMOUNT_CLOEXEC */, 0x2 | 0x4 | 0x8 /* nosuid, nodev, noexec */);
	if (mount >= 0)
		fd = openat(mount, path, O_RDONLY | O_CLOEXEC);
	result = fd >= 0 ? (int)read(fd, data, size) : -1;
	if (result < 0)
		result = -errno;
	if (fd >= 0)
		close(fd);
	if (mount >= 0)
		close(mount);
	close(context);
	return result;
}

int bpfence_mount_bpffs(const char *path)
{
	return mount("bpf", path, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RELATIME, "mode=700") ? -errno : 0;
}

/* ---- the drain: records of several ring buffers, copied in batches ---- */

#define DRAIN_RINGS 4

struct bpfence_drain {
	int epoll;
	int n_rings;
	struct {
		struct bpfence_drain *drain;
		struct ring_buffer *buffer;
		unsigned int index;
	} ring[DRAIN_RINGS];
	char *data;               /* records, one after the other */
	size_t length, capacity;
	unsigned int *entries;    /* per record: index of the ring, size */
	unsigned int n_entries, max_entries;
	size_t max_bytes;
	unsigned long long failed; /* records that memory lacked for */
};

static int drain_record(void *context, void *record, size_t size)
{
	struct bpfence_drain *drain = *(struct bpfence_drain **)context;
	unsigned int index = (unsigned int)((char *)context - (char *)drain->ring) / sizeof(drain->ring[0]);

	if (drain->length + size > drain->capacity) {
		size_t capacity = 2 * (drain->length + size);
		char *data = realloc(drain->data, capacity);

		if (!data) {
			drain->failed++;
			return -ENOMEM;
		}
		drain->data = data;
		drain->capacity = capacity;
	}
	memcpy(drain->data + drain->length, record, size);
	drain->length += size;
	drain->entries[2 * drain->n_entries] = index;
	drain->entries[2 * drain->n_entries + 1] = (unsigned int)size;
	drain->n_entries++;
	/* The record is consumed all the same: libbpf moves the position on before it stops (ringbuf_process_ring). */
	return drain->n_entries >= drain->max_entries || drain->length >= drain->max_bytes ? -ECANCELED : 0;
}

void bpfence_drain_free(struct bpfence_drain *drain)
{
	int i;

	if (!drain)
		return;
	for (i = 0; i < drain->n_rings; i++)
		ring_buffer__free(drain->ring[i].buffer);
	if (drain->epoll >= 0)
		close(drain->epoll);
	free(drain->entries);
	free(drain->data);
	free(drain);
}

int bpfence_drain_new(const int *map_fds, int n_rings, unsigned int max_entries, size_t max_bytes, struct bpfence_drain **result)
{
	struct bpfence_drain *drain = calloc(1, sizeof(*drain));
	int i, error;

	if (!drain)
		return -ENOMEM;
	drain->max_entries = max_entries;
	drain->max_bytes = max_bytes;
	drain->capacity = max_bytes;
	drain->epoll = epoll_create1(EPOLL_CLOEXEC);
	drain->entries = calloc(max_entries, 2 * sizeof(*drain->entries));
	drain->data = malloc(drain->capacity);
	if (drain->epoll < 0 || !drain->entries || !drain->data || n_rings > DRAIN_RINGS) {
		error = drain->epoll < 0 ? -errno : (n_rings > DRAIN_RINGS ? -EINVAL : -ENOMEM);
		goto fail;
	}
	for (i = 0; i < n_rings; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.u32 = (unsigned int)i };

		drain->ring[i].drain = drain;
		drain->ring[i].buffer = ring_buffer__new(map_fds[i], drain_record, &drain->ring[i], NULL);
		if (!drain->ring[i].buffer) {
			error = -errno;
			goto fail;
		}
		drain->n_rings = i + 1;
		if (epoll_ctl(drain->epoll, EPOLL_CTL_ADD, map_fds[i], &event)) {
			error = -errno;
			goto fail;
		}
	}
	*result = drain;
	return 0;
fail:
	bpfence_drain_free(drain);
	return error;
}

int bpfence_drain_epoll(const struct bpfence_drain *drain)
{
	return drain->epoll;
}

/* Waits up to `timeout` ms for records, then takes one batch, earlier rings first. How many there are. */
int bpfence_drain_read(struct bpfence_drain *drain, int timeout)
{
	struct epoll_event events[DRAIN_RINGS];
	int i, result;

	drain->length = 0;
	drain->n_entries = 0;
	if (timeout && epoll_wait(drain->epoll, events, DRAIN_RINGS, timeout) < 0)
		return errno == EINTR ? 0 : -errno;
	for (i = 0; i < drain->n_rings; i++) {
		result = ring_buffer__consume(drain->ring[i].buffer);
		if (result == -ECANCELED)
			break;
		if (result < 0)
			return result;
	}
	return (int)drain->n_entries;
}

const char *bpfence_drain_data(const struct bpfence_drain *drain, size_t *length)
{
	*length = drain->length;
	return drain->data;
}

const unsigned int *bpfence_drain_entries(const struct bpfence_drain *drain)
{
	return drain->entries;
}

unsigned long long bpfence_drain_failed(const struct bpfence_drain *drain)
{
	return drain->failed;
}
