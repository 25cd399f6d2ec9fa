# SPDX-License-Identifier: Apache-2.0
"""runc and crun in, what they call in a container after its seccomp filter is in force out: src/bpfence/seccomp/runtimes.json.

    sudo .venv/bin/python tools/trace_runtimes.py --runc runc --crun crun

Every start of a container is traced with strace: with and without no_new_privs, as root and as another user, by `run` and by `exec`; what
counts is what threads under the filter call between its installation and the execve of the container's program. Then each of these
calls is denied in turn: what is called in its place is in `instead`, and calls without which no container started are in `must`, apart
for EPERM, ENOSYS and killing. Calls of Go's runtime depend on chance, so each start is traced several times.

It needs root, strace and gcc, and works on containers of its own in a temporary folder. The result is checked in: it changes with the
runtimes, not with bpfence.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
OUTPUT: Final = ROOT / "src" / "bpfence" / "seccomp" / "runtimes.json"
NAMES: Final = ("runc", "crun")
ROUNDS: Final = 4
TIMEOUT: Final = 20
SETTINGS: Final = {"with_no_new_privs": True, "without_no_new_privs": False}
USERS: Final = ({"uid": 0, "gid": 0}, {"uid": 65534, "gid": 65534, "additionalGids": [7]})
DENIALS: Final[dict[str, dict[str, Any]]] = {
    "EPERM": {"action": "SCMP_ACT_ERRNO", "errnoRet": 1},
    "ENOSYS": {"action": "SCMP_ACT_ERRNO", "errnoRet": 38},
    "KILL": {"action": "SCMP_ACT_KILL_PROCESS"},
}
PROGRAM: Final = """
/* Without an argument it ends by an illegal instruction: a way to say that it was started which no filter can keep it from. That does not
 * end the first process of a pid namespace that is traced: with one argument it exits. With two it waits. */
__asm__(".globl _start\\n_start: mov (%rsp), %rbx\\n cmp $1, %rbx\\n jne 1f\\n ud2\\n"
        "1: mov $231, %eax\\n mov $132, %edi\\n cmp $2, %rbx\\n je 2f\\n mov $34, %eax\\n2: syscall\\n jmp 1b\\n");
