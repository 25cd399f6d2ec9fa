# SPDX-License-Identifier: Apache-2.0
"""Lines in, JSON lines in a file or a stream out. Made by `open_outputs`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from bpfence.alerts.alert import Line, encode
from bpfence.host.lines import LinesFile, LineWriter


class JsonLinesFile(LinesFile):
    """`jsonl:PATH`."""

    def __init__(self, path: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(path, monotonic)
        self.name = f"jsonl:{path}"

    def write(self, lines: Sequence[Line]) -> None:
        """Append lines; to the file that is now at the path, looked at once a second."""
        self.append(encode(line) for line in lines)


class JsonLinesStream:
    """`-`: standard output, which is not ours to close or open anew."""

    def __init__(self, stream: IO[str], name: str = "-") -> None:
        self.name = name
        self._stream = stream
        self._writer = LineWriter()

    def write(self, lines: Sequence[Line]) -> None:
        """Write lines, at once."""
        self._stream.flush()
        try:
            descriptor = self._stream.fileno()
        except OSError:
            # A stream without a descriptor (io.UnsupportedOperation): a test's.
            self._stream.write("".join(encode(line).decode() + "\n" for line in lines))
            return
        self._writer.write(descriptor, (encode(line) for line in lines))

    def reopen(self) -> None:
        """There is nothing to open."""

    def close(self) -> None:
        """Not ours to close."""
