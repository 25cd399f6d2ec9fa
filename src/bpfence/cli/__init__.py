# SPDX-License-Identifier: Apache-2.0
"""Arguments in, text (or JSON) and an exit code out: the `bpfence` command.

    show       errors, diagnostics and tables for people; nothing hostile reaches the terminal unescaped
    policies   check, explain, test: what needs no kernel
    falco      fields, convert; check, explain and test of Falco's rule files
    host       run, exec, status, unload, doctor: what does
    seccomp    profiles: check, explain, diff, merge, export, import
    seccomp_run  commands under profiles: run, learn, supervise; in the same group
    __init__   the group, version, completion

Exit codes: 0 ok, 1 findings, 2 usage or bad input, 3 the kernel or the privileges lack something; what runs a command gives
the command's own.
Modules that need libbpf are imported by the commands that need them, so that the others work without it.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

import bpfence
from bpfence import abi
from bpfence.cli import falco, host, policies, seccomp, seccomp_run
from bpfence.cli.show import Command, emit_json, json_option

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


@click.group(context_settings=CONTEXT)
@click.version_option(bpfence.__version__, prog_name="bpfence")
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
        emit_json({"version": bpfence.__version__, "abi": abi.ABI_VERSION, "abi_hash": abi.ABI_HASH})
    else:
        click.echo(f"bpfence {bpfence.__version__} (ABI {abi.ABI_VERSION}, {abi.ABI_HASH})")


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
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "bpfence", "_BPFENCE_COMPLETE").source())


for command in (*policies.COMMANDS, *falco.COMMANDS, *host.COMMANDS, *seccomp.COMMANDS):
    cli.add_command(command)
for command in seccomp_run.COMMANDS:
    seccomp.group.add_command(command)


def main() -> int:
    """The entry point; the exit code. Only bugs show a traceback; a reader that went away (`… | head`) is click's to handle."""
    try:
        code = cli.main(prog_name="bpfence", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
    return code if isinstance(code, int) else 0


__all__ = ["cli", "main"]
