# SPDX-License-Identifier: Apache-2.0
"""Containers of real engines under a real agent: by containerd's CRI, with the hook or NRI, Docker and Podman, of runc and crun.

One agent and one of each engine for all tests of this file, in order: before, while and after the agent is killed. Most need more starts
than an emulated machine has time for in CI, and run by `pytest --kernels 6.12 --whole tests/kernel/test_runtimes.py` (selection.yaml);
BPFENCE_STARTS and BPFENCE_ROUNDS ask for more starts still.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from bpfence.kernel.libbpf import Map
from bpfence.workloads.install import NRI_PLUGIN, Asked, Host, OnFailure, install, uninstall
from tests.kernel import runtimes
from tests.kernel.cases import ROOT, read_yaml, write_yaml
from tests.kernel.harness import COMMAND, SENTINEL, Agent, Playground, go_out
from tests.kernel.runtimes import (
    GUARDED,
    LABELLED,
    NOT_STARTED,
    PLAIN,
    PUBLIC,
    SECONDS,
    SECRET,
    WAIT,
    Bundle,
    Cri,
    Daemon,
    Docker,
    Done,
    Engine,
    Nri,
    Podman,
    Wanted,
)
from tests.kernel.test_uncertain import kernel_map

STARTS: Final = int(os.environ.get("BPFENCE_STARTS", "1"))
ROUNDS: Final = int(os.environ.get("BPFENCE_ROUNDS", "3"))
ENGINES: Final = ("containerd", "docker", "podman", "nri")
"""The last is another containerd, which asks plugins of NRI."""
FAILURE: Final[dict[str, OnFailure]] = {"containerd": "allow", "docker": "deny", "podman": "deny", "nri": "deny"}
"""What each engine's hook is to do where no agent answers."""
REAL: Final = {"containerd": ("runc", "crun"), "docker": ("crun", "runc"), "podman": ("crun", "runc"), "nri": ("runc",)}
"""What makes each engine's containers, and what makes one of them instead. crun of Debian 12 does not know the containerd with NRI."""
PATIENT, IMPATIENT = 200.0, 2.0
"""Seconds that hooks wait for the agent; an emulated machine takes its time."""
PINS: Final = "/sys/fs/bpf/bpfence-runtimes"
EPERM = 1
OPEN_SECRET, OPEN_PUBLIC = ("/trigger", "open", SECRET), ("/trigger", "open", PUBLIC)
BOTH: Final = ("/bin/sh", "-c", f"/trigger open {SECRET}; /trigger open {PUBLIC}")
WAITING: Final = {
    "kept": ("/bin/sh", "-c", f"/trigger open {SECRET}; exec {shlex.join(WAIT)}"),
    "twin": ("/bin/sh", "-c", f"/trigger open {SECRET} && /trigger open {PUBLIC} && exec {shlex.join(WAIT)}"),
}
"""What containers that stay do first. The twin does not stay where anything of it is denied."""
LIMITS: Final[Mapping[str, Any]] = {"pids": 64, "memory": 64 << 20, "cpu": 0.5}
GUARD: Final = ROOT / "examples" / "policies" / "container-escape-guard.yaml"
POLICIES: Final = f"""
apiVersion: bpfence.io/v1alpha1
kind: SecurityPolicy
metadata: {{name: guarded}}
spec:
  scope: {{image: "guarded:*"}}
  rules:
    - {{name: secret, on: open, match: {{file.path: {SECRET}}}, action: deny, rate: 100000/s}}
---
apiVersion: bpfence.io/v1alpha1
kind: SecurityPolicy
metadata: {{name: unknown-inside}}
spec:
  scope: {{image: "elsewhere:*", unknown: inside}}
  rules:
    - {{name: not-known, on: open, match: {{file.path: {PUBLIC}}}, action: deny, rate: 100000/s}}
---
apiVersion: bpfence.io/v1alpha1
kind: SecurityPolicy
metadata: {{name: labelled}}
spec:
  scope: {{labels: {{tier: front}}, namespace: shop, unknown: outside}}
  rules:
    - {{name: labelled, on: open, match: {{file.path: {LABELLED}}}, action: deny, rate: 100000/s}}
"""


