"""The table of acts and ways joined with the cases: what a page says, and every mistake that must not pass."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.kernel.cases import Case, load_cases, read_yaml
from tools.gen_coverage import COLUMNS, PAGE, Coverage, Table, load_features, load_table

OPEN = Case(
    name="o",
    event="file.open",
    rules=[{}],
    attack=[
        ["open", "{dir}/a"],
        ["openat", "{dir}", "a"],
        {"do": ["truncate", "{dir}/a"], "alert": {"event": "file.truncate"}, "requires": ["hook_x"]},
        {"do": ["open-uring", "{dir}/a"], "requires": ["ring"], "fails": "ok"},
    ],
    benign=[["open", "{dir}/b"]],
)
CASES = msgspec.convert([msgspec.to_builtins(OPEN)], list[Case])
FEATURES = {"hook_x": ["5.10"], "ring": ["6.1"]}
WAYS: list[dict[str, Any]] = [
    {"way": "open", "event": "file.open", "tests": ["o open", "o #1"]},
    {"way": "truncate", "event": "file.truncate", "tests": ["o truncate {dir}"]},
    {"way": "ring", "event": "file.open", "tests": ["o open-uring"]},
    {"way": "memory", "unseen": "nobody looks"},
]


def coverage(ways: list[dict[str, Any]], **more: Any) -> Coverage:
    table = {"features": {"hook_x": "no hook here", "ring": "no ring here"}, "acts": [{"act": "some act", "ways": ways}]} | more
    return Coverage(msgspec.convert(table, Table), CASES, FEATURES)


def errors(ways: list[dict[str, Any]], **more: Any) -> list[str]:
    """What is wrong, but for the many events that these few cases do not have."""
    return [error for error in coverage(ways, **more).errors if not error.startswith("no way has the event")]


def cells(found: Coverage, number: int) -> dict[str, tuple[str, str]]:
    way = found.table.acts[0].ways[number]
    shown = {kernel: found.cell(way, kernel) for kernel in COLUMNS}
    return {kernel: (cell.text, cell.note) for kernel, cell in shown.items() if cell is not None}


def test_the_table_of_the_repository_is_right_and_its_page_is_current() -> None:
    found = Coverage(load_table(), load_cases(), load_features())
    assert found.errors == []
    assert found.page() == PAGE.read_text()


def test_a_way_says_what_happens_on_each_kernel() -> None:
    found = coverage(WAYS)
    assert errors(WAYS) == []
    assert cells(found, 0) == dict.fromkeys(COLUMNS, ("denied", ""))
    assert cells(found, 1) == dict.fromkeys(COLUMNS, ("denied", "")) | {"5.10": ("**unseen**", "no hook here")}
    assert cells(found, 2) == dict.fromkeys(COLUMNS, ("reported", "")) | {"6.1": ("none", "no ring here")}
    assert cells(found, 3) == dict.fromkeys(COLUMNS, ("**unseen**", "nobody looks"))


def test_the_page_has_a_cell_for_each_kernel_and_a_note_for_what_is_not_tested() -> None:
    lines = coverage(WAYS).page().splitlines()
    rows = [line for line in lines if line.startswith("| ") and "`file." in line]
    assert len(rows) == 3
    assert {line.count(" | ") for line in rows} == {len(COLUMNS) + 2}
    assert rows[0].endswith("| o (`open`, `#1`) |")
    assert "1. no hook here" in lines


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tests": ["o chmod"]}, "no attack is 'o chmod'"),
        ({"tests": ["o #4"]}, "no attack is 'o #4'"),  # the benign twin
        ({"tests": ["o openat {dir} b"]}, "no attack is 'o openat {dir} b'"),
        ({"tests": ["other"]}, "no attack is 'other'"),
        ({"tests": ["o truncate"]}, "another event is expected by o #2: truncate {dir}/a (file.truncate)"),
        ({"event": "file.opened"}, "no event is named file.opened"),
        ({"event": ""}, "a way that is tested has an event"),
        ({"tests": []}, "nothing is said about 5.10"),
        ({"tests": [], "untested": {"5.10": "later"}}, "nothing is said about 6.12"),
        ({"untested": "later"}, "a test runs on 6.12, where it is said to be untested"),
        ({"unseen": {"6.12": "gone"}}, "a test runs on 6.12, where it is said to be unseen"),
        ({"unseen": {"4.19": "gone"}}, "no kernel with cases is named 4.19"),
        ({"also": ["tests/kernel/test_hammer.py::test_nothing"]}, "there is no test tests/kernel/test_hammer.py::test_nothing"),
        ({"way": "a|b"}, "a | would end the cell"),
    ],
)
def test_mistakes_are_told(wrong: dict[str, Any], message: str) -> None:
    row = {"way": "more", "event": "file.open", "tests": ["o open"]} | wrong
    assert f"some act: {row['way']}: {message}" in errors([*WAYS, row])


def test_an_attack_without_a_row_is_told() -> None:
    assert errors(WAYS[1:]) == [
        "belongs to no way: o #0: open {dir}/a (file.open)",
        "belongs to no way: o #1: openat {dir} a (file.open)",
    ]


def test_rows_are_proposed_for_attacks_without_one() -> None:
    rows = coverage(WAYS[1:]).rows_to_begin_with()
    assert [row.strip() for row in rows] == [
        '- {way: open, event: file.open, tests: ["o open"]}',
        '- {way: openat, event: file.open, tests: ["o openat"]}',
    ]
    assert errors([*WAYS[1:], *read_yaml("\n".join(rows))]) == []


def test_an_event_without_a_row_is_told() -> None:
    assert "no way has the event net.connect" in coverage(WAYS).errors
    assert "no way has the event file.open" not in coverage(WAYS).errors
    assert "no way has the event process.exit" not in coverage(WAYS).errors  # it cannot be denied


def test_features_are_explained() -> None:
    found = errors(WAYS, features={"ring": "no ring here", "wheel": "none"})
    assert found == ["features: nothing is said of hook_x", "features: no case requires wheel"]
