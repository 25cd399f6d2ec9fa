# SPDX-License-Identifier: Apache-2.0
"""A BPF object file and descriptors in, maps, links and records out: libbpf with Python types and exceptions.

Called by `features` and `engine` only; nothing else of bpfence touches bpf(2). Knows nothing of bpfence's own maps and programs.

Every failure is a KernelError made from one table (ERRORS) and the last lines that libbpf said in this thread. Descriptors are plain
ints that their owner closes.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import resource
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from bpfence.errors import KernelError
from bpfence.mounts import mounts

if TYPE_CHECKING:
    from bpfence.kernel._libbpf import CData

try:
    from bpfence.kernel._libbpf import ffi, lib
except ImportError as error:
    raise KernelError(
        f"bpfence's binding of libbpf is not built or does not fit this Python: {error}",
        missing="bpfence.kernel._libbpf",
        hint="install bpfence with libbpf 1.0 or later and its headers present, or run `python src/bpfence/kernel/build_ffi.py`",
    ) from error


class Problem(NamedTuple):
    """What an errno of bpf(2) means to the user."""

    text: str
    missing: str = ""
    hint: str = ""


NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)
ENOTSUPP: Final = 524
"""The kernel's own number, which never should reach user space but does from bpf(2)."""

ERRORS: Final[Mapping[int, Problem]] = {
    errno.EPERM: Problem(
        "not permitted",
        "privileges",
        "run as root or with CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN; `bpfence doctor` tells whether this kernel refuses such programs",
    ),
    errno.EACCES: Problem("the verifier refused the program", "verifier", "report this with the lines above and the kernel's version"),
    errno.EINVAL: Problem("the kernel does not know this kind of program, map or attachment", "kernel feature", "see `bpfence doctor`"),
    errno.ENOENT: Problem("no such object"),
    errno.ESRCH: Problem("the kernel's BTF does not have a function or type that is needed", "kernel BTF", "see `bpfence doctor`"),
    errno.E2BIG: Problem("too large for this kernel: the program is too complex, or a map is full"),
    errno.ENOMEM: Problem("no memory", "memory", "free memory, or raise the memory limit of the service's cgroup"),
    errno.EMFILE: Problem("too many open files", "open files", "raise the limit: ulimit -n, or LimitNOFILE= of the service"),
    errno.ENFILE: Problem("too many open files on this host", "open files", "raise the host's limit: fs.file-max"),
    errno.ENOSPC: Problem("no room left"),
    errno.EBUSY: Problem("in use by another"),
    errno.EEXIST: Problem("already there"),
    errno.ELOOP: Problem("too many links"),
    errno.ENOSYS: Problem("the kernel has no bpf(2)", "CONFIG_BPF_SYSCALL", "use a kernel built with CONFIG_BPF_SYSCALL=y"),
    errno.EOPNOTSUPP: Problem("this kernel does not support it", "kernel feature", "see `bpfence doctor`"),
    ENOTSUPP: Problem("this kernel does not support it on this architecture", "BPF trampolines", "see `bpfence doctor`"),
}

LOG_LINES: Final = 12
"""How many of libbpf's last lines go into an exception."""


class NoDescriptorsError(KernelError):
    """This process, or the host, has no descriptor left: no property of what was asked for."""


def limit_of(number: int) -> str:
    """What to say of the limit that an errno is about; "" where it is about none of this process."""
    return f"; {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} may be open here (RLIMIT_NOFILE)" if number == errno.EMFILE else ""


def failure(number: int, action: str, log: str = "") -> KernelError:
    """The exception for an errno (positive or negative) met while doing `action`."""
    number = abs(number)
    problem = ERRORS.get(number, Problem(os.strerror(number)))
    name = errno.errorcode.get(number, "ENOTSUPP" if number == ENOTSUPP else str(number))
    tail = "\n".join(f"  {line}" for line in log.strip().splitlines()[-LOG_LINES:])
    kind = NoDescriptorsError if number in NO_DESCRIPTORS else KernelError
    text = f"{action}: {problem.text} ({name}){limit_of(number)}"
    return kind(text + (f"\n{tail}" if tail else ""), missing=problem.missing, hint=problem.hint)


