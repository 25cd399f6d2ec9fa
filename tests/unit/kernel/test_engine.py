# SPDX-License-Identifier: Apache-2.0
"""The engine with its real maps and none of its programs: what it decides, writes and reads, without attaching anything."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bpfence import abi
from bpfence.errors import KernelError
from bpfence.fields import EVENTS
from bpfence.kernel import engine as engine_module
from bpfence.kernel import libbpf, sensors, uprobes
from bpfence.kernel.engine import OBJECT, Engine, abi_of, decode_exec_image, decode_process_record, instance_name, object_filter
from bpfence.kernel.features import Answer, Features, Probe
from bpfence.kernel.hooks import KNOWN, MOVES, PROGRAMS
from bpfence.kernel.libbpf import LoadFailure, Object
from bpfence.kernel.programs import target_of
from bpfence.policy import Probe as Sensor
from bpfence.policy import ProbeArgument, Read, Target, Way
from tests.unit.kernel.elves import ADDRESS, FUNCTION, elf

YES = Probe(Answer.YES)
FUNCTIONS = {target_of(row, "lsm"): ("int",) * (row.variants[-1].parameters or 0) for row in PROGRAMS}
PROBES = {
    "attach_cookie": YES,
    "lsm_active": YES,
    "lsm_load": YES,
    "iter_task": YES,
    "struct_arguments": YES,
    "inode_storage": YES,
    "rdonly_cast": YES,
    "lsm_not_skipped": YES,
}
FEATURES = Features(PROBES, FUNCTIONS)


def image(words: int = 1) -> bytes:
    header = bytearray(abi.IMAGE_HEADER_SIZE)
    struct.pack_into("<II", header, 0, abi.IMAGE_MAGIC, abi.ABI_VERSION)
    return bytes(header) + b"\x55" * 4 * words


class FakeMap:
    """A map that keeps what it is given, by key."""

    max_entries = 512

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def put(self, key: bytes, value: bytes) -> None:
        self.values[key] = value

    def push(self, value: bytes) -> None:
        self.values[value] = value

    def get(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def delete(self, key: bytes) -> bool:
        return self.values.pop(key, None) is not None

    def all_keys(self) -> list[bytes]:
        return list(self.values)


class FakeObject:
    """An object whose programs load or not as told; every load is noted."""

    fails: dict[str, str] = {}  # noqa: RUF012
    unattachable: frozenset[str] = frozenset()
    loads: list[list[str]] = []  # noqa: RUF012
    newest: FakeObject
    control = bytearray()

    def __init__(self, path: Path, *, maps_only: bool = False) -> None:
        self.path = path
        self.programs = {variant.program: None for row in PROGRAMS for variant in row.variants}
        self.maps = {"control": None}
        self.chosen: list[str] = []
        self.modified: dict[str, str] = {}
        self.set: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.replaced: list[str] = []
        self.late: list[str] = []
        self._fds: dict[str, int] = {}
        FakeObject.newest = self

    def __enter__(self) -> FakeObject:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def constant(self, name: str) -> int:
        return int(abi.ABI_HASH, 16)

    def constants(self) -> tuple[str, ...]:
        return ()

    def set_constant(self, name: str, value: int) -> None:
        self.set[name] = value

    def resize(self, name: str, entries: int) -> None:
        self.sizes[name] = entries

    def replace_map(self, name: str) -> None:
        self.replaced.append(name)

    def allocate_late(self, name: str) -> None:
        self.late.append(name)

    def fd(self, program: str) -> int:
        return self._fds.setdefault(program, os.open(os.devnull, os.O_RDONLY))

    def share(self, maps: object) -> None:
        pass

    def choose(self, program: str) -> None:
        self.chosen.append(program)

    def modify_return(self, program: str, function: str) -> None:
        self.modified[program] = function

    def load(self) -> LoadFailure | None:
        FakeObject.loads.append(self.chosen)
        bad = next((program for program in self.chosen if program in self.fails), None)
        return LoadFailure(13, bad, self.fails[bad]) if bad else None

    def function(self, name: str) -> int:
        return 7

    def aim(self, extension: str, function: str, target: str | int) -> None:
        self.chosen.append(extension)

    def take_maps(self) -> dict[str, Any]:
        return {
            "calls": FakeMap(),
            "spares": FakeMap(),
            "ended_calls": FakeMap(),
            "sensors": FakeMap(),
            "frames": FakeMap(),
            "user_values": FakeMap(),
        }

    def attach(self, program: str) -> int:
        if program in self.unattachable:
            raise KernelError("attaching: not on this architecture")
        return os.open(os.devnull, os.O_RDONLY)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeObject]:
    monkeypatch.setattr(engine_module, "Object", FakeObject)
    monkeypatch.setattr(FakeObject, "fails", {})
    monkeypatch.setattr(FakeObject, "unattachable", frozenset())
    monkeypatch.setattr(FakeObject, "loads", [])
    control = bytearray(abi.CONTROL_SIZE)
    monkeypatch.setattr(FakeObject, "control", control)
    monkeypatch.setattr(Engine, "_control_memory", lambda _: memoryview(control))
    return FakeObject


def remembers(fake: type[FakeObject]) -> bool:
    return fake.control[abi.CONTROL_OFFSETS["remembers"]] == 1


def test_what_is_known_of_files_is_used_while_its_end_is_seen(fake: type[FakeObject]) -> None:
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    engine.attach(["net.connect"])
    assert not remembers(fake)
    engine.attach(["file.open"])
    assert KNOWN in engine.attached()
    assert remembers(fake)
    engine.release(["net.connect"])
    assert KNOWN not in engine.attached()
    assert not remembers(fake)
    assert not FakeObject.newest.replaced


def test_what_was_kept_before_an_interruption_is_not_believed_after_it(fake: type[FakeObject]) -> None:
    """Each time that the end is seen again has a number of its own, and one that is odd."""
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    numbers = []
    for _ in range(3):
        engine.attach(["file.open"])
        engine.attach(["file.open", "net.connect"])
        numbers.append(fake.control[abi.CONTROL_OFFSETS["remembers"]])
        engine.release(["net.connect"])
        assert fake.control[abi.CONTROL_OFFSETS["remembers"]] % 2 == 0
    assert numbers == [1, 3, 5]


def test_without_the_end_nothing_is_remembered_and_no_event_is_lost(fake: type[FakeObject]) -> None:
    fake.fails = {KNOWN: "EINVAL: no such hook"}
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    assert not engine.attach(["file.permission"])
    assert not remembers(fake)


@pytest.mark.parametrize(
    ("flavour", "missing", "machine"),
    [("fmod_ret", "", "x86_64"), ("lsm", "inode_storage", "x86_64"), ("lsm", "lsm_not_skipped", "x86_64"), ("lsm", "", "aarch64")],
)
def test_where_a_note_could_be_wrong_nothing_is_remembered(fake: type[FakeObject], flavour: str, missing: str, machine: str) -> None:
    probes = {name: probe for name, probe in PROBES.items() if name != missing}
    engine = Engine(Features(probes, FUNCTIONS, machine=machine), flavour, Path("x.o"), None)
    engine.attach(["file.permission"])
    assert FakeObject.newest.replaced == ["known_files"]
    assert not remembers(fake)


@pytest.mark.parametrize(("told", "room"), [("15000\n", 16024), ("4000000\n", 262144), ("many", 262144), (None, 262144)])
def test_room_for_processes_is_as_for_tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str | None, room: int) -> None:
    path = tmp_path / "threads-max"
    if told is not None:
        path.write_text(told)
    monkeypatch.setattr(engine_module, "_THREADS_MAX", path)
    assert engine_module._processes() == room


@pytest.mark.parametrize("inodes", [[], [1], [2, 3, 0xFFFFFFFF, (1 << 64) - 1], list(range(1, 5000))])
@pytest.mark.parametrize("device", [0, 27, 0x800001, 0xFFFFFFFF])
def test_object_filter_has_a_bit_of_each(inodes: list[int], device: int) -> None:
    made = object_filter((ino, device) for ino in inodes)
    assert len(made) == 8192
    bits = {((ino ^ device << 32) * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 48 for ino in inodes}
    assert {8 * at + bit for at, byte in enumerate(made) for bit in range(8) if byte >> bit & 1} == bits


def test_a_program_that_fails_does_not_sink_the_others(fake: type[FakeObject]) -> None:
    fake.fails = {"file_open__file": "EACCES: R1 invalid", "socket_bind__network": "E2BIG: too complex"}
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    lacking = engine.attach(["file.open", "net.bind", "net.connect"])
    assert set(lacking) == {"file.open", "net.bind"}
    assert "R1 invalid" in lacking["file.open"]
    assert "socket_connect__network" in engine.attached()
    assert len(fake.loads) == 3
    assert {left.program: left.reason for left in engine.left_out()} == fake.fails
    assert "file.open" not in engine.supported_events()
    assert "net.connect" in engine.supported_events()


def test_ends_of_calls_are_attached_where_a_result_is_asked_for(fake: type[FakeObject]) -> None:
    def call(number: int) -> tuple[int, int, bytes]:
        *words, flags, texts = abi.CALL_STRUCT.unpack(engine._maps["calls"].values[struct.pack("<I", number)])
        return sum(word << 64 * at for at, word in enumerate(words)), flags, texts

    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    engine.attach(["file.open"])
    opened = 1 << abi.EV_FILE_OPEN | 1 << abi.EV_FILE_OPEN_FAILED
    assert "openat__result" not in engine.attached()
    assert call(257) == (opened, 0, bytes((2, 0, 0, 0)))
    engine.attach(["file.open"], ["file.open"])
    assert {"openat__result", "openat2__result", "creat__result"} <= set(engine.attached())
    assert "connect__result" not in engine.attached()
    assert call(257) == (opened, abi.CALL_SENSED, bytes((2, 0, 0, 0)))
    assert call(42) == (1 << abi.EV_NET_CONNECT, 0, bytes(4))
    assert call(166) == (1 << abi.EV_KERNEL_UMOUNT, 0, bytes((1, 0, 0, 0)))
    assert call(165)[2] == bytes((1, 2, 0, 0)), "mount(2) has three texts, of which records have two"
    engine.release(["file.open"])
    assert "openat__result" not in engine.attached()
    assert call(257)[:2] == (opened, 0)


def test_what_another_version_has_loaded_stays_until_ours_is_in_force(fake: type[FakeObject], monkeypatch: pytest.MonkeyPatch) -> None:
    def of(names: tuple[str, ...]) -> tuple[int, ...]:
        monkeypatch.setattr(engine_module, "instances", lambda _: names)
        return engine.replaces

    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    assert engine.replaces == ()
    pins = SimpleNamespace(folder=Path("/pins"), instance=f"abi{abi.ABI_VERSION}-own-lsm")
    engine._pins = pins  # type: ignore[assignment]
    assert of((pins.instance,)) == ()
    assert of((pins.instance, "aba5640da7ad286b-0123-lsm", "abi7-x-y-fmod_ret")) == (1, 7)
    engine._pins = None


@pytest.mark.parametrize("unload", [True, False])
def test_an_engine_that_ends_takes_away_its_own_pins_only(fake: type[FakeObject], unload: bool) -> None:
    engine, done = Engine(FEATURES, "lsm", Path("x.o"), None), []
    names = ("remove_own", "remove_folder", "close")
    engine._pins = SimpleNamespace(**{name: lambda name=name, **_: done.append(name) for name in names})  # type: ignore[assignment]
    engine.close(unload=unload)
    assert done == (["remove_own", "remove_folder", "close"] if unload else ["close"])


def test_what_was_written_before_the_end_can_be_read_after_it(fake: type[FakeObject]) -> None:
    """The folder stays, and with it the lock: nobody begins there before this engine is closed."""
    engine, done = Engine(FEATURES, "lsm", Path("x.o"), None), []
    engine.attach(["file.open"])
    names = ("remove_own", "remove_folder", "close")
    engine._pins = SimpleNamespace(**{name: lambda name=name, **_: done.append(name) for name in names})  # type: ignore[assignment]
    assert engine.attached()
    engine.end()
    assert engine.attached() == ()
    assert done == ["remove_own"]
    assert engine._maps
    with pytest.raises(ValueError, match="closed"):
        engine.attach(["file.open"])
    engine._maps = {}
    engine.close(unload=True)
    assert done == ["remove_own", "remove_own", "remove_folder", "close"]


class FakePins:
    """Pins of an instance that an earlier agent has left, or of none; opening them fails as told."""

    folder, instance = Path("/pins"), "own-lsm"

    def __init__(self, maps: dict[str, Any] | None, attached: tuple[str, ...] = (), fails: KernelError | None = None) -> None:
        self._maps, self._attached, self._fails = maps, attached, fails
        self.removed = False

    def maps(self, names: object) -> dict[str, Any] | None:
        return self._maps

    def links(self) -> dict[str, int]:
        raise self._fails or KernelError("no links")

    def attached(self) -> tuple[str, ...]:
        return self._attached

    def remove_own(self, *, wait: bool = True) -> None:
        self.removed = True

    def pin_maps(self, maps: object) -> None:
        raise self._fails or KernelError("no room")

    def close(self) -> None:
        pass


OUT_OF_DESCRIPTORS = libbpf.failure(errno.EMFILE, "opening")


@pytest.mark.parametrize(
    ("pins", "in_force", "removed"),
    [
        (FakePins({}, fails=OUT_OF_DESCRIPTORS), True, False),
        (FakePins({}, fails=KernelError("no such link")), True, False),
        (FakePins(None, ("file_open__file",)), False, False),
        (FakePins(None), False, True),
        (FakePins({}), False, True),
    ],
)
def test_a_start_that_fails_takes_away_only_what_it_began(
    fake: type[FakeObject], monkeypatch: pytest.MonkeyPatch, pins: FakePins, in_force: bool, removed: bool
) -> None:
    fake.control[abi.CONTROL_OFFSETS["generation"]] = in_force
    monkeypatch.setattr(Engine, "_map_control", lambda _: None)
    monkeypatch.setattr(engine_module, "host_pid", lambda: 7)
    monkeypatch.setattr(engine_module, "instance_name", lambda *_: "own-lsm")
    monkeypatch.setattr(engine_module.Pins, "open", lambda *_: pins)
    with pytest.raises(KernelError):
        Engine.load(FEATURES, object_path=Path(__file__), flavour="lsm")
    assert pins.removed is removed


@pytest.mark.parametrize("where", ["load", "attach", "sensor", "adopted"])
def test_without_descriptors_what_was_attached_is_as_before(
    fake: type[FakeObject], placed: list[str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def out(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many open files") if where == "adopted" else OUT_OF_DESCRIPTORS

    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    engine.attach(["file.open", "sensor.kprobe"], probes=[sensor("a")])
    before = engine.attached()
    asked = ["file.open", "sensor.kprobe", "net.connect"]
    with monkeypatch.context() as patch:
        if where == "load":
            patch.setattr(FakeObject, "load", lambda _: LoadFailure(errno.EMFILE, "socket_connect__network", ""))
        elif where == "attach":
            patch.setattr(FakeObject, "attach", out)
        elif where == "adopted":
            patch.setattr(engine_module.os, "dup", out)
        else:
            patch.setattr(sensors, "attach", out)
        with pytest.raises(libbpf.NoDescriptorsError, match=r"EMFILE\); \d+ may be open here") as caught:
            engine.attach(asked, probes=[sensor("a"), sensor("b")])
    assert "LimitNOFILE" in caught.value.hint
    assert engine.attached() == before
    assert engine.attach(asked, probes=[sensor("a"), sensor("b")]) == {}
    assert engine.unplaced() == {}
    assert "socket_connect__network" in engine.attached()


def test_the_abi_of_an_instance_is_in_its_name() -> None:
    path = OBJECT if OBJECT.exists() else Path(__file__)
    assert [abi_of(instance_name(path, "lsm")), abi_of("aba5640da7ad286b-0123-lsm"), abi_of("abi12-x-y-lsm")] == [abi.ABI_VERSION, 1, 12]


def test_what_another_version_has_counted_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "instances", lambda _: ("aba5640da7ad286b-0123-fmod_ret",))
    monkeypatch.setattr(engine_module, "link_names", lambda *_: ("file_open__file",))
    [status] = engine_module.inspect("/pins")
    assert (status.abi, status.flavour, status.attached, status.counters, status.agent_pid) == (1, "fmod_ret", ("file_open__file",), {}, 0)


def test_a_closed_engine_attaches_nothing(fake: type[FakeObject]) -> None:
    """A reload that goes on beside the loop may come that late."""
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    engine.close()
    loads = len(fake.loads)
    with pytest.raises(ValueError, match="closed"):
        engine.attach(["file.open"])
    assert len(fake.loads) == loads


def test_failed_programs_are_not_tried_again(fake: type[FakeObject]) -> None:
    fake.fails = {"file_open__file": "EACCES"}
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    engine.attach(["file.open"])
    loads = len(fake.loads)
    engine.attach(["file.open"])
    assert len(fake.loads) == loads


def test_only_what_events_need_is_loaded_and_only_once(fake: type[FakeObject]) -> None:
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    engine.attach(["file.open"])
    engine.attach(["file.open", "kernel.setns"])
    tracking = {"sched_process_fork__process", "sched_process_exec__process", "sched_process_exit__process", "cgroup_attach_task__process"}
    assert set(fake.loads[0]) == tracking | {"file_open__file", KNOWN, *MOVES}
    assert fake.loads[1:] == [["capable__setns"]]


def test_release_detaches_what_is_no_longer_needed(fake: type[FakeObject]) -> None:
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    engine.attach(["file.open", "net.connect"])
    assert engine.release(["net.connect"]) == (*reversed(MOVES), KNOWN, "file_open__file")
    assert "socket_connect__network" in engine.attached()
    assert "sched_process_exec__process" in engine.attached()


def sensor(place: str, *, optional: bool = False) -> Sensor:
    return Sensor(Way.KPROBE, place, optional=optional)


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where sensors have been attached. There is no function that is called missing."""
    places: list[str] = []

    def attach(probe: Sensor, program: str, fd: int, machine: str, hints: sensors.Hints) -> int:
        if probe.place == "missing":
            raise sensors.NoPlaceError("this kernel has no function missing", missing="missing", hint="there is mising")
        if probe.place == "refused":
            raise KernelError("attaching a kprobe on refused: EINVAL")
        places.append(probe.place)
        return os.open(os.devnull, os.O_RDONLY)

    monkeypatch.setattr(sensors, "attach", attach)
    return places


