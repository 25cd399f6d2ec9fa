# SPDX-License-Identifier: Apache-2.0
"""Cases in, a running agent and observed outcomes out.

One `bpfence run` serves all cases: every case's policy is scoped to a cgroup of its own, so the policies of a whole file (a volley), or of
all files, are loaded at once, and each act is started inside (or moved into) its case's cgroup. Alerts are read from the agent's JSON
lines; sentinel acts, one for each ring buffer, whose records must come last because a ring buffer keeps order, tell when all earlier
records are in. Used by the fixtures of tests/kernel.
"""

from __future__ import annotations

import errno
import functools
import json
import lzma
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.kernel.cases import CGROUP, PLAYGROUND, ROOT, TRIGGER, Case, FileSpec, Step, write_yaml

CGROUP_ROOT = Path("/sys/fs/cgroup")
TRIGGER_FAILED = 200
NOT_EXECUTED = 126  # of a shell, whose program may not be executed
READY_SECONDS = 1500
COMMAND = shlex.split(os.environ.get("BPFENCE_COMMAND", f"{sys.executable} -m bpfence"))
"""The command under test; the variable names another build."""

ALERT_SECONDS = 120
MARKS = {"decisions": "audit", "telemetry": "observe"}
"""A ring buffer, and the action of native rules whose records come by it. The sentinel's rule, and its file, is named as the buffer."""

SENTINEL = Case(
    name="sentinel",
    event="file.open",
    mode="audit",
    rules=[
        {"name": ring, "on": "open", "match": {"file.path": f"{{dir}}/{ring}"}, "action": action, "rate": "100000/s"}
        for ring, action in MARKS.items()
    ],
    files=dict.fromkeys(MARKS, ""),
    attack=[["open", "{dir}/decisions"]],
)


def mount_cgroups() -> None:
    """A cgroup v2 hierarchy at its usual place; guests may come without."""
    if not (CGROUP_ROOT / "cgroup.procs").exists():
        CGROUP_ROOT.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", str(CGROUP_ROOT)], check=True)


def cgroup_folder(name: str) -> Path:
    """The folder of a cgroup v2 path, made when missing."""
    folder = CGROUP_ROOT / name.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def enter(folder: Path, pid: int = 0) -> None:
    """Move a process (0: the caller) into a cgroup."""
    (folder / "cgroup.procs").write_text(str(pid))


def go_out() -> None:
    """Back to where no case's rule concerns this process, and whence it acts as the sentinel."""
    enter(cgroup_folder(SENTINEL.cgroup))


