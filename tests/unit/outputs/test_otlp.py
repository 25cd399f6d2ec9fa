# SPDX-License-Identifier: Apache-2.0
"""OTLP logs, received by the reference's own messages: what they hold, and that none is lost uncounted whatever the receiver answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from bpfence.errors import UsageError
from bpfence.outputs import otlp, sink
from bpfence.outputs.otlp import for_otlp
from bpfence.outputs.routes import open_outputs
from bpfence.outputs.specs import spec_of
from tests.unit.outputs.places import until
from tests.unit.outputs.servers import Hook, Request
from tests.unit.outputs.test_choice import LOSS, alert
from tests.unit.outputs.test_stores import numbered, written

ROOT = Path(__file__).resolve().parents[3]


class Receiver:
    """What a receiver does with a request: all records are kept, and put into a file where there is one. `rejected`: how many it says that
    it has rejected."""

    def __init__(self, file: Path | None = None, rejected: int = 0, message: str = "") -> None:
        self.requests: list[ExportLogsServiceRequest] = []
        self._rejected, self._message = rejected, message
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if file is not None else -1

    def __call__(self, request: Request) -> tuple[Any, ...]:
        path, headers, body = request
        assert path == "/v1/logs"
        assert headers["content-type"] == "application/x-protobuf"
        self.requests.append(ExportLogsServiceRequest.FromString(body))
        if self._file >= 0:
            os.write(self._file, "".join(one.body.string_value + "\n" for one in records(self.requests[-1])).encode())
        response = ExportLogsServiceResponse()
        if self._rejected or self._message:
            response.partial_success.rejected_log_records = self._rejected
            response.partial_success.error_message = self._message
        return 200, {"Content-Type": "application/x-protobuf"}, response.SerializeToString()

    def records(self) -> list[Any]:
        return [one for request in self.requests for one in records(request)]


def records(request: ExportLogsServiceRequest) -> list[Any]:
    return [one for resource in request.resource_logs for scope in resource.scope_logs for one in scope.log_records]


def numbers(bodies: list[str]) -> list[int]:
    return [int(json.loads(body)["message"].split()[1]) for body in bodies]


@pytest.fixture(autouse=True)
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(sink, "MAX_RETRY_SECONDS", 0.05)


@pytest.fixture
def hooks() -> Iterator[Callable[[Any], Hook]]:
    made: list[Hook] = []

    def begin(answer: Any, port: int = 0) -> Hook:
        made.append(Hook(answer, port=port))
        return made[-1]

    yield begin
    for hook in made:
        hook.close()


def to(port: int, **more: Any) -> Any:
    return spec_of({"to": f"otlp:http://127.0.0.1:{port}", **more})


def attributes(told: Any) -> dict[str, str]:
    return {one.key: one.value.string_value for one in told}


def test_what_a_record_holds(hooks: Callable[[Any], Hook]) -> None:
    receiver = Receiver()
    line = alert(severity="high")
    written(to(hooks(receiver).port), [line, LOSS, msgspec.structs.replace(line.alert, severity="low")])  # type: ignore[union-attr]
    [request] = receiver.requests
    [resource] = request.resource_logs
    assert attributes(resource.resource.attributes)["service.name"] == "bpfence"
    assert set(attributes(resource.resource.attributes)) == {"service.name", "service.version", "host.name"}
    first, loss, low = receiver.records()
    assert json.loads(first.body.string_value)["file"]["path"] == "/secret"
    assert (first.time_unix_nano, first.severity_number, first.severity_text) == (105_000_000_001, 17, "high")
    assert first.observed_time_unix_nano > first.time_unix_nano
    assert (first.event_name, low.event_name, loss.event_name) == ("bpfence.file.open", "bpfence.file.open", "bpfence.loss")
    assert attributes(first.attributes) == {"bpfence.kind": "alert", "bpfence.policy": "guard", "bpfence.rule": "r"}
    assert attributes(low.attributes) == attributes(first.attributes)
    assert (low.severity_number, attributes(loss.attributes)) == (10, {"bpfence.kind": "loss"})


def test_every_form_and_what_is_left_out(hooks: Callable[[Any], Hook]) -> None:
    receiver = Receiver()
    written(to(hooks(receiver).port, form="cef", redact=["args", "file"]), [alert()])
    [record] = receiver.records()
    assert record.body.string_value.startswith("CEF:0|")
    assert b"secret" not in record.SerializeToString()
    assert for_otlp(lambda _: b"", lambda: 0)(alert()) == b""


def test_hostile_names_are_texts() -> None:
    for policy in ("\udcff", "\x00", "a\u202eb"):
        line = alert()
        line.made_of = (line.made_of[0], msgspec.structs.replace(line.made_of[1], policy=policy), *line.made_of[2:])  # type: ignore[union-attr]
        assert for_otlp(lambda _: b"\xff\x00", lambda: 0)(line)


def test_every_record_is_there_once(hooks: Callable[[Any], Hook]) -> None:
    receiver = Receiver()
    assert written(to(hooks(receiver).port), numbered(250)) == (250, 0, [])
    assert numbers([one.body.string_value for one in receiver.records()]) == list(range(250))
    assert len(receiver.requests) == 3


def test_what_is_rejected_is_counted_and_not_sent_again(hooks: Callable[[Any], Hook]) -> None:
    receiver = Receiver(rejected=3, message="too\nlong\x1b")
    taken, lost, said = written(to(hooks(receiver).port, batch=10), numbered(20))
    assert (taken, lost, len(receiver.requests)) == (14, 6, 2)
    assert "refuses lines, which are dropped: the receiver has rejected 3 records: toolong" in said[0]


def test_a_receiver_that_rejects_more_than_there_is(hooks: Callable[[Any], Hook]) -> None:
    assert written(to(hooks(Receiver(rejected=10**9)).port), numbered(5))[:2] == (0, 5)
    assert written(to(hooks(Receiver(rejected=-1)).port), numbered(5))[:2] == (5, 0)


def test_a_warning_is_no_rejection(hooks: Callable[[Any], Hook]) -> None:
    assert written(to(hooks(Receiver(message="deprecated")).port), numbered(5)) == (5, 0, [])


@pytest.mark.parametrize("first", [(429, {"Retry-After": "0"}), (502, {}), (503, {}), (504, {}), (401, {}), (0, {}), (200, {}, b"<html>")])
def test_what_may_pass_is_sent_again(first: tuple[Any, ...], hooks: Callable[[Any], Hook]) -> None:
    receiver, answers = Receiver(), [first]
    taken, lost, said = written(to(hooks(lambda request: answers.pop() if answers else receiver(request)).port), numbered(3))
    assert (taken, lost, len(receiver.records()), len(said)) == (3, 0, 3, 2)


def test_a_receiver_that_is_killed(tmp_path: Path) -> None:
    """At least once: what it had kept and not answered for comes again."""
    file = tmp_path / "kept"
    program = "import sys; from tests.unit.outputs.test_otlp import serve; serve(*sys.argv[1:])"

    def begun(port: int) -> tuple[subprocess.Popen[str], int]:
        command = [sys.executable, "-c", program, str(file), str(port)]
        made = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert made.stdout is not None
        return made, int(made.stdout.readline())

    def ended(server: subprocess.Popen[str]) -> None:
        server.send_signal(signal.SIGKILL)
        server.communicate()

    server, port = begun(0)

    def midway() -> None:
        nonlocal server
        until(lambda: file.stat().st_size > 0)
        ended(server)
        server, _ = begun(port)

    taken, lost, _ = written(to(port, batch=10), numbered(2000), midway)
    ended(server)
    assert (taken, lost) == (2000, 0)
    kept = Counter(numbers(file.read_text().splitlines()))
    assert set(kept) == set(range(2000))
    assert kept.total() <= 2010, "one request comes again"


def serve(file: str, port: str) -> None:
    """The receiver as a program, until it is killed."""
    print(Hook(Receiver(Path(file)), port=int(port)).port, flush=True)
    signal.pause()


def test_without_the_library_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.proto.logs.v1", None)
    with pytest.raises(UsageError, match=r"pip install 'bpfence\[otlp\]'"):
        open_outputs(["otlp:http://localhost:4318"], pytest.fail)


def test_severities_are_those_of_the_protocol() -> None:
    from opentelemetry.proto.logs.v1.logs_pb2 import SeverityNumber

    named = {level: SeverityNumber.Name(number).removeprefix("SEVERITY_NUMBER_") for level, number in otlp.SEVERITY.items()}  # type: ignore[arg-type]
    assert named == {"info": "INFO", "low": "INFO2", "medium": "WARN", "high": "ERROR", "critical": "FATAL"}
