# SPDX-License-Identifier: Apache-2.0
"""Questions to a running agent in, its answers for people or as JSON out: `policy`, `top`, and the live view of `events`.

All of them ask at the control socket of `bpfence run --control-socket` (`services.requests`), and work without libbpf.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
import msgspec

from bpfence.cli.show import Command, counted, emit_json, err, json_option, out, show_diagnostics, styled, table
from bpfence.errors import Diagnostic, KernelError, Location, PolicyError, UsageError
from bpfence.events.values import printable
from bpfence.services import requests
from bpfence.services.requests import SOCKET, Request

if TYPE_CHECKING:
    from rich.console import RenderableType

WAIT_SECONDS: Final = 90.0
"""For an answer: the agent gives a change 60 seconds."""
NO_ANSWER: Final = "an answer"
LAST: Final = 10
"""Lines that `--follow` begins with."""
socket_option = click.option(
    "--socket",
    type=click.Path(path_type=Path, dir_okay=False),
    default=SOCKET,
    show_default=True,
    envvar="BPFENCE_CONTROL_SOCKET",
    metavar="PATH",
    help="The agent's control socket, which `run --control-socket` names.",
)


def _lines(path: Path, request: Request, seconds: float | None) -> Iterator[bytes]:
    """The lines of an answer, the first of them an object with `result`. KernelError where nobody answers; what the agent refuses with is
    raised as it would be here."""
    from bpfence.rpc.lines import asked

    shown = printable(str(path))
    lines = asked(path, requests.encoded(request), seconds)
    try:
        first = next(lines, b"")
        if not first:
            raise ConnectionResetError
        yield first
        yield from lines
    except PermissionError:
        hint = "ask as root, or as one of the group that `run --control-group` names"
        raise KernelError(f"the agent at {shown} may not be asked by this user", missing="the right to ask", hint=hint) from None
    except TimeoutError:
        raise KernelError(f"the agent at {shown} does not answer in time", missing=NO_ANSWER) from None
    except ConnectionResetError:
        what = f"the agent at {shown} has ended the connection: the request is too long, or too much is asked of it at once"
        raise KernelError(what, missing=NO_ANSWER) from None
    except OSError as error:
        hint = "start one with `bpfence run --control-socket`, or name its socket with --socket"
        text = f"no agent answers at {shown}: {error.strerror or error}"
        raise KernelError(text, missing="an agent with a control socket", hint=hint) from None


def _result(first: bytes) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(first, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        answer = {}
    if isinstance(error := answer.get("error"), dict):
        findings = [_finding(one) for one in error.get("findings", ()) if isinstance(one, dict)]
        raise PolicyError(findings) if findings else UsageError(str(error.get("message", "refused")))
    if not isinstance(result := answer.get("result"), dict):
        raise KernelError("the agent has no answer; perhaps it is another version of bpfence", missing=NO_ANSWER)
    return result


def _finding(told: dict[str, Any]) -> Diagnostic:
    place = Location(str(told.get("file", "")), int(told.get("line", 0)), int(told.get("column", 0)))
    severity = told.get("severity")
    return Diagnostic(
        place,
        str(told.get("message", "")),
        str(told.get("hint", "")),
        severity if severity in ("error", "warning", "info") else "error",
        str(told.get("code", "")),
    )


def answered(path: Path, request: Request, seconds: float = WAIT_SECONDS) -> dict[str, Any]:
    """What the agent answers to one request. KernelError where none does; UsageError, PolicyError: what it refuses with."""
    return _result(next(_lines(path, request, seconds)))


# ---- policy ----


@click.group()
def policy() -> None:
    """Show and change the policies of a running agent.

    The agent has `run --control-socket`. What is added or set here ends with the agent: put what is to stay into its files.

    \b
    Examples:
      sudo bpfence policy list
      sudo bpfence policy add ./guard.yaml
      sudo bpfence policy set-mode guard audit
    """


@policy.command("list", cls=Command)
@socket_option
@json_option
def list_command(socket: Path, as_json: bool) -> int:
    """List the policies in force: mode, language, how often their rules have matched, where they come from.

    \b
    Examples:
      sudo bpfence policy list
      sudo bpfence policy list --json | jq -r '.policies[] | select(.added) | .name'
    """
    found = answered(socket, requests.Policies())
    if as_json:
        emit_json(found)
        return 0
    rows = [
        (
            one["name"],
            one["mode"] + (" (set)" if one["set"] else ""),
            one["language"],
            f"{one['rules']:,}",
            f"{one['matched']:,}",
            ("added: " if one["added"] else "") + one["place"],
        )
        for one in found["policies"]
    ]
    out().print(table("policy", "mode", "language", "rules", "matched", "from", rows=rows) if rows else "no policy is in force")
    return 0


@policy.command(cls=Command)
@click.argument("name")
@socket_option
@json_option
def show(name: str, socket: Path, as_json: bool) -> int:
    """Show one policy in force: its rules, what they do in its mode, how often they have matched.

    \b
    Examples:
      sudo bpfence policy show guard
    """
    found = answered(socket, requests.Show(name=name))
    if as_json:
        emit_json(found)
        return 0
    console = out()
    head = [
        ("mode", found["mode"] + (", set at the control socket" if found["set"] else "")),
        ("severity", found["severity"]),
        ("tags", " ".join(found["tags"]) or "none"),
        ("language", found["language"]),
        ("from", ("added: " if found["added"] else "") + found["place"]),
    ]
    console.print(table("", "", rows=head, title=found["name"]))
    console.print()
    rows = [
        (
            rule["name"],
            " ".join(rule["on"]),
            rule["action"] + (f" (would {rule['declared']})" if rule["declared"] != rule["action"] else ""),
            f"{rule['matched']:,}",
            rule["place"],
        )
        for rule in found["rules"]
    ]
    console.print(table("rule", "on", "action", "matched", "from", rows=rows))
    return 0


@policy.command(cls=Command)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=str))
@socket_option
@json_option
def add(files: tuple[str, ...], socket: Path, as_json: bool) -> int:
    """Put policies in force beside those that are: all of the files, of one language, or none. Files are read as `run -p` reads them; Falco
    rules cannot be added. Comes back when they are in force.

    \b
    Examples:
      sudo bpfence policy add guard.yaml
      sudo bpfence policy add policies/
    """
    from bpfence.documents.files import sources
    from bpfence.documents.report import Report

    report = Report()
    found = sources(files, report)
    if report.errors:
        raise PolicyError(report.diagnostics)
    texts = tuple(requests.Text(name=one.file, text=_text(one.file, one.data)) for one in found)
    result = answered(socket, requests.Add(files=texts))
    if as_json:
        emit_json(result)
        return 0
    show_diagnostics(_finding(one) for one in result["findings"])
    _tell(result["policies"], "added")
    return 0


def _text(file: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PolicyError([Diagnostic(Location(file), f"this is no UTF-8: {error}", "write it as UTF-8", code="cannot-read")]) from None


@policy.command(cls=Command)
@click.argument("names", nargs=-1, required=True)
@socket_option
@json_option
def remove(names: tuple[str, ...], socket: Path, as_json: bool) -> int:
    """Take policies away that were added: all of these or none. Comes back when they are in force no more.

    \b
    Examples:
      sudo bpfence policy remove guard
    """
    result = answered(socket, requests.Remove(names=names))
    if as_json:
        emit_json(result)
    else:
        _tell(result["policies"], "removed")
    return 0


@policy.command("set-mode", cls=Command)
@click.argument("names", nargs=-1, required=True)
@click.argument("mode", type=click.Choice(["audit", "enforce", "declared"]))
@socket_option
@json_option
def set_mode(names: tuple[str, ...], mode: str, socket: Path, as_json: bool) -> int:
    """Set the mode of policies, wherever they come from, until the agent ends: all of these or none. `declared` gives them back what they
    have without. Comes back when it is in force.

    \b
    Examples:
      sudo bpfence policy set-mode guard audit
      sudo bpfence policy set-mode guard no-shells enforce
    """
    result = answered(socket, msgspec.convert({"ask": "set-mode", "names": names, "mode": mode}, requests.SetMode))
    if as_json:
        emit_json(result)
    else:
        _tell(result["policies"], f"in mode {mode}" if mode != "declared" else "as declared")
    return 0


def _tell(names: Sequence[str], what: str) -> None:
    out().print(f"{what}: {', '.join(map(printable, names))}")


# ---- the live view ----


class Watched(NamedTuple):
    """What is to be shown of an agent's lines."""

    socket: Path
    request: requests.Events


