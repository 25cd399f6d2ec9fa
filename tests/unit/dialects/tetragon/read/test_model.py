# SPDX-License-Identifier: Apache-2.0
"""The shape of a policy, as an object."""

from __future__ import annotations

from tests.unit.dialects.tetragon.texts import kprobe, read


def test_parts_know_where_they_stand() -> None:
    policy, found = read(kprobes=[kprobe(message="hello")])
    assert found == []
    hook = policy.spec.kprobes[0]
    assert hook.at("message").line > hook.place.line
    assert hook.at("data") == hook.place


def test_hooks_come_with_their_sections() -> None:
    policy, _ = read(kprobes=[kprobe()], lsmhooks=[{"hook": "file_open"}], fentries=[kprobe()])
    assert [section for section, _ in policy.spec.hooks()] == ["kprobes", "fentries", "lsmhooks"]


def test_options_and_names() -> None:
    policy, _ = read(options=[{"name": "policy-mode", "value": "monitor"}], kprobes=[kprobe()])
    assert (policy.name, policy.spec.option("policy-mode"), policy.spec.option("override-method")) == ("p", "monitor", "")


def test_types_have_own_names() -> None:
    policy, _ = read(kprobes=[kprobe(args=[{"index": 0, "type": "long"}])])
    assert policy.spec.kprobes[0].args[0].kind == "sint64"
