# SPDX-License-Identifier: Apache-2.0
"""Seccomp profiles and a command in, the command under them and how it ended out.

Called by `bpfence seccomp run` and `bpfence exec`; `learn` and `supervise` build on it. What a profile means is decided by
`bpfence.seccomp`, and a filter that does not mean what its profile says is refused here, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import struct
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from bpfence.confine.sandbox import exit_code
from bpfence.errors import KernelError, UsageError
from bpfence.host.signals import Signals
from bpfence.kernel.seccomp import Child, Filter, Flag, candidates, knows_action, launch, supported_flags
from bpfence.policy import TRUE, Policy
from bpfence.seccomp.filter import NEW_LISTENER, RET_K, CompiledFilter, Optimize
from bpfence.seccomp.interpret import compile_verified
from bpfence.seccomp.model import RET, Profile, ProfileAction
from bpfence.seccomp.profile import DOCKER_CAPABILITIES, kernel_version, load_valid, resolve
from bpfence.seccomp.table import CallTable
from bpfence.syscalls.architectures import Arch

OCI_VERSION: Final = "1.2.0"
PASSED_ON: Final = frozenset({signal.SIGTERM, signal.SIGHUP})
IGNORED: Final = frozenset({signal.SIGINT, signal.SIGQUIT})
"""A terminal sends these to the command, too: see `Interrupts`."""
SI_USER: Final = 0
"""si_code of signals from processes is at most this. Those of a terminal come from the kernel and are greater (sigaction(2))."""
ELF_MACHINES: Final = {(32, 3): Arch.X86, (64, 62): Arch.X86_64, (32, 62): Arch.X32, (64, 183): Arch.AARCH64, (32, 40): Arch.ARM}
ACTION_MASK: Final = 0xFFFF0000
PERMITS: Final = frozenset(RET[action] for action in ProfileAction if action.permits)


def caught() -> set[signal.Signals]:
    """The signals to catch while a command runs. One that is ignored stays ignored, for the command too: nohup(1) means both."""
    return {number for number in PASSED_ON | IGNORED if signal.getsignal(number) != signal.SIG_IGN}


@contextlib.contextmanager
def interrupts(how: int) -> Iterator[None]:
    """SIG_BLOCK around what starts threads before the command: they must not take SIGINT and SIGQUIT from `Interrupts`. SIG_UNBLOCK
    within that around the command's start, because it inherits the mask."""
    old = signal.pthread_sigmask(how, _interrupts())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _interrupts() -> set[signal.Signals]:
    return {number for number in IGNORED if signal.getsignal(number) != signal.SIG_IGN}


class Interrupts:
    """SIGINT and SIGQUIT while a command runs. Those that somebody sends to bpfence alone are passed on; those of a terminal are not,
    because the command gets them, too.

    Only sigwaitinfo(2) tells the two apart. So the signals are blocked while the context is open, and a thread waits for them. Enter it
    after the command was started (it would inherit the mask) and before other threads are (see `interrupts`). What came before that is in
    `Signals`, and is to be passed on wherever it came from.
    """

    def __init__(self, child: Child) -> None:
        self._child = child
        self._numbers = _interrupts()

    def __enter__(self) -> Interrupts:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._old = signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        self._thread = threading.Thread(target=self._wait, name="interrupts", daemon=True)
        if self._numbers:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._numbers:
            assert self._thread.ident is not None
            signal.pthread_kill(self._thread.ident, next(iter(self._numbers)))
            self._thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._old)
        self._reader.close()
        self._writer.close()

    def _wait(self) -> None:
        while True:
            info = signal.sigwaitinfo(self._numbers)
            by_somebody = info.si_code <= SI_USER
            if by_somebody and info.si_pid == os.getpid():
                return  # from __exit__
            if by_somebody:
                self._child.signal(info.si_signo)
            self._writer.send(bytes([info.si_signo]))

    def fileno(self) -> int:
        """Readable when a signal has come."""
        return self._reader.fileno()

    def take(self) -> bytes:
        """The numbers of the signals that have come since the last call, a terminal's included."""
        try:
            return self._reader.recv(4096)
        except BlockingIOError:
            return b""