@contextlib.contextmanager
def telling_descriptors(action: str) -> Iterator[None]:
    """Makes a NoDescriptorsError of an OSError for want of descriptors."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_DESCRIPTORS:
            raise
        raise failure(error.errno, action) from error


def check(result: int, action: str, log: str = "") -> int:
    """`result` itself unless it is a negative errno, which raises KernelError."""
    if result < 0:
        raise failure(result, action, log)
    return result


class Messages:
    """What libbpf said in this thread since `messages()` was entered."""

    def text(self) -> str:
        length = lib.bpfence_log_length()
        return bytes(ffi.buffer(lib.bpfence_log_text(), length)).decode("utf-8", "replace") if length else ""


@contextlib.contextmanager
def messages(debug: bool = False) -> Iterator[Messages]:
    """Collects libbpf's messages of this thread; nested uses share one collection."""
    lib.bpfence_log_start(debug)
    yield Messages()


class VerifierLog:
    """Memory that the verifier writes about one program to, to be kept until that is loaded."""

    def __init__(self, size: int) -> None:
        self.buffer = ffi.new("char[]", size)

    def text(self) -> str:
        return ffi.string(self.buffer).decode("utf-8", "replace")


class LoadFailure(msgspec.Struct, frozen=True):
    """Why an object did not load. `program` is empty where no single program is to blame."""

    number: int
    program: str
    reason: str


_BLAME: Final = (
    re.compile(r"prog '([^']+)': (?:BPF program load failed|failed to load|failed to prepare load attributes)"),
    re.compile(r"prog '([^']+)': relo #\d+: .*(?:fail|unresolved|not found)"),
    re.compile(r"prog '([^']+)': failed to"),
)
_VERIFIER_LOG: Final = re.compile(r"-- BEGIN PROG LOAD LOG --\n(.*?)-- END PROG LOAD LOG --", re.S)
_STATISTICS: Final = re.compile(r"^(processed \d+ insns|verification time|stack depth|max_states|insn_processed)")
REASON_LINES: Final = 4


def parse_load_log(number: int, log: str) -> LoadFailure:
    """Finds, in libbpf's messages about a failed load, the program to blame and the last lines that say why."""
    program = ""
    for pattern in _BLAME:
        if found := pattern.findall(log):
            program = found[0]
            break
    if verifier := _VERIFIER_LOG.findall(log):
        lines = [line for line in verifier[-1].strip().splitlines() if line.strip() and not _STATISTICS.match(line)]
    else:
        lines = [line.removeprefix("libbpf: ") for line in log.strip().splitlines() if "failed to load object" not in line]
    number = abs(number)
    name = errno.errorcode.get(number, "ENOTSUPP" if number == ENOTSUPP else str(number))
    return LoadFailure(number, program, f"{name}: {' | '.join(line.strip() for line in lines[-REASON_LINES:])}" if lines else name)


def version() -> str:
    """libbpf's version, as "v1.1"."""
    return ffi.string(lib.libbpf_version_string()).decode()


