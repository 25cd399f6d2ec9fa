# SPDX-License-Identifier: Apache-2.0
"""YAML text in, bounded trees of nodes with their places out.

Called by dialects whose input is YAML. No object is ever constructed: scalars stay the text that was written, so `on:` is not a
boolean and `017` not fifteen; what a scalar means is the reader's business. Bounded against hostile files: size, nesting, number
of nodes, and of characters in their texts, with aliases counted as often as they are used. Every finding is a Diagnostic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

import yaml

from bpfence.documents import placed
from bpfence.documents.placed import MAX_BYTES, MAX_DEPTH, DocumentError, Placed, PlacedText
from bpfence.errors import Diagnostic, Location
from bpfence.words import quoted

MAX_NODES: Final = 500_000
MAX_ALIASED: Final = MAX_BYTES
TEXT_TAGS: Final = ("!", "tag:yaml.org,2002:str")
"""Tags of scalars that are texts, whatever they look like."""

# What libyaml takes for the end of a line.
_BREAK: Final = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_NOT_ALLOWED: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ESCAPE: Final = re.compile(r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", re.DOTALL)

_SYNTAX: Final = "yaml-syntax"

NodeKind = Literal["scalar", "list", "map"]


class YamlNode(Placed):
    """One YAML node. `style` is '' for plain scalars, else the character that introduces it; `start` the offset of its content.

    `end` is the offset behind it: of a block scalar the beginning of a line, of a block collection where its last node ends. What an alias
    stands for is the node that has the anchor, and lies before the alias.
    """

    __slots__ = ("anchors", "end", "flow", "height", "items", "kind", "length", "mark", "pairs", "reached", "size", "style", "tag")

    def __init__(self, source: PlacedText, kind: NodeKind, start: int, text: str = "", style: str = "", tag: str = "") -> None:
        super().__init__(source, start, text)
        self.kind = kind
        self.style = style
        self.tag = tag
        self.items: list[YamlNode] = []
        self.pairs: list[tuple[YamlNode, YamlNode]] = []
        self.size = 1  # in nodes
        self.height = 1  # in levels, aliases written out
        self.length = len(text)  # in characters of texts
        self.flow = False  # a list or map in brackets
        self.anchors = False  # of a document's root: there are anchors in it
        self.end = start
        self.mark = start  # where its tag and anchor begin
        self.reached = (0, -1, -1)  # how far `_index` has come: the next offset asked for mostly lies behind it

    @property
    def empty(self) -> bool:
        """Nothing was written, or null."""
        return self.kind == "scalar" and not self.style and not self.tag and self.text in ("", "~", "null", "Null", "NULL")

    def place(self, offset: int) -> Location:
        """Where character `offset` of a scalar's text was written. Follows quotes, escapes, folding and indentation."""
        if self.kind != "scalar":
            return self.location
        return self.source.location(self._index(min(max(offset, 0), len(self.text))))

    def _index(self, offset: int) -> int:
        raw, at = self.source.text, self.start
        begin = at + len(self.style)
        if self.style not in ("|", ">") and raw.startswith(self.text, begin):
            return min(begin + offset, len(raw))  # written as it is
        if self.style in ("|", ">"):
            end = _BREAK.search(raw, at)
            at = end.end() if end else len(raw)
        elif self.style:
            at += 1
        first, place = 0, at
        if 0 < self.reached[0] <= offset:
            first, at, place = self.reached
        # White space may have been folded, so it is only skipped; every other character of the text stands in the source too.
        for n in range(first, offset + 1):
            self.reached = n, at, place
            if n == len(self.text):
                return min(place, len(raw))
            char = self.text[n]
            escape = _ESCAPE.match(raw, at) if self.style == '"' else None
            if char.isspace() and not escape:
                place = at
                at += raw[at : at + 1] == char
                continue
            while raw[at : at + 1].isspace() or (escape and escape.group() in ("\\\n", "\\\r")):
                at += len(escape.group()) if escape else 1
                escape = _ESCAPE.match(raw, at) if self.style == '"' else None
            place = at
            at += len(escape.group()) if escape else 2 if self.style == "'" and char == "'" else 1
            if n + 1 == len(self.text) and offset > n:
                place = at
        return min(place, len(raw))


def placed_text(text: str, file: str) -> PlacedText:
    """A YAML text with its places."""
    return PlacedText(file, text, _BREAK)


def decode(data: bytes, file: str, *, limit_code: str = "yaml-limit", limit_hint: str = "split it into several files") -> str:
    """See `placed.decode`."""
    return placed.decode(data, file, _BREAK, limit_code=limit_code, limit_hint=limit_hint)


