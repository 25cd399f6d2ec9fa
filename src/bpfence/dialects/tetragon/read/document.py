# SPDX-License-Identifier: Apache-2.0
"""Files in, tracing policies that are right in themselves and all that is wrong out.

Called by the dialect. A file may hold several documents; `kind: List` is not read. No file makes it raise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from bpfence.dialects.tetragon import kinds
from bpfence.dialects.tetragon.read.checks import Checks
from bpfence.dialects.tetragon.read.model import TracingPolicy
from bpfence.dialects.tetragon.read.shapes import MAX_MISTAKES, Shapes
from bpfence.documents import lists, yaml_nodes
from bpfence.documents.files import SourceFile
from bpfence.documents.json_values import JsonValue
from bpfence.documents.placed import DocumentError
from bpfence.documents.report import Report
from bpfence.documents.yaml_values import as_value
from bpfence.errors import Diagnostic, Location
from bpfence.words import quoted, suggest

CODES: Final[Mapping[str, str]] = {
    "bad-number": "a number outside what its place can hold",
    "bad-operator": "an operator that does not go with the type of the argument",
    "bad-value": "a value that is not one of those allowed",
    "duplicate-key": "a key, list or filter written twice",
    "duplicate-policy": "two policies of one name",
    "empty": "a list that must not be empty",
    "error-sign": "an error without its sign (warning)",
    "key-case": "a key whose letters have another case (warning)",
    "merge-order": "a key before the `<<` that has it, too: kubectl takes the merged value (warning)",
    "missing-key": "a key or value that is required",
    "never-matches": "a test that no value passes (warning)",
    "no-return": "a test of what a function returns, on a hook that does not wait for it",
    "no-rules": "a policy without hooks (warning)",
    "not-supported": "something that bpfence reads, and cannot put in force yet",
    "not-told": "what an event lacks that the reference has, or has more (warning)",
    "not-utf8": "a file in another encoding",
    "too-long": "a message that is cut off (warning)",
    "too-many": "more items than a list may have",
    "unknown-key": "a key that does not exist",
    "unknown-name": "an argument, list or macro that is not defined",
    "useless": "a key or action without effect (warning)",
    "wrong-kind": "a document of another kind or version",
    "wrong-type": "a text where a number is needed, and the like",
    "yaml-limit": "a file too large or too deep",
    "yaml-syntax": "a file that is not YAML",
}
"""Every diagnostic code of this dialect, and what it means."""


def read_sources(sources: Sequence[SourceFile], report: Report) -> list[TracingPolicy]:
    """The policies of some files without a mistake, in order. What is wrong is in the report."""
    found: list[TracingPolicy] = []
    seen: dict[str, Location] = {}
    for source in sources:
        start = len(report.diagnostics)
        for policy in _policies(source, report):
            if policy.name in seen:
                what = f"there is a policy {quoted(policy.name)} already, at {seen[policy.name]}"
                report.add(policy.metadata.at("name"), "duplicate-policy", what, "rename one of them")
                continue
            seen[policy.name] = policy.metadata.at("name")
            found.append(policy)
        report.sort(start)
    return found


def read_text(text: str, file: str = "<text>") -> tuple[list[TracingPolicy], list[Diagnostic]]:
    """The policies of one text without a mistake, and what is wrong; `file` is the name in diagnostics."""
    report = Report(CODES)
    policies = read_sources([SourceFile(file, text.encode("utf-8", "surrogatepass"))], report)
    return policies, report.diagnostics


def _policies(source: SourceFile, report: Report) -> Iterable[TracingPolicy]:
    try:
        text = yaml_nodes.decode(source.data, source.file)
        merging: list[Diagnostic] = []
        for root in lists.objects(text, source.file, merging):
            if report.errors >= MAX_MISTAKES:
                return
            errors = report.errors
            report.take(merging)
            merging.clear()
            policy = _policy(as_value(root, kubernetes=True), report)
            if policy is not None and report.errors == errors:
                Checks(policy, report).run()
                if report.errors == errors:
                    yield policy
    except DocumentError as error:
        report.take([error.diagnostic])


def _policy(value: JsonValue, report: Report) -> TracingPolicy | None:
    kind = next((inner for name, inner in value.pairs if name.text == "kind"), None)
    known = (kinds.KIND, kinds.NAMESPACED_KIND)
    if kind is not None and kind.kind == "string" and kind.text not in known:
        report.add(kind, "wrong-kind", f"a document of kind {quoted(kind.text)} beside tracing policies", suggest(kind.text, known))
        return None
    return Shapes(report).part(value, TracingPolicy, "")
