# SPDX-License-Identifier: Apache-2.0
"""An engine, a file of recorded lines or made-up events in, observations out.

Called by the agent (Live) and by `bpfence test` (Replay); Synthetic serves tests. What comes after a source does not know which one
it is. A recorded line is a line that `jsonl:` has written (kind alert or event), or a flat object of native fields:
`{"event": "process.exec", "file.path": "/tmp/x", "process.uid": 0}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, BinaryIO, Final, NamedTuple, Protocol

import msgspec

from bpfence import fields as tables
from bpfence.events import records
from bpfence.events.loss import Loss, LossMeter
from bpfence.events.process import Clock, Process, ProcessCache, Subject
from bpfence.events.records import ExecImage, KernelEvent
from bpfence.events.values import BadValueError, parse, unescape
from bpfence.policy import Value
from bpfence.workloads.model import Container, Pod

MAX_LINE: Final = 1 << 20
MALFORMED: Final = "JSON is malformed: "
"""What msgspec begins with where a text is no JSON."""


class Observation(msgspec.Struct, frozen=True, gc=False):  # it is in no cycle
    """One event, whatever its source. `time` is ns since 1970; `fields` are raw native fields as `evaluate` takes them, "event" included.

    `flags` are EVENT_* of bpf/abi.h; `action`, `error` and `verdicts` what the kernel did, by the tables of `generation`. `record` is what
    came from the kernel, None where nothing did.
    """

    event: str
    time: int
    fields: dict[str, Value]
    process: Process | None = None
    flags: int = 0
    generation: int = 0
    action: int = 0
    error: int = 0
    verdicts: tuple[int, ...] = ()
    objects: dict[str, int] = {}
    record: KernelEvent | None = None

    def own(self, name: str) -> Value | None:
        """One of the event's own fields, whether or not they were made already."""
        value = self.fields.get(name)
        if value is None and self.record is not None and self.process is None:
            return records.own_field(self.record, name)
        return value


class Refuser(Protocol):
    """Who has said that all records of a kind by a process come to nothing."""

    def refused(self, count: int, moment: int) -> None:
        """So many more came, the last of them at `moment`, ns since boot."""


class Refused(NamedTuple):
    """Records in a row that came to nothing, because records like them did before. `moment`: of the last, ns since boot."""

    by: Refuser
    number: int
    moment: int


class EventSource(Protocol):
    """Where observations come from."""

    def read(self, timeout_ms: int = 0) -> list[Observation] | None:
        """The next batch, empty when there is none right now; None when no more will ever come."""

    def loss(self) -> Loss | None:
        """What was lost since the last call."""

    def close(self) -> None:
        """Let go of whatever the source holds."""


class RecordReader(Protocol):
    """The part of `kernel.engine.Engine` that Live reads from."""

    @property
    def adopted(self) -> bool: ...
    def drain(self, timeout_ms: int = 0) -> list[tuple[str, bytes]]: ...
    def lost(self) -> dict[str, int]: ...
    def refused(self) -> dict[str, int]: ...
    def told(self) -> tuple[dict[str, int], dict[str, int]]: ...
    def tell(self, lost: Mapping[str, int], refused: Mapping[str, int]) -> None: ...
    def image(self, exec_id: int) -> ExecImage | None: ...


