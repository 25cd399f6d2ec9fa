# SPDX-License-Identifier: Apache-2.0
"""The limit of open files of a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from bpfence.host.descriptors import raise_limit
soft, hard, most = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(raise_limit(most), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "most", "after"), [(100, 200, 1000, 200), (100, 200, 150, 150), (180, 200, 150, 180), (200, 200, 1000, 200)]
)
def test_the_limit_is_raised_as_far_as_it_may_be(soft: int, hard: int, most: int, after: int) -> None:
    words = [sys.executable, "-c", PROGRAM, str(soft), str(hard), str(most)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(after), str(after), str(hard)]
