"""Selectors of containers as classes: the tables agree with the reference evaluator, also on what is not known."""

from __future__ import annotations

import itertools

import pytest

from bpfence import abi
from bpfence.compiler.compile import Compiled, compile_policies
from bpfence.compiler.explain import explain
from bpfence.compiler.workloads import ALL_OF, classes, numbered, numbered_classes, selectors
from bpfence.conditions.containers import inside, untold
from bpfence.evaluate import verdict
from bpfence.policy import (
    CONTAINER_FIELD,
    FALSE,
    Action,
    And,
    Atom,
    Condition,
    Not,
    Op,
    Or,
    Policy,
    PolicySet,
    Rule,
    Selector,
    unknown_too,
    with_doubts,
)

NGINX, REDIS = Selector(images=("nginx",)), Selector(images=("redis",))
IN_DOCKER, ON_HOST = "/system.slice/docker-" + "a" * 64 + ".scope", "/user.slice"


def selecting(selector: Selector, posture: str) -> Condition:
    return unknown_too(selector, untold()) if posture == "inside" else Atom(CONTAINER_FIELD, Op.SELECTS, selector)


def policy(name: str, scope: Condition, posture: str = "outside", **more: object) -> Policy:
    rules = tuple(
        Rule(policy=name, name=number, events=("file.open",), condition=And((scope, Atom("file.path", Op.EQUALS, path))), action=action)
        for number, path, action in (("r", f"/{name}", Action.DENY), ("o", "/seen", Action.OBSERVE))
    )
    return Policy(name=name, scope=scope, rules=rules, default={"net.bind": Action.DENY}, doubt=untold() if posture == "audit" else FALSE)


def agree(policies: PolicySet, compiled: Compiled) -> set[Action]:
    """Compares verdicts of containers of every class, of an untold one, one that waits, and the host. Returns all actions."""
    seen = set()
    known = selectors(with_doubts(policies))
    told = [{CONTAINER_FIELD: tuple(one)} for one in compiled.workloads]
    told.append({CONTAINER_FIELD: tuple(selector for selector in known if selector.unknown)})
    for container, cgroup in itertools.product(({}, *told), (IN_DOCKER, ON_HOST)):
        for event, path in itertools.product(("file.open", "net.bind"), ("/one", "/two", "/seen", "/other")):
            act = {"event": event, "file.path": path, "process.cgroup": cgroup, **container}
            route, wanted = explain(compiled, act), verdict(policies, act)
            assert route.action == wanted.action.name.lower(), act
            assert set(route.rules) == {f"{match.policy}/{match.rule}" for match in wanted.matches}, act
            seen.add(wanted.action)
    return seen


@pytest.mark.parametrize("postures", list(itertools.product(("inside", "audit", "outside"), repeat=2)))
def test_tables_agree_with_the_reference(postures: tuple[str, str]) -> None:
    policies = PolicySet(
        tuple(
            policy(name, selecting(one, posture), posture)
            for name, one, posture in zip(("one", "two"), (NGINX, REDIS), postures, strict=True)
        )
    )
    seen = agree(policies, compile_policies(policies))
    assert {Action.NONE, Action.OBSERVE, Action.DENY} <= seen


def test_what_is_left_out_of_a_scope_has_the_posture_the_other_way_round() -> None:
    for posture in ("inside", "audit", "outside"):
        left_out = Not(selecting(REDIS, "outside" if posture == "inside" else "inside"))
        policies = PolicySet((policy("one", And((inside(), left_out)), posture),))
        agree(policies, compile_policies(policies))
        act = {"event": "file.open", "file.path": "/one", "process.cgroup": IN_DOCKER}
        wanted = {"inside": Action.DENY, "audit": Action.AUDIT, "outside": Action.NONE}[posture]
        assert verdict(policies, act).action == wanted
        assert verdict(policies, {**act, CONTAINER_FIELD: ()}).action == Action.DENY
        told = tuple(one for one in selectors(with_doubts(policies)))
        assert verdict(policies, {**act, CONTAINER_FIELD: told}).action == Action.NONE


def test_a_container_that_is_told_of_is_inside_wherever_its_cgroup_is() -> None:
    policies = PolicySet((policy("one", inside()),))
    compiled = compile_policies(policies)
    assert compiled.workloads == ()
    act = {"event": "file.open", "file.path": "/one", "process.cgroup": "/custom/x"}
    for event, wanted in ((act, Action.NONE), ({**act, CONTAINER_FIELD: ()}, Action.DENY)):
        assert verdict(policies, event).action == wanted
        assert explain(compiled, event).action == wanted.name.lower()


def test_few_selectors_have_all_classes_and_many_those_that_are_there() -> None:
    few = PolicySet((policy("one", selecting(NGINX, "outside")), policy("two", selecting(REDIS, "outside"))))
    assert set(classes(few)) == {frozenset(), frozenset({NGINX}), frozenset({REDIS}), frozenset({NGINX, REDIS})}
    many = [Selector(images=(f"i{n}",)) for n in range(ALL_OF + 1)]
    policies = PolicySet(tuple(policy(f"p{n}", selecting(one, "outside")) for n, one in enumerate(many)))
    pair = frozenset(many[:2])
    known = classes(policies)
    assert pair not in known
    assert len(known) == len(many) + 1
    assert numbered_classes(known)[frozenset({many[0]})] == abi.WORKLOAD_FIRST + 1
    more = compile_policies(policies, workloads=[pair, frozenset({NGINX})])
    assert pair in more.workloads
    assert frozenset({NGINX}) not in more.workloads  # of other policies
    agree(policies, more)


def test_policies_that_select_nothing_stay_as_they_are() -> None:
    policies = PolicySet((policy("one", Atom("process.exe", Op.EQUALS, "/bin/x")),))
    assert classes(policies) == ()
    assert numbered(policies, ()) is policies
    assert with_doubts(policies) is policies


def test_the_class_depends_on_the_cgroup() -> None:
    """The header says so, or a process that is moved would keep its class."""
    compiled = compile_policies(PolicySet((policy("one", selecting(NGINX, "outside")),)))
    features = int.from_bytes(compiled.image[abi.IMAGE_HEADER_OFFSETS["features"] :][:4], "little")
    assert features & abi.IMAGE_SUBJECT_CGROUP


def test_selectors_that_a_rule_asks_for_together_have_a_class() -> None:
    """Else the rule would be told to match never, and its first container would wait for other tables."""
    many = [Selector(images=(f"i{n}",)) for n in range(ALL_OF + 2)]
    either = Or((Atom(CONTAINER_FIELD, Op.SELECTS, many[0]), Atom(CONTAINER_FIELD, Op.SELECTS, many[1])))
    scope = And((either, Atom(CONTAINER_FIELD, Op.SELECTS, many[2])))
    policies = PolicySet((policy("both", scope), *(policy(f"p{n}", selecting(one, "outside")) for n, one in enumerate(many))))
    found = classes(policies)
    assert {frozenset(many[n] for n in one) for one in ((0, 2), (1, 2))} <= set(found)
    assert frozenset((many[0], many[1])) not in found
    assert compile_policies(policies).unreachable == ()
    agree(policies, compile_policies(policies))
