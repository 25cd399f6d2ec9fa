"""Random rule files against a plain model of what they mean: order, keys, and conditions on random events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bpfence.dialects.falco.confirm import rules
from bpfence.dialects.falco.confirm.event import Record, RecordedEvent
from bpfence.dialects.falco.load import load_texts
from bpfence.dialects.falco.read.resolve import FalcoRule, show_condition
from tests.unit.dialects.falco import random_rules
from tests.unit.dialects.falco.random_rules import PRIORITIES, Entry, Event, Meant, written

QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def loaded(*texts: str) -> tuple[list[FalcoRule], list[str]]:
    """The rules, and the codes of the errors."""
    found, problems = load_texts([(text, f"{n}.yaml") for n, text in enumerate(texts)])
    return found.rules, [problem.code for problem in problems if problem.severity == "error"]


def told(found: list[FalcoRule]) -> list[tuple[Any, ...]]:
    """All that a rule is, but for where it was written."""
    return [
        (one.name, show_condition(one.condition), one.desc, one.output_text, one.priority, one.tags, one.enabled, one.types)
        for one in found
    ]


def made_up(event: Event) -> RecordedEvent:
    fields = {name: int(value) if name == "user.uid" else value for name, value in event.items()}
    return RecordedEvent(Record(type="openat", num=1, time=1, args={}, fields=fields, argv=[], lineage=[]))


EVENTS = [(event, made_up(event)) for event in random_rules.EVENTS]


@given(random_rules.files(), st.data())
@settings(QUICK, max_examples=200)
def test_rules_are_what_a_plain_model_says(made: tuple[list[Entry], Meant], data: st.DataObject) -> None:
    entries, meant = made
    cut = data.draw(st.integers(0, len(entries)))
    found, errors = loaded(written(entries[:cut]), "---\n" + written(entries[cut:]))
    assert set(errors) <= {"unknown-macro"}
    assert bool(errors) == meant.mistakes()
    assert [one.name for one in found] == meant.order()
    for one in found:
        wanted = meant.rules[one.name]
        assert (one.desc, one.output_text, one.priority) == (wanted["desc"], wanted["output"], PRIORITIES[wanted["priority"]])
        assert (one.enabled, one.tags) == (wanted["enabled"], tuple(sorted(set(wanted["tags"]))))
        for event, record in EVENTS:
            assert rules.holds(one.condition, record) == meant.true(one.name, event), (show_condition(one.condition), event)


@given(random_rules.files(), st.data())
@settings(QUICK, max_examples=50)
def test_where_a_file_is_split_changes_nothing(made: tuple[list[Entry], Meant], data: st.DataObject) -> None:
    entries, _ = made
    whole, errors = loaded(written(entries))
    first, second = sorted(data.draw(st.tuples(st.integers(0, len(entries)), st.integers(0, len(entries)))))
    pieces = [written(piece) for piece in (entries[:first], entries[first:second], entries[second:])]
    for texts in (pieces, ["---\n".join(pieces)]):
        found, problems = loaded(*texts)
        assert told(found) == told(whole)
        assert sorted(problems) == sorted(errors)


def nothing(entry: Entry) -> Entry:
    """Something empty appended to what an entry is about."""
    if entry.kind == "list":
        return Entry("list", entry.name, {"items": []}, {"items": "append"})
    return Entry("rule", entry.name, {"tags": [], "exceptions": []}, {"tags": "append", "exceptions": "append"})


@given(random_rules.files(), st.data())
@settings(QUICK, max_examples=50)
def test_appending_nothing_changes_nothing(made: tuple[list[Entry], Meant], data: st.DataObject) -> None:
    entries, _ = made
    longer: list[Entry] = []
    for entry in entries:
        longer.append(entry)
        if entry.kind != "macro" and data.draw(st.booleans()):
            longer.append(nothing(entry))
    assert told(loaded(written(longer))[0]) == told(loaded(written(entries))[0])


@given(random_rules.files(), st.sampled_from(["old", "append"]), st.data())
@settings(QUICK, max_examples=50)
def test_an_appended_exception_is_as_one_written_in_full(made: tuple[list[Entry], Meant], how: str, data: st.DataObject) -> None:
    entries, meant = made
    assume(meant.rules)
    name = data.draw(st.sampled_from(sorted(meant.rules)))
    at = max(n for n, entry in enumerate(entries) if entry.kind == "rule" and entry.name == name and entry.how == "define")
    plain = replace(entries[at], keys={key: value for key, value in entries[at].keys.items() if key != "exceptions"})
    more = data.draw(random_rules.exceptions({}, values=True))
    assume(more)
    full = replace(plain, keys={**plain.keys, "exceptions": more})
    addition = Entry("rule", name, {"exceptions": more}, "old" if how == "old" else {"exceptions": "append"})
    lists = [entry for entry in entries if entry.kind != "rule"]
    in_full, appended = loaded(written([*lists, full]))[0], loaded(written([*lists, plain]), written([addition]))[0]
    assert told(appended) == told(in_full)
    # Half of the values in the rule and half appended come to the same as well.
    first = tuple(replace(one, values=(one.values or ())[:1]) for one in more)
    second = tuple(replace(one, fields=None, comps=None, values=(one.values or ())[1:]) for one in more)
    start = replace(plain, keys={**plain.keys, "exceptions": first})
    rest = replace(addition, keys={"exceptions": second})
    assert told(loaded(written([*lists, start]), written([rest]))[0]) == told(in_full)


@given(random_rules.files(), st.data())
@settings(QUICK, max_examples=50)
def test_a_definition_makes_what_came_before_it_meaningless(made: tuple[list[Entry], Meant], data: st.DataObject) -> None:
    """Changes to a rule that is defined anew later on can be left out; only its place in the order stays."""
    entries, meant = made
    rest = {"desc": "d", "output": "o", "priority": "INFO"}
    names = data.draw(st.permutations(sorted(meant.rules)))
    again = [Entry("rule", name, {"condition": data.draw(random_rules.chains(())), **rest}, "define") for name in names]
    first: dict[str, Entry] = {}
    for entry in entries:
        if entry.kind == "rule":
            first.setdefault(entry.name, entry)
    short = [entry for entry in entries if entry.kind != "rule" or first[entry.name] is entry]
    assert told(loaded(written([*short, *again]))[0]) == told(loaded(written([*entries, *again]))[0])
