"""check, explain, test, fields and convert with Falco's rule files, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bpfence.dialects.native import read as native
from tests.unit.agent.fakes import write_policy
from tests.unit.cli.test_policies import answer, call, code
from tests.unit.dialects.falco.trees import corpus

RULES = """\
- list: files
  items: [/etc/shadow]
- macro: sensitive
  condition: (fd.name in (files))
- rule: Sensitive file
  desc: d
  condition: evt.type in (open, openat) and sensitive and not proc.name=sshd
  output: file=%fd.name by %proc.name
  priority: WARNING
- rule: Any mprotect
  desc: d
  condition: evt.type=mprotect and proc.pname=sh
  output: dup
  priority: INFO
"""
HIT = (
    '{"type":"open","time":1764000000000000000,"host":"n1","fields":{"fd.name":"/etc/shadow","proc.name":"cat"},'
    '"expect":["Sensitive file"]}\n'
)
MISS = '{"type":"open","fields":{"fd.name":"/etc/hosts","proc.name":"cat"},"expect":[]}\n'


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


def test_check_good_and_bad(rules: Path) -> None:
    result = call("check", rules)
    assert code(result) == 0
    assert "1 policy, 2 rules: 0 errors, 0 warnings" in result.stderr
    rules.write_text(RULES.replace("sensitive and", "sensitiv and"))
    result = call("check", rules)
    assert code(result) == 1
    assert f"{rules}:7:45: error: undefined macro 'sensitiv'" in result.stdout
    assert "did you mean 'sensitive'?" in result.stdout
    (finding,) = (one for one in answer(call("check", "--json", rules))["findings"] if one["severity"] == "error")
    assert (finding["code"], finding["line"], finding["column"]) == ("unknown-macro", 7, 45)


def test_check_falcos_own_rules() -> None:
    found = answer(call("check", "--json", corpus()))
    assert (found["errors"], found["warnings"], found["policies"][0]["rules"]) == (0, 0, 25)


def test_check_takes_both_kinds_and_directories(rules: Path) -> None:
    write_policy(rules.parent / "native.yaml")
    found = answer(call("check", "--json", rules.parent))
    assert (found["errors"], sorted(one["rules"] for one in found["policies"])) == (0, [1, 2])


def test_explain(rules: Path) -> None:
    result = call("explain", rules)
    assert code(result) == 0
    text = " ".join(result.stdout.split())
    assert "condition evt.type in (open, openat) and fd.name in (/etc/shadow) and not proc.name = sshd" in text
    assert "kernel file.open: file.path = /etc/shadow and not process.name = sshd" in text
    assert "user space fd.name in (/etc/shadow) the kernel has the name as it was given" in text
    assert "reported when the call has succeeded or failed" in text
    assert "sensors file_open fn:do_filp_open fn:do_file_open call:open call:openat user space" in text
    assert "not sensed mprotect" in text
    found = answer(call("explain", rules, "--rule", "Any*", "--json"))["rules"]
    assert [(one["rule"], one["exact"], one["unsensed"]) for one in found] == [("Any mprotect", False, ["mprotect"])]
    assert code(call("explain", rules, "--rule", "Nothing")) == 2
    assert code(call("explain", rules, "--event", "{}")) == 2


def test_explain_falcos_own_rules() -> None:
    found = answer(call("explain", corpus(), "--json"))["rules"]
    assert len(found) == 25
    for one in found:
        assert one["types"]
        assert one["kernel"] or one["unsensed"]
        assert all(left["reason"] for left in one["user_space"])


def test_replay(rules: Path, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_text(HIT + MISS)
    result = call("test", rules, events)
    assert code(result) == 0
    assert "Sensitive file" in result.stdout
    found = answer(call("test", "-p", rules, events, "--json"))
    assert found["mismatches"] == 0
    assert found["events"][0]["matches"][0]["output"].startswith("file=/etc/shadow by cat container_id=host container_name=host ")
    events.write_text(HIT.replace('"Sensitive file"', '{"rule":"Sensitive file","output_fields":{"fd.name":"/x"}}'))
    result = call("test", rules, events, "--json")
    assert code(result) == 1
    assert "fd.name is '/etc/shadow', not '/x'" in answer(result)["events"][0]["mismatch"]
    assert code(call("test", rules, "-", stdin=MISS.replace("[]", '["Sensitive file"]'))) == 1


def test_replay_in_falcos_form(rules: Path) -> None:
    line = call("test", rules, "-", "--format", "falco", "--append-output", "", stdin=HIT + MISS).stdout
    assert json.loads(line)["output"].endswith("Warning file=/etc/shadow by cat")
    assert json.loads(line)["hostname"] == "n1"
    text = call("test", rules, "-", "--format", "falco-text", "--append-output", "%proc.pid", stdin=HIT).stdout
    assert text.endswith(": Warning file=/etc/shadow by cat <NA>\n")
    assert code(call("test", rules, "-", "--append-output", "%no.field", stdin=HIT)) == 2


def test_replay_of_chosen_rules(rules: Path) -> None:
    rules.write_text(RULES + "  tags: [t]\n- rule: Sensitive file\n  enabled: false\n  override: {enabled: replace}\n")
    nothing = HIT.replace('"Sensitive file"', "")

    def chosen(*options: str) -> list[str]:
        (found,) = answer(call("test", rules, "-", "--json", *options, stdin=nothing))["events"]
        return [match["rule"] for match in found["matches"]]

    assert chosen() == []
    assert chosen("--rule", "Sens*") == ["Sensitive file"]
    assert chosen("--rule", "Sens*", "--priority", "error") == []
    assert chosen("--tag", "t") == []


@pytest.mark.parametrize("line", ["x\n", '{"type":"open","fields":{"no.field":1}}\n', '{"type":"open","expect":[{"x":1}]}\n'])
def test_replay_of_bad_lines(rules: Path, line: str) -> None:
    result = call("test", rules, "-", stdin=line)
    assert code(result) in (1, 2)
    assert "Traceback" not in result.output


def test_replay_needs_rules_without_mistakes(rules: Path) -> None:
    rules.write_text(RULES + "- rule: X\n")
    assert code(call("test", rules, "-", stdin=HIT)) == 2
    assert code(call("test", "-", stdin=HIT)) == 2
    assert code(call("test", rules, "-", "--mode", "audit", stdin=HIT)) == 2


def test_fields() -> None:
    found = answer(call("fields", "--json", "--source", "syscall"))["fields"]
    assert len(found) >= 90
    assert all(one["description"] and one["type"] for one in found)
    (one,) = (one for one in found if one["name"] == "proc.aname")
    assert (one["argument"], one["list"]) == ("index?", "ancestors")
    text = call("fields", "fd.s").stdout
    assert "fd.sip" in text
    assert "proc.name" not in text
    assert {one["name"] for one in answer(call("fields", "--kernel", "--json"))["fields"]} >= {"fd.name", "proc.name"}


def test_convert(rules: Path, tmp_path: Path) -> None:
    result = call("convert", "--to", "native", rules)
    assert code(result) == 1
    assert "Any mprotect" in result.stderr
    policies, problems = native.load_text(result.stdout)
    assert problems == []
    assert [one.name for one in policies.policies] == ["sensitive-file"]
    found = answer(call("convert", "--to", "native", rules, "--json"))
    assert found["converted"] == ["Sensitive file"]
    assert found["left_out"][0]["code"] == "not-expressible"
    written = tmp_path / "native.yaml"
    written.write_text(found["policies"])
    assert code(call("check", written)) == 0


def test_a_folder_as_falco_ships_it_is_of_one_language(rules: Path) -> None:
    (rules.parent / "local_rules.yaml").write_text("# Your own rules\n")
    for name in ("explain", "convert --to native --json"):
        assert code(call(*name.split(), rules.parent)) in (0, 1), name
    (rules.parent / "events").write_text(HIT)
    assert code(call("test", rules.parent, rules.parent / "events")) == 0


def test_rules_on_standard_input_are_called_by_its_name(rules: Path) -> None:
    text = rules.read_text()
    assert answer(call("check", "--json", "-", stdin=text))["policies"][0]["name"] == "<stdin>"
    assert answer(call("explain", "--json", "-", stdin=text))["rules"][0]["location"].startswith("<stdin>:5:")
