# SPDX-License-Identifier: Apache-2.0
"""What packages say of themselves; pip, dpkg and rpm are asked in tests/e2e/test_packages.py."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tools import build_packages
from tools.build_packages import COMPLETION, SCRIPTS, BuildError, build_deb, build_rpm, control, newest_wheel, sbom, spec, sums


def distribution(home: Path, name: str, version: str, *more: str) -> None:
    folder = home / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("\n".join(("Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *more)) + "\n")


def test_the_control_file_names_what_the_package_needs() -> None:
    fields = dict(line.split(": ", 1) for line in control("1.2", 3).splitlines() if not line.startswith(" "))
    assert (fields["Package"], fields["Version"], fields["Installed-Size"]) == ("bpfence", "1.2", "3")
    assert f"python{build_packages.PYTHON}," in fields["Depends"]
    assert all(len(line) > 1 for line in control("1.2", 3).splitlines())


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_shell(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(SCRIPTS[name])
    assert subprocess.run(["sh", "-n", str(file)], check=False).returncode == 0
    assert subprocess.run(["sh", str(file), "upgrade"], check=False).returncode == 0  # of that the others see


@pytest.mark.parametrize("kind", ["deb", "rpm"])
def test_what_is_kept_in_force_is_taken_away_with_the_command(kind: str, tmp_path: Path) -> None:
    script = SCRIPTS["prerm"] if kind == "deb" else spec("1.2", tmp_path, []).partition("%preun\n")[2].partition("\n%postun")[0]
    command = tmp_path / "bpfence"
    command.write_text(f"#!/bin/sh\necho $* >>{tmp_path}/said\nexit 3\n")
    command.chmod(0o755)
    script = script.replace(build_packages._HERE, "false")
    for words, said in ((("upgrade", "2") if kind == "deb" else ("1",), False), (("remove",) if kind == "deb" else ("0",), True)):
        done = subprocess.run(["sh", "-c", script, "sh", *words], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
        assert (done.returncode, (tmp_path / "said").exists()) == (0, said)
    assert (tmp_path / "said").read_text() == "unload\n"


def test_modes_are_not_those_of_the_mask(tmp_path: Path) -> None:
    root = tmp_path / "root"
    before = os.umask(0o077)
    try:
        for folder in ("usr/lib/bpfence/bpfence", build_packages.LOGS):
            (root / folder).mkdir(parents=True)
        build_packages.put(root, "usr/lib/bpfence/bpfence/a.py", "")
        build_packages.put(root, "usr/bin/bpfence", "", 0o755)
    finally:
        os.umask(before)
    build_packages.modes(root)
    found = {str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in (root, *root.rglob("*"))}
    assert found.pop(build_packages.LOGS) == 0o750
    assert found.pop("usr/lib/bpfence/bpfence/a.py") == 0o644
    assert set(found.values()) == {0o755}


def test_the_spec_lists_its_files(tmp_path: Path) -> None:
    made = spec("1.2", tmp_path, ["/usr/bin/bpfence", "%config(noreplace) /etc/bpfence/bpfence.yaml"])
    assert "\nVersion: 1.2\n" in made
    assert made.endswith("/usr/bin/bpfence\n%config(noreplace) /etc/bpfence/bpfence.yaml\n")
    assert COMPLETION["rpm"]["bash"] == COMPLETION["deb"]["bash"]


def test_the_sbom_names_every_part_with_version_and_licence(tmp_path: Path) -> None:
    home = tmp_path / "home"
    distribution(home, "bpfence", "1.2", "License-Expression: Apache-2.0")
    distribution(home, "Some_Library", "3.4", "License: MIT")
    distribution(home, "other", "5", "Classifier: License :: OSI Approved :: BSD License")
    distribution(home, "silent", "6")
    (home / "bpfence.libs").mkdir()
    (home / "bpfence.libs" / "libx.so.1").write_bytes(b"x")
    wheel = tmp_path / "bpfence.whl"
    wheel.write_bytes(b"wheel")
    made = sbom(home, wheel)
    whole = made["metadata"]["component"]
    assert (made["bomFormat"], made["specVersion"], whole["type"], whole["purl"]) == (
        "CycloneDX",
        "1.5",
        "application",
        "pkg:pypi/bpfence@1.2",
    )
    assert whole["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(b"wheel").hexdigest()}]
    by_name = {part["name"]: part for part in made["components"]}
    assert by_name["some-library"]["purl"] == "pkg:pypi/some-library@3.4"
    assert by_name["some-library"]["licenses"] == [{"license": {"name": "MIT"}}]
    assert by_name["other"]["licenses"] == [{"license": {"name": "BSD License"}}]
    assert "licenses" not in by_name["silent"]
    assert by_name["libx.so.1"]["hashes"][0]["content"] == hashlib.sha256(b"x").hexdigest()
    references = [whole["bom-ref"], *(part["bom-ref"] for part in made["components"])]
    assert len(set(references)) == len(references)
    assert made["dependencies"] == [{"ref": references[0], "dependsOn": references[1:]}]


def test_sums_are_those_of_sha256sum(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_text(name)
    (tmp_path / "SHA256SUMS").write_text(sums([tmp_path / "b", tmp_path / "a"]))
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "a: OK\nb: OK\n")


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_packages, "DIST", tmp_path)
    with pytest.raises(BuildError, match="make wheel"):
        newest_wheel()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for maker, tool in ((build_deb, "dpkg-deb"), (build_rpm, "rpmbuild")):
        with pytest.raises(BuildError, match=f"needs {tool}"):
            maker(tmp_path, tmp_path, "1")
