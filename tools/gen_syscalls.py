#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the installed libseccomp knows and a list of newer calls in, src/bpfence/syscalls/syscalls.json out.

The table only grows: what an older libseccomp does not know stays. `--check` exits 1 when the table lacks a call that is listed here,
or contradicts the library; a library that knows more than the table is no mistake (run `make generate` there).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from bpfence.errors import BpfenceError  # noqa: E402
from bpfence.seccomp import libseccomp  # noqa: E402
from bpfence.syscalls.architectures import ARCHES, X32_BIT, Arch  # noqa: E402
from bpfence.syscalls.table import TABLE_FILE  # noqa: E402

NUMBERS = 600
PSEUDO = range(-10400, -10000)  # libseccomp's numbers for calls that an architecture does not have
ARM_PRIVATE = range(0xF0001, 0xF0007)

# Since 5.1 every architecture has the same number. arch/x86/entry/syscalls/syscall_64.tbl and scripts/syscall.tbl of 6.19.
COMMON = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434, "clone3": 435, "close_range": 436, "openat2": 437,
    "pidfd_getfd": 438, "faccessat2": 439, "process_madvise": 440, "epoll_pwait2": 441, "mount_setattr": 442, "quotactl_fd": 443,
    "landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446, "memfd_secret": 447, "process_mrelease": 448,
    "futex_waitv": 449, "set_mempolicy_home_node": 450, "cachestat": 451, "fchmodat2": 452, "map_shadow_stack": 453, "futex_wake": 454,
    "futex_wait": 455, "futex_requeue": 456, "statmount": 457, "listmount": 458, "lsm_get_self_attr": 459, "lsm_set_self_attr": 460,
    "lsm_list_modules": 461, "mseal": 462, "setxattrat": 463, "getxattrat": 464, "listxattrat": 465, "removexattrat": 466,
    "open_tree_attr": 467, "file_getattr": 468, "file_setattr": 469, "listns": 470,
}  # fmt: skip
NOT_ON = {Arch.ARM: {"memfd_secret"}}
OF_ONE = {Arch.X86_64: {"uretprobe": 335, "uprobe": 336}}
ELSEWHERE = (  # names that profiles use, of calls that only other architectures have
    "riscv_hwprobe", "riscv_flush_icache", "s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr", "s390_guarded_storage",
    "s390_sthyi", "swapcontext", "breakpoint", "cacheflush", "set_tls", "usr26", "usr32", "get_tls", "arm_fadvise64_64",
    "arm_sync_file_range", "sync_file_range2", "subpage_prot", "switch_endian", "spu_create", "spu_run", "rtas", "sysmips",
)  # fmt: skip

Table = dict[str, list[int | None]]


def known() -> Table:
    """The calls of the installed library, on the architectures of the table."""
    names: set[str] = set(ELSEWHERE)
    by_number: dict[Arch, dict[str, int]] = {arch: {} for arch in ARCHES}
    for arch in ARCHES:
        base = X32_BIT if arch is Arch.X32 else 0
        numbers = [*range(base, base + NUMBERS), *(ARM_PRIVATE if arch is Arch.ARM else ())]
        for number in numbers:
            name = libseccomp.name_of(arch, number)
            if name:
                names.add(name)
                by_number[arch][name] = number
        names |= {name for name in (libseccomp.name_of(arch, number) for number in PSEUDO) if name}
    table: Table = {}
    for name in sorted(names):
        resolved = [libseccomp.number_of(arch, name) for arch in ARCHES]
        # Where the library multiplexes a call (socketcall, ipc), only the way from the number gives the direct one.
        row = [by_number[arch].get(name, n if n is not None and n >= 0 else None) for arch, n in zip(ARCHES, resolved, strict=True)]
        table[name] = row
    return table


def listed() -> Table:
    """The calls of the lists above."""
    table: Table = {}
    for name, number in COMMON.items():
        row: list[int | None] = [number | (X32_BIT if arch is Arch.X32 else 0) for arch in ARCHES]
        table[name] = [None if name in NOT_ON.get(arch, ()) else n for arch, n in zip(ARCHES, row, strict=True)]
    for arch, calls in OF_ONE.items():
        for name, number in calls.items():
            table[name] = [number if other is arch else None for other in ARCHES]
    return table | {name: [None] * len(ARCHES) for name in ELSEWHERE if name not in table}


def merged(*tables: Table) -> tuple[Table, list[str]]:
    """All of them together, and where they contradict each other."""
    result: Table = {}
    wrong: list[str] = []
    for table in tables:
        for name, row in table.items():
            old = result.setdefault(name, list(row))
            for n, (was, now) in enumerate(zip(old, row, strict=True)):
                if was is None:
                    old[n] = now
                elif now is not None and now != was:
                    wrong.append(f"{name} on {ARCHES[n].name}: {was} and {now}")
    return result, wrong


def text(table: Table) -> str:
    """One line a call."""
    lines = [f"  {json.dumps(name)}: {json.dumps(table[name])}" for name in sorted(table)]
    head = f'  "": {json.dumps([arch.name for arch in ARCHES])}'
    return "{\n" + ",\n".join([head, *lines]) + "\n}\n"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    written: Table = json.loads(TABLE_FILE.read_text()) if TABLE_FILE.exists() else {}
    written.pop("", None)
    try:
        library = known()
    except BpfenceError as error:
        print(f"libseccomp is not asked: {error}", file=sys.stderr)
        library = {}
    result, wrong = merged(written, listed(), library)
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        return 1
    if arguments.check:
        lacking = merged(written, listed())[0] != written or (TABLE_FILE.exists() and text(written) != TABLE_FILE.read_text())
        if lacking:
            print(f"{TABLE_FILE.relative_to(ROOT)} is not current: run make generate", file=sys.stderr)
        return int(lacking)
    TABLE_FILE.write_text(text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
