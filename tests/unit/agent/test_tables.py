# SPDX-License-Identifier: Apache-2.0
"""What is in force, and in which order it comes to be. With followed paths: test_agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfence.agent.confirms import Confirms
from bpfence.agent.generations import Generations
from bpfence.agent.loading import load
from bpfence.agent.loop import Loop
from bpfence.agent.tables import Tables, results, tables
from bpfence.dialects.dialect import Context
from bpfence.dialects.registry import DIALECTS
from bpfence.errors import KernelError
from bpfence.events.source import Live
from bpfence.workloads.registry import Registry
from tests.unit.agent.fakes import FakeEngine, write_policy
from tests.unit.agent.falco_rig import RULES
from tests.unit.dialects.tetragon.texts import kprobe, text


def nobody() -> Registry:
    """No containers."""
    return Registry(lambda: None, lambda _: 0)


def made(engine: FakeEngine, said: list[str]) -> Tables:
    context = Context(lambda: Live(engine), "host", 4, None, said.append)
    confirms = Confirms(context, DIALECTS)
    return Tables(engine, Generations(), confirms, Loop(lambda: 0.0), nobody(), report=said.append, changed=lambda: None)


def test_nothing_is_released_before_the_new_tables_count(tmp_path: Path) -> None:
    engine, said = FakeEngine(), list[str]()
    found = made(engine, said)
    found.release()
    assert engine.calls == []
    found.put_in_force(load([str(write_policy(tmp_path / "p.yaml"))]))
    assert [call[0] for call in engine.calls] == ["attach", "seed", "swap"]
    found.release()
    assert engine.calls[-1] == ("release", frozenset({"file.open"}))
    assert said == []


def test_what_cannot_be_detached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, said = FakeEngine(), list[str]()
    found = made(engine, said)
    found.put_in_force(load([str(write_policy(tmp_path / "p.yaml"))]))

    def fail(*_: object) -> None:
        raise KernelError("removing /pins/link_x: busy")

    monkeypatch.setattr(engine, "release", fail)
    found.release()
    assert said == ["programs that no rule needs any more could not all be detached: removing /pins/link_x: busy"]


def test_what_was_made_beside_the_loop_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    found, loaded = made(engine, []), load([str(write_policy(tmp_path / "p.yaml"))])
    beside = tables(loaded, engine.supported_events(), nobody())
    monkeypatch.setattr("bpfence.agent.tables.compile_policies", pytest.fail)
    assert found.put_in_force(loaded, beside) is beside[0]


def test_a_swap_that_fails_leaves_what_was_in_force(tmp_path: Path) -> None:
    engine = FakeEngine()
    found = made(engine, [])
    first = load([str(write_policy(tmp_path / "p.yaml"))])
    before = found.put_in_force(first)
    engine.refuse_swap = True
    with pytest.raises(KernelError):
        found.put_in_force(load([str(write_policy(tmp_path / "p.yaml", glob="/other/**"))]))
    assert (found.loaded, found.compiled) == (first, before)


def test_a_swap_that_fails_leaves_the_old_paths_watched(tmp_path: Path) -> None:
    engine = FakeEngine()
    found = made(engine, [])
    paths = [tmp_path / "one", tmp_path / "deep" / "two"]
    paths[1].parent.mkdir()
    for path in paths:
        path.touch()
    found.put_in_force(load([str(write_policy(tmp_path / "p.yaml", glob=str(paths[0]), more=", follow: object"))]))
    engine.refuse_swap = True
    with pytest.raises(KernelError):
        found.put_in_force(load([str(write_policy(tmp_path / "p.yaml", glob=str(paths[1]), more=", follow: object"))]))
    assert found._again.due is not None, "what has happened meanwhile was not watched"
    assert found._watch is not None
    assert {name for names in found._watch._names.values() for name in names} >= {b"one"}
    assert b"two" not in {name for names in found._watch._names.values() for name in names}


def test_results_are_asked_for_where_a_rule_waits(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)
    write_policy(tmp_path / "native.yaml")
    engine = FakeEngine()
    compiled, left = tables(load([str(tmp_path)]), engine.supported_events(), nobody())
    assert ("file.open" in results(compiled), left) == (True, ())
    assert results(tables(load([str(tmp_path / "native.yaml")]), engine.supported_events(), nobody())[0]) == frozenset()


def test_what_the_compiler_left_to_user_space_is_told_once(tmp_path: Path) -> None:
    rule = "- rule: R{n}\n  desc: d\n  condition: evt.type=open and fd.name contains text{n}\n  output: o\n  priority: INFO\n"
    (tmp_path / "rules.yaml").write_text("".join(rule.format(n=n) for n in range(40)))
    said: list[str] = []
    found = made(FakeEngine(), said)
    for _ in range(2):
        found.put_in_force(load([str(tmp_path)]))
    assert [text.partition(": ")[2] for text in said] == ["user space does tests on file.path, file.text, process.cwd"]


def test_sensors_that_could_not_be_attached_are_told_once(tmp_path: Path) -> None:
    engine, said = FakeEngine(), list[str]()
    engine.no_place = {"tcp_conect": "this kernel has no function tcp_conect (there is tcp_connect)"}
    (tmp_path / "p.yaml").write_text(text(kprobes=[kprobe(call="tcp_conect", args=[]), kprobe(call="tcp_close", args=[])]))
    found, loaded = made(engine, said), load([str(tmp_path / "p.yaml")])
    compiled = found.put_in_force(loaded)
    assert {probe.place for probe in compiled.probes} == {"tcp_conect", "tcp_close"}
    found.put_in_force(loaded)
    told = f"{tmp_path}/p.yaml:10:13: policy 'p': this kernel has no function tcp_conect (there is tcp_connect)"
    assert said == [f"rules that see nothing and end nothing, everything else is in force: {told}"]
    assert found._generations.unplaced == (told,)
    engine.no_place = {}
    found.put_in_force(loaded)
    assert found._generations.unplaced == ()


def test_a_sensor_that_is_to_refuse_and_has_no_place_leaves_what_is_in_force(tmp_path: Path) -> None:
    engine, said = FakeEngine(), list[str]()
    refusal = {"matchActions": [{"action": "Override", "argError": -1}]}
    (tmp_path / "p.yaml").write_text(text(kprobes=[kprobe(refusal, call="security_inode_mkdir", args=[])]))
    found, loaded = made(engine, said), load([str(tmp_path / "p.yaml")])
    engine.no_place = {"inode_mkdir": "this kernel has no LSM hook inode_mkdir"}
    with pytest.raises(KernelError, match=r"p\.yaml:10:13: policy 'p' cannot refuse what it is to refuse: this kernel has no LSM hook"):
        found.put_in_force(loaded)
    assert found.compiled is None
    engine.no_place = {}
    found.put_in_force(loaded)
    assert found.compiled is not None
