# SPDX-License-Identifier: Apache-2.0
"""Whether somebody listens at a socket, and sockets that only their owner reaches."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from bpfence.errors import KernelError, UsageError
from bpfence.host import sockets
from bpfence.host.sockets import Peer, checked, listening, listening_alone, listens, number_of_group, number_of_user, peer, safe_folder


def test_somebody_listens_or_has_gone_or_was_never_there(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    assert listens(path) is False
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        assert listens(path) is True
    assert listens(path) is False


def test_a_socket_is_its_owners_alone_from_the_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sock"
    path.write_text("left by another")
    seen = []

    class Socket(socket.socket):
        def listen(self, backlog: int = 1, /) -> None:
            seen.append(stat.S_IMODE(os.stat(path).st_mode))
            super().listen(backlog)

    monkeypatch.setattr(sockets.socket, "socket", Socket)
    before = os.umask(0)
    try:
        with listening(path, 1):
            assert listens(path) is True
    finally:
        os.umask(before)
    assert seen == [0o600]


def test_a_place_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with listening_alone(path, 1), pytest.raises(OSError, match="another process listens there"):
        listening_alone(path, 1)
    listening_alone(path, 1).close()  # nobody listens there any more
    path.unlink()
    path.symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="something else is there"):
        listening_alone(path, 1)


def test_who_connects_is_known() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer(ours) == Peer(os.getpid(), os.geteuid(), os.getegid())


def test_users_and_groups_have_numbers() -> None:
    assert number_of_group("root") == number_of_user("root") == 0
    assert (number_of_group("12"), number_of_user("13")) == (12, 13)
    with pytest.raises(UsageError, match="there is no group"):
        number_of_group("nobody-has-this")
    with pytest.raises(UsageError, match="there is no user"):
        number_of_user("nobody-has-this")
    with pytest.raises(UsageError, match="longer than the 107 bytes"):
        checked(Path("/" + "x" * 107))


def test_a_folder_is_made_or_has_to_be_safe(tmp_path: Path) -> None:
    assert stat.S_IMODE(safe_folder(tmp_path / "new" / "own", None).st_mode) == 0o700
    assert stat.S_IMODE(safe_folder(tmp_path / "new" / "shared", os.getegid()).st_mode) == 0o2750
    (tmp_path / "file").write_text("")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for path in (tmp_path / "file", tmp_path / "open"):
        with pytest.raises(KernelError, match="only root writes"):
            safe_folder(path, None)


@pytest.mark.parametrize("name", ["\u00b2", "99999999999", "-1", "", "nobody-has-this"])
def test_what_is_neither_name_nor_number_is_no_group_and_no_user(name: str) -> None:
    with pytest.raises(UsageError, match="there is no group"):
        number_of_group(name)
    with pytest.raises(UsageError, match="there is no user"):
        number_of_user(name)
