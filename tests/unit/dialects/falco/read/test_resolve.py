"""From entries to final rules: lists, macros, overrides, exceptions; hostile files; Falco's own file."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence.dialects.falco.load import load_files, load_text, load_texts, select
from bpfence.dialects.falco.read.document import MAX_MISTAKES
from bpfence.dialects.falco.read.resolve import MAX_DEPTH, FalcoRule, event_types, show_condition
from bpfence.errors import Diagnostic
from tests.unit.dialects.falco.trees import corpus

RULE = "- rule: {name}\n  desc: d\n  condition: {condition}\n  output: {output}\n  priority: {priority}\n"


def rule(condition: str, name: str = "R", output: str = "o", priority: str = "INFO", **more: str) -> str:
    text = RULE.format(name=name, condition=condition, output=output, priority=priority)
    return text + "".join(f"  {key}: {value}\n" for key, value in more.items())


def loaded(*texts: str) -> tuple[list[FalcoRule], list[Diagnostic]]:
    found, problems = load_texts([(text, f"{n}.yaml") for n, text in enumerate(texts)])
    return found.rules, [problem for problem in problems if problem.severity != "info"]


def conditions(*texts: str) -> list[str]:
    rules, problems = loaded(*texts)
    assert problems == []
    return [show_condition(one.condition) for one in rules]


# ---- lists and macros ----


def test_lists_in_lists_and_macros_in_macros() -> None:
    text = (
        "- list: a\n  items: [x, 'y z']\n- list: b\n  items: [a, w]\n- list: c\n  items: [b]\n- macro: m\n  condition: (proc.name in (c))\n"
        "- macro: n\n  condition: not m or evt.type=open\n" + rule("evt.type=open and n and m")
    )
    member = 'proc.name in (x, "y z", w)'
    assert conditions(text) == [f"evt.type = open and (not {member} or evt.type = open) and {member}"]


def test_the_last_definition_wins_and_keeps_the_first_position() -> None:
    first = rule("evt.type=open", "A") + rule("evt.type=open", "B") + "- macro: m\n  condition: proc.name=x\n"
    second = rule("evt.type=open and m", "A") + "- macro: m\n  condition: proc.name=y\n"
    rules, problems = loaded(first, second)
    assert problems == []
    assert [one.name for one in rules] == ["A", "B"]
    assert show_condition(rules[0].condition) == "evt.type = open and proc.name = y"
    assert rules[0].location.file == "1.yaml"


def test_a_macro_sees_what_is_defined_before_its_last_definition() -> None:
    before = "- macro: a\n  condition: b and proc.name=x\n- macro: b\n  condition: evt.type=open\n"
    assert [problem.code for problem in loaded(before + rule("a"))[1]] == ["unknown-macro"]
    again = "- macro: a\n  condition: b and proc.name=x\n"
    assert conditions("- macro: a\n  condition: evt.type=open\n- macro: b\n  condition: evt.type=open\n" + rule("a"), again) == [
        "evt.type = open and proc.name = x"
    ]


def test_a_rule_that_needs_something_to_be_in_an_empty_list() -> None:
    rule_ = "- rule: R\n  desc: d\n  output: o\n  priority: INFO\n  condition: evt.type = execve and {}\n"
    for condition, told in (
        ("proc.name in (e)", True),
        ("proc.name in (e, e)", True),
        ("proc.args intersects (e)", True),
        ("(proc.name in (e) or proc.name in ())", True),
        ("not proc.name in (e)", False),
        ("(proc.name in (e) or proc.name = x)", False),
        ("proc.name in (e, x)", False),
    ):
        found, diagnostics = loaded("- list: e\n  items: []\n" + rule_.format(condition))
        assert [one.code for one in diagnostics if one.code != "unused"] == (["never-matches"] if told else []), condition
        assert (not found[0].types) is told
        assert all(one.location.line == 7 for one in diagnostics)


def test_append_of_lists_macros_and_rules() -> None:
    text = (
        "- list: l\n  items: [a]\n- list: l\n  items: [b]\n  override: {items: append}\n"
        "- macro: m\n  condition: proc.name in (l)\n- macro: m\n  condition: or proc.name=c\n  override: {condition: append}\n"
        + rule("evt.type=open and m", output="one", tags="[b]")
        + "- rule: R\n  condition: and not proc.pid=1\n  output: two %proc.pid\n  desc: more\n  tags: [a, b]\n"
        "  override: {condition: append, output: append, desc: append, tags: append}\n"
    )
    rules, problems = loaded(text)
    assert problems == []
    (one,) = rules
    assert show_condition(one.condition) == "evt.type = open and (proc.name in (a, b) or proc.name = c) and not proc.pid = 1"
    assert (one.output_text, one.desc, one.tags) == ("one two %proc.pid", "d more", ("a", "b"))


def test_replace_by_key() -> None:
    text = rule("evt.type=open", tags="[a]") + (
        "- rule: R\n  condition: evt.type=creat\n  output: p\n  desc: e\n  priority: CRITICAL\n  tags: [z]\n  enabled: false\n"
        "  warn_evttypes: false\n  override:\n    condition: replace\n    output: replace\n    desc: replace\n    priority: replace\n"
        "    tags: replace\n    enabled: replace\n    warn_evttypes: replace\n"
    )
    rules, problems = loaded(text)
    assert problems == []
    (one,) = rules
    assert (show_condition(one.condition), one.output_text, one.desc, one.priority, one.tags, one.enabled) == (
        "evt.type = creat", "p", "e", "Critical", ("z",), False,
    )  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(["append", "replace", "define"]), st.sampled_from("abcd")), max_size=6))
@settings(deadline=None)
def test_overrides_are_what_they_would_be_written_out(steps: list[tuple[str, str]]) -> None:
    text, wanted = rule("evt.type=open and proc.name=0"), ["evt.type=open and proc.name=0"]
    for kind, name in steps:
        if kind == "append":
            text += f"- rule: R\n  condition: and proc.name={name}\n  override: {{condition: append}}\n"
            wanted.append(f"and proc.name={name}")
        elif kind == "replace":
            text += f"- rule: R\n  condition: evt.type=open and proc.name={name}\n  override: {{condition: replace}}\n"
            wanted = [f"evt.type=open and proc.name={name}"]
        else:
            text += rule(f"evt.type=open and proc.name={name}")
            wanted = [f"evt.type=open and proc.name={name}"]
    assert conditions(text) == conditions(rule(" ".join(wanted)))


names = st.sampled_from(["l0", "l1", "l2", "l3"])


@given(
    st.lists(st.tuples(names, st.lists(st.one_of(names, st.sampled_from(["x", "y", "z"])), max_size=4)), min_size=1, max_size=8), st.data()
)
@settings(deadline=None)
def test_lists_resolve_as_a_plain_model_says(definitions: list[tuple[str, list[str]]], data: st.DataObject) -> None:
    """A list holds, in place of names defined before its last definition, their final items; names that lead back are left as they are."""
    last = {name: (n, items) for n, (name, items) in enumerate(definitions)}
    first: dict[str, int] = {}
    for n, (name, _) in enumerate(definitions):
        first.setdefault(name, n)

    def items_of(name: str, inside: frozenset[str]) -> list[str]:
        at, items = last[name]
        found: list[str] = []
        for item in items:
            nested = item in last and first[item] < at and item not in inside
            found += items_of(item, inside | {item}) if nested else [item]
        return found

    cyclic = any(name in items for name, (_, items) in last.items()) or len({*first.values()}) != len(definitions)
    if cyclic:
        return  # redefinitions may lead in circles: those have a test of their own
    chosen = data.draw(st.sampled_from(sorted(last)))
    wanted = items_of(chosen, frozenset({chosen}))
    text = "".join(f"- list: {name}\n  items: [{', '.join(items)}]\n" for name, items in definitions)
    found = conditions(text + rule(f"evt.type=open and proc.name in ({chosen}, end)"))
    assert found == [f"evt.type = open and proc.name in ({', '.join([*wanted, 'end'])})"]


def test_lists_that_lead_in_circles_end() -> None:
    text = "- list: a\n  items: [x]\n- list: b\n  items: [a, y]\n- list: a\n  items: [b, z]\n" + rule(
        "evt.type=open and proc.name in (a, b)"
    )
    assert len(conditions(text)) == 1


# ---- exceptions ----


@pytest.mark.parametrize(
    ("exceptions", "wanted"),
    [
        ("[{name: e, fields: proc.name, values: [a, 'b c']}]", ' and not proc.name in (a, "b c")'),
        ("[{name: e, fields: fd.name, comps: pmatch, values: [/a, /b]}]", " and not fd.name pmatch (/a, /b)"),
        ("[{name: e, fields: proc.name, comps: startswith anyof, values: [a, b]}]", " and not proc.name startswith anyof (a, b)"),
        ("[{name: e, fields: [proc.name], values: [[a]]}]", " and not proc.name = a"),
        ("[{name: e, fields: [proc.name, fd.name], values: [[a, /x], [b, /y]]}]",
         " and not (proc.name = a and fd.name = /x or proc.name = b and fd.name = /y)"),
        ("[{name: e, fields: [proc.name, fd.name], comps: [in, startswith], values: [[[a, b], /x], [(c), /y], [d, '/z z']]}]",
         (" and not (proc.name in (a, b) and fd.name startswith /x or proc.name in (c) and fd.name startswith /y or proc.name in (d) and"
          ' fd.name startswith "/z z")')),
        ("[{name: e, fields: [proc.name], comps: [contains anyof], values: [[[a, b]]]}]", " and not proc.name contains anyof (a, b)"),
        ("[{name: e, fields: [proc.name]}]", ""),
        ("[{name: e, fields: proc.name, values: []}]", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_exceptions(exceptions: str, wanted: str) -> None:
    assert conditions(rule("evt.type=open or evt.type=creat", exceptions=exceptions)) == [
        f"({'evt.type = open or evt.type = creat'}){wanted}" if wanted else "evt.type = open or evt.type = creat"
    ]


def test_exceptions_are_appended_by_name() -> None:
    text = rule("evt.type=open", exceptions="[{name: e, fields: [proc.name], comps: [in], values: [[[a]]]}]") + (
        "- rule: R\n  exceptions: [{name: e, values: [[b]]}, {name: f, fields: fd.name, values: [/x]}]\n  override: {exceptions: append}\n"
    )
    assert conditions(text) == ["evt.type = open and not (proc.name in (a) or proc.name in (b)) and not fd.name in (/x)"]


def test_lists_are_put_into_exceptions() -> None:
    text = "- list: l\n  items: [a, b]\n" + rule("evt.type=open", exceptions="[{name: e, fields: [proc.name], comps: [in], values: [[l]]}]")
    assert conditions(text) == ["evt.type = open and not proc.name in (a, b)"]


def test_an_overlay_enforces_and_leaves_the_rule_as_it_is() -> None:
    rules, problems = loaded(rule("evt.type=open and fd.name=/x"), "- rule: R\n  bpfence: {action: deny, errno: EACCES}\n")
    assert problems == []
    (one,) = rules
    assert one.enforcement is not None
    assert (one.enforcement.action, one.enforcement.errno, one.location.file) == ("deny", 13, "0.yaml")
    assert [problem.code for problem in loaded("- rule: R\n  bpfence: {action: deny}\n")[1]] == ["append-unknown"]


# ---- diagnostics ----


def test_a_mistake_in_an_appended_condition_is_shown_in_its_own_file() -> None:
    _, problems = loaded(rule("evt.type=open"), "- rule: R\n  condition: and proc.nme=x\n  override: {condition: append}\n")
    assert [(p.location.file, p.location.line, p.location.column, p.code) for p in problems] == [("1.yaml", 2, 18, "unknown-field")]


def test_a_mistake_in_a_macro_is_reported_once_where_it_stands() -> None:
    text = "- macro: m\n  condition: proc.nme=x\n" + rule("evt.type=open and m", "A") + rule("evt.type=open and m", "B")
    rules, problems = loaded(text)
    assert rules == []
    assert [(p.location.line, p.location.column, p.code) for p in problems] == [(2, 14, "unknown-field")]


def test_a_rule_may_ask_to_be_left_out() -> None:
    text = rule("evt.type=open and fd.new=1", "A", **{"skip-if-unknown-filter": "true"}) + rule("evt.type=open", "B")
    text += rule("evt.type=open", "C", output="'%fd.new'", **{"skip-if-unknown-filter": "true"})
    rules, problems = loaded(text)
    assert [one.name for one in rules] == ["B"]
    assert [(p.code, p.severity) for p in problems] == [("unknown-filter", "warning")] * 2


def test_event_types_follow_from_the_condition() -> None:
    def types(condition: str) -> set[str]:
        rules, _ = loaded(rule(condition))
        return set(event_types(rules[0].condition))

    assert types("evt.type in (open, creat)") == {"open", "creat"}
    assert types("evt.type=open and proc.name=x or evt.type=creat") == {"open", "creat"}
    assert types("evt.type in (open, creat) and not evt.type=creat") == {"open"}
    assert types("evt.type=open and evt.type=creat") == set()
    assert "connect" in types("evt.type!=open")
    assert "open" not in types("not (evt.type=open or proc.name=x)")
    assert len(types("proc.name=x or evt.type=open")) > 100


# ---- hostile files ----


def bounded(texts: Iterable[str], seconds: float = 20, mebibytes: int = 600) -> set[str]:
    """The codes that a load gives; it must end in time and memory."""
    tracemalloc.start()
    try:
        start = time.process_time()
        _, problems = load_texts([(text, "t.yaml") for text in texts])
        assert time.process_time() - start < seconds
        assert tracemalloc.get_traced_memory()[1] < mebibytes << 20
    finally:
        tracemalloc.stop()
    return {problem.code for problem in problems if problem.severity == "error"}


def test_macros_that_multiply() -> None:
    text = "- macro: m0\n  condition: proc.name=x\n"
    text += "".join(f"- macro: m{n}\n  condition: (m{n - 1} and m{n - 1} or m{n - 1})\n" for n in range(1, 90))
    assert bounded([text + rule("evt.type=open and m89")]) == {"limit"}


def test_lists_that_multiply() -> None:
    text = "- list: l0\n  items: [x, y]\n" + "".join(f"- list: l{n}\n  items: [{', '.join([f'l{n - 1}'] * 10)}]\n" for n in range(1, 30))
    assert "limit" in bounded([text + rule("evt.type=open and proc.name in (l29)")])


def test_lists_that_multiply_in_a_condition() -> None:
    items = ", ".join(f"name{n}" for n in range(2000))
    text = f"- list: l\n  items: [{items}]\n" + rule("evt.type=open and proc.name in (" + ", ".join(["l"] * 2000) + ")")
    assert bounded([text]) == {"limit"}


def test_macros_that_nest_through_a_redefinition() -> None:
    text = "- macro: m0\n  condition: proc.name=x\n"
    text += "".join(f"- macro: m{n}\n  condition: not (proc.name=a and not (proc.name=b or m{n - 1}))\n" for n in range(1, 300))
    text += "- macro: m0\n  condition: m299\n"
    assert bounded([text + rule("evt.type=open and m0")]) <= {"macro-loop", "limit"}
    assert bounded([text.replace("m0\n  condition: m299", "z\n  condition: m299") + rule("evt.type=open and z")]) == {"limit"}


def test_depth_has_a_limit() -> None:
    text = "- macro: m0\n  condition: proc.name=x\n"
    text += "".join(f"- macro: m{n}\n  condition: not (proc.name=a and m{n - 1})\n" for n in range(1, MAX_DEPTH))
    assert bounded([text + rule(f"evt.type=open and m{MAX_DEPTH - 1}")]) == {"limit"}


def test_a_wide_macro_that_many_rules_share_is_read_once() -> None:
    wide = "- macro: m\n  condition: " + " or ".join(["proc.name=x"] * 5000) + "\n"
    text = wide + "".join(rule("evt.type=open and m", f"R{n}") for n in range(300))
    start = time.process_time()
    rules, problems = loaded(text)
    assert time.process_time() - start < 20
    assert (len(rules), problems) == (300, [])


@pytest.mark.parametrize("join", [" or ", " or\n    "])
def test_one_condition_of_many_mistakes(join: str) -> None:
    text = rule(">\n    evt.type=open and " + join.join(["a.b=x"] * 30_000))
    assert bounded([text]) == {"unknown-field"}


def test_after_many_mistakes_the_rest_is_not_looked_at() -> None:
    text = "".join(f"- macro: mac{n}\n  condition: proc.name=x\n" for n in range(1000))
    _, problems = loaded(text + "".join(rule(f"evt.type=open and unknown_{n}", f"R{n}") for n in range(1000)))
    assert len(problems) == MAX_MISTAKES + 1
    assert (problems[-1].code, problems[-1].hint) == ("limit", "correct these first")


@pytest.mark.parametrize(
    "text",
    [
        "- &a [*a]\n",
        "&a [&b [&c [x, x, x, x], *c, *c], *b, *b]\n",
        "- " * 10_000,
        "[" * 10_000,
        "- rule: &x [1]\n  condition: *x\n  output: *x\n  desc: *x\n  priority: *x\n  tags: *x\n  exceptions: *x\n",
        "? [a]\n: b\n",
        "- {rule: {a: b}, condition: {}, output: [], exceptions: {}, override: [], bpfence: []}\n",
        "- {list: [], items: {}}\n- {macro: , condition: }\n- {list: l, items: [[], {}]}\n",
        "- required_plugin_versions: {}\n- required_plugin_versions: [x, {name: []}]\n- required_engine_version: []\n",
        "\x00",
        "- rule: \ud800\n",
        "- rule: R\n  condition: '" + "(" * 100_000 + "'\n",
        "- list: l\n  items: [" + ", ".join(["x"] * 200_000) + "]\n",
        "a: &a [" + ",".join(["x"] * 1000) + "]\nb: [" + ",".join(["*a"] * 1000) + "]\n",
    ],
)
def test_hostile_yaml(text: str) -> None:
    bounded([text])


keys = st.sampled_from(
    ["rule", "macro", "list", "condition", "items", "output", "desc", "priority", "tags", "override", "append", "exceptions", "enabled",
     "name",
     "fields", "comps", "values", "bpfence", "action", "required_engine_version", "required_plugin_versions", "source", "warn_evttypes"]
)  # fmt: skip
scalars = st.sampled_from(
    [
        "x",
        "true",
        "INFO",
        "evt.type=open",
        "m",
        "and m",
        "(",
        "'%proc.name'",
        "append",
        "replace",
        "proc.name",
        "in",
        "1",
        "~",
        "''",
        "deny",
        "0.5.0",
    ]
)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: "[" + ", ".join(items) + "]"),
        st.lists(st.tuples(keys, inner), max_size=6).map(lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"),
    ),
    max_leaves=25,
)


@given(st.lists(trees, max_size=5))
@settings(max_examples=300, deadline=None)
def test_any_yaml_of_the_right_words_loads_or_is_diagnosed(items: list[str]) -> None:
    _, problems = load_text("".join(f"- {item}\n" for item in items))
    assert all(problem.hint or problem.severity != "error" for problem in problems)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_load_or_are_diagnosed(data: bytes) -> None:
    load_text(data.decode("utf-8", "surrogateescape"))


# ---- the package ----


def test_the_stable_rules_load_without_change_or_warning() -> None:
    start = time.process_time()
    found, problems = load_files([corpus()])
    assert time.process_time() - start < 5
    assert [problem for problem in problems if problem.severity != "info"] == []
    assert len(found.rules) == 25
    assert all(one.enabled and one.types for one in found.rules)
    assert [problem.code for problem in problems] == ["plugin-required"]


def test_selection() -> None:
    text = rule("evt.type=open", "Read a", "o", "WARNING", tags="[x]") + rule("evt.type=open", "Read b", tags="[y]", enabled="false")
    text += rule("evt.type=open", "Write", "o", "DEBUG")
    rules, _ = loaded(text)

    def chosen(**how: object) -> list[str]:
        return [one.name for one in select(rules, **how)]  # type: ignore[arg-type]

    assert chosen() == ["Read a", "Write"]
    assert chosen(names=["Read*"]) == ["Read a", "Read b"]
    assert chosen(tags=["y"]) == ["Read b"]
    assert chosen(priority="Informational") == ["Read a"]
    assert chosen(disabled=["W*"]) == ["Read a"]


def test_an_empty_source_is_none() -> None:
    for source in ("", "''", "'  '"):
        rules, problems = loaded(rule("evt.type=open", source=source))
        assert [one.source for one in rules] == ["syscall"], source
        assert not problems


def test_exceptions_of_one_name_both_hold_and_the_first_is_appended_to() -> None:
    text = rule("evt.type=open") + "  exceptions: [{name: e, fields: proc.name, values: [a]}, {name: e, fields: fd.name, values: [/b]}]\n"
    text += "- rule: R\n  exceptions: [{name: e, values: [c]}]\n  override: {exceptions: append}\n"
    [made], problems = loaded(text)
    assert show_condition(made.condition) == "evt.type = open and not proc.name in (a, c) and not fd.name in (/b)"
    assert [(problem.severity, problem.code) for problem in problems] == [("warning", "duplicate-exception")]


def test_container_info_is_taken_out_of_outputs() -> None:
    text = rule("evt.type=open").replace("output: o", "output: 'a %container.info b %container.id %container.info'")
    [made], problems = loaded(text)
    assert [(problem.severity, problem.code) for problem in problems] == [("warning", "deprecated")]
    assert [part.text for part in made.output.parts] == ["a ", " b ", "container.id", " "]
    assert made.output_text == "a  b %container.id "
