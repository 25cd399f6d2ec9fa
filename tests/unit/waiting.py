# SPDX-License-Identifier: Apache-2.0
"""Waiting for a descriptor, by poll(2): select(2) knows none from 1,024 on, and a long run of tests has that many open."""

from __future__ import annotations

import select


def readable(descriptor: int, seconds: float) -> bool:
    """Whether there is something to read within so many seconds."""
    waits = select.poll()
    waits.register(descriptor, select.POLLIN)
    return bool(waits.poll(seconds * 1000))
