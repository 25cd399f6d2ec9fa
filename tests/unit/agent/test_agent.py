# SPDX-License-Identifier: Apache-2.0
"""The agent's life, with a kernel made of lists."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bpfence import abi
from bpfence.agent import agent as agent_module
from bpfence.agent.agent import CLASSES_SECONDS, GATHER_SECONDS, Agent, Settings
from bpfence.agent.generations import Counted, Counts, Generations, state_path
from bpfence.agent.loading import load, read_policies
from bpfence.compiler.explain import explain
from bpfence.errors import CompileError, KernelError, PolicyError
from bpfence.evaluate import verdict
from bpfence.events.process import read_boot_id
from bpfence.glob import compiled
from bpfence.policy import Action, Atom, Op
from bpfence.workloads.model import Container
from bpfence.workloads.registry import Registry
from tests.unit.agent.fakes import Cost, FakeEngine, FakeKernel, Kept, known_generations, reloaded, write_policy
from tests.unit.events.samples import record


class Told:
    """A source of containers: those that there are at the start, and those that come later."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.first: list[Container] = []
        self.later: list[Container] = []
        self.calls: list[str] = []

    def ask(self, registry: Registry) -> None:
        assert self.rig.kernel.asked == []
        self.calls.append("ask")
        registry.found("told", self.first)

    def start(self, registry: Registry) -> None:
        assert "swap" in self.rig.engine.names()
        self.calls.append("start")
        registry.found("told", [*self.first, *self.later])

    def close(self) -> None:
        self.calls.append("close")


class Rig:
    """An agent, its fakes, and its messages."""

    def __init__(self, folder: Path, engine: FakeEngine | None = None, **settings: Any) -> None:
        self.folder = folder
        self.kernel = FakeKernel(engine)
        self.engine = self.kernel.engine
        self.output = Kept()
        self.said: list[str] = []
        self.now = 1000.0
        self.settings = Settings(
            **{
                "policies": (str(folder / "policies"),),
                "pin_dir": str(folder / "pins"),
                "state_dir": folder / "state",
                "ready_file": folder / "ready",
                "drop_privileges": False,
                **settings,
            }
        )
        (folder / "policies").mkdir(exist_ok=True)
        self.sources = Told(self)
        self.agent = Agent(
            self.settings,
            self.output,
            report=self.said.append,
            kernel=self.kernel,
            monotonic=lambda: self.now,
            sources=self.sources,
        )

    def policy(self, name: str = "guard", **more: Any) -> Path:
        return write_policy(self.folder / "policies" / f"{name}.yaml", name, **more)

    def step(self) -> None:
        self.agent.step(0)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    made.policy()
    yield made
    made.agent.stop()


def test_start_goes_in_order_and_tells_when_it_is_done(rig: Rig) -> None:
    rig.agent.start()
    assert rig.engine.names() == ["attach", "seed", "swap", "release"]
    assert rig.engine.calls[0] == ("attach", {"file.open"})
    assert rig.kernel.asked == [str(rig.folder / "pins")]
    assert json.loads((rig.folder / "ready").read_text()) == {"pid": os.getpid(), "generation": 1, "policies": ["guard"]}
    assert rig.output.dicts("status")[0]["status"] == "started"
    assert rig.output.dicts("status")[0]["policies"] == ["guard"]
    assert list(known_generations(state_path(str(rig.folder / "pins"), rig.folder / "state"), read_boot_id())) == [1]


