# SPDX-License-Identifier: Apache-2.0
"""The group itself: help, version, completion, exit codes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bpfence.cli.main import cli, main
from bpfence.cli.policies import COMMANDS
from bpfence.cli.show import LazyGroup

ROOT = Path(__file__).resolve().parents[3]
EVERY_NAME = cli.list_commands(click.Context(cli))


@pytest.mark.parametrize("name", EVERY_NAME)
def test_every_command_has_help_with_an_example(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"bpfence {name}" in result.output
    assert (
        name in ("run", "exec", "completion", "seccomp", "pod", "hook", "range", "webhook", "config", "policy", "service")
        or "--json" in result.output
    )


def test_version() -> None:
    assert CliRunner().invoke(cli, ["--version"]).output == CliRunner().invoke(cli, ["version"]).output
    released = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert json.loads(CliRunner().invoke(cli, ["version", "--json"]).output)["version"] == released
    assert CliRunner().invoke(cli, ["version"]).output.startswith(f"bpfence {released} (ABI ")


def test_a_tree_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert CliRunner().invoke(cli, ["--version"]).output.startswith("bpfence uninstalled (ABI ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert "_BPFENCE_COMPLETE" in result.output


@pytest.mark.parametrize(
    ("args", "code"), [(["nonsense"], 2), (["run"], 2), (["check"], 2), (["check", "/nonexistent"], 2), (["version"], 0), (["--help"], 0)]
)
def test_exit_codes(args: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bpfence", *args])
    assert main() == code
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(click.Abort(), 130), (KeyboardInterrupt(), 130)])
def test_interrupted(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "main", interrupt)
    assert main() == code


def test_commands_without_a_kernel_do_not_load_libbpf() -> None:
    code = "import sys, bpfence.cli.main; print(any(name.startswith('bpfence.kernel') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": "src"})
    assert done.stdout == "False\n"


def test_a_reader_that_goes_away_is_not_complained_about() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "bpfence", "version"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, env={"PYTHONPATH": "src"})
    os.close(writer)
    assert done.stderr == ""


def test_all_commands_are_there() -> None:
    assert {command.name for command in COMMANDS} == {"check", "explain", "test"}
    needs_no_kernel = {
        "check",
        "explain",
        "test",
        "fields",
        "events",
        "convert",
        "version",
        "completion",
        "seccomp",
        "pod",
        "webhook",
        "config",
        "policy",
        "service",
        "top",
    }
    assert set(EVERY_NAME) == needs_no_kernel | {"run", "exec", "status", "unload", "doctor", "hook", "range", "workloads"}


# ---- what a command imports ----

SHOWING = {"rich"}
FALCO = {"lark", "re2", "bpfence.dialects.falco"}
FALCO_PARTS = {f"bpfence.dialects.falco.{part}" for part in ("load", "read", "lower", "confirm", "show")}
NATIVE = {"yaml", "bpfence.dialects.native", "bpfence.compiler"}
RUNNING = {"bpfence.agent.agent", "bpfence.kernel", "_cffi_backend"}
NOT_FOR_TABLES = RUNNING - {"_cffi_backend"}  # the compiler has a core in C
EVENTS = {"bpfence.events.records", "bpfence.events.process", "bpfence.alerts", "bpfence.agent"}
SECCOMP = {"bpfence.seccomp"}
NOT_NEEDED: list[tuple[str, set[str]]] = [
    ("--help", SHOWING | FALCO | NATIVE | RUNNING | SECCOMP),
    ("version --json", SHOWING | FALCO | NATIVE | RUNNING | SECCOMP),
    ("completion bash", SHOWING | FALCO | NATIVE | RUNNING | SECCOMP),
    ("seccomp --help", SHOWING | FALCO | NATIVE | RUNNING),
    ("seccomp export --format systemd examples/seccomp/web-service.json", FALCO | NATIVE | RUNNING),
    ("seccomp export --format k8s examples/seccomp/web-service.json", FALCO | NATIVE - {"yaml"} | RUNNING - {"_cffi_backend"}),
    ("pod --help", SHOWING | FALCO | RUNNING | SECCOMP | EVENTS),
    ("pod check --json tests/cases/pods/restricted.yaml", SHOWING | FALCO | RUNNING | SECCOMP | EVENTS),
    (
        "check --json examples/policies/fork-bomb-guard.yaml",
        SHOWING | NOT_FOR_TABLES | EVENTS | FALCO - {"bpfence.dialects.falco"} | FALCO_PARTS,
    ),
    ("check examples/policies/fork-bomb-guard.yaml", NOT_FOR_TABLES | EVENTS | FALCO - {"bpfence.dialects.falco"} | FALCO_PARTS),
]


@pytest.mark.parametrize(("words", "not_needed"), NOT_NEEDED, ids=lambda one: one if isinstance(one, str) else "")
def test_a_command_imports_only_what_it_needs(words: str, not_needed: set[str]) -> None:
    """Imports are what a command's start costs."""
    script = f"import sys; sys.argv = ['bpfence', *{words.split()!r}]; from bpfence.cli.main import main; code = main()"
    script += "; print('\\n' + '\\n'.join(sys.modules)); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = {".".join(name.split(".")[:depth]) for name in done.stdout.splitlines() for depth in range(1, 5)}
    assert sorted(not_needed & found) == []


def test_the_help_of_a_group_has_the_commands_own_sentences() -> None:
    seccomp = cli.get_command(click.Context(cli), "seccomp")
    assert isinstance(seccomp, LazyGroup)
    for group in (cli, seccomp):
        assert isinstance(group, LazyGroup)
        for module, commands in group.modules.items():
            assert {command.name for command in importlib.import_module(module).COMMANDS} == set(commands)
            for name, text in commands.items():
                command = group.get_command(click.Context(group), name)
                assert command is not None
                assert click.Command(name, help=text).get_short_help_str(1000) == command.get_short_help_str(1000), name


@pytest.mark.parametrize("words", [(), ("seccomp",)])
def test_the_list_of_commands_cuts_no_sentence(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(cli, [*words, "--help"], terminal_width=80).output
    listed = shown[shown.index("Commands:") :]
    assert len(listed.splitlines()) > 8
    assert "..." not in listed
