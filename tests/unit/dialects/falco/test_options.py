# SPDX-License-Identifier: Apache-2.0
"""What is appended by default can be read as an output."""

from __future__ import annotations

from bpfence.dialects.falco.options import PRIORITIES, SUGGESTED, FalcoOptions
from bpfence.dialects.falco.read.output import parse


def test_the_defaults_are_valid() -> None:
    assert len(parse(SUGGESTED).parts) > 5
    assert FalcoOptions().priority in PRIORITIES
