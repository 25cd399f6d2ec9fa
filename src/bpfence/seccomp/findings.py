# SPDX-License-Identifier: Apache-2.0
"""Mistakes in seccomp profiles in, an ordered list of diagnostics out.

`CODES` is the list of every code that this package reports; docs/seccomp.md is its reference, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from bpfence.errors import Diagnostic, DiagnosticSeverity, Location

MAX_LINES: Final = 10

CODES: Final[Mapping[str, str]] = {
    # reading
    "cannot-read": "a file that cannot be read",
    "json-limit": "a file too large or too deep",
    "json-syntax": "a file that is not JSON",
    "not-utf8": "a file in another encoding",
    "bad-action": "an action that seccomp does not have",
    "bad-architecture": "an architecture that runtimes do not know",
    "bad-capability": "a capability that Linux does not have",
    "bad-errno": "an errno that Linux does not have, or that does not fit its action",
    "bad-flag": "a filter flag that does not exist",
    "bad-kernel": "a minKernel that cannot be read",
    "bad-number": "a number that is not whole, negative, or too large",
    "bad-value": "a name, an image or a label that cannot be one",
    "bad-operator": "a comparison that libseccomp does not have",
    "both-given": "two keys that exclude each other",
    "duplicate-key": "a key written twice in one object",
    "empty": "a list that must not be empty",
    "missing-key": "a key that is required",
    "unknown-key": "a key that does not exist: runtimes ignore it without a word",
    "wrong-kind": "a document of another kind",
    "wrong-type": "a list where an object is needed, and the like",
    # what a profile says
    "architecture-added": "a profile without the machine's own architecture: libseccomp adds it",
    "argument-ignored": "an argument condition, or a part of one, that runtimes ignore",
    "arguments-or": "conditions that look like AND and are OR: one index twice splits the whole rule",
    "conflict": "two rules with different actions that some call matches both",
    "default-entry": "a rule whose action is the default: runtimes leave it out",
    "duplicate-name": "a name twice in one rule",
    "duplicate-rule": "a rule, or a name in it, that an earlier rule already covers with the same action",
    "errno-zero": "an errno of 0: the call is skipped and seems to succeed",
    "missing-on-architecture": "a name that an architecture of the profile does not have",
    "never-applies": "conditions that no machine fulfils",
    "never-matches": "argument conditions that no call fulfils",
    "not-covered": "an architecture that the profile leaves to the default of the machine",
    "pointer-argument": "a condition on a pointer: it compares the address, not what lies there",
    "shadowed": "a rule that can never decide because a wider one has another action",
    "unknown-syscall": "a system call that Linux does not have: runtimes skip it without a word",
    "wide-argument": "a condition on more bits than the argument has",
    # what a profile does to programs
    "allows-all": "a default that allows what is not listed",
    "gets-around": "a denied call that an allowed one can stand in for",
    "io-uring": "calls that io_uring does without passing the filter",
    "libc-needs": "a call that today's C libraries make and that is denied",
    "listener": "NOTIFY without a listener, or where it cannot work",
    "runtime-needs": "a call that container runtimes make after the filter is in force",
    "runtime-skips": "a name that libseccomp of this version does not know: a runtime built on it skips it",
    "socketcall": "a socket rule that socketcall on 32-bit x86 gets around",
    "trace-without-tracer": "TRACE without a tracer is ENOSYS",
    # the filter
    "filter-differs": "a filter that does not mean what the profile says",
    "filter-limit": "a filter longer than the kernel takes",
    "no-libseccomp": "libseccomp is not there, or too old",
    # other formats
    "cannot-express": "something that the other format cannot say",
    "hardened": "what a container's security context lacked and was given",
    "obsolete": "an annotation or field that Kubernetes no longer reads",
}
"""Every diagnostic code of this package, and what it means."""


class Findings:
    """The diagnostics of one piece of work, in the order they were found."""

    def __init__(self) -> None:
        self.diagnostics: list[Diagnostic] = []
        self.errors = 0

    def add(self, place: Location, code: str, message: str, hint: str = "", severity: DiagnosticSeverity = "error") -> None:
        """One finding at a place."""
        if code not in CODES:
            raise KeyError(code)
        self.diagnostics.append(Diagnostic(place, message, hint, severity, code))
        self.errors += severity == "error"

    def warn(self, place: Location, code: str, message: str, hint: str = "") -> None:
        """One finding that stops nothing."""
        self.add(place, code, message, hint, "warning")

    def note(self, place: Location, code: str, message: str, hint: str = "") -> None:
        """Something worth knowing."""
        self.add(place, code, message, hint, "info")

    def sorted(self) -> list[Diagnostic]:
        """The diagnostics in the order of the text. Of warnings and notes that say the same at several places only the first is kept, with
        the lines of the others."""
        kept: dict[tuple[str, ...], tuple[Diagnostic, list[int]]] = {}
        for diagnostic in sorted(self.diagnostics, key=lambda d: d.location):
            key: tuple[str, ...] = (diagnostic.severity, diagnostic.code, diagnostic.message, diagnostic.hint)
            if diagnostic.severity == "error":
                key += (str(diagnostic.location),)
            kept.setdefault(key, (diagnostic, []))[1].append(diagnostic.location.line)
        return [_with_lines(diagnostic, lines) for diagnostic, lines in kept.values()]


def _with_lines(diagnostic: Diagnostic, lines: list[int]) -> Diagnostic:
    others = [str(line) for line in dict.fromkeys(lines) if line != diagnostic.location.line]
    if not others:
        return diagnostic
    shown = ", ".join(others[:MAX_LINES]) + (f" and {len(others) - MAX_LINES} more" if len(others) > MAX_LINES else "")
    return msgspec.structs.replace(diagnostic, message=f"{diagnostic.message} (also on line {shown})")
