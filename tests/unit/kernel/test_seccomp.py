# SPDX-License-Identifier: Apache-2.0
"""Commands under hand-written filters, and the listener; natively, on processes of our own. Needs no privilege."""

from __future__ import annotations

import errno
import os
import platform
import signal
import struct
from pathlib import Path

import pytest

from bpfence.confine.supervise import hung_up
from bpfence.errors import KernelError
from bpfence.kernel.seccomp import Child, Filter, Flag, LaunchFailure, Listener, candidates, knows_action, launch, supported_flags
from bpfence.seccomp.model import RET, ProfileAction
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import number

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86_64 machine: the filters here are for it")
ALLOW, ERRNO, NOTIFY = RET[ProfileAction.ALLOW], RET[ProfileAction.ERRNO], RET[ProfileAction.NOTIFY]
PYTHON = "/usr/bin/python3"


def instruction(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jt, jf, k)


def only(name: str, ret: int) -> Filter:
    """One call gets `ret`, all others pass."""
    wanted = number(Arch.X86_64, name) or 0
    return Filter(instruction(0x20, 0) + instruction(0x15, wanted, 0, 1) + instruction(0x06, ret) + instruction(0x06, ALLOW))


def outcome(child: Child) -> int:
    try:
        return os.waitstatus_to_exitcode(child.wait())
    finally:
        child.close()


def test_a_command_without_filters() -> None:
    assert outcome(launch(["sh", "-c", "exit 3"])) == 3
    assert outcome(launch(["sh", "-c", "kill -TERM $$"])) == -signal.SIGTERM


def test_the_environment_and_its_path_are_the_commands(tmp_path: Path) -> None:
    own = tmp_path / "own-command"
    own.write_text('#!/bin/sh\n[ "$WORD" = "a b" ] && [ "$1" = "x  y" ]\n')
    own.chmod(0o755)
    assert outcome(launch(["own-command", "x  y"], environment={"PATH": f"/nowhere:{tmp_path}", "WORD": "a b"})) == 0


@pytest.mark.parametrize(
    ("command", "search", "found"),
    [
        ("ls", "/bin:/usr/bin", ["/bin/ls", "/usr/bin/ls"]),
        ("./ls", "/bin", ["./ls"]),
        ("ls", ":/bin", ["./ls", "/bin/ls"]),
    ],
)
def test_candidates(command: str, search: str, found: list[str]) -> None:
    assert candidates(command, search) == found


def test_failures_say_what_was_being_done(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    for words, kind in ((["no-such-command"], FileNotFoundError), ([str(plain)], PermissionError)):
        with pytest.raises(kind, match=words[0]):
            outcome(launch(words))
    with pytest.raises(KernelError, match="installing the filter"):
        outcome(launch(["true"], [Filter(b"\xff" * 8)]))
    with pytest.raises(KernelError, match="joining the cgroup"):
        outcome(launch(["true"], cgroup=999))
    assert LaunchFailure("executing the command", errno.ENOENT).at_exec


def test_a_failure_is_told_though_the_filter_denies_everything() -> None:
    """Neither write(2) nor exit_group(2) is needed to say why."""
    with pytest.raises(PermissionError):
        outcome(launch(["true"], [Filter(instruction(0x06, ERRNO | errno.EPERM))]))


def test_nul_in_arguments_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        launch(["true", "a\0b"])


@pytest.mark.parametrize("program", [b"", b"x" * 7, b"x" * 8 * 4097])
def test_what_is_no_filter_is_refused(program: bytes) -> None:
    with pytest.raises(ValueError, match="not a filter"):
        Filter(program)


def test_signals_are_reset_but_what_was_ignored_stays() -> None:
    """SIGPIPE is ignored by Python, SIGUSR1 by the caller, SIGUSR2 has a handler; a blocked signal stays blocked."""
    old = signal.signal(signal.SIGUSR1, signal.SIG_IGN), signal.signal(signal.SIGUSR2, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
    try:
        script = "import signal as s; ok = s.getsignal(s.SIGUSR1) == s.SIG_IGN and s.getsignal(s.SIGUSR2) == s.SIG_DFL"
        script += "; text = open('/proc/self/status').read(); blocked = int(text.split('SigBlk:')[1].split()[0], 16)"
        script += "; raise SystemExit(0 if ok and blocked == 1 << s.SIGWINCH - 1 else 1)"
        assert outcome(launch([PYTHON, "-c", script])) == 0
        assert outcome(launch(["sh", "-c", "kill -PIPE $$"])) == -signal.SIGPIPE
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGWINCH})
        signal.signal(signal.SIGUSR1, old[0])
        signal.signal(signal.SIGUSR2, old[1])


def test_a_held_child_waits_and_goes_on(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    child = launch(["touch", str(mark)], hold=True)
    assert not mark.exists()
    child.release()
    assert outcome(child) == 0
    assert mark.exists()


def test_several_filters_the_strictest_counts() -> None:
    script = "import os; raise SystemExit(-os.getppid())"
    filters = [only("getppid", ERRNO | 5), only("getppid", ALLOW), only("getuid", ERRNO | 7)]
    assert outcome(launch([PYTHON, "-c", script], filters)) == 5


def test_the_listener_gets_registers_and_answers() -> None:
    child = launch([PYTHON, "-c", "import os; raise SystemExit(-os.getpgid(0x1234))"], [only("getpgid", NOTIFY)], listen=0)
    listener = Listener(child.listener)
    found = listener.receive()
    assert found is not None
    assert (found.pid, found.arch, found.nr, found.args[0]) == (child.pid, Arch.X86_64.audit, number(Arch.X86_64, "getpgid"), 0x1234)
    assert listener.still_waits(found.id)
    assert listener.refuse(found.id, errno.EXDEV)
    assert not listener.still_waits(found.id)
    assert not listener.refuse(found.id, errno.EXDEV)
    os.waitpid(child.pid, 0)
    assert hung_up(child.listener)
    child.close()


def test_proceed_makes_the_kernel_carry_it_out() -> None:
    child = launch([PYTHON, "-c", "import os; raise SystemExit(os.getpgid(0) <= 0)"], [only("getpgid", NOTIFY)], listen=0)
    listener = Listener(child.listener)
    found = listener.receive()
    assert found is not None
    assert listener.proceed(found.id)
    assert outcome(child) == 0


def test_a_caller_that_dies_while_it_waits() -> None:
    child = launch([PYTHON, "-c", "import os; os.getpgid(0)"], [only("getpgid", NOTIFY)], listen=0)
    listener = Listener(child.listener)
    found = listener.receive()
    assert found is not None
    child.signal(signal.SIGKILL)
    os.waitpid(child.pid, 0)
    assert not listener.still_waits(found.id)
    assert not listener.proceed(found.id)
    child.close()


def test_what_the_kernel_knows() -> None:
    assert Flag.SECCOMP_FILTER_FLAG_LOG in supported_flags()
    assert knows_action(RET[ProfileAction.ERRNO])
    assert not knows_action(0x12340000)
