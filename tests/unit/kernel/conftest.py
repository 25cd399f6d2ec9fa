# SPDX-License-Identifier: Apache-2.0
"""What tests of the loader share: skips that name the missing feature, and a small BPF object.

Here only programs are loaded that nothing runs unless a test asks for it; none can deny or slow anything.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bpfence.kernel.features import Answer, Features, probe

ROOT = Path(__file__).resolve().parents[3]
RING = ROOT / "tests" / "kernel" / "bpf" / "ring.bpf.c"


@pytest.fixture(scope="session")
def features() -> Features:
    return probe()


@pytest.fixture
def needs(features: Features) -> Callable[..., None]:
    """`needs("cap_bpf", …)` skips unless each probe of the running kernel says yes."""

    def check(*names: str) -> None:
        for name in names:
            if features.answer(name) is not Answer.YES:
                pytest.skip(f"needs {name}: {features.answer(name).value} {features.probes[name].detail}")

    return check


@pytest.fixture(scope="session")
def ring_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/kernel/bpf/ring.bpf.c, compiled."""
    spec = importlib.util.spec_from_file_location("build_bpf", ROOT / "tools" / "build_bpf.py")
    assert spec
    assert spec.loader
    build_bpf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build_bpf)
    if not (shutil.which("clang") or shutil.which("clang-14")):
        pytest.skip("needs clang")
    target = tmp_path_factory.mktemp("bpf") / "ring.bpf.o"
    build_bpf.compile_object(RING, target)
    return target
