# SPDX-License-Identifier: Apache-2.0
"""bpfence: policies in, decisions in the kernel out. The package itself holds only the version."""

from __future__ import annotations

__version__ = "0.1.0"
