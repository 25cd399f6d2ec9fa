# SPDX-License-Identifier: Apache-2.0
"""`bpfence pod`, as a user calls it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bpfence.cli.main import cli
from tests.unit.cli.test_policies import answer, call, code

CASES = Path(__file__).resolve().parents[2] / "cases" / "pods"
BAD = "kind: Pod\nmetadata: {name: p}\nspec:\n  hostPID: true\n  containers: [{name: a, image: a}]\n"


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    path = tmp_path / "pod.yaml"
    path.write_text(BAD)
    return path


# ---- check ----


def test_check(pod: Path) -> None:
    result = call("pod", "check", pod)
    assert code(result) == 1
    assert f"{pod}:4:12: error: hostPID is true (baseline: Host Namespaces): " in result.stdout
    assert "Pod p meets neither baseline nor restricted" in result.stdout
    assert "1 workload: 1 error, " in result.stderr


def test_check_json(pod: Path) -> None:
    found = answer(call("pod", "check", "--json", "--level", "baseline", pod))
    assert (found["errors"], found["warnings"]) == (1, 0)
    (finding,) = found["findings"]
    assert (finding["code"], finding["control"], finding["level"], finding["line"], finding["path"]) == (
        "host-namespace", "Host Namespaces", "baseline", 4, "spec.hostPID",
    )  # fmt: skip
    assert [(one["kind"], one["name"], one["level"]) for one in found["workloads"]] == [("Pod", "p", "privileged")]


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("restricted.yaml", [], 0), ("restricted.yaml", ["--strict"], 0), ("restricted.yaml", ["--level", "restricted"], 0),
        ("helm-output.yaml", [], 0), ("helm-output.yaml", ["--strict"], 1), ("helm-output.yaml", ["--level", "baseline"], 0),
        ("helm-output.yaml", ["--level", "restricted"], 1),
        ("compact.json", ["--level", "privileged"], 0), ("indentless.yaml", [], 1), ("compact.json", [], 1),
    ],
)  # fmt: skip
def test_exit_codes_of_check(name: str, options: list[str], wanted: int) -> None:
    assert code(call("pod", "check", *options, CASES / name)) == wanted


def test_check_standard_input() -> None:
    result = call("pod", "check", "-", stdin=BAD)
    assert code(result) == 1
    assert "<stdin>:4:12" in result.stdout


def test_what_cannot_be_read(tmp_path: Path, pod: Path) -> None:
    assert code(call("pod", "check", "--json", "/proc/self/mem")) == 2
    (tmp_path / "x.yaml").write_text("kind: 'Pod\x1b[31m")
    for command in ("check", "harden"):
        result = call("pod", command, tmp_path / "x.yaml")
        assert code(result) == {"check": 1, "harden": 2}[command]
        assert "\x1b" not in result.output
        assert "x.yaml:1:11: error: the character U+001B" in result.output
    call("pod", "harden", "--in-place", pod, tmp_path / "x.yaml")
    assert pod.read_text() == BAD  # nothing is written where one cannot be read


def test_names_are_made_printable(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"kind": "Pod", "metadata": {"name": "\\u001b[31m"}, "spec": {"containers": [{"name": "\\u009b1m\\u202e"}]}}')
    for words in (["check"], ["check", "--json"], ["harden", "--diff"]):
        result = call("pod", *words, path)
        assert not {"\x1b", "\x9b", "\u202e"} & set(result.stdout + result.stderr)


# ---- harden ----


def test_harden(pod: Path) -> None:
    result = call("pod", "harden", pod)
    assert code(result) == 1
    assert result.stdout.startswith(
        "kind: Pod\nmetadata: {name: p}\nspec:\n  hostPID: true\n  containers: [{name: a, image: a, securityContext: {"
    )
    assert "left: hostPID is true (baseline: Host Namespaces)" in result.stderr
    assert pod.read_text() == BAD


def test_harden_in_place(pod: Path) -> None:
    pod.chmod(0o640)
    link = pod.parent / "link.yaml"
    link.symlink_to(pod)
    result = call("pod", "harden", "--in-place", "--replace", "--user", "7", "--read-only-root", "--seccomp", "Localhost:a.json", link)
    assert code(result) == 0
    assert result.stdout == ""
    assert link.is_symlink()
    assert pod.stat().st_mode & 0o777 == 0o640
    assert "hostPID: false" in pod.read_text()
    assert code(call("pod", "check", "--level", "restricted", pod)) == 0
    before = pod.stat().st_ino
    assert code(call("pod", "harden", "--in-place", pod)) == 0
    assert pod.stat().st_ino == before  # nothing to do: not written
    assert sorted(os.listdir(pod.parent)) == ["link.yaml", "pod.yaml"]


def test_harden_to_a_file(pod: Path) -> None:
    made = pod.parent / "made.yaml"
    result = call("pod", "harden", "-o", made, pod)
    assert (code(result), result.stdout) == (1, "")  # hostPID is left
    assert made.read_text() == call("pod", "harden", pod).stdout
    assert made.stat().st_mode & 0o777 == pod.stat().st_mode & 0o777
    made.chmod(0o600)
    assert code(call("pod", "harden", "--replace", "-o", made, pod)) == 0
    assert made.stat().st_mode & 0o777 == 0o600
    assert pod.read_text() == BAD
    assert code(call("pod", "harden", "-o", made, pod, pod)) == 2
    assert sorted(os.listdir(pod.parent)) == ["made.yaml", "pod.yaml"]


def test_harden_diff_and_json(pod: Path) -> None:
    assert "\n+  securityContext:\n" in call("pod", "harden", "--diff", pod).stdout
    (found,) = answer(call("pod", "harden", "--json", pod))["files"]
    assert not found["meets"]
    assert "runAsNonRoot: true" in found["manifest"]
    assert {one["code"] for one in found["changed"] + found["left"] + found["notes"]} == {"hardened", "left", "not-known"}


@pytest.mark.parametrize(
    "words",
    [
        ["--seccomp", "nonsense"], ["--seccomp", "Localhost:/x"], ["--seccomp", "Localhost:a/../b"], ["--user", "0"],
        ["--in-place", "--diff"], ["--in-place", "-"], ["-o", "x", "--diff"], ["-o", "x", "--in-place"], ["-o", "/proc/x"], ["-o", "/"],
        ["--level", "privileged"],
    ],
)  # fmt: skip
def test_harden_options_that_make_no_sense(words: list[str], pod: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "bpfence", "pod", "harden", *words, str(pod)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: " in done.stderr


def test_several_manifests_do_not_become_one(pod: Path) -> None:
    assert code(call("pod", "harden", pod, pod)) == 2
    assert code(call("pod", "harden", "--diff", pod, pod)) == 1


def test_bytes_are_kept(tmp_path: Path) -> None:
    for case in CASES.iterdir():
        first = CliRunner().invoke(cli, ["pod", "harden", str(case)], standalone_mode=False).stdout_bytes
        (tmp_path / case.name).write_bytes(first)
        assert CliRunner().invoke(cli, ["pod", "harden", str(tmp_path / case.name)], standalone_mode=False).stdout_bytes == first
        assert first.startswith(case.read_bytes()[:20])


# ---- the page ----


def test_the_page_shows_what_the_commands_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (CASES.parents[2] / "docs" / "pods.md").read_text()
    manifest = re.search(r"```yaml\n(.*?)```", page, re.S)
    assert manifest is not None
    (tmp_path / "web.yaml").write_text(manifest[1])
    monkeypatch.chdir(tmp_path)
    shown = re.findall(r"```console\n\$ bpfence (.*?)\n(.*?)```", page, re.S)
    assert len(shown) == 3
    for words, printed in shown:
        result = call(*words.split())
        assert result.stdout + result.stderr == printed
