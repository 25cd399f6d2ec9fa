# SPDX-License-Identifier: Apache-2.0
"""Manifest bytes in, the workloads in them out: fields with their places, valued as Kubernetes does.

Called by `judge` and `harden`. YAML or JSON, several documents, lists of objects. What Kubernetes does with a text that can be read in more
than one way, this does: of a key written twice the last counts, `<<` merges, `yes` and `on` are true, `0x0` is 0 (sigs.k8s.io/yaml, YAML
1.1). Manifests are hostile input: size, depth, nodes and aliases are bounded by `documents`; nothing here raises for any text but
DocumentError.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from bpfence.documents import json_values, yaml_nodes
from bpfence.documents.json_values import JsonValue
from bpfence.documents.placed import DocumentError, PlacedText
from bpfence.documents.yaml_nodes import TEXT_TAGS, YamlNode
from bpfence.errors import Location
from bpfence.pods.kinds import CONTAINERS, TEMPLATES, USUAL_TEMPLATE
from bpfence.words import quoted

_TRUE: Final = frozenset({"y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"})
_FALSE: Final = frozenset({"n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"})
_INTEGER: Final = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO]?[0-7_]*|[1-9][0-9_]*)")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_EXACT: Final = float(1 << 53)
MAX_DIGITS: Final = 40
MERGE: Final = "<<"
PLAIN_TAGS: Final = {"scalar": TEXT_TAGS, "list": ("!", "tag:yaml.org,2002:seq"), "map": ("!", "tag:yaml.org,2002:map")}
"""Tags that make nothing else of a node than this reads."""
SMALL: Final = 16
"""Keys of a map that are looked through faster than an index is made."""

Scalar = bool | int | float | str | None


def scalar(node: YamlNode) -> Scalar:
    """What a scalar is to Kubernetes. Numbers that are not whole stay 0.5: no field of a pod's security has one."""
    text = node.text
    if node.kind != "scalar":
        return None
    if node.style or node.tag in TEXT_TAGS or len(text) > MAX_DIGITS:
        return text
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return int(number) if abs(number) < _EXACT and number.is_integer() else 0.5
    return text


def _integer(text: str) -> int | str:
    """As strconv.ParseInt with base 0: a leading zero is octal."""
    plain = text.replace("_", "").lower()
    sign, digits = (-1 if plain.startswith("-") else 1), plain.lstrip("+-")
    if re.fullmatch(r"0[0-7]+", digits):
        digits = "0o" + digits[1:]
    try:
        return sign * int(digits, 0)
    except ValueError:
        return text


class Field:
    """A place in a document where a value is, or could be. `path` as kubectl explain writes it; `shared` where it is reached through an
    alias or a merge, so that the text is others', too."""

    __slots__ = ("_known", "key", "node", "parent", "path", "shared")

    def __init__(self, node: YamlNode | None, path: str, parent: Field | None = None, key: str | int = "", *, shared: bool = False) -> None:
        self.node = node
        self.path = path
        self.parent = parent
        self.key = key
        self.shared = shared
        self._known: dict[str, tuple[YamlNode, bool]] | None = None

    # ---- below it ----

    def get(self, key: str) -> Field:
        """The field of a key."""
        path = f"{self.path}.{key}" if self.path else key
        found = self._find(key)
        if found is None:
            return Field(None, path, self, key, shared=self.shared)
        return Field(found[0], path, self, key, shared=self.shared or found[1])

    def _find(self, key: str) -> tuple[YamlNode, bool] | None:
        """The value of a key, and whether it is written elsewhere. A large map is walked once, however often it is asked."""
        if self.node is None or self.node.kind != "map":
            return None
        if self._known is None and (len(self.node.pairs) > SMALL or any(True for _ in _merged(self.node))):
            self._known = {name.text: (value, merged or value.mark < name.mark) for name, value, merged in _pairs(self.node)}
        return _found(self.node, key) if self._known is None else self._known.get(key)

    def at(self, *keys: str) -> Field:
        """The field of a key of a key."""
        field = self
        for key in keys:
            field = field.get(key)
        return field

    def items(self) -> Iterator[Field]:
        """The elements of a list."""
        if self.node is None or self.node.kind != "list":
            return
        before = self.node.mark
        for number, item in enumerate(self.node.items):
            aliased = item.mark < before
            before = before if aliased else item.mark
            yield Field(item, f"{self.path}[{number}]", self, number, shared=self.shared or aliased)

    def item(self, number: int) -> Field:
        """One element of a list that has it."""
        assert self.node is not None
        return Field(self.node.items[number], f"{self.path}[{number}]", self, number, shared=self.shared)

    def pairs(self) -> list[tuple[YamlNode, Field]]:
        """The fields of a map, merged ones too, each with where its key is written."""
        if self.node is None or self.node.kind != "map":
            return []
        return [
            (name, Field(value, f"{self.path}.{name.text}", self, name.text, shared=self.shared or merged or value.mark < name.mark))
            for name, value, merged in _pairs(self.node)
        ]

    # ---- what it is ----

    @property
    def given(self) -> bool:
        """Whether it is there and not null: null is the same as nothing to Kubernetes."""
        return self.node is not None and not (self.node.kind == "scalar" and self.value is None)

    @property
    def value(self) -> Scalar:
        """A scalar's value; None where there is none."""
        return scalar(self.node) if self.node is not None else None

    @property
    def text(self) -> str:
        """A text's content; empty where there is none, or something else."""
        value = self.value
        return value if isinstance(value, str) else ""

    @property
    def true(self) -> bool:
        """Whether it is the boolean true."""
        return self.value is True

    @property
    def false(self) -> bool:
        """Whether it is the boolean false; not where it is missing."""
        return self.value is False

    @property
    def nothing(self) -> bool:
        """Whether it is missing, null, or an empty list or map."""
        return not self.given or (self.node is not None and self.node.kind != "scalar" and not (self.node.items or self.node.pairs))

    @property
    def location(self) -> Location:
        """Where the value is, or where it is missing: the innermost thing around it."""
        field: Field | None = self
        while field is not None and field.node is None:
            field = field.parent
        return field.node.location if field is not None and field.node is not None else Location("")

    @property
    def steps(self) -> tuple[str | int, ...]:
        """The keys from the document to it."""
        steps: list[str | int] = []
        field: Field | None = self
        while field is not None and field.parent is not None:
            steps.append(field.key)
            field = field.parent
        return tuple(reversed(steps))


