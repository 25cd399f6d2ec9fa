# SPDX-License-Identifier: Apache-2.0
"""Rules in, the filter that libseccomp makes of them out: the binding. The library is the system's, or the one that came with the wheel.

Called by `filter` and by the table's generator. ABI mode of cffi on libseccomp.so.2, with declarations that were read before
(`declarations`): to read them takes ten times as long as all the rest. The interface has been stable since 2012 and is a
dozen functions without variable arguments, and the interpreter checks what the library gives back; so a compiler at install time would gain
nothing, and a machine without the library can still read, check and explain profiles. Nothing here loads a filter.
"""

from __future__ import annotations

import errno as errno_module
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from bpfence.errors import KernelError
from bpfence.seccomp.model import Arg, ArgOp, ProfileVerdict
from bpfence.syscalls.architectures import Arch

LIBRARY: Final = "libseccomp.so.2"
BUNDLED: Final = Path(__file__).resolve().parents[2] / "bpfence.libs" / "libseccomp-bpfence.so.2"
"""Where tools/build_wheel.py puts the library in a wheel, so that nothing has to be installed beside Python. It is preferred to the
system's: it is one version, and tested."""

OLDEST: Final = (2, 5, 0)
MENDED: Final = "libseccomp 2.6.1 or later, which mends 64-bit comparisons that it merged wrongly (GHSA-4q85-33p6-j5g6)"
HINT: Final = "Debian and Ubuntu: apt install libseccomp2"
MAX_EXPORT: Final = 1 << 20

NATIVE: Final = 0
UNKNOWN: Final = -1
ACT_BADARCH: Final = 2
CTL_NNP: Final = 3
CTL_OPTIMIZE: Final = 8
TREE: Final = 2
COMPARE: Final = {ArgOp.NE: 1, ArgOp.LT: 2, ArgOp.LE: 3, ArgOp.EQ: 4, ArgOp.GE: 5, ArgOp.GT: 6, ArgOp.MASKED_EQ: 7}


class RuleError(Exception):
    """libseccomp refused a rule. `errno` says why; EEXIST: one with the same conditions has another action."""

    def __init__(self, errno: int) -> None:
        self.errno = errno
        super().__init__(os.strerror(errno))


@functools.cache
def _library() -> tuple[Any, Any]:
    """cffi's FFI and the library; KernelError where it is not there or too old."""
    from bpfence.seccomp.declarations import ffi  # what only reads profiles needs no library

    try:
        library: Any = ffi.dlopen(str(BUNDLED) if BUNDLED.exists() else LIBRARY)
        version = library.seccomp_version()
    except (OSError, AttributeError) as error:
        raise KernelError(f"{LIBRARY} cannot be used: {error}", missing="libseccomp", hint=HINT) from None
    release = (version.major, version.minor, version.micro)
    if release < OLDEST:
        text = ".".join(map(str, release))
        raise KernelError(f"libseccomp {text} is older than {'.'.join(map(str, OLDEST))}", missing="libseccomp", hint=HINT)
    # The highest level that the library has: what can be compiled must not depend on the running kernel.
    for level in range(8, 0, -1):
        if library.seccomp_api_set(level) == 0:
            break
    return ffi, library


def version() -> str:
    """The library's version: 2.5.4."""
    _, library = _library()
    release = library.seccomp_version()
    return f"{release.major}.{release.minor}.{release.micro}"


def name_of(arch: Arch, number: int) -> str | None:
    """The name of a number on an architecture; None where it has none."""
    ffi, library = _library()
    text = library.seccomp_syscall_resolve_num_arch(arch.token, number)
    if not text:
        return None
    name: str = ffi.string(text).decode()
    library.free(text)
    return name


def number_of(arch: Arch, name: str) -> int | None:
    """The number of a name on an architecture; negative where the architecture lacks or multiplexes the call, None where unknown."""
    _, library = _library()
    try:
        number: int = library.seccomp_syscall_resolve_name_arch(arch.token, name.encode("ascii"))
    except UnicodeEncodeError:
        return None
    return None if number == UNKNOWN else number


def knows(name: str) -> bool:
    """Whether the library knows the name on some architecture. Runtimes skip what it does not know."""
    _, library = _library()
    try:
        return bool(library.seccomp_syscall_resolve_name(name.encode("ascii")) != UNKNOWN)
    except UnicodeEncodeError:
        return False


class FilterContext:
    """A filter under construction, for one or more architectures. To be used in `with`."""

    def __init__(self, default: ProfileVerdict, arch: Arch, bad_arch: ProfileVerdict) -> None:
        self._ffi, self._library = _library()
        self._context = self._library.seccomp_init(default.ret)
        if not self._context:
            raise KernelError(f"libseccomp cannot make a filter whose default is {default}", missing="libseccomp", hint=HINT)
        self._done("seccomp_attr_set", self._library.seccomp_attr_set(self._context, ACT_BADARCH, bad_arch.ret))
        # no_new_privs is left to whoever applies the filter.
        self._done("seccomp_attr_set", self._library.seccomp_attr_set(self._context, CTL_NNP, 0))
        self._only(arch)

    def _only(self, arch: Arch) -> None:
        added = self._library.seccomp_arch_add(self._context, arch.token)
        if added != -errno_module.EEXIST:
            self._done(f"seccomp_arch_add {arch.name}", added)
            self._done("seccomp_arch_remove", self._library.seccomp_arch_remove(self._context, NATIVE))

    def __enter__(self) -> FilterContext:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._context:
            self._library.seccomp_release(self._context)
            self._context = None

    def add(self, name: str, verdict: ProfileVerdict, args: Sequence[Arg]) -> None:
        """One rule; RuleError where libseccomp refuses it. `name` must be known."""
        number = self._library.seccomp_syscall_resolve_name(name.encode("ascii"))
        array = self._ffi.new("struct scmp_arg_cmp[]", max(len(args), 1))
        for slot, arg in zip(array, args, strict=False):
            slot.arg, slot.op, slot.datum_a, slot.datum_b = arg.index, COMPARE[arg.op], arg.value, arg.value_two
        result = self._library.seccomp_rule_add_array(self._context, verdict.ret, number, len(args), array)
        if result:
            raise RuleError(-result)

    def merge(self, other: FilterContext) -> None:
        """Take over the architectures of another filter, which cannot be used afterwards."""
        self._done("seccomp_merge", self._library.seccomp_merge(self._context, other._context))
        other._context = None

    def tree(self) -> None:
        """Look numbers up in a binary tree instead of one after another."""
        self._done("seccomp_attr_set", self._library.seccomp_attr_set(self._context, CTL_OPTIMIZE, TREE))

    def program(self) -> bytes:
        """The filter: struct sock_filter after struct sock_filter, in the byte order of this machine."""
        return self._exported(self._library.seccomp_export_bpf)

    def pseudo_code(self) -> str:
        """The filter as libseccomp writes it for people."""
        return self._exported(self._library.seccomp_export_pfc).decode("utf-8", "replace")

    def _exported(self, export: Any) -> bytes:
        # The library writes to a file descriptor. A file in memory takes a text of any length without blocking.
        with os.fdopen(os.memfd_create("bpfence-seccomp", os.MFD_CLOEXEC), "w+b", buffering=0) as file:
            self._done("seccomp_export", export(self._context, file.fileno()))
            file.seek(0)
            return file.read(MAX_EXPORT)

    def _done(self, what: str, result: int) -> None:
        if result:
            raise KernelError(f"{what}: {os.strerror(-result)}", missing="libseccomp", hint=f"libseccomp {version()}")
