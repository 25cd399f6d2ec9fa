# SPDX-License-Identifier: Apache-2.0
"""What is known, kept in a file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from bpfence.k8s import cache
from bpfence.k8s.cache import Keeper, Kept, Known, load, save
from bpfence.workloads.model import Namespace, Pod
from tests.unit.k8s.samples import SECRET, made
from tests.unit.k8s.server import until

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


def test_what_has_changed_is_kept_at_once_where_asked_for(tmp_path: Path) -> None:
    asked: list[None] = []
    keeper = Keeper(tmp_path / "k.json", lambda: asked.append(None) or KNOWN, pytest.fail)  # type: ignore[func-returns-value]
    keeper.save()
    assert not asked
    keeper.changed()
    keeper.save()
    keeper.save()
    assert len(asked) == 1
    assert load(tmp_path / "k.json", "n1") == KNOWN


def test_who_asks_while_it_is_being_kept_waits_for_it(tmp_path: Path) -> None:
    """Whoever goes on after `save` has what was changed before in the file, whichever thread has kept it."""
    began, go_on = threading.Event(), threading.Event()

    def known() -> Known:
        began.set()
        assert go_on.wait(60)
        return KNOWN

    keeper = Keeper(tmp_path / "k.json", known, pytest.fail)
    keeper.changed()
    threads = [threading.Thread(target=keeper.save) for _ in range(2)]
    threads[0].start()
    assert began.wait(60)
    threads[1].start()
    threads[1].join(0.05)
    assert threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert load(tmp_path / "k.json", "n1") == KNOWN


def test_it_is_kept_in_the_end_by_a_thread_too(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "k.json", lambda: KNOWN, pytest.fail)
    keeper.start()
    keeper.changed()
    until((tmp_path / "k.json").exists)
    os.unlink(tmp_path / "k.json")
    keeper.changed()
    keeper.close()
    assert load(tmp_path / "k.json", "n1") == KNOWN


def test_what_cannot_be_kept_is_told_once_and_again_after_it_was(tmp_path: Path) -> None:
    told: list[str] = []
    keeper = Keeper(tmp_path / "away" / "k.json", lambda: KNOWN, told.append)
    for _ in range(2):
        keeper.changed()
        keeper.save()
    assert len(told) == 1
    (tmp_path / "away").mkdir(mode=0o700)
    for step in range(2):
        keeper.changed()
        keeper.save()
        if step == 0:
            (tmp_path / "away" / "k.json").unlink()
            (tmp_path / "away").rmdir()
    assert len(told) == 2


def test_without_a_file_nothing_is_kept() -> None:
    keeper = Keeper(None, lambda: pytest.fail("asked"), pytest.fail)
    keeper.start()
    keeper.changed()
    keeper.save()
    keeper.close()
