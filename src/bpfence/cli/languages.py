# SPDX-License-Identifier: Apache-2.0
"""What policy languages can say, and policies said in another one: `fields`, `events` and `convert`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import click

from bpfence.cli.control import Watched, watch, watch_options
from bpfence.cli.given import PATHS, naming, no_host_option, read
from bpfence.cli.show import Command, counted, diagnostic_as_json, draw, emit_json, err, json_option, out, show_diagnostics, styled
from bpfence.convert import convert
from bpfence.dialects.registry import DIALECTS
from bpfence.dialects.tools import Shown, Tools
from bpfence.errors import UsageError
from bpfence.events.values import printable

FINDINGS: Final = 1
LANGUAGES: Final = click.Choice(["all", *DIALECTS])


@click.command("fields", cls=Command, short_help="List the fields of conditions and messages.")
@click.argument("pattern", required=False, default="")
@click.option(
    "--language",
    type=LANGUAGES,
    default="all",
    show_default=True,
    help="Whose fields: those of native policies, Falco's, or of tracing policies the types of arguments.",
)
@click.option("--source", type=click.Choice(["syscall"]), default="syscall", show_default=True, help="Falco: the event source.")
@click.option("--kernel", is_flag=True, help="Only fields that the kernel decides on some event.")
@json_option
def fields_command(pattern: str, language: str, source: str, kernel: bool, as_json: bool) -> int:
    """List the fields that conditions and messages can use, in native policies and in Falco rules. PATTERN is a part of a name.

    \b
    Examples:
      bpfence fields
      bpfence fields process. --language native
      bpfence fields proc.a
      bpfence fields --json | jq -r '.native[].name, .fields[].name'
    """
    none = f"no field has {printable(pattern)!r} in its name"
    return _listed(language, lambda tools: tools.fields(pattern, kernel=kernel), as_json, none)


@click.command("events", cls=Command, short_help="List events that rules can be about, or show an agent's.")
@click.argument("pattern", required=False, default="")
@click.option(
    "--language",
    type=LANGUAGES,
    default="all",
    show_default=True,
    help="Whose events: those of native policies, Falco's, or the hooks of tracing policies.",
)
@watch_options
@json_option
def events_command(pattern: str, language: str, watched: Watched | None, as_json: bool) -> int:
    """List the events that rules can be about: native ones with their short names and groups, the types that Falco rules can ask for,
    and the hooks of tracing policies. PATTERN is a part of a name.

    With --follow, --last or a filter: show the alerts and events of a running agent, which has `run --control-socket`. Filters take
    patterns with *, and can be given several times. --json prints the lines as docs/alerts.md has them.

    \b
    Examples:
      bpfence events file.
      bpfence events --json | jq -r '.events[] | select(.deniable) | .name'
      sudo bpfence events --follow --severity high
      sudo bpfence events --last 100 --policy 'web-*' --json | jq -r .message
    """
    if watched is not None:
        if pattern:
            raise UsageError("PATTERN is a part of the name of an event in the list; lines of an agent are chosen by --policy and its kin")
        return watch(watched, as_json)
    return _listed(language, lambda tools: tools.events(pattern), as_json, f"no event has {printable(pattern)!r} in its name")


def _listed(language: str, listing: Callable[[Tools], Shown], as_json: bool, none: str) -> int:
    """What each language lists, one after the other. JSON has the keys of all languages, even of those that were not asked for."""
    by_language = {name: listing(dialect.tools()) for name, dialect in DIALECTS.items()}
    asked = {name: shown for name, shown in by_language.items() if language in ("all", name)}
    if as_json:
        empty = {
            key: value if isinstance(value, str) else type(value)() for shown in by_language.values() for key, value in shown.json.items()
        }
        emit_json(empty | {key: value for shown in asked.values() for key, value in shown.json.items()})
        return 0
    parts = [part for shown in asked.values() for piece in shown.parts for part in (piece, ())]
    draw(parts)
    if not parts:
        out().print(none)
    return 0


@click.command("convert", cls=Command, short_help="Write rules of other languages as native policies.")
@click.argument("files", nargs=-1, required=True, type=PATHS)
@click.option("--to", "target", type=click.Choice(["native"]), required=True, help="The format to write.")
@click.option("--mode", type=click.Choice(["audit", "enforce"]), default="audit", show_default=True, help="Mode of the policies written.")
@no_host_option
@json_option
def convert_command(files: tuple[str, ...], target: str, mode: str, no_host: bool, as_json: bool) -> int:
    """Write native policies that mean the same as Falco rules or KubeArmor's policies. What cannot be expressed exactly is
    reported and left out.

    Exits with 1 when something was left out.

    \b
    Examples:
      bpfence convert --to native rules.yaml > policies.yaml
      bpfence convert --to native rules.yaml --json | jq '.left_out'
    """
    with naming(no_host):
        rules = []
        for name, sources in read(files).items():
            exact, warnings = DIALECTS[name].tools().exactly(sources, mode)
            show_diagnostics(warnings)
            rules += exact
        result = convert(rules, DIALECTS[target].tools().document)
        if as_json:
            left_out = [diagnostic_as_json(diagnostic) for diagnostic in result.left_out]
            emit_json({"policies": result.text, "converted": result.converted, "left_out": left_out})
        else:
            click.echo(result.text, nl=False)
            show_diagnostics(result.left_out)
            places = counted(len({diagnostic.location for diagnostic in result.left_out}), "place")
            err().print(styled(f"{counted(len(result.converted), 'rule')} converted to {target} policies, {places} left out"))
    return FINDINGS if result.left_out else 0


COMMANDS: Final = (fields_command, events_command, convert_command)
