# SPDX-License-Identifier: Apache-2.0
"""A SeccompProfile object of bpfence in, its profile and whom it is bound to out; and a profile in, the object out.

Called by `bpfence seccomp install`, `import` and `export`, and by what watches these objects in a cluster: the profile goes to the nodes,
to `path` below the kubelet's seccomp folder, and the bindings to `pods.bind.mutate`. `json_schema` is the shape of the object: checked in
as schemas/seccompprofile.json, written by tools/gen_docs.py, and what the CustomResourceDefinition is made of. Pure.

Clients of Kubernetes take numbers for floating-point ones now and then: `kubectl apply` makes 9007199254740992 of 9007199254740993. So what
conditions compare with is written as a text where a number would not be exact, and refused where it is not.

A SeccompProfile lives in a namespace and is bound to pods there; a ClusterSeccompProfile is bound to pods of any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta

from bpfence import policy
from bpfence.conditions import images
from bpfence.conditions.labels import LABEL_KEY, OPERATORS, Expression, LabelSelector
from bpfence.documents.json_values import JsonValue
from bpfence.errors import CompileError, Diagnostic, Location
from bpfence.glob import GlobError
from bpfence.pods.bind import Binding, Replace
from bpfence.policy import Label
from bpfence.seccomp.findings import Findings
from bpfence.seccomp.model import Profile
from bpfence.seccomp.profile import Shapes, as_document, read
from bpfence.seccomp.schema import DECIMAL, profile_schema
from bpfence.words import quoted, suggest

API_VERSION: Final = policy.API_VERSION
KIND: Final = "SeccompProfile"
CLUSTER_KIND: Final = "ClusterSeccompProfile"
KINDS: Final = (KIND, CLUSTER_KIND)
OBJECT_NAME: Final = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
NAMESPACE: Final = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
FOLDER: Final = "bpfence"
"""Below the kubelet's seccomp folder, where the profiles of these objects are."""
MAX_EXACT: Final = (1 << 53) - 1
"""The greatest whole number that no client rounds to, or from."""
MAX_BINDINGS: Final = 100
MAX_PATTERNS: Final = 100
"""Images, and tests on labels, of one binding."""


# ---- the shape ----


class BindingSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Containers that run under the profile: those of these images in pods of these labels."""

    images: Annotated[
        list[str],
        Meta(max_length=MAX_PATTERNS, description="images, of which one must match: nginx, nginx:1.*, registry.example/team/*, *"),
    ] = []
    labels: Annotated[LabelSelector | None, Meta(description="labels of the pod")] = None
    replace: Annotated[Replace, Meta(description="which profiles that a pod asks for give way: none, the runtime's (default), or all")] = (
        "default"
    )


class Spec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A profile, and to whom it is bound."""

    profile: Annotated[dict[str, Any], Meta(description="a seccomp profile as container runtimes read it")]
    bindings: Annotated[
        list[BindingSpec], Meta(max_length=MAX_BINDINGS, description="whose containers are given it; any pod can ask for it by its path")
    ] = []


class Metadata(msgspec.Struct, kw_only=True):
    """What the object is called."""

    name: Annotated[str, Meta(pattern=f"^{OBJECT_NAME}$")]
    namespace: Annotated[str, Meta(pattern=f"^{NAMESPACE}$", description="of a SeccompProfile, whose bindings hold there")] = "default"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class SeccompProfile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, rename={"api_version": "apiVersion"}):
    """One object."""

    api_version: Literal["bpfence.io/v1alpha1"]
    kind: Literal["SeccompProfile", "ClusterSeccompProfile"]
    metadata: Metadata
    spec: Spec


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of one object."""
    schema = msgspec.json.schema(SeccompProfile)
    spec = schema["$defs"]["Spec"]["properties"]
    spec["profile"] = {"description": spec["profile"]["description"], "$ref": "#/$defs/Profile"}
    schema["$defs"]["Profile"] = {"title": "Profile", **profile_schema(MAX_EXACT)}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://bpfence.io/schemas/seccompprofile.json", **schema}


# ---- in ----


class ProfileObject(msgspec.Struct, frozen=True, kw_only=True):
    """One object. `namespace`: "" for a ClusterSeccompProfile. The bindings name `path`."""

    name: str
    namespace: str
    profile: Profile
    bindings: tuple[Binding, ...] = ()

    @property
    def path(self) -> str:
        """Where the profile is on the nodes, below the kubelet's seccomp folder: what a pod calls `localhostProfile`."""
        return profile_path(self.name, self.namespace)


def profile_path(name: str, namespace: str = "") -> str:
    """The path of an object's profile below the kubelet's seccomp folder. No two objects have the same: a namespace has no dot."""
    return "/".join(part for part in (FOLDER, namespace, f"{name}.json") if part)


def is_object(root: JsonValue) -> bool:
    """Whether a document is meant for this reader: of bpfence's group, and one of these kinds."""
    return field(root, "kind").text in KINDS and field(root, "apiVersion").text.partition("/")[0] == API_VERSION.partition("/")[0]


