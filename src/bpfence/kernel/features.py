# SPDX-License-Identifier: Apache-2.0
"""The running kernel in, what it offers to bpfence out: Features, a plain value.

Called by the agent before it loads, and by `bpfence doctor`. Nothing is attached and nothing on the machine changes: types are read
from BTF, files from procfs and securityfs, and a program that returns 0 is loaded for a rarely called hook and dropped again.
Versions are never compared. A probe has three answers; `could not tell` comes with what stood in the way.
"""

from __future__ import annotations

import enum
import errno
import os
import platform
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from bpfence.errors import KernelError
from bpfence.kernel import libbpf
from bpfence.kernel.libbpf import Function, KernelBtf
from bpfence.mounts import mounts

UNTRIED: Final = "needs CAP_BPF and CAP_PERFMON to try"


class Answer(enum.Enum):
    """The outcome of a probe."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "could not tell"


class Probe(msgspec.Struct, frozen=True):
    """One probe's outcome; `detail` says what was seen, or why it could not be told."""

    answer: Answer
    detail: str = ""


class Meaning(msgspec.Struct, frozen=True):
    """A row of the probe table: what a `no` costs, and what can be done."""

    name: str
    title: str
    without: str
    mend: str = ""
    essential: bool = False


class DoctorRow(msgspec.Struct, frozen=True):
    """One line of `bpfence doctor`. `meaning` and `mend` are empty where all is well."""

    name: str
    title: str
    answer: Answer
    detail: str
    meaning: str
    mend: str
    essential: bool


_NO_LSM: Final = "bpfence enforces by fmod_ret programs on the security_* functions instead, where this kernel can load those"
_REFUSED: Final = "where loading gives EPERM to root, a container, a sandbox or another security module refuses it: run on the host itself"

