# SPDX-License-Identifier: Apache-2.0
"""Answered calls as alerts and as findings."""

from __future__ import annotations

import errno
import io
import json
from typing import Any

import pytest

from bpfence.alerts.alert import encode
from bpfence.alerts.calls import Reporter, Tally, rule_name
from bpfence.confine.callers import CallDetails, Caller
from bpfence.confine.supervise import Handled, NotifiedCall, Response, ResponseKind
from bpfence.errors import Location
from bpfence.kernel.seccomp import Notification
from bpfence.outputs.routes import open_outputs
from bpfence.seccomp.model import ProfileAction, ProfileRule, ProfileVerdict
from bpfence.syscalls.architectures import Arch

RULE = ProfileRule(names=("mkdir",), action=ProfileAction.ERRNO, location=Location("p.json", 7, 3))


def handled(
    answer: ResponseKind = ResponseKind.ERRNO, *, rules: tuple[ProfileRule, ...] = (RULE,), caller: bool = True, answered: bool = True
) -> Handled:
    notification = Notification(1, 77, Arch.X86_64.audit, 83, 0x400000, (0x1000, 0o755, 0, 0, 0, 0))
    call = NotifiedCall(notification, Arch.X86_64, "mkdir", ProfileVerdict(ProfileAction.ERRNO, errno.EACCES), rules)
    who = Caller(70, 77, 1, None, "sh", "/bin/sh", ["sh"], "/", 0, 0, "2026-01-01T00:00:00.000000000Z", []) if caller else None
    return Handled(call, Response(answer), errno.EACCES, answered, who, CallDetails({"path": r"/x\x0a", "mode": "0755"}, ["path"]))


def lines(*calls: Handled) -> list[dict[str, Any]]:
    stream = io.StringIO()
    outputs = open_outputs(("-",), print, stream=stream)
    reporter = Reporter(outputs, "profile.json", now=lambda: 0)
    for one in calls:
        reporter.handled(one)
    reporter.suppressed(everything=True)
    outputs.close()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("answer", "action", "error", "would"),
    [
        (ResponseKind.ERRNO, "deny", "EACCES", None),
        (ResponseKind.KILL, "kill", "EACCES", None),
        (ResponseKind.LOG, "audit", None, "deny"),
        (ResponseKind.ALLOW_ONCE, "allow", None, "deny"),
    ],
)
def test_an_alert(answer: ResponseKind, action: str, error: str | None, would: str | None) -> None:
    (line,) = lines(handled(answer))
    assert (line["kind"], line["event"], line["policy"], line["rule"]) == ("alert", "seccomp", "profile.json", "line 7")
    assert (line["action"], line["errno"], line.get("would")) == (action, error, would)
    assert line["process"]["pid"] == 70
    assert line["syscall"] == {
        "name": "mkdir", "nr": 83, "arch": "x86_64", "args": {"path": r"/x\x0a", "mode": "0755"}, "reread": ["path"],
        "registers": ["0x1000", "0x1ed", "0x0", "0x0", "0x0", "0x0"], "ip": "0x400000", "verdict": "ERRNO(EACCES)",
    }  # fmt: skip
    assert "mkdir(path=/x\\x0a, mode=0755) of /bin/sh" in line["message"]


def test_a_caller_that_is_gone() -> None:
    (line,) = lines(handled(caller=False, answered=False))
    assert line["process"] == {"tid": 77}
    assert "did not wait" in line["message"]


def test_what_decided_has_a_name() -> None:
    assert rule_name(handled(rules=()).call) == "default"
    commented = ProfileRule(names=("mkdir",), action=ProfileAction.ERRNO, comment="no\nfolders")
    assert rule_name(handled(rules=(commented,)).call) == r"no\x0afolders"


def test_a_flood_is_cut_and_counted() -> None:
    found = lines(*[handled()] * 1000)
    told = [line for line in found if line["kind"] == "alert"]
    assert 200 <= len(told) < 1000
    assert len(told) + sum(line["suppressed"] for line in found if line["kind"] == "status") == 1000


def test_the_line_is_of_the_common_form() -> None:
    reporter = Reporter(open_outputs(("-",), print, stream=io.StringIO()), "p", now=lambda: 0)
    keys = list(json.loads(encode(reporter.alert(handled()))))
    assert keys[:3] == ["time", "kind", "policy"]
    assert keys[-3:] == ["syscall", "container", "k8s"]


def test_a_tally_counts_kinds() -> None:
    tally = Tally()
    for _ in range(3):
        tally.handled(handled(ResponseKind.LOG))
    tally.handled(handled(ResponseKind.LOG, caller=False))
    (found,) = tally.findings()
    assert (found.arch, found.name, found.verdict, found.times, found.exe) == ("x86_64", "mkdir", "ERRNO(EACCES)", 4, "/bin/sh")
    assert tally.calls == {(Arch.X86_64, 83)}
