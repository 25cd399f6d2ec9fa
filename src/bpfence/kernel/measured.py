# SPDX-License-Identifier: Apache-2.0
"""What an engine's kernel side has counted, at one moment. Made by `Engine.measured` for the metrics; it holds nothing of the kernel."""

from __future__ import annotations

from typing import Final

import msgspec

FILLED: Final = ("processes", "images", "long_exes", "long_args", "objects", "workloads", "frames", "held", "counted")
"""Maps that fill up as a host works, and whose being full costs decisions or records."""


class Measured(msgspec.Struct, frozen=True):
    """`counters`: as `Engine.counters`. `lost`: records by event. `skipped`: runs that the kernel has left out, by program.

    `programs`: runs and nanoseconds by program, 0 where the kernel keeps no statistics. `fill`: entries and room by map. `pages`: of the
    tables in force, and how many they may have.
    """

    counters: dict[str, int] = {}
    lost: dict[str, int] = {}
    skipped: dict[str, int] = {}
    programs: dict[str, tuple[int, int]] = {}
    fill: dict[str, tuple[int, int]] = {}
    pages: tuple[int, int] = (0, 0)
