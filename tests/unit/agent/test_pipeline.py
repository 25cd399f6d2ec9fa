# SPDX-License-Identifier: Apache-2.0
"""The way of an event, stage by stage. With an agent around it: test_agent; with Falco's rules: test_detection."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bpfence import abi
from bpfence.agent import pipeline
from bpfence.agent.confirms import Confirms
from bpfence.agent.generations import Counts, Generation, Generations, LeafMeaning, _changed
from bpfence.agent.pipeline import Pipeline
from bpfence.alerts.alert import Composer, RuleInfo, Said, WholeLine, whole
from bpfence.alerts.faults import Faults
from bpfence.compiler.plan import Family
from bpfence.dialects.dialect import Context
from bpfence.dialects.native.dialect import NATIVE
from bpfence.events.records import KernelEvent, decode
from bpfence.events.source import Live, Observation, Refused
from bpfence.events.values import escape
from bpfence.policy import Action, Op, When
from tests.unit.agent.fakes import FakeEngine
from tests.unit.events.samples import observation, record

WAITS = When.SUCCESS | When.FAILURE
RULES = (
    RuleInfo("p", "decided", "audit", Action.AUDIT, Action.AUDIT, message="now"),
    RuleInfo("x", "waits", "audit", Action.AUDIT, Action.AUDIT, when=WAITS, confirm="x"),
    RuleInfo("x", "at once", "audit", Action.AUDIT, Action.AUDIT, confirm="x"),
    RuleInfo("p", "after", "audit", Action.AUDIT, Action.AUDIT, when=WAITS),
)


class XConfirm:
    """Confirms what `true` names."""

    candidates = confirmed = 0
    hopeless = False

    def __init__(self) -> None:
        self.faults = Faults()
        self.passed: list[tuple[int, int]] = []
        self.true: set[str] = set()
        self.asked: list[Any] = []

    def use(self, generation: int, rules: Any, infos: Iterable[RuleInfo]) -> None: ...
    def view(self, seen: Observation) -> SimpleNamespace:
        return SimpleNamespace(refused=self.hopeless, said=self.said)

    def refused(self, count: int, moment: int) -> None:
        self.passed.append((count, moment))

    def confirm(self, view: Any, among: Any) -> list[RuleInfo]:
        self.asked.append(among)
        return [rule for rule in RULES if rule.rule in self.true and (among is None or rule.rule in among)]

    def said(self, policy: str, rule: str) -> Said:
        return Said("x", f"x says {rule}", {"word": rule})


class X:
    name, title, policies, reads_processes = "x", "X rules", ("x",), False

    def __init__(self) -> None:
        self.made = XConfirm()

    def confirm(self, context: Context) -> XConfirm:
        return self.made


class Way:
    """A pipeline over the rules above, whose verdict N+1 says rule N."""

    def __init__(self) -> None:
        self.x = X()
        dialects: Any = {"native": NATIVE, "x": self.x}
        source = Live(FakeEngine())
        confirms = Confirms(Context(lambda: source, "host", 4, None, pytest.fail), dialects)
        confirms.use(1, {"x": object()}, ())  # type: ignore[dict-item]
        generations = Generations()
        meanings = (
            LeafMeaning((), False),
            *(LeafMeaning((n,), False) for n in range(len(RULES))),
            LeafMeaning(tuple(range(len(RULES))), False),
        )
        generations.add(Generation(1, RULES, meanings))
        self.confirms, self.source = confirms, source
        self.pipeline = Pipeline(source, generations, confirms, Composer("host", lambda: 0), Counts(None), lambda: 1.0)

    def rules(self, flags: int, verdict: int = len(RULES) + 1, generation: int = 1) -> list[str]:
        seen = msgspec.structs.replace(observation(), flags=flags, verdicts=(verdict,), generation=generation)
        return [str(line.rule) for line in self.lines(seen)]  # type: ignore[union-attr]

    def lines(self, seen: Observation) -> list[WholeLine]:
        return [whole(line) for line in self.pipeline.lines(seen)]


def test_the_stages_are_those_that_are_written_down() -> None:
    named = re.findall(r"^    (\w+) +\w+ +→", pipeline.__doc__ or "", re.MULTILINE)
    assert [stage.name for stage in Way().pipeline.stages] == [name for name in named if name not in ("decode", "form")]


def test_each_record_speaks_for_the_rules_of_its_moment() -> None:
    way = Way()
    way.x.made.true = {"waits", "at once"}
    assert way.rules(0) == ["decided", "at once"]
    assert way.rules(abi.EVENT_RESULT) == ["after", "waits"]
    assert way.x.made.asked == [{"at once"}, {"waits"}]
    assert way.rules(abi.EVENT_RESULT | abi.EVENT_DECISION) == ["decided", "after", "waits", "at once"]


@pytest.mark.parametrize(("result", "told"), [(0, ["good", "both"]), (-13, ["bad", "both"]), (None, ["good", "both"])])
def test_a_rule_that_waits_for_one_result_is_told_of_that_one(result: int | None, told: list[str]) -> None:
    moments = {"good": When.SUCCESS, "bad": When.FAILURE, "both": WAITS, "never": When.DECIDED}
    rules = tuple(RuleInfo("p", name, "audit", Action.AUDIT, Action.AUDIT, when=when) for name, when in moments.items())
    way = Way()
    way.pipeline._generations.add(Generation(2, rules, (LeafMeaning((), False), LeafMeaning(tuple(range(4)), False))))
    numbers = {} if result is None else {"NUM_RESULT": result & (1 << 64) - 1}
    kernel = decode("decisions", record("file.open", numbers, flags=abi.EVENT_RESULT))
    assert isinstance(kernel, KernelEvent)
    seen = msgspec.structs.replace(observation(), flags=abi.EVENT_RESULT, verdicts=(1,), generation=2, record=kernel)
    assert [line.rule for line in way.lines(seen)] == told  # type: ignore[union-attr]


def test_what_is_not_confirmed_is_not_told() -> None:
    way = Way()
    assert way.rules(abi.EVENT_RESULT) == ["after"]
    assert way.rules(0) == ["decided"]


def test_only_what_tells_nothing_is_refused_from_then_on() -> None:
    way = Way()
    way.x.made.hopeless = True
    kernel = decode("candidates", record("file.open", verdicts=(3,)))
    assert isinstance(kernel, KernelEvent)

    def refused(verdict: int, **changes: Any) -> int:
        seen = msgspec.structs.replace(observation(), record=kernel, generation=1, verdicts=(verdict,), **changes)
        way.pipeline.lines(seen)
        count = len(way.source.processes.refused)
        way.source.processes.refused.clear()
        return count

    assert refused(3) == 1
    assert refused(len(RULES) + 1) == 0, "another rule is decided"
    assert refused(1) == 0, "there is no candidate"
    way.x.made.true = {"at once"}
    assert refused(3) == 0, "it matches"
    way.x.made.true, way.x.made.hopeless = set(), False
    assert refused(3) == 0, "another record of the process may match"
    assert way.pipeline.lines(Refused(way.x.made, 3, 7)) == []
    assert way.x.made.passed == [(3, 7)]


def test_every_rule_of_a_family_that_matches_is_told(tmp_path: Path) -> None:
    rules = tuple(RuleInfo("p", f"r{n}", "audit", Action.AUDIT, Action.AUDIT, message="m") for n in range(4))
    paths = Family("file.path", Op.CONTAINS, ("file.open",), {0: ("/secret",), 2: ("\udcff", "b\\x"), 3: ("none",)})
    words = Family("process.args", Op.ICONTAINS, ("file.open",), {1: ("-C",), 3: ("X",)})
    escaped = tuple(_changed(family, escape) for family in (paths, words))
    known = Generation(2, rules, tuple(LeafMeaning((n,), False) for n in range(4)), families=escaped)
    way = Way()
    way.pipeline._generations.add(known)
    assert msgspec.json.decode(msgspec.json.encode(known), type=Generation) == known

    def told(verdict: int, path: bytes, event: str = "file.open") -> list[str]:
        kernel = decode("decisions", record(event, strings={"STR_FILE_PATH": path}))
        assert isinstance(kernel, KernelEvent)
        seen = msgspec.structs.replace(observation(event), fields={"event": event}, verdicts=(verdict,), generation=2, record=kernel)
        return [line.rule for line in way.lines(seen)]  # type: ignore[union-attr,misc]

    assert told(0, b"/secret/a") == ["r0"]
    assert told(0, b"/secret/\xff") == told(0, b"/secret/b\\x") == ["r0", "r2"]
    assert told(2, b"/secret/\xff") == ["r2", "r0"]
    assert told(0, b"/secret/\xff", "file.unlink") == ["r0"], "they are for other events"
    assert told(1, b"/secret/\xff") == ["r1", "r3"], "the arguments are those of the image: sh -c /tmp/x"


def test_rules_that_are_not_known_any_more() -> None:
    way = Way()
    way.x.made.true = {"waits"}
    assert way.rules(0, generation=7) == ["<unknown>"]
    assert way.rules(abi.EVENT_RESULT, generation=7) == ["waits"], "any may be a candidate"
    assert way.x.made.asked[-1] is None


def test_a_rule_says_what_it_says_in_its_own_language() -> None:
    way = Way()
    way.x.made.true = {"waits"}
    seen = msgspec.structs.replace(observation(), flags=abi.EVENT_RESULT, verdicts=(2,), generation=1)
    [line] = way.lines(seen)
    assert (line.message, line.dialect) == ("x says waits", {"x": {"word": "waits"}})  # type: ignore[union-attr]


@pytest.mark.parametrize("method", ["view", "confirm"])
def test_a_language_that_raises_costs_no_other_rule(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    way = Way()
    monkeypatch.setattr(way.x.made, method, lambda *_: 1 // 0)
    assert way.rules(0) == ["decided"]
    assert way.rules(abi.EVENT_RESULT) == ["after"]
    [fault] = way.confirms.take_faults()
    assert "rules of x could not be tried" in fault.text


def test_a_language_that_cannot_say_anything_costs_no_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    way = Way()
    way.x.made.true = {"waits"}
    monkeypatch.setattr(way.x.made, "said", lambda *_: 1 // 0)
    assert way.rules(abi.EVENT_RESULT) == ["after", "waits"]
    assert len(way.confirms.take_faults()) == 1


def test_acts_are_known_by_their_fields_where_a_rule_waits_too() -> None:
    way = Way()
    rule = RuleInfo("p", "r", "audit", Action.AUDIT, Action.AUDIT, when=WAITS, events=("file.open", "file.permission"))
    way.pipeline._generations.add(Generation(2, (rule,), (LeafMeaning((), False), LeafMeaning((0,), False))))

    def told(event: str) -> int:
        numbers = {"NUM_FILE_INO": 5, "NUM_FILE_ACCESS": 1}
        kernel = decode("decisions", record(event, numbers, {"STR_FILE_PATH": b"/a"}, flags=abi.EVENT_RESULT))
        assert isinstance(kernel, KernelEvent)
        seen = Observation(event, 0, {"event": event}, flags=abi.EVENT_RESULT, verdicts=(1,), generation=2, record=kernel)
        return len(way.lines(seen))

    assert [told(event) for event in ("file.open", "file.permission")] == [1, 0]


def test_a_stage_that_raises_costs_one_event_and_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    way = Way()
    stages = way.pipeline._runs
    monkeypatch.setattr(way.pipeline, "_runs", (*stages[:-1], lambda *_: 1 // 0))
    assert way.rules(abi.EVENT_RESULT) == way.rules(abi.EVENT_RESULT) == []
    [fault] = way.confirms.take_faults()
    assert "could not be turned into a line" in fault.text
    assert way.confirms.counted()["faults"] == 2


def test_what_is_observed_is_an_event_beside_the_alerts() -> None:
    way = Way()
    named = (("seen", Action.OBSERVE), ("seen too", Action.OBSERVE), ("told", Action.AUDIT))
    rules = tuple(RuleInfo("p", name, "enforce", action, action) for name, action in named)
    meanings = (LeafMeaning((), False), LeafMeaning((0, 1), False), LeafMeaning((0, 1, 2), False))
    way.pipeline._generations.add(Generation(2, rules, meanings))

    def lines(verdict: int) -> list[tuple[str, str | None, str | None]]:
        seen = msgspec.structs.replace(observation(action=abi.ACTION_OBSERVE), verdicts=(verdict,), generation=2)
        return [(line.kind, line.rule, line.severity) for line in way.lines(seen)]  # type: ignore[union-attr]

    seen = [("event", "seen", "info"), ("event", "seen too", "info")]
    assert lines(1) == seen
    assert lines(2) == [*seen, ("alert", "told", "medium")]


def test_only_alerts_and_what_says_so_are_limited() -> None:
    way = Way()
    named = (("free", Action.OBSERVE, 0.0, 0), ("limited", Action.OBSERVE, 1.0, 3), ("told", Action.AUDIT, 1.0, 3))
    rules = tuple(RuleInfo("p", name, "enforce", action, action, rate=rate, burst=burst) for name, action, rate, burst in named)
    way.pipeline._generations.add(Generation(2, rules, (LeafMeaning((), False), *(LeafMeaning((n,), False) for n in range(3)))))
    seen = msgspec.structs.replace(observation(), generation=2)
    came = [sum(len(way.lines(msgspec.structs.replace(seen, verdicts=(n,)))) for _ in range(200)) for n in (1, 2, 3)]
    assert came[0] == 200
    assert came[1] == 3
    assert came[2] <= 3