def read_profile(path: str) -> Profile:
    """The profile in a file. PolicyError with everything that is wrong with it; warnings are `check`'s to show."""
    return load_valid(path)[0]


def compiled_here(
    profile: Profile, caps: Collection[str] = DOCKER_CAPABILITIES, *, optimize: Optimize = "auto", enosys: bool = False
) -> CompiledFilter:
    """The filter of a profile for this machine and kernel, proven to mean what the profile says. CompileError where it does not."""
    effective = resolve(profile, Arch.native(), caps, kernel_version(os.uname().release), enosys=enosys)
    return compile_verified(effective, optimize=optimize)


def as_filter(compiled: CompiledFilter) -> Filter:
    """The filter as the kernel takes it. KernelError where this kernel lacks a flag or an action that it needs."""
    wanted = Flag(compiled.flags & ~NEW_LISTENER)
    lacking = wanted & ~supported_flags()
    if lacking:
        names = ", ".join(flag.name or str(int(flag)) for flag in Flag if flag in lacking)
        raise KernelError(f"this kernel does not know {names}", missing="seccomp flags", hint="remove it from the profile's flags")
    used = {compiled.effective.default.action, *(rule.action for rule in compiled.effective.rules)}
    unknown = sorted(action.value for action in used if not knows_action(RET[action]))
    if unknown:
        raise KernelError(f"this kernel does not know {', '.join(unknown)}", missing="seccomp actions")
    return Filter(compiled.program, wanted)


def with_returns(program: bytes, replace: Callable[[int], int]) -> bytes:
    """The same filter with other return values: `replace` gives the new one for each."""
    return b"".join(
        struct.pack("=HBBI", code, jt, jf, replace(k) if code == RET_K else k) for code, jt, jf, k in struct.iter_unpack("=HBBI", program)
    )


def logging(program: bytes) -> bytes:
    """The same filter with LOG for whatever it would deny: the kernel lets the call through and tells its audit log."""
    return with_returns(program, lambda ret: ret if ret & ACTION_MASK in PERMITS else RET[ProfileAction.LOG])


def filters_of(profile: str | None, policies: Iterable[Policy], report: Callable[[str], None]) -> list[Filter]:
    """The filters of a command that starts under policies: that of `profile` (a file), and those that the policies carry.

    In audit mode a policy's filter only logs. A policy with a scope is not for every command, and whom it is for is not known before the
    command runs: its filter is left out, and that is reported. UsageError for NOTIFY, which nobody answers here.
    """
    named = [] if profile is None else [(profile, read_profile(profile), "enforce")]
    for policy in policies:
        if policy.seccomp is None:
            continue
        if policy.scope != TRUE:
            report(f"the seccomp profile of policy {policy.name} is not applied: the policy has a scope")
            continue
        named.append((f"policy {policy.name}", policy.seccomp, policy.mode))
    filters = []
    for name, profile_of, mode in named:
        compiled = compiled_here(profile_of)
        if compiled.needs_listener and mode != "audit":
            raise UsageError(f"{name} has SCMP_ACT_NOTIFY, which nobody answers here; `bpfence seccomp supervise` does")
        made = as_filter(compiled)
        filters.append(Filter(logging(made.program), made.flags) if mode == "audit" else made)
    return filters


