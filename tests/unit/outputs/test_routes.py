# SPDX-License-Identifier: Apache-2.0
"""Which outputs a command line means, and that a broken one hurts nobody."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bpfence.alerts.alert import Composer, Line, encode
from bpfence.errors import UsageError
from bpfence.outputs import messages, routes, sink
from bpfence.outputs.forms import FORMS
from bpfence.outputs.messages import MessageQueue
from bpfence.outputs.places import File, Stream
from bpfence.outputs.routes import Outputs, open_outputs, with_format
from bpfence.outputs.terminal import People
from tests.unit.outputs.places import Fake, until

ROOT = Path(__file__).resolve().parents[3]
CLOSE_SECONDS, MAX_SECONDS = routes.CLOSE_SECONDS, routes.MAX_CLOSE_SECONDS
"""Before `patience` in conftest.py has changed it."""
COMPOSER = Composer("h", lambda: 0)
LINE = COMPOSER.status("test", "text")


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def numbered(first: int, last: int) -> list[Line]:
    return [COMPOSER.status("test", str(number)) for number in range(first, last)]


def texts(lines: list[bytes], status: str = "test") -> list[str]:
    found = [json.loads(line) for line in lines if line != b"REOPENED"]
    return [line["message"] for line in found if line["status"] == status]


def test_one_output_that_hangs_costs_the_others_nothing() -> None:
    said: list[str] = []
    bad, good = Fake("bad"), Fake("good")
    outputs = Outputs([(encode, bad), (encode, good)], said.append)
    outputs._routes[0].sink._max_lines = 100
    bad.hang()
    outputs.start()
    outputs.write(numbered(0, 1))
    bad.entered.wait()
    for number in range(1, 150, 10):
        outputs.write(numbered(number, number + 10))
        until(lambda number=number: len(texts(good.lines)) == number + 10)  # type: ignore[misc]
    outputs.reopen()
    assert outputs.lost_lines() == {"bad": 51}
    assert len(said) == 1
    assert "output bad takes no lines" in said[0]
    bad.open.set()
    until(lambda: texts(bad.lines + good.lines, "dropped") != [])
    outputs.write(numbered(151, 152))
    outputs.close()
    assert texts(good.lines) == [str(number) for number in range(152)]
    assert texts(bad.lines) == [*(str(number) for number in range(100)), "151"]
    for place in (bad, good):
        (told,) = [json.loads(line) for line in place.lines if line != b"REOPENED" and b'"dropped"' in line]
        assert (told["status"], told["severity"], told["output"], told["dropped"]) == ("dropped", "high", "bad", 51)
    assert outputs.lost_lines() == {"bad": 51}


def test_what_is_left_at_the_end_is_told() -> None:
    said: list[str] = []
    bad, good = Fake("bad"), Fake("good")
    outputs = Outputs([(encode, bad), (encode, good)], said.append, close_seconds=0.01)
    bad.hang()
    outputs.start()
    outputs.write(numbered(0, 7))
    until(lambda: len(good.lines) == 7)
    outputs.close()
    assert said == ["output bad did not take the last 7 lines before the end; it has lost 7 in all"]
    assert outputs.lost_lines() == {"bad": 7}
    bad.open.set()


def test_nothing_begins_before_the_start() -> None:
    """Threads have the privileges of the one that begins them."""
    place = Fake()
    outputs = Outputs([(encode, place)], pytest.fail)
    outputs.write(numbered(0, 2))
    assert not any(route.sink.started for route in outputs._routes)
    outputs.start()
    outputs.start()
    outputs.write([])
    outputs.write(numbered(2, 3))
    outputs.close()
    assert texts(place.lines) == ["0", "1", "2"]
    assert outputs.lost_lines() == {}


def test_a_line_that_cannot_be_shown_costs_that_line() -> None:
    def form(line: Line) -> bytes:
        if line.message == "3":
            raise KeyError("oh")
        return encode(line)

    said: list[str] = []
    bad, good = Fake("bad"), Fake("good")
    outputs = Outputs([(form, bad), (encode, good)], said.append)
    for _ in range(2):
        outputs.write(numbered(0, 6))
    outputs.close()
    assert texts(bad.lines) == ["0", "1", "2", "4", "5"] * 2
    assert len(good.lines) == 12
    assert outputs.lost_lines() == {"bad": 2}
    assert len(said) == 1
    assert "KeyError" in said[0]


def test_a_form_is_made_once_for_all_that_show_it() -> None:
    made: list[Line] = []

    def form(line: Line) -> bytes:
        made.append(line)
        return b"x"

    outputs = Outputs([(form, Fake("a")), (form, Fake("b"))], pytest.fail)
    outputs.write(numbered(0, 3))
    outputs.close()
    assert len(made) == 3


@pytest.mark.parametrize(
    ("specs", "terminal", "kinds"),
    [
        ((), True, [("rich", "rich")]), ((), False, [("native", "auto")]), (("rich",), False, [("native", "rich")]),
        (("-",), True, [("native", "-")]), (("rich", "-", "-"), True, [("rich", "rich"), ("native", "-")]),
        (("falco", "falco-text"), True, [("falco", "falco"), ("falco-text", "falco-text")]),
        (("tetragon",), True, [("tetragon", "tetragon")]),
    ],
)  # fmt: skip
def test_specs(specs: tuple[str, ...], terminal: bool, kinds: list[tuple[str, str]]) -> None:
    outputs = open_outputs(specs, pytest.fail, stream=Tty() if terminal else io.StringIO())
    names = {FORMS[name](): name for name in ("native", "falco", "falco-text", "tetragon")}
    found = [("rich" if isinstance(form, People) else names[form], one.name) for form, one in outputs._routes]
    assert found == kinds
    assert all(isinstance(route.sink.place, Stream) for route in outputs._routes)
    outputs.close()


def test_text_is_in_the_streams_encoding_and_json_in_utf_8(tmp_path: Path) -> None:
    line = COMPOSER.status("test", "Grüße")
    for spec, expected in (("falco-text", "Grüße".encode("latin-1")), ("-", "Grüße".encode())):
        with (tmp_path / spec).open("w", encoding="latin-1") as stream:
            outputs = open_outputs([spec], pytest.fail, stream=stream)
            outputs.write([line])
            outputs.close()
        assert expected in (tmp_path / spec).read_bytes()


@pytest.mark.parametrize(
    ("specs", "form", "expected"),
    [
        ((), "native", ()), (("-", "jsonl:x"), "native", ("-", "jsonl:x")), ((), "falco", ("falco",)),
        (("jsonl:x",), "falco-text", ("jsonl:x", "falco-text")), (("auto", "-", "jsonl:x"), "falco", ("jsonl:x", "falco")),
        (("falco",), "falco", ("falco",)),
    ],
)  # fmt: skip
def test_a_format_is_what_standard_output_shows(specs: tuple[str, ...], form: str, expected: tuple[str, ...]) -> None:
    assert with_format(specs, form) == expected


@pytest.mark.parametrize("spec", ["rich", "falco-text"])
def test_a_format_beside_another_one(spec: str) -> None:
    with pytest.raises(UsageError, match=f"--format falco and --output {spec}"):
        with_format(["jsonl:x", spec], "falco")


def test_jsonl_spec(tmp_path: Path) -> None:
    outputs = open_outputs([f"jsonl:{tmp_path}/a:b.jsonl"], pytest.fail)
    outputs.write([LINE])
    assert outputs.folders() == (tmp_path,)
    assert isinstance(outputs._routes[0].sink.place, File)
    outputs.close()
    assert (tmp_path / "a:b.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize(
    "spec", ["jsonl:", "nope", "jsonl", "jsonl:/nonexistent/folder/file", "unix:", "syslog:tcp:x", "ftp://x/", "native"]
)
def test_bad_specs(spec: str) -> None:
    with pytest.raises(UsageError, match=spec.partition(":")[0]):
        open_outputs([spec], pytest.fail)


def test_a_log_file_is_rotated_between_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    outputs = open_outputs([f"jsonl:{path}"], pytest.fail)
    outputs.start()
    outputs.write(numbered(0, 500))
    until(lambda: path.read_bytes().count(b"\n") == 500)
    path.rename(tmp_path / "a.1")
    outputs.reopen()
    outputs.write(numbered(500, 1000))
    outputs.close()
    assert texts((tmp_path / "a.1").read_bytes().splitlines()) == [str(number) for number in range(500)]
    assert texts(path.read_bytes().splitlines()) == [str(number) for number in range(500, 1000)]


def test_the_bounds_are_documented() -> None:
    text = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    assert f"at most {sink.MAX_LINES:,} lines and {sink.MAX_BYTES >> 20} MiB" in text
    assert f"again after {sink.RETRY_SECONDS:g} seconds, at last every {sink.MAX_RETRY_SECONDS:g} seconds" in text
    assert f"no line has gone out for {CLOSE_SECONDS:g} seconds" in text
    assert f"{routes.PATIENT_CLOSE_SECONDS:g} seconds, as they run in front of somebody), at most {MAX_SECONDS:g} seconds" in text
    assert f"at most {messages.MAX_LINES:,} of them" in text


# ---- an agent whose output nobody reads ----

AGENT = """
import os, sys, time
from pathlib import Path
from bpfence.agent.agent import Agent, Settings
from bpfence.alerts.alert import Composer
from bpfence.cli.show import message_queue
from bpfence.outputs.routes import open_outputs
from tests.unit.agent.fakes import FakeKernel, write_policy

