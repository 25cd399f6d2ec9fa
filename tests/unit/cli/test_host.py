# SPDX-License-Identifier: Apache-2.0
"""run, exec, status, unload and doctor, with a kernel made of lists."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import msgspec
import pytest
from click.testing import CliRunner, Result

from bpfence import abi
from bpfence.abi import EVENT_RESULT
from bpfence.agent.generations import Counted, Counts, Generation, Generations, StartCost, state_path
from bpfence.agent.loading import load
from bpfence.alerts.alert import RuleInfo
from bpfence.cli import host
from bpfence.cli.control import answered
from bpfence.cli.main import cli, version_text
from bpfence.compiler.compile import Compiled, compile_policies
from bpfence.compiler.explain import explain
from bpfence.dialects.falco.options import FalcoOptions
from bpfence.errors import KernelError
from bpfence.events.process import read_boot_id
from bpfence.host.cgroups import Hierarchy
from bpfence.host.service import notify
from bpfence.kernel.engine import LoadCost
from bpfence.policy import Action, Op, atoms
from bpfence.services.requests import Status
from tests.unit.agent.fakes import FakeEngine, FakeKernel, write_policy
from tests.unit.agent.falco_rig import RULES, FakeEvents, verdict_of
from tests.unit.cli.exec_rig import FolderSandbox
from tests.unit.events.samples import record
from tests.unit.k8s.samples import as_stored, made
from tests.unit.k8s.server import Answer, Asked, FakeServer, listed
from tests.unit.services.client import Client
from tests.unit.services.watcher import Watcher

PYTHON: Final = "/usr/bin/python3"


def call(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args], standalone_mode=False)


def code(result: Result) -> int:
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.return_value if isinstance(result.return_value, int) else result.exit_code


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return write_policy(tmp_path / "p.yaml")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeKernel:
    made = FakeKernel()
    monkeypatch.setattr(host, "kernel", lambda *_: made)
    monkeypatch.setattr(host, "container_sources", lambda *_: None)
    monkeypatch.setattr("bpfence.agent.generations.STATE_DIR", tmp_path / "state")
    monkeypatch.setattr("bpfence.agent.privileges.drop", lambda **_: None)
    return made


# ---- run ----


KUBECONFIG: Final = """
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: k, cluster: {server: "%s"}}]
users: [{name: u, user: {token: secret}}]
contexts: [{name: c, context: {cluster: k, user: u}}]
"""


def test_run_with_the_policies_of_a_cluster(kernel: FakeKernel, tmp_path: Path) -> None:
    def respond(asked: Asked) -> Answer:
        if "watch" in asked.query:
            return Answer(lines=[30])
        return listed("1", *([as_stored(made())] if asked.path.endswith("/securitypolicies") else []))

    server = FakeServer(respond)
    (tmp_path / "kubeconfig").write_text(KUBECONFIG % server.api._host)
    stopper = stop_when_ready(tmp_path / "ready")
    result = call(
        "run",
        "--kubernetes",
        "--kubeconfig",
        tmp_path / "kubeconfig",
        "--node",
        "n1",
        "--kubernetes-cache",
        tmp_path / "cache" / "k.json",
        "--no-pin",
        "--output",
        f"jsonl:{tmp_path}/a.jsonl",
        "--ready-file",
        tmp_path / "ready",
    )
    stopper.join()
    server.close()
    assert code(result) == 0
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])["policies"] == ["shop/guard"]
    assert next(asked.query["fieldSelector"] for asked in server.asked if asked.path.endswith("/pods")) == "spec.nodeName=n1"


@pytest.mark.parametrize("denied", [False, True])
def test_run_leaves_events_out_of_tetragons_form(denied: bool, kernel: FakeKernel, tmp_path: Path) -> None:
    write_policy(tmp_path / "p.yaml")
    (tmp_path / "deny").write_text('{"event_set": ["PROCESS_LSM"]}\n' if denied else '{"pid": [1]}\n')
    stopper = stop_when_ready(tmp_path / "ready", lambda: kernel.engine.say(pid=412))
    words = ("-p", tmp_path / "p.yaml", "--no-pin", "--keep-privileges", "--ready-file", tmp_path / "ready", "--format", "tetragon")
    result = call("run", *words, "--export-denylist", f"@{tmp_path}/deny", "--export-fields", '{"fields": "function_name"}')
    stopper.join()
    assert code(result) == 0
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["process_lsm"] for event in told if "process_lsm" in event] == ([] if denied else [{"function_name": "file.open"}])
    assert any("bpfence_status" in event for event in told)


def test_run_answers_clients_of_tetragon(kernel: FakeKernel, tmp_path: Path) -> None:
    socket = tmp_path / "tetragon" / "tetragon.sock"
    versions = []

    def ask() -> None:
        versions.append(Client(socket).call("GetVersion").version)

    stopper = stop_when_ready(tmp_path / "ready", ask)
    words = ("--tetragon-socket", socket, "--no-pin", "--keep-privileges", "--ready-file", tmp_path / "ready")
    result = call("run", *words, "--output", f"jsonl:{tmp_path}/a.jsonl")
    stopper.join()
    assert code(result) == 0
    assert versions == [version_text()]
    assert not socket.exists()


@pytest.mark.parametrize("throttled", [False, True])
def test_run_throttles_alerts_in_kubearmors_form(throttled: bool, kernel: FakeKernel, tmp_path: Path) -> None:
    write_policy(tmp_path / "p.yaml")
    stopper = stop_when_ready(tmp_path / "ready", lambda: [kernel.engine.say(pid=412) for _ in range(5)])
    words = ("-p", tmp_path / "p.yaml", "--no-pin", "--keep-privileges", "--ready-file", tmp_path / "ready", "--format", "kubearmor")
    words = (*words, *(("--alert-throttling", "on", "--max-alert-per-sec", "2", "--throttle-sec", "3600") if throttled else ()))
    result = call("run", *words)
    stopper.join()
    assert code(result) == 0
    told = [line["Type"] for line in map(json.loads, result.stdout.splitlines()) if "PolicyName" in line]
    assert told == ["MatchedHostPolicy"] * 2 + ["SystemEvent"] if throttled else ["MatchedHostPolicy"] * 5
    assert ("2 alerts of the host were left out after 2 in a second" in result.stderr) is throttled


def test_run_needs_no_policy_to_make_the_host_visible(kernel: FakeKernel, tmp_path: Path) -> None:
    stopper = stop_when_ready(tmp_path / "ready")
    words = ("--no-pin", "--keep-privileges", "--ready-file", tmp_path / "ready", "--output", f"jsonl:{tmp_path}/a.jsonl")
    result = call("run", "--host-visibility", "process", *words)
    stopper.join()
    assert code(result) == 0
    started = next(line for line in map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines()) if line.get("status") == "started")
    assert started["policies"] == ["KubeArmor/Visibility"]


def test_run_answers_clients_of_kubearmor(kernel: FakeKernel, tmp_path: Path) -> None:
    write_policy(tmp_path / "p.yaml")
    socket = tmp_path / "kubearmor" / "sock"
    seen = []

    def ask() -> None:
        client = Watcher(f"unix://{socket}")
        with client.watching("WatchAlerts", "policy") as stream:
            kernel.engine.say(pid=412)
            seen.append(next(stream).HostPID)

    stopper = stop_when_ready(tmp_path / "ready", ask)
    words = ("--kubearmor-service", f"unix:{socket}", "--no-pin", "--keep-privileges", "--ready-file", tmp_path / "ready")
    result = call("run", "-p", tmp_path / "p.yaml", *words, "--output", f"jsonl:{tmp_path}/a.jsonl")
    stopper.join()
    assert code(result) == 0
    assert seen == [412]
    assert not socket.exists()


def test_run_answers_at_its_control_socket(kernel: FakeKernel, tmp_path: Path) -> None:
    socket = tmp_path / "own" / "control.sock"
    told = []

    def ask() -> None:
        told.append(answered(socket, Status()))

    stopper = stop_when_ready(tmp_path / "ready", ask)
    words = ("--control-socket", socket, "--control-user", "nobody", "--control-group", os.getegid(), "--no-pin", "--keep-privileges")
    result = call("run", *words, "--ready-file", tmp_path / "ready", "--output", f"jsonl:{tmp_path}/a.jsonl")
    stopper.join()
    assert code(result) == 0
    assert told[0]["agent"] == version_text()
    assert not socket.exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-p", "examples/policies", "--kubearmor-group", "daemon"], "add --kubearmor-service"),
        (["-p", "examples/policies", "--kubearmor-service-public"], "add --kubearmor-service"),
        (["-p", "examples/policies", "--kubearmor-service", "127.0.0.1:1", "--kubearmor-group", "daemon"], "about a unix socket"),
        (["-p", "examples/policies", "--kubearmor-service", "/run/a"], "it takes unix:PATH, or HOST:PORT"),
        (["-p", "examples/policies", "--kubearmor-service", "0.0.0.0:32767"], "With --kubearmor-service-public that is no mistake"),
        (["-p", "examples/policies", "--tetragon-group", "daemon"], "add --tetragon-socket"),
        (["-p", "examples/policies", "--control-group", "daemon"], "--control-group is about a socket: add --control-socket"),
        (["-p", "examples/policies", "--control-user", "daemon"], "--control-user is about a socket: add --control-socket"),
        (["--control-socket", "/tmp/a/sock", "--control-user", "daemon"], "nobody but root can connect: add --control-group"),
        (
            ["--control-socket", "/tmp/a/sock", "--control-user", "nobody-has-this", "--control-group", "daemon"],
            "there is no user nobody-has-this",
        ),
        (["-p", "examples/policies", "--export-denylist", '{"pid": [1]}'], "add --format tetragon"),
        (["-p", "examples/policies", "--export-redact", '{"redact": ["(a)"]}'], "add --format tetragon"),
        (
            ["-p", "examples/policies", "--format", "tetragon", "--export-allowlist", "@/nowhere"],
            "/nowhere cannot be read",
        ),
        (["-p", "examples/policies", "--format", "tetragon", "--export-fields", "{"], "it must be JSON"),
        (["--tetragon-socket", "/tmp/a/sock", "--export-denylist", '{"pid": [1]}'], "add --format tetragon"),
        (["--tetragon-socket", f"/tmp/{'x' * 120}"], "a socket's path may have"),
        ([], "there are no policies"),
        (["--kubernetes"], "does not run in a cluster"),
        (["-p", "examples/policies", "--kubeconfig", "pyproject.toml"], "add --kubernetes"),
        (["-p", "examples/policies", "--cluster-policies", "kubearmor"], "add --kubernetes"),
    ],
)
def test_run_refuses_of_clusters(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, args: list[str], said: str) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    result = call("run", "--no-pin", *args)
    assert code(result) == 2
    assert said in result.stderr
    assert kernel.asked == []


def stop_own() -> None:
    """End the agent of this process; where it has ended by itself nobody waits for the signal, which would end the tests."""
    if callable(signal.getsignal(signal.SIGTERM)):
        os.kill(os.getpid(), signal.SIGTERM)


def stop_when_ready(ready: Path, first: Callable[[], None] = lambda: None) -> threading.Thread:
    def wait() -> None:
        deadline = time.monotonic() + 120
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        with contextlib.suppress(Exception):  # the caller sees what has come of it
            first()
        stop_own()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_run(policy: Path, kernel: FakeKernel, tmp_path: Path) -> None:
    stopper = stop_when_ready(tmp_path / "ready")
    result = call("run", "-p", policy, "--no-pin", "--output", f"jsonl:{tmp_path}/a.jsonl", "--ready-file", tmp_path / "ready")
    stopper.join()
    assert code(result) == 0
    assert kernel.asked == [None]
    assert kernel.engine.closed is True
    assert [json.loads(line)["status"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == ["started", "stopped"]


@pytest.mark.parametrize("given", ["", "mine/hook.sock"])
def test_run_tells_where_hooks_are_heard(
    policy: Path, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str
) -> None:
    heard: list[Path] = []
    monkeypatch.setattr(host, "container_sources", lambda _, hook, *_nri: heard.append(hook))
    monkeypatch.chdir(tmp_path)
    stopper = stop_when_ready(tmp_path / "ready")
    options = ["--hook-socket", given] if given else []
    assert code(call("run", "-p", policy, "--no-pin", "--ready-file", tmp_path / "ready", *options)) == 0
    stopper.join()
    assert heard == [tmp_path / given if given else Path("/run/bpfence/hook.sock")]


def test_run_answers_scrapes_until_it_ends(policy: Path, kernel: FakeKernel, tmp_path: Path) -> None:
    place, texts = tmp_path / "metrics.sock", []

    def scrape() -> None:
        deadline = time.monotonic() + 120
        while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(place))
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            texts.append(b"".join(iter(lambda: client.recv(65536), b"")))
        stop_own()

    thread = threading.Thread(target=scrape)
    thread.start()
    assert code(call("run", "-p", policy, "--no-pin", "--ready-file", tmp_path / "ready", "--metrics", f"unix:{place}")) == 0
    thread.join()
    assert b'bpfence_policies{mode="enforce"} 1.0' in texts[0]
    assert not place.exists()


def test_run_leaves_no_socket_where_it_cannot_start(policy: Path, kernel: FakeKernel, tmp_path: Path) -> None:
    kernel.error = KernelError("cannot enforce", missing="lsm", hint="boot otherwise")
    assert code(call("run", "-p", policy, "--no-pin", "--metrics", f"unix:{tmp_path}/metrics.sock")) == 3
    assert not (tmp_path / "metrics.sock").exists()


def test_run_prints_json_lines_when_piped(policy: Path, kernel: FakeKernel, tmp_path: Path) -> None:
    kernel.engine.generation = 0
    stopper = stop_when_ready(tmp_path / "ready")
    result = call("run", "-p", policy, "--no-pin", "--ready-file", tmp_path / "ready")
    stopper.join()
    assert [json.loads(line)["kind"] for line in result.stdout.splitlines()] == ["status", "status"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--no-pin", "--keep"], "--keep needs pins"),
        (["--output", "nope"], "unknown output 'nope'"),
        (["--metrics-public"], "add --metrics"),
        (["--metrics", "0.0.0.0:0"], "reached from other machines"),
    ],
)
def test_run_refuses(policy: Path, kernel: FakeKernel, args: list[str], said: str) -> None:
    result = call("run", "-p", policy, *args)
    assert code(result) == 2
    assert said in result.stderr
    assert kernel.asked == []


def test_run_with_bad_policies(policy: Path, kernel: FakeKernel) -> None:
    policy.write_text("nonsense")
    result = call("run", "-p", policy, "--no-pin")
    assert code(result) == 2
    assert f"{policy}:1:1: error" in result.stderr


def test_run_where_the_kernel_lacks_something(policy: Path, kernel: FakeKernel) -> None:
    kernel.error = KernelError("cannot enforce\x1b", missing="lsm", hint="boot otherwise")
    result = call("run", "-p", policy, "--no-pin")
    assert code(result) == 3
    assert "error: cannot enforce\\x1b" in result.stderr
    assert "hint: boot otherwise" in result.stderr


# ---- exec ----


@pytest.fixture
def box(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "cgroups"
    folder.mkdir()
    monkeypatch.setattr(host, "hierarchy", lambda: Hierarchy(folder, True))
    monkeypatch.setattr(host, "Sandbox", FolderSandbox)
    return folder


def test_exec_gives_the_commands_exit_code_and_leaves_nothing(policy: Path, kernel: FakeKernel, box: Path) -> None:
    result = call("exec", "-p", policy, "--", "sh", "-c", f"ls {box}/bpfence-exec-*/cgroup.procs && exit 9")
    assert code(result) == 9
    assert kernel.asked == [None], "nothing is pinned"
    assert kernel.engine.closed is True
    assert [entry.name for entry in box.iterdir()] == ["killed"]


def test_exec_scopes_every_rule_to_its_cgroup(policy: Path, kernel: FakeKernel, box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Compiled] = []

    def remember(*args: Any, **kwargs: Any) -> Compiled:
        compiled.append(compile_policies(*args, **kwargs))
        return compiled[-1]

    monkeypatch.setattr("bpfence.agent.tables.compile_policies", remember)
    call("exec", "-p", policy, "--", "true")
    event = {"event": "file.open", "file.path": "/secret/x"}
    [name] = {str(atom.value) for atom in atoms(compiled[0].rules[0].condition) if atom.op is Op.EQUALS and atom.field == "process.cgroup"}
    assert name.startswith("/bpfence-exec-")
    assert explain(compiled[0], {**event, "process.cgroup": f"{name}/sub"}).action == "deny"
    assert explain(compiled[0], {**event, "process.cgroup": "/"}).action == "none"


def test_exec_of_options_and_signals(policy: Path, kernel: FakeKernel, box: Path) -> None:
    assert code(call("exec", "-p", policy, "sh", "-c", "kill -TERM $$")) == 143
    kernel.engine = FakeEngine()
    assert code(call("exec", "-p", policy, "--mode", "audit", "sh", "-c", "exit 0", "--mode", "nonsense")) == 0


@pytest.mark.parametrize(("command", "expected"), [("/nonexistent", 127), ("/etc/passwd", 126)])
def test_exec_of_what_cannot_be_run(policy: Path, kernel: FakeKernel, box: Path, command: str, expected: int) -> None:
    result = call("exec", "-p", policy, "--", command)
    assert code(result) == expected
    assert f"{command} cannot be run" in result.stderr
    assert kernel.engine.closed is True


def test_exec_shows_alerts_on_standard_error_only(policy: Path, kernel: FakeKernel, box: Path) -> None:
    kernel.engine.say(generation=1)
    result = call("exec", "-p", policy, "--", "true")
    assert result.stdout == ""
    assert [json.loads(line)["kind"] for line in result.stderr.splitlines()] == ["status", "alert", "status"]


def test_exec_throttles_alerts_in_kubearmors_form(policy: Path, kernel: FakeKernel, box: Path) -> None:
    for _ in range(4):
        kernel.engine.say(generation=1)
    words = ("--alert-throttling", "on", "--max-alert-per-sec", "1", "--throttle-sec", "3600", "--format", "kubearmor")
    result = call("exec", "-p", policy, *words, "--", "true")
    told = [json.loads(line)["Type"] for line in result.stderr.splitlines() if line.startswith("{")]
    assert told == ["Message", "MatchedHostPolicy", "SystemEvent", "Message"]
    assert "2 alerts of the host were left out" in result.stderr


COUNTING: Final = """import signal, sys, time
seen = []
number = int(sys.argv[1])
kept = signal.signal(number, lambda *_: seen.append(1)) == signal.SIG_IGN
if kept:
    signal.signal(number, signal.SIG_IGN)
