# SPDX-License-Identifier: Apache-2.0
"""binding.c and the system's libbpf in, the extension module bpfence.kernel._libbpf out.

Run by setuptools (cffi_modules in setup.py), or by hand for a build in place: `python src/bpfence/kernel/build_ffi.py`.
Signatures are checked by the C compiler against libbpf's own headers; every call gives up the interpreter lock.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
OLDEST_LIBBPF = "1.0"

DECLARATIONS = """
struct bpf_object; struct bpf_program; struct bpf_map; struct bpf_link; struct btf; struct bpfence_drain;

const char *libbpf_version_string(void);
int libbpf_num_possible_cpus(void);

/* objects */
int bpfence_open(const char *path, const char *name, int maps_only, struct bpf_object **object, int *types);
int bpfence_load(struct bpf_object *object);
int bpfence_aim(const struct bpf_program *extension, const struct bpf_program *target, int target_fd, unsigned int function);
int bpfence_extend(int extension_fd, int target_fd, unsigned int function);
void bpf_object__close(struct bpf_object *object);
struct btf *bpf_object__btf(const struct bpf_object *object);
struct bpf_program *bpf_object__next_program(const struct bpf_object *object, struct bpf_program *previous);
struct bpf_map *bpf_object__next_map(const struct bpf_object *object, const struct bpf_map *previous);

/* programs */
const char *bpf_program__name(const struct bpf_program *program);
const char *bpf_program__section_name(const struct bpf_program *program);
int bpf_program__set_autoload(struct bpf_program *program, bool autoload);
int bpf_program__set_log_level(struct bpf_program *program, unsigned int level);
int bpf_program__set_log_buf(struct bpf_program *program, char *buffer, size_t size);
int bpf_program__fd(const struct bpf_program *program);
int bpf_program__set_type(struct bpf_program *program, int type);
int bpf_program__set_expected_attach_type(struct bpf_program *program, int type);
int bpf_program__set_attach_target(struct bpf_program *program, int attach_prog_fd, const char *function);
struct bpf_link *bpf_program__attach(const struct bpf_program *program);
struct bpf_link *bpf_program__attach_trace(const struct bpf_program *program);
struct bpf_link *bpf_program__attach_iter(const struct bpf_program *program, const void *options);
int bpf_link__fd(const struct bpf_link *link);
void bpf_link__disconnect(struct bpf_link *link);
int bpf_link__destroy(struct bpf_link *link);
int bpf_iter_create(int link_fd);

/* maps */
const char *bpf_map__name(const struct bpf_map *map);
int bpf_map__fd(const struct bpf_map *map);
int bpf_map__reuse_fd(struct bpf_map *map, int fd);
int bpf_map__set_max_entries(struct bpf_map *map, unsigned int max_entries);
int bpf_map__set_type(struct bpf_map *map, int type);
unsigned int bpf_map__map_flags(const struct bpf_map *map);
int bpf_map__set_map_flags(struct bpf_map *map, unsigned int flags);
const void *bpf_map__initial_value(struct bpf_map *map, size_t *size);
int bpf_map__set_initial_value(struct bpf_map *map, const void *data, size_t size);
int bpf_map_lookup_elem(int fd, const void *key, void *value);
int bpf_map_update_elem(int fd, const void *key, const void *value, unsigned long long flags);
int bpf_map_delete_elem(int fd, const void *key);
int bpf_obj_pin(int fd, const char *path);
int bpf_obj_get(const char *path);
int bpf_map_get_fd_by_id(unsigned int id);
int bpfence_map_create(unsigned int type, const char *name, unsigned int key_size, unsigned int value_size, unsigned int entries,
                       unsigned int flags);
int bpfence_write_entries(int fd, const char *keys, size_t key_size, const char *values, size_t value_size, unsigned int count);
int bpfence_delete_entries(int fd, const char *keys, size_t key_size, unsigned int count);
int bpfence_read_keys(int fd, char *keys, size_t key_size, unsigned int limit);
void bpfence_store_u32(void *address, unsigned int value);
unsigned int bpfence_load_u32(const void *address);
struct bpf_map_info { unsigned int type, key_size, value_size, max_entries, map_flags; ...; };
int bpfence_object_info(int fd, struct bpf_map_info *map_info);
int bpfence_attach_event(int program_fd, unsigned int type, unsigned long long config, const char *name, unsigned long long offset,
                         unsigned long long cookie);
int bpfence_attach_aimed(int program_fd, unsigned int attach_type, unsigned long long cookie);
int bpfence_link_program(int link_fd);
long long bpfence_program_misses(int fd);
int bpfence_program_runs(int fd, unsigned long long *runs, unsigned long long *nanoseconds);
int bpfence_stack_push(int fd, const void *value);

