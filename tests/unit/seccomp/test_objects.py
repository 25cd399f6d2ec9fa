# SPDX-License-Identifier: Apache-2.0
"""SeccompProfile objects: what they say, their mistakes with places, and the way back from a profile."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence.dialects.native import schema as native
from bpfence.documents.yaml_values import documents
from bpfence.errors import CompileError, Diagnostic
from bpfence.pods.bind import Binding, mutate
from bpfence.policy import Label
from bpfence.seccomp.model import NOWHERE, Profile, ProfileAction
from bpfence.seccomp.objects import (
    API_VERSION,
    MAX_BINDINGS,
    MAX_EXACT,
    ProfileObject,
    as_object,
    json_schema,
    objects,
    profile_path,
    read_object,
)
from bpfence.seccomp.profile import bare
from tests.unit.seccomp.random_profiles import profiles

TEXT = """\
apiVersion: bpfence.io/v1alpha1
kind: SeccompProfile
metadata:
  name: web
  namespace: shop
spec:
  profile:
    defaultAction: SCMP_ACT_ERRNO
    syscalls:
    - names: [read, write]
      action: SCMP_ACT_ALLOW
  bindings:
  - images: ["registry.example/web:*", nginx]
    labels:
      matchLabels: {app: web}
      matchExpressions:
      - {key: tier, operator: NotIn, values: [test]}
      - {key: example.com/x, operator: Exists}
  - images: ["*"]
    replace: all
