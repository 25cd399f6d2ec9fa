# SPDX-License-Identifier: Apache-2.0
"""Hooks on programs and libraries: what their sensors read, what rules about them decide, what events say, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from bpfence.compiler.compile import compile_policies
from bpfence.conditions.sensors import IN_PROGRAMS, IN_STATIC_PROBES
from bpfence.dialects.tetragon.lower.hooks import Reads
from bpfence.dialects.tetragon.lower.policies import Lowered
from bpfence.evaluate import verdict
from bpfence.policy import Action, PolicySet, Probe, ProbeArgument, Read, Target, Way
from tests.unit.dialects.tetragon.lower.test_sensors import lowered
from tests.unit.dialects.tetragon.texts import on

SIGKILL = [{"action": "Sigkill"}]


def uprobe(*selectors: dict[str, Any], types: tuple[str, ...] = ("int",), **more: Any) -> dict[str, Any]:
    args = [{"index": index, "type": type_} for index, type_ in enumerate(types)]
    place = {} if more.keys() & {"offsets", "addrs"} else {"symbols": ["main"]}
    return {"path": "/bin/x", **place, "args": args, "selectors": list(selectors), **more}


def usdt(*selectors: dict[str, Any], types: tuple[str, ...] = ("int",), **more: Any) -> dict[str, Any]:
    args = [{"index": index, "type": type_} for index, type_ in enumerate(types)]
    return {"path": "/bin/x", "provider": "p", "name": "n", "args": args, "selectors": list(selectors), **more}


def decided(found: Lowered, way: Way = Way.UPROBE, **fields: Any) -> Action:
    probe = next(one for one in found.policy.probes if one.way is way)
    values = {name.replace("__", "."): value for name, value in fields.items()}
    event = {"event": way.value, "sensor.number": probe.number, "process.exe": "/bin/x", **values}
    return verdict(PolicySet((found.policy,)), event).action


def test_what_a_sensor_reads_of_a_function() -> None:
    found, told = lowered(uprobes=[uprobe(types=("int", "string", "fd", "sockaddr", "uint64"), message="a thing", tags=["a.b"])])
    assert told == []
    (probe,) = found.policy.probes
    assert probe.identity == Probe(
        Way.UPROBE,
        "/bin/x:main",
        (
            ProbeArgument(0, Read.NUMBER, 4, signed=True), ProbeArgument(1, Read.TEXT, 4), ProbeArgument(2, Read.FD, 4),
            ProbeArgument(3, Read.SOCKADDR, 4), ProbeArgument(4, Read.NUMBER, 8),
        ),
        target=Target("/bin/x", "main"),
    )  # fmt: skip
    assert probe.location.line > 1
    sensor = found.sensors["uprobes[0]"]
    assert (sensor.form, sensor.function, sensor.message, sensor.tags) == ("process_uprobe", "/bin/x:main", "a thing", ("a.b",))
    assert [(shown.reads, shown.field) for shown in sensor.arguments] == [
        (Reads.INTEGER, "sensor.number0"), (Reads.TEXT, "sensor.text1"), (Reads.FILE, "file.path"), (Reads.ADDRESS, ""),
        (Reads.INTEGER, "sensor.number4"),
    ]  # fmt: skip
    compile_policies(PolicySet((found.policy,)))


def test_each_place_is_a_sensor_and_has_its_rules() -> None:
    found, told = lowered(uprobes=[uprobe(symbols=["a", "b"]), uprobe(offsets=[16]), uprobe(addrs=[32, 48], refCtrOffsets=[1, 2])])
    assert told == []
    assert [probe.target for probe in found.policy.probes] == [
        Target("/bin/x", "a"), Target("/bin/x", "b"), Target("/bin/x", offset=16), Target("/bin/x", address=32, counter=1),
        Target("/bin/x", address=48, counter=2),
    ]  # fmt: skip
    assert {rule: dict(sensor.members) for rule, sensor in found.sensors.items()} == {
        "uprobes[0].a": {"path": "/bin/x", "symbol": "a"},
        "uprobes[0].b": {"path": "/bin/x", "symbol": "b"},
        "uprobes[1]": {"path": "/bin/x", "offset": "16"},
        "uprobes[2].0x20": {"path": "/bin/x", "ref_ctr_offset": "1"},
        "uprobes[2].0x30": {"path": "/bin/x", "ref_ctr_offset": "2"},
    }


def test_selectors_decide() -> None:
    found, _ = lowered(uprobes=[uprobe({**on(0, "GT", "5"), "matchActions": SIGKILL}, on(1, "Prefix", "a"), types=("int", "string"))])
    assert decided(found, sensor__number0=6, sensor__text1="a") is Action.KILL
    assert decided(found, sensor__number0=5, sensor__text1="ab") is Action.OBSERVE
    assert decided(found, sensor__number0=5, sensor__text1="b") is Action.NONE


def test_a_return_is_a_sensor_of_its_own() -> None:
    hook = uprobe(
        {**on(0, "Equal", "1"), "matchReturnArgs": on(0, "Equal", "-1")["matchArgs"]},
        {"matchActions": SIGKILL},
        **{"return": True, "returnArg": {"index": 0, "type": "sint64"}},
    )
    found, told = lowered(uprobes=[hook])
    assert told == []
    assert [probe.way for probe in found.policy.probes] == [Way.URETPROBE, Way.UPROBE]
    assert found.policy.probes[0].result == ProbeArgument(0, Read.NUMBER, 8, signed=True)
    result = found.sensors["uprobes[0].selectors[0]"].result
    assert result is not None
    assert result.type == "sint64"
    assert decided(found, Way.URETPROBE, sensor__number0=1, sensor__result=(1 << 64) - 1) is Action.OBSERVE
    assert decided(found, Way.URETPROBE, sensor__number0=1, sensor__result=0) is Action.NONE
    assert decided(found, Way.UPROBE, sensor__number0=2) is Action.KILL


def test_a_static_probe() -> None:
    found, told = lowered(usdts=[usdt(on(0, "Equal", "-1"), types=("int", "string"))])
    assert told == []
    (probe,) = found.policy.probes
    assert (probe.way, probe.target) == (Way.USDT, Target("/bin/x", "n", provider="p"))
    sensor = found.sensors["usdts[0].selectors[0]"]
    assert (sensor.form, dict(sensor.members)) == ("process_usdt", {"path": "/bin/x", "provider": "p", "name": "n"})
    assert decided(found, Way.USDT, sensor__number0=(1 << 64) - 1) is Action.OBSERVE


def test_bytes_of_as_many_as_an_argument_says() -> None:
    args = [{"index": 0, "type": "char_buf", "sizeArgIndex": 3}]
    found, told = lowered(uprobes=[uprobe(args=args)], usdts=[usdt(args=args)])
    assert told == []
    assert [probe.arguments for probe in found.policy.probes] == [(ProbeArgument(0, Read.BYTES, 4, length=2),)] * 2


@pytest.mark.parametrize("type_", sorted(IN_PROGRAMS))
def test_every_type_of_a_function_is_read(type_: str) -> None:
    assert lowered(uprobes=[uprobe(args=[{"index": 0, "type": type_, **({"sizeArgIndex": 2} if type_ == "char_buf" else {})}])])[1] == []


@pytest.mark.parametrize("type_", ["fd", "sockaddr"])
def test_what_may_not_be_in_a_register_is_not_read_of_a_static_probe(type_: str) -> None:
    assert type_ not in IN_STATIC_PROBES
    (found,) = lowered(usdts=[usdt(types=(type_,))])[1]
    assert (found.code, "not read of a static probe" in found.message) == ("not-supported", True)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"uprobes": [uprobe(path="bin/x")]}, "no path from the root"),
        ({"uprobes": [uprobe(types=("file",))]}, "type file is not read of a function of a program"),
        ({"uprobes": [uprobe(args=[{"index": 6, "type": "int"}])]}, "argument 6 is not in a register"),
        ({"uprobes": [uprobe(args=[{"index": 0, "type": "int"}, {"index": 0, "type": "uint64"}])]}, "read twice"),
        ({"uprobes": [uprobe(types=("auto",))]}, "has no type"),
        ({"uprobes": [uprobe(types=("char_buf",))]}, "does not say how many bytes"),
        ({"uprobes": [uprobe(types=("fd", "fd", "fd"))]}, "more than 2 files"),
        ({"uprobes": [uprobe(types=("sockaddr", "sockaddr"))]}, "more than one address"),
        ({"uprobes": [uprobe(args=[{"index": 0, "type": "int", "resolve": "a.b"}])]}, "cannot be read yet in this way"),
        ({"uprobes": [uprobe(data=[{"index": 0, "type": "uint64", "source": "pt_regs", "resolve": "rax"}])]}, "data is read"),
        ({"uprobes": [uprobe(binaryDigests=[{"algorithm": "sha1", "digest": "0"}])]}, "binaryDigests is read"),
        ({"uprobes": [uprobe(**{"return": True, "returnArg": {"index": 0, "type": "string"}})]}, "not read as string yet"),
        ({"uprobes": [uprobe({"matchActions": [{"action": "Override", "argError": -1}]})]}, "cannot be overridden"),
        ({"usdts": [usdt({"matchActions": [{"action": "Set", "argIndex": 0, "argValue": 1}]})]}, "action Set"),
    ],
)
def test_what_cannot_be_put_in_force_is_refused_where_it_stands(spec: dict[str, Any], told: str) -> None:
    found = lowered(**spec)[1]
    assert [(one.code, told in one.message) for one in found] == [("not-supported", True)]
    assert all(one.location.line > 1 for one in found)


def test_types_that_nothing_is_read_by_are_told() -> None:
    found = lowered(usdts=[usdt(btfPath="/sys/kernel/btf/vmlinux")])[1]
    assert [(one.code, one.severity) for one in found] == [("useless", "warning")]
