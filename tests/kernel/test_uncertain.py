# SPDX-License-Identifier: Apache-2.0
"""What the kernel's programs cannot know is uncertain: an enforcing rule that it concerns denies, and it is counted and told by cause."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bpfence import abi
from bpfence.kernel import libbpf
from bpfence.kernel.engine import PIN_DIR, decode_process_record, inspect
from bpfence.kernel.libbpf import Map
from bpfence.kernel.pins import instances, open_map
from tests.kernel.cases import CGROUP, TRIGGER, Case, FileSpec
from tests.kernel.harness import Agent, Range, cgroup_folder, enter, make_files, run_act

CASE = Case(
    name="uncertain",
    event="file.open",
    files={"secret": "s", "open": "o", "tool": FileSpec(program=True)},
    rules=[
        {"name": "secret", "on": "open", "match": {"file.path": "{dir}/secret"}, "action": "deny", "rate": "100000/s"},
        {"name": "below", "on": "mkdir", "match": {"process.ancestors.exe": "{dir}/tool"}, "action": "deny"},
    ],
)
FULL = 64
GRAVEYARD = 1024
"""How many ended programs the kernel keeps: bpf/maps.h."""
RUNS = 1200


@pytest.fixture(scope="module")
def loaded(shooting: Range) -> Iterator[Range]:
    """The agent with CASE in force."""
    make_files(CASE)
    path = shooting.agent.write_policy(CASE.name, CASE.policy())
    shooting.clear()
    shooting.agent.reload()
    yield shooting
    path.unlink()
    shooting.agent.reload()


@contextmanager
def kernel_map(name: str, pin_dir: str = PIN_DIR) -> Iterator[Map]:
    """A map of the running instance."""
    [instance] = instances(Path(pin_dir))
    table = open_map(Path(pin_dir), instance, name)
    try:
        yield table
    finally:
        table.close()


def counters(pin_dir: str = PIN_DIR) -> dict[str, int]:
    """As `bpfence status` reads them, whose start takes an emulated machine ten seconds."""
    return inspect(pin_dir)[0].counters


@contextmanager
def waiting(words: list[str], cgroup: Path) -> Iterator[subprocess.Popen[str]]:
    """The trigger in `cgroup`, ready to act on a line."""
    process = subprocess.Popen(
        [str(TRIGGER), "stay", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: enter(cgroup),  # noqa: PLW1509
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_record_of_an_earlier_process_with_the_same_pid_counts_for_nothing(loaded: Range) -> None:
    with waiting(["open", str(CASE.directory / "secret")], cgroup_folder(CASE.cgroup)) as process, kernel_map("processes") as processes:
        key = struct.pack("<I", process.pid)
        value = bytearray(processes.get(key) or b"")
        at = abi.PROCESS_RECORD_OFFSETS
        struct.pack_into(f"<{abi.ABI_EVENT_WORDS}Q", value, at["concern"], *[0] * abi.ABI_EVENT_WORDS)
        struct.pack_into("<I", value, at["generation"], generation())
        struct.pack_into("<Q", value, at["start_time"], decode_process_record(bytes(value)).start_time - 1_000_000)
        processes.put(key, bytes(value))
        forget_word(process.pid)
        printed, _ = process.communicate("\n", timeout=60)
        assert printed.split()[0] == "EPERM"
    assert [alert["rule"] for alert in loaded.agent.settle() if alert.get("policy") == CASE.name] == ["secret"]


def test_a_lost_program_makes_the_lineage_uncertain(loaded: Range) -> None:
    """The record is as it is left where there was no memory for the program. Then it is not certain that no ancestor matches."""
    folder = CASE.directory / "made"
    with waiting(["mkdir", str(folder)], cgroup_folder(CASE.cgroup)) as process, kernel_map("processes") as processes:
        key = struct.pack("<I", process.pid)
        value = bytearray(processes.get(key) or b"")
        at = abi.PROCESS_RECORD_OFFSETS
        struct.pack_into("<Q", value, at["exec_id"], 0)
        struct.pack_into("<I", value, at["generation"], 0)
        processes.put(key, bytes(value))
        forget_word(process.pid)
        printed, _ = process.communicate("\n", timeout=60)
        assert printed.split()[0] == "EPERM"
    alerts = [alert for alert in loaded.agent.settle() if alert.get("policy") == CASE.name]
    assert [(alert["rule"], alert["uncertain"], alert["causes"]) for alert in alerts] == [("below", True, ["lineage"])]


def test_a_whole_lineage_is_certain(loaded: Range) -> None:
    assert run_act(["mkdir", str(CASE.directory / "made")], cgroup_folder(CASE.cgroup)).result == "ok"
    (CASE.directory / "made").rmdir()
    below = ["exec", str(CASE.directory / "tool"), "exec", str(TRIGGER), "mkdir", str(CASE.directory / "made")]
    assert run_act(below, cgroup_folder(CASE.cgroup)).result == "EPERM"
    alerts = [alert for alert in loaded.agent.settle() if alert.get("policy") == CASE.name]
    assert [(alert["rule"], alert.get("uncertain")) for alert in alerts] == [("below", None)]


def generation() -> int:
    """The generation in force."""
    with kernel_map("control") as control:
        found: int = struct.unpack_from("<I", control.get(bytes(4)) or b"", abi.CONTROL_OFFSETS["generation"])[0]
    return found


def look(concerns: Map, key: bytes) -> tuple[int, ...]:
    """struct concern: the words, then the version."""
    return abi.CONCERN_STRUCT.unpack(concerns.get(key) or bytes(abi.CONCERN_SIZE))


def forget_word(pid: int) -> None:
    """One change more of the records of this pid."""
    with kernel_map("concerns") as concerns:
        key = struct.pack("<I", pid % abi.CONCERN_ENTRIES)
        *words, version = look(concerns, key)
        concerns.put(key, abi.CONCERN_STRUCT.pack(*words, version + 1))


def test_a_change_leaves_no_word_behind(loaded: Range) -> None:
    """A word holds a part of the version only: after 65,536 changes one that is left would be believed again."""
    cgroup = cgroup_folder(CASE.cgroup)
    acts = ["repeat", "200", "open", str(CASE.directory / "open")]
    with waiting(acts, cgroup) as process, kernel_map("concerns") as concerns:
        key = struct.pack("<I", process.pid % abi.CONCERN_ENTRIES)
        before = look(concerns, key)[-1]
        concerns.put(key, abi.CONCERN_STRUCT.pack(*[(1 << 64) - 1] * abi.CONCERN_WORDS, before))
        (cgroup / "cgroup.procs").write_text(str(process.pid))
        *words, version = look(concerns, key)
        assert words == [0] * abi.CONCERN_WORDS
        assert version > before


def test_tables_that_are_not_there_deny_what_an_enforcing_rule_concerns(loaded: Range) -> None:
    secret, harmless = ["open", str(CASE.directory / "secret")], ["stat", str(CASE.directory / "open")]
    with kernel_map("tables") as tables:
        key = struct.pack("<I", (generation() & 1) * abi.IMAGE_MAX_PAGES)
        page = libbpf.lib.bpf_map_get_fd_by_id(struct.unpack("<I", tables.get(key) or b"")[0])
        assert page >= 0
        with waiting(secret, cgroup_folder(CASE.cgroup)) as inside, waiting(secret, cgroup_folder(f"{CGROUP}/outside")) as outside:
            before = counters()
            tables.delete(key)
            try:
                results = [process.communicate("\n", timeout=60)[0].split()[0] for process in (inside, outside)]
            finally:
                tables.put(key, struct.pack("<I", page))
                os.close(page)
    assert results == ["EPERM", "OK"]
    told = counters()
    assert told["refused_table"] - before["refused_table"] == 1
    assert told["denied"] - before["denied"] == 1
    loss = await_record(loaded.agent, lambda record: record["kind"] == "loss")
    assert loss["refused.table"] == 1
    assert loss["events.file.open"] == 1
    assert run_act(harmless, cgroup_folder(CASE.cgroup)).result == "ok"
    assert run_act(secret, cgroup_folder(CASE.cgroup)).result == "EPERM"


def await_record(agent: Agent, wanted: Any, seconds: float = 30) -> dict[str, Any]:
    """The first record that `wanted` says yes to, of those that have come since the last look or come now."""
    deadline = time.monotonic() + seconds
    while True:
        for record in agent.poll():
            if wanted(record):
                return record
        assert time.monotonic() < deadline, "it has not come"
        time.sleep(0.1)


def test_a_process_that_hops_between_cgroups_has_the_subject_of_where_it_is(loaded: Range) -> None:
    """Threads make the subject be computed all the time while their process moves: no late store may bring an old one back."""
    inside, outside = cgroup_folder(CASE.cgroup), cgroup_folder(f"{CGROUP}/outside")
    files = [str(CASE.directory / name) for name in ("secret", "open")]
    act = ["hop", str(inside / "cgroup.procs"), str(outside / "cgroup.procs"), *files, "400"]
    assert run_act(act, outside, seconds=200).printed.split()[1:] == ["0", "wrong", "of", "800"]
    loaded.agent.settle()


def test_a_process_that_cannot_be_killed_is_denied_and_that_is_told(loaded: Range) -> None:
    """The helper that the kernel starts for a core dump is, before Linux 5.19, a thread of the kernel when it executes its program."""
    case = Case(
        name="kill-helper",
        event="process.exec",
        files={"helper": FileSpec(program=True)},
        rules=[{"name": "helper", "on": "exec", "match": {"file.path": "{dir}/helper"}, "action": "kill"}],
    )
    make_files(case)
    document = case.policy()
    del document["spec"]["scope"]
    path = loaded.agent.write_policy(case.name, document)
    loaded.agent.reload()
    pattern = Path("/proc/sys/kernel/core_pattern")
    usual = pattern.read_text()
    before = counters()
    try:
        pattern.write_text(f"|{case.directory}/helper ok")
        subprocess.run(["/bin/sh", "-c", "ulimit -c unlimited; kill -SEGV $$"], check=False)
    finally:
        pattern.write_text(usual)
        path.unlink()
    alert = await_record(loaded.agent, lambda record: record.get("policy") == case.name)
    loaded.agent.reload()
    told = counters()
    refused = told["kill_refused"] - before["kill_refused"]
    assert refused + told["killed"] - before["killed"] == 1
    assert (alert["action"], alert.get("kill")) == (("deny", "refused") if refused else ("kill", None))


def test_more_processes_than_there_is_room_for(tmp_path: Path, loaded: Range) -> None:
    """Maps that are full make what rules ask of a process uncertain: in the scope all is denied that could match, and nothing outside."""
    case = Case(
        name="full",
        event="file.open",
        files={"secret": "s", "tool": FileSpec(program=True)},
        rules=[{"name": "by-exe", "on": "open", "match": {"file.path": "{dir}/secret", "process.exe": "{dir}/tool"}, "action": "deny"}],
    )
    make_files(case)
    agent = Agent(tmp_path, "full")
    agent.write_policy(case.name, case.policy())
    pins = f"{PIN_DIR}-full"
    agent.start("--max-processes", str(FULL), "--pin-dir", pins)
    idle: list[subprocess.Popen[bytes]] = []
    try:
        attack = ["exec", str(case.directory / "tool"), "open", str(case.directory / "secret")]
        other = ["open", str(case.directory / "secret")]
        idle += [subprocess.Popen(["/bin/sleep", "600"]) for _ in range(2 * FULL)]
        assert run_act(attack, cgroup_folder(case.cgroup)).result == "EPERM"
        assert run_act(other, cgroup_folder(f"{CGROUP}/outside")).result == "ok"
        assert counters(pins)["record_failed"] > 0
        alert = await_record(agent, lambda record: record.get("policy") == case.name)
        assert alert["action"] == "deny"
        last = {"name": "last", "on": "executed", "match": {"process.exe": "{dir}/tool"}, "action": "kill"}
        agent.write_policy(case.name, Case(name=case.name, event=case.event, rules=[last]).policy())
        agent.reload()
        assert run_act(["ok"], cgroup_folder(case.cgroup)).result == "killed"
        assert run_act(["ok"], cgroup_folder(f"{CGROUP}/outside")).result == "ok"
    finally:
        for process in idle:
            process.kill()
            process.wait()
        agent.stop(signal.SIGTERM)


def test_programs_are_forgotten_when_their_processes_have_ended(loaded: Range) -> None:
    """Each run is two programs, of which the second holds the first. What has ended is kept until enough others have."""
    words = ["repeat", str(RUNS), "then", str(TRIGGER), "exec", str(TRIGGER), "ok"]
    known = []
    with kernel_map("images") as images:
        for _ in range(2):
            subprocess.run([str(TRIGGER), *words], check=True, capture_output=True, timeout=600)
            known.append(len(images.all_keys()))
    assert known[0] > GRAVEYARD, "the first round must fill the graveyard"
    assert known[1] < known[0] + RUNS // 10
