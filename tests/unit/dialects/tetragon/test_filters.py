# SPDX-License-Identifier: Apache-2.0
"""Filters of events as Tetragon writes them."""

from __future__ import annotations

from typing import Any

import pytest

from bpfence.dialects.tetragon import filters
from bpfence.dialects.tetragon.filters import FIELDS, FieldFilters, FilterError, Filters, Redactions, kind_of

PROCESS = {
    "exec_id": "id", "pid": 7, "uid": 0, "binary": "/usr/bin/curl", "arguments": "-u me:secret https://host", "docker": "0123abcd",
    "in_init_tree": True, "cap": {"permitted": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN"]},
    "pod": {
        "namespace": "prod", "name": "web-0", "pod_labels": {"app": "web", "tier": "front"},
        "container": {"id": "0123abcd", "name": "main"},
    },
}  # fmt: skip
PARENT = {"exec_id": "parent", "pid": 6, "binary": "/bin/sh", "arguments": "-c curl"}
EVENT: dict[str, Any] = {
    "process_kprobe": {
        "process": PROCESS, "parent": PARENT, "ancestors": [{"binary": "/sbin/init"}, {"binary": "/bin/bash"}], "policy_name": "watch",
        "function_name": "f",
    },
    "node_name": "n", "time": "t",
}  # fmt: skip
HOST: dict[str, Any] = {"process_exec": {"process": {"pid": 9, "binary": "/bin/ls"}, "parent": {"pid": 7}}, "node_name": "n", "time": "t"}
CASES: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "binary_regex": ((["curl$"], ["^/x", "bin"]), (["^curl"], [])),
    "namespace": ((["prod"], ["a", "prod"]), (["pro"], [""])),
    "namespace_regex": ((["^pr"],), (["^od"],)),
    "health_check": ((False,), (True,)),
    "pid": (([7],), ([6],)),
    "pid_set": (([7], [6]), ([5],)),
    "event_set": ((["PROCESS_KPROBE"], [9]), (["PROCESS_EXEC"],)),
    "pod_regex": ((["^web-"],), (["^db-"],)),
    "arguments_regex": ((["https?://"],), (["ftp://"],)),
    "labels": (
        (["app=web"], ["app==web,tier in (front, back)"], ["!other"], ["tier"], ["app!=db"], ["tier notin (back)"], ["a=b", "app"]),
        (["app=db"], ["app,other"], ["!app"], ["tier in (back)"]),
    ),
    "policy_names": ((["watch"], ["a", "watch"]), (["wat"],)),
    "capabilities": (
        (
            {"effective": {"exactly": ["CAP_CHOWN"]}}, {"permitted": {"all": ["CAP_KILL"]}, "effective": {"none": ["CAP_KILL"]}},
            {"permitted": {"any": ["CAP_BPF", "CAP_KILL"]}}, {"inheritable": {"none": ["CAP_KILL"]}},
        ),
        ({"effective": {"all": ["CAP_KILL"]}}, {"permitted": {"any": ["CAP_KILL"]}, "effective": {"any": ["CAP_KILL"]}}),
    ),
    "parent_binary_regex": ((["/sh$"],), (["curl"],)),
    "parent_arguments_regex": ((["^-c"],), (["-u"],)),
    "container_id": ((["^0123"],), (["^abcd"],)),
    "container_name_regex": ((["^main$"],), (["^side"],)),
    "in_init_tree": ((True,), (False,)),
    "ancestor_binary_regex": ((["bash$"],), (["/sh$"],)),
}  # fmt: skip


def test_every_filter_has_cases() -> None:
    assert set(CASES) == set(FIELDS)


@pytest.mark.parametrize("name", CASES)
def test_what_a_filter_lets_through(name: str) -> None:
    yes, no = CASES[name]
    for value in yes:
        assert Filters([{name: value}]).pass_(EVENT), value
        assert not Filters((), [{name: value}]).pass_(EVENT), value
    for value in no:
        assert not Filters([{name: value}]).pass_(EVENT), value
        assert Filters((), [{name: value}]).pass_(EVENT), value


