# SPDX-License-Identifier: Apache-2.0
"""policy, top, status and the live view, asked of an agent whose kernel is made of lists."""

from __future__ import annotations

import itertools
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bpfence.cli.control import _rated, _shown
from bpfence.cli.main import cli
from bpfence.errors import KernelError
from bpfence.host.sockets import listening
from bpfence.kernel.measured import Measured
from bpfence.rpc import lines
from bpfence.services import control
from tests.unit.agent.fakes import write_policy
from tests.unit.services.control_rig import WAIT, Rig, native
from tests.unit.waiting import readable


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, write_policy(tmp_path / "guard.yaml"))
    yield made
    made.close()


def call(rig: Rig | Path, *args: object) -> Result:
    path = rig.path if isinstance(rig, Rig) else rig
    return CliRunner().invoke(cli, [*map(str, args), "--socket", str(path)], standalone_mode=False)


def shown(rig: Rig, *args: object) -> str:
    result = call(rig, *args)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_policies_are_shown_added_set_and_removed(rig: Rig, tmp_path: Path) -> None:
    assert "guard   enforce  native    1      0        " in shown(rig, "policy", "list")
    (tmp_path / "mine.yaml").write_text(native("mine", "audit"))
    assert shown(rig, "policy", "add", tmp_path / "mine.yaml") == "added: mine\n"
    assert f"added: {tmp_path}/mine.yaml:2:1" in shown(rig, "policy", "list")
    assert [one["name"] for one in json.loads(shown(rig, "policy", "list", "--json"))["policies"]] == ["guard", "mine"]
    assert shown(rig, "policy", "set-mode", "guard", "mine", "audit") == "in mode audit: guard, mine\n"
    told = shown(rig, "policy", "show", "guard")
    assert "audit, set at the control socket" in told
    assert "audit (would deny)" in told
    assert shown(rig, "policy", "set-mode", "guard", "declared") == "as declared: guard\n"
    assert json.loads(shown(rig, "policy", "show", "guard", "--json"))["rules"][0]["action"] == "deny"
    assert shown(rig, "policy", "remove", "mine") == "removed: mine\n"
    assert json.loads(shown(rig, "policy", "set-mode", "guard", "enforce", "--json")) == {"policies": ["guard"], "mode": "enforce"}
    assert rig.modes() == {"guard": "enforce"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "other"), "error: there is no policy 'other' in force"),
        (("remove", "guard"), "was not added here"),
        (("add", "bad.yaml"), "bad.yaml:8:"),
        (("add", "guard.yaml"), "already is a policy 'guard'"),
        (("add", "latin.yaml"), "no UTF-8"),
    ],
)
def test_a_refusal_is_told_as_if_it_were_found_here(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(native("bad").replace("match:", "macht:"))
    (tmp_path / "latin.yaml").write_bytes(b"apiVersion: \xe9\n")
    result = call(rig, "policy", *words)
    assert result.return_value == 2
    assert said in result.stderr


def test_lines_are_shown_for_people_and_as_json(rig: Rig) -> None:
    rig.kernel.engine.say(pid=os.getpid())
    rig.until(lambda: len(rig.service.clients.last()) > 1)
    told = shown(rig, "events", "--policy", "gu*", "--severity", "medium")
    assert "medium   deny  guard/secret  no /secret/a" in told
    assert "\x1b" not in told
    [line] = shown(rig, "events", "--last", "1", "--json").splitlines()
    assert json.loads(line)["policy"] == "guard"
    assert "in force" in shown(rig, "events", "--last", "512")
    assert "deny" not in shown(rig, "events", "--action", "kill")


def test_the_list_of_events_is_as_it_was() -> None:
    runner = CliRunner()
    assert "file.unlink" in runner.invoke(cli, ["events", "unlink"], standalone_mode=False).output
    refused = runner.invoke(cli, ["events", "unlink", "--follow"], standalone_mode=False)
    assert refused.return_value == 2
    too_long = runner.invoke(cli, ["events", "--policy", "x" * 1000], standalone_mode=False)
    assert too_long.return_value == 2
    assert "takes no such filter" in too_long.stderr


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_are_followed_until_the_agent_ends(tmp_path: Path, terminal: bool) -> None:
    rig = Rig(tmp_path, write_policy(tmp_path / "guard.yaml"))
    ours, theirs = pty.openpty() if terminal else os.pipe()
    command = [sys.executable, "-m", "bpfence", "events", "-f", "--socket", str(rig.path), *([] if terminal else ["--json"])]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200"}
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=environment) as follower:
        os.close(theirs)
        rig.until(lambda: rig.service.clients)
        rig.kernel.engine.say(pid=os.getpid())
        seen = b""
        while b"/secret/a" not in seen or not seen.endswith(b"\n"):
            assert readable(ours, WAIT)
            seen += os.read(ours, 65536)
        rig.close()
        assert follower.wait(WAIT) == 0
        assert follower.stderr is not None
        assert b"the agent has ended" in follower.stderr.read()
    os.close(ours)
    if terminal:
        assert b"\x1b[" in seen
    else:
        assert {json.loads(line)["kind"] for line in seen.splitlines()} == {"status", "alert"}


def test_a_view_that_the_agent_has_put_out_is_told_from_its_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    real = lines.asked

    def cut(path: Path, request: bytes, seconds: float | None) -> Iterator[bytes]:
        """Streams end after their first line, as where another client has taken the place."""
        return itertools.islice(real(path, request, seconds), 1) if b"follow" in request else real(path, request, seconds)

    monkeypatch.setattr(lines, "asked", cut)
    result = call(rig, "events", "--follow")
    assert result.return_value == 3
    assert "the agent goes on, and has ended this connection" in result.stderr


