#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bpf/*.bpf.c in, the linked BPF object src/bpfence/kernel/bpfence.bpf.o out, beside it shared.bpf.o and the objects of SEPARATE.

The two have the same programs of hooks, with the decision engine in each of them, and with one that they share (bpf/shared.bpf.c).

Run by `make bpf`, and by tests for objects of their own (`compile_object`). Each source is compiled when its text, the text of a
header, the compiler or its flags have changed; the linker runs when some object has. The hash of bpf/abi.h goes into the object
as the constant `bpfence_abi_hash`, which the loader compares with the one of bpfence.abi.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, or loaded by its path in a test

from tools import bpf_stack

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "bpf"
OBJECT = ROOT / "src" / "bpfence" / "kernel" / "bpfence.bpf.o"
SEPARATE = ("recorder.bpf.c",)
"""Sources that share no map with the engine and must load where it does not: each becomes an object of its own name."""
MAPS = "engine.bpf.c"
SHARED = "shared.bpf.c"
"""What shared.bpf.o has and the other has not. It also names that object."""
WHOLE = ("ended.bpf.c",)
"""Whose programs have the engine in them there, too: those at the ends of functions cannot be extended."""
APART = ("sensor.bpf.c",)
"""Whose programs are not in shared.bpf.o: few policies need them, and each start reads it."""
SHARED_FLAG = "-DENGINE_SHARED"
CONSTANTS = ".rodata"
CACHE = ROOT / ".build" / "bpf"
OLDEST_CLANG = 14
NEWEST_CLANG = 30
TARGETS = {"x86_64": "x86", "aarch64": "arm64"}
MULTIARCH = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}
FLAGS = (
    "-target", "bpf", "-mcpu=v2", "-g", "-O2", "-std=gnu11", "-Wall", "-Werror", "-Wno-missing-declarations", "-fno-stack-protector",
    "-mllvm", "-disable-block-placement",
)  # fmt: skip
"""-mcpu=v2: what Linux 5.10 runs on every architecture; v3's 32-bit jumps make 5.10's verifier lose bounds.
-disable-block-placement: clang 14 likes to put the head of a loop behind its body, which 5.10 refuses: see bpf_stack.falls_back."""

NO_PLACE = "-ffile-prefix-map={root}=/bpfence"
"""Lines of sources are named from /bpfence on: the same sources in another folder make the same object, and it tells nobody's folders."""

HASH_SOURCE = """\
/* Written by tools/build_bpf.py. */
const volatile unsigned long long bpfence_abi_hash = 0x{digest}ULL;
char LICENSE[] __attribute__((section("license"), used)) = "Dual BSD/GPL";
"""


class BuildError(Exception):
    """A tool is missing or failed; the message is for the user."""


def find_clang() -> str:
    """The compiler: clang, or the newest clang-N."""
    for name in ("clang", *(f"clang-{n}" for n in range(NEWEST_CLANG, OLDEST_CLANG - 1, -1))):
        if path := shutil.which(name):
            return path
    raise BuildError(f"no clang is installed; bpfence needs clang {OLDEST_CLANG} or later (Debian: apt install clang)")


def find_bpftool() -> str:
    """The linker of BPF objects, which distributions like to hide from PATH."""
    for name in ("bpftool", "/usr/sbin/bpftool", "/usr/local/sbin/bpftool", "/sbin/bpftool"):
        if path := shutil.which(name):
            return path
    raise BuildError("no bpftool is installed (Debian: apt install bpftool)")


def compile_flags(machine: str = "") -> tuple[str, ...]:
    """Compiler arguments for the machine that the object is to run on, this one by default."""
    machine = machine or platform.machine()
    if machine not in TARGETS:
        raise BuildError(f"no BPF target is known for {machine}; known: {', '.join(TARGETS)}")
    include = Path("/usr/include") / MULTIARCH[machine]
    return (*FLAGS, f"-D__TARGET_ARCH_{TARGETS[machine]}", *(("-idirafter", str(include)) if include.is_dir() else ()))


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stdout}")


