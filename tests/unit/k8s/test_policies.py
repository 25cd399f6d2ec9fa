# SPDX-License-Identifier: Apache-2.0
"""Objects to policies: in their own namespace only, and mistakes by the path of the field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.compiler.workloads import selectors
from bpfence.dialects.kubearmor.options import KubeArmorOptions
from bpfence.dialects.native.schema import KIND
from bpfence.evaluate import holds
from bpfence.k8s.objects import LANGUAGES, PolicyObject, is_namespaced
from bpfence.k8s.policies import check, read
from bpfence.policy import PolicySet, atoms, with_doubts
from bpfence.workloads.model import Container, Pod
from bpfence.workloads.select import selected
from tests.unit.k8s.samples import BROKEN, SECRET, armor, made, spec

CGROUP = "/kubepods/besteffort/pod0b6d0f6c-7d1b-4c33-9a53-0f2f6a3f9a11/" + "ab" * 32
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def modes(one: PolicyObject, namespace: str | None, image: str = "nginx", told: bool = True) -> set[str]:
    """The modes in which a policy is in force in a container of a namespace; None: nobody knows which. `told`: whether anybody has told of
    the container."""
    found = read(one).policy
    assert found is not None
    policies = with_doubts(PolicySet((found,)))
    pod = Pod("web", namespace) if namespace is not None else None
    container = Container("ab" * 32, CGROUP, image=image, pod=pod)
    event: dict[str, Any] = {"event": "file.open", "process.cgroup": CGROUP, "file.path": "/secret/a", "process.exe": "/bin/x"}
    if told:
        event["process.container"] = tuple(selected(container, selectors(policies)))
    return {policy.mode for policy in policies.policies for rule in policy.rules if holds(rule.condition, event)}


def test_a_policy_is_called_by_its_namespace_and_name() -> None:
    found = read(made()).policy
    assert found is not None
    assert (found.name, found.rules[0].policy) == ("shop/guard", "shop/guard")
    assert str(found.rules[0].location) == "SecurityPolicy shop/guard, spec.rules[0]"
    whole = read(made(namespace="")).policy
    assert whole is not None
    assert whole.name == "guard"


@pytest.mark.parametrize("scope", [{}, {"image": "nginx"}, {"image": "nginx", "unknown": "inside"}, {"exe": "/bin/*"}])
def test_a_namespaced_policy_is_in_force_in_its_namespace_alone(scope: dict[str, Any]) -> None:
    one = made(spec(**scope))
    assert modes(one, "shop") == {"enforce"}
    assert modes(one, "bank") == set()


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("unknown", ["inside", "audit", "outside"])
def test_it_has_no_power_over_a_container_of_which_the_namespace_is_not_known(unknown: str, told: bool) -> None:
    one = made(spec(image="nginx", unknown=unknown))
    assert "enforce" not in modes(one, None, told=told)


def test_what_else_is_unknown_counts_as_the_policy_says() -> None:
    assert modes(made(spec(image="nginx", unknown="inside")), "shop", image="") == {"enforce"}
    assert modes(made(spec(image="nginx")), "shop", image="") == {"audit"}
    assert modes(made(spec(image="nginx", unknown="outside")), "shop", image="") == set()


def test_a_policy_of_the_cluster_is_about_all() -> None:
    one = made(spec(image="nginx"), namespace="")
    assert modes(one, "shop") == modes(one, "bank") == {"enforce"}
    assert modes(made(namespace=""), None, told=False) == {"enforce"}


def test_a_mistake_is_told_by_the_path_of_its_field() -> None:
    found = read(made(BROKEN))
    assert found.policy is None
    [diagnostic] = found.diagnostics
    assert str(diagnostic.location) == 'SecurityPolicy shop/guard, spec.rules[0].match."file.pth"'
    assert (diagnostic.code, diagnostic.hint) == ("unknown-field", "did you mean 'file.path'?")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({}, "spec"),
        ([], "spec"),
        ({"seccomp": "/etc/shadow"}, "spec.seccomp"),
        ({**SECRET, "scope": {"namespace": "kube-system"}}, "spec.scope.namespace"),
        ({**SECRET, "scope": {"namespace": ["shop", "bank"]}}, "spec.scope.namespace"),
        ({**SECRET, "scope": []}, "spec.scope"),
        ({"rules": {}}, "spec.rules"),
        ({"rules": [{**SECRET["rules"][0], "action": "deni"}]}, "spec.rules[0].action"),
        ({"rules": [SECRET["rules"][0], SECRET["rules"][0]]}, "spec.rules[1].name"),
        ({"rules": [{**SECRET["rules"][0], "match": {"file.path": ["/a", "["]}}]}, 'spec.rules[0].match."file.path"[1]'),
        ({"rulez": 5}, "spec.rulez"),
        ({"a": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}, "spec"),
    ],
)
def test_what_is_refused_and_where(given: Any, path: str) -> None:
    found = read(made(given))
    told = [str(diagnostic.location).partition(", ")[2] for diagnostic in found.diagnostics]
    assert path in told or (given == {} and found.diagnostics)


def test_an_object_of_another_shape() -> None:
    assert read(made(namespace="", name="Not A Name")).policy is None
    assert read(msgspec.structs.replace(made(), namespace="../x")).policy is None
    assert read(msgspec.structs.replace(made(namespace=""), kind=KIND)).policy is None
    assert read(msgspec.structs.replace(made(), spec=b"")).policy is None
    assert read(msgspec.structs.replace(made(), spec=b"[" * 5000)).policy is None


def test_what_the_api_server_tells_is_not_warned_of() -> None:
    assert read(made(spec(serviceAccount="web", namespaceLabels={"team": "a"}))).diagnostics == ()


def test_numbers_and_texts_stay_what_they_were() -> None:
    one = made({"scope": {"uid": 1000}, "rules": [{"name": "a", "on": "open", "match": {"file.path": "/\U0001f600 \x85\x7f\u2028"}}]})
    found = read(one)
    assert found.policy is not None, found.diagnostics
    assert "/\U0001f600 \x85\x7f\u2028" in [atom.value for atom in atoms(found.policy.rules[0].condition)]


def test_check_compiles_too() -> None:
    assert check(made()).policy is not None
    contradiction = check(made(spec(container=False)))
    assert any("never match" in diagnostic.message for diagnostic in contradiction.diagnostics)


@given(JSON)
def test_whatever_stands_in_it_is_an_answer(value: Any) -> None:
    for one in (made(value), made({"scope": value, "rules": [{"name": "a", "on": "open", "match": value}]})):
        found = check(one)
        assert found.policy is not None or found.diagnostics


# ---- other languages ----


def test_a_policy_of_another_language_is_read_by_its_reader() -> None:
    found = read(armor())
    assert found.policy is None
    assert found.can_be
    assert found.rules is not None
    assert list(found.rules.names()) == ["KubeArmorPolicy/shop/guard"]
    assert found.diagnostics == ()
    tracing = made({"kprobes": [{"call": "security_file_open", "syscall": False}]}, namespace="")
    other = read(msgspec.structs.replace(tracing, kind="TracingPolicy"))
    assert other.rules is not None, other.diagnostics
    assert list(other.rules.names()) == ["guard"]


def test_the_options_of_a_language_are_those_of_the_agent() -> None:
    one = armor(kind="KubeArmorHostPolicy", namespace="")
    here = read(one, {"kubearmor": KubeArmorOptions(node={"app": "web"})}).rules
    there = read(one, {"kubearmor": KubeArmorOptions(node={"app": "db"})})
    assert here is not None
    assert there.rules is not None
    assert (list(here.names()), list(there.rules.names())) == (["KubeArmorHostPolicy/guard"], [])
    assert [found.code for found in there.diagnostics] == ["other-node"]


@pytest.mark.parametrize(
    ("one", "place", "code"),
    [
        (armor(action="Blok"), "KubeArmorPolicy shop/guard, spec.action", "bad-value"),
        (armor("relative"), "KubeArmorPolicy shop/guard, spec.file.matchPaths[0].path", "bad-value"),
        (armor(namespace=""), "KubeArmorPolicy guard, metadata.namespace", "bad-value"),
        (armor(kind="KubeArmorHostPolicy"), "KubeArmorHostPolicy shop/guard, metadata.namespace", "bad-value"),
        (armor(name="A b"), "KubeArmorPolicy shop/A b, metadata.name", "bad-value"),
        (msgspec.structs.replace(armor(), spec=b""), "KubeArmorPolicy shop/guard, spec", "missing-key"),
    ],
)
def test_mistakes_in_another_language_by_the_path_of_the_field(one: PolicyObject, place: str, code: str) -> None:
    found = read(one)
    assert not found.can_be
    assert [(str(told.location), told.code) for told in found.diagnostics] == [(place, code)]


@given(JSON)
def test_any_spec_of_another_language(value: Any) -> None:
    for kind in LANGUAGES:
        namespace = "shop" if is_namespaced(kind) else ""
        found = read(msgspec.structs.replace(made(value, namespace=namespace), kind=kind))
        assert found.can_be != any(told.severity == "error" for told in found.diagnostics)
