# SPDX-License-Identifier: Apache-2.0
"""`bpfence seccomp`, as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from bpfence.cli.seccomp import group
from bpfence.seccomp.filter import compile_filter
from bpfence.seccomp.profile import load, load_bytes
from bpfence.syscalls.architectures import Arch
from tests.unit.cli.test_policies import answer, call, code

PROFILE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"],
    "syscalls": [
        {"names": ["read", "write", "close", "execve", "exit_group", "futex"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["cachestat"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.5"}},
    ],
}
MACHINE = ("--arch", "x86_64", "--kernel", "6.12")


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return write(tmp_path / "p.json")


def write(path: Path, **changed: Any) -> Path:
    path.write_text(json.dumps(PROFILE | changed))
    return path


# ---- check ----


def test_check_good(profile: Path) -> None:
    result = call("seccomp", "check", *MACHINE, profile)
    assert code(result) == 0
    assert "[libc-needs]" in result.stdout
    assert "1 profile: 0 errors" in result.stderr
    assert code(call("seccomp", "check", "--strict", *MACHINE, profile)) == 1


def test_check_finds(profile: Path) -> None:
    write(profile, syscalls=[{"names": ["raed"], "action": "SCMP_ACT_ALLOW"}])
    result = call("seccomp", "check", *MACHINE, profile)
    assert code(result) == 1
    assert "did you mean 'read'?" in result.stdout
    found = answer(call("seccomp", "check", "--json", *MACHINE, profile))
    assert "unknown-syscall" in [finding["code"] for finding in found["findings"]]
    assert found["errors"] == 1


def test_check_what_is_no_profile(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"a": \x1b[31m}')
    result = call("seccomp", "check", tmp_path / "p.json")
    assert code(result) == 1
    assert "\x1b" not in result.output


def test_check_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.json").write_text("{}")
    (tmp_path / "p.json").chmod(0)

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    assert code(call("seccomp", "check", tmp_path / "p.json")) == 2


# ---- explain ----


def test_explain(profile: Path) -> None:
    result = call("seccomp", "explain", *MACHINE, profile, "read", "personality", "mount", "bpf")
    assert code(result) == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert "ALLOW" in lines["read"]
    assert "ALLOW if persona == 8; else ERRNO(EPERM)" in lines["personality"]
    assert "needs CAP_SYS_ADMIN" in lines["mount"]
    assert "default" in lines["bpf"]
    assert "x32: " in result.stderr


def test_explain_takes_the_machine(profile: Path) -> None:
    def verdict(name: str, *options: str) -> str:
        (entry,) = answer(call("seccomp", "explain", "--json", "--on", "x86_64", *options, profile, name))["calls"]
        return str(entry["cases"][-1]["verdict"])

    assert verdict("mount", "--arch", "amd64") == "ERRNO(EPERM)"
    assert verdict("mount", "--arch", "amd64", "--cap", "docker", "--cap", "sys_admin") == "ALLOW"
    assert verdict("mount", "--arch", "amd64", "--cap", "all") == "ALLOW"
    assert verdict("cachestat", *MACHINE) == "ALLOW"
    assert verdict("cachestat", "--arch", "amd64", "--kernel", "6.1.0-13-amd64") == "ERRNO(EPERM)"
    assert verdict("mseal", "--arch", "amd64", "--enosys") == "ERRNO(ENOSYS)"


def test_explain_selects(profile: Path) -> None:
    found = answer(call("seccomp", "explain", "--json", *MACHINE, "--status", "conditional", profile))
    assert {(entry["arch"], entry["name"]) for entry in found["calls"]} == {("x86_64", "personality"), ("x32", "personality")}
    assert found["architectures"] == ["x86_64", "x32"]
    assert found["flags"] == ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    assert [left["reason"] for left in found["left_out"]] == ["includes: needs CAP_SYS_ADMIN"]
    shown = call("seccomp", "explain", *MACHINE, "--on", "x32", profile, "execve")
    assert "520" in shown.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--arch", "vax"), "write one of"),
        (("--arch", "s390x"), "write one of"),
        (("--cap", "nonsense"), "not a capability"),
        (("--kernel", "new"), "not a kernel version"),
        (("--arch", "x86_64", "--on", "arm"), "does not cover arm"),
    ],
)
def test_explain_refuses(profile: Path, options: tuple[str, ...], message: str) -> None:
    result = call("seccomp", "explain", *options, profile)
    assert code(result) == 2
    assert message in result.stderr


def test_explain_unknown_calls(profile: Path) -> None:
    result = call("seccomp", "explain", *MACHINE, profile, "no\x1bcall")
    assert code(result) == 2
    assert "\x1b" not in result.output


def test_a_profile_with_mistakes_is_refused(profile: Path) -> None:
    write(profile, defaultAction="no")
    for command in (["explain"], ["export", "--format", "oci"]):
        result = call("seccomp", *command, profile)
        assert code(result) == 2
        assert "[bad-action]" in result.stderr
    assert answer(call("seccomp", "explain", "--json", profile))["findings"][0]["code"] == "bad-action"


# ---- diff and merge ----


def test_diff(profile: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "q.json", syscalls=[*PROFILE["syscalls"], {"names": ["openat"], "action": "SCMP_ACT_ALLOW"}])
    assert code(call("seccomp", "diff", *MACHINE, profile, profile)) == 0
    result = call("seccomp", "diff", *MACHINE, profile, other)
    assert code(result) == 1
    assert "allows 2 calls that the first denies, and denies 0 that it allows" in result.stderr
    changes = answer(call("seccomp", "diff", "--json", *MACHINE, other, profile))["changes"]
    assert [(change["kind"], change["name"], change["args"]) for change in changes] == [("less", "openat", None)] * 2


def test_merge(profile: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "q.json", syscalls=[{"names": ["openat", "read"], "action": "SCMP_ACT_ALLOW"}])
    result = call("seccomp", "merge", profile, other, "-o", tmp_path / "merged.json")
    assert code(result) == 0
    merged, _ = load(tmp_path / "merged.json")
    assert merged is not None
    assert {"openat", "read", "mount"} <= {name for rule in merged.rules for name in rule.names}
    write(other, defaultAction="SCMP_ACT_ALLOW")
    assert code(call("seccomp", "merge", profile, other)) == 2


# ---- export and import ----


def test_export_bpf(profile: Path, tmp_path: Path) -> None:
    assert code(call("seccomp", "export", "--format", "bpf", *MACHINE, "-o", tmp_path / "f.bpf", profile)) == 0
    loaded, _ = load(profile)
    assert loaded is not None
    expected = compile_filter(loaded, Arch.X86_64, kernel=(6, 12)).program
    assert (tmp_path / "f.bpf").read_bytes() == expected
    assert call("seccomp", "export", "--format", "bpf", *MACHINE, profile).stdout_bytes == expected
    assert "base64" in answer(call("seccomp", "export", "--format", "bpf", "--json", *MACHINE, profile))


@pytest.mark.parametrize("format", ["pfc", "oci", "systemd", "podman-run", "k8s"])
def test_export_texts(profile: Path, format: str) -> None:
    result = call("seccomp", "export", "--format", format, *MACHINE, profile)
    assert code(result) == 0
    assert result.stdout == answer(call("seccomp", "export", "--format", format, "--json", *MACHINE, profile))["text"]


def test_export_says_what_it_leaves_out(profile: Path) -> None:
    result = call("seccomp", "export", "--format", "systemd", *MACHINE, profile)
    assert "personality is denied whatever they are" in result.stderr
    assert "SystemCallFilter=" in result.stdout


def test_export_brings_a_pod_up_to_date(profile: Path, tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").write_text("kind: Pod\nmetadata: {annotations: {seccomp.security.alpha.kubernetes.io/pod: unconfined}}\n")
    result = call("seccomp", "export", "--format", "k8s", "--pod", tmp_path / "pod.yaml", *MACHINE, profile)
    assert code(result) == 0
    assert "[obsolete]" in result.stderr
    assert "type: Unconfined" in result.stdout
    (tmp_path / "pod.yaml").write_text("kind: Pod\n---\nkind: Pod\n")
    assert "holds 2 objects" in call("seccomp", "export", "--format", "k8s", "--pod", tmp_path / "pod.yaml", profile).stderr
    (tmp_path / "pod.yaml").write_text("a: [")
    result = call("seccomp", "export", "--format", "k8s", "--pod", tmp_path / "pod.yaml", profile)
    assert code(result) == 2
    assert "[yaml-syntax]" in result.stderr


def test_export_where_nothing_can_be_written(profile: Path, tmp_path: Path) -> None:
    result = call("seccomp", "export", "--format", "oci", "-o", tmp_path / "no" / "p.json", *MACHINE, profile)
    assert code(result) == 2


def test_import(profile: Path, tmp_path: Path) -> None:
    exported = call("seccomp", "export", "--format", "k8s", *MACHINE, profile).stdout.split("---\n")[0]
    (tmp_path / "object.yaml").write_text(exported)
    result = call("seccomp", "import", tmp_path / "object.yaml")
    assert code(result) == 0
    back, found = load_bytes(result.stdout_bytes)
    assert found == []
    assert back is not None
    assert back.architectures == (Arch.X86_64, Arch.X32)
    assert "profile" in answer(call("seccomp", "import", "--json", tmp_path / "object.yaml"))


def test_import_what_is_something_else(profile: Path, tmp_path: Path) -> None:
    result = call("seccomp", "import", profile)
    assert code(result) == 2
    assert "not a SeccompProfile" in result.stderr
    (tmp_path / "two.yaml").write_text("a: 1\n---\na: 2\n")
    assert "holds no SeccompProfile among its 2 objects" in call("seccomp", "import", tmp_path / "two.yaml").stderr


def test_import_of_one_among_several(profile: Path, tmp_path: Path) -> None:
    words = ("seccomp", "export", "--format", "k8s", *MACHINE)
    texts = [call(*words, "--name", name, profile).stdout.split("---\n")[0] for name in ("nginx", "redis")]
    texts[1] = texts[1].replace("name: redis", "name: redis\n  namespace: web").replace("read", "write", 1)
    one, both = tmp_path / "one.yaml", tmp_path / "both.yaml"
    one.write_text(texts[0] + "---\nkind: Pod\n")
    assert code(call("seccomp", "import", one)) == 0, "the only SeccompProfile of the file"
    both.write_text("---\n".join(texts))
    refused = call("seccomp", "import", both)
    assert (code(refused), "holds 2 SeccompProfiles: choose one with --name (nginx, web/redis)" in refused.stderr) == (2, True)
    chosen = [call("seccomp", "import", "--name", name, both).stdout for name in ("nginx", "redis", "web/redis")]
    assert chosen[1] == chosen[2] != chosen[0] == call("seccomp", "import", one).stdout
    assert "no SeccompProfile of the name apache" in call("seccomp", "import", "--name", "apache", both).stderr
    items = [json.loads(json.dumps(value)) for text in texts for value in yaml.safe_load_all(text)]
    (tmp_path / "list.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    assert call("seccomp", "import", "--name", "redis", tmp_path / "list.json").stdout == chosen[1]


def test_commands_about_profiles_import_nothing_of_the_agent(profile: Path) -> None:
    script = "import sys; from bpfence.cli.main import main; sys.argv[1:] = sys.argv[2:]; main(); print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", script, "-", "seccomp", "export", "--format", "oci", str(profile)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split()[-2000:])
    assert "bpfence.seccomp.export" in loaded
    heavy = {"agent", "compiler", "kernel", "outputs", "dialects", "alerts"}
    assert {f"bpfence.{name}" for name in heavy} & loaded == set()


def test_every_command_has_examples() -> None:
    for command in [group.get_command(click.Context(group), name) for name in group.list_commands(click.Context(group))]:
        assert command is not None
        assert command.help is not None
        assert "Examples:" in command.help, command.name
