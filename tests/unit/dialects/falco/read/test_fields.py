"""The table of fields: well formed, and looked up the way conditions and outputs spell them."""

from __future__ import annotations

import re

import pytest

from bpfence.dialects.falco.read.fields import (
    CLASSES,
    FALCO_FIELD_BY_NAME,
    FALCO_FIELDS,
    FieldArgument,
    NamedField,
    argument_problem,
    longest,
    lookup,
)
from tests.unit.dialects.falco.trees import corpus


def test_names_are_unique_and_described() -> None:
    assert len(FALCO_FIELD_BY_NAME) == len(FALCO_FIELDS) >= 90
    for field in FALCO_FIELDS:
        assert re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", field.name)
        assert field.name.partition(".")[0] in CLASSES
        assert len(field.doc) > 5
        assert field.doc[-1] != "."
        assert field.many in ("", "list", "ancestors", "sides")
        assert not field.dotted or field.argument is FieldArgument.KEY


def test_every_field_of_the_stable_rules_is_known() -> None:
    text = re.sub(r"^\s*#.*$", "", corpus().read_text(), flags=re.MULTILINE)
    named = set(re.findall(r"%?\b((?:evt|proc|thread|fd|user|group|container|k8s)\.[a-z0-9_]+(?:\.[a-z0-9_]+)*)", text))
    unknown = {name for name in named if lookup(name) is None}
    assert unknown <= {"user.log", "k8s.io"}  # a file name and an image registry


@pytest.mark.parametrize(
    ("name", "argument", "spelled"),
    [
        ("proc.name", None, "proc.name"),
        ("evt.arg.flags", None, "evt.arg.flags"),
        ("evt.arg", "flags", "evt.arg.flags"),
        ("proc.aname", "2", "proc.aname[2]"),
        ("proc.env", "PATH", "proc.env[PATH]"),
        ("k8s.pod.label.app", None, "k8s.pod.label.app"),
    ],
)
def test_lookup(name: str, argument: str | None, spelled: str) -> None:
    found = lookup(name, argument)
    assert found is not None
    assert found.spelled == spelled
    assert argument_problem(found) == ""


@pytest.mark.parametrize("name", ["proc", "proc.nam", "proc.name.x", "evt.arg.", "x.y"])
def test_lookup_knows_no_others(name: str) -> None:
    assert lookup(name) is None


@pytest.mark.parametrize(
    ("name", "argument", "problem"),
    [
        ("proc.name", "2", "takes no argument"),
        ("evt.arg", None, "needs an argument"),
        ("proc.aname", "x", "must be a number"),
        ("proc.aname", "9999999", "must be a number"),
        ("proc.env", "", "is empty"),
    ],
)
def test_argument_problems(name: str, argument: str | None, problem: str) -> None:
    assert problem in argument_problem(NamedField(FALCO_FIELD_BY_NAME[name], argument))


@pytest.mark.parametrize(
    ("text", "spelled", "end"),
    [
        ("proc.name", "proc.name", 9),
        ("proc.names", "proc.name", 9),
        ("proc.name.", "proc.name", 9),
        ("proc.exe_ino.ctime_duration_proc_start|", "proc.exe_ino.ctime_duration_proc_start", 38),
        ("fd.sip.name]", "fd.sip.name", 11),
        ("evt.arg.flags.", "evt.arg.flags", 13),
        ("evt.arg[0]x", "evt.arg.0", 10),
        ("proc.aname[2]=", "proc.aname[2]", 13),
        ("proc.aname]", "proc.aname", 10),
        ('proc.env["A B"]', "proc.env[A B]", 15),
        ("k8s.pod.label.app.kubernetes.io/name)", "k8s.pod.label.app.kubernetes.io/name", 36),
    ],
)
def test_the_longest_field_is_taken(text: str, spelled: str, end: int) -> None:
    found = longest("%" + text, 1)
    assert found is not None
    assert (found[0].spelled, found[1]) == (spelled, end + 1)


def test_what_begins_with_no_field() -> None:
    assert longest("nothing", 0) is None


def test_an_argument_ends_being_many() -> None:
    field = FALCO_FIELD_BY_NAME["proc.aname"]
    assert (NamedField(field, None).many, NamedField(field, "2").many) == ("ancestors", "")
