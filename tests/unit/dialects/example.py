# SPDX-License-Identifier: Apache-2.0
"""A policy language of two words, as an example of what a dialect is.

    # paths
    watch /etc/shadow unless cat      reported when it was opened by another program than cat
    deny /etc/secret                  cannot be opened

A real one has a folder for each of its rooms. test_example.py runs this one from text to alert.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from bpfence.alerts.alert import RuleInfo, Said
from bpfence.alerts.faults import Faults
from bpfence.conditions.links import FindLinks
from bpfence.dialects.dialect import Context, Facts
from bpfence.dialects.tools import Tools
from bpfence.documents.files import SourceFile
from bpfence.errors import Diagnostic, Location
from bpfence.events.source import Observation
from bpfence.events.values import escape
from bpfence.policy import Action, Atom, Op, Policy, Rule, When

WATCHING, DENYING = "paths", "paths-deny"
_LINE: Final = re.compile(r"(?P<word>watch|deny) (?P<path>/\S*)(?: unless (?P<name>\S+))?")


class PathRule(NamedTuple):
    """One line."""

    word: str
    path: str
    unless: str
    location: Location


# ---- read: bytes with places → final rules, diagnostics ----


def read(source: SourceFile) -> Iterator[PathRule | Diagnostic]:
    for number, line in enumerate(source.data.decode(errors="surrogateescape").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found, place = _LINE.fullmatch(line), Location(source.file, number, 1)
        if found is None:
            yield Diagnostic(place, f"{line[:60]!r} is no rule", "write: watch PATH [unless PROGRAM], or deny PATH", code="bad-line")
        else:
            yield PathRule(found["word"], found["path"], found["name"] or "", place)


# ---- lower: final rules → policies implied by them ----


class PathRules:
    def __init__(self, rules: Iterable[PathRule]) -> None:
        self.rules = {f"line {rule.location.line}": rule for rule in rules}

    @property
    def locations(self) -> Sequence[Location]:
        return [rule.location for rule in self.rules.values()]

    def policies(self, facts: Facts) -> tuple[Policy, ...]:
        watched = [self._rule(name, WATCHING, Action.AUDIT) for name, rule in self.rules.items() if rule.word == "watch"]
        denied = [self._rule(name, DENYING, Action.DENY) for name, rule in self.rules.items() if rule.word == "deny"]
        return Policy(name=WATCHING, mode="audit", rules=tuple(watched)), Policy(name=DENYING, rules=tuple(denied))

    def _rule(self, name: str, policy: str, action: Action) -> Rule:
        """The name of the program is left for user space; what denies is exact."""
        when, confirm = (When.SUCCESS, WATCHING) if policy == WATCHING else (When.DECIDED, "")
        own = self.rules[name]
        common = {"policy": policy, "name": name, "action": action, "when": when, "confirm": confirm, "location": own.location}
        return Rule(events=("file.open",), condition=Atom("file.path", Op.EQUALS, own.path), **common)  # type: ignore[arg-type]

    def paths(self) -> Iterable[str]:
        return [rule.path for rule in self.rules.values()]

    def resolved(self, find: FindLinks, where: str) -> tuple[PathRules, list[Diagnostic]]:
        named = ((rule, find(rule.path).names) for rule in self.rules.values())
        return PathRules(rule._replace(path=(*paths, rule.path)[0]) for rule, paths in named), []

    def smaller(self, policy: Policy) -> Iterator[tuple[Policy, tuple[str, ...]]]:
        yield policy, ()


# ---- confirm: an observation, candidates → rules that really match; show: what they say of it ----
class PathConfirm:
    def __init__(self) -> None:
        self.faults, self.candidates, self.confirmed = Faults(), 0, 0

    def use(self, generation: int, rules: PathRules | None, infos: Iterable[RuleInfo]) -> None:
        self._rules: dict[str, PathRule] = rules.rules if rules is not None else {}
        self._infos = [info for info in infos if info.confirm == WATCHING]

    def view(self, seen: Observation) -> PathView:
        return PathView(seen, self._rules)

    def confirm(self, view: PathView, among: Collection[str] | None) -> list[RuleInfo]:
        self.candidates += 1
        found = [info for info in self._infos if (among is None or info.rule in among) and self._rules[info.rule].unless != view.program]
        self.confirmed += bool(found)
        return found

    def hosts(self) -> dict[str, Iterable[str]]:
        return {}

    def start(self, changed: Callable[[], None]) -> None: ...
    def refused(self, count: int, moment: int) -> None: ...
    def flush(self) -> None: ...
    def reopen(self) -> None: ...
    def close(self) -> None: ...


class PathView:
    def __init__(self, seen: Observation, rules: dict[str, PathRule]) -> None:
        self.program = escape(seen.record.comm) if seen.record is not None else ""
        self._rules, self.refused = rules, False

    def said(self, policy: str, rule: str) -> Said:
        found = self._rules[rule]
        return Said(WATCHING, f"{self.program} opened {found.path}", {"line": found.location.line})


class Paths:
    """The dialect: its names, and its rooms."""

    name, title, policies, reads_processes = WATCHING, "path rules", (WATCHING, DENYING), False
    options, forms, objects = (), (), ()

    def choose(self, given: object) -> None: ...
    def tools(self) -> Tools:
        return Tools(self)

    def claims(self, data: bytes) -> bool:
        return data.startswith(b"# paths\n")

    def read(self, sources: Sequence[SourceFile], options: object) -> tuple[PathRules, list[Diagnostic]]:
        found = [item for source in sources for item in read(source)]
        rules = PathRules(item for item in found if isinstance(item, PathRule))
        return rules, [item for item in found if isinstance(item, Diagnostic)]

    def confirm(self, context: Context) -> PathConfirm:
        return PathConfirm()


PATHS: Final = Paths()
