# SPDX-License-Identifier: Apache-2.0
"""Falco's stable rules and acts in, a running agent and the alerts of each act out.

One `bpfence run -p falco_rules.yaml` serves all tests, beside the agent of the other cases and with pins of its own. Acts are data
(tests/cases/falco/range.yaml): for each rule `fires`, acts of which each must give one alert of that rule and no other, and `quiet`,
acts that must give none, or those of `instead`. The fields of an act are those of Shot. A value that begins with ~ is a pattern for the
whole text. In texts {dir} is the work folder, {bin} the folder of the programs, {trigger} the trigger, {n} a number used once; {here},
{here_exe}, {pcmdline} are the name, executable and command line of this process, {aname2} its parent's name, {program_cmdline} the command
line of the act's program. Used by test_falco.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bpfence.kernel.engine import RINGS
from tests.kernel.cases import PLAYGROUND, ROOT, TRIGGER, read_yaml
from tests.kernel.harness import COMMAND, SENTINEL, Agent, Outcome, cgroup_folder, enter, outcome

RULES = Path(os.environ.get("BPFENCE_LOGS", ROOT)) / "falco_rules.yaml"
"""Put there, on the host, by tests/conftest.py."""
CASES = ROOT / "tests" / "cases" / "falco" / "range.yaml"
WORK = PLAYGROUND / "falco"
BIN = WORK / "bin"
PINS = "/sys/fs/bpf/bpfence-falco"
CONTAINER_ID = "3ad7b26ded6d" + "7f" * 26
CONTAINER = f"/falco-test/docker-{CONTAINER_ID}.scope"
HOST = "/falco-test/session"
POLICY = "falco"
OLD_SECONDS = 5.3
"""What "after startup" means in the rules, and a little."""
ADDRESS = "203.0.113.9"
API_SERVER = "127.0.7.7"
LISTENERS = ((API_SERVER, 6443), (API_SERVER, 443), (ADDRESS, 443), (ADDRESS, 22), (ADDRESS, 4444))
UNFILLED = re.compile(r"container\.(name|image\..*)|k8s\..*")
"""Fields that Falco appends to every output and that nothing fills yet."""

OWN_RULES = f"""\
- rule: candidates
  desc: the sentinel of what is confirmed in user space
  condition: evt.type in (open, openat, openat2) and fd.name = {WORK}/candidates
  output: sentinel
  priority: INFO
- rule: Own read
  desc: what the range looks at closely
  condition: evt.type in (open, openat, openat2) and evt.is_open_read=true and fd.num >= 0 and fd.name startswith {WORK}/own/
  output: own | file=%fd.name path=%bpfence.path async=%bpfence.async res=%evt.rawres num=%fd.num type=%evt.type
  priority: INFO
- rule: Own receive
  desc: as the public macro for what comes in has it
  condition: >
    evt.type in (recvfrom, recvmsg, recvmmsg) and fd.l4proto != tcp and fd.connected=false and fd.name_changed=true and
    (fd.typechar = 4 or fd.typechar = 6) and (fd.ip != "0.0.0.0" and fd.net != "127.0.0.0/8") and (evt.rawres >= 0 or evt.res = EINPROGRESS)
  output: >
    received | type=%evt.type name=%fd.name client=%fd.cip sport=%fd.sport size=%evt.rawarg.size tuple=%evt.arg.tuple res=%evt.rawres
    proto=%fd.l4proto num=%fd.num async=%bpfence.async
  priority: INFO
- rule: Own receive in vain
  desc: nothing was there
  condition: evt.type in (recvfrom, recvmsg, recvmmsg) and proc.name=patient and (evt.res=EAGAIN or fd.connected=true)
  output: in vain | type=%evt.type res=%evt.res name=%fd.name connected=%fd.connected
  priority: INFO
- rule: Own change of ids
  desc: of one program, whether it is permitted or not
  condition: evt.type in (setuid, setreuid, setresuid, setgid, setregid, setresgid) and proc.name=changer and not evt.args contains "=7"
  output: ids | type=%evt.type res=%evt.res user=%user.uid name=%user.name args=%evt.args
  priority: INFO
- rule: Own names
  desc: names as one program gives them
  condition: >
    evt.type in (rename, renameat2, link, symlink, symlinkat, unlink, unlinkat, mkdir, rmdir, chmod, fchmodat, chown, mknod, mknodat, mount)
    and evt.failed=false and proc.name=namer
  output: >
    names | type=%evt.type name=%fs.path.name raw=%fs.path.nameraw source=%fs.path.source sourceraw=%fs.path.sourceraw
    target=%fs.path.target targetraw=%fs.path.targetraw
  priority: INFO
