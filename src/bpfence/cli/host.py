# SPDX-License-Identifier: Apache-2.0
"""Policies and commands in, enforcement on this host out: `run`, `exec`, `status`, `unload` and `doctor`.

What needs libbpf is imported when it is called, so that a machine without it can still check policies.
"""

from __future__ import annotations

import datetime as dt
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from bpfence import abi
from bpfence.agent.agent import Agent, Settings
from bpfence.agent.feed import Feed, Feeds
from bpfence.agent.generations import Counts, Generations, state_path
from bpfence.agent.kernel import Kernel, LiveKernel
from bpfence.agent.loading import Options, load
from bpfence.cli.control import NO_ANSWER, answered, socket_option
from bpfence.cli.given import dialect_options
from bpfence.cli.services import control_options, export_options, kubearmor_service, tetragon_service, throttled
from bpfence.cli.settings import config_option, named_in_environment
from bpfence.cli.show import (
    Command,
    assembled,
    counted,
    emit_json,
    json_option,
    message_queue,
    out,
    styled,
    table,
    tell_diagnostics,
    to_stderr,
)
from bpfence.confine.sandbox import Sandbox, exit_code, guarded
from bpfence.dialects.registry import DIALECTS
from bpfence.errors import BpfenceError, KernelError, UsageError
from bpfence.events.process import read_boot_id
from bpfence.events.values import printable
from bpfence.host.cgroups import Hierarchy, find_hierarchy
from bpfence.host.kubelet import SECCOMP_FOLDER
from bpfence.host.links import Links
from bpfence.host.signals import Signals
from bpfence.outputs.forms import FORMS
from bpfence.outputs.routes import PATIENT_CLOSE_SECONDS, open_outputs, with_format
from bpfence.outputs.scrape import Scrapes
from bpfence.outputs.specs import FORMATS, Spec
from bpfence.services.requests import Status
from bpfence.workloads.hook import SOCKET

if TYPE_CHECKING:
    from bpfence.dialects.tetragon.export import Export
    from bpfence.k8s.source import Cluster
    from bpfence.services.control import ControlService
    from bpfence.workloads.registry import Sources

PIN_DIR: Final = "/sys/fs/bpf/bpfence"
NOT_LOADED: Final = 1
STATUS_SECONDS: Final = 3.0
"""For an agent to tell of itself: `status` is asked for where one hangs, too."""
NO_AGENT: Final = "not running: enforcement goes on, and alerts wait for the next agent"
POLICY: Final = click.Path(exists=True, path_type=str)
ANSWER_STYLES: Final = {"yes": "green", "no": "red", "could not tell": "yellow"}

FLAVOURS: Final = {"lsm": "BPF LSM programs", "fmod_ret": "fmod_ret programs on security_* functions"}
ALWAYS: Final = ("denied", "audited", "killed")
_CAUSES: Final = {
    "memory": "no memory was free for the decision", "record": "the kernel had no record of the process",
    "lineage": "its ancestors were not all known",
    "path": "a path could not be found out", "value": "a value could not be read", "table": "a table could not be read",
    "count": "there was no room to count for a rule, or it was not known whom for",
    "engine": "the program of the hook was without the shared decision engine",
}  # fmt: skip
COUNTERS: Final = {
    "denied": "acts denied", "audited": "acts reported by audit rules", "killed": "processes killed",
    "kill_refused": "processes that the kernel did not let be killed; their acts were denied",
    "decisions_written": "alerts written", "decisions_lost": "alerts lost: the buffer was full",
    "candidates_written": "events written that user space confirms",
    "candidates_lost": "events lost that user space would have confirmed: the buffer was full",
    "telemetry_written": "events written that policies observe", "telemetry_lost": "observed events lost: the buffer was full",
    "path_uncertain": "paths that could not be found out in full", "record_failed": "processes for whose records there was no room",
    "subject_computed": "times that a process was examined anew",
    "spare_taken": "decisions that took spare memory, because that of their CPU was in use",
    "signals_sent": "signals that rules have sent, other than those that kill",
    "signals_refused": "signals that the kernel has not sent for a rule",
    "returns_missed": "calls that sensors did not see return, and returns of which no call was kept any more",
    "held_full": "records lost: no room to wait for the result of their system call",
    **{f"uncertain_{cause}": f"decisions that were uncertain: {why}" for cause, why in _CAUSES.items()},
    **{f"refused_{cause}": f"acts denied because the decision was uncertain: {why}" for cause, why in _CAUSES.items()},
}  # fmt: skip
"""What the kernel's counters mean, in the words of `status`. JSON has their names."""

