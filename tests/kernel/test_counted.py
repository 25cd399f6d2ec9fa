# SPDX-License-Identifier: Apache-2.0
"""Rules that count: nothing before so many events of one subject, then what they are for; each subject is counted by itself.

The twin of each test is what comes before the number is reached.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfence import abi
from bpfence.dialects.native.read import load_text
from bpfence.evaluate import Counts, verdict
from bpfence.policy import COUNTED_BY, Action
from tests.kernel.cases import Case, FileSpec, write_yaml
from tests.kernel.harness import Range, cgroup_folder, enter, go_out
from tests.kernel.test_differential import perform
from tests.kernel.test_uncertain import counters, kernel_map

PORTS = range(20001, 20020)


def rule(name: str, on: str, count: int, within: str, action: str = "deny", by: str = "process", **match: Any) -> dict[str, Any]:
    threshold = {"count": count, "within": within, "by": by}
    asked = {"match": {key.replace("_", "."): value for key, value in match.items()}} if match else {}
    return {"name": name, "on": on, **asked, "threshold": threshold, "action": action, "rate": "100000/s"}


CASE = Case(
    name="counted",
    event="file.unlink",
    files={"tool": FileSpec(program=True)},
    rules=[
        rule("mass-delete", "unlink", 5, "1h", file_path="{dir}/deny/**"),
        rule("told", "unlink", 3, "2s", "audit", file_path="{dir}/told/**"),
        rule("scan", "connect", 4, "1h", "deny", "user", net_peer_port="20001-20019"),
        rule("storm", "exec", 3, "1h", "kill", "exe", file_path="{dir}/tool"),
        rule("tools", "unlink", 2, "1h", "deny", "host", file_path="{dir}/host/**"),
    ],
)


def go_in() -> None:
    enter(cgroup_folder(CASE.cgroup))


@pytest.fixture(scope="module")
def inside(shooting: Range) -> Iterator[Path]:
    """The folder of CASE, its policy in force, this process within its scope."""
    with shooting.within(CASE) as folder:
        for name in ("deny", "told", "host"):
            (folder / name).mkdir()
        yield folder


def removed(folder: Path, times: int) -> int:
    """How many of so many files of a folder this process can remove, each after the one before."""
    done = 0
    for number in range(times):
        path = folder / f"{os.getpid()}-{number}"
        path.write_text("x")
        try:
            path.unlink()
        except PermissionError:
            continue
        done += 1
    return done


def in_child(folder: Path, times: int) -> int:
    """The same by a process of its own."""
    pid = os.fork()
    if not pid:
        os._exit(removed(folder, times))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def settled(shooting: Range) -> list[dict[str, Any]]:
    """All records up to now, by acts outside of the policy's scope."""
    go_out()
    found = shooting.agent.settle()
    go_in()
    return found


def told(shooting: Range, name: str) -> list[dict[str, Any]]:
    return [alert for alert in settled(shooting) if alert.get("rule") == name]


def test_what_follows_the_first_is_denied_and_each_process_counts_for_itself(shooting: Range, inside: Path) -> None:
    settled(shooting)
    assert in_child(inside / "deny", 4) == 4
    assert not told(shooting, "mass-delete")
    assert in_child(inside / "deny", 8) == 4
    alerts = told(shooting, "mass-delete")
    assert [alert["count.events"] for alert in alerts] == [5, 6, 7, 8]
    first = alerts[0]
    assert (first["action"], first["errno"], first["count.by"], first["count.threshold"], first["count.within"]) == (
        "deny", "EPERM", "process", 5, "3600s",
    )  # fmt: skip
    assert first["count.key"] == first["process.pid"]


def test_what_a_process_has_counted_goes_with_it(inside: Path) -> None:
    with kernel_map("counted") as table:
        before = set(table.all_keys())
        assert in_child(inside / "deny", 3) == 3
        assert set(table.all_keys()) == before
        assert removed(inside / "deny", 1) == 1
        assert len(set(table.all_keys()) - before) == 1


def test_a_rule_that_tells_does_so_once_in_a_window(shooting: Range, inside: Path) -> None:
    settled(shooting)
    assert removed(inside / "told", 12) == 12
    [alert] = told(shooting, "told")
    assert (alert["action"], alert["count.events"]) == ("audit", 3)
    time.sleep(2.5)
    assert removed(inside / "told", 2) == 2
    assert not told(shooting, "told")
    assert removed(inside / "told", 1) == 1
    assert len(told(shooting, "told")) == 1
    assert over_soon(), "of the rule whose window is two seconds"
    deadline = time.monotonic() + 60
    while over_soon():  # the agent takes it away, though the process lives
        assert time.monotonic() < deadline
        time.sleep(0.5)