def test_a_start_that_fails_leaves_what_another_version_has_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That goes with `release`."""

    def refuse(**_: object) -> None:
        raise OSError("not here")

    rig = Rig(tmp_path, drop_privileges=True)
    rig.policy()
    monkeypatch.setattr(agent_module.privileges, "drop", refuse)
    monkeypatch.setattr(agent_module.privileges, "landlock_works", lambda _: (False, ""))
    with pytest.raises(KernelError, match="privileges could not be given up"):
        rig.agent.start()
    assert rig.engine.names() == ["attach", "seed", "swap"]
    assert rig.engine.closed is True


def test_an_alert_goes_all_the_way(rig: Rig) -> None:
    rig.agent.start()
    rig.engine.say()
    rig.agent.step(5)
    [alert] = rig.output.dicts("alert")
    assert (alert["policy"], alert["rule"], alert["action"], alert["errno"]) == ("guard", "secret", "deny", "EPERM")
    assert alert["message"] == "no /secret/a"
    assert alert["process"]["exe"] == "/usr/bin/dash"


def test_bad_policies_touch_nothing(rig: Rig) -> None:
    rig.policy(glob="[")
    with pytest.raises(PolicyError):
        rig.agent.start()
    assert rig.kernel.asked == []
    assert not (rig.folder / "ready").exists()


def test_an_event_that_the_kernel_lacks_is_an_error_for_a_deny(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FakeEngine(missing={"file.open"}))
    rig.policy()
    with pytest.raises(CompileError, match=r"file\.open"):
        rig.agent.start()
    assert rig.engine.closed is True, "nothing was in force: nothing stays"
    assert "swap" not in rig.engine.names()


def test_a_program_that_does_not_load_after_all_is_the_same_error(rig: Rig) -> None:
    rig.engine.fails_to_load = {"file.open"}
    with pytest.raises(CompileError, match=r"file\.open"):
        rig.agent.start()
    assert "swap" not in rig.engine.names()


def test_a_failed_start_leaves_an_adopted_engine_in_force(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FakeEngine(adopted=True, generation=4, missing={"file.open"}))
    rig.policy()
    with pytest.raises(CompileError):
        rig.agent.start()
    assert rig.engine.closed is False


def test_reload_swaps_in_new_policies(rig: Rig) -> None:
    rig.agent.start()
    (rig.folder / "ready").unlink()
    rig.policy("second", rule="other", glob="/other/**")
    assert reloaded(rig.agent)
    assert rig.engine.generation == 2
    assert rig.output.reopened == 1
    assert json.loads((rig.folder / "ready").read_text())["policies"] == ["guard", "second"]
    assert rig.output.statuses() == ["started", "reloaded"]


def test_links_are_read_at_every_load(rig: Rig) -> None:
    (rig.folder / "link").symlink_to("one")
    rig.policy(glob=f"{rig.folder}/link/**")
    rig.agent.start()

    def protects(name: str) -> bool:
        route = explain(rig.agent.life.tables.compiled, {"event": "file.open", "file.path": f"{rig.folder}/{name}/x"})  # type: ignore[arg-type]
        return route.action == "deny"

    assert [protects(name) for name in ("link", "one", "two")] == [True, True, False]
    (rig.folder / "link").unlink()
    (rig.folder / "link").symlink_to("two")
    assert reloaded(rig.agent)
    assert [protects(name) for name in ("link", "one", "two")] == [True, False, True]


def test_programs_of_a_reload_are_attached_beside_the_loop(rig: Rig) -> None:
    """The kernel checks each for a third of a second."""
    rig.agent.start()
    rig.engine.attached_in.clear()
    assert reloaded(rig.agent)
    assert rig.engine.attached_in[0] == "bpfence-remake"
    assert rig.engine.names()[-5:] == ["attach", "attach", "seed", "swap", "release"]


def test_a_bad_reload_keeps_the_old_policies(rig: Rig) -> None:
    rig.agent.start()
    (rig.folder / "ready").unlink()
    rig.policy(glob="[")
    assert not reloaded(rig.agent)
    assert rig.engine.generation == 1
    assert rig.output.statuses() == ["started", "reload-failed"]
    assert any("guard.yaml:" in text for text in rig.said)
    assert not (rig.folder / "ready").exists()
    rig.engine.say()
    rig.step()
    assert rig.output.dicts("alert")[0]["policy"] == "guard"


def test_alerts_flow_while_policies_are_read(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.agent.start()
    hold, asked = threading.Event(), list[int]()

    def slow(*given: Any, **more: Any) -> Any:
        asked.append(len(asked))
        assert hold.wait(60)
        return load(*given, **more)

    monkeypatch.setattr("bpfence.agent.agent.load", slow)
    for _ in range(3):
        rig.agent.reload()
        rig.engine.say()
        rig.step()
    assert (len(rig.output.dicts("alert")), rig.output.statuses(), rig.agent.reloading) == (3, ["started"], True)
    hold.set()
    while rig.agent.reloading:
        rig.agent.step(1)
    assert rig.output.statuses() == ["started", "reloaded", "reloaded"], "what is asked for meanwhile is done once, afterwards"
    assert len(asked) == 2


def test_a_stop_does_not_wait_for_a_reload(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.agent.start()
    hold = threading.Event()
    monkeypatch.setattr("bpfence.agent.agent.load", lambda *_: hold.wait(60))
    rig.agent.reload()
    rig.agent.stop()
    assert rig.output.statuses() == ["started", "stopped"]
    hold.set()


def test_a_bug_in_a_reload_ends_no_agent(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.agent.start()
    monkeypatch.setattr("bpfence.agent.agent.load", lambda *_: 1 // 0)
    assert not reloaded(rig.agent)
    assert any("ZeroDivisionError" in text and "please report it" in text for text in rig.said)
    monkeypatch.undo()
    assert reloaded(rig.agent)


def test_a_bug_where_policies_are_put_in_force_ends_no_agent(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.agent.start()
    monkeypatch.setattr("bpfence.agent.agent.locking_out", lambda *_: 1 // 0)
    rig.policy(rule="other")
    assert not reloaded(rig.agent)
    assert rig.engine.generation == 1, "the old ones are in force, as was told"
    monkeypatch.undo()
    assert reloaded(rig.agent)


def test_faults_beside_events_are_told_though_no_event_comes(rig: Rig) -> None:
    rig.agent.start()
    rig.agent.confirms.faults.add("", "something", ValueError("x"))
    rig.step()
    assert [line["message"] for line in rig.output.dicts("status") if line["status"] == "fault"] != []


def test_files_that_cannot_be_taken_away_do_not_keep_an_agent_from_its_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.agent.start()

    def refused(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refused)
        rig.agent.stop()
    assert (rig.engine.closed, rig.output.closed) == (True, True)
    assert sum("cannot be removed" in text for text in rig.said) == 3


def test_a_swap_that_the_kernel_refuses_keeps_the_old_policies(rig: Rig) -> None:
    rig.agent.start()
    rig.engine.refuse_swap = True
    assert not reloaded(rig.agent)
    assert any("no room" in text for text in rig.said)


def test_alerts_of_the_old_generation_keep_their_names(rig: Rig) -> None:
    rig.agent.start()
    rig.policy(rule="renamed")
    reloaded(rig.agent)
    rig.engine.say(generation=1)
    rig.engine.say(generation=2)
    rig.step()
    assert [alert["rule"] for alert in rig.output.dicts("alert")] == ["secret", "renamed"]


def test_adoption_knows_the_rules_of_the_agent_before(tmp_path: Path) -> None:
    first = Rig(tmp_path)
    first.policy(rule="before")
    first.agent.start()
    second = Rig(tmp_path, FakeEngine(adopted=True, generation=1))
    second.policy(rule="after")
    second.engine.say(generation=1)
    second.agent.start()
    second.step()
    assert second.output.statuses() == ["adopted"]
    assert [alert["rule"] for alert in second.output.dicts("alert")] == ["before"]
    assert second.said == []


def test_adoption_without_a_state_file_reports_nameless(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FakeEngine(adopted=True, generation=1))
    rig.policy()
    rig.engine.say(generation=1)
    rig.agent.start()
    rig.step()
    [alert] = rig.output.dicts("alert")
    assert (alert["policy"], alert["rule"], alert["action"], alert["mode"], alert["uncertain"]) == (
        "<unknown>",
        "<unknown>",
        "deny",
        "enforce",
        True,
    )
    assert "there is no state file" in rig.said[0]


def test_an_act_is_one_alert_and_what_is_uncertain_one_report(rig: Rig) -> None:
    """Reading a file under three policies on file.read, first one with a path, then one whose path could not be had."""
    (rig.folder / "policies" / "guard.yaml").unlink()
    for name, glob in (("one", "/secret/**"), ("two", "/other/**"), ("three", "/third/x")):
        path = rig.policy(name, glob=glob, mode="audit")
        path.write_text(path.read_text().replace("on: open", "on: file.read").replace("deny", "audit"))
    rig.agent.start()
    known = rig.agent.generations.get(1)
    assert known is not None
    sure = next(n for n, meaning in enumerate(known.verdicts) if len(meaning.rules) == 1 and not meaning.uncertain)
    unsure = next(n for n, meaning in enumerate(known.verdicts) if len(meaning.rules) == 3 and meaning.uncertain)

    def act(path: bytes | None, verdict: int, ino: int) -> None:
        for event in ("file.open", "file.permission", "file.permission"):
            strings = {"STR_FILE_PATH": path} if path is not None else {}
            numbers = {"NUM_FILE_ACCESS": abi.ACCESS_READ, "NUM_FILE_INO": ino}
            header = {"verdicts": (verdict,), "action": abi.ACTION_AUDIT, "error": 0, "flags": abi.CAUSE_PATH << abi.EVENT_CAUSES_SHIFT}
            rig.engine.put(record(event, numbers, strings, generation=1, **header))
        rig.step()

    act(b"/secret/a", sure, 5)
    assert len(rig.output.dicts("alert")) == 1
    act(None, unsure, 6)
    [_, alert] = rig.output.dicts("alert")
    assert (alert["rule"], alert["uncertain"], alert["causes"]) == ("secret", True, ("path",))
    assert len(alert["may_match"]) == 2
    assert "because the path is too long" in alert["message"]


def test_a_verdict_number_without_meaning_is_still_reported(rig: Rig) -> None:
    rig.agent.start()
    rig.engine.say(verdict=4_000_000_000)
    rig.engine.say(verdict=0)
    rig.step()
    assert [alert["policy"] for alert in rig.output.dicts("alert")] == ["<unknown>"] * 2


def test_rate_limit_and_its_report(rig: Rig) -> None:
    rig.policy(more=", rate: 2/s")
    rig.agent.start()
    for _ in range(5):
        rig.engine.say()
    rig.step()
    assert len(rig.output.dicts("alert")) == 2
    rig.now += 2
    rig.step()
    suppressed = rig.output.dicts("status")[-1]
    assert (suppressed["status"], suppressed["policy"], suppressed["rule"], suppressed["suppressed"]) == (
        "suppressed",
        "guard",
        "secret",
        3,
    )


def test_suppressed_alerts_are_reported_at_the_end(rig: Rig) -> None:
    rig.policy(more=", rate: 1/s")
    rig.agent.start()
    rig.engine.say()
    rig.engine.say()
    rig.agent.stop()
    assert rig.output.statuses() == ["started", "suppressed", "stopped"]


def test_loss_is_reported_a_second_after_records_came(rig: Rig) -> None:
    rig.agent.start()
    rig.engine.say()
    rig.step()
    rig.engine.counted = {"file.open": 7}
    assert rig.output.dicts("loss") == []
    rig.now += 1
    rig.step()
    assert rig.output.dicts("loss")[0]["events"] == {"file.open": 7}


def test_denials_without_a_record_are_told_though_nothing_else_comes(rig: Rig) -> None:
    rig.agent.start()
    rig.engine.counted, rig.engine.refusals = {"file.open": 3}, {"memory": 3, "table": 0}
    rig.step()
    assert rig.output.dicts("loss") == []
    rig.now += 10
    rig.step()
    [loss] = rig.output.dicts("loss")
    assert (loss["lost"], loss["refused"]) == (3, {"memory": 3})


def test_skipped_programs_are_told_before_and_when_it_happens(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FakeEngine())
    rig.policy()
    rig.engine.can_skip = "preemption: full"
    rig.agent.start()
    assert [line for line in rig.said if "preemption: full" in line and "can be skipped" in line and "lsm=" in line]
    rig.engine.skips = {"file_open__file": 40}
    rig.now += 10
    rig.step()
    rig.engine.skips = {"file_open__file": 42}
    rig.now += 10
    rig.step()
    told = [line for line in rig.output.dicts("status") if line["status"] == "skipped"]
    assert [line["skipped"] for line in told] == [{"file_open__file": 40}, {"file_open__file": 2}]
    assert {line["severity"] for line in told} == {"critical"}
    rig.agent.stop()


def test_an_idle_agent_only_looks_for_losses_now_and_then(rig: Rig) -> None:
    rig.agent.start()
    assert rig.agent.loop.until_due() == 10.0
    rig.engine.say()
    rig.step()
    assert rig.agent.loop.until_due() == 1.0
    rig.now += 1
    rig.step()
    assert rig.agent.loop.until_due() == 10.0


@pytest.mark.parametrize(
    ("keep", "pinned", "unloaded"), [(False, True, True), (True, True, False), (True, False, True), (False, False, True)]
)
def test_stop(tmp_path: Path, keep: bool, pinned: bool, unloaded: bool) -> None:
    rig = Rig(tmp_path, keep=keep, **({} if pinned else {"pin_dir": None}))
    rig.policy()
    rig.agent.start()
    rig.engine.say()
    rig.agent.stop()
    rig.agent.stop()
    assert rig.engine.closed is unloaded
    assert len(rig.output.dicts("alert")) == 1, "what was waiting is still reported"
    assert rig.output.closed
    assert not (tmp_path / "ready").exists()
    assert (rig.agent.generations._path is not None and rig.agent.generations._path.exists()) is not unloaded


def test_programs_are_detached_beside_the_loop(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alerts go on, and another reload begins when that is over."""
    rig.agent.start()
    going = threading.Event()
    monkeypatch.setattr(rig.engine, "release", lambda *_: going.wait(30))
    rig.agent.reload()
    while rig.engine.generation < 2:
        rig.agent.step(1)
    rig.engine.say()
    rig.agent.reload()
    rig.step()
    rig.step()
    assert len(rig.output.dicts("alert")) == 1
    assert rig.engine.generation == 2
    going.set()
    while rig.agent.reloading:
        rig.agent.step(1)
    assert rig.engine.generation == 3