def watch_options(command: Callable[..., int]) -> Callable[..., int]:
    """The options of the live view, as one argument `watched`; None: it was not asked for."""
    filters = ("policy", "rule", "pod", "namespace", "action")

    @wraps(command)
    def gathered(**given: Any) -> int:
        socket, follow, last, severity = (given.pop(name) for name in ("socket", "follow", "last", "severity"))
        patterns = {name: given.pop(f"of_{name}") for name in filters}
        watched = None
        if follow or last is not None or severity or any(patterns.values()):
            count = last if last is not None else LAST if follow else requests.MAX_LAST
            asked = {"follow": follow, "last": count, "severity": severity or "info", **patterns}
            try:
                watched = Watched(socket, msgspec.convert({"ask": "events", **asked}, requests.Events))
            except msgspec.ValidationError as error:
                raise UsageError(f"the agent takes no such filter: {error}") from None
        return command(watched=watched, **given)

    made: Callable[..., int] = gathered
    words = {
        "action": "with that action: audit, deny, kill, observe.",
        "namespace": "of pods in that namespace.",
        "pod": "of that pod.",
        "rule": "of that rule.",
        "policy": "of that policy.",
    }
    for name, text in words.items():
        made = click.option(f"--{name}", f"of_{name}", multiple=True, metavar="PATTERN", help=f"Lines of an agent: {text}")(made)
    for option in (
        click.option(
            "--severity",
            type=click.Choice(["info", "low", "medium", "high", "critical"]),
            help="Lines of an agent: of at least that severity.",
        ),
        click.option("--last", type=click.IntRange(0, requests.MAX_LAST), metavar="N", help="Lines of an agent: the last N that it keeps."),
        click.option("-f", "--follow", is_flag=True, help="Lines of an agent: as they come, after the last ten."),
        socket_option,
    ):
        made = option(made)
    return made


