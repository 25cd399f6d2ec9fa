"""The condition language: meaning, precedence, offsets of mistakes; nothing raises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.dialects.native import language as conditions
from bpfence.evaluate import holds
from bpfence.fields import FIELD_BY_NAME
from bpfence.policy import Condition, Event

EVENT: Event = {
    "event": "process.exec",
    "file.path": "/tmp/a b",
    "process.exe": "/usr/bin/sh",
    "process.args": "sh -c 'x'",
    "process.uid": 1000,
    "process.caps": 1 << 13,
    "net.peer.ip": "10.1.2.3",
    "net.peer.port": 443,
    "file.memfd": 0,
    "process.ancestors.exe": ("/usr/sbin/sshd", "/usr/bin/bash"),
}


def read(text: str) -> Condition:
    parsed = conditions.parse(text)
    assert not parsed.problems, parsed.problems
    return parsed.condition


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("process.uid = 1000", True),
        ("process.uid == 1000", True),
        ("process.uid != 1000", False),
        ("process.uid != 0", True),
        ("process.pid != 0", False),  # absent
        ("not process.pid = 0", True),
        ("process.pid exists", False),
        ("process.user exists", True),
        ("process.uid >= 1000 and process.uid <= 1000", True),
        ("process.uid < 1000 or process.uid > 1000", False),
        ("process.uid in (0, 1000-2000)", True),
        ("process.uid in (0, 1001-2000)", False),
        ('file.path = "/tmp/a b"', True),
        ("file.path = '/tmp/a b'", True),
        ("file.path startswith /tmp", True),
        ("file.path endswith b", True),
        ('process.args contains "c \'x"', True),
        ('process.args icontains "C \'X"', True),
        (r"process.args contains 'c \'x'", True),
        ("file.path glob /tmp/*", True),
        ("file.path glob (/var/*, /tmp/*)", True),
        ("file.path pmatch (/var, /tmp)", True),
        ("file.path pmatch /tm", False),
        ("file.path pmatch /tmp/", True),
        ("process.exe in (/usr/bin/sh, /bin/sh)", True),
        ("process.exe in (/bin/sh)", False),
        ("process.ancestors.exe = /usr/sbin/sshd", True),
        ("process.ancestors.exe != /usr/sbin/sshd", False),
        ("process.caps = CAP_NET_RAW", True),
        ("process.caps in (sys_admin, net_raw)", True),
        ("process.caps != sys_admin", True),
        ("net.peer.ip in (192.168.0.0/16, 10.0.0.0/8)", True),
        ("net.peer.ip = 10.1.2.3 and net.peer.port = https", True),
        ("file.memfd = false", True),
        # not before and before or
        ("process.uid = 0 and process.uid = 0 or process.uid = 1000", True),
        ("process.uid = 0 and (process.uid = 0 or process.uid = 1000)", False),
        ("not process.uid = 0 and process.uid = 1000", True),
        ("not (process.uid = 1000 and process.uid = 1000)", False),
        ("not not process.uid = 1000", True),
        ("process.uid=1000and process.pid=1", None),
        ("process.uid=1000 and(process.uid=1000)", True),
        ("\n process.uid\n=\n1000\n", True),
    ],
)
def test_meaning(text: str, expected: bool | None) -> None:
    if expected is None:
        assert conditions.parse(text).problems
    else:
        assert holds(read(text), EVENT) is expected


@pytest.mark.parametrize(
    ("text", "offset", "code"),
    [
        ("", 0, "bad-condition"),
        ("process.uid =", 13, "bad-condition"),
        ("process.uid = 0 and", 19, "bad-condition"),
        ("process.uid = 0 process.gid = 0", 16, "bad-condition"),
        ("(process.uid = 0", 16, "bad-condition"),
        ("process.uid = 0)", 15, "bad-condition"),
        ("file.path = 'x", 12, "bad-condition"),
        ("process.uid = 0 && process.gid = 0", 16, "bad-condition"),
        ("! process.uid = 0", 0, "bad-condition"),
        ("process.uid", 0, "bad-condition"),
        ("file.nope = 1", 0, "unknown-field"),
        ("process.uid = 0 or proc.name = x", 19, "unknown-field"),
        ("process.uid = nobody-like-this", 14, "unknown-user"),
        ("net.peer.port in (80, 99999)", 22, "bad-number"),
        ("net.peer.ip = 10.0.0.1/8", 23, "bad-address"),
        ('file.path glob "/a[b"', 18, "bad-glob"),
        ("file.path iglob x", 10, "not-supported"),
        ("file.path regex x", 10, "not-supported"),
        ("process.uid contains 1", 12, "bad-condition"),
        ("process.exe > /a", 12, "bad-condition"),
        ("process.uid in ()", 0, "unreachable"),
        ("process.args contains ''", 23, "bad-condition"),
        ("file.path startswith (a, b)", 10, "bad-condition"),
        ("(" * 65 + "process.uid = 0" + ")" * 65, 64, "bad-condition"),
    ],
)
def test_mistakes(text: str, offset: int, code: str) -> None:
    (problem,) = conditions.parse(text).problems
    assert (problem.offset, problem.code) == (offset, code), problem
    assert problem.message


def test_all_mistakes_are_found_in_one_go() -> None:
    found = conditions.parse("file.nope = 1 and (process.uid = 0 or process.pid = x) and signal = SIGNOPE").problems
    assert sorted(p.offset for p in found) == [0, 52, 68]


def test_fields_are_told_with_their_places() -> None:
    uses = conditions.parse("file.path = /a and not process.uid = 0").uses
    assert uses == ((FIELD_BY_NAME["file.path"], 0, None), (FIELD_BY_NAME["process.uid"], 23, None))


def test_a_star_in_an_equality_is_warned_about() -> None:
    parsed = conditions.parse("file.path = /tmp/*")
    assert [(w.code, w.offset) for w in parsed.warnings] == [("literal-glob", 12)]
    assert not parsed.problems


def test_long_chains_do_not_exhaust_the_stack() -> None:
    assert holds(read(" or ".join(["process.uid = 0"] * 2000 + ["process.uid = 1000"])), EVENT)
    assert holds(read("not " * 10_000 + "process.uid = 1000"), EVENT)
    assert conditions.parse("(" * 60_000).problems
    assert conditions.parse("x" * 70_000).problems


WORDS = st.sampled_from(
    [
        *FIELD_BY_NAME,
        "and",
        "or",
        "not",
        "in",
        "exists",
        "contains",
        "glob",
        "=",
        "!=",
        "<",
        "(",
        ")",
        ",",
        "0",
        "'x'",
        "/a",
        '"',
        "\\",
        "é",
        "\n",
    ]
)


@given(st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=14).map(" ".join)))
def test_nothing_raises(text: str) -> None:
    parsed = conditions.parse(text)
    for problem in parsed.problems:
        assert 0 <= problem.offset <= len(text)
    if not parsed.problems:
        holds(parsed.condition, EVENT)


TESTS = st.sampled_from(
    [("process.uid = 1000", True), ("process.uid = 0", False), ("file.path exists", True), ("process.pid exists", False)]
)
EXPRESSIONS: st.SearchStrategy[tuple[str, bool]] = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map(lambda e: ("(" + " and ".join(t for t, _ in e) + ")", all(v for _, v in e))),
        st.lists(inner, min_size=1, max_size=4).map(lambda e: ("(" + " or ".join(t for t, _ in e) + ")", any(v for _, v in e))),
        inner.map(lambda e: (f"not {e[0]}", not e[1])),
    ),
    max_leaves=10,
)


@given(EXPRESSIONS)
def test_expressions_mean_what_they_say(expression: tuple[str, bool]) -> None:
    text, expected = expression
    assert holds(read(text), EVENT) is expected


PAIR: Event = {
    "event": "file.open", "process.uid": 1000, "file.uid": 0, "process.pid": 7, "process.parent.pid": 7, "process.exe": "/usr/bin/sh",
    "process.name": "sh", "process.cwd": "/usr", "file.path": "/usr/bin/sh", "file.text": "sh", "file.memfd": 0, "file.deleted": 0,
    "net.peer.ip": "::ffff:10.0.0.1", "net.local.ip": "10.0.0.1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file.uid = process.uid", False),
        ("file.uid == process.user", False),
        ("file.uid != process.uid", True),
        ("file.uid < process.uid", True),
        ("file.uid <= process.uid", True),
        ("file.uid > process.uid", False),
        ("file.uid >= process.uid", False),
        ("process.uid > file.uid and process.uid >= file.uid", True),
        ("process.pid = process.parent.pid", True),
        ("process.pid <= process.parent.pid and process.pid >= process.parent.pid", True),
        ("process.pid < process.parent.pid or process.pid > process.parent.pid", False),
        ("file.path = process.exe", True),
        ("file.path != process.exe", False),
        ("file.text != file.path", True),
        ("file.path startswith process.cwd", True),
        ("process.cwd startswith file.path", False),
        ("process.exe endswith process.name", True),
        ("process.name endswith process.exe", False),
        ("process.exe in (/bin/sh, file.path)", True),
        ("net.peer.ip = net.local.ip", True),
        ("net.peer.ip != net.local.ip", False),
        ("file.memfd = file.deleted", True),
        # absent: false, and so true where it is negated
        ("target.uid = process.uid", False),
        ("target.uid != process.uid", False),
        ("target.uid < process.uid", False),
        ("target.uid <= process.uid or target.uid >= process.uid", False),
        ("process.uid > target.uid", False),
        ("not target.uid = process.uid", True),
        ("target.exe != process.exe", False),
        ("target.exe startswith process.cwd", False),
    ],
)
def test_a_field_is_compared_with_a_field(text: str, expected: bool) -> None:
    assert holds(read(text), PAIR) is expected


def test_what_is_quoted_is_no_field() -> None:
    assert holds(read('process.args = "process.exe"'), {"process.args": "process.exe"})
    assert not holds(read("process.args = 'process.exe'"), {"process.args": "/a", "process.exe": "/a"})


def test_both_fields_of_a_comparison_are_told() -> None:
    one, other = FIELD_BY_NAME["file.uid"], FIELD_BY_NAME["process.uid"]
    assert conditions.parse("file.uid != process.uid").uses == ((one, 0, None), (other, 12, one))
