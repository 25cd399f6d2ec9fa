# SPDX-License-Identifier: Apache-2.0
"""Falco rules in the agent: candidates confirmed or not, enforced rules, reloads, recordings; with a kernel made of lists."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence import abi
from bpfence.agent import follow
from bpfence.agent.agent import HOSTS_SECONDS, HOSTS_SHARE, RETRY_SECONDS, SETTLE_SECONDS, Agent, Settings
from bpfence.agent.generations import KEPT
from bpfence.alerts.alert import RuleInfo
from bpfence.compiler.explain import sample
from bpfence.compiler.image import Walker
from bpfence.dialects.falco.confirm.detection import Detection, KernelEvents
from bpfence.dialects.falco.confirm.event import RecordedEvent, read
from bpfence.dialects.falco.confirm.rules import RuleSet
from bpfence.dialects.falco.dialect import Falco, FalcoRules
from bpfence.dialects.falco.load import load_text
from bpfence.dialects.falco.options import FalcoOptions
from bpfence.dialects.native.dialect import NATIVE
from bpfence.errors import PolicyError, UsageError
from bpfence.events.process import Clock, ProcessCache
from bpfence.events.records import KernelEvent, decode
from bpfence.events.source import Observation
from bpfence.fields import EVENT_BY_NAME
from bpfence.host.hostnames import Hostnames
from bpfence.policy import Action, When
from tests.unit.agent.fakes import FakeEngine, FakeKernel, Kept, reloaded, write_policy
from tests.unit.agent.falco_rig import APPENDED, RULES, FakeEvents, verdict_of
from tests.unit.events.samples import IMAGES, record

BOTH = ("Shadow by sh", "Shadow by anyone")
WAITING: dict[str, Any] = {"when": When.SUCCESS | When.FAILURE, "confirm": "falco"}


class Rig:
    """An agent with Falco rules, and what it says."""

    def __init__(self, folder: Path, engine: FakeEngine | None = None, rules: str = RULES, *, fake: bool = True, **settings: Any) -> None:
        self.rules = folder / "rules.yaml"
        self.rules.write_text(rules)
        self.engine = engine or FakeEngine()
        self.output = Kept()
        self.said: list[str] = []
        self.events = FakeEvents()
        self.now = 1000.0
        self.settings = Settings(
            **{
                "policies": (str(self.rules),),
                "pin_dir": str(folder / "pins"),
                "state_dir": folder / "state",
                "drop_privileges": False,
                **settings,
            }
        )
        self.agent = Agent(
            self.settings,
            self.output,
            report=self.said.append,
            kernel=FakeKernel(self.engine),
            monotonic=lambda: self.now,
            dialects={"native": NATIVE, "falco": Falco(lambda _: self.events) if fake else Falco()},
        )

    def verdict(self, *names: str) -> int:
        assert self.agent.life.tables.compiled is not None
        return verdict_of(self.agent.life.tables.compiled, *names)

    def open(
        self,
        *names: str,
        path: bytes = b"/etc/shadow",
        result: int | None = 3,
        flags: int = abi.EVENT_RESULT,
        verdict: int | None = None,
        **header: Any,
    ) -> None:
        """A record of an open that the kernel says these rules may match, read and turned into lines."""
        self.engine.sequence += 1
        given = {
            "sequence": self.engine.sequence,
            "generation": self.engine.generation,
            "flags": flags,
            "action": abi.ACTION_AUDIT,
            "error": 0,
            "verdicts": (self.verdict(*names) if verdict is None else verdict,),
            **header,
        }
        numbers = {} if result is None else {"NUM_RESULT": result & (1 << 64) - 1}
        raw = record("file.open", numbers, {"STR_FILE_PATH": path}, **given)
        self.engine.batches.append([("decisions", raw)])
        os.write(self.engine._bell, b"!")
        self.agent.step(0)

    def fired(self) -> list[str]:
        return [alert["rule"] for alert in self.output.dicts("alert")]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    made.agent.start()
    yield made
    made.agent.stop()


def test_a_confirmed_candidate_is_an_alert_of_the_policy_falco(rig: Rig) -> None:
    rig.open(*BOTH)
    [alert] = rig.output.dicts("alert")
    assert (alert["policy"], alert["rule"], alert["action"], alert["mode"], alert["errno"]) == (
        "falco", "Shadow by sh", "audit", "audit", None,
    )  # fmt: skip
    assert alert["message"] == "sh opened /etc/shadow (result SUCCESS, number 3)" + APPENDED
    assert alert["dialect"]["falco"]["output"] == alert["message"]
    said = alert["dialect"]["falco"]
    assert (said["priority"], said["source"], said["output_fields"]["fd.num"]) == ("Error", "syscall", 3)
    assert list(alert["tags"]) == ["t1", "t2"]
    assert alert["severity"] == "high"
    assert alert["process"]["exe"] == "/usr/bin/dash", "what is only described for what is reported"
    assert alert["seq"] == 1
    assert "uncertain" not in alert
    assert "would" not in alert


def test_only_candidates_are_tested_and_the_first_in_falcos_order_is_reported(rig: Rig) -> None:
    rig.open(*BOTH, comm=b"cat")
    assert rig.fired() == ["Shadow by anyone"]
    rig.open("Shadow by anyone")
    assert rig.fired() == ["Shadow by anyone"] * 2, "the first that matches is not among the candidates"


def test_rule_matching_all(tmp_path: Path) -> None:
    rig = Rig(tmp_path, options={"falco": FalcoOptions(matching="all")})
    rig.agent.start()
    rig.open(*BOTH)
    assert rig.fired() == list(BOTH)
    assert [alert["seq"] for alert in rig.output.dicts("alert")] == [1, 1]
    rig.agent.stop()


def test_a_candidate_that_is_not_confirmed_gives_no_line_and_is_counted(rig: Rig) -> None:
    fetched: list[int] = []
    rig.agent.life.source.processes._fetch = fetched.append  # type: ignore[assignment]
    rig.open(*BOTH, path=b"/etc/other")
    assert fetched == [], "who did it is not looked up"
    rig.open(*BOTH)
    assert fetched != []
    rig.events.none = True
    rig.open(*BOTH)
    assert rig.fired() == ["Shadow by sh"]
    assert [alert["seq"] for alert in rig.output.dicts("alert")] == [1], "nothing is missing in the numbers"
    assert rig.agent.confirms.counted() == {"candidates": 3, "confirmed": 1}
    rig.agent.stop()
    stopped = rig.output.dicts("status")[-1]
    assert (stopped["candidates"], stopped["confirmed"]) == (3, 1)


def test_a_result_that_a_rule_does_not_want(rig: Rig) -> None:
    rig.open(*BOTH, result=-13)
    assert rig.fired() == ["Shadow by anyone"]


def test_an_enforced_rule_is_a_native_alert_that_says_what_falco_would(rig: Rig) -> None:
    rig.open("Secret", path=b"/secret/x", result=None, flags=abi.EVENT_DECISION, action=abi.ACTION_DENY, error=13)
    [alert] = rig.output.dicts("alert")
    assert (alert["policy"], alert["action"], alert["mode"], alert["errno"]) == ("falco-enforce", "deny", "enforce", "EACCES")
    assert alert["dialect"]["falco"]["output"] == "sh was refused /secret/x: EACCES" + APPENDED
    assert alert["message"] == alert["dialect"]["falco"]["output"]
    rig.open("Secret", path=b"/secret/x", result=None, flags=0, action=abi.ACTION_DENY, error=13)
    assert rig.fired() == ["Secret", "Secret"], "a record with neither bit is a decision"


def test_an_enforced_rule_is_reported_even_where_falco_has_no_such_event(rig: Rig) -> None:
    rig.events.none = True
    rig.open("Secret", path=b"/secret/x", result=None, flags=abi.EVENT_DECISION, action=abi.ACTION_DENY, error=13)
    [alert] = rig.output.dicts("alert")
    assert "falco" not in alert
    assert alert["errno"] == "EACCES"


def test_audit_mode_blocks_nothing_and_says_what_would_be(tmp_path: Path) -> None:
    rig = Rig(tmp_path, mode="audit")
    rig.agent.start()
    rig.open("Secret", path=b"/secret/x", result=None, flags=abi.EVENT_DECISION)
    rig.open(*BOTH)
    secret, shadow = rig.output.dicts("alert")
    assert (secret["action"], secret["mode"], secret["would"], secret["errno"]) == ("audit", "audit", "deny", None)
    assert (shadow["action"], shadow["mode"], shadow.get("would")) == ("audit", "audit", None)
    rig.agent.stop()


def test_enforce_mode_leaves_a_detection_what_it_is(tmp_path: Path) -> None:
    rig = Rig(tmp_path, mode="enforce")
    rig.agent.start()
    rig.open(*BOTH)
    assert rig.output.dicts("alert")[0]["mode"] == "audit"
    rig.agent.stop()


def test_native_policies_beside(tmp_path: Path) -> None:
    rig = Rig(tmp_path, policies=(str(tmp_path),))
    write_policy(tmp_path / "native.yaml", glob="/etc/shadow")
    rig.agent.start()
    assert rig.output.dicts("status")[0]["policies"] == ["guard", "falco", "falco-enforce"]
    every = rig.verdict("secret", *BOTH)
    rig.open(verdict=every, result=None, flags=abi.EVENT_DECISION, action=abi.ACTION_DENY, error=1)
    assert rig.fired() == ["secret"], "a decision speaks for rules that do not wait for the result"
    assert rig.events.asked == []
    rig.open(verdict=every, result=-1)
    assert rig.fired() == ["secret", "Shadow by anyone"]
    rig.open(verdict=every, result=None, flags=abi.EVENT_DECISION | abi.EVENT_RESULT)
    assert rig.fired() == ["secret", "Shadow by anyone", "secret", "Shadow by sh"]
    assert [alert["seq"] for alert in rig.output.dicts("alert")] == [1, 2, 3, 3]
    rig.agent.stop()


def test_a_rate_limit_applies(rig: Rig) -> None:
    for _ in range(201):
        rig.open(*BOTH)
    assert len(rig.fired()) == 200
    rig.agent.stop()
    suppressed = [status for status in rig.output.dicts("status") if status["status"] == "suppressed"]
    assert [(one["policy"], one["rule"], one["suppressed"]) for one in suppressed] == [("falco", "Shadow by sh", 1)]


# ---- generations ----


def test_a_reload_reads_both_kinds_and_old_records_keep_their_rules(rig: Rig) -> None:
    old = rig.verdict(*BOTH)
    rig.rules.write_text(RULES.replace("Shadow by sh", "Renamed").replace("sh opened", "now: sh opened"))
    assert reloaded(rig.agent)
    rig.open(verdict=old, generation=1)
    rig.open("Renamed", "Shadow by anyone")
    before, after = rig.output.dicts("alert")
    assert (before["rule"], before["message"].split(" (")[0]) == ("Shadow by sh", "sh opened /etc/shadow")
    assert (after["rule"], after["message"].split(" (")[0]) == ("Renamed", "now: sh opened /etc/shadow")


def test_a_reload_with_a_mistake_keeps_the_rules(rig: Rig) -> None:
    rig.rules.write_text(RULES.replace("proc.name=sh", "proc.nam=sh"))
    assert not reloaded(rig.agent)
    assert any("rules.yaml:4:" in text and "proc.nam" in text for text in rig.said)
    rig.open(*BOTH)
    assert rig.fired() == ["Shadow by sh"]


def test_rules_can_go_and_come(rig: Rig) -> None:
    old = rig.verdict(*BOTH)
    native = write_policy(rig.rules.parent / "other.yaml").read_text()
    text = rig.rules.read_text()
    rig.rules.write_text(native)
    assert reloaded(rig.agent)
    rig.open(verdict=old, generation=1)
    assert rig.fired() == ["Shadow by sh"], "what waited is still confirmed by its own rules"
    rig.rules.write_text(text)
    assert reloaded(rig.agent)
    rig.open(*BOTH)
    assert rig.fired() == ["Shadow by sh"] * 2


def test_adoption_confirms_by_the_names_of_the_newest_rules(tmp_path: Path) -> None:
    first = Rig(tmp_path)
    first.agent.start()
    old = first.verdict(*BOTH)
    second = Rig(tmp_path, FakeEngine(adopted=True, generation=1), RULES.replace("Shadow by sh", "Another"))
    second.agent.start()
    second.open(verdict=old, generation=1)
    assert second.fired() == ["Shadow by anyone"], "the rule that matched first has gone"
    known = second.agent.generations.get(1)
    assert known is not None
    assert {info.rule for info in known.rules if info.confirm} == set(BOTH), "what waits for a result survives in the state file"
    second.agent.stop()


def test_adoption_without_a_state_file_confirms_by_all_rules(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FakeEngine(adopted=True, generation=7))
    rig.agent.start()
    rig.open(verdict=1, generation=7)
    rig.open(verdict=1, generation=7, path=b"/secret/x")
    assert rig.fired() == ["Shadow by sh"], "no candidate is nameless, and an enforced rule is none"
    rig.open(verdict=1, generation=7, path=b"/x", flags=abi.EVENT_DECISION, result=None)
    assert rig.fired() == ["Shadow by sh", "<unknown>"]
    rig.agent.stop()


def test_followed_paths_give_a_generation_with_the_same_rules(rig: Rig) -> None:
    tables = rig.agent.life.tables
    assert tables.compiled is not None
    assert tables.loaded is not None
    tables._swap(tables.compiled, follow.Resolved({}, ()), tables.loaded)
    rig.open(*BOTH)
    assert rig.fired() == ["Shadow by sh"]


# ---- options, mistakes, privileges ----


def test_rules_are_chosen(tmp_path: Path) -> None:
    rig = Rig(tmp_path, options={"falco": FalcoOptions(disabled=("*sh",), append="")})
    rig.agent.start()
    rig.open("Shadow by anyone")
    assert rig.output.dicts("alert")[0]["message"] == "sh opened /etc/shadow"
    rig.agent.stop()


def test_a_choice_of_nothing_and_a_bad_addition_end_the_start(tmp_path: Path) -> None:
    for options, said in ((FalcoOptions(names=("Nope",)), "no Falco rule"), (FalcoOptions(append="%nope"), "--append-output")):
        rig = Rig(tmp_path, options={"falco": options})
        with pytest.raises(UsageError, match=said):
            rig.agent.start()


def test_a_mistake_ends_the_start_and_warnings_are_shown(tmp_path: Path) -> None:
    with pytest.raises(PolicyError):
        Rig(tmp_path, rules=RULES + "- rule: X\n").agent.start()
    rig = Rig(tmp_path, rules=RULES + "  nonsense: 1\n")
    rig.agent.start()
    assert any("warning" in text and "nonsense" in text for text in rig.said)
    rig.agent.stop()


def test_a_native_policy_cannot_take_the_name(tmp_path: Path) -> None:
    rig = Rig(tmp_path, policies=(str(tmp_path),))
    write_policy(tmp_path / "native.yaml", name="falco-enforce")
    with pytest.raises(PolicyError, match="cannot be named 'falco-enforce'"):
        rig.agent.start()


def test_what_falco_rules_need_is_kept_only_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr("bpfence.agent.privileges.drop", lambda *, reads_processes, **_: asked.append(reads_processes))
    rig = Rig(tmp_path, drop_privileges=True)
    rig.agent.start()
    assert reloaded(rig.agent)
    assert asked == [True]
    assert not [text for text in rig.said if "CAP_SYS_PTRACE" in text]
    rig.agent.stop()
    (tmp_path / "other").mkdir()
    rig = Rig(tmp_path / "other", drop_privileges=True)
    rules = rig.rules.read_text()
    write_policy(rig.rules)
    rig.agent.start()
    assert asked == [True, False]
    rig.rules.write_text(rules)
    assert reloaded(rig.agent)
    assert [text for text in rig.said if "CAP_SYS_PTRACE" in text]
    rig.agent.stop()


# ---- recording ----


def test_candidates_are_recorded_and_replay_the_same(tmp_path: Path) -> None:
    place = tmp_path / "recorded.jsonl"
    rig = Rig(tmp_path, record=place)
    rig.agent.start()
    rig.open(*BOTH)
    rig.open(*BOTH, path=b"/etc/other")
    rig.open(*BOTH, comm=b"c\x1b\xff")
    rig.open("Secret", path=b"/secret/x", result=None, flags=abi.EVENT_DECISION, action=abi.ACTION_DENY, error=13)
    assert place.stat().st_mode & 0o777 == 0o600
    assert len(place.read_text().splitlines()) == 3, "written with the batch that it came in"
    place.rename(tmp_path / "moved.jsonl")
    assert reloaded(rig.agent)
    rig.open(*BOTH)
    rig.agent.stop()
    ours = RuleSet(load_text(RULES)[0].rules)
    lines = [*(tmp_path / "moved.jsonl").read_bytes().splitlines(), *place.read_bytes().splitlines()]
    replayed = [match for _, event in read(lines) for match in ours.matches(event)]
    live = [alert for alert in rig.output.dicts("alert") if alert["policy"] == "falco"]
    assert [(match.rule.name, match.output) for match in replayed] == [(alert["rule"], alert["message"]) for alert in live]
    assert [match.fields for match in replayed] == [alert["dialect"]["falco"]["output_fields"] for alert in live]
    assert len(live) == 3
    assert json.loads(lines[2])["fields"]["proc.name"] == "c\\x1b\\xff"


def test_a_recording_that_cannot_be_opened_ends_the_start(tmp_path: Path) -> None:
    rig = Rig(tmp_path, record=tmp_path / "no" / "folder")
    with pytest.raises(UsageError, match="--record"):
        rig.agent.start()
    assert rig.engine.calls == []


def test_a_recording_without_falco_rules_is_told(tmp_path: Path) -> None:
    rig = Rig(tmp_path, record=tmp_path / "recorded.jsonl")
    write_policy(rig.rules)
    rig.agent.start()
    assert [text for text in rig.said if "--record: no rule is confirmed in user space" in text]
    rig.agent.stop()
    assert (tmp_path / "recorded.jsonl").read_bytes() == b""
    assert "candidates" not in rig.output.dicts("status")[-1]


def test_an_event_that_this_kernel_lacks_is_told_and_the_rest_works(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FakeEngine(missing={"file.open_failed"}))
    rig.agent.start()
    assert "file.open_failed" not in rig.engine.supported_events()
    rig.open(*BOTH)
    assert rig.fired() == ["Shadow by sh"]
    assert any("file.open_failed" in text for text in rig.said)
    rig.agent.stop()


# ---- the parts ----


def seen(**header: Any) -> Observation:
    raw = decode("decisions", record("file.open", {"NUM_RESULT": 3}, {"STR_FILE_PATH": b"/etc/shadow"}, **header))
    return Observation("file.open", 0, {"event": "file.open"}, record=raw, generation=header.get("generation", 1))  # type: ignore[arg-type]


def test_rule_sets_of_the_last_generations_are_kept() -> None:
    detection = Detection(FakeEvents, kept=KEPT)
    for number in range(1, 11):
        loaded, _ = load_text(RULES.replace("Shadow by sh", f"Rule {number}"))
        infos = [RuleInfo("falco", rule.name, "audit", Action.AUDIT, Action.AUDIT, **WAITING) for rule in loaded.rules]
        detection.use(number, FalcoRules(loaded.rules, FalcoOptions()), infos)
    found = {number: detection.confirm(detection.view(seen(generation=number)), None)[0].rule for number in (1, 6, 9, 10)}
    assert found == {1: "Rule 10", 6: "Rule 10", 9: "Rule 9", 10: "Rule 10"}
    detection.use(11, None, ())
    assert detection.confirm(detection.view(seen(generation=11)), None) == []
    assert detection.confirm(detection.view(seen(generation=10)), {"Shadow by anyone"})[0].rule == "Shadow by anyone"
    assert detection.confirm(detection.view(seen(generation=10)), set()) == []


def test_an_event_is_made_once_and_only_when_asked_for() -> None:
    events = FakeEvents()
    detection = Detection(lambda: events, kept=KEPT)
    loaded, _ = load_text(RULES)
    detection.use(1, FalcoRules(loaded.rules, FalcoOptions()), [RuleInfo("falco", BOTH[0], "audit", Action.AUDIT, Action.AUDIT, **WAITING)])
    view = detection.view(seen())
    assert events.asked == []
    assert detection.confirm(view, None)
    assert view.said("falco", BOTH[0]) is not None
    assert view.said("falco", "unknown") is None
    assert len(events.asked) == 1


def test_names_of_hosts_are_resolved_once_the_agent_works_and_anew_for_other_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path)
    rig.agent.start()
    assert [rules is not None for rules in rig.events.used] == [True]
    assert rig.events.begun == 0, "a thread that began now would keep every privilege"
    rig.agent.step(0)
    assert rig.events.begun == 1
    reloaded(rig.agent)
    assert len(rig.events.used) == 2
    rig.agent.stop()
    assert rig.events.closed == 1


def test_the_agents_own_events_know_the_hosts_that_rules_mention(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr("bpfence.host.hostnames.Hostnames.start", lambda self, _: started.append(tuple(self._entries)))
    clock = Clock()
    made = KernelEvents(ProcessCache(IMAGES.get, clock), clock, None, "node1")
    made.start(lambda: None)
    text = "- rule: X\n  desc: d\n  condition: evt.type=connect and fd.sip.name=%s\n  output: o\n  priority: INFO\n"
    for name in ("a.example", "a.example", "b.example"):
        before = made._live.hostnames
        made.use(RuleSet(load_text(text % name)[0].rules))
        made.start(lambda: None)
    assert started == [("a.example",), ("a.example",), ("b.example",)]
    assert before is not None
    assert before._wake.is_set(), "the old names are resolved no more"
    raw = decode("decisions", record("file.open", {"NUM_RESULT": 3, "NUM_CALL": 2}, {"STR_FILE_PATH": b"/x"}, flags=abi.EVENT_RESULT))
    assert isinstance(raw, KernelEvent)
    event = made.event(raw)
    assert event is not None
    assert (event.type, event.get("fd.name"), event.get("evt.hostname")) == ("open", "/x", "node1")
    made.use(None)
    assert made._live.hostnames is None
    made.close()


def test_from_files_to_a_line_with_the_agents_own_events(tmp_path: Path) -> None:
    rig = Rig(tmp_path, fake=False)
    rig.agent.start()
    rig.engine.sequence += 1
    numbers = {"NUM_RESULT": 3, "NUM_CALL": 257, "NUM_CALL_ARG0": -100 & (1 << 64) - 1}
    raw = record(
        "file.open",
        numbers,
        {"STR_FILE_PATH": b"/etc/shadow", "STR_FILE_TEXT": b"/tmp/link"},
        flags=abi.EVENT_RESULT,
        verdicts=(rig.verdict(*BOTH),),
        action=abi.ACTION_AUDIT,
        error=0,
    )
    rig.engine.batches.append([("decisions", raw)])
    os.write(rig.engine._bell, b"!")
    rig.agent.step(0)
    [alert] = rig.output.dicts("alert")
    assert alert["message"].startswith("sh opened /tmp/link (result SUCCESS, number 3)"), "decided by the path, shown as it was asked for"
    rig.agent.stop()


@pytest.mark.parametrize(("rules", "wanted"), [(RULES, True), (RULES[RULES.index("- rule: Secret") :], True), (None, False)])
def test_records_carry_details_where_there_are_falco_rules(tmp_path: Path, rules: str | None, wanted: bool) -> None:
    rig = Rig(tmp_path, rules=rules or "")
    if rules is None:
        write_policy(rig.rules)
    rig.agent.start()
    [image] = [call[1] for call in rig.engine.calls if call[0] == "swap"]
    [features] = struct.unpack_from("<I", image, abi.IMAGE_HEADER_OFFSETS["features"])
    assert bool(features & abi.IMAGE_DETAILS) == wanted
    rig.agent.stop()


# ---- names of hosts ----

CALLS = """
- rule: Calls a
  desc: d
  condition: evt.type=connect and fd.sip.name=a.example
  output: to %fd.sip.name
  priority: INFO
