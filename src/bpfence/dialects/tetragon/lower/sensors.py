# SPDX-License-Identifier: Apache-2.0
"""A hook that is no event of the engine's own in, the sensor that makes one of it out, and where each argument comes to.

`lower` makes conditions by it, `confirm` shows arguments by it, the kernel reads arguments by it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from bpfence.conditions.sensors import (
    FILES,
    FUNCTION,
    IN_RECORDS,
    MAX_FILES,
    MAX_REGISTER,
    NUMBERS,
    SOCKETS,
    TEXTS,
    is_call,
    read_of,
)
from bpfence.conditions.values import conj
from bpfence.dialects.tetragon.lower.hooks import LSM_HOOKS, Known, Parameter, Reads
from bpfence.dialects.tetragon.read import words
from bpfence.dialects.tetragon.read.checks import MAX_ARGUMENTS
from bpfence.dialects.tetragon.read.model import Argument, Hook, KProbe, LsmHook, Tracepoint, UProbe
from bpfence.errors import Location
from bpfence.names import call_hook, lsm_function, lsm_hook
from bpfence.policy import Atom, Op, Probe, ProbeArgument, Read, Way
from bpfence.words import quoted, suggest

_WHOLE: Final = {
    "cred": Read.CRED, "user_namespace": Read.USER_NS, "bpf_attr": Read.BPF_ATTR, "bpf_prog": Read.BPF_PROG, "bpf_map": Read.BPF_MAP,
    "perf_event": Read.PERF_EVENT,
}  # fmt: skip
_WHOLE_SOCKETS: Final = {"sock": Read.SOCK_WHOLE, "socket": Read.SOCKET_WHOLE, "skb": Read.SKB_WHOLE}
"""What is shown alone of sockets and packets beside the one that can be tested."""
TYPES: Final = (*NUMBERS, *FILES, *TEXTS, *SOCKETS, *_WHOLE, "nop")
"""Types of arguments that sensors read."""


class UnreadableError(Exception):
    """An argument that no sensor reads: where, and what helps."""

    def __init__(self, place: Location, what: str, hint: str) -> None:
        super().__init__(what)
        self.place = place
        self.hint = hint


class Placed(NamedTuple):
    """A sensor, and its hook as an event."""

    probe: Probe
    known: Known


def lsm_of(hook: Hook) -> str:
    """The hook of the LSM that a hook of a policy is, or that its function asks about; "" where it is none. Of a system call the one that
    it asks before it does anything."""
    if isinstance(hook, LsmHook):
        return hook.hook
    if not isinstance(hook, KProbe):
        return ""
    return call_hook(_call(hook)) if hook.syscall and is_call(hook.call) else lsm_hook(hook.call)


def _call(hook: KProbe) -> str:
    return hook.call.removeprefix("__x64_").removeprefix("sys_")


def placed(hook: KProbe | Tracepoint | LsmHook, tested: Collection[int] = (), *, returns: bool = False, refuses: bool = False) -> Placed:
    """The sensor of a hook; of one that waits for the return (`returns`) the one that does, or that of the call alone. `tested`: the
    arguments that filters are about. `refuses`: the one that can refuse, of a hook of the LSM (`lsm_of`). UnreadableError: an argument
    cannot be read.
    """
    if isinstance(hook, KProbe) and not FUNCTION.fullmatch(hook.call):
        hint = "write a function of the kernel; those of calls of 32 bits are not watched yet"
        raise UnreadableError(hook.at("call"), f"{quoted(hook.call)} is no name of a function", hint)
    if isinstance(hook, LsmHook) and not FUNCTION.fullmatch(hook.hook):
        hint = suggest(hook.hook, LSM_HOOKS, "write a hook of include/linux/lsm_hook_defs.h")
        raise UnreadableError(hook.at("hook"), f"{quoted(hook.hook)} is no name of an LSM hook", hint)
    parameters: dict[int, Parameter] = {}
    arguments = []
    chosen = _chosen(hook, tested)
    for position, argument in enumerate(hook.args):
        _check(hook, argument, parameters)
        if argument.return_copy and not returns:
            parameters[argument.index] = Parameter(Reads.NOTHING, ())
            arguments.append(ProbeArgument(argument.index, Read.NOTHING))
            continue
        parameter, read = _argument(argument, position, parameters, chosen)
        parameters[argument.index] = parameter
        signed = argument.kind in words.SIGNED
        length = argument.size_arg_index - 1 if read is Read.BYTES else 0
        size = NUMBERS.get(argument.kind, 32) // 8
        arguments.append(ProbeArgument(argument.index, read, size, signed, length, argument.return_copy))
    result = _result(hook) if isinstance(hook, KProbe) and returns else None
    probe = _refusing(hook, tuple(arguments)) if refuses else _probe(hook, tuple(arguments), result)
    here = Atom("sensor.number", Op.RANGE, (probe.number, probe.number))
    return Placed(probe, Known(probe.way.value, parameters, also=conj((here,))))


def _probe(hook: KProbe | Tracepoint | LsmHook, arguments: tuple[ProbeArgument, ...], result: ProbeArgument | None) -> Probe:
    if isinstance(hook, Tracepoint):
        return Probe(Way.TRACEPOINT, f"{hook.subsystem}/{hook.event}", arguments, location=hook.at("event"))
    if isinstance(hook, LsmHook):
        return Probe(Way.KPROBE, lsm_function(hook.hook), arguments, location=hook.at("hook"))
    optional = hook.ignore is not None and hook.ignore.call_not_found
    way = Way.KRETPROBE if result is not None else Way.KPROBE
    call = hook.syscall and is_call(hook.call)
    return Probe(way, hook.call, arguments, call, optional, result, location=hook.at("call"))


def _refusing(hook: KProbe | Tracepoint | LsmHook, arguments: tuple[ProbeArgument, ...]) -> Probe:
    optional = isinstance(hook, KProbe) and hook.ignore is not None and hook.ignore.call_not_found
    call = isinstance(hook, KProbe) and hook.syscall and is_call(hook.call)
    place = hook.call if isinstance(hook, KProbe) and call else lsm_of(hook)
    return Probe(Way.LSM, place, arguments, call, optional, location=hook.at("call" if isinstance(hook, KProbe) else "hook"))


def _result(hook: KProbe) -> ProbeArgument:
    """What a function returns."""
    argument = hook.return_arg
    if argument is not None and argument.kind == "sock" and len(hook.args) < MAX_ARGUMENTS:
        check_result(argument, (*words.INTEGERS, argument.kind))
        return ProbeArgument(0, Read.SOCK_WHOLE)
    return integer_result(argument, "and sock beside 4 arguments")


def integer_result(argument: Argument | None, more: str = "") -> ProbeArgument:
    """A number that a function returns. UnreadableError: it cannot be read. `more`: what else could be, for the hint."""
    assert argument is not None  # without, `read` has refused the hook
    check_result(argument, words.INTEGERS, more)
    return ProbeArgument(0, Read.NUMBER, words.INTEGERS[argument.kind] // 8, argument.kind in words.SIGNED)


def check_result(argument: Argument, types: Collection[str], more: str = "") -> None:
    """UnreadableError where what a function returns cannot be read."""
    if argument.resolve or argument.source or argument.btf_type or argument.size_arg_index:
        raise UnreadableError(argument.place, "what a function returns cannot be read yet in this way", "leave out all but index and type")
    if argument.kind not in types:
        what = f"what a function returns is not read as {argument.type} yet"
        raise UnreadableError(argument.at("type"), what, f"types that can be are {', '.join([*types, *([more] if more else [])])}")


def result_of(hook: KProbe | UProbe) -> Parameter:
    """What a hook returns, as a parameter."""
    kind = hook.return_arg.kind if hook.return_arg is not None else "int"
    if kind == "sock":
        return Parameter(Reads.WHOLE, (kind,), len(hook.args))
    return Parameter(Reads.INTEGER, (kind,), field="sensor.result")


def check_argument(
    argument: Argument, others: Mapping[int, Parameter], types: Collection[str], where: str, *, waits: bool, registers: bool
) -> None:
    """UnreadableError where an argument cannot be read, or was read already (`others`).

    `types`, `where`: those that can be, and of what. `waits`: bytes may be read at the return. `registers`: it must be in one.
    """
    can = f"types that can be are {', '.join(types)}"
    sized = argument.size_arg_index and argument.kind != "char_buf"
    copied = argument.return_copy and not (waits and argument.kind == "char_buf")
    if argument.resolve or argument.source or argument.btf_type or copied or argument.max_data or sized:
        what = f"argument {argument.index} cannot be read yet in this way"
        raise UnreadableError(argument.place, what, "leave out all but index, type and label")
    if argument.kind == "char_buf" and not argument.size_arg_index:
        what = f"argument {argument.index} does not say how many bytes there are"
        raise UnreadableError(argument.place, what, "write sizeArgIndex: the argument with the number of bytes, counted from 1")
    if argument.type == "auto":
        what = f"argument {argument.index} has no type, and types are not looked up yet"
        raise UnreadableError(argument.place, what, f"write one: {can}")
    if argument.kind not in types:
        raise UnreadableError(argument.at("type"), f"type {argument.type} is not read {where} yet", can)
    if argument.index in others:
        raise UnreadableError(argument.place, f"argument {argument.index} is read twice", "read it once")
    if registers and argument.index > MAX_REGISTER:
        what = f"argument {argument.index} is not in a register"
        raise UnreadableError(argument.at("index"), what, f"arguments 0 to {MAX_REGISTER} can be read")


def _check(hook: Hook, argument: Argument, others: Mapping[int, Parameter]) -> None:
    """Refuse what is no argument that a sensor can read."""
    record = isinstance(hook, Tracepoint)
    types, where = (IN_RECORDS, "in the record of a tracepoint") if record else (TYPES, "by a sensor")
    waits = isinstance(hook, KProbe) and hook.returns
    check_argument(argument, others, types, where, waits=waits, registers=not record)


def _chosen(hook: Hook, tested: Collection[int]) -> int:
    """The socket, packet or address that conditions can be about: the first that filters test, or the first; -1: none."""
    found = [argument.index for argument in hook.args if argument.kind in SOCKETS]
    return next((index for index in found if index in tested), found[0] if found else -1)


def _argument(argument: Argument, position: int, others: Mapping[int, Parameter], chosen: int) -> tuple[Parameter, Read]:
    """Where an argument comes to, behind `others`. `chosen`: the socket that conditions can be about."""
    kind = argument.kind
    if kind == "nop":
        return Parameter(Reads.NOTHING, ()), Read.NOTHING
    if kind in FILES:
        files = sum(other.reads in (Reads.FILE, Reads.PLACE) for other in others.values())
        if files == MAX_FILES:
            raise UnreadableError(argument.place, f"more than {MAX_FILES} files are not read at one hook", "leave this one out")
        field = "file.new_path" if files else "file.path"
        reads = Reads.PLACE if files or kind == "path" else Reads.FILE
        return Parameter(reads, (kind,), field=field), FILES[kind]
    if kind in SOCKETS and argument.index == chosen:
        return Parameter(Reads.ADDRESS if kind == "sockaddr" else Reads.SOCK, (kind,), field=f"sensor.number{position}"), SOCKETS[kind]
    if kind in _WHOLE_SOCKETS:
        return Parameter(Reads.WHOLE, (kind,), position), _WHOLE_SOCKETS[kind]
    if kind in SOCKETS:
        raise UnreadableError(argument.place, "an address beside a socket or another address is not read at one hook", "leave this one out")
    if kind in _WHOLE:
        return Parameter(Reads.WHOLE, (kind,), position), _WHOLE[kind]
    if kind in TEXTS:
        return Parameter(Reads.TEXT, (kind,), field=f"sensor.text{position}"), TEXTS[kind]
    return Parameter(Reads.INTEGER, (kind,), field=f"sensor.number{position}"), read_of(kind)