- rule: Own arguments
  desc: what one program's calls are given and give
  condition: evt.type in (socketpair, accept, accept4, openat2, io_uring_setup, sendmsg) and proc.name=arguer
  output: arguments | type=%evt.type args=%evt.args size=%thread.vmsize rss=%thread.vmrss
  priority: INFO
- rule: Own guard
  desc: denied by an overlay
  condition: evt.type in (open, openat, openat2) and evt.is_open_write=true and fd.name startswith {WORK}/guarded/
  output: guarded | file=%fd.name process=%proc.name command=%proc.cmdline
  priority: CRITICAL
- rule: Own kill
  desc: kills
  condition: evt.type in (open, openat, openat2) and evt.is_open_read=true and fd.name = {WORK}/fatal
  output: fatal | file=%fd.name process=%proc.name
  priority: CRITICAL
  bpfence: {{action: kill}}
"""
OVERLAY = "- rule: Own guard\n  bpfence: {action: deny, errno: EACCES}\n"


class Shot(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One act: `program`, a copy of the trigger under that name, does `do`; or is there only to be executed, with `idle` as arguments.

    `child` (name and arguments): it starts that program, below itself, `as` a user. `becomes`: it executes that program. The alert
    is about the child or the new program then. `parents`: names above the one the alert is about, before this process.
    """

    name: str
    program: str
    file: str = ""  # where the program is, if not in {bin}
    argv0: str = ""
    do: list[str] = []
    idle: list[str] | None = None
    child: list[str] = []
    user: int = msgspec.field(name="as", default=0)
    becomes: list[str] = []
    parents: list[str] | None = None
    container: bool = False
    aged: bool = False  # started before the agent and OLD_SECONDS before it acts, and still there when the alert is written
    outcome: str = "ok"
    fields: dict[str, Any] = {}  # of the alert's output; null: the field must be there and have no value
    absent: list[str] = []  # output fields that may have no value
    native: dict[str, Any] = {}  # of the alert itself
    instead: list[str] = []
    requires: list[str] = []
    missing: str = ""  # what bpfence lacks to tell: the act must not fire until it has it

    @property
    def path(self) -> str:
        return self.file or str(BIN / self.program)

    def words(self) -> list[str]:
        """The program's arguments, before {n} and the like are put in."""
        if self.idle is not None:
            return self.idle
        words = ["stay", "linger", *self.do] if self.aged else list(self.do)
        for start, program in (("below", self.child), ("become", self.becomes)):
            if program:
                words += [f"{start}-as", str(self.user)] if self.user else [start]
                words += [str(BIN / program[0]), *program]
        return words