- rule: Shadow
  desc: d
  condition: evt.type=openat and fd.name=/etc/shadow
  output: o
  priority: INFO
"""


def named(rig: Rig, address: str) -> list[str]:
    """The rules that the tables in force name for a connect to an address."""
    compiled = rig.agent.life.tables.compiled
    assert compiled is not None
    assert [call for call in rig.engine.calls if call[0] == "swap"][-1] == ("swap", compiled.image)
    if "net.connect" not in compiled.events:
        return []
    walker = Walker(compiled.image)
    seen = sample(compiled, walker, {"event": "net.connect", "net.peer.ip": address, "net.peer.port": 443})
    walks = walker.walk(abi.CONSTANTS[EVENT_BY_NAME["net.connect"].id], seen)
    return [compiled.rules[n].name for walk in walks for n in compiled.verdicts[walk.verdict].rules]


def made_again(rig: Rig, addresses: dict[str, frozenset[str]], *, wait: float = 60.0) -> None:
    """The addresses change, time passes, and the agent does what is due."""
    rig.events.addresses = addresses
    rig.events.changed()
    rig.agent.step(0)
    rig.now += wait
    rig.agent.step(0)
    settle(rig)


def settle(rig: Rig) -> None:
    while rig.agent._remake.busy:
        rig.agent.step(1)


def test_tables_follow_the_addresses_of_names(tmp_path: Path) -> None:
    rig = Rig(tmp_path, rules=CALLS)
    rig.agent.start()
    assert named(rig, "10.0.0.1") == named(rig, "10.0.0.2") == ["Calls a"], "nobody has asked for the name yet"
    rig.agent.step(0)
    made_again(rig, {"a.example": frozenset()})
    assert "net.connect" not in rig.agent.life.tables.compiled.events  # type: ignore[union-attr]
    assert ("release", frozenset({"file.open", "file.open_failed"})) in rig.engine.calls
    made_again(rig, {"a.example": frozenset({"10.0.0.1"})})
    assert (named(rig, "10.0.0.1"), named(rig, "10.0.0.2")) == (["Calls a"], [])
    made_again(rig, {"a.example": frozenset({"10.0.0.2"})})
    assert (named(rig, "10.0.0.1"), named(rig, "10.0.0.2")) == ([], ["Calls a"])
    assert rig.output.statuses() == ["started"], "the same rules are in force"
    assert rig.said == []
    generation = rig.engine.generation
    made_again(rig, {"a.example": frozenset({"10.0.0.2"}), "b.example": frozenset({"10.0.0.3"})})
    assert rig.engine.generation == generation, "no rule compares with it"
    assert reloaded(rig.agent)
    assert (named(rig, "10.0.0.1"), named(rig, "10.0.0.2")) == ([], ["Calls a"]), "a reload begins with what is known"
    rig.agent.stop()
    rig.events.changed()


def test_tables_are_made_anew_once_for_a_burst(tmp_path: Path) -> None:
    rig = Rig(tmp_path, rules=CALLS)
    rig.agent.start()
    rig.agent.step(0)
    first = rig.engine.generation
    for n in range(20):
        rig.events.addresses = {"a.example": frozenset({f"10.0.0.{n}"})}
        rig.events.changed()
        rig.agent.step(0)
    assert (rig.engine.generation, rig.agent.loop.until_due()) == (first, SETTLE_SECONDS)
    rig.now += SETTLE_SECONDS
    rig.agent.step(0)
    settle(rig)
    assert (rig.engine.generation, named(rig, "10.0.0.19"), named(rig, "10.0.0.18")) == (first + 1, ["Calls a"], [])
    rig.agent._remake.seconds = 3.0
    rig.agent._remade()  # nothing is there to be taken; what is next is by what the last took
    rig.events.addresses = {"a.example": frozenset({"10.0.0.99"})}
    rig.events.changed()
    rig.agent.step(0)
    assert rig.agent._hosts.due == rig.now + 3.0 * HOSTS_SHARE
    rig.now += HOSTS_SECONDS
    rig.agent.step(0)
    assert (rig.agent._remake.busy, rig.engine.generation) == (False, first + 1)
    made_again(rig, rig.events.addresses)
    assert (rig.engine.generation, named(rig, "10.0.0.99")) == (first + 2, ["Calls a"])
    rig.agent.stop()


def test_tables_that_cannot_be_put_in_force_leave_the_old_ones(tmp_path: Path) -> None:
    rig = Rig(tmp_path, rules=CALLS)
    rig.agent.start()
    rig.agent.step(0)
    made_again(rig, {"a.example": frozenset({"10.0.0.1"})})
    rig.engine.refuse_swap = True
    made_again(rig, {"a.example": frozenset({"10.0.0.2"})})
    kept = "these could not be put in force: the old addresses stay in force"
    assert rig.said == ["no room", f"names of hosts have other addresses now, and {kept}"]
    assert (named(rig, "10.0.0.1"), named(rig, "10.0.0.2")) == (["Calls a"], [])
    rig.engine.refuse_swap = False
    rig.now += RETRY_SECONDS
    rig.agent.step(0)
    settle(rig)
    assert (named(rig, "10.0.0.1"), named(rig, "10.0.0.2")) == ([], ["Calls a"])
    rig.agent.stop()


def test_tables_made_for_rules_that_are_in_force_no_more_are_not_taken(tmp_path: Path) -> None:
    rig = Rig(tmp_path, rules=CALLS)
    rig.agent.start()
    rig.agent.step(0)
    rig.events.addresses = {"a.example": frozenset({"10.0.0.1"})}
    rig.agent._resolve_again(rig.now)
    rig.agent._resolve_again(rig.now)
    assert rig.agent.loop.until_due() == HOSTS_SECONDS, "one after the other"
    rig.rules.write_text(CALLS.replace("Calls a", "Calls it"))
    assert reloaded(rig.agent)
    generation = rig.engine.generation
    settle(rig)
    assert (rig.engine.generation, named(rig, "10.0.0.1")) == (generation, ["Calls it"])
    rig.rules.write_text("- rule: Broken\n")
    assert not reloaded(rig.agent)
    made_again(rig, {"a.example": frozenset({"10.0.0.2"})})
    assert named(rig, "10.0.0.2") == ["Calls it"], "the rules as they were loaded, not as they are in the files"
    rig.agent.stop()


NOBODY = (1 << 22) - 1
"""A pid that no process of this host has."""


def test_a_connect_to_an_address_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(name: str, _: None) -> list[tuple[Any, ...]]:
        return [(2, 1, 6, "", ("10.0.0.1", 0))]

    monkeypatch.setattr("bpfence.dialects.falco.confirm.detection.Hostnames", partial(Hostnames, resolve=resolve))
    rig = Rig(tmp_path, rules=CALLS, fake=False)
    rig.agent.start()
    first = rig.engine.generation
    while rig.engine.generation == first:
        rig.agent.step(0.05)
        rig.now += 1
    assert (named(rig, "10.0.0.1"), named(rig, "10.0.0.2")) == (["Calls a"], [])
    for last in (1, 2):
        raw = record(
            "net.connect",
            {"NUM_RESULT": 0, "NUM_CALL": 42, "NUM_CALL_ARG0": 3, "NUM_NET_FAMILY": 2, "NUM_NET_PEER_PORT": 443},
            {"STR_NET_PEER_IP": bytes([10, 0, 0, last])},
            flags=abi.EVENT_RESULT,
            generation=rig.engine.generation,
            verdicts=(verdict_of(rig.agent.life.tables.compiled, "Calls a"),),
            action=abi.ACTION_AUDIT,
            pid=NOBODY,
            error=0,  # type: ignore[arg-type]
        )
        rig.engine.batches.append([("decisions", raw)])
        os.write(rig.engine._bell, b"!")
        rig.agent.step(0)
    [alert] = rig.output.dicts("alert")
    assert alert["message"] == "to a.example" + APPENDED
    rig.agent.stop()


def test_what_goes_wrong_with_one_event_ends_no_agent_and_is_told_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("by zero")

    def faults() -> list[dict[str, Any]]:
        return [line for line in rig.output.dicts("status") if line["status"] == "fault"]

    with monkeypatch.context() as patched:
        patched.setattr(rig.events, "event", broken)
        rig.open(*BOTH)
        rig.open(*BOTH)
    assert "no event of Falco's could be made of file.open" in faults()[0]["message"]
    assert len(faults()) == 1
    with monkeypatch.context() as patched:
        patched.setattr(rig.agent.confirms, "get", broken)
        rig.open(*BOTH)
    assert "could not be turned into a line" in faults()[1]["message"]
    with monkeypatch.context() as patched:
        get = RecordedEvent.get
        patched.setattr(RecordedEvent, "get", lambda event, field, _=None: broken() if field == "proc.name" else get(event, field, _))
        rig.open(*BOTH)
    assert faults()[2]["rule"] == "Shadow by sh"
    assert "its condition could not be evaluated on an event openat" in faults()[2]["message"]
    assert "could not be had" in faults()[3]["message"]
    assert rig.fired() == ["Shadow by anyone"]
    assert rig.output.dicts("alert")[0]["message"].startswith("<NA> opened /etc/shadow")
    with monkeypatch.context() as patched:
        patched.setattr("bpfence.events.records.object_bits", broken)
        rig.open(*BOTH)
    rig.open(*BOTH)
    assert rig.fired()[1:] == ["Shadow by sh"], "it goes on"
    assert rig.agent.confirms.counted()["faults"] >= 4
    rig.now += 60
    rig.agent.step(0)
    [loss] = rig.output.dicts("loss")
    assert loss["undecodable"] == {"a fault of bpfence: ZeroDivisionError": 1}


PASSING = """
- rule: Numbered
  desc: d
  condition: evt.type in (open, openat) and fd.name startswith /etc and proc.name=sh
  output: "%evt.num %evt.deltatime %evt.reltime %proc.name %fd.name"
  priority: NOTICE