folder, count = Path(sys.argv[1]), int(sys.argv[2])
(folder / "policies").mkdir()
write_policy(folder / "policies" / "p.yaml")
settings = Settings(
    policies=(str(folder / "policies"),), pin_dir=str(folder / "pins"), keep=True, state_dir=folder / "state", ready_file=folder / "ready",
    drop_privileges=False,
)
report = message_queue()
outputs = open_outputs(["-", f"jsonl:{folder}/log"], report, close_seconds=5)
log = outputs._routes[1].sink
agent = Agent(settings, outputs, report=report, kernel=FakeKernel())
composer = Composer("h", lambda: 0)
go, bell = os.pipe()

def flood():
    os.read(go, 1)
    for first in range(0, count, 1000):
        outputs.write([composer.status("test", str(number)) for number in range(first, first + 1000)])
        for number in range(20):
            report("a message")
        while log._waiting:
            time.sleep(0.001)
    (folder / "flooded").touch()

agent.loop.on_readable(go, flood)
os.write(bell, b"!")
agent.run()
"""
FLOOD = 100_000


def ended(folder: Path, *, together: bool) -> tuple[bytes, str]:
    """What is in the pipe in the end, and on standard error, of an agent that has reloaded and stopped while nobody read."""
    reader, writer = os.pipe()
    with (folder / "errors").open("w") as errors:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        command = [sys.executable, "-c", AGENT, str(folder), str(FLOOD)]
        process = subprocess.Popen(command, stdout=writer, stderr=writer if together else errors, env=environment)
    os.close(writer)

    def there(path: Path) -> Callable[[], bool]:
        return lambda: path.exists() or process.poll() is not None

    until(there(folder / "flooded"))
    assert process.poll() is None, (folder / "errors").read_text()
    (folder / "ready").unlink()
    process.send_signal(signal.SIGHUP)
    until(there(folder / "ready"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=600) == 0, (folder / "errors").read_text()
    found = b""
    while data := os.read(reader, 1 << 20):
        found += data
    os.close(reader)
    return found, (folder / "errors").read_text()


def test_an_agent_whose_output_nobody_reads_goes_on_and_counts(tmp_path: Path) -> None:
    found, said = ended(tmp_path, together=False)
    whole = found[: found.rfind(b"\n") + 1].splitlines()
    log = (tmp_path / "log").read_bytes().splitlines()
    given = FLOOD + 3
    assert texts(log) == [str(number) for number in range(FLOOD)], "the other output has all of it"
    assert [json.loads(line)["status"] for line in log if b'"test"' not in line] == ["started", "reloaded", "stopped"]
    assert texts(whole) == [str(number) for number in range(len(whole) - 1)], "in order, from the first"
    assert said.count("output - takes no lines and its queue is full") == 1
    last = next(line for line in said.splitlines() if "before the end" in line)
    lost = int(last.split("it has lost ")[1].split()[0])
    assert len(whole) + lost == given
    counted = next((tmp_path / "state").glob("counts-*.json"))
    assert json.loads(counted.read_bytes())["outputs"] == {"-": lost}


def test_an_agent_whose_messages_nobody_reads_goes_on(tmp_path: Path) -> None:
    found, said = ended(tmp_path, together=True)
    assert said == ""
    assert found.count(b'"test"') > 0
    assert len(texts((tmp_path / "log").read_bytes().splitlines())) == FLOOD


def test_messages_begin_and_end_with_the_outputs() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        report = MessageQueue(stream, lambda text: text)
        outputs = Outputs([(encode, Fake())], report)
        report("first")
        outputs.start()
        report("second")
        outputs.close()
    assert os.read(reader, 100) == b"first\nsecond\n"
    os.close(reader)
