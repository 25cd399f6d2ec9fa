# SPDX-License-Identifier: Apache-2.0
"""A policy file that was read and its new text in, the part that has to be read and what the whole came to out.

Called by `read` at a reload. A file of thousands of rules of which one has changed is read at that rule only. All else stays as it was
read: the text in front of the rules and behind them, and every rule that has not changed. Where it is not certain that this comes to the
same as reading the file as a whole, the answer is None, and the file is read as a whole. That is so where

    the file holds more than one policy, or none        the rules are not a list of lines with dashes, or are too few
    there are anchors or aliases                        something else than rules has changed
    the policy has a default or a rule that allows      the changed rules have to do with findings about others
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from bpfence.dialects.native import gaps
from bpfence.documents.yaml_nodes import MAX_NODES, YamlNode
from bpfence.errors import Diagnostic, Location
from bpfence.policy import Action, Policy, Rule

FEW: Final = 8
"""Fewer rules are read as a whole."""
_DASH: Final = re.compile(r" *- +")


class Parts(NamedTuple):
    """A text taken apart at its rules.

    `starts`: offsets at which the line of each rule begins, and behind the last one that at which the line after it begins; `lines`: the
    numbers of these lines, from 1. `nodes`: at least as many as there are.
    """

    text: str
    starts: tuple[int, ...]
    lines: tuple[int, ...]
    nodes: int
    together: gaps.Together


class Read(NamedTuple):
    """What a text came to."""

    policy: Policy
    diagnostics: tuple[Diagnostic, ...]
    parts: Parts


def taken_apart(root: YamlNode, policy: Policy, together: gaps.Together) -> Parts | None:
    """The parts of a text that holds one policy, without mistakes; None where there is something in it that parts do not know of."""
    if policy.default or len(policy.rules) < FEW or any(rule.action is Action.ALLOW for rule in policy.rules) or root.anchors:
        return None
    found = _starts(root)
    if found is None or len(found) != len(policy.rules) + 1:
        return None
    return Parts(root.source.text, found, tuple(root.source.location(start).line for start in found), root.size, together)


def _starts(root: YamlNode) -> tuple[int, ...] | None:
    """`Parts.starts`; None where the rules are no list of which each begins on a line of its own."""
    entries = {key.text: value for key, value in root.pairs}
    spec = {key.text: value for key, value in entries["spec"].pairs}
    rules = spec.get("rules")
    if rules is None or rules.kind != "list" or rules.flow or not rules.items:
        return None
    text, source = root.source.text, root.source
    starts = []
    for item in rules.items:
        begin = source.starts[bisect_right(source.starts, item.mark) - 1]
        if not _DASH.fullmatch(text, begin, item.mark):
            return None
        starts.append(begin)
    if any(one >= other for one, other in pairwise(starts)):
        return None
    behind = bisect_left(source.starts, rules.end)
    return *starts, source.starts[behind] if behind < len(source.starts) else len(text)


class _Change(NamedTuple):
    """Rules `first` to `last` have changed; `by`: how much longer the text is; `begin`, `end`: those read with them, for certainty."""

    first: int
    last: int
    by: int
    begin: int
    end: int


def _changed(parts: Parts, text: str) -> _Change | None:
    before, starts = parts.text, parts.starts
    same = _alike(before, text, min(len(before), len(text)), lambda t, n, m: t[n:m])
    left = min(len(before), len(text)) - same
    behind = _alike(before, text, left, lambda t, n, m: t[len(t) - m : len(t) - n])
    by, count = len(text) - len(before), len(starts) - 1
    first = bisect_left(starts, same) - 1
    last = max(first, bisect_left(starts, len(before) - behind) - 1)
    # A line that ends no more, or begins otherwise, belongs to what comes next.
    if first < 0 or last >= count or text[starts[last + 1] + by - 1 : starts[last + 1] + by] != "\n":
        return None
    return _Change(first, last, by, max(first - 1, 0), min(last + 1, count - 1))


def _alike(one: str, other: str, most: int, part: Callable[[str, int, int], str]) -> int:
    """How many characters are the same from one end, by a function that takes a part of a text counted from there."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if part(one, low, middle) == part(other, low, middle) else (low, middle - 1)
    return low


ReadPart = Callable[[str], "tuple[YamlNode, Policy, Sequence[Diagnostic]] | None"]
"""Reads a text with one policy: its root, the policy, and what is found in it but by looking at several rules; None where there is a
mistake."""


