# SPDX-License-Identifier: Apache-2.0
"""KubeArmor's policies in force: for each kind of entry an attack that is denied, or reported, and its twin that is let alone.

One agent, one set of policies. The workloads are cgroups that a source of containers tells of: `web`, whose policies block and report,
`listed`, which may do nothing but what an allow list says, by the posture `block`, and `noted`, the same in a namespace with the posture
`audit`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from bpfence.agent.agent import Agent, Settings
from bpfence.dialects.kubearmor.dialect import KUBEARMOR
from bpfence.dialects.kubearmor.show import line_as_json
from bpfence.workloads.model import Container, Pod
from tests.kernel.cases import PLAYGROUND
from tests.kernel.harness import TRIGGER, TRIGGER_FAILED, Playground, cgroup_folder, outcome, run_act
from tests.kernel.test_containers import until
from tests.unit.agent.fakes import Kept

HEAD: Final = """---
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
  severity: 7
  tags: [T1552]
  message: "{{{name}}}"
"""
WEB: Final = """
  file:
    matchPaths:
      - path: {dir}/secret
      - {{path: {dir}/config, readOnly: true}}
      - {{path: {dir}/owned, ownerOnly: true}}
      - {{path: {dir}/sourced, fromSource: [{{path: {dir}/source}}]}}
      - {{path: {dir}/seen, action: Audit}}
    matchDirectories:
      - dir: {dir}/flat/
      - {{dir: {dir}/deep/, recursive: true}}
    matchPatterns:
      - pattern: {dir}/some/**/*.key
    action: Block
  process:
    matchPaths:
      - path: {dir}/tool
      - {{path: {dir}/child, fromSource: [{{path: {dir}/source}}]}}
      - {{path: {dir}/noted, action: Audit}}
      - {{path: {dir}/handless, pts: false}}
      - {{path: {dir}/worded, allowedArgs: [ok]}}
      - {{path: {dir}/scripted, allowedArgs: [ok]}}
    matchDirectories:
      - dir: {dir}/tools/
  network:
    matchProtocols:
      - protocol: udp
      - {{protocol: raw, fromSource: [{{path: {dir}/source}}]}}
  capabilities:
    matchCapabilities:
      - capability: sys_admin
  syscalls:
    matchSyscalls:
      - syscall: [chmod, fchmod, fchmodat, fchmodat2]
      - {{syscall: [mkdir, mkdirat], fromSource: [{{path: {dir}/source}}]}}
    matchPaths:
      - {{path: {dir}/measured, syscall: [truncate, ftruncate]}}
      - {{path: {dir}/made/, recursive: true, syscall: [rmdir, unlinkat], fromSource: [{{path: {dir}/child}}]}}
  presets:
    - {{name: filelessExec}}
    - {{name: anonMapExec}}
    - {{name: protectEnv}}
    - {{name: exec}}
"""
GUARDED: Final = """
  presets:
    - {{name: protectProc}}
"""
TRAFFIC: Final = """---
apiVersion: security.kubearmor.com/v1
kind: KubeArmorNetworkPolicy
metadata: {name: traffic}
spec:
  selector: {matchLabels: {app: web}}
  egress:
    - {to: [{ipBlock: {cidr: 10.1.0.0/16}}], ports: [{port: http, endPort: 90, protocol: TCP}]}
  ingress:
    - {ports: [{port: "4455", protocol: TCP}]}
"""
LISTED: Final = """
  action: Allow
  process:
    matchPaths:
      - path: {trigger}
      - path: {dir}/source
  file:
    matchDirectories:
      - {{dir: /proc/, recursive: true}}
      - {{dir: /dev/, recursive: true}}
      - {{dir: {dir}/allowed/, recursive: true}}
      - {{dir: {dir}/read/, recursive: true, readOnly: true}}
      - {{dir: {dir}/data/, recursive: true, fromSource: [{{path: {dir}/source}}]}}
      - {{dir: {dir}/data/, recursive: true, action: Block}}
    matchPaths:
      - {{path: {dir}/data/free}}
  network:
    matchProtocols:
      - protocol: tcp
