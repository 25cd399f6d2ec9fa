# SPDX-License-Identifier: Apache-2.0
"""Policies that come while the agent runs: each for itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bpfence.agent import feed as feed_module
from bpfence.agent.agent import Agent
from bpfence.agent.feed import Candidate, Choice, Feeds, Offer, Outcome
from bpfence.agent.kept import Kept
from bpfence.agent.loading import Loaded, load
from bpfence.agent.tables import tables
from bpfence.dialects.kubearmor.dialect import KUBEARMOR, KubeArmorRules
from bpfence.dialects.kubearmor.options import POSTURE, KubeArmorOptions
from bpfence.dialects.native.dialect import NativeRules
from bpfence.dialects.native.read import load_text
from bpfence.dialects.tetragon.dialect import TETRAGON, TetragonRules
from bpfence.documents.files import SourceFile
from bpfence.errors import CompileError, Diagnostic, Location
from bpfence.evaluate import verdict
from bpfence.fields import EVENT_BY_NAME
from bpfence.host.links import Links
from bpfence.policy import Action, Policy, PolicySet
from bpfence.workloads.registry import Registry
from tests.unit.agent.fakes import POLICY, FakeEngine, reloaded, write_policy
from tests.unit.agent.test_agent import Rig
from tests.unit.dialects.tetragon.texts import kprobe, text

EVENTS = frozenset(EVENT_BY_NAME)


def policy(name: str, path: str = "/secret/**") -> Policy:
    policies, diagnostics = load_text(POLICY % (name, "enforce", "secret", path, ""), f"SecurityPolicy {name}")
    assert not diagnostics
    return policies.policies[0]


def candidate(version: str, one: Policy) -> Candidate:
    return Candidate(version, NativeRules(PolicySet((one,))), one.location)


def offer(name: str, *paths: str) -> Offer:
    return Offer(name, tuple(candidate(path, policy(name, path)) for path in paths))


class Fed:
    """A feed that offers what it is given."""

    def __init__(self, *offers: Offer) -> None:
        self.given = list(offers)
        self.outcomes: list[Mapping[str, Outcome]] = []
        self.calls: list[str] = []
        self.changed: Callable[[], None] = lambda: None

    def ask(self) -> None:
        self.calls.append("ask")

    def start(self, changed: Callable[[], None]) -> None:
        self.calls.append("start")
        self.changed = changed

    def offers(self) -> Sequence[Offer]:
        return tuple(self.given)

    def told(self, outcomes: Mapping[str, Outcome]) -> None:
        self.outcomes.append(outcomes)

    def folders(self) -> Sequence[Path]:
        return ()

    def close(self) -> None:
        self.calls.append("close")

    def versions(self) -> dict[str, str]:
        return {key: outcome.version for key, outcome in self.outcomes[-1].items()}


class FedRig(Rig):
    def __init__(self, folder: Path, *offers: Offer, engine: FakeEngine | None = None, **settings: Any) -> None:
        super().__init__(folder, engine, **settings)
        self.feed = Fed(*offers)
        self.agent = Agent(self.settings, self.output, report=self.said.append, kernel=self.kernel, feed=self.feed)

    def change(self, *offers: Offer) -> None:
        """Offer something else, and wait until what becomes of it is told."""
        self.feed.given = list(offers)
        told, deadline = len(self.feed.outcomes), time.monotonic() + 60
        self.feed.changed()
        while len(self.feed.outcomes) == told:
            assert time.monotonic() < deadline
            self.agent.step(0.1)

    def names(self) -> list[str]:
        assert self.agent.life.tables.loaded is not None
        return [one.name for one in self.agent.life.tables.loaded.policies.policies]


@pytest.fixture
def rigs(tmp_path: Path) -> Iterator[Callable[..., FedRig]]:
    made: list[FedRig] = []

    def make(*offers: Offer, **more: Any) -> FedRig:
        made.append(FedRig(tmp_path, *offers, **more))
        made[-1].policy()
        return made[-1]

    yield make
    for rig in made:
        rig.agent.stop()


def test_what_a_feed_offers_is_in_force_from_the_start(rigs: Callable[..., FedRig]) -> None:
    rig = rigs(offer("fed", "/fed/**"))
    rig.agent.start()
    assert rig.feed.calls == ["ask"]
    assert rig.names() == ["guard", "fed"]
    assert rig.feed.versions() == {"fed": "/fed/**"}
    assert rig.output.dicts("status")[0]["policies"] == ["guard", "fed"]


def test_a_feed_alone_is_enough(tmp_path: Path) -> None:
    rig = FedRig(tmp_path, policies=())
    rig.agent.start()
    assert rig.names() == []
    rig.agent.step(0)
    rig.change(offer("fed", "/fed/**"))
    assert rig.names() == ["fed"]
    rig.agent.stop()
    assert rig.feed.calls == ["ask", "start", "close"]


def test_policies_come_change_and_go_while_files_stay(rigs: Callable[..., FedRig]) -> None:
    rig = rigs()
    rig.agent.start()
    rig.agent.step(0)
    (rig.folder / "policies" / "guard.yaml").write_text("broken: [", "utf-8")
    rig.change(offer("one", "/one/**"))
    assert rig.names() == ["guard", "one"]
    rig.change(offer("one", "/other/**"), offer("two", "/two/**"))
    assert rig.feed.versions() == {"one": "/other/**", "two": "/two/**"}
    assert rig.engine.generation == 3
    rig.change()
    assert rig.names() == ["guard"]
    assert "reload-failed" not in rig.output.statuses()


def test_what_says_the_same_is_not_swapped(rigs: Callable[..., FedRig]) -> None:
    rig = rigs(offer("one", "/one/**"))
    rig.agent.start()
    rig.agent.step(0)
    rig.change(offer("one", "/one/**"))
    assert rig.engine.generation == 1


def test_a_reload_of_files_takes_the_feed_along(rigs: Callable[..., FedRig]) -> None:
    rig = rigs(offer("one", "/one/**"))
    rig.agent.start()
    rig.policy("second")
    assert reloaded(rig.agent)
    assert rig.names() == ["guard", "second", "one"]


def test_what_cannot_be_compiled_costs_the_others_nothing(rigs: Callable[..., FedRig]) -> None:
    rig = rigs(engine=FakeEngine(missing={"file.unlink"}))
    text = (POLICY % ("bad", "enforce", "secret", "/x", "")).replace("on: open", "on: unlink")
    bad = load_text(text, "SecurityPolicy bad")[0].policies[0]
    rig.feed.given = [Offer("bad", (candidate("2", bad), candidate("1", policy("bad", "/before/**")))), offer("good", "/good/**")]
    rig.agent.start()
    assert rig.feed.versions() == {"bad": "1", "good": "/good/**"}
    assert "file.unlink" in rig.feed.outcomes[-1]["bad"].errors["2"][0].message
    assert rig.names() == ["guard", "bad", "good"]


def test_a_program_that_does_not_load_after_all_costs_the_others_nothing(rigs: Callable[..., FedRig]) -> None:
    rig = rigs()
    rig.engine.fails_to_load = {"file.unlink"}
    text = (POLICY % ("bad", "enforce", "secret", "/x", "")).replace("on: open", "on: unlink")
    rig.feed.given = [Offer("bad", (candidate("1", load_text(text)[0].policies[0]),)), offer("good", "/good/**")]
    rig.agent.start()
    assert rig.feed.versions() == {"bad": "", "good": "/good/**"}
    assert rig.names() == ["guard", "good"]


def test_a_sensor_that_is_to_refuse_and_has_no_place_costs_the_others_nothing(rigs: Callable[..., FedRig]) -> None:
    def offers(*versions: str) -> tuple[Offer, Offer]:
        refusal = {"matchActions": [{"action": "Override", "argError": -1}]}
        hooks = [kprobe(refusal, call="security_inode_mkdir", args=[]), kprobe(call="tcp_conect", args=[])]
        found = TETRAGON.read([SourceFile("p.yaml", text(kprobes=hooks).encode())], None)[0]
        assert isinstance(found, TetragonRules)
        made = tuple(Candidate(version, found, found.locations[0], TETRAGON.name) for version in versions)
        return Offer("bad", made), offer("good", "/good/**")

    rig = rigs(*offers("1"))
    rig.engine.no_place = {"inode_mkdir": "this kernel has no LSM hook inode_mkdir", "tcp_conect": "no such function"}
    rig.agent.start()
    assert rig.feed.versions() == {"bad": "", "good": "/good/**"}
    [found] = rig.feed.outcomes[-1]["bad"].errors["1"]
    assert "cannot refuse what it is to refuse: this kernel has no LSM hook" in found.message
    assert rig.names() == ["guard", "good"]
    rig.agent.step(0)
    rig.change(*offers("2"))
    assert rig.feed.versions() == {"bad": "", "good": "/good/**"}
    rig.engine.no_place = {"tcp_conect": "no such function"}
    rig.change(*offers("3"))
    assert rig.feed.versions() == {"bad": "3", "good": "/good/**"}


def test_a_name_that_a_file_has_is_refused(rigs: Callable[..., FedRig]) -> None:
    rig = rigs(offer("guard", "/other/**"))
    rig.agent.start()
    assert rig.names() == ["guard"]
    [found] = rig.feed.outcomes[-1]["guard"].errors["/other/**"]
    assert found.code == "duplicate-policy"


def test_mode_and_scope_of_the_agent_hold_for_them_too(rigs: Callable[..., FedRig]) -> None:
    rig = rigs(offer("one", "/one/**"), mode="audit")
    rig.agent.start()
    rig.agent.step(0)
    rig.change(offer("one", "/one/**"), offer("two", "/two/**"))
    assert rig.agent.life.tables.loaded is not None
    assert {one.mode for one in rig.agent.life.tables.loaded.policies.policies} == {"audit"}


def test_a_failure_in_the_kernel_keeps_what_was_and_is_tried_again(rigs: Callable[..., FedRig]) -> None:
    rig = rigs()
    rig.agent.start()
    rig.agent.step(0)
    rig.engine.refuse_swap = True
    rig.feed.given = [offer("one", "/one/**")]
    rig.feed.changed()
    deadline = time.monotonic() + 60
    while not any("could not be put in force" in text for text in rig.said):
        assert time.monotonic() < deadline
        rig.agent.step(0.1)
    assert rig.names() == ["guard"]
    assert rig.agent._feeds.due is not None


def test_what_there_is_no_room_for_is_what_came_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = load([str(write_policy(tmp_path / "guard.yaml"))])
    fed = Fed(offer("b", "/b/**"), offer("c", "/c/**"), offer("e", "/e/**"))
    choice = Choice(fed, Links())
    registry = Registry(lambda: None, lambda _: 0)
    choice.in_force(choice.choose(files, lambda one: one, EVENTS, registry).outcomes)

    def small(loaded: Loaded, events: frozenset[str], containers: Registry, _: object = None) -> Any:
        if len(loaded.policies.policies) > 5:
            raise CompileError([Diagnostic(Location("x"), "too large", code="too-large")])
        return tables(loaded, events, containers)

    monkeypatch.setattr(feed_module, "tables", small)
    fed.given = [offer(name, f"/{name}/**") for name in "abcdef"]
    chosen = choice.choose(files, lambda one: one, EVENTS, registry)
    assert {key for key, outcome in chosen.outcomes.items() if outcome.version} == {"a", "b", "c", "e"}
    assert chosen.outcomes["f"].errors["/f/**"][0].code == "too-large"
    assert [one.name for one in chosen.loaded.more] == ["b", "c", "e", "a"]


def test_files_that_cannot_be_had_are_an_error(tmp_path: Path) -> None:
    files = load([str(write_policy(tmp_path / "guard.yaml"))])
    choice = Choice(Fed(offer("b", "/b/**")), Links())
    with pytest.raises(CompileError):
        choice.choose(files, lambda one: one, frozenset(), Registry(lambda: None, lambda _: 0))


def test_a_bug_in_compiling_one_costs_the_others_nothing(rigs: Callable[..., FedRig], monkeypatch: pytest.MonkeyPatch) -> None:
    usual = feed_module.compile_policies

    def fails(given: Any, **more: Any) -> Any:
        if given.policies[0].name == "bad":
            raise ZeroDivisionError
        return usual(given, **more)

    monkeypatch.setattr(feed_module, "compile_policies", fails)
    rig = rigs(offer("bad", "/bad/**"), offer("good", "/good/**"))
    rig.agent.start()
    assert rig.names() == ["guard", "good"]
    assert "please report it" in rig.feed.outcomes[-1]["bad"].errors["/bad/**"][0].message


# ---- other languages ----


def armor(name: str, path: str, action: str = "Allow", more: str = "") -> tuple[str, KubeArmorRules]:
    text = (
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorHostPolicy\n"
        f"metadata: {{name: {name}}}\nspec: {{nodeSelector: {{matchLabels: {{a: b}}}}, action: {action},{more}"
        f" file: {{matchPaths: [{{path: {path}}}]}}}}\n"
    )
    rules, diagnostics = KUBEARMOR.read([SourceFile(name, text.encode())], KubeArmorOptions(postures={"host_file": "block"}))
    assert not diagnostics
    return text, rules


def armor_offer(name: str, path: str, action: str = "Allow", more: str = "") -> Offer:
    candidate_ = Candidate(path + more, armor(name, path, action, more)[1], Location(name), "kubearmor")
    return Offer(f"KubeArmorHostPolicy {name}", (candidate_,))


def test_what_alerts_say_otherwise_is_swapped_in(rigs: Callable[..., FedRig]) -> None:
    rig = rigs(armor_offer("object", "/x", "Block", " severity: 2,"))
    rig.agent.start()
    rig.agent.step(0)
    for severity, generation in (("2", 1), ("3", 2), ("3", 2)):
        rig.change(armor_offer("object", "/x", "Block", f" severity: {severity},"))
        assert rig.engine.generation == generation
        loaded = rig.agent.life.tables.loaded
        assert loaded is not None
        [policy] = loaded.in_force["kubearmor"].given  # type: ignore[attr-defined]
        assert str(policy.entries[0].severity) == severity


def test_policies_of_a_language_are_lowered_with_those_of_its_files(rigs: Callable[..., FedRig], tmp_path: Path) -> None:
    """An allow list of a file is widened by that of an object, and is itself again when that goes."""
    rig = rigs(options={KUBEARMOR.name: KubeArmorOptions(postures={"host_file": "block"})})
    rig.agent.start()
    (Path(rig.settings.policies[0]) / "armor.yaml").write_text(armor("file", "/from/file")[0])
    reloaded(rig.agent)
    loaded = [rig.agent.life.tables.loaded]
    rig.change(armor_offer("object", "/from/object"), Offer("fed", ()), armor_offer("file", "/x"))
    loaded.append(rig.agent.life.tables.loaded)
    assert {key: bool(version) for key, version in rig.feed.versions().items()} == {
        "KubeArmorHostPolicy object": True,
        "fed": False,
        "KubeArmorHostPolicy file": False,
    }
    assert "already" in rig.feed.outcomes[-1]["KubeArmorHostPolicy file"].errors["/x"][0].message
    rig.change()
    loaded.append(rig.agent.life.tables.loaded)
    closed = []
    for one in loaded:
        assert one is not None
        assert [policy.name for policy in one.policies.policies].count(POSTURE) == 1
        event = {"event": "file.open", "process.cgroup": "/system.slice", "process.exe": "/bin/x", "process.uid": 0, "file.access": 1}
        policies = PolicySet(tuple(policy for policy in one.policies.policies if policy.name == POSTURE))
        closed.append([verdict(policies, {**event, "file.path": path}).action is Action.DENY for path in ("/from/file", "/from/object")])
    assert closed == [[False, True], [False, False], [False, True]]


def test_what_alerts_say_of_policies_of_a_feed(rigs: Callable[..., FedRig]) -> None:
    rig = rigs(armor_offer("object", "/from/object", "Block"))
    rig.agent.start()
    assert rig.agent.confirms.names() == ("kubearmor",)
    loaded = rig.agent.life.tables.loaded
    assert loaded is not None
    assert (list(loaded.rules), list(loaded.in_force)) == (["native"], ["native", "kubearmor"])
    rig.agent.step(0)
    rig.change()
    loaded = rig.agent.life.tables.loaded
    assert loaded is not None
    assert list(loaded.in_force) == ["native"]


def test_two_policies_of_a_feed_by_one_name(rigs: Callable[..., FedRig]) -> None:
    rig = rigs(offer("same", "/a"), Offer("TracingPolicy same", offer("same", "/b").candidates))
    rig.agent.start()
    assert rig.feed.versions() == {"same": "/a", "TracingPolicy same": ""}


def test_several_feeds_are_one() -> None:
    one, other = Fed(offer("a", "/x")), Fed(offer("b", "/y"), offer("c", "/z"))
    both = Feeds(one, other)
    both.ask()
    both.start(lambda: None)
    assert [each.key for each in both.offers()] == ["a", "b", "c"]
    both.told({"a": Outcome("/x", {})})
    assert one.versions() == other.versions() == {"a": "/x"}
    assert both.folders() == []
    both.close()
    assert one.calls == other.calls == ["ask", "start", "close"]


def test_tables_of_a_start_with_a_feed_are_kept_for_the_next(tmp_path: Path) -> None:
    """Those of all that was taken, and none of those that were only tried."""
    files = load([str(write_policy(tmp_path / "guard.yaml"))])
    kept = Kept("/pins", tmp_path / "cache")
    registry = Registry(lambda: None, lambda _: 0)
    first = Choice(Fed(offer("b", "/b/**")), Links(), kept).choose(files, lambda one: one, EVENTS, registry)
    [file] = (tmp_path / "cache").iterdir()
    made = file.stat().st_mtime_ns
    second = Choice(Fed(offer("b", "/b/**")), Links(), kept).choose(files, lambda one: one, EVENTS, registry)
    assert file.stat().st_mtime_ns == made
    assert second.compiled == first.compiled
