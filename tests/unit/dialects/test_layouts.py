# SPDX-License-Identifier: Apache-2.0
"""The shipped policies on the layouts of distributions and container runtimes: tests/cases/layouts.yaml."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from bpfence.compiler.compile import compile_policies
from bpfence.conditions.links import paths, widened
from bpfence.dialects.native.read import load_files
from bpfence.evaluate import verdict
from bpfence.host.links import Links
from bpfence.policy import Action, PolicySet

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "examples" / "policies"
TABLE = yaml.safe_load((ROOT / "tests" / "cases" / "layouts.yaml").read_text())
LAYOUTS = {layout["name"]: layout for layout in TABLE["layouts"]}
RUNTIMES = {runtime["name"]: runtime for runtime in TABLE["runtimes"]}
CONTAINER = "/system.slice/docker-0a1b.scope"
SIGKILL = 9


def acts(key: str, names: dict[str, Any] = LAYOUTS) -> list[Any]:
    """Every program or path of one kind, with its layout."""
    return [pytest.param(name, path, id=f"{name}:{key}:{path}") for name, layout in names.items() for path in layout.get(key) or ()]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A root directory for each layout, with its links."""
    made = {}
    for name, layout in LAYOUTS.items():
        made[name] = tmp_path_factory.mktemp(name)
        for link, target in layout["links"].items():
            (made[name] / link[1:]).parent.mkdir(parents=True, exist_ok=True)
            (made[name] / link[1:]).symlink_to(target)
    return made


@cache
def shipped(policy: str, root: str) -> PolicySet:
    """A policy as it is loaded there. They name both sides of the usual links themselves, so that `check` has nothing to say of them."""
    policies, problems = load_files([SHIPPED / f"{policy}.yaml"])
    links = Links(root)
    links.look_up(paths(policies))
    made, told = widened(policies, links.find)
    assert [*problems, *told] == []
    return made


def decided(policy: str, event: str, exe: str, root: Path | None = None, **fields: Any) -> Action:
    known = {"process.exe": exe, "process.name": exe.rpartition("/")[2], "process.args": exe, "process.uid": 0, "process.pid": 900}
    named = {name.replace("__", "."): value for name, value in fields.items()}
    return verdict(shipped(policy, str(root or "/nowhere")), {"event": event, **known, **named}).action


@pytest.mark.parametrize(("layout", "exe"), [*acts("accounts"), *acts("packages")])
def test_tools_change_accounts_and_nobody_else(layout: str, exe: str, trees: dict[str, Path]) -> None:
    for path in ("/etc/shadow", "/etc/passwd+", "/etc/passwd-"):
        assert decided("file-integrity-enforce", "file.rename", exe, trees[layout], file__path=path, file__new_path=path) is Action.NONE
        assert decided("file-integrity-enforce", "file.unlink", "/usr/bin/bash", trees[layout], file__path=path) is Action.DENY


@pytest.mark.parametrize(("layout", "exe"), acts("sudo"))
def test_sudoers(layout: str, exe: str, trees: dict[str, Path]) -> None:
    assert decided("file-integrity-enforce", "file.unlink", exe, trees[layout], file__path="/etc/sudoers") is Action.NONE
    assert decided("file-integrity-enforce", "file.unlink", "/usr/bin/perl", trees[layout], file__path="/etc/sudoers") is Action.DENY


KERNEL_ACTS: Final[dict[str, tuple[str, dict[str, int]]]] = {
    "modules": ("kernel.module", {"module__requested": 0}), "kexec": ("kernel.kexec", {}), "uses_bpf": ("kernel.bpf", {"bpf__cmd": 5}),
}  # fmt: skip
"""What programs of a layout do to the kernel -> the event, and its fields."""


@pytest.mark.parametrize(
    ("kind", "layout", "exe"), [pytest.param(kind, *act.values, id=act.id) for kind in KERNEL_ACTS for act in acts(kind)]
)
def test_who_is_there_for_it_changes_the_kernel_and_nobody_else(kind: str, layout: str, exe: str, trees: dict[str, Path]) -> None:
    event, fields = KERNEL_ACTS[kind]
    assert decided("kernel-guard", event, exe, trees[layout], **fields) is Action.NONE
    assert decided("kernel-guard", event, "/usr/bin/bash", trees[layout], **fields) is Action.DENY


