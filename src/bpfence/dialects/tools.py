# SPDX-License-Identifier: Apache-2.0
"""What commands ask of a policy language, apart from enforcing it: check, explain, test, fields, events, convert.

Results are data, for people and as JSON; the command line draws them. These are the defaults: every language can be checked and explained
by what its rules lower to. A language overrides what it can do better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from bpfence.conditions.text import condition_text
from bpfence.dialects.dialect import Dialect, Rules
from bpfence.dialects.facts import Facts
from bpfence.documents.files import SourceFile
from bpfence.errors import CompileError, Diagnostic, Location, PolicyError, UsageError
from bpfence.events.values import printable
from bpfence.host.links import Links
from bpfence.policy import Policy

StyledText = tuple[str, str]
"""A text, and its style in words of rich; "": none. What others wrote in it is printable."""
StyledLine = tuple[StyledText, ...]


class TextTable(NamedTuple):
    """Rows of texts, or of pieces with a style."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[object]]
    title: str | None = None


class Shown(NamedTuple):
    """A result: as JSON, and for people part by part; an empty line is ()."""

    json: Mapping[str, Any]
    parts: Sequence[TextTable | StyledLine]


class Tested(NamedTuple):
    """Events that were decided. `notes`: for standard error. `expected`: how many lines say what is expected. `faults`: bugs of ours."""

    shown: Shown
    events: int
    expected: int
    mismatches: int
    notes: Sequence[StyledLine] = ()
    faults: int = 0


class NamedRule(Protocol):
    """A rule of any language."""

    @property
    def name(self) -> str: ...
    @property
    def location(self) -> Location: ...


NOTHING: Final = Shown({}, ())


def diagnostic_as_json(diagnostic: Diagnostic) -> dict[str, Any]:
    """A diagnostic, flat."""
    place = diagnostic.location
    return {
        "file": printable(place.file),
        "line": place.line,
        "column": place.column,
        "severity": diagnostic.severity,
        "code": diagnostic.code,
        "message": printable(diagnostic.message),
        "hint": printable(diagnostic.hint),
    }


class Tools:
    """The tools of one language."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

    def read(self, sources: Sequence[SourceFile], options: Any = None) -> tuple[Rules, list[Diagnostic]]:
        """The rules of files without a mistake, and what else was found; PolicyError where there is one."""
        rules, diagnostics = self.dialect.read(sources, options)
        if any(diagnostic.severity == "error" for diagnostic in diagnostics):
            raise PolicyError(diagnostics)
        return rules, [diagnostic for diagnostic in diagnostics if diagnostic.severity == "warning"]

    def check(self, sources: Sequence[SourceFile], links: Links) -> tuple[list[Diagnostic], list[dict[str, Any]]]:
        """Mistakes, what links make of paths, and a line of summary for each policy: name, mode, rules."""
        rules, diagnostics = self.dialect.read(sources, None)
        links.look_up(rules.paths())
        rules, told = rules.resolved(links.find, links.where)
        try:
            summary = [{"name": policy.name, "mode": policy.mode, "rules": len(policy.rules)} for policy in rules.policies(Facts())]
        except CompileError as error:  # as `read` has told, or by what links have made of them
            summary, told = [], [*told, *(found for found in error.diagnostics if found not in diagnostics)]
        return [*diagnostics, *links.findings(Location(sources[0].file)), *told], summary

    def explain(
        self, sources: Sequence[SourceFile], links: Links, *, names: Sequence[str] = (), event: str = ""
    ) -> tuple[Shown, list[Diagnostic]]:
        """What rules become. `names`: patterns of those to show; `event`: a sample, as JSON."""
        if names or event:
            raise UsageError(f"{self.dialect.title} are explained without --rule and --event")
        rules, warnings = self.read(sources)
        rows: list[dict[str, Any]] = [
            {
                "policy": policy.name,
                "rule": rule.name,
                "mode": policy.mode,
                "action": rule.action.name.lower(),
                "confirm": rule.confirm,
                "kernel": {event: condition_text(rule.condition_for(event)) for event in rule.events},
            }
            for policy in rules.policies(Facts())
            for rule in policy.rules
        ]
        lines = [(row["policy"], row["rule"], row["action"], event, text) for row in rows for event, text in row["kernel"].items()]
        return Shown({"rules": rows}, [TextTable(("policy", "rule", "action", "event", "decided in the kernel by"), lines)]), warnings

    def test(
        self, sources: Sequence[SourceFile], lines: Iterable[bytes], *, mode: str | None = None, options: Any = None, form: str = ""
    ) -> tuple[Tested, list[Diagnostic]]:
        """Decide recorded events, one a line. `form`: one of the dialect's forms; "": a table."""
        raise UsageError(f"{self.dialect.title} cannot be tested without a kernel")

    def fields(self, pattern: str, *, kernel: bool) -> Shown:
        """Fields with `pattern` in their names; `kernel`: only those that the kernel decides on some event."""
        return NOTHING

    def events(self, pattern: str) -> Shown:
        """Events with `pattern` in their names."""
        return NOTHING

    def exactly(
        self, sources: Sequence[SourceFile], mode: str
    ) -> tuple[list[tuple[NamedRule, Policy | list[Diagnostic]]], list[Diagnostic]]:
        """Rules with the policies that mean exactly the same, or why there is none."""
        raise UsageError(f"{sources[0].file}: {self.dialect.title} cannot be converted")

    def document(self, policy: Policy) -> tuple[str, str]:
        """The text of a policy in this language, or "" and why it has none."""
        return "", f"nothing writes {self.dialect.title}"


def heading(text: str) -> StyledLine:
    """A line that stands above others, in bold."""
    return ((printable(text), "bold"),)
