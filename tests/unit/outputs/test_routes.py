# SPDX-License-Identifier: Apache-2.0
"""Which outputs a command line means, and that a broken one hurts nobody."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest

from bpfence.alerts.alert import Composer, Line
from bpfence.errors import UsageError
from bpfence.outputs.jsonl import JsonLinesFile, JsonLinesStream
from bpfence.outputs.routes import Outputs, open_outputs, with_format
from bpfence.outputs.terminal import Terminal

LINE = Composer("h", lambda: 0).status("test", "text")


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


class Fragile:
    """An output that works, or not."""

    def __init__(self, name: str = "fragile") -> None:
        self.name = name
        self.broken: OSError | None = None
        self.lines: list[Line] = []

    def write(self, lines: Sequence[Line]) -> None:
        if self.broken:
            raise self.broken
        self.lines += lines

    def reopen(self) -> None:
        if self.broken:
            raise self.broken

    close = reopen


def test_failures_are_counted_and_reported_once() -> None:
    said: list[str] = []
    bad, good = Fragile("bad"), Fragile("good")
    outputs = Outputs([bad, good], said.append)
    bad.broken = OSError(28, "No space left on device")
    for _ in range(3):
        outputs.write([LINE, LINE])
    outputs.reopen()
    assert len(said) == 1
    assert "No space left" in said[0]
    assert outputs.lost_lines() == {"bad": 6}
    assert len(good.lines) == 6
    bad.broken = None
    outputs.write([LINE])
    assert "works again; 6 lines" in said[1]
    bad.broken = BrokenPipeError(32, "Broken pipe")
    outputs.close()
    assert len(said) == 3


def test_nothing_to_write_is_not_written() -> None:
    fragile = Fragile()
    fragile.broken = OSError("must not be asked")
    outputs = Outputs([fragile], pytest.fail)
    outputs.write([])
    assert outputs.lost_lines() == {}


@pytest.mark.parametrize(
    ("specs", "terminal", "kinds"),
    [
        ((), True, [Terminal]), ((), False, [JsonLinesStream]), (("rich",), False, [JsonLinesStream]), (("-",), True, [JsonLinesStream]),
        (("rich", "-", "-"), True, [Terminal, JsonLinesStream]),
    ],
)  # fmt: skip
def test_specs(specs: tuple[str, ...], terminal: bool, kinds: list[type]) -> None:
    outputs = open_outputs(specs, pytest.fail, stream=Tty() if terminal else io.StringIO())
    assert [type(output) for output in outputs._outputs] == kinds


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
    outputs.close()
    assert isinstance(outputs._outputs[0], JsonLinesFile)
    assert (tmp_path / "a:b.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize("spec", ["jsonl:", "nope", "jsonl", "jsonl:/nonexistent/folder/file", "unix:/x"])
def test_bad_specs(spec: str) -> None:
    with pytest.raises(UsageError, match=spec.partition(":")[0]):
        open_outputs([spec], pytest.fail)