def objects(documents: Iterable[JsonValue]) -> Iterator[JsonValue]:
    """The objects among documents, and in lists of them (`kubectl get -o yaml`)."""
    for document in documents:
        listed = field(document, "kind").text.endswith("List") and field(document, "items").kind == "array"
        yield from filter(is_object, field(document, "items").items if listed else [document])


def field(value: JsonValue, key: str) -> JsonValue:
    """The value under a key; a null where there is none."""
    return next((inner for name, inner in value.pairs if name.text == key), JsonValue(value.source, "null", value.start))


def read_object(root: JsonValue, namespace: str = "default") -> tuple[ProfileObject | None, list[Diagnostic]]:
    """One object, read from YAML or JSON, and everything that is wrong with it; None where there is an error. `namespace`: where one that
    does not say is put."""
    findings = Findings()
    reader = _Reader(findings)
    kind = field(root, "kind").text
    if not is_object(root):
        hint = f"it begins with apiVersion: {API_VERSION} and kind: {KIND}"
        return None, [Diagnostic(root.location, "this is no SeccompProfile of bpfence", hint, code="wrong-kind")]
    entries = reader.level(root, kind, ("apiVersion", "kind", "metadata", "spec", "status"), ("metadata", "spec"))
    version = entries["apiVersion"][1]
    if version.text != API_VERSION:
        findings.add(version.location, "wrong-kind", f"apiVersion is {quoted(version.text)}", f"write apiVersion: {API_VERSION}")
    name, space = reader.names(entries, "" if kind == CLUSTER_KIND else namespace)
    spec = reader.level(entries["spec"][1], "spec", ("profile", "bindings"), ("profile",)) if "spec" in entries else {}
    bindings = tuple(reader.bindings(spec, profile_path(name, space), space))
    profile, wrong = read(reader.with_numbers(spec["profile"][1])) if "profile" in spec else (None, [])
    found = sorted([*findings.sorted(), *wrong], key=lambda diagnostic: diagnostic.location)
    if profile is None or findings.errors:
        return None, found
    return ProfileObject(name=name, namespace=space, profile=profile, bindings=bindings), found