MEANINGS: Final = (
    Meaning("kernel_btf", "kernel types (BTF)", "bpfence can load nothing", "use one built with CONFIG_DEBUG_INFO_BTF=y", essential=True),
    Meaning("cap_bpf", "CAP_BPF or CAP_SYS_ADMIN", "bpfence can load nothing", "run as root or grant CAP_BPF", essential=True),
    Meaning("cap_perfmon", "CAP_PERFMON or CAP_SYS_ADMIN", "bpfence can load nothing", "run as root or grant CAP_PERFMON", essential=True),
    Meaning(
        "cap_sys_admin",
        "CAP_SYS_ADMIN",
        "bpfence cannot find maps and programs by id, nor mount bpffs and securityfs",
        "run as root",
    ),
    Meaning("lsm_active", "bpf in the active LSM list", _NO_LSM, "add bpf to the kernel's lsm= boot parameter"),
    Meaning("lsm_load", "LSM programs can be loaded", _NO_LSM, f"use a kernel built with CONFIG_BPF_LSM=y; {_REFUSED}"),
    Meaning(
        "fmod_ret",
        "fmod_ret programs can be loaded",
        "bpfence can enforce by LSM programs only",
        f"use a kernel built with CONFIG_FUNCTION_TRACER=y and BPF trampolines; {_REFUSED}",
    ),
    Meaning(
        "struct_arguments",
        "hooks with structures passed by value",
        "changes of owner are decided at another hook (inode_setattr), which does not know the mount",
        "use Linux 6.1 or later",
    ),
    Meaning(
        "error_injection",
        "fmod_ret on a system call (setns)",
        "no loss: kernel.setns is decided at the capability check instead",
        "use a kernel built with CONFIG_FUNCTION_ERROR_INJECTION=y",
    ),
    Meaning(
        "security_path",
        "path hooks (CONFIG_SECURITY_PATH)",
        "hooks on inodes are used where there are any; they do not know the mount",
        "use a kernel built with CONFIG_SECURITY_PATH=y",
    ),
    Meaning("ring_buffer", "BPF ring buffers", "bpfence can load nothing", "use Linux 5.8 or later", essential=True),
    Meaning(
        "iter_task",
        "task iterators",
        "processes that run before the agent starts are known only from their first event on",
        "use Linux 5.8 or later",
    ),
    Meaning("bpf_loop", "helper bpf_loop", "no loss: long paths are walked in several steps instead", "use Linux 5.17 or later"),
    Meaning(
        "task_pt_regs",
        "helper bpf_task_pt_regs",
        "no loss: setns(2) is recognised by reading the kernel's stack instead",
        "use Linux 5.15 or later",
    ),
    Meaning(
        "lsm_not_skipped",
        "LSM programs run whenever their hook does",
        "LSM programs can be skipped under load as fmod_ret programs can (see `programs are not preempted`)",
        "use Linux 6.1 or later",
    ),
    Meaning(
        "extensions",
        "programs share the decision engine",
        "no loss: each program has an engine of its own, and the start takes ten times as long",
        "enable the BPF compiler: sysctl net.core.bpf_jit_enable=1",
    ),
    Meaning("task_btf", "helper bpf_get_current_task_btf", "each event costs more", "use Linux 5.11 or later"),
    Meaning(
        "no_preemption",
        "programs are not preempted",
        "under load the kernel can skip an fmod_ret program, because another task was preempted inside it on the same processor: an act"
        " that is denied can then succeed. LSM programs are skipped only where `LSM programs run whenever their hook does` says no",
        "add bpf to the kernel's lsm= boot parameter (from Linux 6.1 on), or boot with preempt=voluntary (Linux before 7.0)",
    ),
    Meaning("task_storage", "task storage", "no loss: records of processes are in a hash map", "use Linux 5.11 or later"),
    Meaning(
        "inode_storage",
        "inode storage",
        "reads and writes cost more where rules are about them: each is decided anew",
        "use Linux 5.10 or later, built with CONFIG_BPF_LSM=y",
    ),
    Meaning(
        "attach_cookie", "helper bpf_get_attach_cookie", "no generic sensors: policies with them are refused", "use Linux 5.15 or later"
    ),
    Meaning("iter_num", "number iterators", "no loss: loading takes longer", "use Linux 6.4 or later"),
    Meaning(
        "entry_allocator",
        "hash tables allocate in any context",
        "no loss: room for the records that wait for their system call, 1.9 MiB, is taken at the start",
        "use Linux 6.1 or later",
    ),
    Meaning("rdonly_cast", "kfunc bpf_rdonly_cast", "walking a path costs more", "use Linux 6.2 or later"),
    Meaning(
        "cgroup2",
        "cgroup v2 hierarchy",
        "rules about cgroups and containers do not work, nor does `bpfence exec`",
        "mount cgroup2, or boot with systemd.unified_cgroup_hierarchy=1",
    ),
    Meaning(
        "bpffs",
        "BPF file system",
        "`bpfence run` mounts it on /sys/fs/bpf; where it cannot, enforcement ends with the agent",
        "mount -t bpf bpf /sys/fs/bpf",
    ),
    Meaning(
        "unprivileged_bpf",
        "bpf(2) refused to unprivileged users",
        "unprivileged users can load BPF programs of their own",
        "sysctl kernel.unprivileged_bpf_disabled=2",
    ),
    Meaning(
        "lockdown",
        "kernel memory may be read (lockdown below confidentiality)",
        "bpfence can load nothing",
        "boot with lockdown=integrity or lower",
        essential=True,
    ),
)
"""Every probe, in the order `bpfence doctor` shows."""

MEANING_BY_NAME: Final = {meaning.name: meaning for meaning in MEANINGS}

LSM_ID_BPF: Final = 110
_QUIET_HOOK: Final = "bpf_lsm_settime"
_QUIET_FUNCTION: Final = "security_settime64"
"""What the trial programs are loaded for: called only when the clock is set, and they are never attached."""

SYSCALL_PREFIX: Final = {"x86_64": "__x64_sys_", "aarch64": "__arm64_sys_"}
_STATUS: Final = Path("/proc/self/status")
_UID_MAP: Final = Path("/proc/self/uid_map")
_BTF: Final = Path("/sys/kernel/btf/vmlinux")
PREFIXES: Final = ("bpf_lsm_", "security_", "__ia32_", "do_fil", "d_move", "ksys_setsid", "inet_recvmsg", "inet6_recvmsg")
"""What the names of the functions begin with that programs can be attached to, but for those of system calls."""
CAPABILITIES: Final = {"cap_sys_admin": 21, "cap_perfmon": 38, "cap_bpf": 39}