"""
FILES: Final = (
    "secret", "config", "measured", "made/a", "owned", "sourced", "seen", "other", "flat/a", "flat/sub/a", "deep/a", "deep/sub/a",
    "some/a.key", "some/x/a.key", "some/x/y/a.key", "some/x/a.txt", "allowed/a", "read/a", "data/a", "data/b", "data/free",
)  # fmt: skip
PROGRAMS: Final = ("source", "tool", "child", "noted", "handless", "worded", "tools/tool", "tools/sub/tool")


class Way(NamedTuple):
    """One act in the workload `where`. `entry`: what the alert is of; "": nothing is told. `result`: what becomes of it."""

    where: str
    act: str
    entry: str = ""
    result: str = "EACCES"


WAYS: Final = (
    Way("web", "open secret", "file.matchPaths[0]"),
    Way("web", "open secret wronly", "file.matchPaths[0]"),
    Way("web", "unlink secret", "file.matchPaths[0]"),
    Way("web", "rename other secret", "file.matchPaths[0]"),
    Way("web", "truncate secret", "file.matchPaths[0]"),
    Way("web", "open other", result="ok"),
    Way("web", "write config", "file.matchPaths[1]"),
    Way("web", "truncate config", "file.matchPaths[1]"),
    Way("web", "rename config away", "file.matchPaths[1]"),
    Way("web", "open config", result="ok"),
    Way("web", "as 1000 open owned", "file.matchPaths[2]"),
    Way("web", "open owned", result="ok"),
    Way("web", "exec source open sourced", "file.matchPaths[3]"),
    Way("web", "open sourced", result="ok"),
    Way("web", "open seen", "file.matchPaths[4]", "ok"),
    Way("web", "open flat/a", "file.matchDirectories[0]"),
    Way("web", "rename flat moved", "file.matchDirectories[0]"),
    Way("web", "open flat/sub/a", result="ok"),
    Way("web", "open deep/sub/a", "file.matchDirectories[1]"),
    Way("web", "open some/x/y/a.key", "file.matchPatterns[0]"),
    Way("web", "open some/x/a.key", "file.matchPatterns[0]"),
    Way("web", "open some/a.key", result="ok"),
    Way("web", "open some/x/a.txt", result="ok"),
    Way("web", "exec tool ok", "process.matchPaths[0]"),
    Way("web", "exec source exec child ok", "process.matchPaths[1]"),
    Way("web", "exec child ok", result="ok"),
    Way("web", "exec noted ok", "process.matchPaths[2]", "ok"),
    Way("web", "on-tty exec handless ok", "process.matchPaths[3]"),
    Way("web", "exec handless ok", result="ok"),
    Way("web", "exec worded ok", result="ok"),
    Way("web", "exec worded open other", "process.matchPaths[4].allowedArgs", "killed"),
    Way("web", "exec scripted ok", "process.matchPaths[5]"),
    Way("web", "exec tools/tool ok", "process.matchDirectories[0]"),
    Way("web", "exec tools/sub/tool ok", result="ok"),
    Way("web", "socket udp", "network.matchProtocols[0]"),
    Way("web", "socket tcp", result="ok"),
    Way("web", "exec source socket raw", "network.matchProtocols[1]"),
    Way("web", "socket raw", result="ok"),
    Way("web", "chmod other 0600", "syscalls.matchSyscalls[0]", "ok"),
    Way("web", "exec source mkdir made/by", "syscalls.matchSyscalls[1]", "ok"),
    Way("web", "exec child rmdir made/by", "syscalls.matchPaths[1]", "ok"),
    Way("web", "mkdir made/own", result="ok"),
    Way("web", "rmdir made/own", result="ok"),
    Way("web", "truncate measured", "syscalls.matchPaths[0]", "ok"),
    Way("web", "truncate other", result="ok"),
    Way("web", "connect 10.1.2.3 85", "egress[0]"),
    Way("web", "connect 10.1.2.3 91", result="ok"),
    Way("web", "listen 0.0.0.0 4455", "ingress[0]"),
    Way("web", "listen 127.0.0.1 4455", result="ok"),
    Way("web", "listen 0.0.0.0 4456", result="ok"),
    Way("web", "exec-memfd child", "presets[0]"),
    Way("web", "exec-deleted child", "presets[0]"),
    Way("web", "memory-map rwx", "presets[1]"),
    Way("web", "memory-protect rw rx", "presets[1]"),
    Way("web", "memory-map rw", result="ok"),
    Way("web", "open /proc/1/environ", "presets[2]"),
    Way("web", "open /proc/1/task/1/environ", "presets[2]"),
    Way("web", "open /proc/1/stat", result="ok"),
    Way("web", "open /proc/self/environ", result="ok"),
    Way("web", "open /proc/thread-self/environ", result="ok"),
    Way("web", "enter on-tty exec child ok", "presets[3]"),
    Way("web", "enter exec child ok", result="ok"),
    Way("web", "on-tty exec child ok", result="ok"),
    Way("guarded", "open /proc/1/stat", "presets[0]"),
    Way("guarded", "open /proc/1/root/etc/passwd", "presets[0]"),
    Way("guarded", "open /proc/self/stat", result="ok"),
    Way("guarded", "open /proc/self/root/etc/passwd", result="ok"),
    Way("guarded", "open /proc/meminfo", result="ok"),
    Way("guarded", "enter on-tty exec child ok", result="ok"),
    Way("listed", "open allowed/a", result="ok"),
    Way("listed", "write allowed/a", result="ok"),
    Way("listed", "open read/a", result="ok"),
    Way("listed", "write read/a", "file.matchDirectories[3]"),
    Way("listed", "open data/a", "file.matchDirectories[5]"),
    Way("listed", "exec source open data/a", result="ok"),
    Way("listed", "open data/free", result="ok"),
    Way("listed", "exec source rename data/b data/moved", result="ok"),
    Way("listed", "rename data/free data/c", "file.matchDirectories[5]"),
    Way("listed", "open secret", "file"),
    Way("listed", "rename allowed/a taken", "file"),
    Way("listed", "exec tool ok", "process"),
    Way("listed", "socket tcp", result="ok"),
    Way("listed", "socket unix", result="ok"),
    Way("listed", "socket udp", "network"),
    Way("noted", "open allowed/a", result="ok"),
    Way("noted", "write read/a", "file.matchDirectories[3]"),
    Way("noted", "open secret", "file-audit", "ok"),
    Way("noted", "open data/free", result="ok"),
    Way("outside", "open secret", result="ok"),
    Way("outside", "open /proc/1/environ", result="ok"),
    Way("outside", "exec tool ok", result="ok"),
    Way("outside", "exec worded open other", result="ok"),
    Way("outside", "exec scripted ok", result="ok"),
    Way("outside", "exec-memfd child ok", result="ok"),
    Way("outside", "memory-map rwx", result="ok"),
    Way("outside", "connect 10.1.2.3 85", result="ok"),
    Way("outside", "listen 0.0.0.0 4455", result="ok"),
)
IDS: Final = {"web": "a" * 64, "listed": "b" * 64, "outside": "c" * 64, "noted": "d" * 64, "guarded": "e" * 64, "seen": "f" * 64}


class Shop:
    """An agent in this process, and containers."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        for name in FILES:
            (self.files / name).parent.mkdir(parents=True, exist_ok=True)
            (self.files / name).write_text(name)
        for name in PROGRAMS:
            (self.files / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TRIGGER, self.files / name)
        (self.files / "scripted").write_text("#!/bin/sh\nexit 0\n")
        (self.files / "scripted").chmod(0o755)
        policies = folder / "policies"
        policies.mkdir()
        texts = (
            (HEAD + body).format(name=app, app=app, dir=self.files, trigger=TRIGGER)
            for app, body in (("web", WEB), ("listed", LISTED), ("guarded", GUARDED))
        )
        (policies / "all.yaml").write_text("".join(texts) + TRAFFIC)
        self.lines = Kept()
        self.said: list[str] = []
        given = {
            "labels": (),
            "unknown": "outside",
            "config": None,
            "visible": "none",
            "host_visible": None,
            **{f"{host}{name}": "block" for host in ("", "host_") for name in ("file", "network", "capabilities")},
        }
        options = {KUBEARMOR.name: KUBEARMOR.choose(given)}
        settings = Settings(policies=(str(policies),), state_dir=folder / "state", drop_privileges=False, options=options)
        self.agent = Agent(settings, self.lines, report=self.said.append)
        self.agent.start()
        self.folders = {name: cgroup_folder(f"/kubepods/{identity}") for name, identity in IDS.items()}
        self.agent.containers.found("test", [_container(name) for name in IDS])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        assert until(lambda: not self.agent.containers.due)

    def _work(self) -> None:
        while not self._stop.is_set():
            self.agent.step(0.2)

    def act(self, way: Way) -> str:
        """What becomes of an act; names of files of the playground become their paths."""
        names = {*FILES, *PROGRAMS, "flat", "moved", "away", "taken", "data/moved", "data/c", "made/by", "made/own", "scripted"}
        words = [str(self.files / word) if word in names else word for word in way.act.split()]
        if words[0] == "enter":
            return self.entered(words[1:], self.folders[way.where])
        return run_act(words, self.folders[way.where]).result

    def entered(self, words: list[str], folder: Path) -> str:
        """What becomes of an act of a process that is put into the pid namespace and the cgroup of a container, as runtimes do it."""
        first = ["sh", "-c", f'echo 0 >"{folder}/cgroup.procs"; echo $$; exec sleep 600']
        with subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", *first], stdout=subprocess.PIPE, text=True) as container:
            assert container.stdout is not None
            assert container.stdout.readline() == "1\n"
            inside = f'echo 0 >"{folder}/cgroup.procs" || exit {TRIGGER_FAILED}; exec "$@"'
            joins = ["nsenter", f"--pid=/proc/{container.pid}/ns/pid_for_children", "sh", "-c", inside, "sh", str(TRIGGER)]
            done = subprocess.run([*joins, *words], capture_output=True, text=True, check=False)
            container.kill()  # unshare(1) blocks SIGTERM
        return outcome(done.returncode, done.stdout, done.stderr).result

    def alerts(self) -> list[dict[str, Any]]:
        """What was told, in KubeArmor's form, each with the rule that it is of."""
        return [{**json.loads(line_as_json(line)), "rule": line.rule} for line in self.lines.lines if getattr(line, "kind", "") == "alert"]

    def logs(self) -> list[dict[str, Any]]:
        """What was seen and is no alert, in KubeArmor's form."""
        return [json.loads(line_as_json(line)) for line in self.lines.lines if getattr(line, "kind", "") == "event"]

    def told(self, way: Way, outcomes: dict[Way, str]) -> list[str]:
        """The rules whose alerts an act has brought, once there are any. What becomes of it goes to `outcomes`."""
        before = len(self._rules())
        outcomes[way] = self.act(way)
        assert until(lambda: len(self._rules()) > before, 20), (way, outcomes[way], self.said)
        return sorted(set(self._rules()[before:]))

    def _rules(self) -> list[str]:
        """Those of all alerts but that of the capability, which the kernel asks for on many occasions."""
        return [rule for alert in self.lines.dicts("alert") if not (rule := str(alert["rule"])).startswith("capabilities.")]

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.agent.stop()


