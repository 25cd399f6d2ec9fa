# SPDX-License-Identifier: Apache-2.0
"""A profile, a command and answers in; denied calls asked about, answered and told out.

Called by `bpfence seccomp supervise`, and by `learn --audit`, which answers every call with "go on". The filter is the profile's own
program with USER_NOTIF in place of what denies, so the kernel asks about exactly the calls that the profile would deny.

An answer may depend on the call's number and architecture only: the kernel copied them from registers when the call was made. It never
depends on memory, because the process can change what a pointer points to after it was looked at; strings are read for alerts only. With
CONTINUE the kernel carries out the call as it then finds it, and an answer by number is true of every such call. seccomp_unotify(2),
"Caveats".
"""

from __future__ import annotations

import enum
import errno as errno_module
import os
import select
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from bpfence.confine.callers import CallDetails, Caller, decode_call, read_caller
from bpfence.confine.command import ACTION_MASK, PERMITS, Interrupts, as_filter, caught, with_returns
from bpfence.confine.sandbox import exit_code
from bpfence.errors import KernelError
from bpfence.events.process import Clock
from bpfence.host.signals import Signals
from bpfence.kernel.seccomp import Child, Filter, Listener, Notification, launch
from bpfence.seccomp.filter import CompiledFilter
from bpfence.seccomp.interpret import Program, Reference, verdict_of
from bpfence.seccomp.model import RET, ProfileAction, ProfileRule, ProfileVerdict
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import by_audit

LAST_CALL_SECONDS: Final = 0.3
SOFT: Final = frozenset({RET[ProfileAction.ERRNO], RET[ProfileAction.NOTIFY]})


def asking(program: bytes, *, everything: bool = False) -> bytes:
    """The same filter, asking user space where it gave an errno; with `everything`, wherever it did not let the call through.

    Otherwise kills, traps and traces stay with the kernel, which needs nobody alive to answer.
    """

    def asked(ret: int) -> bool:
        action = ret & ACTION_MASK
        return action not in PERMITS if everything else action in SOFT

    return with_returns(program, lambda ret: RET[ProfileAction.NOTIFY] if asked(ret) else ret)


class ResponseKind(enum.Enum):
    """What is done about a denied call."""

    ERRNO = "errno"
    LOG = "log"
    ALLOW_ONCE = "allow-once"
    KILL = "kill"


class Response(msgspec.Struct, frozen=True):
    """A response; `errno` in place of the profile's, None for that."""

    kind: ResponseKind
    errno: int | None = None


DENY: Final = Response(ResponseKind.ERRNO)


class Responses:
    """Responses by the call's name. "allow-once" is used up by the first call of that name; after that it is an errno."""

    def __init__(self, by_name: Mapping[str, Response], otherwise: Response = DENY) -> None:
        self._by_name = by_name
        self._otherwise = otherwise
        self._used: set[str] = set()

    def to(self, name: str) -> Response:
        """The response to the next call of a name. It depends on the name only; the module's docstring says why."""
        response = self._by_name.get(name, self._otherwise)
        if response.kind is not ResponseKind.ALLOW_ONCE:
            return response
        if name in self._used:
            return Response(ResponseKind.ERRNO, response.errno)
        self._used.add(name)
        return response

    def settle(self, handled: Handled) -> None:
        """Give an "allow-once" back if its call did not take place: the caller was interrupted by a signal, and will make the call
        again."""
        if handled.response.kind is ResponseKind.ALLOW_ONCE and not handled.answered:
            self._used.discard(handled.call.name)


class NotifiedCall(msgspec.Struct, frozen=True):
    """A call that the kernel asked about. `verdict` is what the profile says about it; `rules` are the rules that say so, empty for the
    default."""

    notification: Notification
    arch: Arch
    name: str
    verdict: ProfileVerdict
    rules: tuple[ProfileRule, ...]

    @property
    def errno(self) -> int:
        """What the call returns when it is denied and nobody says otherwise."""
        return self.verdict.data if self.verdict.action is ProfileAction.ERRNO else errno_module.EPERM


class Handled(msgspec.Struct, frozen=True):
    """A call, its answer, and who made it. `caller` is None where it was gone before it could be looked at; `details` are for people:
    those of `details.reread` come from memory that the process can change."""

    call: NotifiedCall
    response: Response
    errno: int
    answered: bool
    caller: Caller | None
    details: CallDetails