def test_what_the_start_has_cost_is_kept_for_status(tmp_path: Path) -> None:
    """Of the engine in force: an agent that takes it over has loaded nothing."""
    costs = []
    for engine in (FakeEngine(), FakeEngine(adopted=True, generation=1)):
        engine.load_cost = Cost(3 - len(costs), 0.5, "")
        rig = Rig(tmp_path, engine, keep=True)
        rig.policy()
        rig.agent.start()
        kept = Generations(state_path(str(tmp_path / "pins"), tmp_path / "state"), rig.agent._boot_id)
        assert kept.restore() == ""
        assert kept.started is not None
        costs.append(kept.started)
        rig.agent.stop()
    first, second = costs
    assert first == second
    assert (first.programs, first.load) == (3, 0.5)
    assert first.total >= first.compile > 0


def test_what_is_left_at_the_end_is_told_as_lost(rig: Rig) -> None:
    """The time for lines is over before all that was written while enforcement lasted has come."""
    rig.agent.start()

    def now() -> float:
        rig.now += 0.3
        return rig.now

    for _ in range(9):
        rig.engine.say()
    rig.agent.loop.now = now
    rig.agent.stop()
    (loss,) = rig.output.dicts("loss")
    told = len(rig.output.dicts("alert"))
    assert 0 < told < 9
    assert loss["events"] == {"file.open": 9 - told}
    assert rig.engine.ended


