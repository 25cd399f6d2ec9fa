# SPDX-License-Identifier: Apache-2.0
"""A profile on one machine in, other formats out; and the Security Profiles Operator's object in, a profile out.

Called by `bpfence seccomp export` and `import`. What a format cannot say is a finding, never dropped without a word. Formats that carry a
filter, or from which a runtime makes one, are refused where the filter would not mean what the profile says.
"""

from __future__ import annotations

import errno as errno_module
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, get_args

import msgspec

from bpfence.documents.json_values import JsonValue
from bpfence.errors import CompileError, Diagnostic, Location
from bpfence.pods.kinds import CONTAINER_SECCOMP, CONTAINERS, POD_SECCOMP, TEMPLATES, annotated_profile
from bpfence.seccomp.filter import Optimize, pseudo_code
from bpfence.seccomp.findings import Findings
from bpfence.seccomp.interpret import compile_verified, differences
from bpfence.seccomp.merge import normalised
from bpfence.seccomp.model import Effective, Profile, ProfileAction, ProfileFlag, ProfileRule, ProfileVerdict
from bpfence.seccomp.objects import as_object, check_name, field
from bpfence.seccomp.profile import dump, plain, read
from bpfence.syscalls.architectures import Arch
from bpfence.words import quoted

Format = Literal["bpf", "pfc", "oci", "systemd", "podman-run", "k8s", "seccompprofile"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
Conditional = Literal["deny", "allow"]
OperatorVersion = Literal["v1", "v1beta1"]

OPERATOR_GROUP: Final = "security-profiles-operator.x-k8s.io"
OPERATOR_KIND: Final = "SeccompProfile"
MAX_INT64: Final = (1 << 63) - 1
NOT_IN_OPERATOR: Final = frozenset({Arch.LOONGARCH64, Arch.M68K, Arch.SH, Arch.SHEB})
LINE: Final = 100


class ExportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to export.

    `name` is the name of the object and of the file, without ending. `path` is where the profile lies: for podman a file; for Kubernetes a
    path below the kubelet's seccomp folder, or empty: where the operator puts it. `manifest` is a Pod, or an object that makes Pods.
    """

    name: str = "profile"
    path: str = ""
    optimize: Optimize = "auto"
    conditional: Conditional = "deny"
    operator: OperatorVersion = "v1"
    manifest: JsonValue | None = None


class Exported(msgspec.Struct, frozen=True):
    """The result, and what it does not say."""

    data: bytes
    findings: tuple[Diagnostic, ...] = ()


def export(effective: Effective, format: Format, options: ExportOptions) -> Exported:
    """A profile in another format. CompileError where the filter would not mean what the profile says."""
    findings = Findings()
    if format in ("oci", "podman-run", "k8s", "seccompprofile", "pfc"):
        wrong = differences(effective, optimize=options.optimize)
        if wrong:
            raise CompileError(wrong)
    data = _WRITERS[format](effective, options, findings)
    return Exported(data, tuple(findings.sorted()))


# ---- filters and profiles ----


def _bpf(effective: Effective, options: ExportOptions, findings: Findings) -> bytes:
    return compile_verified(effective, optimize=options.optimize).program


def _pfc(effective: Effective, options: ExportOptions, findings: Findings) -> bytes:
    return pseudo_code(effective, optimize=options.optimize).encode()


def _oci(effective: Effective, options: ExportOptions, findings: Findings) -> bytes:
    return dump(normalised(plain(effective)))


def _podman(effective: Effective, options: ExportOptions, findings: Findings) -> bytes:
    path = options.path or f"{options.name}.json"
    lines = [
        "podman run",
        f"--security-opt seccomp={shlex.quote(path)}",
        "--security-opt no-new-privileges",
        "--cap-drop all",
        "--read-only",
        "--user 65534:65534",
        "IMAGE",
    ]
    if effective.left_out:
        what = "rules with includes and excludes are resolved by podman on the machine: it may come to other ones than here"
        findings.note(effective.profile.location, "cannot-express", what, "export --format oci gives the profile as resolved here")
    return (" \\\n  ".join(lines) + "\n").encode()


# ---- systemd ----

# systemd.exec(5), SystemCallArchitectures=
_SYSTEMD_ARCHES: Final = {Arch.X86_64: "x86-64", Arch.X86: "x86", Arch.X32: "x32", Arch.AARCH64: "arm64", Arch.ARM: "arm"}


def _systemd(effective: Effective, options: ExportOptions, findings: Findings) -> bytes:
    """SystemCall… lines for a [Service] section, as systemd.exec(5) has them."""
    profile = normalised(plain(effective))
    place = effective.profile.location
    for problem in _unsaid_by_systemd(effective):
        findings.warn(place, "cannot-express", problem, "use the profile with a container runtime, or bpfence seccomp run")
    lines = ["[Service]", "NoNewPrivileges=yes"]
    arches = [_SYSTEMD_ARCHES[arch] for arch in effective.architectures if arch in _SYSTEMD_ARCHES]
    lines.append("SystemCallArchitectures=" + " ".join(arches))
    names = _systemd_names(effective, profile, options, findings)
    if effective.default.action is ProfileAction.ERRNO:
        lines.append(f"SystemCallErrorNumber={_errno_name(effective.default.data)}")
    if effective.default.action.permits:
        lines += _wrapped("SystemCallFilter=~", names["denied"])
    else:
        lines += _wrapped("SystemCallFilter=", names["permitted"] or ["exit_group"])
        lines += _wrapped("SystemCallFilter=~", names["denied"])
        what = "systemd always adds its group @default to a list of permitted calls (systemd-analyze syscall-filter @default)"
        findings.note(place, "cannot-express", what, "")
    lines += _wrapped("SystemCallLog=", names["logged"])
    if effective.default.action is ProfileAction.LOG:
        lines += _wrapped("SystemCallLog=~", sorted({*names["permitted"], *(name.partition(":")[0] for name in names["denied"])}))
    return ("\n".join(lines) + "\n").encode()


def _unsaid_by_systemd(effective: Effective) -> list[str]:
    default = effective.default.action
    unsaid = []
    if default in (ProfileAction.TRAP, ProfileAction.TRACE, ProfileAction.NOTIFY, ProfileAction.KILL_THREAD):
        unsaid.append(f"systemd kills the process where the profile's default is {effective.default}")
    missing = [arch.value for arch in effective.architectures if arch not in _SYSTEMD_ARCHES]
    if missing:
        unsaid.append(f"{', '.join(missing)} is left out")
    if ProfileFlag.LOG in effective.flags:
        unsaid.append(f"{ProfileFlag.LOG.value} is left out")
    return unsaid


def _systemd_names(effective: Effective, profile: Profile, options: ExportOptions, findings: Findings) -> dict[str, list[str]]:
    """Names by what systemd is to do with them. A name whose rules have conditions goes where `conditional` says."""
    names: dict[str, list[str]] = {"permitted": [], "denied": [], "logged": []}
    places = {name: rule.place(name) for rule in reversed(effective.rules) for name in rule.names}
    done: set[str] = set()
    for rule in sorted(profile.rules, key=lambda rule: bool(rule.args)):  # a rule without conditions decides alone
        for name in rule.names:
            if name in done:
                continue
            done.add(name)
            verdict = rule.verdict
            if rule.args:
                verdict = _without_conditions(effective, rule, name, options.conditional, findings, places[name])
            if verdict.action.permits:
                names["permitted"].append(name)
                if verdict.action is ProfileAction.LOG:
                    names["logged"].append(name)
            elif verdict != effective.default:
                names["denied"].append(name + _systemd_suffix(verdict, name, places[name], findings))
    return {kind: sorted(of_kind) for kind, of_kind in names.items()}


def _without_conditions(
    effective: Effective, rule: ProfileRule, name: str, conditional: Conditional, findings: Findings, place: Location
) -> ProfileVerdict:
    """What becomes of a call with conditions on arguments, which systemd cannot look at."""
    passing = (
        rule.verdict
        if rule.action.permits
        else effective.default
        if effective.default.action.permits
        else ProfileVerdict(ProfileAction.ALLOW)
    )
    denied = effective.default if rule.action.permits else rule.verdict
    manner = "allowed" if conditional == "allow" else "denied"
    other = "deny" if conditional == "allow" else "allow"
    what = f"SystemCallFilter= cannot look at arguments: {name} is {manner} whatever they are"
    findings.warn(place, "cannot-express", what, f"--conditional {other} takes the other side")
    return passing if conditional == "allow" else denied


def _systemd_suffix(verdict: ProfileVerdict, name: str, place: Location, findings: Findings) -> str:
    if verdict.action is ProfileAction.ERRNO:
        return f":{_errno_name(verdict.data)}"
    if verdict.action in (ProfileAction.TRAP, ProfileAction.TRACE, ProfileAction.NOTIFY):
        what = f"{verdict} for {name} cannot be said: systemd kills the process"
        findings.warn(place, "cannot-express", what, "")
    return ":kill"


def _errno_name(number: int) -> str:
    return errno_module.errorcode.get(number, str(number))


def _wrapped(key: str, names: list[str]) -> list[str]:
    """One assignment a line; systemd joins them."""
    lines: list[str] = []
    row: list[str] = []
    for name in names:
        if row and len(key) + sum(map(len, row)) + len(row) + len(name) > LINE:
            lines.append(key + " ".join(row))
            row = []
        row.append(name)
    return [*lines, key + " ".join(row)] if row else lines


# ---- Kubernetes ----


def _kubernetes(effective: Effective, options: ExportOptions, findings: Findings) -> bytes:
    """The operator's object, and a Pod that uses it: the given one brought up to date, or a hardened one to start from."""
    path = options.path or f"operator/{options.name}.json"
    profile_object = operator_object(effective, options.name, options.operator, findings)
    if options.manifest is None:
        pod = _hardened_pod(options.name, path)
    else:
        pod = modern_manifest(options.manifest, path, bool(options.path), findings)
    head = f"# The profile as an object of the Security Profiles Operator, which writes it to {path} on every node.\n"
    head += "# Without the operator: put the profile (--format oci) under /var/lib/kubelet/seccomp/ on every node.\n"
    if options.path:
        head = f"# The Pod reads {path} below /var/lib/kubelet/seccomp/ of its node; the operator would write its own copy.\n"
    return (head + _yaml(profile_object) + "---\n" + _yaml(pod)).encode()


def _object(effective: Effective, options: ExportOptions, findings: Findings) -> bytes:
    """bpfence's own object, bound to nobody."""
    return _yaml(as_object(normalised(plain(effective)), options.name, effective.profile.location)).encode()


def _yaml(document: Mapping[str, Any]) -> str:
    import yaml  # imported late: most formats do without

    return str(yaml.safe_dump(dict(document), sort_keys=False, default_flow_style=False, width=120, allow_unicode=False))


def operator_object(effective: Effective, name: str, version: OperatorVersion, findings: Findings) -> dict[str, Any]:
    """The profile as a SeccompProfile of the Security Profiles Operator (api/seccompprofile of its repository)."""
    place = effective.profile.location
    profile = normalised(plain(effective))
    check_name(name, place)
    spec: dict[str, Any] = {"defaultAction": profile.default_action.value}
    if effective.default.action.carries_data and effective.default.data != errno_module.EPERM:
        what = f"the object has no defaultErrnoRet: runtimes will give EPERM in place of {effective.default}"
        findings.warn(place, "cannot-express", what, "")
    for arch in profile.architectures:
        if arch in NOT_IN_OPERATOR:
            findings.warn(place, "cannot-express", f"the operator does not know {arch.value}: it is left out", "")
    spec["architectures"] = [arch.value for arch in profile.architectures if arch not in NOT_IN_OPERATOR]
    if profile.listener_path:
        spec["listenerPath"] = profile.listener_path
    if profile.listener_metadata:
        spec["listenerMetadata"] = profile.listener_metadata
    if profile.flags is not None:
        spec["flags"] = [flag.value for flag in profile.flags]
    spec["syscalls"] = [_operator_rule(rule, version, place, findings) for rule in profile.rules]
    return {"apiVersion": f"{OPERATOR_GROUP}/{version}", "kind": OPERATOR_KIND, "metadata": {"name": name}, "spec": spec}


def _operator_rule(rule: ProfileRule, version: OperatorVersion, place: Location, findings: Findings) -> dict[str, Any]:
    written: dict[str, Any] = {"names": list(rule.names), "action": rule.action.value}
    if rule.errno is not None:
        if rule.errno == 0:
            what = f"errnoRet 0 of {rule.names[0]} is the same as none to the operator: runtimes will give EPERM"
            findings.warn(place, "cannot-express", what, "")
        written["errnoRet"] = str(rule.errno) if version == "v1beta1" else rule.errno  # in v1beta1 this is a text
    if rule.args:
        written["args"] = []
    for arg in rule.args:
        if arg.value > MAX_INT64 or arg.value_two > MAX_INT64:
            what = f"the condition on argument {arg.index} of {rule.names[0]} has a value above 2^63: the operator's object cannot hold it"
            raise CompileError([Diagnostic(place, what, "use --format seccompprofile, or a file: --format oci", code="cannot-express")])
        second = {"valueTwo": arg.value_two} if arg.value_two else {}
        written["args"].append({"index": arg.index, "value": arg.value, **second, "op": arg.op.value})
    return written


def _hardened_pod(name: str, path: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "Localhost", "localhostProfile": path}},
            "containers": [{"name": "app", "image": "IMAGE", "securityContext": _hardened_container()}],
        },
    }


