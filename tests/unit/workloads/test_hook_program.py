# SPDX-License-Identifier: Apache-2.0
"""The program that runtimes execute: as a hook against servers that answer, refuse, dawdle or lie; as a runtime in front of another."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.workloads import hook_program
from bpfence.workloads.hook_program import HOOK, MAX_STATE, HookError, add_hook, bundle_of, entry

PROGRAM = hook_program.__file__
ENTRY = entry("/usr/local/libexec/bpfence/hook", {"socket": "/run/s", "seconds": 2.0, "on_failure": "deny"})


def served(path: Path, answer: Callable[[socket.socket], None]) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(4)

    def serve() -> None:
        try:
            connection, _ = listener.accept()
            with connection:
                answer(connection)
        except OSError:
            pass

    threading.Thread(target=serve, daemon=True).start()
    return listener


def hook(path: Path, state: bytes, on_failure: str = "deny", seconds: float = 10) -> subprocess.CompletedProcess[bytes]:
    options = [f"--socket={path}", f"--seconds={seconds}", f"--on-failure={on_failure}"]
    return subprocess.run([sys.executable, "-IS", PROGRAM, HOOK, *options], input=state, capture_output=True, check=False, timeout=120)


def whole(connection: socket.socket) -> bytes:
    data = b""
    while part := connection.recv(65536):
        data += part
    return data


def test_the_state_goes_to_the_agent_and_its_answer_counts(tmp_path: Path) -> None:
    got: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        got.append(whole(connection))
        connection.sendall(b"o")
        connection.sendall(b"k\n")

    with served(tmp_path / "s", answer):
        done = hook(tmp_path / "s", b'{"id": "a"}')
    assert (done.returncode, done.stderr, got) == (0, b"", [b'{"id": "a"}\x0010.0'])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"no: not \x1bhere\n", b"not \\x1bhere"),
        (b"", b"no answer"),
        (b"okay\n", b"okay"),
        (b"x" * 9000, b"xxx"),
        (b"\xff\n", b"HookError"),
    ],
)
@pytest.mark.parametrize(("on_failure", "code"), [("deny", 1), ("allow", 0), ("nonsense", 1)])
def test_a_refusal_and_nonsense(tmp_path: Path, answer: bytes, said: bytes, on_failure: str, code: int) -> None:
    with served(tmp_path / "s", lambda connection: (whole(connection), connection.sendall(answer))[1]):
        done = hook(tmp_path / "s", b"{}", on_failure)
    assert done.returncode == code
    assert said in done.stderr
    assert (b"does not start" in done.stderr) == bool(code)


@pytest.mark.parametrize("dribbles", [False, True])
def test_who_does_not_answer_is_not_waited_for(tmp_path: Path, dribbles: bool) -> None:
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        while dribbles and not over.wait(0.05):
            connection.sendall(b".")
        over.wait(60)

    with served(tmp_path / "s", answer):
        began = time.monotonic()
        done = hook(tmp_path / "s", b"{}", seconds=0.5)
        over.set()
    assert done.returncode == 1
    assert time.monotonic() - began < 50


def test_no_agent_no_folder_and_too_much(tmp_path: Path) -> None:
    assert hook(tmp_path / "none", b"{}").returncode == 1
    assert hook(tmp_path / "none", b"{}", "allow").returncode == 0
    done = hook(tmp_path / "none", b"x" * (MAX_STATE + 1))
    assert done.returncode == 1
    assert b"too long" in done.stderr
    done = subprocess.run([sys.executable, "-IS", PROGRAM, HOOK], input=b"", capture_output=True, check=False)
    assert done.returncode == 1


# ---- the runtime ----


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--root /run/x create --bundle /b --pid-file p id", "/b"),
        ("--root=/run/x --log create --log-format json --systemd-cgroup create -b /b id", "/b"),
        ("run id", "."),
        ("create --bundle=/b id", "/b"),
        ("create id", "."),
        ("restore --image-path run --bundle /b id", "/b"),
        ("create --bundle", "."),
        ("--cgroup-manager cgroupfs state id", None),
        ("exec id run", None),
        ("delete --force create", None),
        ("--version", None),
        ("", None),
    ],
)
def test_the_bundle_of_a_command(line: str, expected: str | None) -> None:
    assert bundle_of(line.split()) == expected


def made(folder: Path, config: Any) -> Path:
    path = folder / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


@pytest.mark.parametrize(
    "hooks", [None, {}, {"createRuntime": None}, {"createRuntime": [{"path": "/other"}], "poststop": [{"path": "/x"}]}]
)
def test_a_bundle_gets_the_hook_before_others_and_once(tmp_path: Path, hooks: Any) -> None:
    path = made(tmp_path, {"hooks": hooks, "process": {"args": ["ü"]}})
    path.chmod(0o640)
    add_hook(str(path), ENTRY)
    add_hook(str(path), ENTRY)
    config = json.loads(path.read_text())
    assert config["hooks"]["createRuntime"] == [ENTRY, *((hooks or {}).get("createRuntime") or [])]
    assert config["process"] == {"args": ["ü"]}
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("config", ["", "[]", "3", '{"hooks": []}', '{"hooks": {"createRuntime": {}}}', "[" * 100_000, "\x00"])
def test_a_broken_bundle_stays_as_it_is(tmp_path: Path, config: str) -> None:
    path = made(tmp_path, config)
    with pytest.raises((ValueError, RecursionError, HookError)):
        add_hook(str(path), ENTRY)
    assert path.read_text() == config
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]


@given(st.lists(st.sampled_from(["create", "run", "--root", "-b", "--bundle", "--bundle=", "--log=x", "", "-", "--", "id"]), max_size=8))
def test_any_words(words: list[str]) -> None:
    assert bundle_of(words) is None or "create" in words or "run" in words


class Wrapped:
    """A copy of the program in front of a script that tells how it was called."""

    def __init__(self, folder: Path, on_failure: str = "deny") -> None:
        self.folder = folder
        self.own = folder / "wrapped"
        self.own.write_text(f"#!{sys.executable} -IS\n" + Path(PROGRAM).read_text())
        self.own.chmod(0o755)
        real = folder / "real"
        real.write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@"; grep SigIgn /proc/$$/status; cat; exit 7\n')
        real.chmod(0o755)
        settings = {"runtime": str(real), "socket": "/run/s", "seconds": 2.5, "on_failure": on_failure}
        (folder / "wrapped.json").write_text(json.dumps(settings))

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.own, *words], input="in", capture_output=True, text=True, check=False, cwd=self.folder, timeout=120)


def test_the_real_runtime_gets_everything(tmp_path: Path) -> None:
    made(tmp_path, {})
    done = Wrapped(tmp_path)("--root", "/x y", "create", "--bundle", str(tmp_path), "id")
    *words, ignored, given_in = done.stdout.split("\n")
    assert (done.returncode, done.stderr, given_in) == (7, "", "in")
    assert words == [str(tmp_path / "real"), "--root", "/x y", "create", "--bundle", str(tmp_path), "id"]
    assert not int(ignored.split()[1], 16) & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1))
    (added,) = json.loads((tmp_path / "config.json").read_text())["hooks"]["createRuntime"]
    assert added == {
        "path": str(tmp_path / "wrapped"),
        "args": [str(tmp_path / "wrapped"), HOOK, "--socket=/run/s", "--seconds=2.5", "--on-failure=deny"],
        "timeout": 5,
    }


def test_other_commands_change_nothing(tmp_path: Path) -> None:
    path = made(tmp_path, {})
    assert Wrapped(tmp_path)("state", "id").returncode == 7
    assert path.read_text() == "{}"


@pytest.mark.parametrize(("on_failure", "code"), [("deny", 1), ("allow", 7)])
def test_a_bundle_that_takes_no_hook(tmp_path: Path, on_failure: str, code: int) -> None:
    made(tmp_path, "[]")
    log = tmp_path / "log"
    done = Wrapped(tmp_path, on_failure)("--log", str(log), "create", "id")
    assert done.returncode == code
    assert "no hook could be added" in done.stderr
    assert not log.exists() if code == 7 else json.loads(log.read_text())["level"] == "error"


@pytest.mark.parametrize("settings", ["", "[]", "{}", '{"runtime": "/nowhere", "socket": "", "seconds": 1, "on_failure": "allow"}'])
def test_broken_settings_start_nothing(tmp_path: Path, settings: str) -> None:
    wrapped = Wrapped(tmp_path)
    made(tmp_path, {})
    (tmp_path / "wrapped.json").write_text(settings)
    done = wrapped("create", "id")
    assert done.returncode == 1
    assert "bpfence" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_stands_alone() -> None:
    imports = subprocess.run(
        [sys.executable, "-IS", "-X", "importtime", PROGRAM, HOOK], input="", capture_output=True, text=True, check=False
    ).stderr
    assert "_socket" in imports
    assert not {"socket", "json", "re", "enum", "pathlib"} & {line.rpartition("|")[2].strip() for line in imports.splitlines()}
    assert os.access(PROGRAM, os.R_OK)
