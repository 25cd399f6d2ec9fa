# SPDX-License-Identifier: Apache-2.0
"""A policy object in, the policy for this node out, or what is wrong with it by the path of its field.

Called by `source` for what the API server has, and by `webhook` for what it is about to take. An object is JSON without places, so it is
written as text with one value a line, read by the reader of policy files, and each line's place becomes the path of the field.
An object of another language is read by its language's own reader, in the same way.
A SecurityPolicy is about the pods of its own namespace, whatever its scope says: whoever may write policies of one namespace has no
power over another, nor over containers of which it is not known whose they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from bpfence.agent.loading import narrowed
from bpfence.compiler.compile import compile_policies
from bpfence.dialects.decided import DecidedRules
from bpfence.dialects.native.read import load_text
from bpfence.dialects.native.schema import API_VERSION, CLUSTER_KIND, KIND
from bpfence.dialects.native.tools import seccomp_findings
from bpfence.dialects.registry import DIALECTS
from bpfence.documents.files import SourceFile
from bpfence.errors import CompileError, Diagnostic, Location
from bpfence.k8s.objects import LANGUAGES, MAX_SPEC, POLICIES, PolicyObject, is_namespaced
from bpfence.policy import CONTAINER_FIELD, FALSE, Atom, Op, Policy, PolicySet, Selector

MAX_DEPTH: Final = 32
_NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_TOLD_HERE: Final = frozenset(("never-told",))
"""Warnings about files that are none here: the API server tells what no source on a host does."""


class Read(NamedTuple):
    """`policy` None: it cannot be in force; of another language it is in `rules`. Places of `diagnostics` are paths of fields; those of
    other findings become so by `placed`, with `paths`."""

    policy: Policy | None
    diagnostics: tuple[Diagnostic, ...]
    rules: DecidedRules | None = None
    paths: Sequence[str] = ()

    @property
    def can_be(self) -> bool:
        """Whether it may be in force."""
        return self.policy is not None or self.rules is not None


def read(one: PolicyObject, options: Mapping[str, Any] = MappingProxyType({})) -> Read:
    """The policy of an object, not compiled yet. `options`: by name of the language, of the agent's command line."""
    if one.kind in LANGUAGES:
        return _read_other(one, options)
    found = _refused(one)
    if isinstance(found, Diagnostic):
        return Read(None, (found,))
    text, paths = _document(one, found)
    policies, diagnostics = load_text(text, one.key)
    told = tuple(placed(diagnostic, one.key, paths) for diagnostic in diagnostics if diagnostic.code not in _TOLD_HERE)
    if any(diagnostic.severity == "error" for diagnostic in told) or len(policies.policies) != 1:
        return Read(None, told)
    return Read(_of_object(policies.policies[0], one, paths), told)


def _read_other(one: PolicyObject, options: Mapping[str, Any]) -> Read:
    """A policy of another language: its reader's, as of a file."""
    language, kind = LANGUAGES[one.kind]
    spec = _spec(one)
    if isinstance(spec, Diagnostic):
        return Read(None, (spec,))
    metadata = {"name": one.name, **({"namespace": one.namespace} if one.namespace else {})}
    text, paths = written({"apiVersion": kind.version, "kind": one.kind, "metadata": metadata, "spec": spec})
    rules, diagnostics = DIALECTS[language].read([SourceFile(one.key, text.encode())], options.get(language))
    assert isinstance(rules, DecidedRules), f"objects of {language} cannot be joined"
    told = tuple(placed(diagnostic, one.key, paths) for diagnostic in diagnostics)
    if any(diagnostic.severity == "error" for diagnostic in told):
        return Read(None, told)
    return Read(None, told, rules, paths)


def check(one: PolicyObject) -> Read:
    """The same, and what the compiler finds: all that `bpfence check` tells, but for links of the host, which is another."""
    found = read(one)
    if found.policy is None:
        return found
    policies = PolicySet((found.policy,))
    more = list(seccomp_findings(policies))
    try:
        more += compile_policies(policies).unreachable
    except CompileError as error:
        return Read(None, (*found.diagnostics, *more, *error.diagnostics))
    return Read(found.policy, (*found.diagnostics, *more))


def _wrong(one: PolicyObject, path: str, what: str, hint: str, code: str = "bad-value") -> Diagnostic:
    return Diagnostic(Location(f"{one.key}, {path}"), what, hint, code=code)


