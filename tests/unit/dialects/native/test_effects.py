# SPDX-License-Identifier: Apache-2.0
"""What rules do that their authors may not expect. How it is told and where: tests/cases/broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfence.dialects.native import effects
from bpfence.dialects.native.read import load_files, load_text
from bpfence.fields import EVENT_BY_NAME, FIELD_BY_NAME, applies
from bpfence.policy import Atom, Op

HEAD = "apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: p}\nspec:\n"
EXAMPLES = Path(__file__).parents[4] / "examples" / "policies"


def codes(spec: str) -> list[str]:
    return [problem.code for problem in load_text(HEAD + spec)[1]]


def test_vital_acts_are_events_as_the_kernel_has_them() -> None:
    for act in effects.VITAL:
        event = str(act.event["event"])
        assert EVENT_BY_NAME[event].blockable(kill=True)
        for name in act.event.keys() - {"event"}:
            assert applies(FIELD_BY_NAME[name], event) or name in ("file.flags", "file.text"), (event, name)
        assert act.words.startswith("/usr/")


def test_each_event_has_enough_acts_to_be_sure() -> None:
    for event in {act.event["event"] for act in effects.VITAL}:
        assert sum(act.event["event"] == event for act in effects.VITAL) >= 2


@pytest.mark.parametrize("event", sorted({str(act.event["event"]) for act in effects.VITAL}))
def test_denying_all_of_a_vital_event_is_told(event: str) -> None:
    assert codes(f"  rules:\n    - {{name: r, on: {event}, action: kill}}\n") == ["stops-host"]
    if not EVENT_BY_NAME[event].deniable:
        return  # there is no default for it
    assert codes(f"  default: {{{event}: kill}}\n  rules: []\n") == ["stops-host"]
    assert codes(f"  mode: audit\n  default: {{{event}: kill}}\n  rules: []\n") == []
    assert codes(f"  scope: {{container: true}}\n  default: {{{event}: kill}}\n  rules: []\n") == []


@pytest.mark.parametrize("name", ["mount", "module", "bpf", "ptrace", "process.memory", "net.listen"])
def test_denying_what_a_host_can_do_without_is_not(name: str) -> None:
    assert "stops-host" not in codes(f"  rules:\n    - {{name: r, on: {name}, action: deny}}\n")


def test_what_is_known_of_every_table() -> None:
    assert {event for event, _ in effects.OFTEN_ABSENT} <= EVENT_BY_NAME.keys()
    assert all(applies(FIELD_BY_NAME[field], event) for event, field in effects.OFTEN_ABSENT)
    assert effects.FAMILIES.keys() <= FIELD_BY_NAME.keys()


def test_an_absent_field_that_the_rule_asks_for_is_no_surprise() -> None:
    known = Atom("file.fstype", Op.EXISTS)
    assert effects.often_absent("file.fstype", ["kernel.mount"], Atom("file.fstype", Op.EQUALS, "proc"))
    assert not effects.often_absent("file.fstype", ["kernel.mount"], known)
    assert not effects.often_absent("file.fstype", ["file.open"], Atom("file.fstype", Op.EQUALS, "proc"))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("on: connect, condition: net.local.port = net.peer.port, action: deny", ["often-absent"]),
        ("on: connect, condition: net.local.port = net.peer.port and net.local.port exists, action: deny", []),
        ("on: connect, condition: net.local.port = net.peer.port, action: audit", []),
        ("on: connect, condition: net.family = unix and net.peer.ip = net.local.ip", ["unreachable"]),
        ("on: connect, condition: net.unix.path exists and net.peer.ip != net.local.ip", ["unreachable"]),
        ("on: open, condition: file.path != file.text, action: deny", ["as-given"]),
        ("on: signal, condition: target.uid = process.uid, action: deny", ["stops-host"]),
        ("on: signal, condition: target.uid != process.uid, action: deny", []),
        ("on: exec, condition: process.exe = process.parent.exe, action: audit", ["about-caller"]),
        ("on: exec, condition: process.exe = file.path, action: audit", []),
        ("on: [exec, signal], condition: process.exe = target.exe, action: audit", ["field-on-some-events"]),
        ("on: file.modify, condition: file.path = process.exe, action: deny", []),
    ],
)
def test_comparisons_of_fields_are_looked_at_like_others(rule: str, expected: list[str]) -> None:
    assert codes(f"  rules:\n    - {{name: r, {rule}}}\n") == expected


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_policies_are_quiet(file: Path) -> None:
    assert load_files([file])[1] == []