POLICY_HELP: Final = "A file of policies (native, Tetragon's, KubeArmor's) or Falco rules, or a directory of *.yaml. Repeatable."
KUBERNETES_CACHE: Final = Path("/var/lib/bpfence/kubernetes.json")
mode_option = click.option("--mode", type=click.Choice(["audit", "enforce"]), help="Override the mode of every policy.")
policy_option = click.option(
    "-p",
    "--policy",
    "policies",
    multiple=True,
    required=True,
    type=POLICY,
    help=POLICY_HELP,
)
pin_option = click.option("--pin-dir", default=PIN_DIR, show_default=True, help="Where in bpffs maps and links are pinned.")


output_option = click.option(
    "--output",
    "outputs",
    multiple=True,
    metavar="OUTPUT",
    type=click.UNPROCESSED,  # the configuration file says more of an output than a text can
    help="jsonl:PATH, - (JSON lines), rich, falco, falco-text, tetragon, kubearmor, cef, ocsf, auto (the default), unix:PATH,"
    " syslog:{unix:PATH|udp:HOST:PORT|tcp:…|tls:…}, http://…, https://…, loki:URL, elastic:URL/INDEX, otlp:URL,"
    " kafka:HOST:PORT/TOPIC. Repeatable. See docs/outputs.md.",
)
format_option = click.option(
    "--format",
    "form_name",
    type=click.Choice(FORMATS),
    default="native",
    show_default=True,
    help="What standard output shows: bpfence's own form, lines as Falco, Tetragon or KubeArmor write them, or CEF or OCSF.",
)
record_option = click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Append every event that Falco rules were checked against in user space; `bpfence test` replays it.",
)


def kernel(max_processes: int | None = None) -> Kernel:
    """The kernel that commands work on; tests put another one here."""
    return LiveKernel(max_processes)


def container_sources(report: Callable[[str], None], hook: Path, nri: Path | None = None, nri_fails: bool = False) -> Sources | None:
    """Who tells `run` of containers, the hook at its socket and NRI among them; tests put others here."""
    from bpfence.workloads.sources import HostSources  # imported late: other commands of this module do without

    return HostSources(report, hook=hook, nri=nri, nri_fails=nri_fails)


def cluster_of(
    node: str | None, kubeconfig: Path | None, cache: Path, seccomp: Path, report: Callable[[str], None], languages: Mapping[str, Any]
) -> Cluster:
    """The cluster that `run --kubernetes` looks at. `languages`: those whose objects it watches, too, with their options."""
    from bpfence.k8s.client import connect  # imported late: its library takes as long as the rest of the start
    from bpfence.k8s.source import Cluster

    name = node or os.uname().nodename.lower()
    return Cluster(connect(kubeconfig), name, report, path=cache.absolute(), folder=seccomp.absolute(), languages=languages)


def hierarchy() -> Hierarchy:
    """The cgroup hierarchy that `exec` works in; tests put another one here."""
    return find_hierarchy()


