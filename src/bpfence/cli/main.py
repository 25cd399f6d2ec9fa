# SPDX-License-Identifier: Apache-2.0
"""Arguments in, text (or JSON) and an exit code out: the `bpfence` command.

Exit codes: 0 ok, 1 findings, 2 usage or bad input, 3 the kernel or the privileges lack something, 70 a bug of ours; what runs a command
gives the command's own.
Modules are imported when one of their commands is asked for, and what needs libbpf by the commands that need it: the others work without
it, and start sooner.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Final

import click
from click.shell_completion import get_completion_class

from bpfence import abi
from bpfence.cli.show import (
    Command,
    LazyGroup,
    emit_json,
    flushed,
    json_option,
    refused,
    show_bug,
    show_error,
    show_usage,
    usable_streams,
    wants_json,
)

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
MODULES: Final = {
    "bpfence.cli.policies": {
        "check": "Find mistakes and traps in policies and rules of every language.",
        "explain": "Show what policies are compiled to.",
        "test": "Decide recorded events by policies, without a kernel.",
    },
    "bpfence.cli.languages": {
        "convert": "Write rules of other languages as native policies.",
        "events": "List events that rules can be about, or show an agent's.",
        "fields": "List the fields of conditions and messages.",
    },
    "bpfence.cli.host": {
        "doctor": "Tell what this kernel offers to bpfence.",
        "exec": "Run one command and its descendants under policies.",
        "run": "Enforce policies on this host, and print alerts.",
        "status": "Show what is in force, and what was counted.",
        "unload": "End enforcement: take everything out of the kernel.",
    },
    "bpfence.cli.control": {
        "policy": "Show and change the policies of a running agent.",
        "top": "Show what a running agent sees and what it costs.",
    },
    "bpfence.cli.service": {"service": "Run bpfence as a service of systemd."},
    "bpfence.cli.configuration": {"config": "Check and show the configuration of `bpfence run`."},
    "bpfence.cli.kubernetes": {"webhook": "Answer a cluster that asks whether policies are right."},
    "bpfence.cli.range": {"range": "Play harmless attacks against the policies in force."},
    "bpfence.cli.pod": {"pod": "Check and harden Kubernetes manifests."},
    "bpfence.cli.workloads": {
        "hook": "Tell the agent of containers before their first instruction.",
        "workloads": "Show the containers and pods of this host.",
    },
    "bpfence.cli.seccomp": {"seccomp": "Check, explain, learn, run: seccomp profiles."},
}
"""Commands by the module that has them. A test compares the sentences with the commands' own."""


def release() -> str:
    """The installed package's version, which pyproject.toml gives it; a tree that is run without being installed has none."""
    from importlib import metadata  # this import takes as long as the rest of the start

    try:
        return metadata.version("bpfence")
    except metadata.PackageNotFoundError:
        return "uninstalled"


def version_text() -> str:
    """One line: the version, and what the agent and the programs in the kernel must agree on."""
    return f"bpfence {release()} (ABI {abi.ABI_VERSION}, {abi.ABI_HASH})"


def print_version(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        click.echo(version_text())
        context.exit()


@click.group(cls=LazyGroup, modules=MODULES, context_settings=CONTEXT)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=print_version, help="Show the version and exit.")
def cli() -> None:
    """Runtime security for Linux: policies compiled to tables, decided by eBPF programs in the kernel.

    \b
    First steps:
      bpfence doctor                            what this kernel offers
      bpfence check policies/                   mistakes in policies
      sudo bpfence exec -p policy.yaml -- bash  try one on a single command
      sudo bpfence run -p policies/             the whole host
    """


@cli.command(cls=Command)
@json_option
def version(as_json: bool) -> None:
    """Print the version.

    \b
    Examples:
      bpfence version --json
    """
    if as_json:
        emit_json({"version": release(), "abi": abi.ABI_VERSION, "abi_hash": abi.ABI_HASH})
    else:
        click.echo(version_text())


@cli.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script for a shell.

    \b
    Examples:
      bpfence completion bash > /etc/bash_completion.d/bpfence
      bpfence completion fish > ~/.config/fish/completions/bpfence.fish
      eval "$(bpfence completion zsh)"
    """
    completion_class = get_completion_class(shell)
    assert completion_class is not None
    click.echo(completion_class(cli, {}, "bpfence", "_BPFENCE_COMPLETE").source())


BUG: Final = 70
"""EX_SOFTWARE of sysexits.h."""


def main() -> int:
    """The entry point; returns the exit code. There never is a traceback. A reader that went away (`… | head`) is no mistake."""
    usable_streams()
    try:
        code = cli.main(prog_name="bpfence", standalone_mode=False)
        result = code if isinstance(code, int) else 0
    except click.ClickException as error:
        show_usage(error, wants_json(sys.argv[1:]))
        result = 2
    except (click.Abort, KeyboardInterrupt):
        result = 130
    except Exception as error:
        # The last place at which a bug can become a message.
        with contextlib.suppress(OSError):
            if isinstance(error, OSError):
                show_error(refused(error))
            else:
                show_bug(error)
        result = 2 if isinstance(error, OSError) else BUG
    return result if flushed() else result or 2


__all__ = ["cli", "main"]