class Map:
    """One map by descriptor. Keys and values are bytes of exactly the map's sizes; a per-CPU value is a list. Owns the descriptor."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        info = ffi.new("struct bpf_map_info *")
        check(lib.bpfence_object_info(fd, info), f"reading about map {name}")
        self.type: int = info.type
        self.key_size: int = info.key_size
        self.value_size: int = info.value_size
        self.max_entries: int = info.max_entries

    def get(self, key: bytes) -> bytes | None:
        """The value, or None. Not for per-CPU maps."""
        value = ffi.new("char[]", self.value_size)
        return bytes(ffi.buffer(value)) if self._get(key, value) else None

    def get_per_cpu(self, key: bytes) -> list[bytes]:
        """The value on every possible CPU, [] where the key is absent."""
        stride = (self.value_size + 7) & ~7
        value = ffi.new("char[]", stride * check(lib.libbpf_num_possible_cpus(), "counting processors"))
        if not self._get(key, value):
            return []
        data = bytes(ffi.buffer(value))
        return [data[at : at + self.value_size] for at in range(0, len(data), stride)]

    def _get(self, key: bytes, value: CData) -> bool:
        self._fits(key, self.key_size)
        result = lib.bpf_map_lookup_elem(self.fd, ffi.from_buffer("char[]", key), value)
        if result == -errno.ENOENT:
            return False
        check(result, f"reading map {self.name}")
        return True

    def put(self, key: bytes, value: bytes) -> None:
        self._fits(key, self.key_size)
        self._fits(value, self.value_size)
        result = lib.bpf_map_update_elem(self.fd, ffi.from_buffer("char[]", key), ffi.from_buffer("char[]", value), 0)
        check(result, f"writing map {self.name}")

    def push(self, value: bytes) -> None:
        """One more value on a stack."""
        self._fits(value, self.value_size)
        check(lib.bpfence_stack_push(self.fd, ffi.from_buffer("char[]", value)), f"writing map {self.name}")

    def put_many(self, keys: bytes, values: bytes) -> None:
        """Entries whose keys, and whose values, follow one another."""
        count = len(keys) // self.key_size
        self._fits(keys, count * self.key_size)
        self._fits(values, count * self.value_size)
        result = lib.bpfence_write_entries(
            self.fd, ffi.from_buffer("char[]", keys), self.key_size, ffi.from_buffer("char[]", values), self.value_size, count
        )
        check(result, f"writing map {self.name}")

    def delete(self, key: bytes) -> bool:
        """Whether the key was there."""
        self._fits(key, self.key_size)
        result = lib.bpf_map_delete_elem(self.fd, ffi.from_buffer("char[]", key))
        if result == -errno.ENOENT:
            return False
        check(result, f"deleting from map {self.name}")
        return True

    def delete_many(self, keys: bytes) -> None:
        count = len(keys) // self.key_size
        self._fits(keys, count * self.key_size)
        check(lib.bpfence_delete_entries(self.fd, ffi.from_buffer("char[]", keys), self.key_size, count), f"deleting from map {self.name}")

    def copy(self) -> Map:
        """The same map by a descriptor of its own."""
        return Map(self.name, os.dup(self.fd))

    def count(self) -> int:
        """How many entries a hash map has; what changes meanwhile may be missing, or count twice."""
        buffer = ffi.new("char[]", (self.max_entries + 1) * self.key_size)
        return check(lib.bpfence_read_keys(self.fd, buffer, self.key_size, self.max_entries + 1), f"counting in map {self.name}")

    def all_keys(self) -> list[bytes]:
        """Every key of a hash map; what changes meanwhile may be missing."""
        limit = self.max_entries + 1
        buffer = ffi.new("char[]", limit * self.key_size)
        count = check(lib.bpfence_read_keys(self.fd, buffer, self.key_size, limit), f"reading the keys of map {self.name}")
        data = bytes(ffi.buffer(buffer, count * self.key_size))
        return list(dict.fromkeys(data[at : at + self.key_size] for at in range(0, len(data), self.key_size)))

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _fits(self, data: bytes, size: int) -> None:
        if len(data) != size:
            raise ValueError(f"map {self.name} takes {size} bytes here, not {len(data)}")


def new_page(name: str, size: int, data: memoryview) -> int:
    """The descriptor of a new array map with one value of `size` bytes that begins with `data`, the rest zeros.

    It is filled through mmap (Linux 5.5, fc9702273e2e): an update would make the kernel allocate the value once more, in 5.10 as
    contiguous memory.
    """
    if len(data) > size:
        raise ValueError(f"{len(data)} bytes do not fit into a page of {size}")
    fd = check(lib.bpfence_map_create(lib.BPF_MAP_TYPE_ARRAY, name.encode(), 4, size, 1, lib.BPF_F_MMAPABLE), "creating an array map")
    try:
        with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
            memory[: len(data)] = data
    except BaseException:
        os.close(fd)
        raise
    return fd


def new_table(name: str, key_size: int, value_size: int, entries: int) -> Map:
    """A new hash table whose entries are allocated when they are put there."""
    made = lib.bpfence_map_create(lib.BPF_MAP_TYPE_HASH, name.encode(), key_size, value_size, entries, lib.BPF_F_NO_PREALLOC)
    fd = check(made, "creating a hash table")
    try:
        return Map(name, fd)
    except BaseException:
        os.close(fd)
        raise


def pin(fd: int, path: Path) -> None:
    """OSError, as for any other file system."""
    _filed(lib.bpf_obj_pin(fd, os.fsencode(path)), path)


def open_pin(path: Path) -> int:
    """The descriptor of what is pinned there. OSError, as for any other file system."""
    return _filed(lib.bpf_obj_get(os.fsencode(path)), path)


def _filed(result: int, path: Path) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result), str(path))
    return result


def store_u32(memory: memoryview, offset: int, value: int) -> None:
    """One atomic store of a little-endian u32 into mapped memory."""
    lib.bpfence_store_u32(ffi.from_buffer("char[]", memory[offset : offset + 4], require_writable=True), value)


def load_u32(memory: memoryview, offset: int) -> int:
    return lib.bpfence_load_u32(ffi.from_buffer("char[]", memory[offset : offset + 4]))


class Object:
    """An opened object file: choose programs, set constants, share maps, load once. Use as a context manager. `maps_only`: no program is
    going to be loaded; then loading costs little.

    Closing it closes its own descriptors; what was duplicated or pinned before lives on.
    """

    def __init__(self, path: Path, name: str = "bpfence", *, maps_only: bool = False) -> None:
        result, types = ffi.new("struct bpf_object **"), ffi.new("int *")
        with messages() as log:
            opened = lib.bpfence_open(os.fsencode(path), name.encode(), maps_only, result, types)
            check(opened, f"opening the BPF object {path}", log.text())
        self.path = path
        self._types: int = types[0]
        self._object = result[0]
        self.programs = {ffi.string(lib.bpf_program__name(p)).decode(): p for p in _walk(lib.bpf_object__next_program, self._object)}
        self.maps = {_map_name(m): m for m in _walk(lib.bpf_object__next_map, self._object)}
        for program in self.programs.values():
            lib.bpf_program__set_autoload(program, False)

    def __enter__(self) -> Object:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._object:
            lib.bpf_object__close(self._object)
            if self._types >= 0:
                os.close(self._types)
            self._object = ffi.NULL
            self.programs = {}
            self.maps = {}

    def section(self, program: str) -> str:
        return ffi.string(lib.bpf_program__section_name(self.programs[program])).decode()

    def constants(self) -> tuple[str, ...]:
        """Names of the variables in .rodata."""
        btf = lib.bpf_object__btf(self._object)
        kind = lib.BTF_KIND_DATASEC
        found = lib.btf__find_by_name_kind(btf, b".rodata", kind) if btf else -1
        if found < 0:
            return ()
        return tuple(_datasec_names(btf, found))

    def _constant(self, name: str) -> tuple[CData, bytearray, int, int]:
        btf = lib.bpf_object__btf(self._object)
        offset, size, total = ffi.new("unsigned int *"), ffi.new("unsigned int *"), ffi.new("size_t *")
        if not btf or lib.bpfence_btf_variable(btf, b".rodata", name.encode(), offset, size) < 0 or ".rodata" not in self.maps:
            raise KeyError(name)
        section = self.maps[".rodata"]
        value = lib.bpf_map__initial_value(section, total)
        data = bytearray(ffi.buffer(value, total[0]))
        if not size[0] or offset[0] + size[0] > len(data):
            raise KeyError(name)
        return section, data, offset[0], size[0]

    def constant(self, name: str) -> int:
        """The value of an integer in .rodata. KeyError: there is none."""
        _, data, offset, size = self._constant(name)
        return int.from_bytes(data[offset : offset + size], "little")

    def set_constant(self, name: str, value: int) -> None:
        """Sets an integer of .rodata, before load. KeyError: there is none; OverflowError: it does not fit."""
        section, data, offset, size = self._constant(name)
        data[offset : offset + size] = int(value).to_bytes(size, "little", signed=value < 0)
        result = lib.bpf_map__set_initial_value(section, ffi.from_buffer("char[]", data), len(data))
        check(result, f"setting the constant {name}")

    def resize(self, name: str, entries: int) -> None:
        """How many entries a map is to have, before load."""
        check(lib.bpf_map__set_max_entries(self.maps[name], entries), f"sizing map {name}")

    def replace_map(self, name: str) -> None:
        """Makes a plain table of a map that this kernel does not have, before load; what would use it must not be reached."""
        check(lib.bpf_map__set_type(self.maps[name], lib.BPF_MAP_TYPE_HASH), f"replacing map {name}")
        self.resize(name, 1)

    def allocate_late(self, name: str) -> None:
        """Entries of a hash table are to be allocated when they are put there, before load: not all of them when the map is made."""
        flags = lib.bpf_map__map_flags(self.maps[name]) | lib.BPF_F_NO_PREALLOC
        check(lib.bpf_map__set_map_flags(self.maps[name], flags), f"map {name}")

    def share(self, maps: Mapping[str, Map]) -> None:
        """Uses existing maps instead of new ones, by name."""
        for name, own in self.maps.items():
            if name in maps:
                check(lib.bpf_map__reuse_fd(own, maps[name].fd), f"sharing map {name}")

    def choose(self, program: str) -> None:
        """`program` is to be loaded."""
        check(lib.bpf_program__set_autoload(self.programs[program], True), f"choosing program {program}")

    def modify_return(self, program: str, function: str) -> None:
        """Turns an LSM program into one that runs before a kernel function and may return in its place (fmod_ret)."""
        handle = self.programs[program]
        with messages() as log:
            check(lib.bpf_program__set_type(handle, lib.BPF_PROG_TYPE_TRACING), f"program {program}")
            check(lib.bpf_program__set_expected_attach_type(handle, lib.BPF_MODIFY_RETURN), f"program {program}")
            result = lib.bpf_program__set_attach_target(handle, 0, function.encode())
            check(result, f"aiming program {program} at {function}", log.text())

    def aim_hook(self, program: str, hook: str) -> None:
        """Aims an LSM program at another hook than its section says."""
        with messages() as log:
            result = lib.bpf_program__set_attach_target(self.programs[program], 0, hook.encode())
            check(result, f"aiming program {program} at {hook}", log.text())

    def function(self, name: str) -> int:
        """The id of a function in the object's BTF. KeyError: there is none."""
        found = lib.btf__find_by_name_kind(lib.bpf_object__btf(self._object), name.encode(), lib.BTF_KIND_FUNC)
        if found <= 0:
            raise KeyError(name)
        return found

    def aim(self, extension: str, function: str, target: str | int) -> None:
        """`extension` is to be loaded, for `function` of a program of this kind: one that is loaded with it, or the descriptor of one
        that was loaded from this file before.
        """
        self.choose(extension)
        program, fd = (self.programs[target], -1) if isinstance(target, str) else (ffi.NULL, target)
        check(lib.bpfence_aim(self.programs[extension], program, fd, self.function(function)), f"aiming program {extension}")

    def keep_log(self, program: str, level: int, size: int) -> VerifierLog:
        """Has the verifier write its log of `program` as it loads, at most `size` bytes: BPF_LOG_* of Linux's bpf_verifier.h in `level`."""
        log = VerifierLog(size)
        check(lib.bpf_program__set_log_level(self.programs[program], level), f"program {program}")
        check(lib.bpf_program__set_log_buf(self.programs[program], log.buffer, size), f"program {program}")
        return log

    def load(self, debug: bool = False) -> LoadFailure | None:
        """Creates the maps and loads the chosen programs: all, or none and why. The object is of no use after a failure."""
        with messages(debug) as log:
            result = lib.bpfence_load(self._object)
            return parse_load_log(result, log.text()) if result < 0 else None

    def take_maps(self) -> dict[str, Map]:
        """The loaded maps, on descriptors of their own."""
        return {name: Map(name, os.dup(lib.bpf_map__fd(own))) for name, own in self.maps.items()}

    def attach(self, program: str) -> int:
        """Attaches a loaded program; the descriptor of the link, which is gone when the last descriptor and pin of it are."""
        handle = self.programs[program]
        section = self.section(program)
        with messages() as log:
            if section.startswith("iter/"):
                link = lib.bpf_program__attach_iter(handle, ffi.NULL)
            elif section.startswith("lsm/"):
                # Also for those turned into fmod_ret: libbpf 1.2 and later forget the section's own attach function then
                link = lib.bpf_program__attach_trace(handle)
            else:
                link = lib.bpf_program__attach(handle)
            if not link:
                raise failure(ffi.errno, f"attaching program {program}", log.text())
        try:
            return os.dup(lib.bpf_link__fd(link))
        finally:
            # Its way to detach is to close its own descriptor; ours keeps the link. (Disconnected, it would leave it open.)
            lib.bpf_link__destroy(link)

    def fd(self, program: str) -> int:
        """A loaded program's descriptor, owned by the object."""
        return check(lib.bpf_program__fd(self.programs[program]), f"program {program}")


