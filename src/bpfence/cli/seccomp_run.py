# SPDX-License-Identifier: Apache-2.0
"""Seccomp profiles and commands in, commands under them out: `bpfence seccomp run`, `learn` and `supervise`.

The group they belong to is `cli.seccomp`; cli/main.py puts them there. What needs compiled bindings is imported when it is called.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bpfence import names
from bpfence.agent.generations import write_whole
from bpfence.cli.seccomp import chosen_capabilities, print_table
from bpfence.cli.show import Command, emit_json, json_option, message_queue, table, to_stderr
from bpfence.confine import sandbox
from bpfence.errors import UsageError
from bpfence.events.values import printable
from bpfence.host.cgroups import Hierarchy, find_hierarchy
from bpfence.outputs.routes import PATIENT_CLOSE_SECONDS, open_outputs
from bpfence.seccomp.model import Profile
from bpfence.seccomp.profile import dump

if TYPE_CHECKING:
    from bpfence.confine.supervise import Handled, Response

CONTEXT: Final = {"ignore_unknown_options": True, "allow_interspersed_args": False}
FINDINGS: Final = 1
PROFILE_MODE: Final = 0o644

profile_option = click.option(
    "--profile", required=True, metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="An OCI seccomp profile (JSON)."
)
cap_option = click.option(
    "--cap",
    "caps",
    multiple=True,
    metavar="CAPABILITY",
    help="A capability that the profile's includes and excludes go by, or docker (the default: what Docker gives), all, none. Repeatable.",
)
enosys_option = click.option("--enosys", is_flag=True, help="As runc does: ENOSYS for calls newer than all that the profile names.")
command_argument = click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)


def hierarchy() -> Hierarchy:
    """The cgroup hierarchy that `learn` works in; tests put another one here."""
    return find_hierarchy()


def run_guarded(command: tuple[str, ...], work: Callable[[], int]) -> int:
    """`sandbox.guarded`, reported on standard error."""
    return sandbox.guarded(command, work, to_stderr)


@click.command(cls=Command, context_settings=CONTEXT, short_help="Run one command under a profile.")
@profile_option
@cap_option
@enosys_option
@command_argument
def run(profile: str, caps: tuple[str, ...], enosys: bool, command: tuple[str, ...]) -> int:
    """Run one command and its descendants under a seccomp profile.

    The filter is installed with no_new_privs, right before the command is executed; no privilege is needed. Calls are judged by the
    kernel alone, and the filter stays on whatever the command starts. With SCMP_ACT_NOTIFY the listener is sent to the profile's
    listenerPath. The exit code is the command's, 128+N when signal N ended it, 126 or 127 when it could not be run.

    \b
    Examples:
      bpfence seccomp run --profile profile.json -- python3 app.py
      bpfence seccomp run --profile default.json --cap none -- sh
    """
    from bpfence.confine.command import compiled_here, read_profile
    from bpfence.confine.command import run as run_confined

    compiled = compiled_here(read_profile(profile), chosen_capabilities(caps), enosys=enosys)
    return run_guarded(command, lambda: run_confined(command, compiled, report=to_stderr))


# ---- learn ----


@click.command(cls=Command, context_settings=CONTEXT, short_help="Record the system calls of a command as a profile.")
@click.option("-o", "--output", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Where the profile goes.")
@click.option("--merge", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="A profile that what was learned is added to.")
@click.option("--for", "runtime", type=click.Choice(["runc", "crun"]), help="Add the calls of a container runtime's start.")
@click.option(
    "--audit",
    metavar="PROFILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Deny nothing, and tell what this profile would have denied; with -o, also write it with what it lacks.",
)
@click.option("--duration", type=click.FloatRange(min=0.1), metavar="SECONDS", help="Ask the command and what it started to end then.")
@click.option("--no-cgroup", is_flag=True, help="Tell processes by their descent, not by a cgroup of their own.")
@cap_option
@json_option
@command_argument
def learn(
    output: Path | None,
    merge: str | None,
    runtime: str | None,
    audit: str | None,
    duration: float | None,
    no_cgroup: bool,
    caps: tuple[str, ...],
    as_json: bool,
    command: tuple[str, ...],
) -> int:
    """Record which system calls a command uses, and write a profile that allows those and no others.

    The calls of the command and of everything it starts are noted in the kernel, a byte a call, until the last process has ended; that
    needs CAP_BPF and CAP_PERFMON. Calls that depend on chance are added (docs/seccomp-run.md says which and why). Without -o the profile
    is printed. The exit code is the command's.

    With --audit nothing is recorded and no privilege is needed: the kernel asks bpfence about every call that the profile would deny,
    bpfence lets it through and counts it. The exit code is 1 when there was any.

    \b
    Examples:
      sudo bpfence seccomp learn -o nginx.json -- nginx -g 'daemon off;'
      sudo bpfence seccomp learn --merge nginx.json -o nginx.json --for runc -- nginx -t
      bpfence seccomp learn --audit nginx.json -- nginx -g 'daemon off;'
    """
    if audit is not None:
        if merge is not None or runtime is not None or duration is not None or no_cgroup:
            raise UsageError("--audit goes with -o, --cap and --json only")
        return run_guarded(command, lambda: _audit(command, audit, chosen_capabilities(caps), output, as_json))
    return run_guarded(command, lambda: _learn(command, output, merge, runtime or "", duration, no_cgroup, as_json))


def _learn(
    command: tuple[str, ...], output: Path | None, merge: str | None, runtime: str, duration: float | None, no_cgroup: bool, as_json: bool
) -> int:
    from bpfence.confine.command import read_profile
    from bpfence.confine.learn import record
    from bpfence.seccomp.learned import learn as learn_profile

    old = None if merge is None else read_profile(merge)
    if old is not None:
        merged(old, old)  # Whether they can be merged is checked before the command runs.
    recording = record(command, hierarchy, report=to_stderr, duration=duration, by_cgroup=not no_cgroup)
    learned = learn_profile(recording.calls, runtime, families=recording.families)
    profile = learned.profile if old is None else merged(old, learned.profile)
    for call in learned.nameless:
        to_stderr(f"call {call.number} of {call.arch.name.lower()} has no name here and is not in the profile: it is newer than bpfence")
    if recording.out_of_range or recording.lost:
        to_stderr(f"the profile is incomplete: {recording.out_of_range} calls out of range, {recording.lost} processes not recorded")
    if recording.status:
        to_stderr(f"{command[0]} ended with {recording.status}: system calls that it did not reach are not in the profile")
    added = f"{len(learned.by_chance)} added that depend on chance" + (f", {len(learned.by_runtime)} for {runtime}" if runtime else "")
    _write(profile, output, f"{len(learned.seen)} calls seen, {added}")
    if as_json:
        emit_json(
            {
                "status": recording.status,
                "seen": learned.seen,
                "by_chance": learned.by_chance,
                "by_runtime": learned.by_runtime,
                "nameless": [{"arch": call.arch.name.lower(), "nr": call.number} for call in learned.nameless],
                "families": None if recording.families is None else sorted(recording.families),
                "out_of_range": recording.out_of_range,
                "lost": recording.lost,
            }
        )
    return recording.status


def merged(old: Profile, learned: Profile) -> Profile:
    """The union of two profiles. CompileError where the old one allows by default: then there is nothing to add to."""
    from bpfence.seccomp.merge import union

    return union(old, learned)


def _write(profile: Profile, output: Path | None, summary: str) -> None:
    if output is None:
        to_stderr(summary)
        click.echo(dump(profile).decode(), nl=False)
        return
    try:
        if output.exists() and not output.is_file():
            # A device or a pipe is written to. A rename would put a file in its place.
            output.write_bytes(dump(profile))
        else:
            write_whole(output, dump(profile), PROFILE_MODE)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror or error}") from error
    to_stderr(f"{summary}; written to {output}")


def _audit(command: tuple[str, ...], path: str, caps: frozenset[str], output: Path | None, as_json: bool) -> int:
    from bpfence.alerts.calls import Tally
    from bpfence.confine.command import compiled_here, read_profile
    from bpfence.confine.supervise import Response, ResponseKind, supervise
    from bpfence.seccomp.learned import Seen, learn
    from bpfence.syscalls.architectures import X32_BIT

    profile = read_profile(path)
    if output is not None:
        merged(profile, profile)
    tally = Tally()
    proceed = Response(ResponseKind.LOG)
    status = supervise(command, compiled_here(profile, caps), lambda _: proceed, tally.handled, everything=True)
    findings = tally.findings()
    if output is not None:
        lacking = learn((Seen(arch, number & ~X32_BIT) for arch, number in tally.calls), families=tally.families)
        _write(merged(profile, lacking.profile), output, f"{len(findings)} kinds of calls that {path} denies were added")
    if as_json:
        emit_json({"status": status, "denied": findings})
    elif findings:
        rows = [
            (finding.name, finding.arch, finding.verdict, finding.rule, finding.times, finding.exe or "", _shown(finding.args))
            for finding in findings
        ]
        print_table(table("call", "arch", "verdict", "rule", "times", "first by", "with", rows=rows))
    else:
        to_stderr(f"{path} would have denied nothing")
    return FINDINGS if findings else status


def _shown(args: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in args.items())


# ---- supervise ----


def responses(answers: tuple[str, ...]) -> tuple[dict[str, Response], Response]:
    """What `--answer` says: the response by call, and the one for all others. UsageError for what cannot be read."""
    from bpfence.confine.supervise import DENY, Response, ResponseKind
    from bpfence.syscalls.table import known

    by_name: dict[str, Response] = {}
    otherwise = DENY
    for word in answers:
        call, equals, said = word.partition("=")
        kind, _, number = said.partition(":")
        if not equals or kind not in {known.value for known in ResponseKind}:
            raise UsageError(f"--answer {printable(word)}: write CALL=errno, CALL=errno:EACCES, CALL=log, CALL=allow-once or CALL=kill")
        if number and (kind != ResponseKind.ERRNO.value or names.number("errno", number) is None):
            raise UsageError(f"--answer {printable(word)}: {printable(number)} is no errno, or has no meaning here")
        response = Response(ResponseKind(kind), names.number("errno", number) if number else None)
        if call == "*":
            otherwise = response
        elif known(call):
            by_name[call] = response
        else:
            raise UsageError(f"--answer {printable(word)}: there is no system call {printable(call)}; * is all others")
    return by_name, otherwise


@click.command(cls=Command, context_settings=CONTEXT, short_help="Run one command, and report what a profile denies.")
@profile_option
@cap_option
@enosys_option
@click.option(
    "--answer",
    "answers",
    multiple=True,
    metavar="CALL=ANSWER",
    help="What is done about a denied call: errno[:NAME] (the default), log, allow-once or kill. * is all others. Repeatable.",
)
@click.option("--output", "outputs", multiple=True, metavar="OUTPUT", help="jsonl:PATH, - (JSON lines), rich, or auto. Repeatable.")
@command_argument
def supervise(
    profile: str, caps: tuple[str, ...], enosys: bool, answers: tuple[str, ...], outputs: tuple[str, ...], command: tuple[str, ...]
) -> int:
    """Run one command under a profile, and answer and report every call that it denies.

    Calls that the profile answers with ERRNO or NOTIFY wait for bpfence, which writes an alert with the process and the arguments. Answers
    go by the call's name alone, never by what its pointers point to. KILL, TRAP and TRACE stay the kernel's. Supervision ends when the
    last process has ended; when bpfence is killed, such calls fail with ENOSYS. Alerts go to standard error. The exit code is the
    command's.

    \b
    Examples:
      bpfence seccomp supervise --profile profile.json -- ./server
      bpfence seccomp supervise --profile profile.json --answer ptrace=kill --answer '*=log' --output jsonl:seen.jsonl -- ./server
    """
    from bpfence.alerts.calls import Reporter
    from bpfence.confine.command import compiled_here, read_profile
    from bpfence.confine.supervise import Responses
    from bpfence.confine.supervise import supervise as supervise_command

    by_name, otherwise = responses(answers)
    compiled = compiled_here(read_profile(profile), chosen_capabilities(caps), enosys=enosys)
    lines = open_outputs(outputs, message_queue(), stream=sys.stderr, close_seconds=PATIENT_CLOSE_SECONDS)
    reporter = Reporter(lines, os.path.basename(profile))
    decide = Responses(by_name, otherwise)

    def handled(handled_call: Handled) -> None:
        lines.start()  # only now, because the command has been started
        decide.settle(handled_call)
        reporter.handled(handled_call)

    try:
        return run_guarded(command, lambda: supervise_command(command, compiled, lambda call: decide.to(call.name), handled))
    finally:
        reporter.suppressed(everything=True)
        lines.close()


COMMANDS: Final = (run, learn, supervise)
