# SPDX-License-Identifier: Apache-2.0
"""Changes of a document in, edits of its text out; every byte outside the edits stays as it is.

Called by `harden`. A library that reads a document and writes it again keeps comments and order, but not everywhere indentation, line
breaks, quotes and the spelling of numbers; here the text is never written again. What is added takes the indentation, the style of lists
and the line ends of its surroundings. Places that cannot be edited without touching others' text (behind aliases, in unusual forms) raise
CannotEditError; whoever applies edits reads the result again and compares (`harden` does).
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from bpfence.documents.yaml_nodes import YamlNode
from bpfence.pods.manifest import Field, Manifest, scalar

_REST: Final = re.compile(r"[ \t]*(?:#[^\r\n]*)?(?=\r|\n|\Z)")
_LINE_END: Final = re.compile(r"[\r\n]|\Z")
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_NOT_TEXTS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_ON_THE_LINE: Final = 1 << 30
_MAX_LOOK: Final = 10_000


class CannotEditError(Exception):
    """A change for which there is no edit that leaves the rest alone."""


class Change(NamedTuple):
    """One change: a scalar or list that a field is to hold, one more element of the list that it holds, or its end."""

    action: Literal["set", "append", "remove"]
    field: Field
    value: object = None


class Edit(NamedTuple):
    """The text between two offsets is replaced. Of insertions at one place the more deeply indented come first."""

    start: int
    end: int
    text: str
    column: int = 0


def apply(text: str, edits: Iterable[Edit]) -> str:
    """A text with its edits. CannotEditError where they overlap."""
    parts, at = [], 0
    for edit in in_order(edits):
        if edit.start < at:
            raise CannotEditError("two changes of the same text")
        parts += [text[at : edit.start], edit.text]
        at = edit.end
    return "".join([*parts, text[at:]])


def in_order(edits: Iterable[Edit]) -> list[Edit]:
    """Edits in the order of the text."""
    return sorted(edits, key=lambda edit: (edit.start, edit.end, -edit.column))


def changed(document: object, changes: Iterable[Change]) -> object:
    """A document as `manifest.plain` gives it, with the changes: what the edited text must read as. Changes it in place."""
    for change in changes:
        *way, last = change.field.steps
        holder = document
        for step, then in zip(way, change.field.steps[1:], strict=True):
            if isinstance(holder, list) and isinstance(step, int):
                holder = holder[step]
            elif isinstance(holder, dict):
                if holder.get(step) is None:
                    holder[step] = [] if isinstance(then, int) else {}
                holder = holder[step]
        if not isinstance(holder, dict):
            raise CannotEditError("not a map")
        if change.action == "remove":
            holder.pop(last, None)
        elif change.action == "append":
            holder[last] = [*(holder.get(last) or ()), change.value]
        else:
            holder[last] = change.value
    return document


def edits(manifest: Manifest, document: int, changes: Sequence[Change]) -> list[Edit]:
    """The edits for changes of one document of a manifest."""
    writer = _Writer(manifest, manifest.roots[document])
    for change in changes:
        match change.action:
            case "set":
                writer.put(change.field, change.value)
            case "append":
                writer.append(change.field, change.value)
            case "remove":
                writer.remove(change.field)
    return writer.finish()


class _Replaced(NamedTuple):
    """Lines of a text, from number `first` (from 0) on, and what takes their place."""

    first: int
    old: list[str]
    new: list[str]


def unified(text: str, edits: Iterable[Edit], file: str, context: int = 3) -> str:
    """A unified diff of a text and what edits make of it, as diff(1) writes it. Made from the edits alone: its time is linear."""
    lines = _lines(text)
    hunks: list[list[_Replaced]] = []
    for replaced in _replaced(text, edits):
        if hunks and replaced.first - (hunks[-1][-1].first + len(hunks[-1][-1].old)) <= 2 * context:
            hunks[-1].append(replaced)
        else:
            hunks.append([replaced])
    shown, grown = [f"--- {file}\n", f"+++ {file}\n"] if hunks else [], 0
    for hunk in hunks:
        first = max(hunk[0].first - context, 0)
        last = min(hunk[-1].first + len(hunk[-1].old) + context, len(lines))
        body, at, growth = [], first, 0
        for replaced in hunk:
            body += [f" {line}" for line in lines[at : replaced.first]]
            body += [f"-{line}" for line in replaced.old] + [f"+{line}" for line in replaced.new]
            at = replaced.first + len(replaced.old)
            growth += len(replaced.new) - len(replaced.old)
        body += [f" {line}" for line in lines[at:last]]
        shown.append(f"@@ -{_span(first, last - first)} +{_span(first + grown, last - first + growth)} @@\n")
        shown += [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in body]
        grown += growth
    return "".join(shown)


def _span(first: int, count: int) -> str:
    return f"{first + 1 if count else first},{count}"


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _replaced(text: str, edits: Iterable[Edit]) -> list[_Replaced]:
    """The lines that edits change, those that they leave as they are not among them."""
    starts = [0, *(found.end() for found in re.finditer("\n", text))]
    groups: list[tuple[int, int, list[Edit]]] = []
    for edit in in_order(edits):
        first = bisect_right(starts, edit.start) - 1
        last = bisect_right(starts, max(edit.start, edit.end - 1)) - 1
        if groups and first <= groups[-1][1]:
            begin, end, inside = groups.pop()
            groups.append((begin, max(end, last), [*inside, edit]))
        else:
            groups.append((first, last, [edit]))
    made = []
    for first, last, inside in groups:
        begin, end = starts[first], starts[last + 1] if last + 1 < len(starts) else len(text)
        old = _lines(text[begin:end])
        new = _lines(apply(text[begin:end], (edit._replace(start=edit.start - begin, end=edit.end - begin) for edit in inside)))
        while old and new and old[0] == new[0]:
            first, old, new = first + 1, old[1:], new[1:]
        while old and new and old[-1] == new[-1]:
            old, new = old[:-1], new[:-1]
        made.append(_Replaced(first, old, new))
    return made


class _Style(NamedTuple):
    """How a document is written: spaces for a level and before the dash of a list, line ends, and JSON's separators."""

    step: int
    dash: int
    newline: str
    json: bool
    comma: str
    colon: str