def documents(text: str, file: str, *, merge: bool = False, told: list[Diagnostic] | None = None) -> Iterator[YamlNode]:
    """The root node of every document that is not empty; raises DocumentError. `merge`: `<<` stands for the keys of other maps, as in
    YAML 1.1; their nodes are where they were written. `told` gets what is wrong with them, of the codes `duplicate-key` and
    `merge-order`."""
    source = placed_text(text, file)
    bad = _NOT_ALLOWED.search(text)
    if bad:
        what = f"the character U+{ord(bad.group()):04X} is not allowed in YAML"
        hint = "remove it, or write it as an escape in a double-quoted scalar"
        raise DocumentError(source.location(bad.start()), what, hint, _SYNTAX)
    try:
        yield from _compose(source, merge, told if told is not None else [])
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        location = source.location(source.offset(mark.line, mark.column)) if mark else Location(file)
        message = ", ".join(part for part in (e.context, e.problem) if part) or "not YAML"
        raise DocumentError(location, message, _syntax_hint(source, location, message), _SYNTAX) from None
    except (yaml.YAMLError, ValueError) as e:
        raise DocumentError(Location(file), f"not YAML: {e}", "", _SYNTAX) from None


def _syntax_hint(source: PlacedText, location: Location, message: str) -> str:
    if "tab character" in message or source.text[source.offset(location.line - 1, location.column - 1) :][:1] == "\t":
        return "indent with spaces: YAML does not allow tabs"
    if "alias" in message or "scanning an anchor" in message:
        return "a value that begins with '*' or '&' must be quoted"
    if "mapping values are not allowed" in message:
        return "check the indentation, and quote a value that holds ': '"
    if "found character" in message and ("'@'" in message or "'`'" in message or "'%'" in message or "token" in message):
        return "quote the value"
    return "check the indentation and the quotes on this line and the one before"


def _loader() -> type[yaml.SafeLoader]:
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _compose(source: PlacedText, merge: bool, told: list[Diagnostic]) -> Iterator[YamlNode]:
    """Trees from the parser's events, without recursion."""
    composer = _Composer(source, merge, told)
    for event in yaml.parse(source.text, Loader=_loader()):
        root = composer.take(event)
        if root is not None and not root.empty:
            yield root


