# SPDX-License-Identifier: Apache-2.0
"""Policies whose paths are links: which names their rules match, and what is said of it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence.conditions import links
from bpfence.conditions.links import PATHS, Resolution, Resolver, literal_directory, named, paths, widened
from bpfence.dialects.native.read import load_text
from bpfence.evaluate import verdict
from bpfence.policy import Action, Policy, PolicySet

HEAD = "apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: p}\nspec:\n"
TREE = {
    "/bin": Resolution(("/usr/bin",), (("/bin", "usr/bin"),)),
    "/bin/sleep": Resolution(("/usr/bin/sleep",), (("/bin", "usr/bin"),)),
    "/usr/bin/python3": Resolution(("/usr/bin/python3.11",), (("/usr/bin/python3", "python3.11"),)),
    "/bin/vi": Resolution(("/opt/[vim]/vim", "/usr/bin/vi"), (("/bin", "usr/bin"), ("/usr/bin/vi", "/opt/[vim]/vim"))),
    "/var/run": Resolution(("/run",), (("/var/run", "/run"),)),
    "/usr/bin/nc": Resolution((), (("/usr/bin/nc", "/bin/busybox"),), "/bin/busybox"),
}


def find(path: str) -> Resolution:
    return TREE.get(path, Resolution())


def policies(spec: str) -> PolicySet:
    found, problems = load_text(HEAD + spec)
    assert not [problem for problem in problems if problem.severity == "error"], problems
    return found


def rule(tests: str, on: str = "open") -> PolicySet:
    return policies(f"  rules:\n    - {{name: r, on: {on}, {tests}, action: deny}}\n")


def denied(policy_set: PolicySet, field: str, *values: str) -> list[bool]:
    events = ({"event": "file.open", "process.exe": "/x", field: value} for value in values)
    return [verdict(policy_set, event).action is Action.DENY for event in events]


@pytest.mark.parametrize(
    ("field", "written", "matches", "others"),
    [
        ("file.path", "/bin/sleep", ["/bin/sleep", "/usr/bin/sleep"], ["/usr/bin/sleepy"]),
        ("process.exe", "/usr/bin/python3", ["/usr/bin/python3", "/usr/bin/python3.11"], ["/usr/bin/python3.12"]),
        ("process.parent.exe", "/bin/sleep", ["/usr/bin/sleep"], []),
        ("file.path", "/bin/vi", ["/bin/vi", "/usr/bin/vi", "/opt/[vim]/vim"], ["/opt/v/vim"]),
        ("file.path", "/var/run/**", ["/run/a", "/var/run/a/b"], ["/runner"]),
        ("file.path", "/var/run/*.pid", ["/run/a.pid", "/var/run/a.pid"], ["/run/a/b.pid"]),
        ("process.cwd", "/bin/*", ["/usr/bin/a"], ["/usr/bin/a/b"]),
        ("file.path", "{/etc,/var/run}/s*t", ["/etc/set", "/run/set"], ["/run/se"]),
        ("file.path", "/bin", ["/usr/bin", "/bin"], ["/usr/bin/x"]),
    ],
)
def test_both_names_match(field: str, written: str, matches: list[str], others: list[str]) -> None:
    made, found = widened(rule(f'match: {{{field}: "{written}"}}'), find)
    assert denied(made, field, *matches) == [True] * len(matches)
    assert denied(made, field, *others) == [False] * len(others)
    assert {problem.code for problem in found} == {"link"}


def test_conditions_are_resolved_as_well() -> None:
    made, _ = widened(rule('condition: "file.path startswith /var/run/do or file.path pmatch (/bin)"'), find)
    assert denied(made, "file.path", "/run/docker", "/usr/bin/x", "/usr/bin", "/run/x") == [True, True, True, False]


def test_an_exception_holds_for_both_names_and_ancestors_do() -> None:
    made, _ = widened(rule("match: {file.path: /etc/x}, unless: {process.ancestors.exe: /bin/sleep}"), find)
    event = {"event": "file.open", "file.path": "/etc/x", "process.ancestors.exe": ("/sbin/init", "/usr/bin/sleep")}
    assert verdict(made, event).action is Action.NONE
    assert verdict(made, {**event, "process.ancestors.exe": ("/sbin/init",)}).action is Action.DENY


def test_scopes_and_what_each_event_tests_are_resolved() -> None:
    made, found = widened(policies("  scope: {exe: /bin/sleep}\n  default: {open: deny}\n  rules: []\n"), find)
    assert denied(made, "process.exe", "/usr/bin/sleep", "/usr/bin/x") == [True, False]
    assert [problem.message.partition(":")[0] for problem in found] == ["policy 'p'"]
    made, _ = widened(rule("match: {file.path: /bin/sleep}", "file.modify"), find)
    event = {"event": "file.rename", "file.path": "/tmp/x", "file.new_path": "/usr/bin/sleep"}
    assert verdict(made, event).action is Action.DENY


def test_a_finding_names_the_link_and_what_is_matched() -> None:
    _, found = widened(
        rule("match: {file.path: [/bin/sleep, /bin/cat, /var/run/**]}"), lambda path: TREE.get(path, Resolution()), "in /image"
    )
    assert [(problem.severity, problem.message) for problem in found] == [
        ("info", "policy 'p', rule 'r': /bin is a link to usr/bin in /image, so it also matches /usr/bin/sleep (for /bin/sleep)"),
        ("info", "policy 'p', rule 'r': /var/run is a link to /run in /image, so it also matches /run/** (for /var/run/**)"),
    ]
    assert found[0].location.line == 6


@pytest.mark.parametrize("written", ["[/bin/sleep, /usr/bin/sleep]", '"{/usr,}/bin/sleep"', '["/bin/sleep", "/usr/**"]', '["/**"]'])
def test_nothing_is_said_where_the_other_name_is_there_too(written: str) -> None:
    made, found = widened(rule(f"match: {{file.path: {written}}}"), find)
    assert not found
    assert denied(made, "file.path", "/usr/bin/sleep", "/bin/sleep") == [True, True]


def test_a_program_of_many_names_is_not_matched_for_one_of_them() -> None:
    made, found = widened(rule("match: {file.path: /usr/bin/nc}"), find)
    assert denied(made, "file.path", "/bin/busybox", "/usr/bin/nc") == [False, True]
    assert [(problem.severity, problem.code) for problem in found] == [("warning", "link-to-many")]
    assert "/usr/bin/nc is a link to /bin/busybox on this host" in found[0].message
    assert not widened(rule("match: {file.path: [/usr/bin/nc, /bin/busybox]}"), find)[1]


@pytest.mark.parametrize(
    ("args", "is_it"),
    [("nc", True), ("nc -l 99", True), ("/usr/bin/nc -l", True), ("busybox nc -l", True), ("/bin/busybox nc", True), ("ncal", False),
     ("rm nc", False), ("busybox rm /usr/bin/nc", False), ("sync", False)],
)  # fmt: skip
def test_the_hint_for_a_program_of_many_names_tells_it_apart(args: str, is_it: bool) -> None:
    """The rule that it shows, as it is."""
    for field, on, event in (("file.path", "exec", "process.executed"), ("process.exe", "open", "file.open")):
        [found] = widened(rule(f"match: {{{field}: /usr/bin/nc}}", on), find)[1]
        assert found.hint.startswith("write /bin/busybox if all of its programs are meant; ")
        shown = found.hint.partition("; ")[2].partition(": ")[2]
        shown = shown if field == "file.path" else f"on: open, match: {{{shown}}}, action: deny"
        [made] = policies(f"  rules:\n    - {{name: r, {shown}}}\n").policies
        verdict_ = verdict(PolicySet((made,)), {"event": event, "process.exe": "/bin/busybox", "process.args": args, "file.path": "/x"})
        assert (verdict_.action is not Action.NONE) is is_it, (field, args)


def test_the_hint_says_no_more_than_holds() -> None:
    [found] = widened(rule("match: {process.ancestors.exe: /usr/bin/nc}"), find)[1]
    assert found.hint == "write /bin/busybox if all of its programs are meant"


def test_a_policy_can_turn_it_off() -> None:
    given = policies("  links: as-written\n  rules:\n    - {name: r, on: open, match: {file.path: /bin/sleep}, action: deny}\n")
    made, found = widened(given, find)
    assert made == given
    assert "with `links: as-written` it does not match /usr/bin/sleep" in found[0].message
    assert load_text(HEAD + "  links: never\n  rules: []\n")[1][0].code == "bad-value"


def test_what_no_link_concerns_stays_as_it_is() -> None:
    given = rule('match: {file.path: [/etc/x, "**/y", "memfd:z"], process.cgroup: /bin/sleep, process.args: /bin/sleep}')
    assert widened(given, find) == (given, [])
    assert set(paths(given)) == {"/etc/x"}
    assert "process.cgroup" not in PATHS


@pytest.mark.parametrize(
    ("text", "expected"), [("/a/b*", "/a"), ("/a/{b,c}/d", "/a"), ("**/x", ""), ("/*", ""), ("/a/b/**", "/a/b"), ("x/*", "")]
)
def test_the_literal_directory_of_a_pattern(text: str, expected: str) -> None:
    assert literal_directory(text) == expected


def test_an_empty_set_is_one() -> None:
    assert widened(PolicySet((Policy(name="p"),)), find)[0].policies[0].name == "p"


def test_a_long_list_of_paths_is_not_compared_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [f"/bin/program-{number}" for number in range(300)] + ["/bin/*.so"]
    tried: list[object] = []
    monkeypatch.setattr(links, "holds", lambda *given: tried.append(given))
    made, _ = widened(rule(f"match: {{file.path: {listed}}}"), lambda path: Resolution((path.replace("/bin/", "/usr/bin/"),)))
    assert len(tried) <= 2 * len(listed)
    monkeypatch.undo()
    assert denied(made, "file.path", "/usr/bin/program-7", "/bin/program-8", "/usr/bin/x") == [True, True, False]


NAMED = {
    "/etc": Resolution(directory=True),
    "/srv": Resolution(directory=True),
    "/usr/bin/pip3": Resolution(interpreter="/usr/bin/python3"),
    "/usr/bin/id": Resolution(),
}


@pytest.mark.parametrize(
    ("tests", "on", "codes"),
    [
        ("match: {file.path: /etc}", "open", ["directory"]),
        ("match: {file.path: [/etc, /srv]}", "file.modify", ["directory", "directory"]),
        ("match: {file.path: /srv/**}, unless: {file.path: /srv}", "exec", []),
        ("match: {file.path: /etc/**}, unless: {file.path: /srv}", "exec", ["directory"]),
        ("match: {file.path: [/etc, /etc/**]}", "file.modify", []),
        ("match: {file.path: /etc}", "[chmod, rename, mkdir, rmdir, mount]", []),
        ("match: {process.cwd: /etc}", "open", []),
        ("match: {process.exe: /srv}", "chmod", ["directory"]),
        ("match: {process.exe: /usr/bin/pip3}", "open", ["script"]),
        ("match: {file.path: /x}, unless: {process.parent.exe: /usr/bin/pip3}", "exec", ["script"]),
        ("match: {file.path: /usr/bin/pip3}", "exec", []),
        ("match: {process.exe: /usr/bin/id, file.path: /usr/bin/id}", "exec", []),
    ],
)
def test_paths_that_name_something_else_than_their_field_holds(tests: str, on: str, codes: list[str]) -> None:
    found = list(named(rule(tests, on), lambda path: NAMED.get(path, Resolution())))
    assert [problem.code for problem in found] == codes
    assert sorted(problem.message for problem in found) == [problem.message for problem in found]
    assert all(problem.severity == "warning" and "rule 'r'" in problem.message for problem in found)


def test_a_script_in_a_scope_is_told_once() -> None:
    made = policies("  scope: {exe: /usr/bin/pip3}\n  rules:\n    - {name: r, on: exec, action: deny}\n")
    [found] = named(made, lambda path: NAMED.get(path, Resolution()), "in /image")
    assert found.message.startswith("policy 'p': /usr/bin/pip3 is a script in /image")


SPECS = [
    "  rules:\n    - {name: r, on: open, match: {file.path: /bin/sleep}}\n    - {name: s, on: exec, match: {process.exe: /bin}}\n",
    "  rules:\n    - {name: s, on: exec, match: {process.exe: /bin}}\n    - {name: r, on: open, match: {file.path: /bin/sleep}}\n",
    "  scope: {exe: /bin/vi}\n  rules:\n    - {name: r, on: [open, rename], match: {file.path: [/bin/vi, /var/run/**]}, action: deny}\n",
    "  links: as-written\n  rules:\n    - {name: r, on: open, match: {file.path: /bin/sleep}}\n",
]
TREES = [TREE, {}, {**TREE, "/bin/sleep": Resolution(("/opt/sleep",), (("/bin/sleep", "/opt/sleep"),))},
         {**TREE, "/bin": Resolution((), (), "", directory=True)}, {"/bin/sleep": Resolution(interpreter="/bin/sh")}]  # fmt: skip
READ = [policies(spec) for spec in SPECS]


def lower(policy_set: PolicySet, lines: int) -> PolicySet:
    """The same rules, so many lines further down."""
    [policy] = policy_set.policies
    moved = [
        msgspec.structs.replace(rule, location=msgspec.structs.replace(rule.location, line=rule.location.line + lines))
        for rule in policy.rules
    ]
    return PolicySet((msgspec.structs.replace(policy, rules=tuple(moved)),)) if lines else policy_set


@given(st.lists(st.tuples(st.sampled_from(READ), st.integers(0, 2), st.sampled_from(TREES)), min_size=2, max_size=6))
def test_policies_that_were_resolved_before_are_resolved_as_if_for_the_first_time(
    loads: list[tuple[PolicySet, int, dict[str, Resolution]]],
) -> None:
    resolver = Resolver()
    for read, lines, tree in loads:
        given_ = lower(read, lines)

        def find_in(path: str, tree: dict[str, Resolution] = tree) -> Resolution:
            return tree.get(path, Resolution())

        made, told = resolver.resolved(given_, find_in, "here")
        wanted, widened_ = widened(given_, find_in, "here")
        assert made == wanted
        assert told == [*widened_, *named(given_, find_in, "here")]
        assert list(resolver.paths(given_)) == list(paths(given_))


def test_a_rule_whose_paths_lead_where_they_led_is_not_made_anew() -> None:
    resolver = Resolver()
    first, _ = resolver.resolved(READ[0], find, "here")
    second, _ = resolver.resolved(READ[0], find, "here")
    assert all(one is other for one, other in zip(first.policies[0].rules, second.policies[0].rules, strict=True))