def _style(manifest: Manifest, root: YamlNode) -> _Style:
    text, step, dash = manifest.source.text, 0, -1
    waiting, looked = deque([root]), 0
    while waiting and looked < _MAX_LOOK and not (step and dash >= 0):
        node, looked = waiting.popleft(), looked + 1
        for key, value in node.pairs:
            if value.mark > key.mark and value.kind == "map" and value.pairs and (manifest.json or not value.flow):
                step = step or _column(manifest, value.pairs[0][0].mark) - _column(manifest, key.mark)
            if value.mark > key.mark and value.kind == "list" and not value.flow and dash < 0:
                dash = _column(manifest, value.start) - _column(manifest, key.mark)
        waiting.extend([*(value for _, value in node.pairs), *node.items][:_MAX_LOOK])
    step = step if 1 <= step <= 8 else 2
    newline = "\r\n" if "\r\n" in text[:_MAX_LOOK] else "\n"
    spaced = not manifest.json or not re.search(r'"\s*:(?=[^ ])', text[:_MAX_LOOK])
    return _Style(step, dash if 0 <= dash <= 8 else step, newline, manifest.json, ", " if spaced else ",", ": " if spaced else ":")


def _column(manifest: Manifest, offset: int) -> int:
    return manifest.source.location(offset).column - 1