print("ready", flush=True)
until = time.monotonic() + float(sys.argv[2])
while not seen and time.monotonic() < until:
    time.sleep(0.01)
time.sleep(0.5)
print("ignored" if kept else len(seen), "seen", flush=True)
"""
PASSED_ON: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")


@pytest.fixture
def exec_words(tmp_path: Path, policy: Path) -> list[str]:
    """`bpfence exec` in a process of its own, on a kernel made of lists."""
    (tmp_path / "count.py").write_text(COUNTING)
    (tmp_path / "cgroups").mkdir()
    rig = [sys.executable, "-m", "tests.unit.cli.exec_rig", str(tmp_path / "cgroups")]
    return [*rig, "-p", str(policy), "--", PYTHON, str(tmp_path / "count.py")]


@pytest.mark.parametrize("name", PASSED_ON)
@pytest.mark.parametrize("words", [(), ("--seccomp",)])
def test_exec_passes_on_what_is_sent_to_it_alone(exec_words: list[str], tmp_path: Path, name: str, words: tuple[str, ...]) -> None:
    if words:
        (tmp_path / "profile.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
        exec_words[4:4] = ["--seccomp", str(tmp_path / "profile.json")]
    number = signal.Signals[name]
    with subprocess.Popen([*exec_words, str(int(number)), "20"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "1 seen\n"
        assert process.wait(20) == 0


@pytest.mark.parametrize(("name", "key"), [("SIGINT", b"\x03"), ("SIGQUIT", b"\x1c")])
def test_exec_leaves_it_to_a_terminal_to_signal_the_command(exec_words: list[str], name: str, key: bytes) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(exec_words[0], [*exec_words, str(int(signal.Signals[name])), "20"])
    said = b""
    while b"ready" not in said:
        said += os.read(terminal, 4096)
    os.write(terminal, key)
    while b"seen" not in said:
        said += os.read(terminal, 4096)
    os.waitpid(pid, 0)
    os.close(terminal)
    assert b"1 seen" in said


@pytest.mark.parametrize("name", PASSED_ON)
def test_exec_keeps_ignored_what_was_ignored(exec_words: list[str], name: str) -> None:
    """As after nohup."""
    words = ["sh", "-c", f"trap '' {name[3:]}; exec \"$@\"", "sh", *exec_words, str(int(signal.Signals[name])), "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.Signals[name])
        assert process.stdout.readline() == "ignored seen\n"
        assert process.wait(20) == 0


def test_exec_with_bad_policies_runs_nothing(policy: Path, kernel: FakeKernel, box: Path, tmp_path: Path) -> None:
    policy.write_text("nonsense")
    assert code(call("exec", "-p", policy, "--", "touch", tmp_path / "ran")) == 2
    assert not (tmp_path / "ran").exists()
    assert not list(box.glob("bpfence-exec-*"))


def test_exec_applies_a_seccomp_profile_and_those_of_policies(policy: Path, kernel: FakeKernel, box: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["umask"], "action": "SCMP_ACT_KILL_PROCESS"}]}')
    run = ("/usr/bin/python3", "-c", "import os; os.umask(0)")
    assert code(call("exec", "-p", policy, "--", *run)) == 0
    kernel.engine = FakeEngine()
    assert code(call("exec", "-p", policy, "--seccomp", profile, "--", *run)) == 159
    policy.write_text(policy.read_text().replace("spec:\n", f"spec:\n  seccomp: {profile}\n"))
    kernel.engine = FakeEngine()
    assert code(call("exec", "-p", policy, "--", *run)) == 159
    kernel.engine = FakeEngine()
    assert code(call("exec", "-p", policy, "--mode", "audit", "--", *run)) == 0


def test_exec_with_a_bad_profile_runs_nothing(policy: Path, kernel: FakeKernel, box: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    for text in ('{"defaultAction": "SCMP_ACT_NO"}', '{"defaultAction": "SCMP_ACT_NOTIFY"}'):
        profile.write_text(text)
        assert code(call("exec", "-p", policy, "--seccomp", profile, "--", "touch", tmp_path / "ran")) == 2
    assert not (tmp_path / "ran").exists()


# ---- Falco rules ----


@pytest.fixture
def rules(tmp_path: Path, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("bpfence.dialects.falco.confirm.detection.KernelEvents", lambda *_: FakeEvents())
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


def say_open(kernel: FakeKernel, files: list[str], *names: str, **options: Any) -> None:
    """An open of /etc/shadow that rules may match, waiting before the agent starts: the verdict's number comes from the same files."""
    found = load(files, options={"falco": FalcoOptions(**options)}).policies
    compiled = compile_policies(found, supported_events=kernel.engine.supported_events())
    header = {"sequence": 1, "generation": 1, "flags": EVENT_RESULT, "verdicts": (verdict_of(compiled, *names),), "error": 0}
    kernel.engine.batches.append([("decisions", record("file.open", {"NUM_RESULT": 3}, {"STR_FILE_PATH": b"/etc/shadow"}, **header))])
    os.write(kernel.engine._bell, b"!")