class Features(msgspec.Struct, frozen=True):
    """What a kernel offers.

    `functions`: parameters' types by function, for every one that begins with one of PREFIXES or is a system call, and
    `btf_trace_*` (these without parameters). `cgroup2`: where the hierarchy is mounted. `prototypes`: BTF's ids of what types these
    functions have, which is one id where the kernel takes them for one type. `silent`: those of the functions that return nothing.
    """

    probes: Mapping[str, Probe]
    functions: Mapping[str, tuple[str, ...]]
    cgroup2: str = ""
    machine: str = "x86_64"
    prototypes: Mapping[str, int] = {}
    silent: frozenset[str] = frozenset()

    def answer(self, name: str) -> Answer:
        probe = self.probes.get(name)
        return probe.answer if probe else Answer.UNKNOWN

    @property
    def flavour(self) -> str:
        """How hooks are attached: "lsm", "fmod_ret", or "" where neither works."""
        if self.answer("lsm_active") is Answer.YES and self.answer("lsm_load") is Answer.YES:
            return "lsm"
        return "fmod_ret" if self.answer("fmod_ret") is Answer.YES else ""

    @property
    def enforces(self) -> Answer:
        """Whether enforcement is possible; NO only where each way is known not to be."""
        if self.flavour:
            return Answer.YES
        no_lsm = Answer.NO in (self.answer("lsm_active"), self.answer("lsm_load"))
        return Answer.NO if no_lsm and self.answer("fmod_ret") is Answer.NO else Answer.UNKNOWN

    def constant(self, name: str) -> int:
        """The value of a constant `have_<probe>` of the BPF object; only a sure yes is 1. KeyError: there is no such probe."""
        return int(self.answer(MEANING_BY_NAME[name.lower().removeprefix("have_")].name) is Answer.YES)

    def rows(self) -> tuple[DoctorRow, ...]:
        """What `bpfence doctor` shows of the probes."""
        rows = []
        for row in MEANINGS:
            probe = self.probes.get(row.name, Probe(Answer.UNKNOWN, "not probed"))
            # What was not tried for want of a capability is not explained: that the capability is missing is said by its own row.
            well = probe.answer is Answer.YES or probe.detail == UNTRIED
            rows.append(
                DoctorRow(
                    row.name, row.title, probe.answer, probe.detail, "" if well else row.without, "" if well else row.mend, row.essential
                )
            )
        return tuple(rows)


def probe() -> Features:
    """Asks the running kernel. Raises nothing for what is missing: that is an answer."""
    capabilities = _capabilities()
    probes = dict(capabilities)
    functions: dict[str, tuple[str, ...]] = {}
    prototypes: dict[str, int] = {}
    silent: frozenset[str] = frozenset()
    privileged = all(capabilities[name].answer is Answer.YES for name in ("cap_bpf", "cap_perfmon"))
    lsm = _securityfs("lsm")
    probes["lsm_active"] = _lsm_active(lsm)
    probes["lockdown"] = _lockdown(_securityfs("lockdown"))
    probes["unprivileged_bpf"] = _unprivileged()
    probes["no_preemption"] = _no_preemption(_debugfs("sched/preempt"), os.uname().version)
    cgroup2 = _mounted("cgroup2")
    probes["cgroup2"] = Probe(Answer.YES, cgroup2) if cgroup2 else Probe(Answer.NO, "not mounted")
    bpffs = _mounted("bpf")
    probes["bpffs"] = Probe(Answer.YES, bpffs) if bpffs else Probe(Answer.NO, "not mounted")
    try:
        with KernelBtf() as btf:
            probes["kernel_btf"] = Probe(Answer.YES, str(_BTF))
            known: dict[str, libbpf.Function] = {}
            for prefix in (*PREFIXES, _syscall_prefix()):
                known |= btf.functions(prefix)
            functions = {name: function.parameters for name, function in known.items()}
            prototypes = {name: function.prototype for name, function in known.items()}
            silent = frozenset(name for name, function in known.items() if not function.returns)
            functions |= dict.fromkeys(btf.typedefs("btf_trace_"), ())
            probes |= _from_btf(btf, functions)
            probes["lsm_not_skipped"] = _lsm_not_skipped(btf.has_function("__bpf_prog_enter_recur"), os.uname().release)
            probes |= _by_loading(known, privileged)
    except KernelError as error:
        # A file that is there and cannot be read says nothing of the kernel: a container may hide it.
        hidden = _BTF.exists() and not os.access(_BTF, os.R_OK)
        probes["kernel_btf"] = Probe(Answer.UNKNOWN if hidden else Answer.NO, str(error).splitlines()[0])
    return Features(probes, functions, cgroup2, platform.machine(), prototypes, silent)


