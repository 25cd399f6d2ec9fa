# SPDX-License-Identifier: Apache-2.0
"""Seccomp profiles in, what is wrong with them, what they do to every call, how two differ, and other formats, out.

`bpfence seccomp check`, `explain`, `diff`, `merge`, `export` and `import`: no kernel, no privileges; libseccomp where a filter is made.
"""

from __future__ import annotations

import base64
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, get_args

import click

from bpfence import names
from bpfence.cli.show import (
    Command,
    LazyGroup,
    counted,
    diagnostic_as_json,
    emit_json,
    err,
    json_option,
    out,
    show_diagnostics,
    styled,
    table,
)
from bpfence.documents.json_values import JsonValue
from bpfence.documents.placed import MAX_BYTES, DocumentError
from bpfence.errors import Diagnostic, PolicyError, UsageError
from bpfence.events.values import printable
from bpfence.seccomp.export import (
    FORMATS,
    Conditional,
    Exported,
    ExportOptions,
    Format,
    OperatorVersion,
    export,
    from_operator,
    operator_objects,
)
from bpfence.seccomp.filter import Optimize
from bpfence.seccomp.merge import Change, diff, normalised, union
from bpfence.seccomp.model import Effective, Profile
from bpfence.seccomp.objects import is_object, read_object
from bpfence.seccomp.profile import DOCKER_CAPABILITIES, dump, kernel_version, load, load_valid, resolve
from bpfence.seccomp.table import CallEntry, CallTable, Case, conditions_text
from bpfence.syscalls.architectures import Arch

if TYPE_CHECKING:
    from rich.table import Table as RichTable

FINDINGS: Final = 1
UNREADABLE: Final = 2
PIPED_WIDTH: Final = 1000
SEVERITY_WORDS: Final = {"error": "error", "warning": "warning", "info": "note"}
FILE: Final = click.Path(exists=True, dir_okay=False, path_type=str)
OUTPUT: Final = click.Path(dir_okay=False, writable=True, path_type=str)
STYLES: Final = {"permitted": "green", "denied": "red", "conditional": "yellow", "more": "red", "less": "green", "other": "yellow"}
F = TypeVar("F", bound=Callable[..., Any])


MODULES: Final = {
    "bpfence.cli.seccomp_node": {
        "install": "Put profiles where pods with Localhost profiles have theirs from.",
        "uninstall": "Take profiles away from this node.",
    },
    "bpfence.cli.seccomp_run": {
        "learn": "Record the system calls of a command as a profile.",
        "run": "Run one command under a profile.",
        "supervise": "Run one command, and report what a profile denies.",
    },
}


@click.group("seccomp", cls=LazyGroup, modules=MODULES, short_help="Check, explain, learn, run: seccomp profiles.")
def group() -> None:
    """Seccomp profiles: check, explain, compare, convert; learn them, and run commands under them.

    \b
    Examples:
      bpfence seccomp check profile.json              what is wrong with it
      bpfence seccomp explain profile.json            what happens to every call, and why
      bpfence seccomp export --format k8s profile.json
    """


class Machine:
    """The machine that a profile is resolved for."""

    def __init__(self, arch: str | None, caps: tuple[str, ...], kernel: str | None) -> None:
        self.arch = _arch(arch) if arch else Arch.native()
        self.caps = chosen_capabilities(caps)
        release = kernel or platform.release()
        version = kernel_version(release)
        if version is None:
            raise UsageError(f"--kernel {release!r} is not a kernel version: write 6.1")
        self.kernel = version

    def resolve(self, profile: Profile, enosys: bool = False) -> Effective:
        """The profile as it is resolved for that machine."""
        return resolve(profile, self.arch, self.caps, self.kernel, enosys=enosys)