def run_until_ready(ready: Path, *args: object) -> Result:
    stopper = stop_when_ready(ready)
    try:
        return call("run", "--no-pin", "--ready-file", ready, *args)
    finally:
        stopper.join()


def test_run_with_falco_rules_and_policies(rules: Path, policy: Path, kernel: FakeKernel, tmp_path: Path) -> None:
    say_open(kernel, [str(rules), str(policy)], "Shadow by sh", "Shadow by anyone")
    recorded = tmp_path / "recorded.jsonl"
    outputs = ["--format", "falco", "--output", f"jsonl:{tmp_path}/native.jsonl", "--record", recorded]
    result = run_until_ready(tmp_path / "ready", "-p", rules, "-p", policy, *outputs)
    assert code(result) == 0
    started, shadow, stopped = (json.loads(line) for line in result.stdout.splitlines())
    assert list(shadow) == ["hostname", "output", "output_fields", "priority", "rule", "source", "tags", "time"]
    assert (shadow["rule"], shadow["priority"], shadow["tags"]) == ("Shadow by sh", "Error", ["t1", "t2"])
    assert shadow["output"].partition(": ")[2].startswith("Error sh opened /etc/shadow (result SUCCESS, number 3) container_id=host")
    assert (started["source"], stopped["output_fields"]["confirmed"]) == ("internal", "1")
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "native.jsonl").read_text().splitlines()]
    assert kinds == ["status", "alert", "status"]
    replayed = json.loads(call("test", rules, recorded, "--json").stdout)["events"]
    assert [match["rule"] for one in replayed for match in one["matches"]] == ["Shadow by sh"]
    assert {**replayed[0]["matches"][0]["output_fields"], "evt.time": None} == {**shadow["output_fields"], "evt.time": None}


