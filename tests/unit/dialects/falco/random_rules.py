"""Random Falco rule files and what they mean, told a second time and plainly: no text is put together or parsed here.

A condition is a chain: units joined by words, so that an appended piece is a longer chain, and `and` binds before `or`. An event is a dict
of the fields in FIELDS that it has.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Union

from hypothesis import strategies as st

NAMES = ("a", "b", "b c", "l0", "l1", "ab")  # two of them are names of lists too
PATHS = ("/x", "/x/y", "/xy", "/")
UIDS = ("0", "7", "1000")
FIELDS: dict[str, tuple[str, ...]] = {"proc.name": NAMES, "proc.exepath": PATHS, "user.uid": UIDS}
LISTS = ("l0", "l1", "l2", "one")
MACROS = ("m0", "m1", "m2")
RULES = ("R", "S")
EXCEPTIONS = ("e", "f", "g")
PRIORITIES = {"warning": "Warning", "INFO": "Informational", "Critical": "Critical"}
TEXT_OPERATORS = ("=", "!=", "startswith", "endswith", "contains")
LIST_OPERATORS = ("in", "startswith anyof", "contains anyof", "= oneof", "!= allof")
OF_PATHS = (*LIST_OPERATORS, "pmatch")
OF_NUMBERS = ("=", "!=", "<", ">=")

Event = dict[str, str]


# ---- what is written ----


@dataclass(frozen=True)
class Value:
    """One value; `quoted`: in quotes, so that no list is put in its place."""

    text: str
    quoted: bool = False

    def show(self) -> str:
        return f'"{self.text}"' if self.quoted or " " in self.text else self.text


@dataclass(frozen=True)
class Test:
    """One test; without an operator the field is asked for."""

    __test__ = False
    field: str
    operator: str = ""
    values: tuple[Value, ...] = ()

    def show(self) -> str:
        if not self.operator:
            return f"{self.field} exists"
        shown = ", ".join(value.show() for value in self.values)
        return f"{self.field} {self.operator} {shown if self.operator in (*TEXT_OPERATORS, *OF_NUMBERS) else f'({shown})'}"


@dataclass(frozen=True)
class Macro:
    name: str

    def show(self) -> str:
        return self.name


@dataclass(frozen=True)
class Chain:
    """Units in a row; `joints[n]` stands before unit n, "" before the first of a whole condition. Nested, it is in parentheses."""

    joints: tuple[str, ...]
    units: tuple[tuple[bool, Unit], ...]  # whether `not` stands before it

    def show(self) -> str:
        shown = []
        for joint, (negated, unit) in zip(self.joints, self.units, strict=True):
            text = f"({unit.show()})" if isinstance(unit, Chain) else unit.show()
            shown.append(" ".join(word for word in (joint, "not" if negated else "", text) if word))
        return " ".join(shown)


Unit = Union[Test, Macro, Chain]


@dataclass(frozen=True)
class Excepted:
    """An exception. `fields` is a text or a tuple; a value is a text for a text, else a tuple of texts and tuples of texts."""

    name: str
    fields: str | tuple[str, ...] | None
    comps: str | tuple[str, ...] | None
    values: tuple[Any, ...] | None

    def show(self) -> str:
        keys = {"name": self.name, "fields": self.fields, "comps": self.comps, "values": self.values}
        return json.dumps({key: value for key, value in keys.items() if value is not None})


@dataclass(frozen=True)
class Entry:
    """One entry of a file. `how` of a key: "append" or "replace" under override; "old" is `append: true`, "define" no override at all."""

    kind: str
    name: str
    keys: dict[str, Any]
    how: dict[str, str] | str

    def show(self) -> str:
        lines = [f"- {self.kind}: {self.name}"]
        for key, value in self.keys.items():
            lines.append(f"  {key}: {_shown(value)}")
        if self.how == "old":
            lines.append("  append: true")
        elif isinstance(self.how, dict):
            lines.append(f"  override: {json.dumps(self.how)}")
        return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, Chain):
        return json.dumps(value.show())
    if isinstance(value, tuple) and value and isinstance(value[0], Excepted):
        return "[" + ", ".join(one.show() for one in value) + "]"
    return json.dumps(value)


def written(entries: list[Entry]) -> str:
    """The text of a file."""
    return "".join(entry.show() for entry in entries) or "[]\n"


# ---- what it means ----


class BrokenError(Exception):
    """A rule or macro that uses a macro which it does not see."""


@dataclass
class Meant:
    """What rules, macros and lists are in the end. `at` is where each was first defined, `touched` where last defined or appended to."""

    lists: dict[str, list[str]] = field(default_factory=dict)
    macros: dict[str, Chain] = field(default_factory=dict)
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    at: dict[str, int] = field(default_factory=dict)
    touched: dict[str, int] = field(default_factory=dict)

    def take(self, entry: Entry) -> None:
        here = len(self.touched) + sum(self.touched.values()) + 1  # grows with every entry
        self.at.setdefault(entry.name, here)
        self.touched[entry.name] = here
        appended = entry.how == "old" or (isinstance(entry.how, dict) and "append" in entry.how.values())
        if entry.kind == "list":
            self.lists[entry.name] = [*(self.lists[entry.name] if appended else ()), *entry.keys["items"]]
        elif entry.kind == "macro":
            more = entry.keys["condition"]
            self.macros[entry.name] = longer(self.macros[entry.name], more) if appended else more
        elif entry.how == "define":
            self.rules[entry.name] = {"enabled": True, "tags": [], **entry.keys, "exceptions": list(entry.keys.get("exceptions", ()))}
        else:
            rule = self.rules[entry.name]
            for key, value in entry.keys.items():
                old = entry.how == "old" or (isinstance(entry.how, dict) and entry.how[key] == "append")
                rule[key] = _appended(key, rule[key], value) if old else list(value) if key == "exceptions" else value

    def order(self) -> list[str]:
        """The names of the rules that can be loaded, in order."""
        return [name for name in sorted(self.rules, key=self.at.__getitem__) if not self.broken(self.rules[name]["condition"], None)]

    def broken(self, chain: Chain, by: str | None) -> bool:
        """Whether a condition, that of the macro `by`, cannot be made."""
        for _, unit in chain.units:
            if isinstance(unit, Chain) and self.broken(unit, by):
                return True
            if isinstance(unit, Macro):
                if unit.name not in self.macros or (by is not None and self.at[unit.name] >= self.touched[by]):
                    return True
                if self.broken(self.macros[unit.name], unit.name):
                    return True
        return False

    def mistakes(self) -> bool:
        """Whether anything is broken."""
        return len(self.order()) < len(self.rules) or any(self.broken(chain, name) for name, chain in self.macros.items())

    def items(self, name: str) -> list[str]:
        """A list's items in the end."""
        found = []
        for item in self.lists[name]:
            seen = item in self.lists and self.at[item] < self.touched[name]
            found += self.items(item) if seen else [item]
        return found

    def true(self, name: str, event: Event) -> bool:
        """Whether a rule is true of an event."""
        rule = self.rules[name]
        return self.chain(rule["condition"], event) and not any(self.excepted(one, event) for one in rule["exceptions"])

    def chain(self, chain: Chain, event: Event) -> bool:
        groups: list[list[bool]] = [[]]
        for joint, (negated, unit) in zip(chain.joints, chain.units, strict=True):
            if joint == "or":
                groups.append([])
            groups[-1].append(self.unit(unit, event) is not negated)
        return any(all(group) for group in groups)

    def unit(self, unit: Unit, event: Event) -> bool:
        if isinstance(unit, Macro):
            return self.chain(self.macros[unit.name], event)
        if isinstance(unit, Chain):
            return self.chain(unit, event)
        if not unit.operator:
            return unit.field in event
        return self.test(unit.field, unit.operator, unit.values, event)

    def excepted(self, one: Excepted, event: Event) -> bool:
        if isinstance(one.fields, str):
            assert one.comps is None or isinstance(one.comps, str)
            return bool(one.values) and self.test(one.fields, one.comps or "in", _texts(one.values or ()), event)
        assert one.fields is not None
        operators = one.comps or ("=",) * len(one.fields)
        return any(
            all(self.test(*test, event) for test in zip(one.fields, operators, map(_texts, value), strict=True))
            for value in one.values or ()
        )

    def test(self, name: str, operator: str, values: tuple[Value, ...], event: Event) -> bool:
        if name not in event:
            return False
        wanted: list[str] = []
        for value in values:
            wanted += self.items(value.text) if value.text in self.lists and not value.quoted else [value.text]
        operator, _, modifier = operator.partition(" ")
        found = [_one(event[name], operator, text) for text in wanted]
        if modifier == "oneof":
            return sum(found) == 1
        return bool(found) and all(found) if modifier == "allof" else any(found)  # without values nothing is true


