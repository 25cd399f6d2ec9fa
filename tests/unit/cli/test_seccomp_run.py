# SPDX-License-Identifier: Apache-2.0
"""`bpfence seccomp run, learn, supervise`: what their arguments mean. What they do is in tests/seccomp."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bpfence.cli import seccomp_run
from bpfence.cli.seccomp_run import COMMANDS, learn, responses
from bpfence.confine import learn as seccomp_learn
from bpfence.confine.learn import Recording
from bpfence.confine.supervise import Response, ResponseKind
from bpfence.errors import UsageError
from bpfence.seccomp.learned import Seen
from bpfence.syscalls.architectures import Arch


def test_every_command_helps_with_examples() -> None:
    for command in COMMANDS:
        done = CliRunner().invoke(command, ["--help"])
        assert done.exit_code == 0
        assert "Examples:" in done.output


def test_answers() -> None:
    by_name, otherwise = responses(("mount=errno:EACCES", "bpf=kill", "keyctl=allow-once", "*=log"))
    assert by_name == {
        "mount": Response(ResponseKind.ERRNO, 13),
        "bpf": Response(ResponseKind.KILL),
        "keyctl": Response(ResponseKind.ALLOW_ONCE),
    }
    assert otherwise == Response(ResponseKind.LOG)
    assert responses(()) == ({}, Response(ResponseKind.ERRNO))


@pytest.mark.parametrize("word", ["mount", "mount=", "=log", "mount=maybe", "mount=log:EPERM", "mount=errno:NO", "no_such=log", "\x1b=log"])
def test_answers_that_cannot_be_read(word: str) -> None:
    with pytest.raises(UsageError, match="--answer") as error:
        responses((word,))
    assert "\x1b" not in str(error.value)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []

    def record(command: tuple[str, ...], *_: object, **__: object) -> Recording:
        calls.append(command[0])
        if command[0] == "missing":
            raise FileNotFoundError(2, "No such file or directory")
        return Recording(3, frozenset({Seen(Arch.X86_64, 59), Seen(Arch.X86_64, 1000)}), out_of_range=1)

    monkeypatch.setattr(seccomp_learn, "record", record)
    monkeypatch.setattr(seccomp_run, "hierarchy", lambda: None)
    return calls


def test_learn_writes_tells_and_gives_the_exit_code(recorded: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = CliRunner().invoke(learn, ["--json", "-o", str(out), "--", "cmd", "--flag"], standalone_mode=False)
    assert done.return_value == 3
    assert recorded == ["cmd"]
    assert "execve" in json.loads(out.read_text())["syscalls"][0]["names"]
    assert out.stat().st_mode & 0o777 == 0o644
    for said in ("call 1000 of x86_64 has no name", "1 calls out of range", "ended with 3", f"written to {out}"):
        assert said in done.output


def test_learn_merges(recorded: list[str], tmp_path: Path) -> None:
    old, out = tmp_path / "old.json", tmp_path / "out.json"
    old.write_text('{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ALLOW"}]}')
    CliRunner().invoke(learn, ["--merge", str(old), "-o", str(out), "cmd"])
    names = {name for rule in json.loads(out.read_text())["syscalls"] for name in rule["names"]}
    assert {"mount", "execve"} <= names


def test_what_cannot_be_merged_is_said_before_the_command_runs(recorded: list[str], tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    done = CliRunner().invoke(learn, ["--merge", str(old), "cmd"])
    assert done.exit_code == 2
    assert recorded == []


def test_learn_of_what_cannot_be_run(recorded: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = CliRunner().invoke(learn, ["-o", str(out), "missing"], standalone_mode=False)
    assert done.return_value == 127
    assert not out.exists()


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"defaultAction": "SCMP_ACT_ERRNO"}')
    for words in (["--merge", str(path)], ["--for", "runc"], ["--duration", "1"], ["--no-cgroup"]):
        assert CliRunner().invoke(learn, ["--audit", str(path), *words, "true"]).exit_code == 2


def test_a_place_that_cannot_be_written(recorded: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(learn, ["-o", str(tmp_path / "none" / "out.json"), "cmd"])
    assert done.exit_code == 2
    assert "cannot be written" in done.output
