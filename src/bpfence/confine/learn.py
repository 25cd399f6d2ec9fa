# SPDX-License-Identifier: Apache-2.0
"""A command in, the system calls that it and its descendants made out.

Called by `bpfence seccomp learn`. The command runs in a cgroup of its own, by which the kernel tells its calls from those of others. Where
no cgroup can be made, the kernel keeps a list of its processes instead. Recording ends when the last of them has ended, or when it is told
to.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

import msgspec

from bpfence.confine.command import Interrupts, caught
from bpfence.confine.sandbox import Sandbox, exit_code, send
from bpfence.errors import KernelError
from bpfence.host.cgroups import Hierarchy
from bpfence.host.signals import Signals
from bpfence.kernel.seccomp import Child, launch
from bpfence.kernel.syscall_recorder import Abi, SyscallRecorder
from bpfence.seccomp.learned import Seen
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import number

GRACE_SECONDS: Final = 5.0
"""Seconds between SIGTERM and SIGKILL for what still runs when recording is to end."""
LOOK_SECONDS: Final = 0.05
ARCHES: Final = {
    Arch.X86_64: {Abi.NATIVE: Arch.X86_64, Abi.COMPAT: Arch.X86, Abi.X32: Arch.X32},
    Arch.AARCH64: {Abi.NATIVE: Arch.AARCH64, Abi.COMPAT: Arch.ARM, Abi.X32: Arch.AARCH64},
}


class Recording(msgspec.Struct, frozen=True):
    """What was recorded. `status` is the command's exit code as a shell gives it. `out_of_range`: calls whose numbers could not be kept;
    `lost`: processes whose calls could not be kept. `families`: of the sockets that were made; None where that is not known."""

    status: int
    calls: frozenset[Seen]
    out_of_range: int = 0
    lost: int = 0
    families: frozenset[int] | None = None


class Descendants(Protocol):
    """A command and its descendants, by whatever means the kernel tells them."""

    def start(self, command: Sequence[str]) -> Child:
        """Starts the command; its calls are recorded from its execve on."""

    def running(self) -> list[int]:
        """Pids of those that still run."""


class _InCgroup:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def start(self, command: Sequence[str]) -> Child:
        return self._sandbox.launch(command)

    def running(self) -> list[int]:
        return self._sandbox.pids()


class _InTree:
    def __init__(self, recorder: SyscallRecorder) -> None:
        self._recorder = recorder

    def start(self, command: Sequence[str]) -> Child:
        child = launch(command, hold=True)
        self._recorder.add(child.pid)
        child.release()
        return child

    def running(self) -> list[int]:
        return self._recorder.pids()


def record(
    command: Sequence[str],
    hierarchy: Callable[[], Hierarchy],
    *,
    report: Callable[[str], None],
    duration: float | None = None,
    by_cgroup: bool = True,
) -> Recording:
    """Runs a command and records its calls. After `duration` seconds it is asked to end.

    OSError where the command cannot be run, KernelError where nothing can be recorded.
    """
    arches = ARCHES.get(Arch.native())
    if arches is None:
        known = ", ".join(arch.machine for arch in ARCHES)
        raise KernelError(f"system calls of {os.uname().machine} cannot be recorded; known are {known}", missing="architecture")
    with Signals(caught()) as signals, _recorder(hierarchy, by_cgroup, report) as (recorder, group):
        child = group.start(command)
        try:
            with Interrupts(child) as interrupts:
                status = _Run(child, group, signals, interrupts, report, duration).until_all_ended()
            recorder.stop()
            out_of_range, lost = recorder.missed()
            calls = frozenset(Seen(arches[abi], made) for abi, made in recorder.calls())
            return Recording(exit_code(status), calls, out_of_range, lost, recorder.families())
        finally:
            child.close()


@contextlib.contextmanager
def _recorder(
    hierarchy: Callable[[], Hierarchy], by_cgroup: bool, report: Callable[[str], None]
) -> Iterator[tuple[SyscallRecorder, Descendants]]:
    sandbox = None
    socket_number = number(Arch.native(), "socket")
    with contextlib.ExitStack() as stack:
        if by_cgroup:
            try:
                sandbox = stack.enter_context(Sandbox(hierarchy()))
            except KernelError as error:
                report(f"{error}; processes are told by their descent instead")
        if sandbox is None:
            recorder = stack.enter_context(SyscallRecorder(socket_number=socket_number))
            yield recorder, _InTree(recorder)
            return
        folder = os.open(sandbox.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, folder)
        yield stack.enter_context(SyscallRecorder(folder, socket_number=socket_number)), _InCgroup(sandbox)


class _Run:
    """The wait for a command and its descendants."""

    def __init__(
        self,
        child: Child,
        group: Descendants,
        signals: Signals,
        interrupts: Interrupts,
        report: Callable[[str], None],
        duration: float | None,
    ) -> None:
        self._child = child
        self._group = group
        self._signals = signals
        self._interrupts = interrupts
        self._report = report
        self._status: int | None = None
        self._end_at = None if duration is None else time.monotonic() + duration
        self._kill_at: float | None = None

    def until_all_ended(self) -> int:
        """The command's wait(2) status. Raises as `Child.wait` does."""
        told = False
        while self._status is None or (rest := self._group.running()):
            self._look()
            if self._status is not None and not told and self._kill_at is None and (rest := self._group.running()):
                told = True
                self._report(f"the command has ended, {len(rest)} of its descendants run on and are recorded; ^C or SIGTERM ends them")
        return self._status

    def _look(self) -> None:
        now = time.monotonic()
        due = [moment for moment in (self._end_at, self._kill_at) if moment is not None]
        timeout = max(0.0, min(due) - now) if due else None
        if self._status is not None:
            timeout = min(timeout, LOOK_SECONDS) if timeout is not None else LOOK_SECONDS
        self._wait(timeout)
        taken, interrupted = self._signals.take(), self._interrupts.take()
        if self._status is None:
            for number in taken:
                self._child.signal(number)
        elif taken or interrupted:
            self._ask_to_end()
        now = time.monotonic()
        if self._end_at is not None and now >= self._end_at:
            self._ask_to_end()
        if self._kill_at is not None and now >= self._kill_at:
            send(self._group.running, signal.SIGKILL)

    def _wait(self, timeout: float | None) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._signals.fileno(), selectors.EVENT_READ)
            selector.register(self._interrupts.fileno(), selectors.EVENT_READ)
            if self._status is None:
                selector.register(self._child.pidfd, selectors.EVENT_READ)
            ready = {key.fd for key, _ in selector.select(timeout)}
        if self._status is None and self._child.pidfd in ready:
            self._status = self._child.wait()

    def _ask_to_end(self) -> None:
        self._end_at = None
        send(self._group.running, signal.SIGTERM)
        self._kill_at = time.monotonic() + GRACE_SECONDS
