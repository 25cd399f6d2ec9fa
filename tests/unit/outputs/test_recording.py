# SPDX-License-Identifier: Apache-2.0
"""What is recorded replays the same; a recording is private, bounded, and stops nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bpfence.events.falco import FalcoEvent, Record, RecordedEvent, read
from bpfence.frontends.falco import load_text
from bpfence.frontends.falco.fields import FIELD_BY_NAME
from bpfence.outputs.recording import BASE, Recorder, recorded_fields
from bpfence.rules import RuleSet
from tests.unit.frontends.falco.trees import corpus

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
    assert not {name for name in found if name.startswith(("evt.arg", "evt.time", "evt.rawtime", "proc.env"))}
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


def test_the_base_is_of_fields_that_exist() -> None:
    assert [name for name in BASE if name not in FIELD_BY_NAME] == []


def test_a_recording_has_a_limit_and_goes_on_after_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    said: list[str] = []
    recorder = Recorder(path, "h", said.append, limit=2500)
    for _ in range(20):
        recorder.add(event())
        recorder.flush()
    assert 0 < path.stat().st_size <= 2500
    assert (recorder.lost + len(replayed(path)), len(said)) == (20, 1)
    assert "is full (2,500 bytes)" in said[0]
    path.rename(tmp_path / "old")
    recorder.reopen()
    recorder.add(event())
    recorder.close()
    assert len(replayed(path)) == 1
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

    def append(lines: Any) -> None:
        if broken:
            raise OSError(28, "No space left on device")

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


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "e").symlink_to(tmp_path / "target")
    with pytest.raises(OSError):
        Recorder(tmp_path / "e", "h", pytest.fail)
