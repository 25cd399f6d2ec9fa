# SPDX-License-Identifier: Apache-2.0
"""A configuration file in, its mistakes or what comes of it out: `config check` and `config show`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click
import msgspec
from click.core import ParameterSource

from bpfence.cli.settings import CONFIG, options, read
from bpfence.cli.show import Command, counted, emit_json, json_option, out, table
from bpfence.errors import UsageError
from bpfence.events.values import printable

SOURCES: Final = {
    ParameterSource.COMMANDLINE: "command line", ParameterSource.ENVIRONMENT: "environment", ParameterSource.DEFAULT_MAP: "file",
    ParameterSource.DEFAULT: "default",
}  # fmt: skip


@click.group()
def config() -> None:
    """Check and show the configuration of `bpfence run`.

    \b
    Examples:
      bpfence config check
      BPFENCE_MODE=audit bpfence config show
    """


@config.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path), default=CONFIG)
@json_option
def check(file: Path, as_json: bool) -> int:
    """Find mistakes in a configuration file, /etc/bpfence/bpfence.yaml without one. Exits with 2 where there are some.

    \b
    Examples:
      bpfence config check
      bpfence config check ./bpfence.yaml
    """
    from bpfence.cli.host import run

    found = read(file, run)
    if as_json:
        emit_json({"file": printable(str(file)), "settings": sorted(found)})
    else:
        out().print(f"{printable(str(file))}: {counted(len(found), 'setting')}, no mistakes")
    return 0


@config.command(cls=Command, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@json_option
def show(arguments: tuple[str, ...], as_json: bool) -> int:
    """Show what `bpfence run` with these arguments would work with, and where each setting comes from.

    \b
    Examples:
      bpfence config show
      bpfence config show --json -- --config ./bpfence.yaml --mode audit
    """
    from bpfence.cli.host import run

    try:
        context = run.make_context("bpfence run", list(arguments))
    except click.exceptions.Exit as error:
        raise UsageError("only settings are shown here") from error
    rows = []
    for name, param in options(run).items():
        source = context.get_parameter_source(str(param.name))
        value = context.params.get(str(param.name))
        if source is not None and source is not ParameterSource.DEFAULT:
            rows.append((name, _shown(value), SOURCES.get(source, "default")))
    if as_json:
        emit_json({"settings": [{"name": name, "value": value, "from": source} for name, value, source in rows]})
    else:
        shown = [
            (name, printable(value if isinstance(value, str) else msgspec.json.encode(value).decode()), source)
            for name, value, source in rows
        ]
        out().print(table("setting", "value", "from", rows=shown) if rows else "all settings are the defaults")
    return 0


def _shown(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, tuple | list):
        return [_shown(one) for one in value]
    if isinstance(value, msgspec.Struct):
        defaults = type(value)
        found = msgspec.to_builtins(value)
        plain = msgspec.to_builtins(defaults(to="-")) if "to" in found else {}
        return {key: inner for key, inner in found.items() if inner != plain.get(key) or key == "to"}
    return value if isinstance(value, str | int | bool | None) else str(value)


COMMANDS: Final = (config,)