/* BTF */
struct btf_type { unsigned int name_off, info, type; ...; };
struct btf_param { unsigned int name_off, type; };
struct btf_enum { unsigned int name_off; int val; };
struct btf_var_secinfo { unsigned int type, offset, size; };
struct btf *btf__load_vmlinux_btf(void);
void btf__free(struct btf *btf);
const char *btf__name_by_offset(const struct btf *btf, unsigned int offset);
const struct btf_type *btf__type_by_id(const struct btf *btf, unsigned int id);
int btf__find_by_name_kind(const struct btf *btf, const char *name, unsigned int kind);
unsigned short btf_kind(const struct btf_type *type);
unsigned short btf_vlen(const struct btf_type *type);
struct btf_param *btf_params(const struct btf_type *type);
struct btf_enum *btf_enum(const struct btf_type *type);
struct btf_var_secinfo *btf_var_secinfos(const struct btf_type *type);
unsigned int bpfence_btf_list(const struct btf *btf, unsigned int kind, const char *prefix, unsigned int *ids, unsigned int limit);
int bpfence_btf_variable(const struct btf *btf, const char *section, const char *name, unsigned int *offset, unsigned int *size);

/* probes */
int bpfence_probe_load(unsigned int type, unsigned int attach_type, unsigned int btf_id, char *log, size_t log_size);
int bpfence_probe_extension(unsigned int type, unsigned int attach_type, unsigned int btf_id);
int bpfence_symbol(const char *name, unsigned long long *address);
int bpfence_run(int fd, unsigned int repeat);
int bpfence_lsm_list(unsigned long long *ids, unsigned int limit);
int bpfence_read_unmounted(const char *type, const char *path, char *data, size_t size);
int bpfence_mount_bpffs(const char *path);

/* messages */
void bpfence_log_start(int debug);
size_t bpfence_log_length(void);
const char *bpfence_log_text(void);

/* drain */
int bpfence_drain_new(const int *map_fds, int n_rings, unsigned int max_entries, size_t max_bytes, struct bpfence_drain **result);
void bpfence_drain_free(struct bpfence_drain *drain);
int bpfence_drain_epoll(const struct bpfence_drain *drain);
int bpfence_drain_read(struct bpfence_drain *drain, int timeout);
const char *bpfence_drain_data(const struct bpfence_drain *drain, size_t *length);
const unsigned int *bpfence_drain_entries(const struct bpfence_drain *drain);
unsigned long long bpfence_drain_failed(const struct bpfence_drain *drain);

static const int BPF_PROG_TYPE_TRACING, BPF_PROG_TYPE_LSM, BPF_MODIFY_RETURN, BPF_LSM_MAC;
static const int BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC;
static const int BTF_KIND_FUNC, BTF_KIND_PTR, BTF_KIND_CONST, BTF_KIND_VOLATILE, BTF_KIND_RESTRICT, BTF_KIND_TYPEDEF, BTF_KIND_ENUM;
static const int BTF_KIND_DATASEC, BTF_KIND_STRUCT;
"""


def _pkg_config(*arguments: str) -> list[str]:
    try:
        done = subprocess.run(["pkg-config", *arguments, "libbpf"], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise SystemExit("pkg-config is not installed (Debian: apt install pkg-config libbpf-dev)") from error
    if done.returncode:
        hint = "(Debian: apt install libbpf-dev)"
        raise SystemExit(f"libbpf {OLDEST_LIBBPF} or later with its headers is needed {hint}: {done.stderr.strip()}")
    return done.stdout.split()


def make_builder() -> FFI:
    """The cffi builder. SystemExit, with a hint, where libbpf is missing or too old."""
    _pkg_config("--print-errors", "--atleast-version", OLDEST_LIBBPF)
    builder = FFI()
    builder.cdef(DECLARATIONS)
    include = [word[2:] for word in _pkg_config("--cflags-only-I")]
    libraries = [word[2:] for word in _pkg_config("--libs-only-l")]
    folders = [word[2:] for word in _pkg_config("--libs-only-L")]
    builder.set_source(
        "bpfence.kernel._libbpf",
        (HERE / "binding.c").read_text(encoding="utf-8"),
        include_dirs=include,
        library_dirs=folders,
        libraries=libraries,
        extra_compile_args=["-O2", "-Wall", "-Wno-unused-function"],
    )
    return builder


ffibuilder = make_builder()

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        built = Path(ffibuilder.compile(tmpdir=folder))
        # The name setuptools gives it: cffi's modules keep to the stable ABI. Two names side by side would hide the newer one.
        partial = HERE / "_libbpf.partial"
        shutil.copyfile(built, partial)
        partial.replace(HERE / "_libbpf.abi3.so")
