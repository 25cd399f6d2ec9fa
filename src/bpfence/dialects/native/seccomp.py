# SPDX-License-Identifier: Apache-2.0
"""YAML nodes in, the values that the seccomp package reads out; and the profile that a policy carries.

Called by `native` for `seccomp:`, and by the CLI for objects of Kubernetes. Scalars mean what YAML 1.2's core schema says: `on` is a text.
"""

from __future__ import annotations

from pathlib import Path

from bpfence.documents.report import Report
from bpfence.documents.yaml_nodes import YamlNode
from bpfence.documents.yaml_values import as_value
from bpfence.seccomp import profile as profiles
from bpfence.seccomp.model import Profile


def profile_of(node: YamlNode, report: Report) -> Profile | None:
    """The profile under `seccomp:`: a file, relative to the policy's, or the profile itself. What is wrong goes to the report."""
    if node.kind == "scalar":
        path = Path(node.source.file).parent / node.text
        profile, diagnostics = profiles.load(path)
        if [d.code for d in diagnostics] == ["cannot-read"]:
            hint = "the path is relative to the policy's file"
            report.add(node, "cannot-read", f"the seccomp profile {str(path)!r}: {diagnostics[0].message}", hint)
            return None
    elif node.kind == "list":
        report.add(node, "wrong-type", "seccomp must be a file's path or a profile, not a list", "write defaultAction: below it, indented")
        return None
    else:
        profile, diagnostics = profiles.read(as_value(node))
    report.take(diagnostics)
    return profile
