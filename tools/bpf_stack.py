#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A linked BPF object in, its deepest chains of calls out: what the verifier of every kernel allows is 8 frames and 512 bytes of stack.
And functions with atomic instructions that Linux 5.10 does not know.

Run by tools/build_bpf.py, because the machine that builds may have a kernel that forgives more (since Linux 6.13 some programs have a
stack of their own), and by hand to see what takes the room. Reads ELF symbols, relocations and instructions; executes nothing.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

MAX_FRAMES: Final = 8
MAX_STACK: Final = 512
ROUND: Final = 32
"""What the verifier rounds each frame up to (check_max_stack_depth; 16 on newer kernels)."""

_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_RELOCATION: Final = struct.Struct("<QQ")
_INSTRUCTION: Final = struct.Struct("<BBhi")
_FRAME_POINTER: Final = 10
_CALL: Final = 0x85
_MOVE: Final = 0xBF
_ADD: Final = 0x07
_JUMPS: Final = (5, 6)
_ALWAYS: Final = 0x05
_EXIT: Final = 0x95
_WIDE: Final = 0x18
_PSEUDO_CALL: Final = 1
_ATOMIC: Final = (0xC3, 0xDB)
_EXECUTABLE: Final = 4
_FUNCTION: Final = 2
_REL: Final = 9


class Function(NamedTuple):
    """One function or program: bytes of stack that it uses itself, what it calls, and how many atomic instructions it has that are not
    plain additions (Linux 5.12; before: "BPF_STX uses reserved fields").
    """

    stack: int
    calls: frozenset[str]
    atomics: int = 0


class Chain(NamedTuple):
    """Calls from a program down, and the bytes of stack that they take together."""

    names: tuple[str, ...]
    stack: int


def functions(data: bytes) -> dict[str, Function]:
    """Every function of a linked object by name."""
    sections = _sections(data)
    symbols = [s for header in sections if header[1] == 2 for s in _symbols(data, header, sections)]
    starts = {(where, value): name for name, kind, where, value, _ in symbols if kind == _FUNCTION}
    targets = {
        (header[7], offset): symbols[index] for header in sections if header[1] == _REL for offset, index in _relocations(data, header)
    }
    found = {}
    for name, kind, where, value, size in symbols:
        if kind != _FUNCTION or not sections[where][2] & _EXECUTABLE:
            continue
        base = sections[where][4]
        calls: set[str] = set()
        stack = atomics = 0
        copy = -1
        for at in range(value, value + size, 8):
            code, registers, offset, immediate = _INSTRUCTION.unpack_from(data, base + at)
            stack = max(stack, _reach(code, registers, offset, immediate, copy))
            copy = registers & 15 if code == _MOVE and registers >> 4 == _FRAME_POINTER else -1
            atomics += code in _ATOMIC and immediate != 0
            if code == _CALL and registers >> 4 == _PSEUDO_CALL:
                calls.add(_callee(where, at, immediate, targets, starts))
        found[name] = Function(stack, frozenset(calls - {name, ""}), atomics)
    return found


def section(data: bytes, name: str) -> bytes:
    """The contents of a section, empty where there is none."""
    sections = _sections(data)
    names = sections[struct.unpack_from("<H", data, 62)[0]][4]
    for header in sections:
        at = names + header[0]
        if data[at : data.index(b"\0", at)] == name.encode():
            return data[header[4] : header[4] + header[5]]
    return b""


def _sections(data: bytes) -> list[tuple[int, ...]]:
    start, count = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    return [_SECTION.unpack_from(data, start + n * _SECTION.size) for n in range(count)]


def _symbols(data: bytes, header: tuple[int, ...], sections: list[tuple[int, ...]]) -> list[tuple[str, int, int, int, int]]:
    """Name, type, section, value, size."""
    names = sections[header[6]][4]
    found = []
    for at in range(header[4], header[4] + header[5], _SYMBOL.size):
        name, info, _, where, value, size = _SYMBOL.unpack_from(data, at)
        end = data.index(b"\0", names + name)
        found.append((data[names + name : end].decode(), info & 15, where, value, size))
    return found


def _relocations(data: bytes, header: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(offset, info >> 32) for offset, info in _RELOCATION.iter_unpack(data[header[4] : header[4] + header[5]])]


