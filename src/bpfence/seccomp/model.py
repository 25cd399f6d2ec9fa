# SPDX-License-Identifier: Apache-2.0
"""Nothing in, the model of a seccomp profile out: what every other module here, and `policy`, is built on.

The shapes are those of the `linux.seccomp` object of the OCI runtime specification with what Docker adds to it. Pure: `profile` reads and
writes them, `syscalls` knows the calls.
"""

from __future__ import annotations

import enum
import errno as errno_module
from collections.abc import Sequence
from typing import Final

import msgspec

from bpfence.errors import Location
from bpfence.syscalls.architectures import Arch

NOWHERE: Final = Location("<none>")
EPERM: Final = errno_module.EPERM
MAX_ARGUMENT: Final = (1 << 64) - 1
ARGUMENTS: Final = 6


class ProfileAction(enum.Enum):
    """What seccomp does with a call; the values are those of profiles. Docker's SCMP_ACT_KILL is KILL_THREAD."""

    KILL_PROCESS = "SCMP_ACT_KILL_PROCESS"
    KILL_THREAD = "SCMP_ACT_KILL_THREAD"
    TRAP = "SCMP_ACT_TRAP"
    ERRNO = "SCMP_ACT_ERRNO"
    NOTIFY = "SCMP_ACT_NOTIFY"
    TRACE = "SCMP_ACT_TRACE"
    LOG = "SCMP_ACT_LOG"
    ALLOW = "SCMP_ACT_ALLOW"

    @property
    def carries_data(self) -> bool:
        """Whether errnoRet has a meaning: the errno, or the number that the tracer is told."""
        return self in (ProfileAction.ERRNO, ProfileAction.TRACE)

    @property
    def permits(self) -> bool:
        """Whether the call is made."""
        return self in (ProfileAction.ALLOW, ProfileAction.LOG)


RET: Final = {
    ProfileAction.KILL_PROCESS: 0x80000000,
    ProfileAction.KILL_THREAD: 0x00000000,
    ProfileAction.TRAP: 0x00030000,
    ProfileAction.ERRNO: 0x00050000,
    ProfileAction.NOTIFY: 0x7FC00000,
    ProfileAction.TRACE: 0x7FF00000,
    ProfileAction.LOG: 0x7FFC0000,
    ProfileAction.ALLOW: 0x7FFF0000,
}
"""SECCOMP_RET_* of include/uapi/linux/seccomp.h."""


class ArgOp(enum.Enum):
    """How an argument is compared, unsigned and 64 bits wide, with `value`."""

    NE = "SCMP_CMP_NE"
    LT = "SCMP_CMP_LT"
    LE = "SCMP_CMP_LE"
    EQ = "SCMP_CMP_EQ"
    GE = "SCMP_CMP_GE"
    GT = "SCMP_CMP_GT"
    MASKED_EQ = "SCMP_CMP_MASKED_EQ"  # (argument & value) == (value_two & value)


class ProfileFlag(enum.Enum):
    """Flags of seccomp(2) that a profile may ask for."""

    TSYNC = "SECCOMP_FILTER_FLAG_TSYNC"
    LOG = "SECCOMP_FILTER_FLAG_LOG"
    SPEC_ALLOW = "SECCOMP_FILTER_FLAG_SPEC_ALLOW"
    WAIT_KILLABLE_RECV = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"


DEFAULT_FLAGS: Final = (ProfileFlag.SPEC_ALLOW,)
"""What runc (since 1.2) and crun set where a profile has no `flags`; `"flags": []` sets none."""


class ProfileVerdict(msgspec.Struct, frozen=True, order=False):
    """An action with its data: the errno of ERRNO, what the tracer of TRACE is told; otherwise 0."""

    action: ProfileAction
    data: int = 0

    def __str__(self) -> str:
        if self.action is ProfileAction.ERRNO:
            return f"ERRNO({errno_module.errorcode.get(self.data, self.data)})"
        return f"TRACE({self.data})" if self.action is ProfileAction.TRACE else self.action.name

    @property
    def ret(self) -> int:
        """What a filter returns for it."""
        return RET[self.action] | self.data


class Arg(msgspec.Struct, frozen=True):
    """One condition on argument `index` (from 0).

    With MASKED_EQ `value` is the mask, and `value_two` what the masked argument must be. Bits of it outside the mask do not count, because
    libseccomp drops them.
    """

    index: int
    op: ArgOp
    value: int
    value_two: int = 0
    location: Location = NOWHERE

    def holds(self, argument: int) -> bool:
        """Whether a 64-bit argument fulfils it."""
        match self.op:
            case ArgOp.NE:
                return argument != self.value
            case ArgOp.LT:
                return argument < self.value
            case ArgOp.LE:
                return argument <= self.value
            case ArgOp.EQ:
                return argument == self.value
            case ArgOp.GE:
                return argument >= self.value
            case ArgOp.GT:
                return argument > self.value
            case ArgOp.MASKED_EQ:
                return argument & self.value == self.value_two & self.value

    def on(self, bits: int = 64) -> Arg:
        """The condition as runtimes compare it where arguments have `bits` bits: libseccomp cuts both numbers to that width, and
        `value_two` to the mask."""
        value = self.value & (1 << bits) - 1
        second = self.value_two & value if self.op is ArgOp.MASKED_EQ else self.value_two
        return self if (value, second) == (self.value, self.value_two) else msgspec.structs.replace(self, value=value, value_two=second)

    @property
    def is_none(self) -> bool:
        """Whether libseccomp ignores it, as if it had not been written: with an empty mask nothing is compared."""
        return self.op is ArgOp.MASKED_EQ and self.value == 0


