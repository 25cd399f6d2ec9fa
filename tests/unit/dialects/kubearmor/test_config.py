# SPDX-License-Identifier: Apache-2.0
"""KubeArmor's own settings: its ConfigMap, and the file of a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfence.dialects.kubearmor.config import CODES, POSTURES, of_file, postures
from bpfence.dialects.kubearmor.options import RESOURCES
from bpfence.documents.files import SourceFile
from bpfence.documents.report import Report
from bpfence.errors import Diagnostic, PolicyError


def read(text: str) -> tuple[dict[str, str], list[Diagnostic]]:
    report = Report(CODES)
    return of_file(SourceFile("c.yaml", text.encode()), report), report.diagnostics


def test_every_posture_has_a_setting() -> None:
    assert set(POSTURES.values()) == {f"{host}{name}" for host in ("", "host_") for name in RESOURCES}
    assert {"defaultFilePosture", "hostDefaultCapabilitiesPosture"} < POSTURES.keys()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("defaultFilePosture: block\nhostDefaultNetworkPosture: audit\n", {"file": "block", "host_network": "audit"}),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: k}\ndata:\n  gRPC: '32767'\n  defaultFilePosture: \"block\"\n",
            {"file": "block"},
        ),
        ("kind: ConfigMap\n", {}),
        ("visibility: process,file\ndefaultFilePosture:\n", {}),
    ],
)
def test_postures_are_read(text: str, found: dict[str, str]) -> None:
    assert read(text) == (found, [])


@pytest.mark.parametrize(
    ("text", "code", "place", "hint"),
    [
        ("a: b\ndefaultFilePosture: Block\n", "bad-value", (2, 21), "did you mean 'block'?"),
        ("defaultFilePosture: [block]\n", "bad-value", (1, 21), "write audit or block"),
        ("- a\n", "wrong-type", (1, 1), "give KubeArmor's ConfigMap, or its kubearmor.yaml"),
        ("kind: ConfigMap\ndata: x\n", "wrong-type", (2, 7), "give KubeArmor's ConfigMap, or its kubearmor.yaml"),
        ("", "no-rules", (0, 0), "give KubeArmor's ConfigMap, or its kubearmor.yaml"),
        ("a: [", "yaml-syntax", (1, 5), "check the indentation and the quotes on this line and the one before"),
    ],
)
def test_mistakes_have_places(text: str, code: str, place: tuple[int, int], hint: str) -> None:
    found, [diagnostic] = read(text)
    assert (found, diagnostic.code, diagnostic.hint) == ({}, code, hint)
    assert (diagnostic.location.line, diagnostic.location.column) == place


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("defaultFilePosture: block\n")
    assert postures(str(tmp_path / "c.yaml")) == {"file": "block"}
    (tmp_path / "c.yaml").write_text("defaultFilePosture: none\n")
    for path in ("c.yaml", "missing", "."):
        with pytest.raises(PolicyError):
            postures(str(tmp_path / path))