def _texts(value: Any) -> tuple[Value, ...]:
    if isinstance(value, str):
        return tuple(map(Value, value.strip("()").split(", "))) if value.startswith("(") else (Value(value, " " in value),)
    return tuple(Value(text, " " in text) for text in value)


def _one(value: str, operator: str, wanted: str) -> bool:
    match operator:
        case "=" | "in":
            return value == wanted
        case "!=":
            return value != wanted
        case "startswith":
            return value.startswith(wanted)
        case "endswith":
            return value.endswith(wanted)
        case "contains":
            return wanted in value
        case "<":
            return int(value) < int(wanted)
        case ">=":
            return int(value) >= int(wanted)
        case "pmatch":
            return value == wanted or wanted == "/" or value.startswith(f"{wanted}/")
    raise KeyError(operator)


def longer(chain: Chain, more: Chain) -> Chain:
    """A condition with a piece appended."""
    return Chain(chain.joints + more.joints, chain.units + more.units)


def _appended(key: str, old: Any, new: Any) -> Any:
    if key == "condition":
        return longer(old, new)
    if key == "tags":
        return [*old, *new]
    if key in ("output", "desc"):
        return f"{old} {new}"
    made = {one.name: one for one in old}
    for one in new:
        known = made.get(one.name)
        made[one.name] = one if known is None else replace(known, values=(*(known.values or ()), *(one.values or ())))
    return list(made.values())


