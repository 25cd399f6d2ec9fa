# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the kernel tests: the firing range with all cases, and skipping by probed feature."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.kernel.cases import Case, load_cases
from tests.kernel.harness import Playground, Range, firing_range

FEATURES: dict[str, list[str]] = yaml.safe_load((Path(__file__).parent / "features.yaml").read_text())
"""Feature -> kernels of vmtest's table that are known to lack it."""

BY_FILE = "6.12"
"""The kernel on which the cases are loaded file by file and each shipped policy by itself, which shows that a policy brings along the
programs it needs. Elsewhere they are loaded in four turns: the verifier looks at each program once for many files."""


@pytest.fixture(scope="session")
def cases() -> list[Case]:
    return load_cases()


@pytest.fixture(scope="session")
def playground() -> Iterator[Playground]:
    """Files, cgroups and services of the cases."""
    whole = Playground()
    yield whole
    whole.close()


@pytest.fixture(scope="session")
def shooting(
    cases: list[Case], playground: Playground, tmp_path_factory: pytest.TempPathFactory, probed: dict[str, str]
) -> Iterator[Range]:
    """One agent with every case's policy that this kernel can carry."""
    able = [case for case in cases if all(probed[feature] == "yes" for feature in case.requires)]
    together = os.environ.get("BPFENCE_KERNEL") != BY_FILE
    with firing_range(playground, able, tmp_path_factory.mktemp("agent"), together=together) as whole:
        yield whole


@pytest.fixture(scope="session")
def probed() -> dict[str, str]:
    """What this kernel offers: feature -> yes, no or unknown, for every feature that a test may require."""
    from tests.kernel.features import probe

    answers = probe()
    assert set(answers) == set(FEATURES), "features.yaml and features.py name different features"
    return answers


@pytest.fixture
def need(probed: dict[str, str]) -> Callable[[list[str]], None]:
    """Skip when a required feature is missing; fail when this kernel is known to have it."""

    def check(features: list[str]) -> None:
        for feature in features:
            answer = probed[feature]
            if answer == "yes":
                continue
            kernel = os.environ.get("BPFENCE_KERNEL", "")
            if answer == "no" and kernel in FEATURES[feature]:
                pytest.skip(f"this kernel lacks: {feature}")
            pytest.fail(f"kernel {kernel or 'unknown'} should have {feature}, the probe says {answer}")

    return check
