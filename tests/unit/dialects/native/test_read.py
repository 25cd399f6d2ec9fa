"""Native policies: what they become, files and directories, and that no text raises anything."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpfence import names
from bpfence.dialects.native import read
from bpfence.dialects.native.read import load_files, load_sources, load_text
from bpfence.documents import yaml_nodes
from bpfence.documents.files import SourceFile
from bpfence.documents.placed import MAX_BYTES
from bpfence.errors import Diagnostic, Location
from bpfence.evaluate import holds, verdict
from bpfence.fields import EVENTS, FIELDS, GROUPS
from bpfence.policy import CONTAINER_FIELD, TRUE, Action, Atom, Event, Label, Op, Policy, PolicySet, Rule, Selector, atoms
from tests.unit.documents.single_mistakes import single_mistakes

HEAD = "apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: p}\nspec:\n"
SHIPPED = sorted((Path(__file__).parents[4] / "examples" / "policies").glob("*.yaml"))


def load(spec: str) -> Policy:
    policies, found = load_text(HEAD + spec)
    assert not [problem for problem in found if problem.code not in ("stops-host", "datagrams")], found
    (policy,) = policies.policies
    return policy


def rule(text: str, spec: str = "") -> Rule:
    lines = "".join(f"      {line}\n" for line in text.splitlines())
    return load(f"{spec}  rules:\n    - name: r\n{lines}").rules[0]


def codes(spec: str) -> list[str]:
    return [d.code for d in load_text(HEAD + spec)[1]]


def test_the_example_of_the_design() -> None:
    policy = load(
        """\
  mode: enforce
  severity: critical
  tags: [mitre_execution, T1059]
  scope: {}
  default: {}
  rules:
    - name: exec-from-tmp
      on: exec
      match:
        file.path: ["/tmp/**", "/dev/shm/**", "/var/tmp/**"]
      unless:
        process.exe: ["/usr/bin/dpkg"]
      action: deny
      message: "blocked execution of {file.path}"