def guard() -> dict[str, Any]:
    """The shipped policy, for all but one image, and with every alert."""
    policy: dict[str, Any] = read_yaml(GUARD.read_text())
    policy["spec"]["scope"]["unless"] = {"image": "plain:*"}
    for rule in policy["spec"]["rules"]:
        rule["rate"] = "100000/s"
    return policy


class Machine:
    """The agent, and the engines that have been asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agent = Agent(folder, "runtimes", rings=("decisions",))
        self.agent.write_policy(SENTINEL.name, SENTINEL.policy())
        (self.agent.policies / "guarded.yaml").write_text(POLICIES)
        (self.agent.policies / "guard.yaml").write_text(write_yaml(guard()))
        self.hook = folder / "hook" / "hook.sock"
        self.archive = runtimes.prepare(folder)
        self.daemons: dict[str, Daemon] = {}
        self.engines: dict[str, Engine] = {}
        self.kept: dict[tuple[str, int], str] = {}
        """Of an engine (0) a container that the policy is about and (1) one that it is not: they run until the end. Docker's have every
        privilege, much of the host, and its process ids."""

    def start(self, *more: str) -> None:
        """The agent, beside another one that may be there."""
        self.agent.start("--pin-dir", PINS, "--hook-socket", str(self.hook), *more)
        self.agent.settle()

    def put_hook(self, name: str, seconds: float = PATIENT, real: str = "") -> None:
        """As `bpfence hook install` does. `real`: which runtime makes the engine's containers from now on."""
        real = real or REAL[name][0]
        if name == "nri":
            install("containerd", Asked(FAILURE[name], seconds, str(self.hook), nri=True), Host())
        else:
            install(name, Asked(FAILURE[name], seconds, str(self.hook), real), Host())
        engine = self.engines.get(name)
        if isinstance(engine, Podman):
            engine.runtime = real

    def engine(self, name: str) -> Engine:
        """Started with the first question; skips where it is not installed."""
        if gone := runtimes.missing(name):
            pytest.skip(f"{gone} is not installed here")
        if name not in self.engines:
            began = time.monotonic()
            if name in ("containerd", "docker") and "containerd" not in self.daemons:
                self.daemons["containerd"] = runtimes.start_containerd(self.folder)
            if name == "nri":
                self.daemons[name] = runtimes.start_with_nri(self.folder, beside=True)
            if name == "docker":
                self.daemons[name] = runtimes.start_docker(self.folder)
            made: dict[str, Engine] = {}
            match name:
                case "podman":
                    made[name] = Podman(self.archive)
                case "docker":
                    made[name] = Docker(self.archive)
                case "nri":
                    made[name] = Nri(self.archive, self.daemons[name])
                case _:
                    made[name] = Cri(self.archive, self.daemons[name])
            self.engines |= made
            print(f"{name}: ready in {time.monotonic() - began:.0f} s", file=sys.stderr)
        return self.engines[name]

    def alerts(self, rule: str, wanted: int = 0) -> list[dict[str, Any]]:
        """What a rule has told since the last call. `wanted`: so many are waited for, as a container that starts may not have acted yet."""
        deadline = time.monotonic() + SECONDS
        found: list[dict[str, Any]] = []
        while True:
            found += [alert for alert in self.agent.settle() if alert.get("rule") == rule]
            if len(found) >= wanted or time.monotonic() > deadline:
                return found
            time.sleep(0.2)

    def stays(self, name: str, which: int = 0) -> str:
        """See `kept`; started with the first question."""
        engine = self.engine(name)
        if (name, which) not in self.kept:
            wanted = Wanted(GUARDED, WAITING["kept"], "kept", **LIMITS)
            if which:
                wanted = Wanted(PLAIN, WAITING["twin"], "twin")
            if name == "docker":
                self._hand_out()
                wanted = wanted._replace(privileged=True, mounts=MOUNTED, pid_host=True)
            self.kept[name, which] = engine.start(wanted)
        return self.kept[name, which]

    def _hand_out(self) -> None:
        """What of the host Docker's are given is there."""
        if not os.path.ismount(OLD_CGROUPS):
            Path(HARD).hardlink_to(Docker.SOCKET)
            Path(OLD_CGROUPS).mkdir()
            subprocess.run(["mount", "-t", "cgroup", "-o", "none,name=old", "cgroup", OLD_CGROUPS], check=True)

    def inside(self, name: str, which: int = 0) -> list[str]:
        """What becomes of the denied act and of the other, executed in the guarded container, or (1) in its twin."""
        return self.engine(name).execute(self.stays(name, which), BOTH).said.split()

    def clear(self) -> None:
        """Removes what is kept."""
        while self.kept:
            (name, _), identity = self.kept.popitem()
            self.engines[name].remove(identity)
        for engine in self.engines.values():
            engine.close()
        if os.path.ismount(OLD_CGROUPS):
            subprocess.run(["umount", OLD_CGROUPS], check=True)
            Path(OLD_CGROUPS).rmdir()
            Path(HARD).unlink()

    def close(self) -> None:
        self.clear()
        for daemon in reversed(self.daemons.values()):
            daemon.stop()
        runtimes.clean()
        for name in ("containerd", "docker", "podman"):
            uninstall(name, Host(), purge=True)
        if self.agent.process is not None and self.agent.process.poll() is None:
            self.agent.stop()


