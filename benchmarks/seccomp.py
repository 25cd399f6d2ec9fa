#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/seccomp_calls.c under filters and recorders in, docs/benchmarks-seccomp.md out.

`make bench` calls it. It boots a guest whose clock advances one nanosecond per instruction (QEMU -icount), and runs the operations there
under no filter, under Docker's default profile as a list and as a tree, under a profile learned from a Python start, and while their calls,
or somebody else's, are recorded.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "benchmarks" / "seccomp_calls.c"
CALLS = ROOT / ".build" / "seccomp_calls"
REPORT = ROOT / "docs" / "benchmarks-seccomp.md"
RESULTS = ROOT / ".build" / "bench-seccomp"
PROFILES = (ROOT.parent / "shared" / "corpora" / "oci-seccomp" / "moby-default.json", ROOT / "examples" / "seccomp" / "web-service.json")
KERNEL = "6.12"
ROUNDS = 5
WORK = Path("/tmp/bpfence-bench-seccomp")
CGROUPS = Path("/sys/fs/cgroup")
PYTHON = Path("/usr/bin/python3")
PYTHON_START = [str(PYTHON), "-I", "-c", "pass"]
STDLIB = ("*.py", "__pycache__", "encodings", "importlib", "collections", "re")
"""What of the standard library a start needs."""
NAMES = {"getppid": "getppid", "open": "open+close", "socket": "socket+close (its arguments are compared)", "python": "Python start-up"}
NONE = "no filter"

PREFACE = """\
Instructions per operation, in a Linux {kernel} guest under QEMU's -icount, whose clock counts instructions; in brackets the ratio to no
filter. `make bench` writes this page (`benchmarks/seccomp.py`); the figures repeat to some tenths of a per cent.

The large profile is {profile}, with Docker's default capabilities: {linear} instructions of classic BPF as a list, {tree} as libseccomp's
tree. Since Linux 5.11 the kernel keeps a bitmap of the calls that a filter always allows and does not run the filter for them, so that the
form of the filter matters only for calls whose arguments are compared, such as socket here, and on older kernels."""

INSTALL = "Installing the filter, compiled by the kernel's JIT, is part of no figure: it happens once, before the command starts."

LEARNING = """\
While a recorder is open, every system call of the machine goes through the kernel's slow path to the tracepoint; calls that are not the
recorded command's cost that, and finding out that they are somebody else's. The families of sockets were not recorded here; `learn` does,
which adds a comparison to each of the command's calls and a read to each socket."""


class Bench:
    """The settings, run one after another in the guest."""

    def __init__(self, profile: Path) -> None:
        self.results: dict[str, dict[str, int]] = {}
        self.lengths: dict[str, int] = {}
        self.profile = profile
        make_root()

    def measure(self, setting: str, start: Callable[[list[str]], Any]) -> None:
        """Runs the operations; `start` starts a command in the setting and gives a Child."""
        out = WORK / "out"
        print(f"{setting} …", flush=True)
        child = start([str(WORK / "calls"), str(out), str(ROUNDS), str(WORK / "root"), *PYTHON_START])
        status = child.wait()
        child.close()
        if status:
            raise SystemExit(f"{setting}: the operations ended with wait status {status}")
        self.results[setting] = {name: int(value) for name, value in (line.split() for line in out.read_text().splitlines())}
        print(f"  {self.results[setting]}", flush=True)
        (RESULTS / "results.json").write_text(
            json.dumps({"kernel": os.uname().release, "profile": self.profile.name, "lengths": self.lengths, "results": self.results})
        )

    def filters(self) -> None:
        """No filter; the large profile in both forms; what a Python start needs."""
        from bpfence.confine.command import as_filter, compiled_here, read_profile
        from bpfence.confine.learn import record
        from bpfence.host.cgroups import find_hierarchy
        from bpfence.kernel.seccomp import launch
        from bpfence.seccomp.learned import learn

        self.measure(NONE, launch)
        large = read_profile(str(self.profile))
        for form in ("linear", "tree"):
            compiled = compiled_here(large, optimize=form)  # type: ignore[arg-type]
            self.lengths[form] = compiled.length
            self.measure(f"large, {form}", functools.partial(launch, filters=[as_filter(compiled)]))
        command = [str(WORK / "calls"), "/dev/null", "1", str(WORK / "root"), *PYTHON_START]
        compiled = compiled_here(learn(record(command, find_hierarchy, report=print).calls).profile)
        self.lengths["learned"] = compiled.length
        self.measure("learned", functools.partial(launch, filters=[as_filter(compiled)]))

    def recorders(self) -> None:
        """Recorded by cgroup, by descent, and beside a recorded command."""
        from bpfence.kernel.seccomp import Child, launch
        from bpfence.kernel.syscall_recorder import SyscallRecorder

        with cgroup("bench-in") as (descriptor, procs), SyscallRecorder(descriptor):
            self.measure("recorded", lambda command: launch(command, cgroup=procs))
            self.measure("beside a recorded command", launch)
        with SyscallRecorder() as recorder:

            def start(command: list[str]) -> Child:
                child = launch(command, hold=True)
                recorder.add(child.pid)
                child.release()
                return child

            self.measure("recorded by descent", start)
            self.measure("beside, by descent", launch)