def _from_btf(btf: KernelBtf, functions: Mapping[str, tuple[str, ...]]) -> dict[str, Probe]:
    helpers = btf.enumerators("bpf_func_id")
    map_types = btf.enumerators("bpf_map_type")

    def helper(name: str) -> Probe:
        if not helpers:
            return Probe(Answer.UNKNOWN, "enum bpf_func_id is not in the kernel's BTF")
        return Probe(Answer.YES if f"BPF_FUNC_{name}" in helpers else Answer.NO)

    def map_type(name: str) -> Probe:
        if not map_types:
            return Probe(Answer.UNKNOWN, "enum bpf_map_type is not in the kernel's BTF")
        return Probe(Answer.YES if f"BPF_MAP_TYPE_{name}" in map_types else Answer.NO)

    return {
        "bpf_loop": helper("loop"),
        "task_btf": helper("get_current_task_btf"),
        "task_pt_regs": helper("task_pt_regs"),
        "attach_cookie": helper("get_attach_cookie"),
        "ring_buffer": map_type("RINGBUF"),
        "task_storage": map_type("TASK_STORAGE"),
        "inode_storage": map_type("INODE_STORAGE"),
        "iter_num": Probe(Answer.YES if btf.has_function("bpf_iter_num_new") else Answer.NO),
        # Hash tables use it since it is there (fba1a1c6c912, v6.1). Before, a program that interrupts the allocator could not allocate.
        "entry_allocator": Probe(Answer.YES if btf.has_structure("bpf_mem_alloc") else Answer.NO),
        "rdonly_cast": Probe(Answer.YES if btf.has_function("bpf_rdonly_cast") else Answer.NO),
        "iter_task": Probe(Answer.YES if btf.has_function("bpf_iter_task") else Answer.NO),
        "security_path": Probe(Answer.YES if "bpf_lsm_path_unlink" in functions or "security_path_unlink" in functions else Answer.NO),
    }


def _by_loading(known: Mapping[str, Function], privileged: bool) -> dict[str, Probe]:
    def trial(target: str, load: Callable[[Function], int]) -> Probe:
        if target not in known:
            return Probe(Answer.NO, f"the kernel has no function {target}")
        if not privileged:
            return Probe(Answer.UNKNOWN, UNTRIED)
        return _refusal(load(known[target]))

    def hook(target: str) -> Probe:
        return trial(target, libbpf.try_hook)

    def function(target: str) -> Probe:
        return trial(target, libbpf.try_modify_return)

    answers = {
        "lsm_load": hook(_QUIET_HOOK),
        "fmod_ret": function(_QUIET_FUNCTION),
        "error_injection": function(_syscall_prefix() + "setns"),
    }
    if answers["lsm_load"].answer is Answer.YES:
        answers["extensions"] = trial(_QUIET_HOOK, lambda function: libbpf.try_extension(function, modify_return=False))
    else:
        answers["extensions"] = trial(_QUIET_FUNCTION, lambda function: libbpf.try_extension(function, modify_return=True))
    by_value = hook("bpf_lsm_path_chown") if answers["lsm_load"].answer is Answer.YES else function("security_path_chown")
    return {**answers, "struct_arguments": by_value}


def _refusal(number: int) -> Probe:
    """A load's errno as an answer. What is not a clear refusal is not taken for one."""
    if not number:
        return Probe(Answer.YES)
    name = errno.errorcode.get(number, str(number))
    if number == errno.EPERM and _filtered():
        return Probe(Answer.UNKNOWN, "loading gives EPERM, which may be the seccomp filter that this process is under")
    refused = number in (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP, libbpf.ENOTSUPP)
    return Probe(Answer.NO if refused else Answer.UNKNOWN, f"loading gives {name}")


def _filtered() -> bool:
    """Whether a seccomp filter is on this process, as container runtimes put one on theirs."""
    try:
        return _STATUS.read_text(encoding="ascii", errors="replace").partition("\nSeccomp:")[2].split()[:1] == ["2"]
    except OSError:
        return False


def _syscall_prefix() -> str:
    return SYSCALL_PREFIX.get(platform.machine(), "__x64_sys_")