def test_run_with_options_of_falco(rules: Path, kernel: FakeKernel, tmp_path: Path) -> None:
    say_open(kernel, [str(rules)], "Shadow by anyone", disabled=("*by sh", "Secret"), paths="text")
    chosen = ("--disable-rule", "*by sh", "--disable-rule", "Secret", "--priority", "notice")
    how = ("--rule-matching", "all", "--append-output", "(x)", "--strict-paths", "text")
    result = run_until_ready(tmp_path / "ready", "-p", rules, "--format", "falco-text", *chosen, *how)
    assert code(result) == 0
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{9}: Notice sh opened /etc/shadow \(x\)", result.stdout.splitlines()[1])


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--rule", "nope"], "no Falco rule has such a name"), (["--append-output", "%nope"], "--append-output"),
        (["--format", "falco", "--output", "rich"], "leave one out"), (["--record", "/nonexistent/folder/x"], "--record"),
    ],
)  # fmt: skip
def test_run_refuses_of_falco(rules: Path, kernel: FakeKernel, args: list[str], said: str) -> None:
    result = call("run", "-p", rules, "--no-pin", *args)
    assert code(result) == 2
    assert said in result.stderr
    assert kernel.asked == []


def test_run_with_mistakes_in_falco_rules(rules: Path, kernel: FakeKernel) -> None:
    rules.write_text(RULES.replace("proc.name=sh", "proc.nam=sh"))
    result = call("run", "-p", rules, "--no-pin")
    assert code(result) == 2
    assert f"{rules}:4:" in result.stderr
    assert "proc.name" in result.stderr
    assert kernel.asked == []


