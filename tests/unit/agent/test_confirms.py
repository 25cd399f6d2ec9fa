# SPDX-License-Identifier: Apache-2.0
"""What confirms, by language. Falco's own part: tests/unit/dialects/falco/confirm."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bpfence.agent.confirms import Confirms
from bpfence.alerts.faults import Faults
from bpfence.dialects.dialect import Context
from bpfence.dialects.falco.dialect import Falco, FalcoRules
from bpfence.dialects.falco.load import load_text
from bpfence.dialects.falco.options import FalcoOptions
from bpfence.dialects.native.dialect import NATIVE, NativeRules
from bpfence.errors import UsageError
from bpfence.events.source import Live
from bpfence.policy import PolicySet
from tests.unit.agent.fakes import FakeEngine
from tests.unit.agent.falco_rig import RULES, FakeEvents


@pytest.fixture
def events() -> FakeEvents:
    return FakeEvents()


def confirms(events: FakeEvents, record: Path | None = None) -> Confirms:
    context = Context(lambda: Live(FakeEngine()), "host", 4, record, pytest.fail)
    return Confirms(context, {"native": NATIVE, "falco": Falco(lambda _: events)})


def rules() -> FalcoRules:
    return FalcoRules(load_text(RULES)[0].rules, FalcoOptions())


def test_nothing_is_made_for_what_the_kernel_decides_whole(events: FakeEvents) -> None:
    made = confirms(events)
    made.use(1, {"native": NativeRules(PolicySet())}, ())
    assert (made.names(), made.counted(), made.hosts(), made.get("falco")) == ((), {}, {}, None)


def test_a_language_stays_when_its_rules_go(events: FakeEvents) -> None:
    made = confirms(events)
    made.use(1, {"falco": rules()}, ())
    made.use(2, {}, ())
    assert made.names() == ("falco",)
    assert [used is not None for used in events.used] == [True, False]
    assert made.counted() == {"candidates": 0, "confirmed": 0}


def test_hosts_and_the_word_that_they_changed(events: FakeEvents) -> None:
    made, told = confirms(events), list[str]()
    made.use(1, {"falco": rules()}, ())
    events.addresses = {"a.example": frozenset({"10.0.0.1"})}
    made.start(lambda: told.append("changed"))
    events.changed()
    assert (made.hosts(), told) == ({"a.example": frozenset({"10.0.0.1"})}, ["changed"])
    made.close()
    assert events.closed == 1


def test_a_recording_is_opened_at_once(events: FakeEvents, tmp_path: Path) -> None:
    confirms(events, tmp_path / "seen").record()
    assert (tmp_path / "seen").exists()
    with pytest.raises(UsageError, match="--record"):
        confirms(events, tmp_path / "no" / "folder").record()


def test_faults_are_told_once_and_counted(events: FakeEvents) -> None:
    made = confirms(events)
    made.faults.add("", "something", ValueError("x"))
    made.faults.add("", "something", ValueError("x"))
    assert [fault.what for fault in made.take_faults()] == ["something"]
    assert (made.take_faults(), made.counted()) == ([], {"faults": 2})


class Broken:
    """Raises whatever is asked of it."""

    candidates = confirmed = 0

    def __init__(self) -> None:
        self.faults = Faults()

    def __getattr__(self, name: str) -> Any:
        def raises(*_: object) -> None:
            raise ZeroDivisionError(name)

        return raises


def test_a_language_that_raises_whatever_is_asked_costs_the_agent_nothing(events: FakeEvents) -> None:
    context = Context(lambda: Live(FakeEngine()), "host", 4, None, pytest.fail)
    dialects: Any = {"broken": SimpleNamespace(confirm=lambda _: Broken()), "falco": Falco(lambda _: events)}
    made = Confirms(context, dialects)
    made.use(1, {"broken": object(), "falco": rules()}, ())  # type: ignore[dict-item]
    assert [used is not None for used in events.used] == [True], "the other one has heard of it"
    made.start(lambda: None)
    made.flush()
    made.reopen()
    assert made.hosts() == {}
    made.close()
    assert events.closed == 1
    assert len(made.take_faults()) == 6
