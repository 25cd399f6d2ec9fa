"""Command-line arguments in, exit code out: list, fetch and run the kernels of the table.

Run as ``python3 -m vmtest`` from the repository. The only module of the package that prints messages.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from . import VmtestError
from .guest import boot
from .kernels import KERNELS, cache_folder, cached, fetch, kernel_named

EXAMPLES = """\
examples:
  python3 -m vmtest list
  python3 -m vmtest fetch --all
  python3 -m vmtest run 6.12 -- uname -r
  python3 -m vmtest run 5.10 --timeout 600 -- python3 -m pytest tests/kernel
  python3 -m vmtest run 6.12 --icount --rwdir /tmp/results -- python3 -m benchmarks.per_hook
  python3 -m vmtest run 7.3 -- 'bpftool prog list; exit 7'

exit codes: of run, the command's; 124 when the time limit is reached, 125 when the guest or a download
fails; 2 wrong usage; 3 a host program is missing, the message names its package.
"""

NAME_WIDTH = max(len(kernel.name) for kernel in KERNELS)


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="python3 -m vmtest",
        description="Run a command on a Debian kernel, in a QEMU guest on this machine's own file system.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("list", help="the kernels, and which of them are in the cache")

    fetching = verbs.add_parser("fetch", help="download kernels into the cache")
    fetching.add_argument("names", nargs="*", metavar="NAME", help="a kernel of the list")
    fetching.add_argument("--all", action="store_true", help="every kernel of the list")
    fetching.add_argument("--refresh", action="store_true", help="replace cached kernels by the newest of their suite")

    running = verbs.add_parser(
        "run",
        help="boot a kernel and run a command in it",
        usage="%(prog)s NAME [--icount] [--rwdir DIR] [--cpus N] [--memory M] [--timeout S] [--append PARAMETER] [--kvm] [--network] "
        "-- CMD…",
        description="Boot a kernel and run a command in it, as root, in the repository. One argument after -- is a shell script, "
        "several are a program and its arguments.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    running.add_argument("name", metavar="NAME", help="a kernel of the list")
    running.add_argument("--icount", action="store_true", help="one processor whose clock advances 1 ns per instruction")
    running.add_argument("--rwdir", action="append", default=[], metavar="DIR", help="a folder the guest may write to, at its own path")
    running.add_argument("--cpus", type=int, default=2, metavar="N", help="processors (default 2)")
    running.add_argument("--memory", default="2G", metavar="M", help="memory, such as 512M (default 2G)")
    running.add_argument("--timeout", type=float, default=900.0, metavar="S", help="seconds until the guest is killed (default 900)")
    running.add_argument("--append", action="append", default=[], metavar="PARAMETER", help="one more kernel parameter")
    running.add_argument("--kvm", action="store_true", help="use /dev/kvm instead of software emulation")
    running.add_argument("--network", action="store_true", help="a network card: this machine's loopback is 10.0.2.2 there")
    running.add_argument("command", nargs="+", metavar="CMD", help="what to run")
    return top


def list_kernels() -> int:
    """Print the table."""
    for kernel in KERNELS:
        image = cached(kernel)
        print(f"{kernel.name:{NAME_WIDTH}} {kernel.suites[0]:17} {image.release if image else 'not fetched':22} {kernel.note}")
    print(f"cache: {cache_folder()}")
    return 0


def fetch_kernels(options: argparse.Namespace) -> int:
    """Download what ``options`` names and print where it is."""
    kernels = KERNELS if options.all else tuple(kernel_named(name) for name in options.names)
    done = set()
    for kernel in kernels:
        if kernel.image not in done:
            image = fetch(kernel, refresh=options.refresh)
            print(f"{kernel.image}: {image.release} in {image.folder}")
            done.add(kernel.image)
    return 0


def run_command(options: argparse.Namespace) -> int:
    """Boot a guest and return its command's exit code."""
    command = options.command[0] if len(options.command) == 1 else options.command
    return boot(
        kernel_named(options.name),
        command,
        cpus=options.cpus,
        memory=options.memory,
        icount=options.icount,
        kvm=options.kvm,
        network=options.network,
        append=options.append,
        rwdirs=options.rwdir,
        timeout=options.timeout,
    )


def stop(number: int, frame: object) -> None:
    """Turn SIGTERM into an exception, so that the guest is killed and the temporary folder removed."""
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code that the module's examples describe."""
    grammar = parser()
    options = grammar.parse_args(arguments)
    if options.verb == "fetch" and bool(options.names) == options.all:
        grammar.error("fetch: give names of kernels, or --all")
    if options.verb == "run" and options.icount and options.kvm:
        grammar.error("run: --icount counts emulated instructions, --kvm emulates none")
    signal.signal(signal.SIGTERM, stop)
    try:
        if options.verb == "list":
            return list_kernels()
        return fetch_kernels(options) if options.verb == "fetch" else run_command(options)
    except VmtestError as error:
        print(f"vmtest: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