class _Reader(Shapes):
    """What stands around the profile."""

    ignored = "it has no effect"

    def names(self, entries: Mapping[str, tuple[JsonValue, JsonValue]], namespace: str) -> tuple[str, str]:
        """Name and namespace; `namespace` is "" where it cannot have one."""
        if "metadata" not in entries:
            return "", namespace
        metadata = entries["metadata"][1]
        name, given = field(metadata, "name"), field(metadata, "namespace")
        if name.kind != "string" or not re.fullmatch(OBJECT_NAME, name.text):
            what = f"{quoted(name.text)} cannot be the name of an object" if name.kind == "string" else "metadata needs a name"
            self.findings.add(name.location, "bad-value", what, "use small letters, digits, '-' and '.'")
        if given.kind == "null" or not namespace:
            return name.text, namespace
        if given.kind != "string" or not re.fullmatch(NAMESPACE, given.text):
            what = f"{quoted(given.text)} cannot be the name of a namespace"
            self.findings.add(given.location, "bad-value", what, "use small letters, digits and '-'")
        return name.text, given.text

    def with_numbers(self, profile: JsonValue) -> JsonValue:
        """The same profile with numbers in place of the texts that stand for them."""
        return _changed(profile, "syscalls", lambda rule: _changed(rule, "args", self.argument))

    def argument(self, arg: JsonValue) -> JsonValue:
        """One condition. A number that may have been rounded is no condition that anybody has written."""
        made = JsonValue(arg.source, arg.kind, arg.start, arg.text)
        made.items = arg.items
        for key, value in arg.pairs:
            if key.text in ("value", "valueTwo") and value.kind == "string" and re.fullmatch(DECIMAL, value.text):
                value = JsonValue(value.source, "number", value.start, str(int(value.text)))
            elif key.text in ("value", "valueTwo") and value.kind == "number" and _inexact(value.text):
                what = f"{quoted(value.text)} may have been rounded: clients of Kubernetes do so above 2^53"
                self.findings.add(value.location, "bad-number", what, f'write it as a text: {key.text}: "18446744073709551615"')
                value = JsonValue(value.source, "number", value.start, "0")
            made.pairs.append((key, value))
        return made

    def bindings(self, spec: Mapping[str, tuple[JsonValue, JsonValue]], path: str, namespace: str) -> Iterator[Binding]:
        """To whom the profile is bound."""
        listed = self.items(dict(spec), "bindings")
        if len(listed) > MAX_BINDINGS:
            place = listed[MAX_BINDINGS].location
            self.findings.add(place, "bad-value", f"there are more than {MAX_BINDINGS} bindings", "one binding can have several images")
        for item in listed[:MAX_BINDINGS]:
            entries = self.level(item, "a binding", tuple(one.encode_name for one in msgspec.structs.fields(BindingSpec)))
            patterns = [text for value, text in self.texts(entries, "images")[:MAX_PATTERNS] if self.image(value, text)]
            labels = tuple(self.labels(entries["labels"][1])) if "labels" in entries else ()
            if not patterns and not labels and item.kind == "object":
                self.findings.add(item.location, "empty", "a binding asks for images or labels", 'write images: ["*"] for all containers')
            if len(field(item, "images").items) > MAX_PATTERNS or len(labels) > MAX_PATTERNS:
                what = f"a binding has at most {MAX_PATTERNS} images and tests on labels"
                self.findings.add(item.location, "bad-value", what, "make two bindings of it")
            yield Binding(profile=path, namespace=namespace, images=tuple(patterns), labels=labels, replace=self.replace(entries))

    def image(self, value: JsonValue, text: str) -> bool:
        """Whether a text is a pattern of images."""
        try:
            images.pattern(text)
        except (GlobError, ValueError) as error:
            self.findings.add(value.location, "bad-value", f"{quoted(text)} names no image: {error}", "write nginx, nginx:1.* or */team/*")
            return False
        return True

    def replace(self, entries: Mapping[str, tuple[JsonValue, JsonValue]]) -> Replace:
        """What gives way."""
        if "replace" not in entries:
            return "default"
        value = entries["replace"][1]
        for known in get_args(Replace):
            if value.kind == "string" and value.text == known:
                return known  # type: ignore[no-any-return]
        hint = suggest(value.text, get_args(Replace), "write none, default or all")
        self.findings.add(value.location, "bad-value", f"replace cannot be {quoted(value.text)}", hint)
        return "default"

    def labels(self, value: JsonValue) -> Iterator[Label]:
        """Tests on labels."""
        entries = self.level(value, "labels", tuple(one.encode_name for one in msgspec.structs.fields(LabelSelector)))
        if "matchLabels" in entries:
            holder = entries["matchLabels"][1]
            if holder.kind != "object":
                self.level(holder, "matchLabels", ())  # says so
            for place, inner in holder.pairs:
                text = self.text(inner, f"the label {quoted(place.text)}")
                if self.key(place, place.text) and text is not None:
                    yield Label(place.text, "in", (text,))
        for item in self.items(entries, "matchExpressions"):
            known = tuple(one.encode_name for one in msgspec.structs.fields(Expression))
            inside = self.level(item, "an expression", known, ("key", "operator"))
            if {"key", "operator"} <= inside.keys():
                yield from self.expression(item, inside)

    def expression(self, item: JsonValue, entries: dict[str, tuple[JsonValue, JsonValue]]) -> Iterator[Label]:
        """One of matchExpressions."""
        key, operator = (self.text(entries[name][1], name) for name in ("key", "operator"))
        values = tuple(text for _, text in self.texts(entries, "values"))
        if operator is not None and operator not in OPERATORS:
            hint = suggest(operator, OPERATORS, "write In, NotIn, Exists or DoesNotExist")
            self.findings.add(entries["operator"][1].location, "bad-value", f"operator cannot be {quoted(operator)}", hint)
        elif operator is not None and bool(values) != (operator in ("In", "NotIn")):
            what = f"{operator} {'takes no' if values else 'needs'} values"
            self.findings.add(item.location, "bad-value", what, "write {key: tier, operator: In, values: [web, api]}")
        elif operator is not None and key is not None and self.key(entries["key"][1], key):
            yield Label(key, OPERATORS[operator], values)

    def key(self, place: JsonValue, text: str) -> bool:
        """Whether a text can be the key of a label."""
        if LABEL_KEY.fullmatch(text):
            return True
        what = f"{quoted(text)} cannot be the key of a label"
        self.findings.add(place.location, "bad-value", what, "a key is like app or example.com/app")
        return False


def _inexact(text: str) -> bool:
    """Whether a number may be another one than was written."""
    return "e" in text.lower() or (text.isdigit() and int(text) > MAX_EXACT)


def _changed(holder: JsonValue, key: str, change: Callable[[JsonValue], JsonValue]) -> JsonValue:
    """The same object, with the elements of the list under a key changed."""
    made = JsonValue(holder.source, holder.kind, holder.start, holder.text)
    made.items = holder.items
    for name, value in holder.pairs:
        if name.text == key and value.kind == "array":
            listed = JsonValue(value.source, "array", value.start)
            listed.items = [change(item) if item.kind == "object" else item for item in value.items]
            value = listed
        made.pairs.append((name, value))
    return made


# ---- out ----


def as_object(profile: Profile, name: str, place: Location) -> dict[str, Any]:
    """A profile as an object, bound to nobody. CompileError where it cannot have the name."""
    check_name(name, place)
    document = as_document(profile)
    for rule in document["syscalls"]:
        for arg in rule.get("args", ()):
            arg |= {key: str(arg[key]) for key in ("value", "valueTwo") if arg.get(key, 0) > MAX_EXACT}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": {"profile": document, "bindings": []}}


def check_name(name: str, place: Location) -> None:
    """CompileError where an object cannot have a name."""
    if not re.fullmatch(OBJECT_NAME, name):
        what = f"{quoted(name)} cannot be the name of a Kubernetes object"
        raise CompileError([Diagnostic(place, what, "use small letters, digits, '-' and '.': --name", code="cannot-express")])