@click.command(cls=Command, short_help="Enforce policies on this host, and print alerts.")
@config_option
@click.option("-p", "--policy", "policies", multiple=True, type=POLICY, help=POLICY_HELP)
@click.option(
    "--kubernetes",
    "in_cluster",
    is_flag=True,
    help="Policies and pods of the cluster that this node is part of, too. See docs/kubernetes.md.",
)
@click.option("--node", envvar="NODE_NAME", help="What the cluster calls this node.  [default: $NODE_NAME, or the host's name]")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="How the API server is reached, from outside of a pod.",
)
@click.option(
    "--kubernetes-cache",
    type=click.Path(path_type=Path, dir_okay=False),
    default=KUBERNETES_CACHE,
    show_default=True,
    metavar="FILE",
    help="Where what is known of the cluster is kept across restarts.",
)
@click.option(
    "--cluster-policies",
    "cluster_languages",
    multiple=True,
    type=click.Choice([name for name, dialect in DIALECTS.items() if dialect.objects]),
    help="Policies of another language that are objects of the cluster, too. Repeatable.",
)
@click.option(
    "--seccomp-folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=SECCOMP_FOLDER,
    show_default=True,
    metavar="FOLDER",
    help="The kubelet's seccomp folder, where seccomp profiles of the cluster are put.",
)
@mode_option
@output_option
@format_option
@export_options
@dialect_options
@record_option
@click.option(
    "--metrics",
    "metrics_place",
    metavar="PLACE",
    help="Answer Prometheus's scrapes at /metrics of unix:PATH or HOST:PORT, an address of this host. See docs/metrics.md.",
)
@click.option("--metrics-public", is_flag=True, help="The address of --metrics may be one that other machines reach.")
@click.option("--ready-file", type=click.Path(path_type=Path, dir_okay=False), help="Written once enforcement is in force.")
@pin_option
@click.option(
    "--hook-socket",
    type=click.Path(path_type=Path, dir_okay=False),
    default=SOCKET,
    show_default=True,
    metavar="PATH",
    help="Where hooks of container runtimes tell of containers; `bpfence hook install --socket` names the same.",
)
@click.option(
    "--nri-socket",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PATH",
    help="Be a plugin of the container runtime (containerd, CRI-O) whose NRI is there, mostly /run/nri/nri.sock: it tells of each container"
    " before its first instruction.",
)
@click.option(
    "--nri-on-failure",
    type=click.Choice(["allow", "deny"]),
    default="allow",
    show_default=True,
    help="Whether a container of that runtime starts when policies cannot be put in force for it in time.",
)
@click.option(
    "--tetragon-socket",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PATH",
    help="Answer Tetragon's client `tetra` at this unix socket: events, tracing policies. See docs/tetragon.md.",
)
@click.option("--tetragon-group", metavar="GROUP", help="Who may use that socket beside root, which is to command all of the agent.")
@click.option(
    "--kubearmor-service",
    "kubearmor_place",
    metavar="PLACE",
    help="Answer KubeArmor's clients (`karmor logs`, its relay) at unix:PATH or HOST:PORT, an address of this host. See docs/kubearmor.md.",
)
@click.option("--kubearmor-service-public", is_flag=True, help="The address of --kubearmor-service may be one that other machines reach.")
@click.option("--kubearmor-group", metavar="GROUP", help="Who may use the unix socket of --kubearmor-service beside root.")
@control_options
@click.option("--no-pin", is_flag=True, help="Pin nothing: enforcement ends with this process, whatever ends it.")
@click.option("--keep", is_flag=True, help="Leave enforcement in force when stopped by a signal; `bpfence unload` ends it.")
@click.option("--keep-privileges", is_flag=True, help="Keep all privileges after the start. For hosts where giving them up fails.")
@click.option(
    "--max-processes",
    type=click.IntRange(64, 4194304),
    help="How many processes the kernel keeps records of (as many as it can have, up to 262144). Enforcing rules deny where they ask about"
    " a process without one.",
)
def run(
    policies: tuple[str, ...],
    in_cluster: bool,
    node: str | None,
    kubeconfig: Path | None,
    kubernetes_cache: Path,
    cluster_languages: tuple[str, ...],
    seccomp_folder: Path,
    mode: str | None,
    outputs: tuple[str | Spec, ...],
    form_name: str,
    record: Path | None,
    metrics_place: str | None,
    metrics_public: bool,
    ready_file: Path | None,
    pin_dir: str,
    hook_socket: Path,
    nri_socket: Path | None,
    nri_on_failure: str,
    tetragon_socket: Path | None,
    tetragon_group: str | None,
    kubearmor_place: str | None,
    kubearmor_service_public: bool,
    kubearmor_group: str | None,
    control: Callable[[Callable[[str], None]], ControlService] | None,
    no_pin: bool,
    keep: bool,
    keep_privileges: bool,
    max_processes: int | None,
    options: Options,
    export: Export | None,
) -> int:
    """Enforce policies and Falco rules on this host and print alerts, until SIGTERM or SIGINT.

    SIGHUP reads the policies again, without a gap; when they are wrong, the old ones stay. Alerts are shown for people on a terminal and
    as JSON lines elsewhere. A killed agent leaves enforcement in force; the next start takes it over. After the start the agent gives up
    all privileges but what a reload needs, and ends where it cannot.

    \b
    Examples:
      sudo bpfence run -p /etc/bpfence/policies
      sudo bpfence run -p policies/ --mode audit --output jsonl:/var/log/bpfence.jsonl
      sudo bpfence run -p falco_rules.yaml -p local_rules.yaml --format falco
      sudo bpfence run --kubernetes --kubeconfig /etc/bpfence/kubeconfig --node worker-1
      sudo bpfence run --tetragon-socket /run/tetragon/tetragon.sock
      sudo bpfence run --config bpfence.yaml
    """
    alone = any(getattr(asked, "stands_alone", False) for asked in options.values())
    if not (policies or in_cluster or tetragon_socket or control or alone):
        raise UsageError(
            "there are no policies: name files or directories with -p, take those of a cluster with --kubernetes, or let clients add them"
            " with --control-socket or --tetragon-socket"
        )
    if tetragon_group is not None and tetragon_socket is None:
        raise UsageError("--tetragon-group is about a socket: add --tetragon-socket")
    if kubearmor_place is None and (kubearmor_service_public or kubearmor_group is not None):
        raise UsageError("--kubearmor-service-public and --kubearmor-group are about a place: add --kubearmor-service")
    if kubeconfig is not None and not in_cluster:
        raise UsageError("--kubeconfig is about a cluster: add --kubernetes")
    if cluster_languages and not in_cluster:
        raise UsageError("--cluster-policies is about a cluster: add --kubernetes")
    if metrics_public and metrics_place is None:
        raise UsageError("--metrics-public is about an address: add --metrics")
    if no_pin and keep:
        raise UsageError("--keep needs pins: leave out --no-pin")
    paths = tuple(os.path.abspath(path) for path in policies)
    settings = Settings(
        policies=paths,
        mode=mode,
        pin_dir=None if no_pin else pin_dir,
        keep=keep,
        ready_file=ready_file,
        options=options,
        record=record,
        drop_privileges=not keep_privileges,
        listens=tetragon_socket is not None or kubearmor_place is not None,
    )
    report = message_queue()
    answers = control(report) if control is not None else None
    service = tetragon_service(tetragon_socket, tetragon_group, report, export) if tetragon_socket is not None else None
    watched = None
    if kubearmor_place is not None:
        watched = kubearmor_service(kubearmor_place, kubearmor_group, report, anywhere=kubearmor_service_public)
    forms = dict(FORMS)
    if export is not None:
        forms["tetragon"] = lambda: export
    throttles = throttled(options, forms, watched, report)
    more = [(service.form, service.clients)] if service is not None else []
    more += watched.outputs if watched is not None else []
    more += [(answers.form, answers.clients)] if answers is not None else []
    lines = open_outputs(with_format(outputs, form_name), report, more=more, forms=forms)
    told = partial(tell_diagnostics, report)
    nri = nri_socket.absolute() if nri_socket is not None else None
    sources, feeds = container_sources(report, hook_socket.absolute(), nri, nri_on_failure == "deny"), list[Feed]()
    if in_cluster:
        from bpfence.workloads.sources import Several

        languages = {name: options.get(name) for name in cluster_languages}
        cluster = cluster_of(node, kubeconfig, kubernetes_cache, seccomp_folder, report, languages)
        feeds.append(cluster)
        sources = Several(*([sources] if sources is not None else []), cluster.pods)
    feeds += [one for one in (service, watched, answers) if one is not None]
    feed = feeds[0] if len(feeds) == 1 else Feeds(*feeds) if feeds else None
    scrapes = Scrapes(metrics_place, report, anywhere=metrics_public) if metrics_place is not None else None
    live = kernel(max_processes)
    try:
        modes = answers.modes if answers is not None else None
        agent = Agent(
            settings,
            lines,
            report=report,
            kernel=live,
            diagnose=told,
            sources=sources,
            feed=feed,
            scrapes=scrapes,
            modes=modes,
            metered=answers is not None,
        )
        if answers is not None:
            answers.join(agent)
        if service is not None:
            service.join(lambda: agent.loaded, agent.containers)
        agent.run()
    finally:
        for throttle in throttles:
            throttle.finish()
        if scrapes is not None:
            scrapes.close()  # also where the start has failed
    return 0


