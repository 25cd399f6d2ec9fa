# SPDX-License-Identifier: Apache-2.0
"""What an image is made of; apt, pip and engines are not asked here."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

from tools.build_image import image, layer, packages, write

PRINTED = """\
'http://mirror.example/pool/g/gcc-12-base_12.2.0-14%2bdeb12u1_amd64.deb' gcc-12-base_12.2.0-14+deb12u1_amd64.deb 37596 MD5Sum:0
'http://mirror.example/pool/a/libattr1_2.5.1-4_amd64.deb' libattr1_1%3a2.5.1-4_amd64.deb 22164 MD5Sum:0
NOTE: something else
"""


def made(root: Path, moment: int) -> bytes:
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/su").write_text("x")
    (root / "usr/bin/su").chmod(0o4755)
    os.link(root / "usr/bin/su", root / "usr/bin/sudo")
    (root / "usr/share/doc/a").mkdir(parents=True)
    (root / "usr/share/doc/a/copyright").write_text("mine")
    (root / "usr/share/doc/a/README").write_text("long")
    for path in root.rglob("*"):
        os.utime(path, (moment, moment), follow_symlinks=False)
    return layer(root)


def test_packages_with_their_versions() -> None:
    assert packages(PRINTED) == ["gcc-12-base=12.2.0-14+deb12u1", "libattr1=1:2.5.1-4"]


def test_a_layer_has_no_times_no_owners_and_no_setuid_programs(tmp_path: Path) -> None:
    data = made(tmp_path / "a", 1_000_000_000)
    assert data == made(tmp_path / "b", 1_500_000_000), "the same files are the same bytes"
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {entry.name: entry for entry in archive}
        sudo = archive.extractfile("usr/bin/sudo")
        assert sudo is not None
        assert sudo.read() == b"x"
    assert found["usr/bin/su"].mode == 0o755
    assert {(entry.uid, entry.gid, entry.mtime, entry.uname) for entry in found.values()} == {(0, 0, 0, "")}
    assert found["bin"].linkname == "usr/bin"
    assert "usr/share/doc/a/copyright" in found
    assert "usr/share/doc/a/README" not in found


def test_an_archive_whose_parts_name_each_other(tmp_path: Path) -> None:
    layers = [b"one", b"two"]
    write(image(layers, "bpfence:1", {"a": "b"}), tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as archive:
        files = {entry.name: (archive.extractfile(entry) or io.BytesIO()).read() for entry in archive}

    def blob(descriptor: dict[str, str | int]) -> bytes:
        data = files["blobs/sha256/" + str(descriptor["digest"]).removeprefix("sha256:")]
        assert len(data) == descriptor["size"]
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == descriptor["digest"]
        return data

    [listed] = json.loads(files["index.json"])["manifests"]
    assert listed["annotations"]["org.opencontainers.image.ref.name"] == "bpfence:1"
    manifest = json.loads(blob(listed))
    config = json.loads(blob(manifest["config"]))
    assert [gzip.decompress(blob(one)) for one in manifest["layers"]] == layers
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in layers]
    assert config["config"]["Entrypoint"] == ["bpfence"]
