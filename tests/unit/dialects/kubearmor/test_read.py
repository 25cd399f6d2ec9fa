# SPDX-License-Identifier: Apache-2.0
"""Files of KubeArmor's policies: what is in them, and every mistake with its place."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bpfence.dialects.kubearmor.dialect import KUBEARMOR
from bpfence.dialects.kubearmor.model import Ports, Source
from bpfence.dialects.kubearmor.model import Test as Selected
from bpfence.dialects.kubearmor.read import CODES, load_sources
from tests.unit.dialects.kubearmor.corpus import corpus, document, lowered, read

BLOCK: dict[str, Any] = {"action": "Block", "file": {"matchPaths": [{"path": "/a"}]}}


def test_the_published_policies() -> None:
    """147 of 167 files load; the others have what kubectl or the schema of the CRD refuses: keys that are not there, written twice or
    missing, an action in lower case, a name with a space."""
    found = Counter[str]()
    refused = Counter[str]()
    for source in corpus():
        policies, diagnostics = load_sources([source])
        errors = [diagnostic for diagnostic in diagnostics if diagnostic.severity == "error"]
        found["refused" if errors else "loaded"] += 1
        assert bool(policies) is not bool(errors), source.file
        assert all(diagnostic.location.line and diagnostic.hint for diagnostic in diagnostics), source.file
        assert KUBEARMOR.claims(source.data)
        refused.update(diagnostic.code for diagnostic in errors)
        if not errors:
            assert len(policies[0].entries) > 0
    assert found == {"loaded": 147, "refused": 20}
    assert refused == {"missing-key": 10, "unknown-key": 6, "duplicate-key": 3, "bad-value": 2}


def test_the_mistakes_of_the_published_policies_have_their_places() -> None:
    found = {
        diagnostic.location.file: diagnostic
        for source in corpus()
        for diagnostic in load_sources([source])[1]
        if diagnostic.severity == "error"
    }
    audit = found["elastic__system__ksp-audit-elasticsearch-log-file-access.yaml"]
    assert (audit.location.line, audit.location.column, audit.hint) == (20, 11, "write Audit")
    nested = found["malware__system__ksp-block-linux-xorddos-trojan-process.yaml"]
    assert (nested.location.line, nested.message) == (18, "unknown key 'process' in process")
    host = found["stigs__system__hsp-audit-stig-ubuntu-20-010138-mount.yaml"]
    assert host.message == "spec of a KubeArmorHostPolicy needs 'nodeSelector'"


def test_what_is_inside_wins_over_what_is_outside() -> None:
    spec = {
        "severity": 2, "tags": ["outer"], "message": "outer", "action": "Audit",
        "file": {
            "severity": 5, "action": "Block", "message": "file",
            "matchPaths": [{"path": "/a"}, {"path": "/b", "action": "Allow", "severity": 9, "tags": ["inner"], "message": "inner"}],
        },
        "process": {"matchPaths": [{"path": "/c"}]},
    }  # fmt: skip
    [policy] = read(document(spec))[0]
    assert [(entry.where, entry.action, entry.severity, entry.tags, entry.message) for entry in policy.entries] == [
        ("process.matchPaths[0]", "Audit", 2, ("outer",), "outer"),
        ("file.matchPaths[0]", "Block", 5, ("outer",), "file"),
        ("file.matchPaths[1]", "Allow", 9, ("inner",), "inner"),
    ]
    [bare] = read(document({"file": {"matchPaths": [{"path": "/a"}]}}))[0]
    assert [(entry.action, entry.severity, entry.tags, entry.message) for entry in bare.entries] == [("Block", 1, (), "")]


def test_entries_of_every_list() -> None:
    source = [{"path": "/bin/sh"}, {"dir": "/opt/", "recursive": True}]
    spec = {
        "process": {
            "matchPaths": [{"path": "//usr//bin/x", "ownerOnly": True, "fromSource": source}, {"execname": "nmap"}],
            "matchDirectories": [{"dir": "/tmp/", "recursive": True}],
            "matchPatterns": [{"pattern": "/**/x"}],
        },
        "file": {"matchPaths": [{"path": "/a", "readOnly": True}]},
        "network": {"matchProtocols": [{"protocol": "TCP"}, {"protocol": "icmpv6"}]},
        "capabilities": {"matchCapabilities": [{"capability": "net_raw"}, {"capability": "checkpoint_restore"}]},
        "syscalls": {"matchSyscalls": [{"syscall": ["openat2"]}],
        "matchPaths": [{"path": "/d/", "syscall": ["unlink"], "recursive": True}]},
    }  # fmt: skip
    policies, diagnostics = read(document(spec))
    assert diagnostics == []
    entries = policies[0].entries
    assert [(entry.kind, entry.value) for entry in entries] == [
        ("path", "/usr/bin/x"), ("name", "nmap"), ("dir", "/tmp/"), ("pattern", "/**/x"), ("path", "/a"), ("protocol", "tcp"),
        ("protocol", "icmpv6"), ("capability", "net_raw"), ("capability", "checkpoint_restore"), ("", ""), ("dir", "/d/"),
    ]  # fmt: skip
    assert entries[0].sources == (Source("/bin/sh"), Source("/opt/", recursive=True))
    assert (entries[0].owner_only, entries[2].recursive, entries[4].read_only, entries[-1].calls) == (True, True, True, ("unlink",))


def test_selectors() -> None:
    label = {"key": "label", "operator": "NotIn", "values": ["a=b", "c=d"]}
    [policy] = read(document({**BLOCK, "selector": {"matchLabels": {"app": "web"}, "matchExpressions": [label]}}))[0]
    assert policy.tests == (Selected("label", ("app=web",)), Selected("label", ("a=b", "c=d"), among=False))
    assert (policy.namespace, policy.key) == ("shop", "KubeArmorPolicy/shop/p")
    [cluster] = read(document(BLOCK, "KubeArmorClusterPolicy"))[0]
    assert (cluster.tests, cluster.namespace, cluster.key) == ((Selected("namespace", ("shop",)),), "", "KubeArmorClusterPolicy/p")
    [host] = read(document(BLOCK, "KubeArmorHostPolicy"))[0]
    assert (host.node, host.host) == ((("a", "b"),), True)


def expression(operator: str, *values: str, key: str = "label") -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


NAME = "kubearmor.io/container.name"


@pytest.mark.parametrize(
    ("labels", "expressions", "why"),
    [
        ({"app": "web"}, [expression("In", "app=db", "app=x")], "the label app would have to have two values"),
        ({}, [expression("In", "app=a", "app=b"), expression("In", "app=c")], "the label app would have to have two values"),
        ({"app": "web"}, [expression("NotIn", "app=web")], "the label app must not have the values that it must have"),
        ({}, [expression("In", "app=a", "app=b"), expression("NotIn", "app=a", "x=y", "app=b")], "must not have the values"),
        ({"app": "web", "tier": "x"}, [expression("In", "app=db", "tier=y")], "none of the labels can hold"),
        ({"app": "web"}, [expression("In", "app=web", "app=db")], ""),
        ({"app": "web"}, [expression("In", "app=db", "tier=y")], ""),
        ({"app": "web"}, [expression("NotIn", "app=db", "tier=web")], ""),
        ({}, [expression("In", "app=a", "app=b"), expression("In", "app=b", "app=c"), expression("NotIn", "app=a")], ""),
        ({NAME: "a"}, [expression("In", f"{NAME}=[a, b]")], ""),
        ({NAME: "a"}, [expression("In", "app=web"), expression("NotIn", f"{NAME}=b", "app=db")], ""),
    ],
)
def test_selectors_that_contradict_themselves(labels: dict[str, str], expressions: list[dict[str, Any]], why: str) -> None:
    policies, found = read(document({**BLOCK, "selector": {"matchLabels": labels, "matchExpressions": expressions}}))
    assert (len(policies), [(one.code, one.severity) for one in found]) == (1, [("never-matches", "warning")] if why else [])
    assert all(why in one.message for one in found)


def test_namespaces_that_contradict_each_other() -> None:
    for second, codes in (("shop", []), ("bank", ["never-matches"])):
        expressions = [expression("In", "shop", "web", key="namespace"), expression("In", second, key="namespace")]
        _, found = read(document({**BLOCK, "selector": {"matchExpressions": expressions}}, "KubeArmorClusterPolicy"))
        assert [one.code for one in found] == codes


def test_merge_keys_that_kubectl_reads_otherwise_are_told() -> None:
    text = document(BLOCK)
    for more, found, count in (
        ("  <<: {severity: 5}\n  <<: {message: m}\n", ["duplicate-key"], 0),
        ("  severity: 3\n  <<: {severity: 5}\n", ["merge-order"], 1),
        ("  <<: {severity: 5}\n  severity: 3\n", [], 1),
    ):
        policies, told = read(text + more)
        assert ([one.code for one in told], len(policies)) == (found, count)
        assert all(policy.entries[0].severity == 3 for policy in policies)


def test_a_policy_that_is_inactive_is_not_there() -> None:
    policies, [told] = read(document({**BLOCK, "status": "Inactive"}))
    assert (policies, told.severity, told.code) == ((), "warning", "inactive")
    assert len(read(document({**BLOCK, "status": "Active"}))[0]) == 1


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"file": {"matchPaths": [{"path": "a"}]}}, "bad-value", "begin it with '/'"),
    ({"selector": {"matchLabels": {"kubearmor.io/container.name": "[]"}}}, "empty", "a list"),
    ({"selector": {"matchLabels": {"kubearmor.io/container.name": " , "}}}, "empty", "a list"),
    ({"selector": {"matchExpressions": [
        {"key": "label", "operator": "NotIn", "values": ["kubearmor.io/container.name=[,]"]}]}}, "empty", "a list"),
    ({"capabilities": {"matchCapabilities": [{"capability": "CAP_NET_RAW"}]}}, "bad-value", "write net_raw"),
    ({"file": {"matchPaths": [{"path": "/a/"}]}}, "bad-value", "matchDirectories"),
    ({"file": {"matchPaths": [{"path": "/a\x07"}]}}, "bad-value", "control characters"),
    ({"file": {"matchPaths": [{}]}}, "missing-key", "add path"),
    ({"file": {"matchPaths": [{"path": 7}]}}, "wrong-type", 'in quotes: "7"'),
    ({"file": {"matchPaths": {"path": "/a"}}}, "wrong-type", "'- '"),
    ({"file": {"matchPaths": ["/a"]}}, "wrong-type", "key: value"),
    ({"file": {"matchDirectories": [{"dir": "/a"}]}}, "bad-value", "end it with '/'"),
    ({"file": {"matchDirectories": [{"dir": "/a/", "recursive": "true"}]}}, "wrong-type", "without quotes"),
    ({"file": {"matchPatterns": [{"pattern": "/[a"}]}}, "bad-value", "write \\["),
    ({"file": {"matchPatterns": [{"pattern": "a*"}]}}, "bad-value", "begin it with '/'"),
    ({"file": {"matchPatterns": [{"pattern": "@{HOME}/x"}]}}, "bad-value", "write the paths"),
    ({"file": {"matchPaths": [{"path": "/a", "recursive": True}]}}, "unknown-key", "known keys"),
    ({"file": {"matchPath": [{"path": "/a"}]}}, "unknown-key", "matchPaths"),
    ({"file": {"matchPaths": [{"paht": "/a"}]}}, "unknown-key", "path"),
    ({**BLOCK, "action": "block"}, "bad-value", "write Block"),
    ({**BLOCK, "severity": 11}, "bad-value", "from 1 to 10"),
    ({**BLOCK, "severity": 5.5}, "bad-value", "whole number"),
    ({**BLOCK, "severity": "5"}, "wrong-type", "from 1 to 10"),
    ({**BLOCK, "tags": [2020]}, "wrong-type", "in quotes"),
    ({**BLOCK, "tags": "a"}, "wrong-type", "'- '"),
    ({**BLOCK, "message": True}, "wrong-type", "in quotes"),
    ({"process": {"matchPaths": [{"path": "/a", "execname": "a"}]}}, "bad-value", "one of them"),
    ({"process": {"matchPaths": [{"execname": "/a"}]}}, "bad-value", "without its directory"),
    *(
        ({"process": {"matchPaths": [{"path": "/a", "fromSource": [{"path": "/s"}, item]}]}}, "missing-key", "add path")
        for item in ({}, {"recursive": True}, {"path": None, "recursive": True}, {"dir": None}, {"path": None, "dir": None})
    ),
    ({"process": {"matchPaths": [{"path": "/a", "fromSource": [{"path": ""}]}]}}, "bad-value", "begin it with '/'"),
    ({"process": {"matchPaths": [{"path": "/a", "fromSource": [None]}]}}, "wrong-type", "key: value"),
    ({"network": {"matchProtocols": [{"protocol": "tpc"}]}}, "bad-value", "tcp"),
    ({"capabilities": {"matchCapabilities": [{"capability": "net_rw"}]}}, "bad-value", "net_raw"),
    ({"syscalls": {"matchSyscalls": [{"syscall": ["opne"]}]}}, "bad-value", "open"),
    ({**BLOCK, "selector": {"app": "web"}}, "unknown-key", "matchLabels"),
    ({**BLOCK, "selector": {"matchLabels": {"app": 7}}}, "wrong-type", "in quotes"),
    ({**BLOCK, "selector": {"matchLabels": {"a b": "c"}}}, "bad-value", "example.com/app"),
    ({**BLOCK, "selector": {"matchExpressions": [{"key": "label", "operator": "In", "values": ["a"]}]}}, "bad-value", "KEY=VALUE"),
    ({**BLOCK, "selector": {"matchExpressions": [{"key": "label", "operator": "in", "values": ["a=b"]}]}}, "bad-value", "In"),
    ({**BLOCK, "selector": {"matchExpressions": [{"key": "label", "operator": "In", "values": []}]}}, "empty", "list"),
    ({**BLOCK, "device": {}}, "unknown-key", "known keys"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "code", "hint"), MISTAKES)
def test_mistakes(spec: dict[str, Any], code: str, hint: str) -> None:
    policies, diagnostics = read(document(spec))
    assert policies == ()
    [found] = [diagnostic for diagnostic in diagnostics if diagnostic.severity == "error"]
    assert (found.code, hint in found.hint) == (code, True), found
    assert found.location.line > 1


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ({"network": {"matchDNSQueries": [{"domain": "example.com"}]}}, "name servers"),
    ],
)
def test_what_is_not_enforced_is_refused_or_left_out_and_never_silently(spec: dict[str, Any], what: str) -> None:
    policies, [found] = read(document(spec))
    assert (policies, found.severity, found.code, what in found.message) == ((), "error", "not-supported", True)
    policies, [found] = read(document({**spec, "action": "Audit"}))
    assert (len(policies), policies[0].entries, found.severity) == (1, (), "warning")
    assert "left out" in found.message


def test_arguments() -> None:
    def entry(words: object) -> tuple[Any, list[Any]]:
        policies, found = read(document({"process": {"matchPaths": [{"path": "/a", "allowedArgs": words}]}}))
        return (policies[0].entries[0].arguments if policies else None), [(one.code, one.severity) for one in found]

    assert entry(["-v", "a b"]) == (("-v", "a b"), [])
    assert entry([]) == (None, [("empty", "warning")])
    for words in ([""], ["a\tb"], ["x" * 105], ["-v"] * 21):
        assert entry(words) == (None, [("bad-value", "error")])
    assert entry([1]) == (None, [("wrong-type", "error")])


def test_presets() -> None:
    given = [
        {"name": "filelessExec", "action": "Audit", "severity": 3},
        {"name": "anonMapExec"},
        {"name": "protectProc", "action": "Audit"},
    ]
    [policy], warnings = read(document({"presets": given}))
    assert [(entry.where, entry.value, entry.action, entry.severity) for entry in policy.entries] == [
        ("presets[0]", "filelessExec", "Audit", 3),
        ("presets[1]", "anonMapExec", "Block", 1),
        ("presets[2]", "protectProc", "Audit", 1),
    ]
    assert warnings == []
    [policy], [warning] = read(document({"presets": [{"name": "filelessExec"}], "action": "Allow"}))
    assert (policy.entries, warning.code) == ((), "never-matches")


@pytest.mark.parametrize(
    ("preset", "code", "line"),
    [({"name": "fileless"}, "bad-value", 11), ({"action": "Audit"}, "missing-key", 11), ({"name": "exec", "a": 1}, "unknown-key", 12)],
)
def test_presets_that_there_are_not(preset: dict[str, Any], code: str, line: int) -> None:
    policies, diagnostics = read(document({"presets": [preset]}))
    assert policies == ()
    assert (diagnostics[-1].code, diagnostics[-1].location.line) == (code, line)


def test_names_of_nodes_that_are_no_regular_expressions(capfd: pytest.CaptureFixture[str]) -> None:
    selector = {"nodeSelector": {"matchLabels": {"kubearmor.io/hostnamereg": "a.*,("}}}
    _, [found] = read(document({**BLOCK, **selector}, "KubeArmorHostPolicy"))
    assert (found.code, "'('" in found.message, capfd.readouterr().err) == ("bad-value", True, "")


def test_sections_that_are_refused_whatever_they_say() -> None:
    for kind, section in (("KubeArmorPolicy", {"apparmor": "deny /a r,"}), ("KubeArmorHostPolicy", {"device": {"matchDevice": []}})):
        policies, [found] = read(document(section, kind))
        assert (policies, found.code) == ((), "not-supported")


def test_host_policies_need_sources_for_sockets_and_capabilities() -> None:
    _, [found] = read(document({"network": {"matchProtocols": [{"protocol": "tcp"}]}}, "KubeArmorHostPolicy"))
    assert (found.code, "fromSource" in found.message) == ("missing-key", True)


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [("KubeArmorPolicies", "p", "wrong-kind"), ("KubeArmorPolicy", "A b", "bad-value")],
)
def test_kinds_and_names(kind: str, name: str, code: str) -> None:
    policies, [found] = read(document(BLOCK, kind, name))
    assert (policies, found.code) == ((), code)


def test_whole_documents() -> None:
    assert [found.code for found in read(document(BLOCK), document(BLOCK))[1]] == ["duplicate-policy"]
    assert [found.code for found in read(document(BLOCK), document(BLOCK, namespace="other"))[1]] == []
    assert [found.code for found in read("")[1]] == ["no-rules"]
    assert [found.code for found in read("a: [")[1]] == ["yaml-syntax"]
    assert [found.code for found in read("apiVersion: v1\nkind: Pod\n")[1]] == ["wrong-kind"]
    assert [found.code for found in read("- a\n")[1]] == ["wrong-kind"]
    assert [found.code for found in read(document({}))[1]] == ["no-rules"]
    assert [found.code for found in read("apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\n")[1]] == ["missing-key"] * 2
    doubled = document(BLOCK).replace("  action: Block\n", "  action: Block\n  action: Audit\n")
    assert [found.code for found in read(doubled)[1]] == ["duplicate-key"]


def test_warnings() -> None:
    assert [found.code for found in read(document({**BLOCK, "selector": {}}))[1]] == ["selects-all"]
    pattern = {"process": {"matchPatterns": [{"pattern": "/*/pip install *"}, {"pattern": "/a/"}]}}
    policies, found = read(document(pattern))
    assert ([one.code for one in found], len(policies[0].entries)) == (["never-matches"] * 2, 2)
    named = {
        "matchPaths": [{"path": "/proc/self/mem"}, {"path": "/a", "fromSource": [{"path": "/b/../c"}]}],
        "matchDirectories": [{"dir": "/proc/self/"}], "matchPatterns": [{"pattern": "/a/../*"}],
    }  # fmt: skip
    policies, found = read(document({"file": named}))
    assert ([one.code for one in found], len(policies[0].entries)) == (["never-matches"] * 4, 4)
    assert [rule.name for policy in lowered(document({"file": named})).policies for rule in policy.rules][-1] == "file.matchDirectories[0]"


def test_every_code_is_in_the_manual() -> None:
    text = (Path(__file__).parents[4] / "docs" / "kubearmor.md").read_text()
    assert [code for code in CODES if f"`{code}`" not in text] == []


# ---- network policies ----

CIDR: dict[str, Any] = {"ipBlock": {"cidr": "10.0.0.0/8"}}


def traffic(**spec: Any) -> str:
    return document(spec, "KubeArmorNetworkPolicy", "net")


def test_a_network_policy() -> None:
    ports = [
        {"port": "443", "protocol": "TCP"},
        {"port": "8000", "endPort": 8100},
        {"port": "dns", "protocol": "UDP"},
        {"protocol": "SCTP"},
    ]
    [policy], diagnostics = read(traffic(egress=[{"to": [CIDR], "ports": ports, "severity": 3}], ingress=[{"action": "Audit"}]))
    assert diagnostics == []
    assert (policy.key, policy.host) == ("KubeArmorNetworkPolicy/net", True)
    audited, blocked = policy.entries
    assert (audited.where, audited.action, audited.networks, audited.ports) == ("ingress[0]", "Audit", (), ())
    assert (blocked.where, blocked.action, blocked.severity, blocked.networks) == ("egress[0]", "Block", 3, ("10.0.0.0/8",))
    assert blocked.ports == (Ports(443, 443, "TCP"), Ports(8000, 8100), Ports(53, 53, "UDP"), Ports(protocol="SCTP"))


@pytest.mark.parametrize(
    ("given", "code", "what"),
    [
        ({"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0/8"}}]}]}, "bad-value", "10.0.0/8"),
        ({"egress": [{"to": [{"ipBlock": {}}]}]}, "missing-key", "cidr"),
        ({"egress": [{"to": [{}]}]}, "missing-key", "ipBlock"),
        ({"egress": [{"from": [CIDR]}]}, "unknown-key", "from"),
        ({"egress": [{"ports": [{"port": "65536"}]}]}, "bad-value", "65536"),
        ({"egress": [{"ports": [{"port": "nonsense"}]}]}, "bad-value", "nonsense"),
        ({"egress": [{"ports": [{"port": "9", "endPort": 8}]}]}, "bad-value", "endPort"),
        ({"egress": [{"ports": [{"endPort": 8}]}]}, "missing-key", "endPort"),
        ({"egress": [{"ports": [{}]}]}, "empty", "ports"),
        ({"egress": [{"ports": [{"port": [1]}]}]}, "bad-value", "one value"),
        ({"egress": [{"ports": [{"protocol": "tcp"}]}]}, "bad-value", "tcp"),
        ({"egress": [{}], "level": "pod"}, "bad-value", "level"),
        ({"egress": [{}], "selector": {"matchLabels": {"a": "b"}}}, "bad-value", "nodeSelector"),
        ({"egress": 1}, "wrong-type", "egress"),
    ],
)
def test_mistakes_in_network_policies(given: dict[str, Any], code: str, what: str) -> None:
    policies, diagnostics = read(traffic(**given))
    assert policies == ()
    assert [(found.code, what in found.message) for found in diagnostics] == [(code, True)], diagnostics
    assert diagnostics[0].hint
    assert diagnostics[0].location.line > 5


@pytest.mark.parametrize(
    "given",
    [
        {"ingress": [{"from": [CIDR]}]}, {"ingress": [{"iface": ["eth0"]}]}, {"egress": [{"iface": ["eth0"]}]},
        {"egress": [{"limit": "10MB"}]}, {"egress": [{"duration": "1h"}]},
    ],
)  # fmt: skip
def test_what_no_event_tells_of_traffic(given: dict[str, Any]) -> None:
    policies, [found] = read(traffic(**given))
    assert (policies, found.code, found.severity) == ((), "not-supported", "error")
    [policy], [found] = read(traffic(**given, action="Audit"))
    assert (policy.entries, found.severity) == ((), "warning")


def test_whom_a_network_policy_is_about() -> None:
    head = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorNetworkPolicy\nmetadata: {name: net}\nspec: {egress: [{}], "
    [policy], diagnostics = read(head + "selector: {matchLabels: {app: web}}}")
    assert (policy.host, diagnostics) == (False, [])
    for selector, code in (("selector: {}", "empty"), ("nodeSelector: 1", "wrong-type"), ("level: Pod", "missing-key")):
        policies, [found] = read(head + selector + "}")
        assert (policies, found.code) == ((), code)


@pytest.mark.parametrize(
    ("spec", "place", "hint"),
    [
        ({"process": {"matchPaths": [{"path": "/usr/bin/*"}]}}, "'*'", "write it under matchPatterns"),
        ({"process": {"matchPaths": [{"execname": "nc?"}]}}, "'?'", "write it under matchPatterns: pattern: /**/nc?"),
        ({"file": {"matchPaths": [{"path": "/etc/{a,b}"}]}}, "'{a,b}'", "write it under matchPatterns"),
        ({"file": {"matchPaths": [{"path": "/var/log[0-9]/a"}]}}, "'[0-9]'", "write it under matchPatterns"),
        ({"file": {"matchDirectories": [{"dir": "/home/*/.ssh/"}]}}, "'*'", "write it under matchPatterns: pattern: /home/*/.ssh/**"),
        (
            {"file": {"matchPaths": [{"path": "/a", "fromSource": [{"path": "/bin/*"}]}]}},
            "'*'",
            "there are no patterns here: write each path, or the directory with recursive: true",
        ),
    ],
)
def test_wildcards_where_there_are_none(spec: dict[str, Any], place: str, hint: str) -> None:
    policies, [found] = read(document(spec))
    assert (found.code, found.severity, found.location.column > 10, place in found.message) == ("as-written", "warning", True, True)
    assert found.hint == hint
    assert len(policies) == 1
    assert read(document({"file": {"matchPaths": [{"path": "/app/[id]/x"}, {"path": "/a{b}"}]}}))[1] == []


def test_a_label_without_a_value() -> None:
    policies, [found] = read(document({**BLOCK, "selector": {"matchLabels": {"app": "web", "tier": None}}}))
    assert (policies, found.code, found.severity, found.message) == ((), "wrong-type", "error", "the label tier has no value")
    host = document({**BLOCK, "nodeSelector": {"matchLabels": {"a": None}}}, "KubeArmorHostPolicy")
    assert [found.code for found in read(host)[1]] == ["wrong-type"]


FILE: dict[str, Any] = {"matchPaths": [{"path": "/a"}]}
CALLS: dict[str, Any] = {"matchSyscalls": [{"syscall": ["unlink"]}]}
NET = "KubeArmorNetworkPolicy"
NOTHING: list[tuple[str, dict[str, Any], str, str]] = [
    ("KubeArmorPolicy", {"file": {"matchPaths": [{"path": "/a", "fromSource": []}]}}, "empty", "every program"),
    ("KubeArmorPolicy", {"file": {"matchPaths": [{"path": "/a", "fromSource": None}]}}, "empty", "every program"),
    ("KubeArmorPolicy", {"file": {**FILE, "matchDirectories": []}}, "empty", "no entry"),
    ("KubeArmorPolicy", {"file": {**FILE, "matchPatterns": None}}, "empty", "no entry"),
    ("KubeArmorPolicy", {"file": FILE, "syscalls": {"matchSyscalls": [{}]}}, "never-matches", "no system call"),
    ("KubeArmorPolicy", {"file": FILE, "syscalls": {"matchPaths": [{"path": "/a", "syscall": []}]}}, "never-matches", "no system call"),
    ("KubeArmorPolicy", {"file": FILE, "selector": None}, "selects-all", "every pod"),
    ("KubeArmorPolicy", {"file": FILE, "selector": {"matchLabels": None}}, "selects-all", "every pod"),
    ("KubeArmorHostPolicy", {"file": FILE, "nodeSelector": {}}, "selects-all", "every node"),
    ("KubeArmorHostPolicy", {"file": FILE, "nodeSelector": {"matchLabels": None}}, "selects-all", "every node"),
    (NET, {"egress": [{"to": []}]}, "empty", "every address"),
    (NET, {"egress": [{"to": None, "ports": [{"port": "80"}]}]}, "empty", "every address"),
    (NET, {"ingress": [{"ports": []}]}, "empty", "every port"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "spec", "code", "what"), NOTHING)
def test_what_lists_or_selects_nothing_is_told(kind: str, spec: dict[str, Any], code: str, what: str) -> None:
    policies, [found] = read(document(spec, kind))
    assert (len(policies), found.code, found.severity, what in found.message) == (1, code, "warning", True), found
    for benign in ({"file": FILE, "syscalls": CALLS}, {"egress": [{"ports": [{"port": "80"}]}]}):
        if ("egress" in benign) is (kind == NET):
            assert read(document(benign, kind))[1] == []


def test_no_hint_widens_a_block_unsaid() -> None:
    """Whoever removes what narrows an entry is told what is left."""
    spec = {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": "22"}]}]}
    [found] = read(document(spec, "KubeArmorNetworkPolicy"))[1]
    assert "every sender: remove it only if that is meant" in found.hint
    query = {"network": {"matchDNSQueries": [{"domain": "example.com"}]}}
    assert read(document(query))[1][0].hint.startswith("remove the entry")


def test_lists_of_policies_and_merge_keys() -> None:
    one, two = (document({"file": {"matchPaths": [{"path": "/a"}]}}, name=name) for name in ("one", "two"))
    items = "".join("- " + "  ".join(text.splitlines(keepends=True)) for text in (one, two.replace("/a", "a")))
    policies, [found] = read("apiVersion: v1\nkind: List\nitems:\n" + items)
    assert ([policy.name for policy in policies], found.code, found.location.line) == (["one"], "bad-value", 4 + 2 * one.count("\n") - 1)
    text = one.replace("    matchPaths:\n    - path: /a", "    matchPaths:\n    - &a {path: /a, severity: 4}\n    - {<<: *a, path: /b}")
    [policy], diagnostics = read(text)
    assert ([(entry.value, entry.severity) for entry in policy.entries], diagnostics) == ([("/a", 4), ("/b", 4)], [])


@pytest.mark.parametrize(("written", "severity"), [("010", 8), ("0x5", 5), ("0b11", 3), ("+7", 7), ("1_0", 10)])
def test_a_severity_is_what_kubernetes_makes_of_it(written: str, severity: int) -> None:
    [policy], diagnostics = read(document(BLOCK).replace("  file:", f"  severity: {written}\n  file:"))
    assert (policy.entries[0].severity, diagnostics) == (severity, [])


def test_of_one_file_so_many_findings_are_told() -> None:
    text = document({"file": {"matchPaths": [{"path": f"a{n}"} for n in range(1000)]}})
    policies, found = read(text, document(BLOCK, name="q"))
    assert ([policy.name for policy in policies], len(found), found[-1].code, found[-1].severity) == (["q"], 201, "too-many", "error")