def test_sensors_share_a_program_that_is_loaded_for_them_alone(fake: type[FakeObject], placed: list[str]) -> None:
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    engine.attach(["file.open"])
    assert not any("sensor_kprobe" in loaded for loaded in fake.loads)
    engine.attach(["file.open", "sensor.kprobe"], probes=[sensor("a"), sensor("b")])
    engine.attach(["file.open", "sensor.kprobe"], probes=[sensor("b"), sensor("c")])
    assert placed == ["a", "b", "c"]
    assert sum("sensor_kprobe" in loaded for loaded in fake.loads) == 1
    assert "sensor_tracepoint" not in {program for loaded in fake.loads for program in loaded}
    assert engine.unplaced() == {}


def test_a_sensor_of_a_return_has_two_programs_or_none(fake: type[FakeObject], monkeypatch: pytest.MonkeyPatch) -> None:
    """The one at the return is there first, and goes last: no call is seen that would have no end."""
    done: list[str] = []

    def attach(probe: Sensor, program: str, *_: object) -> int:
        if probe.place == "half" and program == "sensor_entry":
            raise KernelError("attaching a kretprobe on half: EINVAL")
        done.append(f"{program} {probe.place}")
        return os.open(os.devnull, os.O_RDONLY)

    monkeypatch.setattr(sensors, "attach", attach)
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    whole, half = (Sensor(Way.KRETPROBE, place, result=ProbeArgument(0, Read.NUMBER, 4, signed=True)) for place in ("whole", "half"))
    engine.attach(["sensor.kretprobe"], probes=[whole, half])
    assert done == ["sensor_return whole", "sensor_entry whole", "sensor_return half"]
    assert set(engine.unplaced()) == {half.number}
    assert {name for name in engine.attached() if sensors.APART in name} == set(sensors.link_names(whole))
    assert engine.release(["file.open"])[:2] == tuple(reversed(sensors.link_names(whole)))


