# SPDX-License-Identifier: Apache-2.0
"""runtimes.json in, what container runtimes call after a filter is in force, and which denials keep containers from starting, out.

Called by `check` and `learned`. tools/trace_runtimes.py writes the file from what the real runtimes did. OTHERS adds what other versions
do, and what depends on chance. Names are those of x86_64.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from bpfence.seccomp.model import ProfileAction, ProfileVerdict

TRACED_FILE: Final = Path(__file__).with_name("runtimes.json")
WITH: Final = "with_no_new_privs"
WITHOUT: Final = "without_no_new_privs"
SETTINGS: Final = (WITH, WITHOUT)
DenialKind = Literal["EPERM", "ENOSYS", "KILL"]


def _set(calls: str) -> frozenset[str]:
    return frozenset(calls.split())


OTHERS: Final[Mapping[str, frozenset[str]]] = {
    # Other versions of runc (libcontainer/standard_init_linux.go, setns_init_linux.go), and Go's runtime: its collector, the preemption
    # of threads, new threads.
    "runc": _set(
        "exit_group rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack mmap munmap madvise epoll_pwait nanosleep getpid gettid tgkill"
        " clone clone3 set_robust_list rseq sched_yield fchdir readlinkat stat statfs close_range statx openat2 fchownat"
    ),
    "crun": _set("exit_group keyctl fcntl brk mmap munmap sendmsg getgroups"),
}
"""Runtime → calls that were not seen in the traces, but that another version makes, or the same at another time."""


class Must(msgspec.Struct, frozen=True):
    """Calls of which a runtime needs at least one to start a container. `kinds`: for each setting, the kinds of denial that keep it from
    starting."""

    runtime: str
    names: tuple[str, ...]
    kinds: Mapping[str, frozenset[str]]


@functools.cache
def _traced() -> Mapping[str, Any]:
    runs: Mapping[str, Any] = json.loads(TRACED_FILE.read_text(encoding="utf-8"))
    return runs


def runtime_names() -> tuple[str, ...]:
    """runc, crun."""
    return tuple(_traced())


def described(runtime: str) -> str:
    """A runtime with the version that was traced: runc 1.1.5."""
    return f"{runtime} {_traced()[runtime]['version']}"


@functools.cache
def seen(runtime: str) -> frozenset[str]:
    """What the runtime called in the traces, and what it called in place of calls that were denied."""
    settings = [_traced()[runtime][setting] for setting in SETTINGS]
    instead = {name for setting in settings for names in setting["instead"].values() for name in names}
    return frozenset({name for setting in settings for name in setting["calls"]} | instead)


@functools.cache
def needs(runtime: str) -> frozenset[str]:
    """Calls that the runtime, in this version or another, may make between the filter and the program."""
    return seen(runtime) | OTHERS[runtime]


@functools.cache
def musts(runtime: str) -> tuple[Must, ...]:
    """What keeps every container from starting, in the order of names."""
    by_names: dict[tuple[str, ...], dict[str, frozenset[str]]] = {}
    for setting in SETTINGS:
        for kind, groups in _traced()[runtime][setting]["must"].items():
            for names in groups:
                kinds = by_names.setdefault(tuple(names), {})
                kinds[setting] = kinds.get(setting, frozenset()) | {kind}
    return tuple(Must(runtime, names, kinds) for names, kinds in sorted(by_names.items()))


def failing(runtime: str, denied: Callable[[str], DenialKind | None]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """The calls whose denial keeps containers from starting → in which settings. `denied`: how a call is denied; None where it is not."""
    result: dict[tuple[str, ...], tuple[str, ...]] = {}
    for must in musts(runtime):
        how = {denied(name) for name in must.names}
        if None in how:
            continue
        kind: DenialKind | None = how.pop() if len(how) == 1 else "EPERM"
        settings = tuple(setting for setting in SETTINGS if kind in must.kinds.get(setting, ()))
        if settings:
            result[must.names] = settings
    return result


def kind_of(verdict: ProfileVerdict) -> DenialKind | None:
    """The kind of denial that a verdict is; None where the call is made, or where somebody else decides."""
    match verdict.action:
        case ProfileAction.KILL_PROCESS | ProfileAction.KILL_THREAD | ProfileAction.TRAP:
            return "KILL"
        case ProfileAction.TRACE:  # without a tracer it is ENOSYS
            return "ENOSYS"
        case ProfileAction.ERRNO if verdict.data:
            return "ENOSYS" if str(verdict) == "ERRNO(ENOSYS)" else "EPERM"
    return None