@pytest.mark.parametrize(("layout", "exe"), acts("services"))
def test_services_are_protected(layout: str, exe: str, trees: dict[str, Path]) -> None:
    root = trees[layout]
    assert decided("service-protection", "process.ptrace", "/usr/bin/gdb", root, target__exe=exe, process__ptrace__mode=2) is Action.DENY
    assert decided("service-protection", "process.signal", "/usr/bin/bash", root, target__exe=exe, signal=SIGKILL) is Action.DENY
    for manager in LAYOUTS[layout]["manager"]:
        assert decided("service-protection", "process.signal", manager, root, target__exe=exe, signal=SIGKILL) is Action.NONE
    first = LAYOUTS[layout].get("first", "/sbin/init")
    ends = {"target__exe": exe, "signal": SIGKILL}
    assert decided("service-protection", "process.signal", first, root, process__pid=1, **ends) is Action.NONE
    assert decided("service-protection", "process.signal", first, root, **ends) is Action.DENY


@pytest.mark.parametrize(("layout", "exe"), acts("network"))
def test_network_programs(layout: str, exe: str, trees: dict[str, Path]) -> None:
    assert decided("egress-allow-list", "net.send", exe, trees[layout], net__family=17) is Action.NONE
    assert decided("egress-allow-list", "net.send", "/usr/bin/nmap", trees[layout], net__family=17) is Action.DENY


@pytest.mark.parametrize(("runtime", "exe"), acts("programs", RUNTIMES))
def test_runtimes_set_up_containers(runtime: str, exe: str) -> None:
    known = RUNTIMES[runtime]
    assert decided("container-escape-guard", "kernel.mount", exe, process__cgroup=CONTAINER, file__path="/x") is Action.NONE
    assert decided("container-escape-guard", "kernel.setns", "/usr/bin/nsenter", process__cgroup=CONTAINER) is Action.DENY
    acts = {"process.fork": {"process__fork__flags": 1 << 33}, "process.capable": {"capability": 27}}
    moves = {"file__path": "/sys/fs/cgroup/cgroup.procs", "file__access": 2, "file__fstype": "cgroup2"}
    for event, fields in {**acts, "file.open": moves}.items():
        assert decided("container-escape-guard", event, exe, process__cgroup=CONTAINER, **fields) is Action.NONE
        assert decided("container-escape-guard", event, "/usr/bin/python3", process__cgroup=CONTAINER, **fields) is Action.DENY
    if known.get("uses_bpf", True):
        assert decided("kernel-guard", "kernel.bpf", exe, bpf__cmd=5) is Action.NONE
    if known.get("from_memory", True):
        memory = {"file__memfd": 1, "file__path": "memfd:runc_cloned:/proc/self/exe"}
        assert decided("no-exec-from-world-writable", "process.exec", exe, **memory) is Action.NONE
        assert decided("no-exec-from-world-writable", "process.exec", "/usr/bin/python3.11", **memory) is Action.DENY


@pytest.mark.parametrize(("runtime", "path"), acts("sockets", RUNTIMES))
def test_who_talks_to_a_runtime_is_reported(runtime: str, path: str) -> None:
    inside = {"process__cgroup": CONTAINER, "net__family": 1}
    assert decided("container-escape-guard", "net.connect", "/usr/bin/curl", net__unix__path=path, **inside) is Action.AUDIT
    assert decided("container-escape-guard", "net.connect", "/usr/bin/curl", net__unix__path="/run/app.sock", **inside) is Action.NONE


@pytest.mark.parametrize(("runtime", "cgroup"), acts("cgroups", RUNTIMES))
def test_containers_are_known_by_their_cgroups(runtime: str, cgroup: str) -> None:
    for where, expected in ((cgroup, Action.DENY), ("/system.slice/cron.service", Action.NONE)):
        assert decided("container-escape-guard", "kernel.setns", "/usr/bin/nsenter", process__cgroup=where) is expected


@pytest.mark.parametrize("layout", ["debian-before-merged-usr", "fedora"])
def test_every_policy_compiles_with_the_links_of_a_layout(layout: str, trees: dict[str, Path]) -> None:
    for file in SHIPPED.glob("*.yaml"):
        compile_policies(shipped(file.stem, str(trees[layout])))
