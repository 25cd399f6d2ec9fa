# SPDX-License-Identifier: Apache-2.0
"""check, explain and test, as a user calls them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bpfence.cli.main import cli
from tests.unit.agent.fakes import write_policy


def call(*args: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args], input=stdin, standalone_mode=False)


def code(result: Result) -> int:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.return_value if isinstance(result.return_value, int) else result.exit_code


def answer(result: Result) -> Any:
    return json.loads(result.stdout)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return write_policy(tmp_path / "p.yaml")


def test_check_good(policy: Path) -> None:
    result = call("check", policy)
    assert code(result) == 0
    assert "1 policy, 1 rule: 0 errors" in result.stderr


def test_check_finds(policy: Path) -> None:
    policy.write_text(policy.read_text().replace("on: open", "on: opne"))
    result = call("check", policy)
    assert code(result) == 1
    assert f"{policy}:8:" in result.stdout
    assert "hint: did you mean 'open'?" in result.stdout
    found = answer(call("check", "--json", policy))
    assert (found["errors"], found["findings"][0]["line"], found["findings"][0]["code"]) == (1, 8, "unknown-event")


def test_check_warnings_count_only_when_strict(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert code(call("check", tmp_path / "empty")) == 0
    assert code(call("check", "--strict", tmp_path / "empty")) == 1


def test_check_what_cannot_be_read(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["check", str(tmp_path / "none")])
    assert result.exit_code == 2
    os.mkfifo(tmp_path / "fifo")
    assert code(call("check", tmp_path / "fifo")) == 2


def test_check_compiles_too(policy: Path) -> None:
    policy.write_text(policy.read_text().replace("match: {file.path: /secret/**}", "match: {file.path: /a}, unless: {file.path: /a}"))
    result = call("check", "--json", policy)
    assert any("never match" in found["message"] or found["code"].startswith("unreachable") for found in answer(result)["findings"])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "image" / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "image" / "bin").symlink_to("usr/bin")
    (tmp_path / "image" / "usr" / "bin" / "tool").symlink_to("tool-2")
    return tmp_path / "image"


def test_check_tells_what_links_lead_to(tmp_path: Path, image: Path) -> None:
    linked = write_policy(tmp_path / "p.yaml", glob="/bin/tool")
    found = answer(call("check", "--json", "--strict", "--root", image, linked))["findings"]
    assert [(one["severity"], one["code"], one["line"]) for one in found] == [("info", "link", 8)]
    assert "/usr/bin/tool-2 (for /bin/tool)" in found[0]["message"]
    falco = tmp_path / "falco.yaml"
    falco.write_text("- rule: r\n  desc: d\n  condition: evt.type = open and fd.name = /bin/tool\n  output: x\n  priority: INFO\n")
    found = answer(call("check", "--json", "--root", image, falco))["findings"]
    assert [(one["severity"], one["code"]) for one in found] == [("info", "link")]
    assert "in " + str(image) in found[0]["message"]
    here = tmp_path / "here"
    here.symlink_to(image)
    found = answer(call("check", "--json", write_policy(tmp_path / "q.yaml", glob=f"{here}/etc/**")))["findings"]
    assert [one["code"] for one in found] == ["link"]
    assert "on this host" in found[0]["message"]


def test_explain_takes_a_typed_path_as_the_kernel_would_report_it(tmp_path: Path, image: Path) -> None:
    linked = write_policy(tmp_path / "p.yaml", glob="/bin/tool")

    def route(event: str, path: str, *more: str) -> tuple[str, str]:
        sample = json.dumps({"event": event, "file.path": path, **dict(zip(more[::2], more[1::2], strict=True))})
        found = answer(call("explain", "--json", "--root", image, linked, "--event", sample))["route"]
        return found["action"], found["words"][0]

    assert route("open", "/bin/tool") == (
        "deny",
        f"file.path: /bin/tool is /usr/bin/tool-2 in {image}, by links: that is what the kernel reports",
    )
    assert route("open", "/usr/bin/tool-2")[0] == "deny"
    assert route("open", "/usr/bin/other")[0] == "none"
    linked.write_text(linked.read_text().replace("on: open", "on: unlink"))
    assert "/bin/tool is /usr/bin/tool in" in route("unlink", "/bin/tool")[1]
    linked.write_text(linked.read_text().replace("on: unlink", "on: open").replace("  mode:", "  links: as-written\n  mode:"))
    assert route("open", "/bin/tool")[0] == "none"
    assert "/bin/ancestor is /usr/bin/ancestor" in route("open", "/x", "process.exe", "/bin/ancestor")[1]


def test_test_decides_as_run_would(tmp_path: Path, image: Path) -> None:
    here = tmp_path / "here"
    here.symlink_to(image)
    linked = write_policy(tmp_path / "p.yaml", glob=f"{here}/a")
    line = json.dumps({"event": "open", "file.path": f"{image}/a", "expect": "deny"})
    assert code(call("test", linked, "-", stdin=line)) == 0
    falco = tmp_path / "falco.yaml"
    falco.write_text(f"- rule: r\n  desc: d\n  condition: evt.type = open and fd.name = {here}/a\n  output: x\n  priority: INFO\n")
    line = json.dumps({"type": "open", "fields": {"fd.name": f"{image}/a", "evt.rawres": 3}, "expect": ["r"]})
    assert code(call("test", falco, "-", stdin=line)) == 0
    assert code(call("test", "--links", "as-written", falco, "-", stdin=line)) == 1


def test_explain(policy: Path) -> None:
    result = call("explain", policy)
    assert code(result) == 0
    assert "guard" in result.stdout
    assert "file.open" in result.stdout
    assert "Image:" in result.stdout
    found = answer(call("explain", "--json", policy))
    assert found["rules"][0]["rule"] == "secret"
    assert found["image_bytes"] > 0


def test_explain_route(policy: Path) -> None:
    hit = answer(call("explain", "--json", policy, "--event", '{"event":"open","file.path":"/secret/x"}'))
    miss = answer(call("explain", "--json", policy, "--event", '{"event":"open","file.path":"/public"}'))
    assert hit["route"] != miss["route"]
    assert "secret" in call("explain", policy, "--event", '{"event":"open","file.path":"/secret/x"}').stdout


@pytest.mark.parametrize("event", ["{", "[]", '{"event":"nope"}', '{"event":"open","nope":1}'])
def test_explain_refuses_bad_events(policy: Path, event: str) -> None:
    result = call("explain", policy, "--event", event)
    assert code(result) == 2
    assert "--event" in result.stderr


def test_explain_shows_mistakes(policy: Path) -> None:
    policy.write_text("nonsense: [")
    result = call("explain", "--json", policy)
    assert code(result) == 2
    assert answer(result)["findings"]


EVENTS = """{"event":"open","file.path":"/secret/x","expect":"deny"}
{"event":"open","file.path":"/public","expect":"allow"}
{"kind":"status"}
{"event":"open","file.path":"/secret/y","expect":{"action":"deny","errno":"EPERM","rules":["guard/secret"]}}
"""


def test_test_agrees(policy: Path, tmp_path: Path) -> None:
    (tmp_path / "events").write_text(EVENTS)
    result = call("test", "-p", policy, tmp_path / "events")
    assert code(result) == 0
    assert "3 events, all as expected" in result.stderr


@pytest.mark.parametrize(
    ("line", "mismatch"),
    [
        ('{"event":"open","file.path":"/secret/x","expect":"allow"}', "expected to go through, got deny"),
        ('{"event":"open","file.path":"/public","expect":"deny"}', "expected deny, got none"),
        ('{"event":"open","file.path":"/secret/x","expect":{"errno":"EACCES"}}', "expected errno EACCES, got EPERM"),
        ('{"event":"open","file.path":"/secret/x","expect":{"rules":[]}}', "expected rules none, got guard/secret"),
    ],
)
def test_test_disagrees(policy: Path, line: str, mismatch: str) -> None:
    result = call("test", "-p", policy, "--json", "-", stdin=line)
    assert code(result) == 1
    assert answer(result)["events"][0]["mismatch"] == mismatch


@pytest.mark.parametrize(
    "line", ["{", '{"event":"open","expect":"maybe"}', '{"event":"open","expect":5}', '{"event":"open","expect":{"rules":1}}']
)
def test_test_refuses_bad_lines(policy: Path, line: str) -> None:
    result = call("test", "-p", policy, "-", stdin=f"{EVENTS}{line}\n")
    assert code(result) == 2
    assert "line 5" in result.stderr


def test_mode_override(policy: Path) -> None:
    result = call("test", "-p", policy, "--mode", "audit", "--json", "-", stdin='{"event":"open","file.path":"/secret/x"}')
    assert answer(result)["events"][0]["action"] == "audit"


def test_hostile_paths_do_not_reach_the_terminal(policy: Path, tmp_path: Path) -> None:
    evil = write_policy(tmp_path / "p\x1b[2J.yaml", glob='"["')
    assert "\x1b" not in call("check", evil).output
    assert "\x1b[2J" not in call("check", "--json", evil).output


def test_check_looks_into_the_seccomp_profile(policy: Path) -> None:
    profile = "  seccomp: {defaultAction: SCMP_ACT_ERRNO, syscalls: [{names: [raed, clone], action: SCMP_ACT_ALLOW}]}\n"
    policy.write_text(policy.read_text().rstrip() + "\n" + profile)
    found = answer(call("check", "--json", policy))
    codes = [finding["code"] for finding in found["findings"]]
    assert "unknown-syscall" in codes
    assert "runtime-needs" not in codes
    assert code(call("check", policy)) == 1


# ---- standard input, other hosts, what a sample does not say ----

TRAPS = """\
apiVersion: bpfence.io/v1alpha1
kind: SecurityPolicy
metadata: {name: traps}
spec:
  mode: enforce
  rules:
    - {name: a, on: file.write, match: {file.path: "~/.ssh/**"}, action: block}
    - {name: b, on: open, match: {file.path: "$HOME/.ssh/**"}, action: deny}
