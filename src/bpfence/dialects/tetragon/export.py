# SPDX-License-Identifier: Apache-2.0
"""What `--export-allowlist` and its kin say in, the form of Tetragon's export with what they leave of it out.

Called by `bpfence run`. Each option is JSON, one object a line, as Tetragon's own options have it. All is read and compiled once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from bpfence.alerts.alert import Line, Rendered, whole
from bpfence.dialects.tetragon.filters import FieldFilters, FilterError, Filters, Redactions
from bpfence.dialects.tetragon.show import of_line
from bpfence.errors import UsageError

_ENCODER = msgspec.json.Encoder()


class Export:
    """A form (`outputs.forms`). UsageError where an option cannot be understood."""

    def __init__(self, allow: str = "", deny: str = "", fields: str = "", redact: str = "") -> None:
        self._filters = _made("--export-allowlist or --export-denylist", lambda: Filters(_objects(allow), _objects(deny)))
        self._fields = _made("--export-fields", lambda: FieldFilters(_objects(fields)))
        self._redactions = _made("--export-redact", lambda: Redactions(_objects(redact)))

    def __call__(self, line: Line) -> bytes:
        """A line, or nothing where it is not to be told."""
        event = of_line(whole(line), line.record if isinstance(line, Rendered) else None)
        if not self._filters.pass_(event):
            return b""
        return _ENCODER.encode(self._fields.shown(self._hidden(event)))

    def clients(self, line: Line) -> bytes:
        """The same for clients, who say themselves what they want: only what is to be hidden is."""
        return _ENCODER.encode(self._hidden(of_line(whole(line), line.record if isinstance(line, Rendered) else None)))

    def _hidden(self, event: Any) -> Any:
        return self._redactions.shown(event) if self._redactions else event


def _made(option: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except FilterError as error:
        raise UsageError(f"{option}: {error}") from None


def _objects(text: str) -> list[Any]:
    try:
        return [msgspec.json.decode(line) for line in text.splitlines() if line.strip()]
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise FilterError(f"it must be JSON, one object a line: {error}") from None