def test_exec_scopes_both_kinds(rules: Path, policy: Path, kernel: FakeKernel, box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Compiled] = []
    monkeypatch.setattr(
        "bpfence.agent.tables.compile_policies", lambda *args, **more: compiled.append(compile_policies(*args, **more)) or compiled[-1]
    )
    result = call("exec", "-p", rules, "-p", policy, "--format", "falco", "--rule", "Shadow*", "--", "sh", "-c", "exit 3")
    assert code(result) == 3
    assert result.stdout == ""
    assert [json.loads(line)["source"] for line in result.stderr.splitlines()] == ["internal", "internal"]
    assert [rule.name for rule in compiled[0].rules] == ["secret", "Shadow by sh", "Shadow by anyone"]
    for rule in compiled[0].rules:
        for event in rule.events:
            cgroups = {str(atom.value) for atom in atoms(rule.condition_for(event)) if atom.field == "process.cgroup"}
            assert [name for name in cgroups if name.startswith("/bpfence-exec-")], (rule.name, event)


# ---- status, unload, doctor ----


class Loaded(msgspec.Struct):
    """What the engine says of an instance."""

    flavour: str = "lsm"
    generation: int = 3
    pin_dir: str = ""
    agent_pid: int = 0
    attached: tuple[str, ...] = ("file_open__file",)
    counters: dict[str, int] = msgspec.field(default_factory=lambda: {"denied": 1234})
    lost: dict[str, int] = msgspec.field(default_factory=lambda: {"file.open": 2})
    skipped: dict[str, int] = msgspec.field(default_factory=lambda: {"file_open__file": 56_789})
    processes: int = 9
    instances: tuple[str, ...] = ("abi-digest-lsm",)
    abi: int = abi.ABI_VERSION


