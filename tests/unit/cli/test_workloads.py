# SPDX-License-Identifier: Apache-2.0
"""`workloads` and `hook` on hosts made of folders."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bpfence.cli import workloads
from bpfence.cli.main import cli
from bpfence.workloads.hook import SOCKET
from bpfence.workloads.install import DAEMON, FOLDER, HOOKS, Host
from bpfence.workloads.model import Container, Pod
from bpfence.workloads.sources import Gathered
from tests.unit.workloads.hosts import ID, OTHER, FakeHost


def call(*args: str) -> Result:
    return CliRunner().invoke(cli, args, standalone_mode=False)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Container]:
    """What the sources find; a container's cgroup with limits, and one source that is silent."""
    host = FakeHost(tmp_path)
    host.cgroup("/", cgroup_controllers="memory pids")
    path = host.cgroup(f"/docker/{ID}", pids_max="100", pids_current="3", memory_current="5242880", cpu_max="50000 100000")
    containers = [
        Container(ID, path, 5, "web\x1b[2J", "nginx:1.27", runtime="docker", privileged=True, started=1_800_000_000_000_000_000),
        Container(OTHER, "/kubepods/x", pod=Pod("etcd", "kube-system"), sandbox=True),
    ]
    monkeypatch.setattr(workloads, "tree", lambda: host.tree)
    monkeypatch.setattr(workloads, "gathered", lambda _: Gathered(containers, {"podman": "said \x1bno"}))
    return containers


def test_workloads(found: list[Container]) -> None:
    result = call("workloads")
    header, row = result.stdout.splitlines()
    assert header.split() == ["id", "name", "image", "runtime", "pod", "privileged", "pids", "memory", "cpu", "started"]
    assert "\x1b" not in result.output
    for word in (ID[:12], "web\\x1b[2J", "nginx:1.27", "docker", "yes", "3 of 100", "5.0 MiB", "0.5", "2027-01-15"):
        assert word in row
    assert "podman: said \\x1bno" in result.stderr
    assert "note: web\\x1b[2J: no limit of memory: it can take the machine's from others\n" in result.stderr
    assert "no limit of processes" not in result.stderr


def test_workloads_with_pause_containers(found: list[Container]) -> None:
    text = call("workloads", "--all").stdout
    assert "(pause)" in text
    assert "kube-system/etcd" in text


def test_workloads_as_json(found: list[Container]) -> None:
    shown = json.loads(call("workloads", "--json").stdout)
    assert [container["id"] for container in shown["containers"]] == [ID]
    assert shown["containers"][0]["limits"] == {
        "pids_max": 100, "pids": 3, "pids_of": "container", "memory_max": None, "memory": 5242880, "memory_of": "", "cpu_max": 0.5,
        "cpu_of": "container", "none": ["memory"], "notes": ["no limit of memory: it can take the machine's from others"],
    }  # fmt: skip
    assert shown["silent"] == {"podman": "said \\x1bno"}


def test_limits_of_pods_and_many_containers_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.cgroup("/", cgroup_controllers="memory pids")
    pod = host.cgroup("/kubepods.slice/kubepods-pod0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9.slice", pids_max="64")
    containers = [Container(f"{n:064x}", host.cgroup(f"{pod}/{n:064x}", pids_current="2"), name=f"web-{n}") for n in range(7)]
    monkeypatch.setattr(workloads, "tree", lambda: host.tree)
    monkeypatch.setattr(workloads, "gathered", lambda _: Gathered(containers, {}))
    result = call("workloads")
    assert result.stdout.count("2 of 64 (pod)") == 7
    assert (
        result.stderr == "note: web-0, web-1, web-2, web-3, web-4 and 2 more: no limit of memory: it can take the machine's from others\n"
    )


POLICIES = """
apiVersion: bpfence.io/v1alpha1
kind: SecurityPolicy
metadata: {name: of-web}
spec:
  scope: {image: "nginx:*"}
  rules:
    - {name: secret, on: open, match: {file.path: /etc/shadow}, action: deny}
    - {name: host, on: open, match: {process.cgroup: /system.slice/**}, action: deny}
---
apiVersion: bpfence.io/v1alpha1
kind: SecurityPolicy
metadata: {name: of-root}
spec:
  scope: {container: true, uid: 0}
  mode: audit
  rules:
    - {name: any, on: exec, action: deny}
---
apiVersion: bpfence.io/v1alpha1
kind: SecurityPolicy
metadata: {name: of-back}
spec:
  scope: {labels: {tier: back}}
  rules:
    - {name: any, on: exec, action: deny}
---
apiVersion: bpfence.io/v1alpha1
kind: SecurityPolicy
metadata: {name: of-redis}
spec:
  scope: {image: redis}
  rules:
    - {name: any, on: exec, action: deny}
"""


@pytest.fixture
def policies(tmp_path: Path) -> str:
    path = tmp_path / "policies.yaml"
    path.write_text(POLICIES)
    return str(path)


def test_which_policies_reach_into_containers(found: list[Container], policies: str) -> None:
    header, row = call("workloads", "-p", policies).stdout.splitlines()
    assert header.split()[-1] == "policies"
    assert row.endswith("of-web, some(of-root), unknown(of-back)")
    [shown] = json.loads(call("workloads", "-p", policies, "--json").stdout)["containers"]
    assert [(one["policy"], one["mode"], one["extent"], one["rules"]) for one in shown["policies"]] == [
        ("of-web", "enforce", "all", ["secret"]), ("of-root", "audit", "some", ["any"]), ("of-back", "enforce", "unknown", ["any"]),
        ("of-redis", "enforce", "none", []),
    ]  # fmt: skip


