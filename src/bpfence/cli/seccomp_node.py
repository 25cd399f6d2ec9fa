# SPDX-License-Identifier: Apache-2.0
"""Seccomp profiles in, files in the kubelet's folder out: `bpfence seccomp install` and `uninstall`.

No cluster is asked. What is installed is the profile as it is resolved for this machine: container runtimes do not all know `includes`,
`excludes` and `archMap`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import click

from bpfence.cli.seccomp import FILE, Machine, data_of, machine_options
from bpfence.cli.show import Command, diagnostic_as_json, emit_json, err, json_option, out, show_diagnostics, styled
from bpfence.documents import yaml_values
from bpfence.documents.json_values import JsonValue, decode, parse
from bpfence.documents.placed import DocumentError
from bpfence.errors import Diagnostic, PolicyError, UsageError
from bpfence.events.values import printable
from bpfence.host.kubelet import SECCOMP_FOLDER, SeccompFolder, parts
from bpfence.seccomp.merge import normalised
from bpfence.seccomp.model import Profile
from bpfence.seccomp.objects import objects, read_object
from bpfence.seccomp.profile import dump, plain, read

NOT_THERE: Final = 1
F = TypeVar("F", bound=Callable[..., Any])
_SAID: Final = {"new": "installed", "changed": "changed", "same": "unchanged"}


class _Given(NamedTuple):
    """A profile, and its path below the folder."""

    path: str
    profile: Profile


def root_option(function: F) -> F:
    """`--root`."""
    option = click.option(
        "--root",
        type=click.Path(file_okay=False, path_type=Path),
        default=SECCOMP_FOLDER,
        show_default=True,
        metavar="FOLDER",
        help="The kubelet's seccomp folder: `seccomp` below its --root-dir.",
    )
    made: F = option(function)
    return made


@click.command("install", cls=Command, short_help="Put profiles where pods with Localhost profiles have theirs from.")
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--as", "path", metavar="PATH", help="The path below the folder, of one profile. Default: the file's name.")
@root_option
@machine_options
@click.option("--force", is_flag=True, help="Install what `seccomp check` finds errors in, too.")
@json_option
def install(
    files: tuple[str, ...],
    path: str | None,
    root: Path,
    arch: str | None,
    caps: tuple[str, ...],
    kernel: str | None,
    force: bool,
    as_json: bool,
) -> int:
    """Put profiles where pods with `Localhost` profiles have theirs from, on this node: each at once, and none where one is wrong.

    A file is a profile, which gets the file's name, or holds SeccompProfile objects of bpfence (YAML or JSON), whose profiles get
    bpfence/NAMESPACE/NAME.json. What is installed is the profile as it is resolved for this machine and the capabilities of --cap. Below
    the folder no symbolic link is followed. Containers that run keep the filter that they were started with.

    \b
    Examples:
      sudo bpfence seccomp install web.json
      sudo bpfence seccomp install --as team/web.json --cap NET_BIND_SERVICE web.json
      sudo bpfence seccomp install --root /var/lib/k0s/kubelet/seccomp profiles.yaml
    """
    machine = Machine(arch, caps, kernel)
    findings: list[Diagnostic] = []
    given = [one for file in files for one in _read(file, findings)]
    given = _placed(given, path)
    for one in given:
        findings += _judged(one.profile, machine)
    if any(finding.severity == "error" for finding in findings) and not force:
        raise PolicyError([finding for finding in findings if finding.severity != "info"])
    folder = SeccompFolder(root)
    done = [(one.path, folder.put(one.path, dump(normalised(plain(machine.resolve(one.profile)))))) for one in given]
    if as_json:
        profiles = [{"localhostProfile": at, "file": printable(str(root / at)), "done": what} for at, what in done]
        emit_json({"profiles": profiles, "findings": [diagnostic_as_json(finding) for finding in findings]})
        return 0
    show_diagnostics(finding for finding in findings if finding.severity != "info")
    for at, what in done:
        out().print(f"{_SAID[what]} {printable(str(root / at))}")
        err().print(styled(f"pods use it by seccompProfile: {{type: Localhost, localhostProfile: {printable(at)}}}", "dim"))
    return 0


def _read(file: str, findings: list[Diagnostic]) -> Iterator[_Given]:
    """The profiles of a file, which is read once. PolicyError where one is wrong."""
    roots = _roots(file)
    found = list(objects(roots))
    for root in found:
        made, diagnostics = read_object(root)
        if made is None:
            raise PolicyError(diagnostics)
        findings += diagnostics
        yield _Given(made.path, made.profile)
    if found:
        return
    if len(roots) != 1:
        raise UsageError(f"{file} holds no SeccompProfile of bpfence among its {len(roots)} documents")
    profile, diagnostics = read(roots[0])
    if profile is None:
        raise PolicyError(diagnostics)
    findings += diagnostics
    yield _Given(f"{Path(file).name.removesuffix('.json')}.json", profile)


def _roots(file: str) -> list[JsonValue]:
    """The documents of a file: of JSON as runtimes read it, else of YAML."""
    data = data_of(file)
    try:
        if data.lstrip()[:1] == b"{":
            return [parse(decode(data, file), file)]
        return yaml_values.documents(data, file)
    except DocumentError as error:
        raise PolicyError([error.diagnostic]) from None


def _placed(given: list[_Given], path: str | None) -> list[_Given]:
    """The profiles where they are to be. UsageError where two have one place, or one cannot be a place."""
    if path is not None:
        if len(given) != 1:
            raise UsageError(f"--as names one profile, and there are {len(given)}")
        given = [given[0]._replace(path=path)]
    places = [parts(one.path) for one in given]
    twice = [one.path for one, place in zip(given, places, strict=True) if places.count(place) > 1]
    if twice:
        raise UsageError(f"two profiles would be {printable(twice[0])}: install one of them with --as")
    return given


def _judged(profile: Profile, machine: Machine) -> list[Diagnostic]:
    from bpfence.seccomp.check import check  # help does without it

    return check(profile, machine.arch, machine.caps, machine.kernel)


@click.command("uninstall", cls=Command, short_help="Take profiles away from this node.")
@click.argument("paths", nargs=-1, required=True)
@root_option
@json_option
def uninstall(paths: tuple[str, ...], root: Path, as_json: bool) -> int:
    """Take profiles away from this node, by their paths below the kubelet's seccomp folder, and folders that are empty then. Containers
    that run keep their filter; pods that ask for one of them do not start any more. Exits with 1 where one was not there.

    \b
    Examples:
      sudo bpfence seccomp uninstall web.json
      sudo bpfence seccomp uninstall bpfence/shop/web.json
    """
    for path in paths:
        parts(path)
    folder = SeccompFolder(root)
    gone = {path: folder.remove(path) for path in dict.fromkeys(paths)}
    if as_json:
        emit_json(
            {"removed": [path for path, done in gone.items() if done], "not_there": [path for path, done in gone.items() if not done]}
        )
    else:
        for path, done in gone.items():
            out().print(f"{'removed' if done else 'not there:'} {printable(str(root / path))}")
    return 0 if all(gone.values()) else NOT_THERE


COMMANDS: Final = (install, uninstall)
