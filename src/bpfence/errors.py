# SPDX-License-Identifier: Apache-2.0
"""Mistakes in, exceptions and diagnostics out.

Everything a user can cause is a Diagnostic (file:line:col, what, hint), collected and printed by the CLI; a bug stays a
plain Python exception. The exception tree:

    BpfenceError                    exit code
    ├── PolicyError                 2   one or more diagnostics of severity error
    ├── CompileError                2   a rule cannot be decided where it must be
    ├── KernelError                 3   the kernel or the privileges lack something
    └── UsageError                  2   a command was called wrongly
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

DiagnosticSeverity = Literal["error", "warning", "info"]


class Location(msgspec.Struct, frozen=True, order=True):
    """A place in a policy file. `line` and `column` count from 1; 0 means the whole file."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class Diagnostic(msgspec.Struct, frozen=True):
    """One finding about a user's input.

    `code` is a stable kebab-case name (see docs/diagnostics.md); `hint` says how to mend it.
    """

    location: Location
    message: str
    hint: str = ""
    severity: DiagnosticSeverity = "error"
    code: str = ""

    def __str__(self) -> str:
        text = f"{self.location}: {self.severity}: {self.message}"
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class BpfenceError(Exception):
    """Root of everything the CLI turns into a message and an exit code."""

    exit_code = 2


class PolicyError(BpfenceError):
    """A policy is wrong. `diagnostics` holds every finding, warnings included."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(str(d) for d in self.diagnostics))


class CompileError(PolicyError):
    """A well-formed policy cannot be compiled for the kernel: names the atom and the reason."""


class KernelError(BpfenceError):
    """The running kernel, its configuration or our privileges lack something. `missing` names it."""

    exit_code = 3

    def __init__(self, message: str, *, missing: str = "", hint: str = "") -> None:
        self.missing = missing
        self.hint = hint
        super().__init__(message)


class UsageError(BpfenceError):
    """A command was called with arguments that do not fit together."""
