# SPDX-License-Identifier: Apache-2.0
"""The engine that programs share: which have a place for it, when it is loaded and put there, and what happens where it cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bpfence.errors import KernelError
from bpfence.kernel import libbpf
from bpfence.kernel.engine import OBJECT, Engine
from bpfence.kernel.features import Answer, Features, Probe
from bpfence.kernel.hooks import ENDED, PROGRAMS, Kind
from bpfence.kernel.libbpf import Object
from bpfence.kernel.programs import Choice
from bpfence.kernel.sharing import EXTENSIONS, FUNCTION, Sharing, decides, wants
from bpfence.kernel.sharing import OBJECT as SHARED
from tests.unit.kernel.test_engine import FEATURES, PROBES, YES, FakeMap, FakeObject, fake
from tools import bpf_stack

__all__ = ["fake"]
SHARING = Features({**PROBES, "extensions": YES}, FEATURES.functions)
CHOICES = {variant.program: Choice(variant.program, row.hook, row) for row in PROGRAMS for variant in row.variants}
HOOKS, TRACEPOINTS = EXTENSIONS[Kind.HOOK], EXTENSIONS[Kind.TRACEPOINT]


@pytest.fixture
def extended(fake: type[FakeObject], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The descriptors of programs that the engine is put into."""
    found: list[int] = []

    def extend(extension: int, program: int, function: int) -> int:
        found.append(program)
        return os.open(os.devnull, os.O_RDONLY)

    monkeypatch.setattr(libbpf, "extend", extend)
    return found


@pytest.mark.skipif(not OBJECT.with_name(SHARED).exists(), reason="the object is not built")
def test_the_programs_with_a_place_for_the_engine_are_those_that_the_table_says() -> None:
    found = bpf_stack.functions(OBJECT.with_name(SHARED).read_bytes())
    own = bpf_stack.functions(OBJECT.read_bytes())
    for name, choice in CHOICES.items():
        if choice.row.kind in EXTENSIONS or not choice.row.decides:
            assert (FUNCTION in found[name].calls) == decides(choice), name
        assert FUNCTION not in own[name].calls
    assert set(EXTENSIONS.values()) <= found.keys()


@pytest.mark.skipif(not OBJECT.with_name(SHARED).exists(), reason="the object is not built")
def test_both_objects_have_the_same_maps_and_constants() -> None:
    with Object(OBJECT) as own, Object(OBJECT.with_name(SHARED)) as shared:
        assert own.maps.keys() == shared.maps.keys()
        assert own.constants() == shared.constants()


@pytest.mark.parametrize(
    ("program", "events", "wanted"),
    [
        ("file_open__file", ["file.open"], True),
        ("sched_process_exec__process", ["file.open"], False),
        ("sched_process_exec__process", ["process.executed"], True),
        ("sched_process_fork__process", ["process.executed"], False),
        ("d_instantiate__known", ["file.permission"], False),
        ("dup__call", ["file.dup"], False),
    ],
)
def test_which_events_want_the_engine(program: str, events: list[str], wanted: bool) -> None:
    assert wants(CHOICES[program], events) == wanted


def test_the_engine_is_loaded_once_for_each_kind_and_put_into_each_program(fake: type[FakeObject], extended: list[int]) -> None:
    engine = Engine(SHARING, "lsm", Path("x.o"), None)
    engine.attach(["file.open"])
    assert FakeObject.newest.path == Path(SHARED)
    assert set(engine._sharing.links) == {"file_open__file"}
    engine.attach(["file.open", "net.connect"])
    engine.attach(["file.open", "net.connect", "process.executed"])
    assert {"file_open__file", "socket_connect__network", "sched_process_exec__process"} <= set(engine._sharing.links)
    assert "sched_process_exit__process" not in engine._sharing.links
    loaded = [program for programs in fake.loads for program in programs]
    assert len(extended) == len(engine._sharing.links)
    assert [loaded.count(extension) for extension in (HOOKS, TRACEPOINTS)] == [1, 1]
    assert loaded.count("sched_process_exec__process") == 1, "it had been attached before, and only got the engine"
    engine.release(["net.connect"])
    assert "file_open__file" not in engine._sharing.links
    engine._sharing.close()
    assert not engine._sharing.links


def test_programs_that_cannot_be_extended_have_their_own(fake: type[FakeObject], extended: list[int]) -> None:
    engine = Engine(SHARING, "lsm", Path("x.o"), None)
    engine.attach(["file.dup"])
    assert FakeObject.newest.path == Path("x.o")
    assert "dup__call" in engine.attached()
    assert not extended


@pytest.mark.parametrize("refused", [HOOKS, ""])
def test_where_the_engine_cannot_be_shared_all_have_their_own(fake: type[FakeObject], extended: list[int], refused: str) -> None:
    fake.fails = {refused: "EINVAL: Cannot extend"} if refused else {}
    probes = SHARING.probes if refused else {**PROBES, "extensions": Probe(Answer.NO, "loading gives EINVAL")}
    engine = Engine(Features(probes, SHARING.functions), "lsm", Path("x.o"), None)
    assert not engine.attach(["file.open", "net.connect"])
    assert {"file_open__file", "socket_connect__network"} <= set(engine.attached())
    assert not extended
    assert FakeObject.newest.path == Path("x.o")
    assert engine._sharing.refused == (f"{HOOKS}: EINVAL: Cannot extend" if refused else "extensions: no (loading gives EINVAL)")


