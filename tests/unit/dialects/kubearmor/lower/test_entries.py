# SPDX-License-Identifier: Apache-2.0
"""What entries block, report and let through."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from bpfence import abi
from bpfence.dialects.kubearmor.lower.entries import ACTS, PRESETS, PROTOCOLS, seen_too, unseen
from bpfence.dialects.kubearmor.model import Entry
from bpfence.dialects.kubearmor.read import PRESETS as READ_PRESETS
from bpfence.dialects.kubearmor.read import PROTOCOLS as READ_PROTOCOLS
from bpfence.fields import EVENT_BY_NAME
from bpfence.policy import Action, PolicySet
from bpfence.syscalls import table
from tests.unit.dialects.kubearmor.corpus import WEB, decided, document, lowered, pod

READ, WRITE = abi.ACCESS_READ, abi.ACCESS_WRITE
SOURCE = [{"path": "/bin/cat"}, {"dir": "/opt/"}, {"dir": "/srv/", "recursive": True}]


def entry(section: str, key: str, action: str = "Block", **given: Any) -> PolicySet:
    return lowered(document({section: {key: [given]}, "action": action}))


def denied(policies: PolicySet, event: str, **fields: Any) -> bool:
    found = decided(policies, event, WEB, **fields)
    assert found.action in (Action.NONE, Action.DENY)
    assert found.errno == (13 if found.action is Action.DENY else 0)
    return found.action is Action.DENY


def opened(policies: PolicySet, path: str, access: int = READ, **fields: Any) -> bool:
    return denied(policies, "file.open", file__path=path, file__access=access, **fields)


def test_a_file_is_closed_to_every_use() -> None:
    policies = entry("file", "matchPaths", path="/a/b")
    assert [opened(policies, path, access) for path in ("/a/b", "/a/bc") for access in (READ, WRITE, abi.ACCESS_EXEC)] == [True] * 3 + [
        False
    ] * 3
    for event in ("file.unlink", "file.chmod", "file.truncate", "file.create", "file.mmap", "file.setattr"):
        assert (denied(policies, event, file__path="/a/b"), denied(policies, event, file__path="/x")) == (True, False)
    for names in (("/a/b", "/x"), ("/x", "/a/b")):
        assert denied(policies, "file.rename", file__path=names[0], file__new_path=names[1])
    assert denied(policies, "file.permission", file__path="/a/b", file__access=READ)


def test_read_only() -> None:
    policies = entry("file", "matchPaths", path="/a/b", readOnly=True)
    assert [opened(policies, "/a/b", access) for access in (READ, WRITE, abi.ACCESS_TRUNCATE, abi.ACCESS_CREATED)] == [
        False,
        True,
        True,
        True,
    ]
    assert denied(policies, "file.mmap", file__path="/a/b", file__shared=1, file__prot=2)
    assert not denied(policies, "file.mmap", file__path="/a/b", file__shared=0, file__prot=3)


def test_directories() -> None:
    flat, deep = entry("file", "matchDirectories", dir="/a/[b]/"), entry("file", "matchDirectories", dir="/a/b/", recursive=True)
    assert [opened(flat, path) for path in ("/a/[b]/x", "/a/[b]", "/a/[b]/x/y", "/a/b/x")] == [True, True, False, False]
    assert [opened(deep, path) for path in ("/a/b/x", "/a/b/x/y", "/a/b", "/a/bc")] == [True, True, True, False]
    assert denied(deep, "file.rename", file__path="/a/b", file__new_path="/c")
    programs = entry("process", "matchDirectories", dir="/a/")
    assert [denied(programs, "process.exec", file__path=path) for path in ("/a/x", "/a/x/y", "/a")] == [True, False, False]
    root = entry("file", "matchDirectories", dir="/")
    assert [opened(root, path) for path in ("/x", "/x/y")] == [True, False]


def test_patterns_and_names() -> None:
    policies = entry("process", "matchPatterns", pattern="/**/nmap")
    assert [denied(policies, "process.exec", file__path=path) for path in ("/usr/bin/nmap", "/nmap", "/usr/bin/nmapx")] == [
        True,
        False,
        False,
    ]
    named = entry("process", "matchPaths", execname="nmap")
    assert [denied(named, "process.exec", file__path=path) for path in ("/usr/bin/nmap", "/nmap", "/xnmap")] == [True, True, False]


@pytest.mark.parametrize("section", ["file", "process"])
def test_sources(section: str) -> None:
    policies = entry(section, "matchPaths", path="/a", fromSource=SOURCE)
    event = "file.open" if section == "file" else "process.exec"
    programs = ("/bin/cat", "/opt/x", "/srv/x/y", "/opt/x/y", "/bin/ls")
    found = [denied(policies, event, file__path="/a", file__access=READ, process__exe=exe) for exe in programs]
    assert found == [True, True, True, False, False]


def test_owners_are_let_alone_and_nobody_else() -> None:
    policies = entry("file", "matchPaths", path="/a", ownerOnly=True)
    for event in ("file.open", "file.unlink"):
        found = [denied(policies, event, file__path="/a", process__uid=uid, file__uid=1000) for uid in (0, 1000)]
        assert found == [True, False]
    assert denied(policies, "file.chown", file__path="/a", process__uid=1000, file__uid=1000)


@pytest.mark.parametrize(
    ("section", "key", "event", "given", "fields"),
    [
        ("file", "matchPaths", "file.unlink", {"path": "/a"}, {"file__path": "/a"}),
        ("process", "matchDirectories", "process.exec", {"dir": "/b/"}, {"file__path": "/b/x"}),
        ("network", "matchProtocols", "net.create", {"protocol": "all"}, {"net__family": 2, "net__type": 1, "net__protocol": 6}),
        ("capabilities", "matchCapabilities", "process.capable", {"capability": "net_raw"}, {"capability": 13}),
    ],
)
def test_those_who_have_a_terminal(section: str, key: str, event: str, given: dict[str, Any], fields: dict[str, Any]) -> None:
    for pts, held in ((False, [False, True]), (True, [True, True])):
        policies = entry(section, key, pts=pts, **given)
        assert [denied(policies, event, process__tty=tty, **fields) for tty in (0, 34816)] == held
    listed = lowered(document({section: {key: [{**given, "pts": False}]}, "action": "Allow"}), postures={
        "file": "block", "network": "block", "capabilities": "block"})  # fmt: skip
    assert [denied(listed, event, process__tty=tty, **fields) for tty in (0, 34816)] == [False, True]


def test_owners_without_a_terminal() -> None:
    policies = entry("file", "matchPaths", path="/a", ownerOnly=True, pts=False)
    found = [
        denied(policies, "file.open", file__path="/a", process__uid=uid, file__uid=1, process__tty=tty) for uid in (1, 2) for tty in (0, 9)
    ]
    assert found == [False, True, True, True]


@pytest.mark.parametrize(
    ("given", "free", "bound"),
    [
        ({"ownerOnly": True}, {"process__uid": 1, "file__uid": 1}, {"process__uid": 2, "file__uid": 1}),
        ({"pts": False}, {"process__tty": 0}, {"process__tty": 9}),
    ],
)
def test_read_only_but_for_some_who_may_not_even_read(given: dict[str, Any], free: dict[str, int], bound: dict[str, int]) -> None:
    policies = entry("file", "matchPaths", path="/a", readOnly=True, **given)
    for event in ("file.open", "file.permission"):
        found = [denied(policies, event, file__path="/a", file__access=access, **who) for who in (free, bound) for access in (READ, WRITE)]
        assert found == [False, True, True, True]
    assert [denied(policies, "file.unlink", file__path="/a", **who) for who in (free, bound)] == [True, True]
    assert not denied(policies, "file.open", file__path="/b", file__access=WRITE, **bound)


def test_presets() -> None:
    fileless = lowered(document({"presets": [{"name": "filelessExec"}]}))
    for path, memfd, deleted, held in (
        ("memfd:x", 1, 1, True), ("/tmp/x", 0, 1, True), ("/dev/shm/x", 0, 0, True), ("/run/shm/a/x", 0, 0, True), ("/tmp/x", 0, 0, False),
    ):  # fmt: skip
        assert denied(fileless, "process.exec", file__path=path, file__memfd=memfd, file__deleted=deleted) is held
    assert not denied(fileless, "file.open", file__path="/dev/shm/x", file__access=READ)
    anonymous = lowered(document({"presets": [{"name": "anonMapExec"}]}))
    assert denied(anonymous, "process.memory", file__prot=7, file__shared=0)
    assert not denied(anonymous, "file.mmap", file__path="/lib/x.so", file__prot=5, file__shared=0)
    assert set(PRESETS) == set(READ_PRESETS)


def test_presets_about_folders_of_procfs() -> None:
    """Whatever procfs is mounted at: the process that a folder is of decides."""
    environ, whole = (lowered(document({"presets": [{"name": name}]})) for name in ("protectEnv", "protectProc"))
    for path, of, env, any_file in (
        ("/proc/7/environ", 7, True, True), ("/mnt/p/7/task/9/environ", 7, True, True), ("/proc/7/stat", 7, False, True),
        ("/proc/5/environ", 5, False, False), ("/srv/environ", None, False, False),
    ):  # fmt: skip
        given = {"file__path": path, "file__access": READ, "process__pid": 5, **({} if of is None else {"file__proc_pid": of})}
        assert [denied(policies, "file.open", **given) for policies in (environ, whole)] == [env, any_file]
    link = {"target__pid": 7, "process__pid": 5}
    assert [denied(whole, "process.ptrace", process__ptrace__mode=mode, **link) for mode in (9, 17)] == [True, False]
    assert not denied(whole, "process.ptrace", process__ptrace__mode=9, **{**link, "target__pid": 5})
    audited = lowered(document({"presets": [{"name": "protectProc"}], "action": "Audit"}))
    assert [event for policy in audited.policies for rule in policy.rules for event in rule.events] == ["file.open"]


def test_the_preset_of_programs_that_come_from_outside() -> None:
    policies = lowered(document({"presets": [{"name": "exec"}]}))
    found = [
        denied(policies, "process.exec", file__path="/bin/sh", process__entered=entered, process__tty=tty)
        for entered in (0, 1)
        for tty in (0, 34816)
    ]
    assert found == [False, False, False, True]


@pytest.mark.parametrize(
    ("protocol", "kind", "held"),
    [
        ("tcp", (2, 1, 6), True), ("tcp", (10, 1, 262), True), ("tcp", (1, 1, 0), False), ("tcp", (2, 2, 17), False),
        ("udp", (2, 2, 17), True), ("udp", (1, 2, 0), False), ("raw", (2, 3, 1), True), ("icmp", (2, 3, 1), True),
        ("icmp", (2, 2, 1), True),
        ("icmpv6", (10, 3, 58), True), ("sctp", (2, 1, 132), True), ("dccp", (2, 6, 33), True), ("stream", (1, 1, 0), True),
        ("dgram", (1, 2, 0), True), ("seqpacket", (1, 5, 0), True), ("rdm", (30, 4, 0), True),
        ("packet", (17, 3, 768), True), ("all", (16, 3, 0), True),
    ],
)  # fmt: skip
def test_protocols(protocol: str, kind: tuple[int, int, int], held: bool) -> None:
    policies = entry("network", "matchProtocols", protocol=protocol)
    given = dict(zip(("net__family", "net__type", "net__protocol"), kind, strict=True))
    for event in ("net.create", "net.connect", "net.send"):
        assert denied(policies, event, **given) is held
    assert set(PROTOCOLS) == set(READ_PROTOCOLS)


def test_sockets_that_are_only_reported_are_reported_when_they_begin() -> None:
    [policy] = entry("network", "matchProtocols", "Audit", protocol="udp").policies
    assert policy.rules[0].events == ("net.create", "net.connect", "net.accept")


def test_capabilities() -> None:
    policies = entry("capabilities", "matchCapabilities", capability="net_raw")
    assert [denied(policies, "process.capable", capability=number) for number in (13, 12)] == [True, False]


def test_system_calls_are_reported_whatever_is_asked() -> None:
    chown = ["chown", "fchown", "lchown", "fchownat"]
    policies = lowered(document({"syscalls": {"matchPaths": [{"path": "/a/", "recursive": True, "syscall": [*chown, "rename"]}]}}))
    for event, fields in (("file.chown", {}), ("file.rename", {"file__new_path": "/x"})):
        assert decided(policies, event, WEB, file__path="/a/b", **fields).action is Action.AUDIT
        assert decided(policies, event, WEB, file__path="/b", **fields).action is Action.NONE
    assert decided(policies, "file.rename", WEB, file__path="/b", file__new_path="/a/x").action is Action.AUDIT


def test_system_calls_that_no_event_is_about_and_those_that_come_along() -> None:
    made = Entry(section="syscalls", where="", kind="", value="", calls=("chown", "getpid", "ptrace"))
    assert unseen(made) == ("getpid",)
    assert seen_too(made) == ("fchown", "lchown", "fchownat")
    of_path = Entry(section="syscalls", where="", kind="path", value="/a", calls=("unlink", "ptrace"))
    assert unseen(of_path) == ("ptrace",)


def test_modules_that_the_kernel_asks_for_are_no_system_calls() -> None:
    policies = lowered(document({"syscalls": {"matchSyscalls": [{"syscall": ["init_module", "finit_module"]}]}}))
    found = [decided(policies, "kernel.module", WEB, module__requested=asked).action for asked in (0, 1)]
    assert found == [Action.AUDIT, Action.NONE]


def test_acts_are_events_and_calls_that_there_are() -> None:
    assert {event for act in ACTS for event in act.events} <= EVENT_BY_NAME.keys()
    assert [call for act in ACTS for call in act.calls if not table.known(call)] == []


# ---- traffic ----


def traffic(action: str = "Block", whom: str = "selector", posture: str = "audit", **spec: Any) -> PolicySet:
    whole = {
        "apiVersion": "security.kubearmor.com/v1", "kind": "KubeArmorNetworkPolicy", "metadata": {"name": "net"},
        "spec": {whom: {"matchLabels": {"app": "web"}}, "action": action, **spec},
    }  # fmt: skip
    return lowered(yaml.safe_dump(whole), postures={"network": posture, "host_network": posture})


def flow(event: str, ip: str | None, port: int | None, protocol: int = 6, family: int = 2) -> dict[str, Any]:
    own = "local" if event in ("net.bind", "net.listen", "net.accept") else "peer"
    given = {"net__family": family, "net__type": 2 if protocol == 17 else 1, "net__protocol": protocol}
    return given | ({f"net__{own}__ip": ip, f"net__{own}__port": port} if ip is not None else {})


def test_traffic_that_leaves() -> None:
    ports = [{"port": "443", "protocol": "TCP"}, {"port": "8000", "endPort": 8010}]
    policies = traffic(egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}, {"ipBlock": {"cidr": "fd00::/8"}}], "ports": ports}])
    for ip, port, protocol, held in (
        ("10.1.1.1", 443, 6, True), ("10.1.1.1", 443, 17, False), ("10.1.1.1", 8005, 17, True), ("10.1.1.1", 8011, 6, False),
        ("11.1.1.1", 443, 6, False), ("10.1.1.1", 8000, 132, True),
    ):  # fmt: skip
        assert denied(policies, "net.connect", **flow("net.connect", ip, port, protocol)) is held
    assert denied(policies, "net.connect", **flow("net.connect", "fd00::1", 443, family=10))
    assert denied(policies, "net.send", **flow("net.send", "10.1.1.1", 8005, 17))
    assert not denied(policies, "net.send", **flow("net.send", "10.1.1.1", 443)), "an answer goes on"
    everything = traffic(egress=[{}])
    for ip, held in (("1.2.3.4", True), ("127.0.0.1", False), (None, False)):
        assert denied(everything, "net.connect", **flow("net.connect", ip, 80)) is held
    assert denied(everything, "net.send", **flow("net.send", "1.2.3.4", 0, 1))
    assert not denied(everything, "net.connect", net__family=1, net__type=1, net__protocol=0)


def test_traffic_that_arrives() -> None:
    policies = traffic(ingress=[{"ports": [{"port": "22", "protocol": "TCP"}]}])
    assert all(denied(policies, event, **flow(event, "0.0.0.0", 22)) for event in ("net.listen", "net.accept"))
    assert not any(denied(policies, event, **flow(event, "127.0.0.1", 22)) for event in ("net.listen", "net.accept"))
    assert not denied(policies, "net.bind", **flow("net.bind", "0.0.0.0", 22))
    datagrams = traffic(ingress=[{"ports": [{"port": "53"}]}])
    found = [denied(datagrams, "net.bind", **flow("net.bind", "0.0.0.0", *one)) for one in ((53, 17), (53, 6), (54, 17))]
    assert found == [True, False, False]
    assert not denied(traffic(ingress=[{}]), "net.bind", **flow("net.bind", "0.0.0.0", 0, 17))


def test_whose_traffic_it_is() -> None:
    of_host = traffic(whom="nodeSelector", egress=[{}])
    given = flow("net.connect", "1.2.3.4", 80)
    assert decided(of_host, "net.connect", None, **given).action is Action.DENY
    assert decided(of_host, "net.connect", WEB, **given).action is Action.NONE
    of_pods = traffic(egress=[{}])
    found = [
        decided(of_pods, "net.connect", one, **given).action is Action.DENY for one in (None, WEB, pod("bank", app="web"), pod(app="db"))
    ]
    assert found == [False, True, True, False]


def test_an_allow_list_of_traffic() -> None:
    policies = traffic(
        "Allow", posture="block", egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}], ingress=[{"ports": [{"port": "80"}]}]
    )
    for event, ip, port, protocol, held in (
        ("net.connect", "10.1.1.1", 1, 6, False), ("net.connect", "11.1.1.1", 1, 6, True), ("net.connect", "127.0.0.1", 1, 6, False),
        ("net.send", "11.1.1.1", 1, 17, True), ("net.send", "11.1.1.1", 1, 6, False), ("net.listen", "0.0.0.0", 80, 6, False),
        ("net.listen", "0.0.0.0", 81, 6, True), ("net.bind", "0.0.0.0", 0, 17, False), ("net.bind", "0.0.0.0", 81, 17, True),
    ):  # fmt: skip
        assert denied(policies, event, **flow(event, ip, port, protocol)) is held, (event, ip, port)


def run(policies: PolicySet, *argv: str, exe: str = "/bin/sh", caller: str = "/usr/bin/x") -> Action:
    """What becomes of a program that has been executed."""
    given = {"process__exe": exe, "process__parent__exe": caller, "process__argv": "\0".join(argv)}
    return decided(policies, "process.executed", WEB, **given).action


def test_arguments() -> None:
    """A program with others than are listed is killed before its first instruction; of a script its interpreter has them."""
    policies = entry("process", "matchPaths", path="/bin/sh", allowedArgs=["-c", "a b"])
    assert [denied(policies, "process.exec", file__path="/bin/sh", file__script=script) for script in (0, 1)] == [False, True]
    assert [run(policies, *argv) for argv in (("sh",), ("sh", "-c"), ("anything", "-c", "a b", "-c"))] == [Action.NONE] * 3
    assert [run(policies, *argv) for argv in (("sh", "-x"), ("sh", "-c", "a"), ("sh", "-c a b"), ("sh", ""))] == [Action.KILL] * 4
    assert run(policies, "sh", "-x", exe="/bin/bash") is Action.NONE
    audited = entry("process", "matchPaths", "Audit", path="/bin/sh", allowedArgs=["-c"])
    assert [run(audited, "sh", argument) for argument in ("-c", "-x")] == [Action.NONE, Action.AUDIT]
    named = entry("process", "matchPaths", execname="sh", allowedArgs=["-c"], fromSource=[{"path": "/bin/a"}])
    assert [run(named, "sh", "-x", caller=caller) for caller in ("/bin/a", "/bin/b")] == [Action.KILL, Action.NONE]


def test_arguments_and_who_may_execute() -> None:
    policies = entry("process", "matchPaths", path="/bin/sh", allowedArgs=["-c"], pts=False)
    for tty, script, held in ((0, 0, False), (1, 0, True), (0, 1, True)):
        assert denied(policies, "process.exec", file__path="/bin/sh", file__script=script, process__tty=tty) is held
    assert run(policies, "sh", "-x") is Action.KILL


def test_arguments_of_allow_lists() -> None:
    """The list covers the program, whose arguments decide; and what is looked up before it."""
    first = {"path": "/bin/sh", "fromSource": [{"path": "/bin/a"}]}
    listed = {"path": "/bin/sh", "allowedArgs": ["-c"]}
    policies = lowered(
        document(
            {"process": {"matchPaths": [first, listed], "matchDirectories": [{"dir": "/bin/", "action": "Block"}]}, "action": "Allow"}
        ),
        postures={"file": "block"},
    )
    assert [denied(policies, "process.exec", file__path=path, file__script=0) for path in ("/bin/sh", "/bin/ls", "/srv/x")] == [
        False,
        True,
        True,
    ]
    assert [run(policies, "sh", "-x", caller=caller) for caller in ("/bin/a", "/bin/b")] == [Action.NONE, Action.KILL]
    assert run(policies, "sh", "-c") is Action.NONE