@functools.cache
def _shell() -> subprocess.Popen[str]:
    shell = subprocess.Popen(["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    enter(cgroup_folder(SENTINEL.cgroup), shell.pid)
    return shell


def outside(*words: str) -> None:
    """A command of somebody whom no rule concerns: of one shell, since to fork this process takes an emulated machine long."""
    shell = _shell()
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(f"{shlex.join(words)} >&2; echo $?\n")
    shell.stdin.flush()
    assert shell.stdout.readline().strip() == "0", words


class Outcome(msgspec.Struct, frozen=True):
    """How an act ended: "ok", an errno's name, "killed", or "signal N"; and what it printed."""

    result: str
    printed: str


def outcome(code: int, printed: str, complaint: str) -> Outcome:
    """Read a trigger's exit code. A trigger that could not even try is an error of the case, not an outcome."""
    assert code != TRIGGER_FAILED, f"the act could not be prepared: {complaint.strip()}"
    if code == 0:
        return Outcome("ok", printed)
    if code < 0:
        return Outcome("killed" if -code == signal.SIGKILL else f"signal {-code}", printed)
    return Outcome(errno.errorcode.get(code, str(code)), printed)


def run_act(words: Sequence[str], cgroup: Path, *, late: bool = False, seconds: float = 300) -> Outcome:
    """Run one act of the trigger in `cgroup`.

    `late`: it starts outside, is moved in once it says "ready", and only then acts. Acts that wait for a line get one either way.
    PermissionError: the trigger itself may not be executed.
    """
    waits = words[0] in ("fd", "stay")
    command = [str(TRIGGER), *words] if waits or not late else [str(TRIGGER), "stay", *words]
    if not late:  # a shell moves itself and becomes the trigger: a function before exec would need a fork of this large process
        command = ["/bin/sh", "-c", f'echo $$ >"$0" || exit {TRIGGER_FAILED}; exec "$@"', str(cgroup / "cgroup.procs"), *command]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if waits or late:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first == "ready\n", f"the act did not get ready: {first!r} {process.communicate()[1]!r}"
            if late:
                enter(cgroup, process.pid)
        printed, complaint = process.communicate("\n", timeout=seconds)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if process.returncode == NOT_EXECUTED and not late:
        raise PermissionError(complaint.strip())
    return outcome(process.returncode, printed, complaint)


def module_image(name: str) -> bytes:
    """The image of a module of the running kernel."""
    folder = Path("/lib/modules", os.uname().release)
    listed = (Path(line.partition(":")[0]) for line in (folder / "modules.dep").read_text().splitlines())  # a walk takes minutes over 9p
    found = folder / next(path for path in listed if path.name.partition(".")[0] == name)
    data = found.read_bytes()
    return lzma.decompress(data) if found.suffix == ".xz" else data


def make_file(path: Path, spec: FileSpec, case: Case) -> None:
    """Create `path` as `spec` says unless something is there already: its inode is what rules may have been resolved to."""
    if os.path.lexists(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if spec.directory:
        path.mkdir()
    elif spec.symlink is not None:
        path.symlink_to(case.fill(spec.symlink))
        return
    elif spec.hardlink is not None:
        path.hardlink_to(case.fill(spec.hardlink))
        return
    elif spec.fifo:
        os.mkfifo(path)
    elif spec.module:
        path.write_bytes(module_image(spec.module))
    elif spec.program:
        shutil.copyfile(TRIGGER, path)
        path.chmod(0o755)
    elif spec.size is not None:
        path.write_bytes(bytes(spec.size))
    else:
        path.write_text(case.fill(spec.text or ""))
    if spec.mode is not None:
        path.chmod(spec.mode)
    if spec.owner is not None:
        os.chown(path, spec.owner, spec.owner)


def make_files(case: Case) -> None:
    """Bring back whatever of the case's files is missing; remove what an act has added."""
    case.directory.mkdir(parents=True, exist_ok=True)
    specs = {name: FileSpec(text=spec) if isinstance(spec, str) else spec for name, spec in case.files.items()}
    wanted = {case.directory / name for name in specs}
    keep = wanted | {parent for path in wanted for parent in path.parents} | {case.service}
    for path in sorted(case.directory.rglob("*"), reverse=True):
        if path not in keep:
            if stat.S_ISDIR(path.lstat().st_mode):
                path.rmdir()
            else:
                path.unlink()
    for name, spec in specs.items():
        make_file(case.directory / name, spec, case)


class Agent:
    """A `bpfence run` process: its policies folder, its alerts, its log. `marks`: the folder and the names of the files that the
    sentinel's rules, named as they are, are about."""

    def __init__(self, folder: Path, name: str = "agent", marks: Path = SENTINEL.directory, rings: Sequence[str] = tuple(MARKS)) -> None:
        self.folder = folder
        self.marks = {ring: marks / ring for ring in rings}
        self.policies = folder / "policies"
        self.alerts_path = folder / "alerts.jsonl"
        self.ready_path = folder / "ready"
        self.log_path = Path(os.environ.get("BPFENCE_LOGS", folder)) / f"{name}.log"
        self.log_path.unlink(missing_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.seen: list[dict[str, Any]] = []
        self._offset = 0
        self.policies.mkdir(parents=True, exist_ok=True)

    def write_policy(self, name: str, document: dict[str, Any]) -> Path:
        """Put one policy into the folder; it counts from the next start or reload."""
        path = self.policies / f"{name}.yaml"
        path.write_text(write_yaml(document))
        return path

    def start(self, *extra: str, stdout: int | None = None, wrapper: Sequence[str] = ()) -> None:
        """Start and wait until enforcement is in force. `stdout`: a descriptor in place of the log; `wrapper`: a command in front."""
        self.ready_path.unlink(missing_ok=True)
        command = [*wrapper, *COMMAND, "run", "-p", str(self.policies), "--output", f"jsonl:{self.alerts_path}"]
        command += ["--ready-file", str(self.ready_path), *extra]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=stdout or log, stderr=log)
        self._wait_ready()

    def _wait_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + READY_SECONDS
        while not self.ready_path.exists():
            assert self.process.poll() is None, f"bpfence run ended with {self.process.returncode}:\n{self.log()}"
            assert time.monotonic() < deadline, f"bpfence run was not ready after {READY_SECONDS} s:\n{self.log()}"
            assert b'"reload-failed"' not in self._unread(), f"the policies could not be loaded:\n{self.log()}"
            time.sleep(0.05)

    def reload(self) -> None:
        """SIGHUP, then wait until the agent has written its ready file anew."""
        assert self.process is not None
        self.ready_path.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGHUP)
        self._wait_ready()

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Stop it with a signal; its exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(timeout=60)

    def log(self) -> str:
        """The agent's own output, for failure messages."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-80:])

    def _unread(self) -> bytes:
        if not self.alerts_path.exists():
            return b""
        with self.alerts_path.open("rb") as file:
            file.seek(self._offset)
            return file.read()

    def poll(self) -> list[dict[str, Any]]:
        """Alerts that have come since the last call; they are also kept in `seen`."""
        data = self._unread()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        fresh = [flatten(json.loads(line)) for line in whole.splitlines()]
        self.seen += fresh
        return fresh

    def settle(self) -> list[dict[str, Any]]:
        """All records up to now, by their times: acts as the sentinels, in this process, and waits for their records.

        Each ring is read by itself, so that the agent may tell a denial or a kill before what was only observed earlier."""
        came = [record for record in self.poll() if record.get("rule") not in self.marks]  # another agent's settling is told here, too
        for path in self.marks.values():
            path.read_text()
        deadline = time.monotonic() + ALERT_SECONDS
        while not self.marks.keys() <= {record.get("rule") for record in came}:
            assert self.process is not None
            assert self.process.poll() is None, f"bpfence run has ended with {self.process.returncode}:\n{self.log()}"
            assert time.monotonic() < deadline, f"no record of each sentinel within {ALERT_SECONDS} s:\n{self.log()}"
            came += self.poll()
            time.sleep(0.01)
        came.sort(key=lambda record: str(record.get("time", "")))
        return [record for record in came if record.get("policy") != SENTINEL.name and record.get("rule") not in self.marks]


def flatten(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects to dotted keys: {"file": {"path": p}} to {"file.path": p}."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class Elder:
    """A daemon older than the agent, started by a parent that is gone: `folder`/elder, to be told what to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "elder"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("go", "done"):
            if not (folder / name).exists():
                os.mkfifo(folder / name)
        shutil.copy(TRIGGER, self.program)
        subprocess.run([str(self.program), "elder", str(folder)], check=True, timeout=60)

    def act(self, *words: str) -> str:
        """What became of an act that a child of the daemon does: "ok" or an errno's name."""
        (self.folder / "go").write_text(" ".join(words) + "\n")
        return outcome(int((self.folder / "done").read_text()), "", "see the act").result

    def stop(self) -> None:
        (self.folder / "go").write_text("\n")


class Playground:
    """The cases' files, cgroups and services; no agent yet. What a case needs is made when it is first loaded or performed."""

    def __init__(self) -> None:
        self.targets: dict[str, subprocess.Popen[str]] = {}
        mount_cgroups()
        cgroup_folder(CGROUP)
        PLAYGROUND.mkdir(parents=True, exist_ok=True)
        if not TRIGGER.exists():
            shutil.copy(ROOT / ".build" / "trigger", TRIGGER)
        self.prepare([SENTINEL])
        self.elder = Elder(PLAYGROUND / "lineage")

    def prepare(self, cases: Sequence[Case]) -> None:
        """The files and cgroups that policies speak of, before they are loaded: what a rule follows has to be there."""
        for case in cases:
            make_files(case)
            cgroup_folder(case.cgroup)

    def target(self, case: Case) -> int:
        """The pid of the case's service, started on first use: outside every scope, from {dir}/service."""
        if not case.target:
            return 0
        running = self.targets.get(case.name)
        if running is not None and running.poll() is not None:
            running.communicate()
            running = None
        if running is None:
            if not case.service.exists():
                case.service.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(TRIGGER, case.service)
            running = subprocess.Popen([str(case.service), "stay", "ok"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            self.targets[case.name] = running
        return running.pid

    def act(self, case: Case, step: Step, cgroup: str = "") -> Outcome:
        """One step in the case's cgroup, or another one."""
        make_files(case)
        for act in case.setup:
            made = run_act([case.fill(str(word)) for word in act], cgroup_folder(f"{CGROUP}/outside"))
            assert made.result == "ok", f"the case's setup: {act}: {made}"
        words = [case.fill(str(word), self.target(case)) for word in step.do]
        return run_act(words, cgroup_folder(cgroup or case.cgroup), late=step.late)

    def close(self) -> None:
        """Stop the services."""
        for process in self.targets.values():
            process.kill()
            process.communicate()
        self.elder.stop()


class Range:
    """One agent and all cases, some of them in force: those of one volley, or one alone. `together`: those of one turn, not volley."""

    def __init__(self, agent: Agent, playground: Playground, cases: Sequence[Case], *, together: bool = False) -> None:
        self.agent = agent
        self.playground = playground
        self.cases = cases
        self.together = together
        self.loaded: dict[str, Path] = {}
        self.broken = ""
        agent.write_policy(SENTINEL.name, SENTINEL.policy())

    def load(self, volley: str) -> None:
        """Bring a volley into force in place of what was."""
        if volley:
            own = [case for case in self.cases if case.volley == volley]
            self._bring([case for case in self.cases if case.turn == own[0].turn] if self.together else own)

    def load_alone(self, case: Case) -> None:
        """Bring one case into force in place of what was: for tests of the agent, which reload often and need no others."""
        self._bring([case])

    def _bring(self, cases: Sequence[Case]) -> None:
        if {case.name for case in cases} == set(self.loaded):
            return
        assert not self.broken, f"the agent did not take an earlier volley: {self.broken}"
        self.clear()
        self.playground.prepare(cases)
        self.loaded = {case.name: self.agent.write_policy(case.name, case.policy()) for case in cases}
        try:
            self.agent.reload()
        except AssertionError as error:  # no test after this one may take what is still in force for what it has asked for
            self.broken, self.loaded = str(error), {}
            raise

    def clear(self) -> None:
        """Take the cases' policies away; they stay in force until the next reload."""
        for path in self.loaded.values():
            path.unlink()
        self.loaded = {}

    @contextmanager
    def within(self, case: Case) -> Iterator[Path]:
        """The folder of a case, alone in force, with this process within its scope."""
        make_files(case)
        path = self.agent.write_policy(case.name, case.policy())
        self.clear()
        self.agent.reload()
        enter(cgroup_folder(case.cgroup))
        yield case.directory
        go_out()
        path.unlink()
        self.agent.reload()

    def act(self, case: Case, step: Step) -> tuple[Outcome, list[dict[str, Any]]]:
        """One step: what happened to it, and the alerts of its policy. What a rate limit left out before is told whenever that ends."""
        if case.name not in self.loaded:
            self.load(case.volley)
        result = self.playground.act(case, step)
        return result, [r for r in self.agent.settle() if r.get("policy") == case.name and r.get("status") != "suppressed"]


@contextmanager
def firing_range(playground: Playground, cases: Sequence[Case], folder: Path, *, together: bool) -> Iterator[Range]:
    """The agent up before, stopped after."""
    go_out()
    whole = Range(Agent(folder), playground, cases, together=together)
    whole.agent.start()
    whole.agent.settle()
    try:
        yield whole
    finally:
        if whole.agent.process is not None and whole.agent.process.poll() is None:
            whole.agent.stop()
