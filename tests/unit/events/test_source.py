# SPDX-License-Identifier: Apache-2.0
"""The three sources give the same kind of observation."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence import abi
from bpfence.alerts.alert import Composer, RuleInfo, encode
from bpfence.events import records
from bpfence.events.loss import Loss
from bpfence.events.process import MAX_REFUSED, Clock
from bpfence.events.source import (
    MAX_LINE,
    BadLineError,
    Live,
    Refused,
    Replay,
    Synthetic,
    bounded_lines,
    fields_from_json,
    read_recorded,
)
from bpfence.events.values import BadValueError
from bpfence.policy import Action
from bpfence.workloads.model import Container, Pod
from tests.unit.events.samples import IMAGES, Image, observation, record


class Reader:
    """A ring buffer that was filled beforehand."""

    def __init__(self, *batches: list[tuple[str, bytes]], adopted: bool = False) -> None:
        self.adopted = adopted
        self.batches = list(batches)
        self.counted: dict[str, int] = {}
        self.noted: tuple[dict[str, int], dict[str, int]] = {}, {}

    def drain(self, timeout_ms: int = 0) -> list[tuple[str, bytes]]:
        return self.batches.pop(0) if self.batches else []

    def lost(self) -> dict[str, int]:
        return self.counted

    def refused(self) -> dict[str, int]:
        return {"memory": self.counted.get("process.exec", 0)}

    def told(self) -> tuple[dict[str, int], dict[str, int]]:
        return self.noted

    def tell(self, lost: dict[str, int], refused: dict[str, int]) -> None:
        self.noted = dict(lost), dict(refused)

    def image(self, exec_id: int) -> Image | None:
        return IMAGES.get(exec_id)


def live(reader: Reader) -> Live:
    return Live(reader, clock=Clock(lambda: 100_000_000_000, lambda: 0), boot_id="a" * 32)


def test_what_is_given_up_is_counted_by_event() -> None:
    whole = [("decisions", record("file.open", sequence=number)) for number in (1, 2, 4)]
    source = Live(Reader(whole, [("decisions", b"short"), ("candidates", record("process.exec", sequence=1))]))
    source.give_up()
    loss = source.loss()
    assert loss is not None
    assert loss.events == {"file.open": 3, "process.exec": 1}
    assert loss.gaps == {"decisions": 1}
    assert sum(loss.undecodable.values()) == 1
    assert source.read() == []


def test_live_joins_record_process_and_clock() -> None:
    data = record("process.exec", strings={"STR_FILE_PATH": b"/tmp/x"}, verdicts=(3,))
    source = live(Reader([("decisions", data)]))
    [read] = source.read()
    assert read.process is None, "what comes to nothing is not described"
    seen = source.described(read)
    assert (seen.event, seen.time, seen.verdicts, seen.generation) == ("process.exec", 105_000_000_001, (3,), 1)
    assert seen.fields["event"] == "process.exec"
    assert seen.fields["file.path"] == "/tmp/x"
    assert seen.fields["process.exe"] == "/usr/bin/dash"
    assert seen.process is not None
    assert seen.process.pid == 412


def test_live_counts_gaps_garbage_and_kernel_counters() -> None:
    reader = Reader(
        [("decisions", record("file.open", sequence=3)), ("decisions", b"garbage"), ("decisions", record("file.open", sequence=4))], []
    )
    source = live(reader)
    assert len(source.read()) == 2
    assert source.read() == []
    reader.counted = {"file.open": 1, "process.exec": 4}
    loss = source.loss()
    assert loss == Loss(
        {"file.open": 1, "process.exec": 4}, {"decisions": 2}, {"7 bytes are too few for a record": 1}, {"memory": 4}, uncounted=1
    )
    assert loss.total == 7
    assert source.loss() is None


def test_a_fault_with_a_batch_ends_nothing_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a bug")

    source = live(Reader([("decisions", record("file.open", sequence=1))] * 2, [("decisions", record("file.open", sequence=3))]))
    with monkeypatch.context() as patch:
        patch.setattr(records, "sift", fail)
        assert source.read() == []
    assert source.loss() == Loss({}, {}, {"a fault of bpfence: ValueError": 2})
    assert len(source.read()) == 1


def test_what_was_refused_is_told_in_runs_and_lost_by_the_same_account() -> None:
    told: list[tuple[int, int]] = []

    class By:
        def refused(self, count: int, moment: int) -> None:
            told.append((count, moment))

    def opened(sequence: int, **more: Any) -> tuple[str, bytes]:
        return "candidates", record("file.open", sequence=sequence, time=sequence, **more)

    by = By()
    source = live(Reader([opened(1)], [opened(2), opened(3), opened(6), opened(7, pid=5), opened(8)], [opened(9)]))
    source.refuse(*source.read(), by)
    found = source.read()
    assert [item[1:] if isinstance(item, Refused) else item.record.pid for item in found] == [(2, 3), (1, 6), 5, (1, 8)]
    assert {item.by for item in found if isinstance(item, Refused)} == {by}
    assert source.loss() == Loss({}, {"candidates": 2}, {}, uncounted=2)
    source.processes.forget_subjects()
    [seen] = source.read()
    assert not isinstance(seen, Refused)
    assert source.loss() is None


def test_what_is_refused_is_bounded() -> None:
    source = live(Reader([("candidates", record("file.open", pid=pid)) for pid in range(MAX_REFUSED + 1)]))
    for seen in source.read():
        source.refuse(seen, None)  # type: ignore[arg-type]
    assert 0 < len(source.processes.refused) <= MAX_REFUSED


def test_what_was_lost_while_no_agent_lived_is_told_by_the_next_once() -> None:
    first = Reader()
    first.counted = {"file.open": 3}
    source = live(first)
    assert source.loss() == Loss({"file.open": 3}, {}, {})
    heir = Reader([("decisions", record("file.open", sequence=9)), ("decisions", record("file.open", sequence=20))], adopted=True)
    heir.noted, heir.counted = first.noted, {"file.open": 13}
    source = live(heir)
    assert source.loss() == Loss({"file.open": 10}, {}, {})
    source.read()
    assert source.loss() is None, "the gap is of records that were told already"
    assert live(heir).loss() is None


def test_synthetic() -> None:
    source = Synthetic([[observation()], []], [None, Loss({}, {}, {})])
    assert [source.read(), source.read(), source.read()] == [[observation()], [], None]
    assert [source.loss(), source.loss(), source.loss()] == [None, Loss({}, {}, {}), None]


@pytest.mark.parametrize(
    ("numbers", "more"),
    [
        ({}, {}), ({"NUM_TTY": 34816, "NUM_EXE_FLAGS": 5}, {"STR_PARENT_NAME": b"b\n", "STR_PARENT_ARGS": b"b\0-c\0"}),
        ({}, {"STR_ANCESTORS": abi.ANCESTOR_STRUCT.pack(0x700000, 400) + abi.ANCESTOR_STRUCT.pack(0, 1)}),
        ({}, {"STR_ANCESTORS": b""}),
        ({}, {"STR_FILE_TEXT": b"../x\xff"}),
    ],
)  # fmt: skip
def test_a_written_alert_can_be_replayed(numbers: dict[str, int], more: dict[str, bytes]) -> None:
    data = record(
        "file.open", {"NUM_FILE_FLAGS": 0o101, "NUM_FILE_ACCESS": 2, "NUM_FILE_MODE": 0o100644, "NUM_FILE_OBJECT": 1, **numbers},
        {"STR_FILE_PATH": b"/\xff\n\\x", "STR_PROCESS_CWD": b"/", **more},
    )  # fmt: skip
    source = live(Reader([("decisions", data)]))
    seen = source.described(*source.read())
    rule = RuleInfo("p", "r", "enforce", Action.DENY, Action.DENY)
    [(_, alert)] = Composer("h", lambda: 0).alerts(seen, [(rule, False)], ("/etc/shadow",))
    [batch] = [Replay([encode(alert)]).read()]
    assert batch is not None
    replayed = batch[0].fields
    expected = {**seen.fields, "file.mode": 0o644, "file.object": ("/etc/shadow",)}
    assert replayed == {**expected, "process.name": "sh"}


def test_replay_in_batches_ends_with_none() -> None:
    source = Replay([b'{"event":"exec"}'] * 3, batch=2)
    assert [len(batch) if (batch := source.read()) is not None else None for _ in range(3)] == [2, 1, None]


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        ({"event": "exec", "file.path": "/x"}, {"event": "process.exec", "file.path": "/x"}),
        ({"event": "process.exec", "process.user": "root"}, {"event": "process.exec", "process.uid": 0, "process.user": 0}),
        (
            {"event": "connect", "net": {"peer": {"ip": "::1", "port": 4}}},
            {"event": "net.connect", "net.peer.ip": "::1", "net.peer.port": 4},
        ),
        ({"event": "exec", "process": {"ppid": 7, "cwd": None}}, {"event": "process.exec", "process.parent.pid": 7}),
    ],
)
def test_flat_and_nested_fields(document: dict[str, Any], fields: dict[str, Any]) -> None:
    assert fields_from_json(document) == fields


@pytest.mark.parametrize(
    "document",
    [
        {}, {"event": 5}, {"event": "nope"}, {"event": "exec", "file.nope": 1}, {"event": "exec", "file.path": 1},
        {"event": "exec", "process": {"ancestors": [1]}}, {"event": "exec", "file": {"object": "x"}},
    ],
)  # fmt: skip
def test_bad_events_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(BadValueError):
        fields_from_json(document)


def test_recorded_lines_have_numbers_and_other_kinds_are_left_out() -> None:
    lines = ["", '{"kind":"loss"}', '{"event":"exec","expect":"deny"}', '{"kind":"status"}']
    assert [(recorded.number, recorded.expect) for recorded in read_recorded(lines)] == [(3, "deny")]


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"event":"nope"}', b"\xff", b"[" * 100_000, b" " * (1 << 20) + b"x"])
def test_bad_lines_are_named(line: bytes) -> None:
    with pytest.raises(BadLineError, match="line 2"):
        list(read_recorded([b'{"event":"exec"}', line]))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["path", "exe", "peer", "ancestors", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["event", "file", "process", "net", "signal", "file.flags", "process.args", "capability"]), _JSON))
def test_any_json_is_read_or_refused(document: dict[str, Any]) -> None:
    document.setdefault("event", "exec")
    try:
        found = next(read_recorded([json.dumps(document)]), None)
    except BadLineError:
        return
    assert found is not None
    assert found.fields["event"] == "process.exec" or document["event"] != "exec"


class Endless(io.RawIOBase):
    """A stream without an end of line, as /dev/zero is."""

    given = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size > 0, "all of it is asked for"
        self.given += size
        return b"0" * size


def test_a_line_without_an_end_is_refused_after_its_first_part() -> None:
    stream = Endless()
    with pytest.raises(BadLineError, match="line 1: longer than 1 MiB"):
        next(read_recorded(bounded_lines(stream)))
    assert stream.given == MAX_LINE + 1


def test_bounded_lines_are_the_lines() -> None:
    assert list(bounded_lines(io.BytesIO(b"a\n\nb"))) == [b"a\n", b"\n", b"b"]


def test_what_a_line_says_of_its_container() -> None:
    document = {
        "event": "file.open",
        "process": {"cgroup": "/docker/x"},
        "container": {"id": "x", "image": "nginx:1.27", "labels": {"a\\x0a": "b"}, "mounts": [{"source": "/s"}], "privileged": True},
        "k8s": {"namespace": "shop", "pod": "web", "serviceAccount": "sa"},
    }
    [recorded] = read_recorded([json.dumps(document)])
    assert recorded.container == Container(
        id="x", cgroup="/docker/x", image="nginx:1.27", labels={"a\n": "b"}, pod=Pod("web", "shop", service_account="sa")
    )
    assert recorded.container.pod is not None
    assert recorded.container.pod.labels is None
    assert recorded.fields["process.cgroup"] == "/docker/x"
    [recorded] = read_recorded(['{"event": "exec", "container": null}'])
    assert recorded.container is None


@pytest.mark.parametrize("said", [{"container": 5}, {"container": {"image": 5}}, {"k8s": {"pod": "x"}}, {"container": {"labels": ["x"]}}])
def test_a_line_that_says_nonsense_of_its_container(said: dict[str, Any]) -> None:
    with pytest.raises(BadLineError, match="container or k8s"):
        list(read_recorded([json.dumps({"event": "exec", **said})]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("causes", ["count"]),
        ("may_match", ["p/r"]),
        ("kill", "refused"),
        ("sent", "SIGTERM"),
        ("count", {"threshold": 3}),
        ("dialect", {"tetragon": {"action": "KPROBE_ACTION_SIGNAL"}}),
    ],
)
def test_what_alerts_say_beside_the_event_is_no_field(name: str, value: object) -> None:
    [found] = read_recorded([json.dumps({"event": "file.open", name: value})])
    assert found.fields == {"event": "file.open"}


def test_recorded_lines_have_their_times() -> None:
    lines = [
        '{"event":"exec"}',
        '{"event":"exec","time":"1970-01-01T00:00:01.000000002Z","count":{"events":3}}',
        '{"event":"exec"}',
        '{"event":"exec","time":"1970-01-01T01:00:02.5+01:00"}',
    ]
    assert [recorded.time for recorded in read_recorded(lines)] == [0, 1_000_000_002, 1_000_000_002, 2_500_000_000]
    for time in ('"yesterday"', '"1970-01-01T00:00:00"', "7"):
        with pytest.raises(BadLineError, match="time"):
            list(read_recorded([f'{{"event":"exec","time":{time}}}']))
