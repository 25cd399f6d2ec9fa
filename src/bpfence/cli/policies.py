# SPDX-License-Identifier: Apache-2.0
"""Policy files in, what is wrong with them, what becomes of them and what they decide, out.

`check`, `explain` and `test` need no kernel, no privileges, and no libbpf. What they say about a language comes from that language's tools
(`dialects.tools`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bpfence.cli.given import PATHS, alone, dialect_options, look, naming, no_host_option, read
from bpfence.cli.show import Command, counted, diagnostic_as_json, draw, emit_json, err, json_option, met, out, show_diagnostics, styled
from bpfence.dialects.registry import DIALECTS
from bpfence.dialects.tools import Tested, Tools
from bpfence.documents.files import SourceFile
from bpfence.errors import Diagnostic, UsageError
from bpfence.host.links import Links

if TYPE_CHECKING:
    from bpfence.agent.loading import Options

FINDINGS: Final = 1
UNREADABLE: Final = 2
TABLE: Final = "table"
FILES: Final = click.Path(exists=True, allow_dash=True, path_type=str)
root_option = click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=str),
    default="/",
    help="Look symbolic links up in the tree below this directory (an image, say), not on this host.",
)


@click.command(cls=Command, short_help="Find mistakes and traps in policies and rules of every language.")
@click.argument("files", nargs=-1, required=True, type=PATHS)
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
@root_option
@no_host_option
@json_option
def check(files: tuple[str, ...], strict: bool, root: str, no_host: bool, as_json: bool) -> int:
    """Find every mistake in policy files (native, Falco's, Tetragon's or KubeArmor's), with its place and what to write instead. `-` is
    standard input.

    Also tells what the paths in a policy are on this host, or in the tree below --root: links, directories, scripts. The exit code is 0
    when there is no error, 1 when there is one (with --strict: or a warning), 2 when a file cannot be read.

    \b
    Examples:
      bpfence check policies/
      bpfence check --root /mnt/image policies/
      bpfence check --no-host policies-of-the-web-servers/
      helm template . | bpfence check -
      bpfence check --json my.yaml | jq '.findings[].message'
    """
    with naming(no_host):
        diagnostics, summary = _examined(files, Links(root))
        diagnostics = sorted(dict.fromkeys(diagnostics), key=lambda diagnostic: diagnostic.location)
        counts = {severity: sum(diagnostic.severity == severity for diagnostic in diagnostics) for severity in ("error", "warning")}
        if as_json:
            findings = [diagnostic_as_json(diagnostic) for diagnostic in diagnostics]
            emit_json({"findings": findings, "errors": counts["error"], "warnings": counts["warning"], "policies": summary})
        else:
            show_diagnostics(diagnostics, out())
            err().print(styled(_counted(summary, counts), "green" if not counts["error"] else "bold red"))
    return _check_code(diagnostics, strict)


def _counted(summary: list[dict[str, Any]], counts: dict[str, int]) -> str:
    """How many mistakes there are in how many policies; without the latter where no policy could be read."""
    mistakes = f"{counted(counts['error'], 'error')}, {counted(counts['warning'], 'warning')}"
    if not summary:
        return mistakes
    rules = sum(policy["rules"] for policy in summary)
    return f"{counted(len(summary), 'policy', 'policies')}, {counted(rules, 'rule')}: {mistakes}"


def _examined(files: tuple[str, ...], links: Links) -> tuple[list[Diagnostic], list[dict[str, Any]]]:
    """What is wrong with policy files, and what is in them."""
    by_language, diagnostics = look(files)
    summary: list[dict[str, Any]] = []
    for name, sources in by_language.items():
        more, policies = DIALECTS[name].tools().check(sources, links)
        diagnostics, summary = [*diagnostics, *more], [*summary, *policies]
    return diagnostics, summary


def _check_code(diagnostics: list[Diagnostic], strict: bool) -> int:
    if any(diagnostic.code == "cannot-read" for diagnostic in diagnostics):
        return UNREADABLE
    bad = ("error", "warning") if strict else ("error",)
    return FINDINGS if any(diagnostic.severity in bad for diagnostic in diagnostics) else 0


# ---- explain ----


@click.command("explain", cls=Command, short_help="Show what policies are compiled to.")
@click.argument("files", nargs=-1, required=True, type=PATHS)
@click.option("--event", "event", metavar="JSON", help='A sample event, as {"event": "process.exec", "file.path": "/tmp/x"}.')
@click.option("--rule", "names", multiple=True, metavar="NAME", help="Of Falco rules: only these (shell patterns). Repeatable.")
@click.option(
    "--workload", metavar="ID", default="", help="How far each policy reaches into this container: its name, or how its id begins."
)
@root_option
@no_host_option
@json_option
def explain_command(
    files: tuple[str, ...], event: str | None, names: tuple[str, ...], workload: str, root: str, no_host: bool, as_json: bool
) -> int:
    """Show what policies are compiled to: where each rule runs, the sizes of automata and diagrams, the route of an event.

    Of Falco rules: the condition with macros and lists put in, what of it the kernel decides, and what is left and why. A sample event may
    name a group of events (file.modify): then the route of each is shown.

    With --workload instead, of policies of any language: which of them, and which of their rules, reach into a container of this host.

    \b
    Examples:
      bpfence explain policies/
      bpfence explain falco_rules.yaml --rule 'Clear Log*'
      bpfence explain p.yaml --event '{"event":"process.exec","file.path":"/tmp/x","process.uid":1000}'
      sudo bpfence explain policies/ --workload web
    """
    with naming(no_host):
        if workload:
            if event or names:
                raise UsageError("--workload is about policies as a whole: leave --event and --rule out")
            from bpfence.cli.workloads import show_reaches  # other commands of this module do without runtimes

            return show_reaches(files, workload, as_json)
        name, sources = alone(read(files), "explained")
        shown, warnings = DIALECTS[name].tools().explain(sources, Links(root), names=names, event=event or "")
        show_diagnostics(warnings)
        if as_json:
            emit_json(shown.json)
        else:
            draw(shown.parts)
    return 0


# ---- test ----


@click.command("test", cls=Command, short_help="Decide recorded events by policies, without a kernel.")
@click.option("-p", "--policy", "policy_files", multiple=True, type=PATHS, help="A policy file or directory, or -. Repeatable.")
@click.argument("arguments", nargs=-1, required=True, metavar="[POLICIES]... EVENTS", type=FILES)
@click.option("--mode", type=click.Choice(["audit", "enforce"]), help="Override the mode of every policy.")
@click.option(
    "--format",
    "form_name",
    type=click.Choice([TABLE, *(form for dialect in DIALECTS.values() for form in dialect.forms)]),
    default=TABLE,
    help="Falco rules: how to show it.",
)
@dialect_options
@no_host_option
@json_option
def test_command(
    policy_files: tuple[str, ...],
    arguments: tuple[str, ...],
    mode: str | None,
    form_name: str,
    no_host: bool,
    as_json: bool,
    options: Options,
) -> int:
    """Decide recorded events by policies, without a kernel.

    EVENTS holds one JSON object a line: lines of `bpfence run --output jsonl:PATH`, or flat events such as
    {"event": "process.exec", "file.path": "/tmp/x"}. A line may say what should happen: "expect": "deny" (or kill, audit, none;
    allow for anything that goes through), or "expect": {"action": "deny", "errno": "EACCES", "rules": ["policy/rule"]}.
    An event may be a group (file.modify): the line then stands for each of its events. Exits with 1 when an event is not decided as
    its line expects. Falco rules take lines of the form of docs/falco.md, whose "expect" is the list of rules that must match.

    \b
    Examples:
      bpfence test -p policies/ recorded.jsonl
      bpfence test falco_rules.yaml events.jsonl --format falco
      echo '{"event":"exec","file.path":"/tmp/x","expect":"deny"}' | bpfence test -p p.yaml -
    """
    *given, events = arguments
    if "-" in (*policy_files, *given) and events == "-":
        raise UsageError("standard input cannot be both the policies and the events")
    if not policy_files and not given:
        raise UsageError("name policies: -p FILE, or files before EVENTS")
    with naming(no_host):
        name, sources = alone(read((*policy_files, *given)), "tested")
        form = "" if form_name == TABLE else form_name
        tested, warnings = _tested(name, sources, events, mode=mode, options=options.get(name), form=form)
    show_diagnostics(warnings)
    for note in tested.notes if form or not as_json else ():
        draw([note], err())
    if as_json and not form:
        emit_json(tested.shown.json)
    else:
        draw(tested.shown.parts)
        verdict = met(tested.events, tested.expected, tested.mismatches)
        err().print(styled(verdict, "bold red" if tested.mismatches else "green"))
    return FINDINGS if tested.mismatches or tested.faults else 0


def _tested(name: str, sources: Sequence[SourceFile], events: str, **more: Any) -> tuple[Tested, list[Diagnostic]]:
    from bpfence.events.source import BadLineError, bounded_lines  # the other commands read no events

    tools: Tools = DIALECTS[name].tools()
    if more["form"] and more["form"] not in DIALECTS[name].forms:
        raise UsageError(f"--format {more['form']} is not for {DIALECTS[name].title}")
    try:
        if events == "-":
            return tools.test(sources, bounded_lines(sys.stdin.buffer), **more)
        with Path(events).open("rb") as lines:
            return tools.test(sources, bounded_lines(lines), **more)
    except BadLineError as error:
        raise UsageError(f"{events}: {error}") from None
    except OSError as error:
        raise UsageError(f"{events}: {error.strerror or error}") from None


COMMANDS: Final = (check, explain_command, test_command)
