# SPDX-License-Identifier: Apache-2.0
"""The text of a seccomp profile in, the model out; and back to normalised JSON.

The format is the `linux.seccomp` object of the OCI runtime specification with what Docker and containers/common add to it: `archMap`,
`name`, `comment`, `includes`, `excludes`, `errno`, `defaultErrno`. Everything else in this package, and `policy`, is built on `Profile`.
`load` collects every mistake with its place, and gives no profile where there is an error. Whether a name is a system call is not
decided here: profiles are made for many kernels (`check` says so).

`resolve` answers which rules hold on one machine, as runtimes do: excludes before includes, and `architectures` or `archMap`.
"""

from __future__ import annotations

import errno as errno_module
import json
import os
import re
import stat
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from bpfence import names
from bpfence.documents.json_values import JsonValue, decode, parse
from bpfence.documents.placed import MAX_BYTES, DocumentError
from bpfence.errors import Diagnostic, Location, PolicyError
from bpfence.seccomp.findings import Findings
from bpfence.seccomp.model import (
    ARGUMENTS,
    MAX_ARGUMENT,
    NOWHERE,
    ArchMap,
    Arg,
    ArgOp,
    Effective,
    MachineConditions,
    OmittedRule,
    Profile,
    ProfileAction,
    ProfileFlag,
    ProfileRule,
)
from bpfence.syscalls.architectures import Arch
from bpfence.words import quoted, suggest

MAX_ERRNO: Final = 4095
EVERY_KERNEL: Final = (0, 0)
"""What Docker reads an empty minKernel as."""
MAX_RULES: Final = 5000
MAX_NAMES: Final = 50_000
"""Most names of all rules together. Docker's profile has 33 rules and 450 names. Rules are compared with each other, and that must end."""
_ACTION_WORDS: Final = {**{action.value: action for action in ProfileAction}, "SCMP_ACT_KILL": ProfileAction.KILL_THREAD}

DOCKER_CAPABILITIES: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
"""The bounding set of a container that Docker starts without --cap-add and --cap-drop."""


# ---- which rules hold ----


def resolve(
    profile: Profile,
    arch: Arch | None = None,
    caps: Collection[str] = DOCKER_CAPABILITIES,
    kernel: tuple[int, int] | None = None,
    *,
    enosys: bool = False,
) -> Effective:
    """The rules that hold on a machine of `arch` (default: this one) with the bounding set `caps`, on `kernel` (None: newer than any).

    As in Docker, a rule is left out if its excludes name the machine, any of the capabilities, or a kernel that is reached; and if its
    includes do not name the machine, or name a capability that is missing or a kernel that is not reached.
    """
    machine = arch or Arch.native()
    kept: list[ProfileRule] = []
    left: list[OmittedRule] = []
    for rule in profile.rules:
        reason = _excluded(rule.excludes, machine, caps, kernel) or _not_included(rule.includes, machine, caps, kernel)
        if reason:
            left.append(OmittedRule(rule, reason))
        else:
            kept.append(rule)
    return Effective(
        profile=profile,
        default=profile.default,
        architectures=_architectures(profile, machine),
        flags=profile.effective_flags,
        rules=tuple(kept),
        left_out=tuple(left),
        enosys=enosys and profile.default_action not in (ProfileAction.ALLOW, ProfileAction.LOG, ProfileAction.TRACE),
    )


def _architectures(profile: Profile, machine: Arch) -> tuple[Arch, ...]:
    """The architectures that the filter covers. libseccomp begins every filter with the machine's own."""
    listed: tuple[Arch, ...] = profile.architectures
    for entry in profile.arch_map:
        if entry.arch is machine:
            listed = (entry.arch, *entry.subs)
            break
    return tuple(dict.fromkeys((machine, *listed)))


def _reached(kernel: tuple[int, int] | None, least: tuple[int, int]) -> bool:
    return kernel is None or kernel >= least


def _excluded(excludes: MachineConditions, machine: Arch, caps: Collection[str], kernel: tuple[int, int] | None) -> str:
    if machine.go_name in excludes.arches:
        return f"excludes: {machine.go_name}"
    for cap in excludes.caps:
        if cap in caps:
            return f"excludes: {cap}"
    if excludes.min_kernel and _reached(kernel, excludes.min_kernel):
        least = kernel_text(excludes.min_kernel)
        return f"excludes: kernel {least} or later" if least else "excludes: an empty minKernel, which every kernel reaches"
    return ""


