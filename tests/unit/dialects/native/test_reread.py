# SPDX-License-Identifier: Apache-2.0
"""A file that is read in part comes to what it comes to as a whole: policies, places, diagnostics."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.dialects.native import read, reread
from bpfence.dialects.native.read import load_sources
from bpfence.documents import yaml_nodes
from bpfence.documents.files import SourceFile

HEAD = "apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: many}\nspec:\n  mode: enforce\n  rules:\n"
TAIL = "  severity: low\n"
RULES = (
    "    - name: {n}\n      on: open\n      match:\n        file.path: /srv/{n}/secret\n      action: deny\n",
    "    # one that says something\n    - {{name: {n}, on: file.modify, match: {{file.path: '/tmp/*'}}, action: deny}}\n",
    '    -   name: {n}\n        on: [connect]\n        match: {{net.peer.ip: 0.0.0.0/0}}\n        message: "two\n          lines of {n}"\n',
    "    - name: {n}\n      on: exec\n      condition: |\n        process.name = a{n}\n        or process.exe = /bin/sh\n\n\n",
    "    - name: {n}\n      on: rename\n      match: {{file.path: /etc/{n}}}\n      action: deny\n      tags: [a, b]\n",
    "    - name: {n}\n      on: open\n      match: {{process.args: x}}\n      unless: {{process.name: sh}}\n      action: deny\n",
)
ODD = (
    "\n", "#", '"', "'", "- ", "  ", "&a ", "*a", "---\n", "\t", "é", "\r\n", "x: y\n", "        - deeper\n", "unless: {}\n", "|\n",
    "      rate: 5/s\n", "net", "/tmp/*", "}", "\u2028", "    - {name: more, on: open, action: allow}\n",
    "    - name: added\n      on: open\n      action: audit\n",
)  # fmt: skip


def whole(rules: list[int], tail: str) -> str:
    return HEAD + "".join(RULES[kind].format(n=f"r{n}") for n, kind in enumerate(rules)) + tail


def cold(text: str) -> object:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(read, "_kept", {})
        return load_sources([SourceFile("p.yaml", text.encode())])


@st.composite
def edits(draw: st.DrawFn) -> list[str]:
    """A file, and what becomes of it by one edit after another."""
    texts = [whole(draw(st.lists(st.integers(0, len(RULES) - 1), min_size=reread.FEW, max_size=12)), draw(st.sampled_from(["", TAIL])))]
    for _ in range(draw(st.integers(1, 3))):
        text = texts[-1]
        begin = draw(st.integers(0, len(text)))
        if draw(st.booleans()):
            begin = text.rfind("\n", 0, begin) + 1
        end = min(len(text), begin + draw(st.sampled_from([0, 0, 1, 7, 60, 200])))
        if draw(st.booleans()):
            end = max(begin, text.rfind("\n", 0, end) + 1)
        put = draw(st.sampled_from([*ODD, ""])) if draw(st.booleans()) else text[begin:end].replace("r", "q", 1)
        texts.append(text[:begin] + put + text[end:])
    return texts


@given(edits())
def test_a_changed_file_is_as_if_it_were_read_for_the_first_time(texts: list[str]) -> None:
    for text in texts:
        assert load_sources([SourceFile("p.yaml", text.encode())]) == cold(text)


@pytest.mark.parametrize("at", [0, 1, 7, 14, 15], ids=str)
@pytest.mark.parametrize("lines", [0, 2])
def test_only_the_changed_rule_is_read(at: int, lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [0] * 16
    before = whole(kinds, TAIL)
    load_sources([SourceFile("p.yaml", before.encode())])
    sizes: list[int] = []
    documents = yaml_nodes.documents
    monkeypatch.setattr(yaml_nodes, "documents", lambda text, file: sizes.append(text.count("- name")) or documents(text, file))
    after = before.replace(f"/srv/r{at}/secret", f"/srv/other{at}" + " # x\n" * lines)
    found = load_sources([SourceFile("p.yaml", after.encode())])
    assert len(sizes) == 1
    assert sizes[0] <= 3
    assert found == cold(after)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("mode: enforce", "mode: audit"),
        lambda text: text + "  links: as-written\n",
        lambda text: text.replace("name: r7\n", "name: r6\n"),
        lambda text: text.replace("name: r7\n      on: open", "name: r7\n      on: net.connect").replace(
            "file.path: /srv/r7/secret", "net.peer.port: 1"
        ),
        lambda text: text.replace("action: deny", "action: allow", 1),
        lambda text: text.replace(
            "      on: open\n      match:\n        file.path: /srv/r3/", '      on: "open\n      match:\n        file.path: /srv/r3/'
        ),
    ],
    ids=["header", "tail", "twice", "other-event", "allow", "quote"],
)
def test_what_concerns_more_than_the_rule_is_read_as_a_whole(change: object, monkeypatch: pytest.MonkeyPatch) -> None:
    before = whole([0] * 16, TAIL)
    after = change(before)  # type: ignore[operator]
    assert after != before
    load_sources([SourceFile("p.yaml", before.encode())])
    sizes: list[int] = []
    documents = yaml_nodes.documents
    monkeypatch.setattr(yaml_nodes, "documents", lambda text, file: sizes.append(text.count("- name")) or documents(text, file))
    found = load_sources([SourceFile("p.yaml", after.encode())])
    assert sizes[-1] == 16
    assert found == cold(after)


def test_anchors_are_read_as_a_whole() -> None:
    text = whole([0] * 16, TAIL).replace("/srv/r2/secret", "&p /srv/r2/secret").replace("/srv/r9/secret", "*p")
    load_sources([SourceFile("p.yaml", text.encode())])
    changed = text.replace("&p /srv/r2", "&p /srv/else")
    assert load_sources([SourceFile("p.yaml", changed.encode())]) == cold(changed)


def test_a_mistake_that_is_mended_is_read_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    text = whole([0] * 16, TAIL)
    load_sources([SourceFile("p.yaml", text.encode())])
    assert load_sources([SourceFile("p.yaml", text.replace("action: deny", "action: dney", 1).encode())])[0].policies == ()
    sizes: list[int] = []
    documents = yaml_nodes.documents
    monkeypatch.setattr(yaml_nodes, "documents", lambda text, file: sizes.append(text.count("- name")) or documents(text, file))
    mended = text.replace("action: deny", "action: audit", 1)
    found = load_sources([SourceFile("p.yaml", mended.encode())])
    assert max(sizes) <= 3
    assert found == cold(mended)
