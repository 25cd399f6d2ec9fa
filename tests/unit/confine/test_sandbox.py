# SPDX-License-Identifier: Apache-2.0
"""A cgroup for one command, on a folder that plays the hierarchy."""

from __future__ import annotations

import os
import platform
import signal
import struct
import subprocess
from pathlib import Path

import pytest

from bpfence.confine import sandbox as module
from bpfence.confine.sandbox import Sandbox, exit_code, guarded, send
from bpfence.errors import KernelError
from bpfence.evaluate import holds
from bpfence.host.cgroups import Hierarchy
from bpfence.kernel.seccomp import Child, Filter


def fake(tmp_path: Path, *, whole: bool = True) -> Sandbox:
    made = Sandbox(Hierarchy(tmp_path, whole))
    made.folder.mkdir()
    (made.folder / "cgroup.procs").touch()
    return made


@pytest.mark.parametrize("whole", [True, False])
def test_condition_holds_for_the_cgroup_and_below_only(tmp_path: Path, whole: bool) -> None:
    box = Sandbox(Hierarchy(tmp_path, whole))
    prefix = "" if whole else "/pod/nested"

    def inside(path: str) -> bool:
        return holds(box.condition(), {"event": "file.open", "process.cgroup": path})

    assert inside(f"{prefix}/{box.name}")
    assert inside(f"{prefix}/{box.name}/deeper/down")
    assert not inside(f"{prefix}/{box.name}x")
    assert not inside(f"/other-{box.name}/x")
    assert not inside("/")


def test_names_cannot_be_guessed(tmp_path: Path) -> None:
    first, second = Sandbox(Hierarchy(tmp_path, True)), Sandbox(Hierarchy(tmp_path, True))
    assert first.name != second.name
    assert len(first.name.rpartition("-")[2]) == 32


def outcome(child: Child) -> int:
    try:
        return exit_code(child.wait())
    finally:
        child.close()


def test_a_command_joins_the_cgroup_before_it_runs(tmp_path: Path) -> None:
    box = fake(tmp_path)
    assert outcome(box.launch(["sh", "-c", f'test "$(cat {box.folder}/cgroup.procs)" = 0 && exit 7'])) == 7


def test_a_command_begins_with_the_usual_signals(tmp_path: Path) -> None:
    assert outcome(fake(tmp_path).launch(["sh", "-c", "kill -PIPE $$"])) == 128 + signal.SIGPIPE  # Python itself ignores it


@pytest.mark.parametrize(
    ("command", "error", "code"),
    [("/nonexistent/program", "No such file", 127), ("/etc/passwd", "Permission denied", 126), ("/", "Permission denied", 126)],
)
def test_what_cannot_be_run_is_told(tmp_path: Path, command: str, error: str, code: int) -> None:
    said: list[str] = []
    assert guarded([command], lambda: outcome(fake(tmp_path).launch([command])), said.append) == code
    assert len(said) == 1
    assert said[0].startswith(f"{command} cannot be run: {error}")


def test_a_cgroup_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="cannot be made"), Sandbox(Hierarchy(tmp_path / "none", True)):
        pass


def test_kill_writes_cgroup_kill_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = fake(tmp_path)
    (box.folder / "cgroup.procs").write_text("123\n")
    (box.folder / "cgroup.kill").touch()
    monkeypatch.setattr(module, "KILL_SECONDS", 0.05)
    monkeypatch.setattr(module, "send", lambda *_: pytest.fail("cgroup.kill is enough"))
    box.kill()
    assert (box.folder / "cgroup.kill").read_text() == "1"


def test_kill_freezes_and_kills_everything_below_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = fake(tmp_path)
    (box.folder / "sub").mkdir()
    (box.folder / "cgroup.procs").write_text("11\n12\n")
    (box.folder / "sub" / "cgroup.procs").write_text("13\n")
    (box.folder / "cgroup.freeze").write_text("0")
    killed: list[tuple[int, int]] = []
    frozen: list[str] = []
    close = os.close

    def kill(pidfd: int, number: int) -> None:
        pid = -pidfd
        killed.append((pid, number))
        frozen.append((box.folder / "cgroup.freeze").read_text())
        for procs in box.folder.rglob("cgroup.procs"):
            procs.write_text("".join(word + "\n" for word in procs.read_text().split() if word != str(pid)))

    monkeypatch.setattr(module.os, "pidfd_open", lambda pid: -pid)
    monkeypatch.setattr(module.os, "close", lambda fd: None if fd < 0 else close(fd))
    monkeypatch.setattr(module.signal, "pidfd_send_signal", kill)
    box.kill()
    assert sorted(killed) == [(11, signal.SIGKILL), (12, signal.SIGKILL), (13, signal.SIGKILL)]
    assert set(frozen) == {"1"}
    assert (box.folder / "cgroup.freeze").read_text() == "0"
    assert not (box.folder / "cgroup.kill").exists(), "files are never created"


def test_a_pid_that_was_used_again_is_not_signalled() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        looks = iter([[process.pid], []])
        send(lambda: next(looks), signal.SIGKILL)
        assert process.poll() is None
        send(lambda: [process.pid], signal.SIGKILL)
        assert process.wait(20) == -signal.SIGKILL


def test_remove_takes_cgroups_below_first(tmp_path: Path) -> None:
    box = Sandbox(Hierarchy(tmp_path, True))
    with box:
        (box.folder / "a" / "b").mkdir(parents=True)
    assert not box.folder.exists()


def test_remove_gives_up_on_what_does_not_go_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = fake(tmp_path)
    monkeypatch.setattr(module, "KILL_SECONDS", 0.05)
    assert box.remove() is False


def test_exit_codes_are_the_shells(tmp_path: Path) -> None:
    box = fake(tmp_path)
    assert outcome(box.launch(["sh", "-c", "kill -KILL $$"])) == 137


def getppid_gives(number: int) -> Filter:
    instructions = ((0x20, 0, 0, 0), (0x15, 0, 1, 110), (0x06, 0, 0, 0x00050000 | number), (0x06, 0, 0, 0x7FFF0000))
    return Filter(b"".join(struct.pack("=HBBI", *one) for one in instructions))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86_64 machine: the filter is for it")
def test_a_command_with_filters(tmp_path: Path) -> None:
    box = fake(tmp_path)
    script = "import os; raise SystemExit(-os.getppid())"
    assert outcome(box.launch(["/usr/bin/python3", "-c", script], [getppid_gives(7)])) == 7
    assert (box.folder / "cgroup.procs").read_text() == "0"
    with pytest.raises(FileNotFoundError):
        outcome(box.launch(["/nonexistent"], [getppid_gives(7)]))
    with pytest.raises(KernelError, match="installing the filter"):
        outcome(box.launch(["true"], [Filter(b"\xff" * 8)]))