def _walk(following: object, owner: CData) -> Iterator[CData]:
    assert callable(following)
    item = following(owner, ffi.NULL)
    while item:
        yield item
        item = following(owner, item)


def _map_name(handle: CData) -> str:
    """The name as in the source; a data section's is ".rodata" whatever libbpf put in front."""
    name = ffi.string(lib.bpf_map__name(handle)).decode()
    return name[name.index(".") :] if "." in name else name


def _datasec_names(btf: CData, found: int) -> Iterator[str]:
    section = lib.btf__type_by_id(btf, found)
    variables = lib.btf_var_secinfos(section)
    for index in range(lib.btf_vlen(section)):
        variable = lib.btf__type_by_id(btf, variables[index].type)
        yield ffi.string(lib.btf__name_by_offset(btf, variable.name_off)).decode()


def program_of(link_fd: int) -> int:
    """A descriptor of the program that a link holds. KernelError, also without CAP_SYS_ADMIN."""
    return check(lib.bpfence_link_program(link_fd), "finding the program of a link")


def misses(program_fd: int) -> int:
    """How many runs of a program the kernel has skipped because it was at work on that CPU already; 0 where the kernel never does that."""
    return max(0, lib.bpfence_program_misses(program_fd))


def runs(program_fd: int) -> tuple[int, int]:
    """How often a program has run, and for how many nanoseconds in all, while the kernel kept statistics (kernel.bpf_stats_enabled)."""
    found, spent = ffi.new("unsigned long long *"), ffi.new("unsigned long long *")
    check(lib.bpfence_program_runs(program_fd, found, spent), "reading what a program has cost")
    return int(found[0]), int(spent[0])


