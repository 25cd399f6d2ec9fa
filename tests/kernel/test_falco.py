# SPDX-License-Identifier: Apache-2.0
"""Falco's stable rules on real acts: each fires once with the right output, its nearest twins do not, tricks do not hide the act.

And: what no rule is about puts nothing through the ring buffer; a rule that blocks blocks; what was recorded replays to the same alerts.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.cases import ROOT, read_yaml
from tests.kernel.falco_range import (
    ADDRESS,
    BIN,
    HOST,
    RULES,
    WORK,
    FalcoRange,
    Shot,
    differences,
    falco_range,
    load_shots,
    output_fields,
)
from tests.kernel.harness import COMMAND, Playground, cgroup_folder, enter

CASES = load_shots()
FIRES = [
    pytest.param(
        case.rule,
        shot,
        id=f"{case.rule.replace(' ', '-')}-{shot.name}",
        marks=[pytest.mark.xfail(strict=True, reason=shot.missing)] if shot.missing else [],
    )
    for case in CASES
    for shot in case.fires
]
QUIET = [pytest.param(shot, id=f"{case.rule.replace(' ', '-')}-{shot.name}") for case in CASES for shot in case.quiet]
OPENS = 20_000
PRIORITIES = {"INFO": "Informational"}
FILES = 500
REAL_FILES = 200
MISSES = 1_000
SWAPS = 40
BUILD = f"""\
set -e
cd {WORK}
for n in 1 2; do
    printf '#include <stdio.h>\\nint main(void) {{ return printf("%d\\\\n", {{n}}) < 0; }}\\n' >unit.c
    sed -i "s/{{n}}/$n/" unit.c
    grep -q main unit.c
    if [ $n = 1 ] && command -v gcc >/dev/null; then gcc -c unit.c -o unit.o; fi
    find . -maxdepth 1 -name '*.o' | wc -l
