# SPDX-License-Identifier: Apache-2.0
"""Policies scoped by what runtimes say of containers: in force inside, not outside, and as soon as that changes."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from bpfence.agent.agent import Agent, Settings
from bpfence.compiler.workloads import selectors
from bpfence.dialects.native.read import load_text
from bpfence.evaluate import verdict
from bpfence.policy import with_doubts
from bpfence.workloads.cgroups import Tree
from bpfence.workloads.hook import HookServer
from bpfence.workloads.install import FOLDER, Asked, Host, install
from bpfence.workloads.model import Container, Pod
from bpfence.workloads.select import selected
from tests.kernel.cases import ROOT
from tests.kernel.harness import CGROUP_ROOT, Playground, cgroup_folder, enter, run_act
from tests.kernel.runtimes import Bundle
from tests.unit.agent.fakes import Kept

WEB, CACHE, JOB = "a" * 64, "b" * 64, "c" * 64
READER: Final = """
import sys
print("ready", flush=True)
for line in sys.stdin:
    try:
        open(line.rstrip("\\n")).close()
    except OSError as error:
        print(error.errno, flush=True)
    else:
        print(0, flush=True)
"""
POLICIES: Final = """
apiVersion: bpfence.io/v1alpha1
kind: SecurityPolicy
metadata: {{name: by-image}}
spec:
  scope: {{image: "nginx:*"}}
  rules:
    - {{name: image, on: open, match: {{file.path: {folder}/image}}, action: deny, rate: 100000/s}}
---
apiVersion: bpfence.io/v1alpha1
kind: SecurityPolicy
metadata: {{name: by-label}}
spec:
  scope: {{labels: {{tier: front}}, unknown: outside}}
  rules:
    - {{name: label, on: open, match: {{file.path: {folder}/label}}, action: deny}}
---
apiVersion: bpfence.io/v1alpha1
kind: SecurityPolicy
metadata: {{name: at-once}}
spec:
  scope: {{image: httpd, unknown: inside}}
  rules:
    - {{name: unknown, on: open, match: {{file.path: {folder}/unknown}}, action: deny}}
"""
TRACING: Final = """
apiVersion: cilium.io/v1alpha1
kind: TracingPolicy
metadata: {{name: by-workload}}
spec:
  kprobes:
    - call: security_file_open
      syscall: false
      args: [{{index: 0, type: file}}]
      selectors:
        - matchWorkloads: {{podSelector: {{matchLabels: {{tier: front}}}}}}
          matchArgs: [{{index: 0, operator: Equal, values: ["{folder}/image"]}}]
          matchActions: [{{action: Override, argError: -13}}]
        - matchWorkloads: {{containerSelector: {{matchLabels: {{repo: docker.io/library/nginx}}}}}}
          matchArgs: [{{index: 0, operator: Equal, values: ["{folder}/image"]}}]
          matchActions: [{{action: Override, argError: -2}}]
"""


class Reader:
    """A process in a cgroup that opens files when it is told to; it never executes anything again."""

    def __init__(self, cgroup: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", READER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: enter(cgroup),  # noqa: PLW1509
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def open(self, path: Path) -> int:
        """0, or the errno."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def container(identity: str, **known: Any) -> Container:
    return Container(id=identity, cgroup=f"/docker/{identity}", runtime="docker", **known)


def until(true: Callable[[], bool], seconds: float = 120) -> bool:
    """Whether something becomes true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


class Running:
    """An agent in this process, its loop in a thread."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        self.files.mkdir(parents=True)
        for name in ("image", "label", "unknown"):
            (self.files / name).write_text(name)
        policies = folder / "policies"
        policies.mkdir()
        self.policies = policies / "all.yaml"
        self.policies.write_text(POLICIES.format(folder=self.files))
        self.lines = Kept()
        self.said: list[str] = []
        settings = Settings(policies=(str(policies),), state_dir=folder / "state", drop_privileges=False)
        self.agent = Agent(settings, self.lines, report=self.said.append)
        self.agent.start()
        self._stop, self._reload = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.is_set():
            if self._reload.is_set() and not self.agent.reloading:
                self._reload.clear()
                self.agent.reload()
            self.agent.step(0.2)

    def reload(self, text: str) -> None:
        """Other policies, in force when this returns."""
        self.policies.write_text(text)
        before = self.lines.statuses()
        self._reload.set()
        assert until(lambda: self.lines.statuses() != before)
        assert self.lines.statuses()[-1] == "reloaded", self.said

    def alerts(self, rule: str) -> list[dict[str, Any]]:
        return [alert for alert in self.lines.dicts("alert") if alert["rule"] == rule]

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.agent.stop()


