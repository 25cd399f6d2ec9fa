# SPDX-License-Identifier: Apache-2.0
"""Container runtimes in, tables of containers and hooks in place out: `workloads` and `hook`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from bpfence.agent.reach import Reach, reaches
from bpfence.cli.given import PATHS
from bpfence.cli.show import Command, assembled, counted, emit_json, err, json_option, out, styled, table
from bpfence.compiler.workloads import selectors
from bpfence.conditions.text import selector_text
from bpfence.errors import BpfenceError, UsageError
from bpfence.events.values import printable
from bpfence.host.sockets import listens
from bpfence.policy import Action, PolicySet
from bpfence.workloads.cgroups import Tree
from bpfence.workloads.hook import SOCKET
from bpfence.workloads.install import RUNTIMES, SECONDS, WITH_NRI, Asked, Host, Standing, install, standing, uninstall
from bpfence.workloads.limits import Limits, Machine, Whose, limits
from bpfence.workloads.model import Container
from bpfence.workloads.select import selected
from bpfence.workloads.sources import Gathered, all_sources, gather

SECOND: Final = 1_000_000_000
SHORT: Final = 12
NAMED: Final = 5
"""So many containers are named in a note."""
NOT_HELD: Final = 1
FAILED: Final = 2
LISTENS: Final = {True: "an agent listens", False: "no agent listens", None: "only root can tell whether an agent listens"}
HOLDS: Final = {True: "yes", False: "no", None: "could not tell"}
EXTENTS: Final = {
    "all": "all its processes", "some": "some of its processes", "unknown": "as unknown: reports only", "none": "not",
}  # fmt: skip
STYLES: Final = {True: "green", False: "red", None: "yellow"}


def tree() -> Tree:
    """The cgroups that are looked at; tests put others here."""
    return Tree()


def gathered(cgroups: Tree) -> Gathered:
    """What the sources of this host say; tests put others here."""
    return gather(all_sources(cgroups))


def runtimes_host() -> Host:
    """The host whose runtimes get the hook; tests put another one here."""
    return Host()


# ---- workloads ----


@click.command(cls=Command, short_help="Show the containers and pods of this host.")
@click.option("-a", "--all", "everything", is_flag=True, help="The pause containers of pods, too.")
@click.option("-p", "--policy", "policies", multiple=True, type=PATHS, help="Which of these policies reach into each. Repeatable.")
@json_option
def workloads(everything: bool, policies: tuple[str, ...], as_json: bool) -> int:
    """Show the containers and pods of this host as bpfence sees them: by their cgroups, the state and bundles of their runtimes, and the
    sockets of Docker, Podman, containerd and CRI-O. What a source does not tell is empty. What a container may have of processes, memory
    and processors is the limit of its cgroup, or of its pod's; containers without one are told on standard error.

    With -p also which policies reach into each container: some(NAME) into some of its processes, unknown(NAME) as one of which too little
    is known, where the policy reports and denies nothing. `bpfence explain --workload` tells more.

    \b
    Examples:
      sudo bpfence workloads
      sudo bpfence workloads -p /etc/bpfence/policies
      sudo bpfence workloads --json | jq '.containers[] | select(.privileged).name'
      sudo bpfence workloads --json | jq '.containers[] | select(.limits.none | index("memory")).name'
    """
    cgroups = tree()
    found = gathered(cgroups)
    containers = [container for container in found.containers if everything or not container.sandbox]
    machine = Machine.here()
    limited = [(container, limits(cgroups, container, machine)) for container in containers]
    given = policies_of(policies) if policies else None
    if as_json:
        shown = [
            msgspec.to_builtins(container)
            | {"limits": msgspec.to_builtins(limit)}
            | ({} if given is None else {"policies": [reach_as_json(one) for one in reaches(given, container)]})
            for container, limit in limited
        ]
        emit_json({"containers": shown, "silent": {name: printable(why) for name, why in found.silent.items()}})
        return 0
    if containers:
        columns: tuple[str, ...] = ("id", "name", "image", "runtime", "pod", "privileged", "pids", "memory", "cpu", "started")
        rows = [_row(container, limit) for container, limit in limited]
        if given is not None:
            columns = (*columns, "policies")
            rows = [[*row, _reached(given, container)] for row, container in zip(rows, containers, strict=True)]
        out().print(table(*columns, rows=rows))
    else:
        out().print("no container runs here")
    for note in dict.fromkeys(note for _, limit in limited for note in limit.notes):
        names = [_name(container) for container, limit in limited if note in limit.notes]
        rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        err().print(assembled(("note", "bold"), f": {printable(', '.join(names[:NAMED]))}{rest}: {note}"))
    for name, why in found.silent.items():
        err().print(assembled(("note", "bold"), f": {name}: {printable(why)}"))
    return 0


def policies_of(paths: Iterable[str]) -> PolicySet:
    """The policies of files and directories, of whatever language. PolicyError where one is wrong."""
    from bpfence.agent.loading import load  # `workloads` without policies does without the languages

    return load(tuple(paths)).policies


def chosen(text: str) -> Container:
    """The container of this host with that name, or whose id begins so. UsageError where there is none, or more than one."""
    found = [container for container in gathered(tree()).containers if not container.sandbox]
    meant = [container for container in found if text in (container.name, container.id)]
    meant = meant or [container for container in found if text and container.id.startswith(text)]
    if len(meant) != 1:
        few = ", ".join(f"{one.id[:SHORT]} ({one.name})" if one.name else one.id[:SHORT] for one in (meant or found)[:NAMED])
        raise UsageError(f"{'several containers are' if meant else 'no container is'} called {text!r}: {few or 'none runs here'}")
    return meant[0]


def reach_as_json(reach: Reach) -> dict[str, Any]:
    """How far a policy reaches into a container."""
    return {"policy": reach.policy.name, "mode": reach.policy.mode, "extent": reach.extent, "rules": list(reach.rules)}


def show_reaches(files: Iterable[str], workload: str, as_json: bool) -> int:
    """Which policies reach into a container, and by which rules: `explain --workload`."""
    policies, container = policies_of(files), chosen(workload)
    found = list(reaches(policies, container))
    classes = sorted(selector_text(selector) for selector in selected(container, selectors(policies)))
    if as_json:
        emit_json({
            "container": msgspec.to_builtins(container),
            "selected_by": [printable(text) for text in classes],
            "policies": [reach_as_json(one) for one in found],
        })  # fmt: skip
        return 0
    what = f"{container.id[:SHORT]} {container.name} {container.image}".rstrip()
    out().print(assembled((printable(what), "bold"), f": selected by {'; '.join(map(printable, classes)) or 'no selector'}"))
    rows = [
        (one.policy.name, one.policy.mode, styled(EXTENTS[one.extent]), f"{len(one.rules)} of {_rules(one)}", ", ".join(one.rules))
        for one in found
    ]
    out().print(table("policy", "mode", "reaches", "rules", "which", rows=rows))
    return 0


def _rules(reach: Reach) -> int:
    return len(reach.policy.rules) + any(action > Action.ALLOW for action in reach.policy.default.values())


def _reached(policies: PolicySet, container: Container) -> str:
    """The policies that reach into a container, in one cell."""
    found = [one for one in reaches(policies, container) if one.extent != "none"]
    return ", ".join(one.policy.name if one.extent == "all" else f"{one.extent}({one.policy.name})" for one in found)


def _name(container: Container) -> str:
    """What a container is called by people: its name, else the beginning of its id."""
    return _cut(container.name or (container.id[:SHORT] if len(container.id) == 64 else container.id))


def _row(container: Container, limits: Limits) -> list[object]:
    privileged = {True: styled("yes", "bold red"), False: styled("no"), None: styled("")}[container.privileged]
    pod = f"{container.pod.namespace}/{container.pod.name}" if container.pod is not None else ""
    name = container.name or ("(pause)" if container.sandbox else "")
    identity = container.id[:SHORT] if len(container.id) == 64 else container.id
    image = _cut(container.image or container.image_digest or container.image_id)
    pids = _used(limits.pids, limits.pids_max, limits.pids_of, str)
    used = (pids, _used(limits.memory, limits.memory_max, limits.memory_of, _bytes))
    cpu = _most(limits.cpu_max, limits.cpu_of, "{:g}".format)
    return [_cut(identity), _cut(name), image, container.runtime, _cut(pod), privileged, *used, cpu, _moment(container.started)]


def _cut(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _used(now: int | None, most: int | None, whose: Whose, form: Callable[[int], str]) -> str:
    """`7 of 100`; without the limit where there is none."""
    used, limit = "" if now is None else form(now), _most(most, whose, form)
    return f"{used or '?'} of {limit}" if limit else used


def _most(most: Any, whose: Whose, form: Callable[[Any], str]) -> str:
    """A limit, and whose it is where it is not the container's own; empty where it has none."""
    if most is None or whose == "shared":
        return ""
    return f"{form(most)} (pod)" if whose == "pod" else form(most)


