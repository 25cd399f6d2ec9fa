# SPDX-License-Identifier: Apache-2.0
"""Nothing in, the words of tracing policies out: types of arguments, operators, actions, options, and which of them go together.

`read` checks policies against these tables, `lower` asks them what a word means. Source: the published reference of cilium.io/v1alpha1.
"""

from __future__ import annotations

from typing import Final

from bpfence.conditions import sensors

ALIASES: Final = {
    "sint32": "int", "int32": "int", "int64": "sint64", "long": "sint64", "ulong": "uint64", "unsigned long": "uint64",
    "sint8": "int8", "sint16": "int16",
}  # fmt: skip
"""Other names of a type, and its own."""
INTEGERS: Final = sensors.INTEGERS
SIGNED: Final = sensors.SIGNED
NUMBERS: Final = frozenset(
    (*INTEGERS, "syscall64", "capability", "bpf_cmd", "cap_inheritable", "cap_permitted", "cap_effective", "kernel_cap_t")
)
"""Types that are compared with numbers."""
CAPABILITY_SETS: Final = sensors.CAPABILITY_SETS
TEXTS: Final = frozenset((
    "string", "char_buf", "char_iovec", "const_buf", "filename", "file", "path", "dentry", "fd", "kiocb", "linux_binprm", "sockaddr_un",
    "data_loc", "net_device", "module", "load_info",
))  # fmt: skip
"""Types that are compared with texts."""
SOCKETS: Final = frozenset(("sock", "socket", "skb"))
TYPES: Final = (
    "auto", *ALIASES, *INTEGERS, *sorted(TEXTS), *sorted(SOCKETS), *sorted(CAPABILITY_SETS), "syscall64",
    "capability", "bpf_cmd", "sockaddr",
    "cred", "user_namespace", "iov_iter", "bpf_attr", "bpf_map", "bpf_prog", "perf_event", "nop",
)  # fmt: skip


def plain(type_: str) -> str:
    """A type's own name."""
    return ALIASES.get(type_, type_)


_EQUAL: Final = ("Equal", "NotEqual")
_ORDER: Final = ("GT", "LT", "GreaterThan", "LessThan", "Mask", "InRange", "NotInRange", "InMap", "NotInMap")
_PARTS: Final = ("Prefix", "NotPrefix", "Postfix", "NotPostfix", "SubString", "SubStringIgnCase")
_ADDRESSES: Final = ("SAddr", "DAddr", "NotSAddr", "NotDAddr")
_PORTS: Final = ("SPort", "DPort", "NotSPort", "NotDPort")
_PRIVILEGED: Final = ("SPortPriv", "DPortPriv", "NotSportPriv", "NotDPortPriv")
_FILE_TYPES: Final = ("FileType", "NotFileType")
WITHOUT_VALUES: Final = frozenset((*_PRIVILEGED, "CapabilitiesGained"))
OPERATORS: Final = (
    *_EQUAL, *_ORDER, *_PARTS, *_ADDRESSES, *_PORTS, *_PRIVILEGED, "Protocol", "Family", "State", "CapabilitiesGained", *_FILE_TYPES,
    "CelExpr",
)  # fmt: skip
"""Operators of matchArgs, matchData and matchReturnArgs."""
MAX_VALUES: Final = {
    **dict.fromkeys(("GT", "LT", "GreaterThan", "LessThan", "Mask", "InRange", "NotInRange"), 4), "SubString": 100, "SubStringIgnCase": 100,
    "CelExpr": 1,
}  # fmt: skip
"""How many values an operator may have. Equal and NotEqual: MAX_EQUAL_NUMBERS of numbers."""
MAX_EQUAL_NUMBERS: Final = 4
MAX_TEXT: Final = {"Prefix": 256, "NotPrefix": 256, "Postfix": 127, "NotPostfix": 127, "SubString": 99, "SubStringIgnCase": 99}
"""How many bytes a value may have."""
MAX_EQUAL_TEXT: Final = 4096
RANGES: Final = frozenset(("InRange", "NotInRange", "InMap", "NotInMap"))
TEXT_OPERATORS: Final = frozenset((*_EQUAL, *_PARTS))
NUMBER_OPERATORS: Final = frozenset((*_EQUAL, *_ORDER, "CelExpr"))


