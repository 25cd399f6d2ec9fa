#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The wheel in, a .deb, an .rpm and what a release is made of out, all in dist/.

Run by `make deb`, `make rpm` and `make dist`. A package has bpfence and the libraries of Python that it needs in a folder of its own, so
that it runs with the distribution's Python alone, of the version that this runs on; and the command, the unit of systemd, manual pages,
completion and a first configuration. dpkg-deb and rpmbuild make the archives. The same inputs make the same .deb: times are that of the
last commit.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bpfence.host import units
from tools import build_man

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
HOME = Path("usr/lib/bpfence")
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
EXTRAS = "cri,metrics"
SYSTEMD: Final = 252
"""Of Debian 12 and RHEL 9, the oldest that packages are for."""
LIBC: Final = "2.34"
SUMMARY = "Runtime security for Linux: policies decided by eBPF programs in the kernel"
DESCRIPTION = """\
bpfence reads security policies (its own, Falco's rules, Tetragon's and KubeArmor's policies, seccomp profiles), compiles them into
tables, and lets small eBPF programs allow, report, deny or kill inside the kernel."""
HOMEPAGE = "https://bpfence.io"
MAINTAINER = "The bpfence developers"
COMMAND = f"""\
#!/usr/bin/python{PYTHON} -I
import sys

sys.path.insert(0, "/{HOME}")

from bpfence.cli.main import main

sys.exit(main())
"""
COMPLETION: Mapping[str, Mapping[str, str]] = {
    "deb": {
        "bash": "usr/share/bash-completion/completions/bpfence",
        "zsh": "usr/share/zsh/vendor-completions/_bpfence",
        "fish": "usr/share/fish/vendor_completions.d/bpfence.fish",
    },
    "rpm": {
        "bash": "usr/share/bash-completion/completions/bpfence",
        "zsh": "usr/share/zsh/site-functions/_bpfence",
        "fish": "usr/share/fish/vendor_completions.d/bpfence.fish",
    },
}
CONFIG = "etc/bpfence/bpfence.yaml"
LOGS = "var/log/bpfence"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_HERE = "[ -d /run/systemd/system ]"
SCRIPTS: Mapping[str, str] = {
    "postinst": f"""\
#!/bin/sh
set -e
if [ "$1" = configure ] && {_HERE}; then
    systemctl daemon-reload
    # After an upgrade: `keep: true` in the configuration leaves what is in force until the new agent has taken over.
    if [ -n "$2" ]; then systemctl try-restart bpfence.service || echo "bpfence: not restarted; see journalctl -u bpfence" >&2; fi
fi
""",
    "prerm": f"""\
#!/bin/sh
set -e
if [ "$1" = remove ]; then
    if {_HERE}; then systemctl disable --now bpfence.service || true; fi
    # With `keep: true` what is enforced outlives the agent, and nobody could end it when the command is gone.
    bpfence unload >/dev/null || true
fi
""",
    "postrm": f"""\
#!/bin/sh
set -e
if {_HERE}; then systemctl daemon-reload || true; fi
if [ "$1" = purge ]; then
    rm -rf /var/lib/bpfence /var/cache/bpfence /var/log/bpfence /run/bpfence
    rmdir --ignore-fail-on-non-empty /etc/bpfence/policies /etc/bpfence 2>/dev/null || true
fi
""",
}
"""Of the .deb. The service is not started by itself: there is no policy yet."""


class BuildError(Exception):
    """Something is missing or failed; the message is for the user."""


def run(words: Sequence[str | Path], **more: Any) -> str:
    """What a command prints. BuildError where it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, **more)
    if done.returncode:
        raise BuildError(f"{' '.join(map(str, words))} failed:\n{done.stdout}{done.stderr}")
    return str(done.stdout)


def put(root: Path, name: str, data: str | bytes, mode: int = 0o644) -> None:
    """One file of a package."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    path.chmod(mode)


def libraries(root: Path, wheel: Path) -> None:
    """bpfence and what it needs of Python, compiled, without commands: all that takes its time, made once for every package."""
    run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--no-compile",
            "--target",
            root / HOME,
            f"{wheel}[{EXTRAS}]",
        ]
    )
    shutil.rmtree(root / HOME / "bin", ignore_errors=True)
    for path in sorted((root / HOME).rglob("direct_url.json")):
        path.unlink()  # where the wheel lay on this machine
    for path in sorted((root / HOME).rglob("RECORD")):
        path.unlink()  # nothing but pip reads it, and pip is not to change this folder
    # -s: no traceback names a folder of this machine; the hash in place of a time: the same bytes of the same sources.
    compiling: list[str | Path] = ["-m", "compileall", "-q", "-s", root, "-p", "/", "--invalidation-mode", "unchecked-hash", root / HOME]
    run([sys.executable, *compiling])


