#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Debian packages and the wheel in, a container image with bpfence in it out: an OCI archive, without a container engine.

Run by `make image`. The image has two layers: what Debian has of Python, nsenter and a few commands, with what they need (but no setuid
programs), and bpfence with its extras for Kubernetes. apt finds and verifies the packages, of the release that
this runs on; pip the rest. The same packages make the same bytes: files have no times, and are root's. `podman load -i`, `skopeo copy
oci-archive:…` and `ctr image import` take it. deploy/image/Dockerfile makes much the same by an engine.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = (PYTHON, "util-linux", "coreutils", "libstdc++6")
"""util-linux has nsenter, coreutils what the chart's probes run; libstdc++ is what grpc wants."""
EXTRAS = "kubernetes,cri"
HOME = "opt/bpfence"
USERS = "root:x:0:0:root:/:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
COMMAND = f"#!/usr/bin/{PYTHON}\nimport sys\n\nfrom bpfence.cli.main import main\n\nsys.exit(main())\n"
MERGED = ("bin", "lib", "lib64", "sbin")
"""Folders that Debian has as links into usr."""
LEFT_OUT = re.compile(r"usr/share/(doc/.*(?<!/copyright)$|man/|info/|locale/|lintian/|bash-completion/)|.*/__pycache__/|.*/test/")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_LINE = re.compile(r"^'(?P<address>[^']+)' (?P<file>\S+) (?P<size>\d+)")


def packages(printed: str) -> list[str]:
    """name=version of each package in what `apt-get --print-uris` prints."""
    found = [match["file"] for match in map(_LINE.match, printed.splitlines()) if match is not None]
    return ["=".join(name.removesuffix(".deb").replace("%3a", ":").split("_")[:2]) for name in found]


def run(words: Sequence[str], **more: Any) -> str:
    """What a command prints."""
    printed: str = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, **more).stdout
    return printed


def unpack_debian(root: Path) -> None:
    """The packages, with all that they need, as their files are."""
    asked = ["apt-get", "-o", "Dir::State::status=/dev/null", "-o", "APT::Install-Recommends=false", "--print-uris", "-qq", "install"]
    wanted = packages(run([*asked, *PACKAGES]))
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    with tempfile.TemporaryDirectory() as folder:
        run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *wanted], cwd=folder)
        for package in sorted(Path(folder).glob("*.deb")):
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as files:
                run(["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(root)], stdin=files.stdout)
            if files.returncode:
                raise SystemExit(f"{package.name} cannot be unpacked")
    for name in ("passwd", "group"):
        (root / "etc" / name).write_text(USERS if name == "passwd" else "root:x:0:\nnobody:x:65534:\n")
    for name in ("tmp", "proc", "sys", "run", "dev", "var/lib/bpfence"):
        (root / name).mkdir(parents=True, exist_ok=True)


def install_wheel(root: Path, wheel: Path) -> None:
    """bpfence with its extras in a folder of its own, and the command."""
    run([sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", str(root / HOME), f"{wheel}[{EXTRAS}]"])
    shutil.rmtree(root / HOME / "bin", ignore_errors=True)  # commands with the path of this machine's Python
    (root / "usr" / "bin").mkdir(parents=True, exist_ok=True)
    command = root / "usr" / "bin" / "bpfence"
    command.write_text(COMMAND)
    command.chmod(0o755)


def layer(root: Path) -> bytes:
    """A folder as a layer: in order, without times and owners, and without programs that give anybody more than he has."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if LEFT_OUT.match(f"{name}/" if path.is_dir() else name):
                continue
            entry = archive.gettarinfo(path, name)
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            entry.mode &= 0o1777
            entry.pax_headers = {}
            if entry.islnk():  # each file by itself
                entry.type, entry.size = tarfile.REGTYPE, path.stat().st_size
            if entry.isreg():
                with path.open("rb") as file:
                    archive.addfile(entry, file)
            else:
                archive.addfile(entry)
    return out.getvalue()


def image(layers: Iterable[bytes], name: str, labels: Mapping[str, str]) -> dict[str, bytes]:
    """The files of an OCI archive: https://github.com/opencontainers/image-spec/blob/main/image-layout.md."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        files[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    plain = list(layers)
    packed = [blob(gzip.compress(data, 6, mtime=0), "layer.v1.tar+gzip") for data in plain]
    config = {
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {
            "Entrypoint": ["bpfence"],
            "Cmd": ["--help"],
            "Env": ["PATH=/usr/sbin:/usr/bin", f"PYTHONPATH=/{HOME}", "PYTHONDONTWRITEBYTECODE=1", "LANG=C.UTF-8"],
            "Labels": dict(labels),
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in plain]},
    }
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}
    whole = {**manifest, "config": blob(json.dumps(config).encode(), "config.v1+json"), "layers": packed}
    listed = {**blob(json.dumps(whole).encode(), "manifest.v1+json"), "annotations": {"org.opencontainers.image.ref.name": name}}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [listed]}).encode()
    return files


def write(files: Mapping[str, bytes], path: Path) -> None:
    """One archive of them."""
    with tarfile.open(path, "w") as archive:
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def main() -> int:
    """Make the image of the newest wheel in dist/, or of the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="the wheel (default: the newest in dist/)")
    parser.add_argument("--root", type=Path, help="leave the files of the image in this folder, too")
    options = parser.parse_args()
    wheels = sorted(DIST.glob(f"bpfence-*_{platform.machine()}.whl"), key=lambda path: path.stat().st_mtime)
    wheel = options.wheel or (wheels[-1] if wheels else None)
    missing = [name for name in ("apt-get", "dpkg-deb", "tar") if shutil.which(name) is None]
    if wheel is None or missing:
        print(f"needs {' and '.join(missing)}: Debian or Ubuntu" if missing else "needs the wheel: make wheel", file=sys.stderr)
        return 3
    version = wheel.name.split("-")[1]
    with tempfile.TemporaryDirectory() as folder:
        debian, own = Path(folder, "debian"), Path(folder, "own")
        unpack_debian(debian)
        install_wheel(own, wheel)
        layers = [layer(debian), layer(own)]
    if options.root is not None:
        for data in layers:
            options.root.mkdir(parents=True, exist_ok=True)
            subprocess.run(["tar", "-x", "--keep-directory-symlink", "-C", str(options.root)], input=data, check=True)
    labels = {"org.opencontainers.image.title": "bpfence", "org.opencontainers.image.version": version}
    target = DIST / f"bpfence-{version}-{ARCHITECTURES[platform.machine()]}.oci.tar"
    write(image(layers, f"localhost/bpfence:{version}", labels), target)  # containerd takes no name without a host
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
