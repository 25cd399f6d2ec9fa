# SPDX-License-Identifier: Apache-2.0
"""Tables are compiled once for the same policies, and whatever is wrong with what was kept, they are compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bpfence.agent.kept import Kept
from bpfence.agent.loading import load
from bpfence.compiler.compile import Compiled, compile_policies
from bpfence.compiler.workloads import Class
from bpfence.fields import EVENTS
from bpfence.policy import Atom, Condition, Not, Op, PolicySet, Selector
from tests.unit.agent.fakes import write_policy
from tests.unit.agent.falco_rig import RULES

EVERYTHING = frozenset(event.name for event in EVENTS)


class Start:
    """A start of an agent: compiles, and notes that it had to."""

    def __init__(
        self,
        folder: Path,
        policies: PolicySet,
        events: frozenset[str] = EVERYTHING,
        *,
        details: bool = False,
        workloads: tuple[Class, ...] = (),
    ) -> None:
        self.compiled = False
        kept = Kept("/sys/fs/bpf/bpfence", folder)

        def make() -> Compiled:
            self.compiled = True
            return compile_policies(policies, supported_events=events, details=details, workloads=workloads)

        self.tables = kept.get(policies, events, workloads, make, details=details)


@pytest.fixture
def policies(tmp_path: Path) -> PolicySet:
    return load([str(write_policy(tmp_path / "p.yaml"))]).policies


def test_the_second_start_has_the_same_tables_without_compiling(tmp_path: Path, policies: PolicySet) -> None:
    first, second = Start(tmp_path / "cache", policies), Start(tmp_path / "cache", policies)
    assert (first.compiled, second.compiled) == (True, False)
    assert second.tables == first.tables


def test_tables_with_what_user_space_confirms_are_kept_whole(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    policies = load([str(rules)]).policies
    first, second = Start(tmp_path, policies, details=True), Start(tmp_path, policies, details=True)
    assert not second.compiled
    assert second.tables == first.tables


def test_other_policies_events_or_records_are_compiled(tmp_path: Path, policies: PolicySet) -> None:
    Start(tmp_path, policies)
    assert Start(tmp_path, load([str(write_policy(tmp_path / "p.yaml", glob="/other"))]).policies).compiled
    assert Start(tmp_path, policies, EVERYTHING - {"file.rename"}).compiled
    assert Start(tmp_path, policies, EVERYTHING - {"file.rename"}, details=True).compiled
    assert not Start(tmp_path, policies, EVERYTHING - {"file.rename"}, details=True).compiled


def test_other_classes_of_containers_are_compiled(tmp_path: Path, policies: PolicySet) -> None:
    one, two = Selector(names=("a",)), Selector(images=("b", "c"))
    first = Start(tmp_path / "cache", policies, workloads=(frozenset((one, two)), frozenset((one,))))
    again = Start(tmp_path / "cache", policies, workloads=(frozenset((two, one)), frozenset((one,))))
    assert not again.compiled
    assert again.tables == first.tables
    assert Start(tmp_path / "cache", policies, workloads=(frozenset((one,)), frozenset((one, two)))).compiled, (
        "in another order they are others"
    )


def test_another_version_compiles(tmp_path: Path, policies: PolicySet, monkeypatch: pytest.MonkeyPatch) -> None:
    Start(tmp_path, policies)
    monkeypatch.setattr("bpfence.agent.kept._code", lambda: iter([("compile.py", 1, 2)]))
    assert Start(tmp_path, policies).compiled


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def open_to_others(path: Path) -> None:
    path.chmod(0o620)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("damage", [shorten, flip, empty, open_to_others, link])
def test_what_is_damaged_or_may_be_anothers_is_not_used(tmp_path: Path, policies: PolicySet, damage: Callable[[Path], None]) -> None:
    first = Start(tmp_path / "cache", policies)
    [path] = (tmp_path / "cache").iterdir()
    damage(path)
    again = Start(tmp_path / "cache", policies)
    assert again.compiled
    assert again.tables == first.tables
    assert not Start(tmp_path / "cache", policies).compiled, "it was put right"


def test_without_a_folder_nothing_is_kept_and_nothing_fails(tmp_path: Path, policies: PolicySet) -> None:
    (tmp_path / "file").write_text("")
    assert Start(tmp_path / "file", policies).compiled
    assert Start(tmp_path / "file", policies).compiled


def test_policies_that_no_message_holds_are_compiled(tmp_path: Path, policies: PolicySet) -> None:
    """A number of more than 64 bits, and a condition that is nested deeper than a message may be."""
    deep: Condition = Atom("file.path", Op.EQUALS, "/a")
    for _ in range(5000):
        deep = Not(deep)
    (policy,) = policies.policies
    tables = compile_policies(policies)
    for odd in (Atom("process.pid", Op.RANGE, (0, 1 << 70)), deep):
        given = PolicySet((msgspec.structs.replace(policy, rules=(msgspec.structs.replace(policy.rules[0], condition=odd),)),))
        assert Kept("/sys/fs/bpf/bpfence", tmp_path).get(given, EVERYTHING, (), lambda: tables, details=False) is tables


def test_no_rules_leave_no_file(tmp_path: Path) -> None:
    Start(tmp_path / "cache", PolicySet())
    assert not (tmp_path / "cache").exists()