class Live:
    """The ring buffers of an engine. It does not own the engine."""

    def __init__(
        self, engine: RecordReader, *, clock: Clock | None = None, boot_id: str = "",
        cgroup_path: Callable[[int], str | None] | None = None, container: Callable[[str], Container | None] | None = None,
    ) -> None:  # fmt: skip
        self._engine = engine
        self.clock = clock or Clock()
        self.cgroup_path = cgroup_path or (lambda _: None)
        self.container = container or (lambda _: None)
        self.processes = ProcessCache(engine.image, self.clock, boot_id=boot_id)
        self._meter = LossMeter(*engine.told()) if engine.adopted else LossMeter()

    def read(self, timeout_ms: int = 0) -> list[Observation | Refused]:
        """One batch; empty where there is none. What cannot be decoded is counted as loss."""
        raw = self._engine.drain(timeout_ms)
        if not raw:
            return []
        if self.clock.refresh():
            self.processes.forget_subjects()
        found: list[Observation | Refused] = []
        try:
            sifted = records.sift(raw, self.processes.refused)
        except Exception as error:  # see below
            for _ in raw:
                self._meter.undecodable(f"a fault of bpfence: {type(error).__name__}")
            return []
        for item in sifted:
            try:
                if isinstance(item, KernelEvent):
                    found.append(self._observed(item))
                elif len(item) == 2:
                    self._meter.undecodable(item[1])
                else:
                    by, buffer, stream, sequence, count, moment = item
                    self._meter.record(buffer, stream, sequence, count)
                    found.append(Refused(by, count, moment))
            except Exception as error:  # a bug of ours: what somebody has made the kernel write ends no agent
                self._meter.undecodable(f"a fault of bpfence: {type(error).__name__}")
        return found

    def give_up(self) -> None:
        """Take what is waiting and count it as lost, without a look at it: for the end, when nothing more is written."""
        while raw := self._engine.drain():
            for buffer, data in raw:
                record = records.decode(buffer, data)
                if isinstance(record, KernelEvent):
                    self._meter.record(buffer, record.stream, record.sequence)
                    self._meter.give_up(record.event)
                else:
                    self._meter.undecodable(record.reason)

    def _observed(self, record: KernelEvent) -> Observation:
        self._meter.record(record.buffer, record.stream, record.sequence)
        event = record.event
        return Observation(
            event, self.clock.wall(record.time), {"event": event}, None, record.flags, record.generation, record.action, record.error,
            record.verdicts, records.object_bits(record), record,
        )  # fmt: skip

    def subject(self, seen: Observation) -> Subject | None:
        """The acting process; None of an observation that comes from no kernel."""
        return None if seen.record is None else self.processes.subject(seen.record, self.cgroup_path)

    def refuse(self, seen: Observation, by: Refuser) -> None:
        """Records of the same kind by the same process come to nothing until `forget_subjects`: only `by` is told of them, by `read`."""
        if seen.record is not None:
            self.processes.refuse(seen.record, by)

    def described(self, seen: Observation) -> Observation:
        """The observation with its fields and its process. Read without them: most candidates come to nothing, most lines need none."""
        record = seen.record
        if record is None or seen.process is not None:
            return seen
        subject = self.processes.subject(record, self.cgroup_path)
        return msgspec.structs.replace(seen, process=subject.process, fields=subject.fields | records.own_fields(record) | seen.fields)

    def loss(self) -> Loss | None:
        """What the kernel and the sequence numbers say was lost since the last call, or since the last one of an agent before us."""
        lost, refused = self._engine.lost(), self._engine.refused()
        loss = self._meter.take(lost, refused)
        if loss:
            self._engine.tell(lost, refused)
        return loss

    def close(self) -> None:
        """Nothing: the engine belongs to the agent."""


class Synthetic:
    """Batches made up by a test."""

    def __init__(self, batches: Iterable[list[Observation]], losses: Iterable[Loss | None] = ()) -> None:
        self._batches = iter(batches)
        self._losses = iter(losses)

    def read(self, timeout_ms: int = 0) -> list[Observation] | None:
        """The next made-up batch."""
        return next(self._batches, None)

    def loss(self) -> Loss | None:
        """The next made-up loss."""
        return next(self._losses, None)

    def close(self) -> None:
        """Nothing to let go of."""


class BadLineError(ValueError):
    """A recorded line that cannot be read; `number` counts from 1."""

    def __init__(self, number: int, reason: str) -> None:
        self.number = number
        self.reason = reason
        super().__init__(f"line {number}: {reason}")


class Recorded(msgspec.Struct, frozen=True):
    """One line of a recorded file: the event's fields, what the line says should happen (any JSON), or None, and when it happened: ns since
    1970, of a line without a time that of the line before.
    """

    number: int
    fields: dict[str, Value]
    expect: Any = None
    container: Container | None = None
    time: int = 0