def _spec(one: PolicyObject) -> Diagnostic | dict[str, Any]:
    """The spec of an object, or why it is not looked at further, whatever its language."""
    wrong = partial(_wrong, one)
    if (
        one.kind not in (*POLICIES, *LANGUAGES)
        or not _NAME.fullmatch(one.name)
        or (one.namespace and not _NAMESPACE.fullmatch(one.namespace))
    ):
        return wrong("metadata.name", "nothing in Kubernetes is named so", "use lower case letters, digits, '-' and '.'")
    if is_namespaced(one.kind) != bool(one.namespace):
        what = f"a {one.kind} has {'a' if is_namespaced(one.kind) else 'no'} namespace"
        return wrong("metadata.namespace", what, "choose the kind by whom it is about")
    try:
        spec = msgspec.json.decode(one.spec) if one.spec else None
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        spec = None
    if not isinstance(spec, dict):
        return wrong(
            "spec", "there is no policy, or one that is too large", f"write spec:, with at most {MAX_SPEC >> 10} KiB in it", "missing-key"
        )
    if depth_of(spec) > MAX_DEPTH:
        return wrong("spec", f"it is nested more than {MAX_DEPTH} levels deep", "write it flatter")
    return spec


def _refused(one: PolicyObject) -> Diagnostic | dict[str, Any]:
    """The spec of an object of ours, or why it is not looked at further."""
    wrong, spec = partial(_wrong, one), _spec(one)
    if isinstance(spec, Diagnostic):
        return spec
    if isinstance(spec.get("seccomp"), str):
        hint = "write the profile itself under spec.seccomp"
        return wrong("spec.seccomp", "a policy of Kubernetes cannot name a file: it would be one of each node", hint, "cannot-read")
    scope = spec.get("scope")
    if one.namespace and isinstance(scope, dict) and scope.get("namespace", one.namespace) not in (one.namespace, [one.namespace]):
        hint = f"leave it out, or write a {CLUSTER_KIND}"
        return wrong("spec.scope.namespace", f"a {KIND} is about the pods of its own namespace, {one.namespace!r}", hint)
    return spec


def depth_of(value: Any, level: int = 1) -> int:
    if level > MAX_DEPTH or not isinstance(value, dict | list):
        return level
    return max((depth_of(inner, level + 1) for inner in (value.values() if isinstance(value, dict) else value)), default=level)


def _document(one: PolicyObject, spec: dict[str, Any]) -> tuple[str, list[str]]:
    """A policy file with one value a line, and the path of the field on each line."""
    scope = spec.get("scope")
    if one.namespace and (scope is None or isinstance(scope, dict)):
        spec = {**spec, "scope": {**(scope or {}), "namespace": one.namespace}}
    return written({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": one.name}, "spec": spec})


def written(whole: dict[str, Any]) -> tuple[str, list[str]]:
    """An object as JSON with one value a line, and the path of the field on each line."""
    lines = list(_lines(whole, "", "", last=True))
    return "\n".join(line for line, _ in lines) + "\n", [path for _, path in lines]


def _lines(value: Any, path: str, before: str, *, last: bool) -> Iterator[tuple[str, str]]:
    """`before`: what stands on the line in front of the value."""
    comma = "" if last else ","
    if not isinstance(value, dict | list) or not value:
        yield f"{before}{_scalar(value)}{comma}", path
        return
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    yield f"{before}{opening}", path
    for n, key in enumerate(value):
        final = n == len(value) - 1
        if isinstance(value, dict):
            yield from _lines(value[key], f"{path}.{_part(key)}" if path else _part(key), f"{_scalar(key)}: ", last=final)
        else:
            yield from _lines(key, f"{path}[{n}]", "", last=final)
    yield f"{closing}{comma}", path


def _part(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else json.dumps(key[:60], ensure_ascii=True)


def _scalar(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _place(location: Location, key: str, paths: Sequence[str]) -> Location:
    path = paths[location.line - 1] if location.file == key and 0 < location.line <= len(paths) else ""
    return Location(f"{key}, {path}" if path else location.file)


def placed(diagnostic: Diagnostic, key: str, paths: Sequence[str]) -> Diagnostic:
    """A finding about a text of `written`, by the path of its field."""
    return msgspec.structs.replace(diagnostic, location=_place(diagnostic.location, key, paths))


def _of_object(policy: Policy, one: PolicyObject, paths: Sequence[str]) -> Policy:
    """The policy under the name, with the places and in the scope of its object."""
    rules = tuple(
        msgspec.structs.replace(rule, policy=one.policy_name, location=_place(rule.location, one.key, paths)) for rule in policy.rules
    )
    made = msgspec.structs.replace(policy, name=one.policy_name, rules=rules, location=_place(policy.location, one.key, paths))
    if not one.namespace or made.doubt != FALSE:
        return made
    return narrowed(made, None, Atom(CONTAINER_FIELD, Op.SELECTS, Selector(namespaces=(one.namespace,))))