def extend(extension_fd: int, program_fd: int, function: int) -> int:
    """Puts a loaded extension into the place of a function of a program, whose BTF has it as `function`: the descriptor of the link."""
    return check(lib.bpfence_extend(extension_fd, program_fd, function), "extending a program")


def attach_event(program_fd: int, type_: int, config: int, name: bytes | None, offset: int, cookie: int) -> int:
    """Attaches a loaded program to an event of perf's: the descriptor of the link, or a negative errno."""
    return int(lib.bpfence_attach_event(program_fd, type_, config, name or ffi.NULL, offset, cookie))


def attach_aimed(program_fd: int, cookie: int, *, modify_return: bool) -> int:
    """Attaches a loaded LSM program, or one that was made a fmod_ret program, to what it was aimed at: the descriptor of the link."""
    attach_type = lib.BPF_MODIFY_RETURN if modify_return else lib.BPF_LSM_MAC
    return check(lib.bpfence_attach_aimed(program_fd, attach_type, cookie), "attaching a program with a cookie")


def cpu_ids() -> int:
    """One more than the largest number that a processor of this machine can have."""
    text = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii")
    return int(text.strip().replace("-", ",").split(",")[-1]) + 1


def run_iterator(link_fd: int) -> bytes:
    """Runs an iterator program over all its objects; what it printed, at most 64 KiB."""
    fd = check(lib.bpf_iter_create(link_fd), "starting an iterator")
    output = bytearray()
    try:
        while chunk := os.read(fd, 65536):
            output += chunk[: 65536 - len(output)]
    except OSError as error:
        raise failure(error.errno or errno.EIO, "running an iterator") from error
    finally:
        os.close(fd)
    return bytes(output)


