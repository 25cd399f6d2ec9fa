# SPDX-License-Identifier: Apache-2.0
"""Random policies and acts: the kernel's verdict, errno included, is the reference evaluator's.

Each random policy is scoped to its own cgroup; one process a policy and user performs all acts. BPFENCE_SEED repeats a run,
BPFENCE_POLICIES asks for more.
"""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bpfence.dialects.native.read import load_text
from bpfence.evaluate import verdict
from bpfence.policy import Action, Event, PolicySet
from tests.kernel.cases import CGROUP, PLAYGROUND, TRIGGER, write_yaml
from tests.kernel.harness import Range, cgroup_folder, enter

WORLD = PLAYGROUND / "world"
FILES = (
    "a/x.key",
    "a/y.key",
    "a/b/x.key",
    "a/b/c/z",
    "ab/x.key",
    "b/x",
    "b/x.key",
    "b/[x]",
    "b/ü",
    "c",
    "c.d",
    "c.d.e",
    "long/" + "n" * 200,
)
PROGRAMS = ("bin/one", "bin/two", "bin/deep/one")
OWNERS = (0, 7, 1000)
USERS = (0, 1000, 1001)
OPENS = {"rdonly": 1, "wronly": 2, "rdwr": 3, "wronly|append": 10, "rdwr|trunc": 19}
"""Flags of the act to ACCESS_* bits of bpf/abi.h."""
READ, EXEC = 1, 4
PEERS = (("127.0.0.1", 4000), ("127.0.0.1", 4001), ("127.3.2.1", 4000), ("127.3.2.1", 65535), ("::1", 4000))
ERRNOS = ("EPERM", "EACCES", "ENOENT", "EIO")


def path_glob(rng: random.Random) -> str:
    """A glob near the paths of the world."""
    name = rng.choice(FILES + PROGRAMS)
    match rng.randrange(9):
        case 0:
            text = name.replace("[", "\\[").replace("]", "\\]")
        case 1:
            text = name.split("/")[0] + "/**"
        case 2:
            text = name.split("/")[0] + "/*"
        case 3:
            text = "**/" + name.split("/")[-1].replace("[", "?").replace("]", "?")
        case 4:
            text = "*/" + rng.choice(("*.key", "x*", "?", "[a-xü]*", "*[!y].key"))
        case 5:
            text = "{a,b,bin}/" + rng.choice(("**", "*", "{one,x}*", "x{,.key}"))
        case 6:
            text = rng.choice(("*", "c*", "c.*", "c.d?e", "?/?"))
        case 7:
            return "**" + rng.choice((".key", "/x*", "one", "n*", "b*c*"))
        case _:
            return rng.choice(("**", "/run/**", f"{WORLD}/**", "/proc/**"))
    return f"{WORLD}/{text}"


def criteria(rng: random.Random, event: str) -> dict[str, Any]:
    """A random `match` or `unless` for an event."""
    chosen: dict[str, Any] = {}
    for _ in range(rng.choice((1, 1, 2, 3))):
        match rng.randrange(6):
            case 0:
                chosen["process.uid"] = rng.choice((0, 1000, "0-999", "1000-1001", [0, 1001], ">=1001"))
            case 1 if event == "open":
                chosen["file.access"] = rng.sample(("read", "write", "append", "truncate"), rng.choice((1, 2)))
            case 2 if event == "open":
                chosen["file.uid"] = rng.choice((0, 7, "1-1000", "0-6"))
            case 1 | 2 if event == "connect":
                chosen["net.peer.port"] = rng.choice((4000, "4000-4001", "5000-65535", [1, 4001]))
            case 3:
                chosen["process.exe"] = rng.choice((str(TRIGGER), "/run/**", "**/other", "**/trig*"))
            case _ if event == "connect":
                chosen["net.peer.ip"] = rng.choice(
                    ("127.0.0.0/8", "127.3.0.0/16", "127.0.0.1", "::/0", ["::1", "127.3.2.0/23"], "10.0.0.0/8")
                )
            case _:
                chosen["file.path"] = [path_glob(rng) for _ in range(rng.choice((1, 1, 2, 4)))]
    return chosen