def watch(watched: Watched, as_json: bool) -> int:
    """Show an agent's lines until it ends, or those that it has. KernelError where it has ended the connection alone."""
    lines = _lines(watched.socket, watched.request, None if watched.request.follow else WAIT_SECONDS)
    _result(next(lines))
    console = out()
    for line in lines:
        if as_json:
            sys.stdout.write(line.decode("utf-8", "replace") + "\n")
        else:
            console.print(_shown(line), soft_wrap=True)
        sys.stdout.flush()
    if not watched.request.follow:
        return 0
    try:
        answered(watched.socket, requests.Status())
    except (KernelError, UsageError):
        err().print(styled("the agent has ended", "dim"))
        return 0
    what = "the agent goes on, and has ended this connection: another view took its place, or lines were not taken here for too long"
    raise KernelError(what, missing=NO_ANSWER)


def _shown(line: bytes) -> Any:
    """A line as the terminal view of `run` shows it; one that this version does not know as it is."""
    from bpfence.alerts.alert import Alert, LossLine, StatusLine
    from bpfence.outputs.terminal import render

    try:
        found = msgspec.json.decode(line, type=dict[str, Any])
        kind = {"loss": LossLine, "status": StatusLine}.get(found.get("kind", ""), Alert)
        return render(kind(**{name: value for name, value in found.items() if name in kind.__struct_fields__}))
    except (msgspec.DecodeError, UnicodeError, RecursionError, TypeError, ValueError, AttributeError):
        return styled(printable(line.decode("utf-8", "replace")))


# ---- top ----


@click.command(cls=Command, short_help="Show what a running agent sees and what it costs.")
@click.option("--interval", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True, help="Seconds between two looks.")
@click.option("--once", is_flag=True, help="One look only.")
@click.option(
    "--sort", type=click.Choice(["cost", "denied", "matched", "name"]), default="matched", show_default=True, help="What comes first."
)
@socket_option
@json_option
def top(interval: float, once: bool, sort: str, socket: Path, as_json: bool) -> int:
    """Show by policy how often rules match and deny, and what the kernel's programs cost, again and again; the agent has `run
    --control-socket`. On a terminal the view is replaced, elsewhere one follows the other; --json prints an object a line.

    Cost is known while `sysctl kernel.bpf_stats_enabled=1` has the kernel measure: the share of one CPU that programs take, a program's in
    equal parts for the policies with rules on its events.

    \b
    Examples:
      sudo bpfence top
      sudo bpfence top --once
      sudo bpfence top --interval 10 --json | jq -c '.policies[] | select(.denied_rate > 0)'
    """
    looks = _looks(socket, interval)
    if once:
        looks = itertools.islice(looks, 1)
    if as_json:
        for look in looks:
            click.echo(msgspec.json.encode(look))
        return 0
    console = out()
    if not console.is_terminal or once:
        for number, look in enumerate(looks):
            console.print(*(() if not number else ("",)), _view(look, sort, None), sep="\n")
            sys.stdout.flush()
        return 0
    from rich.live import Live

    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            for look in looks:
                live.update(_view(look, sort, console.height), refresh=True)
    except KeyboardInterrupt:
        return 0
    return 0


