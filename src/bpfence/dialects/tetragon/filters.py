# SPDX-License-Identifier: Apache-2.0
"""Filters of events as Tetragon writes them in, whether an event passes, and what of it is shown, out.

Called with an event in the form of its export (`show`): by the service for a client's request, and by what `--export-allowlist` and its kin
say. Compiled once. Patterns are RE2's, in time linear in the text; what a client may ask for is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import re2

from bpfence.conditions.labels import label_holds
from bpfence.dialects.tetragon.wire import EVENTS
from bpfence.policy import Label

Event = Mapping[str, Any]
Test = Callable[[str, Event], bool]
"""The event's type in small letters, and what stands under it."""
MAX_FILTERS: Final = 64
MAX_VALUES: Final = 512
"""Values in all filters of a list."""
MAX_PATTERN: Final = 4096
PATTERN_BYTES: Final = 1 << 20
"""Memory that RE2 may take for a pattern."""
MAX_PIDS: Final = 65_536
"""Descendants that `pid_set` remembers."""
REDACTED: Final = "*****"
_ENVELOPE: Final = frozenset(("node_name", "time", "cluster_name", "node_labels", "aggregation_info"))
_SETS: Final = ("permitted", "effective", "inheritable")
_REQUIREMENT: Final = re.compile(
    r"\s*(?:(?P<absent>!)\s*(?P<no>[^\s!=,()]+)|(?P<key>[^\s!=,()]+)"
    r"(?:\s*(?P<op>==|=|!=)\s*(?P<value>[^\s!=,()]*)|\s+(?P<word>in|notin)\s*\((?P<values>[^()]*)\))?)\s*"
)


class FilterError(Exception):
    """What is wrong with a filter, for whoever wrote it."""


def kind_of(event: Event) -> str:
    """The type of an event in small letters; "" where it has none of Tetragon's."""
    return next((key for key in event if key not in _ENVELOPE and key.upper() in EVENTS), "")


class Filters:
    """A list of allowed and one of denied events. Items are alternatives, fields of an item are all required, and what is denied counts.

    FilterError where one cannot be understood: to pass over a field would let other events through.
    """

    def __init__(self, allow: Sequence[Any] = (), deny: Sequence[Any] = ()) -> None:
        self._allow, self._deny = _compiled(allow), _compiled(deny)

    def pass_(self, event: Event) -> bool:
        """Whether an event is to be told. A loss always is, and what is no event of Tetragon's."""
        kind = kind_of(event)
        if kind in ("", "rate_limit_info"):
            return True
        own = event.get(kind) or {}
        allowed = [_passes(tests, kind, own) for tests in self._allow]
        denied = [_passes(tests, kind, own) for tests in self._deny]
        return (not allowed or any(allowed)) and not any(denied)


def _passes(tests: Sequence[Test], kind: str, own: Event) -> bool:
    results = [test(kind, own) for test in tests]  # no short cut: `pid_set` learns from every event
    return all(results)


def _compiled(filters: Sequence[Any]) -> list[list[Test]]:
    if len(filters) > MAX_FILTERS:
        raise FilterError(f"{len(filters)} filters in a list; {MAX_FILTERS} are allowed")
    if not all(isinstance(one, Mapping) for one in filters):
        raise FilterError("a filter must be an object")
    if sum(len(value) if isinstance(value, list) else 1 for one in filters for value in one.values()) > MAX_VALUES:
        raise FilterError(f"more than {MAX_VALUES} values in a list of filters")
    return [list(_tests(one)) for one in filters]


def _tests(one: Mapping[str, Any]) -> Iterator[Test]:
    for name, value in one.items():
        make = _FIELDS.get(name)
        if make is None:
            raise FilterError(f"the filter {name!r} is not supported")
        yield make(name, value)


# ---- values ----


