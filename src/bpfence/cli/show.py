# SPDX-License-Identifier: Apache-2.0
"""Results and errors in, terminal text or JSON out.

Called by every command. Text for people goes through rich without its markup; what may hold others' strings is made printable first. rich
is imported where something is shown: help and JSON do without it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TextIO, TypeVar, cast

import click
import msgspec

from bpfence.errors import BpfenceError, Diagnostic, KernelError, PolicyError, UsageError
from bpfence.events.values import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from bpfence.dialects.tools import StyledLine, TextTable
    from bpfence.outputs.messages import MessageQueue

STYLES: Final = {"error": "bold red", "warning": "bold yellow", "info": "cyan"}
MAX_SOURCE_LINE: Final = 200
BUG_FRAMES: Final = 4
UNCUT: Final = 4096
"""Columns of a table that is not for a terminal."""
F = TypeVar("F", bound=Callable[..., Any])


class LazyGroup(click.Group):
    """Commands that are imported when they are asked for.

    `modules`: each module → its commands and the first sentences of their help, which the group's help shows without importing them. A
    module lists its commands in COMMANDS.
    """

    def __init__(self, *args: Any, modules: Mapping[str, Mapping[str, str]], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.modules: Final = modules

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """One command; imports as little as possible."""
        module = next((module for module, names in self.modules.items() if name in names), None)
        if module is not None and name not in self.commands:
            for command in importlib.import_module(module).COMMANDS:
                self.add_command(command)
        return super().get_command(context, name)

    def list_commands(self, context: click.Context) -> list[str]:
        """All of them."""
        return sorted({*super().list_commands(context), *(name for names in self.modules.values() for name in names)})

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in the help."""
        imported = self.commands
        named = {name: click.Command(name, help=text) for names in self.modules.values() for name, text in names.items()}
        self.commands = {**named, **imported}
        try:
            super().format_commands(context, formatter)
        finally:
            self.commands = imported


def json_option(function: F) -> F:
    """`--json`, as argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(function)


def emit_json(value: object) -> None:
    """A result as indented JSON on standard output."""
    # Round trip by msgspec: structs become objects. json escapes everything that is not ASCII.
    click.echo(json.dumps(msgspec.to_builtins(value, str_keys=True), indent=2))


class Trimmed(io.TextIOBase):
    """A stream that drops spaces at the ends of lines, which fill up the cells of tables."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # an attribute there
        """That of the stream."""
        return self._stream.encoding

    def write(self, text: str) -> int:
        """Write whole lines."""
        self._stream.write(re.sub(r" +$", "", text, flags=re.MULTILINE))
        return len(text)

    def flush(self) -> None:
        """Hand on."""
        self._stream.flush()


def out() -> Console:
    """Standard output for people. Where it is no terminal nothing is cut to a width: its reader has another one."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    file = sys.stdout if terminal else cast("IO[str]", Trimmed(sys.stdout))
    return Console(file=file, highlight=False, markup=False, emoji=False, soft_wrap=not terminal, width=None if terminal else UNCUT)


def err() -> Console:
    """Standard error for people."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def styled(text: str, style: str = "") -> Text:
    """Text in a style of rich's. What others wrote must be made printable before."""
    from rich.text import Text

    return Text(text, style)


def assembled(*parts: str | tuple[str, str]) -> Text:
    """Texts, some of them with a style, one after the other."""
    from rich.text import Text

    return Text.assemble(*parts)


def draw(parts: Iterable[TextTable | StyledLine], console: Console | None = None) -> None:
    """Parts of what tools of a language show, on standard output or another console."""
    from bpfence.dialects.tools import TextTable

    console = console or out()
    for part in parts:
        if isinstance(part, TextTable):
            console.print(table(*part.columns, rows=[[_cell(cell) for cell in row] for row in part.rows], title=part.title))
        else:
            console.print(assembled(*part))


def _cell(cell: object) -> object:
    return styled(*cell) if isinstance(cell, tuple) else cell


