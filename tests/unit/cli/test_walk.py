# SPDX-License-Identifier: Apache-2.0
"""Every command as those call it who may not, who mistype, and who send what it prints where it cannot go: never a traceback.

`main` turns a bug into a message; what is asserted here is that there is neither.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpfence.cli import host as host_commands
from bpfence.cli.main import BUG, cli, main
from tests.unit.agent.fakes import write_policy

ROOT = Path(__file__).resolve().parents[3]
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
WITHOUT_BPF = ("setpriv", "--bounding-set=-bpf,-sys_admin,-perfmon")
OUTER_WORLD = frozenset({"run", "exec", "status", "unload", "doctor", "hook", "workloads", "service", "policy", "top"})
"""Commands that look at this host or act on it."""


def commands(group: click.Group = cli, *before: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that name it."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *before, name)
        else:
            yield (*before, name), command


PURE = [(words, command) for words, command in commands() if words[0] not in OUTER_WORLD and words[-1] not in ("run", "learn", "supervise")]


def shell(line: str, *, prefix: tuple[str, ...] = (), cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of a line in which `bpfence` is the command."""
    bpfence = shlex.join((*prefix, sys.executable, "-m", "bpfence"))
    made = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run(
        ["bash", "-c", line.replace("bpfence ", bpfence + " ", 1)],
        env=made,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def clean(text: str) -> None:
    assert "Traceback" not in text
    assert "bug in bpfence" not in text
    assert "Exception ignored" not in text


# ---- who may not ----


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that only root can look into, with a policy in it, in one that all can; pytest's own folders are for one user alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "closed"
        folder.mkdir(mode=0o700)
        write_policy(folder / "a.yaml")
        yield folder


UNPRIVILEGED = [
    ("doctor", 3, "could not tell"),
    ("doctor --json", 3, '"enforcement": "unknown"'),
    ("doctor --try", 3, "sudo bpfence doctor"),
    ("status --pin-dir {closed}", 3, "run as root"),
    ("unload --pin-dir {closed}", 3, "not in a BPF file system"),
    ("unload --pin-dir {closed}/x", 3, "run as root"),
    ("unload --pin-dir {closed}/x --json", 3, '"hint": "run as root"'),
    ("unload --pin-dir /nowhere/at/all", 0, "nothing was loaded"),
    ("run -p {policy}", 3, "needs CAP_BPF"),
    ("run -p {policy} --no-pin", 3, "needs CAP_BPF"),
    ("run -p {policy} --output jsonl:{closed}/x", 2, "Permission denied"),
    ("exec -p {policy} -- true", 3, "run as root"),
    ("check {closed}", 2, "not readable"),
    ("test -p {policy} {closed}/a.yaml", 2, "does not exist"),
    ("seccomp learn -o {closed}/x -- true", 3, "CAP_BPF"),
]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(("line", "code", "said"), UNPRIVILEGED)
def test_as_nobody(line: str, code: int, said: str, closed: Path) -> None:
    write_policy(closed.parent / "p.yaml")
    done = shell("bpfence " + line.format(closed=closed, policy=closed.parent / "p.yaml"), prefix=NOBODY)
    clean(done.stdout + done.stderr)
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to give up")
@pytest.mark.parametrize("line", ["doctor", "run -p {policy} --no-pin", "unload --pin-dir /nowhere", "status --pin-dir /proc/1"])
def test_as_root_without_the_capabilities_for_bpf(line: str, tmp_path: Path) -> None:
    done = shell("bpfence " + line.format(policy=write_policy(tmp_path / "p.yaml")), prefix=WITHOUT_BPF)
    clean(done.stdout + done.stderr)


@pytest.mark.parametrize("folder", ["", ".", "relative", "{here}", "{here}/file", "{here}/" + "a" * 5000])
def test_unload_and_status_touch_nothing_but_pins(folder: str, tmp_path: Path) -> None:
    """A folder of files is no pin folder, whoever names it."""
    precious = tmp_path / "below" / "link_precious"
    precious.parent.mkdir()
    precious.write_text("x")
    (tmp_path / "file").write_text("x")
    for command in ("unload", "status"):
        done = shell(f"bpfence {command} --pin-dir {shlex.quote(folder.format(here=tmp_path))}", cwd=tmp_path)
        clean(done.stdout + done.stderr)
        assert done.returncode == 3, done.stdout
    assert precious.exists()


PINNED = """
import os, subprocess, sys
from pathlib import Path
from bpfence.kernel import libbpf
place = Path(sys.argv[1])
libbpf.mount_bpffs(place)
os.chmod(place, int(sys.argv[2], 8))
(place / "bpfence" / "0-lsm").mkdir(parents=True, mode=0o700)
os.chmod(place / "bpfence", 0o700)
become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
done = subprocess.run([*become, sys.executable, "-m", "bpfence", sys.argv[3], "--pin-dir", str(place / "bpfence")], check=False)
sys.exit(done.returncode if (place / "bpfence" / "0-lsm").is_dir() else 99)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("mode", ["1777", "700"])
@pytest.mark.parametrize("command", ["unload", "status"])
def test_as_nobody_where_something_is_pinned(command: str, mode: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", PINNED, place, mode, command],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )
    if "mounting the BPF file system" in done.stderr:
        pytest.skip("no BPF file system can be mounted here")
    clean(done.stdout + done.stderr)
    assert (done.returncode, "run as root" in done.stderr) == (3, True), done.stderr


# ---- where it cannot be printed ----

PRINTING = ("doctor", "explain examples/policies", "nonsense")


@pytest.mark.parametrize("line", PRINTING)
@pytest.mark.parametrize("where", [">&-", ">/dev/full", "| head -c 1", "2>&-", "2>/dev/full >/dev/null", "<&- >&- 2>&-"])
def test_output_that_goes_nowhere(line: str, where: str) -> None:
    done = shell(f"bpfence {line} {where}")
    clean(done.stdout + done.stderr)
    if where == ">/dev/full" and line != "nonsense":
        assert "No space left on device" in done.stderr
        assert done.returncode == 2


@pytest.mark.parametrize("line", PRINTING)
def test_a_dumb_narrow_terminal_that_only_knows_ascii(line: str) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii", "TERM": "dumb", "COLUMNS": "1"}
    done = shell(f"bpfence {line}", **ascii_only)
    clean(done.stdout + done.stderr)


# ---- who mistypes ----


def called(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["bpfence", *arguments])
    code = main()
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "--json"], ["check", "--json", "/nowhere"], ["explain", "--json", "--no-such-option"], ["chekc", "--json"],
        ["fields", "--json", "--source", "moon"], ["seccomp", "check", "--json"], ["status", "--json", "extra"],
        ["unload", "--json", "--pin-dir", "relative"],
    ],
)  # fmt: skip
def test_mistakes_are_json_where_json_was_asked_for(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = called(arguments, monkeypatch, capsys)
    assert code in (2, 3)
    assert json.loads(out)["error"]
    assert "hint" in json.loads(out)
    assert err == ""


def test_json_after_two_dashes_is_the_commands_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = called(["exec", "--", "jq", "--json"], monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert "--policy" in err


def test_a_bug_is_a_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("hidden\x1b[2J")

    monkeypatch.setattr(host_commands, "_described", bug)
    monkeypatch.setattr("bpfence.kernel.engine.inspect", lambda _: [1])
    code, out, err = called(["status"], monkeypatch, capsys)
    assert (code, out) == (BUG, "")
    assert "this is a bug in bpfence: ZeroDivisionError: hidden\\x1b[2J" in err
    assert "cli/host.py" in err
    assert "Traceback" not in err
    monkeypatch.setenv("BPFENCE_DEBUG", "1")
    assert "Traceback" in called(["status"], monkeypatch, capsys)[2]


ODD_WORDS = [
    "-", "--", "", " ", "a\nb", "é" * 300, "-1", "99999999999999999999", "{}", "[]", '{"event":1}', '{"event":"exec"}', "null", "%",
    "%proc.name", "*", "[", "/", "/dev/null", "/proc/self/mem", "/proc/self/environ", "examples", "examples/policies",
    "examples/policies/fork-bomb-guard.yaml", "\udcff", "a" * 5000, "\x1b[31m",
]  # fmt: skip
WORDS = st.one_of(
    st.sampled_from(ODD_WORDS),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),  # NUL cannot be in an argument
)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command that does not touch the host, with options of its own and arguments of nobody's."""
    words, command = draw(st.sampled_from(PURE))
    options = [option for parameter in command.params if isinstance(parameter, click.Option) for option in parameter.opts]
    rest = draw(st.lists(st.one_of(WORDS, st.sampled_from(options or ["-h"])), max_size=5))
    return [*words, *(word for word in rest if word not in ("-o", "--output", "--write", "--in-place"))]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(command_lines())
def test_fuzzed_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: list[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    code, out, err = called(line, monkeypatch, capsys)
    clean(out + err)
    assert code in (0, 1, 2, 3), err
