# SPDX-License-Identifier: Apache-2.0
"""What is recorded replays the same; a recording is private, bounded, and stops nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bpfence import abi
from bpfence.dialects.falco.confirm.event import FalcoEvent, Record, RecordedEvent, read
from bpfence.dialects.falco.confirm.live import LiveEvents
from bpfence.dialects.falco.confirm.rules import RuleSet
from bpfence.dialects.falco.load import load_text
from bpfence.dialects.falco.read.fields import FALCO_FIELD_BY_NAME, FieldArgument
from bpfence.dialects.falco.recording import BASE, Recorder, recorded_fields
from bpfence.events.process import Clock, ProcessCache
from bpfence.events.records import KernelEvent, decode
from tests.unit.dialects.falco.trees import corpus
from tests.unit.events.samples import IMAGES, record

RULES = """
- rule: Everything
  desc: d
  condition: >
    evt.type in (openat, execve) and evt.arg.flags contains O_CREAT and proc.aname[2]=sshd and proc.env[LD_PRELOAD]=x
    and proc.vpgid.name exists and not tolower(proc.sname)=other
    and fd.name=val(fd.nameraw) and proc.duration > 5 and evt.rawtime exists and fd.ip="1.2.3.4"
  output: "%evt.time %proc.aexepath[3] %toupper(user.shell) %proc.args %evt.args %fd.sport %proc.aname %container.id %evt.num %proc.cmdline"
  priority: INFO
