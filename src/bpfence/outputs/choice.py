# SPDX-License-Identifier: Apache-2.0
"""A form in, one that shows only some lines, or not all of them, out.

Called by `specs`. What tells of lines that are missing (losses, and the status `dropped`) passes every filter.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any, Final

from bpfence.alerts.alert import SEVERITIES, Alert, Line, LossLine, Rendered, StatusLine, whole
from bpfence.events.process import Ancestor, Living, Parent, Process
from bpfence.events.values import escape
from bpfence.fields import FIELDS
from bpfence.outputs.forms import Chosen, Form, Shown, members
from bpfence.policy import Action

REDACTED: Final = "<redacted>"
_KEPT: Final = frozenset(("time", "kind", "policy", "rule", "severity", "action", "event", "message", "seq"))
_TOLD: Final = frozenset(("id", "name", "image", "labels", "mounts", "namespace", "pod", "uid", "serviceAccount", "node", "owner"))
MEMBERS: Final = (
    frozenset(part for field in FIELDS for part in field.name.split("."))
    | {name for kind in (Alert, Process, Parent, Ancestor, Living) for name in kind.__struct_fields__}
    | _TOLD
) - _KEPT
"""Names of an alert's members that may be left out."""


def chosen(form: Form, severity: str, policies: Sequence[str], namespaces: Sequence[str]) -> Chosen:
    """The form of lines of at least that severity, of policies and namespaces whose names match one of the patterns. No patterns: all."""
    least = SEVERITIES.index(severity)
    if not (least or policies or namespaces):
        return form

    def made(line: Line) -> bytes | None:
        return form(line) if _passes(line, least, policies, namespaces) else None

    return made


def _passes(line: Line, least: int, policies: Sequence[str], namespaces: Sequence[str]) -> bool:
    if isinstance(line, LossLine):
        return True
    policy: str | None
    if isinstance(line, Rendered):
        rule = line.made_of[1]
        severity, policy = ("info" if rule.action is Action.OBSERVE else rule.severity), escape(rule.policy)
    elif isinstance(line, StatusLine):
        if line.status == "dropped":
            return True
        severity, policy = line.severity, line.policy or None
    else:
        severity, policy = line.severity, line.policy or ""
    if SEVERITIES.index(severity) < least or (policies and policy is not None and not _matches(policy, policies)):
        return False
    if not namespaces or isinstance(line, StatusLine):
        return True
    one = whole(line)
    pod = one.k8s if isinstance(one, Alert) else None
    return pod is not None and _matches(str(pod["namespace"]), namespaces)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def unknown(path: str) -> str:
    """The part of a path that names no member of alerts; "" where there is none."""
    return next((part for part in path.split(".") if part not in MEMBERS), "")


def redacted(paths: Sequence[str], shown: Shown) -> Form:
    """A form with members left out: `args` wherever it stands, `process.args` there alone. `shown`: what shows the others.

    Texts that rules make may name anything, so the message says the event and the rule only, and `dialect` is left out.
    """
    anywhere = frozenset(path for path in paths if "." not in path)
    there = [path.split(".") for path in paths if "." in path]

    def made(line: Line) -> bytes:
        found = members(line)
        if not isinstance(line, Alert | Rendered):
            return shown(found)
        found["message"] = f"{found['event']} matched {found['policy']}/{found['rule']}"
        found.pop("dialect", None)
        _hide(found, anywhere.__contains__)
        for path in there:
            _hide_at(found, path)
        return shown(found)

    return made


def _hide(value: Any, hidden: Callable[[str], bool]) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            if hidden(name) and name not in _KEPT and inner is not None:
                value[name] = REDACTED
            else:
                _hide(inner, hidden)
    elif isinstance(value, list | tuple):
        for inner in value:
            _hide(inner, hidden)


def _hide_at(value: Any, path: Sequence[str]) -> None:
    if isinstance(value, list | tuple):
        for inner in value:
            _hide_at(inner, path)
    elif isinstance(value, dict) and path[0] in value:
        if len(path) > 1:
            _hide_at(value[path[0]], path[1:])
        elif value[path[0]] is not None:
            value[path[0]] = REDACTED
