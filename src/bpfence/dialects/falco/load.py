# SPDX-License-Identifier: Apache-2.0
"""Falco rule files that were read in, their final rules and all that is wrong with them out.

Rules that deny are lowered here for a trial: what the kernel cannot decide of them is a mistake. No file makes it raise.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from bpfence.dialects.falco.options import PRIORITIES, PathSource
from bpfence.dialects.falco.read.document import CODES, MAX_MISTAKES, entries
from bpfence.dialects.falco.read.resolve import Collector, FalcoRule, LoadedRules
from bpfence.documents import yaml_nodes
from bpfence.documents.files import SourceFile, sources
from bpfence.documents.placed import DocumentError
from bpfence.documents.report import Report
from bpfence.errors import Diagnostic, Location

if TYPE_CHECKING:
    from bpfence.dialects.falco.confirm.rules import RuleSet


def load_files(paths: Iterable[str | os.PathLike[str]]) -> tuple[LoadedRules, list[Diagnostic]]:
    """The rules of some files and directories (their *.yaml and *.yml, by name), read in order."""
    report = Report(CODES)
    return load_sources(sources(paths, report), report)


def load_sources(files: Iterable[SourceFile], report: Report | None = None) -> tuple[LoadedRules, list[Diagnostic]]:
    """The rules of some files that were read, in order. `report`: what was found about them before."""
    collector = Collector(report or Report(CODES))
    with _uncollected():
        for source in files:
            _read(source.data, source.file, collector)
        return _finish(collector)


def load_text(text: str, file: str = "<text>") -> tuple[LoadedRules, list[Diagnostic]]:
    """The rules of one text; `file` is the name in diagnostics."""
    return load_texts([(text, file)])


def load_texts(texts: Iterable[tuple[str, str]]) -> tuple[LoadedRules, list[Diagnostic]]:
    """The rules of several texts with the names of their files, in order."""
    collector = Collector(Report(CODES))
    with _uncollected():
        for text, file in texts:
            _read(text.encode("utf-8", "surrogatepass"), file, collector)
        return _finish(collector)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector: trees hold no cycles while they are made, and looking for some takes half of the time of a large
    load."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _read(data: bytes, file: str, collector: Collector) -> None:
    report = collector.report
    has_documents = False
    try:
        for root in yaml_nodes.documents(yaml_nodes.decode(data, file), file):
            for entry in entries(root, report):
                collector.take(entry)
            has_documents = True
    except DocumentError as error:
        report.take([error.diagnostic])
        return
    if not has_documents:
        report.add(Location(file), "no-rules", "the file holds no rules", "", "warning")


def _finish(collector: Collector) -> tuple[LoadedRules, list[Diagnostic]]:
    loaded = collector.finish()
    report = collector.report
    for rule in loaded.rules:
        if report.errors >= MAX_MISTAKES:
            break
        check_enforcement(rule, report)
    order = {diagnostic.location.file: n for n, diagnostic in reversed(list(enumerate(report.diagnostics)))}
    diagnostics = sorted(report.diagnostics, key=lambda d: (order[d.location.file], d.location.line, d.location.column))
    return loaded, list(dict.fromkeys(diagnostics))


def check_enforcement(rule: FalcoRule, report: Report, *, paths: PathSource = "kernel") -> None:
    """Report every test of a rule with `bpfence: {action: deny}` that the kernel cannot decide. `paths`: what fd.name means."""
    from bpfence.dialects.falco.lower.rules import enforced  # imported late: it needs the names of this package's modules

    if rule.enforcement is None or rule.enforcement.action == "audit":
        return
    for problem in enforced(rule, paths=paths).left:
        place = problem.place if problem.place.line else rule.enforcement.place.location
        what = f"rule {rule.name!r} cannot {rule.enforcement.action}: {problem.text}: {problem.reason}"
        report.add(place, "not-enforceable", what, problem.hint)


def select(
    rules: Iterable[FalcoRule],
    *,
    names: Iterable[str] = (),
    tags: Iterable[str] = (),
    disabled: Iterable[str] = (),
    priority: str = "Debug",
) -> list[FalcoRule]:
    """Rules that are enabled, or (with `names` or `tags`) only those whose name matches a pattern of `names` or that have one of `tags`; in
    any case without those of `disabled`.

    Patterns are those of a shell. `priority`: the least urgent that is kept, as Falco spells it.
    """
    names, tags, disabled = list(names), set(tags), list(disabled)
    least = PRIORITIES.index(priority)
    chosen = []
    for rule in rules:
        picked = any(fnmatchcase(rule.name, name) for name in names) or not tags.isdisjoint(rule.tags)
        wanted = picked if names or tags else rule.enabled
        if wanted and PRIORITIES.index(rule.priority) <= least and not any(fnmatchcase(rule.name, name) for name in disabled):
            chosen.append(rule)
    return chosen


def undecided_by_kernel(rules: RuleSet) -> list[Diagnostic]:
    """What the kernel cannot decide of rules that deny, when paths are compared otherwise than `load_files` has assumed."""
    report = Report(CODES)
    for rule in rules.rules:
        check_enforcement(rule, report, paths=rules.paths)
    return report.diagnostics