def _hardened_container() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip


def modern_manifest(root: JsonValue, path: str, replace: bool, findings: Findings) -> dict[str, Any]:
    """The same Pod, or object that makes Pods, in today's API: annotations of the alpha API become fields and are removed.

    A Pod without a profile of its own gets the one at `path`; with `replace`, so does one with another Localhost profile. Containers get
    what they lack of a hardened security context; what they say already stays. CompileError where the document is of another kind.
    """
    kind = _text_of(root, "kind")
    if root.kind != "object" or kind not in TEMPLATES:
        what = f"a manifest of kind {quoted(kind)} has no Pod" if kind else "this is not a Kubernetes manifest"
        raise CompileError([Diagnostic(root.location, what, "known kinds: " + ", ".join(TEMPLATES), code="wrong-kind")])
    document: dict[str, Any] = as_plain(root)
    holder, written = document, root
    for key in TEMPLATES[kind]:
        holder, written = _inner(holder, key), field(written, key)
    _modern_pod(holder, written, path, replace, findings)
    return document


def _modern_pod(pod: dict[str, Any], written: JsonValue, path: str, replace: bool, findings: Findings) -> None:
    notes = _annotations(pod, written, findings)
    spec, spec_value = _inner(pod, "spec"), field(written, "spec")
    context = _inner(spec, "securityContext")
    profile = context.get("seccompProfile")
    if POD_SECCOMP in notes and profile is None:
        context["seccompProfile"] = profile = notes[POD_SECCOMP]
    if profile is None or (replace and isinstance(profile, dict) and profile.get("type") == "Localhost"):
        context["seccompProfile"] = {"type": "Localhost", "localhostProfile": path}
    for kind in CONTAINERS:
        containers = spec.get(kind)
        values = field(spec_value, kind).items
        for number, container in enumerate(containers if isinstance(containers, list) else []):
            if isinstance(container, dict):
                place = values[number].location
                _modern_container(container, notes.get(f"{CONTAINER_SECCOMP}{container.get('name')}"), place, findings)


