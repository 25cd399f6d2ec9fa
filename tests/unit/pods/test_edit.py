# SPDX-License-Identifier: Apache-2.0
"""Edits of texts, form by form; test_harden has them at random."""

from __future__ import annotations

import pytest

from bpfence.pods.edit import CannotEditError, Change, Edit, apply, changed, edits, unified
from bpfence.pods.manifest import Field, plain, read


def edited(text: str, *changes: tuple[str, str, object]) -> str:
    """Changes as (action, path, value)."""
    manifest = read(text.encode(), "f")
    wanted = []
    for action, path, value in changes:
        field = Field(manifest.roots[0], "").at(*path.split("."))
        wanted.append(Change(action, field, value))  # type: ignore[arg-type]
    made = apply(text, edits(manifest, 0, wanted))
    assert plain(read(made.encode(), "f").roots[0]) == changed(plain(manifest.roots[0]), wanted)
    return made


@pytest.mark.parametrize(
    ("text", "change", "made"),
    [
        ("a: 1 # c\n", ("set", "b", True), "a: 1 # c\nb: true\n"),
        ("a: 1", ("set", "b", True), "a: 1\nb: true"),
        ("a: 1\r\n", ("set", "b.c", True), "a: 1\r\nb:\r\n  c: true\r\n"),
        ("a:\n   x: 1\n", ("set", "b.c", True), "a:\n   x: 1\nb:\n   c: true\n"),
        ("a: {x: 1}\n", ("set", "a.y.z", True), "a: {x: 1, y: {z: true}}\n"),
        ("a: {\n  x: 1 # c\n}\n", ("set", "a.y", True), "a: {\n  x: 1, # c\n  y: true\n}\n"),
        ("a: {\n  x: 1, # c\n}\n", ("set", "a.y", True), "a: {\n  x: 1, # c\n  y: true,\n}\n"),
        ("a: {} # c\n", ("set", "a.y", True), "a: # c\n  y: true\n"),
        ("a:\n    {}\n", ("set", "a.y", True), "a:\n    y: true\n"),
        ("a: &x {}\n", ("set", "a.y", True), None),
        ("a: ~\nb: 1\n", ("set", "a.y", True), "a:\n  y: true\nb: 1\n"),
        ("a: # c\n\nb: 1\n", ("set", "a.y", True), "a: # c\n  y: true\n\nb: 1\n"),
        ("a: yes # c\n", ("set", "a", False), "a: false # c\n"),
        ("a: 'x'\n", ("set", "a", "Y"), "a: 'Y'\n"),
        ("a: |\n  x\n", ("set", "a", "Y"), None),
        ("a: [X] # c\n", ("append", "a", "ALL"), "a: [X, ALL] # c\n"),
        ("a: []\n", ("append", "a", "ALL"), "a: [ALL]\n"),
        ("a:\n- X # c\n\nb: 1\n", ("append", "a", "ALL"), "a:\n- X # c\n- ALL\n\nb: 1\n"),
        ("a:\n  -   X\n", ("append", "a", "ALL"), "a:\n  -   X\n  - ALL\n"),
        ("a: [\n  X\n]\n", ("append", "a", "ALL"), "a: [\n  X,\n  ALL\n]\n"),
        ("x: 1\na: 1 # c\nb: 2\n", ("remove", "a", None), "x: 1\nb: 2\n"),
        ("a: |\n  x\n\n  y\n\nb: 2\n", ("remove", "a", None), "\nb: 2\n"),
        ("x: 1\na:\n  # c\n  b: 1\n\n  # d\n  e: 2 # f\nz: 1\n", ("remove", "a", None), "x: 1\n  # c\n\n  # d\nz: 1\n"),
        ("k: {a: 1, b: 2}\n", ("remove", "k.a", None), "k: {b: 2}\n"),
        ("k: {a: 1, b: 2}\n", ("remove", "k.b", None), "k: {a: 1}\n"),
        ("k: {a: 1}\n", ("remove", "k.a", None), "k: {}\n"),
        ("k:\n  a: 1 # c\n", ("remove", "k.a", None), "k:\n  {} # c\n"),
        ('{"a":1}', ("set", "b.c", True), '{"a":1,"b":{"c":true}}'),
        ('{\n  "a": {\n    "x": 1\n  }\n}\n', ("set", "b.c", ["é"]),
         '{\n  "a": {\n    "x": 1\n  },\n  "b": {\n    "c": [\n      "é"\n    ]\n  }\n}\n'),
        ("k: &a {b: 1}\nx: *a\n", ("remove", "x.b", None), None),
    ],
)  # fmt: skip
def test_forms(text: str, change: tuple[str, str, object], made: str | None) -> None:
    if made is not None:
        assert edited(text, change) == made
        return
    with pytest.raises((CannotEditError, AssertionError)):
        edited(text, change)


def test_several_at_one_place() -> None:
    text = "a:\n  b:\n    c: 1\n"
    wanted = [("set", "x", 1), ("set", "a.y", 2), ("set", "a.b.z", 3)]
    assert edited(text, *wanted) == "a:\n  b:\n    c: 1\n    z: 3\n  y: 2\nx: 1\n"


def test_edits_that_overlap_are_refused() -> None:
    with pytest.raises(CannotEditError):
        apply("abc", [Edit(0, 2, ""), Edit(1, 3, "")])


def test_unified() -> None:
    text = "".join(f"{n}\n" for n in range(20)) + "end"
    assert unified(text, [], "f") == ""
    assert unified(text, [Edit(0, 2, ""), Edit(len(text), len(text), "!")], "f").splitlines() == [
        "--- f", "+++ f", "@@ -1,4 +1,3 @@", "-0", " 1", " 2", " 3", "@@ -18,4 +17,4 @@", " 17", " 18", " 19", "-end",
        "\\ No newline at end of file", "+end!", "\\ No newline at end of file",
    ]  # fmt: skip