# ---- strategies ----


def _values(name: str, *, lists: bool) -> st.SearchStrategy[Value]:
    texts = st.builds(Value, st.sampled_from(FIELDS[name]), st.booleans())
    return st.one_of(texts, st.sampled_from(LISTS[:3]).map(Value)) if lists and name == "proc.name" else texts


@st.composite
def tests(draw: st.DrawFn) -> Test:
    name = draw(st.sampled_from(list(FIELDS)))
    if draw(st.integers(0, 9)) == 0:
        return Test(name)
    several, single = {"proc.name": (LIST_OPERATORS, TEXT_OPERATORS), "proc.exepath": (OF_PATHS, TEXT_OPERATORS)}.get(
        name, (("in", "= oneof", "!= allof"), OF_NUMBERS)
    )
    if draw(st.booleans()):
        return Test(name, draw(st.sampled_from(several)), tuple(draw(st.lists(_values(name, lists=True), max_size=3))))
    if name == "proc.name" and draw(st.integers(0, 4)) == 0:
        return Test(name, draw(st.sampled_from(single)), (Value("one"),))  # a list of one item is put in here too
    value = draw(_values(name, lists=False))
    quoted = name != "user.uid" and (value.quoted or value.text in LISTS)
    return Test(name, draw(st.sampled_from(single)), (Value(value.text, quoted),))