def over_soon() -> list[bytes]:
    """The keys of what counts no more than a minute from now."""
    until = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 60 * 10**9
    with kernel_map("counted") as table:
        return [key for key in table.all_keys() if (found := table.get(key)) and abi.COUNTED_STRUCT.unpack(found)[-1] < until]


def connected(user: int) -> list[str]:
    """The results of a process of a user that connects to all ports."""
    return perform(user, CASE.cgroup, [["connect", "127.0.0.1", str(port)] for port in PORTS])


def test_ports_are_counted_by_user(shooting: Range, inside: Path) -> None:
    listeners = [socket.create_server(("127.0.0.1", port)) for port in PORTS]
    try:
        settled(shooting)
        results = connected(1000)
        assert results == ["OK"] * 3 + ["EPERM"] * (len(PORTS) - 3)
        assert connected(1000) == ["EPERM"] * len(PORTS)
        assert connected(1001)[:3] == ["OK"] * 3
        alert = told(shooting, "scan")[0]
        assert (alert["count.by"], alert["count.key"], alert["net.peer.port"]) == ("user", 1000, 20004)
    finally:
        for listener in listeners:
            listener.close()


def test_a_storm_of_programs_is_killed(inside: Path) -> None:
    """By executable: of the process that executes, not what it executes."""
    words = ["/bin/sh", "-c", 'for n in 1 2 3 4; do "$0" list >/dev/null; echo $?; done', str(inside / "tool")]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.split() == ["0", "0", "137", "137"]
    assert [subprocess.run([inside / "tool", "list"], capture_output=True, check=False).returncode for _ in range(2)] == [0, 0]


def test_a_reload_keeps_what_was_counted(shooting: Range, inside: Path) -> None:
    assert removed(inside / "host", 1) == 1
    go_out()
    shooting.agent.reload()
    go_in()
    assert removed(inside / "host", 1) == 0


def test_where_there_is_no_room_to_count_it_is_denied_and_told(shooting: Range, inside: Path) -> None:
    settled(shooting)
    before = counters()
    with kernel_map("counted") as table:
        keys = [struct.pack("<QQQ", 1, number, 0) for number in range(table.max_entries - table.count())]
        value = abi.COUNTED_STRUCT.pack(1, *[0] * 8, 0, 2**63)
        table.put_many(b"".join(keys), value * len(keys))
        try:
            assert in_child(inside / "deny", 3) == 0
            assert in_child(inside / "told", 1) == 1
        finally:
            table.delete_many(b"".join(keys))
    after = counters()
    assert after["uncertain_count"] - before["uncertain_count"] >= 4
    assert after["refused_count"] - before["refused_count"] == 3
    alert = told(shooting, "mass-delete")[0]
    assert (alert["uncertain"], alert["causes"]) == (True, ["count"])
    assert in_child(inside / "deny", 3) == 3


def random_rules(rng: random.Random, folder: Path) -> list[dict[str, Any]]:
    rules = []
    for number in range(4):
        path = rng.choice((f"{folder}/**", f"{folder}/a*", f"{folder}/[ab]*", f"{folder}/*1"))
        made = rule(
            f"r{number}", "unlink", rng.randrange(2, 12), "1h", rng.choice(("audit", "deny")), rng.choice(COUNTED_BY), file_path=path
        )
        if rng.random() < 0.4:
            made["unless"] = {rng.choice(("file.path", "process.exe")): rng.choice((f"{folder}/b*", "/usr/bin/none*", f"{folder}/*2"))}
        if rng.random() < 0.3:
            del made["threshold"]
        rules.append(made)
    return rules


def test_the_kernel_agrees_with_the_reference(shooting: Range) -> None:
    seed = random.SystemRandom().randrange(1, 10**6)
    rng = random.Random(seed)
    for turn in range(3):
        case = Case(name=f"counted-{seed}-{turn}", event="file.unlink", rules=[])
        case = Case(name=case.name, event=case.event, rules=random_rules(rng, case.directory))
        policies, diagnostics = load_text(write_yaml(case.policy()), case.name)
        assert not [found for found in diagnostics if found.severity == "error"], diagnostics
        counts = Counts()
        subject: dict[str, Any] = {
            "process.pid": os.getpid(),
            "process.exe": os.readlink("/proc/self/exe"),
            "process.uid": 0,
            "process.cgroup": case.cgroup,
        }
        with shooting.within(case) as folder:
            for number in range(60):
                path = folder / f"{rng.choice('abc')}{rng.randrange(4)}"
                path.write_text("x")
                answer = verdict(policies, {"event": "file.unlink", "file.path": str(path), **subject}, counts)
                try:
                    path.unlink()
                    denied = False
                except PermissionError:
                    denied = True
                assert denied is (answer.action >= Action.DENY), f"seed {seed}, act {number} on {path}, policy {case.rules}"
