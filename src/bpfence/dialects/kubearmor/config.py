# SPDX-License-Identifier: Apache-2.0
"""A file of KubeArmor's own settings in, the postures and the throttling that it chooses out.

It is KubeArmor's ConfigMap, its KubeArmorConfig, or the kubearmor.yaml of a host.

Called by `dialect` for `--kubearmor-config`. Of the many settings those are read that say what policies do. Nothing that looks like one of
those is passed over.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from bpfence.dialects.kubearmor.options import ACTIONS, MOST, RESOURCES, THROTTLING
from bpfence.documents import lists, yaml_nodes
from bpfence.documents.files import SourceFile, read_bytes
from bpfence.documents.placed import DocumentError
from bpfence.documents.report import Report
from bpfence.documents.yaml_nodes import YamlNode
from bpfence.errors import Diagnostic, Location, PolicyError
from bpfence.words import quoted, suggest

CODES: Final = {
    "bad-value": "a posture that is none, a switch or a number that is none",
    "cannot-read": "a file that cannot be read",
    "duplicate-key": "a setting that is made twice",
    "merge-order": "a setting before the `<<` that has it, too",
    "no-rules": "a file without a setting that has an effect here",
    "unknown-key": "a setting whose name is nearly that of a posture",
    "wrong-kind": "an object that holds no settings of KubeArmor",
    "wrong-type": "something else where settings should be",
}
POSTURES: Final[Mapping[str, str]] = {
    f"{'hostDefault' if host else 'default'}{resource.capitalize()}Posture": f"{'host_' if host else ''}{resource}"
    for host in (False, True)
    for resource in RESOURCES
}
"""By the setting, the posture as the options have it."""
_SWITCH: Final = ("true", "false")
_SETTINGS: Final = {"ConfigMap": "data", "KubeArmorConfig": "spec"}
"""By the kind of an object, where its settings are."""
_OTHER: Final = "hostDefaultDevicePosture"
"""A setting of KubeArmor's that is nothing here: of devices there are no policies."""
_NEAR: Final = 0.9
"""How near a name is to that of a posture that it may have been meant for."""
_HINT: Final = "give KubeArmor's ConfigMap, its KubeArmorConfig, or its kubearmor.yaml"


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
        merging: list[Diagnostic] = []
        roots = list(lists.objects(yaml_nodes.decode(source.data, source.file), source.file, merging))
    except DocumentError as error:
        report.take([error.diagnostic])
        return {}
    report.take(msgspec.structs.replace(one, severity="error") for one in merging)  # which of two postures holds is not left to the reader
    reader = _Reader(report)
    errors = report.errors
    for root in roots:
        reader.object(root)
    if not reader.found and report.errors == errors:
        report.add(
            Location(source.file),
            "no-rules",
            "the file sets neither a posture nor throttling",
            f"{_HINT}, with defaultFilePosture: block or its like",
        )
    return {key: value for key, (value, _) in reader.found.items()}


class _Reader:
    """One file. `found`: each posture, and where it was set first."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.found: dict[str, tuple[str, Location]] = {}

    def object(self, root: YamlNode) -> None:
        """One object, or the settings themselves."""
        given = {key.text: value for key, value in root.pairs if key.kind == "scalar"}
        kind = given.get("kind")
        if kind is None:
            self.settings(root, None)
            return
        place = _SETTINGS.get(kind.text) if kind.kind == "scalar" else None
        if place is None:
            what = f"kind is {quoted(kind.text)}, which holds no settings" if kind.kind == "scalar" else "kind is no word"
            self.report.add(kind, "wrong-kind", what, suggest(kind.text, _SETTINGS, _HINT))
        elif place in given:
            self.settings(given[place], None)

    def settings(self, node: YamlNode, outer: YamlNode | None) -> None:
        """Those of a map. `outer`: the text that it stands in; None: it is of the file itself."""
        if node.kind != "map":
            what = "settings are a map, such as defaultFilePosture: block"
            self.report.add(_place(node, outer), "wrong-type", what, _HINT)
            return
        for key, value in node.pairs:
            if key.kind != "scalar":
                continue
            if key.text in POSTURES:
                self.posture(key, value, outer)
            elif key.text in THROTTLING:
                self.throttling(key, value, outer)
            elif hint := _meant(key.text):
                self.report.add(_place(key, outer), "unknown-key", f"{quoted(key.text)} is not a setting of KubeArmor", hint)
            elif outer is None and key.text.endswith((".yaml", ".yml")) and value.kind == "scalar":
                self.embedded(value)

    def embedded(self, node: YamlNode) -> None:
        """A file of settings that a ConfigMap holds as a text."""
        try:
            for root in yaml_nodes.documents(node.text, node.source.file, merge=True):
                if root.kind == "map":
                    self.settings(root, node)
        except DocumentError as error:
            found = error.diagnostic
            inner = yaml_nodes.placed_text(node.text, node.source.file)
            at = node.place(inner.offset(max(found.location.line, 1) - 1, max(found.location.column, 1) - 1))
            self.report.take([msgspec.structs.replace(found, location=at)])

    def posture(self, key: YamlNode, value: YamlNode, outer: YamlNode | None) -> None:
        if value.empty:
            return
        if value.kind != "scalar" or value.text not in ACTIONS:
            text = value.text if value.kind == "scalar" else ""
            what = f"{key.text} is audit or block, not {quoted(text) if text else f'a {value.kind}'}"
            self.report.add(_place(value, outer), "bad-value", what, suggest(text.lower(), ACTIONS, "write audit or block"))
            return
        self.take(POSTURES[key.text], key, value, outer)

    def throttling(self, key: YamlNode, value: YamlNode, outer: YamlNode | None) -> None:
        """Whether there is any, or one of its numbers."""
        if value.empty:
            return
        text = value.text if value.kind == "scalar" else ""
        fits = text in _SWITCH if THROTTLING[key.text] == "throttling" else _is_number(text)
        if not fits:
            wanted = "true or false" if THROTTLING[key.text] == "throttling" else f"a number from 1 to {MOST}"
            what = f"{key.text} is {wanted}, not {quoted(text) if text else f'a {value.kind}'}"
            self.report.add(_place(value, outer), "bad-value", what, f"write {wanted}")
            return
        self.take(THROTTLING[key.text], key, value, outer)

    def take(self, name: str, key: YamlNode, value: YamlNode, outer: YamlNode | None) -> None:
        """A setting, which may be set once."""
        place = _place(key, outer)
        if name in self.found:
            self.report.add(place, "duplicate-key", f"{key.text} is set already, at {self.found[name][1]}", "leave one of them")
        self.found.setdefault(name, (value.text, place))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= MOST


def _place(node: YamlNode, outer: YamlNode | None) -> Location:
    return node.location if outer is None else outer.place(node.start)


def _meant(key: str) -> str:
    """What to write for the name of a posture that is none; "" where it is a setting of its own."""
    plain = {name.lower(): name for name in (*POSTURES, _OTHER)}
    text = "".join(char for char in key.lower()[:100] if char.isalnum())
    near = difflib.get_close_matches(text, plain, n=1, cutoff=_NEAR)
    if key == _OTHER or not (near or text.endswith("posture")):
        return ""
    return f"did you mean {plain[near[0]]!r}?" if near else suggest(text, POSTURES, "write one of: " + ", ".join(POSTURES))
