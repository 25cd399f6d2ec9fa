# SPDX-License-Identifier: Apache-2.0
"""Who a process is, and when it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence import abi
from bpfence.errors import KernelError
from bpfence.events.process import Ancestor, Clock, Living, Parent, ProcessCache, read_boot_id, rfc3339
from bpfence.events.records import MAX_CHAIN, PROCESS_NUMBERS, KernelEvent, decode
from tests.unit.events.samples import IMAGES, Image, record

CLOCK = Clock(lambda: 1_000_000_000_000, lambda: 0)


def decoded(data: bytes) -> KernelEvent:
    event = decode("decisions", data)
    assert isinstance(event, KernelEvent)
    return event


def test_describe_pulls_images_and_ancestors() -> None:
    asked: list[int] = []

    def fetch(exec_id: int) -> Image | None:
        asked.append(exec_id)
        return IMAGES.get(exec_id)

    cache = ProcessCache(fetch, CLOCK, boot_id="abcdef0123456789abcdef0123456789")
    process, fields = cache.describe(decoded(record("file.open", strings={"STR_PROCESS_CWD": b"/root"})))
    assert process.exe == "/usr/bin/dash"
    assert process.args == ["sh", "-c", "/tmp/x"]
    assert process.cwd == "/root"
    assert process.exec_id == "abcdef01-700001"
    assert process.start_time == "1970-01-01T00:16:44.000000000Z"
    assert process.ancestors == [Ancestor(400, "/usr/bin/bash"), Ancestor(1, "/usr/lib/systemd/systemd")]
    assert fields["process.args"] == "sh -c /tmp/x"
    assert fields["process.parent.exe"] == "/usr/bin/bash"
    assert fields["process.ancestors.exe"] == ("/usr/bin/bash", "/usr/lib/systemd/systemd")
    assert fields["process.uid"] == fields["process.user"] == 1000
    cache.describe(decoded(record("file.open")))
    assert sorted(asked) == sorted(IMAGES), "the second event is served from the cache"


def test_the_records_own_strings_win_over_the_image() -> None:
    event = decoded(record("file.open", strings={"STR_PROCESS_EXE": b"/new\n", "STR_PROCESS_ARGS": b"a\0b\x1b"}))
    process, fields = ProcessCache(IMAGES.get, CLOCK).describe(event)
    assert (process.exe, process.args) == (r"/new\x0a", ["a", r"b\x1b"])
    assert fields["process.exe"] == "/new\n"


def test_an_unknown_process_is_shown_as_unknown() -> None:
    process, fields = ProcessCache(lambda _: None, CLOCK).describe(decoded(record("file.open", exec_id=0, start_time=0)))
    assert (process.exe, process.args, process.exec_id, process.start_time, process.ancestors) == (None, None, None, None, [])
    assert "process.exe" not in fields
    assert "process.parent.exe" not in fields
    assert fields["process.name"] == "sh"


def test_arguments_of_processes_older_than_the_engine_are_unknown() -> None:
    older = {0x700001: Image(0, flags=abi.EXEC_FROM_ITER, args=b"")}
    process, fields = ProcessCache(older.get, CLOCK).describe(decoded(record("file.open", strings={"STR_PROCESS_ARGS": b""})))
    assert process.args is None
    assert "process.args" not in fields
    none = {0x700001: Image(0, args=b"")}
    assert ProcessCache(none.get, CLOCK).describe(decoded(record("file.open")))[0].args == []


def test_a_kernel_that_refuses_to_tell_is_no_failure() -> None:
    def refuse(_: int) -> Image:
        raise KernelError("not permitted")

    assert ProcessCache(refuse, CLOCK).describe(decoded(record("file.open")))[0].exe is None


def test_loops_and_endless_chains_end() -> None:
    loop = {1: Image(2), 2: Image(1)}
    assert len(ProcessCache(loop.get, CLOCK).chain(1)) == 2
    assert len(ProcessCache(lambda number: Image(number + 1), CLOCK).chain(1)) == MAX_CHAIN


def test_the_cache_is_bounded_and_forgets_the_least_recently_used() -> None:
    asked: list[int] = []
    cache = ProcessCache(lambda number: asked.append(number) or Image(0), CLOCK, size=2)  # type: ignore[func-returns-value]
    for number in (1, 2, 1, 3, 1, 2):
        cache.image(number)
    assert len(cache) == 2
    assert asked == [1, 2, 3, 2]


def test_truncated_arguments_and_cgroup_are_shown_only_where_there_are_any() -> None:
    plain, _ = ProcessCache(IMAGES.get, CLOCK).describe(decoded(record("file.open")))
    assert not {"args_truncated", "cgroup"} & msgspec.to_builtins(plain).keys()
    cut = {0x700001: Image(0, flags=abi.EXEC_ARGS_TRUNCATED)}
    process, fields = ProcessCache(cut.get, CLOCK).describe(decoded(record("file.open")), "/system.slice")
    assert (process.args_truncated, process.cgroup, fields["process.cgroup"]) == (True, "/system.slice", "/system.slice")


def test_the_clock_follows_steps_but_not_noise() -> None:
    now, boot = [10_000_000_000], [0]
    clock = Clock(lambda: now[0], lambda: boot[0])
    now[0] += 1000
    clock.refresh()
    assert clock.wall(5) == 10_000_000_005
    now[0] += 3_600_000_000_000
    clock.refresh()
    assert clock.wall(5) == 3_610_000_001_005


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (1_769_853_600_123_456_789, "2026-01-31T10:00:00.123456789Z"), (0, "1970-01-01T00:00:00.000000000Z"),
        (-5, "1970-01-01T00:00:00.000000000Z"), (2**64, "2554-07-21T23:34:33.709551616Z"), (2**70, "9999-12-31T23:59:59.000000000Z"),
    ],
)  # fmt: skip
def test_rfc3339(moment: int, text: str) -> None:
    assert rfc3339(moment) == text


def test_boot_id(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("0f0e0d0c-0b0a-0908-0706-050403020100\n")
    assert read_boot_id(tmp_path / "id") == "0f0e0d0c0b0a09080706050403020100"
    (tmp_path / "id").write_text("nonsense")
    assert read_boot_id(tmp_path / "id") == read_boot_id(tmp_path / "none") == "0" * 32


def test_parents_as_the_record_says_them() -> None:
    cache = ProcessCache(IMAGES.get, CLOCK, boot_id="ab")
    listed = abi.ANCESTOR_STRUCT.pack(0x700000, 401) + abi.ANCESTOR_STRUCT.pack(0x5, 7) + abi.ANCESTOR_STRUCT.pack(0x600000, 1)
    event = decoded(record("process.executed", {"NUM_TTY": 34816, "NUM_EXE_FLAGS": abi.EXE_MEMFD}, {"STR_ANCESTORS": listed}))
    process, fields = cache.describe(event)
    assert process.parents == [Living(401, "bash"), Living(7, None), Living(1, "init")]
    assert process.parent == Parent("bash", ["-bash"])
    assert (process.tty, process.exe_flags) == (34816, ("memfd",))
    wanted = {
        "process.ancestors.name": ("bash", "init"), "process.parent.name": "bash", "process.parent.args": "-bash", "process.tty": 34816,
        "process.exe_flags": abi.EXE_MEMFD,
    }  # fmt: skip
    assert {name: fields.get(name) for name in wanted} == wanted
    assert cache.ancestors(event) == [(401, IMAGES[0x700000]), (7, None), (1, IMAGES[0x600000])]


def test_parents_without_a_list() -> None:
    images = {1: Image(2, 412), 2: Image(3, 412), 3: Image(4, 9, comm=b"new"), 4: Image(5, 9, comm=b"old"), 5: Image(0, 1)}
    cache = ProcessCache(images.get, CLOCK, boot_id="ab")
    plain = decoded(record("file.open", exec_id=1, parent_exec_id=2))
    assert cache.ancestors(plain) == [(9, images[3]), (1, images[5])]
    process, fields = cache.describe(plain)
    assert process.parents is process.parent is msgspec.UNSET
    assert "process.parent.name" not in fields
    process, fields = cache.describe(decoded(record("file.open", strings={"STR_PARENT_NAME": b"\xff", "STR_PARENT_ARGS": b"a\0\0b"})))
    assert process.parent == Parent(r"\xff", ["a", "", "b"])
    assert process.parents is msgspec.UNSET
    assert (fields["process.parent.name"], fields["process.parent.args"]) == ("\udcff", "a  b")


HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "pid": st.sampled_from([412, 7]),
        "tid": st.sampled_from([412, 8]),
        "ppid": st.sampled_from([0, 400]),
        "start_time": st.sampled_from([0, 4_000_000_000, 1]),
        "exec_id": st.sampled_from([0, 0x700001, 0x700002, 0x700003, 0x99]),
        "parent_exec_id": st.sampled_from([0, 0x700000, 0x600000]),
        "uid": st.sampled_from([0, 1000]),
        "gid": st.sampled_from([0, 1]),
        "cgroup": st.sampled_from([9, 10]),
        "comm": st.sampled_from([b"sh", b'"\xff']),
    },
)
STRINGS = st.dictionaries(
    st.sampled_from(["STR_PROCESS_EXE", "STR_PROCESS_ARGS", "STR_PROCESS_CWD", "STR_PROCESS_CGROUP", "STR_FILE_PATH"]),
    st.sampled_from([b"", b"/x", b'","start_time":null,"ancestors":', b"a\0b\x1b\xff"]),
    max_size=3,
)
OWN = [name for name, slot in abi.NUM_SLOT.items() if slot in PROCESS_NUMBERS and slot >= abi.ABI_NUM_IN_HEADER]
NUMBERS = st.dictionaries(st.sampled_from(OWN), st.sampled_from([5, 6]), max_size=3)


@given(st.lists(st.tuples(NUMBERS, STRINGS, HEADERS), min_size=1, max_size=12))
def test_what_processes_share_is_shown_of_each_as_if_it_were_alone(given: list[tuple[Any, Any, Any]]) -> None:
    images = {
        **IMAGES,
        0x700002: Image(0x700000, 500),
        0x700003: Image(0x700000, 500, abi.EXEC_ARGS_TRUNCATED),
    }
    cache = ProcessCache(images.get, CLOCK)
    for numbers, strings, header in given:
        event = decoded(record("file.open", numbers, strings, **header))
        subject = cache.subject(event, "/cgroup-{}".format)
        process, fields = ProcessCache(images.get, CLOCK).describe(event, f"/cgroup-{event.cgroup}")
        assert (subject.process, subject.json) == (process, msgspec.json.encode(process))
        assert (subject.fields, subject.cgroup) == (fields, process.cgroup)
        for name in fields:
            alone = ProcessCache(images.get, CLOCK).subject(event, "/cgroup-{}".format)
            assert subject.word(name) == alone.word(name)


def test_processes_that_run_the_same_program_in_the_same_way_share_an_account() -> None:
    asked: list[int] = []

    def path(number: int) -> str:
        asked.append(number)
        return "/a"

    cache = ProcessCache({**IMAGES, 0x700002: Image(0x700000, 500)}.get, CLOCK)
    for n in range(5):
        for exec_id in (0x700001, 0x700002):
            cache.subject(decoded(record("process.exit", pid=500 + n, start_time=n, exec_id=exec_id)), path)
    assert asked == [9]
    cache.subject(decoded(record("process.exit", pid=500, comm=b"other")), path)
    assert asked == [9, 9]
    for n in range(2):
        cache.subject(decoded(record("process.exit", pid=600 + n, exec_id=0x1234)), path)
    assert asked == [9] * 4, "what the kernel has forgotten is shared with nobody"
