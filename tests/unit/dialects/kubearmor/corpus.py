"""KubeArmor's published policies, and short ones of our own, for the tests of its dialect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bpfence.compiler.workloads import selectors
from bpfence.dialects.facts import Facts
from bpfence.dialects.kubearmor.dialect import KUBEARMOR
from bpfence.dialects.kubearmor.model import KubeArmorPolicy
from bpfence.dialects.kubearmor.options import KubeArmorOptions
from bpfence.dialects.kubearmor.read import load_sources
from bpfence.documents.files import SourceFile
from bpfence.errors import Diagnostic
from bpfence.evaluate import Verdict, verdict
from bpfence.policy import PolicySet, Selector, with_doubts
from bpfence.workloads.model import Container, Pod
from bpfence.workloads.select import selected

CORPUS = Path(__file__).resolve().parents[4].parent / "shared" / "corpora" / "kubearmor"
CONTAINER = "d" * 64


def corpus() -> list[SourceFile]:
    """Every file of the published policies; the test is skipped where they are not."""
    if not CORPUS.is_dir():
        pytest.skip(f"{CORPUS} is missing: the corpora lie beside the repository")
    return [SourceFile(path.name, path.read_bytes()) for path in sorted(CORPUS.glob("*.yaml"))]


def document(spec: dict[str, Any], kind: str = "KubeArmorPolicy", name: str = "p", **metadata: str) -> str:
    """A policy with this spec, as YAML; selectors that are needed are put in."""
    needed = (
        {"nodeSelector": {"matchLabels": {"a": "b"}}}
        if kind in ("KubeArmorHostPolicy", "KubeArmorNetworkPolicy")
        else {"selector": {"matchLabels": {"app": "web"}}}
    )
    if kind == "KubeArmorClusterPolicy":
        needed = {"selector": {"matchExpressions": [{"key": "namespace", "operator": "In", "values": ["shop"]}]}}
    if kind == "KubeArmorPolicy":
        metadata.setdefault("namespace", "shop")
    whole = {
        "apiVersion": "security.kubearmor.com/v1", "kind": kind, "metadata": {"name": name, **metadata}, "spec": {**needed, **spec},
    }  # fmt: skip
    return yaml.safe_dump(whole, sort_keys=False)


def read(*texts: str) -> tuple[tuple[KubeArmorPolicy, ...], list[Diagnostic]]:
    """What a text is read to."""
    return load_sources([SourceFile("p.yaml", "---\n".join(texts).encode())])


def lowered(*texts: str, **options: Any) -> PolicySet:
    """The policies of the IR that a text without mistakes becomes."""
    rules, diagnostics = KUBEARMOR.read([SourceFile("p.yaml", "---\n".join(texts).encode())], KubeArmorOptions(**options))
    assert [found for found in diagnostics if found.severity == "error"] == []
    return PolicySet(rules.policies(Facts()))


def decided(policies: PolicySet, event: str, inside: Container | None = None, **fields: Any) -> Verdict:
    """What becomes of an act in a container (None: on the host)."""
    given = {"event": event, "process.cgroup": "/system.slice/cron.service", "process.exe": "/usr/bin/x", "process.uid": 0}
    if inside is not None:
        asked: tuple[Selector, ...] = selectors(with_doubts(policies))
        given |= {"process.cgroup": inside.cgroup, "process.container": tuple(selected(inside, asked))}
    return verdict(policies, given | {name.replace("__", "."): value for name, value in fields.items()})


def pod(namespace: str = "shop", name: str = "main", annotations: dict[str, str] | None = None, **labels: str) -> Container:
    """A container of a pod. `annotations`: those of its namespace."""
    of = Pod("web-0", namespace, labels=labels, namespace_annotations=annotations)
    return Container(CONTAINER, f"/kubepods/{CONTAINER}", name=name, image="nginx", pod=of)


WEB = pod(app="web")