def tree(root: Path, made: Path, wheel: Path, kind: str) -> None:
    """All files of a package of a `kind`: deb or rpm. `made`: where `libraries` has put its own."""
    shutil.copytree(made, root)
    put(root, "usr/bin/bpfence", COMMAND, 0o755)
    text = units.unit(["/usr/bin/bpfence", "run"], notifies_reload=SYSTEMD >= units.NOTIFIES_RELOAD)
    put(root, str(units.PACKAGED.relative_to("/") / units.NAME), text.removeprefix(units.MARK + "\n"))
    for shell, name in COMPLETION[kind].items():
        put(root, name, run([sys.executable, "-m", "bpfence", "completion", shell], cwd=ROOT))
    with tempfile.TemporaryDirectory() as folder:
        for page in build_man.build(Path(folder)):
            put(root, f"usr/share/man/man1/{page.name}.gz", gzip.compress(page.read_bytes(), 9, mtime=0))
    put(root, CONFIG, units.CONFIG)
    (root / "etc/bpfence/policies").mkdir()
    (root / LOGS).mkdir(parents=True)
    documents = root / "usr/share/doc/bpfence"
    documents.mkdir(parents=True)
    shutil.copytree(ROOT / "examples", documents / "examples")
    shutil.copy(ROOT / "LICENSE", documents / "copyright")
    put(root, "usr/share/doc/bpfence/changelog.gz", gzip.compress((ROOT / "CHANGELOG.md").read_bytes(), 9, mtime=0))
    put(root, "usr/share/doc/bpfence/bpfence.cdx.json", json.dumps(sbom(root / HOME, wheel), indent=1) + "\n")
    modes(root)