def machine_options(function: F) -> F:
    """`--arch`, `--cap` and `--kernel`, as arguments arch, caps and kernel."""
    options = (
        click.option("--arch", metavar="ARCH", help="The machine: x86_64, aarch64, … Default: this one."),
        click.option(
            "--cap",
            "caps",
            multiple=True,
            metavar="CAP",
            help="A capability of the container, or docker (the default: what Docker gives), all, none. Repeatable.",
        ),
        click.option("--kernel", metavar="VERSION", help="The kernel, for minKernel. Default: this one's."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _arch(text: str) -> Arch:
    for arch in Arch:
        if text.lower() in (arch.name.lower(), arch.value.lower(), arch.go_name, arch.machine):
            if not arch.supported:
                break
            return arch
    raise UsageError(f"--arch {text!r}: write one of " + ", ".join(arch.name.lower() for arch in Arch if arch.supported))


def chosen_capabilities(texts: tuple[str, ...]) -> frozenset[str]:
    """What `--cap` says. UsageError for what is no capability."""
    chosen: set[str] = set()
    for text in texts or ("docker",):
        match text.lower():
            case "docker":
                chosen |= set(DOCKER_CAPABILITIES)
            case "all":
                chosen |= set(names.TABLES["capability"].numbers)
            case "none":
                pass
            case _:
                number = names.number("capability", text)
                if number is None:
                    raise UsageError(f"--cap {text!r} is not a capability: write SYS_ADMIN, or docker, all, none")
                chosen.add(cast(str, names.name("capability", number)))
    return frozenset(chosen)


# ---- check ----


@group.command(cls=Command, short_help="Find what is wrong with profiles.")
@click.argument("files", nargs=-1, required=True, type=FILE)
@machine_options
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
@json_option
def check(files: tuple[str, ...], arch: str | None, caps: tuple[str, ...], kernel: str | None, strict: bool, as_json: bool) -> int:
    """Find what is wrong with profiles: mistakes, rules without effect, what gets around them, what programs need.

    The filter is compiled, and held against the profile call by call. Exits with 0 when there is nothing, 1 when there is an error (with
    --strict: or a warning), 2 when a file cannot be read. docs/seccomp.md explains every code.

    \b
    Examples:
      bpfence seccomp check profile.json
      bpfence seccomp check --arch aarch64 --cap docker --cap SYS_ADMIN profiles/*.json
      bpfence seccomp check --json profile.json | jq '.findings[].code'
    """
    from bpfence.seccomp.check import check as examine

    machine = Machine(arch, caps, kernel)
    diagnostics: list[Diagnostic] = []
    for file in files:
        profile, read = load(file)
        diagnostics += read
        if profile is not None:
            diagnostics += examine(profile, machine.arch, machine.caps, machine.kernel)
    counts = {severity: sum(diagnostic.severity == severity for diagnostic in diagnostics) for severity in ("error", "warning", "info")}
    if as_json:
        emit_json({"findings": [diagnostic_as_json(d) for d in diagnostics], "errors": counts["error"], "warnings": counts["warning"]})
    else:
        show_diagnostics(diagnostics, out())
        mistakes = ", ".join(counted(counts[severity], word) for severity, word in SEVERITY_WORDS.items())
        summary = f"{counted(len(files), 'profile')}: {mistakes}"
        err().print(styled(summary, "bold red" if counts["error"] else "green"))
    if any(diagnostic.code == "cannot-read" for diagnostic in diagnostics):
        return UNREADABLE
    return FINDINGS if counts["error"] or (strict and counts["warning"]) else 0


# ---- explain ----


@group.command(cls=Command, short_help="Show what a profile does to every system call.")
@click.argument("file", type=FILE)
@click.argument("calls", nargs=-1)
@machine_options
@click.option("--on", "shown", metavar="ARCH", help="Show one architecture of the filter. Default: the machine's own.")
@click.option("--status", type=click.Choice(["permitted", "denied", "conditional"]), help="Show only these calls.")
@click.option("--enosys", is_flag=True, help="As runc: ENOSYS for calls newer than the profile.")
@json_option
def explain(
    file: str,
    calls: tuple[str, ...],
    arch: str | None,
    caps: tuple[str, ...],
    kernel: str | None,
    shown: str | None,
    status: str | None,
    enosys: bool,
    as_json: bool,
) -> int:
    """Show what a profile does to every system call on a machine, and which line says so.

    \b
    Examples:
      bpfence seccomp explain profile.json
      bpfence seccomp explain --cap SYS_ADMIN profile.json mount clone bpf
      bpfence seccomp explain --on x86 --status denied profile.json
      bpfence seccomp explain --arch aarch64 --kernel 4.19 --json profile.json
    """
    machine = Machine(arch, caps, kernel)
    profile, warnings = load_valid(file)
    effective = machine.resolve(profile, enosys)
    columns = [_arch(shown)] if shown else [machine.arch] if not as_json else [a for a in effective.architectures if a.supported]
    if shown and columns[0] not in effective.architectures:
        covered = ", ".join(a.name.lower() for a in effective.architectures)
        raise UsageError(f"the filter does not cover {columns[0].name.lower()}: its calls kill the thread (it covers {covered})")
    made = CallTable(effective)
    entries = [entry for column in columns for entry in made.entries(column).values()]
    unknown = [call for call in calls if all(entry.name != call for entry in entries)]
    if unknown:
        raise UsageError(f"no such call on {columns[0].name.lower()}: {', '.join(map(printable, unknown))}")
    entries = [entry for entry in entries if (not calls or entry.name in calls) and status in (None, entry.status)]
    if as_json:
        emit_json(_explained(effective, entries))
        return 0
    show_diagnostics(warnings)
    print_table(table("call", "number", "verdict", "why", rows=_rows(entries)))
    err().print(styled(_counted(made, effective), "dim"))
    return 0


def print_table(made: RichTable) -> None:
    """A table. Where nobody's terminal limits its width, one line a row."""
    console = out()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    console.print(made)


def _rows(entries: list[CallEntry]) -> Iterator[tuple[object, ...]]:
    for entry in entries:
        number = entry.number & ~0x40000000 if entry.arch is Arch.X32 else entry.number
        yield entry.name, number, styled(printable(entry.text()), STYLES[entry.status]), entry.why


def _counted(made: CallTable, effective: Effective) -> str:
    parts = []
    for arch in effective.architectures:
        if arch.supported:
            states = [entry.status for entry in made.entries(arch).values()]
            counts = ", ".join(f"{states.count(state)} {state}" for state in ("permitted", "conditional", "denied"))
            parts.append(f"{arch.name.lower()}: {counts}")
    return "; ".join(parts) + f"; default {effective.default}"


def _explained(effective: Effective, entries: list[CallEntry]) -> dict[str, Any]:
    def case(name: str, decided: Case) -> dict[str, str]:
        return {"if": conditions_text(name, decided) if decided.args else "", "verdict": str(decided.verdict)}

    return {
        "default": str(effective.default),
        "architectures": [arch.name.lower() for arch in effective.architectures],
        "flags": [flag.value for flag in effective.flags],
        "left_out": [
            {"line": left.rule.location.line, "names": [printable(n) for n in left.rule.names], "reason": left.reason}
            for left in effective.left_out
        ],
        "calls": [
            {
                "arch": entry.arch.name.lower(),
                "name": entry.name,
                "number": entry.number,
                "status": entry.status,
                "why": entry.why,
                "cases": [case(entry.name, decided) for decided in entry.cases],
            }
            for entry in entries
        ],
    }


# ---- diff and merge ----


@group.command("diff", cls=Command, short_help="Show what two profiles allow differently.")
@click.argument("first", type=FILE)
@click.argument("second", type=FILE)
@machine_options
@json_option
def diff_command(first: str, second: str, arch: str | None, caps: tuple[str, ...], kernel: str | None, as_json: bool) -> int:
    """Show what SECOND allows that FIRST does not, and the other way round, per architecture.

    Where it depends on arguments, some that show the difference are given. The call * is every call of an architecture that only one
    of the two covers. Exits with 1 when the two differ.

    \b
    Examples:
      bpfence seccomp diff docker-default.json mine.json
      bpfence seccomp diff --cap SYS_PTRACE --json a.json b.json | jq '.changes[] | select(.kind == "more") | .name'
    """
    machine = Machine(arch, caps, kernel)
    changes = diff(*(machine.resolve(load_valid(file)[0]) for file in (first, second)))
    if as_json:
        emit_json({"changes": [_change_as_json(change) for change in changes]})
    elif changes:
        print_table(table("", "arch", "call", "first", "second", "arguments", rows=map(_change_row, changes)))
    counts = {kind: sum(change.kind == kind for change in changes) for kind in ("more", "less", "other")}
    if not as_json:
        summary = f"the second profile allows {counts['more']} calls that the first denies, and denies {counts['less']} that it allows"
        summary += f"; {counts['other']} fail or are logged differently"
        err().print(styled(summary if changes else "the two profiles do the same", "dim"))
    return FINDINGS if changes else 0


_MARKS: Final = {"more": "+", "less": "-", "other": "~"}


def _change_row(change: Change) -> tuple[object, ...]:
    args = ", ".join(hex(arg) for arg in change.args)
    mark = styled(_MARKS[change.kind], STYLES[change.kind])
    return mark, change.arch.name.lower(), change.name, str(change.before), str(change.after), f"({args})" if args else "any"


def _change_as_json(change: Change) -> dict[str, Any]:
    return {
        "kind": change.kind,
        "arch": change.arch.name.lower(),
        "name": change.name,
        "first": str(change.before),
        "second": str(change.after),
        "args": list(change.args) or None,
    }


@group.command("merge", cls=Command, short_help="Write a profile that allows what either of two does.")
@click.argument("first", type=FILE)
@click.argument("second", type=FILE)
@click.option("-o", "--output", type=OUTPUT, help="Write to a file.")
def merge_command(first: str, second: str, output: str | None) -> int:
    """Write the profile that lets through what either of two does, argument conditions included.

    Both must deny by default. Where they deny in different ways, FIRST counts.

    \b
    Examples:
      bpfence seccomp merge old.json learned.json -o new.json
    """
    _write(dump(union(load_valid(first)[0], load_valid(second)[0])), output)
    return 0


# ---- export and import ----


@group.command("export", cls=Command, short_help="Write a profile in another format.")
@click.argument("file", type=FILE)
@click.option("--format", "format", type=click.Choice(list(FORMATS)), required=True, help="What to write.")
@machine_options
@click.option("-o", "--output", type=OUTPUT, help="Write to a file.")
@click.option("--name", help="Name of the Kubernetes object. Default: the file's.")
@click.option("--path", default="", help="Where the profile will lie: for podman a file, for k8s below the kubelet's seccomp folder.")
@click.option("--pod", "manifest", type=FILE, help="k8s: a manifest to bring up to date in place of writing a new Pod.")
@click.option("--operator", type=click.Choice(get_args(OperatorVersion)), default="v1", help="k8s: API version of the profile's object.")
@click.option("--conditional", type=click.Choice(get_args(Conditional)), default="deny", help="systemd: calls whose arguments matter.")
@click.option("--optimize", type=click.Choice(get_args(Optimize)), default="auto", help="bpf, pfc: how numbers are looked up.")
@click.option("--enosys", is_flag=True, help="bpf, pfc: as runc, ENOSYS for calls newer than the profile.")
@json_option
def export_command(
    file: str,
    format: str,
    arch: str | None,
    caps: tuple[str, ...],
    kernel: str | None,
    output: str | None,
    name: str | None,
    path: str,
    manifest: str | None,
    operator: str,
    conditional: str,
    optimize: str,
    enosys: bool,
    as_json: bool,
) -> int:
    """Write a profile in another format; what the format cannot say is reported.

    \b
    Formats:
      bpf             the filter: struct sock_filter after struct sock_filter, in this machine's byte order
      pfc             the same as libseccomp writes it for people
      oci             a normalised profile without conditions, for any OCI runtime
      systemd         SystemCallFilter= and its like, for a [Service] section
      podman-run      the options of a hardened `podman run` (or docker run)
      k8s             the Security Profiles Operator's object, and a Pod with Localhost profile, runAsNonRoot,
                      readOnlyRootFilesystem, drop ALL, allowPrivilegeEscalation false
      seccompprofile  bpfence's own SeccompProfile object, to be bound to images or labels

    \b
    Examples:
      bpfence seccomp export --format bpf -o filter.bpf profile.json
      bpfence seccomp export --format systemd profile.json > /etc/systemd/system/my.service.d/seccomp.conf
      bpfence seccomp export --format k8s --pod pod.yaml profile.json
    """
    machine = Machine(arch, caps, kernel)
    profile, warnings = load_valid(file)
    options = ExportOptions(
        name=name if name is not None else Path(file).name.removesuffix(".json").lower().replace("_", "-"),
        path=path,
        optimize=cast(Optimize, optimize),
        conditional=cast(Conditional, conditional),
        operator=cast(OperatorVersion, operator),
        manifest=_manifest(manifest) if manifest else None,
    )
    if format == "bpf" and output is None and not as_json and sys.stdout.isatty():
        raise UsageError("a filter is not for a terminal: use -o FILE")
    made = export(machine.resolve(profile, enosys), cast(Format, format), options)
    if as_json:
        emit_json(_exported(made, format))
        return 0
    show_diagnostics([*warnings, *made.findings])
    _write(made.data, output)
    return 0


def _exported(made: Exported, format: str) -> dict[str, Any]:
    data = {"base64": base64.b64encode(made.data).decode()} if format == "bpf" else {"text": made.data.decode()}
    return {"format": format, **data, "findings": [diagnostic_as_json(finding) for finding in made.findings]}


def _manifest(path: str) -> JsonValue:
    """The one object of a manifest."""
    objects = documents_of(path)
    if len(objects) != 1:
        raise UsageError(f"{path} holds {len(objects)} objects: give the one that makes Pods")
    return objects[0]


def documents_of(path: str) -> list[JsonValue]:
    """The documents of a file, YAML or JSON. UsageError and PolicyError where it cannot be read."""
    from bpfence.documents import yaml_values  # what reads JSON needs no YAML

    try:
        return yaml_values.documents(data_of(path), path)
    except DocumentError as error:
        raise PolicyError([error.diagnostic]) from None


def data_of(path: str) -> bytes:
    """What a file holds, bounded. UsageError where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


@group.command("import", cls=Command, short_help="Read a SeccompProfile of Kubernetes.")
@click.argument("file", type=FILE)
@click.option("--name", help="Which SeccompProfile, where the file holds several: NAME or NAMESPACE/NAME.")
@click.option("-o", "--output", type=OUTPUT, help="Write to a file.")
@json_option
def import_command(file: str, name: str | None, output: str | None, as_json: bool) -> int:
    """Write the OCI profile of a SeccompProfile object (YAML or JSON), bpfence's or the Security Profiles Operator's.

    \b
    Examples:
      kubectl get seccompprofile nginx -o yaml | bpfence seccomp import /dev/stdin -o nginx.json
      bpfence seccomp import all.yaml --name web/nginx -o nginx.json
    """
    root = _chosen(file, documents_of(file), name)
    if is_object(root):
        own, diagnostics = read_object(root)
        profile = own.profile if own is not None else None
    else:
        profile, diagnostics = from_operator(root)
    if profile is None:
        raise PolicyError(diagnostics)
    if as_json:
        emit_json({"profile": dump(normalised(profile)).decode(), "findings": [diagnostic_as_json(d) for d in diagnostics]})
        return 0
    show_diagnostics(diagnostics)
    _write(dump(normalised(profile)), output)
    return 0


def _chosen(file: str, documents: list[JsonValue], name: str | None) -> JsonValue:
    """The SeccompProfile that is meant. UsageError where that is not clear."""
    profiles = operator_objects(documents)
    if name is None and len(documents) == 1 and not profiles:
        return documents[0]  # its mistakes are told with their places
    wanted = [value for known, value in profiles if name is None or name in (known, known.rpartition("/")[2])]
    if len(wanted) == 1:
        return wanted[0]
    known = ", ".join(printable(known) for known, _ in profiles)
    if not profiles:
        among = f" among its {len(documents)} objects" if len(documents) > 1 else ""
        raise UsageError(f"{file} holds no SeccompProfile{among}")
    if name is None:
        raise UsageError(f"{file} holds {len(profiles)} SeccompProfiles: choose one with --name ({known})")
    manner = "no SeccompProfile" if not wanted else f"{len(wanted)} SeccompProfiles"
    raise UsageError(f"{file} holds {manner} of the name {printable(name)}: it has {known}")


def _write(data: bytes, output: str | None) -> None:
    if output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        Path(output).write_bytes(data)
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror}") from None


COMMANDS: Final = (group,)
