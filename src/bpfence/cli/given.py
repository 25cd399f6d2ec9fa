# SPDX-License-Identifier: Apache-2.0
"""Arguments that name policy files in, paths and settings for reading them out: standard input, and other hosts' users.

Called by `check`, `explain`, `test` and `convert`; `test`, `run` and `exec` also take the options that languages add.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

import click

from bpfence import names
from bpfence.cli.show import err, show_diagnostics
from bpfence.dialects.option import Option
from bpfence.dialects.registry import DIALECTS, claimed
from bpfence.documents.files import SourceFile, sources
from bpfence.documents.placed import MAX_BYTES
from bpfence.documents.report import Report
from bpfence.errors import Diagnostic, PolicyError, UsageError
from bpfence.events.values import printable

PATHS: Final = click.Path(exists=True, allow_dash=True, path_type=str)
STDIN: Final = "<stdin>"
F = TypeVar("F", bound=Callable[..., Any])


def dialect_options(function: F) -> F:
    """The options that languages add, as one argument `options`: by a language's name, what its `read` takes."""

    @functools.wraps(function)
    def gathered(**given: Any) -> Any:
        options = {}
        for name, dialect in DIALECTS.items():
            options[name] = dialect.choose({option.member: given.pop(_parameter(name, option)) for option in dialect.options})
        return function(options=options, **given)

    made = cast("F", gathered)
    for name, dialect in DIALECTS.items():
        for option in reversed(dialect.options):
            made = _added(name, option)(made)
    return made


def _parameter(dialect: str, option: Option) -> str:
    return f"{dialect}_{option.member}"


def _added(dialect: str, option: Option) -> Callable[[F], F]:
    kind = click.Choice(option.choices, case_sensitive=False) if option.choices else click.STRING
    return click.option(
        *option.flags,
        _parameter(dialect, option),
        type=kind,
        default=option.default,
        multiple=option.many,
        metavar=option.metavar,
        show_default=bool(option.choices),
        help=option.help,
    )


def look(files: Sequence[str]) -> tuple[dict[str, list[SourceFile]], list[Diagnostic]]:
    """Policy files by their languages, each read once; and what is not read, or could not be. `-` is standard input, whose name is
    STDIN."""
    report = Report()
    files_read: list[SourceFile] = []
    for file in files:
        files_read += [SourceFile(STDIN, sys.stdin.buffer.read(MAX_BYTES + 1))] if file == "-" else sources([file], report)
    return claimed(files_read), report.diagnostics


def read(files: Sequence[str]) -> dict[str, list[SourceFile]]:
    """The same, but PolicyError where some could not be read. Warnings about files that are not read are shown."""
    by_language, unread = look(files)
    if any(diagnostic.severity == "error" for diagnostic in unread):
        raise PolicyError(unread)
    show_diagnostics(diagnostic for diagnostic in unread if diagnostic.severity == "warning")
    return by_language


def alone(by_language: Mapping[str, list[SourceFile]], done: str) -> tuple[str, list[SourceFile]]:
    """The one language of some files, and the files; UsageError where they are of several. `done`: what was to be done with them,
    "explained"."""
    if len(by_language) > 1:
        titles = " and ".join(DIALECTS[name].title for name in by_language)
        raise UsageError(f"{titles} are {done} apart from each other: name the files of one language")
    return next(iter(by_language.items()), (next(iter(DIALECTS)), []))


def no_host_option(function: F) -> F:
    """`--no-host`, as argument `no_host`."""
    text = "Take names of users and groups as they are written, for policies of another host that has them."
    return click.option("--no-host", is_flag=True, help=text)(function)


@contextlib.contextmanager
def naming(no_host: bool) -> Iterator[None]:
    """With `no_host` no user database is asked, and a note says which names were taken as they are written."""
    with contextlib.ExitStack() as stack:
        symbols = stack.enter_context(names.symbolic()) if no_host else {}
        try:
            yield
        finally:
            if symbols:
                taken = ", ".join(f"{table} {name}" for table, name in symbols)
                err().print(f"note: taken as written, without a look at this host: {printable(taken)}")