def _capabilities() -> dict[str, Probe]:
    """The effective capabilities of this process; CAP_SYS_ADMIN implies the two newer ones (Linux 5.8, a17b53c4a4b5)."""
    try:
        status = _STATUS.read_text(encoding="ascii", errors="replace")
        effective = int(status.partition("CapEff:")[2].split()[0], 16)
    except (OSError, ValueError, IndexError) as error:
        return dict.fromkeys(CAPABILITIES, Probe(Answer.UNKNOWN, f"/proc/self/status: {error}"))
    held = {name: bool(effective >> bit & 1) for name, bit in CAPABILITIES.items()}
    if any(held.values()) and _in_user_namespace():
        return dict.fromkeys(CAPABILITIES, Probe(Answer.NO, "held in a user namespace only, which does not count for BPF"))
    return {name: Probe(Answer.YES if own or held["cap_sys_admin"] else Answer.NO) for name, own in held.items()}


def _in_user_namespace() -> bool:
    """Whether this is not the host's user namespace, which alone maps every user to itself. user_namespaces(7)."""
    try:
        return _UID_MAP.read_text(encoding="ascii", errors="replace").split() != ["0", "0", "4294967295"]
    except OSError:
        return False  # a kernel without user namespaces


def _securityfs(name: str) -> str | None:
    try:
        return Path("/sys/kernel/security", name).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        text = libbpf.read_unmounted("securityfs", name)
        return text.strip() if text is not None else None


def _debugfs(name: str) -> str | None:
    try:
        return Path("/sys/kernel/debug", name).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        text = libbpf.read_unmounted("debugfs", name)
        return text.strip() if text is not None else None


_PREEMPTIBLE: Final = frozenset({"full", "lazy"})
"""Preemption models in which a task can be preempted in the kernel."""


def _no_preemption(models: str | None, build: str) -> Probe:
    """`models` is sched/preempt of debugfs, such as "none voluntary (full) lazy"; `build` what uname says of the kernel's build. A kernel
    without PREEMPT in it never preempts; one with PREEMPT_DYNAMIC does as it was booted.
    """
    if models is not None and (active := re.search(r"\((\w+)\)", models)):
        return Probe(Answer.NO if active[1] in _PREEMPTIBLE else Answer.YES, active[1])
    if "PREEMPT" not in build:
        return Probe(Answer.YES, "a kernel without preemption")
    if "PREEMPT_DYNAMIC" in build:
        return Probe(Answer.UNKNOWN, "chosen at boot, and debugfs cannot be read")
    return Probe(Answer.NO, "full")


def _lsm_active(listed: str | None) -> Probe:
    if listed is not None:
        return Probe(Answer.YES if "bpf" in listed.split(",") else Answer.NO, listed)
    numbers = libbpf.active_lsms()
    if numbers is not None:
        return Probe(Answer.YES if LSM_ID_BPF in numbers else Answer.NO, "by lsm_list_modules(2)")
    return Probe(Answer.UNKNOWN, "securityfs is not mounted on /sys/kernel/security and could not be read otherwise")


def _lsm_not_skipped(parted: bool, release: str) -> Probe:
    """Since v5.12 (ca06f55b9002) the kernel skips a program of a trampoline that is active on the processor already; since v6.1
    (271de525e1d7) that is a way of entering programs of its own, `parted`, and LSM programs do not take it.
    """
    if parted:
        return Probe(Answer.YES)
    version = re.match(r"(\d+)\.(\d+)", release)
    if version is None:
        return Probe(Answer.UNKNOWN, f"release {release}")
    before = (int(version[1]), int(version[2])) < (5, 12)
    return Probe(Answer.YES if before else Answer.NO, f"release {release}")


def _lockdown(text: str | None) -> Probe:
    """`none [integrity] confidentiality`: only the last level takes bpf_probe_read_kernel away."""
    if text is None:
        # Without CONFIG_SECURITY_LOCKDOWN_LSM there is no such file.
        readable = _securityfs("lsm") is not None
        return Probe(Answer.YES, "no lockdown file") if readable else Probe(Answer.UNKNOWN, "securityfs cannot be read")
    return Probe(Answer.NO if "[confidentiality]" in text else Answer.YES, text)


def _unprivileged() -> Probe:
    try:
        value = int(Path("/proc/sys/kernel/unprivileged_bpf_disabled").read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        return Probe(Answer.UNKNOWN, str(error))
    return Probe(Answer.YES if value else Answer.NO, f"kernel.unprivileged_bpf_disabled = {value}")


def _mounted(kind: str) -> str:
    """Where a file system of this kind is mounted, the shortest path first; "" where none is."""
    try:
        return min((mount.point for mount in mounts() if mount.kind == kind), key=len, default="")
    except OSError:
        return ""
