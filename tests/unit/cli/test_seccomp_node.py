# SPDX-License-Identifier: Apache-2.0
"""`bpfence seccomp install` and `uninstall`, as a user calls them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bpfence.seccomp.profile import load
from tests.unit.cli.test_policies import answer, call, code
from tests.unit.cli.test_seccomp import PROFILE

MACHINE = ("--arch", "x86_64", "--kernel", "6.12")
PAGE = Path(__file__).resolve().parents[3] / "docs" / "seccomp.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path / "seccomp"


def write(path: Path, value: Any = PROFILE) -> Path:
    path.write_text(json.dumps(value) if path.suffix == ".json" else yaml.safe_dump_all(value))
    return path


def named(kind: str, name: str, namespace: str = "", **profile: Any) -> dict[str, Any]:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": "bpfence.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": {"profile": PROFILE | profile}}


def install(folder: Path, *words: object) -> Any:
    return call("seccomp", "install", "--root", folder, *MACHINE, *words)


def test_a_profile_as_this_machine_resolves_it(folder: Path) -> None:
    result = install(folder, write(folder.parent / "web.json"))
    assert (code(result), result.stdout) == (0, f"installed {folder}/web.json\n")
    assert "localhostProfile: web.json" in result.stderr
    profile, wrong = load(folder / "web.json")
    assert profile is not None
    assert [one for one in wrong if one.severity == "error"] == []
    names = {name for rule in profile.rules for name in rule.names}
    assert "cachestat" in names  # minKernel: 6.5
    assert "mount" not in names  # caps: CAP_SYS_ADMIN
    assert all(not rule.includes for rule in profile.rules)
    assert install(folder, folder.parent / "web.json").stdout == f"unchanged {folder}/web.json\n"
    assert (
        "mount"
        in call("seccomp", "install", "--root", folder, *MACHINE, "--cap", "all", folder.parent / "web.json").stdout
        + (folder / "web.json").read_text()
    )


def test_under_another_path_and_as_json(folder: Path) -> None:
    found = answer(install(folder, "--json", "--as", "team/web.json", write(folder.parent / "x.json")))
    assert found["profiles"] == [{"localhostProfile": "team/web.json", "file": f"{folder}/team/web.json", "done": "new"}]
    assert (folder / "team" / "web.json").exists()


def test_objects(folder: Path) -> None:
    path = write(
        folder.parent / "all.yaml",
        [
            {"kind": "List", "items": [named("SeccompProfile", "web", "shop"), named("SeccompProfile", "web")]},
            named("ClusterSeccompProfile", "web"),
        ],
    )
    install(folder, path)
    assert sorted(str(found.relative_to(folder)) for found in folder.rglob("*.json")) == [
        "bpfence/default/web.json", "bpfence/shop/web.json", "bpfence/web.json",
    ]  # fmt: skip
    one = write(folder.parent / "one.json", named("SeccompProfile", "api", "shop"))
    assert f"installed {folder}/bpfence/shop/api.json" in install(folder, one).stdout


def test_nothing_is_installed_where_one_is_wrong(folder: Path) -> None:
    good = write(folder.parent / "good.json")
    broken = write(folder.parent / "broken.json", PROFILE | {"defaultAction": "x"})
    unknown = write(folder.parent / "unknown.json", PROFILE | {"syscalls": [{"names": ["raed"], "action": "SCMP_ACT_ALLOW"}]})
    for bad in (broken, unknown):
        result = install(folder, good, bad)
        assert code(result) == 2
        assert not folder.exists()
    assert "did you mean 'read'?" in install(folder, unknown).stderr
    assert code(install(folder, "--force", broken)) == 2
    assert code(install(folder, "--force", unknown)) == 0


@pytest.mark.parametrize(
    "text", ["", "a: b: c", "[]", "{", "kind: Pod", "a: 1\n---\nb: 2", "\x1b", "apiVersion: bpfence.io/v1alpha1\nkind: SeccompProfile\n"]
)
@pytest.mark.parametrize("name", ["x.json", "x.yaml"])
def test_files_that_hold_something_else(folder: Path, text: str, name: str) -> None:
    (folder.parent / name).write_text(text)
    result = install(folder, folder.parent / name)
    assert code(result) == 2
    assert "\x1b" not in result.output
    assert not folder.exists()


@pytest.mark.parametrize("path", ["../x.json", "/x.json", "a/../../x", ".x", ""])
def test_paths_that_lead_out(folder: Path, path: str) -> None:
    assert code(install(folder, "--as", path, write(folder.parent / "web.json"))) == 2
    assert code(call("seccomp", "uninstall", "--root", folder, path)) == 2
    assert sorted(os.listdir(folder.parent)) == ["web.json"]


def test_two_at_one_place(folder: Path) -> None:
    (folder.parent / "other").mkdir()
    files = write(folder.parent / "web.json"), write(folder.parent / "other" / "web.json")
    assert code(install(folder, *files)) == 2
    assert code(install(folder, "--as", "x.json", *files)) == 2


def test_no_kubelet(tmp_path: Path) -> None:
    result = install(tmp_path / "nowhere" / "seccomp", write(tmp_path / "web.json"))
    assert code(result) == 2
    assert f"{tmp_path}/nowhere/seccomp" in result.stderr


def test_uninstall(folder: Path) -> None:
    install(folder, "--as", "team/web.json", write(folder.parent / "web.json"))
    result = call("seccomp", "uninstall", "--root", folder, "team/web.json", "other.json")
    assert (code(result), result.stdout) == (1, f"removed {folder}/team/web.json\nnot there: {folder}/other.json\n")
    assert os.listdir(folder) == []
    assert answer(call("seccomp", "uninstall", "--root", folder, "--json", "x.json")) == {"removed": [], "not_there": ["x.json"]}


def test_export_and_import(folder: Path) -> None:
    """bpfence's own object is what is exported, imported and installed alike."""
    profile = write(folder.parent / "web.json")
    made = folder.parent / "web.yaml"
    call("seccomp", "export", *MACHINE, "--format", "seccompprofile", "--name", "web", "-o", made, profile)
    document = yaml.safe_load(made.read_text())
    assert (document["apiVersion"], document["kind"], document["metadata"]) == ("bpfence.io/v1alpha1", "SeccompProfile", {"name": "web"})
    install(folder, made)
    call("seccomp", "export", *MACHINE, "--format", "oci", "-o", folder.parent / "oci.json", profile)
    call("seccomp", "import", made, "-o", folder.parent / "back.json")
    assert load(folder.parent / "back.json")[0] is not None
    assert (folder / "bpfence" / "default" / "web.json").read_bytes() == (folder.parent / "oci.json").read_bytes()
    assert (folder.parent / "back.json").read_bytes() == (folder.parent / "oci.json").read_bytes()


def test_the_page_shows_what_the_commands_print(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGE.read_text().partition("## On nodes")[2]
    text = re.search(r"```yaml\n(.*?)```", page, re.S)
    assert text is not None
    (folder.parent / "web.yaml").write_text(text[1])
    assert f"installed {folder}/bpfence/shop/web.json" in install(folder, folder.parent / "web.yaml").stdout
    monkeypatch.chdir(PAGE.parents[1])
    shown = re.search(r"```console\n\$ sudo bpfence (.*?)\n(.*?)```", page, re.S)
    assert shown is not None
    result = call(*shown[1].split(), "--root", folder, *MACHINE)
    assert shown[2] == (result.stdout + result.stderr).replace(str(folder), "/var/lib/kubelet/seccomp")