"""
FIELDS: dict[str, Any] = {
    "evt.rawres": 3, "fd.num": 3, "fd.type": "file", "fd.name": "/a", "fd.nameraw": "/a", "fd.cip": "1.2.3.4", "fd.sip": "::1",
    "fd.sport": 22,
    "proc.name": "c\\x1b", "proc.sname": "S", "proc.pid.ts": 1_700_000_000_000_000_000, "user.shell": "/bin/sh", "proc.vpgid.name": "t1",
    "container.id": "abc",
}  # fmt: skip


def event(**more: Any) -> RecordedEvent:
    given: dict[str, Any] = {
        "type": "openat", "num": 9, "time": 1_700_000_000_000_000_100, "args": {"name": "a", "flags": "O_RDWR|O_CREAT", "mode": 0o640},
        "fields": FIELDS, "argv": ["-x", "a b"], "env": ["LD_PRELOAD=x", "A=1"],
        "lineage": [{"name": "bash", "pid": 3}, {"name": "sshd", "pid": 2}, {"exepath": "/usr/lib/systemd/systemd", "pid": 1}],
    }  # fmt: skip
    return RecordedEvent(msgspec.convert({**given, **more}, Record))


def rules(text: str = RULES, **how: Any) -> RuleSet:
    loaded, found = load_text(text)
    assert [str(one) for one in found if one.severity == "error"] == []
    return RuleSet(loaded.rules, **how)


def replayed(path: Path) -> list[RecordedEvent]:
    with path.open("rb") as lines:
        return [one for _, one in read(lines)]


def shown(found: RuleSet, one: FalcoEvent) -> list[tuple[str, str, dict[str, Any]]]:
    return [(match.rule.name, match.output, match.fields) for match in found.matches(one)]


def test_a_recorded_event_gives_the_same_matches_text_and_fields(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    recorder = Recorder(path, "node1", pytest.fail)
    ours = rules()
    recorder.use(ours)
    seen = [event(), event(type="execve"), event(args={"flags": "O_RDONLY"})]
    for one in seen:
        recorder.add(one)
    recorder.close()
    assert path.stat().st_mode & 0o777 == 0o600
    back = replayed(path)
    assert [shown(ours, one) for one in back] == [shown(ours, one) for one in seen]
    assert [len(shown(ours, one)) for one in back] == [1, 1, 0]
    assert {str(one.get("evt.hostname")) for one in back} == {"node1"}


def test_what_rules_look_at_is_recorded() -> None:
    found = recorded_fields(rules())
    wanted = {"proc.aname[2]", "proc.aexepath[3]", "proc.sname", "user.shell", "fd.ip", "proc.vpgid.name", "container.image.repository"}
    assert wanted <= set(found)
    assert {"evt.args", "evt.arg[flags]"} <= set(found)
    assert not {name for name in found if name.startswith(("evt.time", "evt.rawtime", "proc.env", "proc.args", "evt.num"))}
    assert recorded_fields(rules("[]")) == BASE
    assert len(set(found)) == len(found)


def test_falcos_own_rules_round_trip_on_their_cases(tmp_path: Path) -> None:
    ours = rules(Path(corpus()).read_text(), matching="all")
    cases = sorted(Path("tests/cases/falco/stable").glob("*.jsonl"))
    assert len(cases) >= 25
    path = tmp_path / "e.jsonl"
    recorder = Recorder(path, "h", pytest.fail)
    recorder.use(ours)
    seen = [one for case in cases for one in replayed(case)]
    for one in seen:
        recorder.add(one)
    recorder.close()
    back = replayed(path)
    assert [shown(ours, one) for one in back] == [shown(ours, one) for one in seen]
    assert {name for one in back for name, _, _ in shown(ours, one)} == {rule.name for rule in ours.rules}


def kernel_events() -> list[FalcoEvent]:
    """Events as the agent has them, of records with hostile strings and arguments."""
    clock = Clock()
    live = LiveEvents(ProcessCache(IMAGES.get, clock), clock, cgroup_path=lambda _: "/system.slice", host="node1")
    here, creating, refused = -100 & (1 << 64) - 1, 0o1102, -115 & (1 << 64) - 1
    opened = {"NUM_RESULT": 3, "NUM_CALL": 257, "NUM_CALL_ARG0": here, "NUM_CALL_ARG2": creating, "NUM_CALL_ARG3": 0o640}
    opened |= {"NUM_FILE_MODE": 0o100644, "NUM_FILE_FLAGS": creating, "NUM_FILE_DEV": 8 << 20, "NUM_FILE_INO": 5}
    opened |= {"NUM_LOGINUID": 0xFFFFFFFF, "NUM_TTY": 0x8800, "NUM_SID": 1, "NUM_VPID": 4, "NUM_PROCESS_CAPS": 7}
    opened |= {"NUM_EXE_FLAGS": abi.EXE_WRITABLE}
    socket = {"NUM_RESULT": refused, "NUM_CALL": 42, "NUM_CALL_ARG0": 5, "NUM_NET_FAMILY": 2, "NUM_NET_TYPE": 1, "NUM_NET_PEER_PORT": 80}
    missing = {**opened, "NUM_RESULT": -2 & (1 << 64) - 1}
    raw = [
        record(
            "file.open",
            opened,
            {"STR_FILE_PATH": b"/etc/shadow", "STR_FILE_TEXT": b"../sh\x1b\xff", "STR_PROCESS_CWD": b"/etc/x"},
            flags=abi.EVENT_RESULT,
            pid=os.getpid(),
        ),
        record(
            "net.connect",
            socket | {"NUM_NET_LOCAL_PORT": 40000},
            {"STR_NET_PEER_IP": b"\1\2\3\4", "STR_NET_LOCAL_IP": b"\x7f\0\0\1"},
            flags=abi.EVENT_RESULT,
        ),
        record("process.executed", {}, {"STR_PROCESS_ARGS": b"a\0b c\0\xfe\0"}, flags=abi.EVENT_RESULT),
        record("file.open_failed", missing, {"STR_FILE_TEXT": b"/none", "STR_PROCESS_CWD": b"/"}, flags=abi.EVENT_RESULT),
        record(
            "file.rename", {"NUM_RESULT": 0, "NUM_CALL": 82}, {"STR_FILE_PATH": b"/a", "STR_FILE_NEW_PATH": b"/b"}, flags=abi.EVENT_RESULT
        ),
        record("file.open", {}, {"STR_FILE_PATH": b"/x"}, flags=abi.EVENT_RESULT | abi.EVENT_AT_ONCE | abi.EVENT_ASYNC, action=0, error=0),
    ]
    found = []
    for data in raw:
        decoded = decode("decisions", data)
        assert isinstance(decoded, KernelEvent)
        made = live.event(decoded)
        assert made is not None
        found.append(made)
    return found


def test_every_field_of_a_kernels_event_round_trips(tmp_path: Path) -> None:
    uses = [f"%{field.name}" for field in FALCO_FIELD_BY_NAME.values() if field.argument not in (FieldArgument.INDEX, FieldArgument.KEY)]
    uses += ["%evt.arg.flags", "%evt.arg[0]", "%evt.rawarg.fd", "%evt.arg.mode", "%evt.rawarg.mode", "%evt.arg.name", "%evt.arg.dirfd"]
    uses += ["%proc.aname[1]", "%proc.acmdline[2]", "%proc.env[HOME]", "%proc.aenv[PATH]", "%proc.apid[1]", "%thread.cgroup.cpu"]
    text = f"- rule: X\n  desc: d\n  condition: evt.type exists\n  output: '{' '.join(uses)}'\n  priority: INFO\n"
    ours = rules(text)
    recorder = Recorder(tmp_path / "e", "node1", pytest.fail)
    recorder.use(ours)
    seen = kernel_events()
    for one in seen:
        recorder.add(one)
    recorder.close()
    back = replayed(tmp_path / "e")
    assert [one.type for one in back] == ["openat", "connect", "execve", "openat", "rename", "openat"]
    for live, again in zip(seen, back, strict=True):
        [(_, output, fields)], [(_, read_output, read_fields)] = shown(ours, live), shown(ours, again)
        assert {name: (value, read_fields[name]) for name, value in fields.items() if read_fields[name] != value} == {}
        assert output == read_output
        assert sum(value is not None for value in fields.values()) > 40


def test_the_base_is_of_fields_that_exist() -> None:
    assert [name for name in BASE if name not in FALCO_FIELD_BY_NAME] == []


def test_a_recording_has_a_limit_and_goes_on_after_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    said: list[str] = []
    now = 0.0
    recorder = Recorder(path, "h", said.append, limit=2500, monotonic=lambda: now)
    for _ in range(20):
        recorder.add(event())
        recorder.flush()
    assert 0 < path.stat().st_size <= 2500
    assert (recorder.lost + len(replayed(path)), len(said)) == (20, 1)
    assert "is full (2,500 bytes)" in said[0]
    path.rename(tmp_path / "old")
    recorder.reopen()
    recorder.add(event())
    recorder.flush()
    path.rename(tmp_path / "older")
    now += 1
    recorder.add(event())
    recorder.close()
    assert [len(replayed(tmp_path / name)) for name in ("older", "e.jsonl")] == [1, 1], "with and without being told"
    assert len(said) == 1


def test_what_nothing_would_read_back_is_left_out(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "e", "h", pytest.fail)
    recorder.add(event(argv=["x" * (1 << 20)]))
    recorder.add(event())
    recorder.close()
    assert recorder.lost == 1
    assert len(replayed(tmp_path / "e")) == 1


def test_failures_are_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    recorder = Recorder(tmp_path / "e", "h", said.append)
    broken = True

    def append(lines: Any) -> int:
        if broken:
            raise OSError(28, "No space left on device")
        return len(lines)

    monkeypatch.setattr(recorder._file, "append", append)
    for _ in range(3):
        recorder.add(event())
        recorder.flush()
    assert recorder.lost == 3
    assert ["No space left" in text for text in said] == [True]
    broken = False
    recorder.add(event())
    recorder.flush()
    assert "works again; 3 events" in said[1]
    recorder.flush()
    recorder.close()
    assert len(said) == 2


def test_what_a_disk_still_took_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(tmp_path / "e", "h", lambda text: None)
    rooms = [2]

    def append(lines: Any) -> int:
        if not rooms:
            raise OSError(28, "No space left on device")
        return rooms.pop()

    monkeypatch.setattr(recorder._file, "append", append)
    for _ in range(3):
        recorder.add(event())
    recorder.flush()
    assert recorder.lost == 1


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "e").symlink_to(tmp_path / "target")
    with pytest.raises(OSError):
        Recorder(tmp_path / "e", "h", pytest.fail)
