"""What follows for the kernel's texts from tests on Falco's: where a test is true, so is the condition."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bpfence import evaluate
from bpfence.conditions.values import U64
from bpfence.dialects.falco.lower import implied
from bpfence.dialects.falco.lower.atoms import Build, On
from bpfence.dialects.falco.read import patterns
from bpfence.dialects.falco.read.checks import Comparison, resolve_check
from bpfence.dialects.falco.read.events import FALCO_EVENT_BY_NAME
from bpfence.dialects.falco.read.language import Check, FieldRef, Word, Words
from bpfence.policy import FALSE, TRUE, Condition
from tests.unit.dialects.falco.native_view import normalised

ON = On(FALCO_EVENT_BY_NAME["openat"], "file.open_failed", result="failure")
WORDS = st.lists(st.sampled_from(["a", "b", "A", " ", "/", ".", "..", "é", "sh", "-e", "*", "x"]), max_size=5).map("".join)
OPERATORS = ["=", "startswith", "endswith", "contains", "icontains", "glob"]


def comparison(field: str, operator: str, *values: str, modifier: str = "") -> Comparison:
    several = operator in ("in", "intersects") or modifier
    right = Words(tuple(map(Word, values))) if several else Word(values[0])
    return resolve_check(Check(FieldRef(field), operator, right, modifier))


def holds(operator: str, text: str, value: str) -> bool:
    match operator:
        case "=":
            return text == value
        case "startswith":
            return text.startswith(value)
        case "endswith":
            return text.endswith(value)
        case "contains":
            return value in text
        case "icontains":
            return value.encode().lower() in text.encode().lower()
    return patterns.glob(value)(text)


def may(build: Build, test: Comparison) -> Condition:
    bounds = build(ON, test)
    assert bounds.must == FALSE
    return bounds.may


@settings(max_examples=500, deadline=None)
@given(
    WORDS,
    st.lists(WORDS, min_size=1, max_size=3),
    st.sampled_from(OPERATORS),
    WORDS,
    st.sampled_from(["proc.exe", "proc.args", "proc.cmdline"]),
)
def test_command_lines(name: str, argv: list[str], operator: str, value: str, field: str) -> None:
    name = name.encode()[:15].decode("utf-8", "ignore")
    rest = " ".join(argv[1:])
    text = {"proc.exe": argv[0], "proc.args": rest, "proc.cmdline": f"{name} {rest}" if rest else name}[field]
    build = {"proc.exe": implied.exe, "proc.args": implied.args, "proc.cmdline": implied.cmdline}[field]
    native = {"event": "file.open", "process.name": name, "process.args": " ".join(argv)}
    if holds(operator, text, value):
        assert evaluate.holds(may(build, comparison(field, operator, value)), native), (text, native)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(["/", "/a", "/a/b", "/sh/x"]),
    st.lists(st.sampled_from(["a", "b", "sh", "x", ".", "..", "/", "/", "ax"]), max_size=7),
    st.booleans(),
    st.sampled_from([*OPERATORS, "pmatch"]),
    st.lists(st.sampled_from(["a", "b", "sh", "/", "/", "x", "*"]), max_size=5),
    st.sampled_from(["fd.name", "fd.directory", "fd.filename"]),
)
@example(base="/", parts=["/", "x"], beside=False, operator="pmatch", wanted=["/", "/", "x"], field="fd.name")
@example(base="/", parts=["/", "x"], beside=False, operator="pmatch", wanted=["x"], field="fd.name")
def test_names_of_files(base: str, parts: list[str], beside: bool, operator: str, wanted: list[str], field: str) -> None:
    given_text, value = "".join(parts), "".join(wanted)
    name = normalised(base, given_text)
    text = {"fd.name": name, "fd.directory": name[: name.rindex("/")] or "/", "fd.filename": name.rpartition("/")[2]}[field]
    build = {"fd.name": implied.name, "fd.directory": implied.directory, "fd.filename": implied.filename}[field]
    true = patterns.PathSet([value])(text) if operator == "pmatch" else holds(operator, text, value)
    native = {
        "event": "file.open_failed",
        "file.text": given_text,
        "process.cwd": "/none" if beside else base,
        "file.dirfd": 5 if beside else implied.AT_FDCWD,
    }
    if true:
        assert evaluate.holds(may(build, comparison(field, operator, value)), native), (name, native)


@pytest.mark.parametrize(
    ("text", "cwd", "dirfd", "expected"),
    [
        ("/usr/lib/gcc/x/../../../../include/y.h", "/etc", None, False),
        ("/usr/fetch/../x", "/etc", None, False),
        ("/usr/etcetera/../x", "/", None, False),
        ("/usr/../etc/shadow", "/", None, True),
        ("../etc/shadow", "/usr", None, True),
        ("etc/shadow", "/", None, True),
        ("shadow", "/etc", None, True),
        ("shadow", "/usr", None, False),
        ("shadow", "/usr", 5, True),
        ("/shadow", "/etc", 5, False),
    ],
)
def test_below_a_directory(text: str, cwd: str, dirfd: int | None, expected: bool) -> None:
    found = may(implied.name, comparison("fd.name", "startswith", "/etc/"))
    native = {"event": "file.open_failed", "file.text": text, "process.cwd": cwd, "file.dirfd": U64 - 99 if dirfd is None else dirfd}
    assert evaluate.holds(found, native) is expected


@pytest.mark.parametrize(
    ("field", "operator", "value", "args", "expected"),
    [
        ("proc.exe", "startswith", "/dev/shm/", "/dev/shm/x -a", True),
        ("proc.exe", "startswith", "/dev/shm/", "sh /dev/shm/x", False),
        ("proc.exe", "=", "ssh", "ssh host", True),
        ("proc.exe", "=", "ssh", "sshd host", False),
        ("proc.args", "startswith", "-c /dev", "sh -c /dev/shm", True),
        ("proc.args", "startswith", "-c /dev", "-c /dev/shm", False),
        ("proc.args", "endswith", "/x", "sh /x y", False),
        ("proc.cmdline", "contains", " -e", "nc -e x", True),
        ("proc.cmdline", "contains", " -e", "nc host", False),
        ("proc.cmdline", "startswith", "sh -c curl", "/bin/sh -c curl x", True),
        ("proc.cmdline", "startswith", "sh -c curl", "/bin/sh -c wget x", False),
        ("proc.cmdline", "startswith", "bash -c", "/bin/sh -c x", False),
        ("proc.cmdline", "=", "sh", "sh", True),
    ],
)
def test_what_a_command_line_is_narrowed_by(field: str, operator: str, value: str, args: str, expected: bool) -> None:
    build = {"proc.exe": implied.exe, "proc.args": implied.args, "proc.cmdline": implied.cmdline}[field]
    native = {"event": "file.open", "process.name": "sh", "process.args": args}
    assert evaluate.holds(may(build, comparison(field, operator, value)), native) is expected


@pytest.mark.parametrize("field", ["proc.exe", "proc.args", "proc.cmdline", "proc.pexe", "proc.pcmdline", "fd.name", "fd.filename"])
def test_nothing_follows_from_what_says_nothing(field: str) -> None:
    build = {
        "proc.exe": implied.exe,
        "proc.args": implied.args,
        "proc.cmdline": implied.cmdline,
        "proc.pexe": implied.parent_exe,
        "proc.pcmdline": implied.parent_cmdline,
        "fd.name": implied.name,
        "fd.filename": implied.filename,
    }[field]
    for operator in ("startswith", "contains", "endswith"):
        assert may(build, comparison(field, operator, "")) == TRUE
    assert may(build, comparison(field, "!=", "x")) == TRUE
    assert may(build, comparison(field, "regex", "x.*")) == TRUE
    assert may(build, comparison(field, "in", "a", "b")) not in (TRUE, FALSE)
    both = may(build, comparison(field, "contains", "aa", "bb", modifier="allof"))
    assert re.search(r"aa.*bb", str(both))
