# SPDX-License-Identifier: Apache-2.0
"""The decision engine that hook programs share: every kernel puts it into each of them, or it is told why not, and where it is missing an
enforcing rule denies."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from bpfence.kernel.engine import PIN_DIR
from bpfence.kernel.features import MEANING_BY_NAME
from bpfence.kernel.hooks import PROGRAMS, Kind
from bpfence.kernel.pins import instances
from bpfence.kernel.sharing import EXTENSIONS
from tests.kernel.cases import CGROUP, Case
from tests.kernel.harness import COMMAND, Range, cgroup_folder, make_files, run_act
from tests.kernel.test_uncertain import await_record, counters, waiting

OPENED = "a-name-that-is-too-long-for-a-note-of-it"
"""What has been noted of a name needs no engine."""
CASE = Case(
    name="shared-engine",
    event="file.open",
    files={"secret": "s", OPENED: "o"},
    rules=[
        {"name": "secret", "on": "open", "match": {"file.path": "{dir}/secret"}, "action": "deny", "rate": "100000/s"},
        {"name": "made", "on": "mkdir", "match": {"file.path": "{dir}/made"}, "action": "audit", "rate": "100000/s"},
        {"name": "started", "on": "executed", "match": {"process.exe": "{dir}/nothing"}, "action": "audit"},
    ],
)
SECRET, OPEN, MADE = (
    ["open", str(CASE.directory / "secret")],
    ["open", str(CASE.directory / OPENED)],
    ["mkdir", str(CASE.directory / "made")],
)
KIND_OF = {variant.program: row.kind for row in PROGRAMS for variant in row.variants}
DECIDE_NOTHING = ("sched_process_fork__process", "cgroup_attach_task__process", "d_instantiate__known")


def reload_and_release(shooting: Range) -> None:
    """Detaching what no rule needs any more goes on beside the loop when a reload is told; the next one waits for that."""
    shooting.agent.reload()
    shooting.agent.reload()


@pytest.fixture
def loaded(shooting: Range) -> Iterator[Range]:
    """The agent with CASE in force alone."""
    make_files(CASE)
    shooting.clear()
    path = shooting.agent.write_policy(CASE.name, CASE.policy())
    reload_and_release(shooting)
    yield shooting
    path.unlink()
    shooting.agent.reload()


def pinned(prefix: str) -> set[str]:
    [instance] = instances(Path(PIN_DIR))
    return {path.name.removeprefix(prefix) for path in (Path(PIN_DIR) / instance).iterdir() if path.name.startswith(prefix)}


def answer() -> tuple[str, str]:
    """What `bpfence doctor` says of shared engines: its answer and what was seen."""
    done = subprocess.run([*COMMAND, "doctor", "--json"], capture_output=True, text=True, check=False)
    [row] = (row for row in json.loads(done.stdout)["probes"] if row["name"] == "extensions")
    assert row["title"] == MEANING_BY_NAME["extensions"].title
    return row["answer"], row["detail"]


def test_the_engine_is_in_every_program_that_decides_or_it_is_told_why_not(loaded: Range) -> None:
    deciding = {name for name in pinned("link_") if KIND_OF[name] in EXTENSIONS and name not in DECIDE_NOTHING}
    said, detail = answer()
    assert {"file_open__file", "path_mkdir__file", "sched_process_exec__process"} <= deciding
    if said == "yes":
        assert pinned("engine_") == deciding - {"sched_process_exit__process"}, "no rule is about ends of processes"
    else:
        assert said == "no"
        assert detail
        assert not pinned("engine_")


def await_removal(folder: Path) -> None:
    """The kernel takes an engine out some time after its last pin has gone: until then what is allowed is."""
    deadline = time.monotonic() + 60
    with suppress(PermissionError):  # the program of the act is a file that may not be opened any more, either
        while run_act(OPEN, folder).result != "EPERM":
            assert time.monotonic() < deadline, "the engine is still in its place"
            time.sleep(0.1)


def test_programs_without_the_engine_deny_what_an_enforcing_rule_concerns(loaded: Range) -> None:
    if not pinned("engine_"):
        return  # the test above has seen that this is told
    folders = (cgroup_folder(CASE.cgroup), cgroup_folder(f"{CGROUP}/outside"))
    assert [run_act(act, folders[0]).result for act in (SECRET, OPEN)] == ["EPERM", "ok"]
    loaded.agent.settle()
    with ExitStack() as stack:
        acts = [stack.enter_context(waiting(act, folder)) for folder in folders for act in (SECRET, OPEN, MADE)]
        start = counters()
        loaded.agent.stop(signal.SIGKILL)
        [instance] = instances(Path(PIN_DIR))
        for name in ("file_open__file", "path_mkdir__file"):
            (Path(PIN_DIR) / instance / f"engine_{name}").unlink()
        try:
            await_removal(folders[0])
            before = counters()
            results = [process.communicate("\n", timeout=60)[0].split()[0] for process in acts]
            told = counters()
        finally:
            loaded.agent.start()
    assert results[:2] == ["EPERM", "EPERM"], "what is allowed cannot be told from what is denied"
    assert results[2] == "OK", "no rule denies anything of that event"
    assert results[3:5] == ["OK", "OK"], "no rule concerns these processes"
    assert told["refused_engine"] - before["refused_engine"] == 2
    assert {"file_open__file", "path_mkdir__file"} <= pinned("engine_")
    loss = await_record(loaded.agent, lambda record: record["kind"] == "loss")
    assert loss["refused.engine"] == told["refused_engine"] - start["refused_engine"]
    assert [run_act(act, folders[0]).result for act in (SECRET, OPEN)] == ["EPERM", "ok"]


def test_a_reload_puts_the_engine_into_what_it_attaches(loaded: Range) -> None:
    had = pinned("engine_")
    path = loaded.agent.write_policy("shared-engine-more", more := CASE.policy() | {"metadata": {"name": "shared-engine-more"}})
    more["spec"]["rules"] = [{"name": "gone", "on": "rmdir", "match": {"file.path": f"{CASE.directory}/kept"}, "action": "deny"}]
    path.write_text(json.dumps(more))
    (CASE.directory / "kept").mkdir(exist_ok=True)
    try:
        loaded.agent.reload()
        assert pinned("engine_") == had | ({"path_rmdir__file"} if had else set())
        assert run_act(["rmdir", str(CASE.directory / "kept")], cgroup_folder(CASE.cgroup)).result == "EPERM"
    finally:
        path.unlink()
        reload_and_release(loaded)
    assert pinned("engine_") == had
    assert run_act(["rmdir", str(CASE.directory / "kept")], cgroup_folder(CASE.cgroup)).result == "ok"
    assert all(KIND_OF[name] is not Kind.RESULT for name in had)
