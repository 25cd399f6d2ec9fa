# SPDX-License-Identifier: Apache-2.0
"""Final Falco rules and what the symbolic links of a tree make of their paths in, the same rules for both names out.

Called by `agent.loading` before rules are lowered and compiled, so that the kernel and user space decide by the same tests. Where `fd.name`
and its like are the text that the caller gave (`strict_paths: text`), they are left as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Final

from bpfence.conditions.links import FindLinks, Widened, findings, looked_up, other_texts
from bpfence.dialects.falco.options import PathSource
from bpfence.dialects.falco.read.checks import Comparison, FieldGetter
from bpfence.dialects.falco.read.fields import FALCO_FIELDS, Type
from bpfence.dialects.falco.read.language import AndNode, NotNode, OrNode
from bpfence.dialects.falco.read.resolve import FalcoRule
from bpfence.errors import Diagnostic
from bpfence.policy import Op

PROGRAMS: Final = frozenset(field.name for field in FALCO_FIELDS if field.type is Type.PATH and field.name.endswith("exepath"))
RESOLVED: Final = PROGRAMS | {"proc.cwd", "bpfence.path"}
"""Fields that always hold the path that the kernel resolved."""
EITHER: Final = frozenset(
    ("fd.name", "fd.directory", "fs.path.name", "fs.path.source", "fs.path.target", "evt.abspath", "evt.abspath.src", "evt.abspath.dst")
) | {f"evt.arg.{name}" for name in ("path", "pathname", "filename", "name", "oldpath", "newpath", "linkpath")}  # fmt: skip
"""Fields that hold it with `strict_paths: kernel`."""
_OPS: Final = {
    "=": Op.EQUALS, "==": Op.EQUALS, "!=": Op.EQUALS, "in": Op.EQUALS, "intersects": Op.EQUALS, "pmatch": Op.EQUALS,
    "startswith": Op.PREFIX,
}  # fmt: skip
_JOINED: Final = ("in", "intersects", "pmatch")


def paths_of(rules: Iterable[FalcoRule], paths: PathSource = "kernel") -> Iterator[str]:
    """Every path of some rules that has to be looked up."""
    for test in _tests(rules):
        if _concerned(test, paths):
            for value in test.values:
                yield from looked_up(_OPS[test.operator], _plain(test, str(value)))


def widened(
    rules: Iterable[FalcoRule], find: FindLinks, paths: PathSource = "kernel", where: str = "on this host"
) -> tuple[list[FalcoRule], list[Diagnostic]]:
    """The rules with every path in all of its names, and what changes by it, as information; a program of many names is a warning."""
    made = []
    diagnostics: list[Diagnostic] = []
    for rule in rules:
        told: list[Widened] = []
        condition = _Widener(find, paths, told).tree(rule.condition)
        diagnostics += findings(told, rule.location, f"rule {rule.name!r}", where)
        made.append(rule if condition is rule.condition else dataclasses.replace(rule, condition=condition))
    return made, diagnostics


def _tests(rules: Iterable[FalcoRule]) -> Iterator[Comparison]:
    seen: set[int] = set()
    pending: list[Any] = [rule.condition for rule in rules]
    while pending:
        node = pending.pop()
        if id(node) in seen:  # parts that macros bring are shared
            continue
        seen.add(id(node))
        if isinstance(node, Comparison):
            yield node
        elif isinstance(node, NotNode):
            pending.append(node.part)
        else:
            pending += node.parts


def _concerned(test: Comparison, paths: PathSource) -> bool:
    if not isinstance(test.left, FieldGetter) or test.right is not None or test.modifier or test.operator not in _OPS:
        return False
    name = test.left.use.field.name
    argument = test.left.use.argument
    if name == "evt.arg" and argument is not None:
        name = f"evt.arg.{argument}"
    return name in RESOLVED or (paths == "kernel" and name in EITHER)


def _plain(test: Comparison, value: str) -> str:
    """A value as a path, without the '/' at the end that proc.cwd has, and that paths of a set may have."""
    ends = test.operator == "pmatch" or (_is_cwd(test) and test.operator != "startswith")
    return value.rstrip("/") or value if ends else value


def _is_cwd(test: Comparison) -> bool:
    return isinstance(test.left, FieldGetter) and test.left.use.field.name == "proc.cwd"


class _Widener:
    def __init__(self, find: FindLinks, paths: PathSource, told: list[Widened]) -> None:
        self.find = find
        self.paths = paths
        self.told = told
        self.known: dict[int, Any] = {}

    def tree(self, node: Any) -> Any:
        """The tree; the same object where nothing in it changes."""
        widened_tree = self.known.get(id(node))
        if widened_tree is None:
            widened_tree = self.known[id(node)] = self.made(node)
        return widened_tree

    def made(self, node: Any) -> Any:
        if isinstance(node, Comparison):
            return self.test(node) if _concerned(node, self.paths) else node
        if isinstance(node, NotNode):
            part = self.tree(node.part)
            return node if part is node.part else NotNode(part)
        parts = []
        for part in node.parts:
            parts.append(self.tree(part))  # noqa: PERF401  # a comprehension costs a stack frame a level
        return node if all(a is b for a, b in zip(parts, node.parts, strict=True)) else type(node)(tuple(parts))

    def test(self, test: Comparison) -> Any:
        op = _OPS[test.operator]
        name = test.left.use.field.name if isinstance(test.left, FieldGetter) else ""
        more: list[str] = []
        for value in test.values:
            text = _plain(test, str(value))
            for path in looked_up(op, text):
                resolution = self.find(path)
                if resolution.program and resolution.program not in test.values:
                    self.told.append(Widened(name, text, "", path, resolution))
            for other, path, resolution in other_texts(op, text, self.find):
                if not _said(test, other):
                    more.append(other + "/" if _is_cwd(test) and op is Op.EQUALS else other)
                    self.told.append(Widened(name, text, other, path, resolution))
        if not more:
            return test
        if test.operator in _JOINED:
            return dataclasses.replace(test, values=(*test.values, *more))
        tests: tuple[Any, ...] = (test, *(dataclasses.replace(test, values=(other,)) for other in more))
        return AndNode(tests) if test.operator == "!=" else OrNode(tests)


def _said(test: Comparison, other: str) -> bool:
    """Whether a test names the other text already."""
    if test.operator == "pmatch":
        return any(other == value or other.startswith(f"{str(value).rstrip('/')}/") for value in test.values)
    return other in test.values