def _not_included(includes: MachineConditions, machine: Arch, caps: Collection[str], kernel: tuple[int, int] | None) -> str:
    if includes.arches and machine.go_name not in includes.arches:
        return f"includes: only {', '.join(includes.arches)}"
    for cap in includes.caps:
        if cap not in caps:
            return f"includes: needs {cap}"
    if includes.min_kernel and not _reached(kernel, includes.min_kernel):
        return f"includes: needs kernel {kernel_text(includes.min_kernel)}"
    return ""


def kernel_text(version: tuple[int, int]) -> str:
    """(6, 1) as 6.1; (0, 0), which every kernel reaches, as an empty text."""
    return f"{version[0]}.{version[1]}" if version != EVERY_KERNEL else ""


def kernel_version(text: str) -> tuple[int, int] | None:
    """The version of a kernel release (6.1.0-13-amd64 is (6, 1)); None where there is none."""
    release = re.match(r"(\d{1,3})\.(\d{1,3})(?!\d)", text)
    return (int(release[1]), int(release[2])) if release else None


# ---- reading ----


def load(path: str | os.PathLike[str]) -> tuple[Profile | None, list[Diagnostic]]:
    """The profile of one file, and everything that is wrong with it; None where there is an error."""
    place = Location(str(path))
    try:
        # Without O_NONBLOCK a FIFO would stop us here.
        descriptor = os.open(Path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None, [Diagnostic(place, "this is not a regular file", "give a file that holds a profile", code="cannot-read")]
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return None, [Diagnostic(place, f"the file cannot be read: {reason}", "check the path and its permissions", code="cannot-read")]
    return load_bytes(data, str(path))


def load_valid(path: str | os.PathLike[str]) -> tuple[Profile, list[Diagnostic]]:
    """The profile of one file, and warnings; PolicyError with everything that is wrong where it has mistakes."""
    profile, diagnostics = load(path)
    if profile is None:
        raise PolicyError(diagnostics)
    return profile, diagnostics


def load_bytes(data: bytes, file: str = "<text>") -> tuple[Profile | None, list[Diagnostic]]:
    """The profile of a JSON text; `file` is the name in diagnostics."""
    try:
        root = parse(decode(data, file), file)
    except DocumentError as error:
        return None, [error.diagnostic]
    return read(root)


def read(root: JsonValue) -> tuple[Profile | None, list[Diagnostic]]:
    """The profile of a document that was read already, from JSON or YAML."""
    findings = Findings()
    profile = _Reader(findings).profile(root)
    return (profile if not findings.errors else None), findings.sorted()


_CONFIG_KEYS: Final = ("ociVersion", "linux", "process", "root", "mounts")
_INSTEAD: Final = {
    "errnoret": "did you mean 'errnoRet'?", "defaultErrnoret": "did you mean 'defaultErrnoRet'?", "syscall": "did you mean 'syscalls'?",
    "arguments": "did you mean 'args'?", "archs": "did you mean 'architectures'?", "operator": "did you mean 'op'?",
    "_comment": "only rules carry a \"comment\"", "$schema": "remove it", "description": "only rules carry a \"comment\"",
}  # fmt: skip

_PROFILE_KEYS: Final = (
    "defaultAction", "defaultErrnoRet", "defaultErrno", "architectures", "archMap", "flags", "listenerPath", "listenerMetadata", "syscalls",
)  # fmt: skip
_RULE_KEYS: Final = ("names", "name", "action", "errnoRet", "errno", "args", "comment", "includes", "excludes")
_ARG_KEYS: Final = ("index", "value", "valueTwo", "op")
_CONDITION_KEYS: Final = ("caps", "arches", "minKernel")
_ARCHMAP_KEYS: Final = ("architecture", "subArchitectures")

Entries = dict[str, tuple[JsonValue, JsonValue]]


class Shapes:
    """Objects, lists, texts and numbers of a document. Reports what has another shape, and goes on."""

    ignored: str = "runtimes ignore it without a word"
    """What becomes of a key that is not known."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings

    def level(self, value: JsonValue, what: str, known: Sequence[str], required: Sequence[str] = ()) -> Entries:
        """The entries of an object, whose keys must be `known`. A key with null is like a key that was left out."""
        entries: Entries = {}
        if value.kind != "object":
            self.findings.add(value.location, "wrong-type", f"{what} must be an object, not {value.what}", "write it as {...}")
            return entries
        given = {key.text for key, _ in value.pairs}
        missing = [name for name in required if name not in given]
        needs = f"{what} needs " + " and ".join(repr(name) for name in missing)
        unknown = False
        for key, inner in value.pairs:
            if key.text in entries:
                first = entries[key.text][0].location
                hint = "join the two: runtimes take the last"
                self.findings.add(key.location, "duplicate-key", f"{quoted(key.text)} was already given on line {first.line}", hint)
            elif key.text not in known:
                hint = _INSTEAD.get(key.text) or suggest(key.text, known, "known keys: " + ", ".join(known))
                # A misspelt key is one mistake; it is not also told that the right key is missing.
                also = f"; {needs}" if missing and not unknown else ""
                self.findings.add(key.location, "unknown-key", f"unknown key {quoted(key.text)} in {what}: {self.ignored}{also}", hint)
                unknown = True
            else:
                entries[key.text] = (key, inner)
        if missing and not unknown:
            self.findings.add(value.location, "missing-key", needs, "add " + ", ".join(f'"{name}": ...' for name in missing))
        for name in required:
            if name in entries and entries[name][1].kind == "null":
                self.findings.add(entries[name][0].location, "missing-key", f"{what} needs {name!r}", f'add "{name}": ...')
        return {name: entry for name, entry in entries.items() if entry[1].kind != "null"}

    def items(self, entries: Entries, key: str) -> list[JsonValue]:
        """The elements of a list; nothing where the key is absent."""
        if key not in entries:
            return []
        value = entries[key][1]
        if value.kind != "array":
            self.findings.add(value.location, "wrong-type", f"{key} must be a list, not {value.what}", "write it as [...]")
            return []
        return value.items

    def text(self, value: JsonValue, what: str) -> str | None:
        """A string."""
        if value.kind != "string":
            self.findings.add(value.location, "wrong-type", f"{what} must be a text, not {value.what}", "write it in double quotes")
            return None
        return value.text

    def texts(self, entries: Entries, key: str) -> list[tuple[JsonValue, str]]:
        """A list of strings."""
        texts = [(value, self.text(value, f"an element of {key}")) for value in self.items(entries, key)]
        return [(value, text) for value, text in texts if text is not None]

    def whole(self, value: JsonValue, what: str, most: int) -> int | None:
        """A number from 0 to `most`."""
        if value.kind != "number":
            hint = "write the number without quotes" if value.kind == "string" else "write a whole number"
            self.findings.add(value.location, "wrong-type", f"{what} must be a number, not {value.what}", hint)
            return None
        if not value.text.isdigit():
            negative = value.text.startswith("-")
            hint = "arguments are compared without sign: write 2^64 minus it" if negative else "write a whole number in decimal"
            self.findings.add(value.location, "bad-number", f"{what} cannot be {quoted(value.text)}", hint)
            return None
        number = int(value.text)
        if number > most:
            self.findings.add(value.location, "bad-number", f"{what} is at most {most}, not {value.text}", "write a smaller number")
            return None
        return number


class _Reader(Shapes):
    """One profile: first its shape, then what the values say."""

    def profile(self, root: JsonValue) -> Profile | None:
        if root.kind == "object" and not self.is_profile(root):
            return None
        entries = self.level(root, "a profile", _PROFILE_KEYS, ("defaultAction",))
        if "architectures" in entries and "archMap" in entries and entries["architectures"][1].items and entries["archMap"][1].items:
            place = entries["archMap"][0].location
            what = "architectures and archMap exclude each other: runtimes refuse the profile"
            self.findings.add(place, "both-given", what, "remove one")
        action = self.action(entries, "defaultAction")
        default_errno = self.errno(entries, "defaultErrnoRet", "defaultErrno", action)
        rules = self.rules(entries)
        flags = tuple(flag for flag in (self.flag(value, text) for value, text in self.texts(entries, "flags")) if flag)
        return Profile(
            default_action=action or ProfileAction.ERRNO,
            default_errno=default_errno,
            architectures=self.arches(entries, "architectures"),
            arch_map=tuple(entry for entry in map(self.mapped, self.items(entries, "archMap")) if entry is not None),
            flags=flags if "flags" in entries else None,
            listener_path=self.optional(entries, "listenerPath"),
            listener_metadata=self.optional(entries, "listenerMetadata"),
            rules=rules,
            location=root.location,
        )

    def is_profile(self, root: JsonValue) -> bool:
        """Whether the object is a profile, and not another kind of file that people keep beside profiles."""
        keys = {key.text: key for key, _ in root.pairs}
        if "defaultAction" in keys:
            return True
        if "kind" in keys and "apiVersion" in keys:
            hint = "bpfence seccomp import reads SeccompProfiles, bpfence's and those of the Security Profiles Operator"
            self.findings.add(root.location, "wrong-kind", "this is a Kubernetes object, not a seccomp profile", hint)
            return False
        config_keys = [key for key in _CONFIG_KEYS if key in keys]
        if config_keys:
            hint = "take what stands under linux.seccomp"
            self.findings.add(keys[config_keys[0]].location, "wrong-kind", "this is the configuration of a whole container", hint)
            return False
        return True

    def optional(self, entries: Entries, key: str) -> str:
        return (self.text(entries[key][1], key) or "") if key in entries else ""

    def action(self, entries: Entries, key: str) -> ProfileAction | None:
        if key not in entries:
            return None
        value = entries[key][1]
        text = self.text(value, key)
        if text is None:
            return None
        if text not in _ACTION_WORDS:
            hint = suggest(text, _ACTION_WORDS, "write one of: " + ", ".join(_ACTION_WORDS))
            if f"SCMP_ACT_{text.upper()}" in _ACTION_WORDS:
                hint = f"did you mean 'SCMP_ACT_{text.upper()}'?"
            self.findings.add(value.location, "bad-action", f"{key} cannot be {quoted(text)}", hint)
        return _ACTION_WORDS.get(text)

    def errno(self, entries: Entries, key: str, named: str, action: ProfileAction | None) -> int | None:
        """errnoRet, or `errno` with a name, which containers/common knows. Under other actions runc ignores it, and crun refuses the
        profile."""
        number = self.whole(entries[key][1], key, MAX_ERRNO) if key in entries else None
        if named in entries:
            value = entries[named][1]
            text = self.text(value, named)
            by_name = names.number("errno", text) if text is not None else None
            if text is not None and by_name is None:
                hint = suggest(text, names.known("errno"), "write a name of errno(3)")
                self.findings.add(value.location, "bad-errno", f"Linux has no errno {quoted(text)}", hint)
            elif by_name is not None and number not in (None, by_name):
                self.findings.add(value.location, "both-given", f"{key} and {named} say different things", "give one of them")
            number = by_name if number is None else number
        if number is None or action is None:
            return number
        given = key if key in entries else named
        place = entries[given][1].location
        if not action.carries_data:
            what = f"{given} has no meaning with {action.value}: runc ignores it, crun refuses the profile"
            self.findings.warn(place, "bad-errno", what, "remove it")
            return None
        if action is ProfileAction.ERRNO and number == 0:
            what = "an errno of 0 makes the call do nothing and seem to succeed"
            self.findings.warn(place, "errno-zero", what, "1 is EPERM, 38 is ENOSYS")
        elif action is ProfileAction.ERRNO and number not in errno_module.errorcode:
            self.findings.warn(place, "bad-errno", f"Linux has no errno {number}", "1 is EPERM, 38 is ENOSYS")
        return number

    def flag(self, value: JsonValue, text: str) -> ProfileFlag | None:
        known = {flag.value: flag for flag in ProfileFlag}
        if text not in known:
            hint = suggest(text, known, "write one of: " + ", ".join(known))
            self.findings.add(value.location, "bad-flag", f"unknown flag {quoted(text)}: runtimes refuse the profile", hint)
        return known.get(text)

    def arches(self, entries: Entries, key: str) -> tuple[Arch, ...]:
        known = (self.arch(value, text) for value, text in self.texts(entries, key))
        return tuple(dict.fromkeys(arch for arch in known if arch is not None))

    def arch(self, value: JsonValue, text: str) -> Arch | None:
        known = {arch.value: arch for arch in Arch}
        if text not in known:
            other = next((arch.value for arch in Arch if text.lower() in (arch.go_name, arch.name.lower(), arch.machine)), "")
            hint = f"did you mean {other!r}?" if other else suggest(text, known, "known: " + ", ".join(known))
            self.findings.add(value.location, "bad-architecture", f"unknown architecture {quoted(text)}", hint)
        return known.get(text)

    def mapped(self, value: JsonValue) -> ArchMap | None:
        entries = self.level(value, "an element of archMap", _ARCHMAP_KEYS, ("architecture",))
        if "architecture" not in entries:
            return None
        written = self.text(entries["architecture"][1], "architecture")
        arch = self.arch(entries["architecture"][1], written) if written is not None else None
        subs = self.arches(entries, "subArchitectures")
        return ArchMap(arch, subs) if arch is not None else None

    # ---- rules ----

    def rules(self, entries: Entries) -> tuple[ProfileRule, ...]:
        written = self.items(entries, "syscalls")
        if len(written) > MAX_RULES:
            place = written[MAX_RULES].location
            self.findings.add(place, "json-limit", f"the profile has more than {MAX_RULES} rules", "put names of equal rules together")
            return ()
        rules = tuple(rule for rule in map(self.rule, written) if rule is not None)
        if sum(len(rule.names) for rule in rules) > MAX_NAMES:
            what = f"the rules hold more than {MAX_NAMES} names"
            self.findings.add(entries["syscalls"][0].location, "json-limit", what, "Linux has less than 500 calls")
        return rules

    def rule(self, value: JsonValue) -> ProfileRule | None:
        has_name = value.kind == "object" and any(key.text == "name" for key, _ in value.pairs)
        entries = self.level(value, "a rule", _RULE_KEYS, ("action",) if has_name else ("names", "action"))
        if value.kind != "object":
            return None
        given = self.texts(entries, "names")
        if "name" in entries:
            name = self.text(entries["name"][1], "name")
            if name and entries.get("names") and entries["names"][1].items:
                place = entries["name"][0].location
                self.findings.add(place, "both-given", "name and names exclude each other: runtimes refuse the profile", "remove name")
            given = [*given, (entries["name"][1], name)] if name else given
        empty = next((entries[key][1] for key in ("names", "name") if key in entries), value)
        is_empty = empty.kind == "array" if "names" in entries else empty.kind == "string" and not empty.text
        if not given and not empty.items and is_empty:
            self.findings.warn(empty.location, "empty", "a rule without names is about nothing", "name calls, or remove it")
        for named, text in given:
            if not text:
                self.findings.add(named.location, "empty", "a name must not be empty", "remove it")
        action = self.action(entries, "action")
        return ProfileRule(
            names=tuple(text for _, text in given),
            action=action or ProfileAction.ERRNO,
            errno=self.errno(entries, "errnoRet", "errno", action),
            args=tuple(arg for arg in map(self.argument, self.items(entries, "args")) if arg is not None),
            includes=self.conditions(entries, "includes"),
            excludes=self.conditions(entries, "excludes"),
            comment=self.optional(entries, "comment"),
            location=value.location,
            places=tuple(named.location for named, _ in given),
        )

    def argument(self, value: JsonValue) -> Arg | None:
        entries = self.level(value, "an argument condition", _ARG_KEYS, ("index", "value", "op"))
        numbers = {key: self.whole(entries[key][1], key, MAX_ARGUMENT) for key in ("value", "valueTwo") if key in entries}
        index = self.whole(entries["index"][1], "index", ARGUMENTS - 1) if "index" in entries else None
        known = {op.value: op for op in ArgOp}
        op = None
        if "op" in entries:
            place = entries["op"][1]
            text = self.text(place, "op")
            op = known.get(text) if text is not None else None
            if text is not None and op is None:
                near = f"SCMP_CMP_{text.upper()}"
                hint = f"did you mean {near!r}?" if near in known else suggest(text, known, "write one of: " + ", ".join(known))
                self.findings.add(place.location, "bad-operator", f"op cannot be {quoted(text)}", hint)
        first, second = numbers.get("value"), numbers.get("valueTwo")
        if op is None or index is None or first is None:
            return None
        if op is not ArgOp.MASKED_EQ and second:
            what = f"valueTwo means nothing with {op.value}"
            self.findings.warn(entries["valueTwo"][1].location, "argument-ignored", what, "only SCMP_CMP_MASKED_EQ reads it: remove it")
            second = 0
        return Arg(index, op, first, second or 0, value.location)

    def conditions(self, entries: Entries, key: str) -> MachineConditions:
        if key not in entries:
            return MachineConditions()
        inner = self.level(entries[key][1], key, _CONDITION_KEYS)
        caps: list[str] = []
        for value, text in self.texts(inner, "caps"):
            if names.number("capability", text) is None or not text.startswith("CAP_") or text != text.upper():
                known = [name for name in names.known("capability") if name.startswith("CAP_")]
                full = f"CAP_{text.upper().removeprefix('CAP_')}"
                hint = suggest(full, known, "capability names begin with CAP_")
                self.findings.add(value.location, "bad-capability", f"unknown capability {quoted(text)}", hint)
            caps.append(text)
        arches: list[str] = []
        machines = {arch.go_name for arch in Arch}
        for value, text in self.texts(inner, "arches"):
            if text not in machines:
                other = next((arch.go_name for arch in Arch if text in (arch.value, arch.machine)), "")
                hint = f"did you mean {other!r}?" if other else suggest(text, machines, "known: " + ", ".join(sorted(machines)))
                self.findings.add(value.location, "bad-architecture", f"unknown architecture {quoted(text)} in {key}", hint)
            arches.append(text)
        return MachineConditions(tuple(caps), tuple(arches), self.min_kernel(inner))

    def min_kernel(self, entries: Entries) -> tuple[int, int] | None:
        if "minKernel" not in entries:
            return None
        value = entries["minKernel"][1]
        text = self.text(value, "minKernel")
        if text == "":
            what = "minKernel is empty: Docker takes every kernel for new enough"
            self.findings.warn(value.location, "empty", what, "remove it, or give the version")
            return EVERY_KERNEL
        version = kernel_version(text) if text is not None and re.fullmatch(r"\d{1,3}\.\d{1,3}", text) else None
        if text is not None and (version is None or version == (0, 0)):
            self.findings.add(value.location, "bad-kernel", f"minKernel cannot be {quoted(text)}", 'write it as "6.1"')
        return version


# ---- writing ----


def bare(profile: Profile) -> Profile:
    """The same profile without places, for comparing."""
    rules = tuple(
        msgspec.structs.replace(
            rule, location=NOWHERE, places=(), args=tuple(msgspec.structs.replace(arg, location=NOWHERE) for arg in rule.args)
        )
        for rule in profile.rules
    )
    return msgspec.structs.replace(profile, rules=rules, location=NOWHERE)


def as_document(profile: Profile) -> dict[str, Any]:
    """The profile as the object that JSON and YAML files hold; keys in the order of the specification."""
    document: dict[str, Any] = {"defaultAction": profile.default_action.value}
    if profile.default_errno is not None:
        document["defaultErrnoRet"] = profile.default_errno
    if profile.architectures:
        document["architectures"] = [arch.value for arch in profile.architectures]
    if profile.arch_map:
        document["archMap"] = [
            {"architecture": entry.arch.value, "subArchitectures": [sub.value for sub in entry.subs]} for entry in profile.arch_map
        ]
    if profile.flags is not None:
        document["flags"] = [flag.value for flag in profile.flags]
    if profile.listener_path:
        document["listenerPath"] = profile.listener_path
    if profile.listener_metadata:
        document["listenerMetadata"] = profile.listener_metadata
    document["syscalls"] = [_rule_document(rule) for rule in profile.rules]
    return document


def _rule_document(rule: ProfileRule) -> dict[str, Any]:
    document: dict[str, Any] = {"names": list(rule.names), "action": rule.action.value}
    if rule.errno is not None:
        document["errnoRet"] = rule.errno
    if rule.args:
        document["args"] = [
            {"index": arg.index, "value": arg.value}
            | ({"valueTwo": arg.value_two} if arg.op is ArgOp.MASKED_EQ else {})
            | {"op": arg.op.value}
            for arg in rule.args
        ]
    if rule.comment:
        document["comment"] = rule.comment
    for key, conditions in (("includes", rule.includes), ("excludes", rule.excludes)):
        if conditions:
            document[key] = _conditions_document(conditions)
    return document


def _conditions_document(conditions: MachineConditions) -> dict[str, Any]:
    document: dict[str, Any] = {}
    if conditions.caps:
        document["caps"] = list(conditions.caps)
    if conditions.arches:
        document["arches"] = list(conditions.arches)
    if conditions.min_kernel:
        document["minKernel"] = kernel_text(conditions.min_kernel)
    return document


def dump(profile: Profile) -> bytes:
    """Normalised JSON with a line feed at the end. `load_bytes(dump(p))` is `p`, except for places."""
    return (json.dumps(as_document(profile), indent=2) + "\n").encode()


def plain(effective: Effective) -> Profile:
    """A profile on one machine as a plain OCI profile: without includes and excludes, and with `architectures` in place of archMap."""
    rules = tuple(msgspec.structs.replace(rule, includes=MachineConditions(), excludes=MachineConditions()) for rule in effective.rules)
    return msgspec.structs.replace(effective.profile, architectures=effective.architectures, arch_map=(), rules=rules)
