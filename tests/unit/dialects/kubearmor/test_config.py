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

HINT = "give KubeArmor's ConfigMap, its KubeArmorConfig, or its kubearmor.yaml"


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
        ("visibility: file\ndefaultFilePosture:\nhostDefaultDevicePosture: block\ndefaultNetworkPosture: block\n", {"network": "block"}),
        ("kind: KubeArmorConfig\nspec: {defaultCapabilitiesPosture: block, defaultVisibility: process}\n", {"capabilities": "block"}),
        ("kind: List\nitems: [{kind: ConfigMap, data: {a: b}}, {kind: ConfigMap, data: {defaultFilePosture: block}}]\n", {"file": "block"}),
        ('kind: ConfigMap\ndata: {kubearmor.yaml: "cluster: a\\ndefaultFilePosture: block\\n"}\n', {"file": "block"}),
        ("alertThrottling: true\nmaxAlertPerSec: '5'\n", {"throttling": "true", "max_alerts": "5"}),
        ("base: &b {defaultFilePosture: block}\n<<: *b\n", {"file": "block"}),
    ],
)
def test_postures_are_read(text: str, found: dict[str, str]) -> None:
    assert read(text) == (found, [])


@pytest.mark.parametrize(
    ("text", "code", "place", "hint"),
    [
        ("a: b\ndefaultFilePosture: Block\n", "bad-value", (2, 21), "did you mean 'block'?"),
        ("defaultFilePosture: [block]\n", "bad-value", (1, 21), "write audit or block"),
        ("- a\n", "wrong-type", (1, 1), HINT),
        ("alertThrottling: on\n", "bad-value", (1, 18), "write true or false"),
        ("throttleSec: 0\n", "bad-value", (1, 14), "write a number from 1 to 1000000"),
        ("maxAlertPerSec: [1]\n", "bad-value", (1, 17), "write a number from 1 to 1000000"),
        ("kind: ConfigMap\ndata: x\n", "wrong-type", (2, 7), HINT),
        *(
            (text, "no-rules", (0, 0), f"{HINT}, with defaultFilePosture: block or its like")
            for text in (
                "",
                "kind: ConfigMap\n",
                "defaultFilePosture:\n",
                "kind: List\nitems: []\n",
                "kind: KubeArmorConfig\nspec: {}\n",
                "kubearmorConfigMap: {defaultFilePosture: block}\n",
                "kind: ConfigMap\ndata: {x.yaml: '- a'}\n",
            )
        ),
        ("kind: Pod\ndata: {defaultFilePosture: block}\n", "wrong-kind", (1, 7), HINT),
        ("kind: configmap\ndata: {defaultFilePosture: block}\n", "wrong-kind", (1, 7), "did you mean 'ConfigMap'?"),
        ("defaultfileposture: block\n", "unknown-key", (1, 1), "did you mean 'defaultFilePosture'?"),
        ("kind: KubeArmorConfig\nspec: {defaultNetworkPostur: block}\n", "unknown-key", (2, 8), "did you mean 'defaultNetworkPosture'?"),
        ("filePosture: block\n", "unknown-key", (1, 1), "did you mean 'defaultFilePosture'?"),
        ("kind: ConfigMap\ndata:\n  kubearmor.yaml: |\n    a: \n    defaultFilePosture: x\n", "bad-value", (5, 25), "write audit or block"),
        (
            "kind: ConfigMap\ndata:\n  kubearmor.yaml: |\n    default-file-posture: block\n",
            "unknown-key",
            (4, 5),
            "did you mean 'defaultFilePosture'?",
        ),
        (
            "kind: ConfigMap\ndata:\n  kubearmor.yaml: |\n    a: [\n",
            "yaml-syntax",
            (4, 9),
            "check the indentation and the quotes on this line and the one before",
        ),
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


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("defaultFilePosture: block\ndefaultFilePosture: audit\n", (2, 1)),
        ("defaultFilePosture: block\n---\ndefaultFilePosture: block\n", (3, 1)),
        ("kind: ConfigMap\ndata:\n  defaultFilePosture: block\n  kubearmor.yaml: |\n    defaultFilePosture: audit\n", (5, 5)),
    ],
)
def test_of_two_postures_none_is_passed_over(text: str, place: tuple[int, int]) -> None:
    _, [found] = read(text)
    assert (found.code, found.location.line, found.location.column) == ("duplicate-key", *place)


def test_a_posture_before_the_merged_one_is_an_error() -> None:
    for text, codes in (
        ("defaultFilePosture: audit\n<<: {defaultFilePosture: block}\n", ["merge-order"]),
        ("<<: {defaultFilePosture: block}\ndefaultFilePosture: audit\n", []),
    ):
        found, told = read(text)
        assert (found, [(one.code, one.severity) for one in told]) == ({"file": "audit"}, [(code, "error") for code in codes])