class MachineConditions(msgspec.Struct, frozen=True):
    """What `includes` and `excludes` name: capabilities in the bounding set, Go names of the machine (amd64), the oldest kernel as (6,
    1)."""

    caps: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    min_kernel: tuple[int, int] | None = None

    def __bool__(self) -> bool:
        return bool(self.caps or self.arches or self.min_kernel)


class ProfileRule(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to some calls. `errno` is errnoRet, None where it was left out; `places` says where each name stands."""

    names: tuple[str, ...]
    action: ProfileAction
    errno: int | None = None
    args: tuple[Arg, ...] = ()
    includes: MachineConditions = MachineConditions()
    excludes: MachineConditions = MachineConditions()
    comment: str = ""
    location: Location = NOWHERE
    places: tuple[Location, ...] = ()

    @property
    def verdict(self) -> ProfileVerdict:
        """The action with its data: runtimes take EPERM where errnoRet is left out."""
        return _verdict(self.action, self.errno)

    @property
    def alternatives(self) -> tuple[tuple[Arg, ...], ...]:
        """The conditions as runtimes build them: the rule matches when all conditions of any one of these tuples hold.

        Conditions on different arguments are one AND. As soon as one argument has two conditions, every condition becomes a rule of its
        own.
        """
        if len({arg.index for arg in self.args}) == len(self.args):
            return (self.args,)
        return tuple((arg,) for arg in self.args)

    def on(self, bits: int = 64) -> tuple[tuple[Arg, ...], ...]:
        """`alternatives` as runtimes compare them where arguments have `bits` bits. An empty one matches every call; libseccomp takes it
        for a rule without conditions."""
        cut = (tuple(arg.on(bits) for arg in alternative) for alternative in self.alternatives)
        return tuple(tuple(arg for arg in alternative if not arg.is_none) for alternative in cut)

    def matches(self, args: Sequence[int], bits: int = 64) -> bool:
        """Whether the rule is about a call with these (six) arguments, where arguments have `bits` bits. The name is not looked at."""
        most = (1 << bits) - 1
        return any(all(arg.holds(args[arg.index] & most) for arg in alternative) for alternative in self.on(bits))

    def place(self, name: str) -> Location:
        """Where a name stands."""
        index = self.names.index(name)
        return self.places[index] if index < len(self.places) else self.location


class ArchMap(msgspec.Struct, frozen=True):
    """Docker's archMap: on machines of `arch`, the filter is for it and for `subs`."""

    arch: Arch
    subs: tuple[Arch, ...] = ()


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One profile as it was written. `flags` is None where the key was left out, which is not the same as an empty list."""

    default_action: ProfileAction
    default_errno: int | None = None
    architectures: tuple[Arch, ...] = ()
    arch_map: tuple[ArchMap, ...] = ()
    flags: tuple[ProfileFlag, ...] | None = None
    listener_path: str = ""
    listener_metadata: str = ""
    rules: tuple[ProfileRule, ...] = ()
    location: Location = NOWHERE

    @property
    def default(self) -> ProfileVerdict:
        """What happens to calls that no rule is about."""
        return _verdict(self.default_action, self.default_errno)

    @property
    def effective_flags(self) -> tuple[ProfileFlag, ...]:
        """The flags that runtimes set."""
        return DEFAULT_FLAGS if self.flags is None else self.flags


class OmittedRule(msgspec.Struct, frozen=True):
    """A rule that does not hold on a machine, and why: `excludes: CAP_SYS_ADMIN`."""

    rule: ProfileRule
    reason: str


class Effective(msgspec.Struct, frozen=True, kw_only=True):
    """A profile on one machine. `architectures` begins with the machine's own.

    `enosys`: numbers above the greatest that the profile names give ENOSYS in place of the default, so that libraries fall back to older
    calls where a call is newer than the profile. runc does so, unless the default lets calls through or asks a tracer.
    """

    profile: Profile
    default: ProfileVerdict
    architectures: tuple[Arch, ...]
    flags: tuple[ProfileFlag, ...]
    rules: tuple[ProfileRule, ...]
    left_out: tuple[OmittedRule, ...] = ()
    enosys: bool = False


def _verdict(action: ProfileAction, errno: int | None) -> ProfileVerdict:
    return ProfileVerdict(action, EPERM if errno is None else errno) if action.carries_data else ProfileVerdict(action)