class Supervisor:
    """Answers a listener in a thread of its own, until no process is left under the filter.

    `decide` gives the response, `handled` is told afterwards; both are called in that thread. When it fails, the listener is closed: the
    kernel then gives ENOSYS for every call that would have been asked about.
    """

    def __init__(
        self,
        listener: int,
        compiled: CompiledFilter,
        decide: Callable[[NotifiedCall], Response],
        handled: Callable[[Handled], None],
    ) -> None:
        # A descriptor of the thread's own: nobody else closes it while the thread waits on it.
        self._listener = Listener(os.dup(listener))
        self._program = Program(compiled.program)
        self._reference = Reference(compiled.effective)
        self._decide = decide
        self._handled = handled
        self._busy = threading.Lock()
        self._clock = Clock()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._answer_all, name="seccomp", daemon=True)
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def start(self) -> None:
        """Begins to answer."""
        # The kernel wakes a waiting receive only when a call comes (newer ones also when the last process ends): do not wait in it.
        self._thread.start()

    def check(self) -> None:
        """Raises what the thread failed with."""
        if self._failed is not None:
            raise self._failed

    def finish(self, *, all_ended: bool = False) -> None:
        """Wait for the call that is being answered, if there is one. With `all_ended`, wait for the thread; some kernels never wake it."""
        if all_ended:
            self._thread.join(LAST_CALL_SECONDS)
        with self._busy:
            pass
        self.check()

    def close(self) -> None:
        """Stop listening. The thread goes on until no process is left, or until this process ends."""
        with self._busy:
            os.close(self.wake)
            self.wake = -1

    def _answer_all(self) -> None:
        try:
            while True:
                notification = self._listener.receive()
                if notification is not None:
                    with self._busy:
                        self._handled(self._answer(notification))
                elif hung_up(self._listener.fd):
                    return
        except BaseException as error:
            self._failed = error
            with self._busy:
                if self.wake >= 0:
                    os.eventfd_write(self.wake, 1)
        finally:
            os.close(self._listener.fd)

    def call(self, notification: Notification) -> NotifiedCall:
        """What the profile says about a call."""
        number, audit, args = notification.nr, notification.arch, notification.args
        verdict = verdict_of(self._program.run(audit, number, args, notification.ip))
        arch, name = by_audit(audit, number)
        return NotifiedCall(notification, arch, name or f"syscall_{number}", verdict, self._reference.verdicts(audit, number, args).rules)

    def _answer(self, notification: Notification) -> Handled:
        call = self.call(notification)
        caller, details = self._look_at(call)
        response = self._decide(call)
        error = call.errno if response.errno is None else response.errno
        if response.kind in (ResponseKind.LOG, ResponseKind.ALLOW_ONCE):
            return Handled(call, response, 0, self._listener.proceed(notification.id), caller, details)
        if response.kind is ResponseKind.KILL:
            self._kill(notification)
        return Handled(call, response, error, self._listener.refuse(notification.id, error), caller, details)

    def _look_at(self, call: NotifiedCall) -> tuple[Caller | None, CallDetails]:
        """Who made the call, and its arguments. What was read is only true if the call still waited after it was read."""
        notification = call.notification
        pid = notification.pid
        memory = _open_memory(pid) if pid else None
        try:
            # The descriptor is for the memory of this pid. Whether the pid still is the caller's is known only if the call still waits now.
            if memory is not None and not self._listener.still_waits(notification.id):
                os.close(memory)
                memory = None
            details = decode_call(call.name, call.arch, notification.args, memory)
            caller = read_caller(pid, self._clock) if pid else None
        finally:
            if memory is not None:
                os.close(memory)
        if not self._listener.still_waits(notification.id):
            return None, decode_call(call.name, call.arch, notification.args, None)
        return caller, details

    def _kill(self, notification: Notification) -> None:
        if not notification.pid:
            return
        try:
            pidfd = os.pidfd_open(_thread_group(notification.pid))
        except OSError:
            return
        try:
            if self._listener.still_waits(notification.id):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)


def _open_memory(pid: int) -> int | None:
    try:
        return os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _thread_group(tid: int) -> int:
    caller = read_caller(tid, Clock())
    return caller.pid if caller is not None else tid


def hung_up(listener: int) -> bool:
    """Whether no process is left under the filter. Linux 5.9 (99cdb8b9a573)."""
    poll = select.poll()
    poll.register(listener, 0)
    return any(events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))


def supervise(
    command: Sequence[str],
    compiled: CompiledFilter,
    decide: Callable[[NotifiedCall], Response],
    handled: Callable[[Handled], None],
    *,
    everything: bool = False,
) -> int:
    """Runs a command, answers for it and for its descendants until the last has ended; the command's exit code as a shell gives it.

    SIGTERM and SIGHUP are passed on to the command; after its end, they and SIGINT end the supervision, and what runs on gets ENOSYS for
    what it would have been asked about. OSError where the command cannot be run.
    """
    plain = as_filter(compiled)
    filter_made = Filter(asking(plain.program, everything=everything), plain.flags)
    with Signals(caught()) as signals:
        child = launch(command, [filter_made], listen=0)
        try:
            if child.listener < 0:
                child.wait()  # raises the reason
                raise KernelError("no listener came from the kernel", missing="seccomp user notification")
            supervisor = Supervisor(child.listener, compiled, decide, handled)
            with Interrupts(child) as interrupts:
                supervisor.start()
                try:
                    status = _follow(child, supervisor, signals, interrupts)
                finally:
                    supervisor.close()
        finally:
            child.close()
    return exit_code(status)


def _follow(child: Child, supervisor: Supervisor, signals: Signals, interrupts: Interrupts) -> int:
    status: int | None = None
    with select.epoll() as poll:
        for descriptor in (child.pidfd, signals.fileno(), interrupts.fileno(), supervisor.wake):
            poll.register(descriptor, select.EPOLLIN)
        poll.register(child.listener, 0)  # a hang-up is always told
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            supervisor.check()
            taken, interrupted = signals.take(), interrupts.take()
            if status is not None and (taken or interrupted):
                return status
            for number in taken:
                child.signal(number)
            if status is None and child.pidfd in ready:
                poll.unregister(child.pidfd)
                supervisor.finish()
                status = child.wait()
            if child.listener in ready and status is not None and hung_up(child.listener):
                supervisor.finish(all_ended=True)
                return status
