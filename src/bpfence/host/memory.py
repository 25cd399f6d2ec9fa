# SPDX-License-Identifier: Apache-2.0
"""Memory that is not needed any more in, given back to the system out. Called by the agent when policies have been put in force."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Final

GROWTH: Final = 1.5
"""When so many times as many blocks of memory are in use as after the last walk over all objects, all are walked again: some may be in dead
cycles."""
_walked = 0


def settle() -> None:
    """What there is now stays for long: the collector need not walk it, for tens of milliseconds, between an event and its alert. What was
    freed goes back to the system, which the C library keeps it from otherwise (malloc_trim(3); musl does that by itself).

    Mostly only what is new is walked, because nothing else goes on meanwhile.
    """
    global _walked  # noqa: PLW0603
    everything = sys.getallocatedblocks() >= GROWTH * _walked  # to count what is frozen would be a walk, too
    if everything:
        gc.unfreeze()
    gc.collect()
    gc.freeze()
    if everything:
        _walked = sys.getallocatedblocks()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