class _Writer:
    """Collects the edits of one document. What is added to one map is collected first, so that it is added once."""

    def __init__(self, manifest: Manifest, root: YamlNode) -> None:
        self.manifest = manifest
        self.text = manifest.source.text
        self.style = _style(manifest, root)
        self.edits: list[Edit] = []
        self.added: dict[int, tuple[Field, dict[str, object]]] = {}
        self.appended: dict[int, tuple[YamlNode, list[object]]] = {}
        self.written: dict[int, set[str]] = {}  # the keys of maps
        self.removed: dict[int, tuple[YamlNode, set[str]]] = {}

    def finish(self) -> list[Edit]:
        for field, values in self.added.values():
            self.add(field, values)
        for node, items in self.appended.values():
            self.extend(node, items)
        for node, keys in self.removed.values():
            self.cut(node, keys)
        return list(dict.fromkeys(self.edits))

    # ---- what is wanted ----

    def put(self, field: Field, value: object) -> None:
        own = self.own(field)
        if own is None or (isinstance(value, list) and not field.given):
            self.collect(field, value, own)
        elif isinstance(value, list) or own.kind != "scalar" or own.style in ("|", ">") or own.mark != own.start:
            raise CannotEditError("a value of an unusual form")
        elif not own.text and not own.style:
            self.edits.append(Edit(own.end, own.end, " " + self.flow(value), _ON_THE_LINE))
        else:
            quoted = isinstance(value, str) and own.style
            text = own.style + value + own.style if quoted and isinstance(value, str) else self.flow(value)
            self.edits.append(Edit(own.start, own.end, text))

    def append(self, field: Field, value: object) -> None:
        node = field.node
        if node is None or node.kind != "list":
            self.put(field, [value])
            return
        items = self.appended.setdefault(id(node), (node, []))[1]
        if value not in items:
            items.append(value)

    def remove(self, field: Field) -> None:
        node = field.parent.node if field.parent is not None else None
        if node is None or self.own(field) is None:
            raise CannotEditError("a key that is merged from elsewhere")
        self.removed.setdefault(id(node), (node, set()))[1].add(str(field.key))

    def own(self, field: Field) -> YamlNode | None:
        """A field's node where it is written under its own key: not merged."""
        holder = field.parent.node if field.parent is not None else None
        if field.node is None or holder is None:
            return None
        if holder.kind != "map":
            return field.node
        if id(holder) not in self.written:
            self.written[id(holder)] = {name.text for name, _ in holder.pairs}
        return field.node if field.key in self.written[id(holder)] else None

    def collect(self, field: Field, value: object, own: YamlNode | None) -> None:
        """Note what is to be added, at the innermost map that is there, or null and can become one."""
        path: list[str] = [str(field.key)]
        holder = field.parent
        while holder is not None and holder.node is None:
            path.append(str(holder.key))
            holder = holder.parent
        if own is not None:
            path, holder = [], field
        if holder is None or holder.node is None:
            raise CannotEditError("nothing to add it to")
        values = self.added.setdefault(id(holder.node), (holder, {}))[1]
        inner = values
        if not path:
            values[""] = value  # the whole of a null: a list
            return
        for key in reversed(path[1:]):
            made = inner.setdefault(key, {})
            assert isinstance(made, dict)
            inner = made
        inner[path[0]] = value

    # ---- how it is written ----

    def add(self, field: Field, values: Mapping[str, object]) -> None:
        """Add to a map; what is null, or `{}`, becomes one."""
        node = field.node
        assert node is not None
        content: object = values.get("", values)
        if node.kind == "map" and node.pairs:
            if node.flow:
                last = node.pairs[-1]
                indent = self.indent_of(last[0].mark)
                self.into_flow(last[0].mark, self.end_of(*last), [self.pair(key, value, indent) for key, value in values.items()])
            else:
                self.after(node, self.block(values, _column(self.manifest, node.pairs[0][0].mark)))
            return
        self.replace_nothing(field, node, content)

    def replace_nothing(self, field: Field, node: YamlNode, content: object) -> None:
        holder = field.parent.node if field.parent is not None else None
        if node.flow and (holder is None or holder.kind == "list"):
            self.edits.append(Edit(node.start, node.end, self.flow(content)))
            return
        if holder is None or holder.kind != "map" or node.mark != node.start or (node.kind == "scalar" and scalar(node) is not None):
            raise CannotEditError("a value of an unusual form")
        key = next(name for name, value in reversed(holder.pairs) if value is node)
        if node.mark < key.mark:
            raise CannotEditError("a value behind an alias")
        rest = _REST.match(self.text, node.end)
        if holder.flow or rest is None or self.text[node.start : node.end].strip("{} \t") not in ("", "null", "Null", "NULL", "~"):
            text = self.flow(content, self.indent_of(key.mark))
            self.edits.append(Edit(node.start, node.end, text if node.text or node.flow else " " + text, _ON_THE_LINE))
            return
        if node.end > node.start and (indent := self.indent_of(node.start)) is not None:  # on a line of its own, as templates write it
            lines = self.block(content, len(indent))
            self.edits.append(Edit(node.start, node.end, self.style.newline.join(lines)[len(indent) :]))
            return
        column = _column(self.manifest, key.mark) + (self.style.dash if isinstance(content, list) else self.style.step)
        if node.end > node.start:
            self.edits.append(Edit(self.before_space(node.start), node.end, ""))
        lines = self.block(content, column)
        self.edits.append(Edit(rest.end(), rest.end(), "".join(self.style.newline + line for line in lines), column))

    def after(self, node: YamlNode, lines: Sequence[str]) -> None:
        """Add lines behind a block collection."""
        newline, column = self.style.newline, len(lines[0]) - len(lines[0].lstrip(" "))
        last = node
        while last.kind != "scalar" and not last.flow:
            inner = last.items[-1] if last.kind == "list" else last.pairs[-1][1]
            if inner.mark < last.mark:
                break
            last = inner
        if last.kind == "scalar" and last.style in ("|", ">") and "+" in self.text[last.start : last.start + 3]:
            # Line ends behind it are part of it.
            before = "" if self.text[node.end - 1] in "\r\n" else newline
            self.edits.append(Edit(node.end, node.end, before + "".join(line + newline for line in lines), column))
            return
        end = node.end
        if last.kind == "scalar" and last.style in ("|", ">"):
            end = self.line_end(self.before_space(end))
        rest = _REST.match(self.text, end)
        if rest is None:
            raise CannotEditError("something else on the line")
        self.edits.append(Edit(rest.end(), rest.end(), "".join(newline + line for line in lines), column))

    def into_flow(self, last: int, end: int, parts: Sequence[str]) -> None:
        """Add to a collection in brackets, behind its last element; on lines of their own where that one is."""
        text, indent = self.text, self.indent_of(last)
        after = re.compile(r"[ \t]*(,?)").match(text, end)
        assert after is not None
        rest = _REST.match(text, after.end())
        if indent is None or rest is None:
            self.edits.append(Edit(end, end, "".join(self.style.comma + part for part in parts)))
            return
        lines = [self.style.newline + indent + part for part in parts]
        if not after[1]:
            self.edits.append(Edit(end, end, ","))
        self.edits.append(Edit(rest.end(), rest.end(), ",".join(lines) + after[1]))

    def extend(self, node: YamlNode, items: Sequence[object]) -> None:
        """Add to the elements of a list."""
        parts = [self.flow(item) for item in items]
        if not node.flow:
            column = _column(self.manifest, node.start)
            if self.text[node.start : node.start + 1] != "-":
                raise CannotEditError("a list of an unusual form")
            self.after(node, [f"{' ' * column}- {part}" for part in parts])
        elif not node.items:
            self.edits.append(Edit(node.start, node.end, f"[{self.style.comma.join(parts)}]"))
        else:
            last = node.items[-1]
            if last.mark < node.mark:
                raise CannotEditError("a value behind an alias")
            self.into_flow(last.mark, last.end, parts)

    def cut(self, node: YamlNode, keys: set[str]) -> None:
        """Take pairs out of a map; where none stays, `{}` does."""
        if all(key.text in keys for key, _ in node.pairs):
            first = node.pairs[0]
            if node.flow:
                self.edits.append(Edit(node.start, node.end, "{}"))
                return
            self.edits.append(Edit(first[0].mark, self.end_of(*first), "{}"))
            keys = keys - {first[0].text}
        number = 0
        while number < len(node.pairs):
            start = behind = number
            while behind < len(node.pairs) and node.pairs[behind][0].text in keys:
                behind += 1
            number = behind + 1
            if behind > start:
                self.cut_run(node, start, behind)

    def cut_run(self, node: YamlNode, first: int, behind: int) -> None:
        """Take neighbouring pairs out of a map in which others stay."""
        mark = node.pairs[first][0].mark
        if node.flow or self.indent_of(mark) is None:
            if behind < len(node.pairs):
                self.edits.append(Edit(mark, node.pairs[behind][0].mark, ""))
            else:
                self.edits.append(Edit(self.end_of(*node.pairs[first - 1]), self.end_of(*node.pairs[behind - 1]), ""))
            return
        for key, value in node.pairs[first:behind]:
            end = self.end_of(key, value)
            end = self.before_space(end) if value.kind != "scalar" or value.style in ("|", ">") else end
            self.cut_lines(self.line_start(key.mark), self.line_end(end), comments=value.kind == "map" and not value.flow)

    def cut_lines(self, start: int, stop: int, *, comments: bool) -> None:
        """Take lines out; with `comments` those stay that hold nothing else."""
        at = begin = start
        while comments and at < stop:
            end = self.line_end(at)
            after = end + (2 if self.text.startswith("\r\n", end) else 1)
            if self.text[at:end].lstrip(" ").startswith("#"):
                if begin < at:
                    self.cut_lines(begin, self.before_space(at), comments=False)
                begin = after
            at = after
        if begin >= stop:
            return
        # With the line end before it, not the one behind: what is added behind the line has its place there.
        if not begin:
            stop += 2 if self.text.startswith("\r\n", stop) else 1 if stop < len(self.text) else 0
        begin -= 2 if begin > 1 and self.text.startswith("\r\n", begin - 2) else 1 if begin else 0
        self.edits.append(Edit(begin, stop, ""))

    # ---- places ----

    def end_of(self, key: YamlNode, value: YamlNode) -> int:
        if value.mark < key.mark:
            raise CannotEditError("a value behind an alias")
        return value.end

    def line_start(self, offset: int) -> int:
        return offset - _column(self.manifest, offset)

    def line_end(self, offset: int) -> int:
        found = _LINE_END.search(self.text, offset)
        assert found is not None
        return found.start()

    def before_space(self, offset: int) -> int:
        """Where white space begins that ends at an offset."""
        while offset and self.text[offset - 1].isspace():
            offset -= 1
        return offset

    def indent_of(self, offset: int) -> str | None:
        """What is before it on its line; None where that is more than white space."""
        before = self.text[self.line_start(offset) : offset]
        return before if not before.strip(" \t") else None

    # ---- texts ----

    def pair(self, key: str, value: object, indent: str | None = None) -> str:
        return f"{json.dumps(key) if self.style.json else key}{self.style.colon}{self.flow(value, indent)}"

    def flow(self, value: object, indent: str | None = None) -> str:
        """A value in brackets: on one line, in JSON on several where its neighbours stand on lines of their own, with this indentation."""
        comma, colon = self.style.comma, self.style.colon
        if self.style.json and indent is not None:
            level: int | str = "\t" if "\t" in indent else self.style.step
            return json.dumps(value, ensure_ascii=False, indent=level).replace("\n", self.style.newline + indent)
        if self.style.json:
            return json.dumps(value, ensure_ascii=False, separators=(comma, colon))
        if isinstance(value, dict):
            return "{" + comma.join(self.pair(key, inner) for key, inner in value.items()) + "}"
        if isinstance(value, list):
            return "[" + comma.join(self.flow(item) for item in value) + "]"
        if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXTS:
            return value
        return json.dumps(value)

    def block(self, value: object, column: int) -> list[str]:
        """A map or list on lines of their own."""
        pad = " " * column
        if isinstance(value, list):
            return [f"{pad}- {self.flow(item)}" for item in value]
        assert isinstance(value, Mapping)
        lines: list[str] = []
        for key, inner in value.items():
            if isinstance(inner, dict) and inner:
                lines += [f"{pad}{key}:", *self.block(inner, column + self.style.step)]
            elif isinstance(inner, list) and inner:
                lines += [f"{pad}{key}:", *self.block(inner, column + self.style.dash)]
            else:
                lines.append(f"{pad}{key}: {self.flow(inner)}")
        return lines