def _annotations(pod: dict[str, Any], written: JsonValue, findings: Findings) -> dict[str, dict[str, str]]:
    """What the annotations of the alpha API say, as fields. The annotations are removed."""
    metadata = pod.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    profiles: dict[str, dict[str, str]] = {}
    if not isinstance(metadata, dict) or not isinstance(annotations, dict):
        return profiles
    for key, value in field(field(written, "metadata"), "annotations").pairs:
        if key.text != POD_SECCOMP and not key.text.startswith(CONTAINER_SECCOMP):
            continue
        profile = annotated_profile(value.text)
        what = f"the annotation {key.text} has not been read since Kubernetes 1.27: it has no effect"
        if profile is None:
            findings.warn(key.location, "obsolete", what, f"{quoted(value.text)} names no profile")
        else:
            findings.warn(key.location, "obsolete", what, "the field securityContext.seccompProfile takes its place")
            profiles[key.text] = profile
        del annotations[key.text]
    if not annotations:
        del metadata["annotations"]
    return profiles


def _modern_container(container: dict[str, Any], noted: dict[str, str] | None, place: Location, findings: Findings) -> None:
    context = _inner(container, "securityContext")
    own = context.get("seccompProfile")
    if own is None and noted is not None:
        context["seccompProfile"] = own = noted
    name = quoted(str(container.get("name", "")))
    if isinstance(own, dict):
        what = f"container {name} has a profile of its own ({own.get('type')}): the Pod's does not count for it"
        findings.note(place, "shadowed", what, "remove it where the Pod's is meant")
    if context.get("privileged") is True:
        findings.warn(place, "shadowed", f"container {name} is privileged: it runs without any seccomp profile", "remove privileged")
        return
    added = []
    for key, value in _hardened_container().items():
        if key == "capabilities":
            capabilities = _inner(context, "capabilities")
            if "drop" not in capabilities:
                capabilities["drop"] = value["drop"]
                added.append("capabilities.drop")
        elif key not in context:
            context[key] = value
            added.append(key)
    if added:
        findings.note(place, "hardened", f"container {name} gets {', '.join(added)}", "take out what it cannot do without")