def reread(before: Read, text: str, read: ReadPart) -> Read | None:
    """What the new text comes to; None where it has to be read as a whole."""
    parts, policy = before.parts, before.policy
    change = _changed(parts, text)
    if change is None:
        return None
    starts, by = parts.starts, change.by
    found = read(text[: starts[0]] + text[starts[change.begin] : starts[change.end + 1] + by] + text[starts[-1] + by :])
    if found is None or found[0].anchors:
        return None
    root, small, told = found
    own = _starts(root)
    ahead, after = change.first - change.begin, change.end - change.last
    if own is None or len(own) != len(small.rules) + 1 or not _fits(parts, change, own):
        return None
    if msgspec.structs.replace(small, rules=()) != msgspec.structs.replace(policy, rules=()):
        return None
    rules = small.rules[ahead : len(small.rules) - after]
    gone = policy.rules[change.first : change.last + 1]
    nodes = parts.nodes + root.size
    if nodes > MAX_NODES or any(rule.action is Action.ALLOW for rule in rules) or not _same_together(policy, change, rules):
        return None
    lines = [root.source.location(start).line for start in own[ahead : len(own) - 1 - after]]
    moved = parts.lines[change.first] - root.source.location(own[ahead]).line
    fresh = tuple(_at(rule, moved) for rule in rules)
    more = root.source.location(own[len(own) - 1 - after]).line + moved - parts.lines[change.last + 1]
    whole = (*policy.rules[: change.first], *fresh, *(_at(rule, more) for rule in policy.rules[change.last + 1 :]))
    if len({rule.name for rule in whole}) != len(whole) or not len(gone):
        return None
    first, behind = parts.lines[change.first], parts.lines[change.last + 1]
    diagnostics = [one for one in before.diagnostics if one.location.line < first]
    diagnostics += (_told(one, moved) for one in told if first <= one.location.line + moved < behind + more)
    diagnostics += _gaps(parts.together, msgspec.structs.replace(policy, rules=fresh))
    diagnostics += (_told(one, more) for one in before.diagnostics if one.location.line >= behind)
    diagnostics.sort(key=lambda one: (one.location.line, one.location.column))
    shift = starts[change.first] - own[ahead]
    offsets = (start + shift for start in own[ahead : len(own) - 1 - after])
    made = Parts(
        text,
        (*starts[: change.first], *offsets, *(start + by for start in starts[change.last + 1 :])),
        (*parts.lines[: change.first], *(line + moved for line in lines), *(line + more for line in parts.lines[change.last + 1 :])),
        nodes,
        parts.together,
    )
    return Read(msgspec.structs.replace(policy, rules=whole), tuple(diagnostics), made)


def _fits(parts: Parts, change: _Change, own: Sequence[int]) -> bool:
    """Whether the rules beside the changed ones were found where they are, which shows that the changed ones begin and end there."""
    starts, at = parts.starts, parts.starts[0]
    ahead = starts[change.first] - starts[change.begin]
    if own[0] != at or (ahead and own[1:2] != (at + ahead,)):
        return False
    end = at + starts[change.end + 1] + change.by - starts[change.begin]
    after = starts[change.end + 1] - starts[change.last + 1]
    return own[-1] == end and (not after or own[-2] == end - after)


def _same_together(policy: Policy, change: _Change, rules: Sequence[Rule]) -> bool:
    """Whether nothing that is told of other rules changes: these rules bring about the same as those in whose place they come, with
    the ones beside them."""
    beside = policy.rules[change.begin : change.first], policy.rules[change.last + 1 : change.end + 1]
    gone = policy.rules[change.begin : change.end + 1]
    one, other = (gaps.Together(msgspec.structs.replace(policy, rules=tuple(some))) for some in (gone, (*beside[0], *rules, *beside[1])))
    return (one.denied, one.new_names, one.networks) == (other.denied, other.new_names, other.networks)


def _gaps(together: gaps.Together, policy: Policy) -> Iterable[Diagnostic]:
    found = gaps.gaps(policy, together)
    return (Diagnostic(gap.place, gap.message, gap.hint, "warning", gap.code) for gap in found if gap.place != policy.location)


def _moved(place: Location, lines: int) -> Location:
    return Location(place.file, place.line + lines, place.column)


def _at(rule: Rule, lines: int) -> Rule:
    return msgspec.structs.replace(rule, location=_moved(rule.location, lines)) if lines else rule


def _told(diagnostic: Diagnostic, lines: int) -> Diagnostic:
    return msgspec.structs.replace(diagnostic, location=_moved(diagnostic.location, lines)) if lines else diagnostic
