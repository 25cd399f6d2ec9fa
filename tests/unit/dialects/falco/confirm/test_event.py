"""Recorded events: read, derived, written; and what hostile lines do."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence.dialects.falco.confirm.event import FalcoAncestor, Record, RecordedEvent, decode, directory_of, encode, read, record_of
from bpfence.dialects.falco.read.events import SENSED
from bpfence.dialects.falco.read.fields import FALCO_FIELDS, FieldArgument
from bpfence.events.source import MAX_LINE, BadLineError

MOMENT = 1764000000123456789


def event(kind: str = "openat", **more: Any) -> RecordedEvent:
    return RecordedEvent(Record(type=kind, time=MOMENT, **more))


def test_the_lineage() -> None:
    lineage = [FalcoAncestor("sh", "-sh", "/bin/sh", 7, "sh -c x", {"A": "1"}), FalcoAncestor("init", pid=1, env={"A": "2", "B": "3"})]
    made = event(lineage=lineage, fields={"proc.name": "cat", "proc.pid": 9, "proc.exe": "cat"}, argv=["a", "b c"], env=["A=0", "C=4"])
    asked = {
        ("proc.aname", None): ("sh", "init"), ("proc.aname", "0"): "cat", ("proc.aname", "1"): "sh", ("proc.aname", "2"): "init",
        ("proc.aname", "3"): None, ("proc.pname", None): "sh", ("proc.pexe", None): "-sh", ("proc.pexepath", None): "/bin/sh",
        ("proc.pcmdline", None): "sh -c x", ("proc.ppid", None): 7, ("proc.aexepath", None): ("/bin/sh",), ("proc.aexepath", "2"): None,
        ("proc.apid", None): (7, 1), ("proc.acmdline", "0"): "cat a b c", ("proc.args", None): "a b c", ("proc.cmdline", None): "cat a b c",
        ("proc.exeline", None): "cat a b c", ("proc.cmdnargs", None): 2, ("proc.cmdlenargs", None): 4, ("proc.env", None): "A=0 C=4",
        ("proc.env", "C"): "4", ("proc.env", "X"): None, ("proc.aenv", "A"): "1", ("proc.aenv", "B"): "3", ("proc.aenv", "1"): "A=1",
        ("proc.aenv", "0"): "A=0 C=4", ("proc.aenv", None): ("A=1", "A=2 B=3"),
    }  # fmt: skip
    assert {key: made.get(*key) for key in asked} == asked
    assert made.elements("proc.args") == ("a", "b c")
    assert event().get("proc.aname") is None
    assert event().get("proc.args") is None
    assert event(argv=[]).get("proc.args") == ""
    assert event(argv=[], fields={"proc.name": "cat"}).get("proc.cmdline") == "cat"


@pytest.mark.parametrize(
    ("given", "field", "wanted"),
    [
        ({"args": {"fd": 3}}, "evt.rawres", 3), ({"args": {"fd": -2}}, "evt.res", "ENOENT"),
        ({"args": {"res": -115}}, "evt.res", "EINPROGRESS"),
        ({"args": {"fd": -2}}, "evt.failed", True), ({"fields": {"evt.rawres": 0}}, "evt.res", "SUCCESS"), ({}, "evt.res", None),
        ({}, "evt.failed", None),
        ({"args": {"fd": 3, "res": -1}}, "evt.rawres", -1), ({"args": {"fd": -99999}}, "evt.res", "99999"),
        ({"args": {"flags": "O_RDWR|O_CREAT"}}, "evt.is_open_read", True),
        ({"args": {"flags": "O_RDWR|O_CREAT"}}, "evt.is_open_write", True),
        ({"args": {"flags": "O_WRONLY"}}, "evt.is_open_read", False), ({"args": {}}, "evt.is_open_read", None),
        ({"args": {"flags": "O_WRONLY|O_CREAT", "mode": 0o755}}, "evt.is_open_exec", True),
        ({"args": {"flags": "O_WRONLY", "mode": 0o755}}, "evt.is_open_exec", False),
        ({"args": {"flags": "O_CREAT|O_F_CREATED"}}, "evt.is_open_create", True),
        ({"fields": {"fd.type": "file", "fd.name": "/a/b"}}, "fd.directory", "/a"),
        ({"fields": {"fd.type": "file", "fd.name": "/a"}}, "fd.directory", "/"),
        ({"fields": {"fd.type": "ipv4", "fd.name": "1:2->3:4/5"}}, "fd.directory", None),
        ({"fields": {"fd.name": "/a/b"}}, "fd.filename", "b"),
        ({"fields": {"fd.type": "ipv6"}}, "fd.typechar", "6"), ({"fields": {"fd.type": "strange"}}, "fd.typechar", "o"),
        ({}, "fd.typechar", None),
        ({"fields": {"fd.cip": "2001:DB8::1", "fd.sip": "10.0.0.1"}}, "fd.ip", ("2001:db8::1", "10.0.0.1")),
        ({"fields": {"fd.sip": "::1"}}, "fd.snet", "::1"),
        ({"fields": {"fd.cport": 1, "fd.sport": 22}}, "fd.port", (1, 22)), ({"fields": {"fd.sport": 22}}, "fd.sproto", "ssh"),
        ({"fields": {"fd.dev": (8 << 20) + 3}}, "fd.dev.major", 8), ({"fields": {"fd.dev": (8 << 20) + 3}}, "fd.dev.minor", 3),
        ({}, "container.id", "host"), ({}, "container.name", "host"), ({"fields": {"container.id": "abc"}}, "container.name", None),
        ({"fields": {"fd.name": "/x", "container.id": "abc"}}, "fd.containername", "abc:/x"),
        ({"fields": {"k8s.pod.uid": "u"}}, "k8s.pod.id", "u"),
        ({"fields": {"proc.pid.ts": MOMENT - 5}}, "proc.duration", 5),
        ({"fields": {"proc.sid": 4, "proc.vpid": 4}}, "proc.is_sid_leader", True),
        ({"fields": {"thread.tid": 4, "proc.pid": 5}}, "thread.ismain", False), ({}, "evt.category", "file"),
        ({}, "syscall.type", "openat"),
        ({"args": {"name": None, "fd": True}}, "evt.args", "name=<NA> fd=True"), ({"host": "n\\x0a"}, "evt.hostname", "n\n"),
        ({"num": 7}, "evt.num", 7),
    ],
)  # fmt: skip
def test_what_follows_from_what(given: dict[str, Any], field: str, wanted: Any) -> None:
    assert event(**given).get(field) == wanted


def test_arguments_by_name_and_number() -> None:
    made = event(args={"fd": 3, "name": "x", "flag": True})
    assert [made.get("evt.arg", key) for key in ("fd", "name", "flag", "no", "0", "2", "99")] == ["3", "x", "true", None, "3", "x", None]
    assert [made.get("evt.rawarg", key) for key in ("fd", "flag")] == [3, True]
    assert event("something-else", args={"a": 1}).get("evt.arg", "0") == "1"


@pytest.mark.parametrize("kind", [*(one.name for one in SENSED), "unknown"])
def test_every_field_can_be_asked_for_on_every_event(kind: str) -> None:
    made = event(kind)
    for field in FALCO_FIELDS:
        made.get(field.name, "1" if field.argument in (FieldArgument.INDEX, FieldArgument.KEY) else None)
        made.get(field.name, "0" if field.argument is FieldArgument.OPTIONAL_INDEX else None)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "truncated"), (b"[]", "object"), (b"{}", "type"), (b'{"type": 1}', "str"), (b'{"type": "open", "x": 1}', "x"),
        (b'{"type": "open", "fields": {"proc.nam": "x"}}', "unknown field"),
        (b'{"type": "open", "fields": {"proc.name": 1}}', "must be str"),
        (b'{"type": "open", "fields": {"user.uid": "0"}}', "must be int"),
        (b'{"type": "open", "fields": {"user.uid": true}}', "must be int"),
        (b'{"type": "open", "fields": {"evt.failed": 1}}', "must be bool"),
        (b'{"type": "open", "fields": {"fd.sip": "x"}}', "not an address"),
        (b'{"type": "open", "fields": {"proc.name": ["x"]}}', "no list"),
        (b'{"type": "open", "fields": {"proc.name[1]": "x"}}', "no argument"),
        (b'{"type": "open", "fields": {"proc.aname[1": "x"}}', "unknown field"), (b'{"type": "open", "lineage": [{"comm": "x"}]}', "comm"),
        (b'{"type": "open", "args": {"a": [1]}}', "args"), (b"\xff", ""), (b"[" * 100_000, ""), (b"x" * (MAX_LINE + 1), "longer"),
    ],
)  # fmt: skip
def test_bad_lines(line: bytes, reason: str) -> None:
    with pytest.raises(BadLineError, match="line 3") as caught:
        decode(line, 3)
    assert reason in caught.value.reason


def test_reading_skips_empty_lines_and_comments() -> None:
    found = list(read([b"# x\n", b"\n", b'{"type": "open"}\n', b'  {"type": "creat"}']))
    assert [(number, one.type) for number, one in found] == [(3, "open"), (4, "creat")]


@given(st.binary(max_size=80))
@settings(deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        list(read([data]))
    except BadLineError as error:
        number = error.number
    else:
        number = 1
    assert number == 1


def test_a_live_event_is_recorded_and_read_back_the_same() -> None:
    made = event(
        args={"fd": 3, "name": "\\xff\\x0a"},
        fields={"fd.name": "/tmp/\\xff", "user.uid": 3, "fd.types": ["file"], "evt.failed": False},
        argv=["a\\x0a"],
        env=["A=1"],
        lineage=[FalcoAncestor("s\\x0ah", pid=3, env={"A": "\\xff"})],
    )
    record = record_of(made, ["fd.name", "user.uid", "fd.types", "evt.failed", "proc.aname[1]", "user.name"], num=4, host="n\n")
    line = encode(record)
    assert b"\n" not in line
    again = decode(line)
    assert json.loads(line)["fields"]["fd.name"] == "/tmp/\\xff"
    for key in (
        ("fd.name", None),
        ("user.uid", None),
        ("fd.types", None),
        ("proc.args", None),
        ("proc.aname", "1"),
        ("evt.arg", "name"),
        ("proc.aenv", "A"),
    ):
        assert again.get(*key) == made.get(*key), key
    assert again.get("evt.hostname") == "n\n"
    assert msgspec.json.decode(line, type=Record) == record


@pytest.mark.parametrize(("path", "directory"), [("/a/b", "/a"), ("/a", "/"), ("/", "/"), ("a", ""), ("a/b", "a")])
def test_directories(path: str, directory: str) -> None:
    assert directory_of(path) == directory


def test_counts_and_parts_of_command_lines() -> None:
    above = [FalcoAncestor(name="sh", cmdline="sh -c x y"), FalcoAncestor(name="init", cmdline="init"), FalcoAncestor(name="old")]
    failed = RecordedEvent(
        Record(type="connect", fields={"evt.rawres": -2, "proc.name": "cat", "thread.tid": 7}, argv=["-n", "a b"], lineage=above)
    )
    for field, argument, wanted in (
        ("evt.count.error", None, 1), ("evt.count.error.net", None, 1), ("evt.count.error.file", None, None), ("evt.count.exit", None, 1),
        ("evt.count.error.other", None, None), ("evt.type.is", "connect", 1), ("evt.type.is", "open", 0), ("proc.args", "1", "a b"),
        ("proc.args", "2", None), ("proc.args", None, "-n a b"), ("proc.aargs", "0", "-n a b"), ("proc.aargs", "1", "-c x y"),
        ("proc.aargs", "2", ""), ("proc.aargs", "3", None), ("proc.aargs", "4", None), ("proc.aargs", None, ("-c x y", "")),
        ("thread.nametid", None, "cat7"), ("evt.buflen.net", None, None), ("util.cnt", None, None),
    ):  # fmt: skip
        assert failed.get(field, argument) == wanted, (field, argument)
    assert failed.get("evt.outputtime") == failed.get("evt.time")
    assert RecordedEvent(Record(type="open", fields={"evt.rawres": 3})).get("evt.count.error") is None
