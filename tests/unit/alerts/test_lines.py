# SPDX-License-Identifier: Apache-2.0
"""Lines made by plans are, byte for byte, those that the composer makes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence import abi
from bpfence.alerts.alert import MAX_MESSAGE, Composer, Rendered, RuleInfo, Said, encode, whole
from bpfence.alerts.lines import LineWriter
from bpfence.events.process import Clock
from bpfence.events.source import Live
from bpfence.fields import EVENTS, FIELD_BY_NAME, FIELDS, Kind
from bpfence.policy import Action
from tests.unit.agent.fakes import FakeEngine
from tests.unit.events.samples import record

ALL_FIELDS = " ".join(f"{{{field.name}}}" for field in FIELDS) + " {event} {rule} {{}} {nothing} {file.path.x}"
MESSAGES = (
    "",
    "plain",
    "no {file.path}",
    "{process.exe} {process.args} {process.user} {process.uid}",
    'q"\\\x1b\n{{{event}}}\u202e',
    ALL_FIELDS,
)
TEXTS = st.sampled_from(
    [b"", b"/a/b", b'/q"\\', b"/\xc3\xbc\xff", b"\x1b[2J\n", b"\xe2\x80\xae", b"\x7f\x01\x00", bytes([10, 0, 0, 1]), bytes(16)]
)
VALUES = st.sampled_from([0, 1, 2, 5, 0o100644, 0xFFFF, (1 << 32) - 1]) | st.integers(0, (1 << 64) - 1)


def bench(data: bytes) -> tuple[Live, Any]:
    engine = FakeEngine()
    engine.put(data)
    source = Live(engine, clock=Clock(lambda: 100_000_000_000, lambda: 0), boot_id="a" * 32, cgroup_path=lambda _: "/a.slice")
    [seen] = source.read()
    return source, seen


def both(data: bytes, rule: RuleInfo, said: Said | None = None) -> tuple[bytes, bytes, bool]:
    """The line of a plan, that of the composer, and whether a plan has made the first."""
    source, seen = bench(data)
    told = {rule.key: said} if said is not None else {}
    [line] = LineWriter(Composer("höst", lambda: 0), source).lines(seen, [(rule, False)], (), told)
    [(_, alert)] = Composer("höst", lambda: 0).alerts(source.described(seen), [(rule, False)], (), told)
    assert whole(line) == alert
    return encode(line), encode(alert), isinstance(line, Rendered)


@given(
    st.sampled_from(EVENTS), st.dictionaries(st.sampled_from(sorted(abi.NUM_SLOT)), VALUES, max_size=40),
    st.dictionaries(st.sampled_from(sorted(abi.STR_SLOT)), TEXTS), st.sampled_from(MESSAGES), st.sampled_from(list(Action)),
    st.sampled_from([0, 1, 13, 4000]), st.sampled_from([0, abi.EVENT_RESULT, abi.EVENT_KILL_REFUSED]),
)  # fmt: skip
def test_plans_write_what_the_composer_writes(
    event: Any, numbers: dict[str, int], strings: dict[str, bytes], message: str, action: Action, error: int, flags: int
) -> None:
    narrow = {name: value & 0xFFFFFFFF if abi.NUM_SLOT[name] < abi.ABI_NUM_WIDE else value for name, value in numbers.items()}
    mode = "audit" if error == 13 else "enforce"
    rule = RuleInfo("p\n", 'r"', mode, action, Action.DENY, "high", ("a", "\x1b"), message)
    data = record(event.name, narrow, strings, error=error, flags=flags, action=int(action))
    made, wanted, _ = both(data, rule)
    assert made == wanted


def test_the_common_alert_is_made_by_a_plan() -> None:
    numbers = {"NUM_FILE_ACCESS": 1, "NUM_FILE_FLAGS": 0o100000, "NUM_FILE_MODE": 0o100640, "NUM_FILE_UID": 0, "NUM_FILE_INO": 9}
    data = record("file.open", numbers, {"STR_FILE_PATH": b"/etc/shadow", "STR_FILE_FSTYPE": b"ext4", "STR_PROCESS_CWD": b"/root"})
    made, wanted, planned = both(data, RuleInfo("p", "r", "enforce", Action.DENY, Action.DENY, message="no {file.path} for {process.exe}"))
    assert (made, planned) == (wanted, True)
    assert b'"message":"no /etc/shadow for /usr/bin/dash"' in made


@pytest.mark.parametrize("text", ["said", "x" * (MAX_MESSAGE + 5), 'a"\n\\'])
def test_what_a_language_says(text: str) -> None:
    rule = RuleInfo("x", "r", "audit", Action.AUDIT, Action.AUDIT, confirm="x")
    made, wanted, planned = both(record("file.open"), rule, Said("x", text, {"word": [1, None, "ü"]}))
    assert (made, planned) == (wanted, len(text) <= MAX_MESSAGE // 4)


def test_what_a_language_has_as_json_already() -> None:
    rule = RuleInfo("x", "r", "audit", Action.AUDIT, Action.AUDIT, confirm="x")
    details = {"word": [1, None, "ü"]}
    made, wanted, planned = both(
        record("file.open"), rule, Said.written("x", b'"said"', msgspec.json.encode(details), lambda: ("said", details))
    )
    assert (made, planned) == (wanted, True)


@pytest.mark.parametrize("length", [100, 2000, 4095])
def test_a_message_at_its_limit(length: int) -> None:
    rule = RuleInfo("p", "r", "enforce", Action.DENY, Action.DENY, message="{file.path}" * 3)
    made, wanted, _ = both(record("file.open", strings={"STR_FILE_PATH": b"/" + b"\xff" * length}), rule)
    assert made == wanted
    long, wanted, planned = both(record("file.open"), RuleInfo("p", "r", "enforce", Action.DENY, Action.DENY, message="m" * 10_000))
    assert (long, planned) == (wanted, False)


def test_what_is_not_common_is_left_to_the_composer() -> None:
    rule = RuleInfo("p", "r", "enforce", Action.KILL, Action.KILL)
    source, seen = bench(record("file.rename", {"NUM_FILE_OBJECT": 1}, {"STR_FILE_PATH": b"/etc/shadow"}))
    writer = LineWriter(Composer("h", lambda: 0), source)
    [line] = writer.lines(seen, [(rule, False)], ("/etc/shadow",))
    assert not isinstance(line, Rendered)
    assert b'"object":["/etc/shadow"]' in encode(line)
    source, seen = bench(record("file.open", flags=abi.EVENT_KILL_REFUSED))
    unsure, refused = (LineWriter(Composer("h", lambda: 0), source).lines(seen, [(rule, doubt)])[0] for doubt in (True, False))
    assert b'"uncertain":true' in encode(unsure)
    assert b'"kill":"refused"' in encode(refused)


def test_numbers_go_on_where_nothing_is_told() -> None:
    source, seen = bench(record("file.open"))
    writer = LineWriter(Composer("h", lambda: 0), source)
    rule = RuleInfo("p", "r", "enforce", Action.DENY, Action.DENY)
    assert writer.lines(seen, []) == []
    lines = writer.lines(seen, [(rule, False), (rule, False)])
    assert [whole(line).seq for line in lines] == [2, 2]  # type: ignore[union-attr]
    assert all(encode(whole(line)) == encode(line) for line in lines)


def test_another_rule_of_the_same_name_has_its_own_line() -> None:
    source, seen = bench(record("file.open"))
    writer = LineWriter(Composer("h", lambda: 0), source)
    for severity in ("low", "high"):
        [line] = writer.lines(seen, [(RuleInfo("p", "r", "enforce", Action.DENY, Action.DENY, severity), False)])
        assert f'"severity":"{severity}"'.encode() in encode(line)


def test_no_field_of_an_event_is_a_name_that_may_change() -> None:
    assert not [
        field.name
        for field in FIELD_BY_NAME.values()
        if field.events and (field.kind is Kind.USER or (field.kind is Kind.NAMED and field.names in ("user", "group")))
    ]
