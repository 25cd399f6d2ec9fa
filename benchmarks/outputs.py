#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Alerts in, what each form and each output costs out: docs/benchmarks-outputs.md.

Run by hand: `python -m benchmarks.outputs [--write]`. Alerts are those of a native rule that denies, as the agent makes them. Rates are of
processor time of the process that sends, all its threads together; the other side is a process of its own that reads, answers and keeps
nothing. Latency is from the moment at which the outputs are given an alert to that at which the other side has read it.
"""

from __future__ import annotations

import argparse
import http.server
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bpfence.alerts.alert import Line
from bpfence.outputs.forms import FORMS
from bpfence.outputs.routes import open_outputs
from bpfence.outputs.specs import spec_of
from tests.unit.outputs.test_choice import alert

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "benchmarks-outputs.md"
COUNT: Final = 5000
ROUNDS: Final = 3
PER_SECOND: Final = 1000
SECONDS: Final = 10
TEXT: Final = """# Benchmarks of outputs

Measured on one machine by `python -m benchmarks.outputs --write`; what counts is the relation of the figures.

## Forms

Alerts a second that one core puts into a form. The native form of an alert is made with the alert itself; others are made when an output
wants them.

{forms}

## Outputs

Alerts a second for one core, in the native form: the form and all else that the sending process does; the other side is another process.
Batches are of 100 lines where there are batches. Kafka was not measured.

{sinks}

## Latency

To a unix socket, {rate:,} alerts a second, each given by itself, for {seconds} seconds: half of them were read by the other side within
{median:.2f} ms, 99 % within {p99:.2f} ms, the slowest within {most:.2f} ms. The machine had other work: a load of {load:.1f} on
{processors} processors. That is what the queue, its thread and the socket cost; from the act in the kernel on:
[benchmarks](benchmarks.md#from-the-hook-to-the-output).
"""


def some_alerts() -> list[Line]:
    """COUNT alerts, some of them the same."""
    made = [alert(severity="high") for _ in range(50)]
    return made * (COUNT // len(made))


def form_rates() -> dict[str, float]:
    """Alerts a second by form."""
    rates = {}
    lines = some_alerts()
    for name in (name for name in FORMS if name != "native"):  # that was made with the alert
        form = FORMS[name]()
        best = 0.0
        for _ in range(ROUNDS):
            began = time.process_time()
            for line in lines:
                form(line)
            best = max(best, COUNT / (time.process_time() - began))
        rates[name] = best
    return rates


class Other:
    """The other side, as a process: `kind` is unix, tcp or http. `place` is where it listens."""

    def __init__(self, kind: str, place: str = "") -> None:
        command = [sys.executable, "-m", "benchmarks.outputs", "--other", kind, "--place", place]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def times(self) -> list[int]:
        """When lines were read, in ns of the monotonic clock, once the connection has ended."""
        return [int(word) for word in self._process.communicate()[0].split()]

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.communicate()


def rate(spec: Any, lines: list[Line]) -> float:
    """Alerts a second that an output takes, by processor time of this process."""
    best = 0.0
    for _ in range(ROUNDS):
        outputs = open_outputs([spec_of(spec)], print, close_seconds=60)
        outputs.start()
        began = time.process_time()
        for first in range(0, len(lines), 100):
            outputs.write(lines[first : first + 100])
        while outputs.queues()[0].written < len(lines):
            time.sleep(0.001)
        best = max(best, len(lines) / (time.process_time() - began))
        outputs.close()
    return best


def sink_rates() -> dict[str, float]:
    """Alerts a second by output."""
    lines = some_alerts()
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        found["jsonl"] = rate(f"jsonl:{name}/a", lines)
        for kind, place, spec in (("unix", f"{name}/s", f"unix:{name}/s"), ("tcp", "", "syslog:tcp:127.0.0.1:{port}")):
            other = Other(kind, place)
            found["unix" if kind == "unix" else "syslog:tcp"] = rate(spec.format(port=other.port), lines)
            other.end()
    other = Other("http")
    url = f"http://127.0.0.1:{other.port}"
    for named, to in (("http", f"{url}/"), ("loki", f"loki:{url}"), ("elastic", f"elastic:{url}/bpfence"), ("otlp", f"otlp:{url}")):
        found[named] = rate(to, lines)
    other.end()
    return found


def latencies() -> list[float]:
    """Milliseconds from giving an alert to its being read, in order of size."""
    line = alert(severity="high")
    with tempfile.TemporaryDirectory() as name:
        other = Other("times", f"{name}/s")
        outputs = open_outputs([f"unix:{name}/s"], print, close_seconds=60)
        outputs.start()
        given = []
        began = time.monotonic()
        for number in range(PER_SECOND * SECONDS):
            time.sleep(max(0.0, began + number / PER_SECOND - time.monotonic()))
            given.append(time.monotonic_ns())
            outputs.write([line])
        outputs.close()
        read = other.times()
    assert len(read) == len(given)
    return sorted((there - here) / 1e6 for here, there in zip(given, read, strict=True))


class _Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        """Say yes, as the store that is asked does it."""
        self.rfile.read(int(self.headers["Content-Length"]))
        content = b'{"errors":false}' if "_bulk" in self.path else b""
        self.send_response(200 if content or "logs" in self.path else 204)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def be_other(kind: str, place: str) -> None:
    """Read what comes, one connection after the other; of `times` the first one alone, and print when each line came."""
    if kind == "http":
        server = http.server.HTTPServer(("127.0.0.1", 0), _Answers)
        print(server.server_address[1], flush=True)
        server.serve_forever()
    listener = socket.socket(socket.AF_INET if kind == "tcp" else socket.AF_UNIX)
    listener.bind(("127.0.0.1", 0) if kind == "tcp" else place)
    listener.listen()
    print(listener.getsockname()[1] if kind == "tcp" else 0, flush=True)
    while True:
        connection, _ = listener.accept()
        times: list[int] = []
        while part := connection.recv(1 << 18):
            if kind == "times":
                times += [time.monotonic_ns()] * part.count(b"\n")
        connection.close()
        if kind == "times":
            print(*times)
            return


def table(title: str, rates: Mapping[str, float]) -> str:
    """Figures as a table."""
    rows = [f"| `{name}` | {round(value, -2):,.0f} |" for name, value in sorted(rates.items(), key=lambda item: -item[1])]
    return "\n".join([f"| {title} | alerts a second |", "|---|---|", *rows])


def main() -> int:
    """Measure; print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    parser.add_argument("--other", default="", help=argparse.SUPPRESS)
    parser.add_argument("--place", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.other:
        be_other(given.other, given.place)
        return 0
    waits = latencies()
    load, _, _ = os.getloadavg()
    made = TEXT.format(
        forms=table("form", form_rates()),
        sinks=table("output", sink_rates()),
        rate=PER_SECOND,
        load=load,
        processors=os.cpu_count(),
        seconds=SECONDS,
        median=waits[len(waits) // 2],
        p99=waits[len(waits) * 99 // 100],
        most=waits[-1],
    )
    if given.write:
        PAGE.write_text(made)
    print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
