# SPDX-License-Identifier: Apache-2.0
"""A command in, a cgroup of its own around it out.

Called by `bpfence exec`. The cgroup's name holds 128 random bits: a condition on it holds for the command and its descendants and for
nobody else. cgroups(7), Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bpfence.errors import KernelError
from bpfence.host.cgroups import Hierarchy
from bpfence.policy import Atom, Condition, Op, Or

if TYPE_CHECKING:
    from bpfence.kernel.seccomp import Child, Filter

KILL_SECONDS: Final = 10.0
CANNOT_RUN, NOT_FOUND = 126, 127


class Sandbox:
    """The cgroup of one command. Use as a context manager: at the end whatever still runs in it is killed, and it is removed."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.name = f"bpfence-exec-{os.getpid()}-{secrets.token_hex(16)}"
        self.folder = hierarchy.root / self.name
        self._whole = hierarchy.whole

    def __enter__(self) -> Sandbox:
        try:
            self.folder.mkdir()
        except OSError as error:
            raise KernelError(
                f"the cgroup {self.folder} cannot be made: {error.strerror}", missing="a writable cgroup v2 hierarchy", hint="run as root"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.remove()

    def condition(self) -> Condition:
        """True of what runs in this cgroup or below it."""
        path = f"/{self.name}"
        if self._whole:
            return Or((Atom("process.cgroup", Op.EQUALS, path), Atom("process.cgroup", Op.PREFIX, f"{path}/")))
        # Seen from a cgroup namespace, the path that programs in the kernel see has more components in front.
        return Or((Atom("process.cgroup", Op.SUFFIX, path), Atom("process.cgroup", Op.CONTAINS, f"{path}/")))

    def launch(self, command: Sequence[str], filters: Sequence[Filter] = ()) -> Child:
        """Starts a command in the cgroup, with seccomp `filters` under them and with no_new_privs. `Child.wait` says what kept it from
        running, a policy's refusal included."""
        from bpfence.kernel.seccomp import launch  # imported late: whoever only reads a hierarchy does without the binding

        procs = os.open(self.folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            return launch(command, filters, cgroup=procs)
        finally:
            os.close(procs)

    def pids(self) -> list[int]:
        """Processes in the cgroup and below it."""
        pids = []
        for folder in self._folders():
            with contextlib.suppress(OSError):
                pids += [int(word) for word in (folder / "cgroup.procs").read_text(encoding="ascii").split()]
        return pids

    def _folders(self) -> list[Path]:
        """This cgroup and all below, deepest first."""
        return [Path(folder) for folder, _, _ in os.walk(self.folder, topdown=False)]

    def kill(self) -> None:
        """Kill everything in the cgroup, and what it forks meanwhile."""
        deadline = time.monotonic() + KILL_SECONDS
        frozen = False
        while self.pids() and time.monotonic() < deadline:
            if not self._write("cgroup.kill", "1"):
                # Before Linux 5.14. Frozen processes cannot fork while they are looked up; SIGKILL reaches them all the same.
                frozen = self._write("cgroup.freeze", "1")
                send(self.pids, signal.SIGKILL)
            time.sleep(0.01)
        if frozen:
            self._write("cgroup.freeze", "0")

    def _write(self, file: str, text: str) -> bool:
        try:
            # Opened, not created, where the kernel has no such file.
            descriptor = os.open(self.folder / file, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.write(descriptor, text.encode())
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def remove(self) -> bool:
        """Remove the cgroup and those below it. False where something in it does not go away."""
        deadline = time.monotonic() + KILL_SECONDS
        while self.folder.exists():
            for folder in self._folders():
                try:
                    folder.rmdir()
                except OSError as error:
                    if error.errno not in (errno.EBUSY, errno.ENOENT, errno.ENOTEMPTY) or time.monotonic() > deadline:
                        return False
            time.sleep(0.01)
        return True


def send(running: Callable[[], Collection[int]], number: int) -> None:
    """Send a signal to all of `running`. Each pid is opened first and looked for again, so that a process that was given the same pid later
    is not hit."""
    for pid in running():
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if pid in running():
                signal.pidfd_send_signal(pidfd, number)
        except (ProcessLookupError, PermissionError):
            pass
        finally:
            os.close(pidfd)


def exit_code(status: int) -> int:
    """A wait(2) status as a shell gives it: the exit code, or 128 and the signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def guarded(command: Sequence[str], work: Callable[[], int], report: Callable[[str], None]) -> int:
    """The exit code that `work` gives; what keeps the command from running is reported, and gives 126 or 127 as in a shell."""
    try:
        return work()
    except OSError as error:
        report(f"{command[0]} cannot be run: {error.strerror or error}")
        return NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN
