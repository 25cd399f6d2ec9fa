# SPDX-License-Identifier: Apache-2.0
"""Kubernetes manifests in, what weakens their pods, or the same manifests hardened, out.

`bpfence pod check` and `harden`: no kernel, no cluster, no privileges.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click

from bpfence.cli.show import Command, counted, diagnostic_as_json, emit_json, err, json_option, out, show_diagnostics, styled
from bpfence.documents.files import SourceFile, read_bytes
from bpfence.documents.placed import MAX_BYTES, DocumentError
from bpfence.documents.report import Report
from bpfence.errors import Diagnostic, PolicyError, UsageError
from bpfence.events.values import printable
from bpfence.pods.findings import CODES, LEVELS, Finding
from bpfence.pods.harden import Hardened, Options, harden
from bpfence.pods.judge import INVALID, Judgement, Verdict, judge
from bpfence.pods.manifest import Manifest, read

FINDINGS: Final = 1
UNREADABLE: Final = 2
STDIN: Final = "<stdin>"
FILE: Final = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=str)
LEVEL: Final = click.Choice(LEVELS[1:])
ANY_LEVEL: Final = click.Choice(LEVELS)
OUTPUT: Final = click.Path(dir_okay=False, path_type=str)
STYLES: Final = {"restricted": "green", "baseline": "yellow", "privileged": "bold red", INVALID: "bold red"}
MEETS: Final = {
    "restricted": "meets restricted", "baseline": "meets baseline, not restricted", "privileged": "meets neither baseline nor restricted",
    INVALID: "is not valid: the API server refuses it",
}  # fmt: skip


@click.group("pod", short_help="Check and harden Kubernetes manifests.")
def group() -> None:
    """Kubernetes manifests: what weakens their pods, which of the Pod Security Standards they meet, and the same manifests hardened.

    \b
    Examples:
      bpfence pod check deployment.yaml
      bpfence pod check --level restricted deployment.yaml
      bpfence pod harden --diff deployment.yaml
    """


def sources(files: Iterable[str], report: Report) -> list[SourceFile]:
    """The files, each read once; `-` is standard input. What cannot be read is reported."""
    found = []
    for file in files:
        data = sys.stdin.buffer.read(MAX_BYTES + 1) if file == "-" else read_bytes(Path(file), report)
        if data is not None:
            found.append(SourceFile(STDIN if file == "-" else file, data))
    return found


# ---- check ----


@group.command(cls=Command, short_help="Find what weakens the pods of manifests.")
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--level", type=ANY_LEVEL, help="Tell only what breaks this level of the Pod Security Standards, as errors.")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
@json_option
def check(files: tuple[str, ...], level: str | None, strict: bool, as_json: bool) -> int:
    """Find what weakens the pods of manifests (YAML or JSON), and which of the Pod Security Standards each workload meets.

    What breaks `baseline` is an error, what breaks `restricted` a warning; so is what the standards say nothing about. With --level
    only what breaks that level is told: what Pod Security Admission would refuse (privileged: what the API server does). The exit code
    is 0 when there is no error, 1 when there is one (with --strict: or a warning), 2 when a file cannot be read. docs/pods.md explains
    every code. `-` is standard input.

    \b
    Examples:
      bpfence pod check deployment.yaml
      helm template . | bpfence pod check --level restricted -
      kubectl get pods -A -o json | bpfence pod check --json - | jq '.workloads[] | select(.level == "privileged").name'
    """
    report = Report(CODES)
    found: list[Finding] = []
    verdicts: list[Verdict] = []
    others: list[str] = []
    for source in sources(files, report):
        judged = _judged(source, level, report)
        found, verdicts, others = [*found, *judged.findings], [*verdicts, *judged.workloads], [*others, *judged.others]
    diagnostics = [*report.diagnostics, *(finding.diagnostic() for finding in found)]
    counts = {severity: sum(diagnostic.severity == severity for diagnostic in diagnostics) for severity in ("error", "warning")}
    if as_json:
        findings = [*(diagnostic_as_json(diagnostic) for diagnostic in report.diagnostics), *map(_finding_as_json, found)]
        workloads = [_verdict_as_json(verdict) for verdict in verdicts]
        emit_json(
            {"workloads": workloads, "findings": findings, "errors": counts["error"], "warnings": counts["warning"], "not_judged": others}
        )
    else:
        show_diagnostics(diagnostics, out())
        _show_verdicts(verdicts)
        err().print(styled(_counted(verdicts, others, counts), "green" if not counts["error"] else "bold red"))
    if any(diagnostic.code == "cannot-read" for diagnostic in report.diagnostics):
        return UNREADABLE
    return FINDINGS if counts["error"] or (strict and counts["warning"]) else 0


def _judged(source: SourceFile, level: str | None, report: Report) -> Judgement:
    """The judgement of one file; what is not YAML or JSON is reported."""
    try:
        manifest = read(source.data, source.file)
    except DocumentError as error:
        report.take([error.diagnostic])
        return Judgement([], [], [])
    return judge(manifest, next((known for known in LEVELS if known == level), None))


def _finding_as_json(finding: Finding) -> dict[str, Any]:
    shown = diagnostic_as_json(Diagnostic(finding.location, finding.what, finding.hint, finding.severity, finding.code))
    more = {"why": finding.why, "control": finding.control, "level": finding.level, "path": finding.path}
    return shown | {key: printable(text) for key, text in (more | {"workload": finding.workload, "container": finding.container}).items()}


def _verdict_as_json(verdict: Verdict) -> dict[str, Any]:
    place = verdict.location
    names = {"kind": verdict.kind, "namespace": verdict.namespace, "name": verdict.name}
    shown = {key: printable(text) for key, text in names.items()}
    return shown | {"level": verdict.level, "file": printable(place.file), "line": place.line, "column": place.column}


def _show_verdicts(verdicts: Iterable[Verdict]) -> None:
    console = out()
    for verdict in verdicts:
        console.print(
            styled(f"{printable(str(verdict.location))}: {printable(verdict.title)} {MEETS[verdict.level]}", STYLES[verdict.level])
        )


def _counted(verdicts: list[Verdict], others: list[str], counts: dict[str, int]) -> str:
    mistakes = f"{counted(counts['error'], 'error')}, {counted(counts['warning'], 'warning')}"
    rest = f" ({counted(len(others), 'object')} without pods not judged)" if others else ""
    return f"{counted(len(verdicts), 'workload')}{rest}: {mistakes}"


# ---- harden ----


class _Profile(click.ParamType[dict[str, str]]):
    """A seccomp profile: RuntimeDefault, or Localhost:NAME."""

    name = "profile"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        if isinstance(value, dict):
            return value
        kind, _, path = str(value).partition(":")
        if kind == "RuntimeDefault" and not path:
            return {"type": kind}
        if kind != "Localhost" or not path or not path.isprintable() or path.startswith("/") or ".." in path.split("/"):
            self.fail("write RuntimeDefault, or Localhost:NAME, a path below /var/lib/kubelet/seccomp on the nodes", param, ctx)
        return {"type": kind, "localhostProfile": path}


@group.command("harden", cls=Command, short_help="Write manifests hardened, everything else as it was.")
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--level", type=LEVEL, default="restricted", show_default=True, help="The Pod Security Standards' level to aim at.")
@click.option("--seccomp", type=_Profile(), metavar="PROFILE", help="RuntimeDefault or Localhost:NAME, also in place of another one.")
@click.option("--read-only-root", is_flag=True, help="Make root file systems read-only.")
@click.option("--user", type=click.IntRange(1, 2**31 - 1), metavar="N", help="The user id to run as, where there is none or root's.")
@click.option("--replace", is_flag=True, help="Also change what the manifest says otherwise: privileged, hostPID, Unconfined, …")
@click.option("-o", "--output", type=OUTPUT, metavar="FILE", help="Write to a file, at once.")
@click.option("--in-place", is_flag=True, help="Write the files themselves.")
@click.option("--diff", "as_diff", is_flag=True, help="Show what would change, and write nothing.")
@json_option
def harden_command(
    files: tuple[str, ...],
    level: str,
    seccomp: dict[str, str] | None,
    read_only_root: bool,
    user: int | None,
    replace: bool,
    output: str | None,
    in_place: bool,
    as_diff: bool,
    as_json: bool,
) -> int:
    """Write manifests hardened: comments, order, quotes and indentation as they were, JSON as JSON. `-` is standard input.

    Set is what the level demands and nobody has decided: a value that is written stays, and is told, unless the options ask otherwise.
    What was done and what was left, and why, is told on standard error. The exit code is 0 when every workload meets the level now, 1
    when one does not, 2 when a file cannot be read.

    \b
    Examples:
      bpfence pod harden deployment.yaml -o hardened.yaml
      bpfence pod harden --diff --user 1000 --read-only-root deployment.yaml
      bpfence pod harden --in-place --seccomp Localhost:web.json manifests/*.yaml
      helm template . | bpfence pod harden - | kubectl apply -f -
    """
    if in_place and (as_diff or "-" in files):
        raise UsageError("--in-place writes files: neither - nor --diff goes with it")
    if output is not None and (in_place or as_diff):
        raise UsageError("-o writes one manifest: neither --in-place nor --diff goes with it")
    if len(files) > 1 and (output is not None or not (in_place or as_diff or as_json)):
        raise UsageError("several manifests would become one: add --in-place or --diff, or name one file")
    chosen = next(known for known in LEVELS if known == level)
    options = Options(chosen, seccomp or {}, read_only_root, user or 0, replace)
    hardened = [(source.file, harden(manifest, options)) for source, manifest in _manifests(files)]
    for file, result in hardened:
        if in_place and result.edits:
            _write(file, result.data)
        elif output is not None:
            _write(output, result.data)
    if as_json:
        emit_json({"files": [_hardened_as_json(file, result, as_diff) for file, result in hardened]})
    else:
        for file, result in hardened:
            _show_hardened(file, result, in_place or output is not None, as_diff)
    return 0 if all(result.meets for _, result in hardened) else FINDINGS


def _manifests(files: Iterable[str]) -> list[tuple[SourceFile, Manifest]]:
    """The manifests in files. PolicyError where one cannot be read: nothing is written then."""
    report = Report(CODES)
    read_files: list[tuple[SourceFile, Manifest]] = []
    for source in sources(files, report):
        try:
            read_files.append((source, read(source.data, source.file)))
        except DocumentError as error:
            report.take([error.diagnostic])
    if report.errors:
        raise PolicyError(report.diagnostics)
    return read_files


def _show_hardened(file: str, result: Hardened, written: bool, as_diff: bool) -> None:
    if as_diff:
        _emit(result.diff(printable(file)).encode())
    elif not written:
        _emit(result.data)
    show_diagnostics([*result.changed, *result.left, *result.notes], err())
    count = len(result.manifest.workloads)
    what = f"{printable(file)}: {counted(count, 'workload')}: {counted(len(result.changed), 'change')}, {len(result.left)} left"
    err().print(styled(what, "green" if result.meets else "bold red"))


def _emit(data: bytes) -> None:
    """Text on standard output: to a terminal nothing that it would act on, elsewhere every byte as it is."""
    if sys.stdout.isatty():
        lines = data.decode("utf-8-sig").split("\n")
        data = "\n".join(printable(line.removesuffix("\r")) for line in lines).encode()
    click.echo(data, nl=False)


def _hardened_as_json(file: str, result: Hardened, as_diff: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"file": printable(file), "meets": result.meets}
    told = {"changed": result.changed, "left": result.left, "notes": result.notes}
    shown |= {key: [diagnostic_as_json(diagnostic) for diagnostic in diagnostics] for key, diagnostics in told.items()}
    return shown | ({"diff": result.diff(file)} if as_diff else {"manifest": result.text})


def _write(name: str, data: bytes) -> None:
    """Put a file in its place at once: whoever reads it finds the old or the new one. A link's target is written."""
    path = Path(os.path.realpath(name))
    before = path.stat() if path.exists() else None
    if before is not None and not stat.S_ISREG(before.st_mode):
        path.write_bytes(data)  # /dev/stdout, a pipe
        return
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode) if before is not None else 0o666 & ~_umask())
            if before is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


COMMANDS: Final = (group,)