done
"""


@pytest.fixture(scope="module")
def falco(playground: Playground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FalcoRange]:
    """One agent for the whole file."""
    if not RULES.exists():
        pytest.skip("no shared/corpora/falco/falco_rules.yaml beside the repository")
    shots = [shot for case in CASES for shot in (*case.fires, *case.quiet)]
    with falco_range(tmp_path_factory.mktemp("falco"), shots) as whole:
        yield whole


@pytest.fixture(scope="module")
def stable() -> dict[str, dict[str, Any]]:
    """The rules of the file, by name."""
    return {entry["rule"]: entry for entry in read_yaml(RULES.read_text()) if "rule" in entry}


def rules_of(alerts: list[dict[str, Any]]) -> list[str]:
    return [str(alert["rule"]) for alert in alerts]


def test_every_stable_rule_has_acts(falco: FalcoRange, stable: dict[str, dict[str, Any]]) -> None:
    assert {case.rule for case in CASES} == set(stable)
    assert all(case.fires and case.quiet for case in CASES)


def test_every_program_that_the_rules_ask_for_has_loaded(falco: FalcoRange) -> None:
    """One that the verifier refuses is left out with a warning; the rules that want it then stay silent."""
    assert "[event-unsupported]" not in falco.agent.log(), falco.agent.log()


@pytest.mark.parametrize(("rule", "shot"), FIRES)
def test_fires(rule: str, shot: Shot, falco: FalcoRange, stable: dict[str, dict[str, Any]], need: Callable[[list[str]], None]) -> None:
    need(shot.requires)
    result, alerts, texts = falco.act(shot)
    assert result.result == shot.outcome, f"{result}; alerts: {alerts}"
    assert rules_of(alerts) == [rule], alerts
    (alert,) = alerts
    wrong = differences(shot, alert, falco.expected(shot, texts))
    assert not wrong, "\n".join([*wrong, json.dumps(alert, indent=1, default=str)])
    priority = PRIORITIES.get(stable[rule]["priority"], stable[rule]["priority"].capitalize())
    assert (alert["dialect.falco.priority"], alert["dialect.falco.source"]) == (priority, "syscall")
    assert (alert["mode"], alert["action"]) == ("audit", "audit")
    assert set(alert["tags"]) == set(stable[rule]["tags"])
    assert str(alert["dialect.falco.output"]).startswith(stable[rule]["output"].partition("%")[0])


@pytest.mark.parametrize("shot", QUIET)
def test_stays_quiet(shot: Shot, falco: FalcoRange, need: Callable[[list[str]], None]) -> None:
    need(shot.requires)
    result, alerts, _ = falco.act(shot)
    assert result.result == shot.outcome, f"{result}; alerts: {alerts}"
    assert rules_of(alerts) == shot.instead, alerts


# ---- tricks ----


def test_a_name_changed_between_check_and_use(falco: FalcoRange) -> None:
    """Another thread changes the argument: an alert for each time that the kernel opened the file, whatever the memory says later."""
    result, alerts = falco.act_words("swap", "/etc/shadow", "/etc/shadox", str(SWAPS), program="cat")
    assert result.result == "ok", result
    opened, other = (int(word) for word in result.printed.split())
    assert opened == SWAPS
    assert other > 0, "the race did not happen"
    assert rules_of(alerts) == ["Read sensitive file untrusted"] * opened
    assert {alert["file.path"] for alert in alerts} == {"/etc/shadow"}


@pytest.mark.parametrize(("act", "asynchronous"), [("open", False), ("open-uring", True), ("open-compat", True)])
def test_what_passes_no_exit_of_a_system_call_is_marked(act: str, asynchronous: bool, falco: FalcoRange) -> None:
    file = str(WORK / "own/file")
    result, alerts = falco.act_words(act, file)
    assert result.result == "ok"
    assert rules_of(alerts) == ["Own read"], alerts
    fields = output_fields(alerts[0])
    assert (fields["fd.name"], fields["bpfence.path"], fields["evt.type"]) == (file, file, "openat")
    assert fields["bpfence.async"] is asynchronous
    if asynchronous:
        assert (fields["evt.rawres"], fields["fd.num"]) == (0, 2**31 - 1)
    else:
        assert fields["evt.rawres"] == fields["fd.num"] > 2


# ---- what is received ----

RECEIVED = [("recvfrom", "recvfrom", 64), ("recvmsg", "recvmsg", 64), ("recvmmsg", "recvmmsg", 64), ("recvmsg32", "recvmsg", 64)]


@pytest.mark.parametrize(("how", "kind", "size"), RECEIVED)
def test_a_datagram_that_comes_in(how: str, kind: str, size: int, falco: FalcoRange) -> None:
    result, alerts = falco.act_words("receive", how, ADDRESS, "5300", "40000")
    assert result.result == "ok"
    assert rules_of(alerts) == ["Own receive"], alerts
    fields = output_fields(alerts[0])
    name = f"{ADDRESS}:40000->{ADDRESS}:5300"
    assert (fields["fd.name"], fields["evt.arg.tuple"], fields["fd.cip"], fields["fd.sport"]) == (name, name, ADDRESS, 5300)
    assert (fields["evt.type"], fields["evt.rawres"], fields["evt.rawarg.size"], fields["fd.l4proto"]) == (kind, 5, size, "udp")
    assert fields["fd.num"] > 2
    assert fields["bpfence.async"] is (how == "recvmsg32")


def test_a_datagram_that_io_uring_receives(falco: FalcoRange, need: Callable[[list[str]], None]) -> None:
    need(["io_uring"])
    result, alerts = falco.act_words("receive", "recvmsg-uring", ADDRESS, "5300", "40000")
    assert result.result == "ok"
    assert rules_of(alerts) == ["Own receive"], alerts
    fields = output_fields(alerts[0])
    assert (fields["fd.name"], fields["evt.rawres"]) == (f"{ADDRESS}:40000->{ADDRESS}:5300", 5)
    assert fields["bpfence.async"] is True


@pytest.mark.parametrize(
    "words",
    [
        ("recvfrom", "127.0.7.7", "5300", "40000"), ("recvfrom", ADDRESS, "5300", "40000", "connected"), ("read", ADDRESS, "5300", "40000"),
        ("recv", ADDRESS, "5300", "40000"), ("recvmsg", ADDRESS, "5300", "40000", "nothing"),
    ],
)  # fmt: skip
def test_other_datagrams(words: tuple[str, ...], falco: FalcoRange) -> None:
    """From this host, from the peer of a connected socket, by another call, from nobody knows whom, and none at all."""
    result, alerts = falco.act_words("receive", *words)
    assert result.result == ("EAGAIN" if "nothing" in words else "ok")
    assert not alerts


def test_a_receive_that_fails_and_one_from_a_peer(falco: FalcoRange) -> None:
    result, alerts = falco.act_words("receive", "recvmsg", ADDRESS, "5300", "40000", "nothing", program="patient")
    assert (result.result, rules_of(alerts)) == ("EAGAIN", ["Own receive in vain"])
    fields = output_fields(alerts[0])
    assert (fields["evt.res"], fields["evt.type"], fields["fd.connected"]) == ("EAGAIN", "recvmsg", False)
    result, alerts = falco.act_words("receive", "recv", ADDRESS, "5300", "40000", "connected", program="patient")
    assert (result.result, rules_of(alerts)) == ("ok", ["Own receive in vain"])
    fields = output_fields(alerts[0])
    assert (fields["evt.res"], fields["evt.type"], fields["fd.name"]) == ("SUCCESS", "recvfrom", f"{ADDRESS}:40000->{ADDRESS}:5300")
    result, alerts = falco.act_words("receive", "recvmmsg", ADDRESS, "5300", "40000", "nothing", program="patient")
    assert (result.result, alerts) == ("EAGAIN", [])  # the end of what it could receive is no event of its own


# ---- changes of ids ----

SETID = [("setuid", 1), ("setreuid", 2), ("setresuid", 3), ("setgid", 1), ("setregid", 2), ("setresgid", 3)]


@pytest.mark.parametrize(("call", "ids"), SETID)
@pytest.mark.parametrize("table", ["", "32", "16"])
def test_a_change_of_ids_that_is_not_permitted(call: str, ids: int, table: str, falco: FalcoRange) -> None:
    result, alerts = falco.act_words("as", "7", "setid", call + table, *["33"] * ids, program="changer")
    assert result.result == "EPERM"
    assert rules_of(alerts) == ["Own change of ids"], alerts
    fields = output_fields(alerts[0])
    assert (fields["evt.type"], fields["evt.res"], fields["user.uid"]) == (call, "EPERM", 7)
    assert str(fields["evt.args"]).startswith("res=-1(EPERM) ")
    assert str(fields["evt.args"]).endswith("=33(www-data)")


def test_a_change_of_ids_that_is_permitted(falco: FalcoRange) -> None:
    result, alerts = falco.act_words("setid", "setuid", "33", program="changer")
    assert (result.result, rules_of(alerts)) == ("ok", ["Own change of ids"])
    fields = output_fields(alerts[0])
    assert (fields["evt.type"], fields["evt.res"], fields["user.uid"], fields["user.name"]) == ("setuid", "SUCCESS", 33, "www-data")
    result, alerts = falco.act_words("as", "7", "setid", "setuid", "33")
    assert (result.result, alerts) == ("EPERM", [])


# ---- names and arguments as the caller gave them ----


@pytest.mark.parametrize(
    ("words", "one", "source", "target"),
    [
        (("mkdir", "./raw"), ("{dir}/raw", "./raw"), None, None), (("mknod", "raw//a"), ("{dir}/raw/a", "raw//a"), None, None),
        (("chmod", "raw/../raw/a", "0600"), ("{dir}/raw/a", "raw/../raw/a"), None, None),
        (("chown", "raw/./a", "0", "0"), ("{dir}/raw/a", "raw/./a"), None, None),
        (("rename", "raw/./a", "raw//b"), None, ("{dir}/raw/a", "raw/./a"), ("{dir}/raw/b", "raw//b")),
        (("link", "raw/./b", "raw/c"), None, ("{dir}/raw/c", "raw/c"), ("{dir}/raw/b", "raw/./b")),
        (("symlink", "b", "raw/./d"), None, ("{dir}/raw/d", "raw/./d"), ("{dir}/b", "b")),
        (("symlinkat", "b", "raw", "./e"), None, ("{dir}/raw/e", "./e"), ("{dir}/b", "b")),
        (("bind-mount", "raw/../raw", "./raw"), None, ("raw/../raw", "raw/../raw"), ("{dir}/raw", "./raw")),
        (("unlinkat", "raw", "./e"), ("{dir}/raw/e", "./e"), None, None), (("unlink", "raw//d"), ("{dir}/raw/d", "raw//d"), None, None),
    ],
)  # fmt: skip
def test_names_as_given(
    words: tuple[str, ...], one: tuple[str, str] | None, source: tuple[str, str] | None, target: tuple[str, str] | None, falco: FalcoRange
) -> None:
    """One after the other in one folder, each by a relative name that is not the shortest."""
    quiet, _ = falco.act_words("chdir", str(WORK), "stat", ".")
    result, alerts = falco.act_words("chdir", str(WORK), *(["in-mount-ns"] if words[0] == "bind-mount" else []), *words, program="namer")
    assert (quiet.result, result.result) == ("ok", "ok")
    fields = output_fields([alert for alert in alerts if alert["rule"] == "Own names"][-1])
    for name, wanted in (("name", one), ("source", source), ("target", target)):
        found = (fields[f"fs.path.{name}"], fields[f"fs.path.{name}raw"])
        assert found == ((None, None) if wanted is None else tuple(text.format(dir=WORK) for text in wanted)), fields


def test_arguments_that_the_call_gives_back(falco: FalcoRange, need: Callable[[list[str]], None]) -> None:
    def arguments(*words: str) -> str:
        result, alerts = falco.act_words(*words, program="arguer")
        assert (result.result, rules_of(alerts)) == ("ok", ["Own arguments"])
        printed.append(result.printed)
        fields = output_fields(alerts[0])
        assert set(fields) >= {"thread.vmsize", "thread.vmrss"}
        return str(fields["evt.args"])

    printed: list[str] = []
    pair = arguments("socketpair")
    one, other = printed[0].split()[:2]
    assert f"fd1={one} fd2={other} " in pair
    assert "queuepct=0 queuelen=0 queuemax=4" in arguments("accept", "127.0.7.7", "5301")
    assert "resolve=0" in arguments("openat2", str(WORK / "own/made"), "wronly|creat")
    assert "mode=0644" in arguments("openat2", str(WORK / "own/made"), "wronly|creat")
    need(["io_uring"])
    assert "entries=4 sq_entries=4 cq_entries=8 flags=0 " in arguments("uring-setup")
    assert falco.act_words("socketpair")[1] == []


# ---- nothing for nobody ----


def usr_files() -> list[str]:
    """Files below /usr: some of those that are there, and, in a guest far quicker to open, more that were made for it."""
    found = []
    for folder, folders, names in os.walk("/usr/include"):
        folders.sort()
        found += [f"{folder}/{name}" for name in sorted(names)]
        if len(found) >= REAL_FILES:
            break
    made = Path("/usr/src/falco-range")
    for n in range(FILES):
        path = made / f"include-{n % 10}" / f"part-{n}.h"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        found.append(str(path))
    return found[:REAL_FILES] + found[-FILES:]


def test_opens_and_a_build_that_no_rule_is_about_put_nothing_through_the_ring_buffer(falco: FalcoRange) -> None:
    files = usr_files()
    assert len(files) > FILES
    missing = [f"/usr/lib/gcc/x86_64/{n}/../../../../include/y.h" for n in range(10)]
    (WORK / "list").write_text("\n".join(files) + "\n")
    (WORK / "missing").write_text("\n".join(missing) + "\n")
    falco.agent.settle()
    seen = len(falco.record.read_text().splitlines())
    before = falco.written()
    cgroup = cgroup_folder(HOST)

    def run(*words: str) -> str:
        done = subprocess.run(
            words,
            cwd=WORK,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            preexec_fn=lambda: enter(cgroup),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    once = run(str(BIN / "cc1"), "open-list", str(WORK / "list"), "1").split()
    assert once == [str(len(files)), "0"]
    (WORK / "list").write_text("\n".join(files[-FILES:]) + "\n")
    assert run(str(BIN / "cc1"), "open-list", str(WORK / "list"), str(OPENS // FILES)).split() == [str(OPENS), "0"]
    assert run(str(BIN / "cc1"), "open-list", str(WORK / "missing"), str(MISSES // len(missing))).split() == ["0", str(MISSES)]
    # Below a program that the agent has seen start: of this process, older than it, the kernel does not know the arguments.
    run(str(BIN / "tool"), "then", "/bin/sh", "-c", BUILD)
    after = falco.written()
    alerts = falco.alerts()
    candidates = [json.loads(line) for line in falco.record.read_text().splitlines()[seen:]]
    assert after == before, [(event["type"], event.get("argv"), event["args"]) for event in candidates]
    assert not alerts


# ---- rules that block ----


def test_a_rule_with_an_overlay_denies(falco: FalcoRange) -> None:
    file = str(WORK / "guarded/file")
    for words in (["open", file, "wronly"], ["open-uring", file, "rdwr"], ["open-handle", file, "wronly", str(WORK)]):
        result, alerts = falco.act_words(*words)
        assert result.result == "EACCES", (words, result)
        assert rules_of(alerts) == ["Own guard"], alerts
        (alert,) = alerts
        assert (alert["action"], alert["mode"], alert["errno"]) == ("deny", "enforce", "EACCES")
        assert alert["file.path"] == file
        fields = output_fields(alert)
        assert (fields["fd.name"], fields["proc.name"]) == (file, "tool")
        assert f"guarded | file={file} process=tool command=tool {words[0]}" in alert["dialect.falco.output"]
        assert alert["dialect.falco.priority"] == "Critical"
    result, alerts = falco.act_words("open", file)
    assert (result.result, alerts) == ("ok", [])


def test_a_rule_kills(falco: FalcoRange) -> None:
    result, alerts = falco.act_words("open", str(WORK / "fatal"))
    assert result.result == "killed"
    assert rules_of(alerts) == ["Own kill"], alerts
    assert (alerts[0]["action"], alerts[0]["mode"]) == ("kill", "enforce")
    assert output_fields(alerts[0])["fd.name"] == str(WORK / "fatal")
    assert falco.act_words("open", str(WORK / "fatal"), "wronly")[0].result == "ok"


# ---- lines and recording ----


def test_standard_output_has_falcos_lines(falco: FalcoRange) -> None:
    result, alerts, _ = falco.act(Shot(name="shred", program="shred", idle=["-u", "disk.img"]))
    assert result.result == "ok"
    lines: list[dict[str, Any]] = []
    deadline = time.monotonic() + 10
    while not lines and time.monotonic() < deadline:
        texts = falco.agent.log_path.read_text().splitlines()
        lines = [json.loads(line) for line in texts if line.startswith("{") and "shred -u disk.img" in line]
        time.sleep(0.05)
    line, fields = lines[-1], output_fields(alerts[0])
    assert set(line) == {"hostname", "output", "output_fields", "priority", "rule", "source", "tags", "time"}
    assert (line["rule"], line["priority"], line["source"]) == ("Remove Bulk Data from Disk", "Warning", "syscall")
    assert {name: value for name, value in line["output_fields"].items() if name != "evt.time"} == fields
    assert line["output"].endswith(f": Warning {alerts[0]['dialect.falco.output']}")
    assert line["time"] == alerts[0]["time"]


def test_what_was_recorded_replays_to_the_same_alerts(falco: FalcoRange) -> None:
    """The last test of the file: everything that the agent saw, decided once more by `bpfence test`."""
    falco.act(Shot(name="shred", program="shred", idle=["-u", "disk.img"]))
    seen = [alert for alert in falco.agent.seen if alert.get("kind") == "alert" and alert.get("policy") == "falco"]
    assert seen
    command = [*COMMAND, "test", str(RULES), str(falco.own), str(falco.record), "--format", "falco"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    replayed = [json.loads(line) for line in done.stdout.splitlines()]
    enforced = {"Own guard", "Own kill"}
    assert Counter(line["rule"] for line in replayed if line["rule"] not in enforced) == Counter(rules_of(seen))
    fields = Counter(json.dumps(output_fields(alert), sort_keys=True) for alert in seen)
    again = Counter(
        json.dumps({name: value for name, value in line["output_fields"].items() if name != "evt.time"}, sort_keys=True)
        for line in replayed
        if line["rule"] not in enforced
    )
    assert again == fields
