# SPDX-License-Identifier: Apache-2.0
"""Mistakes found by a dialect in, an ordered list of diagnostics out.

Every dialect collects into one Report per load, so that a user sees all mistakes of all files at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from bpfence.documents.placed import Placed
from bpfence.documents.yaml_nodes import YamlNode
from bpfence.errors import Diagnostic, DiagnosticSeverity, Location

CODES: Final[Mapping[str, str]] = {
    "about-caller": "a rule on exec that chooses by the program that calls exec (warning; information where that is told by process.exe)",
    "allow-denied": "an allow rule for what another rule of the policy denies (warning)",
    "always-true": "alternatives of which one is true of every value (warning)",
    "any-bit": "a whole mode where one of its bits is enough (warning)",
    "as-given": "a verdict that depends on what the caller wrote, which can be spelled otherwise (warning)",
    "as-in-proc": "a path as only /proc shows it (warning)",
    "bad-address": "an address or network that cannot be read",
    "bad-condition": "a condition that cannot be read",
    "bad-errno": "an errno that Linux does not have",
    "bad-glob": "a glob that cannot be read",
    "bad-limit": "a limit that cannot be read",
    "bad-message": "a message with an unknown or broken {field}",
    "bad-name": "a name that is not in the field's table",
    "bad-number": "a number or range that cannot be read, or lies outside what the field can hold",
    "bad-rate": "a rate that cannot be read",
    "bad-threshold": "a number of events or a time that cannot be counted",
    "bad-value": "a value that is not one of the few allowed",
    "cannot-read": "a file that cannot be read",
    "chosen-name": "an exception by a name that everybody can give his program (warning)",
    "datagrams": "connections are denied and datagrams, which need none, are not (warning)",
    "duplicate-key": "a key written twice in one map",
    "duplicate-policy": "two policies of one name",
    "duplicate-rule": "two rules of one name in a policy",
    "empty": "a list, a map or a value that must not be empty",
    "field-not-on-event": "a field, or two that are compared, that none of the rule's events carries",
    "field-on-some-events": "a field that some of the rule's events do not carry (warning)",
    "follow-without-path": "follow: object without a literal path to follow",
    "follow-partly": "follow: object with patterns that cannot be followed (warning)",
    "host-path": "a path of the host in a policy for containers (warning)",
    "limit-without-level": "limit under a scope whose cgroups may lie at any level (warning)",
    "limit-without-fork": "limit on another event than process.fork",
    "literal-glob": "a comparison with =, or the value of a label, that looks like a glob (warning)",
    "looks-like-regex": "a glob that looks like a regular expression (warning)",
    "match-and-condition": "match or unless together with condition",
    "missing-key": "a key that is required",
    "module-without-path": "a rule about kernel.module that decides by the file (warning)",
    "never-told": "a test on what only Kubernetes' API server tells (warning)",
    "no-rules": "a policy, file or directory that does nothing (warning)",
    "not-deniable": "deny, kill or a default on an event that can only be watched",
    "not-read": "a file of a directory that is no policy (information)",
    "not-supported": "something that a later version will know",
    "not-utf8": "a file in another encoding",
    "odd-glob": "a glob that means the same as a simpler one (warning)",
    "often-absent": "a verdict that hangs on a field which some acts do not have (warning)",
    "one-family": "all addresses of IPv4 or IPv6, and not of the other (warning)",
    "one-level": "`*` in a directory where everybody can make directories (warning)",
    "one-name": "a rename that is denied by its old name alone (warning)",
    "open-only": "a file that must not be opened for writing, and can be replaced (warning)",
    "stops-host": "a denial that takes from the host what none runs without (warning)",
    "unknown-event": "an event that does not exist",
    "unknown-field": "a field that does not exist",
    "unknown-key": "a key that does not exist",
    "unknown-user": "a user or group that this host does not have",
    "unreachable": "a rule or value that can never match",
    "useless": "a key, rule or test that has no effect",
    "whole-arguments": "a test on arguments that forgets the program's name, with which they begin (warning)",
    "wrong-kind": "a document that is not a SecurityPolicy of this version",
    "wrong-type": "a list where a map is needed, fields compared that hold different things, and the like",
    "yaml-limit": "a file too large or too deep",
    "yaml-syntax": "a file that is not YAML",
}
"""Every diagnostic code of the native dialect, and what it means; those of `falco` are in its `document`."""


MAX_OF_FILE: Final = 200
"""Diagnostics of one file that are told."""


class TextError(Exception):
    """A text that cannot be read, found below the level that knows where it stands. `offset` counts characters from 0."""

    def __init__(self, message: str, hint: str = "", code: str = "bad-value", offset: int = 0) -> None:
        self.message = message
        self.hint = hint
        self.code = code
        self.offset = offset
        super().__init__(message)


class Report:
    """The diagnostics of one load, in the order they were found. `codes` are those of the dialect that it is for."""

    def __init__(self, codes: Mapping[str, str] = CODES) -> None:
        self.codes = codes
        self.diagnostics: list[Diagnostic] = []
        self.errors = 0

    def add(self, place: Placed | Location, code: str, message: str, hint: str = "", severity: DiagnosticSeverity = "error") -> None:
        """One finding, at a node or a place."""
        if code not in self.codes:
            raise KeyError(code)
        location = place.location if isinstance(place, Placed) else place
        self.diagnostics.append(Diagnostic(location, message, hint, severity, code))
        self.errors += severity == "error"

    def take(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Findings of a reader with codes of its own."""
        for diagnostic in diagnostics:
            self.diagnostics.append(diagnostic)
            self.errors += diagnostic.severity == "error"

    def sort(self, start: int) -> None:
        """Put the diagnostics of one file, from number `start` on, in the order of the text."""
        self.diagnostics[start:] = sorted(self.diagnostics[start:], key=lambda d: (d.location.line, d.location.column))

    def cut(self, start: int, file: str) -> None:
        """Of the diagnostics of one file, from number `start` on, keep as many as are read: errors first. A last one counts the others;
        its code is too-many."""
        found = self.diagnostics[start:]
        if len(found) <= MAX_OF_FILE:
            return
        chosen = sorted(range(len(found)), key=lambda n: found[n].severity != "error")[:MAX_OF_FILE]
        self.diagnostics[start:] = [found[n] for n in sorted(chosen)]
        lost = [found[n] for n in set(range(len(found))).difference(chosen)]
        severity: DiagnosticSeverity = "error" if any(one.severity == "error" for one in lost) else "warning"
        what = f"there are {len(lost)} more findings in this file, of which {sum(one.severity == 'error' for one in lost)} are errors"
        self.add(Location(file), "too-many", what, "mend these first", severity)

    def bad(self, node: YamlNode, problem: TextError) -> None:
        """A text inside `node` that could not be read."""
        self.add(node.place(problem.offset), problem.code, problem.message, problem.hint)
