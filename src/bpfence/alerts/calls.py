# SPDX-License-Identifier: Apache-2.0
"""Answered calls in, alerts, or the findings of an audit, out.

Called by `bpfence seccomp supervise` (Reporter) and `learn --audit` (Tally), in the supervisor's thread.
"""

from __future__ import annotations

import errno as errno_module
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec
from msgspec import UNSET

from bpfence.alerts.alert import Alert, Composer, Line, host_name
from bpfence.alerts.limit import RateLimiter
from bpfence.confine.supervise import Handled, NotifiedCall, ResponseKind
from bpfence.events.process import rfc3339
from bpfence.events.values import escape, printable
from bpfence.policy import DEFAULT_RULE
from bpfence.syscalls.architectures import Arch

EVENT: Final = "seccomp"
ACTIONS: Final = {ResponseKind.ERRNO: "deny", ResponseKind.KILL: "kill", ResponseKind.LOG: "audit", ResponseKind.ALLOW_ONCE: "allow"}
DONE: Final = {
    ResponseKind.ERRNO: "denied",
    ResponseKind.KILL: "killed for",
    ResponseKind.LOG: "let through and noted",
    ResponseKind.ALLOW_ONCE: "let through once",
}


def rule_name(call: NotifiedCall) -> str:
    """What in the profile decided: the rule's comment or its place, or the default."""
    if not call.rules:
        return DEFAULT_RULE
    rule = call.rules[0]
    return escape(rule.comment) if rule.comment else f"line {rule.location.line}"


def syscall_details(handled: Handled) -> dict[str, Any]:
    """The key `syscall` of alerts (docs/seccomp-run.md)."""
    call, notification = handled.call, handled.call.notification
    return {
        "name": call.name,
        "nr": notification.nr,
        "arch": call.arch.machine if call.arch.name != "X32" else "x32",
        "args": handled.details.args,
        "reread": handled.details.reread,
        "registers": [hex(value) for value in notification.args],
        "ip": hex(notification.ip),
        "verdict": str(call.verdict),
    }


class Writer(Protocol):
    """Where lines go to."""

    def write(self, lines: Sequence[Line]) -> None:
        """Write whole lines, in order."""


class Reporter:
    """Alerts to outputs, limited per call so that a loop of denied calls does not flood them. `policy`: what alerts name as such."""

    def __init__(self, outputs: Writer, policy: str, *, now: Callable[[], int] = time.time_ns) -> None:
        self._outputs = outputs
        self._policy = escape(policy)
        self._now = now
        self._host = host_name()
        self._composer = Composer(self._host, now)
        self._limiter = RateLimiter()
        self._seq = 0

    def handled(self, handled: Handled) -> None:
        """One answered call."""
        self._seq += 1
        if self._limiter.allow((self._policy, handled.call.name), 0, 0, time.monotonic()):
            self._outputs.write([self.alert(handled)])
        self.suppressed()

    def alert(self, handled: Handled) -> Alert:
        """The line for a call."""
        call, kind = handled.call, handled.response.kind
        blocked = kind in (ResponseKind.ERRNO, ResponseKind.KILL)
        number = errno_module.errorcode.get(handled.errno, str(handled.errno)) if blocked else None
        caller = handled.caller
        process: dict[str, Any] = msgspec.to_builtins(caller) if caller is not None else {"tid": call.notification.pid}
        who = (caller.exe or caller.name) if caller is not None else f"thread {call.notification.pid}"
        gone = "" if handled.answered else ", which did not wait for the answer"
        shown = ", ".join(f"{name}={value}" for name, value in handled.details.args.items())
        return Alert(
            time=rfc3339(self._now()),
            policy=self._policy,
            rule=rule_name(call),
            severity="medium" if blocked else "low",
            tags=(),
            action=ACTIONS[kind],
            mode="enforce",
            would=UNSET if blocked else "deny",
            event=EVENT,
            message=printable(f"{DONE[kind]} {call.name}({shown}) of {who}{gone}"),
            errno=number,
            seq=self._seq,
            host=self._host,
            process=process,
            syscall=syscall_details(handled),
        )

    def suppressed(self, *, everything: bool = False) -> None:
        """Says how many alerts were left out, where that is due."""
        for left in self._limiter.reports(time.monotonic(), everything=everything):
            more = {"policy": left.policy, "rule": left.rule, "suppressed": left.alerts}
            line = self._composer.status("suppressed", left.text, severity="medium", **more)
            self._outputs.write([line])


class Finding(msgspec.Struct, frozen=True):
    """One kind of call that a profile would have denied: how often, by whom first, and with which arguments then."""

    arch: str
    name: str
    verdict: str
    rule: str
    times: int
    exe: str | None
    args: dict[str, Any]


class Tally:
    """Counts calls by architecture, name and verdict; keeps the first of each kind."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str, str], Handled] = {}
        self._times: dict[tuple[str, str, str], int] = {}
        self.calls: set[tuple[Arch, int]] = set()
        self.families: set[int] = set()

    def handled(self, handled: Handled) -> None:
        """Count one call. A call that the profile leaves to a supervisor (NOTIFY) counts as denied, because nobody may be there to allow
        it."""
        call = handled.call
        key = (call.arch.name.lower(), call.name, str(call.verdict))
        self._first.setdefault(key, handled)
        self._times[key] = self._times.get(key, 0) + 1
        self.calls.add((call.arch, call.notification.nr))
        if call.name == "socket":
            self.families.add(call.notification.args[0] & 0xFFFFFFFF)

    def findings(self) -> list[Finding]:
        """What was seen, in order of name."""
        findings = []
        for key in sorted(self._first, key=lambda key: (key[1], key)):
            handled = self._first[key]
            exe = handled.caller.exe if handled.caller is not None else None
            findings.append(Finding(*key, rule_name(handled.call), self._times[key], exe, handled.details.args))
        return findings
