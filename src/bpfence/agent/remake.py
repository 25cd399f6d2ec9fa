# SPDX-License-Identifier: Apache-2.0
"""Policies to read, or rules in force and new facts, in; their tables out, made beside the agent's loop.

Called by the agent for every reload, and when names of hosts that rules mention have other addresses. Tables of many rules take seconds to
make. Meanwhile the loop goes on reading records; it is woken when they are done, and puts them in force itself. The thread has the
privileges that the agent has kept.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from bpfence.agent.feed import Outcome
from bpfence.agent.loading import Loaded
from bpfence.compiler.compile import Compiled
from bpfence.errors import KernelError
from bpfence.host.hostnames import Notice

SWITCH_SECONDS: Final = 0.0005


class Made(NamedTuple):
    """`base`: what it was made of, None where files were read; `events`: what the kernel supported; `left`: see `compile_smaller`.
    `outcomes`: of the offers of a feed; None where it was not asked."""

    base: Loaded | None
    events: frozenset[str]
    loaded: Loaded
    compiled: Compiled
    left: tuple[str, ...]
    outcomes: Mapping[str, Outcome] | None = None


Work = Callable[[], Made | None]


class Remake:
    """One piece of work at a time. `seconds`: how long the last one took, 0 before the first. `reloads`: whether it is a reload.

    `busy`: whether there is work that was not taken yet.
    """

    def __init__(self) -> None:
        self._notice = Notice()
        self._thread: threading.Thread | None = None
        self._result: Made | BaseException | None = None
        self.seconds = 0.0
        self.busy = self.reloads = False

    def fileno(self) -> int:
        """Readable when the work is done."""
        return self._notice.fileno()

    def begin(self, work: Work, *, reloads: bool = False) -> None:
        """Start the work; not while `busy`. Where no thread can be started, `take` raises KernelError."""
        assert not self.busy
        self.reloads = reloads
        thread = threading.Thread(target=self._run, args=(work,), name="bpfence-remake", daemon=True)
        self.busy = True
        try:
            thread.start()
            self._thread = thread
        except RuntimeError as error:
            self._result = KernelError(f"no thread can be had to make tables in: {error}", missing="room for one more thread")
            self._notice.tell()

    def _run(self, work: Work) -> None:
        began = time.monotonic()
        # An alert must not wait for the interpreter longer than it takes to make one, and the usual 5 ms are longer.
        usual = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            self._result = work()
        except BaseException as error:  # raised again by `take`, in the thread that asked for it
            self._result = error
        finally:
            sys.setswitchinterval(usual)
        self.seconds = time.monotonic() - began
        self._notice.tell()

    def take(self) -> Made | None:
        """What was made; None where nothing was to be made. Raises what the work raised. To be called when `fileno` is readable."""
        if not self._notice.take():
            return None
        if self._thread is not None:
            self._thread.join()
        result, self._thread, self._result, self.busy, self.reloads = self._result, None, None, False, False
        if isinstance(result, BaseException):
            raise result
        return result

    def close(self) -> None:
        """Nobody waits any more: work that goes on ends without being told."""
        self._notice.close()