def _looks(path: Path, interval: float) -> Iterator[dict[str, Any]]:
    """What has been counted, with the rates since the look before."""
    before = answered(path, requests.Counters())
    while True:
        time.sleep(interval)
        now = answered(path, requests.Counters())
        yield _rated(before, now)
        before = now


def _rated(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    seconds: float = max((now["time"] - before["time"]) / 1e9, 1e-9)

    def rate(new: float, old: float) -> float:
        return round(max(0.0, float(new) - float(old)) / seconds, 2)

    def rates(name: str) -> dict[str, float]:
        return {key: rate(value, before[name].get(key, 0)) for key, value in now[name].items()}

    old = {one["name"]: one for one in before["policies"]}
    policies = []
    for one in now["policies"]:
        was = old.get(one["name"], one)
        cost = rate(one["spent"], was["spent"]) / 1e7 if now["statistics"] else None  # ns a second, as percent of a CPU
        rated = {f"{name}_rate": rate(one[name], was[name]) for name in ("matched", "denied")}
        policies.append({**one, **rated, "cost": None if cost is None else round(cost, 3)})
    programs = {
        name: {
            "runs_rate": rate(runs, before["programs"].get(name, (0, 0))[0]),
            "spent_rate": rate(ns, before["programs"].get(name, (0, 0))[1]),
        }
        for name, (runs, ns) in now["programs"].items()
    }
    lost = {"lost": now["lost"], "lost_rate": rate(now["lost"], before["lost"])}
    return {"seconds": round(seconds, 3), "events": rates("events"), "decisions": rates("decisions"), **lost} | {
        "statistics": now["statistics"],
        "policies": policies,
        "programs": programs,
    }


def _view(look: dict[str, Any], sort: str, height: int | None) -> RenderableType:
    """Tables for people. `height`: lines that there are."""
    from rich.console import Group

    key = {"cost": lambda one: -(one["cost"] or 0), "denied": lambda one: (-one["denied_rate"], -one["denied"])}
    key |= {"matched": lambda one: (-one["matched_rate"], -one["matched"]), "name": lambda one: one["name"]}
    room = 20 if height is None else max(4, height - 6)
    policies = sorted(look["policies"], key=key[sort])
    rows = [
        (
            one["name"],
            one["mode"],
            f"{one['matched_rate']:,.1f}",
            f"{one['matched']:,}",
            f"{one['denied_rate']:,.1f}",
            f"{one['denied']:,}",
            "-" if one["cost"] is None else f"{one['cost']:.2f} %",
        )
        for one in (policies if height is None else policies[:room])
    ]
    per_event = sorted(look["events"].items(), key=lambda item: -item[1])
    events = ", ".join(f"{name} {rate:,.1f}" for name, rate in per_event[:6] if rate) or "none"
    decided = ", ".join(f"{name} {rate:,.1f}" for name, rate in look["decisions"].items())
    parts: list[RenderableType] = [
        styled(f"{sum(look['events'].values()):,.1f} events a second: {events}"),
        styled(f"acts a second: {decided}; records lost: {look['lost']:,}", "bold red" if look["lost_rate"] else ""),
        table("policy", "mode", "match/s", "matched", "deny/s", "denied", "cost", rows=rows),
    ]
    if not look["statistics"]:
        parts.append(styled("cost is not known: sysctl kernel.bpf_stats_enabled=1 has the kernel measure it", "dim"))
    elif left := (10 if height is None else room - len(rows) - 2):
        costly = sorted(look["programs"].items(), key=lambda item: -item[1]["spent_rate"])[: max(0, left)]
        shown = [
            (
                name,
                f"{one['runs_rate']:,.0f}",
                f"{one['spent_rate'] / one['runs_rate']:,.0f}" if one["runs_rate"] else "-",
                f"{one['spent_rate'] / 1e7:.2f} %",
            )
            for name, one in costly
        ]
        parts += [table("program", "runs/s", "ns/run", "cost", rows=shown)] if shown else []
    if height is not None and len(policies) > len(rows):
        parts.append(styled(f"and {counted(len(policies) - len(rows), 'more policy', 'more policies')}", "dim"))
    return Group(*parts)


COMMANDS: Final = (policy, top)