def operators_of(type_: str) -> tuple[str, ...]:
    """The operators that an argument of a type can be tested with."""
    name = plain(type_)
    if name == "auto":
        return OPERATORS
    found: list[str] = []
    if name in INTEGERS or name in ("syscall64", "capability", "bpf_cmd"):
        found += (*_EQUAL, *_ORDER, "CelExpr")
    if name in CAPABILITY_SETS:
        found += (*_EQUAL, "Mask", "CapabilitiesGained")
    if name in TEXTS:
        found += (*_EQUAL, *_PARTS)
    if name in ("file", "path"):
        found += _FILE_TYPES
    if name in SOCKETS:
        found += (*_ADDRESSES, *_PORTS, *_PRIVILEGED, "Protocol", "Family")
    if name in ("sock", "socket"):
        found += ("State",)
    if name == "sockaddr":
        found += ("SAddr", "NotSAddr", "SPort", "NotSPort", "SPortPriv", "NotSportPriv", "Family")
    return tuple(found)


FILE_TYPES: Final = (
    "sock", "socket", "lnk", "link", "reg", "regular", "blk", "block", "dir", "chr", "char", "fifo", "pipe",
)  # fmt: skip
BINARY_OPERATORS: Final = ("In", "NotIn", "Prefix", "NotPrefix", "Postfix", "NotPostfix")
SET_OPERATORS: Final = ("In", "NotIn")
LABEL_OPERATORS: Final = ("In", "NotIn", "Exists", "DoesNotExist")
NAMESPACES: Final = ("Uts", "Ipc", "Mnt", "Pid", "PidForChildren", "Net", "Time", "TimeForChildren", "Cgroup", "User")
CAPABILITY_TYPES: Final = ("Effective", "Inheritable", "Permitted")
OLD_ACTIONS: Final = frozenset(("FollowFD", "UnfollowFD", "CopyFD"))
"""Actions that old policies have, and that do nothing any more."""
_TO_OTHERS: Final = "bpfence asks no other host on behalf of a policy"
_TRACKING: Final = "sockets are not tracked: an event tells the process that acts, and a socket with both its sides"
WITHOUT_EFFECT: Final = {
    **dict.fromkeys(sorted(OLD_ACTIONS), "descriptors are followed without it"), "GetUrl": _TO_OTHERS, "DnsLookup": _TO_OTHERS,
    "TrackSock": _TRACKING, "UntrackSock": _TRACKING,
    "CleanupEnforcerNotification": "enforcers act at once, so no notification is kept that could be cleaned up",
}  # fmt: skip
"""Actions that do nothing here, and why. The event is told."""
ACTIONS: Final = (
    "Post", "NoPost", "Sigkill", "Signal", "Override", "GetUrl", "DnsLookup", "TrackSock", "UntrackSock", "NotifyEnforcer",
    "CleanupEnforcerNotification", "Set", *sorted(OLD_ACTIONS),
)  # fmt: skip
LSM_ACTIONS: Final = frozenset(("Post", "NoPost", "Sigkill", "Signal", "Override"))
SCOPES: Final = ("thread", "process", "global")
SOURCES: Final = ("current_task", "pt_regs")
LIST_TYPES: Final = ("syscalls", "generated_syscalls", "generated_ftrace")
RETURN_ACTIONS: Final = ("Post", "TrackSock", "UntrackSock")
DIGESTS: Final = ("sha1", "sha256", "sha384", "sha512", "build-id")
OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    "disable-kprobe-multi": ("0", "1", "true", "false"), "disable-uprobe-multi": ("0", "1", "true", "false"),
    "override-method": ("fmod-ret", "override-return"), "policy-mode": ("enforce", "monitor"), "sleepable-preload-size": (),
}  # fmt: skip
"""Options of a policy, and their values; none: a number."""