class Replay:
    """A file of recorded lines as a source."""

    def __init__(self, lines: Iterable[str | bytes], *, batch: int = 256) -> None:
        self._recorded = read_recorded(lines)
        self._batch = batch

    def read(self, timeout_ms: int = 0) -> list[Observation] | None:
        """The next lines. BadLineError where one cannot be read."""
        found = []
        for recorded in self._recorded:
            found.append(Observation(str(recorded.fields["event"]), 0, recorded.fields))
            if len(found) == self._batch:
                break
        return found or None

    def loss(self) -> Loss | None:
        """A file loses nothing."""
        return None

    def close(self) -> None:
        """The file belongs to the caller."""


def bounded_lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a stream, none read beyond MAX_LINE + 1 bytes: one that is longer comes in parts, of which the first is refused."""
    while line := stream.readline(MAX_LINE + 1):
        yield line


def read_recorded(lines: Iterable[str | bytes]) -> Iterator[Recorded]:
    """Every event of a recorded file, `loss` and `status` lines and empty lines left out. BadLineError where a line cannot be read."""
    time = 0
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE:
            raise BadLineError(number, f"longer than {MAX_LINE >> 20} MiB")
        if not line.strip():
            continue
        try:
            document = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise BadLineError(number, f"not JSON: {str(error).removeprefix(MALFORMED)}") from None
        except RecursionError:
            raise BadLineError(number, "nested too deeply") from None
        if not isinstance(document, dict):
            raise BadLineError(number, "not a JSON object")
        if document.get("kind", "alert") not in ("alert", "event"):
            continue
        try:
            time = _time_of(document, time)
            for fields in events_from_json(document):
                yield Recorded(number, fields, document.get("expect"), container_from_json(document), time)
        except BadValueError as error:
            raise BadLineError(number, str(error)) from None


def _time_of(document: Mapping[str, Any], before: int) -> int:
    """When a recorded line says that it happened, in ns since 1970. BadValueError where that is no time."""
    text = document.get("time")
    if text is None:
        return before
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise BadValueError(f"time is not as RFC 3339 has it: {text!r}") from None
    if moment.tzinfo is None:
        raise BadValueError(f"time has no zone: {text!r}")
    digits = re.search(r"\.([0-9]+)", text)
    return int(moment.replace(microsecond=0).timestamp()) * 1_000_000_000 + (int(digits.group(1)[:9].ljust(9, "0")) if digits else 0)


_NOT_FIELDS: Final = {
    "time", "kind", "policy", "rule", "severity", "tags", "action", "mode", "message", "errno", "seq", "host", "container", "k8s",
    "would", "uncertain", "causes", "may_match", "kill", "sent", "expect", "count", "dialect",
}  # fmt: skip
_PROCESS_KEYS: Final = {"tid", "exec_id", "start_time", "args_truncated"}


def events_from_json(document: Mapping[str, Any]) -> Iterator[dict[str, Value]]:
    """What `fields_from_json` gives; for a group once for each of its events, without the fields that one does not carry."""
    members = tables.GROUPS.get(document.get("event")) if isinstance(document.get("event"), str) else None  # type: ignore[arg-type]
    if members is None:
        yield fields_from_json(document)
        return
    for member in members:
        found = fields_from_json({**document, "event": member})
        yield {
            name: value for name, value in found.items()
            if name == "event" or name not in tables.FIELD_BY_NAME or tables.applies(tables.FIELD_BY_NAME[name], member)
        }  # fmt: skip


def fields_from_json(document: Mapping[str, Any]) -> dict[str, Value]:
    """The raw fields of a recorded line or a flat object; BadValueError names what is wrong: an unknown event or field, or a bad value."""
    event = document.get("event")
    if not isinstance(event, str):
        raise BadValueError("an event needs the key 'event': its full name")
    full = event if event in tables.EVENT_BY_NAME else _BY_SHORT_NAME.get(event)
    if full is None:
        raise BadValueError(f"unknown event {event!r}; `bpfence events` lists them")
    found: dict[str, Value] = {"event": full}
    for name, value in _flattened(document):
        if value is not None:
            _take(found, name, value)
    if "process.uid" in found:
        found.setdefault("process.user", found["process.uid"])
    elif "process.user" in found:
        found["process.uid"] = found["process.user"]
    return found


class _SaidContainer(msgspec.Struct):
    id: str = ""
    name: str = ""
    image: str = ""
    digest: str = ""
    runtime: str = ""
    labels: dict[str, str] | None = None


class _SaidPod(msgspec.Struct):
    namespace: str
    pod: str
    labels: dict[str, str] | None = None
    service_account: str = msgspec.field(default="", name="serviceAccount")


def container_from_json(document: Mapping[str, Any]) -> Container | None:
    """What a recorded line or a flat object says of the container in `container` and `k8s`; None where it says nothing. BadValueError where
    that is something else."""
    if document.get("container") is None and document.get("k8s") is None:
        return None
    try:
        said = msgspec.convert(document.get("container") or {}, _SaidContainer)
        of_pod = msgspec.convert(document["k8s"], _SaidPod) if document.get("k8s") is not None else None
    except msgspec.ValidationError as error:
        raise BadValueError(f"container or k8s: {error}") from None
    process = document.get("process")
    cgroup = document.get("process.cgroup") or (process.get("cgroup") if isinstance(process, dict) else None)
    pod = None
    if of_pod is not None:
        pod = Pod(of_pod.pod, of_pod.namespace, labels=_plain(of_pod.labels), service_account=of_pod.service_account)
    return Container(
        id=unescape(said.id),
        cgroup=cgroup if isinstance(cgroup, str) else "",
        name=unescape(said.name),
        image=unescape(said.image),
        image_digest=said.digest,
        runtime=said.runtime,
        labels=_plain(said.labels),
        pod=pod,
    )


def _plain(labels: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if labels is None else {unescape(key): unescape(value) for key, value in labels.items()}


_BY_SHORT_NAME: Final = {short: event.name for event in tables.EVENTS for short in event.short}


def _flattened(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if key in _NOT_FIELDS or key == "event":
            continue
        if not isinstance(value, dict):
            yield key, value
            continue
        stack = [(f"{key}.{inner}", deep) for inner, deep in value.items()]
        while stack:
            name, deep = stack.pop(0)
            if isinstance(deep, dict):
                stack[:0] = [(f"{name}.{inner}", deeper) for inner, deeper in deep.items()]
            else:
                yield name, deep


def _take(found: dict[str, Value], name: str, value: object) -> None:
    if name == "process.ancestors":
        found |= _ancestors(value)
    elif name == "process.parents":
        found |= _parents(value)
    elif name == "process.ppid":
        found["process.parent.pid"] = parse(tables.FIELD_BY_NAME["process.parent.pid"], value)
    elif name in ("file.object", "file.new_object"):
        if not isinstance(value, list) or not all(isinstance(element, str) for element in value):
            raise BadValueError(f"{name} must be a list of strings")
        found[name] = tuple(value)
    elif name in tables.FIELD_BY_NAME:
        found[name] = parse(tables.FIELD_BY_NAME[name], value)
    elif name.removeprefix("process.") not in _PROCESS_KEYS:
        raise BadValueError(f"unknown field {name!r}")


def _ancestors(value: object) -> dict[str, Value]:
    if not isinstance(value, list) or not all(isinstance(element, dict) and isinstance(element.get("exe"), str) for element in value):
        raise BadValueError("process.ancestors must be a list of objects with an exe")
    field = tables.FIELD_BY_NAME["process.parent.exe"]
    names = tuple(str(parse(field, element["exe"])) for element in value)
    return {"process.ancestors.exe": names, **({"process.parent.exe": names[0]} if names else {})}


def _parents(value: object) -> dict[str, Value]:
    if not isinstance(value, list) or not all(isinstance(element, dict) for element in value):
        raise BadValueError("process.parents must be a list of objects")
    field = tables.FIELD_BY_NAME["process.parent.name"]
    names = (parse(field, element["name"]) for element in value if element.get("name") is not None)
    return {"process.ancestors.name": tuple(str(name) for name in names)}