def test_items_are_alternatives_and_fields_are_all_required() -> None:
    assert Filters([{"pid": [1]}, {"pid": [7]}]).pass_(EVENT)
    assert not Filters([{"pid": [7], "binary_regex": ["ls"]}]).pass_(EVENT)
    assert not Filters([{"pid": [7]}], [{"binary_regex": ["curl"]}]).pass_(EVENT)
    assert Filters().pass_(EVENT)


def test_processes_of_the_host_have_no_pod() -> None:
    assert Filters([{"namespace": [""]}]).pass_(HOST)
    assert Filters([{"namespace_regex": ["^$"]}]).pass_(HOST)
    for name, value in (("pod_regex", [""]), ("labels", ["!a"]), ("container_id", [""]), ("in_init_tree", False)):
        assert not Filters([{name: value}]).pass_(HOST), name


def test_descendants_are_followed_even_while_another_filter_hides_them(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Filters([{"binary_regex": ["/grandchild$"], "pid_set": [6]}])
    assert not chosen.pass_(EVENT)  # 7, a child of 6
    child = {"process_exec": {"process": {"pid": 9, "binary": "/grandchild"}, "parent": {"pid": 7}}}
    assert chosen.pass_(child)
    monkeypatch.setattr(filters, "MAX_PIDS", 1)
    full = Filters([{"pid_set": [6]}])
    assert full.pass_(EVENT)
    assert not full.pass_(child)  # not remembered


def test_a_loss_is_always_told() -> None:
    assert Filters([{"pid": [1]}], [{"event_set": ["RATE_LIMIT_INFO"]}]).pass_({"rate_limit_info": {}})
    assert kind_of({"bpfence_status": {}, "time": "t"}) == ""


@pytest.mark.parametrize(
    ("filter_", "why"),
    [
        ({"cel_expression": ["true"]}, "not supported"),
        ({"binary": ["x"]}, "not supported"),
        ({"binary_regex": "x"}, "list of texts"),
        ({"binary_regex": ["("]}, "no pattern"),
        ({"binary_regex": ["(?:a{1,1000}){1,1000}"]}, "no pattern"),
        ({"binary_regex": ["x" * 5000]}, "4096 characters"),
        ({"pid": ["1"]}, "list of numbers"),
        ({"pid": [True]}, "list of numbers"),
        ({"event_set": ["PROCESS_FORK"]}, "no type of events"),
        ({"event_set": [3]}, "no type of events"),
        ({"event_set": 1}, "list of types"),
        ({"health_check": "yes"}, "true or false"),
        ({"labels": ["a in b"]}, "no selector"),
        ({"labels": ["a=b,"]}, "no selector"),
        ({"labels": [""]}, "no selector"),
        ({"capabilities": {"ambient": {}}}, "some of"),
        ({"capabilities": {"effective": {"any": [], "all": []}}}, "one of"),
        ("x", "must be an object"),
    ],
)
def test_what_is_no_filter(filter_: Any, why: str) -> None:
    with pytest.raises(FilterError, match=why):
        Filters([filter_])


def test_filters_are_bounded() -> None:
    with pytest.raises(FilterError, match="64 are allowed"):
        Filters([{}] * 65)
    with pytest.raises(FilterError, match="512 values"):
        Filters([{"pid": list(range(513))}])
    with pytest.raises(FilterError, match="64 are allowed"):
        FieldFilters([{}] * 65)
    with pytest.raises(FilterError, match="64 are allowed"):
        Redactions([{"redact": ["(a)"]}] * 65)


# ---- what is shown ----


def shown(*masks: dict[str, Any], event: dict[str, Any] = EVENT) -> Any:
    made = FieldFilters(masks).shown(event)
    return made[kind_of(made)]


def test_fields_that_are_included_stand_alone() -> None:
    assert shown({"fields": "process.pid,parent.exec_id"}) == {"process": {"pid": 7}, "parent": {"exec_id": "parent"}}
    assert shown({"fields": "process.execId,policyName"}) == {"process": {"exec_id": "id"}, "policy_name": "watch"}
    assert shown({"fields": "ancestors.binary"}) == {"ancestors": [{"binary": "/sbin/init"}, {"binary": "/bin/bash"}]}
    assert shown({"fields": "parent,process.pid"}) == {"process": {"pid": 7}, "parent": PARENT}
    assert FieldFilters([{"fields": "process"}]).shown(EVENT)["node_name"] == "n"


def test_fields_that_are_excluded_are_gone_even_where_they_are_included() -> None:
    own = shown({"fields": "process.pod.container,function_name,nothing.here", "action": "EXCLUDE"})
    assert "container" not in own["process"]["pod"]
    assert own.keys() == EVENT["process_kprobe"].keys() - {"function_name"}
    assert shown({"fields": "process.pid,parent.pid"}, {"fields": "parent", "action": "EXCLUDE"}) == {"process": {"pid": 7}}
    assert "container" in PROCESS["pod"]  # type: ignore[operator]


def test_fields_are_chosen_by_type_of_event() -> None:
    only_exec = {"fields": "process.pid", "event_set": ["PROCESS_EXEC"]}
    assert shown(only_exec) == EVENT["process_kprobe"]
    assert shown(only_exec, event=HOST) == {"process": {"pid": 9}}
    assert shown({**only_exec, "invert_event_set": True}) == {"process": {"pid": 7}}
    assert shown({**only_exec, "invert_event_set": True}, event=HOST) == HOST["process_exec"]


@pytest.mark.parametrize("mask", ["x", {"field": "a"}, {"fields": ["a"]}, {"fields": "a", "action": "HIDE"}, {"fields": "a," * 600}])
def test_what_is_no_filter_of_fields(mask: Any) -> None:
    with pytest.raises(FilterError):
        FieldFilters([mask])


# ---- what is hidden ----


def test_groups_of_patterns_are_hidden_in_all_processes() -> None:
    made = Redactions([{"redact": [r"-u\s+\w+:(\S+)", r"(curl)"]}]).shown(EVENT)["process_kprobe"]
    assert made["process"]["arguments"] == "-u me:***** https://host"
    assert made["parent"]["arguments"] == "-c *****"
    assert EVENT["process_kprobe"]["process"]["arguments"] == "-u me:secret https://host"


def test_binaries_say_whose_command_lines_are_looked_at() -> None:
    made = Redactions([{"redact": ["(.+)"], "binary_regex": ["/sh$"]}]).shown(EVENT)["process_kprobe"]
    assert (made["process"]["arguments"], made["parent"]["arguments"]) == (PROCESS["arguments"], "*****")


def test_groups_in_groups_and_groups_that_match_nothing() -> None:
    event = {"process_exec": {"process": {"arguments": "a=1 b=2 c"}}}
    hidden = Redactions([{"redact": [r"a=((\d))|b=(\d)|(x)"]}]).shown(event)
    assert hidden["process_exec"]["process"]["arguments"] == "a=***** b=***** c"
    assert Redactions([{"redact": ["(z*)"]}]).shown(event)["process_exec"]["process"] == {"arguments": "a=1 b=2 c"}
    assert Redactions([{"redact": ["(a)"]}]).shown({"rate_limit_info": {}}) == {"rate_limit_info": {}}


@pytest.mark.parametrize("one", ["x", {}, {"redact": []}, {"redact": ["secret"]}, {"redact": ["(a)"], "match": []}, {"redact": ["("]}])
def test_what_hides_nothing_is_refused(one: Any) -> None:
    with pytest.raises(FilterError):
        Redactions([one])
