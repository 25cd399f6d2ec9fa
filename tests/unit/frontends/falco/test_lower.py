"""What the kernel is asked to decide: implied by the rule, exact where it says so."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from bpfence import evaluate, rules
from bpfence.compiler import compile_policies
from bpfence.events.falco import RecordedEvent
from bpfence.fields import EVENT_BY_NAME, FIELD_BY_NAME, applies
from bpfence.frontends.falco import load_files, load_text
from bpfence.frontends.falco.convert import condition_text
from bpfence.frontends.falco.fields import FIELD_BY_NAME as FALCO
from bpfence.frontends.falco.lower import decided_fields, enforced, lower
from bpfence.frontends.falco.resolve import Rule
from bpfence.policy import Policy, PolicySet, atoms
from bpfence.policy import Rule as NativeRule
from tests.unit.frontends.falco.native_view import acts, conditions
from tests.unit.frontends.falco.trees import corpus

TYPES = "evt.type in (open, openat, openat2, connect, execve, socket)"


def rule(condition: str, **more: str) -> Rule:
    text = f"- rule: R\n  desc: d\n  condition: {condition!r}\n  output: o\n  priority: INFO\n  warn_evttypes: false\n"
    found, problems = load_text(text + "".join(f"  {key}: {value}\n" for key, value in more.items()))
    assert not [problem for problem in problems if problem.severity == "error" and problem.code != "not-enforceable"], problems
    return found.rules[0]


def condition(text: str) -> str:
    return text.replace("'", '"')


@given(conditions, acts())
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_kernels_condition_is_implied_by_the_rule(text: str, act: tuple[RecordedEvent, dict[str, Any]]) -> None:
    event, native = act
    one = rule(condition(f"{TYPES} and {text}"))
    lowered = lower(one)
    fires = rules.holds(one.condition, event)
    found = lowered.conditions.get(native["event"])
    decided = found is not None and evaluate.holds(found, native)
    assert decided or not fires, (text, found)
    if lowered.exact and event.type in one.types:
        assert decided == fires, (text, found)


@given(conditions, acts())
@settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_enforced_is_what_would_fire_on_success(text: str, act: tuple[RecordedEvent, dict[str, Any]]) -> None:
    event, native = act
    one = rule(condition(f"{TYPES} and {text}"))
    found = enforced(one)
    result = event.get("evt.rawres")
    assert found.exact == (not found.left)
    if not found.exact or not isinstance(result, int) or result < 0 or event.type not in one.types:
        return
    decided = native["event"] in found.conditions and evaluate.holds(found.conditions[native["event"]], native)
    assert decided == rules.holds(one.condition, event), (text, found.conditions)


@pytest.mark.parametrize(
    ("text", "native", "wanted", "left"),
    [
        ("evt.type=open and fd.name=/etc/shadow", "file.open", "file.path = /etc/shadow", []),
        (
            "evt.type=open and fd.name in (/a, /b) and evt.is_open_write=true",
            "file.open",
            "file.path in (/a, /b) and file.access = write",
            [],
        ),
        ("evt.type=open and fd.directory=/etc", "file.open", 'file.path glob "/etc/*"', []),
        ("evt.type=open and fd.filename=x", "file.open", "file.path endswith /x", []),
        ("evt.type=open and not fd.name startswith /usr", "file.open", "not file.path startswith /usr", []),
        ("evt.type=open and fd.name pmatch (/etc)", "file.open", "file.path = /etc or file.path startswith /etc/", []),
        ("evt.type=open and fd.name glob '/a*b?c'", "file.open", 'file.path glob "/a*b?c"', []),
        ("evt.type=open and proc.name=a-name-of-more-than-fifteen", "file.open", None, []),
        ("evt.type=open and proc.pname=sh and fd.name=/x", "file.open", "file.path = /x", ["proc.pname = sh"]),
        ("evt.type=open and (proc.pname=sh or fd.name=/x)", "file.open", "always", ["proc.pname = sh"]),
        ("evt.type=open and fd.num>=0 and user.uid=0", "file.open", "process.uid = 0", ["fd.num >= 0"]),
        ("evt.type=open and evt.num=0 and proc.pname=x", "file.open", None, []),
        ("evt.type=open and evt.arg.nothing=x", "file.open", None, []),
        ("evt.type=open and fd.name icontains shadow", "file.open", "file.path exists", ["fd.name icontains shadow"]),
        (
            "evt.type=connect and fd.snet in (10.0.0.0/8) and fd.sport=22",
            "net.connect",
            "net.peer.ip = 10.0.0.0/8 and net.peer.port = 22",
            [],
        ),
        ("evt.type=execve and proc.exepath startswith /tmp/", "process.exec", "file.path startswith /tmp/", []),
        ("evt.type=execve and proc.name=x", "process.exec", "always", ["proc.name = x"]),
        ("evt.type=socket and evt.arg.domain contains AF_PACKET", "net.create", "net.family = 17", []),
        ("evt.type=open and thread.cap_effective contains CAP_SYS_ADMIN", "file.open", "process.caps = sys_admin", []),
    ],
)
def test_what_becomes_of_a_condition(text: str, native: str, wanted: str | None, left: list[str]) -> None:
    lowered = lower(rule(condition(text)))
    assert [one.text for one in lowered.left] == left
    assert lowered.exact == (not left)
    found = lowered.conditions.get(native)
    assert (None if found is None else condition_text(found)) == wanted


def test_text_paths_are_left_to_user_space() -> None:
    one = rule("evt.type=open and fd.name=/etc/shadow")
    lowered = lower(one, paths="text")
    assert not lowered.exact
    assert "strict_paths" in lowered.left[0].reason


def test_event_types_that_nothing_reports_are_named() -> None:
    lowered = lower(rule("evt.type in (dup, dup2, open, close)"))
    assert lowered.unsensed == ("dup", "dup2", "close")
    assert not lowered.exact
    assert set(lowered.conditions) == {"file.open"}


def test_a_native_event_is_the_act_whichever_call_it_was() -> None:
    assert lower(rule("evt.type in (open, openat) and fd.name=/x")).exact
    lowered = lower(rule("evt.type=open and fd.name=/x or evt.type=openat and fd.name=/y"))
    assert not lowered.exact
    assert [one.text for one in lowered.left] == ["evt.type in (open, openat)"]


def test_a_result_is_taken_for_success_where_the_rule_denies() -> None:
    found = enforced(rule("evt.type=open and fd.name=/x and fd.num>=0 and evt.res=SUCCESS and evt.failed=false and evt.rawres>=0"))
    assert found.exact
    assert condition_text(found.conditions["file.open"]) == "file.path = /x"
    never = enforced(rule("evt.type=open and fd.name=/x and (fd.num=-1 or evt.res startswith E)"))
    assert never.conditions == {}


def test_a_denying_rule_is_refused_test_by_test() -> None:
    text = "- rule: R\n  desc: d\n  condition: evt.type=open and fd.name=/x and proc.cmdline contains y and proc.pname=z\n"
    text += "  output: o\n  priority: INFO\n"
    _, problems = load_text(text + "  bpfence: {action: deny}\n")
    assert [(p.code, p.location.line, p.location.column) for p in problems] == [("not-enforceable", 3, 47), ("not-enforceable", 3, 75)]
    assert all(problem.hint for problem in problems)
    assert load_text(text.replace(" and proc.cmdline contains y and proc.pname=z", "") + "  bpfence: {action: deny}\n")[1] == []
    assert load_text(text + "  bpfence: {action: audit}\n")[1] == []


def test_the_stable_rules_are_lowered_to_conditions_that_compile() -> None:
    found, _ = load_files([corpus()])
    native = []
    for n, one in enumerate(found.rules):
        lowered = lower(one)
        for event, made in lowered.conditions.items():
            for atom in atoms(made):
                assert applies(FIELD_BY_NAME[atom.field], event), (one.name, atom)
            native.append(NativeRule(policy="p", name=f"r{n}-{event}", events=(event,), condition=made))
    compiled = compile_policies(PolicySet((Policy(name="p", rules=tuple(native)),)))
    assert len(compiled.rules) == len(native) >= 20


def test_the_tables_name_fields_that_exist() -> None:
    for spelled in decided_fields():
        assert spelled in FALCO or spelled.startswith("evt.arg.")
    assert "process.exec" in EVENT_BY_NAME