def _found(node: YamlNode, key: str) -> tuple[YamlNode, bool] | None:
    """The value of a key in a map that merges nothing, and whether it is behind an alias."""
    for name, value in reversed(node.pairs):
        if name.text == key and name.kind == "scalar":
            return value, value.mark < name.mark
    return None


def _merged(node: YamlNode) -> Iterator[YamlNode]:
    """The maps that a map merges, the first of them first."""
    for name, value in node.pairs:
        if name.text == MERGE and name.kind == "scalar" and not name.style:
            yield from (source for source in (value.items if value.kind == "list" else [value]) if source.kind == "map")


def _pairs(node: YamlNode) -> list[tuple[YamlNode, YamlNode, bool]]:
    """The pairs of a map as they count, each key once, and whether it was merged."""
    found: dict[str, tuple[YamlNode, YamlNode, bool]] = {}
    for name, value in node.pairs:
        if name.kind == "scalar" and not (name.text == MERGE and not name.style):
            found[name.text] = (name, value, False)
    for source in _merged(node):
        for name, value, _ in _pairs(source):
            found.setdefault(name.text, (name, value, True))
    return list(found.values())


def plain(node: YamlNode) -> object:
    """A node as JSON has it, merges and aliases written out."""
    if node.kind == "map":
        return {name.text: plain(value) for name, value, _ in _pairs(node)}
    if node.kind == "list":
        return [plain(item) for item in node.items]
    value = scalar(node)
    return ("number", node.text) if isinstance(value, float) else value


class Container:
    """One container of a pod. `kind` is the list that it stands in."""

    def __init__(self, field: Field, kind: str) -> None:
        self.field = field
        self.kind = kind
        self.name = field.get("name").text
        self.context = field.get("securityContext")

    @property
    def title(self) -> str:
        """How messages name it."""
        kind = {"containers": "container", "initContainers": "init container"}.get(self.kind, "ephemeral container")
        return f"{kind} {self.name!r}" if self.name else f"{kind} {self.field.key}"