"""
STARTED: Final = 128 + 4
"""The exit status of a container whose program was started."""
CHANCE: Final = frozenset(
    {"futex", "nanosleep", "getpid", "tgkill", "rt_sigreturn", "sched_yield", "epoll_pwait", "madvise", "mmap", "munmap"}
)
"""What Go's runtime calls when its threads meet, its collector runs or a signal preempts it: never in place of another call."""
HYBRID: Final = ("unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"', "sh")


class Runtime:
    """One runtime and a bundle for it."""

    def __init__(self, name: str, path: str, folder: Path) -> None:
        self.name = name
        self.path = path
        self.folder = folder / name
        self.count = 0
        (self.folder / "rootfs" / "proc").mkdir(parents=True)
        for inner in ("dev", "sys"):
            (self.folder / "rootfs" / inner).mkdir()
        source = self.folder / "program.c"
        source.write_text(PROGRAM)
        target = self.folder / "rootfs" / "program"
        subprocess.run(["gcc", "-O1", "-static", "-nostdlib", "-o", str(target), str(source)], check=True)
        self.command(["spec", "--bundle", str(self.folder)], check=True)
        self.config: dict[str, Any] = json.loads((self.folder / "config.json").read_text())

    @property
    def version(self) -> str:
        """As it says: 1.1.5."""
        said = self.command(["--version"], check=True, capture_output=True, text=True).stdout
        found = re.search(r"version ([0-9.]+)", said)
        return found[1] if found else "unknown"

    def words(self, arguments: Sequence[str], before: Sequence[str] = ()) -> list[str]:
        """A command line of the runtime. crun does not start where both versions of cgroups are mounted: it gets a view of its own."""
        own = ["--cgroup-manager=disabled"] if self.name == "crun" else []
        hybrid = HYBRID if self.name == "crun" and not Path("/sys/fs/cgroup/cgroup.controllers").exists() else ()
        return [*hybrid, *before, self.path, "--root", str(self.folder / "state"), *own, *arguments]

    def command(self, arguments: Sequence[str], before: Sequence[str] = (), **more: Any) -> subprocess.CompletedProcess[Any]:
        """The runtime with these arguments, after its general options; subprocess.TimeoutExpired where it hangs."""
        check, capture = more.pop("check", False), more.pop("capture_output", False)
        more |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} if capture else {}
        words = self.words(arguments, before)
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True, **more) as process:
            try:
                output, errors = process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        done = subprocess.CompletedProcess(words, process.returncode, output, errors)
        if check:
            done.check_returncode()
        return done

    def configure(self, no_new_privs: bool, user: dict[str, Any], rules: Sequence[dict[str, Any]], arguments: Sequence[str] = ()) -> str:
        """Write config.json, and the name of a container that does not exist yet."""
        config = json.loads(json.dumps(self.config))
        config["process"] |= {"terminal": False, "args": ["/program", *arguments], "user": user, "noNewPrivileges": no_new_privs}
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": list(rules)}
        (self.folder / "config.json").write_text(json.dumps(config))
        self.count += 1
        return f"bpfence-trace-{self.name}-{self.count}"

    def starts(self, no_new_privs: bool, user: dict[str, Any], rule: dict[str, Any]) -> bool | None:
        """Whether a container starts under one rule; None where the runtime hangs."""
        name = self.configure(no_new_privs, user, [rule])
        try:
            done = self.command(["run", "--bundle", str(self.folder), name], capture_output=True)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.remove(name)
        return done.returncode == STARTED

    def traced(self, no_new_privs: bool, user: dict[str, Any], how: str, rule: dict[str, Any] | None = None) -> set[str] | None:
        """What a start calls after the filter is in force; None where it fails under a rule. `how`: run or exec."""
        log = self.folder / "trace"
        harmless = {"names": ["swapon"], **DENIALS["EPERM"]}
        name = self.configure(no_new_privs, user, [rule or harmless], ["and", "wait"] if how == "exec" else ["once"])
        before = ("strace", "-f", "-qq", "-o", str(log), "-e", "signal=none", "--decode-pids=pidns")
        arguments = ["run", "--bundle", str(self.folder), name]
        try:
            if how == "exec":
                self.command(["run", "--detach", "--bundle", str(self.folder), name], check=True, stdout=subprocess.DEVNULL)
                options = ["--user", f"{user['uid']}:{user['gid']}"] + (["--no-new-privs"] if no_new_privs else [])
                arguments = ["exec", *options, name, "/program", "once"]
            done = self.command(arguments, before, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.remove(name)
        if done.returncode != STARTED:
            if rule is not None:
                return None
            raise SystemExit(f"{self.name} does not start a container here: {done.stderr.strip()}")
        return set(after_filter(log.read_text(errors="replace").splitlines()))

    def remove(self, name: str) -> None:
        """End a container, if it is there; a runtime that hangs over that is not waited for."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.command(["delete", "--force", name], capture_output=True)


LINE: Final = re.compile(r"^(\d+) +(?:<\.\.\. )?([a-z0-9_]+)(?:\(| resumed>)(.*)$")
CHILD: Final = re.compile(r"\) += (?:\d+ /\* )?(\d+)(?: in strace's PID NS \*/)?$")
FILTER: Final = re.compile(r"SECCOMP_SET_MODE_FILTER, [^,]*, \{|PR_SET_SECCOMP, SECCOMP_MODE_FILTER")


def after_filter(lines: Sequence[str]) -> Iterator[str]:
    """The calls in a log of `strace -f --decode-pids=pidns` that threads under a filter make up to the execve of /program: the thread
    that installs it, and those that it makes afterwards."""
    filtered: set[int] = set()
    installing: set[int] = set()
    for line in lines:
        match = LINE.match(line)
        if match is None:
            continue
        tid, call, text = int(match[1]), match[2], match[3]
        if call in ("seccomp", "prctl") and (FILTER.search(text) or tid in installing):
            installing.add(tid)
            if " = " in text:
                installing.discard(tid)
                filtered |= {tid} if text.rstrip().endswith(" = 0") else set()
        elif tid in filtered:
            if " resumed>" not in line:
                yield call
            child = CHILD.search(text) if call in ("clone", "clone3", "fork", "vfork") else None
            if child:
                filtered.add(int(child[1]))
            if call == "execve" and text.startswith('"/program"'):
                filtered.clear()


def measured(runtime: Runtime, rounds: int) -> dict[str, Any]:
    """Everything about one runtime."""
    result: dict[str, Any] = {"version": runtime.version}
    for setting, no_new_privs in SETTINGS.items():
        calls: set[str] = set()
        for _ in range(rounds):
            for user in USERS:
                for how in ("run", "exec"):
                    calls |= runtime.traced(no_new_privs, user, how) or set()  # strace may be what hangs
        instead = {call: sorted(found) for call in sorted(calls) if (found := fallbacks(runtime, no_new_privs, call, calls))}
        must: dict[str, list[list[str]]] = {}
        for word, denial in DENIALS.items():
            groups = [[call] for call in sorted(calls - CHANCE)]
            groups += [[call, other] for call, others in instead.items() for other in others]
            groups += [[call, *others] for call, others in instead.items() if len(others) > 1]
            must[word] = []
            for names in groups:
                told = any(set(fewer) < set(names) for fewer in must[word])
                if not told and not starts(runtime, no_new_privs, {"names": names, **denial}):
                    must[word].append(names)
            print(f"{runtime.name} {result['version']}, {setting}, {word}: {must[word]}", file=sys.stderr)
        result[setting] = {"calls": sorted(calls), "instead": instead, "must": must}
    return result


def starts(runtime: Runtime, no_new_privs: bool, rule: dict[str, Any]) -> bool:
    """Whether a container starts for any of the users; where it fails it is tried again, because of chance."""
    for user in USERS:
        for _ in range(2):
            started = runtime.starts(no_new_privs, user, rule)
            if started:
                return True
            if started is None:
                break
    return False


def fallbacks(runtime: Runtime, no_new_privs: bool, call: str, calls: Collection[str]) -> set[str]:
    """What a runtime calls in place of a call that is denied, where it starts all the same."""
    found: set[str] = set()
    for word in ("EPERM", "ENOSYS"):
        for user in USERS:
            for _ in range(2):
                found |= (runtime.traced(no_new_privs, user, "run", {"names": [call], **DENIALS[word]}) or set()) - set(calls) - CHANCE
    return found


def main() -> None:
    """Trace, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in NAMES:
        parser.add_argument(f"--{name}", metavar="PATH", help=f"{name}; without it, what the file says about it stays")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each start is traced")
    given = parser.parse_args()
    result = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    with tempfile.TemporaryDirectory(prefix="bpfence-runtimes-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        traced = {name: measured(Runtime(name, path, Path(folder)), given.rounds) for name in NAMES if (path := getattr(given, name))}
    result = {name: (result | traced)[name] for name in NAMES if name in result | traced}
    OUTPUT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {OUTPUT.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