def test_one_container_explained(found: list[Container], policies: str) -> None:
    text = call("explain", policies, "--workload", ID[:6]).stdout
    assert text.startswith(f'{ID[:12]} web\\x1b[2J nginx:1.27: selected by image: "nginx:*"\n')
    assert "\x1b" not in text
    rows = [line.split() for line in text.splitlines()[2:]]
    assert rows[0] == ["of-web", "enforce", "all", "its", "processes", "1", "of", "2", "secret"]
    assert rows[3] == ["of-redis", "enforce", "not", "0", "of", "1"]
    shown = json.loads(call("explain", policies, "--workload", found[0].name, "--json").stdout)
    assert shown["container"]["id"] == ID
    assert shown["selected_by"] == ['image: "nginx:*"']
    assert [one["extent"] for one in shown["policies"]] == ["all", "some", "unknown", "none"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--workload", "nobody"), "no container is called 'nobody'"),
        (("--workload", ID[:3], "--event", "{}"), "leave --event and --rule out"),
        (("--workload", OTHER[:4]), "no container is called"),  # a pause container
    ],
)
def test_what_cannot_be_explained_of_a_container(found: list[Container], policies: str, words: tuple[str, ...], said: str) -> None:
    result = call("explain", policies, *words)
    assert result.return_value == 2
    assert said in result.stderr


def test_a_name_of_several_containers(found: list[Container], policies: str) -> None:
    found.append(Container("b" * 64, "/docker/b", name=found[0].name))
    assert f"several containers are called 'web\\x1b[2J': {ID[:12]}" in call("explain", policies, "--workload", found[0].name).stderr


def test_no_workloads(found: list[Container]) -> None:
    found.clear()
    assert "no container runs here" in call("workloads").stdout


def test_the_machines_own_workloads() -> None:
    result = call("workloads", "--json")
    assert "containers" in json.loads(result.stdout) or "cgroup v2" in result.stdout


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    made = Host(str(tmp_path), sys.executable, "/bin")
    for name in ("podman", "runc"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    monkeypatch.setattr(workloads, "runtimes_host", lambda: made)
    return made


def test_the_hook_comes_and_goes(host: Host) -> None:
    result = call("hook", "status")
    assert result.return_value == 1
    assert "Podman" in result.stdout
    assert "Docker" not in result.stdout
    assert "wrote" in call("hook", "install", "--on-failure", "deny").stdout
    assert host.at(HOOKS / "bpfence.json").exists()
    result = call("hook", "status")
    assert result.return_value == 0
    assert "no container starts" in result.stdout
    shown = {runtime["runtime"]: runtime for runtime in json.loads(call("hook", "status", "--json").stdout)["runtimes"]}
    assert (shown["podman"]["holds"], shown["podman"]["on_failure"], shown["docker"]["here"]) == (True, "deny", False)
    assert "removed" in call("hook", "uninstall").stdout
    assert "nothing was installed" in call("hook", "uninstall").stdout
    assert not host.at(HOOKS / "bpfence.json").exists()


def test_one_runtime(host: Host) -> None:
    done = json.loads(call("hook", "install", "--runtime", "docker", "--timeout", "2", "--json").stdout)["runtimes"]
    assert [*done] == ["docker"]
    assert json.loads(host.at(FOLDER / "docker-runtime.json").read_text())["seconds"] == 2.0


def test_each_runtime_is_done_by_itself(host: Host) -> None:
    broken = host.at(DAEMON)
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    result = call("hook", "install", "--runtime", "docker", "--runtime", "podman")
    assert result.return_value == 2
    assert "podman: wrote" in result.stdout
    assert "error: docker:" in result.stderr
    assert "daemon.json" in result.stderr
    result = call("hook", "uninstall", "--json")
    shown = json.loads(result.stdout)
    assert result.return_value == 2
    assert ([*shown["runtimes"]], [*shown["errors"]]) == (["podman", "containerd"], ["docker"])
    assert not host.at(HOOKS / "bpfence.json").exists()


def test_a_wrapper_goes_with_purge(host: Host) -> None:
    call("hook", "install", "--runtime", "docker")
    assert "only passes on" in call("hook", "uninstall").stdout
    assert host.at(FOLDER / "docker-runtime").exists()
    assert "removed" in call("hook", "uninstall", "--purge").stdout
    assert not host.at(FOLDER / "docker-runtime").exists()


def test_whether_an_agent_listens(host: Host) -> None:
    path = host.at(SOCKET)
    assert f"no agent listens at {SOCKET}" in call("hook", "status").stdout
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert json.loads(call("hook", "status", "--json").stdout)["agent"] == {"socket": str(SOCKET), "listens": True}


def test_nothing_to_install_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workloads, "runtimes_host", lambda: Host(str(tmp_path), sys.executable))
    result = call("hook", "install")
    assert "no container runtime" in result.stderr
    assert not any(tmp_path.iterdir())
    assert "absolute" in call("hook", "install", "--socket", "x y").stderr
    assert call("hook", "status").return_value == 0