def compile_object(source: Path, target: Path, include: Sequence[Path] = (SOURCES,), flags: Sequence[str] = ()) -> None:
    """One .bpf.c to one .o, debugging sections other than BTF removed by the linker later. Raises BuildError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    nowhere = NO_PLACE.format(root=ROOT)
    _run([find_clang(), *compile_flags(), nowhere, *flags, *(f"-I{folder}" for folder in include), "-c", str(source), "-o", str(partial)])
    partial.replace(target)


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _fresh(target: Path, digest: str) -> bool:
    stamp = target.with_suffix(".digest")
    return target.exists() and stamp.exists() and stamp.read_text() == digest


def _compile_if_needed(source: Path, target: Path, flags: Sequence[str], common: bytes) -> bool:
    digest = _digest(common, source.read_bytes())
    if _fresh(target, digest):
        return False
    compile_object(source, target, flags=flags)
    target.with_suffix(".digest").write_text(digest)
    return True


def build(target: Path = OBJECT, *, force: bool = False) -> bool:
    """Brings the objects up to date; whether anything had to be done. Raises BuildError."""
    # The maps' definitions first: libbpf 1.1 loses track of a map that is declared before ("map relo failed to find map").
    sources = [path for path in SOURCES.glob("*.bpf.c") if path.name not in SEPARATE]
    # The engine last: programs are loaded in this order, and what is extended must be there before.
    sources.sort(key=lambda path: (path.name != MAPS, path.name == SHARED, path.name))
    if not sources:
        raise BuildError(f"no *.bpf.c in {SOURCES}")
    CACHE.mkdir(parents=True, exist_ok=True)
    header_hash = hashlib.sha256((SOURCES / "abi.h").read_bytes()).hexdigest()[:16]
    hash_source = CACHE / "abi_hash.bpf.c"
    hash_text = HASH_SOURCE.format(digest=header_hash)
    if not hash_source.exists() or hash_source.read_text() != hash_text:
        hash_source.write_text(hash_text)
    version = subprocess.run([find_clang(), "--version"], stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout
    headers = b"".join(path.name.encode() + path.read_bytes() for path in sorted(SOURCES.glob("*.h")))
    common = _digest(version, headers, " ".join((*compile_flags(), NO_PLACE)).encode()).encode() + (b"force" if force else b"")
    nothing: tuple[str, ...] = ()
    own = [(source, _compiled(source), nothing) for source in (hash_source, *sources) if source.name != SHARED]
    shared = [(source, _compiled(source, ".shared"), (SHARED_FLAG,)) for source in sources if source.name not in (*WHOLE, *APART)]
    alone = [(SOURCES / name, _compiled(SOURCES / name), nothing) for name in SEPARATE]
    with ThreadPoolExecutor(2) as pool:
        changed = list(pool.map(lambda job: _compile_if_needed(job[0], job[1], job[2], common), (*own, *shared, *alone)))
    for _, path, _ in alone:
        changed.append(_link([path], target.with_name(path.name)))
    beside = target.with_name(SHARED.removesuffix(".c") + ".o")
    whole = {source.name: path for source, path, _ in own if source.name in WHOLE}
    parts = {source.name: path for source, path, _ in shared} | whole
    changed.append(_link([own[0][1], *(parts[source.name] for source in sources if source.name not in APART)], beside))
    changed.append(_link([path for _, path, _ in own], target))
    if bpf_stack.section(target.read_bytes(), CONSTANTS) != bpf_stack.section(beside.read_bytes(), CONSTANTS):
        raise BuildError(f"{target.name} and {beside.name} have constants in different places, and share the map that they are in")
    for path in (target, beside):
        _check(path.read_bytes())
    return any(changed)


def _compiled(source: Path, variant: str = "") -> Path:
    return CACHE / f"{source.name.removesuffix('.bpf.c')}{variant}.bpf.o"


def _check(data: bytes) -> None:
    """Raises BuildError where some kernel does not take what is in an object."""
    if deep := bpf_stack.too_deep(data):
        raise BuildError("no kernel takes these chains of calls:\n  " + "\n  ".join(deep))
    if back := bpf_stack.falls_back(data):
        raise BuildError("not every kernel takes these loops:\n  " + "\n  ".join(back))
    if new := bpf_stack.too_new(data):
        raise BuildError("not every kernel takes these functions:\n  " + "\n  ".join(new))


def _link(objects: Sequence[Path], target: Path) -> bool:
    """Links objects into one, debugging sections other than BTF left out, where they have changed since; whether they had."""
    bpftool = find_bpftool()
    digest = _digest(*((str(path).encode() + path.read_bytes()) for path in objects))
    linked = CACHE / f"{target.name.removesuffix('.bpf.o')}.linked.o"
    if target.exists() and _fresh(linked, digest) and target.read_bytes() == linked.read_bytes():
        return False
    # In this order: bpftool names sections after the first object that has them.
    _run([bpftool, "gen", "object", str(linked), *(str(path) for path in objects)])
    linked.with_suffix(".digest").write_text(digest)
    partial = target.with_suffix(".partial")
    shutil.copyfile(linked, partial)
    partial.replace(target)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="build the BPF object")
    parser.add_argument("--output", type=Path, default=OBJECT)
    parser.add_argument("--force", action="store_true", help="compile everything again")
    arguments = parser.parse_args()
    try:
        done = build(arguments.output, force=arguments.force)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{arguments.output}: {'built' if done else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