class Workload:
    """One object that makes pods, or a pod. `document` is the number of the text's document, from 0; `root` its field, `object` the
    object's own (an element of a list's items), `template` what holds the pod's metadata and spec."""

    def __init__(self, document: int, root: Field, object: Field, kind: str, template: Field) -> None:
        self.document = document
        self.root = root
        self.object = object
        self.kind = kind
        self.name = object.at("metadata", "name").text or object.at("metadata", "generateName").text
        self.namespace = object.at("metadata", "namespace").text
        self.template = template
        self.spec = template.get("spec")
        self.context = self.spec.get("securityContext")
        self.annotations = template.at("metadata", "annotations")
        self.containers = [Container(field, kind) for kind in CONTAINERS for field in self.spec.get(kind).items()]

    @property
    def title(self) -> str:
        """Kind and name."""
        return f"{self.kind} {self.name}" if self.name else self.kind

    @property
    def windows(self) -> bool:
        """Whether the pod says that it is for Windows."""
        return self.spec.at("os", "name").text == "windows"

    @property
    def user_namespace(self) -> bool:
        """Whether the pod has users of its own: root in it is nobody on the node."""
        return self.spec.get("hostUsers").false

    def effective(self, container: Container, key: str) -> Field:
        """A setting that both contexts have: the container's own, else the pod's."""
        own = container.context.get(key)
        return own if own.given else self.context.get(key)


class Manifest:
    """A text, its documents and the workloads in them. `others`: kinds that have no pods. `odd`: documents that are no objects."""

    def __init__(self, source: PlacedText, roots: list[YamlNode], *, json: bool, bom: bool) -> None:
        self.source = source
        self.roots = roots
        self.json = json
        self.bom = bom
        self.others: list[str] = []
        self.odd: list[Field] = []
        self.workloads: list[Workload] = []
        for number, node in enumerate(roots):
            root = Field(node, "")
            self._take(number, root, root, "")

    def _take(self, number: int, root: Field, object: Field, usual: str) -> None:
        """One object; those of a list are taken each. `usual` is the kind of a list's items that do not say theirs."""
        kind = object.get("kind").text or usual
        if object.node is None or object.node.kind != "map" or not kind:
            self.odd.append(object)
            return
        items = object.get("items")
        if kind.endswith("List") and items.node is not None and items.node.kind == "list":
            for item in items.items():
                self._take(number, root, item, kind.removesuffix("List"))
            return
        template = object.at(*TEMPLATES.get(kind, USUAL_TEMPLATE))
        if kind in TEMPLATES or template.at("spec", "containers").given:
            self.workloads.append(Workload(number, root, object, kind, template))
        else:
            self.others.append(kind)


def read(data: bytes, file: str) -> Manifest:
    """The manifest in a file; DocumentError with the place of the first mistake."""
    text = yaml_nodes.decode(data, file)
    bom = data.startswith(b"\xef\xbb\xbf")
    if text.lstrip(" \t\r\n")[:1] == "{":
        value = _json(text, file)
        if value is not None:
            root = _node(value)
            return Manifest(root.source, [root], json=True, bom=bom)
    try:
        roots = list(yaml_nodes.documents(text, file))
    except DocumentError as error:
        if "{{" in text and error.diagnostic.code == "yaml-syntax":
            found = error.diagnostic
            hint = "this looks like a template: give what `helm template` makes of it"
            raise DocumentError(found.location, found.message, hint, found.code) from None
        raise
    if "!" in text:
        _refuse_tags(roots)
    return Manifest(roots[0].source if roots else yaml_nodes.placed_text(text, file), roots, json=False, bom=bom)


def _refuse_tags(roots: list[YamlNode]) -> None:
    """Kubernetes makes other values of what has a tag: `!!binary` is decoded, also as a key, `!!bool "true"` is true, `!!merge` merges."""
    seen: set[int] = set()
    left = list(roots)
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if node.tag and node.tag not in PLAIN_TAGS[node.kind]:
            what = f"{quoted(node.tag)} before a value is a YAML tag: what it makes of the value is not judged"
            raise DocumentError(node.source.location(node.mark), what, "remove the tag, and write the value that is meant", "yaml-syntax")
        left += [part for pair in node.pairs for part in pair]
        left += node.items


def _json(text: str, file: str) -> JsonValue | None:
    """A text as JSON; None where it is not, and may be YAML in braces."""
    try:
        return json_values.parse(text, file)
    except DocumentError as error:
        if error.diagnostic.code == "json-limit":
            found = error.diagnostic
            raise DocumentError(found.location, found.message, "split the file", "yaml-limit") from None
        if file.endswith(".json"):
            raise
        return None


def _node(value: JsonValue) -> YamlNode:
    """A value of JSON as the node that YAML would have made of it."""
    kind: yaml_nodes.NodeKind = "map" if value.kind == "object" else "list" if value.kind == "array" else "scalar"
    node = YamlNode(value.source, kind, value.start, value.text, '"' if value.kind == "string" else "")
    node.flow, node.end = kind != "scalar", value.end
    node.pairs = [(_node(key), _node(inner)) for key, inner in value.pairs]
    node.items = [_node(item) for item in value.items]
    return node
