# SPDX-License-Identifier: Apache-2.0
"""A hook on a program or library in, the sensor that makes an event of it out, as `sensors` does for hooks in the kernel.

A hook with several symbols, offsets or addresses is one hook for each: `each`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from bpfence.conditions.sensors import IN_PROGRAMS, IN_STATIC_PROBES, NUMBERS, read_of
from bpfence.conditions.values import conj
from bpfence.dialects.tetragon.lower.hooks import Known, Parameter, Reads, name_of
from bpfence.dialects.tetragon.lower.sensors import Placed, UnreadableError, check_argument, integer_result
from bpfence.dialects.tetragon.read import words
from bpfence.dialects.tetragon.read.model import Argument, UProbe, Usdt
from bpfence.policy import Atom, Op, Probe, ProbeArgument, Read, Target, Way
from bpfence.words import quoted

_POINTERS: Final = ("string", "char_buf")


def each(hook: UProbe) -> Iterator[tuple[str, UProbe]]:
    """A hook for each place of a hook, with what sets its rules' names apart."""
    counters = hook.ref_ctr_offsets or (0,) * len(hook.symbols or hook.offsets or hook.addrs)
    places: list[tuple[str, dict[str, Any]]] = [(symbol, {"symbols": (symbol,)}) for symbol in hook.symbols]
    places += [(f"{offset:#x}", {"offsets": (offset,)}) for offset in hook.offsets]
    places += [(f"{address:#x}", {"addrs": (address,)}) for address in hook.addrs]
    for (name, place), counter in zip(places, counters, strict=False):
        one = msgspec.structs.replace(hook, **place, ref_ctr_offsets=(counter,) if counter else ())
        yield f".{name}" if len(places) > 1 else "", one


def members(hook: UProbe | Usdt) -> dict[str, str]:
    """What an event says of its hook. Numbers of 64 bits are texts in JSON."""
    if isinstance(hook, Usdt):
        return {"path": hook.path, "provider": hook.provider, "name": hook.name}
    made = {"path": hook.path}
    if hook.symbols:
        made["symbol"] = hook.symbols[0]
    elif hook.offsets:
        made["offset"] = str(hook.offsets[0])
    return made | ({"ref_ctr_offset": str(hook.ref_ctr_offsets[0])} if hook.ref_ctr_offsets else {})


def placed(hook: UProbe | Usdt, *, returns: bool = False) -> Placed:
    """The sensor of a hook with one place; of one that waits for the return (`returns`) the one that does, or that of the call alone.
    UnreadableError: an argument cannot be read, or the place is none.
    """
    if not hook.path.startswith("/") or "\0" in hook.path:
        what = f"{quoted(hook.path)} is no path from the root"
        raise UnreadableError(hook.at("path"), what, "write the whole path, as it is on the host")
    parameters: dict[int, Parameter] = {}
    arguments = []
    for position, argument in enumerate(hook.args):
        _check(hook, argument, parameters)
        if argument.return_copy and not returns:
            parameters[argument.index] = Parameter(Reads.NOTHING, ())
            arguments.append(ProbeArgument(argument.index, Read.NOTHING))
            continue
        parameter, read = _argument(argument, position, parameters)
        parameters[argument.index] = parameter
        length = argument.size_arg_index - 1 if read is Read.BYTES else 0
        size, signed = NUMBERS.get(argument.kind, 32) // 8, argument.kind in words.SIGNED
        arguments.append(ProbeArgument(argument.index, read, size, signed, length, argument.return_copy))
    probe = _probe(hook, tuple(arguments), returns=returns)
    here = Atom("sensor.number", Op.RANGE, (probe.number, probe.number))
    return Placed(probe, Known(probe.way.value, parameters, also=conj((here,))))


def _probe(hook: UProbe | Usdt, arguments: tuple[ProbeArgument, ...], *, returns: bool) -> Probe:
    name = name_of(hook)
    if isinstance(hook, Usdt):
        target = Target(hook.path, hook.name, provider=hook.provider)
        return Probe(Way.USDT, name, arguments, target=target, location=hook.at("name"))
    target = Target(
        hook.path,
        hook.symbols[0] if hook.symbols else "",
        offset=hook.offsets[0] if hook.offsets else None,
        address=hook.addrs[0] if hook.addrs else None,
        counter=hook.ref_ctr_offsets[0] if hook.ref_ctr_offsets else 0,
    )
    key = next(key for key in ("symbols", "offsets", "addrs") if getattr(hook, key))
    result = integer_result(hook.return_arg) if returns else None
    way = Way.UPROBE if result is None else Way.URETPROBE
    return Probe(way, name, arguments, result=result, target=target, location=hook.at(key))


def _check(hook: UProbe | Usdt, argument: Argument, others: dict[int, Parameter]) -> None:
    function = isinstance(hook, UProbe)
    types, where = (IN_PROGRAMS, "of a function of a program") if function else (IN_STATIC_PROBES, "of a static probe")
    waits = isinstance(hook, UProbe) and hook.returns
    check_argument(argument, others, types, where, waits=waits, registers=function)


def _argument(argument: Argument, position: int, others: dict[int, Parameter]) -> tuple[Parameter, Read]:
    kind = argument.kind
    if kind == "nop":
        return Parameter(Reads.NOTHING, ()), Read.NOTHING
    if kind in _POINTERS:
        return Parameter(Reads.TEXT, (kind,), field=f"sensor.text{position}"), read_of(kind)
    if kind == "fd":
        files = sum(other.reads in (Reads.FILE, Reads.PLACE) for other in others.values())
        if files > 1:
            raise UnreadableError(argument.place, "more than 2 files are not read at one hook", "leave this one out")
        return Parameter(Reads.PLACE if files else Reads.FILE, (kind,), field="file.new_path" if files else "file.path"), Read.FD
    if kind == "sockaddr":
        if any(other.reads is Reads.ADDRESS for other in others.values()):
            raise UnreadableError(argument.place, "more than one address is not read at one hook", "leave this one out")
        return Parameter(Reads.ADDRESS, (kind,)), Read.SOCKADDR
    return Parameter(Reads.INTEGER, (kind,), field=f"sensor.number{position}"), Read.NUMBER