def make_root() -> None:
    """A root directory on tmpfs with a Python in it: over 9p the guest's clock would count the waiting."""
    needed = subprocess.run(["ldd", str(PYTHON)], capture_output=True, text=True, check=True).stdout
    files = [PYTHON, *(Path(word) for line in needed.splitlines() for word in line.split() if word.startswith("/"))]
    for file in files:
        target = WORK / "root" / str(file).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file.resolve(), target)
    script = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    stdlib = Path(subprocess.run([PYTHON, "-c", script], capture_output=True, text=True, check=True).stdout.strip())
    (WORK / "root" / str(stdlib).lstrip("/") / "lib-dynload").mkdir(parents=True)
    for path in (path for pattern in STDLIB for path in stdlib.glob(pattern)):
        target = WORK / "root" / str(path).lstrip("/")
        shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target)
    (WORK / "root" / "file").write_text("x")


@contextmanager
def cgroup(name: str) -> Iterator[tuple[int, int]]:
    """A cgroup: descriptors of its folder and of its cgroup.procs."""
    folder = CGROUPS / name
    folder.mkdir()
    descriptors = os.open(folder, os.O_RDONLY | os.O_DIRECTORY), os.open(folder / "cgroup.procs", os.O_WRONLY)
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)
    folder.rmdir()


def measure() -> None:
    """Inside the guest."""
    WORK.mkdir()
    shutil.copy(CALLS, WORK / "calls")
    bench = Bench(next(RESULTS.glob("*.profile.json")))
    bench.filters()
    bench.recorders()


def table(results: dict[str, dict[str, int]], settings: list[str]) -> str:
    """A Markdown table: one row per operation, one column per setting."""
    lines = ["| operation | " + " | ".join(settings) + " |", "|---|" + "---:|" * len(settings)]
    for operation, title in NAMES.items():
        base = results[NONE][operation]
        cells = [
            f"{results[name][operation]:,}" + ("" if name == NONE else f" ({results[name][operation] / base:.3f})") for name in settings
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(measured: dict[str, Any]) -> str:
    """docs/benchmarks-seccomp.md."""
    results, lengths = measured["results"], measured["lengths"]
    profile = "Docker's default profile" if "moby" in measured["profile"] else f"`{measured['profile'].removesuffix('.profile.json')}`"
    sections = [
        "# Benchmarks: seccomp",
        PREFACE.format(kernel=measured["kernel"], profile=profile, **{key: lengths[key] for key in ("linear", "tree")}),
        "## Under a filter",
        table(results, [NONE, "large, linear", "large, tree", "learned"]),
        f'"Learned" is a profile of what these operations need ({lengths["learned"]} instructions). {INSTALL}',
        "## While learning",
        table(results, [NONE, "recorded", "recorded by descent", "beside a recorded command", "beside, by descent"]),
        LEARNING,
    ]
    return "\n\n".join(sections) + "\n"


def main() -> int:
    """Boot the guest and write the report; or, inside it, measure."""
    parser = argparse.ArgumentParser(description="Instructions per operation under seccomp filters.")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().inside:
        measure()
        return 0
    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir(parents=True)
    profile = next((path for path in PROFILES if path.exists()), None)
    if profile is None:
        raise SystemExit(f"there is no profile to measure: {', '.join(map(str, PROFILES))}")
    shutil.copy(profile, RESULTS / f"{profile.stem}.profile.json")
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", str(CALLS), str(SOURCE)], check=True)
    command = [sys.executable, "-m", "vmtest", "run", KERNEL, "--icount", "--rwdir", str(RESULTS), "--timeout", "3600", "--"]
    command += ["env", f"PYTHONPATH={ROOT / 'src'}:{ROOT}", sys.executable, str(ROOT / "benchmarks/seccomp.py"), "--inside"]
    code = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode
    if code == 0:
        REPORT.write_text(report(json.loads((RESULTS / "results.json").read_text())))
        print(f"written: {REPORT.relative_to(ROOT)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