def engine_module(monkeypatch: pytest.MonkeyPatch, **members: Any) -> None:
    monkeypatch.setitem(sys.modules, "bpfence.kernel.engine", SimpleNamespace(**members))


def test_status_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine_module(monkeypatch, inspect=lambda _: ())
    assert code(call("status")) == 1
    result = call("status", "--json")
    assert code(result) == 1
    assert json.loads(result.stdout) == {"loaded": False, "pin_dir": host.PIN_DIR, "instances": [], "agent": None}


def test_status(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bpfence.agent.generations.STATE_DIR", tmp_path / "state")
    engine_module(monkeypatch, inspect=lambda folder: (Loaded(pin_dir=folder),))
    (tmp_path / "pins" / "abi-digest-lsm").mkdir(parents=True)
    (tmp_path / "pins" / "abi-digest-lsm" / "map_control").touch()
    os.utime(tmp_path / "pins" / "abi-digest-lsm" / "map_control", (86400, 86400))
    rule = RuleInfo("guard", "secret", "enforce", Action.DENY, Action.DENY)
    Generations(state_path(str(tmp_path / "pins")), read_boot_id()).add(Generation(3, (rule,), ()))
    found = json.loads(call("status", "--json", "--pin-dir", tmp_path / "pins").stdout)["instances"][0]
    assert (found["since"], found["agent_running"], found["counters"]["denied"]) == ("1970-01-02T00:00:00+00:00", False, 1234)
    assert found["rules"] == [{"policy": "guard", "rule": "secret", "mode": "enforce", "matched": 0}]
    text = call("status", "--pin-dir", tmp_path / "pins")
    assert code(text) == 0
    assert "not running: enforcement goes on" in text.stdout
    shown = " ".join(text.stdout.split())
    for word in ("guard (enforce)", "acts denied 1,234", "records of file.open lost 2", "left out 56,789", "in force since 1970-01-02"):
        assert word in shown
    counts = Counts(state_path(str(tmp_path / "pins")), read_boot_id())
    for _ in range(1002):
        counts.add(("guard", "secret"))
    counts.save()
    Generations(state_path(str(tmp_path / "pins")), read_boot_id()).add(Generation(3, (rule,), (), since=2 * 86400))
    found = json.loads(call("status", "--json", "--pin-dir", tmp_path / "pins").stdout)["instances"][0]
    assert (found["since"], found["rules"][0]["matched"]) == ("1970-01-03T00:00:00+00:00", 1002)
    assert "guard secret enforce 1,002" in " ".join(call("status", "--pin-dir", tmp_path / "pins").stdout.split())
    assert found["outputs_dropped"] == {}
    counts.dropped({"jsonl:/full": 4321})
    counts.save()
    found = json.loads(call("status", "--json", "--pin-dir", tmp_path / "pins").stdout)["instances"][0]
    assert (found["outputs_dropped"], found["rules"][0]["matched"]) == ({"jsonl:/full": 4321}, 1002)
    assert "jsonl:/full 4,321" in " ".join(call("status", "--pin-dir", tmp_path / "pins").stdout.split())
    counts.remove()
    assert counts.read() == Counted()
    assert found["start"] is None
    kept = Generations(state_path(str(tmp_path / "pins")), read_boot_id())
    kept.restore()
    kept.started = StartCost(12, 0.81, 0.32, 1.64, "extensions: no")
    kept.save()
    found = json.loads(call("status", "--json", "--pin-dir", tmp_path / "pins").stdout)["instances"][0]
    assert found["start"] == {"programs": 12, "load": 0.81, "compile": 0.32, "total": 1.64, "unshared": "extensions: no"}
    shown = " ".join(call("status", "--pin-dir", tmp_path / "pins").stdout.split())
    assert "12 programs; of processor time 0.8 s to load them, 0.3 s to compile policies, 1.6 s in all" in shown
    assert "with a decision engine of its own: extensions: no" in shown
    assert found["unplaced"] == []
    assert "without a place" not in shown
    kept.unplaced = ("policy 'p': this kernel has no function tcp_conect (there is tcp_connect)",)
    kept.save()
    found = json.loads(call("status", "--json", "--pin-dir", tmp_path / "pins").stdout)["instances"][0]
    assert found["unplaced"] == list(kept.unplaced)
    shown = " ".join(call("status", "--pin-dir", tmp_path / "pins").stdout.split())
    assert f"Hooks without a place on this kernel {kept.unplaced[0]}" in shown


def test_status_of_what_another_version_has_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bpfence.agent.generations.STATE_DIR", tmp_path / "state")
    engine_module(monkeypatch, inspect=lambda folder: (Loaded(pin_dir=folder, abi=1, counters={}, lost={}, skipped={}, generation=0),))
    shown = " ".join(call("status", "--pin-dir", tmp_path).stdout.split())
    assert f"another version of bpfence (ABI 1, this is ABI {abi.ABI_VERSION})" in shown
    assert "`bpfence run` with your policies: they are put in force first, then this goes" in shown
    [instance] = json.loads(call("status", "--json", "--pin-dir", tmp_path).stdout)["instances"]
    assert (instance["abi"], instance["counters"]) == (1, {})


def test_an_agent_runs_while_it_holds_the_pins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever process has its id: that may have been used again."""
    monkeypatch.setattr("bpfence.agent.generations.STATE_DIR", tmp_path / "state")
    monkeypatch.setattr("bpfence.kernel.pids.in_host_namespace", lambda: True)
    engine_module(monkeypatch, inspect=lambda folder: (Loaded(pin_dir=folder, agent_pid=os.getpid()),))
    pins = tmp_path / "pins"
    pins.mkdir()

    def running() -> bool:
        return bool(json.loads(call("status", "--json", "--pin-dir", pins).stdout)["instances"][0]["agent_running"])

    assert not running()
    held = os.open(pins, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert running()
    os.close(held)
    assert not running()


def test_every_counter_of_the_kernel_has_words() -> None:
    names = {name.removeprefix("CNT_").lower() for name in abi.COUNTER_ID if name != "CNT_MAX"}
    assert names == set(host.COUNTERS)


def test_unload(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bpfence.agent.generations.STATE_DIR", tmp_path)
    asked: list[str] = []
    engine_module(monkeypatch, unload=lambda folder: asked.append(folder) or ("one",))
    Generations(state_path("/pins"), "b").add(Generation(1, (), ()))
    assert json.loads(call("unload", "--json", "--pin-dir", "/pins").stdout) == {"unloaded": ["one"]}
    assert asked == ["/pins"]
    assert list(tmp_path.iterdir()) == []
    engine_module(monkeypatch, unload=lambda _: ())
    assert "nothing was loaded" in call("unload").stdout


def test_unload_while_an_agent_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> tuple[str, ...]:
        raise KernelError("an agent runs", hint="stop it")

    engine_module(monkeypatch, unload=refuse)
    result = call("unload", "--json")
    assert code(result) == 3
    assert json.loads(result.stdout) == {"error": "an agent runs", "missing": "", "hint": "stop it"}


class Row(msgspec.Struct):
    """One probe."""

    name: str
    title: str
    answer: Any
    detail: str = ""
    meaning: str = ""
    mend: str = ""
    essential: bool = False


def probes(
    monkeypatch: pytest.MonkeyPatch, flavour: str, *rows: Row, missing: dict[str, str] | None = None, enforces: str = "", unshared: str = ""
) -> None:
    answer = SimpleNamespace(value=enforces or ("yes" if flavour else "no"))
    features = SimpleNamespace(flavour=flavour, enforces=answer, rows=lambda: rows)
    monkeypatch.setitem(sys.modules, "bpfence.kernel.features", SimpleNamespace(probe=lambda: features))

    class Engine:
        def __init__(self, *_: object) -> None:
            pass

        @classmethod
        @contextlib.contextmanager
        def load(cls, *_: object, **__: object) -> Iterator[Engine]:
            yield cls()

        load_cost = LoadCost(3, 0.25, unshared)

        def try_all(self) -> dict[str, str]:
            return missing or {}

        def unsupported_events(self) -> dict[str, str]:
            return missing or {}

    engine_module(monkeypatch, Engine=Engine, OBJECT=Path("x"))


GOOD = Row("btf", "kernel types", SimpleNamespace(value="yes"), "/sys")
BAD = Row("lsm", "LSM active", SimpleNamespace(value="no"), "", "fmod_ret is used", "boot with lsm=bpf")


def test_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_probe_as_json", lambda row: {"name": row.name, "answer": row.answer.value})
    probes(monkeypatch, "fmod_ret", GOOD, BAD, missing={"kernel.userns": "no such hook"})
    result = call("doctor", "--json")
    assert code(result) == 0
    found = json.loads(result.stdout)
    assert (found["enforcement"], found["usable"]) == ("fmod_ret", True)
    assert found["probes"] == [{"name": "btf", "answer": "yes"}, {"name": "lsm", "answer": "no"}]
    assert found["unsupported_events"] == {"kernel.userns": "no such hook"}
    text = call("doctor").stdout
    said = "LSM active: no\n  so: fmod_ret is used\n  what helps: boot with lsm=bpf"
    for word in ("fmod_ret programs", "kernel types", said, "kernel.userns", "no such hook"):
        assert word in text


def test_doctor_that_tries_tells_what_loading_has_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_probe_as_json", lambda row: {})
    probes(monkeypatch, "lsm", GOOD)
    assert "3 programs loaded in 0.2 s of processor time" in call("doctor", "--try").stdout
    assert json.loads(call("doctor", "--try", "--json").stdout)["load"] == {"programs": 3, "seconds": 0.25}
    probes(monkeypatch, "lsm", GOOD, unshared="extensions: no")
    assert "in 0.2 s of processor time; each with a decision engine of its own: extensions: no" in call("doctor", "--try").stdout
    assert json.loads(call("doctor", "--json").stdout)["load"] is None


def test_doctor_where_nothing_can_be_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    probes(monkeypatch, "", GOOD)
    result = call("doctor")
    assert code(result) == 3
    assert "not possible" in result.stdout


def test_doctor_where_it_cannot_be_told_does_not_say_no(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row("fmod_ret", "fmod_ret", SimpleNamespace(value="could not tell"), "needs CAP_BPF", "no enforcement", "another kernel")
    monkeypatch.setattr(host, "_probe_as_json", lambda row: {})
    probes(monkeypatch, "", row, enforces="could not tell")
    result = call("doctor")
    assert code(result) == 3
    assert "Enforcement: could not tell" in result.stdout
    assert "not possible" not in result.stdout
    assert "fmod_ret: could not tell\n  if not: no enforcement" in result.stdout
    found = json.loads(call("doctor", "--json").stdout)
    assert (found["enforcement"], found["usable"]) == ("unknown", None)


def test_doctor_where_something_essential_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    probes(monkeypatch, "lsm", Row("ring", "ring buffers", SimpleNamespace(value="no"), essential=True))
    assert code(call("doctor")) == 3


def test_notify_without_a_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
