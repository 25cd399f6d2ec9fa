"""Conditions over events: Falco's semantics, the engine, what an output says."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from bpfence.dialects.falco.confirm import rules
from bpfence.dialects.falco.confirm.event import FalcoAncestor, Record, RecordedEvent, read
from bpfence.dialects.falco.load import load_files, load_text
from bpfence.dialects.falco.read.checks import Comparison
from bpfence.dialects.falco.read.language import AndNode, NotNode
from bpfence.dialects.falco.read.output import parse
from bpfence.dialects.falco.read.resolve import FalcoRule
from bpfence.documents.report import TextError
from tests.unit.dialects.falco.native_view import acts, conditions
from tests.unit.dialects.falco.trees import corpus

STABLE = Path(__file__).parents[4] / "cases" / "falco" / "stable"
MOMENT = 1764000000123456789


def event(kind: str = "openat", args: dict[str, Any] | None = None, **more: Any) -> RecordedEvent:
    fields = {
        "fd.name": "/etc/shadow",
        "fd.nameraw": "../shadow",
        "fd.type": "file",
        "proc.name": "Cat",
        "proc.exepath": "/usr/bin/cat",
        "user.uid": 1000,
        "evt.rawres": 3,
        "proc.tty": 0,
        "fd.types": ["file", "pipe", "file"],
        "fd.types[1]": "pipe",
        **more.pop("fields", {}),
    }
    lineage = [FalcoAncestor(name="sh", exepath="/bin/sh", pid=7), FalcoAncestor(name="sshd", exepath="/usr/sbin/sshd", pid=3)]
    args = {"fd": 3, "name": "../shadow", "flags": "O_RDONLY|O_CLOEXEC", "mode": 0o644} if args is None else args
    fields = {name: value for name, value in fields.items() if value is not None}
    record = Record(
        type=kind, num=5, time=MOMENT, args=args, fields=fields, argv=["-e", "/bin/sh", "-xfile", "dir"], lineage=lineage, **more
    )
    return RecordedEvent(record)


CONNECTION = {
    "fd.type": "ipv4", "fd.name": "10.0.0.5:50000->203.0.113.9:443", "fd.cip": "10.0.0.5", "fd.lip": "10.0.0.5", "fd.sip": "203.0.113.9",
    "fd.rip": "203.0.113.9", "fd.cport": 50000, "fd.lport": 50000, "fd.sport": 443, "fd.rport": 443,
}  # fmt: skip


def rule(condition: str, output: str = "o", name: str = "R", **more: str) -> FalcoRule:
    text = f"- rule: {name}\n  desc: d\n  condition: {json.dumps(condition)}\n  output: {json.dumps(output)}\n"
    text += "  priority: INFO\n  warn_evttypes: false\n"
    found, problems = load_text(text + "".join(f"  {key}: {value}\n" for key, value in more.items()))
    assert not [problem for problem in problems if problem.severity == "error"], problems
    return found.rules[0]


def fires(condition: str, on: RecordedEvent | None = None, **how: Any) -> bool:
    return rules.holds(rule(condition).condition, on or event(), **how)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        # an absent field makes every operator false, != too
        ("user.name = x", False), ("user.name != x", False), ("not user.name = x", True), ("not user.name != x", True),
        ("user.name exists", False),
        ("user.name in (x)", False), ("user.name contains ''", False), ("user.name = val(user.name)", False), ("len(user.name) = 0", False),
        # texts
        ("proc.name = Cat", True), ("proc.name = cat", False), ("proc.name != cat", True), ("proc.name startswith Ca", True),
        ("proc.name endswith at", True), ("proc.name contains a", True), ("proc.name contains x", False), ("proc.name icontains CAT", True),
        ("proc.name in (a, Cat)", True), ("proc.name intersects (a, Cat)", True), ("proc.name glob 'C?t'", True),
        ("proc.name iglob 'c*'", True),
        ("proc.name glob 'c*'", False), ("fd.name glob '/e*ow'", True), ("fd.name regex '/[a-z]+/shadow'", True),
        ("fd.name regex 'shadow'", False),
        ("fd.name pmatch (/etc)", True), ("fd.name pmatch (/et, /etc/shado)", False), ("proc.exepath > 3", False),
        ("proc.name startswith anyof (x, C)", True), ("proc.name startswith allof (C, Ca)", True),
        ("proc.name startswith oneof (C, Ca)", False),
        ("proc.name startswith oneof (C, x)", True), ("proc.name != allof (a, b)", True), ("proc.name != anyof (Cat, b)", True),
        ("proc.name = anyof ()", False), ("proc.name = allof ()", False), ("proc.name in ()", False),
        # numbers and truth
        ("user.uid = 1000", True), ("user.uid != 1000", False), ("user.uid >= 0x3E8", True), ("user.uid < 1000", False),
        ("user.uid in (1, 1000)", True),
        ("evt.failed = false", True), ("evt.failed != false", False), ("evt.rawres > 2.0", True), ("evt.num = 5", True),
        ("proc.tty != 0", False),
        # lists
        ("fd.types in (file)", False), ("fd.types in (file, pipe, x)", True), ("fd.types intersects (pipe)", True),
        ("fd.types intersects (x)", False),
        ("fd.types[1] = pipe", True), ("fd.types[0] = pipe", False), ("len(fd.types) = 3", True),
        # ancestors: any, the process itself excluded
        ("proc.aname = sshd", True), ("proc.aname = Cat", False), ("proc.aname[0] = Cat", True), ("proc.aname[1] = sh", True),
        ("proc.pname = sh", True),
        ("proc.aname[2] = sshd", True), ("proc.aname[3] = sshd", False), ("proc.aname[3] exists", False), ("proc.aname in (x, sh)", True),
        ("proc.aname != sh", True), ("proc.apid = 3", True), ("proc.apid[2] = 3", True), ("proc.aexepath startswith /usr/sbin", True),
        ("proc.aname exists", True),
        # results, arguments, flags
        ("evt.res = SUCCESS", True), ("evt.res startswith E", False), ("evt.arg.flags contains O_CLOEXEC", True),
        ("evt.rawarg.dirfd = 1", False),
        ("evt.arg[2] = ../shadow", True), ("evt.arg.fd = 3", True), ("evt.rawarg.fd = 3", True), ("evt.rawarg.fd > 2", True),
        ("evt.rawarg.name = x", False),
        ("evt.arg.nothing exists", False), ("evt.arg.dirfd exists", True), ("evt.arg.dirfd = '<NA>'", True), ("evt.arg.dirfd != x", True),
        ("evt.rawarg.dirfd exists", False), ("evt.arg[1] contains NA", True), ("evt.arg[99] exists", False),
        ("evt.is_open_read = true", True), ("evt.is_open_write = true", False),
        ("evt.args contains 'flags=O_RDONLY'", True),
        ("join('-', ('a', b)) = a-b", True), ("join('-', (proc.name, 'x', 5, toupper(proc.pname))) = Cat-x-5-SH", True),
        ("concat(proc.name, 5, 0x1F) = Cat50x1F", True), ("join('-', (proc.name, evt.arg.nothing)) exists", False),
        ("getopt(('-n', 'x y'), 'n:')[n] = 'x y'", True), ("tolower(('A', B)) in (a, b)", True),
        ("len((a, b, c)) = 3", True), ("join(',', tolower(('A', ''))) = 'a,'", True), ("join('-', ()) = ''", True),
        ("proc.name = oneof Cat", True), ("proc.name startswith allof Ca", True), ("proc.name = anyof dog", False),
        # events are counted from 1
        ("evt.num = 0", False), ("evt.num in (0)", False), ("evt.num < 1", False), ("not evt.num = 0", True), ("evt.num > 0", True),
        # transformers
        ("tolower(proc.name) = cat", True), ("toupper(proc.name) = CAT", True), ("basename(fd.name) = shadow", True),
        ("tolower(proc.aname) = sshd", True), ("len(proc.name) = 3", True), ("len(proc.args) > 5", True),
        ("join(',', fd.types) = 'file,pipe,file'", True),
        ("join(' ', proc.args) startswith '-e /bin'", True), ("concat(proc.name, '-', proc.pname) = Cat-sh", True),
        ("concat(proc.name, user.name) exists", False), ("getopt(proc.args, 'e:x:')[e] = /bin/sh", True),
        ("getopt(proc.args, 'e:x:')[x] = file", True),
        ("getopt(proc.args, 'e:x:')[z] exists", False), ("getopt(proc.args, 'e:x:') intersects (x)", True),
        ("getopt(proc.args, 'e:') intersects ('?')", True),
        ("proc.name = val(proc.aname[0])", True), ("tolower(proc.name) = tolower(proc.name)", True), ("proc.name != val(proc.pname)", True),
        # structure
        ("proc.name = Cat and user.uid = 1000", True), ("proc.name = x or user.uid = 1000", True),
        ("not (proc.name = x or user.uid = 1)", True),
        ("proc.name = x or proc.name = y and user.uid = 1000", False), ("evt.type in (open, openat) and not evt.type = open", True),
        ("container.id = host", True), ("container.id != host", False), ("evt.dir = <", True), ("evt.type = openat", True),
    ],
)  # fmt: skip
def test_falcos_semantics(condition: str, expected: bool) -> None:
    assert fires(condition) is expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("fd.ip = 203.0.113.9", True), ("fd.ip = 10.0.0.5", True), ("fd.ip = 1.1.1.1", False), ("fd.ip != 203.0.113.9", False),
        ("fd.ip != 1.1.1.1", True),
        ("fd.port = 443", True), ("fd.port in (1, 50000)", True), ("fd.port != 443", False), ("fd.port != 1", True),
        ("fd.port > 49999", True),
        ("fd.net = 10.0.0.0/8", True), ("fd.net != 10.0.0.0/8", False), ("fd.net != 127.0.0.0/8", True),
        ("fd.net in (1.0.0.0/8, 203.0.113.0/24)", True),
        ("fd.snet in (10.0.0.0/8)", False), ("fd.cnet in (10.0.0.0/8)", True), ("fd.snet = 203.0.113.9", True),
        ("fd.snet = 2001:db8::/32", False),
        ("fd.snet != 2001:db8::/32", True), ("fd.sip = 203.0.113.9", True), ("fd.sport = https", True), ("fd.sproto = https", True),
        ("fd.proto = https", True),
        ("fd.typechar = 4", True), ("fd.directory exists", False), ("fd.sockfamily = ip", True),
    ],
)  # fmt: skip
def test_connections(condition: str, expected: bool) -> None:
    assert fires(condition, event("connect", {"res": 0}, fields=CONNECTION)) is expected


def test_bytes_are_compared_where_a_text_holds_a_part_of_a_character() -> None:
    made = event(fields={"fd.name": "/tmp/\\xff-é"})
    assert fires(r'fd.name contains "\xff"', made)
    assert fires(r'fd.name contains "\xa9"', made)
    assert not fires(r'fd.name contains "\xfe"', made)
    assert fires('fd.name glob "/tmp/?-?"', made)
    assert fires('fd.name regex "/tmp/\ufffd-."', made)


def test_a_path_is_what_the_kernel_resolved_unless_text_is_asked_for() -> None:
    made = event(fields={"fd.name": "/tmp/holiday.jpg", "bpfence.path": "/etc/shadow"})
    for condition in ("fd.name = /etc/shadow", "fd.directory = /etc", "fd.filename = shadow"):
        assert fires(condition, made)
        assert not fires(condition, made, paths="text")
    assert fires("fd.name = /tmp/holiday.jpg and fd.directory = /tmp", made, paths="text")
    chosen = rules.RuleSet([rule("evt.type=openat and fd.name=/etc/shadow", "%fd.name %bpfence.path")], append="")
    assert chosen.matches(made)[0].output == "/tmp/holiday.jpg /etc/shadow"


def plain(node: Any, on: RecordedEvent) -> bool:
    """And, or, not by the book, over tests that are compiled one by one."""
    if isinstance(node, Comparison):
        return rules.holds(node, on)
    if isinstance(node, NotNode):
        return not plain(node.part, on)
    results = [plain(part, on) for part in node.parts]
    return all(results) if isinstance(node, AndNode) else any(results)


@given(conditions, acts())
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_compiled_conditions_mean_what_their_trees_mean(text: str, act: tuple[RecordedEvent, dict[str, Any]]) -> None:
    tree = rule(text.replace("'", '"')).condition
    assert rules.holds(tree, act[0]) == plain(tree, act[0])


# ---- rule sets ----


def test_first_and_all_and_the_index_by_type() -> None:
    made = [
        rule("evt.type=openat and proc.name=x", name="A"),
        rule("evt.type=openat", name="B"),
        rule("evt.type in (openat, creat)", name="C"),
        rule("evt.type=connect", name="D"),
        rule("proc.name=Cat", name="E"),
    ]
    chosen = rules.RuleSet(made)
    assert [one.name for one in chosen.matching_rules(event())] == ["B"]
    assert [one.name for one in rules.RuleSet(made, matching="all").matching_rules(event())] == ["B", "C", "E"]
    assert [one.name for one, _ in chosen.candidates("creat")] == ["C", "E"]
    assert [one.name for one, _ in chosen.candidates("connect")] == ["D", "E"]
    assert [one.name for one, _ in chosen.candidates("no-such-event")] == []


def test_what_is_never_true_has_no_event_types() -> None:
    for condition in ("evt.num=0", "evt.type=open and evt.num <= 0", "evt.num in (0)", "not evt.num >= 1"):
        assert rule(condition).types == frozenset()
    assert rule("evt.type=open or evt.num=0").types == {"open"}
    assert rule("evt.type=open and evt.num != 0").types == {"open"}
    assert not rules.holds(rule("evt.num=0").condition, RecordedEvent(Record(type="open")))


def test_a_rule_that_cannot_match_a_type_is_not_tried_on_it() -> None:
    chosen = rules.RuleSet([rule("evt.type in (openat, creat) and (evt.cpu=0 and evt.type=creat or evt.type=openat)")])
    assert [len(chosen.candidates(kind)) for kind in ("openat", "creat")] == [1, 1]
    assert rules.RuleSet([rule("evt.type in (openat, creat) and not evt.type=creat")]).candidates("creat") == ()


@pytest.mark.parametrize("case", sorted(STABLE.glob("*.jsonl")), ids=lambda path: path.stem)
def test_each_stable_rule_fires_on_its_event_and_not_on_its_twin(case: Path) -> None:
    loaded, _ = load_files([corpus()])
    chosen = rules.RuleSet(loaded.rules, matching="all")
    first = rules.RuleSet(loaded.rules)
    with case.open("rb") as lines:
        events = [one for _, one in read(lines)]
    assert len(events) == 2
    hit, twin = events
    wanted = hit.record.expect
    assert wanted
    assert twin.record.expect == []
    matches = chosen.matches(hit)
    names = [one if isinstance(one, str) else one["rule"] for one in wanted]
    assert sorted(match.rule.name for match in matches) == sorted(names)
    assert isinstance(wanted[0], dict)
    match = next(match for match in matches if match.rule.name == names[0])
    assert {name: match.fields.get(name, "absent") for name in wanted[0]["output_fields"]} == wanted[0]["output_fields"]
    assert "%" not in match.output
    assert [one.rule.name for one in first.matches(hit)] == [next(r.name for r in loaded.rules if r.name in names)]
    assert chosen.matches(twin) == []


def test_every_stable_rule_has_a_case() -> None:
    loaded, _ = load_files([corpus()])
    shown = set()
    for case in STABLE.glob("*.jsonl"):
        with case.open("rb") as lines:
            _, first = next(read(lines))
        assert first.record.expect
        assert isinstance(first.record.expect[0], dict)
        shown.add(first.record.expect[0]["rule"])
    assert shown == {one.name for one in loaded.rules}


# ---- outputs ----


def rendered(output: str, on: RecordedEvent | None = None) -> str | None:
    return rules.render(parse(output), on or event())


def test_values_and_missing_values() -> None:
    assert rendered("a %proc.name %user.uid %evt.failed.") == "a Cat 1000 false."
    assert rendered("*%proc.name %user.name|%proc.aname[9]") == "Cat <NA>|<NA>"
    assert rendered("%user.name") is None
    assert rendered("%proc.aname %proc.aexepath|%fd.types %fd.types[1]") == "sh sshd /bin/sh /usr/sbin/sshd|(file,pipe,file) pipe"
    assert rendered("*%proc.apid %proc.apid[1] %evt.arg.mode", event(fields={"proc.pid": 9}, args={"fd": 3})) == "9 7 <NA>"
    assert rendered("[%6proc.name][%2proc.name]") == "[Cat   ][Ca]"
    assert rendered("%tolower(proc.name)/%basename(fd.name)") == "cat/shadow"
    assert rendered("%evt.arg.flags %evt.arg[0] %evt.args") == "O_RDONLY|O_CLOEXEC 3 fd=3 name=../shadow flags=O_RDONLY|O_CLOEXEC mode=0644"


def test_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Etc/GMT-2")
    time.tzset()
    try:
        assert rendered("%evt.time|%evt.time.s|%evt.datetime|%evt.datetime.s") == (
            "18:00:00.123456789|18:00:00|2025-11-24 18:00:00.123456789|2025-11-24 18:00:00"
        )
        assert rendered("%evt.time.iso8601 %evt.rawtime %evt.rawtime.s %evt.rawtime.ns") == (
            "2025-11-24T16:00:00.123456789+0000 1764000000123456789 1764000000 123456789"
        )
    finally:
        monkeypatch.undo()
        time.tzset()


def test_nothing_raw_reaches_an_output() -> None:
    made = event(fields={"fd.name": "/tmp/\\x1b[31m\\xff\\x0a"})
    assert made.get("fd.name") == "/tmp/\x1b[31m\udcff\n"
    assert rendered("%fd.name", made) == r"/tmp/\x1b[31m\xff\x0a"
    match = rules.RuleSet([rule("evt.type=openat", "%fd.name")], append="").matches(made)[0]
    assert match.fields == {"fd.name": r"/tmp/\x1b[31m\xff\x0a"}


def test_output_fields_have_the_types_of_their_values() -> None:
    output = "%user.uid %evt.failed %proc.aname %fd.types %user.name %evt.time %evt.time.iso8601 %toupper(proc.name) %proc.aname[1]"
    match = rules.RuleSet([rule("evt.type=openat", output)], append="").matches(event())[0]
    assert match.fields == {
        "user.uid": 1000, "evt.failed": False, "proc.aname": "sh sshd", "fd.types": ["file", "pipe", "file"], "user.name": None,
        "evt.time": MOMENT, "evt.time.iso8601": MOMENT, "toupper(proc.name)": "CAT", "proc.name": "Cat", "proc.aname[1]": "sh",
    }  # fmt: skip
    assert match.output.startswith("1000 false sh sshd (file,pipe,file) <NA> ")


def test_the_containers_fields_go_after_every_output() -> None:
    match = rules.RuleSet([rule("evt.type=openat", "o")]).matches(event(fields={"container.id": "3ad7b26ded6d", "k8s.ns.name": "prod"}))[0]
    assert match.output == (
        "o container_id=3ad7b26ded6d container_name=<NA> container_image_repository=<NA> container_image_tag=<NA> k8s_pod_name=<NA>"
        " k8s_ns_name=prod"
    )
    assert match.fields["container.id"] == "3ad7b26ded6d"
    other = rules.RuleSet([rule("evt.type=openat", "o")], append="on CPU %evt.cpu").matches(event())[0]
    assert (other.output, other.fields) == ("o on CPU <NA>", {"evt.cpu": None})
    with pytest.raises(TextError):
        rules.RuleSet([], append="%")


def test_only_the_named_rules_can_match() -> None:
    text = "".join(
        f"- rule: R{n}\n  desc: d\n  condition: evt.type=open and fd.num < {n}\n  output: o{n}\n  priority: INFO\n" for n in (1, 5, 9)
    )
    loaded, _ = load_text(text)
    event = RecordedEvent(Record(type="open", fields={"fd.num": 3}))
    every = rules.RuleSet(loaded.rules, matching="all", append="")
    assert [match.rule.name for match in every.matches(event)] == ["R5", "R9"]
    assert [match.rule.name for match in every.matches(event, {"R9", "R1", "no such rule"})] == ["R9"]
    assert every.matches(event, ()) == []
    first = rules.RuleSet(loaded.rules, append="")
    assert [match.rule.name for match in first.matches(event, ["R9", "R5"])] == ["R5"]
    assert [rule.name for rule in first.matching_rules(event, {"R9"})] == ["R9"]
    assert first.rule("R5") is loaded.rules[1]
    assert first.rule("R6") is None
    assert first.match(loaded.rules[0], event).output == "o1"
