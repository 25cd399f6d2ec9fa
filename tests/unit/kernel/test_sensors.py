# SPDX-License-Identifier: Apache-2.0
"""What the kernel is told of a sensor, and where one is attached: with files as the kernel writes them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from bpfence import abi
from bpfence.errors import KernelError
from bpfence.kernel import sensors
from bpfence.kernel.features import Features
from bpfence.kernel.sensors import (
    FormatField,
    Hints,
    NoPlaceError,
    descriptor,
    format_fields,
    function_of,
    link_names,
    lsm_target,
    tracepoint,
)
from bpfence.policy import Probe, ProbeArgument, Read, Way

FORMAT = """\
name: sched_process_exec
ID: 311
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:__data_loc char[] filename;\toffset:8;\tsize:4;\tsigned:0;
\tfield:char comm[16];\toffset:12;\tsize:16;\tsigned:0;
\tfield:const char * name;\toffset:32;\tsize:8;\tsigned:0;
\tfield:unsigned long args[6];\toffset:40;\tsize:48;\tsigned:0;

print fmt: "filename=%s", __get_str(filename)
"""
FIELDS = tuple(format_fields(FORMAT))


def kprobe(*arguments: ProbeArgument, call: bool = False, optional: bool = False, place: str = "f") -> Probe:
    return Probe(Way.KPROBE, place, arguments, call, optional)


def unpacked(probe: Probe) -> tuple[int, list[int], list[int], list[int]]:
    """Flags, places, kinds and sizes."""
    flags, *at, read, size, _, _, _, _ = abi.SENSOR_STRUCT.unpack(descriptor(probe, FIELDS))
    return flags, at, list(read), list(size)


def test_fields_of_a_record() -> None:
    assert (
        FormatField("common_type", 0, 2, signed=False, located=False, array=False),
        FormatField("common_pid", 4, 4, signed=True, located=False, array=False),
        FormatField("filename", 8, 4, signed=False, located=True, array=False),
        FormatField("comm", 12, 16, signed=False, located=False, array=True),
        FormatField("name", 32, 8, signed=False, located=False, array=False),
        FormatField("args", 40, 48, signed=False, located=False, array=True),
    ) == FIELDS


def test_arguments_of_a_function() -> None:
    probe = kprobe(ProbeArgument(2, Read.NUMBER, 4, signed=True), ProbeArgument(0, Read.FILE), ProbeArgument(1, Read.TEXT))
    assert unpacked(probe) == (
        0,
        [2, 0, 1, 0, 0],
        [abi.SENSOR_NUMBER, abi.SENSOR_FILE, abi.SENSOR_TEXT, 0, 0],
        [4 | abi.SENSOR_SIGNED, 0, abi.SENSOR_ROOM_NEW_PATH, 0, 0],
    )


def test_the_second_file_has_a_place_of_its_own() -> None:
    *_, size = unpacked(kprobe(ProbeArgument(0, Read.PATH), ProbeArgument(1, Read.FD, 4, signed=True), ProbeArgument(2, Read.TEXT)))
    assert size[:3] == [0, 4 | abi.SENSOR_SIGNED | 1 << abi.SENSOR_SECOND_SHIFT, 0]  # the text has no room but its own


def test_bytes_come_with_the_argument_that_counts_them() -> None:
    _, at, read, size = unpacked(
        kprobe(ProbeArgument(1, Read.BYTES, length=2), ProbeArgument(3, Read.CRED), ProbeArgument(4, Read.USER_NS))
    )
    assert at[:3] == [1 | 2 << abi.SENSOR_LENGTH_SHIFT, 3, 4]
    assert read[:3] == [abi.SENSOR_BYTES, abi.SENSOR_CRED, abi.SENSOR_USER_NS]
    assert size[:3] == [abi.SENSOR_ROOM_NEW_PATH, 0, 0]


def test_long_texts_have_the_room_of_files() -> None:
    texts = [ProbeArgument(number, Read.TEXT) for number in range(3)]
    assert unpacked(kprobe(*texts))[3][:3] == [abi.SENSOR_ROOM_NEW_PATH, abi.SENSOR_ROOM_PATH, 0]


def test_names_of_the_kernel_take_no_room_from_texts() -> None:
    arguments = [
        ProbeArgument(0, Read.MODULE),
        ProbeArgument(1, Read.NET_DEVICE),
        ProbeArgument(2, Read.TEXT),
        ProbeArgument(3, Read.FILENAME),
    ]
    assert unpacked(kprobe(*arguments))[3][:4] == [0, 0, abi.SENSOR_ROOM_NEW_PATH, abi.SENSOR_ROOM_PATH]


def test_what_a_system_call_is_given_is_in_the_memory_of_its_caller() -> None:
    text = ProbeArgument(0, Read.TEXT)
    assert unpacked(kprobe(text, call=True))[0] == abi.SENSOR_CALL | abi.SENSOR_USER
    assert unpacked(kprobe(text))[0] == 0
    assert unpacked(Probe(Way.TRACEPOINT, "syscalls/sys_enter_open", (ProbeArgument(4, Read.TEXT),)))[0] == abi.SENSOR_USER


def test_fields_of_a_tracepoint() -> None:
    arguments = (
        ProbeArgument(1, Read.NUMBER, 8, signed=True),
        ProbeArgument(2, Read.TEXT),
        ProbeArgument(3, Read.TEXT),
        ProbeArgument(4, Read.TEXT),
    )
    _, at, read, size = unpacked(Probe(Way.TRACEPOINT, "a/b", arguments))
    assert at == [4, 8, 12, 32, 0]
    assert read == [abi.SENSOR_NUMBER, abi.SENSOR_DATA_LOC, abi.SENSOR_TEXT_HERE, abi.SENSOR_TEXT, 0]
    assert size == [4 | abi.SENSOR_SIGNED, abi.SENSOR_ROOM_NEW_PATH, abi.SENSOR_ROOM_PATH, 0, 0]


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        (ProbeArgument(6, Read.NUMBER), "has no field 6"),
        (ProbeArgument(3, Read.NUMBER), r"field 3 \(comm\).*no number"),
        (ProbeArgument(1, Read.TEXT), r"field 1 \(common_pid\).*no text"),
    ],
)
def test_fields_that_are_not_there_or_no_such(argument: ProbeArgument, told: str) -> None:
    with pytest.raises(KernelError, match=told):
        descriptor(Probe(Way.TRACEPOINT, "a/b", (argument,)), FIELDS)


def test_more_arguments_than_there_is_room_for() -> None:
    with pytest.raises(KernelError, match="more than 5 arguments"):
        descriptor(kprobe(*(ProbeArgument(number, Read.NUMBER) for number in range(6))))


def test_a_sensor_is_the_same_whoever_may_do_without() -> None:
    assert kprobe(optional=True).number == kprobe().number
    assert len({kprobe().number, kprobe(place="g").number, kprobe(ProbeArgument(0, Read.NUMBER)).number, kprobe(call=True).number}) == 4
    assert link_names(kprobe()) == (f"sensor_kprobe-{kprobe().number:08x}",)


def test_functions_of_system_calls() -> None:
    assert function_of(kprobe(call=True, place="sys_openat"), "x86_64") == "__x64_sys_openat"
    assert function_of(kprobe(call=True, place="__x64_sys_openat"), "x86_64") == "__x64_sys_openat"
    assert function_of(kprobe(place="sys_openat"), "x86_64") == "sys_openat"


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "sched" / "sched_process_exec"
    place.mkdir(parents=True)
    (place / "id").write_text("311\n")
    (place / "format").write_text(FORMAT)
    monkeypatch.setattr(sensors, "_EVENTS", (tmp_path,))
    return tmp_path


def test_a_tracepoint(events: Path) -> None:
    assert tracepoint("sched/sched_process_exec", Hints()) == (311, FIELDS)


@pytest.mark.parametrize("place", ["sched/sched_proces_exec", "shed/sched_process_exec"])
def test_a_tracepoint_that_is_not_there(events: Path, place: str) -> None:
    with pytest.raises(NoPlaceError, match=f"no tracepoint {place}") as caught:
        tracepoint(place, Hints())
    assert "sched_process_exec" in caught.value.hint or place.startswith("shed")


@pytest.mark.parametrize("place", ["../../etc/passwd", "sched/..", "sched", "a/b/c", "/id"])
def test_names_that_lead_elsewhere(events: Path, place: str) -> None:
    with pytest.raises(KernelError, match="is no name of a tracepoint"):
        tracepoint(place, Hints())


def test_a_tracepoint_that_tells_nothing(events: Path) -> None:
    (events / "sched" / "sched_process_exec" / "id").write_text("many\n")
    with pytest.raises(KernelError, match="cannot be looked at"):
        tracepoint("sched/sched_process_exec", Hints())


KALLSYMS = "ffffffff t tcp_connect\nffffffff T tcp_connect.cold\nffffffff D tcp_conect\nffffffff t udp_x.isra.0\n"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What attaching gives, the next last; the kernel's files are made."""
    (tmp_path / "kprobe").mkdir()
    (tmp_path / "kprobe" / "type").write_text("8\n")
    (tmp_path / "kallsyms").write_text(KALLSYMS)
    monkeypatch.setattr(sensors, "_DEVICES", tmp_path)
    monkeypatch.setattr(sensors, "_KALLSYMS", tmp_path / "kallsyms")
    answers: list[int] = []
    monkeypatch.setattr(sensors.libbpf, "attach_event", lambda *_: answers.pop())
    return answers


