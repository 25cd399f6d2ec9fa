# SPDX-License-Identifier: Apache-2.0
"""Lines in, records of a Kafka topic out, each acknowledged by all replicas (idempotent producer of librdkafka).

Made by `specs`; written by a `Sink` in its thread, which makes the producer, so that librdkafka's threads have its privileges. A line
leaves the sink's queue when the broker has acknowledged it. Lines under way are not produced again while the producer lives, however long
the broker is away; when it ends (the agent's end, SIGHUP, a fatal error) with lines under way, those may come twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from bpfence.alerts.alert import Alert, Line, whole
from bpfence.errors import UsageError
from bpfence.outputs.forms import Form
from bpfence.outputs.places import BusyError, PartlyError

if TYPE_CHECKING:
    from confluent_kafka import Producer

SECONDS: Final = 10.0
"""For how long the broker may acknowledge nothing."""
MAX_BATCH: Final = 1000
"""Lines that are under way at most."""
_TAKEN: Final = ""
_TOO_LONG: Final = "the broker finds a batch too long"
_OPTIONS: Final[Mapping[str, Any]] = {
    "enable.idempotence": True, "acks": "all", "message.timeout.ms": 0, "linger.ms": 1, "queue.buffering.max.kbytes": 65536,
    "compression.type": "lz4", "socket.keepalive.enable": True, "client.id": "bpfence", "topic.metadata.propagation.max.ms": 10_000,
    "reconnect.backoff.max.ms": 2000,
}  # fmt: skip


def load() -> Any:
    """The library. UsageError where it is not installed."""
    try:
        import confluent_kafka
    except ImportError as error:
        raise UsageError(f"outputs `kafka:` need the library confluent-kafka: pip install 'bpfence[kafka]' ({error})") from error
    return confluent_kafka


def by_workload(form: Form, host: str) -> Form:
    """A form with the pod (namespace/name) or the container's id before it, and a zero byte; of what runs in neither, the host."""

    def made(line: Line) -> bytes:
        shown = form(line)
        return _workload(line, host).encode("utf-8", "backslashreplace") + b"\0" + shown if shown else b""

    return made


def by_host(form: Form, host: str) -> Form:
    """A form with the host before it."""
    before = host.encode("utf-8", "backslashreplace") + b"\0"

    def made(line: Line) -> bytes:
        shown = form(line)
        return before + shown if shown else b""

    return made


def _workload(line: Line, host: str) -> str:
    alert = whole(line)
    if isinstance(alert, Alert) and alert.k8s is not None:
        return f"{alert.k8s.get('namespace', '')}/{alert.k8s.get('pod', '')}"
    if isinstance(alert, Alert) and alert.container is not None:
        return str(alert.container["id"])
    return host


class Kafka:
    """A topic. Lines have their key before them, and a zero byte. `options`: more of librdkafka's, asked for at each connection."""

    def __init__(self, name: str, servers: str, topic: str, options: Callable[[], Mapping[str, Any]]) -> None:
        self.name = name
        self._servers, self._topic, self._options = servers, topic, options
        self._library = load()
        self._producer: Producer | None = None
        self._under_way: list[str | None] = []
        """What came of the lines that the producer has: None, not known yet; "", acknowledged; else why not."""
        self._never: set[int] = set()
        self._fatal = False
        self._fault = ""
        self._singly = 0
        """How many lines are produced one by one: a broker that finds a batch too long says no to all of it."""

    def write(self, lines: Sequence[bytes]) -> int:
        """Produce lines, and wait until all of them are acknowledged. The first lines are those under way, where there are any."""
        producer = self._connected()
        if not self._under_way:
            self._begin(producer, lines[: 1 if self._singly else MAX_BATCH])
        until = time.monotonic() + SECONDS
        while None in self._under_way and not self._fatal and (left := until - time.monotonic()) > 0:
            producer.poll(min(left, 1.0))
        results, never = self._under_way, self._never
        if self._fatal:
            self.close()  # what is under way then is known no more
            results = [result if result is not None else "the producer has failed" for result in results]
        elif None in results:
            raise BusyError(f"{results.count(None)} lines are not acknowledged{self._fault and ': '}{self._fault}")
        self._under_way, self._never = [], set()
        self._singly = max(0, self._singly - 1)
        if len(results) > 1 and _TOO_LONG in results:
            self._singly = len(results)
        taken = [number for number, result in enumerate(results) if result == _TAKEN]
        if len(taken) == len(results):
            self._fault = ""
            return len(results)
        reason = next(result for result in results if result)
        raise PartlyError(count=len(results), taken=taken, refused=sorted(never), reason=reason)

    def _connected(self) -> Producer:
        if self._producer is None:
            quiet = logging.getLogger("bpfence.kafka")  # librdkafka would write to standard error
            quiet.propagate = False
            if not quiet.handlers:
                quiet.addHandler(logging.NullHandler())
            given = {**_OPTIONS, "bootstrap.servers": self._servers, "error_cb": self._failed, **self._options()}
            try:
                self._producer = self._library.Producer(given, logger=quiet)
            except self._library.KafkaException as error:
                raise OSError(None, _plain(error)) from error
        return self._producer

    def _begin(self, producer: Producer, batch: Sequence[bytes]) -> None:
        results: list[str | None] = [None] * len(batch)
        never: set[int] = set()
        self._under_way, self._never = results, never
        for number, line in enumerate(batch):
            key, _, value = line.partition(b"\0")
            try:
                # Callbacks know the batch they belong to: one of a producer that has ended changes nothing.
                producer.produce(self._topic, value, key, on_delivery=partial(self._delivered, results, never, number))
            except (self._library.KafkaException, BufferError) as error:
                self._note(results, never, number, error.args[0] if isinstance(error, self._library.KafkaException) else None)

    def _delivered(self, results: list[str | None], never: set[int], number: int, error: Any, _message: Any) -> None:
        if error is None:
            results[number] = _TAKEN
        else:
            self._note(results, never, number, error, told=True)

    def _note(self, results: list[str | None], never: set[int], number: int, error: Any, *, told: bool = False) -> None:
        """Note a failure. `told`: by the broker."""
        codes = self._library.KafkaError
        results[number] = _plain(error) if error is not None else "librdkafka's queue is full"
        if error is not None and error.code() == codes.MSG_SIZE_TOO_LARGE and told and len(results) > 1:
            results[number] = _TOO_LONG
        elif error is not None and error.code() in (codes.MSG_SIZE_TOO_LARGE, codes.INVALID_RECORD):
            never.add(number)
        self._fatal |= error is not None and error.fatal()

    def _failed(self, error: Any) -> None:
        """A broker cannot be reached, say."""
        self._fault = _plain(error)
        self._fatal |= error.fatal()

    def wait(self, seconds: float) -> None:
        """Never needed: a write waits by itself."""

    def reopen(self) -> None:
        """Connect anew with the next line; certificates and keys are read again."""
        self.close()

    def close(self) -> None:
        """End the producer. What is under way is produced again by the next one."""
        producer, self._producer = self._producer, None
        self._under_way, self._never, self._fatal = [], set(), False
        if producer is not None:
            producer.purge()
            producer.poll(0)


def _plain(error: Any) -> str:
    error = error.args[0] if isinstance(error, Exception) and error.args else error
    text = error.str() if hasattr(error, "str") else str(error)
    return "".join(char for char in text[:200] if " " <= char <= "~") or "it said nothing"
