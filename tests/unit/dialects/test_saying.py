# SPDX-License-Identifier: Apache-2.0
"""What alerts of rules that the kernel decides are in their own language, by the generation that decided."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from bpfence.alerts.alert import Said
from bpfence.dialects import saying
from bpfence.dialects.saying import RuleKey, Saying
from bpfence.events.source import Observation
from tests.unit.events.samples import observation


class Seen:
    refused = False

    def __init__(self, seen: Observation, known: Mapping[RuleKey, str]) -> None:
        self._known = known

    def said(self, policy: str, rule: str) -> Said | None:
        word = self._known.get((policy, rule))
        return Said("x", word, {}) if word is not None else None


def told(made: Saying[str], generation: int) -> str | None:
    said = made.view(msgspec.structs.replace(observation(), generation=generation)).said("p", "r")
    return said.message if said is not None else None


def rules(word: str) -> dict[RuleKey, str]:
    return {("p", "r"): word}


def test_records_of_before_a_reload_say_what_was_in_force_then() -> None:
    made: Saying[str] = Saying(2, dict, Seen)
    for generation, word in ((1, "one"), (2, "two"), (3, "three")):
        made.use(generation, rules(word), ())
    assert [told(made, generation) for generation in (1, 2, 3)] == [None, "two", "three"]
    made.use(4, None, ())
    assert [told(made, generation) for generation in (3, 4, 5)] == ["three", None, None]


def test_generations_with_the_same_rules_are_one() -> None:
    """A swap that brings no other rules, as for a container with another class, takes no room from records that wait."""
    made: Saying[str] = Saying(2, dict, Seen)
    made.use(1, rules("old"), ())
    new = rules("new")
    for generation in range(2, 20):
        made.use(generation, new, ())
    assert [told(made, generation) for generation in (1, 2, 19)] == ["old", "new", "new"]


def test_there_is_a_bound_for_them_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saying, "MAX_GENERATIONS", 3)
    made: Saying[str] = Saying(2, dict, Seen)
    same = rules("same")
    for generation in range(5):
        made.use(generation, same, ())
    assert [told(made, generation) for generation in range(5)] == [None, None, "same", "same", "same"]


def test_nothing_is_confirmed_and_nothing_goes_on_beside_events() -> None:
    made: Saying[str] = Saying(1, dict, Seen)
    made.start(lambda: None)
    made.refused(1, 1)
    made.flush()
    made.reopen()
    made.close()
    assert (made.confirm(made.view(observation()), None), made.hosts()) == ([], {})
    assert (made.candidates, made.confirmed, made.faults.counts.total()) == (0, 0, 0)
