# SPDX-License-Identifier: Apache-2.0
"""Memory that is not needed any more in, given back to the system out. Called by the agent when policies have been put in force."""

from __future__ import annotations

import ctypes
import gc


def settle() -> None:
    """What there is now stays for long: the collector need not walk it, for tens of milliseconds, between an event and its alert. What was
    freed goes back to the system, which the C library keeps it from otherwise (malloc_trim(3); musl does that by itself).
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
