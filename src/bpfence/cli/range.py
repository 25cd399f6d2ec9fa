# SPDX-License-Identifier: Apache-2.0
"""Names of cases in, what the policies in force make of them out: `range list`, `range show`, `range run`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from bpfence.cli.show import Command, assembled, counted, emit_json, err, json_option, out, styled, table
from bpfence.errors import UsageError
from bpfence.events.values import printable
from bpfence.range.cases import BY_NAME, CASES, Act, Case
from bpfence.range.play import VERDICTS, Alerts, Outcome, play
from bpfence.range.stage import staged

WAIT_SECONDS: Final = 3.0
UNNOTICED: Final = 1
STYLES: Final = {"stopped": "green", "seen": "yellow", "missed": "bold red", "failed": "dim", "worked": "red", "not played": "dim"}
ORDINARY_STYLES: Final = {"works": "green", "broken": "bold red", "not played": "dim"}

names_argument = click.argument("names", metavar="[CASE]...", nargs=-1)


@click.group("range", short_help="Play harmless attacks against the policies in force.")
def group() -> None:
    """Play harmless attacks against the policies in force, and tell which were stopped, seen or missed.

    \b
    Examples:
      bpfence range list
      bpfence range show credential-theft
      sudo bpfence range run --alerts /var/log/bpfence/alerts.jsonl
    """


def _chosen(names: Sequence[str]) -> list[Case]:
    """The cases of these names, all where none is given. UsageError for one that there is not."""
    for name in names:
        if name not in BY_NAME:
            raise UsageError(f"there is no case '{printable(name)}': bpfence range list names them")
    return [BY_NAME[name] for name in dict.fromkeys(names)] or list(CASES)


def _as_json(case: Case) -> dict[str, Any]:
    return {"name": case.name, "title": case.title, "techniques": list(case.techniques), "policy": case.policy}


@group.command("list", cls=Command, short_help="List the cases.")
@json_option
def list_command(as_json: bool) -> int:
    """List the cases, with their techniques of MITRE ATT&CK.

    \b
    Examples:
      bpfence range list
      bpfence range list --json | jq -r '.cases[].name'
    """
    if as_json:
        emit_json({"cases": [_as_json(case) for case in CASES]})
    else:
        out().print(table("case", "what is done", "ATT&CK", rows=[(case.name, case.title, ", ".join(case.techniques)) for case in CASES]))
    return 0


@group.command("show", cls=Command, short_help="Show what a case does, word by word.")
@names_argument
@json_option
def show_command(names: tuple[str, ...], as_json: bool) -> int:
    """Show what the cases do, word by word: the scripts of the attack and of the ordinary work beside it, and the policy that stops it.

    \b
    Examples:
      bpfence range show persistence
    """
    cases = _chosen(names)
    if as_json:
        shown = [_as_json(case) | {kind: _act_as_json(act) for kind, act in _acts(case)} for case in cases]
        emit_json({"cases": shown})
        return 0
    for case in cases:
        out().print(assembled((case.name, "bold"), f"  {case.title}  ({', '.join(case.techniques)})"))
        out().print(styled(f"  policy    examples/{case.policy}, examples/cases/falco/{case.name}.yaml"))
        for kind, act in _acts(case):
            by = f", by a shell named {act.program}" if act.program else ""
            out().print(styled(f"  {kind:9} {act.title}{by}{', in a container' if act.container else ''}"))
            for line in act.script.splitlines():
                out().print(styled(f"            {line}", "dim"), soft_wrap=True)
    return 0


def _acts(case: Case) -> tuple[tuple[str, Act], tuple[str, Act]]:
    return ("attack", case.attack), ("ordinary", case.ordinary)


def _act_as_json(act: Act) -> dict[str, Any]:
    return {
        "title": act.title,
        "script": act.script,
        "program": act.program,
        "container": act.container,
        "needs": list(act.needs),
        "over": act.over,
    }


@group.command("run", cls=Command, short_help="Play cases, and tell what became of them.")
@names_argument
@click.option(
    "--alerts",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The file of `bpfence run --output jsonl:PATH`. Without it is not told what was seen, nor who stopped what.",
)
@click.option(
    "--wait",
    type=click.FloatRange(0, 600),
    default=WAIT_SECONDS,
    show_default=True,
    help="Seconds in which the alert of an attack is expected.",
)
@json_option
def run_command(names: tuple[str, ...], path: Path | None, wait: float, as_json: bool) -> int:
    """Play cases against whatever is in force on this host, and tell which attacks were stopped, seen or missed, and whether ordinary
    work went on. Exits with 1 where an attack went unnoticed or ordinary work was stopped.

    The acts do no harm and leave nothing: they run in a mount namespace and a network of their own, where the files that they read and
    write are made up, and attack an address of documentation on their own loopback. `bpfence range show` prints them.

    \b
    Examples:
      sudo bpfence run -p examples/policies --output jsonl:/run/alerts.jsonl &
      sudo bpfence range run --alerts /run/alerts.jsonl
      sudo bpfence range run credential-theft persistence
    """
    cases = _chosen(names)
    outcomes = []
    with contextlib.ExitStack() as stack:
        alerts = stack.enter_context(contextlib.closing(Alerts(path))) if path is not None else None
        stage = stack.enter_context(staged())
        for outcome in play(cases, stage, alerts, wait):
            outcomes.append(outcome)
            if not as_json:
                _tell(outcome)
    if as_json:
        emit_json({"cases": [_outcome_as_json(outcome) for outcome in outcomes]})
    else:
        _summarise(outcomes)
    return 0 if all(outcome.good for outcome in outcomes) else UNNOTICED


def _outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    attack = {"verdict": outcome.verdict, "by": list(outcome.by), "said": printable(outcome.said)}
    return _as_json(outcome.case) | {"attack": attack, "ordinary": {"verdict": outcome.ordinary, "said": printable(outcome.ordinary_said)}}


def _tell(outcome: Outcome) -> None:
    """One case as it has been played."""
    by = f"  by {', '.join(map(printable, outcome.by))}" if outcome.by else ""
    did = f"{outcome.case.attack.title}: {printable(outcome.said)}"
    mark = (f"{outcome.verdict:11}", STYLES[outcome.verdict])
    out().print(assembled(f"{outcome.case.name:18}", mark, did, (by, "dim")), soft_wrap=True)
    if outcome.ordinary != "works":
        mark = (f"{outcome.ordinary:11}", ORDINARY_STYLES[outcome.ordinary])
        said = printable(outcome.ordinary_said)
        out().print(assembled(" " * 18, mark, f"ordinary work: {outcome.case.ordinary.title}: {said}"), soft_wrap=True)


def _summarise(outcomes: Sequence[Outcome]) -> None:
    """The techniques and what became of them, and what the words mean."""
    rows = [
        (technique, outcome.case.name, styled(outcome.verdict, STYLES[outcome.verdict]))
        for outcome in outcomes
        for technique in outcome.case.techniques
    ]
    out().print(table("ATT&CK", "case", "attack", rows=sorted(rows, key=lambda row: str(row[0]))))
    counts = {verdict: sum(outcome.verdict == verdict for outcome in outcomes) for verdict in VERDICTS}
    out().print(f"{counted(len(outcomes), 'case')}: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))
    for verdict, meaning in VERDICTS.items():
        if counts[verdict] and verdict != "stopped":
            err().print(assembled((verdict, "bold"), f": {meaning}"))


COMMANDS: Final = (group,)

__all__ = ["COMMANDS"]