named_in_environment(run)


@click.command(
    "exec",
    cls=Command,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    short_help="Run one command and its descendants under policies.",
)
@policy_option
@mode_option
@output_option
@format_option
@dialect_options
@record_option
@click.option(
    "--seccomp", "profile", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="A seccomp profile for the command."
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_command(
    policies: tuple[str, ...],
    mode: str | None,
    outputs: tuple[str, ...],
    form_name: str,
    record: Path | None,
    profile: str | None,
    command: tuple[str, ...],
    options: Options,
) -> int:
    """Run one command and all its descendants under policies and Falco rules, in a cgroup of its own.

    Nothing else on the host is concerned, nothing is pinned, and nothing is left: what still runs when the command has ended is killed.
    Alerts go to standard error (`-` and `auto` included). The exit code is the command's, 128+N when signal N ended it, 126 or 127 when it
    could not be run.

    \b
    Examples:
      sudo bpfence exec -p policy.yaml -- bash
      sudo bpfence exec -p policy.yaml --seccomp profile.json -- ./server
      sudo bpfence exec -p policies/ --mode audit --output jsonl:seen.jsonl -- make install
      sudo bpfence exec -p falco_rules.yaml --format falco-text --record seen.jsonl -- ./suspicious
    """
    from bpfence.confine.command import (
        caught,
        filters_of,
        interrupts,
    )  # imported late: what checks policies and reads events does without libseccomp

    loaded = load(policies, mode, options=options, links=Links())
    filters = filters_of(profile, loaded.policies.policies, to_stderr)
    with Sandbox(hierarchy()) as sandbox, Signals(caught()) as signals, interrupts(signal.SIG_BLOCK):
        scope = sandbox.condition()
        settings = Settings(
            policies=tuple(policies), mode=mode, scope=scope, drop_privileges=False, starts_command=True, options=options, record=record
        )
        report = message_queue()
        forms = dict(FORMS)
        throttles = throttled(options, forms, None, report)
        shown = with_format(outputs, form_name)
        lines = open_outputs(shown, report, stream=sys.stderr, close_seconds=PATIENT_CLOSE_SECONDS, forms=forms)
        agent = Agent(settings, lines, report=report, kernel=kernel(), diagnose=partial(tell_diagnostics, report))
        agent.start(loaded)
        try:
            return _run_in(sandbox, agent, signals, command, filters)
        finally:
            sandbox.kill()
            agent.stop()
            for throttle in throttles:
                throttle.finish()


def _run_in(sandbox: Sandbox, agent: Agent, signals: Signals, command: tuple[str, ...], filters: list[Any]) -> int:
    from bpfence.confine.command import Interrupts, interrupts

    ended: list[int] = []
    with interrupts(signal.SIG_UNBLOCK):
        child = sandbox.launch(command, filters)

    def pass_on() -> None:
        for taken in signals.take():
            child.signal(taken)

    agent.loop.on_readable(child.pidfd, lambda: ended.append(guarded(command, lambda: exit_code(child.wait()), to_stderr)))
    agent.loop.on_readable(signals.fileno(), pass_on)
    try:
        with Interrupts(child):
            while not ended:
                agent.step()
    finally:
        child.close()
    return ended[0]


# ---- status and unload ----


@click.command(cls=Command, short_help="Show what is in force, and what was counted.")
@pin_option
@socket_option
@json_option
def status(pin_dir: str, socket: Path, as_json: bool) -> int:
    """Show which policies are in force, since when, by which agent, and what was counted, also by rule; and what an agent with a control
    socket tells of itself.

    Exits with 1 when nothing is loaded.

    \b
    Examples:
      sudo bpfence status
      sudo bpfence status --json | jq '.instances[].counters.denied'
    """
    from bpfence.kernel.engine import inspect

    agent: dict[str, Any] | None = None
    try:
        agent = answered(socket, Status(), STATUS_SECONDS)
    except KernelError as error:
        if error.missing == NO_ANSWER:  # else there is no such socket, as of most agents, or it is another's
            to_stderr(str(error))
    except BpfenceError:
        pass
    try:
        instances = [_described(pin_dir, status) for status in inspect(pin_dir)]
    except (BpfenceError, OSError):
        if agent is None:
            raise
        instances = []  # a user who may ask the agent, and not look into the kernel
    if as_json:
        emit_json({"loaded": bool(instances), "pin_dir": pin_dir, "instances": instances, "agent": agent})
    elif not instances and agent is None:
        out().print(f"nothing is loaded (no pins at {printable(pin_dir)})")
    for instance in () if as_json else instances:
        _show_instance(instance)
    if agent is not None and not as_json:
        _show_agent(agent, socket)
    return 0 if instances or agent is not None else NOT_LOADED


def _show_agent(agent: dict[str, Any], socket: Path) -> None:
    """What an agent says of itself at its control socket."""
    outputs = [
        f"{one['name']} ({one['written']:,} lines, {one['waiting']:,} waiting, {one['dropped']:,} dropped)" for one in agent["outputs"]
    ]
    modes = [f"{name} ({mode})" for name, mode in agent["modes"].items()]
    rows = [
        ("answers", f"pid {agent['pid']}, {agent['agent']}"),
        ("runs for", str(dt.timedelta(seconds=agent["seconds"]))),
        ("policies", f"{agent['policies']:,}" + (f"; added here: {', '.join(agent['added'])}" if agent["added"] else "")),
        ("modes set here", ", ".join(modes) or "none"),
        ("containers known", f"{agent['containers']:,}"),
        ("outputs", ", ".join(outputs)),
    ]
    out().print()
    out().print(table("", "", rows=rows, title=f"The agent at {printable(str(socket))}"))


def _described(pin_dir: str, status: Any) -> dict[str, Any]:
    instance: dict[str, Any] = msgspec.to_builtins(status)
    names = [name for name in instance.pop("instances") if name.endswith(f"-{status.flavour}")]
    generations = Generations(state_path(pin_dir), read_boot_id())
    generations.restore()
    known = generations.get(status.generation)
    # Without the state file, the best that can be told is when the instance was made.
    since = known.since if known is not None and known.since else _made(pin_dir, names)
    counts = Counts(state_path(pin_dir), read_boot_id()).read()
    # A policy in doubt about containers has its rules twice; what it says of itself comes first.
    modes: dict[tuple[str, str], str] = {}
    for rule in known.rules if known is not None else ():
        modes.setdefault((rule.policy, rule.rule), rule.mode)
    rules = [
        {"policy": policy, "rule": rule, "mode": mode, "matched": counts.rules.get(f"{policy}/{rule}", 0)}
        for (policy, rule), mode in modes.items()
    ]
    shown = dt.datetime.fromtimestamp(since, dt.UTC).isoformat(timespec="seconds") if since else None
    start = msgspec.to_builtins(generations.started) if status.abi == abi.ABI_VERSION else None
    own = {"agent_running": _is_running(pin_dir, status.agent_pid), "since": shown, "rules": rules, "outputs_dropped": counts.outputs}
    return own | {"unplaced": list(generations.unplaced), "start": start} | instance


def _made(pin_dir: str, names: list[str]) -> float:
    for name in names:
        try:
            return os.stat(Path(pin_dir) / name / "map_control").st_mtime
        except OSError:
            continue
    return 0.0


def _is_running(pin_dir: str, pid: int) -> bool | None:
    """Whether the agent with that pid runs; None where pids of the host have no meaning here."""
    from bpfence.kernel.pids import in_host_namespace
    from bpfence.kernel.pins import in_use

    if pid > 0 and not in_host_namespace():
        return None
    return pid > 0 and in_use(Path(pin_dir))


def _show_instance(instance: dict[str, Any]) -> None:
    console = out()
    if instance["abi"] != abi.ABI_VERSION:
        rows = [
            ("made by", f"another version of bpfence (ABI {instance['abi']}, this is ABI {abi.ABI_VERSION})"),
            ("enforcing by", FLAVOURS.get(instance["flavour"], instance["flavour"])), ("programs", " ".join(instance["attached"])),
            ("to go over", "`bpfence run` with your policies: they are put in force first, then this goes"),
        ]  # fmt: skip
        console.print(table("", "", rows=rows, title=f"Pinned at {printable(instance['pin_dir'])}"))
        return
    agent = f"running, pid {instance['agent_pid']}" if instance["agent_running"] else NO_AGENT
    if instance["agent_running"] is None:
        agent = f"pid {instance['agent_pid']} of the host; whether it runs cannot be told from this pid namespace"
    policies = ", ".join(dict.fromkeys(f"{rule['policy']} ({rule['mode']})" for rule in instance["rules"])) or "unknown"
    rows = [
        ("policies", policies),
        ("in force since", instance["since"] or "unknown"),
        ("agent", agent),
        ("enforcing by", FLAVOURS.get(instance["flavour"], instance["flavour"])),
        ("programs", " ".join(instance["attached"])),
        ("its start", _started(instance["start"])),
        ("processes known", f"{instance['processes']:,}"),
        ("tables put in force", counted(instance["generation"], "time")),
    ]
    console.print(table("", "", rows=rows, title=f"Pinned at {printable(instance['pin_dir'])}"))
    if instance["rules"]:
        matched = [(rule["policy"], rule["rule"], rule["mode"], f"{rule['matched']:,}") for rule in instance["rules"]]
        console.print()
        console.print(table("policy", "rule", "mode", "matched", rows=matched, title="Matches of each rule, since the agent began"))
    if instance["unplaced"]:
        console.print()
        console.print(table("", rows=[(printable(text),) for text in instance["unplaced"]], title="Hooks without a place on this kernel"))
    if instance["outputs_dropped"]:
        dropped = [(name, f"{lines:,}") for name, lines in instance["outputs_dropped"].items()]
        console.print()
        console.print(table("output", "lines", rows=dropped, title="Lines that outputs did not take, since the agent began"))
    counters = [(COUNTERS.get(name, name), f"{value:,}") for name, value in instance["counters"].items() if value or name in ALWAYS]
    counters += [(f"records of {event} lost", f"{value:,}") for event, value in instance["lost"].items()]
    counters += [(f"runs of {program} that the kernel left out", f"{value:,}") for program, value in instance["skipped"].items()]
    console.print()
    console.print(table("", "", rows=counters, title="Counted in the kernel, since its programs were loaded"))


def _started(cost: dict[str, Any] | None) -> str:
    """What the start of the engine in force cost."""
    if cost is None:
        return "unknown"
    parts = f"{cost['load']:.1f} s to load them, {cost['compile']:.1f} s to compile policies, {cost['total']:.1f} s in all"
    why = f"; each with a decision engine of its own: {printable(cost['unshared'])}" if cost["unshared"] else ""
    return f"{counted(cost['programs'], 'program')}; of processor time {parts}{why}"


@click.command(cls=Command, short_help="End enforcement: take everything out of the kernel.")
@pin_option
@json_option
def unload(pin_dir: str, as_json: bool) -> int:
    """End enforcement and take everything out of the kernel. Refused while an agent runs: stop that instead.

    \b
    Examples:
      sudo bpfence unload
    """
    from bpfence.kernel.engine import unload as unload_pins

    gone = unload_pins(pin_dir)
    try:
        Generations(state_path(pin_dir)).remove()
        Counts(state_path(pin_dir)).remove()
    except PermissionError:
        if gone:
            raise
    if as_json:
        emit_json({"unloaded": list(gone)})
    else:
        out().print(f"nothing is enforced any more; unloaded {', '.join(map(printable, gone))}" if gone else "nothing was loaded")
    return 0


# ---- doctor ----


@click.command(cls=Command, short_help="Tell what this kernel offers to bpfence.")
@click.option("--try", "attempt", is_flag=True, help="Load every program once (attaching only process tracking) to be sure. Needs root.")
@json_option
def doctor(attempt: bool, as_json: bool) -> int:
    """Tell what this kernel offers, what it lacks, and what that means; and of the container runtimes here, whether they tell the agent of
    containers before their first instruction.

    Nothing is attached unless --try is given. Exits with 3 when bpfence cannot enforce here, or when that could not be told, as without
    root.

    \b
    Examples:
      sudo bpfence doctor
      sudo bpfence doctor --json | jq -r .enforcement
    """
    # Imported late, as is libbpf: `run` and `status` do without.
    from bpfence.cli.workloads import runtimes_host, show_standing, standing_as_json
    from bpfence.kernel.features import probe
    from bpfence.workloads.install import standing

    features, runtimes = probe(), standing(runtimes_host())
    flavour, enforces = features.flavour, features.enforces.value
    rows = features.rows()
    missing, trouble, cost = _unsupported(features, attempt)
    essential = [row.title for row in rows if row.essential and row.answer.value == "no"]
    usable = enforces == "yes" and not essential and not trouble
    unknown = enforces == "could not tell"
    if as_json:
        emit_json(
            {
                "enforcement": flavour or ("unknown" if unknown else "none"),
                "usable": None if unknown else usable,
                "kernel": os.uname().release,
                "machine": os.uname().machine,
                "probes": [_probe_as_json(row) for row in rows],
                "unsupported_events": missing,
                "trouble": trouble,
                "load": msgspec.to_builtins(cost),
                "runtimes": standing_as_json(runtimes),
            }
        )
    else:
        _show_doctor(flavour, enforces, rows, missing, trouble)
        if cost:
            why = f"; each with a decision engine of its own: {printable(cost.unshared)}" if cost.unshared else ""
            out().print(f"\n{cost.programs} programs loaded in {cost.seconds:.1f} s of processor time{why}")
        if here := [runtime for runtime in runtimes if runtime.here]:
            out().print()
            show_standing(here)
    return 0 if usable else KernelError.exit_code


def _probe_as_json(row: Any) -> dict[str, Any]:
    probe: dict[str, Any] = msgspec.to_builtins(row)
    return probe


def _unsupported(features: Any, attempt: bool) -> tuple[dict[str, str], str, Any]:
    """Events that are not supported here, with the reason; what kept us from finding out; and what loading has cost, where it was tried."""
    from bpfence.kernel.engine import OBJECT, Engine

    if not features.flavour:
        return {}, "", None
    try:
        if not attempt:
            return Engine(features, features.flavour, OBJECT, None).unsupported_events(), "", None
        with Engine.load(features, pin_dir=None) as engine:
            return engine.try_all(), "", engine.load_cost
    except BpfenceError as error:
        return {}, str(error), None


ENFORCEMENT: Final = {
    "yes": "", "no": "not possible on this kernel",
    "could not tell": "could not tell with the privileges of this process; run `sudo bpfence doctor` on the host",
}  # fmt: skip


def _show_doctor(flavour: str, enforces: str, rows: Any, missing: dict[str, str], trouble: str) -> None:
    console = out()
    how = f"by {FLAVOURS[flavour]}" if flavour in FLAVOURS else ENFORCEMENT[enforces]
    console.print(styled(f"Enforcement: {how}", f"bold {ANSWER_STYLES[enforces]}"))
    console.print()
    shown = [(row.title, styled(row.answer.value, ANSWER_STYLES[row.answer.value]), row.detail) for row in rows]
    console.print(table("", "", "", rows=shown))
    for row in rows:
        if row.meaning:
            console.print()
            answer = row.answer.value
            console.print(assembled((row.title, "bold"), ": ", (answer, ANSWER_STYLES[answer])))
            console.print(styled(f"  {'if not' if answer == 'could not tell' else 'so'}: {printable(row.meaning)}"))
            if row.mend:
                console.print(styled(f"  what helps: {printable(row.mend)}"))
    if missing:
        console.print()
        console.print(table("event", "not there because", rows=missing.items(), title="Events that this kernel does not offer"))
    if trouble:
        console.print(styled(f"\n{printable(trouble)}", "bold red"))


COMMANDS: Final = (run, exec_command, status, unload, doctor)