"""
OTHERS_USER = """\
apiVersion: bpfence.io/v1alpha1
kind: SecurityPolicy
metadata: {name: p}
spec:
  mode: enforce
  rules:
    - name: r
      on: file.modify
      match: {file.path: "/srv/**"}
      unless: {process.user: [no-such-user, root]}
      action: deny
"""


def test_check_reads_standard_input_and_says_what_to_write_instead() -> None:
    result = call("check", "-", stdin=TRAPS)
    assert code(result) == 1
    assert result.stderr.splitlines()[-1] == "4 errors, 0 warnings"
    found = answer(call("check", "--json", "-", stdin=TRAPS))["findings"]
    assert [(one["file"], one["line"]) for one in found] == [("<stdin>", 7)] * 3 + [("<stdin>", 8)]
    assert [one["hint"].split(" for ")[0] for one in found] == [
        "write 'file.modify'", "write '{/root,/home/*}/.ssh/**'", "write 'deny'", "write '{/root,/home/*}/.ssh/**'",
    ]  # fmt: skip


def test_policies_of_another_host_can_be_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(OTHERS_USER)
    result = call("check", path)
    assert code(result) == 1
    assert "--no-host" in result.stdout
    result = call("check", "--no-host", path)
    assert code(result) == 0
    assert "taken as written, without a look at this host: user no-such-user" in result.stderr
    assert code(call("explain", "--no-host", path)) == 0
    event = {"event": "open", "file.path": "/srv/a", "file.access": ["write"]}
    users = (("no-such-user", "none"), ("root", "none"), (7, "deny"))
    lines = [{**event, "process.user": user, "expect": expect} for user, expect in users]
    result = call("test", "--no-host", "-p", path, "-", stdin="".join(json.dumps(line) + "\n" for line in lines))
    assert code(result) == 0, result.stderr


def test_a_sample_may_be_a_group_and_is_told_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(OTHERS_USER.replace("no-such-user, ", ""))
    line = '{"event":"file.modify","file.path":"/srv/a"}\n'
    results = answer(call("test", "--json", "-p", path, "-", stdin=line))["events"]
    by_event = {result["event"]: result for result in results}
    assert len(by_event) > 10
    assert (by_event["file.unlink"]["action"], by_event["file.unlink"]["lacks"]) == ("deny", ["process.uid"])
    assert by_event["file.open"]["lacks"] == ["file.access", "process.uid"]
    assert "the sample does not say process.uid" in call("test", "-p", path, "-", stdin=line).stderr
    full = '{"event":"file.unlink","file.path":"/srv/a","process.user":"root"}'
    [route] = answer(call("explain", "--json", path, "--event", full))["routes"]
    assert route["lacks"] == []
    elsewhere = '{"event":"file.unlink","file.path":"/etc/a"}'
    assert answer(call("explain", "--json", path, "--event", elsewhere))["route"]["lacks"] == []
    text = call("explain", path, "--event", '{"event":"file.unlink","file.path":"/srv/a"}').stdout
    assert "the sample does not say process.uid, which would decide some rules" in text


def test_a_sample_is_told_that_it_lacks_either_of_two_fields_that_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    head = "apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: p}\nspec:\n  rules:\n"
    path.write_text(head + "    - {name: r, on: open, condition: file.uid != process.uid, action: deny}\n")
    for sample, lacking, action in (
        ({"file.uid": 0}, ["process.uid"], "none"),
        ({"process.uid": 0}, ["file.uid"], "none"),
        ({"file.uid": 0, "process.uid": 7}, [], "deny"),
        ({"file.uid": 7, "process.uid": 7}, [], "none"),
    ):
        route = answer(call("explain", "--json", path, "--event", json.dumps({"event": "open", **sample})))["route"]
        assert (route["lacks"], route["action"]) == (lacking, action)
    text = call("explain", path, "--event", '{"event":"open","file.uid":0,"process.uid":7}').stdout
    assert "process.uid against file.uid: greater" in text


def test_native_fields_and_events_are_listed() -> None:
    found = answer(call("fields", "--json", "file.path"))
    assert [one["name"] for one in found["native"]] == ["file.path"]
    assert answer(call("fields", "--json", "--language", "falco"))["native"] == []
    found = answer(call("events", "--json"))
    assert {one["name"] for one in found["events"]} >= {"file.open", "process.exec"}
    assert "file.unlink" in found["groups"]["file.modify"]
    assert "openat" in found["falco"]
    assert "file.modify" in call("events", "modify").stdout
    assert "no event has" in call("events", "nonsense").stdout