class RuleCases(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The acts of one rule."""

    rule: str
    fires: list[Shot]
    quiet: list[Shot]


def load_shots() -> list[RuleCases]:
    """Every rule's acts. Raises on unknown keys and wrong types."""
    return msgspec.convert(read_yaml(CASES.read_text()), list[RuleCases])


def command_name(pid: int | str = "self") -> str:
    """A process's name."""
    return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")


def lineage() -> list[str]:
    """Names of this process and of those it descends from, up to the first of all."""
    names, pid = [], os.getpid()
    while pid:
        names.append(command_name(pid))
        status = Path(f"/proc/{pid}/stat").read_text()
        pid = int(status.rpartition(")")[2].split()[1])
    return names


def own_command_line() -> str:
    """This process, as Falco writes it: its name and its arguments."""
    return " ".join([command_name(), *Path("/proc/self/cmdline").read_bytes().decode().rstrip("\0").split("\0")[1:]])


class FalcoRange:
    """The agent, the files and programs of the acts, and what they listen to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agent = Agent(folder, name="falco", marks=WORK, rings=RINGS)
        self.record = folder / "events.jsonl"
        self.own, self.overlay = folder / "own.yaml", folder / "overlay.yaml"
        self.old: dict[str, tuple[subprocess.Popen[str], float]] = {}
        self._numbers = itertools.count(1)
        self._listeners: list[socket.socket] = []
        self._hosts = Path("/etc/hosts").read_text()

    # ---- before and after ----

    def prepare(self, shots: Sequence[Shot]) -> None:
        """Files, programs, addresses, names; and start what must be old when it acts."""
        for name in ("bin", "logs", "own", "guarded", "folder", *(f"overlay/{part}" for part in ("lower", "upper", "work", "merged"))):
            (WORK / name).mkdir(parents=True, exist_ok=True)
        files = (*RINGS, "blank", "logs/auth.log", "logs/author.log", "release_agent", "own/file", "guarded/file", "fatal")
        for name in files:
            (WORK / name).write_text("")
        (WORK / "rootkit.ko").write_bytes(b"junk" * 64)
        for link, target in (("innocent", "/etc/shadow"), ("way", "/etc")):
            if not os.path.lexists(WORK / link):
                (WORK / link).symlink_to(target)
        for path in ("/etc/falco-range", "/etc/pam.conf", "/etc/shadox", "/etc/pam.d/falco-range", "/etc/sudoers.d/falco-range"):
            Path(path).parent.mkdir(exist_ok=True)
            Path(path).touch()
        os.chmod("/etc/sudoers.d/falco-range", 0o600)
        programs = {name for shot in shots for name in (shot.program, *shot.child[:1], *shot.becomes[:1])}
        programs |= {"spy", "zsh", "patient", "changer", "namer", "arguer"}
        places = [BIN / name for name in programs] + [WORK / "copied", WORK / "overlay/lower/base"]
        Path("/dev/shm/range").mkdir(exist_ok=True)
        for place in (*places, Path("/dev/shm/falco-range"), Path("/dev/shm/range/falco-range")):
            shutil.copyfile(TRIGGER, place)
            place.chmod(0o755)
        self.own.write_text(OWN_RULES)
        self.overlay.write_text(OVERLAY)
        self._network()
        for shot in shots:
            if shot.aged:
                self.old[shot.name] = (self._start(shot, 0), time.monotonic())

    def _network(self) -> None:
        Path("/etc/hosts").write_text(f"{self._hosts}\n{API_SERVER} kubernetes.default.svc.cluster.local\n")
        subprocess.run(["ip", "address", "replace", f"{ADDRESS}/32", "dev", "lo"], check=True)
        for place in LISTENERS:
            listener = socket.create_server(place, backlog=64)
            self._listeners.append(listener)

    def start(self) -> None:
        """The agent with the stable rules and the range's own."""
        policy = SENTINEL.policy()
        policy["metadata"]["name"] = SENTINEL.name
        for rule in policy["spec"]["rules"]:
            rule["match"] = {"file.path": str(WORK / rule["name"])}
        self.agent.write_policy(SENTINEL.name, policy)
        files = [word for path in (RULES, self.own, self.overlay) for word in ("-p", str(path))]
        enter(cgroup_folder(SENTINEL.cgroup))
        self.agent.start(*files, "--pin-dir", PINS, "--record", str(self.record), "--output", "falco")
        self.agent.settle()

    def close(self) -> None:
        """Everything as it was."""
        if self.agent.process is not None and self.agent.process.poll() is None:
            self.agent.stop()
        for process, _ in self.old.values():
            process.kill()
            process.communicate()
        for listener in self._listeners:
            listener.close()
        Path("/etc/hosts").write_text(self._hosts)
        subprocess.run(["ip", "address", "delete", f"{ADDRESS}/32", "dev", "lo"], check=True)

    # ---- acts ----

    def _texts(self, shot: Shot, number: int) -> dict[str, str]:
        texts = {"dir": str(WORK), "bin": str(BIN), "trigger": str(TRIGGER), "n": str(number)}
        names = lineage()
        command = " ".join([shot.program, *(fill(word, texts) for word in shot.words())])
        return texts | {
            "here": names[0],
            "aname2": names[1],
            "here_exe": os.readlink("/proc/self/exe"),
            "pcmdline": own_command_line(),
            "program_cmdline": command,
        }

    def _start(self, shot: Shot, number: int) -> subprocess.Popen[str]:
        texts = self._texts(shot, number)
        words = [fill(word, texts) for word in (shot.argv0 or shot.program, *shot.words())]
        cgroup = cgroup_folder(CONTAINER if shot.container else HOST)
        environment = {**os.environ, "TRIGGER_IDLE": "1"} if shot.idle is not None else dict(os.environ)
        return subprocess.Popen(
            words,
            executable=shot.path,
            cwd=WORK,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: enter(cgroup),  # noqa: PLW1509 - the harness has one thread
        )

    def act(self, shot: Shot) -> tuple[Outcome, list[dict[str, Any]], dict[str, str]]:
        """One act: how it ended, the alerts of Falco rules, and what its texts were filled with."""
        number = 0 if shot.aged else next(self._numbers)
        if not shot.aged:
            process = self._start(shot, number)
            printed, complaint = process.communicate(timeout=60)
            return outcome(process.returncode, printed, complaint), self.alerts(), self._texts(shot, number)
        process, since = self.old.pop(shot.name)
        assert process.stdin is not None
        assert process.stdout is not None
        time.sleep(max(0.0, since + OLD_SECONDS - time.monotonic()))
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        printed = process.stdout.readline()
        alerts = self.alerts()
        rest, complaint = process.communicate(timeout=60)
        return outcome(process.returncode, printed + rest, complaint), alerts, self._texts(shot, number)

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts of Falco rules since the last call."""
        records = self.agent.settle()
        lost = [record for record in records if record.get("kind") == "loss"]
        assert not lost, lost
        return [record for record in records if record.get("kind") == "alert" and str(record.get("policy", "")).startswith(POLICY)]

    def act_words(self, *words: str, container: bool = False, program: str = "tool") -> tuple[Outcome, list[dict[str, Any]]]:
        """An act that is no case's."""
        result, alerts, _ = self.act(Shot(name=words[0], program=program, do=list(words), container=container))
        return result, alerts

    # ---- what is expected ----

    def expected(self, shot: Shot, texts: dict[str, str]) -> dict[str, Any]:
        """Output fields that every alert has if its rule's output asks for them, under what is the act's own."""
        program, *arguments = shot.child or shot.becomes or [shot.program, *shot.words()]
        parents = [*(shot.parents if shot.parents is not None else [shot.program] if shot.child else []), *lineage()]
        above = {f"proc.aname[{n}]": parents[n - 1] if n <= len(parents) else None for n in range(2, 8)}
        usual: dict[str, Any] = {
            "proc.name": program,
            "proc.exepath": str(BIN / program) if program != shot.program else shot.path,
            "proc.pname": parents[0],
            "proc.cmdline": " ".join([program, *arguments]),
            "proc.tty": 0,
            "user.uid": 0,
            "user.name": "root",
            "user.loginuid": -1,
            "container.id": CONTAINER_ID[:12] if shot.container else "host",
            **above,
        }
        given = {key: fill(value, texts) if isinstance(value, str) else value for key, value in shot.fields.items()}
        return {key: fill(value, texts) if isinstance(value, str) else value for key, value in usual.items()} | given

    def written(self) -> int:
        """How many records the kernel has written, by `bpfence status`."""
        done = subprocess.run(
            [*COMMAND, "status", "--json", "--pin-dir", PINS], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
        )
        counters = json.loads(done.stdout)["instances"][0]["counters"]
        return sum(counters[f"{ring}_written"] for ring in RINGS)


def fill(text: str, texts: dict[str, str]) -> str:
    """Names in braces replaced; in a pattern they are taken literally."""
    for name, value in texts.items():
        text = text.replace(f"{{{name}}}", re.escape(value) if text.startswith("~") else value)
    return text


def agrees(value: Any, wanted: Any) -> bool:
    """Whether an output field is what it should be."""
    if isinstance(wanted, str) and wanted.startswith("~"):
        return value is not None and re.fullmatch(wanted[1:], str(value)) is not None
    return type(value) is type(wanted) and value == wanted


def output_fields(alert: dict[str, Any]) -> dict[str, Any]:
    """Name to value of `falco.output_fields` in a flattened alert."""
    prefix = "dialect.falco.output_fields."
    return {key.removeprefix(prefix): value for key, value in alert.items() if key.startswith(prefix)}


def differences(shot: Shot, alert: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What is wrong with an alert's output, in words."""
    found = output_fields(alert)
    wrong = [f"{name} is not in the output" for name in shot.fields if name not in found]
    differ = [name for name, value in wanted.items() if name in found and not agrees(found[name], value)]
    wrong += [f"{name} is {found[name]!r}, not {wanted[name]!r}" for name in differ]
    may_lack = {*shot.absent, *(name for name, value in wanted.items() if value is None)}
    lacking = [name for name, value in found.items() if value is None and name not in may_lack and not UNFILLED.fullmatch(name)]
    wrong += [f"{name} has no value" for name in lacking]
    text = str(alert.get("dialect.falco.output"))
    shown = {name: value for name, value in found.items() if isinstance(value, str) and name in shot.fields}
    wrong += [f"{name} is not in the text {text!r}" for name, value in shown.items() if value not in text]
    wrong += [f"{name} is {alert.get(name)!r}, not {value!r}" for name, value in shot.native.items() if alert.get(name) != value]
    return wrong


@contextmanager
def falco_range(folder: Path, shots: Sequence[Shot]) -> Iterator[FalcoRange]:
    """The agent up before, stopped after."""
    whole = FalcoRange(folder)
    try:
        whole.prepare(shots)
        whole.start()
        yield whole
    finally:
        whole.close()
