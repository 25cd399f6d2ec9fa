# SPDX-License-Identifier: Apache-2.0
"""A machine with systemd in, bpfence as a service of it out: `service install`, `uninstall` and `show`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

import bpfence
from bpfence.cli.settings import CONFIG
from bpfence.cli.show import Command, emit_json, json_option, out
from bpfence.errors import KernelError, UsageError
from bpfence.events.values import printable
from bpfence.host import units
from bpfence.host.units import FOLDER, NAME, NOTIFIES_RELOAD, PACKAGED

SYSTEMCTL_SECONDS: Final = 900.0
"""A start waits until policies are in force."""
POLICIES: Final = Path("etc/bpfence/policies")
program_option = click.option(
    "--program",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="The `bpfence` that is to be run.  [default: this one]",
)


def _root(_context: click.Context, _param: click.Parameter, root: Path) -> Path:
    """That of this system, however it is written."""
    return Path("/") if root.samefile("/") else root


root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default="/",
    callback=_root,
    help="Of another system, an image say: systemd is told nothing then.",
)


@click.group()
def service() -> None:
    """Run bpfence as a service of systemd.

    \b
    Examples:
      bpfence service show
      sudo bpfence service install --now
    """


@service.command(cls=Command)
@program_option
@json_option
def show(program: Path | None, as_json: bool) -> int:
    """Show the unit that `service install` writes: hardened, told of reloads, watched.

    \b
    Examples:
      bpfence service show
      bpfence service show > bpfence.service && systemd-analyze verify ./bpfence.service
    """
    text = _unit(program)
    path = FOLDER / NAME
    if as_json:
        emit_json({"path": str(path), "unit": text, "installed": path.is_file(), "current": _read(path) == text})
    else:
        click.echo(text, nl=False)
    return 0


@service.command(cls=Command)
@program_option
@root_option
@click.option("--now", is_flag=True, help="Start it, too, and wait until policies are in force.")
@json_option
def install(program: Path | None, root: Path, now: bool, as_json: bool) -> int:
    """Write the unit, and a configuration where there is none yet; have systemd start it at every boot.

    Policies are read from /etc/bpfence/policies, alerts go to /var/log/bpfence/alerts.jsonl: /etc/bpfence/bpfence.yaml says so.

    \b
    Examples:
      sudo bpfence service install --now
      sudo bpfence service install --root /srv/image --program /srv/image/usr/bin/bpfence
    """
    path, config, policies = _at(root, FOLDER / NAME), _at(root, CONFIG), _at(root, Path("/") / POLICIES)
    if root != Path("/"):
        _check_inside(root, path, config, policies)
    if _at(root, PACKAGED / NAME).exists():
        raise UsageError("the package that bpfence came with has this unit already: systemctl enable --now bpfence")
    if path.exists() and not units.is_ours(path):
        raise UsageError(f"{path} is somebody else's: move it away first")
    whole = root == Path("/")
    if whole:
        _check_safe(_command(program), program)
    text = _unit(program, root)
    written = []
    try:
        for file, content, mode in ((path, text, 0o644), (config, units.CONFIG, 0o644)):
            if file is config and file.exists():
                continue
            file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
            file.chmod(mode)
            written.append(str(file))
        policies.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise KernelError(
            f"{error.filename} cannot be written: {error.strerror}", missing="the right to write it", hint="use sudo"
        ) from None
    done = [_systemctl("daemon-reload"), _systemctl("enable", *(["--now"] if now else []), NAME)] if whole else []
    if as_json:
        emit_json({"written": written, "started": now and whole and done[-1] == ""})
    else:
        for name in written:
            out().print(f"written: {printable(name)}")
    if trouble := next(filter(None, done), ""):
        raise KernelError(trouble, missing="systemd's consent", hint="journalctl -u bpfence tells why a start has failed")
    if not now and whole and not as_json:
        out().print("put policies into /etc/bpfence/policies, then: systemctl start bpfence")
    return 0


@service.command(cls=Command)
@root_option
@json_option
def uninstall(root: Path, as_json: bool) -> int:
    """Stop the service, which ends enforcement, and take its unit away. Configuration, policies and logs stay. Where the configuration has
    `keep: true`, `bpfence unload` ends enforcement.

    \b
    Examples:
      sudo bpfence service uninstall
    """
    path = _at(root, FOLDER / NAME)
    if root != Path("/"):
        _check_inside(root, path)
    if not path.exists():
        where = "the package's unit goes with the package" if _at(root, PACKAGED / NAME).exists() else "there is none"
        raise UsageError(f"no unit was written at {path}: {where}")
    if not units.is_ours(path):
        raise UsageError(f"{path} is somebody else's")
    trouble = _systemctl("disable", "--now", NAME) if root == Path("/") else ""
    if trouble:
        raise KernelError(trouble, missing="systemd's consent")
    try:
        path.unlink()
    except OSError as error:
        raise KernelError(f"{path} cannot be removed: {error.strerror}", missing="the right to remove it", hint="use sudo") from None
    if root == Path("/"):
        _systemctl("daemon-reload")
    if as_json:
        emit_json({"removed": [str(path)]})
    else:
        out().print(f"removed: {printable(str(path))}")
    return 0


def _at(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _check_inside(root: Path, *files: Path) -> None:
    """UsageError where links of another system lead out of its tree: to this one's files, mostly."""
    real = root.resolve()
    for file in files:
        if not file.resolve().is_relative_to(real):
            raise UsageError(f"{file} leads out of {root}, to {file.resolve()}: install it from inside of that system, by chroot(1) say")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _command(program: Path | None) -> list[str]:
    """How bpfence is run: by its script, else as a module of its interpreter."""
    if program is not None:
        return [str(program.absolute())]
    script = Path(os.path.abspath(sys.argv[0]))
    if script.name == "bpfence" and os.access(script, os.X_OK):
        return [str(script)]
    return [os.path.abspath(sys.executable), "-m", "bpfence"]


def _unit(program: Path | None, root: Path = Path("/")) -> str:
    command = _command(program)
    if root != Path("/") and Path(command[0]).is_relative_to(root.absolute()):
        command[0] = str(Path("/") / Path(command[0]).relative_to(root.absolute()))
    return units.unit([*command, "run"], notifies_reload=root == Path("/") and _version() >= NOTIFIES_RELOAD)


def _check_safe(command: list[str], program: Path | None) -> None:
    """UsageError where others than root could change what would run as root: the program, what runs it where it is a script, and, where it
    is this one, its modules."""
    own = Path(command[0])
    asked = (own, units.interpreter(own), Path(bpfence.__file__).parent if program is None else None)
    for path in (one for one in asked if one is not None):
        try:
            found = units.changeable(path)
        except OSError as error:
            raise UsageError(f"{path} cannot be looked at: {error.strerror}") from None
        if found is not None:
            raise UsageError(
                f"{found} can be changed by others than root, who would thereby run programs as root: install bpfence where only root"
                " writes, and name it with --program"
            )


def _version() -> int:
    """That of systemd here; 0 where there is none."""
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        return 0
    try:
        said = subprocess.run([systemctl, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
        return int(said.split()[1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return 0


def _systemctl(*words: str) -> str:
    """Have systemd do something. What stood in the way; "": nothing."""
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        return "there is no systemctl here: what was written takes effect where systemd runs"
    try:
        done = subprocess.run([systemctl, *words], capture_output=True, text=True, check=False, timeout=SYSTEMCTL_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        return f"systemctl {words[0]}: {error}"
    return (
        ""
        if done.returncode == 0
        else f"systemctl {words[0]}: {printable(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed')}"
    )


COMMANDS: Final = (service,)