def _inner(holder: dict[str, Any], key: str) -> dict[str, Any]:
    """The object under a key; a new one where there is none, or something else."""
    inner = holder.get(key)
    if not isinstance(inner, dict):
        inner = holder[key] = {}
    return inner


def _text_of(value: JsonValue, key: str) -> str:
    return field(value, key).text


def as_plain(value: JsonValue) -> Any:
    """A value as Python has it. Numbers that are not whole become floats."""
    match value.kind:
        case "object":
            return {key.text: as_plain(inner) for key, inner in value.pairs}
        case "array":
            return [as_plain(item) for item in value.items]
        case "number":
            return int(value.text) if re.fullmatch(r"-?\d+", value.text) else float(value.text)
        case "boolean":
            return value.text == "true"
        case "string":
            return value.text
    return None


_WRITERS: Final[Mapping[str, Callable[[Effective, ExportOptions, Findings], bytes]]] = {
    "bpf": _bpf, "pfc": _pfc, "oci": _oci, "systemd": _systemd, "podman-run": _podman, "k8s": _kubernetes,
    "seccompprofile": _object,
}  # fmt: skip


# ---- in ----

_OPERATOR_ONLY: Final = {"disabled", "baseProfileName"}


def operator_objects(documents: Iterable[JsonValue]) -> list[tuple[str, JsonValue]]:
    """The SeccompProfiles among documents, whoever's, and in lists of them (`kubectl get -o yaml`), each with its name; `namespace/name`
    where it has a namespace."""
    profiles: list[tuple[str, JsonValue]] = []
    for document in documents:
        for item in field(document, "items").items if _text_of(document, "kind").endswith("List") else [document]:
            if _text_of(item, "kind") == OPERATOR_KIND:
                metadata = field(item, "metadata")
                words = (_text_of(metadata, "namespace"), _text_of(metadata, "name"))
                profiles.append(("/".join(word for word in words if word), item))
    return profiles


