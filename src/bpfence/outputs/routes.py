# SPDX-License-Identifier: Apache-2.0
"""Lines in, files, terminals and standard output out.

Called by the agent with batches of lines. `open_outputs` reads what `--output` says:

    jsonl:PATH   JSON lines appended to a file        -      JSON lines on standard output
    rich         the terminal view                    auto   rich on a terminal, JSON lines elsewhere
    falco        Falco's JSON lines on standard output      falco-text   Falco's text lines
    tetragon     JSON lines in the form of Tetragon's export
    kubearmor    KubeArmor's JSON lines            cef, ocsf   what security information systems read
    unix:PATH, syslog:…, https://…   see `specs`, as all that the configuration file says of outputs

A route is a form and a sink: the form makes bytes of a line, in the thread that has the line, and the sink writes them in its own. So no
output can stop the agent, and what one does not take is counted and told (see `sink`). Enforcement lives in the kernel.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

from bpfence.alerts.alert import Composer, Line, host_name
from bpfence.errors import UsageError
from bpfence.events.values import escape
from bpfence.outputs import messages
from bpfence.outputs.forms import FORMS, Chosen, Form
from bpfence.outputs.messages import MessageQueue
from bpfence.outputs.places import File, Place
from bpfence.outputs.sink import MAX_BYTES, MAX_LINES, Queue, Sink
from bpfence.outputs.specs import FORMATS, Opened, Spec, opened

CLOSE_SECONDS: Final = 0.5
"""For how many seconds, at the end, an output may take no line."""
MAX_CLOSE_SECONDS: Final = 10.0
"""For how many seconds, at the end, lines may go on being written."""
PATIENT_CLOSE_SECONDS: Final = 10.0
"""CLOSE_SECONDS of a command in the foreground: nobody expects it to answer signals after its work is done."""


class OutputRoute(NamedTuple):
    """One way out."""

    form: Chosen
    sink: Sink


class Outputs:
    """Several outputs as one, none of which makes the caller wait. `report` takes messages for people, and must not wait either.

    Nothing is written before `start`, and nothing is lost: threads must not begin before privileges are given up. Methods may be called by
    any thread.
    """

    def __init__(
        self, outputs: Iterable[tuple[Chosen, Place] | Opened], report: Callable[[str], None], *, close_seconds: float | None = None
    ) -> None:
        self._report = report
        self._close_seconds = CLOSE_SECONDS if close_seconds is None else close_seconds
        self._composer = Composer(host_name(), time.time_ns)
        self._routes = tuple(self._route(*output) for output in outputs)
        self._started = False
        self._fault_told = False

    def _route(self, form: Chosen, place: Place, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES) -> OutputRoute:
        return OutputRoute(form, Sink(place, self._report, self._caught_up, max_lines=max_lines, max_bytes=max_bytes))

    def start(self) -> None:
        """Begin to write, by threads with the privileges of the caller. Further calls do nothing."""
        if self._started:
            return
        if isinstance(self._report, MessageQueue):
            self._report.start(self._caught_up)
        for route in self._routes:
            route.sink.start()
        self._started = all(route.sink.started for route in self._routes)

    def write(self, lines: Sequence[Line]) -> None:
        """Have lines written to all of them, in order."""
        if not lines:
            return
        made: dict[Chosen, list[bytes]] = {}
        for form, sink in self._routes:
            shown = made.get(form)
            if shown is None:
                shown = made[form] = self._shown(form, lines)
            if shown:
                sink.put(shown)

    def _shown(self, form: Chosen, lines: Sequence[Line]) -> list[bytes]:
        """Lines in one form. A line that cannot be shown is a bug; it costs that line in that form and nothing else."""
        shown = []
        for line in lines:
            try:
                if made := form(line):  # a form leaves lines out that it has nothing to say of
                    shown.append(made)
            except Exception as error:
                for route in self._routes:
                    if route.form is form:
                        route.sink.dropped += 1
                if not self._fault_told:
                    self._fault_told = True
                    self._report(f"a line cannot be shown, which is a bug in bpfence: {type(error).__name__}: {error}; please report it")
        return shown

    def _caught_up(self, late: Sink, missing: int) -> None:
        """Tell all outputs that one of them lacks lines, now that it takes lines again. Called by that output's thread."""
        text = f"{missing} lines are missing from output {late.name}: it did not take them in time"
        line = self._composer.status("dropped", text, severity="high", output=escape(late.name), dropped=missing)
        for form, sink in self._routes:
            for shown in self._shown(form, [line]):
                sink.put([shown], always=sink is late)

    def reopen(self) -> None:
        """Log rotation for all of them, after the lines that were written before. Each tells whether it worked."""
        for route in self._routes:
            route.sink.reopen()

    def close(self) -> None:
        """Close all of them after the lines that were written before. What they do not take in time is dropped and told."""
        for route in self._routes:
            route.sink.finish()
        for route in self._routes:
            if left := route.sink.close(self._close_seconds, MAX_CLOSE_SECONDS):
                self._report(
                    f"output {route.sink.name} did not take the last {left} lines before the end; it has lost {route.sink.dropped} in all"
                )
        if isinstance(self._report, MessageQueue):
            self._report.close()

    def folders(self) -> tuple[Path, ...]:
        """Folders that files are made anew in after a rotation."""
        places = (route.sink.place for route in self._routes)
        return tuple(dict.fromkeys(place.folder for place in places if isinstance(place, File)))

    def queues(self) -> list[Queue]:
        """How it stands with each of them."""
        return [route.sink.queue() for route in self._routes]

    def lost_lines(self) -> dict[str, int]:
        """Lines that are not in an output and will not be, by the output's name, where there are any."""
        dropped = {route.sink.name: route.sink.dropped for route in self._routes}
        if isinstance(self._report, MessageQueue):
            dropped[messages.NAME] = self._report.dropped
        return {name: lost for name, lost in dropped.items() if lost}


def with_format(specs: Sequence[str | Spec], form: str) -> tuple[str | Spec, ...]:
    """The outputs where standard output shows `form`: it takes the place of `auto` and `-`, beside files. UsageError beside `rich`."""
    if form == "native":
        return tuple(specs)
    if clashing := [spec for spec in specs if spec in ("rich", *FORMATS) and spec != form]:
        raise UsageError(f"--format {form} and --output {clashing[0]} both say what standard output shows: leave one out")
    return *(spec for spec in specs if spec not in ("auto", "-", form)), form


def open_outputs(
    specs: Sequence[str | Spec],
    report: Callable[[str], None],
    *,
    stream: IO[str] | None = None,
    close_seconds: float | None = None,
    more: Iterable[tuple[Form, Place]] = (),
    forms: Mapping[str, Callable[[], Form]] = FORMS,
) -> Outputs:
    """The outputs that `specs` name, none twice; none at all means `auto`. `stream` is standard output; `more`: outputs that were made
    already; `forms`: the forms by name. UsageError on a bad spec."""
    stream = stream or sys.stdout
    named: dict[str, Opened] = {}
    for spec in dict.fromkeys(specs or ("auto",)):
        made = opened(Spec(to=spec) if isinstance(spec, str) else spec, stream, report, forms)
        if made.place.name in named:
            made.place.close()
            raise UsageError(f"two outputs have the name {made.place.name!r}: give one of them another `name` in the configuration file")
        named[made.place.name] = made
    return Outputs([*named.values(), *more], report, close_seconds=close_seconds)
