# SPDX-License-Identifier: Apache-2.0
"""Ways around what a policy enforces: when they are told, and when not. Where and how: tests/cases/broken."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.conditions.values import condition_of
from bpfence.dialects.native import gaps
from bpfence.dialects.native.read import load_text
from bpfence.evaluate import holds
from bpfence.fields import FIELD_BY_NAME
from bpfence.policy import And, Atom, Not, Op, Or

HEAD = "apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: p}\nspec:\n"
SCOPE = "  scope: {user: '33'}\n"
CODES = frozenset(("one-level", "open-only", "one-name", "datagrams", "chosen-name", "always-true", "allow-denied", "one-family"))


def told(spec: str) -> list[str]:
    policies, found = load_text(HEAD + SCOPE + spec)
    assert not [problem for problem in found if problem.severity == "error"], found
    assert policies.policies
    return [problem.code for problem in found if problem.code in CODES]


def rules(*texts: str, more: str = "") -> list[str]:
    listed = "".join(f"    - {{name: r{n}, {text}}}\n" for n, text in enumerate(texts))
    return told(f"{more}  rules:\n{listed}")


OPEN = "on: open, match: {file.path: /etc/passwd, file.access: [write]}, action: deny"
MANY = "threshold: {count: 9, within: 1s}"
RENAME = "on: rename, match: {file.path: /etc/passwd}, action: deny"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["on: exec, match: {file.path: '/tmp/*'}, action: deny"], ["one-level"]),
        (["on: exec, match: {file.path: ['/tmp/*', '{/var/tmp,/dev/shm}/*']}, action: kill"], ["one-level"] * 3),
        (["on: exec, match: {file.path: ['/tmp/*', '/tmp/**']}, action: deny"], []),
        (["on: exec, match: {file.path: ['/tmp/*', '/tmp/*/**']}, action: deny"], []),
        (["on: exec, match: {file.path: '/usr/bin/*'}, action: deny"], []),
        (["on: exec, match: {file.path: '/tmp/*'}, action: audit"], []),
        (["on: exec, match: {file.path: '/**'}, unless: {file.path: '/tmp/*'}, action: deny"], []),
        ([OPEN], ["open-only"]),
        ([OPEN, "on: [rename, unlink], match: {file.path: /etc/passwd}, action: deny"], ["one-name"]),
        ([OPEN, "on: rename, match: {file.new_path: /etc/passwd}, action: deny"], []),
        ([OPEN, f"on: [rename, unlink], match: {{file.path: /etc/passwd}}, action: deny, {MANY}"], ["open-only"]),
        ([f"{OPEN}, {MANY}", f"{RENAME}, {MANY}"], []),
        ([RENAME, f"on: rename, match: {{file.new_path: /etc/passwd}}, action: deny, {MANY}"], ["one-name"]),
        ([f"on: exec, match: {{file.path: '/tmp/*'}}, action: deny, {MANY}"], ["one-level"]),
        (["on: file.modify, match: {file.path: /etc/passwd}, action: deny"], []),
        (["on: open, match: {file.path: /etc/shadow}, action: deny"], []),
        (["on: open, match: {file.path: '/proc/*/mem', file.access: [write]}, action: deny"], []),
        (["on: open, match: {file.access: [write]}, action: deny"], []),
        ([RENAME], ["one-name"]),
        ([RENAME, "on: rename, match: {file.new_path: /etc/passwd}, action: deny"], []),
        (["on: rename, match: {process.exe: /usr/bin/mv}, action: deny"], []),
        (["on: connect, match: {net.protocol: udp}, action: deny"], ["datagrams"]),
        (["on: connect, match: {net.type: dgram}, action: deny"], ["datagrams"]),
        (["on: connect, match: {net.protocol: tcp}, action: deny"], []),
        (["on: net.egress, match: {net.protocol: udp}, action: deny"], []),
        (["on: net.egress, match: {net.peer.ip: 0.0.0.0/0}, action: deny"], ["one-family"]),
        (["on: net.egress, match: {net.peer.ip: '::/0'}, action: deny"], ["one-family"]),
        (["on: net.egress, match: {net.peer.ip: [0.0.0.0/0, '::/0']}, action: deny"], []),
        ([f"on: net.egress, match: {{net.peer.ip: '{net}'}}, action: deny" for net in ("0.0.0.0/0", "::/0")], []),
        (["on: net.egress, match: {net.peer.ip: 10.0.0.0/8}, action: deny"], []),
        (["on: exec, match: {file.path: /var/lib/docker/**}, action: deny"], []),
    ],
)
def test_other_ways_to_the_same_end(texts: list[str], expected: list[str]) -> None:
    assert rules(*texts) == expected


@pytest.mark.parametrize(
    ("default", "expected"),
    [("connect: deny", ["datagrams"]), ("connect: deny, send: deny", []), ("connect: audit", []), ("bind: deny", [])],
)
def test_a_default_for_connections_says_nothing_of_datagrams(default: str, expected: list[str]) -> None:
    assert told(f"  default: {{{default}}}\n  rules: []\n") == expected
    assert told(f"  mode: audit\n  default: {{{default}}}\n  rules: []\n") == []


@pytest.mark.parametrize(
    ("unless", "expected"),
    [
        ("{process.name: sshd}", ["chosen-name"]),
        ("{process.name: sshd, process.args: 'sshd *'}", ["chosen-name"]),
        ("{process.parent.name: sshd}", ["chosen-name"]),
        ("{process.name: sshd, process.gid: '33'}", []),
        ("{process.name: sshd, process.exe: /usr/sbin/sshd}", []),
        ("{process.exe: /usr/sbin/sshd}", []),
    ],
)
def test_an_exception_by_a_name_is_for_everybody(unless: str, expected: list[str]) -> None:
    assert rules(f"on: open, match: {{file.path: /etc/shadow}}, unless: {unless}, action: deny") == expected
    assert rules(f"on: open, match: {{file.path: /etc/shadow}}, unless: {unless}, action: audit") == []
    assert rules(f"on: exec, match: {unless}, action: allow", more="  default: {exec: deny}\n") == expected


def test_an_exception_by_a_name_in_a_condition_and_in_the_scope() -> None:
    condition = "file.path = /etc/shadow and not (process.name = sshd or process.exe = /usr/sbin/cron)"
    assert rules(f"on: open, condition: '{condition}', action: deny") == ["chosen-name"]
    _, found = load_text(HEAD + "  scope: {uid: '33', unless: {name: nginx}}\n  rules:\n    - {name: r, on: exec, action: deny}\n")
    assert [problem.code for problem in found] == ["chosen-name"]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("process.name != bash or process.name != sh", ["always-true"]),
        ("not process.name = bash or not process.name = sh", ["always-true"]),
        ("process.uid != 0 or process.uid != 33", ["always-true"]),
        ("process.uid >= 10 or process.uid < 10", []),
        ("process.name != bash and process.name != sh", []),
        ("process.name != bash or process.uid = 0", []),
        ("not process.name in (bash, sh) or process.name = bash", []),
        ("process.exe startswith /usr/ or not process.exe endswith sh", []),
    ],
)
def test_alternatives_that_are_true_of_every_value(condition: str, expected: list[str]) -> None:
    assert rules(f"on: open, condition: 'file.path = /x and ({condition})', action: audit") == expected


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ("{file.path: /opt/good}", ["allow-denied"]),
        ("{file.path: '/opt/good/**'}", ["allow-denied"]),
        ("{file.path: [/opt/good, /usr/bin/id]}", ["allow-denied"]),
        ("{file.path: /usr/bin/id}", []),
        ("{file.path: '/o*/good'}", []),
    ],
)
def test_an_allow_that_a_deny_overrules(allowed: str, expected: list[str]) -> None:
    deny = "on: exec, match: {file.path: '/opt/**'}, action: deny"
    assert rules(deny, f"on: exec, match: {allowed}, action: allow", more="  default: {exec: audit}\n") == expected


def test_the_first_deny_that_overrules_an_allow_is_named() -> None:
    denies = [f"on: exec, match: {{{test}}}, action: deny" for test in ("file.path: /etc/x", "file.path: '**/good'", "file.path: '/opt/*'")]
    _, found = load_text(
        HEAD
        + SCOPE
        + "  default: {exec: audit}\n  rules:\n"
        + "".join(f"    - {{name: r{n}, {text}}}\n" for n, text in enumerate(denies))
        + "    - {name: a, on: exec, match: {file.path: /opt/good}, action: allow}\n"
    )
    assert [problem.message.split()[1] for problem in found if problem.code == "allow-denied"] == ["r1"]


PATTERNS = st.text("ab/*?[]{},\\\\", min_size=1, max_size=8)
TESTS = st.one_of(
    PATTERNS.map(lambda text: Atom("file.path", Op.GLOB, text)),
    st.builds(Atom, st.just("file.path"), st.sampled_from((Op.EQUALS, Op.PREFIX, Op.SUFFIX)), st.text("ab/", max_size=6)),
)


@given(st.lists(TESTS, min_size=1, max_size=3), st.text("ab/", max_size=8))
def test_what_fulfils_a_condition_begins_with_one_of_its_heads(tests: list[Atom], text: str) -> None:
    try:
        fulfilled = holds(Or(tuple(tests)), {"file.path": text})
    except ValueError:  # no pattern
        return
    field, heads = gaps._heads(And((Or(tuple(tests)), Atom("process.uid", Op.RANGE, (0, 0)))))
    assert not fulfilled or any(text.startswith(head) for head in heads)
    assert bool(field) is all(test.op is not Op.SUFFIX for test in tests)


@pytest.mark.parametrize(
    "text",
    [
        "on: open, match: {file.path: /srv/%d/x, file.access: [write]}, action: deny",
        "on: rename, match: {file.path: /srv/%d/x}, action: deny",
        "on: connect, match: {net.peer.ip: 10.0.%d.1}, action: deny",
    ],
)
@pytest.mark.parametrize("twin", ["audit", "deny", "allow"])
def test_the_work_grows_with_the_rules_and_not_with_their_square(text: str, twin: str) -> None:
    """Calls for each rule while a policy is read, however many rules there are beside it."""
    event = text.split()[1].rstrip(",")
    more = f"  default: {{{event}: audit}}\n" if twin == "allow" else ""
    calls = []
    for number in (10, 10, 100):  # what is made once is made the first time
        seen: Counter[str] = Counter()

        def count(_frame: FrameType, kind: str, _of: object, seen: Counter[str] = seen) -> None:
            seen[kind] += 1

        sys.setprofile(count)
        try:
            rules(*(text % n for n in range(number)), *(text.replace("deny", twin) % (n + number) for n in range(number)), more=more)
        finally:
            sys.setprofile(None)
        calls.append(seen["call"] / number)
    assert calls[2] < calls[1] * 1.2


def test_after_a_mistake_nothing_is_said_of_what_is_missing() -> None:
    mistaken = "    - {name: s, on: send, match: {net.prot: udp}, action: deny}\n"
    _, found = load_text(HEAD + SCOPE + "  default: {connect: deny}\n  rules:\n" + mistaken)
    assert [problem.code for problem in found] == ["unknown-field"]


def test_required_atoms_stand_under_no_not() -> None:
    one, two, three = (Atom("process.exe", Op.EQUALS, text) for text in ("/a", "/b", "/c"))
    assert list(gaps.required_atoms(And((one, Or((two, Not(three))))))) == [one, two]


@pytest.mark.parametrize("directory", gaps.WORLD_WRITABLE)
def test_world_writable_directories_are_patterns(directory: str) -> None:
    assert condition_of(FIELD_BY_NAME["file.path"], f"{directory}/*") == Atom("file.path", Op.GLOB, f"{directory}/*")


def test_shipped_policies_have_none() -> None:
    for file in (Path(__file__).parents[4] / "examples" / "policies").glob("*.yaml"):
        assert [problem for problem in load_text(file.read_text())[1] if problem.code in CODES] == []
