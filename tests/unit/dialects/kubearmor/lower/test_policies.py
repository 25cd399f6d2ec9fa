# SPDX-License-Identifier: Apache-2.0
"""Whole policies, and what allow lists do to everything else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence import abi
from bpfence.compiler.compile import compile_policies
from bpfence.compiler.explain import explain
from bpfence.compiler.workloads import selectors
from bpfence.conditions import links
from bpfence.dialects.facts import Facts
from bpfence.dialects.kubearmor.dialect import KUBEARMOR
from bpfence.dialects.kubearmor.lower import policies as lower
from bpfence.documents.files import SourceFile
from bpfence.evaluate import verdict
from bpfence.k8s.objects import namespace
from bpfence.policy import Action, PolicySet
from bpfence.workloads.select import selected
from tests.unit.dialects.kubearmor.corpus import WEB, corpus, decided, document, lowered, pod, read

DB = pod(app="db")
BLOCKS = {f"{host}{name}": "block" for host in ("", "host_") for name in ("file", "network", "capabilities")}


def allow(section: str, key: str, *entries: dict[str, Any], name: str = "p", app: str = "web", kind: str = "KubeArmorPolicy") -> str:
    spec: dict[str, Any] = {section: {key: list(entries)}, "action": "Allow"}
    return document({**spec, **({"selector": {"matchLabels": {"app": app}}} if kind == "KubeArmorPolicy" else {})}, kind, name)


def test_a_rule_is_what_its_entry_says() -> None:
    entry = {"path": "/a", "severity": 9, "tags": ["t"], "message": "no {braces}"}
    [policy] = lowered(document({"file": {"matchPaths": [entry, {"path": "/b", "action": "Audit"}]}})).policies
    block, audit = policy.rules
    assert (policy.name, block.name, block.action, block.errno) == ("KubeArmorPolicy/shop/p", "file.matchPaths[0]", Action.DENY, 13)
    assert (block.severity, block.tags, block.message) == ("critical", ("t",), "no {{braces}}")
    assert (audit.action, audit.severity, audit.location.line) == (Action.AUDIT, "low", block.location.line + 5)


def test_without_an_allow_list_everything_else_is_let_alone() -> None:
    policies = lowered(document({"process": {"matchPaths": [{"path": "/a"}]}}), postures=BLOCKS)
    assert decided(policies, "process.exec", WEB, file__path="/b").action is Action.NONE


def test_an_allow_list_closes_its_resource_of_its_workloads_and_nothing_else() -> None:
    policies = lowered(allow("process", "matchPaths", {"path": "/a"}, {"path": "/c", "fromSource": [{"path": "/s"}]}), postures=BLOCKS)

    def executed(path: str, inside: Any = WEB, exe: str = "/x") -> Action:
        found = decided(policies, "process.exec", inside, file__path=path, process__exe=exe)
        assert found.errno == (13 if found.action is Action.DENY else 0)
        return found.action

    assert [executed(path) for path in ("/a", "/b", "/c")] == [Action.NONE, Action.DENY, Action.DENY]
    assert executed("/c", exe="/s") is Action.NONE
    assert [executed("/b", inside) for inside in (DB, None)] == [Action.NONE, Action.NONE]
    assert decided(policies, "file.open", WEB, file__path="/b", file__access=1).action is Action.NONE
    [match] = decided(policies, "process.exec", WEB, file__path="/b").matches
    assert (match.policy, match.rule) == ("KubeArmor/DefaultPosture", "process")


def test_the_posture_is_audit_unless_it_is_said() -> None:
    text = allow("network", "matchProtocols", {"protocol": "tcp"})
    udp = {"net__family": 2, "net__type": 2, "net__protocol": 17}
    assert decided(lowered(text), "net.create", WEB, **udp).action is Action.AUDIT
    assert decided(lowered(text, postures={"file": "block"}), "net.create", WEB, **udp).action is Action.AUDIT
    blocked = lowered(text, postures={"network": "block"})
    assert decided(blocked, "net.create", WEB, **udp).action is Action.DENY
    assert decided(blocked, "net.create", WEB, net__family=2, net__type=1, net__protocol=6).action is Action.NONE
    assert decided(blocked, "net.create", WEB, net__family=1, net__type=1, net__protocol=0).action is Action.NONE


def kept(annotations: dict[str, str] | None) -> dict[str, str] | None:
    """What is kept of those of a namespace; None: nothing is known of it."""
    return annotations and namespace(json.dumps({"metadata": {"name": "shop", "annotations": annotations}}).encode())[1].annotations


@pytest.mark.parametrize("chosen", ["audit", "block"])
def test_a_namespace_may_have_another_posture(chosen: str) -> None:
    text = document({"process": {"matchPaths": [{"path": "/a"}]}, "network": {"matchProtocols": [{"protocol": "udp"}]}, "action": "Allow"})
    policies = lowered(text, postures={"file": chosen, "network": chosen})
    actions = {"audit": Action.AUDIT, "block": Action.DENY}
    for annotated, file, network in (
        (None, chosen, chosen),
        ({}, chosen, chosen),
        ({"kubearmor-file-posture": "block"}, "block", chosen),
        ({"kubearmor-file-posture": "audit", "kubearmor-network-posture": "block"}, "audit", "block"),
        ({"kubearmor-file-posture": "Block", "kubearmor-network-posture": "AUDIT"}, "block", "audit"),
        ({"kubearmor-file-posture": "bLOCK", "kubearmor-network-posture": "no"}, "block", chosen),
        ({"kubearmor-file-posture": "blocked", "kubearmor-network-posture": ""}, chosen, chosen),
    ):
        inside = pod(app="web", annotations=kept(annotated))
        executed = decided(policies, "process.exec", inside, file__path="/b")
        made = decided(policies, "net.create", inside, net__family=2, net__type=1, net__protocol=6)
        assert (executed.action, made.action) == (actions[file], actions[network])
        assert len(executed.matches) == len(made.matches) == 1


def test_allow_lists_of_several_policies_add_up_for_the_workloads_of_both() -> None:
    every = document({"process": {"matchPaths": [{"path": "/b"}]}, "action": "Allow", "selector": {}}, name="every")
    policies = lowered(allow("process", "matchPaths", {"path": "/a"}), every, postures=BLOCKS)
    found = {
        (app.pod.labels["app"], path): decided(policies, "process.exec", app, file__path=path).action
        for app in (WEB, DB)
        for path in ("/a", "/b", "/c")
    }  # type: ignore[union-attr,index]
    allowed = {key for key, action in found.items() if action is Action.NONE}
    assert allowed == {("web", "/a"), ("web", "/b"), ("db", "/b")}


def test_block_wins_over_allow_of_the_same() -> None:
    blocking = document({"process": {"matchPaths": [{"path": "/a"}]}}, name="q")
    policies = lowered(allow("process", "matchPaths", {"path": "/a"}), blocking)
    assert decided(policies, "process.exec", WEB, file__path="/a").action is Action.DENY


# ---- which of several entries decides ----

SOURCES = ("/s", "/t")
DIRECTORIES = ("/", "/a/", "/a/b/", "/run/a/", "/var/run/", "/var/run/a/", "/var/")
FILES = ("/a", "/a/f", "/a/b", "/a/b/f", "/f", "/run/a", "/run/a/f")
LINKED = ("/var/run/a", "/var/run/a/f")
"""Other names of files: /var/run is a link."""
NAMES = ("f", "b")
"""Of programs, wherever they lie."""
ENTRY = st.fixed_dictionaries(
    {"where": st.sampled_from(FILES + LINKED + DIRECTORIES + NAMES), "action": st.sampled_from(("Allow", "Block"))},
    optional={
        "source": st.sampled_from(SOURCES),
        "recursive": st.booleans(),
        "readOnly": st.booleans(),
        "ownerOnly": st.booleans(),
        "app": st.sampled_from(("web", "db", "")),
    },
)


def as_policies(entries: Sequence[Mapping[str, Any]], section: str) -> list[str]:
    """A policy for each entry, as that is what there is across policies, too; "" is the app of all."""
    made = []
    for index, one in enumerate(entries):
        directory = one["where"].endswith("/")
        flags = {"ownerOnly"} | ({"readOnly"} if section == "file" else set()) | ({"recursive"} if directory else set())
        named = section == "process" and one["where"] in NAMES
        item = {"dir" if directory else "execname" if named else "path": place(one, section), "action": one["action"]}
        item |= {key: one[key] for key in sorted(flags) if key in one}
        item |= {"fromSource": [{"path": one["source"]}]} if "source" in one else {}
        app = one.get("app", "web")
        selector = {"matchLabels": {"app": app}} if app else {}
        body = {"selector": selector, section: {"matchDirectories" if directory else "matchPaths": [item]}}
        made.append(document(body, name=f"p{index}"))
    return made


def place(one: Mapping[str, Any], section: str) -> str:
    """What an entry names: files have no entries for names alone."""
    return f"/{one['where']}" if section == "file" and one["where"] in NAMES else str(one["where"])


def looked_up(entries: Sequence[Mapping[str, Any]], app: str, exe: str, path: str, section: str) -> list[Mapping[str, Any]]:
    """The entries that KubeArmor finds for a file, those that block before those that allow: by tables of texts, with the source and
    without, first of the file and then of the directories on the way to it. Whatever name an entry gives, it is that of the file."""
    for source in (exe, None):
        table: dict[str, list[Mapping[str, Any]]] = {}
        for one in entries:
            if one.get("source") == source and one.get("app", "web") in (app, ""):
                table.setdefault(place(one, section).replace("/var/run/", "/run/"), []).append(one)
        itself = table.get(path, []) + (table.get(path + "/", []) if section == "file" else [])
        above = [path[: at + 1] for at in range(len(path)) if path[at] == "/"]
        flat = [found for found in table.get(above[-1], []) if not found.get("recursive")]
        deep = [[found for found in table.get(name, []) if found.get("recursive")] for name in reversed(above)]
        # Where KubeArmor's two enforcers differ: a Block of a directory alone is not passed over.
        deep[0] += [found for found in flat if found["action"] == "Block"]
        for first in (itself, table.get(path.rpartition("/")[2], []), *deep, flat):
            if first:
                return sorted(first, key=lambda found: str(found["action"]) != "Block")
    return []


def reference(entries: Sequence[Mapping[str, Any]], app: str, exe: str, path: str, section: str, *, change: bool, owns: bool) -> Action:
    """What KubeArmor makes of a use of a file, where the posture is to report."""

    def refuses(one: Mapping[str, Any]) -> bool:
        read_only = bool(one.get("readOnly")) and section == "file"
        if one.get("ownerOnly") or read_only:
            return bool(one.get("ownerOnly") and not owns) or (read_only and change)
        return bool(one["action"] == "Block")

    found = looked_up(entries, app, exe, path, section)
    first = [one for one in found if one["action"] == found[0]["action"]]
    if any(map(refuses, first)):
        return Action.DENY
    listed = any(one["action"] == "Allow" and one.get("app", "web") in (app, "") for one in entries)
    return Action.AUDIT if listed and not found else Action.NONE


def found_link(path: str) -> links.Resolution:
    names = (path.removeprefix("/var"),) if (path + "/").startswith("/var/run/") else ()
    return links.Resolution(names, tuple(("/var/run", name) for name in names))


@pytest.mark.parametrize("section", ["file", "process"])
def test_the_entry_that_kubearmor_looks_up_first_decides(section: str) -> None:
    @settings(max_examples=80, deadline=None, derandomize=True)
    @given(st.lists(ENTRY, max_size=6))
    def check(entries: list[dict[str, Any]]) -> None:
        policies, _ = links.widened(lowered(*as_policies(entries, section)) if entries else PolicySet(), found_link)
        for app, inside in (("web", WEB), ("db", DB)):
            for exe, path, change, owns in product(("/s", "/t", "/x"), FILES, (False, True), (False, True)):
                if section == "process":
                    event, fields = "process.exec", {}
                else:
                    event, fields = ("file.unlink", {}) if change else ("file.open", {"file__access": abi.ACCESS_READ})
                found = decided(policies, event, inside, file__path=path, process__exe=exe, file__uid=0 if owns else 1, **fields)
                wanted = reference(entries, app, exe, path, section, change=change, owns=owns)
                assert found.action is wanted, (app, exe, path, change, owns)

    check()


@pytest.mark.parametrize(
    ("blocked", "allowed", "path", "action"),
    [
        ("/run/x/", "/var/run/x/", "/run/x/f", Action.DENY),
        ("/var/run/x/", "/run/x/", "/run/x/f", Action.DENY),
        ("/run/x/", "/var/run/", "/run/x/f", Action.DENY),
        ("/var/run/", "/run/x/", "/run/x/f", Action.NONE),
        ("/usr/bin/", "/bin/", "/usr/bin/f", Action.DENY),
        ("/usr/", "/bin/", "/usr/bin/f", Action.NONE),
        ("/var/", "/var/run/", "/var/run/f", Action.NONE),  # where it is no link
    ],
)
def test_of_two_names_of_a_directory_none_is_the_longer(blocked: str, allowed: str, path: str, action: Action) -> None:
    entries = [{"dir": blocked, "recursive": True}, {"dir": allowed, "recursive": True, "action": "Allow"}]
    given_ = lowered(document({"file": {"matchDirectories": entries}}))
    usual = {"/var/run": "/run", "/bin": "/usr/bin"}

    def find(asked: str) -> links.Resolution:
        at = next((link for link in usual if (asked + "/").startswith(link + "/")), None)
        return links.Resolution((usual[at] + asked[len(at) :],) if at else ())

    policies = given_ if path.startswith("/var/run/") else links.widened(given_, find)[0]
    assert decided(policies, "file.open", WEB, file__path=path, file__access=abi.ACCESS_READ).action is action


def test_each_name_of_a_rename_is_looked_up() -> None:
    entries = [{"dir": "/a/", "recursive": True, "action": "Block"}, {"path": "/a/f", "fromSource": [{"path": "/s"}]}]
    policies = lowered(document({"file": {"matchDirectories": entries[:1], "matchPaths": entries[1:]}, "action": "Allow"}))
    for old, new, action in (("/a/f", "/x", Action.AUDIT), ("/a/f", "/a/g", Action.DENY), ("/a/g", "/a/f", Action.DENY)):
        assert decided(policies, "file.rename", WEB, file__path=old, file__new_path=new, process__exe="/s").action is action


def test_a_block_of_a_pattern_holds_and_an_allow_of_one_is_last() -> None:
    files = {
        "matchPaths": [{"path": "/a/x.key", "action": "Allow"}],
        "matchDirectories": [{"dir": "/b/", "recursive": True}],
        "matchPatterns": [{"pattern": "/a/*.key"}, {"pattern": "/b/**", "action": "Allow"}],
    }
    policies = lowered(document({"file": files}))
    for path in ("/a/x.key", "/b/c"):
        assert decided(policies, "file.open", WEB, file__path=path, file__access=1).action is Action.DENY


def test_a_block_of_a_pattern_holds_in_what_it_refuses_and_lets_nothing_through() -> None:
    given_ = {
        "matchDirectories": [{"dir": "/", "recursive": True, "action": "Allow"}, {"dir": "/etc/ssl/", "recursive": True}],
        "matchPatterns": [{"pattern": "/etc/**", "readOnly": True}],
    }
    policies = lowered(document({"file": given_}))
    for path, access, action in (
        ("/etc/hosts", abi.ACCESS_READ, Action.NONE), ("/etc/hosts", abi.ACCESS_WRITE, Action.DENY), ("/x", abi.ACCESS_WRITE, Action.NONE),
        ("/etc/ssl/key", abi.ACCESS_READ, Action.DENY),
    ):  # fmt: skip
        assert decided(policies, "file.open", WEB, file__path=path, file__access=access).action is action


def test_sockets_of_a_source_before_all_and_blocks_before_what_allows() -> None:
    tcp, unix = {"net__family": 2, "net__type": 1, "net__protocol": 6}, {"net__family": 1, "net__type": 1, "net__protocol": 0}
    for entries, exe, made, action in (
        ([("stream", "Allow", None), ("tcp", "Block", None)], "/x", tcp, Action.DENY),
        ([("stream", "Block", None), ("tcp", "Allow", None)], "/x", tcp, Action.DENY),
        ([("stream", "Block", None), ("tcp", "Allow", "/s")], "/s", tcp, Action.NONE),
        ([("stream", "Block", None), ("tcp", "Allow", "/s")], "/x", tcp, Action.DENY),
        ([("all", "Block", None), ("tcp", "Allow", "/s")], "/s", unix, Action.DENY),
    ):  # fmt: skip
        items = [
            {"protocol": name, "action": what, **({"fromSource": [{"path": source}]} if source else {})} for name, what, source in entries
        ]
        policies = lowered(document({"network": {"matchProtocols": items}}))
        assert decided(policies, "net.create", WEB, process__exe=exe, **made).action is action


@pytest.mark.parametrize("posture", ["audit", "block"])
def test_what_an_entry_blocks_beside_an_allow_list_is_told_once(posture: str) -> None:
    files = {"matchPaths": [{"path": "/a", "action": "Allow"}, {"path": "/b"}, {"path": "/s", "fromSource": [{"path": "/src"}]}],
             "matchPatterns": [{"pattern": "/p/*.key"}]}  # fmt: skip
    sockets = {"matchProtocols": [{"protocol": "tcp", "action": "Allow"}, {"protocol": "udp"}]}
    other = document({"file": {"matchPaths": [{"path": "/d"}]}}, name="q")
    elsewhere = document({"selector": {"matchLabels": {"app": "db"}}, "file": {"matchPaths": [{"path": "/e"}]}}, name="r")
    policies = lowered(document({"file": files, "network": sockets}), other, elsewhere, postures=dict.fromkeys(BLOCKS, posture))

    def told(event: str, **fields: Any) -> list[str]:
        found = decided(policies, event, WEB, **fields).matches
        return [f"{match.policy.removeprefix('KubeArmorPolicy/')} {match.rule}" for match in found]

    reads = {path: told("file.open", file__path=path, file__access=abi.ACCESS_READ) for path in ("/a", "/b", "/d", "/e", "/s", "/p/x.key")}
    assert reads == {
        "/a": [], "/b": ["shop/p file.matchPaths[1]"], "/d": ["shop/q file.matchPaths[0]"], "/e": ["KubeArmor/DefaultPosture file"],
        "/s": ["KubeArmor/DefaultPosture file"], "/p/x.key": ["shop/p file.matchPatterns[0]"],
    }  # fmt: skip
    assert told("file.open", file__path="/s", file__access=abi.ACCESS_READ, process__exe="/src") == ["shop/p file.matchPaths[2]"]
    assert told("file.rename", file__path="/a", file__new_path="/b") == ["shop/p file.matchPaths[1]"]
    assert told("file.rename", file__path="/a", file__new_path="/c") == ["KubeArmor/DefaultPosture file"]
    assert told("net.create", net__family=2, net__type=2, net__protocol=17) == ["shop/p network.matchProtocols[1]"]
    assert told("net.create", net__family=2, net__type=3, net__protocol=1) == ["KubeArmor/DefaultPosture network"]


def test_what_many_entries_block_is_told_as_the_postures_too(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"matchPaths": [{"path": "/a", "action": "Allow"}, *({"path": f"/b{n}"} for n in range(3))]}
    for most, count in ((3, 1), (2, 2)):
        monkeypatch.setattr(lower, "TOLD_ONCE", most)
        found = decided(lowered(document({"file": files})), "file.open", WEB, file__path="/b1", file__access=abi.ACCESS_READ)
        assert (found.action, len(found.matches)) == (Action.DENY, count)


def test_what_an_allow_refuses_is_refused_whatever_the_posture() -> None:
    policies = lowered(allow("file", "matchPaths", {"path": "/r", "readOnly": True}, {"path": "/o", "ownerOnly": True}))
    for path, access, uid, action in (
        ("/r", abi.ACCESS_READ, 0, Action.NONE), ("/r", abi.ACCESS_WRITE, 0, Action.DENY), ("/o", abi.ACCESS_WRITE, 0, Action.NONE),
        ("/o", abi.ACCESS_READ, 1, Action.DENY), ("/x", abi.ACCESS_READ, 0, Action.AUDIT),
    ):  # fmt: skip
        found = decided(policies, "file.open", WEB, file__path=path, file__access=access, file__uid=uid)
        assert found.action is action, path


def test_an_allow_list_of_files() -> None:
    entries = ({"dir": "/a/", "recursive": True}, {"dir": "/r/", "readOnly": True}, {"dir": "/o/", "ownerOnly": True})
    policies = lowered(allow("file", "matchDirectories", *entries), postures=BLOCKS)

    def opened(path: str, access: int, uid: int = 0) -> bool:
        return decided(policies, "file.open", WEB, file__path=path, file__access=access, file__uid=uid).action is Action.DENY

    assert [opened(path, abi.ACCESS_READ) for path in ("/a/x", "/a/x/y", "/r/x", "/o/x", "/x")] == [False, False, False, False, True]
    assert [opened(path, abi.ACCESS_WRITE) for path in ("/a/x", "/r/x", "/o/x")] == [False, True, False]
    assert opened("/o/x", abi.ACCESS_READ, uid=1000)
    assert not opened("/x", abi.ACCESS_EXEC)
    for old, new, free in (("/a/x", "/a/y", True), ("/a/x", "/x", False), ("/x", "/a/x", False)):
        renamed = decided(policies, "file.rename", WEB, file__path=old, file__new_path=new)
        assert (renamed.action is Action.NONE) is free
    assert decided(policies, "file.unlink", WEB, file__path="/r/x").action is Action.DENY


def test_an_allow_list_of_the_host() -> None:
    sourced = {"capability": "net_raw", "fromSource": [{"path": "/bin/ping"}]}
    policies = lowered(
        allow("capabilities", "matchCapabilities", sourced, kind="KubeArmorHostPolicy"), postures={"host_capabilities": "block"}
    )
    for exe, number, inside, action in (
        ("/bin/ping", 13, None, Action.NONE), ("/bin/x", 13, None, Action.DENY),
        ("/bin/ping", 12, None, Action.DENY), ("/bin/x", 13, WEB, Action.NONE),
    ):  # fmt: skip
        assert decided(policies, "process.capable", inside, capability=number, process__exe=exe).action is action


def test_what_is_not_said_of_system_calls_is_told() -> None:
    given = document({"syscalls": {"matchSyscalls": [{"syscall": ["chown", "getpid"]}]}})
    rules, diagnostics = KUBEARMOR.read([SourceFile("p", given.encode())], None)
    assert [found.code for found in diagnostics] == ["not-supported", "other-acts"]
    assert "getpid" in diagnostics[0].message
    assert rules.policies(Facts())[0].rules[0].action is Action.AUDIT
    assert read(given)[1] == []


def test_every_published_policy_compiles() -> None:
    """Each by itself."""
    compiled = 0
    for source in corpus():
        rules, diagnostics = KUBEARMOR.read([source], None)
        if not any(found.severity == "error" for found in diagnostics):
            compile_policies(PolicySet(rules.policies(Facts())))
            compiled += 1
    assert compiled == 147


def test_tables_decide_as_the_entries_say() -> None:
    files = {
        "matchDirectories": [
            {"dir": "/", "recursive": True}, {"dir": "/r/", "recursive": True, "readOnly": True},
            {"dir": "/data/", "recursive": True, "action": "Block"},
            {"dir": "/data/", "recursive": True, "fromSource": [{"path": "/app"}]},
        ],
        "matchPaths": [{"path": "/data/free"}, {"path": "/o", "ownerOnly": True}],
    }  # fmt: skip
    text = document({"file": files, "process": {"matchPaths": [{"path": "/app"}]}, "action": "Allow"})
    policies = lowered(text)
    compiled = compile_policies(policies)
    assert compiled.unreachable == ()
    told = set()
    for annotated, exe, path, uid in product((None, "block"), ("/app", "/x"), ("/data/a", "/data/free", "/r/a", "/o", "/b"), (0, 1)):
        inside = pod(app="web", annotations={"kubearmor-file-posture": annotated} if annotated else {})
        of = {"process.cgroup": inside.cgroup, "process.container": tuple(selected(inside, selectors(policies)))}
        acts: list[dict[str, Any]] = [{"event": "file.open", "file.access": access} for access in (abi.ACCESS_READ, abi.ACCESS_WRITE)]
        acts += ({"event": "file.rename", "file.new_path": new} for new in ("/b", "/data/x"))
        for act in (*acts, {"event": "file.unlink"}, {"event": "process.exec"}):
            given_ = {**act, **of, "process.exe": exe, "process.uid": 0, "process.tty": 0, "file.path": path, "file.uid": uid}
            route, wanted = explain(compiled, given_), verdict(policies, given_)
            rules = {f"{match.policy}/{match.rule}" for match in wanted.matches}
            assert (route.action, set(route.rules)) == (wanted.action.name.lower(), rules), given_
            told |= {match.rule for match in wanted.matches}
    assert told == {f"file.matchDirectories[{n}]" for n in (1, 2)} | {"file.matchPaths[1]", "process", "process-block"}