def test_sensors_that_no_rule_needs_any_more_are_detached(fake: type[FakeObject], placed: list[str]) -> None:
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    kept, gone = sensor("a"), sensor("b")
    engine.attach(["sensor.kprobe"], probes=[kept, gone])
    assert engine.release(["sensor.kprobe"], probes=[kept]) == (*sensors.link_names(gone),)
    assert {int.from_bytes(key, "little") for key in engine._maps["sensors"].all_keys()} == {kept.number}
    engine.attach(["sensor.kprobe"], probes=[kept, gone])
    assert placed == ["a", "b", "b"]
    assert set(engine.release(["file.open"])) == {*sensors.link_names(kept), *sensors.link_names(gone)}
    assert engine._maps["sensors"].all_keys() == []
    engine.attach(["sensor.kprobe"], probes=[kept])
    assert sum("sensor_kprobe" in loaded for loaded in fake.loads) == 2


def test_sensors_of_an_earlier_agent_go_on(fake: type[FakeObject], placed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    engine.attach(["file.open"])
    old = [sensor("a"), sensor("b")]
    engine._links |= {name: os.open(os.devnull, os.O_RDONLY) for one in old for name in sensors.link_names(one)}
    monkeypatch.setattr(libbpf, "program_of", os.dup)
    engine._programs |= engine_module._programs({name: engine._links[name] for one in old for name in sensors.link_names(one)})
    engine._adopt_sensors()
    assert set(engine._sensing) == {"sensor_kprobe"}
    assert "sensor_kprobe" not in engine._programs
    engine.attach(["sensor.kprobe"], probes=[*old, sensor("c")])
    assert placed == ["c"]
    assert not any("sensor_kprobe" in loaded for loaded in fake.loads)
    assert engine.release(["sensor.kprobe"], probes=[sensor("c")])[:2] == tuple(
        name for one in reversed(old) for name in sensors.link_names(one)
    )


def test_what_a_sensor_that_refuses_has_left_goes_where_there_are_no_others(fake: type[FakeObject]) -> None:
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    engine.attach(["file.open"])
    one = Sensor(Way.LSM, "inode_getattr")
    engine._describe(one, sensors.Hints())
    engine.release(["file.open", "sensor.lsm"], probes=[one])
    assert len(engine._maps["sensors"].all_keys()) == 1
    engine.release(["file.open"])
    assert engine._maps["sensors"].all_keys() == []


def test_each_sensor_that_refuses_has_a_program_of_its_own(fake: type[FakeObject], monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what the kernel skips of each is counted by the agent after the one that has attached them, too."""
    monkeypatch.setattr(libbpf, "program_of", os.dup)
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    engine.attach(["file.open"])
    refusing = [name for place in ("inode_getattr", "inode_mkdir") for name in sensors.link_names(Sensor(Way.LSM, place))]
    others = [name for place in ("a", "b") for name in sensors.link_names(sensor(place))]
    engine._links |= {name: os.open(os.devnull, os.O_RDONLY) for name in (*refusing, *others)}
    engine._programs |= engine_module._programs({name: engine._links[name] for name in (*refusing, *others)})
    engine._adopt_sensors()
    assert set(engine._sensing) == {"sensor_kprobe"}
    assert engine._programs.keys() >= set(refusing)
    engine.release(["file.open"])
    assert engine._programs.keys().isdisjoint(refusing)


def test_a_file_is_looked_at_again_only_where_that_is_asked_for(
    fake: type[FakeObject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is attached to the old file stays until the release, and what is at the same place in the same file is not attached again."""
    offsets: list[int] = []

    def attach(probe: Sensor, program: str, fd: int, file: int, site: uprobes.Site) -> int:
        offsets.append(site.offset)
        return os.open(os.devnull, os.O_RDONLY)

    monkeypatch.setattr(uprobes, "attach", attach)
    path, events = tmp_path / "program", ["sensor.uprobe"]
    path.write_bytes(elf([("twice", FUNCTION, ADDRESS), ("twice", FUNCTION, ADDRESS + 4)]))
    probe = Sensor(Way.UPROBE, "x", target=Target(str(path), "twice"))
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    engine.attach(events, probes=[probe])
    old = {name for name in engine.attached() if sensors.APART in name}
    assert (offsets, len(old), len(engine._maps["user_values"].all_keys())) == ([0x1000, 0x1004], 2, 2)
    engine.attach(events, probes=[probe], again=True)
    assert (engine.release(events, probes=[probe]), len(offsets)) == ((), 2)
    path.rename(tmp_path / "before")
    path.write_bytes(elf([("twice", FUNCTION, ADDRESS + 8)]))
    engine.attach(events, probes=[probe])
    assert len(offsets) == 2
    engine.attach(events, probes=[probe], again=True)
    assert offsets[2:] == [0x1008]
    assert set(engine.release(events, probes=[probe])) == old
    assert len(engine._maps["user_values"].all_keys()) == 1
    path.unlink()
    engine.attach(events, probes=[probe], again=True)
    assert "there is no file" in engine.unplaced()[probe.number]
    assert engine.release(events, probes=[probe]) == ()  # processes of the file that is gone are watched on
    assert len(engine.release([])) >= 1
    assert engine._maps["user_values"].all_keys() == engine._maps["sensors"].all_keys() == []


def test_a_sensor_without_a_place_keeps_no_other_from_its_own(fake: type[FakeObject], placed: list[str]) -> None:
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    refused, missing, ignored = sensor("refused"), sensor("missing"), sensor("missing", optional=True)
    assert engine.attach(["file.open", "sensor.kprobe"], probes=[refused, missing, sensor("a")]) == {}
    assert placed == ["a"]
    assert engine.unplaced() == {
        refused.number: "attaching a kprobe on refused: EINVAL",
        missing.number: "this kernel has no function missing (there is mising)",
    }
    engine.attach(["file.open", "sensor.kprobe"], probes=[ignored, sensor("a")])
    assert engine.unplaced() == {}


def test_a_sensor_without_a_place_is_tried_again_only_where_that_is_asked_for(
    fake: type[FakeObject], placed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def attach(probe: Sensor, *_: object) -> int:
        tried.append(probe.place)
        raise sensors.NoPlaceError("not here", missing="missing")

    monkeypatch.setattr(sensors, "attach", attach)
    engine, probes = Engine(FEATURES, "lsm", Path("x.o"), None), [sensor("missing"), sensor("module_function")]
    for _ in range(3):
        engine.attach(["sensor.kprobe"], probes=probes)
        engine.release(["sensor.kprobe"], probes=probes)
    assert tried == ["missing", "module_function"]
    assert set(engine.unplaced()) == {probe.number for probe in probes}
    assert {error.__traceback__ for error in engine._placeless.values()} == {None}  # nothing of the work stays in memory with them
    monkeypatch.setattr(sensors, "attach", lambda *_: os.open(os.devnull, os.O_RDONLY))
    engine.attach(["sensor.kprobe"], probes=probes, again=True)
    assert engine.unplaced() == {}
    assert {name for probe in probes for name in sensors.link_names(probe)} <= set(engine.attached())


def test_program_that_does_not_attach_is_left_out(fake: type[FakeObject]) -> None:
    fake.unattachable = frozenset({"file_open__file"})
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    assert "architecture" in engine.attach(["file.open"])["file.open"]


def test_failure_that_is_no_program_s_is_an_error(fake: type[FakeObject], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeObject, "load", lambda self: LoadFailure(22, "", "EINVAL: map 'alerts' failed"))
    with pytest.raises(KernelError, match="map 'alerts' failed"):
        Engine(FEATURES, "lsm", Path("x.o"), None).attach(["file.open"])


def test_process_tracking_is_essential(fake: type[FakeObject]) -> None:
    fake.fails = {"sched_process_exec__process": "EACCES: no"}
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    engine._create()
    with pytest.raises(KernelError, match=r"processes cannot be tracked.*sched_process_exec__process: EACCES: no"):
        engine.attach(["file.open"])


def test_unknown_event_is_a_key_error(fake: type[FakeObject]) -> None:
    with pytest.raises(KeyError):
        Engine(FEATURES, "lsm", Path("x.o"), None).attach(["file.nonsense"])


def test_object_of_another_abi_is_refused(fake: type[FakeObject], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeObject, "constant", lambda self, name: 0x1234)
    with pytest.raises(KernelError, match="0000000000001234"):
        Engine(FEATURES, "lsm", Path("x.o"), None)


def test_kernel_that_refuses_both_ways_is_a_clear_error() -> None:
    features = Features({"lsm_active": YES, "lsm_load": Probe(Answer.NO, "loading gives EPERM"), "fmod_ret": Probe(Answer.NO)}, {})
    with pytest.raises(KernelError, match="loading gives EPERM") as caught:
        Engine.load(features, pin_dir=None)
    assert caught.value.exit_code == 3
    assert caught.value.hint


def test_missing_object_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"missing\.o"):
        Engine.load(FEATURES, pin_dir=None, object_path=tmp_path / "missing.o")


def test_instances_differ_by_object_and_flavour(tmp_path: Path) -> None:
    one, two = tmp_path / "one.o", tmp_path / "two.o"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    names = {instance_name(path, flavour) for path in (one, two) for flavour in ("lsm", "fmod_ret")}
    assert len(names) == 4
    assert not any("." in name or "/" in name for name in names)  # bpffs allows no dot


@pytest.fixture
def engine(needs: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine with maps only: nothing is loaded that the kernel could run."""
    needs("cap_bpf", "cap_perfmon", "ring_buffer", "kernel_btf")
    if not OBJECT.exists():
        pytest.skip("needs the BPF object: make bpf")
    monkeypatch.setattr(Engine, "_create", lambda self: self._load_programs(()))
    with Engine.load(FEATURES, pin_dir=None) as loaded:
        yield loaded


def objects(engine: Engine) -> dict[tuple[int, int, int], int]:
    """What the programs find, by inode, device and generation."""
    places = [engine._maps["objects"].get(struct.pack("<I", side)) for side in (0, 1)]
    if not engine._followed:
        assert places == [None, None]
        return {}
    assert [place is not None for place in places] == [engine.generation % 2 == side for side in (0, 1)]
    found = {}
    for key in engine._followed.all_keys():
        ino, dev, generation, _ = struct.unpack("<QQII", key)
        found[ino, dev, generation] = struct.unpack("<Q", engine._followed.get(key) or bytes(8))[0]
    return found


def pages(engine: Engine, generation: int) -> list[int]:
    """Pages of the odd or the even generations."""
    tables = engine._maps["tables"]
    first = (generation & 1) * abi.IMAGE_MAX_PAGES
    return [n for n in range(abi.IMAGE_MAX_PAGES) if tables.get(struct.pack("<I", first + n)) is not None]


def test_object_answers_every_constant() -> None:
    if not OBJECT.exists():
        pytest.skip("needs the BPF object: make bpf")
    with Object(OBJECT) as parsed:
        constants = [name for name in parsed.constants() if name.startswith("have_")]
    assert {name: FEATURES.constant(name) for name in constants} == dict.fromkeys(constants, 0) | {
        "have_inode_storage": 1,
        "have_rdonly_cast": 1,
    }


def test_nothing_is_attached_without_events(engine: Engine) -> None:
    assert engine.attached() == ()
    assert engine.generation == 0


def test_swap_counts_generations_and_keeps_one_table(engine: Engine) -> None:
    assert engine.swap(image()) == 1
    assert (engine.generation, pages(engine, 1), pages(engine, 0)) == (1, [0], [])
    assert engine.swap(image()) == 2
    assert (engine.generation, pages(engine, 1), pages(engine, 0)) == (2, [], [0])
    assert engine.status().generation == 2


def test_swap_stores_the_whole_image_with_its_generation(engine: Engine) -> None:
    text = image(2 * abi.IMAGE_PAGE_WORDS + 100)  # three pages
    engine.swap(text)
    engine.swap(text)
    stored = engine_module._stamp(text, 2)
    assert struct.unpack_from("<I", stored, abi.IMAGE_HEADER_OFFSETS["generation"]) == (2,)
    assert stored[abi.IMAGE_HEADER_SIZE :] == text[abi.IMAGE_HEADER_SIZE :]
    assert engine.status().image_pages == 3
    assert pages(engine, 2) == [0, 1, 2]


def test_swap_clears_what_a_killed_agent_left(engine: Engine) -> None:
    engine.swap(image())
    for number in (1, 2, 5):
        os.close(engine._put_page(2, number, memoryview(b"left")))
    engine.swap(image())
    assert pages(engine, 2) == [0]


def test_a_swap_that_runs_out_of_memory_leaves_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    put = engine._put_page

    def refuse_the_first(generation: int, number: int, data: memoryview) -> int:
        if number == 0:
            raise KernelError("no memory", missing="room")
        return put(generation, number, data)

    engine.swap(image())
    monkeypatch.setattr(engine, "_put_page", refuse_the_first)
    with pytest.raises(KernelError, match="no memory"):
        engine.swap(image(2 * abi.IMAGE_PAGE_WORDS + 100))
    assert (engine.generation, pages(engine, 1), pages(engine, 2)) == (1, [0], [])


@pytest.mark.parametrize(("current", "following"), [(0, 1), (1, 2), (0x7FFF, 0x8000), (0xFFFFFFFF, 2)])
def test_generations_come_round(current: int, following: int) -> None:
    assert engine_module.next_generation(current) == following
    assert (current ^ following) & 1, "the tables of two generations in turn have two places"


def test_scratch_memory_is_sized_for_the_processors(fake: type[FakeObject], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "cpu_ids", lambda: 4)
    made: list[FakeObject] = []
    size = Engine._size_maps
    monkeypatch.setattr(Engine, "_size_maps", lambda engine, parsed, **told: (size(engine, parsed, **told), made.append(parsed)))
    engine = Engine(FEATURES, "lsm", Path("x.o"), None, max_processes=1000)
    engine.attach(["file.open"])
    [first] = made
    assert first.set == {"first_spare": 8}
    slots = 8 + 24 + 32
    assert {name: first.sizes[name] for name in ("scratches", "emit_spaces", "image_spaces", "sequences")} == dict.fromkeys(
        ("scratches", "emit_spaces", "image_spaces", "sequences"), slots
    )
    assert first.sizes["spares"] == slots - 8
    assert {name: first.sizes[name] for name in ("processes", "images", "long_exes", "long_args")} == {
        "processes": 1000,
        "images": 1000,
        "long_exes": 125,
        "long_args": 500,
    }
    assert first.sizes["frames"] == 1, "no sensor waits for returns"
    assert sorted(struct.unpack("<I", key)[0] for key in engine._maps["spares"].values) == list(range(8, slots))  # type: ignore[attr-defined]


def test_calls_that_sensors_wait_for_have_room_from_the_first_such_sensor_on(engine: Engine) -> None:
    """Room for them takes more than a MiB, which nobody else uses."""
    [choice] = [choice for choice in engine.plan.choices if choice.program == "sensor_return"]
    engine._failed["sensor_return"] = "not to be loaded here"
    engine._load_programs([choice])
    assert engine._maps["frames"].max_entries == 1
    others = {name: table for name, table in engine._maps.items() if name != "frames"}
    engine._make_frames()
    whole = engine._maps["frames"]
    assert whole.max_entries > 100
    engine._make_frames()
    assert engine._maps == {**others, "frames": whole}


@pytest.mark.parametrize(("answer", "late"), [(Answer.YES, ["held"]), (Answer.NO, []), (Answer.UNKNOWN, [])])
def test_records_that_wait_are_allocated_late_where_any_context_can(
    fake: type[FakeObject], monkeypatch: pytest.MonkeyPatch, answer: Answer, late: list[str]
) -> None:
    made: list[FakeObject] = []
    size = Engine._size_maps
    monkeypatch.setattr(Engine, "_size_maps", lambda engine, parsed, **told: (size(engine, parsed, **told), made.append(parsed)))
    Engine(Features({**PROBES, "entry_allocator": Probe(answer)}, FUNCTIONS), "lsm", Path("x.o"), None).attach(["file.open"])
    [first] = made
    assert first.late == late


def test_slots_keep_to_what_a_record_can_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "cpu_ids", lambda: 8192)
    own, slots = engine_module._slots()
    assert own < slots <= 0xFFFF


@pytest.mark.parametrize(
    ("flavour", "probe", "runs", "skips"),
    [
        ("lsm", Probe(Answer.NO, "full"), Answer.YES, False), ("fmod_ret", Probe(Answer.NO, "full"), Answer.YES, True),
        ("fmod_ret", YES, Answer.YES, False), ("fmod_ret", None, Answer.YES, True),
        ("lsm", Probe(Answer.NO, "full"), Answer.NO, True), ("lsm", YES, Answer.NO, False), ("lsm", None, Answer.UNKNOWN, True),
    ],
)  # fmt: skip
def test_whether_programs_can_be_skipped(fake: type[FakeObject], flavour: str, probe: Probe | None, runs: Answer, skips: bool) -> None:
    probes = {**FEATURES.probes, **({"no_preemption": probe} if probe else {}), "lsm_not_skipped": Probe(runs)}
    engine = Engine(Features(probes, FUNCTIONS), flavour, Path("x.o"), None)
    assert bool(engine.can_skip) is skips
    assert ("full" in engine.can_skip) == (skips and probe is not None)


def test_skipped_runs_are_read_from_the_programs(fake: type[FakeObject], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    engine.attach(["file.open"])
    by_fd = {engine._programs["file_open__file"]: 7, engine._programs[MOVES[0]]: 1}
    monkeypatch.setattr(libbpf, "misses", lambda fd: by_fd.get(fd, 0))
    assert engine.skipped() == {"file_open__file": 7}
    engine.release([])
    assert engine.skipped() == {}


def test_nobody_waits_for_skipped_runs_while_programs_are_attached(fake: type[FakeObject], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(FEATURES, "lsm", Path("x.o"), None)
    engine.attach(["file.open"])
    monkeypatch.setattr(libbpf, "misses", lambda _: 1)
    known = engine.skipped()
    monkeypatch.setattr(libbpf, "misses", lambda _: 2)
    begun, ended = threading.Event(), threading.Event()

    def attaching() -> None:
        with engine._lock:
            begun.set()
            ended.wait()

    other = threading.Thread(target=attaching)
    other.start()
    begun.wait()
    assert engine.skipped() == known
    ended.set()
    other.join()
    assert engine.skipped() == dict.fromkeys(known, 2)


def test_words_are_cleared_when_their_generation_comes_round(engine: Engine) -> None:
    concerns = engine._maps["concerns"]
    concerns.put(bytes(4), abi.CONCERN_STRUCT.pack(*range(1, abi.CONCERN_WORDS + 1), 7))
    libbpf.store_u32(engine._control_memory(), abi.CONTROL_OFFSETS["generation"], 0xFFFF)
    assert engine.swap(image()) == 0x10000
    *words, version = abi.CONCERN_STRUCT.unpack(concerns.get(bytes(4)) or b"")
    assert words == [0] * abi.CONCERN_WORDS
    assert version > 7, "a copy of a record that was made before must not seem new"


def test_a_swap_that_fails_leaves_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise KernelError("full", missing="room")

    engine.swap(image())
    monkeypatch.setattr(engine, "_put_objects", refuse)
    with pytest.raises(KernelError, match="full"):
        engine.swap(image())
    assert (engine.generation, pages(engine, 1), pages(engine, 2)) == (1, [0], [])


def test_swap_replaces_followed_objects(engine: Engine) -> None:
    engine.swap(image(), {(10, 5): 1, (11, 5): 2})
    assert objects(engine) == {(10, 5, 1): 1, (11, 5, 1): 2}
    engine.swap(image(), {(11, 5): 4})
    assert objects(engine) == {(11, 5, 2): 4}
    engine.swap(image())
    assert objects(engine) == {}


def test_too_many_objects_leave_the_old_policy_in_force(engine: Engine) -> None:
    engine.swap(image(), {(1, 1): 1})
    room = engine_module.MAX_OBJECTS
    with pytest.raises(KernelError, match="do not fit") as caught:
        engine.swap(image(), {(n, 2): 1 for n in range(room + 1)})
    assert str(room) in caught.value.hint
    assert engine.generation == 1
    assert objects(engine) == {(1, 1, 1): 1}
    assert engine.swap(image(), {(2, 1): 1}) == 2
    assert objects(engine) == {(2, 1, 2): 1}
    assert engine.swap(image(), {(n, 2): 1 for n in range(room)}) == 3
    assert len(objects(engine)) == room


@pytest.mark.parametrize("text", [b"", b"\0" * 1000, bytes(struct.pack("<II", abi.IMAGE_MAGIC, 99)) + bytes(1000)])
def test_what_is_no_image_is_refused(engine: Engine, text: bytes) -> None:
    with pytest.raises(KernelError):
        engine.swap(text)
    assert engine.generation == 0


def test_control_page_tells_the_agent(engine: Engine) -> None:
    assert engine.status().agent_pid == os.getpid()


def test_who_does_not_know_its_pid_is_refused_before_anything_is_touched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown() -> int:
        raise KernelError("a pid namespace")

    def never(*_: object) -> None:
        raise AssertionError("touched")

    monkeypatch.setattr(engine_module, "host_pid", unknown)
    monkeypatch.setattr(engine_module.Pins, "open", never)
    (tmp_path / "x.o").touch()
    with pytest.raises(KernelError, match="a pid namespace"):
        Engine.load(FEATURES, pin_dir=tmp_path, object_path=tmp_path / "x.o")


def test_counters_and_losses_are_named(engine: Engine) -> None:
    counters = engine.counters()
    assert set(counters) == {name[4:].lower() for name in abi.COUNTER_ID} - {"max"} | {"drain_failed"}
    assert set(counters.values()) == {0}
    assert engine.lost() == {}
    lost = engine._maps["lost"]
    cpus = len(lost.get_per_cpu(struct.pack("<I", 0)))
    table = engine_module._read_lost
    assert table(lost) == {}
    assert cpus == os.sysconf("SC_NPROCESSORS_CONF")


def test_records_are_read_back(engine: Engine) -> None:
    value = bytearray(abi.PROCESS_RECORD_SIZE)
    struct.pack_into("<Q", value, abi.PROCESS_RECORD_OFFSETS["exec_id"], 77)
    struct.pack_into("<I", value, abi.PROCESS_RECORD_OFFSETS["pid"], 4_000_000)
    struct.pack_into("<8I", value, abi.PROCESS_RECORD_OFFSETS["subject"], *range(1, 9))
    engine._maps["processes"].put(struct.pack("<I", 4_000_000), bytes(value))
    record = engine.record(4_000_000)
    assert record
    assert (record.exec_id, record.pid, record.subject) == (77, 4_000_000, tuple(range(1, 9)))
    assert engine.processes() == [4_000_000]
    assert engine.record(4_000_001) is None
    assert engine.image(77) is None


def test_drain_of_nothing(engine: Engine) -> None:
    assert engine.drain(0) == []
    assert engine.wakeup_fd >= 0


def test_closed_engine_says_so(engine: Engine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(ValueError, match="closed"):
        engine.drain(0)
    with pytest.raises(ValueError, match="closed"):
        _ = engine.generation


def test_exec_image_lengths_from_the_kernel_are_not_trusted() -> None:
    value = bytearray(abi.EXEC_IMAGE_SIZE)
    struct.pack_into("<I", value, abi.EXEC_IMAGE_OFFSETS["exe_len"], 0xFFFFFFFF)
    struct.pack_into("<I", value, abi.EXEC_IMAGE_OFFSETS["args_len"], 0xFFFFFFFF)
    decoded = decode_exec_image(5, bytes(value), bytes(abi.ABI_PATH_MAX), bytes(abi.ABI_ARGS_MAX))
    assert (len(decoded.exe), len(decoded.args)) == (abi.ABI_PATH_MAX, abi.ABI_ARGS_MAX)
    assert decode_exec_image(5, bytes(value)).exe == b"", "a long path that has gone meanwhile"


def test_long_executables_come_from_their_own_map() -> None:
    value = bytearray(abi.EXEC_IMAGE_SIZE)
    struct.pack_into("<I", value, abi.EXEC_IMAGE_OFFSETS["exe_len"], 300)
    assert decode_exec_image(5, bytes(value), b"/x" * 200).exe == b"/x" * 150


def test_long_arguments_come_from_their_own_map() -> None:
    value = bytearray(abi.EXEC_IMAGE_SIZE)
    struct.pack_into("<I", value, abi.EXEC_IMAGE_OFFSETS["args_len"], abi.ABI_ARGS_SHORT)
    assert decode_exec_image(5, bytes(value), None, b"xy" * 512).args == b"xy" * (abi.ABI_ARGS_SHORT // 2)
    assert decode_exec_image(5, bytes(value)).args == b"", "those that have gone meanwhile"


def test_exec_image_is_decoded_by_name() -> None:
    value = bytearray(abi.EXEC_IMAGE_SIZE)
    at = abi.EXEC_IMAGE_OFFSETS
    struct.pack_into("<Q", value, at["parent_exec_id"], 4)
    struct.pack_into("<I", value, at["exe_len"], 9)
    struct.pack_into("<I", value, at["args_len"], 5)
    value[at["exe"] : at["exe"] + 12] = b"/bin/catJUNK"
    value[at["args"] : at["args"] + 8] = b"cat\0-nXX"
    value[at["comm"] : at["comm"] + 7] = b"cat\0old"
    decoded = decode_exec_image(5, bytes(value))
    assert (decoded.exec_id, decoded.parent_exec_id) == (5, 4)
    assert (decoded.exe, decoded.args, decoded.comm) == (b"/bin/catJ", b"cat\0-", b"cat")


def test_process_record_of_zeros() -> None:
    record = decode_process_record(bytes(abi.PROCESS_RECORD_SIZE))
    assert (record.pid, record.concern, record.subject) == (0, 0, (0,) * abi.ABI_MAX_GROUPS)


def test_every_event_fits_the_concern_mask() -> None:
    assert all(abi.EVENT_ID[event.id] < abi.ABI_MAX_EVENTS for event in EVENTS)


def test_where_no_program_can_be_loaded_people_read_what_was_seen() -> None:
    refused = Probe(Answer.NO, "loading gives EPERM")
    features = Features({"lsm_active": YES, "lsm_load": refused, "fmod_ret": refused, "cap_bpf": YES, "cap_perfmon": YES}, FUNCTIONS)
    with pytest.raises(KernelError) as caught:
        Engine.load(features, pin_dir=None)
    seen = "; ".join(f"{kind} programs can be loaded: no, loading gives EPERM" for kind in ("LSM", "fmod_ret"))
    assert str(caught.value).endswith(f"({seen})")
    assert "lsm_load" not in str(caught.value)
    assert "doctor" in caught.value.hint


def workloads(engine: Engine) -> dict[int, tuple[int, ...]]:
    table = engine._maps["workloads"]
    return {struct.unpack("<Q", key)[0]: abi.WORKLOAD_STRUCT.unpack(table.get(key) or b"") for key in table.all_keys()}


def test_classes_of_containers_belong_to_a_generation(engine: Engine) -> None:
    """While a swap is on its way, either tables find their own class of a container."""
    engine.swap(image(), None, {7: 3, 8: 4})
    assert workloads(engine) == {7: (0, 3), 8: (0, 4)}
    engine.put_workload(9, 5)
    engine.put_workload(7, 6)
    assert workloads(engine) == {7: (6, 6), 8: (0, 4), 9: (5, 5)}
    engine.swap(image(), None, {7: 2, 9: 2})
    assert workloads(engine) == {7: (2, 6), 9: (2, 5)}
    engine.drop_workload(9)
    engine.drop_workload(9)
    assert workloads(engine) == {7: (2, 6)}
    engine.swap(image())
    assert workloads(engine) == {}


def test_a_swap_that_fails_leaves_the_classes_in_force(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.swap(image(), None, {7: 3})

    def refuse(*_: object) -> None:
        raise KernelError("no memory", missing="room")

    monkeypatch.setattr(engine_module.libbpf, "store_u32", refuse)
    with pytest.raises(KernelError, match="no memory"):
        engine.swap(image(), None, {7: 9})
    monkeypatch.undo()
    assert workloads(engine)[7][1] == 3
