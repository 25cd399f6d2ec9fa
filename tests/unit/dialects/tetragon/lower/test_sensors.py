# SPDX-License-Identifier: Apache-2.0
"""Hooks that are no events of the engine's own: what their sensors read, what rules about them decide, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from bpfence.compiler.compile import compile_policies
from bpfence.conditions.sensors import NUMBERS, is_call
from bpfence.dialects.tetragon.lower.hooks import Reads
from bpfence.dialects.tetragon.lower.policies import Lowered, lower
from bpfence.dialects.tetragon.lower.sensors import TYPES
from bpfence.dialects.tetragon.read import words
from bpfence.dialects.tetragon.read.document import CODES
from bpfence.documents.report import Report
from bpfence.errors import Diagnostic
from bpfence.evaluate import holds, verdict
from bpfence.policy import FALSE, Action, PolicySet, Probe, ProbeArgument, Read, Way
from tests.unit.dialects.tetragon.texts import kprobe, on, read


def lowered(**spec: Any) -> tuple[Lowered, list[Diagnostic]]:
    policy, found = read(**spec)
    assert found == []
    report = Report(CODES)
    return lower(policy, report), report.diagnostics


def hook(*selectors: dict[str, Any], call: str = "do_thing", types: tuple[str, ...] = ("int",), **more: Any) -> dict[str, Any]:
    return kprobe(*selectors, call=call, args=[{"index": index, "type": type_} for index, type_ in enumerate(types)], **more)


def decided(found: Lowered, **fields: Any) -> Action:
    (probe,) = found.policy.probes
    values = {name.replace("__", "."): value for name, value in fields.items()}
    event = {"event": probe.way.value, "sensor.number": probe.number, "process.exe": "/bin/x", "file.memfd": 0, **values}
    return verdict(PolicySet((found.policy,)), event).action


def test_what_a_sensor_reads() -> None:
    types = ("int", "file", "string", "path", "uint64")
    found, told = lowered(kprobes=[hook(types=types, message="a thing", tags=["a.b"])])
    assert told == []
    (probe,) = found.policy.probes
    assert probe.identity == Probe(
        Way.KPROBE,
        "do_thing",
        (
            ProbeArgument(0, Read.NUMBER, 4, signed=True), ProbeArgument(1, Read.FILE, 4), ProbeArgument(2, Read.TEXT, 4),
            ProbeArgument(3, Read.PATH, 4), ProbeArgument(4, Read.NUMBER, 8),
        ),
    )  # fmt: skip
    sensor = found.sensors["kprobes[0]"]
    assert (sensor.form, sensor.function, sensor.message, sensor.tags) == ("process_kprobe", "do_thing", "a thing", ("a.b",))
    assert [(shown.reads, shown.field) for shown in sensor.arguments] == [
        (Reads.INTEGER, "sensor.number0"), (Reads.FILE, "file.path"), (Reads.TEXT, "sensor.text2"), (Reads.PLACE, "file.new_path"),
        (Reads.INTEGER, "sensor.number4"),
    ]  # fmt: skip
    compile_policies(PolicySet((found.policy,)))


def test_hooks_of_one_place_and_kind_share_a_sensor() -> None:
    found, _ = lowered(kprobes=[hook(on(0, "Equal", "1")), hook(on(0, "Equal", "2")), hook(types=("int64",))])
    assert len(found.policy.probes) == 2
    assert len(found.policy.rules) == 3


def test_a_rule_is_about_its_sensor_alone() -> None:
    found, _ = lowered(kprobes=[hook(on(0, "Equal", "1"))])
    assert decided(found, sensor__number0=1) is Action.OBSERVE
    assert decided(found, sensor__number0=2) is Action.NONE
    (probe,) = found.policy.probes
    assert decided(found, sensor__number0=1, sensor__number=probe.number ^ 1) is Action.NONE


MINUS = 2**64
INT = [{"index": 0, "type": "int"}]


@pytest.mark.parametrize(
    ("type_", "operator", "values", "numbers", "others"),
    [
        ("int", "Equal", ["-1"], [MINUS - 1], [1, 2**32 - 1]),
        ("int", "Equal", ["0xffffffff"], [MINUS - 1], [1, 2**32 - 1]),
        ("uint32", "Equal", ["0xffffffff"], [2**32 - 1], [MINUS - 1]),
        ("int", "NotEqual", ["-1", "5"], [0, 4, MINUS - 2], [5, MINUS - 1]),
        ("int", "GT", ["-3"], [MINUS - 2, 0, 9], [MINUS - 3, MINUS - 4]),
        ("int", "LT", ["2"], [1, 0, MINUS - 1, MINUS - 2**31], [2, 3]),
        ("uint64", "LT", ["2"], [1, 0], [2, MINUS - 1]),
        ("int8", "InRange", ["-2:1"], [MINUS - 2, MINUS - 1, 0, 1], [2, MINUS - 3]),
        ("int64", "NotInRange", ["0:9"], [10, MINUS - 1], [0, 9]),
        ("uint16", "Mask", ["0x8001"], [0x8000, 1, 0x8001], [2, 0]),
        ("syscall64", "InMap", ["1", "5:7"], [1, 5, 6, 7], [2, 4, 8]),
    ],
)
def test_numbers_of_every_kind(type_: str, operator: str, values: list[str], numbers: list[int], others: list[int]) -> None:
    place = {
        "tracepoints": [{"subsystem": "s", "event": "e", "args": [{"index": 0, "type": type_}], "selectors": [on(0, operator, *values)]}]
    }
    found, told = lowered(**(place if type_ == "syscall64" else {"kprobes": [hook(on(0, operator, *values), types=(type_,))]}))
    assert told == []
    assert [decided(found, sensor__number0=number) for number in numbers] == [Action.OBSERVE] * len(numbers)
    assert [decided(found, sensor__number0=number) for number in others] == [Action.NONE] * len(others)


@pytest.mark.parametrize(
    ("operator", "value", "texts", "others"),
    [
        ("Equal", "/etc/x", ["/etc/x"], ["/etc/xy", ""]),
        ("Prefix", "/etc/", ["/etc/x"], ["/usr/etc/"]),
        ("Postfix", ".ko", ["a.ko"], ["a.koo"]),
        ("SubString", "b", ["abc"], ["ac"]),
        ("SubStringIgnCase", "B", ["abc", "aBc"], ["ac"]),
        ("NotPrefix", "/etc/", ["/usr/etc/"], ["/etc/x"]),
    ],
)
def test_texts(operator: str, value: str, texts: list[str], others: list[str]) -> None:
    found, told = lowered(kprobes=[hook(on(0, operator, value), types=("string",))])
    assert told == []
    assert [decided(found, sensor__text0=text) for text in texts] == [Action.OBSERVE] * len(texts)
    assert [decided(found, sensor__text0=text) for text in others] == [Action.NONE] * len(others)
    assert decided(found) is Action.NONE  # there is none: the pointer was NULL


def test_files_and_sockets() -> None:
    found, _ = lowered(kprobes=[hook(on(1, "Prefix", "/b"), types=("file", "path"))])
    assert decided(found, file__path="/b/x", file__new_path="/a/x") is Action.NONE
    assert decided(found, file__path="/a/x", file__new_path="/b/x") is Action.OBSERVE
    tests = {
        "matchArgs": [
            *on(0, "DAddr", "10.0.0.0/8")["matchArgs"],
            *on(0, "NotSPort", "1:9")["matchArgs"],
            *on(0, "DPort", "80")["matchArgs"],
        ]
    }
    found, told = lowered(kprobes=[hook(tests, types=("sock",))])
    assert told == []
    sides = {"net__family": 2, "net__peer__port": 80, "net__local__port": 10}
    assert decided(found, net__peer__ip="10.1.1.1", **sides) is Action.OBSERVE
    assert decided(found, net__peer__ip="11.1.1.1", **sides) is Action.NONE
    assert decided(found, net__peer__ip="10.1.1.1", **{**sides, "net__local__port": 9}) is Action.NONE


def test_bytes_devices_and_structures() -> None:
    arguments = [
        {"index": 1, "type": "char_buf", "sizeArgIndex": 3}, {"index": 0, "type": "net_device"}, {"index": 3, "type": "cred"},
        {"index": 4, "type": "user_namespace"},
    ]  # fmt: skip
    tests = {"matchArgs": [*on(1, "Prefix", "GET ")["matchArgs"], *on(0, "Equal", "lo")["matchArgs"]]}
    found, told = lowered(kprobes=[kprobe(tests, call="do_thing", args=arguments)])
    assert told == []
    assert found.policy.probes[0].arguments == (
        ProbeArgument(1, Read.BYTES, 4, length=2), ProbeArgument(0, Read.NET_DEVICE, 4), ProbeArgument(3, Read.CRED, 4),
        ProbeArgument(4, Read.USER_NS, 4),
    )  # fmt: skip
    assert decided(found, sensor__text0="GET /", sensor__text1="lo") is Action.OBSERVE
    assert decided(found, sensor__text0="GET /", sensor__text1="eth0") is Action.NONE
    shown = found.sensors["kprobes[0].selectors[0]"].arguments
    assert [(one.reads, one.constant) for one in shown[2:]] == [(Reads.WHOLE, 2), (Reads.WHOLE, 3)]


def test_lists_of_functions() -> None:
    spec = {
        "kprobes": [hook(call="list:calls", types=(), syscall=True)],
        "lists": [{"name": "calls", "type": "syscalls", "values": ["sys_dup", "sys_dup2"]}],
    }
    found, told = lowered(**spec)
    assert told == []
    assert [(probe.place, probe.call) for probe in found.policy.probes] == [("sys_dup", True), ("sys_dup2", True)]
    assert set(found.sensors) == {"kprobes[0].sys_dup", "kprobes[0].sys_dup2"}


@pytest.mark.parametrize("call", ["i386/sys_dup", "two words", "f" * 300, "f+8"])
def test_what_is_no_function(call: str) -> None:
    _, told = lowered(kprobes=[hook(call=call, types=())])
    assert [one.code for one in told] == ["not-supported"]
    _, told = lowered(kprobes=[hook(call="list:x", types=())], lists=[{"name": "x", "values": ["vfs_read", call]}])
    assert [one.code for one in told] == ["not-supported"]


def test_tracepoints_count_arguments_both_ways() -> None:
    def point(index: int) -> Lowered:
        arguments = [{"index": 4, "type": "string"}, {"index": 5, "type": "int"}]
        found, told = lowered(tracepoints=[{"subsystem": "s", "event": "e", "args": arguments, "selectors": [on(index, "Equal", "7")]}])
        assert told == []
        return found

    assert decided(point(5), sensor__number1=7) is decided(point(1), sensor__number1=7) is Action.OBSERVE
    assert point(5).sensors["tracepoints[0].selectors[0]"].form == "process_tracepoint"


def test_a_kill() -> None:
    found, told = lowered(kprobes=[hook({**on(0, "Equal", "1"), "matchActions": [{"action": "Sigkill"}]})])
    assert (told, decided(found, sensor__number0=1)) == ([], Action.KILL)


def test_a_function_that_may_be_missing() -> None:
    found, _ = lowered(kprobes=[hook(ignore={"callNotFound": True}), hook(call="other")])
    assert [probe.optional for probe in found.policy.probes] == [True, False]


RETURNS = {"return": True, "returnArg": {"index": 0, "type": "int", "label": "result"}}
NOT_ZERO = {"matchReturnArgs": [{"index": 0, "operator": "NotEqual", "values": ["0"]}]}
KILL = {"matchActions": [{"action": "Sigkill"}]}


def test_what_a_function_returns_is_told_with_its_arguments() -> None:
    found, told = lowered(kprobes=[hook(**RETURNS)])
    assert told == []
    (probe,) = found.policy.probes
    assert probe.identity == Probe(
        Way.KRETPROBE, "do_thing", (ProbeArgument(0, Read.NUMBER, 4, signed=True),), result=ProbeArgument(0, Read.NUMBER, 4, signed=True)
    )
    shown = found.sensors["kprobes[0]"].result
    assert shown is not None
    assert (shown.type, shown.field, shown.label) == ("int", "sensor.result", "result")
    assert [rule.events for rule in found.policy.rules] == [("sensor.kretprobe",)]
    plain, _ = lowered(kprobes=[hook()])
    assert (plain.policy.probes[0].way, plain.sensors["kprobes[0]"].result) == (Way.KPROBE, None)
    compile_policies(PolicySet((found.policy,)))


@pytest.mark.parametrize(("number", "result", "action"), [(5, -1, Action.OBSERVE), (5, 0, Action.NONE), (6, -1, Action.NONE)])
def test_what_is_returned_is_tested_beside_what_was_given(number: int, result: int, action: Action) -> None:
    found, told = lowered(kprobes=[hook({**on(0, "Equal", "5"), **NOT_ZERO}, **RETURNS)])
    assert told == []
    assert decided(found, sensor__number0=number, sensor__result=result % 2**64) == action


def test_a_selector_is_chosen_by_what_was_given() -> None:
    """The first that matches then; what it asks of the return lets no later one in."""
    found, _ = lowered(kprobes=[hook({**on(0, "Equal", "5"), **NOT_ZERO}, on(0, "GT", "4"), **RETURNS)])
    assert decided(found, sensor__number0=5, sensor__result=0) == Action.NONE
    assert decided(found, sensor__number0=6, sensor__result=0) == Action.OBSERVE


def test_who_is_to_be_killed_is_killed_at_the_call() -> None:
    found, told = lowered(kprobes=[hook({**on(0, "Equal", "5"), **KILL}, on(0, "Equal", "6"), **RETURNS)])
    assert told == []
    assert {probe.way for probe in found.policy.probes} == {Way.KPROBE, Way.KRETPROBE}
    assert [(rule.action, rule.events) for rule in found.policy.rules] == [
        (Action.KILL, ("sensor.kprobe",)),
        (Action.OBSERVE, ("sensor.kretprobe",)),
    ]
    assert [found.sensors[rule.name].result is None for rule in found.policy.rules] == [True, False]
    alone, _ = lowered(kprobes=[hook({**on(0, "Equal", "5"), **KILL}, **RETURNS)])
    assert [probe.way for probe in alone.policy.probes] == [Way.KPROBE]
    late = {"matchReturnActions": KILL["matchActions"]}
    for selector in ({**on(0, "Equal", "5"), **NOT_ZERO, **KILL}, {**on(0, "Equal", "5"), **NOT_ZERO, **late}):
        asked, _ = lowered(kprobes=[hook(selector, **RETURNS)])
        assert decided(asked, sensor__number0=5, sensor__result=1) == Action.KILL
        assert decided(asked, sensor__number0=5, sensor__result=0) == Action.NONE
    assert asked.sensors["kprobes[0].selectors[0]"].return_action == "KPROBE_ACTION_SIGKILL"


def test_a_hook_that_is_an_event_is_a_sensor_where_its_return_is_tested() -> None:
    found, told = lowered(kprobes=[kprobe(NOT_ZERO, **RETURNS)])
    assert (told, [probe.place for probe in found.policy.probes]) == ([], ["security_file_permission"])
    plain, _ = lowered(kprobes=[kprobe(**RETURNS)])
    assert plain.policy.probes == ()
    refusing = {"matchActions": [{"action": "Override", "argError": -1}]}
    _, told = lowered(kprobes=[kprobe({**NOT_ZERO, **refusing}, **RETURNS)])
    assert [one.code for one in told] == ["not-supported"]


def test_a_buffer_is_read_at_the_return() -> None:
    copied = [{"index": 1, "type": "char_buf", "sizeArgIndex": 3, "returnCopy": True}, {"index": 2, "type": "size_t"}]
    found, told = lowered(kprobes=[kprobe(call="sys_read", args=copied, **{**RETURNS, "syscall": True})])
    assert told == []
    assert [(one.read, one.at_return) for one in found.policy.probes[0].arguments] == [(Read.BYTES, True), (Read.NUMBER, False)]
    _, told = lowered(kprobes=[kprobe(call="sys_read", args=copied, syscall=True)])
    assert [(one.code, one.location.line > 1) for one in told] == [("not-supported", True)]


@pytest.mark.parametrize("kind", ["file", "string", "socket", "syscall64"])
def test_what_cannot_be_read_of_a_return_is_refused_where_it_stands(kind: str) -> None:
    _, told = lowered(kprobes=[hook(**{**RETURNS, "returnArg": {"index": 0, "type": kind}})])
    assert [(one.code, "returns is not read as" in one.message) for one in told] == [("not-supported", True)]


def test_functions_of_system_calls() -> None:
    found, told = lowered(kprobes=[hook(call="sys_write", syscall=True)])
    assert (told, found.policy.probes[0].call) == ([], True)
    _, told = lowered(kprobes=[hook(call="vfs_write", syscall=True)])
    assert [(one.code, one.hint) for one in told] == [("bad-value", "write syscall: false")]
    found, told = lowered(kprobes=[hook(call="vfs_write", types=(), syscall=True)])
    assert (told, found.policy.probes[0].call) == ([], False)  # nothing is read: how does not matter
    assert not is_call("__ia32_sys_write")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([{"index": 0, "type": "iov_iter"}], "type iov_iter is not read"),
        ([{"index": 0, "type": "int"}, {"index": 0, "type": "int"}], "argument 0 is read twice"),
        ([{"index": 0, "type": "file"}, {"index": 1, "type": "path"}, {"index": 2, "type": "fd"}], "more than 2 files"),
        ([{"index": 0, "type": "sock"}, {"index": 1, "type": "sockaddr"}], "an address beside a socket"),
        ([{"index": 0, "type": "file", "resolve": "f_inode"}], "cannot be read yet in this way"),
        ([{"index": 0, "type": "string", "sizeArgIndex": 2}], "cannot be read yet in this way"),
        ([{"index": 0, "type": "char_buf", "sizeArgIndex": 2, "maxData": True}], "cannot be read yet in this way"),
        ([{"index": 0, "type": "char_buf"}], "does not say how many bytes"),
    ],
)
def test_arguments_that_are_refused(arguments: list[dict[str, Any]], told: str) -> None:
    _, found = lowered(kprobes=[kprobe(call="do_thing", args=arguments)])
    assert [one.code for one in found] == ["not-supported"]
    assert told in found[0].message
    assert found[0].location.line > 1


def test_files_of_the_kernel_are_in_no_record_of_a_tracepoint() -> None:
    _, found = lowered(tracepoints=[{"subsystem": "s", "event": "e", "args": [{"index": 5, "type": "file"}]}])
    assert [one.code for one in found] == ["not-supported"]
    assert "in the record of a tracepoint" in found[0].message


def test_types_are_those_of_the_language() -> None:
    assert set(TYPES) <= set(words.TYPES)
    assert set(NUMBERS) <= set(TYPES)


@pytest.mark.parametrize("names", [("Override",), ("Sigkill", "Override"), ("Override", "Sigkill")])
def test_what_would_refuse_the_act_is_refused_beside_a_kill_too(names: tuple[str, ...]) -> None:
    actions = [{"action": name, "argError": -1} if name == "Override" else {"action": name} for name in names]
    found, told = lowered(kprobes=[hook({**on(0, "Equal", "1"), "matchActions": actions})])
    assert found.policy.rules == ()
    assert "cannot be overridden" in told[0].message


@pytest.mark.parametrize("first", [True, False])
def test_a_hook_that_is_needed_is_not_hidden_by_one_that_is_not(first: bool) -> None:
    hooks = [hook(on(0, "Equal", "1"), ignore={"callNotFound": optional}) for optional in (first, not first)]
    found, _ = lowered(kprobes=hooks)
    assert [probe.optional for probe in found.policy.probes] == [False]


@pytest.mark.parametrize(
    ("name", "function"),
    [("inode_mkdir", "security_inode_mkdir"), ("cred_prepare", "security_prepare_creds"), ("task_alloc", "security_task_alloc")],
)
def test_any_lsm_hook_has_a_sensor_on_the_function_that_asks(name: str, function: str) -> None:
    found, told = lowered(lsmhooks=[{"hook": name, "args": [{"index": 2, "type": "uint16"}], "selectors": [on(2, "Equal", "5")]}])
    assert told == []
    assert [(probe.way, probe.place) for probe in found.policy.probes] == [(Way.KPROBE, function)]
    sensor = found.sensors["lsmhooks[0].selectors[0]"]
    assert (sensor.form, sensor.function) == ("process_lsm", name)
    assert decided(found, sensor__number0=5) == Action.OBSERVE
    assert decided(found, sensor__number0=6) == Action.NONE


OVERRIDE = {"matchActions": [{"action": "Override", "argError": -13}]}


@pytest.mark.parametrize(
    ("section", "form"),
    [("kprobes", {"call": "security_prepare_creds", "syscall": False}), ("lsmhooks", {"hook": "cred_prepare"})],
)
def test_a_sensor_on_a_hook_of_the_lsm_can_refuse(section: str, form: dict[str, Any]) -> None:
    one = {**form, "args": [{"index": 2, "type": "uint16"}], "selectors": [{**on(2, "Equal", "5"), **OVERRIDE}, on(2, "Equal", "6")]}
    found, told = lowered(**{section: [one]})
    assert told == []
    [probe] = found.policy.probes
    assert (probe.way, probe.place) == (Way.LSM, "cred_prepare")
    assert decided(found, sensor__number0=5) == Action.DENY
    assert [rule.errno for rule in found.policy.rules] == [13, 1]
    assert decided(found, sensor__number0=6) == Action.OBSERVE
    assert decided(found, sensor__number0=7) == Action.NONE
    compile_policies(PolicySet((found.policy,)))
    observed, told = lowered(**{section: [one]}, options=[{"name": "policy-mode", "value": "monitor"}])
    assert ([probe.way for probe in observed.policy.probes], told) == ([Way.KPROBE], [])


def test_what_is_refused_does_not_wait_for_the_return() -> None:
    waits = {"return": True, "returnArg": {"index": 0, "type": "int"}}
    found, told = lowered(kprobes=[kprobe({**on(0, "Equal", "2"), **OVERRIDE}, call="security_kernel_load_data", args=INT, **waits)])
    assert (told, [probe.way for probe in found.policy.probes]) == ([], [Way.LSM])
    assert found.sensors["kprobes[0].selectors[0]"].returns
    late = {"matchReturnArgs": [{"index": 0, "operator": "Equal", "values": ["0"]}], **OVERRIDE}
    _, told = lowered(kprobes=[kprobe(late, call="security_kernel_load_data", args=INT, **waits)])
    assert [one.message for one in told] == ["what has returned cannot be overridden"]


def test_what_is_no_hook_of_the_lsm_cannot_refuse() -> None:
    _, told = lowered(kprobes=[hook({**on(0, "Equal", "1"), **OVERRIDE})])
    assert [(one.code, "only what asks the LSMs" in one.message) for one in told] == [("not-supported", True)]
    native, told = lowered(lsmhooks=[{"hook": "file_open", "args": [{"index": 0}], "selectors": [OVERRIDE]}])
    assert (told, native.policy.probes) == ([], ())


PAIR = [{"index": 1, "type": "sock"}, {"index": 2, "type": "skb"}]


@pytest.mark.parametrize(("tested", "reads"), [((), ("sock", "structure")), ((1,), ("sock", "structure")), ((2,), ("structure", "sock"))])
def test_of_a_socket_and_a_packet_the_one_that_is_tested_has_fields(tested: tuple[int, ...], reads: tuple[str, str]) -> None:
    tests = {"matchArgs": [{"index": index, "operator": "DPort", "values": ["80"]} for index in tested]}
    found, told = lowered(kprobes=[{"call": "ip_output", "syscall": False, "args": PAIR, "selectors": [tests]}])
    assert told == []
    [sensor] = found.sensors.values()
    assert tuple(shown.reads.value for shown in sensor.arguments) == reads


def test_a_socket_and_a_packet_are_not_both_tested() -> None:
    tests = {"matchArgs": [{"index": index, "operator": "DPort", "values": ["80"]} for index in (1, 2)]}
    _, told = lowered(kprobes=[{"call": "ip_output", "syscall": False, "args": PAIR, "selectors": [tests]}])
    assert [(one.code, "can be shown, and not tested" in one.message) for one in told] == [("not-supported", True)]


def test_states_of_sockets() -> None:
    tests = {"matchArgs": [{"index": 0, "operator": "State", "values": ["TCP_SYN_RECV", "10"]}]}
    found, told = lowered(kprobes=[hook(tests, types=("sock",))])
    assert told == []
    for state in range(1, 13):
        assert (decided(found, net__state=state) is Action.OBSERVE) == (state in (3, 10))
    assert decided(found) is Action.NONE


def test_a_returned_socket_is_shown_and_not_tested() -> None:
    returns = {**RETURNS, "returnArg": {"index": 0, "type": "sock"}}
    found, told = lowered(kprobes=[hook(**returns)])
    assert told == []
    [sensor] = found.sensors.values()
    assert sensor.result is not None
    assert (sensor.result.reads.value, sensor.result.type) == ("structure", "sock")
    _, told = lowered(kprobes=[hook({"matchReturnArgs": [{"index": 0, "operator": "Family", "values": ["AF_INET"]}]}, **returns)])
    assert [one.code for one in told] == ["not-supported"]


def tabled(*lists: dict[str, Any]) -> Lowered:
    tests = {"matchArgs": [{"index": 4, "operator": "InMap", "values": [f"list:{one['name']}" for one in lists]}]}
    enters = {"subsystem": "raw_syscalls", "event": "sys_enter", "args": [{"index": 4, "type": "syscall64"}], "selectors": [tests]}
    found, told = lowered(tracepoints=[enters], lists=list(lists))
    assert told == []
    return found


def test_system_calls_of_both_tables_in_lists() -> None:
    found = tabled({"name": "d", "type": "syscalls", "values": ["sys_dup", "__x64_sys_dup2", "__ia32_sys_dup", "i386/sys_getpid"]})
    [rule] = found.policy.rules
    compat = 0x80000000
    for number, passes in (
        (32, True),
        (33, True),
        (41 | compat, True),
        (20 | compat, True),
        (41, False),
        (32 | compat, False),
        (20, False),
    ):
        event = {"sensor.number": found.policy.probes[0].number, "sensor.number0": number}
        assert holds(rule.condition, event) is passes, number


def test_a_list_of_all_system_calls() -> None:
    every = {"name": "all", "type": "generated_syscalls"}
    [rule] = (found := tabled(every)).policy.rules
    for number, passes in ((0, True), (59, True), (999_999, False), (0x80000001, False)):
        assert holds(rule.condition, {"sensor.number": found.policy.probes[0].number, "sensor.number0": number}) is passes
    found, told = lowered(kprobes=[{"call": "list:all"}], lists=[every])
    places = {probe.place: (probe.call, probe.optional) for probe in found.policy.probes}
    assert (told, len(places) > 300, places["sys_linkat"]) == ([], True, (True, True))


def test_signals() -> None:
    def sends(signal: int, *more: str) -> dict[str, Any]:
        return {"matchActions": [{"action": "Signal", "argSig": signal}, *({"action": action} for action in more)]}

    hooks = [hook({**on(0, "Equal", str(n)), **actions}) for n, actions in enumerate((sends(15), sends(9), sends(10, "Sigkill")))]
    found, told = lowered(kprobes=hooks)
    assert (told, found.mode.value) == ([], "enforce")
    assert [(rule.action, rule.signal) for rule in found.policy.rules] == [(Action.AUDIT, 15), (Action.KILL, 0), (Action.KILL, 10)]
    assert [sensor.action for sensor in found.sensors.values()] == [
        "KPROBE_ACTION_SIGNAL", "KPROBE_ACTION_SIGNAL", "KPROBE_ACTION_SIGKILL",
    ]  # fmt: skip
    watched, _ = lowered(kprobes=hooks, options=[{"name": "policy-mode", "value": "monitor"}])
    assert [(rule.action, rule.signal) for rule in watched.policy.rules] == [(Action.OBSERVE, 0)] * 3


DUPS = {
    "lists": [{"name": "dups", "type": "syscalls", "values": ["sys_dup", "__ia32_sys_dup"]}],
    "enforcers": [{"calls": ["list:dups", "sys_dup3"]}],
}


def notifies(**more: Any) -> dict[str, Any]:
    return {"matchActions": [{"action": "NotifyEnforcer", **more}]}


def entry(*selectors: dict[str, Any], **more: Any) -> dict[str, Any]:
    tracepoint = {
        "subsystem": "raw_syscalls",
        "event": "sys_enter",
        "args": [{"index": 4, "type": "syscall64"}],
        "selectors": list(selectors),
    }
    return {"tracepoints": [tracepoint], **DUPS, **more}


def test_an_enforcer_kills_at_the_calls_that_it_names() -> None:
    found, told = lowered(**entry(notifies(argSig=9)))
    assert told == []
    assert [decided(found, sensor__number0=number) for number in (32, 292, 41 | 1 << 31, 33, 41)] == [
        Action.KILL, Action.KILL, Action.KILL, Action.NONE, Action.NONE,
    ]  # fmt: skip
    assert [sensor.action for sensor in found.sensors.values()] == ["KPROBE_ACTION_NOTIFYENFORCER"]
    found, told = lowered(**entry(notifies(argSig=15), {}))
    assert [(rule.action, rule.signal) for rule in found.policy.rules] == [(Action.AUDIT, 15), (Action.OBSERVE, 0)]
    assert [decided(found, sensor__number0=number) for number in (32, 33)] == [Action.AUDIT, Action.OBSERVE]
    named = {"kprobes": [hook(notifies(argSig=9), call=call, syscall=True) for call in ("sys_dup3", "sys_dup2")], **DUPS}
    found, told = lowered(**named)
    assert [rule.condition == FALSE for rule in found.policy.rules] == [False, True]


@pytest.mark.parametrize(
    ("spec", "codes"),
    [
        (entry(notifies(argSig=9, argError=-1)), ["not-told"]),
        (entry(notifies(argError=-1)), ["not-supported"]),
        (entry(notifies()), ["not-supported"]),
        (entry(notifies(argSig=9, argIndex=1)), ["not-supported"]),
        (entry({"matchActions": [{"action": "Signal", "argSig": 10}, {"action": "NotifyEnforcer", "argSig": 15}]}), ["not-supported"]),
        (entry({"matchActions": [{"action": "Signal", "argSig": 15}, {"action": "NotifyEnforcer", "argSig": 15}]}), []),
        (entry({"matchActions": [{"action": "CleanupEnforcerNotification"}]}), ["useless"]),
        ({"kprobes": [hook(notifies(argSig=9))], **DUPS}, ["not-supported"]),
    ],
)
def test_what_enforcers_do_less_than_is_asked(spec: dict[str, Any], codes: list[str]) -> None:
    assert [one.code for one in lowered(**spec)[1]] == codes


def test_a_system_call_is_refused_at_the_hook_that_it_asks() -> None:
    link = kprobe({**on(1, "Equal", "/etc/passwd"), **OVERRIDE}, call="sys_linkat", args=[{"index": 1, "type": "string"}], syscall=True)
    found, told = lowered(kprobes=[link])
    [probe] = found.policy.probes
    assert (told, probe.way, probe.place, probe.call) == ([], Way.LSM, "sys_linkat", True)
    assert decided(found, sensor__text0="/etc/passwd") == Action.DENY
    assert decided(found, sensor__text0="/etc/passwd-") == Action.NONE
    _, told = lowered(kprobes=[kprobe(OVERRIDE, call="sys_dup", args=[], syscall=True)])
    assert ["only what asks the LSMs" in one.message for one in told] == [True]