def from_operator(root: JsonValue) -> tuple[Profile | None, list[Diagnostic]]:
    """The profile of a SeccompProfile object, read from YAML or JSON, and everything that is wrong with it."""
    findings = Findings()
    version, kind = _text_of(root, "apiVersion"), _text_of(root, "kind")
    if root.kind != "object" or kind != OPERATOR_KIND or not version.startswith(f"{OPERATOR_GROUP}/"):
        hint = f"a SeccompProfile has apiVersion: {OPERATOR_GROUP}/v1 and kind: {OPERATOR_KIND}"
        return None, [Diagnostic(root.location, "not a SeccompProfile of the Security Profiles Operator", hint, code="wrong-kind")]
    spec = field(root, "spec")
    if spec.kind != "object":
        return None, [Diagnostic(root.location, "the object has no spec", "add spec: with defaultAction and syscalls", code="missing-key")]
    base = field(spec, "baseProfileName")
    if base.text:
        what = f"what the base profile {quoted(base.text)} allows is not part of the result"
        findings.warn(base.location, "cannot-express", what, "import that one, too, and merge the two")
    profile, diagnostics = read(_as_profile(spec, findings))
    return profile if not findings.errors else None, sorted([*findings.diagnostics, *diagnostics], key=lambda d: d.location)


