# SPDX-License-Identifier: Apache-2.0
"""What the loader refuses: what does not go together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.dialects.tetragon.read.checks import integer, number_range, selectors_of
from tests.unit.dialects.tetragon.texts import FILE, codes, kprobe, on, read

SOCK = {"index": 0, "type": "sock"}
RETURN = {"return": True, "returnArg": {"index": 0, "type": "int"}}
UPROBE = {"path": "/bin/x", "symbols": ["main"]}


def action(name: str, **more: Any) -> dict[str, Any]:
    return {"matchActions": [{"action": name, **more}]}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, ["no-rules"]),
        ({"loader": True}, []),
        ({"kprobes": [kprobe(on(2, "Equal", "1"))]}, ["unknown-name"]),
        ({"kprobes": [kprobe({"matchArgs": [{"args": [5], "operator": "Equal", "values": ["1"]}]})]}, ["unknown-name"]),
        ({"kprobes": [kprobe({"matchArgs": [{"args": [1], "operator": "Equal", "values": ["1"]}]})]}, []),
        ({"kprobes": [kprobe(on(1, "Prefix", "x"))]}, ["bad-operator"]),
        ({"kprobes": [kprobe(on(0, "Mask", "1"))]}, ["bad-operator"]),
        ({"kprobes": [kprobe(on(1, "Equal", "one"))]}, ["bad-value"]),
        ({"kprobes": [kprobe(on(1, "Equal", "4294967296"))]}, ["bad-value"]),
        ({"kprobes": [kprobe(on(1, "Equal", "-1"))]}, []),
        ({"kprobes": [kprobe(on(1, "Equal", *"12345"))]}, ["too-many"]),
        ({"kprobes": [kprobe(on(1, "InMap", *"12345"))]}, []),
        ({"kprobes": [kprobe(on(1, "InMap", "list:x"))]}, ["unknown-name"]),
        ({"kprobes": [kprobe(on(1, "InRange", "5:1"))]}, ["bad-value"]),
        ({"kprobes": [kprobe(on(0, "Equal"))]}, ["missing-key"]),
        ({"kprobes": [kprobe(on(0, "Postfix", "x" * 128))]}, ["bad-value"]),
        ({"kprobes": [kprobe(on(0, "FileType", "regular"))]}, []),
        ({"kprobes": [kprobe(on(0, "FileType", "file"))]}, ["bad-value"]),
        ({"kprobes": [kprobe(on(0, "DAddr", "10.0.0.0/8"), args=[SOCK])]}, []),
        ({"kprobes": [kprobe(on(0, "DAddr", "10.0.0.0/40"), args=[SOCK])]}, ["bad-value"]),
        ({"kprobes": [kprobe(on(0, "DPort", "70000"), args=[SOCK])]}, ["bad-value"]),
        ({"kprobes": [kprobe(on(0, "State", "TCP_SYN"), args=[SOCK])]}, ["bad-value"]),
        ({"kprobes": [kprobe(on(0, "Protocol", "IPPROTO_TCP"), args=[SOCK])]}, []),
        ({"kprobes": [kprobe(args=[{"index": 0, "type": "auto"}])]}, ["bad-value"]),
        ({"kprobes": [kprobe(args=[{"index": 5, "type": "int"}])]}, ["bad-number"]),
        ({"kprobes": [kprobe(args=[{"index": 0, "type": "int", "resolve": "a..b"}])]}, ["bad-value"]),
        ({"kprobes": [kprobe(args=[{"index": 0, "type": "int", "resolve": "a.b[2].c"}])]}, []),
        ({"kprobes": [kprobe(args=[FILE] * 3, data=[FILE] * 3)]}, ["too-many"]),
        ({"kprobes": [kprobe(**{"return": True})]}, ["missing-key"]),
        ({"kprobes": [kprobe(returnArg={"index": 0, "type": "int"})]}, ["useless"]),
        ({"kprobes": [kprobe({"matchReturnArgs": [{"index": 0, "operator": "Equal", "values": ["0"]}]}, **RETURN)]}, []),
        ({"kprobes": [kprobe({"matchReturnArgs": [{"index": 0, "operator": "Equal", "values": ["0"]}]})]}, ["no-return"]),
        ({"kprobes": [kprobe({"matchBinaries": [{"operator": "Prefix", "values": ["/a"], "followChildren": True}]})]}, ["bad-operator"]),
        ({"kprobes": [kprobe({"matchBinaries": [{"operator": "In", "values": ["/" * 256]}]})]}, ["bad-value"]),
        ({"kprobes": [kprobe({"matchCapabilities": [{"operator": "In", "values": ["CAP_ADMIN"]}]})]}, ["bad-value"]),
        ({"kprobes": [kprobe({"matchNamespaces": [{"namespace": "Pid", "operator": "In", "values": ["host"]}]})]}, ["bad-value"]),
        ({"kprobes": [kprobe(action("Signal"))]}, ["missing-key"]),
        ({"kprobes": [kprobe(action("GetUrl"))]}, ["missing-key"]),
        ({"kprobes": [kprobe(action("Override", argError=-5000))]}, ["bad-number"]),
        ({"kprobes": [kprobe(action("Override", argError=1))]}, ["error-sign"]),
        ({"kprobes": [kprobe(action("NotifyEnforcer"))]}, ["missing-key"]),
        ({"kprobes": [kprobe(action("FollowFD", argFd=0, argName=1))]}, ["useless"]),
        ({"kprobes": [kprobe(action("Set"))]}, ["bad-value"]),
        ({"kprobes": [kprobe(action("Post", rateLimit="1d"))]}, ["bad-value"]),
        ({"kprobes": [kprobe(action("TrackSock", argSock=3))]}, ["unknown-name"]),
        ({"lsmhooks": [{"hook": "file_open", "selectors": [action("GetUrl", argUrl="x")]}]}, ["bad-value"]),
        ({"lsmhooks": [{"hook": "file_open", "selectors": [action("Post", imaHash=True)]}]}, []),
        ({"uprobes": [UPROBE]}, []),
        ({"uprobes": [{**UPROBE, "offsets": [1]}]}, ["bad-value"]),
        ({"uprobes": [{"path": "/bin/x"}]}, ["missing-key"]),
        ({"tracepoints": [{"subsystem": "s", "event": "e", "args": [{"index": 4, "type": "int"}], "selectors": [on(0, "GT", "1")]}]}, []),
        ({"tracepoints": [{"subsystem": "ext4", "event": "9p_x_", "args": []}]}, []),
        ({"tracepoints": [{"subsystem": "a/b", "event": "x y", "args": []}]}, ["bad-value", "bad-value"]),
        ({"tracepoints": [{"subsystem": "..", "event": "é", "args": []}]}, ["bad-value", "bad-value"]),
        ({"lists": [{"name": "a", "values": ["1"]}, {"name": "a", "values": ["1"]}], "kprobes": [kprobe()]}, ["duplicate-key"]),
        ({"lists": [{"name": "a", "type": "generated_ftrace"}], "kprobes": [kprobe()]}, ["missing-key"]),
        ({"enforcers": [{"calls": ["list:b"]}], "kprobes": [kprobe()]}, ["unknown-name"]),
        ({"options": [{"name": "policy-mode", "value": "audit"}], "kprobes": [kprobe()]}, ["bad-value"]),
        ({"kprobes": [kprobe({"macros": ["m"]})]}, ["unknown-name"]),
        ({"kprobes": [kprobe({"macros": ["m"], **on(1, "Equal", "1")})], "selectorsMacros": {"m": on(1, "Equal", "1")}}, ["duplicate-key"]),
    ],
)
def test_checks(spec: dict[str, Any], expected: list[str]) -> None:
    assert codes(**spec) == expected


def test_macros_are_put_in() -> None:
    policy, found = read(
        kprobes=[kprobe({"macros": ["m"], **on(0, "Prefix", "/a")})],
        selectorsMacros={"m": {"matchPIDs": [{"operator": "In", "values": [7]}]}},
    )
    assert found == []
    (selector,) = selectors_of(policy.spec.kprobes[0], policy.spec)
    assert (selector.match_pids[0].values, selector.match_args[0].values, selector.macros) == ((7,), ("/a",), ())


@given(st.integers(-(2**64), 2**64))
def test_integers_in_every_base(number: int) -> None:
    sign, size = ("-" if number < 0 else ""), abs(number)
    written = [
        f"{sign}{size}",
        f"{sign}0x{size:x}",
        f"{sign}0{size:o}" if size else "0",
        f"{sign}0b{size:b}" if size < 2**30 else str(number),
    ]
    assert {integer(text) for text in written} == {number}
    assert number_range(f"{number}:{number + 1}") == (number, number + 1)


@given(st.text(max_size=50))
def test_no_text_makes_numbers_raise(text: str) -> None:
    assert integer(text) is None or text.strip("+-").isascii()
    number_range(text)