@pytest.fixture(scope="module")
def machine(playground: Playground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The hook is in place, and the agent up, before any engine is."""
    go_out()
    made = Machine(tmp_path_factory.mktemp("runtimes"))
    try:
        for name in ENGINES:
            if not runtimes.missing(name):
                made.put_hook(name)
        made.start()
        yield made
    finally:
        made.close()


HARD: Final = "/run/hard"
OTHER_NAME: Final = "/innocent.sock"
OLD_CGROUPS: Final = "/run/old-cgroups"
"""A hierarchy of cgroup v1, which has a release_agent."""
MOUNTED: Final = {"/run": "/host/run", "/run/docker.sock": "/var/run/docker.sock", "/sys/fs/cgroup": "/host/cgroup", HARD: OTHER_NAME}
"""What containers with privileges are handed of the host, whose process ids they have, too. Each of it makes a way out."""

each_engine = pytest.mark.parametrize("name", ENGINES)


def told(name: str, alerts: Sequence[Mapping[str, Any]]) -> None:
    """Whether alerts say which containers they are about."""
    assert {(alert["action"], alert["file.path"]) for alert in alerts} == {("deny", SECRET)}
    assert {alert["container.image"].removeprefix("docker.io/library/") for alert in alerts} == {"guarded:1"}
    assert all(re.fullmatch("[0-9a-f]{64}", alert["container.id"]) for alert in alerts)
    assert len({alert["container.id"] for alert in alerts}) == len(alerts)
    assert {alert.get("k8s.namespace") for alert in alerts} == {"shop" if name in ("containerd", "nri") else None}


@each_engine
def test_the_first_act_and_what_is_executed_later_are_denied(machine: Machine, name: str) -> None:
    """What the policy is not about is not denied in the same container."""
    machine.engine(name)
    machine.agent.settle()
    kept = machine.stays(name)
    alerts = machine.alerts("secret", 1)
    told(name, alerts)
    assert [(alert["container.id"], alert["container.name"]) for alert in alerts] == [(kept, "kept")]
    assert machine.inside(name) == ["EPERM", "OK"]
    [alert] = machine.alerts("secret")
    assert (alert["container.id"], alert["container.name"]) == (kept, "kept")


@each_engine
def test_without_the_hook_a_container_is_unknown(machine: Machine, name: str) -> None:
    """What the policies say of the unknown holds for its first acts. An engine may be asked just then, so it is tried some times."""
    engine = machine.engine(name)
    act = ["/bin/sh", "-c", f"/trigger open {SECRET} || exit 99; exec /trigger open {PUBLIC}"]
    results = []
    for _ in range(5):
        machine.agent.settle()
        results.append(engine.run(Wanted(GUARDED, act, hook=False)))
        if results[-1].code == EPERM:
            break
    assert results[-1].code == EPERM, results
    [alert] = machine.alerts("secret")
    assert (alert["action"], alert["mode"]) == ("audit", "audit")


@each_engine
def test_the_first_act_is_denied_in_each_start(machine: Machine, name: str) -> None:
    """With the hook in place, by either runtime. A container of another image does the same, and is not denied."""
    engine = machine.engine(name)
    machine.agent.settle()
    made: list[str] = []
    results: list[int] = []
    for real, starts in zip(REAL[name], (STARTS, (STARTS + 1) // 2), strict=False):
        machine.put_hook(name, real=real)
        began = time.monotonic()
        for n in range(starts):
            made.append(f"{real}{n}")
            results.append(engine.run(Wanted(GUARDED, OPEN_SECRET, made[-1])).code)
        print(f"{name}: {starts} starts by {real} in {time.monotonic() - began:.0f} s", file=sys.stderr)
    machine.put_hook(name)
    assert results == [EPERM] * len(made)
    alerts = machine.alerts("secret")
    told(name, alerts)
    assert [alert["container.name"] for alert in alerts] == made
    # The twin is known, and not what the second policy is for: it is not denied what the unknown are.
    assert machine.inside(name, 1) == ["OK", "OK"]
    assert machine.agent.settle() == []


def test_limits_of_containers(machine: Machine) -> None:
    """As `bpfence workloads` shows them, of every engine that is here."""
    if not machine.engines:
        pytest.skip("no engine is installed here")
    for name in machine.engines:
        machine.stays(name)
        machine.stays(name, 1)
    ran = subprocess.run([*COMMAND, "workloads", "--json"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode in (0, 1), ran.stderr
    shown = {one["id"]: one for one in json.loads(ran.stdout)["containers"]}
    for name in machine.engines:
        known = shown[machine.stays(name)]["limits"]
        assert {key: known[f"{key}_max"] for key in LIMITS} == LIMITS, (name, known)
        assert (known["pids_of"], known["memory_of"], known["none"]) == ("container", "container", []), (name, known)
        assert known["pids"] == 1, (name, known)
        assert known["memory"] > 0, (name, known)
        plain = shown[machine.stays(name, 1)]
        assert "memory" in plain["limits"]["none"], (name, plain)


ATTACKS: Final = {
    "mount": [
        "mount-tmpfs /mnt",
        "bind-mount /host/run /mnt",
        "remount /mnt",
        "fsmount /mnt",
        "in-bare-ns mount-tmpfs /mnt",
        "in-mount-ns mount-tmpfs /mnt",
        "mount32 /mnt",
        "open-tree-move /host/run /mnt",
    ],
    "namespaces": [
        "setns-new pidfd uts",
        "setns-new file uts",
    ],
    "host-programs": [
        "open /proc/sys/kernel/core_pattern wronly",
        "open /proc/sys/kernel/core_pattern wronly|append",
        "open /proc/self/root/proc/sys/kernel/core_pattern rdwr",
        "open-chdir /proc/sys/kernel core_pattern wronly",
        "open-proc-fd /proc/sys/kernel/core_pattern wronly",
        "open /tmp/link wronly",
        "open /proc/sys/kernel/modprobe wronly",
        "open /proc/sysrq-trigger wronly",
        "open /host/run/old-cgroups/release_agent wronly",
        "openat /host/run/old-cgroups release_agent wronly",
    ],
    "cgroups": [
        "open /host/cgroup/cgroup.procs wronly",
        "open /host/cgroup/cgroup.threads rdwr",
        "open-chdir /host/cgroup cgroup.procs wronly",
        "open /sys/fs/cgroup/below/cgroup.procs wronly",
        "open /host/run/old-cgroups/tasks wronly",
    ],
    "elsewhere": ["fork-into /host/cgroup"],
    "device-nodes": ["mkdev /tmp/device"],
    "host-devices": ["open /dev/mem", "open-chdir /dev mem"],
    "first-process": [
        "open /proc/1/root/etc/passwd",
        "open-chdir /proc 1/root/etc/passwd",
        "open /proc/1/cwd/etc/passwd",
        "proc-mem 1",
        *(f"setns /proc/1/ns/{kind}" for kind in ("uts", "mnt", "net", "ipc", "cgroup")),
    ],
    "host-processes": [f"open /proc/{os.getpid()}/root/etc/passwd", f"proc-mem {os.getpid()}", f"setns /proc/{os.getpid()}/ns/uts"],
    "": ["open-unattached sys/kernel/core_pattern proc wronly", "open-unattached cgroup.procs cgroup2 wronly"],
}
"""Of each rule of the guard ways to do what it is about; "": of any, which cannot tell what the file is called. All of them work in the
twin, which it is not about."""
SOCKETS: Final = [
    "unix-dial /var/run/docker.sock",
    "unix-dial /host/run/docker.sock",
    "unix-dial /host/run/../run/docker.sock",
    "unix-dial /tmp/socket",
    "unix-dial /host/run/hard",
    f"unix-dial {OTHER_NAME}",
    "unix-dial host/run/docker.sock",
    "unix-dial /proc/self/root/host/run/docker.sock",
    "unix-dial /host/run/containerd/containerd.sock",
]
"""Spellings of Docker's socket: in another folder, by symbolic and hard links, bound to another name, relative, by /proc."""
BENIGN: Final = [
    "open /proc/sys/kernel/core_pattern",
    "open /host/run/old-cgroups/release_agent",
    "creat /tmp/release_agent",
    "open /host/cgroup/cgroup.procs",
    "unshare-uts",
    "fork-by clone3",
    "open /dev/null rdwr",
    "open /dev/zero",
    "unix-bind /tmp/app.sock",
    "mkdir /sys/fs/cgroup/mine",
    "open /proc/self/root/etc",
    "open /proc/self/status",
]
DENIED: Final = ("EPERM", "EACCES", "Operation not permitted", "Permission denied")
"""By the act itself, or on the way to it."""
PREPARED: Final = "ln -sf /proc/sys/kernel/core_pattern /tmp/link; ln -sf /var/run/docker.sock /tmp/socket; mkdir -p /sys/fs/cgroup/below"


def answers(engine: Engine, identity: str, acts: Sequence[str]) -> dict[str, str]:
    """What each act of the trigger prints, executed in a container."""
    script = "; ".join(["cd /", PREPARED, *(f'echo "= $(/trigger {shlex.join(act.split())} 2>&1)"' for act in acts)])
    done = engine.execute(identity, ["/bin/sh", "-c", script])
    found = [line[2:] for line in done.said.splitlines() if line.startswith("= ")]
    assert len(found) == len(acts), done
    return dict(zip(acts, found, strict=True))


def told_of(machine: Machine, identity: str, acts: Sequence[str]) -> dict[str, set[tuple[str, str]]]:
    """Of each act the rules that have told of it, and what they did."""
    found: dict[str, set[tuple[str, str]]] = {act: set() for act in acts}
    for alert in machine.agent.settle():
        act = " ".join(alert.get("process.args", [])[1:])
        if alert.get("container.id") == identity and act in found:
            found[act].add((alert["rule"], alert["action"]))
    return found


def test_ways_out_of_a_container(machine: Machine) -> None:
    """The shipped guard, from inside of a container that has every privilege. In another one, which it excepts, each of the acts works."""
    docker = machine.engine("docker")
    caught, free = machine.stays("docker"), machine.stays("docker", 1)
    acts = {act: rule for rule, ways in ATTACKS.items() for act in ways}
    works = answers(docker, free, list(acts))
    assert {act: said for act, said in works.items() if not said.startswith("OK")} == {}
    machine.agent.settle()
    found = answers(docker, caught, list(acts))
    alerts = told_of(machine, caught, list(acts))
    denied = {act: any(does == "deny" and rule in ("", told) for told, does in alerts[act]) for act, rule in acts.items()}
    assert {act: (found[act], alerts[act]) for act in acts if not (denied[act] and found[act].endswith(DENIED))} == {}
    found = answers(docker, caught, BENIGN)
    alerts = told_of(machine, caught, BENIGN)
    assert {act: (found[act], alerts[act]) for act in BENIGN if not found[act].startswith("OK") or alerts[act]} == {}
    found = answers(docker, caught, SOCKETS)
    alerts = told_of(machine, caught, SOCKETS)
    assert {act: (found[act], alerts[act]) for act in SOCKETS if found[act] != "OK" or alerts[act] != {("runtime-socket", "audit")}} == {}


def as_asked(name: str, done: Done) -> bool:
    """Whether a container was refused where no agent answers, or started as one that is not known, as its hook is to."""
    return done.code == (EPERM if FAILURE[name] == "allow" else NOT_STARTED)


@pytest.mark.parametrize("name", ["containerd"])
def test_an_agent_that_does_not_answer(machine: Machine, name: str) -> None:
    """The hook waits no longer than it is to."""
    engine = machine.engine(name)
    assert machine.agent.process is not None
    machine.put_hook(name, IMPATIENT)
    machine.agent.process.send_signal(signal.SIGSTOP)
    try:
        done = engine.run(Wanted(GUARDED, OPEN_PUBLIC))
    finally:
        machine.agent.process.send_signal(signal.SIGCONT)
        machine.put_hook(name)
    assert as_asked(name, done), done
    machine.agent.settle()


@pytest.fixture(scope="module")
def killed(machine: Machine) -> None:
    assert machine.agent.process is not None
    machine.agent.settle()
    assert machine.agent.stop(signal.SIGKILL) == -signal.SIGKILL


@each_engine
@pytest.mark.usefixtures("killed")
def test_an_agent_that_is_killed(machine: Machine, name: str) -> None:
    """What runs stays guarded; what starts does as its hook is told."""
    assert machine.inside(name) == ["EPERM", "OK"]
    done = machine.engine(name).run(Wanted(GUARDED, OPEN_PUBLIC))
    assert as_asked(name, done), done


@pytest.fixture(scope="module")
def restarted(machine: Machine) -> None:
    machine.start("--nri-socket", runtimes.NRI)


@each_engine
@pytest.mark.usefixtures("restarted")
def test_an_agent_that_is_back(machine: Machine, name: str) -> None:
    machine.agent.settle()
    assert machine.inside(name) == ["EPERM", "OK"]
    done = machine.engine(name).run(Wanted(GUARDED, OPEN_SECRET, "again"))
    assert done.code == EPERM, done
    assert [alert["container.name"] for alert in machine.alerts("secret")] == ["kept", "again"]


@pytest.mark.usefixtures("restarted")
def test_an_agent_that_is_the_plugin(machine: Machine) -> None:
    """Nothing is installed. It knows the labels of the pod, too, before the first act; the twin is of another image."""
    engine = machine.engine("nri")
    NRI_PLUGIN.unlink()
    try:
        machine.agent.settle()
        done = engine.run(Wanted(GUARDED, OPEN_SECRET, "one"))
        assert done.code == EPERM, done
        told("nri", machine.alerts("secret", 1))
        done = engine.run(Wanted(PLAIN, ("/bin/sh", "-c", f"/trigger open {SECRET} && exec /trigger open {LABELLED}"), "two"))
        assert done.code == EPERM, done
        [alert] = machine.alerts("labelled", 1)
        assert (alert["container.name"], alert["k8s.namespace"]) == ("two", "shop")
    finally:
        machine.put_hook("nri")


def await_none(classes: Map) -> None:
    """The agent looks for containers that have ended each time when it looks for all."""
    deadline = time.monotonic() + SECONDS
    while classes.all_keys():
        assert time.monotonic() < deadline, classes.all_keys()
        time.sleep(0.5)


def test_nothing_is_left_of_what_the_engines_had(machine: Machine) -> None:
    if not machine.engines:
        pytest.skip("no engine is installed here")
    with kernel_map("workloads", PINS) as classes:
        assert classes.all_keys()
        machine.clear()
        await_none(classes)


def held(machine: Machine) -> dict[str, int]:
    """What the agent holds: kilobytes, threads, descriptors."""
    process = machine.agent.process
    assert process is not None
    status = Path(f"/proc/{process.pid}/status").read_text()
    return {
        "kilobytes": int(status.partition("VmRSS:")[2].split()[0]),
        "threads": int(status.partition("Threads:")[2].split()[0]),
        "descriptors": len(os.listdir(f"/proc/{process.pid}/fd")),
    }


@pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed here")
def test_nothing_is_left_of_containers_that_have_ended(machine: Machine, tmp_path: Path) -> None:
    """Of many by the wrapped runtime, of which each is another one, and denied in its first act."""
    image = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.image-name": GUARDED}
    bundle = Bundle(tmp_path, "runc", Path(SECRET), "0" * 64, **image)
    machine.put_hook("containerd")
    before: dict[str, int] = {}
    with kernel_map("workloads", PINS) as classes:
        for rounds in (1, ROUNDS):
            for n in range(rounds):
                bundle.become(f"{rounds:032x}{n:032x}")
                assert bundle.start(str(runtimes.WRAPPER)) == "EPERM"
            await_none(classes)
            now = held(machine)
            print(f"after {rounds} starts and stops: {now}", file=sys.stderr)
            machine.agent.settle()
            if before:
                assert now["kilobytes"] < before["kilobytes"] + 2048 + 2 * rounds, (before, now)
                assert now["threads"] <= before["threads"] + 4, (before, now)
                assert now["descriptors"] <= before["descriptors"] + 4, (before, now)
            before = now
