# SPDX-License-Identifier: Apache-2.0
"""Sensors in processes, on real acts: functions and static probes of programs and libraries report with what they were given, and kill; the
nearest twin is left alone. The program: tests/kernel/probed/probed.c, position independent, static, and without symbols.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfence.kernel.elf import Elf
from tests.kernel.cases import PLAYGROUND, ROOT
from tests.kernel.harness import SENTINEL, Agent, Playground, go_out, make_files
from tests.kernel.test_tetragon import on, policy

BUILT = ROOT / ".build" / "probed"
WORK = PLAYGROUND / "uprobes"
PROGRAMS = {name: WORK / name for name in ("pie", "static", "stripped", "twin")}
LIBC = WORK / "libc.so.6"
"""A copy: what is shared with guests may have another inode at each look-up, which no sensor follows."""
PINS = "/sys/fs/bpf/bpfence-uprobes"
SIGKILL = [{"action": "Sigkill"}]
CALL = [
    {"index": 0, "type": "int"}, {"index": 1, "type": "string"},
    {"index": 2, "type": "char_buf", "sizeArgIndex": 4}, {"index": 3, "type": "uint32", "label": "length"},
]  # fmt: skip
VALUES = [
    {"index": 0, "type": "int"}, {"index": 1, "type": "string"}, {"index": 2, "type": "uint32"}, {"index": 3, "type": "int"},
    {"index": 4, "type": "uint8"},
]  # fmt: skip


def offset_of(program: Path, symbol: str) -> int:
    with program.open("rb") as file:
        elf = Elf(file.fileno())
        found = elf.offset_of(elf.functions(symbol)[0])
    assert found is not None
    return found


def libc() -> str:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return next(line.split()[-1] for line in lines if "/libc.so" in line)


def policies() -> list[dict[str, Any]]:
    returning = {"return": True, "returnArg": {"index": 0, "type": "sint64"}}
    return [
        policy(
            "calls", "uprobes",
            {
                "path": str(PROGRAMS["pie"]), "symbols": ["watched_call", "watched_deep"], "args": CALL[:1],
                "message": "called", "tags": ["own"],
                "selectors": [{"matchArgs": [on(0, "Equal", "5")]}],
            },
        ),
        policy(
            "texts", "uprobes",
            {
                "path": str(PROGRAMS["static"]), "symbols": ["watched_call"], "args": CALL,
                "selectors": [
                    {"matchArgs": [on(1, "Prefix", "deadly")], "matchActions": SIGKILL},
                    {"matchArgs": [on(1, "Postfix", "-text"), on(0, "LT", "0")]},
                ],
            },
        ),
        policy(
            "offsets", "uprobes",
            {
                "path": str(PROGRAMS["stripped"]), "offsets": [offset_of(PROGRAMS["pie"], "watched_call")], "args": CALL[:2],
                "selectors": [{"matchArgs": [on(1, "Equal", "seen")]}],
            },
        ),
        policy(
            "returned", "uprobes",
            {
                "path": str(PROGRAMS["pie"]), "symbols": ["watched_call"], "args": CALL[:2], **returning,
                "selectors": [{"matchArgs": [on(1, "Prefix", "back")], "matchReturnArgs": [on(0, "Equal", "-93")]}],
            },
        ),
        policy(
            "depths", "uprobes",
            {
                "path": str(PROGRAMS["static"]), "symbols": ["watched_deep"], "args": CALL[:1], **returning,
                "selectors": [{"matchReturnArgs": [on(0, "LT", "4")]}],
            },
        ),
        policy(
            "library", "uprobes",
            {
                "path": str(LIBC), "symbols": ["setenv"], "args": [{"index": 0, "type": "string"}, {"index": 1, "type": "string"}],
                "selectors": [{
                    "matchArgs": [on(0, "Equal", "PROBED")], "matchBinaries": [{"operator": "In", "values": [str(PROGRAMS["stripped"])]}],
                }],
            },
        ),
        policy("lost", "uprobes", {"path": str(PROGRAMS["pie"]), "symbols": ["watched_cal"]}),
        policy("bare", "uprobes", {"path": str(PROGRAMS["stripped"]), "symbols": ["watched_call"]}),
        policy("gone", "uprobes", {"path": f"{WORK}/nothing", "symbols": ["main"]}),
        policy(
            "static-probe", "usdts",
            {
                "path": str(PROGRAMS["pie"]), "provider": "bpfence_test", "name": "watched", "args": VALUES, "message": "passed",
                "selectors": [
                    {"matchArgs": [on(1, "Equal", "fatal")], "matchActions": SIGKILL},
                    {"matchArgs": [on(2, "Equal", "77"), on(3, "Equal", "-2"), on(4, "Equal", "255"), on(1, "Prefix", "pro")]},
                ],
            },
        ),
        policy(
            "indexed", "usdts",
            {
                "path": str(PROGRAMS["stripped"]), "provider": "bpfence_test", "name": "watched", "args": [{"index": 5, "type": "int"}],
                "selectors": [{"matchArgs": [on(5, "Equal", "-4")]}],
            },
        ),
        policy(
            "guarded", "usdts",
            {"path": str(PROGRAMS["static"]), "provider": "bpfence_test", "name": "guarded", "args": VALUES[:1]},
        ),
        policy("no-such", "usdts", {"path": str(PROGRAMS["pie"]), "provider": "bpfence_test", "name": "watchd"}),
    ]  # fmt: skip


NATIVE: dict[str, Any] = {
    "apiVersion": "bpfence.io/v1alpha1", "kind": "SecurityPolicy", "metadata": {"name": "native"},
    "spec": {
        "scope": {"exe": str(PROGRAMS["pie"])},
        "rules": [
            {
                "name": "function", "match": {"sensor.text1": "native*", "sensor.number0": "6"},
                "on": {"uprobe": str(PROGRAMS["pie"]), "symbol": "watched_call", "args": ["int", "string"]},
            },
            {
                "name": "probe", "condition": "sensor.text1 = native and sensor.number0 = -2", "action": "observe",
                "message": "with {sensor.text1}",
                "on": {
                    "usdt": str(PROGRAMS["pie"]), "provider": "bpfence_test", "name": "watched",
                    "args": [{"index": 3, "type": "int"}, {"index": 1, "type": "string"}],
                },
            },
        ],
    },
}  # fmt: skip


def make_programs() -> None:
    go_out()
    make_files(SENTINEL)
    WORK.mkdir(parents=True, exist_ok=True)
    for name, place in PROGRAMS.items():
        shutil.copyfile(BUILT / ("pie" if name == "twin" else name), place)
        place.chmod(0o755)
    shutil.copyfile(libc(), LIBC)
    LIBC.chmod(0o755)


@pytest.fixture(scope="module")
def running(probed: dict[str, str], playground: Playground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent | None]:
    if probed["attach_cookie"] != "yes":
        yield None
        return
    make_programs()
    agent = Agent(tmp_path_factory.mktemp("uprobes"), "uprobes")
    agent.write_policy(SENTINEL.name, SENTINEL.policy())
    for document in (*policies(), NATIVE):
        agent.write_policy(document["metadata"]["name"], document)
    agent.start("--pin-dir", PINS)
    agent.settle()
    yield agent
    agent.stop()


@pytest.fixture
def watching(running: Agent | None, need: Callable[[list[str]], None]) -> Agent:
    need(["attach_cookie"])
    assert running is not None
    return running


def ran(agent: Agent, program: str, *words: str) -> tuple[int, list[dict[str, Any]]]:
    """How the program ended, and what was told of it."""
    env = {"LD_LIBRARY_PATH": str(WORK)}
    code = subprocess.run([PROGRAMS[program], *words], stdout=subprocess.DEVNULL, env=env, check=False).returncode
    return code, [line for line in agent.settle() if line["kind"] in ("alert", "event")]


def told(lines: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]], str]]:
    return [(line["policy"], line["dialect.tetragon.args"], line["action"]) for line in lines]


def test_a_function_of_a_program(watching: Agent) -> None:
    code, lines = ran(watching, "pie", "call", "5", "hello")
    assert (code, told(lines)) == (0, [("calls", [{"int_arg": 5}], "observe")])
    line = lines[0]
    assert (line["rule"], line["message"], line["tags"]) == ("uprobes[0].watched_call.selectors[0]", "called", ["own"])
    said = {key: line[f"dialect.tetragon.{key}"] for key in ("form", "path", "symbol", "policy_name", "tags")}
    assert said == {
        "form": "process_uprobe", "path": str(PROGRAMS["pie"]), "symbol": "watched_call", "policy_name": "calls", "tags": ["own"],
    }  # fmt: skip
    assert ran(watching, "pie", "call", "6", "hello") == (0, [])
    assert ran(watching, "twin", "call", "5", "hello") == (0, [])
    code, lines = ran(watching, "pie", "deep", "6")
    assert [line["dialect.tetragon.symbol"] for line in lines] == ["watched_deep"]


def test_texts_and_bytes_of_a_static_program(watching: Agent) -> None:
    code, lines = ran(watching, "static", "call", "-5", "some-text")
    args = [{"int_arg": -5}, {"string_arg": "some-text"}, {"bytes_arg": "c29tZS10ZXh0"}, {"uint_arg": 9, "label": "length"}]
    assert (code, told(lines)) == (0, [("texts", args, "observe")])
    assert ran(watching, "static", "call", "5", "some-text") == (0, [])
    code, lines = ran(watching, "static", "call", "5", "deadly")
    assert (code, [(name, action) for name, _, action in told(lines)]) == (-9, [("texts", "kill")])


def test_an_offset_of_a_program_without_symbols(watching: Agent) -> None:
    code, lines = ran(watching, "stripped", "call", "5", "seen")
    assert (code, told(lines)) == (0, [("offsets", [{"int_arg": 5}, {"string_arg": "seen"}], "observe")])
    assert lines[0]["dialect.tetragon.offset"] == str(offset_of(PROGRAMS["pie"], "watched_call"))
    assert ran(watching, "stripped", "call", "5", "sees") == (0, [])


def test_what_a_function_returns(watching: Agent) -> None:
    code, lines = ran(watching, "pie", "call", "7", "back-again")
    assert (code, told(lines)) == (0, [("returned", [{"int_arg": 7}, {"string_arg": "back-again"}], "observe")])
    assert lines[0]["dialect.tetragon.return.long_arg"] == "-93"
    assert ran(watching, "pie", "call", "8", "back-again") == (0, [])


def test_calls_within_calls(watching: Agent) -> None:
    code, lines = ran(watching, "static", "deep", "5")
    assert (code, [(line["dialect.tetragon.args"], line["dialect.tetragon.return.long_arg"]) for line in lines]) == (
        0,
        [([{"int_arg": 0}], "1"), ([{"int_arg": 1}], "2"), ([{"int_arg": 2}], "3")],
    )


def test_a_function_of_a_library(watching: Agent) -> None:
    code, lines = ran(watching, "stripped", "env", "watched")
    assert (code, told(lines)) == (0, [("library", [{"string_arg": "PROBED"}, {"string_arg": "watched"}], "observe")])
    assert ran(watching, "pie", "env", "watched") == (0, [])


@pytest.mark.parametrize(("number", "shown"), [(-3, -3), (3, 4)])
def test_a_static_probe_at_two_places(watching: Agent, number: int, shown: int) -> None:
    code, lines = ran(watching, "pie", "probe", str(number), "probe")
    args = [{"int_arg": shown}, {"string_arg": "probe"}, {"uint_arg": 77}, {"int_arg": -2}, {"uint_arg": 255}]
    assert (code, told(lines)) == (0, [("static-probe", args, "observe")])
    assert lines[0]["message"] == "passed"
    said = {key: lines[0][f"dialect.tetragon.{key}"] for key in ("form", "path", "provider", "name")}
    assert said == {"form": "process_usdt", "path": str(PROGRAMS["pie"]), "provider": "bpfence_test", "name": "watched"}
    assert ran(watching, "pie", "probe", str(number), "other") == (0, [])
    code, lines = ran(watching, "pie", "probe", str(number), "fatal")
    assert (code, [(name, action) for name, _, action in told(lines)]) == (-9, [("static-probe", "kill")])


def test_an_argument_that_is_found_by_an_index(watching: Agent) -> None:
    code, lines = ran(watching, "stripped", "probe", "-3", "x")
    assert (code, told(lines)) == (0, [("indexed", [{"int_arg": -4}], "observe")])
    assert ran(watching, "stripped", "probe", "3", "x") == (0, [])


def test_a_static_probe_that_counts_who_watches(watching: Agent) -> None:
    assert ran(watching, "static", "guard") == (1, [])
    assert ran(watching, "twin", "guard") == (0, [])
    code, lines = ran(watching, "static", "probe", "9", "x")
    assert (code, told(lines)) == (0, [("guarded", [{"int_arg": 9}], "observe")])


def test_native_rules(watching: Agent) -> None:
    def said(*words: str) -> list[tuple[str, str, str, str]]:
        code, lines = ran(watching, "pie", *words)
        assert code == 0
        return [(line["policy"], line["rule"], line["action"], line["message"]) for line in lines]

    place = f"call of {PROGRAMS['pie']}:watched_call by {PROGRAMS['pie']}"
    assert said("call", "6", "native-text") == [("native", "function", "audit", place)]
    assert said("call", "7", "native-text") == []
    assert said("probe", "1", "native") == [("native", "probe", "observe", "with native")]
    assert said("probe", "1", "natives") == []


def test_what_is_not_there_is_told_with_its_place(watching: Agent) -> None:
    log = watching.log()
    for name, said in (
        ("lost", f"'{PROGRAMS['pie']}' has no function 'watched_cal' (there is watched_call"),
        ("bare", f"'{PROGRAMS['stripped']}' has no function 'watched_call': it has no symbols"),
        ("gone", f"there is no file '{WORK}/nothing'"),
        ("no-such", f"'{PROGRAMS['pie']}' has no static probe 'bpfence_test:watchd' (there is bpfence_test:watched"),
    ):
        where = next(text for text in log.split(", ") if f"policy '{name}'" in text)
        assert said in log
        assert f"{name}.yaml:" in where


def test_a_program_that_is_replaced_is_watched_after_a_reload(watching: Agent) -> None:
    place = PROGRAMS["stripped"]
    shutil.copyfile(BUILT / "stripped", place.with_suffix(".new"))
    place.with_suffix(".new").chmod(0o755)
    place.with_suffix(".new").rename(place)
    watching.reload()
    code, lines = ran(watching, "stripped", "call", "5", "seen")
    assert (code, [name for name, _, _ in told(lines)]) == (0, ["offsets"])