def _texts(name: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise FilterError(f"{name} must be a list of texts")
    return value


def _numbers(name: str, value: Any) -> list[int]:
    if not isinstance(value, list) or not all(isinstance(one, int) and not isinstance(one, bool) for one in value):
        raise FilterError(f"{name} must be a list of numbers")
    return value


def _yes_or_no(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise FilterError(f"{name} must be true or false")
    return value


def pattern(name: str, text: str) -> Any:
    """A pattern of RE2. FilterError where it is none, or needs too much memory."""
    options = re2.Options()
    options.max_mem, options.log_errors = PATTERN_BYTES, False
    if len(text) > MAX_PATTERN:
        raise FilterError(f"{name}: a pattern of more than {MAX_PATTERN} characters")
    try:
        return re2.compile(text, options)
    except re2.error as error:
        why = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else str(error)
        raise FilterError(f"{name}: {text!r} is no pattern of RE2: {why}") from None


def _found(patterns: Iterable[Any], text: Any) -> bool:
    return isinstance(text, str) and any(one.search(text) is not None for one in patterns)


def events_of(name: str, value: Any) -> frozenset[str]:
    """Types of events, by their names or numbers, in small letters."""
    by_number = {number: event for event, number in EVENTS.items()}
    if not isinstance(value, list):
        raise FilterError(f"{name} must be a list of types of events")
    chosen = [one if isinstance(one, str) else by_number.get(one, "") if isinstance(one, int) else "" for one in value]
    for one, given in zip(chosen, value, strict=True):
        if one not in EVENTS:
            raise FilterError(f"{name}: there is no type of events {given!r}; there are {', '.join(EVENTS)}")
    return frozenset(one.lower() for one in chosen)


# ---- fields of filters ----


def _process(event: Event) -> Event:
    return event.get("process") or {}


def _pod(event: Event) -> Event | None:
    return _process(event).get("pod")


def _regex(of: Callable[[Event], Iterable[Any]]) -> Callable[[str, Any], Test]:
    def make(name: str, value: Any) -> Test:
        patterns = [pattern(name, text) for text in _texts(name, value)]
        return lambda _, event: any(_found(patterns, text) for text in of(event))

    return make


def _namespaces(name: str, value: Any) -> Test:
    wanted = frozenset(_texts(name, value))
    return lambda _, event: (_pod(event) or {}).get("namespace", "") in wanted


def _pids(name: str, value: Any) -> Test:
    wanted = frozenset(_numbers(name, value))
    return lambda _, event: _process(event).get("pid") in wanted


def _descendants(name: str, value: Any) -> Test:
    known = set(_numbers(name, value))

    def test(_: str, event: Event) -> bool:
        pid = _process(event).get("pid")
        if pid in known:
            return True
        if (event.get("parent") or {}).get("pid") not in known:
            return False
        if pid is not None and len(known) < MAX_PIDS:
            known.add(pid)
        return True

    return test


def _event_set(name: str, value: Any) -> Test:
    wanted = events_of(name, value)
    return lambda kind, _: kind in wanted


def _policies(name: str, value: Any) -> Test:
    wanted = frozenset(_texts(name, value))
    return lambda _, event: event.get("policy_name") in wanted


def _health(name: str, value: Any) -> Test:
    wanted = _yes_or_no(name, value)
    return lambda _, event: bool(((_pod(event) or {}).get("container") or {}).get("maybe_exec_probe", False)) is wanted


def _in_init_tree(name: str, value: Any) -> Test:
    wanted = _yes_or_no(name, value)
    return lambda _, event: _process(event).get("in_init_tree") is wanted


def _labels(name: str, value: Any) -> Test:
    selectors = [list(_requirements(name, text)) for text in _texts(name, value)]

    def test(_: str, event: Event) -> bool:
        pod = _pod(event)
        if pod is None:
            return False
        labels = pod.get("pod_labels") or {}
        return any(all(label_holds(label, labels) for label in selector) for selector in selectors)

    return test


def _requirements(name: str, text: str) -> Iterator[Label]:
    """A selector of labels in the words of kubectl."""
    at = 0
    while True:
        found = _REQUIREMENT.match(text, at)
        if found is None or (found.end() < len(text) and text[found.end()] != ","):
            raise FilterError(f"{name}: {text!r} is no selector of labels")
        if found["absent"]:
            yield Label(found["no"], "absent")
        elif found["word"]:
            yield Label(found["key"], found["word"], tuple(part.strip() for part in found["values"].split(",")))
        elif found["op"]:
            yield Label(found["key"], "notin" if found["op"] == "!=" else "in", (found["value"],))
        else:
            yield Label(found["key"], "exists")
        if found.end() == len(text):
            return
        at = found.end() + 1


def _capabilities(name: str, value: Any) -> Test:
    if not isinstance(value, Mapping) or not value.keys() <= set(_SETS):
        raise FilterError(f"{name} must have some of {', '.join(_SETS)}")
    wanted: dict[str, tuple[str, frozenset[str]]] = {}
    for which, one in value.items():
        if not isinstance(one, Mapping) or len(one) != 1 or next(iter(one)) not in ("any", "all", "exactly", "none"):
            raise FilterError(f"{name}.{which} must have one of any, all, exactly and none")
        [(how, listed)] = one.items()
        wanted[which] = how, frozenset(_texts(f"{name}.{which}.{how}", listed))

    def holds(how: str, asked: frozenset[str], has: frozenset[str]) -> bool:
        match how:
            case "any":
                return bool(asked & has)
            case "all":
                return asked <= has
            case "exactly":
                return asked == has
        return not asked & has

    def test(_: str, event: Event) -> bool:
        cap = _process(event).get("cap")
        return cap is not None and all(holds(how, asked, frozenset(cap.get(which, ()))) for which, (how, asked) in wanted.items())

    return test


_FIELDS: Final[dict[str, Callable[[str, Any], Test]]] = {
    "binary_regex": _regex(lambda event: (_process(event).get("binary"),)),
    "namespace": _namespaces,
    "namespace_regex": _regex(lambda event: ((_pod(event) or {}).get("namespace", ""),)),
    "health_check": _health,
    "pid": _pids,
    "pid_set": _descendants,
    "event_set": _event_set,
    "pod_regex": _regex(lambda event: ((_pod(event) or {}).get("name"),)),
    "arguments_regex": _regex(lambda event: (_process(event).get("arguments", ""),)),
    "labels": _labels,
    "policy_names": _policies,
    "capabilities": _capabilities,
    "parent_binary_regex": _regex(lambda event: ((event.get("parent") or {}).get("binary"),)),
    "parent_arguments_regex": _regex(lambda event: ((event.get("parent") or {}).get("arguments"),)),
    "container_id": _regex(lambda event: (_process(event).get("docker"),)),
    "container_name_regex": _regex(lambda event: (((_pod(event) or {}).get("container") or {}).get("name"),)),
    "in_init_tree": _in_init_tree,
    "ancestor_binary_regex": _regex(lambda event: (one.get("binary") for one in event.get("ancestors") or ())),
}
FIELDS: Final = tuple(_FIELDS)


# ---- what is shown ----


class _Mask(NamedTuple):
    events: frozenset[str]
    inverted: bool
    paths: tuple[tuple[str, ...], ...]
    excludes: bool

    def about(self, kind: str) -> bool:
        return not self.events or (kind in self.events) is not self.inverted


class FieldFilters:
    """Members of events that are shown alone (INCLUDE), or left out (EXCLUDE, which counts)."""

    def __init__(self, filters: Sequence[Any] = ()) -> None:
        if len(filters) > MAX_FILTERS:
            raise FilterError(f"{len(filters)} filters of fields; {MAX_FILTERS} are allowed")
        self._masks = [_mask(one) for one in filters]

    def __bool__(self) -> bool:
        return bool(self._masks)

    def shown(self, event: Event) -> Event:
        """The event without what is not to be shown; the given one is not changed."""
        kind = kind_of(event)
        masks = [mask for mask in self._masks if mask.about(kind)]
        if not kind or not masks:
            return event
        included = [path for mask in masks if not mask.excludes for path in mask.paths]
        own: Any = event[kind]
        if any(not mask.excludes for mask in masks):
            own = _only(own, included)
        for path in (path for mask in masks if mask.excludes for path in mask.paths):
            own = _without(own, path)
        return {**event, kind: own}


def _mask(one: Any) -> _Mask:
    if not isinstance(one, Mapping) or not one.keys() <= {"event_set", "fields", "action", "invert_event_set"}:
        raise FilterError("a filter of fields has event_set, fields, action and invert_event_set")
    fields, action = one.get("fields", ""), one.get("action", "INCLUDE")
    if not isinstance(fields, str) or action not in ("INCLUDE", "EXCLUDE"):
        raise FilterError("of a filter of fields, fields is a text with commas, and action INCLUDE or EXCLUDE")
    paths = tuple(tuple(_snake(part) for part in path.strip().split(".")) for path in fields.split(",") if path.strip())
    if len(paths) > MAX_VALUES:
        raise FilterError(f"more than {MAX_VALUES} fields in a filter of fields")
    inverted = _yes_or_no("invert_event_set", one.get("invert_event_set", False))
    return _Mask(events_of("event_set", one.get("event_set", [])), inverted, paths, action == "EXCLUDE")


def _snake(word: str) -> str:
    return re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", word)


def _only(value: Any, paths: Sequence[tuple[str, ...]]) -> Any:
    if not all(paths):
        return value
    if isinstance(value, list):
        return [_only(one, paths) for one in value]
    if not isinstance(value, Mapping):
        return value
    below: dict[str, list[tuple[str, ...]]] = {}
    for first, *rest in paths:
        below.setdefault(first, []).append(tuple(rest))
    return {key: _only(one, below[key]) for key, one in value.items() if key in below}


def _without(value: Any, path: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_without(one, path) for one in value]
    if not isinstance(value, Mapping) or path[0] not in value:
        return value
    first, *rest = path
    if not rest:
        return {key: one for key, one in value.items() if key != first}
    return {**value, first: _without(value[first], tuple(rest))}


class Redactions:
    """Parts of command lines that are not shown: what the groups of patterns match, in processes whose binary matches."""

    def __init__(self, filters: Sequence[Any] = ()) -> None:
        self._all: list[tuple[list[Any], list[Any]]] = []
        if len(filters) > MAX_FILTERS:
            raise FilterError(f"{len(filters)} filters for redaction; {MAX_FILTERS} are allowed")
        for one in filters:
            if not isinstance(one, Mapping) or not one.keys() <= {"redact", "binary_regex"} or not one.get("redact"):
                raise FilterError("a filter for redaction has redact, a list of patterns, and may have binary_regex")
            patterns = [pattern("redact", text) for text in _texts("redact", one["redact"])]
            if any(not found.groups for found in patterns):
                raise FilterError("redact: a pattern without a group hides nothing: put what is to be hidden in parentheses")
            binaries = [pattern("binary_regex", text) for text in _texts("binary_regex", one.get("binary_regex", []))]
            self._all.append((binaries, patterns))

    def __bool__(self) -> bool:
        return bool(self._all)

    def shown(self, event: Event) -> Event:
        """The event with REDACTED in place of what is hidden; the given one is not changed."""
        kind = kind_of(event)
        own = event.get(kind) if kind else None
        if not isinstance(own, Mapping):
            return event
        made: dict[str, Any] = {key: self._process(own[key]) for key in ("process", "parent") if isinstance(own.get(key), Mapping)}
        if own.get("ancestors"):
            made["ancestors"] = [self._process(one) for one in own["ancestors"]]
        return {**event, kind: {**own, **made}}

    def _process(self, process: Mapping[str, Any]) -> Mapping[str, Any]:
        text = process.get("arguments")
        if not text:
            return process
        for binaries, patterns in self._all:
            if not binaries or _found(binaries, process.get("binary")):
                for one in patterns:
                    text = _hidden(one, text)
        return process if text == process["arguments"] else {**process, "arguments": text}


def _hidden(found: Any, text: str) -> str:
    spans = sorted(
        span
        for match in found.finditer(text)
        for span in (match.span(group) for group in range(1, found.groups + 1))
        if span[0] >= 0 and span[1] > span[0]
    )
    parts: list[str] = []
    at = 0
    for start, end in spans:
        if start >= at:
            parts += (text[at:start], REDACTED)
        at = max(at, end)
    return "".join((*parts, text[at:]))