@st.composite
def chains(draw: st.DrawFn, macros: tuple[str, ...], depth: int = 2, *, piece: bool = False) -> Chain:
    """A condition over some macros; `piece`: one that continues another."""
    unit: st.SearchStrategy[Unit] = tests()
    if macros:
        unit = st.one_of(unit, st.sampled_from(macros).map(Macro))
    if depth:
        unit = st.one_of(unit, chains(macros, depth - 1))
    units = draw(st.lists(st.tuples(st.booleans(), unit), min_size=1, max_size=3))
    joints = [draw(st.sampled_from(["and", "or"])) for _ in units]
    return Chain(tuple(joints if piece else ["", *joints[1:]]), tuple(units))


@st.composite
def shapes(draw: st.DrawFn, name: str) -> Excepted:
    """An exception without values."""
    if draw(st.booleans()):
        one = draw(st.sampled_from(["proc.name", "proc.exepath"]))
        return Excepted(name, one, draw(st.sampled_from([None, *(OF_PATHS if one == "proc.exepath" else LIST_OPERATORS)])), None)
    fields = tuple(draw(st.lists(st.sampled_from(["proc.name", "proc.exepath"]), min_size=1, max_size=2)))
    every = st.sampled_from((*TEXT_OPERATORS, *LIST_OPERATORS))
    return Excepted(name, fields, draw(st.one_of(st.none(), st.tuples(*[every] * len(fields)))), None)


@st.composite
def filled(draw: st.DrawFn, shape: Excepted) -> tuple[Any, ...]:
    """Values that fit an exception."""

    def texts(name: str) -> st.SearchStrategy[str]:
        return st.sampled_from((*FIELDS[name], *(LISTS[:3] if name == "proc.name" else ())))

    if isinstance(shape.fields, str):
        return tuple(draw(st.lists(texts(shape.fields), max_size=2)))
    assert shape.fields is not None
    items: list[st.SearchStrategy[Any]] = []
    for n, name in enumerate(shape.fields):
        operator = shape.comps[n] if shape.comps else "="
        plain = st.sampled_from([text for text in FIELDS[name] if text not in LISTS] + (["one"] if name == "proc.name" else []))
        bare = texts(name).filter(lambda text: " " not in text)
        several = st.lists(texts(name), max_size=2).map(tuple)
        rows = st.lists(bare, min_size=1, max_size=2).map(lambda row: "(" + ", ".join(row) + ")")
        items.append(st.one_of(bare, several, rows) if operator in LIST_OPERATORS else plain)
    return tuple(draw(st.lists(st.tuples(*items), max_size=2)))


@st.composite
def exceptions(draw: st.DrawFn, known: dict[str, Excepted], *, values: bool = False) -> tuple[Excepted, ...]:
    """Exceptions of a rule; those of a `known` name only bring values. `values`: every one must have some."""
    made = []
    for name in draw(st.lists(st.sampled_from(EXCEPTIONS), unique=True, max_size=2)):
        shape = known.get(name)
        if shape is not None:
            made.append(Excepted(name, None, None, draw(filled(shape))))
        else:
            fresh = draw(shapes(name))
            made.append(replace(fresh, values=draw(filled(fresh)) if values or draw(st.booleans()) else None))
    return tuple(made)


@st.composite
def list_entries(draw: st.DrawFn, meant: Meant) -> Entry:
    name = draw(st.sampled_from(LISTS))
    if name == "one":
        return Entry("list", name, {"items": [draw(st.sampled_from(["a", "b", "b c"]))]}, "define")
    below = LISTS[: LISTS.index(name)]
    # The items of a list may be names of lists: those with lower numbers, so that none leads back.
    items = draw(st.lists(st.sampled_from((*below, "a", "b", "b c", "ab")), max_size=3))
    how = draw(st.sampled_from(["define", "old", {"items": "append"}, {"items": "replace"}])) if name in meant.lists else "define"
    return Entry("list", name, {"items": items}, how)


