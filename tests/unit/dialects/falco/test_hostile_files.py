"""Hostile rule files: no text raises, every one ends in time and memory, and what is said of it can be printed and has a place."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpfence.dialects.falco.load import load_files, load_texts
from bpfence.dialects.falco.read import resolve
from bpfence.dialects.falco.read.document import CODES
from bpfence.documents.placed import MAX_BYTES
from bpfence.documents.yaml_nodes import placed_text
from bpfence.errors import Diagnostic
from tests.unit.dialects.falco import random_rules
from tests.unit.dialects.falco.random_rules import Entry, Meant, written

SECONDS = 30  # the worst takes 5 s on a free machine
MEBIBYTES = 1024


def sound(problems: list[Diagnostic], texts: dict[str, str]) -> None:
    """Diagnostics name a place that exists and hold nothing raw."""
    for problem in problems:
        assert problem.code in CODES
        assert problem.message
        assert (problem.message + problem.hint).isprintable(), problem
        lines = placed_text(texts[problem.location.file], "").starts
        assert 0 <= problem.location.line <= len(lines)
        assert problem.location.column >= 0


def load(text: str, seconds: float = SECONDS) -> tuple[int, set[str]]:
    """How many rules a file has, and the codes of its errors."""
    start = time.process_time()
    found, problems = load_texts([(text, "t.yaml")])
    assert time.process_time() - start < seconds
    sound(problems[:50], {"t.yaml": text})
    return len(found.rules), {problem.code for problem in problems if problem.severity == "error"}


def rule(condition: str, name: str = "R", **more: str) -> str:
    text = f"- rule: {name}\n  desc: d\n  condition: {condition}\n  output: o\n  priority: INFO\n"
    return text + "".join(f"  {key}: {value}\n" for key, value in more.items())


# ---- anything ----


PIECES = (
    "- rule: R\n", "- macro: m\n", "- list: l\n", "  condition: ", "  items: ", "  exceptions: ", "  override: {", "append: true", "  ",
    "\n", "evt.type=open", "proc.name in (l)", "and m", "or ", "not ", "(", ")", "'", '"', "\\", "[", "]", "{", "}", "&a ", "*a", "<<: *a",
    "!!map ", "!!python/object/apply:os.system ", "!x ", "---\n", "...\n", "%YAML 1.1\n", "? ", ": ", "- ", "|\n", ">-\n", "#", "~", "\t",
    "\0", "\x85", "\u2028", "\ufeff", "\ud800", "x" * 3000, "[" * 100, "0x", "true", "values: ", "fields: ", "comps: ", "name: ",
    "output: '%proc.name %x'\n",
)  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=30).map("".join))
@settings(deadline=None, max_examples=300)
def test_any_row_of_pieces_loads_or_is_diagnosed(text: str) -> None:
    load(text)


@given(random_rules.files(), st.data())
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_a_damaged_file_loads_or_is_diagnosed(made: tuple[list[Entry], Meant], data: st.DataObject) -> None:
    """Pieces of a good file are lost, doubled, exchanged, and others put in."""
    text = written(made[0])
    for _ in range(data.draw(st.integers(1, 4))):
        start, end, to = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 3)))
        middle = data.draw(
            st.sampled_from(["", text[start:end] * 2, text[end:to], data.draw(st.sampled_from(PIECES)), text[start:end].replace(" ", "")])
        )
        text = text[:start] + middle + text[end:]
    load(text)


@given(st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(PIECES)).map(lambda p: "".join(p).encode("utf-16", "surrogatepass"))))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_of_any_bytes_loads_or_is_diagnosed(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "rules.yaml"
    file.write_bytes(b"- rule: R\n  condition: " + data)
    _, problems = load_files([file])
    sound(problems, {str(file): data.decode("utf-8", "replace") + "\n\n"})


# ---- what once took long or raised ----


def exceptions(count: int) -> str:
    """A rule with many exceptions, whose values come later."""
    shapes = ", ".join(f"{{name: e{n}, fields: proc.name}}" for n in range(count))
    values = ", ".join(f"{{name: e{n}, values: [a]}}" for n in range(count))
    return rule("evt.type=open", exceptions=f"[{shapes}]") + f"- rule: R\n  exceptions: [{values}]\n  override: {{exceptions: append}}\n"


def chained_macros(count: int) -> str:
    """Rules that each use a macro that uses a macro."""
    pair = "- macro: a{0}\n  condition: proc.name=x\n- macro: b{0}\n  condition: (a{0} or evt.type=open)\n"
    return "".join(pair.format(n) + rule(f"evt.type=open and b{n}", f"R{n}") for n in range(count))


def shared_list(items: int, rules: int) -> str:
    text = f"- list: l\n  items: [{', '.join(f'n{n}' for n in range(items))}]\n"
    return text + "".join(rule("evt.type=open and proc.name in (l)", f"R{n}") for n in range(rules))


def wide(tests: int, rules: int) -> str:
    return "".join(rule(f"evt.type=open and ({' or '.join(['fd.num=1'] * tests)})", f"R{n}") for n in range(rules))


def overridden(key: str, value: str, count: int) -> str:
    return rule("evt.type=open") + f"- rule: R\n  {key}: {value}\n  override: {{{key}: append}}\n" * count


def aliased(key: str, count: int) -> str:
    text = "- rule: R\n  desc: d\n  condition: evt.type=open\n  output: o\n  priority: INFO\n"
    value = "&a or fd.name=" + "x" * 100_000
    return text + "".join(f"- rule: R\n  {key}: {value if n == 0 else '*a'}\n  override: {{{key}: append}}\n" for n in range(count))


def escaped_quotes(count: int) -> str:
    """Quotes that are never closed: nothing may look for their end from each of them."""
    return "- list: l\n  items: [a]\n" + rule("|-\n    fd.name=" + '"' + '\\"' * count)


def unknown_names(count: int) -> str:
    """Many names, and many that are nearly one of them."""
    text = "".join(f"- macro: some_macro_{n}\n  condition: proc.name=x\n" for n in range(count))
    return text + "".join(rule(f"evt.type=open and some_macr_{n}", f"R{n}") for n in range(1000))


def one_long_field(count: int) -> str:
    """Exceptions whose text is far longer than what is written."""
    shape = "{name: e, fields: ['proc.env[" + "x" * 10_000 + "]'], values: [" + ", ".join(["[a]"] * 100) + "]}"
    return "".join(rule("evt.type=open", f"R{n}", exceptions=f"[{shape}]") for n in range(count))


CASES: dict[str, tuple[Callable[[], str], int | None, set[str]]] = {
    "exceptions": (lambda: exceptions(20_000), 1, set()),
    "chained macros": (lambda: chained_macros(15_000), 15_000, set()),
    "a list of 100,000": (lambda: shared_list(100_000, 2), 2, set()),
    "a list of 100,000 in 300 rules": (lambda: shared_list(100_000, 300), None, {"limit"}),
    "a list of 1,000 in 30,000 rules": (lambda: shared_list(1_000, 30_000), None, {"limit"}),
    "an or of 50,000": (lambda: wide(50_000, 1), 1, set()),
    "many wide conditions": (lambda: wide(20_000, 15), None, {"limit"}),
    "appended conditions": (lambda: overridden("condition", "or fd.num=1", 40_000), 1, set()),
    "appended descriptions": (lambda: overridden("desc", "e" * 20, 40_000), 1, set()),
    "aliases in conditions": (lambda: aliased("condition", 5_000), 0, {"yaml-limit"}),
    "a condition too long": (lambda: aliased("condition", 20), 0, {"limit"}),
    "an output too long": (lambda: aliased("output", 20), 0, {"limit"}),
    "descriptions": (lambda: aliased("desc", 20), 1, set()),
    "escaped quotes": (lambda: escaped_quotes(400_000), 0, {"condition-syntax"}),
    "names": (lambda: unknown_names(60_000), 0, {"unknown-macro", "limit"}),
    "warnings in a folded text": (lambda: rule(">\n    evt.type=open and (" + " or\n    ".join(["evt.dir='<'"] * 40_000) + ")"), 1, set()),
    "long exceptions": (lambda: one_long_field(350), None, {"limit"}),
}


@pytest.mark.parametrize("case", CASES)
def test_hostile_files_end_in_time(case: str) -> None:
    make, rules, errors = CASES[case]
    text = make()
    assert len(text) <= MAX_BYTES
    found, codes = load(text)
    assert codes == errors
    assert rules is None or found == rules


def test_types_of_many_rules_take_little_memory() -> None:
    text = chained_macros(2_000)
    tracemalloc.start()
    try:
        load(text, 60)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_the_limits_are_far_from_what_people_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of 10,000 hashes in 30 rules is none of the hostile ones; just beyond a limit the first mistake is the only one."""
    items = "\n".join(f"    - {n:064x}" for n in range(10_000))
    text = f"- list: l\n  items:\n{items}\n" + "".join(rule("evt.type=execve and proc.name in (l)", f"R{n}") for n in range(10))
    assert load(text) == (10, set())
    monkeypatch.setattr(resolve, "MAX_WEIGHT", 50_000)
    found, problems = load_texts([(text, "t.yaml")])
    assert [(p.code, p.location.line) for p in problems] == [("limit", 10_003 + 5 * 4)]
    assert [one.name for one in found.rules] == [f"R{n}" for n in range(4)]