def test_a_program_that_the_engine_cannot_be_put_into_is_left_out(
    fake: type[FakeObject], extended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> int:
        raise KernelError("extending a program: no memory (ENOMEM)")

    monkeypatch.setattr(libbpf, "extend", refuse)
    engine = Engine(SHARING, "lsm", Path("x.o"), None)
    assert "no memory" in engine.attach(["file.open"])["file.open"]
    assert "file_open__file" not in engine.attached()


def test_an_attached_program_that_the_engine_does_not_load_for_is_told(fake: type[FakeObject], extended: list[int]) -> None:
    """It stays, because it tracks processes; its own event cannot be relied on."""
    fake.fails = {TRACEPOINTS: "EINVAL: Cannot extend"}
    engine = Engine(SHARING, "lsm", Path("x.o"), None)
    assert not engine.attach(["file.open"])
    assert "Cannot extend" in engine.attach(["file.open", "process.executed"])["process.executed"]
    assert "sched_process_exec__process" in engine.attached()
    assert engine.load_cost.unshared == f"{TRACEPOINTS}: EINVAL: Cannot extend"


def test_a_program_without_engine_that_cannot_be_reached_is_told(fake: type[FakeObject], extended: list[int]) -> None:
    engine = Engine(SHARING, "lsm", Path("x.o"), None)
    engine.attach(["file.open"])
    os.close(engine._programs.pop("sched_process_exec__process"))
    assert "engine is not in it" in engine.attach(["file.open", "process.executed"])["process.executed"]


def test_what_an_earlier_agent_has_put_in_is_taken_over(fake: type[FakeObject], monkeypatch: pytest.MonkeyPatch) -> None:
    links = {name: os.open(os.devnull, os.O_RDONLY) for name in ("file_open__file", "sched_process_exec__process")}
    monkeypatch.setattr(libbpf, "program_of", os.dup)
    sharing = Sharing(SHARING)
    sharing.adopt(links, CHOICES.values())
    assert not sharing.lacking([CHOICES["file_open__file"]], ["file.open"])
    assert sharing.lacking([CHOICES["path_mkdir__file"]], ["file.mkdir"])
    assert not sharing.aim(FakeObject(Path("x.o")), [CHOICES["path_mkdir__file"]], {}), "both extensions are there"  # type: ignore[arg-type]
    sharing.close()
    assert fake.loads == []


ALIKE = Features({**PROBES, "extensions": YES}, SHARING.functions, prototypes=dict.fromkeys(SHARING.functions, 1))
OWN_TYPE = Features(ALIKE.probes, ALIKE.functions, prototypes={**ALIKE.prototypes, "__x64_sys_dup2": 2})


def test_ends_of_system_calls_of_one_type_go_on_in_one_program(fake: type[FakeObject], extended: list[int]) -> None:
    engine = Engine(OWN_TYPE, "lsm", Path("x.o"), None)
    assert engine.attach(["file.dup"]) == {}
    engine.attach(["file.dup", "process.setns"])
    assert [ENDED in programs for programs in fake.loads].count(True) == 1
    (together,) = [programs for programs in fake.loads if ENDED in programs]
    (own,) = [programs for programs in fake.loads if "dup2__call" in programs]
    assert {"sched_process_exec__process", "dup__call", "dup3__call"} <= set(together)
    assert not {ENDED, "dup__call", "dup3__call", "setns__call"} & set(own)


def test_what_has_an_engine_of_its_own_in_both_objects_is_loaded_with_the_rest(fake: type[FakeObject], extended: list[int]) -> None:
    engine = Engine(ALIKE, "lsm", Path("x.o"), None)
    assert not engine.attach(["file.open", "file.open_failed", "process.setsid", "file.dup"])
    (loaded,) = [programs for programs in fake.loads if programs]
    assert {"file_open__file", "do_filp_open__call", "ksys_setsid__call", ENDED} <= set(loaded)
    assert len(engine._maps["ended_calls"].values) == 1  # type: ignore[attr-defined]
    engine.release(["file.open"])
    assert engine._maps["ended_calls"].values == {}  # type: ignore[attr-defined]


def test_where_nothing_can_be_gone_on_in_the_events_are_not_supported(
    fake: type[FakeObject], extended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(self: FakeMap, key: bytes, value: bytes) -> None:
        if value and self is engine._maps["ended_calls"]:  # type: ignore[comparison-overlap]
            raise KernelError("Invalid argument")
        self.values[key] = value

    engine = Engine(ALIKE, "lsm", Path("x.o"), None)
    monkeypatch.setattr(FakeMap, "put", put)
    assert "Invalid argument" in engine.attach(["file.dup"])["file.dup"]