COMPARED = {
    "open": (
        "file.uid = process.uid", "file.uid != process.uid", "file.uid < process.uid", "process.uid <= file.uid", "file.gid >= process.gid",
        "file.path startswith process.cwd", "process.exe = file.path", "file.path != process.exe", "file.path endswith process.name",
        "process.exe endswith process.name", "process.pid > process.parent.pid",
    ),
    "exec": ("file.uid = process.uid", "file.path = process.exe", "process.exe startswith process.cwd", "process.uid > file.uid"),
    "connect": ("net.peer.port > net.local.port", "net.peer.ip != net.local.ip", "process.name = process.exe"),
}  # fmt: skip
"""Comparisons of two fields of an event."""


def condition(rng: random.Random, event: str) -> str:
    """A random `condition` that compares fields."""
    parts = [rng.choice(("", "", "not ")) + rng.choice(COMPARED[event]) for _ in range(rng.choice((1, 1, 2, 3)))]
    if rng.random() < 0.6:
        parts.append(rng.choice((f"process.uid = {rng.choice(USERS)}", "process.exe startswith /run/")))
    return rng.choice((" and ", " and ", " or ")).join(parts)


def random_policy(rng: random.Random, name: str) -> dict[str, Any]:
    """One policy: a few rules on open, exec and connect, with a default now and then."""
    default = {event: "deny" for event in ("open", "connect") if rng.random() < 0.15}
    rules = []
    for number in range(rng.choice((1, 2, 3, 6))):
        event = rng.choice(("open", "open", "open", "exec", "connect"))
        action = rng.choice(("deny", "deny", "audit", "allow" if event in default else "deny"))
        rule: dict[str, Any] = {"name": f"r{number}", "on": event, "action": action}
        if rng.random() < 0.25:
            rule["condition"] = condition(rng, event)
        else:
            rule["match"] = criteria(rng, event)
            if rng.random() < 0.4:
                rule["unless"] = criteria(rng, event)
        if action == "deny":
            rule["errno"] = rng.choice(ERRNOS)
        rules.append(rule)
    rules += [{"name": f"allow-{event}", "on": event, "match": criteria(rng, event), "action": "allow"} for event in default]
    mode = rng.choice(("enforce", "enforce", "enforce", "audit"))
    spec: dict[str, Any] = {"mode": mode, "scope": {"cgroup": f"{CGROUP}/{name}"}, "rules": rules}
    if default:
        spec["default"] = default
    return {"apiVersion": "bpfence.io/v1alpha1", "kind": "SecurityPolicy", "metadata": {"name": name}, "spec": spec}


def valid_policies(rng: random.Random, count: int) -> Iterator[tuple[str, dict[str, Any], PolicySet]]:
    """`count` random policies that the dialect accepts."""
    made = 0
    for _ in range(count * 50):
        if made == count:
            return
        name = f"random-{made}"
        document = random_policy(rng, name)
        policies, diagnostics = load_text(write_yaml(document), name)
        if not any(d.severity == "error" for d in diagnostics):
            made += 1
            yield name, document, policies
    raise AssertionError("the generator makes too many invalid policies")


def acts_and_events() -> list[tuple[list[str], dict[str, Any]]]:
    """Every act of the world with the event the kernel should see, user and cgroup left out."""
    found: list[tuple[list[str], dict[str, Any]]] = []
    for number, name in enumerate(FILES):
        for flags, access in OPENS.items():
            owner = OWNERS[number % len(OWNERS)]
            event = {"event": "file.open", "file.path": str(WORLD / name), "file.access": access, "file.uid": owner, "file.gid": owner}
            found.append((["open", str(WORLD / name), flags], event))
    programs = [str(WORLD / name) for name in PROGRAMS]
    found += [(["then", path, "ok"], {"event": "process.exec", "file.path": path, "file.uid": 0, "file.gid": 0}) for path in programs]
    for ip, port in PEERS:
        unbound = {"net.local.ip": "::" if ":" in ip else "0.0.0.0", "net.local.port": 0}
        found.append((["connect", ip, str(port)], {"event": "net.connect", "net.peer.ip": ip, "net.peer.port": port, **unbound}))
    return found


@pytest.fixture
def world() -> Path:
    """The files and programs that random policies speak of."""
    for number, name in enumerate(FILES):
        path = WORLD / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        path.chmod(0o666)
        owner = OWNERS[number % len(OWNERS)]
        os.chown(path, owner, owner)
    for name in PROGRAMS:
        path = WORLD / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(TRIGGER.read_bytes())
        path.chmod(0o755)
    return WORLD


