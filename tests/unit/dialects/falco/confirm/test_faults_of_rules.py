# SPDX-License-Identifier: Apache-2.0
"""Every field, operator and kind of value: no event makes a rule set raise; a fault is contained, counted and told once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence.dialects.falco.confirm.event import RecordedEvent, decode
from bpfence.dialects.falco.confirm.rules import RuleSet
from bpfence.dialects.falco.load import load_text
from bpfence.dialects.falco.read.checks import CheckError, Comparison, resolve_check
from bpfence.dialects.falco.read.fields import FALCO_FIELDS, FalcoField, FieldArgument, Type
from bpfence.dialects.falco.read.language import MODIFIERS, OPERATORS, TRANSFORMERS, Check, parse
from bpfence.dialects.falco.read.output import parse as parse_output
from bpfence.dialects.falco.read.resolve import FalcoRule
from bpfence.documents.report import TextError
from bpfence.events.source import BadLineError

NATURAL: dict[Type, tuple[Any, ...]] = {
    **dict.fromkeys((Type.STRING, Type.PATH), ("", "x", "/etc/a b", "\udcff", "é\x00\n", "7")),
    **dict.fromkeys((Type.INT, Type.UINT, Type.DURATION, Type.TIME, Type.PORT), (0, 7, -1, 1 << 70)),
    Type.DOUBLE: (0.5, float("nan"), 3),
    Type.BOOL: (True, False),
    Type.IP: ("10.0.0.1", "::1", "none"),
    Type.NET: ("10.0.0.1", "2001:db8::1", ""),
    Type.BYTES: (b"", b"\xff7"),
}
NATURAL[Type.DYNAMIC] = tuple(itertools.chain.from_iterable(NATURAL.values()))
EVERYTHING = (*NATURAL[Type.DYNAMIC], None, (), ("x", 7), (b"x", None), object(), [1], {"a": 1})
OPERANDS = ("7", "x", "/etc", "true", "10.0.0.0/8", "10.0.0.1", "CAFE", "open", "'a b'")
ARGUMENTS = {
    FieldArgument.NONE: ("",), FieldArgument.INDEX: ("[0]", "[3]"), FieldArgument.KEY: ("[0]", "[flags]", "[nothing]"),
    FieldArgument.OPTIONAL_INDEX: ("", "[0]", "[2]"), FieldArgument.OPTIONAL_KEY: ("", "[HOME]", "[1]"),
}  # fmt: skip


class Anything:
    """An event whose fields all have one value."""

    type = "openat"
    time = 0
    memo = None
    act = None
    unsure = 0

    def __init__(self, value: Any, elements: tuple[str, ...] | None = ("-x", "")) -> None:
        self.value = value
        self._elements = elements

    def get(self, field: str, argument: str | None = None) -> Any:
        return self.value

    def elements(self, field: str) -> tuple[str, ...] | None:
        return self._elements


def conditions(field: FalcoField) -> Iterator[str]:
    """Tests on a field by every operator, and on what transformers make of it; most of them no rule may have."""
    for argument, operator in itertools.product(ARGUMENTS[field.argument], OPERATORS):
        left = field.name + argument
        if operator == "exists":
            yield f"{left} exists"
            continue
        for value in OPERANDS:
            yield f"{left} {operator} {value}"
            yield f"{left} {operator} ({value}, {value})"
        for modifier in MODIFIERS:
            yield f"{left} {operator} {modifier} (7, x)"
        yield f"{left} {operator} val({left})"
    for name in TRANSFORMERS:
        yield f"{name}({field.name}) = 7"
        yield f"{name}({field.name}) intersects (7, x)"
        yield f"join('-', {field.name}) contains x"
        yield f"getopt({field.name}, 'x:') intersects (x)"


def accepted(field: FalcoField) -> list[Comparison]:
    found = []
    for text in conditions(field):
        try:
            tree = parse(text)
            assert isinstance(tree, Check)
            found.append(resolve_check(tree))
        except (TextError, CheckError):
            continue
    return found


def rule_of(condition: Any, output: str = "o", name: str = "R") -> FalcoRule:
    loaded, _ = load_text(f"- rule: {name}\n  desc: d\n  condition: evt.num exists\n  output: o\n  priority: INFO\n")
    rule = loaded.rules[0]
    rule.condition = condition
    rule.output = parse_output("*" + output)
    return rule


BASE = rule_of(None)


@pytest.mark.parametrize("field", FALCO_FIELDS, ids=lambda field: field.name)
def test_no_operator_fails_on_a_value_that_its_field_can_have(field: FalcoField) -> None:
    tests = accepted(field)
    assert tests
    for test in tests:
        BASE.condition = test
        chosen = RuleSet([BASE])
        values = NATURAL[field.type]
        for value in (*values, tuple(values), None):
            if isinstance(value, tuple) and not test.left.many:
                continue
            chosen.matches(Anything(value))
        assert not chosen.faults.counts, (test.check, chosen.faults.take())


@pytest.mark.parametrize("field", FALCO_FIELDS, ids=lambda field: field.name)
def test_a_value_of_any_other_kind_is_contained(field: FalcoField) -> None:
    for test in accepted(field)[::7]:
        BASE.condition = test
        chosen = RuleSet([BASE])
        for value in EVERYTHING:
            chosen.matches(Anything(value))


@given(st.sampled_from(EVERYTHING), st.sampled_from([None, (), ("a",), (7,)]))
@settings(deadline=None)
def test_every_field_can_be_put_out_whatever_its_value(value: Any, elements: Any) -> None:
    names = [field.name + argument for field in FALCO_FIELDS for argument in ARGUMENTS[field.argument]]
    output = " ".join(f"%{name}" for name in names) + " %toupper(proc.name) %len(fd.types) %join(',', proc.args) %getopt(proc.args, 'x')"
    chosen = RuleSet([rule_of(parse_output("%evt.num") and resolve_check(parse("evt.type exists")), output)])  # type: ignore[arg-type]
    [match] = chosen.matches(Anything(value, elements))
    assert set(names) - {name for name in names if "[" in name} <= match.fields.keys()


def test_a_fault_costs_its_rule_alone_and_is_told_once() -> None:
    class Broken(RecordedEvent):
        def get(self, field: str, argument: str | None = None) -> Any:
            if field == "proc.cwd":
                raise ZeroDivisionError("by zero")
            return super().get(field, argument)

    text = "".join(
        f"- rule: {name}\n  desc: d\n  condition: evt.type=open and {test}\n  priority: INFO\n  output: cwd=%proc.cwd name=%proc.name\n"
        for name, test in (("A", "proc.cwd=/"), ("B", "proc.name=cat"))
    )
    loaded, _ = load_text(text)
    chosen = RuleSet(loaded.rules, matching="all", append="")
    line = b'{"type":"open","fields":{"proc.name":"cat"}}'
    for _ in range(3):
        [match] = chosen.matches(Broken(decode(line).record))
        assert (match.rule.name, match.output) == ("B", "cwd=<NA> name=cat")
        assert match.fields == {"proc.cwd": None, "proc.name": "cat"}
    assert chosen.faults.counts["A"] == 3
    first, second = chosen.faults.take()
    assert "rule 'A': its condition could not be evaluated on an event open: it did not match (ZeroDivisionError: by zero)" in first.text
    assert second.text.startswith("rule 'B': %proc.cwd of its output could not be had")
    assert not chosen.faults.take()


def test_a_recorded_time_that_cannot_be_written_is_no_time() -> None:
    for time in (-1, 1 << 68, 10**40):
        with pytest.raises(BadLineError):
            decode(b'{"type":"open","time":%d}' % time)


def test_an_argument_of_another_kind_than_its_name_says_is_missing() -> None:
    for condition, line in (
        ("evt.rawarg.flags > 2", b'{"type":"open","args":{"flags":"O_RDWR"}}'),
        ("evt.rawarg.name startswith /", b'{"type":"open","args":{"name":7}}'),
        ("evt.rawarg.addr < 3", b'{"type":"open","args":{"addr":"x"}}'),
    ):
        loaded, problems = load_text(f"- rule: A\n  desc: d\n  condition: evt.type=open and {condition}\n  output: o\n  priority: INFO\n")
        assert not problems
        chosen = RuleSet(loaded.rules)
        assert not chosen.matches(decode(line))
        assert not chosen.faults.counts