"""


def parsed(text: str, namespace: str = "default") -> tuple[ProfileObject | None, list[Diagnostic]]:
    (root,) = documents(text.encode(), "f")
    return read_object(root, namespace)


def test_an_object() -> None:
    found, wrong = parsed(TEXT)
    assert wrong == []
    assert found is not None
    assert (found.name, found.namespace, found.path) == ("web", "shop", "bpfence/shop/web.json")
    assert [rule.names for rule in found.profile.rules] == [("read", "write")]
    labels = (Label("app", "in", ("web",)), Label("tier", "notin", ("test",)), Label("example.com/x", "exists"))
    assert found.bindings == (
        Binding(profile=found.path, namespace="shop", images=("registry.example/web:*", "nginx"), labels=labels),
        Binding(profile=found.path, namespace="shop", images=("*",), replace="all"),
    )


def test_of_a_cluster() -> None:
    found, _ = parsed(TEXT.replace("kind: S", "kind: ClusterS"))
    assert found is not None
    assert (found.namespace, found.path, found.bindings[0].namespace) == ("", "bpfence/web.json", "")


def test_without_a_namespace() -> None:
    text = TEXT.replace("  namespace: shop\n", "")
    for namespace in ("default", "other"):
        found, _ = parsed(text, namespace)
        assert found is not None
        assert found.path == f"bpfence/{namespace}/web.json"


def test_no_two_objects_have_one_path() -> None:
    names = ["a", "a.json", "b", "a.b"]
    spaces = ["", "a", "b", "a-json"]
    paths = {(name, space): profile_path(name, space) for name in names for space in spaces}
    assert len(set(paths.values())) == len(paths)


@pytest.mark.parametrize(
    ("old", "new", "code", "place"),
    [
        ("v1alpha1", "v1", "wrong-kind", "1:13"), ("name: web", "name: ../web", "bad-value", "4:9"),
        ("name: web", "nam: web", "bad-value", ""),
        ("namespace: shop", "namespace: a.b", "bad-value", "5:14"), ("namespace: shop", "namespace: [x]", "bad-value", "5:14"),
        ("spec:", "Spec:", "unknown-key", "6:1"), ("  profile:\n", "  profil:\n", "unknown-key", "7:3"),
        ("SCMP_ACT_ERRNO", "SCMP_ACT_ERROR", "bad-action", "8:20"),
        ("[\"*\"]", "[]", "empty", "19:5"), ("[\"*\"]", "x", "wrong-type", "19:13"), ("[\"*\"]", "[\"a b\"]", "bad-value", "19:14"),
        ("[\"*\"]", "[\"[\"]", "bad-value", "19:14"), ("replace: all", "replace: yes", "bad-value", "20:14"),
        ("replace: all", "replaces: all", "unknown-key", "20:5"), ("matchLabels", "matchLabel", "unknown-key", "15:7"),
        ("{app: web}", "{app: 1}", "wrong-type", "15:26"), ("{app: web}", "{app: null}", "wrong-type", "15:26"),
        ("{app: web}", "{-app: web}", "bad-value", "15:21"), ("{app: web}", "[app]", "wrong-type", "15:20"),
        ("NotIn", "Not", "bad-value", "17:31"), ("values: [test]", "values: []", "bad-value", "17:9"),
        ("operator: Exists", "operator: Exists, values: [x]", "bad-value", "18:9"), ("key: tier, ", "", "missing-key", "17:9"),
        ("key: tier", "key: /x", "bad-value", "17:15"), ("bindings:\n", "bindings: x\n  others:\n", "wrong-type", "12:13"),
    ],
)  # fmt: skip
def test_mistakes(old: str, new: str, code: str, place: str) -> None:
    """An object with a mistake is none: a test that is left out would bind more containers."""
    assert old in TEXT
    found, wrong = parsed(TEXT.replace(old, new))
    assert found is None
    places = [str(one.location) for one in wrong if one.code == code and one.severity == "error"]
    assert (f"f:{place}" in places) if place else places, wrong
    assert all(one.hint for one in wrong if one.severity == "error")


def test_too_many() -> None:
    document = yaml.safe_load(TEXT)
    document["spec"]["bindings"] = [{"images": ["x"]}] * (MAX_BINDINGS + 1)
    found, wrong = parsed(json.dumps(document))
    assert found is None
    assert [one.code for one in wrong] == ["bad-value"]


@pytest.mark.parametrize(
    "text", ["x", "[]", "kind: SeccompProfile", "{apiVersion: v1, kind: SeccompProfile}", "{apiVersion: bpfence.io/v1alpha1}"]
)
def test_what_is_no_object(text: str) -> None:
    found, wrong = parsed(text)
    assert found is None
    assert [one.code for one in wrong] == ["wrong-kind"]


def test_objects_in_lists_and_among_others() -> None:
    one = yaml.safe_load(TEXT)
    other = {"apiVersion": "security-profiles-operator.x-k8s.io/v1", "kind": "SeccompProfile"}
    text = yaml.safe_dump_all([{"kind": "List", "items": [one, {"kind": "Pod"}, other]}, one, other, {"kind": "Service"}])
    assert len(list(objects(documents(text.encode(), "f")))) == 2


@given(profiles())
@settings(max_examples=60, deadline=None)
def test_there_and_back(profile: Profile) -> None:
    document = as_object(profile, "x", NOWHERE)
    assert json.loads(json.dumps(document), parse_int=float) == document  # what a client may make of numbers
    found, wrong = parsed(json.dumps(document))
    assert found is not None, wrong
    assert bare(found.profile) == bare(profile)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("7", 7), (str(MAX_EXACT), MAX_EXACT), ('"18446744073709551615"', (1 << 64) - 1), ('"007"', 7), (str(MAX_EXACT + 1), None),
        ("9.007199254740993e15", None), ("1.5", None), ("-1", None), ('"18446744073709551616"', None), ('"0x10"', None), ('""', None),
    ],
)  # fmt: skip
def test_numbers_that_clients_round(written: str, value: int | None) -> None:
    condition = f"      args: [{{index: 0, value: {written}, op: SCMP_CMP_EQ}}]\n"
    found, wrong = parsed(TEXT.replace("      action: SCMP_ACT_ALLOW\n", "      action: SCMP_ACT_ALLOW\n" + condition))
    assert (found.profile.rules[0].args[0].value if found else None) == value
    assert value is not None or [str(one.location) for one in wrong] == ["f:12:32"]


def test_names_that_cannot_be() -> None:
    with pytest.raises(CompileError, match="name"):
        as_object(Profile(default_action=ProfileAction.ERRNO), "X Y", NOWHERE)


ODD: list[Any] = [None, True, 0, 1.5, "", "x", [], {}, [None], [{}], {"x": 1}, [["a"]], "\x00", "*"]


def spoilt(random: Random, value: Any) -> Any:
    if random.random() < 0.1:
        return random.choice(ODD)
    if isinstance(value, dict):
        return {key: spoilt(random, inner) for key, inner in value.items()}
    return [spoilt(random, item) for item in value] if isinstance(value, list) else value


@given(st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_wrong_types_everywhere(seed: int) -> None:
    for root in documents(json.dumps(spoilt(Random(seed), yaml.safe_load(TEXT))).encode(), "f"):
        found, wrong = read_object(root)
        assert (found is None) == any(one.severity == "error" for one in wrong)
        if found is not None:
            mutate({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"image": "nginx"}]}}, found.bindings, "shop")


def test_the_schema() -> None:
    """It has what a CustomResourceDefinition is made of: definitions that all exist, and the reader's version and kinds."""
    schema = json_schema()
    definitions = schema["$defs"]
    assert set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema))) == set(definitions)
    assert definitions["Spec"]["required"] == ["profile"]
    assert definitions["SeccompProfile"]["properties"]["apiVersion"]["enum"] == [API_VERSION]
    assert API_VERSION == native.API_VERSION
