# SPDX-License-Identifier: Apache-2.0
"""Lines of bytes in, written in order to one place by a thread of its own out; the caller never waits.

Made by `Outputs` and `MessageQueue`. Lines wait in a queue that is bounded in lines and bytes. What finds no room is dropped and counted:
`report` tells it when it begins, and when the place takes lines again `caught_up` gets the number, to make a status line of it. A place
that fails is tried again at growing intervals while its lines wait. Lines stay in the queue until they are written, so nothing is lost
while there is room, and a line that was cut short is written again.

The thread begins with `start`, not before: privileges, seccomp filters and Landlock belong to a thread, and the threads that it starts
inherit them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from bpfence.outputs.places import BusyError, PartlyError, Place, RefusedError

MAX_LINES: Final = 65_536
MAX_BYTES: Final = 16 << 20
"""What a queue holds at most, newlines included."""
CHUNK_BYTES: Final = 256 << 10
"""How many bytes are given to the place at once, unless a single line is longer."""
RETRY_SECONDS: Final = 0.25
MAX_RETRY_SECONDS: Final = 4.0
"""After how many seconds a place that fails is tried again: at first, and after it has failed often."""
MAX_AFTER_SECONDS: Final = 300.0
"""For how many seconds a place may ask not to be tried again."""
REFUSED_SECONDS: Final = 60.0
"""How often lines that a place refuses are told."""
TELL_SECONDS: Final = 1.0
"""How often dropped lines are told while lines go out."""
ROOM_SECONDS: Final = 1.0
"""For how many seconds the thread waits for room before it checks whether it is still wanted."""
WRITE_SECONDS: Final = 0.1
"""For how many seconds, at the end, a write that is under way is waited for."""


class Queue(NamedTuple):
    """Of one output: lines that wait, and their bytes; lines that were written and that were dropped until now."""

    name: str
    lines: int
    size: int
    written: int
    dropped: int


class Sink:
    """A place, its queue and its thread. `report` takes messages for people and must not wait.

    `caught_up` is called in the sink's thread with the number of lines that are missing. It should `put` a line that tells it, with
    `always`.
    """

    def __init__(
        self,
        place: Place,
        report: Callable[[str], None],
        caught_up: Callable[[Sink, int], None],
        *,
        max_lines: int = MAX_LINES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.name = place.name
        self.place = place
        self.dropped = self.written = 0
        self._report = report
        self._caught_up = caught_up
        self._max_lines, self._max_bytes = max_lines, max_bytes
        self._thread: threading.Thread | None = None
        # All that follows is guarded by the lock of this condition.
        self._changed = threading.Condition(threading.Lock())
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._reopen_after: int | None = None
        self._untold = 0
        self._tell_at = 0.0
        self._works = True
        self._full_told = False
        self._failing = self._failure_told = False
        self._retry_at = 0.0
        self._pause = RETRY_SECONDS
        self._writing = False
        self._refused_at = float("-inf")
        self._progress = 0.0
        self._finished = 0.0
        self._finishing = self._tried_last = self._abandoned = self._ended = False

    # ---- whoever gives lines ----

    def queue(self) -> Queue:
        """How it stands with its lines now."""
        with self._changed:
            return Queue(self.name, len(self._waiting), self._size, self.written, self.dropped)

    @property
    def started(self) -> bool:
        """Whether there is a thread."""
        return self._thread is not None

    def start(self) -> None:
        """Begin to write, with the lines that were put before. Where no thread can be started now, the next call tries again."""
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="bpfence-output", daemon=True)
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._thread = thread

    def put(self, lines: Sequence[bytes], *, always: bool = False) -> None:
        """Have lines written, given without their newlines. What finds no room is dropped; with `always` there always is room."""
        size = sum(map(len, lines)) + len(lines)
        with self._changed:
            if self._ended:
                self.dropped += len(lines)
                return
            if always or (len(self._waiting) + len(lines) <= self._max_lines and self._size + size <= self._max_bytes):
                self._waiting.extend(lines)
                self._size += size
            else:
                self._put_some(lines)
            begins = bool(self._untold) and not self._full_told
            self._full_told |= begins
            self._changed.notify_all()
        if begins:
            self._report(f"output {self.name} takes no lines and its queue is full: what comes now is dropped; enforcement goes on")

    def _put_some(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            if len(self._waiting) < self._max_lines and self._size + len(line) < self._max_bytes:
                self._waiting.append(line)
                self._size += len(line) + 1
            else:
                self.dropped += 1
                self._untold += 1
                self._works &= not self._waiting  # whether it works is seen at the next write

    def reopen(self) -> None:
        """Have the place opened anew: after the lines that were put before, or at once where it fails."""
        with self._changed:
            if self._reopen_after is None:
                self._reopen_after = len(self._waiting)
            self._changed.notify_all()

    def finish(self) -> None:
        """No more lines will come."""
        with self._changed:
            if not self._finishing:
                self._finishing, self._finished = True, time.monotonic()
                self._progress = self._finished
            self._changed.notify_all()
        self.start()

    def close(self, seconds: float, in_all: float) -> int:
        """Wait until all is written or the place has failed. Returns how many lines are left; they are dropped.

        From `finish` on it waits `seconds` for the next line that goes out, and `in_all` for all of them. A thread that waits in the system
        is left until the process ends; what it still writes may be among the lines counted.
        """
        self.finish()
        with self._changed:
            last = self._finished + in_all
            while not self._ended and (now := time.monotonic()) < min(self._progress + seconds, last):
                self._changed.wait(min(self._progress + seconds, last) - now)
            self._abandoned = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._writing, WRITE_SECONDS)
            self._ended = True
            left = len(self._waiting)
            self.dropped += left
            self._waiting.clear()
        return left

    # ---- the thread ----

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except Exception as error:
                self._failed(error)
        try:
            self.place.close()
        except (OSError, ValueError) as error:
            self._report(f"output {self.name} failed at the end: {error}")
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _next(self) -> Callable[[], None] | None:
        """What the thread has to do next; waits for it. None at the end."""
        with self._changed:
            while not self._abandoned:
                now = time.monotonic()
                if self._reopen_after is not None and (self._reopen_after <= 0 or self._failing):
                    self._reopen_after = None
                    return self._reopen
                if self._untold and self._works and (now >= self._tell_at or (self._finishing and not self._waiting)):
                    untold, self._untold, self._tell_at = self._untold, 0, now + TELL_SECONDS
                    return lambda: self._caught_up(self, untold)
                if self._waiting:
                    if self._failing and self._tried_last:
                        return None
                    if not self._failing or self._finishing or now >= self._retry_at:
                        self._writing, self._tried_last = True, self._finishing
                        chunk = self._chunk()
                        return lambda: self._write(chunk)
                elif self._finishing:
                    return None
                elif self._full_told and not self._untold:
                    self._full_told = False
                    return self._tell_recovery
                self._changed.wait(self._until_due(now))
            return None

    def _until_due(self, now: float) -> float | None:
        if self._waiting:
            return max(0.0, self._retry_at - now)
        return max(0.0, self._tell_at - now) if self._untold and self._works else None

    def _chunk(self) -> list[bytes]:
        """The lines to be written next. They stay in the queue until they are."""
        chunk: list[bytes] = []
        size = 0
        for line in self._waiting:
            size += len(line) + 1
            if chunk and (size > CHUNK_BYTES or len(chunk) == self._reopen_after):
                break
            chunk.append(line)
        return chunk

    def _write(self, chunk: list[bytes]) -> None:
        try:
            count = self.place.write(chunk)
        except BlockingIOError:
            self._wrote(0)
            self.place.wait(ROOM_SECONDS)
        except PartlyError as partly:
            self._wrote_some(partly)
        except RefusedError as refused:
            self._wrote(refused.count, refused=str(refused) or "it said nothing")
        except Exception:
            self._wrote(0)
            raise
        else:
            self._wrote(count)

    def _wrote_some(self, partly: PartlyError) -> None:
        """Note what became of the queue's first lines. BusyError where some of them are to be written again."""
        taken = set(partly.taken)
        refused = set(partly.refused) - taken
        with self._changed:
            if not self._ended:
                tried = [self._waiting.popleft() for _ in range(partly.count)]
                again = [line for number, line in enumerate(tried) if number not in taken and number not in refused]
                settled = [tried[number] for number in (*sorted(taken), *sorted(refused))]
                self._waiting.extendleft(reversed([*settled, *again]))
        if taken or not refused:
            self._wrote(len(taken))
        if refused:
            self._wrote(len(refused), refused=str(partly) or "it said nothing")
        if len(taken) + len(refused) < partly.count:
            raise BusyError(str(partly), partly.after)

    def _wrote(self, count: int, *, refused: str = "") -> None:
        """Note how many lines were written: none where the write has failed, or where there was no room. `refused`: they were not,
        never will be, and why. No line tells that, as it might be refused, too."""
        with self._changed:
            self._writing = False
            if not self._ended:
                for _ in range(count):
                    self._size -= len(self._waiting.popleft()) + 1
                if refused:
                    self.dropped += count
                else:
                    self.written += count
                if self._reopen_after is not None:
                    self._reopen_after -= count
            self._works = count > 0
            recovered = self._works and self._failure_told and not self._full_told
            if self._works:
                self._failing = self._failure_told = False
                self._pause = RETRY_SECONDS
                self._progress = time.monotonic()
            self._changed.notify_all()
        if recovered:
            self._tell_recovery()
        if refused and time.monotonic() >= self._refused_at:
            self._refused_at = time.monotonic() + REFUSED_SECONDS
            self._report(f"output {self.name} refuses lines, which are dropped: {refused}; it has lost {self.dropped} so far")

    def _tell_recovery(self) -> None:
        self._report(f"output {self.name} works again; it has lost {self.dropped} lines so far")

    def _reopen(self) -> None:
        self.place.reopen()
        with self._changed:
            self._retry_at = 0.0

    def _failed(self, error: Exception) -> None:
        """Note a failure, and tell it if it is the first since the place worked."""
        with self._changed:
            self._failing = True
            self._retry_at = time.monotonic() + max(self._pause, min(getattr(error, "after", 0.0), MAX_AFTER_SECONDS))
            self._pause = min(2 * self._pause, MAX_RETRY_SECONDS)
            first, self._failure_told = not self._failure_told, True
        if first:
            self._report(f"output {self.name} failed: {error}; its lines wait as long as there is room, enforcement goes on")
