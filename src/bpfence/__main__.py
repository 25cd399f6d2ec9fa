# SPDX-License-Identifier: Apache-2.0
"""`python -m bpfence` in, the command line out."""

from __future__ import annotations

import sys

from bpfence.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