class Drain:
    """Records of several ring buffers, copied in bounded batches by compiled code. Not for two threads at once."""

    def __init__(self, rings: Sequence[Map], *, max_records: int, max_bytes: int) -> None:
        self.names = tuple(ring.name for ring in rings)
        result = ffi.new("struct bpfence_drain **")
        fds = ffi.new("int[]", [ring.fd for ring in rings])
        with messages() as log:
            check(lib.bpfence_drain_new(fds, len(rings), max_records, max_bytes, result), "opening the ring buffers", log.text())
        self._drain = result[0]

    def fileno(self) -> int:
        """A descriptor that is readable when there are records."""
        return lib.bpfence_drain_epoll(self._live())

    def read(self, timeout_ms: int) -> list[tuple[str, bytes]]:
        """Waits up to `timeout_ms` (-1: for ever; 0: not at all) and takes one batch: (name of the ring, record), earlier rings first."""
        drain = self._live()
        count = check(lib.bpfence_drain_read(drain, timeout_ms), "reading the ring buffers")
        if not count:
            return []
        length = ffi.new("size_t *")
        start = lib.bpfence_drain_data(drain, length)
        data = bytes(ffi.buffer(start, length[0]))
        entries = ffi.unpack(lib.bpfence_drain_entries(drain), 2 * count)
        records = []
        at = 0
        for index in range(0, 2 * count, 2):
            end = at + entries[index + 1]
            records.append((self.names[entries[index]], data[at:end]))
            at = end
        return records

    def failed(self) -> int:
        """Records taken from a ring that memory lacked for."""
        return lib.bpfence_drain_failed(self._live())

    def close(self) -> None:
        if self._drain:
            lib.bpfence_drain_free(self._drain)
            self._drain = ffi.NULL

    def _live(self) -> CData:
        drain: CData = self._drain
        if not drain:
            raise ValueError("the drain is closed")
        return drain