def counted(count: int, singular: str, plural: str = "") -> str:
    """A number and what it counts, as people say it: "1 error", "2 errors"."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def met(events: int, expected: int, mismatches: int) -> str:
    """How many events were tested and decided as expected, in words. `expected`: of how many that was said."""
    if mismatches:
        return f"{counted(events, 'event')}, {mismatches} not as expected"
    if not expected:
        return f"{counted(events, 'event')}, without `expect`: nothing was compared"
    rest = f", {events - expected} without `expect`" if events > expected else ""
    return f"{counted(events, 'event')}, {'all' if not rest else expected} as expected{rest}"


def table(*columns: str, rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """A plain table; every cell is made printable."""
    from rich.table import Table
    from rich.text import Text

    made = Table(
        *columns,
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="dim",
        show_header=any(columns),
    )
    for column in made.columns:
        column.overflow = "fold"  # two lines are better than a name that is cut off
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(printable(str(cell))) for cell in row))
    return made


class Command(click.Command):
    """A command whose BpfenceErrors, and what the system refuses it, are printed and become the exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (BpfenceError, OSError) as caught:
            error = refused(caught) if isinstance(caught, OSError) else caught
            if ctx.params.get("as_json"):
                emit_json(error_as_json(error))
            else:
                show_error(error)
            ctx.exit(error.exit_code)


def refused(error: OSError) -> BpfenceError:
    """A message for what the system refused: a file that cannot be read, a full disk."""
    said = error.strerror or str(error)
    where = error.filename if isinstance(error.filename, str) else os.fsdecode(error.filename) if isinstance(error.filename, bytes) else ""
    text = f"{where}: {said}" if where else said
    if error.errno in (errno.EACCES, errno.EPERM):
        return KernelError(text, missing="the permission", hint="" if os.geteuid() == 0 else "run as root")
    return UsageError(text)


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for JSON; what comes after `--` belongs to another command."""
    return "--json" in arguments[: arguments.index("--") if "--" in arguments else None]


def show_usage(error: click.ClickException, as_json: bool) -> None:
    """A command line that click cannot make sense of: as JSON on standard output, or for people on standard error."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"see `{context.command_path} --help`" if context is not None else ""
    text = printable(error.format_message().split("\n", 1)[0])
    if as_json:
        emit_json({"error": text, "hint": hint})
        return
    err().print(assembled(("error", STYLES["error"]), f": {text}"))
    if hint:
        err().print(assembled(("hint", "bold"), f": {hint}"))