def test_functions_of_the_kernel(places: list[int]) -> None:
    assert set(Hints().functions) == {"tcp_connect", "tcp_connect.cold", "udp_x.isra.0"}


@pytest.mark.parametrize(
    ("place", "optional", "hint"),
    [
        ("tcp_conect", False, "there is tcp_connect"),
        ("tcp_conect", True, ""),
        ("nothing", False, ""),
        ("udp_x", False, "there is udp_x.isra.0"),
    ],
)
def test_a_function_that_is_not_there(places: list[int], place: str, optional: bool, hint: str) -> None:
    places.append(-errno.ENOENT)
    with pytest.raises(NoPlaceError, match=f"no function {place}") as caught:
        sensors.attach(kprobe(place=place, optional=optional), "sensor_kprobe", -1, "x86_64", Hints())
    assert caught.value.hint == hint


def test_hints_are_for_the_first_ones_alone(places: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Benign twin: every one of them is told."""
    places += [-errno.ENOENT] * 40
    hints, given = Hints(), []
    for _ in range(40):
        with pytest.raises(NoPlaceError, match="no function tcp_conect") as caught:
            sensors.attach(kprobe(place="tcp_conect"), "sensor_kprobe", -1, "x86_64", hints)
        given.append(caught.value.hint)
    assert given == ["there is tcp_connect"] * Hints.MOST + [""] * (40 - Hints.MOST)


def test_a_function_that_cannot_be_probed(places: list[int]) -> None:
    places += [-errno.EINVAL, 7]
    assert sensors.attach(kprobe(), "sensor_kprobe", -1, "x86_64", Hints()) == 7
    with pytest.raises(KernelError, match="attaching a kprobe on f") as caught:
        sensors.attach(kprobe(), "sensor_kprobe", -1, "x86_64", Hints())
    assert not isinstance(caught.value, NoPlaceError)


def test_a_kernel_without_kprobes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "_DEVICES", tmp_path)
    with pytest.raises(KernelError, match="this kernel has no kprobes") as caught:
        sensors.attach(kprobe(), "sensor_kprobe", -1, "x86_64", Hints())
    assert "CONFIG_KPROBE_EVENTS" in caught.value.hint


def in_record(index: int, size: int, *, signed: bool = False) -> Probe:
    return Probe(Way.TRACEPOINT, "a/b", (ProbeArgument(index, Read.NUMBER, size, signed),))


@pytest.mark.parametrize(
    ("index", "size", "signed", "read"),
    [
        (4, 4, True, 4 | abi.SENSOR_SIGNED),  # an int in a field of 8 bytes, as those of system calls are
        (4, 4, False, 4),
        (4, 8, False, 8),
        (1, 8, False, 4),
        (0, 4, True, 2 | abi.SENSOR_SIGNED),
    ],
)
def test_a_number_has_the_bits_of_its_type(index: int, size: int, signed: bool, read: int) -> None:
    assert unpacked(in_record(index, size, signed=signed))[3][0] == read


def test_a_number_is_no_longer_than_its_field() -> None:
    packed = FormatField("args", 40, 48, signed=False, located=False, array=False)
    with pytest.raises(KernelError, match="is no number"):
        descriptor(in_record(0, 8), (packed,))


@pytest.mark.parametrize(("size", "flag"), [(8, 0), (4, abi.SENSOR_LENGTH_INT), (1, abi.SENSOR_LENGTH_INT)])
def test_the_count_of_bytes_has_the_bits_of_its_type(size: int, flag: int) -> None:
    _, at, *_ = unpacked(kprobe(ProbeArgument(1, Read.BYTES, length=2), ProbeArgument(2, Read.NUMBER, size)))
    assert at[0] == 1 | 2 << abi.SENSOR_LENGTH_SHIFT | flag


def test_an_argument_that_is_not_read_takes_no_place() -> None:
    assert unpacked(kprobe(ProbeArgument(70_000, Read.NOTHING)))[1:3] == ([0] * 5, [0] * 5)
    with pytest.raises(KernelError, match="no argument 70000"):
        descriptor(kprobe(ProbeArgument(70_000, Read.NUMBER)))


def test_what_is_read_at_the_return() -> None:
    """Its room is that which nothing that was read before is in."""
    late, text = ProbeArgument(1, Read.BYTES, length=2, at_return=True), ProbeArgument(0, Read.TEXT)
    probe = Probe(Way.KRETPROBE, "f", (late, text), result=ProbeArgument(0, Read.NUMBER, 4, signed=True))
    _, *at, read, size, result, _, _, _ = abi.SENSOR_STRUCT.unpack(descriptor(probe))
    assert at[:2] == [1 | 2 << abi.SENSOR_LENGTH_SHIFT | abi.SENSOR_AT_RETURN, 0]
    assert (list(read[:2]), list(size[:2])) == ([abi.SENSOR_BYTES, abi.SENSOR_TEXT], [abi.SENSOR_ROOM_NEW_PATH, abi.SENSOR_ROOM_NEW_PATH])
    assert result == 4 | abi.SENSOR_SIGNED
    assert abi.SENSOR_STRUCT.unpack(descriptor(kprobe(text)))[-4:] == (0, 0, 0, 0)


def test_a_socket_that_is_returned_has_the_place_behind_the_arguments() -> None:
    probe = Probe(Way.KRETPROBE, "f", (ProbeArgument(1, Read.NUMBER),), result=ProbeArgument(0, Read.SOCK_WHOLE))
    assert abi.SENSOR_STRUCT.unpack(descriptor(probe))[-4:] == (8, abi.SENSOR_SOCK_WHOLE, 1, 0)
    full = tuple(ProbeArgument(index, Read.NUMBER) for index in range(5))
    with pytest.raises(KernelError, match="besides 5 arguments"):
        descriptor(Probe(Way.KRETPROBE, "f", full, result=probe.result))


@pytest.mark.parametrize(("program", "config"), [("sensor_return", 1), ("sensor_entry", 0), ("sensor_kprobe", 0)])
def test_the_return_is_another_place_than_the_call(places: list[int], monkeypatch: pytest.MonkeyPatch, program: str, config: int) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(sensors.libbpf, "attach_event", lambda *given: asked.append(given) or 7)
    assert sensors.attach(kprobe(), program, 3, "x86_64", Hints()) == 7
    assert asked[0][:4] == (3, 8, config, b"f")


MKDIR = ("struct inode *", "struct dentry *", "umode_t")
MMAP = ("struct file *", "unsigned long", "unsigned long")
HOOKS = {
    "bpf_lsm_inode_mkdir": MKDIR,
    "security_inode_mkdir": MKDIR,
    "bpf_lsm_mmap_file": (*MMAP, "unsigned long"),
    "security_mmap_file": MMAP,
    "bpf_lsm_d_instantiate": ("struct dentry *", "struct inode *"),
    "bpf_lsm_userns_create": ("struct cred *",),
    "security_create_user_ns": ("struct cred *",),
}
KERNEL = Features({}, HOOKS, silent=frozenset({"bpf_lsm_d_instantiate"}))


def refuser(hook: str, *arguments: ProbeArgument) -> Probe:
    return Probe(Way.LSM, hook, arguments)


def test_where_a_sensor_that_refuses_is_aimed() -> None:
    mode = ProbeArgument(2, Read.NUMBER, 2)
    assert lsm_target(refuser("inode_mkdir", mode), "lsm", KERNEL, Hints()) == "bpf_lsm_inode_mkdir"
    assert lsm_target(refuser("inode_mkdir", mode), "fmod_ret", KERNEL, Hints()) == "security_inode_mkdir"
    assert lsm_target(refuser("userns_create"), "fmod_ret", KERNEL, Hints()) == "security_create_user_ns"
    assert lsm_target(refuser("mmap_file"), "lsm", KERNEL, Hints()) == "bpf_lsm_mmap_file"
    assert link_names(refuser("userns_create"))[0].startswith("sensor_lsm-")


@pytest.mark.parametrize(
    ("probe", "what"),
    [
        (refuser("mmap_file", ProbeArgument(2, Read.NUMBER)), "other arguments on this kernel than security_mmap_file"),
        (refuser("inode_mkdir", ProbeArgument(3, Read.NUMBER)), "has no argument 3"),
        (refuser("d_instantiate"), "nothing can be refused there"),
        (refuser("inode_mkdri"), "no LSM hook inode_mkdri"),
    ],
)
def test_where_none_can_be(probe: Probe, what: str) -> None:
    with pytest.raises(KernelError, match=what):
        lsm_target(probe, "lsm", KERNEL, Hints())


def test_a_system_call_is_refused_where_it_asks() -> None:
    probe = Probe(Way.LSM, "sys_mkdir", (ProbeArgument(0, Read.TEXT),), call=True)
    assert unpacked(probe)[0] == abi.SENSOR_CALL | abi.SENSOR_USER | 83 << abi.SENSOR_CALL_SHIFT
    path = Features({}, {"bpf_lsm_path_mkdir": ("struct path *", "struct dentry *", "umode_t")})
    assert lsm_target(probe, "lsm", path, Hints()) == "bpf_lsm_path_mkdir"
    for features in (KERNEL, Features({}, {})):
        with pytest.raises(NoPlaceError, match="path_mkdir"):
            lsm_target(probe, "lsm", features, Hints())