class Function(msgspec.Struct, frozen=True):
    """A kernel function as BTF has it: its id, that of its prototype, and its parameters' types, "struct file *" written as "file *"."""

    id: int
    prototype: int
    parameters: tuple[str, ...]
    returns: bool = True


class KernelBtf:
    """The running kernel's types. Use as a context manager. KernelError where the kernel has no BTF."""

    def __init__(self) -> None:
        self._parameters_of: dict[int, tuple[str, ...]] = {}
        self._described: dict[int, str] = {}
        with messages() as log:
            self._btf = lib.btf__load_vmlinux_btf()
            if not self._btf:
                raise failure(ffi.errno, "reading the kernel's types (/sys/kernel/btf/vmlinux)", log.text())

    def __enter__(self) -> KernelBtf:
        return self

    def __exit__(self, *_: object) -> None:
        lib.btf__free(self._btf)
        self._btf = ffi.NULL

    def functions(self, prefix: str) -> dict[str, Function]:
        """Every function whose name starts with `prefix`; of several with one name the first, which is what programs are attached to."""
        found: dict[str, Function] = {}
        for id in self._list(lib.BTF_KIND_FUNC, prefix):
            function = lib.btf__type_by_id(self._btf, id)
            name, prototype = self._text(function.name_off), function.type
            if name not in found:
                found[name] = Function(id, prototype, self._parameters(prototype), bool(lib.btf__type_by_id(self._btf, prototype).type))
        return found

    def typedefs(self, prefix: str) -> list[str]:
        """Names of the typedefs that start with `prefix`."""
        return [self._name(id) for id in self._list(lib.BTF_KIND_TYPEDEF, prefix)]

    def _list(self, kind: int, prefix: str) -> list[int]:
        limit = 8192
        ids = ffi.new("unsigned int[]", limit)
        count = lib.bpfence_btf_list(self._btf, kind, prefix.encode(), ids, limit)
        return list(ffi.unpack(ids, min(count, limit))) if count else []

    def has(self, name: str, kind: int) -> bool:
        return lib.btf__find_by_name_kind(self._btf, name.encode(), kind) > 0

    def has_function(self, name: str) -> bool:
        return self.has(name, lib.BTF_KIND_FUNC)

    def has_structure(self, name: str) -> bool:
        return self.has(name, lib.BTF_KIND_STRUCT)

    def enumerators(self, name: str) -> frozenset[str]:
        """Names of an enum's members; empty where there is no such enum."""
        found = lib.btf__find_by_name_kind(self._btf, name.encode(), lib.BTF_KIND_ENUM)
        if found <= 0:
            return frozenset()
        kind = lib.btf__type_by_id(self._btf, found)
        members = lib.btf_enum(kind)
        return frozenset(self._text(members[n].name_off) for n in range(lib.btf_vlen(kind)))

    def _text(self, offset: int) -> str:
        text = lib.btf__name_by_offset(self._btf, offset)
        return ffi.string(text).decode("utf-8", "replace") if text else ""

    def _name(self, id: int) -> str:
        return self._text(lib.btf__type_by_id(self._btf, id).name_off)

    def _parameters(self, prototype: int) -> tuple[str, ...]:
        found = self._parameters_of.get(prototype)  # hundreds of system calls have one prototype
        if found is None:
            kind = lib.btf__type_by_id(self._btf, prototype)
            parameters = lib.btf_params(kind)
            found = tuple(self._describe(parameters[n].type) for n in range(lib.btf_vlen(kind)))
            self._parameters_of[prototype] = found
        return found

    def _describe(self, id: int) -> str:
        found = self._described.get(id)
        if found is None:
            found = self._described[id] = self._look_at(id)
        return found

    def _look_at(self, id: int) -> str:
        for _ in range(32):
            if not id:
                return "void"
            kind = lib.btf__type_by_id(self._btf, id)
            what = lib.btf_kind(kind)
            if what == lib.BTF_KIND_PTR:
                return f"{self._describe(kind.type)} *"
            if what not in (lib.BTF_KIND_CONST, lib.BTF_KIND_VOLATILE, lib.BTF_KIND_RESTRICT):
                return self._text(kind.name_off)
            id = kind.type
        return ""