"""
    )
    (made,) = policy.rules
    assert (policy.name, policy.mode, policy.scope, policy.default) == ("p", "enforce", TRUE, {})
    assert (made.policy, made.events, made.action, made.errno, made.severity) == ("p", ("process.exec",), Action.DENY, 1, "critical")
    assert made.tags == ("mitre_execution", "T1059")
    assert made.location == Location("<text>", 11, 7)
    event: Event = {"event": "process.exec", "file.path": "/tmp/x", "process.exe": "/bin/sh"}
    assert made.matches(event)
    assert not made.matches({**event, "process.exe": "/usr/bin/dpkg"})
    assert not made.matches({**event, "file.path": "/usr/bin/x"})
    assert not made.matches({**event, "event": "file.open"})


def test_what_a_rule_says_of_itself_wins() -> None:
    made = rule("on: exec\nseverity: low\ntags: [x]\nrate: 30/m\naction: kill\nerrno: 13", "  severity: high\n  tags: [y, z]\n")
    assert (made.severity, made.tags, made.rate, made.burst, made.action, made.errno) == ("low", ("x",), 0.5, 30, Action.KILL, 13)
    assert rule("on: exec\ntags: []", "  tags: [y]\n").tags == ()
    assert rule("on: exec").action == Action.AUDIT


def test_match_values_are_alternatives_and_fields_are_all_required() -> None:
    made = rule("on: connect\nmatch:\n  net.peer.ip: [10.0.0.0/8, '::1']\n  net.peer.port: [80, 1000-2000]")
    event: Event = {"event": "net.connect", "net.peer.ip": "10.1.1.1", "net.peer.port": 80}
    assert made.matches(event)
    assert made.matches({**event, "net.peer.ip": "::1", "net.peer.port": 1500})
    assert not made.matches({**event, "net.peer.port": 81})
    assert not made.matches({**event, "net.peer.ip": "11.0.0.0"})


def test_unless_needs_all_its_fields() -> None:
    made = rule("on: exec\nunless:\n  process.exe: /a\n  process.uid: 0")
    event: Event = {"event": "process.exec", "process.exe": "/a", "process.uid": 0}
    assert not made.matches(event)
    assert made.matches({**event, "process.uid": 1})
    assert made.matches({"event": "process.exec"})


def test_flags_are_any_of_the_listed() -> None:
    made = rule("on: open\nmatch: {file.access: [write, append]}")
    assert made.condition == Atom("file.access", Op.ANYBITS, 2 | 8)


@pytest.mark.parametrize(
    ("scope", "event", "expected"),
    [
        ("exe: /usr/bin/a", {"process.exe": "/usr/bin/a"}, True),
        ("exe: [/usr/bin/a, /opt/**]", {"process.exe": "/opt/x/y"}, True),
        ("user: root", {"process.uid": 0}, True),
        ("uid: '>=1000'", {"process.uid": 999}, False),
        ("uid: [0, 1000-2000]", {"process.uid": 1500}, True),
        ("gid: 5", {"process.gid": 5}, True),
        ("cgroup: /a", {"process.cgroup": "/a/b"}, True),
        ("cgroup: /a", {"process.cgroup": "/ab"}, False),
        ("ancestor: /usr/sbin/sshd", {"process.ancestors.exe": ("/x", "/usr/sbin/sshd")}, True),
        ("ancestor: /usr/sbin/sshd", {"process.ancestors.exe": ("/x",)}, False),
        ("name: 'ng*'", {"process.name": "nginx"}, True),
        ("args: '*--unsafe*'", {"process.args": "a --unsafe b"}, True),
        ("parent: /bin/sh", {"process.parent.exe": "/bin/sh"}, True),
        ("container: true", {"process.cgroup": "/docker/x"}, True),
        ("container: true", {"process.cgroup": "/system.slice"}, False),
        ("container: false", {"process.cgroup": "/system.slice"}, True),
        ("container: false", {"process.cgroup": "/docker/x"}, False),
        ("{exe: /a, unless: {uid: 0}}", {"process.exe": "/a", "process.uid": 0}, False),
        ("{exe: /a, unless: {uid: 0}}", {"process.exe": "/a", "process.uid": 1}, True),
        ("{exe: /a, uid: 1}", {"process.exe": "/a", "process.uid": 2}, False),
    ],
)
def test_scope(scope: str, event: Event, expected: bool) -> None:
    body = scope if scope.startswith("{") else f"{{{scope}}}"
    policy = load(f"  scope: {body}\n  default: {{open: deny}}\n  rules:\n    - {{name: r, on: exec}}\n")
    assert holds(policy.scope, event) is expected
    assert policy.rules[0].matches({**event, "event": "process.exec"}) is expected
    closed = verdict(PolicySet((policy,)), {**event, "event": "file.open"})
    assert (closed.action == Action.DENY) is expected


NGINX = Selector(images=("nginx:*",))


@pytest.mark.parametrize(
    ("scope", "selector"),
    [
        ("image: nginx:*", NGINX),
        ("{container: true, image: nginx:*}", NGINX),
        ("container: [web, 'db-*']", Selector(names=("web", "db-*"))),
        ("{namespace: prod, pod: a-*, serviceAccount: sa}", Selector(namespaces=("prod",), pods=("a-*",), service_accounts=("sa",))),
        ("labels: {app: web, tier: [front]}", None),
        ("labels: {app: web, tier: ''}", Selector(labels=(Label("app", "in", ("web",)), Label("tier", "in", ("",))))),
        ("namespaceLabels: {team: a}", Selector(namespace_labels=(Label("team", "in", ("a",)),))),
        ("labels: {matchLabels: {app: web}}", Selector(labels=(Label("app", "in", ("web",)),))),
        (
            "labels: {matchExpressions: [{key: a, operator: NotIn, values: [x, y]}, {key: b, operator: DoesNotExist}]}",
            Selector(labels=(Label("a", "notin", ("x", "y")), Label("b", "absent"))),
        ),
    ],
)
def test_a_scope_selects_containers(scope: str, selector: Selector | None) -> None:
    body = scope if scope.startswith("{") else f"{{{scope}}}"
    policies, found = load_text(f"{HEAD}  scope: {body}\n  rules:\n    - {{name: r, on: exec, action: deny}}\n")
    if selector is None:
        assert [d.code for d in found] == ["wrong-type"]
        return
    (policy,) = policies.policies
    assert [atom.value for atom in atoms(policy.scope) if atom.op is Op.SELECTS] == [selector]
    event: Event = {"event": "process.exec", "process.cgroup": "/docker/x"}
    assert policy.rules[0].matches({**event, CONTAINER_FIELD: (selector,)})  # type: ignore[dict-item]
    assert not policy.rules[0].matches({**event, CONTAINER_FIELD: ()})


@pytest.mark.parametrize("word", ["yes", "No", "ON", "off", "True", "TRUE", "False", "3", "1.5", "'yes'"])
def test_a_word_for_yes_or_no_is_no_name_of_a_container_but_in_a_list(word: str) -> None:
    def found(container: str) -> tuple[list[str], list[object]]:
        policies, told = load_text(f"{HEAD}  scope: {{container: {container}}}\n  rules:\n    - {{name: r, on: exec}}\n")
        selected = [atom.value for policy in policies.policies for atom in atoms(policy.scope) if atom.op is Op.SELECTS]
        return [one.code for one in told if one.severity == "error"], selected

    name = word.strip("'")
    assert found(word)[0] == ["bad-value"]
    assert found(f'["{name}"]') == ([], [Selector(names=(name,))])


def test_a_quoted_number_may_be_the_name_of_a_container() -> None:
    policy = load("  scope: {container: '3'}\n  rules:\n    - {name: r, on: exec}\n")
    assert [atom.value for atom in atoms(policy.scope) if atom.op is Op.SELECTS] == [Selector(names=("3",))]


@pytest.mark.parametrize("key", ["app", "app.kubernetes.io/name", "A_b.c-1", "a" * 63, "a." * 126 + "a/b", "com.docker.compose.project"])
def test_keys_of_labels(key: str) -> None:
    policy = load(f"  scope: {{labels: {{{key}: x}}}}\n  rules:\n    - {{name: r, on: exec}}\n")
    assert [atom.value for atom in atoms(policy.scope) if atom.op is Op.SELECTS] == [Selector(labels=(Label(key, "in", ("x",)),))]


@pytest.mark.parametrize("key", ["''", "a" * 64, "a/b/c", "/a", "a/", "a-", ".a", "a b", "a*", "a." * 127 + "a/b", "a_b/c"])
def test_what_is_no_key_of_a_label(key: str) -> None:
    _, found = load_text(f"{HEAD}  scope: {{labels: {{{key}: x}}}}\n  rules:\n    - {{name: r, on: exec}}\n")
    assert [one.code for one in found] == ["bad-value"]


@pytest.mark.parametrize(("unknown", "action"), [("inside", "DENY"), ("audit", "AUDIT"), ("outside", "NONE"), (None, "AUDIT")])
@pytest.mark.parametrize("scope", ["image: nginx", "container: true, unless: {image: nginx}"])
def test_what_becomes_of_unknown_containers(scope: str, unknown: str | None, action: str) -> None:
    posture = f", unknown: {unknown}" if unknown else ""
    policy = load(f"  scope: {{{scope}{posture}}}\n  default: {{open: deny}}\n  rules:\n    - {{name: r, on: exec, action: deny}}\n")
    for event, cgroup, expected in (
        ("process.exec", "/docker/x", action), ("file.open", "/docker/x", action), ("process.exec", "/user.slice", "NONE"),
    ):  # fmt: skip
        assert verdict(PolicySet((policy,)), {"event": event, "process.cgroup": cgroup}).action.name == expected


def test_a_runtime_is_told_by_the_cgroup_too() -> None:
    policy = load("  scope: {runtime: [docker, runc], unknown: outside}\n  rules:\n    - {name: r, on: exec}\n")
    assert holds(policy.scope, {"process.cgroup": "/docker/x/below"})
    assert not holds(policy.scope, {"process.cgroup": "/machine.slice/libpod-1.scope"})
    assert holds(policy.scope, {CONTAINER_FIELD: (Selector(runtimes=("docker", "runc")),)})  # type: ignore[dict-item]


def test_default_postures() -> None:
    policy = load("  default: {exec: deny, net.connect: kill, open: audit, bind: allow}\n")
    assert policy.default == {"process.exec": Action.DENY, "net.connect": Action.KILL, "file.open": Action.AUDIT}
    assert policy.rules == ()


def test_a_limit_is_a_test_of_the_count_before_the_fork() -> None:
    for written in ("limit: 200 per cgroup", "limit: 200"):
        made = rule(f"on: fork\n{written}\naction: deny\nerrno: EAGAIN", "  scope: {cgroup: /a/b}\n")
        assert made.limit == 200
        assert made.errno == 11
        fork: Event = {"event": "process.fork", "process.cgroup": "/a/b/c"}
        assert [made.matches({**fork, "process.fork.live2": n}) for n in (199, 200, 10**9)] == [False, True, True]


@pytest.mark.parametrize(
    ("scope", "cgroup", "level"),
    [
        ("/a", "/a", 1),
        ("/a", "/a/b/c", 1),
        ("/a/*", "/a/b", 2),
        ("/a/**", "/a/b/c", 2),
        ("/a/{x,y}/z{,/**}", "/a/x/z/deep", 3),
        ("[/a, /b/c]", "/a/b/c", 1),
        ("[/a, /b/c]", "/b/c/d", 2),
    ],
)
def test_a_limit_counts_the_topmost_cgroup_of_the_scope(scope: str, cgroup: str, level: int) -> None:
    made = rule("on: fork\nlimit: 10 per cgroup\naction: deny", f"  scope: {{cgroup: {scope if scope[0] == '[' else repr(scope)}}}\n")
    fork: Event = {"event": "process.fork", "process.cgroup": cgroup}
    for n in range(1, 9):
        assert made.matches({**fork, f"process.fork.live{n}": 10}) is (n == level)


def test_a_limit_names_its_level_where_the_scope_does_not() -> None:
    made = rule("on: fork\nlimit: 10 per cgroup at level 2\naction: deny")
    assert made.matches({"event": "process.fork", "process.fork.live2": 10})
    assert not made.matches({"event": "process.fork", "process.fork.live2": 9, "process.fork.live1": 10})
    for scope in ("{}", "{container: true}", "{cgroup: '/**/x'}", "{cgroup: '/a/{b*,c/d}'}", "{cgroup: /}", "{unless: {cgroup: /a}}"):
        found = load_text(f"{HEAD}  scope: {scope}\n  rules:\n    - {{name: r, on: fork, limit: 100 per cgroup, action: deny}}\n")
        assert [d.code for d in found[1]] == ["limit-without-level"]
        (one,) = found[0].policies[0].rules
        assert "process.fork.live" in {atom.field for atom in atoms(one.condition)}


def test_groups_and_the_common_condition() -> None:
    made = rule("on: file.modify\nmatch: {file.path: /etc/passwd}\naction: deny")
    assert made.events == GROUPS["file.modify"]
    assert made.condition == Atom("file.path", Op.EQUALS, "/etc/passwd")
    assert set(made.conditions) == {"file.open", "file.rename", "file.link", "file.mmap", "file.mprotect", "file.permission"}


def test_follow_adds_objects() -> None:
    made = rule("on: file.modify\nfollow: object\nmatch: {file.path: [/etc/passwd, /etc/sudoers.d/**]}\naction: deny")
    objects = {a.value for a in atoms(made.condition) if a.op is Op.OBJECT}
    assert objects == {"/etc/passwd", "/etc/sudoers.d/**"}
    assert made.matches({"event": "file.unlink", "file.path": "/tmp/l", "file.object": ("/etc/passwd",)})
    assert made.matches({"event": "file.rename", "file.path": "/tmp/l", "file.new_object": ("/etc/passwd",)})
    mixed = "  rules:\n    - {name: r, on: open, follow: object, match: {file.path: [/a, '/b*']}}\n"
    assert codes(mixed) == ["follow-partly"]


def test_events_that_lack_a_field_are_left_out_with_a_warning() -> None:
    policies, found = load_text(HEAD + "  rules:\n    - {name: r, on: [open, unlink], match: {file.flags: O_TRUNC}}\n")
    assert [d.code for d in found] == ["field-on-some-events"]
    assert policies.policies[0].rules[0].events == ("file.open",)


def test_an_exception_on_a_field_that_an_event_lacks_does_not_apply() -> None:
    policies, found = load_text(HEAD + "  rules:\n    - {name: r, on: [open, unlink], unless: {file.flags: O_TRUNC}}\n")
    assert [d.severity for d in found] == ["warning"]
    made = policies.policies[0].rules[0]
    assert made.matches({"event": "file.unlink"})
    assert not made.matches({"event": "file.open", "file.flags": 0o1000})


def test_conditions() -> None:
    made = rule("on: exec\ncondition: >-\n  file.path startswith /tmp/\n  and not process.uid = 0")
    assert made.matches({"event": "process.exec", "file.path": "/tmp/x", "process.uid": 1})
    assert not made.matches({"event": "process.exec", "file.path": "/tmp/x", "process.uid": 0})
    assert codes("  rules:\n    - {name: r, on: exec, condition: 'file.path = /tmp/*'}\n") == ["literal-glob"]


def test_messages() -> None:
    assert rule("on: exec\nmessage: '{{x}} {file.path} {policy} {event}'").message == "{{x}} {file.path} {policy} {event}"


def test_a_policy_with_an_error_is_left_out_and_the_others_are_kept() -> None:
    good = HEAD.replace("{name: p}", "{name: good}") + "  rules: [{name: r, on: exec}]\n"
    bad = HEAD + "  rules: [{name: r, on: nothing}]\n"
    policies, found = load_text(f"{bad}---\n{good}")
    assert [p.name for p in policies.policies] == ["good"]
    assert [d.severity for d in found] == ["error"]


def test_quoted_and_plain_scalars_mean_the_same() -> None:
    assert rule('on: "exec"\nmatch: {process.uid: "0"}').condition == rule("on: exec\nmatch: {process.uid: 0}").condition


def test_aliases() -> None:
    policy = load(
        "  rules:\n    - {name: a, on: exec, match: {file.path: &p [/a, /b]}}\n    - {name: b, on: open, match: {file.path: *p}}\n"
    )
    assert policy.rules[0].condition == policy.rules[1].condition


# ---- files ----


def write(path: Path, name: str) -> Path:
    path.write_text(HEAD.replace("{name: p}", f"{{name: {name}}}") + "  rules: [{name: r, on: exec}]\n")
    return path


def test_directories_are_read_by_name_and_nothing_is_skipped_silently(tmp_path: Path) -> None:
    write(tmp_path / "b.yaml", "b")
    write(tmp_path / "a.yml", "a")
    write(tmp_path / ".hidden.yaml", "h")
    (tmp_path / "README").write_text("x")
    (tmp_path / "deeper").mkdir()
    policies, found = load_files([tmp_path])
    assert [p.name for p in policies.policies] == ["a", "b"]
    assert policies.policies[0].location.file == str(tmp_path / "a.yml")
    assert sorted((Path(d.location.file).name, d.code, d.severity) for d in found) == [
        (".hidden.yaml", "not-read", "info"), ("README", "not-read", "info"), ("deeper", "not-read", "info"),
    ]  # fmt: skip


def test_a_name_is_unique_over_all_files(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1.yaml", "same"), write(tmp_path / "2.yaml", "same")
    policies, (found,) = load_files([one, str(two)])
    assert len(policies.policies) == 1
    assert found.code == "duplicate-policy"
    assert found.location.file == str(two)
    assert str(one) in found.message


def only(found: list[Diagnostic]) -> tuple[str, str]:
    (diagnostic,) = found
    return diagnostic.severity, diagnostic.code


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert only(load_files([tmp_path / "none.yaml"])[1]) == ("error", "cannot-read")
    assert only(load_files(["\0"])[1]) == ("error", "cannot-read")
    fifo = tmp_path / "fifo.yaml"
    os.mkfifo(fifo)
    assert only(load_files([fifo])[1]) == ("error", "cannot-read")
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing\n")
    assert only(load_files([empty])[1]) == ("warning", "no-rules")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: \xe9")
    assert only(load_files([latin])[1]) == ("error", "not-utf8")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    assert only(load_files([large])[1]) == ("error", "yaml-limit")
    alone = tmp_path / "alone"
    alone.mkdir()
    assert only(load_files([alone])[1]) == ("warning", "no-rules")


# ---- shipped policies ----


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_policies_have_nothing_to_complain_about(path: Path) -> None:
    policies, found = load_files([path])
    assert found == []
    (policy,) = policies.policies
    assert policy.name == path.stem
    assert path.read_text().startswith("# ")
    assert all(made.message for made in policy.rules if made.action != Action.ALLOW)


def test_shipped_policies_go_together() -> None:
    policies, found = load_files([SHIPPED[0].parent])
    assert found == []
    assert len(policies.policies) == len(SHIPPED) == 9


LOADED: Event = {"event": "kernel.module", "module.requested": 0}


def shipped(name: str, event: Event) -> Action:
    policies, _ = load_files([SHIPPED[0].parent / f"{name}.yaml"])
    return verdict(policies, event).action


CONTAINER = "/system.slice/docker-0123.scope"
RELEASE_AGENT: Event = {"event": "file.open", "file.path": "/host/sys/fs/cgroup/rdma/x/release_agent", "file.access": 2}


@pytest.mark.parametrize(
    ("policy", "event", "action"),
    [
        ("no-exec-from-world-writable", {"event": "process.exec", "file.path": "/tmp/x"}, Action.DENY),
        ("no-exec-from-world-writable", {"event": "process.exec", "file.path": "/mnt/x", "file.object": ("/tmp/**",)}, Action.DENY),
        ("no-exec-from-world-writable", {"event": "file.mmap", "file.path": "/dev/shm/l.so", "file.prot": 5}, Action.DENY),
        ("no-exec-from-world-writable", {"event": "file.mmap", "file.path": "/dev/shm/data", "file.prot": 3}, Action.NONE),
        ("no-exec-from-world-writable", {"event": "process.exec", "file.path": "/run/user/1000/a/x"}, Action.DENY),
        ("no-exec-from-world-writable", {"event": "process.exec", "file.path": "memfd:x", "file.memfd": 1}, Action.DENY),
        (
            "no-exec-from-world-writable",
            {"event": "process.exec", "file.path": "memfd:r", "file.memfd": 1, "process.exe": "/usr/bin/runc"},
            Action.NONE,
        ),
        ("no-exec-from-world-writable", {"event": "process.exec", "file.path": "/usr/bin/ls", "file.memfd": 0}, Action.NONE),
        ("file-integrity-audit", {"event": "file.open", "file.path": "/etc/shadow", "file.access": 2}, Action.AUDIT),
        ("file-integrity-audit", {"event": "file.open", "file.path": "/etc/shadow", "file.access": 1}, Action.NONE),
        ("file-integrity-audit", {"event": "file.rename", "file.path": "/tmp/x", "file.new_path": "/etc/passwd"}, Action.AUDIT),
        ("file-integrity-audit", {"event": "file.chmod", "file.path": "/home/u/.ssh/authorized_keys"}, Action.AUDIT),
        ("file-integrity-enforce", {"event": "file.rename", "file.path": "/etc/nshadow", "file.new_path": "/etc/shadow"}, Action.DENY),
        (
            "file-integrity-enforce",
            {"event": "file.rename", "file.path": "/etc/nshadow", "file.new_path": "/etc/shadow", "process.exe": "/usr/bin/passwd"},
            Action.NONE,
        ),
        (
            "file-integrity-enforce",
            {"event": "file.open", "file.path": "/etc/passwd+", "file.access": 34, "process.exe": "/usr/sbin/useradd"},
            Action.NONE,
        ),
        (
            "file-integrity-enforce",
            {"event": "file.open", "file.path": "/etc/.pwd.lock", "file.access": 34, "process.exe": "/usr/bin/x"},
            Action.NONE,
        ),
        (
            "file-integrity-enforce",
            {"event": "file.permission", "file.path": "/etc/sudoers.d/x", "file.access": 2, "process.exe": "/bin/sh"},
            Action.DENY,
        ),
        ("file-integrity-enforce", {"event": "file.rename", "file.path": "/root/.ssh", "file.new_path": "/root/x"}, Action.DENY),
        ("egress-allow-list", {"event": "net.connect", "net.family": 2, "net.peer.ip": "203.0.113.1", "net.peer.port": 4444}, Action.DENY),
        ("egress-allow-list", {"event": "net.connect", "net.family": 2, "net.peer.ip": "203.0.113.1", "net.peer.port": 443}, Action.NONE),
        ("egress-allow-list", {"event": "net.connect", "net.family": 2, "net.peer.ip": "10.1.1.1", "net.peer.port": 4444}, Action.NONE),
        ("egress-allow-list", {"event": "net.connect", "net.family": 1, "net.unix.path": "/run/x"}, Action.NONE),
        ("egress-allow-list", {"event": "net.connect", "net.family": 10}, Action.NONE),
        ("egress-allow-list", {"event": "net.send", "net.family": 10, "net.peer.ip": "2001:db8::1", "net.peer.port": 4444}, Action.DENY),
        (
            "egress-allow-list",
            {"event": "net.send", "net.family": 2, "net.peer.ip": "203.0.113.1", "net.peer.port": 5, "net.local.port": 22},
            Action.NONE,
        ),
        ("egress-allow-list", {"event": "net.send", "net.family": 17}, Action.DENY),
        ("egress-allow-list", {"event": "net.send", "net.family": 17, "process.exe": "/usr/sbin/dhclient"}, Action.NONE),
        ("fork-bomb-guard", {"event": "process.fork", "process.uid": 1000, "process.fork.live2": 4000}, Action.DENY),
        ("fork-bomb-guard", {"event": "process.fork", "process.uid": 1000, "process.fork.live2": 2000}, Action.AUDIT),
        ("fork-bomb-guard", {"event": "process.fork", "process.uid": 0, "process.fork.live2": 9000}, Action.NONE),
        (
            "container-escape-guard",
            {
                "event": "file.open",
                "file.path": "/proc/sys/kernel/core_pattern",
                "file.fstype": "proc",
                "file.access": 2,
                "process.cgroup": CONTAINER,
            },
            Action.DENY,
        ),
        (
            "container-escape-guard",
            {
                "event": "file.open",
                "file.path": "/proc/sys/kernel/core_pattern",
                "file.fstype": "proc",
                "file.access": 2,
                "process.cgroup": "/",
            },
            Action.NONE,
        ),
        (
            "container-escape-guard",
            {**RELEASE_AGENT, "file.fstype": "cgroup", "process.cgroup": CONTAINER},
            Action.DENY,
        ),
        ("container-escape-guard", {**RELEASE_AGENT, "file.fstype": "ext4", "process.cgroup": CONTAINER}, Action.NONE),
        ("container-escape-guard", {"event": "kernel.mount", "process.cgroup": CONTAINER, "process.exe": "/bin/sh"}, Action.DENY),
        ("container-escape-guard", {"event": "kernel.mount", "process.cgroup": CONTAINER, "process.exe": "/usr/bin/runc"}, Action.NONE),
        ("container-escape-guard", {"event": "kernel.setns", "process.cgroup": CONTAINER}, Action.DENY),
        ("container-escape-guard", {"event": "kernel.setns", "process.cgroup": "/user.slice"}, Action.NONE),
        (
            "container-escape-guard",
            {"event": "net.connect", "net.unix.path": "/run/docker.sock", "process.cgroup": CONTAINER},
            Action.AUDIT,
        ),
        ("kernel-guard", {**LOADED, "file.path": "/tmp/evil.ko", "process.exe": "/tmp/insmod"}, Action.DENY),
        ("kernel-guard", {**LOADED, "process.exe": "/tmp/insmod"}, Action.DENY),
        ("kernel-guard", {**LOADED, "file.path": "/lib/modules/x.ko", "process.exe": "/usr/bin/kmod"}, Action.NONE),
        ("kernel-guard", {**LOADED, "module.requested": 1, "process.exe": "/usr/bin/curl"}, Action.AUDIT),
        ("kernel-guard", {"event": "kernel.bpf", "bpf.cmd": 5, "process.exe": "/tmp/x"}, Action.DENY),
        ("kernel-guard", {"event": "kernel.bpf", "bpf.cmd": 1, "process.exe": "/tmp/x"}, Action.NONE),
        (
            "kernel-guard",
            {"event": "kernel.bpf", "bpf.cmd": 5, "process.exe": "/usr/bin/python3.11", "process.args": "python3 bpfence run"},
            Action.NONE,
        ),
        ("kernel-guard", {"event": "kernel.perf", "process.exe": "/tmp/x"}, Action.DENY),
        ("kernel-guard", {"event": "kernel.kexec", "process.exe": "/usr/sbin/kexec"}, Action.NONE),
        ("kernel-guard", {"event": "kernel.kexec", "process.exe": "/tmp/kexec"}, Action.DENY),
        (
            "service-protection",
            {"event": "process.ptrace", "target.exe": "/usr/sbin/sshd", "process.ptrace.mode": 2, "process.exe": "/usr/bin/gdb"},
            Action.DENY,
        ),
        (
            "service-protection",
            {"event": "process.ptrace", "target.exe": "/usr/sbin/sshd", "process.ptrace.mode": 1, "process.exe": "/usr/bin/ps"},
            Action.NONE,
        ),
        (
            "service-protection",
            {"event": "process.signal", "target.exe": "/usr/sbin/sshd", "signal": 9, "process.exe": "/usr/bin/kill"},
            Action.DENY,
        ),
        (
            "service-protection",
            {"event": "process.signal", "target.exe": "/usr/sbin/sshd", "signal": 0, "process.exe": "/usr/bin/kill"},
            Action.NONE,
        ),
        (
            "service-protection",
            {"event": "process.signal", "target.exe": "/usr/sbin/sshd", "signal": 15, "process.exe": "/usr/lib/systemd/systemd"},
            Action.NONE,
        ),
        (
            "service-protection",
            {"event": "process.signal", "target.exe": "/usr/bin/vi", "signal": 15, "process.exe": "/usr/bin/kill"},
            Action.NONE,
        ),
        ("ipc-guard", {"event": "ipc.shmat", "process.uid": 1000, "ipc.uid": 0}, Action.DENY),
        ("ipc-guard", {"event": "ipc.shmat", "process.uid": 1000, "ipc.uid": 1000}, Action.NONE),
        ("ipc-guard", {"event": "ipc.access", "process.uid": 0, "ipc.uid": 0}, Action.NONE),
    ],
)
def test_shipped_policies_stop_the_attack_and_let_its_twin_pass(policy: str, event: Event, action: Action) -> None:
    assert shipped(policy, event) == action


# ---- nothing raises ----

KEYS = [
    "name",
    "on",
    "match",
    "unless",
    "condition",
    "action",
    "errno",
    "message",
    "severity",
    "tags",
    "rate",
    "follow",
    "limit",
    "mode",
    "scope",
    "default",
]
KEYS += [
    "rules",
    "exe",
    "uid",
    "container",
    "user",
    "cgroup",
    "ancestor",
    "image",
    "file.path",
    "process.uid",
    "net.peer.ip",
    "signal",
    "file.mode",
    "<<",
    "{",
    "",
]
SCALARS = [
    *(e.name for e in EVENTS),
    *GROUPS,
    "exec",
    "deny",
    "kill",
    "allow",
    "enforce",
    "true",
    "null",
    "~",
    "0",
    "-1",
    "70000",
    "1-2",
    ">=5",
    "/a/**",
    "/a[",
    "a",
]
SCALARS += [
    "{file.path}",
    "{x}",
    "10/s",
    "200 per cgroup",
    "object",
    "10.0.0.0/8",
    "process.uid = 0",
    "not (",
    "root",
    "KILL",
    "!x",
    "é",
    "*",
    "O_TMPFILE",
]
TREES = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)),
    max_leaves=12,
)


def dump(tree: object) -> str:
    if isinstance(tree, dict):
        return "{" + ", ".join(f"'{key}': {dump(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(dump(item) for item in tree) + "]"
    return f"'{tree}'"


def check(text: str) -> None:
    policies, found = load_text(text, "f")
    lines = text.count("\n") + 2
    for diagnostic in found:
        assert diagnostic.location.file == "f"
        assert 0 <= diagnostic.location.line <= lines + text.count("\x85") + text.count("\u2028") + text.count("\u2029") + text.count("\r")
    for policy in policies.policies:
        for made in policy.rules:
            for event in made.events:
                made.matches({"event": event})


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(TREES)
def test_no_spec_raises(tree: object) -> None:
    check(f"{HEAD.removesuffix('spec:' + chr(10))}spec: {dump(tree)}\n")


RULE_TREES = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["r", "Bad name"]),
        "on": st.sampled_from(["exec", "open", "fork", "exit", "file.modify", "connect", ["exec", "open"]]),
    },
    optional={
        "match": st.dictionaries(st.sampled_from([f.name for f in FIELDS]), st.sampled_from(SCALARS), max_size=3),
        "unless": st.dictionaries(st.sampled_from([f.name for f in FIELDS]), st.sampled_from(SCALARS), max_size=3),
        "action": st.sampled_from(["deny", "audit", "allow", "kill"]),
        "message": st.sampled_from(SCALARS),
        "limit": st.sampled_from(SCALARS),
        "follow": st.just("object"),
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(RULE_TREES, max_size=2))
def test_no_rule_raises(rules: list[object]) -> None:
    check(f"{HEAD}  rules: {dump(rules)}\n")


@given(st.text(max_size=100))
def test_no_text_raises(text: str) -> None:
    check(text)


@given(st.binary(max_size=60))
def test_no_file_raises(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    load_files([path])


# ---- a mistake is told once ----

WITHOUT_MISTAKE = """
apiVersion: bpfence.io/v1alpha1
kind: SecurityPolicy
metadata: {name: sound}
spec:
  mode: enforce
  severity: high
  tags: [a, b]
  links: resolve
  scope: {container: true, user: root, cgroup: /a, exe: /bin/x, unless: {exe: /n}}
  default: {file.open: deny}
  rules:
    - {name: one, on: exec, match: {file.path: [/tmp/**], process.uid: 0}, unless: {process.exe: /usr/bin/dpkg}, action: deny,
       errno: EACCES, severity: low, tags: [t], message: "m {file.path}", rate: 10/s}
    - {name: two, on: [file.open, file.create], match: {file.path: /etc/shadow, file.access: [read, write]}, follow: object, action: deny}
    - {name: three, on: fork, limit: 200 per cgroup at level 2, action: deny, errno: EAGAIN}
    - {name: four, on: net.connect, condition: net.peer.port = 22 and net.peer.ip in (10.0.0.0/8), action: kill}
    - {name: five, on: file.open, match: {file.path: /srv/**}, action: allow}
    - {name: six, on: process.exit, action: audit}
    - {name: seven, on: process.executed, match: {process.ancestors.exe: /a/**}, action: kill}
"""


def test_a_mistake_is_told_once() -> None:
    """Whatever it is: nothing that follows from it is another one."""
    document = yaml.load(WITHOUT_MISTAKE, yaml.BaseLoader)  # noqa: S506  # texts alone
    assert load_text(yaml.safe_dump(document))[1] == []
    for path, what, made in single_mistakes(document):
        found = load_text(yaml.safe_dump(made, sort_keys=False))[1]
        errors = [one for one in found if one.severity == "error"]
        assert len(errors) <= 1, (path, what, [str(one) for one in found])
        assert not errors or found == errors, (path, what, [str(one) for one in found])


def test_a_misspelt_key_says_what_is_missing_for_it() -> None:
    [found] = load_text(WITHOUT_MISTAKE.replace("metadata: {name:", "metadata: {nmae:"))[1]
    assert (found.message, found.hint) == ("unknown key 'nmae' in metadata; metadata needs 'name'", "did you mean 'name'?")
    [found] = load_text(WITHOUT_MISTAKE.replace("{name: six, on:", "{name: six, true:"))[1]
    assert "YAML 1.1" in found.hint
    [found] = load_text(WITHOUT_MISTAKE.replace("{name: six, on: process.exit, ", "{"))[1]
    assert (found.message, found.hint) == ("a rule needs 'name' and 'on'", "add name: ..., on: ...")


# ---- files that were read before ----

TEXTS = [
    (
        "apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {{name: {name}}}\nspec:\n  rules:\n"
        "    - {{name: r, on: file.open, match: {{file.path: /srv/{path}/**}}, action: audit}}\n"
    ),
    (
        "apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {{name: {name}}}\nspec:\n  rules:\n"
        "    - {{name: r, on: file.open, match: {{process.user: {path}}}, action: audit}}\n    - {{name: s, on: net, action: deny}}\n"
    ),
    "apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {{name: {name}}}\nspec: {{rules: [{path}]}}\n",
    "# {name} {path}\n",
]
FILE = st.builds(
    lambda text, name, path: text.format(name=name, path=path).encode(),
    st.sampled_from(TEXTS),
    st.sampled_from("pqr"),
    st.sampled_from(["root", "staff"]),
)
FOLDER = st.dictionaries(st.sampled_from(["a.yaml", "b.yaml", "c.yaml"]), FILE)
USERS = st.dictionaries(st.sampled_from(["root", "staff"]), st.integers(0, 3))


@given(st.lists(st.tuples(FOLDER, USERS, st.booleans()), min_size=2, max_size=6))
def test_what_was_read_before_is_read_as_if_it_were_the_first_time(loads: list[tuple[dict[str, bytes], dict[str, int], bool]]) -> None:
    for folder, users, elsewhere in loads:
        files = [SourceFile(name, data) for name, data in sorted(folder.items())]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(names, "_ON_HOST", {"user": users.get, "group": users.get})
            with names.symbolic() if elsewhere else contextlib.nullcontext():
                warm = load_sources(files)
                patched.setattr(read, "_kept", {})
                cold = load_sources(files)
        assert warm == cold


def test_only_what_has_changed_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [SourceFile(f"{name}.yaml", TEXTS[0].format(name=name, path=name).encode()) for name in "pqr"]
    before = load_sources(files)[0].policies
    parsed: list[str] = []
    documents = yaml_nodes.documents
    monkeypatch.setattr(yaml_nodes, "documents", lambda text, file: parsed.append(file) or documents(text, file))
    after = load_sources([files[0], SourceFile("q.yaml", files[1].data + b"# more\n"), files[2]])[0].policies
    assert parsed == ["q.yaml"]
    assert after == before
    assert (after[0] is before[0], after[2] is before[2]) == (True, True)
    load_sources(files[:1])
    load_sources(files)
    assert parsed == ["q.yaml", "q.yaml", "r.yaml"], "what a load has left out is forgotten"


def test_a_policy_that_names_another_file_is_read_every_time(tmp_path: Path) -> None:
    text = TEXTS[0].format(name="p", path="a") + "  seccomp: profile.json\n"
    profile = tmp_path / "profile.json"
    for action in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG"):
        profile.write_text(json.dumps({"defaultAction": action}))
        loaded, _ = load_sources([SourceFile(str(tmp_path / "p.yaml"), text.encode())])
        assert loaded.policies[0].seccomp is not None
        assert loaded.policies[0].seccomp.default_action.value == action


def test_a_list_of_policies_is_each_of_them() -> None:
    one = (HEAD + "  rules:\n    - {name: r, on: open, action: audit}\n").splitlines(keepends=True)
    item = "- " + "  ".join(one)
    policies, [found] = load_text(
        "apiVersion: v1\nkind: List\nitems:\n" + item + item.replace("name: p", "name: q").replace("audit", "adit")
    )
    assert [policy.name for policy in policies.policies] == ["p"]
    assert (found.location.line, found.code) == (15, "bad-value")
