"""Sensors under `on`: what they become, and what is wrong with others, with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfence.compiler.compile import compile_policies
from bpfence.dialects.native.read import load_files, load_text
from bpfence.evaluate import holds
from bpfence.policy import Action, Probe, ProbeArgument, Read, Rule, Target, Way

HEAD = "apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: p}\nspec:\n  rules:\n"
EXAMPLE = Path(__file__).parents[4] / "examples" / "sensors" / "watch.yaml"
NOTHING = [ProbeArgument(n, Read.NOTHING, 4) for n in range(2)]
LIBC = "/usr/lib/libc.so.6"


def read(on: str, more: str = "") -> tuple[Probe, Rule]:
    policies, diagnostics = load_text(f"{HEAD}    - {{name: r, on: {{{on}}}{more}}}\n")
    assert not diagnostics
    (policy,) = policies.policies
    (probe,) = policy.probes
    return probe, policy.rules[0]


def bare(probe: Probe) -> Probe:
    return probe.identity


@pytest.mark.parametrize(
    ("on", "probe"),
    [
        (
            "kprobe: do_truncate, args: [nop, nop, sint64]",
            Probe(Way.KPROBE, "do_truncate", (*NOTHING, ProbeArgument(2, Read.NUMBER, 8, True))),
        ),
        (
            "kprobe: sys_linkat, args: [{index: 3, type: string}]",
            Probe(Way.KPROBE, "sys_linkat", (ProbeArgument(3, Read.TEXT, 4),), call=True),
        ),
        ("lsm: userns_create", Probe(Way.KPROBE, "security_create_user_ns")),
        (
            "kprobe: sys_read, args: [{index: 1, type: char_buf, length: 2, at: return}], return: sint64",
            Probe(
                Way.KRETPROBE,
                "sys_read",
                (ProbeArgument(1, Read.BYTES, 4, False, 2, True),),
                call=True,
                result=ProbeArgument(0, Read.NUMBER, 8, True),
            ),
        ),
        (
            "tracepoint: sched/sched_process_exec, args: [{index: 4, type: string}]",
            Probe(Way.TRACEPOINT, "sched/sched_process_exec", (ProbeArgument(4, Read.TEXT, 4),)),
        ),
        (f"uprobe: {LIBC}, symbol: setenv", Probe(Way.UPROBE, f"{LIBC}:setenv", target=Target(LIBC, "setenv"))),
        (f"uprobe: {LIBC}, offset: 0x10, counter: 32", Probe(Way.UPROBE, f"{LIBC}:0x10", target=Target(LIBC, offset=16, counter=32))),
        (
            f"uprobe: {LIBC}, address: 16, return: int",
            Probe(Way.URETPROBE, f"{LIBC}:@0x10", target=Target(LIBC, address=16), result=ProbeArgument(0, Read.NUMBER, 4, True)),
        ),
        (
            f"usdt: {LIBC}, provider: libc, name: setjmp, args: [{{index: 1, type: int}}]",
            Probe(
                Way.USDT, f"{LIBC}:libc:setjmp", (ProbeArgument(1, Read.NUMBER, 4, True),), target=Target(LIBC, "setjmp", provider="libc")
            ),
        ),
    ],
)
def test_what_a_sensor_becomes(on: str, probe: Probe) -> None:
    found, rule = read(on)
    assert bare(found) == probe
    assert rule.events == (probe.way.value,)
    assert found.location.line == 6


def test_a_rule_is_about_its_own_sensor_alone() -> None:
    probe, rule = read("kprobe: do_truncate, args: [nop, nop, sint64]", ", match: {sensor.number2: ['>=4096', -1]}, action: kill")
    event = {"event": "sensor.kprobe", "sensor.number": probe.number, "sensor.number2": 4096}
    assert rule.action is Action.KILL
    assert holds(rule.condition, event)
    assert holds(rule.condition, {**event, "sensor.number2": 2**64 - 1})
    assert not holds(rule.condition, {**event, "sensor.number2": 4095})
    assert not holds(rule.condition, {**event, "sensor.number": probe.number ^ 1})


def test_rules_on_one_place_have_one_sensor() -> None:
    policies, _ = load_text(f"{HEAD}    - {{name: a, on: {{kprobe: x}}}}\n    - {{name: b, on: {{kprobe: x}}}}\n")
    assert len(policies.policies[0].probes) == 1
    assert len(compile_policies(policies).probes) == 1


def test_the_example() -> None:
    policies, diagnostics = load_files([EXAMPLE])
    assert not diagnostics
    assert len(compile_policies(policies).probes) == 5


@pytest.mark.parametrize(
    ("on", "more", "code", "said", "hint"),
    [
        ("kprobe: x, args: [strin]", "", "bad-value", "cannot be 'strin'", "did you mean 'string'?"),
        ("kprob: x", "", "unknown-key", "unknown key 'kprob'", "did you mean 'kprobe'?"),
        ("", "", "missing-key", "without a place", "kprobe, lsm"),
        ("kprobe: x, lsm: y", "", "bad-value", "two sensors", "rule of each"),
        ("kprobe: x, symbol: y", "", "unknown-key", "has no symbol", "args, return"),
        ("kprobe: 1x", "", "bad-value", "no name of a function", "do_truncate"),
        ("lsm: security_file_open", "", "bad-value", "function of an LSM hook", "lsm: file_open"),
        ("tracepoint: 'sched:exec'", "", "bad-value", "no name of a tracepoint", "write sched/exec"),
        ("tracepoint: a/b, args: [int]", "", "bad-value", "needs its index", "index: 4"),
        ("tracepoint: a/b, args: [{type: int}]", "", "missing-key", "needs its index", "index:"),
        ("uprobe: x, symbol: y", "", "bad-value", "no path from the root", "whole path"),
        ("uprobe: /x", "", "missing-key", "none of symbol", "exactly one"),
        ("uprobe: /x, symbol: y, offset: 1", "", "bad-value", "together", "exactly one"),
        ("uprobe: /x, offset: y", "", "bad-number", "offset is a number", ""),
        ("usdt: /x, provider: y", "", "missing-key", "needs name", "readelf"),
        ("kprobe: x, args: int", "", "wrong-type", "args must be a list", "[int, string]"),
        ("kprobe: x, args: [int, int, int, int, int, int]", "", "bad-value", "at most 5", "leave some out"),
        ("kprobe: x, args: [{index: 6, type: int}]", "", "bad-number", "0 to 5, not '6'", ""),
        ("kprobe: x, args: [char_buf]", "", "missing-key", "how many bytes", "length:"),
        ("kprobe: x, args: [{type: int, at: call}]", "", "useless", "only char_buf has at", "leave them out"),
        ("kprobe: x, args: [{type: char_buf, length: 1, at: return}]", "", "bad-value", "nobody waits", "return: sint64"),
        ("kprobe: x, args: [int, {index: 0, type: string}]", "", "bad-value", "read twice", "once"),
        ("kprobe: x, args: [file, path, fd]", "", "bad-value", "more than 2 files", "another rule"),
        ("kprobe: x, args: [sock, skb]", "", "bad-value", "more than one socket", "another rule"),
        ("kprobe: x, return: string", "", "bad-value", "return cannot be 'string'", "int"),
        ("kprobe: x", ", action: deny", "not-deniable", "comes after the decision", "kill"),
        ("kprobe: x", ", action: allow", "not-deniable", "comes after the decision", "kill"),
        ("kprobe: x", ", match: {file.path: /x}", "field-not-on-event", "does not read file.path", "under args"),
        ("kprobe: x, args: [int]", ", condition: sensor.text0 = a", "field-not-on-event", "does not read sensor.text0", "sensor.number0"),
        ("kprobe: x, args: [int]", ", message: '{sensor.result}'", "field-not-on-event", "does not read sensor.result", "sensor.number0"),
        ("kprobe: x, args: [file]", ", match: {file.path: /x}, follow: object", "not-supported", "by name alone", "leave follow out"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(on: str, more: str, code: str, said: str, hint: str) -> None:
    policies, diagnostics = load_text(f"{HEAD}    - {{name: r, on: {{{on}}}{more}}}\n")
    errors = [found for found in diagnostics if found.severity == "error"]
    assert not policies.policies
    assert any(found.code == code and said in found.message and hint in found.hint for found in errors), errors
    assert all(found.location.line == 6 and found.location.column > 1 for found in errors)