def try_hook(function: Function) -> int:
    """Loads, never attaches, an LSM program that returns 0: 0, or the errno of the refusal."""
    return _try(lib.BPF_PROG_TYPE_LSM, lib.BPF_LSM_MAC, function)


def try_modify_return(function: Function) -> int:
    """The same for a fmod_ret program."""
    return _try(lib.BPF_PROG_TYPE_TRACING, lib.BPF_MODIFY_RETURN, function)


def try_extension(function: Function, *, modify_return: bool) -> int:
    """The same for an extension of such a program."""
    kind = (lib.BPF_PROG_TYPE_TRACING, lib.BPF_MODIFY_RETURN) if modify_return else (lib.BPF_PROG_TYPE_LSM, lib.BPF_LSM_MAC)
    with messages():
        return -lib.bpfence_probe_extension(*kind, function.id)


def _try(program_type: int, attach_type: int, function: Function) -> int:
    with messages():
        fd = lib.bpfence_probe_load(program_type, attach_type, function.id, ffi.NULL, 0)
    if fd < 0:
        return -fd
    os.close(fd)
    return 0


def symbol(name: str) -> int:
    """The address of a symbol of the kernel: 0 where it has none, or cannot be asked."""
    address = ffi.new("unsigned long long *")
    with messages():
        return int(address[0]) if lib.bpfence_symbol(name.encode(), address) == 0 else 0


def active_lsms() -> frozenset[int] | None:
    """Numbers (LSM_ID_*) of the active LSMs; None before Linux 6.8."""
    ids = ffi.new("unsigned long long[]", 64)
    count = lib.bpfence_lsm_list(ids, 64)
    return None if count < 0 else frozenset(ids[n] for n in range(min(count, 64)))


def read_unmounted(file_system: str, path: str) -> str | None:
    """A small file of a kernel file system that is not mounted; None where that is not possible."""
    data = ffi.new("char[]", 4096)
    length = lib.bpfence_read_unmounted(file_system.encode(), path.encode(), data, 4096)
    return None if length < 0 else bytes(ffi.buffer(data, length)).decode("utf-8", "replace")


def is_bpffs(path: Path) -> bool:
    """Whether `path` is there and lies in a BPF file system."""
    try:
        device = os.stat(path)
    except OSError:
        return False
    if not stat.S_ISDIR(device.st_mode):
        return False
    wanted = f"{os.major(device.st_dev)}:{os.minor(device.st_dev)}"
    try:
        return any(mount.device == wanted and mount.kind == "bpf" for mount in mounts())
    except OSError:
        return False


def mount_bpffs(path: Path) -> None:
    """Mounts a BPF file system, as systemd does on every boot."""
    check(lib.bpfence_mount_bpffs(os.fsencode(path)), f"mounting the BPF file system on {path}")