def show_bug(error: BaseException) -> None:
    """A bug of ours, in one message that tells the place; with the whole traceback where BPFENCE_DEBUG is set."""
    if os.environ.get("BPFENCE_DEBUG"):
        traceback.print_exception(error)
        return
    frames = traceback.extract_tb(error.__traceback__)[-BUG_FRAMES:]
    places = ", ".join(f"{frame.filename.rpartition('/bpfence/')[2]}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    text = printable(f"{type(error).__name__}: {error}".split("\n", 1)[0])
    console = err()
    console.print(assembled(("error", STYLES["error"]), f": this is a bug in bpfence: {text}"))
    console.print(styled(f"at {printable(places)}", "dim"))
    console.print(assembled(("hint", "bold"), ": please report it; BPFENCE_DEBUG=1 in the environment shows the whole traceback"))


def usable_streams() -> None:
    """Make standard input, output and error usable: a closed one leads nowhere, and what cannot be encoded is escaped."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # open(2) takes the lowest free number, which is the missing one: no file that is opened later can take its place.
            os.open(os.devnull, os.O_RDWR)
    nowhere = Path(os.devnull)
    sys.stdin = sys.stdin or nowhere.open(encoding="utf-8")
    sys.stdout = sys.stdout or nowhere.open("w", encoding="utf-8")
    sys.stderr = sys.stderr or nowhere.open("w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flushed() -> bool:
    """Whether all that was printed has gone out. Where it has not, the interpreter must not try again at its end, and complain."""
    try:
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not isinstance(error, BrokenPipeError):
                show_error(UsageError(f"standard output: {error.strerror or error}"))
        return isinstance(error, BrokenPipeError)
    return True


def error_as_json(error: BpfenceError) -> dict[str, Any]:
    """What `--json` prints instead of a result."""
    fields: dict[str, Any] = {"error": printable(str(error).split("\n", 1)[0])}
    if isinstance(error, PolicyError):
        fields["findings"] = [diagnostic_as_json(diagnostic) for diagnostic in error.diagnostics]
    if isinstance(error, KernelError):
        fields |= {"missing": error.missing, "hint": error.hint}
    return fields


def show_error(error: BpfenceError) -> None:
    """An error on standard error."""
    if isinstance(error, PolicyError):
        show_diagnostics(error.diagnostics)
        return
    console = err()
    lines = [printable(line) for line in str(error).split("\n")]
    console.print(assembled(("error", STYLES["error"]), f": {lines[0]}"))
    for line in lines[1:]:
        console.print(styled(line, "dim"))
    if isinstance(error, KernelError) and error.hint:
        console.print(assembled(("hint", "bold"), f": {printable(error.hint)}"))


def diagnostic_as_json(diagnostic: Diagnostic) -> dict[str, Any]:
    """A diagnostic, flat."""
    from bpfence.dialects import tools

    return tools.diagnostic_as_json(diagnostic)


def show_diagnostics(diagnostics: Iterable[Diagnostic], console: Console | None = None) -> None:
    """Diagnostics on standard error, on a terminal with the line they are about and a caret below the place."""
    sources: dict[str, list[str]] = {}
    for diagnostic in diagnostics:
        console = console or err()
        head = assembled(
            (printable(str(diagnostic.location)), "bold"),
            ": ",
            (diagnostic.severity, STYLES[diagnostic.severity]),
            f": {printable(diagnostic.message)}",
        )
        if diagnostic.code:
            head.append(f" [{diagnostic.code}]", "dim")
        console.print(head)
        if console.is_terminal:
            for line in source_lines(diagnostic, sources):
                console.print(line)
        if diagnostic.hint:
            console.print(assembled("  ", ("hint", "bold"), f": {printable(diagnostic.hint)}"))


def source_lines(diagnostic: Diagnostic, sources: dict[str, list[str]]) -> list[Text]:
    """The line of the file that a diagnostic is about, and a caret; nothing where it cannot be read any more."""
    from rich.cells import cell_len

    place = diagnostic.location
    if not place.line:
        return []
    if place.file not in sources:
        try:
            text = Path(place.file).read_text(encoding="utf-8", errors="surrogateescape") if Path(place.file).is_file() else ""
        except (OSError, ValueError):
            text = ""
        sources[place.file] = text.splitlines()
    lines = sources[place.file]
    if place.line > len(lines):
        return []
    line, column = lines[place.line - 1].expandtabs(1), max(place.column, 1)
    start = max(0, column - MAX_SOURCE_LINE // 2) if len(line) > MAX_SOURCE_LINE else 0
    before = printable(line[start : column - 1])
    shown = before + printable(line[column - 1 : start + MAX_SOURCE_LINE])
    number = f"{place.line:>5} │ "
    style = STYLES[diagnostic.severity]
    return [assembled((number, "dim"), shown), assembled((" " * 5 + " │ ", "dim"), " " * cell_len(before), ("^", style))]


def as_message(text: str) -> str:
    """A message as it is shown: with the program's name, and without anything that a terminal would act on."""
    return "\n".join(f"bpfence: {printable(line)}" for line in text.split("\n"))


def to_stderr(text: str) -> None:
    """The `report` of commands that end soon."""
    print(as_message(text), file=sys.stderr, flush=True)


def message_queue() -> MessageQueue:
    """The `report` of commands that stay: it never waits for a reader."""
    from bpfence.outputs.messages import MessageQueue  # imported late: commands that end soon do without

    return MessageQueue(sys.stderr, as_message)


def tell_diagnostics(report: MessageQueue, diagnostics: Iterable[Diagnostic]) -> None:
    """Diagnostics as `show_diagnostics` shows them, without waiting for a reader."""
    console = err()
    with console.capture() as shown:
        show_diagnostics(diagnostics, console)
    if text := shown.get():
        report.put(text.removesuffix("\n"))
