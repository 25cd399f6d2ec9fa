# SPDX-License-Identifier: Apache-2.0
"""What verdict numbers mean, across reloads and restarts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.agent.generations import KEPT, Generation, Generations, LeafMeaning, generation, state_path, write_whole
from bpfence.alerts.alert import RuleInfo
from bpfence.compiler.compile import Compiled, compile_policies
from bpfence.policy import Action, Atom, Op, Policy, PolicySet, Rule

RULES = tuple(RuleInfo("p", name, "enforce", Action.DENY, Action.DENY) for name in ("a", "b", "c"))
TABLE = Generation(1, RULES, (LeafMeaning((), False), LeafMeaning((0, 2), False), LeafMeaning((1, 2), True)), ("/x",))


def names(found: list[tuple[RuleInfo, bool]] | None) -> list[tuple[str, bool]] | None:
    return None if found is None else [(rule.rule, uncertain) for rule, uncertain in found]


def test_rules_of_all_groups_each_once_and_certain_where_any_is() -> None:
    assert names(TABLE.matched((1,))) == [("a", False), ("c", False)]
    assert names(TABLE.matched((2, 0))) == [("b", True), ("c", True)]
    assert names(TABLE.matched((2, 1))) == [("a", False), ("b", True), ("c", False)]
    assert names(TABLE.matched((0,))) == []


@given(st.lists(st.integers(0, 2**32 - 1), max_size=8))
def test_any_verdict_numbers_are_answered(numbers: list[int]) -> None:
    found = TABLE.matched(tuple(numbers))
    assert (found is None) == any(number > 2 for number in numbers)


def test_a_compiled_policy_set_gives_its_names() -> None:
    rule = Rule(policy="p", name="r", events=("file.open",), condition=Atom("file.path", Op.EQUALS, "/x"), action=Action.DENY)
    compiled = compile_policies(PolicySet((Policy(name="p", mode="audit", rules=(rule,)),)))
    made = generation(7, compiled)
    number = next(n for n, verdict in enumerate(compiled.verdicts) if verdict.rules)
    [(info, uncertain)] = made.matched((number,)) or []
    assert (made.number, info.policy, info.rule, info.mode, info.action, info.declared) == (7, "p", "r", "audit", Action.AUDIT, Action.DENY)
    assert not uncertain


def test_rules_that_are_the_same_are_told_the_same_under_the_next_number() -> None:
    def rules(mode: str, *names: str) -> Compiled:
        made = tuple(known[name] for name in names)
        return compile_policies(PolicySet((Policy(name="p", mode=mode, rules=made),)))

    path = Atom("file.path", Op.EQUALS, "/x")
    known = {name: Rule(policy="p", name=name, events=("file.open",), condition=path, action=Action.DENY) for name in "abc"}
    first = rules("enforce", "a", "b")
    before = generation(1, first)
    for following in (rules("enforce", "b", "c"), rules("audit", "a", "b")):
        made = generation(2, following, before=(first, before))
        assert made == generation(2, following)
    assert generation(2, rules("enforce", "b", "c"), before=(first, before)).rules[0] is before.rules[1]


def numbered(number: int) -> Generation:
    """Tables that no other number has."""
    return Generation(number, RULES, TABLE.verdicts, (f"/{number}",))


def test_state_survives_and_only_the_last_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "run" / "state.json"
    first = Generations(path, "boot")
    for number in range(1, KEPT + 3):
        first.add(numbered(number))
    second = Generations(path, "boot")
    assert second.restore() == ""
    assert [known.number for known in second] == list(range(3, KEPT + 3))
    assert second.get(KEPT + 2) == numbered(KEPT + 2)
    assert second.get(1) is None
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    second.remove()
    assert not path.exists()


def test_the_same_tables_keep_one_meaning_however_often_they_are_put_in_force(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    made = Generations(path, "boot")
    made.add(numbered(1))
    for number in range(2, 600):
        made.add(Generation(number, RULES, TABLE.verdicts))
    made.add(numbered(600))
    made.add(Generation(601, RULES, TABLE.verdicts))
    restored = Generations(path, "boot")
    assert restored.restore() == ""
    for known in (made, restored):
        assert [one.number for one in known] == [1, 600, 601]
        for number in (2, 300, 599, 601):
            found = known.get(number)
            assert found is not None
            assert found.objects == ()
        assert found.earlier == ((2, 599),)
        assert (known.get(1), known.get(600), known.get(602)) == (numbered(1), numbered(600), None)
    assert path.stat().st_size < 20_000


def test_another_boots_state_means_nothing(tmp_path: Path) -> None:
    Generations(tmp_path / "s", "boot").add(numbered(1))
    other = Generations(tmp_path / "s", "other")
    assert "another boot" in other.restore()
    assert list(other) == []


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'{"version":1,"boot_id":"b","generations":[{"number":"x"}]}', b"[" * 100_000, b"\xff"]
)
def test_a_broken_state_file_is_a_reason_not_an_exception(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s"
    path.write_bytes(content)
    path.chmod(0o600)
    generations = Generations(path, "b")
    assert "cannot be read" in generations.restore()
    assert list(generations) == []


def test_a_state_file_that_others_could_have_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "s"
    Generations(path, "b").add(numbered(1))
    path.chmod(0o666)
    assert "not a private file" in Generations(path, "b").restore()
    path.chmod(0o600)
    (tmp_path / "link").symlink_to(path)
    assert "cannot be read" in Generations(tmp_path / "link", "b").restore()
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert "not a private file" in Generations(tmp_path / "fifo", "b").restore()


def test_write_whole_replaces_a_link_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "file").symlink_to(tmp_path / "target")
    write_whole(tmp_path / "file", b"new", 0o644)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "target").read_text() == "precious"
    with pytest.raises(TypeError):
        write_whole(tmp_path / "file", "not bytes", 0o644)  # type: ignore[arg-type]
    assert (tmp_path / "file").read_bytes() == b"new"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "target"]


def test_instances_have_state_files_of_their_own() -> None:
    assert state_path("/sys/fs/bpf/a") != state_path("/sys/fs/bpf/b")
    assert state_path("/sys/fs/bpf/a") == state_path("/sys/fs/bpf/../bpf/a")


def test_an_agent_without_pins_keeps_nothing_on_disk() -> None:
    generations = Generations()
    generations.add(numbered(1))
    assert generations.get(1) == numbered(1)
    assert generations.restore() == ""


def test_a_number_that_the_kernel_refused_takes_no_name_from_another() -> None:
    made = Generations()
    made.add(numbered(1))
    same, others = Generation(2, *(getattr(numbered(1), name) for name in ("rules", "verdicts", "objects"))), numbered(2)
    for _ in range(3):  # the same tables with other identities, which no swap takes
        made.add(same)
    made.add(others)
    assert (made.get(1), made.get(2)) == (numbered(1), others)
    made.add(numbered(3))
    assert made.get(1) == numbered(1)
