# SPDX-License-Identifier: Apache-2.0
"""Compiled filters in, confined commands, and the calls that a filter asks about, out.

Called by `confine.sandbox`, `confine.learn` and `confine.supervise`. Knows nothing of profiles: a filter is the bytes of
struct sock_filter and the flags of seccomp(2). Needs no privilege: no_new_privs is set before a filter is.
"""

from __future__ import annotations

import enum
import errno
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from bpfence.errors import KernelError

if TYPE_CHECKING:
    from bpfence.kernel._seccomp import CData

try:
    from bpfence.kernel._seccomp import ffi, lib
except ImportError as error:
    raise KernelError(
        f"bpfence's binding of seccomp(2) is not built or does not fit this Python: {error}",
        missing="bpfence.kernel._seccomp",
        hint="install bpfence again, or run `python src/bpfence/kernel/build_seccomp.py`",
    ) from error

INSTRUCTION_SIZE: Final = 8
MAX_INSTRUCTIONS: Final = lib.BPF_MAXINSNS
PREPARE_SECONDS: Final = 10.0


class Flag(enum.IntFlag):
    """Flags of SECCOMP_SET_MODE_FILTER, under the names of the OCI runtime specification. seccomp(2)."""

    SECCOMP_FILTER_FLAG_TSYNC = lib.SECCOMP_FILTER_FLAG_TSYNC
    SECCOMP_FILTER_FLAG_LOG = lib.SECCOMP_FILTER_FLAG_LOG
    SECCOMP_FILTER_FLAG_SPEC_ALLOW = lib.SECCOMP_FILTER_FLAG_SPEC_ALLOW
    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = lib.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV


class Filter(msgspec.Struct, frozen=True):
    """A classic BPF program, as bytes of struct sock_filter in host order, and its flags."""

    program: bytes
    flags: Flag = Flag(0)

    def __post_init__(self) -> None:
        count, rest = divmod(len(self.program), INSTRUCTION_SIZE)
        if rest or not 0 < count <= MAX_INSTRUCTIONS:
            most = f"{MAX_INSTRUCTIONS} instructions of {INSTRUCTION_SIZE} bytes"
            raise ValueError(f"{len(self.program)} bytes are not a filter of 1 to {most}")


STAGES: Final[Mapping[int, str]] = {
    lib.STAGE_HELD: "waiting to be let go",
    lib.STAGE_CGROUP: "joining the cgroup",
    lib.STAGE_NO_NEW_PRIVS: "setting no_new_privs",
    lib.STAGE_FILTER: "installing the filter",
    lib.STAGE_EXEC: "executing the command",
}


class LaunchFailure(msgspec.Struct, frozen=True):
    """Why a command did not come to run: what was being done, and the errno."""

    stage: str
    number: int

    @property
    def at_exec(self) -> bool:
        """Whether the command itself is to blame, not the kernel's seccomp or the cgroup."""
        return self.stage == STAGES[lib.STAGE_EXEC]

    def error(self, command: str) -> Exception:
        """As exception: OSError for the command, KernelError for the rest."""
        if self.at_exec:
            return OSError(self.number, os.strerror(self.number), command)
        hint = "the kernel may lack an action or a flag of the profile" if self.number == errno.EINVAL else ""
        return KernelError(f"{self.stage}: {os.strerror(self.number)}", missing="seccomp" if "filter" in self.stage else "", hint=hint)


def candidates(command: str, search: str) -> list[str]:
    """The files that execvp(3) would try for a command with this PATH."""
    if "/" in command:
        return [command]
    return [os.path.join(folder or ".", command) for folder in search.split(":")]