def test_records_of_a_kept_engine_wait_for_the_next_agent(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keep=True)
    rig.policy()
    rig.agent.start()

    def now() -> float:
        rig.now += 0.3
        return rig.now

    for _ in range(9):
        rig.engine.say()
    rig.agent.loop.now = now
    rig.agent.stop()
    assert rig.engine.batches
    assert rig.output.dicts("loss") == []
    assert not rig.engine.ended


def test_records_that_come_as_fast_as_they_are_read_keep_no_signal_waiting(rig: Rig) -> None:
    rig.agent.start()
    for _ in range(100):
        rig.engine.say()

    def now() -> float:
        rig.now += 0.01
        return rig.now

    rig.agent.loop.now = now
    rig.agent.drain()
    assert 0 < len(rig.output.dicts("alert")) < 20


def test_the_first_alert_waits_for_no_patterns_to_be_made(rig: Rig) -> None:
    """Those that tell the container of a cgroup take ten alerts' time."""
    compiled.cache_clear()
    rig.agent.start()
    made = compiled.cache_info().misses
    assert made
    rig.engine.say()
    rig.step()
    assert len(rig.output.dicts("alert")) == 1
    assert compiled.cache_info().misses == made


def test_records_that_come_soon_after_others_are_read_together(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them at once, and all of them without a wait where reading takes longer than gathering."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        rig.now += seconds
        rig.engine.say()

    monkeypatch.setattr(agent_module, "time", SimpleNamespace(**{**vars(time), "sleep": sleep}))
    rig.agent.start()
    for told, pauses in ((1, 0), (3, 1)):
        rig.engine.say()
        rig.step()
        assert (len(rig.output.dicts("alert")), len(slept)) == (told, pauses)
        rig.now += GATHER_SECONDS / 4
    assert slept == [pytest.approx(GATHER_SECONDS * 3 / 4)]
    rig.now += GATHER_SECONDS
    rig.engine.say()
    rig.step()
    assert (len(rig.output.dicts("alert")), len(slept)) == (4, 1)


def test_a_bug_does_not_end_enforcement(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(rig.agent, "step", bug)
    with pytest.raises(ZeroDivisionError):
        rig.agent.run()
    assert rig.engine.closed is False


def test_run_answers_signals(rig: Rig) -> None:
    started = threading.Event()

    def until(done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not done() and time.monotonic() < deadline:
            time.sleep(0.005)

    def act() -> None:
        until((rig.folder / "ready").exists)
        started.set()
        (rig.folder / "ready").unlink()
        os.kill(os.getpid(), signal.SIGHUP)
        until((rig.folder / "ready").exists)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    actor = threading.Thread(target=act)
    actor.start()
    rig.agent.run()
    actor.join()
    assert started.is_set()
    assert rig.output.statuses() == ["started", "reloaded", "stopped"]
    assert signal.getsignal(signal.SIGTERM) is before


# ---- followed objects ----


def follow_policy(rig: Rig, path: Path) -> None:
    rig.policy(glob=str(path), more=", follow: object")


def test_a_followed_file_that_is_replaced_is_followed_anew(rig: Rig) -> None:
    target = rig.folder / "watched"
    target.write_text("one")
    follow_policy(rig, target)
    rig.agent.start()
    first = target.stat().st_ino
    assert [inode for inode, _ in rig.engine.objects] == [first]
    (rig.folder / "new").write_text("two")
    (rig.folder / "new").rename(target)
    rig.agent.step(5)
    rig.step()
    assert [inode for inode, _ in rig.engine.objects] == [target.stat().st_ino] != [first]
    assert rig.engine.generation == 2
    assert rig.output.statuses() == ["started", "followed"]
    rig.engine.say(generation=2)
    rig.step()
    assert rig.output.dicts("alert")[0]["policy"] == "guard"


def test_other_files_beside_a_followed_one_cause_nothing(rig: Rig) -> None:
    target = rig.folder / "watched"
    target.write_text("one")
    follow_policy(rig, target)
    rig.agent.start()
    (rig.folder / "other").write_text("x")
    rig.agent.step(0.2)
    assert rig.engine.generation == 1
    assert rig.agent.life.tables._again.due is None


def test_a_followed_file_that_comes_later(rig: Rig) -> None:
    target = rig.folder / "deep" / "watched"
    follow_policy(rig, target)
    rig.agent.start()
    assert rig.engine.objects == {}
    assert any("do not exist yet" in text for text in rig.said)
    target.parent.mkdir()
    rig.agent.step(5)
    rig.step()
    target.write_text("x")
    rig.now += 1
    rig.agent.step(5)
    rig.step()
    assert [inode for inode, _ in rig.engine.objects] == [target.stat().st_ino]


def test_followed_paths_that_do_not_answer_are_told_and_asked_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    target = rig.folder / "watched"
    target.write_text("one")
    follow_policy(rig, target)
    rig.agent.start()
    before = dict(rig.engine.objects)
    resolve = rig.agent.life.tables.lookup.resolve
    found = resolve([])
    silent = lambda paths, known: found._replace(objects=dict(known), silent=tuple(paths))  # noqa: E731
    monkeypatch.setattr(rig.agent.life.tables.lookup, "resolve", silent)
    assert reloaded(rig.agent)
    assert rig.engine.objects == before
    assert [text for text in rig.said if "do not answer" in text]
    assert rig.agent.loop.until_due() == 1.0


def test_matches_are_counted_by_rule_for_status(rig: Rig) -> None:
    rig.agent.start()
    for _ in range(3):
        rig.engine.say()
    rig.agent.step(0)
    rig.now += 2
    rig.agent.step(0)
    counts = Counts(state_path(str(rig.folder / "pins"), rig.folder / "state"), read_boot_id())
    assert counts.read() == Counted(read_boot_id(), {"guard/secret": 3})
    rig.output.lost["jsonl:/full"] = 7
    rig.now += 20
    rig.agent.step(0)
    assert counts.read().outputs == {"jsonl:/full": 7}
    known = rig.agent.generations.get(1)
    assert known is not None
    assert abs(known.since - time.time()) < 600
    rig.agent.stop()
    assert counts.read() == Counted()


def test_a_followed_path_that_flips_costs_no_alert_its_name(rig: Rig) -> None:
    target = rig.folder / "watched"
    target.write_text("one")
    follow_policy(rig, target)
    rig.agent.start()
    first = rig.engine.generation
    rig.engine.say()
    for turn in range(8):
        (rig.folder / "new").write_text(str(turn))
        (rig.folder / "new").rename(target)
        rig.agent.life.tables.follow_again(rig.now)
    assert rig.engine.generation > first + 6
    rig.agent.drain()
    [alert] = rig.output.dicts("alert")
    assert (alert["policy"], alert["rule"]) == ("guard", "secret")


def test_without_inotify_followed_paths_are_polled(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("bpfence.agent.follow.Watch", none)
    target = rig.folder / "watched"
    target.write_text("one")
    follow_policy(rig, target)
    rig.agent.start()
    target.rename(rig.folder / "kept")
    target.write_text("two")
    rig.step()
    assert rig.engine.generation == 1
    rig.now += 1
    rig.step()
    assert rig.engine.generation == 2
    assert rig.agent.loop.until_due() == 1.0


# ---- policies ----


def test_mode_and_scope_reach_every_rule(tmp_path: Path) -> None:
    write_policy(tmp_path / "p.yaml")
    scope = Atom("process.cgroup", Op.EQUALS, "/box")
    event = {"event": "file.open", "file.path": "/secret/a", "process.cgroup": "/box"}
    policies, _ = read_policies([str(tmp_path / "p.yaml")], None, scope)
    assert verdict(policies, event).action is Action.DENY
    assert verdict(policies, {**event, "process.cgroup": "/else"}).action is Action.NONE
    policies, _ = read_policies([str(tmp_path / "p.yaml")], "audit", scope)
    assert verdict(policies, event).action is Action.AUDIT


def test_a_scope_also_bounds_a_rules_conditions_by_event_and_a_default(tmp_path: Path) -> None:
    text = (
        write_policy(tmp_path / "p.yaml")
        .read_text()
        .replace("on: open", "on: file.modify")
        .replace("spec:", "spec:\n  default: {exec: deny}")
    )
    (tmp_path / "p.yaml").write_text(text)
    policies, _ = read_policies([str(tmp_path / "p.yaml")], None, Atom("process.cgroup", Op.EQUALS, "/box"))
    rename = {"event": "file.rename", "file.path": "/x", "file.new_path": "/secret/a", "process.cgroup": "/box"}
    execution = {"event": "process.exec", "file.path": "/x", "process.cgroup": "/box"}
    for event in (rename, execution):
        assert verdict(policies, event).action is Action.DENY
        assert verdict(policies, {**event, "process.cgroup": "/else"}).action is Action.NONE


def test_kernel_errors_pass_through(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.policy()
    rig.kernel.error = KernelError("no", missing="lsm")
    with pytest.raises(KernelError):
        rig.agent.start()


def with_filter(path: Path) -> None:
    path.write_text(path.read_text() + "  seccomp: {defaultAction: SCMP_ACT_ERRNO, syscalls: [{names: [read], action: SCMP_ACT_ALLOW}]}\n")


def test_filters_that_nobody_applies_are_named_once(rig: Rig) -> None:
    with_filter(rig.policy("one"))
    with_filter(rig.policy("two"))
    rig.agent.start()
    reloaded(rig.agent)
    [told] = [text for text in rig.said if "seccomp" in text]
    assert told.startswith("`seccomp:` of one, two is not applied: `bpfence exec` applies it")
    rig.policy("two")
    reloaded(rig.agent)
    assert rig.said[-1].startswith("`seccomp:` of one is not applied")


def test_filters_of_a_command_are_applied_and_not_named(tmp_path: Path) -> None:
    made = Rig(tmp_path, starts_command=True)
    with_filter(made.policy())
    made.agent.start()
    made.agent.stop()
    assert not [text for text in made.said if "seccomp" in text]


# ---- containers ----

SELECTING = """
apiVersion: bpfence.io/v1alpha1
kind: SecurityPolicy
metadata: {name: %s}
spec:
  scope: {image: [%s, both], unknown: outside}
  rules:
    - {name: r, on: open, match: {file.path: /%s}, action: deny}
"""


def selecting(rig: Rig, count: int) -> None:
    for n in range(count):
        (rig.folder / "policies" / f"i{n}.yaml").write_text(SELECTING % (f"i{n}", f"i{n}", f"i{n}"))


def container(number: int, image: str) -> Container:
    return Container(id=f"c{number}", cgroup=f"/docker/c{number}", cgroup_id=number, image=image)


def test_a_container_that_changes_is_in_force_without_new_tables(rig: Rig) -> None:
    selecting(rig, 2)
    rig.agent.containers.found("test", [container(1, "i0")])
    rig.agent.start()
    first = dict(rig.engine.workloads)
    assert set(first) == {1}
    tables = rig.agent.life.tables.compiled
    rig.step()
    assert rig.engine.names().count("swap") == 1
    rig.agent.containers.found("test", [container(1, "i1"), container(2, "other")])
    rig.step()
    rig.step()
    assert rig.engine.names().count("swap") == 2
    assert rig.engine.workloads[1] != first[1]
    assert rig.agent.life.tables.compiled is tables
    rig.agent.containers.found("test", [container(1, "i0")])
    rig.step()
    assert rig.engine.names().count("swap") == 2, "not twice in one moment"
    rig.now += CLASSES_SECONDS
    rig.step()
    assert rig.engine.names().count("swap") == 3
    assert rig.engine.workloads == first


def until(rig: Rig, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        rig.now += 1
        rig.agent.step(0.01)


def test_a_container_of_a_new_class_gets_tables_with_it(rig: Rig) -> None:
    selecting(rig, 6)
    rig.agent.start()
    rig.agent.containers.found("test", [container(1, "both"), container(2, "i3")])
    assert (rig.engine.workloads[1], rig.engine.workloads[2] >= abi.WORKLOAD_FIRST) == (abi.WORKLOAD_PENDING, True)
    until(rig, lambda: rig.engine.workloads[1] >= abi.WORKLOAD_FIRST)
    assert not rig.agent.containers.due
    assert reloaded(rig.agent)
    assert rig.engine.workloads[1] >= abi.WORKLOAD_FIRST


def test_a_class_that_cannot_be_put_in_force_is_told_once(rig: Rig) -> None:
    selecting(rig, 6)
    rig.agent.start()
    rig.engine.refuse_swap = True
    rig.agent.containers.found("test", [container(1, "both")])
    until(rig, lambda: any("stay unknown" in said for said in rig.said))
    assert rig.engine.workloads[1] == abi.WORKLOAD_PENDING
    assert not rig.agent.containers.wants_classes
    rig.engine.refuse_swap = False
    assert reloaded(rig.agent)
    assert rig.engine.workloads[1] >= abi.WORKLOAD_FIRST


def test_a_change_that_cannot_be_put_in_force_is_tried_again(rig: Rig) -> None:
    selecting(rig, 1)
    rig.agent.start()
    rig.engine.refuse_swap = True
    rig.agent.containers.found("test", [container(1, "i0")])
    until(rig, lambda: any("could not be put in force" in said for said in rig.said))
    rig.engine.refuse_swap = False
    swaps = rig.engine.names().count("swap")
    until(rig, lambda: rig.engine.names().count("swap") > swaps)
    assert not rig.agent.containers.due


def test_the_start_of_a_container_does_not_wait_for_its_turn(rig: Rig) -> None:
    selecting(rig, 2)
    rig.agent.start()
    rig.agent.containers.found("test", [container(1, "i0")])
    rig.step()
    rig.step()
    starting = threading.Thread(target=rig.agent.containers.register, args=(container(2, "i1"), 60.0))
    starting.start()
    while starting.is_alive():
        rig.agent.step(0.01)  # the clock stands still
    starting.join()
    assert rig.engine.workloads[2] >= abi.WORKLOAD_FIRST
    assert not rig.agent.containers.due


def test_sources_are_asked_before_policies_are_in_force_and_listened_to_afterwards(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    selecting(rig, 1)
    rig.sources.first, rig.sources.later = [container(1, "i0")], [container(2, "i0")]
    rig.agent.start()
    assert set(rig.engine.workloads) == {1}
    rig.step()
    rig.step()
    assert set(rig.engine.workloads) == {1, 2}
    assert rig.engine.workloads[1] == rig.engine.workloads[2]
    rig.agent.stop()
    assert rig.sources.calls == ["ask", "start", "close"]


def test_a_start_that_fails_lets_go_of_the_sources(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.policy()
    rig.kernel.error = KernelError("no", missing="lsm")
    with pytest.raises(KernelError):
        rig.agent.start()
    assert rig.sources.calls == ["ask", "close"]


def test_the_service_manager_hears_of_the_start_each_reload_and_that_the_loop_goes_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        rig = Rig(tmp_path)
        rig.policy()
        manager.settimeout(60.0)
        rig.agent.start()
        assert manager.recv(100).startswith(b"READY=1\n")
        assert manager.recv(100) == b"WATCHDOG=1"
        rig.now += 0.1  # half of it
        rig.step()
        assert manager.recv(100) == b"WATCHDOG=1"
        rig.agent.reload()
        told = manager.recv(100)
        assert told.startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        while rig.agent.reloading:
            rig.agent.step(0.1)
        rest = [manager.recv(100)]
        while not rest[-1].startswith(b"READY=1\n"):
            rest.append(manager.recv(100))
        rig.agent.stop()
        while rest[-1] != b"STOPPING=1":
            rest.append(manager.recv(100))
        assert set(rest) == {b"READY=1\nSTATUS=1 policy in force", b"STOPPING=1"} | (set(rest) & {b"WATCHDOG=1"})
