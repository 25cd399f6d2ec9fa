# SPDX-License-Identifier: Apache-2.0
"""Reading manifests: values as Kubernetes has them, merges and aliases, lists of objects, places."""

from __future__ import annotations

from typing import Any

import pytest

from bpfence.documents.placed import DocumentError
from bpfence.pods import manifest
from bpfence.pods.manifest import Field, plain, read

manifest_pairs = manifest._pairs


def field(text: str) -> Field:
    return Field(read(text.encode(), "f").roots[0], "").get("k")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True), ("On", True), ("y", True), ("true", True), ("no", False), ("OFF", False), ("n", False), ('"yes"', "yes"),
        ("tRue", "tRue"), ("0", 0), ("00", 0), ("0x0", 0), ("0b0", 0), ("0o0", 0), ("-0", 0), ("+0", 0), ("0_0", 0), ("0.0", 0),
        ("017", 15), ("1_000", 1000), ("0o", "0o"), ("08", 8), ("0e5", 0), (".0", 0), ("'0'", "0"), ("!!str 0", "0"), ("1.5", 0.5),
        (".inf", 0.5), ("1e3", 1000), ("1e30", 0.5), ("", None), ("~", None), ("Null", None), ("''", ""), ("9" * 50, "9" * 50),
        ("|\n  0", "0"),
    ],
)  # fmt: skip
def test_scalars(text: str, value: Any) -> None:
    found = field(f"k: {text}").value
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ('k: !!bool "true"', 4), ("k: !!int 0", 4), ('!!binary "aG9zdFBJRA==": true', 1), ('k: !!binary "dHJ1ZQ=="', 4),
        ("k: !own true", 4),
        ('!!merge "<<": {k: true}', 1), ("x: {k: [1, !!float 0]}", 12), ("k: !!set {a}", 4), ("k: !!map ~", 4), ("k: &a !!bool 'y'", 4),
    ],
)  # fmt: skip
def test_a_tag_that_makes_another_value_is_refused(text: str, column: int) -> None:
    with pytest.raises(DocumentError, match="tag") as caught:
        read(f"a: 1\n---\n{text}\n".encode(), "f")
    assert (caught.value.diagnostic.location.line, caught.value.diagnostic.location.column) == (3, column)


def test_tags_that_say_what_a_value_is_anyway() -> None:
    made = read(b"k: !!map {!!str a: !!seq [! b, !!str 5]}\nimage: 'a!b'\n", "f")
    assert plain(made.roots[0]) == {"k": {"a": ["b", "5"]}, "image": "a!b"}


def test_json_is_json() -> None:
    made = read(b'{"k": "yes", "l": true, "m": "\\ud83d\\ude00", "n": 0}', "f.json")
    assert plain(made.roots[0]) == {"k": "yes", "l": True, "m": "😀", "n": 0}
    assert made.json
    assert not read(b"{kind: Pod}", "f").json  # YAML in braces
    with pytest.raises(DocumentError):
        read(b"{kind: Pod}", "f.json")


def test_of_a_key_written_twice_the_last_counts() -> None:
    assert field("k: 1\nk: 2").value == 2


@pytest.mark.parametrize(
    ("text", "value", "shared"),
    [
        ("x: &a {b: 1}\nk: *a", 1, True),
        ("x: &a {b: 1}\nk: {<<: *a}", 1, True),
        ("x: &a {b: 1}\nk: {<<: *a, b: 2}", 2, False),
        ("x: &a {b: 1}\ny: &c {b: 3}\nk: {<<: [*a, *c]}", 1, True),
        ("x: &a {b: 1}\ny: &c {<<: *a}\nk: {<<: *c}", 1, True),
        ("x: &a {b: 1}\nk: {'<<': *a}", None, False),
        ("x: &a 1\nk: {b: *a}", 1, True),
    ],
)
def test_merges_and_aliases(text: str, value: Any, shared: bool) -> None:
    found = field(text).get("b")
    assert (found.value, found.shared) == (value, shared)
    assert plain(read(text.encode(), "f").roots[0])["k"].get("b") == value  # type: ignore[index]


def test_workloads() -> None:
    text = """
kind: CronJob
metadata: {name: c}
spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: a}], initContainers: [{name: b}]}}}}}
---
kind: List
items:
- kind: Pod
  metadata: {generateName: g-}
  spec: {ephemeralContainers: [{}]}
- kind: Service
---
kind: DeploymentList
items: [{metadata: {name: d, namespace: n}, spec: {template: {}}}]
---
kind: Rollout
spec: {template: {spec: {containers: [{name: x}]}}}
---
just a text
---
spec: {}
"""
    made = read(text.encode(), "f")
    assert [(one.title, len(one.containers), one.document) for one in made.workloads] == [
        ("CronJob c", 2, 0), ("Pod g-", 1, 1), ("Deployment d", 0, 2), ("Rollout", 1, 3),
    ]  # fmt: skip
    assert made.others == ["Service"]
    assert [odd.location.line for odd in made.odd] == [19, 21]
    assert [one.title for one in made.workloads[0].containers] == ["init container 'b'", "container 'a'"]
    assert made.workloads[1].containers[0].title == "ephemeral container 0"


def test_paths_and_places() -> None:
    (pod,) = read(b"kind: Pod\nspec:\n  containers:\n  - name: a\n    securityContext:\n  - name: b\n", "f").workloads
    first, second = pod.containers
    assert first.context.get("privileged").path == "spec.containers[0].securityContext.privileged"
    assert first.context.get("privileged").steps == ("spec", "containers", 0, "securityContext", "privileged")
    assert str(first.context.get("privileged").location) == "f:5:21"
    assert str(second.context.at("capabilities", "add").location) == "f:6:5"


NINE = "[" + ",".join(["*%s"] * 9) + "]"


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} {NINE % ((f'a{n - 1}',) * 9)}\n" for n in range(1, 9)) + "k: *a8",
        "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40)) + "k: *a39",
        "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: *a{n - 1}}}\n" for n in range(1, 400)) + "k: *a399",
        "k: &s {<<: *s}",
        "k: &s\n  x: *s\n",
        "k: " + "{a: " * 500 + "}" * 500,
        "k: " + "[" * 500 + "]" * 500,
    ],
    ids=["aliases of aliases", "merges of merges", "a chain of merges", "merges itself", "holds itself", "maps in maps", "lists in lists"],
)
def test_bombs_are_refused(text: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read(text.encode(), "f")
    assert caught.value.diagnostic.code in ("yaml-limit", "yaml-syntax")
    assert caught.value.diagnostic.location.line


def test_a_large_map_is_walked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a pod's context with very many keys and merges, asked for each of very many containers, takes minutes."""
    walked = []
    monkeypatch.setattr(manifest, "_pairs", lambda node: [walked.append(node), *manifest_pairs(node)][1:])
    for text in ("{" + ", ".join(f"k{n}: {n}" for n in range(100)) + "}", "{<<: [" + ", ".join(["*c"] * 100) + "]}"):
        walked.clear()
        found = field(f"c: &c {{k7: 7}}\nk: {text}")
        assert {found.get("k7").value for _ in range(50)} == {7}
        assert len([node for node in walked if node is found.node]) == 1


def test_a_template_is_told_from_a_manifest() -> None:
    with pytest.raises(DocumentError) as caught:
        read(b"kind: Pod\nspec: {{ toYaml .Values.spec }}\n  x: 1", "f")
    assert "helm template" in caught.value.diagnostic.hint