@pytest.fixture(scope="module")
def running(playground: Playground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running(tmp_path_factory.mktemp("containers"))
    try:
        yield made
    finally:
        made.close()


@contextmanager
def reading(*identities: str) -> Iterator[list[Reader]]:
    folders = [cgroup_folder(f"/docker/{identity}") for identity in identities]
    readers = [Reader(folder) for folder in folders]
    try:
        yield readers
    finally:
        for reader in readers:
            reader.close()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            until(lambda folder=folder: not folder.exists() or _removed(folder))


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def test_what_is_said_of_a_container_puts_it_into_scopes_and_out(running: Running) -> None:
    image, label = running.files / "image", running.files / "label"
    containers = running.agent.containers
    with reading(WEB, CACHE) as (web, cache):
        # Nobody has told of them: by-image only reports.
        assert [web.open(image), web.open(label)] == [0, 0]
        assert until(lambda: bool(running.alerts("image")))
        assert {(alert["action"], alert["mode"]) for alert in running.alerts("image")} == {("audit", "audit")}
        assert running.alerts("image")[0]["container"]["id"] == WEB

        known = container(WEB, name="web", image="docker.io/library/nginx:1.27", labels={"tier": "back"})
        other = container(CACHE, name="cache", image="redis:7")
        containers.found("test", [known, other])
        assert until(lambda: web.open(image) == 1)
        assert [web.open(label), cache.open(image), cache.open(label)] == [0, 0, 0]
        assert until(lambda: any(alert["action"] == "deny" for alert in running.alerts("image")))
        denied = next(alert for alert in running.alerts("image") if alert["action"] == "deny")
        assert (denied["container"]["name"], denied["container"]["image"]) == ("web", "docker.io/library/nginx:1.27")

        tables = running.agent.life.tables.compiled
        began = time.monotonic()
        containers.found("test", [msgspec.structs.replace(known, labels={"tier": "front"}), other])
        assert until(lambda: web.open(label) == 1)
        print(f"relabelled in {time.monotonic() - began:.2f} s", file=sys.stderr)
        assert [cache.open(label), web.open(image)] == [0, 1]
        containers.found("test", [known, other])
        assert until(lambda: web.open(label) == 0)
        assert web.open(image) == 1
        assert running.agent.life.tables.compiled is tables  # nothing was compiled for it

        # Whatever a container makes below its cgroup.
        deep = cgroup_folder(f"/docker/{WEB}/x/docker/{'d' * 64}/" + "/".join("y" * 20))
        assert run_act(["open", str(image)], deep).result == "EPERM"
        for made in (deep, *deep.parents):
            if made == CGROUP_ROOT / "docker" / WEB:
                break
            assert until(lambda made=made: _removed(made))
    assert image.read_text() == "image"
    containers.found("test", [])
    with running.agent.life.engine._lock:  # type: ignore[attr-defined]
        assert running.agent.life.engine._maps["workloads"].all_keys() == []  # type: ignore[attr-defined]


def test_selectors_of_a_tracing_policy_have_workloads_of_their_own(running: Running) -> None:
    image, label = running.files / "image", running.files / "label"
    containers = running.agent.containers
    running.reload(TRACING.format(folder=running.files))
    front = container(WEB, image="nginx:1", pod=Pod("web-0", "shop", labels={"tier": "front"}))
    other = container(CACHE, image="nginx:2", pod=Pod("web-1", "shop", labels={"tier": "back"}))
    try:
        with reading(WEB, CACHE) as (web, cache):
            assert [web.open(image), cache.open(image)] == [0, 0]  # nobody has told of them
            containers.found("test", [front, other])
            assert until(lambda: [web.open(image), cache.open(image)] == [13, 2])
            assert [web.open(label), cache.open(label)] == [0, 0]
            containers.found("test", [msgspec.structs.replace(front, pod=other.pod), msgspec.structs.replace(other, image="redis:2")])
            assert until(lambda: [web.open(image), cache.open(image)] == [2, 0])
        assert image.read_text() == "image"
    finally:
        containers.found("test", [])
        running.reload(POLICIES.format(folder=running.files))


def test_a_container_that_is_registered_is_known_by_its_first_act(running: Running) -> None:
    image, unknown = running.files / "image", running.files / "unknown"
    folder = cgroup_folder(f"/docker/{JOB}")
    try:
        # Unknown is inside for at-once, whatever it will turn out to be; by-image would only report.
        assert [run_act(["open", str(path)], folder).result for path in (image, unknown)] == ["ok", "EPERM"]
        running.agent.containers.register(container(JOB, image="nginx"), seconds=60)
        assert [run_act(["open", str(path)], folder).result for path in (image, unknown)] == ["EPERM", "ok"]
    finally:
        assert until(lambda: _removed(folder))
        running.agent.containers.found("test", [])
    assert running.agent.containers.containers() == []


TARGETS: Final = """
apiVersion: bpfence.io/v1alpha1
kind: SecurityPolicy
metadata: {name: targets}
spec:
  scope: {container: true}
  rules:
    - name: outside
      on: [ptrace, signal]
      match: {target.registered: false}
      unless: {target.cgroup: "**/docker/*{,/**}"}
      action: deny
    - {name: together, on: signal, condition: target.cgroup = process.cgroup, action: audit}
"""


def test_what_container_the_target_is_in(running: Running) -> None:
    """By its cgroup, or by what a runtime has said, wherever that has put it and however deep the target is below."""
    running.reload(TARGETS)
    folders = [cgroup_folder(path) for path in (f"/docker/{WEB}", f"/docker/{CACHE}/below", "/odd/told/below", "/odd/untold", "/plain")]
    readers = [Reader(folder) for folder in folders]
    web, cache, told, untold, plain = (reader.process.pid for reader in readers)
    try:
        running.agent.containers.found("test", [msgspec.structs.replace(container(JOB), cgroup="/odd/told")])
        assert until(lambda: not running.agent.containers.due)
        denied = {untold, plain, os.getpid()}
        for folder in (folders[0], folders[2]):
            for target in (web, cache, told, untold, plain, os.getpid()):
                found = [run_act(act, folder).result for act in (["proc-root", str(target)], ["signal", str(target), "0"])]
                assert found == (["EACCES", "EPERM"] if target in denied else ["ok", "ok"]), (folder, target)
        alerts = running.alerts("outside")
        assert all("cgroup" in alert["target"] for alert in alerts), alerts[:3]
        assert {(alert["target"]["pid"], alert["target"]["cgroup"]) for alert in alerts} >= {(untold, "/odd/untold"), (plain, "/plain")}
        assert {alert["target"]["pid"] for alert in running.alerts("together")} == {web, told}
        assert run_act(["proc-root", str(plain)], folders[3]).result == "ok"  # of no container: the policy is not about it
        running.agent.containers.found("test", [])
        assert until(lambda: run_act(["proc-root", str(told)], folders[0]).result == "EACCES")
    finally:
        for reader in readers:
            reader.close()
        for folder in (*folders, *(CGROUP_ROOT / name for name in (f"docker/{CACHE}", "odd/told", "odd"))):
            assert until(lambda folder=folder: _removed(folder))
        running.agent.containers.found("test", [])
        running.reload(POLICIES.format(folder=running.files))


IMAGES: Final = ("nginx", "nginx:1.27", "redis", "quay.io/app", "*/app", "*")
LABELS: Final = ("{tier: front}", "{tier: back}", "{matchExpressions: [{key: tier, operator: NotIn, values: [front]}]}")


def random_scope(rng: random.Random) -> str:
    """A scope of one or two tests on containers, a posture, and perhaps an exception."""
    tests = {
        "image": f"['{rng.choice(IMAGES)}', httpd]",
        "labels": rng.choice(LABELS),
        "namespace": rng.choice(("shop", "s*", "prod")),
        "container": rng.choice(("true", "'n*'")),
        "runtime": rng.choice(("docker", "podman")),
    }
    chosen = {key: tests[key] for key in rng.sample(sorted(tests), rng.choice((1, 1, 2)))}
    if rng.random() < 0.3:
        chosen["unless"] = f"{{image: '{rng.choice(IMAGES)}'}}"
    if chosen != {"container": "true"}:
        chosen["unknown"] = rng.choice(("inside", "outside", "audit"))
    return "{" + ", ".join(f"{key}: {value}" for key, value in chosen.items()) + "}"


def random_policies(rng: random.Random, paths: Sequence[Path]) -> str:
    """One policy a path, which denies it to be opened."""
    text = ""
    for n, path in enumerate(paths):
        text += f"---\napiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {{name: p{n}}}\nspec:\n"
        text += f"  scope: {random_scope(rng)}\n  rules:\n    - {{name: r, on: open, match: {{file.path: {path}}}, action: deny}}\n"
    return text


def random_container(rng: random.Random, identity: str) -> Container | None:
    """None: nobody tells of it."""
    if rng.random() < 0.2:
        return None
    known: dict[str, Any] = {}
    if rng.random() < 0.8:
        known = {"image": rng.choice(("nginx:1.27", "redis", "quay.io/app:2", "library/httpd")), "name": rng.choice(("n1", "other"))}
        known["labels"] = rng.choice(({"tier": "front"}, {"tier": "back"}, {}))
        if rng.random() < 0.5:
            known["pod"] = Pod("p", rng.choice(("shop", "prod")), labels=rng.choice(({"tier": "front"}, {})))
    return container(identity, **known)


@pytest.mark.parametrize("seed", [int(os.environ.get("BPFENCE_SEED", "1")), 2])
def test_random_scopes_agree_with_the_reference(running: Running, seed: int) -> None:
    """For containers that come, change and are not known, of more classes than tables have from the start."""
    rng = random.Random(seed)
    paths = [running.files / f"random{n}" for n in range(8)]
    for path in paths:
        path.write_text("x")
    text = random_policies(rng, paths)
    policies, found = load_text(text)
    assert [finding for finding in found if finding.severity == "error"] == []
    asked = selectors(with_doubts(policies))
    running.reload(text)
    identities = [f"{n}" * 64 for n in range(4)]
    with reading(*identities) as readers:
        for _ in range(4):
            told = [random_container(rng, identity) for identity in identities]
            running.agent.containers.found("test", [one for one in told if one is not None])
            assert until(lambda: not running.agent.containers.due)
            for identity, one, reader in zip(identities, told, readers, strict=True):
                event: dict[str, Any] = {"event": "file.open", "process.cgroup": f"/docker/{identity}"}
                if one is not None:
                    event["process.container"] = tuple(selected(one, asked))
                wanted = [verdict(policies, {**event, "file.path": str(path)}).errno for path in paths]
                assert [reader.open(path) for path in paths] == wanted, (seed, one, text)
    running.agent.containers.found("test", [])
    assert [path.read_text() for path in paths] == ["x"] * len(paths)
    running.reload(POLICIES.format(folder=running.files))


@pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed here")
def test_a_container_of_runc(running: Running, tmp_path: Path) -> None:
    """Its first process opens the file."""
    identity = "e" * 64
    bundle = Bundle(tmp_path, "runc", running.files / "image", identity)
    assert bundle.start("runc") == "ok"
    known = container(identity, image="nginx:1.27")
    cgroup_folder(known.cgroup)  # as the runtime has made it when it calls its hook
    running.agent.containers.register(known, seconds=60)
    try:
        assert bundle.start("runc") == "EPERM"
    finally:
        running.agent.containers.found("test", [])


GUARD: Final = ROOT / "examples/policies/container-escape-guard.yaml"
CORE_PATTERN: Final = Path("/proc/sys/kernel/core_pattern")


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_the_guard_lets_containers_start_and_what_they_do_is_denied(running: Running, tmp_path: Path, runtime: str) -> None:
    """The runtime is in the container's cgroup when it mounts, makes devices, and waits at a named pipe outside of the container's root."""
    real = shutil.which(runtime)
    if real is None:
        pytest.skip(f"{runtime} is not installed here")
    identity = ("1" if runtime == "runc" else "2") * 64
    before = CORE_PATTERN.read_text()
    attack = Bundle(tmp_path / "attack", real, running.files / "image", identity, ("write", str(CORE_PATTERN)))
    try:
        assert attack.start(real) == "ok"
        assert CORE_PATTERN.read_text() != before
        CORE_PATTERN.write_text(before)
        running.reload(GUARD.read_text())
        assert attack.start(real) == "EPERM"
        assert Bundle(tmp_path / "twin", real, running.files / "image", identity).start(real) == "ok"
        assert until(lambda: running.alerts("host-programs") != [])
        assert {alert["file"]["path"] for alert in running.alerts("host-programs")} == {str(CORE_PATTERN)}
        assert CORE_PATTERN.read_text() == before
    finally:
        CORE_PATTERN.write_text(before)
        running.reload(POLICIES.format(folder=running.files))


STARTS: Final = int(os.environ.get("BPFENCE_STARTS", "5"))
BY_CONTAINERD: Final = {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.container-name": "web",
    "io.kubernetes.cri.image-name": "docker.io/library/nginx:1.27",
    "io.kubernetes.cri.sandbox-name": "web-0",
    "io.kubernetes.cri.sandbox-namespace": "shop",
}
"""What containerd writes into the bundles of its containers."""


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_the_first_act_of_a_container_with_the_hook_is_denied(running: Running, tmp_path: Path, runtime: str) -> None:
    """In each of several starts by a wrapped runtime (BPFENCE_STARTS: how many); without it the container is unknown, which is the policy's
    choice."""
    real = shutil.which(runtime)
    if real is None:
        pytest.skip(f"{runtime} is not installed here")
    identity = ("d" if runtime == "runc" else "f") * 64
    bundle = Bundle(tmp_path, real, running.files / "image", identity, **BY_CONTAINERD)
    twin = Bundle(tmp_path / "twin", real, running.files / "image", identity, **BY_CONTAINERD | {"io.kubernetes.cri.image-name": "redis:7"})
    host = Host(str(tmp_path / "host"), sys.executable)
    socket = tmp_path / "hook.sock"
    install("containerd", Asked("deny", 60.0, str(socket), real), host)
    wrapped = str(host.at(FOLDER / "containerd-runtime"))
    before = len(running.alerts("image"))
    server = HookServer(Tree(CGROUP_ROOT), path=socket).start(lambda one, _: running.agent.containers.register(one, seconds=60))
    with closing(server):
        began = time.monotonic()
        assert [bundle.start(wrapped) for _ in range(STARTS)] == ["EPERM"] * STARTS
        print(f"{STARTS} starts by {runtime} in {time.monotonic() - began:.0f} s", file=sys.stderr)
        assert until(lambda: len(running.alerts("image")) == before + STARTS)
        assert [twin.start(wrapped) for _ in range(2)] == ["ok"] * 2
    running.agent.containers.found("test", [])
    assert Bundle(tmp_path / "without", real, running.files / "image", identity, **BY_CONTAINERD).start(real) == "ok"
    assert until(lambda: len(running.alerts("image")) > before + STARTS)
    alerts = running.alerts("image")[before:]
    assert [alert["container"]["image"] for alert in alerts[:STARTS]] == ["docker.io/library/nginx:1.27"] * STARTS
    assert {alert["container"]["id"] for alert in alerts[:STARTS]} == {identity}
    assert {alert["k8s"]["namespace"] for alert in alerts[:STARTS]} == {"shop"}
    assert running.agent.containers.containers() == []