class Child:
    """A started command. `listener` is this process's descriptor for the filter's notifications, -1 without."""

    def __init__(self, command: str, pid: int, pidfd: int, progress: CData) -> None:
        self.command = command
        self.pid = pid
        self.pidfd = pidfd
        self.listener = -1
        self._progress = progress

    def failure(self) -> LaunchFailure | None:
        """Why it never ran; None while it has not failed. Sure only once it has ended."""
        error = ffi.new("int *")
        stage = lib.bpfence_progress_stage(self._progress, error)
        return LaunchFailure(STAGES[stage], error[0]) if stage != lib.STAGE_NONE else None

    def signal(self, number: int) -> None:
        """Sends it a signal; nothing where it has ended."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass

    def wait(self) -> int:
        """Waits for its end; the wait(2) status. OSError or KernelError where it never ran. Call it once."""
        _, status = os.waitpid(self.pid, 0)
        failure = self.failure()
        if failure is not None:
            raise failure.error(self.command)
        return status

    def close(self) -> None:
        """Lets go of descriptors and the shared page; with the listener gone, the kernel answers ENOSYS in its place."""
        for descriptor in (self.pidfd, self.listener):
            if descriptor >= 0:
                os.close(descriptor)
        self.pidfd = self.listener = -1
        if self._progress:
            lib.bpfence_progress_free(self._progress)
            self._progress = ffi.NULL

    def release(self) -> None:
        """Lets a held child go on."""
        lib.bpfence_progress_release(self._progress)

    def _wait_for(self, read: Callable[[CData], int], absent: int) -> int:
        """What the child has come to; `absent` when it has failed, or does not come to it."""
        deadline = time.monotonic() + PREPARE_SECONDS
        while (found := read(self._progress)) == absent and self.failure() is None and time.monotonic() < deadline:
            time.sleep(0.0002)
        return found


def launch(
    command: Sequence[str], filters: Sequence[Filter] = (), *, environment: Mapping[str, str] | None = None, listen: int = -1,
    hold: bool = False, cgroup: int = -1,
) -> Child:  # fmt: skip
    """Starts a command under filters, in the order given; the kernel runs all of them and the strictest answer counts.

    `listen`: index of the filter whose USER_NOTIF answers come to `Child.listener`. `hold`: the child prepares everything and makes no
    system call more until `Child.release`. `cgroup`: an open cgroup.procs to join. Signals are as after a shell's fork: handlers reset,
    what was ignored stays ignored, apart from what Python ignores by itself. OSError where no process can be made; what fails later is
    `Child.failure`.
    """
    variables = dict(os.environ if environment is None else environment)
    paths = candidates(command[0], variables.get("PATH", os.defpath))
    keep: list[CData] = []  # cffi frees what nothing refers to
    spec = ffi.new("struct bpfence_launch *")
    spec.filters, spec.n_filters, spec.listener, spec.hold, spec.cgroup = _filters(filters, keep), len(filters), listen, hold, cgroup
    spec.paths = _strings(paths, keep)
    spec.argv = _strings(command, keep)
    spec.envp = _strings([f"{name}={value}" for name, value in variables.items()], keep)
    progress, pidfd = ffi.new("struct bpfence_progress **"), ffi.new("int *", -1)
    pid = lib.bpfence_launch(spec, progress, pidfd)
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid), command[0])
    child = Child(command[0], pid, pidfd[0], progress[0])
    if hold:
        child._wait_for(lib.bpfence_progress_held, 0)
    if listen >= 0:
        child.listener = child._wait_for(lib.bpfence_progress_listener, -1)
    return child


def apply(filters: Sequence[Filter]) -> None:
    """Puts filters on this very process, for good; on every thread of it where a filter has TSYNC. OSError where the kernel refuses."""
    keep: list[CData] = []
    result = lib.bpfence_apply(_filters(filters, keep), len(filters))
    if result:
        raise OSError(-result, os.strerror(-result))


def _filters(filters: Sequence[Filter], keep: list[CData]) -> CData:
    made = ffi.new("struct bpfence_filter[]", max(len(filters), 1))
    for index, one in enumerate(filters):
        program = ffi.new("char[]", one.program)
        keep.append(program)
        made[index].instructions, made[index].count, made[index].flags = program, len(one.program) // INSTRUCTION_SIZE, int(one.flags)
    keep.append(made)
    return made


def _strings(values: Sequence[str], keep: list[CData]) -> CData:
    """A NULL-terminated array. ValueError for a string with NUL, which execve(2) would cut off."""
    encoded = [os.fsencode(value) for value in values]
    if any(b"\0" in value for value in encoded):
        raise ValueError("a NUL character in an argument, the environment or PATH")
    own = [ffi.new("char[]", value) for value in encoded]
    keep += own
    array = ffi.new("char *[]", [*own, ffi.NULL])
    keep.append(array)
    return array


def supported_flags() -> Flag:
    """The flags that this kernel knows."""
    wanted = 0
    for flag in Flag:
        wanted |= int(flag)
    return Flag(lib.bpfence_flags_available(wanted))


def knows_action(action: int) -> bool:
    """Whether this kernel knows a SECCOMP_RET_* action. Linux 4.14 (8e5f1ad116df)."""
    return lib.bpfence_action_available(action) == 0


class Notification(msgspec.Struct, frozen=True):
    """A system call that waits for an answer. `pid` is the thread's, as this pid namespace has it; 0 where it is not visible here.

    `args` are the registers as the kernel copied them at entry: the process cannot change them any more. What they point to, it can.
    """

    id: int
    pid: int
    arch: int
    nr: int
    ip: int
    args: tuple[int, int, int, int, int, int]


class Listener:
    """The answering end of SECCOMP_RET_USER_NOTIF. Does not own the descriptor. seccomp_unotify(2)."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def receive(self) -> Notification | None:
        """The next call; blocks until there is one. None: that one is not waiting any more, or a signal came. OSError on the rest."""
        found = ffi.new("struct seccomp_notif *")
        result = lib.bpfence_notification_receive(self.fd, found)
        if result in (-errno.ENOENT, -errno.EINTR):
            return None
        if result:
            raise OSError(-result, os.strerror(-result))
        data = found.data
        args = (data.args[0], data.args[1], data.args[2], data.args[3], data.args[4], data.args[5])
        return Notification(found.id, found.pid, data.arch, data.nr, data.instruction_pointer, args)

    def still_waits(self, id: int) -> bool:
        """Whether the call still waits: only then is its pid still that process, and only then is what was read about it true."""
        return lib.bpfence_notification_valid(self.fd, id) == 0

    def refuse(self, id: int, number: int) -> bool:
        """The call fails with this errno. False: nobody waits for the answer any more."""
        return self._answer(id, number, proceed=False)

    def proceed(self, id: int) -> bool:
        """The kernel carries the call out, with whatever its pointers point to by then. False as above."""
        return self._answer(id, 0, proceed=True)

    def _answer(self, id: int, number: int, *, proceed: bool) -> bool:
        result = lib.bpfence_notification_answer(self.fd, id, number, proceed)
        if result in (-errno.ENOENT, -errno.EINPROGRESS):
            return False
        if result:
            raise OSError(-result, os.strerror(-result))
        return True
