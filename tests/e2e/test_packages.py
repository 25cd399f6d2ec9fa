# SPDX-License-Identifier: Apache-2.0
"""The packages that people install, made of the wheel of `make wheel`: the .deb into a throw-away root that is this machine's with all
changes in memory, and away again; the .rpm is looked at with rpm."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_package import built
from tools import build_packages
from tools.build_packages import ARCHITECTURES, PYTHON, build, sums

ROOTED = """
set -e
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
mount -t tmpfs none "$1/root/run"
mkdir -p "$1/root/given"
mount --bind "$2" "$1/root/given"
exec chroot "$1/root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 sh -c "$3"
"""
"""A shell in the root: a folder to make it in, one that is seen there as /given, and what to do."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """What `make dist` makes, in a folder of its own."""
    folder = tmp_path_factory.mktemp("dist")
    wheel = folder / built("whl").name
    shutil.copy(built("whl"), wheel)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(build_packages, "DIST", folder)
        yield build(["dist"], wheel, folder / "libraries")


def one(made: list[Path], kind: str) -> Path:
    found = [path for path in made if path.name.endswith(kind)]
    if not found:
        pytest.skip(f"no {kind} was made: dpkg-deb or rpmbuild is missing")
    return found[0]


def rooted(tmp_path: Path, given: Path, script: str) -> subprocess.CompletedProcess[str]:
    words = ["unshare", "-m", "--propagation", "private", "sh", "-c", ROOTED, "sh", str(tmp_path), str(given), script]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)


def test_the_deb_installs_works_and_goes(made: list[Path], tmp_path: Path) -> None:
    package = one(made, ".deb")
    if subprocess.run(["dpkg-query", "-W", f"python{PYTHON}"], capture_output=True, check=False).returncode:
        pytest.skip(f"this distribution has no package python{PYTHON}, which the .deb made here needs")
    if rooted(tmp_path, package.parent, "true").returncode:
        pytest.skip("needs root, and overlay file systems")
    script = f"""
set -e
dpkg --no-triggers -i /given/{package.name} >/dev/null
bpfence version --json
bpfence config check >&2
bpfence check /usr/share/doc/bpfence/examples/policies >&2
if command -v systemd-analyze >/dev/null; then systemd-analyze verify --man=no /usr/lib/systemd/system/bpfence.service >&2; fi
test -z "$(dpkg -V bpfence)"
test "$(stat -c %a /var/log/bpfence)" = 750
gunzip -c /usr/share/man/man1/bpfence-run.1.gz | grep -q 'SH OPTIONS'
bash -c '. /usr/share/bash-completion/completions/bpfence
    COMP_WORDS=(bpfence po) COMP_CWORD=1; _bpfence_completion bpfence po bpfence; echo "completed: ${{COMPREPLY[*]}}"'
bpfence config show | grep -q 'mode.*audit' && exit 3
for turn in 1 2; do sed -i 's/^# mode: audit/mode: audit/' /etc/bpfence/bpfence.yaml; bpfence config check >&2; done  # as the README says
dpkg --no-triggers -r bpfence >/dev/null
test ! -e /usr/lib/bpfence && test ! -e /usr/bin/bpfence
grep -q '^mode: audit' /etc/bpfence/bpfence.yaml
dpkg --no-triggers -P bpfence >/dev/null
test ! -e /etc/bpfence && test ! -e /var/log/bpfence
echo gone
"""
    done = rooted(tmp_path, package.parent, script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout[: done.stdout.index("}") + 1])["version"] == package.name.split("_")[1]
    assert "completed: pod policy" in done.stdout, done.stdout
    assert done.stdout.endswith("gone\n")


def test_the_deb_is_a_package_of_root_alone(made: list[Path]) -> None:
    package = one(made, ".deb")
    listed = subprocess.run(["dpkg-deb", "-c", str(package)], capture_output=True, text=True, check=True).stdout.splitlines()
    assert {line.split()[1] for line in listed} == {"root/root"}
    modes = {line.split()[5].removeprefix("."): line.split()[0] for line in listed}
    assert not [name for name, mode in modes.items() if "w" in mode[4:] or "s" in mode.lower()]
    assert modes["/usr/bin/bpfence"] == "-rwxr-xr-x"
    asked = subprocess.run(["dpkg-deb", "-f", str(package), "Architecture", "Depends"], capture_output=True, text=True, check=True).stdout
    assert f"Architecture: {ARCHITECTURES[platform.machine()]}\n" in asked
    assert f"python{PYTHON}" in asked


def test_the_rpm_holds_the_same(made: list[Path]) -> None:
    package, deb = one(made, ".rpm"), one(made, ".deb")

    def asked(*words: str) -> str:
        return subprocess.run(["rpm", "-qp", *words, str(package)], capture_output=True, text=True, check=True).stdout

    names = {name for name in asked("-l").splitlines() if not Path(name).name.startswith("_bpfence")}
    listed = subprocess.run(["dpkg-deb", "-c", str(deb)], capture_output=True, text=True, check=True).stdout
    of_deb = {line.split()[5].removeprefix(".").rstrip("/") for line in listed.splitlines()}
    files = {name for name in of_deb if "bpfence" in name and not Path(name).name.startswith("_bpfence")}
    assert files == names
    assert asked("--configfiles").split() == ["/etc/bpfence/bpfence.yaml"]
    assert f"/usr/bin/python{PYTHON}" in asked("--requires")
    assert "systemctl disable --now bpfence.service" in asked("--scripts")


def test_a_release_is_whole(made: list[Path]) -> None:
    total = next(path for path in made if path.name == "SHA256SUMS")
    done = subprocess.run(["sha256sum", "--quiet", "-c", total.name], cwd=total.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert total.read_text() == sums([path for path in made if path != total])
    listed = json.loads(one(made, ".cdx.json").read_text())
    names = {part["name"] for part in listed["components"]}
    assert {"click", "msgspec", "pyyaml", "google-re2", "grpcio"} <= names
    assert any(name.startswith("libbpf") for name in names)
    assert all("version" in part for part in listed["components"] if part["type"] == "library")