def modes(root: Path) -> None:
    """The modes of a package's files, whatever the mask of whoever builds it."""
    for path in (root, *root.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o750 if path == root / LOGS else 0o755)
        elif path.is_file() and not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def sbom(home: Path, wheel: Path) -> dict[str, Any]:
    """What is in a package, Python's libraries and those that the wheel bundles: https://cyclonedx.org/docs/1.5/json/."""
    found = sorted(importlib.metadata.distributions(path=[str(home)]), key=lambda one: one.metadata["Name"].lower())
    own = next(one for one in found if one.metadata["Name"] == "bpfence")
    parts = [_component(one) for one in found if one is not own]
    parts += [
        {"type": "file", "bom-ref": f"file:{path.name}", "name": path.name, "hashes": [{"alg": "SHA-256", "content": _digest(path)}]}
        for path in sorted((home / "bpfence.libs").glob("*.so*"))
    ]
    whole = {**_component(own), "type": "application", "hashes": [{"alg": "SHA-256", "content": _digest(wheel)}]}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": whole},
        "components": parts,
        "dependencies": [{"ref": whole["bom-ref"], "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def _component(one: importlib.metadata.Distribution) -> dict[str, Any]:
    name = one.metadata["Name"].lower().replace("_", "-")
    address = f"pkg:pypi/{name}@{one.version}"
    found = {"type": "library", "bom-ref": address, "name": name, "version": one.version, "purl": address}
    said = [*(one.metadata.get_all("License-Expression") or ()), *(one.metadata.get_all("License") or ())]
    licence = str(said[0]).split("\n")[0][:100] if said else ""
    if not licence:
        classes = [line.rpartition(" :: ")[2] for line in one.metadata.get_all("Classifier") or () if line.startswith("License :: ")]
        licence = " AND ".join(classes)
    return found | ({"licenses": [{"license": {"name": licence}}]} if licence else {})


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def control(version: str, size: int) -> str:
    """The control file of the .deb: deb-control(5). `size`: KiB that it takes."""
    following = f"{sys.version_info.major}.{sys.version_info.minor + 1}"
    lines = {
        "Package": "bpfence",
        "Version": version,
        "Architecture": ARCHITECTURES[platform.machine()],
        "Maintainer": MAINTAINER,
        "Installed-Size": str(size),
        "Depends": f"python{PYTHON}, python3 (>= {PYTHON}), python3 (<< {following}), libc6 (>= {LIBC}), libstdc++6",
        "Section": "admin",
        "Priority": "optional",
        "Homepage": HOMEPAGE,
        "Description": SUMMARY + "".join(f"\n {line}" for line in DESCRIPTION.splitlines()),
    }
    return "".join(f"{name}: {value}\n" for name, value in lines.items())


def build_deb(made: Path, wheel: Path, version: str) -> Path:
    """The .deb, by dpkg-deb(1)."""
    if shutil.which("dpkg-deb") is None:
        raise BuildError("needs dpkg-deb: apt-get install dpkg")
    target = DIST / f"bpfence_{version}_{ARCHITECTURES[platform.machine()]}.deb"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        tree(root, made, wheel, "deb")
        files = [path for path in sorted(root.rglob("*")) if path.is_file()]
        size = sum(path.stat().st_size for path in files) // 1024
        sums = "".join(f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(root)}\n" for path in files)
        put(root, "DEBIAN/control", control(version, size))
        put(root, "DEBIAN/conffiles", f"/{CONFIG}\n")
        put(root, "DEBIAN/md5sums", sums)
        for name, script in SCRIPTS.items():
            put(root, f"DEBIAN/{name}", script, 0o755)
        run(
            ["dpkg-deb", "--root-owner-group", "-Zzstd", "-z10", "--build", root, target], env={**os.environ, "SOURCE_DATE_EPOCH": moment()}
        )
    return target


def spec(version: str, root: Path, files: Iterable[str]) -> str:
    """The spec file of the .rpm, of a tree that is there already. `files`: its list, as %files has it."""
    listed = "\n".join(files)
    return f"""\
Name: bpfence
Version: {version}
Release: 1
Summary: {SUMMARY}
License: Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)
URL: {HOMEPAGE}
AutoReqProv: no
Requires: /usr/bin/python{PYTHON}, libstdc++.so.6()(64bit), systemd
%global debug_package %{{nil}}
%global __os_install_post %{{nil}}
%global _build_id_links none

%description
{DESCRIPTION}

%install
cp -a {root}/. %{{buildroot}}/

%post
if {_HERE}; then
    systemctl daemon-reload
    if [ "$1" -gt 1 ]; then systemctl try-restart bpfence.service || :; fi
fi

%preun
if [ "$1" -eq 0 ]; then
    if {_HERE}; then systemctl disable --now bpfence.service || :; fi
    bpfence unload >/dev/null || :
fi

%postun
if {_HERE}; then systemctl daemon-reload || :; fi

%files
%defattr(-,root,root,-)
{listed}
"""


def build_rpm(made: Path, wheel: Path, version: str) -> Path:
    """The .rpm, by rpmbuild(8)."""
    if shutil.which("rpmbuild") is None:
        raise BuildError("needs rpmbuild: apt-get install rpm")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        tree(root, made, wheel, "rpm")
        listed = [
            f"/{HOME}",
            "/usr/bin/bpfence",
            f"{units.PACKAGED / units.NAME}",
            "/usr/share/doc/bpfence",
            "/usr/share/man/man1/bpfence*",
        ]
        listed += [f"/{name}" for name in COMPLETION["rpm"].values()]
        listed += [
            f"%config(noreplace) /{CONFIG}",
            "%dir /etc/bpfence",
            "%dir /etc/bpfence/policies",
            "%dir %attr(0750,root,root) /var/log/bpfence",
        ]
        put(Path(folder), "bpfence.spec", spec(version, root, listed))
        settings = (
            f"_topdir {folder}/top",
            "_rpmdir %{_topdir}/made",
            "use_source_date_epoch_as_buildtime 1",
            "_binary_payload w10.zstdio",
        )
        defined = [word for setting in settings for word in ("--define", setting)]
        given = {**os.environ, "SOURCE_DATE_EPOCH": moment()}
        run(["rpmbuild", "-bb", "--quiet", *defined, Path(folder, "bpfence.spec")], env=given)
        [built] = Path(folder, "top", "made").rglob("*.rpm")
        target = DIST / built.name
        shutil.copy(built, target)
    return target


def moment() -> str:
    """When the last commit was made, in seconds since 1970; of a tree without history 0."""
    try:
        return run(["git", "log", "-1", "--format=%ct"], cwd=ROOT).strip() or "0"
    except (BuildError, OSError):
        return "0"


def sums(files: Iterable[Path]) -> str:
    """Their SHA-256, as `sha256sum -c` takes it."""
    return "".join(f"{_digest(path)}  {path.name}\n" for path in sorted(files))


def newest_wheel() -> Path:
    """The newest one in dist/ for this machine."""
    found = sorted(DIST.glob(f"bpfence-*_{platform.machine()}.whl"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise BuildError("needs the wheel: make wheel")
    return found[-1]


def build(what: Collection[str], wheel: Path, folder: Path) -> list[Path]:
    """What is asked for. `folder`: where the libraries are put, for all of it. BuildError."""
    version = wheel.name.split("-")[1]
    made: list[Path] = []
    folder.mkdir(mode=0o755)
    libraries(folder, wheel)
    for kind, maker in (("deb", build_deb), ("rpm", build_rpm)):
        try:
            made += [maker(folder, wheel, version)] if {kind, "dist"}.intersection(what) else []
        except BuildError as error:
            if kind in what or not str(error).startswith("needs "):
                raise
            print(f"no {kind}: {error}", file=sys.stderr)
    if "dist" in what:
        listed = DIST / f"bpfence-{version}.cdx.json"
        listed.write_text(json.dumps(sbom(folder / HOME, wheel), indent=1) + "\n", encoding="utf-8")
        made = [wheel, *DIST.glob(f"bpfence-{version}.tar.gz"), *made, listed]
        total = DIST / "SHA256SUMS"
        total.write_text(sums(made), encoding="utf-8")
        made.append(total)
    return made


def main() -> int:
    """Make what is asked for of the newest wheel in dist/, or of the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="+", choices=["deb", "rpm", "dist"])
    parser.add_argument("--wheel", type=Path, help="the wheel (default: the newest in dist/)")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for path in build(options.what, options.wheel or newest_wheel(), Path(folder, "libraries")):
                print(path)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