- rule: By path
  desc: d
  condition: evt.type in (open, openat) and fd.name=/etc/passwd
  output: "%evt.num %fd.name"
  priority: NOTICE
"""
OPENED = st.tuples(
    st.sampled_from([("Numbered",), ("Numbered", "By path")]),
    st.sampled_from([b"/etc/a", b"/etc/passwd"]),
    st.sampled_from([0x700001, 0x700000]),
    st.sampled_from([2, 257, 85, 257 | abi.CALL_COMPAT]),
    st.sampled_from([3, (1 << 64) - 2]),
    st.integers(1, 3),
)


@settings(max_examples=60, deadline=None)
@given(opened=st.lists(OPENED, max_size=30), cut=st.integers(1, 7))
def test_what_is_sifted_out_changes_nothing(tmp_path_factory: pytest.TempPathFactory, opened: list[Any], cut: int) -> None:
    """The same lines, numbers of events and counts as where each record is looked at."""
    told = []
    for keeps in (True, False):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("bpfence.agent.agent._cgroup_path", lambda _: lambda _: "/init.scope")
            if not keeps:
                patched.setattr(ProcessCache, "refuse", lambda *_: None)
            rig = Rig(tmp_path_factory.mktemp("sifted"), rules=PASSING, fake=False)
            rig.agent.start()
            rig.agent.life.source.clock = Clock(lambda: 0, lambda: 0)
            made, time, sequence = [], 1_000_000_000, 0
            for names, path, exec_id, call, result, step in opened:
                time, sequence = time + 1000 * step, sequence + 1
                numbers = {"NUM_RESULT": result, "NUM_CALL": call, "NUM_CALL_ARG0": step}
                given_header = {"sequence": sequence, "time": time, "exec_id": exec_id, "flags": abi.EVENT_RESULT, "generation": 1}
                data = record("file.open", numbers, {"STR_FILE_PATH": path}, **given_header, verdicts=(rig.verdict(*names),), error=0)
                made.append(("candidates", data))
            rig.engine.batches = [made[at : at + cut] for at in range(0, len(made), cut)]
            os.write(rig.engine._bell, b"!" * len(rig.engine.batches))
            rig.agent.drain()
            texts = [(alert["rule"], alert["message"]) for alert in rig.output.dicts("alert")]
            told.append(
                (texts, rig.agent.confirms.counted(), rig.agent.life.source.loss(), len(rig.agent.life.source.processes.refused) > 0)
            )
            rig.agent.stop()
    assert told[0][:3] == told[1][:3]
    event = next((one for one in opened if one[0] == ("Numbered",) and one[2:4] == (0x700000, 257)), None)
    assert told[0][3] or event is None, "it is kept that bash matches no such rule"
