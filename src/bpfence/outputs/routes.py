# SPDX-License-Identifier: Apache-2.0
"""Lines in, files and terminals out.

Called by the agent with batches of lines. `open_outputs` reads what `--output` says:

    jsonl:PATH   JSON lines appended to a file        -      JSON lines on standard output
    rich         the terminal view                    auto   rich on a terminal, JSON lines elsewhere
    falco        Falco's JSON lines on standard output      falco-text   Falco's text lines

An output that fails (disk full, reader gone) is counted and reported once; it never stops the agent, and enforcement lives in the kernel.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Protocol

import msgspec

from bpfence.alerts.alert import Line
from bpfence.errors import UsageError

KINDS = ("auto", "-", "rich", "jsonl:PATH", "falco", "falco-text")
FORMATS = ("native", "falco", "falco-text")


class Output(Protocol):
    """One place that lines go to. `write` and `reopen` may raise OSError."""

    name: str

    def write(self, lines: Sequence[Line]) -> None:
        """Write whole lines, in order."""

    def reopen(self) -> None:
        """Take up what may have been moved away (log rotation)."""

    def close(self) -> None:
        """Let go; OSError is possible here too."""


class Failures(msgspec.Struct):
    """What one output could not write: batches are not retried, so `lines` are gone from it."""

    lines: int = 0
    last: str = ""
    reported: bool = False


class Outputs:
    """Several outputs as one. `report` gets the first failure of each, and the first after it worked again."""

    def __init__(self, outputs: Iterable[Output], report: Callable[[str], None]) -> None:
        self._outputs = tuple(outputs)
        self._report = report
        self.failures = {output.name: Failures() for output in self._outputs}

    def write(self, lines: Sequence[Line]) -> None:
        """Write to all of them; a failing one does not keep lines from the others."""
        if not lines:
            return
        for output in self._outputs:
            failures = self.failures[output.name]
            try:
                output.write(lines)
            except (OSError, ValueError) as error:
                failures.lines += len(lines)
                self._failed(output, error)
            else:
                if failures.reported:
                    self._report(f"output {output.name} works again; {failures.lines} lines were lost so far")
                failures.reported = False

    def _failed(self, output: Output, error: Exception) -> None:
        failures = self.failures[output.name]
        failures.last = str(error)
        if not failures.reported:
            self._report(f"output {output.name} failed: {error}; its lines are lost until it works again, enforcement goes on")
            failures.reported = True

    def reopen(self) -> None:
        """Log rotation for all of them."""
        for output in self._outputs:
            try:
                output.reopen()
            except (OSError, ValueError) as error:
                self._failed(output, error)

    def close(self) -> None:
        """Let go of all of them."""
        for output in self._outputs:
            try:
                output.close()
            except (OSError, ValueError) as error:
                self._failed(output, error)

    def folders(self) -> tuple[Path, ...]:
        """Folders that files are made anew in after a rotation."""
        from bpfence.outputs.jsonl import JsonLinesFile  # imports Output

        return tuple(dict.fromkeys(output.folder for output in self._outputs if isinstance(output, JsonLinesFile)))

    def lost_lines(self) -> dict[str, int]:
        """Lines that could not be written, by output, where there are any."""
        return {name: failures.lines for name, failures in self.failures.items() if failures.lines}


def with_format(specs: Sequence[str], form: str) -> tuple[str, ...]:
    """The outputs where standard output shows `form`: it takes the place of `auto` and `-`, beside files. UsageError beside `rich`."""
    if form == "native":
        return tuple(specs)
    if clashing := [spec for spec in specs if spec in ("rich", *FORMATS) and spec != form]:
        raise UsageError(f"--format {form} and --output {clashing[0]} both say what standard output shows: leave one out")
    return *(spec for spec in specs if spec not in ("auto", "-", form)), form


def open_outputs(specs: Sequence[str], report: Callable[[str], None], *, stream: IO[str] | None = None) -> Outputs:
    """The outputs that `specs` name, none twice; none at all means `auto`. `stream` is standard output. UsageError on a bad spec."""
    from bpfence.dialects.falco.show import FalcoStream
    from bpfence.outputs.jsonl import JsonLinesFile, JsonLinesStream  # these import Output
    from bpfence.outputs.terminal import Terminal

    stream = stream or sys.stdout
    made: list[Output] = []
    for spec in dict.fromkeys(specs or ("auto",)):
        kind, _, place = spec.partition(":")
        if kind == "jsonl" and place:
            try:
                made.append(JsonLinesFile(Path(place)))
            except OSError as error:
                raise UsageError(f"output {spec!r} cannot be opened: {error.strerror or error}") from error
        elif spec in ("falco", "falco-text"):
            made.append(FalcoStream(stream, spec))
        elif spec == "-" or (spec in ("auto", "rich") and not stream.isatty()):
            made.append(JsonLinesStream(stream, spec))
        elif spec in ("auto", "rich"):
            made.append(Terminal(stream))
        else:
            raise UsageError(f"unknown output {spec!r}; known are {', '.join(KINDS)}")
    return Outputs(made, report)