@st.composite
def macro_entries(draw: st.DrawFn, meant: Meant) -> Entry:
    name = draw(st.sampled_from(MACROS))
    how = draw(st.sampled_from(["define", "old", {"condition": "append"}, {"condition": "replace"}])) if name in meant.macros else "define"
    appended = how == "old" or how == {"condition": "append"}
    condition = draw(chains(MACROS[: MACROS.index(name)], 1, piece=appended))
    return Entry("macro", name, {"condition": condition}, how)


texts = st.sampled_from(["one", "two words", "%proc.name", "user=%user.uid"])
tags = st.lists(st.sampled_from(["x", "y", "z"]), max_size=2)


@st.composite
def rule_entries(draw: st.DrawFn, meant: Meant) -> Entry:
    name = draw(st.sampled_from(RULES))
    rule = meant.rules.get(name)
    if rule is None or draw(st.integers(0, 7)) == 0:
        keys: dict[str, Any] = {
            "desc": draw(texts),
            "condition": draw(chains(MACROS)),
            "output": draw(texts),
            "priority": draw(st.sampled_from(list(PRIORITIES))),
        }
        optional = {"enabled": st.booleans(), "tags": tags, "exceptions": exceptions({})}
        keys |= {key: draw(strategy) for key, strategy in optional.items() if draw(st.booleans())}
        return Entry("rule", name, keys, "define")
    known = {one.name: one for one in rule["exceptions"]}
    kind = draw(st.sampled_from(["old", "enable", "override", "override", "override"]))
    if kind == "enable":
        return Entry("rule", name, {"enabled": draw(st.booleans())}, "enable")
    if kind == "old":
        keys = {"condition": draw(chains(MACROS, 1, piece=True)), "exceptions": draw(exceptions(known, values=True))}
        return Entry("rule", name, {key: keys[key] for key in draw(st.sampled_from([("condition",), ("exceptions",), tuple(keys)]))}, "old")
    both = ("condition", "output", "desc", "tags", "exceptions")
    choices = [(key, "append") for key in both] + [(key, "replace") for key in (*both, "priority", "enabled")]
    chosen = dict(draw(st.lists(st.sampled_from(choices), min_size=1, max_size=4)))
    made: dict[str, Any] = {}
    for key, how in chosen.items():
        made[key] = draw(
            {
                "condition": chains(MACROS, 1, piece=how == "append"),
                "output": texts,
                "desc": texts,
                "tags": tags,
                "exceptions": exceptions(known, values=True) if how == "append" else exceptions({}),
                "priority": st.sampled_from(list(PRIORITIES)),
                "enabled": st.booleans(),
            }[key]
        )
    return Entry("rule", name, made, chosen)


@st.composite
def files(draw: st.DrawFn, most: int = 12) -> tuple[list[Entry], Meant]:
    """Entries that can be loaded in this order, but for macros that are not seen, and what they mean."""
    meant = Meant()
    entries: list[Entry] = []
    # Tests name these lists; the rest is up to chance.
    for name in draw(st.permutations(LISTS)):
        several = st.lists(st.sampled_from((*LISTS[: LISTS.index(name)], "a", "b")), max_size=2)
        items = [draw(st.sampled_from(["a", "b c"]))] if name == "one" else draw(several)
        entries.append(Entry("list", name, {"items": items}, "define"))
        meant.take(entries[-1])
    for _ in range(draw(st.integers(3, most))):
        kind = draw(st.sampled_from([list_entries, macro_entries, *[rule_entries] * 5]))
        entries.append(draw(kind(meant)))
        meant.take(entries[-1])
    return entries, meant


EVENTS: tuple[Event, ...] = tuple(
    {name: value for name, value in zip(FIELDS, chosen, strict=True) if value is not None}
    for chosen in product(*[(None, *values) for values in FIELDS.values()])
)
"""Every event that there is."""