def _container(name: str) -> Container:
    app, annotations = ("listed", {"kubearmor-file-posture": "audit"}) if name == "noted" else (name, {})
    if name == "seen":
        annotations = {"kubearmor-visibility": "process,file"}
    pod = Pod(f"{name}-0", "shop", labels={"app": app}, namespace_annotations=annotations)
    return Container(IDS[name], f"/kubepods/{IDS[name]}", name=name, image="docker.io/library/nginx:1.27", runtime="containerd", pod=pod)


@pytest.fixture(scope="module")
def shop(playground: Playground) -> Iterator[Shop]:
    folder = PLAYGROUND / "kubearmor"  # where everybody may look
    folder.mkdir()
    made = Shop(folder)
    try:
        yield made
    finally:
        made.close()


def test_every_kind_of_entry(shop: Shop) -> None:
    """All of them in one test: an agent's way from an act to its line is the same for each."""
    twins, attacks = [way for way in WAYS if not way.entry], [way for way in WAYS if way.entry]
    outcomes = {way: shop.act(way) for way in twins}
    assert shop.told(attacks[0], outcomes) == ["file.matchPaths[0]"]  # records keep their order: of the twins nothing was told
    told = {way: shop.told(way, outcomes) for way in attacks[1:]}
    assert outcomes == {way: way.result for way in WAYS}
    assert told == {way: [way.entry] for way in attacks[1:]}
    alerts = shop.alerts()
    for alert in alerts:
        where = {"DefaultPosture": "listed", "traffic": "web"}.get(alert["PolicyName"], alert["PolicyName"])
        assert (alert["NamespaceName"], alert["Labels"]) == ("shop", f"app={where}")
        assert alert["PodName"] in ((f"{where}-0", "noted-0") if where == "listed" else (f"{where}-0",))
        blocked = alert["Action"] == "Block"
        late = alert["rule"].endswith(".allowedArgs")  # the program is there when its arguments are
        assert alert["Result"] == ("Killed" if late else "Permission denied" if blocked else "Passed"), alert
    audited = {alert["rule"] for alert in alerts if alert["Action"] == "Audit"}
    assert audited == {way.entry for way in attacks if way.result == "ok"}
    assert {alert["Operation"] for alert in alerts} >= {"File", "Process", "Network", "NetworkFirewall", "Syscall"}
    first = next(alert for alert in alerts if alert["rule"] == attacks[0].entry)
    assert (first["Severity"], first["ATags"], first["Message"], first["Data"]) == ("7", ["T1552"], "{web}", "lsm=FILE_OPEN")
    assert (shop.files / "secret").read_text() == "secret"