def _as_profile(spec: JsonValue, findings: Findings) -> JsonValue:
    """The operator's spec in the shape that the profile reader knows."""
    made = JsonValue(spec.source, "object", spec.start)
    for key, value in spec.pairs:
        if key.text in _OPERATOR_ONLY:
            continue
        if key.text == "architectures" and value.kind == "array":
            made.pairs.append((key, _without_native(value, findings)))
        elif key.text == "syscalls" and value.kind == "array":
            rules = JsonValue(value.source, "array", value.start)
            rules.items = [_as_rule(rule) for rule in value.items]
            made.pairs.append((key, rules))
        else:
            made.pairs.append((key, value))
    return made


def _without_native(value: JsonValue, findings: Findings) -> JsonValue:
    kept = JsonValue(value.source, "array", value.start)
    kept.items = [item for item in value.items if item.text != "SCMP_ARCH_NATIVE"]
    if len(kept.items) < len(value.items) and kept.items:
        what = "SCMP_ARCH_NATIVE is left out: every filter covers the machine's own architecture"
        findings.note(value.location, "architecture-added", what, "")
    return kept


def _as_rule(rule: JsonValue) -> JsonValue:
    """errnoRet becomes a number (v1beta1 has a text; 0 means none), and a value that was left out becomes 0."""
    made = JsonValue(rule.source, rule.kind, rule.start, rule.text)
    made.items = rule.items
    for key, value in rule.pairs:
        if key.text == "errnoRet" and value.text in ("", "0"):
            continue
        if key.text == "errnoRet" and value.kind == "string" and value.text.isascii() and value.text.isdigit():
            value = JsonValue(value.source, "number", value.start, value.text)
        if key.text == "args" and value.kind == "array":
            args = JsonValue(value.source, "array", value.start)
            args.items = [_with_value(arg) for arg in value.items]
            value = args
        made.pairs.append((key, value))
    return made


def _with_value(arg: JsonValue) -> JsonValue:
    if arg.kind != "object" or any(key.text == "value" for key, _ in arg.pairs):
        return arg
    made = JsonValue(arg.source, "object", arg.start)
    made.pairs = [*arg.pairs, (JsonValue(arg.source, "string", arg.start, "value"), JsonValue(arg.source, "number", arg.start, "0"))]
    return made
