# SPDX-License-Identifier: Apache-2.0
"""What is known, kept in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfence.k8s import cache
from bpfence.k8s.cache import Kept, Known, load, save
from bpfence.workloads.model import Namespace, Pod
from tests.unit.k8s.samples import SECRET, made

KNOWN = Known(
    "n1",
    [Kept(made(generation=2), made(SECRET)), Kept(made(namespace=""))],
    {"u": Pod("web", "shop", "u", {"a": "b"})},
    {"shop": Namespace({"c": "d"}, {"kubearmor-file-posture": "block"})},
)


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    save(tmp_path / "k.json", KNOWN)
    assert load(tmp_path / "k.json", "n1") == KNOWN
    assert (tmp_path / "k.json").stat().st_mode & 0o777 == 0o600


def test_nothing_is_known_without_a_file_or_by_another_node_or_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(tmp_path / "k.json", "n1") == Known("n1")
    save(tmp_path / "k.json", KNOWN)
    assert load(tmp_path / "k.json", "n2") == Known("n2")
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert load(tmp_path / "k.json", "n1").policies == []


@pytest.mark.parametrize("data", [b"", b"{", b'{"version": %d, "node": "n1", "policies": 5}' % cache.VERSION, b"[" * 100_000])
def test_a_broken_file_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "k.json").write_bytes(data)
    (tmp_path / "k.json").chmod(0o600)
    with pytest.raises(OSError, match="cannot be understood"):
        load(tmp_path / "k.json", "n1")


def test_a_file_that_others_may_write_is_not_read(tmp_path: Path) -> None:
    save(tmp_path / "k.json", KNOWN)
    (tmp_path / "k.json").chmod(0o666)
    with pytest.raises(OSError, match="private"):
        load(tmp_path / "k.json", "n1")


def test_more_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_CACHE", 10)
    with pytest.raises(OSError, match="larger"):
        save(tmp_path / "k.json", KNOWN)