def run(command: Sequence[str], compiled: CompiledFilter, *, report: Callable[[str], None]) -> int:
    """Runs a command under a profile; its exit code as a shell gives it.

    With NOTIFY in the profile the listener goes to the profile's listenerPath, as a runtime would send it. OSError where the command cannot
    be run, UsageError where there is nobody to answer NOTIFY.
    """
    profile = compiled.effective.profile
    if compiled.needs_listener and not profile.listener_path:
        raise UsageError("the profile has NOTIFY and no listenerPath: nobody would answer; `bpfence seccomp supervise` does")
    filter_made = as_filter(compiled)
    with Signals(caught()) as signals:
        connection = _connect(profile.listener_path) if compiled.needs_listener else None
        child = launch(command, [filter_made], listen=0 if connection is not None else -1)
        try:
            if connection is not None:
                _hand_over(connection, child, profile)
            with Interrupts(child):
                status = wait(child, signals)
        except BaseException as error:
            # Nobody would answer the command's calls, or wait for it.
            child.signal(signal.SIGKILL)
            if isinstance(error, OSError) and (denied := _denies_start(compiled)):
                raise OSError(error.errno, denied) from error
            raise
        finally:
            child.close()
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS:
        why = _denies_start(compiled) or _foreign(command, compiled)
        otherwise = f"the profile {_named(profile)} kills or traps a call that it made; `bpfence seccomp learn --audit` names it"
        report(f"{command[0]} was ended by SIGSYS: {why or otherwise}")
    return exit_code(status)


def _named(profile: Profile) -> str:
    return profile.location.file


def _denies_start(compiled: CompiledFilter) -> str:
    """Why the profile lets no command start; empty where it does."""
    effective = compiled.effective
    entry = CallTable(effective).entry(effective.architectures[0], "execve")
    if entry is None or entry.status == "permitted":
        return ""
    return f"the profile {_named(effective.profile)} denies execve, which starts the command: {entry.text()} ({entry.why})"


def _foreign(command: Sequence[str], compiled: CompiledFilter) -> str:
    """A sentence that the command is a program of an architecture that the profile does not cover; empty where it is not, or where that
    cannot be told."""
    effective = compiled.effective
    arch = next(
        (arch_found for path in candidates(command[0], os.environ.get("PATH", os.defpath)) if (arch_found := program_arch(path))), None
    )
    if arch is None or arch in effective.architectures:
        return ""
    covered = ", ".join(arch_covered.name.lower() for arch_covered in effective.architectures)
    what = f"it is a program for {arch.name.lower()}, and the profile {_named(effective.profile)} covers {covered} only"
    return f"{what}; add {arch.value} to its architectures"


def program_arch(path: str) -> Arch | None:
    """The architecture of an ELF program (elf.h: EI_CLASS, e_machine); None for other files."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(20)
    except OSError:
        return None
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return None
    (machine,) = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)
    return ELF_MACHINES.get((head[4] * 32, machine))


def wait(child: Child, signals: Signals) -> int:
    """Wait for a child, passing signals on to it. Returns its wait(2) status. Raises as `Child.wait` does."""
    with selectors.DefaultSelector() as selector:
        selector.register(child.pidfd, selectors.EVENT_READ)
        selector.register(signals.fileno(), selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            for number in signals.take():
                child.signal(number)
            if child.pidfd in ready:
                return child.wait()


# ---- listenerPath ----


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise UsageError(f"the profile's listenerPath {path!r} cannot be reached: {error.strerror or error}") from error
    return connection


def _hand_over(connection: socket.socket, child: Child, profile: Profile) -> None:
    """Sends the listener with the container process state of the OCI runtime specification, and keeps no copy."""
    with connection:
        if child.listener < 0:
            return
        try:
            socket.send_fds(connection, [process_state(child.pid, profile)], [child.listener])
        except OSError as error:
            place = profile.listener_path
            raise UsageError(f"the profile's listenerPath {place!r} did not take the listener: {error.strerror or error}") from error
        os.close(child.listener)
        child.listener = -1


def process_state(pid: int, profile: Profile) -> bytes:
    """ContainerProcessState of the specification, filled in for a command that is no container."""
    state = {
        "ociVersion": OCI_VERSION,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": profile.listener_metadata,
        "state": {"ociVersion": OCI_VERSION, "id": f"bpfence-{pid}", "status": "creating", "pid": pid, "bundle": os.getcwd()},
    }
    return json.dumps(state).encode()