def _reach(code: int, registers: int, offset: int, immediate: int, copy: int) -> int:
    """How far below the frame pointer an instruction reaches: loads and stores through it, and what is added to a copy of it, which is in
    register `copy` where the instruction before has made one (that is how clang takes the address of a local variable)."""
    base = registers >> 4 if code & 7 == 1 else registers & 15 if code & 7 in (2, 3) else -1
    if base == _FRAME_POINTER:
        return -offset
    return -immediate if code == _ADD and registers & 15 == copy else 0


def _callee(
    where: int,
    at: int,
    immediate: int,
    targets: dict[tuple[int, int], tuple[str, int, int, int, int]],
    starts: dict[tuple[int, int], str],
) -> str:
    target = targets.get((where, at))
    if target is None:
        return starts[where, at + 8 * (immediate + 1)]
    name, kind, section, value, _ = target
    if not section:
        return ""  # a function of the kernel
    return name if kind == _FUNCTION else starts[section, value + 8 * (immediate + 1)]


def chains(found: dict[str, Function]) -> list[Chain]:
    """For each program (what nobody calls) its chain with most stack, and its longest one; the largest first."""

    def rounded(stack: int) -> int:
        return (max(stack, 1) + ROUND - 1) // ROUND * ROUND

    @lru_cache(None)
    def most(name: str, by_stack: bool) -> Chain:
        below = [most(callee, by_stack) for callee in sorted(found[name].calls)]
        best = max(below, key=lambda chain: chain.stack if by_stack else len(chain.names), default=Chain((), 0))
        return Chain((name, *best.names), rounded(found[name].stack) + best.stack)

    called = {callee for function in found.values() for callee in function.calls}
    tops = sorted(found.keys() - called)
    return sorted({most(name, by_stack) for name in tops for by_stack in (True, False)}, key=lambda chain: (-chain.stack, chain.names))


def too_new(data: bytes) -> list[str]:
    """A line for each function with atomic instructions that the oldest kernel refuses."""
    return [
        f"{name}: {function.atomics} atomic instructions that Linux 5.10 does not know (the result is used, or 0 is added)"
        for name, function in functions(data).items()
        if function.atomics
    ]


def falls_back(data: bytes) -> list[str]:
    """A line for each function with a loop whose head is fallen into from its end. Linux 5.10 (check_cfg) lets jumps go back only:
    "back-edge from insn 1952 to 1953".
    """
    sections = _sections(data)
    found = []
    for header in sections:
        for name, kind, where, value, size in _symbols(data, header, sections) if header[1] == 2 else ():
            if kind == _FUNCTION and 0 < where < len(sections):
                start = sections[where][4] + value
                if edge := _back_edge(list(_INSTRUCTION.iter_unpack(data[start : start + size]))):
                    found.append(f"{name}: instruction {edge[0]} falls back to {edge[1]}, which Linux 5.10 refuses")
    return found


def _back_edge(code: Sequence[tuple[int, ...]]) -> tuple[int, int] | None:
    """Walks the instructions of one function in the order of check_cfg."""
    path, open_edges, seen = [0], [_edges(code, 0)], {0}
    while path:
        if not open_edges[-1]:
            path.pop()
            open_edges.pop()
            continue
        to, jump = open_edges[-1].pop(0)
        if to not in seen:
            seen.add(to)
            path.append(to)
            open_edges.append(_edges(code, to))
        elif to in path and not jump:
            return path[-1], to
    return None


def _edges(code: Sequence[tuple[int, ...]], at: int) -> list[tuple[int, bool]]:
    """Where an instruction leads, and whether as a jump, which may lead back."""
    operation, _, offset, _ = code[at]
    if operation & 7 not in _JUMPS or operation == _CALL:
        return [(at + (2 if operation == _WIDE else 1), False)]
    if operation == _EXIT:
        return []
    return [(at + offset + 1, True)] if operation == _ALWAYS else [(at + 1, True), (at + offset + 1, True)]


def too_deep(data: bytes) -> list[str]:
    """A line for each program that passes a limit."""
    found = functions(data)
    return [
        f"{chain.names[0]}: {len(chain.names)} frames (at most {MAX_FRAMES}), {chain.stack} bytes of stack (at most {MAX_STACK}): "
        + " > ".join(f"{name} {found[name].stack}" for name in chain.names)
        for chain in chains(found)
        if len(chain.names) > MAX_FRAMES or chain.stack > MAX_STACK
    ]


def main() -> int:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "src/bpfence/kernel/bpfence.bpf.o")
    found = functions(path.read_bytes())
    for chain in chains(found)[:20]:
        print(f"{chain.stack:4} bytes, {len(chain.names)} frames: " + " > ".join(f"{name} {found[name].stack}" for name in chain.names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