def test_a_capability(shop: Shop) -> None:
    """Its name is told with the alert; whatever else asks for it, as the kernel does for a task of its own, may be told too."""
    before = len(shop.alerts())
    assert shop.act(Way("web", "sethostname")) == "EPERM"  # the kernel's own error for a capability that is missing
    assert until(lambda: any(alert["rule"] == "capabilities.matchCapabilities[0]" for alert in shop.alerts()[before:]))
    told = next(alert for alert in shop.alerts()[before:] if alert["rule"] == "capabilities.matchCapabilities[0]")
    assert (told["Operation"], told["Resource"].lower().removeprefix("cap_")) == ("Capabilities", "sys_admin")
    assert shop.act(Way("outside", "sethostname")) == "ok"


def test_what_a_namespace_makes_visible(shop: Shop) -> None:
    """Files and programs are logs, sockets not; of its twin in another namespace, of which nothing is visible, nothing is told."""
    other, tool = str(shop.files / "other"), str(shop.files / "tool")
    for where in ("outside", "seen"):
        for act in ("socket udp", "open other", "exec tool ok"):
            assert shop.act(Way(where, act)) == "ok"
    assert until(lambda: any(log["Resource"].startswith(tool) for log in shop.logs()), 20)
    logs = shop.logs()
    assert {(log["Type"], log["PodName"]) for log in logs} == {("ContainerLog", "seen-0")}
    assert {log["Operation"] for log in logs} == {"File", "Process"}
    assert [log["Result"] for log in logs if log["Resource"] == other] == ["Passed"]
    [executed] = [log for log in logs if log["Resource"].startswith(tool)]
    assert (executed["ProcessName"], executed["Source"], executed["Operation"]) == (tool, str(TRIGGER), "Process")
