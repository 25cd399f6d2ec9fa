# SPDX-License-Identifier: Apache-2.0
"""A file of KubeArmor's own settings in, the postures that it chooses out: its ConfigMap, or the kubearmor.yaml of a host.

Called by `dialect` for `--kubearmor-config`. Of its many settings those are read that say what policies do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bpfence.dialects.kubearmor.options import ACTIONS, RESOURCES
from bpfence.documents import yaml_nodes
from bpfence.documents.files import SourceFile, read_bytes
from bpfence.documents.placed import DocumentError
from bpfence.documents.report import Report
from bpfence.documents.yaml_nodes import YamlNode
from bpfence.errors import Location, PolicyError
from bpfence.words import quoted, suggest

CODES: Final = {
    "bad-value": "a posture that is none",
    "cannot-read": "a file that cannot be read",
    "no-rules": "a file without settings",
    "wrong-type": "something else where settings should be",
}
POSTURES: Final[Mapping[str, str]] = {
    f"{'hostDefault' if host else 'default'}{resource.capitalize()}Posture": f"{'host_' if host else ''}{resource}"
    for host in (False, True)
    for resource in RESOURCES
}
"""By the setting, the posture as the options have it."""


def postures(path: str) -> dict[str, str]:
    """The postures that a file sets, as KubeArmorOptions has them. PolicyError with the place of each mistake."""
    report = Report(CODES)
    data = read_bytes(Path(path), report)
    found = of_file(SourceFile(path, data), report) if data is not None else {}
    if report.errors:
        raise PolicyError(report.diagnostics)
    return found


def of_file(source: SourceFile, report: Report) -> dict[str, str]:
    """The same of a file that was read; what is wrong is in the report."""
    try:
        roots = list(yaml_nodes.documents(yaml_nodes.decode(source.data, source.file), source.file))
    except DocumentError as error:
        report.take([error.diagnostic])
        return {}
    if not roots:
        report.add(Location(source.file), "no-rules", "the file holds no settings", "give KubeArmor's ConfigMap, or its kubearmor.yaml")
    found: dict[str, str] = {}
    for root in roots:
        settings = _settings(root)
        if settings.kind != "map":
            what = "settings are a map, such as defaultFilePosture: block"
            report.add(settings, "wrong-type", what, "give KubeArmor's ConfigMap, or its kubearmor.yaml")
            continue
        for key, value in settings.pairs:
            if key.kind == "scalar" and key.text in POSTURES and not value.empty:
                if value.kind == "scalar" and value.text in ACTIONS:
                    found[POSTURES[key.text]] = value.text
                else:
                    text = value.text if value.kind == "scalar" else ""
                    what = f"{key.text} is audit or block, not {quoted(text) if text else f'a {value.kind}'}"
                    report.add(value, "bad-value", what, suggest(text.lower(), ACTIONS, "write audit or block"))
    return found


def _settings(root: YamlNode) -> YamlNode:
    """Those of a ConfigMap are below `data`."""
    given = {key.text: value for key, value in root.pairs if key.kind == "scalar"}
    kind = given.get("kind")
    return given.get("data", root) if kind is not None and kind.text == "ConfigMap" else root