def test_lines_of_a_later_version_are_shown_as_they_are() -> None:
    assert _shown(b'{"kind":"new","\\u001b[31m":1}').plain == '{"kind":"new","\\u001b[31m":1}'
    assert _shown(b'{"kind":"status","time":"2026-01-01T10:00:00.5Z","status":"s","message":"m","host":"h","newer":1}').plain.endswith(
        "s m"
    )
    assert _shown(b"\x1b[31mno").plain == r"\x1b[31mno"


def test_top_shows_rates_and_costs(rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bpf_stats_enabled").write_text("1\n")
    monkeypatch.setattr("bpfence.agent.metrics.STATISTICS", tmp_path / "bpf_stats_enabled")
    program = next(name for name, events in control.EVENTS_OF.items() if "file.open" in events)
    rig.kernel.engine.measures = Measured(counters={"denied": 3}, programs={program: (10, 5000)})
    look = json.loads(shown(rig, "top", "--once", "--interval", "0.2", "--json"))
    assert look["statistics"] is True
    assert [(one["name"], one["matched_rate"], one["cost"]) for one in look["policies"]] == [("guard", 0.0, 0.0)]
    told = shown(rig, "top", "--once", "--interval", "0.2", "--sort", "cost")
    assert "policy  mode     match/s  matched  deny/s  denied  cost" in told
    assert program in told
    assert "\x1b" not in told
    rig.kernel.engine.measures = Measured()
    rig.service._measured = float("-inf"), Measured()
    (tmp_path / "bpf_stats_enabled").write_text("0\n")
    assert "kernel.bpf_stats_enabled=1" in shown(rig, "top", "--once", "--interval", "0.2")


def test_rates_are_those_of_the_time_between_two_looks() -> None:
    def look(time: int, matched: int, spent: int, **more: object) -> dict[str, object]:
        one = {"name": "p", "mode": "audit", "matched": matched, "denied": 0, "spent": spent}
        return {
            "time": time * 10**9, "events": {"file.open": matched}, "decisions": {"denied": 0}, "lost": 0, "statistics": True,
            "policies": [one], "programs": {"a": (matched, spent)}, **more,
        }  # fmt: skip

    rated = _rated(look(1, 10, 0), look(3, 30, 20_000_000))
    assert rated["seconds"] == 2.0
    assert rated["events"] == {"file.open": 10.0}
    assert (rated["policies"][0]["matched_rate"], rated["policies"][0]["cost"]) == (10.0, 1.0)
    assert rated["programs"]["a"] == {"runs_rate": 10.0, "spent_rate": 10_000_000.0}
    assert _rated(look(1, 10, 9), look(2, 0, 0))["policies"][0]["matched_rate"] == 0.0  # a new agent


def test_top_on_a_terminal_replaces_its_view(rig: Rig) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "bpfence", "top", "--interval", "0.2", "--socket", str(rig.path)]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm-256color"}) as top:
        os.close(theirs)
        seen = b""
        while seen.count(b"match/s") < 2:
            assert readable(ours, WAIT)
            seen += os.read(ours, 65536)
        top.send_signal(2)
        assert top.wait(WAIT) == 0
    os.close(ours)
    assert b"\x1b[?1049h" in seen


def test_status_tells_what_the_agent_says(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: str) -> list[object]:
        raise KernelError("no right to look")

    monkeypatch.setattr("bpfence.kernel.engine.inspect", lambda _: [])
    assert "0.0 of a test" in shown(rig, "status")
    monkeypatch.setattr("bpfence.kernel.engine.inspect", refused)
    told = json.loads(shown(rig, "status", "--json"))
    assert (told["loaded"], told["agent"]["policies"]) == (False, 1)
    nobody = call(rig.path.parent / "other", "status")
    assert nobody.return_value == 3
    assert "no right to look" in nobody.stderr


def test_status_does_not_wait_for_an_agent_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bpfence.kernel.engine.inspect", lambda _: [])
    monkeypatch.setattr("bpfence.cli.host.STATUS_SECONDS", 0.1)
    with listening(tmp_path / "hangs", 4):
        result = call(tmp_path / "hangs", "status")
    assert (result.return_value, "nothing is loaded" in result.stdout) == (1, True)
    assert "does not answer in time" in result.stderr


def test_a_request_that_is_too_long_is_told(rig: Rig, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.yaml").write_text(native(name) + "#" * (lines.MAX_REQUEST // 2))
    refused = call(rig, "policy", "add", *(tmp_path / f"{name}.yaml" for name in ("one", "two", "three")))
    assert refused.return_value == 3
    assert "too long" in refused.stderr
    assert "no agent answers" not in refused.stderr


def test_no_agent_no_right_and_no_answer_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = call(tmp_path / "none", "policy", "list")
    assert nobody.return_value == 3
    assert "no agent answers at" in nobody.stderr
    assert "bpfence run --control-socket" in nobody.stderr

    def denied(*_: object) -> Iterator[bytes]:
        raise PermissionError(13, "Permission denied")
        yield b""

    with monkeypatch.context() as patched:
        patched.setattr(lines, "asked", denied)
        refused = call(tmp_path / "none", "top")
    assert refused.return_value == 3
    assert "--control-group" in refused.stderr
    with listening(tmp_path / "other", 4) as other:

        def talk(answer: bytes) -> None:
            connection, _ = other.accept()
            connection.sendall(answer)
            connection.close()

        for answer in (b"", b"rubbish\n", b"[" * 100000 + b"\n", b'{"result":[]}\n', b'{"error":{}}\n'):
            speaker = threading.Thread(target=talk, args=(answer,))
            speaker.start()
            result = call(tmp_path / "other", "policy", "list")
            speaker.join()
            assert result.return_value in (2, 3), answer
            assert "error: " in result.stderr
