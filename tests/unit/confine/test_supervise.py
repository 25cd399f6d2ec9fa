# SPDX-License-Identifier: Apache-2.0
"""Filters that ask, answers by name, and the supervisor in this process."""

from __future__ import annotations

import errno
import os
import platform

import pytest

from bpfence.confine.callers import CallDetails
from bpfence.confine.command import compiled_here
from bpfence.confine.supervise import DENY, Handled, NotifiedCall, Response, ResponseKind, Responses, asking, supervise
from bpfence.kernel import seccomp as kernel
from bpfence.seccomp.interpret import Program, verdict_of
from bpfence.seccomp.model import Profile, ProfileAction, ProfileRule, ProfileVerdict
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import number

PYTHON = "/usr/bin/python3"
GETPGID = number(Arch.native(), "getpgid") or 0
native = pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86_64 machine")


def profile(action: ProfileAction, error: int | None = None) -> Profile:
    return Profile(default_action=ProfileAction.ALLOW, rules=(ProfileRule(names=("getpgid",), action=action, errno=error),))


@pytest.mark.parametrize(
    ("action", "soft", "everything"),
    [
        (ProfileAction.ERRNO, "NOTIFY", "NOTIFY"),
        (ProfileAction.NOTIFY, "NOTIFY", "NOTIFY"),
        (ProfileAction.KILL_PROCESS, "KILL_PROCESS", "NOTIFY"),
        (ProfileAction.KILL_THREAD, "KILL_THREAD", "NOTIFY"),
        (ProfileAction.TRAP, "TRAP", "NOTIFY"),
        (ProfileAction.TRACE, "TRACE(1)", "NOTIFY"),
        (ProfileAction.LOG, "LOG", "LOG"),
    ],
)
def test_what_a_filter_asks_about(action: ProfileAction, soft: str, everything: str) -> None:
    program = compiled_here(profile(action)).program
    for all_of_it, wanted in ((False, soft), (True, everything)):
        found = Program(asking(program, everything=all_of_it))
        assert str(verdict_of(found.run(Arch.native().audit, GETPGID))) == wanted
        assert str(verdict_of(found.run(Arch.native().audit, GETPGID + 1))) == "ALLOW"


def test_answers_by_name() -> None:
    once = Response(ResponseKind.ALLOW_ONCE)
    answers = Responses({"mount": once, "bpf": Response(ResponseKind.KILL)}, Response(ResponseKind.LOG))
    assert [answers.to("mount").kind for _ in range(3)] == [ResponseKind.ALLOW_ONCE, ResponseKind.ERRNO, ResponseKind.ERRNO]
    assert answers.to("bpf").kind is ResponseKind.KILL
    assert answers.to("keyctl").kind is ResponseKind.LOG
    assert Responses({}).to("keyctl") == DENY


def test_an_allow_once_that_was_not_used_is_given_back() -> None:
    once = Response(ResponseKind.ALLOW_ONCE)
    answers = Responses({"getpgid": once})
    asked = kernel.Notification(1, 2, Arch.native().audit, GETPGID, 0, (0,) * 6)
    call = NotifiedCall(asked, Arch.native(), "getpgid", ProfileVerdict(ProfileAction.ERRNO, 1), ())
    assert answers.to("getpgid") == once
    answers.settle(Handled(call, once, 0, False, None, CallDetails({}, [])))
    assert answers.to("getpgid") == once
    answers.settle(Handled(call, once, 0, True, None, CallDetails({}, [])))
    assert answers.to("getpgid").kind is ResponseKind.ERRNO


def run(
    response: Response, script: str, action: ProfileAction = ProfileAction.ERRNO, error: int | None = errno.EACCES
) -> tuple[int, list[Handled]]:
    seen: list[Handled] = []
    code = supervise([PYTHON, "-c", script], compiled_here(profile(action, error)), lambda _: response, seen.append)
    return code, seen


SCRIPT = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); raise SystemExit(ctypes.get_errno() if libc.getpgid(0x77) < 0 else 99)"


@native
@pytest.mark.parametrize(
    ("response", "code"),
    [
        (DENY, errno.EACCES),
        (Response(ResponseKind.ERRNO, errno.EXDEV), errno.EXDEV),
        (Response(ResponseKind.LOG), errno.ESRCH),
        (Response(ResponseKind.KILL), 137),
    ],
)
def test_the_supervisor_answers(response: Response, code: int) -> None:
    found, seen = run(response, SCRIPT)
    (handled,) = [one for one in seen if one.call.notification.args[0] == 0x77]
    if response.kind is not ResponseKind.LOG:
        assert found == code
    else:
        assert found in (errno.ESRCH, 99)
    assert handled.call.name == "getpgid"
    assert str(handled.call.verdict) == "ERRNO(EACCES)"
    assert handled.call.rules[0].names == ("getpgid",)
    assert handled.caller is not None
    assert handled.caller.exe == os.path.realpath(PYTHON)
    assert next(iter(handled.details.args.values())) in (0x77, "0x77")


@native
def test_a_decision_never_sees_memory() -> None:
    """What decides is given registers only: there is nothing in a NotifiedCall that was read from the process."""
    assert set(NotifiedCall.__struct_fields__) == {"notification", "arch", "name", "verdict", "rules"}
    assert set(kernel.Notification.__struct_fields__) == {"id", "pid", "arch", "nr", "ip", "args"}


@native
def test_when_deciding_fails_the_command_gets_enosys_and_the_failure_is_ours() -> None:
    def broken(_: NotifiedCall) -> Response:
        raise RuntimeError("no decision")

    with pytest.raises(RuntimeError, match="no decision"):
        supervise([PYTHON, "-c", SCRIPT], compiled_here(profile(ProfileAction.ERRNO)), broken, lambda _: None)


@native
def test_commands_that_cannot_be_run() -> None:
    with pytest.raises(FileNotFoundError):
        supervise(["no-such-command"], compiled_here(profile(ProfileAction.ERRNO)), lambda _: DENY, lambda _: None)
