# SPDX-License-Identifier: Apache-2.0
"""Lines in, requests of log stores out: Loki's push, and the _bulk of Elasticsearch and OpenSearch.

Made by `specs`; they are webhooks whose requests and answers are those of the store. Of a line each wants more than its bytes, so there is
a form for each that puts it around another form: what Loki sorts by, and the time that a data stream asks for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from bpfence.alerts.alert import Line
from bpfence.outputs.forms import Form, head, nanoseconds
from bpfence.outputs.places import PartlyError
from bpfence.outputs.webhook import NEVER, Answer, Webhook

LOKI_PATH: Final = "/loki/api/v1/push"
BULK: Final = "/_bulk?filter_path=errors,items.*.status,items.*.error.type,items.*.error.reason"
"""The path behind the index, and what is wanted of the answer."""
MAX_BULK_ANSWER: Final = 16 << 20
THERE: Final = frozenset((200, 201, 409))
"""Of an item: it is stored, or was before. Ids are hashes of the lines, so a conflict is with the same line."""
_NEWLINE: Final = b"\n"


def for_loki(form: Form, host: str) -> Form:
    """A form as an entry of Loki's push: the labels of its stream, a zero byte, and time and line. `host`: this host's name, "" to leave
    it out."""

    def made(line: Line) -> bytes:
        shown = form(line)
        if not shown:
            return b""
        kind, severity, moment = head(line)
        labels = {"service_name": "bpfence", **({"host": host} if host else {}), "kind": kind, "severity": severity}
        entry = [str(nanoseconds(moment)), shown.decode("utf-8", "backslashreplace")]
        return msgspec.json.encode(labels) + b"\0" + msgspec.json.encode(entry)

    return made


class Loki(Webhook):
    """Loki's push, as JSON. Entries that it has already, of the same labels, time and line, it does not store again."""

    def content(self, batch: Sequence[bytes]) -> tuple[bytes, str]:
        """Entries by their streams, in order."""
        streams: dict[bytes, list[bytes]] = {}
        for line in batch:
            labels, _, entry = line.partition(b"\0")
            streams.setdefault(labels, []).append(entry)
        told = [b'{"stream":%b,"values":[%b]}' % (labels, b",".join(entries)) for labels, entries in streams.items()]
        return b'{"streams":[%b]}' % b",".join(told), "application/json"


def for_bulk(form: Form) -> Form:
    """A form whose lines are JSON objects, as documents: with the time where data streams look for it."""

    def made(line: Line) -> bytes:
        shown = form(line)
        return b'{"@timestamp":%b,%b' % (json.dumps(head(line)[2]).encode(), shown[1:]) if shown else b""

    return made


class _Error(msgspec.Struct):
    type: str = ""
    reason: str | None = None


class _Item(msgspec.Struct):
    status: int
    error: _Error | None = None


class _Bulk(msgspec.Struct):
    errors: bool
    items: list[dict[str, _Item]] = []


class Bulk(Webhook):
    """The _bulk of Elasticsearch and OpenSearch: documents are created, each under the hash of its line, so none is there twice."""

    most = MAX_BULK_ANSWER

    def content(self, batch: Sequence[bytes]) -> tuple[bytes, str]:
        """An action and a document for each line."""
        parts: list[bytes] = []
        for line in batch:
            parts += (b'{"create":{"_id":"%b"}}' % hashlib.sha256(line).hexdigest()[:32].encode(), line)
        return _NEWLINE.join(parts) + _NEWLINE, "application/x-ndjson"

    def taken(self, answer: Answer, batch: Sequence[bytes]) -> int:
        """Item by item: stored, refused for ever, or to be sent again."""
        try:
            told = msgspec.json.decode(answer.content, type=_Bulk)
        except (msgspec.DecodeError, ValueError) as error:
            raise OSError(None, "the answer is not that of a _bulk") from error
        if not told.errors:
            return len(batch)
        items = [next(iter(item.values()), None) for item in told.items]
        if len(items) != len(batch) or None in items:
            raise OSError(None, f"the answer tells of {len(items)} documents, not of {len(batch)}")
        found = [(number, item) for number, item in enumerate(items) if item is not None]
        bad = [item for _, item in found if item.status not in THERE]
        raise PartlyError(
            count=len(batch),
            taken=[number for number, item in found if item.status in THERE],
            refused=[number for number, item in found if item.status in NEVER],
            reason=_why(bad[0]) if bad else "",
        )


def _why(item: _Item) -> str:
    error: Any = item.error or _Error()
    told = f"{item.status} {error.type}: {error.reason or ''}"[:200]
    return "of a document the answer was " + "".join(char for char in told if " " <= char <= "~")