def _bytes(count: int) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:.1f} TiB"


def _moment(nanoseconds: int) -> str:
    try:
        return dt.datetime.fromtimestamp(nanoseconds // SECOND, dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ") if nanoseconds else ""
    except (ValueError, OverflowError, OSError):
        return ""


# ---- hook ----


@click.group("hook", short_help="Tell the agent of containers before their first instruction.")
def group() -> None:
    """Tell the agent of containers before their first instruction.

    An OCI hook tells the agent of each container that is about to start, and waits until its policies are in force. Without it a container
    is known a moment after it has started.

    \b
    Examples:
      sudo bpfence hook install
      bpfence hook status
    """


runtime_option = click.option(
    "--runtime", "chosen", type=click.Choice(RUNTIMES), multiple=True, help="Only this runtime; else all that are here. Repeatable."
)


def _chosen(chosen: tuple[str, ...], host: Host) -> list[str]:
    """The runtimes that are meant. UsageError where none is."""
    here = [*dict.fromkeys(chosen)] or [runtime for runtime in RUNTIMES if host.has(runtime)]
    if not here:
        raise UsageError(f"no container runtime was found here: --runtime names one ({', '.join(RUNTIMES)})")
    # Podman and CRI-O share one hook.
    return [runtime for runtime in here if runtime != "crio" or "podman" not in here]


@group.command("install", cls=Command, short_help="Put the hook in place.")
@runtime_option
@click.option(
    "--on-failure",
    type=click.Choice(["allow", "deny"]),
    default="allow",
    show_default=True,
    help="Whether a container starts when the agent does not answer, or cannot put policies in force. With deny none starts while no agent "
    "listens.",
)
@click.option(
    "--timeout",
    "seconds",
    type=click.FloatRange(0.1, 60),
    default=SECONDS,
    show_default=True,
    help="Seconds to wait for the agent, which itself gives up after 70 % of them, and says so.",
)
@click.option("--real", default="", metavar="PATH", help="containerd, Docker: the runtime that is called then (the first of runc, crun).")
@click.option("--nri", is_flag=True, help="containerd, CRI-O: a plugin that the runtime starts, in place of the hook.")
@click.option("--socket", default=str(SOCKET), show_default=True, metavar="PATH", help="The agent's socket.")
@json_option
def install_command(chosen: tuple[str, ...], on_failure: str, seconds: float, real: str, nri: bool, socket: str, as_json: bool) -> int:
    """Put the hook in place. Podman and CRI-O read it from /usr/share/containers/oci/hooks.d. containerd and Docker call a program in the
    place of their runtime, which gives each bundle the hook and then is that runtime: Docker's daemon.json is written, for containerd it
    is told what to write. With --nri containerd (from 1.7 on) and CRI-O start a plugin, which asks the agent, and keep their runtime.

    Each runtime is done by itself: what went wrong with one is told, and exits with 2. Again with other options: those hold for containers
    that are made from then on.

    \b
    Examples:
      sudo bpfence hook install
      sudo bpfence hook install --runtime docker --real /usr/bin/crun
      sudo bpfence hook install --runtime containerd --nri
    """
    host = runtimes_host()
    if nri and real:
        raise UsageError("--real is about a wrapped runtime, which --nri does without")
    if not socket.startswith("/") or any(letter.isspace() for letter in socket):
        raise UsageError("--socket: an absolute path without blanks")
    asked = Asked("deny" if on_failure == "deny" else "allow", seconds, socket, real, nri)
    meant = _chosen(chosen, host)
    if nri and not chosen:
        meant = [runtime for runtime in RUNTIMES if runtime in WITH_NRI and host.has(runtime)]
        if not meant:
            raise UsageError("neither containerd nor CRI-O was found here: --runtime names one")
    return _each(meant, lambda runtime: install(runtime, asked, host), as_json)


@group.command("uninstall", cls=Command, short_help="Take the hook away.")
@runtime_option
@click.option("--purge", is_flag=True, help="The wrapped runtimes, too, which containers that were made with them still need.")
@json_option
def uninstall_command(chosen: tuple[str, ...], purge: bool, as_json: bool) -> int:
    """Take the hook away, from all runtimes or those that are named. Containers that run go on: the program that stands before the runtime
    of containerd and Docker stays for them, and only passes on. Once no container that was made with it is left, --purge removes it.

    \b
    Examples:
      sudo bpfence hook uninstall
      sudo bpfence hook uninstall --runtime docker --purge
    """
    host = runtimes_host()
    meant = [*dict.fromkeys(chosen)] or [runtime for runtime in RUNTIMES if runtime != "crio"]
    return _each(meant, lambda runtime: uninstall(runtime, host, purge), as_json)


def _each(runtimes: Iterable[str], act: Callable[[str], list[str]], as_json: bool) -> int:
    """Do it for each runtime, whatever becomes of the others, and tell what was done, then what was not."""
    done: dict[str, list[str]] = {}
    wrong: dict[str, str] = {}
    for runtime in runtimes:
        try:
            done[runtime] = act(runtime)
        except (BpfenceError, OSError) as error:
            wrong[runtime] = printable(str(error) or type(error).__name__)
    if as_json:
        emit_json({"runtimes": {runtime: [printable(line) for line in lines] for runtime, lines in done.items()}, "errors": wrong})
        return FAILED if wrong else 0
    for runtime, lines in done.items():
        for line in lines:
            out().print(f"{runtime}: {printable(line)}")
    if not any(done.values()) and not wrong:
        out().print("nothing was installed")
    for runtime, why in wrong.items():
        err().print(assembled(("error", "bold red"), f": {runtime}: {why}"))
    return FAILED if wrong else 0


@group.command("status", cls=Command, short_help="Tell for which runtimes the hook is in place.")
@click.option("--socket", default=str(SOCKET), show_default=True, metavar="PATH", help="The agent's socket.")
@json_option
def status_command(socket: str, as_json: bool) -> int:
    """Tell which runtimes are here, whether the hook is in place for them, as far as files tell, and whether an agent listens. Exits with 1
    where it is not in place for one that is here.

    \b
    Examples:
      bpfence hook status
      bpfence hook status --json | jq '.runtimes[] | select(.here and .holds != true).runtime'
    """
    host = runtimes_host()
    found = standing(host)
    agent = listens(host.at(Path(socket)))
    if as_json:
        emit_json({"runtimes": standing_as_json(found), "agent": {"socket": printable(socket), "listens": agent}})
    else:
        show_standing([runtime for runtime in found if runtime.here or runtime.holds])
        out().print(f"{LISTENS[agent]} at {printable(socket)}")
    return 0 if all(runtime.holds for runtime in found if runtime.here) else NOT_HELD


def standing_as_json(found: list[Standing]) -> list[dict[str, Any]]:
    """Runtimes for `--json`, here and in `doctor`."""
    return [msgspec.to_builtins(msgspec.structs.replace(runtime, why=printable(runtime.why))) for runtime in found]


def show_standing(found: list[Standing]) -> None:
    """Runtimes as a table, here and in `doctor`."""
    if not found:
        out().print("no container runtime was found here")
        return
    rows = []
    for runtime in found:
        failure = {"allow": "; without an agent containers start", "deny": "; without an agent no container starts"}
        why = runtime.why + failure.get(runtime.on_failure, "")
        rows.append((runtime.title, styled(HOLDS[runtime.holds], STYLES[runtime.holds]), why))
    title = f"Told before the first instruction ({counted(len(found), 'runtime')})"
    out().print(table("runtime", "", "", rows=rows, title=title))


COMMANDS: Final = (workloads, group)
