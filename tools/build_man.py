#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The help of every command in, a manual page of each out, in .build/man.

Run by `make man`, and for packages. A page says what `--help` says, from the same place, so there is nothing to keep current; the same
commands make the same bytes. man(7), groff_man(7).
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from bpfence.cli.main import cli, release

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".build" / "man"
EXIT_CODES = """\
0: all is well. 1: findings. 2: wrong usage or input. 3: the kernel or the privileges lack something. 70: a fault of bpfence.
What runs a command exits as the command does."""
FILES = {
    "/etc/bpfence/bpfence.yaml": "What `bpfence run` works with where neither its options nor the environment say otherwise.",
    "/run/bpfence/control.sock": "Where a running agent answers, with --control-socket.",
    "/sys/fs/bpf/bpfence": "What is in force.",
}


def commands(command: click.Command, path: tuple[str, ...] = ("bpfence",)) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it, groups before their own."""
    yield path, command
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                if inner is not None and not inner.hidden:
                    yield from commands(inner, (*path, name))


def text(words: str) -> str:
    """Words of a paragraph, for roff: nothing in them is a request or an escape."""
    escaped = words.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.splitlines())


def marked(words: str) -> str:
    """The same, with what stands in backquotes in bold."""
    return re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text(words))


def paragraphs(command: click.Command) -> Iterator[tuple[str, str]]:
    """What the help of a command says: paragraphs with the heading that each stands under."""
    whole = inspect.cleandoc(command.help or "").replace("\b\n", "\b")
    for part in whole.split("\n\n"):
        verbatim = part.startswith("\b")
        part = part.removeprefix("\b")
        first, _, rest = part.partition("\n")
        heading = first.rstrip(":").upper() if verbatim and first.endswith(":") else ""
        body = inspect.cleandoc(rest) if heading else part
        if body:
            yield heading or "DESCRIPTION", f".nf\n{text(body)}\n.fi" if verbatim else marked(" ".join(body.split()))


def page(path: tuple[str, ...], command: click.Command) -> str:
    """The page of a command."""
    name = "-".join(path)
    context = click.Context(command, info_name=" ".join(path))
    lines = [f'.TH "{text(name).upper()}" 1 "" "bpfence {text(release())}" "bpfence"', ".SH NAME"]
    lines += [f"{text(name)} \\- {marked(command.get_short_help_str(1000).rstrip('.'))}", ".SH SYNOPSIS"]
    usage = " ".join(command.collect_usage_pieces(context))
    lines.append(f".B {text(' '.join(path))}\n{text(usage)}")
    sections: dict[str, list[str]] = {}
    for heading, body in paragraphs(command):
        sections.setdefault(heading, []).append(body)
    lines += _section("DESCRIPTION", sections.pop("DESCRIPTION", []))
    options = [
        record
        for param in command.get_params(context)
        if isinstance(param, click.Option) and (record := param.get_help_record(context)) is not None
    ]
    if options:
        lines.append(".SH OPTIONS")
        lines += [f".TP\n.B {text(names)}\n{marked(' '.join(told.split())) or text(names)}" for names, told in options]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for inner_name in command.list_commands(context):
            inner = command.get_command(context, inner_name)
            if inner is not None and not inner.hidden:
                lines.append(f".TP\n.BR {text(f'{name}-{inner_name}')} (1)\n{marked(inner.get_short_help_str(1000))}")
    for heading, bodies in sections.items():
        lines += _section(heading, bodies)
    if len(path) == 1:
        lines += _section("EXIT STATUS", [text(EXIT_CODES)])
        lines.append(".SH FILES")
        lines += [f".TP\n.I {text(file)}\n{marked(told)}" for file, told in FILES.items()]
    else:
        lines += _section("SEE ALSO", [f".BR {text('-'.join(path[:-1]))} (1)"])
    return "\n".join(lines) + "\n"


def _section(heading: str, bodies: list[str]) -> list[str]:
    return [f".SH {heading}", "\n.PP\n".join(bodies)] if bodies else []


def build(folder: Path) -> list[Path]:
    """All pages, in a folder that holds nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.1"):
        old.unlink()
    made = []
    for path, command in commands(cli):
        made.append(folder / f"{'-'.join(path)}.1")
        made[-1].write_text(page(path, command), encoding="utf-8")
    return made


def main() -> int:
    """Write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where (default: .build/man)")
    made = build(parser.parse_args().folder)
    print(f"{len(made)} pages in {made[0].parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