def perform(user: int, cgroup: str, acts: list[list[str]]) -> list[str]:
    """All acts in one process, which enters the policy's scope when it is ready; the result of each: OK or an errno's name."""
    words = [str(TRIGGER), "as", str(user), "stay", "each"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    enter(cgroup_folder(cgroup), process.pid)
    printed, complaint = process.communicate("\n" + "".join("\t".join(act) + "\n" for act in acts), timeout=120)
    assert process.returncode == 0, complaint
    return printed.splitlines()


def expected(policies: PolicySet, event: dict[str, Any]) -> str:
    """What the reference says the act's result is. execve opens the program before it is executed."""
    events: list[Event] = [event]
    if event["event"] == "process.exec":
        events.insert(0, {**event, "event": "file.open", "file.access": READ | EXEC})
    for one in events:
        answer = verdict(policies, one)
        if answer.action >= Action.DENY:
            return errno.errorcode[answer.errno]
    return "OK"


def many_rules(name: str) -> tuple[str, dict[str, Any], PolicySet]:
    """So many exceptions of programs that they are decided below the paths, and so many texts that the first one found decides."""
    rules: list[dict[str, Any]] = []
    for number, file in enumerate(FILES * 2):
        text = file.replace("[", "\\[").replace("]", "\\]")
        programs = [f"/usr/bin/{number}", *((str(TRIGGER),) if number % 3 == 0 else ())]
        rule = {"name": f"except-{number}", "on": "open", "match": {"file.path": f"{WORLD}/{text}"}, "unless": {"process.exe": programs}}
        rules.append({**rule, "action": "deny" if number % 4 else "audit"})
    for number, text in enumerate(("ab/", "b/c", "d.e", "nnnn", "y.k", *(f"nothing{n}" for n in range(20)))):
        rules.append({"name": f"text-{number}", "on": "open", "condition": f"file.path contains {text}", "action": "deny"})
    document = {"apiVersion": "bpfence.io/v1alpha1", "kind": "SecurityPolicy", "metadata": {"name": name}}
    document["spec"] = {"scope": {"cgroup": f"{CGROUP}/{name}"}, "rules": rules}
    policies, diagnostics = load_text(write_yaml(document), name)
    assert not [d for d in diagnostics if d.severity == "error"], diagnostics
    return name, document, policies


def test_the_kernel_agrees_with_the_reference(shooting: Range, world: Path) -> None:
    seed = int(os.environ.get("BPFENCE_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    rng = random.Random(seed)
    compare(shooting, list(valid_policies(rng, int(os.environ.get("BPFENCE_POLICIES", "12")))), f"seed {seed}")


def test_the_kernel_agrees_where_rules_are_many(shooting: Range, world: Path) -> None:
    compare(shooting, [many_rules("many")], "many rules")


def compare(shooting: Range, made: Sequence[tuple[str, dict[str, Any], PolicySet]], what: str) -> None:
    """All acts under each policy, against the reference. `what`: what to say of them where they differ."""
    shooting.clear()
    files = [shooting.agent.write_policy(name, document) for name, document, _ in made]
    wrong: list[str] = []
    try:
        shooting.agent.reload()
        rows = acts_and_events()
        for name, document, policies in made:
            cgroup = f"{CGROUP}/{name}"
            for user in USERS:
                subject: dict[str, Any] = {
                    "process.uid": user,
                    "process.gid": user,
                    "process.exe": str(TRIGGER),
                    "process.name": TRIGGER.name,
                    "process.cgroup": cgroup,
                    "process.cwd": os.getcwd(),
                    "process.pid": 2,
                    "process.parent.pid": 1,
                }
                # The child of `then` executes: its own executable at that moment is still the trigger.
                results = perform(user, cgroup, [act for act, _ in rows])
                assert len(results) == len(rows)
                for (act, event), result in zip(rows, results, strict=True):
                    wanted = expected(policies, {**event, **subject})
                    if result != wanted:
                        wrong.append(f"{act} as {user}: kernel {result}, reference {wanted}, policy {document['spec']}")
    finally:
        for path in files:
            path.unlink()
        shooting.agent.reload()
    assert not wrong, f"{what}: {len(wrong)} verdicts differ, for example:\n" + "\n".join(wrong[:10])
