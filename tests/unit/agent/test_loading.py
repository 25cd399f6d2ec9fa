# SPDX-License-Identifier: Apache-2.0
"""Native policies and Falco rules from the same files and directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfence.agent.loading import NO_FACTS, Loaded, compile_smaller, load, locking_out, own_programs, read_policies, with_facts
from bpfence.compiler.compile import Compiled, Limits, compile_policies
from bpfence.dialects.dialect import Facts
from bpfence.dialects.falco.options import ENFORCING, WATCHING, FalcoOptions
from bpfence.dialects.kubearmor.options import KubeArmorOptions
from bpfence.errors import CompileError, Diagnostic, Location, PolicyError
from bpfence.evaluate import verdict
from bpfence.host.links import Links
from bpfence.policy import Action, Atom, Op, PolicySet
from tests.unit.agent.fakes import write_policy
from tests.unit.agent.falco_rig import RULES
from tests.unit.dialects.falco.trees import corpus

BOX = Atom("process.cgroup", Op.EQUALS, "/box")
OPEN = {"event": "file.open", "file.access": 1, "process.name": "sh", "process.cgroup": "/box"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "rules.yaml").write_text(RULES)
    write_policy(tmp_path / "all" / "native.yaml")
    return tmp_path / "all"


def test_a_language_may_be_asked_for_something_without_a_policy() -> None:
    options = {"kubearmor": KubeArmorOptions(host_visible=("process",))}
    loaded = load([], options=options)
    assert [policy.name for policy in loaded.policies.policies] == ["KubeArmor/Visibility"]
    assert list(loaded.in_force) == ["kubearmor"]
    assert list(load([], options={"kubearmor": KubeArmorOptions()}).in_force) == []


def test_a_folder_of_both_and_files_in_order(folder: Path) -> None:
    found = load([str(folder)])
    assert [policy.name for policy in found.policies.policies] == ["guard", WATCHING, ENFORCING]
    assert "falco" in found.rules
    assert [rule.name for rule in found.rules["falco"].set.rules] == ["Shadow by sh", "Shadow by anyone", "Secret"]
    overlay = folder.parent / "overlay.yaml"
    overlay.write_text("- rule: Shadow by anyone\n  bpfence: {action: kill}\n")
    found = load([str(folder / "rules.yaml"), str(overlay)])
    assert {rule.name: rule.action for _, rule in found.policies.rules()} == {
        "Shadow by sh": Action.AUDIT, "Shadow by anyone": Action.KILL, "Secret": Action.DENY,
    }  # fmt: skip


def test_native_files_alone_have_no_rule_set(folder: Path) -> None:
    assert load([str(folder / "native.yaml")]).rules.keys() == {"native"}
    assert load([str(folder / "native.yaml")]).policies == read_policies([str(folder / "native.yaml")])[0]


def test_mistakes_of_both_kinds_are_told_together(folder: Path) -> None:
    write_policy(folder / "native.yaml", glob="[")
    (folder / "rules.yaml").write_text(RULES.replace("proc.name=sh", "proc.nam=sh"))
    with pytest.raises(PolicyError) as caught:
        load([str(folder)])
    assert {Path(found.location.file).name for found in caught.value.diagnostics} == {"native.yaml", "rules.yaml"}


def test_scope_and_mode_reach_rules_of_both_kinds(folder: Path) -> None:
    scoped = load([str(folder)], None, BOX).policies
    for path, expected in (("/etc/shadow", Action.AUDIT), ("/secret/a", Action.DENY)):
        assert verdict(scoped, {**OPEN, "file.path": path}).action is expected
        assert verdict(scoped, {**OPEN, "file.path": path, "process.cgroup": "/else"}).action is Action.NONE
    audited = load([str(folder)], "audit").policies
    assert verdict(audited, {**OPEN, "file.path": "/secret/a"}).action is Action.AUDIT
    assert {policy.name: policy.mode for policy in load([str(folder)], "enforce").policies.policies} == {
        "guard": "enforce", WATCHING: "audit", ENFORCING: "enforce",
    }  # fmt: skip


def test_falcos_stable_rules_load_without_a_word() -> None:
    found = load([str(corpus())])
    assert found.diagnostics == []
    assert "falco" in found.rules
    assert len(found.rules["falco"].set.rules) == 25
    assert {(policy.name, len(policy.rules)) for policy in found.policies.policies} == {(WATCHING, 25)}


def test_a_rule_that_blocks_by_text_paths_is_refused_atom_by_atom(folder: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        load([str(folder / "rules.yaml")], options={"falco": FalcoOptions(paths="text")})
    [found] = [one for one in caught.value.diagnostics if one.severity == "error"]
    assert found.code == "not-enforceable"
    assert "fd.name startswith /secret/" in found.message
    load([str(folder / "rules.yaml")], options={"falco": FalcoOptions(paths="text", disabled=("Secret",))})


def test_options_reach_the_rule_set(folder: Path) -> None:
    options = FalcoOptions(matching="all", paths="text", append="", names=("Shadow*",), disabled=("*anyone",), priority="Error")
    found = load([str(folder / "rules.yaml")], options={"falco": options}).rules["falco"].set
    assert ([rule.name for rule in found.rules], found.matching, found.paths, found.appended) == (["Shadow by sh"], "all", "text", ())


def test_falco_rules_may_lose_tests_to_user_space_where_tables_are_too_large(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    condition = "evt.type = execve and proc.pcmdline contains word"
    rules.write_text(f"- rule: R\n  desc: d\n  condition: {condition}\n  output: o\n  priority: INFO\n")
    policies = load([str(rules)])

    def small(given: PolicySet) -> Compiled:
        compiled = compile_policies(given)
        if any(dimension.field == "process.parent.args" for dimension in compiled.dims):
            raise CompileError([Diagnostic(Location("x"), "no room", code=code)])
        return compiled

    code = "too-large"
    compiled, left = compile_smaller(policies, small)
    assert left == ("process.parent.args",)
    assert [rule.name for rule in compiled.rules] == ["R"]
    assert compile_smaller(policies, compile_policies)[1] == ()
    code = "uncertain-deny"
    with pytest.raises(CompileError):
        compile_smaller(policies, small)


def test_native_policies_may_not(tmp_path: Path) -> None:
    policies = load([str(write_policy(tmp_path / "native.yaml"))])
    with pytest.raises(CompileError):
        compile_smaller(policies, lambda given: compile_policies(given, limits=Limits(states=1)))


def test_addresses_of_hosts_change_only_what_falco_rules_detect(tmp_path: Path) -> None:
    write_policy(tmp_path / "native.yaml")
    (tmp_path / "rules.yaml").write_text(
        RULES + "- rule: Calls\n  desc: d\n  condition: evt.type=connect and fd.sip.name=a.example\n  output: o\n  priority: INFO\n"
    )
    scope = Atom("process.cgroup", Op.PREFIX, "/system.slice")
    first = load([str(tmp_path)], "audit", scope)
    hosts = {"a.example": ["10.0.0.1"]}
    then = with_facts(first, "audit", scope, Facts(hosts))
    assert [policy.name for policy in then.policies.policies] == ["guard", WATCHING, ENFORCING]
    assert [one == other for one, other in zip(first.policies.policies, then.policies.policies, strict=True)] == [True, False, True]
    connect = {"event": "net.connect", "net.peer.ip": "10.0.0.1", "process.cgroup": "/system.slice/x"}
    for address, inside in (("10.0.0.1", True), ("10.0.0.2", False)):
        assert (verdict(then.policies, {**connect, "net.peer.ip": address}).action is Action.AUDIT) == inside
        assert verdict(first.policies, {**connect, "net.peer.ip": address}).action is Action.AUDIT
    assert verdict(then.policies, {**connect, "process.cgroup": "/else"}).action is Action.NONE
    assert load([str(tmp_path)], "audit", scope, facts=Facts(hosts)).policies == then.policies
    assert with_facts(then, "audit", scope, NO_FACTS).policies == first.policies
    native = load([str(tmp_path / "native.yaml")])
    assert with_facts(native, None, None, Facts(hosts)) == native


def test_paths_are_resolved_where_they_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    native = write_policy(tmp_path / "native.yaml", glob=f"{tmp_path}/link/**")
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        f"- rule: watch\n  desc: d\n  condition: evt.type = open and fd.name = {tmp_path}/link/w\n  output: x\n  priority: INFO\n"
        f"- rule: stop\n  desc: d\n  condition: evt.type = open and fd.name = {tmp_path}/link/s\n  output: x\n  priority: INFO\n"
        "  bpfence: {action: deny}\n"
    )
    paths, links = [str(native), str(rules)], Links()

    def decided(given: Loaded, path: str) -> set[tuple[str, Action]]:
        found = verdict(given.policies, {"event": "file.open", "file.path": f"{tmp_path}/{path}", "file.access": 1})
        return {(match.rule, match.action) for match in found.matches}

    found = load(paths, links=links)
    assert decided(found, "real/w") == {("secret", Action.DENY), ("watch", Action.AUDIT)}
    assert decided(found, "real/s") == {("secret", Action.DENY), ("stop", Action.DENY)}
    again = with_facts(found, None, None, Facts({"example.org": ["192.0.2.1"]}))
    assert decided(again, "real/s") == decided(found, "real/s")
    written = load(paths, links=links, options={"falco": FalcoOptions(links="as-written")})
    assert decided(written, "real/w") == {("secret", Action.DENY)}
    assert decided(load(paths), "real/w") == set()
    assert found.diagnostics == []  # information is for `check`


def test_a_policy_that_denies_executing_bpfence_itself_is_told(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    text = (
        "apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: no-tmp}\nspec:\n  rules:\n"
        "    - {name: r, on: exec, match: {file.path: /tmp/**}, action: deny}\n"
    )
    file.write_text(text)
    [found] = locking_out(load([str(file)]).policies, ["/tmp/repo/.venv/bin/bpfence", "/usr/bin/python3"])
    assert (found.code, found.severity, found.location.line) == ("locks-out", "warning", 6)
    assert "/tmp/repo/.venv/bin/bpfence, which is bpfence itself" in found.message
    assert locking_out(load([str(file)], mode="audit").policies, ["/tmp/bpfence"]) == []
    assert locking_out(load([str(file)], None, BOX).policies, ["/tmp/bpfence"]) == []
    file.write_text(text.replace("action: deny", "unless: {file.path: /tmp/repo/**}, action: deny"))
    assert locking_out(load([str(file)]).policies, ["/tmp/repo/bpfence"]) == []
    file.write_text(text.replace("  rules:", "  default: {exec: deny}\n  rules:").replace("/tmp/**", "/opt/**"))
    assert [found.message.split(" denies")[0] for found in locking_out(load([str(file)]).policies, ["/tmp/bpfence"])] == [
        "policy 'no-tmp', rule 'default'"
    ]


def test_bpfences_own_programs_are_files_that_can_be_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bpfence"
    tool.touch(0o755)
    monkeypatch.setattr("sys.argv", [str(tool)])
    monkeypatch.setattr("sys.executable", "")
    assert own_programs() == (str(tool),)
    tool.chmod(0o644)
    assert own_programs() == ()


def test_modes_of_single_policies_are_instead_of_what_is_said_for_all(folder: Path, tmp_path: Path) -> None:
    write_policy(tmp_path / "other.yaml", "other", mode="audit")
    paths = [str(folder), str(tmp_path / "other.yaml")]
    found = load(paths, "audit", modes={"guard": "enforce", WATCHING: "enforce", "nobody": "audit"})
    modes = {policy.name: policy.mode for policy in found.policies.policies}
    assert (modes["guard"], modes["other"]) == ("enforce", "audit")
    assert modes[WATCHING] == {policy.name: policy.mode for policy in load(paths).policies.policies}[WATCHING]  # it only watches
    again = with_facts(found, None, None, NO_FACTS, {"other": "enforce"})
    assert {policy.name: policy.mode for policy in again.policies.policies}["other"] == "enforce"
