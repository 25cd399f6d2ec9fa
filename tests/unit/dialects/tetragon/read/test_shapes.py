# SPDX-License-Identifier: Apache-2.0
"""What the CRD refuses: keys, types, words, bounds."""

from __future__ import annotations

from typing import Any

import pytest

from bpfence.dialects.tetragon.read.document import read_text
from tests.unit.dialects.tetragon.texts import FILE, codes, kprobe, on, read, text

PID = {"operator": "In", "values": [1]}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"kprobe": []}, ["unknown-key"]),
        ({"kprobes": [{}]}, ["missing-key"]),
        ({"kprobes": [{"call": 5}]}, ["wrong-type"]),
        ({"kprobes": {"call": "x"}}, ["wrong-type"]),
        ({"kprobes": [kprobe(args=[{"index": "0", "type": "int"}])]}, ["wrong-type"]),
        ({"kprobes": [kprobe(args=[{"index": 0, "type": "integer"}])]}, ["bad-value"]),
        ({"kprobes": [kprobe(args=[{"index": -1, "type": "int"}])]}, ["bad-number"]),
        ({"kprobes": [kprobe(args=[{"index": 1.5, "type": "int"}])]}, ["wrong-type"]),
        ({"kprobes": [kprobe(syscall="false")]}, ["wrong-type"]),
        ({"kprobes": [kprobe({"matchPIDs": [{"operator": "In", "values": []}]})]}, ["empty"]),
        ({"kprobes": [kprobe({"matchPIDs": [{"operator": "In", "values": [1, 2, 3, 4, 5]}]})]}, ["too-many"]),
        ({"kprobes": [kprobe(*[{"matchPIDs": [PID]}] * 6)]}, ["too-many"]),
        ({"kprobes": [kprobe({"matchActions": [{"action": "Post"}] * 4})]}, ["too-many"]),
        ({"kprobes": [kprobe({"matchActions": [{"action": "post"}]})]}, ["bad-value"]),
        ({"kprobes": [kprobe({"matchpids": [PID]})]}, ["key-case"]),
        ({"kprobes": [kprobe(tags=["x"])]}, ["bad-value"]),
        ({"kprobes": [kprobe(tags=["xy"] * 17)]}, ["too-many"]),
        ({"kprobes": [kprobe(message="x")]}, ["bad-value"]),
        ({"kprobes": [kprobe()], "hostSelector": {"x": "y"}}, ["unknown-key"]),
        ({"kprobes": [kprobe()], "podSelector": {"matchLabels": {"a": 1}}}, ["wrong-type"]),
        ({"kprobes": [kprobe()], "podSelector": {"matchExpressions": [{"key": "a", "operator": "is"}]}}, ["bad-value"]),
        ({"kprobes": [kprobe()], "enforcers": [{"calls": ["a"]}, {"calls": ["b"]}]}, ["too-many"]),
        ({"kprobes": [kprobe()], "options": [{"name": "policy-modes", "value": "x"}]}, ["bad-value"]),
        ({"kprobes": None, "lsmhooks": [{"hook": "file_open"}]}, []),
    ],
)
def test_shapes(spec: dict[str, Any], expected: list[str]) -> None:
    assert codes(**spec) == expected


def test_near_words_are_named() -> None:
    _, found = read_text(text(kprobes=[kprobe(on(0, "Prefixes", "/a"))]), "p.yaml")
    assert (found[0].code, "Prefix" in found[0].hint) == ("bad-value", True)
    assert (found[0].location.file, found[0].location.line > 1, found[0].location.column > 1) == ("p.yaml", True, True)


def test_one_mistake_hides_no_other() -> None:
    assert codes(kprobes=[kprobe(syscall=1, message=2, args=[{"index": 0, "type": "x"}])]) == ["wrong-type", "bad-value", "wrong-type"]


def test_a_key_written_twice() -> None:
    written = text(kprobes=[kprobe()]).replace('"syscall": false', '"syscall": false, "syscall": true')
    assert [found.code for found in read_text(written)[1]] == ["duplicate-key"]


def test_keys_in_another_case_count() -> None:
    policy, _ = read(kprobes=[kprobe({"matchPids": [PID]}, args=[FILE])])
    assert policy.spec.kprobes[0].selectors[0].match_pids[0].values == (1,)


def test_many_mistakes_end_the_reading() -> None:
    assert len(codes(kprobes=[{"x": 1}] * 5000)) < 1000
