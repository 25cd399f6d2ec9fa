# SPDX-License-Identifier: Apache-2.0
"""Tracing policies as text for the tests of the dialect, and the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bpfence.dialects.tetragon.read.document import read_text
from bpfence.dialects.tetragon.read.model import TracingPolicy
from bpfence.errors import Diagnostic

CORPUS = Path(__file__).resolve().parents[4].parent / "shared" / "corpora" / "tetragon"


def corpus() -> list[Path]:
    """The published policies; the test is skipped where they are not."""
    if not CORPUS.exists():
        pytest.skip(f"{CORPUS} is missing: the corpora lie beside the repository")
    return sorted(CORPUS.glob("*.yaml"))


def document(name: str = "p", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "cilium.io/v1alpha1", "kind": "TracingPolicy", "metadata": {"name": name}, "spec": spec}


def text(**spec: Any) -> str:
    """A policy with one value a line: JSON is YAML."""
    return json.dumps(document(**spec), indent=1)


def read(**spec: Any) -> tuple[TracingPolicy, list[Diagnostic]]:
    (policy,), found = read_text(text(**spec), "p.yaml")
    return policy, found


def codes(**spec: Any) -> list[str]:
    """The codes of what is found in a policy."""
    return [found.code for found in read_text(text(**spec), "p.yaml")[1]]


FILE = {"index": 0, "type": "file"}
MASK = {"index": 1, "type": "int"}


def kprobe(*selectors: dict[str, Any], call: str = "security_file_permission", args: Any = (FILE, MASK), **more: Any) -> dict[str, Any]:
    """A kprobe on two arguments, a file and a number."""
    return {"call": call, "syscall": False, "args": list(args), "selectors": list(selectors), **more}


def on(index: int, operator: str, *values: str) -> dict[str, Any]:
    """A selector with one test of an argument."""
    return {"matchArgs": [{"index": index, "operator": operator, "values": list(values)}]}