class _Composer:
    def __init__(self, source: PlacedText, merge: bool, told: list[Diagnostic]) -> None:
        self.source = source
        self.merge = merge
        self.told = told
        self.open: list[tuple[YamlNode, str, list[YamlNode]]] = []  # node, its anchor, children so far (of a map: key, value, key, ...)
        self.anchors: dict[str, YamlNode | None] = {}
        self.total = 0
        self.characters = 0
        self.last = 0  # where the last scalar, alias or flow collection ended

    def take(self, event: yaml.Event) -> YamlNode | None:
        """One event; the root node when it completes a document's tree."""
        if isinstance(event, yaml.DocumentStartEvent):
            self.anchors = {}
        elif isinstance(event, yaml.AliasEvent):
            return self.add(self.alias(event))
        elif isinstance(event, yaml.ScalarEvent):
            style = event.style if event.style in ("'", '"', "|", ">") else ""
            node = YamlNode(self.source, "scalar", self.start(event), event.value, style, event.tag or "")
            node.mark = self.mark(event)
            node.end = self.last = self.ended(event)
            if event.anchor:
                self.anchors[event.anchor] = node
            return self.add(node)
        elif isinstance(event, yaml.CollectionStartEvent):
            kind: NodeKind = "list" if isinstance(event, yaml.SequenceStartEvent) else "map"
            node = YamlNode(self.source, kind, self.start(event), tag=event.tag or "")
            node.mark, node.flow = self.mark(event), bool(event.flow_style)
            if len(self.open) >= MAX_DEPTH:
                raise DocumentError(node.location, f"the file nests deeper than {MAX_DEPTH} levels", "policies need about 6", "yaml-limit")
            if event.anchor:
                self.anchors[event.anchor] = None
            self.open.append((node, event.anchor or "", []))
        elif isinstance(event, yaml.CollectionEndEvent):
            node, anchor, children = self.open.pop()
            if node.kind == "list":
                node.items = children
            else:
                node.pairs = list(zip(children[::2], children[1::2], strict=True))
                if self.merge:
                    node.pairs = _merged(node.pairs, self.told)
            node.size = 1 + sum(child.size for child in children)
            node.length = sum(child.length for child in children)
            node.height = 1 + max((child.height for child in children), default=0)
            if node.flow:
                self.last = self.ended(event)
            node.end = self.last
            if anchor:
                self.anchors[anchor] = node
            return self.add(node)
        return None

    def add(self, node: YamlNode) -> YamlNode | None:
        if not self.open:
            node.anchors = bool(self.anchors)
            return node
        self.open[-1][2].append(node)
        return None

    def start(self, event: yaml.NodeEvent) -> int:
        """Where the content begins. The event's mark lies before the anchor and the tag."""
        self.count(1, event)
        text, at = self.source.text, self.mark(event)
        tagged = isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag
        while (event.anchor or tagged) and text[at : at + 1] in ("&", "!"):
            while at < len(text) and not text[at].isspace():
                at += 1
            while at < len(text) and text[at] == " ":
                at += 1
        return at

    def mark(self, event: yaml.NodeEvent) -> int:
        return self.source.offset(event.start_mark.line, event.start_mark.column) if event.start_mark else 0

    def ended(self, event: yaml.Event) -> int:
        return self.source.offset(event.end_mark.line, event.end_mark.column) if event.end_mark else 0

    def alias(self, event: yaml.AliasEvent) -> YamlNode:
        anchor = event.anchor or ""
        node = self.anchors.get(anchor)
        if node is None:
            what = f"*{anchor} contains itself" if anchor in self.anchors else f"the alias *{anchor} has no anchor before it"
            raise DocumentError(self.source.location(self.mark(event)), what, "a value that begins with '*' must be quoted", _SYNTAX)
        self.last = self.ended(event)
        if len(self.open) + node.height > MAX_DEPTH:
            what = f"the file nests deeper than {MAX_DEPTH} levels, aliases written out"
            raise DocumentError(self.source.location(self.mark(event)), what, "policies need about 6", "yaml-limit")
        self.count(node.size, event)
        self.characters += node.length  # texts that are written out are bounded by the size of the file already
        if self.characters > MAX_ALIASED:
            what = f"the aliases stand for more than {MAX_ALIASED >> 20} Mi characters"
            raise DocumentError(self.source.location(self.mark(event)), what, "write less behind anchors, or split the file", "yaml-limit")
        return node

    def count(self, size: int, event: yaml.NodeEvent) -> None:
        self.total += size
        if self.total > MAX_NODES:
            what = f"the file holds more than {MAX_NODES} values, aliases counted as often as they are used"
            raise DocumentError(self.source.location(self.mark(event)), what, "split the file", "yaml-limit")


# ---- merge keys ----


def _merged(pairs: list[tuple[YamlNode, YamlNode]], told: list[Diagnostic]) -> list[tuple[YamlNode, YamlNode]]:
    """The pairs of a map, with those in the place of `<<` that it has not itself: https://yaml.org/type/merge.html. Aliases have been
    counted already. Go's reader, which Kubernetes' is made of, lets the merged value win over a key before `<<`: that is told."""
    merging = [(key, value) for key, value in pairs if _merges(key)]
    if not merging:
        return pairs
    own = [(key, value) for key, value in pairs if not _merges(key)]
    known = {key.text for key, _ in own if key.kind == "scalar"}
    first = merging[0][0]
    told += (
        Diagnostic(key.location, f"'<<' was already given on line {first.location.line}", "write one: <<: [*a, *b]", code="duplicate-key")
        for key, _ in merging[1:]
    )
    before = {key.text: key for key, _ in pairs[: next(n for n, (key, _) in enumerate(pairs) if key is first)] if key.kind == "scalar"}
    for _, value in merging:
        for part in value.items if value.kind == "list" else [value]:
            if part.kind != "map":
                what = "'<<' merges a map, or a list of maps, into the one that it stands in"
                raise DocumentError(part.location, what, "write the alias of a map behind it: <<: *name", _SYNTAX)
            for key in [before.pop(inner.text) for inner, _ in part.pairs if inner.kind == "scalar" and inner.text in before]:
                what = f"{quoted(key.text)} stands before a '<<' that has it, too: here its own value holds, with kubectl the other"
                told.append(Diagnostic(key.location, what, "write it behind the '<<', or remove it", "warning", "merge-order"))
            more = [pair for pair in part.pairs if pair[0].kind == "scalar" and pair[0].text not in known]
            known.update(inner.text for inner, _ in more)
            own += more
    return own


def _merges(key: YamlNode) -> bool:
    return key.kind == "scalar" and key.text == "<<" and not key.style and key.tag in ("", "tag:yaml.org,2002:merge")
